"""Frames of a stream, and when an answer is complete: nothing that was cut off ever is."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import sse
from harness.engines.sse import Expect, completeness, split
from harness.records import CAUSES, OUTCOMES
from harness.serve.load.http1 import Response

pytestmark = pytest.mark.selftest
EXACT = settings(derandomize=True, deadline=None, max_examples=150)


def event(*choices, **more):
    frame = {"id": "answer-1", "model": "stub", "choices": list(choices), **more}
    return json.dumps(frame, ensure_ascii=False, separators=(",", ":")).encode()


def delta(text, finish=None, index=0, **more):
    return {"index": index, "delta": {"content": text, **more}, "logprobs": None, "finish_reason": finish}


def usage(tokens, asked=3):
    return event(usage={"prompt_tokens": asked, "completion_tokens": tokens, "total_tokens": asked + tokens})


def payloads_of(texts, finish="stop"):
    frames = [event(delta("", role="assistant")), *(event(delta(text)) for text in texts), event(delta("", finish))]
    return [*frames, usage(len(texts)), b"[DONE]"]


def stream(payloads, end=b"\n\n"):
    return b"".join(b"data: " + payload + end for payload in payloads)


def outcome(body, expect=None, status=200, ended="whole"):
    reply, _ = completeness(status, body, ended, expect or Expect())
    return reply.outcome, reply.why


@pytest.fixture(params=["msgspec", "json"])
def decoder(request, monkeypatch):
    """Both ways to decode JSON."""
    if request.param == "json":
        monkeypatch.setitem(__import__("sys").modules, "msgspec", None)
    else:
        pytest.importorskip("msgspec")
    monkeypatch.setattr(sse, "_decode", None)
    yield
    sse._decode = None


# --- frames -------------------------------------------------------------------------------------------


def by_lines(body):
    """The oracle: the standard's own procedure, a line at a time (HTML, section 9.2.6)."""
    lines, line, ends, at = [], b"", [], 0
    while at < len(body):
        width = 2 if body[at : at + 2] == b"\r\n" else 1 if body[at : at + 1] in (b"\r", b"\n") else 0
        if width == 1 and body[at : at + 1] == b"\r" and at + 1 == len(body):
            break  # it may be half of CRLF
        if width:
            lines.append(line)
            ends.append(at + width)
            line = b""
        else:
            line += body[at : at + 1]
        at += width or 1
    frames, data = [], []
    for text, end in zip(lines, ends, strict=True):
        name, colon, value = text.partition(b":")
        if not text and data:
            frames.append((b"\n".join(data), end))
        if not text:
            data = []
        elif name == b"data":
            data.append(value.removeprefix(b" ") if colon else b"")
    return frames


PIECES = [
    b"data: ",
    b"data:",
    b"data",
    b"x",
    b"{}",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\r",
    b": note",
    b"event: e",
    b"id:",
    b"\n\ndata: y",
]


@EXACT
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
def test_frames_are_those_of_the_standard(body):
    payloads, ends, _ = split(body)
    mine = list(zip(payloads, ends, strict=True))
    theirs = by_lines(body)
    assert [payload for payload, _ in mine] == [payload for payload, _ in theirs]
    # a blank line may follow another: where the frame was over is where its first one was
    assert [end for _, end in mine] == [end for _, end in theirs]


def test_what_no_blank_line_ends_is_left_over():
    assert split(b"data: a\n\ndata: b\n") == ([b"a"], [9], b"data: b\n")


# --- the rule -----------------------------------------------------------------------------------------

TEXTS = ["The", " capital", " is", " Paris"]
WHOLE = payloads_of(TEXTS)


def without(index):
    return [payload for at, payload in enumerate(WHOLE) if at != index]


def test_a_whole_answer_is_complete(decoder):
    reply, ends = completeness(200, stream(WHOLE), "whole", Expect(max_tokens=9))
    assert (reply.outcome, reply.why, reply.text, reply.tokens, reply.prompt_tokens) == ("complete", "stop", b"The capital is Paris", 4, 3)
    assert reply.outputs == [1, 2, 3, 4] and len(ends) == len(WHOLE) and ends[-1] == len(stream(WHOLE))


