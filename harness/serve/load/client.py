"""One shard of a load: its slice of the schedule over keep-alive connections, one process, one thread, one epoll.

On the path of the clock is nothing but ``recv``, one time stamp and a list: bytes are taken apart when their response is
over (``http1``, ``harness.engines.sse``), in bulk at the end of the run as long as they fit into memory. Requests go out by a
timerfd with absolute deadlines: all that are due, none before its instant, none ever forgotten. No request is sent twice.

A loop of our own and not asyncio: a read costs as little as with a Protocol on uvloop, without needing it, and a third of what
it costs on asyncio itself (measured; 64 KB at a time: a recv that is offered more asks the kernel for memory each time).
"""

from __future__ import annotations

import ctypes
import errno
import heapq
import json
import os
import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from harness.engines.sse import Reply
from harness.records import Record
from harness.serve.load.job import Job, Page, Taken, judged

__all__ = ["Shard"]

_IDLE_NS = 2_000_000_000  # a connection that rested longer may be about to be closed by the server: a new one is opened
_TICK_NS = 100_000_000  # how often limits are looked after
_KEEP = 256 << 20  # bytes of finished responses that may wait for the end of the run
_READ = 1 << 16


class _Connection:
    __slots__ = ("begun", "fresh", "out", "since", "sock", "taken")

    def __init__(self, sock: socket.socket, now: int) -> None:
        self.sock, self.begun, self.since = sock, now, now
        self.fresh = True
        self.taken: Taken | None = None
        self.out: memoryview | None = None  # what the socket did not take yet


