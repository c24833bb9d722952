"""What quantization cost: accuracy, flips, distribution shift, perplexity."""

from __future__ import annotations

import math

import pytest

from harness import Claim, Measurement, Sample, at_most, evals, non_inferior
from harness.quant import fidelity
from harness.types import Control
from suites import controls
from suites.arms import paired
from suites.controls import planted, unchanged
from suites.quant import margins
from suites.quant.damaged import damaged, drowned

pytestmark = pytest.mark.quant


# --- accuracy ---------------------------------------------------------------------------------


def _accuracy_claim(golden_set: str, build: str) -> Claim:
    margin, psi = margins.MARGIN[golden_set], margins.PSI[golden_set]
    text = f"{build} answers {golden_set} not worse than the reference by the margin or more"
    return Claim(f"Q1.accuracy[{golden_set},{build}]", text, non_inferior(margin), psi=psi, min_n=200)


@pytest.mark.claim(each=_accuracy_claim)
def test_accuracy_is_not_worse(claim, bench, golden_set, build):
    claim.needs(bench.golden(golden_set).n)
    margin, reference = claim.claim.bound.limit, bench.reference(build)
    pairs = _pairs(bench, golden_set, reference)
    again = pairs(reference, control=True)
    loss = Measurement("accuracy", evals.plant_loss(again.samples, 2 * margin, claim.claim.id))
    claim.check(
        pairs(build),
        controls=[unchanged(again), planted(f"a loss of {2 * margin:g}", loss), damaged(pairs(drowned(reference), control=True))],
    )


def _pairs(bench, golden_set, reference):
    """A function: subject -> its answers paired with the reference's."""
    old = bench.answers(reference, golden_set)

    def pairs(name: str, *, control: bool = False) -> Measurement:
        return paired(f"accuracy:{golden_set}", bench.answers(name, golden_set, control=control), old)

    return pairs


def _flips_claim(golden_set: str, build: str) -> Claim:
    text = f"{build} flips few items of {golden_set} between right and wrong, gains and losses counted alike"
    return Claim(f"Q1.flips[{golden_set},{build}]", text, at_most(margins.FLIPS), min_n=50, expected=margins.EXPECTED_FLIPS)


@pytest.mark.claim(each=_flips_claim)
def test_few_items_change_either_way(claim, bench, golden_set, build):
    claim.needs(bench.golden(golden_set).n)
    reference = bench.reference(build)
    pairs = _pairs(bench, golden_set, reference)
    limit, nothing = claim.claim.bound.limit, _flips(pairs(reference, control=True))
    many = Measurement("flips", controls.with_share(nothing.samples, 2 * limit, claim.claim.id))
    claim.check(
        _flips(pairs(build)),
        controls=[unchanged(nothing), planted(f"{2 * limit:.0%} flips", many), damaged(_flips(pairs(drowned(reference), control=True)))],
    )


def _flips(pairs: Measurement) -> Measurement:
    right = {arm: {s.item: s.value == 1 for s in pairs.samples if s.arm == arm} for arm in ("new", "old")}
    rows = tuple(
        Sample(item, float(right["new"][item] != was), detail={"old": was, "new": right["new"][item]}) for item, was in right["old"].items()
    )
    return Measurement("flips", rows, pairs.subjects, pairs.conditions)


# --- distributions ----------------------------------------------------------------------------


def _kld_claim(build: str) -> Claim:
    text = f"the next-token distributions of {build} lie close to the reference's: KL in nats, mean over documents"
    limit = at_most(margins.KLD_MEAN)
    support, expected = (0.0, margins.KLD_CAP), margins.EXPECTED_KLD
    return Claim(f"Q2.kld[{build}]", text, limit, estimand="bounded_mean", support=support, min_n=100, expected=expected)


@pytest.mark.claim(each=_kld_claim)
def test_distributions_stay_close(claim, bench, build):
    _fidelity(claim, bench, build, "kld_mean", lambda rows: fidelity.kld_samples(rows, margins.KLD_CAP), _shift(margins.KLD_CAP))


def _top1_claim(build: str) -> Claim:
    text = f"{build} rarely prefers another token than the reference: share of positions, mean over documents"
    return Claim(
        f"Q2.top1[{build}]",
        text,
        at_most(margins.TOP1),
        estimand="bounded_mean",
        support=(0.0, 1.0),
        min_n=100,
        expected=margins.EXPECTED_TOP1,
    )


