"""The dossiers that the claims of this suite are about: one of each planted defect, one of each clean twin, made once."""

from __future__ import annotations

import argparse

import pytest

from harness.dossier import command
from suites.dossier import planted
from suites.dossier.looked_at import Dossier


def _investigated(build, room):
    room.mkdir()
    case = planted.make(build, room)
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    args = parser.parse_args(["dossier", *case.argv, "--out", str(room / "out")])
    (room / "runs").mkdir()
    return Dossier(case, dict(command.investigate(args, cwd=case.folder)), room / "out", room / "runs")


@pytest.fixture(scope="session")
def dossiers(tmp_path_factory):
    """Of each planted defect."""
    room = tmp_path_factory.mktemp("dossiers")
    made = [_investigated(build, room / build.__name__) for build in planted.CASES]
    assert [each.record["outcome"] for each in made] == ["found"] * len(made), [each.record["sentence"] for each in made]
    return made


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    """Of each project without one."""
    room = tmp_path_factory.mktemp("twins")
    return [_investigated(build, room / build.__name__) for build in planted.TWINS]
