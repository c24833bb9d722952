"""Which subject the claims of this suite speak about: ``preferred`` of [compare] in the lifecycle file, if there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import Compare
from harness.plugin import settings_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``preferred``: the subject after preference training; ``kept_set``: each golden set on which nothing may be lost."""
    for name, known in asked(settings_of(metafunc.config).compare).items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)


def asked(compare: Compare | None) -> dict[str, tuple[str, ...]]:
    """What the parameters range over; nothing where nothing was trained by preferences."""
    if compare is None or not compare.preferred:
        return {"preferred": (), "kept_set": ()}
    return {"preferred": (compare.preferred,), "kept_set": (compare.primary, *compare.guardrails)}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where nothing was trained by preferences there is no claim either."""
    here = Path(__file__).parent
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
