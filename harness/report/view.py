"""A run folder as what a page shows: read, checked for what is missing, grouped. Decides nothing.

A pure function of plan.json, run.json, release.json, changes.json, evidence/, samples/ and raw/. Files that this package writes, and
the seal that is made after it, are not read: rendering again gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import HarnessError
from harness.types import Sample

__all__ = ["OUTCOMES", "ClaimView", "RunView", "family_title", "finite", "load", "of_record", "release", "warnings_of"]

OUTCOMES = ("holds", "fails", "inconclusive", "not_evaluated", "error", "lost")
_SAY = {
    "fails": ("fails", "fail"), "inconclusive": ("is inconclusive", "are inconclusive"),
    "not_evaluated": ("was not evaluated", "were not evaluated"), "error": ("ended in an error", "ended in errors"),
    "lost": ("left no evidence", "left no evidence"),
}  # fmt: skip

_TITLES = {
    "D1": "Duplicates: rows are not there twice, nor nearly so",
    "D2": "Leakage: nothing that is trained on stands in what is evaluated with",
    "D3": "Lengths: rows fit the context of the model that reads them",
    "D4": "Personal data and secrets: what is planted is found, and none is in the rows",
    "D5": "The gate: planted defects are caught, clean rows pass",
    "D6": "Form: rows are readable, complete, in order, and agree with each other",
    "D7": "Splits: no group and no row stands in two",
    "D8": "Preference pairs: chosen differs from rejected, and not by length alone",
    "D9": "Metadata: source, licence, version and changes are stated",
    "R5": "Bytes: the data that are named, audited and used are the same",
    "R2": "Same seed: the same curve and the same adapter",
    "R6": "Resume: a run that was stopped ends as one that was not",
    "T1": "Rendering: training, evaluation and serving see the same token ids",
    "T2": "Mask: the loss covers the answer with its end, and nothing else",
    "T3": "Packing: rows in one sequence do not see each other",
    "T4": "Identity: a fresh adapter changes nothing",
    "T5": "Parameters: as many as declared, and an untouched base",
    "T6": "Parity: merged, unmerged and served agree",
    "T7": "Learning: one batch is overfitted, gradients reach the targets alone",
    "T8": "Curves: the loss fell, and on rows that were held out too",
    "T9": "Memory of training",
    "T10": "Kills: a checkpoint resumes or is refused",
    "T11": "Failed experiments, kept with their cause",
    "PF1": "First step: ln 2, and swapped pairs turn the gradient",
    "PF2": "Held-out pairs: the margin grew",
    "PF3": "Wins: preferred against tuned",
    "PF4": "Tax: nothing was lost on the golden sets",
    "PF6": "Refusals after preference training",
    "E1": "Gain: tuned against base",
    "E2": "Guardrails: nothing was lost elsewhere",
    "E4": "Health: truncated, empty and unreadable answers, before any score",
    "E5": "Blind scoring",
    "E8": "Failures: read and sorted",
    "E9": "Iteration: what the failures led to",
    "E10": "Contamination: the score does not rest on items seen before",
    "G2": "Golden answers: those that were approved",
    "G3": "Flaky items, by measured rate",
    "G4": "Metamorphic: asked in another way",
    "R3": "Noise floor: the same subject asked again",
    "J1": "Judges: agreement with people",
    "J2": "Judges: agreement with themselves",
    "J3": "Judges: position, length, format, self-preference",
    "J4": "Scores corrected by people's labels",
    "J5": "Calibration is bound to the judge",
    "J6": "Judges: instructions hidden in an answer",
    "H1": "Raters: agreement of people",
    "H2": "Raters: gold questions",
    "Q1": "Answers: the build against its reference, item by item",
    "Q2": "Fidelity: how far the next-token distributions moved",
    "Q3": "Perplexity",
    "Q4": "Inventory: is it really quantized",
    "Q5": "Footprint: speed and memory on this machine",
    "Q6": "Tokenizer, template and configuration",
    "Q7": "Refusals",
    "Q8": "Calibration: disjoint from what is measured, and not luck",
    "Q12": "Sensitivity: the layers and slices that lose most",
    "V1": "API: schema, codes, usage, finish reasons",
    "V2": "Usage and text: streamed, unstreamed and counted agree",
    "V3": "Truncation: a broken stream is never taken for an answer",
    "V4": "Parity: the server is the model it is said to be",
    "V5": "Options: each has an effect, or is refused",
    "V6": "Context: works at depth, one token more is refused",
    "L1": "Latency limits, from the scheduled arrival",
    "L2": "Goodput and throughput",
    "L3": "The ceiling, and its bottleneck",
    "L4": "One optimisation, before and after",
    "L5": "A run that says nothing passes nothing",
    "L6": "Soak: no leak, no drift",
    "L7": "Tenants: long prompts do not starve short ones",
    "K1": "Prefix cache: cold and warm give the same answer",
    "K2": "Prefix cache: what it saves",
    "K5": "Company: answers do not depend on what is computed beside them",
    "K6": "Preemption leaves answers alone",
    "M1": "Memory as predicted",
    "M2": "Memory: the declared load fits, one more is refused",
    "F3": "No kill leaves an orphan",
    "F4": "SIGTERM drains",
    "F5": "A client that leaves frees its place",
    "W1": "The model's card says what its evidence says",
    "TR1": "Tracking: the run that was logged is the run that was done",
    "TR2": "Tracking: what was promoted is what passed",
    "E3": "Conditions: both arms ran under the same ones",
    "E6": "The gates: size and power at the n in use",
    "E7": "Sample size: planned before it was spent",
    "G1": "Golden sets: the ones that were approved",
    "CD1": "Defence: measured again in a clean clone",
    "R1": "One command yields the report",
    "R9": "Elsewhere: the same verdicts",
}

# Rows of these are looked at one by one; the rest is told by its statistics.
_WITH_ROWS = frozenset({"paired_difference", "bounded_mean", "exact", "exact_share"})
_DRAWN = frozenset({"T8", "L3", "L4", "L6", "L7", "K2", "K5"})  # families whose rows are drawn, whatever the estimand
_SERVED = re.compile(r"V[1-6]|L[1-7]|K[1-8]|M[1-4]|F[1-9]|F1[0-4]")
_NAMED = 8  # in a warning; the tables name all
_MAX_ROWS_BYTES = 512 * 2**20
_MAX_RAW_BYTES = 64 * 2**20  # a million requests, in all loads of a run


@dataclass(frozen=True, slots=True)
class ClaimView:
    """One claim with what became of it. ``outcome`` is "lost" where there is no evidence."""

    id: str
    outcome: str
    text: str = ""
    reason: str = ""
    sentence: str = ""
    estimand: str = ""
    bound: Mapping[str, Any] = field(default_factory=dict)
    min_n: int | None = None
    verdict: Mapping[str, Any] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    tier: str = ""
    plan: str = ""
    file: str = ""
    samples: tuple[Sample, ...] = ()
    problem: str = ""  # why the rows cannot be shown

    @property
    def family(self) -> str:
        """``Q1`` of ``Q1.accuracy[addresses,gguf-q8_0]``."""
        return self.id.partition("[")[0].partition(".")[0]

    @property
    def name(self) -> str:
        """``accuracy`` of ``Q1.accuracy[addresses,gguf-q8_0]``."""
        return self.id.partition("[")[0].partition(".")[2]

    @property
    def params(self) -> tuple[str, ...]:
        """``("addresses", "gguf-q8_0")`` of ``Q1.accuracy[addresses,gguf-q8_0]``."""
        inside = self.id.partition("[")[2].removesuffix("]")
        return tuple(part.strip() for part in inside.split(",")) if inside else ()

    @property
    def served(self) -> bool:
        """Whether it speaks about a server: its last parameter names no build then."""
        return _SERVED.fullmatch(self.family) is not None

    @property
    def anchor(self) -> str:
        """An id in the page: safe, and never two on one."""
        safe = re.sub(r"[^A-Za-z0-9_-]+", "-", self.id).strip("-")[:60]
        return f"c-{safe}-{hashlib.sha256(self.id.encode('utf-8', 'replace')).hexdigest()[:8]}"

    @property
    def estimate(self) -> float | None:
        """The estimate of the verdict, if there is one."""
        return finite(self.verdict.get("estimate"))

    @property
    def low(self) -> float | None:
        """Lower confidence limit."""
        return finite(self.verdict.get("low"))

    @property
    def high(self) -> float | None:
        """Upper confidence limit."""
        return finite(self.verdict.get("high"))

    @property
    def n(self) -> int:
        """Independent units that were judged."""
        return int(self.verdict.get("n") or 0)

    @property
    def known_failure(self) -> bool:
        """The lifecycle file says, with a reason, that this claim fails today: it gates nothing."""
        return self.notes.get("expect") == "fails"

    @property
    def controls(self) -> Sequence[Mapping[str, Any]]:
        """The controls as the verdict records them."""
        return tuple(self.verdict.get("controls") or ())

    @property
    def limits(self) -> tuple[float, ...]:
        """Where the bound lies on the axis of the estimate."""
        kind, limit, high = self.bound.get("kind"), finite(self.bound.get("limit")), finite(self.bound.get("high"))
        if kind in (None, "identical") or limit is None:
            return ()
        if kind == "equivalent":
            return -limit, limit
        first = -limit if kind == "non_inferior" else limit
        return (first,) if high is None else (first, high)

    @property
    def demand(self) -> str:
        """The bound as a short inequality."""
        ends = [f"{x:g}" for x in self.limits]
        kind = self.bound.get("kind")
        if kind == "identical":
            return "= expected"
        if not ends:
            return ""
        return {
            "at_least": f"≥ {ends[0]}", "at_most": f"≤ {ends[0]}", "within": " to ".join(ends), "equivalent": " to ".join(ends),
            "non_inferior": f"> {ends[0]}", "better_than": f"> {ends[0]}",
        }.get(str(kind), str(kind))  # fmt: skip

    @property
    def why(self) -> str:
        """The verdict's sentence without the numbers in front of it, where those stand in columns of their own."""
        numbers = re.match(r"\S+ \[[^\]]*\], n = \d+; claimed [a-z_]+\([^)]*\): ", self.sentence)
        return self.sentence[numbers.end() :] if numbers else self.sentence

    @property
    def p(self) -> tuple[float | None, str]:
        """The p value that speaks to the outcome, and which one it is."""
        if self.outcome == "fails":
            return finite(self.verdict.get("p_fail")), "against"
        return finite(self.verdict.get("p_hold")), "for"


