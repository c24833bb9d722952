"""When a stub's tokens are made: the service models, each on a clock that can be frozen, and the truth about them.

    fixed tokens   servers (0: no bound) that each take ttft_s, then gap_s a token; cv > 0 varies the whole log-normally
    mgc            first come, first served by c servers, service log-normal around service_s: M/G/c under Poisson arrivals
    batch          one engine; each step lasts step_s + sequence_s x running and gives a token to each of at most ``slots``

Times are kept on the models' own line: a callback that comes 50 microseconds late delays nothing behind it.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

from harness.errors import ConfigError
from harness.serve.stub.plan import Plan, Service, normal

__all__ = ["Engine", "Work", "service_time", "sojourns", "true_quantile"]

_BLOCK = 16  # tokens of a block of the prefix cache


class Clock(Protocol):
    """What an engine needs of a loop."""

    def now(self) -> int:
        """Nanoseconds."""

    def at(self, when: int, call: Callable[[], None]) -> None:
        """``call`` is called at ``when``, never before."""


class Work(Protocol):
    """What an engine asks of a request, and tells it."""

    draw: int  # its service time is drawn by this number
    prompt_ids: list[int]
    total: int  # tokens to be made, of each choice
    made: int
    cached: int

    def on_tokens(self, made: int, at: int) -> None:
        """The first ``made`` tokens are there, at ``at`` nanoseconds."""


class Engine:
    """Makes tokens when the plan says so; counts what vLLM counts."""

    def __init__(self, plan: Plan, clock: Clock) -> None:
        self.plan, self.service, self.clock = plan, plan.service, clock
        self.batch = self.service.kind == "batch"
        self.slots = self.service.slots if self.batch else self.service.servers or 1 << 30
        self.running: dict[Work, None] = {}  # in the order in which they were begun
        self.waiting: deque[Work] = deque()
        self.blocks: set[int] = set()
        self.steps = self.step_tokens = self.queries = self.hits = self.preemptions = 0
        self.behind = 0  # nanoseconds that the engine's clock is behind the machine's
        self.frozen_at: int | None = None
        self._held: list[tuple[int, Callable[[], None]]] = []
        self._stepping = False
        self._prefill = 0  # nanoseconds that the next step lasts longer, for the prompts that were let in

    # --- its clock ------------------------------------------------------------------------------

    def _at(self, when: int, call: Callable[[], None]) -> None:
        """At ``when`` on the engine's clock, which stands while it is frozen."""

        def due() -> None:
            if self.frozen_at is not None:
                self._held.append((when, call))
            elif when + self.behind > self.clock.now():  # it was frozen since this was set
                self.clock.at(when + self.behind, due)
            else:
                call()

        self.clock.at(when + self.behind, due)

    def _now(self) -> int:
        return (self.frozen_at if self.frozen_at is not None else self.clock.now()) - self.behind

    def freeze(self, seconds: float | None) -> None:
        """Nothing is computed for ``seconds``; None: never again."""
        if self.frozen_at is None:
            self.frozen_at = self.clock.now()
            if seconds is not None:
                self.clock.at(self.frozen_at + round(seconds * 1e9), self._thaw)

    def _thaw(self) -> None:
        assert self.frozen_at is not None
        self.behind += self.clock.now() - self.frozen_at
        self.frozen_at = None
        held, self._held = self._held, []
        for when, call in held:
            self._at(when, call)

    # --- requests -------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether one more request would be over the bound of the queue."""
        return 0 < self.service.queue <= len(self.waiting)

    def submit(self, work: Work) -> None:
        """Begins it now or, with all servers at work, later."""
        if not self.waiting and self._room(work):
            self._start(work, self._now())
        else:
            self.waiting.append(work)

    def cancel(self, work: Work) -> None:
        """Frees its place."""
        if work in self.running:
            del self.running[work]
            self._fill(self._now())
        elif work in self.waiting:
            self.waiting.remove(work)

    def _room(self, work: Work) -> bool:
        size = self.service.kv_tokens
        return not self.running or (len(self.running) < self.slots and not (size and self.kv_tokens + len(work.prompt_ids) >= size))

    def _start(self, work: Work, at: int) -> None:
        self.running[work] = None
        fresh = len(work.prompt_ids) + work.made - self._hit(work)
        prefill = round(fresh * self.service.prefill_token_s * 1e9)
        if self.batch:
            self._prefill += prefill
            if not self._stepping:
                self._step(at)
            return
        whole = service_time(self.service, self.plan.seed, work.draw, work.total) * 1e9
        share = _first(self.service, work.total)
        gap = whole * (1 - share) / max(1, work.total - 1)
        self._follow(work, 1 if gap else work.total, at + prefill + whole * share, gap)

    def _follow(self, work: Work, made: int, first: float, gap: float) -> None:
        """Token ``made`` is made ``gap`` after the one before it, the first one at ``first``."""
        when = round(first + gap * (made - 1))

        def due() -> None:
            if work in self.running:
                self.steps += 1
                self.step_tokens += made - work.made
                if made < work.total:
                    self._follow(work, made + 1, first, gap)
                self._give(work, made, when)

        self._at(when, due)

    def _give(self, work: Work, made: int, at: int) -> None:
        work.made = made
        if made >= work.total:
            del self.running[work]
        work.on_tokens(made, at + self.behind)
        if made >= work.total:
            self._fill(at)

    def _fill(self, at: int) -> None:
        while self.waiting and self._room(self.waiting[0]):
            self._start(self.waiting.popleft(), at)

    # --- the batch ------------------------------------------------------------------------------

    def _step(self, at: int) -> None:
        """One step of the batch begins at ``at``."""
        self._stepping = True
        self._preempt()
        members = list(self.running)
        lasts = self.service.step_s + self.service.sequence_s * len(members)
        end = at + round(lasts * 1e9) + self._prefill
        self._prefill = 0

        def over() -> None:
            self.steps += 1
            for work in members:
                if work in self.running:
                    self.step_tokens += 1
                    self._give(work, work.made + 1, end)
            self._stepping = False
            if self.running:
                self._step(end)

        self._at(end, over)

    def _preempt(self) -> None:
        """While the cache is over-full, the youngest goes back to the front of the queue; what it had is made again, unseen."""
        while self.service.kv_tokens and len(self.running) > 1 and self.kv_tokens > self.service.kv_tokens:
            youngest = next(reversed(self.running))
            del self.running[youngest]
            self.waiting.appendleft(youngest)
            self.preemptions += 1

    # --- the cache ------------------------------------------------------------------------------

    @property
    def kv_tokens(self) -> int:
        """Tokens held by what runs."""
        return sum(len(work.prompt_ids) + work.made for work in self.running)

    @property
    def kv_usage(self) -> float:
        """Share of the cache in use; its size where none is given: each slot's whole context."""
        size = self.service.kv_tokens or self.plan.context * min(self.slots, 256)
        return min(1.0, self.kv_tokens / size)

    def _hit(self, work: Work) -> int:
        """Tokens of the prompt that were there: whole blocks from its beginning, never the last token."""
        ids = work.prompt_ids
        self.queries += len(ids) if self.service.prefix_cache else 0
        hit, key, matching = 0, 0, self.service.prefix_cache
        if matching:
            for start in range(0, len(ids) - _BLOCK + 1, _BLOCK):
                key = hash((key, *ids[start : start + _BLOCK]))
                matching = matching and key in self.blocks and start + _BLOCK < len(ids)
                hit += _BLOCK * matching
                self.blocks.add(key)
        self.hits += hit
        work.cached = hit
        return hit


