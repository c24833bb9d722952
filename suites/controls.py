"""Controls that every suite of gates shares: nothing changed, a known change planted in the scores.

Planted in the scores, the size is exact, which tests the rule. What a suite plants in its subjects, which tests the
whole path, stands beside its claims.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.store import digest_json
from harness.types import Control, Measurement, Sample

HOLDS = ("holds",)
FAILS = ("fails",)
NOT_HOLDS = ("fails", "inconclusive")  # a damaged model must be stopped; how surely depends on n
NOT_FAILS = ("holds", "inconclusive")


def unchanged(measurement: Measurement) -> Control:
    """The reference against a fresh run of itself: must hold."""
    return Control("A/A: the reference against itself, answered again", HOLDS, measurement)


def planted(what: str, measurement: Measurement) -> Control:
    """A change of known size, put into the scores: must be refuted."""
    return Control(f"planted in the scores: {what}", FAILS, measurement)


def chosen(samples: Sequence[Sample], share: float, seed: str) -> set[str]:
    """ceil(share * n) items, picked by SHA-256."""
    items = sorted({s.item for s in samples}, key=lambda item: digest_json([seed, item]))
    return set(items[: math.ceil(min(1.0, share) * len(items))])


def with_share(samples: Sequence[Sample], share: float, seed: str) -> tuple[Sample, ...]:
    """The samples with value 1 on ``share`` of the items and 0 elsewhere."""
    hit = chosen(samples, share, seed)
    return tuple(replace(s, value=float(s.item in hit), status="ok") for s in samples)


def shifted(samples: Sequence[Sample], by: float, top: float) -> tuple[Sample, ...]:
    """The samples with ``by`` added to each value, no higher than ``top``."""
    return tuple(replace(s, value=min(top, (s.value or 0.0) + by)) for s in samples)


def per_token(samples: Sequence[Sample], rate: float, jitter: float, seed: str) -> tuple[Sample, ...]:
    """Log ratios of ``rate`` a token, give or take ``jitter`` by SHA-256: a mean effect known exactly enough."""

    def noise(item: str) -> float:
        return int(digest_json([seed, item])[:8], 16) / 0xFFFFFFFF * 2 - 1

    return tuple(replace(s, value=s.weight * (rate + jitter * noise(s.item))) for s in samples)
