"""When a run says nothing: each rule at its edge, from a header and records written by hand."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.records import Flag, Load, Record, objectives
from harness.serve import schedule
from harness.serve.validity import late, per_frame, promised, remarks, unmeasurable, validity

pytestmark = pytest.mark.selftest

SLO = {"ttft_p95": "300ms", "tpot_p95": "20ms"}


@dataclass
class Made:
    """A sound run of 400 requests at 50 a second, Poisson; changed here and there."""

    plan: schedule.Schedule = field(default_factory=lambda: schedule.poisson(50.0, requests=400, seed=3, warmup_s=1.0))
    header: dict[str, Any] = field(default_factory=dict)
    change: dict[int, dict[str, Any]] = field(default_factory=dict)
    lag_us: int = 40

    def load(self) -> Load:
        rng = random.Random(5)
        rows = []
        for i, due in enumerate(self.plan.arrivals):
            first = round(rng.lognormvariate(0, 0.5) * 30_000) + 500
            row = {
                "scheduled": due, "sequence": i, "prompt": i, "outcome": "complete", "why": "stop", "sent": self.lag_us, "first": first,
                "last": first + 40_000, "end": first + 40_100, "prompt_tokens": 30, "tokens": 16, "frames": 16, "gap": 3000,
                "status": 200, "flags": self.plan.flag(i),
            }  # fmt: skip
            rows.append(Record(**{**row, **self.change.get(i, {})}))
        known = {"models": ["m"], "status": 200, "started": "1"}
        header = {
            "slo": SLO, "schedule": self.plan.to_dict(), "window": list(self.plan.window), **shards(1.0),
            "clock": {"boottime_step_ns": 90_000, "wall_step_ns": -80_000}, "target": {"model": "m", "before": known, "after": dict(known)},
            "workload": {"prompt_tokens": [20, 40]},
        }  # fmt: skip
        return Load({**header, **self.header}, tuple(rows))

    @property
    def inside(self) -> range:
        return self.plan.judged


def shards(*cpu_s: float, **errors: int) -> dict[str, Any]:
    return {"shards": [{"cpu_s": each, "wall_s": 10.0, "errors": errors} for each in cpu_s]}


def target(before: Any, after: Any) -> dict[str, Any]:
    return {"target": {"model": "m", "before": before, "after": after}}


def codes(load: Load) -> list[str]:
    return [entry.partition(": ")[0] for entry in validity(load)]


def test_a_sound_run_is_valid() -> None:
    load = Made().load()
    assert validity(load) == ()
    assert remarks(load) == ()
    assert late(load) == pytest.approx(40e-6)
    assert promised(load) == objectives(SLO)
    assert validity(Load.from_bytes(load.to_bytes())) == ()  # nothing but the file is needed


NEVER_SENT = {"sent": None, "first": None, "last": None, "end": None, "outcome": "never_ended", "why": "client_limited"}
REFUSED = {"sent": None, "first": None, "last": None, "end": None, "outcome": "error", "why": "connect_failed"}


def some(count: int, change: dict[str, Any], start: int = 100) -> dict[int, dict[str, Any]]:
    return dict.fromkeys(range(start, start + count), change)


@pytest.mark.parametrize(
    ("made", "found", "words"),
    [
        (Made(lag_us=3000), [], ""),  # 1 % of 300 ms, exactly
        (Made(lag_us=3001), ["client_limited"], "1 in 100 requests left 3 ms late or more, allowed are 3 ms"),
        (Made(lag_us=1001, header={"slo": {}}), ["client_limited"], "allowed are 1 ms"),
        (Made(lag_us=1000, header={"slo": {}}), [], ""),
        (Made(lag_us=1500, header={"slo": {"tpot_p95": "500ms"}}), ["client_limited"], "allowed are 1 ms"),  # a late send is not in a TPOT
        (Made(change=some(5, {"sent": 9000})), ["client_limited"], "left 9 ms late"),
        (Made(change=some(4, {"sent": 9000})), [], ""),  # the 99th of 100 is not among them
        (Made(change=some(9, {"sent": 9000, "connect": 8990})), [], ""),  # a handshake is the server's
        (Made(header=shards(1.0, 8.1)), ["client_limited"], "shard 1 used 81% of a core"),
        (Made(header=shards(8.0)), [], ""),
        (Made(header=shards(1.0, EMFILE=2, ECONNREFUSED=1)), ["client_limited"], "met EMFILE: "),
        (Made(header=shards(1.0, ECONNRESET=1)), [], ""),
        (Made(change=some(1, NEVER_SENT)), ["client_limited", "rate_not_delivered"], "1 requests failed for want of"),
        (Made(header={"shards": [{"lost": True}]}, change=some(40, NEVER_SENT)), ["rate_not_delivered"], "360 of 400 requests were sent"),
        (Made(change=some(100, REFUSED)), [], ""),  # attempted: the server's own fault
        (Made(header={"clock": {"boottime_step_ns": 50_000_001}}), ["clock_step"], "slept for 0.050 s"),
        (Made(header={"clock": {"boottime_step_ns": 50_000_000}}), [], ""),
        (Made(header={"clock": {"wall_step_ns": 1_000_000_000}}), [], ""),
        (Made(header={"target": {"model": "m", "before": {"models": ["other", "n-1"]}}}), ["wrong_server"], "offers n-1, other, not 'm'"),
        (Made(header=target({"status": 404}, {"status": 404})), [], ""),
        (Made(header=target({"started": "1"}, {"started": "2"})), ["server_changed"], "started differ"),
        (Made(header=target({"a": 1}, {"a": 1, "b": 2})), ["server_changed"], "b differ"),
        (Made(header=target({"a": 1}, None)), ["server_died"], "nobody answered"),
        (Made(header=target(None, None)), [], ""),
        (Made(header={"workload": {"prompt_tokens": [31, 40]}}), ["workload_mismatch"], "400 of 400 prompts have 30 to 30 tokens"),
        (Made(header={"workload": {"prompt_tokens": [30, 30]}}), [], ""),
        (Made(header={"workload": {"prompt_tokens": [20, 29]}}), ["workload_mismatch"], "declared are 20 to 29"),
        (Made(header={"invalid": ["parity_failed: 3 of 8 answers differ"]}), ["parity_failed"], "3 of 8"),
        (Made(lag_us=9000, header={"invalid": ["parity_missing: x", "parity_missing: x"]}), ["parity_missing", "client_limited"], "x"),
        (Made(header={"window": [0, 0], "schedule": {"kind": "closed", "numbers": {}}}), [], ""),
    ],
)  # fmt: skip
def test_each_rule_at_its_edge(made: Made, found: list[str], words: str) -> None:
    load = made.load()
    assert codes(load) == found
    assert words in "".join(validity(load)[:1])


def test_a_dead_server_does_not_disperse_its_arrivals() -> None:
    """Refused attempts count as made when they were due: else each death would void the run that is to say so."""
    made = Made()
    made.change = some(len(made.plan.arrivals) - 150, REFUSED, 150)
    made.header = target({"a": 1}, None)
    assert codes(made.load()) == []


def test_sends_that_are_not_the_schedule_are_seen() -> None:
    """Every tenth request waits for the next ten: the gaps are no longer exponential, though nobody was late on the whole."""
    made = Made(header={"slo": {"ttft_p95": "60s"}})
    due = made.plan.arrivals
    made.change = {i: {"sent": (due[i // 10 * 10 + 9] - due[i]) // 1000 + 10} for i in range(len(due) // 10 * 10)}
    assert codes(made.load()) == ["arrival_dispersion"] * len(codes(made.load())) != []


NEVER_CAME = {"first": None, "last": None, "outcome": "error", "why": "http_error", "tokens": None, "frames": 0}


@pytest.mark.parametrize(
    ("lag_ms", "header", "lived", "found"),
    [
        (900, {"limit_s": 10.0}, 0, []),  # late, but not so late that this is why
        (1001, {"limit_s": 10.0}, 0, ["client_limited"]),
        (900, {"limit_s": 10.0}, 1, ["client_limited"]),  # one completed: there is a latency to spoil
        (1, {"limit_s": 10.0, **shards(9.0)}, 0, []),
        (1, {"limit_s": 10.0, **shards(9.0)}, 1, ["client_limited"]),
        (1, {"limit_s": 10.0, **shards(1.0, EMFILE=2)}, 0, ["client_limited"]),  # its own fault
        (1, {"limit_s": 10.0, "invalid": ["parity_failed: x"]}, 0, ["parity_failed"]),
    ],
)
def test_a_client_that_is_a_little_late_excuses_no_server_that_answers_nothing(lag_ms: int, header, lived: int, found: list[str]) -> None:
    made = Made(lag_us=1000 * lag_ms, header=header)
    made.change = some(len(made.plan.arrivals) - lived, NEVER_CAME, 0)
    if lived:
        made.change = {i: row for i, row in made.change.items() if i != made.inside[-1]}
    assert [code for code in codes(made.load()) if code != "arrival_dispersion"] == found


@pytest.mark.parametrize(
    ("frames", "stream", "said"), [(16, True, ()), (13, True, ()), (12, True, ("1.3 tokens a frame",)), (1, False, ())]
)
def test_tokens_that_come_several_to_a_frame_are_a_remark(frames: int, stream: bool, said: tuple[str, ...]) -> None:
    made = Made(header={"workload": {"stream": stream}})
    made.change = some(len(made.plan.arrivals), {"frames": frames}, 0)
    assert codes(made.load()) == []
    assert tuple(entry.partition(":")[0] for entry in remarks(made.load())) == said
    assert (per_frame(made.load()) is None) == (not stream)


def test_other_names_of_the_model_are_a_remark() -> None:
    load = Made(header={"shards": [{"models": {"b\x1b": 3}}, {"models": {"a": 1}}]}).load()
    assert codes(load) == []
    assert remarks(load) == (f"answers name another model: a, b\\x1b in 4 of {len(load.records)}, asked for was 'm'",)


def test_a_window_without_requests_is_empty() -> None:
    load = Made().load()
    outside = tuple(r._replace(flags=Flag.WARMUP) for r in load.records)
    assert codes(Load(load.header, outside)) == ["empty_workload"]
    assert late(Load(load.header, ())) == 0.0


def test_a_wall_clock_that_was_set_is_a_remark() -> None:
    for step, said in ((50_000_000, ()), (-50_000_001, ("-0.050 s",)), (10**9, ("+1.000 s",))):
        load = Made(header={"clock": {"wall_step_ns": step}}).load()
        assert codes(load) == []
        assert len(remarks(load)) == len(said)
        assert all(words in remark and remark.startswith("clock_step: ") for words, remark in zip(said, remarks(load), strict=True))


def test_an_objective_must_apply_to_nearly_all() -> None:
    tpot, ttft = objectives({"tpot_p95": "20ms"}), objectives({"ttft_p95": "20ms"})
    single = {"tokens": 1}
    made = Made(change=some(20, single))
    assert unmeasurable(made.load(), tpot) == ()
    made = Made(change=some(21, single))
    assert unmeasurable(made.load(), tpot) == ("objective_unmeasurable: 21 of 400 complete requests have no tpot_p95; at most 5 % may",)
    assert unmeasurable(made.load(), (*tpot, *ttft)) == ()
    assert validity(made.load()) == ()  # a matter of one claim


def test_an_unreadable_promise_is_an_error() -> None:
    with pytest.raises(ConfigError, match="bound_invalid"):
        validity(Made(header={"slo": {"ttft_p95": "0ms"}}).load())


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.integers(0, 5000), st.integers(0, 5000), st.integers(1, 2000))
def test_more_lag_never_makes_a_run_valid(lag: int, more: int, limit: int) -> None:
    header = {"slo": {"e2e_p95": f"{limit}ms"}}
    early, later = (codes(Made(lag_us=x, header=header).load()) for x in (lag, lag + more))
    assert ("client_limited" in early) == (lag > max(1000, 10 * limit))
    assert "client_limited" not in early or "client_limited" in later
