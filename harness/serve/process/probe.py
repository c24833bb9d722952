"""What the kernel says of a server's ports, and one question at a time that is never waited for longer than is said."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import os
import select
import socket
import sys
import time
from typing import Any

from harness.serve.target import Target

__all__ = ["PROBE_S", "escaped", "get", "listening", "model_names"]

PROBE_S = 2.0  # a probe that takes longer is repeated


def listening(pid: int) -> list[tuple[str, int]]:
    """Address and port of each socket that this very process listens on."""
    inodes = set()
    with contextlib.suppress(OSError):
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                inodes.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
    found = []
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/net/{table}", encoding="ascii") as stream:
            for line in stream:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    address, _, port = fields[1].partition(":")
                    found.append((_address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """As /proc writes it: words of four bytes in the machine's own order."""
    raw = b"".join(int(text[i : i + 8], 16).to_bytes(4, sys.byteorder) for i in range(0, len(text), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


def get(target: Target, path: str, limit_s: float, watched: Any = None) -> tuple[int, bytes] | None:
    """One exchange. It ends early where ``watched``, what the guardian speaks through, has something to say."""
    until, raw = time.monotonic() + limit_s, b""
    key = f"Authorization: Bearer {target.key}\r\n" if target.key else ""
    request = f"GET {path} HTTP/1.1\r\nHost: {target.host}:{target.port}\r\n{key}Connection: close\r\n\r\n"
    try:
        with socket.create_connection((target.host, target.port), timeout=limit_s) as connection:
            connection.sendall(request.encode())
            while (left := until - time.monotonic()) > 0:
                ready = select.select([connection, *([watched] if watched else [])], [], [], left)[0]
                if connection not in ready:
                    return None
                data = connection.recv(65536)
                if not data:
                    break
                raw += data
            response = http.client.HTTPResponse(_Received(raw))  # type: ignore[arg-type]  # all it asks of a socket is a file
            response.begin()
            return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return None


class _Received(io.BytesIO):
    def makefile(self, *_: Any, **__: Any) -> io.BytesIO:
        return self


def model_names(body: bytes) -> list[str]:
    """vLLM lists each name as a model, llama.cpp's server all but the first as aliases of one."""
    try:
        return [str(name) for each in json.loads(body)["data"] for name in (each["id"], *each.get("aliases", ()))]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def escaped(text: str) -> str:
    """Text of a server, unable to speak to a terminal."""
    return "".join(ch if ch.isprintable() or ch == "\t" else ch.encode("unicode_escape").decode() for ch in text)
