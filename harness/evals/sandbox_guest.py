"""What runs inside the sandbox: a tester and, forked from it before it has read a test, the guest.

Run as a script with ``-I -S``; standard library only. The guest holds the untrusted code and
answers calls; the tester holds the tests, calls, compares and reports. Only plain data cross
between them (JSON with tags), so that nothing the code does to its own interpreter (patched
``assert``, objects equal to everything, an early exit, a printed marker) reaches a comparison.

    argv    job fd, report fd, folder, "namespaces", "filter" or "none", memory (bytes), seconds of processor time, bytes of a file
    job     one JSON object: code, tests, entry_point, context, unisolated
    report  two lines of JSON: the isolation in force; then outcome, reason, calls
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import fcntl
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FunctionType
from typing import Any, NoReturn

if __name__ == "__main__":  # an isolated interpreter does not look beside its script
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import sandbox_walls as walls  # type: ignore[import-not-found]
else:
    from harness.evals import sandbox_walls as walls

_LINE = 1 << 23  # bytes of one message: more is no answer to a unit test


# --- what crosses -------------------------------------------------------------------------------


def encoded(value: Any) -> Any:
    """Plain data as JSON: what JSON has not got is tagged. TypeError for anything else."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [encoded(each) for each in value]
    for kind in (tuple, set, frozenset):
        if isinstance(value, kind):
            return {kind.__name__: [encoded(each) for each in value]}
    if isinstance(value, dict):
        return {"dict": [[encoded(key), encoded(each)] for key, each in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": list(value)}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if isinstance(value, range):
        return {"range": [value.start, value.stop, value.step]}
    if hasattr(value, "__next__"):
        return {"iterator": [encoded(each) for each in value]}
    raise TypeError(f"a {type(value).__name__} is no plain data, which is all that the tests are given")


_MADE: dict[str, Callable[[Any], Any]] = {
    "tuple": lambda parts: tuple(map(decoded, parts)),
    "set": lambda parts: set(map(decoded, parts)),
    "frozenset": lambda parts: frozenset(map(decoded, parts)),
    "dict": lambda parts: {decoded(key): decoded(each) for key, each in parts},
    "bytes": bytes,
    "complex": lambda parts: complex(*parts),
    "range": lambda parts: range(*parts),
    "iterator": lambda parts: iter([decoded(each) for each in parts]),
}


def decoded(value: Any) -> Any:
    """The inverse of ``encoded``; ValueError, TypeError or KeyError for anything else."""
    if isinstance(value, list):
        return [decoded(each) for each in value]
    if isinstance(value, dict):
        ((kind, parts),) = value.items()
        return _MADE[kind](parts)
    return value


def _raised(error: BaseException) -> dict[str, Any]:
    number = error.errno if isinstance(error, OSError) else None
    try:
        said = str(error)[:500]
    except BaseException:  # the untrusted code's own __str__
        said = ""
    return {"raised": type(error).__name__, "said": said, "forbidden": number in (errno.EPERM, errno.EACCES, errno.EROFS)}


# --- the guest ----------------------------------------------------------------------------------


def _guest(asked: int, answers: int) -> NoReturn:
    """Runs the untrusted code and answers calls of its entry point until the pipe ends."""
    read, write = os.fdopen(asked, "rb"), os.fdopen(answers, "wb", buffering=0)
    dumps, leave = json.dumps, os._exit  # as they are before the code can change them
    job = json.loads(read.readline())
    sys.argv, names = ["candidate"], {"__name__": "candidate"}
    try:
        exec(compile(job["code"], "<candidate>", "exec"), names)
        function: Any = names.get(job["entry_point"])
        said = f"the code defines no function {job['entry_point']}"
        reply = {"value": None} if callable(function) else {"raised": "NameError", "said": said}
    except BaseException as error:
        reply = _raised(error)
    while True:
        write.write(dumps(reply).encode() + b"\n")
        line = read.readline()
        if not line:
            leave(0)
        try:
            args, kwargs = decoded(json.loads(line))
            reply = {"value": encoded(function(*args, **kwargs))}
        except BaseException as error:
            reply = _raised(error)


# --- the tester ---------------------------------------------------------------------------------


class _Stop(BaseException):
    """Ends the tests with this outcome; no ``except Exception`` of a test swallows it."""

    def __init__(self, outcome: str, reason: str) -> None:
        super().__init__(outcome, reason)
        self.outcome, self.reason = outcome, reason


class CandidateError(Exception):
    """What the code raised, where it is no built-in exception."""


def _as_raised(name: str, said: str) -> Exception:
    """A built-in exception as itself, so that a test may expect it; never one that means "the test failed"."""
    known = getattr(builtins, name, None)
    try:
        if isinstance(known, type) and issubclass(known, Exception) and not issubclass(known, AssertionError):
            return known(said)
    except TypeError:  # it takes more than a text
        pass
    return CandidateError(f"{name}: {said}")


class _Candidate:
    """The entry point as the tests see it: a call here is a call in the guest."""

    def __init__(self, pid: int, ask: int, answers: int) -> None:
        self.pid, self.calls = pid, 0
        self.write, self.read = os.fdopen(ask, "wb", buffering=0), os.fdopen(answers, "rb")
        self.last: dict[str, Any] = {}
        self.error: Exception | None = None  # what the tests were shown last

    def load(self, job: dict[str, Any]) -> None:
        self._send({"code": job["code"], "entry_point": job["entry_point"]})
        if "raised" in self._reply():
            raise _Stop(*self.outcome())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        self._send(encoded([list(args), dict(kwargs)]))
        reply = self._reply()
        if "raised" in reply:
            self.error = _as_raised(str(reply["raised"]), str(reply.get("said", "")))
            raise self.error
        return decoded(reply["value"])

    def outcome(self) -> tuple[str, str]:
        """What an exception of the code, that no test expected, comes to."""
        kind, said = str(self.last.get("raised")), str(self.last.get("said", ""))
        if kind == "MemoryError":
            return "memory", "the code ran out of the memory it was given"
        return "forbidden" if self.last.get("forbidden") is True else "error", f"{kind}: {said}"[:600]

    def _send(self, message: Any) -> None:
        try:
            self.write.write(json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self._ended()

    def _reply(self) -> dict[str, Any]:
        line = self.read.readline(_LINE)
        if not line.endswith(b"\n"):
            self._ended("an answer too long to read" if line else "")
        try:
            self.last = json.loads(line)
            if "raised" not in self.last:
                decoded(self.last["value"])
            return self.last
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise _Stop("error", f"the code's process answered nonsense: {type(error).__name__}") from None

    def _ended(self, how: str = "") -> NoReturn:
        if how:
            raise _Stop("error", f"the code's process ended: {how}")
        status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if status == -signal.SIGXCPU:
            raise _Stop("timeout", "the code used up its processor time")
        kind = f"signal {-status}" if status < 0 else f"exit status {status}"
        raise _Stop("error", f"the code's process ended before the tests did ({kind})")


def _tested(job: dict[str, Any], candidate: _Candidate) -> tuple[str, str]:
    """Outcome and reason of the tests."""
    names: dict[str, Any] = {"__name__": "tests"}
    try:
        candidate.load(job)
        if job["context"]:
            exec(compile(job["context"], "<prompt>", "exec"), names)  # what the task itself defines, for the tests
        names[job["entry_point"]] = names["candidate"] = candidate
        exec(compile(job["tests"], "<tests>", "exec"), names)
        _called(names, candidate)
    except _Stop as stop:
        return stop.outcome, stop.reason
    except AssertionError as error:
        return "fail", _where(error, job["tests"])
    except BaseException as error:
        return candidate.outcome() if error is candidate.error else ("error", f"in the tests: {_where(error, job['tests'])}")
    return ("pass", "") if candidate.calls else ("error", "the tests called the entry point not once")


def _called(names: dict[str, Any], candidate: _Candidate) -> None:
    """``check(candidate)``, functions ``test_...``, and classes of unittest; plain asserts have run already."""
    if isinstance(names.get("check"), FunctionType):
        names["check"](candidate)
    for name, value in list(names.items()):
        if isinstance(value, FunctionType) and name.startswith("test_"):
            value()
    if unittest := sys.modules.get("unittest"):  # only where the tests have imported it: it takes a while
        for value in [v for v in names.values() if isinstance(v, type) and issubclass(v, unittest.TestCase)]:
            for test in unittest.defaultTestLoader.loadTestsFromTestCase(value):
                test.debug()  # raises what a test raises


def _where(error: BaseException, source: str) -> str:
    """The line of the tests that raised, and what it said."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == "<tests>"]
    lines = source.splitlines()
    line = lines[frames[-1].lineno - 1].strip() if frames and frames[-1].lineno and frames[-1].lineno <= len(lines) else ""
    return f"{line}  {type(error).__name__}: {error}".strip()[:600]


def _isolated_guest(wanted: str, namespaces: bool, limits: tuple[int, int, int], asked: int, answer: int, told: int) -> NoReturn:
    """The guest's end of the fork: gives away what it does not need, says what stops it, runs the code."""
    walls.dies_with_its_parent()
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in (asked, answer, told)]
    for low, fd in enumerate(high, start=3):
        os.dup2(fd, low)
    os.closerange(6, 65536)
    walls.limited(*limits, processes=namespaces)
    walls.powerless()
    os.write(5, b"filter" if wanted != "none" and walls.filtered(strict=not namespaces) else b"none")
    os.close(5)
    _guest(3, 4)


def main(job_fd: int, report_fd: int, folder: str, wanted: str, *numbers: str) -> None:
    """Isolates, forks the guest, runs the tests, reports."""
    namespaces = wanted == "namespaces" and walls.apart(folder)
    (asked, ask), (answers, answer), (ready, told) = os.pipe(), os.pipe(), os.pipe()
    memory, seconds, file_bytes = map(int, numbers)
    sys.set_int_max_str_digits(100_000)  # a factorial is an answer too
    pid = os.fork()
    if pid == 0:
        _isolated_guest(wanted, namespaces, (memory, seconds, file_bytes), asked, answer, told)
    for fd in (asked, answer, told):
        os.close(fd)
    isolation = {"namespaces": namespaces, "filter": os.read(ready, 10) == b"filter"}
    os.write(report_fd, json.dumps(isolation).encode() + b"\n")  # known even if the time runs out
    with os.fdopen(job_fd, "rb") as file:
        job = json.load(file)
    candidate = _Candidate(pid, ask, answers)
    if any(isolation.values()) or job["unisolated"]:
        outcome, reason = _tested(job, candidate)
    else:
        outcome, reason = "refused", "neither namespaces nor a filter of system calls can be had"
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(report_fd, "w") as report:
        json.dump({"outcome": outcome, "reason": reason, "calls": candidate.calls}, report)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
