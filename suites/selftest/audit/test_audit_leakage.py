"""Leaks, held against an oracle that compares every text with every item in plain Python."""

from __future__ import annotations

import gzip
import json
import pickle
import random
from collections import Counter, defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import model, text
from harness.audit.leakage import KINDS, Item, Leakage, References, index
from harness.errors import AuditError
from harness.golden import load, names
from suites.selftest.audit.making import batch, found, report, rows_of

pytestmark = pytest.mark.selftest


# --- the oracle -----------------------------------------------------------------------------------


def grams(words, n=8):
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def jaccard(a, b):
    a, b = set(grams(a, 3)), set(grams(b, 3))
    return Fraction(len(a & b), len(a | b)) if a | b else Fraction(0)


def telling(words):
    return len({word for word in words if not word.isdecimal() and (len(word) > 1 or not word.isalpha())}) >= 4


class Oracle:
    """The definition, word for word: (row, item) -> (kind, score)."""

    def __init__(self, rows, items, common, common_items):
        self.rows = [[text.canonical(said) for _, _, said in row] for row in rows]
        self.items = {item.id: [text.canonical(said) for said in item.texts] for item in items}
        self.common, self.common_items = common, common_items
        distinct = {tuple(map(tuple, parts)) for parts in self.items.values()}
        in_items, in_rows = Counter(), Counter()
        for parts in distinct:
            whole = [word for part in parts for word in part]
            in_items.update({("gram", gram) for gram in grams(whole)} | {("said", part) for part in parts if part})
        known = {part for parts in distinct for part in parts} | {tuple(word for part in parts for word in part) for parts in distinct}
        for messages in {tuple(map(tuple, row)) for row in map(tuple, rows)}:
            row = [text.canonical(said) for _, _, said in messages]
            in_rows.update(
                {("gram", gram) for words in row for gram in grams(words)} | {("said", part) for part in known if self.like(row, part)}
            )
        self.boilerplate = {key for key in in_items | in_rows if in_items[key] > common_items or in_rows[key] > common}

    def like(self, row, part):
        texts = {tuple(part) for parts in self.items.values() for part in parts}
        return any(tuple(words) == part or (part in texts and self.near(words, part)) for words in row if words)

    def near(self, words, part):
        return len(words) >= 5 and len(part) >= 5 and jaccard(words, part) >= Fraction(4, 5)

    def of(self, row, parts):
        whole = [word for part in parts for word in part]
        proofs = []
        for words in filter(None, row):
            if words == whole and len(words) >= 5 and telling(words):
                proofs.append((0, Fraction(1)))
            for part in filter(None, parts):
                if len(part) >= 5 and telling(part) and ("said", tuple(part)) not in self.boilerplate:
                    if words == part:
                        proofs.append((0, Fraction(len(part), len(whole))))
                    elif self.near(words, part):
                        proofs.append((1, jaccard(words, part)))
        said = {tuple(part) for part in parts if part}
        rarest = min((self.rows_like(part) for part in said), default=0)
        if len(said) > 1 and len(whole) >= 5 and telling(whole) and said <= set(map(tuple, row)) and rarest <= self.common:
            proofs.append((0, Fraction(1)))
        ours = {gram for gram in grams(whole) if telling(gram) and ("gram", gram) not in self.boilerplate}
        shared = ours & {gram for words in row for gram in grams(words)}
        if shared:
            long = {gram for gram in grams(whole, 13) if all(gram[i : i + 8] in ours for i in range(6))}
            proofs.append(
                (2 if long & {gram for words in row for gram in grams(words, 13)} else 3, Fraction(len(shared), len(set(grams(whole)))))
            )
        return min(proofs, key=lambda proof: (proof[0], -proof[1]), default=None)

    def rows_like(self, part):
        return sum(self.like(row, part) for row in {tuple(map(tuple, row)) for row in self.rows})

    def leaks(self):
        every = {(i, name): self.of(row, parts) for i, row in enumerate(self.rows) for name, parts in self.items.items()}
        return {pair: (KINDS[proof[0]], proof[1]) for pair, proof in every.items() if proof}


def said_by(rows, items, common=1000, common_items=20):
    distinct = list(dict.fromkeys(map(tuple, rows)))
    made = batch(distinct)
    said = report(Leakage((References("set", tuple(items)),), common, common_items), made, [distinct.index(tuple(row)) for row in rows])
    leaks = {}
    for row in found(said):
        key = row["row"], row["item"].removeprefix("set/")
        assert key not in leaks, "a pair is reported once"
        assert row["score"] == row["num"] / row["den"]
        leaks[key] = row["kind"], Fraction(row["num"], row["den"])
    return leaks, said


