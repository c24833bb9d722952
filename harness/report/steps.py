"""Curves over the steps of a training: several runs in one drawing, each named at its end; a run that failed ends in a cross."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.plots import KINDS, Scale, line, scale_over, spread, svg, text_at, y_axis
from harness.report.text import number

__all__ = ["DRAWN", "POINTS", "Steps", "by_step"]

DRAWN = KINDS  # curves in one drawing: no two of them look alike
POINTS = 600  # of a curve: more than a screen has pixels for


@dataclass(frozen=True, slots=True)
class Steps:
    """One number a step, the first at step 1; ``ended`` says why it is no more, "" where it ran to its end."""

    label: str
    values: tuple[float, ...]
    ended: str = ""

    @property
    def said(self) -> str:
        """The same in words."""
        if not self.values:
            return f"{self.label}: no step{f', {self.ended}' if self.ended else ''}"
        shown = f"{self.label}: {number(self.values[0])} at step 1, {number(self.values[-1])} at step {len(self.values)}"
        return f"{shown}, {self.ended}" if self.ended else shown


def by_step(rows: Sequence[Steps], title: str, upwards: str) -> str:
    """A line per run over its steps, one axis for all. At most ``DRAWN`` runs."""
    width, left, right, top = 920.0, 64.0, 640.0, 10.0
    bottom = top + max(230.0, 16.0 * len(rows))
    across = Scale(1, max([2, *(len(r.values) for r in rows)]), left + 14, right)
    up = scale_over([v for r in rows for v in r.values], bottom, top)
    body = [*y_axis(up, left, right, upwards), *_step_axis(across, top, bottom)]
    drawn = [_points(r.values, across, up) for r in rows]
    for i, (row, points) in enumerate(zip(rows, drawn, strict=True)):
        body += _curve(i, points) + (_cross(*points[-1]) if points and row.ended else [])
    for i, y in spread([points[-1][1] if points else bottom for points in drawn], bottom):
        x, at = drawn[i][-1] if drawn[i] else (right, bottom)
        body += [line(x, at, right + 22, y, "leader"), line(right + 24, y, right + 48, y, f"curve c{i % KINDS}")]
        body.append(text_at(right + 54, y + 4, f"{'✗ ' if rows[i].ended else ''}{rows[i].label}"[:34], "label"))
    return svg(width, bottom + 42, f"{title}. " + " · ".join(r.said for r in rows), body, "wide")


def _step_axis(across: Scale, top: float, bottom: float) -> list[str]:
    """Whole steps only."""
    ticks = sorted({round(t) for t in across.ticks() if abs(t - round(t)) < 1e-9} | {1})
    parts = [text_at((across.start + across.end) / 2, bottom + 34, "step", "axis", "middle")]
    for tick in ticks:
        parts += [line(across(tick), top, across(tick), bottom, "grid"), text_at(across(tick), bottom + 16, number(tick), "tick", "middle")]
    return parts


def _points(values: Sequence[float], across: Scale, up: Scale) -> list[tuple[float, float]]:
    """Pixels, thinned evenly where there are too many; first and last are kept."""
    apart = -(-len(values) // POINTS) or 1
    steps = sorted({*range(1, len(values) + 1, apart), len(values)} if values else set())
    return [(across(step), up(values[step - 1])) for step in steps]


def _curve(i: int, points: Sequence[tuple[float, float]]) -> list[str]:
    """A line, and where it has few points these too."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dots = [f'<circle class="at c{i % KINDS}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>' for x, y in points] if len(points) <= 30 else []
    return [f'<polyline class="curve c{i % KINDS}" points="{path}"/>', *dots] if points else []


def _cross(x: float, y: float) -> list[str]:
    return [line(x - 6, y - 6, x + 6, y + 6, "strike wrong"), line(x - 6, y + 6, x + 6, y - 6, "strike wrong")]
