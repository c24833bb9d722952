"""People's labels: blind sheets out, labels in, and how far those who gave them agree.

A sheet holds rows in an order of its own for each rater, and nothing of where an answer comes from. Among the rows stand
gold questions, whose label is known, and rows that come twice; what each row is stands in the key, which no rater is given.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import EvidenceError
from harness.store import digest_file, digest_json
from harness.types import Sample

__all__ = ["Key", "Labelled", "Row", "agreement_samples", "export", "inert", "majority", "read_key", "read_sheet", "read_sheets"]

Kind = Literal["item", "gold", "repeat"]
_COLUMNS = ("row", "request", "answer", "label")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet would run, or hide one behind


@dataclass(frozen=True, slots=True)
class Row:
    """An answer to be labelled; ``arm`` says whose it is, ``label`` what is known of a gold question."""

    item: str
    prompt: str
    answer: str
    arm: str = ""
    kind: Kind = "item"
    label: str = ""


@dataclass(frozen=True, slots=True)
class Key:
    """What the rows of the sheets are. ``rows`` maps the name of a row to its Row; ``labels`` are the words that may be given."""

    labels: tuple[str, ...]
    rows: Mapping[str, Row]
    raters: int


@dataclass(frozen=True, slots=True)
class Labelled:
    """What one rater gave: a label (or None, where none was) by item and arm; right gold questions and equal repeats, of how many."""

    rater: str
    labels: Mapping[tuple[str, str], str | None]
    gold: tuple[int, int]
    repeats: tuple[int, int]


def export(
    rows: Sequence[Row],
    labels: Sequence[str],
    folder: Path,
    *,
    raters: int = 2,
    gold: Sequence[Row] = (),
    repeats: int = 0,
    seed: str = "0",
    form: str = "csv",
) -> list[Path]:
    """Writes ``sheet-1.csv`` (or .jsonl) ... and ``key.json`` into ``folder``; the sheets' paths.

    ``repeats`` rows come twice. Orders and names of rows are drawn from ``seed`` by SHA-256. EvidenceError for rows that
    stand twice, labels that are no two different words, gold questions without a known label, and a folder that has sheets.
    """
    _sound(rows, labels, gold, raters, repeats, folder)
    twice = sorted(rows, key=lambda row: digest_json([seed, "twice", row.item, row.arm]))[:repeats]
    marked = [Row(r.item, r.prompt, r.answer, r.arm, "repeat") for r in twice]
    golden = [Row(r.item, r.prompt, r.answer, r.arm, "gold", r.label) for r in gold]
    every = [*rows, *golden, *marked]
    names = {f"row-{digest_json([seed, row.kind, row.item, row.arm])[:12]}": row for row in every}
    folder.mkdir(parents=True, exist_ok=True)
    key = {"labels": list(labels), "raters": raters, "rows": {name: asdict(row) for name, row in sorted(names.items())}}
    (folder / "key.json").write_text(json.dumps(key, indent=1, ensure_ascii=False) + "\n", "utf-8")
    paths = []
    for rater in range(1, raters + 1):
        ordered = sorted(names, key=lambda name: digest_json([seed, rater, name]))
        cells = [{"row": name, "request": names[name].prompt, "answer": names[name].answer, "label": ""} for name in ordered]
        path = folder / f"sheet-{rater}.{form}"
        path.write_text(_as_csv(cells) if form == "csv" else _as_lines(cells), "utf-8", newline="")
        paths.append(path)
    return paths


def _sound(rows: Sequence[Row], labels: Sequence[str], gold: Sequence[Row], raters: int, repeats: int, folder: Path) -> None:
    if len(set(labels)) < 2 or len(set(labels)) < len(labels) or not all(label.strip() == label and label for label in labels):
        raise EvidenceError(f"labels {list(labels)}: expected at least two different words")
    if again := [key for key, count in Counter((row.item, row.arm) for row in (*rows, *gold)).items() if count > 1]:
        raise EvidenceError(
            f"{len(again)} answers stand twice, first: item {again[0][0]!r}; expected each item and arm once, gold questions apart"
        )
    if unknown := [row.item for row in gold if row.label not in labels]:
        raise EvidenceError(f"gold question {unknown[0]!r} has no label of {list(labels)}; expected the one that is right")
    if not rows or raters < 1 or not 0 <= repeats <= len(rows):
        raise EvidenceError(
            f"{len(rows)} answers, {raters} raters, {repeats} rows twice: expected some of the first two, and no more repeats than rows"
        )
    if (folder / "key.json").exists():
        raise EvidenceError(f"{folder} has sheets already: labels given on them need its key.json; name another folder")


def _as_csv(cells: Sequence[Mapping[str, str]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, _COLUMNS, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows({name: inert(value) for name, value in row.items()} for row in cells)
    return out.getvalue()


def inert(value: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if value.lstrip(" \n\"'").startswith(_FORMULA) or value.startswith(_FORMULA) else value


def _as_lines(cells: Sequence[Mapping[str, str]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in cells)


# --- labels in ------------------------------------------------------------------------------------


def read_key(path: Path) -> Key:
    """The key that ``export`` wrote. EvidenceError if it is none."""
    try:
        said = json.loads(path.read_text("utf-8"))
        rows = {name: Row(**row) for name, row in said["rows"].items()}
        return Key(tuple(said["labels"]), rows, int(said["raters"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceError(f"{path}: no key of sheets ({error}); expected the key.json beside them") from error


def read_sheets(paths: Sequence[Path], key: Key) -> list[Labelled]:
    """The sheets of different raters, as ``read_sheet``. EvidenceError for one that is given twice: it is one rater's word."""
    told: dict[str, Path] = {}
    for path in paths:
        content = digest_file(path) if path.is_file() else str(path)
        if content in told:
            raise EvidenceError(f"{path} and {told[content]} are the same sheet: one rater is counted once; name the sheet of another")
        told[content] = path
    return [read_sheet(path, key) for path in paths]


