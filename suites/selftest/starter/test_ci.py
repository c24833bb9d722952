"""The CI templates and this project's own workflow: their shape is checked always, by the platforms' own linters where they are.

``python -m tox run -e lint`` has the schemas, zizmor, yamllint and shellcheck; actionlint is a program of its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.evidence import BUNDLE

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[3]
TEMPLATES = ROOT / "harness" / "starter" / "templates"
WORKFLOWS = [TEMPLATES / "github.yml", ROOT / ".github" / "workflows" / "ci.yml"]


def github(path: Path = WORKFLOWS[0]) -> dict[Any, Any]:
    return yaml.safe_load(path.read_text())


def gitlab() -> dict[str, Any]:
    return yaml.safe_load((TEMPLATES / "gitlab.yml").read_text())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_no_job_may_more_than_it_says_and_each_action_is_fixed(path):
    workflow = github(path)
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] and job["timeout-minutes"]
        for step in job["steps"]:
            assert "uses" not in step or re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40}", step["uses"])
            assert "${{" not in step.get("run", ""), "what a stranger wrote must not become a command"


def test_the_job_that_runs_their_code_may_only_read_and_the_one_that_writes_runs_none():
    jobs = github()["jobs"]
    assert jobs["claims"]["permissions"] == {"contents": "read"}
    checkout = jobs["claims"]["steps"][0]
    assert checkout["uses"].startswith("actions/checkout@") and checkout["with"]["persist-credentials"] is False
    assert jobs["comment"]["permissions"] == {"pull-requests": "write"}
    assert not any("checkout" in step.get("uses", "") or "python" in step.get("run", "") for step in jobs["comment"]["steps"])
    assert "head.repo.full_name == github.repository" in jobs["comment"]["if"]


def test_pytest_alone_decides_and_nothing_swallows_its_status():
    steps = github()["jobs"]["claims"]["steps"]
    (claims,) = (step for step in steps if step.get("name") == "Claims")
    assert claims["run"] == 'python -m pytest claims --tier "$TIER" --run-dir reports/ci'
    assert not any(step.get("continue-on-error") for step in steps)
    behind = steps[steps.index(claims) + 1 :]
    assert all("!cancelled()" in step["if"] for step in behind), "the evidence is kept of a run that failed, above all"
    assert f"hashFiles('reports/ci/{BUNDLE}')" in behind[0]["if"]


def test_smoke_for_a_request_and_the_proof_at_night():
    workflow = github()
    assert set(workflow[True]) == {"pull_request", "schedule", "workflow_dispatch"}  # YAML reads `on` as true
    assert workflow["jobs"]["claims"]["env"]["TIER"] == "${{ github.event_name == 'pull_request' && 'smoke' || 'full' }}"
    assert "github.event_name != 'pull_request' && vars.CLAIMS_RUNNER" in workflow["jobs"]["claims"]["runs-on"]
    jobs = gitlab()
    assert jobs["claims-smoke"]["variables"]["TIER"] == "smoke" and jobs["claims-full"]["variables"]["TIER"] == "full"
    assert jobs["claims-smoke"]["rules"] == [{"if": '$CI_PIPELINE_SOURCE == "merge_request_event"'}]


@pytest.mark.parametrize(("status", "recheck", "ends"), [(0, 0, 0), (1, 0, 1), (8, 0, 8), (0, 1, 1)])
@pytest.mark.parametrize("system", ["github", "gitlab"])
def test_the_script_ends_as_pytest_did(tmp_path, system, status, recheck, ends):
    """The steps as the platform runs them, with a `python` that ends as it is told."""
    fake = tmp_path / "python"
    fake.write_text(
        "#!/bin/sh\n"
        f'case "$2 $3" in\n  "pytest claims") mkdir -p reports/ci; touch reports/ci/{BUNDLE} reports/ci/summary.md; exit {status};;\n'
        f'  "harness recheck") exit {recheck};;\nesac\n'
    )
    fake.chmod(0o755)
    if system == "gitlab":
        lines = gitlab()[".claims"]["script"]
        found = [_shell(tmp_path, "\n".join(["set -e", *lines]))]
    else:
        steps = [step for step in github()["jobs"]["claims"]["steps"] if "run" in step and step["name"] != "Install"]
        found = [_shell(tmp_path, step["run"]) for step in steps]
        assert (tmp_path / "shown").exists()
    assert max(found) == ends


def _shell(folder: Path, script: str) -> int:
    env = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "TIER": "smoke", "GITHUB_STEP_SUMMARY": str(folder / "shown")}
    return subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=folder, env=env).returncode


@pytest.mark.parametrize("before", ["", "17"])
def test_the_comment_is_made_once_and_mended_afterwards(tmp_path, before):
    """With a `gh` that writes down what it was asked."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "summary.md").write_text("é" * 40_000)  # cut in the middle of a letter, for a comment holds 65,536
    gh = tmp_path / "gh"
    gh.write_text(f'#!/bin/sh\necho "$@" >> asked\ncase "$*" in *paginate*) printf "%s\\n" "{before}";; esac\n')
    gh.chmod(0o755)
    (step,) = (step for step in github()["jobs"]["comment"]["steps"] if "run" in step)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "COMMENTS": "repos/o/r/issues/3/comments", "MENDED": "repos/o/r/c"}
    assert subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=env).returncode == 0
    last = (tmp_path / "asked").read_text().splitlines()[-1]
    assert ("--method PATCH repos/o/r/c/17" in last) == bool(before) and ("--method POST" in last) == (not before)
    body = (tmp_path / "comment.md").read_text("utf-8")
    assert body.startswith("<!-- claims -->") and 20_000 < len(body) < 65_536


LINTERS = {
    "check-jsonschema": [
        ["--builtin-schema", "vendor.github-workflows", *map(str, WORKFLOWS)],
        ["--builtin-schema", "vendor.gitlab-ci", str(TEMPLATES / "gitlab.yml")],
    ],
    "zizmor": [["--offline", "--persona", "pedantic", *map(str, WORKFLOWS)]],
    "actionlint": [list(map(str, WORKFLOWS))],
}


@pytest.mark.parametrize("linter", LINTERS)
def test_the_platforms_own_linters_find_nothing(linter):
    program = shutil.which(linter)
    if program is None:
        pytest.skip(f"{linter} is not installed; python -m tox run -e lint has the schemas and zizmor")
    for args in LINTERS[linter]:
        done = subprocess.run([program, *args], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def _scripts() -> dict[str, str]:
    """Every script that a pipeline would run, by where it stands."""
    steps = [(path.name, step) for path in WORKFLOWS for job in github(path)["jobs"].values() for step in job["steps"] if "run" in step]
    found = {f"{name}: {step['name']}": step["run"] for name, step in steps}
    return {**found, "gitlab.yml": "\n".join([*gitlab()[".claims"]["before_script"], *gitlab()[".claims"]["script"]])}


@pytest.mark.parametrize("name", _scripts())
def test_bash_can_read_each_script_and_shellcheck_finds_nothing(name):
    script = _scripts()[name]
    assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
    program = shutil.which("shellcheck")
    if program is not None:
        done = subprocess.run([program, "--shell=bash", "--severity=style", "-"], input=script, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
