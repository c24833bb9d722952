"""Whoever reads a stream and says whether it is whole: our client, the HTTP engine, the official SDK, and one that believes all.

A layer is given a server, the body of a request and the seconds it may wait; it gives the text that it presents as a
complete answer, or None.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from harness.engines.openai import OpenAI
from harness.errors import MissingNeed
from harness.serve.exchange import CHAT, exchange, frames, post
from harness.serve.load import ask
from harness.serve.target import Target
from harness.types import Prompt, Sampling

Layer = Callable[[Target, Mapping[str, Any], float], str | None]


def client(target: Target, body: Mapping[str, Any], limit_s: float) -> str | None:
    """harness.serve.load.client, by the rule of harness.engines.sse."""
    answer = ask(target, [body], limit_s=limit_s)[0]
    return answer.text if answer.complete else None


def engine(target: Target, body: Mapping[str, Any], limit_s: float) -> str | None:
    """harness.engines.openai, which reads answers that are not streamed."""
    opened = OpenAI(f"{target.base_url}/v1", model=target.model, timeout_s=limit_s)
    prompt = Prompt("one", messages=tuple(body["messages"]))
    answer = opened.generate([prompt], sampling=Sampling(max_tokens=body["max_tokens"]))[0]
    opened.close()
    return None if answer.finish == "error" else answer.text


def sdk(target: Target, body: Mapping[str, Any], limit_s: float) -> str | None:
    """The official client as its documentation reads streams: what it does not raise for is presented. MissingNeed where it is absent."""
    try:
        import openai
    except ImportError as error:
        raise MissingNeed("openai", "the official client cannot be imported", "pip install openai") from error
    with openai.OpenAI(base_url=f"{target.base_url}/v1", api_key=target.key or "none", max_retries=0, timeout=limit_s) as official:
        try:
            stream = official.chat.completions.create(model=target.model, stream=True, **body)
            return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        except (openai.OpenAIError, ValueError, OSError):
            return None
        except Exception as error:  # its transport's own errors reach the user as they are
            if type(error).__module__.partition(".")[0] in ("httpx", "httpx2", "httpcore", "httpcore2"):
                return None
            raise


def believer(target: Target, body: Mapping[str, Any], limit_s: float) -> str | None:
    """Joins whatever came: the layer that must be caught."""
    reply = exchange(target, post(CHAT, {**body, "model": target.model, "stream": True}), limit_s=limit_s)
    text = ""
    for data in frames(reply.body):
        try:
            chunk = json.loads(data)
        except ValueError:
            continue
        text += "".join(choice.get("delta", {}).get("content") or "" for choice in chunk.get("choices", ()))
    return text


LAYERS: Mapping[str, Layer] = {"client": client, "engine": engine, "sdk": sdk}
