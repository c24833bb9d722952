"""``summary.md``: the run on one page of GitHub-flavoured Markdown, at most 60 KB."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

from harness.report.builds import PER_BUILD, Build, arms, builds_of, sets_of
from harness.report.choice import RULE, Option, Point, choice, headline
from harness.report.data import figure_of, proofs
from harness.report.datasets import Dataset, count, datasets_of
from harness.report.glance import changed, missing
from harness.report.judges import may_judge, of_judges
from harness.report.loads import Seen, Served, loads_of, servers_of
from harness.report.mutants import mutants_of, totals
from harness.report.risks import gravest, risks_of
from harness.report.text import DASH, SYMBOLS, number, one_line, span
from harness.report.trainings import Training, trainings_of
from harness.report.versus import compared
from harness.report.view import ClaimView, RunView, family_title, release, warnings_of

__all__ = ["LIMIT", "escape", "render"]

LIMIT = 60_000  # bytes; comments and job summaries of forges end somewhere above
_RESERVE = 4_000  # kept for the lines after the last section

_SPECIAL = re.compile(r"[\\`*_\[\]|~$]")


def escape(text: str, limit: int = 200) -> str:
    """One line that Markdown, HTML and a forge's autolinks all take as plain text."""
    plain = html.escape(one_line(text, limit), quote=False)
    plain = _SPECIAL.sub(lambda found: "\\" + found.group(), plain)
    # An empty comment splits the text: no mention, no issue or address becomes a link.
    plain = re.sub(r"(?<!&)([@#])", r"\1<!-- -->", plain)
    return re.sub(r"(?i)(:)(?=//)|\b(www)(?=\.)", r"\1\2<!-- -->", plain)


def render(run: RunView) -> str:
    """The summary. What does not fit is counted and left to the report."""
    pieces = [_head(run), _decision(run), _by_build(run), _releases(run), _data(run), *_middle(run), _failing(run), *_families(run)]
    kept: list[str] = []
    size = 0
    for piece in pieces:
        fitted = _fit(piece, LIMIT - _RESERVE - size)
        kept.append(fitted)
        size += len(fitted.encode("utf-8", "backslashreplace")) + 1
        if fitted is not piece:
            kept.append(f"\n*Cut here to stay below {LIMIT // 1000} KB; all of it is in report.html.*\n")
            break
    return "\n".join([*(k for k in kept if k), _foot(run)])


def _fit(piece: str, room: int) -> str:
    """As many whole lines as there is room for; the same object if all fit."""
    if len(piece.encode("utf-8", "backslashreplace")) <= room:
        return piece
    lines, used = [], 0
    for line in piece.splitlines():
        used += len(line.encode("utf-8", "backslashreplace")) + 1
        if used > room:
            break
        lines.append(line)
    return "\n".join(lines) + "\n"


def _head(run: RunView) -> str:
    code = run.provenance.get("code") or {}
    commit = one_line(str(code.get("commit") or "not known"), 40) + (" + changes" if code.get("dirty") else "")
    finished = one_line(str(run.facts.get("finished") or "not finished"), 40)
    lines = [f"# {escape(run.lifecycle or 'run')}: {escape(run.tier or 'tier not known')}", ""]
    lines += [f"> **{escape(said, 2000)}**\n" for said in warnings_of(run)]
    lines += [f"**{escape(release(run))}**", ""]
    lines += [" · ".join(f"{_shown(o)}: {k}" for o, k in run.counts.items() if k or o == "holds"), ""]
    plan = run.plan_digest[:12] or "missing"
    lines += [*_first(run), ""]
    lines += [f"commit `{commit.replace('`', '')}` · {escape(finished)} · plan `{plan}`", ""]
    return "\n".join(lines)


