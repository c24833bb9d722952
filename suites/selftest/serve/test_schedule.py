"""When requests are due: the same everywhere, of the declared law, and a check that knows when they are not."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from harness.errors import ConfigError
from harness.records import Flag
from harness.serve.schedule import Schedule, check, closed, constant, dispersion, draws, gamma, poisson, ramp, rates, sound, trace
from suites.selftest.quality.simulate import most

pytestmark = pytest.mark.selftest
MADE = {
    "poisson": lambda seed=0, n=2000, rate=20.0: poisson(rate, requests=n, seed=seed),
    "bursts": lambda seed=0, n=2000, rate=20.0: gamma(rate, 0.25, requests=n, seed=seed),
    "even": lambda seed=0, n=2000, rate=20.0: gamma(rate, 4, requests=n, seed=seed),
    "ramp": lambda seed=0, n=2000, rate=20.0: ramp(rate / 4, rate * 4, n / rate / 2, seed=seed),
    "geometric": lambda seed=0, n=2000, rate=20.0: ramp(rate * 4, rate / 4, n / rate / 2, seed=seed, how="geometric"),
}


# --- words and laws -------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.integers(0, 2**128 - 1), st.integers(1, 50))
def test_the_words_are_numpys(stream, n) -> None:
    assert list(islice(draws.philox(stream), n)) == [int(word) for word in np.random.Philox(key=stream).random_raw(n)]


def test_a_seed_gives_each_purpose_a_stream_of_its_own() -> None:
    keys = {draws.key(seed, purpose) for seed in range(20) for purpose in ("arrivals", "prompts", "lengths", "golden", "tenants")}
    assert len(keys) == 100


def test_uniform_numbers_are_never_0_or_1() -> None:
    assert 0 < next(draws.uniform(iter([0]))) < next(draws.uniform(iter([2**64 - 1]))) < 1


@pytest.mark.parametrize("shape", [0.01, 0.05, 0.25, 0.5, 1, 2.5, 10, 100, 1000])
def test_gamma_quantiles_and_hazards_are_scipys(shape) -> None:
    quantile = draws.gamma_quantile(shape)
    for prob in (1e-15, 1e-6, 0.01, 0.3, 0.5, 0.7, 0.99, 0.999999, 1 - 1e-12):
        expected = stats.gamma.ppf(prob, shape)
        if expected < 1e-290:
            continue
        assert quantile(prob) == pytest.approx(expected, rel=1e-7)
        assert draws.gamma_hazard(expected, shape) == pytest.approx(-stats.gamma.logsf(expected, shape), rel=1e-9)


@pytest.mark.parametrize("how", ["linear", "geometric"])
@pytest.mark.parametrize("ends", [(2.0, 30.0), (30.0, 2.0), (7.0, 7.0)])
def test_a_ramp_is_the_integral_of_its_rate(how, ends) -> None:
    numbers = {"r0": ends[0], "r1": ends[1], "seconds": 40.0, "how": how, "warmup_s": 3.0}

    def rate(t):
        inside = min(max((t - 3) / 40, 0), 1)
        return ends[0] + (ends[1] - ends[0]) * inside if how == "linear" else ends[0] * (ends[1] / ends[0]) ** inside

    for t in (0.5, 3.0, 11.0, 42.9, 43.0, 50.0):
        expected = integrate.quad(rate, 0, t, points=[3.0, 43.0] if t > 3 else None)[0]
        assert rates.expected(numbers, t) == pytest.approx(expected, rel=1e-7)
        assert rates.instant(numbers, expected) == pytest.approx(t, rel=1e-7)


# --- schedules ------------------------------------------------------------------------------------


def test_the_bytes_are_fixed() -> None:
    """Another machine, another version: the same instants. The digest of the first schedule was worked out with numpy's words."""
    schedule = poisson(100, requests=1000, seed=7, warmup_s=1, cooldown_s=1)
    words = np.random.Philox(key=int.from_bytes(hashlib.sha256(b"7/arrivals").digest()[:16], "little")).random_raw(len(schedule))
    gaps = [round(-math.log(((int(word) >> 12) + 0.5) * 2.0**-52) * 1e9 / 100) for word in words]
    assert schedule.arrivals == tuple(np.cumsum(gaps).tolist())
    assert schedule.digest == poisson(100, requests=1000, seed=7, warmup_s=1, cooldown_s=1).digest
    assert schedule.digest != poisson(100, requests=1000, seed=8, warmup_s=1, cooldown_s=1).digest


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_any_number_of_workers_sends_the_same_instants(make) -> None:
    schedule = make()
    whole = array("q", schedule.arrivals).tobytes()
    for workers in (1, 2, 4, 10):
        parts = [[(i, schedule.arrivals[i]) for i in schedule.shard(worker, workers)] for worker in range(workers)]
        merged = sorted(pair for part in parts for pair in part)
        assert array("q", [due for _, due in merged]).tobytes() == whole
    with pytest.raises(ConfigError, match="worker 4 of 4"):
        schedule.shard(4, 4)


