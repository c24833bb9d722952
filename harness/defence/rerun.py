"""pytest again, in a tree of its own and on measurements of its own: which tests there are, the runs, the pages.

Everything lies in one folder, so that a rerun that was cut short goes on where it was:

    KEEP/of.json      which report this is the defence of
    KEEP/clone        the repository at the commit of the report (not with --here)
    KEEP/store        measurements of this defence; models that were made before are linked in, unless fresh ones are wanted
    KEEP/runs/001 ... what each pytest left; KEEP/runs/001.txt what it said
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import evidence
from harness.defence.kept import Kept, read
from harness.errors import HarnessError

__all__ = ["Tree", "collected", "done_before", "link_models", "measure", "runs_of", "same_pages"]

_MODELS = (".safetensors", ".gguf")
_WELL = (0, 1, 8)  # of pytest: all hold, something does not, something was absent


@dataclass(frozen=True, slots=True)
class Tree:
    """What measures: the root of a tree, the folder of the defence, and what pytest is told of both."""

    root: Path
    keep: Path
    options: tuple[str, ...]  # tier, lifecycle, subjects, data

    @property
    def environment(self) -> dict[str, str]:
        """The harness of the tree comes first; its byte code goes elsewhere, and nobody's extra options come in."""
        path = os.pathsep.join(filter(None, (str(self.root), os.environ.get("PYTHONPATH", ""))))
        kept = {name: value for name, value in os.environ.items() if name != "PYTEST_ADDOPTS"}
        return {**kept, "PYTHONPATH": path, "PYTHONPYCACHEPREFIX": str(self.keep / "bytecode")}

    def pytest(self, *more: str) -> list[str]:
        """The command line of pytest in this tree."""
        return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *self.options, *more]


# --- which tests there are --------------------------------------------------------------------------


def collected(tree: Tree, files: Sequence[str] = ()) -> set[str]:
    """The names of the tests that pytest collects in ``files``, or where its configuration says. HarnessError if it cannot."""
    there = [name for name in files if (tree.root / name).exists()]
    if files and not there:
        return set()
    command = tree.pytest("--collect-only", "--verbosity=-1", *there)
    done = subprocess.run(command, cwd=tree.root, env=tree.environment, capture_output=True, text=True, errors="replace")
    if done.returncode not in (0, 5):
        raise HarnessError(
            f"pytest cannot collect the tests in {tree.root} (status {done.returncode}):\n{_tail(done.stdout + done.stderr)}"
        )
    return {line for line in done.stdout.splitlines() if "::" in line and not line.startswith((" ", "="))}


def _tail(text: str) -> str:
    return "\n".join(text.strip().splitlines()[-15:])


# --- measurements of its own ------------------------------------------------------------------------


def link_models(source: Path, store: Path) -> int:
    """Links the models of ``source`` into ``store``, by their keys; answers and other measurements stay behind. How many."""
    count = 0
    for seal in sorted(source.glob("*/*/seal.json")):
        try:
            files = json.loads(seal.read_text("utf-8"))["files"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged one is made again
        place = store / seal.parent.parent.name / seal.parent.name
        if any(str(name).endswith(_MODELS) for name in files):
            count += 1
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_symlink() and not place.exists():
                place.symlink_to(seal.parent.resolve(), target_is_directory=True)
    return count


def runs_of(keep: Path) -> list[Path]:
    """The folders of the runs so far, in their order."""
    return sorted(path for path in (keep / "runs").glob("[0-9]*") if (path / evidence.PLAN).is_file())


def done_before(keep: Path) -> dict[str, Kept]:
    """What earlier runs of this defence left. An error of a run that was cut short is no finding, any other is."""
    found: dict[str, Kept] = {}
    for run in runs_of(keep):
        whole = (run / evidence.BUNDLE).is_file()
        found |= {name: kept for name, kept in read(run, unfinished=True).items() if whole or kept.verdict["outcome"] != "error"}
    return found


def measure(tree: Tree, tests: Sequence[str], shown: Callable[[str, Kept], None], beat: Callable[[], None]) -> None:
    """Runs ``tests``; ``shown`` is called with each claim as its evidence comes, ``beat`` again and again.

    HarnessError if pytest cannot run them at all.
    """
    number = 1 + max((int(path.stem) for path in (tree.keep / "runs").glob("[0-9][0-9][0-9]*.txt")), default=0)
    run = tree.keep / "runs" / f"{number:03d}"
    run.parent.mkdir(parents=True, exist_ok=True)
    listed = run.with_suffix(".tests")
    listed.write_text("".join(f"{name}\n" for name in tests), "utf-8")
    command = tree.pytest("--run-dir", str(run), "--store", str(tree.keep / "store"), f"@{listed}")
    with run.with_suffix(".txt").open("w", encoding="utf-8") as said:
        process = subprocess.Popen(command, cwd=tree.root, env=tree.environment, stdout=said, stderr=subprocess.STDOUT)
        try:
            seen: set[Path] = set()
            while process.poll() is None:
                time.sleep(0.2)
                _show(run, seen, shown)
                beat()
            _show(run, seen, shown)
        finally:
            _end(process)
    if process.returncode not in _WELL and not (run / "evidence").is_dir():
        said_then = run.with_suffix(".txt").read_text("utf-8", "replace")
        raise HarnessError(f"pytest could not run the tests (status {process.returncode}):\n{_tail(said_then)}")


def _show(run: Path, seen: set[Path], shown: Callable[[str, Kept], None]) -> None:
    new = set((run / "evidence").glob("*.json")) - seen
    seen |= new
    for path in sorted(new):
        record = evidence.read_json(path)  # written beside its place and moved there: it is whole
        shown(record["claim"]["id"], Kept(record, ()))


def _end(process: subprocess.Popen[bytes]) -> None:
    """As Ctrl-C ends it, so that its servers go and its evidence stays; after a minute by force."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# --- the pages --------------------------------------------------------------------------------------

_PAGES = ("report.html", "summary.md")


def same_pages(report: Path, tree: Tree) -> tuple[dict[str, str], list[str]]:
    """By whom each page is rendered to the same bytes out of the files of the report; and what is wrong with one that nobody renders."""
    from harness import report as rendering

    pages = [name for name in _PAGES if (report / name).is_file()]
    kept = {name: (report / name).read_bytes() for name in pages}
    by: dict[str, str] = {}
    nearest = rendering.pages(report)
    by |= {name: "this harness" for name in pages if nearest[name] == kept[name]}
    if len(by) < len(pages):
        with tempfile.TemporaryDirectory(dir=tree.keep) as folder:
            copy = Path(folder) / "report"
            shutil.copytree(report, copy, symlinks=True)
            command = [sys.executable, "-m", "harness", "report", str(copy)]
            done = subprocess.run(command, cwd=tree.root, env=tree.environment, capture_output=True, text=True, errors="replace")
            again = {name: (copy / name).read_bytes() for name in pages if not done.returncode}
            by |= {name: "the harness of its commit" for name in again if name not in by and again[name] == kept[name]}
            nearest |= again
    problems = [
        f"{name}: not the page that its evidence renders, by this harness or by that of its commit: {_first(kept[name], nearest[name])}"
        for name in pages
        if name not in by
    ]
    return by, problems


def _first(old: bytes, new: bytes) -> str:
    """Where two pages part, a few words of each."""
    at = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, at - 30)
    was, now = (side[start : at + 30].decode("utf-8", "replace") for side in (old, new))
    return f"it says {was!r} where {now!r} is rendered"
