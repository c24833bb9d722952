"""The numbers of a page that stand in no file as they are: each a declared derivation from files, made here a second time.

Counts, shares, quantiles, arms, percentiles of loads, means by position. Nothing is taken from the modules that render: what is
computed there and here by two programs is shown only if both agree.
"""

from __future__ import annotations

import math
import re
import statistics
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from harness import records
from harness.report.artifacts import Claimed, Files, Source
from harness.report.rubric import MUSTS
from harness.stats.intervals import clopper_pearson

__all__ = ["of_claim", "of_claims", "of_files"]

Derived = Iterator[tuple[float, Source]]
_SHOWN = 6  # must-haves by name on the first screen
_MOST = 5_000  # values of one kind that are counted one by one


def of_claim(claim: Claimed) -> Derived:
    """What follows from one claim's evidence, rows and records, each with how."""
    for derive in (_bound, _lengths, _arms, _rows, _positions, _load, _server, _timeline):
        yield from ((value, f"{claim.file}#: {how}") for value, how in derive(claim))


# --- from the evidence ------------------------------------------------------------------------


def _bound(claim: Claimed) -> Derived:
    """A margin is drawn on the side where it hurts."""
    bound = claim.record["claim"].get("bound") or {}
    limit = bound.get("limit")
    if isinstance(limit, (int, float)):
        yield -float(limit), "minus the limit of the bound"
    verdict = claim.record["verdict"]
    ends = [verdict.get(key) for key in ("estimate", "low", "high", "n")]
    if isinstance(limit, (int, float)) and all(map(_usable, ends)):
        estimate, low, high, n = (float(x) for x in ends)
        edge = -limit if bound.get("kind") == "non_inferior" else limit
        gap = estimate - edge
        if gap and (about := n * (((estimate - low) if gap > 0 else (high - estimate)) / gap) ** 2) < 1e9:
            yield float(f"{about:.2g}"), "the n at which an interval as this one would clear the bound"


def _lengths(claim: Claimed) -> Derived:
    """How many entries the lists and tables of the evidence have, what counts add up to, the share of each; 183/219 as a number."""
    for value in _inside(claim.record):
        entries = list(value.values() if isinstance(value, dict) else value)
        yield float(len(entries)), "entries of a list or table"
        for text in entries:
            if isinstance(text, str) and (found := re.fullmatch(r"(\d{1,15})/(\d{1,15})", text)) and int(found[2]):
                yield from ((float(found[1]), text), (float(found[2]), text), (int(found[1]) / int(found[2]), text))
        counts = [x for x in entries if _is_count(x)] or [x["n"] for x in entries if isinstance(x, dict) and _is_count(x.get("n"))]
        yield from _added(counts)


def _added(counts: Sequence[int]) -> Derived:
    total, most = sum(counts), max(counts, default=0)
    if len(counts) > 1:
        yield float(total), "sum of counts"
        yield from ((n / whole, "share of counts") for n in counts[:40] for whole in (total, most) if whole > 0)
        yield from ((float(abs(a - b)), "difference of two counts") for a in counts[:8] for b in counts[:8])


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _inside(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list)):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _inside(inner)


def _arms(claim: Claimed) -> Derived:
    """Right answers of either arm with exact limits, from the counts of a paired verdict."""
    counts = claim.record["verdict"].get("statistics") or {}
    found = [int(x) for key in ("b", "c", "both_right", "n") if isinstance(x := counts.get(key), int)]
    if len(found) < 4 or not found[3]:
        return
    b, c, both, n = found
    yield float(n - both - b - c), "items wrong in both arms"
    yield float(b + c), "items that flip either way"
    for name, k in (("new", both + b), ("old", both + c)):
        low, high = clopper_pearson(k, n, 0.025)
        yield from ((float(k), f"right, {name} arm"), (float(n - k), f"wrong, {name} arm"), (k / n, f"share right, {name} arm"))
        yield from ((low, f"Clopper-Pearson, {name} arm"), (high, f"Clopper-Pearson, {name} arm"))


def _server(claim: Claimed) -> Derived:
    """How long a server took to start: the sum of its stages."""
    about = ((claim.record.get("measurement") or {}).get("conditions") or {}).get("server")
    stages = [str(value) for key, value in about.items() if str(key).startswith("start.")] if isinstance(about, Mapping) else []
    try:
        seconds = [float(text.removesuffix(" s")) for text in stages if text.endswith(" s")]
    except ValueError:
        return
    yield from ((math.fsum(seconds), "seconds of all stages of the start"), *((x, "seconds of a stage") for x in seconds))


