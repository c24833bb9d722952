"""``python -m harness init``: what it writes runs at once, nothing of anybody's is overwritten, and a second time changes nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness import config
from harness.__main__ import main
from harness.recheck import recheck
from harness.serve import stub
from suites.selftest.serve.test_validity import Made

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[3]


def init(*args: object) -> int:
    return main(["init", *map(str, args)])


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def claims(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """pytest as a user starts it, in the folder that was written."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:benchmark", "claims", "--run-dir", "reports/run", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={**os.environ, "HARNESS_STORE": f"{folder}/store"})


def outcomes(folder: Path) -> dict[str, str]:
    found = [json.loads(path.read_text()) for path in (folder / "reports" / "run" / "evidence").glob("*.json")]
    return {record["claim"]["id"]: record["verdict"]["outcome"] for record in found}


@pytest.fixture
def items(tmp_path):
    """Sixty questions with two answers, as somebody has them in a table."""
    path = tmp_path / "Our FAQ.csv"
    rows = [f'"What is {n} and one, more or less?",{n + 1},"a note, with commas"\n' for n in range(60)]
    path.write_text("question,answer,note\n" + "".join(rows))
    return path


def test_an_empty_folder_becomes_a_project_that_runs(tmp_path, capsys):
    folder = tmp_path / "new" / "my project"
    assert init(folder) == 0
    said = capsys.readouterr().out
    assert "NO MODEL" in said and "python -m pytest claims" in said and "54 of 60" in said
    done = claims(folder)
    assert done.returncode == 0, done.stdout
    assert outcomes(folder) == {"tickets.accuracy": "holds", "tickets.not_worse": "holds"}
    assert recheck(folder / "reports" / "run").problems == ()


def test_its_first_claim_fails_where_the_model_does(tmp_path):
    """The gate that was written is one: with half of the answers gone it does not hold."""
    assert init(tmp_path) == 0
    path = tmp_path / "claims" / "mine.json"
    answers = json.loads(path.read_text())
    path.write_text(json.dumps({item: text if n % 2 else "?" for n, (item, text) in enumerate(answers.items())}))
    assert claims(tmp_path).returncode == 1
    assert outcomes(tmp_path) == {"tickets.accuracy": "fails", "tickets.not_worse": "fails"}


def test_twice_changes_nothing(tmp_path, capsys):
    assert init(tmp_path, "--ci", "github", "--ci", "gitlab") == 0
    before = tree(tmp_path)
    capsys.readouterr()
    assert init(tmp_path, "--ci", "github", "--ci", "gitlab", "--name", tmp_path.name) == 0
    assert tree(tmp_path) == before and "stands there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["lifecycle.toml", "claims/test_mine.py", "golden/sets/tickets.jsonl", ".github/workflows/claims.yml"])
def test_nothing_is_overwritten(tmp_path, name, capsys):
    theirs = tmp_path / name
    theirs.parent.mkdir(parents=True, exist_ok=True)
    theirs.write_text("theirs\n")
    assert init(tmp_path, "--ci", "github", "--name", "x") == 1
    said = capsys.readouterr().err
    assert name in said and ("nothing was written" in said or "nothing was changed" in said)
    assert tree(tmp_path) == {name: b"theirs\n"}


def test_a_link_that_leads_nowhere_is_not_written_through(tmp_path, capsys):
    (tmp_path / "lifecycle.toml").symlink_to(tmp_path / "elsewhere.toml")
    assert init(tmp_path) == 1
    assert "lifecycle.toml" in capsys.readouterr().err and not (tmp_path / "elsewhere.toml").exists()


def test_own_model_own_items(tmp_path, items, capsys, monkeypatch):
    """A table with columns of other names; a model named from where the command was given, seen from where the project lies."""
    monkeypatch.chdir(tmp_path)
    answers = {"model": "fake"}
    (tmp_path / "answers.json").write_text(json.dumps(answers))
    assert init("eval", "--model", "fake:answers.json", "--golden", items, "--name", "faq bot") == 0
    settings = config.load(tmp_path / "eval" / "lifecycle.toml")
    assert settings.name == "faq bot"
    assert settings.subjects["mine"].location == str(tmp_path / "answers.json")
    manifest = tomllib.loads((tmp_path / "eval" / "golden" / "manifest.toml").read_text())
    assert manifest["our-faq"]["n"] == 60 and manifest["our-faq"]["kind"] == "answers"
    assert not (tmp_path / "eval" / "claims" / "test_not_worse.py").exists()
    done = claims(tmp_path / "eval", "--tier", "smoke")
    assert done.returncode == 1 and outcomes(tmp_path / "eval") == {"our-faq.accuracy": "error"}  # a table that answers nothing
    assert "none of 60 requests was answered, so nothing was measured" in done.stdout


def test_a_run_started_elsewhere_finds_the_same_model(tmp_path):
    assert init(tmp_path) == 0
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        "test_mine.py",
        "--run-dir",
        tmp_path / "run",
    ]
    done = subprocess.run(command, cwd=tmp_path / "claims", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_what_cannot_be_compared_is_said_before_anything_is_written(tmp_path, capsys):
    few = tmp_path / "few.jsonl"
    few.write_text("".join(f'{{"prompt": "q{n}", "target": "a"}}\n' for n in range(5)))
    before = tree(tmp_path)
    assert init(tmp_path / "p", "--golden", few, "--model", "fake:x.json", "--against", "fake:y.json") == 1
    assert "too few" in capsys.readouterr().err and tree(tmp_path) == before


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--model", "gguff:x.gguf"], "did you mean 'gguf'"),
        (["--model", "x.gguf"], "expected name=scheme:location"),
        (["--golden", "nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_wrong_words_are_refused_by_name(tmp_path, args, said, capsys):
    assert init(tmp_path / "p", *args) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "p").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[tool.pytest.ini_options]\naddopts = '-q'\n"),
        ("tox.ini", "[pytest]\naddopts = -q\n"),
        ("setup.cfg", "[tool:pytest]\naddopts = -q\n"),
        ("pytest.ini", "[pytest]\naddopts = -q\n"),
    ],
)
def test_a_project_that_configures_pytest_keeps_its_own(tmp_path, name, text, capsys):
    (tmp_path / name).write_text(text)
    assert init(tmp_path) == 0
    assert (tmp_path / name).read_text() == text
    assert (tmp_path / "pytest.ini").exists() == (name == "pytest.ini")
    assert name in capsys.readouterr().out
    assert claims(tmp_path).returncode == 0