def _first(run: RunView) -> list[str]:
    """What the first screen of the page says too: releases, what changed, must-haves, the gravest risks."""
    if not run.claims:
        return []
    out = [
        f"{_shown(str(v.get('outcome')))} {escape(name, 60)} (falsely ≤ {number(v.get('alpha'))})"
        for name, v in sorted(run.releases.items())
    ]
    moved = [f"{escape(name, 100)} {escape(how, 100)}" for name, how in changed(run)]
    counts, names = missing(run)
    musts = f"{counts['evidenced']} of {counts.total()} evidenced" + (f"; not: {escape('; '.join(names), 1000)}" if names else "")
    told = [f"{_shown(r.claim.outcome)} {escape(r.claim.id, 100)}: {escape(r.said, 160)}" for r in gravest(risks_of(run), _TOP)]
    same = f"; {number(run.changes.get('same'))} as they were" if run.changes else ""
    return [
        f"- May it go out: {'; '.join(out) or 'no release was asked for'}",
        f"- Since the baseline: {('; '.join(moved[:_TOP]) or 'nothing changed') + same if run.changes else 'no approved baseline'}",
        *([f"- Must-haves: {musts}"] if counts else []),
        f"- Gravest risks: {'; '.join(told) or 'none among its claims'}",
    ]


_TOP = 3  # of a kind, at the top


def _shown(outcome: str) -> str:
    return f"{SYMBOLS.get(outcome, '·')} {escape(outcome.replace('_', ' '))}"


def _decision(run: RunView) -> str:
    """Which build to take and why; what each is good for, and what speaks against it."""
    taken = choice(run)
    if taken is None:
        return ""
    lines = ["## Which build", "", f"**Recommended: {escape(taken.pick.build.name) if taken.pick else 'none'}**", ""]
    lines += [*(f"- {_point(p)}" for p in taken.why), "", escape(RULE, 600), ""]
    for reference, options in taken.groups:
        lines += [f"Compared with {escape(reference or 'nothing that is named')}:", ""]
        lines += [line for option in options for line in _option(option)]
        lines.append("")
    return "\n".join(lines)


def _option(option: Option) -> list[str]:
    none = "nothing more" if option.sound else "nothing yet, its guardrails do not all hold"
    told = f"- **{escape(option.build.name)}** {_shown(option.outcome or 'no release verdict')}: {escape(headline(option.build))}"
    return [
        told,
        f"  - best fit: {'; '.join(map(_point, option.fits)) or none}",
        *(f"  - risk: {_point(p)}" for p in option.risks),
        *([] if option.risks else ["  - risk: none among its claims"]),
    ]


def _point(point: Point) -> str:
    return escape(point.text, 400) + (f" ({escape(point.claim.id)})" if point.claim else "")


def _releases(run: RunView) -> str:
    """May each build go out."""
    if not run.releases:
        return ""
    lines = ["## May it go out", ""]
    for name, verdict in run.releases.items():
        lines.append(f"- **{_shown(str(verdict.get('outcome')))}** {escape(name)}: {escape(str(verdict.get('sentence', '')), 600)}")
    return "\n".join([*lines, ""])


_TOLD = 12  # claims named in a cell


def _data(run: RunView) -> str:
    """The audited datasets: a line for each."""
    datasets = datasets_of(run)
    if not datasets:
        return ""
    head = ["dataset", "rows", "distinct", "claims that hold", "the others", "planted defects found"]
    return "\n".join(["## Data", "", *_table(head, map(_dataset, datasets)), ""])


def _dataset(dataset: Dataset) -> list[str]:
    others = [c for c in dataset.claims if c.outcome != "holds"]
    shown = [_other(c) for c in others[:_TOLD]]
    more = [f"{len(others) - _TOLD} more"] if len(others) > _TOLD else []
    kinds = proofs(dataset).values()
    alarms = count(dataset.summary("proof").get("false_alarms"))
    found = f"{sum(k for _, k in kinds)} of {sum(n for n, _ in kinds)}" if kinds else DASH
    holding = f"{len(dataset.claims) - len(others)} of {len(dataset.claims)}"
    told = found + (f"; {alarms} false alarms" if kinds and alarms is not None else "")
    return [escape(dataset.name, 80), number(dataset.rows), number(dataset.distinct), holding, ", ".join([*shown, *more]) or DASH, told]