# --- from the rows ----------------------------------------------------------------------------


def _rows(claim: Claimed) -> Derived:
    """Counts of rows by value, status, arm and detail; quantiles; the share of each; extremes of what a row tells."""
    rows = claim.rows
    if not rows:
        return
    for name, part in _parts(rows):
        yield float(len(part)), f"rows{name}"
        yield from _counted(part, name)
        yield from _spread([float(r["value"]) for r in part if _usable(r.get("value"))], f"value{name}")
    yield from _flips(rows)
    yield from _details(rows)
    for r in rows:
        yield float(len(r.get("detail") or {})), "entries of a row"


def _parts(rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    yield "", list(rows)
    arms = sorted({str(r.get("arm")) for r in rows if "arm" in r})
    yield from ((f", arm {arm}", [r for r in rows if r.get("arm") == arm]) for arm in arms)


def _counted(rows: Sequence[Mapping[str, Any]], name: str) -> Derived:
    n = len(rows)
    weights: Counter[str] = Counter()
    for r in rows:
        weights[f"{r.get('value')}"] += int(r.get("weight", 1) or 0)
    yield float(sum(weights.values())), f"weight of all rows{name}"
    for by in (weights, Counter(str(r.get("status", "ok")) for r in rows), Counter(str(r.get("cluster")) for r in rows)):
        yield float(len(by)), f"different values{name}"
        for key, k in by.most_common(_MOST):
            yield from ((float(k), f"rows of {key[:40]}{name}"), (k / n, f"share of {key[:40]}{name}"))
            yield from ((float(n - k), f"rows but {key[:40]}{name}"), (float(sum(by.values()) - k), f"weight but {key[:40]}{name}"))
    yield float(sum(1 for r in rows if r.get("value") is None)), f"rows without a value{name}"


def _spread(values: Sequence[float], name: str) -> Derived:
    if not values:
        return
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    yield from ((low, f"lower quartile of {name}"), (middle, f"median of {name}"), (high, f"upper quartile of {name}"))
    yield from ((min(values), f"least {name}"), (max(values), f"most {name}"))
    yield from ((math.fsum(values), f"sum of {name}"), (math.fsum(values) / len(values), f"mean of {name}"))
    ordered = sorted(values)
    yield ordered[len(ordered) // 2], f"upper median of {name}"


def _flips(rows: Sequence[Mapping[str, Any]]) -> Derived:
    old = {r["item"]: r.get("value") for r in rows if r.get("arm") == "old"}
    new = {r["item"]: r.get("value") for r in rows if r.get("arm") == "new"}
    pairs = [(x, old[item]) for item, x in new.items() if item in old]
    yield float(sum(b == 1 and a != 1 for a, b in pairs)), "items right before and wrong now"
    yield float(sum(a == 1 and b != 1 for a, b in pairs)), "items wrong before and right now"


def _details(rows: Sequence[Mapping[str, Any]]) -> Derived:
    """By key of the details: how many rows say what, alone and among those that break the claim; the spread of numbers."""
    keys = sorted({key for r in rows for key in r.get("detail") or {}})
    for key in keys[:60]:
        told = [r["detail"][key] for r in rows if key in (r.get("detail") or {})]
        yield float(len(told)), f"rows that say {key}"
        words = Counter(str(x) for x in told if isinstance(x, (str, bool, int)))
        if len(words) <= 500:
            for word, k in words.items():
                yield from ((float(k), f"rows with {key} = {word[:40]}"), (k / len(rows), f"share with {key} = {word[:40]}"))
                yield float(len(told) - k), f"rows with {key} other than {word[:40]}"
        yield from _spread([float(x) for x in told if _usable(x)], key)
        for inner in (x for x in told if isinstance(x, list)):
            yield from _listed(key, inner)


def _listed(key: str, told: Sequence[Any]) -> Derived:
    """A list that a row holds: its length, its numbers, and what its entries say, counted."""
    yield float(len(told)), f"entries of {key}"
    yield from _spread([float(x) for x in told if _usable(x)], f"entries of {key}")
    entries = [x for x in told if isinstance(x, dict)]
    for field in sorted({name for x in entries for name in x})[:30]:
        words = Counter(str(x[field]) for x in entries if isinstance(x.get(field), (str, bool, int)))
        whole = sum(words.values())
        for word, k in words.items() if len(words) <= 60 else ():
            yield k / whole, f"share of {key} with {field} = {word[:40]}"
            yield from ((float(k), f"{key} with {field} = {word[:40]}"), (k / len(entries), f"share of {key} with {field} = {word[:40]}"))
            held = sum(str(x.get(field)) == word and bool(x.get("held_out")) for x in entries)
            yield from (
                (float(held), f"held out, with {field} = {word[:40]}"),
                (float(k - held), f"not held out, with {field} = {word[:40]}"),
            )


def _usable(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _positions(claim: Claimed) -> Derived:
    """KL by position: sums over counts of all documents, in bins that double."""
    told = [r["detail"]["by_position"] for r in claim.rows if isinstance((r.get("detail") or {}).get("by_position"), Mapping)]
    bins = max((len(x["n"]) for x in told), default=0)
    for i in range(bins):
        kept = [(x["sum"][i], x["n"][i]) for x in told if i < len(x["n"]) and x["n"][i] > 0]
        n = math.fsum(k for _, k in kept)
        if n:
            yield math.fsum(x for x, _ in kept) / n, f"mean over positions {2**i} to {2 ** (i + 1) - 1}"


# --- from the records of a load ---------------------------------------------------------------


def _load(claim: Claimed) -> Derived:
    """Requests of a load: counts, every time of every request in seconds, percentiles with limits, what missed which limit."""
    load = claim.load
    if load is None:
        return
    judged = load.judged
    done = [r for r in judged if r.outcome == "complete"]
    yield from ((float(len(load.records)), "requests sent"), (float(len(judged)), "requests of the window"))
    yield from ((float(len(done)), "complete"), (float(len(judged) - len(done)), "failed"))
    yield from _window(load)
    yield from _times(load)
    for metric in records.METRICS:
        yield from _percentiles(load, metric)
    yield from _objectives(load, claim)


def _window(load: records.Load) -> Derived:
    ends = load.header.get("window")
    due = [r.scheduled * 1e-9 for r in load.judged] or [0.0]
    start, end = (
        (ends[0] * 1e-9, ends[1] * 1e-9) if isinstance(ends, list) and len(ends) == 2 and None not in ends else (min(due), max(due))
    )
    yield end - start, "seconds of the window"
    numbers = (load.header.get("schedule") or {}).get("numbers") or {}
    yield from ((float(x), f"schedule: {key}") for key, x in numbers.items() if _usable(x))


def _times(load: records.Load) -> Derived:
    others = _under_way(load)
    for r, beside in zip(load.records, others, strict=True):
        yield from ((float(r.sequence), "sequence of a request"), (r.scheduled * 1e-9, "due"), (float(beside), "others under way"))
        yield from ((x * 1e-6, "a time of a request") for x in (r.first, r.end) if x is not None)
        if r.tokens is not None:
            yield float(r.tokens), "tokens of a request"
    middle = sorted(beside for r, beside in zip(load.records, others, strict=True) if r.judged)
    yield from ((float(middle[len(middle) // 2]), "others under way, median"),) if middle else ()


def _under_way(load: records.Load) -> list[int]:
    """How many requests had begun and not ended when each was due."""
    sent = [
        (r.scheduled / 1000 + r.sent, r.scheduled / 1000 + r.end if r.end is not None else math.inf)
        for r in load.records
        if r.sent is not None
    ]
    starts, ends = sorted(a for a, _ in sent), sorted(max(a, b) for a, b in sent)
    return [bisect_left(starts, r.scheduled / 1000) - bisect_left(ends, r.scheduled / 1000) for r in load.records]


def _percentiles(load: records.Load, metric: str) -> Derived:
    from harness.serve import slo

    try:
        told = slo.described(load, metric)
    except (ValueError, ArithmeticError):
        return
    yield from ((float(told.n), f"n of {metric}"), (told.n_eff, f"n that {metric} counts as"))
    for q, limits in told.quantiles.items():
        yield from ((x, f"p{q * 100:g} of {metric}, or a limit of it") for x in limits if x is not None)


def _objectives(load: records.Load, claim: Claimed) -> Derived:
    said = load.header.get("slo")
    within = records.objectives({str(k): str(v) for k, v in said.items()}) if isinstance(said, Mapping) else ()
    n, missed = len(load.judged) or 1, {}
    for each in within:
        value = records.METRICS[each.metric]
        over = {r.sequence for r in load.judged if r.outcome != "complete" or ((x := value(r)) is not None and x > each.limit)}
        missed[each.name] = over
        applies = sum(value(r) is not None or r.outcome != "complete" for r in load.judged) or 1
        yield from ((each.limit, f"limit of {each.name}"), (each.share, f"share that {each.name} allows"))
        yield from ((float(len(over)), f"over {each.name}"), (len(over) / n, f"share over {each.name}"))
        yield from ((len(over) / applies, f"share over {each.name}"), (float(applies), f"requests that {each.name} applies to"))
        slow = [r for r in load.judged if r.sequence in over and r.outcome == "complete"]
        yield float(len(slow)), f"complete and over {each.name}"
        place = dict(zip((r.sequence for r in load.records), _under_way(load), strict=True))
        if slow:
            yield float(sorted(place[r.sequence] for r in slow)[len(slow) // 2]), f"others under way when over {each.name}, median"
        for r in load.judged:
            if (x := value(r)) is not None:
                yield x / each.limit, f"multiple of {each.name}"
    gone = {r.sequence for r in load.judged if r.outcome != "complete"}
    yield 1 - len(gone.union(*missed.values())) / n, "share complete and inside every limit"
    for name, over in missed.items():
        others = set().union(*(found for other, found in missed.items() if other != name))
        yield float(len(over - others)), f"over {name} alone"


def _timeline(claim: Claimed) -> Derived:
    """The highest point of each line over the time of a load, thinned to means over neighbours."""
    rows = claim.timeline
    at = [float(t) for t in rows.get("t", ()) if t is not None]
    for column, values in rows.items():
        points = [float(v) for _, v in zip(at, values, strict=False) if v is not None]
        step = -(-len(points) // 200) or 1
        means = [math.fsum(points[i : i + step]) / len(points[i : i + step]) for i in range(0, len(points), step)]
        if means:
            yield from ((max(means), f"highest {column}"), (100 * max(means), f"highest {column}, %"))
    if claim.load is not None:
        yield from _most_under_way(claim.load, at)


def _most_under_way(load: records.Load, at: Sequence[float]) -> Derived:
    due = [r.scheduled * 1e-9 for r in load.records]
    if due:
        sent = [(r.scheduled / 1e9 + r.sent / 1e6, r.scheduled / 1e9 + r.end / 1e6 if r.end is not None else math.inf)
                for r in load.records if r.sent is not None]  # fmt: skip
        starts, ends = sorted(a for a, _ in sent), sorted(max(a, b) for a, b in sent)
        first, last = min(due), max([*due, *at[-1:]])
        grid = [first + (last - first) * i / 199 for i in range(200)]
        yield float(max(bisect_left(starts, t) - bisect_left(ends, t) for t in grid)), "most under way, by the client"


# --- from several claims ----------------------------------------------------------------------


def of_claims(claims: Sequence[Claimed]) -> Derived:
    """Counts over claims that stand together: by outcome, suite, family; controls; items that several of them broke."""
    yield float(len(claims)), "claims"
    for name, of in _SORTED.items():
        counted = Counter(of(c) for c in claims)
        yield float(len(counted)), f"different {name}"
        for key, k in counted.items():
            yield from ((float(k), f"claims: {name} {key}"), (float(len(claims) - k), f"claims: {name} other than {key}"))
    yield from _gating(claims)
    yield from _controls(claims)
    yield from _broken(claims)


def of_files(files: Files) -> Derived:
    """How many entries the lists and tables of the plan, of the end of the run and of where it was made have; how many subjects."""
    for source, value in files.whole.parts:
        yield from ((float(len(inner)), f"{source}: entries of a list or table") for inner in _inside(value))
    subjects = (s for c in files.claims.values() for s in (c.record.get("measurement") or {}).get("subjects") or ())
    yield from _musts(files)
    yield float(len({(str(s.get("name")), str(s.get("digest"))) for s in subjects})), "different subjects"


def _musts(files: Files) -> Derived:
    """Must-haves of the rubric: enough was judged, and something holds."""
    found = 0
    for must in MUSTS:
        judged = [c for c in files.claims.values() if _outcome(c) in ("holds", "fails", "inconclusive") and _named(c, must.tests)]
        verdicts = [c.record["verdict"] for c in judged]
        most = {"claims": len(judged), "n": max((v.get("n") or 0 for v in verdicts), default=0),
                "estimate": max((v.get("estimate") or 0 for v in verdicts), default=0)}[must.of]  # fmt: skip
        found += most >= must.least and any(v["outcome"] == "holds" for v in verdicts)
    yield from (
        (float(len(MUSTS)), "must-haves"),
        (float(found), "must-haves that are evidenced"),
        (float(len(MUSTS) - found), "that are not"),
        (float(len(MUSTS) - found - _SHOWN), "that are not, less those that are named on the first screen"),
    )


def _named(c: Claimed, tests: Sequence[str]) -> bool:
    test = c.id.partition("[")[0]
    return any(f"{test}.".startswith(f"{wanted}.") for wanted in tests)


def _outcome(c: Claimed) -> str:
    return str(c.record["verdict"].get("outcome"))


def _known(c: Claimed) -> bool:
    return (c.record.get("notes") or {}).get("expect") == "fails"


def _suite(c: Claimed) -> str:
    test = str((c.record.get("notes") or {}).get("test") or "").split("/")
    return test[test.index("suites") + 1] if "suites" in test[:-1] else c.id.partition(".")[0]


_SORTED: Mapping[str, Callable[[Claimed], object]] = {
    "outcome": _outcome,
    "family": lambda c: c.id.partition("[")[0].partition(".")[0],
    "suite": _suite,
    "outcome of what is known": lambda c: (_outcome(c), _known(c)),
    "outcome in suite": lambda c: (_suite(c), _outcome(c)),
    "outcome of build or dataset": lambda c: (c.id.partition("[")[2].rstrip("]").split(",")[-1], _outcome(c)),
}


def _gating(claims: Sequence[Claimed]) -> Derived:
    gating = [c for c in claims if not _known(c)]
    silent = sum(_outcome(c) != "holds" and not any((c.record.get("notes") or {}).get(key) for key in ("risk", "why")) for c in claims)
    amiss = sum(_outcome(c) != "holds" for c in claims)
    yield from ((float(silent), "claims that do not hold, without a word"), (float(amiss - silent), "claims that do not hold, with a word"))
    yield from ((float(len(gating)), "claims that gate"), (float(sum(_outcome(c) == "holds" for c in gating)), "claims that gate and hold"))


def _controls(claims: Sequence[Claimed]) -> Derived:
    every = [(_suite(c), x) for c in claims for x in c.record["verdict"].get("controls") or ()]
    for suite in ("", *sorted({s for s, _ in every})):
        mine = [x for s, x in every if suite in ("", s)]
        same = [x for x in mine if _same(x)]
        other = [x for x in mine if not _same(x)]
        for what, of in (("controls", mine), ("A/A controls", same), ("planted controls", other)):
            met = sum(x.get("met") is True for x in of)
            where = f" of {suite}" if suite else ""
            yield from (
                (float(len(of)), f"{what}{where}"),
                (float(met), f"{what}{where} as they must"),
                (float(len(of) - met), f"{what}{where} missed"),
            )


def _same(control: Mapping[str, Any]) -> bool:
    name = str(control.get("name", ""))
    return name.startswith("A/A") or (list(control.get("expect") or ()) == ["holds"] and not name.startswith("planted"))


def _broken(claims: Sequence[Claimed]) -> Derived:
    """Items that were right in the old arm and wrong in the new: in any of the claims, in more than one; for claims on the same set."""
    groups: dict[tuple[str, ...], list[set[str]]] = {}
    for c in claims:
        if c.record["claim"].get("estimand") != "paired_difference":
            continue
        test, _, inside = c.id.partition("[")
        subjects = (c.record.get("measurement") or {}).get("subjects") or []
        reference = str(subjects[1].get("name")) if len(subjects) > 1 else ""
        groups.setdefault((test, *inside.rstrip("]").split(",")[:-1], reference), []).append(_lost(c))
    for key, lost in groups.items():
        times = Counter(item for found in lost for item in found)
        name = ", ".join(key)
        yield from (
            (float(len(times)), f"items broken: {name}"),
            (float(sum(k > 1 for k in times.values())), f"items broken twice: {name}"),
        )


def _lost(c: Claimed) -> set[str]:
    old = {r["item"] for r in c.rows if r.get("arm") == "old" and r.get("value") == 1}
    return {r["item"] for r in c.rows if r.get("arm") == "new" and r.get("value") != 1 and r["item"] in old}
