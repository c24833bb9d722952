"""What the planner promises is what the gates do: power by enumeration where it is exact, by simulation where it is not.

``plan_power.csv``  planned power beside the power of the very gate, one row a design
``plan_n.csv``      the n that section 5.2 plans by the normal formula, its exact power, and the exact n
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from harness import Claim, at_least, at_most, better_than, equivalent, non_inferior, planner
from harness.planner import Design
from harness.stats import agreement, betting, corrected, intervals, means, paired, plan, ratio, series
from suites.selftest.quality.simulate import generator

pytestmark = pytest.mark.selftest


# --- exact gates: every table ---------------------------------------------------------------------


def trinomial(n: int, psi: float, delta: float) -> np.ndarray:
    """P(b, c), b across rows, c across columns; 0 where b + c > n."""
    b, c = np.mgrid[0 : n + 1, 0 : n + 1]
    inside = b + c <= n
    log_p = stats.binom.logpmf(b, n, (psi + delta) / 2)
    rest = (psi - delta) / 2 / (1 - (psi + delta) / 2)
    log_p = log_p + stats.binom.logpmf(c, np.maximum(n - b, 0), rest)
    return np.where(inside, np.exp(log_p), 0.0)


def score(n: int, delta0: float) -> np.ndarray:
    """Tango's Z of every table, section 3.2 in numpy; -inf where there is none."""
    b, c = np.mgrid[0 : n + 1, 0 : n + 1].astype(float)
    linear = -b - c + (2 * n - b + c) * delta0
    root = np.sqrt(np.maximum(linear**2 + 8 * n * c * delta0 * (1 - delta0), 0.0))
    p21 = np.clip((root - linear) / (4 * n), max(0.0, -delta0), (1 - delta0) / 2)
    z = (b - c - n * delta0) / np.sqrt(n * (2 * p21 + delta0 * (1 - delta0)))
    return np.where(b + c <= n, z, -np.inf)


def exact_rule(n: int, delta0: float, alpha: float) -> np.ndarray:
    """Which tables the exact rule passes: the largest region in the order of Z whose probability stays below alpha."""
    z = score(n, delta0)
    order = np.argsort(-z, axis=None, kind="stable")
    size = np.zeros(order.size)
    for p12 in np.linspace(max(0.0, delta0), (1 + delta0) / 2, 400):
        size = np.maximum(size, np.cumsum(trinomial(n, 2 * p12 - delta0, delta0).ravel()[order]))
    ordered = z.ravel()[order]
    last = np.append(ordered[1:] < ordered[:-1] - 1e-10, True)  # ties stand together
    good = np.flatnonzero(last & (size <= alpha))
    region = np.zeros(z.size, bool)
    if good.size:
        region[order[: good[-1] + 1]] = True
    return region.reshape(z.shape) & np.isfinite(z)


def row(gate: str, design: str, n: int, planned: float | None, found: float, how: str, tolerance: float) -> dict[str, object]:
    assert planned is not None
    return {
        "gate": gate, "design": design, "n": n, "planned": f"{planned:.4f}", "found": f"{found:.4f}",
        "difference": f"{planned - found:+.4f}", "found_by": how, "tolerance": f"{tolerance:.4f}",
    }  # fmt: skip


def claimed(bound, n: int, **more: float) -> float | None:
    return planner.power(Claim("c", "t", bound, **more), n).value  # type: ignore[arg-type]


def paired_rows(n: int) -> list[dict[str, object]]:
    """The rule itself in numpy, its size found on a grid of 400: a region may differ by a tie within the grid's slack."""
    rows = []
    for margin, psi in ((0.20, 0.10), (0.10, 0.10), (0.10, 0.30)):
        region, p = exact_rule(n, -margin, 0.05), trinomial(n, psi, 0.0)
        design = f"margin {margin} psi {psi}"
        rows.append(row("non-inferior", design, n, claimed(non_inferior(margin), n, psi=psi), p[region].sum(), "all tables", 0.01))
        rows.append(row("equivalent", design, n, claimed(equivalent(margin), n, psi=psi), p[region & region.T].sum(), "all tables", 0.01))
    for psi, gain in ((0.30, 0.20), (0.10, 0.10)):
        tables = [(b, c) for b in range(n + 1) for c in range(n + 1 - b) if paired.mcnemar(b, c).p_hold <= 0.025]
        found = sum(trinomial(n, psi, gain)[table] for table in tables)
        planned = claimed(better_than(), n, psi=psi, expected=gain)
        rows.append(row("better", f"psi {psi} gain {gain}", n, planned, found, "all tables", 1e-4))
    region, p = exact_rule(n, 0.05, 0.025), trinomial(n, 0.40, 0.30)
    planned = claimed(better_than(0.05), n, psi=0.40, expected=0.30)
    return [*rows, row("better", "psi 0.4 gain 0.3 least 0.05", n, planned, p[region].sum(), "all tables", 0.01)]


