"""Between GGUF and Hugging Face folders, in both directions, refusing what is not finite.

torch, transformers, numpy and ``gguf`` are imported inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.common import install, load_json, quiet_transformers, safetensors_entries
from harness.engines.gguf_header import Header, read_header
from harness.errors import MissingNeed, SubjectError, nearest
from harness.quant.gguf import atomic, flush, need_gguf

__all__ = ["FLOAT_CODES", "convert", "dequantize", "widened"]


# --- GGUF -> Hugging Face ------------------------------------------------------------------------


def dequantize(gguf_path: str | Path, out_dir: str | Path) -> None:
    """Writes a GGUF model as a Hugging Face folder: bf16 safetensors, config, tokenizer, template.

    The folder is loadable without ``trust_remote_code`` and names no quantization any more.
    Raises SubjectError if the file is unusable or a tensor is not finite, MissingNeed without
    torch, transformers, accelerate or gguf.
    """
    header = read_header(gguf_path)
    out = Path(out_dir)
    source = Path(gguf_path).resolve()
    torch, transformers = _need_torch("dequantize a GGUF file")
    # transformers prints bars and a warning for every step; a person reads one line from us
    with quiet_transformers():
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(source.parent), gguf_file=source.name, dtype=torch.bfloat16, local_files_only=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(source.parent), gguf_file=source.name, local_files_only=True)
    _check_finite(model, torch, str(gguf_path))
    # save_pretrained refuses a model that calls itself quantized, which it no longer is
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    for name in ("_model_name_or_path", "_name_or_path"):
        model.config.__dict__.pop(name, None)
    _fix_tokenizer(tokenizer, header)
    out.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)


def _fix_tokenizer(tokenizer: Any, header: Header) -> None:
    """Undoes what transformers 5.17 makes of a GGUF tokenizer.

    It takes the first special token for the end, knows no padding token, splits digits by another
    rule than the file's, and on decoding replaces characters and removes blanks before commas.
    """
    tokens = header.metadata.get("tokenizer.ggml.tokens", ())
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("unk_token", "unknown"), ("pad_token", "padding")):
        index = header.metadata.get(f"tokenizer.ggml.{key}_token_id")
        if isinstance(index, int) and 0 <= index < len(tokens):
            setattr(tokenizer, name, tokens[index])
    template = header.metadata.get("tokenizer.chat_template")
    if isinstance(template, str):
        tokenizer.chat_template = template
    length = header.metadata.get(f"{header.metadata.get('general.architecture')}.context_length")
    if isinstance(length, int):
        tokenizer.model_max_length = length
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.init_kwargs["clean_up_tokenization_spaces"] = False
    for name in ("is_local", "local_files_only", "legacy"):
        tokenizer.init_kwargs.pop(name, None)
    if header.metadata.get("tokenizer.ggml.pre") == "smollm":
        _split_like_smollm(tokenizer.backend_tokenizer)


def _split_like_smollm(backend: Any) -> None:
    from tokenizers import decoders, pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    backend.decoder = decoders.ByteLevel()


def _check_finite(model: Any, torch: Any, where: str) -> None:
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise SubjectError(f"{where}: tensor {name!r} holds NaN or infinite values; the file is damaged, fetch or build it again")


def _need_torch(what: str) -> tuple[Any, Any]:
    try:
        import accelerate  # noqa: F401  # transformers loads GGUF through it
        import gguf  # noqa: F401
        import torch
        import transformers
    except ImportError as error:
        raise MissingNeed("hf", f"{error.name} is needed to {what}", install("hf")) from error
    return torch, transformers


# --- Hugging Face -> GGUF ------------------------------------------------------------------------


def convert(hf_dir: str | Path, out_path: str | Path, *, dtype: str = "f16") -> None:
    """Writes a llama-family Hugging Face folder as a GGUF file, without torch.

    ``dtype`` is the type of the matrices: "f16", "bf16" or "f32"; vectors are always F32. Shards are
    read through their index. Raises SubjectError for another architecture or tokenizer, a missing,
    truncated or non-finite tensor, StoreError if the file cannot be written whole, MissingNeed
    without gguf and numpy.
    """
    gguf = need_gguf("convert to GGUF")
    if dtype not in _DTYPES:
        raise SubjectError(f"dtype {dtype!r}; {nearest(dtype, list(_DTYPES))}")
    folder, out = Path(hf_dir), Path(out_path)
    config = _llama_config(folder)
    tensors = _Safetensors(folder)
    vocabulary = _vocabulary(folder, config)
    names = _tensor_names(gguf, config, tensors)
    with atomic(out) as scratch:
        writer = gguf.GGUFWriter(scratch, "llama")
        _write_hparams(writer, folder, config, dtype)
        _write_vocabulary(writer, vocabulary)
        for source, target in names.items():
            _write_tensor(gguf, writer, config, target, tensors.array(source), dtype, f"{folder}: {source}")
        flush(writer)
        read_header(scratch)


_DTYPES = {"f32": 0, "f16": 1, "bf16": 32}  # general.file_type


def _llama_config(folder: Path) -> dict[str, Any]:
    config = load_json(folder / "config.json")
    if config.get("model_type") != "llama":
        raise SubjectError(f"{folder}: model_type {config.get('model_type')!r}, expected 'llama' for GGUF conversion")
    if config.get("quantization_config"):
        raise SubjectError(f"{folder}: quantized weights; convert the unquantized folder instead")
    if config.get("attention_bias") or config.get("mlp_bias"):
        raise SubjectError(f"{folder}: biases in attention or MLP are not supported by this conversion")
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise SubjectError(f"{folder}: rope scaling {rope}, expected rope_type 'default' for GGUF conversion")
    needed = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    for key in needed:
        if not isinstance(config.get(key), int) or config[key] < 1:
            raise SubjectError(f"{folder}/config.json: {key} is {config.get(key)!r}, expected a positive integer")
    config.setdefault("num_key_value_heads", config["num_attention_heads"])
    config["head_dim"] = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    config["rope_theta"] = rope.get("rope_theta", config.get("rope_theta", 10000.0))
    return config


FLOAT_CODES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How numpy reads the floats of safetensors; it knows no bf16."""


