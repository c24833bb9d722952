"""The shapes of what the OpenAI protocol says, as data, and where a value departs from one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["CHAT_FRAME", "CHAT_REPLY", "ERROR_REPLY", "FINISH", "MODELS_REPLY", "TEXT_FRAME", "TEXT_REPLY", "USAGE", "mismatch", "shown"]


def mismatch(shape: Any, value: Any, at: str = "$") -> str:
    """Where ``value`` is not of the ``shape``, and what is there; "" if it is.

    A shape is a type; a literal; a rule (a function that says yes or no, named by its name); a tuple of shapes, one of which
    must fit; a list with one shape, for lists of any length; a dict, whose names must be there, those that end in "?" may be.
    Further names are allowed: servers add to the protocol. True is no number.
    """
    if isinstance(shape, tuple):
        tried = [mismatch(each, value, at) for each in shape]
        return "" if "" in tried else min(tried, key=len)
    if isinstance(shape, dict):
        return _object(shape, value, at)
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{at}: {shown(value)}, expected a list"
        return next((wrong for i, each in enumerate(value) if (wrong := mismatch(shape[0], each, f"{at}[{i}]"))), "")
    if isinstance(shape, type):
        fits = isinstance(value, shape) and not (isinstance(value, bool) and shape is not bool)
        return "" if fits else f"{at}: {shown(value)}, expected {shape.__name__}"
    if callable(shape):
        return "" if shape(value) else f"{at}: {shown(value)}, expected {shape.__name__.strip('_').replace('_', ' ')}"
    return "" if value == shape and type(value) is type(shape) else f"{at}: {shown(value)}, expected {shape!r}"


def _object(shape: Mapping[str, Any], value: Any, at: str) -> str:
    if not isinstance(value, dict):
        return f"{at}: {shown(value)}, expected an object"
    for name, each in shape.items():
        bare = name.removesuffix("?")
        if bare not in value:
            if bare == name:
                return f"{at}.{bare}: absent"
        elif wrong := mismatch(each, value[bare], f"{at}.{bare}"):
            return wrong
    return ""


def shown(value: Any) -> str:
    """Its JSON, cut."""
    said = json.dumps(value, ensure_ascii=False)
    return said if len(said) <= 60 else said[:57] + "..."


def _a_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _some_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


FINISH = ("stop", "length", "tool_calls", "function_call", "content_filter")
USAGE = {"prompt_tokens": _a_count, "completion_tokens": _a_count, "total_tokens": _a_count}
_HEAD = {"id": _some_text, "created": _a_count, "model": _some_text}
_MESSAGE = {"role": "assistant", "content": (str, None), "tool_calls?": (list, None)}
CHAT_REPLY = {
    **_HEAD, "object": "chat.completion", "usage": USAGE,
    "choices": [{"index": _a_count, "message": _MESSAGE, "finish_reason": FINISH}],
}  # fmt: skip
TEXT_REPLY = {
    **_HEAD, "object": "text_completion", "usage": USAGE,
    "choices": [{"index": _a_count, "text": str, "finish_reason": FINISH, "logprobs?": (dict, None)}],
}  # fmt: skip
CHAT_FRAME = {
    **_HEAD, "object": "chat.completion.chunk", "usage?": (USAGE, None),
    "choices": [{"index": _a_count, "delta": {"role?": (str, None), "content?": (str, None)}, "finish_reason?": (*FINISH, None)}],
}  # fmt: skip
TEXT_FRAME = {
    **_HEAD, "object": "text_completion", "usage?": (USAGE, None),
    "choices": [{"index": _a_count, "text": str, "finish_reason?": (*FINISH, None)}],
}  # fmt: skip
MODELS_REPLY = {"object": "list", "data": [{"id": _some_text, "object": "model", "created?": _a_count, "owned_by?": str}]}
ERROR_REPLY = {"error": {"message": _some_text, "type": _some_text, "code?": (int, str, None), "param?": (str, None)}}
