"""The client of a load: whatever a server does to a request becomes its one record, with the cause."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import threading
import time

import pytest

from harness.serve.load import ask
from harness.serve.load.job import Page
from harness.serve.stub import answer, start
from harness.serve.target import Target

pytestmark = pytest.mark.selftest
TOKENS = 12
SERVICE = {"kind": "tokens", "tokens": TOKENS, "ttft_s": 0.002, "gap_s": 0.001}
CHAT = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": TOKENS, "temperature": 0, "seed": 0}
TEXT = {"prompt": "What is the capital of France?", "max_tokens": TOKENS, "temperature": 0, "seed": 0}


@pytest.fixture
def canned():
    """``canned(*replies)``: a server that answers one request per connection with these bytes, in order, and then closes."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen, threads = [], []

    def serve(replies):
        for parts in replies:
            connection, _ = listener.accept()
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                seen.append(_request(connection))
                for part in parts if isinstance(parts, list) else [parts]:
                    connection.sendall(part)
                    time.sleep(0.01)

    def begin(*replies):
        threads.append(threading.Thread(target=serve, args=(replies,), daemon=True))
        threads[-1].start()
        return Target(f"http://127.0.0.1:{listener.getsockname()[1]}", "stub", "secret"), seen

    yield begin
    listener.close()
    for thread in threads:
        thread.join(5)


def _request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(1 << 16)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1])
    while len(body) < length:
        body += connection.recv(1 << 16)
    return head + b"\r\n\r\n" + body


# --- whole answers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("chat", [True, False])
def test_an_answer(stub, chat, streamed):
    server = stub({"service": SERVICE})
    bodies = [CHAT if chat else TEXT] * 3
    answers = ask(server.target, bodies, chat=chat, stream=streamed)
    truth = server.truth()
    expected = answer(CHAT["messages"] if chat else TEXT["prompt"], 0, TOKENS)
    for one in answers:
        assert (one.outcome, one.why, one.status, one.finish) == ("complete", "length", 200, "length"), one.detail
        assert one.text == expected
        assert one.usage["completion_tokens"] == TOKENS and one.body
        assert bool(one.frames) == streamed and len(one.times) == len(one.frames)
        assert list(one.times) == sorted(one.times) and (not streamed or 0 < one.times[-1] <= one.end)
    assert len(truth) == 3 and all(row["how"] == "complete" for row in truth)


@pytest.mark.parametrize("what", ["crlf", "comments", "byte_by_byte", "coalesced"])
def test_odd_but_legal(stub, what):
    server = stub({"service": SERVICE, "faults": [{"what": what, "when": {}}]})
    plain = stub({"service": SERVICE})
    odd, usual = ask(server.target, [CHAT])[0], ask(plain.target, [CHAT])[0]
    assert odd.complete and odd.text == usual.text and server.truth()[0]["faults"]


FAULTS = {
    "status 500": ({"what": "status", "code": 500}, "error", "http_error"),
    "status 429": ({"what": "status", "code": 429, "retry_after": 1}, "error", "shed"),
    "status 503": ({"what": "status", "code": 503}, "error", "shed"),
    "zero tokens": ({"what": "zero_tokens"}, "error", "zero_tokens"),
    "error frame": ({"what": "error_frame", "after_frame": 3}, "error", "error_frame"),
    "no finish reason": ({"what": "no_finish", "after_frame": 3}, "truncated_detected", "no_finish_reason"),
    "no terminator": ({"what": "no_done"}, "truncated_detected", "no_terminator"),
    "FIN": ({"what": "fin", "after_frame": 3}, "truncated_detected", "truncated"),
    "FIN before a frame": ({"what": "fin", "after_frame": 0}, "truncated_detected", "truncated"),
    "RST": ({"what": "rst", "after_frame": 3}, "truncated_detected", "reset"),
    "stall": ({"what": "stall", "after_frame": 3}, "timeout", "stalled"),
    "never": ({"what": "never_answer"}, "never_ended", "never_ended"),
    "headers after the limit": ({"what": "slow_headers", "seconds": 30}, "never_ended", "never_ended"),
    "cut JSON": ({"what": "cut_json", "after_frame": 3}, "error", "malformed_sse"),
    "bad UTF-8": ({"what": "bad_utf8", "after_frame": 3}, "error", "malformed_sse"),
    "no blank line": ({"what": "no_blank_line", "after_frame": 3}, "error", "malformed_sse"),
    "another id": ({"what": "other_id", "after_frame": 3}, "error", "malformed_sse"),
    "after done": ({"what": "after_done"}, "error", "malformed_sse"),
    "frames twice": ({"what": "duplicate_frames", "after_frame": 3}, "error", "duplicate_frames"),
    "usage too high": ({"what": "wrong_usage", "by": 1}, "error", "usage_mismatch"),
    "usage too low": ({"what": "wrong_usage", "by": -1}, "error", "usage_mismatch"),
    "no usage": ({"what": "no_usage"}, "error", "usage_mismatch"),
    "early end": ({"what": "early_eos", "tokens": 2}, "error", "early_eos"),
}


