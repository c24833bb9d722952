"""T1: training, evaluation and serving see the same token ids."""

from __future__ import annotations

import pytest

from harness import Claim, Control, identical
from harness.train.invariants import render
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.train


def _claim(serving: str) -> Claim:
    return Claim(
        f"T1.render[{serving}]",
        f"{serving} renders {len(render.SHAPES)} shapes of conversation to the token ids that training saw",
        identical(),
    )


@pytest.mark.claim(each=_claim)
def test_training_and_serving_see_the_same_tokens(claim, bench, lesson, serving):
    rows = _rows(bench, lesson, serving, "shapes")
    claim.check(
        lesson.facts("token_ids", rows[""], engine=bench.engine_of(serving)),
        controls=[Control(f"planted: {fault}", FAILS, lesson.facts("token_ids", rows[fault])) for fault in render.FAULTS],
    )


def _blanks(serving: str) -> Claim:
    text = f"an answer of blanks alone was trained behind the very tokens that {serving} puts before it"
    return Claim(f"T1.blanks[{serving}]", text, identical())


@pytest.mark.claim(each=_blanks)
def test_an_answer_of_blanks_begins_where_serving_begins(claim, bench, lesson, serving):
    rows = _rows(bench, lesson, serving, "blanks")
    words = [row for row in _rows(bench, lesson, serving, "shapes")[""] if row["name"].startswith("no system prompt: ")]
    claim.check(
        lesson.facts("token_ids", rows[""], engine=bench.engine_of(serving)),
        controls=[
            Control("clean twin: the same question with an answer in words", HOLDS, lesson.facts("token_ids", words)),
            *(Control(f"planted: {fault}", FAILS, lesson.facts("token_ids", rows[fault])) for fault in render.FAULTS),
        ],
    )


def _rows(bench, lesson, serving, which):
    shapes = {"shapes": render.SHAPES, "blanks": render.BLANKS}[which]
    inputs = {"shapes": {name: list(map(dict, shape)) for name, shape in shapes.items()}}

    def measure():
        end, expected = lesson.kept("trained-ids", inputs, lambda: render.trained(lesson.base, lesson.recipe, shapes))
        engine = bench.engine(serving)
        return {fault: render.compare(render.served(engine, end, shapes, fault), expected) for fault in ("", *render.FAULTS)}

    return lesson.kept("render", {**inputs, "engine": bench.inputs(serving)}, measure)
