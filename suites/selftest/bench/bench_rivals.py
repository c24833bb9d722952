"""Speed beside a named rival, on the same input in the same run; the table shows the ratio.

    pytest suites/selftest/bench/bench_rivals.py

Not collected by default: times are for people to read, no test asserts one.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from harness.engines import open_engine
from harness.stats import paired
from harness.types import Scored

pytestmark = pytest.mark.selftest

TABLES = {500: (20, 24), 1000: (35, 41), 2000: (60, 75)}
MARGIN = 0.03


def scipy_grid(b: int, c: int, n: int, margin: float, points: int = 600) -> float:
    """The usual way: the exact p on a grid of the nuisance parameter, vectorised with scipy. A lower bound only."""
    cutoff = paired.tango_z(b, c, n, -margin) - 1e-10
    starts = np.array(paired._starts(n, -margin, cutoff))  # the same region: what is compared is the supremum
    m = np.arange(n + 1)
    best = 0.0
    for p12 in np.linspace(0.0, (1 - margin) / 2, points):
        psi = 2 * p12 + margin
        tail = stats.binom.sf(starts - 1, m, p12 / psi)
        best = max(best, float(np.sum(stats.binom.pmf(m, n, psi) * tail)))
    return best


@pytest.mark.parametrize("n", TABLES)
def test_non_inferiority_ours_rigorous(benchmark, n):
    benchmark.group = f"exact non-inferiority, n = {n}"
    tests = benchmark(lambda: paired.noninferiority(*TABLES[n], n, -MARGIN))
    assert tests.p_hold.upper - tests.p_hold.lower <= 1e-4


@pytest.mark.parametrize("n", TABLES)
def test_non_inferiority_rival_scipy_grid(benchmark, n):
    benchmark.group = f"exact non-inferiority, n = {n}"
    p = benchmark.pedantic(lambda: scipy_grid(*TABLES[n], n, MARGIN), rounds=3)
    assert p <= paired.noninferiority(*TABLES[n], n, -MARGIN).p_hold.upper  # the grid can only be too small


CONTEXT = "Question: where would you find magazines along side many other printed works? " * 3 + "\nAnswer:"
CHOICES = (" doctor", " bookstore", " market", " train station", " mortuary")


@pytest.fixture(scope="module")
def engine(tiny_gguf):
    made = open_engine("llamacpp", tiny_gguf, threads=1)
    yield made
    made.close()


def test_multiple_choice_ours_shared_prefix(benchmark, engine):
    benchmark.group = "multiple choice, 5 choices, 32 questions"
    texts = [Scored(f"q{i}", CONTEXT, CHOICES) for i in range(32)]
    assert len(benchmark(lambda: engine.logprobs(texts))) == 32


def test_multiple_choice_rival_each_choice_with_its_prefix(benchmark, engine):
    """How lm-eval asks: one request for each choice, the question computed anew in each."""
    benchmark.group = "multiple choice, 5 choices, 32 questions"
    texts = [Scored(f"q{i}.{k}", CONTEXT, (choice,)) for i in range(32) for k, choice in enumerate(CHOICES)]
    assert len(benchmark(lambda: engine.logprobs(texts))) == 160
