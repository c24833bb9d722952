"""Controls of the quantization gates: nothing changed, a known change planted, a model really damaged.

At two depths. In the scores: the size is exact, which tests the rule. In the subject: one layer of
the reference is drowned in noise and goes through the very path the builds go, which tests the path.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from harness.store import digest_json
from harness.types import Control, Measurement, Sample


def drowned(reference: str) -> str:
    """The reference with block 12 drowned in noise of three times its own spread."""
    return f"damaged:{reference}:noise-layer:12:3"


HOLDS = ("holds",)
FAILS = ("fails",)
NOT_HOLDS = ("fails", "inconclusive")  # a damaged model must be stopped; how surely depends on n
NOT_FAILS = ("holds", "inconclusive")


# One matrix damaged a little: 3% noise, a square block turned over, the zero point of one group a step off.
ONE_MATRIX = "blk.12.attn_q.weight"
ONE_MATRIX_DAMAGED = (f"noise-tensor:{ONE_MATRIX}:0.03", f"transpose-block:{ONE_MATRIX}:64", f"zero-point:{ONE_MATRIX}:1")


def unchanged(measurement: Measurement) -> Control:
    """The reference against a fresh run of itself: must hold."""
    return Control("A/A: the reference against itself, answered again", HOLDS, measurement)


def planted(what: str, measurement: Measurement) -> Control:
    """A change of known size, put into the scores: must be refuted."""
    return Control(f"planted in the scores: {what}", FAILS, measurement)


def damaged(measurement: Measurement) -> Control:
    """A really damaged copy of the reference through the whole path: must not hold."""
    return Control("planted in the model: block 12 drowned in noise", NOT_HOLDS, measurement)


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
