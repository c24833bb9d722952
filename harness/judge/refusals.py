"""What no rule may see: the refusals that are common to all (section 2.2), in their order."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from harness.judge.settle import inconclusive
from harness.types import Claim, Measurement, Sample, Verdict, items_digest

__all__ = ["clustered", "refuse", "sequence", "unusable"]

_PAIRED = (
    "paired_difference", "paired_mean", "relative_score", "sequential_difference", "corrected_difference", "run_ratio", "kappa",
)  # fmt: skip


# One row an item and arm, items independent: what these cannot average they do not take.
_ONE_ROW = ("kappa", "corrected_difference")
_NO_CLUSTERS = ("sequential_difference", "corrected_difference", "kappa", "alpha_nominal", "alpha_ordinal", "alpha_interval")


def refuse(claim: Claim, measurement: Measurement) -> Verdict | None:
    """Why these data cannot be judged; None if they can."""
    samples = measurement.samples
    if not samples:
        return inconclusive("no_data", "nothing was measured; a run without rows can never pass", 0)
    malformed = [s for s in samples if not _well_formed(s)]
    if malformed:
        return inconclusive("domain", f"{len(malformed)} rows are malformed, expected names as text: {min(map(repr, malformed))}"[:300], 0)
    n = len({s.item for s in samples})
    if measurement.invalid:
        return inconclusive(_code(measurement.invalid), f"the run is void: {'; '.join(measurement.invalid)}", n)
    return _of_the_plan(claim, measurement, n) or _of_the_rows(claim, samples, n)


def _code(invalid: Sequence[str]) -> str:
    """The code of the first entry that has one, of two words or more ("client_limited: ..."); ``invalid_run`` where none does."""
    codes = (re.match(r"([a-z]+(?:_[a-z]+)+): ", entry) for entry in invalid)
    return next((found[1] for found in codes if found), "invalid_run")


def _of_the_plan(claim: Claim, measurement: Measurement, n: int) -> Verdict | None:
    conditions = measurement.conditions
    if claim.items and not _as_planned(claim, measurement):
        return inconclusive("plan_mismatch", f"the {n} items measured are not the ones that the plan fixed", n)
    look = conditions.get("look", 1)
    if not isinstance(look, int) or not 1 <= look <= claim.looks:
        sentence = f"look {look} at growing data, the plan has {claim.looks}; declare looks in the claim, or a sequential estimand"
        return inconclusive("multiple_looks", sentence, n)
    scorer = conditions.get("judge")
    if scorer is not None and scorer != conditions.get("calibration"):
        return inconclusive("uncalibrated_judge", f"scored by the judge {str(scorer)[:12]!r}, which has no valid calibration record", n)
    return None


def _as_planned(claim: Claim, measurement: Measurement) -> bool:
    """Whether the items are the planned ones; of a sequential claim the first of them in its order."""
    items = {s.item for s in measurement.samples}
    if claim.estimand != "sequential_difference":
        return items_digest(items) == claim.items
    pool = measurement.conditions.get("pool", ())
    known = isinstance(pool, (list, tuple)) and all(isinstance(item, str) for item in pool) and items_digest(pool) == claim.items
    return known and items == set(sequence(claim, sorted(set(pool)))[: len(items)])


def sequence(claim: Claim, items: Sequence[str]) -> list[str]:
    """The order in which a sequential claim measures its items: by SHA-256 of claim and item, blind to any outcome."""
    return sorted(items, key=lambda item: hashlib.sha256(f"{claim.id}:{item}".encode("utf-8", "surrogatepass")).digest())


def _of_the_rows(claim: Claim, samples: Sequence[Sample], n: int) -> Verdict | None:
    twice = [key for key, count in Counter((s.item, s.arm, s.replicate) for s in samples).items() if count > 1]
    if twice:
        item, arm, replicate = min(twice)
        sentence = f"{len(twice)} rows stand twice, first: item {item!r}, arm {arm!r}, replicate {replicate}"
        return inconclusive("duplicate_rows", sentence, n)
    again = [s.item for s in samples if s.replicate] if claim.estimand in _ONE_ROW else []
    if again:
        return inconclusive("duplicate_rows", f"{len(again)} rows are replicates, first: item {min(again)!r}; one row an item and arm", n)
    broken = [s for s in samples if not _sound(s)]
    if broken:
        first = min(broken, key=lambda s: (s.item, s.arm, s.replicate))
        sentence = f"{len(broken)} rows hold no finite number, first: item {first.item!r} = {first.value!r} ({first.status})"
        return inconclusive("non_finite", sentence, n)
    labels = claim.estimand == "corrected_difference"  # people's, a matter of its own rule
    unpaired = _unpaired([s for s in samples if not (labels and s.arm.endswith(":human"))]) if claim.estimand in _PAIRED else []
    if unpaired:
        sentence = f"{len(unpaired)} items are not in both arms: {', '.join(unpaired[:5])}"
        return inconclusive("unpaired_items", sentence, n)
    if claim.estimand not in (*_PAIRED, "exact") and len(arms := {s.arm for s in samples}) > 1:
        return inconclusive("domain", f"one arm is judged, and the rows name {', '.join(sorted(arms))}", n)
    if claim.estimand in _NO_CLUSTERS and clustered(samples):
        return inconclusive("clustered", f"{claim.estimand} takes independent items, and a cluster holds several", n)
    owners = Counter(item for item, _ in {(s.item, s.cluster) for s in samples})
    torn = [item for item, count in owners.items() if count > 1]
    if torn:
        return inconclusive("clustered", f"{len(torn)} items belong to two clusters, first: {min(torn)!r}", n)
    reference = [s for s in samples if s.arm == "old"]
    failed = sum(s.status == "error" for s in reference)
    if claim.estimand in _PAIRED and claim.estimand != "run_ratio" and failed > 0.1 * len(reference):
        return inconclusive("missing_data", f"the reference itself failed on {failed} of {len(reference)} rows: nothing to compare with", n)
    if n < claim.min_n:
        return inconclusive("min_n", f"{n} units, the plan asks for {claim.min_n}", n, n_needed=claim.min_n)
    return None


def _well_formed(sample: Sample) -> bool:
    names = (sample.item, sample.arm, sample.status)
    return (
        all(isinstance(name, str) for name in names)
        and (sample.cluster is None or isinstance(sample.cluster, str))
        and isinstance(sample.replicate, int)
        and isinstance(sample.detail, Mapping)
    )


def _sound(sample: Sample) -> bool:
    """A finite value when ok, none otherwise."""
    if not (_finite(sample.weight) and (sample.at is None or _finite(sample.at))):
        return False
    return sample.value is None if sample.status != "ok" else _finite(sample.value)


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and abs(value) < 1e300  # room for sums and squares of many


def _unpaired(samples: Iterable[Sample]) -> list[str]:
    """Items that lack one of the two arms, or all of them where there is a third."""
    arms: dict[str, set[str]] = {"new": set(), "old": set()}
    for sample in samples:
        arms.setdefault(sample.arm, set()).add(sample.item)
    return sorted(set().union(*arms.values()) - (arms["new"] & arms["old"])) if len(arms) == 2 else sorted(set(arms))


def unusable(samples: Iterable[Sample]) -> int:
    """Rows that failed, were cut off or could not be parsed: counted, never dropped."""
    return sum(s.status != "ok" for s in samples)


def clustered(samples: Iterable[Sample]) -> bool:
    """Whether one independent unit holds more than one item, which an exact binary test may not see."""
    owner: dict[str, str] = {}
    return any(owner.setdefault(s.cluster, s.item) != s.item for s in samples if s.cluster is not None)
