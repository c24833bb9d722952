"""A golden set is loaded only if it is the approved one, and every refusal says what to do."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import golden
from harness.errors import GoldenError

pytestmark = pytest.mark.selftest

GOLDEN = Path(__file__).resolve().parents[2] / "golden"

ROWS: dict[str, list[dict[str, Any]]] = {
    "json_extraction": [{"id": f"a-{i}", "input": f"{i} Main St Zürich", "target": {"number": str(i), "city": "Zürich"}} for i in range(9)],
    "multiple_choice": [{"id": "q-1", "question": "Which?", "choices": ["this", "that"], "answer": 1}],
    "documents": [{"id": "d-1", "text": "some text"}, {"id": "d-2", "text": "more text"}],
    "answers": [
        {"id": "p-1", "prompt": "6 times 7?", "target": 42},
        {"id": "p-2", "prompt": "Capital of France?", "target": ["Paris", "Lutetia"]},
        {"id": "p-3", "prompt": "As JSON?", "target": {"a": [1]}},
    ],
    "code": [{"id": "c-1", "prompt": "Write double(x).", "tests": "assert double(2) == 4", "entry_point": "double"}],
    "answer_labels": [{"id": "l-1", "prompt": "Do it.", "answer": "Done.", "label": 1}],
    "ratings": [{"id": "r-1", "request": "Do it.", "scores": [0.5, None, 1]}],
}


def as_lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def write(root: Path, data: bytes, rows: str = "json_extraction", /, **changes: Any) -> Path:
    """A folder with one set, "mine", approved as it is, apart from ``changes`` to its manifest."""
    entry = {
        "file": "mine.jsonl",
        "kind": rows,
        "n": data.count(b"\n"),
        "sha256": hashlib.sha256(data).hexdigest(),
        "fields": list(ROWS[rows][0]),
        "source": "made up",
        "licence": "MIT",
        "approved_by": "a test",
        **changes,
    }
    (root / "mine.jsonl").write_bytes(data)
    lines = (f"{key} = {json.dumps(value)}\n" for key, value in entry.items() if value is not None)
    (root / "manifest.toml").write_text("[mine]\n" + "".join(lines), "utf-8")
    return root


def refusal(root: Path, name: str = "mine") -> str:
    with pytest.raises(GoldenError) as caught:
        golden.load(name, root)
    return str(caught.value)


# --- what is accepted ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ROWS)
def test_an_approved_set_loads(tmp_path: Path, kind: str) -> None:
    data = as_lines(ROWS[kind])
    mine = golden.load("mine", write(tmp_path, data, kind))
    assert list(mine.items) == ROWS[kind]
    assert (mine.name, mine.kind, mine.n) == ("mine", kind, len(ROWS[kind]))
    assert mine.digest == hashlib.sha256(data).hexdigest()
    assert (mine.licence, mine.source, mine.path) == ("MIT", "made up", tmp_path / "mine.jsonl")


@pytest.mark.parametrize("name", golden.names(GOLDEN))
def test_a_committed_set_loads(name: str) -> None:
    mine = golden.load(name, GOLDEN)
    assert mine.n == len(mine.items) == golden.manifest_entry(name, GOLDEN)["n"]


def test_a_subset_is_fixed_and_part_of_every_larger_one() -> None:
    whole = golden.load("addresses", GOLDEN)
    small, large = (golden.load("addresses", GOLDEN, limit=limit) for limit in (20, 100))
    assert small.items == large.items[:20] and small.n == 20
    assert all(item in whole.items for item in large.items)
    assert small.digest == f"{whole.digest}+limit=20"
    drawn = [hashlib.sha256(item["id"].encode()).hexdigest() for item in large.items]
    assert drawn == sorted(drawn)


@pytest.mark.parametrize("limit", [200, 10**6])
def test_a_limit_of_n_or_more_is_the_whole_set(limit: int) -> None:
    assert golden.load("exam_text", GOLDEN, limit=limit) == golden.load("exam_text", GOLDEN)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(GoldenError, match=r"limit = 0, expected at least 1"):
        golden.load("addresses", GOLDEN, limit=0)


def test_a_declared_field_of_ones_own_is_kept(tmp_path: Path) -> None:
    rows = [{"id": "d-1", "text": "some text", "tags": [1, 2.5, None]}]
    root = write(tmp_path, as_lines(rows), "documents", fields=["id", "text", "tags"])
    assert golden.load("mine", root).items[0]["tags"] == [1, 2.5, None]


# --- a changed file -----------------------------------------------------------------------------


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_single_changed_byte_is_refused(tmp_path: Path, data: st.DataObject) -> None:
    approved = as_lines(ROWS["json_extraction"])
    root = write(tmp_path, approved)
    place = data.draw(st.integers(0, len(approved) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != approved[place]))
    (root / "mine.jsonl").write_bytes(approved[:place] + bytes([byte]) + approved[place + 1 :])
    assert "not the file that was approved" in refusal(root)


def test_a_changed_file_is_named_with_both_digests_and_what_to_do(tmp_path: Path) -> None:
    approved = as_lines(ROWS["documents"])
    root = write(tmp_path, approved, "documents")
    changed = approved.replace(b"more", b"less")
    (root / "mine.jsonl").write_bytes(changed)
    message = refusal(root)
    for digest in (hashlib.sha256(approved).hexdigest(), f'sha256 = "{hashlib.sha256(changed).hexdigest()}"'):
        assert digest in message
    assert str(root / "mine.jsonl") in message and "git checkout" in message and "review" in message


def test_a_file_both_changed_and_malformed_is_told_both(tmp_path: Path) -> None:
    root = write(tmp_path, as_lines(ROWS["documents"]), "documents")
    (root / "mine.jsonl").write_bytes(as_lines([ROWS["documents"][0], {"id": "d-2"}]))
    message = refusal(root)
    assert "not the file that was approved" in message
    assert "mine.jsonl, line 2: found no field 'text'" in message


# --- a bad row is refused even if its digest was approved ---------------------------------------

A, B = (json.dumps(row).encode() for row in ROWS["documents"])

BAD_FILES = {
    "empty file": (b"", "found an empty file"),
    "byte order mark": (b"\xef\xbb\xbf" + A + b"\n", "line 1: found a byte order mark"),
    "latin-1": (
        A + b"\n" + '{"id": "é", "text": "t"}\n'.encode("latin-1"),
        "line 2: found byte 0xe9 at 9, expected UTF-8",
    ),
    "utf-16": ("x\n".encode("utf-16"), "line 1: found a byte order mark"),
    "no newline at the end": (A + b"\n" + B, "line 2: found no newline at the end"),
    "carriage return": (A + b"\r\n", "line 1: found a carriage return"),
    "empty line": (A + b"\n\n" + B + b"\n", "line 2: found an empty line"),
    "duplicate id": (A + b"\n" + B + b"\n" + A + b"\n", "line 3: found the id 'd-1' of line 1 again"),
    "missing field": (b'{"id": "d-1"}\n', "line 1: found no field 'text'"),
    "undeclared field": (
        b'{"id": "d-1", "text": "t", "txet": "t"}\n',
        "found the fields 'txet', expected only id, text",
    ),
    "not an object": (A + b'\n["d-2", "text"]\n', "line 2: found JSON that is not an object: ['d-2', 'text']"),
    "cut off": (A[:-1] + b"\n", "line 1: found no strict JSON"),
    "two values": (A + A + b"\n", "line 1: found no strict JSON (Extra data"),
    "NaN": (b'{"id": "d-1", "text": NaN}\n', "NaN is not a JSON number"),
    "Infinity": (b'{"id": "d-1", "text": -Infinity}\n', "-Infinity is not a JSON number"),
    "overflow": (b'{"id": "d-1", "text": 1e999}\n', "1e999 overflows to Infinity"),
    "key twice": (b'{"id": "d-1", "text": "t", "text": "u"}\n', "a key occurs twice"),
    "bottomless": (b"[" * 200_000 + b"\n", "line 1: found no strict JSON"),
    "lone surrogate": (b'{"id": "d-1", "text": "\\ud800"}\n', "line 1: found text = '\\ud800'"),
    "empty text": (b'{"id": "d-1", "text": " "}\n', "found text = ' ', expected text that is not empty"),
    "id of another type": (b'{"id": 1, "text": "t"}\n', "found id = 1, expected text"),
}


@pytest.mark.parametrize(("data", "expected"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_refused_although_its_digest_agrees(tmp_path: Path, data: bytes, expected: str) -> None:
    message = refusal(write(tmp_path, data, "documents"))
    assert expected in message and str(tmp_path / "mine.jsonl") in message
    assert "not the file that was approved" not in message


BAD_VALUES = [
    ("json_extraction", "input", None),
    ("json_extraction", "target", {}),
    ("json_extraction", "target", "12 Main St"),
    ("json_extraction", "target", {"number": 12}),
    ("json_extraction", "target", {"number": ""}),
    ("multiple_choice", "question", ["Which?"]),
    ("multiple_choice", "choices", ["this"]),
    ("multiple_choice", "choices", ["this", "this"]),
    ("multiple_choice", "choices", "this or that"),
    ("multiple_choice", "answer", 2),
    ("multiple_choice", "answer", -1),
    ("multiple_choice", "answer", "B"),
    ("multiple_choice", "answer", True),
    ("multiple_choice", "answer", 1.0),
    ("documents", "text", 3),
    ("answers", "target", ""),
    ("answers", "target", None),
    ("answers", "target", True),
    ("answers", "target", []),
    ("answers", "target", ["Paris", 3]),
    ("answers", "target", {}),
    ("code", "tests", " "),
    ("code", "entry_point", "double(x)"),
    ("code", "entry_point", None),
    ("answer_labels", "label", 2),
    ("answer_labels", "label", 1.0),
    ("ratings", "scores", [0.5]),
    ("ratings", "scores", [0.5, "1"]),
    ("ratings", "scores", [True, False]),
]


@pytest.mark.parametrize(("kind", "field", "value"), BAD_VALUES)
def test_a_value_of_the_wrong_type_is_refused(tmp_path: Path, kind: str, field: str, value: Any) -> None:
    message = refusal(write(tmp_path, as_lines([{**ROWS[kind][0], field: value}]), kind))
    assert f"mine.jsonl, line 1: found {field} = {value!r}, expected" in message


def test_a_huge_value_is_not_quoted_in_full(tmp_path: Path) -> None:
    assert len(refusal(write(tmp_path, as_lines([["x" * 10_000]]), "documents"))) < 500


# --- files and manifests ------------------------------------------------------------------------


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, as_lines(ROWS["documents"]), "documents")
    (root / "mine.jsonl").unlink()
    assert "mine.jsonl: found no file" in refusal(root)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    root = write(tmp_path, as_lines(ROWS["documents"]), "documents")
    (root / "mine.jsonl").unlink()
    (root / "mine.jsonl").mkdir()
    assert "mine.jsonl: found a file that cannot be read" in refusal(root)


def test_an_unknown_name_gets_the_nearest() -> None:
    message = refusal(GOLDEN, "adresses")
    assert "did you mean 'addresses'?" in message and "commonsense" in message


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    assert "manifest.toml: found No such file or directory" in refusal(tmp_path)


@pytest.mark.parametrize("data", [b"[mine\n", b'[mine]\nfile = "\xe9"\n'], ids=["syntax", "latin-1"])
def test_a_broken_manifest_is_named(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "manifest.toml").write_bytes(data)
    assert "manifest.toml: found text that is not TOML" in refusal(tmp_path)


def test_an_entry_that_is_no_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "manifest.toml").write_text("mine = 3\n", "utf-8")
    assert "manifest.toml, mine: found 3, expected a table" in refusal(tmp_path)


BAD_ENTRIES = [
    ({"licence": ""}, "found licence = '', expected an SPDX expression"),
    ({"licence": None}, "found no licence, expected licence = an SPDX expression"),
    ({"approved_by": None}, "found no approved_by"),
    ({"kind": "essay"}, "found kind = 'essay', expected one of answer_labels, "),
    ({"sha256": "abc"}, "found sha256 = 'abc', expected 64 digits"),
    ({"n": True}, "found n = True"),
    ({"n": 3}, "found 2 items, expected n = 3"),
    ({"fields": ["id"]}, "found fields without ['text'], expected those of a documents set"),
]


@pytest.mark.parametrize(("changes", "expected"), BAD_ENTRIES, ids=[expected for _, expected in BAD_ENTRIES])
def test_a_bad_manifest_entry_is_refused(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in refusal(write(tmp_path, as_lines(ROWS["documents"]), "documents", **changes))


# --- scorers of one's own -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "kept"), [(None, {}), ("exact", {"name": "exact"}), ({"name": "regex", "pattern": "a"}, {"name": "regex", "pattern": "a"})]
)
def test_a_set_may_name_its_scorer(tmp_path: Path, said: Any, kept: dict[str, Any]) -> None:
    root = write(tmp_path, as_lines(ROWS["answers"]), "answers", scorer=None)
    if said is not None:
        shown = json.dumps(said) if isinstance(said, str) else "{ " + ", ".join(f'{k} = "{v}"' for k, v in said.items()) + " }"
        with (root / "manifest.toml").open("a") as file:
            file.write(f"scorer = {shown}\n")
    assert golden.load("mine", root).scorer == kept


@pytest.mark.parametrize("said", [3, "", [], True])
def test_a_scorer_that_is_no_name_is_refused(tmp_path: Path, said: Any) -> None:
    root = write(tmp_path, as_lines(ROWS["answers"]), "answers", scorer=said)
    assert "found scorer = " in refusal(root) and "expected the name of a scorer" in refusal(root)


def test_an_item_may_name_its_scorer(tmp_path: Path) -> None:
    rows = [{**row, "scorer": {"name": "numeric", "tolerance": 0.1}} for row in ROWS["answers"]]
    fields = ["id", "prompt", "target", "scorer"]
    assert golden.load("mine", write(tmp_path, as_lines(rows), "answers", fields=fields)).items[0]["scorer"]["tolerance"] == 0.1
    rows[1]["scorer"] = {"tolerance": 0.1}
    message = refusal(write(tmp_path, as_lines(rows), "answers", fields=fields))
    assert "line 2: found scorer = {'tolerance': 0.1}, expected the name of a scorer" in message
