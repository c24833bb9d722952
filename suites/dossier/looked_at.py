"""What a dossier says, looked at again: each row is a run made here, beside what the harness itself has proven."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.types import Sample
from suites.dossier.planted import Case, git

ATTEMPTS = 40  # runs of a test that fails in two of five: all pass with probability 1e-9


@dataclass(frozen=True)
class Dossier:
    """A case, and what was found of it, in ``out``; ``room`` is for what is run here."""

    case: Case
    record: dict[str, Any]
    out: Path
    room: Path

    @property
    def pieces(self) -> tuple[str, ...]:
        """Flags, settings or items."""
        return tuple(self.record["found"]["pieces"])


def fails(argv: Sequence[str], cwd: Path, attempts: int) -> bool:
    """Whether it ever ends with another status than 0."""
    env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    return any(subprocess.run(argv, cwd=cwd, env=env, capture_output=True).returncode for _ in range(attempts))


def attempts(dossier: Dossier) -> int:
    """One, but for a test that fails now and then."""
    return ATTEMPTS if "--flaky" in dossier.case.argv else 1


def row(dossier: Dossier, what: str, right: bool, **detail: Any) -> Sample:
    """1 where it is as it should be."""
    return Sample(f"{dossier.case.name}: {what}", float(right), detail=detail)


# --- the project, broken and mended -------------------------------------------------------------------


def project(dossier: Dossier, side: str, commit: str = "") -> Path:
    """A copy of the project in a folder of its own: "broken" as at its bad end, "mended" with the cure, or at a commit."""
    folder = dossier.room / f"{dossier.case.folder.name}-{side}-{len(list(dossier.room.iterdir()))}"
    shutil.copytree(dossier.case.folder, folder)
    if dossier.case.of_commits:
        argv = dossier.case.argv
        git(folder, "checkout", "-q", "--detach", commit or argv[argv.index("--bad") + 1])
    if side == "mended":
        name, wrong, right = dossier.case.cure
        text = (folder / name).read_text()
        assert wrong in text
        (folder / name).write_text(text.replace(wrong, right))
    return folder


def command(dossier: Dossier, pieces: Sequence[str] = ()) -> list[str]:
    """The command of a case with some of its flags, settings or items."""
    argv = shlex.split(dossier.case.argv[dossier.case.argv.index("--command") + 1])
    path = dossier.room / f"given-{len(list(dossier.room.iterdir()))}"
    kind = dossier.record["found"]["kind"]
    if kind == "settings":
        path.write_text(_config(pieces))
    elif kind == "items":
        path.write_text("".join(f"{piece}\n" for piece in pieces))
    flags = [word for piece in pieces for word in shlex.split(piece)]
    return [each for word in argv for each in (flags if word == "{flags}" else [str(path) if word in ("{config}", "{items}") else word])]


def _config(pieces: Sequence[str]) -> str:
    """A configuration that says what the pieces say on their bad side, and nothing else."""
    said = {piece.partition(": ")[0].rpartition(".")[2]: piece.rpartition(" -> ")[2] for piece in pieces}
    return "{" + ", ".join(f'"{name}": {value}' for name, value in said.items()) + "}\n"


# --- the four claims ----------------------------------------------------------------------------------


def reproduction(dossiers: Iterable[Dossier], script: Callable[[Dossier], str] = lambda d: "repro.sh") -> Iterator[Sample]:
    """DO1: the script fails in the project as it is; what it runs passes where the cure is in."""
    for each in dossiers:
        name = script(each)
        yield row(each, "fails before the fix", fails(["sh", str(each.out / name)], each.case.folder, attempts(each)))
        argv = command(each, () if each.case.of_commits else each.pieces)
        yield row(each, "passes after it", not fails(argv, project(each, "mended"), attempts(each)))


def bisected(dossiers: Iterable[Dossier], places: Callable[[Dossier], tuple[str, str]]) -> Iterator[Sample]:
    """DO2, of a commit and its parent: the parent passes, the commit fails, taken back it passes; and it is the planted one."""
    for each in dossiers:
        commit, parent = places(each)
        argv, often = command(each), attempts(each)
        back = project(each, "reverted", commit)
        git(back, "revert", "--no-commit", *(["-m", "1"] if " " in git(back, "log", "-1", "--format=%P") else []), "HEAD")
        subject = git(each.case.folder, "log", "-1", "--format=%s", commit)
        yield row(each, "the parent passes", not fails(argv, project(each, "parent", parent), often))
        yield row(each, "the commit fails", fails(argv, project(each, "commit", commit), often))
        yield row(each, "taken back it passes", not fails(argv, back, often))
        yield row(each, "it is the planted one", (subject,) == each.case.truth, commit=subject)


def minimal(dossiers: Iterable[Dossier], more: Callable[[Dossier], tuple[str, ...]] = lambda d: ()) -> Iterator[Sample]:
    """DO3: with its pieces it fails, without any one of them it passes; and they are the planted ones."""
    for each in dossiers:
        if each.case.of_commits:
            yield from _hunks(each)
            continue
        pieces = (*each.pieces, *more(each))
        yield row(each, "with its pieces it fails", fails(command(each, pieces), each.case.folder, 1))
        for piece in pieces:
            rest = [other for other in pieces if other != piece]
            yield row(each, f"without {piece[:60]} it passes", not fails(command(each, rest), each.case.folder, 1))
        yield row(each, "they are the planted ones", each.pieces == each.case.truth)


def _hunks(dossier: Dossier) -> Iterator[Sample]:
    """The patch of the dossier on the parent, whole and without each of its hunks."""
    found, argv, often = dossier.record["found"], command(dossier), attempts(dossier)
    head, *hunks = found["patch"].split("\n@@ ")
    bodies = [f"@@ {hunk}".rstrip("\n") + "\n" for hunk in hunks]
    yield row(dossier, "as many hunks as were planted", len(bodies) == dossier.case.hunks == len(found["hunks"]))
    for left_out in (None, *range(len(bodies))):
        folder = project(dossier, "patched", found["parent"]["id"])
        patch = folder / "some.patch"
        patch.write_text(f"{head}\n{''.join(body for i, body in enumerate(bodies) if i != left_out)}")
        if left_out is None or len(bodies) > 1:
            git(folder, "apply", "--unidiff-zero", "some.patch")
        broken = fails(argv, folder, often)
        what = "with its hunks it fails" if left_out is None else f"without {found['hunks'][left_out]} it passes"
        yield row(dossier, what, broken == (left_out is None))


def kept_test(dossiers: Iterable[Dossier], name: Callable[[Dossier], str] = lambda d: "test_regression.py") -> Iterator[Sample]:
    """DO4: the test fails in the project as it is, and passes where the cure is in."""
    for each in dossiers:
        argv = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--noconftest",
            "-c",
            os.devnull,
            str(each.out / name(each)),
        ]
        yield row(each, "it fails on the broken side", fails(argv, project(each, "broken"), 1))
        yield row(each, "it passes once that is mended", not fails(argv, project(each, "mended"), 1))
