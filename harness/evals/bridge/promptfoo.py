"""Results of promptfoo: a test of one prompt on one provider is a row, provider and prompt are a column.

Source: promptfoo/promptfoo, ``src/types/index.ts`` (EvaluateResult, EvaluateSummaryV3).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ImportedError
from harness.evals.bridge.imported import Imported, Row, chosen, conditions_of, digest_of, samples_of

__all__ = ["holds", "read_json"]

_ERROR = 2  # ResultFailureReason.ERROR: the answer or its grading broke, as opposed to an assertion that failed


def holds(root: Any) -> bool:
    """Whether a JSON value is what promptfoo exports."""
    return isinstance(root, dict) and isinstance(root.get("results"), dict) and isinstance(root["results"].get("results"), list)


def read_json(root: Mapping[str, Any], path: Path, metric: str, column: str) -> Imported:
    """One column. The score is whether the test passed, or ``metric``: "score", or a named score."""
    rows = root["results"]["results"]
    for number, row in enumerate(rows):
        missing = [key for key in ("success", "vars", "provider", "prompt") if key not in row] if isinstance(row, dict) else ["fields"]
        if missing:
            raise ImportedError(f"{path}: result {number} has no {', '.join(missing)}; expected results of promptfoo, version 2 or 3")
    columns = {_column(row): None for row in rows if not column or column in _names(row)}
    known = list(columns) if columns else [_column(row) for row in rows]
    which = chosen(column if column in known or not columns else "", list(dict.fromkeys(known)), "column", path)
    kept = [row for row in rows if _column(row) == which]
    named = sorted({name for row in kept for name in row.get("namedScores") or {}})
    score = chosen(metric or "success", ["success", "score", *named], "metric", path)
    provider, _, prompt = which.partition(" | ")
    conditions = conditions_of(
        path, metric=score, model=provider, prompt=prompt, column=which, tool_version=(root.get("metadata") or {}).get("promptfooVersion"),
        format=root["results"].get("version"), evaluation=root.get("evalId"),
    )  # fmt: skip
    task = str((root.get("config") or {}).get("description") or "")
    return Imported(samples_of((_row(row, score) for row in kept), path), "promptfoo", task, conditions)


def _provider(row: Mapping[str, Any]) -> Mapping[str, Any]:
    provider = row["provider"]
    return provider if isinstance(provider, dict) else {"id": provider}


def _column(row: Mapping[str, Any]) -> str:
    provider = _provider(row)
    return f"{provider.get('label') or provider.get('id')} | {_prompt(row).get('label') or ''}"


def _prompt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    return row["prompt"] if isinstance(row["prompt"], dict) else {"raw": row["prompt"]}


def _names(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (_provider(row).get("id"), _provider(row).get("label"), _prompt(row).get("label"), _column(row))


def _row(row: Mapping[str, Any], metric: str) -> Row:
    case, response, grading = (row.get(key) or {} for key in ("testCase", "response", "gradingResult"))
    given = {key: value for key, value in row["vars"].items() if not key.startswith("_")}  # _conversation: of the run, not of the item
    item = digest_of([given, case.get("description")])
    value = row.get(metric) if metric in ("success", "score") else (row.get("namedScores") or {}).get(metric)
    status, why = _status(row, response, grading)
    if status == "ok" and value is None:
        why = f"no {metric} for this test"
    detail = {"input": given, "text": response.get("output"), "target": case.get("assert"), "finish": response.get("finishReason") or ""}
    return Row(item, _prompt(row).get("raw"), case.get("assert"), value, status, why, detail)


def _status(row: Mapping[str, Any], response: Mapping[str, Any], grading: Mapping[str, Any]) -> tuple[str, str]:
    parts = [grading, *(grading.get("componentResults") or [])]
    broken = any(((part or {}).get("metadata") or {}).get("graderError") for part in parts)
    lost = row.get("failureReason") is None and row.get("error") and response.get("output") is None
    if row.get("failureReason") == _ERROR or lost or broken:
        return "error", str(row.get("error") or grading.get("reason") or "the grader failed")
    if response.get("finishReason") in ("length", "max_tokens"):
        return "truncated", "the answer was cut off"
    return "ok", ""
