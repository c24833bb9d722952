"""The view of a capstone's rubric: how much weight each line carries, which must-haves a run evidences, and with what count.

The lines and must-haves are those of the course that this harness serves; they stand here as data. What a run holds no claim about
is NOT EVIDENCED, in plain sight: silence is never green. Counts make work inspectable, they prove nothing: that is for the verdicts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.report.markup import Html, badge, claim_id, definitions, link, said, table
from harness.report.mutants import suite_of
from harness.report.text import DASH, SYMBOLS, number
from harness.report.view import ClaimView, RunView

__all__ = ["LINES", "MUSTS", "Must", "Shown", "rubric", "shown"]

# Weight in percent; the suites whose claims speak to it.
LINES: Sequence[tuple[str, Sequence[str]]] = (
    ("30 %  Lifecycle complete and reproducible", ("data", "train", "prefer", "track", "card", "capstone")),
    ("30 %  Quality evidence and quality of the evaluation", ("evals", "judge", "quant")),
    ("25 %  Performance, stability, cost awareness", ("serve", "quant", "resilience", "observe", "cost")),
    ("15 %  Source reading, paper to code, debugging", ("dossier", "internals")),
)


@dataclass(frozen=True, slots=True)
class Must:
    """Something a submission must have. ``tests`` are claims by the id before "["; what is counted is ``of``: the "claims" that were
    judged, the greatest "estimate" or the greatest "n" among them."""

    part: str
    what: str
    tests: tuple[str, ...]
    least: int = 1
    of: str = "claims"
    unit: str = "claims"


MUSTS: Sequence[Must] = (
    Must("Data", "audit of lengths", ("D3.context",)),
    Must("Data", "audit of duplicates", ("D1.exact", "D1.canonical", "D1.near")),
    Must("Data", "audit of outliers and form", ("D6.schema", "D6.characters")),
    Must("Data", "audit of sensitive content", ("D4.private", "D4.canaries")),
    Must("Data", "blocked rows, shown", ("D5.blocked",), 5, "estimate", "rows"),
    Must("Data", "source, licence, version, cleaning written down", ("D9.described",)),
    Must("Data", "the audited bytes are those that are used", ("R5.bytes",)),
    Must("Fine-tuning", "a LoRA or QLoRA run from a recorded configuration", ("R2.curve", "T5.count")),
    Must("Fine-tuning", "the adapter exported and tried", ("T6.served", "T6.merged", "T6.top1")),
    Must("Fine-tuning", "curves kept", ("R2.curve", "T8.fell")),
    Must("Fine-tuning", "a failed experiment with its cause and what changed", ("T11.failed",)),
    Must("Evaluation", "pairs of base and tuned on the same items", ("E1.gain",), 20, "n", "pairs"),
    Must("Evaluation", "the sample carries the claim, planned before it was spent", ("E7.gain", "E7.sample")),
    Must("Evaluation", "failures analysed", ("E8.listed",), 20, "estimate", "failures"),
    Must("Evaluation", "an iteration that failures led to, before and after", ("E9.gain", "E9.heldout")),
    Must("Quantization", "an experiment whose loss stays inside a margin fixed beforehand", ("Q1.accuracy",)),
    Must("Quantization", "memory gained", ("Q5.memory",)),
    Must("Quantization", "speed gained", ("Q5.speed",)),
    Must("Serving", "an HTTP API that conforms", ("V1.schema", "V1.errors", "V1.stream")),
    Must("Serving", "throughput", ("L2.goodput", "L2.requests", "L2.tokens")),
    Must("Serving", "latency, p95", ("L1.ttft_p95", "L1.tpot_p95", "L1.e2e_p95")),
    Must("Serving", "latency, p99", ("L1.ttft_p99", "L1.tpot_p99", "L1.e2e_p99")),
    Must("Serving", "the ceiling of concurrency", ("L3.ceiling", "L3.saturated")),
    Must("Serving", "what stops it there", ("L3.bottleneck",)),
    Must("Serving", "an optimisation, before and after", ("L4.tokens",)),
    Must("Serving", "errors handled: broken streams, kills, drains", ("V3.client", "V3.server", "F3.orphans", "F4.drains", "F5.slot")),
    Must("Serving", "health that means progress", ("F1.progress", "F4.readiness")),
    Must("Serving", "logs and metrics that agree with the client", ("O1", "O2", "O3")),
    Must("Dossier", "an issue: reproduction, cause, fix, regression test", ("DO1", "DO2", "DO3", "DO4")),
    Must("Dossier", "source read, or a paper made into code", ("IN1", "IN2", "IN3", "M3")),
    Must("Defence", "the report's numbers come from its files", ("R4.numbers",)),
    Must("Defence", "rerun from a clean clone: same verdicts", ("CD1", "R1", "R9")),
    Must("Defence", "a rerun differs within a declared floor", ("R3.noise",)),
    Must("Defence", "any changed byte is found", ("CD2.bytes", "CD2.forged")),
)

_JUDGED = ("holds", "fails", "inconclusive")
_SIGNS = {"evidenced": "holds", "not shown": "fails", "not evaluated": "not_evaluated", "NOT EVIDENCED": "lost"}


@dataclass(frozen=True, slots=True)
class Shown:
    """A must-have and what the run has for it. ``state``: "evidenced"; "not shown" (judged, but none holds or too few); "not evaluated";
    "NOT EVIDENCED" where there is no claim at all."""

    must: Must
    claims: tuple[ClaimView, ...]
    count: int
    state: str


def shown(run: RunView) -> list[Shown]:
    """Every must-have, in its order; none for a run that no claim of the course's is in: a project of other claims is no capstone."""
    found = [_of(must, [c for c in run.claims if _bears(c, must.tests)]) for must in MUSTS]
    return found if any(one.claims for one in found) else []


