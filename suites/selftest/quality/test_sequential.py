"""A look after every item: what it costs where the rule allows it, and what it costs where the rule does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache

import numpy as np
import pytest
from scipy import stats

from harness.stats.betting import bounded_mean_tests, first_decision, looks_level, running_tests
from harness.stats.paired import noninferiority_region, tango_interval
from harness.stats.plan import ni_n
from suites.selftest.quality.simulate import fewest, generator, most

pytestmark = pytest.mark.selftest

ALPHA = 0.05


# --- engines: whole samples of streams at a time, a stream per row -----------------------------------


def log_wealth(xs: np.ndarray, lower: float, gap: float, half_range: float) -> Iterator[np.ndarray]:
    """``betting_log_wealth`` of every row after each column."""
    prior = 0.1 * half_range**2
    wealth, total, squares = np.zeros(len(xs)), np.full(len(xs), gap), np.full(len(xs), prior + gap * gap)
    for i, x in enumerate(xs.T, start=1):
        mean = total / i
        variance = np.maximum(squares / i - mean * mean, 1e-3 * half_range**2)
        wealth = wealth + np.log1p(np.clip(mean / (variance + mean * mean), 0.0, 0.75 / lower) * x)
        total = total + x
        squares = squares + x * x
        yield wealth


def first_at_least(columns: Iterable[np.ndarray], threshold: float, streams: int, never: int) -> np.ndarray:
    """After which item each stream first reaches the threshold; ``never`` + 1 if it does not."""
    first = np.full(streams, never + 1)
    for i, column in enumerate(columns, start=1):
        first[(first > never) & (column >= threshold)] = i
    return first


def differences(rng: np.random.Generator, shape: tuple[int, int], psi: float, delta: float) -> np.ndarray:
    """New minus old: 1, -1 or 0, discordant with probability psi, delta on average."""
    u = rng.random(shape, dtype=np.float32)
    return (u < (psi + delta) / 2).astype(np.int8) - (u > 1 - (psi - delta) / 2).astype(np.int8)


def betting_stops(d: np.ndarray, margin: float, level: float = ALPHA) -> tuple[np.ndarray, np.ndarray]:
    """Where "not worse by margin" is first proved, and where its contrary."""
    threshold, (streams, items) = -math.log(level), d.shape
    x = d + margin
    return (
        first_at_least(log_wealth(x, 1 - margin, margin, 1.0), threshold, streams, items),
        first_at_least(log_wealth(-x, 1 + margin, margin, 1.0), threshold, streams, items),
    )


def tango_stops(d: np.ndarray, margin: float, every: int) -> np.ndarray:
    """Where Tango's Z, meant for one n, first passes 1.645, looked at ``every`` so many items."""
    z = stats.norm.isf(ALPHA)
    b, c = np.cumsum(d == 1, axis=1, dtype=np.int32), np.cumsum(d == -1, axis=1, dtype=np.int32)

    def scores() -> Iterator[np.ndarray]:
        for i in range(d.shape[1]):
            n = i + 1
            if n % every:
                yield np.full(len(d), -np.inf)
                continue
            gains, losses = b[:, i].astype(float), c[:, i].astype(float)
            linear = -gains - losses - (2 * n - gains + losses) * margin
            p21 = (np.sqrt(np.maximum(linear**2 - 8 * n * losses * margin * (1 + margin), 0.0)) - linear) / (4 * n)
            p21 = np.clip(p21, margin, (1 + margin) / 2)
            yield (gains - losses + n * margin) / np.sqrt(n * (2 * p21 - margin * (1 + margin)))

    return first_at_least(scores(), z, len(d), d.shape[1])


