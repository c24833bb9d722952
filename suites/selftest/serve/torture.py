"""Starts servers and kills them in every way there is; prints what was left of them.

    python -m suites.selftest.serve.torture 500              fake trees, and 32 starts at once
    python -m suites.selftest.serve.torture 20 vllm FOLDER   the same ways of ending, on a real server

Exit status 1 where a process or a port was left behind, or a death was reported later than a second after it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import EngineError
from harness.serve.process import Server, ServerDied, ServerSpec, guardian
from suites.selftest.serve import trees

PARALLEL = 32
PATIENCE_S = 5.0
TREES = (
    {"members": [{}, {"ignore_term": True}]},
    {"members": [{"own_session": True, "ignore_term": True}, {"listens": True}]},
    {"members": [{"orphan": True, "own_session": True, "ignore_term": True}], "ignore_term": True},
    {"members": [{"orphan": True}, {"own_session": True}], "start_s": 0.1},
)


@dataclass
class Tally:
    """What came of the cycles of one way."""

    cycles: int = 0
    orphans: int = 0
    ports_held: int = 0
    wrong: list[str] = field(default_factory=list)
    reported_s: list[float] = field(default_factory=list)
    gone_s: list[float] = field(default_factory=list)


def killed(who: str) -> Callable[[Server, Tally], None]:
    """SIGKILL to the leader, to its group, or to the youngest member; a death of the leader must be told within a second."""

    def end(server: Server, tally: Tally) -> None:
        began = time.monotonic_ns()
        server.kill(server.pids()[-1] if who == "member" else who)
        until = time.monotonic() + 5
        while who != "member" and server.alive and time.monotonic() < until:
            time.sleep(0.005)
        if who != "member":
            told = server.died_ns
            tally.reported_s.append((told - began) / 1e9 if told else float("inf"))
        stopped(server, tally)

    return end


def stopped(server: Server, tally: Tally) -> None:
    """SIGTERM, then whatever is needed."""
    server.stop(term_s=0.3 if server.spec.engine == "argv" else None)


def guardian_killed(server: Server, tally: Tally) -> None:
    """The guardian goes first: what is left is ours to end."""
    server.pids()
    os.kill(server.guardian_pid, signal.SIGKILL)
    server.stop()


WAYS: Mapping[str, Callable[[Server, Tally], None]] = {
    "stop": stopped,
    "kill the leader": killed("leader"),
    "kill the group": killed("group"),
    "kill a member": killed("member"),
    "kill the guardian": guardian_killed,
}
OWNED = ("kill the owner", "kill the owner, which has forked", "kill owner and guardian", "the owner leaves without a word")
FAILED = ("it dies while it starts, status 0", "it never answers")


def cycle(way: str, spec: ServerSpec, work: Path, registry: Path, tally: Tally) -> None:
    """One start and one end; then who is left is looked for, in a way of its own."""
    mark = secrets.token_hex(8)
    spec = replace(spec, env={**spec.env, trees.MARK: mark})
    tally.cycles += 1
    port, members = 0, []
    try:
        if way in OWNED:
            port, members = owned(way, spec, work, registry, tally)
        elif way in FAILED:
            failed(way, spec, work, registry, tally)
        else:
            server = Server.start(spec, work, registry=registry)
            port, members = server.target.port, trees.ids(server.pids())
            WAYS[way](server, tally)
    except EngineError as error:
        tally.wrong.append(f"{way}: {error}"[:300])
    began = time.monotonic()
    left = trees.gone(mark, PATIENCE_S, members)
    tally.gone_s.append(time.monotonic() - began)
    tally.orphans += len(left)
    for pid in left:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    tally.ports_held += int(bool(port) and held(port))


def held(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def owned(way: str, spec: ServerSpec, work: Path, registry: Path, tally: Tally) -> tuple[int, list[tuple[int, int]]]:
    """The server of another process, which is killed."""
    order = {"spec": {**asdict(spec), "model": str(spec.model)}, "work": str(work), "registry": str(registry)}
    order["fork"], order["leave"] = "forked" in way, "word" in way
    owner = subprocess.Popen(
        [sys.executable, "-m", "suites.selftest.serve.torture", "--owner", json.dumps(order)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None  # a pipe, as asked for
    said = json.loads(owner.stdout.readline() or "{}")
    if not said:
        tally.wrong.append(f"{way}: the owner could not start a server")
    elif "leave" not in way:
        if "guardian" in way:
            os.kill(said["guardian"], signal.SIGKILL)
        owner.kill()
    owner.wait()
    while "guardian" in way and said and guardian.process(said["guardian"]) is not None:
        time.sleep(0.005)  # while it is still there its servers are its own
    owner.stdout.close()
    if "guardian" in way:
        guardian.sweep(str(registry))  # as the next start does
    if child := said.get("child"):
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    return said.get("port", 0), [(pid, ticks) for pid, ticks in said.get("members", ())]


def own(order: Mapping[str, Any]) -> None:
    """The owner: starts, says so, and waits to be killed; a fork of it holds the other ends of its pipes."""
    spec = ServerSpec(**{**order["spec"], "model": Path(order["spec"]["model"]), "argv": tuple(order["spec"]["argv"])})
    server = Server.start(replace(spec, cores=None), Path(order["work"]), registry=Path(order["registry"]))
    child = 0
    if order["fork"]:
        child = os.fork()
        if child == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
    said = {"port": server.target.port, "guardian": server.guardian_pid, "child": child, "members": trees.ids(server.pids())}
    print(json.dumps(said), flush=True)
    if order["leave"]:
        os._exit(1)
    signal.pause()


def failed(way: str, spec: ServerSpec, work: Path, registry: Path, tally: Tally) -> None:
    """A start that cannot succeed is told, and nothing of it is left."""
    dies = "dies" in way
    plan = {"members": [{"own_session": True}], "quiet": True, **({"dies_s": 0.1} if dies else {})}
    spec = replace(trees.spec(plan), env=spec.env, start_timeout_s=20 if dies else 0.4)
    try:
        Server.start(spec, work, registry=registry).stop()
        tally.wrong.append(f"{way}: it started")
    except ServerDied:
        tally.wrong += [] if dies else [f"{way}: said to have died"]
    except EngineError as error:
        tally.wrong += [] if not dies and "start_timeout" in str(error) else [f"{way}: {error}"[:300]]


def collisions(work: Path, registry: Path, n: int = PARALLEL) -> tuple[int, int]:
    """``n`` starts at once: how many got a port that another has, and how many failed. Each is asked by name while all run."""
    mark = secrets.token_hex(8)

    def start(_: int) -> Server | None:
        with contextlib.suppress(EngineError):
            return Server.start(trees.spec({"members": [{"listens": True}]}, mark), work, registry=registry)
        return None

    with ThreadPoolExecutor(n) as pool:
        servers = [each for each in pool.map(start, range(n)) if each is not None]
    ports = [each.target.port for each in servers]
    with ThreadPoolExecutor(n) as pool:
        list(pool.map(lambda server: server.stop(), servers))
    return len(ports) - len(set(ports)) + len(trees.gone(mark)), n - len(servers)


def main() -> int:
    """The table; see the top."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cycles", nargs="?", type=int, default=500)
    parser.add_argument("engine", nargs="?", default="argv")
    parser.add_argument("model", nargs="?", type=Path, default=Path("/"))
    parser.add_argument("--owner", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.owner:
        own(json.loads(args.owner))
        return 0
    ways = [*WAYS, *OWNED, *(FAILED if args.engine == "argv" else ())]
    tallies = {way: Tally() for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        work, registry = Path(folder, "logs"), Path(folder, "servers.jsonl")
        for number in range(args.cycles):
            way = ways[number % len(ways)]
            tree = trees.spec(TREES[number // len(ways) % len(TREES)])
            cycle(way, tree if args.engine == "argv" else ServerSpec(args.engine, args.model), work, registry, tallies[way])
        same, unstarted = collisions(work, registry) if args.engine == "argv" else (0, 0)
    print(f"{'how it ended':<34} cycles  orphans  ports held  death told  gone after")
    for way, tally in tallies.items():
        told = f"{max(tally.reported_s) * 1e3:.0f} ms" if tally.reported_s else "-"
        after = f"{max(tally.gone_s, default=0) * 1e3:.0f} ms"
        print(f"{way:<34} {tally.cycles:>6}  {tally.orphans:>7}  {tally.ports_held:>10}  {told:>10}  {after:>10}")
    wrong = [each for tally in tallies.values() for each in tally.wrong]
    print(*wrong, sep="\n")
    if args.engine == "argv":
        print(f"{PARALLEL} starts at once: {same} ports twice or processes left, {unstarted} that did not start")
    late = sum(each > 1 for tally in tallies.values() for each in tally.reported_s)
    return int(any(t.orphans or t.ports_held for t in tallies.values()) or bool(wrong or same or unstarted or late))


if __name__ == "__main__":
    sys.exit(main())
