"""A base and its adapter as one plain folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.engines.common import install, load_json, quiet_transformers, safetensors_file
from harness.errors import MissingNeed, SubjectError
from harness.store import digest_file
from harness.train.checkpoints import adapter_tensors
from harness.train.run import digest_base
from harness.train.trainer import load_base

__all__ = ["attach", "merge"]


def merge(base: str | Path, adapter: str | Path, out: str | Path) -> None:
    """Writes ``base`` with ``adapter`` merged into it to ``out``: a plain bf16 folder.

    Merged in float32 and rounded once: merging in bf16 rounds the product and the sum. A QLoRA adapter is merged onto the
    weights it was trained on, the dequantized ones, as its training.json tells.

    Raises SubjectError for an adapter of another base, one that is pickled, incomplete or not finite, and MissingNeed
    without peft (or bitsandbytes, for QLoRA).
    """
    import torch
    from transformers.trainer_utils import align_special_tokens

    tokenizer, model = attach(base, adapter)
    merged = model.to(torch.float32).merge_and_unload().to(torch.bfloat16).to("cpu")
    for name, tensor in merged.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise SubjectError(f"{adapter}: tensor {name!r} is not finite once merged; the adapter is damaged or diverged")
    Path(out).mkdir(parents=True, exist_ok=True)
    align_special_tokens(merged, tokenizer)  # as the trainer did
    merged.config.dtype = torch.bfloat16
    merged.config.use_cache = True
    with quiet_transformers():
        merged.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)


def attach(base: str | Path, adapter: str | Path) -> tuple[Any, Any]:
    """Tokenizer and the unmerged model: the base as it was trained on (QLoRA: dequantized), the adapter in float32 on it."""
    base, adapter = Path(base), Path(adapter)
    recipe = _recipe(base, adapter)
    try:
        import peft
    except ImportError as error:
        raise MissingNeed("train", "peft is needed to read an adapter", install("train")) from error

    quantized = recipe.get("method") == "qlora"
    tokenizer, model = load_base(base, recipe.get("dtype", "auto"), quantized=quantized)
    with quiet_transformers():
        if quantized:
            model = model.dequantize()
        model = peft.PeftModel.from_pretrained(model, str(adapter), local_files_only=True)
    held, wanted = safetensors_file(adapter / "adapter_model.safetensors").keys(), adapter_tensors(model).keys()
    if odd := sorted(name for name in held ^ wanted if "lora_" in name):
        raise SubjectError(f"{adapter}: {len(odd)} tensors do not fit this base and configuration, like {odd[0]!r}")
    return tokenizer, model.eval()


def _recipe(base: Path, adapter: Path) -> dict[str, Any]:
    """The recipe by which the adapter was trained; {} for an adapter from elsewhere, which has no training.json."""
    if not (adapter / "adapter_model.safetensors").is_file():
        if (adapter / "adapter_model.bin").is_file():
            raise SubjectError(f"{adapter / 'adapter_model.bin'}: pickled, and so never loaded; convert it to safetensors")
        raise SubjectError(f"{adapter}: no adapter_model.safetensors; expected the folder that a training wrote")
    load_json(adapter / "adapter_config.json")
    if not (adapter / "training.json").is_file():
        return {}
    report = load_json(adapter / "training.json")
    digests = report.get("digests") or {}
    if report.get("outcome") != "finished":
        raise SubjectError(f"{adapter}: its training {report.get('outcome')} ({report.get('cause')}); train it again")
    if digests.get("adapter") != digest_file(adapter / "adapter_model.safetensors"):
        raise SubjectError(f"{adapter}: the weights are not those that its training.json was written for; train it again")
    if digests.get("base") != digest_base(base):
        raise SubjectError(f"{base}: not the base that the adapter in {adapter} was trained on; merge it onto that one")
    return dict(report["recipe"])
