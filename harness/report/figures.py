"""From claims to tables and drawings that compare builds."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from harness.report.builds import PER_BUILD, Arm, Build, arms, builds_of, reference_of, sets_of
from harness.report.markup import Html, claim_id, link, outcome_class, said, scroll, table
from harness.report.plots import Interval, Mark, Strip, forest, quartiles, scatter, strips
from harness.report.text import DASH, SYMBOLS, number, signed, span
from harness.report.view import ClaimView, RunView

__all__ = ["builds_table", "differences", "distributions", "interval_of", "tradeoff"]

_GOOD = {
    "at_least": "above",
    "better_than": "above",
    "non_inferior": "above",
    "at_most": "below",
    "within": "between",
    "equivalent": "between",
}
_RATIOS = ("log_ratio", "run_ratio")


def interval_of(c: ClaimView, label: str = "") -> Interval | None:
    """What is drawn of a claim; None where nothing was estimated."""
    if c.estimate is None:
        return None
    good = _GOOD.get(str(c.bound.get("kind")), "")
    return Interval(label or c.id, c.outcome, c.estimate, c.low, c.high, c.limits, good, c.estimand in _RATIOS)


# --- builds side by side ----------------------------------------------------------------------


def builds_table(run: RunView, builds: Sequence[Build]) -> Html:
    """One row per build; each cell leads to its evidence."""
    if not builds:
        return Html("")
    sets = sets_of(builds)
    columns = [name for name in PER_BUILD if any(b.claim(name) for b in builds)]
    rows = [_reference_row(builds, sets, columns), *(_build_row(b, sets, columns) for b in builds)]
    note = (
        '<p class="small muted">Accuracy: right / all, with exact 95% limits, for description only. The difference, item by item, '
        "is what decides. ✓ holds · ✗ fails · ? inconclusive · – not measured.</p>"
    )
    body = f'<table class="dense">{_builds_head(sets, columns)}<tbody>{"".join(rows)}</tbody></table>'
    return Html(note + scroll(body, "Builds side by side"))


def _builds_head(sets: Sequence[str], columns: Sequence[str]) -> str:
    groups = "".join(f'<th scope="colgroup" colspan="3">{said(s, 60)}</th>' for s in sets)
    tall = ' rowspan="2"' if sets else ""
    first = "".join(f'<th scope="col"{tall}>{name}</th>' for name in ("build", "size, MB", "bits per weight"))
    rest = "".join(f'<th scope="col"{tall}>{escape(PER_BUILD[name])}</th>' for name in columns)
    names = ('<th scope="col">accuracy</th><th scope="col">difference</th><th scope="col">flips</th>') * len(sets)
    return f"<thead><tr>{first}{groups}{rest}</tr>{f'<tr>{names}</tr>' if sets else ''}</thead>"


def _reference_row(builds: Sequence[Build], sets: Sequence[str], columns: Sequence[str]) -> str:
    """What the builds are compared with; its accuracy is the other arm of any build's claim."""
    claims = {s: next((c for b in builds if (c := b.claim("accuracy", s)) and arms(c)), None) for s in sets}
    named = next((c for c in claims.values() if c), None)
    if named is None:
        return ""
    cells = []
    for claim in claims.values():
        pair = arms(claim)
        cells += [_arm(pair[1]) if pair else DASH, DASH, DASH]
    tail = "".join(f'<td class="num">{cell}</td>' for cell in [DASH, DASH, *cells, *[DASH] * len(columns)])
    return f'<tr><th scope="row" class="num">{said(reference_of(named), 80)}<span class="sub">reference</span></th>{tail}</tr>'


