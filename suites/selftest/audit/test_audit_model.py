"""Digests as numbers, the one merge, and the tables by which checks go from facts to rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.audit import forms, model, standard
from harness.audit.keys import Known, dense, lookup
from harness.audit.leakage import References
from harness.audit.model import DIGEST, Batch, digest_array, digests_of, in_turn, merge, numbered
from suites.selftest.audit import making, mixed

pytestmark = pytest.mark.selftest

SMALL = st.tuples(st.sampled_from([0, 1, 2, 1 << 63, (1 << 64) - 1]), st.sampled_from([0, 1, (1 << 64) - 1]))  # hit the same slots
DIGESTS = st.lists(SMALL | st.tuples(*[st.integers(0, (1 << 64) - 1)] * 2), max_size=60)
calm = settings(derandomize=True, deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def array(pairs):
    return np.array(pairs, np.uint64).reshape(-1, 2)


# --- digests as numbers ---------------------------------------------------------------------------


@calm
@given(DIGESTS)
def test_dense_numbers_by_first_appearance(pairs):
    seen = {}
    expected = [seen.setdefault(pair, len(seen)) for pair in pairs]
    numbers, firsts = dense(array(pairs))
    assert numbers.tolist() == expected
    assert [pairs[i] for i in firsts] == list(seen)


@calm
@given(DIGESTS, DIGESTS)
def test_lookup_finds_what_is_known_and_nothing_else(known, asked):
    known = list(dict.fromkeys(known))
    asked = asked + known[::2]
    assert lookup(array(known), array(asked)).tolist() == [known.index(pair) if pair in known else -1 for pair in asked]


@calm
@given(st.lists(DIGESTS, max_size=6))
def test_known_tells_the_first_of_each_over_many_pieces(pieces):
    known, seen = Known(), set()
    for pairs in pieces:
        expected = [pair not in seen and pair not in pairs[:i] for i, pair in enumerate(pairs)]
        assert known.add(array(pairs)).tolist() == expected
        seen |= set(pairs)
    assert len(known) == len(seen)


def test_known_grows_and_forgets_nothing():
    rng = np.random.default_rng(0)
    digests = rng.integers(0, 1 << 63, (10_000, 2), dtype=np.uint64)
    known = Known()
    for begin in range(0, 10_000, 700):
        assert known.add(digests[begin : begin + 700]).all()
    assert not known.add(digests[::-1]).any()
    assert len(known) == 10_000


@calm
@given(DIGESTS)
def test_digests_travel_through_a_column(pairs):
    column = digest_array(array(pairs))
    assert column.type == DIGEST
    assert (digests_of(column) == array(pairs)).all()
    assert (digests_of(column.slice(1)) == array(pairs)[1:]).all()
    assert (digests_of(pa.chunked_array([column, column], DIGEST)) == array(pairs + pairs)).all()


# --- merge and numbered -----------------------------------------------------------------------------

NAMES = st.lists(st.integers(0, 12), max_size=12)


def facts(names):
    """Facts of which the value follows from the key, as all facts do."""
    names = list(dict.fromkeys(names))
    keys = pa.array([xxhash.xxh3_128_digest(b"%d" % name) for name in names], DIGEST)
    return pa.table(
        {"text": keys, "name": pa.array(names, pa.int64()), "hits": pa.array([[name] * (name % 3) for name in names], pa.list_(pa.int64()))}
    )


@calm
@given(NAMES, NAMES, NAMES)
def test_merge_is_associative_commutative_idempotent(a, b, c):
    a, b, c = map(facts, (a, b, c))
    left = merge([merge([a, b], "text"), c], "text")
    assert left == merge([a, merge([b, c], "text")], "text")
    assert left == merge([c, b, a], "text")
    assert merge([left, left, a], "text") == left
    assert sorted(left["name"].to_pylist()) == sorted({n for t in (a, b, c) for n in t["name"].to_pylist()})


@calm
@given(NAMES, st.lists(st.integers(0, 12), unique=True, max_size=12))
def test_numbered_is_the_place_of_each_key_ascending(names, asked):
    asked_digests = digests_of(pa.array([xxhash.xxh3_128_digest(b"%d" % name) for name in asked], DIGEST))
    twice = pa.concat_tables([facts(names), facts(names[::-1])])  # a key's second line is dropped
    found = numbered(twice, "text", asked_digests)
    assert found["text"].to_pylist() == [place for place, name in enumerate(asked) if name in names]
    assert found["name"].to_pylist() == [name for name in asked if name in names]
    assert found.schema.field("text").type == pa.int32()


CHECKS = standard.checks(standard.Known(apart_from=(References.of_rows("held", mixed.items()),), splits={"a": [0]}, languages=("en",)))
ROWS = list(dict.fromkeys(mixed.rows(250, seed=10)))


def parsed(raw) -> Batch:
    digests = np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, raw)), "<u8").reshape(-1, 2)
    return Batch(forms.parse(raw, digests, forms.Shape(group="doc")))


@pytest.fixture(scope="module")
def whole():
    return parsed(ROWS)


@pytest.fixture(scope="module")
def numbers(whole):
    return making.rows_of(whole)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.name)
@settings(derandomize=True, deadline=None, max_examples=4)
@given(part=st.lists(st.integers(0, 4), min_size=len(ROWS), max_size=len(ROWS)), order=st.permutations(range(5)))
def test_facts_and_findings_are_the_same_however_rows_are_dealt(check, whole, numbers, part, order):
    """Merged partials over any split of the rows are the partial of all; and the report is the same, in any order of parts."""
    dealt = [[raw for raw, number in zip(ROWS, part, strict=True) if number == chosen] for chosen in order]
    made = [check.partial(parsed(rows)) for rows in dealt if rows]
    once = check.partial(whole)
    assert merge(made, check.key) == merge([once], check.key)
    keys = once[check.key].to_pylist()
    assert len(set(keys)) == len(keys)
    digests = numbers.digests if check.key == "row" else numbers.text_digests
    said = [check.finish(numbered(table, check.key, digests), numbers, in_turn) for table in (pa.concat_tables(made), once)]
    assert said[0].findings.equals(said[1].findings)
    assert said[0].summary == said[1].summary


def test_the_rows_make_every_check_say_something(whole, numbers):
    """Else the test above would compare nothing with nothing."""
    quiet = {check.name for check in CHECKS if not making.report(check, whole).findings.num_rows}
    assert quiet == {"splits"}  # there is one file


# --- rows -----------------------------------------------------------------------------------------


@calm
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.lists(st.integers(0, 5), max_size=8))
def test_copies_and_holders_are_all_of_them(physical, asked):
    made = making.batch([[("user", "prompt", f"q{i % 3}"), ("assistant", "answer", f"a{i % 2}")] for i in range(6)])
    rows = making.rows_of(made, physical)
    asked = [i % rows.u for i in asked]
    which, lies = rows.copies(asked)
    expected = [(entry, row) for entry, distinct in enumerate(asked) for row in range(rows.n) if rows.unique[row] == distinct]
    assert list(zip(which.tolist(), lies.tolist(), strict=True)) == expected
    asked = [i % rows.t for i in asked]
    which, messages = rows.holders(asked)
    expected = [(entry, m) for entry, text in enumerate(asked) for m in range(len(rows.text)) if rows.text[m] == text]
    assert list(zip(which.tolist(), messages.tolist(), strict=True)) == expected
    assert [rows.unique.tolist().index(i) for i in range(rows.u)] == rows.first.tolist()
    assert rows.row_of.tolist() == [i for i in range(rows.u) for _ in range(2)]


@calm
@given(st.lists(st.integers(-3, 3), max_size=20))
def test_in_turn_sees_each_group_alone_in_order_of_its_value(values):
    table = pa.table({"by": pa.array(values, pa.int64()), "at": pa.array(range(len(values)), pa.int64())})

    def told(part):
        assert len(set(part["by"].to_pylist())) <= 1
        return part

    expected = sorted(zip(values, range(len(values)), strict=True))
    found = in_turn(told, table, "by")
    assert list(zip(found["by"].to_pylist(), found["at"].to_pylist(), strict=True)) == expected


def test_findings_repeat_what_is_given_once():
    made = model.finding_rows("c", "k", [3, 4], score=0.5, detail=["a", None])
    assert made.to_pylist()[1] | {"detail": "a", "row": 3} == made.to_pylist()[0]
    assert made.schema == model.FINDINGS
    assert model.no_findings().num_rows == 0
