"""When each request is due: integer nanoseconds after the origin, made once, the same for any number of workers.

    poisson constant gamma     a rate, for a window of so many seconds or of so many requests
    ramp                       Poisson arrivals of a rising or falling rate
    trace                      recorded instants, gaps kept
    closed                     so many at once: the server throttles its own load, so nothing is said of a rate

Warm-up and cool-down are arrivals of the same process outside the window. ``check`` it before it is used
(``harness.serve.schedule.dispersion``).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise
from typing import Any, Literal

from harness.errors import ConfigError
from harness.records import Flag
from harness.serve.schedule import draws, rates
from harness.serve.schedule.dispersion import Dispersion, check, dispersion, sound

__all__ = [
    "Dispersion",
    "Schedule",
    "check",
    "closed",
    "constant",
    "dispersion",
    "gamma",
    "poisson",
    "ramp",
    "sound",
    "trace",
]

_MOST = 20_000_000  # requests of one schedule
_FASTEST = 1_000_000  # a second
_LONGEST_S = 7 * 86400.0  # from its first to its last


@dataclass(frozen=True, slots=True)
class Schedule:
    """``arrivals`` in ns after the origin, in order; those inside ``window`` (start, end: the end is outside) are judged.

    ``numbers`` are what it was made of. A closed loop has no arrivals: ``requests`` in all, ``concurrency`` at a time,
    the first ``numbers["warmup"]`` of them before the window.
    """

    kind: str
    arrivals: tuple[int, ...]
    window: tuple[int, int]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    concurrency: int = 0
    requests: int = 0

    def __post_init__(self) -> None:
        if self.kind == "closed":
            return
        object.__setattr__(self, "requests", len(self.arrivals))
        if self.arrivals and (self.arrivals[0] < 0 or any(b < a for a, b in pairwise(self.arrivals))):
            raise ConfigError(f"schedule {self.kind}: arrivals go back in time, expected nanoseconds after the origin in order")

    def __len__(self) -> int:
        return self.requests

    @property
    def judged(self) -> range:
        """The indices of the requests scheduled inside the window."""
        if self.kind == "closed":
            return range(int(self.numbers.get("warmup", 0)), self.requests)
        return range(bisect_left(self.arrivals, self.window[0]), bisect_left(self.arrivals, self.window[1]))

    def flag(self, index: int) -> int:
        """Flag.WARMUP or Flag.COOLDOWN of a request outside the window, else 0."""
        judged = self.judged
        return Flag.WARMUP if index < judged.start else Flag.COOLDOWN if index >= judged.stop else 0

    def shard(self, worker: int, workers: int) -> range:
        """The indices of the requests that one of ``workers`` sends."""
        if not 0 <= worker < workers:
            raise ConfigError(f"worker {worker} of {workers}, expected 0 <= worker < workers")
        return range(worker, self.requests, workers)

    @property
    def digest(self) -> str:
        """SHA-256 of what it is: kind, numbers and window as JSON, arrivals as little-endian 64-bit integers."""
        head = [self.kind, dict(self.numbers), list(self.window), self.concurrency, self.requests]
        words = array("q", self.arrivals)
        if sys.byteorder == "big":
            words.byteswap()
        return hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\n" + words.tobytes()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """For the header of a load: kind, numbers, concurrency, sha256."""
        return {"kind": self.kind, "numbers": dict(self.numbers), "concurrency": self.concurrency, "sha256": self.digest}


# --- processes --------------------------------------------------------------------------------------


def poisson(rate: float, *, seconds: float = 0.0, requests: int = 0, seed: int, warmup_s: float = 0.0, cooldown_s: float = 0.0) -> Schedule:
    """Independent exponential gaps at ``rate`` a second. The window lasts ``seconds``, or until its ``requests``-th arrival."""
    unit = draws.exponential(draws.philox(draws.key(seed, "arrivals")))
    numbers = {"rate": rate, "seed": seed}
    return _at_rate("poisson", rate, _summed(unit, rate), numbers, seconds, requests, warmup_s, cooldown_s)


def gamma(
    rate: float, shape: float, *, seconds: float = 0.0, requests: int = 0, seed: int, warmup_s: float = 0.0, cooldown_s: float = 0.0
) -> Schedule:
    """Gamma gaps with squared variation 1 / ``shape``: bursts below 1, Poisson at 1, even above."""
    _positive("gamma", shape=shape)
    if not 0.01 <= shape <= 1000:
        raise ConfigError(f"schedule gamma: shape = {shape}, expected .01 to 1000")
    quantile = _gamma_quantile(float(shape))
    gaps = (quantile(u) / shape for u in draws.uniform(draws.philox(draws.key(seed, "arrivals"))))
    numbers = {"rate": rate, "shape": shape, "seed": seed}
    return _at_rate("gamma", rate, _summed(gaps, rate), numbers, seconds, requests, warmup_s, cooldown_s)


def constant(rate: float, *, seconds: float = 0.0, requests: int = 0, warmup_s: float = 0.0, cooldown_s: float = 0.0) -> Schedule:
    """Request i is due i / rate seconds after the first."""
    numbers = {"rate": rate}

    def instants() -> Iterator[int]:
        i = 0
        while True:
            yield round(i * 1e9 / rate)
            i += 1

    return _at_rate("constant", rate, instants(), numbers, seconds, requests, warmup_s, cooldown_s)


def ramp(
    r0: float,
    r1: float,
    seconds: float,
    *,
    seed: int,
    how: Literal["linear", "geometric"] = "linear",
    warmup_s: float = 0.0,
    cooldown_s: float = 0.0,
) -> Schedule:
    """Poisson arrivals whose rate goes from ``r0`` to ``r1`` over the window; the warm-up is at r0, the cool-down at r1."""
    _positive("ramp", r0=r0, r1=r1, seconds=seconds)
    _countable("ramp", max(r0, r1))
    _not_negative("ramp", warmup_s=warmup_s, cooldown_s=cooldown_s)
    if how not in ("linear", "geometric"):
        raise ConfigError(f"schedule ramp: how = {how!r}, expected 'linear' or 'geometric'")
    numbers = {"r0": r0, "r1": r1, "seconds": seconds, "how": how, "warmup_s": warmup_s, "seed": seed}
    most = r0 * warmup_s + rates.expected_inside(numbers, seconds) + r1 * cooldown_s
    _affordable("ramp", most)
    _lasting("ramp", warmup_s + seconds + cooldown_s)
    total, due = 0.0, []
    for gap in draws.exponential(draws.philox(draws.key(seed, "arrivals"))):
        total += gap
        if total >= most:
            break
        due.append(round(rates.instant(numbers, total) * 1e9))
    return Schedule("ramp", tuple(due), (_ns(warmup_s), _ns(warmup_s + seconds)), numbers)


def trace(timestamps_s: Sequence[float], *, scale: float = 1.0, warmup_s: float = 0.0, cooldown_s: float = 0.0) -> Schedule:
    """Recorded instants in seconds, the first at the origin; ``scale`` 2 takes twice as long. The gaps are kept.

    What falls into the first ``warmup_s`` or the last ``cooldown_s`` seconds (of the replay) is outside the window.
    """
    _positive("trace", scale=scale)
    _not_negative("trace", warmup_s=warmup_s, cooldown_s=cooldown_s)
    if not timestamps_s:
        raise ConfigError("schedule trace: no timestamps, expected one for each request in seconds")
    wrong = next((i for i, t in enumerate(timestamps_s) if not math.isfinite(t)), None)
    if wrong is not None:
        raise ConfigError(f"schedule trace: timestamp {wrong} is {timestamps_s[wrong]}, expected a finite number of seconds")
    early = next((i for i, t in enumerate(timestamps_s) if t < 0), None)
    if early is not None:
        raise ConfigError(f"schedule trace: timestamp {early} is {timestamps_s[early]}, expected seconds from 0")
    back = next((i for i, (a, b) in enumerate(pairwise(timestamps_s), 1) if b < a), None)
    if back is not None:
        raise ConfigError(
            f"schedule trace: timestamp {back} ({timestamps_s[back]}) is before the one above it ({timestamps_s[back - 1]}); "
            "sort the log by arrival, not by completion"
        )
    _lasting("trace", (timestamps_s[-1] - timestamps_s[0]) * scale)
    due = tuple(round((t - timestamps_s[0]) * scale * 1e9) for t in timestamps_s)
    window = (_ns(warmup_s), max(_ns(warmup_s), due[-1] + 1 - _ns(cooldown_s)))
    return Schedule("trace", due, window, {"n": len(due), "scale": scale})


def closed(concurrency: int, requests: int, *, warmup: int = 0) -> Schedule:
    """``requests`` after ``warmup`` others, ``concurrency`` at any time: the next is sent when one ends."""
    if concurrency < 1 or requests < 1 or warmup < 0:
        raise ConfigError(
            f"schedule closed: concurrency = {concurrency}, requests = {requests}, warmup = {warmup}; expected at least 1, 1 and 0"
        )
    _affordable("closed", requests + warmup)
    return Schedule("closed", (), (0, 0), {"warmup": warmup}, concurrency, requests + warmup)


def _summed(gaps: Iterator[float], rate: float) -> Iterator[int]:
    """Instants in ns. Each gap is rounded by itself: an instant owes nothing to the size of those before."""
    now, scale = 0, 1e9 / rate
    for gap in gaps:
        now += round(gap * scale)
        yield now


def _at_rate(
    kind: str, rate: float, instants: Iterator[int], numbers: dict[str, Any],
    seconds: float, requests: int, warmup_s: float, cooldown_s: float,
) -> Schedule:  # fmt: skip
    _positive(kind, rate=rate)
    _countable(kind, rate)
    _not_negative(kind, seconds=seconds, requests=requests, warmup_s=warmup_s, cooldown_s=cooldown_s)
    if (seconds > 0) == (requests > 0):
        raise ConfigError(f"schedule {kind}: seconds = {seconds}, requests = {requests}; expected one of them above 0")
    _affordable(kind, rate * (warmup_s + seconds + cooldown_s) + requests)
    _lasting(kind, warmup_s + seconds + cooldown_s + requests / rate)
    start = _ns(warmup_s)
    end, due, left = start + _ns(seconds) if seconds else 0, [], requests
    for now in instants:
        if end and now >= end + _ns(cooldown_s):
            break
        due.append(now)
        if requests and now >= start and not end:
            left -= 1
            end = now + 1 if not left else 0
    return Schedule(kind, tuple(due), (start, end), numbers)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


def _positive(kind: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"schedule {kind}: {name} = {value}, expected a finite number above 0")


def _not_negative(kind: str, **numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"schedule {kind}: {name} = {value}, expected a finite number, 0 or more")


def _countable(kind: str, rate: float) -> None:
    if rate > _FASTEST:
        raise ConfigError(f"schedule {kind}: {rate:.3g} requests a second, expected at most {_FASTEST:,}: gaps are counted in nanoseconds")


def _affordable(kind: str, expected: float) -> None:
    if expected > _MOST:
        raise ConfigError(f"schedule {kind}: about {expected:.3g} requests, expected at most {_MOST:,}; split it into several runs")


def _lasting(kind: str, seconds: float) -> None:
    if seconds > _LONGEST_S:
        raise ConfigError(
            f"schedule {kind}: {seconds:.3g} s from the first request to the last, expected at most {_LONGEST_S:.3g} s, a week; "
            "are the times in seconds? If they are, split it into several runs"
        )


@lru_cache(maxsize=8)
def _gamma_quantile(shape: float) -> Callable[[float], float]:
    return draws.gamma_quantile(shape)
