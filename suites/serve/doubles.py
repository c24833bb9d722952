"""Doubles of servers that are right or wrong in a known way: the stub, what stands in front of it, and a tokenizer for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from harness.serve.exchange import Reply, Request, Send, exchange, post
from harness.serve.stub.answers import render
from harness.serve.target import Target

# What the stub does; whatever else it is asked for has no effect there.
_KNOWN = frozenset((
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "seed", "stop", "n",
    "stream", "stream_options", "echo", "logprobs", "top_logprobs", "presence_penalty", "frequency_penalty", "repetition_penalty",
    "ignore_eos", "min_tokens", "user", "prompt_logprobs", "return_token_ids",
))  # fmt: skip


def strict_but(let_through: frozenset[str]) -> Send:
    """The stub behind a gateway that refuses what the stub would not do, but for what it is to let through."""

    def send(target: Target, request: Request, *, limit_s: float = 60.0) -> Reply:
        wrong = _unknown(request, _KNOWN | let_through)
        if wrong and request.key == "right":
            error = {"error": {"message": f"{wrong} is not supported", "type": "BadRequestError", "param": wrong, "code": 400}}
            return Reply(400, {"content-type": "application/json"}, json.dumps(error).encode())
        return exchange(target, request, limit_s=limit_s)

    return send


strict = strict_but(frozenset())  # the clean twin of every claim about refusals


def _unknown(request: Request, known: frozenset[str]) -> str:
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError):
        return ""
    if not isinstance(body, dict):
        return ""
    if unknown := sorted(set(body) - known):
        return unknown[0]
    if (body.get("stream_options") or {}).keys() - {"include_usage"}:
        return "stream_options"
    prompt, messages = body.get("prompt"), body.get("messages")
    if isinstance(prompt, list) and any(type(each) is int and each >= 50_000 for each in prompt):
        return "prompt"
    parts = [part for each in messages if isinstance(each, dict) for part in _parts(each)] if isinstance(messages, list) else []
    return "messages" if any(part.get("type") != "text" for part in parts) else ""


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message.get("content")
    return [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []


def planted(change: Callable[[Request, Reply], Reply]) -> Send:
    """The clean twin with ``change`` planted in its replies."""

    def send(target: Target, request: Request, *, limit_s: float = 60.0) -> Reply:
        return change(request, strict(target, request, limit_s=limit_s))

    return send


class StubTokenizer:
    """The stub's own tokens and template. Ids are asked for, since a stub knows only those that it has shown."""

    def __init__(self, target: Target) -> None:
        self.target = target

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Ids of a text."""
        found: list[int] = exchange(self.target, post("/tokenize", {"prompt": text})).json["tokens"] if text else []
        return found

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that messages become."""
        return render(messages)


def with_prompt(request: Request, kept: slice) -> Request:
    """The request with only some of its prompt's ids."""
    body = json.loads(request.body)
    return post(request.path, {**body, "prompt": body["prompt"][kept]})
