"""R4, CD4, CD5: a report's numbers come from its files, its risk notes leave nothing out, and what it lacks it says.

Each is read off the finished page as a stranger would, and held against the evidence files, not against what rendered the page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from html import unescape

import pytest

from harness import Claim, Control, Measurement, Sample, evidence, identical
from harness.report.numbers import PAGES, Entry, resolved
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.capstone


def _section(page: str, name: str) -> str:
    found = re.search(rf'<section aria-labelledby="{name}">.*?</section>', page, re.DOTALL)
    return found.group() if found else ""


# --- R4 -----------------------------------------------------------------------------------------


@pytest.mark.claim(Claim("R4.numbers", "every number that the pages of a finished run show resolves to a file of that run", identical()))
def test_numbers_come_from_files(claim, capstone_run, reported):
    resolve = resolved(capstone_run)
    lying = {name: (capstone_run / name).read_text("utf-8") for name in PAGES}
    every = resolve(lying)
    table, top = _section(lying[PAGES[0]], "claims"), lying[PAGES[1]][:20_000]
    planted = {
        "an estimate in the table of claims": {PAGES[0]: _edited(table, r'<td class="num">-?\d\.(\d{3,})<span class="sub">\[')},
        "a limit in the name of a drawing": {PAGES[0]: _edited(table, r'aria-label="[^"]*\[-?0\.(\d{4,}), ')},
        "a margin": {PAGES[0]: _edited(table, r'<span class="sub">≤ 0\.(\d{1,})</span>')},
        "a number in the summary": {PAGES[1]: _edited(top, r"-0\.(\d{4,})")},
    }

    def measured(entries: Iterable[Entry]) -> Measurement:
        return Measurement("unmatched_numbers", tuple(_by_place(entries)), (reported,), {"run": capstone_run.name})

    claim.check(
        measured(every),
        controls=[
            Control("A/A: the table of claims as it is", HOLDS, measured(resolve({PAGES[0]: table}))),
            *(Control(f"planted: {what} edited", FAILS, measured(resolve(pages))) for what, pages in planted.items()),
        ],
    )


def _edited(page: str, pattern: str) -> str:
    """The page with another first digit in what ``pattern`` captures."""
    found = re.search(pattern, page)
    assert found is not None, f"nothing to edit: {pattern}"
    at = found.start(1)
    return page[:at] + str((int(page[at]) + 3) % 10) + page[at + 1 :]


def _by_place(entries: Iterable[Entry]) -> Iterable[Sample]:
    """A row for each page and section: 1 if all its numbers resolve, else the first few that do not."""
    places: dict[str, list[Entry]] = {}
    for entry in entries:
        places.setdefault(f"{entry.page}: {entry.where.partition(' > ')[0] or 'top'}", []).append(entry)
    for place, found in places.items():
        lost = [f"{e.shown} ({e.where})"[:200] for e in found if not e.source]
        yield Sample(place, float(not lost), detail={"numbers": len(found), "unmatched": len(lost), "first": lost[:5]})


# --- CD4 ----------------------------------------------------------------------------------------


@pytest.mark.claim(
    Claim("CD4.risks", "the risk notes mention every claim that fails or is inconclusive, and no claim that does not exist", identical())
)
def test_risks_leave_nothing_out(claim, capstone_run, reported):
    page = _section((capstone_run / PAGES[0]).read_text("utf-8"), "risks")
    verdicts = {
        r["claim"]["id"]: r["verdict"]["outcome"]
        for p in sorted((capstone_run / "evidence").glob("*.json"))
        if (r := evidence.read_json(p))
    }
    planned = {c["claim"]["id"]: "lost" for c in evidence.read_json(capstone_run / evidence.PLAN)["claims"]}
    outcomes = {**planned, **verdicts}
    rows = re.findall(r"<tr><th scope=\"row\".*?</tr>", page, re.DOTALL)
    mentioned = next((name for name, outcome in outcomes.items() if outcome == "holds"), "none")

    def measured(shown: str, told: Mapping[str, str]) -> Measurement:
        return Measurement("risk_notes", tuple(_notes(shown, told)), (reported,), {"run": capstone_run.name})

    controls = [Control("A/A: a run in which nothing is amiss, without notes", HOLDS, measured("", {mentioned: "holds"}))]
    if rows:
        controls += [
            Control("planted: a note is dropped", FAILS, measured(page.replace(rows[-1], ""), outcomes)),
            Control("planted: a note on a claim that does not exist", FAILS, measured(page + _renamed(rows[0]), outcomes)),
            Control("planted: a claim fails that was not noted", FAILS, measured(page, {**outcomes, mentioned: "fails"})),
        ]
    claim.check(measured(page, outcomes), controls=controls)


def _noted(page: str) -> list[str]:
    """The claims that rows of the notes are about."""
    names = re.findall(r'<tr><th scope="row"[^>]*><a href="#c-[^"]*"><bdi>(.*?)</bdi></a>', page, re.DOTALL)
    return [unescape(name.replace("<wbr>", "")) for name in names]


def _renamed(row: str) -> str:
    return re.sub(r"<bdi>.*?</bdi>", "<bdi>Z9.nobody[knows]</bdi>", row, count=1)


def _notes(page: str, outcomes: Mapping[str, str]) -> Iterable[Sample]:
    noted = _noted(page)
    amiss = {name: outcome for name, outcome in outcomes.items() if outcome != "holds"}
    yield Sample("a claim in two notes", float(len(set(noted)) == len(noted)))
    yield from (Sample(name, float(name in noted), detail={"outcome": outcome}) for name, outcome in sorted(amiss.items()))
    yield from (Sample(name, 0.0, detail={"outcome": outcomes.get(name, "no such claim")}) for name in sorted(set(noted) - set(amiss)))


# --- CD5 ----------------------------------------------------------------------------------------

# What a submission must have, with the families of claims that may evidence it.
_MUST_HAVES: Mapping[str, tuple[str, ...]] = {
    "audit of lengths": ("D3",), "audit of duplicates": ("D1",), "audit of outliers and form": ("D6",),
    "audit of sensitive content": ("D4",),
    "blocked rows, shown": ("D5",), "source, licence, version, cleaning written down": ("D9",),
    "a LoRA or QLoRA run from a recorded configuration": ("R2", "T5"), "the adapter exported and tried": ("T6",),
    "curves kept": ("R2", "T8"), "a failed experiment with its cause and what changed": ("T11",),
    "pairs of base and tuned on the same items": ("E1",), "failures analysed": ("E8",),
    "an iteration that failures led to, before and after": ("E9",),
    "an experiment whose loss stays inside a margin fixed beforehand": ("Q1",), "memory gained": ("Q5",), "speed gained": ("Q5",),
    "an HTTP API that conforms": ("V1",), "throughput": ("L2",), "latency, p95": ("L1",), "latency, p99": ("L1",),
    "the ceiling of concurrency": ("L3",), "what stops it there": ("L3",), "an optimisation, before and after": ("L4",),
    "errors handled: broken streams, kills, drains": ("V3", "F3", "F4", "F5"), "health that means progress": ("F1", "F4"),
    "logs and metrics that agree with the client": ("O1", "O2", "O3"),
    "an issue: reproduction, cause, fix, regression test": ("DO1", "DO2", "DO3", "DO4"),
    "source read, or a paper made into code": ("IN1", "IN2", "IN3", "M3"),
}  # fmt: skip


@pytest.mark.claim(
    Claim("CD5.must_haves", "each must-have of a submission has evidence in the report, or is shown to have none", identical())
)
def test_must_haves_are_evidenced_or_said_not_to_be(claim, capstone_run, reported):
    page = _section((capstone_run / PAGES[0]).read_text("utf-8"), "rubric")
    ids = {r["claim"]["id"]: r["verdict"]["outcome"] for p in (capstone_run / "evidence").glob("*.json") if (r := evidence.read_json(p))}
    rows = dict(_musts(page))

    def measured(told: Mapping[str, str], outcomes: Mapping[str, str]) -> Measurement:
        samples = [_covered(name, families, told.get(name), outcomes) for name, families in _MUST_HAVES.items()]
        return Measurement("must_haves", tuple(samples), (reported,), {"run": capstone_run.name})

    some = next((name for name, row in rows.items() if "evidenced</span>" in row and name in _MUST_HAVES), "")
    silent = {name: row.replace("NOT EVIDENCED", "evidenced") for name, row in rows.items()}
    bare = {name: f"<tr><th>{name}</th><td>NOT EVIDENCED</td></tr>" for name in _MUST_HAVES}
    claim.check(
        measured(rows, ids),
        controls=[
            Control("A/A: a run without claims, which evidences nothing and says so", HOLDS, measured(bare, {})),
            Control("planted: a must-have is left out", FAILS, measured({k: v for k, v in rows.items() if k != "curves kept"}, ids)),
            Control("planted: what is not evidenced is called evidenced", FAILS, measured({**silent, **_called(bare)}, {})),
            *([Control("planted: evidence that is gone", FAILS, measured(rows, _without(ids, _MUST_HAVES[some])))] if some else []),
        ],
    )


def _musts(page: str) -> Iterable[tuple[str, str]]:
    for row in re.findall(r'<tr><th scope="row">.*?</tr>', page, re.DOTALL):
        yield unescape(re.sub(r"<[^>]*>", "", row.partition("</th>")[0])), row


def _called(bare: Mapping[str, str]) -> dict[str, str]:
    return {name: row.replace("NOT EVIDENCED", "evidenced</span>") for name, row in bare.items()}


def _without(outcomes: Mapping[str, str], families: tuple[str, ...]) -> dict[str, str]:
    return {name: outcome for name, outcome in outcomes.items() if name.partition(".")[0] not in families}


def _covered(name: str, families: tuple[str, ...], row: str | None, outcomes: Mapping[str, str]) -> Sample:
    """1 if the row is there and says of evidence what there is: claims of these families, one of them holding, or none at all."""
    if row is None:
        return Sample(name, 0.0, detail={"why": "not in the report"})
    mine = {i: outcome for i, outcome in outcomes.items() if i.partition(".")[0] in families}
    linked = {unescape(x.replace("<wbr>", "")) for x in re.findall(r"<bdi>([A-Z]+\d+\..*?)</bdi></a>", row)}
    says_none, says_all = "NOT EVIDENCED" in row, "evidenced</span>" in row
    ok = not linked - set(mine) and (bool(linked) or says_none) and (not says_all or "holds" in mine.values()) and (mine != {} or says_none)
    return Sample(name, float(ok), detail={"claims": len(mine), "linked": len(linked), "state": "none" if says_none else "some"})
