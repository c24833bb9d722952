"""Servers and their loads: what was started, how long requests took, what it was like meanwhile, and what the slow ones cost.

Every percentile is of all requests that were scheduled in the window, failures above every latency; it describes, and the
share over a limit decides. Times are from when a request was due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from harness.records import Objective
from harness.report.loads import Seen, Served, Slow, servers_of, slowest, thinned, unread
from harness.report.markup import Html, badge, claim_id, link, said, scroll, table, verdict
from harness.report.served import Lane, Limit, Line, Tail, lanes, tail
from harness.report.text import DASH, number, span
from harness.report.view import RunView
from harness.serve.slo import limit_text

__all__ = ["held", "latency", "quantile_text", "servers", "tails", "timeline"]

_ROWS = 40  # of a table
_SLOWEST = 10  # of a load
_BINS = 90  # of arrivals
_METRICS = (
    ("ttft", "Time to the first token"),
    ("tpot", "Time a token after the first"),
    ("e2e", "Time to the end"),
    ("gap", "Longest stall"),
)


# --- servers ----------------------------------------------------------------------------------


def servers(run: RunView) -> Html:
    """One row per server: what it is, how it was started and how fast, whether it is the model, and what its claims came to."""
    found = servers_of(run)
    if not found:
        return Html("")
    head = ("server", "engine and version", "ready after", "ids", "log-probabilities", "greedy answers", "claims")
    note = (
        '<p class="small muted">Ids: prompts that were read as the very tokens of the reference. Log-probabilities: distance from the '
        "reference a token, in multiples of the tolerance; at most 1. Greedy answers: share that leaves the reference's by more than a "
        "numeric tie. A load of a server that is not the model proves nothing. – where the evidence does not say.</p>"
    )
    shown = table("Servers", head, map(_server, found[:_ROWS]), ("", "", "num", "num", "num", "num", ""))
    return Html(f"{note}{shown}{''.join(map(_started, found[:_ROWS]))}")


def _server(one: Served) -> list[Html]:
    version = next(iter(one.versions.items()), None)
    engine = said(one.engine or DASH, 60) + (f'<span class="sub">{said(" ".join(version), 80)}</span>' if version else "")
    ready = f"{one.ready_s:.1f} s" if one.ready_s is not None else DASH
    return [said(one.name, 80), Html(engine), Html(ready), *(_parity(one, name) for name in ("input", "distribution", "greedy")), held(one)]


def _parity(one: Served, name: str) -> Html:
    c = one.claim(f"V4.{name}")
    if c is None:
        return Html(DASH)
    return verdict(c, number(c.estimate), span(c.low, c.high), f"n = {c.n}" if c.n else "", c.demand)


def held(one: Served) -> Html:
    """Its claims by outcome; those that do not hold lead to their evidence."""
    counts = Counter(c.outcome for c in one.claims)
    signs = " ".join(badge(outcome, str(k)) for outcome, k in counts.items())
    others = [c for c in one.claims if c.outcome != "holds"]
    named = ", ".join(link(c, said(c.id.partition("[")[0], 60)) for c in others[:12]) + (" …" if len(others) > 12 else "")
    return Html(signs + (f'<span class="sub">{named}</span>' if named else ""))


def _started(one: Served) -> str:
    """Flags, packages, stages, and what the boot was held against the reference by."""
    stages = " · ".join(f"{name} {seconds}" for name, seconds in one.stages.items())
    versions = ", ".join(f"{name} {version}" for name, version in one.versions.items())
    pairs = [("flags", one.flags), ("packages", versions), ("start", stages), *zip(("parity before", "after"), one.parity, strict=False)]
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{said(text, 1_000)}</dd>" for name, text in pairs if text)
    return f"<details><summary>How {said(one.name, 80)} was started</summary><dl>{rows}</dl></details>" if rows else ""


# --- latency ----------------------------------------------------------------------------------


def latency(run: RunView, loads: Sequence[Seen]) -> Html:
    """Per load: the slow end of each metric beside what was promised; objectives and percentiles in numbers."""
    lost = unread(run, loads)
    none = f'<p class="small muted">Records that cannot be shown: {", ".join(link(c, claim_id(c)) for c in lost[:12])}.</p>' if lost else ""
    if not loads:
        return Html(none)
    note = (
        '<p class="small muted">Read a drawing from right to left: so many of all requests took longer than this, or failed. Where the '
        "line stays below the corner of an objective, fewer than it allows were over; bar: the confidence limits of that share, which "
        "is what decides. A request counts from when it was due, sent or not; one that failed ranks above every latency.</p>"
    )
    return Html(note + "".join(map(_load, loads)) + none)


def _load(seen: Seen) -> str:
    done = sum(r.outcome == "complete" for r in seen.judged)
    start, end = seen.window
    lag = f"; the client sent 99 of 100 within {seen.lag * 1e3:.2g} ms" if seen.lag is not None else ""
    about = (
        f'<p class="small">{said(seen.rate or "arrivals not told", 100)} for {end - start:.4g} s: {len(seen.judged)} requests in the '
        f"window, {done} complete, {len(seen.judged) - done} failed{lag}.</p>"
    )
    void = "".join(f'<p class="warn small">⚠ void: {said(text, 400)}</p>' for text in seen.invalid[:6])
    drawn = "".join(_metric(seen, metric, title) for metric, title in _METRICS)
    return f'<h3>{said(seen.server, 80)}</h3>{about}{void}<div class="panels">{drawn}</div>{_objectives(seen)}{_percentiles(seen)}'


def _metric(seen: Seen, metric: str, title: str) -> str:
    values = seen.values(metric)
    done = tuple(sorted(x for x in values if x is not None))
    wanted = [each for each in seen.objectives if each.metric == metric]
    if not done or (metric == "gap" and not wanted):
        return ""
    shown = Tail(done, len(values) - len(done), tuple(_limit(seen, each, values) for each in wanted[:5]))
    return scroll(tail(shown, title), f"{title} of {seen.server}")


def _limit(seen: Seen, each: Objective, values: Sequence[float | None]) -> Limit:
    c = seen.claim(f"L1.{each.name}")
    over = sum(x is None or x > each.limit for x in values) / len(values)
    low, high = (c.low, c.high) if c else (None, None)
    return Limit(each.name, each.limit, each.share, over, low, high, c.outcome if c else "not_evaluated")


def _objectives(seen: Seen) -> str:
    rows = [_objective(seen, each) for each in seen.objectives]
    if not rows:
        return ""
    head = ("objective", "limit", "over", "share over", "allowed", "n counts as", "claim")
    return table(f"Objectives of {seen.server}", head, rows, ("", *["num"] * 5, ""))


def _objective(seen: Seen, each: Objective) -> list[Html]:
    c, values = seen.claim(f"L1.{each.name}"), seen.values(each.metric)
    over = sum(x is None or x > each.limit for x in values)
    share = f"{over / len(values):.2%}" if values else DASH
    limits = f'<span class="sub">{span(c.low, c.high)}</span>' if c else ""
    alike = c.verdict.get("n_eff") if c else None
    return [
        Html(escape(each.name)), Html(limit_text(each.limit)), Html(f"{over} / {len(values)}"), Html(f"{share}{limits}"),
        Html(f"{each.share:.4g}"), said(number(alike), 40), Html(f"{badge(c.outcome)} {link(c, claim_id(c))}") if c else Html(DASH),
    ]  # fmt: skip


def _percentiles(seen: Seen) -> str:
    rows = []
    for metric, title in _METRICS:
        described = seen.described(metric)
        if described.n:
            cells = [Html(quantile_text(row)) for row in described.quantiles.values()]
            rows.append([Html(escape(f"{title}, s")), Html(number(described.n)), Html(number(described.n_eff or None)), *cells])
    names = [f"p{q * 100:g}" for q in described.quantiles]
    note = (
        "<p class='small muted'>Order statistics of all requests, with 95% limits at the number that n counts as: neighbours share a "
        "queue. With one limit alone, or none (–), they are too few, or it falls on a request that failed.</p>"
    )
    inner = table(f"Percentiles of {seen.server}", ("metric", "n", "n counts as", *names), rows, ("", *["num"] * (2 + len(names))))
    return f"<details open><summary>Percentiles</summary>{note}{inner}</details>"


def quantile_text(row: tuple[float | None, float | None, float | None]) -> str:
    """A percentile with its limits, markup; what is known of it where n carries one of them only, a dash where it carries none."""
    value, low, high = row
    low = None if low is None or value is None or low > value else low  # of very few, the one that is below need not be
    if value is None or (low is None and high is None):
        return DASH
    if low is None or high is None:
        return f"≤ {number(high)}" if low is None else f"≥ {number(low)}"
    return f'{number(value)}<span class="sub">{span(low, high)}</span>'


# --- over time --------------------------------------------------------------------------------


def timeline(loads: Sequence[Seen]) -> Html:
    """Per load: queue, cache, tokens and processors over its seconds, arrivals below."""
    drawn = "".join(map(_timeline, loads))
    if not drawn:
        return Html("")
    note = (
        '<p class="small muted">What the server told of itself, scraped while it was loaded, and what the client saw. Lines of more than '
        "200 points are thinned to means over neighbours. A queue that grows to the right: the rate is above what it can do.</p>"
    )
    return Html(note + drawn)


def _timeline(seen: Seen) -> str:
    arrivals, width = _arrivals(seen)
    if not arrivals:
        return ""
    title = f"{seen.server} over its load"
    drawn = lanes(_lanes(seen), arrivals, width, seen.window, title)
    untold = "" if seen.timeline else '<p class="small muted">What the server told of itself is not in the evidence.</p>'
    return f"<h3>{said(seen.server, 80)}</h3><figure>{scroll(drawn, title)}</figure>{untold}"


def _lanes(seen: Seen) -> list[Lane]:
    rows, times = seen.timeline, [t for t in seen.timeline.get("t", ()) if t is not None]

    def line(label: str, column: str, scale: float = 1.0) -> list[Line]:
        values = [None if x is None else x * scale for x in rows.get(column, ())]
        points = thinned(times, values) if values else []
        return [Line(label, points)] if points else []

    due = [r.scheduled * 1e-9 for r in seen.load.records]
    first, last = min(due), max([*due, *times[-1:]])
    at = [first + (last - first) * i / 199 for i in range(200)]
    known = [
        Lane("requests", [*line("running", "running"), *line("waiting", "waiting"),
                          Line("under way, client", list(zip(at, seen.under_way(at), strict=True)))]),
        Lane("KV cache in use, %", line("cache", "kv", 100.0), 100.0),
        Lane("tokens a second", [*line("generated", "tokens_s"), *line("read", "prompt_tokens_s")]),
        Lane("cores busy", [*line("server", "cpu"), *line("client", "client_cpu")]),
    ]  # fmt: skip
    return [lane for lane in known if lane.lines]


def _arrivals(seen: Seen) -> tuple[list[tuple[float, int, int]], float]:
    """(start, requests due, those that failed) of each bin, and its width in seconds."""
    due = [r.scheduled * 1e-9 for r in seen.load.records]
    first, last = min(due), max(due)
    if last <= first:
        return [], 1.0
    width = float(f"{(last - first) / _BINS:.1g}")
    all_, failed = Counter(int((t - first) // width) for t in due), Counter[int]()
    failed.update(int((t - first) // width) for t, r in zip(due, seen.load.records, strict=True) if r.outcome != "complete")
    return [(first + i * width, n, failed[i]) for i, n in sorted(all_.items())], width


# --- what the slow ones cost --------------------------------------------------------------------


def tails(loads: Sequence[Seen]) -> Html:
    """Per load: which objective was missed, by how many and why; goodput; the requests that failed and the slowest ones."""
    return Html("".join(map(_tails, loads)))


def _tails(seen: Seen) -> str:
    return f"<h3>{said(seen.server, 80)}</h3>{_goodput(seen)}{_missed(seen)}{_slowest(seen)}"


def _goodput(seen: Seen) -> str:
    n, within = len(seen.judged), seen.objectives
    missed = {r.sequence for each in within for r in seen.missed(each)} | {r.sequence for r in seen.judged if r.outcome != "complete"}
    c = seen.claim("L2.goodput")
    rest = f", {badge(c.outcome)} {link(c, claim_id(c))}" if c else ""
    what = "complete and inside every limit" if within else "complete"
    return f"<p>Goodput: <strong>{1 - len(missed) / n:.2%}</strong> of {n} requests were {what}{rest}.</p>"


def _missed(seen: Seen) -> str:
    """A row per objective. Those that were slow are told beside how many others were under way when they were due."""
    if not seen.objectives:
        return ""
    place = {r.sequence: i for i, r in enumerate(seen.load.records)}
    all_ = _middle([seen.in_flight[place[r.sequence]] for r in seen.judged])
    missing = {each.name: {r.sequence for r in seen.missed(each)} for each in seen.objectives}
    rows = []
    for each in seen.objectives:
        records = seen.missed(each)
        slow = [r for r in records if r.outcome == "complete"]
        others = set().union(*(found for name, found in missing.items() if name != each.name))
        crowd = _middle([seen.in_flight[place[r.sequence]] for r in slow])
        rows.append([
            Html(f"{escape(each.name)} ≤ {limit_text(each.limit)}"), Html(f"{len(records)} ({len(records) / len(seen.judged):.2%})"),
            Html(number(len(missing[each.name] - others))), Html(number(len(slow))), Html(number(crowd)), Html(number(all_)),
            said(_causes(Counter(r.why for r in records if r.outcome != "complete")) or DASH, 300),
        ])  # fmt: skip
    head = ("objective", "missed by", "by it alone", "too slow", "under way then", "median of all", "failed")
    return table(f"What was missed by {seen.server}", head, rows, ("", *["num"] * 5, ""))


def _middle(values: Sequence[int]) -> int | None:
    return sorted(values)[len(values) // 2] if values else None


def _causes(counted: Counter[str]) -> str:
    return ", ".join(f"{n} {why}" for why, n in counted.most_common(6))


def _slowest(seen: Seen) -> str:
    failed, slow = slowest(seen, _SLOWEST)
    head = ("request", "due at, s", "how it ended", "first token, s", "end, s", "tokens", "under way then", "of its limit")
    shown = table(f"Slowest requests of {seen.server}", head, map(_request, [*failed, *slow]), ("", "num", "", *["num"] * 5))
    gone = sum(r.outcome != "complete" for r in seen.judged)
    more = f"{len(failed)} of {gone} that failed, then the " if gone else "The "
    by = "the largest multiple of a limit" if seen.objectives else "their end"
    note = f'<p class="small muted">{more}{len(slow)} slowest, by {by}. Under way then: other requests when this one was due.</p>'
    return f"<details open><summary>The slowest requests</summary>{note}{shown}</details>"


def _request(one: Slow) -> list[Html]:
    r = one.record
    ended = r.why if r.outcome == "complete" else f"{r.outcome.replace('_', ' ')}: {r.why}"
    seconds = [None if x is None else x * 1e-6 for x in (r.first, r.end)]
    sign = "" if r.outcome == "complete" else '<span class="unmet">✗</span> '
    return [
        Html(f"{r.sequence}"), Html(f"{r.scheduled * 1e-9:.2f}"), Html(f"{sign}{escape(ended)}"), *(Html(number(x)) for x in seconds),
        Html(number(r.tokens)), Html(number(one.in_flight)), Html(f"{one.worst:.0%}" if one.worst is not None else DASH),
    ]  # fmt: skip
