"""Asking a server for all it shows of a model: its token ids, its greedy answers, its log-probabilities.

Fields of vLLM and of llama.cpp's server are asked for at once, and what comes is taken: a server that shows less is judged
by less, and one that shows too little is not judged (``harness.serve.parity``). One request at a time: no company.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from harness.serve.exchange import exchange, post
from harness.serve.load import Answer, ask
from harness.serve.parity.expected import Expected, Said
from harness.serve.target import Target

__all__ = ["greedy_body", "hear"]


def hear(target: Target, expected: Sequence[Expected], *, max_tokens: int, limit_s: float = 60.0) -> list[Said]:
    """What the server says to each prompt, greedily.

    Prompt ids by ``return_token_ids``, else ``/apply-template`` and ``/tokenize``; the answer with the log-probabilities of its
    tokens; its text's tokens by ``/tokenize`` where it differs from the reference's; the log-probabilities of the
    reference's answer by ``prompt_logprobs``.
    """
    answers = ask(target, [greedy_body(target, e, max_tokens) for e in expected], stream=False, limit_s=limit_s)
    said = [_more(target, e, _said(e, answer)) for e, answer in zip(expected, answers, strict=True)]
    fields = {"model": target.model, "temperature": 0, "seed": 0, "stream": False, "max_tokens": 1, "prompt_logprobs": 0}
    bodies = [_body({**fields, "prompt": [*e.prompt, *e.tokens]}) for e in expected]
    scored: list[tuple[float, ...] | None] = []
    for e, body in zip(expected, bodies, strict=True):
        scored += [_scored(e, answer) for answer in ask(target, [body], chat=False, stream=False, limit_s=limit_s)]
        if scored == [None]:  # a server that cannot score a prompt is asked once
            return said
    return [replace(s, scored=values) for s, values in zip(said, scored, strict=True)]


def greedy_body(target: Target, expected: Expected, max_tokens: int) -> bytes:
    """The request for a greedy answer that shows its tokens."""
    fields = {"model": target.model, "temperature": 0, "seed": 0, "stream": False, "max_tokens": max_tokens}
    shown = {"logprobs": True, "return_token_ids": True}
    return _body({**fields, **shown, "messages": [dict(m) for m in expected.messages]})


def _body(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def _said(expected: Expected, answer: Answer) -> Said:
    if answer.outcome != "complete":
        return Said(expected.id, answer.text, error=f"{answer.outcome}: {answer.why}")
    reply = _object(answer.json)
    choice = (reply.get("choices") or [{}])[0]
    shown = (choice.get("logprobs") or {}).get("content") or []
    listed = choice.get("token_ids") or [piece.get("id") for piece in shown]
    tokens = tuple(listed) if listed and all(isinstance(token, int) for token in listed) else None
    own = tuple(float(piece["logprob"]) for piece in shown) if shown else None
    if tokens and tokens[-1] == expected.end:
        tokens = tokens[:-1]
    prompt = reply.get("prompt_token_ids")
    count = (reply.get("usage") or {}).get("prompt_tokens")
    return Said(expected.id, answer.text, None if prompt is None else tuple(prompt), count, tokens, own)


def _scored(expected: Expected, answer: Answer) -> tuple[float, ...] | None:
    """The log-probabilities of the reference's answer out of those of the whole prompt; None where the server shows none."""
    choice = (_object(answer.json).get("choices") or [{}])[0] if answer.status == 200 else {}
    shown = choice.get("prompt_logprobs")
    tokens = (*expected.prompt, *expected.tokens)
    if not isinstance(shown, list) or len(shown) != len(tokens):
        return None
    places = list(zip(tokens, shown, strict=True))[len(expected.prompt) :]
    if not all(isinstance(place, dict) and str(token) in place for token, place in places):
        return ()  # it scored other tokens than it was given
    return tuple(float(place[str(token)]["logprob"]) for token, place in places)


def _more(target: Target, expected: Expected, said: Said) -> Said:
    """With what only other endpoints show: the prompt as llama.cpp's chat endpoint reads it, another answer's tokens."""
    if said.error:
        return said
    if said.prompt is None:
        rendered = _told(target, "/apply-template", {"messages": [dict(m) for m in expected.messages]}).get("prompt")
        said = replace(said, prompt=_tokens(target, rendered, special=True)) if isinstance(rendered, str) else said
    return said if said.text == expected.text else replace(said, read=_tokens(target, said.text, special=False))


def _tokens(target: Target, text: str, *, special: bool) -> tuple[int, ...] | None:
    """The ids of a text; ``special`` with the marks that the server puts before a prompt. None without such an endpoint."""
    asked = {"model": target.model, "prompt": text, "content": text, "add_special_tokens": special, "add_special": special}
    tokens = _told(target, "/tokenize", asked).get("tokens")
    return tuple(tokens) if isinstance(tokens, list) else None


def _told(target: Target, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
    """The JSON object that an endpoint answers with; empty for anything else."""
    reply = exchange(target, post(path, body), limit_s=10.0)
    return _object(reply.json) if reply.status == 200 else {}


def _object(value: Any) -> Mapping[str, Any]:
    """A JSON object; empty for anything else."""
    return value if isinstance(value, dict) else {}