def test_the_engine_is_the_rule() -> None:
    rng = generator("engine")
    for psi, delta, margin in ((0.1, 0.0, 0.05), (0.3, -0.1, 0.1), (0.05, 0.0, 0.02)):
        d = differences(rng, (6, 700), psi, delta)
        hold = np.array(list(log_wealth(d + margin, 1 - margin, margin, 1.0)))
        fail = np.array(list(log_wealth(-(d + margin), 1 + margin, margin, 1.0)))
        stops = np.minimum(*betting_stops(d, margin))
        for i, stream in enumerate(d.astype(float).tolist()):
            shipped = np.array(list(running_tests(stream, (-1, 1), -margin, margin, "above")))
            for engine, ps in ((hold, shipped[:, 0]), (fail, shipped[:, 1])):
                assert np.minimum(1, np.exp(-np.maximum.accumulate(engine[:, i]))) == pytest.approx(ps, rel=1e-9)
            stop = first_decision(stream, (-1, 1), -margin, ALPHA, ALPHA, margin, "above")
            assert stops[i] == (701 if stop is None else stop.n)


def test_tango_engine_is_tango() -> None:
    d = differences(generator("tango"), (4, 300), 0.15, 0.0)
    for row, stop in zip(d, tango_stops(d, 0.05, 1), strict=True):
        low = [tango_interval(int((row[:n] == 1).sum()), int((row[:n] == -1).sum()), n, ALPHA).low for n in range(1, 301)]
        assert stop == next((n for n, limit in enumerate(low, start=1) if limit > -0.05), 301)


# --- paired non-inferiority, all cells ----------------------------------------------------------------

PUBLISHED = [(0.05, 0.02), (0.10, 0.03), (0.10, 0.05), (0.15, 0.05)]  # section 5.7
GRID = [
    *PUBLISHED,
    *(
        (psi, margin)
        for psi in (0.02, 0.05, 0.10, 0.15, 0.30, 0.60)
        for margin in (0.02, 0.03, 0.05, 0.10)
        if margin <= psi and (psi, margin) not in PUBLISHED
    ),
]
ITEMS = 2000


def _ni_row(psi: float, margin: float, streams: int) -> dict[str, object]:
    worse = differences(generator("at the margin", psi, margin), (streams, ITEMS), psi, -margin)
    same = differences(generator("no difference", psi, margin), (streams, ITEMS), psi, 0.0)
    false_hold, false_fail = betting_stops(worse, margin)
    hold, fail = betting_stops(same, margin)
    part = streams // 4
    return {
        "discordant": psi, "margin": margin, "streams": streams, "items_at_most": ITEMS, "level": ALPHA,
        "false_pass": round(float((false_hold <= ITEMS).mean()), 4),
        "false_fail_at_margin": round(float((false_fail <= ITEMS).mean()), 4),
        "false_fail_no_difference": round(float((fail <= np.minimum(hold, ITEMS)).mean()), 4),
        "power_no_difference": round(float((hold <= np.minimum(fail, ITEMS)).mean()), 4),
        "mean_items": round(float(np.minimum(hold, ITEMS).mean())),
        "fixed_n_power_80": ni_n(margin, psi, ALPHA, 0.80),
        "fixed_n_power_90": ni_n(margin, psi, ALPHA, 0.90),
        "tango_every_item_false_pass": round(float((tango_stops(worse[:part], margin, 1) <= ITEMS).mean()), 4),
        "tango_every_8_false_pass": round(float((tango_stops(worse[:part], margin, 8) <= ITEMS).mean()), 4),
    }  # fmt: skip


