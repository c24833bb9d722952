"""Near duplicates against their definition, written out in sets; and that no chain, no shared prompt and no order of rows turns them."""

from __future__ import annotations

import json
import pickle
from fractions import Fraction
from itertools import combinations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.audit import model, near
from harness.audit.near import Near
from harness.audit.text import canonical
from harness.errors import AuditError

from .making import batch, report, rows_of

pytestmark = pytest.mark.selftest

PLAIN = settings(derandomize=True, deadline=None, max_examples=200)
TEXT = st.lists(st.sampled_from(["a", "b", "c", "B", "dd"]), max_size=8).map(" ".join)
PROMPT = st.sampled_from(["be kind a b c", "Be kind a b c!", "a b c dd", ""])
ROW = st.builds(lambda s, u, a: [("system", "prompt", s), ("user", "prompt", u), ("assistant", "answer", a)], PROMPT, TEXT, TEXT)
ROWS = st.lists(ROW, min_size=1, max_size=10, unique_by=repr)
CHECKS = st.builds(
    Near, k=st.integers(1, 3), threshold=st.sampled_from(["4/5", "0.5", "1", "1/3"]), common=st.sampled_from([1, 2, 3, 1000])
)


def said(*texts):
    """A row of one prompt and one answer."""
    prompt, answer = texts
    return [("user", "prompt", prompt), ("assistant", "answer", answer)]


class Defined:
    """The definitions, in plain sets. Rows are equal to the canonical form where their words are: the texts here hold words alone."""

    def __init__(self, rows, check):
        self.row = {}
        for place, messages in enumerate(rows):
            self.row.setdefault(tuple((role, part, tuple(canonical(text))) for role, part, text in messages), place)
        units = [{words for _, _, words in unit} for unit in self.row]
        held = [text for unit in units for text in unit]
        k, common = check.k, check.common
        shingles = {t: {t[i : i + k] for i in range(len(t) - k + 1)} or ({t} if t else set()) for t in held}
        df = {}
        for text in held:
            for shingle in shingles[text]:
                df[shingle] = df.get(shingle, 0) + 1
        self.template = {shingle for shingle, n in df.items() if n > common}
        self.whole = [set().union(*(shingles[t] for t in unit if held.count(t) <= common)) for unit in units]
        self.own = [one - self.template for one in self.whole]
        self.ignored = sum(len(shingles[t] & self.template) for t in held)
        self.all = sum(len(shingles[t]) for t in held)
        self.without_words = sum(not any(shingles[t] for t in unit) for unit in units)
        self.threshold = Fraction(check.threshold)

    def similarity(self, i, j):
        return min(Fraction(len(s[i] & s[j]), len(s[i] | s[j])) for s in (self.own, self.whole))

    def findings(self):
        """(row, partner, similarity): in order, what an earlier one that stays is like."""
        places, kept, found = list(self.row.values()), [], []
        for x in range(len(places)):
            like = [y for y in kept if self.own[x] and self.own[y] and self.similarity(x, y) >= self.threshold]
            if like:
                found.append((places[x], places[like[0]], self.similarity(x, like[0])))
            else:
                kept.append(x)
        return found

    def clusters(self):
        label = list(range(len(self.own)))
        for i, j in combinations([i for i, own in enumerate(self.own) if own], 2):
            if self.similarity(i, j) >= self.threshold:
                label = [label[j] if one == label[i] else one for one in label]
        return [group for one in set(label) if len(group := [i for i in range(len(label)) if label[i] == one]) > 1]


def findings(made):
    table = made.findings
    assert set(table.column("kind").to_pylist()) <= {"near"} and set(table.column("check").to_pylist()) <= {"near"}
    assert table.column("score").to_pylist() == [n / d for n, d in zip(table["num"].to_pylist(), table["den"].to_pylist(), strict=True)]
    columns = [table.column(name).to_pylist() for name in ("row", "partner", "num", "den")]
    return [(row, partner, Fraction(num, den)) for row, partner, num, den in zip(*columns, strict=True)]


@PLAIN
@given(ROWS, CHECKS)
@example([said("a b c dd", "a"), said("A b c dd", "a"), said("a b c dd e", "a")], Near(k=1, common=1000))
def test_findings_are_those_of_the_definition(rows, check):
    made, defined = report(check, batch(rows)), Defined(rows, check)
    assert findings(made) == defined.findings()
    clusters = defined.clusters()
    summary = made.summary
    assert (summary["rows"], summary["units"], summary["findings"]) == (len(rows), len(defined.row), len(defined.findings()))
    assert summary["clusters"] == len(clusters) and summary["in_clusters"] == sum(map(len, clusters))
    least = {min(group): min(defined.similarity(*pair) for pair in combinations(group, 2)) for group in clusters}
    places = list(defined.row.values())
    told = {one["row"]: Fraction(one["least"]) for one in summary["largest"]}
    assert told == {places[first]: value for first, value in least.items()}
    assert summary["chains"] == sum(value < defined.threshold for value in least.values())
    assert [one["chain"] for one in summary["largest"]] == [Fraction(one["least"]) < defined.threshold for one in summary["largest"]]
    template = summary["template"]
    assert (template["shingles"], template["occurrences"], template["of_occurrences"]) == (
        len(defined.template),
        defined.ignored,
        defined.all,
    )
    assert template["units_without_words"] == defined.without_words
    assert template["units_left_with_nothing"] == sum(not own for own in defined.own) - defined.without_words
    json.dumps(summary, allow_nan=False)


