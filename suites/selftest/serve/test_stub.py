"""The stub does what its plan says, tells the truth about it, and answers as a server of its kind does."""

from __future__ import annotations

import contextlib
import heapq
import http.client
import json
import math
import re
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.sse import Expect, completeness, split
from harness.serve.stub import answer, sojourns, start, true_quantile
from harness.serve.stub.answers import logprob, pieces, render, token_id, tokenize
from harness.serve.stub.engine import Engine
from harness.serve.stub.plan import Plan, uniform
from harness.serve.stub.request import wanted
from harness.serve.stub.script import frames, whole
from harness.serve.telemetry.exposition import parse as metrics_of

pytestmark = pytest.mark.selftest

STREAM = {"stream": True, "stream_options": {"include_usage": True}}


def ask(target, body, *, path="/v1/completions", number=None, headers=(), method="POST"):
    """status, body, how the body ended, headers: a client that hides nothing."""
    connection = http.client.HTTPConnection(target.host, target.port, timeout=20)
    sent = {"Content-Type": "application/json", **dict(headers)}
    if number is not None:
        sent["X-Request-Id"] = f"ab12-{number}"
    if target.key:
        sent.setdefault("Authorization", f"Bearer {target.key}")
    data = body if isinstance(body, bytes) else json.dumps({"model": target.model, **body}).encode()
    try:
        connection.request(method, path, data, sent)
        reply = connection.getresponse()
        try:
            return reply.status, reply.read(), "whole", reply.headers
        except http.client.IncompleteRead as cut:
            return reply.status, cut.partial, "fin", reply.headers
    except http.client.BadStatusLine:
        return 0, b"", "fin", {}
    except ConnectionResetError:
        return 200, b"", "reset", {}
    finally:
        connection.close()


def get(target, path):
    return ask(target, b"", path=path, method="GET")


def texts(body):
    """The text of a stream's first choice."""
    found = [json.loads(payload) for payload in split(body)[0] if payload != b"[DONE]"]
    choices = [choice for frame in found for choice in frame["choices"] if choice["index"] == 0]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


@pytest.fixture(scope="module")
def plain():
    with start({}) as server:
        yield server.target


# --- answers ------------------------------------------------------------------------------------------

PROMPTS = st.text(max_size=60)


@given(PROMPTS, st.integers(0, 5), st.integers(0, 100))
@settings(derandomize=True, deadline=None)
def test_an_answer_is_a_pure_function_and_longer_ones_begin_with_shorter_ones(prompt, seed, n):
    made = pieces(prompt, seed, n)
    assert len(made) == n
    assert made == pieces(prompt, seed, n + 7)[:n]
    assert "".join(made) == answer(prompt, seed, n)


@given(PROMPTS, st.integers(1, 40))
@settings(derandomize=True, deadline=None)
def test_tokens_spell_the_text_and_an_answer_keeps_its_tokens_behind_its_prompt(prompt, n):
    assert "".join(tokenize(prompt)) == prompt
    if not prompt or not prompt[-1].isspace() or prompt[-1] == "\n":
        assert tokenize(prompt + answer(prompt, 0, n)) == tokenize(prompt) + pieces(prompt, 0, n)


def test_other_prompts_and_seeds_get_other_answers():
    found = {answer(f"prompt {i}", seed) for i in range(50) for seed in range(4)}
    assert len(found) == 200


STOPS = st.lists(st.sampled_from(["ba", " si", "l ", "er re", "zz", "o"]), min_size=1, max_size=3)


