"""Words that call for a look: slurs, sex, violence, self-harm, weapons, drugs, prompt injection; and a classifier of the user's own.

A word list says what was written, not what was meant: its findings are remarks to read, by category. Words are whole words (in scripts
written without spaces, any place), case is ignored, and between the words of a phrase stands one space, line feed, hyphen or underscore.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, resources
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from harness.audit import literals
from harness.audit.model import DIGEST, Batch, Group, Report, Rows, Texts, digest_array, finding_rows
from harness.errors import AuditError

__all__ = ["Sensitive"]

FACTS = pa.schema([
    ("text", DIGEST),
    ("hits", pa.list_(pa.struct([("category", pa.string()), ("word", pa.string()), ("start", pa.int64()), ("end", pa.int64())]))),
    ("score", pa.float64()),  # of the classifier; null without one
])  # fmt: skip

SPACED: Any = np.arange(256, dtype=np.uint8)
SPACED[np.frombuffer(b"\t\n\r\v\f-_", np.uint8)] = ord(" ")
LEET = SPACED.copy()
LEET[np.frombuffer(b"013457@$!", np.uint8)] = np.frombuffer(b"oieastasi", np.uint8)
WORD = np.arange(256) >= 128  # letters of other scripts, and
WORD[np.frombuffer(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ", np.uint8)] = True
UNSPACED = re.compile("[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")  # Thai, kana, Han


@cache
def _entries(lists: tuple[tuple[Path | None, str], ...]) -> tuple[tuple[str, str], ...]:
    """(category, word) of the built-in list (path None) and of files, each named with the digest it was seen under."""
    listed = ((category, word) for path, _ in lists for category, words in _parsed(path).items() for word in words)
    return tuple(sorted({(category, " ".join(word.lower().split())) for category, word in listed if word.strip()}))


@cache
def _written(entries: tuple[tuple[str, str], ...]) -> tuple[tuple[bytes, ...], list[list[int]]]:
    """Every literal to look for, as normalised text writes it, and the entry it stands for."""
    ways: dict[tuple[bytes, int], None] = {}
    for i, (_, word) in enumerate(entries):
        for way in (word, word.upper(), word.title(), word.capitalize()):  # matters outside ASCII alone
            ways[SPACED[np.frombuffer(way.encode(), np.uint8)].tobytes().lower(), i] = None
    literal = tuple(dict.fromkeys(way for way, _ in ways))
    return literal, [[i for way, i in ways if way == this] for this in literal]


def _read(path: Path | None) -> bytes:
    try:
        return path.read_bytes() if path else resources.files("harness.audit").joinpath("words.toml").read_bytes()
    except OSError as e:
        raise AuditError(f"{path}: cannot be read ({e.strerror}); lists= takes TOML files of word lists") from e


def _parsed(path: Path | None) -> dict[str, list[str]]:
    try:
        read = tomllib.loads(_read(path).decode())
    except ValueError as e:
        raise AuditError(f"{path}: not TOML ({e}); give one array of strings for each category") from e
    for category, words in read.items():
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise AuditError(f"{path}: {category} is no array of strings; give one for each category")
    return read


@dataclass(frozen=True)
class Sensitive:
    """Words of the built-in list and of ``lists`` (TOML files: category = [words]).

    ``leet``: also read "h3ll0" as "hello". ``classifier``: "module:function" called with a list of distinct texts, giving a score for
    each; scores of at least ``threshold`` are findings. Raises AuditError for a list or a classifier that cannot be used.
    """

    lists: tuple[Path, ...] = ()
    builtin: bool = True
    leet: bool = False
    classifier: str | None = None
    threshold: float = 0.5

    name: ClassVar[str] = "sensitive"
    key: ClassVar[Literal["row", "text"]] = "text"

    def _named(self) -> tuple[tuple[Path | None, str], ...]:
        paths: tuple[Path | None, ...] = (*((None,) if self.builtin else ()), *self.lists)
        return tuple((path, hashlib.sha256(_read(path)).hexdigest()) for path in paths)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"lists": [digest for _, digest in self._named()], "leet": self.leet, "classifier": self.classifier}

    def partial(self, batch: Batch) -> pa.Table:
        hits = _search(_entries(self._named()), batch.texts, self.leet)
        scores = self._scores(batch.texts)
        texts = np.unique([hit[0] for hit in hits]).astype(np.int64) if scores is None else np.arange(len(batch.texts))
        offsets: Any = np.searchsorted(np.array([hit[0] for hit in hits], dtype=np.int64), np.append(texts, len(batch.texts))).astype(
            np.int32
        )
        fields = list(FACTS.field("hits").type.value_type)
        values = [pa.array([hit[i + 1] for hit in hits], f.type) for i, f in enumerate(fields)]
        lists = pa.ListArray.from_arrays(
            pa.array(offsets), pa.StructArray.from_arrays(values, fields=fields), type=FACTS.field("hits").type
        )
        score = pa.nulls(len(texts), pa.float64()) if scores is None else pa.array(scores, pa.float64())
        return pa.Table.from_arrays([digest_array(batch.text_digests[texts]), lists, score], schema=FACTS)

    def _scores(self, texts: Texts) -> list[float] | None:
        if self.classifier is None:
            return None
        module, _, function = self.classifier.partition(":")
        try:
            classify = getattr(import_module(module), function)
        except (ImportError, AttributeError, ValueError) as e:
            raise AuditError(f"classifier {self.classifier!r}: cannot be imported ({e}); give module:function") from e
        scores = [float(score) for score in classify([texts.bytes(i).decode("utf-8", "replace") for i in range(len(texts))])]
        if len(scores) != len(texts):
            raise AuditError(f"classifier {self.classifier!r}: gave {len(scores)} scores for {len(texts)} texts; one for each is needed")
        return scores

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        """One finding for each word and physical row, by category; and one for each text above the classifier's threshold."""
        lists = facts.column("hits").combine_chunks()
        hits, text = lists.flatten(), facts.column("text").to_numpy()
        of: Any = np.repeat(text, np.diff(lists.offsets.to_numpy()))
        said = [
            _found(self.name, of, rows, hits.field("category"), detail=hits.field("word"), start=hits.field("start"), end=hits.field("end"))
        ]
        score = facts.column("score").combine_chunks()
        high = np.flatnonzero(score.to_numpy(zero_copy_only=False) >= self.threshold)  # null is nan, and below
        if len(high):
            kind = pa.repeat(pa.scalar("classifier"), len(high))
            said.append(_found(self.name, text[high], rows, kind, score=score.take(pa.array(high))))
        findings = pa.concat_tables(said)
        return Report(findings, {"categories": _counted(findings), "entries": len(_entries(self._named())), "classifier": self.classifier})


