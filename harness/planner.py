"""What a number of units can show, before anything is measured: the power of claims, and the tables of ``plan``.

    power(claim, n)       the chance that a claim holds at the alternative it declares; or why that is not known
    release_lines(...)    P(all pass | nothing changed) of a planned run
    gate(design)          one gate: n for a power, power of an n, smallest effect (MDE); see GATES

Every number says how it was found: exact, by a formula, or simulated.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from typing import NamedTuple

from harness.bounds import Bound
from harness.stats import plan, special
from harness.types import Claim

__all__ = ["GATES", "Curve", "Design", "Gate", "Needed", "Power", "curves", "gate", "gate_lines", "power", "release_lines", "set_lines"]

# Above these n the exact paired rule takes too long for one number, and for a search or a curve.
_ONE, _MANY = 2000, 1000
_FORMULA = "normal formula: the exact rule is slow at this n"
_SERIES = 1000  # simulated series of a sequential plan: a power is good to about .03


class Power(NamedTuple):
    """A chance and how it was found; None with the reason where nothing declared gives it."""

    value: float | None
    how: str


class Needed(NamedTuple):
    """The n for a power and how it was found; None where there is none."""

    n: int | None
    how: str


# --- the power of claims ----------------------------------------------------------------------


def power(claim: Claim, n: int) -> Power:
    """The chance that ``claim`` holds with n units at the alternative it declares, without its controls.

    Non-inferiority and equivalence: no difference, discordance ``psi``. Superiority and proportions: ``expected``.
    """
    bound, alpha = claim.bound, claim.level
    if claim.estimand in ("exact", "exact_share"):
        return Power(1.0, "deterministic: holds unless something is broken")
    if claim.estimand == "paired_difference" and bound.kind == "non_inferior":
        return _ni_power(n, bound.limit, claim.psi, alpha)
    if claim.estimand == "paired_difference" and bound.kind == "equivalent":
        return _equivalence_power(n, bound.limit, claim.psi, alpha)
    if claim.estimand == "sequential_difference" and bound.kind == "non_inferior" and claim.support == (0, 1):
        stops = _stops(bound.limit, claim.psi, 0.0, alpha, n)
        return Power(sum(stop <= n for stop in stops) / len(stops), _simulated())
    if claim.expected is None:
        return Power(None, f"declares no expected {'gain' if bound.kind == 'better_than' else 'value'}: no alternative to have power at")
    if claim.estimand == "paired_difference":
        return _gain_power(n, bound.limit, max(claim.psi, abs(claim.expected)), alpha, claim.expected)
    if claim.estimand == "proportion":
        return Power(_proportion(n, bound, claim.expected, alpha), "exact")
    if claim.estimand == "bounded_mean" and claim.support is not None and bound.kind == "at_most":
        return Power(None, _bounded_reason(claim, claim.expected))
    return Power(None, f"needs a pilot: python -m harness plan {_PILOTS.get(str(claim.estimand), 'agreement')}")


# The gate that plans an estimand from a pilot's spread; agreement is the rest.
_PILOTS = {
    "run_ratio": "ratio", "over_limit": "slo", "corrected_difference": "corrected", "sequential_difference": "sequential",
    "log_ratio": "mean", "mean": "mean", "paired_mean": "mean", "relative_score": "mean", "bounded_mean": "mean",
}  # fmt: skip


def release_lines(planned: Sequence[tuple[Claim, int]]) -> Iterator[str]:
    """The power of each planned claim at its n, then P(all pass | nothing changed) and what it leaves out."""
    chances = [(claim, n, power(claim, n)) for claim, n in planned if claim.estimand not in ("exact", "exact_share")]
    width = max((len(claim.id) for claim, _, _ in chances), default=5)
    yield f"{'claim':<{width}}  {'n':>6}  {'power':>6}  how"
    counted: list[float] = []
    left_out: Counter[str] = Counter()
    for claim, n, found in chances:
        gain = claim.bound.kind == "better_than"  # cannot hold when nothing changed
        shown = "-" if found.value is None else f"{found.value:.3f}"
        yield f"{claim.id:<{width}}  {n:>6}  {shown:>6}  {found.how}{'; not counted below: claims a gain' if gain else ''}"
        if found.value is None or gain:
            left_out[claim.id.split("[")[0]] += 1
        else:
            counted.append(found.value)
    together, least = plan.pass_all(counted), max(0.0, 1 - math.fsum(1 - p for p in counted))
    yield f"and {len(planned) - len(chances)} deterministic claims, which hold unless something is broken"
    yield ""
    yield f"P(all pass | nothing changed) = {together:.3f} for {len(counted)} claims if independent, at least {least:.3f} in any case"
    yield f"false blocks: {1 - together:.1%} of releases in which nothing changed if independent, at most {1 - least:.1%} in any case"
    if left_out:
        yield f"not counted: {', '.join(f'{name} ({count})' for name, count in sorted(left_out.items()))}"


def set_lines(sets: Sequence[tuple[str, int]], psi: float, alpha: float) -> Iterator[str]:
    """What each set (name, n) can show: the power of "not worse by the margin" for some margins, and the smallest margin."""
    margins = (0.01, 0.02, 0.03, 0.05)
    yield f"power to show 'not worse by the margin' when nothing changed, alpha {alpha:g}, psi {psi:g}"
    yield f"{'set':<14}{'n':>6}  {''.join(f'margin {m:<7g}' for m in margins)}margin with power 0.80"
    for name, n in sets:
        powers = "".join(f"{_ni_power(n, m, psi, alpha).value:<14.3f}" for m in margins)
        smallest = _number(plan.ni_margin(n, psi, alpha, 0.80)) if n <= _MANY else "-"
        yield f"{name:<14}{n:>6}  {powers}{smallest}"


def _ni_power(n: int, margin: float, psi: float, alpha: float, truth: float = 0.0, limit: int = _ONE) -> Power:
    if n <= limit:
        return Power(plan.ni_power(n, margin, psi, alpha, truth), "exact")
    return Power(plan.ni_power_normal(n, margin, psi, alpha, truth), _FORMULA)


def _equivalence_power(n: int, margin: float, psi: float, alpha: float, limit: int = _ONE) -> Power:
    if n <= limit:
        return Power(plan.equivalence_power(n, margin, psi, alpha), "exact")
    return Power(max(0.0, 2 * plan.ni_power_normal(n, margin, psi, alpha) - 1), _FORMULA)


def _gain_power(n: int, least: float, psi: float, alpha: float, gain: float, limit: int = _ONE) -> Power:
    if least == 0:
        return Power(plan.mcnemar_power(n, psi, gain, alpha), "exact")
    if gain <= least:
        return Power(None, f"expected gain {gain:g} is not above the {least:g} claimed: no power at any n")
    return _ni_power(n, -least, psi, alpha, gain, limit)


def _proportion(n: int, bound: Bound, truth: float, alpha: float) -> float:
    if bound.kind == "at_least":
        return plan.proportion_power(n, bound.limit, truth, alpha, "at_least")
    if bound.kind == "at_most":
        return plan.proportion_power(n, bound.limit, truth, alpha, "at_most")
    assert bound.high is not None  # within: the bound checked it
    held = [k for k in range(n + 1) if special.binom_sf(k, n, bound.limit) <= alpha and special.binom_cdf(k, n, bound.high) <= alpha]
    return math.fsum(special.binom_pmf(k, n, truth) for k in held)


def _bounded_reason(claim: Claim, expected: float) -> str:
    assert claim.support is not None
    try:
        least = plan.betting_min_n(expected, claim.bound.limit, claim.support, claim.level)
    except ValueError:
        return f"expected {expected:g} is not below the bound: no power at any n"
    return f"needs the spread of a pilot; n = {least} decides if every unit equals {expected:g}"


# --- one gate ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Design:
    """What is asked about a gate. None takes the gate's default, which its first line then names."""

    gate: str
    n: int | None = None
    alpha: float | None = None
    margin: float | None = None
    psi: tuple[float, ...] = (0.10,)
    bound: float | None = None
    truth: float | None = None
    sd: float | None = None
    noise: float = 0.0
    reruns: int = 1
    quantile: float = 0.99
    tau: float = 1.0
    base: float = 0.5
    judged: int = 500
    correlation: float = 0.7


