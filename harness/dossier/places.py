"""Commits, each in a folder of its own, away from the user's repository, which is read and never written.

A shared clone in a temporary folder borrows the repository's objects; its worktrees hold the commits. Whatever happens to us, nothing
of it is left in the repository: not a worktree, not a reference, not a changed file.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from harness.errors import ConfigError

__all__ = ["Commit", "Worktrees", "environment", "head", "hunks"]

_OURS = ("-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "gc.auto=0", "-c", "commit.gpgSign=false")

_ALONE = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0"}  # the last: not even an index is refreshed


def _git(folder: Path, *arguments: str, given: bytes | None = None) -> bytes:
    """What git prints. ConfigError with what it complains of."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *_OURS, *arguments], cwd=folder, env={**kept, **_ALONE}, capture_output=True,
            input=given,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(f"git cannot be run in {folder}: {error}") from None
    if done.returncode:
        raise ConfigError(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip() or f'exit {done.returncode}'}")
    return done.stdout


def _said(folder: Path, *arguments: str) -> str:
    return _git(folder, *arguments).decode("utf-8", "replace").strip()


@dataclass(frozen=True, slots=True)
class Commit:
    """A full commit id and the first line of its message."""

    id: str
    subject: str

    def __str__(self) -> str:
        return f"{self.id[:12]} {self.subject}"


def head(folder: Path) -> str:
    """The commit and a digest of what was changed since, by which a folder's state is known; "" where it is no repository."""
    try:
        return f"{_said(folder, 'rev-parse', 'HEAD')} {hashlib.sha256(_git(folder, 'diff', 'HEAD')).hexdigest()}"
    except ConfigError:
        return ""


def environment(root: Path) -> dict[str, str]:
    """For a command in a worktree: its own code before any installed one, no bytecode of another commit, none of git's variables."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    paths = [str(root), *([str(root / "src")] if (root / "src").is_dir() else []), *filter(None, [kept.get("PYTHONPATH")])]
    return {**kept, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}


class Worktrees:
    """The commits of ``repository`` (any folder in it). Leave the ``with`` block, and all of them are gone."""

    def __init__(self, repository: Path) -> None:
        self.repository = Path(_said(repository, "rev-parse", "--show-toplevel"))
        self._room = Path(tempfile.mkdtemp(prefix="harness-dossier-"))
        self._clone = self._room / "clone"
        self._made = 0
        self._at: dict[str, Path] = {}
        try:
            _git(self._room, "clone", "--quiet", "--shared", "--no-checkout", str(self.repository), str(self._clone))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Worktrees:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Takes all of them away."""
        shutil.rmtree(self._room, ignore_errors=True)

    def changed(self) -> bool:
        """Whether tracked files of the repository differ from its HEAD: a search of commits does not see that."""
        return bool(_said(self.repository, "status", "--porcelain", "--untracked-files=no"))

    def resolve(self, name: str) -> Commit:
        """The commit that ``name`` means in the repository. ConfigError if there is none."""
        if name.startswith("-"):
            raise ConfigError(f"{name!r} names no commit")
        try:
            found = _said(self.repository, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
        except ConfigError:
            raise ConfigError(f"{name!r} names no commit of {self.repository}") from None
        return Commit(found, _said(self.repository, "log", "-1", "--format=%s", found))

    def between(self, good: Commit, bad: Commit) -> list[Commit]:
        """From good to bad, both with them, one after the other: of a merge the first parent. ConfigError unless one leads to the other."""
        line = _said(self.repository, "rev-list", "--reverse", "--first-parent", f"{good.id}..{bad.id}").split()
        if not line or _said(self.repository, "rev-parse", f"{line[0]}^") != good.id:
            raise ConfigError(f"{good} is not on the line of first parents of {bad}: name a good commit that the bad one was built upon")
        return [self.resolve(each) for each in (good.id, *line)]

    def parents(self, commit: Commit) -> list[Commit]:
        """All of them; of a merge the first is the branch that was merged into."""
        return [self.resolve(each) for each in _said(self.repository, "rev-list", "--parents", "-1", commit.id).split()[1:]]

    def branched(self, one: Commit, two: Commit) -> Commit:
        """Where the two parted."""
        return self.resolve(_said(self.repository, "merge-base", one.id, two.id))

    def at(self, commit: Commit, carried: Mapping[str, bytes]) -> Path:
        """The commit in a folder, with the ``carried`` files put in: one folder for each commit."""
        if commit.id not in self._at:
            self._at[commit.id] = self.fresh(commit, carried)
        return self._at[commit.id]

    def fresh(self, commit: Commit, carried: Mapping[str, bytes], patch: bytes = b"", reverse: bool = False) -> Path:
        """The same in a folder that nothing ran in, with a patch applied, or taken back, before the files are put in.

        ConfigError if it does not apply.
        """
        self._made += 1
        folder = self._room / f"tree-{self._made}"
        _git(self._clone, "worktree", "add", "--quiet", "--detach", str(folder), commit.id)
        if patch:
            back = ("--reverse",) if reverse else ()
            _git(folder, "apply", *back, "--unidiff-zero", "--whitespace=nowarn", "-", given=patch)
        _put(folder, carried)
        return folder

    def drop(self, folder: Path) -> None:
        """Takes one away."""
        shutil.rmtree(folder, ignore_errors=True)

    def reverted(self, top: Commit, culprits: Sequence[Commit], carried: Mapping[str, bytes]) -> Path:
        """``top`` with these commits, the newest first, taken back. ConfigError if that does not apply."""
        folder = self.fresh(top, {})
        for each in culprits:
            merge = ("-m", "1") if len(self.parents(each)) > 1 else ()
            _git(folder, "revert", "--no-commit", *merge, each.id)
        _put(folder, carried)
        return folder

    def changes(self, before: Commit, after: Commit) -> bytes:
        """The patch from one to the other, line by line."""
        return _git(
            self.repository, "diff", "--no-color", "--no-ext-diff", "--no-textconv", "--no-renames", "--binary", "-U0", before.id, after.id
        )


def _put(folder: Path, carried: Mapping[str, bytes]) -> None:
    for name, data in carried.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def hunks(patch: bytes) -> list[tuple[str, bytes, bytes]]:
    """A patch in pieces: file and line for people, the head of the file's part, and the hunk itself; a binary file is one piece."""
    found = []
    for part in re.split(rb"^(?=diff --git )", patch, flags=re.M)[1:]:
        head, *bodies = re.split(rb"^(?=@@ )", part, flags=re.M)
        name = re.search(rb"^(?:\+\+\+ b/|--- a/)(.+)$", head, re.M) or re.search(rb"^diff --git a/(.+) b/", head)
        shown = name[1].decode("utf-8", "replace").strip() if name else "?"
        if b"+++ /dev/null" in head or b"--- /dev/null" in head or not bodies:  # a file that comes or goes, a binary one, a mode
            found.append((shown, b"", part))
            continue
        for body in bodies:
            place = re.match(rb"@@ -\S+ \+(\d+)", body)
            found.append((f"{shown}:{place[1].decode() if place else '?'}", head, body))
    return found
