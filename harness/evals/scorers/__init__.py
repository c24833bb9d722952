"""Scorers: an answer and an item in, a Sample out. Pure; the one for code runs it in the sandbox.

    json       right keys, right values, nothing else; field by field in the detail      target: an object
    fields     the share of fields right (F1) instead, a graded score                    target: an object
    exact      the same text, after a stated normalization                               target: a text, or several accepted ones
    numeric    the number in the answer, within a tolerance                              target: a number, or a text with one
    regex      whether a pattern is found, or what it captures is the target             target: a text (pattern in the options)
    letter     the letter of a choice, where a multiple-choice item is asked in words    choices, answer
    code       unit tests pass in a sandbox                                              tests, entry_point
    similarity how alike the texts are, 0 to 1, a graded score                           target: a text, or several

Which one scores an item: the item's ``scorer``, else the manifest's, else that of the set's kind. A unit that could
not be scored (error, truncation, no parse) becomes a Sample with that status and no value; nothing is dropped.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.errors import GoldenError, nearest
from harness.evals.scorers import choice, code, numbers, structured, texts
from harness.golden import GoldenSet
from harness.store import digest_file, digest_json
from harness.types import Generation, Sample

__all__ = ["SCORERS", "Scorer", "digest", "of_item", "of_set", "score", "scorer"]

Function = Callable[..., Sample]

SCORERS: Mapping[str, Function] = {
    "json": structured.json_equality,
    "fields": structured.field_f1,
    "exact": texts.exact,
    "regex": texts.regex,
    "similarity": texts.similarity,
    "numeric": numbers.numeric,
    "letter": choice.letter,
    "code": code.unit_tests,
}
_OF_KIND = {"json_extraction": "json", "answers": "exact", "code": "code", "multiple_choice": "letter"}


@dataclass(frozen=True, slots=True)
class Scorer:
    """A scorer with its options: call it with an answer and its item."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, answer: Generation, item: Mapping[str, Any]) -> Sample:
        """The Sample of one answer."""
        return SCORERS[self.name](answer, item, **self.options)

    @property
    def digest(self) -> str:
        """SHA-256 over its code, the libraries it measures with, and its options: a changed scorer is another measurement."""
        return digest_json([self.name, dict(self.options), _code_of(self.name)])


@cache
def _code_of(name: str) -> list[str]:
    own = Path(inspect.getfile(SCORERS[name]))
    beside = [own.with_name("common.py")]
    if name == "code":
        beside += sorted(own.parents[1].glob("sandbox*.py"))
    versions = texts.versions() if name == "similarity" else []
    return [*(digest_file(path) for path in (own, *beside)), *versions]


def scorer(name: str, **options: Any) -> Scorer:
    """The scorer by name. GoldenError for an unknown one, an unknown option, or a value that it does not take."""
    if name not in SCORERS:
        raise GoldenError(f"no scorer {name!r}; {nearest(name, list(SCORERS))}")
    known = {p.name: p for p in list(inspect.signature(SCORERS[name]).parameters.values())[2:]}
    for key, value in options.items():
        if key not in known:
            raise GoldenError(f"scorer {name}: unknown option {key!r}; {nearest(key, list(known))}")
        _check(name, key, value, known[key].default)
    lacking = [key for key, p in known.items() if p.default is p.empty and key not in options]
    if lacking:
        raise GoldenError(f'scorer {name}: option {lacking[0]!r} is missing; write scorer = {{ name = "{name}", {lacking[0]} = ... }}')
    return Scorer(name, options)


def _check(name: str, key: str, value: Any, default: Any) -> None:
    """A value is of its default's type; what only the scorer knows it says itself."""
    wanted = str if default is inspect.Parameter.empty else type(default)
    right = type(value) in (int, float) if wanted in (int, float) else isinstance(value, (list, tuple) if wanted is tuple else wanted)
    if not right:
        raise GoldenError(f"scorer {name}: {key} = {value!r}, expected a {wanted.__name__}")
    for check in (texts.check, numbers.check):
        problem = check(name, key, value)
        if problem:
            raise GoldenError(f"scorer {name}: {key} = {value!r}: {problem}")


def _parsed(said: str | Mapping[str, Any]) -> Scorer:
    if isinstance(said, str):
        return scorer(said)
    return scorer(said["name"], **{key: value for key, value in said.items() if key != "name"})


def of_set(golden: GoldenSet) -> Scorer:
    """The scorer that the manifest names, else that of the set's kind. GoldenError where the kind has none."""
    if golden.scorer:
        return _parsed(golden.scorer)
    if golden.kind not in _OF_KIND:
        raise GoldenError(f"golden set {golden.name}: kind {golden.kind!r} has no scorer; answers are scored of {', '.join(_OF_KIND)}")
    return scorer(_OF_KIND[golden.kind])


def of_item(golden: GoldenSet, item: Mapping[str, Any]) -> Scorer:
    """The scorer of one item: its own, else the set's. GoldenError names the item."""
    if "scorer" not in item:
        return of_set(golden)
    try:
        return _parsed(item["scorer"])
    except GoldenError as error:
        raise GoldenError(f"golden set {golden.name}, item {item['id']!r}: {error}") from error


def score(golden: GoldenSet, answers: Sequence[Generation], *, workers: int = 0) -> tuple[Sample, ...]:
    """One Sample per answer, in their order. Only code takes time: there ``workers`` (0: a core each, at most 8) run beside each other."""
    items = {item["id"]: item for item in golden.items}
    jobs = [(of_item(golden, items[answer.id]), answer) for answer in answers]
    if not any(each.name == "code" for each, _ in jobs):
        return tuple(each(answer, items[answer.id]) for each, answer in jobs)
    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        return tuple(pool.map(lambda job: job[0](job[1], items[job[1].id]), jobs))


def digest(golden: GoldenSet) -> str:
    """Digest of all scorers that a set uses, item by item where they differ."""
    found = {json.dumps(item.get("scorer"), sort_keys=True): of_item(golden, item).digest for item in golden.items}
    return digest_json(found)
