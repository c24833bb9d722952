"""Streams of server-sent events, and the rule that says when an answer over the OpenAI protocol is complete.

``data: [DONE]`` proves nothing, a finish reason alone neither: a server that loses its engine in the middle of an answer
sends an error frame, then ``[DONE]``, with status 200. So an answer is complete only if everything that a whole one has is
there (``completeness``), and a proper prefix of a whole one never is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from typing import Any

__all__ = ["DONE", "Expect", "Reply", "completeness", "loads", "split"]

DONE = b"[DONE]"
FINISHES = ("stop", "length", "tool_calls", "function_call", "content_filter")


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _decoder() -> Callable[[bytes], Any]:
    """The fastest strict JSON decoder that is installed."""
    try:
        import msgspec

        fast: Callable[[bytes], Any] = msgspec.json.Decoder().decode
        return fast
    except ImportError:
        decode = json.JSONDecoder(parse_constant=_refuse).decode
        return lambda data: decode(data.decode("utf-8"))


_decode: Callable[[bytes], Any] | None = None


def loads(data: bytes) -> Any:
    """The value of a JSON text. ValueError for anything else, NaN and broken UTF-8 included."""
    global _decode
    if _decode is None:
        _decode = _decoder()
    try:
        return _decode(data)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


# --- frames -------------------------------------------------------------------------------------------

_LINE = re.compile(rb"\r\n|\n|\r")
_BLANK = re.compile(rb"(?:\r\n|\n|\r(?!\n|\Z)){2}")  # a CR that comes last may be half of a line's end


def split(body: bytes) -> tuple[list[bytes], list[int], bytes]:
    """The ``data`` of each frame, the offset just behind it, and what is left that no blank line ends.

    Lines end in LF, CRLF or CR; comments and other fields are skipped; several ``data`` lines of a frame are joined by LF; a
    frame without any is none.
    """
    if body[:6] == b"data: " and body[-2:] == b"\n\n" and b"\r" not in body:
        payloads = body[6:-2].split(b"\n\ndata: ")
        if body.count(b"\n") == 2 * len(payloads):  # one line each: what servers of models send
            return payloads, [*accumulate(len(payload) + 8 for payload in payloads)], b""
    payloads, ends, at = [], [], 0
    if b"\r" not in body:
        pieces = body.split(b"\n\n")
        rest = pieces.pop()
        for piece in pieces:
            at += len(piece) + 2
            if (payload := _payload(piece.split(b"\n"))) is not None:
                payloads.append(payload)
                ends.append(at)
        return payloads, ends, rest
    for blank in _BLANK.finditer(body):
        if (payload := _payload(_LINE.split(body[at : blank.start()]))) is not None:
            payloads.append(payload)
            ends.append(blank.end())
        at = blank.end()
    return payloads, ends, body[at:]


def _payload(lines: Sequence[bytes]) -> bytes | None:
    data = [line[5:].removeprefix(b" ") if line[4:5] else b"" for line in lines if line == b"data" or line[:5] == b"data:"]
    return b"\n".join(data) if data else None


# --- what was asked, what came ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expect:
    """What a complete answer to a request must be. ``usage``: it was asked for; ``model``: if given, what frames must name."""

    stream: bool = True
    max_tokens: int | None = None
    ignore_eos: bool = False
    usage: bool = True
    model: str = ""
    choices: int = 1

    @classmethod
    def of(cls, body: bytes, *, model: str = "") -> Expect:
        """As the request's own body says. ValueError if it is no JSON object."""
        said = loads(body)
        if not isinstance(said, dict):
            raise ValueError(f"a request's body is {type(said).__name__}, expected a JSON object")
        stream = said.get("stream") is True
        limit, n = said.get("max_completion_tokens", said.get("max_tokens")), said.get("n")
        options = said.get("stream_options")
        usage = not stream or (isinstance(options, dict) and options.get("include_usage") is True)
        return cls(stream, _whole(limit), said.get("ignore_eos") is True, usage, model, _whole(n) or 1)


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@dataclass(slots=True)
class Reply:
    """What became of an answer. ``why``: the finish reason if ``outcome`` is "complete", else a cause (harness.records.CAUSES).

    ``outputs`` are the indices of the frames with output; ``text`` is that of the first choice; ``detail`` says what was
    found, in words.
    """

    outcome: str = ""
    why: str = ""
    detail: str = ""
    finish: str = ""
    text: bytes = b""
    usage: dict[str, Any] | None = None
    model: str = ""  # that the answer names
    outputs: list[int] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int | None:
        return _count(self.usage, "prompt_tokens")

    @property
    def tokens(self) -> int | None:
        return _count(self.usage, "completion_tokens")