@settings(PLAIN, max_examples=60)
@given(ROWS, CHECKS, st.integers(2, 5), st.integers(1, 4))
def test_parts_and_threads_change_nothing(rows, check, parts, threads):
    def shuffling(function, table, by):  # an engine: any order of parts and lines, each function pickled
        function = pickle.loads(pickle.dumps(function))
        values = table.column(by).to_numpy()
        lines = [np.flatnonzero(values == value)[::-1] for value in np.unique(values)[::-1]]
        return pa.concat_tables([function(table.take(pa.array(one))) for one in lines])

    made = batch(rows)
    seen = rows_of(made)
    facts = model.numbered(model.merge([check.partial(made)], "text"), "text", seen.text_digests)
    one = check.finish(facts, seen, model.in_turn)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.audit.threads.count", lambda: threads)
        other = Near(k=check.k, threshold=check.threshold, common=check.common, parts=parts).finish(facts, seen, model.Group(shuffling))
    assert other.findings.equals(one.findings) and other.summary == one.summary


@settings(PLAIN, max_examples=60)
@given(ROWS, st.randoms(use_true_random=False))
def test_clusters_do_not_hang_on_the_order_of_rows(rows, random):
    def clusters(rows):
        made = report(Near(k=2, threshold="1/2"), batch(rows))
        return made.summary["sizes"], made.summary["in_clusters"], sorted(one["least"] for one in made.summary["largest"])

    other = random.sample(rows, len(rows))
    assert clusters(other) == clusters(rows)


def words(numbers):
    return " ".join(f"w{n}" for n in numbers)


def test_a_chain_leaves_a_member_for_everything_that_goes():
    """A hundred texts, each sharing most with the next, the ends nothing: one cluster, which must not vanish."""
    rows = [said(words(range(4 * i, 4 * i + 60)), "yes") for i in range(100)]
    made = report(Near(), batch(rows))
    summary = made.summary
    assert summary["clusters"] == 1 and summary["chains"] == 1
    largest = summary["largest"][0]
    assert (largest["row"], largest["size"], largest["stay"], largest["chain"]) == (0, 100, 100 - summary["findings"], True)
    assert largest["least"] == "1/117"  # the answer, and twice 58 windows of the prompts
    gone = {row for row, _, _ in findings(made)}
    assert 40 <= len(gone) <= 60
    for row, partner, similarity in findings(made):
        assert partner not in gone and partner < row
        a, b = set(range(4 * row, 4 * row + 58)), set(range(4 * partner, 4 * partner + 58))
        # all share the answer "yes", which is a shingle of its own
        assert similarity == Fraction(len(a & b) + 1, len(a | b) + 1) >= Fraction(4, 5)


def test_a_prompt_that_all_rows_share_makes_none_of_them_near():
    prompt = words(range(500))
    rows = [[("system", "prompt", prompt), *said(f"what of town {i}? and {i * 7919} {i * 104729}?", f"it is {i * 31}")] for i in range(30)]
    rows.append(
        [("system", "prompt", prompt), *said("what of town 7? and 55433 733103?", "it is 217 ")]
    )  # but for form the eighth: a duplicate
    rows.append([("system", "prompt", prompt), *said("what of town 7? and 55433 733103?", "it is 217 now")])
    made = report(Near(common=20), batch(rows))
    assert findings(made) == [(31, 7, Fraction(5, 6))]
    assert made.summary["units"] == 31 and made.summary["template"]["texts"] == 1
    assert made.summary["template"]["units_that_lost_four_fifths"] == 31
    without = report(Near(), batch(rows))  # as if nothing were too common: all are
    assert without.summary["in_clusters"] == 31


