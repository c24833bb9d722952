"""V1 on stubs: every check is passed by one that conforms, and failed by one that breaks it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.serve import api
from harness.serve.api import refusals, shapes
from harness.serve.exchange import CHAT, MODELS, TEXT, Reply, Request, exchange, frames, post
from harness.serve.stub import start
from harness.serve.target import Target
from suites.serve import doubles, test_api

pytestmark = pytest.mark.selftest
quick = settings(derandomize=True, deadline=None, max_examples=200)


@pytest.fixture(scope="module")
def plain():
    """A stub that conforms, and asks for a key."""
    with start({"key": True}) as server:
        yield server.target


def wrong(rows, group="") -> set[str]:
    return {row["item"] for row in rows if not row["ok"] and group in ("", row["group"])}


def checked(target, *, send=doubles.strict):
    return api.rows(target, api.checks("stub", keyed=True, context=2048), send=send)


def test_a_stub_that_conforms_passes_every_check(plain):
    rows = checked(plain)
    assert not wrong(rows) and len(rows) > 120
    assert {row["group"] for row in rows} == set(api.GROUPS) == set(test_api._BROKEN)
    assert json.loads(json.dumps(rows)) == rows


@pytest.mark.parametrize(("fault", "caught"), [
    ({"what": "no_usage"}, {"chat.usage", "chat.stream.usage", "completions.usage"}),
    ({"what": "wrong_usage", "by": 1}, {"chat.finish", "completions.finish"}),
    ({"what": "wrong_model"}, {"chat.model", "completions.model"}),
    ({"what": "no_finish"}, {"chat.finish", "chat.stream.finish", "completions.stream.finish"}),
    ({"what": "other_id", "after_frame": 3}, {"chat.stream.id", "completions.stream.id"}),
    ({"what": "no_done"}, {"chat.stream.done", "completions.stream.done"}),
    ({"what": "after_done"}, {"chat.stream.done", "completions.stream.done"}),
    ({"what": "status", "code": 500}, {"chat", "completions", "afterwards"}),
    ({"what": "cut_json", "after_frame": 2}, {"chat.stream", "completions.stream"}),
    ({"what": "zero_tokens"}, {"chat.usage", "completions.usage"}),
], ids=lambda value: value["what"] if isinstance(value, dict) else "")  # fmt: skip
def test_each_fault_is_found_where_it_is(stub, fault, caught):
    rows = checked(stub({"key": True, "faults": [fault]}).target)
    assert caught <= wrong(rows)
    assert not wrong(rows, "auth")


def test_an_option_that_is_not_looked_at_is_not_refused_either(stub):
    rows = checked(stub({"key": True, "faults": [{"what": "ignored_options", "options": ["temperature", "stop"]}]}).target)
    assert {"temperature.text", "temperature.negative", "stop.number"} <= wrong(rows, "errors")
    assert "max_tokens.text" not in wrong(rows, "errors")


def test_a_server_that_asks_for_no_key_is_found(stub):
    target = Target(stub({}).target.base_url, "stub", "secret")
    rows = [row for row in api.rows(target, api.checks("stub", keyed=True)) if row["group"] == "auth"]
    assert wrong(rows) == {f"key.{key}.{what}" for key in ("none", "wrong") for what in ("models", "chat", "completions")}


def test_without_a_key_nothing_is_said_of_keys():
    assert "auth" not in {check.group for check in api.checks("m", keyed=False)}
    assert not [check for check in api.checks("m", keyed=False, context=0) if check.name.startswith("too_long")]


def test_each_request_is_sent_once_for_all_checks_that_read_it(plain):
    sent = []

    def counting(target, request, *, limit_s=60.0):
        sent.append(request)
        return exchange(target, request, limit_s=limit_s)

    todo = [check for check in api.checks("stub", keyed=False) if check.group == "schema"]
    rows = api.rows(plain, todo, send=counting)
    assert len(rows) == 14 and len(sent) == 1 + 2 + 2  # ids are of two answers


def test_a_server_that_is_gone_fails_every_check(stub):
    server = stub({})
    server.stop()
    rows = api.rows(server.target, [check for check in api.checks("stub", keyed=False) if check.group != "explained"], limit_s=2)
    assert not [row for row in rows if row["ok"]]
    assert all("Refused" in row["reply"] for row in rows)


def test_samples_are_of_one_group_and_keep_what_was_found(stub):
    rows = checked(stub({"key": True, "faults": [{"what": "wrong_model"}]}).target)
    found = {sample.item: sample for sample in api.samples(rows, "schema")}
    assert found["chat.model"].value == 0 and "another" in found["chat.model"].detail["found"]
    assert found["chat"].value == 1 and len(found) == 14


# --- one exchange -------------------------------------------------------------------------------------


def test_the_key_goes_into_the_header_and_nowhere_else(plain):
    assert [exchange(plain, Request("GET", MODELS, key=key)).status for key in ("right", "none", "wrong")] == [200, 401, 401]
    gone = exchange(Target("http://127.0.0.1:9", "m", "sesame"), Request("GET", MODELS), limit_s=2)
    assert gone.status == 0 and "sesame" not in repr(gone) and gone.json is None


def test_a_body_cut_off_is_no_reply(stub):
    reply = exchange(stub({"faults": [{"what": "fin"}]}).target, post(TEXT, {"prompt": "a b", "max_tokens": 4}))
    assert reply.status == 0 and reply.error


def test_frames_are_read_with_crlf_and_comments_too(stub):
    body = {"messages": [{"role": "user", "content": "x"}], "stream": True}
    for what in ("crlf", "comments"):
        found = frames(exchange(stub({"faults": [{"what": what}]}).target, post(CHAT, body)).body)
        assert found[-1] == "[DONE]" and all(json.loads(each)["id"] for each in found[:-1])


def test_an_address_with_a_password_is_refused():
    with pytest.raises(ConfigError):
        Target("http://user:pass@127.0.0.1:1", "m")


# --- shapes -------------------------------------------------------------------------------------------

_SHAPE = {"id": str, "n": shapes.USAGE["prompt_tokens"], "why?": ("stop", "length", None), "rows": [{"ok": bool}]}
_leaf = st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from(["stop", "length", "x", ""]) | st.just(1.5)
_row = st.dictionaries(st.sampled_from(["ok", "more"]), _leaf, max_size=2)
_value = st.fixed_dictionaries(
    {},
    optional={"id": _leaf, "n": _leaf, "why": _leaf, "rows": st.lists(_row | _leaf, max_size=3) | _leaf, "more": _leaf},
)


def fits(value) -> bool:
    """The shape, written out."""
    if not isinstance(value, dict) or not {"id", "n", "rows"} <= set(value) or type(value["id"]) is not str:
        return False
    if type(value["n"]) is not int or value["n"] < 0 or value.get("why") not in ("stop", "length", None):
        return False
    rows = value["rows"]
    return isinstance(rows, list) and all(isinstance(row, dict) and type(row.get("ok")) is bool for row in rows)


@quick
@given(_value | _leaf)
def test_a_shape_fits_what_it_says(value):
    assert (shapes.mismatch(_SHAPE, value) == "") == fits(value)


@pytest.mark.parametrize(("shape", "value", "said"), [
    ({"a": {"b": [int]}}, {"a": {"b": [1, "x"]}}, r"\$\.a\.b\[1\]: \"x\", expected int"),
    ({"a": int}, {}, r"\$\.a: absent"),
    ({"a": int}, [1], r"\$: \[1\], expected an object"),
    (int, True, r"\$: true, expected int"),
    ("x", "y", r"expected 'x'"),
    (shapes.USAGE["total_tokens"], -1, "expected a count"),
    (str, "y" * 100, "^$"),
])  # fmt: skip
def test_a_mismatch_says_where_and_what(shape, value, said):
    assert re.search(said, shapes.mismatch(shape, value))


def test_every_wrong_request_has_a_name_of_its_own():
    chat = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    names = [each.name for each in (*refusals.wrongs(chat, {"model": "m", "prompt": "x"}, 64), *refusals.without_key(chat))]
    assert len(names) == len(set(names)) > 60


def test_refusals_that_explain_nothing_are_found(plain):
    for change in (test_api._terse, test_api._html):
        rows = checked(plain, send=doubles.planted(change))
        assert len(wrong(rows, "explained")) > 50 and not wrong(rows, "errors")
    assert len(wrong(checked(plain, send=doubles.planted(test_api._own_fault)), "errors")) > 40


def test_a_reply_shows_what_it_is():
    assert Reply(404, {}, b'{"x": 1}').shown() == '404 {"x": 1}'
    assert Reply(0, error="TimeoutError: timed out").shown() == "no answer: TimeoutError: timed out"
    assert Reply(200, {"content-type": "Text/Event-Stream; charset=utf-8"}).kind == "text/event-stream"
