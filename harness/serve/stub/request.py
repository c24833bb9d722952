"""What a request to a stub asks for: its body checked as vLLM checks it, its text chosen, and the faults that change what is said."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.serve.stub.answers import VOCABULARY, pieces, render, token_id, tokenize
from harness.serve.stub.plan import Fault, Plan

__all__ = ["Refused", "Wanted", "parse", "prompt_text", "wanted"]


class Refused(Exception):
    """An error in vLLM's words."""

    def __init__(self, status: int, message: str, kind: str = "BadRequestError", param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.kind, self.param = status, message, kind, param

    def body(self) -> bytes:
        """As JSON."""
        return json.dumps({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.status}}).encode()


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse(data: bytes) -> dict[str, Any]:
    """Raises Refused for anything but an object."""
    try:
        body = json.loads(data, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"JSON decode error: {error}", param="body") from None
    if not isinstance(body, dict):
        raise Refused(400, f"Input should be an object, got {type(body).__name__}", param="body")
    return body


def _get(
    body: Mapping[str, Any], name: str, kind: type | tuple[type, ...], default: Any, low: float | None = None, high: float | None = None
) -> Any:
    value = body.get(name)
    if value is None:
        return default
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        raise Refused(400, f"{name}: Input should be a valid {kinds[0].__name__}, got {json.dumps(value)[:60]}", param=name)
    number: Any = value
    if (low is not None and number < low) or (high is not None and number > high):
        raise Refused(400, f"{name} must be in [{low}, {high}], got {value}", param=name)
    return value


def _text_part(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type", "text") == "text" and isinstance(part.get("text"), str)


def prompt_text(body: Mapping[str, Any], chat: bool, texts: Mapping[int, str]) -> str:
    """The prompt as text; ids become the pieces that /tokenize has shown for them. Raises Refused."""
    if chat:
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Refused(400, "messages: Input should be a valid list with at least one message", param="messages")
        for each in messages:
            if not isinstance(each, dict) or not isinstance(each.get("role"), str):
                raise Refused(400, "messages: each should be an object with a role", param="messages")
            content = each.get("content")
            if not (content is None or isinstance(content, str) or (isinstance(content, list) and all(map(_text_part, content)))):
                raise Refused(400, "messages: content should be a string or a list of parts of type text", param="messages")
        return render(messages)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], (str, list)):
        prompt = prompt[0]
    if isinstance(prompt, list) and prompt and all(type(each) is int and 0 <= each < VOCABULARY for each in prompt):
        return "".join(texts.get(each) or f" <{each}>" for each in prompt)
    if not isinstance(prompt, str) or not prompt:
        raise Refused(400, "prompt: Input should be a non-empty string or a list of token ids", param="prompt")
    return prompt


@dataclass(frozen=True, slots=True)
class Wanted:
    """A request understood. ``choices``: for each, its tokens; ``finish`` None is a fault's."""

    chat: bool
    stream: bool
    model: str
    prompt: str
    prompt_pieces: Sequence[str]
    prompt_ids: list[int]
    choices: Sequence[Sequence[str]]
    texts: Sequence[str]  # of each choice: what is shown, cut at a stop string
    finish: str | None
    stop_reason: str | None
    id: str
    created: int
    include_usage: bool
    usage: int | None  # completion tokens as told; None: not told
    echo: bool
    logprobs: int | None
    prompt_logprobs: int | None
    token_ids: bool
    hold: int  # characters held back while they may begin a stop string

    @property
    def total(self) -> int:
        """Tokens of the longest choice."""
        return max(len(each) for each in self.choices)


_KNOWN = frozenset((
    "model", "messages", "prompt", "max_tokens", "max_completion_tokens", "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed",
    "stop", "include_stop_str_in_output", "n", "stream", "stream_options", "echo", "logprobs", "top_logprobs", "prompt_logprobs",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "ignore_eos", "return_token_ids", "response_format", "user",
))  # fmt: skip
_REFUSED = ("tools", "functions", "logit_bias", "guided_json", "structured_outputs", "suffix", "allowed_token_ids", "bad_words")


