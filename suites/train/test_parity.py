"""T6: an adapter says the same unmerged, merged, and served."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_most
from harness.train.invariants import parity
from suites import controls
from suites.train import margins

pytestmark = pytest.mark.train


# --- in float32, where nothing is lost ------------------------------------------------------------


def _merged(tuned: str) -> Claim:
    text = (
        f"the adapter of {tuned} says the same merged as unmerged: largest difference of an answer token's log-probability, float32, nats"
    )
    return Claim("T6.merged", text, at_most(margins.ROUNDING), estimand="exact")


@pytest.mark.claim(each=_merged)
def test_merged_is_unmerged(claim, bench, lesson, tuned):
    adapter, n = bench.trained(tuned), margins.PLACES

    def measure():
        expected = {name: lesson.unmerged(margins.ANSWERS)[name] for name in lesson.held(n)}
        return parity.merged(lesson.base, adapter.adapter, bench.path(tuned), lesson.held(n), expected)

    found = lesson.kept("merged", {"adapter": adapter.digest, "answers": _asked(lesson, n)}, measure)
    claim.check(
        _largest(lesson, found[""], dtype="float32"),
        controls=[Control(f"planted: {fault}", controls.FAILS, _largest(lesson, found[fault])) for fault in parity.FAULTS],
    )


def _largest(lesson, rows, **conditions):
    return lesson.facts("log_probability_difference", [{**row, "value": row["max"]} for row in rows], **conditions)


# --- as it ships: 16 bits, in the engines that serve it ---------------------------------------------


def _served(serving: str) -> Claim:
    text = f"{serving} says of answers what base and unmerged adapter say in float32: KL in nats, mean over answers"
    bound, support = at_most(margins.SERVED), (0.0, margins.SERVED_CAP)
    return Claim(f"T6.served[{serving}]", text, bound, estimand="bounded_mean", support=support, min_n=margins.ANSWERS, expected=0.002)


@pytest.mark.claim(each=_served)
def test_served_is_unmerged(claim, bench, lesson, serving):
    _check(claim, bench, lesson, serving, "kld", lambda row: min(row["kld"], margins.SERVED_CAP), margins.SERVED_CAP)


def _likeliest(serving: str) -> Claim:
    text = f"{serving} hardly ever prefers another token of an answer than base and unmerged adapter do: share of places, mean over answers"
    bound = at_most(margins.SERVED_TOP1)
    return Claim(f"T6.top1[{serving}]", text, bound, estimand="bounded_mean", support=(0.0, 1.0), min_n=margins.ANSWERS, expected=0.005)


@pytest.mark.claim(each=_likeliest)
def test_served_prefers_the_same_tokens(claim, bench, lesson, serving):
    _check(claim, bench, lesson, serving, "top1", lambda row: row["flips"] / row["tokens"], 1.0)


def _check(claim, bench, lesson, serving, metric, value, top):
    claim.needs(len(lesson.held(margins.ANSWERS)))

    def measure(name: str) -> Measurement:
        rows = _distances(bench, lesson, name)
        samples = tuple(Sample(row["name"], value(row), detail=row) for row in rows)
        return Measurement(metric, samples, (bench.subject(name), *lesson.subjects), {"adapter": bench.trained(lesson.name).digest})

    again = measure(f"unmerged:{lesson.name}")
    claim.check(
        measure(serving),
        controls=[
            Control("A/A: the adapter unmerged, in 16 bits", controls.HOLDS, again),
            controls.planted("twice the bound", Measurement(metric, controls.shifted(again.samples, 2 * claim.claim.bound.limit, top))),
            Control("planted in the subject: the base without its adapter", controls.FAILS, measure(lesson.start)),
        ],
    )


def _distances(bench, lesson, name):
    """What a subject says of the answers, beside the unmerged adapter."""
    rows = lesson.held(margins.ANSWERS)

    def measure():
        expected, engine = lesson.unmerged(margins.ANSWERS), bench.engine(name)
        texts = parity.texts(engine.render, rows, lesson.end)
        return parity.distances({said.id: said for said in engine.logprobs(texts)}, expected)

    inputs = {"adapter": bench.trained(lesson.name).digest, "answers": _asked(lesson, margins.ANSWERS), "engine": bench.inputs(name)}
    return lesson.kept("served", inputs, measure)


def _asked(lesson, n):
    return [[name, messages, answer] for name, (messages, answer) in lesson.held(n).items()]


# --- QLoRA ------------------------------------------------------------------------------------------


def _qlora(tuned: str) -> Claim:
    text = "a QLoRA adapter merged onto the dequantized base says what it said on the quantized one: KL in nats, each answer"
    return Claim("T6.qlora", text, at_most(margins.QLORA), estimand="exact")


@pytest.mark.claim(each=_qlora)
def test_qlora_is_merged_onto_what_it_was_trained_on(claim, bench, lesson, tuned):
    recipe = lesson.by("qlora", steps=margins.QLORA_STEPS, batch=4)
    rows, held = lesson.rows[: margins.QLORA_ROWS], lesson.held(margins.PLACES)
    inputs = {"steps": recipe.steps, "rows_used": len(rows), "answers": _asked(lesson, margins.PLACES)}
    found = lesson.kept("qlora", inputs, lambda: parity.qlora(lesson.base, rows, recipe, held))

    def measure(which: str) -> Measurement:
        return lesson.facts("kld", [{**row, "value": row["kld"]} for row in found[which]], loss=found["loss"])

    claim.check(measure(""), controls=[Control(f"planted: merged {parity.UNDEQUANTIZED}", controls.FAILS, measure(parity.UNDEQUANTIZED))])
