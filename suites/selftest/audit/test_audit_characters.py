"""Odd characters: the kernels against plain Python, spans that show what they say, and texts that are fine."""

import html
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import characters, model
from harness.audit.characters import KINDS, Characters
from harness.errors import AuditError
from suites.selftest.audit.making import batch, found, report

pytestmark = pytest.mark.selftest

ANY = settings(derandomize=True, deadline=None, max_examples=60)
ODD = (
    "a \t\n\r\x00\x1b[\x7f\x85é\u00adÃ©â€™ðŸ˜€\u0301\u0323\u200b\u200c\u200d\u202e\u2066\ufeff\ufffd\ue000\ufdd0\ufffe\ud800\udfff"
    "\U000e0041\U0001f3f4\U0001f600\U0010ffff\u0378\u0627\u0915\uac00\u1161\u11a8\u212b&;<>p#x/\U000f0000"
)
odd = st.text(st.sampled_from(ODD), max_size=14) | st.text(max_size=8)


def of(text):
    """kind: (start, end, how many, detail) of one text."""
    return {
        one["kind"]: (one["start"], one["end"], one["num"], one["detail"])
        for one in found(report(Characters(), batch([[("user", "prompt", text)]])))
    }


def by_hand(text):
    """Every kind that a character tells: (first place, how many), in plain Python."""
    told, size, before, flag = {}, 0, "", False
    for i, char in enumerate(text):
        code, width = ord(char), len(char.encode("utf-8", "surrogatepass"))
        category = unicodedata.category(char)
        flag = before == "\U0001f3f4" or (flag and before != "" and 0xE0000 <= ord(before) < 0xE0080)
        kind = None
        if char == "\ufffd":
            kind = "replacement"
        elif char == "\ufeff":
            kind = "byte_order_mark"
        elif char in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
            kind = "bidi_control"
        elif 0xE0000 <= code < 0xE0080:
            kind = None if flag else "tag"
        elif char in "\u00ad\u061c\u180e\u200b\u200e\u200f\u2060\u2061\u2062\u2063\u2064":
            kind = "zero_width"
        elif char in "\u200c\u200d":
            kind = "zero_width" if before < "\x80" else None
        elif 0xFDD0 <= code <= 0xFDEF or code % 0x10000 >= 0xFFFE:
            kind = "noncharacter"
        elif category == "Cc" and char not in "\t\n\r":
            kind = "ansi_escape" if text[i : i + 2] == "\x1b[" else "control"
        elif category in ("Cs", "Cn", "Co"):
            kind = {"Cs": "surrogate", "Cn": "unassigned", "Co": "private_use"}[category]
        if kind:
            start, end, n = told.get(kind, (size, size + width, 0))
            told[kind] = (start, end, n + 1)
        size += width
        before = char
    return told


ASKED = {"mojibake", "not_nfc", "html_entity", "html_tag"}


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(odd, min_size=1, max_size=8, unique=True))
def test_characters_are_found_as_python_finds_them(given_texts):
    made = batch([[("user", "prompt", text)] for text in given_texts])
    said = [{} for _ in given_texts]
    for one in found(report(Characters(), made)):
        said[one["row"]][one["kind"]] = one
    for text, hits in zip(given_texts, said, strict=True):
        assert {kind: (hit["start"], hit["end"], hit["num"]) for kind, hit in hits.items() if kind not in ASKED} == by_hand(text)
        assert ("not_nfc" in hits) == (not unicodedata.is_normalized("NFC", text))
        for kind, hit in hits.items():
            shown = text.encode("utf-8", "surrogatepass")[hit["start"] : hit["end"]].decode("utf-8", "surrogatepass")
            assert shown and (kind in ASKED - {"not_nfc"} or f"U+{ord(shown):04X}" in hit["detail"])


def test_every_character_alone():
    """The table says of each character of Unicode what Python says; of its NFC too."""
    table = characters._table()
    kinds = [None, *KINDS]
    for code in range(0x110000):
        said = kinds[table[code] & characters._KIND] if table[code] & characters._KIND != characters._JOINER else None
        char = chr(code)
        if said is not None or code < 0x500 or code % 97 == 0:
            assert said == next(iter(by_hand(char if code not in (0x200C, 0x200D) else "é")), None), hex(code)
        if not unicodedata.is_normalized("NFC", char):
            assert table[code] & characters._MAY_COMBINE, hex(code)


def test_what_melts_into_the_character_before_is_asked():
    """Every composition of Unicode, written in two, is seen."""
    pairs = [unicodedata.normalize("NFD", chr(code)) for code in range(0x20000) if unicodedata.is_normalized("NFC", chr(code))]
    pairs = [pair for pair in pairs if len(pair) > 1]
    made = batch([[("user", "prompt", pair)] for pair in pairs])
    assert len(pairs) > 12000
    assert (characters._masks(made.texts) & (1 << characters._NOT_NFC)).all()


