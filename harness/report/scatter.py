"""Quality against cost: one panel, every build named beside its mark, no two names on one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.markup import outcome_class
from harness.report.plots import Interval, Scale, line, scale_over, svg, text_at, x_axis, y_axis
from harness.report.text import SYMBOLS, number, one_line, span

__all__ = ["SHAPES", "Box", "Mark", "names", "panel", "shape_at"]

SHAPES = ("circle", "square", "diamond", "triangle", "pentagon", "hexagon")  # one per reference
_CORNERS = {"square": (4, 45.0), "diamond": (4, 0.0), "triangle": (3, -90.0), "pentagon": (5, -90.0), "hexagon": (6, 0.0)}
_LETTER, _LINE = 7.7, 14.0  # pixels: width of a letter, height of a line


@dataclass(frozen=True, slots=True)
class Mark:
    """A build: quality upwards, cost across; ``shape`` counts the groups, ``beaten`` is a build that is dominated."""

    quality: Interval
    cost: tuple[float | None, float, float | None]  # lower limit, estimate, upper limit
    shape: int = 0
    beaten: bool = False


@dataclass(frozen=True, slots=True)
class Box:
    """Where a name is written."""

    left: float
    top: float
    width: float
    height: float = _LINE

    def meets(self, other: Box) -> bool:
        """Whether two boxes share more than an edge."""
        across = self.left < other.left + other.width and other.left < self.left + self.width
        return across and self.top < other.top + other.height and other.top < self.top + self.height


def panel(
    marks: Sequence[Mark], up_over: Sequence[float], title: str, x_title: str, y_title: str, *, ratio: bool = False, less: bool = False
) -> str:
    """One panel; ``up_over`` is what the shared axis of quality must hold; if ``less`` is better it is turned over.

    At a ratio of one lies the reference.
    """
    width, left, top = 384.0, 58.0, 30.0
    bottom = top + max(230.0, _LINE * 1.3 * len(marks))
    costs = [x for m in marks for x in m.cost if x is not None]
    across = scale_over([*costs, *([1.0] if ratio else [])], left + 10, width - 14)
    up = scale_over([0.0, *up_over], *((top, bottom) if less else (bottom, top)))
    body = [text_at(left, 16, title, "title"), *x_axis(across, top, bottom, x_title), *y_axis(up, left, width - 6, y_title)]
    if ratio:
        body.append(line(across(1.0), top, across(1.0), bottom, "zero"))
    body += [line(left, up(x), width - 6, up(x), "bound") for x in sorted({x for m in marks for x in m.quality.limits})]
    at = [(across(m.cost[1]), up(m.quality.estimate)) for m in marks]
    labels = [_label(m) for m in marks]
    bars = [
        Box(x - 4, min(up(m.quality.low), up(m.quality.high)), 8, abs(up(m.quality.low) - up(m.quality.high)))
        for m, (x, _) in zip(marks, at, strict=True)
        if m.quality.low is not None and m.quality.high is not None
    ]
    for mark, (x, y), box, label in zip(marks, at, names(at, labels, (left, top, width - 4, bottom), bars), labels, strict=True):
        body += [*_cross(mark, across, up), *_leader(x, y, box), shape_at(x, y, _kind(mark), mark.shape), _name(box, label, mark)]
    said = " · ".join(f"{m.quality.said}, at {number(m.cost[1])} {span(m.cost[0], m.cost[2])}".rstrip() for m in marks)
    return svg(width, bottom + 42, f"{title}: {y_title} against {x_title}. {said}", body, "half")


def _label(mark: Mark) -> str:
    return f"{SYMBOLS.get(mark.quality.outcome, '·')} {one_line(mark.quality.label, 22)}"


def _kind(mark: Mark) -> str:
    return f"mark o-{outcome_class(mark.quality.outcome)}{' beaten' if mark.beaten else ''}"


def _cross(mark: Mark, across: Scale, up: Scale) -> list[str]:
    """The limits in both directions."""
    kind = f"bar o-{outcome_class(mark.quality.outcome)}{' beaten' if mark.beaten else ''}"
    x, y, parts = across(mark.cost[1]), up(mark.quality.estimate), []
    if mark.quality.low is not None and mark.quality.high is not None:
        ends = up(mark.quality.low), up(mark.quality.high)
        parts += [line(x, ends[0], x, ends[1], kind), *(line(x - 4, e, x + 4, e, kind) for e in ends)]
    if mark.cost[0] is not None and mark.cost[2] is not None:
        sides = across(mark.cost[0]), across(mark.cost[2])
        parts += [line(sides[0], y, sides[1], y, kind), *(line(s, y - 4, s, y + 4, kind) for s in sides)]
    return parts


def shape_at(x: float, y: float, kind: str, shape: int, size: float = 5.0) -> str:
    """A mark whose shape tells the group: colour alone would say nothing to some readers and to a printer."""
    name = SHAPES[shape % len(SHAPES)]
    if name == "circle":
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    count, turn = _CORNERS[name]
    corners = (math.radians(turn + 360 * i / count) for i in range(count))
    points = " ".join(f"{x + 1.25 * size * math.cos(a):.1f},{y + 1.25 * size * math.sin(a):.1f}" for a in corners)
    return f'<polygon class="{kind}" points="{points}"/>'


# --- names ------------------------------------------------------------------------------------


Frame = tuple[float, float, float, float]  # left, top, right, bottom


def names(at: Sequence[tuple[float, float]], labels: Sequence[str], frame: Frame, bars: Sequence[Box] = ()) -> list[Box]:
    """A box for each label beside its mark, or as near as there is room; none on another or on a mark, on a bar only in need."""
    marks = [Box(x - 7, y - _LINE / 2, 14) for x, y in at]
    placed: list[Box] = []
    for (x, y), label in zip(at, labels, strict=True):
        tried = list(_places(x, y, _LETTER * len(label) + 2, frame))
        free = [box for box in tried if not any(box.meets(taken) for taken in (*marks, *placed))]
        placed.append(next((box for box in free if not any(box.meets(bar) for bar in bars)), free[0] if free else tried[0]))
    return placed


def _places(x: float, y: float, width: float, frame: Frame) -> list[Box]:
    """Places for a name inside the frame, the nearest first; at the end those along its edges."""
    left, top, right, bottom = frame
    near = [x + 10, x - 10 - width, x - width / 2]
    near = [at for at in near if left < at and at + width <= right] or [min(max(x - width / 2, left + 2), right - width)]
    steps = sorted(range(int((top - y) / 7), int((bottom - y) / 7) + 1), key=lambda step: (abs(step), step)) or [0]
    heights = [min(max(y + 7 * step, top + 7), bottom - 7) - 7 for step in steps]
    beside = [Box(at, height, width) for height in heights for at in near]
    return beside + [Box(at, height, width) for height in heights for at in (left + 2, right - width)]


def _leader(x: float, y: float, box: Box) -> list[str]:
    """A thin line from a mark to a name that is not right beside it."""
    middle = box.top + _LINE / 2
    near = min(max(x, box.left), box.left + box.width)
    return [line(x, y, near, middle, "leader")] if math.hypot(near - x, middle - y) > 15 else []


def _name(box: Box, label: str, mark: Mark) -> str:
    return text_at(box.left + 1, box.top + 11, label, "tick" if mark.beaten else "label")
