"""Rows that are there twice, and prompts with two answers.

Two conversations are *exact* duplicates when role, part and text of every message agree (other fields may differ), and
*canonical* ones when they agree but for case, punctuation, spacing and compatibility forms. Words alone would make "35"
of "3.5" and take "2 + 2" for "2 - 2": the marks that carry meaning must agree too.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit import text
from harness.audit.keys import dense
from harness.audit.model import PARTS, ROLES, Batch, Group, Report, Rows, digest_array, digests_of, finding_rows, no_findings

__all__ = [
    "Conflicts",
    "Duplicates",
    "blank",
    "canonical_facts",
    "canonical_forms",
    "canonical_of",
    "conversations",
    "first_rows",
    "spoken",
]

_SYSTEM = ROLES.index("system")
_ANSWER, _REJECTED, _TOOLS, _META = (PARTS.index(part) for part in ("answer", "rejected", "tools", "meta"))
_SHUFFLE = 16  # parts of a group-by: enough for many workers, few enough for one


# --- the canonical form of a text -----------------------------------------------------------------

_LAST = 0x20000  # behind it are unspaced letters, which are words by themselves
# What a character adds beside words: nothing, a digit its place, a sign itself if digits stand on both sides, behind, on one side;
# white space parts, a mark counts wherever it stands.
_NONE, _DIGIT, _BETWEEN, _BEFORE, _BESIDE, _SPACE, _MARK = range(7)


def _rule(char: str) -> int:
    """Symbols (mathematics, currencies, emoji), brackets and blanks to fill in are marks; the usual punctuation is nothing."""
    category = unicodedata.category(char)
    if char.isspace():
        return _SPACE
    if char in ".,:":
        return _BETWEEN
    if category == "Pd" or char == "\u2212":
        return _BEFORE
    if char in "*/":
        return _BESIDE
    if "0" <= char <= "9":
        return _DIGIT
    return _MARK if char in "%#@&\\_()[]{}" or (category[0] == "S" and char not in "`\u00b4") else _NONE


@cache
def _characters() -> tuple[Any, Any, Any]:
    """Of each character: the rule it goes by, what it is hashed as, and how many letters or digits it folds to."""
    rules: Any = np.zeros(_LAST, np.uint8)
    marks: Any = np.zeros(_LAST, np.uint32)
    letters: Any = np.zeros(_LAST, np.uint8)
    for code in range(_LAST):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", chr(code)).casefold())
        letters[code] = sum(map(str.isalnum, folded))
        char = folded if len(folded) == 1 else chr(code)
        rules[code] = _rule(char)
        marks[code] = ord("-" if rules[code] == _BEFORE else char)
    return rules, marks, letters


_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_27, _30, _31, _32 = np.uint64(27), np.uint64(30), np.uint64(31), np.uint64(32)


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _mix(h: Any) -> Any:  # pragma: no cover - machine code
    h = (h ^ (h >> _30)) * _M1
    h = (h ^ (h >> _27)) * _M2
    return h ^ (h >> _31)


@njit(cache=True, nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _means(sign: Any, opens: bool, before: Any, rule: Any, letter: Any, spaced: bool) -> Any:  # pragma: no cover - machine code
    """Is a sign more than punctuation? ``before`` and ``rule`` stand beside it; ``opens``: space before it; ``spaced``: space behind it."""
    if sign == _BEFORE:  # a minus, or the dash of an option: "-v"
        return rule == _DIGIT or (opens and letter and not spaced)
    if sign == _BETWEEN:  # "3.5", "12:30"
        return before == _DIGIT and rule == _DIGIT and not opens and not spaced
    return sign == _BESIDE and (before == _DIGIT or rule == _DIGIT)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _marked(data: Any, starts: Any, rules: Any, marks: Any, letters: Any, out: Any) -> None:  # pragma: no cover - machine code
    """A hash of the marks of each text, in order, each with the number of letters before it; 0 where there are none."""
    for t in range(len(starts) - 1):
        state, seen = np.uint64(0), np.int64(0)
        before, sign, held = (
            np.int64(0),
            np.int64(0),
            np.uint32(0),
        )  # the last rule that was neither space nor sign; the sign that waits for what follows, and its mark
        spaced, opens = True, False
        i, end = starts[t], starts[t + 1]
        while i < end:
            first = np.int64(data[i])
            size, code = 1, first
            if first >= 0xF0:
                size, code = 4, first & 7
            elif first >= 0xE0:
                size, code = 3, first & 15
            elif first >= 0xC0:
                size, code = 2, first & 31
            for j in range(1, size):
                code = (code << 6) | np.int64(data[i + j] & 63)
            i += size
            rule, letter = (np.int64(rules[code]), np.int64(letters[code])) if code < len(rules) else (np.int64(0), np.int64(1))
            if rule == _SPACE:
                spaced = True
                continue
            if _means(sign, opens, before, rule, letter > 0, spaced):
                state = _mix(state + (np.uint64(seen) << _32) + np.uint64(held))
            sign = np.int64(0)
            if _BETWEEN <= rule <= _BESIDE:
                sign, opens, held = rule, spaced, marks[code]
            else:
                before = rule
                seen += letter
                if rule == _MARK:
                    state = _mix(state + (np.uint64(seen) << _32) + np.uint64(marks[code]))
            spaced = False
        if _means(sign, opens, before, 0, False, False):
            state = _mix(state + (np.uint64(seen) << _32) + np.uint64(held))
        out[t] = state


def canonical_forms(batch: Batch) -> Any:
    """The digest of the canonical form of each text, (t, 2) uint64; of a text without words, of itself without white space."""
    import xxhash

    marks: Any = np.empty(len(batch.texts), np.uint64)
    _marked(np.ascontiguousarray(batch.texts.data), np.ascontiguousarray(batch.texts.starts), *_characters(), marks)
    form = text.digests(batch.words)
    form[:, 0] ^= marks
    form[:, 1] += marks * _M1
    for i in np.flatnonzero(np.diff(batch.words.starts) == 0).tolist():
        bare = "".join(batch.texts.str(i).split()).encode("utf-8", "surrogatepass")
        form[i] = np.frombuffer(xxhash.xxh3_128_digest(bare), "<u8")
    return form


def canonical_facts(batch: Batch) -> pa.Table:
    """Facts keyed by text: ``canonical``, the digest of its canonical form."""
    return pa.table({"text": digest_array(batch.text_digests), "canonical": digest_array(batch.forms)})


def canonical_of(facts: pa.Table, rows: Rows) -> Any:
    """The canonical digest of each text of the dataset, (t, 2) uint64."""
    found = rows.text_digests.copy()
    found[facts.column("text").to_numpy()] = digests_of(facts.column("canonical"))
    return found


@cache
def blank() -> Any:
    """The canonical digest of a text of nothing but white space."""
    import xxhash

    return np.frombuffer(xxhash.xxh3_128_digest(b""), "<u8")


# --- conversations, and classes of equal ones -----------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _conversations(starts: Any, kept: Any, role: Any, part: Any, text: Any, digests: Any, out: Any) -> None:  # pragma: no cover
    for i in range(len(starts) - 1):
        a, b, n = np.uint64(0), _M2, np.uint64(0)
        for m in range(starts[i], starts[i + 1]):
            if kept[m]:
                n += np.uint64(1)
                code = np.uint64(role[m]) * np.uint64(16) + np.uint64(part[m]) + np.uint64(1)
                a = _mix(a ^ digests[text[m], 0]) + code * _M1
                b = _mix(b + digests[text[m], 1]) ^ (code * _M2)
        out[i, 0], out[i, 1] = _mix(a + n), _mix(b ^ (n * _M1))


def spoken(rows: Rows) -> Any:
    """Which messages are part of the conversation: all but what is kept beside it."""
    return rows.part != _META


def conversations(rows: Rows | Batch, digests: Any, kept: Any, *, same_part: bool = False) -> Any:
    """The digest of each distinct row's messages, (u, 2) uint64: role, part and the digest of the text, of those ``kept`` (bool[m]).

    ``same_part``: what a message is for does not count, so that a chosen and a rejected answer may be equal.
    """
    out: Any = np.empty((len(rows.starts) - 1, 2), np.uint64)
    starts, part = rows.starts.astype(np.int64, copy=False), np.zeros_like(rows.part) if same_part else rows.part
    _conversations(starts, np.ascontiguousarray(kept), rows.role, part, rows.text, np.ascontiguousarray(digests), out)
    return out


def _first(part: pa.Table) -> pa.Table:
    part = part.sort_by("row")  # an engine may bring the lines in any order
    numbers, firsts = dense(digests_of(part.column("digest")))
    row = part.column("row").to_numpy()
    return pa.table({"row": row, "first": row[firsts[numbers]]})


def first_rows(digests: Any, group: Group) -> Any:
    """For each digest of (n, 2) the place of the first equal one, int64[n]: a class is named by its first member."""
    found = np.arange(len(digests))
    if len(digests):
        by = (digests[:, 1] % np.uint64(_SHUFFLE)).astype(np.int64)
        made = group(_first, pa.table({"row": found, "digest": digest_array(digests), "by": by}), "by")
        found[made.column("row").to_numpy()] = made.column("first").to_numpy()
    return found


def _sizes(counts: Any) -> dict[str, int]:
    """How many classes there are of each size, by powers of two: {"2": 5, "3-4": 1, ...}."""
    found, low = {}, 2
    while low <= counts.max(initial=0):
        high = max(2, 2 * (low - 1))
        if n := int(((counts >= low) & (counts <= high)).sum()):
            found[f"{low}-{high}" if low < high else str(low)] = n
        low = high + 1
    return found


def _clusters(first: Any) -> dict[str, Any]:
    """What there is to say of classes: ``first`` names the class of each physical row."""
    counts = np.bincount(first)
    largest = np.argsort(-counts, kind="stable")[:10]
    return {
        "rows": int(len(first) - (counts > 0).sum()), "clusters": int((counts > 1).sum()), "sizes": _sizes(counts),
        "largest": [{"first": int(row), "rows": int(counts[row])} for row in largest if counts[row] > 1],
    }  # fmt: skip


# --- the checks -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Duplicates:
    """Rows whose conversation was there before. Every later row is a finding, its partner the first of its class.

    "exact": the same role, part and text of every message. "canonical": the same but for form, and not exact.
    Rows without a message (they could not be read) are compared by their bytes.
    """

    name: str = "duplicates"
    key: Literal["row", "text"] = "text"

    @property
    def options(self) -> Mapping[str, Any]:
        return {}

    def partial(self, batch: Batch) -> pa.Table:
        return canonical_facts(batch)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        kept = spoken(rows)
        silent = np.bincount(rows.row_of[kept], minlength=rows.u) == 0

        def firsts(digests: Any, kept: Any) -> Any:
            """The first physical row of each physical row's class."""
            spoken = conversations(rows, digests, kept)
            spoken[silent] = rows.digests[silent]
            return rows.first[first_rows(spoken, group)][rows.unique]

        exact = firsts(rows.text_digests, kept)
        canonical = firsts(canonical_of(facts, rows), kept)
        bare = firsts(rows.text_digests, kept & (rows.role != _SYSTEM))
        here = np.arange(rows.n)
        of_form = (exact == here) & (canonical != here)
        later = np.flatnonzero((exact != here) | of_form)
        same_bytes = rows.unique[exact[later]] == rows.unique[later]
        detail = np.array(
            ["the same messages, other fields differ", "the same bytes", "the same but for case, punctuation or spacing"], object
        )
        findings = finding_rows(
            self.name,
            np.array(["exact", "canonical"], object)[of_form[later].astype(int)],
            later,
            partner=np.where(of_form, canonical, exact)[later],
            detail=detail[np.where(of_form[later], 2, same_bytes)],
        )
        summary = {
            "rows": rows.n, "exact": _clusters(exact), "canonical": {**_clusters(canonical), "not_exact": int(of_form.sum())},
            "ignoring_system": _clusters(bare), "by_file": _by_file(rows, later), "without_messages": int(silent[rows.unique].sum()),
        }  # fmt: skip
        return Report(findings, summary)


