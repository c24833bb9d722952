"""The parent of a server: spawns it, outlives whoever asked for it, and leaves nothing of it behind.

Run as a script by harness.serve.process, in a session of its own; standard library only, nothing of ``harness``. It is the
subreaper of the whole tree: a member that loses its parent, or opens a session of its own, is still found among its
descendants. It waits on a pipe *and* a pidfd of its owner, since a fork of the owner may hold the other end of the pipe.

    stdin    one line, the order {argv, env, log, cores, owner, server, registry, tmp}; then {"do": "stop", "term_s", "kill_s"}
    stdout   {"event": "started" | "exited" | "stopped", "at": monotonic nanoseconds, ...}

The registry (servers.jsonl) says after each change which processes belong to which server, by process id and start time, so
that the next start can ``sweep`` what was left where the guardian itself was killed: exact matches, never a name.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

_PDEATHSIG, _SUBREAPER = 1, 36  # prctl
_LOOK_S, _YOUNG_S, _MAPS_S = 1.0, 0.1, 5.0  # how often to look for new members: later, in the first seconds; how long for new memory's
TAG = "HARNESS_SERVER"  # a variable that the whole tree inherits, where it does not overwrite it
PREFIX = "hs-"  # of the temporary folder of a server


class Process(NamedTuple):
    """A line of /proc: ``ticks`` since boot at which it started make a process id unique; ``cpu`` ticks were used so far."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    cpu: int
    ticks: int

    @property
    def id(self) -> tuple[int, int]:
        return self.pid, self.ticks


def process(pid: int) -> Process | None:
    """None if there is none of that number, or only its exit status is left."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            fields = stream.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    if not fields or fields[0] in (b"Z", b"X"):
        return None
    parent, group, session = map(int, fields[1:4])
    return Process(pid, fields[0].decode(), parent, group, session, int(fields[11]) + int(fields[12]), int(fields[19]))


def processes() -> dict[int, Process]:
    """All that run."""
    found = (process(int(name)) for name in os.listdir("/proc") if name.isdigit())
    return {each.pid: each for each in found if each is not None}


def descendants(root: int, table: dict[int, Process] | None = None) -> list[Process]:
    """Everything below ``root``, itself not included."""
    children: dict[int, list[Process]] = {}
    for each in (processes() if table is None else table).values():
        children.setdefault(each.parent, []).append(each)
    found, todo = [], [root]
    while todo:
        below = children.get(todo.pop(), [])
        found += below
        todo += [each.pid for each in below]
    return found


def send(member: tuple[int, int], number: int) -> bool:
    """Signals exactly this process: its number may be somebody else's by now. False if it is gone."""
    pid, ticks = member
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        found = process(pid)
        if found is None or found.ticks != ticks:
            return False
        signal.pidfd_send_signal(handle, number)
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


# --- shared memory ------------------------------------------------------------------------------------


def shared(pids: Iterable[int]) -> set[str]:
    """Names below /dev/shm that these processes map or hold open."""
    found = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as stream:
                found |= {line.partition("/dev/shm/")[2].rstrip("\n") for line in stream if "/dev/shm/" in line}
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{fd}")
                    found |= {link[9:]} if link.startswith("/dev/shm/") else set()
    return {name for name in found if name and "/" not in name and not name.endswith(" (deleted)")}


def tidy(tmp: str, names: Iterable[str]) -> list[str]:
    """Removes a server's temporary folder, and those of its entries in /dev/shm that are ours and that nobody maps; names them."""
    if os.path.basename(tmp).startswith(PREFIX) and not os.path.islink(tmp):
        shutil.rmtree(tmp, ignore_errors=True)
    wanted = set(names)
    held = shared(processes()) if wanted else set()
    removed = []
    for name in sorted(wanted - held):
        path = os.path.join("/dev/shm", name)
        with contextlib.suppress(OSError):
            if os.lstat(path).st_uid == os.getuid():
                os.unlink(path)
                removed.append(name)
    return removed


# --- the registry -------------------------------------------------------------------------------------


