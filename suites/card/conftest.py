"""Whose cards the claims of this suite speak about: each build of the lifecycle file."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.plugin import settings_of
from suites.evidenced import evidences  # noqa: F401


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``carded``: each build, whose release somebody decides on."""
    if "carded" in metafunc.fixturenames:
        metafunc.parametrize("carded", settings_of(metafunc.config).builds)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no build there is no claim either."""
    here = Path(__file__).parent
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
