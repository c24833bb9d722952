"""Two subjects on one set, paired: the measurement that most claims of this suite rest on, and what is planted in it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from harness import Control, Measurement, Sample, evals
from harness.evals import health, noise
from suites import arms, controls

Answers = Any  # harness.lifecycle.Answers


def paired(metric: str, new: Answers, old: Answers, samples: Callable[[Iterable[Sample]], Sequence[Sample]] = tuple) -> Measurement:
    """``new`` paired with ``old``, of which a control may hold a part; health is told before any score is judged."""
    plain = arms.paired(metric, new, old)
    rows = {arm: [s for s in plain.samples if s.arm == arm] for arm in ("new", "old")}
    notes = tuple(health.sentence(f"{arm} ({one.subject.name})", rows[arm]) for arm, one in (("new", new), ("old", old)))
    return replace(plain, samples=evals.pair(samples(rows["new"]), samples(rows["old"])), notes=notes)


def with_floor(measurement: Measurement, again: Answers, first: Answers) -> Measurement:
    """The measurement with the noise of one of its subjects, answered again, printed beside it."""
    floor = {"psi_aa": round(noise.discordance(again.samples, first.samples), 6), "n": len(again.samples), "subject": first.subject.name}
    return replace(measurement, conditions={**measurement.conditions, "noise": floor})


def marked(samples: Sequence[Sample], bench: Any, set_name: str) -> tuple[Sample, ...]:
    """An item that is asked word for word in the training rows says so, whatever its score: the judge then decides without it too."""
    trained = {_plain(turn["content"]) for turn in bench.worked_examples(sys.maxsize) if turn["role"] == "user"}
    golden = bench.golden(set_name)
    seen = {item["id"] for item in golden.items if _plain(evals.question(golden, item)) in trained}
    return tuple(replace(s, detail={**s.detail, "contaminated": True}) if s.item in seen else s for s in samples)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def of_items(measurement: Measurement, wanted: Callable[[str], bool]) -> Measurement:
    """The measurement of some of its items."""
    return replace(measurement, samples=tuple(s for s in measurement.samples if wanted(s.item)))


def apart(measurement: Measurement, gain: float, seed: str) -> Measurement:
    """The same items with scores of a known gain: the old arm is right on some, the new one on these and ``gain`` more."""
    share = {"new": 0.5 + gain / 2, "old": 0.5 - gain / 2}
    hit = {arm: controls.chosen(measurement.samples, share[arm], seed) for arm in share}
    rows = tuple(replace(s, value=float(s.item in hit[s.arm]), status="ok") for s in measurement.samples)
    return replace(measurement, samples=rows)


def swapped(measurement: Measurement) -> Measurement:
    """The same rows, each under the other arm's name."""
    other = {"new": "old", "old": "new"}
    return replace(measurement, samples=tuple(replace(s, arm=other[s.arm]) for s in measurement.samples))


def refused(measurement: Measurement) -> list[Control]:
    """What is done to rows to make an arm look better: none of it may be judged at all."""
    rows = measurement.samples
    new = [s for s in rows if s.arm == "new"]
    right = [s for s in new if s.value == 1] or new[:1]
    wrong = {s.item for s in new if s.value != 1} or {new[0].item}
    twins = [replace(s, replicate=1) for s in right]
    return [
        Control("planted: each right answer of the new arm twice", ("inconclusive",), replace(measurement, samples=(*rows, *right))),
        Control("planted: the same, passed off as replicates", ("inconclusive",), replace(measurement, samples=(*rows, *twins))),
        Control(
            "planted: wrong answers of the new arm dropped", ("inconclusive",),
            replace(measurement, samples=tuple(s for s in rows if s.arm == "old" or s.item not in wrong)),
        ),
    ]  # fmt: skip


def with_kind(measurement: Measurement, share: float, seed: str) -> Measurement:
    """Of the new arm ``share`` more of the answers counted as of the kind that is measured."""
    hit = controls.chosen([s for s in measurement.samples if s.arm == "new"], share, seed)
    rows = tuple(replace(s, value=1.0) if s.arm == "new" and s.item in hit else s for s in measurement.samples)
    return replace(measurement, samples=rows)
