"""Which judges and raters the claims of this suite speak about: [judges.*] of the lifecycle file, golden sets of ratings."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import golden
from harness.config import Settings
from harness.errors import HarnessError
from harness.evals.judges import model
from harness.lifecycle.judging import Judging
from harness.plugin import settings_of

_RATERS = 3


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``judged``: each judge; ``probed``: with each probe of J3; ``retested``, ``attacked``; ``rated``: each set of ratings."""
    settings = settings_of(metafunc.config)
    probes = {name: _probes(settings, name) for name in settings.judges}
    rated = [name for name in _sets(settings) if golden.manifest_entry(name, settings.golden)["kind"] == "ratings"]
    values = {
        "judged": list(settings.judges),
        "retested": [name for name, known in probes.items() if "retest" in known],
        "attacked": [name for name, known in probes.items() if "injection" in known],
        "rated": rated,
    }
    for name, known in values.items():
        if name in metafunc.fixturenames and "rater" not in metafunc.fixturenames:
            metafunc.parametrize(name, known)
    if "probed" in metafunc.fixturenames:
        asked = ("length", "format", "position", "self")
        metafunc.parametrize(("probed", "probe"), [(name, probe) for name, known in probes.items() for probe in asked if probe in known])
    if "rater" in metafunc.fixturenames:
        metafunc.parametrize(("rated", "rater"), [(name, rater) for name in rated for rater in range(1, _RATERS + 1)])


def _probes(settings: Settings, name: str) -> tuple[str, ...]:
    try:
        return model.parse(name, settings.judges[name]).probes
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def _sets(settings: Settings) -> list[str]:
    """The golden sets there are; none in a project without a manifest."""
    return golden.names(settings.golden) if (settings.golden / "manifest.toml").is_file() else []


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where nobody judges there is no claim either; judge by judge, so that each engine is opened once."""
    here, order = Path(__file__).parent, list(settings_of(config).judges)
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
    mine = [item for item in items if item.path.is_relative_to(here)]

    def place(item: pytest.Item) -> int:
        named = [v for v in getattr(getattr(item, "callspec", None), "params", {}).values() if v in order]
        return order.index(named[0]) if named else -1

    ordered = iter(sorted(mine, key=place))
    items[:] = [next(ordered) if item in mine else item for item in items]


@pytest.fixture
def judging(bench) -> Judging:
    """The judges of this run, at work."""
    return Judging(bench)
