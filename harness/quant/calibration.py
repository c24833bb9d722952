"""Calibration texts: drawn by seed, equal for every method, and held apart from every golden set.

A method that calibrates sees part of what it will meet; if it saw golden items, its score would be a
memory. Standard library only: the texts become tokens in the producer, with the source's own tokenizer.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import ConfigError
from harness.golden import GoldenSet
from harness.store import digest_json

__all__ = ["BLOCKS", "TOKENS", "Calibration", "Leak", "Row", "canonical", "choose", "golden_texts", "leaks"]

# Eight thousand tokens: five a column of the widest Hessian of the built-in model, so that none is singular; AWQ takes
# ten processor-seconds a layer for them, GPTQ three.
BLOCKS, TOKENS = 32, 256
_GRAM = 8  # words; the contamination checks of GPT-3 and its successors use 8 to 13


@dataclass(frozen=True, slots=True)
class Row:
    """One calibration text. ``content`` is what is held against golden items: no prompt, no template.

    With ``messages`` the text is those messages rendered by the source's chat template, else ``content``.
    """

    id: str
    content: str
    messages: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Calibration:
    """Rows in the order in which they are used, until ``blocks`` blocks of ``tokens`` tokens are full.

    Rows are packed one behind the other. Every method then sees the same tokens, in blocks of the same
    length, and another seed as many of them: autoawq packs whatever it gets, so all the others do too.
    """

    rows: tuple[Row, ...]
    blocks: int
    tokens: int
    seed: int

    @property
    def digest(self) -> str:
        """SHA-256 of everything that shapes the blocks, besides the tokenizer."""
        rows = [[row.id, row.content, [dict(m) for m in row.messages]] for row in self.rows]
        return digest_json([rows, self.blocks, self.tokens, self.seed])


def choose(rows: Sequence[Row], n: int = BLOCKS, tokens: int = TOKENS, seed: int = 0) -> Calibration:
    """A sample of ``rows`` for ``n`` blocks of ``tokens`` tokens: an order drawn by seed, whatever the order given.

    Another seed begins with other rows. Raises ConfigError without rows, or if an id stands twice.
    """
    if n < 1 or tokens < 1:
        raise ConfigError(f"calibration of {n} blocks of {tokens} tokens, expected at least one of each")
    if not rows:
        raise ConfigError("no calibration rows; expected texts that are in no golden set")
    if len({row.id for row in rows}) < len(rows):
        raise ConfigError("two calibration rows have the same id; the order drawn for them would be that of the file")
    return Calibration(tuple(sorted(rows, key=lambda row: _draw(seed, row.id))), n, tokens, seed)


def _draw(seed: int, name: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{name}".encode()).digest()


# --- leaks ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Leak:
    """A calibration text and a golden item that share a text: ``why`` says how, ``evidence`` what."""

    text: str
    item: str
    why: str
    evidence: str


def canonical(text: str) -> tuple[str, ...]:
    """The words of a text: compatibility forms folded, lower case, no punctuation, no white space.

    Points and apostrophes join ("U.S." is "us"), everything else that is no letter or digit separates.
    """
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = (ch if ch.isalnum() or unicodedata.combining(ch) else "" if ch in ".'’" else " " for ch in folded)
    return tuple("".join(kept).split())


def golden_texts(golden: GoldenSet) -> dict[str, str]:
    """What each item of a golden set says, by ``set/id``: all of its texts; not the prompt that every item shares."""
    return {f"{golden.name}/{item['id']}": " ".join(_said(item)) for item in golden.items}


def _said(item: Mapping[str, Any]) -> Iterator[str]:
    for key, value in item.items():
        if key != "id":
            yield from (text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str))


def leaks(texts: Mapping[str, str], golden: Mapping[str, str]) -> list[Leak]:
    """Every pair of a text and a golden item that are equal but for case, punctuation and spacing, or share eight words.

    Both are given by id. Eight words in a row are compared over all pairs, through a table: exact, none sampled.
    A golden item of fewer words is found only as a whole: two towns are no leak.
    """
    whole: dict[str, list[str]] = {}
    grams: dict[tuple[str, ...], list[str]] = {}
    for item, said in golden.items():
        words = canonical(said)
        whole.setdefault("".join(words), []).append(item)
        for gram in dict.fromkeys(_grams(words)):
            grams.setdefault(gram, []).append(item)
    whole.pop("", None)
    return [leak for name, text in texts.items() for leak in _leaks(name, canonical(text), whole, grams)]


def _leaks(name: str, words: tuple[str, ...], whole: Mapping[str, list[str]], grams: Mapping[tuple[str, ...], list[str]]) -> list[Leak]:
    """One leak an item: equality first, else the first eight words shared."""
    found = {item: Leak(name, item, "the same text", " ".join(words)) for item in whole.get("".join(words), ())}
    for gram in _grams(words):
        for item in grams.get(gram, ()):
            found.setdefault(item, Leak(name, item, f"{_GRAM} words in a row", " ".join(gram)))
    return list(found.values())


def _grams(words: tuple[str, ...]) -> list[tuple[str, ...]]:
    return [words[i : i + _GRAM] for i in range(len(words) - _GRAM + 1)]
