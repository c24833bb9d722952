"""The page of trends: each claim's estimates with their intervals, where they changed, and a strip of its verdicts.

One file that stands alone: no script, no network. What a run says passes ``said``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape

from harness.history.flaky import Flaky
from harness.history.reading import Said, Seen
from harness.history.trends import History
from harness.report.markup import Html, badge, outcome_class, said, table
from harness.report.plots import Scale, line, mark, scale_over, svg, text_at, y_axis
from harness.report.style import CSS
from harness.report.text import SYMBOLS, number, one_line, span

__all__ = ["render"]

SHOWN = 60  # the newest runs of a claim; a page of all is no page
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_WIDTH, _HEIGHT, _LEFT, _FOOT = 680, 200, 66, 24
_STYLE = """
.strip{display:flex;flex-wrap:wrap;gap:2px;list-style:none;padding:0;margin:.4rem 0}
.strip li{margin:0;width:1.3rem;text-align:center;border-radius:3px;font-size:.8rem;line-height:1.5rem;font-weight:700;
 color:var(--absent);background:var(--absent-bg)}
.strip .o-holds{color:var(--holds);background:var(--holds-bg)}.strip .o-fails{color:var(--fails);background:var(--fails-bg)}
.strip .o-inconclusive{color:var(--inconclusive);background:var(--inconclusive-bg)}
.strip .o-error{color:var(--error);background:var(--error-bg)}
.seen{min-width:16rem}
svg .change{stroke:var(--fails);stroke-width:1.5;stroke-dasharray:6 3}svg .level{stroke:var(--link);stroke-width:1.5}
"""

Row = tuple[Seen, Said]


def render(runs: Sequence[Seen], found: Sequence[History], unsteady: Sequence[Flaky], left_out: Sequence[str], alpha: float) -> str:
    """The page as one string. ``runs`` are usable ones, oldest first."""
    rows: dict[str, list[Row]] = {}
    for one in runs:
        for each in one.said:
            rows.setdefault(each.claim, []).append((one, each))
    known = {history.claim: history for history in found}
    flaws = {one.claim: one for one in unsteady}
    changed = [name for name in sorted(rows) if name in known and known[name].changes]
    other = [name for name in sorted(rows) if name not in changed and name in flaws]
    mixed = [name for name in sorted(rows) if name not in {*changed, *other} and len({each.outcome for _, each in rows[name]}) > 1]
    steady = [name for name in sorted(rows) if name not in {*changed, *other, *mixed}]
    parts = [
        ("changed", "Where an estimate changed", changed),
        ("flaky", "Flaky by evidence", other),  # in its table those too that stand above
        ("verdicts", "More than one verdict", mixed),
        ("steady", "Steady", steady),
    ]
    shown = [(key, name, claims) for key, name, claims in parts if claims or (key == "flaky" and unsteady)]
    counts = {key: len(unsteady) if key == "flaky" else len(claims) for key, _, claims in shown}
    nav = "".join(f'<a href="#{key}">{name} ({counts[key]})</a>' for key, name, _ in shown)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{name}</h2>'
        + (_flaky(unsteady) if key == "flaky" else "")
        + "".join(_claim(name, rows[name], known.get(name), flaws.get(name)) for name in claims)
        + "</section>"
        for key, name, claims in shown
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>History of {len(rows)} claims over {len(runs)} runs</title>\n<style>{CSS}{_STYLE}</style>\n</head>\n<body>\n"
        f'<a class="skip" href="#{shown[0][0] if shown else "left"}">Skip to the claims</a>\n'
        f"{_header(runs, len(rows), len(changed), len(unsteady), alpha)}\n"
        f'<nav aria-label="Sections">{nav}</nav>\n<main>\n{body}\n{_left(left_out)}</main>\n</body>\n</html>\n'
    )


def _header(runs: Sequence[Seen], claims: int, changed: int, unsteady: int, alpha: float) -> Html:
    span_ = f"{said(runs[0].finished)} to {said(runs[-1].finished)}" if runs else "no run"
    return Html(
        f'<header><h1>{claims} claims over {len(runs)} runs</h1><p class="meta">{span_}</p>'
        f"<p>Claims whose estimate changed: {changed}; a false alarm anywhere among them has probability at most {alpha:g}. "
        f"Flaky ones, of which the same claim, subjects, sets and scorers gave another answer: {unsteady}. Runs of tier smoke or of "
        "another lifecycle, and of a claim those on other golden sets, are left out, by name at the end. Dashed across: the bound, where "
        "it is near; dashed down: a change.</p></header>"
    )


def _flaky(found: Iterable[Flaky]) -> Html:
    rows = [
        (said(one.claim, 200), Html(one.how), _count(len(one.runs)), said(one.why, 400),
         Html(f"{number(one.rate)} {span(one.low, one.high)}"), _count(one.machines), _count(one.commits))
        for one in found
    ]  # fmt: skip
    return table(
        "Flaky claims",
        ["claim", "by", "runs", "what was seen", "of another verdict", "machines", "commits"],
        rows,
        ["", "", "num", "seen", "num"],
    )


def _count(count: int) -> Html:
    return Html(str(count))


def _claim(name: str, rows: Sequence[Row], history: History | None, flaw: Flaky | None) -> Html:
    newest = rows[-SHOWN:]
    cut = f" (the newest {SHOWN} of {len(rows)})" if len(rows) > SHOWN else ""
    changes = "".join(f"<li>{said(text, 300)}</li>" for text in _changes(history)) if history else ""
    told = f'<p class="small">flaky by {flaw.how}: {said(flaw.why, 400)}</p>' if flaw else ""
    last = rows[-1][1]
    values = {each.estimate for _, each in newest if each.estimate is not None}
    varies = len(values) > 1 or (bool(values) and any(each.low is not None for _, each in newest))
    drawn = f'<div class="scroll" role="region" tabindex="0" aria-label="Estimates">{_plot(name, newest, history)}</div>' if varies else ""
    return Html(
        f"<article><h3>{badge(last.outcome)} {said(name, 200)}</h3>"
        f'<p class="small muted">{said(last.bound, 80)} · {said(last.kind, 40)} · {len(rows)} runs{cut} · last '
        f"{number(last.estimate)} {span(last.low, last.high)}</p>{told}{f'<ul>{changes}</ul>' if changes else ''}"
        f"{drawn}{_strip(newest)}{_numbers(newest)}</article>"
    )


def _changes(history: History) -> list[str]:
    return [
        f"changed with {history.points[c.first].run} ({history.points[c.first].finished}): {c.before:.4g} to {c.after:.4g}, p = {c.p:.3g}"
        for c in history.changes or ()
    ]


def _plot(name: str, rows: Sequence[Row], history: History | None) -> str:
    """Estimates with their intervals, a run a step; dashed where they changed, with the mean on either side."""
    seen = [(i, one, each) for i, (one, each) in enumerate(rows) if each.estimate is not None]
    ends = [x for _, _, each in seen for x in (each.estimate, each.low, each.high) if x is not None]
    wide = max(ends) - min(ends)  # a bound far away would press the estimates flat
    limits = [x for x in _limits(rows[-1][1].bound) if min(ends) - wide <= x <= max(ends) + wide]
    ends += limits
    scale = scale_over(ends, _HEIGHT - _FOOT, 10)
    step = (_WIDTH - _LEFT - 14) / max(1, len(rows))

    def at(place: float) -> float:
        return _LEFT + 8 + step * (place + 0.5)

    parts = y_axis(scale, _LEFT, _WIDTH - 6, "estimate")
    parts += [line(_LEFT, scale(x), _WIDTH - 6, scale(x), "bound") for x in limits]
    places = {one.run.name: i for i, (one, _) in enumerate(rows)}
    if history is not None and history.changes:
        parts += _steps(history, places, at, scale)
    for i, one, each in seen:
        assert each.estimate is not None
        if each.low is not None and each.high is not None:
            parts.append(line(at(i), scale(each.low), at(i), scale(each.high), f"bar o-{outcome_class(each.outcome)}"))
        tip = f"{one.run.name} {one.finished}: {each.outcome} {number(each.estimate)} {span(each.low, each.high)}"
        drawn = mark(at(i), scale(each.estimate), each.outcome, 4)
        parts.append(f"<g><title>{escape(one_line(tip, 300))}</title>{drawn}</g>")
    parts += [text_at(_LEFT, _HEIGHT - 6, "oldest", "tick"), text_at(_WIDTH - 6, _HEIGHT - 6, "newest", "tick", "end")]
    return svg(_WIDTH, _HEIGHT, f"{name}: {len(seen)} estimates", parts, "wide")


def _limits(bound: str) -> list[float]:
    """Where the bound of a claim lies on the axis of its estimates."""
    kind, _, rest = bound.partition("(")
    try:
        numbers = [float(x) for x in rest.rstrip(")").split(",")]
    except ValueError:
        return []
    signed = {"non_inferior": [-x for x in numbers], "equivalent": [-numbers[0], numbers[0]], "identical": []}
    return [x for x in signed.get(kind, numbers) if math.isfinite(x)]


def _steps(history: History, places: Mapping[str, int], at: Callable[[float], float], scale: Scale) -> list[str]:
    """Each change: a line before the first run after it, and the mean on either side."""
    edge = at(-0.5)
    seen = [(at(place - 0.5), c) for c in history.changes or () if (place := places.get(history.points[c.first].run)) is not None]
    parts = []
    for x, change in seen:
        parts += [line(x, 8, x, _HEIGHT - _FOOT, "change"), line(edge, scale(change.before), x, scale(change.before), "level")]
        edge = x
    if seen:
        parts.append(line(edge, scale(seen[-1][1].after), _WIDTH - 6, scale(seen[-1][1].after), "level"))
    return parts


def _strip(rows: Sequence[Row]) -> str:
    cells = "".join(
        f'<li class="o-{outcome_class(each.outcome)}" title="{escape(one_line(f"{one.run.name}: {each.outcome}", 300), quote=True)}">'
        f'<span aria-hidden="true">{SYMBOLS.get(each.outcome, "·")}</span></li>'
        for one, each in rows
    )
    outcomes = [each.outcome for _, each in rows]
    told = ", ".join(f"{outcomes.count(name)} {name.replace('_', ' ')}" for name in sorted(set(outcomes)))
    return f'<ul class="strip" aria-label="Verdicts, oldest first: {escape(one_line(told), quote=True)}">{cells}</ul>'


def _numbers(rows: Sequence[Row]) -> str:
    cells = [
        (said(one.run.name, 120), said(one.finished), badge(each.outcome), Html(number(each.estimate)),
         Html(span(each.low, each.high)), Html(number(each.n)))
        for one, each in reversed(rows)
    ]  # fmt: skip
    inner = table("Runs", ["run", "finished", "outcome", "estimate", "interval", "n"], cells, ["", "", "", "num", "num", "num"])
    return f"<details><summary>Numbers, the newest first</summary>{inner}</details>"


def _left(left_out: Sequence[str]) -> str:
    if not left_out:
        return ""
    items = "".join(f"<li>{said(text, 500)}</li>" for text in left_out)
    return f'<section aria-labelledby="left"><h2 id="left">Left out</h2><ul>{items}</ul></section>\n'
