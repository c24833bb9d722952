"""A server of ours, from its command to the last of its processes.

    with Server.start(ServerSpec("vllm", model), folder) as server:
        server.target                      # where requests go, once it has answered one

A start ends in a server that listens on a port of its own, tells the name nobody else knows and has completed one streamed
answer, or in an error with the end of its log. A stop ends when no process of it is left. A guardian (harness.serve.process.guardian)
is its parent, so all of it ends with us even where we are killed; what a killed guardian leaves, the next start sweeps.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from harness.errors import ConfigError, EngineError, MissingNeed
from harness.serve.load import ask
from harness.serve.process import commands, guardian
from harness.serve.process.attached import Attached, attach
from harness.serve.process.probe import PROBE_S, escaped, get, listening, model_names
from harness.serve.target import Target
from harness.serve.telemetry.usage import tree_pss

__all__ = ["Attached", "Server", "ServerDied", "ServerSpec", "StopReport", "attach"]

T = TypeVar("T")

_TICK_S = 0.1  # between probes, unless the guardian has something to say
_SOCKETS = 107  # bytes of the longest path of a socket; vLLM appends 41 to its folder


class ServerDied(EngineError):
    """The server ended by itself, with whatever exit status."""


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """What is to be started.

    ``engine`` is "vllm", "llamacpp" or "argv" (then ``argv`` is all of the command). ``options`` are its flags without
    dashes. ``cores`` are those it may use; None leaves the last one to the client. ``start_timeout_s`` ends any start,
    ``quiet_timeout_s`` one that neither logs nor computes. A stop waits ``term_s`` after SIGTERM, and ``kill_s`` after SIGKILL.
    """

    engine: str
    model: Path
    options: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    argv: tuple[str, ...] = ()
    cores: tuple[int, ...] | None = None
    start_timeout_s: float = 600.0
    quiet_timeout_s: float = 180.0
    term_s: float = 10.0
    kill_s: float = 10.0
    name: str = "model"


@dataclass(frozen=True, slots=True)
class StopReport:
    """How a server ended: its exit status (None: it never ran), what had to be killed, what could not be, what was tidied up."""

    exit_code: int | None
    killed: tuple[int, ...] = ()
    left: tuple[int, ...] = ()
    removed: tuple[str, ...] = ()
    seconds: float = 0.0


class Server:
    """A server that runs. Made by ``start``; leave the ``with`` block, or call ``stop``."""

    def __init__(self, spec: ServerSpec, folder: Path, registry: Path, swept: tuple[Mapping[str, Any], ...]) -> None:
        self.spec, self.folder, self.swept = spec, folder, swept
        self.stages: list[tuple[str, float]] = []
        self.exit_code: int | None = None
        self.started_ns: int | None = None  # monotonic, as the guardian saw it
        self.died_ns: int | None = None
        self.pid = 0
        self._registry, self._id = registry, secrets.token_hex(8)
        self._key, self._nonce = secrets.token_urlsafe(24), f"{spec.name}-{secrets.token_hex(4)}"
        self._target: Target | None = None
        self._report: StopReport | None = None
        self._said, self._stopped = b"", None
        self._lost = False
        self._activity = (0.0, -1, -1)
        self._until = 0.0
        self._cores = commands.cores_for(spec.cores)
        self.command = commands.command(spec.engine, spec.model, (spec.name, self._nonce), spec.options, spec.argv, self._cores)
        self.log, self._tmp = _fresh_log(folder), _short_folder()
        self._guardian = self._spawn()

    @classmethod
    def start(cls, spec: ServerSpec, folder: Path, *, registry: Path | None = None) -> Server:
        """A server that has answered; its log goes into ``folder``, as server-N.log. What dead runs left is swept first.

        Raises MissingNeed where the engine is not installed, ServerDied if it ends, EngineError if it is stuck, listens to
        everybody, is somebody else's, or answers with no complete stream: each with its last 40 lines, and nothing left of it.
        """
        if not sys.platform.startswith("linux"):
            raise MissingNeed("linux", "servers are watched through /proc", "run this on Linux, or measure a server by its url")
        where = registry or registry_file()
        where.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        swept = tuple(guardian.sweep(str(where)))
        if left := [pid for each in swept for pid, _ in each["left"]]:
            raise EngineError(f"orphans: processes {left} of an earlier server cannot be killed; end them, then start again")
        server = cls(spec, folder, where, swept)
        try:
            server._get_ready()
        except BaseException:
            with contextlib.suppress(EngineError):  # what went wrong first is what counts; the next start says what is left
                server.stop(term_s=0)
            raise
        return server

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", guardian.__file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                cwd="/",
            )
        order = {
            "argv": self.command.argv,
            "env": self._environment(),
            "log": str(self.log),
            "cores": self._cores,
            "owner": os.getpid(),
            "server": self._id,
            "registry": str(self._registry),
            "tmp": self._tmp,
        }
        assert process.stdin is not None and process.stdout is not None  # pipes, as asked for
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()
        os.set_blocking(process.stdout.fileno(), False)
        return process

    def _environment(self) -> dict[str, str]:
        """Ours, without proxies and what points at this Python; with the key, and folders of its own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VLLM_")) and k != "VIRTUAL_ENV"}
        kept = {k: v for k, v in kept.items() if not k.lower().endswith("_proxy")}
        own = {"TMPDIR": self._tmp, "VLLM_RPC_BASE_PATH": self._tmp, guardian.TAG: self._id, self.command.key_env: self._key}
        return {"OMP_WAIT_POLICY": "PASSIVE", **kept, **self.command.env, **self.spec.env, **own}

    # --- what the guardian says ---------------------------------------------------------------------

    def _listen(self, seconds: float = 0.0) -> None:
        """Takes what the guardian has said by now, or says within ``seconds``."""
        pipe = self._guardian.stdout
        if self._lost or pipe is None or pipe.closed:
            return
        select.select([pipe], [], [], seconds)
        while (data := pipe.read(65536)) is not None:
            if not data:
                self._lost = True
                break
            self._said += data
        *lines, self._said = self._said.split(b"\n")
        for event in map(json.loads, lines):
            if event["event"] == "started":
                self.pid = event["pid"]
                self.started_ns = event["at"]
            elif event["event"] == "exited":
                self.exit_code, self.died_ns = event["code"], event["at"]
            else:
                self._stopped = event

    @property
    def alive(self) -> bool:
        """Whether the server's own process runs; members of its tree may outlive it."""
        self._listen()
        return self.died_ns is None and not self._lost and self._report is None

    @property
    def guardian_pid(self) -> int:
        """Its parent."""
        return self._guardian.pid

    def pids(self) -> tuple[int, ...]:
        """All processes of the server now, its own first, whatever session they are in."""
        return tuple(sorted(self._members(), key=lambda pid: (pid != self.pid, pid)))

    def _members(self) -> dict[int, guardian.Process]:
        """None once it was stopped: the guardian's number may be somebody else's."""
        return {} if self._report else {each.pid: each for each in guardian.descendants(self._guardian.pid)}

    def kill(self, who: str | int, number: int = signal.SIGKILL) -> None:
        """Sends a signal to the "leader", to its "group", to "all", or to one process of the server.

        Raises ConfigError for a process that is none of it.
        """
        members = self._members()
        if isinstance(who, int) or who == "leader":
            chosen = [who if isinstance(who, int) else self.pid]
        elif who == "group":
            chosen = [each.pid for each in members.values() if each.group == self.pid]
        elif who == "all":
            chosen = list(members)
        else:
            raise ConfigError(f"kill {who!r}: expected 'leader', 'group', 'all' or the number of a process")
        for pid in chosen:
            if pid not in members:
                raise ConfigError(f"kill {pid}: no process of this server; it has {sorted(members)}")
            guardian.send(members[pid].id, number)

    def memory_bytes(self) -> int:
        """What all its processes take: the sum of their proportional shares, so that what they share counts once."""
        return tree_pss(self.pids()) or 0

    def log_tail(self, lines: int = 40) -> str:
        """The last lines that it wrote, fit to be shown."""
        with self.log.open("rb") as stream:
            stream.seek(max(0, self.log.stat().st_size - 65536))
            text = stream.read().decode(errors="replace").replace(self._key, "***")
        return "\n".join(escaped(line) for line in text.splitlines()[-lines:])

    def describe(self) -> dict[str, str]:
        """What shaped what it does: command, versions, cores, and how long each stage of its start took."""
        program, *rest = self.command.argv  # where they lie is a matter of this machine
        shown = [Path(program).name, *(each.replace(self._nonce, "NONCE").replace(str(self.spec.model), self.spec.name) for each in rest)]
        stages = {f"start.{name}": f"{seconds:.2f} s" for name, seconds in self.stages}
        versions = {f"version.{name}": version for name, version in self.command.versions.items()}
        return {"engine": self.spec.engine, "argv": json.dumps(shown), "cores": json.dumps(self._cores), **versions, **stages}

    # --- becoming ready -----------------------------------------------------------------------------

    @property
    def target(self) -> Target:
        """Where its requests go."""
        if self._target is None:
            raise EngineError("the server has not answered yet")
        return self._target

    def _get_ready(self) -> None:
        self._until = time.monotonic() + self.spec.start_timeout_s
        self._activity = (time.monotonic(), -1, -1)
        self._stage("process", lambda: self.pid or None)
        self._stage("listener", self._listener)
        self._target = self._stage("health", self._healthy)
        self._stage("models", self._identified)
        self._stage("generation", self._generated)

    def _stage(self, name: str, attempt: Callable[[], T | None]) -> T:
        """Tries until it succeeds, as long as the server lives and shows signs of it."""
        began = time.monotonic()
        while (found := attempt()) is None:
            self._listen(_TICK_S)
            self._must_live(name)
        self.stages.append((name, time.monotonic() - began))
        return found

    def _must_live(self, stage: str) -> None:
        if self.died_ns is not None:
            raise ServerDied(self._account(f"server_died: exit status {self.exit_code} before {stage}"))
        if self._lost:
            raise ServerDied(self._account(f"server_died: its guardian was killed before {stage}"))
        now = time.monotonic()
        if now > self._until:
            raise EngineError(self._account(f"start_timeout: not at {stage} after {self.spec.start_timeout_s:g} s"))
        since, size, cpu = self._activity
        if now - since > 1:
            seen = (self.log.stat().st_size, sum(each.cpu for each in self._members().values()))
            if seen != (size, cpu):
                self._activity = (now, *seen)
            elif now - since > self.spec.quiet_timeout_s:
                raise EngineError(self._account(f"start_stuck: before {stage} it wrote and computed nothing for {now - since:.0f} s"))

    def _account(self, what: str) -> str:
        return f"{what}. The end of {self.log}:\n{self.log_tail(40)}"

    def _listener(self) -> bool | None:
        """Whether the server's own process listens, by what the kernel says: others of its tree have ports too, which accept
        and never answer, and the log may print port 0.
        """
        own = listening(self.pid)
        if own and all(host != "127.0.0.1" for host, _ in own):
            shown = ", ".join(f"{host}:{port}" for host, port in own)
            raise EngineError(f"not_loopback: the server listens on {shown}; expected 127.0.0.1 only, nobody else may ask it")
        return bool(own) or None

    def _healthy(self) -> Target | None:
        """The first of its ports that answers 200: vLLM listens long before it has loaded anything."""
        for host, port in listening(self.pid):
            target = Target(f"http://127.0.0.1:{port}", self.spec.name, self._key)
            if host == "127.0.0.1" and (get(target, self.command.health, PROBE_S, self._guardian.stdout) or (0,))[0] == 200:
                return target
        return None

    def _identified(self) -> bool | None:
        answer = self.get("/v1/models")
        if answer is None or answer[0] != 200:
            return None
        names = model_names(answer[1])
        wanted = self._nonce if self.command.named else self.spec.name
        if wanted not in names:
            shown = ", ".join(map(escaped, names)) or "none"
            raise EngineError(self._account(f"wrong_server: port {self.target.port} serves {shown}; expected {wanted}"))
        return True

    def _generated(self) -> bool | None:
        """One streamed answer, complete. The first one compiles and allocates: health says nothing of it."""
        body = {"model": self.spec.name, "prompt": "Hello", "max_tokens": 8, "temperature": 0, "stream": True}
        body |= {"stream_options": {"include_usage": True}, **self.command.extra}
        found: list[Any] = []
        limit = max(1.0, self._until - time.monotonic())

        def work() -> None:
            try:
                found.extend(ask(self.target, [json.dumps(body).encode()], chat=False, stream=True, limit_s=limit))
            except Exception as error:  # told by whoever waits
                found.append(error)

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(_TICK_S)
            self._listen()
            self._must_live("generation")
        (answer,) = found
        if isinstance(answer, Exception):
            raise answer
        if answer.outcome != "complete":
            self._listen(1.0)  # a server that is dying says so
            self._must_live("generation")
            raise EngineError(self._account(f"no_generation: its first answer is {answer.outcome} ({escaped(str(answer.why))})"))
        return True

    def get(self, path: str, limit_s: float = PROBE_S) -> tuple[int, bytes] | None:
        """Status and body of a GET, with the key; None if there is no answer within ``limit_s``, or the server dies meanwhile."""
        return get(self.target, path, limit_s, self._guardian.stdout)

    # --- the end ------------------------------------------------------------------------------------

    def stop(self, term_s: float | None = None) -> StopReport:
        """SIGTERM, time to finish, SIGKILL to all that is left; returns when nothing of it is. Safe to call twice.

        Raises EngineError if a process outlives SIGKILL: it is remembered, and the next start is refused while it lives.
        """
        if self._report is not None:
            return self._report
        began, patience = time.monotonic(), self.spec.term_s if term_s is None else term_s
        event = self._asked_to_stop(patience) or self._swept_up()
        self._report = StopReport(
            self.exit_code, tuple(event["killed"]), tuple(event["left"]), tuple(event["removed"]), time.monotonic() - began
        )
        shutil.rmtree(self._tmp, ignore_errors=True)
        _redact(self.log, self._key)
        if self._report.left:
            raise EngineError(f"orphans: processes {list(self._report.left)} of {self.spec.name} outlived SIGKILL; see {self.log}")
        return self._report

    def _asked_to_stop(self, term_s: float) -> Mapping[str, Any] | None:
        with contextlib.suppress(OSError):
            assert self._guardian.stdin is not None  # a pipe, as asked for
            order = {"do": "stop", "term_s": term_s, "kill_s": self.spec.kill_s}
            self._guardian.stdin.write(json.dumps(order).encode() + b"\n")
            self._guardian.stdin.flush()
        until = time.monotonic() + term_s + self.spec.kill_s + 30
        while self._stopped is None and not self._lost and time.monotonic() < until:
            self._listen(1.0)
        if not self._lost:
            self._guardian.kill() if self._stopped is None else None
        self._guardian.wait()
        for pipe in (self._guardian.stdin, self._guardian.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        return self._stopped

    def _swept_up(self) -> Mapping[str, Any]:
        """Where the guardian was killed its work is ours."""
        done = guardian.sweep(str(self._registry), only=self._id, wait_s=self.spec.kill_s)
        mine: Mapping[str, Any] = next((each for each in done if each["server"] == self._id), {"killed": (), "left": (), "removed": ()})
        if self.exit_code is None and self.pid:
            self.exit_code = -signal.SIGKILL
        return {**mine, "left": [pid for pid, _ in mine["left"]]}

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.stop()
        except EngineError:
            if error is None:
                raise


# --- files --------------------------------------------------------------------------------------------


def registry_file() -> Path:
    """Where servers are written down while they run: ``$HARNESS_SERVERS``, else the user's cache folder (XDG)."""
    if "HARNESS_SERVERS" in os.environ:
        return Path(os.environ["HARNESS_SERVERS"]).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "lifecycle-harness" / "servers.jsonl"


def _fresh_log(folder: Path) -> Path:
    """server-N.log with the first N that nobody has taken: several servers may share a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = folder.absolute() / f"server-{number}.log"
        with contextlib.suppress(FileExistsError):
            path.open("x").close()
            return path
        number += 1


def _short_folder() -> str:
    """A temporary folder whose sockets' paths fit: below $TMPDIR, or /tmp where that is too deep."""
    for parent in (tempfile.gettempdir(), "/tmp"):
        if len(parent) + len(guardian.PREFIX) + 10 + 41 <= _SOCKETS:
            return tempfile.mkdtemp(prefix=guardian.PREFIX, dir=parent)
    raise ConfigError(
        f"TMPDIR {tempfile.gettempdir()} is too deep for a socket ({_SOCKETS} bytes), and /tmp cannot be used; set a shorter one"
    )


def _redact(path: Path, secret: str) -> None:
    """A server that logs its key does not get it into the evidence."""
    data = path.read_bytes()
    if secret.encode() in data:
        path.write_bytes(data.replace(secret.encode(), b"*" * len(secret)))
