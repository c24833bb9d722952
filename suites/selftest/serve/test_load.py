"""A load: every scheduled request has its record, whatever happens to the server, to a shard or to whoever waits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from harness.errors import ConfigError, MissingNeed
from harness.records import Flag, Load
from harness.serve import schedule, workload
from harness.serve.load import identity, run_load
from harness.serve.stub import answer, start
from harness.serve.target import Target
from harness.types import Prompt

pytestmark = pytest.mark.selftest
TOKENS = 6
SERVICE = {"kind": "tokens", "tokens": TOKENS, "ttft_s": 0.002, "gap_s": 0.001}


def words(n, **options):
    return workload.synthetic("stub", n, 1, prompt=workload.fixed(12), output=workload.fixed(TOKENS), **options)


def ends(ran):
    return {(r.outcome, r.why) for r in ran.load.records}


def children():
    """Pids of the shards that this process has."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        for pid in (task / "children").read_text().split():
            line = Path(f"/proc/{pid}/cmdline")
            if line.exists() and b"shard_main" in line.read_bytes():
                found.append(int(pid))
    return found


@pytest.fixture(scope="module")
def server():
    """A sound server for all tests that do not ask for a fault."""
    with start({"service": SERVICE, "key": True}) as stub:
        yield stub


# --- one schedule, any number of workers --------------------------------------------------------------


def test_any_number_of_shards_sends_the_same(server):
    plan = schedule.poisson(400, requests=120, seed=7, warmup_s=0.05, cooldown_s=0.05)
    load = words(len(plan))
    seen = set()
    for shards in (1, 2, 4, 10):
        had = len(server.truth())
        ran = run_load(server.target, plan, load, shards=shards, limit_s=20)
        assert ends(ran) == {("complete", "length")}
        seen.add(tuple((r.scheduled, r.sequence, r.prompt, r.flags & ~(Flag.REUSED | Flag.COALESCED)) for r in ran.load.records))
        assert [r.shard for r in ran.load.records] == [i % shards for i in range(len(plan))]
        rows = server.truth()[had:]
        assert sorted(row["request"] for row in rows) == list(range(len(plan))), "each once, none twice"
        # by the server's own clock: no request was there before it was due
        origin = ran.load.header["origin_ns"]
        assert all(row["seen"] >= origin + plan.arrivals[row["request"]] for row in rows)
        assert len(ran.load.header["shards"]) == shards and not ran.load.invalid
    assert len(seen) == 1
    records = next(iter(seen))
    assert [r[0] for r in records] == list(plan.arrivals)
    judged = plan.judged
    assert [i for i, r in enumerate(records) if not r[3] & (Flag.WARMUP | Flag.COOLDOWN)] == list(judged)


def test_what_a_run_says_of_itself(server, tmp_path):
    plan = schedule.constant(200, requests=60)
    load = words(60, chat=False)
    instants, lines = {}, []
    ran = run_load(
        server.target,
        plan,
        load,
        shards=2,
        limit_s=20,
        folder=tmp_path,
        on_chunks=instants.__setitem__,
        progress=lambda *line: lines.append(line),
    )
    head = ran.load.header
    assert head["target"]["before"] == head["target"]["after"] and "stub" in head["target"]["before"]["models"]
    assert head["schedule"] == plan.to_dict() and head["workload"] == load.to_dict() and head["window"] == list(plan.window)
    assert abs(head["clock"]["boottime_step_ns"]) < 5_000_000
    for shard in head["shards"]:
        assert 0 < shard["cpu_s"] <= shard["wall_s"] and shard["lag"]["p50"] <= shard["lag"]["max"] and not shard["errors"]
    for record in ran.load.records:
        assert 0 <= record.sent <= record.first <= record.last <= record.end and record.frames == record.tokens == TOKENS
        assert (instants[record.sequence][0], instants[record.sequence][-1]) == (record.first, record.last)
        assert max(b - a for a, b in zip(instants[record.sequence], instants[record.sequence][1:], strict=False)) == record.gap
    kept = (tmp_path / "requests.bin").read_bytes()
    assert Load.from_bytes(kept).records == ran.load.records
    assert lines[-1] == ("load", 60, 60) and all(0 <= done <= total for _, done, total in lines)
    assert any("in flight, p99 " in text for text, _, _ in lines)
    assert server.target.key and server.target.key not in json.dumps(head) and server.target.key.encode() not in kept


