"""What a shard is to send, and what became of each request: its record, made once its bytes are all there."""

from __future__ import annotations

import socket
import zlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from harness.engines.sse import Expect, Reply, completeness
from harness.records import Flag, Record
from harness.serve.load.http1 import Response

__all__ = ["Job", "Page", "Taken", "judged", "resolve"]


@dataclass(slots=True)
class Job:
    """What a shard is to send. Positions within ``due`` are local; ``sequence`` says which request of the schedule each is.

    ``due`` in ns after the origin; ``concurrency`` above 0: a closed loop, in which ``due`` says nothing. ``after``:
    position of the request whose end, ``think_ns`` ago, makes this one due; -1 for none. ``close_after``: position to the
    number of frames after which the client closes the connection.
    """

    address: tuple[str, int]
    head: bytes  # of every request, up to the length of its body
    paths: list[bytes]  # per body
    bodies: list[bytes]
    expects: list[Expect]  # per body
    sequence: array[int]
    due: array[int]
    body: array[int]
    flags: array[int]
    limit_ns: int
    shard: int = 0
    concurrency: int = 0
    prompts: Sequence[int] = ()  # per body: its number in the workload
    after: array[int] | None = None
    think_ns: int = 0
    close_after: Mapping[int, int] = field(default_factory=dict)


class Taken:
    """A request on its way, and what came of it."""

    __slots__ = ("body", "conn", "connect", "cut", "deadline", "due", "ended", "error", "over", "position", "response", "reused", "sent")

    def __init__(self, position: int, due: int, deadline: int) -> None:
        self.position, self.due, self.deadline = position, due, deadline
        self.sent = self.connect = self.over = 0
        self.reused = False
        self.cut = 0
        self.ended = self.error = ""
        self.response = Response()
        self.body = b""
        self.conn: Any = None  # that it is sent over


class Page:
    """Counters that the parent reads while the shard writes: requests sent, ended, failed; latencies in logarithmic bins."""

    SENT, ENDED, FAILED, BINS = 0, 1, 2, 8
    SIZE = 8 * (8 + 248)

    def __init__(self, words: memoryview) -> None:
        self.words = words  # of 8 bytes

    @staticmethod
    def bin(us: int) -> int:
        """Eight bins per octave: the upper edge is within 9 % of the value."""
        high = us.bit_length()
        return Page.BINS + min(247, us if high < 4 else (high - 3) * 8 + ((us >> (high - 4)) & 7))

    @staticmethod
    def edge(index: int) -> float:
        """The upper edge of a bin, in seconds."""
        low = index - Page.BINS + 1
        return (low if low < 9 else (8 + low % 8) << (low // 8 - 1)) * 1e-6


_LOCAL = {"local": ("client_limited",), "refused": ("connect_failed",)}


def judged(job: Job, taken: Taken, origin: int) -> tuple[Record, Reply, list[int]]:
    """The record of a request that is over, what its answer was, and the instants of its frames with output (us after it was due)."""
    position = taken.position
    response, expect = taken.response, job.expects[job.body[position]]
    body = taken.body = response.settle()
    taken.ended = response.ended if taken.ended == "whole" else taken.ended
    ends: list[int] = []
    if taken.ended in _LOCAL:
        reply = Reply("error", *_LOCAL[taken.ended], detail=taken.error)
    else:
        reply, ends = completeness(response.status, body, taken.ended, expect)
    start = origin + taken.due
    times = [(t - start) // 1000 for t in response.instants(ends)] if ends else []
    if not expect.stream and response.times:
        times = [(response.times[-1] - start) // 1000]
    outputs = [times[index] for index in reply.outputs]
    gaps = [b - a for a, b in pairwise(outputs)]
    flags = job.flags[position] | (Flag.REUSED if taken.reused else 0)
    if len(outputs) > 1 and outputs[1] == outputs[0]:
        flags |= Flag.COALESCED
    done = reply.outcome == "complete"
    record = Record(
        scheduled=taken.due,
        sequence=job.sequence[position],
        prompt=job.prompts[job.body[position]] if job.prompts else job.body[position],
        outcome=reply.outcome,
        why=reply.why,
        sent=(taken.sent - start) // 1000 if taken.sent else None,
        connect=taken.connect // 1000 if taken.connect else None,
        first=outputs[0] if outputs else None,
        last=outputs[-1] if outputs else None,
        end=(taken.over - start) // 1000 if taken.ended not in ("limit", *_LOCAL) else None,
        prompt_tokens=reply.prompt_tokens,
        tokens=reply.tokens,
        frames=len(outputs),
        gap=max(gaps) if gaps else None,
        crc=zlib.crc32(reply.text) if done or reply.text else None,
        status=response.status,
        shard=job.shard,
        flags=flags,
    )
    return record, reply, outputs


def resolve(host: str, port: int) -> tuple[str, int]:
    """The first address of a host. OSError if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found.sort(key=lambda each: each[0] != socket.AF_INET)
    return str(found[0][4][0]), port
