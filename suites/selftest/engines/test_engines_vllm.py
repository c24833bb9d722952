"""vLLM's worker: what is sent and read, what dies with what, and, where the environment is there, answers and scores."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import environments
from harness.engines import available, open_engine
from harness.engines.loaded import loaded_from
from harness.engines.scoring import Branch
from harness.engines.vllm import VLLM, Worker, _positions
from harness.engines.vllm_worker import Extension, Served, _seed
from harness.errors import EngineError, MissingNeed, SubjectError
from harness.types import Prompt, Sampling, Scored

pytestmark = pytest.mark.selftest

REAL = [sys.executable, "-m", "harness.engines.vllm_worker"]  # its process, without vLLM: nothing is opened


def gone(check, seconds=30.0):
    """Waits until ``check`` is true; the limit is for a machine that hangs, not a bound on anything."""
    until = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < until
        time.sleep(0.02)


def running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# --- a scripted worker -----------------------------------------------------------------------


@pytest.fixture
def scripted(tmp_path):
    """Workers whose answers are a script: ``send`` writes bytes, ``calls`` reads what was asked."""
    opened: list[Worker] = []
    head = "import json, os, socket, subprocess, sys, time\n"
    head += "s = socket.socket(fileno=int(sys.argv[1]))\nsend, calls = s.sendall, s.makefile('rb')\n"

    def start(body, timeout=30.0):
        script = tmp_path / f"worker{len(opened)}.py"
        script.write_text(head + body)
        opened.append(Worker([sys.executable, str(script)], dict(os.environ), "the folder", timeout))
        return opened[-1]

    yield start
    for worker in opened:
        worker.close()
        assert not worker.folder.exists()
        assert not running(worker.pid)


ECHO = """
for line in calls:
    call = json.loads(line)
    send(b'{"alive": 1}\\n')
    send(json.dumps({"result": call}).encode()[:7])
    send(json.dumps({"result": call}).encode()[7:] + b'\\n')
"""


def test_answers_come_in_pieces_between_signs_of_life(scripted):
    worker = scripted(ECHO)
    text = "a line\nbreak, \ud800 half a surrogate, \N{SNOWMAN}"
    for i in range(3):
        assert worker.call("ask", i=i, text=text) == {"call": "ask", "i": i, "text": text}
    assert worker.alive


@pytest.mark.parametrize(("kind", "expected"), [("SubjectError", SubjectError), ("EngineError", EngineError), ("OSError", EngineError)])
def test_errors_are_raised_here_and_the_worker_lives(scripted, kind, expected):
    worker = scripted(f"for line in calls: send(json.dumps({{'error': [{kind!r}, 'what it said']}}).encode() + b'\\n')")
    for _ in range(2):
        with pytest.raises(expected, match="what it said"):
            worker.call("ask")
    assert worker.alive


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("next(calls); print('last words', flush=True); os.kill(os.getpid(), 11)", "died during 'ask' by signal SIGSEGV"),
        ("next(calls); print('last words', flush=True); sys.exit(7)", "died during 'ask' with status 7"),
        ("next(calls); print('last words', flush=True); send(b'\\xff\\xfe[1]\\n'); time.sleep(60)", "which is no message"),
        ("next(calls); print('last words', flush=True); send(b'[1, 2]\\n'); time.sleep(60)", "which is no message"),
        ("next(calls); print('last words', flush=True); send(b'{\"other\": 1}\\n'); time.sleep(60)", "which is no message"),
        (
            'next(calls); print(\'last words\', flush=True); send(b\'{"error": ["", "no more"], "over": true}\\n\'); time.sleep(60)',
            "no more",
        ),
        ("next(calls); print('last words', flush=True); send(b'{\"result\"'); sys.exit()", "died during 'ask' with status 0"),
    ],
)
def test_a_worker_that_fails_is_ended_and_quoted(scripted, body, said):
    worker = scripted(body)
    with pytest.raises(EngineError, match="the folder: ") as caught:
        worker.call("ask")
    assert said in str(caught.value)
    assert "last words" in str(caught.value)
    assert not worker.alive
    assert not running(worker.pid)
    assert not worker.folder.exists()
    with pytest.raises(EngineError, match="is closed"):
        worker.call("ask")


def test_silence_is_noticed(scripted):
    worker = scripted("print('still here', flush=True)\nnext(calls); time.sleep(600)", timeout=1.0)
    with pytest.raises(EngineError, match="no sign of life for 1 s during 'ask'"):
        worker.call("ask")
    assert not running(worker.pid)


def test_interruption_ends_the_worker(scripted):
    """An answer that comes after Ctrl-C must not be taken for that of the next call."""
    worker = scripted("next(calls); os.kill(os.getppid(), 2); time.sleep(600)")
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            worker.call("ask")
    finally:
        signal.signal(signal.SIGINT, before)
    assert not worker.alive
    assert not running(worker.pid)


def test_what_the_worker_started_ends_with_it(scripted):
    worker = scripted(
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "for line in calls: send(json.dumps({'result': child.pid}).encode() + b'\\n')"
    )
    child = worker.call("ask")
    assert running(child)
    worker.close()
    worker.close()
    gone(lambda: not running(child))


def test_a_forgotten_worker_is_ended(scripted):
    worker = Worker([sys.executable, "-c", "import time; time.sleep(600)"], dict(os.environ), "x", 5.0)
    pid, folder = worker.pid, worker.folder
    del worker
    assert not running(pid)
    assert not folder.exists()


def test_no_such_interpreter(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    with pytest.raises(EngineError, match="cannot be started"):
        Worker(["/no/such/python"], {}, "x", 5.0)
    assert not list(tmp_path.iterdir())


def test_arrays_are_read_once_and_never_unpickled(scripted):
    import numpy as np

    worker = scripted(ECHO)
    np.save(worker.folder / "0.npy", np.arange(6, dtype=np.float32).reshape(2, 3))
    assert worker.array("0.npy").tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not (worker.folder / "0.npy").exists()
    np.save(worker.folder / "1.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        worker.array("1.npy")


# --- the worker's own side of it -----------------------------------------------------------------


def test_killed_parent_leaves_nothing():
    """The process that asks is killed without a chance to clean up: worker, its children and the folder go too."""
    script = f"""
