"""Size and power of the paired binary rules by exact enumeration, beside what else is in use.

Every probability is a sum over tables, none is simulated. "Lower" and "upper" bracket a supremum over the nuisance
parameter and are proved; a figure without a bracket is the largest on a grid, so no more than the truth.
"""

import math
import random
from multiprocessing import get_context

import numpy as np
import pytest
from scipy import stats

from harness.stats import paired, plan
from harness.stats.paired import noninferiority_region, region_power
from harness.stats.special import normal_quantile
from suites.selftest.quality import rivals

pytestmark = pytest.mark.selftest

ALPHA = 0.05
MARGINS = (0.01, 0.02, 0.03, 0.05)
CELLS = [(n, margin) for n in (*range(1, 501), 1000) for margin in MARGINS]


def size_row(n: int, margin: float) -> dict[str, float]:
    """The size of both verdicts, at delta = -margin, and of the rivals there: nominal .05 all, the bootstrap .025."""
    holds, fails = (noninferiority_region(n, delta0, ALPHA) for delta0 in (-margin, margin))  # to fail: the arms swapped
    tango = paired._supremum(_tango_starts(n, margin), -margin, 1e-4, None)
    return {
        "n": n,
        "margin": margin,
        "lower": _down(holds.size.lower),
        "upper": _up(holds.size.upper),
        "z_crit": round(holds.z_crit, 9),
        "fail_lower": _down(fails.size.lower),
        "fail_upper": _up(fails.size.upper),
        "tango_lower": _down(tango.lower),
        "tango_upper": _up(tango.upper),
        "bootstrap": round(rivals.bootstrap_size(n, margin), 4),
        "wald": round(rivals.largest(rivals.wald_starts(n, margin), margin), 4),
        "tolerance": round(rivals.largest(rivals.tolerance_starts(n, margin), margin), 4),
    }


EXACT = {  # section 5.3: lower ends of the brackets at margins .01, .02, .03, .05
    50: (0.0446, 0.0493, 0.0495, 0.0400),
    100: (0.0466, 0.0496, 0.0476, 0.0461),
    200: (0.0479, 0.0465, 0.0465, 0.0464),
    300: (0.0490, 0.0495, 0.0463, 0.0486),
    500: (0.0499, 0.0497, 0.0499, 0.0498),
    1000: (0.0498, 0.0498, 0.0484, 0.0499),  # the section's .0488 .0490 .0484 .0493 stopped short of the largest region
}
TANGO = {
    50: (0.0518, 0.0557, 0.0534, 0.0524),
    100: (0.0558, 0.0518, 0.0547, 0.0546),
    200: (0.0519, 0.0519, 0.0593, 0.0518),
    300: (0.0529, 0.0602, 0.0529, 0.0529),
    500: (0.0537, 0.0509, 0.0537, 0.0536),
    1000: (0.0513, 0.0512, 0.0534, 0.0532),
}


def test_the_exact_rule_keeps_alpha_for_every_n_up_to_500(effort) -> None:
    """The whole table, or a sample of its rows derived again; and what the rivals let pass in the same rows."""
    if effort.full:
        with get_context("spawn").Pool(2) as pool:
            effort.write("ni_size", pool.starmap(size_row, CELLS, chunksize=8))
    table = {(int(row["n"]), float(row["margin"])): {k: float(v) for k, v in row.items()} for row in effort.read("ni_size")}
    assert list(table) == CELLS
    for row in table.values():
        assert row["lower"] <= row["upper"] <= ALPHA
        assert row["fail_lower"] <= row["fail_upper"] <= ALPHA
        assert row["upper"] - row["lower"] < 1.1e-4
    rng = random.Random(29)
    for n, margin in rng.sample(CELLS, effort.replicates(400, 30)):  # scipy's sum over the region that z_crit gives
        starts = np.array(paired._starts(n, -margin, table[n, margin]["z_crit"] - 1e-9))
        assert -1e-9 <= table[n, margin]["upper"] - rivals.largest(starts, margin) <= 4e-3, (n, margin)
    for cell in () if effort.full else [(rng.randint(low, 2 * low), rng.choice(MARGINS)) for low in (5, 15, 40, 60, 90, 170)]:
        assert size_row(*cell) == pytest.approx(table[cell], abs=2e-6), cell
    for n in EXACT:
        assert [table[n, margin]["lower"] for margin in MARGINS] == pytest.approx(list(EXACT[n]), abs=1.5e-4)
        assert [table[n, margin]["tango_lower"] for margin in MARGINS] == pytest.approx(list(TANGO[n]), abs=1.5e-4)
    rows = [row for row in table.values() if row["n"] >= 50]
    assert all(row["tango_lower"] > ALPHA for row in rows)
    assert 0.069 < max(row["tango_lower"] for row in rows) < 0.07
    assert min(row["wald"] for row in rows) > 0.06
    assert min(row["tolerance"] for row in rows) > 0.45
    assert sum(row["bootstrap"] > 0.025 for row in rows) > 0.99 * len(rows)