def read_sheet(path: Path, key: Key) -> Labelled:
    """The labels of one filled-in sheet; an empty cell is no label. EvidenceError names rows that are missing, unknown or there
    twice, and labels that are not among those asked for: nothing of such a sheet is used.
    """
    given = _cells(path)
    known = {label.casefold(): label for label in key.labels}
    names = [name for name, _ in given]
    for what, found in (
        ("unknown rows", sorted(set(names) - set(key.rows))),
        ("missing rows", sorted(set(key.rows) - set(names))),
        ("rows that stand twice", sorted(name for name, count in Counter(names).items() if count > 1)),
        (
            f"labels other than {', '.join(key.labels)}",
            [f"{label!r} in {name}" for name, label in given if label and label.casefold() not in known],
        ),
    ):
        if found:
            raise EvidenceError(
                f"{path}: {len(found)} {what}, first: {found[0]}; expected each row of key.json once, with one of its labels"
            )
    labels = {name: known.get(label.casefold()) for name, label in given}
    items = {(row.item, row.arm): labels[name] for name, row in key.rows.items() if row.kind == "item"}
    gold = [labels[name] == row.label for name, row in key.rows.items() if row.kind == "gold"]
    again = [
        labels[name] is not None and labels[name] == items[row.item, row.arm] for name, row in key.rows.items() if row.kind == "repeat"
    ]
    return Labelled(path.stem, items, (sum(gold), len(gold)), (sum(again), len(again)))


def _cells(path: Path) -> list[tuple[str, str]]:
    """(row, label) of each line, whatever a spreadsheet did to the order of rows and columns."""
    try:
        text = path.read_text("utf-8-sig")
        rows: list[Any] = (
            list(csv.DictReader(io.StringIO(text))) if path.suffix == ".csv" else [json.loads(x) for x in text.split("\n") if x.strip()]
        )
    except (OSError, ValueError, csv.Error) as error:
        raise EvidenceError(f"{path}: cannot be read as a sheet ({error}); expected .csv or .jsonl in UTF-8") from error
    cells = []
    for number, row in enumerate(rows, start=1):
        name, label = (row.get("row"), row.get("label")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(label, str):
            raise EvidenceError(f"{path}, row {number}: no text under row and label; expected the columns {', '.join(_COLUMNS)}")
        cells.append((name.strip(), label.strip()))
    return cells


def majority(raters: Sequence[Labelled]) -> dict[tuple[str, str], str]:
    """The label that more than half of those gave who gave any, by item and arm; none where there is no such label."""
    found = {}
    for key in raters[0].labels:
        given = Counter(label for rater in raters if (label := rater.labels[key]) is not None)
        if given and (first := given.most_common(1)[0])[1] * 2 > given.total():
            found[key] = first[0]
    return found


def agreement_samples(raters: Sequence[Labelled], labels: Sequence[str]) -> tuple[Sample, ...]:
    """The labels as codes for Krippendorff's alpha: a unit an item and arm, a replicate a rater; what has no label is left out."""
    return tuple(
        Sample(f"{item} {arm}".strip(), float(labels.index(label)), replicate=number)
        for number, rater in enumerate(raters)
        for (item, arm), label in rater.labels.items()
        if label is not None
    )
