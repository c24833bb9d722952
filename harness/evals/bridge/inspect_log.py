"""Logs of Inspect: one JSON file, or the archive .eval with a file per sample.

Source: UKGovernmentBEIS/inspect_ai, ``src/inspect_ai/log/_log.py``, ``log/_recorders/eval.py`` and
``scorer/_metric.py``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ImportedError
from harness.evals.bridge import imported
from harness.evals.bridge.imported import Imported, Row, chosen, conditions_of, digest_of, finite, parse_json, samples_of

__all__ = ["holds", "read", "read_json"]

_LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_CUT = ("max_tokens", "model_length")  # why an output ended before it was whole


def holds(root: Any) -> bool:
    """Whether a JSON value is an Inspect log."""
    return isinstance(root, dict) and isinstance(root.get("eval"), dict) and "status" in root


def read(path: Path, metric: str) -> Imported:
    """An .eval archive. What it unpacks to is bounded before anything is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_archive(archive, path, metric)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise ImportedError(f"{path}: no whole .eval archive ({error}): truncated or damaged; fetch it again") from error
    except NotImplementedError as error:
        raise ImportedError(
            f"{path}: packed in a way that Python cannot unpack ({error}); convert it: inspect log convert --to json"
        ) from error


def _read_archive(archive: zipfile.ZipFile, path: Path, metric: str) -> Imported:
    infos = {info.filename: info for info in archive.infolist()}  # of two of one name the later counts
    size = sum(info.file_size for info in infos.values())
    if size > imported.LIMIT:
        raise ImportedError(f"{path}: unpacks to {size} bytes, more than the {imported.LIMIT} that are read: not a log of an evaluation")
    head = next((name for name in ("header.json", "_journal/start.json") if name in infos), None)
    if head is None:
        raise ImportedError(f"{path}: an archive without header.json; expected an .eval log of Inspect")
    header = parse_json(archive.read(head), f"{path}: {head}")
    names = [name for name in infos if name.startswith("samples/") and name.endswith(".json")]
    root = {"status": "started", **header} if isinstance(header, dict) else header
    if not holds(root):
        raise ImportedError(f"{path}: {head} is no header of an Inspect log")
    return read_json({**root, "samples": (parse_json(archive.read(n), f"{path}: {n}") for n in names)}, path, metric)


def read_json(root: Mapping[str, Any], path: Path, metric: str) -> Imported:
    """A log whose ``samples`` may be any iterable of them."""
    spec, results = root["eval"], root.get("results") or {}
    kept = [_reduced(sample, path) for sample in _samples(root, path)]
    score = chosen(metric, sorted({name for sample in kept for name in sample["values"]}), "score", path)
    kept.sort(key=lambda sample: sample["epoch"])  # stable: the samples keep their order
    twice = {(s["id"], s["epoch"]) for s in kept}
    if len(twice) < len(kept):
        raise ImportedError(f"{path}: {len(kept) - len(twice)} samples stand twice with one id and epoch")
    total = results.get("total_samples")
    if root["status"] == "success" and isinstance(total, int) and len(kept) < total and not results.get("early_stopping"):
        raise ImportedError(f"{path}: {len(kept)} of {total} samples are there: truncated, or logged without samples")
    conditions = conditions_of(
        path, metric=score, version=spec.get("task_version"), model=spec.get("model"), epochs=(spec.get("config") or {}).get("epochs"),
        tool_version=(spec.get("packages") or {}).get("inspect_ai"), status=root["status"], reported_se=_stderr(results, score),
    )  # fmt: skip
    invalid = () if root["status"] == "success" else (f"the log of {path.name} says {root['status']!r}, not 'success'",)
    rows = (_row(sample, score) for sample in kept)
    return Imported(samples_of(rows, path), "inspect", str(spec.get("task", "")), conditions, invalid)


def _samples(root: Mapping[str, Any], path: Path) -> Iterable[Any]:
    samples = root.get("samples")
    if samples is None:
        raise ImportedError(f"{path}: a log without samples (log_samples=False); only its aggregates are left")
    return samples if not isinstance(samples, (str, dict)) else ()


def _reduced(sample: Any, path: Path) -> dict[str, Any]:
    """What is kept of a sample, so that transcripts are not held in memory together."""
    if not isinstance(sample, dict) or any(key not in sample for key in ("id", "input", "target")):
        raise ImportedError(f"{path}: a sample without id, input and target; expected a log of Inspect")
    epoch = sample.get("epoch", 1)
    if not isinstance(epoch, int):
        raise ImportedError(f"{path}: sample {sample['id']!r} has epoch {epoch!r}, expected a number")
    choices = (sample.get("output") or {}).get("choices") or [{}]
    return {
        "id": str(sample["id"]), "epoch": epoch, "prompt": digest_of([_asked(sample["input"]), sample.get("choices")]),
        "target": digest_of(sample["target"]), "values": _values(sample), "answers": sample.get("scores") or {},
        "error": (sample.get("error") or {}).get("message", "") if isinstance(sample.get("error"), dict) else sample.get("error") or "",
        "limit": (sample.get("limit") or {}).get("type", ""), "stop": choices[0].get("stop_reason", ""),
        "detail": {"input": sample["input"], "target": sample["target"]},
    }  # fmt: skip


def _asked(value: Any) -> Any:
    """An input without the ids that a run gives its messages."""
    return [{"role": m.get("role"), "content": m.get("content")} for m in value] if isinstance(value, list) else value


def _values(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Scores by name; one that is an object gives a score for each of its keys."""
    values: dict[str, Any] = {}
    for name, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, dict) else score
        values.update({f"{name}/{key}": part for key, part in value.items()} if isinstance(value, dict) else {name: value})
    return values


def _row(sample: Mapping[str, Any], score: str) -> Row:
    value, answer = sample["values"].get(score), sample["answers"].get(score.partition("/")[0]) or {}
    detail = {**sample["detail"], "text": answer.get("answer") if isinstance(answer, dict) else answer, "epoch": sample["epoch"],
              "finish": sample["stop"], "prompt": sample["prompt"], "target_digest": sample["target"]}  # fmt: skip
    status, why = "ok", ""
    if sample["error"]:
        status, why = "error", str(sample["error"])
    elif sample["limit"] or sample["stop"] in _CUT:
        status, why = "truncated", f"limit: {sample['limit'] or sample['stop']}; the scorer gave {value!r}"
    elif score not in sample["values"]:
        why = "not scored"
    return Row(sample["id"], sample["prompt"], sample["target"], _number(value), status, why, detail)


def _number(value: Any) -> Any:
    """A score as Inspect's own metrics read it, by default."""
    if not isinstance(value, str):
        return value
    known = _LETTERS.get(value, _LETTERS.get(value.lower()))
    if known is not None:
        return known
    try:
        return finite(float(value))
    except ValueError:
        return value


def _stderr(results: Mapping[str, Any], score: str) -> Any:
    """The reported standard error of a score, where it was reduced by one reducer."""
    found = [s for s in results.get("scores") or [] if isinstance(s, dict) and s.get("name") == score]
    metrics = found[0].get("metrics") or {} if len(found) == 1 else {}
    return (metrics.get("stderr") or {}).get("value")
