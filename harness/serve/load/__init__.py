"""A load: the schedule sent by one process or several, and a record of every request that was scheduled.

Each shard is a process of its own with its slice of the schedule; all start at one instant of the monotonic clock and share
nothing while they send. A record has its place in one file before the run begins: a shard overwrites those of its
requests, so that merging is nothing, and what a shard did not live to send is there, as not sent.
"""

from __future__ import annotations

import json
import os
import pickle
import select
import struct
import subprocess
import sys
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, EngineError, MissingNeed
from harness.progress import Progress
from harness.records import Flag, Load, Record, pack, unpack
from harness.serve.load.asking import Answer, ask, identity, prepared
from harness.serve.load.job import Job, Page
from harness.serve.load.machines import Machine, merged
from harness.serve.load.scratch import temporary
from harness.serve.load.shard import mapped
from harness.serve.schedule.dispersion import check
from harness.serve.target import Target

if TYPE_CHECKING:
    from harness.serve.schedule import Schedule
    from harness.serve.workload import Workload

__all__ = ["MOST_SHARDS", "Answer", "Machine", "Ran", "ask", "identity", "merged", "run_load"]

OnChunks = Callable[[int, Sequence[int]], None]
MOST_SHARDS = 255  # of all machines together: a record numbers them in a byte
_START_S = 30.0  # a shard that is not ready by then never will be
_OVERTIME_S = 120.0  # for reading the answers, once the last was due to end
_LEAD_NS = 50_000_000  # between the last shard's word and the origin
_READY_S = 3.0  # before the instant that several machines agreed on, the shards of each are started
_SHOWN = 2048  # bytes of a failed answer that are kept


@dataclass(frozen=True, slots=True)
class Ran:
    """A finished run. ``golden``: texts of complete golden requests by sequence; ``failures``: what every other kind of end said."""

    load: Load
    golden: Mapping[int, str] = field(default_factory=dict)
    failures: tuple[dict[str, Any], ...] = ()


# --- a load ---------------------------------------------------------------------------------------------


def run_load(
    target: Target,
    schedule: Schedule,
    workload: Workload,
    *,
    shards: int = 1,
    limit_s: float,
    progress: Progress | None = None,
    on_chunks: OnChunks | None = None,
    close_after: Mapping[int, int] | None = None,
    folder: Path | None = None,
    machine: Machine | None = None,
) -> Ran:
    """Sends ``workload`` by ``schedule`` from ``shards`` processes; each request is waited for ``limit_s`` seconds after it was due.

    Whatever becomes of a request is a record: nothing is raised for a server that refuses, dies or lies. ``on_chunks`` gets
    each request's sequence and the instants of its frames with output (microseconds after scheduled), once the run is over.
    ``close_after``: sequence to the frames after which the client hangs up. Into ``folder`` go requests.bin, golden.jsonl
    and failures.jsonl. ``machine``: only its share is sent, from its instant on, and the load is a part for ``merged``.
    ConfigError for a schedule and a workload that do not fit together, and for an instant that has passed.
    """
    _check(schedule, workload, shards, limit_s, machine)
    shards = min(shards, schedule.concurrency or shards)
    with ExitStack() as stack:
        folder_of_run = stack.enter_context(temporary())
        run = _Run(target, schedule, workload, shards, limit_s, folder_of_run, on_chunks is not None, dict(close_after or {}), machine)
        stack.callback(run.stop)
        before = identity(target)
        run.listed = target.model in (before or {}).get("models", ())
        run.start()
        run.wait(progress)
        load = run.load(before, identity(target))
        ran = Ran(load, dict(run.golden()), tuple(run.failures()))
        if on_chunks is not None:
            for sequence, times in run.chunks():
                on_chunks(sequence, times)
    if folder is not None:
        _keep(ran, folder)
    return ran


