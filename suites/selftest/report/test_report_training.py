"""The page about trainings: each number stands in the evidence, a failed run says where and why, and nothing hostile gets through."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bounds import at_least, identical
from harness.report import markdown, view
from harness.report.html import render
from harness.report.steps import DRAWN, POINTS, Steps, by_step
from harness.report.training import peak, training
from harness.report.trainings import held_out, trainings_of
from harness.report.view import ClaimView, RunView
from harness.types import Claim
from suites.selftest.report import middle
from suites.selftest.report.conftest import Folder
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Folder(tmp_path_factory.mktemp("training") / "run")
    middle.add_trainings(folder)
    return folder.close()


@pytest.fixture(scope="module")
def seen(run: Path) -> RunView:
    return view.load(run)


def of(conditions: dict[str, Any], claim: str = "T8.fell[tuned]") -> RunView:
    """A run of one claim with these conditions."""
    claims = (ClaimView(claim, "holds", measurement={"conditions": conditions}),)
    return RunView("l", "full", {"claims": []}, "", {"finished": "x"}, claims, ())


# --- what is read ---------------------------------------------------------------------------------


def test_every_training_is_told_once(seen):
    found = {(t.kind, t.name) for t in trainings_of(seen)}
    assert found == {
        ("training", "tuned"), ("training", "preferred"), ("failed", "too-hot"), ("control", "too-hot, control"),
        ("drill", "same seed, qlora"), ("drill", "stopped after step 2"), ("drill", "seed 2"),
    }  # fmt: skip
    assert len(trainings_of(seen)) == len(found)


def test_the_whole_report_is_taken_where_a_claim_carries_it(seen):
    tuned = next(t for t in trainings_of(seen) if t.name == "tuned")
    assert len(tuned.loss) == 79 and tuned.loss == tuple(middle.report()["loss"])
    assert tuned.recipe["rank"] == 16 and tuned.start == "base" and peak(tuned) == "2.35 GB (cpu)"


def test_a_lone_report_is_named_by_its_claim():
    report = {k: v for k, v in middle.report().items() if k != "name"}
    assert [t.name for t in trainings_of(of({"training": report}))] == ["tuned"]


def test_a_curve_alone_is_a_training_too():
    (found,) = trainings_of(of({"curve": [3.0, 2.0, 1.0], "steps": 3}))
    assert (found.kind, found.loss, found.steps, found.start) == ("training", (3.0, 2.0, 1.0), 3, "")


def test_memory_of_the_gpu_comes_first():
    (found,) = trainings_of(of({"training": middle.report(peak_cuda_bytes=9_000_000_000)}))
    assert peak(found) == "9 GB (GPU)"


@pytest.mark.parametrize("odd", [None, "x", 7, {"a": 1}, [None], ["1"], [True], [[1.0]]])
def test_a_curve_of_nothing_is_empty(odd):
    for conditions in ({"curve": odd, "steps": odd}, {"training": {"loss": odd, "recipe": odd, "rewards": odd, "steps": odd}}):
        run = of(conditions)
        assert all(not t.loss and not t.margins for t in trainings_of(run))
        Page(training(run))


def test_a_curve_ends_where_it_is_no_number():
    (found,) = trainings_of(of({"curve": [3.0, 2.0, None, 1.0]}))
    assert found.loss == (3.0, 2.0)


def test_seeds_without_a_result_are_listed(seen):
    assert [(seed, before, after) for _, seed, before, after, _ in held_out(seen)] == [("seed 2", 1.151, 0.22), ("seed 9", None, None)]


# --- what is shown --------------------------------------------------------------------------------


def test_figures_and_numbers(run):
    page, summary = both(run)
    for name in ("Loss of the trainings", "Loss of the preference trainings", "Preference margins in training"):
        assert f"<h3>{name}</h3>" in page
    for number in ("2.35 GB (cpu)", "183.4", "632", "1.47 GB (cpu)", "1.151"):
        assert number in page
    assert "## Training" in summary and "| tuned | sft lora | 79 | 1.5 |" in summary
    assert not Page(page).wrong


def test_a_failed_run_says_where_and_why(run):
    page, summary = both(run)
    assert page.count('class="strike wrong"') == 2  # one cross
    assert "failed after step 3: non-finite loss at step 4" in page
    assert "the learning rate: non-finite loss at step 4" in page and "lr lowered to 1e-3" in page
    assert "failed after step 3: non-finite loss at step 4" in summary


def test_a_failed_experiment_that_ran_to_its_end_says_why_it_is_no_good():
    """The loss was thrown up and stayed there: no error ended it."""
    run = {"outcome": "finished", "cause": None, "loss": [1.1, 19.0, 24.9]}
    seen = of({"run": run, "control": {**run, "loss": [1.1, 0.5]}, "record": {"cause": "too hot", "changed": "lr"}}, "T11.failed[hot]")
    failed, control = trainings_of(seen)
    assert failed.ended == "ran to its end, and is no good: too hot" and not control.ended
    shown = training(seen)
    assert shown.count('class="strike wrong"') == 2 and "it ran to its end" in shown


def test_trainings_and_drills_do_not_share_an_axis(seen):
    """The loss of a preference training is on another scale, and a drill is no training."""
    text = training(seen)
    drawn = {m[1]: m[0] for m in re.findall(r'(aria-label="([^".]*)\. [^"]*")', text)}
    assert "preferred" in drawn["Loss of the preference trainings"] and "preferred" not in drawn["Loss of the trainings"]
    assert "seed 2" in drawn["Drills: the same seed, a resumed run, several seeds"] and "seed 2" not in drawn["Loss of the trainings"]


def test_a_lost_failed_experiment_stands_in_the_table(folder):
    run = folder()
    run.add(Claim("T11.failed[too-long]", "kept", identical()))
    page, _ = both(run.close())
    table = page[page.index("<h3>Failed experiments") :]
    assert "too-long" in table[:2000] and "lost" in table[:2000]


def test_no_training_no_section(folder):
    run = folder()
    run.add(Claim("Q1.x", "t", at_least(0.5), "proportion"))
    page, summary = both(run.close())
    assert 'id="training"' not in page and "## Training" not in summary


def test_hostile_text_is_spelled_out(folder):
    run = folder()
    report = middle.report(
        HOSTILE, outcome="failed", cause=HOSTILE, device=HOSTILE, start=HOSTILE, recipe={"method": HOSTILE, "seed": HOSTILE}
    )
    middle.add_trainings(run, training={"loss": report["loss"], **report})
    middle.add_failed(run, "<b>x</b>", HOSTILE, HOSTILE)
    page, summary = both(run.close())
    seen = Page(page)
    assert not seen.wrong and "script" not in seen.tags and not UNSEEN.search(page) and not UNSEEN.search(summary)
    assert "<script" not in summary and all(link.startswith(("#", "./")) for link in seen.links)


def test_the_same_folder_gives_the_same_bytes(run):
    assert render(view.load(run)) == render(view.load(run))
    assert markdown.render(view.load(run)) == markdown.render(view.load(run))


# --- the drawing ----------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    st.lists(
        st.tuples(st.text(max_size=40), st.lists(st.floats(-1e6, 1e6), max_size=30), st.sampled_from(["", "failed after step 1"])),
        min_size=1, max_size=DRAWN,
    )
)  # fmt: skip
def test_any_curves_can_be_drawn(rows):
    steps = [Steps(label, tuple(values), ended) for label, values, ended in rows]
    page = Page(by_step(steps, "title", "up"))
    assert not page.wrong and page.tags <= {"svg", "text", "line", "polyline", "circle", "rect"}


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    values = tuple(float(i) for i in range(10 * POINTS + 7))
    points = re.search(r'points="([^"]*)"', by_step([Steps("long", values)], "t", "u"))[1].split()
    assert len(points) <= POINTS + 2
    first, last = (float(p.split(",")[0]) for p in (points[0], points[-1]))
    assert first == pytest.approx(78.0) and last == pytest.approx(640.0)


def test_more_runs_than_look_apart_are_counted(folder):
    run = folder()
    middle.add_trainings(run, training={f"run-{i}": middle.report(f"run-{i}", 5) for i in range(DRAWN + 3)})
    page, _ = both(run.close())
    assert "3 more are in the table only" in page
    assert all(f"run-{i}" in page for i in range(DRAWN + 3))
