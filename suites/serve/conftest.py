"""Which servers and objectives the claims of this suite speak about: what the lifecycle file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import Settings
from harness.plugin import settings_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``server``: each of [serve]; ``distinct``: the first of each engine and each that runs already, for what an engine does
    whatever the model; ``spawned``: those of them that are ours to start and to kill; ``primary``: one of these, of vLLM
    where there is one; ``optimised``: each with flags ``against``; ``server, objective``: each with each of its objectives.
    """
    settings = settings_of(metafunc.config)
    engines = [served.engine or served.url for served in settings.serve.values()]
    distinct = [name for i, name in enumerate(settings.serve) if engines.index(engines[i]) == i]
    ours = [name for name in distinct if settings.serve[name].engine]
    values = {
        "server": tuple(settings.serve),
        "distinct": distinct,
        "spawned": ours,
        "primary": sorted(ours, key=lambda name: settings.serve[name].engine != "vllm")[:1],
        "optimised": [name for name, served in settings.serve.items() if served.against],
    }
    if "objective" in metafunc.fixturenames:
        pairs = [(name, each.name) for name, served in settings.serve.items() for each in served.slo]
        metafunc.parametrize(("server", "objective"), pairs)
        del values["server"]
    for name, known in values.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Server by server, so that each is started as seldom as can be; where nothing is served there is no claim."""
    here = Path(__file__).parent
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
    order = list(_names(settings_of(config)))
    mine = [item for item in items if item.path.is_relative_to(here)]

    def place(item: pytest.Item) -> int:
        params = getattr(getattr(item, "callspec", None), "params", {})
        named = [value for value in params.values() if value in order]
        return order.index(named[0]) if named else -1

    ordered = iter(sorted(mine, key=place))
    items[:] = [next(ordered) if item in mine else item for item in items]


def _names(settings: Settings) -> tuple[str, ...]:
    return tuple(settings.serve)
