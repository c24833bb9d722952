"""Free texts: the same after a stated normalization, found by a pattern, or alike."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import metadata
from typing import Any

from harness.errors import MissingNeed
from harness.evals.scorers.common import detail_of, folded, unscored
from harness.types import Generation, Sample

__all__ = ["check", "exact", "regex", "similarity", "versions"]

_STEPS = ("nfkc", "case", "punctuation", "articles", "space")
_METRICS = ("ratio", "token_sort", "levenshtein", "chrf", "bleu", "ter")
_READ = 100_000  # characters of an answer that a pattern or a metric reads


def check(name: str, key: str, value: Any) -> str:
    """What is wrong with an option of a scorer here; "" if nothing is."""
    if key == "normalize":
        strange = [step for step in value if step not in _STEPS]
        return f"expected steps out of {', '.join(_STEPS)}" if strange else ""
    if key == "metric" and value not in _METRICS:
        return f"expected one of {', '.join(_METRICS)}"
    if name == "regex" and key == "pattern":
        try:
            re.compile(value)
        except re.error as error:
            return f"no regular expression: {error}"
    return ""


def _targets(item: Mapping[str, Any]) -> list[str]:
    target = item.get("target", "")
    return [str(each) for each in target] if isinstance(target, list) else [str(target)]


def exact(answer: Generation, item: Mapping[str, Any], *, normalize: Sequence[str] = ("nfkc", "space")) -> Sample:
    """1 if the answer is the target, or one of them, after ``normalize``: steps out of nfkc, case, punctuation, articles, space."""
    targets = _targets(item)
    detail = detail_of(answer, item.get("prompt", item.get("input", "")), " | ".join(targets))
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    got = folded(answer.text, normalize)
    if not got:
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    return Sample(answer.id, float(got in {folded(target, normalize) for target in targets}), detail=detail)


def regex(
    answer: Generation, item: Mapping[str, Any], *, pattern: str, last: bool = False, normalize: Sequence[str] = ("nfkc", "space")
) -> Sample:
    """The first (or ``last``) match of ``pattern``. With a group, what it captures must be the target; without, a match is 1.

    An answer without a match is a ``parse_failure`` where something was to be captured, else 0.
    """
    targets = _targets(item)
    detail = detail_of(answer, item.get("prompt", item.get("input", "")), " | ".join(targets))
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    wanted = re.compile(pattern)
    matches = list(wanted.finditer(answer.text[:_READ]))
    if not wanted.groups:
        return Sample(answer.id, float(bool(matches)), detail=detail)
    if not matches:
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    got = next((part for part in matches[-1 if last else 0].groups() if part is not None), "")
    right = folded(got, normalize) in {folded(target, normalize) for target in targets}
    return Sample(answer.id, float(right), detail={**detail, "extracted": got})


# --- alike --------------------------------------------------------------------------------------


def similarity(answer: Generation, item: Mapping[str, Any], *, metric: str = "ratio", normalize: Sequence[str] = ()) -> Sample:
    """How alike answer and target are, 0 (nothing) to 1 (the same), of several targets the likest.

    rapidfuzz: ratio (indel), token_sort (words in any order), levenshtein. sacrebleu, sentence by sentence: chrf, bleu
    (effective order), ter (1 less the error rate, at least 0). MissingNeed("similarity") where they are not installed.
    """
    targets = _targets(item)
    detail = detail_of(answer, item.get("prompt", item.get("input", "")), " | ".join(targets))
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    measure = _measure(metric)
    text = folded(answer.text[:_READ], normalize)
    value = max(measure(text, folded(target, normalize)) for target in targets)
    return Sample(answer.id, min(1.0, max(0.0, value)), detail={**detail, "metric": metric})


@lru_cache
def _measure(metric: str) -> Callable[[str, str], float]:
    """A function of answer and target, 1 for equal ones."""
    if metric in ("ratio", "token_sort"):
        alike = getattr(_library("rapidfuzz.fuzz"), "ratio" if metric == "ratio" else "token_sort_ratio")
        return lambda text, target: float(alike(text, target)) / 100
    if metric == "levenshtein":
        near = _library("rapidfuzz.distance").Levenshtein.normalized_similarity
        return lambda text, target: float(near(text, target))
    options = {"effective_order": True} if metric == "bleu" else {}
    scorer = getattr(_library("sacrebleu.metrics"), metric.upper())(**options)
    sign, start = (-1, 1.0) if metric == "ter" else (1, 0.0)
    return lambda text, target: start + sign * float(scorer.sentence_score(text, [target]).score) / 100


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingNeed("similarity", f"{error.name} is not installed", "python -m harness doctor --install similarity") from error


def versions() -> list[str]:
    """The libraries that measure, with their versions: a condition of the score."""
    installed = {dist.metadata["Name"]: dist.version for dist in metadata.distributions()}
    return [f"{name} {installed.get(name, 'missing')}" for name in ("rapidfuzz", "sacrebleu")]
