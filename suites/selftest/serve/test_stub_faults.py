"""Each fault of the stub does what its name says, when its triggers say, and is told in the truth; without it all is well."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from email.utils import parsedate_to_datetime

import pytest

from harness.engines.sse import Expect, completeness, split
from harness.errors import ConfigError, EngineError
from harness.serve.stub import answer, start
from harness.serve.stub.plan import FAULTS, Fault, Plan
from suites.selftest.serve.test_stub import STREAM, ask, get, metric, texts, until

pytestmark = pytest.mark.selftest

BODY = {"prompt": "one two", "max_tokens": 6, "ignore_eos": True}
EXPECT = Expect(max_tokens=6, ignore_eos=True, model="stub")

# what the completeness rule says of a stream with the fault; "" where the answer is whole
STREAMED = [
    ({"what": "fin", "after_frame": 3}, "truncated"), ({"what": "rst", "after_frame": 3}, "reset"), ({"what": "fin"}, "truncated"),
    ({"what": "no_finish"}, "no_finish_reason"), ({"what": "no_finish", "after_frame": 2}, "no_finish_reason"),
    ({"what": "no_done"}, "no_terminator"), ({"what": "error_frame", "after_frame": 3}, "error_frame"),
    ({"what": "status", "code": 500}, "http_error"), ({"what": "status", "code": 502}, "http_error"),
    ({"what": "status", "code": 503}, "shed"), ({"what": "status", "code": 429, "retry_after": 1}, "shed"),
    ({"what": "cut_json", "after_frame": 2}, "malformed_sse"), ({"what": "bad_utf8", "after_frame": 2}, "malformed_sse"),
    ({"what": "no_blank_line", "after_frame": 2}, "malformed_sse"), ({"what": "crlf"}, ""), ({"what": "comments"}, ""),
    ({"what": "byte_by_byte"}, ""), ({"what": "coalesced", "frames": 3}, ""), ({"what": "zero_tokens"}, "zero_tokens"),
    ({"what": "duplicate_frames", "after_frame": 2}, "duplicate_frames"), ({"what": "wrong_usage", "by": -3}, "usage_mismatch"),
    ({"what": "wrong_usage", "by": 3}, "usage_mismatch"), ({"what": "no_usage"}, "usage_mismatch"),
    ({"what": "early_eos", "tokens": 2}, "early_eos"),
    ({"what": "wrong_model"}, "wrong_model"), ({"what": "other_id", "after_frame": 2}, "malformed_sse"),
    ({"what": "after_done"}, "malformed_sse"), ({"what": "wrong_tokens"}, ""), ({"what": "delay", "seconds": 0.05}, ""),
    ({"what": "slow_headers", "seconds": 0.05}, ""), ({"what": "stall", "seconds": 0.05, "after_frame": 2}, ""),
    ({"what": "freeze", "seconds": 0.05}, ""), ({"what": "frozen", "seconds": 0.05}, ""),
    ({"what": "ignored_options", "options": ["ignore_eos", "max_tokens"]}, "usage_mismatch"),
]  # fmt: skip
ALONE = {"never_answer", "deaf_health", "lying_metrics", "exit"}  # tested by themselves, below
WHOLE = (
    "fin",
    "rst",
    "status",
    "no_finish",
    "zero_tokens",
    "no_usage",
    "early_eos",
    "error_frame",
    "wrong_tokens",
    "byte_by_byte",
    "stall",
)


def test_every_fault_is_tested():
    assert {fault["what"] for fault, _ in STREAMED} | ALONE == set(FAULTS)


@pytest.fixture(scope="module")
def spoilt():
    """One server with every fault, each for a request of its own."""
    faults = [{**fault, "when": {"request": number}} for number, (fault, _) in enumerate(STREAMED)]
    with start({"service": {"kind": "tokens", "gap_s": 0.001, "tokens": 7}, "faults": faults}) as server:
        yield server


@pytest.mark.parametrize("number", range(len(STREAMED)), ids=lambda n: f"{n}-{STREAMED[n][0]['what']}")
@pytest.mark.parametrize("chat", [False, True])
def test_a_stream_with_the_fault_is_what_the_completeness_rule_says_and_its_twin_is_whole(spoilt, number, chat):
    fault, cause = STREAMED[number]
    body, path = {**BODY, **STREAM}, "/v1/completions"
    if chat:
        body, path = {**body, "messages": [{"role": "user", "content": "one two"}]}, "/v1/chat/completions"
    golden = answer(body["messages"] if chat else "one two", 0, 6)
    for sent, expected in ((1000 + number, ""), (number, cause)):
        status, data, ended, _ = ask(spoilt.target, body, path=path, number=sent)
        reply, _ = completeness(status, data, ended, EXPECT)
        assert reply.why == (expected or "length"), reply.detail
        if not expected:
            assert (reply.text.decode() == golden) == (sent != number or fault["what"] != "wrong_tokens")
    rows = {row["request"]: row for row in spoilt.truth()}
    assert (rows[1000 + number]["faults"], rows[number]["faults"]) == ([], [fault["what"]])
    assert rows[1000 + number]["how"] == "complete"
    assert rows[number]["how"] == (fault["what"] if fault["what"] in ("fin", "rst") else "complete")


@pytest.mark.parametrize("number", [n for n, (fault, _) in enumerate(STREAMED) if fault["what"] in WHOLE])
def test_an_answer_that_is_not_streamed_has_the_fault_too(spoilt, number):
    fault, cause = STREAMED[number]
    status, data, ended, _ = ask(spoilt.target, BODY, number=number)
    reply, _ = completeness(status, data, ended, Expect(stream=False, max_tokens=6, ignore_eos=True))
    assert reply.why == ({"error_frame": "http_error"}.get(fault["what"], cause) or "length"), reply.detail


def test_the_process_ends_with_the_code_that_was_named_and_its_truth_is_written(stub):
    server = stub({"faults": [{"what": "exit", "code": 3, "after_frame": 2, "when": {"request": 1}}]})
    assert ask(server.target, {**BODY, **STREAM}, number=0)[2] == "whole"
    status, data, ended, _ = ask(server.target, {**BODY, **STREAM}, number=1)
    assert completeness(status, data, ended, EXPECT)[0].why in ("truncated", "reset")
    assert until(lambda: server.exit_code == 3)
    assert [row["how"] for row in server.truth()] == ["complete", "exit"]


def _frames(data):
    return sum(b'"text":"' in payload and b'"text":""' not in payload for payload in split(data)[0])


@pytest.mark.parametrize("what", ["fin", "error_frame"])
@pytest.mark.parametrize("after", [0, 1, 4, 99])
def test_a_stream_is_cut_behind_the_frame_that_was_named_and_always_before_its_last(stub, what, after):
    server = stub({"faults": [{"what": what, "after_frame": after}]})
    _, data, _, _ = ask(server.target, {**BODY, **STREAM})
    assert _frames(data) == min(after, 5) == server.truth()[0]["frames"]


def test_wrong_tokens_begin_behind_the_frame_that_was_named(stub):
    server = stub({"faults": [{"what": "wrong_tokens", "after_frame": 4}]})
    text = texts(ask(server.target, {**BODY, **STREAM})[1])
    right = answer("one two", 0, 6)
    assert text != right
    assert text.startswith(answer("one two", 0, 4))


# --- when -------------------------------------------------------------------------------------------------


def _struck(when, requests, *, seed=0, count=None, inflight=1, seconds=0.0, prompt=""):
    fault = Fault.parse(0, {"what": "fin", "when": when, "count": count})
    return [n for n in requests if fault.strikes(seed, n, inflight, seconds, prompt)]


def test_triggers_by_number():
    assert _struck({"request": 7}, range(20)) == [7]
    assert _struck({"request": [1, 3]}, range(20)) == [1, 3]
    assert _struck({"nth": 5}, range(20)) == [4, 9, 14, 19]
    assert _struck({"nth": 5}, range(20), count=2) == [4, 9]
    assert _struck({"nth": 2, "request": [1, 2, 3]}, range(20)) == [1, 3]
    assert _struck({}, range(3)) == [0, 1, 2]


def test_a_probability_is_kept_depends_on_the_seed_and_not_on_the_order():
    found = _struck({"p": 0.05}, range(20_000))
    assert 850 < len(found) < 1150
    assert _struck({"p": 0.05}, reversed(range(20_000))) == found[::-1]
    assert _struck({"p": 0.05}, range(20_000), seed=1) != found
    assert _struck({"p": 0}, range(100)) == []
    assert _struck({"p": 1}, range(100)) == list(range(100))


def test_triggers_by_load_time_and_prompt():
    assert [n for n in (39, 40, 41) if _struck({"inflight_above": 40}, [0], inflight=n)] == [41]
    assert [t for t in (0.9, 1, 1.9, 2) if _struck({"between": [1, 2]}, [0], seconds=t)] == [1, 1.9]
    assert _struck({"prompt": "long"}, [0], prompt="a long one")
    assert not _struck({"prompt": "long"}, [0], prompt="short")


def test_wrong_tokens_above_a_number_in_flight_are_invisible_alone(stub):
    server = stub(
        {"service": {"kind": "tokens", "ttft_s": 0.2, "tokens": 6}, "faults": [{"what": "wrong_tokens", "when": {"inflight_above": 2}}]}
    )
    from concurrent.futures import ThreadPoolExecutor

    golden = answer("one two", 0, 6)
    assert json.loads(ask(server.target, BODY)[1])["choices"][0]["text"] == golden
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(lambda n: (n, json.loads(ask(server.target, BODY, number=n)[1])["choices"][0]["text"]), range(10, 15)))
    rows = {row["request"]: row for row in server.truth()}
    assert max(row["inflight"] for row in rows.values()) > 2
    assert all((text != golden) == (rows[n]["inflight"] > 2) == (rows[n]["faults"] == ["wrong_tokens"]) for n, text in found)


def test_how_often_each_fault_struck_is_told(stub):
    server = stub({"faults": [{"what": "no_done", "when": {"nth": 2}}, {"what": "fin", "when": {"request": 99}}]})
    for number in range(4):
        ask(server.target, {**BODY, **STREAM}, number=number)
    assert server.state() == {"requests": 4, "open": 0, "faults": [{"what": "no_done", "applied": 2}, {"what": "fin", "applied": 0}]}
    server.stop()
    assert server.state() == {}


# --- single switches -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "shown"), [(3, "3"), ("absurd", "99999999"), (None, None), ("date", "date")])
def test_retry_after_comes_in_its_four_kinds(stub, said, shown):
    server = stub({"faults": [{"what": "status", "code": 429, "retry_after": said}]})
    status, data, _, headers = ask(server.target, BODY)
    assert (status, json.loads(data)["error"]["code"]) == (429, 429)
    value = headers.get("Retry-After")
    if shown == "date":
        assert parsedate_to_datetime(value).timestamp() > time.time() - 60
    else:
        assert value == shown
    assert server.truth()[0]["status"] == 429


def test_a_request_that_is_never_answered_stays_open_and_is_told_at_the_end(stub):
    server = stub({"faults": [{"what": "never_answer"}]})
    with pytest.raises(TimeoutError):
        _impatient(server.target)
    assert until(lambda: [row["how"] for row in server.truth()] == ["client_gone"])
    other = stub({"faults": [{"what": "never_answer"}]})
    with contextlib.suppress(TimeoutError), contextlib.ExitStack() as stack:
        _impatient(other.target, stack, other)
    assert [row["how"] for row in other.truth()] == ["open"]


def _impatient(target, stack=None, server=None):
    import socket

    body = json.dumps(BODY).encode()
    with socket.create_connection((target.host, target.port), timeout=0.2) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        if server is not None:
            assert until(lambda: server.state()["open"] == 1)
            server.stop()
            return
        sock.recv(1)


def test_health_may_be_deaf_while_everything_else_works(stub):
    import http.client

    server = stub({"faults": [{"what": "deaf_health", "count": 1}]})
    connection = http.client.HTTPConnection(server.target.host, server.target.port, timeout=0.2)
    connection.request("GET", "/health")
    with contextlib.closing(connection), pytest.raises(TimeoutError):
        connection.getresponse()
    assert ask(server.target, BODY)[0] == 200
    assert get(server.target, "/health")[0] == 200  # the count is used up


def test_a_frozen_engine_makes_no_step_while_health_says_200(stub):
    server = stub({"service": {"kind": "tokens", "gap_s": 0.01, "tokens": 50}, "faults": [{"what": "frozen"}]})
    with pytest.raises(TimeoutError):
        _impatient(server.target)  # nothing comes, not even the first token
    other = stub({"service": {"kind": "tokens", "ttft_s": 0.01, "tokens": 2}, "faults": [{"what": "frozen", "when": {"request": 1}}]})
    assert ask(other.target, BODY, number=0)[0] == 200
    steps = metric(other, "vllm:iteration_tokens_total_count")
    import socket

    body = json.dumps(BODY).encode()
    with socket.create_connection((other.target.host, other.target.port), timeout=5) as sock:
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nx-request-id: 1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        assert until(lambda: metric(other, "vllm:num_requests_running") == 1)
        for _ in range(5):
            assert get(other.target, "/health")[0] == 200
            assert metric(other, "vllm:iteration_tokens_total_count") == steps > 0
            time.sleep(0.02)


def test_a_freeze_holds_up_every_request_and_is_in_the_truth(stub):
    from concurrent.futures import ThreadPoolExecutor

    server = stub(
        {"service": {"kind": "tokens", "ttft_s": 0.1, "tokens": 2}, "faults": [{"what": "freeze", "seconds": 0.5, "when": {"request": 1}}]}
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda n: ask(server.target, BODY, number=n), (0, 1)))
    rows = {row["request"]: row for row in server.truth()}
    assert all(row["first"] - row["whole"] >= 500_000_000 for row in rows.values() if row["seen"] <= rows[1]["whole"])
    assert rows[1]["first"] - rows[1]["whole"] >= 600_000_000  # computing stood still as well


def test_a_queue_with_a_bound_sheds_and_counts_what_it_shed(stub):
    from concurrent.futures import ThreadPoolExecutor

    server = stub({"service": {"kind": "mgc", "servers": 1, "cv": 0, "service_s": 0.3, "queue": 2, "tokens": 2}})
    with ThreadPoolExecutor(6) as pool:
        found = sorted(pool.map(lambda n: ask(server.target, BODY, number=n)[0], range(6)))
    assert found == [200] * 3 + [503] * 3
    assert metric(server, "vllm:admission_rejections_total") == 3
    assert sorted(row["status"] for row in server.truth()) == found


LIES = {
    "doubled": ("vllm:prompt_tokens_total", {}, 2), "stuck": ("vllm:iteration_tokens_total_count", {}, 0),
    "no_abort": ("vllm:request_success_total", {"finished_reason": "abort"}, 0),
}  # fmt: skip


@pytest.mark.parametrize("how", [*LIES, "shifted"])
def test_metrics_lie_in_the_way_that_was_asked_for(stub, how):
    pages = []
    for faults in ([], [{"what": "lying_metrics", "how": how}]):
        server = stub({"service": {"kind": "tokens", "ttft_s": 0.002, "tokens": 3}, "faults": faults})
        ask(server.target, BODY)
        slow = stub({"service": {"kind": "tokens", "ttft_s": 60, "tokens": 3}, "faults": faults})
        with pytest.raises(TimeoutError):
            _impatient(slow.target)
        assert until(lambda slow=slow: slow.state()["open"] == 0)
        pages.append((server, slow))
    if how == "shifted":
        name, edge = "vllm:e2e_request_latency_seconds_bucket", "0.3"
        assert [metric(server, name, le=edge) for server, _ in pages] == [1, 0]
        assert [metric(server, name, le="+Inf") for server, _ in pages] == [1, 1]
        return
    name, labels, factor = LIES[how]
    true, told = (metric(pair[how == "no_abort"], name, **labels) for pair in pages)
    assert true > 0
    assert told == factor * true


# --- plans, and the process -----------------------------------------------------------------------------


@pytest.mark.parametrize(("plan", "said"), [
    ({"service": {"kind": "mg"}}, "did you mean|mgc"), ({"service": {"kind": "mgc", "service": 1}}, "service"),
    ({"service": {"tokens": 0}}, "at least 1"), ({"service": {"ttft_s": -1}}, "ttft_s"), ({"service": {"ttft_s": float("nan")}}, "ttft_s"),
    ({"service": {"ttft_s": "1"}}, "ttft_s"), ({"faults": [{"what": "explode"}]}, "explode"), ({"faults": {"what": "fin"}}, "list"),
    ({"faults": [{"what": "fin", "when": {"often": 1}}]}, "often"), ({"faults": [{"what": "fin", "when": {"p": 2}}]}, "when.p"),
    ({"faults": [{"what": "fin", "when": {"nth": 0}}]}, "when.nth"), ({"faults": [{"what": "fin", "seconds": 1}]}, "seconds"),
    ({"faults": [{"what": "fin", "after_frame": -1}]}, "after_frame"), ({"faults": [{"what": "lying_metrics", "how": "x"}]}, "how"),
    ({"colour": 1}, "colour"), ({"draw": "dice"}, "draw"), ({"seed": "x"}, "seed"), ({"context": 0}, "context"),
])  # fmt: skip
def test_a_wrong_plan_is_refused_with_the_place_of_the_mistake(plan, said):
    with pytest.raises(ConfigError, match=said):
        Plan.parse(plan)


def test_start_refuses_a_wrong_plan_itself():
    with pytest.raises(ConfigError, match="colour"):
        start({"colour": 1})


def test_a_wrong_plan_on_the_command_line_is_exit_status_2(tmp_path):
    file = tmp_path / "plan.json"
    for text in ("{", "[]", '{"service": {"kind": "x"}}'):
        file.write_text(text)
        done = subprocess.run([sys.executable, "-m", "harness.serve.stub", "--plan", str(file)], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("stub: stub plan")


def test_a_port_that_is_taken_is_an_error(stub, tmp_path, capfd):
    file = tmp_path / "plan.json"
    file.write_text("{}")
    argv = [sys.executable, "-m", "harness.serve.stub", "--plan", str(file), "--port", str(stub({}).target.port)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 2
    assert "in use" in done.stderr


def test_a_server_that_dies_before_it_listens_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineError, match="ended with code 1"):
        start({})


def test_the_stub_ends_with_the_process_that_started_it(tmp_path):
    code = "import time; from harness.serve.stub import start; s = start({}); print(s.pid, flush=True); time.sleep(60)"
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    with owner, owner.stdout:
        pid = int(owner.stdout.readline())
        assert os.path.exists(f"/proc/{pid}")
        owner.send_signal(signal.SIGKILL)
    assert until(lambda: not os.path.exists(f"/proc/{pid}") or _zombie(pid))


def _zombie(pid):
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] == "Z"
    return True


def test_it_starts_light(tmp_path):
    code = "import sys, harness.serve.stub, harness.serve.stub.server; print(*sys.modules)"
    loaded = set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())
    assert loaded.isdisjoint({"asyncio", "numpy", "torch", "aiohttp", "uvloop", "msgspec", "http.client", "email", "ssl"})


def test_the_fast_mode_answers_in_frames_that_are_whole_and_told(stub):
    server = stub({"service": {"kind": "fast", "tokens": 40}})
    for path in ("/v1/completions", "/v1/chat/completions"):
        for options, stream in ((STREAM, True), ({}, False)):
            status, data, ended, _ = ask(server.target, {"prompt": "x", "messages": [], "max_tokens": 40, **options}, path=path)
            reply, _ = completeness(status, data, ended, Expect(stream=stream, max_tokens=40, model="stub"))
            assert (reply.outcome, reply.tokens) == ("complete", 40), reply.detail
    assert [(row["frames"], row["tokens"]) for row in server.truth()] == [(40, 40), (1, 40)] * 2
