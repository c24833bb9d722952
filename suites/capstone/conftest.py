"""Which finished run is spoken of."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import evidence
from harness.errors import MissingNeed
from harness.types import Subject


def pytest_addoption(parser):
    text = "the finished run that the capstone speaks of (default: reports/example)"
    parser.getgroup("harness").addoption("--capstone-run", metavar="DIR", default=None, help=text)
    parser.addini("harness_capstone_run", text, default="")


@pytest.fixture(scope="session")
def capstone_run(pytestconfig) -> Path:
    """The folder of a sealed run."""
    named = pytestconfig.getoption("--capstone-run") or pytestconfig.getini("harness_capstone_run") or "reports/example"
    run = pytestconfig.rootpath / named
    if not (run / evidence.BUNDLE).is_file():
        raise MissingNeed("capstone-run", f"no sealed run in {run}", "name one with --capstone-run DIR, like a folder below reports/")
    return run


@pytest.fixture(scope="session")
def reported(capstone_run) -> Subject:
    """The run as a subject: its digest is its seal."""
    seal = evidence.read_json(capstone_run / evidence.BUNDLE)["seal"]
    return Subject(capstone_run.name, "run", capstone_run.name, str(seal))
