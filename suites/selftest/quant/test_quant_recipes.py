"""Recipes: what names mean, what is refused before any work, and folders really made from a tiny model."""

from __future__ import annotations

import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.common import load_json, safetensors_entries
from harness.errors import EngineError, MissingNeed, SubjectError
from harness.quant import producers, recipes
from harness.quant.calibration import Row, choose
from harness.quant.recipes import EXAMPLES, make, parse, refuse

pytestmark = pytest.mark.selftest


# --- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_name_is_parsed_and_kept(name):
    assert parse(name).name == name


def test_what_names_say():
    gptq = parse("gptq-w3g128+gptqmodel")
    assert (gptq.method, gptq.bits, gptq.group_size, gptq.symmetric, gptq.producer) == ("gptq", 3, 128, True, "gptqmodel")
    assert gptq.environment == "gptqmodel" and gptq.needs_calibration and gptq.activations is None
    awq = parse("awq-w4g32")
    assert (awq.method, awq.bits, awq.group_size, awq.symmetric, awq.environment) == ("awq", 4, 32, False, None)
    int8 = parse("int8-w8a8")
    assert (int8.bits, int8.activations, int8.group_size, int8.needs_calibration) == (8, 8, None, False)
    assert parse("int8-w8a16").activations is None


def test_methods_that_are_compared_calibrate_with_the_same_amount():
    sizes = {(parse(n).blocks, parse(n).tokens) for n in EXAMPLES if parse(n).producer != "autoawq"}
    assert len(sizes) == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gptq-w4", "did you mean 'gptq-w4g64'"),
        ("gtpq-w4g64", "did you mean 'gptq-w4g64'"),
        ("int8-w8a9", "did you mean 'int8-w8a8'"),
        ("gptq-w5g64", "unknown quantization recipe"),
        ("gptq-w4g0", "unknown quantization recipe"),
        ("gptq-w4g64x", "unknown quantization recipe"),
        ("awq-w3g64", "AWQ is defined for 4 bits here"),
        ("awq-w4g64+gptqmodel", "'gptqmodel' does not make awq"),
        ("nf4+autoawq", "'autoawq' does not make nf4; known: bitsandbytes"),
        ("nf4+", "'' does not make nf4"),
        ("", "unknown quantization recipe"),
    ],
)
def test_a_name_that_says_nothing_is_refused_with_the_nearest(name, said):
    with pytest.raises(SubjectError, match=said):
        parse(name)


@settings(derandomize=True, deadline=None)
@given(st.text(alphabet="gptqawqnf-+0123468x", max_size=16))
def test_parsing_is_total(name):
    try:
        said = parse(name).name
    except SubjectError as error:
        said = str(error)
    assert name in said


# --- refusals ------------------------------------------------------------------------------------


