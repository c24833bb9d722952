"""Test runs of DeepEval, as it saves them locally (DEEPEVAL_RESULTS_FOLDER, .latest_test_run.json).

Source: confident-ai/deepeval, ``deepeval/test_run/{test_run,api}.py`` and ``deepeval/tracing/api.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import ImportedError
from harness.evals.bridge.imported import Imported, Row, chosen, conditions_of, digest_of, samples_of

__all__ = ["holds", "read_json"]

_KINDS = ("testCases", "conversationalTestCases")


def holds(root: Any) -> bool:
    """Whether a JSON value is a test run of DeepEval."""
    return isinstance(root, dict) and any(isinstance(_run(root).get(kind), list) for kind in _KINDS)


def _run(root: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = root.get("testRunData")
    return inner if isinstance(inner, dict) else root


def read_json(root: Mapping[str, Any], path: Path, metric: str) -> Imported:
    """The scores of one metric, or, for "success", whether the test case passed."""
    run = _run(root)
    cases = [case for kind in _KINDS for case in run.get(kind) or []]
    for number, case in enumerate(cases):
        if not isinstance(case, dict) or ("input" not in case and "scenario" not in case and "turns" not in case):
            raise ImportedError(f"{path}: test case {number} has no input; expected a test run of DeepEval")
    named = sorted({str(name) for case in cases for name in _metrics(case)})
    score = metric if metric == "success" else chosen(metric, named, "metric", path)
    judges = sorted(
        {str(m["evaluationModel"]) for case in cases for n, m in _metrics(case).items() if n == score and m.get("evaluationModel")}
    )
    conditions = conditions_of(
        path, metric=score, judged_by=judges, hyperparameters=run.get("hyperparameters"), identifier=run.get("identifier")
    )
    rows = (_row(case, score) for case in cases)
    return Imported(samples_of(rows, path), "deepeval", str(run.get("testFile") or ""), conditions)


def _metrics(case: Mapping[str, Any]) -> dict[Any, Mapping[str, Any]]:
    return {data.get("name"): data for data in case.get("metricsData") or [] if isinstance(data, dict)}


def _row(case: Mapping[str, Any], metric: str) -> Row:
    metrics = _metrics(case)
    asked = case.get("input") or case.get("scenario") or [t.get("content") for t in case.get("turns") or () if t.get("role") == "user"]
    target = case.get("expectedOutput") or case.get("expectedOutcome")
    looked_at = metrics.values() if metric == "success" else [metrics.get(metric, {})]
    broken = "; ".join(str(data["error"]) for data in looked_at if data.get("error"))
    value = case.get("success") if metric == "success" else metrics.get(metric, {}).get("score")
    why = broken or ("" if value is not None else f"no {metric} for this test case")
    detail = {"input": asked, "text": case.get("actualOutput"), "target": target, "name": case.get("name")}
    return Row(digest_of([asked, case.get("context")]), asked, target, value, "error" if broken else "ok", why, detail)
