"""Naming the worst of many: which rule keeps its level, and what each sees.

Thirty blocks, read on documents that differ more than blocks do; thirteen overlapping slices of 560 items. A name is
false if its block is not strictly the worst, or its slice loses no more than the rest. The blocks' rules are
vectorised; that of ours is held against the shipped path on replicates of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from harness import Claim, Measurement, at_least
from harness.judge import judge
from harness.quant import sensitivity
from suites.selftest.quality.simulate import generator, most

pytestmark = pytest.mark.selftest

ALPHA = 0.05
Array = np.ndarray

# --- blocks -----------------------------------------------------------------------------------------

BLOCKS, DOCUMENTS = 30, 100  # of each half
BETWEEN, WITHIN = 0.5, 0.35  # spread of ln KL from document to document, and of a block within a document

TRUTHS: dict[str, list[float]] = {  # how much worse some blocks are than the rest: ln of a ratio
    "none is worse": [],
    "two alike": [1.0, 1.0],
    "worst by 10%": [1.0 + math.log(1.1), 1.0],
    "worst by 50%": [1.0 + math.log(1.5), 1.0],
    "fourfold": [math.log(4.0)],
}


def read(rng: np.random.Generator, replicates: int, truth: list[float]) -> Array:
    """ln KL: replicates x blocks x documents of both halves."""
    shape = (replicates, BLOCKS, 2 * DOCUMENTS)
    logs = BETWEEN * rng.standard_normal((replicates, 1, 2 * DOCUMENTS)) + WITHIN * rng.standard_normal(shape)
    logs[:, : len(truth)] += np.array(truth)[:, None]
    return logs


def above(values: Array, level: float, limit: float = 0.0) -> Array:
    """Student's t over the last axis: is the mean above the limit?"""
    n = values.shape[-1]
    return (values.mean(-1) - limit) / (values.std(-1, ddof=1) / math.sqrt(n)) >= stats.t.isf(level, n - 1)


def of(logs: Array, named: Array) -> tuple[Array, Array]:
    """The named block's rows, and all others'."""
    ours = np.take_along_axis(logs, named[:, None, None], 1)
    mask = np.arange(logs.shape[1])[None, :] != named[:, None]
    return ours, logs[mask].reshape(len(logs), logs.shape[1] - 1, -1)


def named_in(logs: Array) -> Array:
    return logs.mean(-1).argmax(1)


Rule = Callable[[Array, Array], tuple[Array, Array]]  # (discovery, confirmation) -> (named, confirmed)


def dominance(first: Array, second: Array) -> tuple[Array, Array]:
    """Ours: in how many documents it is worse than the largest of the others; shown above half by the exact binomial tail."""
    named = named_in(first)
    ours, others = of(second, named)
    wins = (ours[:, 0] > others.max(1)).sum(-1)
    return named, stats.binom.sf(wins - 1, second.shape[-1], 0.5) <= ALPHA


def union(first: Array, second: Array) -> tuple[Array, Array]:
    """Intersection-union: above each of the others, each test at the full level."""
    named = named_in(first)
    ours, others = of(second, named)
    return named, above(ours - others, ALPHA).all(1)


def same_documents(first: Array, second: Array) -> tuple[Array, Array]:
    """What halving is for: all documents name, and decide against the mean of the others."""
    logs = np.concatenate([first, second], -1)
    named = named_in(logs)
    ours, others = of(logs, named)
    return named, above(ours[:, 0] - others.mean(1), ALPHA)


def mean_of_others(first: Array, second: Array) -> tuple[Array, Array]:
    """Halved, but against the average: says 'above average' and is quoted as 'the worst'."""
    named = named_in(first)
    ours, others = of(second, named)
    return named, above(ours[:, 0] - others.mean(1), ALPHA)


RULES: dict[str, Rule] = {
    "largest of the others": dominance,
    "intersection-union": union,
    "against the average": mean_of_others,
    "same documents": same_documents,
}


def three_above_median(first: Array, second: Array) -> Array:
    """The three named, each against the median block at a third of the level; which are confirmed, by block."""
    order = np.argsort(-first.mean(-1), axis=1)[:, :3]
    said = np.zeros(first.shape[:2], dtype=bool)
    for k in range(3):
        ours, others = of(second, order[:, k])
        said[np.arange(len(said)), order[:, k]] = above(ours[:, 0] - np.median(others, axis=1), ALPHA / 3)
    return said