def proportion_rows() -> list[dict[str, object]]:
    rows = []
    for bound, truth, n in ((at_least(0.8), 0.9, 82), (at_least(0.8), 0.9, 94), (at_most(0.1), 0.04, 150), (at_most(0.05), 0.005, 200)):
        side = 0 if bound.kind == "at_least" else 1
        passes = [k for k in range(n + 1) if intervals.proportion_tests(k, n, bound.limit)[side] <= 0.05]
        found = stats.binom.pmf(passes, n, truth).sum()
        rows.append(
            row(bound.kind.replace("_", "-"), f"{bound.limit} truly {truth}", n, claimed(bound, n, expected=truth), found, "all k", 1e-4)
        )
    for quantile, truth, n in ((0.99, 0.005, 2185), (0.99, 0.002, 773), (0.95, 0.025, 434), (0.95, 0.01, 124)):
        passes = [k for k in range(n + 1) if series.slo_tests(k, n, 1.0, 1 - quantile).p_hold <= 0.05]
        planned = planner.gate(Design("slo", quantile=quantile, truth=truth)).power(n).value
        rows.append(
            row("slo", f"p{100 * quantile:g} truly {truth} over", n, planned, stats.binom.pmf(passes, n, truth).sum(), "all k", 1e-4)
        )
    return rows


# --- the others: the gate itself on simulated data ------------------------------------------------


def share(effort, gate: str, n: int, full: int, sampled: int, decides) -> tuple[float, str, float]:
    """How often the gate passes, how that was found, and four standard errors at the least favourable share."""
    replicates = effort.replicates(full, sampled)
    rng = generator("planner", gate, n)
    passes = sum(bool(decides(rng)) for _ in range(replicates))
    return passes / replicates, f"{replicates} simulations", 2 / math.sqrt(replicates)


def simulated_rows(effort) -> list[dict[str, object]]:
    rows = []

    def add(gate: str, design: str, n: int, planned: float | None, slack: float, full: int, sampled: int, decides) -> None:
        found, how, error = share(effort, f"{gate} {design}", n, full, sampled, decides)
        rows.append(row(gate, design, n, planned, found, how, slack + error))

    for n in (30, 200):
        effect = plan.t_effect(n, 0.05, 0.8)
        planned = planner.gate(Design("mean", margin=effect, sd=1.0)).power(n).value
        add("mean", f"normal values distance {effect:.3f} sd", n, planned, 0.0, 4000, 200, lambda rng, n=n, e=effect: mean_gate(rng, n, e))
    for k, sd in ((4, 0.02), (6, 0.035)):
        planned = planner.gate(Design("ratio", bound=1.05, sd=sd)).power(k).value
        add("ratio", f"at most 1.05 sd {sd}", k, planned, 0.0, 4000, 200, lambda rng, k=k, sd=sd: ratio_gate(rng, k, sd))
    for n, kappa, base, bound in ((105, 0.8, 0.5, 0.6), (400, 0.6875, 0.8, 0.6), (834, 0.6875, 0.8, 0.6)):
        planned = planner.gate(Design("agreement", bound=bound, truth=kappa, base=base)).power(n).value
        gate = lambda rng, n=n, kappa=kappa, base=base, bound=bound: kappa_gate(rng, n, kappa, base, bound)  # noqa: E731
        add("agreement", f"kappa {kappa} base {base} bound {bound}", n, planned, 0.06, 3000, 200, gate)
    for m in (157, 300):
        planned = planner.gate(Design("corrected", correlation=0.9)).power(m).value
        add("corrected", "margin 0.05 psi 0.1 correlation 0.9", m, planned, 0.05, 1500, 60, lambda rng, m=m: corrected_gate(rng, m))
    for n in (374, 600):
        planned = planner.gate(Design("sequential", psi=(0.10,), n=n)).power(n).value
        add("sequential", "margin 0.05 psi 0.1", n, planned, 2 / math.sqrt(1000), 1000, 60, lambda rng, n=n: sequential_gate(rng, n))
    return rows


