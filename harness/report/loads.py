"""What a run says of its servers and their loads: read with care, whatever a stranger's evidence holds.

A claim on a load names the records of all its requests (``raw`` of its measurement); claims that name the same bytes share
one load. One claim of each server carries in its conditions what the server said of itself meanwhile (``timeline``: rows of
``harness.serve.telemetry``, or columns of the same names) and how it was started (``server``). What is not there, or is no
number, is left out.
"""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from harness.errors import HarnessError
from harness.records import METRICS, Load, Objective, Record, objective
from harness.report.datasets import mapping, told
from harness.report.view import ClaimView, RunView, finite
from harness.serve import slo

__all__ = ["Load", "Seen", "Served", "Slow", "loads_of", "servers_of", "slowest", "thinned", "unread"]

_LOADS = 12  # of a run
_RECORDS = 50_000  # of a load: more are recheck's, not a page's
_ROWS = 20_000  # of a timeline
_POINTS = 200  # of a drawn line


# --- servers ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Served:
    """A server and the claims about it; ``about`` is how it was started, as one of them tells it."""

    name: str
    claims: tuple[ClaimView, ...]
    about: Mapping[str, Any]

    def claim(self, name: str) -> ClaimView | None:
        """The claim ``name``, like V4.greedy, on this server."""
        return next((c for c in self.claims if c.id.partition("[")[0] == name), None)

    @property
    def engine(self) -> str:
        """vllm, llamacpp, or url for one that ran already; "" where the evidence does not say."""
        return str(self.about.get("engine") or "")

    @property
    def versions(self) -> dict[str, str]:
        """Of the packages that make up the engine, the one named like it first."""
        kept, name = _under(self.about, "version."), self.engine[:5]
        return dict(sorted(kept.items(), key=lambda pair: (not pair[0].startswith(name), pair[0])))

    @property
    def stages(self) -> dict[str, str]:
        """How long each stage of its start took, in words."""
        return _under(self.about, "start.")

    @property
    def ready_s(self) -> float | None:
        """Seconds from its start until it answered; None where a stage is not told."""
        seconds = [_seconds(text) for text in self.stages.values()]
        return None if not seconds or None in seconds else math.fsum(x for x in seconds if x is not None)

    @property
    def flags(self) -> str:
        """What it was started with, from the first flag on; its address for one that ran already."""
        try:
            words = json.loads(str(self.about.get("argv") or "[]"))
        except (ValueError, RecursionError):
            words = []
        words = [word for word in words if isinstance(word, str)] if isinstance(words, list) else []
        first = next((i for i, word in enumerate(words) if word.startswith("--")), len(words))
        return " ".join(words[first:]) or str(self.about.get("url") or "")

    @property
    def parity(self) -> list[str]:
        """What its boot was held against the reference by, before its load and after."""
        kept = self.about.get("parity")
        return [text for text in kept if isinstance(text, str)][:2] if isinstance(kept, list) else []


def _under(about: Mapping[str, Any], prefix: str) -> dict[str, str]:
    return {key.removeprefix(prefix): str(value) for key, value in about.items() if str(key).startswith(prefix)}


def _seconds(text: str) -> float | None:
    found = re.fullmatch(r"(\d{1,7}(?:\.\d{1,6})?) s", text)
    return float(found[1]) if found else None


def servers_of(run: RunView) -> list[Served]:
    """The servers that claims speak about, in the order of the first; those of controls alone are none."""
    claims = [c for c in run.claims if c.served]
    names = dict.fromkeys(c.params[0] for c in claims if c.params and (c.outcome == "lost" or mapping(c.measurement).get("subjects")))
    return [_served(name, [c for c in claims if c.params[:1] == (name,)]) for name in names]


def _served(name: str, claims: Sequence[ClaimView]) -> Served:
    about = next((found for c in claims if (found := mapping(told(c).get("server")))), {})
    return Served(name, tuple(claims), about)


