"""One run is one set of bytes: alone, by two workers, in any order; but for when it ended, how long it took, and what shows that."""

from __future__ import annotations

import json

import pytest

from suites.selftest.test_plugin import BODIES, project, write

pytestmark = pytest.mark.selftest

__all__ = ["project"]  # the fixture

SHUFFLED = """
import random

def pytest_collection_modifyitems(items):
    random.Random(20261122).shuffle(items)
"""
VOLATILE = {"run.json", "summary.md", "report.html", "bundle.json"}  # the time, and what is made of it


def bundle(project: pytest.Pytester, name: str, *arguments: str) -> dict[str, bytes]:
    result = project.runpytest_subprocess("-p", "no:hypothesispytest", "--run-dir", name, *arguments)
    assert result.ret == 1
    run = project.path / name
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_evidence_is_the_same_alone_by_two_workers_and_in_any_order(project):
    write(project, *[name for name in BODIES if name != "twice"])
    alone = bundle(project, "alone")
    by_two = bundle(project, "by-two", "-n", "2")
    project.makeconftest(SHUFFLED)
    shuffled = bundle(project, "shuffled")
    assert {name.partition("/")[0] for name in alone} == {"plan.json", "evidence", "samples", *VOLATILE}
    for other in (by_two, shuffled):
        assert set(other) == set(alone)
        assert [name for name in alone if alone[name] != other[name] and name not in VOLATILE] == []
        assert facts(other) == facts(alone)


def facts(run: dict[str, bytes]) -> dict[str, object]:
    """How a run ended, without the time."""
    said = json.loads(run["run.json"])
    return {key: value for key, value in said.items() if key not in ("finished", "seconds")}
