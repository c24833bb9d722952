"""What became of each request of a load, in 64 bytes, and every number that is computed from it.

    one line of JSON       units, origin, seed, schedule, workload, window, shards: what the run was
    64 bytes a request     little-endian, in the order of the schedule (``struct.iter_unpack``)

Standard library only: ``recheck`` derives the samples of a claim from these bytes again. Times are microseconds after the
*scheduled* arrival, which itself is nanoseconds after the origin of the run; one monotonic clock for all processes.
A bit in ``flags`` says that a field is there: what is absent is None here, never a sentinel.
"""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from harness.errors import ConfigError, EvidenceError, nearest
from harness.types import Sample

__all__ = [
    "CAUSES",
    "ENDS",
    "METRICS",
    "OUTCOMES",
    "SCHEMA",
    "Flag",
    "Load",
    "Objective",
    "Record",
    "derive",
    "objective",
    "objectives",
    "pack",
    "samples",
    "unpack",
]

SCHEMA = "requests/1"
RECORD = struct.Struct("<q12I2BH2BH")
assert RECORD.size == 64

# How a request ended. "truncated_accepted" is said of clients and gateways under test: the harness's own client cannot say it.
OUTCOMES = ("complete", "truncated_detected", "truncated_accepted", "error", "timeout", "never_ended")

# Why: the server's finish reason of a complete answer, the cause of any other end.
ENDS = ("", "stop", "length", "tool_calls", "function_call", "content_filter")
CAUSES = (
    "http_error", "shed", "zero_tokens", "error_frame", "no_finish_reason", "no_terminator", "truncated", "reset", "stalled",
    "never_ended", "early_eos", "duplicate_frames", "malformed_sse", "usage_mismatch", "connect_failed", "client_limited",
    "cancelled", "malformed_http", "wrong_model",
)  # fmt: skip
_WHY = ENDS + ("",) * (32 - len(ENDS)) + CAUSES  # causes from 32 on, so that both may grow


class Flag:
    """Bits of ``flags``: which fields are there, and what kind of request it was."""

    SENT, CONNECT, FIRST, LAST, END, USAGE, GAP, TEXT = (1 << bit for bit in range(8))
    GOLDEN = 1 << 8  # a golden prompt, whose text is kept
    REUSED = 1 << 9  # over a connection that had served before
    COALESCED = 1 << 10  # more than one frame with output came in the first read: the gaps inside are unknown
    WARMUP = 1 << 11  # scheduled before the window: in no denominator
    COOLDOWN = 1 << 12  # scheduled after it


class Record(NamedTuple):
    """One scheduled request. Times in microseconds after ``scheduled`` (nanoseconds after the run's origin); None: it never came to that.

    ``sent`` first byte handed to the socket, ``connect`` handshake inside it, ``first`` and ``last`` reads that
    completed a frame with output, ``end`` the read that completed the response. ``prompt_tokens`` and ``tokens`` as the
    server's usage says. ``frames`` with output, ``gap`` the longest between two of them. ``crc`` of the output text.
    ``why``: the finish reason if ``outcome`` is "complete", else one of CAUSES.
    """

    scheduled: int
    sequence: int
    prompt: int
    outcome: str
    why: str
    sent: int | None = None
    connect: int | None = None
    first: int | None = None
    last: int | None = None
    end: int | None = None
    prompt_tokens: int | None = None
    tokens: int | None = None
    frames: int = 0
    gap: int | None = None
    crc: int | None = None
    status: int = 0
    attempt: int = 0
    shard: int = 0
    flags: int = 0  # of the kind GOLDEN, REUSED, COALESCED, WARMUP, COOLDOWN; the others follow from what is there

    @property
    def golden(self) -> bool:
        """Whether it carried a golden prompt."""
        return bool(self.flags & Flag.GOLDEN)

    @property
    def judged(self) -> bool:
        """Whether it was scheduled inside the window."""
        return not self.flags & (Flag.WARMUP | Flag.COOLDOWN)


