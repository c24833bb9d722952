"""Families of claims: the chance of any false statement, over all patterns of true and false claims.

All by enumeration. A rule reads a p-value only through the thresholds alpha/k that it falls between, so that a table
over those cells stands for continuous p-values; correlation by one normal factor is integrated by quadrature, and
the extreme dependences (equal, opposite, never small together) are lists of 1200 equally likely cases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import accumulate, pairwise, product

import numpy as np
import pytest
from scipy import stats

from harness.stats.families import Family, fixed_sequence, holm, intersection_union

pytestmark = pytest.mark.selftest

ALPHA = 0.05
SIZES = (1, 3, 2)  # integrity, guardrails, superiority
RULES = ("all", "all", "any")

Said = Callable[[Sequence[float]], int]  # the claims that a rule states, as bits; one false among them is an error


def bits(chosen: Iterable[bool]) -> int:
    return sum(1 << i for i, yes in enumerate(chosen) if yes)


def said_by_holm(ps: Sequence[float]) -> int:
    return bits(p <= ALPHA for p in holm(ps))


def said_by_union(ps: Sequence[float]) -> int:
    return bits([intersection_union(ps) <= ALPHA] * len(ps))


def said_uncorrected(ps: Sequence[float]) -> int:
    return bits(p <= ALPHA for p in ps)


def families(ps: Sequence[float]) -> list[Sequence[float]]:
    ends = list(accumulate(SIZES))
    return [ps[end - size : end] for end, size in zip(ends, SIZES, strict=True)]


def said_in_sequence(ps: Sequence[float]) -> int:
    return _stated(fixed_sequence(families(ps), RULES, ALPHA))


def said_ungated(ps: Sequence[float]) -> int:
    """Each family by itself."""
    return _stated([fixed_sequence([family], [rule], ALPHA)[0] for family, rule in zip(families(ps), RULES, strict=True)])


def said_with_any_first(ps: Sequence[float]) -> int:
    """Superiority first, and one improvement opens the gate: what ``fixed_sequence`` refuses."""
    better = [p <= ALPHA for p in holm(ps[:2])]
    return bits([*better, any(better) and ps[2] <= ALPHA])


def _stated(results: Sequence[Family | None]) -> int:
    stated: list[bool] = []
    for result, size, rule in zip(results, SIZES, RULES, strict=True):
        if result is None:
            stated += [False] * size
        else:
            stated += [result.held] * size if rule == "all" else [p <= ALPHA for p in result.adjusted]
    return bits(stated)


# --- independent, and correlated by one factor ------------------------------------------------------


def edges(count: int) -> list[float]:
    return [0.0, *(ALPHA / k for k in range(count, 0, -1)), 1.0]


@lru_cache
def said_in_cells(said: Said, count: int) -> np.ndarray:
    cells = [(a + b) / 2 for a, b in pairwise(edges(count))]
    return np.array([said(ps) for ps in product(cells, repeat=count)])


def normal_rates(said: Said, count: int, effect: float, rho: float) -> list[float]:
    """P(false statement) for each pattern; true claims have a z-score raised by ``effect``, all correlate by rho."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(60) if rho else (np.zeros(1), np.ones(1))
    z = stats.norm.isf(edges(count))  # inf first

    def cell_probabilities(shift: float) -> np.ndarray:
        return np.diff(stats.norm.sf((z - shift - np.sqrt(rho) * nodes[:, None]) / np.sqrt(1 - rho)), axis=1)

    null, raised = cell_probabilities(0.0), cell_probabilities(effect)
    stated = said_in_cells(said, count)
    rates = []
    for false in range(2**count):
        tensor = ((stated & false) > 0).astype(float)[:, None]
        for i in range(count - 1, -1, -1):
            tensor = np.einsum("acn,nc->an", tensor.reshape(-1, count + 1, tensor.shape[-1]), null if false >> i & 1 else raised)
        rates.append(float(tensor[0] @ weights / weights.sum()))
    return rates


# --- extreme dependence -----------------------------------------------------------------------------

CASES = 1200  # a multiple of 20 k for k <= 6: alpha / k falls between two cases

EXTREMES: dict[str, Callable[[int, int], Callable[[float], float]]] = {
    "equal": lambda i, count: lambda u: u,
    "opposite": lambda i, count: (lambda u: u) if i % 2 == 0 else (lambda u: 1 - u),
    "never together": lambda i, count: lambda u: (u + i / count) % 1.0,
}


