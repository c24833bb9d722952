"""Latency limits on one long run of requests: how dependent they are, and what the share over the limit then is.

Neighbouring requests share a queue, so that those over the limit come in clusters and a run says less than its length.
``slo_time`` estimates the integrated autocorrelation time tau >= 1 of the run. The tests read the number over the limit
as that of a stationary two-state Markov chain of the same tau: its lag-1 correlation is rho = (tau - 1) / (tau + 1), and
tau = 1 is the binomial, exactly. A small chance of *at most* k over, which is what holds a claim, rises with tau: too
large a tau is safe. The chance of *at least* k does not, so there k / tau of n / tau independent requests are counted.

Autocovariances are exact: one product of two long integers holds every lagged sum of products, as digits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

from harness.stats.intervals import Interval, check_alpha
from harness.stats.paired import Tests
from harness.stats.special import beta_quantile, betainc, binom_cdf, binom_pmf, binom_sf, bisect

__all__ = [
    "early_stopping_n",
    "integrated_time",
    "over_limit",
    "quantile_ranks",
    "quantile_upper_rank",
    "slo_interval",
    "slo_min_n",
    "slo_n",
    "slo_tests",
    "slo_time",
]


# --- dependence -----------------------------------------------------------------------------------


def integrated_time(values: Sequence[float]) -> float:
    """The integrated autocorrelation time: by how much the variance of the mean exceeds that of independent values; >= 1.

    Assumes: a stationary series in the order of time, many times longer than the result.
    Fails when: the series never left one state, then it looks independent; all values equal (ValueError "degenerate").
    Reference: Geyer (1992), initial positive and monotone sequence, divisor n. Values are read to 2^-40 of their span.
    """
    low, high = min(values, default=0.0), max(values, default=0.0)
    if not all(map(math.isfinite, values)) or math.isinf(high - low):
        raise ValueError(f"values from {low} to {high}, expected finite numbers")
    if low == high:
        raise ValueError(f"degenerate: {len(values)} equal values, expected a series that varies")
    covariances = _autocovariances([round((x - low) / (high - low) * 2**40) for x in values])
    variance = covariances[0]
    total, last = 0, 2 * variance
    for even, odd in zip(covariances[::2], covariances[1::2], strict=False):
        last = min(last, even + odd)
        if last <= 0:
            break
        total += last
    return max(1.0, (2 * total - variance) / variance)


def _autocovariances(x: Sequence[int]) -> list[int]:
    """n^3 times the autocovariances of integers >= 0, at lags 0 to n - 1."""
    n = len(x)
    width = (n * max(x) ** 2).bit_length() // 8 + 1
    product = (_number(x, width) * _number(x[::-1], width)).to_bytes(2 * n * width, "little")
    products = [int.from_bytes(product[i * width : (i + 1) * width], "little") for i in range(n - 1, 2 * n - 1)]
    before = list(accumulate(x, initial=0))
    total = before[n]
    # the sum of (x_i - m)(x_{i+lag} - m) with m = total / n; the first and the last n - lag values have these sums
    return [n * n * products[lag] - n * total * (before[n - lag] + total - before[lag]) + (n - lag) * total * total for lag in range(n)]


def _number(digits: Sequence[int], width: int) -> int:
    return int.from_bytes(b"".join(digit.to_bytes(width, "little") for digit in digits), "little")


def slo_time(latencies: Sequence[float | None], limit: float) -> float:
    """The integrated autocorrelation time that ``slo_tests`` is to use, for requests in the order of their arrival.

    The largest of those of the ranks, of the exponential (Savage) scores, which weigh the slow end, and of "over the
    limit", and two standard errors more: a run in which few happen to be over also shows too short a time.
    None (failed, timed out) ranks above every latency. 1 if every request failed.

    Assumes: a stationary run, long enough to have seen its slow states.
    Fails when: it is not; one latency is shared by more than 9 of 10 requests (ValueError "degenerate").
    Reference: Savage (1956); standard error about 3 tau sqrt(tau / n), Madras & Sokal (1988) with a window of 2 tau;
    here 0 for tau = 1.
    """
    over, n = over_limit(latencies, limit), len(latencies)
    if n == 0:
        raise ValueError("no latencies, expected at least one request")
    shared = Counter(x for x in latencies if x is not None)
    if not shared:
        return 1.0
    latency, count = shared.most_common(1)[0]
    if count > 0.9 * n:
        raise ValueError(f"degenerate: {count} of {n} latencies equal {latency}, expected a clock that resolves them")
    series = _scores([math.inf if x is None else x for x in latencies])
    if 0 < over < n:
        series.append([float(_over(x, limit)) for x in latencies])
    tau = max(map(integrated_time, series))
    return tau * (1 + 6 * math.sqrt((tau - 1) / n))


def _scores(values: Sequence[float]) -> list[list[float]]:
    """Ranks, and exponential scores: the k-th smallest of n has 1/n + 1/(n-1) + ... of k terms. Ties share their mean."""
    n = len(values)
    exponential = list(accumulate(1 / (n - i) for i in range(n)))
    rank: dict[float, float] = {}
    score: dict[float, float] = {}
    first = 0
    for value, group in groupby(sorted(values)):
        end = first + sum(1 for _ in group)
        rank[value] = (first + end - 1) / 2
        score[value] = math.fsum(exponential[first:end]) / (end - first)
        first = end
    return [[rank[x] for x in values], [score[x] for x in values]]


# --- the share over the limit ---------------------------------------------------------------------


def over_limit(latencies: Sequence[float | None], limit: float) -> int:
    """How many requests were over the limit: slower than it, or failed (None).

    Assumes: one entry for every request that was scheduled; latency counts from the scheduled arrival.
    """
    if not all(math.isfinite(x) for x in (limit, *latencies) if x is not None):
        raise ValueError("a latency or the limit is NaN or infinite, expected finite numbers, None where a request failed")
    return sum(_over(x, limit) for x in latencies)


def _over(latency: float | None, limit: float) -> bool:
    return latency is None or latency > limit


def slo_tests(k: int, n: int, tau: float, share: float) -> Tests:
    """p-values of "the share over the limit is below ``share``", where k of n requests were over.

    Assumes: tau = ``slo_time``; share = 1 - q for a claim on the quantile q, at most one half.
    Fails when: the run never saw the slow states of the service; asymptotic for tau > 1, exact for tau = 1.
    Reference: Markov chain binomial (Edwards 1960; Klotz 1973); p_fail = I_share(k/tau, (n-k)/tau + 1).
    """
    _check_run(k, n, tau)
    _check_share(share)
    p_fail = betainc(k / tau, (n - k) / tau + 1, share) if k > 0 else 1.0
    return Tests(_at_most(k, n, share, tau), p_fail)


def slo_interval(k: int, n: int, tau: float, alpha: float) -> Interval:
    """Limits of the share over the limit, each one-sided at ``alpha``: those at which ``slo_tests`` gives ``alpha``.

    Assumes: as ``slo_tests``.
    Reference: tau = 1 is Clopper & Pearson (1934).
    """
    _check_run(k, n, tau)
    check_alpha(alpha)
    low = beta_quantile(alpha, k / tau, (n - k) / tau + 1) if k > 0 else 0.0
    high = bisect(lambda share: _at_most(k, n, share, tau) - alpha, 0.0, 1.0)
    return Interval(low, max(high, k / n))


def slo_min_n(share: float, alpha: float, tau: float = 1.0) -> int:
    """The requests below which not even none over the limit can hold the claim.

    Assumes: tau = ``slo_time``.
    Reference: (1 - share)^n <= alpha for tau = 1.
    """
    _check_run(0, 1, tau)
    _check_share(share)
    check_alpha(alpha)
    return _first(lambda n: _at_most(0, n, share, tau) <= alpha, 1)


def slo_n(share: float, rate: float, alpha: float, power: float, tau: float = 1.0) -> int:
    """The first number of requests that shows "the share over the limit is below ``share``" when it truly is ``rate``.

    Assumes: tau = ``slo_time`` of a pilot run.
    Fails when: the pilot was too short to see the slow states; read as "from here on": power is a saw-tooth in n.
    The tau of the run itself will scatter: for .80 the simulated power on queues was .73 to .78.
    Reference: the first k with power at the first n at which k over holds; that power rises with k.
    """
    if not 0 <= rate < share or not 0 < power < 1:
        raise ValueError(f"rate = {rate}, power = {power}; expected 0 <= rate < share = {share} and 0 < power < 1")
    least = slo_min_n(share, alpha, tau)

    def held_at(k: int) -> int:
        return _first(lambda n: _at_most(k, n, share, tau) <= alpha, least)

    return held_at(_first(lambda k: _at_most(k, held_at(k), rate, tau) >= power, 0))


def _at_most(k: int, n: int, share: float, tau: float) -> float:
    """P(at most k of n are over) in a stationary Markov chain of two states, over with probability ``share``.

    Of the k before the (k + 1)-th over, j ~ Bin(k, leave) are followed by a stay within the limit; one more stay comes
    first if the first request is within. More than k are over iff the stays fit into the other n - k - 1 requests, each
    of which ends one with chance ``enter``.
    """
    if k >= n:
        return 1.0
    stay = (tau - 1) / (tau + 1)
    leave, enter = (1 - share) * (1 - stay), share * (1 - stay)
    rest, reach = n - k - 1, 10 * math.sqrt(k * leave * (1 - leave)) + 10  # beyond, Bin(k, leave) is below 1e-20
    return math.fsum(
        binom_pmf(j, k, leave) * (share * binom_cdf(j - 1, rest, enter) + (1 - share) * binom_cdf(j, rest, enter))
        for j in range(max(0, math.floor(k * leave - reach)), min(k, math.ceil(k * leave + reach)) + 1)
    )


# --- independent requests: order statistics -------------------------------------------------------


def quantile_ranks(n: int, q: float, alpha: float) -> tuple[int | None, int | None]:
    """The ranks, from 1, of the order statistics that bound the quantile q, each one-sided at ``alpha``; None: n is too small.

    Assumes: n independent values.
    Fails when: they are not; latencies of one run are not, see ``slo_tests``.
    Reference: David & Nagaraja (2003), Order Statistics, 7.1.
    """
    _check_quantile(n, q)
    check_alpha(alpha)
    below = _first(lambda k: binom_cdf(k, n, q) > alpha, 0)  # as many ranks have a chance of at most alpha to exceed
    above = _first(lambda k: binom_cdf(k, n, q) >= 1 - alpha, 0) + 1
    return below or None, above if above <= n else None


def quantile_upper_rank(n: int, q: float, alpha: float) -> int | None:
    """The rank, from 1, of the order statistic that the quantile q exceeds with a chance below ``alpha``; None: n is too small.

    Assumes: n independent values.
    Reference: the n - t with t the largest for which P(Bin(n, 1 - q) <= t) < alpha.
    """
    _check_quantile(n, q)
    check_alpha(alpha)
    rank = _first(lambda r: binom_sf(r, n, q) < alpha, 0)
    return rank if rank <= n else None


def early_stopping_n(t: int, q: float, confidence: float) -> int:
    """The requests at which t over the limit first show that the quantile q is within it.

    Assumes: independent requests and one look.
    Reference: MLPerf LoadGen's early stopping, P(Bin(n, 1 - q) <= t) < 1 - confidence.
    """
    _check_quantile(t + 1, q)
    if not 0.5 < confidence < 1:
        raise ValueError(f"confidence = {confidence}, expected 0.5 < confidence < 1")
    return _first(lambda n: binom_sf(n - t, n, q) < 1 - confidence, t + 1)


def _first(true_from: Callable[[int], bool], start: int) -> int:
    """The first integer >= start at which a condition that stays true is true."""
    low, step = start - 1, 1
    while not true_from(low + step):
        low, step = low + step, 2 * step
    high = low + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if true_from(middle) else (middle, high)
    return high


def _check_run(k: int, n: int, tau: float) -> None:
    if n < 1 or not 0 <= k <= n or not 1 <= tau < math.inf:
        raise ValueError(f"k = {k}, n = {n}, tau = {tau}; expected n >= 1, 0 <= k <= n and 1 <= tau < inf")


def _check_share(share: float) -> None:
    if not 0 < share <= 0.5:
        raise ValueError(f"share = {share}, expected 0 < share <= 0.5: a claim on the median or above")


def _check_quantile(n: int, q: float) -> None:
    if n < 1 or not 0 < q < 1:
        raise ValueError(f"n = {n}, q = {q}; expected n >= 1 and 0 < q < 1")
