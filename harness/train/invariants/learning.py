"""One batch can be learned by heart: what cannot do that learns nothing, however well its loss falls on the average."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from harness.train.invariants.opening import known_fault, opened
from harness.train.recipe import Recipe
from harness.train.rows import Row, columns

__all__ = ["FAULTS", "by_heart"]

FAULTS = ("the adapter is not applied", "a learning rate of 0", "answers shuffled between rows at every step")


def by_heart(base: Path, rows: Sequence[Row], recipe: Recipe, steps: int, fault: str = "") -> list[float]:
    """The loss (nats per token of the answers) at each of ``steps`` steps on one and the same batch of all ``rows``.

    The learning rate stays at the recipe's. Raises MissingNeed without trl and peft.
    """
    known_fault(fault, FAULTS, "learning by heart")
    recipe = replace(recipe, objective="sft", packing=False, dropout=0.0, warmup=0.0, batch=len(rows), accumulate=1, steps=steps)
    changes: dict[str, Any] = {"lr_scheduler_type": "constant", **({"learning_rate": 0.0} if fault == FAULTS[1] else {})}
    with opened(base, lambda tokenizer: columns(tokenizer, rows, recipe), recipe, adapter=True, **changes) as trainer:
        if fault == FAULTS[0]:
            for module in trainer.model.modules():
                if hasattr(module, "scaling") and isinstance(module.scaling, dict):
                    module.scaling = dict.fromkeys(module.scaling, 0.0)
        if fault == FAULTS[2]:
            trainer.data_collator = _shuffling(trainer.data_collator)
        trainer.train()
        return [float(logs["loss"]) for logs in trainer.state.log_history if "loss" in logs]


def _shuffling(collate: Callable[[list[dict[str, Any]]], Any]) -> Callable[[list[dict[str, Any]]], Any]:
    """A collator that asks of each input another row's answer at every step."""
    step = count(1)

    def collated(rows: list[dict[str, Any]]) -> Any:
        turn = next(step)
        return collate([{**row, "labels": _answer_of(rows[(i + turn) % len(rows)], row)} for i, row in enumerate(rows)])

    return collated


def _answer_of(other: Mapping[str, Any], row: Mapping[str, Any]) -> list[int]:
    """The labels of ``other`` in the places where ``row`` has its own, as far as they go."""
    answer = iter([label for label in other["labels"] if label != -100])
    return [next(answer, -100) if label != -100 else -100 for label in row["labels"]]