def extreme_rates(said: Said, count: int, power: int, dependence: str) -> list[float]:
    """The same where the p-values of false claims are functions of one uniform u, those of true ones u ** power."""
    us = [[EXTREMES[dependence](i, count)((case + 0.5) / CASES) for i in range(count)] for case in range(CASES)]
    return [
        sum(said([u if false >> i & 1 else u**power for i, u in enumerate(row)]) & false > 0 for row in us) / CASES
        for false in range(2**count)
    ]


SITUATIONS: dict[str, Callable[[Said, int], list[float]]] = {
    "independent, effect 1": lambda said, count: normal_rates(said, count, 1.0, 0.0),
    "independent, effect 3": lambda said, count: normal_rates(said, count, 3.0, 0.0),
    "independent, certain": lambda said, count: normal_rates(said, count, 40.0, 0.0),
    "correlation .8, effect 3": lambda said, count: normal_rates(said, count, 3.0, 0.8),
    "equal, effect u^3": lambda said, count: extreme_rates(said, count, 3, "equal"),
    "opposite, effect u^3": lambda said, count: extreme_rates(said, count, 3, "opposite"),
    "opposite, certain": lambda said, count: extreme_rates(said, count, 400, "opposite"),
    "never together, effect u^3": lambda said, count: extreme_rates(said, count, 3, "never together"),
    "never together, certain": lambda said, count: extreme_rates(said, count, 400, "never together"),
}


def row(rule: str, said: Said, naive: Said, count: int, situation: str) -> dict[str, object]:
    """The pattern with the largest rate, its false claims marked F; the rival at its own worst pattern."""
    rates = SITUATIONS[situation](said, count)
    false = max(range(2**count), key=lambda f: round(rates[f], 9))  # of equals the first
    return {
        "rule": rule, "claims": count, "dependence": situation, "patterns": 2**count, "level": ALPHA,
        "worst_rate": round(rates[false], 6), "worst_pattern": "".join("TF"[false >> i & 1] for i in range(count)),
        "uncorrected": round(max(SITUATIONS[situation](naive, count)), 6),
    }  # fmt: skip


def test_the_chance_of_a_false_statement(effort) -> None:
    """Every pattern of up to 6 claims: never above the level, where no correction reaches .265 (or .3)."""
    rows = []
    for situation in SITUATIONS:
        for count in (1, 2, 3, 4, 5, 6) if effort.full else (2, 3):
            rows.append(row("Holm: improved on any", said_by_holm, said_uncorrected, count, situation))
            rows.append(row("intersection-union: all hold", said_by_union, said_uncorrected, count, situation))
    for situation in SITUATIONS if effort.full else ("opposite, effect u^3",):
        rows.append(row("fixed sequence: 1, then all of 3, then any of 2", said_in_sequence, said_ungated, 6, situation))
    for r in rows:
        assert r["worst_rate"] <= ALPHA + 1e-6, r
    effort.write("families_fwer", rows)


def test_the_level_is_used_up() -> None:
    """Not merely below: where all is false and never small together Holm errs at .05, and one claim at its margin."""
    assert extreme_rates(said_by_holm, 4, 3, "never together")[0b1111] == pytest.approx(ALPHA, abs=1e-12)
    assert normal_rates(said_by_holm, 3, 40.0, 0.0)[0b010] == pytest.approx(ALPHA, abs=1e-12)
    assert normal_rates(said_by_union, 3, 40.0, 0.0)[0b010] == pytest.approx(ALPHA, abs=1e-12)
    assert normal_rates(said_by_holm, 3, 40.0, 0.0)[0b111] == pytest.approx(1 - (1 - ALPHA / 3) ** 3, abs=1e-12)


def test_no_correction_is_no_family() -> None:
    assert normal_rates(said_uncorrected, 4, 1.0, 0.0)[0b1111] == pytest.approx(1 - 0.95**4, abs=1e-12)


def test_why_any_may_come_last_only() -> None:
    """A true improvement opens the gate, a false one beside it errs at .05, and a false claim behind it again."""
    rates = normal_rates(said_with_any_first, 3, 40.0, 0.0)
    assert rates[0b110] == pytest.approx(1 - 0.95**2, abs=1e-12)
    with pytest.raises(ValueError, match="last family only"):
        fixed_sequence([[0.01, 0.5], [0.5]], ["any", "all"], ALPHA)


def test_the_table(effort) -> None:
    """A row of the committed table, derived again."""
    (kept,) = [
        r for r in effort.read("families_fwer")
        if (r["rule"][:4], r["claims"], r["dependence"]) == ("Holm", "4", "correlation .8, effect 3")
    ]  # fmt: skip
    again = row(kept["rule"], said_by_holm, said_uncorrected, 4, kept["dependence"])
    assert {k: str(v) for k, v in again.items()} == kept