def wanted(
    body: dict[str, Any], chat: bool, prompt: str, plan: Plan, names: Sequence[str], faults: Sequence[Fault], ordinal: int
) -> Wanted:
    """What the request asks for, with the faults that change what is said. Raises Refused as vLLM does."""
    for each in faults:
        if each.what == "ignored_options":
            body = {name: value for name, value in body.items() if name not in each.numbers["options"]}
    by_what = {each.what: each for each in faults}
    model = _get(body, "model", str, plan.model)
    if model not in names:
        raise Refused(404, f"The model `{model}` does not exist.", "NotFoundError", "model")
    if plan.strict and (unknown := sorted(set(body) - _KNOWN)):
        raise Refused(400, f"{unknown[0]} is not supported by this stub", param=unknown[0])
    for name in _REFUSED:
        if body.get(name):
            raise Refused(400, f"{name} is not supported by this stub", param=name)
    if (body.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise Refused(400, "response_format is not supported by this stub", param="response_format")
    stream = _get(body, "stream", bool, False)
    options = _get(body, "stream_options", dict, None)
    if options is not None and not stream:
        raise Refused(400, "Stream options can only be defined when `stream=True`.", param="stream_options")
    prompt_logprobs = _get(body, "prompt_logprobs", int, None, -1, 20)
    if prompt_logprobs is not None and stream:
        raise Refused(400, "`prompt_logprobs` are not available when `stream=True`.", param="prompt_logprobs")
    found = tokenize(prompt)
    ids = [token_id(piece) for piece in found]
    count = _lengths(body, chat, len(ids), plan)
    key = _key(body, ordinal)
    n = _get(body, "n", int, 1, 1, 128)
    natural = max(plan.service.tokens, _get(body, "min_tokens", int, 0, 0))
    total = count if _get(body, "ignore_eos", bool, False) else min(count, natural)
    finish: str | None = "length" if total == count else "stop"
    if (early := by_what.get("early_eos")) and early.numbers["tokens"] < total:
        total, finish = early.numbers["tokens"], "stop"
    choices = [pieces(prompt, key if i == 0 else f"{key}.{i}", total) for i in range(n)]
    if wrong := by_what.get("wrong_tokens"):
        after = wrong.after_frame
        choices = [each[:after] + pieces(prompt, f"wrong.{key}", total)[after:] for each in choices]
    stops = _stops(body)
    texts, choices, reason = _stopped(choices, stops, _get(body, "include_stop_str_in_output", bool, False))
    if reason is not None:
        finish = "stop"
    if "zero_tokens" in by_what:
        choices, texts, finish = [[] for _ in choices], ["" for _ in texts], "stop"
    if bare := by_what.get("no_finish"):
        finish = None
        if bare.after_frame:
            choices = [each[: bare.after_frame] for each in choices]
            texts = ["".join(each)[: len(text)] for each, text in zip(choices, texts, strict=True)]
    made = sum(map(len, choices))
    told: int | None = made + (by_what["wrong_usage"].numbers["by"] if "wrong_usage" in by_what else 0)
    if "no_usage" in by_what:
        told = None
    return Wanted(
        chat, stream, by_what["wrong_model"].numbers["model"] if "wrong_model" in by_what else model, prompt, found, ids, choices, texts,
        finish, reason, f"{'chatcmpl' if chat else 'cmpl'}-stub-{plan.seed}-{ordinal}", int(time.time()),
        bool(options and _get(options, "include_usage", bool, False)), told, _get(body, "echo", bool, False) and not chat,
        _logprobs(body, chat), prompt_logprobs, _get(body, "return_token_ids", bool, False),
        max((len(each) - 1 for each in stops), default=0),
    )  # fmt: skip


def _lengths(body: Mapping[str, Any], chat: bool, prompt: int, plan: Plan) -> int:
    room = plan.context - prompt
    asked = _get(body, "max_tokens", int, None, 1)
    if chat:
        asked = _get(body, "max_completion_tokens", int, asked, 1)
    if prompt >= plan.context or (asked is not None and asked > room):
        raise Refused(
            400,
            f"This model's maximum context length is {plan.context} tokens. However, you requested {asked or 1} output tokens and your "
            f"prompt contains {prompt} input tokens, for a total of {prompt + (asked or 1)} tokens. Please reduce the length of the input.",
            param="input_tokens",
        )
    return asked if asked is not None else (room if chat else min(16, room))


def _key(body: Mapping[str, Any], ordinal: int) -> str:
    """What the answer depends on beside the prompt: 0 where it is greedy, the seed where it is sampled."""
    temperature = _get(body, "temperature", (int, float), 0, 0, 2)
    seed = _get(body, "seed", int, None)
    top_p, top_k = _get(body, "top_p", (int, float), 1, 0, 1), _get(body, "top_k", int, 0, -1)
    if top_p == 0:
        raise Refused(400, "top_p must be in (0, 1], got 0", param="top_p")
    min_p = _get(body, "min_p", (int, float), 0, 0, 1)
    key = "0" if temperature == 0 or top_k == 1 or top_p < 0.01 or min_p == 1 else str(seed) if seed is not None else f"draw.{ordinal}"
    for name, low, high, none in (("presence_penalty", -2, 2, 0), ("frequency_penalty", -2, 2, 0), ("repetition_penalty", 0.01, 10, 1)):
        value = _get(body, name, (int, float), none, low, high)
        key += f".{name}={value}" if value != none else ""
    return key


def _logprobs(body: Mapping[str, Any], chat: bool) -> int | None:
    if not chat:
        value: int | None = _get(body, "logprobs", int, None, 0, 20)
        return value
    alternatives = _get(body, "top_logprobs", int, 0, 0, 20)
    if _get(body, "logprobs", bool, False):
        return int(alternatives)
    if alternatives:
        raise Refused(400, "when using `top_logprobs`, `logprobs` must be set to true.", param="top_logprobs")
    return None


def _stops(body: Mapping[str, Any]) -> list[str]:
    value = _get(body, "stop", (str, list), [])
    stops = [value] if isinstance(value, str) else value
    if not all(isinstance(each, str) and each for each in stops):
        raise Refused(400, "stop: each should be a non-empty string", param="stop")
    return list(stops)


def _stopped(choices: list[list[str]], stops: Sequence[str], include: bool) -> tuple[list[str], list[list[str]], str | None]:
    """Texts cut at the first stop string, the tokens it took to get there, and which it was (of the first choice)."""
    texts, cut, reason = [], [], None
    for i, tokens in enumerate(choices):
        text = "".join(tokens)
        hits = sorted((text.find(each) + len(each), each) for each in stops if each in text)
        if hits:
            end, each = hits[0]
            used = next(k for k in range(1, len(tokens) + 1) if len("".join(tokens[:k])) >= end)
            tokens, text = tokens[:used], text[: end if include else end - len(each)]
            reason = each if i == 0 else reason
        texts.append(text)
        cut.append(tokens)
    return texts, cut, reason
