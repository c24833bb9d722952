"""The first screen: what may go out and how sure that is, what changed, what is missing, what is to be feared, what it is sealed by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from harness.report.markup import Html, badge, claim_id, link, said
from harness.report.risks import gravest, risks_of
from harness.report.rubric import shown
from harness.report.text import number
from harness.report.view import RunView

__all__ = ["changed", "glance", "missing"]

_RISKS, _CHANGES = 3, 6  # shown at once


def glance(run: RunView) -> Html:
    """Cards under the verdict counts; empty for a run without claims."""
    if not run.claims:
        return Html("")
    cards = (
        ("May it go out", _releases(run)), ("Since the baseline", _changes(run)), ("Must-haves", _musts(run)),
        ("Gravest risks", _risks(run)),
    )  # fmt: skip
    body = "".join(f'<div class="card"><h3 class="name">{name}</h3>{inner}</div>' for name, inner in cards if inner)
    return Html(f'<div class="cards glance">{body}</div>{_sealed(run)}')


def _releases(run: RunView) -> str:
    if not run.releases:
        return "<p>No release was asked for.</p>"
    items = "".join(
        f"<li>{badge(str(verdict.get('outcome')))} <strong>{said(name, 60)}</strong></li>" for name, verdict in _best_first(run)
    )
    rates = ", ".join(sorted({number(verdict.get("alpha")) for verdict in run.releases.values()}))
    note = f'A release holds falsely with probability at most {rates}. <a href="#releases">Each family of claims</a>'
    return f'<ul class="plain">{items}</ul><p class="small muted">{note}</p>'


def _best_first(run: RunView) -> list[tuple[str, Mapping[str, Any]]]:
    order = ("holds", "inconclusive")
    return sorted(run.releases.items(), key=lambda kv: (order.index(o) if (o := kv[1].get("outcome")) in order else len(order), kv[0]))


# --- what changed -----------------------------------------------------------------------------


def changed(run: RunView) -> list[tuple[str, str]]:
    """(claim, how it changed) of what is another than the approved baseline, in words; what is worse first."""
    order = ("worse", "asked otherwise", "better")
    told = [one for one in _listed(run.changes.get("changed")) if "claim" in one]
    ranked = sorted(told, key=lambda one: order.index(str(one.get("what"))) if one.get("what") in order else len(order))
    return [(str(one["claim"]), _how(one)) for one in ranked]


def _how(one: Mapping[str, Any]) -> str:
    old, new = (str((one.get(key) or {}).get("outcome") or "?").replace("_", " ") for key in ("old", "new"))
    return f"{one.get('what')}: {old} → {new}" if old != new else str(one.get("what"))


def _listed(value: object) -> list[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _changes(run: RunView) -> str:
    if not run.changes:
        return "<p>No approved baseline: nothing is said of change.</p>"
    found, by_id = changed(run), {c.id: c for c in run.claims}
    names = ((link(by_id[name], claim_id(by_id[name])) if name in by_id else said(name, 100), how) for name, how in found[:_CHANGES])
    items = "".join(f'<li>{name} <span class="small">{said(how, 100)}</span></li>' for name, how in names)
    fresh, gone = (run.changes.get(key) for key in ("new", "gone"))
    counts = [f"{number(run.changes.get('same'))} as they were", f"{len(found)} changed"]
    counts += [f"{len(one)} {word}" for one, word in ((fresh, "new"), (gone, "gone")) if isinstance(one, list) and one]
    return f"<p>{', '.join(counts)}.</p>" + (f'<ul class="plain">{items}</ul>' if items else "")


# --- what is missing, what is to be feared ----------------------------------------------------


def missing(run: RunView) -> tuple[Counter[str], list[str]]:
    """How many must-haves are in which state, and by name those that are not evidenced."""
    found = shown(run)
    return Counter(one.state for one in found), [one.must.what for one in found if one.state != "evidenced"]


def _musts(run: RunView) -> str:
    counts, names = missing(run)
    if not counts:
        return ""
    items = "".join(f"<li>{said(name, 100)}</li>" for name in names[:_CHANGES])
    more = f"<li>and {len(names) - _CHANGES} more</li>" if len(names) > _CHANGES else ""
    head = f'<p>{counts["evidenced"]} of {counts.total()} <a href="#rubric">must-haves</a> are evidenced'
    return f'{head}; not:</p><ul class="small">{items}{more}</ul>' if names else f"{head}.</p>"


def _risks(run: RunView) -> str:
    found = risks_of(run)
    if not found:
        return "<p>None among its claims.</p>"
    items = "".join(
        f"<li>{badge(r.claim.outcome, 'known' if r.known else '')} {link(r.claim, claim_id(r.claim))} "
        f'<span class="small">{said(r.said, 160)}</span></li>'
        for r in gravest(found, _RISKS)
    )
    return f'<ul class="plain">{items}</ul><p class="small"><a href="#risks">all {len(found)} risk notes</a></p>'


def _sealed(run: RunView) -> str:
    return (
        f'<p class="meta">Sealed: the plan <code>{run.plan_digest[:12] or "missing"}</code>, before the first sample; all files, at the '
        "end, by the seal that <code>python -m harness recheck</code> prints, which derives each verdict and this page again.</p>"
    )