def test_golden_texts_are_kept(server):
    items = [Prompt(f"q{i}", text=f"question {i}") for i in range(8)]
    plan = schedule.closed(4, 40, warmup=4)
    load = workload.golden_prompts(items, "stub", 44, 3, max_tokens=TOKENS, judged=plan.judged, golden_share=0.5)
    ran = run_load(server.target, plan, load, shards=2, limit_s=20)
    assert ran.golden.keys() == load.golden and len(load.golden) == 20
    for sequence, text in ran.golden.items():
        item = next(item for item in items if item.id == load.id(sequence))
        assert text == answer([{"role": "user", "content": item.text}], 0, TOKENS)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_closed_loop_keeps_its_concurrency(streamed):
    with start({"service": {**SERVICE, "cv": 0.5}}) as stub:
        ran = run_load(stub.target, schedule.closed(5, 60, warmup=6), words(66, stream=streamed), shards=2, limit_s=20)
        rows = stub.truth()
    assert ends(ran) == {("complete", "length")} and len(rows) == 66
    assert max(row["inflight"] for row in rows) == 5
    assert sum(not r.judged for r in ran.load.records) == 6
    assert [r.scheduled for r in ran.load.records] == sorted(r.scheduled for r in ran.load.records)
    assert {r.frames for r in ran.load.records} == {TOKENS if streamed else 1}
    assert all(r.first < r.end if streamed else r.first == r.last == r.end for r in ran.load.records)


def test_more_shards_than_slots_are_not_more_slots(server):
    had = len(server.truth())
    ran = run_load(server.target, schedule.closed(2, 20), words(20), shards=5, limit_s=20)
    assert len(ran.load.header["shards"]) == 2 and max(row["inflight"] for row in server.truth()[had:]) == 2


