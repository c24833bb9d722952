"""pytest-benchmark's files as evidence: blocks that are judged, and what is refused."""

from __future__ import annotations

import json

import pytest

from harness import Claim, at_most
from harness.errors import ImportedError
from harness.evals.bridge.timings import blocks, read_timings
from harness.judge import judge

pytestmark = pytest.mark.selftest

CLAIM = Claim("micro.split", "no slower by 5%", at_most(1.05), estimand="run_ratio")


def _file(path, median, *, cpu="CPU A", rounds=50, name="bench/micro.py::test_split", node="host", timer="perf_counter"):
    machine = {
        "node": node,
        "machine": "x86_64",
        "system": "Linux",
        "python_implementation": "CPython",
        "python_version": "3.11.2",
        "cpu": {"brand_raw": cpu},
    }
    row = {"name": "test_split", "fullname": name, "options": {"timer": timer}, "stats": {"median": median, "rounds": rounds}}
    path.write_text(json.dumps({"machine_info": machine, "commit_info": {"id": "abc"}, "benchmarks": [row], "version": "5.2"}), "utf-8")
    return path


def _runs(tmp_path, ratio, k=6):
    """Blocks old new new old on a machine that drifts, with a little noise that is no drift."""
    files = []
    for i in range(4 * k):
        new = i % 4 in (1, 2)
        noise = 1 + 0.004 * ((i * 7) % 5 - 2)
        files.append(_file(tmp_path / f"{i}.json", 1e-3 * (1 + 0.002 * i) * noise * (ratio if new else 1)))
    return files


@pytest.mark.parametrize(("ratio", "outcome"), [(1.0, "holds"), (1.2, "fails"), (0.8, "holds")])
def test_blocks_are_judged(tmp_path, ratio, outcome):
    verdict = judge(CLAIM, blocks("test_split", _runs(tmp_path, ratio)))
    assert verdict.outcome == outcome
    assert verdict.estimate == pytest.approx(ratio, rel=0.02)


def test_another_machine_voids_and_another_host_name_does_not(tmp_path):
    files = _runs(tmp_path, 1.0)
    _file(files[5], 1e-3, node="elsewhere")
    assert judge(CLAIM, blocks("test_split", files)).outcome == "holds"
    _file(files[5], 1e-3, cpu="CPU B")
    assert judge(CLAIM, blocks("test_split", files)).reason == "other_machine"
    files = _runs(tmp_path, 1.0)
    _file(files[5], 1e-3, timer="process_time")
    assert judge(CLAIM, blocks("test_split", files)).reason == "other_options"


def test_the_host_name_is_no_evidence(tmp_path):
    timing = read_timings(_file(tmp_path / "a.json", 1e-3, node="secret-host"))["bench/micro.py::test_split"]
    assert "secret-host" not in repr(timing)


@pytest.mark.parametrize("median", [0, -1e-3, "fast", None, True])
def test_a_time_that_is_none_is_refused(tmp_path, median):
    if median is True:
        median = float("nan")
    with pytest.raises(ImportedError):
        read_timings(_file(tmp_path / "a.json", median))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"benchmarks": []}', '{"machine_info": {}, "benchmarks": []}', '{"machine_info": {}, "benchmarks": [3]}']
)
def test_what_is_no_such_file_is_refused(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text, "utf-8")
    with pytest.raises(ImportedError, match=r"x\.json"):
        read_timings(path)


def test_blocks_are_whole_and_name_one_benchmark(tmp_path):
    files = _runs(tmp_path, 1.0, k=1)
    with pytest.raises(ImportedError, match="four a block"):
        blocks("test_split", files[:3])
    with pytest.raises(ImportedError, match="test_spilt"):
        blocks("test_spilt", files)
