"""Change points: false alarms of unchanged histories, steps and drifts found, beside rules that look at pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from harness.stats.changes import Change, change_points
from suites.selftest.quality.simulate import fewest, generator, most

pytestmark = pytest.mark.selftest

RUNS, PERMUTATIONS = 40, 199
Maker = Callable[[np.random.Generator, int], np.ndarray]


def normal(rng: np.random.Generator, runs: int) -> np.ndarray:
    return rng.normal(size=runs)


def autoregressive(phi: float) -> Maker:
    """Each run resembles the one before: variance 1, correlation phi."""

    def history(rng: np.random.Generator, runs: int) -> np.ndarray:
        x = rng.normal(size=runs)
        for i in range(1, runs):
            x[i] = phi * x[i - 1] + np.sqrt(1 - phi * phi) * x[i]
        return x

    return history


def shifted(amounts: np.ndarray) -> Maker:
    return lambda rng, runs: rng.normal(size=runs) + amounts


def step(size: float, first: int, last: int = RUNS) -> Maker:
    return shifted(np.where((np.arange(RUNS) >= first) & (np.arange(RUNS) < last), size, 0.0))


EXCHANGEABLE: dict[str, tuple[Maker, int]] = {
    "normal": (normal, RUNS),
    "normal, 10 runs": (normal, 10),
    "normal, 100 runs": (normal, 100),
    "log-normal": (lambda rng, runs: rng.lognormal(0, 1, runs), RUNS),
    "Student t, 2 df": (lambda rng, runs: rng.standard_t(2, runs), RUNS),
    "accuracy, 100 items at .9": (lambda rng, runs: rng.binomial(100, 0.9, runs) / 100, RUNS),
    "pass or fail at .8": (lambda rng, runs: (rng.random(runs) < 0.8).astype(float), RUNS),
}
NOT_EXCHANGEABLE: dict[str, tuple[Maker, int]] = {
    "autocorrelation .2": (autoregressive(0.2), RUNS),
    "autocorrelation .5": (autoregressive(0.5), RUNS),
    "autocorrelation .8": (autoregressive(0.8), RUNS),
    "spread x 3 after run 20": (lambda rng, runs: rng.normal(size=runs) * np.where(np.arange(runs) < runs // 2, 1, 3), RUNS),
    "spread x 3 after run 30": (lambda rng, runs: rng.normal(size=runs) * np.where(np.arange(runs) < 3 * runs // 4, 1, 3), RUNS),
}
CHANGED: dict[str, tuple[Maker, tuple[int, ...]]] = {
    "step of 1 sd at run 20": (step(1, 20), (20,)),
    "step of 2 sd at run 20": (step(2, 20), (20,)),
    "step of 4 sd at run 20": (step(4, 20), (20,)),
    "step of 2 sd at run 33": (step(2, 33), (33,)),
    "2 sd from run 15 to 25": (step(2, 15, 25), (15, 25)),
    "drift of 2 sd over 40 runs": (shifted(np.linspace(0, 2, RUNS)), ()),
}


# --- rules in use, on the same histories: does the history raise an alarm? ------------------------------


def pair_alarm(x: np.ndarray, level: float) -> bool:
    """Any run against the one before it, the spread known, two-sided."""
    return bool(np.abs(np.diff(x)).max() / np.sqrt(2) > stats.norm.isf(level / 2))


def best_split_t_alarm(x: np.ndarray, level: float, shortest: int = 5) -> bool:
    """Student's t at the best place, as though the place had not been chosen from the data."""
    n = len(x)
    k = np.arange(shortest, n - shortest + 1)
    sums, squares = np.cumsum(x)[k - 1], np.cumsum(x * x)[k - 1]
    within = squares - sums**2 / k + (x @ x - squares) - (x.sum() - sums) ** 2 / (n - k)
    distance = np.abs(sums / k - (x.sum() - sums) / (n - k))
    if within.min() <= 1e-12:
        return bool(distance.max() > 0)
    t = distance / np.sqrt(within / (n - 2) * (1 / k + 1 / (n - k)))
    return bool(2 * stats.t.sf(t.max(), n - 2) <= level)


def trend_alarm(x: np.ndarray, level: float) -> bool:
    """Spearman's correlation with time, two-sided, normal approximation: for drift alone."""
    ranks = stats.rankdata(x)
    if ranks.std() == 0:
        return False
    return bool(abs(np.corrcoef(ranks, np.arange(len(x)))[0, 1]) * np.sqrt(len(x) - 1) > stats.norm.isf(level / 2))