def here() -> list[str]:
    """This boot and this namespace of process ids: numbers of another mean nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
        return [stream.read().strip(), os.readlink("/proc/self/ns/pid")]


@contextlib.contextmanager
def locked(registry: str) -> Iterator[int]:
    """The registry, ours alone; readable by its owner only."""
    fd = os.open(registry, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)


def note(registry: str, entry: dict[str, Any]) -> None:
    """Appends a line: what is known of a server now. The last one counts."""
    with locked(registry) as fd:
        os.write(fd, json.dumps(entry).encode() + b"\n")


def entries(data: bytes) -> dict[str, dict[str, Any]]:
    """The last word on each server that has not ended. Half a line, of a writer that was killed, is none."""
    found: dict[str, dict[str, Any]] = {}
    for line in data.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            found[entry["server"]] = entry
    return {name: entry for name, entry in found.items() if not entry.get("ended")}


def sweep(registry: str, only: str = "", wait_s: float = 5.0) -> list[dict[str, Any]]:
    """Kills what is left of servers whose guardian is gone; one dict for each: server, killed, left, removed.

    A member is one by process id and start time; with it goes all of its session, what it spawned, and what carries the
    server's tag. The lock is held throughout: of two that start at once, one sweeps.
    """
    if not os.path.exists(registry):
        return []
    swept = []
    with locked(registry) as fd:
        kept = []
        for entry in entries(_read(fd)).values():
            if entry["here"] != here():
                continue  # of another boot: all of it is gone
            guardian = process(entry["guardian"][0])
            if (guardian is not None and guardian.ticks == entry["guardian"][1]) or (only and entry["server"] != only):
                kept.append(entry)
                continue
            done = _reap(entry, wait_s)
            swept.append(done)
            if done["left"]:
                kept.append({**entry, "members": done["left"]})
        os.ftruncate(fd, 0)
        os.write(fd, b"".join(json.dumps(entry).encode() + b"\n" for entry in kept))
    return swept


def _read(fd: int) -> bytes:
    return b"".join(iter(lambda: os.read(fd, 1 << 16), b""))


def _reap(entry: dict[str, Any], wait_s: float) -> dict[str, Any]:
    known = {(pid, ticks) for pid, ticks in entry["members"]}
    killed: set[int] = set()
    names, until = set(entry["shm"]), time.monotonic() + wait_s
    while True:
        table = processes()
        left = _members(entry["server"], known, table)
        if not left or time.monotonic() > until:
            break
        names |= shared(each.pid for each in left)
        known |= {each.id for each in left}  # a member that is killed first takes the trace of its children with it
        killed |= {each.pid for each in left if send(each.id, signal.SIGKILL)}
        time.sleep(0.01)
    removed = tidy(entry["tmp"], names) if not left else []
    return {"server": entry["server"], "killed": sorted(killed), "left": [each.id for each in left], "removed": removed}


def _members(server: str, known: set[tuple[int, int]], table: dict[int, Process]) -> list[Process]:
    mark = f"{TAG}={server}".encode()
    found = {each.pid: each for each in table.values() if each.id in known or mark in _environment(each.pid)}
    sessions = {each.session for each in found.values()}
    found |= {each.pid: each for each in table.values() if each.session in sessions}
    for root in list(found):
        found |= {each.pid: each for each in descendants(root, table)}
    return list(found.values())


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read()
    except OSError:
        return b""


# --- the guardian -------------------------------------------------------------------------------------


class Guardian:
    """One server and all that comes of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.leader: Process | None = None
        self.pid = 0
        self.code: int | None = None
        self.known: dict[tuple[int, int], Process] = {}
        self.shm: set[str] = set()
        self.entries: set[str] = set()
        self.looked = self.began = self.changed = time.monotonic()
        self.commands = b""
        self.poll = select.poll()
        self.wake, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        os.set_blocking(waker, False)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        os.set_blocking(0, False)
        self.owner = os.pidfd_open(order["owner"])
        for fd in (0, self.owner, self.wake):
            self.poll.register(fd, select.POLLIN)

    def spawn(self) -> None:
        """The server: a session of its own, killed with us, its words straight into a file."""
        libc, parent, cores = ctypes.CDLL(None, use_errno=True), os.getpid(), self.order["cores"]
        libc.prctl(_SUBREAPER, 1, 0, 0, 0)

        def ready() -> None:  # in the child
            libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != parent:
                os._exit(127)
            if cores:
                os.sched_setaffinity(0, cores)

        note(self.order["registry"], self._entry())
        with open(self.order["log"], "ab") as log:
            child = subprocess.Popen(
                self.order["argv"],
                env=self.order["env"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ready,
            )
        self.pid, child.returncode = child.pid, 0  # it is reaped here, with those that are adopted
        self.leader = process(child.pid)
        self.look()
        self.say("started", pid=child.pid, ticks=self.leader.ticks if self.leader else 0)

    def say(self, event: str, **more: Any) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
            os.write(1, json.dumps({"event": event, "at": time.monotonic_ns(), **more}).encode() + b"\n")

    def _entry(self) -> dict[str, Any]:
        me = process(os.getpid())
        return {
            "server": self.order["server"],
            "here": here(),
            "guardian": me.id if me else (0, 0),
            "members": sorted(self.known),
            "tmp": self.order["tmp"],
            "shm": sorted(self.shm),
        }

    def look(self, maps: bool = False) -> list[Process]:
        """Who belongs to the tree now; the registry is told of newcomers before anything else happens."""
        now = descendants(os.getpid())
        before = (set(self.known), set(self.shm))
        self.known = {each.id: each for each in now}
        self.looked = time.monotonic()
        entries = set(os.listdir("/dev/shm"))
        if entries - self.entries:
            self.changed = self.looked
        self.entries = entries
        if maps or self.looked - self.changed < _MAPS_S:  # somebody made one: who, can be told only while it lives
            self.shm |= shared(each.pid for each in now)
        if (set(self.known), self.shm) != before:
            note(self.order["registry"], self._entry())
        return now

    def reap(self) -> bool:
        """Takes the exit status of whoever ended, adopted or not. True if we have no child any more, hence nobody below us:
        the kernel's word, where a walk through /proc may miss one whose parent is just dying.
        """
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return True
            if pid == 0:
                return False
            if pid == self.pid and self.code is None:
                self.code = os.waitstatus_to_exitcode(status)
                self.say("exited", code=self.code)

    def wait(self, seconds: float) -> dict[str, Any] | None:
        """What is to be done next, if anything: an order of the owner, or to stop since there is none any more."""
        for fd, _ in self.poll.poll(max(0, round(seconds * 1000))):
            if fd == self.owner:
                return {"do": "stop", "term_s": 0, "kill_s": 10}
            if fd == self.wake:
                numbers = os.read(self.wake, 4096)
                if set(numbers) - {signal.SIGCHLD}:
                    return {"do": "stop", "term_s": 0, "kill_s": 10}
            if fd == 0:
                said = os.read(0, 4096)
                if not said:
                    return {"do": "stop", "term_s": 0, "kill_s": 10}
                self.commands += said
        if b"\n" in self.commands:
            line, _, self.commands = self.commands.partition(b"\n")
            found: dict[str, Any] = json.loads(line)
            return found
        return None

    def run(self) -> None:
        """Watches until told to stop, or until the owner is gone."""
        while True:
            young = time.monotonic() - self.began < 10
            todo = self.wait(_YOUNG_S if young else _LOOK_S)
            self.reap()
            if todo is not None:
                return self.stop(todo["term_s"], todo["kill_s"])
            if time.monotonic() - self.looked >= (_YOUNG_S if young else _LOOK_S):
                self.look()

    def stop(self, term_s: float, kill_s: float) -> None:
        """SIGTERM to the server, then SIGKILL to all that is left of it, until nothing is."""
        began = time.monotonic()
        self.look(maps=True)
        if term_s > 0 and self.code is None and self.leader is not None:
            send(self.leader.id, signal.SIGTERM)
            while self.code is None and (left := began + term_s - time.monotonic()) > 0:
                if self.wait(min(left, _LOOK_S)) is not None:
                    break  # the owner is gone: no more patience
                self.reap()
                self.look()
        asked = time.monotonic()
        killed: set[int] = set()
        while True:
            alone = self.reap()
            left_over = self.look(maps=not killed)
            if (alone and not left_over) or time.monotonic() - asked > kill_s:
                break
            killed |= {each.pid for each in left_over if send(each.id, signal.SIGKILL)}
            select.select([self.wake], [], [], 0.02)
            with contextlib.suppress(BlockingIOError):
                os.read(self.wake, 4096)
        removed = tidy(self.order["tmp"], self.shm) if not left_over else []
        if not left_over:
            note(self.order["registry"], {"server": self.order["server"], "ended": True})
        self.say(
            "stopped",
            code=self.code,
            killed=sorted(killed),
            left=[each.pid for each in left_over],
            removed=removed,
            term_s=asked - began,
            kill_s=time.monotonic() - asked,
        )


def main() -> None:
    """Reads the order, spawns, watches; a server that cannot be spawned is said to have exited at once."""
    line = b""
    while not line.endswith(b"\n"):
        piece = os.read(0, 1)
        if not piece:
            return
        line += piece
    guardian = Guardian(json.loads(line))
    try:
        guardian.spawn()
    except (OSError, subprocess.SubprocessError) as error:
        with open(guardian.order["log"], "a", encoding="utf-8") as log:
            log.write(f"cannot start {guardian.order['argv'][0]}: {error}\n")
        guardian.code = 127
        guardian.say("exited", code=127)
    guardian.run()


if __name__ == "__main__":
    main()