BOOTSTRAP = {  # section 5.4
    30: (0.740, 0.546, 0.401, 0.215),
    50: (0.605, 0.364, 0.218, 0.077),
    100: (0.366, 0.133, 0.048, 0.037),
    150: (0.222, 0.048, 0.059, 0.055),
    200: (0.134, 0.089, 0.059, 0.026),
    300: (0.049, 0.060, 0.052, 0.034),
    500: (0.040, 0.028, 0.035, 0.034),
    1000: (0.029, 0.038, 0.033, 0.031),
}


@pytest.mark.parametrize("n", BOOTSTRAP)
def test_bootstrap_leaks_of_section_5_4(n: int) -> None:
    assert [rivals.bootstrap_size(n, margin) for margin in MARGINS] == pytest.approx(BOOTSTRAP[n], abs=6e-4)  # the section rounds twice


# --- equivalence ----------------------------------------------------------------------------------


def equivalence_row(n: int, margin: float) -> dict[str, float]:
    """P(holds) at delta = +-margin and P(fails) for -margin <= delta <= margin, the largest on a grid, below their proved bounds."""
    one_side, refuted = noninferiority_region(n, -margin, ALPHA), noninferiority_region(n, margin, ALPHA / 2)
    starts = np.array(one_side.starts)
    m = np.arange(n + 1)
    both = np.maximum(m - starts + 1, starts)  # starts <= b <= m - starts
    p12 = np.append(0.0, np.geomspace(1e-4, (1 - margin) / 2, 41))
    hold = float((rivals.staircase(starts, p12, p12 + margin) - rivals.staircase(both, p12, p12 + margin)).max())
    fail = 0.0
    for delta in np.linspace(0, margin, 6):
        better = rivals.staircase(np.array(refuted.starts), p12 + delta, p12)  # the mirror image counts the losses
        worse = rivals.staircase(np.array(refuted.starts), p12, p12 + delta)
        fail = max(fail, float((better + worse).max()))
    return {
        "n": n,
        "margin": margin,
        "hold": round(hold, 5),
        "hold_bound": _up(one_side.size.upper),
        "fail": round(fail, 5),
        "fail_bound": _up(2 * refuted.size.upper),
    }


def test_equivalence_keeps_alpha_on_both_sides(effort) -> None:
    cells = [(n, margin) for n in (50, 100, 200, 300, 500) for margin in (0.03, 0.05, 0.1)]
    if effort.full:
        effort.write("ni_equivalence", [equivalence_row(*cell) for cell in cells])
    table = {(int(row["n"]), float(row["margin"])): {k: float(v) for k, v in row.items()} for row in effort.read("ni_equivalence")}
    assert list(table) == cells
    for row in table.values():
        assert row["hold"] <= row["hold_bound"] <= ALPHA
        assert row["fail"] <= row["fail_bound"] <= ALPHA
    assert equivalence_row(100, 0.05) == pytest.approx(table[100, 0.05], abs=2e-5)


# --- no margin ------------------------------------------------------------------------------------


def mcnemar_row(n: int) -> dict[str, float]:
    """P("better") where the arms are equal, the largest over 400 shares of discordant items, at .025."""
    cells = np.linspace(0.0005, 0.5, 400)
    exact = np.array(plan._mcnemar_starts(n, 0.025))
    rules = {"exact": exact} | {kind: rivals.mcnemar_starts(n, 0.025, kind) for kind in ("mid-p", "plain", "corrected")}
    return {"n": n} | {name: round(float(rivals.staircase(starts, cells, cells).max()), 5) for name, starts in rules.items()}