def pack(record: Record) -> bytes:
    """The 64 bytes. ValueError for an outcome or cause that is not known."""
    r = record
    flags = r.flags & ~0xFF
    optional = (
        (Flag.SENT, r.sent),
        (Flag.CONNECT, r.connect),
        (Flag.FIRST, r.first),
        (Flag.LAST, r.last),
        (Flag.END, r.end),
        (Flag.GAP, r.gap),
    )
    for bit, value in (*optional, (Flag.USAGE, r.tokens), (Flag.TEXT, r.crc)):
        flags |= bit if value is not None else 0
    if r.why not in (ENDS[1:] if r.outcome == "complete" else CAUSES):
        raise ValueError(f"outcome {r.outcome!r} with {r.why!r}, expected {'a finish reason' if r.outcome == 'complete' else 'a cause'}")
    return RECORD.pack(
        r.scheduled, _u32(r.sent), _u32(r.connect), _u32(r.first), _u32(r.last), _u32(r.end), r.sequence, r.prompt,
        _u32(r.prompt_tokens), _u32(r.tokens), r.frames, _u32(r.gap), _u32(r.crc),
        OUTCOMES.index(r.outcome), _WHY.index(r.why), r.status, r.attempt, r.shard, flags,
    )  # fmt: skip


def _u32(value: int | None) -> int:
    return 0 if value is None else min(value, 0xFFFFFFFF)


def unpack(data: bytes) -> list[Record]:
    """The records of a file's binary part. EvidenceError if it was cut off or holds what no writer wrote."""
    if len(data) % RECORD.size:
        raise EvidenceError(f"{len(data)} bytes of records, expected a multiple of {RECORD.size}: the file was cut off")
    try:
        return [_record(fields) for fields in RECORD.iter_unpack(data)]
    except (IndexError, ValueError) as error:
        raise EvidenceError(
            f"a record holds an unknown outcome or cause ({error}): the file was changed, or is of a later version"
        ) from None


def _record(fields: tuple[int, ...]) -> Record:
    (
        scheduled,
        sent,
        connect,
        first,
        last,
        end,
        sequence,
        prompt,
        asked,
        made,
        frames,
        gap,
        crc,
        outcome,
        why,
        status,
        attempt,
        shard,
        flags,
    ) = fields

    def there(bit: int, value: int) -> int | None:
        return value if flags & bit else None

    if not _WHY[why] or (why >= 32) != (outcome != 0):
        raise ValueError(f"why = {why} of outcome {outcome}")
    return Record(
        scheduled, sequence, prompt, OUTCOMES[outcome], _WHY[why], there(Flag.SENT, sent), there(Flag.CONNECT, connect),
        there(Flag.FIRST, first), there(Flag.LAST, last), there(Flag.END, end), there(Flag.USAGE, asked), there(Flag.USAGE, made),
        frames, there(Flag.GAP, gap), there(Flag.TEXT, crc), status, attempt, shard, flags & ~0xFF,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Load:
    """A finished run of a load: what it was, and a record of every scheduled request, in the order of the schedule.

    ``header`` holds finite JSON only. Known keys: schema, origin_ns, wall (ISO time of the origin), seed, schedule (kind,
    numbers, sha256), workload (name, sha256, stream, chat, ...), window ([start, end] in ns after the origin), limit_s (how long a
    request was waited for), shards ([{cpu_s, wall_s, lag..., errors}]), clock ({boottime_step_ns, wall_step_ns}), target (model, server
    identity before and after), invalid (codes with a sentence: "client_limited: ...").
    """

    header: Mapping[str, Any]
    records: tuple[Record, ...]

    def to_bytes(self) -> bytes:
        """The file: one line of JSON, then the records."""
        line = json.dumps({**self.header, "schema": SCHEMA, "n": len(self.records)}, sort_keys=True, allow_nan=False, separators=(",", ":"))
        return line.encode() + b"\n" + b"".join(map(pack, self.records))

    @classmethod
    def from_bytes(cls, data: bytes) -> Load:
        """EvidenceError if the bytes are no such file, or one that was cut off."""
        head, newline, body = data.partition(b"\n")
        try:
            header = json.loads(head)
            known = isinstance(header, dict) and header.get("schema") == SCHEMA
        except ValueError:
            known = False
        if not newline or not known:
            raise EvidenceError(f"no records of requests: the first line is {head[:60]!r}, expected JSON with schema {SCHEMA!r}")
        records = tuple(unpack(body))
        if len(records) != header.get("n"):
            raise EvidenceError(f"{len(records)} records, the first line says {header.get('n')}: the file was cut off or changed")
        return cls(header, records)

    @property
    def judged(self) -> tuple[Record, ...]:
        """The requests scheduled inside the window: every denominator is made of these."""
        return tuple(r for r in self.records if r.judged)

    @property
    def invalid(self) -> tuple[str, ...]:
        """Why the run says nothing, each a code with a sentence."""
        return tuple(self.header.get("invalid", ()))


# --- what a service promises ------------------------------------------------------------------------


class Objective(NamedTuple):
    """``quantile`` of ``metric`` is at most ``limit`` seconds; a share ``1 - quantile`` of all requests may be slower, or fail."""

    metric: str
    quantile: float
    limit: float

    @property
    def name(self) -> str:
        """As it is written: ttft_p99."""
        return f"{self.metric}_p{self.quantile * 100:g}"

    @property
    def share(self) -> float:
        """How many may be over."""
        return round(1 - self.quantile, 9)


_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


def objective(name: str, limit: str) -> Objective:
    """``objective("ttft_p99", "300ms")``. ConfigError for an unknown metric, a quantile below p50, a limit without a unit."""
    metric, _, tail = name.partition("_p")
    if metric not in METRICS:
        raise ConfigError(f"objective {name!r}: {nearest(metric, list(METRICS))}; expected METRIC_pQUANTILE, like ttft_p99")
    if not re.fullmatch(r"[0-9]{2}(\.[0-9]{1,4})?", tail) or not 50 <= float(tail) < 100:
        raise ConfigError(f"objective {name!r}: expected a quantile from p50 to p99.9999, like {metric}_p99 or {metric}_p99.9")
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)\s*(us|µs|ms|s|min)", str(limit).strip())
    if found is None or not float(found[1]) * _UNITS[found[2]] > 0 or not math.isfinite(float(found[1])):
        raise ConfigError(f"objective {name} = {limit!r} (bound_invalid): expected a time above 0 with its unit, like 300ms or 1.5s")
    return Objective(metric, round(float(tail) / 100, 9), float(found[1]) * _UNITS[found[2]])


