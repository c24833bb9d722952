"""Base against tuned, tuned against what came of it: health before any score, then scores, differences, and what rests on them.

A comparison is a paired claim of a family below; new and old are the subjects of its measurement. What a claim does not
tell is a dash; health is told by the claims on health, else by the rows themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from harness.evals import health
from harness.report.builds import Arm, arms, reference_of
from harness.report.datasets import count, mapping, mappings, told
from harness.report.figures import COMPARED, interval_of
from harness.report.markup import Html, claim_id, link, said, scroll, table, verdict
from harness.report.plots import forest
from harness.report.text import DASH, number, signed, span
from harness.report.view import ClaimView, RunView, family_title, finite

__all__ = ["compared", "versus"]

_ROWS = 60  # of a table
_SLICES = 40  # of a comparison


def versus(run: RunView) -> Html:
    """Health, scores and differences, preferences, the iteration, the noise floor, slices: in the order in which they are read."""
    parts = [_health(run), _scores(run), _iteration(run), _wins(run), _noise(run), _slices(run)]
    return Html("".join(parts))


def compared(run: RunView) -> list[ClaimView]:
    """The claims that compare two subjects by their scores on all items of a set."""
    return [c for c in run.claims if c.family in COMPARED and c.family not in ("E4", "E9") and c.estimand == "paired_difference"]


def names_of(c: ClaimView) -> tuple[str, str]:
    """New and old, "" where the evidence does not say."""
    subjects = mappings(c.measurement.get("subjects"))
    return (str(subjects[0].get("name") or ""), reference_of(c)) if len(subjects) > 1 else ("", "")


# --- health -----------------------------------------------------------------------------------

_Key = tuple[str, str, str]  # set, new, old
_SHOWN = {"truncated": "cut off", "empty": "empty", "parse_failure": "unreadable", "error": "errors"}


def _health(run: RunView) -> str:
    """How many answers of either arm could not be scored, and why: one row an arm."""
    told_: dict[_Key, dict[str, ClaimView]] = {}
    for c in run.claims:
        if c.family == "E4" and len(c.params) == 4 and c.params[0] in health.KINDS:
            told_.setdefault((c.params[1], c.params[2], c.params[3]), {})[c.params[0]] = c
    rows = [row for key, claims in told_.items() for row in _by_claims(key, claims)]
    known = {(key[0], frozenset(key[1:])) for key in told_}
    for c in compared(run):
        new, old = names_of(c)
        if new and c.params and c.samples and (c.params[0], frozenset((new, old))) not in known:
            rows += _by_rows(c, new, old)
    if not rows:
        return ""
    note = (
        '<p class="small muted">Read before any score: an arm whose answers are cut off has lost nothing but room. Each answer counts in '
        "one column at most. The sign beside the new arm: the claim that both arms have as many, within its margin.</p>"
    )
    head = ("set", "arm", *(_SHOWN[kind] for kind in health.KINDS), "of")
    shown = table("Health", head, rows[:_ROWS], ("", "", *["num"] * (len(health.KINDS) + 1)))
    return f"<h3>Health: what came back</h3>{note}{shown}"


def _by_claims(key: _Key, claims: Mapping[str, ClaimView]) -> list[list[Html]]:
    """The old arm, then the new one with the verdicts."""
    pairs = {kind: arms(claims.get(kind)) for kind in health.KINDS}
    n = max([pair[0].n for pair in pairs.values() if pair], default=None)
    old = [Html(_share(pair[1]) if pair else DASH) for pair in pairs.values()]
    new = [
        verdict(claims[kind], _share(pair[0]) if pair else DASH, span(claims[kind].low, claims[kind].high))
        if kind in claims
        else Html(DASH)
        for kind, pair in pairs.items()
    ]
    return [[said(key[0], 80), said(name, 80), *cells, Html(number(n))] for name, cells in ((key[2], old), (key[1], new))]


def _share(arm: Arm) -> str:
    return f"{arm.k} ({arm.k / arm.n:.1%})" if arm.k else "0"


def _by_rows(c: ClaimView, new: str, old: str) -> list[list[Html]]:
    found = []
    for name, arm in ((old, "old"), (f"{new}, {c.name}" if new == old else new, "new")):
        rows = [s for s in c.samples if s.arm == arm]
        # A choice by log-probabilities has no text that could be empty.
        kinds = [health.kind_of(s) if "text" in s.detail or s.status != "ok" else "" for s in rows]
        cells = [Html(f"{k} ({k / len(rows):.1%})" if k else "0") for k in map(kinds.count, health.KINDS)]
        found.append([link(c, said(c.params[0], 80)), said(name, 80), *cells, Html(number(len(rows)))])
    return found


# --- scores -----------------------------------------------------------------------------------


def _scores(run: RunView) -> str:
    """Every comparison: drawn on one axis, and as a row with either arm's score."""
    claims = compared(run)
    drawn = [c for c in run.claims if c in claims or (c.family == "E9" and c.estimand == "paired_difference")]
    intervals = [i for c in drawn if (i := interval_of(c)) is not None]
    figure = ""
    if intervals:
        caption = (
            "<figcaption>New minus old, item by item. Dashed: the bound of each claim; shaded: where the interval must lie.</figcaption>"
        )
        figure = f"<figure>{scroll(forest(intervals, 'difference of accuracy'), 'Differences')}{caption}</figure>"
    if not claims:
        return figure and f"<h3>Differences</h3>{figure}"
    note = (
        '<p class="small muted">Scores: right / all, with exact 95% limits, for description only; the paired difference decides. Flips: '
        "b right in the new arm alone, c in the old one alone. Noise: the share of items that changed when one subject was asked again.</p>"
    )
    head = ("what", "set", "old", "new", "difference", "claimed", "flips b / c", "p", "noise")
    rows = [_score(c) for c in claims[:_ROWS]]
    return f"<h3>Scores and differences</h3>{note}{figure}{table('Scores', head, rows, ('', '', *['num'] * 7))}"