def _row(kind: str, name: str, maker: Maker, runs: int, truth: tuple[int, ...], histories: int) -> dict[str, object]:
    rng = generator("changes", name)
    xs = [maker(rng, runs) for _ in range(histories)]
    found = [change_points(x.tolist(), 0.05, f"{name}:{i}", permutations=PERMUTATIONS) for i, x in enumerate(xs)]

    def share(alarms: Callable[[np.ndarray], bool]) -> float:
        return round(sum(map(alarms, xs)) / histories, 4)

    def counted(good: Callable[[list[Change]], bool]) -> float:
        return round(sum(map(good, found)) / histories, 4)

    return {
        "kind": kind, "history": name, "runs": runs, "histories": histories,
        "alarm_at_.05": counted(bool),
        "alarm_at_.01": counted(lambda cs: any(c.p <= 0.01 for c in cs)),
        "first_change_within_3_runs": counted(lambda cs: any(abs(c.first - truth[0]) <= 3 for c in cs)) if truth else "",
        "more_changes_than_true": counted(lambda cs: len(cs) > len(truth)) if truth else "",
        "any_pair_at_.01": share(lambda x: pair_alarm(x, 0.01)),
        "any_pair_at_.01_over_pairs": share(lambda x: pair_alarm(x, 0.01 / (runs - 1))),
        "best_split_t_at_.05": share(lambda x: best_split_t_alarm(x, 0.05)),
        "best_split_t_at_.01": share(lambda x: best_split_t_alarm(x, 0.01)),
        "trend_at_.05": share(lambda x: trend_alarm(x, 0.05)),
        "trend_at_.01": share(lambda x: trend_alarm(x, 0.01)),
    }  # fmt: skip


def test_the_rivals_are_what_they_say() -> None:
    x = generator("rivals").normal(size=30)
    ps = [stats.ttest_ind(x[:k], x[k:]).pvalue for k in range(5, 26)]
    assert best_split_t_alarm(x, min(ps) + 1e-9) and not best_split_t_alarm(x, min(ps) - 1e-9)
    steepest = 2 * stats.norm.sf(np.abs(np.diff(x)).max() / np.sqrt(2))
    assert pair_alarm(x, steepest + 1e-9) and not pair_alarm(x, steepest - 1e-9)
    rho = stats.spearmanr(x, np.arange(30)).statistic
    p = 2 * stats.norm.sf(abs(rho) * np.sqrt(29))
    assert trend_alarm(x, p + 1e-9) and not trend_alarm(x, p - 1e-9)


def test_false_alarms_and_power(effort) -> None:
    """False alarms at the level whatever the distribution; a drift that no pair shows is found."""
    histories = effort.replicates(2_000, 60)
    rows = []
    for name, (maker, runs) in EXCHANGEABLE.items():
        row = _row("unchanged", name, maker, runs, (), histories)
        assert row["alarm_at_.05"] * histories <= most(histories, 0.05), row
        assert row["alarm_at_.01"] * histories <= most(histories, 0.01), row
        rows.append(row)
    for name, (maker, runs) in NOT_EXCHANGEABLE.items() if effort.full else ():
        rows.append(_row("unchanged, not exchangeable", name, maker, runs, (), histories))
    for name, (maker, truth) in CHANGED.items():
        rows.append(_row("changed", name, maker, RUNS, truth, histories))
    by_name = {r["history"]: r for r in rows}
    drift, calm = by_name["drift of 2 sd over 40 runs"], by_name["normal"]
    assert drift["alarm_at_.05"] * histories >= fewest(histories, 0.5)
    assert abs(drift["any_pair_at_.01"] - calm["any_pair_at_.01"]) * histories <= 4 * np.sqrt(histories / 2)
    assert by_name["step of 1 sd at run 20"]["alarm_at_.05"] * histories >= fewest(histories, 0.5)
    strong = by_name["step of 4 sd at run 20"]
    assert strong["first_change_within_3_runs"] >= 0.97
    assert strong["more_changes_than_true"] * histories <= most(histories, 0.05), strong
    assert calm["best_split_t_at_.05"] * histories > most(histories, 0.10)
    if effort.full:
        assert by_name["autocorrelation .5"]["alarm_at_.05"] > 0.15
    effort.write("changes_alarms", rows)


def test_the_table(effort) -> None:
    """The committed table: levels kept where runs are exchangeable, and said to be lost where they are not."""
    kept = {r["history"]: r for r in effort.read("changes_alarms")}
    for name in EXCHANGEABLE:
        for column, level in (("alarm_at_.05", 0.05), ("alarm_at_.01", 0.01)):
            count = int(kept[name]["histories"])
            assert float(kept[name][column]) * count <= most(count, level)
    assert float(kept["autocorrelation .8"]["alarm_at_.05"]) > 0.3
    drift = kept["drift of 2 sd over 40 runs"]
    assert float(drift["alarm_at_.05"]) > 0.5
    assert abs(float(drift["any_pair_at_.01"]) - float(kept["normal"]["any_pair_at_.01"])) < 0.05
