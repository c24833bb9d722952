"""Is each tensor of a GGUF build the rounding of its source? An exact question, weight by weight.

A block of a quantized tensor is a grid: a lowest value and a step, from its stored scales. Whatever
way the quantizer chose the scales, it then gives each weight the nearest point of the grid. So a
build can be checked without the quantizer, its version or its importance matrix: every weight must
lie on the grid point next to the source's. Noise, a transposed block or a wrong zero point in one
tensor moves weights to other points, however little it moves a distribution or a score. What it
does not see is a poor choice of scales: a grid that is coarser than need be. ``rms`` shows that.

numpy and ``gguf`` are imported inside the functions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.engines.gguf_header import FLOATS, read_header
from harness.errors import MissingNeed, SubjectError
from harness.quant.gguf import need_gguf

__all__ = ["OUTSIDE", "Rounding", "roundings"]

# type -> the bytes of a block that hold codes, the code that all bits set stand for, lowest and highest code (ggml-quants.c)
_CODES: Mapping[str, tuple[slice, int, int, int]] = {
    "Q4_0": (slice(2, 18), 15, 0, 15), "Q4_1": (slice(4, 20), 15, 0, 15),
    "Q5_0": (slice(2, 22), 31, 0, 31), "Q5_1": (slice(4, 24), 31, 0, 31), "Q8_0": (slice(2, 34), -1, -127, 127),
    "Q4_K": (slice(16, 144), 15, 0, 15), "Q5_K": (slice(16, 176), 31, 0, 31), "Q6_K": (slice(0, 192), 63, 0, 63),
}  # fmt: skip

OUTSIDE = 0.001  # the share of weights that may lie more than a step beyond their grid: a search for scales cuts off some
_HALF = 2.0**-11, 2.0**-25  # what storing a scale in 16 bits loses: relative, and absolute below 2^-14
_ROWS = 1 << 22  # weights looked at together


@dataclass(frozen=True, slots=True)
class Rounding:
    """One tensor beside its source.

    ``misplaced``: weights that are not on the grid point nearest to the source's weight (of an
    unquantized tensor: that differ from it). ``outside``: source weights more than a step beyond
    the grid, where the nearest point is far. ``worst``: the largest distance of a weight from the
    source's, in steps, grid ends cut off; half a step is what rounding does; None if unquantized.
    ``rms``: error over the source's root mean square.
    """

    name: str
    type: str
    weights: int
    misplaced: int
    outside: int
    worst: float | None
    rms: float

    @property
    def sound(self) -> bool:
        """It is the rounding of its source."""
        return self.misplaced == 0 and self.outside <= OUTSIDE * self.weights


def roundings(build: str | Path, source: str | Path, names: frozenset[str] | None = None) -> list[Rounding]:
    """Each tensor of ``build`` (or those in ``names``) beside the same of ``source``, an unquantized GGUF file.

    Raises SubjectError if the files hold different tensors or the source is quantized; MissingNeed for a
    type whose grid is not known here, and without gguf and numpy.
    """
    gguf = need_gguf("compare a build with its source")
    old, new = read_header(source), read_header(build)
    if {t.name: t.shape for t in old.tensors} != {t.name: t.shape for t in new.tensors}:
        raise SubjectError(f"{build}: tensors differ from those of {source}; expected a build of that very file")
    wrong = [t for t in old.tensors if t.type not in FLOATS]
    if wrong:
        raise SubjectError(f"{source}: {wrong[0].name!r} is {wrong[0].type}; expected an unquantized source")
    strange = sorted({t.type for t in new.tensors if t.type not in FLOATS and t.type not in _CODES})
    if strange:
        raise MissingNeed("rounding", f"the grid of {', '.join(strange)} is not known here", f"use a build of {', '.join(_CODES)}")
    sources = {t.name: t for t in gguf.GGUFReader(os.fspath(source)).tensors}
    return [
        _compare(gguf, tensor, sources[tensor.name])
        for tensor in gguf.GGUFReader(os.fspath(build)).tensors
        if names is None or tensor.name in names
    ]


def _compare(gguf: Any, build: Any, source: Any) -> Rounding:
    import numpy as np

    kind, weights, misplaced, outside, worst, error, power = build.tensor_type.name, 0, 0, 0, 0.0, 0.0, 0.0
    for ours, theirs in _parts(build, source):
        want = gguf.quants.dequantize(theirs, source.tensor_type).astype(np.float32)
        got = gguf.quants.dequantize(ours, build.tensor_type).astype(np.float32)
        weights += want.size
        error, power = error + float(np.square(got - want, dtype=np.float64).sum()), power + float(np.square(want, dtype=np.float64).sum())
        if kind in FLOATS:
            misplaced += int((got != _cast(gguf, want, build.tensor_type)).sum())
            continue
        steps, beyond, slack = _distance(gguf, ours, build.tensor_type, want, got)
        misplaced, outside = misplaced + int((steps > 0.5 + slack).sum()), outside + int((beyond > 1.0 + slack).sum())
        worst = max(worst, float(steps.max()))
    rms = (error / power) ** 0.5 if power else float(error > 0)
    return Rounding(build.name, kind, weights, misplaced, outside, None if kind in FLOATS else worst, rms)


def _parts(build: Any, source: Any) -> Iterator[tuple[Any, Any]]:
    """Rows of both, as many as keep memory small."""
    rows = max(1, _ROWS // int(source.shape[0]))
    ours, theirs = (data.reshape(-1, data.shape[-1]) for data in (build.data, source.data))
    for start in range(0, len(ours), rows):
        yield ours[start : start + rows], theirs[start : start + rows]


def _cast(gguf: Any, values: Any, kind: Any) -> Any:
    return gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)


def _distance(gguf: Any, data: Any, kind: Any, want: Any, got: Any) -> tuple[Any, Any, Any]:
    """In steps of each weight's grid: how far the build is from the source, the source from the grid, and what may be lost in scales."""
    import numpy as np

    where, ones, lowest, highest = _CODES[kind.name]
    size = gguf.GGML_QUANT_SIZES[kind][1]

    def with_codes(byte: int) -> Any:
        blocks = data.reshape(len(data), -1, size).copy()
        blocks[..., where] = byte
        return gguf.quants.dequantize(blocks.reshape(data.shape), kind)

    zero = with_codes(0x00)
    step = (with_codes(0xFF) - zero) / ones
    ends = zero + lowest * step, zero + highest * step
    nearest = np.clip(want, np.minimum(*ends), np.maximum(*ends))
    width = np.abs(step)
    width = np.where(width > 0, width, np.finfo(np.float32).tiny)  # a grid of one point: every distance from it counts
    slack = np.maximum(np.abs(ends[0]), np.abs(ends[1])) / width * np.maximum(_HALF[0], _HALF[1] / width)
    return np.abs(got - nearest) / width, np.abs(want - nearest) / width, slack
