"""What goes wrong, by type: clusters with counts, whether two raters type alike, and failures that a person can read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from harness.report.datasets import count, mapping, mappings, told
from harness.report.markup import Html, claim_id, differing, link, said, table, verdict
from harness.report.text import number, span
from harness.report.view import ClaimView, RunView

__all__ = ["failures", "readable"]

_SHOWN = 40  # failures side by side
_CLUSTERS = 40


def failures(run: RunView) -> Html:
    """Each subject whose failures were listed: types, clusters, agreement, examples."""
    listed = [c for c in run.claims if (c.family, c.name) == ("E8", "listed")]
    return Html("".join(_of(run, c) for c in listed))


def _of(run: RunView, c: ClaimView) -> str:
    beside = [other for other in run.claims if other.family == "E8" and other.params == c.params]
    every = _every(c)
    parts = [_agreement(beside), _types(c, every), _clusters(c), _examples(every)]
    return f"<h3>{link(c, claim_id(c))}</h3>{''.join(parts)}"


def _every(c: ClaimView) -> list[Mapping[str, Any]]:
    """All failures, as the claim lists them; where it lists none, the examples of its clusters."""
    found = [f for s in c.samples for f in mappings(s.detail.get("failures"))]
    return found or [f for cluster in mappings(told(c).get("clusters")) for f in mappings(cluster.get("examples"))]


def _agreement(claims: Sequence[ClaimView]) -> str:
    """How the claims about the failures came out: listed, covered by the code book, typed alike by two raters."""
    known = {"listed": "failures with a type", "covered": "share of no type", "stable": "agreement of two raters, Krippendorff's alpha"}
    rows = [
        [
            said(known.get(c.name, c.name), 120), link(c, claim_id(c)),
            verdict(c, number(c.estimate), span(c.low, c.high)), said(c.demand or "–"), Html(number(c.n or None)),
        ]
        for c in claims
    ]  # fmt: skip
    raters = {str(r) for c in claims for r in _names(told(c).get("raters"))}
    who = f'<p class="small muted">Raters: {said(", ".join(sorted(raters)), 200)}.</p>' if raters else ""
    return table("Claims on failures", ("what", "claim", "estimate", "claimed", "n"), rows, ("", "", "num", "num", "num")) + who


def _names(value: Any) -> list[Any]:
    return value[:10] if isinstance(value, list) else []


def _types(c: ClaimView, every: Sequence[Mapping[str, Any]]) -> str:
    """Counts by type: all, of either half, and how often the second rater says the same."""
    counts = {str(kind): n for kind, x in mapping(told(c).get("types")).items() if (n := count(x)) is not None}
    counts = counts or dict(Counter(str(f.get("type")) for f in every))
    whole = sum(counts.values())
    if not whole:
        return ""
    rows = []
    for kind, n in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:_CLUSTERS]:
        mine = [f for f in every if f.get("type") == kind]
        alike, mined = sum(f.get("second") == kind for f in mine), sum(map(readable, mine))
        cells = (number(n), f"{n / whole:.1%}", number(mined), number(len(mine) - mined), f"{alike} of {len(mine)}")
        rows.append([said(kind, 80), *map(Html, cells)])
    head = ("type", "failures", "share", "mined half", "held-out half", "the second rater says the same")
    return table("Types of failures", head, rows, ("", *["num"] * 5))


def _clusters(c: ClaimView) -> str:
    """Failures of one type in the same fields."""
    found = mappings(told(c).get("clusters"))
    whole = sum(count(f.get("n")) or 0 for f in found)
    if not whole:
        return ""
    rows = [
        [
            said(f.get("type", "–"), 80), said(", ".join(map(str, _names(f.get("fields")))) or "–", 200),
            Html(number(count(f.get("n")))), Html(f"{(count(f.get('n')) or 0) / whole:.1%}"),
        ]
        for f in found[:_CLUSTERS]
    ]  # fmt: skip
    inner = table("Clusters of failures", ("type", "fields that differ", "failures", "share"), rows, ("", "", "num", "num"))
    more = f", {_CLUSTERS} shown" if len(found) > _CLUSTERS else ""
    return (
        f'<details><summary>Clusters: a type in the same fields <span class="muted">({len(found)}{more})</span></summary>{inner}</details>'
    )


# --- side by side -----------------------------------------------------------------------------


def readable(failure: Mapping[str, Any]) -> bool:
    """Whether it is of the mined half: only those may be read, or the held-out half would be none."""
    return failure.get("mined", True) is True


def _examples(every: Sequence[Mapping[str, Any]]) -> str:
    """Some of each type, the commonest type first, so that none crowds out the others."""
    mined = [f for f in every if readable(f)]
    shown = list(_in_turn(mined))[:_SHOWN]
    held = len(every) - len(mined)
    told_ = f"{len(shown)} of {len(every)} failures, types in turn. " + (
        f"{held} are of the held-out half: counted above, and not shown, since the next training must not be changed for them."
        if held
        else ""
    )
    note = f'<p class="small muted">{told_}</p>'
    if not shown:
        return note
    rows = [_example(f) for f in shown]
    head = ("item", "type", "input", "target", "answer")
    inner = table("Failures side by side", head, rows, ("num", "", "answer tight", "answer mono tight", "answer mono tight"))
    return f'<details open><summary>Failures side by side <span class="muted">({len(shown)})</span></summary>{note}{inner}</details>'


def _in_turn(found: Sequence[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for one in found:
        groups.setdefault(str(one.get("type")), []).append(one)
    ordered = sorted(groups.items(), key=lambda g: (-len(g[1]), g[0]))
    return (one for row in zip_longest(*(group for _, group in ordered)) for one in row if one is not None)


def _example(failure: Mapping[str, Any]) -> list[Html]:
    target, answer = differing(str(failure.get("target", "")), str(failure.get("text", "")))
    second = failure.get("second")
    other = f'<span class="sub">second rater: {said(second, 60)}</span>' if second not in (None, failure.get("type")) else ""
    kind = Html(f"{said(failure.get('type', '–'), 60)}{other}")
    return [said(failure.get("item", "–"), 80), kind, said(failure.get("input", ""), 600), target, answer]
