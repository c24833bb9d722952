"""Preference pairs: chosen differs from rejected, no pair is told both ways, and length alone does not tell them apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit.duplicates import blank, conversations, first_rows
from harness.audit.model import DIGEST, FORMS, PARTS, Batch, Group, Report, Rows, digest_array, digests_of, finding_rows, no_findings
from harness.stats.intervals import clopper_pearson

__all__ = ["Preferences"]

_PREFERENCE = FORMS.index("preference")
_PROMPT, _ANSWER, _REJECTED, _META = (PARTS.index(part) for part in ("prompt", "answer", "rejected", "meta"))
_DIALOGUE = b"\n\nHuman:"  # how a dialogue in one text begins (Anthropic's hh-rlhf)
_ALPHA = 0.025  # on each side

_FACTS = pa.schema([
    ("row", DIGEST),
    ("prompt", DIGEST), ("chosen", DIGEST), ("rejected", DIGEST),  # of the canonical forms; of nothing, of a blank text
    ("same", pa.bool_()),  # chosen and rejected are equal to the byte
    ("other_prompt", pa.bool_()),  # rejected visibly answers another prompt
    ("chosen_characters", pa.int64()), ("rejected_characters", pa.int64()), ("chosen_words", pa.int64()), ("rejected_words", pa.int64()),
])  # fmt: skip


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _characters(data: Any, starts: Any, out: Any) -> None:  # pragma: no cover - machine code
    for t in range(len(starts) - 1):
        n = 0
        for i in range(starts[t], starts[t + 1]):
            n += (data[i] & 0xC0) != 0x80
        out[t] = n


@dataclass(frozen=True)
class Preferences:
    """Rows of form "preference" (claim D8).

    Kinds: "equal" (chosen is rejected, to the byte), "equal_canonical" (but for form), "empty_chosen", "empty_rejected",
    "other_prompt" (rejected visibly answers another prompt), "flipped" (elsewhere the same two answers to the same prompt are
    ranked the other way, by at least as many rows; ``num / den``: the share of the pair's rows that rank it as this one).
    The summary gives the rate of flipped labels among rows whose pair is there at least twice, and the AUC of length alone:
    the share of pairs whose chosen side is longer, ties counting one half, as ``num / den``; its interval is Clopper and
    Pearson's (95 %) for pairs of different length. Pairs that are equal or empty are left out of both, and counted.
    """

    name: str = "preferences"
    key: Literal["row", "text"] = "row"

    @property
    def options(self) -> Mapping[str, Any]:
        return {}

    def partial(self, batch: Batch) -> pa.Table:
        chosen_rows = np.flatnonzero(batch.record.column("form").to_numpy() == _PREFERENCE)
        if not len(chosen_rows):
            return _FACTS.empty_table()
        forms = batch.forms
        is_blank = (forms == blank()).all(axis=1)[batch.text]
        characters: Any = np.empty(len(batch.texts), np.int64)
        _characters(batch.texts.data, np.ascontiguousarray(batch.texts.starts), characters)
        words = np.diff(batch.words.starts)
        sides = {"prompt": batch.part == _PROMPT, "chosen": batch.part == _ANSWER, "rejected": batch.part == _REJECTED}
        made: dict[str, Any] = {"row": batch.rows}
        for name, kept in sides.items():
            digests = conversations(batch, forms, kept, same_part=True)
            digests[np.bincount(batch.row_of[kept & ~is_blank], minlength=batch.n) == 0] = blank()
            made[name] = digests
            for measure, counts in (("characters", characters), ("words", words)):
                weights = counts[batch.text[kept]]
                made[f"{name}_{measure}"] = np.bincount(batch.row_of[kept], weights=weights, minlength=batch.n).astype(np.int64)
        raw = [conversations(batch, batch.text_digests, sides[name], same_part=True) for name in ("chosen", "rejected")]
        made["same"] = (raw[0] == raw[1]).all(axis=1)
        made["other_prompt"] = _other_prompt(batch, chosen_rows)
        return pa.table([_column(made[field.name][chosen_rows], field.type) for field in _FACTS], schema=_FACTS)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        row = facts.column("row").to_numpy()
        copies = np.bincount(rows.unique, minlength=rows.u)[row]
        prompt, chosen, rejected = (digests_of(facts.column(name)) for name in ("prompt", "chosen", "rejected"))
        same, other = (facts.column(name).to_numpy() for name in ("same", "other_prompt"))
        empty = {side: (digests == blank()).all(axis=1) for side, digests in (("empty_chosen", chosen), ("empty_rejected", rejected))}
        nothing = empty["empty_chosen"] | empty["empty_rejected"]
        alike = (chosen == rejected).all(axis=1) & ~nothing
        kinds = {
            "equal": (alike & same, "chosen and rejected are the same text"),
            "equal_canonical": (alike & ~same, "chosen and rejected differ in nothing but form"),
            "empty_chosen": (empty["empty_chosen"], "chosen is empty"), "empty_rejected": (empty["empty_rejected"], "rejected is empty"),
            "other_prompt": (other, "rejected answers another prompt than chosen"),
        }  # fmt: skip
        tables = [no_findings()]
        for kind, (found, detail) in kinds.items():
            _, physical = rows.copies(row[found])
            tables.append(finding_rows(self.name, kind, physical, detail=detail))
        pairs = np.flatnonzero(~nothing & ~alike)
        flips, flipped = self._flips(prompt[pairs], chosen[pairs], rejected[pairs], row[pairs], copies[pairs], rows, group)
        summary: dict[str, Any] = {
            "pairs": int(copies.sum()), "compared": int(copies[pairs].sum()), "rows_of_other_forms": rows.n - int(copies.sum()),
            **{kind: int(copies[found].sum()) for kind, (found, _) in kinds.items()}, "flipped": flipped,
            "length": {measure: self._length(facts, measure, pairs, copies) for measure in ("characters", "words")},
        }  # fmt: skip
        if not len(row):
            summary["not_evaluated"] = "no row is a preference pair"
        return Report(pa.concat_tables([*tables, flips]), summary)

    def _length(self, facts: pa.Table, measure: str, pairs: Any, copies: Any) -> dict[str, Any]:
        chosen, rejected = (facts.column(f"{side}_{measure}").to_numpy()[pairs] for side in ("chosen", "rejected"))
        return _auc(chosen, rejected, copies[pairs])

    def _flips(
        self, prompt: Any, chosen: Any, rejected: Any, row: Any, copies: Any, rows: Rows, group: Group
    ) -> tuple[pa.Table, dict[str, Any]]:
        up = (chosen[:, 0] < rejected[:, 0]) | ((chosen[:, 0] == rejected[:, 0]) & (chosen[:, 1] < rejected[:, 1]))
        low, high = np.where(up[:, None], chosen, rejected), np.where(up[:, None], rejected, chosen)
        first = first_rows(_joined(np.concatenate([prompt, low, high], axis=1)), group)
        total = np.bincount(first, weights=copies, minlength=len(row)).astype(np.int64)
        ups = np.bincount(first, weights=copies * up, minlength=len(row)).astype(np.int64)
        mine = np.where(up, ups[first], total[first] - ups[first])
        away = up != up[first]  # ranks it another way than the first row does
        fewer = 2 * mine < total[first]
        wrong = np.flatnonzero(fewer | (away & (2 * mine == total[first])))
        others = np.full((len(row), 2), len(row))
        np.minimum.at(others, (first, up.astype(int)), np.arange(len(row)))  # the first row of each pair and ranking
        which, physical = rows.copies(row[wrong])
        partner = rows.first[row[others[first[wrong], 1 - up[wrong].astype(int)]]]
        found = finding_rows(
            self.name, "flipped", physical, partner=partner[which], score=(mine / np.maximum(total[first], 1))[wrong][which],
            num=mine[wrong][which], den=total[first][wrong][which], detail="the same pair is ranked the other way elsewhere",
        )  # fmt: skip
        twice = int(total[total > 1].sum())
        return found, {"num": len(physical), "den": twice, "pairs": len(np.unique(first[wrong]))}


def _column(values: Any, kind: Any) -> pa.Array:
    return digest_array(values) if kind == DIGEST else pa.array(values, kind)


def _joined(digests: Any) -> Any:
    """One digest of several side by side."""
    import xxhash

    width, whole = 8 * digests.shape[1], memoryview(np.ascontiguousarray(digests).tobytes())
    made = b"".join(xxhash.xxh3_128_digest(whole[i : i + width]) for i in range(0, len(whole), width))
    return np.frombuffer(made, "<u8").reshape(-1, 2)


def _other_prompt(batch: Batch, chosen_rows: Any) -> Any:
    """Pairs of whole dialogues that differ before an answer: the reader keeps what is said to rejected alone as "meta"."""
    found = np.zeros(batch.n, bool)
    parts, starts = batch.part.tolist(), batch.starts.tolist()
    for i in chosen_rows.tolist():
        first = next((m for m in range(starts[i], starts[i + 1]) if parts[m] in (_REJECTED, _META)), None)
        found[i] = first is not None and (parts[first] == _META or _is_dialogue(batch, first))
    return found


def _is_dialogue(batch: Batch, message: int) -> bool:
    start, end = batch.texts.starts[batch.text[message]], batch.texts.starts[batch.text[message] + 1]
    return bool(bytes(batch.texts.data[start : min(end, start + len(_DIALOGUE))]) == _DIALOGUE)


def _auc(chosen: Any, rejected: Any, copies: Any) -> dict[str, Any]:
    wins, losses = int(copies[chosen > rejected].sum()), int(copies[chosen < rejected].sum())
    n = int(copies.sum())
    said: dict[str, Any] = {"wins": wins, "losses": losses, "ties": n - wins - losses, "num": n + wins - losses, "den": 2 * n}
    if wins + losses:
        said["interval"] = list(clopper_pearson(wins, wins + losses, _ALPHA))
    return said
