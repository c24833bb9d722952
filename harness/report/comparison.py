"""Two arms side by side, from the record of ``harness compare``: on a terminal and as one page that stands alone.

Renders, never decides: every number comes out of the record, and the same record gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from harness.report.markup import Html, badge, definitions, differing, said, table
from harness.report.style import CSS
from harness.report.text import DASH, SYMBOLS, clean, number, one_line, signed, span

__all__ = ["lines", "page"]

Record = Mapping[str, Any]

_SLICES = 12  # on a terminal; the page has all
_FLIPS = 3  # of each kind on a terminal
_KINDS = {"truncated": "cut off", "empty": "empty", "parse_failure": "unreadable", "error": "error"}
_COLOURS = {"better": "good", "not worse": "good", "worse": "bad", "undecided": "open"}
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


# --- on a terminal ------------------------------------------------------------------------------


def lines(record: Record) -> Iterable[str]:
    """Health, scores, difference, verdict; then what is only to be looked at: slices and a few flips."""
    task, arms = record["task"], [record["arms"]["old"], record["arms"]["new"]]
    names = [one_line(arm["name"], 60) for arm in arms]
    yield f"{names[0]} (A) against {names[1]} (B) on {one_line(task['name'], 60)}, {task['n']} items"
    for note in record["notes"]:
        yield f"  ! {one_line(note, 300)}"
    yield ""
    yield from _columns([["", *_KINDS.values(), "of"], *([one_line(a["name"], 30), *_health(a)] for a in arms)])
    yield ""
    yield from _columns([["", "score", "90% interval"], *([one_line(a["name"], 30), *_score(a["score"])] for a in arms)])
    yield ""
    yield from _difference(record)
    yield from _conditions(record)
    yield from _explored(record["slices"])
    for kind, what in (("lost", "right in A, wrong in B"), ("gained", "wrong in A, right in B")):
        yield from _side_by_side(record["flips"][kind], what)
    yield ""
    yield f"{record['verdict'].upper()}: {one_line(record['sentence'], 400)}"


def _health(arm: Record) -> list[str]:
    health = arm["health"]
    return [_share(health[kind], health["n"]) for kind in _KINDS] + [str(health["n"])]


def _share(k: int, n: int) -> str:
    return f"{k} ({k / n:.1%})" if k else "0"


def _score(score: Record) -> list[str]:
    shown = f" ({score['right']} of {score['n']})" if "right" in score else ""
    return [f"{number(score['estimate'])}{shown}", span(score["low"], score["high"])]


def _difference(record: Record) -> Iterable[str]:
    not_worse, better = record["claims"]
    first = next((c for c in (not_worse, better) if c["estimate"] is not None), None)
    if first is not None:
        level = f"{first['level']:.0%} interval " if first["level"] is not None else ""
        yield f"difference B - A  {signed(first['estimate'])}  {level}{span(first['low'], first['high'])}"
        yield f"flips             {_counted(record)}"
    for claim in (not_worse, better):
        p = f"p = {number(claim['p_hold'])}" if claim["p_hold"] is not None else one_line(claim["sentence"], 200)
        how = f" ({one_line(claim['method'], 40)}, alpha {number(claim['alpha'])})" if claim["method"] else ""
        yield f"{_name(record, claim):<18}{SYMBOLS.get(claim['outcome'], '')} {claim['outcome']:<13}{p}{how}"
        if claim["outcome"] == "inconclusive" and claim["n_needed"]:
            more = f", {claim['n_needed_90']} with .90" if claim["n_needed_90"] else ""
            yield f"{'':<18}n = {claim['n_needed']} would settle it with power .80{more}; here n = {claim['n']}"


def _name(record: Record, claim: Record) -> str:
    return f"not worse by {record['margin']:g}" if claim["id"] == "compare.not_worse" else "better"


def _counted(record: Record) -> str:
    return f"{record['flips']['gained']['count']} gained (b), {record['flips']['lost']['count']} lost (c)"


def _conditions(record: Record) -> Iterable[str]:
    rows = record["differing"]
    if rows:
        yield ""
        yield "conditions that are not the same in both arms"
        yield from _columns([["  ", "A", "B"], *([f"  {one_line(r['key'], 40)}", _said(r["old"], 60), _said(r["new"], 60)] for r in rows)])


def _said(value: Any, limit: int) -> str:
    return DASH if value is None else one_line(str(value), limit)


def _explored(slices: Sequence[Record]) -> Iterable[str]:
    if slices:
        yield ""
        yield "slices: exploratory, no claim; p adjusted for their number (Benjamini-Hochberg)"
        shown = sorted(slices, key=lambda s: (s["p_adjusted"], s["name"]))[:_SLICES]
        yield from _columns([["  slice", "n", "B - A", "interval", "p"], *_slice_rows(shown)])


def _slice_rows(slices: Iterable[Record]) -> list[list[str]]:
    def row(s: Record) -> list[str]:
        return [f"  {one_line(s['name'], 40)}", str(s["n"]), signed(s["estimate"]), span(s["low"], s["high"]), number(s["p_adjusted"])]

    return [row(s) for s in slices]


def _side_by_side(flips: Record, what: str) -> Iterable[str]:
    if not flips["count"]:
        return
    yield ""
    yield f"{what}: {flips['count']}, the first {min(_FLIPS, len(flips['shown']))}"
    for flip in flips["shown"][:_FLIPS]:
        yield f"  {one_line(flip['item'], 40)}  {one_line(flip['input'], 100)}"
        for mark, text in (("target", flip["target"]), ("A", _answer(flip["old"])), ("B", _answer(flip["new"]))):
            yield f"    {mark:<7}{one_line(text, 120)}"


def _answer(side: Record) -> str:
    return f"{side['text']}  [{side['status']}]" if side["status"] != "ok" else str(side["text"])


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


# --- as a page ----------------------------------------------------------------------------------


def page(record: Record) -> str:
    """One page: no script, no network, every text of a model escaped."""
    arms = [record["arms"]["old"], record["arms"]["new"]]
    title = escape(clean(one_line(f"{arms[0]['name']} (A) against {arms[1]['name']} (B) on {record['task']['name']}")))
    notes = "".join(f'<p class="warn" role="note">⚠ {said(note, 400)}</p>' for note in record["notes"])
    parts = [
        ("Health: what came back", _health_table(arms)),
        ("Scores", _score_table(arms)),
        ("Difference", _difference_table(record)),
        ("Conditions that are not the same", _conditions_table(record["differing"])),
        ("Slices (exploratory)", _slices_table(record["slices"])),
        ("Right in A, wrong in B", _flips_table(record["flips"]["lost"])),
        ("Wrong in A, right in B", _flips_table(record["flips"]["gained"])),
        ("What was compared", _compared(record)),
    ]
    body = "".join(f"<section><h2>{escape(name)}</h2>{inner}</section>" for name, inner in parts if inner)
    mood = _COLOURS.get(record["verdict"], "open")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n'
        f"<header><h1>{title}</h1>{notes}"
        f'<p class="release {mood}">{said(record["verdict"])}: {said(record["sentence"], 600)}</p></header>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _health_table(arms: Sequence[Record]) -> Html:
    rows = [[said(arm["name"], 80), *map(said, _health(arm))] for arm in arms]
    return table("Health", ("arm", *_KINDS.values(), "of"), rows, ("", *["num"] * (len(_KINDS) + 1)))


def _score_table(arms: Sequence[Record]) -> Html:
    rows = [[said(arm["name"], 80), *map(said, _score(arm["score"]))] for arm in arms]
    return table("Scores", ("arm", "score", "90% interval"), rows, ("", "num", "num"))


def _difference_table(record: Record) -> Html:
    def row(claim: Record) -> list[Html]:
        numbers = [signed(claim["estimate"]), span(claim["low"], claim["high"]) or DASH]
        numbers += [number(claim[name]) for name in ("p_hold", "p_fail", "n_needed")]
        return [said(claim["text"], 300), badge(claim["outcome"]), *map(said, numbers), said(claim["method"] or DASH, 80)]

    head = ("claim", "outcome", "B - A", "interval", "p for", "p against", "n needed", "method")
    sentences = "".join(f'<p class="small muted">{said(claim["sentence"], 600)}</p>' for claim in record["claims"])
    shown = table("Difference", head, map(row, record["claims"]), ("claim", "", "num", "num", "num", "num", "num", "small"))
    return Html(f"<p>Flips: {said(_counted(record))}.</p>{shown}{sentences}")


def _conditions_table(rows: Sequence[Record]) -> Html:
    cells = [
        [said(row["key"], 80), said(DASH if row["old"] is None else row["old"], 300), said(DASH if row["new"] is None else row["new"], 300)]
        for row in rows
    ]
    return table("Conditions", ("condition", "A", "B"), cells) if cells else Html("")


def _slices_table(slices: Sequence[Record]) -> Html:
    if not slices:
        return Html("")
    ordered = sorted(slices, key=lambda s: (s["p_adjusted"], s["name"]))
    cells = [[said(cell) for cell in row] for row in _slice_rows(ordered)]
    note = '<p class="small muted">To be looked at, not claimed: p is adjusted for the number of slices (Benjamini-Hochberg).</p>'
    return Html(note + table("Slices", ("slice", "n", "B - A", "interval", "p"), cells, ("", "num", "num", "num", "num")))


def _flips_table(flips: Record) -> Html:
    if not flips["count"]:
        return Html("")
    rows = []
    for flip in flips["shown"]:
        old, new = differing(_answer(flip["old"]), _answer(flip["new"]))
        rows.append([said(flip["item"], 80), said(flip["input"], 600), said(flip["target"], 600), old, new])
    more = f"<p>{flips['count']} items, {len(rows)} shown.</p>"
    return Html(
        more + table("Flips", ("item", "input", "target", "A", "B"), rows, ("num", "answer", "answer mono", "answer mono", "answer mono"))
    )


def _compared(record: Record) -> Html:
    task = record["task"]
    pairs = [(key, said(str(task[key]), 200)) for key in ("name", "kind", "scorer", "n", "digest", "source") if task.get(key)]
    subjects = [
        (f"subject {one_line(s['name'], 60)}", Html(f"{said(s['scheme'])} <code>{said(s['digest'], 80)}</code>"))
        for s in record["subjects"]
    ]
    return definitions([*pairs, *subjects])
