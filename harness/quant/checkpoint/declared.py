"""From any producer's configuration, old or new, to one Scheme.

Field names and defaults are those of AutoGPTQ's BaseQuantizeConfig, gptqmodel's QuantizeConfig,
autoawq's AwqConfig, compressed-tensors' QuantizationConfig, transformers' quantization_config.py and
vLLM's quantization/*.py; no library of theirs is loaded. Files are hostile: whatever is not of the
expected type is a SubjectError.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines.common import load_json
from harness.engines.gguf_header import TYPES, Header, file_type, read_header
from harness.errors import SubjectError, nearest
from harness.quant.checkpoint.scheme import CLASSES, Scheme, check_patterns, is_regex

__all__ = ["gguf_scheme", "read_scheme", "regular"]


def read_scheme(path: str | Path) -> Scheme:
    """What a Hugging Face folder or a GGUF file declares itself to be; method "none" for nothing.

    Raises SubjectError for a file or folder that cannot be read, an unknown method, values of a
    wrong type, and two files of one folder that contradict each other.
    """
    path = Path(path)
    if path.is_file():
        return gguf_scheme(read_header(path))
    config = _load(path / "config.json")
    found = [_parse(c) for c in _declarations(path, config)]
    if not found:
        return _unquantized(config, "config.json")
    for other in found[1:]:
        _agree(path, found[0], other)
    return _filled(found)


def regular(path: Path) -> bool:
    """Whether ``path`` is a file inside its folder, or in the blobs of the Hugging Face cache it is a snapshot of.

    Raises SubjectError for a link that leads anywhere else.
    """
    if not path.is_file():
        return False
    folder = path.parent.resolve()
    allowed = [folder] + ([folder.parent.parent / "blobs"] if folder.parent.name == "snapshots" else [])
    target = path.resolve()
    if target.parent not in allowed:
        raise SubjectError(f"{path}: a link to {target}, outside the folder; copy the file in its place")
    return True


# --- reading a configuration that may hold anything ----------------------------------------------

_MAX_CONFIG = 16 << 20  # bytes; the largest real ones list every layer and stay below a tenth of it
_MAX_NAMES = 50_000


@dataclass(frozen=True, slots=True)
class _Config:
    """A JSON object and where it stands; each getter returns a value of its type, None if absent or null."""

    values: Mapping[str, Any]
    where: str

    def get(self, keys: tuple[str, ...], types: tuple[type, ...], expected: str) -> Any:
        for key in keys:
            value = self.values.get(key)
            if value is None:
                continue
            if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
                raise SubjectError(f"{self.where}: {key} is {_shown(value)}, expected {expected}")
            return value
        return None

    def integer(self, *keys: str, low: int, high: int) -> int | None:
        value = self.get(keys, (int,), f"an integer from {low} to {high}")
        if value is not None and not low <= value <= high:
            raise SubjectError(f"{self.where}: {keys[0]} is {_shown(value)}, expected an integer from {low} to {high}")
        return None if value is None else int(value)

    def flag(self, *keys: str) -> bool | None:
        value: bool | None = self.get(keys, (bool,), "true or false")
        return value

    def text(self, *keys: str) -> str | None:
        value: str | None = self.get(keys, (str,), "a string")
        return value

    def names(self, *keys: str) -> tuple[str, ...]:
        value = self.get(keys, (list,), "a list of strings") or []
        if len(value) > _MAX_NAMES or not all(isinstance(v, str) for v in value):
            raise SubjectError(f"{self.where}: {keys[0]} is expected to list at most {_MAX_NAMES} strings")
        return tuple(value)

    def table(self, *keys: str) -> _Config | None:
        value = self.get(keys, (dict,), "an object")
        return None if value is None else _Config(value, f"{self.where}: {keys[0]}")

    def tables(self) -> list[tuple[str, _Config]]:
        """Every value, each of which has to be an object; null stands for an empty one."""
        return [(key, self.table(key) or _Config({}, f"{self.where}: {key}")) for key in self.values]

    def block(self, *keys: str) -> tuple[int, int] | None:
        value = self.get(keys, (list,), "two positive integers")
        if value is None:
            return None
        if len(value) != 2 or not all(type(v) is int and 0 < v <= 1 << 20 for v in value):
            raise SubjectError(f"{self.where}: {keys[0]} is {_shown(value)}, expected two positive integers")
        return value[0], value[1]

    def need(self, value: Any, key: str, expected: str) -> Any:
        if value is None:
            raise SubjectError(f"{self.where}: {key} is missing, expected {expected}")
        return value


def _shown(value: Any) -> str:
    # a nested value may be too deep to print
    return repr(value)[:60] if isinstance(value, str | int | float | bool) else type(value).__name__


def _load(path: Path) -> _Config:
    if regular(path) and path.stat().st_size > _MAX_CONFIG:
        raise SubjectError(f"{path}: {path.stat().st_size} bytes, expected a configuration of at most {_MAX_CONFIG}")
    if path.exists() and not path.is_file():
        raise SubjectError(f"{path}: not a file; expected a model folder")
    return _Config(load_json(path), str(path))


# --- which files declare something ---------------------------------------------------------------


def _declarations(folder: Path, config: _Config) -> list[_Config]:
    """Every declaration of a folder, config.json's first."""
    text = config.table("text_config")
    inline = [t for c in (config, text) if c for t in [c.table("quantization_config", "compression_config")] if t]
    side = [
        _load(folder / name) for name in ("quantize_config.json", "quant_config.json", "hf_quant_config.json") if regular(folder / name)
    ]
    return inline[:1] + [_named(c) for c in side]


