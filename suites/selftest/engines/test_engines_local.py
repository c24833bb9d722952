"""hf and llamacpp on a tiny random model: batching, shared prefixes and refusals."""

from __future__ import annotations

import json
import shutil

import pytest

from harness.engines import open_engine
from harness.errors import EngineError, SubjectError
from harness.types import Prompt, Sampling, Scored

pytestmark = pytest.mark.selftest

WORDS = ["the quick", "Paris is the capital of", "a", "London 12 of England, jumps", "fox over 7 dogs and the lazy fox"]
PROMPTS = [Prompt(f"p{i}", messages=({"role": "user", "content": w},)) for i, w in enumerate(WORDS)]
TEXTS = [
    Scored("choice", "the capital of France is", (" Paris", " London", " the quick brown fox", " Parisian")),
    Scored("document", "", ("the quick brown fox jumps over 13 dogs",), full=True),
    Scored("short", "a", ("b", " cd", "")),
    Scored("none", "nothing follows", ()),
]


@pytest.fixture(scope="module")
def hf(tiny_folder):
    engine = open_engine("hf", tiny_folder, dtype="float32", device="cpu")
    yield engine
    engine.close()
    engine.close()


@pytest.fixture(scope="module")
def llama(tiny_gguf):
    pytest.importorskip("llama_cpp")
    engine = open_engine("llamacpp", tiny_gguf, n_ctx=1024, n_batch=64, n_seq=4, cache="f32")
    yield engine
    engine.close()
    engine.close()


@pytest.fixture(params=["hf", "llama"])
def engine(request):
    return request.getfixturevalue(request.param)


def close(one, two):
    assert [t.tokens for t in one] == [t.tokens for t in two]
    for a, b in zip(one, two, strict=True):
        for x, y in zip(a.logprobs, b.logprobs, strict=True):
            assert x == pytest.approx(y, abs=2e-4)


def test_batched_equals_single_hf(hf):
    sampling = Sampling(max_tokens=12)
    together = hf.generate(PROMPTS, sampling=sampling)
    assert [g.id for g in together] == [p.id for p in PROMPTS]
    assert together == [hf.generate([p], sampling=sampling)[0] for p in PROMPTS]


def test_batched_equals_single_llama(llama):
    sampling = Sampling(max_tokens=12)
    together = llama.generate(PROMPTS, sampling=sampling)  # five prompts, four sequences: two batches
    assert together == [llama.generate([p], sampling=sampling)[0] for p in PROMPTS]
    assert together == llama.generate(PROMPTS, sampling=sampling)


def test_engines_agree_on_answers(hf, llama):
    sampling = Sampling(max_tokens=8)
    assert llama.generate(PROMPTS, sampling=sampling) == hf.generate(PROMPTS, sampling=sampling)


def test_shared_prefix_equals_one_by_one(hf, tiny_folder):
    naive = open_engine("hf", tiny_folder, dtype="float32", device="cpu", share_prefix=False, batch_items=1)
    close(hf.logprobs(TEXTS), naive.logprobs(TEXTS))
    naive.close()


def test_packed_equals_alone(llama):
    close(llama.logprobs(TEXTS), [llama.logprobs([text])[0] for text in TEXTS])


def test_engines_agree_on_scores(hf, llama):
    close(hf.logprobs(TEXTS), llama.logprobs(TEXTS))


def test_scores_of_an_independent_forward_pass(hf, tiny_folder):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(tiny_folder), AutoModelForCausalLM.from_pretrained(tiny_folder)
    ids = tokenizer("the capital of France is London")["input_ids"]
    with torch.no_grad():
        rows = model.float()(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(rows[i - 1, ids[i]]) for i in range(1, len(ids))]
    scored = hf.logprobs([Scored("x", "the capital of France is", (" London",))])[0]
    got = scored.logprobs[0]
    assert scored.tokens[0] == tuple(ids[-len(got) :])
    assert got == pytest.approx(expected[-len(got) :], abs=1e-4)


def test_shape_of_what_is_scored(engine):
    import numpy as np

    choice, document, short, none = engine.logprobs(TEXTS)
    assert choice.distributions is None
    assert all(len(t) == len(p) for t, p in zip(choice.tokens, choice.logprobs, strict=True))
    # after the beginning-of-sequence token every token of a document is scored
    assert document.tokens[0] == tuple(engine.tokenize("the quick brown fox jumps over 13 dogs", False))
    (rows,) = document.distributions
    assert rows.dtype == np.float32
    assert rows.shape[0] == len(document.tokens[0])
    assert np.exp(rows).sum(axis=-1) == pytest.approx(1.0, abs=1e-4)
    picked = [float(row[token]) for row, token in zip(rows, document.tokens[0], strict=True)]
    assert picked == pytest.approx(list(document.logprobs[0]), abs=1e-5)
    assert short.tokens[2] == ()
    assert none.tokens == ()


