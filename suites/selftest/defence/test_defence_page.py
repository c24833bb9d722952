"""The page and the lines of a defence: every claim stands there once, and nothing that a report says is more than text."""

from __future__ import annotations

import copy
from html.parser import HTMLParser

import pytest

from harness.defence import page

pytestmark = pytest.mark.selftest

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202egpj.exe \ud800 \x00 & \"' </td></table>"


def entry(claim: str, outcome: str, **more) -> dict:
    side = {"outcome": "holds", "estimate": 0.5, "low": 0.4, "high": 0.6, "n": 500, "sentence": "0.5"}
    rows = {"old": 500, "new": 500, "both": 500, "only_old": 0, "only_new": 0, "binary": True, "changed": 12, "arms": {"one": [6, 6, 500]}}
    return {
        "claim": claim, "stage": "evals", "text": "it is good", "outcome": outcome, "why": "because", "report": side, "rerun": dict(side),
        "inside": [True, True], "rows": rows, "limit": 0.1, "tests": {"rate:one": 1.0, "drift": 0.5}, "significant": [],
        "changed": [], **more,
    }  # fmt: skip


def record(claims: list[dict], **more) -> dict:
    counts = {name: sum(each["outcome"] == name for each in claims) for name in page._ORDER}
    return {
        "schema": "defence/1", "report": {"lifecycle": "mine", "tier": "full", "seal": "ab" * 32, "claims": len(claims)},
        "measured_with": {"commit": "12" * 20, "here": False, "fresh_models": False, "only": []}, "stands": not counts["contradicts"],
        "sentence": "so many", "alpha": 0.05, "counts": counts, "problems": [], "notes": [], "pages": {"report.html": "this harness"},
        "surroundings": [], "releases": {"gguf-q8_0": {"old": "holds", "new": "inconclusive"}}, "claims": claims, **more,
    }  # fmt: skip


class Read(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def read(text: str) -> Read:
    found = Read()
    found.feed(text)
    return found


def test_every_claim_stands_there_with_both_sides():
    told = record([entry(f"c{i}", outcome) for i, outcome in enumerate(page._ORDER)])
    told["claims"][3] |= {"rerun": None, "why": "no GPU"}
    seen = read(page.render(told))
    for i in range(4):
        assert seen.text.count(f"c{i}it is good") == 1
    for shown in ("0.5 [0.4, 0.6]", "12 of 500", "R3 allows 0.1", "no GPU", "gguf-q8_0", "The report does not stand"):
        assert shown in seen.text
    assert not {"script", "link", "img", "iframe"} & set(seen.tags)
    assert page.render(copy.deepcopy(told)) == page.render(told)  # the same record, the same bytes


def test_what_a_report_says_is_only_text():
    clean = read(page.render(record([entry("c", "contradicts")], problems=["p"], notes=["n"], surroundings=["s"])))
    hostile = record(
        [entry(HOSTILE, "contradicts", text=HOSTILE, why=HOSTILE, tests={HOSTILE: 0.01, "rate:one": 1.0, "drift": 0.5})],
        problems=[HOSTILE], notes=[HOSTILE], surroundings=[HOSTILE],
    )  # fmt: skip
    hostile["report"] |= {"lifecycle": HOSTILE, "tier": HOSTILE}
    hostile["measured_with"] |= {"commit": HOSTILE, "only": [HOSTILE]}
    hostile["claims"][0]["report"] |= {"outcome": HOSTILE}
    text = page.render(hostile)
    seen = read(text)
    assert set(seen.tags) == set(clean.tags)
    assert not [name for name, _ in seen.attributes if name.startswith("on") or name == "src"]
    assert not {"\u202e", "\x00"} & set(text)
    text.encode("utf-8")
    for line in page.lines(hostile):
        assert "\n" not in line and "\u202e" not in line


def test_on_a_terminal_the_worst_comes_first_and_a_crowd_is_counted():
    many = [entry(f"b{i}", "contradicts") for i in range(30)] + [entry("a", "agrees"), entry("z", "not rerun", rerun=None)]
    shown = list(page.lines(record(many)))
    assert shown[1].startswith("✗ contradicts  b0")
    assert "  … and 10 more" in shown
    assert not any(line.endswith("  a  because") for line in shown)
    assert shown[-1] == "DOES NOT STAND: so many"
