"""A defence as it is shown: lines on a terminal, and one page that stands alone. Renders, never decides."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from harness.defence.beside import AGREES, CONTRADICTS, EXPLAINED, NOT_RERUN
from harness.report.markup import Html, badge, definitions, said, scroll
from harness.report.style import CSS
from harness.report.text import DASH, number, one_line, signed, span

__all__ = ["lines", "render"]

Record = Mapping[str, Any]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_ORDER = (CONTRADICTS, EXPLAINED, AGREES, NOT_RERUN)  # what one looks for first
_SIGNS = {AGREES: ("holds", "✓"), EXPLAINED: ("inconclusive", "≈"), CONTRADICTS: ("fails", "✗"), NOT_RERUN: ("not_evaluated", "–")}
_SHOWN = 20  # of a kind, on a terminal; the page has all


# --- on a terminal ----------------------------------------------------------------------------------


def lines(record: Record) -> Iterable[str]:
    """What is not as it was, claim by claim, then the whole in a sentence."""
    yield ""
    for outcome in (CONTRADICTS, EXPLAINED, NOT_RERUN):
        found = [each for each in record["claims"] if each["outcome"] == outcome]
        for each in found[:_SHOWN]:
            yield f"{_SIGNS[outcome][1]} {outcome}  {one_line(each['claim'])}  {one_line(each['why'], 300)}"
        if len(found) > _SHOWN:
            yield (
                f"  … and {len(found) - _SHOWN} more that are {outcome}" if outcome == NOT_RERUN else f"  … and {len(found) - _SHOWN} more"
            )
    for build, outcomes in record["releases"].items():
        yield f"release {one_line(build)}: {outcomes['old']} in the report, {outcomes['new']} here"
    for problem in record["problems"]:
        yield f"✗ {one_line(problem, 400)}"
    for note in (*record["notes"], *_around(record)):
        yield f"  {one_line(note, 400)}"
    yield f"{'STANDS' if record['stands'] else 'DOES NOT STAND'}: {record['sentence']}"


def _around(record: Record) -> list[str]:
    found = record["surroundings"]
    return [f"other circumstances: {'; '.join(found)}"] if found else ["machine, packages and threads as they were"]


# --- one page ---------------------------------------------------------------------------------------


def render(record: Record) -> str:
    """``defence.html`` as one string."""
    title = escape(one_line(f"Defence of {record['report']['lifecycle']}: {'stands' if record['stands'] else 'does not stand'}"))
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{name}</h2>{inner}</section>'
        for key, name, inner in (
            ("problems", "Not as the report says", _problems(record)),
            ("claims", "Claims, old beside new", _claims(record)),
            ("releases", "May it go out", _releases(record)),
            ("circumstances", "Circumstances", _circumstances(record)),
            ("meaning", "What the words mean", _MEANING),
        )
        if inner
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f'<a class="skip" href="#claims">Skip to the claims</a>\n{_header(record)}\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _header(record: Record) -> Html:
    report, how = record["report"], record["measured_with"]
    tree = "the present tree" if how["here"] else f"a clone at {str(how['commit'])[:12]}"
    mood, head = ("good", "The report stands") if record["stands"] else ("bad", "The report does not stand")
    counts = "".join(f"<li>{_sign(outcome, record['counts'][outcome])}</li>" for outcome in _ORDER)
    return Html(
        f"<header><h1>Defence of {said(report['lifecycle'], 200)}</h1>"
        f'<p class="meta">tier <strong>{said(report["tier"])}</strong> · seal <code>{said(report["seal"][:16])}</code> · '
        f'measured again with {said(tree)}</p><p class="release {mood}">{head}: {said(record["sentence"])}</p>'
        f'<ul class="badges" aria-label="Claims by outcome">{counts}</ul></header>'
    )


def _sign(outcome: str, count: int | None = None) -> Html:
    """An outcome: sign, word and colour say the same."""
    kind, sign = _SIGNS[outcome]
    extra = "" if count is None else f" {count}"
    return Html(f'<span class="badge o-{kind}{" none" if count == 0 else ""}">{sign} {escape(outcome)}{extra}</span>')


def _problems(record: Record) -> str:
    return "<ul>" + "".join(f"<li>{said(problem)}</li>" for problem in record["problems"]) + "</ul>" if record["problems"] else ""


def _claims(record: Record) -> Html:
    head = "".join(
        f'<th scope="col">{name}</th>' for name in ("outcome", "claim", "in the report", "here", "difference", "rows that changed")
    )
    bodies = "".join(_group(outcome, [each for each in record["claims"] if each["outcome"] == outcome]) for outcome in _ORDER)
    note = '<p class="small muted">In brackets: confidence limits. Rows are paired by item, arm and run.</p>'
    return Html(note + scroll(f"<table><thead><tr>{head}</tr></thead>{bodies}</table>", "Claims, old beside new"))


def _group(outcome: str, claims: Sequence[Record]) -> str:
    rows = "".join(_claim(each) for each in claims)
    return f'<tbody><tr><th scope="rowgroup" colspan="6">{escape(outcome)} · {len(claims)}</th></tr>{rows}</tbody>' if claims else ""


def _claim(each: Record) -> str:
    old, new = each["report"], each["rerun"]
    known = old and new and old["estimate"] is not None and new["estimate"] is not None
    moved = signed(new["estimate"] - old["estimate"]) if known else DASH
    rows = each["rows"]
    p = "".join(f'<span class="sub">{said(name)}: p = {number(value)}</span>' for name, value in each["tests"].items())
    flips = f"{rows['changed']} of {rows['both']}" if rows["both"] else DASH
    limit = f'<span class="sub">R3 allows {number(each["limit"])}</span>' if any(name.startswith("rate") for name in each["tests"]) else ""
    return (
        f'<tr><td>{_sign(each["outcome"])}</td><th scope="row" class="claim"><bdi>{said(each["claim"], 200)}</bdi>'
        f'<span class="muted">{said(each["text"], 300)}</span><span class="why">{said(each["why"], 600)}</span></th>'
        f'<td class="num">{_side(old)}</td><td class="num">{_side(new)}</td><td class="num">{moved}</td>'
        f'<td class="num">{flips}{limit}{p}</td></tr>'
    )


def _side(verdict: Record | None) -> str:
    if verdict is None:
        return DASH
    numbers = f"{number(verdict['estimate'])} {span(verdict['low'], verdict['high'])}"
    return f'{badge(verdict["outcome"])}<span class="sub">{escape(numbers)}</span><span class="sub">n = {number(verdict["n"])}</span>'


def _releases(record: Record) -> Html:
    found = record["releases"].items()
    return (
        definitions((build, Html(f"{badge(said_of['old'])} → {badge(said_of['new'])}")) for build, said_of in found) if found else Html("")
    )


def _circumstances(record: Record) -> Html:
    pages = "; ".join(f"{name} is what {who} renders" for name, who in record["pages"].items())
    return definitions(
        [
            ("other than then", said("; ".join(record["surroundings"]) or "machine, packages and threads as they were")),
            ("pages", said(pages)) if pages else ("pages", Html("")),
            ("models", said("made again" if record["measured_with"]["fresh_models"] else "used again, by their digests")),
            ("claims asked for", said(", ".join(record["measured_with"]["only"]) or "all")),
            *[("note", said(note)) for note in record["notes"]],
        ]
    )


_MEANING = Html(
    f"<dl><dt>{AGREES}</dt><dd>the same verdict, and each estimate inside the other's interval; exact numbers are the same</dd>"
    f"<dt>{EXPLAINED}</dt><dd>flips of the very same subject are within the limit that R3 declared beforehand for that golden set, and go "
    "both ways (exact McNemar); estimates are no further apart than their intervals explain; no verdict is the opposite</dd>"
    f"<dt>{CONTRADICTS}</dt><dd>anything else. All tests of all claims are one family, corrected by Holm</dd>"
    f"<dt>{NOT_RERUN}</dt><dd>nothing was set beside it; the reason is given</dd></dl>"
)
