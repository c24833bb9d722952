"""The builds of a run side by side: what each is, what it is compared with, and the items that flipped.

Which claim fills which column follows from its name, ``accuracy`` of ``Q1.accuracy[set,build]``;
the last parameter is the build. A claim with another name is shown with the claims only. Builds that
are compared with the same reference form a group; across groups nothing is booked as a loss.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report.view import ClaimView, RunView, finite
from harness.stats.intervals import clopper_pearson
from harness.types import Sample

__all__ = [
    "PER_BUILD",
    "Arm",
    "Broken",
    "Build",
    "Flip",
    "arms",
    "broken",
    "builds_of",
    "flips",
    "groups_of",
    "reference_of",
    "sets_of",
]

PER_SET = {"accuracy": "difference", "flips": "flips"}
PER_BUILD = {
    "kld": "KLD mean", "tail": "KLD tail", "top1": "top-1 changed", "perplexity": "perplexity ratio",
    "speed": "tokens/s ratio", "memory": "peak-memory ratio",
}  # fmt: skip
_INVENTORY = ("bits", "types", "kernel")
_CALIBRATION = "Q8"  # the family of claims about calibration data

_DESCRIPTIVE_ALPHA = 0.025  # each side: the interval beside a raw accuracy describes at 95%, it decides nothing


@dataclass(frozen=True, slots=True)
class Build:
    """One build and the claims about it, by (name, set); the set is "" where there is none."""

    name: str
    claims: Mapping[tuple[str, str], ClaimView]

    def claim(self, name: str, set_name: str = "") -> ClaimView | None:
        """The claim of that name about this build."""
        return self.claims.get((name, set_name))

    @property
    def bits(self) -> float | None:
        """Bits per weight."""
        found = self.claim("bits")
        return found.estimate if found else None

    @property
    def inventory(self) -> Mapping[str, Any]:
        """What the inventory found: format, method, group size, tensors by type; empty where there is none."""
        found = self.claim("bits")
        return found.samples[0].detail if found and found.samples else {}

    @property
    def size_bytes(self) -> int | None:
        """Size of the weights on disk, as the inventory measured it."""
        size = finite(self.inventory.get("size_bytes"))
        return int(size) if size and size > 0 else None

    @property
    def format(self) -> str:
        """The format in words, "" where it is not known."""
        return str(self.inventory.get("format") or self.inventory.get("file_type") or "")

    @property
    def symmetric(self) -> bool | None:
        """Whether the grid is symmetric: as declared, or as the format says."""
        declared, words = self.inventory.get("symmetric"), self.format.split()
        if isinstance(declared, bool):
            return declared
        return True if "sym" in words else False if "asym" in words else None

    @property
    def kernel(self) -> str:
        """The kernel that the engine ran most modules with, "" where it is not known."""
        claim = self.claim("kernel")
        found = Counter(str(s.detail["found"]) for s in claim.samples if "found" in s.detail) if claim else Counter()
        return min(found, key=lambda name: (-found[name], name)) if found else ""

    @property
    def calibration(self) -> Sequence[ClaimView]:
        """The claims about its calibration data."""
        return [c for _, c in sorted(self.claims.items()) if c.family == _CALIBRATION]

    @property
    def compared(self) -> Sequence[ClaimView]:
        """The claims that compare it with a reference, item by item first."""
        names = (*PER_SET, *PER_BUILD)
        kept = [c for (name, _), c in sorted(self.claims.items()) if name in names and len(c.measurement.get("subjects") or ()) > 1]
        return sorted(kept, key=lambda c: names.index(c.name))

    @property
    def reference(self) -> str:
        """What it is compared with: the second subject of its measurements, "" where none names one."""
        return reference_of(self.compared[0]) if self.compared else ""

    @property
    def engine(self) -> str:
        """The engine that it answered in, "" where the conditions do not say."""
        for claim in self.compared:
            arm = claim.measurement.get("conditions", {}).get("new")
            found = arm.get("engine") if isinstance(arm, Mapping) else None
            if found:
                return str(found.get("engine", "") if isinstance(found, Mapping) else found)
        return ""


def builds_of(run: RunView) -> list[Build]:
    """The builds, group by group, the largest first; by name where sizes are not known."""
    table: dict[str, dict[tuple[str, str], ClaimView]] = {}
    for claim in run.claims:
        known = claim.name in PER_SET or claim.name in PER_BUILD or claim.name in _INVENTORY
        if known and claim.params and not claim.served:
            table.setdefault(claim.params[-1], {})[claim.name, ",".join(claim.params[:-1])] = claim
    for claim in run.claims:  # names no build of its own
        if claim.family == _CALIBRATION and claim.params and claim.params[-1] in table:
            table[claim.params[-1]][claim.name, ",".join(claim.params[:-1])] = claim
    builds = [Build(name, claims) for name, claims in table.items()]
    return sorted(builds, key=lambda b: (b.reference == "", b.reference, -(b.bits or 0.0), b.name))


def groups_of(builds: Iterable[Build]) -> list[tuple[str, list[Build]]]:
    """The builds by what they are compared with; "" where that is not known."""
    groups: dict[str, list[Build]] = {}
    for build in builds:
        groups.setdefault(build.reference, []).append(build)
    return list(groups.items())


def sets_of(builds: Iterable[Build]) -> list[str]:
    """The golden sets that builds were compared on."""
    return sorted({set_name for b in builds for name, set_name in b.claims if name in PER_SET and set_name})


def reference_of(claim: ClaimView) -> str:
    """The name of what the build is compared with: the second subject."""
    subjects: Sequence[Mapping[str, Any]] = claim.measurement.get("subjects") or ()
    return "reference" if len(subjects) < 2 else str(subjects[1].get("name") or "reference")


# --- accuracy of either arm -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Arm:
    """``k`` of ``n`` items right, with exact 95% limits."""

    k: int
    n: int
    low: float
    high: float


def arms(claim: ClaimView | None) -> tuple[Arm, Arm] | None:
    """New and old, out of the counts that the verdict rests on; None where it rests on none."""
    counts = claim.verdict.get("statistics") or {} if claim else {}
    named = [x for key in ("b", "c", "both_right", "n") if isinstance(x := counts.get(key), int)]
    if len(named) < 4:
        return None
    b, c, both, n = named
    return (_arm(both + b, n), _arm(both + c, n)) if n > 0 and 0 <= both + min(b, c) <= both + max(b, c) <= n else None


def _arm(k: int, n: int) -> Arm:
    return Arm(k, n, *clopper_pearson(k, n, _DESCRIPTIVE_ALPHA))


# --- flips ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flip:
    """An item that one arm has right and the other wrong."""

    item: str
    input: str
    target: str
    old: str
    new: str
    status: str
    badness: float


def flips(claim: ClaimView) -> tuple[list[Flip], int]:
    """Items right in the reference and wrong in the build, the worst first; and how many went the other way."""
    old = {s.item: s for s in claim.samples if s.arm == "old"}
    pairs = [(s, old[s.item]) for s in claim.samples if s.arm == "new" and s.item in old]
    lost = [_flip(new, before) for new, before in pairs if before.value == 1 and new.value != 1]
    gained = sum(new.value == 1 and before.value != 1 for new, before in pairs)
    return sorted(lost, key=lambda f: (-f.badness, f.item)), gained


@dataclass(frozen=True, slots=True)
class Broken:
    """An item that some of the builds broke, one flip or None per claim."""

    flips: tuple[Flip | None, ...]

    @property
    def first(self) -> Flip:
        """The flip of the first build that broke it."""
        return next(f for f in self.flips if f)


def broken(lost: Sequence[Sequence[Flip]]) -> list[Broken]:
    """The flips of several claims side by side: what most builds broke first, then the worst."""
    by_item = [{f.item: f for f in each} for each in lost]
    items = {item for each in by_item for item in each}
    rows = [Broken(tuple(each.get(item) for each in by_item)) for item in items]
    return sorted(rows, key=lambda r: (r.flips.count(None), -max(f.badness for f in r.flips if f), r.first.item))


def _flip(new: Sample, old: Sample) -> Flip:
    return Flip(
        new.item, str(new.detail.get("input", "")), _target(new.detail), answer_of(old), answer_of(new), new.status, _badness(new, old)
    )


def answer_of(sample: Sample) -> str:
    """What was answered, in words."""
    detail = sample.detail
    if isinstance(detail.get("text"), str):
        return str(detail["text"])
    if "pick" in detail:
        return f"choice {detail['pick']}"
    return str(detail.get("error") or ("nothing" if sample.value is None else f"value {sample.value:g}"))


def _target(detail: Mapping[str, Any]) -> str:
    if "target" in detail:
        return str(detail["target"])
    return f"choice {detail['answer']}" if "answer" in detail else ""


def _badness(new: Sample, old: Sample) -> float:
    """No answer at all is worse than a wrong one; then what is further off."""
    rank = {"error": 3.0, "truncated": 2.0, "parse_failure": 1.0}.get(new.status, 0.0)
    return rank + min(0.999, _distance(new.detail, old.detail))


def _distance(new: Mapping[str, Any], old: Mapping[str, Any]) -> float:
    """From 0 to 1: how far the wrong choice is ahead of the right one, or the share of the text that differs."""
    gap = _gap(new)
    if gap is not None:
        return gap / (1 + gap) if gap > 0 else 0.0
    a, b = str(new.get("text", "")), str(old.get("text", ""))
    longest = max(len(a), len(b), 1)
    return 1 - (_common(a, b) + _common(a[::-1], b[::-1])) / (2 * longest)


def _gap(detail: Mapping[str, Any]) -> float | None:
    """How far the choice that was picked is ahead of the right one; None where there are no choices."""
    try:
        scores = detail["per_byte"]
        gap = float(scores[detail["pick"]] - scores[detail["answer"]])
    except (KeyError, IndexError, TypeError):
        return None
    return gap if math.isfinite(gap) else None


def _common(a: str, b: str) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