def test_blocks(effort):
    replicates = effort.replicates(20_000, 1_000)
    rows = []
    for truth, worse in TRUTHS.items():
        strict = len(worse) > 0 and worse.count(max(worse)) == 1
        counts = {name: [0, 0] for name in (*RULES, "three above the median")}
        for part in range(0, replicates, 500):
            first, second = np.split(read(generator("blocks", truth, part), 500, worse), 2, axis=-1)
            for name, rule in RULES.items():
                named, confirmed = rule(first, second)
                right = confirmed & (named == 0) & strict
                counts[name] = [counts[name][0] + int(right.sum()), counts[name][1] + int((confirmed & ~right).sum())]
            said = three_above_median(first, second)
            false = said[:, len(worse) :].any(1)
            counts["three above the median"][0] += int(said[:, 0].sum()) if worse else 0
            counts["three above the median"][1] += int(false.sum())
        for name, (right, wrong) in counts.items():
            rows.append({"truth": truth, "rule": name, "replicates": replicates, "right": right / replicates, "false": wrong / replicates})
    rate = {(r["truth"], r["rule"]): r for r in rows}
    for truth in TRUTHS:
        for rule in ("largest of the others", "intersection-union", "three above the median"):
            assert rate[truth, rule]["false"] * replicates <= most(replicates, ALPHA), rate[truth, rule]
    # What halving and the right rival are for: these are wrong nearly always, where two are alike and where none is worse.
    assert rate["two alike", "against the average"]["false"] > 0.9
    assert rate["none is worse", "same documents"]["false"] > 0.5
    # What ours pays for resting on one claim: it wants a worst block that stands out, and then sees it.
    assert rate["fourfold", "largest of the others"]["right"] > 0.99
    assert rate["worst by 10%", "largest of the others"]["right"] < rate["worst by 10%", "intersection-union"]["right"]
    effort.write("sensitivity_blocks", rows)


@pytest.mark.parametrize("truth", TRUTHS)
def test_the_shipped_rule_is_the_simulated_one(truth):
    """The same names, and the verdicts of the judge, from tables of documents."""
    documents = [f"d{k}" for k in range(2 * DOCUMENTS)]
    first, second = sensitivity.halves(documents)
    place = {name: k for k, name in enumerate(documents)}
    claim = Claim("Q12.layer", "the named block is the worst", at_least(0.5))
    logs = read(generator("shipped", truth), 12, TRUTHS[truth])
    named, confirmed = dominance(*(logs[:, :, [place[d] for d in half]] for half in (first, second)))
    for k in range(len(logs)):
        table = {i: {d: math.exp(logs[k, i, place[d]]) for d in documents} for i in range(BLOCKS)}
        layer = sensitivity.worst_layer(table, first)
        verdict = judge(claim, Measurement("dominance", sensitivity.dominance(table, layer, second)))
        assert layer == named[k]
        assert (verdict.outcome == "holds") == bool(confirmed[k])


# --- slices -----------------------------------------------------------------------------------------

ITEMS = 560
SHARES = (0.25, 0.25, 0.25, 0.25, 0.19, 0.81, 0.70, 0.94, 0.04, 0.63, 0.96, 0.27, 0.65)  # as in the addresses
GAIN, LOSS = 0.04, 0.12  # of answers that turn right, and wrong, wherever they are

PLANTED = {"none": 0.0, "a tenth more": 0.10, "three tenths more": 0.30}


def answered(rng: np.random.Generator, more: float) -> tuple[dict[str, float], dict[str, frozenset[str]]]:
    """Losses of 560 items, and slices drawn blindly; the twelfth loses ``more``."""
    items = [f"i{k}" for k in range(ITEMS)]
    parts = {
        f"s{k:02d}": frozenset(i for i, yes in zip(items, rng.random(ITEMS) < share, strict=True) if yes) for k, share in enumerate(SHARES)
    }
    rates = np.array([LOSS + more * (i in parts["s11"]) for i in items])
    draws = rng.random(ITEMS)
    return dict(zip(items, np.where(draws < GAIN, -1.0, (draws < GAIN + rates) * 1.0).tolist(), strict=True)), parts


def test_slices(effort):
    """Halved: at most alpha false names. On the same items, thirteen chances to be misled: many more."""
    replicates = effort.replicates(4_000, 150)
    claim = Claim("Q12.slice", "the named slice loses more", at_least(0.0), estimand="bounded_mean", support=(-2.0, 2.0))
    rows = []
    for truth, more in PLANTED.items():
        counts = {"halves": [0, 0], "same items": [0, 0]}
        for k in range(replicates):
            lost, parts = answered(generator("slices", truth, k), more)
            first, second = sensitivity.halves(lost)
            for rule, naming, deciding in (("halves", first, second), ("same items", first + second, first + second)):
                name = sensitivity.worst_slice(lost, parts, naming, deciding)
                values = [s.value for s in sensitivity.excess(lost, parts[name], deciding)]
                if _exceeds(claim, values):
                    counts[rule][name != "s11" or not more] += 1
        for rule, (right, false) in counts.items():
            rows.append(
                {"planted": truth, "rule": rule, "replicates": replicates, "right": right / replicates, "false": false / replicates}
            )
    rate = {(r["planted"], r["rule"]): r for r in rows}
    assert rate["none", "halves"]["false"] * replicates <= most(replicates, ALPHA)
    assert rate["three tenths more", "halves"]["right"] > 0.8
    if effort.full:
        assert rate["none", "same items"]["false"] * replicates > most(replicates, ALPHA)
    effort.write("sensitivity_slices", rows)


def _exceeds(claim: Claim, values: list[float | None]) -> bool:
    """The judge's decision without its interval, which costs most of its time."""
    from harness.stats.betting import bounded_mean_tests, seeded_order

    assert claim.support is not None
    known = [v for v in values if v is not None]
    return bounded_mean_tests(known, claim.support, 0.0, seeded_order(len(known), claim.id), direction="above").p_hold <= claim.level
