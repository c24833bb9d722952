"""Artifacts made once from declared inputs, kept by content, verified on reuse.

A recipe is a name and a set of inputs (digests, versions, numbers). Its key is the SHA-256 of
both, so nothing changes silently: other inputs, other key. An artifact is made in a temporary
folder beside its place, sealed with the digest of each file, and moved there in one step; what a
killed maker leaves behind is never found by a key. Two runs at once: one makes, the other waits.

    store/<name>/<key>/seal.json      inputs, digest of each file
    store/<name>/<key>/...            the files
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, StoreError

__all__ = ["Artifact", "Store", "default_root", "digest_file", "digest_json", "digest_tree"]

_SEAL = "seal.json"


def default_root() -> Path:
    """``$HARNESS_STORE``, else the user's cache folder (XDG)."""
    if "HARNESS_STORE" in os.environ:
        return Path(os.environ["HARNESS_STORE"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "lifecycle-harness"


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of ``value`` as canonical JSON (sorted keys, no spaces, finite numbers only)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_tree(folder: Path) -> dict[str, str]:
    """Digest of each file below ``folder`` but the seal, by relative path."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p != folder / _SEAL)
    return {p.relative_to(folder).as_posix(): digest_file(p) for p in files}


@dataclass(frozen=True, slots=True)
class Artifact:
    """A finished artifact: its folder, the digest of each file and over all of them, and its inputs."""

    name: str
    key: str
    path: Path
    files: Mapping[str, str]
    inputs: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 over the names and digests of the files."""
        return digest_json(dict(self.files))


class Store:
    """A folder of artifacts. Safe for several processes at once (POSIX file locks)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def key(self, name: str, inputs: Mapping[str, Any]) -> str:
        """The address of what ``name`` makes from ``inputs``."""
        return digest_json({"name": name, "inputs": dict(inputs)})[:32]

    def find(self, name: str, inputs: Mapping[str, Any]) -> Artifact | None:
        """The artifact if it was made before and still has its bytes; a changed one is moved aside."""
        folder = self.root / name / self.key(name, inputs)
        found = _read(name, folder)
        if found is None and (folder / _SEAL).is_file():
            aside = folder.with_name(f"{folder.name}.damaged-{time.time_ns()}")
            folder.rename(aside)
            print(f"store: {folder} no longer has the bytes it was sealed with; moved to {aside}", file=sys.stderr)
        return found

    def make(self, name: str, inputs: Mapping[str, Any], maker: Callable[[Path], object]) -> Artifact:
        """The artifact, made by ``maker(folder)`` unless it is there already.

        Raises StoreError when it cannot be kept (full disk, no permission); whatever ``maker``
        raises passes through, and nothing half-made stays.
        """
        try:
            # Without the lock, since a finished store may be read-only; what is damaged is moved under it.
            found = _read(name, self.root / name / self.key(name, inputs))
            if found is not None:
                return found
            with self._lock(name, self.key(name, inputs)):
                return self.find(name, inputs) or self._make(name, inputs, maker)
        except Exception as error:
            full = "No space left" in str(error)  # some libraries raise classes of their own for it
            if (isinstance(error, HarnessError) and not full) or not (full or isinstance(error, OSError)):
                raise
            raise StoreError(
                f"store: cannot make {name} in {self.root}: {error}. Nothing half-made was kept. "
                f"Free some space or name another folder: HARNESS_STORE=/path"
            ) from error

    def _make(self, name: str, inputs: Mapping[str, Any], maker: Callable[[Path], object]) -> Artifact:
        key = self.key(name, inputs)
        place = self.root / name / key
        _sweep(place)
        work = Path(tempfile.mkdtemp(prefix=f".{key}.", dir=place.parent))
        try:
            maker(work)
            files = digest_tree(work)
            if not files:
                raise StoreError(f"store: the recipe {name} made no file; expected at least one")
            seal = {"name": name, "inputs": dict(inputs), "files": files}
            _write_synced(work / _SEAL, json.dumps(seal, indent=1, sort_keys=True, allow_nan=False))
            work.rename(place)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        return Artifact(name, key, place, files, dict(inputs))

    @contextlib.contextmanager
    def _lock(self, name: str, key: str) -> Iterator[None]:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f".{key}.lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"store: another run is making {name}; waiting for it", file=sys.stderr)
                fcntl.flock(stream, fcntl.LOCK_EX)
            yield

    def make_json(self, name: str, inputs: Mapping[str, Any], maker: Callable[[], Any]) -> Any:
        """A JSON value kept as an artifact (how measurements are reused)."""

        def write(folder: Path) -> None:
            text = json.dumps(maker(), ensure_ascii=False, allow_nan=False)
            _write_synced(folder / "value.json", text)

        artifact = self.make(name, inputs, write)
        return json.loads((artifact.path / "value.json").read_text("utf-8"))


def _read(name: str, folder: Path) -> Artifact | None:
    try:
        seal = json.loads((folder / _SEAL).read_text("utf-8"))
        if seal["files"] != digest_tree(folder):
            return None
        return Artifact(name, folder.name, folder, seal["files"], seal["inputs"])
    except (ValueError, KeyError, TypeError, FileNotFoundError, NotADirectoryError):
        return None


def _sweep(place: Path) -> None:
    """Removes what a killed maker of this very artifact left; we hold its lock."""
    for left in place.parent.glob(f".{place.name}.*"):
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)


def _write_synced(path: Path, text: str) -> None:
    with path.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
