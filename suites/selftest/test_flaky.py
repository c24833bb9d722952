"""Flaky by evidence: seen verdicts, estimates too far apart, exact numbers that move; and steady ones that stay quiet. And the page."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest

from harness.__main__ import main
from harness.history import flaky, page, trends
from harness.history.reading import Said, Seen
from suites.selftest.test_history import CLAIMS, make

pytestmark = pytest.mark.selftest


def said(claim="c", estimate=0.5, half=0.05, outcome="holds", kind="proportion", **more):
    low, high = (None, None) if half is None or estimate is None else (estimate - half, estimate + half)
    facts = {"metric": "m", "reason": "", "n": 100, "bound": "at_least(0.4)", "asked": "a", "subjects": "s", "sets": "", "level": 0.9}
    return Said(claim=claim, kind=kind, outcome=outcome, estimate=estimate, low=low, high=high, **{**facts, **more})


def runs(*each, **more):
    """A run for each list of what it said."""
    return [
        Seen(Path(f"r{i:02d}"), finished=f"2026-01-01T00:00:{i:02d}+00:00", seal=str(i), said=tuple(s), **more) for i, s in enumerate(each)
    ]


def test_different_verdicts_are_seen_with_their_rate():
    (one,), asked = flaky.flaky(runs(*[[said(outcome="fails" if i == 3 else "holds")] for i in range(8)]))
    assert (one.how, one.rate, asked) == ("verdicts", 1 / 8, 1)
    assert (round(one.low, 4), round(one.high, 4)) == (0.0032, 0.5265)  # Clopper-Pearson of 1 in 8, from the tables
    assert "1 fails, 7 holds" in one.why
    assert "another verdict in 0.125" in "\n".join(flaky.lines([one], asked, 0.05))


@pytest.mark.parametrize("what", ["asked", "subjects", "metric", "kind", "setting"])
def test_what_depends_on_something_else_is_not_flaky(what):
    other = {"kind": "mean"} if what == "kind" else {what: "other"}
    changed = other if what != "setting" else {}
    pair = runs([said(estimate=0.2, outcome="fails")], [said(estimate=0.9, **changed)])
    if what == "setting":
        pair = [pair[0], runs([said(estimate=0.9)], setting="other")[0]]
    assert flaky.flaky(pair) == ([], 0)
    assert flaky.flaky(runs([said(estimate=0.2, outcome="fails")], [said(estimate=0.9)]))[0]


def test_estimates_further_apart_than_their_intervals_allow():
    (one,), _ = flaky.flaky(runs([said(estimate=0.5)], [said(estimate=0.7)]))
    assert one.how == "estimates"
    assert flaky.flaky(runs([said(estimate=0.5)], [said(estimate=0.58)]))[0] == []
    assert flaky.flaky(runs([said(estimate=0.5, half=None)], [said(estimate=0.7, half=None)]))[0] == []


def test_an_exact_number_that_moves():
    (one,), _ = flaky.flaky(runs([said(kind="exact", estimate=1.0, half=None)], [said(kind="exact", estimate=2.0, half=None)]))
    assert (one.how, "2 values" in one.why) == ("numbers", True)
    near = runs([said(kind="exact", estimate=0.1 + 0.2, half=None)], [said(kind="exact", estimate=0.3, half=None)])
    assert flaky.flaky(near)[0] == []


def test_an_error_counts_and_an_absence_does_not():
    (one,), _ = flaky.flaky(runs([said()], [said(outcome="error", estimate=None)]))
    assert one.how == "verdicts"
    assert flaky.flaky(runs([said()], [said(outcome="not_evaluated", estimate=None)])) == ([], 0)


def test_false_alarms_among_all_claims_stay_below_alpha():
    """Twenty steady claims, estimates about the truth as their 90% intervals say: any alarm in at most one of twenty histories."""
    rng, alarms = random.Random(4), 0
    for _ in range(200):
        each = [[said(f"c{i}", rng.gauss(0.5, 0.05 / 1.6449)) for i in range(20)] for _ in range(6)]
        alarms += bool(flaky.flaky(runs(*each))[0])
    assert alarms <= 18  # at .05, more than 18 of 200 have probability .006


def test_machines_and_commits_are_told():
    pair = [*runs([said()], machine="a", commit="1"), *runs([said(outcome="fails")], machine="b", commit="1")]
    found, asked = flaky.flaky(pair)
    assert "machines: 2, commits: 1; that may be why" in "\n".join(flaky.lines(found, asked, 0.05))


def test_the_verb_ends_with_one_if_a_claim_is_flaky(tmp_path, capsys):
    steady = [str(make(tmp_path, i, {CLAIMS[0]: 0.9})) for i in range(3)]
    there = ["--index", str(tmp_path / "i.sqlite")]
    assert main(["history", *steady, "--flaky", *there]) == 0
    assert main(["history", *steady, str(make(tmp_path, 3, {CLAIMS[0]: 0.2})), "--flaky", *there]) == 1
    assert "verdicts   Q1.rate[a]  4 runs  1 fails, 3 holds" in capsys.readouterr().out


# --- the page -----------------------------------------------------------------------------------


def history_of(values, claim="c", hostile=""):
    each = [[said(claim, v, outcome="holds" if v > 0.4 else "fails", metric=hostile)] for v in values]
    seen = runs(*each)
    return seen, trends.histories_of(seen)[0]


def test_the_page_shows_intervals_changes_and_the_strip():
    seen, found = history_of([0.8 + 0.01 * (i % 3) for i in range(10)] + [0.3 + 0.01 * (i % 3) for i in range(10)])
    text = page.render(seen, found, flaky.flaky(seen)[0], ["r99: tier smoke, a subset"], 0.05)
    assert text.count("<svg") == 1
    assert text.count('class="bar o-holds"') == text.count('class="bar o-fails"') == 10
    assert text.count('class="change"') == 1
    assert text.count('class="level"') == 2  # the mean on either side of it
    assert text.count('class="bound"') == 1
    assert "changed with r10" in text
    assert text.count('<li class="o-holds"') == 10
    assert 'aria-label="Verdicts, oldest first: 10 fails, 10 holds"' in text
    assert "r99: tier smoke" in text
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|\son\w+=", text)


def test_hostile_words_neither_run_nor_hide():
    evil = "<script>alert(1)</script>\u202eevil"
    seen = [Seen(Path(f"<img src=x onerror=alert({i})>"), finished="2026", seal=str(i), said=(said(evil, v, bound=evil, outcome=o),))
            for i, (v, o) in enumerate([(0.5, "holds"), (0.9, '"><b>')])]  # fmt: skip
    text = page.render(seen, [], flaky.flaky(seen)[0], [evil], 0.05)
    assert "<script" not in text
    assert "<img" not in text
    assert "<b>" not in text
    assert "\u202e" not in text


def test_of_many_runs_the_newest_are_shown_and_it_is_said():
    seen, found = history_of([0.8 + 0.001 * (i % 7) for i in range(70)])
    text = page.render(seen, found, [], [], 0.05)
    assert "the newest 60 of 70" in text
    assert text.count('<li class="o-holds"') == 60


def test_one_run_and_no_number_still_make_a_page():
    seen = runs([said(estimate=None, outcome="not_evaluated"), said("d", 0.0, kind="exact", half=None)])
    text = page.render(seen, [], [], [], 0.05)
    assert "2 claims over 1 runs" in text
    assert "<svg" not in text


def test_the_verb_writes_the_page(tmp_path, capsys):
    folders = [str(make(tmp_path, i, {CLAIMS[0]: 0.9})) for i in range(2)]
    assert main(["history", *folders, "--html", str(tmp_path / "h.html"), "--no-index"]) == 0
    assert "Q1.rate[a]" in (tmp_path / "h.html").read_text()
    assert main(["history", *folders, "--html", str(tmp_path / "h.html" / "below a file"), "--no-index"]) == 1
    assert "cannot write" in capsys.readouterr().err
