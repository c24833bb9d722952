"""V4: the server is the model. Its token ids, its log-probabilities, its greedy answers, held against transformers in float32."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, at_most, identical
from harness.errors import MissingNeed
from harness.serve import parity
from harness.serve import stub as stubs
from harness.serve.parity import hearing
from suites import controls
from suites.serve import margins
from suites.serve.posing import another, posing, reading

pytestmark = pytest.mark.serve


def _input_claim(server: str) -> Claim:
    text = f"{server} reads each prompt as the very token ids of the reference's tokenizer and chat template"
    return Claim(f"V4.input[{server}]", text, identical())


@pytest.mark.claim(each=_input_claim)
def test_it_reads_the_tokens_that_the_model_was_trained_on(claim, bench, server):
    few, _ = _expected(bench, server, margins.PARITY_CONTROLS)

    def planted(kind: str) -> Measurement:
        return _measured(bench, server, "input_ids", parity.inputs(few, reading(bench, server, few, kind=kind)))

    expected, _ = _expected(bench, server)
    said = bench.serving.heard(server, _prompts(bench, server))
    claim.check(
        _measured(bench, server, "input_ids", parity.inputs(expected, said)),
        controls=[
            Control("A/A: the reference in the served dtype", controls.HOLDS, planted("plain")),
            Control("planted: the first mark of each prompt doubled", controls.FAILS, planted("doubled")),
            Control("planted: a foreign system prompt", controls.FAILS, planted("foreign")),
        ],
    )


def _distribution_claim(server: str) -> Claim:
    text = (
        f"the log-probabilities of {server} are the reference's: mean absolute difference a token, in multiples of the tolerance "
        "(3 times what the served dtype moves the reference itself, at least .001 nat)"
    )
    return Claim(
        f"V4.distribution[{server}]",
        text,
        at_most(1.0),
        estimand="bounded_mean",
        support=(0.0, parity.CAP),
        min_n=margins.PARITY_CONTROLS,
        expected=margins.EXPECTED_DISTANCE,
    )


@pytest.mark.claim(each=_distribution_claim)
def test_it_gives_the_same_distribution(claim, bench, server):
    _check(claim, bench, server, "distance", parity.distribution)


def _greedy_claim(server: str) -> Claim:
    text = f"{server} answers greedily as the reference does: share of prompts that leave its answer by more than a numeric tie"
    bound = at_most(margins.GREEDY_ERRORS)
    return Claim(f"V4.greedy[{server}]", text, bound, estimand="proportion", min_n=margins.PARITY_CONTROLS, expected=0.0)


@pytest.mark.claim(each=_greedy_claim)
def test_it_gives_the_same_greedy_answers(claim, bench, server):
    _check(claim, bench, server, "greedy_errors", parity.greedy)


def _check(claim, bench, server, metric, judged) -> None:
    """Of the server; of the reference in the served dtype, which must pass; of others that are fluent, and must not."""
    expected, allowed = _expected(bench, server)
    few, narrow = _expected(bench, server, margins.PARITY_CONTROLS)
    said = bench.serving.heard(server, _prompts(bench, server))

    def of(rows, wanted=few, width=narrow) -> Measurement:
        return _measured(bench, server, metric, judged(wanted, rows, width), width)

    planted = {
        "another model of the same family": lambda: posing(bench, server, few, subject=another(bench, server)),
        "a stub, which speaks in words of its own": lambda: _stub(bench, server, few),
    }
    if server == _primary(bench):
        wrong = {**bench.serving.spec(server).options, **margins.WRONG_OPTIONS}
        planted[f"the server itself with {_shown(margins.WRONG_OPTIONS)}"] = lambda: bench.serving.heard(
            server, _prompts(bench, server, margins.PARITY_CONTROLS), options=wrong
        )
    subtle = []  # a tuned model mostly answers the same behind a foreign system prompt, but not with the same certainty
    if metric == "distance":
        foreign = of(posing(bench, server, few, kind="foreign"))
        subtle = [Control("planted: a foreign system prompt", controls.NOT_HOLDS, foreign)]
    claim.check(
        of(said, expected, allowed),
        controls=[
            Control("A/A: the reference in the served dtype", controls.HOLDS, of(posing(bench, server, expected), expected, allowed)),
            *subtle,
            *(Control(f"planted: {what}", controls.FAILS, of(rows())) for what, rows in planted.items()),
        ],
    )


def _prompts(bench, server, n=0):
    """The first ``n``; 0: as many as the tier asks."""
    return bench.serving.prompts(server, n or (margins.PARITY_CONTROLS if bench.tier.name == "smoke" else margins.PARITY_PROMPTS))


def _expected(bench, server, n=0):
    return bench.serving.expected(server, _prompts(bench, server, n))


def _primary(bench) -> str:
    """The first server of vLLM that is ours to start: whose wrong configuration is planted."""
    return next((name for name in bench.serving.names if bench.serving.spec(name).engine == "vllm"), "")


def _shown(options) -> str:
    return ", ".join(f"{name} = {value}" for name, value in options.items())


def _stub(bench, server, few) -> list[parity.Said]:
    tokens = bench.serving.sampling(server).max_tokens
    with stubs.start({"service": {"tokens": 16}, "model": "stub"}) as stub:
        return hearing.hear(stub.target, few, max_tokens=tokens)


def _measured(bench, server, metric, samples, allowed=None) -> Measurement:
    if all(s.status == "not_shown" for s in samples):
        how = "an engine with return_token_ids or /tokenize, and prompt_logprobs or logprobs, as vLLM and llama.cpp's server have them"
        raise MissingNeed("shown-tokens", f"{server} does not show what {metric} is computed from", how)
    conditions = {"server": server, "concurrency": 1, "max_tokens": bench.serving.sampling(server).max_tokens}
    conditions |= {"tolerance": allowed._asdict()} if allowed else {}
    kinds = [s.detail.get("kind") for s in samples]
    notes = (f"{kinds.count('tie')} numeric ties, {kinds.count('same')} answers the same",) if metric == "greedy_errors" else ()
    return Measurement(metric, samples, (bench.serving.subject(server),), conditions, notes=notes)
