"""The pages are rendered again: one that was edited is named, whatever seal lies over it."""

from __future__ import annotations

import pytest

from harness import report
from harness.__main__ import main
from suites.selftest.test_bundle import make, reseal

pytestmark = pytest.mark.selftest


@pytest.fixture
def run(tmp_path):
    made = make(tmp_path / "run")
    report.write(made)
    reseal(made)
    return made


def test_untouched_pages_are_rendered_to_the_byte(run, capsys):
    assert report.differing(run) == []
    assert main(["recheck", str(run)]) == 0
    assert "identical; 2 verdicts" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["report.html", "summary.md"])
def test_an_edited_number_is_named_where_it_stands(run, name, capsys):
    page = run / name
    text = page.read_bytes()
    at = text.index(b"0.95")
    page.write_bytes(text[:at] + b"0.99" + text[at + 4 :])
    reseal(run)
    assert main(["recheck", str(run)]) == 1
    out = capsys.readouterr().out
    assert f"{name}: not what the evidence shows; byte {at + 3} on it says '9" in out and "rendered again '5" in out
    assert "1 problem;" in out


@pytest.mark.parametrize("change", [lambda text: text[:-1], lambda text: text + b"x", lambda text: b""], ids=["shorter", "longer", "empty"])
def test_a_page_that_was_cut_or_grew_is_named(run, change):
    page = run / "report.html"
    page.write_bytes(change(page.read_bytes()))
    assert ["report.html" in problem for problem in report.differing(run)] == [True]


def test_pages_of_evidence_that_cannot_be_read_are_a_problem_and_no_traceback(run, capsys):
    (run / "evidence" / "b.ni.json").write_text('{"claim": {}}')
    reseal(run)
    assert main(["recheck", str(run)]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_run_without_pages_has_none_to_check(tmp_path):
    run = make(tmp_path / "run")
    assert report.differing(run) == [] and main(["recheck", str(run)]) == 0


def test_rendering_anew_mends_pages_of_another_version(run):
    (run / "summary.md").write_text("of another version\n")
    reseal(run)
    assert main(["recheck", str(run)]) == 1
    assert main(["report", str(run)]) == 0
    assert main(["recheck", str(run)]) == 0
