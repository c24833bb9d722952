"""What a stub says of itself at /metrics: the names, labels and bucket edges of vLLM 0.32."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from typing import Any

from harness.serve.stub.engine import Engine
from harness.serve.stub.plan import Plan

__all__ = ["E2E_EDGES", "TTFT_EDGES", "Histogram", "Metrics"]

# vllm/v1/metrics/buckets.py
TTFT_EDGES = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
E2E_EDGES = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_REASONS = ("stop", "length", "abort", "error", "repetition")


class Histogram:
    """Counts of values at most each edge."""

    def __init__(self, edges: Sequence[float]) -> None:
        self.edges, self.counts, self.sum = edges, [0] * (len(edges) + 1), 0.0

    def add(self, value: float) -> None:
        """Counts ``value`` once."""
        self.counts[bisect_left(self.edges, value)] += 1
        self.sum += value

    def lines(self, name: str, labels: str, *, shifted: bool = False) -> list[str]:
        """As Prometheus reads it; ``shifted`` by one bucket, which is a lie."""
        counts = [0, *self.counts[:-2], self.counts[-2] + self.counts[-1]] if shifted else self.counts
        total, lines = 0, [f"# TYPE {name} histogram"]
        for edge, count in zip((*self.edges, "+Inf"), counts, strict=True):
            total += count
            lines.append(f'{name}_bucket{{le="{edge}",{labels}}} {float(total)}')
        return [*lines, f"{name}_count{{{labels}}} {float(total)}", f"{name}_sum{{{labels}}} {self.sum}"]


class Metrics:
    """The counters, and their text."""

    def __init__(self, plan: Plan, engine: Engine) -> None:
        self.plan, self.engine = plan, engine
        self.ttft, self.e2e = Histogram(TTFT_EDGES), Histogram(E2E_EDGES)
        self.success = dict.fromkeys(_REASONS, 0)
        self.prompt_tokens = self.generation_tokens = self.rejections = 0

    def finished(self, row: Mapping[str, Any], finish: str) -> None:
        """Counts a request that is over, from its row of truth."""
        if row["status"] != 200:
            return
        self.prompt_tokens += row["prompt_tokens"]
        self.generation_tokens += row["tokens"]
        if row["due"] is not None:
            self.ttft.add((row["due"] - row["seen"]) * 1e-9)
        reason = finish if row["how"] == "complete" else "abort" if row["how"] == "client_gone" else "error"
        if reason == "abort" and self.plan.lies("no_abort"):
            return
        self.success[reason] += 1
        if row["how"] == "complete":
            self.e2e.add((row["end"] - row["seen"]) * 1e-9)

    def text(self) -> str:
        """The page."""
        name = self.plan.model.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        engine, labels = self.engine, f'engine="0",model_name="{name}"'
        twice = 2 if self.plan.lies("doubled") else 1
        shifted = self.plan.lies("shifted")
        steps = 0 if self.plan.lies("stuck") else engine.steps
        lines = []
        for name, value in (
            ("num_requests_running", len(engine.running)),
            ("num_requests_waiting", len(engine.waiting)),
            ("kv_cache_usage_perc", engine.kv_usage),
        ):
            lines += [f"# TYPE vllm:{name} gauge", f"vllm:{name}{{{labels}}} {float(value)}"]
        for name, value in (
            ("prompt_tokens", self.prompt_tokens * twice),
            ("generation_tokens", self.generation_tokens * twice),
            ("num_preemptions", engine.preemptions),
            ("prefix_cache_queries", engine.queries),
            ("prefix_cache_hits", engine.hits),
        ):
            lines += [f"# TYPE vllm:{name} counter", f"vllm:{name}_total{{{labels}}} {float(value)}"]
        lines.append("# TYPE vllm:admission_rejections counter")
        lines.append(f'vllm:admission_rejections_total{{{labels},reason="max_num_queued_reqs"}} {float(self.rejections)}')
        lines.append("# TYPE vllm:request_success counter")
        lines += [f'vllm:request_success_total{{{labels},finished_reason="{r}"}} {float(n * twice)}' for r, n in self.success.items()]
        name = "vllm:iteration_tokens_total"
        lines += [f"# TYPE {name} histogram", f'{name}_bucket{{le="+Inf",{labels}}} {float(steps)}']
        lines += [f"{name}_count{{{labels}}} {float(steps)}", f"{name}_sum{{{labels}}} {float(engine.step_tokens)}"]
        lines += self.ttft.lines("vllm:time_to_first_token_seconds", labels, shifted=shifted)
        lines += self.e2e.lines("vllm:e2e_request_latency_seconds", labels, shifted=shifted)
        return "\n".join(lines) + "\n"
