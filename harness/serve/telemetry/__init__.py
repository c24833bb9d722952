"""What a server says of itself while it is loaded, and what its processes take: a series of scrapes.

vLLM, llama.cpp's server (started with ``--metrics``) and the stub tell it in the text format of Prometheus, under names of
their own; ``SOURCES`` puts them under one. Beside it the CPU time and memory of the server's processes, the CPU time
of whoever asks, and the bytes over loopback, from ``/proc``. What a server does not tell is None, never 0.

A counter that falls was reset: the server was started anew. It is reported and never subtracted across.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from types import TracebackType
from typing import Any, NamedTuple, Self

from harness.errors import EngineError
from harness.serve.target import Target
from harness.serve.telemetry.exposition import BYTES, parse
from harness.serve.telemetry.usage import descendants, loopback, tree_cpu, tree_pss

__all__ = [
    "COUNTERS",
    "SOURCES",
    "Scrape",
    "Watch",
    "idle",
    "increase",
    "resets",
    "scrape",
    "summary",
    "timeline",
]

_TIMEOUT_S = 2.0


# --- one scrape -----------------------------------------------------------------------------------

# each field is the sum of all series of these names (the largest, for a share)
SOURCES: Mapping[str, tuple[str, ...]] = {
    "running": ("vllm:num_requests_running", "llamacpp:requests_processing"),
    "waiting": ("vllm:num_requests_waiting", "llamacpp:requests_deferred"),
    "kv": ("vllm:kv_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"),
    "preemptions": ("vllm:num_preemptions_total",),
    "prompted": ("vllm:prompt_tokens_total", "llamacpp:prompt_tokens_total"),
    "generated": ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total"),
    "queried": ("vllm:prefix_cache_queries_total", "llamacpp:prompt_tokens_total", "llamacpp:prompt_tokens_cached_total"),
    "hits": ("vllm:prefix_cache_hits_total", "llamacpp:prompt_tokens_cached_total"),
    "steps": ("vllm:iteration_tokens_total_count", "llamacpp:n_decode_total"),
    "ended": ("vllm:request_success_total",),
    "queue_s": ("vllm:request_queue_time_seconds_sum",),
    "e2e_s": ("vllm:e2e_request_latency_seconds_sum",),
}
_NAMES = frozenset(name for names in SOURCES.values() for name in names)
COUNTERS = ("preemptions", "prompted", "generated", "queried", "hits", "steps", "ended", "queue_s", "e2e_s")


class Scrape(NamedTuple):
    """One look: ``at`` in nanoseconds of the monotonic clock; None is what nobody tells, or could not be read then.

    ``running`` and ``waiting`` requests, ``kv`` the share of the cache in use. Counters since the start of the server:
    preemptions, prompted and generated tokens, tokens looked for in the prefix cache (``queried``) and found (``hits``),
    engine ``steps``, requests ``ended``, and the seconds those had waited (``queue_s``) and taken (``e2e_s``). ``cpu_s`` and
    ``pss`` bytes of the server's processes, ``client_cpu_s`` of the asking ones, ``network`` bytes over loopback.
    """

    at: int
    running: float | None = None
    waiting: float | None = None
    kv: float | None = None
    preemptions: float | None = None
    prompted: float | None = None
    generated: float | None = None
    queried: float | None = None
    hits: float | None = None
    steps: float | None = None
    ended: float | None = None
    queue_s: float | None = None
    e2e_s: float | None = None
    cpu_s: float | None = None
    pss: int | None = None
    client_cpu_s: float | None = None
    network: int | None = None

    @classmethod
    def of(cls, data: bytes, at: int, **processes: Any) -> Scrape:
        """What an answer of ``/metrics`` tells, and of the processes what the caller read. EngineError for an unreadable answer."""
        told = parse(data, _NAMES)
        values: dict[str, float | None] = {}
        for field, names in SOURCES.items():
            numbers = [value for name in names for value in told.get(name, {}).values()]
            values[field] = (max if field == "kv" else math.fsum)(numbers) if numbers else None
            if numbers and not 0 <= values[field] < math.inf:  # type: ignore[operator]
                raise EngineError(
                    f"/metrics: {field} is {values[field]} ({', '.join(n for n in names if n in told)}), expected a number >= 0"
                )
        return cls(at, **values, **processes)  # type: ignore[arg-type]


def scrape(target: Target, *, pids: Iterable[int] = (), timeout_s: float = _TIMEOUT_S) -> Scrape:
    """One look at a server. EngineError if it does not answer in time, or with what is not a page of metrics."""
    with contextlib.closing(_connection(target, timeout_s)) as connection:
        data, at = _get(connection, target, timeout_s)
    pids = tuple(pids)
    return Scrape.of(data, at, cpu_s=tree_cpu(pids), pss=tree_pss(pids), network=loopback())


def idle(target: Target, *, limit_s: float, every_s: float = 0.1) -> bool:
    """Waits until no request runs or waits, at most ``limit_s``; whether it came to that. EngineError as ``scrape``."""
    end = time.monotonic() + limit_s
    while True:
        now = scrape(target)
        if not now.running and not now.waiting:
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(every_s)


def _connection(target: Target, timeout_s: float) -> http.client.HTTPConnection:
    return http.client.HTTPConnection(target.host, target.port, timeout=timeout_s)


def _get(connection: http.client.HTTPConnection, target: Target, timeout_s: float) -> tuple[bytes, int]:
    """The page and the instant at which it was there. The limit is on the whole: a byte a second is no answer."""
    end = time.monotonic() + timeout_s
    try:
        connection.request("GET", "/metrics", headers={"Authorization": f"Bearer {target.key}"} if target.key else {})
        answer = connection.getresponse()
        parts, size = [], 0
        with contextlib.closing(answer):  # else the connection counts as busy
            while part := answer.read1(1 << 16):
                parts.append(part)
                size += len(part)
                if size > BYTES or time.monotonic() > end:
                    raise EngineError(f"{target.base_url}/metrics: {size} bytes in {timeout_s:g} s and no end; this is no page of metrics")
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"{target.base_url}/metrics does not answer: {error or type(error).__name__}") from None
    if answer.status != 200:
        raise EngineError(
            f"{target.base_url}/metrics answers {answer.status}, expected 200; llama.cpp's server tells its metrics with --metrics only"
        )
    return b"".join(parts), time.monotonic_ns()


# --- a series -------------------------------------------------------------------------------------


class Watch:
    """Scrapes a server every ``every_s`` seconds from a thread of its own, until left.

    ``pids`` are the server's processes, or what tells them anew each time. Memory is read every ``memory_every_s``
    seconds only: the kernel walks all pages for it. The CPU time of this thread is ``cost_s``, and no part of
    ``client_cpu_s``, which is of this process and those it started, the server's excluded.
    """

    def __init__(
        self, target: Target, *, pids: Iterable[int] | Callable[[], Iterable[int]] = (), every_s: float = 0.5, memory_every_s: float = 5.0
    ) -> None:
        self.target = target
        self.scrapes: list[Scrape] = []
        self.missed: list[tuple[int, str]] = []  # when a scrape failed, and why
        self.cost_s = 0.0
        self._pids = pids if callable(pids) else lambda fixed=tuple(pids): fixed
        self._every_s, self._memory_every_s = every_s, memory_every_s
        self._memory_at = -math.inf
        self._client_s: float | None = None
        self._connection = _connection(target, _TIMEOUT_S)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="telemetry", daemon=True)

    def __enter__(self) -> Self:
        """Takes the first look, and goes on."""
        self._look()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Takes the last look."""
        self._over.set()
        self._thread.join()
        self._memory_at = -math.inf
        self._look()
        self._connection.close()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + self._every_s, time.monotonic())  # a late look moves the next ones: there is no backlog of looks
            if self._over.wait(max(0.0, due - time.monotonic())):
                break
            self._look()
            self.cost_s = time.thread_time()

    def _look(self) -> None:
        pids = tuple(self._pids())
        try:
            data, at = _get(self._connection, self.target, _TIMEOUT_S)
            self.scrapes.append(Scrape.of(data, at, **self._processes(pids)))
        except EngineError as error:
            self.missed.append((time.monotonic_ns(), str(error)))
            self._connection.close()  # the next look connects anew

    def _processes(self, pids: tuple[int, ...]) -> dict[str, Any]:
        now, pss = time.monotonic(), None
        if now - self._memory_at >= self._memory_every_s:
            self._memory_at, pss = now, tree_pss(pids)
        client = tree_cpu(descendants(os.getpid(), frozenset(pids)))
        if client is not None:  # the kernel counts processes in hundredths, this thread to the nanosecond: never back
            self._client_s = max(self._client_s or 0.0, client - self.cost_s)
        return {"cpu_s": tree_cpu(pids), "pss": pss, "client_cpu_s": self._client_s, "network": loopback()}


