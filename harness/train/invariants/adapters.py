"""A fresh adapter is the identity, has the parameters it should, alone gets gradient, and leaves the base as it was.

One model is loaded for all of it, in float32 (QLoRA: NF4 computed in float32), so that a difference is the adapter's and
not the rounding's. What is expected comes from config.json and the recipe alone, never from torch or peft.

The model stays in training mode throughout: on a CPU with AVX512-BF16 one pass in evaluation mode repacks each NF4 layer of
bitsandbytes 0.50 for a kernel that has no gradient, and what is trained after it lacks the gradient through the base.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.engines.common import load_json
from harness.errors import MissingNeed
from harness.train.invariants.opening import opened
from harness.train.recipe import Recipe
from harness.train.rows import Row, columns
from harness.train.trainer import libraries, load_base

__all__ = ["EVALUATED", "FAULTS", "declared", "drill"]

FAULTS: Mapping[str, tuple[str, ...]] = {
    "identity": ("one B is not zero", "one magnitude is 1% too large"),
    "count": ("half of the targets", "a norm trains too"),
    "base": ("one bit of one weight",),
    "gradients": ("one target detached", "a norm trains too"),
}
"""What is looked at, and the mutants of each. A magnitude is DoRA's alone."""

EVALUATED = "gradients: evaluated before"  # QLoRA's alone, where the CPU has the kernel

_LLAMA = ("llama", "mistral", "qwen2", "qwen3", "smollm3")  # one set of linear layers, one set of names
_TARGET = re.compile(r"\b(layers\.\d+\.\w+\.(\w+))\.(lora_[A-Za-z_]+)")

Facts = dict[str, list[dict[str, Any]]]


