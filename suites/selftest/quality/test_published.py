"""Figures that others published, reproduced to every printed digit; and other algorithms on random tables.

``PUBLISHED`` reads as a bibliography: who, where, what, the digits as printed, and how they are computed here.
"""

import math
import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from harness.stats.intervals import Interval, clopper_pearson, proportion_tests, wilson
from harness.stats.means import cluster_mean
from harness.stats.paired import mcnemar, mcnemar_midp, newcombe, tango_interval, tango_z
from harness.stats.special import normal_quantile, normal_sf, t_cdf, t_quantile

pytestmark = pytest.mark.selftest


class Published(NamedTuple):
    source: str
    table: str
    quantity: str
    printed: str
    ours: Callable[[], Sequence[float]]


def two_sided(p: Sequence[float]) -> tuple[float]:
    return (2 * min(p),)


def odds(limits: Interval) -> tuple[float, float]:
    """Limits of p12 / p21 from those of the share of b among b + c."""
    return limits.low / (1 - limits.low), limits.high / (1 - limits.high)


def chi_square_p(b: int, c: int) -> tuple[float]:
    """McNemar's asymptotic test: Tango's score without a margin."""
    return (2 * normal_sf(abs(tango_z(b, c, b + c, 0.0))),)


def paired_t(differences: Sequence[float]) -> tuple[float, ...]:
    """t, its two-sided p and the 95 % limits, each pair its own cluster."""
    mean = cluster_mean(differences, range(len(differences)), 0.025)
    t = mean.estimate / mean.se
    return t, 2 * t_cdf(-abs(t), mean.df), mean.low, mean.high


TANGO = "Tango (1998), Statistics in Medicine 17:891"
AGRESTI_MIN = "Agresti & Min (2005), Statistics in Medicine 24:729"
FAGERLAND = "Fagerland, Lydersen & Laake (2014), Statistics in Medicine 33:2850"
MCNEMAR = "Fagerland, Lydersen & Laake (2013), BMC Medical Research Methodology 13:91"
BOOK = "Fagerland, Lydersen & Laake (2017), Contingency Tables, by its R package"
NEWCOMBE = "Newcombe (1998), Statistics in Medicine 17:2635"
SINGLE = "Newcombe (1998), Statistics in Medicine 17:857"
TANG = "M.-L. Tang et al. (2010), as recorded by ratesci, test3.R"
CHANG = "Chang et al. (2024), as recorded by ratesci, test3.R"
STATSDIRECT = "StatsDirect, exact test for matched pairs"
SLEEP = [1.2, 2.4, 1.3, 1.3, 0.0, 1.0, 1.8, 0.8, 4.6, 1.4]
MAIZE = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]