# --- the truth -------------------------------------------------------------------------------------


def service_time(service: Service, seed: int, request: int, total: int = 0) -> float:
    """Seconds that request number ``request`` takes once it is begun: log-normal with this mean and coefficient of variation."""
    return _log_normal(service, total or service.tokens, lambda: normal(seed, "service", request))


def _log_normal(service: Service, total: int, draw: Callable[[], float]) -> float:
    mean = service.service_s if service.kind == "mgc" else service.ttft_s + service.gap_s * (total - 1)
    if not service.cv or not mean:
        return mean
    variance = math.log1p(service.cv**2)
    return mean * math.exp(math.sqrt(variance) * draw() - variance / 2)


def _first(service: Service, total: int) -> float:
    """The share of a service that is over at its first token."""
    if service.kind == "mgc":
        return service.first if total > 1 else 1.0
    mean = service.ttft_s + service.gap_s * (total - 1)
    return service.ttft_s / mean if mean else 1.0


def _fifo(service: Service, arrivals: Iterable[float], times: Iterable[float], metric: str) -> list[float]:
    """Seconds from arrival to the end, or to the first token, where ``servers`` take requests in their order."""
    if service.kind not in ("fixed", "tokens", "mgc") or service.prefill_token_s or service.queue or metric not in ("ttft", "e2e"):
        raise ConfigError(f"no oracle for service {service.kind!r} and metric {metric!r}: expected an unbounded queue, without prefill")
    share = _first(service, service.tokens) if metric == "ttft" else 1.0
    if not service.servers:
        return [each * share for each, _ in zip(times, arrivals, strict=False)]
    free, found = [0.0] * service.servers, []
    for arrival, each in zip(arrivals, times, strict=False):
        begin = max(arrival, free[0])
        heapq.heapreplace(free, begin + each)
        found.append(begin + each * share - arrival)
    return found


def sojourns(plan: Mapping[str, Any], arrivals_s: Sequence[float], *, metric: str = "e2e") -> list[float]:
    """Seconds that each request of a schedule spends in queue and service: the oracle of one run of kinds fixed, tokens and mgc.

    ``metric`` "ttft" ends at the first token. Request i of the schedule is number i of the plan, its answer ``service.tokens`` long.
    Raises ConfigError for a plan that no queue describes.
    """
    parsed = Plan.parse(plan)
    service = parsed.service
    return _fifo(service, arrivals_s, [service_time(service, parsed.seed, i) for i in range(len(arrivals_s))], metric)


def true_quantile(plan: Mapping[str, Any], q: float, *, rate: float, metric: str = "e2e", requests: int = 200_000, seed: int = 1) -> float:
    """The long-run quantile ``q`` of a latency in seconds under Poisson arrivals at ``rate`` a second, by simulation of the plan.

    The first tenth of the requests is left out. Its own error grows with the load, since neighbours share a queue: compare two
    seeds. What the network and the stub's timers add (tens of microseconds) is not in it.
    """
    import random

    service, draws = Plan.parse(plan).service, random.Random(seed)
    arrivals = accumulate(draws.expovariate(rate) for _ in range(requests))
    times = (_log_normal(service, service.tokens, lambda: draws.gauss(0, 1)) for _ in range(requests))
    kept = sorted(_fifo(service, arrivals, times, metric)[requests // 10 :])
    return kept[min(len(kept) - 1, math.ceil(q * len(kept)) - 1)]
