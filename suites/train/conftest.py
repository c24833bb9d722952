"""Which training the claims of this suite speak about: ``tuned`` of [compare] in the lifecycle file, if there is one."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import Compare, Settings
from harness.plugin import settings_of
from harness.train.invariants import mask
from suites.train.lesson import Lesson


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``adapter_method``: each way to train an adapter; ``row_format``: each form of rows; ``serving``: what serves the tuned model."""
    settings = settings_of(metafunc.config)
    for name, known in asked(settings, settings.compare).items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)


def asked(settings: Settings, compare: Compare | None) -> dict[str, tuple[str, ...]]:
    """What the parameters range over; nothing where nothing was tuned here from a base that is here."""
    if compare is None or not settings.subject(compare.tuned).recipe:
        elsewhere = compare is not None and settings.subject(compare.tuned).scheme == "adapter"  # its curve was written down, no more
        recorded = (compare.tuned,) if compare is not None and elsewhere else ()
        return {"adapter_method": (), "row_format": (), "serving": (), "tuned": (), "recorded": recorded}
    return {
        "recorded": (compare.tuned,),
        "adapter_method": ("lora", "dora", "qlora"),
        "row_format": tuple(mask.FAULTS),
        "serving": (compare.tuned, *settings.references),
        "tuned": (compare.tuned,),
    }


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where nothing was tuned there is no claim either."""
    here = Path(__file__).parent
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]


@pytest.fixture(scope="session")
def lesson(bench):
    """The training that is looked into: base, recipe, rows."""
    return Lesson(bench, bench.settings.compare.tuned)
