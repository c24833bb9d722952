"""What a server says of itself: the text format read strictly, counters that may be reset, servers that answer badly."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import EngineError
from harness.serve.target import Target
from harness.serve.telemetry import COUNTERS, Scrape, Watch, idle, increase, resets, scrape, summary, timeline
from harness.serve.telemetry.exposition import BYTES, parse
from harness.serve.telemetry.usage import descendants, loopback, tree_cpu, tree_pss

pytestmark = pytest.mark.selftest

VLLM = b"""# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="m"} 3.0
vllm:num_requests_running{engine="1",model_name="m"} 2.0
vllm:num_requests_waiting{engine="0",model_name="m"} 1.0
vllm:kv_cache_usage_perc{engine="0",model_name="m"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="m"} 0.5
vllm:prefix_cache_queries_total{engine="0",model_name="m"} 400.0
vllm:prefix_cache_hits_total{engine="0",model_name="m"} 100.0
vllm:num_preemptions_total{engine="0",model_name="m"} 0.0
vllm:prompt_tokens_total{engine="0",model_name="m"} 900.0
vllm:generation_tokens_total{engine="0",model_name="m"} 1.5e+03
vllm:iteration_tokens_total_count{engine="0",model_name="m"} 70.0
vllm:request_success_total{engine="0",finished_reason="stop",model_name="m"} 4.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="m"} 6.0
vllm:request_queue_time_seconds_sum{engine="0",model_name="m"} 2.5
vllm:e2e_request_latency_seconds_sum{engine="0",model_name="m"} 10.0
python_info{implementation="CPython",version="3.11"} 1.0
"""
LLAMA = b"""# TYPE llamacpp:prompt_tokens_total counter
llamacpp:prompt_tokens_total 300
llamacpp:prompt_tokens_cached_total 100
llamacpp:tokens_predicted_total 50
llamacpp:n_decode_total 20
llamacpp:requests_processing 2
llamacpp:requests_deferred 5
"""


def test_both_engines_say_the_same_things_under_their_own_names():
    ours = Scrape.of(VLLM, 5)
    assert (ours.running, ours.waiting, ours.kv) == (5, 1, 0.5)  # sums over engines; of a share the largest
    assert (ours.generated, ours.steps, ours.ended, ours.queue_s, ours.e2e_s) == (1500, 70, 10, 2.5, 10)
    theirs = Scrape.of(LLAMA, 5)
    assert (theirs.running, theirs.waiting, theirs.generated, theirs.steps) == (2, 5, 50, 20)
    assert (theirs.queried, theirs.hits) == (400, 100)
    assert theirs.kv is theirs.preemptions is theirs.ended is None  # not told is not 0


# --- the text format ------------------------------------------------------------------------------

_names = st.from_regex(r"[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", fullmatch=True)
_labels = st.dictionaries(
    st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,6}", fullmatch=True), st.text(st.characters(exclude_categories=["Cs"]), max_size=12), max_size=3
)
_values = st.floats(allow_nan=False) | st.integers(-(10**6), 10**6).map(float)
_pages = st.dictionaries(st.tuples(_names, _labels.map(lambda d: tuple(sorted(d.items())))), _values, max_size=8)


def written(page) -> bytes:
    lines = []
    for (name, labels), value in page.items():
        said = ",".join('{}="{}"'.format(k, v.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")) for k, v in labels)
        number = repr(value).replace("inf", "Inf")
        lines += [f"# TYPE {name} gauge", f"{name}{{{said}}} {number}"]
    return "\n".join([*lines, ""]).encode()


@settings(derandomize=True, deadline=None, max_examples=150)
@given(_pages)
def test_what_is_written_is_read(page):
    read = {(name, labels): value for name, series in parse(written(page)).items() for labels, value in series.items()}
    assert read == page


@settings(derandomize=True, deadline=None, max_examples=150)
@given(_pages)
def test_it_is_read_as_prometheus_reads_it(page):
    parser = pytest.importorskip("prometheus_client.parser")
    found = {}
    for family in parser.text_string_to_metric_families(written(page).decode()):
        for sample in family.samples:
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    assert found == {(name, labels): value for name, series in parse(written(page)).items() for labels, value in series.items()}


@settings(derandomize=True, deadline=None, max_examples=500)
@given(st.binary(max_size=200) | _pages.flatmap(lambda page: st.integers(0, 200).map(lambda cut: written(page)[:cut])))
def test_bytes_from_anybody_are_read_or_refused(data):
    with contextlib.suppress(EngineError):
        assert all(isinstance(value, float) for series in parse(data).values() for value in series.values())


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (b"a 1\na 2\n", "line 2: a with the same labels stands there twice"),
        (b'a{x="1"} 1\na{x="1"} 1\n', "line 2"),
        (b'a{x="1"', "line 1"),
        (b'a{x="1" y="2"} 1', "commas between"),
        (b'a{x="1",x="2"} 1', "each once"),
        (b"a 1_000", "line 1"),
        (b"a1", "line 1"),
        (b"a 0x1p3", "line 1"),
        (b"a one", "line 1"),
        (b"a 1 2 3", "line 1"),
        (b"<html>Not Found</html>", "line 1"),
        (b"a \xff", "not UTF-8 at byte 2"),
        (b"a" * 70_000 + b" 1", "line 1"),
        (b" " * (BYTES + 1), "more than 8 MiB"),
    ],
)
def test_what_is_no_page_of_metrics_is_refused(page, said):
    with pytest.raises(EngineError, match=said):
        parse(page)


def test_a_long_line_takes_no_longer_than_its_length():
    """A backtracking pattern would not come back from this."""
    with pytest.raises(EngineError):
        parse(b"a{" + b'x="' * 20_000)
    assert parse(b"a{" + b",".join(b'x%d="\\\\"' % i for i in range(4000)) + b"} 1")["a"]


def test_only_what_is_asked_for_is_read():
    assert parse(b"a 1\nb broken\n", ["a"]) == {"a": {(): 1.0}}


@pytest.mark.parametrize("value", ["NaN", "-1", "+Inf"])
def test_a_number_that_cannot_be_is_refused(value):
    with pytest.raises(EngineError, match="running is"):
        Scrape.of(f"vllm:num_requests_running {value}\n".encode(), 0)


# --- a series -------------------------------------------------------------------------------------


def series(**fields):
    """Scrapes a second apart."""
    length = len(next(iter(fields.values())))
    return [Scrape(10**9 * (i + 1), **{name: values[i] for name, values in fields.items()}) for i in range(length)]


def test_a_reset_is_reported_and_never_subtracted_across():
    seen = series(generated=[100.0, 160.0, 20.0, 50.0], running=[1.0, 2.0, 0.0, 1.0])
    assert increase(seen[:2], "generated") == 60
    assert increase(seen, "generated") is None
    assert resets(seen) == ("generated fell from 160 to 20, 2.0 s after the first scrape",)
    rows = timeline(seen, 10**9)
    assert [row["tokens_s"] for row in rows] == [60, None, 30]
    assert [row["t"] for row in rows] == [1, 2, 3]
    assert summary(rows, 0, 9)["tokens_s"] == 45  # of the intervals without a reset
    assert resets(series(running=[3.0, 1.0, 2.0])) == ()  # a gauge may fall


def test_what_is_not_told_stays_unknown():
    row = timeline(series(running=[1.0, 1.0]), 0)[0]
    assert row["running"] == 1 and row["tokens_s"] is row["kv"] is row["cpu"] is None
    assert timeline([], 0) == [] and summary([], 0, 1) == {}
    assert increase(series(hits=[5.0]), "hits") is None


def test_a_window_is_told_by_its_own_intervals():
    seen = series(waiting=[9.0, 0.0, 4.0, 9.0], generated=[0.0, 10.0, 30.0, 90.0], queue_s=[0.0, 0.0, 1.0, 3.0], e2e_s=[0.0, 2.0, 6.0, 8.0],
                  ended=[0.0, 1.0, 3.0, 4.0], pss=[1, 7, 3, 9], preemptions=[0.0, 1.0, 3.0, 9.0])  # fmt: skip
    rows = timeline(seen, 10**9)
    found = summary(rows, 0.5, 2.5)  # the intervals that end at 1 and 2
    assert found["waiting"] == 2 and found["waiting_max"] == 4 and found["pss_max"] == 7
    assert found["tokens_s"] == 15 and found["preemptions"] == 3 and found["ended"] == 3
    assert found["served_s"] == pytest.approx(2, abs=1e-6) and found["queue_share"] == pytest.approx(1 / 6, abs=1e-6)
    assert found["kv"] is found["hit_share"] is None and "t" not in found
    assert summary(rows, 5, 6) == {}


@settings(derandomize=True, deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=20))
def test_increases_add_up_where_nothing_fell(values):
    seen = series(steps=values)
    parts = [increase(seen[i : i + 2], "steps") for i in range(len(seen) - 1)]
    if sorted(values) == values:
        assert increase(seen, "steps") == pytest.approx(math.fsum(parts), abs=1e-6) == pytest.approx(values[-1] - values[0], abs=1e-6)
        assert resets(seen) == ()
    else:
        assert increase(seen, "steps") is None and None in parts and len(resets(seen)) == 1


def test_every_counter_is_a_field():
    assert set(COUNTERS) <= set(Scrape._fields)


# --- processes ------------------------------------------------------------------------------------

_CHILD = """
import os, sys, time
held = bytearray(os.urandom(1 << 20) * 48)
while time.process_time() < 0.3:
    pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""


