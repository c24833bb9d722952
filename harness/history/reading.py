"""A run's folder as one record: what it said of each claim, or why it may not stand beside others.

Nothing is derived again here, and nothing is believed that a seal does not cover: a run whose seal is broken, that is not
finished, or of tier smoke is named with its reason. A number that is none (NaN, text, true) leaves its claim out, by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import HarnessError
from harness.recheck import seal_of

__all__ = ["Said", "Seen", "read"]

_STAMP = re.compile(r"(\d{8}T\d{6})Z-")  # a run's folder begins with the instant it began


@dataclass(frozen=True, slots=True)
class Said:
    """What one run said of a claim.

    ``kind`` is its estimand, ``bound`` its bound in words; ``asked`` is the digest of the claim, ``subjects`` of what it speaks about,
    ``sets`` of the golden sets that its conditions name, "" where they name none.
    """

    claim: str
    kind: str
    metric: str
    outcome: str
    reason: str
    estimate: float | None
    low: float | None
    high: float | None
    level: float | None
    n: int
    bound: str
    asked: str
    subjects: str
    sets: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A run. ``problem`` says why it may not stand beside others, "" where it may; ``notes`` which claims were left out.

    ``setting`` is the digest of golden sets, prompts and scorers; ``golden`` the digest of each set by name; ``finished`` in UTC.
    """

    run: Path
    problem: str = ""
    seal: str = ""
    finished: str = ""
    lifecycle: str = ""
    golden: Mapping[str, str] = field(default_factory=dict)
    setting: str = ""
    machine: str = ""
    commit: str = ""
    notes: tuple[str, ...] = ()
    said: tuple[Said, ...] = ()


def read(run: Path) -> Seen:
    """A run's folder; never raises."""
    try:
        seal, problems = seal_of(run)
        plan, facts = evidence.read_json(run / evidence.PLAN), evidence.read_json(run / "run.json")
        if problems:
            return Seen(run, f"its seal is broken: {problems[0]}", seal)
        if plan["tier"] == "smoke":
            return Seen(run, "tier smoke, a subset", seal)
        finished = _instant(facts["finished"])
        began = _STAMP.match(run.name)
        if began and finished < datetime.strptime(began[1] + "+0000", "%Y%m%dT%H%M%S%z"):
            return Seen(run, f"its clock went backwards: it finished at {facts['finished']}, before it began", seal)
        return _with_claims(run, seal, finished, plan)
    except (HarnessError, OSError, KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        return Seen(run, f"not a finished run ({type(error).__name__ if not str(error) else error})")


def _instant(text: Any) -> datetime:
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _with_claims(run: Path, seal: str, finished: datetime, plan: Mapping[str, Any]) -> Seen:
    said, notes = [], []
    made: Mapping[str, Any] = {}
    for path in sorted((run / "evidence").glob("*.json")):
        record = evidence.read_json(path)
        made = made or record.get("provenance") or {}
        try:
            said.append(_said(record))
        except (ValueError, KeyError, TypeError) as error:
            notes.append(f"{path.name}: {error}")
    return Seen(
        run, "", seal, finished.isoformat(timespec="seconds"), _text("lifecycle", plan["lifecycle"]),
        {name: _text(name, digest) for name, digest in plan["golden"].items()},
        _digest([plan["golden"], plan.get("prompts"), plan.get("scorers")]), _digest(made.get("machine")),
        str((made.get("code") or {}).get("commit") or ""), tuple(notes), tuple(said),
    )  # fmt: skip


def _said(record: Mapping[str, Any]) -> Said:
    claim, verdict, kept = record["claim"], record["verdict"], record["measurement"] or {}
    estimate, low, high, level = (_number(name, verdict[name]) for name in ("estimate", "low", "high", "level"))
    n = _number("n", verdict["n"])
    if n is None or n != int(n):
        raise ValueError(f"n = {verdict['n']!r} is no whole number")
    asked = {key: value for key, value in claim.items() if key not in ("text", "tags")}
    subjects = sorted((str(s["name"]), str(s["digest"])) for s in kept.get("subjects", ()))
    words = {"claim": claim["id"], "kind": claim["estimand"], "metric": kept.get("metric", "")}
    words |= {"outcome": verdict["outcome"], "reason": verdict["reason"]}
    words = {name: _text(name, word) for name, word in words.items()}
    sets = sorted({*evidence.golden_digests(kept.get("conditions"))})
    bound = claim["bound"]
    limits = f"{bound['kind']}({', '.join(f'{x:g}' for x in (bound.get('limit'), bound.get('high')) if x is not None)})"
    return Said(
        **words,
        estimate=estimate,
        low=low,
        high=high,
        level=level,
        n=int(n),
        bound=limits,
        asked=_digest(asked),
        subjects=_digest(subjects),
        sets=_digest(sets) if sets else "",
    )


def _text(name: str, word: Any) -> str:
    if not isinstance(word, str):
        raise ValueError(f"{name} = {word!r} is no text")
    word.encode()  # half a character has no place in an index
    return word


def _number(name: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"{name} = {value!r} is no finite number")
    return float(value)


def _digest(value: Any) -> str:
    return evidence.digest(evidence.canonical(value))[:16]