class Row(NamedTuple):
    """A line of a table."""

    what: str
    value: str
    how: str = ""


class Gate(NamedTuple):
    """A gate with its numbers filled in: ``least`` n below which nothing can hold, ``mde`` rows at an n."""

    claim: str
    unit: str
    alpha: float
    needed: Callable[[float], Needed]
    power: Callable[[int], Power]
    least: Row | None
    mde: Callable[[int], Iterator[Row]]
    lines: tuple[tuple[str, Callable[[int], Power]], ...]  # what a picture shows: label and power, this one first
    points: int = 200  # of a curve
    lowest: int = 1  # n that the rule takes at all


class Curve(NamedTuple):
    """Power against n."""

    label: str
    points: tuple[tuple[int, float], ...]


def gate(design: Design) -> Gate:
    """The gate that ``design`` names. Raises ValueError with what was found and expected."""
    if design.gate not in GATES:
        raise ValueError(f"gate {design.gate!r}, expected one of {', '.join(GATES)}")
    _check(design)
    return GATES[design.gate](design)


def _check(design: Design) -> None:
    """Raises ValueError for numbers that no gate can take, and for those that this one does not use."""
    if not (1 <= len(design.psi) <= 6 and all(0 < psi <= 1 for psi in design.psi)):
        raise ValueError(f"psi = {', '.join(f'{psi:g}' for psi in design.psi)}; expected one to six shares, 0 < psi <= 1")
    given = {field.name: getattr(design, field.name) for field in fields(design) if getattr(design, field.name) != field.default}
    wrong = [f"{name} = {value}" for name, value in given.items() if isinstance(value, (int, float)) and not math.isfinite(value)]
    if wrong:
        raise ValueError(f"{wrong[0]}, expected a finite number")
    if design.n is not None and design.n < 1:
        raise ValueError(f"n = {design.n}, expected n >= 1")
    if design.sd is not None and design.sd <= 0:
        raise ValueError(f"sd = {design.sd:g}, expected sd > 0")
    if design.alpha is not None and not 0 < design.alpha < 0.5:
        raise ValueError(f"alpha = {design.alpha:g}, expected 0 < alpha < 0.5 (one-sided)")
    unused = sorted(set(given) - {"gate", "n", "alpha"} - set(_USES[design.gate]))
    if unused:
        takes = ", ".join(f"--{name}" for name in ("n", "alpha", *_USES[design.gate]))
        raise ValueError(f"--{unused[0]} says nothing about {design.gate}, which takes {takes}")