def _by_file(rows: Rows, found: Any) -> dict[str, int]:
    return {str(i): int(n) for i, n in enumerate(np.bincount(rows.file[found], minlength=len(rows.files))) if n}


@dataclass(frozen=True)
class Conflicts:
    """One prompt, two answers; one text, two labels.

    The answer of a row is its last message of part "answer", the prompt all that stands before it and the tools, to the byte.
    Rows without an answer (or with a blank one) or without a prompt cannot conflict and are counted. "conflict": canonically
    different answers. "conflict_form": the answers differ in nothing but form. "label": the same canonical conversation,
    another label. Each row of such a prompt is a finding; its partner is the first row that disagrees with it, ``num / den`` the
    share of the prompt's rows that say what it says. The summary counts prompts compared without system messages and by form, too.
    """

    name: str = "conflicts"
    key: Literal["row", "text"] = "text"

    @property
    def options(self) -> Mapping[str, Any]:
        return {}

    def partial(self, batch: Batch) -> pa.Table:
        return canonical_facts(batch)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        canonical = canonical_of(facts, rows)
        last: Any = np.full(rows.u, -1, np.int64)
        answers = np.flatnonzero(rows.part == _ANSWER)
        last[rows.row_of[answers]] = answers  # of several the last
        before = (np.arange(len(rows.text)) < last[rows.row_of]) | (rows.part == _TOOLS)  # wherever they stand, they are read first
        prompt = before & spoken(rows) & (rows.part != _REJECTED)
        has_prompt = np.bincount(rows.row_of[prompt & (rows.part != _TOOLS)], minlength=rows.u) > 0
        has_answer = last >= 0
        has_answer[has_answer] = (canonical[rows.text[last[has_answer]]] != blank()).any(axis=1)
        asked = np.flatnonzero(has_answer & has_prompt)
        copies = np.bincount(rows.unique, minlength=rows.u)
        said = rows.text[last[asked]]
        meant = dense(canonical)[0][said]

        def prompts(digests: Any, kept: Any) -> Any:
            return asked[first_rows(conversations(rows, digests, kept)[asked], group)]

        same = prompts(rows.text_digests, prompt)
        conflict = _disagreements(asked, same, meant, copies)
        form = _disagreements(asked, same, said, copies).without(conflict.prompts)
        labels = _labels(rows, canonical, copies, group)
        summary = {
            "rows": rows.n, "without_answer": int(copies[~has_answer].sum()), "without_prompt": int(copies[has_answer & ~has_prompt].sum()),
            "conflict": conflict.counts(), "conflict_form": form.counts(), "label": labels.counts(),
        }  # fmt: skip
        bare = prompt & (rows.role != _SYSTEM)
        looser = {
            "ignoring_system": (rows.text_digests, bare), "ignoring_form": (canonical, prompt),
            "ignoring_system_and_form": (canonical, bare),
        }  # fmt: skip
        for name, (digests, kept) in looser.items():
            summary[name] = _disagreements(asked, prompts(digests, kept), meant, copies).counts()
        findings = pa.concat_tables([
            conflict.findings(self.name, "conflict", "{} different answers to one prompt", rows),
            form.findings(self.name, "conflict_form", "{} answers to one prompt that differ in nothing but form", rows),
            labels.findings(self.name, "label", "{} labels of one text", rows),
        ])  # fmt: skip
        return Report(findings, summary | {"by_file": _by_file(rows, findings.column("row").to_numpy())})


