"""From rows to messages: every form with any text, every kind of damage; a row never raises, never vanishes, never depends on another."""

import gzip
import json
import math

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import forms, rows
from harness.audit.forms import Shape
from harness.audit.model import FORMS, PARTS, ROLES, SCHEMA, Batch
from harness.errors import AuditError

pytestmark = pytest.mark.selftest

ANY = settings(derandomize=True, deadline=None, max_examples=80)
texts = st.text(max_size=12)  # lone surrogates too
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts | st.sampled_from(["user", "assistant", "tool"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "name", "x"]) | texts, inner, max_size=3)
    ),
    max_leaves=8,
)
KEYS = sorted({key for _, keys in forms._KEYS for key in keys} | {"tools", "functions", "system", "history", "id"})


def parse(raw, shape=Shape()):  # noqa: B008 - frozen
    digests = np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, raw)), "<u8").reshape(-1, 2)
    record = forms.parse(raw, digests, shape)
    record.validate(full=True)
    assert record.schema == SCHEMA and record.num_rows == len(raw)
    assert Batch(record).rows.tobytes() == digests.tobytes()
    return record


def said(record, beside=False):
    """Each row as (form, messages, kinds of problems); with what stands beside the messages only if asked."""
    found = []
    for row in record.drop_columns(["row", "id", "group", "label"]).to_pylist():
        messages = [(ROLES[m["role"]], PARTS[m["part"]], m["text"].decode("utf-8", "surrogatepass")) for m in row["messages"]]
        messages = [m for m in messages if beside or m[:2] != ("other", "meta")]
        found.append((FORMS[row["form"]], messages, [problem["kind"] for problem in row["problems"]]))
    return found


def one(value, **shape):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return said(parse([raw], Shape(**shape)))[0]


def details(value):
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return [(problem["kind"], problem["detail"]) for problem in parse([raw]).column("problems")[0].as_py()]


def chat(*messages):
    return {"messages": [{"role": role, "content": text} for role, text in messages]}


# --- forms ----------------------------------------------------------------------------------------