PUBLISHED = [
    # the difference of two paired proportions: b, c, n, or a, b, c, d
    Published(TANGO, "Table VII (9, 3, 32)", "score 95 %", "-0.027 0.390", lambda: tango_interval(9, 3, 32, 0.025)),
    Published(TANGO, "Table V (0, 1, 44)", "score 90 %", "-0.096 0.037", lambda: tango_interval(0, 1, 44, 0.05)),
    Published(AGRESTI_MIN, "example (16, 8, 86)", "score 95 %", "-0.020 0.207", lambda: tango_interval(16, 8, 86, 0.025)),
    Published(FAGERLAND, "Bentur (1, 7, 21)", "score 95 %", "-0.517 -0.026", lambda: tango_interval(1, 7, 21, 0.025)),
    Published(FAGERLAND, "Bentur (1, 1, 7, 12)", "method 10, 95 %", "-0.507 -0.026", lambda: newcombe(1, 1, 7, 12, 0.025)),
    Published(BOOK, "Cavo 2012 (6, 16, 161)", "score 95 %", "-0.1240 -0.0054", lambda: tango_interval(6, 16, 161, 0.025)),
    Published(BOOK, "Cavo 2012 (59, 6, 16, 80)", "method 10, 95 %", "-0.1186 -0.0046", lambda: newcombe(59, 6, 16, 80, 0.025)),
    Published(NEWCOMBE, "(20, 12, 2, 16)", "method 10, 95 %", "0.0562 0.3292", lambda: newcombe(20, 12, 2, 16, 0.025)),
    Published(NEWCOMBE, "(20, 12, 2, 16)", "method 8, 95 %", "0.0618 0.3242", lambda: newcombe(20, 12, 2, 16, 0.025, 8)),
    Published(TANG, "(8, 3, 1, 2)", "score 95 %", "-0.1670 0.4327", lambda: tango_interval(3, 1, 14, 0.025)),
    Published(TANG, "(8, 3, 1, 2)", "method 10, 95 %", "-0.1574 0.4136", lambda: newcombe(8, 3, 1, 2, 0.025)),
    Published(CHANG, "(7, 25, 2, 68)", "score 95 %", "0.139 0.321", lambda: tango_interval(25, 2, 102, 0.025)),
    Published(CHANG, "(7, 25, 2, 68)", "method 10, 95 %", "0.133 0.318", lambda: newcombe(7, 25, 2, 68, 0.025)),
    # McNemar's test and the odds of its discordant pairs
    Published(MCNEMAR, "Bentur (1, 7)", "exact p", "0.0703125", lambda: two_sided(mcnemar(1, 7))),
    Published(MCNEMAR, "Bentur (1, 7)", "mid-p", "0.0390625", lambda: two_sided(mcnemar_midp(1, 7))),
    Published(MCNEMAR, "Bentur (1, 7)", "asymptotic p", "0.0338948535", lambda: chi_square_p(1, 7)),
    Published(BOOK, "Cavo 2012 (6, 16)", "exact p", "0.052479", lambda: two_sided(mcnemar(6, 16))),
    Published(BOOK, "Cavo 2012 (6, 16)", "mid-p", "0.034690", lambda: two_sided(mcnemar_midp(6, 16))),
    Published(BOOK, "Cavo 2012 (6, 16)", "asymptotic p", "0.033006", lambda: chi_square_p(6, 16)),
    Published("statsmodels, test_nonparametric", "[[101, 70], [59, 33]]", "exact p", "0.378688", lambda: two_sided(mcnemar(70, 59))),
    Published(STATSDIRECT, "Armitage & Berry (1994) p. 127 (12, 2)", "exact p", "0.0129", lambda: two_sided(mcnemar(12, 2))),
    Published(
        STATSDIRECT, "Armitage & Berry (1994) p. 127 (12, 2)", "exact odds 95 %", "1.335744 55.197091",
        lambda: odds(clopper_pearson(12, 14, 0.025)),
    ),
    Published(BOOK, "Ezra 2010 (25, 2)", "exact odds 95 %", "3.1169 108.8892", lambda: odds(clopper_pearson(25, 27, 0.025))),
    Published(BOOK, "Cavo 2012 (6, 16)", "Wilson odds 95 %", "0.1514 0.9287", lambda: odds(wilson(6, 22, 0.025))),
    Published(FAGERLAND, "Bentur (1, 7)", "exact odds 95 %", "0.003 1.112", lambda: odds(clopper_pearson(1, 8, 0.025))),
    Published(FAGERLAND, "Bentur (1, 7)", "Wilson odds 95 %", "0.023 0.890", lambda: odds(wilson(1, 8, 0.025))),
    # one proportion
    Published(SINGLE, "81 of 263", "Wilson 95 %", "0.2553 0.3662", lambda: wilson(81, 263, 0.025)),
    Published(SINGLE, "81 of 263", "exact 95 %", "0.2527 0.3676", lambda: clopper_pearson(81, 263, 0.025)),
    Published(SINGLE, "15 of 148", "Wilson 95 %", "0.0624 0.1605", lambda: wilson(15, 148, 0.025)),
    Published(SINGLE, "15 of 148", "exact 95 %", "0.0578 0.1617", lambda: clopper_pearson(15, 148, 0.025)),
    Published(SINGLE, "0 of 20", "Wilson 95 %", "0.0000 0.1611", lambda: wilson(0, 20, 0.025)),
    Published(SINGLE, "0 of 20", "exact 95 %", "0.0000 0.1684", lambda: clopper_pearson(0, 20, 0.025)),
    Published(SINGLE, "1 of 29", "Wilson 95 %", "0.0061 0.1718", lambda: wilson(1, 29, 0.025)),
    Published(SINGLE, "1 of 29", "exact 95 %", "0.0009 0.1776", lambda: clopper_pearson(1, 29, 0.025)),
    Published(BOOK, "Ligarden 2010, 13 of 16", "exact 95 %", "0.5435 0.9595", lambda: clopper_pearson(13, 16, 0.025)),
    Published(BOOK, "Ligarden 2010, 13 of 16", "Wilson 95 %", "0.5699 0.9341", lambda: wilson(13, 16, 0.025)),
    Published(BOOK, "Ligarden 2010, 13 of 16", "exact p of 1/2", "0.02127", lambda: two_sided(proportion_tests(13, 16, 0.5))),
    Published(BOOK, "test-ch8, 10 of 10", "exact 95 %", "0.6915 1.0000", lambda: clopper_pearson(10, 10, 0.025)),
    Published(BOOK, "test-ch8, 0 of 10", "exact 95 %", "0.0000 0.3085", lambda: clopper_pearson(0, 10, 0.025)),
    Published(
        "Conover (1971) p. 97; R, binom.test", "682 of 925", "exact 95 %", "0.7076683 0.7654066",
        lambda: clopper_pearson(682, 925, 0.025),
    ),
    # means
    Published("Student (1908); R, t.test", "sleep, 10 pairs", "t, p, 95 %", "4.0621 0.002833 0.7001142 2.4598858", lambda: paired_t(SLEEP)),
    Published("Fisher (1935), The Design of Experiments", "Darwin's maize, 15 pairs", "t", "2.148", lambda: paired_t(MAIZE)[:1]),
    # quantiles
    Published(
        "Fisher & Yates, Statistical Tables", "III, two-sided 5 %, df 1 2 5 10 30 120", "t", "12.706 4.303 2.571 2.228 2.042 1.980",
        lambda: [t_quantile(0.975, df) for df in (1, 2, 5, 10, 30, 120)],
    ),
    Published(
        "Fisher & Yates, Statistical Tables", "III, two-sided 10 %, df 1 2 5 10 30 120", "t", "6.314 2.920 2.015 1.812 1.697 1.658",
        lambda: [t_quantile(0.95, df) for df in (1, 2, 5, 10, 30, 120)],
    ),
    Published(
        "Abramowitz & Stegun (1964)", "chapter 26, P = .9 .95 .975 .99 .995 .999", "z", "1.28155 1.64485 1.95996 2.32635 2.57583 3.09023",
        lambda: [normal_quantile(p) for p in (0.9, 0.95, 0.975, 0.99, 0.995, 0.999)],
    ),
]  # fmt: skip