@dataclass(frozen=True)
class _Disagreements:
    """Distinct rows of prompts to which different things are said; all arrays but ``prompts`` are beside each other."""

    row: Any
    partner: Any
    prompt: Any  # named by its first row
    variants: Any  # how many different things are said to the prompt
    agree: Any  # physical rows of the prompt that say the same
    total: Any  # physical rows of the prompt
    copies: Any  # physical rows of this row

    @property
    def prompts(self) -> Any:
        return np.unique(self.prompt)

    def without(self, prompts: Any) -> _Disagreements:
        kept = ~np.isin(self.prompt, prompts)
        columns = (self.row, self.partner, self.prompt, self.variants, self.agree, self.total, self.copies)
        return _Disagreements(*(column[kept] for column in columns))

    def counts(self) -> dict[str, Any]:
        return {"prompts": len(self.prompts), "rows": int(self.copies.sum())}

    def findings(self, check: str, kind: str, detail: str, rows: Rows) -> pa.Table:
        if not len(self.row):
            return no_findings()
        which, physical = rows.copies(self.row)
        said = {n: detail.format(n) for n in np.unique(self.variants).tolist()}
        return finding_rows(
            check, kind, physical, partner=rows.first[self.partner][which], score=(self.agree / self.total)[which],
            num=self.agree[which], den=self.total[which], detail=[said[n] for n in self.variants[which].tolist()],
        )  # fmt: skip