def _other(claim: ClaimView) -> str:
    name = " ".join((claim.id.partition("[")[0], *claim.params[1:]))
    return f"{SYMBOLS.get(claim.outcome, '·')} {escape(f'{name} {figure_of(claim)[0]}'.rstrip(), 80)}"


def _middle(run: RunView) -> Iterable[str]:
    """Trainings, comparisons, judges, servers and their loads, controls: a short table each."""
    trained = [t for t in trainings_of(run) if t.kind in ("training", "failed")]
    yield _short("Training", ["training", "method", "steps", "first loss", "last loss", "seconds", "ended"], map(_training, trained))
    yield _short("Base against tuned", ["claim", "old", "new", "difference", "claimed"], map(_compared, compared(run)))
    yield _short("Judges", ["judge", "may judge", "claims that hold", "the others"], (_judge(*item) for item in of_judges(run).items()))
    head = ["server", "engine", "ready after, s", "greedy errors", "claims that hold", "the others"]
    yield _short("Servers", head, map(_server, servers_of(run)))
    head = ["server", "objective", "over", "share over", "p50, s", "p95, s", "p99, s"]
    yield _short("Latency", head, (row for seen in loads_of(run) for row in _limits(seen)))
    controls = totals(mutants_of(run))
    head = ["suite", "planted", "caught", "A/A asked", "A/A as they must"]
    yield _short("Mutants", head, ([escape(suite, 60), *map(str, of)] for suite, of in controls.items()))


