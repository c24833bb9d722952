"""The stages of a run: their order, what --only and --from leave out, how long each took."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys

import pytest

from harness.config import Tier
from harness.errors import ConfigError
from harness.stages import STAGES, chosen, left, stage_of

pytestmark = pytest.mark.selftest


def test_what_is_chosen() -> None:
    assert chosen() == STAGES
    assert chosen(["quant,data", "serve"]) == ("data", "quant", "serve")  # in the order of a life, however they are named
    assert chosen(since="quant") == STAGES[STAGES.index("quant") :]
    assert chosen(["data", "serve"], "train") == ("serve",)


@pytest.mark.parametrize(("only", "since", "words"), [
    (["dta"], "", "no stage 'dta'; did you mean 'data'"),
    ([""], "", "no stage ''"),
    ([], "serving", "did you mean 'serve'"),
    (["data"], "train", "no stage is both"),
])  # fmt: skip
def test_what_cannot_be_chosen(only: list[str], since: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        chosen(only, since)


def test_the_stage_of_a_test_and_how_long_it_may_be() -> None:
    assert [stage_of(marks) for marks in ({"claim", "quant"}, {"parametrize"}, set())] == ["quant", "", ""]
    assert left("data", ["quant"], {"data": 1.5, "quant": 60.0, "serve": 9.0}) == 61.5
    assert left("data", ["quant"], {"data": 1.5}) is None


PROJECT = """
import pytest
from harness import Claim, Measurement, Sample, at_least

def claims(name):
    return pytest.mark.claim(Claim(name, "four in five are right", at_least(0.8)))

def right(claim):
    claim.check(Measurement("rate", tuple(Sample(f"i{i}", 1.0) for i in range(100))))

@pytest.mark.serve
@claims("S")
def test_serving(claim):
    right(claim)

@pytest.mark.data
@claims("D")
def test_data(claim):
    right(claim)

@pytest.mark.train
def test_of_somebody_else():
    pass

@claims("mine")
def test_mine(claim):
    right(claim)
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini(
        "[pytest]\naddopts = -p no:cacheprovider -p no:benchmark -p no:randomly\nmarkers =\n    data: d\n    train: t\n    serve: s"
    )
    pytester.makepyfile(test_claims=PROJECT)
    return pytester


def ran(result: pytest.RunResult) -> list[str]:
    return [line.split("::")[1].split()[0] for line in result.outlines if "::" in line and "PASSED" in line]


def test_claims_run_in_the_order_of_the_stages_and_other_tests_are_let_be(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("-v")
    assert ran(result) == ["test_of_somebody_else", "test_mine", "test_data", "test_serving"]
    facts = json.loads(next((project.path / "reports").glob("*/run.json")).read_text())
    assert list(facts["seconds"]) == ["data", "serve"] and facts["tier"] == "full"
    assert "stages   data 0 s · serve 0 s" in result.outlines


@pytest.mark.parametrize(("options", "kept"), [
    (("--only", "serve"), ["test_serving"]),
    (("--only", "serve,data"), ["test_data", "test_serving"]),
    (("--from", "train"), ["test_serving"]),
    (("--only", "train"), []),
])  # fmt: skip
def test_some_stages_alone(project: pytest.Pytester, options, kept) -> None:
    result = project.runpytest_subprocess("-v", *options)
    assert ran(result) == kept
    result.stdout.fnmatch_lines([f"*{4 - len(kept)} deselected*"])
    assert result.ret == (0 if kept else pytest.ExitCode.NO_TESTS_COLLECTED)


def test_a_stage_that_is_none(project: pytest.Pytester) -> None:
    result = project.runpytest_subprocess("--only", "dtaa")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*no stage 'dtaa'; did you mean 'data'*"])
    assert not (project.path / "reports").exists()  # said before anything is collected or written


TIER = """
[tiers.smoke]
leave_out = ["S", "vllm", "nobody"]
"""


def test_what_a_tier_leaves_out_is_said_and_kept_by_name(project: pytest.Pytester) -> None:
    project.mkdir("fixtures")
    (project.path / "fixtures/lifecycle.toml").write_text(TIER)
    full = project.runpytest_subprocess("-v")
    assert len(ran(full)) == 4
    smoke = project.runpytest_subprocess("-v", "--tier", "smoke")
    assert ran(smoke) == ["test_of_somebody_else", "test_mine", "test_data"]
    smoke.stdout.fnmatch_lines(["tier smoke leaves out 1 claims: S (1)", "*1 deselected*"])
    asked_for = project.runpytest_subprocess("-v", "--tier", "smoke", "test_claims.py::test_serving")
    assert ran(asked_for) == ["test_serving"]


def test_by_which_name_a_claim_is_left_out() -> None:
    tier = Tier("smoke", leave_out=("Q12.slice", "T10", "gguf-q4_0", "V3.sdk", "E4.health[empty,a,b]"))
    kept = ("Q12.layer[x]", "T1.blanks[tuned]", "T100.kill", "Q1.flips[addresses,gguf-q4_0+x]", "V3.sdks", "E4.health[error,a,b]")
    out = {
        "Q12.slice[a,gguf-q8_0]": "Q12.slice", "T10.kill[torn]": "T10", "T10": "T10", "V3.sdk": "V3.sdk",
        "Q1.flips[addresses,gguf-q4_0]": "gguf-q4_0", "E4.health[empty,a,b]": "E4.health[empty,a,b]",
    }  # fmt: skip
    assert [tier.left_out_by(claim) for claim in kept] == [None] * len(kept)
    assert {claim: tier.left_out_by(claim) for claim in out} == out


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["n0", "n2"])
def test_the_seconds_of_a_stage_are_those_of_its_tests(project: pytest.Pytester, workers) -> None:
    project.makepyfile(test_slow=PROJECT.replace('"S"', '"S2"').replace('"D"', '"D2"').replace('"mine"', '"mine2"').replace(
        "def test_serving(claim):", "def test_serving(claim):\n    import time; time.sleep(0.3)"))  # fmt: skip
    assert project.runpytest_subprocess(*workers).ret == 0
    facts = json.loads(next((project.path / "reports").glob("*/run.json")).read_text())
    assert facts["seconds"]["serve"] >= 0.3 and set(facts["seconds"]) == {"data", "serve"}


def test_where_somebody_looks_each_stage_says_how_long_it_may_be(project: pytest.Pytester) -> None:
    assert "data: 1 tests" not in project.runpytest_subprocess().stdout.str()  # no terminal
    said = on_a_terminal(project)
    assert "data: 1 tests, 0 s the last time, about 0 s to the end" in said
    assert "serve: 1 tests, 0 s the last time\r" in said


def on_a_terminal(project: pytest.Pytester) -> str:
    ours, theirs = os.openpty()
    with subprocess.Popen([sys.executable, "-m", "pytest"], cwd=project.path, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = b""
        with contextlib.suppress(OSError):  # EIO: nobody holds the other end any more
            while chunk := os.read(ours, 65536):
                said += chunk
        os.close(ours)
    assert process.returncode == 0
    return re.sub(r"\x1b\[[0-9;]*[mK]", "", said.decode())
