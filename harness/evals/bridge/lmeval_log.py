"""What ``lm-eval --log_samples`` writes: samples_TASK_DATE.jsonl, and results_DATE.json beside it.

Source: EleutherAI/lm-evaluation-harness 0.4.13, ``lm_eval/evaluator.py`` and
``lm_eval/loggers/evaluation_tracker.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ImportedError
from harness.evals.bridge.imported import Imported, Row, chosen, conditions_of, digest_of, load, load_json, parse_json, samples_of

__all__ = ["read"]

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<when>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(\.\d+)?)\.jsonl")
_FIELDS = ("doc_hash", "prompt_hash", "target_hash", "metrics", "filter")


_LOWER = frozenset({"perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "wer", "ter", "brier_score", "ece"})


def read(path: Path, task: str, metric: str, filter: str) -> Imported:
    """One task of one run. ``path`` is its file, or a folder with it or one folder above."""
    file = _file(path, task)
    named = _NAME.fullmatch(file.name)
    task = named["task"] if named else task or file.stem
    rows = list(_rows(file))
    results = _results(file, named["when"], task, rows) if named else {}
    name = chosen(filter, sorted({str(row["filter"]) for row in rows}), "filter", file)
    kept = [row for row in rows if row["filter"] == name]
    score = chosen(metric, sorted({str(m) for row in kept for m in row["metrics"]}), "metric", file)
    if _of(results, "higher_is_better", task).get(score, score not in _LOWER) is False:
        raise ImportedError(f"{file}: {score} is better the lower it is, and scores are compared as better the higher; name another metric")
    of_task = _of(results, "results", task)
    conditions = conditions_of(
        file, metric=score, filter=name if name != "none" else "", version=_of(results, "versions").get(task),
        shots=_of(results, "n-shot").get(task), model=_of(results, "config").get("model"),
        model_args=_of(results, "config").get("model_args"), tool_version=results.get("lm_eval_version"),
        harness=results.get("harness"), reported_se=of_task.get(f"{score}_stderr,{name}"),
    )  # fmt: skip
    return Imported(samples_of((_row(row, score, file) for row in kept), file), "lm-eval", task, conditions)


def _file(path: Path, task: str) -> Path:
    if path.is_file():
        return path
    found = sorted(path.glob("samples_*.jsonl")) or sorted(path.glob("*/samples_*.jsonl"))
    names = {file: match["task"] for file in found if (match := _NAME.fullmatch(file.name))}
    if not names:
        raise ImportedError(f"{path}: no samples_TASK_DATE.jsonl in it or one folder below; run lm-eval with --log_samples")
    wanted = chosen(task, sorted(set(names.values())), "task", path)
    files = [file for file, name in names.items() if name == wanted]
    if len(files) > 1:
        raise ImportedError(f"{path}: {len(files)} runs of {wanted}, name one file: {', '.join(f.name for f in files)}")
    return files[0]


def _rows(file: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(load(file).splitlines(), 1):
        if not line.strip():
            continue
        row = parse_json(line, f"{file}, line {number}")
        missing = [name for name in _FIELDS if name not in row] if isinstance(row, dict) else list(_FIELDS)
        if missing:
            raise ImportedError(f"{file}, line {number}: no {', '.join(missing)}; expected a row of lm-eval --log_samples, 0.4.3 or later")
        if not isinstance(row["metrics"], list):
            raise ImportedError(f"{file}, line {number}: metrics is {type(row['metrics']).__name__}, expected a list of names")
        yield row


def _results(file: Path, when: str, task: str, rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The aggregated results of the same run, {} without; checked against the rows by lm-eval's own hash of them."""
    beside = file.with_name(f"results_{when}.json")
    if not beside.is_file():
        return {}
    results = load_json(beside)
    if not isinstance(results, dict):
        raise ImportedError(f"{beside}: a JSON {type(results).__name__}, expected the results of lm-eval")
    declared = _of(results, "task_hashes").get(task)
    hashes = "".join(f"{row['doc_hash']}{row['prompt_hash']}{row['target_hash']}" for row in rows)
    if declared and declared != digest_of(hashes):
        logged = _of(results, "n-samples", task).get("effective")
        raise ImportedError(
            f"{file}: its {len(rows)} rows are not the ones that were scored ({logged} items, by {beside.name}): "
            "truncated, or changed afterwards; fetch both files again"
        )
    return results


def _of(results: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    inner: Any = results
    for key in keys:
        inner = inner.get(key) if isinstance(inner, dict) else None
    return inner if isinstance(inner, dict) else {}


def _row(row: Mapping[str, Any], metric: str, file: Path) -> Row:
    item = str(row["doc_hash"])
    arguments = _of(row, "arguments", "gen_args_0")
    prompt, target = arguments.get("arg_0"), row.get("target")
    for what, text in (("prompt", prompt), ("target", target)):
        if isinstance(text, str) and digest_of(text) != row[f"{what}_hash"]:
            raise ImportedError(f"{file}: item {item!r} (doc_id {row.get('doc_id')}): its {what} is not the one that was hashed")
    finishes = _of(row, "harness").get("finish", [])  # written by our own runner
    status = "error" if "error" in finishes else "truncated" if "length" in finishes else "ok"
    detail = {"input": prompt, "text": row.get("filtered_resps"), "target": target, **({"finish": finishes} if finishes else {})}
    why = "; ".join(_of(row, "harness").get("errors", ())) or ("" if status == "ok" else f"finish: {', '.join(finishes)}")
    if status == "ok" and metric not in row:
        why = f"no {metric} in the row"
    hashes = {"prompt": row["prompt_hash"], "target_digest": row["target_hash"]}
    return Row(item, prompt, target, row.get(metric), status, why, {**detail, **hashes})