def _score(c: ClaimView) -> list[Html]:
    pair, (new, old) = arms(c), names_of(c)
    counts = mapping(c.verdict.get("statistics"))
    topic = family_title(c.family).partition(":")[0].lower()
    what = Html(f'{link(c, claim_id(c))}<span class="sub">{escape(topic)}</span>')
    p, which = c.p
    flips = " / ".join(number(count(counts.get(key))) for key in ("b", "c"))
    return [
        what, said(c.params[0] if c.params else DASH, 80),
        _arm(old, pair[1] if pair else None), _arm(new, pair[0] if pair else None),
        verdict(c, signed(c.estimate), span(c.low, c.high)), said(c.demand or DASH), Html(flips if pair else DASH),
        Html(f'{number(p)}<span class="sub">{which}</span>' if p is not None else DASH), Html(number(_floor(c))),
    ]  # fmt: skip


def _arm(name: str, arm: Arm | None) -> Html:
    if arm is None:
        return said(name or DASH, 80)
    return Html(
        f'{arm.k / arm.n:.4g}<span class="sub">{said(name, 80)}</span><span class="sub">{arm.k}/{arm.n} {span(arm.low, arm.high)}</span>'
    )


def _floor(c: ClaimView) -> float | None:
    """The noise that was recorded beside a comparison."""
    return finite(mapping(told(c).get("noise")).get("psi_aa"))


# --- one iteration ----------------------------------------------------------------------------


def _iteration(run: RunView) -> str:
    """Before and after, on the half whose failures were read and on the half that nobody looked at."""
    claims = [c for c in run.claims if c.family == "E9"]
    if not claims:
        return ""
    rows = [row for c in claims if c.name == "fixed" for row in _mined(c)]
    rows += [_held_out(c) for c in claims if c.name != "fixed"]
    note = (
        '<p class="small muted">Failures of the mined half were read and the training changed for them: that some are mended proves '
        "nothing, since mined failures improve by chance alone (below them: the old subject asked again). What counts is the held-out "
        "half, which nobody looked at.</p>"
    )
    head = ("half", "claim", "compared", "items", "wrong before", "mended", "broken", "difference", "claimed")
    shown = table("Iteration", head, rows[:_ROWS], ("", "", "", *["num"] * 6))
    return f"<h3>The iteration that the failures led to</h3>{note}{shown}"


def _mined(c: ClaimView) -> list[list[Html]]:
    new, old = names_of(c)
    lines = [
        ("mined", "mined", f"{new} against {old}" if new else DASH),
        ("mined, by chance", "by_chance", f"{old}, asked again" if old else DASH),
    ]
    found = []
    for half, key, what in lines:
        counts = mapping(told(c).get(key))
        cells = [Html(number(count(counts.get(k)))) for k in ("items", "wrong_before", "fixed", "broken")]
        shown = verdict(c, DASH) if key == "mined" else Html(DASH)  # a count, no difference
        claimed = said(c.demand or DASH) if key == "mined" else Html(DASH)
        found.append([said(half), link(c, claim_id(c)), said(what, 160), *cells, shown, claimed])
    return found


def _held_out(c: ClaimView) -> list[Html]:
    new, old = names_of(c)
    pair, counts = arms(c), mapping(c.verdict.get("statistics"))
    wrong = pair[1].n - pair[1].k if pair else None
    cells = [pair[1].n if pair else None, wrong, *(count(counts.get(k)) for k in ("b", "c"))]
    return [
        said("held out"), link(c, claim_id(c)), said(f"{new} against {old}" if new else DASH, 160), *(Html(number(x)) for x in cells),
        verdict(c, signed(c.estimate), span(c.low, c.high)), said(c.demand or DASH),
    ]  # fmt: skip


