"""How often the limits of kappa and Krippendorff's alpha cover, beside the plain limits and those on the atanh scale.

Kappa of two labels is enumerated, table by table; the rest is simulated. A refusal decides nothing and counts as covered.
"""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from scipy.special import gammaln

from harness.stats.agreement import cohen_kappa, krippendorff
from suites.selftest.quality.simulate import generator, most

pytestmark = pytest.mark.selftest

ALPHA = 0.05


# --- kappa ----------------------------------------------------------------------------------------


def kappas(tables):
    """Kappa and its standard error of many tables, (tables, labels, labels); nan where a rater uses one label only."""
    n = tables.sum((1, 2))
    p = tables / n[:, None, None]
    rows, columns = p.sum(2), p.sum(1)
    chance = (rows * columns).sum(1)
    with np.errstate(all="ignore"):
        kappa = (np.einsum("tii->t", p) - chance) / (1 - chance)
        share = np.eye(p.shape[1]) - (1 - kappa)[:, None, None] * (columns[:, :, None] + rows[:, None, :])
        variance = (p * share**2).sum((1, 2)) - (kappa - chance * (1 - kappa)) ** 2
        se = np.sqrt(np.maximum(variance, 0) / n) / (1 - chance)
    constant = (rows.max(1) == 1) | (columns.max(1) == 1)
    return np.where(constant, np.nan, kappa), se, chance


def kappa_limits(tables):
    """The twin of ``cohen_kappa`` on many tables, and the rivals: name -> limit; nan where it refuses."""
    n = tables.sum((1, 2))
    z = stats.norm.isf(ALPHA)
    kappa, se, chance = kappas(tables)
    higher, higher_se, _ = kappas(tables + np.eye(tables.shape[1]))
    with np.errstate(all="ignore"):
        atanh = [np.tanh(np.arctanh(kappa) + sign * z * se / (1 - kappa**2)) for sign in (-1, 1)]
        low = np.minimum(atanh[0], ALPHA ** (1 / n))
        perfect = 1 - (1 - ALPHA ** (1 / n)) / (1 - chance)
    one = np.einsum("tii->t", tables) == n
    refused = np.isnan(kappa) | ~one & (se < 1e-9)
    limits = {
        "low_plain": kappa - z * se,
        "low": np.where(one, perfect, low),
        "high_plain": kappa + z * se,
        "high_atanh": np.where(one, 1.0, atanh[1]),
        "high": np.where(one, 1.0, np.minimum(higher + z * higher_se, 1.0)),
    }
    return {name: np.where(refused, np.nan, limit) for name, limit in limits.items()}


def covered(limits, truth, weights):
    """The probability that each limit covers, and that there is none."""
    with np.errstate(invalid="ignore"):
        misses = {name: weights[(limit > truth) if name.startswith("low") else (limit < truth)].sum() for name, limit in limits.items()}
    share = {name: 1 - miss / weights.sum() for name, miss in misses.items()}
    return share | {"refused": weights[np.isnan(limits["low"])].sum() / weights.sum()}


def two_labels(base, agreement, bias):
    """Cell probabilities; ``bias`` is the share of the disagreements by which one direction exceeds the other."""
    off = 1 - agreement
    p12, p21 = off * (1 + bias) / 2, off * (1 - bias) / 2
    return np.array([[base - off / 2, p12], [p21, 1 - base - off / 2]])


def all_tables(n, p):
    """Every 2 x 2 table of n with its probability, but for those below 1e-14."""
    parts = []
    for off in range(n + 1):
        if stats.binom.pmf(off, n, p[0, 1] + p[1, 0]) < 1e-14:
            continue
        b, a = (x.ravel() for x in np.meshgrid(np.arange(off + 1), np.arange(n - off + 1)))
        tables = np.stack([a, b, off - b, n - off - a], 1)
        log_mass = gammaln(n + 1) - gammaln(tables + 1).sum(1) + tables @ np.log(p.ravel())
        keep = log_mass > math.log(1e-14)
        parts.append(np.c_[tables, np.exp(log_mass)][keep])
    everything = np.concatenate(parts)
    return everything[:, :4].reshape(-1, 2, 2), everything[:, 4]