def test_a_window_of_requests_holds_so_many() -> None:
    schedule = poisson(50, requests=300, seed=3, warmup_s=2, cooldown_s=1.5)
    judged = schedule.judged
    assert len(judged) == 300 and judged.start > 0 and judged.stop < len(schedule)
    start, end = schedule.window
    assert start == 2_000_000_000 and end == schedule.arrivals[judged[-1]] + 1
    assert schedule.arrivals[-1] < end + 1_500_000_000
    flags = [schedule.flag(i) for i in range(len(schedule))]
    assert flags == [Flag.WARMUP] * judged.start + [0] * 300 + [Flag.COOLDOWN] * (len(schedule) - judged.stop)


def test_a_window_of_seconds_lasts_so_long() -> None:
    schedule = constant(8, seconds=2, warmup_s=1, cooldown_s=0.5)
    assert schedule.window == (1_000_000_000, 3_000_000_000)
    assert schedule.arrivals == tuple(i * 125_000_000 for i in range(28))
    assert len(schedule.judged) == 16


def test_a_trace_keeps_its_gaps() -> None:
    schedule = trace([100.0, 100.25, 100.25, 103.0], scale=2, warmup_s=0.5)
    assert schedule.arrivals == (0, 500_000_000, 500_000_000, 6_000_000_000)
    assert list(schedule.judged) == [1, 2, 3]


def test_a_closed_loop_has_no_instants() -> None:
    schedule = closed(4, 100, warmup=10)
    assert (schedule.arrivals, schedule.concurrency, len(schedule), schedule.judged) == ((), 4, 110, range(10, 110))
    assert dispersion(schedule).findings == ()
    assert closed(5, 100, warmup=10).digest != schedule.digest


def test_the_mean_and_variance_of_gamma_gaps() -> None:
    for shape in (0.25, 4.0):
        gaps = [b - a for a, b in pairwise(gamma(10, shape, requests=20_000, seed=1).arrivals)]
        mean = sum(gaps) / len(gaps)
        assert mean == pytest.approx(1e8, rel=5 / math.sqrt(shape * len(gaps)))
        assert np.var(gaps) / mean**2 == pytest.approx(1 / shape, rel=0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: poisson(0, seconds=1, seed=0), "rate = 0"),
        (lambda: poisson(math.nan, seconds=1, seed=0), "rate = nan"),
        (lambda: poisson(5, seed=0), "expected one of them above 0"),
        (lambda: poisson(5, seconds=1, requests=5, seed=0), "expected one of them above 0"),
        (lambda: poisson(5, seconds=-1, seed=0), "seconds = -1"),
        (lambda: poisson(5, seconds=math.inf, seed=0), "seconds = inf"),
        (lambda: poisson(1e6, seconds=100, seed=0), "split it"),
        (lambda: poisson(1e12, requests=100, seed=0), "nanoseconds"),
        (lambda: ramp(1, 1e9, 1, seed=0), "nanoseconds"),
        (lambda: gamma(5, 0.001, seconds=1, seed=0), "shape"),
        (lambda: gamma(5, math.inf, seconds=1, seed=0), "shape"),
        (lambda: ramp(1, 0, 10, seed=0), "r1 = 0"),
        (lambda: ramp(1, 2, 10, seed=0, how="cubic"), "cubic"),
        (lambda: trace([]), "no timestamps"),
        (lambda: trace([1, math.nan]), "timestamp 1 is nan"),
        (lambda: trace([1, 2, 1.5]), "timestamp 2"),
        (lambda: trace([1, 2], scale=0), "scale"),
        (lambda: closed(0, 5), "concurrency = 0"),
        (lambda: closed(1, 0), "requests = 0"),
        (lambda: Schedule("poisson", (5, 3), (0, 10), {"rate": 1}), "back in time"),
    ],
)
def test_what_is_no_schedule_is_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


# --- the check ------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [*MADE.values(), lambda: constant(20, requests=2000), lambda: trace([0.5 * i for i in range(500)])])
def test_a_sound_schedule_passes(make) -> None:
    schedule = make()
    found = check(schedule)
    assert found.n == len(schedule.judged)
    late = [t + 150_000 * (i % 3) for i, t in enumerate(schedule.arrivals)]  # up to .3 ms
    assert dispersion(schedule, late[::-1]).findings == ()