def increase(scrapes: Sequence[Scrape], field: str) -> float | None:
    """By how much a counter rose from the first scrape that has it to the last; None if fewer than two have it, or it was reset."""
    values = [value for each in scrapes if (value := getattr(each, field)) is not None]
    if len(values) < 2 or any(b < a for a, b in pairwise(values)):
        return None
    return float(values[-1] - values[0])


def resets(scrapes: Sequence[Scrape]) -> tuple[str, ...]:
    """A sentence for each counter that fell: the server was started anew while it was watched."""
    found = []
    for field in COUNTERS:
        told = [(each.at, value) for each in scrapes if (value := getattr(each, field)) is not None]
        for (_, before), (at, after) in pairwise(told):
            if after < before:
                found.append(f"{field} fell from {before:g} to {after:g}, {(at - scrapes[0].at) * 1e-9:.1f} s after the first scrape")
                break
    return tuple(found)


def timeline(scrapes: Sequence[Scrape], origin_ns: int) -> list[dict[str, float | None]]:
    """A row for each interval between scrapes, as JSON: its end ``t`` in seconds after the origin, its length ``dt``, gauges at its
    end, rates within.

    running, waiting, kv, pss (bytes); preemptions and ended (counts); tokens_s, prompt_tokens_s, steps_s, network_s
    (bytes); cpu and client_cpu (cores); hit_share; of the requests that ended served_s, the mean time that the server
    knows of, and queue_share, how much of it they waited.
    """
    return [_row(pair, origin_ns) for pair in pairwise(scrapes)]


