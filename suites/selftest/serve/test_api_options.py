"""V5 on stubs: an effect is seen, a refusal is accepted, silence is found; V2 and V6 likewise."""

from __future__ import annotations

import pytest

from harness.errors import MissingNeed
from harness.serve.api import consistency, context, options
from harness.serve.exchange import TEXT, Reply, exchange, post
from harness.serve.stub import start
from harness.serve.stub.answers import answer, tokenize
from harness.types import Prompt
from suites.serve import doubles, layers, test_options, test_stream

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def plain():
    """A stub that does what it is asked."""
    with start({"context": 256}) as server:
        yield server.target


def verdicts(target, send=doubles.strict, group="") -> dict[str, str]:
    todo = [probe for probe in options.PROBES if group in ("", probe.group)]
    return {row["item"]: row["verdict"] for row in options.rows(target, todo, send=send)}


def test_every_option_is_seen_or_refused(plain):
    found = verdicts(plain)
    assert set(found.values()) == {"effect", "refused"}
    assert {name for name, verdict in found.items() if verdict == "effect"} >= {"seed", "top_p", "stop", "n", "logprobs", "ignore_eos"}
    assert {probe.group for probe in options.PROBES} == set(options.GROUPS) == set(test_options._IGNORED)


def test_a_server_that_takes_everything_is_found_out(plain):
    found = verdicts(plain, exchange)
    assert {name for name, verdict in found.items() if verdict == "ignored"} >= {"guided_choice", "best_of", "an unknown option"}


@pytest.mark.parametrize("names", [names for known in test_options._IGNORED.values() for names in known])
def test_an_option_that_is_ignored_is_found(names):
    assert any(sample.value == 0 for sample in test_options._ignoring(names).measurement.samples)


def test_a_failure_of_the_server_is_no_refusal(stub):
    def failing(target, request, *, limit_s=60.0):
        return Reply(500, {}, b"{}") if b"top_k" in request.body else exchange(target, request, limit_s=limit_s)

    row = next(row for row in options.rows(stub({}).target, send=failing) if row["item"] == "top_k")
    assert (row["verdict"], row["ok"]) == ("broken", False)
    assert set(verdicts(stub({"faults": [{"what": "status", "code": 503}]}).target, group="limits").values()) == {"broken"}


def test_one_unsteady_seed_is_found(stub):
    """A server whose seed does nothing gives two answers to one request: nothing can be said of penalties either."""
    target = stub({"faults": [{"what": "ignored_options", "options": ["seed"]}]}).target
    rows = {row["item"]: row for row in options.rows(target)}
    assert rows["seed"]["verdict"] == "ignored" and "two answers" in rows["seed"]["found"]
    assert "cannot be seen" in rows["presence_penalty"]["found"]


# --- V2 -----------------------------------------------------------------------------------------------

PROMPTS = [Prompt(f"p{i}", messages=({"role": "user", "content": f"Question {i}?"},)) for i in range(4)]


def agreement(target) -> dict[str, float]:
    rows = consistency.collect(target, PROMPTS, doubles.StubTokenizer(target))
    return {sample.item: sample.value for sample in consistency.samples(rows)}


def test_a_stub_agrees_with_itself(plain):
    found = agreement(plain)
    assert set(found.values()) == {1.0} and len(found) == 5 * len(PROMPTS) + 1


@pytest.mark.parametrize(("fault", "caught"), [
    ({"what": "wrong_usage", "by": 1}, "p0:completion_tokens"),
    ({"what": "no_finish"}, "p1:finish"),
    ({"what": "no_usage"}, "p2:answer"),
    ({"what": "wrong_tokens", "when": {"nth": 2}}, "p3:streamed"),
    ({"what": "wrong_tokens", "when": {"nth": 3}}, "p0:rendered"),
])  # fmt: skip
def test_what_does_not_agree_is_found(stub, fault, caught):
    assert agreement(stub({"faults": [fault]}).target)[caught] == 0


def test_a_foreign_template_is_found(plain):
    class Foreign(doubles.StubTokenizer):
        def render(self, messages):
            return "<s>" + super().render(messages)

    found = {s.item: s.value for s in consistency.samples(consistency.collect(plain, PROMPTS, Foreign(plain)))}
    assert found["p0:rendered"] == 0 and found["p0:streamed"] == 1


def row(item: str, made: int, tokens: int, finish: str) -> dict:
    whole = {"text": "t", "finish": finish, "asked": 3, "made": made}
    return {"item": item, "ids": 3, "tokens": tokens, "whole": whole, "streamed": whole, "rendered": whole}


