"""The GGUF header parser against hostile files, conversion, quantization and planted damage."""

from __future__ import annotations

import struct
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.engines.gguf_header import Header, TensorInfo, bits_per_weight, file_type, read_header
from harness.errors import SubjectError
from harness.quant.convert import convert, dequantize
from harness.quant.damage import damage
from harness.quant.gguf import allowed_types, quantize, recipe_of, tensor_fallbacks

pytestmark = pytest.mark.selftest


# --- a writer of our own: nothing below comes from the code under test ----------------------------


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def array(kind, items):
    return struct.pack("<IQ", kind, len(items)) + b"".join(items)


VALUES = [
    ("a.u8", 0, struct.pack("<B", 200), 200),
    ("a.i8", 1, struct.pack("<b", -2), -2),
    ("a.u16", 2, struct.pack("<H", 60000), 60000),
    ("a.i16", 3, struct.pack("<h", -300), -300),
    ("a.u32", 4, struct.pack("<I", 1 << 31), 1 << 31),
    ("a.i32", 5, struct.pack("<i", -70000), -70000),
    ("a.f32", 6, struct.pack("<f", 0.5), 0.5),
    ("a.bool", 7, b"\x01", True),
    ("a.text", 8, text("Zürich"), "Zürich"),
    ("a.list", 9, array(5, [struct.pack("<i", n) for n in (1, -2, 3)]), (1, -2, 3)),
    ("a.words", 9, array(8, [text("one"), text("")]), ("one", "")),
    ("a.nested", 9, array(9, [array(0, [b"\x05"]), array(8, [text("x")])]), ((5,), ("x",))),
    ("a.u64", 10, struct.pack("<Q", 1 << 40), 1 << 40),
    ("a.i64", 11, struct.pack("<q", -(1 << 40)), -(1 << 40)),
    ("a.f64", 12, struct.pack("<d", 0.1), 0.1),
]


def gguf_bytes(values=VALUES, tensors=None, version=3, magic=b"GGUF"):
    """Tensors are (name, dims as in the file, type id, offset, bytes of data)."""
    tensors = [("w", (32, 2), 8, 0, 68), ("n", (4,), 0, 96, 16)] if tensors is None else tensors
    data = magic + struct.pack("<IQQ", version, len(tensors), len(values))
    for key, kind, raw, _ in values:
        data += text(key) + struct.pack("<I", kind) + raw
    for name, dims, kind, offset, _ in tensors:
        data += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
    data += b"\0" * (-len(data) % 32)
    end = max((offset + size for _, _, _, offset, size in tensors), default=0)
    return data + b"\0" * end


@pytest.fixture
def write(tmp_path):
    def put(data):
        path = tmp_path / "file.gguf"
        path.write_bytes(data)
        return path

    return put


def test_every_value_type(write):
    header = read_header(write(gguf_bytes()))
    assert dict(header.metadata) == {key: value for key, _, _, value in VALUES}
    assert header.version == 3
    assert [(t.name, t.shape, t.type, t.nbytes) for t in header.tensors] == [
        ("w", (2, 32), "Q8_0", 68),
        ("n", (4,), "F32", 16),
    ]
    assert header.tensors[1].offset - header.tensors[0].offset == 96
    assert header.tensors[0].offset % 32 == 0
    assert bits_per_weight(header) == pytest.approx(8 * 84 / 68)
    assert file_type(header) == ""


def test_version_2_is_read(write):
    assert read_header(write(gguf_bytes(version=2))).version == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"GGML" + bytes(60), "expected b'GGUF'"),
        (gguf_bytes(version=1), "version 1"),
        (gguf_bytes(version=3 << 24), "big-endian"),
        (gguf_bytes()[:-1], r"truncated: expected at least \d+ bytes .*'n'.*found \d+"),
        (gguf_bytes(tensors=[("w", (32,), 99, 0, 0)]), "unknown type 99"),
        (gguf_bytes(tensors=[("w", (33,), 8, 0, 64)]), "multiples of 32"),
        (gguf_bytes(tensors=[("w", (0,), 0, 0, 0)]), "shape"),
        (gguf_bytes(tensors=[("w", (1 << 62, 1 << 62), 0, 0, 64)]), "truncated"),
        (gguf_bytes(tensors=[("w", (4,), 0, 0, 16), ("w", (4,), 0, 32, 16)]), "share one name"),
        (gguf_bytes(tensors=[("w", (4,), 0, 0, 16), ("v", (4,), 0, 0, 16)]), "overlaps"),
        (gguf_bytes(tensors=[("w", (4,), 0, 4, 16)]), "misaligned"),
        (gguf_bytes(tensors=[("w", (), 0, 0, 16)]), "dimensions"),
        (gguf_bytes(tensors=[("w", (1,) * 5, 0, 0, 16)]), "5 dimensions"),
        (gguf_bytes(values=[VALUES[0], VALUES[0]]), "occurs twice"),
        (gguf_bytes(values=[("k", 13, b"", None)]), "unknown value type 13"),
        (gguf_bytes(values=[("k", 8, struct.pack("<Q", 1 << 60), None)]), "truncated"),
        (gguf_bytes(values=[("k", 9, struct.pack("<IQ", 0, 1 << 60), None)]), "elements"),
        (gguf_bytes(values=[("k", 9, struct.pack("<IQ", 8, 1 << 22), None)]), "truncated"),
        (gguf_bytes(values=[("k", 9, struct.pack("<IQ", 9, 1) * 9, None)]), "deep"),
        (gguf_bytes(values=[("", 0, b"\0", None)]), "metadata key"),
        (gguf_bytes(values=[("general.alignment", 4, struct.pack("<I", 0), None)]), "power of two"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 63, 1 << 63) + bytes(64), "do not fit"),
    ],
)
def test_hostile_headers_are_refused(write, data, message):
    with pytest.raises(SubjectError, match=message):
        read_header(write(data))