def test_processes_are_charged_what_they_took():
    child = subprocess.Popen([sys.executable, "-c", _CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        said = float(child.stdout.readline())
        assert tree_cpu([child.pid]) == pytest.approx(said, abs=0.05)  # /proc counts hundredths, of each of two kinds
        assert 48 << 20 <= tree_pss([child.pid]) <= 128 << 20
        assert child.pid in descendants(os.getpid(), frozenset())
        assert child.pid not in descendants(os.getpid(), frozenset([child.pid]))
    finally:
        child.communicate()
    assert tree_cpu([child.pid]) is None and tree_pss([child.pid]) is None  # it has ended
    assert tree_cpu([]) is None


def test_what_crosses_loopback_is_counted():
    a, b = socket.socketpair(socket.AF_UNIX)
    a.close(), b.close()
    before = loopback()
    if before is None:
        pytest.skip("no /proc/net/dev here")
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        peer, _ = server.accept()
        with peer:
            client.sendall(bytes(1 << 16))
            got = 0
            while got < 1 << 16:
                got += len(peer.recv(1 << 16))
    assert loopback() - before >= 1 << 16


# --- servers that answer badly --------------------------------------------------------------------


class Scripted:
    """A server whose answers are given as bytes, one for each request; the last again and again."""

    def __init__(self, *answers: bytes, drip_s: float = 0.0) -> None:
        self.answers, self.drip_s, self.heads, self.stopped = list(answers), drip_s, [], False
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.threads = [threading.Thread(target=self._accept)]
        self.threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(peer,))
            self.threads.append(thread)
            thread.start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                while head := peer.recv(1 << 16):
                    self.heads.append(head)
                    answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                    if not answer:
                        return
                    for part in [answer] if not self.drip_s else [answer[i : i + 1] for i in range(len(answer))]:
                        peer.sendall(part)
                        if self.drip_s and self.stopped:
                            return
                        time.sleep(self.drip_s)
            except OSError:
                return

    def __enter__(self) -> Target:
        return Target(f"http://127.0.0.1:{self.socket.getsockname()[1]}", "m", key="k-secret")

    def __exit__(self, *error: object) -> None:
        self.stopped = True
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        for thread in self.threads:
            thread.join()


def page(body: bytes, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (page(b"", "404 Not Found"), "answers 404.*--metrics"),
        (page(b"", "401 Unauthorized"), "answers 401"),
        (page(b"<html></html>"), "line 1"),
        (b"220 smtp ready\r\n", "does not answer"),
        (b"", "does not answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"# " + b"x" * (BYTES + 10), "no end"),
    ],
)
def test_a_bad_answer_is_told(answer, said):
    with Scripted(answer) as target, pytest.raises(EngineError, match=said) as error:
        scrape(target)
    assert "k-secret" not in str(error.value)


def test_a_byte_now_and_then_is_no_answer():
    with Scripted(page(b"# " * 4000), drip_s=0.01) as target, pytest.raises(EngineError, match="no end"):
        scrape(target, timeout_s=0.3)


def test_nobody_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(EngineError, match="does not answer"):
        scrape(Target(f"http://127.0.0.1:{port}", "m"))


def test_it_waits_until_nothing_runs():
    busy, free = page(VLLM), page(b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n")
    with Scripted(busy, busy, free) as target:
        assert idle(target, limit_s=30, every_s=0.001)
    with Scripted(busy) as target:
        assert not idle(target, limit_s=0.01, every_s=0.001)


def test_a_watch_goes_on_over_a_failure_and_a_restart():
    first, again = page(b"vllm:generation_tokens_total 100\n"), page(b"vllm:generation_tokens_total 5\n")
    server = Scripted(first, first, b"", page(b"?"), again)
    with server as target:
        with Watch(target, pids=[os.getpid()], every_s=0.01) as watch:
            while len(watch.scrapes) < 4:
                time.sleep(0.005)
        generated = [each.generated for each in watch.scrapes]
    assert generated[:3] == [100, 100, 5] and len(watch.missed) == 2
    assert resets(watch.scrapes) and watch.cost_s > 0
    assert watch.scrapes[0].pss and watch.scrapes[-1].pss  # the first and the last read memory too
    assert b"Bearer k-secret" in server.heads[0]
    assert all(a.at < b.at for a, b in zip(watch.scrapes, watch.scrapes[1:], strict=False))


def test_a_watch_charges_server_and_client_apart():
    """This process is the client; a child that burns stands for the server."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        with Scripted(page(VLLM)) as target, Watch(target, pids=lambda: [child.pid], every_s=0.02) as watch:
            end = time.process_time() + 0.2
            while time.process_time() < end or increase(watch.scrapes, "cpu_s") in (None, 0):
                sum(range(1000))
    finally:
        child.kill()
        child.wait()
    assert increase(watch.scrapes, "client_cpu_s") == pytest.approx(0.2, abs=0.15)
    assert increase(watch.scrapes, "cpu_s") > 0
