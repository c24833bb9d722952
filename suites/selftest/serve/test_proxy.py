"""The proxy passes every byte when told to, spoils a connection where it was told to, and keeps book of both."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.sse import Expect, completeness
from harness.errors import ConfigError
from harness.serve.proxy import WHATS, Fault, Proxy, _Place
from harness.serve.target import Target
from suites.selftest.serve.test_stub import STREAM, ask, until

pytestmark = pytest.mark.selftest

BODY = {"prompt": "one two", "max_tokens": 6, **STREAM}
EXPECT = Expect(max_tokens=6)


@pytest.fixture(scope="module")
def server():
    from harness.serve.stub import start

    with start({"service": {"kind": "tokens", "gap_s": 0.002, "tokens": 6}, "key": True}) as stub:
        yield stub


@pytest.fixture
def proxied(server):
    with contextlib.ExitStack() as stack:
        yield lambda *faults, **options: stack.enter_context(Proxy(server.target, faults or (Fault(),), **options))


def why(target, **options):
    status, body, ended, _ = ask(target, BODY, **options)
    return completeness(status, body, ended, EXPECT)[0].why


def test_it_passes_every_byte_both_ways(server, proxied):
    proxy = proxied()
    direct, through = ask(server.target, BODY), ask(proxy.target, BODY)
    assert (direct[0], len(direct[1]), direct[2]) == (through[0], len(through[1]), through[2])
    assert why(proxy.target) == "length"
    assert proxy.target.key == server.target.key
    assert [(row.fault.what, row.applied) for row in proxy.ledger] == [("pass", False)] * 2
    assert all(row.up > 100 and row.down > len(direct[1]) for row in proxy.ledger)


def test_a_large_body_passes_unchanged_through_small_windows(proxied):
    """64 MiB would be slow: 4 MiB are more than all the buffers on the way hold."""
    payload = bytes(range(256)) * 16384
    listener = socket.create_server(("127.0.0.1", 0))
    heard = []

    def echo():
        sock, _ = listener.accept()
        with sock:
            heard.append(b"".join(iter(lambda: sock.recv(1 << 16), b"")))
            sock.sendall(heard[0])

    thread = threading.Thread(target=echo)
    thread.start()
    with listener, Proxy(Target(f"http://127.0.0.1:{listener.getsockname()[1]}", "m")) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=20) as sock:
            sock.sendall(payload)
            sock.shutdown(socket.SHUT_WR)  # the end of what the client sends is passed on, and the answer still comes
            assert b"".join(iter(lambda: sock.recv(1 << 16), b"")) == payload
        thread.join()
        assert heard == [payload]
        assert until(lambda: proxy.ledger[0].down == proxy.ledger[0].up == len(payload))


@pytest.mark.parametrize(("fault", "cause"), [
    (Fault("fin", after_frames=3), "truncated"), (Fault("rst", after_frames=3), "reset"), (Fault("fin", after_bytes=0), "truncated"),
    (Fault("half_close", after_frames=2), "truncated"), (Fault("corrupt", after_frames=2), "malformed_sse"),
    (Fault("stall", after_frames=2, seconds=0.05), "length"), (Fault("latency", seconds=0.05), "length"),
    (Fault("bandwidth", bytes_per_s=20_000), "length"), (Fault("rst_on_accept"), "reset"), (Fault("canned", status=500), "http_error"),
    (Fault("canned", status=429, retry_after="7"), "shed"),
], ids=lambda value: value.what if isinstance(value, Fault) else None)  # fmt: skip
def test_a_fault_is_what_the_completeness_rule_says_and_is_booked(proxied, fault, cause):
    proxy = proxied(fault, Fault())
    found = [why(proxy.target) for _ in range(2)]
    assert found == [cause, "length"]
    proxy.stop()
    assert [(row.number, row.fault.what) for row in proxy.ledger] == [(0, fault.what), (1, "pass")]
    assert [row.applied for row in proxy.ledger] == [True, False]
    if fault.after_frames is not None and fault.what in ("fin", "rst", "half_close"):
        assert 0 < proxy.ledger[0].down < proxy.ledger[1].down


def test_every_fault_is_tested():
    tested = {"pass", "never_answer", "fin", "rst", "half_close", "corrupt", "stall", "latency", "bandwidth", "rst_on_accept", "canned"}
    assert tested == set(WHATS)


def test_canned_answers_carry_their_retry_after_and_never_reach_the_server(server, proxied):
    before = server.state()["requests"]
    proxy = proxied(Fault("canned", status=429, retry_after="7"), Fault("canned"))
    status, _, _, headers = ask(proxy.target, BODY)
    assert (status, headers["Retry-After"]) == (429, "7")
    status, _, _, headers = ask(proxy.target, BODY)
    assert (status, headers.get("Retry-After")) == (503, None)
    assert server.state()["requests"] == before


@pytest.mark.parametrize(
    "fault", [Fault("never_answer"), Fault("stall", after_bytes=0), Fault("stall", after_frames=1)], ids=lambda f: f.what
)
def test_silence_lasts_until_the_client_leaves(proxied, fault):
    proxy = proxied(fault)
    before = threading.active_count()
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=0.2) as sock:
        body = b'{"prompt": "x", "stream": true}'
        head = f"POST /v1/completions HTTP/1.1\r\nauthorization: Bearer {proxy.target.key}\r\ncontent-length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        with pytest.raises(TimeoutError):
            b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert proxy.applied == 1
    assert until(lambda: not proxy._tasks)  # the passage ended with its client
    assert threading.active_count() == before


def test_a_delay_is_a_delay(proxied):
    proxy = proxied(Fault("latency", seconds=0.3))
    started = time.monotonic()
    assert why(proxy.target) == "length"
    assert time.monotonic() - started >= 0.3


def test_faults_go_round_in_turn_and_with_a_seed_are_drawn_alike_every_time(proxied):
    faults = (Fault("canned", status=500), Fault("canned", status=502), Fault("canned", status=503))

    def statuses(**options):
        proxy = proxied(*faults, **options)
        return [ask(proxy.target, BODY)[0] for _ in range(12)]

    assert statuses() == [500, 502, 503] * 4
    drawn = statuses(seed=3)
    assert drawn == statuses(seed=3) != statuses(seed=4)
    assert len(set(drawn)) == 3


def test_a_server_that_is_not_there_is_a_reset_and_never_an_answer():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with Proxy(Target(f"http://127.0.0.1:{port}", "m")) as proxy:
        assert why(proxy.target) in ("reset", "truncated")


def test_stopping_ends_open_connections_and_its_thread(proxied):
    proxy = proxied(Fault("never_answer"))
    sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=20)
    with sock:
        assert until(lambda: len(proxy.ledger) == 1)
        proxy.stop()
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b""
    assert not any(thread.name == "fault-proxy" and thread is proxy._thread for thread in threading.enumerate())
    proxy.stop()
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def test_stopping_while_a_connection_closes_leaves_nothing_open(proxied, monkeypatch):
    seen: list[asyncio.StreamWriter] = []
    connect = asyncio.open_connection

    async def remembered(*where):
        reader, writer = await connect(*where)
        seen.append(writer)
        return reader, writer

    async def forever(_):
        await asyncio.sleep(3600)

    monkeypatch.setattr(asyncio, "open_connection", remembered)
    monkeypatch.setattr(asyncio.StreamWriter, "wait_closed", forever)
    proxy = proxied(Fault("fin"))
    assert why(proxy.target) in ("reset", "truncated")
    assert until(lambda: proxy.applied == 1)
    proxy.stop()  # cancelled while it waits for the client's side to close
    assert [writer.transport.is_closing() for writer in seen] == [True]


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\ndata:", b"data:", b"\nda", b"ta:", b"\n"]), max_size=12), st.integers(0, 4))
@settings(derandomize=True, deadline=None)
def test_a_frame_is_found_however_the_bytes_are_cut(parts, after):
    whole = b"".join(parts)
    starts = [at + 1 for at in range(len(whole)) if whole.startswith(b"\ndata:", at)]
    expected = starts[after] if after < len(starts) else None
    place, seen, found = _Place(Fault("fin", after_frames=after)), 0, None
    for part in parts:
        at = place.find(part)
        if at is not None and found is None:
            found = seen + at
            assert 0 <= at <= len(part)
        seen += len(part)
    assert (found is None) == (expected is None)
    assert place.frames == len(starts)
    if expected is not None:
        assert expected <= found <= expected + 5  # bytes that had passed before the frame was known to be one
    alone = _Place(Fault("fin", after_frames=after)).find(whole)
    assert alone == expected


@given(st.lists(st.binary(max_size=9), max_size=9), st.integers(0, 40))
@settings(derandomize=True, deadline=None)
def test_a_byte_is_found_however_the_bytes_are_cut(parts, after):
    place, seen, found = _Place(Fault("fin", after_bytes=after)), 0, None
    for part in parts:
        at = place.find(part)
        if at is not None and found is None:
            found = seen + at
        seen += len(part)
    assert found == (after if after < seen else None)


@pytest.mark.parametrize("said", [
    {"what": "explode"}, {"what": "fin", "after_bytes": -1}, {"what": "fin", "after_frames": -1}, {"what": "bandwidth"},
    {"what": "fin", "bytes_per_s": 5}, {"what": "latency"}, {"what": "stall", "seconds": -1},
])  # fmt: skip
def test_a_wrong_fault_is_refused(said):
    with pytest.raises(ConfigError, match=r"fault|Fault"):
        Fault(**said)


def test_a_proxy_needs_a_fault(server):
    with pytest.raises(ConfigError, match="pass"):
        Proxy(server.target, ())