def _count(usage: dict[str, Any] | None, key: str) -> int | None:
    value = _whole((usage or {}).get(key))
    return value if value is not None and 0 <= value < 1 << 32 else None


class _Wrong(Exception):
    """outcome, cause, sentence"""


def completeness(status: int, body: bytes, ended: str, expect: Expect) -> tuple[Reply, list[int]]:
    """What became of an answer, and the offset behind each of its frames.

    ``ended`` is how the body did: "whole" (terminating chunk or Content-Length reached), "fin" (closed before that), "reset",
    "limit" (not within the time it was waited for), "cancelled" (closed by ourselves), "malformed" (not HTTP). Complete are
    only: status 200 and a whole body; valid JSON throughout, one id, no error frame, nothing behind the terminator; a finish
    reason for each choice, then ``[DONE]``; at least one output token; usage, if asked for, that agrees with max_tokens and is not
    below the frames with output. The causes of an end too early come before those of its consequences.
    """
    reply = Reply()
    ends: list[int] = []
    try:
        _status(status, body, ended, expect)
        if expect.stream:
            payloads, ends, rest = split(body)
            _stream(reply, payloads, rest, ended, expect)
            _utf8(body)
        else:
            _single(reply, body, ended, expect)
        _tokens(reply, expect)
    except _Wrong as wrong:
        reply.outcome, reply.why, reply.detail = wrong.args
    else:
        reply.outcome, reply.why = "complete", reply.finish
    return reply, ends


_CUT = {
    "reset": ("truncated_detected", "reset", "the connection was reset"),
    "cancelled": ("truncated_detected", "cancelled", "closed by the client, as planned"),
    "malformed": ("error", "malformed_http", "the response is no HTTP/1.1 message"),
}


def _status(status: int, body: bytes, ended: str, expect: Expect) -> None:
    if ended in ("malformed", "cancelled") or (ended == "reset" and not status):
        raise _Wrong(*_CUT[ended])
    if status in (429, 503):
        raise _Wrong("error", "shed", f"status {status}: {_shown(body)}")
    if status and status != 200:
        raise _Wrong("error", "http_error", f"status {status}: {_shown(body)}")
    if ended == "limit" and (not body or not expect.stream):
        raise _Wrong("never_ended", "never_ended", f"{len(body)} bytes of an answer within the time it was waited for")
    if ended == "fin" and not body:
        raise _Wrong("truncated_detected", "truncated", "the connection was closed before an answer")


def _shown(body: bytes) -> str:
    return body[:300].decode("utf-8", "replace")


def _utf8(body: bytes) -> None:
    try:
        body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _Wrong("error", "malformed_sse", f"byte {error.start} is no UTF-8") from None


# --- a stream -----------------------------------------------------------------------------------------


