"""Sheets are blind, harmless to open, and come back whole or not at all."""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import EvidenceError
from harness.evals.judges import command, sheets
from harness.evals.judges.sheets import Row

pytestmark = pytest.mark.selftest

ROWS = [Row(f"i-{n}", f"Do {n}.", f"Done {n}.", arm) for n in range(6) for arm in ("base-model", "tuned-model")]
GOLD = [Row("g-1", "Two and two?", "Four.", label="yes")]


def exported(folder: Path, **more: object) -> list[Path]:
    return sheets.export(ROWS, ["yes", "no"], folder, **{"gold": GOLD, "repeats": 3, **more})  # type: ignore[arg-type]


def cells(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def fill(path: Path, give: object = lambda row: "yes", shuffle: bool = False) -> None:
    rows = [{**row, "label": give(row)} for row in cells(path)]  # type: ignore[operator]
    if shuffle:
        random.Random(0).shuffle(rows)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["label", "row", "request", "answer"])  # a spreadsheet may move columns
        writer.writeheader()
        writer.writerows(rows)


def test_a_sheet_says_nothing_of_arms_and_each_rater_has_an_order(tmp_path: Path) -> None:
    first, second = exported(tmp_path)
    assert len(cells(first)) == len(ROWS) + 1 + 3
    for path in (first, second):
        text = path.read_text("utf-8")
        assert not any(word in text for word in ("base-model", "tuned-model", "gold", "repeat", "i-0", "g-1"))
    orders = [[row["row"] for row in cells(path)] for path in (first, second)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert exported(tmp_path / "again")[0].read_bytes() == first.read_bytes()
    assert exported(tmp_path / "other", seed="1")[0].read_bytes() != first.read_bytes()


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", ' "=1', "\n@x"])
def test_no_cell_is_a_formula(tmp_path: Path, text: str) -> None:
    path = sheets.export([Row("a", text, text)], ["yes", "no"], tmp_path, raters=1)[0]
    (row,) = cells(path)
    assert row["request"].startswith("'") and row["answer"].startswith("'")


def test_labels_come_back_with_gold_and_repeats(tmp_path: Path) -> None:
    path = exported(tmp_path)[0]
    fill(path, lambda row: " YES " if "2" in row["answer"] else "no", shuffle=True)
    found = sheets.read_sheet(path, sheets.read_key(tmp_path / "key.json"))
    assert found.labels == {(r.item, r.arm): "yes" if "2" in r.answer else "no" for r in ROWS}
    assert (found.gold, found.repeats) == ((0, 1), (3, 3))


def broken(path: Path, how: str) -> None:
    lines = path.read_text("utf-8").splitlines(keepends=True)
    if how == "missing":
        lines.pop()
    elif how == "twice":
        lines.append(lines[-1])
    elif how == "unknown":
        lines.append(lines[-1].replace("row-", "row-x"))
    elif how == "label":
        lines[-1] = lines[-1].replace("yes", "maybe", 1)
    path.write_text("".join(lines), "utf-8")


@pytest.mark.parametrize(
    ("how", "said"),
    [("missing", "1 missing rows"), ("twice", "1 rows that stand twice"), ("unknown", "1 unknown rows"), ("label", "'maybe'")],
)
def test_a_sheet_that_is_not_whole_is_refused(tmp_path: Path, how: str, said: str) -> None:
    path = exported(tmp_path)[0]
    fill(path)
    broken(path, how)
    with pytest.raises(EvidenceError, match=said):
        sheets.read_sheet(path, sheets.read_key(tmp_path / "key.json"))


@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "\x00", "row,label\n"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    exported(tmp_path)
    (tmp_path / "x.csv").write_text(text, "utf-8")
    with pytest.raises(EvidenceError):
        sheets.read_sheet(tmp_path / "x.csv", sheets.read_key(tmp_path / "key.json"))


@pytest.mark.parametrize(
    ("rows", "labels", "more", "said"),
    [
        ([ROWS[0], ROWS[0]], ["yes", "no"], {}, "stand twice"),
        (ROWS, ["yes", "yes"], {}, "two different words"),
        (ROWS, ["yes", " no"], {}, "two different words"),
        (ROWS, ["yes", "no"], {"gold": [Row("g", "p", "a")]}, "no label of"),
        (ROWS, ["yes", "no"], {"repeats": 99}, "no more repeats than rows"),
        ([], ["yes", "no"], {}, "0 answers"),
    ],
)
def test_what_cannot_be_labelled_is_not_exported(
    tmp_path: Path, rows: list[Row], labels: list[str], more: dict[str, object], said: str
) -> None:
    with pytest.raises(EvidenceError, match=said):
        sheets.export(rows, labels, tmp_path, **more)  # type: ignore[arg-type]


def test_sheets_are_not_overwritten(tmp_path: Path) -> None:
    exported(tmp_path)
    with pytest.raises(EvidenceError, match="has sheets already"):
        exported(tmp_path)


printable = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.lists(st.tuples(printable, printable), min_size=1, max_size=8), st.sampled_from(["csv", "jsonl"]), st.data())
def test_what_is_given_is_what_comes_back(
    tmp_path_factory: pytest.TempPathFactory, texts: list[tuple[str, str]], form: str, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("sheets")
    rows = [Row(str(n), prompt, answer) for n, (prompt, answer) in enumerate(texts)]
    path = sheets.export(rows, ["yes", "no"], folder, raters=1, form=form)[0]
    key = sheets.read_key(folder / "key.json")
    given_labels = {name: data.draw(st.sampled_from(["yes", "no", ""])) for name in key.rows}
    if form == "csv":
        fill(path, lambda row: given_labels[row["row"]])
    else:
        lines = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
        path.write_text("".join(json.dumps({**row, "label": given_labels[row["row"]]}) + "\n" for row in lines), "utf-8")
    found = sheets.read_sheet(path, key)
    assert found.labels == {(row.item, ""): given_labels[name] or None for name, row in key.rows.items()}


def test_the_verbs_work_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())

    def run(*words: str) -> int:
        options = parser.parse_args(["label", *words])
        code: int = options.verb(options)
        return code

    answers = tmp_path / "answers.jsonl"
    answers.write_text(
        "".join(json.dumps({"id": r.item, "prompt": r.prompt, "answer": r.answer, "arm": r.arm}) + "\n" for r in ROWS), "utf-8"
    )
    out = tmp_path / "sheets"
    assert run("export", str(answers), "--out", str(out), "--raters", "3") == 0
    paths = sorted(out.glob("sheet-*.csv"))
    for n, path in enumerate(paths):
        fill(path, lambda row, n=n: "yes" if "2" in row["answer"] or ("3" in row["answer"] and n == 0) else "no")
    said = [str(out / "key.json"), *map(str, paths)]
    assert run("agree", *said) == 0
    assert "Krippendorff's alpha 0." in capsys.readouterr().out
    assert run("import", *said, "--out", str(tmp_path / "labels.jsonl")) == 0
    labels = [json.loads(line) for line in (tmp_path / "labels.jsonl").read_text("utf-8").splitlines()]
    assert {(r["id"], r["label"]) for r in labels} == {(f"i-{n}", "yes" if n == 2 else "no") for n in range(6)}
    answers.write_text('{"id": 1}\n', "utf-8")
    with pytest.raises(EvidenceError, match="line 1"):
        run("export", str(answers), "--out", str(tmp_path / "no"))


def test_one_rater_is_counted_once(tmp_path: Path) -> None:
    first, second = exported(tmp_path / "out")
    for path in (first, second):
        fill(path)
    key = sheets.read_key(tmp_path / "out" / "key.json")
    assert len(sheets.read_sheets([first, second], key)) == 2
    copy = tmp_path / "copy.csv"
    copy.write_bytes(first.read_bytes())
    for twin in (first, copy):
        with pytest.raises(EvidenceError, match="the same sheet: one rater is counted once"):
            sheets.read_sheets([first, twin], key)
