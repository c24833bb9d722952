"""The page about base and tuned, failures, judges and mutants: health first, numbers of the evidence, nothing missed is hidden."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from harness.bounds import at_least, better_than
from harness.report import markdown, view
from harness.report.failures import failures
from harness.report.html import render
from harness.report.judges import judges, may_judge, of_judges
from harness.report.markup import verdict
from harness.report.mutants import Mutant, mutants, mutants_of, totals
from harness.report.text import DASH
from harness.report.versus import versus
from harness.report.view import ClaimView, RunView
from harness.types import Claim, Measurement, Sample
from suites.selftest.report import middle
from suites.selftest.report.conftest import Folder
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return middle.whole(Folder(tmp_path_factory.mktemp("middle") / "run")).close()


@pytest.fixture(scope="module")
def seen(run: Path) -> RunView:
    return view.load(run)


def words(markup: str) -> str:
    """What a reader sees."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def rows_of(markup: str, name: str) -> list[str]:
    """The rows of the table of this name, as words."""
    table = markup[markup.index(f'aria-label="{name}"') :]
    return [words(row) for row in re.findall(r"<tr>(.*?)</tr>", table[: table.index("</table>")])]


def altered(run: RunView, claim: str, **conditions: Any) -> RunView:
    """The run with the conditions of one claim replaced."""
    claims = tuple(replace(c, measurement={**c.measurement, "conditions": conditions}) if c.id == claim else c for c in run.claims)
    return replace(run, claims=claims)


# --- base against tuned ---------------------------------------------------------------------------


def test_health_stands_before_any_score(seen):
    shown = versus(seen)
    assert shown.index("Health: what came back") < shown.index("Scores and differences")
    rows = rows_of(shown, "Health")
    assert "addresses base 16 (8.0%) 0 0 0 200" in rows
    assert any(row.startswith("addresses tuned ? 4 (2.0%)") for row in rows)  # with the verdict of its claim


def test_health_is_read_off_the_rows_where_no_claim_tells_it(seen):
    """A choice by log-probabilities has no text, and is not empty for it."""
    assert "commonsense tuned 0 0 0 0 200" in rows_of(versus(seen), "Health")
    without = replace(seen, claims=tuple(c for c in seen.claims if c.family != "E4"))
    rows = rows_of(versus(without), "Health")
    assert "addresses base 16 (8.0%) 0 0 0 200" in rows and "addresses tuned 4 (2.0%) 0 0 0 200" in rows


def test_scores_of_both_arms_with_flips_and_noise(seen):
    row = next(r for r in rows_of(versus(seen), "Scores") if r.startswith("E1.gain"))
    assert "20/200" in row and "130/200" in row and "+0.55" in row and "110 / 0" in row and row.endswith("0.015")


def test_the_iteration_is_judged_on_the_half_that_nobody_looked_at(seen):
    rows = rows_of(versus(seen), "Iteration")
    assert rows[1].startswith("mined E9.fixed [addresses, tuned-v2] tuned-v2 against tuned – 31 8 2")
    assert rows[2].startswith("mined, by chance E9.fixed [addresses, tuned-v2] tuned, asked again – 31 3 4")
    assert rows[3].startswith("held out E9.gain [addresses, tuned-v2] tuned-v2 against tuned 200 70 12 0 ✓ +0.06")
    assert "mined failures improve by chance alone" in versus(seen)


def test_wins_are_told_with_ties_and_lengths(seen):
    (row,) = rows_of(versus(seen), "Wins")[1:]
    assert row.endswith("44 16 140 3.25 0.61")


def test_the_noise_floor_and_slices_are_labelled(seen):
    shown = versus(seen)
    assert any("3 of 200" in row and "0.005, 0.01, 0.015" in row for row in rows_of(shown, "Noise floor"))
    assert "Exploratory: to be looked at, not claimed." in shown and "Benjamini-Hochberg" in shown
    assert "<b>po_box" not in shown and "has &lt;b&gt;po_box" in shown


def test_nothing_is_drawn_twice(run):
    page, _ = both(run)
    assert 'id="differences"' not in page  # they all stand in the section on base and tuned
    flips = page[page.index('id="flips"') : page.index('id="controls"')]
    assert "E4.health" not in flips and "E9.gain" in flips