def widened(data: Any, kind: str) -> Any:
    """Stored floats as numbers: bf16, which is the upper half of a float32, as float32; the others as they are."""
    import numpy as np

    return (data.astype("<u4") << 16).view("<f4") if kind == "BF16" else np.asarray(data)


class _Safetensors:
    """The tensors of a folder's safetensors files as memory maps, checked against their headers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries = safetensors_entries(folder)
        for name, (path, kind, _shape, _offset) in self.entries.items():
            if kind not in FLOAT_CODES:
                raise SubjectError(f"{path}: tensor {name!r} has type {kind}, expected {', '.join(FLOAT_CODES)}")

    def array(self, name: str) -> Any:
        """The tensor as float32 or float16, of its own shape. Raises SubjectError unless finite."""
        import numpy as np

        path, kind, shape, offset = self.entries[name]
        data: Any = np.memmap(path, dtype=FLOAT_CODES[kind], mode="r", offset=offset, shape=shape)
        array = widened(data, kind)
        if not np.isfinite(array).all():
            raise SubjectError(f"{path}: tensor {name!r} holds NaN or infinite values; the file is damaged, fetch or build it again")
        return array


def _tensor_names(gguf: Any, config: Mapping[str, Any], tensors: _Safetensors) -> dict[str, str]:
    """Name in the folder -> name in GGUF; refuses missing and unknown tensors."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    tied = bool(config.get("tie_word_embeddings"))
    names: dict[str, str] = {}
    for source in tensors.entries:
        if source.endswith("rotary_emb.inv_freq") or (tied and source == "lm_head.weight"):
            continue
        target = table.get_name(source, try_suffixes=(".weight",))
        if target is None:
            raise SubjectError(f"{tensors.folder}: tensor {source!r} does not belong to a llama model")
        names[source] = target
    missing = _expected_tensors(config["num_hidden_layers"], tied) - set(names.values())
    if missing:
        raise SubjectError(f"{tensors.folder}: {len(missing)} tensors are missing, like {min(missing)!r}")
    return names


def _expected_tensors(layers: int, tied: bool) -> set[str]:
    parts = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")
    expected = {f"blk.{i}.{part}.weight" for i in range(layers) for part in parts}
    return expected | {"token_embd.weight", "output_norm.weight"} | (set() if tied else {"output.weight"})


def _write_tensor(gguf: Any, writer: Any, config: Mapping[str, Any], name: str, array: Any, dtype: str, where: str) -> None:
    import numpy as np

    if name.endswith(("attn_q.weight", "attn_k.weight")):
        heads = config["num_attention_heads" if "attn_q" in name else "num_key_value_heads"]
        array = _permute(array, heads)
    if array.ndim == 1 or dtype == "f32":
        writer.add_tensor(name, np.ascontiguousarray(array, dtype=np.float32))
    elif dtype == "f16":
        with np.errstate(over="ignore"):
            half = np.ascontiguousarray(array, dtype=np.float16)
        if not np.isfinite(half).all():
            raise SubjectError(f"{where}: values above 65504 do not fit into f16; convert with dtype='bf16'")
        writer.add_tensor(name, half)
    else:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(array.astype(np.float32), kind), raw_dtype=kind)


