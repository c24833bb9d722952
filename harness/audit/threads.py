"""Work dealt out to threads: what machine code does meanwhile holds no lock."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

__all__ = ["count", "each", "shares"]


def count() -> int:
    """How many threads are worth starting."""
    return min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def each(work: Callable[[int], Any], jobs: int) -> list[Any]:
    """``work(0)`` to ``work(jobs - 1)`` at once."""
    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(work, range(jobs)))


def shares(ends: Any, jobs: int) -> list[slice]:
    """Ranges of about equal work: ``ends`` are running totals, from 0."""
    cuts: Any = np.searchsorted(ends[1:-1], np.linspace(0, ends[-1], jobs + 1)[1:-1])
    return [slice(a, b) for a, b in itertools.pairwise([0, *cuts.tolist(), len(ends) - 1])]
