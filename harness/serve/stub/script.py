"""How a stub answers: the script of an answer, written as vLLM writes it, and then spoilt as the plan says."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from harness.serve.stub.answers import logprob, pieces, token_id, top
from harness.serve.stub.plan import Fault, Plan
from harness.serve.stub.request import Refused, Wanted
from harness.serve.stub.wire import head

__all__ = ["Fast", "Step", "plain", "write"]

_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


class Step(NamedTuple):
    """Done when ``needs`` tokens are made: write ``data``, sleep (None: for good), or end by fin, rst, exit or plainly."""

    needs: int
    what: str
    data: Any
    tokens: int = 0
    output: int = 0  # frames in it in which a client sees text


def _entry(w: Wanted, before: str, piece: str) -> tuple[str, float, list[tuple[str, float]]]:
    return piece, logprob(before, piece), top(before, piece, w.logprobs or 0)


def _shown_logprobs(w: Wanted, choice: int, start: int, end: int, echo: bool) -> dict[str, Any] | None:
    """Of the tokens ``start`` to ``end`` of a choice, with the prompt's before them where it is echoed."""
    if w.logprobs is None:
        return None
    own, prompt = list(w.choices[choice]), list(w.prompt_pieces)
    chain = prompt + own
    rows = [_entry(w, chain[at - 1] if at else "", chain[at]) for at in range(len(prompt) + start, len(prompt) + end)]
    if w.chat:
        content = []
        for piece, value, others in rows:
            tops = [{"token": p, "logprob": v, "bytes": list(p.encode())} for p, v in others]
            content.append({"token": piece, "logprob": value, "bytes": list(piece.encode()), "top_logprobs": tops})
        return {"content": content}
    if echo:
        rows = [_entry(w, prompt[at - 1], prompt[at]) for at in range(1, len(prompt))] + rows
    tokens: list[Any] = [piece for piece, _, _ in rows]
    values: list[Any] = [value for _, value, _ in rows]
    tops_: list[Any] = [dict(others) if others else None for _, _, others in rows]
    if echo:
        tokens, values, tops_ = [prompt[0], *tokens], [None, *values], [None, *tops_]
    place = 0 if echo else sum(map(len, own[:start])) + (len(w.prompt) if w.echo else 0)
    offsets = []
    for piece in tokens:
        offsets.append(place)
        place += len(piece)
    return {"text_offset": offsets, "token_logprobs": values, "tokens": tokens, "top_logprobs": tops_}


def _prompt_logprobs(w: Wanted) -> list[Any]:
    rows: list[Any] = [None]
    for before, piece in zip(w.prompt_pieces, w.prompt_pieces[1:], strict=False):
        rows.append(
            {
                str(token_id(p)): {"logprob": v, "rank": rank + 1, "decoded_token": p}
                for rank, (p, v) in enumerate(top(before, piece, max(1, w.prompt_logprobs or 0)))
            }
        )
    return rows


def _usage(w: Wanted) -> dict[str, Any] | None:
    if w.usage is None:
        return None
    asked = len(w.prompt_ids)
    return {"prompt_tokens": asked, "total_tokens": asked + w.usage, "completion_tokens": w.usage, "prompt_tokens_details": None}


def _frame(value: Mapping[str, Any]) -> bytes:
    return f"data: {_dumps(value)}\n\n".encode("utf-8", "surrogatepass")


def whole(w: Wanted) -> bytes:
    """The body of an answer that is not streamed."""
    choices = []
    for i, (tokens, text) in enumerate(zip(w.choices, w.texts, strict=True)):
        choice: dict[str, Any] = {"index": i}
        if w.chat:
            choice["message"] = {"role": "assistant", "content": text, "refusal": None, "tool_calls": []}
        else:
            choice["text"] = w.prompt + text if w.echo else text
        choice |= {"logprobs": _shown_logprobs(w, i, 0, len(tokens), w.echo), "finish_reason": w.finish, "stop_reason": w.stop_reason}
        if w.token_ids:
            choice["token_ids"] = [token_id(piece) for piece in tokens]
        if not w.chat:
            choice["prompt_logprobs"] = _prompt_logprobs(w) if w.prompt_logprobs is not None else None
            choice["prompt_token_ids"] = w.prompt_ids if w.token_ids else None
        choices.append(choice)
    kind = "chat.completion" if w.chat else "text_completion"
    reply: dict[str, Any] = {"id": w.id, "object": kind, "created": w.created, "model": w.model, "choices": choices, "usage": _usage(w)}
    if w.chat:
        reply["prompt_logprobs"] = _prompt_logprobs(w) if w.prompt_logprobs is not None else None
        reply["prompt_token_ids"] = w.prompt_ids if w.token_ids else None
    return _dumps(reply).encode("utf-8", "surrogatepass")


