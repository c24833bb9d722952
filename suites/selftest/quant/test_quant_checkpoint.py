"""Any checkpoint as subject: declarations of every producer, forged and damaged folders, hostile files.

Folders are written by the few lines below, bit by bit; nothing comes from the code under test or from
a producer's library.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import SubjectError
from harness.quant.checkpoint import Scheme, TensorFact, bits_per_weight, inventory, read_scheme
from suites.selftest.quant.test_quant_gguf import gguf_bytes, text

pytestmark = pytest.mark.selftest

OUT, IN, GROUP = 32, 128, 64  # rows and columns of every projection
LAYERS = [f"model.layers.{i}.{p}" for i in (0, 1) for p in ("self_attn.q_proj", "mlp.down_proj")]


# --- a writer of our own --------------------------------------------------------------------------


def save(path, tensors):
    """A safetensors file of {name: (type, array of the bytes' shape, logical shape or None)}."""
    header, data = {}, b""
    for name, (kind, array, *shape) in tensors.items():
        raw = np.ascontiguousarray(array).tobytes()
        header[name] = {
            "dtype": kind,
            "shape": list(shape[0] if shape else np.shape(array)),
            "data_offsets": [len(data), len(data) + len(raw)],
        }
        data += raw
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + data)


def f16(*shape, value=0.5):
    return "F16", np.full(shape, value, "<f2")


def pack(values, bits):
    """Rows of small integers as 32-bit words, the lowest bits first."""
    values = np.asarray(values)
    stream = ((values[:, :, None] >> np.arange(bits)) & 1).reshape(len(values), -1)
    stream = np.pad(stream, ((0, 0), (0, -stream.shape[1] % 32)))
    return (stream.reshape(len(values), -1, 32).astype(np.uint32) << np.arange(32, dtype=np.uint32)).sum(-1, dtype=np.uint32)


def codes(rows, columns, bits=4, seed=0):
    return np.random.default_rng(seed).integers(0, 1 << bits, (rows, columns))


def plain(name):
    return {f"{name}.weight": f16(OUT, IN)}


def gptq(name, bits=4, group=GROUP, zero=None, g_idx=True, columns=IN):
    groups = -(-columns // group)
    zeros = np.full((groups, OUT), (1 << (bits - 1)) - 1 if zero is None else zero)
    parts = {
        "qweight": ("I32", pack(codes(OUT, columns, bits), bits).T),
        "qzeros": ("I32", pack(zeros, bits)),
        "scales": f16(groups, OUT),
    }
    if g_idx:
        parts["g_idx"] = ("I32", (np.arange(columns) // group).astype("<i4"))
    return {f"{name}.{part}": value for part, value in parts.items()}


def awq(name, zeros=True, groups=IN // GROUP):
    parts = {"qweight": ("I32", pack(codes(IN, OUT), 4)), "scales": f16(groups, OUT)}
    if zeros:
        parts["qzeros"] = ("I32", pack(codes(groups, OUT, seed=1), 4))
    return {f"{name}.{part}": value for part, value in parts.items()}


def awq_gemv(name):
    padded = 16  # 2 groups of 64, padded to a multiple of 8 and doubled: autoawq's calculate_zeros_width
    zeros = np.zeros((OUT, padded // 8 * 8), int)
    zeros[:, : IN // GROUP] = codes(OUT, IN // GROUP, seed=2)
    parts = {"qweight": ("I32", pack(codes(OUT, IN), 4)), "qzeros": ("I32", pack(zeros, 4)), "scales": f16(OUT, padded)}
    return {f"{name}.{part}": value for part, value in parts.items()}


def packed(name, zeros=False, middle=False):
    groups = IN // GROUP
    parts = {
        "weight_packed": ("I32", pack(codes(OUT, IN), 4)),
        "weight_scale": f16(OUT, groups),
        "weight_shape": ("I64", np.array([OUT, IN], "<i8")),
    }
    if zeros or middle:
        points = np.full((groups, OUT), 8) if middle else codes(groups, OUT, seed=3)
        parts["weight_zero_point"] = ("I32", pack(points, 4).T)
    return {f"{name}.{part}": value for part, value in parts.items()}


def int8(name):
    return {f"{name}.weight": ("I8", codes(OUT, IN, 7).astype("i1")), f"{name}.weight_scale": f16(OUT, 1)}


def fp8(name, scale="weight_scale", shape=(OUT, 1)):
    return {f"{name}.weight": ("F8_E4M3", codes(OUT, IN, 6).astype("u1")), f"{name}.{scale}": f16(*shape)}


def nf4(name, double=False, kind="nf4"):
    scales = OUT * IN // 64
    state = json.dumps({"quant_type": kind, "blocksize": 64, "dtype": "bfloat16", "shape": [OUT, IN]}).encode()
    parts = {
        "weight": ("U8", codes(OUT * IN // 2, 1, 8).astype("u1")),
        "weight.absmax": ("U8", codes(1, scales, 8).astype("u1")[0]) if double else ("F32", np.ones(scales, "<f4")),
        "weight.quant_map": ("F32", np.linspace(-1, 1, 16, dtype="<f4")),
        f"weight.quant_state.bitsandbytes__{kind}": ("U8", np.frombuffer(state, "u1")),
    }
    if double:
        parts["weight.nested_absmax"] = ("F32", np.ones(1, "<f4"))
        parts["weight.nested_quant_map"] = ("F32", np.linspace(-1, 1, 256, dtype="<f4"))
    return {f"{name}.{part}": value for part, value in parts.items()}


def bnb8(name):
    return {f"{name}.weight": ("I8", codes(OUT, IN, 7).astype("i1")), f"{name}.SCB": ("F32", np.ones(OUT, "<f4"))}


def fp4(name, weight="weight_packed", scale=("F8_E4M3", 16), extra="weight_global_scale", fill=56):
    kind, group = scale
    parts = {weight: ("U8", codes(OUT, IN // 2, 8).astype("u1")), "weight_scale": (kind, np.full((OUT, IN // group), fill, "u1"))}
    if extra:
        parts[extra] = ("F32", np.ones(1, "<f4"))
    return {f"{name}.{part}": value for part, value in parts.items()}


# --- a declaration of each kind, and a layer that keeps it ----------------------------------------


def group_of(**weights):
    return {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True, **weights}}


def compressed(fmt="pack-quantized", inputs=None, **weights):
    group = {**group_of(**weights), "input_activations": inputs}
    return {"quant_method": "compressed-tensors", "format": fmt, "config_groups": {"group_0": group}, "ignore": ["lm_head"]}


PER_TOKEN = {"num_bits": 8, "type": "int", "dynamic": True, "strategy": "token"}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
NF4 = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": False}
FLOAT8 = {"num_bits": 8, "type": "float", "strategy": "channel"}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}

# name -> declaration, a layer under it, its scheme, bits per weight
GOOD = {
    "gptq": (GPTQ, gptq, "int4 g64 sym", 4 + (16 + 4) / 64 + 32 / OUT),
    "gptq-v2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, lambda n: gptq(n, zero=8), "int4 g64 sym", 4 + 20 / 64 + 32 / OUT),
    "gptq-asym": ({**GPTQ, "sym": False}, lambda n: gptq(n, zero=3), "int4 g64 asym", 4 + 20 / 64 + 32 / OUT),
    "gptq-8": ({**GPTQ, "bits": 8}, lambda n: gptq(n, 8), "int8 g64 sym", 8 + 24 / 64 + 32 / OUT),
    "gptq-3": ({**GPTQ, "bits": 3}, lambda n: gptq(n, 3, g_idx=False), "int3 g64 sym", 3 + 19 / 64),
    "gptq-2": ({**GPTQ, "bits": 2}, lambda n: gptq(n, 2, g_idx=False), "int2 g64 sym", 2 + 18 / 64),
    "gptq-row": ({**GPTQ, "group_size": -1}, lambda n: gptq(n, group=IN), "int4 per row sym", 4 + 20 / IN + 32 / OUT),
    "awq": (AWQ, awq, "int4 g64 asym", 4 + 20 / 64),
    "awq-gemv": ({**AWQ, "version": "gemv"}, awq_gemv, "int4 g64 asym", 4 + 20 * 16 / IN),
    "packed": (compressed(strategy="group", group_size=GROUP), packed, "int4 g64 sym", 4 + 16 / 64 + 128 / (OUT * IN)),
    "packed-asym": (
        compressed(strategy="group", group_size=GROUP, symmetric=False),
        lambda n: packed(n, zeros=True),
        "int4 g64 asym",
        4 + 20 / 64 + 128 / (OUT * IN),
    ),
    "w8a8": (compressed("int-quantized", PER_TOKEN, num_bits=8, strategy="channel"), int8, "int8 per row sym", 8 + 16 / IN),
    "float8": (compressed("float-quantized", **FLOAT8), fp8, "fp8_e4m3 per row", 8 + 16 / IN),
    "nvfp4": (compressed("nvfp4-pack-quantized", **NVFP4), fp4, "nvfp4 g16", 4.5 + 32 / (OUT * IN)),
    "mxfp4": (
        compressed("mxfp4-pack-quantized", type="float", strategy="group", group_size=32),
        lambda n: fp4(n, scale=("U8", 32), extra=None),
        "mxfp4 g32",
        4.25,
    ),
    "nf4": (NF4, nf4, "nf4", None),
    "nf4-double": ({**NF4, "bnb_4bit_use_double_quant": True}, lambda n: nf4(n, True), "nf4", None),
    "bnb8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, bnb8, "int8 per row sym", 8 + 32 / IN),
    "fp8": ({"quant_method": "fp8", "activation_scheme": "dynamic"}, lambda n: fp8(n, shape=(1,)), "fp8_e4m3", 8 + 16 / (OUT * IN)),
    "fp8-blocks": (
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [32, 64]},
        lambda n: fp8(n, "weight_scale_inv", (1, 2)),
        "fp8_e4m3 blocks 32x64",
        8 + 32 / (OUT * IN),
    ),
    "fbgemm": ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, fp8, "fp8_e4m3 per row", 8 + 16 / IN),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["lm_head"]},
        lambda n: fp4(n, "weight", extra="weight_scale_2"),
        "nvfp4 g16",
        4.5 + 32 / (OUT * IN),
    ),
}


@pytest.fixture
def folder(tmp_path):
    def build(declaration, layer, others=None, config=None, files=None):
        """Four projections by ``layer``, what any model has beside them, and config.json."""
        tensors = {
            "model.embed_tokens.weight": f16(8, IN),
            "model.layers.0.input_layernorm.weight": f16(IN),
            "model.layers.0.self_attn.q_proj.bias": f16(OUT),
            "lm_head.weight": f16(8, IN),
        }
        for name in LAYERS:
            tensors |= (others or {}).get(name, layer)(name)
        save(tmp_path / "model.safetensors", tensors)
        extra = {} if declaration is None else {"quantization_config": declaration}
        (tmp_path / "config.json").write_text(json.dumps({"torch_dtype": "float16", **(config or {}), **extra}))
        for name, content in (files or {}).items():
            (tmp_path / name).write_text(json.dumps(content))
        return tmp_path

    return build


def linear(path):
    return {f.name: f for f in inventory(path) if f.kind == "linear"}


def whys(path):
    return {f.name: f.why for f in inventory(path) if not f.ok}


@pytest.mark.parametrize("case", GOOD)
def test_every_format_is_read_and_agrees(folder, case):
    declaration, layer, words, bits = GOOD[case]
    path = folder(declaration, layer)
    scheme = read_scheme(path)
    assert str(scheme) == words
    assert scheme.declared_in.endswith("config.json: quantization_config")
    assert whys(path) == {}
    facts = linear(path)
    assert list(facts) == sorted(LAYERS)
    for fact in facts.values():
        assert fact.expected_quantized and fact.found.startswith(words)
        assert fact.elements == OUT * IN
        if bits is not None:
            assert fact.bits == pytest.approx(bits)


@pytest.mark.parametrize("case", GOOD)
def test_a_forged_declaration_over_fp16_weights_is_red(folder, case):
    declaration, _, words, _ = GOOD[case]
    path = folder(declaration, plain)
    facts = linear(path)
    assert not any(f.ok for f in facts.values())
    for fact in facts.values():
        assert "found fp16" in fact.why and f"expected {words}" in fact.why
        assert fact.bits == 16
    others = [f for f in inventory(path) if f.kind != "linear"]
    assert all(f.ok for f in others if f.kind != "head")


@pytest.mark.parametrize("case", GOOD)
def test_another_formats_declaration_is_red(folder, case):
    """Every layer is quantized, and not as declared."""
    declaration = GOOD[case][0]
    rival = next(
        layer for name, (d, layer, _, _) in GOOD.items() if d["quant_method"] != declaration["quant_method"] and name in ("packed", "nf4")
    )
    assert not any(f.ok for f in linear(folder(declaration, rival)).values())


def test_kinds_and_sizes(folder):
    path = folder(GPTQ, gptq)
    facts = {f.name: f for f in inventory(path)}
    assert {f.name: f.kind for f in facts.values() if f.kind != "linear"} == {
        "lm_head": "head",
        "model.embed_tokens": "embedding",
        "model.layers.0.input_layernorm": "norm",
        "model.layers.0.self_attn.q_proj.bias": "other",
    }
    assert facts["lm_head"].declared == "left alone"
    assert not facts["lm_head"].expected_quantized
    stored = os.path.getsize(path / "model.safetensors") - 8 - struct.unpack("<Q", (path / "model.safetensors").read_bytes()[:8])[0]
    assert sum(f.bytes for f in facts.values()) == stored
    assert bits_per_weight(list(facts.values())) == pytest.approx(8 * stored / (4 * OUT * IN + 16 * IN + IN + OUT))
    with pytest.raises(SubjectError, match="no weights"):
        bits_per_weight([])


def test_nothing_declared(folder):
    path = folder(None, plain)
    assert read_scheme(path).method == "none"
    assert read_scheme(path).weights == "fp16"
    assert whys(path) == {}
    assert all(f.found == "fp16" and not f.expected_quantized for f in inventory(path))
    silent = whys(folder(None, gptq))
    assert set(silent) == set(LAYERS)
    assert "nothing in config.json declares it" in silent[LAYERS[0]]


# --- what is left alone ---------------------------------------------------------------------------

LEFT = {
    "gptq": ({**GPTQ, "dynamic": {r"-:model\.layers\.0\..*": {}}}, gptq),
    "awq": ({**AWQ, "modules_to_not_convert": ["layers.0."]}, awq),
    "compressed-tensors": ({**compressed(strategy="group", group_size=GROUP), "ignore": ["lm_head", r"re:.*layers\.0\..*"]}, packed),
    "bitsandbytes": ({**NF4, "llm_int8_skip_modules": ["model.layers.0", "lm_head"]}, nf4),
    "fp8": ({"quant_method": "fp8", "modules_to_not_convert": ["model.layers.0"]}, lambda n: fp8(n, shape=(1,))),
    "modelopt": (
        {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.layers.0*", "lm_head"]},
        lambda n: fp4(n, "weight", extra="weight_scale_2"),
    ),
}


@pytest.mark.parametrize("method", LEFT)
def test_listed_layers_are_left_alone_and_no_others(folder, method):
    declaration, layer = LEFT[method]
    first = [name for name in LAYERS if ".0." in name]
    left = dict.fromkeys(first, plain)
    path = folder(declaration, layer, left)
    assert whys(path) == {}
    assert [f.name for f in linear(path).values() if not f.expected_quantized] == sorted(first)
    # quantized though listed
    red = whys(folder(declaration, layer))
    assert set(red) == set(first)
    assert all("expected 16 bits or more: listed among the layers left alone" in why for why in red.values())
    # one more left unquantized than is listed
    red = whys(folder(declaration, layer, {**left, LAYERS[2]: plain}))
    assert set(red) == {LAYERS[2]}
    assert "found fp16" in red[LAYERS[2]]


def test_a_quantized_head(folder, tmp_path):
    path = folder({**GPTQ, "lm_head": True}, gptq)
    assert set(whys(path)) == {"lm_head"}
    skips = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["model.embed_tokens"]}
    path = folder(skips, bnb8)
    assert whys(path) == {}
    save(path / "model.safetensors", bnb8("lm_head"))
    assert whys(path) == {}  # transformers converts the head where its list does not name it
    ignoring_nothing = {**compressed(strategy="group", group_size=GROUP), "ignore": []}
    assert set(whys(folder(ignoring_nothing, packed))) == {"lm_head"}


def test_a_pattern_matches_from_the_start_of_a_name(folder):
    declaration = {**compressed(strategy="group", group_size=GROUP), "ignore": ["lm_head", "re:layers", "q_proj"]}
    assert whys(folder(declaration, packed)) == {}


def test_gptqmodels_dynamic_rules_give_layers_other_widths(folder):
    declaration = {**GPTQ, "dynamic": {r"+:.*\.0\.mlp\..*": {"bits": 8, "group_size": 32}}}
    wide = {"model.layers.0.mlp.down_proj": lambda n: gptq(n, 8, 32)}
    assert whys(folder(declaration, gptq, wide)) == {}
    assert set(whys(folder(declaration, gptq))) == {"model.layers.0.mlp.down_proj"}
    declaration = {**GPTQ, "dynamic": {r".*\.0\.mlp\..*": {"sym": False}, ".*mlp.*": {"desc_act": True}}}
    odd = {LAYERS[1]: lambda n: gptq(n, zero=3), LAYERS[3]: changed(gptq, "g_idx", SHUFFLED)}
    assert whys(folder(declaration, gptq, odd)) == {}
    red = whys(folder(declaration, gptq, {LAYERS[1]: without(gptq, "qzeros")}))
    assert red == {LAYERS[1]: "declared asymmetric, but zero points are missing"}


def test_four_bits_in_bytes(folder):
    """compressed-tensors stores W4A8 so: it is int4, and takes 8 bits."""
    declaration = compressed("int-quantized", PER_TOKEN, strategy="channel")
    path = folder(declaration, lambda n: int8(n) | {f"{n}.weight": ("I8", (codes(OUT, IN) - 8).astype("i1"))})
    assert whys(path) == {}
    assert linear(path)[LAYERS[0]].found == "int4 per row sym, one per byte"
    assert linear(path)[LAYERS[0]].bits > 8
    assert set(whys(folder(declaration, int8))) == set(LAYERS)


def test_mixed_groups(folder):
    declaration = compressed("mixed-precision", strategy="group", group_size=GROUP)
    declaration["config_groups"]["group_1"] = {
        "targets": ["re:.*down_proj"],
        "weights": {"num_bits": 8, "strategy": "channel", "type": "int"},
    }
    path = folder(declaration, packed, {name: int8 for name in LAYERS if "down" in name})
    assert whys(path) == {}
    assert read_scheme(path).weights == "mixed"
    assert set(whys(folder(declaration, packed))) == {name for name in LAYERS if "down" in name}


def test_gpt_oss_blocks(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}})
    )
    name = "model.layers.0.mlp.experts.down_proj"
    tensors = {f"{name}_blocks": ("U8", np.zeros((2, 8, 4, 16), "u1")), f"{name}_scales": ("U8", np.zeros((2, 8, 4), "u1"))}
    save(tmp_path / "model.safetensors", tensors | {"model.layers.0.mlp.router.weight": f16(2, 64)})
    assert whys(tmp_path) == {}
    fact = linear(tmp_path)[name]
    assert (fact.elements, fact.bits, fact.found) == (2 * 8 * 128, 4.25, "mxfp4 g32, 2 per byte")
    save(tmp_path / "model.safetensors", {name: f16(2, 8, 128)})
    assert "found fp16" in whys(tmp_path)[name]
    save(tmp_path / "model.safetensors", tensors | {f"{name}_scales": ("U8", np.zeros((2, 8, 2), "u1"))})
    assert "expected U8" in whys(tmp_path)[name]


# --- shapes, scales, zero points, order -----------------------------------------------------------


def without(layer, part):
    return lambda name: {k: v for k, v in layer(name).items() if k != f"{name}.{part}"}


def changed(layer, part, value):
    return lambda name: layer(name) | {f"{name}.{part}": value}


SHUFFLED = ("I32", (np.arange(IN)[::-1] // GROUP).astype("<i4"))
NAN = ("F16", np.full((IN // GROUP, OUT), np.nan, "<f2"))
PACKED = GOOD["packed"][0]
DAMAGED = {
    "other bits": (GPTQ, lambda n: gptq(n, 8), "found int8, declared int4"),
    "other group": (GPTQ, lambda n: gptq(n, group=32), "found groups of 32, declared 64"),
    "group does not divide": ({**GPTQ, "group_size": 96}, lambda n: gptq(n, group=96), "group size 96 does not divide the 128 columns"),
    "qweight rows": (GPTQ, changed(gptq, "qweight", ("I32", np.zeros((8, OUT), "<i4"))), r"rows = columns x bits / 32"),
    "scales rows": (GPTQ, changed(gptq, "scales", f16(4, OUT)), "qzeros is"),
    "qzeros width": (GPTQ, changed(gptq, "qzeros", ("I32", np.zeros((2, 3), "<i4"))), "int3|hold|expected"),
    "scales missing": (GPTQ, without(gptq, "scales"), "scales is missing"),
    "scales NaN": (GPTQ, changed(gptq, "scales", NAN), "scales: 64 of 64 values are NaN"),
    "scales infinite": (AWQ, changed(awq, "scales", f16(2, OUT, value=np.inf)), "infinite"),
    "scales zero": (AWQ, changed(awq, "scales", f16(2, OUT, value=-0.0)), "every value is 0"),
    "bf16 scales NaN": (PACKED, changed(packed, "weight_scale", ("BF16", np.full((OUT, 2), 0x7FC0, "<u2"))), "64 of 64 values are NaN"),
    "fp8 scales NaN": (GOOD["nvfp4"][0], changed(fp4, "weight_scale", ("F8_E4M3", np.full((OUT, 8), 0xFF, "u1"))), "are NaN"),
    "absmax NaN": (NF4, changed(nf4, "weight.absmax", ("F32", np.full(OUT * IN // 64, np.nan, "<f4"))), "absmax: 64 of 64"),
    "asym without zeros": ({**GPTQ, "sym": False}, without(gptq, "qzeros"), "zero points are missing"),
    "awq without zeros": (AWQ, lambda n: awq(n, zeros=False), "zero points are missing"),
    "packed asym without zeros": (GOOD["packed-asym"][0], packed, "no zero points other than the midpoint"),
    "packed sym with zeros": (PACKED, lambda n: packed(n, zeros=True), "declared symmetric, but zero points differ"),
    "asym that is sym": ({**GPTQ, "sym": False}, gptq, "no zero points other than the midpoint"),
    "sym that is asym": (GPTQ, lambda n: gptq(n, zero=3), "declared symmetric, but zero points differ"),
    "v2 called v1": (GPTQ, lambda n: gptq(n, zero=8), "those of symmetric weights in format gptq_v2, declared is gptq"),
    "v1 called v2": ({**GPTQ, "checkpoint_format": "gptq_v2"}, gptq, "in format gptq, declared is gptq_v2"),
    "g_idx out of order": (GPTQ, changed(gptq, "g_idx", SHUFFLED), "g_idx is out of order"),
    "g_idx out of range": ({**GPTQ, "desc_act": True}, changed(gptq, "g_idx", ("I32", np.full(IN, 9, "<i4"))), r"expected 128 in 0\.\.1"),
    "g_idx one too far": ({**GPTQ, "desc_act": True}, changed(gptq, "g_idx", ("I32", np.full(IN, 2, "<i4"))), "from 2 to 2"),
    "g_idx negative": ({**GPTQ, "desc_act": True}, changed(gptq, "g_idx", ("I32", np.full(IN, -1, "<i4"))), "from -1 to -1"),
    "gptq called awq": (AWQ, gptq, "stored as by gptq, declared awq"),
    "awq called gptq": (GPTQ, awq, "stored as by awq, declared gptq"),
    "weight_shape": (PACKED, changed(packed, "weight_shape", ("I64", np.array([OUT, 64], "<i8"))), "found int8|does not hold"),
    "weight_shape rows": (PACKED, changed(packed, "weight_shape", ("I64", np.array([OUT + 1, IN], "<i8"))), "does not hold"),
    "weight_shape negative": (PACKED, changed(packed, "weight_shape", ("I64", np.array([OUT, -1], "<i8"))), "does not hold"),
    "no weight_scale": (PACKED, without(packed, "weight_scale"), "weight_scale is missing"),
    "int8 without scale": (GOOD["w8a8"][0], without(int8, "weight_scale"), "without a scale"),
    "fp8 without scale": (GOOD["fp8"][0], without(lambda n: fp8(n, shape=(1,)), "weight_scale"), "without a scale"),
    "fp8 blocks": (GOOD["fp8-blocks"][0], lambda n: fp8(n, "weight_scale_inv", (2, 2)), "expected blocks 32x64"),
    "fp8 per tensor, declared per row": (GOOD["float8"][0], lambda n: fp8(n, shape=(1,)), "found groups of the whole tensor, declared 128"),
    "fp8 per tensor, declared in blocks": (GOOD["fp8-blocks"][0], lambda n: fp8(n, shape=(1,)), "found no scales of blocks 32x64"),
    "mxfp4 scales NaN": (GOOD["mxfp4"][0], lambda n: fp4(n, scale=("U8", 32), extra=None, fill=0xFF), "128 of 128 values are NaN"),
    "nvfp4 in groups of 32": (GOOD["nvfp4"][0], lambda n: fp4(n, scale=("F8_E4M3", 32)), "groups of 32, expected 16"),
    "nvfp4 without global scale": (GOOD["nvfp4"][0], lambda n: fp4(n, extra=None), "weight_global_scale is missing"),
    "nf4 called fp4": ({**NF4, "bnb_4bit_quant_type": "fp4"}, nf4, "found nf4, declared fp4"),
    "nf4 too short": (NF4, changed(nf4, "weight", ("U8", np.zeros((7, 1), "u1"))), "weight holds 14 codes, 4096 weights are said"),
    "nf4 absmax": (NF4, changed(nf4, "weight.absmax", ("F32", np.ones(3, "<f4"))), "holds 3 scales, expected 64"),
    "nf4 state": (NF4, changed(nf4, "weight.quant_state.bitsandbytes__nf4", ("U8", np.frombuffer(b"[1]", "u1"))), "quant_state is not"),
    "double quantization": (NF4, lambda n: nf4(n, double=True), "double quantization is found, declared is none"),
    "SCB": (GOOD["bnb8"][0], changed(bnb8, "SCB", ("F32", np.ones(3, "<f4"))), "expected one per row"),
    "empty": (GPTQ, changed(gptq, "qweight", ("I32", np.zeros((0, OUT), "<i4"))), "expected a matrix"),
    "a vector": (GPTQ, changed(gptq, "qweight", ("I32", np.zeros(OUT, "<i4"))), "expected a matrix"),
}


# where the declaration is none of GOOD's: the layer that keeps it
SOUND = {
    "group does not divide": lambda n: gptq(n, group=96, columns=192),
    "asym without zeros": lambda n: gptq(n, zero=3),
    "asym that is sym": lambda n: gptq(n, zero=3),
    "g_idx out of range": gptq,
    "g_idx one too far": gptq,
    "g_idx negative": gptq,
    "nf4 called fp4": lambda n: nf4(n, kind="fp4"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_layer_is_red_and_says_why(folder, case):
    """One layer only, so that the others show that nothing else is blamed."""
    declaration, layer, message = DAMAGED[case]
    sound = SOUND[case] if case in SOUND else next(good for d, good, _, _ in GOOD.values() if d == declaration)
    path = folder(declaration, sound, {LAYERS[1]: layer})
    red = whys(path)
    assert set(red) == {LAYERS[1]}
    assert re.search(message, red[LAYERS[1]]), red


def test_reordered_columns_are_ok_where_declared(folder):
    path = folder({**GPTQ, "desc_act": True}, changed(gptq, "g_idx", SHUFFLED))
    assert whys(path) == {}
    assert linear(path)[LAYERS[0]].found == "int4 g64 sym, 8 inputs per int32, columns reordered"


@pytest.mark.parametrize(
    ("kind", "array"),
    [("F16", np.full((OUT, 2), 65504, "<f2")), ("BF16", np.full((OUT, 2), 0x7F7F, "<u2")), ("F32", np.full((OUT, 2), 3e38, "<f4"))],
    ids=["F16", "BF16", "F32"],
)
def test_the_largest_finite_scale_is_finite(folder, kind, array):
    assert whys(folder(PACKED, changed(packed, "weight_scale", (kind, array)))) == {}


def test_the_largest_exponent_is_finite(folder):
    assert whys(folder(GOOD["mxfp4"][0], lambda n: fp4(n, scale=("F8_E8M0", 32), extra=None, fill=0xFE))) == {}


def test_midpoint_zero_points_are_symmetric_wherever_they_stand(folder):
    assert whys(folder(PACKED, lambda n: packed(n, middle=True))) == {}


# --- which file says it ---------------------------------------------------------------------------


def test_autogptqs_own_file_alone(folder, tmp_path):
    old = {"bits": 4, "group_size": GROUP, "damp_percent": 0.01, "desc_act": False, "sym": True, "true_sequential": True}
    path = folder(None, gptq, files={"quantize_config.json": old})
    (path / "model.safetensors").rename(path / "gptq_model-4bit-64g.safetensors")
    scheme = read_scheme(path)
    assert (scheme.method, str(scheme), scheme.act_order) == ("gptq", "int4 g64 sym", False)
    assert scheme.declared_in.endswith("quantize_config.json")
    assert whys(path) == {}


def test_autoawqs_own_file_alone(folder):
    old = {"zero_point": True, "q_group_size": GROUP, "w_bit": 4, "version": "GEMM"}
    path = folder(None, awq, files={"quant_config.json": old})
    scheme = read_scheme(path)
    assert (scheme.method, str(scheme), scheme.detail["checkpoint_format"]) == ("awq", "int4 g64 asym", "gemm")
    assert whys(path) == {}


def test_modelopts_own_file_alone(folder):
    said = {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    path = folder(None, lambda n: fp4(n, "weight", extra="weight_scale_2"), files={"hf_quant_config.json": {"quantization": said}})
    scheme = read_scheme(path)
    assert (scheme.method, str(scheme), scheme.kv_cache, scheme.ignored) == ("modelopt", "nvfp4 g16", "fp8", ("lm_head",))
    assert whys(path) == {}


def test_modelopts_two_files(folder):
    said = {"quant_algo": "NVFP4", "group_size": 16, "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}
    inline = {
        "quant_method": "modelopt",
        "quant_algo": "NVFP4",
        "ignore": ["lm_head"],
        "kv_cache_scheme": {"dynamic": False, "num_bits": 8, "type": "float"},
    }
    path = folder(inline, lambda n: fp4(n, "weight", extra="weight_scale_2"), files={"hf_quant_config.json": {"quantization": said}})
    assert read_scheme(path).kv_cache == "fp8"
    assert whys(path) == {}


def test_modelopts_mixed_precision(folder):
    layers = {name: {"quant_algo": "NVFP4" if "q_proj" in name else "FP8"} for name in LAYERS}
    said = {"quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers, "exclude_modules": []}}
    mixed = {name: lambda n: fp8(n, shape=(1,)) for name in LAYERS if "down" in name}
    path = folder(None, lambda n: fp4(n, "weight", extra="weight_scale_2"), mixed, files={"hf_quant_config.json": said})
    assert read_scheme(path).weights == "mixed"
    assert whys(path) == {}


def test_two_files_that_contradict_each_other(folder):
    path = folder(AWQ, awq, files={"quant_config.json": {"zero_point": True, "q_group_size": GROUP, "w_bit": 8, "version": "GEMM"}})
    with pytest.raises(SubjectError, match=r"config\.json: quantization_config says weights int4, .*quant_config\.json says int8"):
        read_scheme(path)
    with pytest.raises(SubjectError, match=r"says method awq.*says gptq"):
        read_scheme(folder(AWQ, awq, files={"quant_config.json": {"w_bit": 4}, "quantize_config.json": GPTQ}))


def test_two_files_that_agree_fill_each_others_gaps(folder):
    short = {"quant_method": "gptq", "bits": 4}
    path = folder(short, gptq, files={"quantize_config.json": GPTQ})
    assert str(read_scheme(path)) == "int4 g64 sym"
    assert read_scheme(path).declared_in.endswith("config.json: quantization_config")


def test_a_text_models_own_configuration(folder):
    path = folder(None, gptq, config={"text_config": {"quantization_config": GPTQ}})
    assert str(read_scheme(path)) == "int4 g64 sym"


def test_activations_and_cache_in_words(folder):
    declaration = GOOD["w8a8"][0] | {"kv_cache_scheme": {"num_bits": 8, "type": "float", "dynamic": False, "strategy": "tensor"}}
    scheme = read_scheme(folder(declaration, int8))
    assert (scheme.activations, scheme.kv_cache) == ("int8 dynamic per token", "fp8 static per tensor")


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ({"quant_method": "aqlm"}, "'aqlm' is not known here; .*known: awq, bitsandbytes, compressed-tensors.*gptq"),
        ({"quant_method": "gtpq", "bits": 4}, "did you mean 'gptq'"),
        ({"quant_method": 4}, "quant_method is 4, expected a string"),
        ({}, "no quant_method"),
        ([], "expected an object"),
        ({"quant_method": "gptq"}, "bits is missing"),
        ({"quant_method": "gptq", "bits": "four"}, "bits is 'four', expected an integer"),
        ({"quant_method": "gptq", "bits": True}, "bits is True"),
        ({"quant_method": "gptq", "bits": math.nan}, "bits is nan"),
        ({"quant_method": "gptq", "bits": 99}, "bits is 99"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "group_size is 0"),
        ({"quant_method": "gptq", "bits": 4, "group_size": True}, "group_size is True"),
        ({"quant_method": "gptq", "bits": 4, "group_size": -2}, "group_size is -2"),
        ({"quant_method": "gptq", "bits": 4, "sym": "yes"}, "sym is 'yes'"),
        ({**GPTQ, "dynamic": {"+:(": {"bits": 8}}}, "no regular expression"),
        ({**GPTQ, "dynamic": {"-:(a+)+$": {}}}, "for ever"),
        ({**AWQ, "modules_to_not_convert": "lm_head"}, "expected a list of strings"),
        ({**AWQ, "modules_to_not_convert": [1]}, "strings"),
        ({"quant_method": "compressed-tensors"}, "config_groups is missing"),
        ({"quant_method": "compressed-tensors", "config_groups": {"W4A16": ["Linear"]}}, "expected an object"),
        (compressed(strategy="group"), "without a positive group_size"),
        ({**compressed(), "ignore": ["re:(a|a)*b"]}, "for ever"),
        ({"quant_method": "bitsandbytes"}, "expected exactly one to be true"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "int3"}, "known: fp4, nf4"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, "two positive integers"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "two positive integers"),
        ({"quant_method": "modelopt", "quant_algo": "W1A1"}, "'W1A1' is not known here"),
    ],
    ids=str,
)
def test_a_declaration_that_cannot_be_one(folder, declaration, message):
    with pytest.raises(SubjectError, match=message):
        read_scheme(folder(declaration, plain))


ATOMS = st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=8)
WORDS = st.sampled_from(
    ["Linear", "re:.*", "re:(", "lm_head", "*", "group", "channel", "block", "float", "int", "nf4", "FP8", "MIXED_PRECISION"]
)
KEYS = st.sampled_from([
    "bits", "group_size", "sym", "desc_act", "zero_point", "version", "dynamic", "config_groups", "targets", "weights", "num_bits",
    "type", "strategy", "group_size", "symmetric", "block_structure", "actorder", "input_activations", "ignore", "kv_cache_scheme",
    "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "weight_block_size", "activation_scheme", "modules_to_not_convert",
    "quant_algo", "quantization", "quantized_layers", "exclude_modules", "meta", "quantizer", "lm_head", "format", "checkpoint_format",
    "modules_in_block_to_quantize", "llm_int8_skip_modules", "sparsity_config", "is_marlin_format",
])  # fmt: skip
VALUES = st.recursive(ATOMS | WORDS, lambda v: st.lists(v, max_size=3) | st.dictionaries(KEYS | WORDS, v, max_size=5), max_leaves=12)
METHODS = st.sampled_from(["gptq", "awq", "compressed-tensors", "bitsandbytes", "fp8", "fbgemm_fp8", "modelopt", "mxfp4"])


@settings(derandomize=True, deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(KEYS, VALUES, max_size=8), method=METHODS | VALUES)
def test_any_object_is_a_scheme_or_a_subject_error(folder, values, method):
    path = folder({"quant_method": method, **values}, gptq)
    try:
        scheme = read_scheme(path)
    except SubjectError:
        return
    assert isinstance(scheme, Scheme) and isinstance(scheme.method, str)
    assert all(isinstance(f, TensorFact) and f.ok == (not f.why) for f in inventory(path))


PARTS = ["weight", "qweight", "qzeros", "scales", "g_idx", "weight_packed", "weight_scale", "weight_scale_inv", "weight_shape",
         "weight_zero_point", "weight_scale_2", "weight_global_scale", "weight_g_idx", "SCB", "weight.absmax", "weight.nested_absmax",
         "weight.quant_state.bitsandbytes__nf4"]  # fmt: skip
WIDTHS = {"I32": 4, "F16": 2, "BF16": 2, "U8": 1, "I8": 1, "F8_E4M3": 1, "I64": 8, "F32": 4, "F8_E8M0": 1, "U16": 2, "F4": 0}
TENSOR = st.tuples(st.sampled_from(list(WIDTHS)), st.lists(st.integers(0, 8), max_size=3), st.integers(0, 255))


@settings(derandomize=True, deadline=None, max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.dictionaries(st.sampled_from(PARTS), TENSOR, min_size=1, max_size=6), case=st.sampled_from(list(GOOD)))
def test_any_tensors_are_a_fact(folder, parts, case):
    """Whatever types and shapes stand under a layer's names: red or not, never another exception."""
    path = folder(GOOD[case][0], plain)
    tensors = {
        f"model.layers.0.self_attn.q_proj.{part}": (
            kind,
            np.full(math.prod(shape) * WIDTHS[kind] or math.prod(shape) // 2, fill, "u1"),
            shape,
        )
        for part, (kind, shape, fill) in parts.items()
        if kind != "F4" or math.prod(shape) % 2 == 0
    }
    save(path / "model.safetensors", tensors | {"model.norm.weight": f16(IN)})
    assert all(f.ok == (not f.why) and f.elements >= 0 for f in inventory(path))


# --- hostile files --------------------------------------------------------------------------------


def test_only_pickled_weights_are_refused(folder):
    path = folder(GPTQ, gptq)
    (path / "model.safetensors").unlink()
    (path / "gptq_model-4bit-64g.pt").write_bytes(b"\x80\x02")
    with pytest.raises(SubjectError, match=r"only pickled weights.*never loaded"):
        inventory(path)


def test_a_truncated_shard(folder):
    path = folder(GPTQ, gptq)
    whole = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(SubjectError, match="truncated"):
        inventory(path)


def test_shards(folder):
    path = folder(GPTQ, gptq)
    before = inventory(path)
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}))
    assert inventory(path) == before
    for weight_map, message in (
        ({"x": "../x.safetensors"}, "outside"),
        ({"x": "gone.safetensors"}, "cannot be read"),
        ([], "weight_map is list"),
    ):
        index.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(SubjectError, match=message):
            inventory(path)


def test_links_that_lead_outside(folder, tmp_path):
    path = folder(GPTQ, gptq)
    outside = tmp_path.parent / "outside.safetensors"
    os.replace(path / "model.safetensors", outside)
    (path / "model.safetensors").symlink_to(outside)
    with pytest.raises(SubjectError, match="outside the folder"):
        inventory(path)
    (path / "config.json").unlink()
    (path / "config.json").symlink_to("/dev/zero")
    with pytest.raises(SubjectError, match="not a file"):
        read_scheme(path)
    outside.unlink()


def test_the_links_of_the_hub_cache_are_followed(folder, tmp_path_factory):
    path = folder(GPTQ, gptq)
    cache = tmp_path_factory.mktemp("cache")
    (cache / "blobs").mkdir()
    (cache / "snapshots" / "rev").mkdir(parents=True)
    for file in path.iterdir():
        os.replace(file, cache / "blobs" / file.name)
        (cache / "snapshots" / "rev" / file.name).symlink_to(f"../../blobs/{file.name}")
    assert whys(cache / "snapshots" / "rev") == {}


def test_overlapping_tensors(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    header = {n: {"dtype": "F16", "shape": [4, 4], "data_offsets": [o, o + 32]} for n, o in (("a.weight", 0), ("b.weight", 16))}
    head = json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(48))
    with pytest.raises(SubjectError, match=r"'a\.weight' and 'b\.weight' overlap"):
        inventory(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        "",
        "[]",
        "{",
        '{"quantization_config": 3}',
        "[" * 100_000,
        '{"quantization_config": ' + '{"a":' * 900 + "1" + "}" * 901,
        '{"a": ' + "9" * 5000 + "}",
    ],
    ids=["empty", "list", "cut", "number", "deep list", "deep object", "long number"],
)
def test_a_configuration_that_is_none(folder, config):
    path = folder(None, plain)
    (path / "config.json").write_text(config)
    with pytest.raises(SubjectError):
        read_scheme(path)


def test_a_configuration_that_is_too_large(folder):
    path = folder(None, plain)
    (path / "config.json").write_text('{"a": "' + "x" * (17 << 20) + '"}')
    with pytest.raises(SubjectError, match="at most"):
        read_scheme(path)


@pytest.mark.parametrize(
    "header",
    [
        '{"a": {"dtype": "F16", "shape": [Infinity], "data_offsets": [0, 2]}}',
        '{"a": {"dtype": "F16", "shape": [' + "9" * 5000 + '], "data_offsets": [0, 2]}}',
    ],
    ids=["infinite", "long number"],
)
def test_a_header_with_numbers_that_are_none(tmp_path, header):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(2))
    with pytest.raises(SubjectError):
        inventory(tmp_path)


def test_no_folder_and_no_weights(tmp_path):
    with pytest.raises(SubjectError, match="expected a model folder"):
        inventory(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(SubjectError, match="0 safetensors files"):
        inventory(tmp_path)


# --- GGUF -----------------------------------------------------------------------------------------


def gguf(tmp_path, kind, file_type):
    """One block matrix of 256 columns of a ggml type, an F32 norm, a Q8_0 embedding."""
    sizes = {0: 4 * 256, 1: 512, 2: 8 * 18, 12: 144, 8: 8 * 34, 14: 210}
    tensors = [("blk.0.attn_q.weight", (256, 1), kind, 0, sizes[kind]), ("output_norm.weight", (256,), 0, 4096, 1024)]
    tensors.append(("token_embd.weight", (256, 1), 14, 8192, 210))
    path = tmp_path / "model.gguf"
    path.write_bytes(
        gguf_bytes([("general.file_type", 4, struct.pack("<I", file_type), None), ("general.name", 8, text("x"), None)], tensors)
    )
    return path


def test_gguf(tmp_path):
    path = gguf(tmp_path, 12, 15)
    scheme = read_scheme(path)
    assert (scheme.method, scheme.weights, scheme.bits) == ("gguf", "Q4_K_M", 4.5)
    facts = {f.name: f for f in inventory(path)}
    assert {n: (f.kind, f.found, f.ok) for n, f in facts.items()} == {
        "blk.0.attn_q": ("linear", "Q4_K", True),
        "output_norm": ("norm", "F32", True),
        "token_embd": ("embedding", "Q6_K", True),
    }
    assert facts["blk.0.attn_q"].bits == 4.5
    assert not facts["output_norm"].expected_quantized


def test_gguf_that_is_not_what_it_calls_itself(tmp_path):
    red = [f for f in inventory(gguf(tmp_path, 1, 15)) if not f.ok]
    assert [f.name for f in red] == ["blk.0.attn_q"]
    assert "left unquantized without cause" in red[0].why
    red = [f for f in inventory(gguf(tmp_path, 2, 1)) if not f.ok]
    assert {f.name for f in red} == {"blk.0.attn_q", "token_embd"}
    assert "found Q4_0, expected F16" in red[0].why
