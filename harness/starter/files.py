"""Writing into somebody else's repository: in one step, and nothing that stands there is overwritten unless it is meant."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

from harness.errors import ConfigError

__all__ = ["replace", "word"]


def word(text: str) -> str:
    """A text as a name: small letters, digits, - and _; "mine" if nothing is left."""
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-_") or "mine"


def replace(path: Path, data: bytes) -> None:
    """Writes beside ``path`` and moves there, so that a kill leaves the old file or the new one. ConfigError if it cannot."""
    draft = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(draft, 0o644)  # mkstemp makes it private; a repository's files are not
        os.replace(draft, path)
    except OSError as error:
        if draft:
            Path(draft).unlink(missing_ok=True)
        raise ConfigError(
            f"cannot write {path}: {error.strerror or error}; nothing else was written after it. Run it again then"
        ) from error
