"""Which of many byte strings occur in which texts: hyperscan in machine code, or ``bytes.find`` with the same answer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from harness.audit.model import Texts

__all__ = ["find"]


def find(words: Sequence[bytes], texts: Texts) -> tuple[Any, Any, Any]:
    """Every occurrence of every word, ASCII case ignored: (word, text, end of it inside the text), ordered by word, then place.

    ``words``: distinct, not empty, in lower case where ASCII.
    """
    words = tuple(words)
    if not words or not len(texts.data):
        return np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.int64)
    low, high = int(texts.starts[0]), int(texts.starts[-1])
    text: Any
    which, ends = _occurrences(words, texts.data[low:high])
    ends = ends + low
    order = np.lexsort((ends, which))
    which, ends = which[order], ends[order]
    text = np.searchsorted(texts.starts, ends - 1, side="right") - 1
    sizes = np.array([len(word) for word in words])
    inside = ends - sizes[which] >= texts.starts[text]  # texts lie end to end: none that begins in the one before
    return which[inside], text[inside], ends[inside] - texts.starts[text[inside]]


def _occurrences(words: tuple[bytes, ...], data: Any) -> tuple[Any, Any]:
    try:
        database = _database(words)
    except ImportError:
        return _plain(words, data)
    found: list[tuple[int, int]] = []
    database.scan(memoryview(data), match_event_handler=lambda word, start, end, flags, context: found.append((word, end)))
    pairs = np.array(found, dtype=np.int64).reshape(-1, 2)
    return pairs[:, 0].astype(np.int32), pairs[:, 1]


@cache
def _database(words: tuple[bytes, ...]) -> Any:
    import hyperscan

    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    expressions = [b"".join(b"\\x%02x" % byte for byte in word) for word in words]
    database.compile(expressions=expressions, ids=list(range(len(words))), flags=[hyperscan.HS_FLAG_CASELESS] * len(words))
    return database


def _plain(words: tuple[bytes, ...], data: Any) -> tuple[Any, Any]:
    lowered = data.tobytes().lower()
    which, ends = [], []
    for number, word in enumerate(words):
        place = lowered.find(word)
        while place >= 0:
            which.append(number)
            ends.append(place + len(word))
            place = lowered.find(word, place + 1)
    return np.array(which, np.int32), np.array(ends, np.int64)