def test_a_comparison_that_was_lost_or_not_decided_is_shown(folder):
    run = folder()
    run.add(Claim("E1.gain[addresses,tuned]", "more", better_than()))
    run.add(Claim("E9.fixed[addresses,tuned-v2]", "fixed", at_least(1), "exact"))
    run.add(Claim("PF3.judged", "wins", at_least(0.5), "proportion"))
    page, summary = both(run.close())
    shown = page[page.index('id="versus"') : page.index('id="claims"')]
    for name in ("E9.fixed", "PF3.judged"):
        assert name in shown
    assert 'aria-label="lost"' in shown and not Page(page).wrong and "E1.gain" in summary


@pytest.mark.parametrize(
    "odd", [None, 3, "x", [], {"x": [1]}, [{"slice": HOSTILE, "n": "9", "b": None, "p_adjusted": "0"}], {"psi_aa": [HOSTILE]}]
)
def test_odd_conditions_break_nothing(seen, odd):
    changed = seen
    for claim in (
        "E1.gain[addresses,tuned]",
        "E9.fixed[addresses,tuned-v2]",
        "R3.noise[addresses]",
        "PF3.wins",
        "E8.listed[addresses,tuned]",
    ):
        changed = altered(
            changed, claim, slices=odd, noise=odd, mined=odd, psi_aa=odd, longer=odd, clusters=odd, types=odd, flaky=odd, ties=odd
        )
    shown = versus(changed) + failures(changed)
    assert not Page(shown).wrong and not UNSEEN.search(shown)


# --- failures -------------------------------------------------------------------------------------


def test_failures_are_counted_by_type_and_shown_side_by_side(seen):
    shown = failures(seen)
    types = rows_of(shown, "Types of failures")[1:]
    assert sum(int(row.split()[1]) for row in types) == 90 and types[0].startswith("segmentation")
    examples = rows_of(shown, "Failures side by side")[1:]
    assert len(examples) >= 20
    assert len({row.split()[1] for row in examples[:3]}) == 3  # types in turn
    assert '<mark class="was">Wien</mark>' in shown and '<mark class="now">Graz</mark>' in shown
    assert any("alpha" in row for row in rows_of(shown, "Claims on failures"))


def test_failures_of_the_held_out_half_are_counted_and_not_shown(seen):
    held = {f["item"] for c in seen.claims for s in c.samples for f in s.detail.get("failures", ()) if not f["mined"]}
    shown = failures(seen)
    assert held and not any(item in shown for item in held)
    assert f"{len(held)} are of the held-out half" in shown


def test_failures_that_were_lost_leave_a_line(folder):
    run = folder()
    run.add(Claim("E8.listed[addresses,tuned]", "listed", at_least(20), "exact"))
    page, _ = both(run.close())
    assert 'id="failures"' in page and not Page(page).wrong


# --- judges ---------------------------------------------------------------------------------------


def test_who_may_judge_and_who_may_not(seen):
    rows = rows_of(judges(seen), "Calibration of judges")
    assert any(r.startswith("bigger-model ✗ no kappa is shown to be above 0.512 only, floor 0.667 202 2 unread") for r in rows)
    assert any(r.startswith("by-rule ✓ yes 202 2 unread 3 shown to it 0.86 ✓ 0.9 [0.8363, 0.9447] ≥ 0.75 90 of 100") for r in rows)
    assert all(r.endswith("0.497 0.503 0.861") for r in rows[1:])


def test_a_judge_whose_calibration_is_not_bound_may_not_judge(seen):
    claims = [replace(c, outcome="fails") if c.family == "J5" else c for c in of_judges(seen)["by-rule"]]
    assert may_judge(claims) == (False, "its calibration is not bound to it: J5.bound[by-rule]")


def test_a_judge_without_a_record_is_not_known():
    assert may_judge([ClaimView("J1.tpr[x]", "lost")]) == (None, "no calibration in this run")


def test_probes_and_people(seen):
    shown = judges(seen)
    assert rows_of(shown, "Probes of judges")[0] == "judge asked again length hidden orders bound to the judge"
    assert any("✓ 0.04" in row for row in rows_of(shown, "Probes of judges"))
    assert any("120 answers to 60 requests" in row and "✗" in row for row in rows_of(shown, "Agreement of people"))


# --- mutants --------------------------------------------------------------------------------------


def test_every_control_stands_once_and_is_counted_by_suite(seen):
    found, shown = mutants_of(seen), mutants(seen)
    assert totals(found) == {"evals": (2, 1, 1, 1), "judge": (4, 4, 0, 0), "train": (3, 3, 0, 0)}
    rows = rows_of(shown, "Planted: every one") + rows_of(shown, "A/A: every one")
    assert sum("caught" in row or "missed" in row or "as it must" in row for row in rows) - 2 == len(found)  # less two heads
    assert rows_of(shown, "Controls by suite")[-1] == "all 9 8 ✗ 1 1 1"
    assert "9 of 10 controls came out as they must." in shown