def test_mcnemar_keeps_alpha_where_the_mid_p_does_not(effort) -> None:
    sizes = (20, 50, 100, 200, 500)
    effort.write("leaks_mcnemar", [mcnemar_row(n) for n in sizes])
    table = [{k: float(v) for k, v in row.items()} for row in effort.read("leaks_mcnemar")]
    assert [row["n"] for row in table] == list(sizes)
    for row in table:
        assert row == pytest.approx(mcnemar_row(int(row["n"])), abs=2e-5)
        assert row["exact"] <= 0.025
        assert row["corrected"] <= 0.025 < row["mid-p"] <= row["plain"]
    assert [row["mid-p"] for row in table[1:4]] == pytest.approx([0.0325, 0.0284, 0.0280], abs=1e-4)  # section 3.1


# --- power ----------------------------------------------------------------------------------------


def power_row(n: int, margin: float, psi: float) -> dict[str, float]:
    """Power where nothing changed (delta = 0) of the exact rule, and of Tango's, which exceeds alpha."""
    exact = region_power(noninferiority_region(n, -margin, ALPHA), psi / 2, psi / 2)
    tango = paired.staircase_probability(_tango_starts(n, margin))(psi / 2, psi / 2)
    figures = {"exact": exact, "tango": tango, "loss": tango - exact}
    return {"n": n, "margin": margin, "psi": psi} | {name: round(value, 4) for name, value in figures.items()}


def test_validity_costs_little_power(effort) -> None:
    cells = [(n, margin, psi) for n in (100, 200, 300, 500, 1000) for margin in MARGINS for psi in (0.02, 0.05, 0.1, 0.15, 0.2)]
    if effort.full:
        effort.write("ni_power", [power_row(*cell) for cell in cells])
    rows = [{k: float(v) for k, v in row.items()} for row in effort.read("ni_power")]
    table = {(int(row["n"]), row["margin"], row["psi"]): row for row in rows}
    assert list(table) == cells
    assert all(0 <= row["loss"] <= 0.04 for row in rows)
    for cell in (100, 0.05, 0.1), (200, 0.05, 0.05), (200, 0.02, 0.02):
        assert power_row(*cell) == pytest.approx(table[cell], abs=2e-4)
    section_5_2 = {(100, 0.05, 0.1): 41, (200, 0.05, 0.05): 88, (200, 0.05, 0.1): 67, (200, 0.05, 0.15): 54,
                   (300, 0.05, 0.1): 83, (500, 0.03, 0.05): 88, (500, 0.03, 0.1): 67, (500, 0.05, 0.1): 96}  # fmt: skip
    assert {cell: round(100 * table[cell]["exact"]) for cell in section_5_2} == section_5_2


# --- gates in use ---------------------------------------------------------------------------------

VLLM, GSM8K, WILSON, ROUNDED, UNPAIRED = (
    "vLLM lm-eval-harness: within 8 % of a stored score",
    "vLLM gsm8k: at most 8 points below a stored score",
    "vLLM PR 44704: one-sided Wilson limit not below a stored score",
    "llm-compressor: round(new / base, 2) >= .95",
    "lm-eval model_comparator: unpaired z, p > .05",
)
GATES = [  # gate, n, base, psi, points lost, and the share of section 5.4 that passes
    (VLLM, 1000, 0.755, None, 5, 0.77),
    (VLLM, 1000, 0.755, None, 6, 0.52),
    (GSM8K, 1319, 0.755, None, 5, 0.99),
    (GSM8K, 1319, 0.755, None, 7, 0.78),
    (WILSON, 1000, 0.755, None, 0, 0.048),
    (ROUNDED, 1000, 0.75, 0.12, 3.75, 0.64),
    (ROUNDED, 1000, 0.75, 0.12, 5, 0.20),
    (ROUNDED, 100, 0.75, 0.12, 0, 0.90),
    (ROUNDED, 1000, 0.781, 0.15, 0.03 * 78.1, 0.95),
    (ROUNDED, 1000, 0.781, 0.15, 0.05 * 78.1, 0.625),
    (ROUNDED, 1000, 0.781, 0.15, 0.06 * 78.1, 0.37),
    (ROUNDED, 100, 0.781, 0.15, 0, 0.88),
    (ROUNDED, 100, 0.781, 0.15, 0.08 * 78.1, 0.32),
    (UNPAIRED, 500, 0.755, 0.1, 5, None),
    (UNPAIRED, 200, 0.755, 0.1, 5, None),
]


