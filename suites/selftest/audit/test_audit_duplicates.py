"""Duplicates and conflicts against dictionaries of plain strings."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import duplicates, model
from harness.audit.duplicates import Conflicts, Duplicates, canonical_facts, first_rows
from harness.audit.text import canonical

from .making import batch, found, report, rows_of

pytestmark = pytest.mark.selftest

U, A, S = ("user", "prompt"), ("assistant", "answer"), ("system", "prompt")


def chat(*texts: str, system: str | None = None) -> list[tuple[str, str, str]]:
    head = [] if system is None else [(*S, system)]
    return head + [(*(A if i % 2 else U), text) for i, text in enumerate(texts)]


# --- the canonical form -----------------------------------------------------------------------------


def marks(text: str) -> list[tuple[str, int]]:
    """The marks of a text with the letters before each, from the prose of the module."""
    import unicodedata

    rules = {duplicates._BETWEEN: "between", duplicates._BEFORE: "before", duplicates._BESIDE: "beside"}
    found, seen, before = [], 0, ""
    for i, raw in enumerate(text):
        folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", raw).casefold())
        char = folded if len(folded) == 1 else raw
        if char.isspace():
            continue
        rule = duplicates._rule(char)
        rest = text[i + 1 :]
        after = unicodedata.normalize("NFKC", rest.lstrip()[:1])
        digits = [len(c) == 1 and c in "0123456789" for c in (before, after)]
        opens, spaced = i == 0 or text[i - 1].isspace(), rest[:1].isspace()
        if rule in rules:
            letter = any(c.isalnum() for c in after)
            means = {
                "between": all(digits) and not opens and not spaced,
                "before": digits[1] or (opens and letter and not spaced),
                "beside": any(digits),
            }[rules[rule]]
            if means:
                found.append(("-" if rule == duplicates._BEFORE else char, seen))
            continue
        seen += sum(map(str.isalnum, folded))
        before = char
        if rule == duplicates._MARK:
            found.append((char, seen))
    return found


def form(text: str) -> object:
    return (tuple(canonical(text)), tuple(marks(text))) if canonical(text) else "".join(text.split())


def digests(*texts: str) -> list[bytes]:
    made = batch([[(*U, text)] for text in dict.fromkeys(texts)])
    known = dict(zip(dict.fromkeys(texts), canonical_facts(made).column("canonical").to_pylist(), strict=True))
    return [known[text] for text in texts]


SAME = [
    ("Hello, World!", "hello world"), ("it’s", "its"), ("well-known", "well known"), ("a – b", "a b"), ("3,5 and", "3,5  AND."),
    ("10–20", "10-20"),
    ("ｆｕｌｌ ３.５", "full 3.5"), ("(a)", "(A)"), ("x^2 + y", "X^2  + y!"), ("**bold** word", "bold word"), ("Ende.", "ende"),
    ("-  item", "item"), ("“quoted”", "quoted"), ("é", "e\u0301"), ("ﬁne + 1", "fine + 1"), ("", "  \n"), ("?!", "? !"),
]  # fmt: skip
DIFFERENT = [
    ("3.5", "35"), ("3.5", "3,5"), ("3:1", "3.1"), ("3.5 or 35", "35 or 3.5"), ("2 + 2", "2 - 2"), ("(-4, 6)", "(4, 6)"),
    ("−4", "4"), ("12:30", "1230"), ("5%", "5"),
    ("not (a or b)", "(not a or b)"), ("a > b", "a < b"), ("2*3", "2/3"), ("good 👍", "good 👎"), ("rot -rot", "-rot rot"), ("?", "!"),
    ("fill _ in", "_ fill in"), ("$5", "€5"), ("f(x)", "fx"), ("a\\b", "ab"), ("x = 1", "x 1"), ("3*", "3"), ("", "."),
]  # fmt: skip


@pytest.mark.parametrize(("a", "b"), SAME)
def test_the_same_but_for_form(a, b):
    one, other = digests(a, b)
    assert one == other


@pytest.mark.parametrize(("a", "b"), DIFFERENT)
def test_a_mark_that_carries_meaning_makes_another_text(a, b):
    one, other = digests(a, b)
    assert one != other


ALPHABET = "aB3 .,:-*/+(_’’'−–—%é\u0301ßﬁ½²３．＋中ก👍\u00a0\n\ud800𝟘İ"


@given(st.lists(st.text(alphabet=ALPHABET, max_size=7), min_size=2, max_size=40, unique=True))
@settings(derandomize=True, deadline=None, max_examples=300)
def test_canonical_digests_agree_exactly_where_the_forms_do(texts):
    made = digests(*texts)
    forms = [form(text) for text in texts]
    for i in range(len(texts)):
        for j in range(i):
            assert (made[i] == made[j]) == (forms[i] == forms[j]), (texts[i], texts[j])


def test_facts_depend_on_the_text_alone():
    texts = ["3.5 (a)", "b - 3", "Ünï + 4", "", "-x", "3*"]
    for a, b in pairwise(texts):
        assert digests(a, b) == [digests(a)[0], digests(b)[0]]


# --- duplicates -----------------------------------------------------------------------------------

TEXTS = st.sampled_from(["a b", "A, b!", "c", "C", "d 3.5", "d 35", "(", ")", ""])
CHATS = st.lists(st.tuples(st.sampled_from([None, "sys", "SYS."]), st.lists(TEXTS, min_size=0, max_size=3)), min_size=1, max_size=30)


def distinct(rows):
    """(batch, where each row lies): equal rows once, as the reader makes them."""
    seen = {}
    for row in rows:
        seen.setdefault(repr(row), len(seen))
    kept = list({repr(row): row for row in rows}.values())
    return batch(kept), [seen[repr(row)] for row in rows]


def first_of(keys):
    firsts = {}
    return [firsts.setdefault(key, i) for i, key in enumerate(keys)]


@given(CHATS)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_duplicates_are_those_of_a_dictionary(rows):
    rows = [chat(*texts, system=system) for system, texts in rows]
    exact = first_of(["nothing" if not row else repr(row) for row in rows])
    meant = first_of([repr([(role, part, form(text)) for role, part, text in row]) for row in rows])
    expected = {i: ("exact", exact[i]) for i in range(len(rows)) if exact[i] != i}
    expected |= {i: ("canonical", meant[i]) for i in range(len(rows)) if exact[i] == i != meant[i]}
    said = report(Duplicates(), *distinct(rows))
    assert {row["row"]: (row["kind"], row["partner"]) for row in found(said)} == expected
    assert said.findings.num_rows == len(expected)
    bare = first_of([repr([m for m in row if m[0] != "system"]) if row else "nothing" for row in rows])
    assert said.summary["ignoring_system"]["rows"] == sum(bare[i] != i for i in range(len(rows)))
    assert said.summary["exact"]["rows"] == sum(kind == "exact" for kind, _ in expected.values())
    sizes = [n for n in Counter(exact).values() if n > 1]
    assert said.summary["exact"]["clusters"] == len(sizes) == sum(said.summary["exact"]["sizes"].values())


def test_the_largest_clusters_are_named_by_their_first_row_and_what_lies_beside_a_conversation_does_not_count():
    rows = [chat("q", "a"), [*chat("q", "a"), ("other", "meta", "from a.jsonl")], chat("r", "b"), [*chat("q", "a"), ("other", "meta", "b")]]
    said = report(Duplicates(), batch(rows))
    assert [(row["row"], row["partner"], row["kind"], row["detail"]) for row in found(said)] == [
        (1, 0, "exact", "the same messages, other fields differ"), (3, 0, "exact", "the same messages, other fields differ"),
    ]  # fmt: skip
    assert said.summary["exact"]["largest"] == [{"first": 0, "rows": 3}] and said.summary["exact"]["sizes"] == {"3-4": 1}
    assert [row["detail"] for row in found(report(Duplicates(), batch(rows[:1]), [0, 0]))] == ["the same bytes"]


def test_rows_without_messages_are_equal_only_to_their_bytes():
    made = batch([[], []], id=["one", "two"])
    assert [(row["row"], row["partner"]) for row in found(report(Duplicates(), made, [0, 1, 0]))] == [(2, 0)]


@pytest.mark.parametrize("sizes", [[], [2], [2, 3, 4, 5, 8, 9, 1000]])
def test_sizes_are_counted_by_powers_of_two(sizes):
    made = duplicates._sizes(np.array(sizes, int))
    assert sum(made.values()) == len(sizes)
    for label, n in made.items():
        low, high = int(label.split("-")[0]), int(label.split("-")[-1])
        assert n == sum(low <= size <= high for size in sizes)


def test_classes_do_not_depend_on_the_order_in_which_an_engine_brings_lines():
    values = np.array([[i % 7, i % 7 * 3] for i in range(100)], np.uint64)

    def backwards(function, table, by):
        groups = table.column(by).to_numpy()
        parts = [table.filter(pa.array(groups == value)) for value in sorted(set(groups.tolist()), reverse=True)]
        return pa.concat_tables([function(part.take(pa.array(range(part.num_rows - 1, -1, -1)))) for part in parts])

    assert first_rows(values, backwards).tolist() == first_rows(values, model.in_turn).tolist() == [i % 7 for i in range(100)]
    assert first_rows(values[:0], model.in_turn).tolist() == []


# --- conflicts ------------------------------------------------------------------------------------


@given(CHATS)
@settings(derandomize=True, deadline=None, max_examples=150)
def test_conflicts_are_those_of_a_dictionary(rows):
    rows = [chat(*texts, system=system) for system, texts in rows]
    asked = {}
    for i, row in enumerate(rows):
        last = max((m for m, (_, part, _) in enumerate(row) if part == "answer"), default=None)
        if last and row[last][2].split():
            asked[i] = (repr(row[:last]), row[last][2])

    def disagreements(say, left_out=()):
        prompts = defaultdict(list)
        for i, (prompt, answer) in asked.items():
            prompts[prompt].append((i, say(answer)))
        told = {prompt: said for prompt, said in prompts.items() if len({x for _, x in said}) > 1 and prompt not in left_out}
        return told, {
            i: (next(j for j, y in said if y != x), sum(y == x for _, y in said), len(said), len({y for _, y in said}))
            for said in told.values() for i, x in said
        }  # fmt: skip

    prompts, conflicts = disagreements(form)
    forms, formal = disagreements(str, prompts)
    said = report(Conflicts(), *distinct(rows))
    for kind, expected in (("conflict", conflicts), ("conflict_form", formal)):
        told = {r["row"]: (r["partner"], r["num"], r["den"], int(r["detail"].split()[0])) for r in found(said) if r["kind"] == kind}
        assert told == expected
    assert said.summary["conflict"] == {"prompts": len(prompts), "rows": len(conflicts)}
    assert said.summary["conflict_form"] == {"prompts": len(forms), "rows": len(formal)}
    assert said.findings.num_rows == len(conflicts) + len(formal)
    assert all(row["score"] == row["num"] / row["den"] for row in found(said))


def test_what_is_no_conflict():
    rows = [
        chat("q", "a"), chat("q"), chat("q", " "), chat("r", "a"), [(*A, "x")], [(*A, "y")],  # no, or a blank, answer; no prompt
        [(*U, "p"), (*A, "c"), ("assistant", "rejected", "d")], [(*U, "p"), ("assistant", "rejected", "d2"), (*A, "c")],
        chat("q", "a", "more", "c"), chat("q", "z", "more", "d"),  # another turn came before
    ]  # fmt: skip
    said = report(Conflicts(), batch(rows))
    assert found(said) == [] and said.summary["without_answer"] == 2 and said.summary["without_prompt"] == 2


def test_conflicts_without_system_messages_and_by_form_are_counted():
    rows = [chat("What?", "a", system="one"), chat("What?", "b", system="two"), chat("what", "c", system="one")]
    said = report(Conflicts(), batch(rows))
    assert found(said) == []
    assert [said.summary[name]["prompts"] for name in ("conflict", "ignoring_system", "ignoring_form", "ignoring_system_and_form")] == [
        0,
        1,
        1,
        1,
    ]
    assert said.summary["ignoring_system_and_form"]["rows"] == 3


def test_one_text_with_two_labels():
    rows = [[(*U, text)] for text in ("Great film!", "great film", "bad", "Great film.", "bad")]
    made = batch(rows[:4], label=["pos", "neg", "neg", "pos"])
    said = report(Conflicts(), made)
    told = {row["row"]: (row["kind"], row["partner"], row["num"], row["den"]) for row in found(said)}
    assert told == {0: ("label", 1, 2, 3), 1: ("label", 0, 1, 3), 3: ("label", 1, 2, 3)}
    assert found(report(Conflicts(), batch(rows[:4], label=["pos", None, "neg", "pos"]))) == []


def test_rows_that_the_dataset_no_longer_has_leave_no_trace():
    kept, gone = chat("q", "a"), chat("Q", "b")
    facts = canonical_facts(batch([kept, gone]))
    rows = rows_of(batch([kept]))
    said = Duplicates().finish(model.numbered(facts, "text", rows.text_digests), rows, model.in_turn)
    assert said.findings.num_rows == 0 and said.summary["rows"] == 1
