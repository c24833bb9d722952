"""A power curve as one SVG file that stands alone: light or dark, no fonts, no network."""

from __future__ import annotations

from collections.abc import Sequence

from harness.planner import Curve
from harness.report.plots import Scale, _line, _rect, _svg, _text, _x_axis, _y_axis
from harness.report.style import _DARK, _LIGHT, CSS
from harness.report.text import number

__all__ = ["picture"]

# Dashes besides colours: colour alone would say nothing to some readers and to a printer.
_CURVES = ("link", "fails", "holds", "inconclusive", "lost", "error")
_DASHES = ("none", "8 4", "2 3", "10 3 2 3", "5 5", "1 5")


def picture(title: str, curves: Sequence[Curve], alpha: float, unit: str, n: int | None = None) -> str:
    """Power against n, one line per curve; the ``n`` chosen marked, .80 and .90 and ``alpha`` drawn across.

    At ``alpha`` lies what every gate is held to: the most often it may hold when the truth lies on the bound itself.
    """
    width, height, left, right, top, bottom = 860.0, 400.0, 64.0, 600.0, 64.0, 340.0
    across = Scale(0, max(m for curve in curves for m, _ in curve.points), left, right)
    up = Scale(0, 1, bottom, top)
    body = [_rect(0, 0, width, height, "page"), *_title(title, left)]
    body += [*_x_axis(across, top, bottom, f"n ({unit})"), *_y_axis(up, left, right, "power: how often a true claim holds")]
    for level, name in ((0.90, "power 0.90"), (0.80, "power 0.80"), (alpha, f"alpha {alpha:g}: the most at the bound itself")):
        body += [_line(left, up(level), right, up(level), "level"), _text(right + 8, up(level) + 4, name, "tick")]
    for i, curve in enumerate(curves):
        points = " ".join(f"{across(m):.1f},{up(p):.1f}" for m, p in curve.points)
        y = up(0.68) + 22 * i
        body.append(f'<polyline class="curve c{i % len(_CURVES)}" points="{points}"/>')
        body += [_line(right + 8, y, right + 40, y, f"curve c{i % len(_CURVES)}"), _text(right + 48, y + 4, curve.label, "label")]
    if n is not None:
        body += _chosen(n, curves, across, up)
    said = " · ".join(f"{curve.label}: {_said(curve)}" for curve in curves)
    drawn = _svg(width, height, f"{title} Power against n. {said}", body, "alone")
    return drawn.replace(">", f"><style>{_style()}</style>", 1) + "\n"


def _title(title: str, left: float) -> list[str]:
    """The claim in at most two lines, broken at a comma."""
    pieces, lines = title.split(", "), [""]
    for piece in pieces:
        longer = f"{lines[-1]}, {piece}" if lines[-1] else piece
        if len(longer) <= 80 or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(piece)
    return [_text(left, 22 + 18 * i, line, "title") for i, line in enumerate(lines[:2])]


def _chosen(n: int, curves: Sequence[Curve], across: Scale, up: Scale) -> list[str]:
    """The chosen n, and the power there on each curve."""
    x = across(n)
    body = [_line(x, up(0), x, up(1), "bound")]
    for i, curve in enumerate(curves):
        reached = dict(curve.points).get(n)
        if reached is not None:
            body.append(f'<circle class="at c{i % len(_CURVES)}" cx="{x:.1f}" cy="{up(reached):.1f}" r="4.5"/>')
    high = [p for curve in curves for m, p in curve.points if m == n]
    shown = f"n = {n}: {', '.join(number(round(p, 3)) for p in high)}"
    # On the side with more room.
    right = x < (across.start + across.end) / 2
    return [
        *body,
        _text(
            x + 7 if right else x - 7, up(0.5 if right and high and max(high) < 0.3 else 0.14), shown, "label", "start" if right else "end"
        ),
    ]


def _said(curve: Curve) -> str:
    reached = next((m for m, p in curve.points if p >= 0.8), None)
    return "power 0.80 is not reached" if reached is None else f"power 0.80 is reached at about n = {reached}"


def _style() -> str:
    rules = [line for line in CSS.splitlines() if line.startswith("svg")]
    rules += [".page{fill:var(--bg)}", ".curve{fill:none;stroke-width:2}", ".level{stroke:var(--muted);stroke-dasharray:1 4}"]
    rules += [
        f".curve.c{i}{{stroke:var(--{c});stroke-dasharray:{d}}}.at.c{i}{{fill:var(--{c})}}"
        for i, (c, d) in enumerate(zip(_CURVES, _DASHES, strict=True))
    ]
    return f":root{{color-scheme:light dark;{_LIGHT}}}@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}{''.join(rules)}".replace(
        "\n", ""
    )