def edited(rng, words, vocabulary):
    """A copy of some words with a few changes, or a piece of it."""
    words = list(words)
    for _ in range(rng.randrange(4)):
        i = rng.randrange(len(words))
        words[i : i + rng.randrange(2)] = rng.choices(vocabulary, k=rng.randrange(2))
        words = words or ["x"]
    cut = rng.choice([None, None, 7, 8, 12, 13, 20])
    return words[:cut]


def corpus(rng, n_rows, n_items, vocabulary, longest):
    """Items of one to three texts, some of them shared; rows that copy some of what items say, or not."""
    pool = [rng.choices(vocabulary, k=rng.randrange(1, longest)) for _ in range(n_items)]
    items = [Item(f"i{k}", tuple(" ".join(rng.choice(pool)) for _ in range(rng.randrange(1, 4)))) for k in range(n_items)]
    rows = []
    for _ in range(n_rows):
        messages = []
        for role, part in (("user", "prompt"), ("assistant", "answer"))[: rng.randrange(1, 3)]:
            words = rng.choices(vocabulary, k=rng.randrange(0, longest))
            if rng.random() < 0.5:
                item = rng.choice(items)
                whole = " ".join(item.texts if rng.random() < 0.3 else [rng.choice(item.texts)]).split()
                words = rng.choice([[], words]) + edited(rng, whole, vocabulary) + rng.choice([[], words])
            messages.append((role, part, rng.choice([" ", ", "]).join(words).title()))
        rows.append(tuple(messages))
    return rows, items


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.randoms(use_true_random=False), st.sampled_from([6, 9, 60]), st.sampled_from([1, 2, 1000]), st.sampled_from([1, 3, 20]))
def test_small_corpora_agree_with_the_oracle(rng, size, common, common_items):
    vocabulary = [f"w{i}" for i in range(size - 3)] + ["žluť", "7", "z"]
    rows, items = corpus(rng, 12, 8, vocabulary, 24)
    assert said_by(rows, items, common, common_items)[0] == Oracle(rows, items, common, common_items).leaks()


def test_a_larger_corpus_agrees_with_the_oracle_and_has_leaks_of_every_kind():
    rows, items = corpus(random.Random(5), 2000, 300, [f"w{i}" for i in range(400)], 40)
    expected = Oracle.__new__(Oracle)  # without commonness, which is quadratic: nothing here is common
    expected.rows = [[text.canonical(said) for _, _, said in row] for row in rows]
    expected.items = {item.id: [text.canonical(said) for said in item.texts] for item in items}
    expected.common, expected.boilerplate, expected.rows_like = 10**6, set(), lambda part: 0
    holding = defaultdict(set)  # only pairs that share three words in a row, or a text, can leak
    for name, parts in expected.items.items():
        for said in [*parts, [word for part in parts for word in part]]:
            for key in [tuple(said), *grams(said, 3)]:
                holding[key].add(name)
    leaks = {}
    for i, row in enumerate(expected.rows):
        for name in set().union(*(holding.get(key, ()) for words in row for key in [tuple(words), *grams(words, 3)])):
            if proof := expected.of(row, expected.items[name]):
                leaks[i, name] = KINDS[proof[0]], proof[1]
    assert said_by(rows, items, 10**6, 10**6)[0] == leaks
    assert min(Counter(kind for kind, _ in leaks.values()).values()) > 30
    assert {kind for kind, _ in leaks.values()} == set(KINDS)


# --- what is said of each ----------------------------------------------------------------------------

QUESTION = "How many people live in the largest city of the country in which the Danube ends"
ANSWER = "About one million eight hundred thousand"


def chat(*texts):
    roles = (("user", "prompt"), ("assistant", "answer"))
    return tuple((*roles[i % 2], said) for i, said in enumerate(texts))


@pytest.mark.parametrize(
    ("row", "kind", "score"),
    [
        (chat("how many people live in the largest city of the country in which the danube ends?", "2"), "equal", Fraction(16, 22)),
        (chat("So:", ANSWER.upper() + "!", QUESTION), "equal", Fraction(1)),
        (chat(f"{QUESTION}? {ANSWER}", ""), "equal", Fraction(1)),
        (chat(f"Say {QUESTION} today", ""), "near", Fraction(14, 16)),
        (chat("Well then, tell me now please " + " ".join(QUESTION.split()[:13]), ""), "13-gram", Fraction(6, 15)),
        (chat("Well then, tell me now please " + " ".join(QUESTION.split()[:12]), ""), "8-gram", Fraction(5, 15)),
        (chat("Well then, tell me now please " + " ".join(QUESTION.split()[:7]), "no"), None, None),
    ],
)
def test_kinds_of_proof(row, kind, score):
    leaks, said = said_by([chat("hello", "world"), row], [Item("q", (QUESTION, ANSWER))])
    assert leaks == ({(1, "q"): (kind, score)} if kind else {})
    assert said.summary["sets"]["set"]["leaked"] == len(leaks)


