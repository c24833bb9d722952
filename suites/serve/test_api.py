"""V1: the API conforms, group by group. Each has a clean twin that must hold, and servers that break it in one way."""

from __future__ import annotations

import json

import pytest

from harness import Claim, Control, Measurement, identical
from harness.errors import MissingNeed
from harness.serve import api, stub
from harness.serve.api import context
from harness.serve.exchange import Reply
from harness.serve.target import Target
from suites import controls
from suites.serve import doubles

pytestmark = pytest.mark.serve

_WHAT = {
    "schema": "answers and the list of models have the protocol's shape; usage adds up, finish_reason, id and created are sane",
    "stream": "streams have the protocol's shape: one id, one finish_reason, usage last, then [DONE]",
    "errors": "what is wrong is refused with the protocol's status: 400, 404 for an unknown model, 405; and the server goes on",
    "explained": "every refusal is an error object that says why",
    "auth": "nothing below /v1 is answered without the key",
}


def _claim(distinct: str, group: str) -> Claim:
    return Claim(f"V1.{group}[{distinct}]", f"{distinct}: {_WHAT[group]}", identical())


@pytest.mark.parametrize("group", api.GROUPS)
@pytest.mark.claim(each=_claim)
def test_the_api_conforms(claim, bench, distinct, group):
    def look() -> list[dict]:
        target = bench.serving.target(distinct)
        try:
            longest = context.advertised(target)
        except MissingNeed:  # nobody knows what is too long for it
            longest = 0
        return api.rows(target, api.checks(target.model, keyed=bool(target.key), context=longest))

    rows = bench.cached("api", {**bench.serving.inputs(distinct), "asked": api.RECIPE}, look)
    if group == "auth" and not any(row["group"] == group for row in rows):
        raise MissingNeed("key", f"{distinct} was given no key, so nobody knows whether it asks for one", "OPENAI_API_KEY, set to its key")
    measured = Measurement("violations", api.samples(rows, group), (bench.serving.subject(distinct),))
    claim.check(measured, controls=[_clean(group), *(make(group) for make in _BROKEN[group])])


def _rows(plan, group: str, send=doubles.strict, key: str = "") -> Measurement:
    with stub.start({"key": True, **plan}) as server:
        target = Target(server.target.base_url, server.target.model, key or server.target.key)
        todo = [each for each in api.checks(target.model, keyed=True, context=2048) if each.group == group]
        return Measurement("violations", api.samples(api.rows(target, todo, send=send)), conditions={"stub": plan})


def _clean(group: str) -> Control:
    return Control("A/A: a stub that conforms", controls.HOLDS, _rows({}, group))


def _faulty(what: str, **numbers):
    return lambda group: Control(
        f"planted: {what} {numbers or ''}".strip(), controls.FAILS, _rows({"faults": [{"what": what, **numbers}]}, group)
    )


def _changed(name: str, change):
    return lambda group: Control(f"planted in the replies: {name}", controls.FAILS, _rows({}, group, doubles.planted(change)))


def _open(group: str) -> Control:
    return Control("planted: a server that asks for no key", controls.FAILS, _rows({"key": False}, group, key="x"))


def _own_fault(_, reply: Reply) -> Reply:
    return Reply(500, reply.headers, reply.body) if reply.status == 400 else reply


def _no_404(_, reply: Reply) -> Reply:
    return Reply(400, reply.headers, reply.body) if reply.status == 404 else reply


def _terse(_, reply: Reply) -> Reply:
    return Reply(reply.status, reply.headers, json.dumps({"detail": "Bad Request"}).encode()) if reply.status >= 400 else reply


def _html(_, reply: Reply) -> Reply:
    return Reply(reply.status, {"content-type": "text/html"}, b"<h1>Error</h1>") if reply.status >= 400 else reply


_BROKEN = {
    "schema": (_faulty("no_usage"), _faulty("wrong_usage", by=1), _faulty("wrong_model"), _faulty("no_finish"), _faulty("zero_tokens")),
    "stream": (_faulty("no_finish"), _faulty("no_done"), _faulty("no_usage"), _faulty("other_id", after_frame=3), _faulty("after_done")),
    "errors": (
        _changed("400 becomes 500", _own_fault),
        _changed("404 becomes 400", _no_404),
        _faulty("ignored_options", options=["temperature", "top_p", "n"]),
    ),
    "explained": (_changed("a word in place of an error", _terse), _changed("a page in place of an error", _html)),
    "auth": (_open,),
}
