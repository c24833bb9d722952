"""Bars: how rows are spread over lengths, clusters over sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.plots import Scale, line, rect, svg, text_at
from harness.report.text import number, one_line

__all__ = ["Histogram", "histogram", "sizes"]

_LINE = 15.0  # pixels, the height of a line of text


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts over bins: bin i begins at ``edges[i]`` and ends where the next begins; the last has no end."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    def place(self, value: float) -> float:
        """Where a value lies: 2.5 is the middle of the third bin. Inside a bin that begins at 1 or later on a log scale."""
        i = max((i for i, edge in enumerate(self.edges) if edge <= value), default=0)
        low = self.edges[i]
        high = self.edges[i + 1] if i + 1 < len(self.edges) else max(2.0 * low, 1.0)
        share = math.log(max(value, low) / low) / math.log(high / low) if low >= 1 else (value - low) / (high - low)
        return i + min(1.0, max(0.0, share))


def histogram(shown: Histogram, marks: Sequence[tuple[str, int]], limit: int | None, title: str, unit: str) -> str:
    """Bars of equal width, for edges that grow by a factor; ``marks`` are named above, the ``limit`` is dashed."""
    at = [*(x for _, x in marks), *([limit] if limit is not None else [])]
    filled = [i for i, n in enumerate(shown.counts) if n] + [min(len(shown.counts) - 1, int(shown.place(x))) for x in at]
    first, last = max(0, min(filled) - 1), min(len(shown.counts), max(filled) + 2)
    named = [(f"{name} {number(x)}", x, "zero") for name, x in marks]
    named += [(f"context {number(limit)}", limit, "bound")] if limit is not None else []
    named.sort(key=lambda mark: mark[1])
    width, left, right, top = 384.0, 54.0, 300.0, 26.0 + _LINE * len(named)  # room for names at the right
    bottom = top + 140.0
    across, up = Scale(first, last, left, right), Scale(0, max(4, *shown.counts), bottom, top)
    body = [text_at(4, 14, one_line(title, 48), "title"), *_rows_axis(up, left, right)]
    for i in range(first, last):
        x, y = across(i), up(shown.counts[i])
        body.append(rect(x + 0.5, y, across(i + 1) - x - 1, bottom - y, "dot"))
    every = max(1, math.ceil((last - first) * 48 / (right - left)))
    ticks = range(first, last, every)
    body += [text_at(across(i), bottom + 16, _short(shown.edges[i]), "tick", "middle") for i in ticks]
    body.append(text_at((left + right) / 2, bottom + 34, unit, "axis", "middle"))
    for row, (name, value, kind) in enumerate(named):
        x, y = across(shown.place(value)), 32.0 + _LINE * row
        body += [line(x, y - 8, x, bottom, kind), text_at(x + 4, y, name, "tick")]
    said = ", ".join(name for name, *_ in named)
    return svg(width, bottom + 42, f"{title}, by {unit}. {said}", body, "half")


def _rows_axis(up: Scale, left: float, right: float) -> list[str]:
    parts = [text_at(left - 6, up(up.high) - 8, "rows", "axis", "end")]
    for tick in up.ticks():
        if tick == int(tick):
            y = up(tick)
            name = f"{tick / 1e6:g}M" if tick >= 1e6 else f"{tick / 1e3:g}k" if tick >= 1e4 else number(int(tick))
            parts += [line(left, y, right, y, "grid" if tick else "zero"), text_at(left - 6, y + 4, name, "tick", "end")]
    return parts


def _short(edge: float) -> str:
    """1536, 3M: edges are powers of two, and room is short."""
    if edge >= 2**20:
        return f"{edge / 2**20:.3g}M"
    return number(int(edge) if edge == int(edge) else edge)


def sizes(counts: Sequence[tuple[str, int]], title: str) -> str:
    """One bar for each size, as long as the logarithm of how many there are; the number stands beside it."""
    width, left, right, row, top = 384.0, 96.0, 318.0, 20.0, 26.0
    across = Scale(0, math.log1p(max(n for _, n in counts)), left, right)
    body = [text_at(4, 14, title, "title")]
    for i, (name, n) in enumerate(counts):
        y = top + row * i
        end = across(math.log1p(n))
        body += [text_at(left - 6, y + 13, one_line(name, 14), "tick", "end"), rect(left, y + 2, end - left, row - 5, "dot")]
        body.append(text_at(end + 6, y + 13, number(n), "label"))
    said = ", ".join(f"{name}: {number(n)}" for name, n in counts)
    return svg(width, top + row * len(counts) + 4, f"{title}, clusters by rows in each. {said}", body, "half")