@pytest.fixture(scope="module")
def struck():
    """One server that strikes every other request, each with a fault of its own; the answers and the server's truth."""
    faults = [{**fault, "when": {"request": 2 * i + 1}} for i, (fault, _, _) in enumerate(FAULTS.values())]
    with start({"service": SERVICE, "faults": faults}) as server:
        answers = ask(server.target, [{**CHAT, "ignore_eos": True}] * (2 * len(faults)), concurrency=8, limit_s=3)
    return answers, {row["request"]: row for row in server.truth()}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_has_its_cause(struck, name):
    """Its neighbour, over the same client, is complete."""
    answers, truth = struck
    at = 2 * list(FAULTS).index(name) + 1
    _, outcome, why = FAULTS[name]
    assert (answers[at].outcome, answers[at].why) == (outcome, why), answers[at].detail
    assert truth[at]["faults"], "the fault was not applied"
    assert answers[at - 1].complete and not truth[at - 1]["faults"], answers[at - 1].detail


def test_a_dead_server_is_a_record_and_no_error(stub):
    server = stub({"service": SERVICE, "faults": [{"what": "exit", "after_frame": 3, "when": {"request": 5}}]})
    answers = ask(server.target, [CHAT] * 12, concurrency=2, limit_s=5)
    ends = [one.why for one in answers]
    assert len(answers) == 12 and ends[:4] == ["length"] * 4
    assert set(ends[4:]) <= {"length", "truncated", "reset", "connect_failed"} and "length" not in ends[6:]
    assert answers[-1].detail == "ECONNREFUSED" and answers[-1].outcome == "error"


def test_want_of_descriptors_is_the_clients_own_fault(stub):
    server = stub({"service": SERVICE})
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = [fd for fd in range(before[0]) if not _open(fd)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[10], before[1]))  # ten are left
    try:
        answers = ask(server.target, [CHAT] * 40, concurrency=40, limit_s=10)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert {one.why for one in answers} == {"length", "client_limited"}
    assert {one.detail for one in answers if not one.complete} == {"EMFILE"}