def _named(config: _Config) -> _Config:
    """A producer's own file, with the method it leaves unsaid: old files give none."""
    values = dict(config.values)
    if isinstance(values.get("quantization"), dict):  # modelopt's
        values.setdefault("quant_method", "modelopt")
    elif "w_bit" in values or str(values.get("version", "")).lower() in _AWQ_VERSIONS:
        values.setdefault("quant_method", "awq")
    elif "bits" in values and "method" not in values:
        values.setdefault("quant_method", "gptq")
    return _Config(values, config.where)


def _parse(config: _Config) -> Scheme:
    method = config.text("quant_method", "method")
    if method is None and {"load_in_4bit", "load_in_8bit"} & set(config.values):
        method = "bitsandbytes"  # transformers before 4.33 wrote no quant_method
    if method is None and "bits" in config.values and {"desc_act", "damp_percent"} & set(config.values):
        method = "gptq"
    if method is None:
        raise SubjectError(f"{config.where}: no quant_method; {nearest('', list(_READERS))}")
    word = method.lower().replace("_", "-")
    name = next((m for m in _READERS if word == m or (m == "modelopt" and word.startswith("modelopt"))), None)
    if name is None:
        raise SubjectError(f"{config.where}: quant_method {method[:40]!r} is not known here; {nearest(word, list(_READERS))}")
    return replace(_READERS[name](config), declared_in=config.where)


def _agree(folder: Path, first: Scheme, other: Scheme) -> None:
    """Raises SubjectError where two files of a folder say different things."""
    for what in ("method", "weights", "group_size", "symmetric", "zero_points", "act_order", "kv_cache", "checkpoint_format"):
        one, two = (s.detail.get(what) if what == "checkpoint_format" else getattr(s, what) for s in (first, other))
        if one is not None and two is not None and one != two:
            raise SubjectError(
                f"{folder}: {first.declared_in} says {what} {one}, {other.declared_in} says {two}; "
                "an engine reads one or the other: delete the one that is wrong"
            )


def _filled(found: list[Scheme]) -> Scheme:
    """The first declaration, with what only the others say."""
    first, *others = found
    gaps: dict[str, Any] = {}
    for other in others:
        for what in ("group_size", "symmetric", "zero_points", "act_order", "activations", "kv_cache"):
            if getattr(first, what) is None and gaps.get(what) is None:
                gaps[what] = getattr(other, what)
        gaps["detail"] = {**other.detail, **gaps.get("detail", {}), **first.detail}
        gaps["ignored"] = gaps.get("ignored") or first.ignored or other.ignored
        gaps["rules"] = gaps.get("rules") or first.rules or other.rules
    return replace(first, **gaps)


# --- the methods ---------------------------------------------------------------------------------

_AWQ_VERSIONS = ("gemm", "gemv", "gemv_fast", "llm-awq")
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}


def _unquantized(config: _Config, where: str) -> Scheme:
    dtype = config.text("dtype", "torch_dtype") or ""
    return Scheme("none", _DTYPES.get(dtype.removeprefix("torch."), "not declared"), declared_in=where)


def _group(config: _Config, *keys: str) -> int | None:
    group = config.integer(*keys, low=-1, high=1 << 20)
    if group == 0:
        raise SubjectError(f"{config.where}: {keys[0]} is 0, expected -1 or a positive integer")
    return group


