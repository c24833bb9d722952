"""GPTQ, AWQ, INT8 and FP8 by llm-compressor, in compressed-tensors' format."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from harness.quant import producers
from harness.quant.producers import Job


def produce(job: Job) -> None:
    """Writes the quantized folder, and names the layers that llm-compressor treated otherwise than asked."""
    import torch
    import transformers
    from llmcompressor import oneshot

    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(job.source), dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
    )
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(job.source), local_files_only=True)
    account, data = producers.NO_CALIBRATION, {}
    if job.recipe["needs_calibration"]:
        blocks, account = producers.blocks(job, tokenizer)
        data = {"dataset": _loader(blocks), "num_calibration_samples": len(blocks), "pipeline": "sequential"}
    modifiers = _modifiers(job.recipe)
    fallbacks: dict[str, str] = {}
    if data:
        modifiers = [_watch(job, model, modifiers, fallbacks), *modifiers]
    oneshot(model=model, tokenizer=tokenizer, recipe=modifiers, **data)
    model.save_pretrained(job.out, save_compressed=True)
    quantization = producers.written_config(job.out)
    producers.finish(job, quantization, account, ("llmcompressor", "compressed-tensors"), fallbacks)


def _loader(blocks: list[list[int]]) -> Any:
    import torch

    rows = [{"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)} for ids in blocks]
    return torch.utils.data.DataLoader(rows, batch_size=None, shuffle=False)


_PRESETS = {"nvfp4": "NVFP4", "mxfp4": "MXFP4"}  # block formats whose details are their name's


def _modifiers(recipe: Mapping[str, Any]) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    method, ignore = recipe["method"], ["re:.*lm_head"]
    if method in _PRESETS:
        return [QuantizationModifier(targets=["Linear"], scheme=_PRESETS[method], ignore=ignore)]
    groups = {"config_groups": {"group_0": _scheme(recipe)}, "ignore": ignore}
    if method == "gptq":
        return [GPTQModifier(**groups)]
    return [*([_awq()] if method == "awq" else []), QuantizationModifier(**groups)]


def _scheme(recipe: Mapping[str, Any]) -> dict[str, Any]:
    group = recipe["group_size"]
    weights = {
        "num_bits": recipe["bits"],
        "type": recipe["type"],
        "symmetric": recipe["symmetric"],
        "strategy": "group" if group else "channel",
        **({"group_size": group} if group else {}),
    }
    scheme: dict[str, Any] = {"targets": ["Linear"], "weights": weights}
    if recipe["activations"]:
        scheme["input_activations"] = {
            "num_bits": recipe["activations"], "type": recipe["type"], "symmetric": True, "strategy": "token", "dynamic": True,
        }  # fmt: skip
    return scheme


def _awq() -> Any:
    import torch
    from llmcompressor.modifiers.transform.awq import AWQModifier

    if not torch.accelerator.is_available():
        # AWQModifier._apply_smoothing pins its cached activations "for faster onloading" without asking whether there
        # is anything to load them onto; Tensor.pin_memory then raises "Cannot access accelerator device when none is
        # available" (llmcompressor 0.14.0.1, pipelines/cache.py). Unpinned they are the same numbers.
        from llmcompressor.pipelines.cache import IntermediatesCache

        IntermediatesCache.pin_memory = lambda *_, **__: None
    return AWQModifier()


def _watch(job: Job, model: Any, watched: list[Any], fallbacks: dict[str, str]) -> Any:
    """A modifier that changes nothing: it tells how many layers are done, and which of them were treated otherwise."""
    import torch
    from llmcompressor.modifiers import Modifier

    lists = ((name, module) for name, module in model.named_modules() if isinstance(module, torch.nn.ModuleList))
    where, blocks = max(lists, key=lambda each: len(each[1]))
    layers = len(blocks)
    linear = [name for name, module in blocks.named_modules(prefix=where) if isinstance(module, torch.nn.Linear)]
    done = itertools.count(1)

    class Watch(Modifier):  # type: ignore[misc]
        def on_initialize(self, state: Any, **_: Any) -> bool:
            return True

        def on_sequential_epoch_end(self, state: Any, event: Any, modules: Any, **_: Any) -> None:
            job.progress(min(next(done), layers), layers)  # the output matrix, which is no layer, comes last
            for modifier in watched:
                fallbacks.update(_otherwise(modifier, linear))

    return Watch()


def _otherwise(modifier: Any, linear: list[str]) -> dict[str, str]:
    """Layers that llm-compressor treated otherwise than the method says; its log names them at most, and no error does."""
    inverted = dict.fromkeys(getattr(modifier, "_rtn_fallback_module_names", ()), "rounded to nearest: its Hessian could not be inverted")
    mappings = getattr(modifier, "_resolved_mappings", None)
    if not mappings:
        return inverted
    scaled = {name for mapping in mappings for name in mapping.balance_names}
    return inverted | dict.fromkeys((n for n in linear if n not in scaled), "not scaled by AWQ: the layer before it has another width")


if __name__ == "__main__":
    producers.main(produce)