import sys, time
from harness.engines.vllm import Worker
import os
worker = Worker({REAL!r}, dict(os.environ), "x", 30.0)
try:
    worker.call("tokenize", text="before anything is open")
except Exception as error:  # the loop runs, and says so
    print(worker.pid, worker.folder, type(error).__name__, flush=True)
time.sleep(600)
"""
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent.stdout:
        pid, folder, kind = parent.stdout.readline().split()
    assert kind == "EngineError"
    assert running(int(pid))
    assert Path(folder).is_dir()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    gone(lambda: not running(int(pid)))
    gone(lambda: not Path(folder).exists())


def test_worker_sees_this_package_and_nothing_beside_it(scripted):
    worker = scripted(
        "import harness\nfor line in calls: send(json.dumps({'result': [harness.__file__, os.environ['PYTHONPATH']]}).encode() + b'\\n')"
    )
    file, path = worker.call("ask")
    assert Path(file).resolve() == Path(environments.__file__).resolve().parent / "__init__.py"
    assert [p.name for p in Path(path).iterdir() if p.is_dir()] == ["harness"]


def test_interpreter_without_vllm_says_so(tiny_folder, monkeypatch):
    monkeypatch.setattr("harness.engines.vllm.python", lambda name: Path(sys.executable))
    with pytest.raises(EngineError, match="No module named 'vllm'"):
        VLLM(tiny_folder)


def test_absent_environment_is_a_missing_need(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("HARNESS_PYTHON_VLLM", raising=False)
    monkeypatch.setenv("HARNESS_ENVIRONMENTS", str(tmp_path))
    assert "doctor --install vllm" in str(available("vllm"))
    with pytest.raises(MissingNeed, match="doctor --install vllm"):
        open_engine("vllm", tiny_folder)


@pytest.mark.parametrize("options", [{"dtype": "float16"}, {"threads": 0}, {"batch_items": 0}, {"cache_bytes": 0}])
def test_options_are_checked_first(tiny_folder, options):
    with pytest.raises(EngineError, match="expected"):
        VLLM(tiny_folder, **options)


def test_folders_are_checked_first(tmp_path, tiny_folder):
    with pytest.raises(SubjectError, match=r"config\.json"):
        VLLM(tmp_path)
    (tmp_path / "config.json").write_text((tiny_folder / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((tiny_folder / "model.safetensors").read_bytes()[:-1])
    with pytest.raises(SubjectError, match="truncated"):
        VLLM(tmp_path)


@given(st.integers(), st.integers(), st.text())
@settings(derandomize=True, deadline=None)
def test_seeds_are_63_bits_and_depend_on_each_part(a, b, name):
    assert 0 <= _seed(a, b, name) < 2**63
    assert len({_seed(a, b, name), _seed(a, b, name + "x"), _seed(a, b + 1, name), _seed(a + 1, b, name)}) == 4


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"text_config": {"max_position_embeddings": 99}}, 99),
        ({}, 4096),
        ({"text_config": 3}, 4096),
    ],
)
def test_positions(config, expected):
    assert _positions(config) == expected


class Words:
    """A tokenizer whose token 7 is an end token; others decode to their number."""

    def decode(self, tokens, **_):
        return " ".join(map(str, tokens))


def served(**parts):
    made = object.__new__(Served)
    made.__dict__.update({"_tokenizer": Words(), "_ends": frozenset({7}), "_size": 4, "_limit": 10, **parts})
    return made


def output(tokens, finish):
    return SimpleNamespace(outputs=[SimpleNamespace(token_ids=tokens, finish_reason=finish)])


@pytest.mark.parametrize(
    ("tokens", "finish", "stop", "expected"),
    [
        ([1, 2, 7], "stop", (), ("1 2", "stop", 2)),
        ([7], "stop", (), ("", "stop", 0)),
        ([1, 2], "length", (), ("1 2", "length", 2)),
        ([1, 2, 3], "stop", ("", "2"), ("1 ", "stop", 3)),
        ([1, 2], "abort", (), ("1 2", "error", 2)),
    ],
)
def test_an_answer_is_read_from_its_tokens(tokens, finish, stop, expected):
    found = served()._answer("a", [5], output(tokens, finish), Sampling(stop=stop))
    assert (found.text, found.finish, found.tokens) == expected
    assert bool(found.error) == (finish == "abort")


class Sampler:
    def gather_logprobs(self, scores, number, tokens):
        return scores.argmax(-1), number, tokens


def test_distributions_are_kept_while_asked_for():
    torch = pytest.importorskip("torch")
    worker = Extension()
    worker.model_runner = SimpleNamespace(sampler=Sampler())
    sampler = worker.model_runner.sampler
    first, second = torch.rand(2, 4).bfloat16(), torch.rand(1, 4)
    worker.harness_keep(True)
    assert sampler.gather_logprobs(first, 0, "x")[1:] == (0, "x")  # the answer passes through
    sampler.gather_logprobs(second, 0, tokens="y")
    first.zero_()  # vLLM may use the memory again
    kept = worker.harness_kept()
    assert [rows.shape for rows in kept] == [(2, 4), (1, 4)]
    assert kept[0].dtype.name == "float32" and kept[0].any()
    worker.harness_keep(False)
    sampler.gather_logprobs(second, 0, "z")
    assert worker.harness_kept() == []
    assert "gather_logprobs" not in vars(sampler)


def scoring(rows, values):
    """A Served whose vLLM keeps ``rows`` and returns ``values`` for the tokens 1, 2 after token 0."""
    prompt = [None, *({token: SimpleNamespace(logprob=v)} for token, v in zip((1, 2), values, strict=True))]
    llm = SimpleNamespace(collective_rpc=lambda name, args=(): [rows if name == "harness_kept" else None])
    made = served(_llm=llm, _run=lambda *_: [SimpleNamespace(prompt_logprobs=prompt)])
    return made


@pytest.fixture
def sampling_params(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(SamplingParams=lambda **_: None))


@pytest.mark.parametrize("cut", [1, 2])
def test_kept_distributions_are_joined_and_cut_to_what_is_scored(sampling_params, cut):
    import numpy as np

    rows = np.log(np.full((2, 4), 0.25, dtype=np.float32))
    branch = Branch([0, 1, 2], 1, True)
    scoring([rows[:cut], rows[cut:]], [math.log(0.25)] * 2)._score_full(branch)
    assert np.stack(branch.rows).shape == (2, 4)
    assert branch.logprobs == [math.log(0.25)] * 2


@pytest.mark.parametrize(("shape", "said"), [((1, 4), "shape"), ((2, 5), "shape"), ((3, 4), "shape"), ((2, 4), "not those")])
def test_distributions_that_do_not_fit_are_refused(sampling_params, shape, said):
    import numpy as np

    rows = np.log(np.full(shape, 0.25, dtype=np.float32))
    with pytest.raises(EngineError, match=said):
        scoring([rows], [math.log(0.25), math.log(0.26)])._score_full(Branch([0, 1, 2], 1, True))


def test_values_that_are_not_finite_are_refused(sampling_params):
    with pytest.raises(EngineError, match="not finite"):
        scoring([], [math.log(0.25), math.nan])._score([Branch([0, 1, 2], 1, False)])


# --- what is loaded ------------------------------------------------------------------------------


def test_loaded_counts_each_tensor_once_and_names_what_was_fused():
    torch = pytest.importorskip("torch")
    model = torch.nn.Module()
    model.embed = torch.nn.Embedding(10, 4, dtype=torch.bfloat16)
    model.qkv_proj = torch.nn.Linear(4, 12, bias=True)
    model.head = torch.nn.Linear(4, 10, bias=False)
    model.head.weight = model.embed.weight
    found = loaded_from(model, {"qkv_proj": ["q_proj", "k_proj", "v_proj"]})
    assert [held.name for held in found.modules] == ["embed", "qkv_proj"]
    assert found.bytes == 10 * 4 * 2 + (4 * 12 + 12) * 4
    assert found.modules[1].layers == ("q_proj", "k_proj", "v_proj")
    assert found.modules[0].dtypes == ("bfloat16",)


class Handler:
    n, k = 12, 4


@pytest.mark.parametrize(("weight", "dtype", "count"), [(None, "int8", 48), ("empty", "bfloat16", 96)])
def test_loaded_sees_what_lies_out_of_torch(weight, dtype, count):
    torch = pytest.importorskip("torch")
    kernel = type("CPUKernel", (), {"__module__": "some.kernels.linear"})()
    module = torch.nn.Module()
    handler = Handler()
    if weight is None:
        module.register_parameter("weight", None)
        kernel.dnnl_handler = handler
    else:
        module.weight = torch.nn.Parameter(torch.empty(0, dtype=torch.bfloat16))
        module.cpu_linear = lambda x: (handler, x)
    module.scheme = SimpleNamespace(kernel=kernel)
    (held,) = loaded_from(module).modules
    assert (held.bytes, held.packed, held.dtypes, held.kernel) == (count, count, (dtype,), "CPUKernel")
    assert held.scheme == "SimpleNamespace"


def test_loaded_of_transformers(tiny_folder):
    engine = open_engine("hf", tiny_folder, dtype="float32", device="cpu")
    found = engine.loaded()
    engine.close()
    weights = {held.name: held for held in found.modules if held.name.endswith("q_proj")}
    assert weights["model.layers.0.self_attn.q_proj"].kind == "Linear"
    assert weights["model.layers.0.self_attn.q_proj"].bytes == 64 * 64 * 4
    size = (tiny_folder / "model.safetensors").stat().st_size
    assert size * 0.9 < found.bytes < size * 1.1


# --- vLLM itself -----------------------------------------------------------------------------

WORDS = ["the quick", "Paris is the capital of", "a", "London 12 of England, jumps", "fox over 7 dogs and the lazy fox"]
PROMPTS = [Prompt(f"p{i}", messages=({"role": "user", "content": w},)) for i, w in enumerate(WORDS)]
TEXTS = [
    Scored("choice", "the capital of France is", (" Paris", " London", " the quick brown fox", " Parisian")),
    Scored("document", "", ("the quick brown fox jumps over 13 dogs",), full=True),
    Scored("short", "a", ("b", " cd", "")),
    Scored("none", "nothing follows", ()),
    Scored("both", "the lazy", (" dog", " fox"), full=True),
]


@pytest.fixture(scope="module")
def folder(tiny_folder, tmp_path_factory):
    """The tiny model with heads of 32: vLLM computes no narrower ones on a CPU."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    made = tmp_path_factory.mktemp("vllm") / "model"
    shutil.copytree(tiny_folder, made)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig.from_pretrained(made, head_dim=32)).save_pretrained(made)
    return made


