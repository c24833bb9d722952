"""What is searched: the flags of a command, the differences of two configurations, the lines of a file, the hunks of a commit.

Each is a number of pieces. With none of them the test passes, with all of them it fails; any selection can be run.
"""

from __future__ import annotations

import hashlib
import re
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Protocol

from harness.dossier import places, settings
from harness.dossier.runs import Raw, execute, pytest_report
from harness.errors import ConfigError

__all__ = ["Asked", "Hunks", "Pieces", "Variants", "flags", "items", "options"]

FLAGS, CONFIG, ITEMS = "{flags}", "{config}", "{items}"


@dataclass(frozen=True, slots=True)
class Asked:
    """The test: a command, or pytest with what follows it, and how long a run may take."""

    argv: tuple[str, ...]
    pytest: bool
    limit_s: float

    @classmethod
    def of(cls, command: str, test: str, limit_s: float) -> Asked:
        """ConfigError unless just one of the two is given, and can be split as a shell would."""
        if bool(command.strip()) == bool(test.strip()):
            raise ConfigError("give --test 'a pytest node id', or --command 'a command that exits 0 where all is well': one of them")
        if not limit_s > 0:
            raise ConfigError(f"--limit {limit_s:g}: expected a number of seconds above 0")
        try:
            argv = shlex.split(test or command)
        except ValueError as error:
            raise ConfigError(f"{test or command!r}: {error}") from None
        return cls(tuple(argv), bool(test.strip()), limit_s)

    def run(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> Raw:
        """One run of ``argv``, which is ours with its places filled in."""
        if not self.pytest:
            return execute(started(argv), cwd, self.limit_s, env)
        with tempfile.TemporaryDirectory(prefix="harness-dossier-") as room:
            report = Path(room) / "junit.xml"
            full = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *argv]
            if "no:lifecycle" not in argv and any(each.name == "lifecycle" for each in metadata.entry_points(group="pytest11")):
                full.append(f"--run-dir={room}/run")
            return execute(full, cwd, self.limit_s, env, pytest_report(report))

    def shown(self, argv: Sequence[str]) -> list[str]:
        """As a person would type it."""
        return ["python", "-m", "pytest", *argv] if self.pytest else list(argv)


def started(argv: Sequence[str]) -> list[str]:
    """ "python" is this one, whatever the PATH calls so."""
    return [sys.executable if argv[0] in ("python", "python3") else argv[0], *argv[1:]]


class Variants(Protocol):
    """Pieces any selection of which can be run."""

    @property
    def kind(self) -> str:
        """What they are: flags, settings, items, hunks."""
        ...

    @property
    def pieces(self) -> tuple[str, ...]:
        """Each by a name for people."""
        ...

    def identity(self, chosen: Sequence[int]) -> object:
        """What is run, as JSON: the same means that it need not be run again."""
        ...

    def run(self, chosen: Sequence[int]) -> Raw:
        """Runs it with these pieces."""
        ...


@dataclass(frozen=True)
class Pieces:
    """Pieces that go into the command line, or into one file that it reads. ``texts[i]`` is what piece i puts there."""

    kind: str
    asked: Asked
    cwd: Path
    pieces: tuple[str, ...]
    suffix: str = ""
    groups: tuple[tuple[str, ...], ...] = ()  # flags: the words of each piece
    lines: tuple[str, ...] = ()  # items: the line of each piece
    base: Mapping[str, object] | None = None  # settings: the good configuration
    changes: tuple[settings.Difference, ...] = ()

    def argv(self, chosen: Sequence[int], file: str) -> list[str]:
        """The command with these pieces, which reads ``file`` where it reads one."""
        found: list[str] = []
        for word in self.asked.argv:
            if word == FLAGS:
                found += [each for i in chosen for each in self.groups[i]]
            else:
                found.append(word.replace(CONFIG, file).replace(ITEMS, file))
        return found

    def text(self, chosen: Sequence[int]) -> str:
        """What stands in the file."""
        if self.kind == "items":
            return "".join(self.lines[i] for i in chosen)
        return settings.dumped(settings.mixed(self.base or {}, [self.changes[i] for i in chosen]), self.suffix)

    @property
    def file(self) -> str:
        """The name of the file it reads; "" where it reads none."""
        return {"items": f"items{self.suffix}", "settings": f"config{self.suffix}"}.get(self.kind, "")

    def identity(self, chosen: Sequence[int]) -> object:
        return [self.argv(chosen, self.file), self.text(chosen) if self.file else "", self._state]

    @cached_property
    def _state(self) -> str:
        """Of the code that is run: another commit, another answer."""
        return places.head(self.cwd)

    def run(self, chosen: Sequence[int]) -> Raw:
        with tempfile.TemporaryDirectory(prefix="harness-dossier-") as room:
            path = Path(room) / (self.file or "none")
            if self.file:
                path.write_text(self.text(chosen), encoding="utf-8")
            return self.asked.run(self.argv(chosen, str(path)), self.cwd)