def test_kappa_of_two_labels(effort) -> None:
    """Exact: both limits cover in every cell; the plain lower and the atanh upper one do not."""
    rows = []
    grid = itertools.product((20, 50, 100, 200, 400), (0.5, 0.7, 0.8, 0.9, 0.95), (0.7, 0.8, 0.9, 0.95, 0.99), (0, 0.5))
    for n, base, agreement, bias in grid:
        p = two_labels(base, agreement, bias)
        if p.min() < 1e-9 or (n > 50 and not effort.full):
            continue
        tables, weights = all_tables(n, p)
        assert weights.sum() == pytest.approx(1, abs=1e-8)
        truth = kappas(p[None])[0][0]
        shares = covered(kappa_limits(tables), truth, weights)
        rows.append(
            {"n": n, "base_rate": base, "agreement": agreement, "bias": bias, "kappa": round(truth, 4)}
            | {name: round(share, 4) for name, share in shares.items()}
        )
    effort.write("agreement_kappa", rows)
    for row in [*rows, *({k: float(v) for k, v in row.items()} for row in effort.read("agreement_kappa"))]:
        assert min(row["low"], row["high"]) >= 0.95
    assert min(row["low_plain"] for row in rows) < 0.42
    assert min(row["high_plain"] for row in rows) < 0.85
    assert min(row["high_atanh"] for row in rows) < 0.85


def test_kappa_of_more_labels(effort) -> None:
    """Three and five labels, errors anywhere: both limits keep their level."""
    rows = []
    replicates = effort.replicates(20_000, 1_000)
    for base, agreement, n in itertools.product(((0.5, 0.3, 0.2), (0.6, 0.2, 0.1, 0.05, 0.05)), (0.7, 0.85, 0.95), (50, 100, 400)):
        labels = len(base)
        p = (1 - agreement) / (labels - 1) * np.array(base)[:, None] * np.ones((labels, labels))
        p[np.eye(labels, dtype=bool)] = agreement * np.array(base)
        draws = generator("kappa", base, agreement, n).multinomial(n, p.ravel(), replicates).reshape(-1, labels, labels)
        truth = kappas(p[None])[0][0]
        shares = covered(kappa_limits(draws), truth, np.ones(replicates))
        assert max(1 - shares["low"], 1 - shares["high"]) * replicates <= most(replicates, ALPHA)
        rows.append(
            {"labels": labels, "agreement": agreement, "n": n, "kappa": round(truth, 4), "replicates": replicates}
            | {name: round(share, 4) for name, share in shares.items()}
        )
    effort.write("agreement_kappa_labels", rows)
    for row in effort.read("agreement_kappa_labels"):
        reached = int(row["replicates"])
        assert max(1 - float(row["low"]), 1 - float(row["high"])) * reached <= most(reached, ALPHA)


def test_kappa_twin() -> None:
    """The simulated limits are those of the shipped code."""
    rng = generator("kappa twin")
    for labels, n in ((2, 20), (2, 200), (3, 40)):
        p = 0.85 * np.diag(np.full(labels, 1 / labels)) + 0.15 / labels**2
        tables = rng.multinomial(n, p.ravel(), 150).reshape(-1, labels, labels)
        limits = kappa_limits(tables)
        for i, table in enumerate(tables.tolist()):
            if np.isnan(limits["low"][i]):
                with pytest.raises(ValueError, match="expected"):
                    cohen_kappa(table, ALPHA)
            else:
                result = cohen_kappa(table, ALPHA)
                assert (result.low, result.high) == pytest.approx((limits["low"][i], limits["high"][i]), rel=1e-9, abs=1e-9)


# --- Krippendorff's alpha -------------------------------------------------------------------------


def unit_patterns(labels, raters):
    """Every way in which a unit can be rated, twice or more, as counts of the labels."""
    ways = (c for m in range(2, raters + 1) for c in itertools.combinations_with_replacement(range(labels), m))
    return np.array([np.bincount(way, minlength=labels) for way in ways], float)