def gate_lines(found: Gate, n: int | None) -> Iterator[str]:
    """The table of a gate, line by line as it is computed."""
    yield found.claim
    for target in (0.80, 0.90):
        yield _line(_needed_row(target, found.needed(target), found.unit))
    if found.least:
        yield _line(found.least)
    if n is None:
        return
    if n < found.lowest:
        raise ValueError(f"n = {n}, expected at least {found.lowest} {found.unit}")
    yield f"with {n} {found.unit}:"
    reached = found.power(n)
    yield _line(Row("power", "-" if reached.value is None else f"{reached.value:.3f}", reached.how))
    for label, chance in found.lines[1:]:
        other = chance(n)
        yield _line(Row(f"power at {label}", "-" if other.value is None else f"{other.value:.3f}", other.how))
    yield from map(_line, found.mde(n))
    needed = found.needed(0.80)
    if reached.value is not None and reached.value < 0.80:
        take = f"take n = {needed.n}" if needed.n else "plan with more"
        yield f"{n} {found.unit} cannot support this claim: were it true, it would hold only {reached.value:.0%} of the time; {take}"


def curves(found: Gate, n: int | None) -> tuple[Curve, ...]:
    """The power of a gate and of its variants from small n to beyond what .90 needs and beyond ``n``."""
    needed = found.needed(0.90).n or found.needed(0.80).n or 1000
    last = max(math.ceil(1.35 * needed), math.ceil(1.1 * (n or 0)), 20)
    step = max(1, last // found.points)
    ns = sorted({found.lowest, *range(step, last + 1, step), *([n] if n else [])} - set(range(found.lowest)))
    return tuple(Curve(label, tuple((m, p.value) for m in ns if (p := chance(m)).value is not None)) for label, chance in found.lines)


def _line(row: Row) -> str:
    return f"  {row.what:<28}{row.value:<10}{row.how}".rstrip()


def _needed_row(target: float, needed: Needed, unit: str) -> Row:
    return Row(f"{unit} for power {target:.2f}", "-" if needed.n is None else str(needed.n), needed.how)


def _number(value: float | None, none: str = "none") -> str:
    return none if value is None else f"{value:.4g}"


def _at_80(what: str, value: float | None, how: str) -> Row:
    return Row(what, _number(value), how)


# --- paired binary gates ----------------------------------------------------------------------


def _non_inferior(d: Design) -> Gate:
    margin, alpha, truth, psi = _margin(d), _or(d.alpha, 0.05), _or(d.truth, 0.0), d.psi[0]

    @cache
    def needed(target: float) -> Needed:
        formula = plan.ni_n(margin, psi, alpha, target, truth)
        if formula > _MANY:
            return Needed(formula, _FORMULA)
        return Needed(plan.ni_exact_n(margin, psi, alpha, target, truth), f"exact, here and at the next 11 n (normal formula {formula})")

    def mde(n: int) -> Iterator[Row]:
        if n > _MANY:
            return
        yield _at_80("smallest margin shown", plan.ni_margin(n, psi, alpha, 0.80, truth), "with power 0.80, exact")
        yield _at_80("largest loss still passed", plan.ni_loss_passed(n, margin, psi, alpha, 0.80), "with power 0.80, exact")
        yield _at_80("smallest loss refuted", plan.ni_loss_refuted(n, margin, psi, alpha, 0.80), "with power 0.80, exact")

    def chance_at(psi: float, limit: int) -> Callable[[int], Power]:
        return lambda n: _ni_power(n, margin, psi, alpha, truth, limit)

    true = "no true loss" if truth == 0 else f"true difference {truth:+g}"
    return Gate(
        f"not worse by {margin:g}, one-sided alpha {alpha:g}, {_flips(d.psi)}, {true}:",
        "items", alpha, needed, chance_at(psi, _ONE),
        Row("at least", str(plan.ni_zero_flip_n(margin, alpha)), "below, not even zero flips can prove it"),
        mde, tuple((f"psi {each:g}", chance_at(each, _MANY)) for each in d.psi), 12,
    )  # fmt: skip


def _better(d: Design) -> Gate:
    least, alpha, gain, psi = _or(d.margin, 0.0), _or(d.alpha, 0.025), _or(d.truth, 0.05), d.psi[0]
    if gain <= least:
        raise ValueError(f"true gain {gain:g}, expected more than the {least:g} claimed")

    @cache
    def needed(target: float) -> Needed:
        if least == 0:
            return Needed(plan.superiority_n(psi, gain, alpha, target), "exact McNemar, here and at the next 11 n")
        formula = plan.ni_n(-least, psi, alpha, target, gain)
        if formula > _MANY:
            return Needed(formula, _FORMULA)
        return Needed(plan.ni_exact_n(-least, psi, alpha, target, gain), "exact, here and at the next 11 n")

    def mde(n: int) -> Iterator[Row]:
        if least == 0:
            yield _at_80("smallest gain shown", plan.superiority_gain(n, psi, alpha, 0.80), "with power 0.80, exact")

    def chance_at(psi: float, limit: int) -> Callable[[int], Power]:
        return lambda n: _gain_power(n, least, psi, alpha, gain, limit)

    flips = math.ceil(-math.log2(alpha))
    return Gate(
        f"better{f' by more than {least:g}' if least else ''}, one-sided alpha {alpha:g}, {_flips(d.psi)}, "
        f"true gain {gain:g}:",
        "items", alpha, needed, chance_at(psi, _ONE),
        None if least else Row("at least", str(flips), "discordant items; with fewer, all of them for the better is not enough"),
        mde, tuple((f"psi {each:g}", chance_at(each, _MANY)) for each in d.psi), 12 if least else 120,
    )  # fmt: skip


def _equivalent(d: Design) -> Gate:
    margin, alpha, psi = _margin(d), _or(d.alpha, 0.05), d.psi[0]

    @cache
    def needed(target: float) -> Needed:
        formula = plan.ni_n(margin, psi, alpha, (1 + target) / 2)
        if formula > _MANY:
            return Needed(formula, _FORMULA)
        return Needed(plan.equivalence_n(margin, psi, alpha, target), f"exact, here and at the next 11 n (normal formula {formula})")

    def chance_at(psi: float, limit: int) -> Callable[[int], Power]:
        return lambda n: _equivalence_power(n, margin, psi, alpha, limit)

    return Gate(
        f"neither worse nor better by {margin:g}, both sides at alpha {alpha:g}, {_flips(d.psi)}, no difference:",
        "items", alpha, needed, chance_at(psi, _ONE),
        Row("at least", str(plan.ni_zero_flip_n(margin, alpha)), "below, not even zero flips can prove it"),
        lambda n: iter(()), tuple((f"psi {each:g}", chance_at(each, _MANY)) for each in d.psi), 12,
    )  # fmt: skip


def _sequential(d: Design) -> Gate:
    margin, alpha, truth, psi = _margin(d), _or(d.alpha, 0.05), _or(d.truth, 0.0), d.psi[0]
    n_max = d.n or 2000

    def needed(target: float) -> Needed:
        stop = _stops(margin, psi, truth, alpha, n_max)[math.ceil(target * _SERIES) - 1]
        return Needed(stop, _simulated()) if stop <= n_max else Needed(None, f"not within {n_max}; {_simulated()}")

    def chance_at(psi: float) -> Callable[[int], Power]:
        return lambda n: Power(sum(stop <= min(n, n_max) for stop in _stops(margin, psi, truth, alpha, n_max)) / _SERIES, _simulated())

    def mde(n: int) -> Iterator[Row]:
        stops = _stops(margin, psi, truth, alpha, n_max)
        yield Row("mean n until decided", f"{math.fsum(min(stop, n_max) for stop in stops) / _SERIES:.0f}", f"or given up at {n_max}")
        if -margin < truth:
            yield Row("a fixed n takes", f"{plan.ni_n(margin, psi, alpha, 0.80, truth)}", "for power 0.80, normal formula")

    true = "no true loss" if truth == 0 else f"true difference {truth:+g}"
    return Gate(
        f"not worse by {margin:g}, looked at after every item, one-sided alpha {alpha:g}, {_flips(d.psi)}, {true}:",
        "items", alpha, needed, chance_at(psi),
        Row("at least", str(plan.betting_min_n(0.0, margin, (-1.0, 1.0), alpha, margin)), "with zero flips"),
        mde, tuple((f"psi {each:g}", chance_at(each)) for each in d.psi),
    )  # fmt: skip


@lru_cache(maxsize=32)
def _stops(margin: float, psi: float, truth: float, alpha: float, n_max: int) -> tuple[int, ...]:
    """Stopping times of the betting rule on differences in {1, 0, -1}; the capital bet on D + margin."""
    weights = ((psi + truth) / 2, 1 - psi, (psi - truth) / 2)
    return plan.betting_stops(
        (1 + margin, margin, margin - 1), weights, 1 - margin, margin, 1.0, alpha, n_max, _SERIES, f"plan:{margin}:{psi}:{truth}"
    )


def _simulated() -> str:
    return f"simulated, {_SERIES} series"


# --- proportions ------------------------------------------------------------------------------


def _at_least(d: Design) -> Gate:
    return _share(d, "at_least", _or(d.bound, 0.80), _or(d.truth, 0.90))


def _at_most(d: Design) -> Gate:
    return _share(d, "at_most", _or(d.bound, 0.10), _or(d.truth, 0.05))


def _share(d: Design, side: plan.Side, p0: float, p1: float) -> Gate:
    alpha = _or(d.alpha, 0.05)
    extreme = "n of n" if side == "at_least" else "0 of n"

    def chance(n: int) -> Power:
        return Power(plan.proportion_power(n, p0, p1, alpha, side), "exact")

    return Gate(
        f"{side.replace('_', ' ')} {p0:g}, one-sided alpha {alpha:g}, truly {p1:g}:",
        "units", alpha, lambda target: _sawtooth(plan.proportion_n(p0, p1, alpha, target, side), side, 1.0),
        chance,
        Row("at least", str(plan.proportion_min_n(p0 if side == "at_least" else 1 - p0, alpha)), f"below, not even {extreme} can show it"),
        lambda n: _truths(n, p0, alpha, side), ((f"truly {p1:g}", chance),),
    )  # fmt: skip


def _truths(n: int, p0: float, alpha: float, side: plan.Side) -> Iterator[Row]:
    other: plan.Side = "at_most" if side == "at_least" else "at_least"
    yield _at_80("nearest truth shown", plan.proportion_truth(n, p0, alpha, 0.80, side), "with power 0.80, exact")
    yield _at_80("nearest truth refuted", plan.proportion_truth(n, p0, alpha, 0.80, other), "with power 0.80, exact")


def _sawtooth(found: plan.ProportionPlan, side: plan.Side, tau: float) -> Needed:
    """The n from which the power stays: any larger plan will do too."""
    sign, extra = (">=" if side == "at_least" else "<="), "" if tau == 1 else f"; {found.stays} independent ones, times tau {tau:g}"
    first = f"exact (k {sign} {found.stays_k}), kept by every larger n; first reached at n = {found.first} (k {sign} {found.first_k})"
    return Needed(math.ceil(tau * found.stays), first + extra)


def _slo(d: Design) -> Gate:
    alpha, q, rate, tau = _or(d.alpha, 0.05), d.quantile, _or(d.truth, 0.002), d.tau
    if not (0 < q < 1 and tau >= 1):
        raise ValueError(f"quantile = {q}, tau = {tau}; expected 0 < quantile < 1 and tau >= 1")
    allowed = round(1 - q, 12)
    how = "exact for independent requests" + ("" if tau == 1 else f", n divided by tau {tau:g}")

    def chance(n: int) -> Power:
        return Power(plan.proportion_power(max(1, int(n / tau)), allowed, rate, alpha, "at_most"), how)

    return Gate(
        f"p{100 * q:g} within its limit, one-sided alpha {alpha:g}, truly {rate:g} of the requests over, tau {tau:g} (from a pilot):",
        "requests", alpha, lambda target: _sawtooth(plan.proportion_n(allowed, rate, alpha, target, "at_most"), "at_most", tau), chance,
        Row("at least", str(math.ceil(tau * plan.proportion_min_n(q, alpha))), "below, not even 0 over can show it"),
        lambda n: _truths(max(1, int(n / tau)), allowed, alpha, "at_most"), ((f"truly {rate:g} over", chance),), lowest=math.ceil(tau),
    )  # fmt: skip


# --- means, ratios, agreement, corrected judges -----------------------------------------------


def _mean(d: Design) -> Gate:
    alpha, margin, sd = _or(d.alpha, 0.05), _or(d.margin, 0.03), _or(d.sd, 1 / 3)
    if d.noise < 0 or d.reruns < 1:
        raise ValueError(f"noise = {d.noise}, reruns = {d.reruns}; expected noise >= 0, reruns >= 1")
    spread = math.sqrt(sd * sd + 2 * d.noise * d.noise / d.reruns)
    effect = _effect(margin, spread)

    def chance(n: int) -> Power:
        return Power(plan.t_power(n, effect, alpha), "Student's t, exact for normal values")

    def needed(target: float) -> Needed:
        noise, reruns = (d.noise**2, d.noise**2), (d.reruns, d.reruns)
        formula = plan.mean_n(margin, sd * sd, alpha, target, noise, reruns)
        return Needed(max(30, plan.t_n(effect, alpha, target)), f"Student's t, exact for normal values (Miller's formula {formula})")

    def mde(n: int) -> Iterator[Row]:
        yield _at_80("smallest distance shown", plan.t_effect(n, alpha, 0.80) * spread, "with power 0.80")

    noise = f", run noise {d.noise:g} in {d.reruns} reruns" if d.noise else ""
    return Gate(
        f"a mean {margin:g} inside its bound, one-sided alpha {alpha:g}, sd over units {sd:.4g}{noise} (from a pilot):",
        "units", alpha, needed, chance,
        Row("at least", "30", "clusters, more if skewed: 121 times the squared skewness"),
        mde, ((f"distance {margin:g}", chance),), lowest=30,
    )  # fmt: skip


def _ratio(d: Design) -> Gate:
    alpha, bound, truth, sd = _or(d.alpha, 0.05), _or(d.bound, 1.05), _or(d.truth, 1.0), _or(d.sd, 0.02)
    if not (bound > 0 and truth > 0 and bound != truth):
        raise ValueError(f"bound = {bound}, truth = {truth}; expected two different ratios > 0")
    side, sign = ("at most", 1) if truth < bound else ("at least", -1)
    distance = abs(math.log(bound / truth))
    effect = _effect(distance, sd)

    def chance(n: int) -> Power:
        return Power(plan.t_power(n, effect, alpha), "Student's t, exact for normal log ratios")

    def needed(target: float) -> Needed:
        return Needed(max(4, plan.t_n(effect, alpha, target)), "Student's t, exact for normal log ratios; at least 4")

    def mde(n: int) -> Iterator[Row]:
        shown, refuted = (plan.t_effect(n, level, 0.80) * sd for level in (alpha, 0.01))
        yield _at_80("nearest ratio shown", bound * math.exp(-sign * shown), "with power 0.80")
        yield _at_80("nearest ratio refuted", bound * math.exp(sign * refuted), "with power 0.80, at alpha 0.01")

    return Gate(
        f"a ratio {side} {bound:g}, one-sided alpha {alpha:g}, truly {truth:g}, sd {sd:g} of the log ratio of a block (from an A/A pilot):",
        "blocks", alpha, needed, chance, None, mde, ((f"truly {truth:g}", chance),), lowest=4,
    )  # fmt: skip


def _agreement(d: Design) -> Gate:
    alpha, bound, truth = _or(d.alpha, 0.05), _or(d.bound, 0.60), _or(d.truth, 0.80)
    spread = plan.kappa_spread(truth, d.base) if d.sd is None else d.sd
    given = f"two raters, base rate {d.base:g}" if d.sd is None else f"spread {d.sd:g} (from a pilot)"
    how = "normal formula on the scale of the deciding bound"
    plan.agreement_n(truth, bound, spread, alpha, 0.80)  # says what is wrong with the numbers

    def chance(n: int) -> Power:
        if bound**n > alpha:
            return Power(0.0, "not even full agreement shows it")
        z = (math.atanh(truth) - math.atanh(bound)) * (1 - truth * truth) * math.sqrt(n) / spread
        return Power(special.normal_sf(special.normal_quantile(1 - alpha) - z), how)

    def mde(n: int) -> Iterator[Row]:
        yield _at_80("highest bound shown", plan.agreement_bound(n, truth, spread, alpha, 0.80), "with power 0.80")
        yield _at_80("bound of a typical sample", plan.agreement_bound(n, truth, spread, alpha, 0.50), "")

    least = Row("at least", str(plan.proportion_min_n(bound, alpha)), "below, not even full agreement can show it") if bound > 0 else None
    return Gate(
        f"agreement (kappa) above {bound:g}, one-sided alpha {alpha:g}, truly {truth:g}, {given}:",
        "units", alpha, lambda target: Needed(plan.agreement_n(truth, bound, spread, alpha, target), how), chance,
        least, mde, ((f"truly {truth:g}", chance),),
    )  # fmt: skip


def _corrected(d: Design) -> Gate:
    alpha, margin, psi = _or(d.alpha, 0.05), _or(d.margin, 0.05), d.psi[0]
    sd = math.sqrt(psi) if d.sd is None else d.sd
    _effect(margin, sd)

    def chance(m: int) -> Power:
        t = special.t_quantile(1 - alpha, m - 1)
        reached = special.normal_sf(t - margin / plan.corrected_se(d.judged, m, sd, d.correlation))
        return Power(reached, "Student's t (asymptotic), best weight of the judge")

    def needed(target: float) -> Needed:
        least, most = 100, 100_000  # fewer are refused
        m = least + bisect_left(range(least, most), target, key=lambda m: chance(m).value or 0.0)
        return Needed(m, chance(m).how) if m < most else Needed(None, f"not with {most} labels either")

    def mde(m: int) -> Iterator[Row]:
        se, human = (plan.corrected_se(d.judged, m, sd, r) for r in (d.correlation, 0.0))
        t = special.t_quantile(1 - alpha, m - 1)
        yield Row("half-width", f"{t * se:.4g}", f"of the interval at {1 - 2 * alpha:.0%}; with labels alone {t * human:.4g}")
        yield _at_80("smallest margin shown", (t + special.normal_quantile(0.80)) * se, "with power 0.80")

    return Gate(
        f"not worse by {margin:g}, a judge's scores corrected by labels, one-sided alpha {alpha:g}, no true loss, {d.judged} judged items, "
        f"sd of a labelled difference {sd:.3g}, correlation of judge and label {d.correlation:g}:",
        "labels", alpha, needed, chance,
        Row("at least", "100", "labelled items, 200 better: both arms of each"),
        mde, ((f"correlation {d.correlation:g}", chance),), lowest=100,
    )  # fmt: skip


def _margin(d: Design) -> float:
    margin = _or(d.margin, 0.05)
    if not 0 < margin < 1:
        raise ValueError(f"margin = {margin:g}, expected 0 < margin < 1 (.05 is 5 points)")
    return margin


def _flips(psi: Sequence[float]) -> str:
    """What is expected to change; the table speaks of the first."""
    others = f" (or {', '.join(f'{100 * other:.3g}%' for other in psi[1:])})" if psi[1:] else ""
    return f"{100 * psi[0]:.3g}%{others} of the items change either way"


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def _effect(distance: float, sd: float) -> float:
    if not (distance > 0 and sd > 0):
        raise ValueError(f"distance = {distance:g}, sd = {sd:g}; expected both > 0")
    return distance / sd


_USES: dict[str, tuple[str, ...]] = {
    "non-inferior": ("margin", "psi", "truth"),
    "better": ("margin", "psi", "truth"),
    "equivalent": ("margin", "psi", "truth"),
    "at-least": ("bound", "truth"),
    "at-most": ("bound", "truth"),
    "slo": ("quantile", "tau", "truth"),
    "mean": ("margin", "sd", "noise", "reruns"),
    "ratio": ("bound", "truth", "sd"),
    "agreement": ("bound", "truth", "base", "sd"),
    "corrected": ("margin", "psi", "sd", "judged", "correlation"),
    "sequential": ("margin", "psi", "truth"),
}

GATES: dict[str, Callable[[Design], Gate]] = {
    "non-inferior": _non_inferior,
    "better": _better,
    "equivalent": _equivalent,
    "at-least": _at_least,
    "at-most": _at_most,
    "slo": _slo,
    "mean": _mean,
    "ratio": _ratio,
    "agreement": _agreement,
    "corrected": _corrected,
    "sequential": _sequential,
}