@given(PROMPTS.filter(bool), STOPS, st.booleans(), st.integers(1, 40), st.booleans())
@settings(derandomize=True, deadline=None)
def test_a_stream_spells_the_answer_that_is_not_streamed(prompt, stop, chat, tokens, include):
    body = {"stop": stop, "max_tokens": tokens, "ignore_eos": True, "include_stop_str_in_output": include}
    plan = Plan()
    shown = render([{"role": "user", "content": prompt}]) if chat else prompt
    one = json.loads(whole(wanted(body, chat, shown, plan, ("stub",), (), 0)))["choices"][0]
    steps = frames(wanted({**body, **STREAM}, chat, shown, plan, ("stub",), (), 0))
    body_bytes = b"".join(step.data for step in steps)
    text = one["message"]["content"] if chat else one["text"]
    assert texts(body_bytes) == text
    full = answer(shown, 0, tokens)
    cut = min((full.find(each) + len(each) for each in stop if each in full), default=None)
    assert full.startswith(text)
    assert (one["finish_reason"] == "stop") == (cut is not None)
    if cut is not None and include:
        assert text == full[:cut]
    if text:
        reply, _ = completeness(200, body_bytes, "whole", Expect(max_tokens=tokens))
        assert (reply.outcome, reply.text.decode()) == ("complete", text)
        assert sum(step.tokens for step in steps) == reply.tokens


# --- the protocol ---------------------------------------------------------------------------------------


