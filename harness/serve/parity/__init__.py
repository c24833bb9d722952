"""Whether a server is the model it is said to be: what it said beside what a reference engine says of the same checkpoint.

    inputs, distribution, greedy    a Sample for each prompt, for the three claims V4
    guard                           all three at once for one boot, without which no measurement of its speed says anything

A load test of a wrong server is void, and a wrong server may be healthy, fast and fluent. The reference is transformers in
float32 on the checkpoint that is served, or that the served file was converted from (``harness.serve.parity.expected``); never the
server itself (``harness.serve.parity.hearing``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from harness.engines.common import common_prefix
from harness.serve.parity.expected import END, Expected, Reference, Said, Tolerance, along, difference, plain, tolerance
from harness.serve.parity.hearing import hear
from harness.types import Sample

__all__ = [
    "CAP",
    "END",
    "Expected",
    "Guard",
    "Reference",
    "Said",
    "Tolerance",
    "along",
    "distribution",
    "divergence",
    "gap",
    "greedy",
    "guard",
    "hear",
    "inputs",
    "plain",
    "told",
    "tolerance",
]

CAP = 4.0  # a prompt counts at most this many times the tolerance: what is further away is a wrong answer, which greedy finds

# --- the three claims -----------------------------------------------------------------------------


def inputs(expected: Sequence[Expected], said: Sequence[Said]) -> tuple[Sample, ...]:
    """1 where the server read the very token ids of the reference. A server that shows no ids has its count held against ours."""
    return tuple(_input(e, s) for e, s in zip(expected, said, strict=True))


def _input(e: Expected, s: Said) -> Sample:
    if s.error or (s.prompt is None and s.prompt_tokens is None):
        return Sample(e.id, None, status="error" if s.error else "not_shown", detail={"why": s.error})
    if s.prompt is None:
        return Sample(
            e.id, float(s.prompt_tokens == len(e.prompt)), detail={"tokens": len(e.prompt), "server": s.prompt_tokens, "by": "count"}
        )
    detail: dict[str, Any] = {"tokens": len(e.prompt), "server": len(s.prompt), "by": "ids"}
    if s.prompt != e.prompt:
        at = common_prefix([s.prompt, e.prompt])
        detail |= {"differs_at": at, "expected": list(e.prompt[at : at + 4]), "found": list(s.prompt[at : at + 4])}
    return Sample(e.id, float(s.prompt == e.prompt), detail=detail)


def distribution(expected: Sequence[Expected], said: Sequence[Said], allowed: Tolerance) -> tuple[Sample, ...]:
    """How far the server's log-probabilities lie from the reference's, a token, in multiples of the tolerance; at most CAP.

    Of the reference's whole answer where the server scores it; else of the server's own, as far as both say the same.
    """
    return tuple(_distance(e, s, allowed) for e, s in zip(expected, said, strict=True))


def _distance(e: Expected, s: Said, allowed: Tolerance) -> Sample:
    if s.error:
        return Sample(e.id, None, status="error", detail={"why": s.error})
    theirs, by = s.scored, "prompt_logprobs"
    if theirs is None and s.own is not None and s.tokens is not None:
        theirs, by = s.own[: common_prefix([e.tokens, s.tokens])], "own_prefix"
    if not theirs:
        return Sample(e.id, None, status="not_shown" if theirs is None else "nothing_in_common")
    nats = difference(e.logprobs[: len(theirs)], theirs)
    if not math.isfinite(nats):
        return Sample(e.id, None, status="not_finite", detail={"by": by})
    return Sample(e.id, min(CAP, nats / allowed.mean), detail={"nats": nats, "tokens": len(theirs), "by": by})


def greedy(expected: Sequence[Expected], said: Sequence[Said], allowed: Tolerance) -> tuple[Sample, ...]:
    """1 where the server's greedy answer leaves the reference's by more than a numeric tie, 0 elsewhere; ``kind`` says which."""
    return tuple(_greedy(e, s, allowed) for e, s in zip(expected, said, strict=True))


def _greedy(e: Expected, s: Said, allowed: Tolerance) -> Sample:
    if s.error:
        return Sample(e.id, None, status="error", detail={"why": s.error})
    if s.text == e.text:
        return told(e, None, plain(e), allowed, s.text)
    tokens = s.tokens if s.read is None else s.read
    if tokens is None:
        why = "another text, and the server shows no tokens to tell how near"
        return Sample(e.id, 1.0, detail={"kind": "error", "why": why, "text": s.text})
    return told(e, divergence(plain(e), tokens), tokens, allowed, s.text)


def told(e: Expected, place: int | None, tokens: Sequence[int], allowed: Tolerance, text: str) -> Sample:
    """The Sample of an answer that leaves ``e`` at ``place`` (None: nowhere): 1 for an error, 0 for the same or a tie."""
    if place is None:
        return Sample(e.id, 0.0, detail={"kind": "same", "tokens": len(tokens)})
    wide = gap(e, place, tokens)
    tie = wide is not None and wide <= allowed.tie
    detail = {"kind": "tie" if tie else "error", "at": place, "gap": wide, "tokens": len(tokens), "text": text}
    return Sample(e.id, float(not tie), detail=detail)


def divergence(ours: Sequence[int], theirs: Sequence[int]) -> int | None:
    """The first place where two answers differ; where one goes on, the end of the other; None if they are the same."""
    place = common_prefix([ours, theirs])
    return None if place == len(ours) == len(theirs) else place


def gap(e: Expected, place: int, tokens: Sequence[int]) -> float | None:
    """How far, in nats, the less likely of two tokens lies below the likeliest one by the reference; None: too far to be known.

    The two are the next of ``e`` and of ``tokens``, after what they share. Both count: among unlikely tokens there is no tie.
    """
    if place >= len(e.top):
        return None
    likely = dict(e.top[place])
    values = [likely.get(answer[place] if place < len(answer) else e.end) for answer in (plain(e), tokens)]
    return None if None in values else e.top[place][0][1] - min(v for v in values if v is not None)


# --- for one boot ---------------------------------------------------------------------------------


class Guard(NamedTuple):
    """``code`` is empty where it holds, else "parity_failed" or "parity_missing"; ``sentence`` says by which numbers."""

    holds: bool
    code: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.code}: {self.sentence}" if self.code else self.sentence


def guard(expected: Sequence[Expected], said: Sequence[Said], allowed: Tolerance) -> Guard:
    """Whether this boot is the reference's model on these prompts: every input, the mean distance, no divergence but ties.

    Counted, not estimated: the claims V4 say how much 0 of n proves. What cannot be compared at all is missing, not held.
    """
    if not expected:
        return Guard(False, "parity_missing", "no prompt was compared with a reference")
    read, far, left = inputs(expected, said), distribution(expected, said, allowed), greedy(expected, said, allowed)
    silent = [s for s in said if s.error]
    if silent:
        return Guard(
            False, "parity_failed", f"{len(silent)} of {len(said)} prompts were not answered, first: {silent[0].id} ({silent[0].error})"
        )
    unseen = [name for name, rows in (("token ids", read), ("log-probabilities", far)) if all(s.status == "not_shown" for s in rows)]
    wrong = [_worst_input(read), _too_far(far), _errors(left)]
    if any(wrong):
        return Guard(False, "parity_failed", "; ".join(filter(None, wrong)))
    if unseen:
        return Guard(
            False, "parity_missing", f"the server shows no {' and no '.join(unseen)}, so that nobody can tell whether it is the model"
        )
    ties = sum(s.detail["kind"] == "tie" for s in left)
    mean = math.fsum(s.value or 0.0 for s in far) / len(far)
    return Guard(
        True, "", f"{len(expected)} prompts: ids equal, {mean:.2f} of the tolerance of {allowed.mean:.4g} nat, {ties} ties, no error"
    )


def _worst_input(rows: Sequence[Sample]) -> str:
    bad = [s for s in rows if s.value == 0]
    return f"{len(bad)} of {len(rows)} prompts were read as other tokens, first: {bad[0].item}" if bad else ""


def _too_far(rows: Sequence[Sample]) -> str:
    values = [CAP if s.value is None else s.value for s in rows if s.status != "not_shown"]
    mean = math.fsum(values) / len(values) if values else 0.0
    return f"log-probabilities are {mean:.3g} times the tolerance away" if mean > 1 else ""


def _errors(rows: Sequence[Sample]) -> str:
    bad = [s for s in rows if s.value == 1]
    return f"{len(bad)} of {len(rows)} greedy answers leave the reference's where it is sure, first: {bad[0].item}" if bad else ""