def _kept(config: _Config, *keys: str) -> dict[str, Any]:
    """The scalars worth knowing that are there, for Scheme.detail."""
    return {k: v for k in keys if isinstance(v := config.values.get(k), str | int | float | bool)}


def _gptq(config: _Config) -> Scheme:
    bits = config.need(config.integer("bits", "w_bit", "wbits", low=2, high=8), "bits", "2, 3, 4 or 8")
    symmetric = config.flag("sym")
    layout = (config.text("checkpoint_format", "format") or "").lower()
    if config.flag("is_marlin_format"):
        layout = "marlin"
    base = Scheme(
        "gptq",
        f"int{bits}",
        bits,
        _group(config, "group_size", "q_group_size"),
        symmetric,
        None if symmetric is None else not symmetric,
        config.flag("desc_act"),
        detail=_kept(config, "static_groups", "damp_percent", "lm_head", "true_sequential")
        | ({"checkpoint_format": layout} if layout else {}),
    )
    meta = config.table("meta")
    quantizer = meta.values.get("quantizer") if meta else None
    if isinstance(quantizer, list) and quantizer and isinstance(quantizer[0], str):
        base = replace(base, detail={**base.detail, "producer": quantizer[0]})
    only = _flat_names(config, "modules_in_block_to_quantize")
    rules = _dynamic(config, base)
    base = replace(base, rules=rules, ignored=tuple(p for p, own in rules.items() if own is None))
    return replace(base, detail={**base.detail, "only": only}) if only else base


def _flat_names(config: _Config, key: str) -> tuple[str, ...]:
    value = config.get((key,), (list,), "a list of lists of strings") or []
    flat = [n for part in value for n in (part if isinstance(part, list) else [part])]
    return _Config({key: flat}, config.where).names(key)


def _dynamic(config: _Config, base: Scheme) -> dict[str, Scheme | None]:
    """gptqmodel's rules: "-:REGEX" leaves layers alone, "+:REGEX" or a bare one gives them other values."""
    table = config.table("dynamic") or _Config({}, config.where)
    rules: dict[str, Scheme | None] = {}
    for pattern, changed in table.tables():
        own = None
        if not pattern.startswith("-:"):
            bits = changed.integer("bits", low=2, high=8) or base.bits
            sym, act = changed.flag("sym"), changed.flag("desc_act")
            own = replace(base, weights=f"int{bits:g}", bits=bits, group_size=_group(changed, "group_size") or base.group_size)
            own = replace(own, act_order=base.act_order if act is None else act)
            own = own if sym is None else replace(own, symmetric=sym, zero_points=not sym)
        rule = "re:" + pattern.removeprefix("-:").removeprefix("+:")
        rules.setdefault(rule, own)
    check_patterns(rules, config.where)
    return rules


def _awq(config: _Config) -> Scheme:
    bits = config.need(config.integer("bits", "w_bit", low=2, high=8), "bits", "4")
    zeros, symmetric = config.flag("zero_point"), config.flag("sym")
    if zeros is None and symmetric is not None:  # gptqmodel's word for it
        zeros = not symmetric
    base = Scheme(
        "awq",
        f"int{bits}",
        bits,
        _group(config, "group_size", "q_group_size"),
        None if zeros is None else not zeros,
        zeros,
        ignored=config.names("modules_to_not_convert"),
        detail={"checkpoint_format": (config.text("version", "checkpoint_format", "format") or "gemm").lower()},
    )
    return replace(base, rules=_dynamic(config, base))


def _compressed(config: _Config) -> Scheme:
    groups: _Config = config.need(config.table("config_groups"), "config_groups", "an object of groups of layers")
    ignored = config.names("ignore")
    check_patterns(ignored, config.where)
    found: dict[str, Scheme] = {}
    for _, group in groups.tables():
        targets, weights = group.names("targets"), group.table("weights")
        check_patterns(targets, group.where)
        if weights is not None:
            own = _compressed_group(group, weights)
            for target in targets:
                found.setdefault(target, own)
    # a pattern comes before a class: compressed-tensors' match_targets
    rules = {target: found[target] for target in sorted(found, key=CLASSES.__contains__)}
    kv = config.table("kv_cache_scheme")
    detail = _kept(config, "format", "quantization_status", "version")
    merged = _merged(list(rules.values())) or Scheme("compressed-tensors", "none")
    sparsity = config.table("sparsity_config")
    if sparsity and sparsity.values:
        detail |= {"sparsity": sparsity.text("format") or "not said"}
    kv_text = _quantized_as(kv) if kv else None
    return replace(merged, ignored=ignored, rules=rules, kv_cache=kv_text, detail={**merged.detail, **detail})


