"""Drawings as inline SVG: numbers in, markup out. Colours are classes, so that a page can be light or dark.

Every drawing is an image with a name (``role="img"``); what it shows stands in a table too. Only
numbers and escaped text reach the markup.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from harness.report.markup import outcome_class
from harness.report.text import number, one_line, signed, span

__all__ = [
    "KINDS",
    "Interval",
    "Scale",
    "Series",
    "Strip",
    "bin_name",
    "by_position",
    "forest",
    "line",
    "mark",
    "mini",
    "quartiles",
    "rect",
    "scale_over",
    "spread",
    "strips",
    "svg",
    "text_at",
    "x_axis",
    "y_axis",
]


# --- axes -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scale:
    """Data to pixels; ``log`` where ratios are compared."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """The pixel of ``value``, kept inside the axis."""
        low, high, at = (self._flat(x) for x in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return self.start + min(1.0, max(0.0, share)) * (self.end - self.start)

    def _flat(self, value: float) -> float:
        return math.log(max(value, 1e-12)) if self.log else value

    def ticks(self) -> list[float]:
        """Four to eight round numbers."""
        return _decades(self.low, self.high) if self.log else _round_steps(self.low, self.high)


def scale_over(values: Iterable[float], start: float, end: float, *, log: bool = False) -> Scale:
    """An axis over all ``values``, with a little air at both ends."""
    seen = [v for v in values if math.isfinite(v) and (v > 0 or not log)] or [1.0]
    low, high = min(seen), max(seen)
    if log:
        air = max((math.log(high) - math.log(low)) * 0.08, 0.02)
        return Scale(low * math.exp(-air), high * math.exp(air), start, end, True)
    air = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return Scale(low - air, high + air, start, end)


def _round_steps(low: float, high: float) -> list[float]:
    raw = (high - low) / 5
    if not raw > 0:
        return [low]
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next((unit * m for m in (1, 2, 2.5, 5, 10) if unit * m >= raw), unit * 10)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [i * step for i in range(first, last + 1)]


def _decades(low: float, high: float) -> list[float]:
    span_ = math.log10(high / low)
    steps = (1,) if span_ > 2.5 else (1, 2, 5) if span_ > 0.6 else ()
    if not steps:
        return [t for t in _round_steps(low, high) if t > 0]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [m * 10.0**e for e in powers for m in steps if low <= m * 10.0**e <= high]


# --- small pieces of markup -------------------------------------------------------------------


def svg(width: float, height: float, name: str, body: Iterable[str], kind: str) -> str:
    """An image of that size in pixels, with a name for those who cannot see it."""
    label = escape(one_line(name, 400))
    return (
        f'<svg class="plot {kind}" role="img" aria-label="{label}" width="{width:g}" height="{height:g}" '
        f'viewBox="0 0 {width:g} {height:g}" xmlns="http://www.w3.org/2000/svg">{"".join(body)}</svg>'
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    """A line of the class ``kind``, in pixels."""
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def text_at(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> str:
    """One line of text, escaped; ``anchor`` is start, middle or end."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(one_line(text, 80))}</text>'


def rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    """A box of the class ``kind``, in pixels."""
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" height="{max(0.0, height):.1f}"/>'


def mark(x: float, y: float, outcome: str, size: float = 5) -> str:
    """A shape per outcome: colour alone would say nothing to some readers and to a printer."""
    kind = f"mark o-{outcome_class(outcome)}"
    if outcome == "holds":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    corners = {
        "fails": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
        "inconclusive": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    }.get(outcome, ((0, -1.2), (1.2, 1), (-1.2, 1)))
    points = " ".join(f"{x + dx * size:.1f},{y + dy * size:.1f}" for dx, dy in corners)
    return f'<polygon class="{kind}" points="{points}"/>'


def x_axis(scale: Scale, top: float, bottom: float, title: str) -> list[str]:
    """Grid lines with their numbers below, and the title of the axis."""
    parts = []
    for tick in scale.ticks():
        x = scale(tick)
        parts += [line(x, top, x, bottom, "grid"), text_at(x, bottom + 16, number(_tidy(tick)), "tick", "middle")]
    return [*parts, text_at((scale.start + scale.end) / 2, bottom + 34, title, "axis", "middle")]


