"""L7: a tenant that sends long prompts does not starve one that sends short ones."""

from __future__ import annotations

import pytest

from harness import Claim, Control, at_most
from harness.lifecycle.serving import voided
from harness.records import Load
from harness.serve import blocks, schedule, telemetry, workload
from harness.serve.load import run_load
from suites import controls
from suites.serve import margins, runs

pytestmark = pytest.mark.serve

FIGURE = "ttft_p75"
SHORT, LONG = (8, 4), (128, 2)  # words of a prompt, tokens of an answer


def _claim(primary: str) -> Claim:
    text = f"beside a tenant with long prompts the short ones wait at most so much longer for {primary}: p75 TTFT against that without it"
    return Claim(f"L7.starved[{primary}]", text, at_most(margins.STARVED), estimand="run_ratio", min_n=4, expected=1.5)


@pytest.mark.claim(each=_claim)
def test_short_prompts_are_not_starved(claim, bench, primary):
    found = _tenants(bench, primary)
    subject, about = (
        (bench.serving.subject(primary),),
        {"rate": margins.SHORT_RATE, "long_every_s": margins.LONG_EVERY_S, "words": [SHORT[0], LONG[0]]},
    )
    free, starving = _stubs(0.0), _stubs(0.0015)

    def measured(rows, invalid=()):
        return blocks.measurement(rows, FIGURE, subject, about, invalid)

    claim.check(
        measured(found["rows"], found["invalid"]),
        controls=[
            Control("the stub, to which a long prompt is no work", controls.HOLDS, blocks.measurement(free, FIGURE)),
            Control("planted in the stub: all wait until a long prompt is read", controls.FAILS, blocks.measurement(starving, FIGURE)),
        ],
    )


def _tenants(bench, name):
    """Blocks of the short prompts alone (old) and beside the long ones (new), on one boot. Kept."""
    how = {"rate": margins.SHORT_RATE, "every": margins.LONG_EVERY_S, "shorts": margins.SHORTS, "short": SHORT, "long": LONG}
    inputs = {**bench.serving.inputs(name), "blocks": bench.tier.blocks, **how, "v": 2}

    def make():
        server = bench.serving.server(name)

        def run():
            return _blocks(server.target, bench.tier.blocks, margins.SHORT_RATE, margins.LONG_EVERY_S, f"L7:{name}", bench.progress)

        rows, guards = bench.serving.guarded(name, run)
        return {"rows": rows, "invalid": voided(guards)}

    return bench.timed("tenants", inputs, make)


def _blocks(target, count, rate, every_s, seed, progress=None):
    def run(arm, number):
        load = runs.lenient(beside(target, rate, every_s if arm == "new" else None, number))
        telemetry.idle(target, limit_s=60)
        return load

    return blocks.blocks(run, count, seed, (FIGURE,), progress=progress)


def beside(target, rate, every_s, seed) -> Load:
    """The load of the short prompts alone, as it was beside long ones (None: without them): the same arrivals and prompts either way."""
    short = schedule.poisson(rate, requests=margins.SHORTS, seed=seed, warmup_s=2 / rate)
    asked = {"short": _prompts(target, len(short), seed, *SHORT)}
    due = [(at, "short", i) for i, at in enumerate(short.arrivals)]
    if every_s is not None:
        step = round(every_s * 1e9)
        due += [(at, "long", i) for i, at in enumerate(range(step // 2, short.window[1], step))]
        asked["long"] = _prompts(target, len(due), seed + 1, *LONG)
    due.sort()
    mixed = schedule.Schedule("trace", tuple(at for at, _, _ in due), short.window, {"n": len(due), "scale": 1.0})
    ran = run_load(target, mixed, _mixed(asked, due), limit_s=runs.LIMIT_S).load
    mine = tuple(r for r, (_, tenant, _) in zip(ran.records, due, strict=True) if tenant == "short")
    return Load(ran.header, mine)


def _prompts(target, n, seed, words, tokens):
    return workload.synthetic(target.model, n, seed, prompt=workload.fixed(words), output=workload.fixed(tokens), ignore_eos=True)


def _mixed(asked, due):
    """One workload of both tenants, in the order in which they are due."""
    rows = [(asked[tenant].body(i), f"{tenant}-{i}", asked[tenant].limit(i), tenant) for _, tenant, i in due]
    bodies, ids, limits, groups = zip(*rows, strict=True)
    return workload.Workload("tenants", bodies, tuple(range(len(rows))), ids, limits, ignore_eos=True, groups=groups)


def _stubs(prefill_s: float):
    """Blocks on a stub whose step waits ``prefill_s`` for each token of a new prompt."""
    with runs.stubbed({**runs.SATURATING, "slots": 64, "prefill_token_s": prefill_s}) as running:
        return _blocks(running.target, 4, 8.0, 0.3, "stub")
