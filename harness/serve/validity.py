"""When a run of a load says nothing, in either direction: a slow client also makes a good server look bad.

Everything is derived from the header and the records of the run (``harness.records``), so that a stranger derives it
again. Each entry is "code: sentence"; the judge takes the code as its reason. Keys of the header that are read:

    slo        {"ttft_p99": "300ms"}      what is promised: the tightest limit says how late the client may be
    shards     [{cpu_s, wall_s, errors}]  each process that sent; {lost} of one that did not live to say so; {models} that answers
                                          named, where another was asked for, with their numbers
    clock      {boottime_step_ns, wall_step_ns}
    target     {model, before, after}     what the server said it is, at either end; None: nobody answered
    schedule   {kind, numbers}            what the arrivals were to be
    workload   {prompt_tokens: [least, most]}   what the prompts were declared to be
    machines   [{number, utc_error_s}]    of a load that several sent, how far the clock of each may be from UTC
    invalid    what was found by others: parity before and after, an identity that differs
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records import METRICS, Load, Objective, objectives
from harness.serve.schedule import Schedule
from harness.serve.schedule.dispersion import dispersion

__all__ = ["late", "per_frame", "promised", "remarks", "unmeasurable", "validity"]

LAG_S, LAG_SHARE = 1e-3, 0.01  # the client may be late by 1 ms, or by 1 % of the tightest limit
BUSY = 0.80  # of a core: above it a shard's own queue is part of what it measures
DELIVERED = 0.999  # of the scheduled requests must have been sent
STEP_NS = 50_000_000  # by which a clock may move against another
MEASURABLE = 0.05  # of the complete requests may have no value for an objective
PER_FRAME = 1.25  # tokens in a frame, on the average: above it a time per token is the server's word
NOTHING_CAME = 0.10  # of the time a request is waited for: a client later than that may itself be why nothing completed
EXHAUSTED = ("EMFILE", "ENFILE", "EADDRNOTAVAIL", "ENOBUFS", "ENOMEM")
_NOT_OURS = ("connect_failed", "wrong_model")  # the server would not take it: attempted, and its own fault


def validity(load: Load) -> tuple[str, ...]:
    """Why the run is void, most telling first; empty if it is not. ConfigError if the header says no objective that can be read."""
    rules = (_server, _clock, _client, _delivered, _dispersed, _workload)
    return tuple(dict.fromkeys([*load.invalid, *(f"{code}: {said}" for rule in rules for code, said in rule(load))]))


def remarks(load: Load) -> tuple[str, ...]:
    """What is to be said of the run and does not void it."""
    return (*_wall(load), *_packed(load), *_other_names(load), *_machines(load))


def _wall(load: Load) -> Iterator[str]:
    step = _number(load.header, "clock", "wall_step_ns")
    if abs(step) > STEP_NS:
        yield f"clock_step: the wall clock was set by {step * 1e-9:+.3f} s meanwhile; latencies are of the monotonic clock and stand"


def _packed(load: Load) -> Iterator[str]:
    """Several tokens in a frame are legal, and what speculative decoding sends; so is a count that is too high, to the eye."""
    share = per_frame(load)
    if share is not None and share > PER_FRAME:
        yield f"{share:.1f} tokens a frame: the time per token rests on the server's own count of them, not on what was seen to arrive"


def _other_names(load: Load) -> Iterator[str]:
    names: Counter[str] = Counter()
    for shard in load.header.get("shards", ()):
        names.update(shard.get("models", {}))
    if names:
        asked = load.header.get("target", {}).get("model")
        yield f"answers name another model: {_few(list(names))} in {names.total()} of {len(load.records)}, asked for was {asked!r}"


def _machines(load: Load) -> Iterator[str]:
    """Arrivals of several machines are as far apart as their clocks; each latency is of one clock."""
    machines = load.header.get("machines", ())
    errors = [each["utc_error_s"] for each in machines]
    if None in errors:
        lost = machines[errors.index(None)]["number"]
        yield f"{len(errors)} machines; nothing keeps the clock of machine {lost} to UTC: how its arrivals lay to the others' is not known"
    elif errors:
        yield f"{len(errors)} machines, whose clocks are at most {max(errors):.2g} s from UTC: so far arrivals may be from their instants"


def per_frame(load: Load) -> float | None:
    """Tokens by the server's count over frames with output, of the complete streamed requests; None where there are none."""
    done = [r for r in load.judged if r.outcome == "complete" and r.tokens is not None and r.frames]
    if not done or not load.header.get("workload", {}).get("stream", True):
        return None
    return sum(r.tokens or 0 for r in done) / sum(r.frames for r in done)


def promised(load: Load) -> tuple[Objective, ...]:
    """The objectives that the header holds."""
    return objectives(load.header.get("slo", {}))


def late(load: Load, quantile: float = 0.99) -> float:
    """The client's own delay, in seconds: first byte after the scheduled instant, less the handshake. 0 if nothing was sent."""
    lags = sorted(r.sent - (r.connect or 0) for r in load.judged if r.sent is not None)
    return lags[math.ceil(quantile * len(lags)) - 1] * 1e-6 if lags else 0.0


