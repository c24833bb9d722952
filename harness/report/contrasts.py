"""What was run against something else: the ladder of concurrency, two arms in blocks, answers in company against those alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import Any

from harness.report.datasets import mapping, told
from harness.report.figures import interval_of
from harness.report.markup import Html, badge, claim_id, link, said, scroll, table, verdict
from harness.report.plots import mini
from harness.report.served import Block, Line, knee_curve, paired, stacked
from harness.report.text import DASH, number, span
from harness.report.view import ClaimView, RunView, finite

__all__ = ["arms", "curve", "floor", "knee_of"]

_ROWS = 40  # of a table
_RUNGS = 40  # of a curve
_BLOCKS = 40  # of a drawing
_PAIRED = ("L4", "K2", "L6", "L7")
_KINDS = (("the same", "holds"), ("numeric ties", "inconclusive"), ("errors", "fails"), ("no answer", "error"))


# --- the ceiling ------------------------------------------------------------------------------


def curve(run: RunView) -> Html:
    """Per server: throughput and latency against requests at once, where the knee lies, and what stops it there."""
    found: dict[str, dict[str, ClaimView]] = {}
    for c in run.claims:
        if c.family == "L3" and c.params:
            found.setdefault(c.params[0], {})[c.name] = c
    return Html("".join(_ladder(server, claims) for server, claims in found.items()))


def _ladder(server: str, claims: Mapping[str, ClaimView]) -> str:
    about = next((t for c in claims.values() if (t := told(c)).get("curve")), {})
    lines = [Line(name, _points(about.get(key))) for name, key in (("looked at", "curve"), ("confirmed", "confirmed"))]
    lines = [one for one in lines if one.points]
    dots = [
        (at, s.value) for c in claims.values() for s in c.samples if s.value is not None and (at := finite(s.detail.get("concurrency")))
    ]
    panels = []
    if lines:
        panels.append(knee_curve(lines, sorted(set(dots)), knee_of(claims), "Tokens a second"))
        panels += _waits(about, knee_of(claims))
    drawn = "".join(scroll(one, f"Load curve of {server}") for one in panels)
    rows = "".join(f"<li>{badge(c.outcome)} {link(c, claim_id(c))}: {_rung(c)}</li>" for c in claims.values())
    note = (
        '<p class="small muted">Closed loops up and down the ladder. Dots: single runs on new seeds. Dashed: the knee, by a point rule on '
        "runs of its own; shaded: up to its double, below which it lies where both claims hold.</p>"
    )
    return f'<h3>{said(server, 80)}</h3><p>{_knee_text(claims)}</p>{note}<div class="panels">{drawn}</div><ul class="small">{rows}</ul>'


def knee_of(claims: Mapping[str, ClaimView]) -> tuple[float, float] | None:
    """The knee and its double; None where no claim tells it."""
    at = next((x for c in claims.values() if (x := finite(told(c).get("knee"))) and 0 < x < 1e6), None)
    return (at, 2 * at) if at else None


def _knee_text(claims: Mapping[str, ClaimView]) -> str:
    """What is shown of the knee, and no more."""
    band = knee_of(claims)
    if band is None:
        return "No knee is told."
    up, beyond = (name in claims and claims[name].outcome == "holds" for name in ("ceiling", "saturated"))
    words = {True: "shown", False: "not shown"}
    shown = f"it gains up to {band[0]:g} ({words[up]}), and little from there to {band[1]:g} ({words[beyond]})"
    shown += f": the knee lies in [{band[0]:g}, {band[1]:g})" if up and beyond else ""
    named = claims.get("bottleneck")
    detail = next((s.detail for s in named.samples), {}) if named else {}
    why = (
        f" Bottleneck: <strong>{said(detail.get('bottleneck') or 'none found', 60)}</strong>, {said(detail.get('why') or DASH, 300)}."
        if detail
        else ""
    )
    return f"Knee at <strong>{band[0]:g}</strong> requests at once: {shown}.{why}"


def _rung(c: ClaimView) -> str:
    if c.name == "bottleneck" or c.estimate is None:
        return said(c.why or DASH, 300)
    return f"{number(c.estimate)} times {span(c.low, c.high)}, claimed {escape(c.demand)}, {c.n} rounds"


def _points(kept: Any) -> list[tuple[float, float]]:
    """Concurrency and a number, ascending."""
    pairs = [(_whole(key), finite(value)) for key, value in mapping(kept).items()]
    return sorted((at, value) for at, value in pairs if at and value is not None)[:_RUNGS]


def _whole(key: Any) -> float | None:
    return float(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 7 else None


def _waits(about: Mapping[str, Any], band: tuple[float, float] | None) -> list[str]:
    """Latency at the rungs whose runs tell it."""
    rungs = {**mapping(about.get("looked_at_once")), **mapping(about.get("at_once"))}
    kinds = (("first token", "ttft"), ("token", "tpot"), ("whole request", "e2e"))
    lines = [Line(name, _points({at: mapping(row).get(key) for at, row in rungs.items()})) for name, key in kinds]
    lines = [one for one in lines if one.points]
    return [knee_curve(lines, (), band, "Latency", log=True)] if lines else []


# --- two arms in blocks -----------------------------------------------------------------------


def arms(run: RunView) -> Html:
    """Before and after, warm and cold, late and early, beside others and alone: runs in blocks, each with its ratio."""
    claims = [c for c in run.claims if c.family in _PAIRED and c.estimand == "run_ratio"]
    if not claims:
        return Html("")
    rows = [_arm(c) for c in claims[:_ROWS]]
    head = ("claim", "ratio, new to old", "interval and bound", "blocks", "new", "old")
    note = (
        '<p class="small muted">A block is four runs, old new new old or the other way about, one arm loaded at a time, on one machine; '
        "the ratio is of geometric means, and the block is the unit. A drift of the machine cancels inside a block.</p>"
    )
    drawn = "".join(map(_drawn, claims[:_ROWS]))
    panels = f'<div class="panels">{drawn}</div>' if drawn else ""
    return Html(note + table("Run against run", head, rows, ("", "num", "", "num", "", "")) + panels)


def _arm(c: ClaimView) -> list[Html]:
    interval, about = interval_of(c), told(c)
    plot = mini(interval) if interval and c.limits else DASH
    return [
        link(c, claim_id(c)), verdict(c, number(c.estimate), span(c.low, c.high)),
        Html(f'{plot}<span class="sub">{escape(c.demand)}</span>'), Html(number(c.n or None)),
        *(said(_flags(about.get(arm)) or DASH, 300) for arm in ("new", "old")),
    ]  # fmt: skip


def _flags(kept: Any) -> str:
    return ", ".join(f"{name} = {value}" for name, value in mapping(kept).items())


def _drawn(c: ClaimView) -> str:
    interval, found = interval_of(c), dict[str, dict[str, list[float]]]()
    for s in c.samples:
        if (value := finite(s.value)) is not None and value > 0 and s.arm in ("old", "new"):
            found.setdefault(s.item, {"old": [], "new": []})[s.arm].append(float(value))
    blocks = [Block(name, tuple(one["old"]), tuple(one["new"])) for name, one in sorted(found.items())][:_BLOCKS]
    if interval is None or not blocks:
        return ""
    metric = str(mapping(c.measurement).get("metric") or "")
    return scroll(paired(blocks, interval, f"{c.id.partition('[')[0]} {', '.join(c.params)}: {metric}"), f"Blocks of {c.id}")


# --- company ----------------------------------------------------------------------------------


def floor(run: RunView) -> Html:
    """How many answers change with what is computed beside them: ties and errors, by how many requests at once."""
    claims = sorted((c for c in run.claims if c.family == "K5"), key=lambda c: (c.params[:1], _beside(c) or math.inf, c.id))
    rows = [(c, counts) for c in claims if (counts := _counts(c))]
    if not claims:
        return Html("")
    drawn = stacked([(_label(c), counts) for c, counts in rows[:_ROWS]], _KINDS, "Answers in company against those alone") if rows else ""
    figure = f"<figure>{scroll(drawn, 'Answers in company')}</figure>" if drawn else ""
    note = (
        '<p class="small muted">The same prompts, answered alone and beside others. A tie: the reference finds two next tokens as likely, '
        "up to its own rounding, and either is right. An error: it does not. A quality number that was taken at another concurrency is "
        "another measurement by so much.</p>"
    )
    head = ("claim", "at once", "share of errors", "claimed", "n", "counted")
    cells = [
        [
            link(c, claim_id(c)), Html(number(_beside(c))), verdict(c, number(c.estimate), span(c.low, c.high)),
            Html(escape(c.demand)), Html(number(c.n or None)), said(_noted(c) or DASH, 400),
        ]
        for c in claims[:_ROWS]
    ]  # fmt: skip
    return Html(note + figure + table("Noise floor of company", head, cells, ("", "num", "num", "num", "num", "")))


def _label(c: ClaimView) -> str:
    return f"{c.params[0] if c.params else c.id}, {'in the load' if c.name == 'in_load' else f'{number(_beside(c))} at once'}"


def _beside(c: ClaimView) -> int | None:
    known = next((x for key in ("concurrency", "in_flight") if (x := finite(told(c).get(key))) is not None), None)
    return None if known is None else int(known)


def _counts(c: ClaimView) -> tuple[int, ...]:
    """By kind, in the order of ``_KINDS``; () where no row tells it."""
    kinds = Counter("silent" if s.value is None else str(s.detail.get("kind")) for s in c.samples)
    counts = tuple(kinds[kind] for kind in ("same", "tie", "error", "silent"))
    return counts if sum(counts) else ()


def _noted(c: ClaimView) -> str:
    kept = mapping(c.measurement).get("notes")
    return next((text for text in kept if isinstance(text, str)), "") if isinstance(kept, list) else ""
