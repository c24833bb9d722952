"""Before any score is believed: the sets are what was approved, large enough, asked in one way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, evals, golden, identical
from harness.errors import GoldenError
from harness.quant import sidecar
from harness.stats import paired, plan
from suites import controls
from suites.quant.margins import MARGIN, PSI

pytestmark = pytest.mark.quant


def _golden_claim(any_set: str) -> Claim:
    return Claim(f"G1.golden[{any_set}]", f"the golden set {any_set} is, byte for byte, the one a person approved", identical())


@pytest.mark.claim(each=_golden_claim)
def test_golden_set_is_the_approved_one(claim, bench, any_set):
    entry = golden.manifest_entry(any_set, bench.settings.golden)
    detail = {"expected": entry["sha256"], "licence": entry["licence"], "n": entry["n"]}
    try:
        row = Sample(any_set, 1.0, detail={**detail, "found": golden.load(any_set, bench.settings.golden).digest})
    except GoldenError as error:
        row = Sample(any_set, 0.0, detail={**detail, "error": str(error)})
    altered = Sample(any_set, float(evals.digest_of_changed(bench.settings.golden / entry["file"]) == entry["sha256"]))
    claim.check(
        Measurement("golden_digest", (row,)),
        controls=[Control("planted: one byte of the file changed", controls.FAILS, Measurement("golden_digest", (altered,)))],
    )


def _sample_claim(golden_set: str) -> Claim:
    text = f"{golden_set} can show 'not worse by {MARGIN[golden_set]:g}' with power .80 when nothing changed"
    return Claim(f"E7.sample[{golden_set}]", text, at_least(0.80), estimand="exact")


@pytest.mark.claim(each=_sample_claim)
def test_the_set_is_large_enough_for_its_margin(claim, bench, golden_set):
    n, margin, psi = golden.load(golden_set, bench.settings.golden).n, MARGIN[golden_set], PSI[golden_set]
    power = bench.cached("power", {"n": n, "margin": margin, "psi": psi}, lambda: plan.ni_power(n, margin, psi, 0.05))
    small = plan.ni_power(50, margin, psi, 0.05)
    detail = {"n": n, "margin": margin, "psi": psi, "n_for_90": plan.ni_n(margin, psi, 0.05, 0.90)}
    claim.check(
        Measurement("power", (Sample(golden_set, power, detail=detail),)),
        controls=[Control("planted: a set of 50 items", controls.FAILS, Measurement("power", (Sample(golden_set, small),)))],
    )


def _size_claim(golden_set: str) -> Claim:
    text = f"a build that is worse by {MARGIN[golden_set]:g} on {golden_set} passes in at most 5% of runs, whatever else is true"
    return Claim(f"E6.size[{golden_set}]", text, at_most(0.05), estimand="exact")


@pytest.mark.claim(each=_size_claim)
def test_the_gate_has_its_error_rate(claim, bench, golden_set):
    n, margin = bench.golden(golden_set).n, MARGIN[golden_set]

    def size_and_naive() -> dict[str, float]:
        region = paired.noninferiority_region(n, -margin, 0.05)
        # What a point estimate would do: pass whenever the observed loss is below the margin.
        naive = paired.staircase_probability(_point_estimate_starts(n, margin))(0.0, margin)
        return {"size": region.size.upper, "lower": region.size.lower, "naive": naive}

    kept = bench.cached("size", {"n": n, "margin": margin}, size_and_naive)
    row = Sample(golden_set, kept["size"], detail={"n": n, "margin": margin, "bracket": [kept["lower"], kept["size"]]})
    naive = Sample(golden_set, kept["naive"], detail={"rule": "observed loss below the margin"})
    claim.check(
        Measurement("size", (row,)),
        controls=[Control("planted: the gate that looks at the point estimate", controls.FAILS, Measurement("size", (naive,)))],
    )


def _point_estimate_starts(n: int, margin: float) -> list[int]:
    """For each number m of flips, the fewest gains b at which (2b - m)/n >= -margin."""
    return [next((b for b in range(m + 1) if 2 * b - m >= -margin * n), m + 1) for m in range(n + 1)]


def _sidecar_claim(subject: str) -> Claim:
    text = f"tokenizer, chat template and end of sequence of {subject} are those of its source, and give the same token ids"
    return Claim(f"Q6.sidecar[{subject}]", text, identical())


@pytest.mark.claim(each=_sidecar_claim)
def test_tokenizer_and_template_survive(claim, bench, subject):
    prompts = [p for name in bench.settings.sets for p in bench.rendered_prompts(name)]
    source = bench.sidecar_source(subject)
    rows = sidecar.compare(bench.sidecar(subject, prompts), bench.sidecar(source, prompts))
    name = subject if subject in bench.settings.references else bench.reference(subject)
    wrong = {how: bench.sidecar(f"damaged:{name}:{how}", prompts) for how in ("wrong-template", "eos")}
    reference = bench.sidecar(name, prompts)
    planted = [
        Control(f"planted: {how}", controls.FAILS, Measurement("sidecar", _rows(sidecar.compare(side, reference))))
        for how, side in wrong.items()
    ]
    conditions = {"source": source, "prompts": len(prompts)}
    claim.check(Measurement("sidecar", _rows(rows), (bench.subject(subject), bench.subject(source)), conditions), controls=planted)


def _rows(rows: list[Mapping[str, Any]]) -> tuple[Sample, ...]:
    return tuple(Sample(r["name"], float(r["found"] == r["expected"]), detail=dict(r)) for r in rows)


def _conditions_claim(golden_set: str, build: str) -> Claim:
    text = f"{build} and the reference answered {golden_set} under the same engine, sampling, batching, order and prompts"
    return Claim(f"E3.conditions[{golden_set},{build}]", text, identical())


@pytest.mark.claim(each=_conditions_claim)
def test_both_arms_ran_under_the_same_conditions(claim, bench, golden_set, build):
    new, old = bench.answers(build, golden_set), bench.answers(bench.reference(build), golden_set)
    other = {**old.conditions, "order": "as in the file"}
    claim.check(
        Measurement("conditions", _same(new.conditions, old.conditions), (new.subject, old.subject), {"old": dict(old.conditions)}),
        controls=[Control("planted: another order of items", controls.FAILS, Measurement("conditions", _same(other, old.conditions)))],
    )


def _same(new: Mapping[str, Any], old: Mapping[str, Any]) -> tuple[Sample, ...]:
    """One row per condition. The weights' own type is what is compared, not a condition."""
    ours, theirs = _flat(new), _flat(old)
    keys = sorted((set(ours) | set(theirs)) - {"engine.dtype", "engine.quantization"})
    return tuple(
        Sample(key, float(ours.get(key) == theirs.get(key)), detail={"new": ours.get(key, "absent"), "old": theirs.get(key, "absent")})
        for key in keys
    )


def _flat(conditions: Mapping[str, Any]) -> dict[str, str]:
    flat = {}
    for key, value in conditions.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat.update({f"{key}.{name}".rstrip("."): json.dumps(part, sort_keys=True) for name, part in inner.items()})
    return flat
