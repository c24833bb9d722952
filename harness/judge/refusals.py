"""What no rule may see: the refusals that are common to all (section 2.2), in their order."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from harness.judge.settle import inconclusive
from harness.types import Claim, Measurement, Sample, Verdict, items_digest

__all__ = ["clustered", "refuse", "unusable"]

_PAIRED = (
    "paired_difference", "paired_mean", "relative_score", "sequential_difference", "corrected_difference", "run_ratio", "kappa",
)  # fmt: skip


def refuse(claim: Claim, measurement: Measurement) -> Verdict | None:
    """Why these data cannot be judged; None if they can."""
    samples = measurement.samples
    n = len({s.item for s in samples})
    if not samples:
        return inconclusive("no_data", "nothing was measured; a run without rows can never pass", 0)
    if measurement.invalid:
        return inconclusive("invalid_run", f"the run is void: {'; '.join(measurement.invalid)}", n)
    return _of_the_plan(claim, measurement, n) or _of_the_rows(claim, samples, n)


def _of_the_plan(claim: Claim, measurement: Measurement, n: int) -> Verdict | None:
    conditions = measurement.conditions
    if claim.items and items_digest(s.item for s in measurement.samples) != claim.items:
        return inconclusive("plan_mismatch", f"the {n} items measured are not the ones that the plan fixed", n)
    look = conditions.get("look", 1)
    if not isinstance(look, int) or look > claim.looks:
        sentence = f"look {look} at growing data, the plan has {claim.looks}; declare looks in the claim, or a sequential estimand"
        return inconclusive("multiple_looks", sentence, n)
    scorer = conditions.get("judge")
    if scorer is not None and scorer != conditions.get("calibration"):
        return inconclusive("uncalibrated_judge", f"scored by the judge {str(scorer)[:12]!r}, which has no valid calibration record", n)
    return None


def _of_the_rows(claim: Claim, samples: Sequence[Sample], n: int) -> Verdict | None:
    twice = [key for key, count in Counter((s.item, s.arm, s.replicate) for s in samples).items() if count > 1]
    if twice:
        item, arm, replicate = min(twice)
        sentence = f"{len(twice)} rows stand twice, first: item {item!r}, arm {arm!r}, replicate {replicate}"
        return inconclusive("duplicate_rows", sentence, n)
    again = [s.item for s in samples if s.replicate] if claim.estimand in ("kappa", "corrected_difference") else []
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
    if n < claim.min_n:
        return inconclusive("min_n", f"{n} units, the plan asks for {claim.min_n}", n, n_needed=claim.min_n)
    return None


def _sound(sample: Sample) -> bool:
    """A finite value when ok, none otherwise."""
    if sample.at is not None and not math.isfinite(sample.at):
        return False
    if sample.status != "ok":
        return sample.value is None
    return sample.value is not None and math.isfinite(sample.value) and math.isfinite(sample.weight)


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
