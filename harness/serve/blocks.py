"""Run against run: two servers under the same load, in blocks, one loaded at a time.

A block is four runs, A B B A or B A A B in turn, all with the seed of the block: the same arrivals and prompts for both
arms, new ones for the next block. So a drift of the machine cancels, and so does what the requests happen to be. Both arms
are restarted once in the middle, because two starts of one server differ. The unit is the block, never the request:
requests of one run share its luck, and understate what another run would give (vllm-project/guidellm#243: 1.8 to 3.2 times).

Compared are two arms on one machine on one day. A number kept from elsewhere is no arm.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from harness.errors import ConfigError, nearest
from harness.progress import Progress
from harness.records import METRICS, Load, Objective, Record, samples
from harness.serve.validity import validity
from harness.stats.ratio import abba_schedule
from harness.types import Measurement, Sample, Subject

__all__ = ["Run", "blocks", "figure", "least", "measurement", "planted", "rate", "seed_of", "sized", "span"]

Run = Callable[[str, int], Load]
"""``run("old" or "new", seed)``: one load on that arm. The seed makes its schedule and its prompts."""

_RATES = ("tokens_s", "requests_s")
_BEYOND = 5  # requests of a run beyond a quantile, that it may be read off the run


def blocks(
    run: Run,
    count: int,
    seed: str,
    figures: Sequence[str],
    *,
    within: Sequence[Objective] = (),
    restart: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """``count`` blocks of four runs; one row for each run in order of time, as JSON: block, arm, replicate, seed, figures, invalid.

    ``figures``: names that ``figure`` knows. ``restart`` is called once, between the two halves. A run that is void
    (``harness.serve.validity``) has its reasons in ``invalid`` and no figures. ConfigError for a figure that is not known.
    """
    for name in figures:
        least(name)
    rows: list[dict[str, Any]] = []
    for number, order in enumerate(abba_schedule(count, seed)):
        if restart is not None and number and number == count // 2:
            restart()
        for place, letter in enumerate(order):
            if progress is not None:
                progress("run against run", len(rows), 4 * count)
            arm = "old" if letter == "A" else "new"
            load = run(arm, seed_of(seed, number))
            rows.append({"block": f"block-{number:02d}", "arm": arm, "replicate": int(place > 1), **_row(load, figures, within)})
    if progress is not None:
        progress("run against run", 4 * count, 4 * count)
    return rows


def sized(load: Load) -> Load:
    """The load, promising its own median time of a request where it promises nothing: the client may be late by 1 % of it."""
    ends = [r.end * 1e-6 for r in load.judged if r.outcome == "complete" and r.end]
    if load.header.get("slo") or not ends:
        return load
    return Load({**load.header, "slo": {"e2e_p50": f"{median(ends):.6f}s"}}, load.records)


def _row(load: Load, figures: Sequence[str], within: Sequence[Objective]) -> dict[str, Any]:
    load = sized(load)
    void, judged = list(validity(load)), load.judged
    return {
        "seed": load.header.get("seed"),
        "n": len(judged),
        "failed": sum(r.outcome != "complete" for r in judged),
        "figures": {name: None if void else figure(load, name, within) for name in figures},
        "invalid": void,
    }


def seed_of(seed: str, block: int) -> int:
    """The seed of a block: 31 bits of SHA-256."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{block}".encode()).digest()[:4], "big") >> 1


# --- the statistic of a run -------------------------------------------------------------------------


def figure(load: Load, name: str, within: Sequence[Objective] = ()) -> float | None:
    """The statistic of one run; None where it has none.

    ``METRIC_pQ`` in seconds (ttft_p50): an order statistic of all scheduled requests, a failure above every latency, None if
    it falls on one or if fewer than five requests lie beyond. ``over``: the share of requests outside ``within``, or failed.
    ``tokens_s``, ``requests_s``: ``rate``.
    """
    if name in _RATES:
        return rate(load, name)
    if len(load.judged) < least(name):
        return None
    if name == "over":
        values = [s.value for s in samples(load, "worst", within)]
        return sum(x is None or x > 1 for x in values) / len(values)
    metric, quantile = _quantile(name)
    values = sorted((s.value for s in samples(load, metric)), key=lambda x: math.inf if x is None else x)
    return values[math.ceil(quantile * len(values)) - 1] if values else None