def test_turns_wait_for_the_turn_before_them(server):
    talk = [m for i in range(3) for m in ({"role": "user", "content": f"turn {i}"}, {"role": "assistant", "content": "noted"})]
    load = workload.multi_turn([talk] * 4, "stub", concurrency=2, think_s=0.03, max_tokens=TOKENS)
    had = len(server.truth())
    ran = run_load(server.target, schedule.closed(2, len(load)), load, shards=2, limit_s=20)
    rows = {row["request"]: row for row in server.truth()[had:]}
    assert ends(ran) == {("complete", "length")} and len(rows) == 12
    later = [(i, before) for i, before in enumerate(load.follows) if before >= 0]
    assert len(later) == 10
    for i, before in later:
        assert rows[i]["seen"] >= rows[before]["end"] + 30_000_000
    records = {r.sequence: r for r in ran.load.records}
    for i, before in later:  # due when the turn before was over and thought about, to the microsecond
        due = records[before].scheduled // 1000 + records[before].end + 30_000
        assert abs(records[i].scheduled // 1000 - due) <= 2


def test_some_hang_up(server):
    plan = schedule.constant(100, requests=20)
    ran = run_load(server.target, plan, words(20), limit_s=20, close_after={3: 1, 11: 2})
    cut = [r.sequence for r in ran.load.records if r.why == "cancelled"]
    assert cut == [3, 11] and sum(r.outcome == "complete" for r in ran.load.records) == 18
    assert [row["sequence"] for row in ran.failures] == [3, 11]


# --- what may go wrong --------------------------------------------------------------------------------


def test_nobody_listens():
    plan = schedule.constant(200, requests=40)
    ran = run_load(Target("http://127.0.0.1:9", "stub"), plan, words(40), shards=2, limit_s=5)
    assert ends(ran) == {("error", "connect_failed")} and len(ran.load.records) == 40
    assert ran.load.header["target"]["before"] is None
    assert sum(shard["errors"]["ECONNREFUSED"] for shard in ran.load.header["shards"]) == 40
    assert ran.failures[0]["error"] == "ECONNREFUSED"


def test_a_server_that_dies_meanwhile():
    with start({"service": SERVICE, "faults": [{"what": "exit", "after_frame": 2, "when": {"request": 30}}]}) as stub:
        ran = run_load(stub.target, schedule.constant(100, requests=60), words(60), limit_s=5)
    assert len(ran.load.records) == 60
    assert ran.load.header["target"]["before"] and ran.load.header["target"]["after"] is None
    done = [r.sequence for r in ran.load.records if r.outcome == "complete"]
    assert done and set(done) <= set(range(30))
    assert {r.why for r in ran.load.records[40:]} == {"connect_failed"}
    assert {r.why for r in ran.load.records if r.outcome != "complete"} <= {"connect_failed", "truncated", "reset"}


def test_a_frozen_server_slows_every_request_that_was_due(server):
    """Timed from the schedule: those that were due during the second are not left out."""
    with start({"service": SERVICE, "faults": [{"what": "freeze", "seconds": 0.6, "when": {"request": 20}, "count": 1}]}) as stub:
        plan = schedule.constant(100, requests=100)
        ran = run_load(stub.target, plan, words(100), limit_s=20)
    assert ends(ran) == {("complete", "length")}
    start_of_it = plan.arrivals[20]
    due = [r for r in ran.load.records if start_of_it <= r.scheduled < start_of_it + 500_000_000]
    assert len(due) == 50
    for r in due:
        assert r.first >= (start_of_it + 600_000_000 - r.scheduled) // 1000 - 1000
        assert r.sent < 300_000, "the client does not wait for the server"


def test_a_killed_shard_leaves_its_requests_unsent(server):
    pids = []

    def kill(task, done, total):
        if not pids and done > 30:
            pids.extend(children())
            os.kill(pids[0], signal.SIGKILL)

    ran = run_load(server.target, schedule.constant(100, requests=200), words(200), shards=2, limit_s=20, progress=kill)
    assert len(pids) == 2 and len(ran.load.records) == 200
    assert [row.get("lost", False) for row in ran.load.header["shards"]].count(True) == 1
    lost = next(i for i, row in enumerate(ran.load.header["shards"]) if row.get("lost"))
    assert ran.load.header["shards"][lost]["exit"] == -signal.SIGKILL
    for r in ran.load.records:
        assert (r.outcome == "complete") == (r.shard != lost) and (r.sent is None) == (r.shard == lost)
    assert ran.load.invalid[0].startswith("rate_not_delivered: ")
    assert not children()


def test_a_frozen_client_is_late_and_forgets_nothing(server):
    stopped = []

    def freeze(task, done, total):
        if not stopped and done > 20:
            stopped.extend(children())
            os.kill(stopped[0], signal.SIGSTOP)
            time.sleep(0.4)
            os.kill(stopped[0], signal.SIGCONT)

    plan = schedule.constant(100, requests=150)
    ran = run_load(server.target, plan, words(150), limit_s=20, progress=freeze)
    assert stopped and ends(ran) == {("complete", "length")}
    assert [r.scheduled for r in ran.load.records] == list(plan.arrivals)
    late = [r for r in ran.load.records if r.sent > 100_000]
    assert 20 <= len(late) <= 40 and ran.load.header["shards"][0]["lag"]["p99"] > 0.1


@pytest.mark.parametrize("how", ["interrupt", "kill"])
def test_nothing_is_left_of_a_run_that_was_ended(server, how, tmp_path):
    """By Ctrl-C, which goes to the whole group; and by a kill of whoever waits."""
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).resolve().parents[3])!r})
        import harness.serve.load as load
        from harness.serve import schedule, workload
        from harness.serve.target import Target
        told = []
        def show(task, done, total):
            if not told and done > 5:
                told.append(1)
                print(*[child.pid for child in run.children], flush=True)
        begin = load._Run.start
        def start(self):
            global run
            run = self
            begin(self)
        load._Run.start = start
        words = workload.synthetic("stub", 4000, 1, prompt=workload.fixed(12), output=workload.fixed({TOKENS}))
        plan = schedule.constant(100, requests=4000)
        load.run_load(Target({server.target.base_url!r}, "stub"), plan, words, shards=3, limit_s=20, progress=show)
    """
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for what it runs in the background
    )
    try:
        shards = [int(pid) for pid in child.stdout.readline().split()]
        assert len(shards) == 3 and all(map(_alive, shards))
        if how == "interrupt":
            os.killpg(child.pid, signal.SIGINT)
        else:
            child.kill()
        _, said = child.communicate(timeout=20)
    finally:
        child.kill()
        child.communicate()
    deadline = time.monotonic() + 20
    while any(map(_alive, shards)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, shards))
    if how == "interrupt":
        assert b"KeyboardInterrupt" in said and not list(tmp_path.iterdir())


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_cannot_be_run(server):
    plan = schedule.constant(10, requests=10)
    with pytest.raises(ConfigError, match="5 requests, the schedule 10"):
        run_load(server.target, plan, words(5), limit_s=5)
    with pytest.raises(ConfigError, match="0 shards on 1 machine"):
        run_load(server.target, plan, words(10), shards=0, limit_s=5)
    with pytest.raises(ConfigError, match="limit_s = nan"):
        run_load(server.target, plan, words(10), limit_s=float("nan"))
    with pytest.raises(MissingNeed, match="empty_workload"):
        run_load(server.target, schedule.Schedule("poisson", (), (0, 1)), words(1), limit_s=5)


def test_who_answers(server):
    assert identity(server.target)["status"] == 200
    assert identity(Target(server.target.base_url, "stub"))["status"] == 401, "without the key"
    assert identity(Target("http://127.0.0.1:9", "stub")) is None


def test_the_import_is_light():
    code = (
        "import sys; import harness.serve.load as m;"
        "print([x for x in ('numpy', 'torch', 'aiohttp', 'uvloop', 'hypothesis', 'ctypes.util') if x in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]" and not said.stderr
