"""What each tensor of a build really is: a map of layers and matrices, one square per matrix."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from harness.report.builds import Build
from harness.report.choice import forced
from harness.report.markup import Html, absent, claim_id, link, said, scroll
from harness.report.plots import line, rect, svg, text_at
from harness.report.style import SHADES
from harness.report.text import clean, one_line
from harness.report.view import finite
from harness.types import Sample

__all__ = ["Cell", "bits_of", "cells_of", "tensor_maps"]

_OPEN = 3  # maps shown at once; the rest is one click away
_ROWS, _LAYERS = 60, 200  # drawn per map; what a file names beyond that is counted
_NAME = re.compile(r"^(?:.*?\.)??(\d+)\.(.+)$")


@dataclass(frozen=True, slots=True)
class Cell:
    """One tensor; ``layer`` is None outside the layers. ``state`` is "", "forced" (another type, excused) or "wrong"."""

    name: str
    matrix: str
    layer: int | None
    type: str
    bits: float | None
    state: str
    wanted: str


def cells_of(build: Build) -> tuple[list[Cell], int]:
    """The matrices of a build as its inventory found them, and how many vectors (norms, biases) are left out."""
    claim = build.claim("types")
    rows = [s for s in claim.samples if isinstance(s.detail.get("found"), str)] if claim else []
    matrices = [s for s in rows if not _is_vector(s)]
    return [_cell(s) for s in matrices], len(rows) - len(matrices)


def _is_vector(sample: Sample) -> bool:
    shape, kind = sample.detail.get("shape"), sample.detail.get("kind")
    if isinstance(shape, list) and shape:
        return len(shape) == 1
    return kind == "norm" or (kind is None and ("norm" in sample.item or sample.item.endswith(".bias")))


def _cell(sample: Sample) -> Cell:
    detail = sample.detail
    found = _NAME.match(sample.item.removesuffix(".weight"))
    layer = int(found[1]) if found and len(found[1]) < 5 else None
    matrix = re.sub(r"(?<=\.)\d+(?=\.)", "*", found[2]) if found and layer is not None else sample.item.removesuffix(".weight")
    state = "wrong" if sample.value != 1 else "forced" if forced(sample) else ""
    wanted = str(detail.get("expected") or detail.get("declared") or "")
    return Cell(sample.item, matrix, layer, str(detail["found"]), bits_of(detail), state, wanted)


def bits_of(detail: Mapping[str, Any]) -> float | None:
    """Bits of a weight: as stated, or the first number in the name of the type (Q4_K: 4, BF16: 16)."""
    stated = detail.get("bits")
    if finite(stated) is not None:
        return finite(stated)
    number = re.search(r"\d{1,2}", str(detail.get("found", "")), re.ASCII)
    return float(number.group()) if number else None


# --- drawn ------------------------------------------------------------------------------------


def tensor_maps(builds: Sequence[Build]) -> Html:
    """One map per build whose tensors are known."""
    known = [(b, cells, left) for b in builds for cells, left in [cells_of(b)] if cells]
    none = absent("No inventory of tensors", [b for b in builds if b.name not in {k.name for k, *_ in known}])
    if not known:
        return Html(none)
    note = (
        '<p class="small muted">Layers across, matrices downwards; the stronger the colour, the more bits. Struck through once: a type '
        "other than the recipe names, excused. Crossed out: a type that nothing excuses. Each square says its name.</p>"
    )
    return Html(f"{note}{_legend()}{''.join(_map(i, *k) for i, k in enumerate(known))}{none}")


def _legend() -> str:
    body = [text_at(0, 13, "bits of a weight", "tick")]
    for i, bits in enumerate(SHADES):
        body += [rect(110 + 58 * i, 2, 18, 14, f"s{bits}"), text_at(132 + 58 * i, 13, str(bits), "tick")]
    x = 110 + 58 * len(SHADES)
    body += [rect(x, 2, 18, 14, "s4"), _struck(x, 2, 18, 14, "forced"), text_at(x + 24, 13, "excused", "tick")]
    body += [rect(x + 84, 2, 18, 14, "s4"), _struck(x + 84, 2, 18, 14, "wrong"), text_at(x + 108, 13, "not excused", "tick")]
    return svg(
        x + 180, 18, "Legend: the stronger the colour, the more bits; struck through: another type than the recipe names", body, "half"
    )


def _map(i: int, build: Build, cells: Sequence[Cell], left_out: int) -> str:
    counts = ", ".join(
        f"{one_line(kind, 40)} × {k}" for kind, k in sorted(Counter(c.type for c in cells).items(), key=lambda x: (-x[1], x[0]))
    )
    states = Counter(c.state for c in cells)
    odd = "".join(f"; {states[s]} {word}" for s, word in (("forced", "excused"), ("wrong", "not excused")) if states[s])
    claim = build.claim("types")
    told = f"{build.name}: {counts}{odd}"
    drawable = _drawable(cells)
    vectors = "".join(f"; {what} not drawn: {k}" for what, k in (("vectors", left_out), ("matrices", len(cells) - len(drawable))) if k)
    to = f" · {link(claim, claim_id(claim))}" if claim else ""
    caption = f'{said(build.name, 80)} <span class="muted small">{said(counts + odd + vectors, 400)}{to}</span>'
    drawn = scroll(_grid(drawable, told), f"Tensors of {build.name}")
    return f"<details{' open' if i < _OPEN else ''}><summary>{caption}</summary>{drawn}</details>"


def _drawable(cells: Sequence[Cell]) -> list[Cell]:
    """As many as a page holds, whatever a file names."""
    matrices = set(list(dict.fromkeys(c.matrix for c in cells))[:_ROWS])
    layers = set(sorted({c.layer for c in cells if c.layer is not None})[:_LAYERS])
    return [c for c in cells if c.matrix in matrices and (c.layer is None or c.layer in layers)]


def _grid(cells: Sequence[Cell], told: str) -> str:
    label, right, row = 150.0, 920.0, 15.0
    layers = sorted({c.layer for c in cells if c.layer is not None})
    inside, outside = _rows(cells, within=True), _rows(cells, within=False)
    width = (right - label) / max(1, len(layers))
    column: dict[int | None, int] = {layer: i for i, layer in enumerate(layers)}
    body = []
    for r, (matrix, kept) in enumerate([*inside, *outside]):
        body.append(text_at(label - 6, r * row + 12, one_line(matrix, 24), "tick", "end"))
        places = _places(kept, column, right - label)
        body += [_square(label + x, r * row, w, row, c) for x, w, c in places]
        body += _spelled(label, r * row, places)
    bottom = (len(inside) + len(outside)) * row
    every = max(1, len(layers) // 10)
    body += [
        text_at(label + (i + 0.5) * width, bottom + 14, str(layer), "tick", "middle") for i, layer in enumerate(layers) if i % every == 0
    ]
    return svg(right, bottom + (20 if layers else 2), f"Types of the tensors of {told}", body, "wide")


def _places(cells: Sequence[Cell], column: Mapping[int | None, int], width: float) -> list[tuple[float, float, Cell]]:
    """Where each square begins and how wide it is; outside the layers a row is shared evenly."""
    if all(c.layer in column for c in cells):
        return [(column[c.layer] * width / len(column), width / len(column), c) for c in cells]
    return [(i * width / len(cells), width / len(cells), c) for i, c in enumerate(cells)]


def _rows(cells: Sequence[Cell], *, within: bool) -> list[tuple[str, list[Cell]]]:
    """Cells by matrix, in the order of the file; by layer inside a row. Of many experts in one layer, what is worst and then first."""
    rows: dict[str, dict[tuple[int, str], Cell]] = {}
    for cell in cells:
        if (cell.layer is not None) is within:
            kept = rows.setdefault(cell.matrix, {})
            key = (cell.layer or 0, "" if within else cell.name)
            if key not in kept or _odd(cell) > _odd(kept[key]):
                kept[key] = cell
    return [(matrix, [kept[key] for key in sorted(kept)]) for matrix, kept in rows.items()]


def _odd(cell: Cell) -> int:
    return ("", "forced", "wrong").index(cell.state)


def _square(x: float, y: float, width: float, height: float, cell: Cell) -> str:
    wanted = f", wanted {cell.wanted}" if cell.state and cell.wanted else ""
    name = escape(one_line(clean(f"{cell.name}: {cell.type}{wanted}"), 120))
    bits = cell.bits
    shade = 0 if bits is None else min(SHADES, key=lambda s: (abs(s - bits), s))
    mark = _struck(x, y, width, height, cell.state) if cell.state else ""
    return f"<g><title>{name}</title>{rect(x, y, width - 1, height - 1, f's{shade}')}{mark}</g>"


def _struck(x: float, y: float, width: float, height: float, state: str) -> str:
    """One stroke, or two, at the right end of a square."""
    left, right, low = x + width - 1 - min(width - 1, 2 * height), x + width - 1, y + height - 1
    up = line(left, low, right, y, f"strike {state}")
    return up + (line(left, y, right, low, f"strike {state}") if state == "wrong" else "")


def _spelled(left: float, y: float, places: Sequence[tuple[float, float, Cell]]) -> list[str]:
    """The type in words at the head of each stretch that has room for it: shades alone do not tell Q4_0 from Q4_K."""
    parts, start = [], 0
    for i in range(1, len(places) + 1):
        if i == len(places) or places[i][2].type != places[start][2].type:
            x, end = places[start][0], places[i - 1][0] + places[i - 1][1]
            kind = one_line(places[start][2].type, 16)
            parts += [text_at(left + x + 3, y + 11, kind, "spelled")] if 6.2 * len(kind) + 4 < end - x else []
            start = i
    return parts
