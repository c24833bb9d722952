"""The data that were audited: one line a dataset, what was found, and whether the audit finds what was planted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from harness.report.datasets import Dataset, Kind, count, flagged, kinds_of, mapping, told
from harness.report.markup import Html, claim_id, link, outcome_class, said, scroll, table
from harness.report.text import DASH, SYMBOLS, number, span
from harness.report.view import ClaimView, family_title

__all__ = ["figure_of", "findings", "overview", "percent", "planted", "proofs"]

_ROWS = 20  # of a table
_KINDS = 60


def percent(share: float) -> str:
    """A share as people say it; what is nearly nothing or nearly all is neither."""
    if 0 < share < 1e-4:
        return "< 0.01%"
    return "> 99.99%" if 0.9999 < share < 1 else f"{100 * share:.3g}%"


def _more(shown: Sequence[Any], n: int, what: str) -> str:
    """What a table leaves out, in a line; "" where it is whole."""
    return f'<p class="small muted">{len(shown)} of {number(n)} {escape(what)}.</p>' if len(shown) < n else ""


# --- overview ---------------------------------------------------------------------------------


def overview(datasets: Sequence[Dataset]) -> Html:
    """One row per dataset, a column per claim: how it came out and the number that matters, leading to its evidence."""
    if not datasets:
        return Html("")
    shown = datasets[:_ROWS]
    keys = _columns(shown)
    body = "".join(_dataset(d, keys) for d in shown)
    note = (
        '<p class="small muted">✓ holds · ✗ fails · ? inconclusive · – not asked or not evaluated. Shares are of all rows, copies '
        "counted; below them how many. Where nothing may be amiss, the number is that of rows, items or facts that are.</p>"
    )
    whole = f'<table class="dense datasets"><thead>{_head(keys)}</thead><tbody>{body}</tbody></table>'
    return Html(note + scroll(whole, "Datasets") + _more(shown, len(datasets), "datasets"))


_Key = tuple[str, str]  # family and name of a claim


def _columns(datasets: Sequence[Dataset]) -> list[_Key]:
    """The claims that any dataset has, D before R."""
    return sorted({(c.family, c.name) for d in datasets for c in d.claims})[:_KINDS]


def _head(keys: Sequence[_Key]) -> str:
    spans = Counter(family for family, _ in keys)
    top = "".join(f'<th scope="colgroup" colspan="{n}">{said(f, 20)}<span class="sub">{_topic(f, n)}</span></th>' for f, n in spans.items())
    names = "".join(f'<th scope="col">{said(name or family, 30)}</th>' for family, name in keys)
    return f'<tr><th scope="col" rowspan="2">dataset</th>{top}</tr><tr>{names}</tr>'


def _topic(family: str, columns: int) -> str:
    """What the family is about, where the columns below leave room for it."""
    topic = family_title(family).partition(":")[0].lower()
    return escape(topic) if columns > 1 or len(topic) < 13 else ""


def _dataset(dataset: Dataset, keys: Sequence[_Key]) -> str:
    size = f"{dataset.size / 1e6:,.1f} MB" if dataset.size is not None else ""
    distinct = f"{number(dataset.distinct)} distinct" if dataset.distinct is not None else ""
    rows = f"{number(dataset.rows)} rows" if dataset.rows is not None else ""
    under = "".join(f'<span class="sub">{part}</span>' for part in (rows, distinct, size) if part)
    cells = "".join(f'<td class="num">{_cell(dataset.named(*key))}</td>' for key in keys)
    return f'<tr><th scope="row">{said(dataset.name, 80)}{under}</th>{cells}</tr>'


def _cell(claims: Sequence[ClaimView]) -> Html:
    """One claim, or several of one name (one per evaluation set): the worst leads."""
    if not claims:
        return Html(DASH)
    first = claims[0]
    shown, under = figure_of(first)
    if len(claims) > 1:
        against = [_against(c) for c in claims]
        shown = number(sum(n or 0 for n in against)) if any(n is not None for n in against) else ""
        under = f"{sum(c.outcome == 'holds' for c in claims)} of {len(claims)} hold"
    sign = f'<span class="sign o-{outcome_class(first.outcome)}">{SYMBOLS.get(first.outcome, "·")}</span>'
    return Html(f'{link(first, Html(f"{sign} {escape(shown)}".rstrip()))}<span class="sub">{escape(under)}</span>')


def figure_of(claim: ClaimView) -> tuple[str, str]:
    """The number that matters of a claim, and what stands below it."""
    against, k = _against(claim), count(mapping(claim.verdict.get("statistics")).get("k"))
    if claim.estimate is not None and claim.estimand in ("exact_share", "proportion"):
        whole = f" of {number(claim.n)}" if claim.estimand == "proportion" else ""  # else it is all rows
        return percent(claim.estimate), f"{number(k)}{whole}" if k is not None else ""
    if against is not None and claim.bound.get("kind") == "identical":
        return number(against), ""
    return (number(claim.estimate), span(claim.low, claim.high)) if claim.estimate is not None else ("", "")


def _against(claim: ClaimView) -> int | None:
    return count(mapping(claim.verdict.get("statistics")).get("mismatches"))


# --- findings ---------------------------------------------------------------------------------


def findings(datasets: Sequence[Dataset]) -> Html:
    """How often each kind of finding was made, what it does, and rows that a person can look at."""
    found = [(d, kinds) for d in datasets if (kinds := kinds_of(d))]
    return Html((_kinds_table(found[:_ROWS]) if found else "") + "".join(map(_blocked, datasets[:_ROWS])))


_SAID = {"block": "blocks", "remark": "remark", "": ""}


def _kinds_table(found: Sequence[tuple[Dataset, list[Kind]]]) -> str:
    names = sorted({kind.name for _, kinds in found for kind in kinds})
    at = [{kind.name: kind for kind in kinds} for _, kinds in found]
    order = sorted(names, key=lambda name: (all(name not in of or of[name].action != "block" for of in at), name))
    rows = [[said(name, 80), *(_found(of.get(name)) for of in at)] for name in order[:_KINDS]]
    head = ("check and kind", *(d.name for d, _ in found))
    note = (
        '<p class="small muted">Findings in all rows, copies counted. "blocks": it keeps its row out; "remark": it does not. '
        "Personal data and secrets are never shown, only that they are there.</p>"
    )
    return note + table("Findings by kind", head, rows, ("", *["num"] * len(found))) + _more(rows, len(order), "kinds")


def _found(kind: Kind | None) -> Html:
    if kind is None:
        return Html(DASH)
    mood = "unmet" if kind.action == "block" else "muted"
    return Html(f'{number(kind.n)} <span class="{mood}">{_SAID[kind.action]}</span>')


def _blocked(dataset: Dataset) -> str:
    """Rows that were kept out, with the reasons."""
    claims = [c for c in dataset.named("D5", "blocked") if flagged(c)]
    if not claims:
        return ""
    rows = flagged(claims[0])
    cells = [[said(item, 120), *(_each(key, of) for key in ("kind", "partner", "detail"))] for item, of in rows[:_ROWS]]
    shown = table(f"Blocked rows of {dataset.name}", ("row", "why", "the other side", "detail"), cells, ("", "", "", "answer"))
    title = f"<h3>Blocked rows of {said(dataset.name, 80)}: {link(claims[0], claim_id(claims[0]))}</h3>"
    return title + shown + _more(cells, max(len(rows), count(told(claims[0]).get("blocked")) or 0), "rows")


_REASONS = 3  # of a row


def _each(key: str, findings: Sequence[Mapping[str, Any]]) -> Html:
    """One line for each finding of the row."""
    parts = [_part(key, finding) for finding in findings[:_REASONS]]
    more = f'<span class="sub">and {len(findings) - _REASONS} more</span>' if key == "kind" and len(findings) > _REASONS else ""
    return Html("".join(f"<div>{part}</div>" for part in parts) + more if any(parts) else "")


def _part(key: str, finding: Mapping[str, Any]) -> str:
    if key == "kind":
        return said(f"{finding.get('check')}.{finding.get('kind')}{_score(finding)}", 120)
    value = finding.get(key, finding.get("item") if key == "partner" else None)
    return said(value, 200) if value is not None else ""


def _score(finding: Mapping[str, Any]) -> str:
    """So much of so much, where the finding says it."""
    num, den = finding.get("num"), finding.get("den")
    return f" {num}/{den}" if count(num) is not None and count(den) else ""


# --- planted defects --------------------------------------------------------------------------


def proofs(dataset: Dataset) -> Mapping[str, tuple[int, int]]:
    """By kind of planted defect (how many were planted, how many of them found)."""
    kinds = mapping(dataset.summary("proof").get("kinds"))
    pairs = ((kind, count(mapping(of).get("planted")), count(mapping(of).get("found"))) for kind, of in sorted(kinds.items()))
    return {kind: (n, k) for kind, n, k in pairs if n is not None and k is not None and k <= n}


def planted(datasets: Sequence[Dataset]) -> Html:
    """Known defects in a copy of each dataset: how many were found, kind by kind, and what was called one and is none."""
    proven = [(d, kinds) for d in datasets if (kinds := proofs(d))][:_ROWS]
    if not proven:
        return Html("")
    names = sorted({kind for _, kinds in proven for kind in kinds})
    cells = [[said(name, 80), *(_caught(kinds.get(name)) for _, kinds in proven)] for name in names[:_KINDS]]
    sums = [_sums(d, kinds) for d, kinds in proven]
    note = (
        '<p class="small muted">Known defects are planted in a copy of the rows, and the same audit is run on it: found / planted. A false '
        "alarm is a finding that keeps a row out and that nobody planted; so is any in the clean twin, where nothing was.</p>"
    )
    head = ("dataset", "planted", "found", "missed", "false alarms", "in rows", "in the clean twin", "in rows")
    by_kind = table("Planted defects by kind", ("kind", *(d.name for d, _ in proven)), cells, ("", *["num"] * len(proven)))
    left = "".join(_missed(d) + _not_planted(d) for d, _ in proven)
    return Html(note + table("Planted defects", head, sums, ("", *["num"] * 7)) + by_kind + _more(cells, len(names), "kinds") + left)


def _sums(dataset: Dataset, kinds: Mapping[str, tuple[int, int]]) -> list[Html]:
    proof = dataset.summary("proof")
    n, k = (sum(pair[i] for pair in kinds.values()) for i in (0, 1))
    missed = Html(f'<span class="unmet">✗ {n - k}</span>' if k < n else "0")
    twin = mapping(proof.get("twin"))
    alarms = (proof.get("false_alarms"), proof.get("rows"), twin.get("findings"), twin.get("rows"))
    claims = dataset.named("D5", "caught")
    name = link(claims[0], said(dataset.name, 80)) if claims else said(dataset.name, 80)
    return [name, Html(number(n)), Html(number(k)), missed, *(Html(number(count(n))) for n in alarms)]


def _caught(pair: tuple[int, int] | None) -> Html:
    if pair is None:
        return Html(DASH)
    n, k = pair
    sign = '<span class="met">✓</span>' if k == n else '<span class="unmet">✗</span>'
    return Html(f"{sign} {number(k)} / {number(n)}")


def _missed(dataset: Dataset) -> str:
    """The planted rows that were not found, by name."""
    missed = [s.item for c in dataset.named("D5", "caught") for s in c.samples if s.value != 1]
    more = f" and {number(len(missed) - _ROWS)} more" if len(missed) > _ROWS else ""
    names = "; ".join(said(item, 120) for item in missed[:_ROWS])
    return f'<p class="small">Missed in {said(dataset.name, 80)}: {names}{more}.</p>' if missed else ""


def _not_planted(dataset: Dataset) -> str:
    reasons = mapping(dataset.summary("proof").get("not_planted"))
    items = "".join(f"<li>{said(kind, 80)}: {said(why, 200)}</li>" for kind, why in sorted(reasons.items())[:_KINDS])
    summary = f'Not planted in {said(dataset.name, 80)} <span class="muted">({len(reasons)})</span>'
    return f"<details><summary>{summary}</summary><ul>{items}</ul></details>" if items else ""