def unmeasurable(load: Load, within: Sequence[Objective]) -> tuple[str, ...]:
    """Void for a claim on objectives of which none applies to more than 5 % of the complete requests, like TPOT of one token."""
    done = [r for r in load.judged if r.outcome == "complete"]
    lacking = sum(all(METRICS[each.metric](r) is None for each in within) for r in done)
    if lacking <= MEASURABLE * len(done):
        return ()
    names = " or ".join(each.name for each in within)
    return (f"objective_unmeasurable: {lacking} of {len(done)} complete requests have no {names}; at most 5 % may",)


# --- the rules, each yielding (code, sentence) ------------------------------------------------------


def _server(load: Load) -> Iterator[tuple[str, str]]:
    target = load.header.get("target", {})
    before, after = target.get("before"), target.get("after")
    model, names = target.get("model"), (before or {}).get("models")
    if model and names is not None and model not in names:
        yield "wrong_server", f"the server offers {_few(names)}, not {model!r}: another one has the port"
    if before and after and before != after:
        changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
        yield "server_changed", f"{_few(changed)} differ before and after: it was started again, or replaced"
    if before and "after" in target and after is None and load.judged and load.judged[-1].outcome == "complete":
        yield "server_died", "nobody answered after the last request had ended well"


def _clock(load: Load) -> Iterator[tuple[str, str]]:
    step = _number(load.header, "clock", "boottime_step_ns")
    if abs(step) > STEP_NS:
        yield "clock_step", f"the machine slept for {step * 1e-9:.3f} s during the run"


def _client(load: Load) -> Iterator[tuple[str, str]]:
    lag, allowed = late(load), _allowed(load)
    dead = nothing_came(load)  # a client that is a little late, or busy, makes no server answer nothing
    if dead:
        allowed = max(allowed, NOTHING_CAME * float(load.header.get("limit_s", 0.0)))
    if lag > allowed:
        yield "client_limited", f"1 in 100 requests left {lag * 1e3:.3g} ms late or more, allowed are {allowed * 1e3:.3g} ms"
    for number, shard in enumerate(load.header.get("shards", ())):
        busy = shard.get("cpu_s", 0.0) / shard["wall_s"] if shard.get("wall_s") else 0.0
        if busy > BUSY and not dead:
            yield "client_limited", f"shard {number} used {busy:.0%} of a core, allowed are {BUSY:.0%}: take more shards"
        short = sorted({name for text in shard.get("errors", ()) for name in EXHAUSTED if name in str(text)})
        if short:
            yield "client_limited", f"shard {number} met {_few(short)}: raise its limits (ulimit -n), or take more machines"
    lost = {number for number, shard in enumerate(load.header.get("shards", ())) if shard.get("lost")}
    own = sum(r.why == "client_limited" and r.shard not in lost for r in load.judged)
    if own:
        yield "client_limited", f"{own} requests failed for want of the client's own files, ports or memory"


def nothing_came(load: Load) -> bool:
    """Whether requests were sent and none completed: red by itself."""
    return any(r.sent is not None for r in load.judged) and not any(r.outcome == "complete" for r in load.judged)


def _allowed(load: Load) -> float:
    """Only what is timed from the scheduled arrival suffers from a late client: a time per token does not."""
    timed = [each.limit for each in promised(load) if each.metric in ("ttft", "e2e")]
    return max(LAG_S, LAG_SHARE * min(timed, default=0.0))


def _delivered(load: Load) -> Iterator[tuple[str, str]]:
    judged = load.judged
    if not judged:
        yield "empty_workload", "no request was scheduled inside the window"
        return
    sent = sum(r.sent is not None or r.why in _NOT_OURS for r in judged)
    if sent < DELIVERED * len(judged):
        yield "rate_not_delivered", f"{sent} of {len(judged)} requests were sent: the load was not the one that was planned"


def _dispersed(load: Load) -> Iterator[tuple[str, str]]:
    """What was sent, less the handshake, against what was planned; where nobody listened, the instant of the attempt."""
    said = load.header.get("schedule", {})
    if said.get("kind", "closed") == "closed" or not load.judged:
        return
    planned = Schedule(said["kind"], tuple(r.scheduled for r in load.records), tuple(load.header["window"]), said["numbers"])
    attempts = [r.scheduled + 1000 * ((r.sent or 0) - (r.connect or 0)) for r in load.records if r.sent is not None or r.why in _NOT_OURS]
    yield from (("arrival_dispersion", text) for text in dispersion(planned, attempts).findings)


def _workload(load: Load) -> Iterator[tuple[str, str]]:
    """Prompts as long as they were declared to be, by the server's own count."""
    declared = load.header.get("workload", {}).get("prompt_tokens")
    counted = [r.prompt_tokens for r in load.judged if r.prompt_tokens is not None]
    if not declared or not counted:
        return
    least, most = declared
    off = sum(not least <= n <= most for n in counted)
    if off:
        yield (
            "workload_mismatch",
            f"{off} of {len(counted)} prompts have {min(counted)} to {max(counted)} tokens, declared are {least} to {most}",
        )


def _number(header: Mapping[str, Any], *path: str) -> float:
    value: Any = header
    for key in path:
        value = value.get(key, 0) if isinstance(value, Mapping) else 0
    return float(value)


def _few(names: Sequence[str]) -> str:
    return ", ".join(repr(name)[1:-1] for name in sorted(map(str, names))[:3])