CASES = {
    "role and finish alone": (stream(payloads_of([])), "error", "zero_tokens"),
    "done alone": (stream([b"[DONE]"]), "error", "zero_tokens"),
    "nothing at all": (b"", "truncated_detected", "truncated"),
    "error frame, then done": (stream([*WHOLE[:3], b'{"error": {"message": "dead"}}', b"[DONE]"]), "error", "error_frame"),
    "error text": (stream([*WHOLE[:3], b'{"error": "broken"}', b"[DONE]"]), "error", "error_frame"),
    "no finish reason": (stream(without(5)), "truncated_detected", "no_finish_reason"),
    "unknown finish reason": (stream([*WHOLE[:5], event(delta("", "abort")), *WHOLE[6:]]), "error", "no_finish_reason"),
    "one of two choices unfinished": (
        stream([*WHOLE[:2], event(delta("x", index=1)), *WHOLE[2:6], usage(5), b"[DONE]"]),
        "truncated_detected", "no_finish_reason",
    ),
    "no done": (stream(WHOLE[:-1]), "truncated_detected", "no_terminator"),
    "neither": (stream(WHOLE[:4]), "truncated_detected", "truncated"),
    "no usage": (stream(without(6)), "error", "usage_mismatch"),
    "usage of none": (stream([*WHOLE[:6], usage(0), b"[DONE]"]), "error", "usage_mismatch"),
    "usage too low": (stream([*WHOLE[:6], usage(3), b"[DONE]"]), "error", "usage_mismatch"),
    "usage above max_tokens": (stream([*WHOLE[:6], usage(10), b"[DONE]"]), "error", "usage_mismatch"),
    "usage no number": (stream([*WHOLE[:6], usage(True), b"[DONE]"]), "error", "usage_mismatch"),
    "length before the length": (stream(payloads_of(TEXTS, "length")), "error", "usage_mismatch"),
    "a frame twice": (stream([*WHOLE[:3], WHOLE[2], *WHOLE[3:]]), "error", "duplicate_frames"),
    "cut JSON": (stream([*WHOLE[:3], WHOLE[3][:-9], *WHOLE[4:]]), "error", "malformed_sse"),
    "NaN": (stream([*WHOLE[:3], event(delta("x"), x=float("nan")), *WHOLE[3:]]), "error", "malformed_sse"),
    "no UTF-8": (stream([*WHOLE[:3], WHOLE[3].replace(b" is", b"\xff\xfe"), *WHOLE[4:]]), "error", "malformed_sse"),
    "a raw control character": (stream([*WHOLE[:3], WHOLE[3].replace(b" is", b"\x01"), *WHOLE[4:]]), "error", "malformed_sse"),
    "no blank line": (stream(WHOLE[:2]) + b"data: " + WHOLE[2] + b"\n" + stream(WHOLE[3:]), "error", "malformed_sse"),
    "no blank line at the end": (stream(WHOLE[:-1]) + b"data: [DONE]\n", "error", "malformed_sse"),
    "another id": (stream([*WHOLE[:3], WHOLE[3].replace(b"answer-1", b"answer-2"), *WHOLE[4:]]), "error", "malformed_sse"),
    "another model": (stream([*WHOLE[:3], WHOLE[3].replace(b"stub", b"stab"), *WHOLE[4:]]), "error", "wrong_model"),
    "something after done": (stream([*WHOLE, WHOLE[1]]), "error", "malformed_sse"),
    "half a frame after done": (stream(WHOLE) + b"data: {", "error", "malformed_sse"),
    "no list of choices": (stream([*WHOLE[:3], b'{"id": "answer-1"}', *WHOLE[3:]]), "error", "malformed_sse"),
    "an array": (stream([*WHOLE[:3], b"[]", *WHOLE[3:]]), "error", "malformed_sse"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_each_way_not_to_be_complete_has_its_cause(case, decoder):
    body, *expected = CASES[case]
    assert list(outcome(body, Expect(max_tokens=9, model="stub"))) == expected


@pytest.mark.parametrize(
    ("status", "body", "ended", "expected"),
    [
        (500, b"oops", "whole", ("error", "http_error")),
        (404, b"", "whole", ("error", "http_error")),
        (429, b"", "whole", ("error", "shed")),
        (503, b"", "whole", ("error", "shed")),
        (0, b"", "reset", ("truncated_detected", "reset")),
        (0, b"", "fin", ("truncated_detected", "truncated")),
        (0, b"", "limit", ("never_ended", "never_ended")),
        (200, b"", "limit", ("never_ended", "never_ended")),
        (200, stream(WHOLE[:3]), "limit", ("timeout", "stalled")),
        (200, stream(WHOLE[:3]), "reset", ("truncated_detected", "reset")),
        (200, stream(WHOLE[:3]), "fin", ("truncated_detected", "truncated")),
        (200, stream(WHOLE[:6]), "fin", ("truncated_detected", "no_terminator")),
        (200, stream(WHOLE), "fin", ("truncated_detected", "no_terminator")),
        (200, stream(WHOLE), "reset", ("truncated_detected", "reset")),
        (200, stream(WHOLE[:3]), "cancelled", ("truncated_detected", "cancelled")),
        (200, stream(WHOLE), "malformed", ("error", "malformed_http")),
    ],
)
def test_an_end_before_the_end(status, body, ended, expected):
    assert outcome(body, status=status, ended=ended) == expected


def test_early_eos_and_tools():
    assert outcome(stream(WHOLE), Expect(max_tokens=9, ignore_eos=True)) == ("error", "early_eos")
    assert outcome(stream(WHOLE), Expect(max_tokens=4, ignore_eos=True)) == ("complete", "stop")
    call = [event(delta(None, tool_calls=[{"index": 0, "function": {"arguments": part}}])) for part in ("{", "}")]
    flushed = [*call, event(delta("", "tool_calls", tool_calls=[{"index": 0}])), usage(2), b"[DONE]"]
    assert outcome(stream(flushed)) == ("complete", "tool_calls"), "one frame more than tokens is the flush of a parser"
    assert outcome(stream([call[0], *flushed])) == ("error", "duplicate_frames")


def test_a_single_object(decoder):
    message = {"index": 0, "message": {"content": "Paris"}, "finish_reason": "stop"}
    whole = json.loads(event(message, usage={"prompt_tokens": 3, "completion_tokens": 1}))
    expect = Expect(stream=False, max_tokens=9)

    def said(**changed):
        return outcome(json.dumps({**whole, **changed}).encode(), expect)

    assert said() == ("complete", "stop")
    assert said(choices=[{**message, "finish_reason": None}]) == ("error", "no_finish_reason")
    assert said(choices=[{**message, "message": {"content": ""}}]) == said(choices=[]) == ("error", "zero_tokens")
    assert said(error={"message": "x"}) == ("error", "error_frame")
    assert said(usage=None) == ("error", "usage_mismatch")
    body = json.dumps(whole).encode()
    assert outcome(body, expect, ended="fin") == ("truncated_detected", "truncated"), "no length was reached"
    assert outcome(body[:-1], expect) == ("error", "malformed_http")
    assert outcome(body[:9], expect, ended="limit") == ("never_ended", "never_ended")


# --- nothing that was cut off is complete -------------------------------------------------------------

texts = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6), min_size=1, max_size=6)
ends = st.sampled_from([b"\n\n", b"\r\n\r\n"])


