"""Leaks of a training set into reference sets, beside the usual way: 13-grams in a dictionary, as in lm-evaluation-harness.

    pytest suites/selftest/bench/bench_leakage.py

Rows and items are made up, with leaks among them. With data of your own (JSONL of messages; any file of items):

    LEAKAGE_ROWS=train.jsonl LEAKAGE_ITEMS=test.jsonl pytest suites/selftest/bench/bench_leakage.py

Not collected by default: times are for people to read, no test asserts one. The index is made before: see ``test_the_index``.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from harness.audit import forms, model, text
from harness.audit.leakage import Item, Leakage, References
from harness.audit.leakage.index import Index
from harness.audit.rows import read
from suites.selftest.audit.making import batch, rows_of

pytestmark = pytest.mark.selftest


def made_up(rng):
    words = [f"{a}{b}" for a in "bcdfglmnprst" for b in ("a", "en", "ir", "ol", "um", "ask", "ent", "ing", "over", "th")] * 2
    items = [" ".join(rng.choices(words, k=rng.randrange(20, 90))) for _ in range(3_000)]
    rows = [" ".join(rng.choices(words, k=rng.randrange(10, 120))) for _ in range(20_000)]
    for i in range(0, len(rows), 100):
        rows[i] += " " + items[i % len(items)][:200]
    return batch([[("user", "prompt", row)] for row in dict.fromkeys(rows)]), References(
        "made_up", tuple(Item(str(i), (said,)) for i, said in enumerate(items))
    )


@pytest.fixture(scope="module")
def data():
    if "LEAKAGE_ROWS" not in os.environ:
        return made_up(random.Random(0))
    chunks = list(read([Path(os.environ["LEAKAGE_ROWS"])]))
    raw, digests = [row for chunk in chunks for row in chunk.raw], np.concatenate([chunk.digests for chunk in chunks])
    _, first = np.unique(digests, axis=0, return_index=True)
    rows = model.Batch(forms.parse([raw[i] for i in first], digests[first], forms.Shape()))
    return rows, References.of_file("items", Path(os.environ["LEAKAGE_ITEMS"]))


def by_dictionary(rows, references):
    """Texts that share thirteen words in a row with an item."""

    def grams(said):
        words = text.canonical(said)
        return {tuple(words[i : i + 13]) for i in range(len(words) - 12)}

    known = set().union(*(grams(" ".join(item.texts)) for item in references.items))
    return {i for i in range(len(rows.texts)) if not known.isdisjoint(grams(rows.texts.str(i)))}


def test_the_index(benchmark, data):
    benchmark.group = "leakage: the index"
    index = benchmark.pedantic(lambda: Index((data[1],)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["items"] = len(index.labels)


def test_rows_ours(benchmark, data):
    """All four proofs, each verified on the words."""
    benchmark.group = "leakage: rows"
    check = Leakage((data[1],), common=10**9, common_items=10**9)
    rows = data[0]
    check.partial(batch([[("user", "prompt", "warm")]]))
    facts = benchmark.pedantic(lambda: check.partial(model.Batch(rows.record)), rounds=3, warmup_rounds=1)
    benchmark.extra_info["rows"] = rows.n
    physical = rows_of(rows)
    report = check.finish(model.numbered(facts, "text", physical.text_digests), physical, model.in_turn)
    assert report.findings.num_rows


def test_rows_rival_a_dictionary(benchmark, data):
    """13-grams alone."""
    benchmark.group = "leakage: rows"
    assert benchmark.pedantic(lambda: by_dictionary(*data), rounds=1)