def folder_of(path: Path, shapes: dict[str, tuple[int, ...]], kind: str = "BF16", **config: object) -> Path:
    """A model folder of zeros, written without the code under test: two bytes a value."""
    header, offset = {}, 0
    for name, shape in shapes.items():
        size = 2
        for n in shape:
            size *= n
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    packed = json.dumps(header).encode()
    path.mkdir()
    (path / "model.safetensors").write_bytes(len(packed).to_bytes(8, "little") + packed + bytes(offset))
    (path / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return path


UP, DOWN = "model.layers.0.mlp.up_proj", "model.layers.0.mlp.down_proj"
SHAPES = {"model.embed_tokens.weight": (10, 576), f"{UP}.weight": (1536, 576), f"{DOWN}.weight": (576, 1536), "model.norm.weight": (576,)}


@pytest.fixture
def wide(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "require", lambda recipe: None)  # headers only: no library is asked
    return lambda shapes=SHAPES, **config: folder_of(tmp_path / "model", shapes, **config)


def test_a_group_that_does_not_divide_is_refused_with_the_layer_and_what_fits(wide):
    source = wide()
    with pytest.raises(SubjectError, match=rf"groups of 128 do not divide the 576 columns of {UP}; fits every layer: 16, 32, 64$"):
        refuse(parse("gptq-w4g128"), source)
    refuse(parse("gptq-w4g64"), source)
    refuse(parse("awq-w4g64+autoawq"), source)


@pytest.mark.parametrize("name", ["int8-w8a8", "fp8-dynamic", "nf4", "nvfp4", "mxfp4", "awq-w4g192"])
def test_what_fits_is_not_refused(wide, name):
    refuse(parse(name), wide())


@pytest.mark.parametrize(
    ("shape", "name", "said"),
    [
        ((48, 64), "gptq-w4g64", "is 48 x 64; the kernels that serve it take multiples of 32"),
        ((32, 48), "awq-w4g16", "is 32 x 48; the kernels"),
        ((32, 64), "awq-w4g64+autoawq", "has 32 rows; autoawq takes multiples of 64"),
        ((32, 24), "nvfp4", "groups of 16 do not divide the 24 columns"),
        ((32, 24), "gptq-w4g64", "fits every layer: none of 16 to 256"),
    ],
)
def test_widths_that_no_kernel_takes_are_refused(wide, shape, name, said):
    with pytest.raises(SubjectError, match=said):
        refuse(parse(name), wide({f"{UP}.weight": shape}))


@pytest.mark.parametrize("name", ["int8-w8a8", "nf4"])
def test_a_scale_a_row_takes_any_width(wide, name):
    refuse(parse(name), wide({f"{UP}.weight": (48, 24)}))


@pytest.mark.parametrize(
    ("shapes", "config", "said"),
    [
        (SHAPES, {"quantization_config": {"quant_method": "gptq"}}, r"already quantized \(gptq\)"),
        (SHAPES, {"quantization_config": [1]}, r"already quantized \(unnamed\)"),
        ({"model.embed_tokens.weight": (10, 576), "lm_head.weight": (10, 576)}, {}, "no linear layer in any block"),
        ({"h.0.attn.c_attn.weight": (64, 192)}, {"model_type": "gpt2"}, r"no linear layer in any block \('gpt2'\)"),
    ],
)
def test_a_source_that_cannot_be_quantized_is_refused(wide, shapes, config, said):
    with pytest.raises(SubjectError, match=said):
        refuse(parse("int8-w8a8"), wide(shapes, **config))


def test_packed_weights_are_refused_also_where_the_configuration_keeps_silent(wide):
    with pytest.raises(SubjectError, match=r"already quantized .* is I16"):
        refuse(parse("int8-w8a8"), wide(kind="I16"))


def test_an_absent_library_is_a_missing_need(tmp_path, monkeypatch):
    monkeypatch.setattr(recipes, "find_spec", lambda name: None)
    with pytest.raises(MissingNeed, match="nf4 is made by bitsandbytes, which is not installed"):
        refuse(parse("nf4"), folder_of(tmp_path / "model", SHAPES))


# --- what producers share ------------------------------------------------------------------------


class Letters:
    """A tokenizer of one token a letter."""

    def __call__(self, text, add_special_tokens):
        assert add_special_tokens is False
        return {"input_ids": [ord(c) for c in text]}

    def apply_chat_template(self, messages, tokenize):
        return "|".join(m["content"] for m in messages)


def job(tmp_path, rows, blocks=2, tokens=5):
    rows = [{"id": str(i), "content": text, "messages": said} for i, (text, said) in enumerate(rows)]
    return producers.Job({"name": "test"}, tmp_path / "source", tmp_path / "out", rows, blocks, tokens, 0, 1, sys.stdout)


def test_blocks_are_packed_full_and_every_text_is_accounted_for(tmp_path):
    asked = [("abc", ()), ("x", [{"content": "q"}, {"content": "r"}]), ("defgh", ()), ("never used", ())]
    packed, account = producers.blocks(job(tmp_path, asked), Letters())
    assert ["".join(map(chr, block)) for block in packed] == ["abc\n\n", "q|rde"]
    assert [(r["id"], r["tokens"]) for r in account["rows"]] == [("0", 5), ("1", 3), ("2", 7)]
    again = producers.blocks(job(tmp_path, asked[:3]), Letters())[1]
    other = producers.blocks(job(tmp_path, [("abd", ()), *asked[1:]]), Letters())[1]
    assert account["token_ids_sha256"] == again["token_ids_sha256"] != other["token_ids_sha256"]


def test_rows_that_do_not_fill_the_blocks_are_refused(tmp_path):
    with pytest.raises(SubjectError, match="1 rows hold 5 tokens, expected 2 blocks of 5"):
        producers.blocks(job(tmp_path, [("abc", ())]), Letters())


def test_a_folder_for_version_4_keeps_the_rotary_base(tmp_path):
    """It would take 10,000 without a word, and calibrate on a model that no one has."""
    rope = {"rope_theta": 5e5, "rope_type": "llama3", "factor": 8.0}
    source = folder_of(tmp_path / "source", SHAPES, rope_parameters=rope, dtype="bfloat16")
    (source / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend", "eos_token": "x"}))
    before = (source / "config.json").read_bytes()
    config = load_json(producers.as_version_4(source, tmp_path / "view") / "config.json")
    assert config["rope_theta"] == 5e5 and config["rope_scaling"] == {"rope_type": "llama3", "factor": 8.0}
    assert config["torch_dtype"] == "bfloat16" and "rope_parameters" not in config
    assert load_json(tmp_path / "view" / "tokenizer_config.json") == {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "x"}
    assert (source / "config.json").read_bytes() == before
    assert (tmp_path / "view" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()


def test_what_a_library_rewrote_is_taken_from_the_source(tmp_path):
    pytest.importorskip("torch")
    source = folder_of(tmp_path / "source", SHAPES)
    (source / "chat_template.jinja").write_text("ours")
    out = folder_of(tmp_path / "out", SHAPES, model_type="other")
    for name in ("chat_template.jinja", "quant_config.json", "weights.bin", "code.py", "recipe.yaml"):
        (out / name).write_text("theirs")
    producers.finish(job(tmp_path, []), {"quant_method": "x"}, producers.NO_CALIBRATION, (), {"b": "why", "a": "why"})
    assert sorted(p.name for p in out.iterdir()) == ["calibration.json", "chat_template.jinja", "config.json", "model.safetensors"]
    assert (out / "chat_template.jinja").read_text() == "ours"
    assert load_json(out / "config.json") == {"model_type": "llama", "quantization_config": {"quant_method": "x"}}
    assert [f.layer for f in recipes.fallbacks(out)] == ["a", "b"]


# --- making --------------------------------------------------------------------------------------

TEXTS = [Row(f"t{i}", f"the quick brown fox {i} jumps over the lazy dog") for i in range(30)]
CHATS = [Row(f"c{i}", f"{i}", ({"role": "user", "content": f"fox {i}"}, {"role": "assistant", "content": str(i)})) for i in range(30)]
SAMPLE = choose([*TEXTS, *CHATS], 4, 64, 0)
KEPT = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")
LINEAR = 2 * 7  # layers of the tiny model


def made(name, tiny_folder, out):
    needed = {"llmcompressor": "llmcompressor", "bitsandbytes": "bitsandbytes"}[parse(name).producer]
    if find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    told = []
    fell = make(parse(name), tiny_folder, SAMPLE, out, threads=1, progress=lambda task, done, total: told.append((task, done, total)))
    assert not [p for p in out.iterdir() if p.suffix not in (".safetensors", ".json", ".jinja")]
    for kept in KEPT:
        assert (out / kept).read_bytes() == (tiny_folder / kept).read_bytes()
    config, source = load_json(out / "config.json"), load_json(tiny_folder / "config.json")
    scheme = config.pop("quantization_config")
    assert config == source
    return fell, told, scheme, {name: (kind, shape) for name, (_, kind, shape, _) in safetensors_entries(out).items()}


def test_gptq_by_llmcompressor(tiny_folder, tmp_path):
    fell, told, scheme, tensors = made("gptq-w4g32", tiny_folder, tmp_path / "out")
    assert fell == [] and told[-1] == ("gptq-w4g32", 2, 2)
    assert scheme["quant_method"] == "compressed-tensors" and scheme["config_groups"]["group_0"]["weights"]["group_size"] == 32
    assert sum(name.endswith("weight_packed") for name in tensors) == LINEAR
    assert tensors["model.layers.0.mlp.down_proj.weight_scale"][1] == (64, 128 // 32)
    account = load_json(tmp_path / "out" / "calibration.json")
    used = [row.id for row in SAMPLE.rows[: len(account["rows"])]]
    assert [row["id"] for row in account["rows"]] == used and account["blocks"] * account["tokens"] == 256
    assert sum(row["tokens"] for row in account["rows"]) >= 256 and "llmcompressor" in account["versions"]


def test_awq_by_llmcompressor_names_the_layers_that_it_does_not_scale(tiny_folder, tmp_path):
    fell, _, scheme, tensors = made("awq-w4g32", tiny_folder, tmp_path / "out")
    weights = scheme["config_groups"]["group_0"]["weights"]
    assert (weights["symmetric"], weights["num_bits"]) == (False, 4)
    assert sum(name.endswith("weight_zero_point") for name in tensors) == LINEAR
    # two key-value heads for four: what v gives has half the width of what o takes
    assert [f.layer for f in fell] == [f"model.layers.{i}.self_attn.o_proj" for i in range(2)]
    assert all("not scaled by AWQ" in f.why for f in fell)


def test_int8_by_llmcompressor(tiny_folder, tmp_path):
    _, _, scheme, tensors = made("int8-w8a8", tiny_folder, tmp_path / "out")
    group = scheme["config_groups"]["group_0"]
    assert group["input_activations"]["dynamic"] is True and group["weights"]["strategy"] == "channel"
    assert sum(kind == "I8" for kind, _ in tensors.values()) == LINEAR
    assert load_json(tmp_path / "out" / "calibration.json")["rows"] == []


def test_nf4_by_bitsandbytes_loads_again(tiny_folder, tmp_path):
    _, _, scheme, tensors = made("nf4", tiny_folder, tmp_path / "out")
    assert scheme["quant_method"] == "bitsandbytes" and scheme["bnb_4bit_use_double_quant"] is True
    assert sum(name.endswith(".weight") and kind == "U8" for name, (kind, _) in tensors.items()) == LINEAR
    assert tensors["model.embed_tokens.weight"][0] != "U8"
    import torch
    import transformers

    whole, again = (
        transformers.AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, dtype=torch.bfloat16)
        for folder in (tiny_folder, tmp_path / "out")
    )
    assert type(again.model.layers[0].mlp.up_proj).__name__ == "Linear4bit"
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        wanted, got = (torch.log_softmax(model(ids).logits.float(), -1) for model in (whole, again))
    apart = (wanted.exp() * (wanted - got)).sum(-1).mean()
    assert 0 < float(apart) < 0.5  # four bits, not sixteen, and not nonsense: a random model's is above two


def test_what_needs_calibration_is_not_made_without(tiny_folder, tmp_path):
    with pytest.raises(SubjectError, match="gptq-w4g32 needs calibration texts"):
        make(parse("gptq-w4g32"), tiny_folder, None, tmp_path / "out", threads=1, progress=print)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def stand_in(tiny_folder, tmp_path, monkeypatch):
    """Runs a program of ours in a producer's place."""

    def start(program, progress=print):
        script = tmp_path / "producer.py"
        script.write_text(program)
        monkeypatch.setattr(recipes, "_command", lambda recipe, spec: [sys.executable, str(script), str(spec)])
        out = tmp_path / "out"
        out.mkdir()
        (out / "mine").write_text("kept")
        try:
            return make(parse("nf4"), tiny_folder, None, out, threads=1, progress=progress)
        finally:
            assert [p.name for p in out.iterdir()] == ["mine"]

    monkeypatch.setattr(recipes, "require", lambda recipe: None)
    return start


def test_a_producer_that_dies_gives_its_last_words_and_leaves_nothing(stand_in):
    with pytest.raises(EngineError, match=r"ended with status 7; nothing was kept(.|\n)*out of luck"):
        stand_in("import sys; print('out of luck', file=sys.stderr); sys.exit(7)")


def test_a_producer_that_is_killed_is_named(stand_in):
    with pytest.raises(EngineError, match=r"status -9(.|\n)*it says nothing"):
        stand_in("import os; os.kill(os.getpid(), 9)")


def test_an_error_of_this_package_comes_back_as_itself(stand_in):
    said = json.dumps({"error": "MissingNeed", "says": ["cuda", "no GPU", "buy one"]})
    with pytest.raises(MissingNeed, match=r"cuda: no GPU\. To get it: buy one"):
        stand_in(f"print({said!r}); raise SystemExit(1)")


@pytest.mark.parametrize(
    ("files", "said"),
    [(["model.safetensors"], "expected safetensors, config.json"), (["config.json", "calibration.json", "x.bin"], "no pickles")],
)
def test_a_producer_that_writes_something_else_is_not_believed(stand_in, files, said):
    begin = "import json,sys,pathlib\nout = pathlib.Path(json.load(open(sys.argv[1]))['out'])"
    with pytest.raises(EngineError, match=said):
        stand_in(f"{begin}\nfor f in {files!r}: (out / f).write_text('x')")


def test_a_folder_whose_weights_are_as_before_is_not_believed(stand_in, tiny_folder):
    copy = (
        f"import json,sys,shutil\nout = json.load(open(sys.argv[1]))['out']\nshutil.copytree({str(tiny_folder)!r}, out, dirs_exist_ok=True)"
    )
    with pytest.raises(EngineError, match="without a quantized tensor: all matrices are F32"):
        stand_in(f"{copy}\nopen(out + '/calibration.json', 'w').write('{{}}')")


def test_auto_gptq_says_itself_that_it_needs_cuda(tiny_folder, tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("a GPU is here, so auto-gptq has nothing to complain about")
    monkeypatch.setattr(recipes, "_python", lambda recipe: sys.executable)
    monkeypatch.setattr(recipes, "require", lambda recipe: None)
    with pytest.raises(MissingNeed, match="to do quantization requires CUDA available"):
        make(parse("gptq-w4g32+autogptq"), tiny_folder, SAMPLE, tmp_path / "out", threads=1, progress=print)


def test_an_interrupt_ends_the_producer(stand_in):
    """It does not go on in the background: its id is free again."""
    seen = []

    def interrupt(task, done, total):
        seen.append(done)
        raise KeyboardInterrupt

    program = "import json,os,time\nprint(json.dumps({'done': os.getpid(), 'total': 2}), flush=True)\ntime.sleep(600)"
    with pytest.raises(KeyboardInterrupt):
        stand_in(program, interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)
