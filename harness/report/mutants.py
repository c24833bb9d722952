"""Every control of a run: faults that were planted and had to be caught, and the same beside the same, which had to hold.

A gate that nothing ever broke proves nothing: here stands what was broken on purpose, and what each gate said of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from harness.report.datasets import mappings
from harness.report.markup import Html, claim_id, link, said, scroll, table
from harness.report.text import DASH, SYMBOLS, number, span
from harness.report.view import ClaimView, RunView

__all__ = ["Mutant", "mutants", "mutants_of", "suite_of", "totals"]

_NAME = re.compile(r"planted(?: in the (?P<where>[^:]{1,40}))?: (?P<what>.*)", re.DOTALL)
_ROWS = 2_000


@dataclass(frozen=True, slots=True)
class Mutant:
    """One control: the claim whose gate it went through, and the record of it."""

    claim: ClaimView
    control: Mapping[str, Any]

    @property
    def name(self) -> str:
        """As the claim calls it."""
        return str(self.control.get("name", ""))

    @property
    def planted(self) -> bool:
        """Whether something was changed; else it is the same beside the same."""
        same = self.name.startswith("A/A") or (
            tuple(self.control.get("expect") or ()) == ("holds",) and not self.name.startswith("planted")
        )
        return not same

    @property
    def met(self) -> bool:
        """Whether it came out as it must: a fault was caught, the same beside the same was let through."""
        return self.control.get("met") is True

    @property
    def suite(self) -> str:
        """The folder under suites/ that the claim lies in, or its family."""
        return suite_of(self.claim)

    @property
    def what(self) -> tuple[str, str]:
        """(where it was planted, what)."""
        found = _NAME.fullmatch(self.name)
        return (found["where"] or "", found["what"]) if found else ("", self.name)


def suite_of(claim: ClaimView) -> str:
    """The folder under suites/ that a claim lies in, or its family."""
    found = re.match(r"(?:.*/)?suites/([^/:]+)/", str(claim.notes.get("test") or ""))
    return found.group(1) if found else claim.family or "other"


def mutants_of(run: RunView) -> list[Mutant]:
    """Every control of the run, in the order of its claims."""
    return [Mutant(c, control) for c in run.claims for control in mappings(list(c.controls))]


def totals(found: Iterable[Mutant]) -> dict[str, tuple[int, int, int, int]]:
    """By suite: (planted, caught, A/A asked, A/A as they must)."""
    counts: dict[str, list[int]] = {}
    for m in found:
        of = counts.setdefault(m.suite, [0, 0, 0, 0])
        of[0 if m.planted else 2] += 1
        of[1 if m.planted else 3] += m.met
    return {suite: (of[0], of[1], of[2], of[3]) for suite, of in sorted(counts.items())}


def mutants(run: RunView) -> Html:
    """Totals by suite, what came out otherwise, then folded every planted fault and every A/A; and the claims without a control."""
    judged, found = [c for c in run.claims if c.measurement], mutants_of(run)
    if not judged:
        return Html("")
    bare = [c for c in judged if not c.controls]
    without = f'<p class="muted small">Without a control: {", ".join(link(c, claim_id(c)) for c in bare)}.</p>' if bare else ""
    if not found:
        return Html(f"<p>0 of 0 controls came out as they must.</p>{without}")
    planted, same = [m for m in found if m.planted], [m for m in found if not m.planted]
    head = f"<p>{sum(m.met for m in found)} of {len(found)} controls came out as they must.</p>"
    parts = [_totals(found), _folded("Planted: every one", planted), _folded("A/A: every one", same)]
    return Html(head + "".join(parts) + without)


def _totals(found: Sequence[Mutant]) -> str:
    rows = [_total(suite, of) for suite, of in totals(found).items()]
    if len(rows) > 1:
        every = [sum(column) for column in zip(*totals(found).values(), strict=True)]
        rows.append(_total("all", (every[0], every[1], every[2], every[3])))
    note = (
        '<p class="small muted">Planted: a change of known size, or a fault, that the gate must see; caught: it came out as it must. A/A: '
        "the same beside the same, which must not be called a change.</p>"
    )
    head = ("suite", "planted", "caught", "missed", "A/A asked", "A/A as they must")
    return note + table("Controls by suite", head, rows, ("", *["num"] * 5))


def _total(suite: str, of: tuple[int, int, int, int]) -> list[Html]:
    missed = of[0] - of[1]
    shown = Html(f'<span class="unmet">✗ {missed}</span>' if missed else '<span class="met">✓ 0</span>')
    held = Html(number(of[3]) if of[2] == of[3] else f'<span class="unmet">✗ {of[3]}</span>')
    return [said(suite, 60), Html(number(of[0])), Html(number(of[1])), shown, Html(number(of[2])), held]


def _folded(name: str, rows: Sequence[Mutant]) -> str:
    if not rows:
        return ""
    met, ordered = sum(m.met for m in rows), sorted(rows, key=lambda m: m.met)
    summary = f'{escape(name)} <span class="muted">({met} of {len(rows)} as they must)</span>'
    more = f'<p class="small muted">{_ROWS} of {len(rows)}.</p>' if len(rows) > _ROWS else ""
    missed = ordered[: len(rows) - met][:_ROWS]
    first = _table(f"{name}, what came out otherwise", missed) if missed else ""
    return f"{first}<details><summary>{summary}</summary>{_table(name, ordered[:_ROWS])}{more}</details>"


_HEAD = ("claim", "control", "expected", "got", "caught", "estimate", "n")


def _table(name: str, rows: Sequence[Mutant]) -> Html:
    """Suite by suite, what came out otherwise than it must first."""
    groups: dict[str, list[Mutant]] = {}
    for m in rows:
        groups.setdefault(m.suite, []).append(m)
    head = "".join(f'<th scope="col">{cell}</th>' for cell in _HEAD)
    body = "".join(
        f'<tbody><tr><th scope="rowgroup" colspan="{len(_HEAD)}">{said(suite, 60)}</th></tr>{"".join(map(_row, of))}</tbody>'
        for suite, of in sorted(groups.items())
    )
    return scroll(f"<table><thead><tr>{head}</tr></thead>{body}</table>", name)


def _row(m: Mutant) -> str:
    where, what = m.what
    expect, got = m.control.get("expect"), str(m.control.get("outcome", ""))
    wanted = " or ".join(str(e).replace("_", " ") for e in expect) if isinstance(expect, (list, tuple)) else DASH
    yes, no = ("caught", "missed") if m.planted else ("as it must", "not as it must")
    met = f'<span class="met">✓ {yes}</span>' if m.met else f'<span class="unmet">✗ {no}</span>'
    limits = span(_float(m.control.get("low")), _float(m.control.get("high")))
    control = said(what, 200) + (f'<span class="sub">planted in the {said(where, 40)}</span>' if where else "")
    cells = (
        ("", control), ("", said(wanted, 100)), ("num", said(f"{SYMBOLS.get(got, '·')} {got.replace('_', ' ')}", 60)), ("num", met),
        ("num", f'{escape(number(m.control.get("estimate")))}<span class="sub">{limits}</span>'),
        ("num", escape(number(m.control.get("n")))),
    )  # fmt: skip
    shown = "".join(f'<td class="{kind}">{cell}</td>' if kind else f"<td>{cell}</td>" for kind, cell in cells)
    return f'<tr><th scope="row">{link(m.claim, claim_id(m.claim))}</th>{shown}</tr>'


def _float(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None
