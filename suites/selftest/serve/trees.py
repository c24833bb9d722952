"""Servers of the fake tree, and who of them is still there: found by a mark in their environment, which no code under test reads."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.serve.process import ServerSpec, guardian

FAKE = Path(__file__).with_name("fake_tree.py")
MARK = "FAKE_TREE_OF"


def spec(plan: Mapping[str, Any], mark: str = "", **more: Any) -> ServerSpec:
    """A server that is this tree."""
    argv = (sys.executable, "-I", "-S", str(FAKE), json.dumps(plan), "{name}", "{nonce}")
    settings = {"start_timeout_s": 60.0, "term_s": 5.0, "env": {MARK: mark}, **more}
    return ServerSpec("argv", Path("/"), argv=argv, **settings)


def alive(mark: str) -> list[int]:
    """Processes that carry this mark, dead ones that nobody has reaped left out."""
    found, wanted = [], f"{MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                environment = Path("/proc", name, "environ").read_bytes()
            except OSError:
                continue
            if wanted in environment.split(b"\0"):
                found.append(int(name))
    return found


def ids(pids: Iterable[int]) -> list[tuple[int, int]]:
    """Numbers and start times: what a process is known by when it has overwritten its environment, as vLLM's do."""
    return [each.id for each in map(guardian.process, pids) if each is not None]


def gone(mark: str, within_s: float = 5.0, members: Iterable[tuple[int, int]] = ()) -> list[int]:
    """Who is left when all are gone, or when the time is over."""
    known, until = set(members), time.monotonic() + within_s
    while True:
        left = sorted({*alive(mark), *(pid for pid, _ in known & set(ids(pid for pid, _ in known)))})
        if not left or time.monotonic() > until:
            return left
        time.sleep(0.02)
