"""From facts of texts to leaks: rows and items, each pair once with its strongest proof; boilerplate told apart."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from harness.audit.keys import csr, spread
from harness.audit.leakage.index import GRAM, SHORT, Index, pairs_of, rows_with, telling
from harness.audit.model import Report, Rows, finding_rows, no_findings

if TYPE_CHECKING:
    from harness.audit.leakage import Leakage

__all__ = ["KINDS", "Finish"]

KINDS = ("equal", "near", "13-gram", "8-gram")
"""The proofs, the strongest first."""

_SHOWN = 10


# --- the report -----------------------------------------------------------------------------------


def _lists(column: Any) -> tuple[Any, Any]:
    """(starts, flat values) of a list column."""
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return np.concatenate(([0], np.cumsum(whole.value_lengths().to_numpy()))).astype(np.int64), whole.flatten()


class Finish:
    """One report. A *line* is a line of facts: a text that shares something with an item."""

    def __init__(self, check: Leakage, index: Index, facts: pa.Table, rows: Rows) -> None:
        self.check, self.index, self.rows = check, index, rows
        self.text = facts.column("text").to_numpy()
        self.same = facts.column("same").fill_null(-1).to_numpy().astype(np.int64)
        self.gram_starts, gram = _lists(facts.column("gram"))
        self.gram, self.at = gram.to_numpy(), _lists(facts.column("at"))[1].to_numpy()
        near_starts, near = _lists(facts.column("near"))
        self.near_line: Any = np.repeat(np.arange(len(self.text)), np.diff(near_starts))
        self.near, self.num, self.den = (near.field(name).to_numpy().astype(np.int64) for name in ("said", "num", "den"))
        self.held_starts, self.held, self.message = self._holders()
        self._count()

    def _holders(self) -> tuple[Any, Any, Any]:
        which, message = self.rows.holders(self.text)
        row = self.rows.row_of[message].astype(np.int64)
        starts = np.concatenate(([0], np.cumsum(np.bincount(which, minlength=len(self.text)))))
        return starts, row, message - self.rows.starts[row]

    def _count(self) -> None:
        """What is boilerplate: in how many items and rows each gram and each said stands."""
        index, check = self.index, self.check
        line: Any = np.repeat(np.arange(len(self.text)), np.diff(self.gram_starts))
        starts, order = csr(self.gram, len(index.firsts))
        self.gram_rows = rows_with(starts, line[order], self.held_starts, self.held, self.rows.u)
        self.gram_common = (index.gram_items > check.common_items) | (self.gram_rows > check.common)
        for gram in np.flatnonzero(self.gram_rows).tolist():
            self.gram_common[gram] |= not telling(index.words_at(int(index.firsts[gram]), GRAM))
        says = np.flatnonzero(self.same >= 0)
        starts, order = csr(np.concatenate((self.same[says], self.near)), index.saids)
        self.said_rows = rows_with(starts, np.concatenate((says, self.near_line))[order], self.held_starts, self.held, self.rows.u)
        self.dull: Any = np.zeros(index.saids, bool)  # too short, or of too few different words, to prove anything
        for said in np.flatnonzero(self.said_rows).tolist():
            self.dull[said] = index.size[said] < SHORT or not telling(index.said(said))
        self.said_common = self.dull | (np.diff(index.of_part[0]) > check.common_items) | (self.said_rows > check.common)

    def report(self) -> Report:
        pairs = self._strongest([*self._equal(), self._every_text(), self._near(), self._grams()])
        findings, row, item, kind = self._findings(pairs)
        touched: Any = np.zeros(self.rows.u, bool), np.zeros(self.index.wholes, bool)
        touched[0][pairs["row"]], touched[1][pairs["whole"]] = True, True
        return Report(findings, {
            "sets": self._sets(item, kind), "rows": len(np.unique(row)), "map": self._map(row, item),
            "boilerplate": self._boilerplate(*touched), "short": self._short(),
        })  # fmt: skip

    # proofs: columns row (distinct), whole, kind, num, den, message

    def _of_lines(self, kind: int, line: Any, whole: Any, num: Any, den: Any) -> dict[str, Any]:
        which, place = spread(self.held_starts, line)
        return _columns(self.held[place], whole[which], kind, num[which], den[which], self.message[place])

    def _equal(self) -> Iterable[dict[str, Any]]:
        index = self.index
        line = np.flatnonzero(self.same >= 0)
        line = line[~self.dull[self.same[line]]]
        which, place = spread(index.of_whole[0], self.same[line])
        size = index.size[self.same[line]][which]
        yield self._of_lines(0, line[which], index.of_whole[1][place], size, size)
        line = np.flatnonzero(self.same >= 0)
        line = line[~self.said_common[self.same[line]]]
        which, place = spread(index.of_part[0], self.same[line])
        whole = index.part_whole[index.of_part[1][place]]
        yield self._of_lines(0, line[which], whole, index.size[self.same[line]][which], np.diff(index.starts)[whole])

    def _every_text(self) -> dict[str, Any]:
        """Rows that have a message for each text of an item of two texts or more, and five words."""
        index = self.index
        line = np.flatnonzero(self.same >= 0)
        starts, order = csr(self.same[line], index.saids)
        there = (np.diff(starts) > 0)[index.part_said].astype(np.int64)
        sizes = np.diff(index.parts_of)
        whole = np.flatnonzero((sizes > 1) & (np.diff(index.starts) >= SHORT))
        whole = whole[np.add.reduceat(np.append(there, 0), index.parts_of[:-1])[whole] == sizes[whole]]
        whole = whole[[telling(index.said(said)) for said in index.whole_said[whole].tolist()]] if len(whole) else whole
        which, place = spread(index.parts_of, whole)
        cost = self.said_rows[index.part_said[place]]
        ranked = np.lexsort((cost, which))
        rarest = ranked[np.searchsorted(which[ranked], np.arange(len(whole)))]  # the text of each whole that the fewest rows have
        kept = cost[rarest] <= self.check.common
        whole, said = whole[kept], index.part_said[place[rarest[kept]]]
        which, place = spread(starts, said)
        whole = whole[which]
        which, place = spread(self.held_starts, line[order[place]])
        candidates = np.unique(np.stack((whole[which], self.held[place]), axis=1), axis=0)
        every, place = spread(index.parts_of, candidates[:, 0])
        asked = candidates[every, 1] * index.saids + index.part_said[place]
        which, place = spread(self.held_starts, line)
        held = np.unique(self.held[place] * index.saids + self.same[line][which])
        missing = np.bincount(every[~np.isin(asked, held)], minlength=len(candidates)) > 0
        whole, row = candidates[~missing].T
        size = np.diff(index.starts)[whole]
        return _columns(row, whole, 0, size, size, np.full(len(row), -1))

    def _near(self) -> dict[str, Any]:
        index = self.index
        kept = ~self.said_common[self.near]
        which, place = spread(index.of_part[0], self.near[kept])
        whole = index.part_whole[index.of_part[1][place]]
        return self._of_lines(1, self.near_line[kept][which], whole, self.num[kept][which], self.den[kept][which])

    def _grams(self) -> dict[str, Any]:
        index, rows = self.index, self.rows
        line_of: Any = np.full(rows.t, -1, np.int64)
        line_of[self.text] = np.where(np.diff(self.gram_starts) > 0, np.arange(len(self.text)), -1)
        line = line_of[rows.text] if len(rows.text) else np.zeros(0, np.int64)
        asked = np.unique(rows.row_of[line >= 0]).astype(np.int64)
        found = pairs_of(
            asked, rows.starts, line, self.gram_starts, self.gram, self.at, self.gram_common,
            index.posted, index.places, index.owner, index.gram_at, index.wholes,
        )  # fmt: skip
        row, whole, num, first, long = found.T
        return _columns(row, whole, np.where(long >= 0, 2, 3), num, index.grams_of[whole], np.where(long >= 0, long, first))

    def _strongest(self, proofs: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """One proof a row and whole: of equal kinds the one of the higher score, of equal scores that of the first message."""
        every = {name: np.concatenate([proof[name] for proof in proofs]) for name in _COLUMNS}
        order = np.lexsort((every["message"], -every["num"] / every["den"], every["kind"], every["whole"], every["row"]))
        row, whole = every["row"][order], every["whole"][order]
        new: Any = np.ones(len(order), bool)
        new[1:] = (row[1:] != row[:-1]) | (whole[1:] != whole[:-1])
        return {name: column[order[new]] for name, column in every.items()}

    def _findings(self, pairs: dict[str, Any]) -> tuple[pa.Table, Any, Any, Any]:
        """(findings, and of each the row, the item, the kind), by row, then by item."""
        starts, items = self.index.items_of
        which, place = spread(starts, pairs["whole"])
        copy, physical = self.rows.copies(pairs["row"][which])
        which, item = which[copy], items[place][copy]
        order = np.lexsort((item, physical))
        which, item, row = which[order], item[order], physical[order]
        kind = pairs["kind"][which]
        if not len(row):
            return no_findings(), row, item, kind
        message = pairs["message"][which]
        num, den = pairs["num"][which], pairs["den"][which]
        found = finding_rows(
            self.check.name, pa.array(KINDS).take(pa.array(kind)), row, item=pa.array(self.index.labels).take(pa.array(item)),
            message=pa.array(message, mask=message < 0), score=num / den, num=num, den=den,
            detail=pa.array(_DETAIL).take(pa.array(kind)),
        )  # fmt: skip
        return found, row, item, kind

    # the summary

    def _sets(self, item: Any, kind: Any) -> dict[str, Any]:
        best = np.full(len(self.index.labels), len(KINDS))
        np.minimum.at(best, item, kind)
        told = {}
        for number, reference in enumerate(self.check.references):
            counts = np.bincount(best[self.index.set_of == number], minlength=len(KINDS) + 1).tolist()
            leaked = dict(zip(KINDS, counts, strict=False))
            told[reference.name] = {"items": len(reference.items), "leaked": sum(counts[:-1]), **leaked, "clean": counts[-1]}
        return told

    def _map(self, row: Any, item: Any) -> list[dict[str, Any]]:
        """Of each set and training file that share something: rows and items."""
        sets = self.index.set_of[item]
        cell = sets * len(self.rows.files) + self.rows.file[row]
        told = []
        for number in np.unique(cell).tolist():
            here = cell == number
            name = self.check.references[number // len(self.rows.files)].name
            counts = {"rows": len(np.unique(row[here])), "items": len(np.unique(item[here]))}
            told.append({"set": name, "file": Path(self.rows.files[number % len(self.rows.files)]).name, **counts})
        return told

    def _physical(self, distinct: Any) -> int:
        return int(np.bincount(self.rows.unique, minlength=self.rows.u)[distinct].sum())

    def _boilerplate(self, leaky: Any, leaked: Any) -> dict[str, Any]:
        """What was discounted, and the rows and items that it alone would have made leaks."""
        index = self.index
        seen: Any = np.zeros(len(self.text), bool)
        grams = np.flatnonzero(self.gram_common & (self.gram_rows > 0))
        there = (self.said_rows > 0) & (index.size >= SHORT)
        saids = np.flatnonzero(there & (self.dull | (self.said_common & (np.diff(index.of_part[0]) > 0))))
        seen[np.repeat(np.arange(len(self.text)), np.diff(self.gram_starts))[self.gram_common[self.gram]]] = True
        seen |= np.isin(self.same, saids)
        seen[self.near_line[self.said_common[self.near]]] = True
        _, place = spread(self.held_starts, np.flatnonzero(seen))
        rows = np.unique(self.held[place])
        wholes = np.union1d(index.owner[index.places[spread(index.posted, grams)[1]]], self._saying(saids))
        items = np.diff(index.items_of[0])[wholes[~leaked[wholes]]].sum()
        return {
            "grams": len(grams), "texts": len(saids), "rows": self._physical(rows[~leaky[rows]]), "items": int(items),
            "top_grams": self._top_grams(grams), "top_texts": self._top_texts(saids),
        }  # fmt: skip

    def _saying(self, saids: Any) -> Any:
        """The wholes that say these, as a whole or in one of their texts."""
        index = self.index
        parts = index.part_whole[index.of_part[1][spread(index.of_part[0], saids)[1]]]
        return np.union1d(parts, index.of_whole[1][spread(index.of_whole[0], saids)[1]])

    def _top_grams(self, grams: Any) -> list[dict[str, Any]]:
        """The grams of the most rows; of those that overlap in an item one."""
        index = self.index
        shown: list[int] = []
        told: list[dict[str, Any]] = []
        for gram in grams[np.lexsort((grams, -self.gram_rows[grams]))].tolist():
            place = int(index.firsts[gram])
            if any(abs(place - other) < GRAM for other in shown):
                continue
            shown.append(place)
            words = b" ".join(index.words_at(place, GRAM)).decode("utf-8", "replace")
            told.append({"words": words, "rows": int(self.gram_rows[gram]), "items": int(index.gram_items[gram])})
            if len(told) == _SHOWN:
                break
        return told

    def _top_texts(self, saids: Any) -> list[dict[str, Any]]:
        index, items = self.index, np.diff(self.index.of_part[0])
        return [
            {
                "words": b" ".join(index.said(said)[:GRAM]).decode("utf-8", "replace"), "of": int(index.size[said]),
                "rows": int(self.said_rows[said]), "items": int(items[said]),
            }
            for said in saids[np.lexsort((saids, -self.said_rows[saids]))][:_SHOWN].tolist()
        ]  # fmt: skip

    def _short(self) -> dict[str, Any]:
        """Messages that say the same as a text of an item of fewer than five words: a remark, no leak."""
        line = np.flatnonzero(self.same >= 0)
        line = line[self.index.size[self.same[line]] < SHORT]
        saids = np.unique(self.same[line])
        rows = np.unique(self.held[spread(self.held_starts, line)[1]])
        items = int(np.diff(self.index.items_of[0])[self._saying(saids)].sum())
        return {"rows": self._physical(rows), "items": items, "texts": len(saids), "top_texts": self._top_texts(saids)}


_COLUMNS = ("row", "whole", "kind", "num", "den", "message")
_DETAIL = (
    "says the item, or a text of it",
    "nearly a text of the item",
    "thirteen words of the item in a row",
    "eight words of the item in a row",
)


def _columns(row: Any, whole: Any, kind: Any, num: Any, den: Any, message: Any) -> dict[str, Any]:
    given = (row, whole, np.broadcast_to(kind, len(row)), num, den, message)
    return {name: np.asarray(column, np.int64) for name, column in zip(_COLUMNS, given, strict=True)}
