"""What a claim may demand: a closed set of bounds.

    at_least(x)  at_most(x)  within(low, high)      one arm, or a ratio of two
    non_inferior(margin)  better_than(by=0)         new against old, item by item
    equivalent(margin)                              neither worse nor better by the margin
    identical()                                     deterministic: every row equals what is expected

A bound is data. Which statistical rule decides it follows from the bound and the claim's
estimand alone (``harness.judge``), never from what the data look like.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from harness.errors import ClaimError, ConfigError, nearest
from harness.types import Claim, Estimand

__all__ = ["Bound", "at_least", "at_most", "better_than", "equivalent", "from_dict", "identical", "non_inferior", "within"]

Kind = Literal["at_least", "at_most", "within", "non_inferior", "better_than", "equivalent", "identical"]

_ESTIMANDS: dict[str, tuple[Estimand, ...]] = {
    "at_least": (
        "proportion", "run_ratio", "relative_score", "bounded_mean", "mean",
        "kappa", "alpha_nominal", "alpha_ordinal", "alpha_interval", "exact", "exact_share",
    ),
    "at_most": ("proportion", "bounded_mean", "mean", "log_ratio", "over_limit", "run_ratio", "exact", "exact_share"),
    "within": ("proportion", "exact", "exact_share"),
    "non_inferior": ("paired_difference", "paired_mean", "sequential_difference", "corrected_difference"),
    "better_than": ("paired_difference", "paired_mean", "sequential_difference", "corrected_difference"),
    "equivalent": ("paired_difference", "paired_mean", "corrected_difference"),
    "identical": ("exact",),
}  # fmt: skip
_DIFFERENCES = ("non_inferior", "better_than", "equivalent")
_WITH_SUPPORT = ("bounded_mean", "relative_score", "sequential_difference")


@dataclass(frozen=True, slots=True)
class Bound:
    """Made by the constructors below; ``limit`` is the number that decides (``high``: the upper end)."""

    kind: Kind
    limit: float = 0.0
    high: float | None = None

    @property
    def default_estimand(self) -> Estimand:
        """The estimand of a claim that names none."""
        return _ESTIMANDS[self.kind][0]

    @property
    def default_alpha(self) -> float:
        """One-sided: .025 for superiority, .05 for everything else (statistics.md section 2)."""
        return 0.025 if self.kind == "better_than" else 0.05

    def check(self, claim: Claim) -> None:
        """Raises ClaimError if no data could decide ``claim`` under this bound."""
        numbers = [self.limit] + ([] if self.high is None else [self.high])
        if not all(math.isfinite(x) for x in numbers):
            raise ClaimError(f"claim {claim.id}: bound {self} is not finite")
        if claim.estimand not in _ESTIMANDS[self.kind]:
            allowed = ", ".join(_ESTIMANDS[self.kind])
            raise ClaimError(f"claim {claim.id}: {self.kind} cannot decide {claim.estimand!r}; it decides {allowed}")
        problem = self._problem(claim)
        if problem:
            raise ClaimError(f"claim {claim.id}: {self}: {problem}")

    def _problem(self, claim: Claim) -> str:
        return self._of_the_numbers(claim) or _of_the_support(self, claim) or _of_the_slo(claim)

    def _of_the_numbers(self, claim: Claim) -> str:
        if claim.estimand == "paired_difference" and self.kind in ("non_inferior", "equivalent") and not 0 < self.limit < 1:
            return "the margin must lie inside (0, 1), on the score scale (0.03 = 3 points)"
        if self.kind in ("non_inferior", "equivalent") and self.limit <= 0:
            return "the margin must be positive"
        if self.kind == "better_than" and (self.limit < 0 or (claim.estimand == "paired_difference" and self.limit >= 1)):
            return "the least gain must lie in [0, 1)"
        if self.kind == "within" and (self.high is None or not self.limit < self.high):
            return "expected low < high"
        if claim.estimand in ("proportion", "over_limit") and not all(0 < x < 1 for x in self._ends()):
            return "a share must be bounded inside (0, 1); for 'none at all' use identical()"
        if claim.estimand == "exact_share" and not all(0 <= x <= 1 for x in self._ends()):
            return "a share of all rows must be bounded inside [0, 1]"
        if claim.estimand == "over_limit" and self.limit > 0.5:
            return "the share over the limit must be bounded by at most .5: a claim on the median or a higher quantile"
        if claim.estimand in ("log_ratio", "run_ratio", "relative_score") and self.limit <= 0:
            return "a ratio must be positive"
        if str(claim.estimand).startswith(("kappa", "alpha")) and not 0 <= self.limit < 1:
            return "agreement must be bounded inside [0, 1): 0 is agreement by chance"
        return ""

    def _ends(self) -> tuple[float, ...]:
        return (self.limit,) if self.high is None else (self.limit, self.high)

    def to_dict(self) -> dict[str, Any]:
        """The form that is sealed in the plan."""
        return {key: value for key, value in asdict(self).items() if value is not None}

    def __str__(self) -> str:
        if self.kind == "identical":
            return "identical()"
        ends = ", ".join(f"{x:g}" for x in self._ends())
        return f"{self.kind}({ends})"


def _of_the_support(bound: Bound, claim: Claim) -> str:
    if claim.support is None:
        return f"{claim.estimand} needs support=(low, high), the range of one score" if claim.estimand in _WITH_SUPPORT else ""
    low, high = claim.support
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        return f"support = {claim.support}, expected two finite numbers, low < high"
    if claim.estimand == "bounded_mean" and not low < bound.limit < high:
        return f"the limit must lie inside the support {claim.support}"
    if bound.kind in _DIFFERENCES and bound.limit >= high - low:
        return f"the margin must be less than the width of the support {claim.support}"
    if claim.estimand == "relative_score" and low < 0:
        return f"support = {claim.support}: a ratio of scores needs scores that are not negative"
    return ""


def _of_the_slo(claim: Claim) -> str:
    if claim.estimand != "over_limit":
        return ""
    if claim.slo is None or not (math.isfinite(claim.slo) and claim.slo > 0):
        return f"slo = {claim.slo}: over_limit needs the latency above which a request counts as over, a positive number"
    return ""


def _number(kind: Kind, value: Any) -> float:
    """A margin as text is a slip of the pen, and so is a yes or no."""
    if isinstance(value, (str, bytes, bool)):
        raise ClaimError(f"{kind}({value!r}): expected a number")
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise ClaimError(f"{kind}({value!r}): expected a number: {error}") from error


def at_least(limit: float) -> Bound:
    """The parameter is at least ``limit``: decided by its lower confidence limit."""
    return Bound("at_least", _number("at_least", limit))


def at_most(limit: float) -> Bound:
    """The parameter is at most ``limit``: decided by its upper confidence limit."""
    return Bound("at_most", _number("at_most", limit))


def within(low: float, high: float) -> Bound:
    """The parameter lies between ``low`` and ``high``: both limits must be inside."""
    return Bound("within", _number("within", low), _number("within", high))


def non_inferior(margin: float) -> Bound:
    """New is worse than old by less than ``margin`` (absolute: 0.03 is 3 points)."""
    return Bound("non_inferior", _number("non_inferior", margin))


def better_than(by: float = 0.0) -> Bound:
    """New is better than old, by more than ``by``."""
    return Bound("better_than", _number("better_than", by))


def equivalent(margin: float) -> Bound:
    """New is neither worse nor better than old by ``margin`` or more."""
    return Bound("equivalent", _number("equivalent", margin))


def identical() -> Bound:
    """Every row equals what was expected; no sampling error, so no interval."""
    return Bound("identical")


def from_dict(data: dict[str, Any], where: str) -> Bound:
    """A bound from the lifecycle file or a sealed plan: ``{kind = "at_most", limit = 0.02}``."""
    unknown = sorted(set(data) - {"kind", "limit", "high"})
    if unknown:
        raise ConfigError(f"{where}: unknown key {unknown[0]!r} in a bound; {nearest(unknown[0], ['kind', 'limit', 'high'])}")
    kind = data.get("kind")
    if kind not in _ESTIMANDS:
        raise ConfigError(f"{where}: unknown bound {kind!r}; {nearest(str(kind), list(_ESTIMANDS))}")
    for key in ("limit", "high"):
        if key in data and (isinstance(data[key], bool) or not isinstance(data[key], (int, float))):
            raise ConfigError(f"{where}: {key} = {data[key]!r}, expected a number")
    high = data.get("high")
    return Bound(kind, float(data.get("limit", 0.0)), None if high is None else float(high))
