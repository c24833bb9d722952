"""Drawings of served models: the slow end of a load, what it was like over time, the curve up to the knee, blocks of runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.markup import outcome_class
from harness.report.plots import Interval, Scale, line, mark, rect, scale_over, svg, text_at, x_axis, y_axis
from harness.report.text import number, one_line, span

__all__ = ["Block", "Lane", "Limit", "Line", "Tail", "knee_curve", "lanes", "paired", "stacked", "tail"]

_WIDTH, _LEFT, _RIGHT = 384.0, 56.0, 372.0  # of a drawing that stands beside another
_DRAWN = 180  # points of a line


# --- the slow end -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limit:
    """An objective: at most ``share`` of all may be over ``at`` seconds; what was seen, with its limits and the claim's outcome."""

    name: str
    at: float
    share: float
    seen: float
    low: float | None
    high: float | None
    outcome: str


@dataclass(frozen=True, slots=True)
class Tail:
    """Seconds of each complete request, ascending, how many failed, and what was promised."""

    values: tuple[float, ...]
    failed: int
    limits: tuple[Limit, ...]

    @property
    def n(self) -> int:
        """All requests: the denominator."""
        return len(self.values) + self.failed


def tail(shown: Tail, title: str) -> str:
    """The share of all requests that took longer than so many seconds, or failed, both axes logarithmic.

    The curve has to pass below the corner of each objective. Failures rank above every latency: it never falls below their share.
    """
    top, bottom = 30.0, 240.0
    n = max(1, shown.n)
    up = Scale(max(1e-6, min([0.5 / n, *(each.share / 2 for each in shown.limits)])), 1.0, bottom, top, log=True)
    across = scale_over([*(max(1e-6, v) for v in shown.values), *(each.at for each in shown.limits)], _LEFT, _RIGHT, log=True)
    body = [text_at(4, 14, one_line(title, 48), "title"), *x_axis(across, top, bottom, "seconds"), *_shares(up)]
    for each in shown.limits:
        body += _corner(each, across, up, bottom)
    body += _falling(shown, across, up, bottom)
    for row, each in enumerate(shown.limits):
        body += [*_seen(each, across, up), *_named(each, across, bottom - 8 - 14 * row)]
    said = "; ".join(f"{e.name} at {number(e.at)} s: {e.seen:.2%} over, {e.share:.2%} allowed, {e.outcome}" for e in shown.limits)
    gone = f", {shown.failed} failed" if shown.failed else ""
    return svg(_WIDTH, bottom + 42, f"{title}: share of {shown.n} requests that were slower{gone}. {said}", body, "half")


def _shares(up: Scale) -> list[str]:
    parts = []
    for share, name in ((1.0, "all"), (0.5, "p50"), (0.1, "p90"), (0.05, "p95"), (0.01, "p99"), (0.001, "p99.9")):
        if share >= up.low:
            parts += [line(_LEFT, up(share), _RIGHT, up(share), "grid"), text_at(_LEFT - 6, up(share) + 4, name, "tick", "end")]
    middle = (up.start + up.end) / 2
    return [*parts, f'<text class="axis" text-anchor="middle" transform="translate(12 {middle:.1f}) rotate(-90)">slower or failed</text>']


def _falling(shown: Tail, across: Scale, up: Scale, bottom: float) -> list[str]:
    """Steps, thinned so that the slow end keeps its points; a plateau and a cross where requests failed."""
    done, n = len(shown.values), max(1, shown.n)
    places = range(done)
    if done > _DRAWN:  # evenly by the logarithm of the rank from the slow end
        places = sorted({done - max(1, round(done ** (k / (_DRAWN - 1)))) for k in range(_DRAWN)})  # type: ignore[assignment]
    points = [(across.start, up(1.0))]
    for i in places:
        x, share = across(max(1e-6, shown.values[i])), (n - i - 1) / n
        points += [(x, points[-1][1]), (x, up(share) if share > 0 else bottom)]
    parts = []
    if shown.failed:
        points.append((across.end, points[-1][1] if done else up(1.0)))
        x, y = points[-1]
        parts = [line(x - 5, y - 5, x + 5, y + 5, "strike wrong"), line(x - 5, y + 5, x + 5, y - 5, "strike wrong")]
        parts.append(text_at(x - 8, y + 16, f"{shown.failed} failed", "label", "end"))
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline class="curve c0" points="{path}"/>', *parts]


def _corner(each: Limit, across: Scale, up: Scale, bottom: float) -> list[str]:
    x, y = across(each.at), up(each.share)
    return [rect(x, y, across.end - x, bottom - y, "good"), line(x, up.end, x, bottom, "bound"), line(x, y, across.end, y, "bound")]


