"""From claims to tables and drawings that compare builds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from harness.report.builds import PER_BUILD, Arm, Build, arms, builds_of, groups_of, sets_of
from harness.report.choice import dominated
from harness.report.markup import Html, absent, badge, claim_id, link, outcome_class, said, scroll, table
from harness.report.plots import Interval, Series, Strip, bin_name, by_position, forest, quartiles, strips
from harness.report.scatter import SHAPES, Mark, panel
from harness.report.text import DASH, SYMBOLS, number, signed, span
from harness.report.view import ClaimView, RunView, finite

__all__ = ["COMPARED", "builds_table", "differences", "distributions", "interval_of", "positions", "tradeoff"]

_GOOD = {
    "at_least": "above",
    "better_than": "above",
    "non_inferior": "above",
    "at_most": "below",
    "within": "between",
    "equivalent": "between",
}
_RATIOS = ("log_ratio", "run_ratio")

COMPARED = ("E1", "E2", "PF4", "PF6", "E9", "E10", "E4")
"""Families that compare a model with what it was trained from: they have a section of their own."""


def interval_of(c: ClaimView, label: str = "") -> Interval | None:
    """What is drawn of a claim; None where nothing was estimated."""
    if c.estimate is None:
        return None
    good = _GOOD.get(str(c.bound.get("kind")), "")
    return Interval(label or c.id, c.outcome, c.estimate, c.low, c.high, c.limits, good, c.estimand in _RATIOS)


# --- table of methods -------------------------------------------------------------------------


def builds_table(run: RunView, builds: Sequence[Build]) -> Html:
    """One row per build, group by group, each group under its reference; each cell leads to its evidence."""
    if not builds:
        return Html("")
    columns = _Columns.of(builds)
    body = "".join(_reference_row(group, columns) + "".join(_build_row(run, b, columns) for b in group) for _, group in groups_of(builds))
    note = (
        '<p class="small muted">Accuracy: right / all, with exact 95% limits, for description only. The difference, item by item, '
        "is what decides. ✓ holds · ✗ fails · ? inconclusive · – not measured. A row named reference stands above the builds that are "
        "compared with it; other engines have their own. Memory of some engines is that of the weights alone, counted.</p>"
    )
    return Html(note + scroll(f'<table class="dense">{_builds_head(columns)}<tbody>{body}</tbody></table>', "Table of methods"))


def _grid(build: Build) -> str:
    """Group size and symmetry, as far as they are known."""
    size, symmetric = build.inventory.get("group_size"), build.symmetric
    words = [f"group {number(size)}" if size else "", {True: "symmetric", False: "asymmetric", None: ""}[symmetric]]
    return ", ".join(filter(None, words))


def _calibration(build: Build) -> str:
    return ", ".join(f"{SYMBOLS.get(c.outcome, '·')} {c.name}" for c in build.calibration)


# What a build is: shown where any build says it; the second stands below the first.
_What = tuple[str, Callable[[Build], str], Callable[[Build], str]]
_WHAT: tuple[_What, ...] = (
    ("engine", lambda b: b.engine, lambda b: b.kernel), ("format", lambda b: b.format, _grid), ("calibration", _calibration, lambda _: ""),
)  # fmt: skip
_GAINS = ("speed", "memory")


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns the builds at hand fill."""

    what: Sequence[_What]
    gains: Sequence[str]
    sets: Sequence[str]
    shifts: Sequence[str]

    @classmethod
    def of(cls, builds: Sequence[Build]) -> _Columns:
        """Those that any of the builds fills."""
        filled = [name for name in PER_BUILD if any(b.claim(name) for b in builds)]
        what = [w for w in _WHAT if any(w[1](b) or w[2](b) for b in builds)]
        return cls(what, [n for n in filled if n in _GAINS], sets_of(builds), [n for n in filled if n not in _GAINS])


def _builds_head(columns: _Columns) -> str:
    tall = ' rowspan="2"' if columns.sets else ""
    names = ("build", "release", *(name for name, *_ in columns.what), "size, MB", *(PER_BUILD[name] for name in columns.gains))
    first, rest = (
        "".join(f'<th scope="col"{tall}>{escape(name)}</th>' for name in part) for part in (names, [PER_BUILD[n] for n in columns.shifts])
    )
    groups = "".join(f'<th scope="colgroup" colspan="3">{said(s, 60)}</th>' for s in columns.sets)
    under = ('<th scope="col">accuracy</th><th scope="col">difference</th><th scope="col">flips</th>') * len(columns.sets)
    return f"<thead><tr>{first}{groups}{rest}</tr>{f'<tr>{under}</tr>' if columns.sets else ''}</thead>"


