"""One shape for the results of every tool: rows in, Samples out; two runs paired by content."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import ImportedError
from harness.stats import means
from harness.types import Measurement, Sample, Subject

__all__ = [
    "LIMIT",
    "Imported",
    "Row",
    "chosen",
    "compared",
    "conditions_of",
    "digest_of",
    "finite",
    "load_json",
    "parse_json",
    "samples_of",
]

LIMIT = 2 << 30  # bytes of one file, or of an archive when unpacked: more is no log of an evaluation


@dataclass(frozen=True, slots=True)
class Imported:
    """One run of another tool: a Sample per item and repetition, arm "one".

    ``Sample.item`` is a hash of the item's content where the tool has one, else the tool's own id;
    ``Sample.detail`` holds ``prompt`` and ``target_digest``, the digests by which ``compared`` sees
    that both runs asked the same. ``conditions["reported_se"]`` is the standard error that the tool
    gave, None without one. ``invalid`` says why the run as a whole is void (cancelled, failed).
    """

    samples: tuple[Sample, ...]
    source: str
    task: str
    conditions: Mapping[str, Any]
    invalid: tuple[str, ...] = ()

    @property
    def metric(self) -> str:
        """Tool, task and score: what two runs must have in common."""
        parts = (self.source, self.task, self.conditions.get("metric"), self.conditions.get("filter"))
        return ":".join(str(part) for part in parts if part)

    def measurement(self, subjects: tuple[Subject, ...] = ()) -> Measurement:
        """The run as one arm, for a claim about its own level."""
        return Measurement(self.metric, self.samples, subjects, self.conditions, self.invalid)


def compared(new: Imported, old: Imported, subjects: tuple[Subject, ...] = (), *, other_prompts: bool = False) -> Measurement:
    """Two runs as the arms of one paired Measurement; items of one run alone stay in, and the judge refuses them.

    ``other_prompts`` allows that the prompts differ, where they are what is compared (0-shot against
    3-shot). Raises ImportedError for runs of different tasks or scores, and, naming the item, for one
    whose prompt or target is not the same in both.
    """
    if new.metric != old.metric:
        raise ImportedError(
            f"{new.metric!r} and {old.metric!r} are not the same measurement: name the same task, metric and filter for both"
        )
    if new.conditions.get("version") != old.conditions.get("version"):
        versions = f"{new.conditions.get('version')!r} and {old.conditions.get('version')!r}"
        raise ImportedError(f"{new.metric}: the task has versions {versions} in the two runs; run it again with one of them")
    theirs = {(s.item, s.replicate): s for s in old.samples}
    for sample in new.samples:
        other = theirs.get((sample.item, sample.replicate))
        for what in ("target_digest",) if other_prompts else ("target_digest", "prompt"):
            if other is not None and sample.detail.get(what) != other.detail.get(what):
                word = "prompt" if what == "prompt" else "target"
                raise ImportedError(
                    f"{new.metric}: item {sample.item!r} has another {word} in the old run: its two scores cannot be compared"
                )
    samples = tuple(replace(s, arm=arm) for arm, run in (("new", new), ("old", old)) for s in run.samples)
    conditions = {"new": dict(new.conditions), "old": dict(old.conditions), "reported_se": _pooled(new, old)}
    ends = {arm: any("finish" in s.detail for s in run.samples) for arm, run in (("new", new), ("old", old))}
    notes = (
        ("only one of the runs says how its answers ended: in the other a truncated answer has its score",)
        if len(set(ends.values())) > 1
        else ()
    )
    return Measurement(new.metric, samples, subjects, conditions, (*new.invalid, *old.invalid), notes)


def _pooled(new: Imported, old: Imported) -> float | None:
    """The reported standard error that the judge is to hold against the rows of both arms together.

    Of the two that were reported it is the one that its own rows contradict more, by as many times
    as they do: an error of one arm alone says nothing about the arms together. None without one.
    """
    ratios = []
    for run in (new, old):
        reported, rows = run.conditions.get("reported_se"), _standard_error(run.samples)
        if reported is not None and rows is not None and reported != rows:
            ratios.append(min(max(reported / rows, 1e-6), 1e6) if rows > 0 else 1e6)
        elif reported is not None and rows is not None:
            ratios.append(1.0)
    both = _standard_error((*new.samples, *old.samples))
    return None if not ratios or both is None else both * max(ratios, key=lambda ratio: abs(math.log(ratio)))


def _standard_error(samples: Iterable[Sample]) -> float | None:
    """As the judge takes it from the rows."""
    rows = [(s.value, s.cluster or s.item) for s in samples if s.value is not None]
    if len({unit for _, unit in rows}) < 2:
        return None
    return means.cluster_mean([value for value, _ in rows], [unit for _, unit in rows], 0.05).se


# --- what the readers share -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Row:
    """One scored answer as a reader found it; ``value`` may be anything, and absent where there is none.

    ``why`` says why there is no value, ``status`` then what kind of absence it is.
    """

    item: str
    prompt: object
    target: object
    value: object
    status: str = "ok"
    why: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)


def samples_of(rows: Iterable[Row], where: Path) -> tuple[Sample, ...]:
    """A Sample per row; an item that comes again is its next replicate.

    A missing or non-finite score is a Sample with status "error". Raises ImportedError, naming the
    item, for a score that is no number, and for a file without rows.
    """
    seen: Counter[str] = Counter()
    samples = [_sample(row, seen, where) for row in rows]
    if not samples:
        raise ImportedError(f"{where}: no scored items in it; expected at least one")
    return tuple(samples)


def _sample(row: Row, seen: Counter[str], where: Path) -> Sample:
    replicate = seen[row.item]
    seen[row.item] += 1
    status, why, value = row.status, row.why, None
    if status == "ok":
        value = finite(row.value)
        if value is None and isinstance(row.value, (str, list, dict)):
            raise ImportedError(
                f"{where}: item {row.item!r}: the score is {json.dumps(row.value)[:80]}, expected a number: "
                "name a metric that is one number per item"
            )
        if value is None:
            status, why = "error", why or f"the score is {row.value}, no finite number"
    detail = {"prompt": digest_of(row.prompt), "target_digest": digest_of(row.target), **row.detail}
    return Sample(plain(row.item), value, status=status, replicate=replicate, detail=plain({**detail, "error": why} if why else detail))


def plain(value: Any) -> Any:
    """A JSON value as evidence can hold it: numbers that are not finite by name, text that is valid UTF-8."""
    if isinstance(value, dict):
        return {plain(str(key)): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def finite(value: object) -> float | None:
    """A finite number as float; None for anything else."""
    if not isinstance(value, (bool, int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def digest_of(value: object) -> str:
    """SHA-256 of a text, or of a JSON value with sorted keys."""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def chosen(wanted: str, known: Sequence[str], what: str, where: Path) -> str:
    """The one that is named, or the only one there is. Raises ImportedError that lists them."""
    if wanted in known:
        return wanted
    if not wanted and len(known) == 1:
        return known[0]
    listed = ", ".join(map(str, known)) or "none"
    if wanted:
        raise ImportedError(f"{where}: no {what} {wanted!r}; there is: {listed}")
    raise ImportedError(f"{where}: {len(known)} of {what}, one must be named: {listed}")


def parse_json(data: bytes, where: str) -> Any:
    """A JSON value; NaN is read as such. Raises ImportedError that says where."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImportedError(f"{where}: no JSON ({str(error)[:80] or 'nested too deeply'}): truncated or of another format") from error


def load_json(path: Path) -> Any:
    """A JSON file of at most LIMIT bytes. Raises ImportedError."""
    return parse_json(load(path), str(path))


def load(path: Path) -> bytes:
    """The bytes of a file of at most LIMIT. Raises ImportedError."""
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise ImportedError(f"{path}: {size} bytes, more than the {LIMIT} that are read; cut it into parts")
        return path.read_bytes()
    except OSError as error:
        raise ImportedError(f"{path}: cannot be read ({error.strerror})") from error


def conditions_of(path: Path, **found: Any) -> dict[str, Any]:
    """The conditions of a run: what was found that is not empty, and the digest of the file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    kept = {key: value for key, value in found.items() if value not in (None, "", [], {})}
    return {**plain(kept), "file": path.name, "digest": digest, "reported_se": finite(found.get("reported_se"))}
