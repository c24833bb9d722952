"""Timings of pytest-benchmark as evidence: its JSON files in, blocks for a claim on the ratio of two versions out.

    pytest micro.py --benchmark-json old1.json          (the old version, the new one twice, the old one again: one block)
    blocks("test_split", [old1, new1, new2, old2, old3, new3, ...])   ->   a Measurement for at_most(1.05), estimand run_ratio

Rounds of one run share its machine's mood, so that a run counts once, by the median of its rounds, and versions are held
against each other in blocks of four runs, old new new old: a drift of the machine cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ImportedError, nearest
from harness.evals.bridge.imported import finite, load_json
from harness.types import Measurement, Sample

__all__ = ["Timing", "blocks", "read_timings"]

_ORDER = (("old", 0), ("new", 0), ("new", 1), ("old", 1))
_MACHINE = ("machine", "system", "python_implementation", "python_version")  # and the processor's brand; never the host's name


@dataclass(frozen=True, slots=True)
class Timing:
    """One benchmark of one run: ``median`` seconds a call over ``rounds``, and what it was taken on and with."""

    name: str
    median: float
    rounds: int
    machine: Mapping[str, str]
    commit: str
    options: Mapping[str, Any]


def read_timings(path: Path) -> dict[str, Timing]:
    """The benchmarks of a file that ``--benchmark-json`` wrote, by full name. ImportedError if it is no such file, or holds none."""
    data = load_json(path)
    rows = data.get("benchmarks") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not isinstance(data.get("machine_info"), dict):
        raise ImportedError(f"{path}: no file of pytest-benchmark; expected what --benchmark-json writes, with machine_info and benchmarks")
    if not rows:
        raise ImportedError(f"{path}: holds no benchmark: none was collected, or --benchmark-skip left all out")
    info = data["machine_info"]
    machine = {key: str(info.get(key)) for key in _MACHINE} | {"cpu": str((info.get("cpu") or {}).get("brand_raw"))}
    commit = str((data.get("commit_info") or {}).get("id"))
    return {timing.name: timing for timing in (_timing(path, row, machine, commit) for row in rows)}


def _timing(path: Path, row: Any, machine: Mapping[str, str], commit: str) -> Timing:
    try:
        stats, options = row["stats"], dict(row["options"])
        median, rounds = finite(stats["median"]), int(stats["rounds"])
        name = str(row["fullname"])
    except (KeyError, TypeError, ValueError) as error:
        raise ImportedError(f"{path}: a benchmark without name, options or statistics ({error}): the file was changed or cut off") from None
    if median is None or median <= 0 or rounds < 1:
        raise ImportedError(f"{path}: {name}: median = {stats['median']!r} s of {rounds} rounds, expected a time above 0")
    return Timing(name, median, rounds, machine, commit, options)


def blocks(name: str, files: Sequence[Path]) -> Measurement:
    """The benchmark ``name`` (its full name, or the end of it) of runs old, new, new, old, old, new, new, old ... as blocks.

    Void where runs were taken on different machines or with different options: "other_machine", "other_options".
    ImportedError if the files are no whole blocks, or one of them lacks the benchmark.
    """
    if not files or len(files) % 4:
        raise ImportedError(f"{len(files)} files, expected four a block, in the order they were run: old new new old")
    runs = [_named(path, name) for path in files]
    rows = tuple(
        Sample(
            f"block-{i // 4:02d}",
            run.median,
            *_ORDER[i % 4][:1],
            replicate=_ORDER[i % 4][1],
            detail={"rounds": run.rounds, "commit": run.commit},
        )
        for i, run in enumerate(runs)
    )
    first = runs[0]
    void = []
    if any(run.machine != first.machine for run in runs):
        void.append("other_machine: the runs were not all taken on one machine and one Python")
    if any(run.options != first.options for run in runs):
        void.append("other_options: the runs were not all taken with the same options of pytest-benchmark")
    conditions = {"benchmark": first.name, "machine": dict(first.machine), "statistic": "median of the rounds of a run, seconds"}
    return Measurement("seconds", rows, conditions=conditions, invalid=tuple(void))


def _named(path: Path, name: str) -> Timing:
    known = read_timings(path)
    found = [full for full in known if full == name or full.endswith(f"::{name}")]
    if len(found) != 1:
        raise ImportedError(f"{path}: {len(found)} benchmarks are called {name!r}: {nearest(name, list(known))}")
    return known[found[0]]
