"""Scoring answers against golden sets, pairing arms, and planting known losses.

Scorers are pure: an answer and a target in, a Sample out. A unit that could not be scored
(error, truncation, no parse) becomes a Sample with that status and no value; ``harness.judge``
counts it as wrong in its arm. Nothing is dropped.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.errors import GoldenError
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
    "multiple_choice",
    "pair",
    "plant_loss",
    "prompts",
    "question",
    "score_answers",
    "score_choices",
    "task_digest",
]

SAMPLING = Sampling(max_tokens=96)


def question(golden: GoldenSet, item: Mapping[str, Any]) -> str:
    """How an item of a ``json_extraction`` set is asked: the set's own prompt, the same in training and evaluation."""
    return golden.prompt.replace("{input}", item["input"])


def answer_text(target: Mapping[str, str]) -> str:
    """The answer a tuned model is taught: compact JSON in the order of the target's keys."""
    return json.dumps(target, ensure_ascii=False, separators=(",", ":"))


def task_digest(golden: GoldenSet) -> str:
    """Digest of how a set is asked: prompt template and sampling, or scoring of choices."""
    how = [golden.prompt, asdict(SAMPLING)] if golden.kind == "json_extraction" else ["Question: {}\nAnswer: {}"]
    return digest_json([golden.kind, *how])


def prompts(golden: GoldenSet) -> list[Prompt]:
    """The questions of a ``json_extraction`` set."""
    _expect(golden, "json_extraction")
    return [Prompt(i["id"], ({"role": "user", "content": question(golden, i)},)) for i in golden.items]


def choices(golden: GoldenSet) -> list[Scored]:
    """The questions of a ``multiple_choice`` set: one shared context, a continuation per choice."""
    _expect(golden, "multiple_choice")
    return [Scored(i["id"], f"Question: {i['question']}\nAnswer:", tuple(f" {c}" for c in i["choices"])) for i in golden.items]


def documents(golden: GoldenSet, *, full: bool = True) -> list[Scored]:
    """The texts of a ``documents`` set, to be scored token by token."""
    _expect(golden, "documents")
    return [Scored(i["id"], "", (i["text"],), full) for i in golden.items]


def _expect(golden: GoldenSet, kind: str) -> None:
    if golden.kind != kind:
        raise GoldenError(f"golden set {golden.name}: kind {golden.kind!r}, expected {kind!r} for this use")


def score_answers(golden: GoldenSet, answers: Sequence[Generation]) -> tuple[Sample, ...]:
    """Exact JSON equality: right keys, right values, nothing else. One Sample per item."""
    items = {i["id"]: i for i in golden.items}
    return tuple(_score_json(a, items[a.id]) for a in answers)


def _score_json(answer: Generation, item: Mapping[str, Any]) -> Sample:
    target = item["target"]
    detail = {
        "input": item["input"], "text": answer.text, "target": answer_text(target), "finish": answer.finish,
        "tokens": answer.tokens, "prompt": answer.prompt_digest,
    }  # fmt: skip
    if answer.finish == "error":
        return Sample(answer.id, None, status="error", detail={**detail, "error": answer.error})
    if answer.finish == "length":
        return Sample(answer.id, None, status="truncated", detail=detail)
    try:
        got = json.loads(answer.text, parse_constant=_no_constant, object_pairs_hook=_no_twins)
    except (ValueError, RecursionError):
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    return Sample(answer.id, float(got == target), detail=detail)


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object that names a key twice says two things."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a key stands twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def score_choices(golden: GoldenSet, scores: Sequence[TokenLogprobs]) -> tuple[Sample, ...]:
    """Right if the right choice has the highest log-probability per byte (lm-eval's ``acc_norm``)."""
    items = {i["id"]: i for i in golden.items}
    return tuple(_score_choice(items[s.id], s) for s in scores)


def _score_choice(item: Mapping[str, Any], score: TokenLogprobs) -> Sample:
    lengths = [len(c.encode()) for c in item["choices"]]
    per_byte = [math.fsum(lp) / n for lp, n in zip(score.logprobs, lengths, strict=True)]
    if not all(math.isfinite(x) for x in per_byte):
        return Sample(item["id"], None, status="error", detail={"error": "a log-probability is not finite"})
    pick = max(range(len(per_byte)), key=per_byte.__getitem__)
    detail = {
        "input": item["question"], "text": item["choices"][pick], "target": item["choices"][item["answer"]],
        "pick": pick, "answer": item["answer"], "per_byte": [round(x, 6) for x in per_byte],
    }  # fmt: skip
    return Sample(item["id"], float(pick == item["answer"]), detail=detail)


def pair(new: Sequence[Sample], old: Sequence[Sample]) -> tuple[Sample, ...]:
    """Two arms over the same items, ready for a paired claim."""
    return tuple(replace(s, arm=arm) for arm, rows in (("new", new), ("old", old)) for s in rows)


def plant_loss(samples: Sequence[Sample], share: float, seed: str) -> tuple[Sample, ...]:
    """Turns right answers of the "new" arm wrong: ceil(share * n) of them, chosen by SHA-256.

    A control of known size. Raises ValueError if fewer answers are right than must turn wrong.
    """
    new = [s for s in samples if s.arm == "new"]
    right = sorted((s.item for s in new if s.value == 1), key=lambda item: digest_json([seed, item]))
    wanted = math.ceil(share * len(new))
    if len(right) < wanted:
        raise ValueError(f"cannot plant {wanted} wrong answers: only {len(right)} of {len(new)} are right")
    chosen = set(right[:wanted])
    return tuple(replace(s, value=0.0, detail={**s.detail, "planted": True}) if s.arm == "new" and s.item in chosen else s for s in samples)


def digest_of_changed(path: Path) -> str:
    """SHA-256 of a file as it would be with its last byte changed: a planted change."""
    data = path.read_bytes()
    return hashlib.sha256(data[:-1] + bytes([data[-1] ^ 1])).hexdigest()


def exact_match(engine: Engine, golden: GoldenSet, *, sampling: Sampling = SAMPLING) -> Measurement:
    """The share of a ``json_extraction`` set that ``engine`` answers exactly; one Sample per item."""
    answers = engine.generate(prompts(golden), sampling=sampling)
    conditions = {"engine": dict(engine.describe()), "golden": golden.digest}
    return Measurement(f"exact_match:{golden.name}", score_answers(golden, answers), conditions=conditions)


def multiple_choice(engine: Engine, golden: GoldenSet) -> Measurement:
    """The share of a ``multiple_choice`` set that ``engine`` picks right; one Sample per item."""
    scores = engine.logprobs(choices(golden))
    conditions = {"engine": dict(engine.describe()), "golden": golden.digest}
    return Measurement(f"multiple_choice:{golden.name}", score_choices(golden, scores), conditions=conditions)