def test_long_document_spans_calls(hf, llama):
    text = [Scored("long", "", ("the quick brown fox jumps over the lazy dog " * 12,))]
    close(hf.logprobs(text), llama.logprobs(text))


def test_more_continuations_than_sequences(hf, llama):
    text = [Scored("many", "the", tuple(f" {word}{i}" for i in range(3) for word in ("fox", "dog", "quick")))]
    close(hf.logprobs(text), llama.logprobs(text))


def test_stop_strings_end_a_text(engine):
    whole = engine.generate(PROMPTS[:1], sampling=Sampling(max_tokens=20))[0]
    mark = whole.text[3:5]
    cut = engine.generate(PROMPTS[:1], sampling=Sampling(max_tokens=20, stop=(mark,)))[0]
    assert cut.finish == "stop"
    assert cut.text == whole.text[: whole.text.find(mark)]


def test_length_is_a_finish(engine):
    answer = engine.generate(PROMPTS[:1], sampling=Sampling(max_tokens=2))[0]
    assert (answer.finish, answer.tokens) == ("length", 2)


def test_sampling_is_per_prompt(engine):
    sampling = Sampling(max_tokens=6, temperature=1.0, top_p=0.9, seed=3)
    together = {g.id: g.text for g in engine.generate(PROMPTS, sampling=sampling)}
    backwards = {g.id: g.text for g in engine.generate(PROMPTS[::-1], sampling=sampling)}
    assert together == backwards
    other = engine.generate(PROMPTS, sampling=Sampling(max_tokens=6, temperature=1.0, seed=4))
    assert {g.id: g.text for g in other} != together


def test_prompt_digest_is_of_the_tokens(engine):
    from harness.engines import token_digest

    answer = engine.generate([Prompt("t", text="the fox")], sampling=Sampling(max_tokens=1))[0]
    assert answer.prompt_digest == token_digest(engine.tokenize("the fox"))
    assert answer.prompt_tokens == len(engine.tokenize("the fox"))


def test_template_is_the_files_own(hf, llama):
    messages = ({"role": "system", "content": "s"}, {"role": "user", "content": "u ü"})
    expected = "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu ü<|im_end|>\n<|im_start|>assistant\n"
    assert hf.render(messages) == llama.render(messages) == expected
    assert hf.tokenize(expected, False) == llama.tokenize(expected, False)


def test_what_does_not_fit_is_an_error_not_a_gap(engine):
    long = Prompt("long", text="the quick brown fox " * 400)
    answers = engine.generate([PROMPTS[0], long, PROMPTS[1]], sampling=Sampling(max_tokens=2))
    assert [a.finish for a in answers] == ["length", "error", "length"]
    assert "fit" in answers[1].error or "exceed" in answers[1].error
    with pytest.raises(EngineError, match="split it"):
        engine.logprobs([Scored("long", "", ("the quick brown fox " * 400,))])


def test_empty_prompt_is_an_error(engine):
    assert engine.generate([Prompt("e", text="")], sampling=Sampling())[0].finish == "error"


def test_describe_names_the_conditions(engine):
    described = engine.describe()
    assert all(isinstance(v, str) for v in described.values())
    assert {"engine", "version", "device", "dtype", "threads", "policy"} <= described.keys()


def test_default_cache_rounds_to_f16(hf, tiny_gguf):
    """Flash attention is on by default and rounds keys and values: near, but not equal."""
    pytest.importorskip("llama_cpp")
    engine = open_engine("llamacpp", tiny_gguf, n_ctx=1024)
    (ours,), (theirs,) = (e.logprobs(TEXTS[1:2])[0].logprobs for e in (engine, hf))
    engine.close()
    assert ours == pytest.approx(theirs, abs=0.05)


def test_closed_engine_refuses(tiny_folder, tiny_gguf):
    for name, location in (("hf", tiny_folder), ("llamacpp", tiny_gguf)):
        if name == "llamacpp":
            pytest.importorskip("llama_cpp")
        engine = open_engine(name, location)
        engine.close()
        engine.close()
        with pytest.raises(EngineError, match="closed"):
            engine.generate(PROMPTS, sampling=Sampling())
        with pytest.raises(EngineError, match="closed"):
            engine.logprobs(TEXTS)


