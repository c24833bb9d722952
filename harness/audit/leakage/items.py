"""Evaluation and golden sets as items: what each says, without what all of them share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.audit.rows import read
from harness.errors import AuditError
from harness.golden import GoldenSet
from harness.store import digest_json

__all__ = ["Item", "References"]


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an evaluation set: all that it says, without what every item shares."""

    id: str
    texts: tuple[str, ...]


@dataclass(frozen=True)
class References:
    """An evaluation or golden set. Ids need not be unique; ``digest`` is the SHA-256 of name and items."""

    name: str
    items: tuple[Item, ...] = field(compare=False, repr=False)
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        if not self.items:
            raise AuditError(f"reference set {self.name}: no items; expected at least one")
        object.__setattr__(self, "digest", digest_json([self.name, [[item.id, list(map(_plain, item.texts))] for item in self.items]]))

    @classmethod
    def of_golden(cls, golden: GoldenSet) -> References:
        """The items of a golden set: all of their texts but the id, and not the prompt they share."""
        return cls.of_rows(golden.name, golden.items)

    @classmethod
    def of_file(cls, name: str, path: Path, id: str = "id") -> References:
        """One item a row of a file of any format that ``rows.read`` knows. Raises AuditError, also for a row that is no JSON object."""
        return cls.of_rows(name, _objects(path), id)

    @classmethod
    def of_rows(cls, name: str, rows: Iterable[Mapping[str, Any]], id: str = "id") -> References:
        """One item a JSON object: every text in it, at any depth, whatever its key, so that a passage beside question and
        answer counts; but not the field ``id`` and the roles of messages. Without an id the item is named by its number, from 1."""
        no_texts = (id, "role", "from")
        return cls(name, tuple(Item(str(row.get(id, number)), tuple(_texts(row, no_texts))) for number, row in enumerate(rows, start=1)))


def _texts(value: Any, without: Sequence[str]) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from (said for key, inner in value.items() if key not in without for said in _texts(inner, without))
    elif isinstance(value, (list, tuple)):
        yield from (said for inner in value for said in _texts(inner, without))


def _objects(path: Path) -> Iterator[Mapping[str, Any]]:
    for chunk in read([path]):
        for line, raw in zip(chunk.line.tolist(), chunk.raw, strict=True):
            try:
                row = json.loads(raw)
            except (ValueError, RecursionError) as error:
                raise AuditError(
                    f"{path}, line {line}: found no JSON ({error}), expected an item of a reference set. Repair the file"
                ) from None
            if not isinstance(row, dict):
                raise AuditError(f"{path}, line {line}: found a JSON {type(row).__name__}, expected an object: an item of a reference set")
            yield row


def _plain(said: str) -> str:
    """A text as JSON can hold it: lone surrogates as escapes."""
    return said.encode("utf-8", "backslashreplace").decode()
