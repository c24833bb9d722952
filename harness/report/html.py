"""``report.html``: one page that stands alone. No script, no network; a reader can check every number."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from harness.report import contrasts, data, failures, figures, judges, mutants, sections, serving, spread
from harness.report.builds import builds_of
from harness.report.datasets import datasets_of
from harness.report.decision import decision
from harness.report.glance import glance
from harness.report.loads import loads_of
from harness.report.markup import Html, badge, claim_id, link, said, scroll
from harness.report.plots import mini
from harness.report.risks import risks
from harness.report.rubric import rubric
from harness.report.style import CSS, DATA
from harness.report.tensors import tensor_maps
from harness.report.text import clean, number, one_line, span
from harness.report.training import training
from harness.report.versus import versus
from harness.report.view import ClaimView, RunView, family_title, release, warnings_of

__all__ = ["render"]

# Nothing may be loaded or run, whatever a model wrote; styles are the one inline thing.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render(run: RunView) -> str:
    """The page as one string."""
    title = escape(clean(one_line(f"{run.lifecycle or 'run'} · {run.tier or 'tier not known'} · {release(run)}")))
    # Each: the anchor and name of a section, and its content; what is empty is left out.
    builds, datasets, loads = builds_of(run), datasets_of(run), loads_of(run)
    parts = [
        ("decision", "Which build", decision(run)),
        ("risks", "Risks", risks(run)),
        ("rubric", "Rubric", rubric(run)),
        ("tradeoff", "Quality against size, speed, memory", figures.tradeoff(builds)),
        ("builds", "Table of methods", figures.builds_table(run, builds)),
        ("releases", "May it go out", sections.releases(run)),
        ("data", "Data", data.overview(datasets)),
        ("lengths", "Lengths", spread.lengths(datasets)),
        ("clusters", "Duplicates and clusters", spread.clusters(datasets)),
        ("leaks", "Leakage map", spread.leaks(datasets)),
        ("findings", "Findings by kind", data.findings(datasets)),
        ("planted", "Planted defects", data.planted(datasets)),
        ("training", "Training", training(run)),
        ("versus", "Base against tuned", versus(run)),
        ("failures", "Failures", failures.failures(run)),
        ("judges", "Judges", judges.judges(run)),
        ("servers", "Servers", serving.servers(run)),
        ("latency", "Latency", serving.latency(run, loads)),
        ("curve", "Load curve and knee", contrasts.curve(run)),
        ("timeline", "Over the time of a load", serving.timeline(loads)),
        ("tails", "What the slow ones cost", serving.tails(loads)),
        ("arms", "Run against run", contrasts.arms(run)),
        ("floor", "Noise floor of company", contrasts.floor(run)),
        ("claims", "Claims", _claims(run)),
        ("differences", "Paired differences", figures.differences(run)),
        ("distributions", "Distributions by document", figures.distributions(run)),
        ("positions", "KL by position", figures.positions(builds)),
        ("tensors", "Tensors: what each really is", tensor_maps(builds)),
        ("flips", "Flips side by side", sections.flips_section(run)),
        ("controls", "Mutants: do the gates work", mutants.mutants(run)),
        ("provenance", "Conditions and provenance", sections.provenance(run)),
        ("evidence", "Evidence", sections.evidence(run)),
        ("check", "How to check this report", sections.recheck(run)),
    ]
    shown = [part for part in parts if part[2]]
    body = "".join(f'<section aria-labelledby="{key}"><h2 id="{key}">{name}</h2>{inner}</section>' for key, name, inner in shown)
    nav = "".join(f'<a href="#{key}">{name}</a>' for key, name, _ in shown)
    css = CSS + DATA if datasets else CSS
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="referrer" content="no-referrer">\n<title>{title}</title>\n<style>{css}</style>\n</head>\n<body>\n'
        f'<a class="skip" href="#claims">Skip to the claims</a>\n{_header(run)}\n<nav aria-label="Sections">{nav}</nav>\n'
        f"<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


# --- the first screen -------------------------------------------------------------------------


def _header(run: RunView) -> Html:
    code = run.provenance.get("code") or {}
    commit = said(str(code.get("commit") or "not known")[:12]) + (" with uncommitted changes" if code.get("dirty") else "")
    when = said(run.facts.get("finished") or "not finished")
    plan = escape(run.plan_digest[:12]) or "missing"
    warnings = "".join(f'<p class="warn" role="note">⚠ {said(text, 4_000)}</p>' for text in warnings_of(run))
    return Html(
        f"<header><h1>{said(run.lifecycle or 'run', 200)}</h1>"
        f'<p class="meta">tier <strong>{said(run.tier or "not known")}</strong> · commit <code>{commit}</code> · {when} · '
        f"plan <code>{plan}</code></p>{warnings}"
        f'<p class="release {_mood(run)}">{said(release(run))}</p>{_badges(run)}{glance(run)}</header>'
    )


def _mood(run: RunView) -> str:
    bad = {"fails", "error", "lost"}
    if any(c.outcome in bad and not c.known_failure for c in run.claims) or run.unreadable:
        return "bad"
    proven = run.claims and not run.smoke and not run.cut_short
    return "good" if proven and all(c.outcome == "holds" or c.known_failure for c in run.claims) else "open"


def _badges(run: RunView) -> Html:
    items = "".join(f"<li>{badge(outcome, str(k), empty=k == 0)}</li>" for outcome, k in run.counts.items())
    return Html(f'<ul class="badges" aria-label="Claims by outcome">{items}</ul>')


def _claims(run: RunView) -> Html:
    if not run.claims:
        return Html("<p>No claim was planned and none left evidence.</p>")
    head = "".join(f'<th scope="col">{name}</th>' for name in ("outcome", "claim", "estimate", "interval and bound", "n", "p", "method"))
    body = "".join(_family(family, claims) for family, claims in run.families)
    note = (
        '<p class="small muted">In brackets: confidence limits. Dashed line: the bound; shaded: the side that was claimed. '
        "● holds · ■ fails · ◆ inconclusive. p for: how surely the claim is shown; p against: how surely it is refuted.</p>"
    )
    return Html(note + scroll(f"<table><thead><tr>{head}</tr></thead>{body}</table>", "Claims"))


def _family(family: str, claims: Iterable[ClaimView]) -> str:
    title = family_title(family)
    name = said(family or "other", 80) + (f" · {escape(title)}" if title else "")
    rows = "".join(_claim(c) for c in claims)
    return f'<tbody><tr><th scope="rowgroup" colspan="7">{name}</th></tr>{rows}</tbody>'


def _claim(c: ClaimView) -> str:
    p, which = c.p
    known = "known" if c.known_failure else ""
    estimate = f'{number(c.estimate)}<span class="sub">{span(c.low, c.high)}</span>'
    interval = figures.interval_of(c)
    plot = mini(interval) if interval and c.limits else ""
    shown_p = f'{number(p)}<span class="sub">{which}</span>' if p is not None else number(None)
    why = f'<span class="why">{said(c.why, 300)}</span>' if c.outcome != "holds" and c.why else ""
    return (
        f'<tr><td>{badge(c.outcome, known)}</td><th scope="row" class="claim">{link(c, claim_id(c))}'
        f'<span class="muted">{said(c.text, 300)}</span>{why}</th><td class="num">{estimate}</td>'
        f'<td>{plot}<span class="sub">{escape(c.demand)}</span></td><td class="num">{number(c.n or None)}</td>'
        f'<td class="num">{shown_p}</td><td class="small">{said(c.verdict.get("method") or number(None), 80)}</td></tr>'
    )