def gate_passes(gate: str, n: int, base: float, psi: float | None, points: float) -> float:
    loss = points / 100
    if gate == VLLM:
        return rivals.fixed_tolerance(n, base, loss, 0.92 * base, 1.08 * base)
    if gate == GSM8K:
        return rivals.fixed_tolerance(n, base, loss, base - 0.08)
    if gate == WILSON:
        return rivals.wilson_against_constant(n, base, loss)
    assert psi is not None
    return rivals.paired_gate(n, base, psi, loss, rivals.rounded_ratio if gate == ROUNDED else rivals.unpaired_z(n))


def test_gates_in_use(effort) -> None:
    """Section 5.4, all exact here; beside each P(the exact rule holds at margin .05), with psi = .1 where none is declared."""
    if effort.full:
        rows = []
        for gate, n, base, psi, points, _ in GATES:
            share = 0.1 if psi is None else psi
            ours = plan.ni_power(n, 0.05, share, ALPHA, -points / 100)
            rows.append({"gate": gate, "n": n, "base": base, "psi": share, "points_lost": round(points, 3),
                         "passes": round(gate_passes(gate, n, base, psi, points), 4), "exact_rule_05": round(ours, 4)})  # fmt: skip
        effort.write("leaks_gates", rows)
    table = effort.read("leaks_gates")
    assert [row["gate"] for row in table] == [gate for gate, *_ in GATES]
    for row, (gate, n, base, psi, points, published) in zip(table, GATES, strict=True):
        passes = float(row["passes"])
        assert passes == pytest.approx(gate_passes(gate, n, base, psi, points), abs=1e-4)
        if published is not None:
            assert passes == pytest.approx(published, abs=0.011)
        if points >= 5:
            assert float(row["exact_rule_05"]) <= ALPHA < passes


def test_a_loss_that_the_unpaired_z_does_not_see() -> None:
    """Section 8: 996 of 1319 right before, 13 gained, 53 lost: z = 1.78, p = .076, and yet McNemar's p is 7e-7."""
    assert rivals.unpaired_z(1319)(996, np.array([956]))[0]
    assert 2 * paired.mcnemar(13, 53).p_fail < 1e-6


def test_the_sums_of_the_rivals_are_those_of_the_plain_trinomial() -> None:
    """The two-step sum of a paired gate and the row sum of a staircase against every table of 30 items."""
    n, base, psi, loss = 30, 0.7, 0.3, 0.06
    p12, p21 = (psi - loss) / 2, (psi + loss) / 2
    both, rounded, tolerance = base - p21, 0.0, 0.0
    for b in range(n + 1):
        for c in range(n + 1 - b):
            for a in range(n + 1 - b - c):
                chance = stats.multinomial.pmf([a, b, c, n - a - b - c], n, [both, p12, p21, 1 - both - psi])
                rounded += chance * (a + c > 0 and round((a + b) / (a + c), 2) >= 0.95)
                tolerance += chance * (b - c >= -0.06 * n - 1e-9)
    assert rivals.paired_gate(n, base, psi, loss, rivals.rounded_ratio) == pytest.approx(rounded, abs=1e-9)
    assert float(rivals.staircase(rivals.tolerance_starts(n, 0.06), p12, p21)[0]) == pytest.approx(tolerance, abs=1e-9)


def _tango_starts(n: int, margin: float) -> list[int]:
    return paired._starts(n, -margin, normal_quantile(1 - ALPHA))


def _down(x: float) -> float:
    return math.floor(x * 1e6) / 1e6


def _up(x: float) -> float:
    return math.ceil(x * 1e6) / 1e6
