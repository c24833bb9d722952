"""The audit of datasets: exact, in machine code, with a proof of every finding.

    rows forms          what lies in files, read row by row as messages
    model keys text     the nouns; digests as numbers; canonical words
    run                 one process, many, or Ray: the same bytes
    schema characters lengths language outliers            a row or a text by itself
    duplicates near join splits preferences leakage        rows against rows, or against evaluation sets
    private secret identifier sensitive                    what must not ship
    standard samples proof plant                           all checks; findings as samples; known defects planted
    baseline manifest croissant outputs command            what is known, versions, metadata, files, the command line

Importing this package loads nothing; its modules need the extra ``audit``.
"""

from __future__ import annotations

import importlib.util

from harness.errors import MissingNeed

__all__ = ["require"]

_LIBRARIES = ("numpy", "numba", "pyarrow", "orjson", "xxhash", "stdnum", "phonenumbers")


def require() -> None:
    """Raises MissingNeed, with the way to get them, if the libraries of the audit are not here."""
    missing = [name for name in _LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingNeed("audit", f"not installed: {', '.join(missing)}", "python -m harness doctor --install audit")
