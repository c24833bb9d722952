"""Packed rows stay apart: each gets the logits that it gets alone.

trl tells samples of one sequence apart by position ids that begin anew, and transformers honours them only where no cache
is asked for. The inputs are caught where trl's own step hands them to the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import EngineError
from harness.train.invariants.opening import known_fault, opened
from harness.train.recipe import Recipe
from harness.train.rows import Row, columns

__all__ = ["FAULTS", "leaks"]

FAULTS = ("a cache is asked for", "positions run on")


def leaks(base: Path, rows: Sequence[Row], recipe: Recipe, faults: Sequence[str] = FAULTS) -> dict[str, list[dict[str, Any]]]:
    """For "" and each fault a row for each packed sample: the largest absolute difference of its logits to those it has alone.

    In float32. Raises EngineError where trl packed nothing.
    """
    recipe = replace(recipe, packing=True, dtype="float32", method="lora")
    with opened(base, lambda tokenizer: columns(tokenizer, rows, recipe), recipe) as trainer:
        packs = [pack for pack in trainer.train_dataset if len(pack["seq_lengths"]) > 1]
        if not packs:
            raise EngineError(f"of {len(rows)} rows no two fit into max_length = {recipe.max_length}: nothing is packed; raise it")
        inputs = _handed_over(trainer, packs[0])
        return {fault: _differences(trainer.model, inputs, known_fault(fault, FAULTS, "packing")) for fault in ("", *faults)}


class _Caught(Exception):
    """Carries a call's arguments out of it."""

    def __init__(self, inputs: Mapping[str, Any]) -> None:
        super().__init__()
        self.inputs = dict(inputs)


def _handed_over(trainer: Any, pack: Mapping[str, Any]) -> dict[str, Any]:
    """What trl's step gives the model of a batch, but for what only its loss needs."""

    def catch(module: Any, args: Any, inputs: Mapping[str, Any]) -> None:
        raise _Caught(inputs)

    hook = trainer.model.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        trainer.compute_loss(trainer.model, trainer._prepare_inputs(trainer.data_collator([pack])))
    except _Caught as caught:
        return {key: value for key, value in caught.inputs.items() if key not in ("labels", "fused_lm_head", "num_items_in_batch")}
    finally:
        hook.remove()
    raise EngineError("trl's step never called the model")


def _differences(model: Any, inputs: Mapping[str, Any], fault: str) -> list[dict[str, Any]]:
    import torch

    changed = dict(inputs)
    if fault == "a cache is asked for":
        changed["use_cache"] = True
    if fault == "positions run on":
        changed["position_ids"] = torch.arange(inputs["input_ids"].shape[1], device=inputs["input_ids"].device)[None]
    model.eval()
    starts = (inputs["position_ids"][0] == 0).nonzero().flatten().tolist()
    spans = list(zip(starts, [*starts[1:], inputs["input_ids"].shape[1]], strict=True))
    with torch.inference_mode():
        packed = model(**changed).logits[0].float()
        rows = []
        for number, (begin, end) in enumerate(spans):
            alone = model(input_ids=inputs["input_ids"][:, begin:end], use_cache=False).logits[0].float()
            rows.append(
                {"name": f"sample {number} of {len(spans)}", "value": float((packed[begin:end] - alone).abs().max()), "tokens": end - begin}
            )
    return rows
