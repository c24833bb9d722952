"""Asking a server, to see what it says: every answer with all its bytes and times, and who it is that answers."""

from __future__ import annotations

import json
import time
from array import array
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from harness.engines.sse import Expect, Reply, split
from harness.errors import EngineError
from harness.records import Record
from harness.serve.exchange import MODELS, Request, as_json, exchange
from harness.serve.load.client import Shard
from harness.serve.load.job import Job, Taken, resolve
from harness.serve.target import Target

__all__ = ["Answer", "ask", "identity", "prepared"]


@dataclass(frozen=True, slots=True)
class Answer:
    """Everything of one answer. ``times``: seconds from the send to each of ``frames``; ``connect`` and ``end`` likewise."""

    text: str
    outcome: str
    why: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    usage: Mapping[str, Any] | None = None
    finish: str = ""
    frames: tuple[bytes, ...] = ()
    times: tuple[float, ...] = ()
    detail: str = ""
    end: float | None = None

    @property
    def complete(self) -> bool:
        """Whether it is all there."""
        return self.outcome == "complete"

    @property
    def json(self) -> Any:
        """The body of an answer in one piece, None where it is no JSON."""
        return as_json(self.body)


def ask(
    target: Target,
    bodies: Iterable[Mapping[str, Any] | bytes],
    *,
    concurrency: int = 1,
    chat: bool = True,
    stream: bool = True,
    limit_s: float = 60.0,
    close_after: Mapping[int, int] | None = None,
) -> list[Answer]:
    """Answers in the order of ``bodies``, ``concurrency`` at a time, each waited for ``limit_s`` seconds. None that fails is raised.

    A mapping is completed by model, ``stream`` and the wish for usage where it does not say them itself; bytes are sent as
    they are. ``close_after``: index of a body to the frames after which the client closes the connection.
    """
    asked = [body if isinstance(body, bytes) else _completed(body, target.model, stream) for body in bodies]
    if not asked:
        return []
    job = prepared(target, asked, range(len(asked)), chat=chat, limit_s=limit_s)
    job.concurrency, job.close_after = max(1, concurrency), dict(close_after or {})
    answers: dict[int, Answer] = {}

    def finish(record: Record, reply: Reply, taken: Taken, outputs: Sequence[int]) -> None:
        answers[record.sequence] = _answer(record, reply, taken)

    shard = Shard(job, finish)
    shard.open()
    shard.run(time.monotonic_ns())
    return [answers[i] for i in range(len(asked))]


def _completed(body: Mapping[str, Any], model: str, stream: bool) -> bytes:
    said = {"model": model, "stream": stream, **body}
    if said["stream"] and "stream_options" not in said:
        said["stream_options"] = {"include_usage": True}
    return json.dumps(said, ensure_ascii=False, allow_nan=False).encode()


def _answer(record: Record, reply: Reply, taken: Taken) -> Answer:
    response = taken.response
    body = taken.body
    payloads, ends, _ = split(body) if response.headers and b"data:" in body else ([], [], b"")
    times = tuple((t - taken.sent) * 1e-9 for t in response.instants(ends))
    return Answer(
        text=reply.text.decode("utf-8", "replace"),
        outcome=record.outcome,
        why=record.why,
        status=record.status,
        headers=dict(response.headers),
        body=body,
        usage=reply.usage,
        finish=reply.finish,
        frames=tuple(payloads),
        times=times,
        detail=reply.detail,
        end=(taken.over - taken.sent) * 1e-9 if record.end is not None and taken.sent else None,
    )


def _expect(body: bytes) -> Expect:
    try:
        return Expect.of(body)
    except ValueError:  # sent on purpose, to see it refused
        return Expect(stream=False)


def prepared(target: Target, bodies: Sequence[bytes], sequence: Sequence[int], *, chat: bool, limit_s: float) -> Job:
    """Request i sends body i as ``sequence[i]``, all due at once. EngineError for a host without an address."""
    try:
        address = resolve(target.host, target.port)
    except OSError as error:
        raise EngineError(f"{target.base_url}: the host has no address ({error})") from None
    key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    host = target.base_url.removeprefix("http://")
    head = f"Host: {host}\r\nContent-Type: application/json\r\nAccept: */*\r\n{key}X-Request-Id: "
    path = f"POST /v1/{'chat/' if chat else ''}completions HTTP/1.1\r\n".encode()
    n = len(sequence)
    return Job(
        address=address, head=head.encode(), paths=[path] * len(bodies), bodies=list(bodies), expects=list(map(_expect, bodies)),
        sequence=array("q", sequence), due=array("q", bytes(8 * n)), body=array("q", range(n)), flags=array("q", bytes(8 * n)),
        limit_ns=round(limit_s * 1e9),
    )  # fmt: skip


def identity(target: Target, timeout_s: float = 2.0) -> dict[str, Any] | None:
    """What the server says it is, which stays while it lives: names of its models, when it started. None if nobody answers."""
    models = exchange(target, Request("GET", MODELS), limit_s=timeout_s)
    if not models.status:
        return None
    found: dict[str, Any] = {"status": models.status}
    with suppress(TypeError, KeyError, AttributeError):
        cards = models.json["data"]
        found["models"] = sorted(str(card["id"]) for card in cards)
        found["roots"] = sorted({PurePath(str(card["root"])).name for card in cards if card.get("root")})
    metrics = exchange(target, Request("GET", "/metrics"), limit_s=timeout_s)
    for line in metrics.body.decode("utf-8", "replace").splitlines() if metrics.status == 200 else ():
        if line.startswith("process_start_time_seconds"):
            found["started"] = line.rpartition(" ")[2]
    return found