def _disagreements(row: Any, prompt: Any, said: Any, copies: Any) -> _Disagreements:
    """Of rows (ascending) with their prompts (named by their first row) and what each says (a number): those of prompts with several."""
    again = np.bincount(prompt, minlength=len(copies))[prompt] > 1  # of a prompt that one row asks there is nothing to compare
    row, prompt, said = row[again], prompt[again], said[again]
    pair, at, of = np.unique(prompt.astype(np.int64) << 32 | said, return_index=True, return_inverse=True)
    of_prompt = pair >> 32  # of each different thing said; ascending
    variants = np.bincount(of_prompt, minlength=len(copies))
    weight = copies[row]
    agree = np.bincount(of, weights=weight, minlength=len(pair)).astype(np.int64)
    total = np.bincount(prompt, weights=weight, minlength=len(copies)).astype(np.int64)
    first: Any = row[at]  # the first row that says it
    by_prompt: Any = np.lexsort((first, of_prompt))
    starts: Any = np.searchsorted(of_prompt[by_prompt], prompt)
    several = np.flatnonzero(variants[prompt] > 1)
    firsts: Any = first[by_prompt]
    one, other = firsts[starts[several]], firsts[starts[several] + 1]  # the first two rows that disagree
    mine = first[of[several]]
    return _Disagreements(
        row[several], np.where(mine == one, other, one), prompt[several], variants[prompt[several]],
        agree[of[several]], total[prompt[several]], weight[several],
    )  # fmt: skip


def _labels(rows: Rows, canonical: Any, copies: Any, group: Group) -> _Disagreements:
    labels = rows.label.dictionary_encode()
    kept = spoken(rows)
    labelled = np.flatnonzero(labels.is_valid().to_numpy(zero_copy_only=False) & (np.bincount(rows.row_of[kept], minlength=rows.u) > 0))
    same = labelled[first_rows(conversations(rows, canonical, kept)[labelled], group)]
    return _disagreements(labelled, same, labels.indices.fill_null(-1).to_numpy()[labelled], copies)