def frames(w: Wanted) -> list[Step]:
    """The frames of a stream, not yet in chunks: a role (chat), one for each token, usage where asked for, [DONE]."""
    base = {"id": w.id, "object": "chat.completion.chunk" if w.chat else "text_completion", "created": w.created, "model": w.model}
    steps = []
    for i in range(len(w.choices) if w.chat else 0):
        choice = {"index": i, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        steps.append(Step(min(1, w.total), "write", _frame({**base, "choices": [choice]})))
    steps += sorted((step for i in range(len(w.choices)) for step in _tokens(w, base, i)), key=lambda step: step.needs)
    if w.include_usage and w.usage is not None:
        steps.append(Step(w.total, "write", _frame({**base, "choices": [], "usage": _usage(w)})))
    return [*steps, Step(w.total, "write", b"data: [DONE]\n\n")]


def _tokens(w: Wanted, base: Mapping[str, Any], i: int) -> Iterator[Step]:
    """A frame for each token of a choice; text that may begin a stop string is held back."""
    tokens, whole_text = w.choices[i], w.texts[i]
    shown = length = 0
    bare = _split_frame(w, base, i)
    for k in range(max(1, len(tokens))):
        last = k + 1 >= len(tokens)
        length += sum(map(len, tokens[k : k + 1]))
        end = len(whole_text) if last else max(shown, min(length - w.hold, len(whole_text)))
        text, shown = whole_text[shown:end], end
        if w.echo and k == 0:
            text = w.prompt + text
        if last or w.logprobs is not None or w.token_ids:
            data = _frame({**base, "choices": [_choice(w, i, k, text, last)]})
        else:
            data = bare[0] + _dumps(text).encode("utf-8", "surrogatepass") + bare[1]
        yield Step(min(k + 1, len(tokens)), "write", data, len(tokens[k : k + 1]), int(bool(text)))


def _split_frame(w: Wanted, base: Mapping[str, Any], i: int) -> tuple[bytes, bytes]:
    """What is the same in every frame without log-probabilities, before and behind the text."""
    bare = replace(w, logprobs=None, token_ids=False)
    before, _, behind = _frame({**base, "choices": [_choice(bare, i, 0, "", False)]}).rpartition(b'""')
    return before, behind


def _choice(w: Wanted, i: int, k: int, text: str, last: bool) -> dict[str, Any]:
    tokens = w.choices[i]
    choice: dict[str, Any] = {"index": i, "delta": {"content": text}} if w.chat else {"index": i, "text": text}
    choice["logprobs"] = _shown_logprobs(w, i, k, min(k + 1, len(tokens)), w.echo and k == 0)
    choice["finish_reason"] = w.finish if last else None
    if last:
        choice["stop_reason"] = w.stop_reason
    if w.token_ids:
        choice["token_ids"] = [token_id(piece) for piece in tokens[k : k + 1]]
        if k == 0 and not w.chat:
            choice["prompt_token_ids"] = w.prompt_ids
    return choice


_STREAM_HEAD = head(200, "content-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\ntransfer-encoding: chunked\r\n")


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def write(job: Any, w: Wanted, faults: Sequence[Fault]) -> None:
    """Gives ``job`` its script."""
    job.prompt_ids, job.total, job.finish = w.prompt_ids, w.total, w.finish or "error"
    by_what = {each.what: each for each in faults}
    if status := by_what.get("status"):
        code = int(status.numbers["code"])
        job.truth["status"], job.total = code, 0
        answer = Refused(code, "planted by the plan", "PlantedError").body()
        steps = [Step(0, "write", plain(code, answer, _retry_after(status.numbers["retry_after"])))]
    elif not w.stream:
        tokens = sum(map(len, w.choices))
        steps = _spoil_whole([Step(w.total, "write", plain(200, whole(w)), tokens, int(bool(tokens)))], by_what, job)
    else:
        steps = _stream(frames(w), faults, w)
    for what in ("slow_headers", "never_answer"):
        if each := by_what.get(what):
            steps.insert(0, Step(0, "sleep", each.numbers.get("seconds")))
    if "byte_by_byte" in by_what:
        steps = [part for step in steps for part in _bytes(step)]
    job.steps = steps


def plain(status: int, body: bytes, headers: str = "") -> bytes:
    return head(status, f"content-type: application/json\r\ncontent-length: {len(body)}\r\n{headers}") + body


def _retry_after(value: Any) -> str:
    if value is None:
        return ""
    if value == "date":
        value = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 2))
    return f"retry-after: {99999999 if value == 'absurd' else value}\r\n"