def declared(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The linear layers of one block by name: (inputs, outputs). MissingNeed for an architecture whose layers are not known here."""
    if config.get("model_type") not in _LLAMA:
        known = ", ".join(_LLAMA)
        raise MissingNeed(
            "architecture", f"the layers of a {config.get('model_type')} are not derived from its config", f"a base of {known}"
        )
    width, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    heads = int(config["num_attention_heads"])
    size = int(config.get("head_dim") or width // heads)
    queries, keys = heads * size, int(config.get("num_key_value_heads") or heads) * size
    attention = {"q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (queries, width)}
    return {**attention, "gate_proj": (width, inner), "up_proj": (width, inner), "down_proj": (inner, width)}


def drill(base: Path, rows: Sequence[Row], recipe: Recipe, *, steps: int = 2) -> Facts:
    """Everything about one method: rows by what was looked at, mutants under "WHAT: FAULT".

    "identity": the largest absolute difference of a row's logits to those of the base alone. "count": trainable
    parameters by target. "base": SHA-256 of each tensor of the base, after ``steps`` steps of training and before.
    "gradients": for each target which of its parameters gradient reaches, and whether it passes through the base's layer to
    what was put in, after these steps (before them B is zero, and no gradient can reach A).

    Raises MissingNeed without trl, peft (or bitsandbytes) and for a base of another architecture.
    """
    config = load_json(base / "config.json")
    recipe = replace(
        recipe, objective="sft", dtype="float32", packing=False, warmup=0.0, steps=steps, batch=len(rows), accumulate=1, dropout=0.0
    )
    libraries(recipe)
    declared(config)
    bare = _Bare(base, recipe)
    with opened(base, lambda tokenizer: columns(tokenizer, rows, recipe), recipe, adapter=True) as trainer:
        batch = trainer._prepare_inputs(trainer.data_collator(list(trainer.train_dataset)))
        expected = bare.logits(batch)
        del bare
        facts = _under(trainer.model, "identity", recipe, lambda: _identity(trainer.model, batch, expected))
        facts |= _under(trainer.model, "count", recipe, lambda: _count(trainer.model, config, recipe))
        before = _digests(trainer.model)
        trainer.train()
        facts |= _under(trainer.model, "base", recipe, lambda: _same(_digests(trainer.model), before))
        facts |= _under(trainer.model, "gradients", recipe, lambda: _gradients(trainer, batch, config, recipe))
        if recipe.method == "qlora" and _repacked(trainer.model, batch):
            facts[EVALUATED] = _gradients(trainer, batch, config, recipe)
    return facts


def _under(model: Any, what: str, recipe: Recipe, measure: Callable[[], list[dict[str, Any]]]) -> Facts:
    """A measurement as things are, and under each of its faults."""
    facts = {what: measure()}
    for fault in FAULTS[what]:
        if "magnitude" in fault and recipe.method != "dora":
            continue
        with _planted(model, fault):
            facts[f"{what}: {fault}"] = measure()
    return facts


class _Bare:
    """The base without an adapter, as it is trained on."""

    def __init__(self, base: Path, recipe: Recipe) -> None:
        _, self._model = load_base(base, recipe.dtype, quantized=recipe.method == "qlora")

    def logits(self, batch: Mapping[str, Any]) -> Any:
        return _logits(self._model, batch)


def _logits(model: Any, batch: Mapping[str, Any]) -> Any:
    import torch

    model.train()
    with torch.no_grad():
        return model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits.float().cpu()


def _identity(model: Any, batch: Mapping[str, Any], expected: Any) -> list[dict[str, Any]]:
    apart = (_logits(model, batch) - expected).abs().amax(dim=(1, 2)).tolist()
    largest = expected.abs().amax(dim=(1, 2)).tolist()
    return [{"name": f"row {i}", "value": value, "largest_logit": top} for i, (value, top) in enumerate(zip(apart, largest, strict=True))]


def _count(model: Any, config: Mapping[str, Any], recipe: Recipe) -> list[dict[str, Any]]:
    found: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            target = _TARGET.search(name)
            found[target[2] if target else "outside the targets"] += parameter.numel()
    blocks, dora = int(config["num_hidden_layers"]), recipe.method == "dora"
    expected = {kind: blocks * (recipe.rank * (i + o) + (o if dora else 0)) for kind, (i, o) in declared(config).items()}
    rows = [
        {"name": kind, "found": found[kind], "expected": expected.get(kind, 0)}
        for kind in sorted({*found, *expected, "outside the targets"})
    ]
    return [*rows, {"name": "all", "found": found.total(), "expected": sum(expected.values())}]


def _digests(model: Any) -> dict[str, str]:
    """SHA-256 of the bytes of each tensor that is none of the adapter's."""
    import torch

    named = (*model.named_parameters(), *model.named_buffers())
    return {
        name: hashlib.sha256(tensor.detach().contiguous().cpu().flatten().view(torch.uint8).numpy()).hexdigest()
        for name, tensor in named
        if "lora_" not in name and tensor.numel()
    }


def _same(found: Mapping[str, str], expected: Mapping[str, str]) -> list[dict[str, Any]]:
    return [{"name": name, "found": found.get(name), "expected": expected.get(name)} for name in sorted({*found, *expected})]


def _gradients(trainer: Any, batch: Mapping[str, Any], config: Mapping[str, Any], recipe: Recipe) -> list[dict[str, Any]]:
    model = trainer.model
    model.train()
    model.zero_grad()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a kernel without a gradient: that is what is looked for
        trainer.compute_loss(model, dict(batch)).backward()
        reached = _passed(model)
    for name, parameter in model.named_parameters():
        if _is_gradient(parameter.grad):
            target = _TARGET.search(name)
            reached.setdefault(target[1] if target else name, set()).add(target[3] if target else "weight")
    model.zero_grad()
    parts = ["input", "lora_A", "lora_B", *(["lora_magnitude_vector"] if recipe.method == "dora" else [])]
    places = [
        f"layers.{i}.{'mlp' if kind in ('gate_proj', 'up_proj', 'down_proj') else 'self_attn'}.{kind}"
        for i in range(int(config["num_hidden_layers"]))
        for kind in declared(config)
    ]
    rows = [{"name": place, "found": sorted(reached.pop(place, ())), "expected": parts} for place in places]
    return [*rows, {"name": "any other parameter", "found": sorted(reached)[:5], "expected": []}]


def _is_gradient(tensor: Any) -> bool:
    return tensor is not None and bool(tensor.isfinite().all()) and bool(tensor.any())


def _passed(model: Any) -> dict[str, set[str]]:
    """The targets whose layer in the base lets gradient pass to what was put in."""
    import torch

    passed: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        target = _TARGET.search(f"{name}.lora_A")
        layer = getattr(module, "base_layer", None)
        if layer is None or target is None:
            continue
        given = torch.ones((1, layer.in_features), device=next(layer.parameters()).device, requires_grad=True)
        came = layer(given)
        if came.requires_grad and _is_gradient(torch.autograd.grad(came.sum(), given, allow_unused=True)[0]):
            passed[target[1]] = {"input"}
    return passed


def _repacked(model: Any, batch: Mapping[str, Any]) -> bool:
    """Evaluates once; whether that left layers in a form made for inference alone."""
    import torch

    model.eval()
    with torch.no_grad():
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    states = [getattr(getattr(module, "weight", None), "quant_state", None) for module in model.modules()]
    return any(getattr(state, "packing_format_for_cpu", False) for state in states)


# --- mutants --------------------------------------------------------------------------------------


@contextmanager
def _planted(model: Any, fault: str) -> Iterator[None]:
    """The model with a fault; taken out again afterwards, bit by bit."""
    import torch

    named = dict(model.named_parameters())
    middle = [name for name in named if ".lora_B." in name]
    place = middle[len(middle) // 2]
    norm = next(name for name in named if "norm" in name and "lora_" not in name)
    if fault == "half of the targets":
        with _frozen([p for name, p in named.items() if p.requires_grad and ".self_attn." in name]):
            yield
        return
    if fault == "a norm trains too":
        named[norm].requires_grad_(True)
        try:
            yield
        finally:
            named[norm].requires_grad_(False)
        return
    if fault == "one target detached":
        module = model.get_submodule(place.removesuffix(".weight"))
        hook = module.register_forward_hook(lambda _module, _inputs, output: output.detach())
        try:
            yield
        finally:
            hook.remove()
        return
    chosen = {
        "one B is not zero": place,
        "one magnitude is 1% too large": next((name for name in named if "magnitude" in name), place),
        "one bit of one weight": norm,
    }[fault]
    tensor = named[chosen]
    kept = tensor.detach().clone()
    try:
        with torch.no_grad():
            if fault == "one bit of one weight":
                tensor.view(torch.uint8).flatten()[0] ^= 1
            elif fault == "one B is not zero":
                tensor.fill_(0.01)
            else:
                tensor.mul_(1.01)
        yield
    finally:
        with torch.no_grad():
            tensor.copy_(kept)


@contextmanager
def _frozen(parameters: Sequence[Any]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)
