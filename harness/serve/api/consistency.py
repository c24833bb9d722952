"""Whether a server's answers agree with each other and with the tokenizer: usage, streams, the chat template, lists of prompts.

``collect`` asks and counts with the reference's tokenizer; ``samples`` compares what was kept, without either.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from harness.serve.exchange import CHAT, TEXT, Reply, Send, exchange, frames, post
from harness.serve.target import Target
from harness.types import Prompt, Sample

__all__ = ["RECIPE", "Tokenizer", "collect", "samples"]

RECIPE = 1  # counted up when a request is another: what is kept is then asked again


class Tokenizer(Protocol):
    """The reference's: ids of a text, and the prompt that its template makes of messages (harness.engines.hf)."""

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that messages become."""
        ...


def collect(
    target: Target,
    prompts: Iterable[Prompt],
    tokenizer: Tokenizer,
    *,
    max_tokens: tuple[int, int] = (8, 48),
    limit_s: float = 60.0,
    send: Send = exchange,
) -> list[dict[str, Any]]:
    """For each prompt of messages three greedy answers: whole, streamed, and to the rendered prompt's ids; and one to all prompts at once.

    Every other one with the smaller of ``max_tokens``, which no answer should fit into: the end mark is not in question there.
    JSON rows. Each answer: status, text, finish, asked and made (tokens by usage); or ``error``, what came instead.
    """
    found, lists = [], []
    for i, prompt in enumerate(prompts):
        common = {"model": target.model, "max_tokens": max_tokens[i % 2], "temperature": 0}
        ids = tokenizer.tokenize(tokenizer.render(prompt.messages), add_special=False)
        body = {**common, "messages": [dict(message) for message in prompt.messages]}
        whole = _whole(send(target, post(CHAT, body), limit_s=limit_s))
        streamed = _streamed(send(target, post(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}}), limit_s=limit_s))
        rendered = _whole(send(target, post(TEXT, {**common, "prompt": ids}), limit_s=limit_s))
        tokens = len(tokenizer.tokenize(whole.get("text", ""), add_special=False))
        if whole.get("made", tokens) not in (tokens, tokens + 1):  # tokens that are not those of the text, read back
            tokens = _scored(send(target, post(CHAT, {**body, "logprobs": True}), limit_s=limit_s), whole, tokens)
        found.append({"item": prompt.id, "ids": len(ids), "tokens": tokens, "whole": whole, "streamed": streamed, "rendered": rendered})
        lists.append(ids)
    together = send(target, post(TEXT, {"model": target.model, "prompt": lists, "max_tokens": 1, "temperature": 0}), limit_s=limit_s)
    return [*found, {"item": "all prompts at once", "ids": sum(map(len, lists)), "count": len(lists), "together": _together(together)}]


def _whole(reply: Reply) -> dict[str, Any]:
    try:
        value = reply.json
        choice, usage = value["choices"][0], value["usage"]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        return {"text": text or "", "finish": choice["finish_reason"], "asked": usage["prompt_tokens"], "made": usage["completion_tokens"]}
    except (TypeError, KeyError, IndexError):
        return {"error": reply.shown()}


def _streamed(reply: Reply) -> dict[str, Any]:

    try:
        chunks = [json.loads(data) for data in frames(reply.body) if data != "[DONE]"]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        usage = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        finish = [choice.get("finish_reason") for choice in choices]
        return {"text": text, "finish": finish[-1], "asked": usage["prompt_tokens"], "made": usage["completion_tokens"]}
    except (ValueError, TypeError, KeyError, IndexError, StopIteration):
        return {"error": reply.shown()}


def _scored(reply: Reply, whole: Mapping[str, Any], otherwise: int) -> int:
    """How many tokens of the answer carry a log-probability, if they spell it: what was made, not what its text would be read as."""
    try:
        pieces = [each["token"] for each in reply.json["choices"][0]["logprobs"]["content"]]
    except (TypeError, KeyError, IndexError):
        return otherwise
    ends = "".join(pieces[:-1]) == whole["text"]  # the end mark is shown too
    return len(pieces) - 1 if ends else len(pieces) if "".join(pieces) == whole["text"] else otherwise


def _together(reply: Reply) -> dict[str, Any]:
    if 400 <= reply.status < 500:
        return {"refused": reply.shown()}
    try:
        value = reply.json
        return {"indices": [choice["index"] for choice in value["choices"]], "asked": value["usage"]["prompt_tokens"]}
    except (TypeError, KeyError):
        return {"error": reply.shown()}


# --- comparing ----------------------------------------------------------------------------------------


def samples(rows: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    """A Sample for each thing that must agree, with what was found and what was expected; 1 where it does.

    Whether the mark that ends an answer counts as a token is a server's to choose, but once: for all answers alike.
    """
    mine = [row for row in rows if "whole" in row]
    over = Counter(row["whole"]["made"] - row["tokens"] for row in mine if row["whole"].get("finish") == "stop")
    end = max((count, mark) for mark, count in over.items() if mark in (0, 1))[1] if {0, 1} & set(over) else 1
    found = [sample for row in mine for sample in _of_prompt(row, end)]
    for row in rows:
        if "together" in row:
            wanted = {"indices": list(range(row["count"])), "asked": row["ids"]}
            fits = row["together"] == wanted or "refused" in row["together"]
            found.append(_sample(row["item"], "list", row["together"], wanted, fits))
    return tuple(found)


def _of_prompt(row: Mapping[str, Any], end: int) -> Iterable[Sample]:
    whole, item = row["whole"], row["item"]
    if "error" in whole:
        yield _sample(item, "answer", whole["error"], "an answer", False)
        return
    yield _sample(item, "finish", whole["finish"], "stop or length", whole["finish"] in ("stop", "length"))
    made = row["tokens"] + (end if whole["finish"] == "stop" else 0)
    yield _sample(item, "prompt_tokens", whole["asked"], row["ids"])
    yield _sample(item, "completion_tokens", whole["made"], made)
    yield _sample(item, "streamed", row["streamed"], whole)
    yield _sample(item, "rendered", row["rendered"], whole)


def _sample(item: str, what: str, found: Any, expected: Any, fits: bool | None = None) -> Sample:
    right = found == expected if fits is None else fits
    return Sample(f"{item}:{what}", float(right), detail={"found": found, "expected": expected})
