"""The first screen, the rubric and the risk notes: what is missing or failing is said before anything else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness import evidence, report
from harness.bounds import at_least, identical
from harness.config import load
from harness.errors import ConfigError
from harness.judge import not_evaluated
from harness.report import view
from harness.report.glance import changed
from harness.report.risks import UNSAID, gravest, risks_of
from harness.report.rubric import MUSTS, shown
from harness.types import Claim, Measurement, Sample
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both

pytestmark = pytest.mark.selftest


def _exact(name: str, text: str = "as expected") -> Claim:
    return Claim(name, text, identical())


def _rows(*values: float) -> Measurement:
    return Measurement("m", tuple(Sample(f"row {i}", x) for i, x in enumerate(values)))


@pytest.fixture
def run(folder) -> Path:
    """One claim that holds, two that fail (one foreseen), one undecided, one not evaluated, one lost."""
    made = folder()
    made.add(_exact("D3.context[a]"), _rows(1.0))
    made.add(_exact("V1.schema[s]"), _rows(0.0), risk="clients of one vendor stop working")
    made.add(_exact("V1.errors[s]"), _rows(0.0), expect="fails", why="known since May")
    made.add(Claim("D5.blocked[a]", "rows are blocked", at_least(5), "exact"), _rows(3.0))
    made.add(
        Claim("E1.gain[a]", "a gain", at_least(0.9), "proportion", min_n=5),
        Measurement("m", tuple(Sample(str(i), i % 2) for i in range(8))),
    )
    claim = _exact("L3.ceiling[s]")
    made.add(claim, verdict=not_evaluated(claim, "vllm", "no vLLM here"))
    made.add(_exact("Q5.memory[b]"))
    return made.close()


# --- risks --------------------------------------------------------------------------------------


def test_each_claim_that_does_not_hold_is_a_risk_the_gravest_first(run):
    found = risks_of(view.load(run))
    named = [(r.claim.id, r.claim.outcome) for r in found]
    assert {name for name, _ in named} == {"V1.schema[s]", "V1.errors[s]", "D5.blocked[a]", "E1.gain[a]", "L3.ceiling[s]", "Q5.memory[b]"}
    order = [outcome for _, outcome in named]
    assert order == sorted(order, key=("error", "lost", "fails", "inconclusive", "not_evaluated").index)
    assert [name for name, outcome in named if outcome == "fails"][-1] == "V1.errors[s]"  # it was foreseen


def test_what_nobody_explained_is_said_so(run):
    words = {r.claim.id: r.said for r in risks_of(view.load(run))}
    assert words["V1.schema[s]"] == "clients of one vendor stop working"
    assert words["V1.errors[s]"] == "known since May"
    assert words["D5.blocked[a]"] == UNSAID
    text, summary = both(run)
    section = re.search(r'aria-labelledby="risks".*?</section>', text, re.DOTALL)
    assert section is not None
    assert section.group().count(UNSAID) == 4
    assert "Gravest risks: ∅ lost Q5.memory" in summary


def test_of_one_family_the_gravest_alone_stands_at_the_top(run):
    found = gravest(risks_of(view.load(run)), 3)
    assert len({r.claim.family for r in found}) == len(found) == 3


def test_a_risk_is_read_from_the_lifecycle_file_for_a_claim_or_its_test(tmp_path):
    path = tmp_path / "lifecycle.toml"
    path.write_text(
        '[claims."Q1.a"]\nrisk = "of the test"\n[claims."Q1.a[x]"]\nexpect = "fails"\nwhy = "known"\n[claims."Q1.a[y]"]\nrisk = "own"\n'
    )
    settings = load(path)
    assert [settings.risk(name) for name in ("Q1.a[x]", "Q1.a[y]", "Q1.a[z]", "Q2")] == ["of the test", "own", "of the test", ""]
    path.write_text('[claims."Q1.a"]\nrisk = 3\n')
    with pytest.raises(ConfigError, match="risk = 3, expected str"):
        load(path)


# --- rubric -------------------------------------------------------------------------------------


def test_a_must_have_is_evidenced_short_absent_or_not_evidenced(run):
    states = {one.must.what: (one.state, one.count) for one in shown(view.load(run))}
    assert len(states) == len(MUSTS)
    assert states["audit of lengths"] == ("evidenced", 1)
    assert states["blocked rows, shown"] == ("not shown", 3)
    assert states["pairs of base and tuned on the same items"] == ("not shown", 8)
    assert states["an HTTP API that conforms"] == ("not shown", 2)
    assert states["the ceiling of concurrency"] == ("not evaluated", 0)
    assert states["memory gained"] == ("not evaluated", 0)  # lost
    assert states["audit of duplicates"] == ("NOT EVIDENCED", 0)


def test_what_is_not_evidenced_is_said_in_plain_sight(run):
    text, summary = both(run)
    assert f"1 of {len(MUSTS)} evidenced" in summary
    assert text.count("NOT EVIDENCED") > 20
    assert f"1 of {len(MUSTS)} <a" in text


def test_a_project_of_other_claims_is_not_asked_for_a_course(folder):
    made = folder()
    made.add(_exact("tickets.answered"), _rows(1.0))
    text, summary = both(made.close())
    assert "ust-have" not in text + summary
    assert 'id="rubric"' not in text


# --- what changed -------------------------------------------------------------------------------


def test_without_a_baseline_nothing_is_said_of_change(run):
    text, summary = both(run)
    assert "No approved baseline" in text
    assert "no approved baseline" in summary


def test_what_changed_is_told_worse_first(run):
    one = {"outcome": "holds", "estimate": 1.0, "low": None, "high": None, "n": 1}
    listed = [
        {"claim": "D3.context[a]", "what": "better", "old": {**one, "outcome": "fails"}, "new": one},
        {"claim": HOSTILE, "what": "worse", "old": one, "new": {**one, "outcome": "fails"}},
    ]
    told = {"baseline": {"claims": 3}, "changed": listed, "new": ["x"], "gone": [], "same": 7, "identical": 7, "not_run": 0}
    evidence.write_atomic(run / "changes.json", evidence.canonical(told))
    assert [how for _, how in changed(view.load(run))] == ["worse: holds → fails", "better: fails → holds"]
    text, summary = both(run)
    assert "7 as they were, 2 changed, 1 new." in text
    assert "7 as they were" in summary
    assert Page(text).wrong == []
    assert not UNSEEN.search(text)
    assert "<script" not in text


@pytest.mark.parametrize("damage", ["[]", "{", '{"changed": 3}', '{"changed": [{"claim": 1, "old": null}], "same": "x"}'])
def test_damaged_changes_end_no_rendering(run, damage):
    (run / "changes.json").write_text(damage)
    assert Page(both(run)[0]).wrong == []


def test_a_run_without_claims_has_no_first_screen(folder):
    run = folder().close()
    report.write(run)
    text = (run / "report.html").read_text("utf-8")
    assert 'class="cards glance"' not in text
    assert 'id="rubric"' not in text