def test_a_look_after_every_item(effort) -> None:
    """False pass and false fail stay below the level wherever the truth lies; peeking at a fixed-n rule does not."""
    streams = effort.replicates(5_000, 1_000)
    rows = [_ni_row(psi, margin, streams) for psi, margin in (GRID if effort.full else PUBLISHED[2:3])]
    for row in rows:
        assert row["false_pass"] * streams <= most(streams, ALPHA), row
        assert row["false_fail_at_margin"] * streams <= most(streams, ALPHA), row
        assert row["false_fail_no_difference"] * streams <= most(streams, ALPHA), row
        assert row["tango_every_8_false_pass"] > 0.10, row
    by_cell = {(r["discordant"], r["margin"]): r for r in rows}
    if effort.full:  # the figures of section 5.7
        for cell in PUBLISHED:  # .036-.042, of 4000 streams
            assert fewest(streams, 0.036) <= by_cell[cell]["false_pass"] * streams <= most(streams, 0.042)
        assert by_cell[0.05, 0.02]["power_no_difference"] == pytest.approx(0.80, abs=0.02)
        assert by_cell[0.05, 0.02]["mean_items"] == pytest.approx(1076, abs=25)
        assert by_cell[0.05, 0.02]["fixed_n_power_80"] == 837
    assert by_cell[0.10, 0.05]["power_no_difference"] >= 0.995
    assert by_cell[0.10, 0.05]["mean_items"] == pytest.approx(384, abs=35)
    assert by_cell[0.10, 0.05]["fixed_n_power_90"] == 374
    effort.write("sequential_ni", rows)


def test_the_table(effort) -> None:
    """The committed table keeps the level in every cell, and a small sample agrees with it."""
    kept = effort.read("sequential_ni")
    assert [(float(r["discordant"]), float(r["margin"])) for r in kept] == GRID
    for r in kept:
        assert float(r["false_pass"]) * int(r["streams"]) <= most(int(r["streams"]), ALPHA)
        assert float(r["false_fail_at_margin"]) * int(r["streams"]) <= most(int(r["streams"]), ALPHA)
    r = kept[3]
    again = _ni_row(float(r["discordant"]), float(r["margin"]), 400)
    assert fewest(400, float(r["false_pass"])) <= again["false_pass"] * 400 <= most(400, float(r["false_pass"]))
    assert abs(again["mean_items"] - int(r["mean_items"])) < 60


# --- rules for one n, looked at more than once: exact -------------------------------------------------


def wilson_verdicts(p: float, threshold: float, z: float, every: int, items: int) -> tuple[float, float]:
    """P(PASS), P(PASS or FAIL) of "Wilson's interval clears the threshold", looked at every so many items: exact."""
    open_counts = np.array([1.0])
    step = stats.binom.pmf(np.arange(every + 1), every, p)
    passed = failed = 0.0
    for n in range(every, items + 1, every):
        open_counts = np.convolve(open_counts, step)
        k = np.arange(n + 1)
        centre, half = (k + z * z / 2) / (n + z * z), z * np.sqrt(k * (n - k) / n + z * z / 4) / (n + z * z)
        above, below = centre - half > threshold, centre + half < threshold
        passed += open_counts[above].sum()
        failed += open_counts[below].sum()
        open_counts[above | below] = 0.0
    return float(passed), float(passed + failed)


@lru_cache
def _starts(n: int, margin: float, level: float) -> tuple[int, ...]:
    return noninferiority_region(n, -margin, level).starts


def ni_pass(psi: float, margin: float, levels: dict[int, float]) -> float:
    """P(the exact rule holds at some look) where the truth lies at the margin; a level for each n looked at: exact."""
    gain, loss = (psi - margin) / 2, (psi + margin) / 2
    size = max(levels) + 1
    still = np.zeros((size, size))  # b, c
    still[0, 0] = 1.0
    passed = 0.0
    b, c = np.indices(still.shape)
    for n in range(1, size):
        after = (1 - psi) * still
        after[1:] += gain * still[:-1]
        after[:, 1:] += loss * still[:, :-1]
        still = after
        if n in levels:
            starts = np.full(2 * size, size)  # more flips than items cannot be
            starts[: n + 1] = _starts(n, margin, levels[n])
            holds = b >= starts[b + c]
            passed += float(still[holds].sum())
            still[holds] = 0.0
    return passed


