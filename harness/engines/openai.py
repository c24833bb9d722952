"""Any server that speaks the OpenAI protocol over HTTP: vLLM, llama-server and others.

Requests go to the address that the user named and nowhere else: no redirects, no proxies. The key
is read from the environment, sent as a header, and kept out of every message.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from harness.engines.common import install
from harness.errors import ConfigError, EngineError, MissingNeed
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

__all__ = ["OpenAI"]

_MAX_REPLY = 64 << 20  # bytes; an answer with log-probabilities is far smaller


class OpenAI:
    """An Engine behind ``base_url`` (like ``http://127.0.0.1:8000/v1``).

    ``model`` is the name the server knows; None asks ``/models`` and takes the only one.
    ``api_key_env`` names the environment variable with the key; unset means no key is sent.
    ``concurrency`` requests are open at once: the server decides what it batches, so answers can
    differ in their last digits from run to run.

    Raises ConfigError for an address that is not http(s) or carries a password. The server is
    first asked when something is wanted from it.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 120,
        concurrency: int = 4,
    ) -> None:
        base_url = str(base_url)
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("base_url: expected an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ConfigError(f"base_url: no credentials in the address; put the key into ${api_key_env}")
        if concurrency < 1 or not timeout_s > 0:
            raise ConfigError(f"concurrency = {concurrency}, timeout_s = {timeout_s}: expected positive numbers")
        self.base_url, self.model = base_url.rstrip("/"), model
        self.timeout_s, self.concurrency = timeout_s, concurrency
        self._key = os.environ.get(api_key_env, "")
        self._closed = False

    # --- generation ------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        """Answers in the order given: messages through /chat/completions, text through /completions.

        A request that fails, times out or brings something else than an answer is a Generation with
        finish "error". Raises EngineError only if the server's model cannot be found out.
        """
        self._open()
        return _run(self._generate(list(prompts), sampling))

    async def _generate(self, prompts: list[Prompt], sampling: Sampling) -> list[Generation]:
        async with self._session() as session:
            model = await self._model_name(session)

            async def one(prompt: Prompt) -> Generation:
                path, body = _request(prompt, sampling, model)
                try:
                    return _generation(prompt, await self._post(session, path, body))
                except EngineError as error:
                    return Generation(prompt.id, "", "error", 0, 0, "", str(error))

            return await self._each(one, prompts)

    # --- scoring ---------------------------------------------------------------------------------

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        """Log-probabilities through /completions with ``echo`` and ``logprobs``.

        The protocol shows tokens as text, not as ids: TokenLogprobs.tokens are positions in the
        server's reply. A continuation begins with the first token that ends behind the context's
        last character; after an empty context the first token is context only.

        Raises EngineError for ``full`` distributions, which the protocol cannot carry, and for a
        server without echo.
        """
        self._open()
        for text in texts:
            if text.full:
                raise EngineError(
                    f"text {text.id!r}: whole distributions do not travel over the OpenAI protocol; "
                    "score the model's files with engine hf or llamacpp instead"
                )
        return _run(self._score(list(texts)))

    async def _score(self, texts: list[Scored]) -> list[TokenLogprobs]:
        async with self._session() as session:
            model = await self._model_name(session)

            async def one(whole: tuple[Scored, str]) -> tuple[tuple[int, ...], tuple[float, ...]]:
                text, continuation = whole
                if not continuation:
                    return (), ()
                body = {"model": model, "prompt": text.context + continuation, "max_tokens": 1, "temperature": 0}
                reply = await self._post(session, "/completions", {**body, "echo": True, "logprobs": 1})
                return _echoed(reply, text, continuation)

            pairs = [(text, continuation) for text in texts for continuation in text.continuations]
            scored = iter(await self._each(one, pairs))
        results = []
        for text in texts:
            mine = [next(scored) for _ in text.continuations]
            results.append(TokenLogprobs(text.id, tuple(t for t, _ in mine), tuple(p for _, p in mine)))
        return results

    # --- HTTP ------------------------------------------------------------------------------------

    def _session(self) -> Any:
        try:
            import aiohttp
        except ImportError as error:
            how = install("openai")
            raise MissingNeed("openai", "aiohttp cannot be imported", how) from error
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        timeout = aiohttp.ClientTimeout(total=self.timeout_s)
        return aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=False)

    async def _each(self, work: Callable[[Any], Awaitable[Any]], inputs: Sequence[Any]) -> list[Any]:
        """Results in the order of ``inputs``, ``concurrency`` of them at work at once."""
        gate = asyncio.Semaphore(self.concurrency)

        async def guarded(value: Any) -> Any:
            async with gate:
                return await work(value)

        return list(await asyncio.gather(*map(guarded, inputs)))

    async def _model_name(self, session: Any) -> str:
        if self.model is None:
            reply = await self._get(session, "/models")
            listed = reply.get("data")
            names = [m["id"] for m in listed if isinstance(m, dict) and isinstance(m.get("id"), str)] if isinstance(listed, list) else []
            if len(names) != 1:
                raise EngineError(f"{self.base_url}/models lists {names[:8]}; name one of them with model=")
            self.model = names[0]
        return self.model

    async def _get(self, session: Any, path: str) -> dict[str, Any]:
        return await self._exchange(session, "GET", path, None)

    async def _post(self, session: Any, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return await self._exchange(session, "POST", path, body)

    async def _exchange(self, session: Any, method: str, path: str, body: Any) -> dict[str, Any]:
        """The JSON object of a reply. Raises EngineError, without the key, for anything else."""
        import aiohttp

        url = self.base_url + path
        try:
            # a redirect could carry the key to an address that nobody named
            async with session.request(method, url, json=body, allow_redirects=False) as reply:
                data = await self._read(reply, url)
                status = reply.status
        except TimeoutError as error:
            raise EngineError(f"{url}: no reply within {self.timeout_s} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise EngineError(self._clean(f"{url}: {type(error).__name__}: {error}")) from error
        if status != 200:
            shown = data[:300].decode("utf-8", errors="replace")
            raise EngineError(self._clean(f"{url}: status {status}, expected 200: {shown}"))
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise EngineError(f"{url}: the reply is not JSON ({len(data)} bytes)") from error
        if not isinstance(value, dict):
            raise EngineError(f"{url}: the reply is {type(value).__name__}, expected a JSON object")
        return value

    async def _read(self, reply: Any, url: str) -> bytes:
        parts, size = [], 0
        async for part in reply.content.iter_chunked(1 << 16):
            size += len(part)
            if size > _MAX_REPLY:
                raise EngineError(f"{url}: the reply is larger than {_MAX_REPLY} bytes")
            parts.append(part)
        return b"".join(parts)

    def _clean(self, message: str) -> str:
        return message.replace(self._key, "***") if self._key else message

    # --- the rest of Engine ------------------------------------------------------------------------

    def describe(self) -> Mapping[str, str]:
        """The conditions of a measurement, without the key."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            client = version("aiohttp")
        except PackageNotFoundError:
            client = "absent"
        return {
            "engine": "openai",
            "version": f"aiohttp {client}",
            "base_url": self.base_url,
            "model": self.model or "the server's only one",
            "device": "the server's",
            "concurrency": str(self.concurrency),
            "timeout_s": str(self.timeout_s),
            "key": "sent" if self._key else "none",
            "policy": "the server decides what is computed together",
        }

    def close(self) -> None:
        """Nothing stays open between calls; safe to call twice."""
        self._closed = True

    def _open(self) -> None:
        if self._closed:
            raise EngineError(f"{self.base_url}: the engine is closed; open it again")


_T = TypeVar("_T")


def _run(work: Coroutine[Any, Any, _T]) -> _T:
    """Runs a coroutine, also where the caller already sits in an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _request(prompt: Prompt, sampling: Sampling, model: str) -> tuple[str, dict[str, Any]]:
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "seed": sampling.seed,
        "stream": False,
    }
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    if prompt.text is not None:
        return "/completions", {**body, "prompt": prompt.text}
    return "/chat/completions", {**body, "messages": [dict(message) for message in prompt.messages]}


def _generation(prompt: Prompt, reply: Mapping[str, Any]) -> Generation:
    choice = _choice(reply)
    text = choice.get("text") if prompt.text is not None else (choice.get("message") or {}).get("content")
    finish = choice.get("finish_reason")
    usage = reply.get("usage") if isinstance(reply.get("usage"), dict) else {}
    asked, made = (_count((usage or {}).get(key)) for key in ("prompt_tokens", "completion_tokens"))
    if not isinstance(text, str) or finish not in ("stop", "length"):
        kept = text if isinstance(text, str) else ""
        why = f"finish_reason {finish!r}, expected 'stop' or 'length'" if isinstance(text, str) else "no text"
        return Generation(prompt.id, kept, "error", asked, made, "", f"the server's answer is incomplete: {why}")
    return Generation(prompt.id, text, finish, asked, made)


def _choice(reply: Mapping[str, Any]) -> dict[str, Any]:
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise EngineError("the server's reply has no choices; expected an OpenAI completion")
    return choices[0]


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _echoed(reply: Mapping[str, Any], text: Scored, continuation: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Log-probabilities of the continuation's tokens out of an echoed prompt."""
    record = _choice(reply).get("logprobs")
    pieces, values = (record.get("tokens"), record.get("token_logprobs")) if isinstance(record, dict) else (None, None)
    if not isinstance(pieces, list) or not isinstance(values, list) or len(pieces) != len(values):
        raise EngineError(
            f"text {text.id!r}: the server sends no log-probabilities of the prompt; /completions with "
            "'echo' and 'logprobs' is needed (vLLM has it), or score the files with engine hf or llamacpp"
        )
    prompt = text.context + continuation
    # a beginning-of-sequence mark that the server adds is echoed too
    skip = next((n for n in (0, 1) if "".join(map(str, pieces[n:])).startswith(prompt)), None)
    if skip is None:
        raise EngineError(
            f"text {text.id!r}: the server's tokens do not spell the prompt: it does not support 'echo', or cannot "
            "show its tokens as text; score the files with engine hf or llamacpp instead"
        )
    return _scored(pieces, values, skip, (len(text.context), len(prompt)), text.id)


def _scored(
    pieces: Sequence[str], values: Sequence[Any], skip: int, span: tuple[int, int], name: str
) -> tuple[tuple[int, ...], tuple[float, ...]]:
    tokens, logprobs, place = [], [], 0
    for index in range(skip, len(pieces)):
        start, place = place, place + len(pieces[index])
        if start >= span[1] or place <= span[0] or index == 0:  # behind, before, or with nothing before it
            continue
        value = values[index]
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise EngineError(f"text {name!r}: token {index} has log-probability {value!r}, expected a finite number")
        tokens.append(index)
        logprobs.append(float(value))
    return tuple(tokens), tuple(logprobs)