# --- wins -------------------------------------------------------------------------------------


def _wins(run: RunView) -> str:
    """Preferred against tuned, with ties and lengths: a longer answer wins too easily."""
    claims = [c for c in run.claims if c.family == "PF3"]
    if not claims:
        return ""
    head = ("claim", "share won", "claimed", "won", "lost", "ties", "new longer by", "won if as long")
    note = '<p class="small muted">Of items that either wins; a tie counts for neither. Length in characters, mean over all items.</p>'
    shown = table("Wins", head, map(_win, claims[:_ROWS]), ("", *["num"] * 7))
    return f"<h3>Wins of the preferred model</h3>{note}{shown}"


def _win(c: ClaimView) -> list[Html]:
    conditions, k = told(c), count(mapping(c.verdict.get("statistics")).get("k"))
    longer = mapping(conditions.get("longer"))
    lost = c.n - k if k is not None and c.n >= k else None
    cells = (k, lost, count(conditions.get("ties")), finite(longer.get("mean")), finite(longer.get("win_rate_at_equal_length")))
    return [
        link(c, claim_id(c)),
        verdict(c, number(c.estimate), span(c.low, c.high)),
        said(c.demand or DASH),
        *(Html(number(x)) for x in cells),
    ]


# --- noise and slices -------------------------------------------------------------------------

_AGAIN = {("R3", "noise"): "asked again, in other orders", ("G4", "same"): "in another dress: {}", ("G3", "flaky"): "put aside as flaky"}


def _noise(run: RunView) -> str:
    """How many items change when nothing does: no difference below it means anything."""
    claims = [c for c in run.claims if (c.family, c.name) in _AGAIN]
    if not claims:
        return ""
    head = ("what", "claim", "items changed", "share", "claimed", "each rerun")
    shown = table("Noise floor", head, map(_changed, claims[:_ROWS]), ("", "", *["num"] * 4))
    note = '<p class="small muted">What changes when nothing does, item by item: the floor under every difference above.</p>'
    return f"<h3>Noise floor</h3>{note}{shown}"


def _changed(c: ClaimView) -> list[Html]:
    k = count(mapping(c.verdict.get("statistics")).get("k"))
    flaky, psi = told(c).get("flaky"), told(c).get("psi_aa")
    changed = k if c.family != "G3" else len(flaky) if isinstance(flaky, list) else None
    each = ", ".join(number(finite(x)) for x in psi[:9]) if isinstance(psi, list) else DASH
    what = _AGAIN[c.family, c.name].format(c.params[-1] if c.params else "")
    share = verdict(c, number(c.estimate), span(c.low, c.high)) if c.family != "G3" else verdict(c, DASH)
    of = f" of {number(c.n)}" if c.n and changed is not None else ""
    return [said(what, 120), link(c, claim_id(c)), Html(f"{number(changed)}{of}"), share, said(c.demand or DASH), said(each)]


def _slices(run: RunView) -> str:
    """Parts of a set, to be looked at and never claimed."""
    found = [(c, rows) for c in run.claims if c.family in COMPARED and (rows := mappings(told(c).get("slices")))]
    return "".join(_sliced(c, rows) for c, rows in found)


def _sliced(c: ClaimView, rows: Sequence[Mapping[str, Any]]) -> str:
    ordered = sorted(rows, key=lambda r: (_or_one(r.get("p_adjusted")), str(r.get("slice"))))
    head = ("slice", "items", "b", "c", "difference", "p", "p adjusted")
    note = (
        '<p class="small muted">Exploratory: to be looked at, not claimed. The two-sided p is adjusted for the number of slices '
        "(Benjamini-Hochberg); nothing here decides.</p>"
    )
    title = f"Slices of {c.id}"
    inner = table(title, head, map(_slice, ordered[:_SLICES]), ("", *["num"] * 6))
    more = f'<p class="small muted">{_SLICES} of {len(rows)} slices.</p>' if len(rows) > _SLICES else ""
    summary = f'Slices of {link(c, claim_id(c))} <span class="muted">(exploratory, {len(rows)})</span>'
    return f"<details><summary>{summary}</summary>{note}{inner}{more}</details>"


def _or_one(p: Any) -> float:
    found = finite(p)
    return 1.0 if found is None else found


def _slice(row: Mapping[str, Any]) -> list[Html]:
    n, b, c = (count(row.get(key)) for key in ("n", "b", "c"))
    gain = (b - c) / n if n and b is not None and c is not None else None
    numbers = [number(n), number(b), number(c), signed(gain), *(number(finite(row.get(key))) for key in ("p", "p_adjusted"))]
    return [said(row.get("slice", DASH), 120), *map(Html, numbers)]
