"""One request and its reply, whatever either is: for claims about what a server answers, which send much that is wrong on purpose.

Connections of their own, one after another, with the standard library alone; a load goes through ``load``.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

from harness.engines import sse
from harness.serve.target import Target

__all__ = ["CHAT", "MODELS", "TEXT", "Reply", "Request", "Send", "as_json", "exchange", "frames", "post"]

CHAT, TEXT, MODELS = "/v1/chat/completions", "/v1/completions", "/v1/models"
_MAX_REPLY = 64 << 20  # bytes


class Request(NamedTuple):
    """``body`` as it goes over the wire; ``key``: the right one, none, or a wrong one."""

    method: str
    path: str
    body: bytes = b""
    key: str = "right"


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. ``status`` 0: nothing did, and ``error`` says why. ``at`` is the wall clock's second, for ``created``."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    error: str = ""
    at: float = 0.0

    @property
    def json(self) -> Any:
        """The body, None where it is no JSON."""
        return as_json(self.body)

    @property
    def kind(self) -> str:
        """The content type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    def shown(self, limit: int = 300) -> str:
        """For a person: the status and the beginning of the body."""
        said = self.body[:limit].decode("utf-8", errors="replace")
        return f"{self.status} {said}" if self.status else f"no answer: {self.error}"


def exchange(target: Target, request: Request, *, limit_s: float = 60.0) -> Reply:
    """The reply to one request; an error of the network is a reply too. ``limit_s`` bounds each wait for bytes."""
    keys = {"right": target.key, "none": "", "wrong": f"{target.key}-not"}
    headers = {"Content-Type": "application/json", "Connection": "close"}
    if key := keys[request.key]:
        headers["Authorization"] = f"Bearer {key}"
    connection = http.client.HTTPConnection(target.host, target.port, timeout=limit_s)
    try:
        connection.request(request.method, request.path, body=request.body or None, headers=headers)
        reply = connection.getresponse()
        body = reply.read(_MAX_REPLY)
        if reply.length:  # read() with a limit does not say that the body was cut off
            raise http.client.IncompleteRead(body, reply.length)
        return Reply(reply.status, {name.lower(): value for name, value in reply.getheaders()}, body, "", time.time())
    except (OSError, http.client.HTTPException) as error:
        said = f"{type(error).__name__}: {error}"
        return Reply(0, {}, b"", said.replace(target.key, "***") if target.key else said, time.time())
    finally:
        connection.close()


def as_json(body: bytes) -> Any:
    """What a body says, None where it is no JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def frames(body: bytes) -> list[str]:
    """The ``data:`` of each event of a whole stream, in order."""
    payloads, _, _ = sse.split(body)
    return [payload.decode("utf-8", errors="replace") for payload in payloads]


def post(path: str, body: Mapping[str, Any]) -> Request:
    """A request that says ``body``."""
    return Request("POST", path, json.dumps(body).encode())


class Send(Protocol):
    """``exchange``, or what stands in front of it."""

    def __call__(self, target: Target, request: Request, *, limit_s: float = 60.0) -> Reply:
        """The reply to one request."""
        ...
