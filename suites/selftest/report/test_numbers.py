"""R4: each number of a page resolves to a file of its run, and one that was edited does not."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from harness import evidence, report
from harness.__main__ import main
from harness.errors import EvidenceError
from harness.report.artifacts import Pool, shows
from harness.report.numbers import number_map
from harness.report.visible import NAME, NUMBER, pieces

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def made(tmp_path_factory, make_engines) -> Path:
    """A run with builds in two engines, rendered once."""
    run = make_engines(tmp_path_factory.mktemp("numbers") / "run")
    report.write(run)
    return run


@pytest.fixture
def run(made, tmp_path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(made, tmp_path / "run"))


# --- what a number is ---------------------------------------------------------------------------


def test_numbers_are_told_from_names():
    text = "n = 1,183, p = 1.81e-50, [-0.0482, +3] of 40; 12.5% q4_0 2026-11-22T03:29:41 v0.3.36 sha 51ef77a0 401."
    assert [m.group() for m in NUMBER.finditer(text)] == ["1,183", "1.81e-50", "-0.0482", "+3", "40", "12.5", "401"]
    names = {m.group() for m in NAME.finditer(text)}
    assert {"q4_0", "2026-11-22T03:29:41", "v0.3.36", "51ef77a0"} <= names


def test_a_page_is_read_with_its_places():
    page = (
        '<html><body><section aria-labelledby="x"><h2 id="x">X</h2><table><thead><tr><th>claim</th><th>n</th></tr></thead><tbody>'
        '<tr><th><a href="#c-1"><bdi>Q1</bdi></a></th><td>40 of <bdi>7</bdi></td></tr></tbody></table></section></body></html>'
    )
    (cell,) = [p for p in pieces(page) if "40" in p.text]
    assert (cell.section, cell.row, cell.column, cell.scopes[0]) == ("x", "Q1", "n", ("c-1",))
    (inner,) = [p for p in pieces(page) if p.text == "7"]
    assert inner.kind == "said"


@pytest.mark.parametrize(
    ("value", "text"), [(0.44628, "0.4463"), (12345.0, "12,345"), (-0.05, "-0.05"), (1.8123e-50, "1.812e-50"), (3.0, "3"), (0.1, "+0.1")]
)
def test_a_value_is_found_by_how_it_is_shown(value, text):
    assert shows(value, text)
    assert Pool([(value, "here"), (99.0, "elsewhere")]).find(text) == "here"
    assert Pool([(value * 1.01 + 1, "elsewhere")]).find(text) is None


def test_a_value_is_found_in_its_unit():
    assert Pool([(143_012_345.0, "size")]).find("143.0", 1e6) == "size"


# --- a whole run --------------------------------------------------------------------------------


def test_every_number_of_a_run_resolves(made):
    found = number_map(made)
    assert found.problems == []
    assert len(found.entries) > 1_000
    assert {"field", "derived", "text", "words", "scale"} <= set(found.counts)
    files = {e.source.partition("#")[0].partition(":")[0] for e in found.entries if e.how == "field"}
    assert all((made / name).is_file() for name in files)


def test_the_map_names_file_and_field(made):
    record = next(r for p in (made / "evidence").glob("Q2.kld*.json") if (r := evidence.read_json(p)))
    entries = number_map(made).entries
    (shown, *_) = [e for e in entries if record["claim"]["id"] in e.where and e.where.endswith("> estimate")]
    assert shown.source.endswith("#/verdict/estimate")
    assert float(shown.shown) == pytest.approx(record["verdict"]["estimate"], rel=1e-3)


def _edited(page: str, pattern: str) -> str:
    """The page with the last digit of the number that ``pattern`` captures made another."""
    m = re.search(pattern, page)
    assert m is not None
    at = m.end(1) - 1
    return page[:at] + str((int(page[at]) + 5) % 10) + page[at + 1 :]


@pytest.mark.parametrize(
    ("name", "pattern", "where"),
    [
        ("report.html", r'<td class="num">(-?0\.\d{3,4})<span class="sub">\[', "estimate"),
        ("report.html", r"<dt>estimate</dt><dd><code><bdi>(-?0\.\d+)", "evidence"),
        ("report.html", r'aria-label="[^"]*: (?:holds|fails), (0\.\d{3,4})', ""),
        ("report.html", r'<text class="tick"[^>]*>(\d+\.\d)</text>', ""),
        ("summary.md", r"\| (-?0\.\d{3,4}) \[", ""),
    ],
)
def test_an_edited_number_is_found(run, name, pattern, where):
    page = (run / name).read_text("utf-8")
    (run / name).write_text(_edited(page, pattern), "utf-8")
    found = number_map(run)
    assert any(e.page == name and where in e.where for e in found.unmatched)
    assert any(f"{name}: not what the evidence shows" in line for line in found.problems)


def test_an_edit_without_a_number_is_found_too(run):
    page = (run / "report.html").read_text("utf-8")
    (run / "report.html").write_text(page.replace("✗ fails", "✓ holds", 1), "utf-8")
    found = number_map(run)
    assert found.unmatched == ()
    assert len(found.problems) == 1
    assert "report.html: not what the evidence shows" in found.problems[0]


def test_evidence_that_changed_under_a_page_is_found(run):
    path = next((run / "evidence").glob("Q2.kld*.json"))
    record = evidence.read_json(path)
    record["verdict"]["estimate"] += 0.123
    evidence.write_atomic(path, evidence.canonical(record))
    assert any(e.where.endswith("> estimate") for e in number_map(run).unmatched)


# --- the verb -----------------------------------------------------------------------------------


def test_the_verb_writes_the_map_and_leaves_the_run_alone(run, tmp_path, capsys):
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}
    assert main(["report", str(run), "--numbers", str(tmp_path / "map.json")]) == 0
    told = json.loads((tmp_path / "map.json").read_text())
    assert told["unmatched"] == 0
    assert told["numbers"] == len(told["map"]) > 1_000
    assert "0 resolve to nothing" in capsys.readouterr().out
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file()} == before


def test_the_verb_ends_with_1_on_an_edited_page(run, tmp_path, capsys):
    page = (run / "report.html").read_text("utf-8")
    (run / "report.html").write_text(page.replace("<body>", "<body><p>accuracy 0.98765</p>"), "utf-8")
    assert main(["report", str(run), "--numbers", str(tmp_path / "map.json")]) == 1
    assert "'0.98765' resolves to nothing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["report.html", "summary.md"])
def test_a_missing_page_is_named(run, name):
    (run / name).unlink()
    with pytest.raises(EvidenceError, match=f"{name}: cannot be read"):
        number_map(run)


def test_a_damaged_evidence_file_is_named(run):
    path = next((run / "evidence").glob("*.json"))
    path.write_text("{", "utf-8")
    with pytest.raises(EvidenceError, match=path.name.split(".")[0]):
        number_map(run)