def test_both_endpoints_answer_with_the_golden_text_and_their_usage(stub):
    target = stub({"service": {"tokens": 8}}).target
    status, body, _, _ = ask(target, {"prompt": "one two", "max_tokens": 5})
    reply = json.loads(body)
    assert (status, reply["choices"][0]["text"]) == (200, answer("one two", 0, 5))
    assert reply["choices"][0]["finish_reason"] == "length"
    assert reply["usage"] == {"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7, "prompt_tokens_details": None}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    _, body, ended, _ = ask(target, {"messages": messages, **STREAM}, path="/v1/chat/completions")
    reply, _ = completeness(200, body, ended, Expect(model="stub"))
    assert (reply.outcome, reply.why, reply.tokens) == ("complete", "stop", 8)
    assert reply.text.decode() == answer(messages, 0, 8)


def test_options_have_their_effect(plain):
    target = plain

    def text(**options):
        return json.loads(ask(target, {"prompt": "p", "max_tokens": 12, **options})[1])["choices"][0]["text"]

    plain = text()
    assert text() == plain
    assert text(seed=3) == plain  # greedy
    sampled = text(temperature=1, seed=3)
    assert sampled != plain
    assert sampled == text(temperature=1, seed=3) == answer("p", 3, 12)
    assert len({text(temperature=1, seed=seed) for seed in range(5)}) == 5
    assert text(temperature=1) != text(temperature=1)  # no seed: drawn anew
    assert text(temperature=1, seed=3, top_k=1) == plain
    assert text(temperature=1, seed=3, min_p=1) == plain
    assert text(presence_penalty=1.5) != plain
    assert text(echo=True) == "p" + plain
    assert len(tokenize(text(max_tokens=30))) == 16  # its own length
    assert len(tokenize(text(max_tokens=30, ignore_eos=True))) == 30
    assert len(tokenize(text(max_tokens=30, min_tokens=20))) == 20
    several = json.loads(ask(target, {"prompt": "p", "n": 3, "temperature": 1, "seed": 1})[1])
    assert [each["index"] for each in several["choices"]] == [0, 1, 2]
    assert len({each["text"] for each in several["choices"]}) == 3
    assert several["usage"]["completion_tokens"] == 48


def test_scores_of_a_generation_of_its_echo_and_of_its_prompt_agree(plain):
    target = plain
    prompt = "alpha beta\ngamma"
    made = json.loads(ask(target, {"prompt": prompt, "max_tokens": 6, "logprobs": 3})[1])["choices"][0]
    longer = prompt + made["text"]
    echoed = json.loads(ask(target, {"prompt": longer, "max_tokens": 1, "logprobs": 1, "echo": True})[1])["choices"][0]["logprobs"]
    scored = json.loads(ask(target, {"prompt": longer, "max_tokens": 1, "prompt_logprobs": 2})[1])["choices"][0]["prompt_logprobs"]
    start = len(tokenize(prompt))
    assert made["logprobs"]["tokens"] == echoed["tokens"][start : start + 6]
    assert made["logprobs"]["token_logprobs"] == echoed["token_logprobs"][start : start + 6]
    chain = tokenize(longer)
    assert scored[0] is None
    assert [row[str(token_id(piece))]["logprob"] for row, piece in zip(scored[1:], chain[1:], strict=True)] == echoed["token_logprobs"][
        1:-1
    ]
    assert all(max(row.values(), key=lambda v: v["logprob"])["rank"] == 1 for row in scored[1:])
    assert "".join(echoed["tokens"]).startswith(longer)
    assert [longer[at : at + len(piece)] for at, piece in zip(echoed["text_offset"][:-1], echoed["tokens"][:-1], strict=True)] == chain
    assert made["logprobs"]["token_logprobs"][1] == logprob(*made["logprobs"]["tokens"][:2])


def test_ids_of_tokenize_are_accepted_as_a_prompt(plain):
    target = plain
    shown = json.loads(ask(target, {"prompt": "some text\nhere"}, path="/tokenize")[1])
    assert shown["count"] == len(shown["tokens"]) == 4
    by_ids = json.loads(ask(target, {"prompt": shown["tokens"], "return_token_ids": True})[1])
    assert by_ids["choices"][0]["text"] == answer("some text\nhere")
    assert by_ids["choices"][0]["prompt_token_ids"] == shown["tokens"]
    assert by_ids["choices"][0]["token_ids"] == [token_id(piece) for piece in pieces("some text\nhere", 0, 16)]
    back = json.loads(ask(target, {"tokens": shown["tokens"]}, path="/detokenize")[1])
    assert back["prompt"] == "some text\nhere"


WRONG = [
    (b"{", 400), (b"[]", 400), (b'{"prompt": NaN}', 400), ({"prompt": ""}, 400), ({"prompt": 3}, 400), ({}, 400), ({"prompt": [-1]}, 400),
    ({"prompt": [50_000]}, 400), ({"prompt": "a", "max_tokens": 0}, 400),
    ({"prompt": "a", "max_tokens": "5"}, 400), ({"prompt": "a", "max_tokens": True}, 400),
    ({"prompt": "a", "temperature": -1}, 400), ({"prompt": "a", "temperature": "hot"}, 400), ({"prompt": "a", "top_p": 0}, 400),
    ({"prompt": "a", "n": 0}, 400), ({"prompt": "a", "stop": [1]}, 400), ({"prompt": "a", "stream": "yes"}, 400),
    ({"prompt": "a", "stream_options": {}}, 400), ({"prompt": "a", "stream": True, "prompt_logprobs": 1}, 400),
    ({"prompt": "a", "logprobs": 99}, 400), ({"prompt": "a", "suffix": "b"}, 400), ({"prompt": "a", "max_tokens": 4096}, 400),
    ({"prompt": "a " * 3000}, 400), ({"prompt": "a", "model": "no such"}, 404),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status"), WRONG)
def test_bad_requests_are_refused_and_the_connection_lives(plain, body, status):
    target = plain
    connection = http.client.HTTPConnection(target.host, target.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/v1/completions", body if isinstance(body, bytes) else json.dumps(body), {"X-Request-Id": "1"})
        reply = connection.getresponse()
        error = json.loads(reply.read())["error"]
        assert (reply.status, error["code"]) == (status, status)
        assert error["message"]
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "a"}))
        assert connection.getresponse().status == 200


