"""What a server must refuse, and how: requests that are wrong in one way each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from harness.serve.exchange import CHAT, MODELS, TEXT, Request, post

__all__ = ["Wrong", "without_key", "wrongs"]


class Wrong(NamedTuple):
    """A request, and the statuses that a server may answer it with: 200 where it may also be taken."""

    name: str
    request: Request
    statuses: tuple[int, ...] = (400,)


# what is wrong with a chat request: name, the change, what a server may answer
BAD: tuple[tuple[str, Mapping[str, Any], tuple[int, ...]], ...] = (
    ("messages.null", {"messages": None}, (400,)),
    ("messages.text", {"messages": "hello"}, (400,)),
    ("messages.empty", {"messages": []}, (400,)),
    ("messages.no_role", {"messages": [{"content": "hello"}]}, (400,)),
    ("messages.role_number", {"messages": [{"role": 5, "content": "hello"}]}, (400,)),
    ("messages.content_number", {"messages": [{"role": "user", "content": 5}]}, (400,)),
    ("messages.image", {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]}]}, (400,)),
    ("messages.surrogate", {"messages": [{"role": "user", "content": "\ud800"}]}, (200, 400)),  # lone: no character at all
    ("temperature.text", {"temperature": "hot"}, (400,)),
    ("temperature.negative", {"temperature": -1}, (400,)),
    ("temperature.nan", {"temperature": float("nan")}, (400,)),
    ("temperature.infinite", {"temperature": float("inf")}, (400,)),
    ("temperature.huge", {"temperature": 1e300}, (200, 400)),
    ("temperature.tiny", {"temperature": 1e-300}, (200, 400)),
    ("top_p.zero", {"top_p": 0}, (200, 400)),
    ("top_p.negative", {"top_p": -0.5}, (400,)),
    ("top_p.above_one", {"top_p": 1.5}, (400,)),
    ("top_p.nan", {"top_p": float("nan")}, (400,)),
    ("max_tokens.text", {"max_tokens": "many"}, (400,)),
    ("max_tokens.fraction", {"max_tokens": 1.5}, (400,)),
    ("max_tokens.negative", {"max_tokens": -5}, (400,)),
    ("max_tokens.zero", {"max_tokens": 0}, (200, 400)),
    ("n.zero", {"n": 0}, (400,)),
    ("n.negative", {"n": -1}, (400,)),
    ("n.text", {"n": "two"}, (400,)),
    ("n.huge", {"n": 10**9}, (400,)),
    ("stop.number", {"stop": 5}, (400,)),
    ("seed.text", {"seed": "x"}, (400,)),
    ("seed.huge", {"seed": 2**70, "temperature": 1}, (200, 400)),
    ("stream.text", {"stream": "maybe"}, (400,)),
    ("top_logprobs.negative", {"logprobs": True, "top_logprobs": -5}, (400,)),
    ("top_logprobs.huge", {"logprobs": True, "top_logprobs": 10**6}, (400,)),
    ("presence_penalty.text", {"presence_penalty": "much"}, (400,)),
    ("presence_penalty.huge", {"presence_penalty": 100}, (400,)),
    ("frequency_penalty.nan", {"frequency_penalty": float("nan")}, (400,)),
    ("logit_bias.list", {"logit_bias": [1, 2]}, (400,)),
    ("logit_bias.outside", {"logit_bias": {"99999999": 5}}, (400,)),
    ("response_format.unknown", {"response_format": {"type": "alien"}}, (400,)),
    ("model.number", {"model": 5}, (400, 404)),
    ("model.unknown", {"model": "no-such-model"}, (404,)),
)


def wrongs(chat: Mapping[str, Any], text: Mapping[str, Any], context: int) -> Iterator[Wrong]:
    """All of them, made of a good request for ``chat`` and one for ``text``. ``context``: the longest sequence, 0 where unknown."""
    yield Wrong("json.cut", Request("POST", CHAT, b'{"model": "x", "messages": ['))
    yield Wrong("json.empty", Request("POST", CHAT))
    yield Wrong("json.list", Request("POST", CHAT, b"[1]"))
    yield Wrong("json.text", Request("POST", CHAT, b'"hello"'))
    yield Wrong("json.utf8", Request("POST", CHAT, b'{"model": "\xff", "messages": []}'), (400, 404))
    yield Wrong("json.deep", Request("POST", CHAT, b"[" * 100_000))
    for name, change, statuses in BAD:
        yield Wrong(name, post(CHAT, {**chat, **change}), statuses)
    yield Wrong("messages.absent", post(CHAT, {name: value for name, value in chat.items() if name != "messages"}))
    yield Wrong("prompt.absent", post(TEXT, {name: value for name, value in text.items() if name != "prompt"}))
    for name, prompt in (("number", 5), ("empty_list", []), ("id_outside", [99_999_999]), ("id_negative", [-1])):
        yield Wrong(f"prompt.{name}", post(TEXT, {**text, "prompt": prompt}))
    yield Wrong("prompt.model_unknown", post(TEXT, {**text, "model": "no-such-model"}), (404,))
    if context:
        long = "word " * (2 * context)
        yield Wrong("too_long.chat", post(CHAT, {**chat, "messages": [{"role": "user", "content": long}]}))
        yield Wrong("too_long.completions", post(TEXT, {**text, "prompt": long}))
    yield Wrong("method.get", Request("GET", CHAT), (405,))
    yield Wrong("method.put", Request("PUT", CHAT, json.dumps(chat).encode()), (405,))
    yield Wrong("path.unknown", Request("GET", "/v1/no-such-path"), (404,))


def without_key(chat: Mapping[str, Any]) -> Iterator[Wrong]:
    """Requests with no key or a wrong one, one of them with a body that must not be looked at."""
    for key in ("none", "wrong"):
        yield Wrong(f"key.{key}.models", Request("GET", MODELS, key=key), (401,))
        yield Wrong(f"key.{key}.chat", post(CHAT, chat)._replace(key=key), (401,))
        yield Wrong(f"key.{key}.completions", Request("POST", TEXT, b"{}", key), (401,))
