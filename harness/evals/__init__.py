"""Scoring answers against golden sets, pairing arms, and planting known losses.

Scorers (``harness.evals.scorers``) are pure: an answer and an item in, a Sample out. A unit that
could not be scored (error, truncation, no parse) becomes a Sample with that status and no value;
``harness.judge`` counts it as wrong in its arm. Nothing is dropped.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.engines.common import answered
from harness.errors import GoldenError
from harness.evals import scorers
from harness.evals.scorers.choice import by_logprob, lettered
from harness.evals.scorers.structured import answer_text
from harness.golden import GoldenSet
from harness.store import digest_json
from harness.types import Engine, Generation, Measurement, Prompt, Sample, Sampling, Scored, TokenLogprobs

__all__ = [
    "SAMPLING",
    "answer_text",
    "choices",
    "digest_of_changed",
    "documents",
    "exact_match",
    "letters",
    "multiple_choice",
    "pair",
    "plant_loss",
    "prompts",
    "question",
    "sampling",
    "score_answers",
    "score_choices",
    "scored",
    "task_digest",
]

SAMPLING = Sampling(max_tokens=96)
_ROOM = {"answers": 256, "code": 512}  # tokens, where an answer takes more than a line of JSON
_GENERATED = ("json_extraction", "answers", "code")


def sampling(golden: GoldenSet) -> Sampling:
    """How answers to a set are sampled: greedily, with room for what its kind asks for."""
    return replace(SAMPLING, max_tokens=_ROOM.get(golden.kind, SAMPLING.max_tokens))


def question(golden: GoldenSet, item: Mapping[str, Any]) -> str:
    """How an item is asked in words: in the set's own prompt, the same in training and evaluation."""
    return golden.prompt.replace("{input}", item["input"] if golden.kind == "json_extraction" else item["prompt"])


def task_digest(golden: GoldenSet) -> str:
    """Digest of how a set is asked: prompt template and sampling, or scoring of choices."""
    how = [golden.prompt, asdict(sampling(golden))] if golden.kind in _GENERATED else ["Question: {}\nAnswer: {}"]
    return digest_json([golden.kind, *how])


def prompts(golden: GoldenSet) -> list[Prompt]:
    """The questions of a set that is answered in words: ``json_extraction``, ``answers`` or ``code``."""
    _expect(golden, *_GENERATED)
    return [Prompt(i["id"], ({"role": "user", "content": question(golden, i)},)) for i in golden.items]


def letters(golden: GoldenSet) -> list[Prompt]:
    """The questions of a ``multiple_choice`` set, to be answered by a letter: for engines that give no log-probabilities."""
    _expect(golden, "multiple_choice")
    return [Prompt(i["id"], ({"role": "user", "content": lettered(i)},)) for i in golden.items]


def choices(golden: GoldenSet) -> list[Scored]:
    """The questions of a ``multiple_choice`` set: one shared context, a continuation per choice."""
    _expect(golden, "multiple_choice")
    return [Scored(i["id"], f"Question: {i['question']}\nAnswer:", tuple(f" {c}" for c in i["choices"])) for i in golden.items]


def documents(golden: GoldenSet, *, full: bool = True) -> list[Scored]:
    """The texts of a ``documents`` set, to be scored token by token."""
    _expect(golden, "documents")
    return [Scored(i["id"], "", (i["text"],), full) for i in golden.items]


def _expect(golden: GoldenSet, *kinds: str) -> None:
    if golden.kind not in kinds:
        raise GoldenError(f"golden set {golden.name}: kind {golden.kind!r}, expected {' or '.join(map(repr, kinds))} for this use")


def score_answers(golden: GoldenSet, answers: Sequence[Generation]) -> tuple[Sample, ...]:
    """Each answer by the scorer of its item or set (``harness.evals.scorers``). One Sample per answer."""
    return scorers.score(golden, answers)


def score_choices(golden: GoldenSet, scores: Sequence[TokenLogprobs], *, normalized: bool = True) -> tuple[Sample, ...]:
    """Right if the right choice has the highest log-probability, per byte (``acc_norm``) or, if not ``normalized``, in sum (``acc``)."""
    items = {i["id"]: i for i in golden.items}
    return tuple(by_logprob(items[s.id], s, normalized=normalized) for s in scores)


def pair(new: Sequence[Sample], old: Sequence[Sample]) -> tuple[Sample, ...]:
    """Two arms over the same items, ready for a paired claim."""
    return tuple(replace(s, arm=arm) for arm, rows in (("new", new), ("old", old)) for s in rows)


def plant_loss(samples: Sequence[Sample], share: float, seed: str) -> tuple[Sample, ...]:
    """Turns right answers of the "new" arm wrong: ceil(share * n) of them, chosen by SHA-256; where too few are right, wrong ones
    of the "old" arm right instead. Each moves the difference of one item by -1: a control of known size, of a weak model too.

    Raises ValueError if even so there are too few.
    """

    def having(arm: str, value: float) -> list[tuple[str, str]]:
        found = (s.item for s in samples if s.arm == arm and s.value == value)
        return [(arm, item) for item in sorted(found, key=lambda item: digest_json([seed, item]))]

    n = sum(s.arm == "new" for s in samples)
    possible, wanted = [*having("new", 1.0), *having("old", 0.0)], math.ceil(share * n)
    if len(possible) < wanted:
        raise ValueError(f"cannot plant a loss of {wanted} of {n} answers: only {len(possible)} can be lost")
    chosen = set(possible[:wanted])
    return tuple(
        replace(s, value=float(s.arm == "old"), detail={**s.detail, "planted": True}) if (s.arm, s.item) in chosen else s for s in samples
    )


def digest_of_changed(path: Path) -> str:
    """SHA-256 of a file as it would be with its last byte changed: a planted change."""
    data = path.read_bytes()
    return hashlib.sha256(data[:-1] + bytes([data[-1] ^ 1])).hexdigest()


def scored(engine: Engine, golden: GoldenSet) -> Measurement:
    """What ``engine`` answers to a set in words, by the set's own scorers; one Sample per item."""
    answers = answered(engine.generate(prompts(golden), sampling=sampling(golden)), golden.name)
    conditions = {"engine": dict(engine.describe()), "golden": golden.digest, "scorer": scorers.digest(golden)}
    return Measurement(f"{scorers.of_set(golden).name}:{golden.name}", score_answers(golden, answers), conditions=conditions)


_sampling_of = sampling


def exact_match(engine: Engine, golden: GoldenSet, *, sampling: Sampling | None = None) -> Measurement:
    """The share of a set that ``engine`` answers exactly, asked as the set is asked; one Sample per item."""
    answers = answered(engine.generate(prompts(golden), sampling=sampling or _sampling_of(golden)), golden.name)
    conditions = {"engine": dict(engine.describe()), "golden": golden.digest}
    return Measurement(f"exact_match:{golden.name}", score_answers(golden, answers), conditions=conditions)


def multiple_choice(engine: Engine, golden: GoldenSet) -> Measurement:
    """The share of a ``multiple_choice`` set that ``engine`` picks right; one Sample per item."""
    scores = engine.logprobs(choices(golden))
    conditions = {"engine": dict(engine.describe()), "golden": golden.digest}
    return Measurement(f"multiple_choice:{golden.name}", score_choices(golden, scores), conditions=conditions)