def _short(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A section with one table; "" where nothing would stand in it."""
    shown = list(rows)
    return "\n".join([f"## {title}", "", *_table(head, shown), ""]) if shown else ""


def _training(t: Training) -> list[str]:
    method = " ".join(str(t.recipe.get(key)) for key in ("objective", "method") if t.recipe.get(key))
    first, last = (t.loss[0], t.loss[-1]) if t.loss else (None, None)
    numbers = [number(t.steps or len(t.loss) or None), number(first), number(last), number(t.report.get("seconds"))]
    ended = t.ended or str(t.report.get("outcome") or DASH)
    return [escape(t.name, 80), escape(method, 60) or DASH, *(escape(x) for x in numbers), escape(ended, 200)]


def _compared(c: ClaimView) -> list[str]:
    pair = arms(c)
    new, old = (f"{arm.k}/{arm.n} = {number(arm.k / arm.n)}" for arm in pair) if pair else (DASH, DASH)
    return [escape(c.id), old, new, _cell(c), escape(c.demand)]


def _judge(name: str, claims: Sequence[ClaimView]) -> list[str]:
    may, why = may_judge(claims)
    others = [_other(c) for c in claims if c.outcome != "holds"]
    word = {True: "✓ yes", False: "✗ no", None: DASH}[may] + (f": {escape(why)}" if why else "")
    return [escape(name, 80), word, f"{len(claims) - len(others)} of {len(claims)}", ", ".join(others[:_TOLD]) or DASH]


def _server(one: Served) -> list[str]:
    others = [c for c in one.claims if c.outcome != "holds"]
    greedy = one.claim("V4.greedy")
    named = ", ".join([*map(_other, others[:_TOLD]), *([f"{len(others) - _TOLD} more"] if len(others) > _TOLD else [])])
    engine = " ".join([one.engine, next(iter(one.versions.values()), "")]).strip()
    cells = [escape(one.name, 80), escape(engine, 80) or DASH, number(one.ready_s), _cell(greedy)]
    return [*cells, f"{len(one.claims) - len(others)} of {len(one.claims)}", named or DASH]


def _limits(seen: Seen) -> list[list[str]]:
    """A row for each objective: what was over it, and percentiles of its metric as far as n carries them."""
    rows = []
    for each in seen.objectives:
        c, values, described = seen.claim(f"L1.{each.name}"), seen.values(each.metric), seen.described(each.metric)
        over = sum(x is None or x > each.limit for x in values)
        shown = [
            row[0] if row[1] is not None and row[2] is not None else None for q in (0.5, 0.95, 0.99) if (row := described.quantiles[q])
        ]
        name = f"{each.name} ≤ {each.limit:.6g} s"
        rows.append([escape(seen.server, 80), escape(name), f"{over}/{len(values)}", _cell(c), *map(number, shown)])
    return rows


def _failing(run: RunView) -> str:
    """What does not hold comes first, each with its reason."""
    rows = [c for c in run.claims if c.outcome not in ("holds", "lost")]
    if not rows and not run.lost:
        return ""
    lines = ["## What does not hold", ""]
    for c in rows:
        why = f" (known: {escape(str(c.notes.get('why') or 'no reason given'))})" if c.known_failure else ""
        lines.append(f"- **{_shown(c.outcome)}** {escape(c.id)}{why}: {escape(c.sentence, 300)}")
    if run.lost:  # one line for all: after a crash they are many and have nothing to add
        lines.append(f"- **{_shown('lost')}** without evidence: {', '.join(escape(c.id) for c in run.lost)}")
    return "\n".join([*lines, ""])


def _families(run: RunView) -> Iterable[str]:
    for family, claims in run.families:
        title = family_title(family)
        lines = [f"## {escape(family)}{f' · {title}' if title else ''}", ""]
        lines += _table(["", "claim", "estimate", "claimed", "n", "p", "method"], [_row(c) for c in claims])
        yield "\n".join([*lines, ""])


def _row(c: ClaimView) -> list[str]:
    estimate = DASH if c.estimate is None else f"{number(c.estimate)} {span(c.low, c.high)}".strip()
    p, _ = c.p
    method = escape(str(c.verdict.get("method") or ""))
    return [_shown(c.outcome), escape(c.id), estimate, escape(c.demand), str(c.n), number(p), method]


def _by_build(run: RunView) -> str:
    """The table of methods."""
    builds = builds_of(run)
    if not builds:
        return ""
    sets = sets_of(builds)
    extra = [name for name in PER_BUILD if any(b.claim(name) for b in builds)]
    head = ["build", "release", "against", "engine", "format", "MB", "bits/weight"]
    head += [f"{escape(s)}: {what}" for s in sets for what in ("accuracy", "difference")]
    table = _table([*head, *(PER_BUILD[name] for name in extra)], [_build(run, b, sets, extra) for b in builds])
    lines = ["## Table of methods", "", *table]
    return "\n".join([*lines, ""])


def _build(run: RunView, build: Build, sets: Sequence[str], extra: Sequence[str]) -> list[str]:
    size, outcome = build.size_bytes, str(run.releases.get(build.name, {}).get("outcome") or "")
    cells = [escape(build.name), _shown(outcome) if outcome else DASH]
    cells += [escape(word, 60) or DASH for word in (build.reference, build.engine, build.format)]
    cells += [f"{size / 1e6:.1f}" if size else DASH, number(build.bits)]
    for name in sets:
        claim = build.claim("accuracy", name)
        pair = arms(claim)
        cells.append(f"{pair[0].k}/{pair[0].n} = {number(pair[0].k / pair[0].n)}" if pair else DASH)
        cells.append(_cell(claim))
    return cells + [_cell(build.claim(name)) for name in extra]


def _cell(claim: ClaimView | None) -> str:
    if claim is None:
        return DASH
    return f"{SYMBOLS.get(claim.outcome, '·')} {number(claim.estimate)} {span(claim.low, claim.high)}".strip()


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [_line(head), _line(["---"] * len(head)), *(_line(row) for row in rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _foot(run: RunView) -> str:
    return "\n".join([
        "## Check it", "",
        "Every verdict above can be derived again, offline, from the folder this file lies in (RUN):", "",
        "```", "python -m harness recheck RUN", "```", "",
    ])  # fmt: skip
