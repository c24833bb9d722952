"""The load generator beside its rivals, on one stub in one run: cost, meter, freezes, arrivals, faults.

    python -m suites.selftest.bench.bench_load frames ttft --tokenizer FOLDER --vllm PYTHON --guidellm PYTHON --aiperf PYTHON
    python -m suites.selftest.bench.bench_load page

Rivals are interpreters that have them; one that is not named, or whose interpreter has none, is told as not evaluated. All over
loopback: the client with all its processes on one core, the stub on the other. Rows go to reports/serving/rivals.jsonl
as they are made, so that a piece may be made again by itself; ``page`` writes rivals.txt, fault_catalogue.csv and README.md from them.

    frames      timestamped SSE frames per processor-second, closed loop, streams of 50 frames as fast as the stub writes
    requests    answers in one piece, likewise: requests per processor-second
    ttft        200 requests/s of 50 frames 5 ms apart: each client's TTFT against the stub's own instants
    freeze      p99 with the whole client stopped for 500 ms, and with the server frozen for 1 s, Poisson at 100/s
    dispersion  arrivals as the stub saw them, from 1, 2, 4 and 10 workers
    faults      the fault catalogue, each tool with its own objective where it has one
    limit       the cheapest client there can be: what the stub itself bears

Times are for people to read, nothing asserts one; on a machine that does other things too, ratios are what to quote.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.serve import stub
from suites.selftest.bench import load_clients as clients
from suites.selftest.bench.load_clients import Ask, Run, Told, quantile
from suites.selftest.bench.load_page import page

REPORTS = clients.ROOT / "reports" / "serving"
ROWS = REPORTS / "rivals.jsonl"
CLIENT, SERVER = 0, 1  # cores


@dataclass
class Bench:
    """What a piece is made with."""

    pythons: Mapping[str, str]
    tokenizer: Path
    folder: Path
    rounds: int
    quick: bool
    at_once: int

    def run(self, tool: str, ask: Ask, **more: Any) -> Run:
        """One client, in a folder of its own."""
        place = Path(tempfile.mkdtemp(prefix=f"{tool}-", dir=self.folder))
        try:
            return clients.run(tool, self.pythons[tool], ask, place, self.tokenizer, **{"core": CLIENT, **more})
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def turns(self) -> Iterator[tuple[int, str]]:
        """Every tool once a round, the order turned by one each time."""
        tools = list(self.pythons)
        for number in range(self.rounds):
            for i in range(len(tools)):
                yield number, tools[(i + number) % len(tools)]


def keep(**row: Any) -> None:
    """A row of the file, and of the screen. Of a command line, paths are left out."""
    if "argv" in row:
        row["argv"] = [
            f"<{Path(word).name}>"
            if Path(word).is_absolute() and not word.startswith("/v1")
            else re.sub(r"(?<![:/\w])/[^\s\"]*/", "", word)
            for word in row["argv"]
        ]
    row["at"] = time.strftime("%Y-%m-%dT%H:%M:%S")
    row["load_average"] = os.getloadavg()[0]
    REPORTS.mkdir(parents=True, exist_ok=True)
    with ROWS.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")
    print({key: round(x, 4) if isinstance(x, float) else x for key, x in row.items() if key not in ("argv", "tail")}, flush=True)


@contextmanager
def served(service: Mapping[str, Any], *faults: Mapping[str, Any], core: int | None = SERVER) -> Iterator[stub.Stub]:
    with stub.start({"service": dict(service), "draw": "arrival", "faults": [dict(fault) for fault in faults]}) as server:
        if core is not None:
            os.sched_setaffinity(server.pid, {core})
        yield server


# --- what it costs ----------------------------------------------------------------------------------------


class Clock:
    """Processor seconds of a tree, looked at ten times a second, so that those between two instants can be told."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, float]] = []
        self.over = threading.Event()

    def __call__(self, pid: int) -> None:
        tick = os.sysconf("SC_CLK_TCK")
        used: dict[int, float] = {}
        while not self.over.wait(0.1) and Path(f"/proc/{pid}").exists():
            for each in clients.tree(pid):
                try:
                    fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                used[each] = (int(fields[11]) + int(fields[12])) / tick
            self.seen.append((time.monotonic_ns(), sum(used.values())))

    def at(self, instant: int) -> float:
        for (t0, x0), (t1, x1) in pairwise(self.seen):
            if t0 <= instant <= t1:
                return x0 + (x1 - x0) * (instant - t0) / (t1 - t0)
        return self.seen[-1][1] if self.seen and instant > self.seen[-1][0] else 0.0