@pytest.fixture(scope="module")
def hf(folder):
    engine = open_engine("hf", folder, dtype="float32", device="cpu")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def vllm(folder):
    need = environments.missing("vllm")
    if need is not None:
        pytest.skip(str(need))
    engine = open_engine("vllm", folder, dtype="float32", batch_items=2, cache_bytes=1 << 26, timeout=300)
    files, pid = engine._worker.folder, engine._worker.pid
    shared = set(os.listdir("/dev/shm"))
    yield engine
    engine.close()
    engine.close()
    assert not running(pid)
    assert not files.exists()
    assert set(os.listdir("/dev/shm")) <= shared
    with pytest.raises(EngineError, match="closed"):
        engine.generate(PROMPTS, sampling=Sampling())


def test_texts_and_tokens_are_those_of_transformers(vllm, hf):
    assert vllm.render(PROMPTS[1].messages) == hf.render(PROMPTS[1].messages)
    for text in ("the <|im_end|> fox", "", "Ünïcödé \n\n 7"):
        for special in (True, False):
            assert vllm.tokenize(text, special, special) == hf.tokenize(text, special, special)


def test_answers_are_those_of_transformers(vllm, hf):
    """In float32 on one model the greedy answers agree to every field; five prompts, two at a time."""
    sampling = Sampling(max_tokens=12)
    answers = vllm.generate(PROMPTS, sampling=sampling)
    assert answers == hf.generate(PROMPTS, sampling=sampling)
    assert {answer.finish for answer in answers} <= {"stop", "length"}
    assert answers == vllm.generate(PROMPTS, sampling=sampling)


