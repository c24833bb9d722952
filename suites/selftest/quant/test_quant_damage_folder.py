"""Folders damaged on purpose: what is meant changes, nothing else does, and the same seed gives the same bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from harness.engines.common import load_json, safetensors_entries
from harness.errors import SubjectError
from harness.quant.damage_folder import damage, forge
from harness.store import digest_tree

pytestmark = pytest.mark.selftest


def folder(path: Path, dtype: str = "BF16") -> Path:
    """A folder with two blocks of one matrix and a norm each."""
    path.mkdir()
    width = {"BF16": 2, "F16": 2, "F32": 4, "I8": 1}[dtype]
    one = {"BF16": b"\x80\x3f", "F16": b"\x00\x3c", "F32": b"\x00\x00\x80\x3f", "I8": b"\x01"}[dtype]
    half = {"BF16": b"\x00\x3f", "F16": b"\x00\x38", "F32": b"\x00\x00\x00\x3f", "I8": b"\x02"}[dtype]
    header, data = {}, b""
    for name, shape in (("mlp.up_proj", [8, 16]), ("norm", [16])):
        for layer in range(2):
            count = shape[0] * (shape[1] if len(shape) > 1 else 1)
            data += (one + half) * (count // 2)
            entry = {"dtype": dtype, "shape": shape, "data_offsets": [len(data) - count * width, len(data)]}
            header[f"model.layers.{layer}.{name}.weight"] = entry
    text = json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    (path / "config.json").write_text(json.dumps({"model_type": "llama", "eos_token_id": 2}))
    (path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"0": 7, "1": 8}}}))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>"}))
    (path / "seal.json").write_text("{}")
    return path


def tensor(path: Path, name: str) -> bytes:
    file, kind, shape, offset = safetensors_entries(path)[name]
    count = 1
    for n in shape:
        count *= n
    return file.read_bytes()[offset : offset + count * {"BF16": 2, "F16": 2, "F32": 4}[kind]]


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_noise_drowns_the_matrices_of_one_block(tmp_path, dtype):
    source = folder(tmp_path / "source", dtype)
    outs = [tmp_path / "one", tmp_path / "again", tmp_path / "other"]
    for out, seed in zip(outs, (0, 0, 1), strict=True):
        out.mkdir()
        damage(source, out, "noise-layer:1:3", seed)
    assert digest_tree(outs[0]) == digest_tree(outs[1]) != digest_tree(outs[2])
    changed = [name for name in safetensors_entries(source) if tensor(source, name) != tensor(outs[0], name)]
    assert changed == ["model.layers.1.mlp.up_proj.weight"]
    np = pytest.importorskip("numpy")
    raw = np.frombuffer(tensor(outs[0], changed[0]), {"BF16": "<u2", "F16": "<f2", "F32": "<f4"}[dtype])
    values = (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.astype("<f4")
    assert np.isfinite(values).all()
    assert 0.5 < values.std() < 1.2  # three times a spread of .25, and the spread itself
    assert not (outs[0] / "seal.json").exists()


def test_template_and_end_of_sequence(tmp_path):
    source = folder(tmp_path / "source")
    for how in ("wrong-template", "eos"):
        (tmp_path / how).mkdir()
        damage(source, tmp_path / how, how, 0)
        assert tensor(tmp_path / how, "model.layers.0.norm.weight") == tensor(source, "model.layers.0.norm.weight")
    assert "### RESPONSE" in load_json(tmp_path / "wrong-template" / "tokenizer_config.json")["chat_template"]
    assert load_json(tmp_path / "eos" / "config.json")["eos_token_id"] == 8
    assert load_json(tmp_path / "eos" / "tokenizer_config.json")["eos_token"] == "1"


@pytest.mark.parametrize(
    ("how", "dtype", "said"),
    [
        ("noise-layer:7:3", "BF16", "no block 7"),
        ("noise-layer:1:0", "BF16", "scale 0.0 is not positive"),
        ("noise-layer:1:3", "I8", "is I8; damage an unquantized folder"),
        ("melt", "BF16", "known for folders: noise-layer"),
    ],
)
def test_what_cannot_be_damaged_is_named(tmp_path, how, dtype, said):
    source = folder(tmp_path / "source", dtype)
    (tmp_path / "out").mkdir()
    with pytest.raises(SubjectError, match=said):
        damage(source, tmp_path / "out", how, 0)


def test_a_forged_folder_declares_what_it_is_not(tmp_path):
    source, build = folder(tmp_path / "source"), folder(tmp_path / "build")
    declared = {"quant_method": "gptq", "bits": 4}
    (build / "config.json").write_text(json.dumps({"quantization_config": declared}))
    (build / "quantize_config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    forge(source, build, tmp_path / "out")
    assert load_json(tmp_path / "out" / "config.json")["quantization_config"] == declared
    assert (tmp_path / "out" / "quantize_config.json").is_file()
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
