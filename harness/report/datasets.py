"""The audited datasets of a run: what their claims say of each, read with care, whatever a stranger's evidence holds.

A claim of an audit names its dataset in its first parameter, ``D1.near[train]``, and keeps the summaries of the checks it
rests on in the conditions of its measurement. What is not there, or is no count, is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.view import ClaimView, RunView

__all__ = ["PROOFS", "Dataset", "Kind", "count", "datasets_of", "flagged", "kinds_of", "mapping", "mappings", "told"]

PROOFS = ("equal", "near", "13-gram", "8-gram")
"""How a leak is proven, the strongest first."""

_FAMILY = re.compile(r"D[1-9]|R5")
_ORDER = ("fails", "error", "lost", "inconclusive", "not_evaluated", "holds")


def mapping(value: Any) -> Mapping[str, Any]:
    """The mapping, or an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The mappings of a list; none of anything else."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def count(value: Any) -> int | None:
    """A count that can be shown; None for anything else."""
    usable = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15
    return value if usable else None


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset and the claims about it, in their order."""

    name: str
    claims: tuple[ClaimView, ...]

    def named(self, family: str, name: str) -> list[ClaimView]:
        """The claims ``family.name``, what does not hold first."""
        found = [c for c in self.claims if (c.family, c.name) == (family, name)]
        return sorted(found, key=lambda c: _ORDER.index(c.outcome) if c.outcome in _ORDER else 0)

    def summary(self, check: str) -> Mapping[str, Any]:
        """What a check said of the dataset, by the first claim that tells it; empty where none does."""
        return next((found for c in self.claims if (found := mapping(told(c).get(check)))), {})

    @property
    def rows(self) -> int | None:
        """Physical rows."""
        return next((n for c in self.claims if (n := count(told(c).get("rows"))) is not None), None)

    @property
    def distinct(self) -> int | None:
        """Rows of which no two are the same bytes."""
        found = (count(self.summary(check).get("distinct_rows")) for check in ("read", "lengths"))
        return next((n for n in found if n is not None), None)

    @property
    def size(self) -> int | None:
        """Bytes of all rows."""
        return count(self.summary("read").get("bytes"))


def told(claim: ClaimView) -> Mapping[str, Any]:
    """The conditions that a claim was measured under."""
    return mapping(mapping(claim.measurement).get("conditions"))


def datasets_of(run: RunView) -> list[Dataset]:
    """The datasets that claims of an audit speak about, those that fail one first; none where only bytes were compared."""
    groups: dict[str, list[ClaimView]] = {}
    for claim in run.claims:
        name = claim.params[0] if claim.params else _subject(claim)
        if _FAMILY.fullmatch(claim.family) and name:
            groups.setdefault(name, []).append(claim)
    found = [Dataset(name, tuple(claims)) for name, claims in groups.items() if any(c.family != "R5" for c in claims)]
    return sorted(found, key=lambda d: all(c.outcome not in ("fails", "error", "lost") for c in d.claims))


def _subject(claim: ClaimView) -> str:
    """Of a claim about no dataset of the run: what it was measured on."""
    first = next(iter(mappings(mapping(claim.measurement).get("subjects"))), {})
    return str(first.get("name") or "")


def flagged(claim: ClaimView) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """(where it stands, its findings) of each row that a finding names."""
    rows = ((s.item, mappings(mapping(s.detail).get("findings"))) for s in claim.samples)
    return [(item, findings) for item, findings in rows if findings]


# --- findings by kind -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kind:
    """How often a kind of finding was made; ``action`` is "block", "remark" or "" where the evidence does not say."""

    name: str  # check.kind
    n: int
    action: str


# Where the summary of a check counts a kind: check -> kind -> keys.
_COUNTED: Mapping[str, Mapping[str, Sequence[str]]] = {
    "duplicates": {"exact": ("exact", "rows"), "canonical": ("canonical", "not_exact")},
    "near": {"near": ("findings",)},
    "conflicts": {kind: (kind, "rows") for kind in ("conflict", "conflict_form", "label")},
    "splits": {kind: (kind, "rows") for kind in ("group_in_two_splits", "row_in_two_splits")},
    "lengths": {"outlier": ("outliers", "rows")}
    | {kind: ("tokens", kind) for kind in ("over_context", "answer_truncated", "template_refuses")},
    "preferences": {kind: (kind,) for kind in ("equal", "equal_canonical", "empty_chosen", "empty_rejected", "other_prompt")}
    | {"flipped": ("flipped", "num")},
    "outliers": {kind: (kind, "texts") for kind in ("long_run", "long_word", "repetition", "non_text")},
}
# Where it lists kinds with their counts: check -> (key, what stands before the kind).
_LISTED: Mapping[str, Sequence[tuple[str, str]]] = {
    "schema": (("kinds", ""),), "characters": (("kinds", ""),), "sensitive": (("categories", ""),), "language": (("findings", ""),),
    "private": (("confirmed", ""), ("possible", "possible ")),
}  # fmt: skip
_ACTIONS = {"violation": "block", "remark": "remark", "allowed": "remark", "block": "block"}


def kinds_of(dataset: Dataset) -> list[Kind]:
    """Every kind of finding that was made: as the claims list them, each those it rests on, else out of the summaries of the checks."""
    said = [mapping(told(c).get("findings")) for c in dataset.claims]
    listed = {name: entry for findings in said for name, entry in _entries("", findings, "")}
    found = listed or {name: entry for check in sorted({*_COUNTED, *_LISTED}) for name, entry in _of_check(check, dataset.summary(check))}
    blocking = {f"{f.get('check')}.{f.get('kind')}" for c in dataset.claims for _, findings in flagged(c) for f in findings}
    return [Kind(name, n, action or ("block" if name in blocking else "")) for name, (n, action) in sorted(found.items()) if n]


_Entry = tuple[str, tuple[int, str]]


def _of_check(check: str, summary: Mapping[str, Any]) -> Iterable[_Entry]:
    for kind, keys in _COUNTED.get(check, {}).items():
        value: Any = summary
        for key in keys:
            value = mapping(value).get(key)
        yield f"{check}.{kind}", (count(value) or 0, "")
    for key, before in _LISTED.get(check, ()):
        yield from _entries(f"{check}.{before}", mapping(summary.get(key)), "remark" if before else "")


def _entries(prefix: str, listed: Mapping[str, Any], usual: str) -> Iterable[_Entry]:
    """Of {kind: count} or {kind: {"findings": count, "severity" or "action": what}}."""
    for kind, entry in listed.items():
        inner = mapping(entry)
        action = _ACTIONS.get(str(inner.get("action", inner.get("severity"))), usual)
        yield f"{prefix}{kind}", (count(inner.get("findings") if inner else entry) or 0, action)
