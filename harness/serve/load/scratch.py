"""The folder of a load while it runs. A run that was killed leaves its own behind: the next start takes it away."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ["PREFIX", "sweep", "temporary"]

PREFIX = "harness-load-"
_MARK = "locked"  # in a folder that was locked when it was made: one without may just be about to be


@contextmanager
def temporary() -> Iterator[Path]:
    """A folder, locked while it is used, gone afterwards. The lock ends with the process, however that ends."""
    sweep(Path(tempfile.gettempdir()))
    folder = Path(tempfile.mkdtemp(prefix=PREFIX))
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        (folder / _MARK).touch()
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def sweep(where: Path) -> None:
    """Removes what dead runs of this user left in ``where``; silent about what it may not touch."""
    for folder in where.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if folder.lstat().st_uid == os.getuid() and (folder / _MARK).exists() and _dead(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _dead(folder: Path) -> bool:
    """Whether nobody holds its lock. OSError for what is no folder, or where nothing can be locked."""
    held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True
