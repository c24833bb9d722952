"""Metamorphic variants: another way to ask the same thing, with the answer that must follow.

``VARIANTS[name](item, prompt)`` gives the changed item (question and target) and the changed prompt of its set;
``vary`` applies one to a whole golden set, whose digest then names it. Each is a pure function: the same item always
becomes the same variant. Two say the same in other words, and three in another dress; ``renumbered`` asks for other
content of the same form, which a model that knows the items by heart answers with the old numbers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from harness.errors import ConfigError, GoldenError, nearest
from harness.golden import GoldenSet

__all__ = ["VARIANTS", "Variant", "variants_of", "vary"]

Item = Mapping[str, Any]
Variant = Callable[[Item, str], tuple[Item, str]]

# Words of an instruction, and others that say the same.
_SYNONYMS = {
    "parse": "convert", "extract": "pull out", "this": "the following", "with keys": "under the keys", "omit": "leave out",
    "absent": "missing", "answer": "reply", "classify": "sort", "write": "give", "list": "name",
}  # fmt: skip


def rephrased(item: Item, prompt: str) -> tuple[Item, str]:
    """The instruction in other words; the item stays. GoldenError if it holds no word that has a synonym here."""
    head, mark, tail = prompt.partition("{input}")

    def other(found: re.Match[str]) -> str:
        word = _SYNONYMS[found[0].lower()]
        return word.capitalize() if found[0][0].isupper() else word

    pattern = re.compile(r"\b(" + "|".join(map(re.escape, _SYNONYMS)) + r")\b", re.IGNORECASE)
    changed = pattern.sub(other, head) + mark + pattern.sub(other, tail)
    if changed == prompt:
        raise GoldenError(f"prompt {prompt!r}: no word with a synonym, expected one of {', '.join(_SYNONYMS)}. Leave this variant out")
    return item, changed


def input_first(item: Item, prompt: str) -> tuple[Item, str]:
    """The line with the input before the instruction. GoldenError if the prompt has one line only."""
    lines = prompt.splitlines()
    asked = [line for line in lines if "{input}" in line]
    rest = [line for line in lines if "{input}" not in line]
    if not rest:
        raise GoldenError(f"prompt {prompt!r}: a single line, expected an instruction beside the input. Leave this variant out")
    turned = [*asked, *rest] if "{input}" in lines[-1] else [*rest, *asked]
    return item, "\n".join(turned)


def _cased(case: Callable[[str], str]) -> Variant:
    def change(item: Item, prompt: str) -> tuple[Item, str]:
        target = {key: case(value) for key, value in item["target"].items()}
        return {**item, "input": case(item["input"]), "target": target}, prompt

    return change


def blanks(item: Item, prompt: str) -> tuple[Item, str]:
    """Each blank of the input twice; the target is what it was."""
    return {**item, "input": item["input"].replace(" ", "  ")}, prompt


def full_stop(item: Item, prompt: str) -> tuple[Item, str]:
    """A full stop behind the input, unless one ends it; the target is what it was."""
    text = item["input"]
    return {**item, "input": text if text.endswith(".") else f"{text}."}, prompt


def renumbered(item: Item, prompt: str) -> tuple[Item, str]:
    """Other digits, the same ones in question and target; a first digit other than 0 never becomes 0."""
    table = _digits(str(item["id"]))

    def change(text: str) -> str:
        return text.translate(table)

    target = {key: change(value) for key, value in item["target"].items()}
    return {**item, "input": change(item["input"]), "target": target}, prompt


def _digits(seed: str) -> dict[int, str]:
    """A permutation of 1 to 9 drawn by SHA-256, none in its place; 0 stays 0."""
    order = sorted("123456789", key=lambda digit: hashlib.sha256(f"{seed}:{digit}".encode()).digest())
    return {ord(a): b for a, b in zip(order, [*order[1:], order[0]], strict=True)}  # one cycle moves every digit


def option_order(item: Item, prompt: str) -> tuple[Item, str]:
    """The choices in reverse; the answer moves with its choice."""
    choices = list(item["choices"])
    return {**item, "choices": choices[::-1], "answer": len(choices) - 1 - item["answer"]}, prompt


VARIANTS: Mapping[str, Variant] = {
    "rephrased": rephrased,
    "input_first": input_first,
    "uppercase": _cased(str.upper),
    "lowercase": _cased(str.lower),
    "blanks": blanks,
    "full_stop": full_stop,
    "renumbered": renumbered,
    "option_order": option_order,
}

_OF = {
    "json_extraction": tuple(name for name in VARIANTS if name != "option_order"),
    "multiple_choice": ("option_order",),
}


def variants_of(kind: str) -> tuple[str, ...]:
    """The variants that fit a kind of golden set; none for a kind that has no target."""
    return _OF.get(kind, ())


def vary(golden: GoldenSet, name: str) -> GoldenSet:
    """The set in this variant; its digest says so. ConfigError for an unknown one, GoldenError for one that does not fit."""
    if name not in VARIANTS:
        raise ConfigError(f"variant {name!r}: {nearest(name, list(VARIANTS))}")
    if name not in variants_of(golden.kind):
        fitting = ", ".join(variants_of(golden.kind)) or "none"
        raise GoldenError(f"golden set {golden.name}: variant {name!r} does not fit kind {golden.kind!r}; those that do: {fitting}")
    changed = [VARIANTS[name](item, golden.prompt) for item in golden.items]
    items, asked = tuple(item for item, _ in changed), {prompt for _, prompt in changed} or {golden.prompt}
    if len(asked) != 1:
        raise GoldenError(f"golden set {golden.name}: variant {name!r} made {len(asked)} prompts of one, expected one for the whole set")
    content = hashlib.sha256(json.dumps([list(items), *asked], sort_keys=True, ensure_ascii=False).encode()).hexdigest()
    return replace(golden, items=items, prompt=asked.pop(), digest=f"{golden.digest}+variant={name}:{content[:12]}")
