"""All pytest code: options, the ``claim`` marker and fixtures, the run's evidence, the summary.

A test under ``@pytest.mark.claim(Claim(...))`` measures, calls ``claim.check(measurement)``, and
leaves exactly one evidence file before anything is raised. Nothing here acts unless a test that
carries a claim was selected.

    holds .   fails F   inconclusive ?   not evaluated N   expected to fail and fails x   error E/F

Exit status: 0 all hold · 1 a claim fails, is inconclusive (tier full), was lost or never checked ·
8 something needed was absent and not allowed by ``--allow-missing NAME``.
"""

from __future__ import annotations

import pytest

from harness.plugin.claims import (
    ClaimHandle,
    NotEvaluated,
    claim,
    pytest_report_teststatus,
    pytest_runtest_call,
    pytest_runtest_makereport,
    pytest_runtest_setup,
)
from harness.plugin.ending import EXIT_NOT_EVALUATED, pytest_report_collectionfinish, pytest_sessionfinish, pytest_terminal_summary
from harness.plugin.fixtures import bench, engine, golden
from harness.plugin.options import pytest_addoption, settings_of, tier_of
from harness.plugin.order import Clock, pytest_collection_modifyitems, stages_wanted
from harness.plugin.planning import pytest_collection_finish, pytest_configure_node
from harness.plugin.session import Run, pytest_deselected, run_folder

# The public names first, then what pytest looks for: its hooks and the fixtures.
__all__ = [
    "EXIT_NOT_EVALUATED",
    "ClaimHandle",
    "NotEvaluated",
    "Run",
    "bench",
    "claim",
    "engine",
    "golden",
    "pytest_addoption",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "pytest_configure_node",
    "pytest_deselected",
    "pytest_report_collectionfinish",
    "pytest_report_teststatus",
    "pytest_runtest_call",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "pytest_sessionfinish",
    "pytest_terminal_summary",
    "run_folder",
    "settings_of",
    "tier_of",
]  # fmt: skip


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker and the clock of the stages; everything else waits for a claim."""
    config.pluginmanager.register(Clock(config), "harness-clock")
    config.addinivalue_line("markers", "claim(claim): what this test claims, a Claim; each=function makes one from the test's parameters")


def pytest_sessionstart(session: pytest.Session) -> None:
    """A wrong lifecycle file, or a stage that there is none of, ends the session in one line, before any test is collected."""
    settings_of(session.config)
    stages_wanted(session.config)