def _open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def test_hanging_up_after_a_frame(stub):
    server = stub({"service": {**SERVICE, "tokens": 200, "gap_s": 0.005}})
    bodies = [{**CHAT, "max_tokens": 200}, CHAT]
    long, short = ask(server.target, bodies, concurrency=2, close_after={0: 4}, limit_s=10)
    assert (long.outcome, long.why, short.outcome) == ("truncated_detected", "cancelled", "complete")
    assert 4 <= len(long.frames) < 200
    deadline = time.monotonic() + 10
    while len(server.truth()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    row = next(row for row in server.truth() if row["request"] == 0)
    assert row["how"] == "client_gone" and row["frames"] < 200


# --- the wire -----------------------------------------------------------------------------------------

SINGLE = (
    b'{"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}], '
    b'"usage": {"prompt_tokens": 1, "completion_tokens": 1}}'
)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(SINGLE), SINGLE)


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (OK, ("complete", "stop")),
        ([OK[:3], OK[3:40], OK[40:41], OK[41:]], ("complete", "stop")),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, ("complete", "stop")),
        (OK[:-1], ("truncated_detected", "truncated")),
        (OK + b"x", ("error", "malformed_http")),
        (b"HTTP/1.1 200 OK\r\n\r\n" + SINGLE, ("truncated_detected", "truncated")),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{]}", ("error", "malformed_http")),
        (b"nonsense\r\n\r\n", ("error", "malformed_http")),
        (b"HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", ("error", "http_error")),
        (b"HTTP/1.1 200 OK\r\n", ("truncated_detected", "truncated")),
        (b"", ("truncated_detected", "truncated")),
    ],
)
def test_what_comes_over_the_wire(canned, reply, expected):
    target, seen = canned(reply)
    one = ask(target, [CHAT], stream=False, limit_s=5)[0]
    assert (one.outcome, one.why) == expected, one.detail
    assert len(seen) == 1, "nothing is sent twice, and no redirect is followed"


def test_a_request_says_what_it_must(canned):
    target, seen = canned(OK)
    ask(target, [{**CHAT, "messages": [{"role": "user", "content": "€" * 4_000_000}]}], stream=False, limit_s=10)
    head, _, body = seen[0].partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /v1/chat/completions HTTP/1.1"
    assert {b"Authorization: Bearer secret", b"X-Request-Id: 0", b"Content-Length: %d" % len(body)} <= set(lines)
    assert "€" * 4_000_000 in body.decode() and b'"model": "stub"' in body, "more than a socket takes at once arrives whole"


def test_connections_are_used_again_but_not_when_they_rested(stub, monkeypatch):
    server = stub({"service": SERVICE})
    opened = []
    connect = socket.socket.connect_ex
    monkeypatch.setattr(socket.socket, "connect_ex", lambda self, address: opened.append(1) or connect(self, address))
    assert all(one.complete for one in ask(server.target, [CHAT] * 20, concurrency=2))
    assert len(opened) == 2
    monkeypatch.setattr("harness.serve.load.client._IDLE_NS", 0)
    assert all(one.complete for one in ask(server.target, [CHAT] * 5))
    assert len(opened) == 2 + 5, "the server may be about to close what rested: a request could be lost to that"


def test_what_is_no_json_is_sent_as_it_is(canned):
    target, seen = canned(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno")
    one = ask(target, [b'{"model": '], limit_s=5)[0]
    assert (one.status, one.why, one.body) == (400, "http_error", b"no") and seen[0].endswith(b'{"model": ')


def test_no_request_is_asked_and_none_answered(stub):
    assert ask(Target("http://127.0.0.1:1", "m"), []) == []


def test_the_bins_of_the_live_line():
    """Each holds its value, none is wider than an eighth above 8 microseconds, all are in order."""
    values = sorted({*range(2000), *(int(1.01**k) for k in range(2100)), 1 << 33})
    bins = [Page.bin(value) for value in values]
    assert bins == sorted(bins) and bins[0] >= Page.BINS and bins[-1] < Page.SIZE // 8
    for value, index in zip(values, bins, strict=True):
        if value < 1 << 33:
            assert value * 1e-6 < Page.edge(index) <= max(value + 1, value * 1.126) * 1e-6


def test_times_are_those_of_the_server(stub):
    """Against the server's own clock, which is the same one: when it handed frames to the kernel."""
    server = stub({"service": {**SERVICE, "ttft_s": 0.03, "gap_s": 0.004, "cv": 0.3}})
    answers = ask(server.target, [CHAT] * 20)
    rows = sorted(server.truth(), key=lambda row: row["request"])
    firsts = [one.times[1] - (row["first"] - row["seen"]) * 1e-9 for one, row in zip(answers, rows, strict=True)]
    spans = [one.times[TOKENS] - one.times[1] - (row["last"] - row["first"]) * 1e-9 for one, row in zip(answers, rows, strict=True)]
    assert abs(statistics.median(firsts)) < 0.005 and abs(statistics.median(spans)) < 0.005
