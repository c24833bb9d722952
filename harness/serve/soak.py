"""Whether a server that runs for long stays what it was: laps of the same load, the late ones against the early ones.

A lap is a closed loop with prompts of its own; after it the server is left idle, and looked at. A stretch of laps is compared
with the one half a soak before it: as much time lies between all such pairs, so that a steady drift shows in each. The
pairs are blocks for the estimand run_ratio, late against early; they are long, because neighbouring laps are alike.
Calibrated in suites/selftest/quality/test_soak.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import product
from statistics import fmean, median
from typing import Any

from harness.records import Load
from harness.serve.blocks import figure, sized
from harness.serve.telemetry import Scrape
from harness.serve.validity import validity
from harness.types import Sample

__all__ = ["growth", "held", "laps", "later"]

Lap = Callable[[int], tuple[Load, Scrape]]
"""``lap(number)``: the load, and a look at the server after it, once nothing runs any more."""


def laps(lap: Lap, count: int, figures: Sequence[str], *, warmup: int = 2) -> list[dict[str, Any]]:
    """``count`` laps after ``warmup`` others, one row each as JSON: lap, figures, invalid, and kv and pss while idle."""
    rows = []
    for number in range(warmup + count):
        load, after = lap(number)
        if number < warmup:
            continue
        load = sized(load)
        void = list(validity(load))
        rows.append({
            "lap": number - warmup, "figures": {name: None if void else figure(load, name) for name in figures}, "invalid": void,
            "running": after.running, "kv": after.kv, "pss": after.pss,
        })  # fmt: skip
    return rows


def later(rows: Sequence[Mapping[str, Any]], name: str, blocks: int = 6) -> tuple[Sample, ...]:
    """For the estimand run_ratio: ``blocks`` stretches of the first half of a soak (the arm "old"), each with that half a soak later.

    A stretch gives two values, the geometric means of a figure over its halves; void laps are left out, and a half of
    nothing but those has no value. Laps beyond the last whole stretch are left out.
    """
    size = len(rows) // (4 * blocks)  # laps in half a stretch
    found = []
    for number, arm, part in product(range(blocks), ("old", "new"), (0, 1)):
        start = (2 * number + part + (2 * blocks if arm == "new" else 0)) * size
        mine = rows[start : start + size]
        values = [math.log(row["figures"][name]) for row in mine if row["figures"][name]]
        causes = [cause for row in mine for cause in row["invalid"]]
        status = "ok" if values else causes[0].partition(":")[0] if causes else "no_figure"
        value = round(math.exp(fmean(values)), 9) if values else None
        found.append(Sample(f"stretch-{number:02d}", value, arm, status, replicate=part, detail={"laps": [start, start + len(mine)]}))
    return tuple(found)


def growth(rows: Sequence[Mapping[str, Any]]) -> float | None:
    """Memory while idle: the median of the last third of the laps over that of the first; None where nobody tells it."""
    sizes = [row["pss"] for row in rows if row["pss"]]
    third = len(sizes) // 3
    return median(sizes[-third:]) / median(sizes[:third]) if third else None


def held(rows: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    """For identical(): 1 for a lap after which neither a request nor a block of the cache is held; no value where it is not told."""

    def value(row: Mapping[str, Any]) -> float | None:
        told = [x for x in (row["running"], row["kv"]) if x is not None]
        return float(not any(told)) if told else None

    found = []
    for row in rows:
        free = value(row)
        detail = {"running": row["running"], "kv": row["kv"]}
        found.append(Sample(f"after lap {row['lap']:03d}", free, status="ok" if free is not None else "not_told", detail=detail))
    return tuple(found)
