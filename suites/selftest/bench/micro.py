"""Micro-timings where they belong, by pytest-benchmark: what runs once a frame, a request, an item or a verdict.

    pytest suites/selftest/bench/micro.py --benchmark-json new.json

Run by name only. Two versions are compared in blocks of such files: ``harness.evals.bridge.timings``.
"""

from __future__ import annotations

import json
import random

import pytest

from harness import Claim, Measurement, Sample, at_most, non_inferior
from harness.engines import sse
from harness.judge import judge
from harness.records import Load, Record
from harness.stats import series

FRAME = b'data: {"id":"a","object":"text_completion","choices":[{"index":0,"text":"word ","finish_reason":null}]}\n\n'


def _stream(frames: int) -> bytes:
    last = {"id": "a", "choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    usage = {"id": "a", "choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": frames}}
    ends = "".join(f"data: {json.dumps(part)}\n\n" for part in (last, usage))
    return FRAME * frames + ends.encode() + b"data: [DONE]\n\n"


def test_a_stream_is_read(benchmark):
    body = _stream(64)
    expect = sse.Expect.of(b'{"stream":true,"max_tokens":64,"stream_options":{"include_usage":true},"prompt":"x"}')
    reply, _ = benchmark(sse.completeness, 200, body, "whole", expect)
    assert reply.outcome == "complete"


def test_records_are_read(benchmark):
    rows = tuple(Record(i, i, 0, "complete", "stop", 1, 0, 10, 90, 99, 5, 9, 9, 12, 7, 200) for i in range(1000))
    data = Load({}, rows).to_bytes()
    assert len(benchmark(Load.from_bytes, data).records) == 1000


def test_the_time_of_a_queue(benchmark):
    draw = random.Random(1)
    latencies = [draw.lognormvariate(0, 0.5) for _ in range(1000)]
    assert benchmark(series.slo_time, latencies, 2.0) >= 1


def test_a_latency_limit_is_judged(benchmark):
    draw = random.Random(1)
    rows = tuple(Sample(f"{i:06d}", draw.lognormvariate(0, 0.5), at=float(i)) for i in range(1000))
    claim = Claim("micro.slo", "p95 below 4", at_most(0.05), estimand="over_limit", slo=4.0)
    assert benchmark(judge, claim, Measurement("e2e", rows)).outcome == "holds"


def test_a_pair_of_arms_is_judged(benchmark):
    rows = tuple(Sample(f"{i}", float(i % 3 == 0), arm) for i in range(500) for arm in ("new", "old"))
    claim = Claim("micro.ni", "not worse by 5 points", non_inferior(0.05))
    assert benchmark(judge, claim, Measurement("accuracy", rows)).outcome == "holds"


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__]))