def y_axis(scale: Scale, left: float, right: float, title: str) -> list[str]:
    """Grid lines with their numbers at the left, and the title of the axis."""
    parts = []
    for tick in scale.ticks():
        y = scale(tick)
        kind = "zero" if _tidy(tick) == 0 else "grid"
        parts += [line(left, y, right, y, kind), text_at(left - 6, y + 4, number(_tidy(tick)), "tick", "end")]
    middle = (scale.start + scale.end) / 2
    name = escape(one_line(title, 80))
    parts.append(f'<text class="axis" text-anchor="middle" transform="translate(14 {middle:.1f}) rotate(-90)">{name}</text>')
    return parts


def _tidy(tick: float) -> float:
    """0.3 rather than 0.30000000000000004, and never minus zero."""
    return float(f"{tick:.6g}") + 0.0


# --- an interval with its bound ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its limits; ``good`` is the side of the bound that was claimed."""

    label: str
    outcome: str
    estimate: float
    low: float | None
    high: float | None
    limits: tuple[float, ...]
    good: str = ""  # "above", "below", "between"
    log: bool = False

    @property
    def numbers(self) -> list[float]:
        """Everything that must fit on an axis."""
        return [x for x in (self.estimate, self.low, self.high, *self.limits) if x is not None]

    @property
    def said(self) -> str:
        """The same in words."""
        ends = " and ".join(number(x) for x in self.limits)
        bound = f"; bound at {ends}" if ends else ""
        return f"{self.label}: {self.outcome.replace('_', ' ')}, {number(self.estimate)} {span(self.low, self.high)}{bound}"


def mini(interval: Interval) -> str:
    """An interval in one table cell, on an axis of its own."""
    width, height, middle = 168.0, 26.0, 13.0
    log = interval.log and min(interval.numbers) > 0
    scale = scale_over(interval.numbers, 6, width - 6, log=log)
    body = _good_side(interval, scale, 3, height - 3)
    body += [line(scale(x), 1, scale(x), height - 1, "bound") for x in interval.limits]
    return svg(width, height, interval.said, [*body, *_bar(interval, scale, middle)], "mini")


def _good_side(interval: Interval, scale: Scale, top: float, bottom: float) -> list[str]:
    """Where the interval has to lie for the claim to hold."""
    if not interval.limits or not interval.good:
        return []
    ends = {
        "above": (scale(interval.limits[0]), scale.end),
        "below": (scale.start, scale(interval.limits[0])),
        "between": (scale(interval.limits[0]), scale(interval.limits[-1])),
    }[interval.good]
    return [rect(ends[0], top, ends[1] - ends[0], bottom - top, "good")]


def _bar(interval: Interval, scale: Scale, y: float) -> list[str]:
    parts = []
    if interval.low is not None and interval.high is not None:
        low, high = scale(interval.low), scale(interval.high)
        kind = f"bar o-{outcome_class(interval.outcome)}"
        parts = [line(low, y, high, y, kind), *(line(x, y - 4, x, y + 4, kind) for x in (low, high))]
    return [*parts, mark(scale(interval.estimate), y, interval.outcome, 4.5)]


def forest(intervals: Sequence[Interval], title: str) -> str:
    """All intervals on one axis, zero marked, each with its own bound."""
    width, label, row, top = 920.0, 230.0, 30.0, 8.0
    bottom = top + row * len(intervals)
    scale = scale_over([0.0, *(x for i in intervals for x in i.numbers)], label, width - 236)
    body = [*x_axis(scale, top, bottom, title), line(scale(0), top, scale(0), bottom, "zero")]
    for k, interval in enumerate(intervals):
        y = top + row * (k + 0.5)
        body += _good_side(interval, scale, y - 11, y + 11)
        body += [line(scale(x), y - 11, scale(x), y + 11, "bound") for x in interval.limits]
        shown = f"{signed(interval.estimate)} {span(interval.low, interval.high)}"
        body += [text_at(4, y + 4, interval.label, "label"), *_bar(interval, scale, y), text_at(width - 226, y + 4, shown, "value")]
    return svg(width, bottom + 42, f"{title}. " + " · ".join(i.said for i in intervals), body, "wide")


# --- distributions ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Strip:
    """Values of one build, one per document."""

    label: str
    values: tuple[float, ...]
    mean: float | None
    limits: tuple[float, ...]