# --- loads ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Seen:
    """A load and the claims that rest on it; ``timeline`` is what the server said of itself meanwhile, a number for each row or None."""

    server: str
    load: Load
    claims: tuple[ClaimView, ...]
    timeline: Mapping[str, tuple[float | None, ...]]

    @cached_property
    def judged(self) -> tuple[Record, ...]:
        """The requests of the window."""
        return self.load.judged

    @property
    def window(self) -> tuple[float, float]:
        """In seconds after the origin; of a closed loop from the first to the last request."""
        kept = self.load.header.get("window")
        ends = [finite(x) for x in kept] if isinstance(kept, list) else []
        start, end = (x * 1e-9 if x is not None else 0.0 for x in (*ends[:2], None, None)[:2])
        if end > start:
            return start, end
        due = [r.scheduled * 1e-9 for r in self.judged]
        return min(due, default=0.0), max(due, default=0.0)

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """What is promised: by the header of the load, and by the claims on it where that says nothing."""
        said = [(str(name), str(limit)) for name, limit in mapping(self.load.header.get("slo")).items()]
        if not said:
            limits = ((c.name, finite(mapping(c.verdict.get("statistics")).get("slo"))) for c in self.claims if c.family == "L1")
            said = [(name, f"{limit:.9f}s") for name, limit in limits if limit is not None]
        return tuple(each for name, limit in said[:20] if (each := _objective(name, limit)))

    @property
    def rate(self) -> str:
        """How requests came: "poisson, 1.5 a second", "closed, 8 at once"."""
        plan = mapping(self.load.header.get("schedule"))
        rate, together = finite(mapping(plan.get("numbers")).get("rate")), finite(plan.get("concurrency"))
        told_ = f"{rate:.4g} a second" if rate else f"{together:g} at once" if together else ""
        return ", ".join(filter(None, [str(plan.get("kind") or ""), told_]))

    @property
    def invalid(self) -> list[str]:
        """Why it says nothing, as the header and the measurements of its claims have it."""
        kept = (self.load.header.get("invalid"), *(mapping(c.measurement).get("invalid") for c in self.claims))
        return list(dict.fromkeys(text for one in kept if isinstance(one, list) for text in one if isinstance(text, str)))

    @property
    def lag(self) -> float | None:
        """Seconds by which the client sent one in a hundred late, or more."""
        return next((x for c in self.claims if (x := finite(told(c).get("client_lag_p99_s"))) is not None), None)

    def claim(self, name: str) -> ClaimView | None:
        """The claim ``name``, like L1.ttft_p99 or L2.goodput, on this load."""
        return next((c for c in self.claims if c.id.partition("[")[0] == name), None)

    def values(self, metric: str) -> list[float | None]:
        """Seconds of each request of the window to which the metric applies, in the order of arrival; None: it failed."""
        done = ((r, METRICS[metric](r)) for r in self.judged)
        return [value if r.outcome == "complete" else None for r, value in done if value is not None or r.outcome != "complete"]

    def described(self, metric: str) -> slo.Described:
        """Percentiles with intervals at n_eff, failures above every latency."""
        try:
            return slo.described(self.load, metric)
        except (ValueError, ArithmeticError):
            return slo.Described(len(self.values(metric)), 0.0, dict.fromkeys(slo.QUANTILES, (None, None, None)))

    def missed(self, each: Objective) -> list[Record]:
        """The requests that failed, or took longer than an objective allows."""
        return [r for r in self.judged if _over(r, each)]

    @cached_property
    def in_flight(self) -> dict[int, int]:
        """By place in the records: how many other requests were under way when this one was due, by the client's own record."""
        starts, ends = self._spans
        due = [r.scheduled / 1000 for r in self.load.records]
        return {i: bisect_left(starts, at) - bisect_left(ends, at) for i, at in enumerate(due)}

    def under_way(self, at: Iterable[float]) -> list[float]:
        """How many requests were under way at each of these seconds after the origin, by the client's own record."""
        starts, ends = self._spans
        return [float(bisect_left(starts, 1e6 * t) - bisect_left(ends, 1e6 * t)) for t in at]

    @cached_property
    def _spans(self) -> tuple[list[float], list[float]]:
        """Starts and ends in microseconds after the origin; a request that never ended is under way for good."""
        sent = [(r.scheduled / 1000 + r.sent, r) for r in self.load.records if r.sent is not None]
        ends = (r.scheduled / 1000 + r.end if r.end is not None else math.inf for _, r in sent)
        return sorted(start for start, _ in sent), sorted(max(start, end) for (start, _), end in zip(sent, ends, strict=True))


