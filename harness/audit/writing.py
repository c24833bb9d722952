"""Files that are there whole or not at all, and texts that do no harm where they are shown."""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc

from harness.errors import AuditError

__all__ = ["names_of", "plain", "plain_column", "shown_names", "whole"]


@contextlib.contextmanager
def whole(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when the block ends; if that fails, what was there stays. AuditError if the disk refuses."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb", 1 << 20) as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, 0o644)  # mkstemp makes it private
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise AuditError(
            f"{path}: could not be written ({error}); nothing new was left there. Free some space and write it again"
        ) from error


def names_of(files: Sequence[str]) -> list[str]:
    """Names of files from the deepest folder that holds them all: the same on every machine."""
    paths = [Path(os.path.abspath(file)) for file in files]
    folder = Path(os.path.commonpath([path.parent for path in paths])) if paths else Path()
    return [path.relative_to(folder).as_posix() for path in paths]


def shown_names(files: Sequence[str]) -> list[str]:
    """Names of files for outputs: as they were given if all are relative, else ``names_of``: no path of a machine is told."""
    paths = [Path(file) for file in files]
    given = not any(path.is_absolute() or ".." in path.parts for path in paths)
    return [path.as_posix() for path in paths] if given else names_of(files)


# Control characters, zero-width and direction marks, tags: a terminal or an editor would act on them, or hide them.
_HARMFUL = "[\\x{0}-\\x{1f}\\x{7f}-\\x{9f}\\x{200b}-\\x{200f}\\x{2028}-\\x{202e}\\x{2060}-\\x{206f}\\x{feff}\\x{e0000}-\\x{e007f}]"
_HARMFUL_CHARACTER = re.compile(re.sub(r"\\x\{(\w+)\}", lambda found: f"\\U{int(found[1], 16):08x}", _HARMFUL))


def plain(text: str) -> str:
    """The text with characters that act or hide written as their escapes."""
    return _HARMFUL_CHARACTER.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def plain_column(column: Any) -> Any:
    """``plain`` over a string column: each distinct text once, and only those that need it in Python."""
    coded = (column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column).dictionary_encode()
    texts = coded.dictionary
    if pc.any(pc.match_substring_regex(texts, _HARMFUL)).as_py():
        texts = pa.array([None if text is None else plain(text) for text in texts.to_pylist()], pa.string())
    return texts.take(coded.indices)