def costed(bench: Bench, tool: str, ask: Ask, server: stub.Stub) -> tuple[Run, dict[str, Any], list[dict[str, Any]]]:
    """A run, and what it used between the first request that the stub saw and the end of the last answer; our checks come after it."""
    clock = Clock()
    run = bench.run(tool, ask, meanwhile=clock)
    rows = [row for row in server.truth() if row["status"] == 200 and row["end"] is not None]
    if not rows:
        return run, {"tail": run.output[-1500:]}, rows
    start, end = min(row["seen"] for row in rows), max(row["end"] for row in rows)
    check = run.told.more.get("check_s", 0.0)
    cpu = clock.at(end) - clock.at(start) + check
    frames = sum(row["frames"] for row in rows)
    return run, {
        "code": run.code, "completed": run.told.completed, "served": len(rows), "frames": frames, "cpu_s": cpu,
        "wall_s": (end - start) * 1e-9, "tree_cpu_s": run.cpu_s, "tree_wall_s": run.wall_s, "stamps": run.told.more.get("stamps"),
        "check_s": check, "argv": run.argv,
    }, rows  # fmt: skip


AMOUNT = {  # streams of 50 frames, answers in one piece: a few seconds of load each
    "ours": (8000, 24000), "vllm": (2000, 3000), "guidellm": (1000, 1500), "aiperf": (1500, 3000), "inference-perf": (600, 2000),
}  # fmt: skip