# --- damaged folders -------------------------------------------------------------------------------


@pytest.fixture
def broken(tiny_folder, tmp_path):
    return shutil.copytree(tiny_folder, tmp_path / "broken")


def rewrite(folder, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_nan_is_refused_by_name(broken):
    def poison(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")

    rewrite(broken, poison)
    with pytest.raises(SubjectError, match=r"layers\.1\.mlp\.up_proj\.weight.*NaN"):
        open_engine("hf", broken)
    pytest.importorskip("gguf")
    from harness.quant.convert import convert

    with pytest.raises(SubjectError, match=r"layers\.1\.mlp\.up_proj\.weight.*NaN"):
        convert(broken, broken / "out.gguf")
    assert not list(broken.glob("*.gguf")) + list(broken.glob(".*.part"))


def test_missing_tensor_is_refused(broken):
    rewrite(broken, lambda tensors: tensors.pop("model.layers.0.self_attn.v_proj.weight"))
    with pytest.raises(SubjectError, match=r"missing.*v_proj"):
        open_engine("hf", broken)


def test_truncated_weights_are_refused(broken):
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(SubjectError, match="truncated: expected at least"):
        open_engine("hf", broken)


def test_pickled_weights_are_refused(broken):
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    with pytest.raises(SubjectError, match="pickled"):
        open_engine("hf", broken)


def test_remote_code_is_refused(broken):
    config = json.loads((broken / "config.json").read_text())
    config.update(model_type="strange", auto_map={"AutoModelForCausalLM": "evil.Model", "AutoConfig": "evil.Config"})
    (broken / "config.json").write_text(json.dumps(config))
    (broken / "evil.py").write_text("raise SystemExit('executed')")
    with pytest.raises(SubjectError):
        open_engine("hf", broken)


@pytest.mark.parametrize("content", [None, "", "{", "[]"])
def test_bad_config_is_refused(broken, content):
    (broken / "config.json").unlink()
    if content is not None:
        (broken / "config.json").write_text(content)
    with pytest.raises(SubjectError, match=r"config\.json"):
        open_engine("hf", broken)


def test_missing_folder_and_file(tmp_path):
    with pytest.raises(SubjectError):
        open_engine("hf", tmp_path / "absent")
    pytest.importorskip("llama_cpp")
    with pytest.raises(SubjectError):
        open_engine("llamacpp", tmp_path / "absent.gguf")


def test_truncated_gguf_is_refused(tiny_gguf, tmp_path):
    pytest.importorskip("llama_cpp")
    short = tmp_path / "short.gguf"
    short.write_bytes(tiny_gguf.read_bytes()[:-1000])
    with pytest.raises(SubjectError, match=r"truncated: expected at least \d+ bytes.*found \d+"):
        open_engine("llamacpp", short)


def test_llama_cpp_is_silent(tiny_gguf, capfd):
    pytest.importorskip("llama_cpp")
    engine = open_engine("llamacpp", tiny_gguf, n_ctx=128, n_batch=64)
    engine.generate(PROMPTS[:1], sampling=Sampling(max_tokens=1))
    engine.close()
    assert capfd.readouterr() == ("", "")


def test_wrong_template_has_an_effect(tiny_gguf, tmp_path, llama):
    from harness.quant.damage import damage

    damage(tiny_gguf, tmp_path / "t.gguf", "wrong-template", 0)
    other = open_engine("llamacpp", tmp_path / "t.gguf", n_ctx=1024)
    assert other.render(PROMPTS[0].messages) == "### USER\nthe quick\n\n### RESPONSE\n"
    sampling = Sampling(max_tokens=8)
    assert other.generate(PROMPTS, sampling=sampling) != llama.generate(PROMPTS, sampling=sampling)
    other.close()


def test_adapter_changes_scores(tiny_folder, tmp_path, hf):
    peft = pytest.importorskip("peft")
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(tiny_folder)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "adapter")
    engine = open_engine("hf", tiny_folder, dtype="float32", device="cpu", adapter=tmp_path / "adapter")
    assert engine.describe()["adapter"] == "unmerged"
    assert engine.logprobs(TEXTS[:1])[0].logprobs != hf.logprobs(TEXTS[:1])[0].logprobs
    assert len(engine.generate(PROMPTS, sampling=Sampling(max_tokens=3))) == len(PROMPTS)
    engine.close()
    with pytest.raises(SubjectError, match="adapter_model"):
        open_engine("hf", tiny_folder, adapter=tmp_path)