def _over(r: Record, each: Objective) -> bool:
    if r.outcome != "complete":
        return True
    value = METRICS[each.metric](r)
    return value is not None and value > each.limit


def _objective(name: str, limit: str) -> Objective | None:
    try:
        return objective(name, limit)
    except HarnessError:
        return None


def loads_of(run: RunView) -> list[Seen]:
    """Every load whose records can be read, each once, with the claims that rest on it; at most a dozen."""
    found: dict[str, list[ClaimView]] = {}
    for claim in run.claims:
        if (name := _named(claim)) in run.raw:
            found.setdefault(name, []).append(claim)
    loads = ((_read(run.raw[name]), claims) for name, claims in found.items())
    return [_seen(load, claims, run) for load, claims in loads if load is not None][:_LOADS]


def unread(run: RunView, loads: Sequence[Seen]) -> list[ClaimView]:
    """The claims whose records are named and cannot be shown."""
    shown = {c.id for seen in loads for c in seen.claims}
    return [c for c in run.claims if _named(c) and c.id not in shown]


def _named(claim: ClaimView) -> str:
    return str(mapping(mapping(claim.measurement).get("raw")).get("sha256") or "")


def _read(data: bytes) -> Load | None:
    try:
        load = Load.from_bytes(data)
    except (HarnessError, RecursionError):
        return None
    return load if 0 < len(load.records) <= _RECORDS and load.judged else None


def _seen(load: Load, claims: Sequence[ClaimView], run: RunView) -> Seen:
    server = next((c.params[0] for c in claims if c.params), claims[0].id)
    # The one that carries the timeline may rest on no records, like throughput.
    near = [*claims, *(c for c in run.claims if c.family == "L2" and c.params[:1] == (server,))]
    return Seen(server, load, tuple(claims), next((rows for c in near if (rows := _timeline(told(c).get("timeline")))), {}))


def _timeline(kept: Any) -> dict[str, tuple[float | None, ...]]:
    """Columns, each as long as the times; {} for anything that tells no times."""
    if isinstance(kept, list):
        rows = [row for row in kept[:_ROWS] if isinstance(row, Mapping)]
        kept = {name: [row.get(name) for row in rows] for name in {key for row in rows[:1] for key in row}}
    columns = {str(k): [finite(x) for x in v[:_ROWS]] for k, v in mapping(kept).items() if isinstance(v, list)}
    times = columns.get("t", [])
    whole = [i for i, t in enumerate(times) if t is not None]
    if len(whole) < 2:
        return {}
    return {name: tuple(column[i] for i in whole) for name, column in columns.items() if len(column) == len(times)}


# --- the slow end -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Slow:
    """A request among the slowest; ``worst`` is its largest multiple of a limit, None where none applies."""

    record: Record
    in_flight: int
    worst: float | None


def slowest(seen: Seen, count: int) -> tuple[list[Slow], list[Slow]]:
    """The first requests that failed, and the slowest of the others by the limit they missed most, else by their end."""
    judged = [(i, r) for i, r in enumerate(seen.load.records) if r.judged]
    failed = [Slow(r, seen.in_flight[i], None) for i, r in judged if r.outcome != "complete"]
    done = [Slow(r, seen.in_flight[i], _worst(r, seen.objectives)) for i, r in judged if r.outcome == "complete"]
    done.sort(key=lambda one: (-(one.worst or 0.0), -(one.record.end or 0), one.record.sequence))
    return failed[:count], done[:count]


def _worst(r: Record, within: Sequence[Objective]) -> float | None:
    return max((value / each.limit for each in within if (value := METRICS[each.metric](r)) is not None), default=None)


def thinned(at: Sequence[float], values: Sequence[float | None], most: int = _POINTS) -> list[tuple[float, float]]:
    """Points of a line, at most ``most``: means over neighbours; what is not told is left out."""
    points = [(t, v) for t, v in zip(at, values, strict=True) if v is not None]
    step = -(-len(points) // most) or 1
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    return [(math.fsum(t for t, _ in part) / len(part), math.fsum(v for _, v in part) / len(part)) for part in parts]
