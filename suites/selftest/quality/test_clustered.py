"""Continuous and clustered scores: what the intervals cover, where the guard is needed, and what bets and sign flips keep.

The engines are vectorised twins of the shipped formulas; each is held against the shipped code on replicates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import pytest
from scipy import signal, stats

from harness.stats.betting import bounded_mean_tests
from harness.stats.means import MeanResult, cluster_mean, ratio_estimator, replicate_means, t_test_p
from harness.stats.paired import mcnemar
from harness.stats.permutation import sign_flip
from suites.selftest.quality.conftest import Effort
from suites.selftest.quality.simulate import fewest, generator, most

pytestmark = pytest.mark.selftest

Array = np.ndarray
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def _agrees(effort: Effort, name: str, rows: Sequence[Mapping[str, object]], key: Sequence[str], rates: Sequence[str]) -> None:
    """A sampled run must fit the committed table: each rate within 4.5 standard errors of the difference."""
    if effort.full:
        return
    table = {tuple(row[k] for k in key): row for row in effort.read(name)}
    for row in rows:
        kept = table[tuple(str(row[k]) for k in key)]
        for rate in rates:
            seen, full = float(str(row[rate])), float(kept[rate])
            spread = math.sqrt(max(full * (1 - full), 0.002) * (1 / int(str(row["replicates"])) + 1 / int(kept["replicates"])))
            assert abs(seen - full) <= 4.5 * spread, (row, kept, rate)


# --- twins of harness.stats.means ------------------------------------------------------------------


def _t_twin(sums: Array, sizes: Array) -> tuple[Array, Array, Array]:
    """Estimate, standard error and skewness of the residuals; one row a replicate, one column a document."""
    total, count = sizes.sum(axis=1), sums.shape[1]
    estimate = sums.sum(axis=1) / total
    residuals = sums - estimate[:, None] * sizes
    se = np.sqrt(count / (count - 1) * (residuals**2).sum(axis=1)) / total
    centred = residuals - residuals.mean(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        skewness = (centred**3).mean(axis=1) / (centred**2).mean(axis=1) ** 1.5
    return estimate, se, np.where((centred**2).sum(axis=1) > 0, skewness, 0.0)


def _guard(se: Array, skewness: Array, count: int) -> Array:
    return (se > 0) & (count >= 30) & (count >= 121 * skewness**2)


def _same(result: MeanResult, twin: tuple[Array, Array, Array], row: int, count: int, alpha: float) -> None:
    estimate, se, skewness = (float(column[row]) for column in twin)
    half = float(stats.t.isf(alpha, count - 1)) * se
    assert tuple(result) == pytest.approx((estimate, se, estimate - half, estimate + half, count - 1, skewness), rel=1e-9, abs=1e-9)
    assert result.guard_ok == bool(_guard(*twin[1:], count)[row])


# --- (a) token-correlated documents ----------------------------------------------------------------

TOKENS, ICC = 255, 0.02


def _random_effect(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """Normal tokens about the document's mean; true mean 0."""
    noise = rng.standard_normal((*shape, TOKENS), dtype=np.float32) * np.float32(math.sqrt(1 - ICC))
    return noise + (math.sqrt(ICC) * rng.standard_normal((*shape, 1))).astype(np.float32)


