"""L4: the flags of a server against those before, run against run in blocks on this machine."""

from __future__ import annotations

import pytest

from harness import Claim, Control, at_least
from harness.lifecycle.serving import voided
from harness.serve import blocks
from suites import controls
from suites.serve import margins, runs

pytestmark = pytest.mark.serve

FIGURE = "tokens_s"


def _claim(optimised: str) -> Claim:
    text = f"with its flags {optimised} gives more tokens a second than with those before, {margins.AT_ONCE} requests at once"
    return Claim(f"L4.tokens[{optimised}]", text, at_least(margins.GAIN), estimand="run_ratio", min_n=4, expected=margins.EXPECTED_GAIN)


@pytest.mark.claim(each=_claim)
def test_the_flags_helped(claim, bench, optimised):
    """A gain must be shown: the flags before against themselves show none, and a loss planted in these runs is refuted."""
    found = arms(bench, optimised)
    rows, same, subject = found["rows"], found["same"], (bench.serving.subject(optimised),)
    about = {
        "new": dict(bench.serving.spec(optimised).options),
        "old": dict(bench.serving.spec(optimised).against),
        "at_once": margins.AT_ONCE,
    }

    def measured(what):
        return blocks.measurement(what, FIGURE, subject, about, found["invalid"])

    worse = 1 / margins.GAIN
    claim.check(
        measured(rows),
        controls=[
            Control("A/A: the flags before against themselves show no gain", controls.NOT_HOLDS, measured(same)),
            Control(f"planted in the runs: {worse:.2f} times as many", controls.FAILS, measured(blocks.planted(same, FIGURE, worse))),
            Control("the stub with four seats against one", controls.HOLDS, blocks.measurement(_stubs(4, 1), FIGURE)),
            Control("planted in the stub: one seat against four", controls.FAILS, blocks.measurement(_stubs(1, 4), FIGURE)),
        ],
    )


def arms(bench, name):
    """The blocks of both arms, those of the old arm against itself, and why all of it is void. Kept."""
    spec = bench.serving.spec(name)
    before = {**spec.options, **spec.against}
    flags = {"old": before, "new": None}
    inputs = {
        "new": bench.serving.inputs(name), "old": bench.serving.inputs(name, before), "blocks": bench.tier.blocks,
        "at_once": margins.AT_ONCE, "prompt": runs.PROMPT, "output": runs.OUTPUT,
    }  # fmt: skip

    def make():
        invalid: list[str] = []

        def start() -> None:
            bench.serving.close()
            for arm in flags:
                bench.serving.server(name, flags[arm], beside=True)
            check()

        def check() -> None:
            """Each arm against the reference: after every start, and after the last run."""
            invalid.extend(voided([bench.serving.guard(name, options, again=True) for options in flags.values()]))

        def run(arm, seed):
            server = bench.serving.server(name, flags[arm], beside=True)
            return runs.closed(server.target, margins.AT_ONCE, seed, turns=2)[0]

        def again(arm, seed):
            return run("old", seed)

        start()
        rows = blocks.blocks(run, bench.tier.blocks, f"L4:{name}", (FIGURE, "ttft_p50", "e2e_p50"), restart=start, progress=bench.progress)
        same = blocks.blocks(again, bench.tier.blocks, f"L4 A/A:{name}", (FIGURE,), progress=bench.progress)
        check()
        return {"rows": rows, "same": same, "invalid": list(dict.fromkeys(invalid))}

    return bench.timed("arms", inputs, make)


def _stubs(new: int, old: int):
    """Two stubs in blocks, as the servers are."""
    with runs.stubbed({**runs.SATURATING, "slots": new}) as a, runs.stubbed({**runs.SATURATING, "slots": old}) as b:
        target = {"new": a.target, "old": b.target}
        return blocks.blocks(lambda arm, seed: runs.closed(target[arm], margins.AT_ONCE, seed, turns=2)[0], 4, "stub", (FIGURE,))
