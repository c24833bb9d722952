"""A session of requests that differ in one option each, and what an answer says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from harness.serve.exchange import CHAT, TEXT, Reply, Request, Send, exchange, frames, post
from harness.serve.target import Target

__all__ = ["BASE", "LENGTH", "Answer", "Baseless", "Session", "Unusual"]

LENGTH = 24  # tokens: enough for two random answers to part
_QUESTION = [{"role": "user", "content": "What is the capital of France?"}]
BASE: Mapping[str, Mapping[str, Any]] = {
    CHAT: {"messages": _QUESTION, "max_tokens": LENGTH, "temperature": 0},
    TEXT: {"prompt": "Once upon a time", "max_tokens": LENGTH, "temperature": 0},
}


class Unusual(Exception):
    """A reply that is no answer. ``refused``: the server said so properly."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.shown(200))
        self.refused = 400 <= reply.status < 500 or reply.status == 501


class Baseless(Exception):
    """The request without the option got no answer."""


class Answer:
    """What a reply says, as far as probes ask."""

    def __init__(self, reply: Reply) -> None:
        value = reply.json
        choices = value.get("choices") if isinstance(value, dict) else None
        if reply.status != 200 or not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise Unusual(reply)
        self.choices: list[dict[str, Any]] = choices
        self.first = choices[0]
        self.message: Mapping[str, Any] = self.first.get("message") or {}
        self.text = str(self.first.get("text", self.message.get("content")) or "")
        self.finish = self.first.get("finish_reason")
        usage = value.get("usage") or {}
        self.tokens, self.prompt_tokens = usage.get("completion_tokens"), usage.get("prompt_tokens")


class Session:
    """Requests to one server; the same one is sent once unless it is asked for ``again``."""

    def __init__(self, target: Target, limit_s: float, send: Send = exchange) -> None:
        self.target, self.limit_s, self.send = target, limit_s, send
        self.known: dict[Request, Reply] = {}

    def _send(self, path: str, change: Mapping[str, Any], *, again: bool = False) -> Reply:
        request = post(path, {"model": self.target.model, **BASE[path], **change})
        if again or request not in self.known:
            self.known[request] = self.send(self.target, request, limit_s=self.limit_s)
        return self.known[request]

    def off(self, path: str = TEXT, *, again: bool = False, **change: Any) -> Answer:
        """Without the option."""
        try:
            return Answer(self._send(path, change, again=again))
        except Unusual as error:
            raise Baseless(str(error)) from None

    def on(self, path: str = TEXT, *, again: bool = False, **change: Any) -> Answer:
        """With it: may be refused."""
        return Answer(self._send(path, change, again=again))

    def stream(self, path: str, **change: Any) -> list[Any]:
        """The objects of a stream with the option."""
        reply = self._send(path, {**change, "stream": True})
        if reply.status != 200:
            raise Unusual(reply)
        try:
            return [json.loads(data) for data in frames(reply.body) if data != "[DONE]"]
        except ValueError:
            return []
