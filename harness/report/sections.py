"""The long parts of the page: flips, provenance, and the evidence of each claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from harness.report.builds import Broken, Flip, broken, builds_of, flips, reference_of
from harness.report.markup import Html, badge, claim_id, definitions, differing, file_link, link, said, said_json, table
from harness.report.text import DASH, number
from harness.report.view import ClaimView, RunView
from harness.types import Sample

__all__ = ["evidence", "flips_section", "provenance", "recheck", "releases"]

_FLIPS = 10  # items shown per table
_ROWS = 40  # of a deterministic claim


# --- the release verdicts ---------------------------------------------------------------------


def releases(run: RunView) -> Html:
    """May a build go out: what each family of claims came to, in the order in which they were opened."""
    if not run.releases:
        return Html("")
    note = (
        '<p class="small muted">A family is opened only if all before it held. "all": every claim holds, each at its level; '
        '"any": at least one does, after Holm. A release holds falsely with at most the probability alpha.</p>'
    )
    rows = [_release(name, verdict) for name, verdict in run.releases.items()]
    return Html(note + table("Release verdicts", ("build", "release", "alpha", "families"), rows, ("", "", "num", "")))


def _release(name: str, verdict: Mapping[str, Any]) -> list[Html]:
    families = "".join(
        f"<div>{badge(str(f.get('outcome')), '')} {said(f.get('name', ''), 80)} "
        f'<span class="muted">({said(f.get("rule", ""), 20)} of {len(f.get("claims") or ())}) {said(f.get("reason", ""), 300)}</span></div>'
        for f in verdict.get("families") or ()
        if isinstance(f, Mapping)
    )
    return [said(name, 80), badge(str(verdict.get("outcome")), ""), Html(number(verdict.get("alpha"))), Html(families)]


# --- flips ------------------------------------------------------------------------------------


def flips_section(run: RunView) -> Html:
    """Items the reference has right and a build wrong, side by side: numbers alone do not show what broke."""
    groups: dict[tuple[str, ...], list[ClaimView]] = {}
    order = {b.name: i for i, b in enumerate(builds_of(run))}
    for c in sorted(run.claims, key=lambda c: order.get(c.params[-1] if c.params else "", len(order))):
        # Health is no score; the held-out half stands under the other claim on it.
        told_elsewhere = c.family == "E4" or (c.family, c.name) == ("E9", "heldout")
        if c.estimand == "paired_difference" and c.samples and not told_elsewhere:
            groups.setdefault((c.family, c.name, *c.params[:-1], reference_of(c)), []).append(c)
    return Html("".join(_flips_of(claims) for claims in groups.values()))


def _flips_of(claims: Sequence[ClaimView]) -> str:
    """Claims on the same items against the same reference: a row per item, a column per build."""
    found = [flips(c) for c in claims]
    counts = "".join(
        f"<li>{link(c, claim_id(c))}: {len(lost)} right → wrong, {gained} wrong → right</li>"
        for c, (lost, gained) in zip(claims, found, strict=True)
    )
    rows = broken([lost for lost, _ in found])
    if not rows:
        return f"<ul>{counts}</ul>"
    names = ["item", "input", "target", f"{reference_of(claims[0])}, right", *(c.params[-1] if c.params else "new" for c in claims)]
    cells = [_broken(row) for row in rows[:_FLIPS]]
    kept = [i for i in range(len(names)) if any(row[i] for row in cells)]
    tight = " tight" if len(claims) > 1 else ""
    kinds = ["num", f"answer{tight}", *[f"answer mono{tight}"] * (2 + len(claims))]
    shown_rows = [[row[i] for i in kept] for row in cells]
    body = table(f"Worst flips of {claims[0].name}", [names[i] for i in kept], shown_rows, [kinds[i] for i in kept])
    several = sum(len(row.flips) - row.flips.count(None) > 1 for row in rows)
    shown = f"the worst {_FLIPS} of {len(rows)}" if len(rows) > _FLIPS else f"all {len(rows)}"
    beside = f", {several} by more than one build" if len(claims) > 1 else ""
    what = said(f"{', '.join(claims[0].params[:-1]) or claims[0].name} against {reference_of(claims[0])}", 200)
    summary = f'{what}: {len(rows)} items broken{beside} <span class="muted">({shown})</span>'
    return f"<ul>{counts}</ul><details><summary>{summary}</summary>{body}</details>"


def _broken(row: Broken) -> list[Html]:
    """A row of cells; an empty one where there is nothing to say."""
    first = row.first
    old = said(first.old, 600) if len(row.flips) > 1 else differing(first.old, first.new)[0]
    told = [said(text, 600) if text else Html("") for text in (first.input, first.target)]
    return [said(first.item, 80), *told, old, *map(_answer, row.flips)]


def _answer(flip: Flip | None) -> Html:
    """What a build answered, what differs marked; a tick where it did not break the item."""
    if flip is None:
        return Html('<span class="muted">✓ not broken</span>')
    status = f'<span class="sub">{said(flip.status.replace("_", " "), 60)}</span>' if flip.status != "ok" else ""
    return Html(f"✗ {differing(flip.old, flip.new)[1]}{status}")


# --- conditions and provenance ----------------------------------------------------------------


def provenance(run: RunView) -> Html:
    """Where the numbers come from: code, packages, machine, sealed inputs, subjects."""
    origin, plan, facts = run.provenance, run.plan, run.facts
    code = origin.get("code") or {}
    others = sum(bool(c.provenance) and c.provenance != origin for c in run.claims)
    general = definitions([
        ("lifecycle", said(run.lifecycle or DASH)), ("tier", said(run.tier or DASH)),
        ("harness", said(plan.get("harness") or DASH)), ("commit", said(code.get("commit") or "not known")),
        ("changes", said(f"uncommitted, SHA-256 {code['dirty']}" if code.get("dirty") else "none")),
        ("plan.json", Html(f"<code>{escape(run.plan_digest) or 'missing'}</code>")),
        ("finished", said(facts.get("finished") or "not finished")), ("exit status", said(facts.get("exit_status", DASH))),
        ("allowed to be missing", said(", ".join(map(str, facts.get("allowed_missing") or ())) or "nothing")),
        ("elsewhere", said(f"{others} claims were measured under another provenance; see each") if others else Html("")),
    ])  # fmt: skip
    parts = [
        _facts("Machine", origin.get("machine")), _facts("Packages", origin.get("packages")),
        _facts("Golden sets, SHA-256", plan.get("golden")), _facts("Scorers, SHA-256", plan.get("scorers")), _subjects(run),
    ]  # fmt: skip
    return Html(general + "".join(parts))


def _facts(title: str, facts: object) -> str:
    if not isinstance(facts, Mapping) or not facts:
        return ""
    rows = [[said(key, 100), said_json(value, 200)] for key, value in sorted(facts.items())]
    inner = table(title, ("name", "value"), rows, ("", "mono"))
    return f'<details><summary>{escape(title)} <span class="muted">({len(rows)})</span></summary>{inner}</details>'


def _subjects(run: RunView) -> str:
    found = {(str(s.get("name")), str(s.get("digest"))): s for c in run.claims for s in c.measurement.get("subjects") or ()}
    rows = [[said(s.get("name", ""), 100), *(said(s.get(k, ""), 200) for k in ("scheme", "location", "digest"))]
            for _, s in sorted(found.items())]  # fmt: skip
    if not rows:
        return ""
    inner = table("Subjects", ("name", "scheme", "location", "SHA-256"), rows, ("", "", "", "mono"))
    return f'<details><summary>Subjects <span class="muted">({len(rows)})</span></summary>{inner}</details>'


# --- the evidence of each claim ---------------------------------------------------------------


def evidence(run: RunView) -> Html:
    """One section per claim: all that was decided, and the files it can be decided from again. Of what holds only the sentence is open."""
    folded = '<p class="paper">On paper what is folded stays folded: unfold it on the page before printing.</p>'  # hundreds of sheets else
    return Html(folded + "".join(_article(c) for _, claims in run.families for c in claims))


def _article(c: ClaimView) -> str:
    known = "known" if c.known_failure else ""
    is_open = "" if c.outcome == "holds" else " open"
    why = f"<p>Known to fail: {said(c.notes.get('why') or 'no reason given')}</p>" if c.known_failure else ""
    return (
        f'<article id="{c.anchor}"><h3>{badge(c.outcome, known)} {claim_id(c)}</h3><p>{said(c.text)}</p>'
        f"<p><strong>{said(c.sentence)}</strong></p>{why}<details{is_open}><summary>What it was decided by</summary>"
        f"{definitions([*_decided(c), *_numbers(c), *_basis(c), *_files(c)])}{_rows(c)}</details></article>"
    )


_NONE = Html("")


def _decided(c: ClaimView) -> list[tuple[str, Html]]:
    """What was fixed before the data."""
    source = {"lifecycle": "set by the lifecycle file", "default": "the default of the suite"}.get(str(c.notes.get("bound_from")), "")
    alpha, planned = c.verdict.get("alpha"), c.min_n
    return [
        ("reason", said(c.reason) if c.reason else _NONE),
        ("bound", Html(f'{said(_bound(c))} <span class="muted">{escape(source)}</span>') if c.bound else _NONE),
        ("alpha", Html(f"{said_json(alpha)} one-sided") if alpha is not None else _NONE),
        ("least n planned", said_json(planned) if planned is not None else _NONE),
    ]


def _numbers(c: ClaimView) -> list[tuple[str, Html]]:
    """Every number of the verdict, with every digit it has in the evidence."""
    v = c.verdict
    limits = f" [{said_json(v.get('low'))}, {said_json(v.get('high'))}] at level {said_json(v.get('level'))}"
    needed = f"{said_json(v.get('n_needed'))} for power .80, {said_json(v.get('n_needed_90'))} for power .90"
    tests = f"{said_json(v.get('p_hold'))} for holding, {said_json(v.get('p_fail'))} for failing; the smaller, the surer"
    failed = f", of them {said_json(v.get('n_unusable'))} failed units" if v.get("n_unusable") else ""
    return [
        ("estimate", Html(said_json(c.estimate) + (limits if c.low is not None else "")) if c.estimate is not None else _NONE),
        ("p", Html(tests) if v.get("p_hold") is not None else _NONE),
        ("n", Html(said_json(v["n"]) + failed) if v.get("n") else _NONE),
        ("n needed", Html(needed) if v.get("n_needed") is not None else _NONE),
        ("method", said(f"{v['method']}, {v.get('exactness') or 'exactness not said'}") if v.get("method") else _NONE),
        ("statistics", said_json(v["statistics"]) if v.get("statistics") else _NONE),
    ]


def _bound(c: ClaimView) -> str:
    ends = ", ".join(f"{c.bound[key]:g}" for key in ("limit", "high") if isinstance(c.bound.get(key), (int, float)))
    kind = str(c.bound.get("kind"))
    return f"{kind}()" if kind == "identical" else f"{kind}({ends}): {c.demand}"


def _basis(c: ClaimView) -> list[tuple[str, Html]]:
    """What was measured, on what, under which conditions."""
    m = c.measurement
    subjects = ", ".join(f"{s.get('name')} ({str(s.get('digest'))[:12]})" for s in m.get("subjects") or ())
    return [
        ("void because", said("; ".join(map(str, m["invalid"]))) if m.get("invalid") else _NONE),
        ("remarks", said("; ".join(map(str, m["notes"]))) if m.get("notes") else _NONE),
        ("subjects", said(subjects) if subjects else _NONE),
        ("conditions", said_json(m["conditions"], 4_000) if m.get("conditions") else _NONE),
    ]


def _files(c: ClaimView) -> list[tuple[str, Html]]:
    """Where it all lies in the run folder."""
    kept = c.measurement.get("samples") or {}
    file, sha = str(kept.get("file", "")), str(kept.get("sha256", ""))
    # A sidecar is named by the digest of the text inside; say the digest again only if it is not.
    digest = "its name is the SHA-256 of the text inside" if sha and sha in file else f"SHA-256 of the text inside: {sha}"
    rows = f"{file_link(file)} · {number(kept.get('rows'))} rows, {said(digest)}" if kept else ""
    return [
        ("test", said(c.notes["test"]) if c.notes.get("test") else _NONE),
        ("evidence", file_link(c.file) if c.file else Html("none: no evidence file was written")),
        ("raw rows", Html(rows)), ("attention", said(c.problem) if c.problem else _NONE),
    ]  # fmt: skip


def _rows(c: ClaimView) -> str:
    """The rows of a deterministic claim: what breaks it first, then what has most to say."""
    if c.estimand not in ("exact", "exact_share") or not c.samples:
        return ""
    bad = [s for s in c.samples if _breaks(c, s)]
    rest = sorted((s for s in c.samples if not _breaks(c, s)), key=lambda s: -len(s.detail))
    shown = [*bad, *rest][:_ROWS]
    keys = sorted({key for s in shown for key in s.detail})
    rows = [_row(c, s, keys) for s in shown]
    inner = table(f"Rows of {c.id}", ("row", "as claimed", "value", *keys), rows, ("", "", "num", *["mono"] * len(keys)))
    count = f"{len(shown)} of {len(c.samples)}" if len(shown) < len(c.samples) else str(len(shown))
    broken = sum(int(s.weight) for s in bad)  # a row may stand for many
    summary = f'Rows <span class="muted">({count}; {broken} break the claim)</span>'
    return f"<details{' open' if bad else ''}><summary>{summary}</summary>{inner}</details>"


def _row(c: ClaimView, s: Sample, keys: Sequence[str]) -> list[Html]:
    verdict = "✗ no" if _breaks(c, s) else "✓ yes"
    value = number(s.value) if s.status == "ok" else s.status
    times = f" × {s.weight:.0f}" if s.weight > 1 else ""
    return [
        said(f"{s.item}{times}", 200),
        Html(verdict),
        said(value, 60),
        *(said_json(s.detail[k], 300) if k in s.detail else Html("") for k in keys),
    ]


def _breaks(c: ClaimView, s: Sample) -> bool:
    if s.value is None:
        return True
    if c.bound.get("kind") == "identical":
        return s.value != 1
    ends = c.limits
    if not ends:
        return False
    if c.bound.get("kind") == "at_least":
        return s.value < ends[0]
    return s.value > ends[-1] or (len(ends) == 2 and s.value < ends[0])


# --- checking ---------------------------------------------------------------------------------


def recheck(run: RunView) -> Html:
    """How a stranger derives it all again."""
    return Html(
        "<p>This page decides nothing. Each verdict can be derived again from the sealed plan and the raw rows, without a network, "
        "with Python and this package alone. RUN is the folder this page lies in:</p>"
        "<pre>python -m harness recheck RUN</pre>"
        "<p>It checks the digest of every file against <code>bundle.json</code>, every claim against the plan, every table of raw rows "
        "against its SHA-256, and judges every claim and control again. The seal it prints is the one that was printed when the run "
        "ended; compare them if you were told one.</p>"
        f"<p>The plan of this run has SHA-256 <code>{escape(run.plan_digest) or 'missing'}</code>. "
        f"{len(run.claims)} claims are shown here.</p>"
    )
