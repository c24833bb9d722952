"""The report shows what the run folder holds: all of it, only that, harmlessly, and the same each time."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import evidence, report
from harness.bounds import at_least, at_most, identical, non_inferior
from harness.judge import not_evaluated
from harness.report import markdown, view
from harness.report.markup import differing, said
from harness.report.text import clean, number, one_line
from harness.types import Claim, Control, Measurement, Sample, Verdict
from suites.selftest.report.reading import HOSTILE, UNSEEN, Page, both, records

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module")
def big(tmp_path_factory, make_big) -> Path:
    """A run as large as a real one, rendered once."""
    run = make_big(tmp_path_factory.mktemp("big") / "run")
    report.write(run)
    return run


# --- a page that stands alone --------------------------------------------------------------------


def test_page_loads_and_runs_nothing(big):
    text = (big / "report.html").read_text("utf-8")
    page = Page(text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert not page.tags & {"script", "iframe", "object", "embed", "link", "img", "form", "base", "audio", "video", "use", "image"}
    assert not {name for name in page.attributes if name.startswith("on") or name in ("src", "srcset", "style", "action", "xlink:href")}
    assert "url(" not in text
    assert "@import" not in text


def test_page_is_well_formed_and_its_links_lead_somewhere(big):
    page = Page((big / "report.html").read_text("utf-8"))
    assert page.wrong == []
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    inside = {link[1:] for link in page.links if link.startswith("#")}
    assert inside <= set(page.ids)
    outside = [link for link in page.links if not link.startswith("#")]
    assert outside
    assert all((big / link).is_file() for link in outside)


def test_every_drawing_has_a_name(big):
    page = Page((big / "report.html").read_text("utf-8"))
    assert len(page.images) > 40
    assert all(image["role"] == "img" and len(image["aria-label"] or "") > 20 for image in page.images)


def test_every_section_of_a_full_run_is_there(big):
    page = Page((big / "report.html").read_text("utf-8"))
    wanted = {"claims", "builds", "tradeoff", "differences", "distributions", "flips", "controls", "provenance", "evidence", "check"}
    assert wanted <= set(page.ids)


# --- the same bytes each time --------------------------------------------------------------------


def test_rendering_again_gives_the_same_bytes_anywhere(big, tmp_path):
    before = {name: (big / name).read_bytes() for name in ("report.html", "summary.md")}
    copy = tmp_path / "elsewhere"
    shutil.copytree(big, copy)
    evidence.seal_bundle(copy)  # made after rendering, so it may not shape it
    report.write(copy)
    assert {name: (copy / name).read_bytes() for name in before} == before


def test_the_rendered_run_can_be_sealed_and_rechecked(big):
    from harness.recheck import recheck

    evidence.seal_bundle(big)
    assert recheck(big).problems == ()


# --- numbers equal the evidence ------------------------------------------------------------------


def test_numbers_shown_equal_the_evidence(big):
    text = (big / "report.html").read_text("utf-8")
    summary = (big / "summary.md").read_text("utf-8")
    articles = re.findall(r"<article id=.*?</article>", text)
    assert len(articles) == len(records(big))
    for record in records(big):
        verdict, claim = record["verdict"], view.of_record(record)
        (article,) = [a for a in articles if f'id="{claim.anchor}"' in a]
        (row,) = [line for line in summary.splitlines() if line.startswith("|") and f"| {markdown.escape(claim.id)} |" in line]
        for key in ("estimate", "low", "high", "p_hold", "p_fail"):
            if verdict[key] is not None and verdict["estimate"] is not None:
                assert f">{json.dumps(verdict[key])}<" in article
        for key in ("estimate", "low", "high"):
            assert verdict[key] is None or number(verdict[key]) in row
        assert str(verdict["n"]) in row


def test_accuracy_of_either_arm_is_counted_from_the_rows(big):
    record = next(r for r in records(big) if r["claim"]["id"] == "Q1.accuracy[addresses,gguf-q4_0]")
    rows = view.load(big)
    claim = next(c for c in rows.claims if c.id == record["claim"]["id"])
    right = {arm: sum(s.value == 1 for s in claim.samples if s.arm == arm) for arm in ("new", "old")}
    text = (big / "report.html").read_text("utf-8")
    assert f">{right['new']}/560<" in text
    assert f">{right['old']}/560<" in text


# --- every outcome, and what is missing ----------------------------------------------------------


def every_outcome(folder) -> Path:
    run = folder()
    share = lambda k: Measurement("m", tuple(Sample(f"i-{i}", float(i < k)) for i in range(100)))  # noqa: E731
    run.add(Claim("T1.holds", "a share", at_least(0.8)), share(99))
    run.add(Claim("T1.fails", "a share", at_least(0.8)), share(10))
    run.add(Claim("T1.inconclusive", "a share", at_least(0.8), expected=0.9), share(82))
    missing = Claim("T1.missing", "needs a GPU", identical())
    run.add(missing, verdict=not_evaluated(missing, "gpu", "no GPU; run it where there is one"))
    run.add(Claim("T1.error", "raises", identical()), verdict=Verdict("error", "exception", "ValueError: boom"))
    run.add(Claim("T1.known", "a share", at_least(0.8)), share(10), expect="fails", why="issue 12")
    run.add(Claim("T1.lost", "left nothing", identical()))
    return run.close(exit_status=1)


def test_every_outcome_is_shown(folder):
    run = every_outcome(folder)
    text, summary = both(run)
    for outcome, sign in (("holds", "✓"), ("fails", "✗"), ("inconclusive", "?"), ("not evaluated", "–"), ("error", "!"), ("lost", "∅")):
        assert f"{sign} {outcome}" in text
        assert f"{sign} {outcome}" in summary
    line = "1 fails, 1 is inconclusive, 1 was not evaluated, 1 ended in an error, 1 left no evidence"
    for shown in (text, summary):
        assert f"{line}; 1 of 6 gating claims hold; 1 known to fail" in shown
    for sentence in ("no GPU; run it where there is one", "ValueError: boom", "issue 12"):
        assert sentence in text
        assert sentence in summary


def test_lost_claims_are_named(folder):
    text, summary = both(every_outcome(folder))
    assert "lost: planned, but without evidence: T1.lost" in text
    assert "lost: planned, but without evidence: T1.lost" in summary


def test_many_lost_claims_are_all_named_without_hiding_the_rest(folder):
    run = folder()
    for i in range(40):
        run.add(Claim(f"T1.lost[{i}]", "left nothing", identical()))
    text, summary = both(run.close())
    for i in range(40):
        assert f"T1.lost<wbr>[{i}]" in text
        assert f"T1.lost\\[{i}\\]" in summary
    assert "T1.lost[7] and 32 more" in text


def test_only_a_finished_full_run_in_which_all_hold_may_say_so(folder):
    for tier, finished, wanted in (("full", True, True), ("smoke", True, False), ("full", False, False)):
        run = folder(f"{tier}-{finished}", tier=tier)
        for i in range(3):
            run.add(Claim(f"T1.c{i}", "x", identical()), Measurement("m", (Sample("a", 1.0),)))
        text, summary = both(run.close(run_json=finished))
        assert ('class="release good"' in text) is wanted
        assert ("**all 3 gating claims hold**" in summary) is wanted
        assert ("smoke: a subset; not proof" in text) is (tier == "smoke")
        assert ("smoke: a subset; not proof" in summary) is (tier == "smoke")
        assert ("cut short" in text) is (not finished)
        assert ("cut short" in summary) is (not finished)


def test_a_claim_known_to_fail_that_holds_is_told(folder):
    run = folder()
    run.add(Claim("T1.a", "x", identical()), Measurement("m", (Sample("a", 1.0),)), expect="fails", why="once broken")
    text, _ = both(run.close())
    assert "no claim gates; 1 known to fail did not fail this time" in text


@pytest.mark.parametrize("what", ["nothing at all", "a plan alone", "an empty plan"])
def test_empty_runs_are_shown_as_empty(folder, tmp_path, what):
    run = tmp_path / "run"
    if what == "nothing at all":
        run.mkdir()
    elif what == "a plan alone":
        planned = folder()
        planned.add(Claim("T1.a", "x", identical()))
        run = planned.close(run_json=False)
    else:
        run = folder().close()
    text, summary = both(run)
    wanted = "1 left no evidence; 0 of 1 gating claims hold" if what == "a plan alone" else "no claims: nothing was planned"
    assert wanted in text
    assert wanted in summary
    assert 'class="release good"' not in text
    assert Page(text).open == []


def test_broken_files_are_named_and_the_rest_is_shown(folder):
    run = every_outcome(folder)
    (run / "evidence" / "half.json").write_text('{"claim": {"id"', "utf-8")
    (run / "evidence" / "list.json").write_text("[]", "utf-8")
    text, summary = both(run)
    for name in ("evidence/half.json", "evidence/list.json"):
        assert name in text
        assert name.replace("_", "\\_") in summary
    assert "T1.holds" in text


@pytest.mark.parametrize("how", ["changed", "missing", "outside"])
def test_rows_that_are_not_the_ones_named_are_not_shown(folder, tmp_path, how):
    run = folder()
    run.add(Claim("T1.exact", "x", identical()), Measurement("m", (Sample("row-of-old", 0.0),)))
    path = run.close()
    (file,) = (path / "samples").glob("*.gz")
    (kept,) = (path / "evidence").glob("*.json")
    if how == "changed":
        file.write_bytes(b"not gzip")
    elif how == "missing":
        file.unlink()
    else:
        shutil.copy(file, tmp_path / "rows.gz")
        kept.write_text(kept.read_text("utf-8").replace(f"samples/{file.name}", "../rows.gz"), "utf-8")
    text, _ = both(path)
    assert "its rows cannot be shown" in text
    assert "<summary>Rows" not in text


def test_evidence_of_another_plan_is_named(folder):
    path = every_outcome(folder)
    (kept,) = (p for p in (path / "evidence").glob("*.json") if "holds" in p.name)
    record = evidence.read_json(kept)
    evidence.write_atomic(kept, evidence.canonical({**record, "plan": "0" * 64}))
    text, _ = both(path)
    assert "made under another plan: T1.holds" in text


def test_families_that_are_not_known_are_shown(folder):
    run = folder()
    run.add(Claim("no-family-at-all", "x", identical()), Measurement("m", (Sample("a", 1.0),)))
    run.add(Claim("ZZ9.new[a,b]", "x", at_most(3), "exact"), Measurement("m", (Sample("a", 1.0),)))
    text, summary = both(run.close())
    for name in ("no-family-at-all", "ZZ9"):
        assert name in text
        assert name in summary


# --- hostile text --------------------------------------------------------------------------------


def hostile_run(folder, text: str) -> Path:
    run = folder()
    detail = {"text": text, "target": text, "finish": "stop", text[:40] or "k": text}
    old = [Sample(f"i-{i}", 1.0, "old", detail={"text": '{"a":"b"}', "target": "{}"}) for i in range(200)]
    new = [replace(s, arm="new", value=float(i > 11), detail=detail if i <= 11 else s.detail) for i, s in enumerate(old)]
    measured = Measurement(text[:99], tuple(new + old), conditions={text[:40]: text}, notes=(text,))
    gate = Control(text[:99] or "A/A", ("holds",), replace(measured, samples=tuple(replace(s, arm=a) for s in old for a in ("new", "old"))))
    run.add(Claim("Q1.accuracy[s,<b>x]", text + ".", non_inferior(0.05)), measured, controls=(gate,), why=text, test=text)
    run.add(Claim("Q4.types[<i>]", "x", identical()), Measurement("m", (Sample(text[:99] or "r", 0.0, detail=detail),)))
    run.add(Claim("T1.error", "x", identical()), verdict=Verdict("error", "exception", text))
    return run.close(finished=text[:50])


def test_hostile_text_is_shown_and_harmless(folder):
    text, summary = both(hostile_run(folder, HOSTILE))
    page = Page(text)
    assert "<script" not in text
    assert "<script" not in summary
    assert not page.tags & {"script", "b", "i", "img"}
    assert page.wrong == []
    assert not UNSEEN.search(text)
    assert not UNSEEN.search(summary)
    assert "&lt;script&gt;" in text
    assert "&lt;script&gt;" in summary
    assert "\\u202egnp.exe" in text  # a person who looks for the cause must see that it was there
    for live in ("@octocat", " #1", "https://evil", "[a](", " | $x$"):
        assert live not in summary


def test_a_megabyte_is_shortened_and_its_length_said(folder):
    text, summary = both(hostile_run(folder, "a<b " * 262_144))
    assert len(text) < 300_000
    assert len(summary.encode()) <= markdown.LIMIT
    assert "1,048,576 characters" in text
    assert "of 1,048,576" in text  # in the flips


def test_links_stay_inside_the_folder(folder):
    path = folder()
    path.add(Claim("T1.a", "x", at_least(0.5)), Measurement("m", (Sample("a", 1.0),)))
    run = path.close()
    (kept,) = (run / "evidence").glob("*.json")
    for place in ("//evil.example/x", "javascript:alert(1)", "https://evil.example/"):
        record = evidence.read_json(kept)
        record["measurement"]["samples"]["file"] = place
        evidence.write_atomic(kept, evidence.canonical(record))
        links = [link for link in Page(both(run)[0]).links if not link.startswith("#")]
        assert links
        assert all(link.startswith("./") and ":" not in link for link in links)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_is_harmless(text):
    shown = said(text)
    assert not UNSEEN.search(shown)
    assert Page(shown).tags == {"bdi"}
    assert not re.search("[\ud800-\udfff]", shown)
    assert not UNSEEN.search(one_line(text))
    assert len(one_line(text)) <= 200
    assert "\n" not in markdown.escape(text)
    assert not re.search(r"<(?!!-- -->)", markdown.escape(text))


@given(st.text(), st.text())
def test_marking_differences_keeps_both_texts(old, new):
    for text, shown in zip((old, new), differing(old, new), strict=True):
        parser = Text(shown)
        assert parser.said == (clean(text).replace("\r", "") if text else "(empty)")


class Text(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.said = ""
        self.feed(text)
        self.close()

    def handle_data(self, data: str) -> None:
        self.said += data


def test_differences_far_into_a_long_text_are_found():
    old, new = "a" * 5_000 + " right end", "a" * 5_000 + " wrong end"
    for shown, word in zip(differing(old, new), ("right", "wrong"), strict=True):
        assert f">{word}</mark>" in shown
        assert "of 5,010" in shown


# --- the summary and the line --------------------------------------------------------------------


def test_summary_of_a_huge_run_stays_small(folder):
    run = folder()
    for i in range(1_500):
        run.add(Claim(f"T{i % 40}.claim[{i}]", "x", identical()), verdict=Verdict("error", "exception", "boom " * 60))
    text, summary = both(run.close())
    assert len(summary.encode()) <= 60_000
    assert "Cut here" in summary
    assert summary.rstrip().endswith("```")
    assert text.count("<article") == 1_500


def test_tables_of_the_summary_have_even_columns(big):
    rows = [line for line in (big / "summary.md").read_text("utf-8").splitlines() if line.startswith("|")]
    counts = [len(re.findall(r"(?<!\\)\|", row)) for row in rows]
    heads = [i for i, row in enumerate(rows) if set(row) <= set("| -")]
    for start, end in zip(heads, [*[h - 1 for h in heads[1:]], len(rows)], strict=True):
        assert len({counts[i] for i in range(start - 1, end)}) == 1


def test_line_says_it_in_one_line(folder):
    lines = {r["claim"]["id"]: report.line(r) for r in records(every_outcome(folder))}
    assert lines["T1.holds"] == "holds          T1.holds  0.99 [0.9534, 0.9995]  n = 100"
    assert lines["T1.missing"] == "not_evaluated  T1.missing  no GPU; run it where there is one"
    assert lines["T1.error"] == "error          T1.error  ValueError: boom"
    assert lines["T1.fails"].startswith("fails          T1.fails  0.1 [")
    assert "the opposite is shown at p = " in lines["T1.fails"]


def test_line_of_hostile_text_is_one_short_line(folder):
    for text in (HOSTILE + "\n\r\nmore", "x" * 1_000_000):
        path = hostile_run(lambda text=text: folder(str(len(text))), text)
        shown = next(report.line(r) for r in records(path) if r["claim"]["id"] == "T1.error")
        assert len(shown) <= 15 + len("T1.error") + 2 + 200
        assert shown.isprintable()