class _Reader:
    """Reads the frames of one answer. Those that differ from an earlier one in plain text alone are not decoded again."""

    def __init__(self, reply: Reply, expect: Expect) -> None:
        self.reply, self.expect = reply, expect
        self.id: Any = None
        self.finishes: dict[int, str] = {}
        self.choices: set[int] = set()
        self.texts: list[bytes] = []
        self.tools: set[int] = set()
        self.prefix = self.suffix = b""
        self.own: set[int] = set()  # texts that were decoded
        self.learns = True

    def read(self, payloads: Sequence[bytes]) -> None:
        """All frames before the terminator."""
        self._read(payloads)
        if _CONTROL(b"".join([text for at, text in enumerate(self.texts) if at not in self.own])):
            again = _Reader(self.reply, self.expect)  # a raw control character is no JSON: which frame was it?
            again.learns = False
            self.reply.outputs.clear()
            again._read(payloads)

    def _read(self, payloads: Sequence[bytes]) -> None:
        texts, outputs = self.texts, self.reply.outputs
        prefix, suffix, start, end, least = b"", b"", 0, 0, 0
        for index, payload in enumerate(payloads):
            if least and payload.startswith(prefix) and payload.endswith(suffix) and len(payload) > least:
                text = payload[start:end]
                if b"\\" not in text and b'"' not in text:
                    texts.append(text)
                    outputs.append(index)
                    continue
            self._decoded(index, payload)
            prefix, suffix = self.prefix, self.suffix
            start, end, least = len(prefix), -len(suffix), len(prefix) + len(suffix)

    def _decoded(self, index: int, payload: bytes) -> None:
        try:
            frame = loads(payload)
        except ValueError as error:
            raise _Wrong("error", "malformed_sse", f"frame {index} is not JSON ({error}): {_shown(payload[:80])}") from None
        if isinstance(frame, dict) and frame.get("error") is not None:
            raise _Wrong("error", "error_frame", f"frame {index}: {_shown(payload)}")
        choices = frame.get("choices") if isinstance(frame, dict) else None
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise _Wrong("error", "malformed_sse", f"frame {index} has no list of choices: {_shown(payload[:80])}")
        if self.id is None:
            self.id = frame.get("id")
            self.reply.model = str(frame.get("model") or "")[:200]
        if frame.get("id") != self.id:
            raise _Wrong("error", "malformed_sse", f"frame {index} is of answer {frame.get('id')!r}, the first one of {self.id!r}")
        if self.expect.model and frame.get("model") != self.expect.model:
            raise _Wrong("error", "wrong_model", f"frame {index} is of model {frame.get('model')!r}, expected {self.expect.model!r}")
        if isinstance(frame.get("usage"), dict):
            self.reply.usage = frame["usage"]
        if [self._choice(choice) for choice in choices].count(True):
            self.reply.outputs.append(index)
            self._learn(payload, choices)

    def _choice(self, choice: dict[str, Any]) -> bool:
        """Takes in a choice; whether it carries output."""
        number = _whole(choice.get("index")) or 0
        delta = choice.get("delta")
        delta = delta if isinstance(delta, dict) else {}
        text = delta.get("content") if "text" not in choice else choice["text"]
        self.choices.add(number)
        if choice.get("finish_reason") is not None:
            self.finishes[number] = str(choice["finish_reason"])
        if delta.get("tool_calls") or delta.get("function_call"):
            self.tools.add(number)
        if number == 0 and isinstance(text, str) and text:
            self.own.add(len(self.texts))
            self.texts.append(_encoded(text))
        return bool(text or choice.get("token_ids")) or any(map(delta.get, _OUTPUTS))

    def _learn(self, payload: bytes, choices: list[dict[str, Any]]) -> None:
        choice = choices[0]
        if not self.learns or len(choices) > 1 or choice.get("finish_reason") is not None or choice.get("index", 0) or not self.texts:
            return
        for key in (b'"content":"', b'"text":"'):
            start, _, rest = payload.partition(key)
            middle, quote, tail = rest.partition(b'"')
            if quote and middle == self.texts[-1] and _PLAIN(middle) and payload.count(key) == 1 and not choice.get("token_ids"):
                self.prefix, self.suffix = start + key, quote + tail
                return


_PLAIN = re.compile(rb'[^"\\\x00-\x1f]+').fullmatch
_CONTROL = re.compile(rb"[\x00-\x1f]").search
_OUTPUTS = ("reasoning_content", "reasoning", "tool_calls", "function_call", "refusal")


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise _Wrong("error", "malformed_sse", "half of a surrogate pair in the text") from None


def _stream(reply: Reply, payloads: list[bytes], rest: bytes, ended: str, expect: Expect) -> None:
    reader = _Reader(reply, expect)
    try:
        done = payloads.index(DONE)
    except ValueError:
        done = len(payloads)
    try:
        reader.read(payloads[:done])
    finally:
        reply.text = b"".join(reader.texts)
        reply.finish = reader.finishes.get(0, "")
    if len(payloads) > done + 1 or (done < len(payloads) and rest.strip()):
        raise _Wrong("error", "malformed_sse", "something follows data: [DONE]")
    terminated = done < len(payloads)
    _end(reader, terminated, rest, ended)
    _duplicates(reply, payloads, len(reader.tools))


