"""Which tool wrote a file, by what is in it."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from harness.errors import ImportedError
from harness.evals.bridge import deepeval, inspect_log, lmeval_log, promptfoo
from harness.evals.bridge.imported import Imported, load_json

__all__ = ["read"]

_EXPECTED = (
    "expected samples_*.jsonl of lm-eval --log_samples or the folder they are in, an Inspect log (.eval, .json), "
    "results.json of promptfoo, or a test run of DeepEval"
)


def read(path: str | Path, *, task: str = "", metric: str = "", filter: str = "", column: str = "") -> Imported:
    """The results of another tool, as Samples.

    ``metric`` names the score and may be left out where there is one (promptfoo: whether the test
    passed). ``task`` and ``filter`` are lm-eval's; ``column`` is promptfoo's, the provider or prompt
    to read. Raises ImportedError for a file that is damaged or of none of these formats, and for a
    choice that is not there or not made.
    """
    where = Path(path)
    if not where.exists():
        raise ImportedError(f"{where}: no such file; {_EXPECTED}")
    try:
        return _read(where, task, metric, filter, column)
    except (AttributeError, TypeError, KeyError, RecursionError) as error:  # a field of another type than the tool writes
        raise ImportedError(f"{where}: a field is not what the tool writes ({error}); {_EXPECTED}") from error


def _read(where: Path, task: str, metric: str, filter: str, column: str) -> Imported:
    if where.is_dir() or where.suffix == ".jsonl":
        return _checked(lmeval_log.read(where, task, metric, filter), where, column=column)
    if zipfile.is_zipfile(where) or where.suffix == ".eval":
        return _checked(inspect_log.read(where, metric), where, task=task, filter=filter, column=column)
    root = load_json(where)
    for holds, reader in ((inspect_log.holds, inspect_log.read_json), (deepeval.holds, deepeval.read_json)):
        if holds(root):
            return _checked(reader(root, where, metric), where, task=task, filter=filter, column=column)
    if promptfoo.holds(root):
        return _checked(promptfoo.read_json(root, where, metric, column), where, task=task, filter=filter)
    raise ImportedError(f"{where}: {_shape(root)}; {_EXPECTED}")


def _checked(run: Imported, where: Path, **unused: str) -> Imported:
    for name, value in unused.items():
        if value:
            raise ImportedError(f"{where}: {name}={value!r} means nothing for results of {run.source}; leave it out")
    return run


def _shape(root: Any) -> str:
    if isinstance(root, dict):
        if "results" in root and "configs" in root:
            return "the aggregated results of lm-eval, without items: run it with --log_samples and name the folder"
        return f"a JSON object with the keys {', '.join(map(repr, list(root)[:6])) or 'none'}"
    return f"a JSON {type(root).__name__}"