def test_stop_strings_and_limits_are_those_of_transformers(vllm, hf):
    whole = hf.generate(PROMPTS[:1], sampling=Sampling(max_tokens=20))[0]
    sampling = Sampling(max_tokens=20, stop=("", whole.text[3:5]))
    assert vllm.generate(PROMPTS[:1], sampling=sampling) == hf.generate(PROMPTS[:1], sampling=sampling)
    odd = [Prompt("empty", text=""), Prompt("long", text="fox " * 600), Prompt("fine", text="the fox")]
    refused = vllm.generate(odd, sampling=Sampling(max_tokens=4))
    assert refused == hf.generate(odd, sampling=Sampling(max_tokens=4))
    assert [answer.finish for answer in refused[:2]] == ["error", "error"]


def test_a_drawn_answer_depends_on_seed_and_prompt_alone(vllm):
    sampling = Sampling(max_tokens=12, temperature=1.0, seed=3)
    together = vllm.generate(PROMPTS, sampling=sampling)
    assert together[2] == vllm.generate(PROMPTS[2:3], sampling=sampling)[0]
    assert together != vllm.generate(PROMPTS, sampling=Sampling(max_tokens=12, temperature=1.0, seed=4))


def test_scores_are_those_of_transformers(vllm, hf):
    import numpy as np

    for one, two in zip(vllm.logprobs(TEXTS), hf.logprobs(TEXTS), strict=True):
        assert (one.id, one.tokens) == (two.id, two.tokens)
        for a, b in zip(one.logprobs, two.logprobs, strict=True):
            assert a == pytest.approx(b, abs=2e-4)
        assert (one.distributions is None) == (two.distributions is None)
        for a, b in zip(one.distributions or (), two.distributions or (), strict=True):
            assert a.dtype == np.float32
            assert a.shape == b.shape
            assert np.abs(a - b).max() < 1e-3


