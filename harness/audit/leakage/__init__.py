"""Does anything of a training set stand in an evaluation or golden set? Exact: every leak is proven on the words themselves.

Four proofs, the strongest first; a row and an item that share several are reported once, with the strongest:

    equal      a message says what the item says, or what one of its texts says (but for case, punctuation and spacing), or
               the row has a message for every text of the item. Five words at least. Score: the share of its words
    near       the Jaccard index of the distinct three-word shingles of a message and of one of the item's texts is 4/5 or more
    13-gram    thirteen words of the item in a row. Score: the share of the item's distinct 8-grams that the row holds
    8-gram     eight words of the item in a row. Score: the same

*Boilerplate* is no leak: eight words in a row, or a text, in more than ``common_items`` items or in more than ``common``
distinct training rows, or of fewer than four different words without numbers and single letters ("0 0 1 0 1", "A, C, D and B").
Thirteen words in a row prove nothing if eight of them are boilerplate. All of it is counted and listed. Items that are word
for word the same count as one there, and a whole item is not boilerplate however often it stands.

Window sizes: GPT-3 (Brown et al. 2020, appendix C) used 13 words, its successors 8 to 13.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from harness.audit import text
from harness.audit.keys import lookup
from harness.audit.leakage.index import (
    DEN,
    GRAM,
    NUM,
    SHINGLE,
    Index,
    find_grams,
    gather,
    index_of,
    likely_near,
    may_stand,
    nearly,
    windows_of,
    words_of,
)
from harness.audit.leakage.items import Item, References
from harness.audit.leakage.report import KINDS, Finish
from harness.audit.model import Batch, Group, Report, Rows, digest_array
from harness.audit.text import Words
from harness.errors import AuditError

__all__ = ["KINDS", "Item", "Leakage", "References"]


# --- the check ------------------------------------------------------------------------------------

_FACTS = pa.schema([
    ("text", pa.binary(16)),
    ("same", pa.int32()),  # the said that this text is, or null
    ("near", pa.list_(pa.struct([("said", pa.int32()), ("num", pa.int32()), ("den", pa.int32())]))),
    ("gram", pa.list_(pa.int32())),  # the grams of items that stand in it, in order
    ("at", pa.list_(pa.int32())),  # the word at which each begins
])  # fmt: skip


@dataclass(frozen=True)
class Leakage:
    """Training rows that leak into reference sets. ``common`` and ``common_items``: from where on something is boilerplate.

    The summary has for each set the items, how many of them leak by their strongest proof and how many no row touches;
    the leakage map (set, training file: rows and items); the boilerplate that was discounted; short texts that are the
    same by nature ("yes"). The ids of the leaked items are those of the findings, complete: ``clean`` says the others.
    """

    references: tuple[References, ...]
    common: int = 1000
    common_items: int = 20

    name = "leakage"
    key: Literal["row", "text"] = "text"

    def __post_init__(self) -> None:
        names = Counter(reference.name for reference in self.references)
        if not names or max(names.values()) > 1:
            raise AuditError(f"reference sets named {sorted(names.elements())}: expected at least one, and each name once")
        if self.common < 1 or self.common_items < 1:
            raise AuditError(f"common = {self.common}, common_items = {self.common_items}; expected at least 1")

    @property
    def options(self) -> Mapping[str, Any]:
        return {"references": [reference.digest for reference in self.references]}

    def clean(self, report: Report, kinds: Sequence[str] = KINDS) -> dict[str, list[str]]:
        """The clean subset: by set, the ids of the items that no training row touches (with a proof of ``kinds``)."""
        found = report.findings
        leaked = {
            item for item, kind in zip(found.column("item").to_pylist(), found.column("kind").to_pylist(), strict=True) if kind in kinds
        }
        return {r.name: [item.id for item in r.items if f"{r.name}/{item.id}" not in leaked] for r in self.references}

    def partial(self, batch: Batch) -> pa.Table:
        index, words = index_of(self.references), batch.words
        same = lookup(index.said_digests, text.digests(words))
        same[np.diff(words.starts) == 0] = -1
        hit_text, at, gram = _gram_hits(index, words)
        near_text, near_said = _near_hits(index, words)
        other = near_said != same[near_text]
        near_text, near_said = near_text[other], near_said[other]
        lines = np.unique(np.concatenate((np.flatnonzero(same >= 0), hit_text, near_text)))
        proven = _Proven(index)
        hits: Any = np.searchsorted(hit_text, [lines, lines + 1])
        nears: Any = np.searchsorted(near_text, [lines, lines + 1])
        for place, line in enumerate(lines.tolist()):
            hit, near = slice(*hits[:, place].tolist()), slice(*nears[:, place].tolist())
            proven.add(line, words_of(batch.texts.bytes(line)), int(same[line]), at[hit], gram[hit], near_said[near].tolist())
        return proven.table(batch)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        return Finish(self, index_of(self.references), facts, rows).report()


def _gram_hits(index: Index, words: Words) -> tuple[Any, Any, Any]:
    """(text, word at which it begins, gram) of every gram of an item, by text, in order of place."""
    grams, starts = text.ngrams(words, GRAM)
    maybe: Any = np.empty(len(grams), np.bool_)
    may_stand(grams, index.bits.bits, index.bits.shift, maybe)
    window = np.flatnonzero(maybe)
    of: Any = np.searchsorted(starts, window, side="right") - 1
    at = window - starts[of]
    found: Any = np.empty(len(window), np.int32)
    find_grams(words.hashes, grams[window], words.starts[of] + at, index.hashes, index.table, index.firsts, found)
    hit = found >= 0
    return of[hit], at[hit], found[hit]


def _near_hits(index: Index, words: Words) -> tuple[Any, Any]:
    """(text, said) of every pair of nearly the same texts, by text."""
    grams, starts = text.ngrams(words, SHINGLE)
    likely: Any = np.empty(len(words), np.bool_)
    likely_near(grams, starts, index.shingle_bits.bits, index.shingle_bits.shift, likely)
    texts = np.flatnonzero(likely)
    flat, starts = text.shingles(gather(words, words.starts[texts], words.starts[texts + 1]), SHINGLE)
    place: Any = np.searchsorted(index.shingles, flat)
    known: Any = place < len(index.shingles)
    known[known] = index.shingles[place[known]] == flat[known]
    owner: Any = np.repeat(np.arange(len(texts)), np.diff(starts))[known]
    ranks = index.rank[place[known]]
    held = np.concatenate(([0], np.cumsum(np.bincount(owner, minlength=len(texts)))))
    pairs = nearly(np.diff(starts), held, ranks[np.lexsort((ranks, owner))], index.listed, index.lists, index.set_starts, index.sets)
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return texts[pairs[order, 0]], index.near_said[pairs[order, 1]]


class _Proven:
    """Facts of texts, after every hit was held against the words themselves: two hashes that meet cannot invent a leak."""

    def __init__(self, index: Index) -> None:
        self.index = index
        self.lines: list[int] = []
        self.same: list[int | None] = []
        self.near: list[list[dict[str, int]]] = []
        self.gram: list[Any] = []
        self.at: list[Any] = []

    def add(self, line: int, words: list[bytes], same: int, at: Any, gram: Any, near: list[int]) -> None:
        if len(gram):
            kept = self._grams(words, at, gram)
            at, gram = at[kept], gram[kept]
        says = same if same >= 0 and words == self.index.said(same) else None
        alike = self._near(words, near) if near else []
        if says is not None or alike or len(gram):
            self.lines.append(line)
            self.same.append(says)
            self.near.append(alike)
            self.gram.append(gram)
            self.at.append(at)

    def _grams(self, words: list[bytes], at: Any, gram: Any) -> Any:
        """Which of the grams stand there, word for word; compared in runs of grams that follow each other in text and item."""
        place = self.index.firsts[gram]
        ends: Any = np.flatnonzero((np.diff(at) != 1) | (np.diff(place) != 1)) + 1
        kept: Any = np.ones(len(gram), bool)
        for a, b in pairwise([0, *ends.tolist(), len(gram)]):
            for first, last in [(a, b)] if self._stands(words, at, place, a, b) else zip(range(a, b), range(a + 1, b + 1), strict=True):
                kept[first:last] = self._stands(words, at, place, first, last)
        return kept

    def _stands(self, words: list[bytes], at: Any, place: Any, first: int, last: int) -> bool:
        size = last - first + GRAM - 1
        begin = int(at[first])
        return words[begin : begin + size] == self.index.words_at(int(place[first]), size)

    def _near(self, words: list[bytes], near: list[int]) -> list[dict[str, int]]:
        ours = windows_of(words)
        found = []
        for said in near:
            theirs = windows_of(self.index.said(said))
            num, den = len(ours & theirs), len(ours | theirs)
            if DEN * num >= NUM * den:
                found.append({"said": said, "num": num, "den": den})
        return found

    def table(self, batch: Batch) -> pa.Table:
        sizes = [len(gram) for gram in self.gram]
        offsets = pa.array(np.concatenate(([0], np.cumsum(sizes))), pa.int32())
        none: Any = np.zeros(0, np.int32)
        columns = [
            digest_array(batch.text_digests[self.lines]) if self.lines else pa.array([], _FACTS.field("text").type),
            pa.array(self.same, pa.int32()),
            pa.array(self.near, _FACTS.field("near").type),
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([none, *self.gram]), pa.int32())),
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([none, *self.at]), pa.int32())),
        ]
        return pa.Table.from_arrays(columns, schema=_FACTS)