def _bears(claim: ClaimView, tests: Iterable[str]) -> bool:
    test = claim.id.partition("[")[0]
    return any(test == wanted or test.startswith(f"{wanted}.") for wanted in tests)


def _of(must: Must, claims: Sequence[ClaimView]) -> Shown:
    judged = [c for c in claims if c.outcome in _JUDGED]
    counts = {"claims": [len(judged)], "estimate": [int(c.estimate or 0) for c in judged], "n": [c.n for c in judged]}[must.of]
    count = max(counts, default=0)
    if not claims:
        state = "NOT EVIDENCED"
    elif not judged:
        state = "not evaluated"
    else:
        state = "evidenced" if count >= must.least and any(c.outcome == "holds" for c in judged) else "not shown"
    return Shown(must, tuple(claims), count, state)


# --- on the page ------------------------------------------------------------------------------


def rubric(run: RunView) -> Html:
    """The lines with their weights and suites, then every must-have; empty where none is asked of the run."""
    found = shown(run)
    if not found:
        return Html("")
    note = (
        '<p class="small muted">A must-have is evidenced if enough was judged and at least one claim holds; those that do not hold stand '
        "beside it. It says that there is something to inspect. What is proven, the verdicts say: twenty pairs fill a rubric and prove "
        "hardly anything.</p>"
    )
    rows = [_row(one) for one in found]
    musts = table("Must-haves", ("must have", "part", "state", "count", "claims"), rows, ("", "", "", "num", "small"))
    return Html(_lines(run) + note + musts)


def _lines(run: RunView) -> Html:
    by_suite: dict[str, Counter[str]] = {}
    for c in run.claims:
        by_suite.setdefault(suite_of(c), Counter())[c.outcome] += 1
    rows = [(name, Html("; ".join(_suite(s, by_suite.get(s)) for s in suites))) for name, suites in LINES]
    return definitions(rows)


def _suite(name: str, counts: Counter[str] | None) -> str:
    if not counts:
        return f'{name} <span class="unmet">NOT EVIDENCED</span>'
    told = ", ".join(f"{SYMBOLS.get(outcome, '·')} {k}" for outcome, k in counts.most_common())
    return f"{said(name, 40)} {told}"


def _row(one: Shown) -> list[Html]:
    counted = f"{number(one.count)} {one.must.unit} (≥ {one.must.least})" if one.claims else DASH
    others = [c for c in one.claims if c.outcome != "holds"]
    first = [*others, *(c for c in one.claims if c.outcome == "holds")][:_NAMED]
    named = ", ".join(f"{SYMBOLS.get(c.outcome, '·')} {link(c, claim_id(c))}" for c in first)
    more = f" and {len(one.claims) - len(first)} more" if len(one.claims) > len(first) else ""
    state = badge(_SIGNS[one.state]).replace(f" {_SIGNS[one.state].replace('_', ' ')}<", f" {one.state}<")
    return [said(one.must.what), said(one.must.part), Html(state), Html(counted), Html(named + more or DASH)]


_NAMED = 5