def _build_row(build: Build, sets: Sequence[str], columns: Sequence[str]) -> str:
    size = build.size_bytes
    cells = [_to(build.claim("bits"), f"{size / 1e6:.1f}" if size else DASH), _to(build.claim("bits"), number(build.bits))]
    for name in sets:
        claim = build.claim("accuracy", name)
        pair = arms(claim)
        cells += [_accuracy(claim, pair[0] if pair else None), _verdict(claim, signs=True), _verdict(build.claim("flips", name))]
    cells += [_verdict(build.claim(name)) for name in columns]
    shown = "".join(f'<td class="num">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row" class="num">{said(build.name, 80)}</th>{shown}</tr>'


def _accuracy(claim: ClaimView | None, arm: Arm | None) -> Html:
    if arm is None:
        return Html(DASH)
    return _to(claim, f"{arm.k / arm.n:.4g}", _under(f"{arm.k}/{arm.n}", span(arm.low, arm.high)))


def _arm(arm: Arm) -> Html:
    return Html(f"{arm.k / arm.n:.4g}{_under(f'{arm.k}/{arm.n}', span(arm.low, arm.high))}")


def _under(*lines: str) -> Html:
    return Html("".join(f'<span class="sub">{line}</span>' for line in lines if line))


def _to(claim: ClaimView | None, inner: str, under: str = "") -> Html:
    """The number leads to its evidence; what stands below it does not, or the cell is all underlines."""
    return Html(f"{link(claim, Html(inner))}{under}") if claim else Html(DASH)


def _verdict(claim: ClaimView | None, *, signs: bool = False) -> Html:
    if claim is None:
        return Html(DASH)
    sign = SYMBOLS.get(claim.outcome, "·")
    value = signed(claim.estimate) if signs else number(claim.estimate)
    name = escape(claim.outcome.replace("_", " "))
    shown = f'<span class="sign o-{outcome_class(claim.outcome)}" role="img" aria-label="{name}">{sign}</span> '
    return Html(shown + _to(claim, value, _under(span(claim.low, claim.high))))


# --- quality against size ---------------------------------------------------------------------


def tradeoff(builds: Sequence[Build]) -> Html:
    """One panel per golden set: size across, what was lost upwards, speed as area."""
    panels = [panel for name in sets_of(builds) if (panel := _panel(builds, name))]
    if not panels:
        return Html("")
    note = (
        "<figcaption>Higher is better, further left is smaller; a larger mark is faster. Vertical bars: confidence limits of the "
        "paired difference. The reference lies at zero. The numbers stand in the table above.</figcaption>"
    )
    return Html(f'<figure><div class="panels">{"".join(panels)}</div>{note}</figure>')


def _panel(builds: Sequence[Build], set_name: str) -> str:
    compared = [(b, c) for b in builds if (c := b.claim("accuracy", set_name)) and c.estimate is not None]
    by_size = bool(compared) and all(b.size_bytes for b, _ in compared)
    marks = []
    for build, claim in compared:
        x = (build.size_bytes or 0) / 1e6 if by_size else build.bits
        interval, speed = interval_of(claim, build.name), build.claim("speed")
        if x is not None and interval is not None:
            marks.append(Mark(x, interval, speed.estimate if speed else None))
    if not marks:
        return ""
    drawn = scatter(marks, set_name, "size, MB" if by_size else "bits per weight", "difference to the reference")
    return scroll(drawn, f"Quality against size, {set_name}")


# --- all paired differences -------------------------------------------------------------------


def differences(run: RunView) -> Html:
    """Every paired difference on one axis, each with its margin."""
    order = {b.name: i for i, b in enumerate(builds_of(run))}
    paired = (c for c in run.claims if c.estimand == "paired_difference")
    claims = sorted(paired, key=lambda c: (c.params[:-1], order.get(_last(c), len(order)), c.id))
    intervals = [i for c in claims if (i := interval_of(c, _label(c))) is not None]
    if not intervals:
        return Html("")
    note = "<figcaption>New minus old. Dashed: the margin of each claim; shaded: where the interval must lie.</figcaption>"
    return Html(f"<figure>{scroll(forest(intervals, 'difference of accuracy'), 'Paired differences')}{note}</figure>")


def _label(c: ClaimView) -> str:
    return " · ".join(reversed(c.params)) or c.id


# --- distributions by document ----------------------------------------------------------------


def distributions(run: RunView) -> Html:
    """Each bounded mean over documents: one dot per document, one drawing per kind of claim."""
    groups: dict[tuple[str, str], list[ClaimView]] = {}
    for c in run.claims:
        if c.estimand == "bounded_mean" and any(s.value is not None for s in c.samples):
            groups.setdefault((c.family, c.name), []).append(c)
    order = {b.name: i for i, b in enumerate(builds_of(run))}
    return Html("".join(_distribution(f"{f}.{n}", sorted(cs, key=lambda c: order.get(_last(c), 99))) for (f, n), cs in groups.items()))


def _last(c: ClaimView) -> str:
    return c.params[-1] if c.params else c.name


def _distribution(name: str, claims: Sequence[ClaimView]) -> str:
    rows = [(c, tuple(s.value for s in c.samples if s.value is not None)) for c in claims]
    title = PER_BUILD.get(claims[0].name, name)
    drawn = strips([Strip(_last(c), values, c.estimate, c.limits) for c, values in rows], f"{title}, one dot per document (log scale)")
    head = ("claim", "documents", "zero", "least", "lower quartile", "median", "upper quartile", "most", "mean", "claimed")
    quantiles = [[link(c, claim_id(c)), *(Html(x) for x in _quantiles(c, values))] for c, values in rows]
    numbers = table(f"{title}, quantiles", head, quantiles, ("", *["num"] * 9))
    note = (
        "<figcaption>Box: quartiles and median. ◆ mean. Dashed: the bound of the mean. "
        "Documents at zero are drawn at the left edge.</figcaption>"
    )
    return (
        f"<h3>{escape(title)}</h3><figure>{scroll(drawn, title)}{note}</figure>"
        f"<details><summary>The same in numbers</summary>{numbers}</details>"
    )


def _quantiles(c: ClaimView, values: Sequence[float]) -> list[str]:
    ordered = (min(values), *quartiles(values), max(values))
    return [number(len(values)), number(sum(v == 0 for v in values)), *(number(x) for x in ordered), number(c.estimate), escape(c.demand)]