def test_tests_that_are_there_still_run_by_plain_pytest(tmp_path):
    (tmp_path / "tests").mkdir()
    assert init(tmp_path) == 0
    assert "testpaths" not in (tmp_path / "pytest.ini").read_text()


def test_gitignore_keeps_its_lines(tmp_path):
    (tmp_path / ".gitignore").write_bytes(b"*.pyc\n\xff\nreports/")
    assert init(tmp_path) == 0
    assert (tmp_path / ".gitignore").read_bytes() == b"*.pyc\n\xff\nreports/\n.harness/\n"


def test_a_pipeline_may_come_later(tmp_path, capsys):
    """To a project whose files were changed since."""
    assert init(tmp_path) == 0
    (tmp_path / "lifecycle.toml").write_text((tmp_path / "lifecycle.toml").read_text() + "# mine\n")
    (tmp_path / ".gitlab-ci.yml").write_text("stages: [test]\n")
    assert init(tmp_path, "--ci", "gitlab") == 0
    assert (tmp_path / ".gitlab-ci.yml").read_text() == "stages: [test]\n"
    assert "include:\n  - local: .gitlab/claims.yml" in capsys.readouterr().out


def test_a_pipeline_below_the_top_folder_is_told_to_move(tmp_path, capsys):
    (tmp_path / ".git").mkdir()
    assert init(tmp_path / "eval", "--ci", "github") == 0
    assert "no repository's top folder" in capsys.readouterr().out
    assert init(tmp_path, "--ci", "github") == 0
    assert "no repository's top folder" not in capsys.readouterr().out


def test_a_second_lifecycle_file_is_not_put_before_the_first(tmp_path, capsys):
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "lifecycle.toml").write_text("")
    assert init(tmp_path) == 1
    assert "would hide it" in capsys.readouterr().err and not (tmp_path / "lifecycle.toml").exists()


def test_a_folder_that_cannot_be_written_says_so(tmp_path, capsys):
    """A file stands where a folder would have to be."""
    (tmp_path / "claims").write_text("")
    assert init(tmp_path) == 1
    assert "claims" in capsys.readouterr().err


def test_a_name_that_breaks_toml_does_not(tmp_path):
    assert init(tmp_path, "--name", 'a "b" \\ c\x7f') == 0
    assert config.load(tmp_path / "lifecycle.toml").name == 'a "b" \\ c\x7f'


# --- a promise of latency ---------------------------------------------------------------------

RECORDED = """
from pathlib import Path
from harness.lifecycle.serving import Kept, Serving
from harness.records import Load

kept = Kept(Load.from_bytes(Path("requests.bin").read_bytes()), {}, (), (), {})
Serving.promised = lambda self, name, *, rerun=0: kept
"""


@pytest.mark.parametrize(("slow", "status", "outcome"), [(False, 0, "holds"), (True, 1, "fails")])
def test_a_promised_latency_is_a_claim(tmp_path, slow, status, outcome):
    """The claim that is written, on a load that was written by hand: 400 requests, or with one in seven over the limit."""
    change = {i: {"first": 300_001} for i in range(60, 400, 7)} if slow else {}
    assert init(tmp_path, "--model", "http://127.0.0.1:9/v1#mine", "--slo", "ttft_p95=300ms", "--rate", "20") == 0
    (tmp_path / "requests.bin").write_bytes(Made(change=change).load().to_bytes())
    (tmp_path / "conftest.py").write_text(RECORDED)
    done = claims(tmp_path, "-k", "in_time")
    assert done.returncode == status, done.stdout
    assert outcomes(tmp_path) == {"L1.ttft_p95[mine]": outcome}


def test_a_server_without_its_checkpoint_is_not_judged_and_says_what_is_missing(tmp_path, capsys):
    with stub.start({}) as running:
        url = f"{running.target.base_url}/v1#{running.target.model}"
        assert init(tmp_path, "--model", url, "--slo", "ttft_p50=150ms") == 0
        assert "--checkpoint hf:FOLDER" in capsys.readouterr().out
        done = claims(tmp_path, "-k", "in_time")
    assert done.returncode == 8 and "nobody knows what" in done.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--slo", "ttft_p95=2s"], "cannot be served"),
        (["--model", "hf:m", "--slo", "ttft_p95=2"], "with its unit"),
        (["--model", "hf:m", "--slo", "tttf_p95=2s"], "ttft"),
        (["--model", "hf:m", "--slo", "ttft_p95=2s", "--rate", "nan"], "above 0"),
        (["--model", "hf:m", "--slo", "ttft_p95=2s", "--rate", "0"], "above 0"),
        (["--model", "hf:m", "--rate", "2"], "none is; add --slo"),
    ],
)
def test_a_promise_that_cannot_be_kept_is_refused(tmp_path, args, said, capsys):
    assert init(tmp_path / "p", *args) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "p").exists()
