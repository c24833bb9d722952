"""The record of a judge: figures by hand, void when anything changes, refused when it was edited."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import EvidenceError
from harness.evals.judges import calibration
from harness.evals.judges.calibration import Calibration, calibrate
from harness.types import Sample

pytestmark = pytest.mark.selftest


def record(pairs: Sequence[tuple[float | None, float]]) -> Calibration:
    said = [Sample(f"i{n}", ours, status="ok" if ours is not None else "parse_failure") for n, (ours, _) in enumerate(pairs)]
    return calibrate("mine", "d" * 64, "refused", "g" * 64, said, {f"i{n}": theirs for n, (_, theirs) in enumerate(pairs)})


def of_table(yes_yes: int, yes_no: int, no_yes: int, no_no: int) -> Calibration:
    return record([(1.0, 1.0)] * yes_yes + [(1.0, 0.0)] * yes_no + [(0.0, 1.0)] * no_yes + [(0.0, 0.0)] * no_no)


def test_the_figures_are_those_of_the_reference() -> None:
    found = of_table(20, 5, 10, 15)  # statistics 5.5
    assert found.table == ((20, 5), (10, 15))
    assert found.kappa == pytest.approx(0.4)
    assert found.kappa_low == pytest.approx(0.1732064814, abs=1e-9)
    assert (found.tpr.k, found.tpr.n, found.tnr.k, found.tnr.n) == (20, 30, 15, 20)
    assert (found.base_rate, found.constant) == (0.6, 0.6)
    # q = (25 + 30) / 100, chance .495, agreed .7
    assert found.ac1 == pytest.approx((0.7 - 0.495) / 0.505)


def test_a_rate_is_held_by_its_lower_limit() -> None:
    found = of_table(77, 0, 11, 88)
    assert found.tpr.low == pytest.approx(0.801586352011, abs=1e-9)  # statistics 5.5: 77 of 88
    assert found.fit and not found.why
    assert not of_table(7, 0, 1, 8).fit  # the same share, too few


def test_a_judge_that_says_one_thing_is_not_fit_however_often_it_is_right() -> None:
    found = of_table(95, 5, 0, 0)
    assert found.constant == 0.95 and not found.fit
    assert found.kappa is None and "kappa is not defined" in found.why and "tnr" in found.why


def test_what_it_could_not_read_counts_against_it() -> None:
    found = record([(None, 1.0)] * 10 + [(1.0, 1.0)] * 90 + [(0.0, 0.0)] * 100)
    assert (found.tpr.k, found.tpr.n, found.unread) == (90, 100, 10)
    assert sum(map(sum, found.table)) == 190


def test_labels_of_other_items_are_refused() -> None:
    with pytest.raises(EvidenceError, match="expected the same items"):
        calibrate("mine", "d", "t", "g", [Sample("a", 1.0)], {"b": 1.0})


def test_answers_that_the_judge_was_shown_do_not_decide() -> None:
    kept, shown = calibration.split(["I can't.", "Sure."], ["I  can't.\n"], lambda answer: answer)
    assert (kept, shown) == (["Sure."], 1)


def test_the_record_goes_through_a_file_and_only_unchanged() -> None:
    found = of_table(60, 1, 2, 57)
    text = calibration.write(found)
    assert calibration.read(text) == found
    assert found.valid_for("d" * 64) and not found.valid_for("e" * 64)
    body = json.loads(text)
    for key in ("fit", "digest", "kappa", "table", "why"):
        with pytest.raises(EvidenceError):
            calibration.read(json.dumps({**body, key: {"fit": False, "table": [[1, 0], [0, 1]]}.get(key, "x")}))


@settings(derandomize=True, deadline=None)
@given(st.text())
def test_any_other_text_is_refused_by_name(text: str) -> None:
    with pytest.raises(EvidenceError, match=r"judge\.lock"):
        calibration.read(text)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, None]), st.sampled_from([0.0, 1.0])), min_size=1, max_size=60))
def test_any_labels_make_a_record(pairs: list[tuple[float | None, float]]) -> None:
    found = record(pairs)
    assert found.tpr.n + found.tnr.n == len(pairs)
    assert calibration.read(calibration.write(found)) == found
    assert found.fit == (not found.why)