def test_the_end_mark_counts_always_or_never():
    def counts(*rows) -> list[float]:
        return [s.value for s in consistency.samples(rows) if s.item.endswith("completion_tokens")]

    assert counts(row("a", 6, 5, "stop"), row("b", 8, 8, "length")) == [1, 1]
    assert counts(row("a", 5, 5, "stop"), row("b", 8, 8, "length")) == [1, 1]
    assert counts(row("a", 5, 5, "stop"), row("b", 6, 5, "stop"), row("c", 6, 5, "stop")) == [0, 1, 1]
    assert counts(row("a", 7, 5, "stop")) == [0] and counts(row("a", 9, 8, "length")) == [0]


# --- V3: who reads --------------------------------------------------------------------------------------


def test_a_stream_that_was_cut_looks_whole_only_with_a_terminator():
    for what, looks_whole in (("fin", False), ("rst", False), ("error_frame", True)):
        control = test_stream._dying(what, ())
        assert {sample.value for sample in control.measurement.samples} == {float(not looks_whole)}


@pytest.mark.parametrize(("fault", "place"), [("no_finish", 3), ("error_frame", 5), ("fin", 2), ("rst", 7)])
def test_only_who_believes_all_presents_what_broke_off(stub, fault, place):
    target = stub({**test_stream._PLAN, "faults": [{"what": fault, "after_frame": place}]}).target
    believed = test_stream._presented(layers.believer, target, "x", 20, True)
    assert believed.value == 1 and believed.detail["whole"].startswith(believed.detail["presented"])
    for reader in (layers.client, layers.engine):
        assert test_stream._presented(reader, target, "x", 20, True).value == 0


def test_every_layer_presents_what_is_whole(stub):
    target = stub(test_stream._PLAN).target
    for reader in (layers.client, layers.engine, layers.believer):
        assert test_stream._presented(reader, target, "x", 20, False).value == 0


# --- V6 -----------------------------------------------------------------------------------------------


def test_what_is_advertised_is_read_off_the_server(plain):
    assert context.advertised(plain) == 256

    def props(target, request, *, limit_s=60.0):
        body = b'{"data": [{"id": "stub"}]}' if request.path.endswith("models") else b'{"default_generation_settings": {"n_ctx": 512}}'
        return Reply(200, {}, body)

    assert context.advertised(plain, send=props) == 512
    with pytest.raises(MissingNeed, match="says nowhere"):
        context.advertised(plain, send=lambda target, request, *, limit_s=60.0: Reply(404, {}, b"{}"))


@pytest.mark.parametrize("said", [250, 257, 300])
def test_an_edge_that_is_elsewhere_is_found(plain, said):
    assert all(s.value for s in context.edge_samples(context.edge(plain, 256), 256))
    assert not all(s.value for s in context.edge_samples(context.edge(plain, said), said))


def test_a_server_that_is_hurt_by_what_is_too_long_is_found(plain):
    rows = context.edge(plain, 256)
    hurt = [{**row, "text": "another"} if "before" in row else row for row in rows]
    assert [s.item for s in context.edge_samples(hurt, 256) if not s.value] == ["afterwards"]


@pytest.mark.parametrize("length", [64, 200, 1000])
def test_needles_lie_where_they_should(length):
    found = context.needles(length, lambda text: len(tokenize(text)), each=2)
    assert found == context.needles(length, lambda text: len(tokenize(text)), each=2)
    assert len({each.secret for each in found}) == len(found) == 2 * len(context.DEPTHS)
    for each in found:
        size = len(tokenize(each.text))
        assert 0.7 * length <= size <= length
        assert each.text.count(each.secret) == 1
        place = each.text.index(each.secret) / len(each.text)
        assert abs(place - each.depth) < 0.25


def test_an_answer_as_likely_is_no_error(plain):
    asked = context.needles(64, lambda text: len(tokenize(text)), each=1)[:2]
    said = context.say(plain, asked, doubles.StubTokenizer(plain).tokenize)
    expected = [answer(each.text, 0, 8) for each in asked]
    assert [s.value for s in context.depth_samples(asked, said, expected, {}, 0.5)] == [1, 1]
    others = ["something else", *expected[1:]]
    for nats, value in ((0.4, 1), (0.6, 0)):
        assert context.depth_samples(asked, said, others, {asked[0].item: nats}, 0.5)[0].value == value
    assert context.depth_samples(asked, said, others, {}, 0.5)[0].value == 0


def test_a_prompt_that_was_cut_is_found_by_its_usage(plain):
    asked = context.needles(64, lambda text: len(tokenize(text)), each=1)[:1]
    said = context.say(plain, asked, doubles.StubTokenizer(plain).tokenize)
    shorter = [{**said[0], "asked": said[0]["length"] - 1}]
    assert context.depth_samples(asked, shorter, [said[0]["text"]], {}, 0.5)[0].value == 0


def test_a_request_can_be_shortened():
    request = doubles.with_prompt(post(TEXT, {"prompt": [1, 2, 3], "max_tokens": 1}), slice(1, None))
    assert b"[2, 3]" in request.body