def _seen(each: Limit, across: Scale, up: Scale) -> list[str]:
    x, kind = across(each.at), f"bar o-{outcome_class(each.outcome)}"
    bar = []
    if each.low is not None and each.high is not None:
        low, high = up(max(each.low, up.low)), up(max(each.high, up.low))
        bar = [line(x, low, x, high, kind), *(line(x - 4, y, x + 4, y, kind) for y in (low, high))]
    return [*bar, mark(x, up(max(each.seen, up.low)), each.outcome, 4.5)]


def _named(each: Limit, across: Scale, y: float) -> list[str]:
    """Below the line, which falls to the right: there is room at the left."""
    x, text = across(each.at), f"{each.name} ≤ {number(each.at)} s"
    left = x > across.start + 110
    return [text_at(x - 5 if left else x + 5, y, text, "tick", "end" if left else "start")]


# --- over the time of a load ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Line:
    """A line over seconds, already thin."""

    label: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Lane:
    """Lines that share an axis from zero; ``most`` is its end where that is known."""

    name: str
    lines: Sequence[Line]
    most: float | None = None


def lanes(rows: Sequence[Lane], arrivals: Sequence[tuple[float, int, int]], width_s: float, window: tuple[float, float], title: str) -> str:
    """Lanes above each other over the seconds of a load, the window shaded; below them arrivals: (start, all, those that failed) a bin."""
    width, left, right, top, tall = 920.0, 64.0, 740.0, 10.0, 74.0
    seconds = [t for row in rows for one in row.lines for t, _ in one.points] + [x for at, *_ in arrivals for x in (at, at + width_s)]
    across = Scale(min(seconds, default=0.0), max(seconds, default=1.0), left, right)
    bottom = top + (tall + 14) * (len(rows) + 1) - 14
    body = [rect(across(window[0]), top, across(window[1]) - across(window[0]), bottom - top, "good")]
    body += x_axis(across, top, bottom, "seconds after the origin; shaded: the window")
    for i, row in enumerate(rows):
        body += _lane(row, across, top + (tall + 14) * i, tall)
    body += _arrivals(arrivals, width_s, across, bottom - tall, tall)
    said = " · ".join(f"{one.label}: at most {number(max((v for _, v in one.points), default=None))}" for row in rows for one in row.lines)
    return svg(width, bottom + 42, f"{title}. {said}", body, "wide")


def _lane(row: Lane, across: Scale, top: float, tall: float) -> list[str]:
    most = row.most or max((v for one in row.lines for _, v in one.points), default=0.0) or 1.0
    up = Scale(0.0, most, top + tall, top)
    body = [*_heights(up, across), text_at(across.end + 10, top + 10, row.name, "tick")]
    for i, one in enumerate(row.lines):
        path = " ".join(f"{across(t):.1f},{up(v):.1f}" for t, v in one.points)
        y = top + 26 + 15 * i
        body += [f'<polyline class="curve c{i}" points="{path}"/>', line(across.end + 10, y, across.end + 34, y, f"curve c{i}")]
        body.append(text_at(across.end + 40, y + 4, one.label, "label"))
    return body


def _heights(up: Scale, across: Scale) -> list[str]:
    """Zero, and the largest round number."""
    ticks = [0.0, max((t for t in up.ticks() if t > 0), default=up.high)]
    return [
        part for t in ticks for part in (line(across.start, up(t), across.end, up(t), "grid" if t else "zero"),
                                         text_at(across.start - 6, up(t) + 4, number(float(f"{t:.6g}")), "tick", "end"))
    ]  # fmt: skip


def _arrivals(bins: Sequence[tuple[float, int, int]], width_s: float, across: Scale, top: float, tall: float) -> list[str]:
    up = Scale(0.0, max((n for _, n, _ in bins), default=0) or 1, top + tall, top)
    body = [*_heights(up, across), text_at(across.end + 10, top + 10, f"arrivals in {number(width_s)} s", "tick")]
    for at, n, failed in bins:
        x, thick = across(at), max(0.8, across(at + width_s) - across(at) - 0.6)
        body.append(rect(x, up(n), thick, up(0) - up(n), "dot"))
        if failed:
            body.append(rect(x, up(failed), thick, up(0) - up(failed), "mark o-fails"))
    y = top + 26
    if any(failed for *_, failed in bins):
        body += [rect(across.end + 10, y - 6, 24, 8, "mark o-fails"), text_at(across.end + 40, y + 2, "that failed", "label")]
    return body


# --- the ceiling ------------------------------------------------------------------------------