class _Timer:
    """A timerfd with absolute deadlines on the monotonic clock."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")
        self._spec = (ctypes.c_long * 4)()
        self._set, self._at = self._libc.timerfd_settime, ctypes.byref(self._spec)

    def arm(self, instant: int) -> None:
        """To fire at ``instant`` (ns), at once if it has passed; 0: never."""
        self._spec[2], self._spec[3] = divmod(instant, 1_000_000_000)
        self._set(self.fd, 1, self._at, None)

    def close(self) -> None:
        os.close(self.fd)


class Shard:
    """Sends a job. ``finish(record, reply, taken)`` gets each request once it is judged, in no particular order.

    ``parent``: a descriptor whose end of file means that nobody waits any more.
    """

    def __init__(
        self,
        job: Job,
        finish: Callable[[Record, Reply, Taken, list[int]], None],
        *,
        words: memoryview | None = None,
        parent: int = -1,
        model: str = "",
    ) -> None:
        self.job, self.finish = job, finish
        self.words = words if words is not None else memoryview(bytearray(Page.SIZE)).cast("Q")
        self.parent = parent
        self.names = _Names(job, model)
        self.epoll = select.epoll()
        self.timer = _Timer()
        self.epoll.register(self.timer.fd, select.EPOLLIN)
        if parent >= 0:
            self.epoll.register(parent, select.EPOLLIN | select.EPOLLHUP)
        self.all: dict[int, _Connection] = {}
        self.free: list[_Connection] = []
        self.flying: dict[int, Taken] = {}  # by position, in the order of their deadlines
        self.waiting: deque[Taken] = deque()  # over, not yet judged
        self.kept = 0
        self.errors: dict[str, int] = {}
        self.lags = array("Q")
        self.origin = 0
        self.next = 0
        self.vacant: deque[int] = deque()  # instants at which slots of a closed loop became free
        self.later: list[tuple[int, int]] = []  # due, position: turns whose predecessor is over
        self.followers: dict[int, list[int]] = {}
        self.order: Sequence[int] = range(len(job.due))
        if job.after is not None:
            self.order = [p for p in self.order if job.after[p] < 0]
            for position, before in enumerate(job.after):
                if before >= 0:
                    self.followers.setdefault(before, []).append(position)
        self.left = len(job.due)

    # --- the run --------------------------------------------------------------------------------------

    def open(self) -> None:
        """Opens connections before the window: all of a closed loop, one of an open one, whose pool grows as needed."""
        for _ in range(min(self.job.concurrency, len(self.order)) or 1):
            conn = self._connect(time.monotonic_ns(), blocking=True)
            if conn is not None:
                self.free.append(conn)

    def run(self, origin: int, over: Callable[[], object] = lambda: None) -> dict[str, Any]:
        """Sends everything that is due after ``origin`` (ns), waits for every end, calls ``over``, judges. The facts about this shard."""
        self.origin = origin
        wall, cpu = time.monotonic_ns(), time.process_time_ns()
        try:
            self._loop()
            facts = {"wall_s": (time.monotonic_ns() - wall) * 1e-9, "cpu_s": (time.process_time_ns() - cpu) * 1e-9}
            over()
            cpu = time.process_time_ns()
            while self.waiting:
                self._judge(self.waiting.popleft())
            return {**facts, "check_s": (time.process_time_ns() - cpu) * 1e-9, "lag": _quantiles(self.lags), "errors": self.errors} | (
                {"models": self.names.others} if self.names.others else {}
            )
        finally:
            self.close()

    def close(self) -> None:
        """Closes every socket; safe to call twice."""
        for conn in [*self.all.values()]:
            self._drop(conn)
        if not self.epoll.closed:
            self.epoll.close()
            self.timer.close()

    def _loop(self) -> None:
        poll, clock, everyone = self.epoll.poll, time.monotonic_ns, self.all
        timer = self.timer.fd
        tick = clock() + _TICK_NS
        self._start()
        while self.left:
            for fd, mask in poll(0.1):
                conn = everyone.get(fd)
                if conn is None:
                    if fd == timer:
                        self._fire()
                    elif fd == self.parent and not os.read(fd, 1):
                        raise InterruptedError("the parent is gone")
                    continue
                taken = conn.taken
                if mask & ~1 or taken is None or conn.out is not None:
                    self._event(conn, mask)
                    continue
                self._read(conn, taken)
            if self.vacant:
                self._refill()
            now = clock()
            if now >= tick:
                tick = now + _TICK_NS
                self._expire(now)

    def _start(self) -> None:
        if self.job.concurrency:
            self._at(self.origin)
        else:
            self._arm()

    def _at(self, instant: int) -> None:
        self.timer.arm(max(instant, 1))

    def _arm(self) -> None:
        """Sets the timer to the next request that is due, in the schedule or after another."""
        instants = []
        if not self.job.concurrency and self.next < len(self.order):
            instants.append(self.job.due[self.order[self.next]])
        if self.later:
            instants.append(self.later[0][0])
        self.timer.arm(max(1, self.origin + min(instants)) if instants else 0)

    def _fire(self) -> None:
        job, order = self.job, self.order
        if job.concurrency and not self.next:
            self.vacant.extend([0] * job.concurrency)
            self._refill()
        due, now, n = job.due, time.monotonic_ns() - self.origin, 0 if job.concurrency else len(order)
        while True:
            while self.next < n and due[order[self.next]] <= now:
                position = order[self.next]
                self.next += 1
                self._send(position, due[position])
            while self.later and self.later[0][0] <= now:
                instant, position = heapq.heappop(self.later)
                self._send(position, instant)
            now = time.monotonic_ns() - self.origin
            if not (self.next < n and due[order[self.next]] <= now) and not (self.later and self.later[0][0] <= now):
                break
        self._arm()

    def _refill(self) -> None:
        """Slots of a closed loop are free: the next requests were due when they became so."""
        while self.vacant and self.next < len(self.order):
            position, instant = self.order[self.next], self.vacant.popleft()
            self.next += 1
            self._send(position, instant or time.monotonic_ns() - self.origin)
        self.vacant.clear()

    # --- sending --------------------------------------------------------------------------------------

    def _send(self, position: int, due: int) -> None:
        job = self.job
        taken = Taken(position, due, self.origin + due + job.limit_ns)
        taken.cut = job.close_after.get(position, 0)
        self.flying[position] = taken
        body = job.bodies[job.body[position]]
        head = b"%b%b%d\r\nContent-Length: %d\r\n\r\n" % (job.paths[job.body[position]], job.head, job.sequence[position], len(body))
        conn = self._connection()
        now = time.monotonic_ns()
        if conn is None:
            conn = self._connect(now)
            if isinstance(conn, _Failed):
                self._failed(taken, conn, now)
                return
        taken.conn, conn.taken = conn, taken
        taken.reused = not conn.fresh
        conn.out = memoryview(head + body)
        if conn.begun:  # still shaking hands
            return
        self._write(conn, taken)

    def _connection(self) -> _Connection | None:
        while self.free:
            conn = self.free.pop()
            if conn.fresh or time.monotonic_ns() - conn.since < _IDLE_NS:
                return conn
            self._drop(conn)
        return None

    def _connect(self, now: int, blocking: bool = False) -> Any:
        try:
            sock = socket.socket(socket.AF_INET6 if ":" in self.job.address[0] else socket.AF_INET)
        except OSError as error:
            return _Failed(error) if not blocking else None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(2.0 if blocking else 0)
            code = sock.connect_ex(self.job.address)
            if code not in (0, errno.EINPROGRESS):
                raise OSError(code, os.strerror(code))
            sock.setblocking(False)
            conn = _Connection(sock, now)
            self.epoll.register(sock, select.EPOLLIN if code == 0 else select.EPOLLIN | select.EPOLLOUT)
        except OSError as error:
            sock.close()
            return _Failed(error) if not blocking else None
        self.all[sock.fileno()] = conn
        if code == 0:
            conn.begun = 0
        return conn

    def _write(self, conn: _Connection, taken: Taken) -> None:
        assert conn.out is not None
        if not taken.sent:
            taken.sent = time.monotonic_ns()
            self.lags.append(max(0, taken.sent - self.origin - taken.due - taken.connect))
            self.words[Page.SENT] += 1
        try:
            done = conn.sock.send(conn.out)
        except BlockingIOError:
            done = 0
        except OSError as error:
            self._lost(conn, error)
            return
        if done < len(conn.out):
            conn.out = conn.out[done:]
            self.epoll.modify(conn.sock, select.EPOLLIN | select.EPOLLOUT)
        else:
            conn.out = None

    def _event(self, conn: _Connection, mask: int) -> None:
        """Everything but a plain read of an answer."""
        taken = conn.taken
        if taken is None:  # closed by the server while idle, or it speaks unasked
            if conn in self.free:
                self.free.remove(conn)
            self._drop(conn)
            return
        if mask & select.EPOLLOUT and conn.out is not None:
            code = conn.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._lost(conn, OSError(code, os.strerror(code)))
                return
            if conn.begun:
                taken.connect, conn.begun = time.monotonic_ns() - conn.begun, 0
            self.epoll.modify(conn.sock, select.EPOLLIN)
            self._write(conn, taken)
            return
        self._read(conn, taken)

    def _read(self, conn: _Connection, taken: Taken) -> None:
        """What came of an answer: one receive, one time stamp."""
        try:
            data = conn.sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError as error:
            self._lost(conn, error)
            return
        now = time.monotonic_ns()
        if not data:
            self._lost(conn, None)
        elif taken.response.add(data, now):
            self._over(conn, taken, now)
        elif taken.cut and self._frames(taken) >= taken.cut:
            self._cancel(conn, taken, now)

    # --- ends -----------------------------------------------------------------------------------------

    def _over(self, conn: _Connection, taken: Taken, now: int) -> None:
        taken.ended = taken.response.ended
        conn.taken, taken.conn = None, None
        if taken.response.close or taken.ended != "whole" or conn.out is not None:
            self._drop(conn)
        else:
            conn.fresh, conn.since = False, now
            self.free.append(conn)
        self._end(taken, now)

    def _lost(self, conn: _Connection, error: OSError | None) -> None:
        """The server closed, or the connection broke."""
        taken, now = conn.taken, time.monotonic_ns()
        self._drop(conn)
        if taken is None:
            return
        if conn.begun:
            self._failed(taken, _Failed(error or OSError(errno.ECONNREFUSED, "closed")), now)
            return
        taken.ended, taken.error = ("reset", errno.errorcode.get(error.errno or 0, "")) if error else ("fin", "")
        self._end(taken, now)

    def _failed(self, taken: Taken, failed: _Failed, now: int) -> None:
        taken.ended = "local" if failed.local else "refused"
        taken.error = failed.name
        self._end(taken, now)

    def _cancel(self, conn: _Connection, taken: Taken, now: int) -> None:
        taken.ended = "cancelled"
        self._drop(conn)
        self._end(taken, now)

    @staticmethod
    def _frames(taken: Taken) -> int:
        return sum(part.count(b"\n\n") for part in taken.response.parts)

    def _expire(self, now: int) -> None:
        """Closes what was waited for long enough; and connections that rest."""
        for taken in [each for each in self.flying.values() if each.deadline <= now]:
            taken.ended = "limit"
            if not taken.sent:  # the server took no connection in all that time
                taken.ended, taken.error = "refused", "ETIMEDOUT"
            if taken.conn is not None:
                self._drop(taken.conn)
            self._end(taken, now)
        for conn in [each for each in self.free if not each.fresh and now - each.since > _IDLE_NS]:
            self.free.remove(conn)
            self._drop(conn)

    def _drop(self, conn: _Connection) -> None:
        if self.all.pop(conn.sock.fileno(), None) is not None:
            conn.sock.close()

    def _end(self, taken: Taken, now: int) -> None:
        taken.over, taken.conn = now, None
        del self.flying[taken.position]
        self.left -= 1
        self.words[Page.ENDED] += 1
        if taken.ended != "whole" or taken.response.status != 200:
            self.words[Page.FAILED] += 1
        else:
            self.words[Page.bin((now - self.origin - taken.due) // 1000)] += 1
        if taken.error:
            self.errors[taken.error] = self.errors.get(taken.error, 0) + 1
        self.waiting.append(taken)
        self.kept += sum(map(len, taken.response.parts))
        while self.kept > _KEEP and self.waiting:
            oldest = self.waiting.popleft()
            self.kept -= sum(map(len, oldest.response.parts))
            self._judge(oldest)
        for position in self.followers.get(taken.position, ()):
            heapq.heappush(self.later, (now - self.origin + self.job.think_ns, position))
            self._arm()
        if self.job.concurrency:
            self.vacant.append(now - self.origin)

    def _judge(self, taken: Taken) -> None:
        record, reply, outputs = judged(self.job, taken, self.origin)
        self.names.heard(reply)
        self.finish(record, reply, taken, outputs)


class _Names:
    """What answers call the model that was asked for. A gateway may always call it otherwise: that is counted, no more. Where one
    answer names the one that was asked for, each further one must.
    """

    MOST = 8  # names that are kept

    def __init__(self, job: Job, model: str) -> None:
        self.job, self.model = job, model
        self.others: dict[str, int] = {}
        self.said = b'"model":' + json.dumps(model, ensure_ascii=False).encode("utf-8", "surrogatepass")
        self.strict = not model

    def heard(self, reply: Reply) -> None:
        if not self.model or not reply.model:
            return
        if reply.model != self.model:
            if reply.model in self.others or len(self.others) < self.MOST:
                self.others[reply.model] = self.others.get(reply.model, 0) + 1
        elif not self.strict:
            self.strict = True
            pairs = zip(self.job.bodies, self.job.expects, strict=True)
            self.job.expects = [replace(expect, model=self.model) if self.said in body else expect for body, expect in pairs]


class _Failed:
    """A connection that could not be opened; ``local``: for want of descriptors or ports here."""

    def __init__(self, error: OSError) -> None:
        self.name = errno.errorcode.get(error.errno or 0, type(error).__name__)
        self.local = error.errno in (errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM)


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    """Seconds. Empty where nothing was sent."""
    if not values:
        return {}
    ordered = sorted(values)
    n = len(ordered)
    return {f"p{q}": ordered[min(n - 1, n * q // 100)] * 1e-9 for q in (50, 99)} | {"max": ordered[-1] * 1e-9}
