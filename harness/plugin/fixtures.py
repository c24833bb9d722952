"""What else a test may ask for: the workbench, engines, golden sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.plugin.claims import CLAIM
from harness.plugin.options import option, settings_of
from harness.plugin.session import RUN
from harness.types import Engine

if TYPE_CHECKING:
    from harness.golden import GoldenSet
    from harness.lifecycle import Workbench


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    """The workbench of this session: subjects, golden sets, measurements."""
    from harness.lifecycle import Workbench
    from harness.store import Store, default_root

    config = request.config
    run = config.stash.get(RUN, None)
    settings = run.settings if run else settings_of(config)
    store = Store(Path(option(config, "store")).absolute() if option(config, "store") else default_root())
    alone = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) <= 1
    tier = settings.tier(option(config, "tier") or "full")
    logs = run.folder if run else None
    made = Workbench(settings, store, tier, _progress(config), quiet_machine=alone, logs=logs)
    yield made
    made.close()


def _progress(config: pytest.Config) -> Callable[[str, int, int], None]:
    """Progress past pytest's capture, on a terminal only."""
    from harness.progress import to_terminal

    capture = config.pluginmanager.getplugin("capturemanager")
    if hasattr(config, "workerinput") or capture is None:
        return lambda task, done, total: None
    with capture.global_and_fixture_disabled():
        show = to_terminal()

    def past_capture(task: str, done: int, total: int) -> None:
        with capture.global_and_fixture_disabled():
            show(task, done, total)

    return past_capture


@pytest.fixture
def engine(request: pytest.FixtureRequest, bench: Workbench) -> Callable[[str], Engine]:
    """``engine("mine")``: the opened engine of a subject named by --subject or the lifecycle file."""
    handle = request.node.stash.get(CLAIM, None)

    def opened(name: str) -> Engine:
        if handle is not None:
            handle.opened[name] = bench.subject(name)
        return bench.engine(name)

    return opened


@pytest.fixture
def golden(bench: Workbench) -> Callable[[str], GoldenSet]:
    """``golden("tickets")``: a golden set, verified against its manifest, at this run's tier."""
    return bench.golden