def proportion_stops(rng: np.random.Generator, shape: tuple[int, int], p: float, threshold: float, level: float):
    """The betting rule for "above the threshold" on successes and failures: where it passes, where it fails."""
    x = (rng.random(shape, dtype=np.float32) < p) - threshold
    bound = -math.log(level)
    gap = (1 - threshold) / 2
    return (
        first_at_least(log_wealth(x, threshold, gap, 0.5), bound, *shape),
        first_at_least(log_wealth(-x, 1 - threshold, gap, 0.5), bound, *shape),
    )


def test_peeking_at_wilson(effort) -> None:
    """Section 8: .025 nominal becomes .107 at 25 looks and .218 at 500; with a FAIL counted .272."""
    rows = []
    for items, streams in ((200, effort.replicates(20_000, 2_000)), (4000, effort.replicates(4_000, 200))):
        passed, either = wilson_verdicts(0.8, 0.8, 1.96, 8, items)
        ours_passed, ours_failed = proportion_stops(generator("wilson", items), (streams, items), 0.8, 0.8, 0.025)
        ours = {"pass": float((ours_passed <= items).mean()), "fail": float((ours_failed <= items).mean())}
        assert max(ours.values()) * streams <= most(streams, 0.025)
        naive = {"rule": "Wilson z = 1.96, every 8 items", "pass": passed, "fail": either - passed, "by": "exact"}
        betting = {"rule": "betting, every item", **ours, "by": f"{streams} streams"}
        for rule in (naive, betting):
            rows.append({
                "rule": rule["rule"], "truth": "rate .8, claim above .8", "items_at_most": items, "level_each_side": 0.025,
                "false_pass": round(rule["pass"], 4), "false_fail": round(rule["fail"], 4), "by": rule["by"],
            })  # fmt: skip
    assert wilson_verdicts(0.8, 0.8, 1.96, 8, 200) == pytest.approx((0.1069, 0.272), abs=5e-4)
    assert wilson_verdicts(0.8, 0.8, 1.96, 8, 4000)[0] == pytest.approx(0.218, abs=5e-4)
    effort.write("sequential_wilson", rows)


