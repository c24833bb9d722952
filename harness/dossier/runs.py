"""One command, how it ended, and the book of all that were run.

A search that was killed goes on from its book: each run is a line of ``runs.jsonl``, written when it ends, under the digest of what
was run. How a run counts is decided afterwards, so the book holds no opinion.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from harness.dossier.trials import Outcome
from harness.errors import EvidenceError

__all__ = ["Book", "Raw", "execute", "outcome_of", "pytest_report"]

CANNOT_TELL = (125, 126, 127)  # git's word for it, and the shell's for what cannot be started
_TAIL = 4000  # characters of its output that are kept


@dataclass(frozen=True, slots=True)
class Raw:
    """How a run ended: ``status`` (None: it took too long), ``said`` in a word ("passed", "exit 1", "SIGSEGV", "AssertionError",
    "unresolved: why"), the ``tail`` of its output."""

    status: int | None
    said: str
    tail: str
    seconds: float


def outcome_of(raw: Raw, failure: str, message: str = "") -> Outcome:
    """A run fails only as ``failure`` does ("" for any), with ``message`` (a regular expression) in its output where one is given.

    What fails in another way says nothing of the defect, as a commit that cannot be built says nothing.
    """
    if raw.said == "passed":
        return "pass"
    if raw.said.startswith("unresolved") or (failure and raw.said != failure):
        return "unresolved"
    return "unresolved" if message and not re.search(message, raw.tail) else "fail"


def execute(
    argv: Sequence[str],
    cwd: Path,
    limit_s: float,
    env: Mapping[str, str] | None = None,
    reads: Callable[[int, str], str] | None = None,
) -> Raw:
    """Runs ``argv`` without a shell, in a group of its own of which nothing outlives it. ``reads`` says what became of it, from its
    exit status and the end of its output; without it 0 is passed and 125 to 127 cannot tell."""
    began = time.monotonic()
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                list(argv), cwd=cwd, env=None if env is None else dict(env), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            return Raw(127, f"unresolved: cannot be started: {error.strerror or error}", "", 0.0)
        try:
            status: int | None = process.wait(timeout=limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        tail = _tail(output)
    seconds = round(time.monotonic() - began, 3)
    if status is None:
        return Raw(None, f"unresolved: it took longer than {limit_s:g} s", tail, seconds)
    return Raw(status, (reads or _by_status)(status, tail), tail, seconds)


def _tail(output: Any) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * _TAIL))
    text: str = output.read().decode("utf-8", "replace")
    return text[-_TAIL:]


def _by_status(status: int, tail: str) -> str:
    if status in CANNOT_TELL:
        return f"unresolved: exit {status}"
    if status < 0:
        return signal.Signals(-status).name
    return f"exit {status}" if status else "passed"


# --- pytest -------------------------------------------------------------------------------------------


def pytest_report(path: Path) -> Callable[[int, str], str]:
    """What ``pytest --junitxml path`` says of its tests: a failure by its exception, an error in setup or collection unresolved.

    A claim counts by its verdict: inconclusive is neither a failure nor a success.
    """

    def reads(status: int, tail: str) -> str:
        try:
            cases = list(ElementTree.parse(path).iter("testcase"))
        except (OSError, ElementTree.ParseError):
            return f"unresolved: pytest ended with {status} and left no report"
        said = [_case(case) for case in cases]
        failed = sorted({each for each in said if each != "passed" and not each.startswith("unresolved")})
        if failed:
            return failed[0]
        return next((each for each in said if each != "passed"), "passed" if cases else "unresolved: no test was collected")

    return reads


def _case(case: ElementTree.Element) -> str:
    for kept in case.iter("property"):
        if kept.get("name") == "harness":
            claim = json.loads(kept.get("value") or "{}")
            outcome = claim.get("outcome")
            return "passed" if outcome == "holds" else f"{'' if outcome == 'fails' else 'unresolved: '}{claim.get('claim')} {outcome}"
    for name in ("error", "skipped"):
        if (found := case.find(name)) is not None:
            return f"unresolved: {name}: {(found.get('message') or '')[:200]}"
    failure = case.find("failure")
    if failure is None:
        return "passed"
    kind = re.match(r"[A-Za-z_][\w.]*(?=[:\s]|$)", failure.get("message") or "")
    return {"assert": "AssertionError"}.get(kind[0], kind[0]) if kind else "failed"


# --- the book -----------------------------------------------------------------------------------------


class Book:
    """Runs by what was run; those of an earlier search of the same question are not run again."""

    def __init__(self, path: Path) -> None:
        self.path, self.made, self.reused = path, 0, 0
        self._known: dict[str, Raw] = {}
        names = {field.name for field in fields(Raw)}
        try:
            text = path.read_text(encoding="utf-8") if path.exists() else ""
        except (OSError, UnicodeDecodeError) as error:
            raise EvidenceError(f"{path}: cannot be read ({error}); take another --out folder") from None
        for line in text.split("\n")[:-1]:  # what follows the last line feed was cut off by a kill
            with contextlib.suppress(ValueError, KeyError, TypeError):
                row = json.loads(line)
                self._known[row["key"]] = Raw(**{name: row[name] for name in names})
        if text and not text.endswith("\n"):
            self._write("\n")

    def run(self, key: str, make: Callable[[], Raw]) -> Raw:
        """The run of this key: as it was written down, or made now and written down."""
        if key in self._known:
            self.reused += 1
            return self._known[key]
        raw = make()
        self._write(json.dumps({"key": key, **asdict(raw)}, sort_keys=True) + "\n")
        self.made += 1
        self._known[key] = raw
        return raw

    def _write(self, text: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as book:
                book.write(text)
        except OSError as error:
            raise EvidenceError(
                f"{self.path}: cannot be written ({error.strerror}); free space there, or take another --out folder"
            ) from None
