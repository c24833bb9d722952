"""Curves against n as one SVG file that stands alone: light or dark, no fonts, no network."""

from __future__ import annotations

from collections.abc import Sequence

from harness.planner import Curve
from harness.report.plots import Scale, line, rect, svg, text_at, x_axis, y_axis
from harness.report.style import COLOURS, CSS, curve_rules

__all__ = ["curves", "power_curves"]


def power_curves(title: str, drawn: Sequence[Curve], alpha: float, unit: str, n: int | None = None) -> str:
    """Power against n, one line per curve; the ``n`` chosen marked, .80 and .90 and ``alpha`` drawn across.

    At ``alpha`` lies what every gate is held to: the most often it may hold when the truth lies on the bound itself.
    """
    levels = [(0.90, "power 0.90"), (0.80, "power 0.80"), (alpha, f"alpha {alpha:g}: the most at the bound itself")]
    said = " · ".join(f"{curve.label}: {_reached(curve)}" for curve in drawn)
    return curves(title, drawn, levels, f"n ({unit})", "power: how often a true claim holds", said, n=n)


def curves(
    title: str,
    drawn: Sequence[Curve],
    levels: Sequence[tuple[float, str]],
    x_name: str,
    y_name: str,
    said: str,
    *,
    top: float = 1.0,
    n: int | None = None,
) -> str:
    """Lines over n between 0 and ``top``, ``levels`` across with their names; ``said`` is what a reader without eyes is told."""
    width, height, left, right, up_to, bottom = 900.0, 404.0, 64.0, 600.0, 78.0, 354.0
    across = Scale(0, max(m for curve in drawn for m, _ in curve.points), left, right)
    up = Scale(0, top, bottom, up_to)
    body = [rect(0, 0, width, height, "page"), *_title(title, left)]
    body += [*x_axis(across, up_to, bottom, x_name), *y_axis(up, left, right, y_name)]
    for level, name in levels:
        body += [line(left, up(level), right, up(level), "level"), text_at(right + 8, up(level) + 4, name, "tick")]
    if n is not None:
        body += [line(across(n), bottom, across(n), up_to, "bound"), text_at(across(n), up_to - 6, f"n = {n}", "label", "middle")]
    for i, curve in enumerate(drawn):
        body += _drawn(curve, i, n, across, up, (right + 8, up(0.68 * top) + 22 * i))
    image = svg(width, height, f"{title} {y_name} against {x_name}. {said}", body, "alone")
    return image.replace(">", f"><style>{_style()}</style>", 1) + "\n"


def _title(title: str, left: float) -> list[str]:
    """The claim in at most three lines, broken at commas."""
    pieces, lines = title.split(", "), [""]
    for piece in pieces:
        longer = f"{lines[-1]}, {piece}" if lines[-1] else piece
        if len(longer) < 80 or not lines[-1]:
            lines[-1] = longer
        else:
            lines[-1] += ","
            lines.append(piece)
    return [text_at(left, 22 + 18 * i, line, "title") for i, line in enumerate(lines[:3])]


def _drawn(curve: Curve, i: int, n: int | None, across: Scale, up: Scale, legend: tuple[float, float]) -> list[str]:
    """One curve with its line in the legend; where an n is chosen, with the power there."""
    x, y = legend
    points = " ".join(f"{across(m):.1f},{up(p):.1f}" for m, p in curve.points)
    body = [f'<polyline class="curve c{i}" points="{points}"/>', line(x, y, x + 32, y, f"curve c{i}")]
    reached = dict(curve.points).get(n) if n is not None else None
    if n is None or reached is None:
        return [*body, text_at(x + 40, y + 4, curve.label, "label")]
    body.append(f'<circle class="at c{i}" cx="{across(n):.1f}" cy="{up(reached):.1f}" r="4.5"/>')
    return [*body, text_at(x + 40, y + 4, f"{curve.label}: {reached:.3f}", "label")]


def _reached(curve: Curve) -> str:
    reached = next((m for m, p in curve.points if p >= 0.8), None)
    return "power 0.80 is not reached" if reached is None else f"power 0.80 is reached at about n = {reached}"


def _style() -> str:
    rules = [line for line in CSS.splitlines() if line.startswith("svg")]
    rules += [
        ".page{fill:var(--bg)}",
        ".curve{fill:none;stroke-width:2}",
        ".level{stroke:var(--muted);stroke-dasharray:1 4}",
        *curve_rules(6),
    ]
    return COLOURS + "".join(rules)