def objectives(said: Mapping[str, str]) -> tuple[Objective, ...]:
    """All of a table, in its order. ConfigError names the one that is wrong."""
    return tuple(objective(name, limit) for name, limit in said.items())


# --- the numbers ------------------------------------------------------------------------------------


def _tpot(r: Record) -> float | None:
    if r.first is None or r.last is None or r.tokens is None or r.tokens < 2:
        return None  # a single token has no time per further token: None, never 0
    return (r.last - r.first) / (r.tokens - 1) * 1e-6


def _micro(name: str) -> Callable[[Record], float | None]:
    def seconds(record: Record) -> float | None:
        value = getattr(record, name)
        return None if value is None else value * 1e-6

    return seconds


# seconds, from the scheduled arrival where there is a start; None where the request has none
METRICS: Mapping[str, Callable[[Record], float | None]] = {
    "ttft": _micro("first"),  # time to the first frame with output
    "tpot": _tpot,  # time per output token after the first
    "e2e": _micro("end"),  # to the end of the response
    "gap": _micro("gap"),  # the longest stall between two frames with output
}


def samples(load: Load, metric: str, within: Sequence[Objective] = ()) -> tuple[Sample, ...]:
    """A Sample for each request scheduled inside the window, in seconds; None, with its cause as status, for one that is not complete.

    ``metric`` "worst" is the request's largest multiple of its objectives ``within``: at most 1 means good. A complete
    request to which a metric does not apply (one token has no TPOT) is left out of that metric alone: the caller counts them.
    """
    if metric != "worst" and metric not in METRICS:
        raise ConfigError(f"no metric {metric!r} of requests: {nearest(metric, [*METRICS, 'worst'])}")
    rows = []
    for record in load.judged:
        item, at = f"{record.sequence:06d}", record.scheduled * 1e-9
        if record.outcome != "complete":
            rows.append(Sample(item, None, status=record.why, at=at))
            continue
        value = _worst(record, within) if metric == "worst" else METRICS[metric](record)
        if value is not None:
            rows.append(Sample(item, round(value, 9), at=at))
    return tuple(rows)


def derive(raw: bytes, conditions: Mapping[str, Any]) -> tuple[Sample, ...]:
    """The samples that ``conditions["derived"]`` says were made of the bytes: {"metric": ..., "within": {name: limit}}.

    EvidenceError for bytes that are no record of requests, or conditions that do not say.
    """
    said = conditions.get("derived")
    if not isinstance(said, Mapping) or not isinstance(said.get("metric"), str) or not isinstance(said.get("within", {}), Mapping):
        raise EvidenceError(f"derived = {said!r}, expected the metric that the samples hold: {{'metric': 'ttft'}}")
    return samples(Load.from_bytes(raw), said["metric"], objectives(said.get("within", {})))


def _worst(record: Record, within: Iterable[Objective]) -> float | None:
    multiples = [value / each.limit for each in within if (value := METRICS[each.metric](record)) is not None]
    return max(multiples, default=None)