def test_missing_file_and_folder(tmp_path):
    for path in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(SubjectError, match="cannot be read"):
            read_header(path)


GOOD = gguf_bytes()
FUZZ = settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)


def parse(write, data):
    """A header or a SubjectError; anything else fails the test."""
    try:
        header = read_header(write(data))
    except SubjectError:
        return
    assert all(t.offset + t.nbytes <= len(data) for t in header.tensors)


@FUZZ
@given(st.integers(0, len(GOOD) - 1))
def test_every_truncation_is_refused(write, length):
    with pytest.raises(SubjectError):
        read_header(write(GOOD[:length]))


@FUZZ
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_mutated_bytes(write, changes):
    data = bytearray(GOOD)
    for place, byte in changes:
        data[place] = byte
    parse(write, bytes(data))


@FUZZ
@given(st.integers(0, len(GOOD) - 8), st.sampled_from([0, 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1]))
def test_huge_numbers_anywhere(write, place, number):
    parse(write, GOOD[:place] + struct.pack("<Q", number) + GOOD[place + 8 :])


@FUZZ
@given(st.binary(max_size=200))
def test_garbage_behind_the_magic(write, tail):
    parse(write, b"GGUF\x03\0\0\0" + tail)


def test_reading_needs_the_standard_library_only():
    code = (
        "import sys, harness.quant.gguf, harness.quant.convert, harness.quant.damage, harness.engines.llamacpp, "
        "harness.engines.hf, harness.engines.openai, harness.engines.fake, harness.train.run, harness.train.merge, harness.train.foreign\n"
        "heavy = {'torch', 'transformers', 'numpy', 'llama_cpp', 'gguf', 'aiohttp', 'jinja2', 'peft', 'trl'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- fallbacks -----------------------------------------------------------------------------------


def header_of(*tensors):
    infos = tuple(TensorInfo(name, shape, kind, 0, 0) for name, shape, kind in tensors)
    return Header("x.gguf", 3, {}, infos, 0)


def test_fallbacks_name_tensor_and_cause():
    header = header_of(
        ("token_embd.weight", (100, 576), "Q8_0"),  # tied: it is the output too
        ("blk.0.attn_q.weight", (576, 576), "Q5_0"),
        ("blk.0.attn_v.weight", (192, 576), "Q8_0"),
        ("blk.0.ffn_down.weight", (576, 1536), "Q6_K"),
        ("blk.0.ffn_up.weight", (1536, 576), "F16"),
        ("blk.1.ffn_down.weight", (576, 1536), "Q5_0"),
        ("blk.0.attn_norm.weight", (576,), "F32"),
    )
    found = [(f.name, f.wanted, f.got, f.excused) for f in tensor_fallbacks(header, "gguf-q4_k_m")]
    assert found == [
        ("token_embd.weight", "Q6_K", "Q8_0", True),
        ("blk.0.attn_q.weight", "Q4_K", "Q5_0", True),
        ("blk.0.attn_v.weight", "Q6_K", "Q8_0", True),
        ("blk.0.ffn_up.weight", "Q4_K", "F16", False),
        ("blk.1.ffn_down.weight", "Q4_K", "Q5_0", False),
    ]
    assert "576 is not a multiple of 256" in tensor_fallbacks(header, "gguf-q4_k_m")[0].why
    assert "without cause" in tensor_fallbacks(header, "gguf-q4_k_m")[3].why


def test_rows_that_no_block_divides_stay_floats():
    header = header_of(("blk.0.ffn_up.weight", (8, 40), "F16"), ("blk.0.ffn_down.weight", (8, 64), "F16"))
    assert [f.excused for f in tensor_fallbacks(header, "gguf-q8_0")] == [True, False]


def test_allowed_types_and_unknown_recipe():
    assert allowed_types("gguf-q4_0") == {"Q4_0", "Q6_K"}
    with pytest.raises(SubjectError, match="gguf-q8_0"):
        allowed_types("gguf-q8")


# --- with the real libraries -----------------------------------------------------------------------


def test_convert_agrees_with_the_gguf_reader(tiny_gguf, tiny_folder):
    gguf = pytest.importorskip("gguf")
    header, reader = read_header(tiny_gguf), gguf.GGUFReader(tiny_gguf)
    assert {t.name: (t.shape, t.type, t.offset, t.nbytes) for t in header.tensors} == {
        t.name: (tuple(map(int, t.shape[::-1])), t.tensor_type.name, int(t.data_offset), int(t.n_bytes)) for t in reader.tensors
    }
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            value = field.contents()
            assert header.metadata[key] == (tuple(value) if isinstance(value, list) else value)


def test_conversion_loses_nothing(tiny_gguf, tiny_folder, tmp_path):
    """GGUF and back, through transformers' own reader: the weights are the same up to bf16."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    from safetensors.torch import load_file
    from transformers import AutoTokenizer

    dequantize(tiny_gguf, tmp_path / "back")
    old, new = load_file(tiny_folder / "model.safetensors"), load_file(tmp_path / "back" / "model.safetensors")
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name].bfloat16(), new[name]) for name in old)
    one, two = (AutoTokenizer.from_pretrained(folder) for folder in (tiny_folder, tmp_path / "back"))
    for sample in ("the quick 123 fox, ü <|im_start|>user\n", " a  b\n\n", "Paris's 42nd"):
        ids = one(sample)["input_ids"]
        assert ids == two(sample)["input_ids"]
        assert two.decode(ids) == sample
    assert (one.eos_token, one.pad_token, one.chat_template) == (two.eos_token, two.pad_token, two.chat_template)
    assert "quantization_config" not in (tmp_path / "back" / "config.json").read_text()


@pytest.mark.parametrize(("dtype", "name"), [("f16", "F16"), ("bf16", "BF16"), ("f32", "F32")])
def test_dtypes(tiny_folder, tmp_path, dtype, name):
    pytest.importorskip("gguf")
    convert(tiny_folder, tmp_path / "x.gguf", dtype=dtype)
    header = read_header(tmp_path / "x.gguf")
    assert file_type(header) == name
    assert {t.type for t in header.tensors if len(t.shape) == 2} == {name}
    assert {t.type for t in header.tensors if len(t.shape) == 1} == {"F32"}


def test_shards_are_read_through_their_index(tiny_folder, tmp_path):
    pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny_folder)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    transformers.AutoTokenizer.from_pretrained(tiny_folder).save_pretrained(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder, name in ((tmp_path / "shards", "a"), (tiny_folder, "b")):
        convert(folder, tmp_path / name)
    import gguf

    one, two = (gguf.GGUFReader(tmp_path / name) for name in "ab")
    assert {t.name: t.data.tobytes() for t in one.tensors} == {t.name: t.data.tobytes() for t in two.tensors}
    (tmp_path / "shards" / "model-00001-of-00001.safetensors").unlink(missing_ok=True)
    sorted((tmp_path / "shards").glob("*.safetensors"))[0].unlink()
    with pytest.raises(SubjectError, match="cannot be read"):
        convert(tmp_path / "shards", tmp_path / "c")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "expected 'llama'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized"),
        ({"rope_parameters": {"rope_type": "yarn"}}, "rope"),
        ({"attention_bias": True}, "biases"),
        ({"hidden_size": None}, "hidden_size"),
        ({"num_hidden_layers": 3}, "missing"),
        ({"num_hidden_layers": 1}, "does not belong"),
        ({"tie_word_embeddings": False}, "missing"),
        ({"vocab_size": 10}, "outside the vocabulary"),
    ],
)
def test_other_models_are_refused(tiny_folder, tmp_path, change, message):
    pytest.importorskip("gguf")
    import json
    import shutil

    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(SubjectError, match=message):
        convert(folder, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


@pytest.fixture(scope="module")
def f16(tiny_folder, tmp_path_factory):
    pytest.importorskip("gguf")
    out = tmp_path_factory.mktemp("f16") / "tiny.gguf"
    convert(tiny_folder, out)
    return out


@pytest.mark.parametrize("kind", ["q8_0", "q4_0", "q4_k_m"])
def test_quantize(f16, tmp_path, kind, capfd):
    pytest.importorskip("llama_cpp")
    out = tmp_path / "q.gguf"
    quantize(f16, out, kind)
    assert capfd.readouterr() == ("", "")
    header = read_header(out)
    assert file_type(header).lower() == kind
    assert bits_per_weight(header) < bits_per_weight(read_header(f16)) / 1.8
    found = tensor_fallbacks(header, f"gguf-{kind}")
    assert all(f.excused for f in found)
    # rows of 64 and 128: every K-quant falls back
    assert bool(found) == (kind != "q8_0")
    with pytest.raises(SubjectError, match="already quantized"):
        quantize(out, tmp_path / "again.gguf", "q8_0")


def test_quantize_refuses(f16, tmp_path):
    with pytest.raises(SubjectError, match="q8_0"):
        quantize(f16, tmp_path / "x", "q8")
    (tmp_path / "short.gguf").write_bytes(f16.read_bytes()[:-64])
    with pytest.raises(SubjectError, match="truncated"):
        quantize(tmp_path / "short.gguf", tmp_path / "x", "q8_0")


def test_a_full_disk_leaves_no_file(f16, tiny_folder, tmp_path):
    """A limit on the file size stands in for the disk; in a process of its own, for it cannot be raised again."""
    pytest.importorskip("llama_cpp")
    code = (
        "import resource, sys\n"
        "from harness.errors import StoreError\n"
        "from harness.quant.convert import convert\n"
        "from harness.quant.gguf import quantize\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "for work in (lambda: quantize(sys.argv[1], sys.argv[2], 'q8_0'), lambda: convert(sys.argv[3], sys.argv[2])):\n"
        "    try:\n"
        "        work()\n"
        "    except StoreError as error:\n"
        "        print('refused', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(f16), str(tmp_path / "q.gguf"), str(tiny_folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.count("refused") == 2, done.stdout + done.stderr
    assert list(tmp_path.iterdir()) == []


# --- damage ----------------------------------------------------------------------------------------


def changed(one, two):
    import gguf

    old, new = ({t.name: t.data for t in gguf.GGUFReader(path).tensors} for path in (one, two))
    assert old.keys() == new.keys()
    return {name for name in old if old[name].tobytes() != new[name].tobytes()}, old, new


def metadata_changes(one, two):
    old, new = read_header(one).metadata, read_header(two).metadata
    return {key: new.get(key) for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def test_noise_changes_one_block(f16, tmp_path):
    damage(f16, tmp_path / "d.gguf", "noise-layer:1:0.5", 7)
    names, old, new = changed(f16, tmp_path / "d.gguf")
    matrices = {name for name in old if name.startswith("blk.1.") and old[name].ndim == 2}
    assert names == matrices
    assert len(names) == 7
    for name in names:
        noise = new[name].astype("f8") - old[name].astype("f8")
        assert noise.std() == pytest.approx(0.5 * old[name].astype("f8").std(), rel=0.1)
    assert metadata_changes(f16, tmp_path / "d.gguf") == {}


def test_shuffle_permutes_rows(f16, tmp_path):
    damage(f16, tmp_path / "d.gguf", "shuffle-embedding", 7)
    names, old, new = changed(f16, tmp_path / "d.gguf")
    assert names == {"token_embd.weight"}
    rows = [sorted(row.tobytes() for row in side["token_embd.weight"]) for side in (old, new)]
    assert rows[0] == rows[1]


def test_template_and_eos_change_metadata_only(f16, tmp_path):
    damage(f16, tmp_path / "t.gguf", "wrong-template", 0)
    assert changed(f16, tmp_path / "t.gguf")[0] == set()
    assert metadata_changes(f16, tmp_path / "t.gguf").keys() == {"tokenizer.chat_template"}
    damage(f16, tmp_path / "e.gguf", "eos", 0)
    tokens = read_header(f16).metadata["tokenizer.ggml.tokens"]
    assert metadata_changes(f16, tmp_path / "e.gguf") == {"tokenizer.ggml.eos_token_id": tokens.index("1")}
    damage(f16, tmp_path / "e.gguf", "eos:5", 0)
    assert metadata_changes(f16, tmp_path / "e.gguf") == {"tokenizer.ggml.eos_token_id": 5}


def test_damage_is_deterministic(f16, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        damage(f16, tmp_path / name, "noise-layer:0:0.1", seed)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("how", ["", "noise", "noise-layer:9:0.1", "noise-layer:0:-1", "noise-layer:x:1", "eos:999999", "eos:2", "eos:x"])
def test_unknown_damage_is_refused(f16, tmp_path, how):
    with pytest.raises(SubjectError):
        damage(f16, tmp_path / "x", how, 0)
    assert not (tmp_path / "x").exists()


def test_a_declared_name_comes_before_what_the_file_calls_itself(f16):
    header = read_header(f16)
    assert recipe_of(header) is None
    assert recipe_of(header, "gguf-q8_0") == "gguf-q8_0"
    posing = tensor_fallbacks(header, "gguf-q8_0")
    assert posing
    assert not any(f.excused for f in posing)
    assert all(not f.excused for f in tensor_fallbacks(header, None))  # whatever it is, it is not quantized
