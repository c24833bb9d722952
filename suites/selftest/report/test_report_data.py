"""The page about data: each number stands in the evidence, rows can be looked at, and nothing a stranger wrote breaks it."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import report
from harness.bounds import at_least, at_most, identical
from harness.judge import not_evaluated
from harness.report import markdown, view
from harness.report.bars import Histogram
from harness.report.data import findings, overview, planted
from harness.report.datasets import datasets_of, kinds_of
from harness.report.html import render
from harness.report.spread import clusters, leaks
from harness.report.spread import lengths as lengths_of
from harness.report.text import number
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
    "kinds": {kind: {"planted": 20, "found": 20} for kind in ("exact_duplicate", "near_duplicate", "unreadable", "email")}
    | {"leaked_item": {"planted": 20, "found": 18}},
    "not_planted": {"row_in_two_splits": "the dataset has one split"},
    "false_alarms": 2, "rows": 620, "twin": {"rows": 500, "findings": 0},
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
    _add(run, Claim(f"D4.private[{name}]", "nothing private", identical()), rows_of(n, mail, 0.0), name, private=private)
    canaries = tuple(Sample(f"c-{i}", float(i != 3)) for i in range(400))
    _add(run, Claim(f"D4.canaries[{name}]", "planted canaries are found", at_least(0.95)), canaries, name)
    caught = tuple(Sample(f"leaked_item, line {7 * i}", float(i > 1), detail={"check": "leakage"}) for i in range(100))
    _add(run, Claim(f"D5.caught[{name}]", "each planted row is caught", identical()), caught, name, proof=PROOF)
    _add(run, Claim(f"D5.quiet[{name}]", "clean rows pass", at_most(1e-4), **share), rows_of(20_000, near[:2], 1.0), name, proof=PROOF)
    blocked = [*exact[:2], *near[:2], *mail, *over[:2]] * 4
    places = tuple(Sample(f"raw.jsonl:{9 * i + 4}", 4711.0, detail={"findings": [f]}) for i, f in enumerate(blocked))
    _add(run, Claim(f"D5.blocked[{name}]", "five rows to look at", at_least(5), "exact"), places, name, blocked=4711, slipped=0)
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
    facts = tuple(
        Sample(key, float(key != "licence" or name != "addresses_train"), detail={"stated": ""})
        for key in ("source", "licence", "version", "changes")
    )
    _add(run, Claim(f"D9.described[{name}]", "it is said what the data are", identical()), facts, name, rows=rows)
    _add(
        run, Claim(f"R5.bytes[{name}]", "the same bytes", identical()), (Sample("declared", 1.0, detail={"sha256": "ab"}),), name, rows=rows
    )


def add_detector(run: Folder) -> None:
    """A claim about the scan itself, on sentences of its own."""
    claim = Claim("D4.precision", "what is called private is", at_least(0.95))
    run.add(claim, Measurement("called", tuple(Sample(f"s-{i}", 1.0) for i in range(200)), (Subject("labelled", "data", "x", "cd" * 32),)))


def data_run(path: Path, *, small: tuple[str, ...] = ("addresses_train", "calibration_addresses")) -> Path:
    run = Folder(path)
    add_large(run)
    for name in small:
        add_small(run, name)
    add_detector(run)
    return run.close()


@pytest.fixture(scope="module")
def audited(tmp_path_factory) -> Path:
    """Three datasets, rendered once."""
    run = data_run(tmp_path_factory.mktemp("data") / "run")
    report.write(run)
    return run


def section(text: str, key: str) -> str:
    return re.search(rf'<section aria-labelledby="{key}">.*?</section>', text, re.S)[0]


def words(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


def lines(html: str) -> list[list[str]]:
    """The cells of each line of the tables."""
    return [[words(c).strip() for c in re.findall(r"<t[hd][ >].*?</t[hd]>", row, re.S)] for row in re.findall(r"<tr>.*?</tr>", html, re.S)]


def line(html: str, *begin: str) -> list[str]:
    (found,) = [cells for cells in lines(html) if tuple(cells[: len(begin)]) == begin]
    return found


# --- the whole page -------------------------------------------------------------------------------


def test_sections_stand_before_the_claims_and_the_page_is_sound(audited):
    text = (audited / "report.html").read_text("utf-8")
    page = Page(text)
    assert page.wrong == page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert tuple(i for i in page.ids if i in (*SECTIONS, "claims")) == (*SECTIONS, "claims")
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert len(page.images) > 3 + 3  # beside small ones in the table of claims
    assert all(image["role"] == "img" and len(image["aria-label"] or "") > 20 for image in page.images)
    assert not page.tags & {"script", "img", "link"}
    assert "url(" not in text


def test_families_of_data_come_first_and_have_titles(audited):
    families = [name for name, _ in view.load(audited).families]
    assert families == ["D1", "D2", "D3", "D4", "D5", "D6", "D7", "D9", "R5"]
    assert all(view.family_title(f"D{i}") for i in range(1, 10))
    summary = (audited / "summary.md").read_text("utf-8")
    assert summary.index("## Data") < summary.index("## What does not hold") < summary.index("## D1 · Duplicates")


def test_rendering_again_gives_the_same_bytes(audited):
    before = {name: (audited / name).read_bytes() for name in ("report.html", "summary.md")}
    report.write(audited)
    assert {name: (audited / name).read_bytes() for name in before} == before


def test_without_claims_about_data_nothing_is_added(folder):
    run = folder()
    run.add(Claim("Q1.flips[a,b]", "x", at_most(0.5)), Measurement("m", (Sample("a", 0.0),)))
    run.add(Claim("R5.bytes[train]", "the same bytes", identical()), Measurement("m", (Sample("a", 1.0),)))
    text, summary = both(run.close())
    assert not set(SECTIONS) & set(Page(text).ids)
    assert ".datasets" not in text
    assert "## Data" not in summary


# --- numbers --------------------------------------------------------------------------------------


def test_every_claim_has_a_cell_that_leads_to_it(audited):
    part = section((audited / "report.html").read_text("utf-8"), "data")
    run = view.load(audited)
    anchors = set(Page(part).links)
    several = [c for c in run.claims if c.name == "leakage"]
    assert anchors >= {f"#{c.anchor}" for c in run.claims if c not in several}
    assert len(anchors & {f"#{c.anchor}" for c in several}) == 1  # sets share a cell; it leads to one that fails
    assert {f"#{c.anchor}" for c in several if c.outcome == "fails"} & anchors


def test_overview_says_rows_sizes_and_the_number_that_matters(audited):
    part = section((audited / "report.html").read_text("utf-8"), "data")
    (head,) = [cells for cells in lines(part) if "canonical" in cells]
    (row,) = [cells for cells in lines(part) if cells[0].startswith("train")]
    cells = dict(zip(head, row[1:], strict=True))
    assert row[0] == "train 938,548 rows 796,398 distinct 685.0 MB"
    assert cells["exact"] == "✗ 15.1% 142,150"
    assert cells["canonical"] == "✓ < 0.01% 5"
    assert cells["leakage"] == "✗ 75 1 of 3 hold"
    assert cells["canaries"] == "✓ 99.8% 399 of 400"
    assert cells["blocked"] == "✓ 4711"
    assert cells["schema"] == "✗ 3"
    assert cells["disjoint"] == cells["precision"] == "–"
    small = [f"{name} 900 rows 772 distinct" for name in ("addresses_train", "calibration_addresses")]
    assert [row[0] for row in lines(part)[2:]] == [small[0], row[0], small[1], "labelled"]  # what fails stands first


def test_lengths_say_what_they_rest_on(audited):
    part = section((audited / "report.html").read_text("utf-8"), "lengths")
    (told,) = [r["measurement"]["conditions"]["lengths"] for r in records(audited) if r["claim"]["id"] == "D3.context[train]"]
    tokens, chars = told["tokens"], told["chars"]
    row = line(part, "train", "tokens")
    assert row[5:] == [f"{tokens['max']:,}", "2048", "9 < 0.01%", "3", "12,436 of 796,398 a sample, 95% intervals"]
    assert row[2] == f"{tokens['p50']} [{', '.join(map(str, tokens['p50_interval']))}]"
    assert line(part, "train", "characters")[2:4] == [number(chars["p50"]), number(chars["p95"])]
    assert line(part, "addresses_train", "tokens")[-1] == "every distinct row"
    marks = [f"p50 {tokens['p50']}", f"p95 {tokens['p95']}", "context 2048", f"p99 {tokens['p99']}", f"most {tokens['max']:,}"]
    assert f"train, by tokens in a row. {', '.join(marks)}" in [i["aria-label"] for i in Page(part).images]


def test_bars_stand_in_tables_too(audited):
    text = (audited / "report.html").read_text("utf-8")
    (told,) = [r["measurement"]["conditions"]["lengths"] for r in records(audited) if r["claim"]["id"] == "D3.context[train]"]
    bars = re.search(r"The bars in numbers</summary>(.*?)</details>", section(text, "lengths"), re.S)[1]
    column = lines(bars)[0].index("train")
    shown = {row[0]: row[column] for row in lines(bars)[1:] if row[column] != "–"}
    assert shown == {number(edge): number(n) for edge, n in zip(EDGES, told["tokens"]["histogram"], strict=True) if n}
    sizes = re.search(r"The bars in numbers</summary>(.*?)</details>", section(text, "clusters"), re.S)[1]
    assert line(sizes, "near", "8–15") == ["near", "8–15", "612"]


def test_clusters_are_counted_and_chains_named(audited):
    part = section((audited / "report.html").read_text("utf-8"), "clusters")
    assert line(part, "near", "1204") == ["near", "1204", "4411", "0.4483 13/29", "a chain; 3 stay"]
    assert line(part, "near", "31")[-1] == ""
    assert "the limit is 8" in line(part, "near", "30")[-1]
    assert [i["aria-label"].partition(". ")[2] for i in Page(part).images] == [
        "2: 70,000, 3–4: 19,000, 5–8: 1000, 513–1024: 1", "2: 71,000, 3–4: 19,100, 5–8: 1100",
        "2–3: 17,210, 4–7: 2400, 8–15: 612, 16–31: 150, 1024–2047: 1",
    ]  # fmt: skip
    assert "5211 of 41,200,113 different word triples stand in more than 1000 conversations" in words(part)
    assert "No two rows alike: addresses_train , calibration_addresses" in words(part)


def test_the_map_says_items_files_and_the_strongest_proof(audited):
    part = section((audited / "report.html").read_text("utf-8"), "leaks")
    assert line(part, "set") == ["set", "train", "train train-00.jsonl", "train train-01.jsonl"]
    assert line(part, "addresses") == ["addresses", "3 / 560 equal", "3 / 560", "0 / 560"]
    assert line(part, "commonsense") == ["commonsense", *["0 / 1183"] * 3]
    assert line(part, "boolq_validation")[1:] == ["2510 / 3270 equal", "2490 / 3270", "20 / 3270"]
    assert re.findall(r'class="num (h\d)"', part) == ["h1", "h1", "h0", "h4", "h4", "h1", "h0", "h0", "h0"]
    found = [row for row in lines(part) if "/i-" in row[0]]
    assert len(found) == 20
    assert found[0] == ["addresses/i-0001", "equal", "101", "9/9", "2"]
    assert "20 of 75 leaked items" in part
    assert "118 runs of eight words and 4 texts" in words(part)
    assert line(part, "answer with yes or no and nothing else")[1:] == ["9427", "3270"]


def test_findings_say_whether_they_block(audited):
    part = section((audited / "report.html").read_text("utf-8"), "findings")
    column = lines(part)[0].index("train")
    cell = {row[0]: row[column] for row in lines(part) if len(row) > column}
    assert cell["duplicates.exact"] == "142,150 blocks"
    assert cell["schema.no_answer"] == "3 blocks"
    assert cell["schema.unusual_order"] == "5 remark"
    assert cell["private.possible phone"] == "310 remark"
    assert cell["conflicts.conflict"] == "4"  # no row tells it: what it does is not said
    assert "conflicts.label" not in cell  # none was found


def test_a_list_of_all_findings_is_taken_before_the_summaries(folder):
    run = folder()
    listed = {"near.near": {"findings": 7, "rows": 6, "action": "remark"}, "outliers.long_run": {"findings": 2, "action": "block"}}
    _add(run, Claim("D1.near[t]", "x", identical()), (Sample("a", 1.0),), "t", near=NEAR, findings=listed)
    (dataset,) = datasets_of(view.load(run.close()))
    assert [(k.name, k.n, k.action) for k in kinds_of(dataset)] == [("near.near", 7, "remark"), ("outliers.long_run", 2, "block")]


def test_blocked_rows_can_be_looked_at(audited):
    part = section((audited / "report.html").read_text("utf-8"), "findings")
    assert line(part, "raw.jsonl:4") == ["raw.jsonl:4", "duplicates.exact", "train.jsonl:12", "the same bytes"]
    assert line(part, "raw.jsonl:22")[1] == "near.near 41/50"
    assert line(part, "raw.jsonl:40")[3] == "j***@e***.com"
    assert "20 of 4711 rows" in part


def test_planted_defects_are_told_kind_by_kind(audited):
    part = section((audited / "report.html").read_text("utf-8"), "planted")
    assert line(part, "train") == ["train", "100", "98", "✗ 2", "2", "620", "0", "500"]
    assert line(part, "leaked_item") == ["leaked_item", "✗ 18 / 20"]
    assert line(part, "email") == ["email", "✓ 20 / 20"]
    assert "Missed in train : leaked_item, line 0 ; leaked_item, line 7 ." in words(part)
    assert "row_in_two_splits : the dataset has one split" in words(part)


def test_the_summary_has_a_line_for_each_dataset(audited):
    summary = (audited / "summary.md").read_text("utf-8")
    (row,) = [one for one in summary.splitlines() if one.startswith("| train | 938,548")]
    assert "✗ D1.exact 15.1%" in row
    assert "✗ D2.leakage boolq\\_validation 72" in row
    assert row.endswith("98 of 100; 2 false alarms |")


def test_many_rows_and_datasets_make_no_large_page(folder):
    run = folder()
    many = rows_of(900_000, [finding("duplicates", "exact", partner="t:1", detail="the same bytes")] * 20_000, 1.0)
    _add(run, Claim("D1.exact[a]", "x", at_most(0.01), estimand="exact_share"), many, "a", duplicates=DUPLICATES)
    _add(run, Claim("D5.blocked[a]", "x", at_least(5), "exact"), many, "a")
    leaked = tuple(Sample(f"i-{i}", 0.0, detail={"proof": "equal", "line": i, "score": "1/1", "rows": 1}) for i in range(3_000))
    _add(run, Claim("D2.leakage[a,s]", "x", identical()), leaked, "a", leakage=LEAKAGE)
    for i in range(30):
        add_small(run, f"small-{i}")
    text, summary = both(run.close())
    parts = "".join(section(text, key) for key in ("data", "lengths", "clusters", "leaks", "findings"))
    assert len(parts) < 400_000
    assert "20 of 20,000 rows" in parts
    assert "20 of 3000 leaked items" in parts
    assert "20 of 31 datasets" in parts
    assert len(summary.encode()) <= markdown.LIMIT


# --- drawings -------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=30, unique=True), st.integers(0, 2 * 10**6), st.integers(0, 2 * 10**6))
def test_a_value_lies_in_its_bin_and_order_is_kept(edges, a, b):
    shown = Histogram(tuple(map(float, sorted(edges))), (1,) * len(edges))
    low, high = sorted((max(a, min(edges)), max(b, min(edges))))
    assert shown.place(low) <= shown.place(high)
    i = max(i for i, edge in enumerate(sorted(edges)) if edge <= low)
    assert i <= shown.place(low) <= i + 1


numbers = st.one_of(st.integers(-2, 10**18), st.floats(allow_nan=False), st.sampled_from([0, 1, 10**17, 10**17 + 1, 5e-324]))


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.booleans(), numbers, numbers)
def test_any_histogram_is_drawn_or_left_out(bins, ordered, mark, context):
    bins = sorted(bins) if ordered else bins
    told = {"p50": mark, "max": mark, "context": context, "histogram": [abs(n) for _, n in bins]}
    claim = ClaimView("D3.context[t]", "holds", measurement={"conditions": {"lengths": {"edges": [e for e, _ in bins], "tokens": told}}})
    shown = lengths_of(datasets_of(run_of([claim])))
    assert "nan" not in shown
    assert Page(shown).wrong == []
    assert line(shown, "t", "tokens")


# --- what is missing, what is hostile -------------------------------------------------------------


def sound(run: RunView) -> str:
    text = render(run)
    page = Page(text)
    assert page.wrong == page.open == []
    assert not page.tags & {"script", "b", "i", "img"}
    assert not UNSEEN.search(text)
    summary = markdown.render(run)
    assert not UNSEEN.search(summary)
    assert "<script" not in text + summary
    return text


def test_claims_without_evidence_or_conditions_are_still_listed(folder):
    run = folder()
    run.add(Claim("D1.near[lost]", "x", identical()))
    missing = Claim("D3.context[none]", "x", identical())
    run.add(missing, verdict=not_evaluated(missing, "tokenizer", "no tokenizer"))
    run.add(Claim("D6.schema[bare]", "x", identical()), Measurement("m", (Sample("a", 1.0),)))
    text = sound(view.load(run.close()))
    assert set(SECTIONS) & set(Page(text).ids) == {"data"}
    cells = {row[0]: row[1:] for row in lines(section(text, "data"))[2:]}
    assert cells == {"lost": ["∅", "–", "–"], "none": ["–", "–", "–"], "bare": ["–", "–", "✓ 0"]}


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-(10**400), 10**400), st.floats(allow_nan=False), st.just(HOSTILE), st.just([]), st.just({}),
    st.just([HOSTILE]), st.just({HOSTILE: HOSTILE}), st.just([{}]), st.just({"a": {"b": [None]}}),
)  # fmt: skip


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a structure, lists by their first three."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [at, *(p for key, one in inner for p in paths(one, (*at, key)))]


def replaced(value: Any, at: tuple[Any, ...], junk: Any) -> Any:
    if not at:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = replaced(value[at[0]], at[1:], junk)
    return copy


@pytest.fixture(scope="module")
def seen(audited) -> list[tuple[ClaimView, list[tuple[Any, ...]]]]:
    """The claims of the run with all places in what they say."""
    return [(c, paths(said_by(c))) for c in view.load(audited).claims if c.measurement]


def said_by(c: ClaimView) -> dict[str, Any]:
    return {
        "conditions": c.measurement["conditions"],
        "detail": c.samples[0].detail if c.samples else {},
        "statistics": c.verdict["statistics"],
    }


def with_(c: ClaimView, said: Any) -> ClaimView:
    said = said if isinstance(said, dict) and "detail" in said else {"conditions": said, "detail": {}, "statistics": said}
    detail = said["detail"] if isinstance(said["detail"], dict) else {"findings": said["detail"]}
    samples = (replace(c.samples[0], detail=detail), *c.samples[1:]) if c.samples else ()
    verdict = {**c.verdict, "statistics": said["statistics"]}
    return replace(c, measurement={**c.measurement, "conditions": said["conditions"]}, samples=samples, verdict=verdict)


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_evidence_that_says_anything_is_shown_in_part_and_harmless(seen, data):
    claims = []
    for _ in range(4):
        claim, places = data.draw(st.sampled_from(seen))
        claims.append(with_(claim, replaced(said_by(claim), data.draw(st.sampled_from(places)), data.draw(JUNK))))
    kept = {c.id: c for c in claims}
    datasets = datasets_of(run_of(kept.values()))
    for part in (overview, lengths_of, clusters, leaks, findings, planted):
        shown = part(datasets)
        page = Page(shown)
        assert page.wrong == page.open == []
        assert not page.tags & {"script", "b", "i", "img"}
        assert not UNSEEN.search(shown)
    assert "<script" not in markdown.render(run_of(kept.values()))


def run_of(claims: Iterable[ClaimView]) -> RunView:
    return RunView("", "full", {}, "", {"exit_status": 0}, tuple(claims), ())


def test_hostile_names_are_shown_and_harmless(folder):
    name = HOSTILE.replace(" ", "_").replace(",", "").replace("[", "").replace("]", "")
    run = folder()
    boilerplate = {"grams": 1, "texts": 1, "rows": 1, "items": 1, "top_grams": [{"words": HOSTILE, "rows": 1, "items": 1}]}
    cells = [{"set": HOSTILE, "file": file, "items": 2} for file in (HOSTILE, "b")]
    told = {"sets": {HOSTILE: {"items": 5, "leaked": 5, "equal": 5}}, "map": cells, "boilerplate": boilerplate}
    proof = {"kinds": {HOSTILE: {"planted": 2, "found": 1}}, "not_planted": {HOSTILE: HOSTILE}}
    rows = rows_of(9, [finding(HOSTILE, HOSTILE, partner=HOSTILE, detail=HOSTILE)], 0.0)
    leaked = (Sample(HOSTILE, 0.0, detail={"proof": HOSTILE, "line": HOSTILE, "score": [HOSTILE], "rows": {}}),)
    sizes = {"sizes": {HOSTILE: 3, "2": 1}, "largest": [{"first": 1, "rows": 2, "why": HOSTILE, "least": HOSTILE}]}
    _add(run, Claim(f"D1.{name}[{name}]", HOSTILE, identical()), rows, name, duplicates={"exact": sizes}, schema={"kinds": {HOSTILE: 3}})
    _add(run, Claim(f"D2.leakage[{name},{name}]", HOSTILE, identical()), leaked, name, leakage=told)
    _add(run, Claim(f"D3.context[{name}]", HOSTILE, identical()), rows, name, lengths=lengths(random.Random(1), 9, 512, 1))
    _add(run, Claim(f"D5.blocked[{name}]", HOSTILE, at_least(0), "exact"), rows, name, proof=proof)
    run.add(Claim("D4.precision", "x", identical()), Measurement("m", (Sample("a", 1.0),), (Subject(HOSTILE, "data", "x", "0" * 64),)))
    path = run.close()
    text = sound(view.load(path))
    assert set(SECTIONS) <= set(Page(text).ids)
    summary = both(path)[1]
    for live in ("@octocat", " #1", "https://evil", "[a](", " | $x$"):
        assert live not in summary
