"""Which claims run, and when: in the order of a model's life, the stages and the tier that were asked for; and how long each stage took."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Collection

import pytest

from harness.errors import HarnessError
from harness.plugin.options import option, options, settings_of, tier_of
from harness.plugin.session import RUN, Run, claim_of, said_of
from harness.progress import clock
from harness.stages import STAGES, chosen, left, stage_of

_CLOCK_STEP = 2.0  # seconds: a machine that keeps its clock by NTP moves it by less in a day
BY_TIER = pytest.StashKey[str]()


def stages_wanted(config: pytest.Config) -> Collection[str] | None:
    """The stages that were asked for; None: all. Raises pytest.UsageError for a name that is none."""
    only, since = options(config, "only"), option(config, "from")
    try:
        return chosen(only, since) if only or since else None
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def _stage(marks: Collection[str]) -> str:
    """The stage of a test with these marks; a test without a claim is none of ours."""
    return stage_of(marks) if "claim" in marks else ""


def stage_of_item(item: pytest.Item) -> str:
    return _stage({mark.name for mark in item.iter_markers()})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the order of the stages: what comes first fails first. Only the stages that were asked for."""
    wanted = stages_wanted(config)
    if wanted is not None:
        _keep(config, items, lambda item: stage_of_item(item) in wanted)
    _leave_out(config, items)
    items.sort(key=lambda item: ("", *STAGES).index(stage_of_item(item)))


def _keep(config: pytest.Config, items: list[pytest.Item], kept: Callable[[pytest.Item], bool]) -> None:
    if out := [item for item in items if not kept(item)]:
        items[:] = [item for item in items if kept(item)]
        config.hook.pytest_deselected(items=out)


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the lifecycle file says that this tier does not ask for; a test that is named by its node id is asked for."""
    try:
        tier = settings_of(config).tier(tier_of(config))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    if not tier.leave_out or any("::" in arg for arg in config.args):
        return
    before = {item: tier.left_out_by(claim.id) for item in items if (claim := claim_of(item)) is not None}
    _keep(config, items, lambda item: before.get(item) is None)
    used = Counter(name for name in before.values() if name)
    config.stash[BY_TIER] = f"tier {tier.name} leaves out {used.total()} claims: " + ", ".join(f"{k} ({n})" for k, n in used.items())


class Clock:
    """How long each stage takes; where somebody looks, a line when one begins: how many claims, and how long it may be."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.seconds: dict[str, float] = {}  # of the tests of each stage, setup and teardown with them
        self.ahead: dict[str, int] = {}  # stages that did not begin yet, and how many tests they have
        self.took: dict[str, float] = {}  # the last time
        self.claims = 0  # that were reported, by workers too
        self.started = time.time() - time.monotonic()

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Before the first test."""
        run = self.config.stash.get(RUN, None)
        if run is not None and not run.worker:
            self.ahead = Counter(filter(None, map(stage_of_item, session.items)))
            self.took = _took(run)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Says that a stage begins, if one does; here output is not captured yet."""
        stage = stage_of_item(item)
        out = self.config.pluginmanager.getplugin("terminalreporter")
        if (count := self.ahead.pop(stage, 0)) and out is not None and out.isatty:
            before, rest = self.took.get(stage), left(stage, list(self.ahead), self.took)
            out.ensure_newline()
            out.write_line(
                f"{stage}: {count} tests"
                + (f", {clock(before)} the last time" if before is not None else "")
                + (f", about {clock(rest)} to the end" if rest is not None and self.ahead else ""),
                bold=True,
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds up, in the controller too."""
        self.claims += said_of(report) is not None
        if stage := _stage(report.keywords):
            self.seconds[stage] = self.seconds.get(stage, 0.0) + report.duration

    def step(self) -> float:
        """Seconds by which the machine's clock was set during this run; negative: back; 0 for less than any clock is set by."""
        step = time.time() - time.monotonic() - self.started
        return round(step, 1) if abs(step) >= _CLOCK_STEP else 0.0


def _took(run: Run) -> dict[str, float]:
    """Seconds of each stage in the newest run of this tier, beside this one, that had it."""
    from harness import evidence

    took: dict[str, float] = {}
    beside = sorted(run.folder.parent.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in beside[:10]:
        with contextlib.suppress(HarnessError, AttributeError):  # another's damaged run is no reason to stop
            facts = evidence.read_json(path)
            took = {**facts.get("seconds", {}), **took} if facts.get("tier") == run.tier else took
    return took