@st.composite
def bodies(draw):
    """A valid stream: any text, either line end, comments between frames."""
    body, end = b"", draw(ends)
    for payload in payloads_of(draw(texts)):
        body += draw(st.sampled_from([b"", b"", b": ping" + end])) + b"data: " + payload + end
    return body


def chunked(body, sizes):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw, at, turn = head, 0, 0
    while at < len(body):
        part = body[at : at + sizes[turn % len(sizes)]]
        raw += b"%x\r\n%b\r\n" % (len(part), part)
        at, turn = at + len(part), turn + 1
    return raw + b"0\r\n\r\n"


def received(raw, cuts=()):
    """The response, fed in pieces; read i at instant i."""
    response, edges = Response(), sorted({0, len(raw), *(cut % (len(raw) + 1) for cut in cuts)})
    over = [response.add(raw[a:b], i) for i, (a, b) in enumerate(pairwise(edges))]
    assert not any(over[:-1]), "it was over before its end"
    return response, edges[1:]


@settings(EXACT, max_examples=40)
@given(bodies(), st.sampled_from(["whole", "fin", "reset", "limit"]))
def test_no_proper_prefix_of_a_stream_is_complete(body, ended):
    assert outcome(body)[0] == "complete"
    assert not [cut for cut in range(len(body)) if outcome(body[:cut], ended=ended)[0] == "complete"]


