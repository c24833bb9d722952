"""The rules of a row against their oracle: each rule once more, row by row, in plain Python."""

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import forms, model, schema
from harness.audit.model import PARTS, ROLES, Batch
from harness.audit.schema import KINDS, Schema
from harness.errors import AuditError
from suites.selftest.audit.making import batch, found, report, rows_of

pytestmark = pytest.mark.selftest

ANY = settings(derandomize=True, deadline=None, max_examples=80)
texts = st.sampled_from(
    ["", " ", "\t\n", "a", "b ", "\u200b", "\u00a0\u3000", "\u2800", "\u3164x", "é", "\u00ad\u0085", "\x00", "\ud800", "\u30a2"]
)
messages = st.tuples(st.sampled_from(ROLES), st.sampled_from(PARTS), texts)


def parsed(*given_rows):
    raw = [row if isinstance(row, bytes) else orjson.dumps(row) for row in given_rows]
    import numpy as np
    import xxhash

    digests = np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, raw)), "<u8").reshape(-1, 2)
    return Batch(forms.parse(raw, digests, forms.Shape()))


def chat(*turns):
    return {
        "messages": [{"role": {"u": "user", "a": "assistant", "s": "system", "t": "tool"}[role], "content": text} for role, text in turns]
    }


def kinds(made):
    return [(one["row"], one.get("message"), one["kind"]) for one in found(report(Schema(), made))]


def by_hand(row):
    """(message or None, kind) of a row, in the order in which they are told."""
    talk = [(i, role) for i, (role, part, _) in enumerate(row) if part in ("prompt", "answer")]
    answered = any(part == "answer" for _, part, _ in row)
    wrong = [] if answered else [(-1, "no_answer")]
    for i, (_, part, text) in enumerate(row):
        if part in ("prompt", "answer", "rejected") and not any(seen(c) for c in text):
            wrong.append((i, "empty_message"))
    wrong += [(i, "system_not_first") for i, role in talk if role == "system" and i > 0]
    again = [
        i for (i, role), (j, before) in zip(talk[1:], talk, strict=False) if i == j + 1 and role == before and role in ("user", "assistant")
    ]
    wrong += [(again[0], "two_in_a_row")] if again else []
    if answered and talk and talk[-1][1] == "user":
        wrong.append((talk[-1][0], "ends_with_user"))
    return [(None if i < 0 else i, kind) for i, kind in sorted(wrong, key=lambda one: (one[0], list(KINDS).index(one[1])))]


def seen(char):
    import unicodedata

    return not char.isspace() and unicodedata.category(char) not in ("Cc", "Cf") and char not in "\u034f\u115f\u1160\u2800\u3164\uffa0"


@ANY
@given(st.lists(st.lists(messages, max_size=6), min_size=1, max_size=5, unique_by=repr))
def test_the_rules_are_what_they_say(given_rows):
    assert kinds(batch(given_rows)) == [(i, *wrong) for i, row in enumerate(given_rows) for wrong in by_hand(row)]


@ANY
@given(st.lists(st.lists(messages, max_size=4), min_size=2, max_size=6, unique_by=repr))
def test_facts_do_not_depend_on_the_batch(given_rows):
    check, key = Schema(), Schema.key
    whole = model.merge([check.partial(batch(given_rows))], key)
    parts = [check.partial(batch([row])) for row in reversed(given_rows)]
    assert model.merge(parts, key).equals(whole) and model.merge([whole, *parts], key).equals(whole)


def test_a_good_row_is_good():
    good = parsed(
        chat(("s", "x"), ("u", "q"), ("a", "r"), ("u", "q"), ("a", "r")), {"text": "t"}, {"prompt": "a", "chosen": "b", "rejected": "c"},
        chat(("u", "q"), ("a", "c"), ("t", "x"), ("t", "y"), ("a", "r")), {"input": "a", "ideal": ["b", "c", ""]},
    )  # fmt: skip
    said = report(Schema(), good)
    assert said.findings.num_rows == 0 and said.summary == {"kinds": {}, "violations": 0, "rows_with_violations": 0}


