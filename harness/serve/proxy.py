"""A TCP proxy that spoils connections: bytes in, bytes out, and between them one fault for each connection.

It knows no HTTP library and no server: whatever sits on either side is tested as it is. A fault strikes after so many bytes or
frames (lines that begin with ``data:``) of the answer, never after so much time, so it happens at the same place on any
machine. What was done to each connection is kept in ``Proxy.ledger``: a plan that touched none proves nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.errors import ConfigError, EngineError, nearest
from harness.serve.stub.plan import uniform
from harness.serve.target import Target

__all__ = ["WHATS", "Fault", "Passage", "Proxy"]

WHATS = (
    "pass",
    "latency",  # ``seconds`` before the first byte of the answer
    "bandwidth",  # at most ``bytes_per_s`` from there on
    "stall",  # ``seconds`` of silence; None: for good
    "fin",  # both directions closed
    "rst",
    "half_close",  # FIN to the client, which may go on sending
    "corrupt",  # one byte changed
    "rst_on_accept",
    "never_answer",  # accepted, read, never answered
    "canned",  # ``status`` without asking the server, with ``retry_after`` if given; then closed
)
_WITHOUT_SERVER = ("rst_on_accept", "never_answer", "canned")


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one connection. ``after_bytes`` or ``after_frames`` of the answer have passed when it does."""

    what: str = "pass"
    after_bytes: int = 0
    after_frames: int | None = None
    seconds: float | None = None
    bytes_per_s: float = 0
    status: int = 503
    retry_after: str | None = None

    def __post_init__(self) -> None:
        if self.what not in WHATS:
            raise ConfigError(f"fault {self.what!r}: {nearest(self.what, list(WHATS))}")
        if (
            self.after_bytes < 0
            or (self.after_frames or 0) < 0
            or (self.seconds or 0) < 0
            or (self.what == "bandwidth") != (self.bytes_per_s > 0)
        ):
            raise ConfigError(f"{self}: expected numbers from 0, and bytes_per_s above 0 with bandwidth alone")
        if self.what == "latency" and self.seconds is None:
            raise ConfigError(f"{self}: expected the seconds of the latency")


@dataclass(slots=True)
class Passage:
    """What became of one connection: bytes that came from the client and went to it, and whether its fault struck."""

    number: int
    fault: Fault
    applied: bool = False
    up: int = 0
    down: int = 0


@dataclass(slots=True)
class _Place:
    """Finds the byte before which a fault strikes, in an answer that comes in pieces."""

    fault: Fault
    seen: int = 0
    frames: int = 0
    carry: bytes = field(default=b"")

    def find(self, data: bytes) -> int | None:
        """How many bytes of ``data`` come before it; None if it is behind all of them."""
        place: int | None = None
        if self.fault.after_frames is None:
            left = self.fault.after_bytes - self.seen
            place = max(0, left) if left < len(data) else None
        whole = self.carry + data
        at = whole.find(b"\ndata:")
        while at >= 0:
            if self.frames == self.fault.after_frames and place is None:
                place = max(0, at + 1 - len(self.carry))
            self.frames += 1
            at = whole.find(b"\ndata:", at + 6)
        self.carry = whole[-5:]
        self.seen += len(data)
        return place