def least(name: str) -> int:
    """The requests that a run needs for this figure. ConfigError if it is not known."""
    if name in _RATES or name == "over":
        return 1
    return math.ceil(round(_BEYOND / (1 - _quantile(name)[1]), 6))


def _quantile(name: str) -> tuple[str, float]:
    metric, _, tail = name.partition("_p")
    known = [*_RATES, "over", *(f"{each}_p50" for each in METRICS)]
    try:
        quantile = float(tail) / 100
    except ValueError:
        quantile = math.nan
    if metric not in METRICS or not 0.5 <= quantile < 1:
        raise ConfigError(f"figure of a run {name!r}: {nearest(name, known)}; quantiles from p50 to below p100")
    return metric, quantile


def span(load: Load) -> tuple[float, float]:
    """The window in seconds after the origin. Of a closed loop from the first to the last judged start: then all places are taken."""
    if load.header.get("schedule", {}).get("kind") != "closed":
        start, end = load.header["window"]
        return start * 1e-9, end * 1e-9
    starts = [r.scheduled * 1e-9 for r in load.judged]
    return min(starts, default=0.0), max(starts, default=0.0)


def rate(load: Load, name: str) -> float | None:
    """Tokens, or completions, a second inside the window; None for a window without length, or if nothing was completed.

    Requests of the warm-up count with what they give inside. Tokens lie evenly between the first and the last frame.
    """
    start, end = span(load)
    done = [r for r in load.records if r.outcome == "complete"]
    if end <= start or not done:
        return None
    amount = math.fsum(_inside(r, name, start, end) for r in done)
    return amount / (end - start)


def _inside(record: Record, name: str, start: float, end: float) -> float:
    due = record.scheduled * 1e-9
    if name == "requests_s":
        return float(start <= due + (record.end or 0) * 1e-6 < end)
    if record.first is None or record.last is None or not record.tokens:
        return 0.0
    first, last = due + record.first * 1e-6, due + record.last * 1e-6
    if last <= first:
        return float(record.tokens) if start <= first < end else 0.0
    return record.tokens * max(0.0, min(last, end) - max(first, start)) / (last - first)


# --- what is judged ---------------------------------------------------------------------------------


def measurement(
    rows: Sequence[Mapping[str, Any]],
    name: str,
    subjects: Sequence[Subject] = (),
    conditions: Mapping[str, Any] | None = None,
    invalid: Sequence[str] = (),
) -> Measurement:
    """The runs as samples of one figure, for a claim of estimand run_ratio. A void run, or one without the figure, has no value.

    ``invalid``: why all of it is void.
    """
    found, causes = [], []
    for row in rows:
        value, void = row["figures"][name], row["invalid"]
        status = "ok" if value is not None else void[0].partition(":")[0] if void else "no_figure"
        detail = {key: row[key] for key in ("seed", "n", "failed")}
        found.append(Sample(row["block"], value, row["arm"], status, replicate=row["replicate"], detail=detail))
        causes += [f"{row['block']}, {row['arm']}: {cause}" for cause in void[:1]]
    about = {"figure": name, "blocks": len(rows) // 4, **(conditions or {})}
    return Measurement(name, tuple(found), tuple(subjects), about, tuple(invalid), tuple(causes))


def planted(rows: Sequence[Mapping[str, Any]], name: str, times: float) -> list[dict[str, Any]]:
    """The rows with this figure of the new arm ``times`` as large: a change of known size."""

    def changed(row: Mapping[str, Any]) -> dict[str, Any]:
        value = row["figures"][name]
        return {**row, "figures": {**row["figures"], name: None if value is None else value * times}}

    return [changed(row) if row["arm"] == "new" else dict(row) for row in rows]
