"""Scoring plans that engines share: which tokens are context, which are scored, what is computed once.

Context and continuation are tokenized together, since that is how a model meets them; the longest
token prefix that this has in common with the context alone is the context, and every token behind
it is scored. Standard library only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engines.common import common_prefix
from harness.errors import EngineError
from harness.types import Scored, TokenLogprobs

__all__ = ["Branch", "Item", "Slice", "Step", "collect", "item_of"]


@dataclass(slots=True)
class Branch:
    """Token ids of context and continuation; ``start`` is the index of the first scored one."""

    ids: list[int]
    start: int
    full: bool
    logprobs: list[float] = field(default_factory=list)
    rows: list[Any] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Step:
    """One token to compute.

    ``branches`` are the indices, within the slice, of the branches it belongs to; ``predicts``
    names the branches and tokens whose probability its output gives.
    """

    token: int
    position: int
    branches: tuple[int, ...]
    predicts: list[tuple[Branch, int]]


@dataclass(slots=True)
class Slice:
    """Continuations of one context that are computed together."""

    branches: list[Branch]
    shared: int = 0

    def __post_init__(self) -> None:
        # the last token of a branch is only predicted, never an input
        self.shared = common_prefix([branch.ids[:-1] for branch in self.branches])

    @property
    def cost(self) -> int:
        """Tokens to compute."""
        return self.shared + sum(len(branch.ids) - 1 - self.shared for branch in self.branches)

    def steps(self) -> list[Step]:
        """Tokens to compute: what the branches share, then each branch's own."""
        everyone = tuple(range(len(self.branches)))
        steps = []
        for i in range(self.shared):
            predicts = [(branch, branch.ids[i + 1]) for branch in self.branches if i + 1 >= branch.start]
            steps.append(Step(self.branches[0].ids[i], i, everyone, predicts))
        for which, branch in enumerate(self.branches):
            for i in range(self.shared, len(branch.ids) - 1):
                predicts = [(branch, branch.ids[i + 1])] if i + 1 >= branch.start else []
                steps.append(Step(branch.ids[i], i, (which,), predicts))
        return steps


@dataclass(slots=True)
class Item:
    """All continuations of one text."""

    id: str
    branches: list[Branch]
    full: bool

    def slices(self, max_branches: int, max_tokens: int) -> list[Slice]:
        """As many continuations together as the limits allow, in order; at least one."""
        slices: list[Slice] = []
        for branch in self.branches:
            if len(branch.ids) <= branch.start:  # nothing to score
                continue
            if slices and len(slices[-1].branches) < max_branches:
                wider = Slice([*slices[-1].branches, branch])
                if wider.cost <= max_tokens:
                    slices[-1] = wider
                    continue
            slices.append(Slice([branch]))
        return slices

    def result(self, vocabulary: int) -> TokenLogprobs:
        """What was collected in the branches."""
        tokens = tuple(tuple(branch.ids[branch.start :]) for branch in self.branches)
        logprobs = tuple(tuple(branch.logprobs) for branch in self.branches)
        rows = tuple(_stack(branch.rows, vocabulary) for branch in self.branches) if self.full else None
        return TokenLogprobs(self.id, tokens, logprobs, rows)


def _stack(rows: list[Any], vocabulary: int) -> Any:
    import numpy as np

    return np.stack(rows) if rows else np.empty((0, vocabulary), dtype=np.float32)


def item_of(text: Scored, tokenize: Callable[[str], list[int]], bos: int | None, limit: int) -> Item:
    """The plan of one text. ``bos`` is put before a text whose first token is to be scored.

    Without one the first token is context only. Raises EngineError if a text with its context is
    longer than ``limit`` tokens.
    """
    context = tokenize(text.context) if text.context else []
    wholes = [tokenize(text.context + continuation) for continuation in text.continuations]
    starts = [common_prefix([context, whole]) for whole in wholes]
    if bos is not None and 0 in starts:
        led = [whole[:1] == [bos] for whole in wholes]  # by the tokenizer itself
        wholes = [whole if has else [bos, *whole] for whole, has in zip(wholes, led, strict=True)]
        starts = [start if has and start else start + 1 for start, has in zip(starts, led, strict=True)]
    for whole in wholes:
        if len(whole) > limit:
            raise EngineError(
                f"text {text.id!r} has {len(whole)} tokens with its context, more than the limit of {limit}: "
                "split it or open the engine with more"
            )
    branches = [Branch(whole, max(start, 1), text.full) for whole, start in zip(wholes, starts, strict=True)]
    return Item(text.id, branches, text.full)


def collect(logits: Any, predicts: Sequence[Sequence[tuple[Branch, int]]]) -> None:
    """Adds float32 log-softmax values to the branches: row i of ``logits`` (outputs, vocabulary)
    predicts ``predicts[i]``. Raises EngineError if a row is not finite.
    """
    import numpy as np

    top = logits.max(axis=-1, keepdims=True)
    norm = top[:, 0] + np.log(np.exp(logits - top).sum(axis=-1, dtype=np.float64)).astype(np.float32)
    if not np.isfinite(norm).all():
        raise EngineError("the model's logits are not finite: its weights are damaged or its dtype overflowed")
    for row, lse, predicted in zip(logits, norm, predicts, strict=True):
        whole = row - lse if any(branch.full for branch, _ in predicted) else None
        for branch, token in predicted:
            branch.logprobs.append(float(row[token] - lse))
            if branch.full:
                branch.rows.append(whole)
