"""One load from several machines: each sends its share of one schedule, at instants that all agree on, and what each kept is merged.

While it runs nothing is exchanged. The schedule is made anew on each machine, bit for bit (its digest says so), request i
belongs to one shard of one machine, and the origin is an instant of UTC. A latency is of one machine's monotonic clock: clocks
that disagree move arrivals against each other, and no latency.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from harness.errors import ConfigError, EvidenceError
from harness.records import Load

__all__ = ["Machine", "merged", "utc_error_s"]

_ALIKE = ("schedule", "workload", "window", "limit_s", "slo")  # of the headers: one load has one of each


@dataclass(frozen=True, slots=True)
class Machine:
    """Which of ``of`` machines this is, from 1 on, and the instant of the origin for all of them, in seconds of Unix time."""

    number: int
    of: int
    start: float

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise ConfigError(f"machine {self.number} of {self.of}: expected a number from 1 to {self.of}")

    def to_dict(self, url: str) -> dict[str, Any]:
        """For the header of its part; ``url`` is where it sent."""
        return {"number": self.number, "of": self.of, "start": self.start, "url": url, "utc_error_s": utc_error_s()}


class _Timex(ctypes.Structure):
    """The beginning of ``struct timex`` (adjtimex(2)); the kernel writes behind it too."""

    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long), ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long), ("status", ctypes.c_int), ("rest", ctypes.c_char * 256),
    )  # fmt: skip


_TIME_ERROR = 5  # what adjtimex returns of a clock that nothing keeps to UTC


def utc_error_s() -> float | None:
    """How far the wall clock may be from UTC, as the kernel says; None where nothing keeps it there, or the kernel does not say."""
    told = _Timex()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(told))
    except AttributeError:
        return None
    return None if state in (-1, _TIME_ERROR) else told.maxerror * 1e-6


def merged(parts: Sequence[Load]) -> Load:
    """The load that the parts are of: every request of the schedule once, in its order. Exact: records are not touched.

    What voids a part voids the whole. EvidenceError names the machine that is missing, comes twice, or sent another load.
    """
    parts = sorted(parts, key=lambda part: _told(part)["number"])
    _check(parts)
    records = sorted(chain.from_iterable(part.records for part in parts), key=lambda record: record.sequence)
    if [record.sequence for record in records] != list(range(len(records))):
        raise EvidenceError(f"{len(records)} records of {len(parts)} parts are not every request of the schedule once: a part was changed")
    first = parts[0].header
    header = {
        **{key: value for key, value in first.items() if key not in ("machine", "n", "schema")},
        "shards": [shard for part in parts for shard in part.header["shards"]],
        "clock": {key: max((part.header["clock"][key] for part in parts), key=abs) for key in first["clock"]},
        "target": next((t for part in parts if (t := part.header["target"])["before"] != t["after"]), first["target"]),
        "invalid": list(dict.fromkeys(chain.from_iterable(part.invalid for part in parts))),
        "unchecked": all(part.header.get("unchecked", False) for part in parts),
        "machines": [{**_told(part), "wall": part.header["wall"], "clock": part.header["clock"]} for part in parts],
    }
    return Load(header, tuple(records))


def _told(part: Load) -> Mapping[str, Any]:
    told = part.header.get("machine")
    if not isinstance(told, Mapping):
        raise EvidenceError("these records are no part of a load from several machines: their header names none")
    return told


def _check(parts: Sequence[Load]) -> None:
    numbers, of = [_told(part)["number"] for part in parts], {_told(part)["of"] for part in parts}
    if not parts or len(of) > 1:
        raise EvidenceError(f"parts of loads from {sorted(of)} machines, expected those of one load")
    lacking = sorted(set(range(1, of.pop() + 1)) - set(numbers))
    if lacking:
        raise EvidenceError(f"the part of machine {lacking[0]} is missing: its requests were sent, or were not, and nobody knows")
    twice = sorted(number for number in set(numbers) if numbers.count(number) > 1)
    if twice:
        raise EvidenceError(f"there are two parts of machine {twice[0]}")
    first = parts[0].header
    for part in parts[1:]:
        number = _told(part)["number"]
        differing = [key for key in _ALIKE if part.header.get(key) != first.get(key)]
        differing += [key for key in ("start", "url") if _told(part)[key] != _told(parts[0])[key]]
        differing += ["model"] if part.header["target"].get("model") != first["target"].get("model") else []
        differing += ["the number of shards"] if len(part.header["shards"]) != len(first["shards"]) else []
        if differing:
            raise EvidenceError(f"machine {number} sent another load than machine 1: {', '.join(differing)} differ")
