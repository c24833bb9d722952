"""V2: usage, streams, chat template and tokenizer agree. V3: a truncated stream is never presented as complete, layer by layer."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
from pathlib import Path

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, identical
from harness.errors import EngineError
from harness.serve import stub
from harness.serve.api import consistency
from harness.serve.exchange import CHAT
from harness.serve.load import ask
from harness.serve.proxy import Fault, Proxy
from harness.serve.stub.answers import answer
from harness.types import Prompt
from suites import controls
from suites.serve import doubles, layers, margins

pytestmark = pytest.mark.serve


# --- V2 -----------------------------------------------------------------------------------------------


def _agree_claim(server: str) -> Claim:
    text = "usage is the tokenizer's count; a streamed answer is the unstreamed one; chat is the completion of the rendered prompt"
    return Claim(f"V2.agree[{server}]", f"{server}: {text}", identical())


@pytest.mark.claim(each=_agree_claim)
def test_answers_agree_with_each_other_and_with_the_tokenizer(claim, bench, server):
    prompts = bench.serving.prompts(server, margins.AGREEING)
    inputs = {**bench.serving.inputs(server), "asked": consistency.RECIPE, "prompts": [prompt.id for prompt in prompts]}

    def look() -> list[dict]:
        target = bench.serving.target(server)
        with contextlib.closing(bench.serving.reference(server)) as reference:
            return consistency.collect(target, prompts, reference)

    rows = bench.cached("consistency", inputs, look)
    measured = Measurement("diffs", consistency.samples(rows), (bench.serving.subject(server),))
    planted = [
        _agreement("wrong_usage", by=1),
        _agreement("no_usage"),
        _agreement("no_finish"),
        _agreement("wrong_tokens", when={"nth": 2}),
    ]
    claim.check(measured, controls=[_agreement(), *planted])


def _agreement(what: str = "", **numbers) -> Control:
    plan = {"faults": [{"what": what, **numbers}]} if what else {}
    prompts = [Prompt(f"p{i}", messages=({"role": "user", "content": f"Question {i}, please."},)) for i in range(4)]
    with stub.start(plan) as server:
        rows = consistency.collect(server.target, prompts, doubles.StubTokenizer(server.target))
    measured = Measurement("diffs", consistency.samples(rows), conditions={"stub": plan})
    name = f"planted: {what} {numbers or ''}".strip() if what else "A/A: a stub that agrees with itself"
    return Control(name, controls.FAILS if what else controls.HOLDS, measured)


# --- V3 -----------------------------------------------------------------------------------------------

# How an answer of 16 tokens may break off, and where: by the server's doing after so many tokens, on the way after so many bytes
_BREAKS = [(what, place) for what in ("no_finish", "error_frame", "fin", "rst") for place in range(1, 15, 2)]
_CUTS = [(what, place) for what in ("fin", "rst", "half_close") for place in range(170, 450, 28)]
_STALLS = [("stall", place) for place in (1, 9)]  # each takes as long as one is ready to wait
_PLAN = {"service": {"kind": "fixed", "tokens": 16}}


def _layer_claim(layer: str) -> Claim:
    text = f"a stream that breaks off is never presented as complete by the {layer}: share accepted"
    return Claim(f"V3.{layer}", text, at_most(margins.TRUNCATED), estimand="proportion", min_n=margins.TRUNCATIONS)


@pytest.mark.parametrize("layer", layers.LAYERS)
@pytest.mark.claim(each=_layer_claim)
def test_no_truncated_stream_is_accepted(claim, layer):
    reader = layers.LAYERS[layer]
    clean = Control("A/A: whole streams are accepted, every one", controls.HOLDS, _read(reader, broken=False))
    believed = Control("planted: a reader that joins whatever came", controls.FAILS, _read(layers.believer))
    claim.check(_read(reader), controls=[clean, believed])


def _read(reader: layers.Layer, *, broken: bool = True) -> Measurement:
    """One Sample for each stream, 1 where the reader is wrong: it presents what broke off, or refuses what is whole."""
    rows, void = [], []
    with stub.start({**_PLAN, "faults": [_fault(*each) for each in (*_BREAKS, *_STALLS)] if broken else []}) as server:
        for what, place in (*_BREAKS, *_STALLS):
            limit_s = 1.5 if broken and what == "stall" else 20.0
            rows.append(_presented(reader, server.target, f"{what} after {place} tokens", limit_s, broken))
        void += [each["what"] for each in server.state()["faults"] if not each["applied"]]
        for what, place in _CUTS:
            with Proxy(server.target, [Fault(what if broken else "pass", after_bytes=place)]) as proxy:
                rows.append(_presented(reader, proxy.target, f"{what} after {place} bytes", 20.0, broken))
                void += [what] if broken and not proxy.applied else []
    why = (f"fault_not_applied: {len(void)} of {len(rows)} faults, like {void[0]}",) if void else ()
    return Measurement("truncated_accepted", tuple(rows), conditions={"streams": len(rows), "broken": broken}, invalid=why)


def _presented(reader: layers.Layer, target, item: str, limit_s: float, broken: bool) -> Sample:
    body = {"messages": [{"role": "user", "content": _asks(item)}], "max_tokens": 32, "temperature": 0}
    said, whole = reader(target, body, limit_s), answer(body["messages"], 0, 16)
    wrong = said is not None if broken else said != whole
    return Sample(item, float(wrong), detail={"presented": said, "whole": whole})


def _asks(item: str) -> str:
    return f"Say something long ({item})."


def _fault(what: str, place: int) -> dict:
    return {"what": what, "after_frame": place, "when": {"prompt": _asks(f"{what} after {place} tokens")}}


# --- V3 on a real server --------------------------------------------------------------------------------


def _server_claim(spawned: str) -> Claim:
    text = f"{spawned}: a stream whose engine was killed does not end as a complete one does, with [DONE] and a whole body under status 200"
    return Claim(f"V3.server[{spawned}]", text, identical(), min_n=margins.KILLED_STREAMS)


@pytest.mark.claim(each=_server_claim)
def test_a_killed_engine_leaves_no_stream_that_looks_whole(claim, bench, spawned):
    rows = bench.cached("killed", {**bench.serving.inputs(spawned), "asked": 2}, lambda: _killed(bench, spawned))
    measured = Measurement("looks_whole", tuple(map(_ended, rows)), (bench.serving.subject(spawned),))
    claim.check(measured, controls=[_dying("fin", controls.HOLDS), _dying("rst", controls.HOLDS), _dying("error_frame", controls.FAILS)])


def _body(i: int) -> dict:
    return {"messages": [{"role": "user", "content": f"Tell story number {i}."}], "max_tokens": 1000, "ignore_eos": True, "temperature": 0}


def _killed(bench, name) -> list[dict]:
    """Some streams, and one of our own beside them that shows how far they are: the kill comes in the middle of all."""
    with bench.serving.fresh(name) as server, contextlib.closing(_Own(server.target)) as own:
        answers: list = []
        bodies = [_body(i) for i in range(margins.KILLED_STREAMS)]
        reading = threading.Thread(target=lambda: answers.extend(ask(server.target, bodies, concurrency=len(bodies), limit_s=60)))
        own.read(1)
        reading.start()
        own.read(50)
        server.kill(_computing(server, bench.serving.spec(name).engine))
        reading.join()
    return [_told(i, each) for i, each in enumerate(answers)]


class _Own:
    """A stream that is read event by event."""

    def __init__(self, target) -> None:
        self.connection = http.client.HTTPConnection(target.host, target.port, timeout=60)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {target.key}"}
        self.connection.request("POST", CHAT, json.dumps({**_body(99), "model": target.model, "stream": True}), headers)
        self.reply = self.connection.getresponse()
        self.close = self.connection.close

    def read(self, events: int) -> None:
        """EngineError if it ends before so many came."""
        for _ in range(2 * events):  # each with its blank line
            if not self.reply.readline():
                raise EngineError(f"status {self.reply.status}: the stream ended before anything could be killed")


def _told(i: int, each) -> dict:
    last = each.frames[-1].decode("utf-8", "replace")[:300] if each.frames else ""
    whole = each.status == 200 and last == "[DONE]"
    before = each.frames[-2].decode("utf-8", "replace")[:300] if len(each.frames) > 1 else ""
    return {"item": f"stream {i}", "whole": whole, "status": each.status, "last": last, "before": before, "frames": len(each.frames),
            "ours": f"{each.outcome}: {each.why}"}  # fmt: skip


def _ended(row) -> Sample:
    return Sample(row["item"], float(not row["whole"] and row["frames"] > 0), detail={k: v for k, v in row.items() if k != "item"})


def _computing(server, engine: str) -> int:
    """The process that computes: vLLM's engine core, which names itself so in its command line; llama.cpp has but one."""
    pids = server.pids()
    if engine != "vllm":
        return int(pids[0])
    for pid in pids:
        with contextlib.suppress(OSError):
            if b"EngineCore" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return int(pid)
    raise EngineError(f"none of the processes {pids} calls itself EngineCore: this version of vLLM names its engine otherwise")


def _dying(what: str, expect) -> Control:
    plan = {**_PLAN, "faults": [{"what": what, "after_frame": 5}]}
    with stub.start(plan) as server:
        answers = ask(server.target, [_body(i) | {"max_tokens": 16} for i in range(margins.KILLED_STREAMS)], concurrency=4, limit_s=20)
    rows = tuple(_ended(_told(i, each)) for i, each in enumerate(answers))
    return Control(f"planted: streams that end by {what}", expect, Measurement("looks_whole", rows, conditions={"stub": plan}))