def strips(rows: Sequence[Strip], title: str) -> str:
    """One dot per document on a log axis, with quartiles, mean and bound. Zeros lie at the left edge."""
    width, label, row, top = 920.0, 150.0, 84.0, 8.0
    bottom = top + row * len(rows)
    every = [v for r in rows for v in (*r.values, *r.limits, r.mean or 0.0)]
    scale = scale_over(every, label + 10, width - 20, log=True)
    body = x_axis(scale, top, bottom, title)
    for k, strip in enumerate(rows):
        body += _strip(strip, scale, top + row * (k + 0.5))
    said = " · ".join(f"{r.label}: median {number(quartiles(r.values)[1])}, mean {number(r.mean)}" for r in rows)
    return svg(width, bottom + 42, f"{title}. {said}", body, "wide")


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median, upper quartile."""
    if len(values) < 2:
        return (values[0],) * 3 if values else (0.0, 0.0, 0.0)
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def _strip(strip: Strip, scale: Scale, y: float) -> list[str]:
    low, middle, high = (scale(q) for q in quartiles(strip.values))
    # The golden ratio spreads neighbours evenly without randomness.
    dots = (
        f'<circle class="dot" cx="{scale(v):.1f}" cy="{y - 24 + 48 * ((i * 0.618034) % 1):.1f}" r="2"/>'
        for i, v in enumerate(sorted(strip.values))
    )
    body = [text_at(4, y + 4, strip.label, "label"), *dots]
    body += [rect(low, y - 30, high - low, 60, "box"), line(middle, y - 30, middle, y + 30, "median")]
    body += [line(scale(x), y - 38, scale(x), y + 38, "bound") for x in strip.limits]
    if strip.mean is not None:
        body.append(mark(scale(strip.mean), y, "inconclusive", 5).replace("o-inconclusive", "mean"))
    return body


# --- by position ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Series:
    """One line: a mean per bin, None where a bin is empty. Bin i holds the positions 2^i to 2^(i+1) - 1."""

    label: str
    means: tuple[float | None, ...]


def bin_name(i: int) -> str:
    """1, 2–3, 4–7 ..."""
    return "1" if i == 0 else f"{2**i}–{2 ** (i + 1) - 1}"


def by_position(rows: Sequence[Series], over: Iterable[float], title: str) -> str:
    """A line per build over bins of positions, log scales, ``over`` on the axis; each named at its end, on the right."""
    width, left, right, top = 920.0, 64.0, 740.0, 10.0
    bottom = top + max(190.0, 16.0 * len(rows))
    count = max(len(r.means) for r in rows)
    across = Scale(0, max(1, count - 1), left + 14, right)
    up = scale_over(over, bottom, top, log=True)
    body = y_axis(up, left, right, "KL, nats (log)")
    body += [text_at(across(i), bottom + 16, bin_name(i), "tick", "middle") for i in range(count)]
    body.append(text_at((left + right) / 2, bottom + 34, "position in the document", "axis", "middle"))
    drawn = [[(across(i), up(v)) for i, v in enumerate(r.means) if v] for r in rows]
    for i, points in enumerate(drawn):
        body += _line_of(i, points)
    for i, y in spread([(points[-1][1] if points else bottom) for points in drawn], bottom):
        x, at = drawn[i][-1] if drawn[i] else (right, bottom)
        body += [line(x, at, right + 22, y, "leader"), line(right + 24, y, right + 48, y, f"curve c{i % KINDS}")]
        body.append(text_at(right + 54, y + 4, one_line(rows[i].label, 18), "label"))
    said = " · ".join(f"{r.label}: " + ", ".join(number(v) for v in r.means) for r in rows)
    return svg(width, bottom + 42, f"{title}. {said}", body, "wide")


KINDS = 12  # curves that differ in dash or colour


def _line_of(i: int, points: Sequence[tuple[float, float]]) -> list[str]:
    dots = [f'<circle class="at c{i % KINDS}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline class="curve c{i % KINDS}" points="{path}"/>', *dots] if points else []


def spread(wanted: Sequence[float], bottom: float) -> list[tuple[int, float]]:
    """Heights for names in the order of their lines, at least a line apart, none below the axis."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    placed: list[tuple[int, float]] = []
    for rank, i in enumerate(order):
        last = bottom - 15.0 * (len(order) - 1 - rank)  # room for those that follow
        first = placed[-1][1] + 15.0 if placed else 10.0
        placed.append((i, max(first, min(wanted[i], last))))
    return placed