CHATS = [{"messages": []}, {"messages": "hi"}, {"messages": [{"content": "x"}]}, {"messages": [{"role": "user", "content": 3}]},
         {"messages": [{"role": "user", "content": "x"}], "top_logprobs": 2},
         {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function"}]}]  # fmt: skip


def test_bad_conversations_unknown_paths_and_methods_are_refused(plain):
    target = plain
    assert [ask(target, body, path="/v1/chat/completions")[0] for body in CHATS] == [400] * len(CHATS)
    assert get(target, "/nothing")[0] == 404
    assert get(target, "/v1/completions")[0] == 405


def test_an_unknown_option_is_ignored_and_by_a_strict_stub_refused(stub, plain):
    body = {"prompt": "a", "no_such_option": 1}
    assert ask(plain, body)[0] == 200
    strict = stub({"strict": True}).target
    assert ask(strict, {"prompt": "a"})[0] == 200
    assert (ask(strict, body)[0], json.loads(ask(strict, body)[1])["error"]["param"]) == (400, "no_such_option")


def test_the_longest_prompt_is_served_and_one_token_more_is_refused(stub):
    target = stub({"context": 64}).target
    fits = {"prompt": "a" + " a" * 59, "max_tokens": 4}
    assert ask(target, fits)[0] == 200
    assert ask(target, {**fits, "prompt": fits["prompt"] + " a"})[0] == 400


def test_a_key_is_asked_for_under_v1_alone_and_is_in_no_text(stub):
    server = stub({"key": True})
    target = server.target
    assert target.key
    assert ask(target, {"prompt": "a"})[0] == 200
    for wrong in ("", "Bearer", "Bearer nope"):
        assert ask(target, {"prompt": "a"}, headers={"Authorization": wrong})[0] == 401
    assert ask(target, b"", path="/v1/models", method="GET", headers={"Authorization": "x"})[0] == 401
    assert get(target, "/health")[0] == 200
    with open(f"/proc/{server.pid}/cmdline", "rb") as file:
        assert target.key.encode() not in file.read()
    assert target.key not in repr(target)


def test_it_says_that_it_is_a_test_double_and_lists_its_names(stub):
    server = stub({"model": 'm"\\', "names": ["nonce-7f3a"]})
    data = json.loads(get(server.target, "/v1/models")[1])["data"]
    assert [each["id"] for each in data] == ['m"\\', "nonce-7f3a"]
    assert metric(server, "vllm:num_requests_running", model_name='m"\\') == 0
    assert ask(server.target, {"prompt": "a", "model": "nonce-7f3a"})[0] == 200
    assert {each["owned_by"] for each in data} == {"harness test double"}


def test_pipelined_requests_and_chunked_bodies_are_answered_in_order(stub):
    target = stub({"service": {"kind": "tokens", "ttft_s": 0.01, "tokens": 4}}).target
    bodies = [json.dumps({"prompt": f"p{i}"}).encode() for i in range(3)]
    data = b"".join(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body) for body in bodies[:2])
    data += b"POST /v1/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
    data += b"4\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (bodies[2][:4], len(bodies[2]) - 4, bodies[2][4:])
    with socket.create_connection((target.host, target.port), timeout=20) as sock:
        for byte in (data[:70], data[70:71], data[71:]):
            sock.sendall(byte)
        reply = b"".join(iter(lambda: sock.recv(4096), b""))
    assert reply.count(b"HTTP/1.1 200 OK") == 3
    places = [reply.find(json.dumps(answer(f"p{i}", 0, 4)).encode()) for i in range(3)]
    assert -1 < places[0] < places[1] < places[2]


# --- the truth ------------------------------------------------------------------------------------------


def test_truth_lies_between_what_the_client_did_and_saw(stub):
    server = stub({"service": {"kind": "tokens", "ttft_s": 0.02, "gap_s": 0.01, "tokens": 6}})
    before = time.monotonic_ns()
    _, body, _, _ = ask(server.target, {"prompt": "a b c", **STREAM}, number=41)
    after = time.monotonic_ns()
    (row,) = server.truth()
    assert (row["request"], row["id"], row["ordinal"], row["how"], row["status"]) == (41, "ab12-41", 0, "complete", 200)
    assert before <= row["seen"] <= row["whole"] < row["due"] <= row["first"] < row["last"] <= row["end"] <= after
    assert row["due"] - row["whole"] >= 20_000_000  # never before it is due
    assert row["last"] - row["due"] >= 50_000_000
    assert (row["frames"], row["tokens"], row["prompt_tokens"], row["inflight"]) == (6, 6, 3, 1)
    assert len(split(body)[0]) == 8
    server.stop()
    assert server.truth() == [row]
    assert server.exit_code == 0


def test_requests_in_flight_are_counted_at_arrival(stub):
    server = stub({"service": {"kind": "tokens", "ttft_s": 0.3, "tokens": 2}})
    socks = []
    body = json.dumps({"prompt": "a"}).encode()
    for _ in range(5):
        sock = socket.create_connection((server.target.host, server.target.port), timeout=20)
        sock.sendall(b"POST /v1/completions HTTP/1.1\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        socks.append(sock)
    for sock in socks:
        assert b"200 OK" in b"".join(iter(lambda s=sock: s.recv(4096), b""))
        sock.close()
    assert sorted(row["inflight"] for row in server.truth()) == [1, 2, 3, 4, 5]


def test_a_client_that_leaves_frees_its_place_and_is_counted_as_an_abort(stub):
    server = stub({"service": {"kind": "mgc", "servers": 1, "cv": 0, "service_s": 60, "tokens": 4}})
    body = json.dumps({"prompt": "a"}).encode()
    sock = socket.create_connection((server.target.host, server.target.port), timeout=20)
    sock.sendall(b"POST /v1/completions HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    assert until(lambda: metric(server, "vllm:num_requests_running") == 1)
    sock.close()
    assert until(lambda: metric(server, "vllm:num_requests_running") == 0)
    assert metric(server, "vllm:request_success_total", finished_reason="abort") == 1
    assert [row["how"] for row in server.truth()] == ["client_gone"]


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def metric(server, name, **labels):
    series = metrics_of(get(server.target, "/metrics")[1])[name]
    (value,) = [value for found, value in series.items() if labels.items() <= dict(found).items()]
    return value


def test_metrics_agree_with_the_truth(stub):
    server = stub({"service": {"kind": "tokens", "ttft_s": 0.03, "gap_s": 0.002, "tokens": 5}})
    for i in range(6):
        ask(server.target, {"prompt": "x " * i + "x", "max_tokens": 3 if i % 2 else 9, **(STREAM if i < 4 else {})})
    ask(server.target, {"prompt": "x", "model": "no"})
    rows = [row for row in server.truth() if row["status"] == 200]
    assert metric(server, "vllm:prompt_tokens_total") == sum(row["prompt_tokens"] for row in rows) == 1 + 2 + 3 + 4 + 5 + 6
    assert metric(server, "vllm:generation_tokens_total") == sum(row["tokens"] for row in rows) == 24
    assert metric(server, "vllm:request_success_total", finished_reason="length") == 3
    assert metric(server, "vllm:request_success_total", finished_reason="stop") == 3
    assert metric(server, "vllm:iteration_tokens_total_count") == 24
    for edge in (0.02, 0.04, 0.1, 2.5):
        below = sum((row["due"] - row["seen"]) * 1e-9 <= edge for row in rows)
        assert metric(server, "vllm:time_to_first_token_seconds_bucket", le=str(edge)) == below
    for edge in (0.3, 0.5, 1.0):
        below = sum((row["end"] - row["seen"]) * 1e-9 <= edge for row in rows)
        assert metric(server, "vllm:e2e_request_latency_seconds_bucket", le=str(edge)) == below


# --- service models, in virtual time -----------------------------------------------------------------


class Virtual:
    """A clock that jumps."""

    def __init__(self):
        self.time, self.heap, self.count = 10**12, [], 0

    def now(self):
        return self.time

    def at(self, when, call):
        self.count += 1
        heapq.heappush(self.heap, (when, self.count, call))

    def run(self):
        while self.heap:
            when, _, call = heapq.heappop(self.heap)
            self.time = max(self.time, when)
            call()


class Work:
    def __init__(self, draw, total, prompt=1, ids=None):
        self.draw, self.total, self.made, self.cached = draw, total, 0, 0
        self.prompt_ids = ids or list(range(prompt))
        self.times = {}

    def on_tokens(self, made, at):
        for each in range(self.made if self.made in self.times else 1, made + 1):
            self.times.setdefault(each, at)


def run(service, arrivals_s, *, seed=0, prompt=1, total=None, clock=None, works=None):
    clock = clock or Virtual()
    engine = Engine(Plan.parse({"service": service, "seed": seed}), clock)
    origin = clock.time
    works = works or [Work(i, total or engine.service.tokens, prompt) for i in range(len(arrivals_s))]
    for work, at in zip(works, arrivals_s, strict=True):
        clock.at(origin + round(at * 1e9), lambda work=work: engine.submit(work))
    clock.run()
    return engine, works, [{k: (t - origin) * 1e-9 for k, t in work.times.items()} for work in works]


def poisson(rate, n, seed):
    at, times = 0.0, []
    for i in range(n):
        at -= math.log(uniform(seed, "test", i)) / rate
        times.append(at)
    return times


def test_tokens_come_at_fixed_gaps():
    _, _, times = run({"kind": "tokens", "ttft_s": 0.5, "gap_s": 0.1, "tokens": 4}, [0, 0.25])
    assert [[round(t, 6) for t in each.values()] for each in times] == [[0.5, 0.6, 0.7, 0.8], [0.75, 0.85, 0.95, 1.05]]


@pytest.mark.parametrize("servers", [1, 3])
def test_a_queue_is_first_come_first_served_and_its_oracle_agrees_to_the_microsecond(servers):
    service = {"kind": "mgc", "servers": servers, "service_s": 0.1 * servers, "cv": 1.0, "first": 0.4, "tokens": 8}
    arrivals = poisson(8, 400, 3)
    _, _, times = run(service, arrivals, seed=5)
    plan = {"service": service, "seed": 5}
    for metric, token in (("e2e", 8), ("ttft", 1)):
        expected = sojourns(plan, arrivals, metric=metric)
        assert [t[token] - a for t, a in zip(times, arrivals, strict=True)] == pytest.approx(expected, abs=2e-6)
    assert max(sojourns(plan, arrivals)) > 4 * 0.1 * servers  # there was a queue


def test_the_oracle_agrees_with_queueing_theory():
    service = {"kind": "mgc", "servers": 1, "service_s": 0.1, "cv": 0.5, "tokens": 1}
    rate, mean = 6.0, 0.1
    arrivals = poisson(rate, 60_000, 11)
    found = sojourns({"service": service, "seed": 2}, arrivals)
    waits = sum(found) / len(found) - mean
    khinchine = rate * mean**2 * (1 + 0.5**2) / (2 * (1 - rate * mean))  # Pollaczek-Khinchine
    assert waits == pytest.approx(khinchine, rel=0.06)
    alone = {**service, "servers": 0}  # as many as are asked for: the service's own quantile
    sigma = math.sqrt(math.log1p(0.25))
    for q, z in ((0.5, 0.0), (0.95, 1.6449), (0.99, 2.3263)):
        expected = mean * math.exp(sigma * z - sigma**2 / 2)
        assert true_quantile({"service": alone}, q, rate=rate, requests=40_000) == pytest.approx(expected, rel=0.03)


def test_a_batch_slows_with_what_runs_and_never_runs_more_than_its_slots():
    service = {"kind": "batch", "step_s": 0.01, "sequence_s": 0.01, "slots": 4, "tokens": 5}
    _, _, (alone,) = run(service, [0])
    assert alone[5] == pytest.approx(5 * 0.02)
    engine, _, four = run(service, [0] * 4)
    assert four[3][5] == pytest.approx(0.02 + 4 * 0.05 + 0.04)  # the first request begins a step ahead, and ends one ahead
    assert engine.steps == 6
    _, _, eight = run(service, [0] * 8)
    assert min(eight[7].values()) > max(eight[0].values())  # the fifth waits for a slot
    rates = [n * 5 / max(each[5] for each in run({**service, "slots": n}, [0] * n)[2]) for n in (1, 4, 32)]
    assert rates[0] < rates[1] < rates[2] < 5 * rates[1] / 3  # gains flatten: there is a knee


def test_a_cache_that_is_too_small_preempts_and_everything_ends():
    service = {"kind": "batch", "step_s": 0.01, "slots": 8, "tokens": 20, "kv_tokens": 64}
    engine, _, times = run(service, [0] * 6, prompt=10)
    assert engine.preemptions > 0
    assert all(max(each) == 20 for each in times)
    assert engine.kv_tokens == 0
    assert not engine.running
    assert not engine.waiting
    assert run({**service, "kv_tokens": 0}, [0] * 6, prompt=10)[0].preemptions == 0


def test_a_shared_prefix_is_counted_and_shortens_the_time_to_the_first_token():
    service = {"kind": "tokens", "ttft_s": 0.1, "prefill_token_s": 0.01, "prefix_cache": True, "tokens": 2}
    shared = list(range(64))
    works = [Work(i, 2, ids=[*shared, 100 + i]) for i in range(3)]
    engine, works, times = run(service, [0, 10, 20], works=works)
    assert [each.cached for each in works] == [0, 64, 64]
    assert (engine.queries, engine.hits) == (195, 128)
    assert [each[1] - at for each, at in zip(times, (0, 10, 20), strict=True)] == pytest.approx([0.75, 0.11, 0.11])
    cold = run({**service, "prefix_cache": False}, [0, 10, 20], works=[Work(i, 2, ids=[*shared, 100 + i]) for i in range(3)])
    assert cold[0].hits == 0
    assert cold[2][2][1] - 20 == pytest.approx(0.75)


def test_a_frozen_engine_shifts_everything_that_was_due_by_the_length_of_the_freeze():
    clock = Virtual()
    engine = Engine(Plan.parse({"service": {"kind": "tokens", "ttft_s": 1, "gap_s": 1, "tokens": 4}}), clock)
    work, origin = Work(0, 4), clock.time
    engine.submit(work)
    clock.at(origin + 2_500_000_000, lambda: engine.freeze(10))
    clock.run()
    assert [round((t - origin) * 1e-9, 6) for t in work.times.values()] == [1, 2, 13, 14]


def test_draws_depend_on_the_seed_and_the_requests_own_number_alone():
    service = {"kind": "mgc", "servers": 0, "service_s": 0.1, "cv": 1.0, "tokens": 1}
    plan = {"service": service, "seed": 4}
    spread = sojourns(plan, [10.0 * i for i in range(50)])
    assert sojourns(plan, [0.001 * i for i in range(50)]) == pytest.approx(spread)
    assert sojourns({**plan, "seed": 5}, [10.0 * i for i in range(50)]) != pytest.approx(spread)
    assert len(set(spread)) == 50


def test_the_help_says_all_that_a_plan_may(capsys) -> None:
    """From the tables that check plans: each kind, number, fault and trigger; and its example is a plan."""
    from harness.serve import stub as package
    from harness.serve.stub import plan as tables

    with pytest.raises(SystemExit):
        package.main(["--help"])
    said = capsys.readouterr().out
    numbers = [name for each in (*tables._SERVICE.values(), *tables.FAULTS.values(), tables._COMMON) for name in each]
    for word in (*tables._SERVICE, *tables.FAULTS, *tables._WHEN, *tables._PLAN, *numbers, "HARNESS_STUB_KEY"):
        assert re.search(rf"\b{word}\b", said), word
    assert json.dumps(tables.EXAMPLE) in said
    assert tables.Plan.parse(tables.EXAMPLE).faults[0].what == "error_frame"
    for name, (example, _) in tables._WHEN.items():
        tables.Plan.parse({"faults": [{"what": "fin", "when": {name: example}}]})