@ANY
@given(
    st.text(
        st.characters(min_codepoint=0xA0, max_codepoint=0x2FF, categories=["Ll", "Lu"]) | st.sampled_from("漢字пр😀"),
        min_size=2,
        max_size=9,
    )
)
def test_what_was_read_as_windows_1252_is_found(text):
    misread = text.encode().decode("cp1252", "surrogateescape")
    misread = "".join(chr(ord(char) - 0xDC00) if "\udc80" <= char <= "\udcff" else char for char in misread)
    start, end, n, detail = of("so " + misread)["mojibake"]
    assert (start, n) == (3, 1) and f"U+{ord(text[0]):04X}" in detail
    assert ("so " + misread).encode()[start:end].decode() == misread


@pytest.mark.parametrize("text", ["naÃ¯ve", "itâ€™s", "â‚¬ 5", "20Â°C", "aoÃ»t", "ðŸ˜€", "Ð¿Ñ€Ð¸Ð²ÐµÑ‚", "ï»¿id"])
def test_misread_texts(text):
    assert "mojibake" in of(text)


@pytest.mark.parametrize(
    "text",
    [
        "CAFÉ»", "É’s", "NÃO", "MAÇÃ» x", "été…»", "naïve café", "« où »", "Ærø – å", "10 £", "привет", "漢字かな交じり文",
        "한국어", "مرحبا", "שלום", "नमस्ते", "می\u200cخواهم", "👨\u200d👩\u200d👧", "🏴\U000e0067\U000e0062\U000e007f", "❤\ufe0f",
        "a < b && c > d", "if (a<b) x&y;", "R&D; AT&T", "List<String> x", "<|im_start|>", "\tx\r\n", "Việt Nam", "ไทย",
    ],
)  # fmt: skip
def test_texts_that_are_fine(text):
    assert of(text) == {}


def test_what_is_left_of_a_page():
    assert of("a &amp; b &#39;&#x1F600;") == {"html_entity": (2, 7, 3, "stands for U+0026 AMPERSAND, 3 times")}
    assert of("x<BR/>y<a href='#'>z</a>") == {"html_tag": (1, 6, 3, "3 times")}
    assert of("\x1b[31mred\x1b[0m") == {"ansi_escape": (0, 1, 2, "U+001B, 2 times")}


@ANY
@given(st.text(st.sampled_from("<>&\"'")))
def test_what_html_escapes_is_found(text):
    assert of("e\u0301" + html.escape(text)).get("html_entity", (0, 0, 0))[2] == len(text)


@ANY
@given(st.lists(odd, min_size=2, max_size=6, unique=True))
def test_facts_do_not_depend_on_the_batch(given_texts):
    check, key = Characters(), Characters.key
    rows = [[("user", "prompt", text)] for text in given_texts]
    whole = model.merge([check.partial(batch(rows))], key)
    parts = [check.partial(batch([row])) for row in reversed(rows)]
    assert model.merge(parts, key).equals(whole) and model.merge([whole, *parts], key).equals(whole)


def test_every_message_of_every_copy_is_found():
    made = batch(
        [[("system", "prompt", "ok"), ("user", "prompt", "\ufffd"), ("assistant", "answer", "\ufffd")], [("user", "prompt", "\x00\ufffd")]]
    )
    said = report(Characters(), made, [1, 0, 1])
    assert sorted((one["row"], one["message"], one["kind"]) for one in found(said)) == [
        (0, 0, "control"), (0, 0, "replacement"), (1, 1, "replacement"), (1, 2, "replacement"), (2, 0, "control"), (2, 0, "replacement"),
    ]  # fmt: skip
    assert said.summary == {
        "kinds": {
            "control": {"severity": "violation", "rows": 2, "findings": 2},
            "replacement": {"severity": "violation", "rows": 3, "findings": 4},
        },
        "violations": 6,
        "rows_with_violations": 3,
    }


def test_what_is_allowed_is_counted_and_not_reported():
    made = batch([[("user", "prompt", "\ufffd\x00")]])
    said = report(Characters(allowed=("replacement",)), made)
    assert [one["kind"] for one in found(said)] == ["control"] and said.summary["violations"] == 1
    assert said.summary["kinds"]["replacement"]["severity"] == "allowed"
    assert report(Characters(allowed=("replacement", "control")), made).findings.num_rows == 0
    with pytest.raises(AuditError, match="did you mean 'mojibake'"):
        Characters(allowed=("mojibaka",))


def test_the_version_of_unicode_is_in_the_options():
    assert Characters().options == {"unicode": unicodedata.unidata_version} == Characters(allowed=("control",)).options
    assert set(KINDS.values()) == {"violation", "remark"} and np.iinfo(np.int32).bits > len(KINDS)
