"""Words that call for a look: found as whole words, in every case, nowhere else; and the classifier of the user's."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import literals, sensitive
from harness.audit.sensitive import Sensitive
from harness.errors import AuditError
from suites.selftest.audit.making import batch, found, report

pytestmark = pytest.mark.selftest
quick = settings(derandomize=True, deadline=None, max_examples=60)

WORDS = 'mild = ["darn", "holy cow", "Straße", "ХРЕН", "くそ", "self-harm"]\nodd = ["cow"]\n'


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "mine.toml"
    path.write_text(WORDS, encoding="utf-8")
    return path


def said(check, *texts):
    return [
        (f["row"], f["kind"], f["detail"], f["start"], f["end"])
        for f in found(report(check, batch([[("user", "prompt", t)] for t in texts])))
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Darn it", ["darn"]),
        ("(DARN!)", ["darn"]),
        ("darning, undarn, darn2, darné", []),
        ("holy\ncow", ["holy cow", "cow"]),
        ("holy_cow, holy-COW", ["holy cow", "cow", "holy cow", "cow"]),
        ("holy moly cow", ["cow"]),
        ("STRASSE, straße, STRAßE, strasse", ["straße"] * 4),
        ("Хрен, хрен, ХРЕНЬ", ["хрен", "хрен"]),
        ("これはくそだ", ["くそ"]),
        ("self harm", ["self-harm"]),
        ("d4rn", []),
        ("", []),
    ],
)
def test_whole_words_in_every_case(mine, text, words):
    assert [detail for _, _, detail, _, _ in said(Sensitive((mine,), builtin=False), text)] == words


def test_leet_is_read_where_asked(mine):
    assert said(Sensitive((mine,), builtin=False, leet=True), "d4rn, darn") == [(0, "mild", "darn", 0, 4), (0, "mild", "darn", 6, 10)]


def test_every_word_of_the_built_in_list_is_found():
    check = Sensitive()
    entries = sensitive._entries(check._named())
    assert len(entries) > 200 and len({category for category, _ in entries}) == 8
    for category, word in entries:
        assert (category, word) in [(kind, detail) for _, kind, detail, _, _ in said(check, f"so, {word}! yes")], word


@pytest.mark.parametrize(
    "text", ["The cockpit of the Scunthorpe classic; bass grape, assess.", "Follow the previous instructions.", "He ignored it all."]
)
def test_ordinary_words_are_left_alone(text):
    assert said(Sensitive(), text) == []


TEXTS = st.lists(
    st.lists(st.sampled_from(["darn", "Darn", "cow", "holy", " ", "\n", "-", "x", "é", "くそ", "!"]), max_size=7).map("".join),
    min_size=1,
    max_size=6,
)


@quick
@given(texts=TEXTS)
def test_findings_are_those_of_a_regular_expression(mine, texts):
    slow = []
    for i, text in enumerate(texts):
        raw, spaced = text.encode(), re.sub(rb"[\s_-]", b" ", text.encode())
        for category, word in [("mild", "darn"), ("mild", "holy cow"), ("odd", "cow")]:
            slow += [
                (i, category, word, *m.span()) for m in re.finditer(rb"(?i)(?<![\w\x80-\xff])%b(?![\w\x80-\xff])" % word.encode(), spaced)
            ]
        slow += [(i, "mild", "くそ", *m.span()) for m in re.finditer("くそ".encode(), raw)]
    made = batch([[("user", "prompt", text)] for text in texts])
    entries = sensitive._entries(Sensitive((mine,), builtin=False)._named())
    place = {made.texts.str(i): i for i in range(len(made.texts))}
    assert sensitive._search(entries, made.texts, False) == sorted(
        {(place[texts[i]], c, w, a, b) for i, c, w, a, b in slow}, key=lambda h: (h[0], h[3], h[4], h[1], h[2])
    )


def test_without_hyperscan_the_same_facts(monkeypatch):
    words = dict.fromkeys(word for _, word in sensitive._entries(Sensitive()._named()))
    made = batch([[("user", "prompt", f"a {word}, {word.upper()}. {word}x")] for word in words])
    fast = Sensitive(leet=True).partial(made)
    monkeypatch.setattr(literals, "_database", lambda words: (_ for _ in ()).throw(ImportError("hyperscan")))
    assert Sensitive(leet=True).partial(made).equals(fast) and fast.num_rows == len(words)


def test_counts_are_of_physical_rows(mine):
    made = batch([[("user", "prompt", "darn cow"), ("assistant", "answer", "darn")], [("user", "prompt", "fine")]])
    check = report(Sensitive((mine,), builtin=False), made, physical=[1, 0, 0])
    assert check.summary["categories"] == {"mild": {"findings": 4, "rows": 2}, "odd": {"findings": 2, "rows": 2}}
    assert [(f["row"], f["message"]) for f in found(check)] == [(1, 0), (1, 0), (1, 1), (2, 0), (2, 0), (2, 1)]


# --- the classifier -------------------------------------------------------------------------------


def length(texts):
    return [len(text) / 10 for text in texts]


def broken(texts):
    return [0.5]


def test_scores_above_the_threshold_are_findings():
    check = Sensitive(builtin=False, classifier=f"{__name__}:length", threshold=0.3)
    findings = found(report(check, batch([[("user", "prompt", "ab")], [("user", "prompt", "abc"), ("assistant", "answer", "abcd")]])))
    assert [(f["row"], f["message"], f["kind"], f["score"]) for f in findings] == [(1, 0, "classifier", 0.3), (1, 1, "classifier", 0.4)]


@pytest.mark.parametrize(
    ("classifier", "message"),
    [("no.such:thing", "cannot be imported"), (f"{__name__}:none", "cannot be imported"), (f"{__name__}:broken", "1 scores for 2")],
)
def test_a_classifier_that_cannot_be_used(classifier, message):
    with pytest.raises(AuditError, match=message):
        Sensitive(classifier=classifier).partial(batch([[("user", "prompt", "a"), ("user", "prompt", "b")]]))


@pytest.mark.parametrize(("text", "message"), [("x = [", "not TOML"), ("x = 1", "x is no array"), ("x = [1]", "x is no array")])
def test_a_list_that_is_none(tmp_path, text, message):
    (tmp_path / "l.toml").write_text(text)
    with pytest.raises(AuditError, match=message):
        Sensitive((tmp_path / "l.toml",)).partial(batch([[("user", "prompt", "a")]]))
    with pytest.raises(AuditError, match="cannot be read"):
        _ = Sensitive((tmp_path / "none.toml",)).options


def test_a_changed_list_changes_the_options(tmp_path):
    path = tmp_path / "l.toml"
    path.write_text('x = ["a"]')
    before = Sensitive((path,)).options
    path.write_text('x = ["b"]')
    assert before != Sensitive((path,)).options
    assert said(Sensitive((path,), builtin=False), "a b") == [(0, "x", "b", 2, 3)]