@ANY
@given(texts, texts, texts)
def test_every_form_with_any_texts(a, b, c):
    asked, answered = ("user", "prompt", a), ("assistant", "answer", b)
    both = [asked, answered]
    said_so = [{"role": "user", "content": a}, {"role": "assistant", "content": b}]
    expected = {
        "chat": [
            ({"messages": said_so}, both),
            ({"messages": [{"role": "user", "content": [{"type": "text", "text": a}, c]}, said_so[1]]},
             [("user", "prompt", a + c), answered]),
            ({"conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]}, both),
            ({"system": c + ".", "conversations": [{"from": "human", "value": a}, {"from": "gpt", "value": b}]},
             [("system", "prompt", c + "."), *both]),
        ],
        "alpaca": [
            ({"instruction": a, "input": "", "output": b}, both),
            ({"instruction": a, "input": "?" + c, "output": b}, [("user", "prompt", f"{a}\n\n?{c}"), answered]),
            ({"instruction": a, "output": b, "history": [[c, a]]}, [("user", "prompt", c), ("assistant", "prompt", a), *both]),
            ({"instruction": a, "context": "?" + c, "response": b}, [("user", "prompt", f"{a}\n\n?{c}"), answered]),
        ],
        "completion": [
            *(({x: a, y: b}, both) for name, (x, *rest) in forms._KEYS if name == "completion" for y in rest),
            ({"input": a, "target": {"b": 1, "a": b}}, [asked, ("assistant", "answer", forms._canonical({"a": b, "b": 1}))]),
            ({"prompt": said_so[:1], "completion": said_so[1:]}, both),
        ],
        "choice": [({"question": a, "choices": [b, c], "answer": 0}, [("user", "prompt", f"{a}\n{b}\n{c}"), answered])],
        "request": [({"prompt": a}, [asked])],
        "preference": [
            ({"prompt": a, "chosen": b, "rejected": c}, [*both, ("assistant", "rejected", c)]),
            ({"chosen": said_so, "rejected": [said_so[0], {"role": "assistant", "content": c}]}, [*both, ("assistant", "rejected", c)]),
            ({"prompt": a, "chosen": said_so, "rejected": [said_so[0], {"role": "assistant", "content": c}]},
             [*both, ("assistant", "rejected", c)]),
        ],
        "text": [({"text": a}, [("other", "answer", a)])],
        "evals": [
            ({"input": a, "ideal": b}, both),
            ({"input": said_so, "ideal": [b, c]},
             [asked, ("assistant", "prompt", b), answered, ("assistant", "meta", c)]),
        ],
    }  # fmt: skip
    assert set(expected) == set(FORMS) - {"unreadable"}
    for form, cases in expected.items():
        for row, messages in cases:
            for shape in ("auto", form):
                found, parsed, problems = one(row, form=shape)
                assert (found, parsed) == (form, messages), row
                assert set(problems) <= {"not_strict"}


def test_a_dialogue_in_one_text_is_split_at_the_last_reply():
    shared = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant:"
    assert one({"chosen": shared + " good", "rejected": shared + " bad"})[1] == [
        ("user", "prompt", "a\n\nAssistant: b\n\nHuman: c"), ("assistant", "answer", "good"), ("assistant", "rejected", "bad")
    ]  # fmt: skip
    assert one({"chosen": shared + " good", "rejected": "bad"})[1] == [
        ("assistant", "answer", shared + " good"), ("assistant", "rejected", "bad")
    ]  # fmt: skip


def test_equal_answers_stay_two_answers():
    same = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert [part for _, part, _ in one({"chosen": same, "rejected": same})[1]] == ["prompt", "answer", "rejected"]


@pytest.mark.parametrize(
    ("roles", "parts"),
    [
        ("ua", "pa"), ("uaua", "pppa"), ("uaa", "paa"), ("uau", "pap"), ("su", "pp"), ("a", "a"), ("uauu", "papp"), ("uatuaa", "ppppaa"),
    ],
)  # fmt: skip
def test_the_last_answer_is_the_answer(roles, parts):
    names = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}
    for extra in ({}, {"name": "x"}):  # the quick way, and the other
        row = {"messages": [{"role": names[role], "content": str(i), **extra} for i, role in enumerate(roles)]}
        assert "".join(part[0] for _, part, _ in one(row)[1]) == parts


@ANY
@given(st.lists(st.tuples(st.sampled_from(sorted(forms._ROLE)), st.text(st.characters(exclude_categories=["Cs"]), max_size=9)), min_size=1))
def test_the_quick_way_says_what_the_other_says(messages):
    row = chat(*messages)
    slow = {"messages": row["messages"], "x": {"y": 1}}  # a key inside a key: too odd for the quick way
    made = forms._Columns()
    assert forms._plain_chat(row, 1 + 2 * len(messages), made, frozenset())
    assert not forms._plain_chat(slow, 3 + 2 * len(messages), made, frozenset())
    assert one(row) == one(slow)


def test_tools_and_calls_are_texts():
    tools = [{"type": "function", "function": {"name": "add", "parameters": {"required": ["a", "b"]}}}]
    call = {"id": "1", "function": {"name": "add", "arguments": '{"a":1,"b":2}'}}
    row = {
        "tools": tools,
        "messages": [
            {"role": "user", "content": "q"}, {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "1", "content": "3"}, {"role": "assistant", "content": "three"},
        ],
    }  # fmt: skip
    form, messages, problems = one(row)
    assert form == "chat" and not problems
    assert messages[1] == ("assistant", "prompt", forms._canonical([call])) and messages[-1] == ("other", "tools", forms._canonical(tools))
    assert one({**row, "tools": json.dumps(tools)})[2] == []

    def problem(calls, results=("1",), tools=tools):
        turns = [
            {"role": "assistant", "content": "", "tool_calls": calls},
            *({"role": "tool", "tool_call_id": i, "content": ""} for i in results),
        ]
        return [
            kind
            for kind, _ in details({"messages": [*turns, {"role": "assistant", "content": "x"}], **({"tools": tools} if tools else {})})
        ]

    assert problem([call]) == []
    assert problem([call], ()) == ["tool_call_without_result"]
    assert problem([call], ("1", "2")) == ["tool_result_without_call"]
    assert problem([call, {**call, "id": "2"}], ("2", "1")) == []
    for wrong in ("{", "[1]", '{"a":1}', None, 3):
        assert problem([{"id": "1", "function": {"name": "add", "arguments": wrong}}]) == ["tool_call_invalid"], wrong
    assert problem([{"id": "1", "function": {"name": "sub", "arguments": "{}"}}]) == ["tool_call_invalid"]
    assert problem([{"id": "1", "function": {"name": "sub", "arguments": "{}"}}], tools=None) == []
    assert problem(["nonsense"], ()) == ["tool_call_invalid"]
    assert details({"messages": [], "tools": 3}) == [("wrong_type", "tools: a number, expected an array of functions with a name each")]


def test_names_groups_and_labels():
    raw = [
        orjson.dumps(row)
        for row in ({"id": 7, "meta": {"user": "ann"}, "y": True, "text": ""}, {"id": None, "meta": [], "y": {"b": [1]}}, 3)
    ]
    record = parse(raw, Shape(group="meta.user", label="y"))
    assert [record.column(name).to_pylist() for name in ("id", "group", "label")] == [
        ["7", None, None],
        ["ann", None, None],
        ["true", '{"b":[1]}', None],
    ]
    assert parse([rb'{"id":"\ud800"}']).column("id").to_pylist() == ["\\ud800"]


def test_what_stands_beside_a_plain_chat():
    row = chat(("user", "a"), ("assistant", "b"))
    plain = one(row)[1]
    assert one({**row, "system": "s"})[1] == one({**row, "system_prompt": "s"})[1] == [("system", "prompt", "s"), *plain]
    assert one({**row, "tools": "[]"})[1] == [*plain, ("other", "tools", "[]")]
    assert one({**row, "chosen": "c", "rejected": "r"})[0] == "preference"


def test_a_form_that_was_named_is_kept_to():
    row = {**chat(("user", "a"), ("assistant", "b")), "text": "t"}
    assert one(row)[0] == "chat" and one(row, form="text")[1] == [("other", "answer", "t")]
    assert one(row, form="alpaca")[2] == ["no_form"]
    with pytest.raises(AuditError, match="did you mean 'chat'"):
        Shape(form="chats")


def test_fields_may_be_named():
    row = {"src": "a", "out": {"text": "b"}, "messages": [], "system": "s"}
    expected = [("system", "prompt", "s"), ("user", "prompt", "a"), ("assistant", "answer", "b")]
    assert one(row, prompt="src", answer="out.text") == ("completion", expected, [])
    assert one(row, prompt="src") == ("completion", expected[:2], [])
    assert one({"src": "a"}, prompt="src", answer="out.text") == ("completion", expected[1:2], ["wrong_type"])
    with pytest.raises(AuditError, match="form is completion; found 'chat'"):
        Shape("chat", prompt="src")


def test_a_column_that_is_null_is_not_there():
    assert one({"messages": None, "text": "t"})[0] == "text"
    assert one({"messages": None}) == ("chat", [], ["wrong_type"])


# --- damage ---------------------------------------------------------------------------------------

DAMAGE = {
    b"": "unreadable", b"{": "unreadable", b'{"text":"a"}x': "unreadable", b'{"text":"\xff"}': "unreadable", b"\0": "unreadable",
    b"[1,2]": "unreadable", b"null": "unreadable", b'"text"': "unreadable", b'{"text":"a\nb"}': "unreadable", b"{'text':1}": "unreadable",
    b"[" * 5000: "unreadable", b'{"text":' + b"[" * 250 + b"]" * 250 + b"}": "unreadable", b'{"text":"a",}': "unreadable",
    b"{}": "no_form", b'{"message":"x"}': "no_form", b'{"text":"a","text":"b"}': "duplicate_key",
    b'{"messages":[{"role":"user","content":"a","content":"b"}]}': "duplicate_key", b'{"text":"a","n":NaN}': "not_strict",
    b'{"text":"a","n":1e999}': "not_strict", b'{"text":"a","n":' + b"9" * 5000 + b"}": "not_strict", rb'{"text":"\ud800"}': "not_strict",
    b'\xef\xbb\xbf{"text":"a"}': "not_strict", b'{"text":null}': "wrong_type", b'{"messages":"x"}': "wrong_type",
    b'{"messages":[null]}': "wrong_type", b'{"messages":[{"role":"user"}]}': "wrong_type", b'{"messages":[{"content":"x"}]}': "wrong_type",
    b'{"messages":[{"role":["user"],"content":"x"}]}': "wrong_type", b'{"messages":[{"role":"User","content":"x"}]}': "unknown_role",
    b'{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]}': "not_text",
    b'{"input":"a","ideal":[]}': "wrong_type", b'{"instruction":"a","output":"b","history":[1]}': "wrong_type",
}  # fmt: skip


@pytest.mark.parametrize("raw", DAMAGE, ids=lambda raw: repr(raw[:40]))
def test_damage_has_a_name(raw):
    assert one(raw)[2] == [DAMAGE[raw]]


@ANY
@given(
    st.sampled_from(KEYS).flatmap(
        lambda key: st.fixed_dictionaries({key: anything}, optional=dict.fromkeys(sorted(set(KEYS) - {key}), anything))
    )
)
def test_no_value_raises(row):
    raw = json.dumps(row).encode()
    form, _, problems = one(raw)
    assert form != "unreadable" or problems


@ANY
@given(st.binary(max_size=40) | st.text('{}[]":,\\ a\ud8001').map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_bytes_raise(raw):
    assert one(raw)[2] or raw.lstrip().startswith(b"{")


def test_problems_do_not_quote_what_a_row_holds():
    secret = "hunter2"
    for row in (
        {"messages": [{"role": secret, "content": secret}, {"role": "user", "content": [{"x": secret}]}, secret]},
        {"text": [secret]}, {"unknown": secret}, {"prompt": secret, "completion": None},
        {"messages": [{"role": "assistant", "tool_calls": [{"id": secret, "function": {"name": secret, "arguments": secret}}]}]},
    ):  # fmt: skip
        assert secret not in str(details(row))
    assert secret not in str(details(b'{"a": "hunter2" hunter2'))
    assert details(b'{"a": "\xc3\xa9" hunter2') == [("unreadable", "no JSON at byte 11 of the row: Expecting ',' delimiter")]
    assert details(b'\xef\xbb\xbf{"a": \xff')[0][1] == "no UTF-8 at byte 9 of the row"
    (found,) = details({"k" * 99 + "\u202e": 1})
    assert found == ("no_form", f"keys '{'k' * 37}...': no known form of a row")
    assert details(b'{"a":1,"a":2,"text":""}') == [("duplicate_key", "keys there twice in one object: 'a'; readers keep the last")]


def test_a_large_row_and_large_numbers():
    text = "x\u20ac" * (5 << 20)
    assert one(chat(("user", text), ("assistant", "y")))[1][0][2] == text
    assert one({"input": "a", "target": 2**70})[1][1][2] in (str(2**70), repr(float(2**70)))


# --- a batch --------------------------------------------------------------------------------------


@ANY
@given(st.lists(st.dictionaries(st.sampled_from(KEYS), anything, max_size=4), max_size=6), st.randoms())
def test_a_row_does_not_depend_on_its_neighbours(given_rows, random):
    raw = [json.dumps(row).encode() for row in given_rows]
    alone = {line: said(parse([line]))[0] for line in raw}
    random.shuffle(raw)
    assert said(parse(raw)) == [alone[line] for line in raw]


def test_each_distinct_text_is_there_once():
    batch = Batch(parse([orjson.dumps(chat(("user", str(i % 3)), ("assistant", "0"))) for i in range(9)]))
    assert [batch.texts.str(i) for i in range(len(batch.texts))] == ["0", "1", "2"] and len(batch.text) == 18
    assert Batch(parse([])).n == 0


def test_whatever_the_file_the_facts_are_the_same(tmp_path):
    given_rows = [
        {"id": str(i), "messages": [{"role": "user", "content": f"é {i}"}, {"role": "assistant", "content": "ok"}]} for i in range(50)
    ]
    lines = b"\n".join(orjson.dumps(row) for row in given_rows)
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(lines))
    (tmp_path / "a.json").write_text(json.dumps(given_rows, indent=2))
    pq.write_table(pa.Table.from_pylist(given_rows), tmp_path / "a.parquet")
    found = []
    for path in sorted(tmp_path.iterdir()):
        (chunk,) = rows.read([path])
        record = forms.parse(chunk.raw, chunk.digests, Shape())
        found.append((said(record), record.column("id").to_pylist()))
    assert len(found) == 5 and all(one == found[0] for one in found) and len(found[0][0]) == 50


def test_what_a_file_holds_in_words():
    raw = [orjson.dumps(chat(("user", "a"))), b"{", orjson.dumps(chat(("user", "b")))]
    assert forms.detect(raw) == "chat 2, unreadable 1" and forms.detect(raw, Shape("text")) == "unreadable 3"


# --- the kernels ----------------------------------------------------------------------------------


def keys_and_depth(value):
    if isinstance(value, dict):
        inner = [keys_and_depth(one) for one in value.values()]
        return len(value) + sum(keys for keys, _ in inner), 1 + max((depth for _, depth in inner), default=0)
    if isinstance(value, list):
        inner = [keys_and_depth(one) for one in value]
        return sum(keys for keys, _ in inner), 1 + max((depth for _, depth in inner), default=0)
    return 0, 0


@ANY
@given(st.lists(anything, max_size=5), st.sampled_from([None, 1]), st.booleans())
def test_keys_and_depth_are_counted_as_python_counts(values, indent, escaped):
    raw = [json.dumps(value, indent=indent, ensure_ascii=escaped).encode("utf-8", "surrogatepass") for value in values]
    keys, depth = forms._measured(raw)
    assert list(zip(keys, depth, strict=True)) == [keys_and_depth(value) for value in values]
    assert [forms._key_count(value) for value in values] == keys


@ANY
@given(anything)
def test_equal_values_have_one_text(value):
    if not any(math.isnan(one) for one in [value] if isinstance(one, float)):
        shuffled = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
        assert forms._canonical(json.loads(json.dumps(value))) == forms._canonical(shuffled)


def test_a_choice_is_asked_with_its_choices_and_answered_by_its_text():
    rows = [
        {"question": "Which?", "choices": ["this", "that"], "answer": 1},
        {"question": "Which?", "choices": ["this", "that"], "answer": "this"},
        {"question": "Which?", "choices": ["this", "that"], "answer": 2},
        {"question": "Which?", "choices": "this", "answer": 0},
    ]
    raw = [orjson.dumps(row) for row in rows]
    record = parse(raw)
    texts = [[message["text"] for message in row] for row in record.column("messages").to_pylist()]
    assert texts[:2] == [[b"Which?\nthis\nthat", b"that"], [b"Which?\nthis\nthat", b"this"]]
    kinds = [[problem["kind"] for problem in row] for row in record.column("problems").to_pylist()]
    assert kinds == [[], [], ["wrong_type"], ["wrong_type", "wrong_type"]]


def test_a_prompt_alone_is_a_request():
    raw = [b'{"id": "a", "prompt": "Do it."}']
    record = parse(raw)
    assert FORMS[record.column("form")[0].as_py()] == "request"
    assert [m["text"] for m in record.column("messages")[0].as_py()] == [b"Do it."]


@pytest.mark.parametrize(
    ("row", "beside"),
    [
        ({"messages": [{"role": "user", "content": "a"}], "customer": {"mail": "x"}}, {"customer": {"mail": "x"}}),
        (
            {"messages": [{"role": "assistant", "content": "a", "reasoning_content": "b"}], "n": 1},
            {"messages": [{"reasoning_content": "b"}], "n": 1},
        ),
        ({"instruction": "a", "output": "b", "input": "", "source": "c"}, {"source": "c"}),
        ({"text": "a", "meta": ["b"]}, {"meta": ["b"]}),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "annotator": "d"}, {"annotator": "d"}),
        ({"input": [{"role": "user", "content": "a", "name": "d"}], "ideal": "b"}, {"input": [{"name": "d"}]}),
    ],
)
def test_what_no_form_reads_is_kept_beside_and_so_is_scanned(row, beside):
    for shape in (Shape(), Shape(id="id")):
        ((_, messages, _),) = said(parse([json.dumps({**row, "id": "me"}).encode()], shape), beside=True)
        role, part, text = messages[-1]
        assert (role, part, json.loads(text)) == ("other", "meta", beside)
    ((_, messages, _),) = said(parse([json.dumps({**row, "id": "me"}).encode()], Shape(id="")), beside=True)
    assert json.loads(messages[-1][2]) == {**beside, "id": "me"}


def test_a_question_is_asked_about_its_passage():
    first, second = (one({"question": "a", "answer": "b", "passage": passage}) for passage in ("p", "q"))
    assert [m[2] for m in first[1]] == ["p\n\na", "b"] and [m[2] for m in second[1]] == ["q\n\na", "b"]
