"""L3: up to how many requests at once the server gains, shown from both sides, and what stops it there."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, identical
from harness.serve import knee
from suites import controls
from suites.serve import margins, runs

pytestmark = pytest.mark.serve


def _ceiling_claim(distinct: str) -> Claim:
    text = f"up to its knee, which is found on other runs, {distinct} gains by more at once: tokens a second at the knee against half of it"
    return Claim(f"L3.ceiling[{distinct}]", text, at_least(knee.GROWS), estimand="run_ratio", min_n=4, expected=margins.EXPECTED_GROWTH)


@pytest.mark.claim(each=_ceiling_claim)
def test_it_gains_up_to_its_knee(claim, bench, distinct):
    found = runs.ladder(bench, distinct, margins.LADDER)
    at, same = found["knee"], _stub(bench)
    claim.check(
        _measured(bench, distinct, found, at // 2, at),
        controls=[
            Control("the stub with four seats, from 2 to 4", controls.HOLDS, _of_stub(same, 2, 4)),
            Control("planted in the stub: from 4 to 8 no seat is left", controls.FAILS, _of_stub(same, 4, 8)),
        ],
    )


def _saturated_claim(distinct: str) -> Claim:
    text = f"beyond its knee {distinct} gains little by more at once: tokens a second at twice the knee against the knee"
    return Claim(f"L3.saturated[{distinct}]", text, at_most(knee.STOPS), estimand="run_ratio", min_n=4, expected=1.0)


@pytest.mark.claim(each=_saturated_claim)
def test_beyond_it_gains_little(claim, bench, distinct):
    found = runs.ladder(bench, distinct, margins.LADDER)
    at, same = found["knee"], _stub(bench)
    claim.check(
        _measured(bench, distinct, found, at, 2 * at),
        controls=[
            Control("the stub with four seats, from 4 to 8", controls.HOLDS, _of_stub(same, 4, 8)),
            Control("planted in the stub: from 2 to 4 there are seats", controls.FAILS, _of_stub(same, 2, 4)),
        ],
    )


def _stub(bench):
    return runs.stub_ladder(runs.SATURATING, (2, 4, 8), bench.tier.blocks)


def _measured(bench, distinct, found, low, high) -> Measurement:
    """The runs at two rungs. The whole curve stands in the conditions, for whoever draws it."""
    about = {
        "knee": found["knee"], "step": [low, high], "rule": {"grows": knee.GROWS, "stops": knee.STOPS},
        "curve": {str(c): round(x, 3) for c, x in knee.curve(found["look"]).items()},
        "confirmed": {str(c): round(x, 3) for c, x in knee.curve(found["confirm"]).items()},
        "at_once": {str(c): knee.together(found["confirm"], c) for c in sorted({row["concurrency"] for row in found["confirm"]})},
        "looked_at_once": {
            str(c): {k: v for k, v in knee.together(found["look"], c).items() if k != "telemetry"}
            for c in sorted({row["concurrency"] for row in found["look"]})
        },
    }  # fmt: skip
    causes = tuple(sorted({cause for row in found["confirm"] for cause in row["invalid"][:1]}))
    subject = (bench.serving.subject(distinct),)
    return Measurement("tokens_per_second", knee.step(found["confirm"], low, high), subject, about, tuple(found["invalid"]), causes)


def _of_stub(rows, low, high) -> Measurement:
    return Measurement("tokens_per_second", knee.step(rows, low, high), (), {"stub": runs.SATURATING})


# --- what stops it --------------------------------------------------------------------------------

# What a stub is limited by, and the service that does it. The last is limited by nothing: no name may be found for it.
_SHORT = {"kind": "batch", "slots": 64, "step_s": 0.02, "tokens": runs.OUTPUT}
_LIMITED = {
    "queue": runs.SATURATING,
    "kv": {**_SHORT, "kv_tokens": 5 * (runs.PROMPT + runs.OUTPUT)},
    "engine": {**_SHORT, "step_s": 0.0, "sequence_s": 0.005},
    "": _SHORT,
}


def _bottleneck_claim(distinct: str) -> Claim:
    text = f"what keeps {distinct} from gaining beyond its knee is named by its own telemetry: client, network, cache, queue or engine"
    return Claim(f"L3.bottleneck[{distinct}]", text, identical())


@pytest.mark.claim(each=_bottleneck_claim)
def test_what_stops_it_is_named(claim, bench, distinct):
    found = runs.ladder(bench, distinct, margins.LADDER)
    at = found["knee"]
    named = _named(found["confirm"], at)
    claim.check(
        _row(distinct, named, bool(named.name), (bench.serving.subject(distinct),), {"knee": at}, tuple(found["invalid"])),
        controls=[_planted(limit, service) for limit, service in _LIMITED.items()],
    )


def _planted(limit, service) -> Control:
    named = _named(runs.stub_ladder(service, (4, 8), 1), 4)
    if limit:
        return Control(f"planted in the stub: limited by {limit}", controls.HOLDS, _row(limit, named, named.name == limit))
    return Control("a stub that nothing limits", controls.FAILS, _row("nothing", named, bool(named.name)))


def _named(rows, at):
    return knee.bottleneck(knee.together(rows, at), knee.together(rows, 2 * at))


def _row(item, named, right, subjects=(), conditions=None, invalid=()) -> Measurement:
    detail = {"bottleneck": named.name, "why": named.why, "shares": {name: list(pair) for name, pair in named.shares.items()}}
    return Measurement("bottleneck", (Sample(item, float(right), detail=detail),), subjects, conditions or {}, invalid, (named.why,))
