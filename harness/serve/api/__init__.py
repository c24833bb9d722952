"""Whether a server answers as the OpenAI protocol says: shapes, streams, refusals, keys.

A Check is data: a request, what is expected, and a rule that reads the reply. Nothing here decides: ``rows`` gives a line for
each check with what was found, and a claim (identical) reads them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.serve.api import refusals
from harness.serve.api.shapes import (
    CHAT_FRAME,
    CHAT_REPLY,
    ERROR_REPLY,
    FINISH,
    MODELS_REPLY,
    TEXT_FRAME,
    TEXT_REPLY,
    USAGE,
    mismatch,
    shown,
)
from harness.serve.exchange import CHAT, MODELS, TEXT, Reply, Request, Send, exchange, frames, post
from harness.serve.target import Target
from harness.types import Sample

__all__ = ["GROUPS", "RECIPE", "Check", "checks", "rows", "samples"]

RECIPE = 1  # counted up when a check asks or reads otherwise: what is kept is then asked again
GROUPS = ("schema", "stream", "errors", "explained", "auth")


Rule = Callable[[Sequence[Reply]], str]  # what is wrong with the replies, "" if nothing is


class Check(NamedTuple):
    """A request sent ``times`` times, and what its replies must be; ``what`` says it to a person."""

    name: str
    group: str
    request: Request
    what: str
    rule: Rule
    times: int = 1


def rows(target: Target, todo: Iterable[Check], *, limit_s: float = 60.0, send: Send = exchange) -> list[dict[str, Any]]:
    """A JSON row for each check, in order: item, group, ok, expected, found. The same request is sent once for all that read it."""
    known: dict[Request, list[Reply]] = {}
    found = []
    for check in todo:
        replies = known.setdefault(check.request, [])
        while len(replies) < check.times:
            replies.append(send(target, check.request, limit_s=limit_s))
        wrong = check.rule(replies[: check.times])
        row = {"item": check.name, "group": check.group, "ok": not wrong, "expected": check.what, "found": wrong or "as expected"}
        found.append({**row, "reply": replies[0].shown()} if wrong else row)
    return found


def samples(found: Iterable[Mapping[str, Any]], group: str = "") -> tuple[Sample, ...]:
    """One per row (of ``group``), 1 where it is as expected."""
    keep = [row for row in found if not group or row["group"] == group]
    return tuple(Sample(row["item"], float(row["ok"]), detail={k: v for k, v in row.items() if k not in ("item", "ok")}) for row in keep)


def _shape(shape: Any, kind: str = "application/json") -> Rule:
    def rule(replies: Sequence[Reply]) -> str:
        return _status(replies[0], (200,)) or _kind(replies[0], kind) or mismatch(shape, replies[0].json)

    return rule


def _status(reply: Reply, allowed: Sequence[int]) -> str:
    if reply.status in allowed:
        return ""
    return f"{reply.shown(200)}, expected status {' or '.join(map(str, allowed))}"


def _kind(reply: Reply, expected: str) -> str:
    return "" if reply.kind == expected else f"content-type {reply.kind!r}, expected {expected!r}"


def _answers(*allowed: int) -> Rule:
    return lambda replies: _status(replies[0], allowed)


def _explained(replies: Sequence[Reply]) -> str:
    """A refusal is an error object in JSON; what is no refusal needs none."""
    reply = replies[0]
    wrong = _kind(reply, "application/json") or mismatch(ERROR_REPLY, reply.json)
    return f"{reply.shown(120)}: {wrong}" if wrong and 400 <= reply.status < 500 else ""


def _on(inner: Callable[[Any, Reply], str]) -> Rule:
    """A rule about the object of a good reply."""

    def rule(replies: Sequence[Reply]) -> str:
        value = replies[0].json
        return _status(replies[0], (200,)) or ("" if isinstance(value, dict) else "no JSON object") or inner(value, replies[0])

    return rule


def _total(value: Any, _: Reply) -> str:
    if wrong := mismatch({"usage": USAGE}, value):
        return wrong
    asked, made, total = (value["usage"][name] for name in USAGE)
    return "" if asked + made == total and asked and made else f"{asked} + {made} tokens, total {total}"


def _at_most(limit: int) -> Callable[[Any, Reply], str]:
    def inner(value: Any, _: Reply) -> str:
        if wrong := mismatch({"usage": USAGE, "choices": [{"finish_reason": FINISH}]}, value):
            return wrong
        made, finish = value["usage"]["completion_tokens"], [c["finish_reason"] for c in value["choices"]]
        if len(finish) != 1 or made > limit or (finish == ["length"]) != (made == limit and finish != ["stop"]):
            return f"{made} tokens of {limit}, finish_reason {finish}"
        return ""

    return inner


def _recent(value: Any, reply: Reply) -> str:
    created = value.get("created")
    sane = type(created) is int and abs(created - reply.at) < 600
    return "" if sane else f"created {shown(created)} at {reply.at:.0f}, expected whole seconds since 1970, now"


def _names(model: str) -> Callable[[Any, Reply], str]:
    return lambda value, _: "" if value.get("model") == model else f"model {shown(value.get('model'))}, asked was {model!r}"


def _lists(model: str) -> Callable[[Any, Reply], str]:
    def inner(value: Any, _: Reply) -> str:
        listed = [each.get("id") for each in value.get("data") or [] if isinstance(each, dict)]
        return "" if model in listed else f"lists {shown(listed)}, expected {model!r} among them"

    return inner


def _other_ids(replies: Sequence[Reply]) -> str:
    ids = [(reply.json or {}).get("id") for reply in replies]
    return "" if len(set(ids)) == len(ids) and None not in ids else f"two answers with ids {shown(ids)}, expected different ones"


def checks(model: str, *, keyed: bool, context: int = 0) -> tuple[Check, ...]:
    """Every check of a server that serves ``model``; ``keyed``: it asks for a key. ``context``: its longest sequence, 0 where unknown."""
    chat = {"model": model, "messages": [{"role": "user", "content": "Name three colours."}], "max_tokens": 8, "temperature": 0}
    text = {"model": model, "prompt": "Three colours are", "max_tokens": 8, "temperature": 0}
    return (*_schema(model, chat, text), *_stream(chat, text), *_refusals(chat, text, keyed, context))


def _schema(model: str, chat: Mapping[str, Any], text: Mapping[str, Any]) -> Iterable[Check]:
    listed = Request("GET", MODELS)
    yield Check("models", "schema", listed, "a list of models", _shape(MODELS_REPLY))
    yield Check("models.lists", "schema", listed, "the served model is listed", _on(_lists(model)))
    for name, path, body, shape in (("chat", CHAT, chat, CHAT_REPLY), ("completions", TEXT, text, TEXT_REPLY)):
        request = post(path, body)

        def said(what: str, text: str, rule: Rule, times: int = 1, name: str = name, request: Request = request) -> Check:
            return Check(f"{name}{what}", "schema", request, text, rule, times)

        yield said("", "the shape of an answer, as JSON", _shape(shape))
        yield said(".usage", "prompt and completion tokens add up", _on(_total))
        yield said(".finish", "'length' exactly when max_tokens were made, else 'stop'", _on(_at_most(8)))
        yield said(".created", "created is now, in seconds", _on(_recent))
        yield said(".model", "the answer names the model asked for", _on(_names(model)))
        yield said(".id", "every answer has an id of its own", _other_ids, 2)


# --- streams ------------------------------------------------------------------------------------------


def _stream(chat: Mapping[str, Any], text: Mapping[str, Any]) -> Iterable[Check]:
    for name, path, body, shape in (("chat", CHAT, chat, CHAT_FRAME), ("completions", TEXT, text, TEXT_FRAME)):
        with_usage = post(path, {**body, "stream": True, "stream_options": {"include_usage": True}})
        plain = post(path, {**body, "stream": True})

        def said(what: str, text: str, inner: Callable[[list[Any]], str], request: Request = with_usage, name: str = name) -> Check:
            return Check(f"{name}.stream{what}", "stream", request, text, _streamed(inner))

        yield Check(f"{name}.stream.type", "stream", with_usage, "text/event-stream", lambda r: _kind(r[0], "text/event-stream"))
        yield Check(f"{name}.stream.done", "stream", with_usage, "the last event is [DONE], and the only one", _done)
        yield said("", "every event has the shape of a chunk", lambda chunks, shape=shape: mismatch([shape], chunks))  # type: ignore[misc]
        yield said(".id", "one id, one model and one time of creation from first to last", _one_id)
        yield said(".finish", "one finish_reason, in the last event of the choice", _one_finish)
        yield said(".usage", "usage once, last, with no choices", _usage_last)
        yield said(".no_usage", "no usage where none was asked for", _no_usage, plain)


def _streamed(inner: Callable[[list[Any]], str]) -> Rule:
    """A rule about the objects of a good stream."""

    def rule(replies: Sequence[Reply]) -> str:
        if wrong := _status(replies[0], (200,)):
            return wrong
        try:
            chunks = [json.loads(data) for data in frames(replies[0].body) if data != "[DONE]"]
        except (ValueError, RecursionError):
            return "an event is no JSON"
        if not chunks or not all(isinstance(chunk, dict) for chunk in chunks):
            return f"{len(chunks)} events that are objects, expected some and no others"
        return inner(chunks)

    return rule


def _done(replies: Sequence[Reply]) -> str:
    found = frames(replies[0].body)
    return "" if found[-1:] == ["[DONE]"] and found.count("[DONE]") == 1 else f"ends with {shown(found[-1:])}"


def _one_id(chunks: list[Any]) -> str:
    for name in ("id", "model", "created"):
        values = {str(chunk.get(name)) for chunk in chunks}
        if len(values) != 1:
            return f"{name} takes {len(values)} values: {shown(sorted(values))}"
    return ""


def _choices(chunks: list[Any]) -> list[Any]:
    return [choice for chunk in chunks for choice in chunk.get("choices") or [] if isinstance(choice, dict)]


def _one_finish(chunks: list[Any]) -> str:
    reasons = [choice.get("finish_reason") for choice in _choices(chunks)]
    said = [reason for reason in reasons if reason is not None]
    return "" if len(said) == 1 and reasons[-1] == said[0] and said[0] in FINISH else f"finish reasons {shown(reasons)}"


def _usage_last(chunks: list[Any]) -> str:
    where = [i for i, chunk in enumerate(chunks) if chunk.get("usage") is not None]
    if where != [len(chunks) - 1] or chunks[-1].get("choices"):
        return f"usage in events {where} of {len(chunks)}, the last with {len(chunks[-1].get('choices') or [])} choices"
    return _total(chunks[-1], Reply(200))


def _no_usage(chunks: list[Any]) -> str:
    where = [i for i, chunk in enumerate(chunks) if chunk.get("usage") is not None]
    return f"usage in events {where} of {len(chunks)}" if where else ""


# --- refusals -----------------------------------------------------------------------------------------


def _refusals(chat: Mapping[str, Any], text: Mapping[str, Any], keyed: bool, context: int) -> Iterable[Check]:
    wrong = list(refusals.wrongs(chat, text, context))
    keyless = list(refusals.without_key(chat)) if keyed else []
    for group, each in [*(("errors", each) for each in wrong), *(("auth", each) for each in keyless)]:
        what = f"status {' or '.join(map(str, each.statuses))}"
        yield Check(each.name, group, each.request, what, _answers(*each.statuses))
    well = post(CHAT, {**chat, "user": "afterwards"})
    yield Check("afterwards", "errors", well, "an answer: what came before left the server well", _shape(CHAT_REPLY))
    if keyed:
        yield Check("key.right", "auth", Request("GET", MODELS), "status 200", _answers(200))
    for each in (*wrong, *keyless):
        yield Check(each.name, "explained", each.request, "an error object that says why", _explained)
