"""The judges of a run: how far each agrees with people, what it hangs on beside what is said, and whether it may judge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from harness.report.datasets import count, mapping, told
from harness.report.markup import Html, claim_id, link, said, table, verdict
from harness.report.text import DASH, number, span
from harness.report.view import ClaimView, RunView, finite

__all__ = ["judges", "may_judge", "of_judges"]

_ROWS = 40


def judges(run: RunView) -> Html:
    """Calibration, probes, corrected scores, and the agreement of the people that all rests on."""
    found = of_judges(run)
    return Html((_calibration(found) + _probes(found) if found else "") + _raters(run))


def of_judges(run: RunView) -> dict[str, list[ClaimView]]:
    """The claims J1 to J6 by the judge that they are about, their last parameter."""
    found: dict[str, list[ClaimView]] = {}
    for c in run.claims:
        if len(c.family) == 2 and c.family[0] == "J" and c.params:
            found.setdefault(c.params[-1], []).append(c)
    return found


# --- beside people ----------------------------------------------------------------------------


def may_judge(claims: Sequence[ClaimView]) -> tuple[bool | None, str]:
    """Whether the record of a judge lets it judge, and why not; None where the run holds no record."""
    record = _record(claims)
    if not isinstance(record.get("fit"), bool):
        return None, "no calibration in this run"
    void = [c.id for c in claims if c.family == "J5" and c.outcome in ("fails", "error", "lost")]
    if void:
        return False, f"its calibration is not bound to it: {', '.join(void)}"
    return record["fit"], "" if record["fit"] else str(record.get("why") or "not calibrated, and no reason is kept")


def _record(claims: Sequence[ClaimView]) -> Mapping[str, Any]:
    return next((found for c in claims if (found := mapping(told(c).get("record")))), {})


def _calibration(found: Mapping[str, Sequence[ClaimView]]) -> str:
    head = (
        "judge", "may judge", "labels", "kappa", "TPR: finds what people find", "TNR: and no more", "people say yes",
        "a constant judge", "AC1",
    )  # fmt: skip
    note = (
        '<p class="small muted">Against labels of people. In brackets: confidence limits; the lower one decides. '
        "A constant judge: how often one is right that always gives the commonest label. A judge that is not calibrated scores nothing.</p>"
    )
    rows = [_calibrated(name, claims) for name, claims in list(found.items())[:_ROWS]]
    return f"<h3>Calibration</h3>{note}{table('Calibration of judges', head, rows, ('', '', *['num'] * 7))}"


def _calibrated(name: str, claims: Sequence[ClaimView]) -> list[Html]:
    record, (may, why) = _record(claims), may_judge(claims)
    at = {c.name: c for c in claims if c.family == "J1"}
    word = {True: '<span class="met">✓ yes</span>', False: '<span class="unmet">✗ no</span>', None: "not known"}[may]
    reason = f'<span class="sub">{said(why, 300)}</span>' if why else ""
    unread, shown = count(record.get("unread")), count(record.get("shown"))
    labels = _total(record.get("table"))
    under = "".join(f'<span class="sub">{n} {what}</span>' for n, what in ((unread, "unread"), (shown, "shown to it")) if n)
    return [
        said(name, 80), Html(f"{word}{reason}"),
        Html(f"{number(labels + unread if labels is not None and unread else labels)}{under}"),
        _cell(at.get("kappa"), finite(record.get("kappa"))), *(_rate(at.get(key), record.get(key)) for key in ("tpr", "tnr")),
        *(Html(number(finite(record.get(key)))) for key in ("base_rate", "constant", "ac1")),
    ]  # fmt: skip


def _total(value: Any) -> int | None:
    """Of a table of counts."""
    cells = [count(x) for row in value if isinstance(row, list) for x in row] if isinstance(value, list) else []
    return sum(x or 0 for x in cells) if cells else None


def _cell(c: ClaimView | None, recorded: float | None = None) -> Html:
    """The verdict with its limits and what was claimed; else what the record says."""
    if c is None:
        return Html(number(recorded))
    return verdict(c, number(c.estimate), span(c.low, c.high), c.demand)


def _rate(c: ClaimView | None, recorded: Any) -> Html:
    k, n = (count(x) for x in recorded[:2]) if isinstance(recorded, list) and len(recorded) > 1 else (None, None)
    share = k / n if k is not None and n else None
    counted = f'<span class="sub">{k} of {n}</span>' if k is not None and n else ""
    return Html(f"{_cell(c, share)}{counted}")


# --- what a label hangs on --------------------------------------------------------------------

_PROBES: Mapping[tuple[str, str], str] = {
    ("J2", "retest"): "asked again", ("J3", "position"): "position", ("J3", "length"): "length", ("J3", "format"): "format",
    ("J3", "self"): "own answers", ("J6", "injection"): "hidden orders", ("J5", "bound"): "bound to the judge",
    ("J4", "corrected"): "corrected score", ("J4", "covers"): "corrected limits cover",
}  # fmt: skip


def _probes(found: Mapping[str, Sequence[ClaimView]]) -> str:
    asked = [key for key in _PROBES if any((c.family, c.name) == key for claims in found.values() for c in claims)]
    if not asked:
        return ""
    at = {name: {(c.family, c.name): c for c in claims} for name, claims in found.items()}
    rows = [[said(name, 80), *(_cell(of[key]) if key in of else Html(DASH) for key in asked)] for name, of in list(at.items())[:_ROWS]]
    note = (
        '<p class="small muted">The share of labels that changed though what an answer says did not: asked again, in the other order, '
        "longer or shorter, dressed, with an order hidden in it; the share of equal pairs decided for its own answer. Corrected: how far a "
        "score corrected by people's labels lies from what people say of all. – not asked of this judge.</p>"
    )
    return f"<h3>Probes</h3>{note}{table('Probes of judges', ('judge', *(_PROBES[k] for k in asked)), rows, ('', *['num'] * len(asked)))}"


# --- people -----------------------------------------------------------------------------------


def _raters(run: RunView) -> str:
    claims = [c for c in run.claims if c.family in ("H1", "H2")]
    if not claims:
        return ""
    rows = [_people(c) for c in claims[:_ROWS]]
    head = ("what", "claim", "estimate", "claimed", "n")
    return f"<h3>People</h3>{table('Agreement of people', head, rows, ('', '', *['num'] * 3))}"


def _people(c: ClaimView) -> list[Html]:
    what = "agreement, Krippendorff's alpha" if c.family == "H1" else f"clear cases, rater {c.params[-1] if c.params else ''}"
    notes = c.measurement.get("notes")
    note = f'<span class="sub">{said("; ".join(map(str, notes)), 200)}</span>' if isinstance(notes, list) and notes else ""
    return [Html(f"{escape(what)}{note}" if c.family == "H1" else said(what, 120)), link(c, claim_id(c)),
            verdict(c, number(c.estimate), span(c.low, c.high)), said(c.demand or DASH), Html(number(c.n or None))]  # fmt: skip
