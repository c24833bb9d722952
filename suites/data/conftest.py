"""Which datasets the claims of this suite speak about: [data.*] of the lifecycle file, or ``--data``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.config import DataSpec
from harness.plugin import settings_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``dataset``: each that is audited; ``apart``: with each set it is kept apart from; the rest: where it can be asked."""
    settings = settings_of(metafunc.config)
    specs = [settings.data[name] for name in settings.audited]
    asked = {
        "dataset": [s.name for s in specs],
        "answered": [s.name for s in specs if s.form not in ("text", "request") and not _of_pairs(s)],
        "read": [s.name for s in specs if s.tokenizer],
        "split": [s.name for s in specs if s.splits],
        "cleaned": [s.name for s in specs if s.raw],
        "paired": [s.name for s in specs if _of_pairs(s)],
    }
    for name, known in asked.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)
    if {"apart", "golden_set"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("apart", "golden_set"), [(s.name, name) for s in specs for name in s.apart_from])


def _of_pairs(spec: DataSpec) -> bool:
    """Whether the dataset is said to hold preference pairs, or its first row is one."""
    if spec.form != "auto" or not spec.files:
        return spec.form == "preference"
    try:
        with Path(spec.files[0]).open("rb") as stream:
            row = json.loads(stream.readline())
    except (OSError, ValueError, RecursionError):
        return False  # another format, or broken: say form = "preference"
    return isinstance(row, dict) and {"chosen", "rejected"} <= set(row)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where nothing can be asked (no split, no pair) there is no claim either; dataset by dataset, so that each is audited once."""
    here = Path(__file__).parent
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