def _spoil_whole(steps: list[Step], by_what: Mapping[str, Fault], job: Any) -> list[Step]:
    """The faults in the middle of a body that is not streamed: half of it is written."""
    step = steps[0]
    half = Step(step.needs, "write", step.data[: len(step.data) - len(step.data) // 4])
    for what in ("fin", "rst", "exit", "error_frame", "stall", "delay"):
        if what not in by_what:
            continue
        each = by_what[what]
        if what == "error_frame":
            job.truth["status"] = each.numbers["code"]
            return [
                Step(
                    step.needs,
                    "write",
                    plain(each.numbers["code"], Refused(each.numbers["code"], "planted", "InternalServerError").body()),
                )
            ]
        if what == "delay":
            return [Step(step.needs, "sleep", each.numbers["seconds"]), step]
        if what == "stall":
            rest = step._replace(data=step.data[len(half.data) :])
            return [half, Step(step.needs, "sleep", each.numbers["seconds"]), rest]
        return [half, Step(step.needs, what, each.numbers.get("code"))]
    return steps


def _bytes(step: Step) -> list[Step]:
    if step.what != "write":
        return [step]
    parts = [step._replace(data=step.data[i : i + 1], tokens=0, output=0) for i in range(len(step.data))]
    return [*parts[:-1], parts[-1]._replace(tokens=step.tokens, output=step.output)]


def _stream(steps: list[Step], faults: Sequence[Fault], w: Wanted) -> list[Step]:
    """Frames spoilt, put into chunks, between head and terminator."""
    end: Step | None = None
    for each in faults:
        places = [i for i, step in enumerate(steps) if step.tokens]
        at = places[min(each.after_frame, len(places) - 1)] if places else len(steps) - 1
        needs = steps[at].needs
        match each.what:
            case "delay" | "stall":
                steps.insert(at, Step(needs, "sleep", each.numbers["seconds"]))
            case "fin" | "rst" | "exit":
                before = steps[at - 1].needs if at else 0
                steps, end = steps[:at], Step(before, each.what, each.numbers.get("code"))
                break
            case "error_frame":
                code = each.numbers["code"]
                bad = _frame(
                    {"error": {"message": "EngineCore encountered an issue.", "type": "InternalServerError", "param": None, "code": code}}
                )
                steps = [*steps[:at], Step(needs, "write", bad), Step(needs, "write", b"data: [DONE]\n\n")]
            case "no_done":
                steps = steps[:-1]
            case "cut_json":
                steps[at] = steps[at]._replace(data=steps[at].data[: len(steps[at].data) // 2] + b"\n\n")
            case "bad_utf8":
                steps[at] = steps[at]._replace(data=steps[at].data.replace(b'"choices"', b'"x":"\xff\xfe","choices"', 1))
            case "no_blank_line":
                steps[at] = steps[at]._replace(data=steps[at].data[:-1])
            case "crlf":
                steps = [s._replace(data=s.data.replace(b"\n", b"\r\n")) if s.what == "write" else s for s in steps]
            case "comments":
                steps = [part for s in steps for part in ([Step(s.needs, "write", b": ping\n\n"), s] if s.what == "write" else [s])]
            case "duplicate_frames":
                steps.insert(at, steps[at]._replace(tokens=0))
            case "other_id":
                steps[at:] = [s._replace(data=s.data.replace(w.id.encode(), b"another")) if s.what == "write" else s for s in steps[at:]]
            case "after_done":
                steps.append(steps[at]._replace(tokens=0, needs=w.total))
            case "coalesced":
                steps = _coalesced(steps, places, int(each.numbers["frames"]))
    steps = [s._replace(data=_chunk(s.data)) if s.what == "write" else s for s in steps]
    closing = [end] if end else [Step(w.total, "write", b"0\r\n\r\n")]
    return [Step(0, "write", _STREAM_HEAD), *steps, *closing]


def _coalesced(steps: list[Step], places: Sequence[int], size: int) -> list[Step]:
    """Each ``size`` frames with tokens in one write."""
    tokens = [steps[i] for i in places]
    groups = [tokens[i : i + size] for i in range(0, len(tokens), size)]
    merged = [
        g[-1]._replace(data=b"".join(s.data for s in g), tokens=sum(s.tokens for s in g), output=sum(s.output for s in g)) for g in groups
    ]
    kept = set(places)
    before = [s for i, s in enumerate(steps) if i < places[0]] if places else steps
    after = [s for i, s in enumerate(steps) if places and i > places[-1] and i not in kept]
    return [*before, *merged, *after]


class Fast:
    """The same answer for everybody, its frames built once: for measuring clients. Only ``"stream":`` and the path are read."""

    def __init__(self, plan: Plan) -> None:
        self.tokens = plan.service.tokens
        texts = pieces("fast", 0, self.tokens)
        self.made: dict[tuple[bool, bool], list[Step]] = {}
        for chat in (False, True):
            w = Wanted(chat, True, plan.model, "fast", ["fast"], [2000], [texts], ["".join(texts)], "length", None, "stub-fast", 0,
                       True, self.tokens, False, None, None, False, 0)  # fmt: skip
            self.made[chat, True] = _stream(frames(w), (), w)
            self.made[chat, False] = [Step(0, "write", plain(200, whole(replace(w, stream=False))), self.tokens, 1)]

    def script(self, job: Any) -> None:
        """Gives ``job`` its script."""
        request = job.request
        stream = b'"stream":true' in request.body or b'"stream": true' in request.body
        job.steps, job.finish = self.made["chat" in request.path, stream], "length"
        job.truth["prompt_tokens"] = 1