def test_one_stream_repeated_in_ten_workers_is_caught() -> None:
    """What ten workers do that each seed the same generator: every arrival comes ten times."""
    one = poisson(2, requests=300, seed=5)
    repeated = Schedule("poisson", tuple(t for t in one.arrivals for _ in range(10)), one.window, {"rate": 20.0})
    assert dispersion(repeated).idc[1.0] > 5
    with pytest.raises(ConfigError, match=r"arrival_dispersion: .*windows of 1 s scatter"):
        check(repeated)


def test_ten_workers_on_one_shared_offset_are_caught() -> None:
    """Each of them adds the same gaps to one offset: bursts without equal instants."""
    rng, shared, due = random.Random(3), 0.0, []
    workers = [random.Random(42) for _ in range(10)]
    for _ in range(300):
        for worker in workers:
            shared += worker.expovariate(20)
            due.append(shared + rng.uniform(0, 1e-4))
    bursts = Schedule("poisson", tuple(sorted(round(t * 1e9) for t in due)), (0, round(shared * 1e9) + 10**6), {"rate": 20.0})
    with pytest.raises(ConfigError, match="arrival_dispersion"):
        check(bursts)


def test_a_constant_schedule_with_exponential_gaps_is_caught() -> None:
    random_gaps = poisson(20, requests=500, seed=1)
    mislabelled = Schedule("constant", random_gaps.arrivals, random_gaps.window, {"rate": 20.0})
    with pytest.raises(ConfigError, match=r"gaps vary by (0\.9|1\.0)"):
        check(mislabelled)
    assert dispersion(mislabelled, random_gaps.arrivals).findings  # nor as realised sends


@pytest.mark.parametrize(
    ("sends", "message"),
    [
        (lambda t: t // 10**9 * 10**9, "scatter|gaps are not"),  # on whole seconds
        (lambda t: t // 2, "declared rate"),
        (lambda t: t if t < 20 * 10**9 else t + 10**10, "scatter|gaps are not"),  # frozen for ten seconds, then re-anchored
    ],
)
def test_sends_of_another_process_are_caught(sends, message) -> None:
    schedule = poisson(20, requests=1000, seed=2)
    findings = dispersion(schedule, [sends(t) for t in schedule.arrivals]).findings
    assert findings and any(part in " ".join(findings) for part in message.split("|"))


def test_a_backlog_sent_at_once_is_caught() -> None:
    """A client frozen for two seconds in every ten sends what fell due meanwhile at its end."""
    schedule = poisson(100, requests=6000, seed=2)
    sends = [t + max(0, 2 * 10**9 - t % 10**10) for t in schedule.arrivals]
    assert any("windows of 0.1 s" in each for each in dispersion(schedule, sends).findings)


def test_a_trace_is_compared_with_itself() -> None:
    rng = random.Random(1)
    recorded = trace([*sorted(rng.choice((0, 50, 60)) + rng.random() for _ in range(500)), 100.0])
    assert check(recorded).idc[1.0] > 100  # bursts are what was recorded
    assert dispersion(recorded, [t * 2 for t in recorded.arrivals]).findings


ODD = 1274676267  # p = .00024 of its gaps, though nothing is wrong with them


def test_an_odd_seed_stops_nobody_who_has_not_chosen_it() -> None:
    def make(seed: int) -> Schedule:
        return poisson(100.0, requests=1000, seed=seed, warmup_s=1.0)

    with pytest.raises(ConfigError, match=r"Kolmogorov-Smirnov p = 0.00024"):
        check(make(ODD))
    assert sound(make, 1) == make(1)
    assert sound(make, ODD) == sound(make, ODD) == make(ODD + 1_000_003)
    tried: list[int] = []
    with pytest.raises(ConfigError, match="arrival_dispersion"):  # what is wrong with every seed is wrong
        sound(lambda seed: tried.append(seed) or make(ODD), 7)
    assert len(tried) == 5


def test_the_size_of_the_check() -> None:
    """How often a sound schedule is refused: a few in 1000, whatever the law."""
    for name, make in MADE.items():
        refused = sum(bool(dispersion(make(seed, 400)).findings) for seed in range(80))
        assert refused <= most(80, 0.005), name


def test_the_size_of_each_band() -> None:
    """The p-value of Kolmogorov and Smirnov is uniform; IDC and correlation stay within their bands."""
    found = [dispersion(poisson(20, requests=600, seed=seed)) for seed in range(1000, 1300)]
    assert sum(each.ks <= 0.05 for each in found) <= most(300, 0.05)
    assert sum(each.ks <= 0.05 for each in found) >= 4
    assert np.std([each.lag1 for each in found]) == pytest.approx(1 / math.sqrt(600), rel=0.2)
    assert np.mean([each.idc[1.0] for each in found]) == pytest.approx(1, abs=0.05)
