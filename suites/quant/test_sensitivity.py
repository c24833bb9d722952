"""What suffers most: the block of the model and the slice of the task, named on one half, decided on the other."""

from __future__ import annotations

import pytest

from harness import Claim, Measurement, at_least, at_most, evals
from harness.quant import sensitivity
from harness.store import digest_json
from harness.types import Control, Sample
from suites import controls
from suites.quant import margins
from suites.quant.damaged import drowned

pytestmark = pytest.mark.quant

PLANTED = 12  # the block that ``drowned`` drowns


# --- blocks -------------------------------------------------------------------------------------


def _layer_claim(gguf_reference: str) -> Claim:
    text = (
        f"the block of {gguf_reference} whose rounding to 4 bits costs most on half the documents costs more than any other in "
        "more than half of the others"
    )
    return Claim(f"Q12.layer[{gguf_reference}]", text, at_least(0.5), min_n=30, expected=0.9)


@pytest.mark.claim(each=_layer_claim)
def test_the_most_sensitive_block_is_named_and_reproduced(claim, bench, gguf_reference):
    reference = gguf_reference
    table = sensitivity.layer_table(lambda i: bench.layer_rows(reference, i), sensitivity.block_count(bench.header(reference)))

    def measure(read, *, expected: int | None = None) -> Measurement:
        first, second = sensitivity.halves(read[0])
        layer = sensitivity.worst_layer(read, first)
        wrong = () if expected in (None, layer) else (f"block {layer} was named, and {expected} was planted",)
        said = {
            "layer": layer,
            "named_on": len(first),
            "order": sorted(read, key=lambda i: (-_mean(read[i]), i)),
            "kld": [_mean(read[i]) for i in sorted(read)],
        }
        return Measurement("dominance", sensitivity.dominance(read, layer, second), (bench.subject(reference),), said, wrong)

    # Twice as bad to the last digit would have no variance and decide nothing.
    loud = {name: max(row[name] for row in table.values()) * (1.5 + _uniform(claim.claim.id, name)) for name in table[PLANTED]}
    noisy = {row["id"]: row["kld_mean"] for row in bench.distributions(drowned(reference), reference, control=True)}
    claim.check(
        measure(table),
        controls=[
            Control(
                "A/A: the blocks of each document dealt anew", controls.NOT_HOLDS, measure(sensitivity.exchanged(table, claim.claim.id))
            ),
            Control(
                "planted in the scores: a block about twice as bad as the worst",
                controls.HOLDS,
                measure({**table, PLANTED: loud}, expected=PLANTED),
            ),
            Control("planted in the model: block 12 drowned in noise", controls.HOLDS, measure(_with(table, noisy), expected=PLANTED)),
        ],
    )


def _with(table, drowned):
    """The table on the documents that the drowned copy has read too, with its rows for the planted block."""
    return {i: {name: (drowned if i == PLANTED else row)[name] for name in row if name in drowned} for i, row in table.items()}


def _uniform(seed: str, name: str) -> float:
    """A number from 0 to 1, by SHA-256."""
    return int(digest_json([seed, name])[:8], 16) / 0xFFFFFFFF


def _mean(row) -> float:
    return sum(row.values()) / len(row)


# --- slices -------------------------------------------------------------------------------------


def _slice_claim(golden_set: str, build: str) -> Claim:
    text = (
        f"the slice of {golden_set} on which {build} loses most, named on half the items, loses on the other half at most "
        f"{margins.SLICE:g} more than the rest"
    )
    bound = at_most(margins.SLICE)
    return Claim(f"Q12.slice[{golden_set},{build}]", text, bound, estimand="bounded_mean", support=(-2.0, 2.0), min_n=30, expected=0.0)


@pytest.mark.claim(each=_slice_claim)
def test_no_slice_carries_the_loss_alone(claim, bench, golden_set, build):
    claim.needs(bench.golden(golden_set).n)
    new, old = bench.answers(build, golden_set), bench.answers(bench.reference(build), golden_set)
    parts = sensitivity.slices(bench.golden(golden_set))
    lost = sensitivity.losses(evals.pair(new.samples, old.samples))
    first, second = sensitivity.halves(lost)

    def measure(known, *, expected: str | None = None) -> Measurement:
        name = sensitivity.worst_slice(known, parts, first, second)
        wrong = () if expected in (None, name) else (f"the slice {name!r} was named, and {expected!r} was planted",)
        said = {"slice": name, "slices": sorted(parts), "named_on": len(first), "new": dict(new.conditions), "old": dict(old.conditions)}
        return Measurement("slice_excess", sensitivity.excess(known, parts[name], second), (new.subject, old.subject), said, wrong)

    hit = sensitivity.worst_slice(lost, parts, first, second)
    claim.check(
        measure(lost),
        controls=[
            Control("A/A: the losses dealt to the items by lot", controls.NOT_FAILS, measure(_dealt(lost, claim.claim.id))),
            Control(
                "planted in the scores: every right answer of a slice lost", controls.FAILS,
                measure(_all_lost(old.samples, lost, parts[hit]), expected=hit),
            ),
        ],
    )  # fmt: skip


def _dealt(lost, seed: str) -> dict[str, float]:
    """The same losses on other items: what a slice has to do with them is taken away."""
    order = sorted(lost, key=lambda item: digest_json([seed, item]))
    return dict(zip(sorted(lost), (lost[item] for item in order), strict=True))


def _all_lost(old: tuple[Sample, ...], lost, part) -> dict[str, float]:
    """The losses, and in the slice all that the reference had right."""
    right = {s.item: s.value or 0.0 for s in old}
    return {item: right[item] if item in part else loss for item, loss in lost.items()}