def test_a_text_without_room_is_refused_and_the_worker_lives(vllm):
    with pytest.raises(EngineError, match="more than the limit of 511"):
        vllm.logprobs([Scored("long", "", ("fox " * 600,))])
    assert vllm.logprobs(TEXTS[:1])[0].id == "choice"


def test_messages_that_the_template_cannot_render(vllm):
    with pytest.raises(SubjectError, match="cannot render"):
        vllm.render([{"no": "role"}])


def test_conditions_and_what_is_loaded(vllm, hf):
    said = vllm.describe()
    assert (said["engine"], said["dtype"], said["batch_items"], said["quantization"]) == ("vllm", "float32", "2", "none")
    assert "continuous batching" in said["policy"]
    assert all(isinstance(value, str) for value in said.values())
    assert json.dumps(dict(said))
    found = {held.name: held for held in vllm.loaded().modules}
    fused = found["model.layers.1.self_attn.qkv_proj"]
    assert [layer.rpartition(".")[2] for layer in fused.layers] == ["q_proj", "k_proj", "v_proj"]
    parts = {held.name: held.bytes for held in hf.loaded().modules}
    assert fused.bytes == sum(parts[layer] for layer in fused.layers)
    assert fused.dtypes == ("float32",)


def test_a_folder_that_vllm_cannot_load(vllm, folder, tmp_path, monkeypatch):
    config = json.loads((folder / "config.json").read_text())
    made = shutil.copytree(folder, tmp_path / "model")
    (made / "config.json").write_text(json.dumps({**config, "architectures": ["NoSuchModel"], "model_type": "no_such_model"}))
    (tmp_path / "files").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "files"))
    with pytest.raises(SubjectError, match="vLLM cannot load it"):
        open_engine("vllm", made, timeout=300)
    assert not list((tmp_path / "files").iterdir())


def test_weights_that_are_not_finite(vllm, folder, tmp_path):
    from safetensors.torch import load_file, save_file

    made = shutil.copytree(folder, tmp_path / "model")
    tensors = load_file(made / "model.safetensors")
    tensors["model.norm.weight"][3] = math.nan
    save_file(tensors, made / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SubjectError, match=r"'model\.norm\.weight' holds NaN"):
        open_engine("vllm", made, timeout=300)