def as_printed(values: Sequence[float], printed: str) -> str:
    """The values with as many decimals as those printed."""
    return " ".join(f"{value:.{len(text.split('.')[1])}f}" for value, text in zip(values, printed.split(), strict=True))


def name(entry: Published) -> str:
    return f"{entry.source.split(',')[0]}, {entry.table}, {entry.quantity}"


@pytest.mark.parametrize("entry", PUBLISHED, ids=name)
def test_every_printed_digit(entry: Published) -> None:
    assert as_printed(entry.ours(), entry.printed) == entry.printed


def test_the_list_is_the_committed_one(effort) -> None:
    """At least twenty tables, none twice; beside each what we get, to ten decimals."""
    rows = []
    for source, table, quantity, printed, ours in PUBLISHED:
        figures = " ".join(f"{x:.10f}" for x in ours())
        rows.append({"source": source, "table": table, "quantity": quantity, "published": printed, "ours": figures})
    effort.write("published", rows)
    for ours, kept in zip(rows, effort.read("published"), strict=True):
        assert {**ours, "ours": None} == {**kept, "ours": None}
        assert list(map(float, ours["ours"].split())) == pytest.approx(list(map(float, kept["ours"].split())), abs=1e-9)
    assert len({(e.source, e.table) for e in PUBLISHED}) >= 20
    assert len({(e.source, e.table, e.quantity) for e in PUBLISHED}) == len(PUBLISHED)


# --- other algorithms on random tables ------------------------------------------------------------

ALPHAS = (0.1, 0.05, 0.025, 0.01, 0.005)


def random_tables(count: int, seed: str) -> list[tuple[int, int, int, int, float]]:
    """(a, b, c, d, alpha): n from 1 to 5000, even on the log scale; half of them sparse, one in five on an edge."""
    rng, tables = random.Random(seed), []
    for i in range(count):
        n = round(math.exp(rng.uniform(0, math.log(5000))))
        flips = rng.randint(0, min(n, 12)) if i % 2 else rng.randint(0, n)
        b = rng.choice([0, flips]) if i % 5 == 0 else rng.randint(0, flips)
        b, c = (n, 0) if i % 50 == 0 else (0, n) if i % 50 == 10 else (b, flips - b)
        a = rng.randint(0, n - b - c)
        tables.append((a, b, c, n - a - b - c, rng.choice(ALPHAS)))
    return tables