def _check(schedule: Schedule, workload: Workload, shards: int, limit_s: float, machine: Machine | None) -> None:
    if not schedule.requests:
        raise MissingNeed("empty_workload", "the schedule holds no request", "a higher rate or a longer window")
    if len(workload.order) < schedule.requests:
        raise ConfigError(f"the workload has {len(workload.order)} requests, the schedule {schedule.requests}: make one for every arrival")
    of = machine.of if machine is not None else 1
    if not 1 <= shards * of <= MOST_SHARDS or not limit_s > 0:
        machines = f"{of} machine{'s' * (of > 1)}"
        raise ConfigError(f"{shards} shards on {machines}, limit_s = {limit_s}: expected 1 to {MOST_SHARDS}, seconds above 0")
    if machine is not None and not schedule.arrivals:
        raise ConfigError("a closed loop is no load of several machines: none knows when another's request has ended")
    check(schedule)  # arrivals that are not what they are said to be are not sent at all


class _Run:
    """The processes of a load, their files, and what is read from these."""

    def __init__(
        self,
        target: Target,
        schedule: Schedule,
        workload: Workload,
        shards: int,
        limit_s: float,
        scratch: Path,
        chunks: bool,
        close_after: Mapping[int, int],
        machine: Machine | None,
    ) -> None:
        self.machine = machine
        self.first = (machine.number - 1) * shards if machine is not None else 0  # shards are numbered through, over all machines
        self.target, self.schedule, self.workload, self.limit_s = target, schedule, workload, limit_s
        self.scratch, self.chunked, self.close_after = scratch, chunks, close_after
        self.n = schedule.requests
        self.owner = _owners(schedule, workload, shards * (machine.of if machine is not None else 1))
        self.mine = [i for i, owner in enumerate(self.owner) if self.first <= owner < self.first + shards]
        self.children: list[subprocess.Popen[bytes]] = []
        self.facts: list[dict[str, Any]] = [{"lost": True} for _ in range(shards)]
        self.page = memoryview(b"")
        self.listed = False  # whether the server says that it has the model
        self.origin = self.wall = 0
        self.clocks = (0, 0, 0)

    # --- start and end of the processes ---------------------------------------------------------------

    def start(self) -> None:
        """Spawns the shards and gives all of them one origin, once each is ready. EngineError if one never is."""
        shards = len(self.facts)
        if self.machine is not None:
            time.sleep(max(0.0, self.machine.start - _READY_S - time.time()))
        (self.scratch / "requests").write_bytes(b"".join(map(pack, self._unsent())))
        (self.scratch / "page").write_bytes(bytes(Page.SIZE * (self.first + shards)))
        self.page = memoryview(mapped(self.scratch / "page")).cast("Q")
        jobs = [self._slice(shard) for shard in range(shards)]
        for job in jobs:
            self.children.append(self._spawn(job))
        for shard in range(shards):
            self._ready(shard)
        self.clocks = _clocks()
        self.origin, self.wall = self._origin()
        for child in self.children:
            _tell(child, struct.pack("<q", self.origin))

    def _origin(self) -> tuple[int, int]:
        """An instant that lies a little ahead, on the monotonic clock and on the wall's, ns."""
        now, wall = time.monotonic_ns(), time.time_ns()
        if self.machine is None:
            return now + _LEAD_NS, wall + _LEAD_NS
        ahead = round(self.machine.start * 1e9) - wall
        if ahead <= 0:
            raise ConfigError(f"machine {self.machine.number} was ready {-ahead * 1e-9:.1f} s after the start: agree on a later one")
        return now + ahead, wall + ahead

    def _unsent(self) -> Iterator[Record]:
        arrivals, order = self.schedule.arrivals, self.workload.order
        for i in range(self.n):
            due = arrivals[i] if arrivals else 0
            yield Record(due, i, order[i], "never_ended", "client_limited", shard=self.owner[i], flags=self._flags(i))

    def _flags(self, i: int) -> int:
        return self.schedule.flag(i) | (Flag.GOLDEN if i in self.workload.golden else 0)

    def _slice(self, shard: int) -> Job:
        """The job of a shard: only the bodies it sends travel to it."""
        mine = [i for i in self.mine if self.owner[i] == self.first + shard]
        workload, schedule = self.workload, self.schedule
        used = sorted({workload.order[i] for i in mine})
        place = {body: at for at, body in enumerate(used)}
        position = {i: at for at, i in enumerate(mine)}
        job = prepared(self.target, [workload.bodies[b] for b in used], mine, chat=workload.chat, limit_s=self.limit_s)
        job.body, job.prompts = array("q", [place[workload.order[i]] for i in mine]), used
        job.flags = array("q", [self._flags(i) for i in mine])
        job.shard = self.first + shard
        job.close_after = {position[i]: frames for i, frames in self.close_after.items() if i in position}
        if schedule.arrivals:
            job.due = array("q", [schedule.arrivals[i] for i in mine])
        else:
            job.concurrency = len(range(shard, schedule.concurrency, len(self.facts)))
        if workload.follows:
            follows = workload.follows
            job.after = array("q", [position[follows[i]] if follows[i] >= 0 else -1 for i in mine])
            job.think_ns = round(workload.think_s * 1e9)
        return job

    def _spawn(self, job: Job) -> subprocess.Popen[bytes]:
        root = str(Path(__file__).resolve().parents[3])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        with open(self.scratch / f"log-{job.shard}", "wb") as log:
            child = subprocess.Popen(
                [sys.executable, "-c", "from harness.serve.load.shard import shard_main; shard_main()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )
        data = pickle.dumps((job, str(self.scratch), self.chunked, self.target.model if self.listed else ""))
        _tell(child, struct.pack("<q", len(data)) + data)
        return child

    def _ready(self, shard: int) -> None:
        child = self.children[shard]
        assert child.stdout is not None
        if select.select([child.stdout], [], [], _START_S)[0] and os.read(child.stdout.fileno(), 1) == b"r":
            return
        raise EngineError(f"shard {shard} of the load did not start within {_START_S:g} s (exit {child.poll()}): {self._log(shard)}")

    def _log(self, shard: int) -> str:
        return (self.scratch / f"log-{self.first + shard}").read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Ends every shard that is still there."""
        for child in self.children:
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
        for child in self.children:
            try:
                child.wait(1.0)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.page.release()

    # --- while it runs --------------------------------------------------------------------------------

    def wait(self, progress: Progress | None) -> None:
        """Until every shard has said its facts, or is gone."""
        waiting = {child.stdout.fileno(): shard for shard, child in enumerate(self.children) if child.stdout is not None}
        heard: dict[int, bytes] = dict.fromkeys(waiting, b"")
        begun = time.monotonic()
        turns = 1 if self.schedule.arrivals else self.n  # of a closed loop, each request may take its whole time
        latest = begun + max(self.schedule.arrivals, default=0) * 1e-9 + turns * (self.limit_s + self.workload.think_s) + _OVERTIME_S
        while waiting:
            if time.monotonic() > latest:  # stopped, and nobody lets it go on
                for child in self.children:
                    child.kill()
            for fd in select.select(list(waiting), [], [], 0.25)[0]:
                data = os.read(fd, 1 << 16)
                heard[fd] += data
                if not data:
                    with suppress(ValueError):
                        self.facts[waiting[fd]] = json.loads(heard[fd])
                    del waiting[fd]
            if progress is not None:
                self._show(progress, time.monotonic() - begun)
        if progress is not None:
            progress("load", len(self.mine), len(self.mine))

    def _show(self, progress: Progress, seconds: float) -> None:
        words = Page.SIZE // 8
        pages = [self.page[words * shard : words * (shard + 1)] for shard in self._numbers()]
        total = [sum(column) for column in zip(*pages, strict=True)]
        sent, ended, failed = total[Page.SENT], total[Page.ENDED], total[Page.FAILED]
        parts = [f"{ended / seconds:.4g}/s", f"{sent - ended} in flight", f"p99 {_p99(total[Page.BINS :])}"]
        parts += [f"{failed} failed"] if failed else []
        progress(f"load: {', '.join(parts)}", min(ended, len(self.mine) - 1), len(self.mine))

    # --- afterwards -----------------------------------------------------------------------------------

    def load(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Load:
        """Header and records, in the order of the schedule; of a closed loop, in the order in which they were sent."""
        everything = unpack((self.scratch / "requests").read_bytes())
        records = [everything[i] for i in self.mine]
        if not self.schedule.arrivals:
            records.sort(key=lambda r: (r.sent is None, r.scheduled, r.sequence))
        steps = [b - a for a, b in zip(self.clocks, _clocks(), strict=True)]
        for shard, facts in enumerate(self.facts):
            if facts.get("lost"):
                facts.update(exit=self.children[shard].poll(), log=self._log(shard))
        lost = [shard for shard, facts in enumerate(self.facts) if facts.get("lost")]
        header: dict[str, Any] = {
            "origin_ns": self.origin,
            "wall": datetime.fromtimestamp(self.wall * 1e-9, UTC).isoformat(timespec="milliseconds"),
            "seed": self.schedule.numbers.get("seed"),
            "schedule": self.schedule.to_dict(),
            "workload": self.workload.to_dict(),
            "window": list(self.schedule.window),
            "limit_s": self.limit_s,
            "shards": self.facts,
            "clock": {"boottime_step_ns": steps[1] - steps[0], "wall_step_ns": steps[2] - steps[0]},
            "target": {"model": self.target.model, "before": before, "after": after},
        }
        if self.machine is not None:
            header["machine"] = self.machine.to_dict(self.target.base_url)
        if lost:
            said = f"rate_not_delivered: shard {lost[0]} of {len(self.facts)} ended before its time; its requests were not sent"
            header["invalid"] = [said]
        return Load(header, tuple(records))

    def golden(self) -> Iterator[tuple[int, str]]:
        """Texts of the golden requests."""
        for row in self._rows("golden"):
            yield row["sequence"], row["text"]

    def failures(self) -> list[dict[str, Any]]:
        """What ended otherwise than complete, in the order of the schedule."""
        return sorted(self._rows("failures"), key=lambda row: int(row["sequence"]))

    def _rows(self, name: str) -> Iterator[dict[str, Any]]:
        for shard in self._numbers():
            path = self.scratch / f"{name}-{shard}"
            for line in path.read_bytes().splitlines() if path.exists() else ():
                with suppress(ValueError):  # the last line of a shard that was killed
                    yield json.loads(line)

    def _numbers(self) -> range:
        return range(self.first, self.first + len(self.facts))

    def chunks(self) -> Iterator[tuple[int, Sequence[int]]]:
        """Sequence and instants of each request that had frames with output."""
        for shard in self._numbers():
            path = self.scratch / f"chunks-{shard}"
            data, at = path.read_bytes() if path.exists() else b"", 0
            while at + 8 <= len(data):
                sequence, count = struct.unpack_from("<2I", data, at)
                yield sequence, struct.unpack_from(f"<{count}I", data, at + 8)
                at += 8 + 4 * count


def _owners(schedule: Schedule, workload: Workload, shards: int) -> list[int]:
    """Which shard sends request i: i mod shards; a conversation stays with the one that began it."""
    owners = [i % shards for i in range(schedule.requests)]
    for i, before in enumerate(workload.follows[: schedule.requests]):
        if before >= 0:
            owners[i] = owners[before]
    return owners


def _tell(child: subprocess.Popen[bytes], data: bytes) -> None:
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # a shard that died is found where its word is waited for
        child.stdin.write(data)
        child.stdin.flush()


def _clocks() -> tuple[int, int, int]:
    """Monotonic, boot time (which goes on while the machine sleeps) and wall clock, ns."""
    return time.monotonic_ns(), time.clock_gettime_ns(time.CLOCK_BOOTTIME), time.time_ns()


def _p99(bins: Sequence[int]) -> str:
    left = sum(bins) / 100
    if not left:
        return "-"
    for index in range(len(bins) - 1, -1, -1):
        left -= bins[index]
        if left < 0:
            seconds = Page.edge(index + Page.BINS)
            return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"
    return "-"


def _keep(ran: Ran, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "requests.bin").write_bytes(ran.load.to_bytes())
    golden = [{"sequence": sequence, "text": text} for sequence, text in sorted(ran.golden.items())]
    for name, rows in (("golden", golden), ("failures", ran.failures)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
