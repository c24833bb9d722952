"""Latencies whose over-rate is known: M/G/c queues, many replicates at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Queue(NamedTuple):
    """Poisson arrivals at utilisation ``rho`` to ``servers`` servers, first come first served; lognormal service of mean 1."""

    servers: int
    rho: float
    cv: float = 0.5


def sojourns(queue: Queue, n: int, replicates: int, rng: np.random.Generator, warm_up: int = 2000) -> Array:
    """Time from arrival to end of service of n successive requests in each of many runs, in the order of arrival: (replicates, n).

    Every run starts empty; its first ``warm_up`` requests are removed. Kiefer and Wolfowitz: the times at which the
    servers fall free are kept sorted, and each request takes the first.
    """
    free = np.zeros((queue.servers, replicates))
    now, later = np.zeros(replicates), np.empty(replicates)
    sigma = np.sqrt(np.log1p(queue.cv**2))
    out = np.empty((n, replicates))
    for i in range(-warm_up, n):
        now += rng.standard_exponential(replicates) / (queue.rho * queue.servers)
        service = np.exp(sigma * rng.standard_normal(replicates) - sigma * sigma / 2)
        end = np.maximum(now, free[0]) + service
        if i >= 0:
            np.subtract(end, now, out=out[i])
        for j in range(1, queue.servers):  # insertion: end is carried upwards, what is smaller moves down
            np.maximum(free[j], end, out=later)
            np.minimum(free[j], end, out=free[j - 1])
            end, later = later, end
        free[-1] = end
    return np.ascontiguousarray(out.T)


def ar1(phi: float, n: int, replicates: int, rng: np.random.Generator) -> Array:
    """exp of a Gaussian AR(1) of unit variance: (replicates, n)."""
    z = rng.standard_normal((n, replicates))
    for i in range(1, n):
        z[i] = phi * z[i - 1] + np.sqrt(1 - phi * phi) * z[i]
    return np.ascontiguousarray(np.exp(z.T))