def knee_curve(
    rows: Sequence[Line], dots: Sequence[tuple[float, float]], band: tuple[float, float] | None, title: str, *, log: bool = False
) -> str:
    """Lines over requests at once (doubling), single runs as dots; shaded: where the knee lies."""
    top, bottom = 75.0, 265.0
    over = [x for one in rows for x, _ in one.points] + [x for x, _ in dots]
    values = [v for one in rows for _, v in one.points if v > 0] + [v for _, v in dots if v > 0]
    across = Scale(max(0.5, min(over, default=1.0)), max(2.0, max(over, default=2.0)), _LEFT + 8, _RIGHT - 8, log=True)
    up = scale_over(values, bottom, top, log=True) if log else Scale(0.0, 1.08 * max(values, default=1.0), bottom, top)
    body = [text_at(4, 14, one_line(title, 52), "title")]
    if band:
        body.append(rect(across(band[0]), top, across(band[1]) - across(band[0]), bottom - top, "good"))
        body.append(line(across(band[0]), top, across(band[0]), bottom, "bound"))
    body += [*y_axis(up, _LEFT, _RIGHT, "seconds" if log else "tokens a second"), *_doublings(across, bottom)]
    body += [f'<circle class="dot" cx="{across(x):.1f}" cy="{up(v):.1f}" r="3"/>' for x, v in dots if v > 0]
    for i, one in enumerate(rows):
        places = [(across(x), up(v)) for x, v in one.points if v > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        body += [f'<polyline class="curve c{i}" points="{path}"/>']
        body += [f'<circle class="at c{i}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
        y = 30.0 + 15.0 * i
        body += [line(_LEFT, y, _LEFT + 24, y, f"curve c{i}"), text_at(_LEFT + 30, y + 4, one.label, "label")]
    said = " · ".join(f"{one.label}: " + ", ".join(f"{number(v)} at {x:g}" for x, v in one.points) for one in rows)
    return svg(_WIDTH, bottom + 42, f"{title}. {said}", body, "half")


def _doublings(across: Scale, bottom: float) -> list[str]:
    ticks = [2.0**i for i in range(20) if across.low <= 2.0**i <= across.high]
    parts = [text_at(across(t), bottom + 16, number(int(t)), "tick", "middle") for t in ticks]
    return [*parts, text_at((across.start + across.end) / 2, bottom + 34, "requests at once", "axis", "middle")]


# --- blocks of runs ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """The runs of a block, of the old arm and of the new one."""

    name: str
    old: tuple[float, ...]
    new: tuple[float, ...]


def paired(blocks: Sequence[Block], shown: Interval, title: str) -> str:
    """A row a block: its runs, old hollow and new filled, joined between their geometric means."""
    top, row = 30.0, 22.0
    bottom = top + row * len(blocks)
    across = scale_over([x for b in blocks for x in (*b.old, *b.new)], _LEFT + 30, _RIGHT, log=True)
    body = [text_at(4, 14, one_line(title, 56), "title"), *x_axis(across, top, bottom, "each run; hollow: old, filled: new")]
    for i, block in enumerate(blocks):
        y = top + row * (i + 0.5)
        ends = [across(math.exp(math.fsum(map(math.log, arm)) / len(arm))) for arm in (block.old, block.new) if arm]
        body += [text_at(4, y + 4, one_line(block.name, 12), "tick")]
        body += [line(ends[0], y, ends[1], y, "median")] if len(ends) == 2 else []
        body += [f'<circle class="mark beaten" cx="{across(x):.1f}" cy="{y - 3:.1f}" r="4"/>' for x in block.old]
        body += [f'<circle class="at c0" cx="{across(x):.1f}" cy="{y + 3:.1f}" r="4"/>' for x in block.new]
    return svg(_WIDTH, bottom + 42, f"{title}. {shown.said}; {len(blocks)} blocks {span(shown.low, shown.high)}", body, "half")


# --- counts -----------------------------------------------------------------------------------


def stacked(rows: Sequence[tuple[str, Sequence[int]]], kinds: Sequence[tuple[str, str]], title: str) -> str:
    """A bar a row, as long for each, split by kind: (name, outcome whose colour it has); the counts stand beside it."""
    width, left, right, tall, top = 920.0, 250.0, 640.0, 26.0, 28.0
    body, x = [], left
    for name, kind in kinds:
        body += [rect(x, 6, 22, 10, f"mark o-{kind}"), text_at(x + 28, 15, name, "tick")]
        x += 46.0 + 7.0 * len(name)
    for i, (label, counts) in enumerate(rows):
        y, at, total = top + tall * i, left, max(1, sum(counts))
        body.append(text_at(4, y + 15, label, "label"))
        for n, (_, kind) in zip(counts, kinds, strict=True):
            wide = (right - left) * n / total
            body += [rect(at, y + 3, wide, tall - 8, f"mark o-{kind}")] if n else []
            at += wide
        shown = ", ".join(f"{name}: {n}" for n, (name, _) in zip(counts, kinds, strict=True) if n)
        body.append(text_at(right + 10, y + 15, shown, "value"))
    said = " · ".join(f"{label}: " + ", ".join(map(str, counts)) for label, counts in rows)
    return svg(width, top + tall * len(rows) + 6, f"{title}. {said}", body, "wide")