def _compressed_group(group: _Config, weights: _Config) -> Scheme:
    """One config group: QuantizationArgs of weights and activations."""
    bits = weights.integer("num_bits", low=1, high=16) or 8
    strategy, size = weights.text("strategy"), _group(weights, "group_size")
    group_size = -1 if strategy == "channel" else size
    if strategy in ("group", "tensor_group") and (size or 0) <= 0:
        raise SubjectError(f"{weights.where}: strategy {strategy} without a positive group_size")
    block = weights.block("block_structure") if strategy == "block" else None
    floats = weights.text("type") == "float"
    symmetric = weights.flag("symmetric")
    symmetric = True if symmetric is None else symmetric
    order = weights.get(("actorder",), (str, bool), "a string or false")
    detail = {"block_size": block} if block else {}
    inputs = group.table("input_activations")
    return Scheme(
        "compressed-tensors",
        _float_name(bits, group_size) if floats else f"int{bits}",
        bits,
        group_size,
        None if floats else symmetric,
        None if floats else not symmetric,
        bool(order),
        _quantized_as(inputs) if inputs else None,
        detail=detail | ({"actorder": order} if order else {}) | _kept(group, "format"),
    )


def _float_name(bits: int, group_size: int | None) -> str:
    if bits == 8:
        return "mxfp8" if group_size == 32 else "fp8_e4m3"
    return "mxfp4" if group_size == 32 else "nvfp4"


def _quantized_as(config: _Config) -> str:
    """Activations or a key-value cache in words: "int8 dynamic per token"."""
    bits = config.integer("num_bits", low=1, high=16) or 8
    floats = config.text("type") == "float"
    dynamic = config.get(("dynamic",), (str, bool), "true, false or 'local'")
    how = dynamic[:20] if isinstance(dynamic, str) else "dynamic" if dynamic else "static"
    return f"{'fp' if floats else 'int'}{bits} {how} per {(config.text('strategy') or 'tensor')[:20]}"


def _merged(schemes: list[Scheme]) -> Scheme | None:
    """What several groups have in common; weights "mixed" and None where they differ."""
    if not schemes:
        return None
    first = schemes[0]
    same = all(s.weights == first.weights for s in schemes)
    common: dict[str, Any] = {
        what: getattr(first, what) if all(getattr(s, what) == getattr(first, what) for s in schemes) else None
        for what in ("bits", "group_size", "symmetric", "zero_points", "act_order", "activations")
    }
    return replace(first, weights=first.weights if same else "mixed", detail=first.detail if same else {}, **common)


def _left_alone(config: _Config, key: str) -> tuple[str, ...]:
    """transformers' lists of layers, whose entries may be regular expressions."""
    names = config.names(key)
    check_patterns([f"re:{name}" for name in names if is_regex(name)], config.where)
    return names


def _bitsandbytes(config: _Config) -> Scheme:
    eight, four = config.flag("load_in_8bit", "_load_in_8bit"), config.flag("load_in_4bit", "_load_in_4bit")
    if bool(eight) == bool(four):
        raise SubjectError(f"{config.where}: load_in_8bit is {eight}, load_in_4bit {four}; expected exactly one to be true")
    ignored = _left_alone(config, "llm_int8_skip_modules")
    if eight:
        detail = _kept(config, "llm_int8_threshold", "llm_int8_has_fp16_weight")
        return Scheme("bitsandbytes", "int8", 8, -1, True, False, activations="int8 dynamic per token", ignored=ignored, detail=detail)
    kind = (config.text("bnb_4bit_quant_type") or "fp4").lower()
    if kind not in ("nf4", "fp4"):
        raise SubjectError(f"{config.where}: bnb_4bit_quant_type {kind[:40]!r}; {nearest(kind, ['nf4', 'fp4'])}")
    double = config.flag("bnb_4bit_use_double_quant")
    detail = _kept(config, "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage") | {"double_quant": bool(double)}
    return Scheme("bitsandbytes", kind, 4, ignored=ignored, detail=detail)


