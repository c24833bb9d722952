"""One thread, one epoll, HTTP/1.1: what a stub reads and writes, with the instant of each.

Timers are good to some 50 microseconds: ``select`` on the epoll counts in microseconds where epoll itself counts in
milliseconds. A write goes to the kernel at once, by itself, so that a frame is a packet.
"""

from __future__ import annotations

import heapq
import os
import select
import socket
import struct
import time
from collections.abc import Callable

__all__ = ["Connection", "Loop", "Request", "listen"]

now = time.monotonic_ns
_MAX_HEAD, _MAX_BODY = 1 << 16, 64 << 20
_STATUS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 405: "Method Not Allowed", 413: "Content Too Large",
           429: "Too Many Requests", 431: "Request Header Fields Too Large", 500: "Internal Server Error", 502: "Bad Gateway",
           503: "Service Unavailable"}  # fmt: skip


class Loop:
    """Readiness of sockets, and timers in nanoseconds of the monotonic clock."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self.handlers: dict[int, Callable[[int], None]] = {}
        self.heap: list[tuple[int, int, Callable[[], None]]] = []
        self.count = 0
        self.stopped = False

    def now(self) -> int:
        """Nanoseconds of the monotonic clock."""
        return now()

    def at(self, when: int, call: Callable[[], None]) -> None:
        """``call`` is called at ``when``, never before."""
        self.count += 1
        heapq.heappush(self.heap, (when, self.count, call))

    def watch(self, fd: int, handler: Callable[[int], None], mask: int = select.EPOLLIN) -> None:
        """``handler(events)`` whenever ``fd`` is ready."""
        self.handlers[fd] = handler
        self.epoll.register(fd, mask)

    def unwatch(self, fd: int) -> None:
        """To be called before ``fd`` is closed."""
        if self.handlers.pop(fd, None):
            self.epoll.unregister(fd)

    def run(self) -> None:
        """Until ``stopped`` is set."""
        heap, handlers, poll, own = self.heap, self.handlers, self.epoll.poll, self.epoll.fileno()
        while not self.stopped:
            wait = None if not heap else max(0.0, (heap[0][0] - now()) * 1e-9)
            if wait is None or wait > 0:
                select.select([own], [], [], wait)
            for fd, events in poll(0, 256):
                if handler := handlers.get(fd):
                    handler(events)
            due = now()
            while heap and heap[0][0] <= due:
                heapq.heappop(heap)[2]()


class Request:
    """One request as it came: ``seen`` its first byte, ``whole`` its last, in nanoseconds."""

    __slots__ = ("body", "head", "headers", "method", "path", "seen", "whole")

    def __init__(self, head: bytes, seen: int) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.method, self.path = [*lines[0].split(" "), "", ""][:2]
        pairs = (line.partition(":") for line in lines[1:])
        self.headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        self.seen, self.whole, self.body = seen, 0, b""


class Connection:
    """A client: requests are handed to ``serve(connection, request)`` one after another; ``done()`` asks for the next."""

    def __init__(self, loop: Loop, sock: socket.socket, serve: Callable[[Connection, Request], None]) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.loop, self.sock, self.fd, self.serve = loop, sock, sock.fileno(), serve
        self.read, self.unsent = bytearray(), bytearray()
        self.seen = 0
        self.request: Request | None = None
        self.busy = self.closed = self.closing = False
        self.on_gone: Callable[[], None] | None = None  # the client left before its answer was over
        loop.watch(self.fd, self._ready, select.EPOLLIN | select.EPOLLRDHUP)

    def _ready(self, events: int) -> None:
        if events & select.EPOLLOUT:
            self._flush()
        if events & select.EPOLLIN and not self.closed:
            self._receive()
        if events & (select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR) and not self.closed:
            self._gone()

    def _receive(self) -> None:
        at = now()
        try:
            data = self.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except OSError:
            return self._gone()
        if not data:
            return self._gone()
        if not self.read:
            self.seen = at
        self.read += data
        if not self.busy:
            self._next()

    def _next(self) -> None:
        """Takes a whole request out of what was read, if there is one."""
        if self.request is None:
            end = self.read.find(b"\r\n\r\n")
            if end < 0:
                if len(self.read) > _MAX_HEAD:
                    self.reply(431, b"", close=True)
                return
            self.request = Request(bytes(self.read[:end]), self.seen)
            del self.read[: end + 4]
        request = self.request
        if "chunked" in request.headers.get("transfer-encoding", ""):
            body = _unchunk(self.read)
        else:
            size = request.headers.get("content-length", "0")
            if not size.isdigit() or int(size) > _MAX_BODY:
                return self.reply(413 if size.isdigit() else 400, b"", close=True)
            body = bytes(self.read[: int(size)]) if len(self.read) >= int(size) else None
            if body is not None:
                del self.read[: int(size)]
        if body is None:
            return
        request.body, request.whole = body, now()
        self.request, self.busy = None, True
        self.closing = request.headers.get("connection", "").lower() == "close"
        self.seen = request.whole  # of the next, should it have come already
        self.serve(self, request)

    def write(self, data: bytes) -> None:
        """Hands ``data`` to the kernel now, or as soon as it takes more."""
        if self.closed:
            return
        if self.unsent:
            self.unsent += data
            return
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            return self._gone()
        if sent < len(data):
            self.unsent += data[sent:]
            self.loop.epoll.modify(self.fd, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLOUT)

    def _flush(self) -> None:
        try:
            sent = self.sock.send(self.unsent)
        except BlockingIOError:
            return
        except OSError:
            return self._gone()
        del self.unsent[:sent]
        if not self.unsent:
            self.loop.epoll.modify(self.fd, select.EPOLLIN | select.EPOLLRDHUP)
            if self.closing and not self.busy:
                self.close()

    def reply(self, status: int, body: bytes, headers: str = "", kind: str = "application/json", *, close: bool = False) -> None:
        """A whole answer in one write."""
        self.closing = self.closing or close
        self.write(head(status, f"content-type: {kind}\r\ncontent-length: {len(body)}\r\n{headers}", self.closing) + body)
        self.done()

    def done(self) -> None:
        """The answer is over: close, or take the next request."""
        self.busy, self.on_gone = False, None
        if self.closed:
            return
        if self.closing:
            if not self.unsent:
                self.close()
        elif self.read:
            self._next()

    def close(self, *, reset: bool = False) -> None:
        """FIN, or RST."""
        if self.closed:
            return
        self.closed = True
        self.loop.unwatch(self.fd)
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _gone(self) -> None:
        call, self.on_gone = self.on_gone, None
        self.close()
        if call:
            call()


def head(status: int, headers: str, close: bool = False) -> bytes:
    """Status line and headers."""
    closing = "connection: close\r\n" if close else ""
    return f"HTTP/1.1 {status} {_STATUS.get(status, 'Status')}\r\n{headers}{closing}\r\n".encode("latin-1")


def _unchunk(read: bytearray) -> bytes | None:
    """The body, taken out of ``read``; None while it is not whole."""
    place, parts = 0, []
    while (end := read.find(b"\r\n", place)) >= 0:
        try:
            size = int(bytes(read[place:end]).split(b";")[0], 16)
        except ValueError:
            size = 0
        if len(read) < end + 2 + size + 2:
            return None
        parts.append(bytes(read[end + 2 : end + 2 + size]))
        place = end + 2 + size + 2
        if size == 0:
            del read[:place]
            return b"".join(parts)
    return None


def listen(loop: Loop, port: int, serve: Callable[[Connection, Request], None]) -> socket.socket:
    """A listener on loopback alone; OSError if the port is taken."""
    server = socket.create_server(("127.0.0.1", port), backlog=4096)
    server.setblocking(False)

    def accept(_: int) -> None:
        for _i in range(64):
            try:
                Connection(loop, server.accept()[0], serve)
            except OSError:  # nobody left, or no descriptor left
                return

    loop.watch(server.fileno(), accept)
    return server


def watch_owner(loop: Loop, pid: int) -> None:
    """Stops the loop when the process ``pid`` ends, however it ends."""
    try:
        fd = os.pidfd_open(pid)
    except OSError:
        loop.stopped = True
        return

    def ended(_: int) -> None:
        loop.stopped = True

    loop.watch(fd, ended)