def _found(check: str, texts: Any, rows: Rows, kind: pa.Array, **columns: pa.Array) -> pa.Table:
    """Findings for every physical row that holds the texts, in order of row and message; columns are of the texts."""
    which, message = rows.holders(texts)
    entry, physical = rows.copies(rows.row_of[message])
    place = (message - rows.starts[rows.row_of[message]])[entry]
    order = np.lexsort((which[entry], place, physical))
    take = pa.array(which[entry][order])
    taken = {name: column.take(take) for name, column in columns.items()}
    return finding_rows(check, kind.take(take), physical[order], message=np.minimum(place[order], 2**15 - 1).astype(np.int16), **taken)


def _counted(findings: pa.Table) -> dict[str, dict[str, int]]:
    kinds, rows = np.array(findings.column("kind").to_pylist(), dtype=object), findings.column("row").to_numpy()
    return {k: {"findings": int((kinds == k).sum()), "rows": len(np.unique(rows[kinds == k]))} for k in sorted(set(kinds.tolist()))}


def _search(entries: tuple[tuple[str, str], ...], texts: Texts, leet: bool) -> list[tuple[int, str, str, int, int]]:
    """(text, category, word, start, end), ordered by place."""
    literal, meant = _written(entries)
    size = np.array([len(word) for word in literal], dtype=np.int64)
    whole = np.array([not UNSPACED.search(word.decode()) for word in literal], dtype=bool)
    found: set[tuple[int, int, int, str, str]] = set()
    for table in (SPACED, LEET) if leet else (SPACED,):
        data = table[texts.data]
        which, text, end = literals.find(literal, Texts(data, texts.starts))
        low, high = texts.starts[text], texts.starts[text + 1]
        first, last = low + end - size[which], low + end
        inside = (first > low) & WORD[data[first - 1]] | (last < high) & WORD[data[np.minimum(last, len(data) - 1)]]
        kept = np.flatnonzero(~(inside & whole[which]))
        for word, i, start, stop in zip(*(c[kept].tolist() for c in (which, text, first - low, end)), strict=True):
            found.update((i, start, stop, *entries[entry]) for entry in meant[word])
    return [(i, category, word, start, stop) for i, start, stop, category, word in sorted(found)]
