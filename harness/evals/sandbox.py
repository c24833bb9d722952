"""Code that a model wrote, run against its unit tests where it can do no harm and cannot pass by a trick.

Two processes: the guest holds the code and answers calls of its entry point, the tester holds the
tests and compares. The code never shares an interpreter with a test, an expected value or the
report, so nothing it patches, prints or returns is taken for a pass; see ``sandbox_guest``.

What stops the code, in this order, and ``Result.isolation`` says what was in force:

    namespaces  no network, no other process to be seen, no file but Python's library and an empty /work (Linux, where allowed)
    filter      system calls for network, processes, signals and kernel interfaces are refused (seccomp, x86_64 and aarch64);
                without namespaces all writing too, while files of this user can be read
    limits      memory, processor time, file size, open files, processes; wall time, then the group is killed
    always      empty environment, isolated interpreter without site-packages, no standard input, capped output

Where neither of the first two can be had nothing is run, unless the caller says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from harness.errors import EngineError, MissingNeed

__all__ = ["Limits", "Outcome", "Result", "run"]

Outcome = Literal[
    "pass",  # every test ran and none complained
    "fail",  # an assertion did
    "error",  # the code raised, ended, or gave what is no data; or the tests are broken
    "timeout",  # wall or processor time was used up
    "memory",  # the memory was
    "forbidden",  # the code asked for what the isolation refuses
]

_GUEST = Path(__file__).with_name("sandbox_guest.py")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use: wall seconds (processor time the same, rounded up), bytes of memory, of one file, of output kept."""

    seconds: float = 10.0
    memory: int = 1 << 29
    file_bytes: int = 1 << 20
    output: int = 2000


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it: ``reason`` has the assertion or exception, ``calls`` how often it was called, ``output`` what was printed."""

    outcome: Outcome
    reason: str
    isolation: Mapping[str, bool] = field(default_factory=dict)
    calls: int = 0
    output: str = ""


def run(
    code: str, tests: str, entry_point: str, *, context: str = "", limits: Limits = Limits(),
    isolation: Literal["namespaces", "filter", "none"] = "namespaces", unisolated: bool = False,
) -> Result:  # fmt: skip
    """Runs ``tests`` against the function ``entry_point`` of ``code``.

    The tests are ``check(candidate)``, plain asserts, functions ``test_...`` or classes of unittest; they know the
    function by its name and as ``candidate``. Arguments and results are plain data (numbers, texts, bytes, lists, tuples,
    sets, dicts, iterators of them) and are copied: what the code does to an argument in place no test sees. ``context`` is
    code of the task that the tests may use too.
    ``isolation`` is the strongest to try ("namespaces": both). MissingNeed("sandbox") where none is in force and
    ``unisolated`` is not set; EngineError if the sandbox itself breaks.
    """
    if os.name != "posix":
        raise _missing(f"no sandbox on {sys.platform}")
    job = {"code": code, "tests": tests, "entry_point": entry_point, "context": context, "unisolated": unisolated}
    with tempfile.TemporaryDirectory(prefix="sandbox-") as folder, tempfile.TemporaryFile() as task, tempfile.TemporaryFile() as output:
        task.write(json.dumps(job).encode())
        task.seek(0)
        report = _reported(folder, task.fileno(), output.fileno(), isolation, limits)
        output.seek(0)
        printed = output.read(4 * limits.output).decode("utf-8", "replace")[: limits.output]
    stopped, text = report
    isolation_line, _, said = text.partition(b"\n")
    in_force = json.loads(isolation_line or b"{}")
    if stopped:
        return Result("timeout", f"not finished after {limits.seconds:g} s", in_force, output=printed)
    if not said:
        raise EngineError(f"the sandbox broke before it could report: {printed[-300:] or 'it said nothing'}")
    found = json.loads(said)
    if found["outcome"] == "refused":
        raise _missing(found["reason"])
    return Result(found["outcome"], found["reason"], in_force, found["calls"], printed)


def _missing(why: str) -> MissingNeed:
    return MissingNeed("sandbox", why, "run on Linux (x86_64 or aarch64) with seccomp or user namespaces")


def _reported(folder: str, task: int, output: int, isolation: str, limits: Limits) -> tuple[bool, bytes]:
    """Whether the time was up, and what the tester had reported by then."""
    numbers = [str(limits.memory), str(int(limits.seconds) + 1), str(limits.file_bytes)]
    read, write = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_GUEST), str(task), str(write), folder, isolation, *numbers],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=folder, env={},
            pass_fds=(task, write), start_new_session=True,
        )  # fmt: skip
        os.close(write)
        try:
            return _read(read, time.monotonic() + limits.seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    finally:
        os.close(read)


def _read(pipe: int, until: float) -> tuple[bool, bytes]:
    parts: list[bytes] = []
    while select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(pipe, 65536)
        if not part:
            return False, b"".join(parts)
        parts.append(part)
    return True, b"".join(parts)
