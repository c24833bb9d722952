"""Risk notes: every claim that does not hold, the gravest first, with what somebody said it means.

The words are those of the lifecycle file (``risk = "..."`` under ``[claims."ID"]``), sealed with the plan before anything was measured.
Where nobody wrote any, the page says so: a failure that nobody has thought about is the graver one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.report.markup import Html, badge, claim_id, link, said, table
from harness.report.text import span
from harness.report.view import ClaimView, RunView

__all__ = ["UNSAID", "Risk", "gravest", "risks", "risks_of"]

UNSAID = "nobody has said what this means"
_GRAVEST = ("error", "lost", "fails", "inconclusive", "not_evaluated")


@dataclass(frozen=True, slots=True)
class Risk:
    """A claim that does not hold; ``builds`` are those whose release it keeps back, ``words`` what it means ("": nobody said)."""

    claim: ClaimView
    builds: tuple[str, ...]
    words: str

    @property
    def said(self) -> str:
        """What it means, or that nobody has said so."""
        return self.words or UNSAID

    @property
    def known(self) -> bool:
        """Whether the lifecycle file said beforehand that it fails."""
        return self.claim.known_failure


def risks_of(run: RunView) -> list[Risk]:
    """The gravest first: broken or lost, failing unforeseen, failing as foreseen, not decided, not measured."""
    held = _kept_back(run)
    found = [Risk(c, held.get(c.id, ()), _words(run, c)) for c in run.claims if c.outcome != "holds"]
    return sorted(found, key=lambda r: (_rank(r), -len(r.builds), bool(r.words)))


def gravest(found: Sequence[Risk], most: int) -> list[Risk]:
    """The first few, one of each family: three of one kind would hide the others."""
    first = {r.claim.family: r for r in reversed(found)}
    return sorted(first.values(), key=found.index)[:most]


def _rank(risk: Risk) -> tuple[int, bool]:
    outcome = risk.claim.outcome
    return (_GRAVEST.index(outcome) if outcome in _GRAVEST else 0, risk.known and outcome == "fails")


def _kept_back(run: RunView) -> dict[str, tuple[str, ...]]:
    """By claim: the builds in whose gating families it stands and does not hold."""
    found: dict[str, list[str]] = {}
    for build, verdict in run.releases.items():
        told = verdict.get("families")
        for family in told if isinstance(told, list) else ():
            if isinstance(family, Mapping) and family.get("rule") == "all" and isinstance(family.get("claims"), Mapping):
                for name in family["claims"]:
                    found.setdefault(str(name), []).append(str(build))
    return {name: tuple(builds) for name, builds in found.items()}


def _words(run: RunView, claim: ClaimView) -> str:
    """As the evidence has it; of a claim that left none, as the plan has it; else why it is known to fail."""
    planned = next((e for e in run.plan.get("claims") or () if isinstance(e, dict) and (e.get("claim") or {}).get("id") == claim.id), {})
    return str(claim.notes.get("risk") or planned.get("risk") or claim.notes.get("why") or "")


# --- on the page ------------------------------------------------------------------------------


def risks(run: RunView) -> Html:
    """A row for each."""
    found = risks_of(run)
    if not run.claims:
        return Html("")
    if not found:
        return Html("<p>Every claim holds: none is left to warn of. What was not claimed, nobody has looked at.</p>")
    silent = sum(not r.words for r in found)
    head = f"<p>{len(found)} claims do not hold; of {len(found) - silent} somebody said what it means, of {silent} nobody did.</p>"
    rows = [_row(r) for r in found]
    return Html(head + table("Risk notes", ("claim", "outcome", "what it means", "keeps back"), rows, ("claim", "", "", "small")))


def _row(risk: Risk) -> list[Html]:
    c = risk.claim
    name = Html(f'{link(c, claim_id(c))}<span class="muted">{said(c.text, 300)}</span>')
    shown = Html(f'{badge(c.outcome, "known" if risk.known else "")}<span class="sub">{span(c.low, c.high)}</span>')
    words = said(risk.words, 600) if risk.words else Html(f'<span class="unmet">{UNSAID}</span>')
    return [name, shown, words, said(", ".join(risk.builds), 300) if risk.builds else Html("")]
