"""Arrays that one audit leaves for the next: what is damaged, or not there, is made again."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

__all__ = ["read", "write"]


def write(place: Path, arrays: Mapping[str, Any]) -> None:
    """Keeps arrays in a folder, in one step. Where the disk refuses, nothing is kept: it is only sooner made again."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=place.parent))
    except OSError:
        return
    try:
        whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        for name, array in whole.items():
            np.save(scratch / f"{name}.npy", array)
        (scratch / "digests.json").write_text(json.dumps({name: _digest(array) for name, array in whole.items()}))
        shutil.rmtree(place, ignore_errors=True)
        os.rename(scratch, place)
    except OSError:
        pass
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def read(place: Path, names: Collection[str]) -> dict[str, Any] | None:
    """What ``write`` kept there, if it is these ``names``, as memory maps; None if a bit of it is not as it was written."""
    try:
        digests = json.loads((place / "digests.json").read_text())
        if set(digests) != set(names):
            return None
        arrays = {name: np.asarray(np.load(place / f"{name}.npy", mmap_mode="r")) for name in names}
        return arrays if all(_digest(array) == digests[name] for name, array in arrays.items()) else None
    except (OSError, EOFError, ValueError, TypeError):
        return None


def _digest(array: Any) -> str:
    return f"{array.dtype.str} {array.shape} {xxhash.xxh3_128_hexdigest(array.data.cast('B') if array.size else b'')}"