def _reference_row(builds: Sequence[Build], columns: _Columns) -> str:
    """What the builds are compared with; its accuracy is the other arm of any build's claim."""
    claims = [next((c for b in builds if (c := b.claim("accuracy", s)) and arms(c)), None) for s in columns.sets]
    if not any(claims):
        return ""
    before, after = [DASH] * (2 + len(columns.what) + len(columns.gains)), [DASH] * len(columns.shifts)
    answers = [cell for pair in map(arms, claims) for cell in (_arm(pair[1]) if pair else DASH, DASH, DASH)]
    tail = "".join(f'<td class="num">{cell}</td>' for cell in [*before, *answers, *after])
    name = said(builds[0].reference or "reference", 80)
    return f'<tr><th scope="row" class="num">{name}<span class="sub">reference</span></th>{tail}</tr>'


def _build_row(run: RunView, build: Build, columns: _Columns) -> str:
    size, outcome = build.size_bytes, str(run.releases.get(build.name, {}).get("outcome") or "")
    cells = [badge(outcome) if outcome else DASH, *(_words(first(build), second(build)) for _, first, second in columns.what)]
    cells.append(_to(build.claim("bits"), f"{size / 1e6:.1f}" if size else DASH, _under(f"{number(build.bits)} bits/weight")))
    cells += [_verdict(build.claim(name)) for name in columns.gains]
    for name in columns.sets:
        claim = build.claim("accuracy", name)
        pair = arms(claim)
        cells += [_accuracy(claim, pair[0] if pair else None), _verdict(claim, signs=True), _verdict(build.claim("flips", name))]
    cells += [_verdict(build.claim(name)) for name in columns.shifts]
    shown = "".join(f'<td class="num">{cell}</td>' for cell in cells)
    return f'<tr><th scope="row" class="num">{said(build.name, 80)}</th>{shown}</tr>'


def _words(first: str, second: str) -> Html:
    return Html(f"{said(first, 60) if first else DASH}{_under(said(second, 60) if second else '')}")


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


# --- quality against cost ---------------------------------------------------------------------

_KL = ("kld", "")  # the quality where no set was answered
_COSTS = (("size", "size, MB"), ("speed", "tokens/s against the reference"), ("memory", "memory against the reference"))


def tradeoff(builds: Sequence[Build]) -> Html:
    """Quality against size, speed and memory: a row of panels per golden set, or for KL where no set was answered."""
    groups = groups_of(builds)
    rows = [("accuracy", name) for name in sets_of(builds)]
    panels = "".join(_row(builds, groups, *row) for row in rows) or _row(builds, groups, *_KL)
    if not panels:
        return Html("")
    shapes = "; ".join(f"{SHAPES[i % len(SHAPES)]}: against {said(name or 'nothing named', 60)}" for i, (name, _) in enumerate(groups))
    note = (
        "<figcaption>Upwards is better; smaller and lower in memory lies left, faster lies right. Bars: confidence limits. Dashed: the "
        "margins. The reference lies at zero, and at one where ratios are shown. Sign and colour: the claim on this set. Hollow: "
        f"dominated. Shapes: {shapes}.</figcaption>"
    )
    missing = "".join(absent(f"Not placed by {title}", [b for b in builds if not _cost(b, cost)]) for cost, title in _COSTS)
    missing += "".join(
        absent(f"No {name} on {s or 'documents'}", [b for b in builds if not _estimated(b, name, s)]) for name, s in rows or [_KL]
    )
    return Html(f"<figure>{panels}{note}</figure>{missing}{_undominated(groups)}")


def _estimated(build: Build, name: str, set_name: str) -> bool:
    claim = build.claim(name, set_name)
    return claim is not None and claim.estimate is not None


def _row(builds: Sequence[Build], groups: Sequence[tuple[str, list[Build]]], name: str, set_name: str) -> str:
    """Panels that share the axis of quality."""
    quality = {b.name: i for b in builds if (c := b.claim(name, set_name)) and (i := interval_of(c, b.name))}
    over = [x for i in quality.values() for x in i.numbers]
    beaten = {b.name for _, group in groups for b in group if dominated(b, group)}
    shape = {b.name: i for i, (_, group) in enumerate(groups) for b in group}
    panels, upwards = [], "difference to the reference" if name == "accuracy" else "KL to the reference, nats"
    for cost, x_title in _COSTS:
        placed = [(b, at) for b in builds if b.name in quality and (at := _cost(b, cost))]
        marks = [Mark(quality[b.name], at, shape[b.name], b.name in beaten) for b, at in placed]
        if marks:
            panels.append(panel(marks, over, set_name or "documents", x_title, upwards, ratio=cost != "size", less=name == "kld"))
    return f'<div class="panels">{"".join(panels)}</div>' if panels else ""