def flags(asked: Asked, cwd: Path, text: str) -> Pieces:
    """Each flag with its values is a piece. ConfigError if there is none, or the command does not say where they go."""
    words = _split(text)
    if asked.argv.count(FLAGS) != 1:
        raise ConfigError(f"--flags: the command must say where they go, as one word: ... -- {FLAGS}")
    groups: list[list[str]] = []
    for word in words:
        if re.match(r"--?[A-Za-z]", word) or not groups:
            groups.append([])
        groups[-1].append(word)
    if not groups:
        raise ConfigError("--flags: there is none; give those of the command that fails")
    return Pieces("flags", asked, cwd, tuple(shlex.join(group) for group in groups), groups=tuple(map(tuple, groups)))


def options(asked: Asked, cwd: Path, good: Path, bad: Path) -> Pieces:
    """Each difference of two configurations is a piece. ConfigError if there is none, or the command does not read the file."""
    if good.suffix != bad.suffix:
        raise ConfigError(f"{good} and {bad}: expected two files of one format")
    base = settings.read(good)
    changes = tuple(settings.differences(base, settings.read(bad)))
    if not changes:
        raise ConfigError(f"{good} and {bad} say the same: there is nothing to find")
    _reads(asked, CONFIG, "--good-config")
    return Pieces("settings", asked, cwd, tuple(map(str, changes)), good.suffix, base=base, changes=changes)


def items(asked: Asked, cwd: Path, path: Path) -> Pieces:
    """Each line of a file is a piece. ConfigError if there is none, or the command does not read the file."""
    try:
        text = path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    lines = tuple(line if line.endswith("\n") else f"{line}\n" for line in text.split("\n") if line.strip())
    if not lines:
        raise ConfigError(f"{path}: holds no line")
    _reads(asked, ITEMS, "--items")
    return Pieces("items", asked, cwd, tuple(line.strip()[:200] for line in lines), path.suffix, lines=lines)


def _reads(asked: Asked, place: str, option: str) -> None:
    if not any(place in word for word in asked.argv):
        raise ConfigError(f"{option}: the command must say where the file goes: {place}")


def _split(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--flags {text!r}: {error}") from None


@dataclass(frozen=True)
class Hunks:
    """The changes of one commit, hunk by hunk, on top of what was before it."""

    asked: Asked
    trees: places.Worktrees
    before: places.Commit
    after: places.Commit
    carried: Mapping[str, bytes]
    parts: tuple[tuple[str, bytes, bytes], ...]
    pieces: tuple[str, ...]
    kind: str = "hunks"

    @classmethod
    def of(cls, asked: Asked, trees: places.Worktrees, before: places.Commit, after: places.Commit, carried: Mapping[str, bytes]) -> Hunks:
        """The pieces are named by file and line."""
        parts = tuple(
            each for each in places.hunks(trees.changes(before, after)) if not {each[0], each[0].rpartition(":")[0]} & set(carried)
        )
        return cls(asked, trees, before, after, carried, parts, tuple(name for name, _, _ in parts))

    def patch(self, chosen: Sequence[int]) -> bytes:
        """These hunks as git applies them; the head of a file stands before its first."""
        found, last = [], b""
        for i in chosen:
            _, head, body = self.parts[i]
            found += [head if head != last else b"", body]
            last = head
        return b"".join(found)

    def identity(self, chosen: Sequence[int]) -> object:
        files = {name: hashlib.sha256(data).hexdigest() for name, data in self.carried.items()}
        return [list(self.asked.argv), self.before.id, self.after.id, list(chosen), files]

    def run(self, chosen: Sequence[int]) -> Raw:
        try:
            folder = self.trees.fresh(self.before, self.carried, self.patch(chosen))
        except ConfigError as error:
            return Raw(None, f"unresolved: {error}"[:300], "", 0.0)
        try:
            return self.asked.run(self.asked.argv, folder, places.environment(folder))
        finally:
            self.trees.drop(folder)
