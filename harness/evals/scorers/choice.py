"""Multiple choice: by the log-probability of each choice, or by the letter that an answer gives."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from harness.evals.scorers.common import detail_of, unscored
from harness.types import Generation, Sample, TokenLogprobs

__all__ = ["LETTERS", "by_logprob", "letter", "letter_in", "lettered"]

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def by_logprob(item: Mapping[str, Any], score: TokenLogprobs, *, normalized: bool = True) -> Sample:
    """Right if the right choice has the highest log-probability, per byte where ``normalized`` (``acc_norm``), else in sum (``acc``)."""
    lengths = [len(c.encode()) if normalized else 1 for c in item["choices"]]
    rates = [math.fsum(lp) / n for lp, n in zip(score.logprobs, lengths, strict=True)]
    if not all(math.isfinite(x) for x in rates):
        return Sample(item["id"], None, status="error", detail={"error": "a log-probability is not finite"})
    pick = max(range(len(rates)), key=rates.__getitem__)
    detail = {
        "input": item["question"], "text": item["choices"][pick], "target": item["choices"][item["answer"]],
        "pick": pick, "answer": item["answer"], "per_byte" if normalized else "sums": [round(x, 6) for x in rates],
    }  # fmt: skip
    return Sample(item["id"], float(pick == item["answer"]), detail=detail)


def lettered(item: Mapping[str, Any]) -> str:
    """The question with its choices as A., B. ... and the wish for a letter: how ``letter`` is asked."""
    lines = [f"{mark}. {choice}" for mark, choice in zip(LETTERS, item["choices"], strict=False)]
    return "\n".join([item["question"], *lines, "Answer with the letter of the right choice only."])


def letter_in(text: str, choices: Sequence[str]) -> int | None:
    """The choice that an answer names: by a letter alone or set off ("(B)", "B.", "answer is B"), else by its whole text.

    None where it names none, or several: who says two things has not answered.
    """
    count = min(len(choices), len(LETTERS))
    marks = LETTERS[:count]
    plain = text.strip().strip("*_`\"' ").rstrip(".")
    # Each line is surer than the next: alone, announced, set off at the beginning or in brackets.
    for patterns in (
        (rf"^\(?([{marks}{marks.lower()}])\)?$",),
        (rf"(?i:answer|choice|option)\W{{0,5}}(?:(?i:is)\W{{0,5}})?\(?\**([{marks}])\b",),
        (rf"^\(?([{marks}])[).:]\s", rf"\(([{marks}])\)"),
    ):
        named = {found.upper() for pattern in patterns for found in re.findall(pattern, plain)}
        if named:
            return LETTERS.index(named.pop()) if len(named) == 1 else None
    said = [i for i, choice in enumerate(choices) if plain.casefold() == choice.strip().rstrip(".").casefold()]
    return said[0] if len(said) == 1 else None


def letter(answer: Generation, item: Mapping[str, Any]) -> Sample:
    """1 if the answer names the right choice; one that names none, or several, is a ``parse_failure``."""
    detail = detail_of(answer, item["question"], f"{LETTERS[item['answer']]}. {item['choices'][item['answer']]}")
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    pick = letter_in(answer.text[:20_000], item["choices"])
    if pick is None:
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    return Sample(answer.id, float(pick == item["answer"]), detail={**detail, "pick": pick, "answer": item["answer"]})
