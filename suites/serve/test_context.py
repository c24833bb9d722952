"""V6: the advertised context is there at every depth, and one token more is refused cleanly."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import pytest

from harness import Claim, Control, Measurement, identical
from harness.serve import stub
from harness.serve.api import context
from harness.serve.exchange import Reply, exchange
from harness.serve.stub.answers import answer, tokenize
from harness.types import Prompt, Sampling, Scored
from suites import controls
from suites.serve import doubles, margins

pytestmark = pytest.mark.serve


# --- the edge -----------------------------------------------------------------------------------------


def _edge_claim(distinct: str) -> Claim:
    text = "the advertised context can be filled to its last token; one more is refused with 400, and the server answers as before"
    return Claim(f"V6.edge[{distinct}]", f"{distinct}: {text}", identical())


@pytest.mark.claim(each=_edge_claim)
def test_the_edge_of_the_context_is_where_it_is_said_to_be(claim, bench, distinct):
    def look() -> dict:
        target = bench.serving.target(distinct)
        length = context.advertised(target)
        return {"context": length, "rows": context.edge(target, length)}

    found = bench.cached("edge", {**bench.serving.inputs(distinct), "asked": context.RECIPE}, look)
    rows = context.edge_samples(found["rows"], found["context"])
    claim.check(
        Measurement("edge", rows, (bench.serving.subject(distinct),), {"context": found["context"]}),
        controls=[
            Control("A/A: a stub that knows its edge", controls.HOLDS, _edge()),
            Control("planted: advertises more than it takes", controls.FAILS, _edge(said=320)),
            Control("planted: takes more than it advertises", controls.FAILS, _edge(said=200)),
            Control("planted in the replies: 400 becomes 500", controls.FAILS, _edge(send=doubles.planted(_crash))),
            Control("planted in the replies: what is too long is cut in silence", controls.FAILS, _edge(send=_cutting)),
        ],
    )


def _edge(said: int = 256, send=exchange) -> Measurement:
    with stub.start({"context": 256}) as server:
        rows = context.edge(server.target, said, send=send)
    return Measurement("edge", context.edge_samples(rows, said), conditions={"context": said})


def _crash(_, reply: Reply) -> Reply:
    return Reply(500, reply.headers, reply.body) if reply.status == 400 else reply


def _cutting(target, request, *, limit_s=60.0) -> Reply:
    """What is refused is asked again with the beginning left out."""
    reply = exchange(target, request, limit_s=limit_s)
    return reply if reply.status != 400 else exchange(target, doubles.with_prompt(request, slice(-100, None)), limit_s=limit_s)


# --- depth --------------------------------------------------------------------------------------------


def _depth_claim(distinct: str) -> Claim:
    text = "asked for a sentence buried anywhere in a full context it says what the reference says, or what that finds as likely"
    return Claim(f"V6.depth[{distinct}]", f"{distinct}: {text}", identical())


@dataclass(frozen=True)
class _Reading:
    """A reference's answers to the texts, and by how much it finds the server's less likely where they differ."""

    texts: tuple[str, ...]
    less_likely: dict[str, float]


@pytest.mark.claim(each=_depth_claim)
def test_the_context_is_read_at_every_depth(claim, bench, distinct):
    inputs = {**bench.serving.inputs(distinct), "asked": context.RECIPE}

    def look() -> dict:
        target = bench.serving.target(distinct)
        length = context.advertised(target)
        with contextlib.closing(bench.serving.reference(distinct)) as reference:
            asked = context.needles(length - 16, lambda text: len(reference.tokenize(text)))
            said = context.say(target, asked, reference.tokenize)
            reading = _read(reference, asked, said)
        return {
            "length": length,
            "asked": [list(each) for each in asked],
            "said": said,
            "texts": reading.texts,
            "nats": reading.less_likely,
        }

    found = bench.cached("depth", inputs, look)
    asked = [context.Needle(*each) for each in found["asked"]]
    rows = context.depth_samples(asked, found["said"], found["texts"], found["nats"], margins.DEPTH_TIE)
    retrieved = sum(row.detail["retrieved"] for row in rows)
    note = f"{retrieved} of {len(rows)} sentences were found; the reference finds {sum(r.detail['reference_retrieves'] for r in rows)}"
    conditions = {"context": found["length"], "tie": margins.DEPTH_TIE}
    claim.check(
        Measurement("depth", rows, (bench.serving.subject(distinct),), conditions, notes=(note,)),
        controls=[
            Control("A/A: a stub that reads all of it", controls.HOLDS, _depth()),
            Control("planted: wrong about what lies at the beginning", controls.FAILS, _depth({"what": "wrong_tokens"})),
            Control("planted in the requests: the beginning is left out", controls.FAILS, _depth(send=_forgetting)),
        ],
    )


def _read(reference, asked, said) -> _Reading:
    answers = reference.generate([Prompt(each.item, text=each.text) for each in asked], sampling=Sampling(max_tokens=8))
    texts = tuple(each.text for each in answers)
    other = [
        (n, row["text"], text) for n, row, text in zip(asked, said, texts, strict=True) if row.get("text") and text and row["text"] != text
    ]
    scored = reference.logprobs([Scored(n.item, n.text, (theirs, ours)) for n, theirs, ours in other]) if other else []
    return _Reading(texts, {each.id: sum(each.logprobs[1]) - sum(each.logprobs[0]) for each in scored})


def _depth(fault=None, send=exchange) -> Measurement:
    asked = context.needles(200, lambda text: len(tokenize(text)), each=1)
    plan = {"context": 256, "faults": [{**fault, "when": {"prompt": asked[0].text[:40]}}] if fault else []}
    with stub.start(plan) as server:
        said = context.say(server.target, asked, doubles.StubTokenizer(server.target).tokenize, send=send)
    expected = [answer(each.text, 0, 8) for each in asked]
    return Measurement("depth", context.depth_samples(asked, said, expected, {}, margins.DEPTH_TIE), conditions={"stub": plan})


def _forgetting(target, request, *, limit_s=60.0) -> Reply:
    return exchange(target, doubles.with_prompt(request, slice(16, None)), limit_s=limit_s)