def pattern_probabilities(patterns, base, accuracy, near, raters, missing):
    """Raters name the true label with probability ``accuracy``, else another (``near``: a neighbour)."""
    labels = len(base)
    confusion = np.diag(np.full(labels, accuracy))
    for t in range(labels):
        others = [k for k in range(labels) if (abs(k - t) == 1 if near else k != t)]
        confusion[t, others] = (1 - accuracy) / len(others)
    sizes = patterns.sum(1)
    log_multinomial = gammaln(sizes + 1) - gammaln(patterns + 1).sum(1)
    given = np.exp(log_multinomial)[:, None] * np.prod(np.power(confusion[None], patterns[:, None, :]), 2)
    p = (given @ np.array(base)) * stats.binom.pmf(sizes, raters, 1 - missing)
    return p / p.sum()


def alphas(counts, patterns, level):
    """Alpha and the expected disagreement, raw and as a share of the largest; counts are (..., patterns)."""
    sizes = patterns.sum(1)
    values = counts @ patterns
    n = values.sum(-1)
    with np.errstate(all="ignore"):
        if level == "nominal":
            observed = counts @ ((sizes**2 - (patterns**2).sum(1)) / (sizes - 1)) / n
            expected = (n**2 - (values**2).sum(-1)) / (n * (n - 1))
            largest = 1.0
        else:
            score = np.arange(patterns.shape[1]) + 0 * values if level == "interval" else np.cumsum(values, -1) - values / 2
            own = 2 * (sizes * (score**2 @ patterns.T) - (score @ patterns.T) ** 2) / (sizes - 1)
            observed = (counts * own).sum(-1) / n
            mean = (values * score).sum(-1) / n
            expected = 2 * (values * (score - mean[..., None]) ** 2).sum(-1) / (n - 1)
            seen = values > 0
            largest = (np.where(seen, score, -np.inf).max(-1) - np.where(seen, score, np.inf).min(-1)) ** 2
        return 1 - observed / expected, expected, expected / largest


def jackknife(counts, patterns, level):
    """Alpha and its standard error, one unit left out at a time."""
    units = counts.sum(-1)
    without = alphas(counts[:, None, :] - np.eye(len(patterns)), patterns, level)[0]
    without = np.where(counts > 0, without, 0)
    mean = (counts * without).sum(-1) / units
    spread = (counts * (without - mean[:, None]) ** 2).sum(-1)
    return alphas(counts, patterns, level)[0], np.sqrt((units - 1) / units * spread)


def alpha_limits(counts, patterns, level):
    """The twin of ``krippendorff`` on many samples, and the rivals: name -> limit; nan where it refuses."""
    units = counts.sum(-1)
    t = stats.t.isf(ALPHA, units - 1)
    estimate, se = jackknife(counts, patterns, level)
    _, raw, share = alphas(counts, patterns, level)
    seen = (counts @ patterns) > 0
    agreed = (patterns.max(1) == 2) & (patterns.sum(1) == 2)
    added = seen if level == "nominal" else seen & ((np.cumsum(seen, 1) == 1) | (np.cumsum(seen[:, ::-1], 1)[:, ::-1] == 1))
    higher, higher_se = jackknife(counts + added @ (patterns * agreed[:, None]).T / 2, patterns, level)
    one = estimate > 1 - 1e-12
    floor = ALPHA ** (1 / units)
    with np.errstate(all="ignore"):
        atanh = [np.tanh(np.arctanh(estimate) + sign * t * se / (1 - estimate**2)) for sign in (-1, 1)]
        limits = {
            "low_plain": estimate - t * se,
            "low_atanh": np.where(one, 1 - (1 - floor) / raw, atanh[0]),
            "low": np.where(one, 1 - (1 - floor) / share, np.minimum(atanh[0], floor)),
            "high_plain": np.where(one, 1.0, estimate + t * se),
            "high_atanh": np.where(one, 1.0, atanh[1]),
            "high": np.where(one, 1.0, np.minimum(higher + t * higher_se, 1.0)),
        }
    refused = ~np.isfinite(estimate) | ~one & ~(se > 1e-12)
    return {name: np.where(refused, np.nan, limit) for name, limit in limits.items()}


