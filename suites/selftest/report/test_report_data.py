"""The page about data: each number stands in the evidence, rows can be looked at, and nothing a stranger wrote breaks it."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import evidence, report
from harness.bounds import at_least, at_most, identical
from harness.judge import not_evaluated
from harness.report import markdown, view
from harness.report.bars import Histogram, histogram
from harness.report.data import planted
from harness.report.datasets import datasets_of, kinds_of
from harness.report.html import render
from harness.report.view import ClaimView, RunView
from harness.types import Claim, Measurement, Sample, Subject
from suites.selftest.report.conftest import Folder
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both, records

pytestmark = pytest.mark.selftest

EDGES = sorted({0, *(1 << k for k in range(25)), *(3 << k for k in range(23))})
SECTIONS = ("data", "lengths", "clusters", "leaks", "findings", "planted")


# --- a run as the suite of data claims leaves it --------------------------------------------------


def spread(rng: random.Random, n: int, middle: float, width: float) -> dict[str, Any]:
    """Lengths as a check sums them up: quantiles and a histogram."""
    values = sorted(int(math.exp(rng.gauss(math.log(middle), width))) + 1 for _ in range(n))
    counts = [sum(low <= v < high for v in values) for low, high in zip(EDGES, [*EDGES[1:], math.inf], strict=True)]
    quantiles = {f"p{round(100 * q)}": values[math.ceil(q * n) - 1] for q in (0.5, 0.95, 0.99)}
    return {"exact": True, **quantiles, "max": values[-1], "histogram": counts}


def lengths(rng: random.Random, rows: int, context: int, over: int, *, sample: bool = False) -> dict[str, Any]:
    tokens = spread(rng, 3000, 420, 0.9)
    if sample:
        tokens |= {"exact": False, **{f"{q}_interval": [int(tokens[q] * 0.9), int(tokens[q] * 1.1)] for q in ("p50", "p95", "p99")}}
    told = {
        "context": context,
        "over_context": over,
        "answer_truncated": over // 3,
        "template_refuses": 0,
        "share_over_context": over / rows,
    }
    return {
        "rows": rows, "distinct_rows": rows - rows // 7, "edges": EDGES, "outliers": {"rows": 12},
        "chars": spread(rng, 3000, 1700, 0.9), "words": spread(rng, 3000, 300, 0.9),
        "tokens": {**tokens, **told, "drawn": 12_436 if sample else rows, "rate": 1 / 64 if sample else 1.0},
    }  # fmt: skip


def finding(check: str, kind: str, **more: Any) -> dict[str, Any]:
    return {"check": check, "kind": kind, **more}


def rows_of(rows: int, found: list[dict[str, Any]], value: float) -> tuple[Sample, ...]:
    """One sample for each row with findings, one for all others."""
    named = [Sample(f"train.jsonl:{7 * i + 3} (row {7 * i + 2})", value, detail={"findings": [f]}) for i, f in enumerate(found)]
    return (*named, Sample("rows without findings", 1.0 - value, weight=float(rows - len(named))))


LEAKAGE = {
    "sets": {
        "addresses": {"items": 560, "leaked": 3, "equal": 1, "near": 1, "13-gram": 0, "8-gram": 1, "clean": 557},
        "commonsense": {"items": 1183, "leaked": 0, "equal": 0, "near": 0, "13-gram": 0, "8-gram": 0, "clean": 1183},
        "boolq_validation": {"items": 3270, "leaked": 2510, "equal": 2488, "near": 12, "13-gram": 10, "8-gram": 0, "clean": 760},
    },
    "rows": 2533,
    "map": [
        {"set": "addresses", "file": "train-00.jsonl", "rows": 3, "items": 3},
        {"set": "boolq_validation", "file": "train-00.jsonl", "rows": 2490, "items": 2490},
        {"set": "boolq_validation", "file": "train-01.jsonl", "rows": 40, "items": 20},
    ],
    "boilerplate": {
        "grams": 118, "texts": 4, "rows": 1204, "items": 17,
        "top_grams": [{"words": "answer with yes or no and nothing else", "rows": 9427, "items": 3270}],
        "top_texts": [{"words": "you are a helpful assistant", "of": 5, "rows": 287_681, "items": 12}],
    },
    "short": {"rows": 40, "items": 2, "texts": 1, "top_texts": []},
}  # fmt: skip

NEAR = {
    "rows": 938_548, "units": 790_214, "without_messages": 0, "threshold": "4/5", "k": 3, "findings": 61_204, "clusters": 20_411,
    "in_clusters": 81_615, "sizes": {"2-3": 17_210, "4-7": 2_400, "8-15": 612, "16-31": 150, "1024-2047": 1},
    "largest": [
        {"row": 4_411, "size": 1_204, "stay": 3, "least": "13/29", "chain": True},
        {"row": 92_004, "size": 31, "stay": 1, "least": "41/50", "chain": False},
        {"row": 7, "size": 30, "stay": 1, "least": None, "chain": None, "why": "comparing all pairs would read 9 shingles; the limit is 8"},
    ],
    "chains": 12, "least_unknown": 1,
    "template": {
        "common": 1000, "texts": 12, "shingles": 5_211, "of_shingles": 41_200_113, "occurrences": 90_000_000, "of_occurrences": 4e8,
        "units_without_words": 3, "units_left_with_nothing": 44, "units_that_lost_four_fifths": 1_200,
    },
}  # fmt: skip

DUPLICATES = {
    "rows": 938_548, "by_file": {"0": 142_150}, "without_messages": 0,
    "exact": {"rows": 142_150, "clusters": 90_001, "sizes": {"2": 70_000, "3-4": 19_000, "5-8": 1_000, "513-1024": 1},
              "largest": [{"first": 12, "rows": 811}, {"first": 90, "rows": 8}]},
    "canonical": {"rows": 144_000, "clusters": 91_200, "sizes": {"2": 71_000, "3-4": 19_100, "5-8": 1_100}, "not_exact": 1_850,
                  "largest": [{"first": 12, "rows": 815}]},
    "ignoring_system": {"rows": 150_000},
}  # fmt: skip

PROOF = {
    "kinds": {kind: {"planted": 20, "found": 20} for kind in ("duplicates.exact", "near.near", "schema.unreadable", "private.email")}
    | {"leakage.8-gram": {"planted": 20, "found": 18}},
    "not_planted": {"splits.row_in_two_splits": "the dataset has one split"},
    "false_alarms": 2, "rows": 20_000,
}  # fmt: skip


def _add(run: Folder, claim: Claim, samples: tuple[Sample, ...], name: str, **told: Any) -> None:
    who = (Subject(name, "data", f"{name}.jsonl", "ab" * 32),)
    run.add(claim, Measurement("findings", samples, who, {"dataset": name, "rows": 938_548, **told}))


def add_large(run: Folder, name: str = "train") -> None:
    """A large dataset with something wrong in every family."""
    n, rng = 938_548, random.Random(5)
    exact = [finding("duplicates", "exact", partner="train.jsonl:12", detail="the same bytes") for _ in range(60)]
    samples = (*rows_of(n - 142_090, exact, 1.0), Sample("further rows with findings", 1.0, weight=142_090.0))
    share = {"estimand": "exact_share"}
    _add(run, Claim(f"D1.exact[{name}]", "few are equal", at_most(0.01), **share), samples, name, duplicates=DUPLICATES,
         read={"files": ["train.jsonl"], "rows": n, "distinct_rows": 796_398, "bytes": 685_000_000})  # fmt: skip
    form = rows_of(n, [finding("duplicates", "canonical", detail="the same but for case")] * 5, 1.0)
    _add(run, Claim(f"D1.canonical[{name}]", "few are equal but for form", at_most(0.01), **share), form, name, duplicates=DUPLICATES)
    near = [finding("near", "near", partner="train.jsonl:9", num=41, den=50, score=0.82) for _ in range(30)]
    _add(run, Claim(f"D1.near[{name}]", "few are nearly equal", at_most(0.05), **share), rows_of(n, near, 1.0), name, near=NEAR)
    for set_name, told in LEAKAGE["sets"].items():
        items = [
            Sample(f"{set_name}/i-{i:04d}", 0.0, detail={"proof": kind, "line": 100 + i, "score": "9/9", "rows": 1 + i % 3})
            for i, kind in enumerate(["8-gram"] * told["8-gram"] + ["equal"] * min(60, told["equal"]) + ["near"] * told["near"])
        ]
        rest = (Sample("items that no row touches", 1.0, weight=float(told["clean"])),)
        _add(run, Claim(f"D2.leakage[{name},{set_name}]", "no item leaks", identical()), (*items, *rest), name, leakage=LEAKAGE)
    over = [finding("lengths", "over_context", num=2100 + i, den=2048, detail=f"{2100 + i} tokens; the context has 2048") for i in range(9)]
    _add(run, Claim(f"D3.context[{name}]", "rows fit", at_most(0.01), **share), rows_of(n, over, 1.0), name,
         lengths=lengths(rng, n, 2048, 9, sample=True))  # fmt: skip
    mail = [finding("private", "email", message=1, start=4, end=20, detail="j***@e***.com"), finding("private", "iban", detail="DE**")]
    private = {"confirmed": {"email": {"findings": 14, "rows": 12}, "iban": {"findings": 1, "rows": 1}},
               "possible": {"phone": {"findings": 310, "rows": 290}}, "texts": 300}  # fmt: skip
    _add(run, Claim(f"D4.personal[{name}]", "no personal data", identical()), rows_of(n, mail, 0.0), name, private=private)
    _add(run, Claim(f"D4.secrets[{name}]", "no secret", identical()), rows_of(n, [], 0.0), name, private=private)
    canaries = tuple(Sample(f"c-{i}", float(i != 3)) for i in range(400))
    _add(run, Claim(f"D4.canaries[{name}]", "planted canaries are found", at_least(0.95)), canaries, name)
    caught = tuple(Sample(f"p-{i}", float(i > 1)) for i in range(100))
    _add(run, Claim(f"D5.caught[{name}]", "each planted row is caught", identical()), caught, name, proof=PROOF)
    _add(run, Claim(f"D5.quiet[{name}]", "clean rows pass", at_most(1e-4), **share), rows_of(20_000, near[:2], 1.0), name, proof=PROOF)
    blocked = [*exact[:2], *near[:2], *mail, *over[:2]] * 4
    _add(run, Claim(f"D5.blocked[{name}]", "five rows to look at", at_least(0), "exact"), rows_of(n, blocked, 1.0), name)
    kinds = {
        "no_answer": {"severity": "violation", "rows": 3, "findings": 3},
        "unusual_order": {"severity": "remark", "rows": 4, "findings": 5},
    }
    wrong = [finding("schema", "no_answer", message=2, detail="the last message is of the role user")] * 3
    _add(run, Claim(f"D6.schema[{name}]", "rows are well formed", identical()), rows_of(n, wrong, 0.0), name,
         schema={"kinds": kinds, "violations": 3, "rows_with_violations": 3})  # fmt: skip
    odd = {"kinds": {"control": {"severity": "violation", "rows": 2, "findings": 2}}, "violations": 2, "rows_with_violations": 2}
    control = [finding("characters", "control", num=1, detail="U+0007, once")] * 2
    _add(run, Claim(f"D6.characters[{name}]", "characters are sound", identical()), rows_of(n, control, 0.0), name, characters=odd)
    conflicts = {"conflict": {"prompts": 2, "rows": 4}, "conflict_form": {"prompts": 0, "rows": 0}, "label": {"prompts": 0, "rows": 0}}
    _add(run, Claim(f"D6.conflicts[{name}]", "no prompt has two answers", identical()), rows_of(n, [], 0.0), name, conflicts=conflicts)


def add_small(run: Folder, name: str, rows: int = 900) -> None:
    """A small dataset with nothing wrong; what it cannot be asked is not evaluated."""
    rng = random.Random(name)
    none = {
        "rows": rows,
        "exact": {"rows": 0, "clusters": 0, "sizes": {}, "largest": []},
        "canonical": {"rows": 0, "not_exact": 0, "sizes": {}},
    }
    for kind in ("exact", "canonical"):
        claim = Claim(f"D1.{kind}[{name}]", "few are equal", at_most(0.01), estimand="exact_share")
        _add(run, claim, rows_of(rows, [], 1.0), name, duplicates=none, rows=rows)
    _add(run, Claim(f"D3.context[{name}]", "rows fit", at_most(0.01), estimand="exact_share"), rows_of(rows, [], 1.0), name,
         lengths=lengths(rng, rows, 512, 4), rows=rows)  # fmt: skip
    _add(run, Claim(f"D6.schema[{name}]", "well formed", identical()), rows_of(rows, [], 0.0), name, schema={"kinds": {}}, rows=rows)
    claim = Claim(f"D7.disjoint[{name}]", "splits are disjoint", identical())
    run.add(claim, verdict=not_evaluated(claim, "splits", "one split"))
    facts = tuple(Sample(key, float(key != "licence"), detail={"stated": ""}) for key in ("source", "licence", "version", "changes"))
    _add(run, Claim(f"D9.described[{name}]", "it is said what the data are", identical()), facts, name, rows=rows)
    _add(
        run, Claim(f"R5.bytes[{name}]", "the same bytes", identical()), (Sample("declared", 1.0, detail={"sha256": "ab"}),), name, rows=rows
    )


def data_run(path: Path, *, small: tuple[str, ...] = ("addresses_train", "calibration_addresses")) -> Path:
    run = Folder(path)
    add_large(run)
    for name in small:
        add_small(run, name)
    return run.close()


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Path:
    """Three datasets, rendered once."""
    run = data_run(tmp_path_factory.mktemp("data") / "run")
    report.write(run)
    return run