def mean_gate(rng, n: int, effect: float) -> bool:
    result = means.cluster_mean(list(rng.normal(0, 1, n)), range(n), 0.05)
    return means.t_test_p(result.estimate, result.se, result.df, effect).p_hold <= 0.05


def ratio_gate(rng, k: int, sd: float) -> bool:
    """Four runs a block, each with log sd ``sd``: their contrast has that sd too."""
    result = ratio.abba([tuple(map(float, np.exp(block))) for block in rng.normal(0, sd, (k, 4))], 0.05)
    return ratio.abba_tests(result, math.log(1.05)).p_hold <= 0.05


def kappa_gate(rng, n: int, kappa: float, base: float, bound: float) -> bool:
    apart = (1 - kappa) * (1 - base**2 - (1 - base) ** 2) / 2
    yes, new, old, no = map(int, rng.multinomial(n, [base - apart, apart, apart, 1 - base - apart]))
    return agreement.agreement_tests(agreement.cohen_kappa([[yes, new], [old, no]], 0.05), bound).p_hold <= 0.05


def judged(rng, size: int, psi: float, right: float) -> tuple[np.ndarray, np.ndarray]:
    """Differences as people see them and as a judge does, who errs in 1 - ``right`` of all, then drawing anew.

    Both have one variance, and their correlation is ``right``.
    """
    human = rng.choice([1, 0, -1], size, p=[psi / 2, 1 - psi, psi / 2])
    other = rng.choice([1, 0, -1], size, p=[psi / 2, 1 - psi, psi / 2])
    return human, np.where(rng.random(size) < right, human, other)


def corrected_gate(rng, m: int) -> bool:
    _, unlabelled = judged(rng, 500, 0.10, 0.9)
    human, labelled = judged(rng, m, 0.10, 0.9)
    result = corrected.ppi_difference(unlabelled.tolist(), labelled.tolist(), human.tolist(), 0.05)
    return corrected.corrected_tests(result, -0.05).p_hold <= 0.05


def sequential_gate(rng, n: int) -> bool:
    x = rng.choice([1.05, 0.05, -0.95], n, p=[0.05, 0.9, 0.05])
    return betting.betting_p(x.tolist(), 0.95, 0.05, 1.0) <= 0.05


def test_planned_power_is_the_power_of_the_gate(effort) -> None:
    rows = [*proportion_rows(), *(r for n in ((20, 40, 80) if effort.full else (20,)) for r in paired_rows(n)), *simulated_rows(effort)]
    effort.write("plan_power", rows)
    off = [r for r in rows if abs(float(str(r["difference"]))) > float(str(r["tolerance"]))]
    assert not off, off


CELLS = [(m, psi) for psi in (0.02, 0.05, 0.10, 0.20) for m in (0.02, 0.03, 0.05) if plan.ni_n(m, psi, 0.05, 0.9) <= 1146]


def test_the_normal_formula_beside_the_exact_n(effort) -> None:
    """Section 5.2: at the formula's n the exact power is .799-.846 for .80, .898-.931 for .90, in nine cells."""
    assert len(CELLS) == 9
    rows = []
    for margin, psi in CELLS if effort.full else CELLS[2:3]:
        for target, low, high in ((0.80, 0.799, 0.8465), (0.90, 0.898, 0.9315)):
            formula = plan.ni_n(margin, psi, 0.05, target)
            power = plan.ni_power(formula, margin, psi, 0.05)
            exact = plan.ni_exact_n(margin, psi, 0.05, target)
            assert low - 0.0005 <= power <= high
            assert plan.ni_power(exact, margin, psi, 0.05) >= target
            assert 0.92 * formula <= exact <= 1.05 * formula
            assert abs(power - plan.ni_power_normal(formula, margin, psi, 0.05)) <= 0.05
            rows.append({
                "margin": margin, "psi": psi, "power": target, "n_formula": formula, "exact_power": f"{power:.4f}", "n_exact": exact,
            })  # fmt: skip
    effort.write("plan_n", rows)


def test_the_committed_tables(effort) -> None:
    """Each row of the table keeps its tolerance, and one is derived again."""
    kept = effort.read("plan_power")
    assert {r["gate"] for r in kept} == set(planner.GATES)
    assert all(abs(float(r["difference"])) <= float(r["tolerance"]) for r in kept)
    assert proportion_rows()[0] == {**kept[0], "n": int(kept[0]["n"])}
    row = effort.read("plan_n")[4]
    assert str(plan.ni_n(float(row["margin"]), float(row["psi"]), 0.05, float(row["power"]))) == row["n_formula"]