def test_thirteen_words_have_to_stand_in_a_row():
    """The six grams of them, in order, but in two pieces: eight words in a row, twice."""
    words = QUESTION.split()[:13]
    text = " ".join([*words[:10], "and", *words[3:]])
    assert said_by([chat("See " + text, "")], [Item("q", (QUESTION,))])[0] == {(0, "q"): ("8-gram", Fraction(6, 9))}


def test_a_gram_is_boilerplate_in_more_rows_than_common():
    rows = [chat(f"{i} says {' '.join(QUESTION.split()[:8])}", "x") for i in range(5)]
    item = [Item("q", (QUESTION,))]
    assert set(said_by(rows, item, common=5)[0]) == {(i, "q") for i in range(5)}
    leaks, said = said_by(rows, item, common=4)
    assert not leaks
    assert said.summary["boilerplate"]["top_grams"] == [{"words": " ".join(QUESTION.lower().split()[:8]), "rows": 5, "items": 1}]


def test_two_towns_are_no_leak_but_a_remark():
    leaks, said = said_by(
        [chat("Paris, Texas", "yes"), chat("yes", "no")], [Item("a", ("Paris Texas", QUESTION)), Item("b", ("yes", QUESTION))]
    )
    assert not leaks
    assert said.summary["short"]["rows"] == 2
    assert said.summary["short"]["items"] == 2
    assert {shown["words"]: shown["rows"] for shown in said.summary["short"]["top_texts"]} == {"yes": 2, "paris texas": 1}


@pytest.mark.parametrize("said", ["0 0 1 0 1 1 0 1 1 0 7 23", "A, C, D, B and A, D, C, B", "x x x y y y to x x y"])
def test_numbers_and_single_letters_prove_nothing(said):
    leaks, told = said_by([chat(said, "then")], [Item("a", (said, QUESTION))])
    assert not leaks
    assert told.summary["boilerplate"]["rows"] == 1
    assert told.summary["boilerplate"]["items"] == 1


def test_boilerplate_is_counted_and_listed_not_dropped():
    frame = "Read the passage below with care and choose the right one of these answers"
    items = [Item(str(i), (f"{frame} {i}a {i}b {i}c",)) for i in range(30)]
    leaks, said = said_by([chat(f"{frame}: who?", "me"), chat("nothing", "here")], items)
    assert not leaks
    told = said.summary["boilerplate"]
    assert (told["rows"], told["items"]) == (1, 30)
    assert told["top_grams"][0]["items"] == 30
    assert told["top_grams"][0]["words"] == "read the passage below with care and choose"
    assert len(said_by([chat(f"{frame}: who?", "me")], items, common_items=30)[0]) == 30


def test_what_stands_in_many_rows_is_boilerplate_but_a_whole_item_never():
    prompt = "You are a kind assistant who answers in one short sentence only"
    rows = [chat(prompt, f"answer {i}") for i in range(5)]
    items = [Item("part", (prompt, "a question of its own that nobody asked so far today")), Item("whole", (prompt,))]
    leaks, said = said_by(rows, items, common=4)
    assert set(leaks) == {(i, "whole") for i in range(5)}
    assert said.summary["boilerplate"]["texts"] == 1
    assert said.summary["boilerplate"]["items"] == 1
    assert set(said_by(rows, items, common=5)[0]) == {(i, name) for i in range(5) for name in ("part", "whole")}
    copies, _ = said_by([rows[0]] * 9, items, common=1)  # copies of one row are one row
    assert len(copies) == 18


def test_copies_of_rows_and_items_are_all_named_and_the_clean_subset_is_the_rest():
    first = References("first", (Item("a", (QUESTION,)), Item("b", ("nothing that anybody here said",))))
    second = References("second", (Item("a", (QUESTION.lower(),)), Item("c", (f"{ANSWER}.",))))
    check = Leakage((first, second))
    said = report(check, batch([chat(QUESTION, "x"), chat("a", "b")]), [0, 1, 0])
    assert [(row["row"], row["item"]) for row in found(said)] == [(0, "first/a"), (0, "second/a"), (2, "first/a"), (2, "second/a")]
    assert check.clean(said) == {"first": ["b"], "second": ["c"]}
    assert check.clean(said, ("near", "13-gram")) == {"first": ["a", "b"], "second": ["a", "c"]}
    assert said.summary["map"] == [{"set": name, "file": "data.jsonl", "rows": 2, "items": 1} for name in ("first", "second")]
    assert said.summary["sets"]["second"] == {"items": 2, "leaked": 1, "equal": 1, "near": 0, "13-gram": 0, "8-gram": 0, "clean": 1}
    assert said.summary["rows"] == 2


