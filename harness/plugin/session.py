"""The state of a session that holds claims, and where it lies on pytest's stashes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.types import Claim

if TYPE_CHECKING:
    from harness.config import Settings


PROPERTY = "harness"  # under which a report carries what its claim came to
RUN = pytest.StashKey["Run"]()
LEFT_OUT = pytest.StashKey[list[pytest.Item]]()
NODE_RUN = pytest.StashKey[Path]()


@dataclass
class Run:
    """The state of one pytest session that holds claims. Lives on ``config.stash``."""

    settings: Settings
    tier: str
    folder: Path
    worker: bool
    allowed: frozenset[str]
    plan_digest: str = ""
    unplanned: str = ""  # why this worker has no plan, and may measure nothing
    provenance: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()  # claims that the lifecycle file names and no test makes
    left_out: tuple[str, ...] = ()  # claims that were collected and deselected
    whole: bool = False  # nothing was left out: a baseline without a claim has lost it


def run_folder(config: pytest.Config) -> Path | None:
    """Where the evidence of this session lies; None in one without claims."""
    run = config.stash.get(RUN, None)
    return run.folder if run is not None else None


def claim_of(item: pytest.Item) -> Claim | None:
    mark = item.get_closest_marker("claim")
    if mark is None:
        return None
    if len(mark.args) == 1 and not mark.kwargs:
        made = mark.args[0]
    elif not mark.args and set(mark.kwargs) == {"each"}:
        made = mark.kwargs["each"](**getattr(getattr(item, "callspec", None), "params", {}))
    else:
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.claim takes one Claim, or each=a function of the test's parameters")
    if not isinstance(made, Claim):
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.claim got {type(made).__name__}, expected a Claim")
    return made


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remembers what was left out: a release without some of its claims is no release."""
    for item in items:
        if item.get_closest_marker("claim") is not None:
            item.config.stash.setdefault(LEFT_OUT, []).append(item)


def said_of(report: Any) -> dict[str, Any] | None:
    """What a report says of its claim, None for other tests."""
    for name, value in getattr(report, "user_properties", ()):
        if name == PROPERTY:
            return json.loads(value)  # type: ignore[no-any-return]
    return None
