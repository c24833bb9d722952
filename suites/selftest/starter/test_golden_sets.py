"""``python -m harness golden``: every row of a file becomes an item or an error with its line; what was added loads as it was approved."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness import golden
from harness.__main__ import main
from harness.errors import GoldenError
from harness.starter import sets

pytestmark = pytest.mark.selftest


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(path, **said):
    return sets.make(path, "mine", approved_by="somebody", **said)


def put(folder, name, text):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


ROWS = [{"prompt": f"q{n}", "target": f"a{n}"} for n in range(20)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", LINES),
        ("a.ndjson", LINES.rstrip("\n").replace("\n", "\r\n")),
        ("a.json", json.dumps(ROWS)),
        ("a.csv", "\ufeffQuestion,x,target\n".replace("Question", "question") + "".join(f"q{n},,a{n}\n" for n in range(20))),
        ("a.tsv", "input\toutput\n" + "".join(f"q{n}\ta{n}\n" for n in range(20))),
    ],
)
def test_every_form_makes_the_same_set(tmp_path, name, text):
    found = made(put(tmp_path, name, text))
    assert found.kind == "answers" and found.digest == made(put(tmp_path, "b.jsonl", LINES)).digest


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"prompt": "q", "target": ["a", "b"]}, "answers"),
        ({"prompt": "q", "target": 3}, "answers"),
        ({"input": "q", "target": {"city": "Rome"}}, "json_extraction"),
        ({"input": "q", "target": {"city": 3}}, "answers"),
        ({"question": "q", "choices": ["a", "b"], "answer": 1}, "multiple_choice"),
        ({"prompt": "q", "tests": "assert f()", "entry_point": "f"}, "code"),
    ],
)
def test_the_kind_is_told_from_the_columns(here, row, kind):
    found = made(put(here, "a.jsonl", json.dumps(row)))
    assert found.kind == kind
    for path, data in sets.add(found, here / "golden").items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    assert golden.load("mine", here / "golden").n == 1
    assert main(["golden", "check"]) == 0 and main(["golden", "show", "mine"]) == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no rows"),
        ('{"prompt": "q"}\n', "expected a question and its answer"),
        ('{"prompt": "q", "target": ""}\n', "line 1: found target = ''"),
        ('{"prompt": "q", "target": NaN}\n', "NaN is not a JSON number"),
        ('{"prompt": "q", "target": 1e999}\n', "Infinity"),
        ('{"prompt": "q", "prompt": "r", "target": "a"}\n', "a key occurs twice"),
        ('{"prompt": "q", "target": "a"}\n["q", "a"]\n', "line 2: JSON that is no object"),
        ('{"prompt": "q", "target": "a"}\n\n{"prompt": "r"}\n', "line 3: found no field 'target'"),
        ('{"prompt": "q", "target": "a"}\n{"prompt": "q", "target": "a"}\n', "line 2: asks what line 1 asks"),
        ('{"prompt": "q", "target": "a"}\n{"prompt": "q", "target": "b"}\n', "two answers to one question"),
        ('{"id": "", "prompt": "q", "target": "a"}\n', "line 1: found id = ''"),
        ('{"id": null, "prompt": "q", "target": "a"}\n', "line 1: found id = None"),
        ('{"id": "x", "prompt": "q", "target": "a"}\n{"id": "x", "prompt": "r", "target": "b"}\n', "the id 'x' of line 1 again"),
        ('{"prompt": "\\ud800", "target": "a"}\n', "line 1: half a character (\\ud800)"),
        ('{"prompt": "q", "target": {"a": "\\udfff"}}\n', "line 1: half a character"),
        ("[" * 100_000, "no strict JSON"),
        (b'{"prompt": "\xff"}', "no UTF-8"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, text, said):
    with pytest.raises(GoldenError) as raised:
        made(put(tmp_path, "a.jsonl", text))
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,target\nq\n", "line 2: another number of cells"),
        ("prompt,target\nq,a,b\n", "line 2: another number of cells"),
        ("prompt,prompt\nq,a\n", "a different name for each"),
        ('prompt,target\n"q,a\n', "no CSV"),
        ("frage,target\nq,a\n", "Name it: --field prompt=COLUMN"),
    ],
)
def test_a_table_that_is_none_is_named(tmp_path, text, said):
    with pytest.raises(GoldenError) as raised:
        made(put(tmp_path, "a.csv", text))
    assert said in str(raised.value)


def test_columns_may_be_named(tmp_path):
    path = put(tmp_path, "a.csv", "frage,antwort\nq,a\n")
    found = made(path, columns={"prompt": "frage", "target": "antwort"})
    assert found.rows[0]["prompt"] == "q" and found.rows[0]["target"] == "a" and found.left_out == ()
    with pytest.raises(GoldenError, match="did you mean 'frage'"):
        made(path, columns={"prompt": "frag", "target": "antwort"})


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["7", "-1,200", "3.5"], {"name": "numeric", "take": "last"}),
        ([7, 8], {"name": "numeric", "take": "last"}),
        (["7", "seven"], ""),
        (["02134", "10001"], ""),
        (["room 7", "room 8"], ""),
        ([["7", "8"], "9"], ""),
        ([{"a": 1}, {"a": 2}], "json"),
    ],
)
def test_numbers_are_scored_as_numbers(tmp_path, targets, said):
    """A model says "The answer is 7."; as a text that would be wrong."""
    rows = [{"prompt": f"q{n}", "target": target} for n, target in enumerate(targets)]
    found = made(put(tmp_path, "a.json", json.dumps(rows)), kind="answers")
    assert found.scorer == said


def test_a_scorer_may_be_named_with_its_options(here, capsys):
    put(here, "a.jsonl", LINES)
    assert main(["golden", "add", "a.jsonl", "--scorer", '{ name = "exact", normalize = ["case", "space"] }']) == 0
    assert golden.load("a", here / "golden").scorer == {"name": "exact", "normalize": ["case", "space"]}
    for wrong, said in (("exactly", "did you mean 'exact'"), ("{ name = 3", "expected a name"), ("{ name = 'exact', x = 1 }", "'x'")):
        assert main(["golden", "add", "a.jsonl", "--name", "b", "--scorer", wrong]) == 1
        assert said in capsys.readouterr().err


def test_cells_hold_json_where_the_kind_is_told(tmp_path):
    path = put(tmp_path, "a.csv", 'question,choices,answer\nq,"[""a"", ""b""]",1\n')
    assert made(path, kind="multiple_choice").rows[0]["choices"] == ["a", "b"]
    with pytest.raises(GoldenError, match="index below 2"):
        made(put(tmp_path, "b.csv", 'question,choices,answer\nq,"[""a"", ""b""]",2\n'))


def test_ids_are_of_the_content_and_not_of_the_place(tmp_path):
    forwards = made(put(tmp_path, "a.jsonl", LINES))
    backwards = made(put(tmp_path, "b.json", json.dumps(ROWS[::-1])))
    assert {row["id"]: row for row in forwards.rows} == {row["id"]: row for row in backwards.rows}


def test_add_check_show_and_a_changed_byte(here, capsys):
    put(here, "tickets.jsonl", LINES)
    assert main(["golden", "add", "tickets.jsonl", "--licence", "CC0-1.0", "--prompt", "Say it. {input}"]) == 0
    assert "at least 0.8: shown with 20 of 20 right" in capsys.readouterr().out
    assert main(["golden", "check"]) == 0
    path = here / "golden" / "sets" / "tickets.jsonl"
    path.write_bytes(path.read_bytes().replace(b"a3", b"a4"))
    assert main(["golden", "check"]) == 1
    assert "refused  tickets" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("n", "lines"),
    [
        (10, ["at least 0.8: cannot be shown, not even with 10 of 10 right; that takes 14", "not worse than another: by 39.5 points, "]),
        (
            560,
            ["at least 0.8: shown with 464 of 560 right (82.9%)", "not worse than another: by 3.5 points (normal formula)", "better than"],
        ),
    ],
)
def test_what_an_n_can_show(n, lines):
    found = list(sets.shows(n))
    assert len(found) == len(lines) and all(line.startswith(said) for line, said in zip(found, lines, strict=True)), found


@pytest.mark.parametrize("n", [14, 60, 137, 560])
def test_the_number_that_must_be_right_is_the_binomial_one(n):
    from scipy.stats import binom

    first = next(iter(sets.shows(n)))
    k = int(first.split("shown with ")[1].split(" of ")[0])
    assert binom.sf(k - 1, n, 0.80) <= 0.05 < binom.sf(k - 2, n, 0.80)


def test_another_set_is_added_and_none_is_replaced(here, capsys):
    put(here, "one.jsonl", LINES)
    put(here, "two.csv", "prompt,target\nq,a\n")
    assert main(["golden", "add", "one.jsonl"]) == 0
    before = (here / "golden" / "manifest.toml").read_text()
    assert main(["golden", "add", "two.csv"]) == 0
    assert (here / "golden" / "manifest.toml").read_text().startswith(before)
    assert main(["golden", "add", "two.csv", "--name", "one"]) == 1
    assert "with other items" in capsys.readouterr().err
    assert main(["golden", "add", "one.jsonl"]) == 0
    assert golden.names(here / "golden") == ["one", "two"]


def test_a_set_that_nothing_reads_is_found(here, capsys):
    put(here, "one.jsonl", LINES)
    assert main(["golden", "add", "one.jsonl"]) == 0
    (here / "golden" / "sets" / "left.jsonl").write_text(LINES)
    assert main(["golden", "check"]) == 1
    assert "in no manifest" in capsys.readouterr().out


def test_a_full_disk_leaves_nothing_half(here, monkeypatch, capsys):
    put(here, "one.jsonl", LINES)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert main(["golden", "add", "one.jsonl"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert not [path for path in (here / "golden").rglob("*") if path.is_file()]


text = st.text(min_size=1, max_size=30).filter(lambda t: t.strip() and not any("\ud800" <= c <= "\udfff" for c in t))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(text, text, min_size=1, max_size=5), text, text)
def test_whatever_is_written_loads_again(tmp_path, pairs, source, prompt):
    path = put(tmp_path, "a.json", json.dumps([{"prompt": q, "target": a} for q, a in pairs.items()]))
    found = made(path, source=source, prompt=prompt.replace("{", "") + "{input}")
    folder = tmp_path / "golden"
    (folder / "sets").mkdir(parents=True, exist_ok=True)
    (folder / "manifest.toml").unlink(missing_ok=True)
    (folder / found.file).unlink(missing_ok=True)
    for place, data in sets.add(found, folder).items():
        place.write_bytes(data)
    loaded = golden.load("mine", folder)
    assert {row["prompt"]: row["target"] for row in loaded.items} == pairs
    assert loaded.source == source and loaded.prompt == found.prompt