class Proxy:
    """Listens on loopback in a thread of its own, in front of ``target``; a context manager.

    Connection i suffers ``faults[i % len(faults)]``; with a ``seed``, one drawn from them, which depends on the seed and i alone.
    """

    def __init__(self, target: Target, faults: Sequence[Fault] = (Fault(),), *, seed: int | None = None) -> None:
        if not faults:
            raise ConfigError("a proxy without faults: give at least Fault('pass')")
        self._upstream, self.faults, self.seed = target, tuple(faults), seed
        self.ledger: list[Passage] = []
        self._loop = asyncio.new_event_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._stop = asyncio.Event()
        ready = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, args=(ready,), name="fault-proxy", daemon=True)
        self._thread.start()
        ready.wait()
        if self._error is not None:
            self._thread.join()
            raise EngineError(f"the proxy cannot listen: {self._error}") from self._error

    @property
    def target(self) -> Target:
        """The server as seen through the proxy: same model, same key."""
        return Target(f"http://127.0.0.1:{self.port}", self._upstream.model, self._upstream.key)

    @property
    def applied(self) -> int:
        """Connections whose fault struck."""
        return sum(each.applied for each in self.ledger)

    def stop(self) -> None:
        """Closes every connection and ends the thread; safe to call twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- its thread -----------------------------------------------------------------------------

    def _run(self, ready: threading.Event) -> None:
        try:
            self._loop.run_until_complete(self._serve(ready))
        finally:
            self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        try:
            server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        except OSError as error:
            self._error = error
            ready.set()
            return
        self.port: int = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.ledger)
        at = number if self.seed is None else int(uniform(self.seed, "connection", number) * len(self.faults))
        passage = Passage(number, self.faults[at % len(self.faults)])
        self.ledger.append(passage)
        task = asyncio.ensure_future(self._connection(passage, reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # one that was cancelled before its first step has closed nothing

    async def _connection(self, passage: Passage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        upstream: asyncio.StreamWriter | None = None
        try:
            if passage.fault.what in _WITHOUT_SERVER:
                await _alone(passage, reader, writer)
                return
            answers, upstream = await asyncio.open_connection(self._upstream.host, self._upstream.port)
            up = asyncio.create_task(_copy(passage, reader, upstream))
            try:
                await _spoil(passage, answers, writer, up)
            finally:
                up.cancel()
                await asyncio.gather(up, return_exceptions=True)
        except OSError:
            _reset(writer)  # the server is gone, or was never there: the client learns it the hard way
        finally:
            open_ones = [each for each in (writer, upstream) if each is not None]
            for each in open_ones:  # both, before anything is waited for: whoever waits may be cancelled
                each.close()
            for each in open_ones:
                with contextlib.suppress(OSError):
                    await each.wait_closed()


async def _copy(passage: Passage, reader: asyncio.StreamReader, upstream: asyncio.StreamWriter) -> None:
    """What the client sends, and that it has ended."""
    try:
        while data := await reader.read(1 << 16):
            passage.up += len(data)
            upstream.write(data)
            await upstream.drain()
        upstream.write_eof()
    except OSError:
        _reset(upstream)


async def _alone(passage: Passage, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Faults for which the server is not asked."""
    fault, passage.applied = passage.fault, True
    if fault.what == "rst_on_accept":
        return _reset(writer)
    if fault.what == "canned":
        await reader.readuntil(b"\r\n\r\n")
        body = b'{"error":{"message":"canned by the proxy","type":"PlantedError","param":null,"code":%d}}' % fault.status
        after = f"retry-after: {fault.retry_after}\r\n" if fault.retry_after is not None else ""
        head = f"HTTP/1.1 {fault.status} Canned\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{after}"
        head += "connection: close\r\n\r\n"
        writer.write(head.encode() + body)
        passage.down = len(head) + len(body)
        await writer.drain()
        writer.write_eof()
    while data := await reader.read(1 << 16):  # closing with unread bytes would be a reset, which could overtake the answer
        passage.up += len(data)


async def _spoil(passage: Passage, answers: asyncio.StreamReader, writer: asyncio.StreamWriter, up: asyncio.Task[None]) -> None:
    """What the server answers, until the fault strikes and, if it lets it, after."""
    fault, place = passage.fault, _Place(passage.fault)
    while data := await answers.read(1 << 16):
        at = None if passage.applied or fault.what == "pass" else place.find(data)
        if at is not None:
            passage.applied = True
            await _send(passage, writer, data[:at])
            data = data[at:]
            if fault.what in ("stall", "latency"):
                await asyncio.wait({up}, timeout=fault.seconds)  # a client that leaves ends the wait
            elif fault.what == "corrupt":
                data = bytes([data[0] ^ 0x80]) + data[1:]
            elif fault.what == "rst":
                return _reset(writer)
            elif fault.what == "half_close":
                writer.write_eof()
                await asyncio.wait({up})
                return
            elif fault.what == "fin":
                return
        if fault.what == "bandwidth" and passage.applied:
            for start in range(0, len(data), size := max(1, int(fault.bytes_per_s / 50))):
                await _send(passage, writer, data[start : start + size])
                await asyncio.sleep(min(size, len(data) - start) / fault.bytes_per_s)
        else:
            await _send(passage, writer, data)


async def _send(passage: Passage, writer: asyncio.StreamWriter, data: bytes) -> None:
    if data:
        passage.down += len(data)
        writer.write(data)
        await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
