"""KL divergence against a recorded reference, beside both engines read in lockstep; the table shows the ratio.

    pytest suites/selftest/bench/bench_kld.py

The reference and the build are the same tiny model: what differs is the work. With a model of your
own (a vocabulary of a real size makes the packing count), name two GGUF files:

    KLD_REFERENCE=f16.gguf KLD_BUILD=q4.gguf pytest suites/selftest/bench/bench_kld.py

Not collected by default: times are for people to read, no test asserts one.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from harness.engines import open_engine
from harness.quant.fidelity import compare
from harness.quant.logprob_file import Reader, distributions, record
from harness.types import Scored

pytestmark = pytest.mark.selftest

PASSAGE = "No-Wait Weight Loss, a diet pill brand, promises that one pill a day is enough. Paris is the capital of France. "
TEXTS = [Scored(f"t{i}", "", (f"{i}. " + PASSAGE * 3,), full=True) for i in range(8)]


def quiet(task: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def engines(request):
    places = [os.environ.get(name) or request.getfixturevalue("tiny_gguf") for name in ("KLD_REFERENCE", "KLD_BUILD")]
    opened = [open_engine("llamacpp", place, threads=2) for place in places]
    yield opened
    for engine in opened:
        engine.close()


@pytest.fixture(scope="module")
def recorded(engines, tmp_path_factory):
    path = tmp_path_factory.mktemp("kld") / "reference"
    record(engines[0], TEXTS, path, quiet)
    return path


def lockstep(new, old):
    """How it was done before: the reference is computed anew for each build."""
    means = []
    for text in TEXTS:
        q, p = distributions(new, text)[1], distributions(old, text)[1]
        means.append(float(np.sum(np.exp(p, dtype=np.float64) * (p.astype(np.float64) - q), axis=-1).mean()))
    return means


def stored(new, path):
    with Reader(path) as reference:
        return [row["kld_mean"] for row in compare(new, reference, TEXTS, quiet)]


def test_a_build_ours_against_the_record(benchmark, engines, recorded):
    benchmark.group = "one build"
    means = benchmark.pedantic(lambda: stored(engines[1], recorded), rounds=3, warmup_rounds=1)
    assert means == pytest.approx(lockstep(engines[1], engines[0]), abs=1e-4, rel=1e-3)


def test_a_build_rival_lockstep(benchmark, engines):
    benchmark.group = "one build"
    assert len(benchmark.pedantic(lambda: lockstep(engines[1], engines[0]), rounds=3, warmup_rounds=1)) == len(TEXTS)


def test_the_record_ours(benchmark, engines, tmp_path):
    benchmark.group = "the reference"
    paths = iter(tmp_path / str(i) for i in range(9))  # a finished file would not be made again
    benchmark.pedantic(lambda: record(engines[0], TEXTS, next(paths), quiet), rounds=3, warmup_rounds=1)
    assert (tmp_path / "0").stat().st_size > 0


def test_the_record_rival_the_engine_alone(benchmark, engines):
    benchmark.group = "the reference"
    found = benchmark.pedantic(lambda: [distributions(engines[0], text) for text in TEXTS], rounds=3, warmup_rounds=1)
    assert len(found) == len(TEXTS)
