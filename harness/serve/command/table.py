"""What ``python -m harness load`` prints: the plan before, a table that explains itself after. Text of servers is escaped."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from harness.records import Objective
from harness.serve import slo
from harness.serve.load import Machine, Ran
from harness.serve.schedule import Schedule
from harness.serve.search import Found
from harness.serve.target import Target
from harness.serve.validity import PER_FRAME, per_frame, remarks
from harness.serve.workload import Workload
from harness.types import Claim, Verdict

__all__ = ["UNCHECKED", "found", "heading", "names", "part", "plan", "probe", "refused", "verdicts"]

UNCHECKED = (
    "UNCHECKED nobody compared what this server answers with a reference (--parity FOLDER): a fast server of nonsense would hold as well"
)


def heading(target: Target, due: Schedule, work: Workload, shards: int, here: Machine | None = None) -> str:
    """Where, what and how fast."""
    said = ", ".join(f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}" for key, value in due.numbers.items())
    n, total = len(due.judged), len(due)
    long = f" in {(due.window[1] - due.window[0]) * 1e-9:.4g} s" if due.arrivals else f", {due.concurrency} at a time"
    lines = (
        f"server    {target.base_url}, model {_plain(target.model[:200])}",
        f"load      {due.kind} ({said}): {n} requests{long}, {total - n} more before and after; {shards} shard{'s' * (shards > 1)}",
        f"workload  {_plain(work.name)}, {'streamed' if work.stream else 'whole'} {'chat' if work.chat else 'completions'}, "
        f"at most {work.max_tokens} tokens, {_distinct(work)}",
    )
    own = [f"machine   {here.number} of {here.of}: its share of these, from {_clock(here.start)} on"] if here else []
    return "\n".join([*lines, *own])


def part(here: Machine, ran: Ran, sent: int, out: Path) -> str:
    """What one machine of several sent, which says nothing by itself."""
    void = [f"void      {_plain(said)}" for said in ran.load.invalid]
    lines = [
        f"part      machine {here.number} of {here.of} sent {sent} of its {len(ran.load.records)} requests, kept in {_plain(str(out))}",
        f"          judge it with all {here.of}, by the same command line with --merge DIR ... instead of --machine and --start",
    ]
    return "\n".join([*void, *lines])


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _distinct(work: Workload) -> str:
    n = len({work.bodies[i] for i in work.order})
    return "no two prompts alike" if n == len(work) > 1 else f"{n} distinct prompt{'s' * (n > 1)}"


def plan(plans: Iterable[slo.Plan]) -> str:
    """How many requests each claim needs."""
    lines = [f"plan      {_short(p.claim)}: n = {p.n}; {_planned(p)}" for p in plans]
    return "\n".join([*lines, "          a queue makes neighbours alike, and asks for more: see n_eff below"] if lines else [])


def _planned(p: slo.Plan) -> str:
    if p.claim.estimand == "mean":
        return (
            f"below {p.least}, {slo.BATCHES[0]} batches of {slo.BATCH}, nothing can hold; more where neighbours are alike, "
            f"{p.likely} if ten of them count as one"
        )
    return (
        f"below {p.least} nothing can hold; {p.likely} show it with power .80 if it is truly "
        f"{p.claim.expected:.3g} over (allowed {p.claim.bound.limit:.3g})"
    )


def refused(found: Sequence[tuple[Claim, Verdict | None]]) -> str:
    """What was not even begun."""
    return "\n".join(f"{_short(claim)}: {v.outcome} ({v.reason}): {v.sentence}" for claim, v in found if v is not None)


_HEAD = ("claim", "limit", "over", "share", "95 % limits", "n", "n_eff", "verdict", "reason")


def verdicts(within: Sequence[Objective], judged: Sequence[tuple[Claim, Verdict]], ran: Ran) -> str:
    """A row for each claim, a sentence for each that does not hold, percentiles, and what failed."""
    limits = {f"L1.{each.name}": slo.limit_text(each.limit) for each in within}
    rows = [_HEAD, *(_row(claim, v, limits.get(claim.id.partition("[")[0], "")) for claim, v in judged)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEAD))]
    lines = ["", *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows), ""]
    for claim, v in judged:
        if v.outcome != "holds":
            lines += textwrap.wrap(f"{_short(claim)}: {v.sentence}", 118, subsequent_indent="  ")
    return "\n".join([*lines, *_percentiles(within, ran), *_failures(ran)])


def _row(claim: Claim, v: Verdict, limit: str) -> tuple[str, ...]:
    ends = "" if v.low is None or v.high is None else f"[{v.low:.4g}, {v.high:.4g}]"
    k, n = v.statistics.get("k"), v.statistics.get("n")
    over = f"{k} of {n}" if k is not None else ""
    shown = limit or (f">= {1 - claim.bound.limit:.4g}" if claim.estimand == "over_limit" else f"{claim.bound}")
    share = "" if v.estimate is None else f"{v.estimate:.4g}"
    n_eff = "" if v.n_eff is None else f"{v.n_eff:.0f}"
    return (_short(claim), shown, over, share, ends, str(v.n), n_eff, v.outcome, v.reason)


def _percentiles(within: Sequence[Objective], ran: Ran) -> list[str]:
    """Described, not decided: intervals at n_eff, a dash where n cannot carry one, or where it falls on a failure."""
    lines = []
    for metric in dict.fromkeys(each.metric for each in within):
        found = slo.described(ran.load, metric)
        parts = [f"p{q * 100:g} {_time(row[0])} [{_time(row[1])}, {_time(row[2])}]" for q, row in found.quantiles.items()]
        lines.append(f"{metric:<9} {'  '.join(parts)}")
    return lines


def _failures(ran: Ran) -> list[str]:
    judged = ran.load.judged
    causes = Counter(r.why for r in judged if r.outcome != "complete")
    lines = [
        f"outcomes  {len(judged) - causes.total()} of {len(judged)} complete" + "".join(f", {n} {why}" for why, n in causes.most_common())
    ]
    packed = per_frame(ran.load)
    if packed is not None:
        own = "; a time per token rests on the server's own count of them" if packed > PER_FRAME else ""
        lines.append(f"frames    {packed:.2f} tokens in each, by the server's count{own}")
    lines += [f"note      {_plain(said)}" for said in remarks(ran.load) if " a frame: " not in said]
    if ran.failures:
        first = ran.failures[0]
        said = first.get("detail") or first.get("error") or str(first.get("body", ""))
        lines.append(f"          first failure: request {first.get('sequence')}, status {first.get('status')}: {_plain(str(said))[:200]}")
    return lines


def probe(rate: float, n: int, verdict: Verdict) -> str:
    """One rate of a search."""
    return f"{rate:10.4g}/s  n = {n}  {verdict.outcome} ({verdict.reason})"


def found(result: Found) -> str:
    """What a search came to."""
    above = f"; {result.failed:g}/s is shown to be too much" if result.failed is not None else ""
    between = f"; not decided: {', '.join(f'{rate:.4g}' for rate in result.undecided)}" if result.undecided else ""
    rate = "no rate" if result.rate is None else f"at least {result.rate:.4g}/s"
    return f"\n{rate}: {result.outcome} ({result.reason}){above}{between}\n{result.sentence}"


def names(models: Sequence[str]) -> str:
    """The models of a server, a few of them."""
    return ", ".join(_plain(name[:200]) for name in models[:5]) + (", ..." if len(models) > 5 else "") or "no model"


def _short(claim: Claim) -> str:
    return claim.id.partition("[")[0].partition(".")[2]


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.4g} ms" if seconds < 1 else f"{seconds:.4g} s"


def _plain(text: str) -> str:
    """Without control characters, bidirectional ones included."""
    return "".join(ch if ch.isprintable() else repr(ch)[1:-1] for ch in text)