@dataclass(frozen=True, slots=True)
class RunView:
    """Everything a page needs of one run."""

    lifecycle: str
    tier: str
    plan: Mapping[str, Any]
    plan_digest: str
    facts: Mapping[str, Any]  # run.json; empty if the run was cut short
    claims: tuple[ClaimView, ...]
    unreadable: tuple[str, ...]  # files that should be evidence and are not
    releases: Mapping[str, Any] = field(default_factory=dict)  # release.json: the verdict on each build
    changes: Mapping[str, Any] = field(default_factory=dict)  # changes.json: what is another than the approved baselines
    raw: Mapping[str, bytes] = field(default_factory=dict, repr=False)  # by digest, what rows of loads were derived from

    @property
    def cut_short(self) -> bool:
        """Whether the run ended before it could say how."""
        return not self.facts

    @property
    def smoke(self) -> bool:
        """Whether a subset was measured."""
        return self.tier == "smoke" or any(c.tier == "smoke" for c in self.claims)

    @property
    def lost(self) -> tuple[ClaimView, ...]:
        """Planned, but without evidence."""
        return tuple(c for c in self.claims if c.outcome == "lost")

    @property
    def counts(self) -> dict[str, int]:
        """How many claims there are of each outcome, in the order of ``OUTCOMES``."""
        found = Counter(c.outcome for c in self.claims)
        return {outcome: found[outcome] for outcome in (*OUTCOMES, *sorted(set(found) - set(OUTCOMES)))}

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Of the first claim that has one: a run is one checkout on one machine."""
        return next((c.provenance for c in self.claims if c.provenance), {})

    @property
    def families(self) -> list[tuple[str, list[ClaimView]]]:
        """Claims by family: known families in the order of their titles, then the rest."""
        groups: dict[str, list[ClaimView]] = {}
        for claim in self.claims:
            groups.setdefault(claim.family, []).append(claim)
        order = list(_TITLES)
        return sorted(groups.items(), key=lambda g: (order.index(g[0]) if g[0] in order else len(order), g[0]))


def family_title(family: str) -> str:
    """What a family is about; nothing for one this version does not know."""
    return _TITLES.get(family, "")


# --- reading ----------------------------------------------------------------------------------


def load(run: Path) -> RunView:
    """The view of the run in ``run``. Never raises on what a run cut short leaves behind."""
    plan, plan_digest = _plan(run)
    facts = _mapping(run / "run.json")
    claims, unreadable = _evidence(run)
    seen = {c.id for c in claims}
    planned = {str(c["claim"]["id"]): c["claim"] for c in _list(plan, "claims") if _is_planned(c)}
    missing = (set(planned) | {str(name) for name in _list(facts, "lost")}) - seen
    lost = [_lost(name, planned.get(name, {})) for name in missing]
    everything = tuple(sorted([*claims, *lost], key=lambda c: _natural(c.id)))
    tier = str(plan.get("tier") or next((c.tier for c in claims if c.tier), ""))
    releases = {name: said for name, said in _mapping(run / evidence.RELEASE).items() if isinstance(said, dict)}
    changes = _mapping(run / "changes.json")
    lifecycle = str(plan.get("lifecycle") or "")
    return RunView(lifecycle, tier, plan, plan_digest, facts, everything, tuple(unreadable), releases, changes, _raw(run, claims))


def _list(data: Mapping[str, Any], key: str) -> list[Any]:
    found = data.get(key)
    return found if isinstance(found, list) else []


def _is_planned(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("claim"), dict) and "id" in entry["claim"]


def _plan(run: Path) -> tuple[Mapping[str, Any], str]:
    path = run / evidence.PLAN
    try:
        return _mapping(path), evidence.digest(path.read_bytes())
    except OSError:
        return {}, ""


def _mapping(path: Path) -> Mapping[str, Any]:
    try:
        data = evidence.read_json(path)
    except (HarnessError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def _evidence(run: Path) -> tuple[list[ClaimView], list[str]]:
    claims, unreadable = [], []
    for path in sorted((run / "evidence").glob("*.json")):
        name = path.relative_to(run).as_posix()
        try:
            claims.append(_with_rows(run, of_record(_mapping(path), name)))
        except (KeyError, TypeError, ValueError, AttributeError):
            unreadable.append(name)
    return claims, unreadable


def of_record(record: Mapping[str, Any], file: str = "") -> ClaimView:
    """The view of one evidence record, without its rows. Raises KeyError if it is none."""
    claim, verdict, measurement = record["claim"], record["verdict"], record.get("measurement")
    return ClaimView(
        id=str(claim["id"]), outcome=str(verdict["outcome"]), text=str(claim.get("text", "")),
        reason=str(verdict.get("reason") or ""), sentence=str(verdict.get("sentence") or ""),
        estimand=str(claim.get("estimand") or ""), bound=claim.get("bound") or {}, min_n=claim.get("min_n"),
        verdict=verdict, measurement=measurement or {}, provenance=record.get("provenance") or {},
        notes=record.get("notes") or {}, tier=str(record.get("tier") or ""), plan=str(record.get("plan") or ""),
        file=file,
    )  # fmt: skip


def _lost(name: str, claim: Mapping[str, Any]) -> ClaimView:
    return ClaimView(
        id=name, outcome="lost", text=str(claim.get("text", "")), sentence="planned, but it left no evidence",
        estimand=str(claim.get("estimand") or ""), bound=claim.get("bound") or {}, min_n=claim.get("min_n"),
    )  # fmt: skip


def _with_rows(run: Path, claim: ClaimView) -> ClaimView:
    if not claim.measurement or (claim.estimand not in _WITH_ROWS and claim.family not in _DRAWN):
        return claim
    try:
        return replace(claim, samples=_rows(run, claim.measurement["samples"]))
    except (OSError, EOFError, zlib.error, KeyError, TypeError, ValueError) as error:
        return replace(claim, problem=f"its rows cannot be shown: {type(error).__name__}")


def _rows(run: Path, named: Mapping[str, Any]) -> tuple[Sample, ...]:
    return evidence.rows_from_text(_unpacked(run, named, _MAX_ROWS_BYTES).decode("utf-8", "surrogatepass"))


def _raw(run: Path, claims: Iterable[ClaimView]) -> dict[str, bytes]:
    """What the evidence names and can be read, each once: claims on one load share it."""
    found: dict[str, bytes] = {}
    room = _MAX_RAW_BYTES
    for claim in claims:
        named = claim.measurement.get("raw") if isinstance(claim.measurement, dict) else None
        if isinstance(named, dict) and str(named.get("sha256")) not in found and room > 0:
            with contextlib.suppress(OSError, EOFError, zlib.error, KeyError, ValueError):
                found[str(named["sha256"])] = data = _unpacked(run, named, room)
                room -= len(data)
    return found


def _unpacked(run: Path, named: Mapping[str, Any], most: int) -> bytes:
    """A sidecar, only if it is the one the evidence names."""
    path = run / str(named["file"])
    if run.resolve() not in path.resolve().parents:
        raise ValueError("outside the run folder")
    unpack = zlib.decompressobj(wbits=31)
    data = unpack.decompress(path.read_bytes(), most)  # a sidecar that unpacks without end is no sidecar
    if not unpack.eof or evidence.digest(data) != named["sha256"]:
        raise ValueError("changed or too large")
    return data


def finite(value: Any) -> float | None:
    """A number that can be drawn and compared; None for anything else."""
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and -1e300 < value < 1e300
    return value if usable else None


def _natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """q10 after q9."""
    parts = re.split(r"([0-9]+)", text)
    return tuple((1, int(p), "") if p.isascii() and p.isdigit() else (0, 0, p) for p in parts)


# --- what the run says as a whole -------------------------------------------------------------


def release(run: RunView) -> str:
    """The one line a release manager reads. Only a full, finished run in which all hold may say so."""
    gating = [c for c in run.claims if not c.known_failure]
    if not run.claims:
        return "no claims: nothing was planned, so nothing is shown"
    holding = sum(c.outcome == "holds" for c in gating)
    if gating and holding == len(gating):
        text = f"all {len(gating)} gating claims hold" if len(gating) > 1 else "the one gating claim holds"
    else:
        text = f"{_sum_up(gating)}; {holding} of {len(gating)} gating claims hold" if gating else "no claim gates"
    text += "".join(_known(run))
    prefix = "cut short: " if run.cut_short else ""
    return prefix + (f"smoke, no proof: {text}" if run.smoke else text)


def _sum_up(gating: Iterable[ClaimView]) -> str:
    counts = Counter(c.outcome for c in gating)
    parts = []
    for outcome in (*OUTCOMES[1:], *sorted(set(counts) - set(OUTCOMES))):
        if counts[outcome]:
            one, many = _SAY.get(outcome, (outcome, outcome))
            parts.append(f"{counts[outcome]} {one if counts[outcome] == 1 else many}")
    return ", ".join(parts)


def _known(run: RunView) -> Iterable[str]:
    known = [c for c in run.claims if c.known_failure]
    still = sum(c.outcome == "fails" for c in known)
    if still:
        yield f"; {still} known to fail"
    if len(known) > still:
        yield f"; {len(known) - still} known to fail did not fail this time"


def warnings_of(run: RunView) -> list[str]:
    """What a reader must know before any number."""
    said = []
    if run.smoke:
        said.append("smoke: a subset; not proof")
    if run.cut_short:
        said.append("cut short: the run did not end by itself; what is shown is what was finished")
    if not run.plan:
        said.append("no readable plan.json: what was planned is not known, so completeness is not either")
    if run.lost:
        said.append("lost: planned, but without evidence: " + _named([c.id for c in run.lost]))
    if run.unreadable:
        said.append("not readable as evidence: " + _named(run.unreadable))
    strangers = [c.id for c in run.claims if c.plan and c.plan != run.plan_digest]
    if run.plan and strangers:
        said.append("made under another plan: " + _named(strangers))
    return said


def _named(names: Sequence[str]) -> str:
    """The first few by name: a warning that fills the screen hides what it warns of."""
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
