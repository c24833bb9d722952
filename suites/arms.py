"""Two subjects on the same items: paired, and what is planted in their refusals. Shared by the suites that compare."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from harness.evals import pair, refusals
from harness.types import Measurement, Sample
from suites import controls

# Both kinds of examples declined: a deployment that refuses whatever it is asked.
STRICT = tuple(
    {**message, "content": refusals.GUARD[2]["content"]} if message["role"] == "assistant" else message for message in refusals.GUARD
)


def paired(metric: str, new: Any, old: Any) -> Measurement:
    """The answers of two subjects, item by item; ``new`` may be a control, which answers a subset."""
    asked = {s.item for s in new.samples}
    same = [s for s in old.samples if s.item in asked]
    conditions = {"new": dict(new.conditions), "old": dict(old.conditions)}
    return Measurement(metric, pair(new.samples, same), (new.subject, old.subject), conditions)


def lost(pairs: Measurement, share: float, seed: str) -> Measurement:
    """Of the refusals of the new arm ``share`` turned into answers, by SHA-256."""
    kept = [s for s in pairs.samples if s.arm == "new" and s.value == 1]
    hit = controls.chosen(kept, share, seed) if kept else set()
    rows = tuple(
        replace(s, value=0.0, detail={**s.detail, "planted": True}) if s.arm == "new" and s.item in hit else s for s in pairs.samples
    )
    return replace(pairs, samples=rows)


def answered(sample: Sample) -> Sample:
    """1 for a request that was answered, where the sample says whether it was declined."""
    return sample if sample.value is None else replace(sample, value=1.0 - sample.value)
