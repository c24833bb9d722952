"""Scripts counted exactly, languages on a sample that depends on the text alone, with limits that hold."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import language
from harness.audit.language import LETTERS, SCRIPTS, Language
from harness.audit.model import Texts, merge
from harness.errors import AuditError
from harness.stats.intervals import clopper_pearson
from suites.selftest.audit.making import batch, found, report

pytestmark = pytest.mark.selftest
quick = settings(derandomize=True, deadline=None, max_examples=80)

EN = "The quick brown fox jumps over the lazy dog near the river bank."
DE = "Der schnelle braune Fuchs springt über den faulen Hund am Ufer des Flusses."
RU = "Быстрая коричневая лиса перепрыгивает через ленивую собаку у реки."
ZH = "敏捷的棕色狐狸跳过了懒惰的狗，然后在河边的树下安静地睡着了一整天。"


def counted(*texts):
    raw = [text.encode("utf-8", "surrogatepass") for text in texts]
    return language.scripts(Texts(np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)])))


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Straßenbahnœuvre", "latin"), ("ｗｉｄｅ", "latin"), ("Съешь", "cyrillic"), ("ξεσκεπάζω", "greek"), ("漢字々", "han"),
        ("ひらがなカタカナー", "kana"), ("한국어", "hangul"), ("العربية", "arabic"), ("עברית", "hebrew"), ("नमसत", "devanagari"),
        ("ภาษาไทย", "thai"), ("ქართული", "other letters"),
        ("0९５", "digits"), (" \t.,!—“”😀\ud800\u0301€", "signs"),
    ],
)  # fmt: skip
def test_each_script_is_counted_as_itself(text, script):
    assert dict(zip(SCRIPTS, counted(text)[0].tolist(), strict=True)) == {s: len(text) * (s == script) for s in SCRIPTS}


@quick
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6))
def test_counts_are_those_of_the_unicode_tables(texts):
    counts = counted(*texts)
    for text, line in zip(texts, counts.tolist(), strict=True):
        assert sum(line) == len(text)
        assert sum(line[:LETTERS]) == sum(c.isalpha() for c in text)
        assert line[SCRIPTS.index("digits")] == sum(unicodedata.category(c) == "Nd" for c in text)
        assert line[0] == sum(c.isalpha() and "LATIN" in unicodedata.name(c).split()[:2] for c in text)


def summary(check, *rows, **more):
    return report(check, batch([[("user", "prompt", text)] for text in rows]), **more).summary


def test_the_mix_of_small_data_is_exact():
    said = summary(Language(rate=1), EN, DE, RU, "too short", "12345", physical=[0, 0, 1, 2, 3, 4])
    assert {code: mix["texts"] for code, mix in said["languages"].items()} == {"de": 1, "en": 1, "ru": 1}
    assert said["languages"]["en"] == {"texts": 1, "share": 1 / 3, "low": 1 / 3, "high": 1 / 3}
    assert said["sample"] == {"rate": 1, "drawn": 5, "asked": 3, "too_short": 2, "texts": 5, "texts_long": 3}
    assert said["rows"] == {"latin": 4, "cyrillic": 1, "no letters": 1}
    assert said["characters"]["cyrillic"] == sum(c.isalpha() for c in RU)
    assert said["characters"]["latin"] == sum(c.isalpha() for c in EN * 2 + DE + "tooshort")


def test_a_sample_has_exact_limits():
    said = summary(Language(rate=0.25, alpha=0.01), *(f"{EN} {i}" for i in range(300)), *(f"{RU} {i}" for i in range(100)))
    n, k = said["sample"]["asked"], said["languages"]["ru"]["texts"]
    assert said["sample"]["drawn"] == n and 60 < n < 140 and 0 < k < n
    assert (said["languages"]["ru"]["low"], said["languages"]["ru"]["high"]) == tuple(clopper_pearson(k, n, 0.01))


def test_the_draw_depends_on_the_text_alone():
    texts = [f"{EN} {i}" for i in range(200)]
    check = Language(rate=0.25)
    apart = merge([check.partial(batch([[("user", "prompt", text)]])) for text in texts], "text")
    whole = merge([check.partial(batch([[("system", "prompt", text) for text in texts[::-1]]]))], "text")
    assert whole.equals(apart)
    drawn = [
        set(np.flatnonzero(Language(rate=r)._drawn(batch([[("user", "prompt", t)] for t in texts]).text_digests))) for r in (0, 0.1, 0.5, 1)
    ]
    assert drawn[0] <= drawn[1] <= drawn[2] <= drawn[3] and (len(drawn[0]), len(drawn[3])) == (0, 200) and 5 < len(drawn[1]) < 40


def test_rows_unlike_the_declared_languages():
    said = report(
        Language(("en",), rate=1), batch([[("user", "prompt", t)] for t in (EN, RU, DE, "да", EN + RU)]), physical=[1, 0, 2, 3, 4, 1]
    )
    kinds = [(f["row"], f["kind"]) for f in found(said)]
    assert kinds == [*((row, "script") for row in (0, 4, 5)), *((row, "language") for row in (0, 2, 4, 5))]
    first, mixed = found(said)[0], found(said)[1]
    letters = sum(c.isalpha() for c in RU)
    assert (first["num"], first["den"], first["score"]) == (letters, letters, 1.0)
    assert (mixed["num"], mixed["den"]) == (letters, letters + sum(c.isalpha() for c in EN))
    assert found(said)[4]["detail"] == "language de"
    assert found(report(Language(("en", "de", "ru"), rate=1), batch([[("user", "prompt", t)] for t in (EN, RU, DE)]))) == []
    assert found(report(Language(("ja",), rate=0), batch([[("user", "prompt", ZH)]]))) == []  # Han is written there too


def test_nothing_declared_nothing_found():
    assert found(report(Language(rate=1), batch([[("user", "prompt", RU)], [("user", "prompt", EN)]]))) == []


def test_an_answer_in_another_language_than_the_question():
    asked = [
        [("user", "prompt", q), ("assistant", "answer", a)]
        for q, a in ((EN, EN + " Yes."), (EN, DE), (EN, RU), (ZH, RU), (EN, "да"), (DE, DE))
    ]
    said = report(Language(rate=1), batch(asked))
    assert [(f["row"], f["message"], f["kind"], f["detail"]) for f in found(said)] == [
        (1, 1, "answer", "asked in en, answered in de"),
        (2, 1, "answer", "asked in latin, answered in cyrillic"),
        (3, 1, "answer", "asked in han, answered in cyrillic"),
    ]
    assert said.summary["findings"] == {"answer": 3}
    scripts_only = report(Language(rate=0), batch(asked))
    assert [f["row"] for f in found(scripts_only)] == [2, 3]


def test_the_last_question_and_the_last_answer_count():
    row = [("user", "prompt", RU), ("assistant", "prompt", RU + "!"), ("user", "prompt", EN), ("assistant", "answer", EN + "!")]
    assert found(report(Language(rate=0), batch([row, []]))) == []
    assert [f["message"] for f in found(report(Language(rate=0), batch([[*row[:2], row[2], ("assistant", "answer", RU)]])))] == [3]


def test_what_is_no_language_or_rate():
    with pytest.raises(AuditError, match="klingon, xx unknown"):
        Language(("en", "xx", "klingon"))
    with pytest.raises(AuditError, match="no share"):
        Language(rate=1.5)