def frames(bench: Bench) -> None:
    """Streams, closed loop at 16."""
    for number, tool in bench.turns():
        with served({"kind": "fast", "tokens": 50}) as server:
            ask = Ask(server.target.base_url, AMOUNT[tool][0] // (10 if bench.quick else 1), 50, concurrency=16)
            _, cost, _ = costed(bench, tool, ask, server)
            keep(piece="frames", tool=tool, round=number, **cost)


def requests(bench: Bench) -> None:
    """Answers in one piece, closed loop at 32; vllm bench serve always streams, so its answers are streams of one frame."""
    for number, tool in bench.turns():
        with served({"kind": "fast", "tokens": 1}) as server:
            ask = Ask(server.target.base_url, AMOUNT[tool][1] // (10 if bench.quick else 1), 1, concurrency=32, stream=False)
            _, cost, _ = costed(bench, tool, ask, server)
            keep(piece="requests", tool=tool, round=number, **cost)


def limit(bench: Bench) -> None:
    """Sockets and epoll, nothing parsed: bytes are counted."""
    for number in range(bench.rounds):
        for name, tokens, stream, n in (("frames", 50, True, 4000), ("requests", 1, False, 20000)):
            with served({"kind": "fast", "tokens": tokens}) as server:
                os.sched_setaffinity(0, {CLIENT})
                wall, cpu = cheapest(server.target.port, stream, n, 16)
                os.sched_setaffinity(0, range(os.cpu_count() or 1))
                keep(piece="limit", tool="cheapest", round=number, of=name, n=n * (tokens if stream else 1), wall_s=wall, cpu_s=cpu)


def cheapest(port: int, stream: bool, n: int, concurrency: int) -> tuple[float, float]:
    """Wall and processor seconds of ``n`` requests."""
    body = json.dumps({"model": "stub", "stream": stream, "messages": [{"role": "user", "content": clients.WORDS}]}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: stub\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    request, last = head.encode() + body, b"data: [DONE]\n\n"
    socks = [socket.create_connection(("127.0.0.1", port)) for _ in range(concurrency)]
    socks[0].sendall(request)
    answer = b""
    while not (last in answer and answer.endswith(b"0\r\n\r\n") if stream else answer.endswith(b"}")):
        answer += socks[0].recv(1 << 16)
    size, poll, got = len(answer), select.epoll(), dict.fromkeys((sock.fileno() for sock in socks), 0)
    by = {sock.fileno(): sock for sock in socks}
    began, used, left, done = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF), n - concurrency, 0
    for sock in socks:
        poll.register(sock, select.EPOLLIN)
        sock.sendall(request)
    while done < n:
        for fd, _ in poll.poll():
            got[fd] += len(by[fd].recv(1 << 18))
            if got[fd] >= size:
                got[fd], done = 0, done + 1
                if left > 0:
                    left -= 1
                    by[fd].sendall(request)
    after = resource.getrusage(resource.RUSAGE_SELF)
    for sock in socks:
        sock.close()
    return time.perf_counter() - began, after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime


# --- what it measures ----------------------------------------------------------------------------------------


def joined(tool: str, told: Told, truth: list[dict[str, Any]]) -> list[tuple[float, dict[str, Any]]]:
    """Each reported TTFT with the stub's row: by what was sent, or by the answer's id, which ends in the order of arrival."""
    key = {"ours": "request", "vllm": "request", "aiperf": "id"}.get(tool, "ordinal")
    by = {row[key]: row for row in truth}
    named = [(int(name.rpartition("-")[2]) if key == "ordinal" else name, x) for name, x in told.rows]
    return [(x, by[name]) for name, x in named if name in by]


def ttft(bench: Bench) -> None:
    """Errors of the reported TTFT, microseconds: from the send, as rivals count; ours from when it was due."""
    for number, tool in bench.turns():
        with served({"kind": "tokens", "ttft_s": 0.02, "gap_s": 0.005, "tokens": 50}) as server:
            ask = Ask(server.target.base_url, 100 if bench.quick else 1000, 50, rate=200.0, seed=number + 1)
            run, cost, rows = costed(bench, tool, ask, server)
        due = {int(key): at for key, at in run.told.more.get("due", {}).items()}
        pairs = joined(tool, run.told, rows)
        errors = [1e6 * x - ((row["first"] - due[row["request"]]) if due else (row["first"] - row["seen"])) / 1e3 for x, row in pairs]
        shown = {f"p{q:g}": quantile(list(map(abs, errors)), q / 100) for q in (50, 90, 99)}
        true = quantile([(row["first"] - row["seen"]) * 1e-9 for row in rows], 0.99)
        asked = (len(rows) - 1) / cost["wall_s"] if rows else None
        mean = statistics.fmean(errors) if errors else None
        keep(piece="ttft", tool=tool, round=number, joined=len(pairs), mean_us=mean, **shown, told_p99=run.told.ttft_p99,
             true_p99=true, rate=asked, **cost)  # fmt: skip


RATE, STOPPED, FROZEN, SERVICE_S = 100.0, 0.5, 1.0, 0.02


def frozen(bench: Bench) -> None:
    """p99 of the whole answer, from the schedule; so many requests that the slowest hundredth is of the freeze. The tools side by side."""
    n = 300 if bench.quick else 1200
    truth = {who: schedule_p99(n, seconds) for who, seconds in (("client", STOPPED), ("server", FROZEN))}

    def one(tool: str, number: int, who: str) -> None:
        fault = {"what": "freeze", "seconds": FROZEN, "when": {"between": [n / RATE * 0.4, n / RATE]}, "count": 1}
        with served({"kind": "fixed", "ttft_s": SERVICE_S, "tokens": 4}, *([fault] if who == "server" else []), core=None) as server:
            stop = Stop(server, n * 2 // 5) if who == "client" else None
            run = bench.run(tool, Ask(server.target.base_url, n, 4, rate=RATE, seed=number + 1), core=None, meanwhile=stop)
            rows = server.truth()
        told, (low, middle, high) = run.told, truth[who]
        keep(piece="freeze", tool=tool, round=number, who=who, code=run.code, ttft_p99=told.ttft_p99, e2e_p99=told.e2e_p99,
             arrival_p99=told.arrival_p99, completed=told.completed, expected=middle, expected_low=low, expected_high=high,
             exact=exact_p99(told, rows, stop), invalid=told.more.get("invalid"), argv=run.argv)  # fmt: skip

    for number in range(bench.rounds):
        for who in truth:
            with ThreadPoolExecutor(len(bench.pythons)) as pool:
                list(pool.map(lambda tool, number=number, who=who: one(tool, number, who), bench.pythons))


class Stop:
    """Stops the whole client for half a second, once so many requests have come."""

    def __init__(self, server: stub.Stub, after: int) -> None:
        self.server, self.after, self.instants = server, after, (0, 0)

    def __call__(self, pid: int) -> None:
        if not clients.wait_until(lambda: self.server.state().get("requests", 0) >= self.after, 120):
            return
        pids = clients.tree(pid)
        began = time.monotonic_ns()
        stand_still(pids)
        self.instants = (began, time.monotonic_ns())


def stand_still(pids: Sequence[int]) -> None:
    """All of them, for half a second."""
    for sign, seconds in ((signal.SIGSTOP, STOPPED), (signal.SIGCONT, 0.0)):
        for each in pids:
            with suppress(ProcessLookupError):
                os.kill(each, sign)
        time.sleep(seconds)


def schedule_p99(n: int, seconds: float) -> tuple[float, float, float]:
    """p99 of a Poisson schedule whose client or server stands still once: middle, and 5 and 95 % over 400 schedules."""
    draws, found = random.Random(0), []
    for _ in range(400):
        t, late = 0.0, []
        begin = 0.4 * n / RATE
        for _ in range(n):
            t += draws.expovariate(RATE)
            ends = t + SERVICE_S
            stuck = begin <= ends < begin + seconds or begin <= t < begin + seconds
            late.append((max(ends, begin + seconds + (SERVICE_S if t >= begin else 0)) if stuck else ends) - t)
        found.append(quantile(late, 0.99) or math.nan)
    found.sort()
    return found[20], found[200], found[380]


def exact_p99(told: Told, rows: list[dict[str, Any]], stop: Stop | None) -> float | None:
    """Of the schedule that was sent: the stub's last byte, or the end of the client's sleep, after each was due."""
    due = {int(key): at for key, at in told.more.get("due", {}).items()}
    if not due:
        return None
    began, over = stop.instants if stop else (0, 0)
    ends = {row["request"]: over if began <= row["end"] <= over else row["end"] for row in rows if row["end"]}
    return quantile([(ends[i] - at) * 1e-9 for i, at in due.items() if i in ends], 0.99)


def dispersed(bench: Bench) -> None:
    """Variance over mean of the arrivals in windows of a second, Poisson asked for: 1. The tools side by side, each with a stub."""
    rate, n = 50.0, 300 if bench.quick else 1500

    def one(tool: str, workers: int) -> None:
        with served({"kind": "fixed", "ttft_s": 0.002, "tokens": 1}, core=None) as server:
            run = bench.run(tool, Ask(server.target.base_url, n, 1, rate=rate, stream=tool == "vllm", workers=workers), core=None)
            seen = sorted(row["seen"] * 1e-9 for row in server.truth())
        seconds = seen[-1] - seen[0] if len(seen) > 1 else 0.0
        keep(piece="dispersion", tool=tool, workers=workers, code=run.code, arrivals=len(seen), idc_1s=scatter(seen, 1.0),
             idc_100ms=scatter(seen, 0.1), windows=int(seconds), rate=(len(seen) - 1) / seconds if seconds else None,
             schedule=run.told.more.get("schedule"), argv=run.argv)  # fmt: skip

    for workers in (1, 10, 4, 2):
        tools = [tool for tool in bench.pythons if workers == 1 or tool != "vllm"]
        with ThreadPoolExecutor(len(tools)) as pool:
            list(pool.map(one, tools, [workers] * len(tools)))


def scatter(instants: Sequence[float], width: float) -> float | None:
    """Variance over mean of the counts in whole windows."""
    m = int((instants[-1] - instants[0]) / width) if len(instants) > 1 else 0
    if m < 10:
        return None
    counts = [0] * m
    for t in instants:
        if (at := int((t - instants[0]) / width)) < m:
            counts[at] += 1
    return statistics.variance(counts) / statistics.fmean(counts)


# --- the fault catalogue -----------------------------------------------------------------------------------

N, SHARE, LIMIT_S, WAIT_S, AT = 300, 0.25, 1.0, 3.0, 75.0
SERVICE: dict[str, Any] = {"kind": "mgc", "servers": 8, "service_s": 0.02, "cv": 0.5, "tokens": 8}
SOME: dict[str, Any] = {"when": {"p": SHARE}}


@dataclass(frozen=True)
class Fault:
    """A row of the table of the specification: a switch of the stub, or what is done to the client."""

    number: int
    name: str
    switch: Mapping[str, Any] | None = None
    service: Mapping[str, Any] | None = None
    rate: float = AT
    workers: int = 1
    client: str = ""


FAULTS = (
    Fault(0, "none"),
    Fault(1, "all requests 500", {"what": "status", "code": 500}),
    Fault(2, "some requests 500 at once", {"what": "status", "code": 500, **SOME}),
    Fault(3, "429 storm with Retry-After", {"what": "status", "code": 429, "retry_after": 1, **SOME}),
    Fault(4, "503 above the queue bound", service={"servers": 1, "queue": 3}, rate=90.0),
    Fault(5, "200 with zero tokens", {"what": "zero_tokens", **SOME}),
    Fault(6, "error frame, then [DONE]", {"what": "error_frame", "after_frame": 3, **SOME}),
    Fault(7, "[DONE] without finish_reason", {"what": "no_finish", **SOME}),
    Fault(8, "finish_reason, no [DONE], clean FIN", {"what": "no_done", **SOME}),
    Fault(9, "FIN mid-stream", {"what": "fin", "after_frame": 3, **SOME}),
    Fault(10, "RST mid-stream", {"what": "rst", "after_frame": 3, **SOME}),
    Fault(11, "stall mid-stream", {"what": "stall", "after_frame": 3, **SOME}),
    Fault(12, "never answered, socket open", {"what": "never_answer", **SOME}),
    Fault(13, "headers after 1.5 s", {"what": "slow_headers", "seconds": 1.5, **SOME}),
    Fault(14, "the server freezes for 2 s", {"what": "freeze", "seconds": 2.0, "when": {"between": [1, 9]}, "count": 1}),
    Fault(15, "early EOS although ignore_eos", {"what": "early_eos", "tokens": 3, **SOME}),
    Fault(16, "duplicated frames", {"what": "duplicate_frames", **SOME}),
    Fault(17, "malformed JSON in a frame", {"what": "cut_json", "after_frame": 2, **SOME}),
    Fault(17, "bad UTF-8", {"what": "bad_utf8", "after_frame": 2, **SOME}),
    Fault(18, "missing blank line between frames", {"what": "no_blank_line", "after_frame": 2, **SOME}),
    Fault(20, "wrong tokens always", {"what": "wrong_tokens"}),
    Fault(26, "client stopped for 500 ms", client="stopped"),
    Fault(27, "client starved of CPU for 1 s", client="starved"),
    Fault(28, "file descriptors exhausted", service={"kind": "fixed", "ttft_s": 0.3}, client="descriptors"),
    Fault(29, "one worker killed", workers=2, client="killed"),
)


def catalogue(bench: Bench) -> None:
    """Every fault through every tool, several at a time: no time is compared here."""
    done = {(row["number"], row["fault"], row["tool"]) for row in rows() if row["piece"] == "faults"}
    todo = [(f, tool) for f in FAULTS for tool in bench.pythons if (f.number, f.name, tool) not in done]
    with ThreadPoolExecutor(bench.at_once) as pool:
        list(pool.map(lambda each: one_fault(bench, *each), todo))


def one_fault(bench: Bench, fault: Fault, tool: str) -> None:
    """Our own is the command ``load``, with the same plan."""
    if fault.client == "killed" and tool == "vllm":
        return keep(piece="faults", number=fault.number, fault=fault.name, tool=tool, code=None, said="not_evaluated: it has one process")
    service = {**SERVICE, **(fault.service or {})}
    if service["kind"] == "fixed":
        service = {"kind": "fixed", "ttft_s": service["ttft_s"], "tokens": 8}
    with served(service, *([fault.switch] if fault.switch else []), core=None) as server:
        harm = Harm(fault.client, server) if fault.client else None
        ask = Ask(server.target.base_url, N, 8, rate=fault.rate, workers=fault.workers, slo_s=LIMIT_S, limit_s=WAIT_S)
        run = (
            commanded(bench, ask, harm, fault.number == 20)
            if tool == "ours"
            else bench.run(tool, ask, core=None, meanwhile=harm, within_s=150)
        )
        struck = sum(bool(row["faults"]) for row in server.truth())
    told = run.told
    keep(piece="faults", number=fault.number, fault=fault.name, tool=tool, code=run.code, completed=told.completed, failed=told.failed,
         ttft_p99=told.ttft_p99, e2e_p95=told.e2e_p95, e2e_p99=told.e2e_p99, good=told.good, struck=struck,
         harmed=harm.done if harm else None, more={k: v for k, v in told.more.items() if k not in ("due", "sent")}, argv=run.argv,
         tail=run.output[-1500:])  # fmt: skip
    return None


def commanded(bench: Bench, ask: Ask, harm: Harm | None, checked: bool) -> Run:
    """``python -m harness load``. ``checked``: nobody says that speed alone is to be judged; of a stub there is no checkpoint."""
    argv = [sys.executable, "-m", "harness", "load", ask.url, "--model", "stub", "--rate", f"{ask.rate:g}", "--requests", str(ask.n),
            "--warmup", "0.3", "--slo", f"e2e_p95={ask.slo_s:g}s", "--limit", f"{ask.limit_s:g}", "--output-tokens", str(ask.tokens),
            "--input-tokens", "8", "--ignore-eos", "--shards", str(ask.workers), "--json"]  # fmt: skip
    argv += [] if checked else ["--unchecked"]
    place = Path(tempfile.mkdtemp(prefix="command-", dir=bench.folder))

    def read() -> Told:
        text = (place / "output.txt").read_text()
        if "{" not in text:  # it refused, and said why in words
            return clients.Told(more={"said": text[-300:]})
        return briefly(json.loads(text[text.index("{") :]))

    env = {"PYTHONPATH": str(clients.ROOT)}
    return clients.measured("ours", argv, place, read, env=env, within_s=150, meanwhile=harm)


def briefly(said: Mapping[str, Any]) -> Told:
    """Of what the command printed, the verdicts."""
    verdicts = {name: {key: each[key] for key in ("outcome", "reason", "sentence")} for name, each in said["verdicts"].items()}
    first = next(iter(said["verdicts"].values()))
    return Told(completed=first["n"] - first["n_unusable"], failed=first["n_unusable"], more={"said": verdicts})


class Harm:
    """What is done to a client, once a third of its requests have come; descriptors are taken while it still opens connections."""

    def __init__(self, what: str, server: stub.Stub) -> None:
        self.what, self.server, self.done = what, server, False
        self.after = 10 if what == "descriptors" else N // 3

    def __call__(self, pid: int) -> None:
        if not clients.wait_until(lambda: self.server.state().get("requests", 0) >= self.after, 120):
            return
        pids = clients.tree(pid)
        mine = clients.senders(pids, self.server.target.port)
        {"stopped": self._stop, "starved": self._starve, "descriptors": self._descriptors, "killed": self._kill}[self.what](pids, mine)

    def _stop(self, pids: list[int], mine: list[int]) -> None:
        stand_still(pids)
        self.done = True

    def _starve(self, pids: list[int], mine: list[int]) -> None:
        """All of them on one core at the least priority, with a loop beside them."""
        for each in pids:
            for thread in Path(f"/proc/{each}/task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))
                os.sched_setaffinity(int(thread.name), {CLIENT})
                os.setpriority(os.PRIO_PROCESS, int(thread.name), 19)
        code = f"import os, time; os.sched_setaffinity(0, {{{CLIENT}}}); end = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
        subprocess.run([sys.executable, "-c", code], check=True)
        self.done = True

    def _descriptors(self, pids: list[int], mine: list[int]) -> None:
        for each in mine:
            used = len(os.listdir(f"/proc/{each}/fd"))
            resource.prlimit(each, resource.RLIMIT_NOFILE, (used, used))
        self.done = bool(mine)

    def _kill(self, pids: list[int], mine: list[int]) -> None:
        if len(mine) > 1:
            os.kill(mine[-1], signal.SIGKILL)
            self.done = True


# --- the program ---------------------------------------------------------------------------------------------

PIECES: Mapping[str, Callable[[Bench], None]] = {
    "frames": frames,
    "requests": requests,
    "ttft": ttft,
    "freeze": frozen,
    "dispersion": dispersed,
    "faults": catalogue,
    "limit": limit,
}


def rows() -> list[dict[str, Any]]:
    """All that was measured."""
    return [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()] if ROWS.exists() else []


def main(argv: Sequence[str] | None = None) -> int:
    """2 for a command line that is wrong."""
    parser = argparse.ArgumentParser(prog="python -m suites.selftest.bench.bench_load", description=__doc__.partition("\n")[0])
    parser.add_argument("pieces", nargs="+", choices=[*PIECES, "page"], help="what to make; page writes the tables of what was made")
    parser.add_argument("--tokenizer", type=Path, help="a folder with tokenizer.json, for the rivals: a merged model's")
    for tool in list(clients.CLIENTS)[1:]:
        parser.add_argument(f"--{tool}", metavar="PYTHON", help=f"the interpreter that has {clients.SHOWN[tool]}")
    parser.add_argument("--alone", action="store_true", help="without our own")
    parser.add_argument("--rounds", type=int, default=3, help="of each piece, the tools taking turns (default 3)")
    parser.add_argument("--at-once", type=int, default=2, help="faults at a time, whose times nobody compares (default 2)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the requests: to see that everything runs")
    said = parser.parse_args(argv)
    pythons = {} if said.alone else {"ours": sys.executable}
    if said.pieces != ["page"]:
        for tool in list(clients.CLIENTS)[1:]:
            given = getattr(said, tool.replace("-", "_"))
            found = clients.version(tool, given) if given else ""
            if found and said.tokenizer is None:
                parser.error("the rivals want a --tokenizer")
            if found:
                pythons[tool] = given
            keep(piece="versions", tool=tool, version=found, said="" if found else "not_evaluated: no interpreter with it was named")
    with tempfile.TemporaryDirectory(prefix="bench-load-") as folder:
        bench = Bench(pythons, (said.tokenizer or Path(".")).resolve(), Path(folder), said.rounds, said.quick, said.at_once)
        for piece in said.pieces:
            page(rows(), REPORTS) if piece == "page" else PIECES[piece](bench)
    return 0


if __name__ == "__main__":
    sys.exit(main())
