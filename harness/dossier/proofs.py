"""What is proven of a dossier, in words, out of the runs that were made for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.dossier.trials import Trial

__all__ = ["bisected", "mended", "minimal", "proof", "was"]


def proof(holds: bool, sentence: str) -> dict[str, Any]:
    """As it stands in the record."""
    return {"holds": holds, "sentence": sentence}


def was(trial: Trial) -> str:
    """How it came out: "fails (3 of 7 runs failed)"."""
    word = {"pass": "passes", "fail": "fails", "unresolved": "cannot be told"}[trial.outcome]
    return f"{word} ({trial.failed} of {trial.runs} runs failed)" if trial.runs > 1 else word


def mended(before: Trial, after: Trial, where: str, other: str) -> dict[str, Any]:
    """DO1 and DO4: it fails ``where`` the defect is and passes on the other side."""
    return proof(before.outcome == "fail" and after.outcome == "pass", f"{where} it {was(before)}, {other} it {was(after)}")


def bisected(parent: Trial, commit: Trial, without: Trial, where: str) -> dict[str, Any]:
    """DO2: the parent passes, the commit fails, ``where`` it was taken back it passes."""
    right = (parent.outcome, commit.outcome, without.outcome) == ("pass", "fail", "pass")
    return proof(right, f"the parent {was(parent)}, the commit {was(commit)}, taken back {where} it {was(without)}")


def minimal(names: Sequence[str], without: Sequence[Trial]) -> dict[str, Any]:
    """DO3: it passes without any one piece. Where it cannot be run without one, that is said, and nothing is proven."""
    open_ends = [f"without {name!r} it {was(trial)}" for name, trial in zip(names, without, strict=True) if trial.outcome != "pass"]
    sentence = f"without {'it' if len(names) == 1 else f'any one of the {len(names)}'} the test passes" if names else "no piece is needed"
    return proof(bool(names) and not open_ends, "; ".join(open_ends) or sentence)