def _cost(build: Build, name: str) -> tuple[float | None, float, float | None] | None:
    if name == "size":
        return (None, build.size_bytes / 1e6, None) if build.size_bytes else None
    claim = build.claim(name)
    if claim is None or claim.estimate is None or not 0 < claim.estimate < 1000:
        return None  # a count of bytes is no ratio; it stands in the table
    return claim.low, claim.estimate, claim.high


def _undominated(groups: Sequence[tuple[str, list[Build]]]) -> str:
    """The Pareto set in words, with the rule."""
    lines = "".join(f"<li>against {said(name or 'nothing named', 80)}, {_standing(group)}</li>" for name, group in groups)
    rule = (
        "Dominated: another build with the same reference is shown to be better in one respect, its interval wholly beyond, and in every "
        "other (size, speed, memory, accuracy on each set, KL) neither its estimate nor a limit is worse."
    )
    return f'<ul>{lines}</ul><p class="small muted">{rule}</p>'


def _standing(group: Sequence[Build]) -> str:
    beaten = [(b, by) for b in group if (by := dominated(b, group))]
    free = ", ".join(said(b.name, 80) for b in group if b not in [x for x, _ in beaten]) or "none"
    lost = (
        f"; {said(b.name, 80)} is dominated by {said(rival.name, 80)} (better in {said(', '.join(dims), 200)})"
        for b, (rival, dims) in beaten
    )
    return f"not dominated: {free}{''.join(lost)}"


# --- all paired differences -------------------------------------------------------------------


def differences(run: RunView) -> Html:
    """Every other paired difference on one axis, each with its margin."""
    order = {b.name: i for i, b in enumerate(builds_of(run))}
    paired = (c for c in run.claims if c.estimand == "paired_difference" and c.family not in COMPARED)
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


# --- by position ------------------------------------------------------------------------------


def positions(builds: Sequence[Build]) -> Html:
    """Mean KL by position in the document, one drawing per group: references of different engines are no common ground."""
    drawn = [(name, rows) for name, group in groups_of(builds) if (rows := [s for b in group if any((s := _series(b)).means)])]
    none = absent("No positions were kept", [b for b in builds if not any(_series(b).means)])
    if not drawn:
        return Html(none)
    note = (
        '<p class="small muted">Mean over all documents of the KL at each position, positions in bins that double. A line that rises: '
        "errors pile up with length. It describes and decides nothing; the claim is on the mean over documents.</p>"
    )
    over = [v for _, rows in drawn for r in rows for v in r.means if v]
    return Html(note + "".join(_positions(name, rows, over) for name, rows in drawn) + none)


def _positions(reference: str, rows: Sequence[Series], over: Sequence[float]) -> str:
    title = f"KL by position against {reference or 'nothing named'}"
    count = max(len(r.means) for r in rows)
    cells = [[said(r.label, 80), *(Html(number(v)) for v in (*r.means, *[None] * (count - len(r.means))))] for r in rows]
    inner = table(title, ("build", *map(bin_name, range(count))), cells, ("", *["num"] * count))
    return (
        f"<h3>{said(title, 200)}</h3><figure>{scroll(by_position(rows, over, title), title)}</figure>"
        f"<details><summary>The same in numbers</summary>{inner}</details>"
    )


_BINS = 24  # 16 million positions; what claims more is not read


def _series(build: Build) -> Series:
    """Sums and counts of all documents, bin by bin."""
    claim = build.claim("kld")
    sums, counts = [0.0] * _BINS, [0.0] * _BINS
    for sample in claim.samples if claim else ():
        told = sample.detail.get("by_position")
        total, n = (_numbers(told.get(key)) for key in ("sum", "n")) if isinstance(told, dict) else ([], [])
        for i, (x, k) in enumerate(zip(total, n, strict=False)):
            sums[i], counts[i] = (sums[i] + x, counts[i] + k) if k > 0 else (sums[i], counts[i])
    last = max((i + 1 for i, n in enumerate(counts) if n), default=0)
    return Series(build.name, tuple(sums[i] / counts[i] if counts[i] else None for i in range(last)))


def _numbers(told: object) -> list[float]:
    """As many bins as are drawn; what is no number counts nothing."""
    return [finite(x) or 0.0 for x in told[:_BINS]] if isinstance(told, list) else []