def _row(pair: tuple[Scrape, Scrape], origin_ns: int) -> dict[str, float | None]:
    before, after = pair
    seconds = (after.at - before.at) * 1e-9

    def rate(field: str) -> float | None:
        rose = increase(pair, field)
        return None if rose is None or seconds <= 0 else round(rose / seconds, 4)

    def share(part: str, whole: str) -> float | None:
        found = _over(increase(pair, part), increase(pair, whole))
        return None if found is None else min(1.0, found)

    return {
        "t": round((after.at - origin_ns) * 1e-9, 3),
        "dt": round(seconds, 6),
        "running": after.running,
        "waiting": after.waiting,
        "kv": after.kv,
        "pss": after.pss,
        "preemptions": increase(pair, "preemptions"),
        "ended": increase(pair, "ended"),
        "served_s": _over(increase(pair, "e2e_s"), increase(pair, "ended")),
        "tokens_s": rate("generated"),
        "prompt_tokens_s": rate("prompted"),
        "steps_s": rate("steps"),
        "cpu": rate("cpu_s"),
        "client_cpu": rate("client_cpu_s"),
        "network_s": rate("network"),
        "hit_share": share("hits", "queried"),
        "queue_share": share("queue_s", "e2e_s"),
    }


def _over(part: float | None, whole: float | None) -> float | None:
    return round(part / whole, 6) if part is not None and whole else None


_GAUGES = ("running", "waiting", "kv", "pss")
_COUNTS = ("preemptions", "ended")
_OF_ENDED = ("served_s", "queue_share")


def summary(rows: Sequence[Mapping[str, Any]], start: float, end: float) -> dict[str, float | None]:
    """A window of a ``timeline``, in its seconds, as one row: means (by time; of requests that ended by their number), sums of
    counts, and ``running_max``, ``waiting_max``, ``kv_max``, ``pss_max``. The intervals that end inside count; {} if none does.
    """
    seen = [row for row in rows if start < row["t"] <= end]
    if not seen:
        return {}
    found: dict[str, float | None] = {f"{name}_max": max(_told(seen, name), default=None) for name in _GAUGES}
    for name in seen[0]:
        if name in _COUNTS:
            found[name] = math.fsum(_told(seen, name)) if _told(seen, name) else None
        elif name not in ("t", "dt"):
            by = "ended" if name in _OF_ENDED else "dt"
            weighed = [(row[name], row[by]) for row in seen if row.get(name) is not None and row.get(by)]
            found[name] = round(math.fsum(x * w for x, w in weighed) / math.fsum(w for _, w in weighed), 6) if weighed else None
    return found


def _told(rows: Sequence[Mapping[str, Any]], name: str) -> list[float]:
    return [row[name] for row in rows if row.get(name) is not None]
