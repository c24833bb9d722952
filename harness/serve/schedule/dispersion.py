"""Whether instants, planned or realised, are those of the declared arrival process.

Each gap is turned into the exponential gap of the same probability (time rescaling, Brown et al. 2002): rescaled, Poisson,
gamma and ramps are all a Poisson process of rate 1, and one set of tests serves them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from harness.errors import ConfigError
from harness.serve.schedule import draws, rates

if TYPE_CHECKING:
    from harness.serve.schedule import Schedule

__all__ = ["Dispersion", "check", "dispersion", "sound"]


class Dispersion(NamedTuple):
    """How instants inside the window scatter. ``findings`` say which of these numbers lie outside their bands.

    ``idc``: variance over mean of the counts in windows of so many seconds, of the rescaled process (1 expected);
    of the counts themselves for "constant" and "trace". Windows of which there are fewer than 20 are left out.
    ``cv`` of the gaps, ``lag1`` correlation of the rescaled gaps, ``ks`` the p-value of their law (None: not applicable).
    """

    n: int
    cv: float
    idc: Mapping[float, float]
    lag1: float | None
    ks: float | None
    findings: tuple[str, ...]


SCALES = (0.1, 1.0, 5.0)  # seconds
RESOLUTION_S = 0.0002  # gaps of realised sends are compared with their law to this resolution
LAG_S = 0.001  # what section 7 of the specification allows a client to be late


def check(schedule: Schedule) -> Dispersion:
    """ConfigError (``arrival_dispersion``) if the planned instants are not those of the declared process."""
    found = dispersion(schedule)
    if found.findings:
        raise ConfigError(
            f"schedule {schedule.kind}: arrival_dispersion: {'; '.join(found.findings)}. Was one random stream repeated, or the "
            "process mislabelled? A sound process does this for about 4 seeds in 1000: then take the next seed"
        )
    return found


_NEXT, _TRIES = 1_000_003, 5  # seeds this far apart are nobody else's


def sound(make: Callable[[int], Schedule], seed: int) -> Schedule:
    """``make(seed)``, or that of the next seed that ``check`` takes: where nobody has chosen the seed, an odd one must stop nobody."""
    tried = [make(seed)]
    while dispersion(tried[-1]).findings and len(tried) < _TRIES:
        tried.append(make(seed + len(tried) * _NEXT))
    check(tried[-1])
    return tried[-1]


def dispersion(schedule: Schedule, sends: Sequence[int] | None = None) -> Dispersion:
    """Of the planned instants, or of realised ones (ns after the origin, any order): those inside the window are looked at.

    Assumes: the rate is the declared one. Bands: abs(IDC - 1) <= 4 sqrt(2 / (m - 1)) for m windows, lag-1 correlation of n gaps
    within 4 / sqrt(n), Kolmogorov-Smirnov p > .001; realised gaps are compared to 0.2 ms, correlations to .05.
    """
    if schedule.kind == "closed":
        return Dispersion(0, 0.0, {}, None, None, ())
    start, end = schedule.window
    instants = sorted(t for t in (schedule.arrivals if sends is None else sends) if start <= t < end)
    gaps = [(b - a) * 1e-9 for a, b in pairwise(instants)]
    cv = _variation(gaps)
    if schedule.kind == "trace":
        return _as_recorded(schedule, instants, cv)
    if schedule.kind == "constant":
        return _as_constant(schedule, instants, gaps, cv, sends is not None)
    return _as_random(schedule, instants, gaps, cv, sends is not None)


def _as_random(schedule: Schedule, instants: list[int], gaps: list[float], cv: float, sent: bool) -> Dispersion:
    """Poisson, gamma, ramp: in the time in which they would be Poisson of rate 1."""
    findings = []
    start, end = (t * 1e-9 for t in schedule.window)
    law = _law(schedule)
    unit = [law(a * 1e-9, b * 1e-9) for a, b in pairwise(instants)]
    rate = len(schedule.judged) / (end - start) if schedule.kind == "ramp" else float(schedule.numbers["rate"])
    at, clock = 0.0, []
    for gap in unit:
        at += gap
        clock.append(at)
    idc = {}
    for seconds in SCALES:
        counts = _counts(clock, seconds * rate, at)
        if len(counts) < 20:
            continue
        idc[seconds] = _index(counts)
        band = 4 * math.sqrt(2 / (len(counts) - 1))
        if abs(idc[seconds] - 1) > band:
            findings.append(
                f"counts in {len(counts)} windows of {seconds:g} s scatter {idc[seconds]:.2f} times as much as declared, "
                f"expected 1 within {band:.2f}"
            )
    lag1 = ks = None
    n = len(unit)
    if n >= 20:
        slack = RESOLUTION_S if sent else 1e-9  # plans are rounded to nanoseconds
        shorter, longer = ([law(a * 1e-9, max(a * 1e-9, b * 1e-9 + by)) for a, b in pairwise(instants)] for by in (-slack, slack))
        lag1, ks = _lag1(unit), _ks(shorter, longer)
        band = max(4 / math.sqrt(n), 0.05 if sent else 0.0)
        if abs(lag1) > band:
            findings.append(f"neighbouring gaps correlate by {lag1:.3f} (0 within {band:.3f}, {n} gaps)")
        if ks <= 0.001:
            findings.append(f"the gaps are not {schedule.kind} at the declared rate (Kolmogorov-Smirnov p = {ks:.2g}, {n} gaps)")
    return Dispersion(len(instants), cv, idc, lag1, ks, tuple(findings))


def _law(schedule: Schedule) -> Callable[[float, float], float]:
    """From two instants in seconds to the exponential gap of mean 1 that is as probable as the gap between them."""
    numbers = schedule.numbers
    if schedule.kind == "ramp":
        return lambda a, b: rates.expected(numbers, b) - rates.expected(numbers, a)
    rate = float(numbers["rate"])
    if schedule.kind == "poisson" or numbers["shape"] == 1:
        return lambda a, b: (b - a) * rate
    shape = float(numbers["shape"])
    return lambda a, b: draws.gamma_hazard((b - a) * rate * shape, shape)


def _as_constant(schedule: Schedule, instants: list[int], gaps: list[float], cv: float, sent: bool) -> Dispersion:
    """Equal gaps; sends may be late by what a client is allowed, as long as the gaps stay nearly equal."""
    gap = 1 / float(schedule.numbers["rate"])
    most = 0.01 + (min(LAG_S / gap, 0.49) if sent else 0.0)
    clock = [(t - schedule.window[0]) * 1e-9 for t in instants]
    total = (schedule.window[1] - schedule.window[0]) * 1e-9
    idc = {seconds: _index(counts) for seconds in SCALES if len(counts := _counts(clock, seconds, total)) >= 20}
    findings = [f"gaps vary by {cv:.3f} of their mean, expected at most {most:.3f} of equal gaps"] if cv > most else []
    mean = math.fsum(gaps) / len(gaps) if gaps else gap
    if abs(mean / gap - 1) > 0.01:
        findings.append(f"the mean gap is {mean:.6g} s, declared {gap:.6g} s")
    return Dispersion(len(instants), cv, idc, None, None, tuple(findings))


def _as_recorded(schedule: Schedule, instants: list[int], cv: float) -> Dispersion:
    """Counts beside the recorded ones: a send late by no more than is allowed seldom changes its window."""
    start, end = schedule.window
    total = (end - start) * 1e-9
    clocks = [[(t - start) * 1e-9 for t in series] for series in (instants, [t for t in schedule.arrivals if start <= t < end])]
    idc, findings = {}, []
    for seconds in SCALES:
        counts, planned = (_counts(clock, seconds, total) for clock in clocks)
        if len(counts) < 20:
            continue
        idc[seconds] = _index(counts)
        moved = sum(abs(a - b) for a, b in zip(counts, planned, strict=True)) / 2 / max(1, sum(planned))
        if moved > 0.02 + LAG_S / seconds:
            findings.append(f"{moved:.1%} of the sends fell into another window of {seconds:g} s than recorded")
    return Dispersion(len(instants), cv, idc, None, None, tuple(findings))


def _counts(clock: Sequence[float], width: float, total: float) -> list[int]:
    """How many instants lie in each whole window of this width."""
    m = int(total / width)
    counts = [0] * m
    for t in clock:
        if t < m * width:
            counts[min(int(t / width), m - 1)] += 1
    return counts


def _index(counts: Sequence[int]) -> float:
    mean = sum(counts) / len(counts)
    return sum((c - mean) ** 2 for c in counts) / (len(counts) - 1) / mean if mean else 0.0


def _variation(gaps: Sequence[float]) -> float:
    if len(gaps) < 2:
        return 0.0
    mean = math.fsum(gaps) / len(gaps)
    return math.sqrt(math.fsum((g - mean) ** 2 for g in gaps) / (len(gaps) - 1)) / mean if mean else math.inf


def _lag1(gaps: Sequence[float]) -> float:
    mean = math.fsum(gaps) / len(gaps)
    spread = math.fsum((g - mean) ** 2 for g in gaps)
    return math.fsum((a - mean) * (b - mean) for a, b in pairwise(gaps)) / spread if spread else 1.0


def _ks(shorter: Sequence[float], longer: Sequence[float]) -> float:
    """The p-value of exponential gaps of mean 1, each known to lie between two values.

    Reference: Stephens (1970) for the size of the sample; Kolmogorov's series.
    """
    n, most = len(shorter), 0.0
    for i, (low, high) in enumerate(zip(sorted(shorter), sorted(longer), strict=True)):
        most = max(most, (i + 1) / n + math.expm1(-high), -math.expm1(-low) - i / n)
    x = (math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * most
    if x < 0.3:
        return 1.0
    return min(1.0, 2 * math.fsum((-1) ** (j - 1) * math.exp(-2 * j * j * x * x) for j in range(1, 101)))