def test_a_message_is_named_and_findings_hold_no_words():
    leaks, said = said_by([chat("hi", "there", QUESTION)], [Item("q", (QUESTION,))])
    assert leaks
    assert found(said)[0]["message"] == 2
    assert "danube" not in json.dumps(found(said)).lower()


def test_collisions_of_hashes_invent_nothing(monkeypatch):
    """With a hash that sees the length of words alone everything meets; the words themselves decide."""

    def worthless(texts):
        split = [text.canonical(texts.str(i)) for i in range(len(texts))]
        hashes = np.array([len(word) for words in split for word in words], np.uint64)
        return text.Words(hashes, np.concatenate(([0], np.cumsum([len(words) for words in split]))).astype(np.int64))

    monkeypatch.setattr(text, "words", worthless)
    alike = " ".join("x" * len(word) for word in QUESTION.split())
    assert said_by([chat(alike, "x"), chat(f"{alike} {alike}", "y")], [Item("collide", (QUESTION,))])[0] == {}
    assert set(said_by([chat(alike, QUESTION)], [Item("collide", (QUESTION,))])[0]) == {(0, "collide")}


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.text(max_size=40) | st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_quick_words_are_the_canonical_ones(said):
    assert [word.decode("utf-8", "surrogatepass") for word in index.words_of(said.encode("utf-8", "surrogatepass"))] == text.canonical(said)


def test_facts_do_not_depend_on_the_batch_and_travel():
    rows, items = corpus(random.Random(2), 60, 20, [f"w{i}" for i in range(30)], 30)
    rows = list(dict.fromkeys(rows))
    check = Leakage((References("set", tuple(items)),))
    whole = batch(rows)
    halves = [pickle.loads(pickle.dumps(check)).partial(batch(rows[i::2])) for i in range(2)]
    assert model.merge(halves, "text").equals(model.merge([check.partial(whole)], "text"))
    assert model.merge(halves, "text").num_rows > 10
    dataset = rows_of(whole)
    facts = model.numbered(model.merge(halves, "text"), "text", dataset.text_digests)
    assert check.finish(facts, dataset, model.in_turn).findings.equals(report(check, whole).findings)


# --- reference sets -------------------------------------------------------------------------------------


def test_a_golden_set_gives_its_texts_without_ids(request):
    root = request.config.rootpath / "golden"
    for name in names(root):
        golden = load(name, root)
        references = References.of_golden(golden)
        assert [item.id for item in references.items] == [item["id"] for item in golden.items]
        assert all(item.texts and item.id not in item.texts for item in references.items)


def test_a_file_gives_one_item_a_row_with_all_that_it_says(tmp_path):
    path = tmp_path / "set.jsonl.gz"
    lines = [
        {"id": "x", "question": "who", "passage": "p", "n": 1},
        {"messages": [{"role": "user", "content": "hi"}], "choices": ["a", "b"]},
    ]
    path.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    assert References.of_file("set", path).items == (Item("x", ("who", "p")), Item("2", ("hi", "a", "b")))


@pytest.mark.parametrize("line", ["{broken", '["a list"]', "3"])
def test_a_bad_reference_is_an_error_that_says_where(tmp_path, line):
    path = tmp_path / "set.jsonl"
    path.write_text('{"a": "b"}\n' + line + "\n")
    with pytest.raises(AuditError, match=r"set\.jsonl, line 2: found .*expected"):
        References.of_file("set", path)


def test_the_digest_names_what_the_items_say():
    one, other = (References("set", (Item("a", (said,)),)) for said in ("x", "y\ud800"))
    assert one.digest != other.digest
    assert Leakage((one,)).options != Leakage((other,)).options
    assert Leakage((one,), common=7).options == Leakage((one,)).options  # a threshold of finish shapes no facts
    assert len(one.digest) == 64


@pytest.mark.parametrize("references", [(), (References("a", (Item("1", ("x",)),)),) * 2])
def test_sets_are_needed_and_named_once(references):
    with pytest.raises(AuditError, match="expected at least one, and each name once"):
        Leakage(references)


def test_bad_thresholds_are_refused():
    with pytest.raises(AuditError, match="common = 0"):
        Leakage((References("a", (Item("1", ("x",)),)),), common=0)
    with pytest.raises(AuditError, match="no items"):
        References("a", ())


@pytest.mark.parametrize("said", ["", "...", "\ud800", "\x00" * 20, "a " * 5000, "日本語の文章です" * 50, "x" * 100_000])
def test_hostile_texts_pass(said):
    leaks, _ = said_by([chat(said, "y"), chat("", "")], [Item("empty", ("",)), Item("none", ()), Item("odd", (said,))])
    assert set(leaks) == ({(0, "odd")} if "日" in said else set())
