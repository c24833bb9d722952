"""Canonical words: the hashes say of any texts what the plain definition says of them."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.audit import text
from harness.audit.model import Texts
from harness.quant.calibration import canonical as of_calibration

pytestmark = pytest.mark.selftest

# Few letters, so that words meet; and what is treated in its own way: joins, marks, unspaced scripts, folding, lone surrogates
ALPHABET = "abAB1 .'’-\n\t\x00éÉe\u0301\u0345ﬁ½ßſK\u200d\u00ad\ufe0f\ufeff漢字かﾊﾞป\u0e34ကᄀ각İı\ud800\U0001f600\U00020000"
SOME = st.one_of(st.text(alphabet=ALPHABET, max_size=30), st.text(st.characters(), max_size=20), st.text(alphabet="ab .'", max_size=60))
MANY = st.lists(SOME, max_size=12)
PLAIN = settings(derandomize=True, deadline=None, max_examples=400)


def flat(given: list[str]) -> Texts:
    raw = [one.encode("utf-8", "surrogatepass") for one in given]
    return Texts(np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]).astype(np.int64))


def lists(hashes, starts) -> list[list[int]]:
    return [hashes[a:b].tolist() for a, b in pairwise(starts)]


def one_to_one(left, right) -> bool:
    """Whether two sequences of names part their places alike."""
    pairs = set(zip(left, right, strict=True))
    return len(pairs) == len(set(left)) == len(set(right))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("", []),
        (" .'- ", []),
        ("U.S. troops don’t", ["us", "troops", "dont"]),
        ("don't Don’t DONT", ["dont"] * 3),
        ("Straße ﬁve ＡＢＣ １２", ["strasse", "five", "abc", "12"]),
        ("snake_case a-b\tc\x00d", ["snake", "case", "a", "b", "c", "d"]),
        ("E\u0301te\u0301", ["été"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are marks, and part of the word
        ("漢字とkana。", ["漢", "字", "と", "kana"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("한국어 말", ["한국어", "말"]),  # Korean is written with spaces
        ("co\u00adop zero\u200bwidth \ufeffbom ❤\ufe0f!", ["coop", "zerowidth", "bom"]),
        ("lone \ud800 surrogate", ["lone", "surrogate"]),
    ],
)
def test_words_of(given, words):
    assert text.canonical(given) == words


@PLAIN
@given(st.text(alphabet="abC .,'’-éÉßﬁ½½\n1²Ω", max_size=40))
def test_canonical_means_what_it_means_for_calibration_where_words_are_spaced(given):
    assert tuple(text.canonical(given)) == of_calibration(given)


@PLAIN
@given(MANY)
@example(["abcdefgh", "abcdefgh" * 2, "abcdefg", "abcdefghi", "ABCDEFGH", "é" * 4, "é" * 5, "abcdefgé"])
@example(["a", "", "a b", "ab", "a.b", "b a", "b  a!"])
def test_words_are_equal_where_canonical_words_are(given):
    expected = [text.canonical(one) for one in given]
    words = text.words(flat(given))
    assert np.diff(words.starts).tolist() == [len(one) for one in expected]
    assert one_to_one([w for one in expected for w in one], words.hashes.tolist())


@PLAIN
@given(MANY)
def test_digests_are_equal_where_canonical_texts_are(given):
    both = [*given, *[one.upper().lower() for one in given], " ".join(given)]
    digests = text.digests(text.words(flat(both)))
    assert one_to_one([tuple(text.canonical(one)) for one in both], [tuple(d) for d in digests.tolist()])


def test_digests_see_the_order_and_the_borders_of_words():
    said = ["a b", "b a", "ab", "a", "a a", "a a a", "", "b a a", "a b a"]
    assert len({tuple(d) for d in text.digests(text.words(flat(said))).tolist()}) == len(said)


@PLAIN
@given(MANY, st.integers(1, 5))
def test_shingles_and_ngrams_are_windows_of_canonical_words(given, n):
    canonical = [text.canonical(one) for one in given]
    words = text.words(flat(given))
    windows = [[tuple(one[i : i + n]) for i in range(len(one) - n + 1)] for one in canonical]
    grams = lists(*text.ngrams(words, n))
    assert [len(one) for one in grams] == [len(one) for one in windows]
    assert one_to_one([w for one in windows for w in one], [h for one in grams for h in one])

    name = {w: h for ws, hs in zip(windows, grams, strict=True) for w, h in zip(ws, hs, strict=True)}
    found = lists(*text.shingles(words, n))
    assert all(one == sorted(set(one)) for one in found)
    short = [tuple(one) for one in canonical if 0 < len(one) < n]
    whole = [h for one, hs in zip(canonical, found, strict=True) if 0 < len(one) < n for h in hs]
    assert one_to_one(short, whole) and not set(whole) & set(name.values())  # the text itself, and one shingle
    for windows_of, hashes, one in zip(windows, found, canonical, strict=True):
        if len(one) >= n:
            assert set(hashes) == {name[w] for w in windows_of}
        elif not one:
            assert hashes == []


def test_shingles_of_long_and_of_repetitive_texts_are_those_of_numpy():
    rng = np.random.default_rng(0)
    said = [" ".join(rng.choice(["a", "b", "c", "dd", "ee"], size)) for size in (17, 100, 5000, 40000)]
    said += ["word " * 200_000, "one two " * 100_000, " ".join(map(str, range(100_000)))]
    words = text.words(flat(said))
    expected = [np.unique(np.array(one, np.uint64)).tolist() for one in lists(*text.ngrams(words, 3))]
    assert lists(*text.shingles(words, 3)) == expected
    assert len(expected[-3]) == 1 and len(expected[-2]) == 2 and len(expected[-1]) == 99_998


def test_hashes_depend_on_the_text_alone():
    said = ["The cat sat", "漢字 THE cat", "the cat sat on"]
    alone = [text.words(flat([one])).hashes.tolist() for one in said]
    assert lists(text.words(flat(said)).hashes, text.words(flat(said)).starts) == alone
    tail = flat(["before, é", *said])
    tail = Texts(tail.data, tail.starts[1:])  # a slice of a longer column
    assert lists(text.words(tail).hashes, text.words(tail).starts) == alone
    code = "import numpy as n;from harness.audit import text as t;from harness.audit.model import Texts as T;" \
        "print(*t.words(T(n.frombuffer(b'The cat sat',n.uint8),n.array([0,11]))).hashes)"  # fmt: skip
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert other.stdout.split() == [str(h) for h in alone[0]]
    # frozen: facts on disk hold these numbers; if they change, so must the versions of the checks that keep them
    assert alone[0] == FROZEN


FROZEN = [7823177131709162178, 14968068749188682705, 55966700664528666]


def test_hashes_spread():
    """Numbers in a row, the hardest words: no two equal, and every bit is set in half of them."""
    said = " ".join(map(str, range(200_000)))
    words = text.words(flat([said]))
    for hashes in (words.hashes, text.ngrams(words, 3)[0], text.digests(text.words(flat(said.split()[:50_000])))[:, 0]):
        assert len(np.unique(hashes)) == len(hashes)
        share = np.unpackbits(np.ascontiguousarray(hashes).view(np.uint8)).reshape(-1, 64).mean(axis=0)
        assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(len(hashes))  # five standard errors


@pytest.mark.parametrize("said", [[], [""], ["", "", ""], ["..."]])
def test_nothing_said(said):
    words = text.words(flat(said))
    assert len(words) == len(said) and len(words.hashes) == 0
    assert len(text.digests(words)) == len(said)
    assert len(text.shingles(words, 3)[0]) == len(text.ngrams(words, 3)[0]) == 0