RATINGS = [  # base rates, near errors only, raters, missing, level
    ((0.5, 0.5), False, 2, 0.0, "nominal"),
    ((0.8, 0.2), False, 2, 0.0, "nominal"),
    ((0.95, 0.05), False, 2, 0.0, "nominal"),
    ((0.95, 0.05), False, 3, 0.2, "nominal"),
    ((0.7, 0.15, 0.1, 0.05), False, 2, 0.0, "nominal"),
    ((0.1, 0.2, 0.4, 0.2, 0.1), True, 2, 0.0, "ordinal"),
    ((0.1, 0.1, 0.1, 0.2, 0.5), False, 3, 0.2, "ordinal"),
    ((0.02, 0.03, 0.05, 0.3, 0.6), True, 2, 0.0, "interval"),
    ((0.1, 0.1, 0.1, 0.2, 0.5), False, 3, 0.2, "interval"),
]


def test_krippendorff(effort) -> None:
    """Below alpha = .95 the lower limit covers .92 at least, above it .88, where the plain one covers .57; the upper .95.

    Were the rule for perfect agreement not free of the scale, the lower limit would cover .60.
    """
    rows = []
    replicates = effort.replicates(6_000, 400)
    for (base, near, raters, missing, level), accuracy, units in itertools.product(RATINGS, (0.8, 0.9, 0.95, 0.99), (50, 100, 400)):
        if units > 50 and not effort.full:
            continue
        patterns = unit_patterns(len(base), raters)
        p = pattern_probabilities(patterns, base, accuracy, near, raters, missing)
        truth = alphas(1e9 * p, patterns, level)[0]
        counts = generator("alpha", base, near, raters, level, accuracy, units).multinomial(units, p, replicates).astype(float)
        shares = covered(alpha_limits(counts, patterns, level), truth, np.ones(replicates))
        rows.append(
            {"level": level, "labels": len(base), "raters": raters, "missing": missing, "accuracy": accuracy, "units": units}
            | {"commonest": max(base), "alpha": round(float(truth), 4), "replicates": replicates}
            | {name: round(share, 4) for name, share in shares.items()}
        )
    effort.write("agreement_krippendorff", rows)
    for row in [*rows, *({k: v if k == "level" else float(v) for k, v in r.items()} for r in effort.read("agreement_krippendorff"))]:
        made = int(row["replicates"])
        assert (1 - row["low"]) * made <= most(made, ALPHA + (0.03 if row["alpha"] < 0.95 else 0.07))
        assert (1 - row["high"]) * made <= most(made, ALPHA)
    assert min(row["low_plain"] for row in rows) < 0.7
    assert min(row["low_atanh"] for row in rows) < 0.75
    assert min(row["high_atanh"] for row in rows) < 0.91


def test_krippendorff_twin() -> None:
    """The simulated limits are those of the shipped code."""
    for base, near, raters, missing, level in RATINGS:
        patterns = unit_patterns(len(base), raters)
        p = pattern_probabilities(patterns, base, 0.93, near, raters, missing)
        counts = generator("alpha twin", base, raters, level).multinomial(30, p, 12)
        limits = alpha_limits(counts.astype(float), patterns, level)
        ways = [[float(v) for v, times in enumerate(way) for _ in range(int(times))] for way in patterns]
        for i, times in enumerate(counts):
            units = [way for way, count in zip(ways, times, strict=True) for _ in range(count)]
            if np.isnan(limits["low"][i]):
                with pytest.raises(ValueError, match="expected"):
                    krippendorff(units, level, ALPHA)
            else:
                result = krippendorff(units, level, ALPHA)
                assert (result.low, result.high) == pytest.approx((limits["low"][i], limits["high"][i]), rel=1e-9, abs=1e-9)
