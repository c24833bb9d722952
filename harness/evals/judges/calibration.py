"""How far a judge agrees with people: the record on which everything rests that the judge scores.

TPR and TNR by Clopper and Pearson, Cohen's kappa with the limits that decide, and beside them what a judge would score
that always gives the commonest label. The record is bound to the digest of the judge and sealed: it is void when
anything changed. Rules: section 3.13 of the statistics reference.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from harness.errors import EvidenceError
from harness.store import digest_json
from harness.types import Sample

__all__ = ["ALPHA", "FLOORS", "Calibration", "Rate", "ac1", "calibrate", "read", "split", "to_dict", "write"]

ALPHA = 0.05
# What a judge must show before a score of its may stand alone: each by its lower limit.
FLOORS: Mapping[str, float] = {"tpr": 0.80, "tnr": 0.80, "kappa": 0.60}


class Rate(NamedTuple):
    """``k`` of ``n``, and the lower limit of the share at ALPHA; None where there is nothing to share."""

    k: int
    n: int
    low: float | None


@dataclass(frozen=True, slots=True)
class Calibration:
    """A judge beside people on ``labels``. ``table`` counts by its label, then by theirs: [[yes yes, yes no], [no yes, no no]].

    ``kappa`` and ``kappa_low`` are None where a rater uses one label only. ``unread`` answers got no label of the judge:
    TPR and TNR count them as wrong, kappa leaves them out. ``shown`` were left out, because the judge's own examples show them.
    ``fit`` says whether each limit is above its floor, ``why`` which are not.
    """

    judge: str
    digest: str
    task: str
    labels: str
    table: tuple[tuple[int, int], tuple[int, int]]
    unread: int
    shown: int
    tpr: Rate
    tnr: Rate
    kappa: float | None
    kappa_low: float | None
    ac1: float | None
    base_rate: float
    constant: float
    fit: bool
    why: str

    def valid_for(self, digest: str) -> bool:
        """Whether this is the record of the judge as it is now."""
        return self.digest == digest


def split(answers: Sequence[Any], shown: Sequence[str], text: Callable[[Any], str]) -> tuple[list[Any], int]:
    """The answers that decide, and how many do not: those whose text an example of the judge shows."""
    seen = {" ".join(example.split()) for example in shown}
    kept = [answer for answer in answers if " ".join(text(answer).split()) not in seen]
    return kept, len(answers) - len(kept)


def calibrate(
    judge: str, digest: str, task: str, labels: str, said: Sequence[Sample], people: Mapping[str, float], shown: int = 0
) -> Calibration:
    """The record of ``judge`` (its digest, its task) on the golden set ``labels`` (its digest).

    ``said`` are the judge's labels, ``people`` those of people by item: 1 or 0. Raises EvidenceError if the items differ.
    """
    from harness.stats import agreement

    if sorted(s.item for s in said) != sorted(people):
        raise EvidenceError(f"judge {judge}: {len(said)} labels of the judge and {len(people)} of people, expected the same items")
    pairs = [(s.value, people[s.item]) for s in said]
    both = [(ours, theirs) for ours, theirs in pairs if ours is not None]
    table = tuple(tuple(sum(1 for ours, theirs in both if (ours, theirs) == (i, j)) for j in (1.0, 0.0)) for i in (1.0, 0.0))
    truths = [theirs for _, theirs in pairs]
    tpr, tnr = (_rate(sum(ours == theirs for ours, theirs in pairs if theirs == label), truths.count(label)) for label in (1.0, 0.0))
    try:
        found = agreement.cohen_kappa(table, ALPHA)
    except ValueError:  # a rater uses one label only, or all labels are swapped: no kappa with limits
        found = None
    kappa, low = (found.estimate, found.low) if found else (None, None)
    limits = {"tpr": tpr.low, "tnr": tnr.low, "kappa": low}
    short = [f"{name} {_shown(limits[name])}, floor {floor:g}" for name, floor in FLOORS.items() if not _above(limits[name], floor)]
    return Calibration(
        judge, digest, task, labels, ((table[0][0], table[0][1]), (table[1][0], table[1][1])), len(pairs) - len(both), shown,
        tpr, tnr, kappa, low, ac1(table), sum(truths) / len(truths) if truths else 0.0,
        agreement.constant_judge(truths) if truths else 0.0, not short, "; ".join(short),
    )  # fmt: skip


def _rate(k: int, n: int) -> Rate:
    from harness.stats.intervals import clopper_pearson

    return Rate(k, n, clopper_pearson(k, n, ALPHA).low if n else None)


def _above(limit: float | None, floor: float) -> bool:
    return limit is not None and limit >= floor


def _shown(limit: float | None) -> str:
    return "is not defined" if limit is None else f"is shown to be above {limit:.3f} only"


def ac1(table: Sequence[Sequence[int]]) -> float | None:
    """Gwet's AC1 of a 2 x 2 table, a note beside kappa: chance is 2 q (1 - q), q the mean share of one label.

    Reference: Gwet (2008), Computing inter-rater reliability and its variance in the presence of high agreement.
    """
    n = sum(map(sum, table))
    if not n:
        return None
    q = (2 * table[0][0] + table[0][1] + table[1][0]) / (2 * n)
    chance, agreed = 2 * q * (1 - q), (table[0][0] + table[1][1]) / n
    return (agreed - chance) / (1 - chance)


# --- judge.lock -----------------------------------------------------------------------------------


def to_dict(record: Calibration) -> dict[str, Any]:
    """The record as plain JSON."""
    found: dict[str, Any] = json.loads(json.dumps(asdict(record)))
    return found


def write(record: Calibration) -> str:
    """The record as the text of a ``judge.lock``: JSON with a seal over it."""
    body = to_dict(record)
    return json.dumps({**body, "seal": digest_json(body)}, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def read(text: str, where: str = "judge.lock") -> Calibration:
    """The record out of such a text. EvidenceError if it is none, or was changed after it was sealed."""
    try:
        body = json.loads(text)
        seal = body.pop("seal")
        record = Calibration(**{**body, "tpr": Rate(*body["tpr"]), "tnr": Rate(*body["tnr"]), "table": tuple(map(tuple, body["table"]))})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise EvidenceError(f"{where}: no calibration record ({error}); calibrate the judge again") from error
    if digest_json(body) != seal:
        raise EvidenceError(f"{where}: the record of judge {record.judge} was changed after it was sealed; calibrate the judge again")
    return record
