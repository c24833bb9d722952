"""Seeds and tolerances of the simulations."""

from __future__ import annotations

import hashlib

import numpy as np
from scipy import stats


def generator(*key: object) -> np.random.Generator:
    """A random generator for one cell of a simulation: the key is the seed, on every platform."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def most(replicates: int, level: float) -> int:
    """The most rejections that a test of true size ``level`` shows but once in 10,000 runs of this simulation."""
    return int(stats.binom.isf(1e-4, replicates, level))


def fewest(replicates: int, level: float) -> int:
    """The mirror of ``most``."""
    return int(stats.binom.ppf(1e-4, replicates, level))
