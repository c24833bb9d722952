"""The trainings of a run: curves, what each was and cost, those that failed with cause and change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from harness.report.datasets import mapping
from harness.report.markup import Html, claim_id, link, said, scroll, table, verdict
from harness.report.steps import DRAWN, POINTS, Steps, by_step
from harness.report.text import DASH, number, span
from harness.report.trainings import Training, held_out, trainings_of
from harness.report.view import ClaimView, RunView

__all__ = ["peak", "training"]

_ROWS = 40  # of a table

_KINDS = {"training": "", "failed": "failed experiment", "control": "control of a failed experiment", "drill": "drill"}


def training(run: RunView) -> Html:
    """Curves, one drawing for each sort of run; then the table, failed experiments, seeds, and what memory it took."""
    found = trainings_of(run)
    parts = [_figures(found), _table(found), _failed(run, found), _seeds(run), _held_out_pairs(run), _memory(run)]
    return Html("".join(parts))


# --- curves -----------------------------------------------------------------------------------

_FIGURES: tuple[tuple[str, str, Callable[[Training], bool]], ...] = (
    ("Loss of the trainings", "loss, nats a token", lambda t: t.kind == "training" and not t.preferences),
    ("Loss of the preference trainings", "loss, nats", lambda t: t.kind == "training" and t.preferences),
    ("Failed experiments, each beside its control", "loss, nats a token", lambda t: t.kind in ("failed", "control")),
    ("Drills: the same seed, a resumed run, several seeds", "loss, nats a token", lambda t: t.kind == "drill"),
)


def _figures(found: Sequence[Training]) -> str:
    drawn = [_figure(name, upwards, [(t, t.loss) for t in found if wanted(t)]) for name, upwards, wanted in _FIGURES]
    drawn.insert(2, _figure("Preference margins in training", "chosen above rejected, reward", [(t, t.margins) for t in found]))
    return "".join(drawn)


def _figure(name: str, upwards: str, curves: Sequence[tuple[Training, tuple[float, ...]]]) -> str:
    rows = [Steps(t.name, values, t.ended) for t, values in curves if values]
    if not rows:
        return ""
    left = f" {len(rows) - DRAWN} more are in the table only." if len(rows) > DRAWN else ""
    thinned = f" Thinned to {POINTS} points a curve." if any(len(r.values) > POINTS for r in rows) else ""
    stopped = "".join(f"<li>✗ {said(r.label, 80)} {said(r.ended, 300)}</li>" for r in rows if r.ended)
    crossed = " A cross: the end of a run that failed." if stopped else ""
    caption = f"<figcaption>One number a step, as the trainer logged it, unsmoothed.{crossed}{thinned}{left}</figcaption>"
    drawn = scroll(by_step(rows[:DRAWN], name, upwards), name)
    below = f'<ul class="small">{stopped}</ul>' if stopped else ""
    return f"<h3>{escape(name)}</h3><figure>{drawn}{caption}</figure>{below}"


# --- tables -----------------------------------------------------------------------------------


def peak(training: Training) -> str:
    """Peak memory in words; "" where the evidence does not say."""
    size, where = training.peak
    return f"{size / 1e9:.3g} GB" + (f" ({where})" if where else "") if size is not None and size > 0 else ""


def _table(found: Sequence[Training]) -> str:
    if not found:
        return ""
    head = (
        "run", "objective", "method", "start", "rows", "steps", "first loss", "last loss", "seconds", "peak memory", "resumed at",
        "seed", "ended",
    )  # fmt: skip
    kinds = ("", "", "", "", *["num"] * 8, "")
    more = f'<p class="small muted">{_ROWS} of {len(found)} runs.</p>' if len(found) > _ROWS else ""
    note = (
        '<p class="small muted">– where the evidence does not say. A drill is a short training by the same recipe, for a claim about '
        "training itself. Peak memory: of the process, or of the GPU's allocator where there is one.</p>"
    )
    return f"<h3>Runs</h3>{note}{table('Trainings', head, map(_row, found[:_ROWS]), kinds)}{more}"


def _row(t: Training) -> list[Html]:
    kind = f'<span class="sub">{_KINDS[t.kind]}</span>' if _KINDS[t.kind] else ""
    first, last = (t.loss[0], t.loss[-1]) if t.loss else (None, None)
    size, recipe = t.recipe, [str(t.recipe.get(key) or "") for key in ("objective", "method")]
    numbers = [t.report.get("rows"), t.steps or len(t.loss) or None, first, last, t.report.get("seconds")]
    resumed = number(t.report.get("resumed_at"))
    outcome = "failed" if t.failed else str(t.report.get("outcome") or "")
    return [
        Html(f"{link(t.claim, said(t.name, 80))}{kind}"),
        *(said(word or DASH, 60) for word in (*recipe, t.start)),
        *(Html(escape(number(x))) for x in numbers),
        said(peak(t) or DASH, 60), Html(escape(resumed)), Html(escape(number(size.get("seed")))),
        Html(f'<span class="unmet">✗ {said(outcome)}</span>') if t.failed else said(outcome or DASH, 40),
    ]  # fmt: skip


def _failed(run: RunView, found: Sequence[Training]) -> str:
    """The failed experiments, with cause and change; those too that left no evidence."""
    claims = [c for c in run.claims if c.family == "T11"]
    if not claims:
        return ""
    at = {(t.kind, t.claim.id): t for t in found}
    head = ("experiment", "claim", "cause", "what was changed", "how it ended", "last loss", "its control's")
    rows = [_failure(c, at.get(("failed", c.id)), at.get(("control", c.id))) for c in claims[:_ROWS]]
    return f"<h3>Failed experiments</h3>{table('Failed experiments', head, rows, ('', '', '', '', '', 'num', 'num'))}"


def _failure(c: ClaimView, run: Training | None, control: Training | None) -> list[Html]:
    record = mapping(run.report.get("record")) if run else {}
    ended = "" if run is None else run.ended if run.failed else "it ran to its end"
    last = [number(t.loss[-1]) if t and t.loss else DASH for t in (run, control)]
    name = c.params[-1] if c.params else c.id
    return [
        link(c, said(name, 80)), verdict(c, DASH),
        *(said(record.get(key) or DASH, 400) for key in ("cause", "changed")),
        said(ended or DASH, 300), *map(Html, last),
    ]  # fmt: skip


def _seeds(run: RunView) -> str:
    """What each seed gained on rows that were held out."""
    found = held_out(run)
    if not found:
        return ""
    rows = [[link(c, said(seed, 60)), *(Html(number(x)) for x in (before, after, gap))] for c, seed, before, after, gap in found[:_ROWS]]
    note = '<p class="small muted">Gap: held-out loss after training, less that of the last steps on rows trained on.</p>'
    head = ("seed", "held-out loss before", "after", "gap")
    return f"<h3>Held-out rows, seed by seed</h3>{note}{table('Seeds', head, rows, ('', 'num', 'num', 'num'))}"


def _held_out_pairs(run: RunView) -> str:
    """What preference training came to on pairs that were held out."""
    rows = [
        [link(c, claim_id(c)), verdict(c, number(c.estimate), span(c.low, c.high)), said(c.demand or DASH), Html(number(c.n or None))]
        for c in run.claims
        if c.family == "PF2"
    ]
    inner = table("Held-out pairs", ("claim", "estimate", "claimed", "pairs"), rows[:_ROWS], ("", "num", "num", "num"))
    return f"<h3>Preference margins on held-out pairs</h3>{inner}" if rows else ""


def _memory(run: RunView) -> str:
    """What QLoRA saves in weights, and what it does not at the peak."""
    lines = []
    for c in run.claims:
        if (c.family, c.name) != ("T9", "saves") or c.estimate is None:
            continue
        ratio = mapping(c.measurement.get("conditions")).get("peak_ratio")
        beside = f"; the peak of the whole process is {number(ratio)} times as high" if ratio is not None else ""
        lines.append(f'<p class="small">{link(c, claim_id(c))}: weights in {number(c.estimate)} of the bytes{escape(beside)}.</p>')
    return "".join(lines)
