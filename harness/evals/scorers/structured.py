"""JSON answers: equal or not, and field by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.evals.scorers.common import detail_of, unscored
from harness.types import Generation, Sample

__all__ = ["answer_text", "f1", "field_f1", "json_equality", "parsed", "per_field"]


def answer_text(target: Any) -> str:
    """The answer a tuned model is taught: compact JSON in the order of the target's keys."""
    return json.dumps(target, ensure_ascii=False, separators=(",", ":"))


def parsed(text: str) -> Any:
    """What a strict reader makes of it. ValueError or RecursionError where it is no JSON."""
    return json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_twins)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that names a key twice says two things."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def per_field(got: Any, target: Mapping[str, Any]) -> dict[str, list[str]]:
    """The names of the fields that are right, wrong, missing and invented; of an answer that is no object all are missing."""
    found = got if isinstance(got, dict) else {}
    return {
        "right": [key for key, value in target.items() if key in found and found[key] == value],
        "wrong": [key for key, value in target.items() if key in found and found[key] != value],
        "missing": [key for key in target if key not in found],
        "invented": [key for key in found if key not in target],
    }


def f1(fields: Mapping[str, list[str]]) -> float:
    """2 TP / (2 TP + FP + FN): a wrong field is both, an invented one FP, a missing one FN."""
    right, wrong = len(fields["right"]), len(fields["wrong"])
    total = 2 * right + 2 * wrong + len(fields["invented"]) + len(fields["missing"])
    return 2 * right / total if total else 1.0


def json_equality(answer: Generation, item: Mapping[str, Any], *, fields: bool = False) -> Sample:
    """1 for right keys, right values, nothing else. With ``fields`` the detail also has them one by one, and their F1."""
    return _scored(answer, item, fields=fields, graded=False)


def field_f1(answer: Generation, item: Mapping[str, Any]) -> Sample:
    """The F1 of the fields, 0 to 1: a graded score beside equality."""
    return _scored(answer, item, fields=True, graded=True)


def _scored(answer: Generation, item: Mapping[str, Any], *, fields: bool, graded: bool) -> Sample:
    target = item["target"]
    detail = detail_of(answer, item.get("input", item.get("prompt", "")), answer_text(target))
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    try:
        got = parsed(answer.text)
    except (ValueError, RecursionError):
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    if not (fields and isinstance(target, dict)):
        return Sample(answer.id, float(got == target), detail=detail)
    each = per_field(got, target)
    detail |= {"fields": each, "f1": round(f1(each), 9)}
    return Sample(answer.id, f1(each) if graded else float(got == target), detail=detail)