def _permute(array: Any, heads: int) -> Any:
    """Rows from Hugging Face's rotary order (halves) to llama.cpp's (pairs), head by head."""
    rows, columns = array.shape
    return array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_hparams(writer: Any, folder: Path, config: Mapping[str, Any], dtype: str) -> None:
    writer.add_type("model")
    writer.add_name(folder.name)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config.get("max_position_embeddings", 2048))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    if config["head_dim"] * config["num_attention_heads"] != config["hidden_size"]:
        writer.add_key_length(config["head_dim"])
        writer.add_value_length(config["head_dim"])
    writer.add_rope_freq_base(float(config["rope_theta"]))
    writer.add_layer_norm_rms_eps(float(config.get("rms_norm_eps", 1e-6)))
    writer.add_file_type(_DTYPES[dtype])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_rope_dimension_count(config["head_dim"])


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: list[str]
    types: list[int]
    merges: list[str]
    pre: str
    ids: dict[str, int]  # bos, eos, unk, pad
    add_bos: bool
    template: str


def _vocabulary(folder: Path, config: Mapping[str, Any]) -> _Vocabulary:
    tokenizer = load_json(folder / "tokenizer.json")
    settings = load_json(folder / "tokenizer_config.json")
    model = tokenizer.get("model") or {}
    if model.get("type") != "BPE":
        raise SubjectError(f"{folder}/tokenizer.json: model type {model.get('type')!r}, expected byte-level 'BPE'")
    size = config["vocab_size"]
    tokens, types = [f"[PAD{i}]" for i in range(size)], [5] * size  # unused, until named
    added = {entry["content"]: entry for entry in tokenizer.get("added_tokens", [])}
    known = {**model["vocab"], **{text: entry["id"] for text, entry in added.items()}}
    for text, index in known.items():
        if not 0 <= index < size:
            raise SubjectError(f"{folder}: token {text!r} has id {index}, outside the vocabulary of {size}")
        tokens[index] = text
        types[index] = 1 if text not in added else 3 if added[text].get("special") else 4
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    ids = _special_ids(settings, config, known)
    bos = tokens[ids["bos"]] if "bos" in ids else ""
    return _Vocabulary(tokens, types, merges, _pre(folder, tokenizer), ids, _adds_bos(tokenizer, bos), _template(folder, settings))


def _special_ids(settings: Mapping[str, Any], config: Mapping[str, Any], known: Mapping[str, int]) -> dict[str, int]:
    ids = {}
    for name in ("bos", "eos", "unk", "pad"):
        token = settings.get(f"{name}_token")
        text = token.get("content") if isinstance(token, dict) else token
        index = known.get(text) if text else config.get(f"{name}_token_id")
        index = index[0] if isinstance(index, list) and index else index
        if isinstance(index, int) and 0 <= index < config["vocab_size"]:
            ids[name] = index
    return ids


def _pre(folder: Path, tokenizer: Mapping[str, Any]) -> str:
    """llama.cpp's name of the rule that splits text before merging; another rule, other tokens."""
    rule = tokenizer.get("pre_tokenizer") or {}
    parts = rule.get("pretokenizers", [rule])
    kinds = [part.get("type") for part in parts]
    if any(part.get("add_prefix_space") for part in parts):
        raise SubjectError(f"{folder}/tokenizer.json: add_prefix_space is not supported by this conversion")
    if kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits"):
        return "smollm"
    if kinds == ["ByteLevel"]:
        return "gpt-2"
    raise SubjectError(f"{folder}/tokenizer.json: pre-tokenizer {kinds}, expected [Digits, ByteLevel] (smollm) or [ByteLevel] (gpt-2)")


def _adds_bos(tokenizer: Mapping[str, Any], bos: str) -> bool:
    single = (tokenizer.get("post_processor") or {}).get("single") or [{}]
    return bool(bos) and single[0].get("SpecialToken", {}).get("id") == bos


def _template(folder: Path, settings: Mapping[str, Any]) -> str:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    return template if isinstance(template, str) else ""


def _write_vocabulary(writer: Any, vocabulary: _Vocabulary) -> None:
    writer.add_add_space_prefix(False)
    writer.add_add_bos_token(vocabulary.add_bos)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types(vocabulary.types)
    writer.add_token_merges(vocabulary.merges)
    adders = {
        "bos": writer.add_bos_token_id,
        "eos": writer.add_eos_token_id,
        "unk": writer.add_unk_token_id,
        "pad": writer.add_pad_token_id,
    }
    for name, index in vocabulary.ids.items():
        adders[name](index)
    if vocabulary.template:
        writer.add_chat_template(vocabulary.template)