def test_what_was_missed_comes_first_and_lies_open(seen):
    shown = mutants(seen)
    first = rows_of(shown, "Planted: every one")[2]
    assert first.startswith("E1.gain") and "a fault that nobody sees planted in the scores" in first and "✗ missed" in first
    (*_, alone) = rows_of(shown, "Planted: every one, what came out otherwise")
    assert alone == first and "A/A: every one, what" not in shown
    assert "<details><summary>Planted: every one" in shown and "<details><summary>A/A: every one" in shown


@pytest.mark.parametrize(
    ("name", "planted", "what"),
    [
        ("planted in the model: block 12 drowned in noise", True, ("model", "block 12 drowned in noise")),
        ("planted: one byte of the file changed", True, ("", "one byte of the file changed")),
        ("A/A with noise of mean zero", False, ("", "A/A with noise of mean zero")),
        ("vacuous: without the guard", True, ("", "vacuous: without the guard")),
        ("", True, ("", "")),
    ],
)
def test_controls_are_told_apart_by_their_names(name, planted, what):
    found = Mutant(ClaimView("E1.x", "holds"), {"name": name, "met": 1})
    assert (found.planted, found.what) == (planted, what)
    assert not found.met and found.suite == "E1"  # met by True alone; no test is known


def test_a_run_without_controls_says_so(folder):
    run = folder()
    rows = tuple(Sample(f"i-{i}", 1.0) for i in range(30))
    run.add(Claim("E1.x", "t", at_least(0.5), "proportion"), Measurement("m", rows))
    page, summary = both(run.close())
    assert "0 of 0 controls came out as they must." in page and "Without a control: " in words(page) and "## Mutants" not in summary


def test_a_verdict_is_harmless_and_never_blank():
    lost = ClaimView("E1.x", "not_evaluated")
    assert words(verdict(lost, DASH)) == "– not evaluated"
    shown = verdict(lost, HOSTILE, HOSTILE)
    assert "script" not in Page(shown).tags and not UNSEEN.search(shown)


# --- the page -------------------------------------------------------------------------------------


def test_the_page_is_whole_and_the_same_each_time(run):
    page, summary = both(run)
    seen = Page(page)
    assert not seen.wrong and seen.tags.isdisjoint({"script", "img", "link", "iframe"}) and len(seen.ids) == len(set(seen.ids))
    assert {link[1:] for link in seen.links if link.startswith("#")} <= set(seen.ids)
    assert all(image.get("role") == "img" and image.get("aria-label") for image in seen.images)
    order = [page.index(f'id="{key}"') for key in ("training", "versus", "failures", "judges", "claims", "controls")]
    assert order == sorted(order)
    assert page == render(view.load(run)) and summary == markdown.render(view.load(run))
    for title in ("Training", "Base against tuned", "Judges", "Mutants"):
        assert f"## {title}\n" in summary


def test_hostile_text_is_spelled_out(folder):
    run = folder()
    hostile = [
        middle.failure(i, HOSTILE, input=HOSTILE, target=HOSTILE, text=HOSTILE[::-1], second="x", fields=[HOSTILE]) for i in range(30)
    ]
    middle.add_failures(run, hostile)
    middle.add_judge(run, "<b>x</b>", fit=False, why=HOSTILE)
    old, new = middle.answers(20, text=HOSTILE), middle.answers(90, start=50, text=f"{HOSTILE} x")
    measured = middle.compared(new, old, (replace(middle.TUNED, name=HOSTILE), replace(middle.BASE, name=f"old {HOSTILE}")))
    control = middle.fault(f"planted in the {HOSTILE[:9]}: {HOSTILE}"[:190], measured, "fails")
    run.add(Claim("E1.gain[<b>,tuned]", HOSTILE.strip(), better_than()), measured, controls=[control], test=f"suites/{HOSTILE}/x.py")
    page, summary = both(run.close())
    seen = Page(page)
    assert not seen.wrong and "script" not in seen.tags and "b" not in seen.tags and "img" not in seen.tags
    assert not UNSEEN.search(page) and not UNSEEN.search(summary) and "<script" not in summary
    assert all(link.startswith(("#", "./")) for link in seen.links)