@pytest.mark.claim(each=_top1_claim)
def test_the_likeliest_token_stays(claim, bench, build):
    _fidelity(claim, bench, build, "top1", fidelity.top1_samples, _shift(1.0))


def _fidelity(claim, bench, build, metric, samples, plant, conditions=None):
    """One leg over the documents, with its controls; ``plant(rows, limit)`` says what it plants, and plants it."""
    reference = bench.reference(build)
    claim.needs(bench.golden(bench.settings.texts).n)
    said = conditions or {"texts": bench.settings.texts}

    def measure(name: str, *, control: bool = False) -> Measurement:
        subjects = (bench.subject(name), bench.subject(reference))
        return Measurement(metric, samples(bench.distributions(name, reference, control=control)), subjects, said)

    nothing = measure(reference, control=True)
    what, rows = plant(nothing.samples, claim.claim.bound.limit)
    more = planted(what, Measurement(metric, rows))
    claim.check(measure(build), controls=[unchanged(nothing), more, damaged(measure(drowned(reference), control=True))])


def _shift(top):
    """Plants twice the bound in every document, no higher than ``top``."""
    return lambda rows, limit: (f"a shift of {2 * limit:g}", controls.shifted(rows, 2 * limit, top))


def _tail_claim(build: str) -> Claim:
    above, share = margins.KLD_TAIL
    text = f"{build} is further than {above:g} nats off on few documents"
    return Claim(f"Q2.tail[{build}]", text, at_most(share), min_n=59, expected=margins.EXPECTED_TAIL)


@pytest.mark.claim(each=_tail_claim)
def test_no_tail_of_broken_documents(claim, bench, build):
    above = margins.KLD_TAIL[0]

    def plant(rows, limit):
        return f"{4 * limit:.0%} of documents", controls.with_share(rows, 4 * limit, claim.claim.id)

    _fidelity(claim, bench, build, "kld_tail", lambda rows: fidelity.tail_samples(rows, above), plant, {"above": above})


def _perplexity_claim(build: str) -> Claim:
    text = f"the perplexity of {build} is hardly above the reference's: ratio, token-weighted over documents"
    return Claim(f"Q3.perplexity[{build}]", text, at_most(margins.PERPLEXITY), estimand="log_ratio", min_n=50)


@pytest.mark.claim(each=_perplexity_claim)
def test_perplexity_ratio(claim, bench, build):
    reference, limit = bench.reference(build), math.log(claim.claim.bound.limit)
    claim.needs(bench.golden(bench.settings.texts).n)

    def measure(name: str, *, control: bool = False) -> Measurement:
        rows = fidelity.log_ratio_samples(bench.distributions(name, reference, control=control))
        return Measurement("log_perplexity", rows, (bench.subject(name), bench.subject(reference)), {"texts": bench.settings.texts})

    again = measure(reference, control=True)
    # A rerun that agrees to the last bit has no variance and decides nothing, so noise of mean zero joins it.
    still = Measurement("log_perplexity", controls.per_token(again.samples, 0.0, limit / 2, claim.claim.id))
    worse = Measurement("log_perplexity", controls.per_token(again.samples, 2 * limit, limit / 2, claim.claim.id))
    claim.check(
        measure(build),
        controls=[
            Control("A/A: the reference against itself, read again", controls.NOT_FAILS, again),
            Control("A/A with noise of mean zero", controls.HOLDS, still),
            planted("the bound squared", worse),
            damaged(measure(drowned(reference), control=True)),
        ],
    )


def _conversion_claim(reference: str) -> Claim:
    text = f"{reference} says in its engine what the folder it came from says in transformers: KL in nats, mean over documents"
    limit = at_most(margins.CONVERSION)
    return Claim(f"Q2.conversion[{reference}]", text, limit, estimand="bounded_mean", support=(0.0, margins.KLD_CAP), min_n=100)


@pytest.mark.claim(each=_conversion_claim)
def test_the_reference_is_the_model_it_came_from(claim, bench, reference):
    """A wrong conversion, or an engine that reads it wrongly, would make every comparison with it true and worthless."""
    source = bench.converted_from(reference)

    def measure(name: str) -> Measurement:
        rows = fidelity.kld_samples(bench.distributions(name, source), margins.KLD_CAP)
        return Measurement("kld_mean", rows, (bench.subject(name), bench.subject(source)), {"engines": "two: see subjects"})

    honest = measure(reference)
    more = Measurement("kld_mean", controls.shifted(honest.samples, 2 * claim.claim.bound.limit, margins.KLD_CAP))
    claim.check(honest, controls=[planted("twice the bound", more)])
