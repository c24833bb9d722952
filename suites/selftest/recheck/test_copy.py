"""The one file: it decides as the package does, holds all it needs, and nothing that the repository does not."""

from __future__ import annotations

import ast
import builtins
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.__main__ import main
from harness.errors import EvidenceError
from harness.recheck import copy, loader
from suites.selftest.test_bundle import edit, make, reseal

pytestmark = pytest.mark.selftest

ROOT = Path(harness.__file__).parent


@pytest.fixture(scope="module")
def copied():
    return copy.copy()


@pytest.fixture
def alone(copied, tmp_path):
    """Runs the file as a stranger would: in an empty folder, with the standard library and no site packages."""
    there = tmp_path / "empty"
    there.mkdir()
    file = tmp_path / "recheck.py"
    file.write_text(copied.text)

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-I", "-S", file, *arguments], cwd=there, capture_output=True, text=True, env={})

    return run


def sections(text: str) -> dict[str, str]:
    parts = loader.SECTION.split(text)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_it_says_of_the_example_what_the_package_says(alone, capsys):
    example = ROOT.parent / "reports" / "example"
    done = alone(example)
    verdict, pages, end = done.stdout.split("\n")
    assert (done.returncode, done.stderr, end) == (0, "", "")
    assert re.fullmatch(rf"{example}: identical; \d{{3}} verdicts derived again \(.*\); seal [0-9a-f]{{64}}", verdict)
    assert "report.html and summary.md were held to the seal, not rendered again" in pages


@pytest.mark.parametrize(
    "change",
    [
        lambda r: None,
        lambda r: r["verdict"].update(estimate=0.01),
        lambda r: r["verdict"].update(outcome="fails"),
        lambda r: r["claim"]["bound"].update(limit=0.10),
        lambda r: r["measurement"]["samples"].update(file="../../etc/hostname"),
        lambda r: r.update(measurement=None),
    ],
    ids=["nothing", "estimate", "outcome", "margin", "elsewhere", "unmeasured"],
)
def test_it_names_what_the_package_names(alone, tmp_path, capsys, change):
    run = make(tmp_path / "run")
    edit(run / "evidence" / "b.ni.json", change)
    reseal(run)
    status = main(["recheck", str(run)])
    done = alone(run)
    assert done.stdout.partition("pages:")[0] == capsys.readouterr().out
    assert (done.returncode, done.stderr) == (status, "")


def test_a_seal_that_was_told_is_asked_for(alone, tmp_path):
    run = make(tmp_path / "run")
    seal = json.loads((run / "bundle.json").read_text())["seal"]
    assert alone(run, "--seal", seal).returncode == 0
    done = alone(run, "--seal", "0" * 64)
    assert done.returncode == 1 and f"sealed as {seal}, expected {'0' * 64}" in done.stdout


def test_bad_input_is_one_line(alone, tmp_path):
    done = alone(tmp_path / "nowhere")
    assert done.returncode == 1 and "no bundle.json here" in done.stdout and not done.stderr
    assert alone().returncode == 2


def test_every_section_is_text_of_its_source(copied):
    """Line by line and in order: only imports are written anew."""
    for name, section in sections(copied.text).items():
        below = ROOT.joinpath(*name.split(".")[1:])
        source = (below / "__init__.py" if below.is_dir() else below.with_suffix(".py")).read_text().splitlines()
        rest = iter(source)
        foreign = [line for line in section.strip().splitlines() if not re.match(r"(from|import) ", line) and line not in rest]
        assert foreign == [], name


def test_nothing_that_is_called_was_left_out(copied):
    """Every name that a section reads is made or imported in it: what a run does not reach would else be missed."""
    for name, section in sections(copied.text).items():
        nodes = list(ast.walk(without_annotations(ast.parse(section))))
        made = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
        made |= {node.arg for node in nodes if isinstance(node, ast.arg)}
        made |= {str(node.name) for node in nodes if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler))}
        imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
        made |= {alias.asname or alias.name.partition(".")[0] for node in imports for alias in node.names}
        read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        assert read - made - set(dir(builtins)) == set(), name


def without_annotations(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant("")
    return tree


def test_a_stranger_can_read_it_in_one_sitting(copied):
    assert len(copied.text.splitlines()) < 5000
    assert copied.modules[0] == "harness.errors" and copied.modules[-1] == "harness.recheck"
    kept = "\n".join(sections(copied.text).values())
    assert "def write_evidence" not in kept and "def ni_power(" not in kept, "what nothing here calls is left out"
    assert "def judge(" in kept and "def clopper_pearson(" in kept


def test_it_is_the_same_file_every_time(copied):
    assert copy.copy() == copied


def test_the_verb_writes_it_once(tmp_path, capsys):
    file = tmp_path / "recheck.py"
    assert main(["recheck", "--copy", str(file)]) == 0
    assert re.search(r"\d{4} lines, \d\d modules; run it: python3 -I", capsys.readouterr().out)
    assert main(["recheck", "--copy", str(file)]) == 1
    assert "name a new file" in capsys.readouterr().err
    assert main(["recheck", "reports/example", "--copy", str(tmp_path / "b.py")]) == 1
    assert "checks nothing" in capsys.readouterr().err and not (tmp_path / "b.py").exists()


def test_a_name_that_is_in_no_module_stops_it(monkeypatch):
    monkeypatch.setattr(copy, "_ROOTS", (("harness.recheck", "recheck"), ("harness.recheck", "gone")))
    with pytest.raises(EvidenceError, match="no 'gone' in it"):
        copy.copy()