@EXACT
@given(bodies(), st.lists(st.integers(1, 300), min_size=1, max_size=4), st.data())
def test_no_proper_prefix_of_a_response_is_complete(body, sizes, data):
    raw = chunked(body, sizes)
    cut = data.draw(st.integers(0, len(raw) - 1))
    response, _ = received(raw[:cut], data.draw(st.lists(st.integers(0, 5000), max_size=5)))
    content = response.settle()
    assert response.ended == "" and body.startswith(content)
    for ended in ("fin", "reset", "limit"):
        assert outcome(content, status=response.status, ended=ended)[0] in ("truncated_detected", "timeout", "never_ended")


@EXACT
@given(bodies(), st.lists(st.integers(1, 300), min_size=1, max_size=4), st.lists(st.integers(0, 5000), max_size=40), st.booleans())
def test_reads_may_be_cut_anywhere(body, sizes, cuts, length):
    raw = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body) if length else chunked(body, sizes)
    response, edges = received(raw, cuts)
    content = response.settle()
    reply, offsets = completeness(response.status, content, response.ended, Expect())
    assert (content, reply.outcome) == (body, "complete")
    # a frame is there with the first read after which the content so far holds its end
    contents = []
    for edge in edges:
        partial, _ = received(raw[:edge])
        contents.append(len(partial.settle()))
    assert response.instants(offsets) == [next(i for i, size in enumerate(contents) if size >= offset) for offset in offsets]


@EXACT
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n\t{}:,'), max_size=4), min_size=1, max_size=12))
def test_frames_that_look_alike_are_read_as_if_each_were_decoded(pieces):
    body = stream(payloads_of(pieces))
    reply, _ = completeness(200, body, "whole", Expect(usage=False))
    assert reply.text.decode() == "".join(pieces)
    assert reply.outputs == [at + 1 for at, piece in enumerate(pieces) if piece]


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nmore",
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nabc",
    ],
)
def test_what_is_no_http(raw):
    response, _ = received(raw)
    response.settle()
    assert response.ended == "malformed"


def test_heads():
    early, _ = received(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: b:c\r\nContent-Length: 2\r\n\r\nok")
    assert (early.status, early.settle(), early.ended, early.close) == (200, b"ok", "whole", False)
    assert ("a", "b:c") in early.headers
    old, _ = received(b"HTTP/1.0 200 OK\r\n\r\nok")
    assert (old.settle(), old.ended, old.close) == (b"ok", "", True)
    trailers, _ = received(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nT: u\r\n\r\n", [60, 70, 75])
    assert (trailers.settle(), trailers.ended) == (b"ok", "whole")


def test_what_looks_like_the_last_chunk_inside_another_is_found_out():
    raw = chunked(b"data: x\r\n0\r\n\r\nmore", [100])
    cut = raw.index(b"0\r\n\r\nmore") + 5
    early = Response()
    head = raw.index(b"\r\n\r\n") + 4
    early.add(raw[:head], 0)
    early.add(raw[head:cut], 1)
    early.settle()
    assert early.ended == "malformed"


keys = st.sampled_from(["id", "model", "choices", "index", "delta", "text", "content", "finish_reason", "usage", "completion_tokens",
                        "prompt_tokens", "error", "message", "tool_calls", "n", "stream", "stream_options", "max_tokens"])  # fmt: skip
scalars = st.none() | st.booleans() | st.integers(-1, 2) | st.sampled_from(["", "stop", "x", 1.5, 1 << 40])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=5), max_leaves=20)
choices = st.fixed_dictionaries({"choices": st.lists(st.dictionaries(keys, values, max_size=5), max_size=2)}, optional={"usage": values})


@settings(EXACT, max_examples=300)
@given(st.lists(values | choices, max_size=4), st.booleans(), st.sampled_from(["whole", "fin", "limit"]), values)
def test_no_answer_and_no_question_is_too_odd(frames, streamed, ended, asked):
    """A server may say anything: it becomes a record, never an exception."""
    frames = [json.dumps(frame, separators=(",", ":")).encode() for frame in frames]
    body = stream([*frames, b"[DONE]"]) if streamed else b"".join(frames)
    reply, _ = completeness(200, body, ended, Expect(stream=streamed, max_tokens=2))
    assert reply.outcome in OUTCOMES and reply.outcome != "truncated_accepted"
    assert reply.why in (sse.FINISHES if reply.outcome == "complete" else CAUSES)
    try:
        assert Expect.of(json.dumps(asked).encode()).choices
    except ValueError:
        assert not isinstance(asked, dict)