def test_what_the_reader_found_is_told():
    made = parsed(b"{", {"x": 1}, {"text": None}, {"messages": [{"role": "x", "content": "a"}, {"role": "assistant", "content": [1]}]})
    assert kinds(made) == [
        (0, None, "unreadable"), (1, None, "no_form"), (2, None, "wrong_type"), (2, None, "no_answer"),
        (3, None, "unknown_role"), (3, None, "not_text"), (3, 1, "empty_message"),
    ]  # fmt: skip
    details = [one.get("detail") for one in found(report(Schema(), made))]
    assert details[0].startswith("no JSON at byte 1") and details[2] == "text: null, expected text" and details[3] is None


def test_every_kind_of_the_reader_is_known():
    import ast
    import inspect

    told = {
        node.elts[0].value
        for node in ast.walk(ast.parse(inspect.getsource(forms)))
        if isinstance(node, ast.Tuple)
        and len(node.elts) == 2
        and isinstance(node.elts[0], ast.Constant)
        and isinstance(node.elts[1], ast.JoinedStr)
    }
    assert told >= {"unknown_role", "no_form", "tool_call_invalid"} and told <= set(KINDS)
    assert set(KINDS.values()) == {"violation", "remark"}


def test_every_copy_of_a_row_is_found_and_counted():
    made = batch([[("user", "prompt", "a")], [("assistant", "answer", "b")], [("user", "prompt", ""), ("user", "answer", "b")]])
    said = report(Schema(), made, [1, 0, 2, 0])
    assert [(one["row"], one["kind"]) for one in found(said)] == [
        (1, "no_answer"), (3, "no_answer"), (2, "empty_message"), (2, "two_in_a_row"), (2, "ends_with_user"),
    ]  # fmt: skip
    assert said.summary == {
        "kinds": {
            "empty_message": {"severity": "violation", "rows": 1, "findings": 1},
            "no_answer": {"severity": "violation", "rows": 2, "findings": 2},
            "two_in_a_row": {"severity": "remark", "rows": 1, "findings": 1},
            "ends_with_user": {"severity": "violation", "rows": 1, "findings": 1},
        },
        "violations": 4,
        "rows_with_violations": 3,
    }


def test_what_is_allowed_is_counted_and_not_reported():
    made = batch([[("user", "prompt", "a")], [("user", "prompt", ""), ("assistant", "answer", "b")]])
    said = report(Schema(allowed=("no_answer",)), made)
    assert [one["kind"] for one in found(said)] == ["empty_message"] and said.summary["violations"] == 1
    assert said.summary["kinds"]["no_answer"] == {"severity": "allowed", "rows": 1, "findings": 1}
    assert report(Schema(allowed=("no_answer", "empty_message")), made).findings.num_rows == 0
    with pytest.raises(AuditError, match="did you mean 'no_answer'"):
        Schema(allowed=("no_answers",))


def test_rows_without_facts_make_an_empty_report():
    made = batch([[("assistant", "answer", "b")]])
    facts = Schema().partial(made)
    assert facts.num_rows == 0
    assert Schema().finish(model.numbered(facts, "row", made.rows), rows_of(made), model.in_turn).summary["violations"] == 0


def test_blank_of_every_character():
    """The kernel lets only the characters go to Python that may be blank: all of Unicode, each alone."""
    every = [chr(code) for code in range(0x110000)]
    data = [char.encode("utf-8", "surrogatepass") for char in every]
    import numpy as np

    one = model.Texts(np.frombuffer(b"".join(data), np.uint8), np.concatenate(([0], np.cumsum([len(char) for char in data]))))
    assert np.flatnonzero(schema.blank(one)).tolist() == [code for code, char in enumerate(every) if not seen(char)]


@ANY
@given(
    st.lists(
        st.text(st.sampled_from(" \n\u00a0\u200b\u3000a\u3042\ufeff\ufb00\u2014\u2028é")) | st.text(max_size=3), max_size=8, unique=True
    )
)
def test_blank_is_what_python_says(given_texts):
    made = batch([[("user", "prompt", text)] for text in given_texts])
    assert schema.blank(made.texts).tolist() == [not any(map(seen, text)) for text in given_texts]
