"""Calibration: what a method saw before it was measured, and whether another sample would change the result."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, equivalent, evals, identical
from harness.quant import fidelity
from harness.quant.calibration import golden_texts, leaks
from suites import controls
from suites.quant import margins
from suites.quant.damaged import damaged, drowned

pytestmark = pytest.mark.quant


def _disjoint_claim(calibrated: str) -> Claim:
    text = f"no text that {calibrated} was calibrated on is, or shares eight words in a row with, an item of a golden set"
    return Claim(f"Q8.disjoint[{calibrated}]", text, identical())


@pytest.mark.claim(each=_disjoint_claim)
def test_calibration_is_disjoint_from_the_golden_sets(claim, bench, calibrated):
    golden = {k: v for name in _sets(bench) for k, v in golden_texts(bench.whole_set(name)).items()}
    texts = {row.id: row.content for row in bench.calibration(0).rows}
    stolen = max(golden.values(), key=len)
    planted = {"a golden item": stolen, "a golden item, in capitals and without commas": stolen.upper().replace(",", " ")}
    said = {"calibration": bench.subject(calibrated).detail["calibration"], "golden_items": len(golden)}
    claim.check(
        Measurement("calibration_leaks", _leaked(texts, golden), (bench.subject(calibrated),), said),
        controls=[
            Control(f"planted: {what} slipped in", controls.FAILS, Measurement("calibration_leaks", _leaked({**texts, what: text}, golden)))
            for what, text in planted.items()
        ],
    )


def _sets(bench) -> tuple[str, ...]:
    asked = margins.REQUESTS[:2] if bench.settings.guarded else ()
    return (*bench.settings.sets, bench.settings.texts, *asked)


def _leaked(texts, golden) -> tuple[Sample, ...]:
    found = {leak.text: leak for leak in leaks(texts, golden)}
    rows = []
    for name in texts:
        leak = found.get(name)
        detail = {"item": leak.item, "why": leak.why, "evidence": leak.evidence} if leak else {}
        rows.append(Sample(name, float(leak is None), detail=detail))
    return tuple(rows)


def _reseeded_claim(seed: int, calibrated: str) -> Claim:
    text = f"{calibrated}, calibrated on another sample (seed {seed}), lies as far from the reference: KL in nats, mean over documents"
    return Claim(
        f"Q8.sample[seed-{seed},{calibrated}]",
        text,
        equivalent(margins.RESEEDED),
        estimand="paired_mean",
        support=(0.0, margins.KLD_CAP),
        min_n=50,
        expected=0.0,
    )


@pytest.mark.claim(each=_reseeded_claim)
def test_another_calibration_sample_gives_the_same_result(claim, bench, seed, calibrated):
    claim.needs(bench.golden(bench.settings.texts).n)
    reference, again = bench.reference(calibrated), f"reseeded:{calibrated}:{seed}"
    drawn = {bench.subject(name).detail["calibration"] for name in (calibrated, again)}
    same = () if len(drawn) == 2 else ("both were calibrated on one sample",)

    def rows(name: str, *, control: bool = False) -> tuple[Sample, ...]:
        return fidelity.kld_samples(bench.distributions(name, reference, control=control), margins.KLD_CAP)

    def measure(new, *names) -> Measurement:
        old = rows(calibrated)
        asked = {s.item for s in new}
        samples = evals.pair(new, [s for s in old if s.item in asked])
        return Measurement("kld_mean", samples, tuple(map(bench.subject, names)), {"texts": bench.settings.texts})

    shifted = controls.shifted(rows(calibrated), 2 * margins.RESEEDED, margins.KLD_CAP)
    claim.check(
        replace(measure(rows(again), again, calibrated), invalid=same),
        controls=[
            controls.unchanged(measure(rows(calibrated, control=True), calibrated)),
            controls.planted("twice the margin in every document", measure(shifted, calibrated)),
            damaged(measure(rows(drowned(reference), control=True), drowned(reference), calibrated)),
        ],
    )
