"""What becomes of a server that is killed, told to end, or left by its clients: rows, by the same code for real and for fake ones."""

from __future__ import annotations

import contextlib
import json
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.errors import EngineError
from harness.serve import telemetry
from harness.serve.load import Answer, ask
from harness.serve.process import Server, ServerSpec, guardian
from suites.selftest.serve import torture, trees

STEP = 2  # raised by hand when what is measured here changes

Row = dict[str, Any]


# --- F3: killed ---------------------------------------------------------------------------------------


def killed(server: Server, way: str, patience_s: float) -> dict[str, list[Row]]:
    """SIGKILL to its "leader" or to the process that holds the most memory ("heaviest"): what is left after ``patience_s``
    ("bare"), and after we have stopped it ("reaped").
    """
    held = _held(server)
    server.kill("leader" if way == "leader" else max(held["members"], key=lambda each: each["pss"])["pid"])
    bare = _left(held, patience_s)
    with contextlib.suppress(EngineError):  # what cannot be ended stands in the rows
        server.stop(term_s=0)
    return {"bare": bare, "reaped": _left(held, 0.5)}


def owner_killed(spec: ServerSpec, folder: Path, registry: Path, patience_s: float) -> dict[str, list[Row]]:
    """SIGKILL to the process that has started it."""
    order = {"spec": {**asdict(spec), "model": str(spec.model)}, "work": str(folder), "registry": str(registry)}
    command = [sys.executable, "-m", "suites.selftest.serve.torture", "--owner", json.dumps({**order, "fork": True, "leave": False})]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None  # a pipe, as asked for
        said = json.loads(owner.stdout.readline() or "{}")
        if not said:
            raise EngineError(f"the owner could not start {spec.engine}; see {folder}")
        shm = guardian.shared(pid for pid, _ in said["members"])
        owner.kill()
    rows = _left({"members": [{"pid": p, "ticks": t} for p, t in said["members"]], "port": said["port"], "shm": sorted(shm)}, patience_s)
    for pid, ticks in [*said["members"], *trees.ids([said["child"]])]:
        guardian.send((pid, ticks), signal.SIGKILL)
    return {"bare": [], "reaped": rows}


def _held(server: Server) -> dict[str, Any]:
    members = [
        {"pid": pid, "ticks": found.ticks, "name": _name(pid), "pss": telemetry.tree_pss([pid]) or 0}
        for pid in server.pids()
        if (found := guardian.process(pid)) is not None
    ]
    return {"members": members, "port": server.target.port, "shm": sorted(guardian.shared(server.pids()))}


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def _left(held: dict[str, Any], patience_s: float) -> list[Row]:
    """One row for each process, for the port, and for shared memory; looked at until all is gone or the time is over."""
    until = time.monotonic() + patience_s
    while True:
        alive = {(each.pid, each.ticks) for each in guardian.processes().values()}
        left = [each for each in held["members"] if (each["pid"], each["ticks"]) in alive]
        shm = [name for name in held["shm"] if Path("/dev/shm", name).exists()]
        port = torture.held(held["port"])
        if not (left or shm or port) or time.monotonic() > until:
            break
        time.sleep(0.05)
    rows = [
        {"item": f"process {i}: {each.get('name') or 'member'}", "good": each not in left, "bytes": _pss(each) if each in left else 0}
        for i, each in enumerate(held["members"])
    ]
    rows.append({"item": "port", "good": not port, "port": held["port"]})
    return [*rows, {"item": "shared memory", "good": not shm, "left": shm}]


def _pss(member: dict[str, Any]) -> int:
    return telemetry.tree_pss([member["pid"]]) or 0


# --- F4: told to end ----------------------------------------------------------------------------------


def drained(server: Server, streams: int, tokens: int, limit_s: float = 120.0) -> dict[str, list[Row]]:
    """SIGTERM with ``streams`` answers under way: which of them are lost ("lost", with the exit status), and whether
    /health said no before the last of them was over ("ready").
    """
    answers, over = _asking(server, streams, tokens)
    _until_running(server, streams)
    began = time.monotonic()
    server.kill("leader", signal.SIGTERM)
    refused: float | None = None
    ended: float | None = None
    while time.monotonic() - began < limit_s and (ended is None or server.alive):
        said = server.get(server.command.health, 1.0)
        if refused is None and (said is None or said[0] != 200):
            refused = time.monotonic() - began
        if ended is None and over.is_set():
            ended = time.monotonic() - began
        time.sleep(0.05)
    lost = [
        {"item": f"stream {i}", "good": each.complete, "outcome": each.outcome, "why": each.why, "frames": len(each.frames)}
        for i, each in enumerate(answers)
    ]
    lost.append({"item": "exit status", "good": server.exit_code == 0, "exit_code": server.exit_code})
    # a server that is gone says no, too; one that drains says it well before
    early = refused is not None and ended is not None and refused + 0.1 < ended and any(each.complete for each in answers)
    ready = [{"item": "readiness", "good": early, "refused_s": refused, "last_answer_s": ended}]
    return {"lost": lost, "ready": ready}


def _asking(server: Server, streams: int, tokens: int) -> tuple[list[Answer], threading.Event]:
    found: list[Answer] = []
    over = threading.Event()

    def work() -> None:
        found.extend(ask(server.target, [body(server, tokens, i) for i in range(streams)], concurrency=streams, chat=False, limit_s=120))
        over.set()

    threading.Thread(target=work, daemon=True).start()
    return found, over


def body(server: Server, tokens: int, number: int) -> dict[str, Any]:
    return {"prompt": f"{number}. Once upon a time", "max_tokens": tokens, "temperature": 0, **server.command.extra}


def _running(server: Server) -> float:
    with contextlib.suppress(EngineError):
        return telemetry.scrape(server.target).running or 0.0
    return -1.0


def _until_running(server: Server, n: int, limit_s: float = 30.0) -> bool:
    until = time.monotonic() + limit_s
    while _running(server) < n:
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


# --- F5: left -----------------------------------------------------------------------------------------


def left(server: Server, trials: int, frames: int, tokens: int, limit_s: float) -> list[Row]:
    """A client that leaves after ``frames`` frames of an answer of ``tokens``: seconds until nothing runs, None beyond ``limit_s``.
    ``seen``: whether the server ever counted it, without which the trial says nothing.
    """
    rows = []
    for trial in range(trials):
        over, seen = threading.Event(), False
        base = max(0.0, _running(server))

        def leave(number: int = trial, done: threading.Event = over) -> None:
            ask(server.target, [body(server, tokens, number)], chat=False, close_after={0: frames}, limit_s=60)
            done.set()

        threading.Thread(target=leave, daemon=True).start()
        while not over.is_set():
            seen = _running(server) > base or seen
            time.sleep(0.005)
        began = time.monotonic()
        free: float | None = None
        while free is None and time.monotonic() - began < limit_s:
            free = time.monotonic() - began if _running(server) == 0 else None
            time.sleep(0.005)
        rows.append({"item": f"client {trial}", "free_s": free, "seen": seen or base > 0})
    return rows


# --- fakes --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def fake(folder: Path, plan: dict[str, Any]) -> Iterator[Server]:
    """A fake tree as a server; nothing of it is left, whatever is planted in who watches it."""
    mark = secrets.token_hex(8)
    server = Server.start(replace(trees.spec(plan), env={trees.MARK: mark}), folder, registry=folder / "servers.jsonl")
    try:
        yield server
    finally:
        with contextlib.suppress(EngineError):
            server.stop(term_s=0)
        for member in trees.ids(trees.alive(mark)):
            guardian.send(member, signal.SIGKILL)
