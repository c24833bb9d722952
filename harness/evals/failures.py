"""Why an answer is wrong: a type for each failure by a written code book, told by two rules that share nothing else.

The code book, for answers that are objects of text taken from an input; the first that applies, over all fields:

    error, truncated, empty, not_json   there is no object to read
    copying        a field holds a word that stands nowhere in the input: misspelt, expanded or made up
    invented       a field that the target lacks repeats words that stand in another field, or none of the input at all
    missing        a word of the target stands nowhere in the answer
    segmentation   the words are those of the input, and a border between fields lies elsewhere
    wrong_field    every value is whole, and one stands under another key
    casing         equal but for letter case, punctuation and blanks
    other          none of these

``by_fields`` compares value with value; ``by_words`` labels each word of the input with the field that takes it and
compares the labels. That both come to one type shows that the code book can be followed, not that people would agree:
for those there are blind sheets (``blind_rows``). Golden items are split once and for all by a hash into a mined half,
whose failures people may read to change the training, and a held-out half, which alone may show that it helped.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.stats import families, paired
from harness.types import Sample

__all__ = ["TYPES", "Cluster", "Failure", "analysed", "blind_rows", "by_fields", "by_words", "clusters", "mined", "slices"]

TYPES = (
    "error", "truncated", "empty", "not_json", "copying", "invented", "missing", "segmentation", "wrong_field", "casing", "other",
)  # fmt: skip

Fields = Mapping[str, Any]
Rule = Callable[[Fields, Fields, str], str]
"""(target, answer, input) -> a type from "copying" on"""


@dataclass(frozen=True, slots=True)
class Failure:
    """One wrong answer: its type by either rule, and the fields that differ."""

    item: str
    type: str
    second: str
    fields: tuple[str, ...]
    input: str
    target: str
    text: str


@dataclass(frozen=True, slots=True)
class Cluster:
    """Failures of one type in the same fields."""

    type: str
    fields: tuple[str, ...]
    n: int
    examples: tuple[Failure, ...]


def mined(item: str) -> bool:
    """Whether the item is of the half whose failures may be read: by SHA-256 of its id."""
    return hashlib.sha256(f"mined:{item}".encode()).digest()[0] % 2 == 0


def analysed(samples: Iterable[Sample]) -> list[Failure]:
    """A Failure for each sample that is not right, in the order given."""
    return [_failure(s) for s in samples if s.value != 1]


def _failure(sample: Sample) -> Failure:
    detail = sample.detail
    text, shown = str(detail.get("text", "")), str(detail.get("input", ""))
    target, got = _object(detail.get("target")), _object(text)
    broken = _broken(sample, text, got)
    if broken or target is None:
        first = second = broken or "other"
        differing: tuple[str, ...] = ()
    else:
        answer = got or {}
        first, second = by_fields(target, answer, shown), by_words(target, answer, shown)
        differing = tuple(sorted(key for key in {*target, *answer} if target.get(key) != answer.get(key)))
    return Failure(sample.item, first, second, differing, shown, str(detail.get("target", "")), text)


def _broken(sample: Sample, text: str, got: Fields | None) -> str:
    """Why there is no object to read; "" if there is one."""
    if sample.status in ("error", "truncated"):
        return sample.status
    if not text.strip():
        return "empty"
    return "not_json" if got is None or sample.status != "ok" else ""


def _object(text: object) -> Fields | None:
    try:
        found = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


# --- the first rule: value against value -----------------------------------------------------------


def by_fields(target: Fields, answer: Fields, shown: str) -> str:
    """The type of a failure, told field by field."""
    differing = [key for key in {*target, *answer} if target.get(key) != answer.get(key)]
    heard = [_words(value) for value in answer.values()]
    pool = Counter(word for words in heard for word in words)
    stock = Counter(_words(shown))
    found = {_of_field(key, target, answer, stock, pool) for key in differing}
    return next((type_ for type_ in TYPES if type_ in found), "other")


def _of_field(key: str, target: Fields, answer: Fields, stock: Counter[str], pool: Counter[str]) -> str:
    wanted, got = _words(target.get(key, "")), _words(answer.get(key, ""))
    strange = [word for word in got if word not in stock]
    if strange:
        return "copying" if key in target or any(word in stock for word in got) else "invented"
    if any(word not in pool for word in wanted):
        return "missing"
    if key not in target and (not got or all(pool[word] > stock[word] for word in got)):
        return "invented"
    if got == wanted:
        return "casing"
    others = [_words(value) for name, value in (target if key in answer else answer).items() if name != key]
    return "wrong_field" if (got or wanted) in others else "segmentation"


def _words(value: Any) -> list[str]:
    """Words without case and outer punctuation; a value that is no text is one word of its own."""
    text = value if isinstance(value, str) else json.dumps(value)
    return [word for word in (part.strip(".,;:#()\"'").casefold() for part in text.split()) if word]


# --- the second rule: the words of the input, labelled -----------------------------------------------


def by_words(target: Fields, answer: Fields, shown: str) -> str:
    """The type of a failure, told by which field takes which word of the input."""
    line = re.findall(r"[^\W_]+", shown.casefold())
    wanted, _, _ = _labels(target, line)
    got, foreign, twice = _labels(answer, line)
    if any(key in target or whole for key, whole in foreign):
        return "copying"
    if foreign or any(key not in target for key in twice):
        return "invented"
    if any(label and not taken for label, taken in zip(wanted, got, strict=True)):
        return "missing"
    if wanted == got:
        return "casing"
    spans = [_spans(labels) for labels in (wanted, got)]
    return "wrong_field" if set(spans[0].values()) == set(spans[1].values()) else "segmentation"


def _labels(fields: Fields, line: Sequence[str]) -> tuple[list[str], list[tuple[str, bool]], list[str]]:
    """For each word of the line the field that takes it ("": none); fields with a word that is not in it, each with whether
    another of its words is; fields that take a word taken already.
    """
    labels, foreign, twice = [""] * len(line), [], []
    for key, value in sorted(fields.items(), key=lambda pair: -len(str(pair[1]))):
        words = re.findall(r"[^\W_]+", (value if isinstance(value, str) else json.dumps(value)).casefold())
        if set(words) - set(line):
            foreign.append((key, bool(set(words) & set(line))))
            continue
        places = _places(words, line, labels)
        if any(labels[place] for place in places):
            twice.append(key)
        else:
            for place in places:
                labels[place] = key
    return labels, foreign, twice


def _places(words: Sequence[str], line: Sequence[str], labels: Sequence[str]) -> list[int]:
    """Where the words stand: as one run where there is one that is free, else one by one from the left."""
    runs = [range(at, at + len(words)) for at in range(len(line) - len(words) + 1) if list(line[at : at + len(words)]) == list(words)]
    free = [run for run in runs if not any(labels[place] for place in run)]
    if free or runs:
        return list((free or runs)[0])
    taken: list[int] = []
    for word in words:
        spots = [place for place, other in enumerate(line) if other == word and place not in taken]
        taken.append(next((place for place in spots if not labels[place]), spots[0] if spots else line.index(word)))
    return taken


def _spans(labels: Sequence[str]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(place for place, label in enumerate(labels) if label == key) for key in set(labels) - {""}}


# --- what a person wants to see ---------------------------------------------------------------------


def clusters(failures: Iterable[Failure], examples: int = 3) -> list[Cluster]:
    """Failures of one type in the same fields together, the largest cluster first."""
    groups: dict[tuple[str, tuple[str, ...]], list[Failure]] = {}
    for failure in failures:
        groups.setdefault((failure.type, failure.fields), []).append(failure)
    ordered = sorted(groups.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return [Cluster(type_, fields, len(group), tuple(group[:examples])) for (type_, fields), group in ordered]


def blind_rows(failures: Iterable[Failure]) -> list[dict[str, str]]:
    """What people get to type failures themselves: no type, no arm, in an order drawn by SHA-256 of the item."""
    ordered = sorted(failures, key=lambda f: hashlib.sha256(f"sheet:{f.item}".encode()).digest())
    return [{"item": f.item, "input": f.input, "target": f.target, "answer": f.text} for f in ordered]


def slices(new: Iterable[Sample], old: Iterable[Sample]) -> list[dict[str, Any]]:
    """Exploratory: gains and losses by which fields the target has and by the length of the input, with BH-adjusted p.

    Two-sided exact McNemar in each slice (statistics 3.1, 3.12). It raises questions, and answers none: never a gate.
    """
    theirs = {s.item: s for s in old}
    pairs = [(s, theirs[s.item]) for s in new if s.item in theirs]
    lengths = sorted(len(str(s.detail.get("input", ""))) for s, _ in pairs)
    groups: dict[str, list[tuple[bool, bool]]] = {}
    for mine, other in pairs:
        for name in _slices_of(mine, lengths):
            groups.setdefault(name, []).append((mine.value == 1, other.value == 1))
    rows = [_slice(name, group) for name, group in sorted(groups.items())]
    adjusted = families.benjamini_hochberg([row["p"] for row in rows]) if rows else []
    return [{**row, "p_adjusted": round(p, 6), "exploratory": True} for row, p in zip(rows, adjusted, strict=True)]


def _slices_of(sample: Sample, lengths: Sequence[int]) -> list[str]:
    cuts = (lengths[len(lengths) // 3], lengths[2 * len(lengths) // 3])
    place = sum(len(str(sample.detail.get("input", ""))) > cut for cut in cuts)
    return [f"length: {('short', 'middle', 'long')[place]}", *(f"has {key}" for key in _object(sample.detail.get("target")) or {})]


def _slice(name: str, group: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    b, c = sum(new and not old for new, old in group), sum(old and not new for new, old in group)
    tests = paired.mcnemar(b, c)
    return {"slice": name, "n": len(group), "b": b, "c": c, "p": min(1.0, 2 * min(tests.p_hold, tests.p_fail))}
