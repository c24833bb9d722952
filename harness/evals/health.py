"""What came back before anybody scores it: answers cut off, empty, unreadable, or not there at all.

A score is read only beside these rates: an arm whose answers are cut off has lost nothing but room. The kinds exclude
each other, and each item counts in every one of them (0 or 1), so that the rates of two arms can be paired.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.types import Sample

__all__ = ["KINDS", "kind_of", "of_kind", "rates", "sentence"]

KINDS = ("truncated", "empty", "parse_failure", "error")


def kind_of(sample: Sample) -> str:
    """Which of ``KINDS`` the answer is; "" for one that can be scored. A status of no kind is an error."""
    if sample.status in ("truncated", "error"):
        return sample.status
    if not str(sample.detail.get("text", "")).strip():
        return "empty"
    if sample.status == "ok":
        return ""
    return sample.status if sample.status in KINDS else "error"


def of_kind(samples: Iterable[Sample], kind: str) -> tuple[Sample, ...]:
    """Each item with value 1 if its answer is of this kind, else 0. ValueError for an unknown kind."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}, expected one of {', '.join(KINDS)}")
    return tuple(
        replace(s, value=float(kind_of(s) == kind), status="ok", detail={**s.detail, "status": s.status, "kind": kind_of(s)})
        for s in samples
    )


def rates(samples: Iterable[Sample]) -> dict[str, int]:
    """How many answers are of each kind, and of how many ("n")."""
    found = [kind_of(s) for s in samples]
    return {**{kind: found.count(kind) for kind in KINDS}, "n": len(found)}


def sentence(name: str, samples: Iterable[Sample]) -> str:
    """One line to be read before a score: ``tuned: of 560 answers truncated 0, empty 0, parse_failure 4, error 0``."""
    counted = rates(samples)
    return f"{name}: of {counted['n']} answers " + ", ".join(f"{kind} {counted[kind]}" for kind in KINDS)