def _fp8(config: _Config) -> Scheme:
    block = config.block("weight_block_size")
    activations = config.text("activation_scheme")
    return Scheme(
        "fp8",
        "fp8_e4m3",
        8,
        activations=f"fp8 {activations[:20]}" if activations else None,
        ignored=_left_alone(config, "ignored_layers") or _left_alone(config, "modules_to_not_convert"),
        detail=({"block_size": block} if block else {}) | _kept(config, "fmt", "scale_fmt"),
    )


def _fbgemm(config: _Config) -> Scheme:
    ignored = _left_alone(config, "modules_to_not_convert")
    return Scheme("fp8", "fp8_e4m3", 8, -1, activations="fp8 dynamic per token", ignored=ignored, detail={"producer": "fbgemm"})


# modelopt's quant_algo -> weights, bits, group size, activations; vLLM's modelopt.py
_ALGOS: dict[str, tuple[str, int, int | None, str | None]] = {
    "FP8": ("fp8_e4m3", 8, None, "fp8 static per tensor"),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8_e4m3", 8, -1, "fp8 dynamic per token"),
    "FP8_PB_WO": ("fp8_e4m3", 8, None, None),
    "FP8_BLOCK_SCALES": ("fp8_e4m3", 8, None, None),
    "NVFP4": ("nvfp4", 4, 16, "fp4 local per group"),
    "NVFP4_AWQ": ("nvfp4", 4, 16, "fp4 local per group"),
    "W4A16_NVFP4": ("nvfp4", 4, 16, None),
    "MXFP8": ("mxfp8", 8, 32, "fp8 dynamic per group"),
}


def _modelopt(config: _Config) -> Scheme:
    inner = config.table("quantization") or config
    algo = inner.need(inner.text("quant_algo"), "quant_algo", f"one of {', '.join(_ALGOS)}").upper()
    kv = inner.table("kv_cache_scheme")
    kv_cache = inner.text("kv_cache_quant_algo") or (_quantized_as(kv).split()[0] if kv else None)  # "fp8" in both files
    ignored = inner.names("exclude_modules", "ignore")
    layers = inner.table("quantized_layers") or _Config({}, inner.where)
    if algo != "MIXED_PRECISION":
        base = _algo(inner, algo)
        return replace(base, ignored=ignored, kv_cache=kv_cache and kv_cache.lower())
    rules: dict[str, Scheme] = {}
    for name, layer in layers.tables():
        own = layer.need(layer.text("quant_algo"), "quant_algo", f"one of {', '.join(_ALGOS)}")
        rules[name] = _algo(layer, own.upper())
    merged = _merged(list(rules.values())) or Scheme("modelopt", "none")
    return replace(merged, ignored=ignored, kv_cache=kv_cache and kv_cache.lower(), rules=rules, detail={"quant_algo": algo})


def _algo(config: _Config, algo: str) -> Scheme:
    if algo not in _ALGOS:
        raise SubjectError(f"{config.where}: quant_algo {algo[:40]!r} is not known here; {nearest(algo, [*_ALGOS, 'MIXED_PRECISION'])}")
    weights, bits, group, activations = _ALGOS[algo]
    size = _group(config, "group_size")
    blocks = {"block_size": (128, 128)} if algo in ("FP8_PB_WO", "FP8_BLOCK_SCALES") else {}
    group = size if size is not None and group not in (None, -1) else group
    return Scheme("modelopt", weights, bits, group, activations=activations, detail={"quant_algo": algo, **blocks})


def _mxfp4(config: _Config) -> Scheme:
    return Scheme("mxfp4", "mxfp4", 4, 32, ignored=_left_alone(config, "modules_to_not_convert"))


_READERS: dict[str, Callable[[_Config], Scheme]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "bitsandbytes": _bitsandbytes,
    "fp8": _fp8,
    "fbgemm-fp8": _fbgemm,
    "modelopt": _modelopt,
    "mxfp4": _mxfp4,
}


def gguf_scheme(header: Header) -> Scheme:
    """What a GGUF file calls itself; ``bits`` are those of the type it is named after, scales included."""
    name = file_type(header)
    base = next((t for t in sorted(TYPES.values(), key=lambda t: -len(t[0])) if name == t[0] or name.startswith(t[0] + "_")), None)
    bits = 8 * base[2] / base[1] if base else None
    by = {k: v for k in ("general.quantized_by", "general.quantization_version") if isinstance(v := header.metadata.get(k), str | int)}
    return Scheme("gguf", name or "not declared", bits, declared_in=header.path, detail=by)