def tango_by_quartic(a: int, b: int, c: int, d: int, alpha: float) -> Interval:
    return tango_interval(b, c, a + b + c + d, alpha, "quartic")


def newcombe_by_squares(a: int, b: int, c: int, d: int, alpha: float) -> tuple[float, float]:
    """Method 10 written down anew: Wilson's limits by statsmodels, the correlation from the corrected chi-square."""
    n, rows, columns = a + b + c + d, (a + b, c + d), (a + c, b + d)
    p1, p2 = rows[0] / n, columns[0] / n
    (l1, u1), (l2, u2) = (proportion_confint(k, n, 2 * alpha, "wilson") for k in (rows[0], columns[0]))
    margins = math.prod(rows) * math.prod(columns)
    cross = a * d - b * c
    cross = max(cross - n / 2, 0) if cross > 0 else cross
    r = 0.0 if margins == 0 else cross / margins**0.5
    low = np.array([p1 - l1, u2 - p2])
    high = np.array([u1 - p1, p2 - l2])
    matrix = np.array([[1, -r], [-r, 1]])
    theta = p1 - p2
    return theta - math.sqrt(max(0.0, low @ matrix @ low)), theta + math.sqrt(max(0.0, high @ matrix @ high))


def exact_by_scipy(a: int, b: int, c: int, d: int, alpha: float) -> tuple[float, float]:
    n, k = a + b + c + d, a + b
    low = stats.beta.ppf(alpha, k, n - k + 1) if k else 0.0
    return low, stats.beta.isf(alpha, k + 1, n - k) if k < n else 1.0


ORACLES: list[tuple[str, str, int, Callable, Callable]] = [
    (
        "score interval", "quartic with exact coefficients", 100_000,
        lambda a, b, c, d, q: tango_interval(b, c, a + b + c + d, q), tango_by_quartic,
    ),
    ("method 10", "statsmodels Wilson, matrix form", 100_000, newcombe, newcombe_by_squares),
    (
        "McNemar p", "scipy binomial tails", 20_000,
        lambda a, b, c, d, q: mcnemar(b, c), lambda a, b, c, d, q: stats.binom.sf([b - 1, c - 1], b + c, 0.5),
    ),
    (
        "Clopper-Pearson", "scipy beta quantiles", 20_000,
        lambda a, b, c, d, q: clopper_pearson(a + b, a + b + c + d, q), exact_by_scipy,
    ),
    (
        "Wilson", "statsmodels", 20_000,
        lambda a, b, c, d, q: wilson(a + b, a + b + c + d, q),
        lambda a, b, c, d, q: proportion_confint(a + b, a + b + c + d, 2 * q, "wilson"),
    ),
]  # fmt: skip


def test_other_algorithms_agree_to_1e_9(effort) -> None:
    rows = []
    for ours, oracle, full, function, other in ORACLES:
        tables = random_tables(effort.replicates(full, 1000), ours)
        worst = max(max(abs(np.subtract(function(*table), other(*table)))) for table in tables)
        rows.append({"ours": ours, "oracle": oracle, "tables": len(tables), "largest_difference": f"{worst:.1e}"})
        assert worst <= 1e-9, rows[-1]
    effort.write("ni_oracles", rows)
    assert [(row["ours"], row["tables"]) for row in effort.read("ni_oracles")] == [(o[0], str(o[2])) for o in ORACLES]


def test_the_random_tables_reach_the_edges() -> None:
    tables = random_tables(1000, "edges")
    for edge in (
        lambda a, b, c, d: b == c == 0,
        lambda a, b, c, d: b > 0 == c,
        lambda a, b, c, d: b == 0 < c,
        lambda a, b, c, d: b == a + b + c + d,
        lambda a, b, c, d: c == a + b + c + d,
        lambda a, b, c, d: 0 < b + c <= 12 and a + d > 500,
        lambda a, b, c, d: a * d - b * c > 0,
        lambda a, b, c, d: a * d - b * c < 0,
    ):
        assert sum(edge(*table[:4]) for table in tables) >= 10
