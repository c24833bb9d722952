"""An index of runs, so that a thousand folders are not read a thousand times.

Evidence is the database. The index (SQLite, in the cache folder) is made from it at any time and vouches for nothing: a run is
taken from it only while each of its files has the size, times and inode it had when it was read; one that changed is read again,
one that is gone leaves. A damaged index is thrown away and made again, one that cannot be written is done without; both are said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, astuple, fields, replace
from pathlib import Path

from harness.history.reading import Said, Seen, read

__all__ = ["NAME", "forget", "seen"]

NAME = "lifecycle-history.sqlite"  # no other file is ever thrown away

_VERSION = 2  # of the tables and of what is read from a run: another is thrown away
_FIELDS = tuple(field.name for field in fields(Said))
_TABLES = (
    "CREATE TABLE runs (id INTEGER PRIMARY KEY, folder BLOB UNIQUE NOT NULL, print TEXT NOT NULL, facts TEXT NOT NULL)",
    f"CREATE TABLE said (run INTEGER NOT NULL, place INTEGER NOT NULL, {', '.join(_FIELDS)}, PRIMARY KEY (run, place)) WITHOUT ROWID",
    f"PRAGMA user_version = {_VERSION}",
)
_BUSY = 20.0  # seconds to wait for another process

Progress = Callable[[str, int, int], None]


def seen(
    runs: Sequence[Path], index: Path | None, claims: Sequence[str] = (), progress: Progress = lambda *_: None
) -> tuple[list[Seen], list[str]]:
    """The runs in the order given, and what is to be said of the index; without one (None) each is read.

    Only what they said of claims whose id begins with one of ``claims``, of all where none is given.
    """
    notes: list[str] = []
    found = None if index is None else _by_index(runs, index, claims, progress, notes)
    if found is None:
        found = _read_all(runs, progress)
    if claims:
        found = [replace(one, said=tuple(s for s in one.said if s.claim.startswith(tuple(claims)))) for one in found]
    return found, notes


def _by_index(runs: Sequence[Path], index: Path, claims: Sequence[str], progress: Progress, notes: list[str]) -> list[Seen] | None:
    """None, with a note, where the index cannot be used."""
    try:
        try:
            with _opened(index) as base:
                return _from(base, runs, claims, progress)
        except (sqlite3.DatabaseError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, sqlite3.OperationalError):  # read-only, full, locked: no fault of what is in it
                raise
            notes.append(f"index {index}: damaged ({error}), thrown away and made again")
            forget(index)
            with _opened(index) as base:
                return _from(base, runs, claims, progress)
    except (sqlite3.Error, OSError) as error:
        notes.append(f"index {index}: cannot be used ({error}), so each run was read")
        return None


def _read_all(runs: Sequence[Path], progress: Progress) -> list[Seen]:
    found = []
    for i, run in enumerate(runs):
        found.append(read(run))
        progress("reading runs", i + 1, len(runs))
    return found


@contextlib.contextmanager
def _opened(index: Path) -> Iterator[sqlite3.Connection]:
    """The index, with its tables; made where there is none or one of another version."""
    index.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(index, timeout=_BUSY, isolation_level=None)
    try:
        base.execute("PRAGMA synchronous = OFF")  # what a power cut leaves is damaged at worst, and made again
        base.execute("BEGIN IMMEDIATE")
        (version,) = base.execute("PRAGMA user_version").fetchone()
        if version != _VERSION:
            for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'").fetchall():
                base.execute(f'DROP TABLE "{name.replace(chr(34), chr(34) * 2)}"')
            for statement in _TABLES:
                base.execute(statement)
        yield base
        base.execute("COMMIT")
    finally:
        base.close()  # what was not committed is undone


def forget(index: Path) -> None:
    """Throws the index away; the next look makes it again. OSError if it cannot be removed."""
    for ending in ("", "-journal", "-wal", "-shm"):
        index.with_name(index.name + ending).unlink(missing_ok=True)


def _from(base: sqlite3.Connection, runs: Sequence[Path], claims: Sequence[str], progress: Progress) -> list[Seen]:
    """Each run from the index where its files are what they were, else from its folder, and then kept."""
    known = {folder: (number, mark, facts) for number, folder, mark, facts in base.execute("SELECT id, folder, print, facts FROM runs")}
    for folder, (number, _, _) in known.items():
        if not os.path.isdir(folder):
            _forget(base, number)
    found: list[Seen] = []
    kept: dict[int, int] = {}  # number in the index: place in what is found
    for i, run in enumerate(runs):
        folder = os.fsencode(run.absolute())
        mark = _print(run)
        number, before, facts = known.get(folder, (None, None, ""))
        if mark and mark == before and number is not None:
            kept[number] = len(found)
            found.append(_of_facts(run, facts))
        else:
            if number is not None:
                _forget(base, number)
            found.append(read(run))
            if mark:
                _keep(base, folder, mark, found[-1])
        progress("reading runs", i + 1, len(runs))
    said: dict[int, list[Said]] = {number: [] for number in kept}
    only = " OR ".join("substr(claim, 1, ?) = ?" for _ in claims)
    asked = f"SELECT * FROM said {f'WHERE {only}' if only else ''} ORDER BY run, place"
    for number, _, *values in base.execute(asked, [part for claim in claims for part in (len(claim), claim)]):
        if number in said:
            said[number].append(Said(*values))
    for number, place in kept.items():
        found[place] = replace(found[place], said=tuple(said[number]))
    return found


def _forget(base: sqlite3.Connection, number: int) -> None:
    base.execute("DELETE FROM said WHERE run = ?", (number,))
    base.execute("DELETE FROM runs WHERE id = ?", (number,))


def _keep(base: sqlite3.Connection, folder: bytes, mark: str, one: Seen) -> None:
    facts = {name: value for name, value in asdict(replace(one, said=())).items() if name not in ("run", "said")}
    base.execute("DELETE FROM runs WHERE folder = ?", (folder,))
    number = base.execute("INSERT INTO runs (folder, print, facts) VALUES (?, ?, ?)", (folder, mark, json.dumps(facts))).lastrowid
    base.executemany(
        f"INSERT INTO said VALUES (?, ?{', ?' * len(_FIELDS)})", [(number, place, *astuple(said)) for place, said in enumerate(one.said)]
    )


def _of_facts(run: Path, facts: str) -> Seen:
    known = json.loads(facts)
    return Seen(run, **{**known, "notes": tuple(known["notes"])})


def _print(run: Path) -> str:
    """A digest of name, size, times and inode of every file below; "" where there is no folder."""
    lines = []
    root = os.fspath(run)
    folders = [root]
    try:
        while folders:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(entry.path)
                        continue
                    s = entry.stat(follow_symlinks=False)
                    lines.append(f"{entry.path[len(root) :]}\0{s.st_size}\0{s.st_mtime_ns}\0{s.st_ctime_ns}\0{s.st_ino}")
    except OSError:
        return ""
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()
