"""V5: each option of a request has an effect or is refused. Taken and ignored is the violation."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, identical
from harness.serve import api, stub
from harness.serve.api import options
from suites import controls
from suites.serve import doubles

pytestmark = pytest.mark.serve

_WHAT = {
    "sampling": "temperature, seed, top_p, top_k, min_p, the penalties of OpenAI's protocol and logit_bias",
    "limits": "max_tokens, stop, n, ignore_eos, echo, log-probabilities and stream options",
    "structure": "response formats and the choice of tools",
    "dialects": "what not every server knows, down to an option that does not exist,",
}


def _claim(distinct: str, group: str) -> Claim:
    return Claim(f"V5.{group}[{distinct}]", f"{distinct}: {_WHAT[group]} have an effect or are refused", identical())


@pytest.mark.parametrize("group", options.GROUPS)
@pytest.mark.claim(each=_claim)
def test_no_option_is_ignored(claim, bench, distinct, group):
    rows = bench.cached(
        "options", {**bench.serving.inputs(distinct), "asked": options.RECIPE}, lambda: options.rows(bench.serving.target(distinct))
    )
    measured = Measurement("ignored_options", api.samples(rows, group), (bench.serving.subject(distinct),))
    claim.check(
        measured, controls=[Control("A/A: a stub that knows or refuses", controls.HOLDS, _rows(group)), *map(_ignoring, _IGNORED[group])]
    )


# each is taken by a stub that acts as if it had not been there
_IGNORED = {
    "sampling": ("seed", "top_p", "top_k", "presence_penalty", "frequency_penalty", "temperature"),
    "limits": ("max_tokens", "max_completion_tokens", "stop", "n", "ignore_eos", "echo", "logprobs", "stream_options"),
    "structure": ("response_format", "tools tool_choice"),
    "dialects": ("repetition_penalty", "min_tokens", "suffix", "structured_outputs"),
}


def _ignoring(names: str) -> Control:
    group = next(group for group, known in _IGNORED.items() if names in known)
    plan = {"faults": [{"what": "ignored_options", "options": names.split()}]}
    return Control(f"planted: {names} ignored", controls.FAILS, _rows(group, plan, frozenset(names.split())))


def _rows(group: str, plan=None, let_through: frozenset[str] = frozenset()) -> Measurement:
    with stub.start(plan or {}) as server:
        todo = [each for each in options.PROBES if each.group == group]
        rows = options.rows(server.target, todo, send=doubles.strict_but(let_through))
        return Measurement("ignored_options", api.samples(rows), conditions={"stub": plan or {}})
