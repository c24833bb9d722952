"""What processes take, and what crosses loopback, from ``/proc``: None where the system does not tell."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

__all__ = ["descendants", "loopback", "tree_cpu", "tree_pss"]

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def tree_cpu(pids: Iterable[int]) -> float | None:
    """Seconds of CPU that these processes took, with those children they have waited for; None if none of them is there."""
    found = [_stat(pid) for pid in pids]
    ticks = [sum(map(int, fields[11:15])) for fields in found if fields]
    return sum(ticks) / _TICK if ticks else None


def tree_pss(pids: Iterable[int]) -> int | None:
    """Bytes of memory of these processes, what several share counted once; None where it cannot be read."""
    sizes = []
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_bytes()
        except OSError:
            continue  # it has ended, or is another user's
        sizes += [int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith(b"Pss:")]
    return sum(sizes) if sizes else None


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the state on; the name before it may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None


def descendants(pid: int, without: frozenset[int]) -> list[int]:
    """A process and what it started, but for ``without`` and what those started."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc") if os.path.isdir("/proc") else ():
        fields = _stat(int(entry)) if entry.isdecimal() else None
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found: list[int] = []
    left = [pid]
    while left:
        now = left.pop()
        if now not in without:
            found.append(now)
            left += children.get(now, [])
    return found


def loopback() -> int | None:
    """Bytes received over loopback since the machine started; each that is sent is received."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/net/dev", encoding="ascii") as stream:
        for line in stream:
            name, _, numbers = line.partition(":")
            if name.strip() == "lo":
                return int(numbers.split()[0])
    return None