def _end(reader: _Reader, terminated: bool, rest: bytes, ended: str) -> None:
    """Whether the stream went to its end; the earliest thing that is missing names the cause."""
    finished = bool(reader.finishes) and set(reader.finishes) >= reader.choices and len(reader.finishes) >= reader.expect.choices
    if ended == "reset":
        raise _Wrong(*_CUT["reset"])
    if ended == "limit" and not (terminated and finished):
        raise _Wrong("timeout", "stalled", f"{len(reader.reply.outputs)} frames with output, then no end within the limit")
    unknown = [reason for reason in reader.finishes.values() if reason not in FINISHES]
    if unknown:
        raise _Wrong("error", "no_finish_reason", f"finish_reason {unknown[0]!r}, expected one of {', '.join(FINISHES)}")
    if rest.strip() and not terminated and ended == "whole":
        raise _Wrong("error", "malformed_sse", f"the last frame has no blank line behind it: {_shown(rest[:80])}")
    if terminated and not reader.reply.outputs and not finished:
        raise _Wrong("error", "zero_tokens", "data: [DONE] without output")
    if terminated and not finished:
        raise _Wrong("truncated_detected", "no_finish_reason", "data: [DONE] although a choice has no finish_reason")
    if not finished:
        raise _Wrong("truncated_detected", "truncated", f"{len(reader.reply.outputs)} frames with output, then no more")
    if not terminated or ended != "whole":
        raise _Wrong("truncated_detected", "no_terminator", "a finish_reason, and no proper end behind it")


def _duplicates(reply: Reply, payloads: list[bytes], flushes: int) -> None:
    """More frames with output than tokens: chunks came twice if neighbours are equal, else the usage is wrong."""
    if reply.tokens is None or len(reply.outputs) <= reply.tokens + flushes or not reply.tokens:
        return
    excess = len(reply.outputs) - reply.tokens - flushes
    twice = sum(payloads[a] == payloads[b] for a, b in pairwise(reply.outputs))
    cause = "duplicate_frames" if twice >= excess else "usage_mismatch"
    raise _Wrong("error", cause, f"{len(reply.outputs)} frames with output, {twice} equal to the one before; usage says {reply.tokens}")


# --- a single object ----------------------------------------------------------------------------------


def _single(reply: Reply, body: bytes, ended: str, expect: Expect) -> None:
    if ended == "reset":
        raise _Wrong(*_CUT["reset"])
    if ended != "whole":
        raise _Wrong("truncated_detected", "truncated", f"{len(body)} bytes, then the connection was closed")
    try:
        answer = loads(body)
    except ValueError as error:
        raise _Wrong("error", "malformed_http", f"the body is not JSON ({error}): {_shown(body[:80])}") from None
    if isinstance(answer, dict) and answer.get("error") is not None:
        raise _Wrong("error", "error_frame", _shown(body))
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise _Wrong("error", "malformed_http", f"no list of choices: {_shown(body[:80])}")
    reply.model = str(answer.get("model") or "")[:200]
    if expect.model and answer.get("model") != expect.model:
        raise _Wrong("error", "wrong_model", f"the answer is of model {answer.get('model')!r}, expected {expect.model!r}")
    reply.usage = answer["usage"] if isinstance(answer.get("usage"), dict) else None
    if not choices:
        raise _Wrong("error", "zero_tokens", "no choices")
    message = choices[0].get("message")
    message = message if isinstance(message, dict) else {}
    text = choices[0].get("text", message.get("content"))
    reply.text = _encoded(text) if isinstance(text, str) else b""
    reasons = [str(choice.get("finish_reason")) for choice in choices]
    wrong = [reason for reason in reasons if reason not in FINISHES]
    if wrong:
        raise _Wrong("error", "no_finish_reason", f"finish_reason {wrong[0]!r}, expected one of {', '.join(FINISHES)}")
    reply.finish = reasons[0]
    if text or any(map(message.get, _OUTPUTS)) or choices[0].get("token_ids"):
        reply.outputs.append(0)


# --- tokens -------------------------------------------------------------------------------------------


def _tokens(reply: Reply, expect: Expect) -> None:
    tokens, limit = reply.tokens, expect.max_tokens
    if not reply.outputs:
        raise _Wrong("error", "zero_tokens", "an answer without a token of output")
    if expect.usage and (tokens is None or reply.prompt_tokens is None):
        raise _Wrong("error", "usage_mismatch", f"usage is {reply.usage!r}, expected prompt_tokens and completion_tokens")
    if tokens is None:
        return
    if not tokens:
        raise _Wrong("error", "usage_mismatch", f"{len(reply.outputs)} frames with output, usage says 0 tokens")
    if limit is None or expect.choices > 1:
        return
    if tokens > limit:
        raise _Wrong("error", "usage_mismatch", f"usage says {tokens} tokens, at most {limit} were asked for")
    if expect.ignore_eos and tokens < limit:
        raise _Wrong("error", "early_eos", f"{tokens} tokens although ignore_eos asked for {limit}")
    if reply.finish == "length" and tokens < limit:
        raise _Wrong("error", "usage_mismatch", f"finish_reason length after {tokens} of {limit} tokens")
