"""A line that says what, how far and how long to go; silent when nobody is looking."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TextIO

__all__ = ["Progress", "clock", "to_terminal"]

# done, total -> None; what long work calls as it goes
Progress = Callable[[str, int, int], None]


def to_terminal(stream: TextIO | None = None, every_s: float = 0.5) -> Progress:
    """A Progress that rewrites one line of ``stream`` (stderr), or does nothing if it is no terminal."""
    out = stream or sys.stderr
    if not out.isatty():
        return lambda task, done, total: None
    started: dict[str, float] = {}
    last = [0.0]

    def show(task: str, done: int, total: int) -> None:
        now = time.monotonic()
        kind = task.partition(":")[0]  # what stands behind the colon may change as it goes: "load: 80/s, p99 41 ms"
        begun = started.setdefault(kind, now)
        if done >= total:
            out.write("\r\x1b[K")
            started.pop(kind, None)
        elif now - last[0] >= every_s:
            last[0] = now
            left = (now - begun) / done * (total - done) if done else None
            eta = f", {clock(left)} to go" if left is not None else ""
            out.write(f"\r\x1b[K  {task}: {done}/{total}{eta}")
        out.flush()

    return show


def clock(seconds: float) -> str:
    """A duration for people: seconds, or minutes."""
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