def test_peeking_at_the_exact_rule(effort) -> None:
    """Once it keeps its level; at half and all of the data at .05 it does not; at alpha / 2 each it does."""
    last = 400 if effort.full else 80
    plans: dict[str, dict[int, float]] = {
        "once": {last: ALPHA},
        "half and all, .05 each": {last // 2: ALPHA, last: ALPHA},
        "half and all, alpha / 2 each": dict.fromkeys((last // 2, last), looks_level(ALPHA, 2)),
        "every 8 items, .05 each": dict.fromkeys(range(8, last + 1, 8), ALPHA),
    }
    rows = []
    for psi in (0.05, 0.10, 0.15, 0.30) if effort.full else (0.10, 0.30):
        row: dict[str, object] = {"discordant": psi, "margin": 0.05, "items_at_most": last}
        row |= {name: round(ni_pass(psi, 0.05, levels), 4) for name, levels in plans.items()}
        streams = effort.replicates(5_000, 1_000)
        d = differences(generator("exact rule", psi), (streams, last), psi, -0.05)
        row["betting, every item"] = round(float((betting_stops(d, 0.05)[0] <= last).mean()), 4)
        assert row["once"] <= ALPHA
        assert row["half and all, alpha / 2 each"] <= ALPHA
        assert row["betting, every item"] * streams <= most(streams, ALPHA)
        assert row["once"] <= row["half and all, .05 each"] <= row["every 8 items, .05 each"]
        rows.append(row)
    assert max(row["half and all, .05 each"] for row in rows) > ALPHA
    assert max(row["every 8 items, .05 each"] for row in rows) > (0.10 if effort.full else 0.055)
    effort.write("sequential_exact", rows)


# --- what is shown at the stop, and other bets ---------------------------------------------------------


def test_the_interval_at_a_stop(effort) -> None:
    """A betting limit is right at the decision, and even at the look that flatters most; a fixed-n limit is not.

    No difference, one item in ten discordant, margin .05: how often the lower limit exceeds the truth, 0.
    """
    streams, items = effort.replicates(2_000, 150), 1200
    d = differences(generator("interval"), (streams, items), 0.10, 0.0)
    at_decision = 0
    for stream in d[: streams // 2].astype(float).tolist():
        stop = first_decision(stream, (-1, 1), -0.05, ALPHA, ALPHA, 0.05, "above")
        n = items if stop is None else stop.n
        at_decision += bounded_mean_tests(stream[:n], (-1, 1), 0.0, range(n), 0.05, "above").p_hold <= ALPHA
    at_any = int((first_at_least(log_wealth(d, 1.0, 0.05, 1.0), -math.log(ALPHA), streams, items) <= items).sum())
    tango = int((tango_stops(d, 1e-9, 8) <= items).sum())
    assert at_decision <= most(streams // 2, ALPHA)
    assert at_any <= most(streams, ALPHA) < tango
    rows = [
        {"interval": "betting", "at": "the first decision", "streams": streams // 2, "low_above_truth": at_decision / (streams // 2)},
        {"interval": "betting", "at": "any item", "streams": streams, "low_above_truth": at_any / streams},
        {"interval": "Tango", "at": "any of every 8 items", "streams": streams, "low_above_truth": tango / streams},
    ]
    effort.write("sequential_interval", [{**row, "items_at_most": items, "level": ALPHA} for row in rows])


def _constant(share: Callable[[float, float], float]) -> Callable[[np.ndarray, float, float], Iterator[np.ndarray]]:
    def wealth(d: np.ndarray, margin: float, psi: float) -> Iterator[np.ndarray]:
        bet = min(share(margin, psi), 0.75 / (1 - margin))
        return iter(np.cumsum(np.log1p(bet * (d + margin)), axis=1).T)

    return wealth


def _mixture(d: np.ndarray, margin: float, psi: float) -> Iterator[np.ndarray]:
    """The mean capital of 16 constant bets, evenly spaced in their logarithm from .02 to the cut."""
    bets = np.geomspace(0.02, 0.75 / (1 - margin), 16)
    capital = np.zeros((len(bets), len(d)))
    for column in d.T:
        capital += np.log1p(bets[:, None] * (column + margin))
        yield np.logaddexp.reduce(capital, axis=0) - math.log(len(bets))


BETS: dict[str, Callable[[np.ndarray, float, float], Iterator[np.ndarray]]] = {
    "shipped": lambda d, margin, psi: log_wealth(d + margin, 1 - margin, margin, 1.0),
    "mixture of 16 constants": _mixture,
    "best constant, the rate known": _constant(lambda margin, psi: margin / (psi + margin**2)),
    "best constant, half the rate believed": _constant(lambda margin, psi: margin / (psi / 2 + margin**2)),
}


def test_other_bets(effort) -> None:
    """The shipped bet beside others on the same streams. All are valid; a mixture of constants finds more."""
    streams = effort.replicates(2_000, 100)
    rows = []
    for psi, margin in PUBLISHED if effort.full else PUBLISHED[2:3]:
        for name, wealth in BETS.items():
            row: dict[str, object] = {"bet": name, "discordant": psi, "margin": margin, "streams": streams}
            for column, delta in (("false_pass", -margin), ("power", 0.0)):
                d = differences(generator("bets", psi, margin, delta), (streams, ITEMS), psi, delta)
                stops = first_at_least(wealth(d, margin, psi), -math.log(ALPHA), streams, ITEMS)
                row[column] = round(float((stops <= ITEMS).mean()), 4)
            row["mean_items"] = round(float(np.minimum(stops, ITEMS).mean()))
            assert row["false_pass"] * streams <= most(streams, ALPHA)
            rows.append(row)
    effort.write("sequential_bets", rows)