def _autoregressive(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """AR(1) tokens whose design effect is that of the random effect, (1 + phi) / (1 - phi) = 1 + 254 ICC; true mean 0."""
    effect = 1 + (TOKENS - 1) * ICC
    phi = np.float32((effect - 1) / (effect + 1))
    noise = rng.standard_normal((*shape, TOKENS), dtype=np.float32) * np.sqrt(1 - phi * phi)
    noise[..., 0] /= np.sqrt(1 - phi * phi)
    return signal.lfilter(np.float32([1]), np.float32([1, -phi]), noise, axis=-1)


def _divergence(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    """KLD-like: positive, skewed tokens (chi-square, 1 df) about a symmetric document mean with ICC .02; true mean 0 after - 1."""
    half_width = math.sqrt(3 * 2 * ICC / (1 - 3 * ICC))  # var / (var + 2 (1 + var)) = ICC, uniform
    means = 1 + half_width * rng.uniform(-1, 1, (*shape, 1)).astype(np.float32)
    return means * rng.standard_normal((*shape, TOKENS), dtype=np.float32) ** 2 - np.float32(1)


def _mean_batches(law: Draw, documents: int, replicates: int) -> Iterator[tuple[Array, Array, Array, Array]]:
    """Document sums and sizes, and the token-iid estimate's standard error; then some tokens themselves."""
    rng, batch = generator("tokens", law.__name__, documents), max(1, 10_000 // documents)
    for start in range(0, replicates, batch):
        tokens = law(rng, (min(batch, replicates - start), documents))
        sums = tokens.sum(axis=2, dtype=np.float64)
        squares = np.einsum("rdt,rdt->r", tokens, tokens, dtype=np.float64)
        count = documents * TOKENS
        iid = np.sqrt((squares - sums.sum(axis=1) ** 2 / count) / (count - 1) / count)
        yield sums, np.full_like(sums, TOKENS), iid, tokens[0]


def _ratio_batches(documents: int, replicates: int) -> Iterator[tuple[Array, Array, Array, None]]:
    """Log-likelihood differences of documents of 64 to 446 tokens; sums and sums of squares drawn from their own laws."""
    rng = generator("ratio", documents)
    for start in range(0, replicates, 1000):
        shape = (min(1000, replicates - start), documents)
        sizes = rng.integers(64, 447, shape).astype(float)
        effects = math.sqrt(ICC) * rng.standard_normal(shape)
        means = effects + np.sqrt((1 - ICC) / sizes) * rng.standard_normal(shape)
        total = sizes.sum(axis=1)
        within = (1 - ICC) * rng.chisquare(total - documents)
        centre = (sizes * means).sum(axis=1) / total
        between = (sizes * (means - centre[:, None]) ** 2).sum(axis=1)
        yield sizes * means, sizes, np.sqrt((within + between) / (total - 1) / total), None


def test_clusters_cover_where_tokens_do_not(effort: Effort) -> None:
    """Nominal 95 %: by documents 94 to 96 %, by tokens about 57 % (2.47 times too narrow)."""
    replicates = effort.replicates(5000, 250)
    sources = {law.__name__[1:]: (lambda c, law=law: _mean_batches(law, c, replicates)) for law in LAWS_OF_TOKENS}
    sources["ratio"] = lambda c: _ratio_batches(c, replicates)
    rows = []
    for name, batches in sources.items():
        for documents in (100, 200, 300) if effort.full else (100,):
            covered = covered_iid = covered_z = 0
            for batch, (sums, sizes, iid, tokens) in enumerate(batches(documents)):
                twin = _t_twin(sums, sizes)
                if batch == 0 and tokens is None:
                    shipped = ratio_estimator(sums[0].tolist(), sizes[0].tolist(), list(range(documents)), 0.025)
                    _same(shipped, twin, 0, documents, 0.025)
                elif batch == 0 and documents == 100:
                    owners = np.repeat(np.arange(documents), TOKENS).tolist()
                    _same(cluster_mean(tokens.astype(float).ravel().tolist(), owners, 0.025), twin, 0, documents, 0.025)
                covered += int((np.abs(twin[0]) <= stats.t.isf(0.025, documents - 1) * twin[1]).sum())
                covered_z += int((np.abs(twin[0]) <= stats.norm.isf(0.025) * twin[1]).sum())
                covered_iid += int((np.abs(twin[0]) <= stats.norm.isf(0.025) * iid).sum())
            rows.append(
                {
                    "documents_law": name,
                    "documents": documents,
                    "replicates": replicates,
                    "cluster_t": round(covered / replicates, 4),
                    "cluster_z": round(covered_z / replicates, 4),
                    "token_iid": round(covered_iid / replicates, 4),
                }
            )
    effort.write("clustered_coverage", rows)
    for row in rows:
        missed = replicates - round(row["cluster_t"] * replicates)
        assert fewest(replicates, 0.05) <= missed <= most(replicates, 0.05), row
        assert row["token_iid"] < 0.70, row
        if effort.full:
            assert 0.94 <= row["cluster_t"] <= 0.96, row
            assert 0.54 <= row["token_iid"] <= 0.61, row
    _agrees(effort, "clustered_coverage", rows, ["documents_law", "documents"], ["cluster_t", "token_iid"])


LAWS_OF_TOKENS: tuple[Draw, ...] = (_random_effect, _autoregressive, _divergence)


# --- (b) the guard ---------------------------------------------------------------------------------


def _lognormal(sigma: float) -> tuple[Draw, float]:
    return lambda rng, shape: rng.lognormal(0, sigma, shape), math.exp(sigma * sigma / 2)


def _spiked(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """2 % of the documents carry the mean of .105; the others are uniform on [0, .01]."""
    return 5.0 * (rng.random(shape) < 0.02) + 0.01 * rng.random(shape)


LAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, shape: rng.standard_normal(shape), 0.0),
    "gamma 4": (lambda rng, shape: rng.standard_gamma(4.0, shape), 4.0),
    "gamma 1": (lambda rng, shape: rng.standard_exponential(shape), 1.0),
    "gamma .5": (lambda rng, shape: rng.standard_gamma(0.5, shape), 0.5),
    "lognormal .5": _lognormal(0.5),
    "lognormal 1": _lognormal(1.0),
    "lognormal 1.5": _lognormal(1.5),
    "2 % spikes": (_spiked, 0.105),
}
# Coverage of the nominal 95 % upper t bound for a lognormal mean, 4000 replicates: section 3.6 of the reference
PUBLISHED = {
    ("lognormal .5", 30): 0.914,
    ("lognormal .5", 100): 0.929,
    ("lognormal 1", 30): 0.845,
    ("lognormal 1", 100): 0.885,
    ("lognormal 1", 300): 0.916,
    ("lognormal 1.5", 30): 0.744,
    ("lognormal 1.5", 100): 0.801,
    ("lognormal 1.5", 300): 0.858,
}
# What the guard lets through, by level. At its edge, g1 = sqrt(C) / 11, the error of t is g1 (2 z^2 + 1) phi(z) / (6 sqrt C),
# .010 at .05, less what is lost because the guard often closes there. Worst found: gamma, C = 2 to 3 times the edge.
DOCUMENTED = {0.05: 0.057, 0.025: 0.031, 0.01: 0.015}


def test_the_guard_keeps_the_level_of_t(effort: Effort) -> None:
    """The plain upper bound misses far too often on skewed data; "misses and guard passes" keeps its documented level."""
    replicates = effort.replicates(20_000, 1000)
    rows = []
    for law, (draw, mean) in LAWS.items():
        for clusters in (30, 100, 300, 1000) if effort.full else (30, 100):
            rng, misses, opened, leaks, lower = (
                generator("guard", law, clusters),
                dict.fromkeys(DOCUMENTED, 0),
                0,
                dict.fromkeys(DOCUMENTED, 0),
                0,
            )
            for start in range(0, replicates, 1000):
                values = draw(rng, (min(1000, replicates - start), clusters))
                twin = _t_twin(values, np.ones_like(values))
                open_ = _guard(*twin[1:], clusters)
                if start == 0:
                    for row in range(3):
                        _same(cluster_mean(values[row].tolist(), list(range(clusters)), 0.05), twin, row, clusters, 0.05)
                opened += int(open_.sum())
                lower += int(((twin[0] - mean > stats.t.isf(0.05, clusters - 1) * twin[1]) & open_).sum())
                for alpha in DOCUMENTED:
                    miss = mean - twin[0] >= stats.t.isf(alpha, clusters - 1) * twin[1]
                    misses[alpha] += int(miss.sum())
                    leaks[alpha] += int((miss & open_).sum())
            rows.append(
                {
                    "law": law,
                    "clusters": clusters,
                    "replicates": replicates,
                    "upper_bound_covers": round(1 - misses[0.05] / replicates, 4),
                    "guard_opens": round(opened / replicates, 4),
                    **{f"upper_misses_and_open_{alpha}": round(leaks[alpha] / replicates, 4) for alpha in DOCUMENTED},
                    "lower_misses_and_open_0.05": round(lower / replicates, 4),
                    "protected": "no" if law == "2 % spikes" else "yes",
                }
            )
    effort.write("clustered_guard", rows)
    for row in rows:
        published = PUBLISHED.get((row["law"], row["clusters"]))
        if published is not None:
            spread = math.sqrt(published * (1 - published) * (1 / 4000 + 1 / replicates))
            assert abs(row["upper_bound_covers"] - published) <= 4 * spread, row
        if row["law"] == "2 % spikes":
            continue
        for alpha, level in DOCUMENTED.items():
            assert round(row[f"upper_misses_and_open_{alpha}"] * replicates) <= most(replicates, level), row
        assert round(row["lower_misses_and_open_0.05"] * replicates) <= most(replicates, 0.05), row
    spikes = {row["clusters"]: row for row in rows if row["law"] == "2 % spikes"}
    # without a spike among them the documents look harmless: .98^30 = .545, .98^100 = .133
    assert spikes[30]["upper_misses_and_open_0.05"] == pytest.approx(0.51, abs=4 * math.sqrt(0.25 / replicates) + 0.005)
    assert spikes[100]["upper_misses_and_open_0.05"] == pytest.approx(0.13, abs=4 * math.sqrt(0.116 / replicates) + 0.005)
    _agrees(effort, "clustered_guard", rows, ["law", "clusters"], ["upper_bound_covers", "guard_opens", "upper_misses_and_open_0.05"])


# --- (c) bets on cluster means ---------------------------------------------------------------------


def _betting_twin(xs: Array, lower: float, gap: float, half_range: float) -> Array:
    """p-values of harness.stats.betting.betting_p, one row a replicate, units in the order of the columns."""
    total, squares = np.full(len(xs), gap), np.full(len(xs), 0.1 * half_range**2 + gap * gap)
    wealth, best = np.zeros(len(xs)), np.zeros(len(xs))
    for i, x in enumerate(xs.T, start=1):
        mean = total / i
        variance = np.maximum(squares / i - mean * mean, 1e-3 * half_range**2)
        wealth = wealth + np.log1p(np.clip(mean / (variance + mean * mean), 0, 0.75 / lower) * x)
        best = np.maximum(best, wealth)
        total, squares = total + x, squares + x * x
    return np.exp(-best)


def _clustered_items(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Shares of right items among the 1 to 8 of each cluster, whose own rate is Beta(.3, 2.7)."""
    items = rng.integers(1, 9, shape)
    return rng.binomial(items, rng.beta(0.3, 2.7, shape)) / items


BOUNDED: dict[str, tuple[Draw, float]] = {
    "2 % spikes": (lambda rng, shape: 0.98 * (rng.random(shape) < 0.02) + 0.02 * rng.random(shape), 0.0296),
    "10 % spikes": (lambda rng, shape: 0.98 * (rng.random(shape) < 0.10) + 0.02 * rng.random(shape), 0.108),
    "beta .2 1.8": (lambda rng, shape: rng.beta(0.2, 1.8, shape), 0.1),
    "beta .5 .5": (lambda rng, shape: rng.beta(0.5, 0.5, shape), 0.5),
    "binary .5": (lambda rng, shape: 1.0 * (rng.random(shape) < 0.5), 0.5),
    "items in clusters": (_clustered_items, 0.1),
}


def test_bets_keep_their_level_on_few_and_spiky_clusters(effort: Effort) -> None:
    """At the true mean, both directions, from 5 clusters on; Student's t beside it does not."""
    replicates = effort.replicates(10_000, 1000)
    rows = []
    for law, (draw, mean) in BOUNDED.items():
        for clusters in (5, 10, 20, 50, 100) if effort.full else (5, 50):
            values = draw(generator("bets", law, clusters), (replicates, clusters))
            below = _betting_twin(mean - values, 1 - mean, mean / 2, 0.5)
            above = _betting_twin(values - mean, mean, mean / 2, 0.5)
            for row in range(5):
                shipped = bounded_mean_tests(values[row].tolist(), (0.0, 1.0), mean, list(range(clusters)))
                assert tuple(shipped) == pytest.approx((below[row], above[row]), rel=1e-9)
            estimate, se, _ = _t_twin(values, np.ones_like(values))
            critical = stats.t.isf(0.05, clusters - 1) * se
            counts = {
                "bets_below": below <= 0.05,
                "bets_above": above <= 0.05,
                "t_below": (se > 0) & (mean - estimate >= critical),
                "t_above": (se > 0) & (estimate - mean >= critical),
            }
            rates = {name: round(float(hit.mean()), 4) for name, hit in counts.items()}
            rows.append({"law": law, "clusters": clusters, "replicates": replicates, **rates})
    effort.write("clustered_bets", rows)
    for row in rows:
        for side in ("bets_below", "bets_above"):
            assert round(row[side] * replicates) <= most(replicates, 0.05), row
    assert max(row["t_below"] for row in rows) > 0.3
    assert max(row["bets_above"] for row in rows) > 0.01  # a test that never rejects would pass too
    _agrees(effort, "clustered_bets", rows, ["law", "clusters"], ["bets_below", "bets_above", "t_below"])


# --- (d) sign flips and replicated decoding --------------------------------------------------------

DIFFERENCES: dict[str, tuple[bool, Draw]] = {  # exchangeable arms or not
    "normal": (True, lambda rng, shape: rng.standard_normal(shape)),
    "lognormal arms": (True, lambda rng, shape: rng.lognormal(0, 1.5, shape) - rng.lognormal(0, 1.5, shape)),
    "binary, 30 % flips": (True, lambda rng, shape: rng.choice([-1.0, 0.0, 1.0], size=shape, p=[0.15, 0.7, 0.15])),
    "three reruns": (True, lambda rng, shape: (rng.binomial(3, 0.6, shape) - rng.binomial(3, 0.6, shape)) / 3),
    "exponential - 1": (False, lambda rng, shape: rng.standard_exponential(shape) - 1),
}


def test_sign_flips_keep_their_level(effort: Effort) -> None:
    """Exact for exchangeable arms, counted (n <= 20) or drawn; a zero mean alone is not enough, as for t."""
    replicates, flips = effort.replicates(4000, 300), 199
    rows = []
    for law, (exchangeable, draw) in DIFFERENCES.items():
        for n in (6, 12, 40):
            values = draw(generator("flips", law, n), (replicates, n))
            tests = [sign_flip(row, f"{law} {i}", flips) for i, row in enumerate(values.tolist())]
            if law.startswith("binary"):
                for row, test in zip(values, tests, strict=True):
                    if n <= 20:
                        assert test == pytest.approx(mcnemar(int((row > 0).sum()), int((row < 0).sum())), rel=1e-9)
            estimate, se, _ = _t_twin(values, np.ones_like(values))
            critical = stats.t.isf(0.05, n - 1) * se
            rows.append(
                {
                    "law": law,
                    "n": n,
                    "replicates": replicates,
                    "exchangeable": "yes" if exchangeable else "no",
                    "flips_above": round(sum(t.p_hold <= 0.05 for t in tests) / replicates, 4),
                    "flips_below": round(sum(t.p_fail <= 0.05 for t in tests) / replicates, 4),
                    "t_above": round(float(((se > 0) & (estimate >= critical)).mean()), 4),
                    "t_below": round(float(((se > 0) & (-estimate >= critical)).mean()), 4),
                }
            )
    effort.write("clustered_sign_flip", rows)
    for row in rows:
        if row["exchangeable"] == "yes":
            for side in ("flips_above", "flips_below"):
                rejected = round(row[side] * replicates)
                assert rejected <= most(replicates, 0.05), row
                if row["law"] in ("normal", "lognormal arms"):  # no ties: the level is 3/64, 204/4096, 10/200
                    assert rejected >= fewest(replicates, 3 / 64), row
    if effort.full:
        skewed = next(row for row in rows if row["law"] == "exponential - 1" and row["n"] == 12)
        assert round(skewed["flips_below"] * replicates) > most(replicates, 0.05)  # documented: not protected
    _agrees(effort, "clustered_sign_flip", rows, ["law", "n"], ["flips_above", "flips_below", "t_below"])


def test_reruns_are_averaged_never_pooled(effort: Effort) -> None:
    """No difference on average, but each item suits one arm: n x K pairs taken as independent reject far too often."""
    replicates, items = effort.replicates(3000, 250), 50
    rows = []
    for spread in (0.0, 1.0):
        for reruns in (1, 3, 10):
            rng = generator("reruns", spread, reruns)
            difficulty = 1.5 * rng.standard_normal((replicates, items, 1))
            arms = [
                rng.random((replicates, items, reruns))
                < 1 / (1 + np.exp(-difficulty - spread * rng.standard_normal((replicates, items, 1))))
                for _ in range(2)
            ]
            new, old = (arm.astype(float) for arm in arms)
            averaged = 0
            for i in range(replicates):
                names = [(item, float(x)) for item, row in enumerate(new[i] - old[i]) for x in row] if i < 20 else None
                differences = (new[i] - old[i]).mean(axis=1).tolist()
                if names is not None:
                    assert list(replicate_means(names).values()) == pytest.approx(differences, rel=1e-12, abs=1e-12)
                averaged += sign_flip(differences, f"{spread} {reruns} {i}", 199).p_hold <= 0.05
            b, c = ((new > old).sum(axis=(1, 2)), (new < old).sum(axis=(1, 2)))
            p = stats.binom.sf(b - 1, b + c, 0.5)
            for i in range(5):
                assert mcnemar(int(b[i]), int(c[i])).p_hold == pytest.approx(p[i], rel=1e-9)
            pooled = float((p <= 0.05).mean())
            shares = (new.mean(axis=(1, 2)), old.mean(axis=(1, 2)))
            z = (shares[0] - shares[1]) / np.sqrt(sum(s * (1 - s) for s in shares) / (items * reruns))
            rows.append(
                {
                    "item_by_arm_sd": spread,
                    "items": items,
                    "reruns": reruns,
                    "replicates": replicates,
                    "averaged_sign_flip": round(averaged / replicates, 4),
                    "pooled_mcnemar": round(pooled, 4),
                    "pooled_unpaired_z": round(float((z >= stats.norm.isf(0.05)).mean()), 4),
                }
            )
    effort.write("clustered_reruns", rows)
    for row in rows:
        rejected = round(row["averaged_sign_flip"] * replicates)
        assert fewest(replicates, 0.02) <= rejected <= most(replicates, 0.05), row  # ties make it conservative
        if row["item_by_arm_sd"] and row["reruns"] == 10:
            assert round(row["pooled_mcnemar"] * replicates) > most(replicates, 0.05), row
    _agrees(effort, "clustered_reruns", rows, ["item_by_arm_sd", "reruns"], ["averaged_sign_flip", "pooled_mcnemar"])


def test_the_t_twin_decides_as_the_shipped_test() -> None:
    values = generator("t").standard_normal((50, 31)) + 0.3
    estimate, se, _ = _t_twin(values, np.ones_like(values))
    for row in range(50):
        p = t_test_p(float(estimate[row]), float(se[row]), 30, 0.0, "above").p_hold
        assert p == pytest.approx(stats.t.sf(estimate[row] / se[row], 30), rel=1e-9)
        assert (p <= 0.05) == (estimate[row] >= stats.t.isf(0.05, 30) * se[row])
