"""The README is true: its commands run, its example is the tested one, its numbers come from evidence."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from harness import report

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_both_commands_stand_in_it_and_ci_calls_the_second():
    commands = [line for block in blocks("sh") for line in block.splitlines() if "tox run" in line]
    assert len(commands) == 2
    body = (ROOT / ".ci" / "run").read_text()
    tests = commands[1]
    assert "suites/selftest" in tests
    assert tests.replace("install tox", "install -q tox").replace("tox run -e", "tox run -q -e") in body


def test_its_harness_commands_run():
    lines = [
        line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines() if line.startswith("python -m harness")
    ]
    assert len(lines) >= 3
    for line in lines:
        if " make " in line or "--install" in line:
            continue  # minutes of training and of downloads; the main job runs them
        done = subprocess.run([sys.executable, *shlex.split(line)[1:]], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, (line, done.stderr)


def test_the_table_of_rivals_is_what_the_benchmark_printed():
    (shown,) = blocks("text")
    printed = (ROOT / "reports" / "data" / "near.txt").read_text().splitlines()
    assert len(shown.splitlines()) > 8 and set(shown.splitlines()) <= set(printed)


def test_its_examples_are_the_ones_that_are_tested():
    tested = without_blank_lines((ROOT / "suites/selftest/test_plugin.py").read_text())
    assert len(blocks("python")) == 2
    assert all(without_blank_lines(example) in tested for example in blocks("python"))


def without_blank_lines(text: str) -> str:
    return "\n".join(line for line in text.splitlines() if line.strip())


def test_each_verdict_it_shows_is_in_the_committed_evidence():
    (shown,) = blocks("console")
    records = [json.loads(p.read_text()) for p in (ROOT / "reports/example/evidence").glob("*.json")]
    releases = json.loads((ROOT / "reports/example/release.json").read_text())
    told = [*(report.line(record) for record in records), *(report.release_line(build, said) for build, said in releases.items())]
    verdicts = [line for line in shown.splitlines() if re.match(r"(holds|fails|inconclusive|not_evaluated) ", line)]
    assert len(verdicts) >= 8
    for line in verdicts:
        assert any(full.startswith(line.removesuffix("…").rstrip()) for full in told), line
