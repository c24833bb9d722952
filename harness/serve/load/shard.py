"""The process of a shard: it sends its slice of a schedule and writes records into their places."""

from __future__ import annotations

import gc
import json
import mmap
import os
import pickle
import signal
import struct
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from harness.engines.sse import Reply, loads
from harness.records import RECORD, Record, pack
from harness.serve.load.client import Shard
from harness.serve.load.job import Job, Page, Taken

__all__ = ["mapped", "shard_main"]

_SHOWN = 2048  # bytes of a failed answer that are kept


def shard_main() -> None:
    """The process of a shard: a job on stdin, "r" on stdout when ready, then an origin on stdin, facts on stdout."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; its end of the pipe closes
    job, scratch, chunked, *model = pickle.loads(_exactly(struct.unpack("<q", _exactly(8))[0]))
    with ExitStack() as stack:
        sink = _Sink(job, Path(scratch), chunked, stack)
        shard = Shard(job, sink.finish, words=sink.words, parent=0, model="".join(model))
        shard.open()
        loads(b"{}")  # what decodes is imported now, not while it runs
        gc.collect()
        gc.freeze()  # nothing that is here now will ever be garbage
        gc.disable()
        first = _before_others(True)
        os.write(1, b"r")
        origin = struct.unpack("<q", _exactly(8))[0]
        facts = shard.run(origin, over=lambda: _before_others(False))
    os.write(1, json.dumps({**facts, "realtime": first}).encode())


def _before_others(yes: bool) -> bool:
    """Real-time scheduling, where the system grants it (root): an ordinary process may wait milliseconds for its turn.

    Measured on two busy cores, 1,000 requests a second: 1 in 100 left 4 ms late without it, 0.1 ms with it.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR if yes else os.SCHED_OTHER, os.sched_param(int(yes)))
    except OSError:
        return False
    return True


def _exactly(n: int) -> bytes:
    data = b""
    while len(data) < n:
        part = os.read(0, n - len(data))
        if not part:
            raise SystemExit(1)
        data += part
    return data


def mapped(path: Path) -> mmap.mmap:
    """A file as memory that processes share."""
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


class _Sink:
    """Where a shard writes: records into their places, texts and failures beside them."""

    def __init__(self, job: Job, scratch: Path, chunked: bool, stack: ExitStack) -> None:
        self.job = job
        self.records, page = mapped(scratch / "requests"), mapped(scratch / "page")
        words = Page.SIZE // 8
        self.words = memoryview(page).cast("Q")[words * job.shard : words * (job.shard + 1)]
        names = ("golden", "failures", "chunks") if chunked else ("golden", "failures")
        self.files = {name: stack.enter_context((scratch / f"{name}-{job.shard}").open("wb")) for name in names}

    def finish(self, record: Record, reply: Reply, taken: Taken, outputs: Sequence[int]) -> None:
        at = RECORD.size * record.sequence
        self.records[at : at + RECORD.size] = pack(record)
        if record.outcome != "complete":
            self._line("failures", _failure(record, reply, taken))
        elif record.golden:
            self._line("golden", {"sequence": record.sequence, "text": reply.text.decode("utf-8", "replace")})
        if outputs and "chunks" in self.files:
            clipped = [min(max(0, t), 0xFFFFFFFF) for t in outputs]
            self.files["chunks"].write(struct.pack(f"<2I{len(clipped)}I", record.sequence, len(clipped), *clipped))

    def _line(self, name: str, row: Mapping[str, Any]) -> None:
        self.files[name].write(json.dumps(row).encode() + b"\n")


def _failure(record: Record, reply: Reply, taken: Taken) -> dict[str, Any]:
    body = taken.body[:_SHOWN].decode("utf-8", "replace")
    return {
        "sequence": record.sequence, "outcome": record.outcome, "why": record.why, "detail": reply.detail, "error": taken.error,
        "status": record.status, "headers": dict(taken.response.headers), "body": body,
    }  # fmt: skip
