"""Up to how many requests at once a server gains by doing more at once, and what stops it there.

Throughput is measured in closed loops at doubling concurrency, up and down the ladder: in such a palindrome a drift of
the machine cancels for each pair of rungs, as in ABBA. The knee is found in two steps:

    look       one palindrome over the whole ladder; ``knee`` reads the candidate off it, by a point rule. Exploratory.
    confirm    palindromes over the candidate's half, itself and its double, on new seeds; ``step`` gives each doubling as
               blocks for the estimand run_ratio: up to the candidate a doubling gains at least GROWS, beyond less than STOPS.

The candidate lies between the two, so that either claim can be shown of it, and since it was chosen on other runs
neither has more than its alpha of being shown falsely (suites/selftest/quality/test_knee.py).

What stops it is named from the server's own telemetry at the candidate and at its double (``bottleneck``).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any, NamedTuple

from harness.errors import ConfigError
from harness.records import METRICS, Load
from harness.serve.blocks import rate, sized, span
from harness.serve.telemetry import summary
from harness.serve.validity import validity
from harness.types import Sample

__all__ = ["GROWS", "STOPS", "Bottleneck", "bottleneck", "curve", "knee", "ladder", "order", "run_row", "step", "together"]

GROWS, STOPS = 1.10, 1.30  # times the throughput, by doubling the requests in flight
_BETWEEN = math.sqrt(GROWS * STOPS)  # where the candidate's rule lies: as far from the one as from the other


def ladder(most: int) -> tuple[int, ...]:
    """1, 2, 4 ... up to ``most``, a power of two."""
    if most < 2 or most & (most - 1):
        raise ConfigError(f"most = {most} requests at once, expected a power of two from 2 on")
    return tuple(1 << i for i in range(most.bit_length()))


def order(rungs: Sequence[int], rounds: int, seed: str) -> list[tuple[int, ...]]:
    """The runs of each round: up and down again, and down and up, in turn; which comes first is drawn from ``seed``."""
    up = (*rungs, *reversed(rungs))
    down = (*reversed(rungs), *rungs)
    first = hashlib.sha256(seed.encode()).digest()[0] % 2
    return [(up, down)[(first + number) % 2] for number in range(rounds)]


def run_row(load: Load, timeline: Sequence[Mapping[str, Any]], concurrency: int) -> dict[str, Any]:
    """One run as JSON: concurrency, n, failed, tokens_s (None if void), invalid, ttft and tpot (medians) and e2e (mean) in seconds,
    and ``telemetry``, the summary of its window.
    """
    load = sized(load)
    void, judged = list(validity(load)), load.judged
    row: dict[str, Any] = {
        "concurrency": concurrency,
        "n": len(judged),
        "failed": sum(r.outcome != "complete" for r in judged),
        "tokens_s": None if void else rate(load, "tokens_s"),
        "invalid": void,
    }
    for name, middle in (("ttft", median), ("tpot", median), ("e2e", fmean)):
        values = [value for r in judged if r.outcome == "complete" and (value := METRICS[name](r)) is not None]
        row[name] = middle(values) if values else None
    return {**row, "telemetry": summary(timeline, *span(load))}


def together(rows: Iterable[Mapping[str, Any]], concurrency: int) -> dict[str, Any]:
    """The runs at one concurrency as one row: means of what they tell, counts and maxima of the telemetry the largest."""
    mine = [row for row in rows if row["concurrency"] == concurrency and not row["invalid"]]

    def of(tables: Sequence[Mapping[str, Any]], name: str) -> float | None:
        values = [table[name] for table in tables if table.get(name) is not None]
        return (max if name.endswith("_max") or name == "preemptions" else fmean)(values) if values else None

    told = [row["telemetry"] for row in mine]
    names = sorted({name for table in told for name in table})
    return {
        "concurrency": concurrency,
        **{name: of(mine, name) for name in ("tokens_s", "ttft", "tpot", "e2e")},
        "telemetry": {name: of(told, name) for name in names},
    }


def curve(rows: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """The geometric mean of the tokens a second at each concurrency; void runs left out, a rung with none but those too."""
    logs: dict[int, list[float]] = {}
    for row in rows:
        if row["tokens_s"]:
            logs.setdefault(row["concurrency"], []).append(math.log(row["tokens_s"]))
    return {c: math.exp(math.fsum(values) / len(values)) for c, values in sorted(logs.items())}


def knee(found: Mapping[int, float], gain: float = _BETWEEN) -> int:
    """The smallest concurrency that no higher one beats by ``gain``.

    A doubling that gains nothing is no end: a server may do one and two at a time alike, and four half as fast again (llama.cpp on
    two cores: 61, 60, 94, 100 tokens a second at 1, 2, 4, 8). A point rule: it chooses what is confirmed, and decides nothing.
    ConfigError for an empty curve.
    """
    if not found:
        raise ConfigError("no run of the ladder has a throughput: each is void, or nothing was completed; see their causes")
    return min(c for c in found if all(x < gain * found[c] for other, x in found.items() if other > c))


def step(rows: Iterable[Mapping[str, Any]], low: int, high: int) -> tuple[Sample, ...]:
    """The runs at two rungs as samples for run_ratio: a round is a block, ``low`` the arm "old"."""
    found = []
    for row in rows:
        arm = {low: "old", high: "new"}.get(row["concurrency"])
        if arm is None:
            continue
        value, void = row["tokens_s"], row["invalid"]
        status = "ok" if value is not None else void[0].partition(":")[0] if void else "no_figure"
        detail = {"concurrency": row["concurrency"], "n": row["n"], "failed": row["failed"]}
        found.append(Sample(row["round"], value, arm, status, replicate=row["replicate"], detail=detail))
    return tuple(found)


# --- what stops it --------------------------------------------------------------------------------

CLIENT_CORES = 0.8  # of a core for each shard: section 7 of the specification voids a run above
KV_FULL = 0.90
WAITING = 0.25  # of the requests that the doubling added
NETWORK = 0.2  # of a request's time that the server does not know of
STRETCHED = 1.3  # times as long a step takes, or a token


class Bottleneck(NamedTuple):
    """``name`` is client, network, kv, queue, engine, or "" where nothing explains it; ``why`` says so in numbers.

    ``shares`` holds every indicator at the knee and beyond it, None where the server does not tell.
    """

    name: str
    why: str
    shares: Mapping[str, tuple[float | None, float | None]]


def bottleneck(at: Mapping[str, Any], beyond: Mapping[str, Any], *, cores: float | None = None, shards: int = 1) -> Bottleneck:
    """What keeps the requests ``beyond`` the knee from being served faster than those ``at`` it.

    Each is a row of a run (concurrency, tpot, e2e, telemetry: ``harness.serve.telemetry.summary``), or the mean of several. In this
    order, since each makes the later ones look guilty: the client has no CPU left; requests take longer than the server
    knows of; the cache is full or sequences are thrown out of it; requests wait for a place; all run, and each step takes
    longer, on ``cores`` that are busy or not told.
    """
    a, b = at["telemetry"], beyond["telemetry"]
    added = beyond["concurrency"] - at["concurrency"]
    shares: dict[str, tuple[float | None, float | None]] = {
        name: (a.get(key), b.get(key))
        for name, key in (("client_cores", "client_cpu"), ("kv", "kv_max"), ("preemptions", "preemptions"), ("waiting", "waiting"),
                          ("running", "running"), ("cores", "cpu"))
    }  # fmt: skip
    shares["network"] = (_unknown(at), _unknown(beyond))
    shares["token_s"] = (at.get("tpot"), beyond.get("tpot"))
    _, client = shares["client_cores"]
    if client is not None and client > CLIENT_CORES * shards:
        return Bottleneck("client", f"the client took {client:.2f} cores of {shards}", shares)
    _, network = shares["network"]
    if network is not None and network > NETWORK:
        return Bottleneck("network", f"{network:.0%} of a request's time the server knows nothing of", shares)
    (_, kv), (_, thrown), (_, waiting) = shares["kv"], shares["preemptions"], shares["waiting"]
    if thrown or (kv is not None and kv >= KV_FULL):
        return Bottleneck("kv", f"the cache was {_percent(kv)} full, {thrown or 0:g} sequences thrown out of it", shares)
    if waiting is not None and waiting >= WAITING * added:
        (_, running) = shares["running"]
        return Bottleneck("queue", f"{waiting:.1f} requests waited on average while {running or 0:.1f} ran", shares)
    slower, busy = _stretched(shares["token_s"]), shares["cores"][1]
    if slower is not None and slower >= STRETCHED:
        used = "" if busy is None else f", with {busy:.2f}{f' of {cores:g}' if cores else ''} cores busy"
        return Bottleneck("engine", f"all requests ran, and a token took {slower:.2f} times as long{used}", shares)
    return Bottleneck("", "neither client, network, cache, queue nor steps changed enough to explain it", shares)


def _unknown(row: Mapping[str, Any]) -> float | None:
    """The share of the requests' time, as the client saw it, that is not in the server's own."""
    served, seen = row["telemetry"].get("served_s"), row.get("e2e")
    return max(0.0, 1.0 - served / seen) if served and seen else None


def _stretched(pair: tuple[float | None, float | None]) -> float | None:
    before, after = pair
    return after / before if before and after else None


def _percent(share: float | None) -> str:
    return "(not told)" if share is None else f"{share:.0%}"