def test_a_form_filled_in_by_many_is_no_near_duplicate_by_its_one_rare_number():
    """The measured fault of looking at what is rare alone: patients of one body mass index passed for copies of each other."""
    kinds = ["aged of one", "born in two", "seen at three", "kept by four", "told to five", "sent from six"]
    rows = []
    for i in range(240):
        first, second, third = kinds[i % 6], kinds[i // 6 % 6], kinds[i // 36 % 6]
        rows.append(said(f"{first} {first} {second} {second} {third} {third} index {i // 2}", "0"))
    check = Near(common=3)
    defined = Defined(rows, check)
    rare_alone = [
        p for p in combinations(range(240), 2) if (s := defined.own)[p[0]] and len(s[p[0]] & s[p[1]]) * 5 >= 4 * len(s[p[0]] | s[p[1]])
    ]
    made = findings(report(check, batch(rows)))
    assert len(rare_alone) > 20 and made == defined.findings() and len(made) < len(rare_alone) / 2


def test_copies_and_other_forms_of_a_row_are_left_to_the_duplicates():
    text = words(range(30))
    rows = [said(text, "yes"), said(text.upper() + " !", "Yes."), said(words(range(29)) + " new", "yes")]
    made = report(Near(), batch(rows), physical=[0, 0, 1, 2, 2, 0])
    assert [(row, partner) for row, partner, _ in findings(made)] == [(3, 0)]
    assert made.summary["rows"] == 6 and made.summary["units"] == 2


def test_what_is_kept_beside_is_no_part_of_the_conversation():
    rows = [[*said(words(range(40)) + f" {i}", "yes"), ("other", "meta", words(range(100 * i, 100 * i + 90)))] for i in range(1, 4)]
    assert [(row, partner) for row, partner, _ in findings(report(Near(), batch(rows)))] == [(1, 0), (2, 0)]


def test_many_copies_of_one_form_stay_fast():
    """2,000 texts that differ in one word of forty, under a limit of 1000: the rest of the text is template, and nothing is joined."""
    rows = [said(words(range(40)) + f" v{i} v{i}", "yes") for i in range(2000)]
    made = report(Near(), batch(rows))
    assert made.summary["findings"] == 0 and made.summary["template"]["shingles"] > 30
    some = report(Near(), batch(rows[:900]))  # fewer than the limit: all are near
    assert some.summary["findings"] == 899 and some.summary["largest"][0]["stay"] == 1
    every = report(Near(common=5000), batch(rows))  # nothing is too common; beyond a thousand one shingle ranks as another
    assert every.summary["findings"] == 1999 and every.summary["template"]["shingles"] == 0


def test_the_least_similarity_has_its_limit(monkeypatch):
    monkeypatch.setattr(near, "_BUDGET", 10_000)
    rows = [said(words(range(60)) + f" v{i}", "yes") for i in range(50)] + [said(words(range(900, 930)) + f" u{i}", "no") for i in range(3)]
    large, small = report(Near(), batch(rows)).summary["largest"]
    assert large["least"] is None and large["chain"] is None and "10000" in large["why"] and large["size"] == 50
    assert small["least"] == "29/31" and small["chain"] is False and "why" not in small


@pytest.mark.parametrize("rows", [[[]], [[], said("", "")], [said("...", "!")], [said("one", "")]])
def test_rows_that_say_nothing(rows):
    made = report(Near(), batch(rows))
    assert findings(made) == [] and made.summary["clusters"] == 0
    assert made.summary["without_messages"] == sum(not row for row in rows)


def test_no_rows():
    for parts in (1, 3):
        made = report(Near(parts=parts), batch([]), physical=np.zeros(0, np.int64))
        assert made.summary["units"] == 0 and made.findings.num_rows == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "high"}, "threshold 'high'"), ({"threshold": "1/0"}, "expected a fraction"), ({"threshold": "0"}, "above 0"),
        ({"threshold": "1.01"}, "at most 1"), ({"k": 0}, "at least 1"), ({"common": 0}, "at least 1"), ({"parts": 0}, "at least 1"),
    ],
)  # fmt: skip
def test_options_that_cannot_be(options, message):
    with pytest.raises(AuditError, match=message):
        Near(**options)


def test_facts_of_another_dataset_are_refused():
    made = batch([said("a b c", "d")])
    rows = rows_of(made)
    facts = model.numbered(model.merge([Near().partial(made)], "text"), "text", rows.text_digests)
    with pytest.raises(AuditError, match="facts of 1 texts for a dataset of 2"):
        Near().finish(facts.slice(0, 1), rows, model.in_turn)


def test_facts_hang_on_the_text_alone():
    texts = ["a b c d", "A B C d", "", "é à ü", "one two"]
    whole = Near().partial(batch([[("user", "prompt", text) for text in texts]])).to_pylist()
    alone = [Near().partial(batch([[("user", "prompt", text)]])).to_pylist()[0] for text in texts]
    assert whole == alone and Near().options == {"k": 3} and Near(threshold="1/2", common=5, parts=4).options == {"k": 3}


@PLAIN
@given(st.lists(st.lists(st.sampled_from("abcde"), min_size=0, max_size=8).map(" ".join), max_size=12))
def test_documents_in_memory_go_by_the_leader_rule(documents):
    shingled = [{tuple(words[i : i + 2]) for i in range(max(1, len(words) - 1))} if (words := one.split()) else set() for one in documents]
    expected: list[int] = []
    for i, mine in enumerate(shingled):
        alike = (j for j in range(i) if expected[j] < 0 and mine and 3 * len(mine & shingled[j]) >= 2 * len(mine | shingled[j]))
        expected.append(next(alike, -1))
    assert near.among(documents, k=2, threshold="2/3").tolist() == expected
