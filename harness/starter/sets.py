"""A golden set out of a file of one's own: rows read, checked one by one, written as they will be loaded, entered in the manifest.

JSON Lines, a JSON list, CSV or TSV. A row that cannot be used is an error with its line, never dropped; so is a question that
stands twice, since it would make n larger than it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
import tomllib
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from harness import golden
from harness.errors import GoldenError, nearest
from harness.evals import scorers
from harness.stats import plan, special
from harness.store import digest_json

__all__ = ["Made", "add", "entry", "make", "margin", "shows", "toml"]

# Column of a file -> field of a row, where nobody said otherwise: the names that datasets of this kind bear.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "input", "question", "instruction", "query", "text"),
    "input": ("input", "prompt", "question", "instruction", "query", "text"),
    "question": ("question", "prompt", "input"),
    "target": ("target", "answer", "output", "expected", "label", "completion", "response"),
    "text": ("text", "document"),
    "answer": ("answer", "label", "target"),
}
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
_NUMBER = re.compile(r"[-+]?(0|[1-9][0-9,]*)(\.[0-9]+)?%?")  # no code like 02134, which only looks like one
_TODO = "Mend the row, or say which column is meant: --field FIELD=COLUMN"
_SLOW = 300  # n above which the exact paired rule takes too long for a line of text
_SLOW_GAIN = 2000
_OWN_LICENCE = "LicenseRef-Proprietary"


@dataclass(frozen=True, slots=True)
class Made:
    """A golden set before it is written: its rows, and what the manifest will say of it."""

    name: str
    kind: str
    rows: tuple[Mapping[str, Any], ...]
    source: str
    licence: str
    approved_by: str
    prompt: str = ""
    scorer: str | Mapping[str, Any] = ""
    left_out: tuple[str, ...] = ()  # columns that are no field of this kind
    fields: tuple[str, ...] = ()

    @property
    def data(self) -> bytes:
        """The file: a row a line, fields in their order."""
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in self.rows).encode()

    @property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def file(self) -> str:
        """Where it lies, below the folder of the manifest."""
        return f"sets/{self.name}.jsonl"


# --- making -----------------------------------------------------------------------------------


def make(
    path: Path, name: str, *, kind: str = "", columns: Mapping[str, str] | None = None, prompt: str = "", scorer: str = "",
    source: str = "", licence: str = "", approved_by: str,
) -> Made:  # fmt: skip
    """The golden set that the rows of ``path`` make. GoldenError names the file, the line, and what was expected there.

    ``kind`` is told from the columns where it is not given; ``columns`` says which column of the file a field is.
    """
    if not _NAME.fullmatch(name):
        raise GoldenError(f"golden set {name!r}: expected a name of small letters, digits, - and _, like tickets")
    if prompt and "{input}" not in prompt:
        raise GoldenError(
            f"golden set {name}: prompt = {prompt!r}, expected a text with {{input}} in it, where the question comes to stand"
        )
    rows = list(_read(path))
    if not rows:
        raise GoldenError(f"{path}: no rows, expected at least one item with a question and its answer")
    kind = kind or _kind(rows, columns or {}, path)
    if kind not in golden.KINDS:
        raise GoldenError(f"{path}: kind {kind!r}; {nearest(kind, list(golden.KINDS))}")
    fields = ["id", *golden.KINDS[kind]]
    if any("scorer" in row for _, row in rows):
        fields.append("scorer")
    named = _columns(fields, rows, columns or {}, path)
    items = tuple(_item(row, kind, fields, named, where) for where, row in rows)
    _distinct(items, [where for where, _ in rows], fields)
    unused = sorted({column for _, row in rows for column in row} - set(named.values()))
    said = _told(scorer, name) if scorer else _suited(kind, items)
    return Made(
        name, kind, items, source or path.name, licence or _OWN_LICENCE, approved_by, prompt, said, tuple(unused), tuple(fields)
    )  # fmt: skip


def _told(scorer: str, name: str) -> str | Mapping[str, Any]:
    """``--scorer numeric``, or with its options as TOML writes them: { name = "numeric", take = "last" }."""
    if not scorer.lstrip().startswith("{"):
        return scorers.scorer(scorer).name
    try:
        said: Mapping[str, Any] = tomllib.loads(f"scorer = {scorer}")["scorer"]
        scorers.scorer(**said)
    except (tomllib.TOMLDecodeError, TypeError) as error:
        raise GoldenError(f'golden set {name}: scorer = {scorer!r}, expected a name, or {{ name = "numeric", take = "last" }}') from error
    return said


def _suited(kind: str, items: Sequence[Mapping[str, Any]]) -> str | Mapping[str, Any]:
    """The scorer that suits all answers where nobody named one: objects by field, numbers as numbers; "" for that of the kind."""
    targets = [item["target"] for item in items] if kind == "answers" else []
    if targets and all(isinstance(target, dict) for target in targets):
        return "json"
    if targets and all(isinstance(target, str | int | float) and _NUMBER.fullmatch(str(target)) for target in targets):
        return {"name": "numeric", "take": "last"}  # models wrap a number into a sentence
    return ""


def _read(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row with the words that say where it stands."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise GoldenError(f"{path}: {error.strerror or error}; expected a file of items: JSON Lines, JSON, CSV or TSV") from error
    except UnicodeDecodeError as error:
        raise GoldenError(f"{path}: byte {error.start + 1} is no UTF-8; save the file as UTF-8") from error
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        yield from _table(path, text, "\t" if suffix == ".tsv" else ",")
    elif suffix == ".json":
        listed = _json(text, str(path))
        if not isinstance(listed, list):
            raise GoldenError(f"{path}: JSON that is no list, expected a list of objects")
        yield from ((f"{path}, item {number}", _object(row, f"{path}, item {number}")) for number, row in enumerate(listed, 1))
    elif suffix in (".jsonl", ".ndjson"):
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                yield f"{path}, line {number}", _object(_json(line, f"{path}, line {number}"), f"{path}, line {number}")
    else:
        raise GoldenError(f"{path}: ends with {suffix or 'nothing'!r}, expected .jsonl, .ndjson, .json, .csv or .tsv")


def _json(text: str, where: str) -> Any:
    try:
        return golden.strict_json(text)
    except (ValueError, RecursionError) as error:
        raise GoldenError(f"{where}: no strict JSON ({error}), expected an object with a question and its answer") from None


def _object(row: Any, where: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise GoldenError(f"{where}: JSON that is no object, expected one with a question and its answer")
    return row


def _table(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        heads = list(reader.fieldnames or ())
        if len(set(heads)) < len(heads) or not all(head.strip() for head in heads):
            raise GoldenError(f"{path}, line 1: columns {', '.join(map(repr, heads))}, expected a different name for each")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise GoldenError(f"{where}: another number of cells than the {len(heads)} columns of line 1; is a quote missing?")
            yield where, dict(row)
    except csv.Error as error:
        raise GoldenError(f"{path}, line {reader.line_num}: no CSV ({error})") from error


def _kind(rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str], path: Path) -> str:
    """What the columns of the first row say."""
    first = rows[0][1]

    def has(name: str) -> bool:
        return bool(_column(name, first, columns))

    if has("choices"):
        return "multiple_choice"
    if has("tests") and has("entry_point"):
        return "code"
    if has("target"):
        target = first.get(_column("target", first, columns))
        words = isinstance(target, dict) and all(isinstance(value, str) for value in target.values())
        return "json_extraction" if words else "answers"
    raise GoldenError(
        f"{path}: columns {', '.join(map(repr, first))}; expected a question and its answer, like prompt and target. {_TODO}, or name "
        f"the kind of the set: --kind {' | '.join(sorted(golden.KINDS))}"
    )


def _column(name: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> str:
    """The column that a field is read from; "" where there is none."""
    return next((c for c in (columns.get(name, ""), *_ALIASES.get(name, (name,))) if c in row), "")


def _columns(
    fields: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Any]]], columns: Mapping[str, str], path: Path
) -> dict[str, str]:
    """Field -> column, for the fields that the file has. An id may be missing: it is then made of the content."""
    first = rows[0][1]
    for name, column in columns.items():
        if name not in fields:
            raise GoldenError(f"--field {name}={column}: {nearest(name, list(fields))}")
        if column not in first:
            raise GoldenError(f"--field {name}={column}: {path} has no such column; {nearest(column, list(first))}")
    named = {name: _column(name, first, columns) for name in fields}
    lacking = [name for name in fields if not named[name] and name not in ("id", "scorer")]
    if lacking:
        raise GoldenError(f"{path}: no column for {lacking[0]!r} among {', '.join(map(repr, first))}. Name it: --field {lacking[0]}=COLUMN")
    if twice := [name for name in named if named[name] and list(named.values()).count(named[name]) > 1]:
        raise GoldenError(f"{path}: the column {named[twice[0]]!r} would be both {' and '.join(twice)}. Name them: --field FIELD=COLUMN")
    return {name: column or name for name, column in named.items()}


def _item(row: Mapping[str, Any], kind: str, fields: Sequence[str], named: Mapping[str, str], where: str) -> dict[str, Any]:
    """A row as it will be loaded."""
    item = {name: row[named[name]] for name in fields if named[name] in row}
    for name in ("choices", "answer", "scores", "refused", "label", *(("target",) if kind == "json_extraction" else ())):
        if name in golden.KINDS[kind] and isinstance(item.get(name), str):  # a cell of a table
            item[name] = _json(item[name], f"{where}, {named[name]}")
    if isinstance(item.get("id"), int):
        item["id"] = str(item["id"])
    try:
        item = {"id": item.pop("id") if "id" in item else digest_json(item)[:12], **item}
    except UnicodeEncodeError as error:
        raise GoldenError(f"{where}: half a character (\\u{ord(error.object[error.start]):04x}), expected whole ones. {_TODO}") from error
    golden.check_row(item, kind, [name for name in fields if name in item or name != "scorer"], where, _TODO)
    return item


def _distinct(items: Sequence[Mapping[str, Any]], places: Sequence[str], fields: Sequence[str]) -> None:
    """GoldenError for an id or a question that stands twice."""
    asked = [
        name for name in fields if name in ("prompt", "input", "question", "text", "choices", "answer", "request") and name in items[0]
    ]
    asked = [name for name in asked if name != "answer" or "choices" not in items[0]]
    ids: dict[str, str] = {}
    questions: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for item, where in zip(items, places, strict=True):
        question = digest_json([item[name] for name in asked])
        if question in questions:
            first, other = questions[question]
            same = all(item[name] == other[name] for name in fields if name != "id" and name in item and name in other)
            said = "take one of the two out" if same else "two answers to one question: say which is right, or list both in target"
            raise GoldenError(f"{where}: asks what {first.rpartition(', ')[2]} asks, so that it would count twice; {said}")
        if item["id"] in ids:
            raise GoldenError(f"{where}: the id {item['id']!r} of {ids[item['id']].rpartition(', ')[2]} again, expected unique ids")
        questions[question], ids[item["id"]] = (where, item), where


# --- the manifest -----------------------------------------------------------------------------


def entry(made: Made) -> str:
    """The table of the manifest."""
    said = {
        "prompt": made.prompt, "scorer": made.scorer, "file": made.file, "kind": made.kind, "n": len(made.rows), "sha256": made.digest,
        "fields": list(made.fields), "source": made.source, "licence": made.licence, "approved_by": made.approved_by,
    }  # fmt: skip
    lines = [f"{key} = {toml(value)}" for key, value in said.items() if value != ""]
    return "\n".join([f"[{made.name}]", *lines, ""])


def toml(value: Any) -> str:
    """A text, number, list of texts or table of them as TOML: JSON's strings are TOML's but for one sign."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{key} = {toml(part)}' for key, part in value.items())} }}"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


_HEAD = """# The golden sets: what a person approved. A set that differs by one byte is refused.
# To change one: change the file and its sha256 and n here, and have a person review both.
"""


def add(made: Made, folder: Path) -> dict[Path, bytes]:
    """The files that hold the set: itself, and the manifest with it. GoldenError where another set of that name stands.

    Nothing is written. A set that stands there already, to the byte, changes nothing.
    """
    manifest, path = folder / "manifest.toml", folder / made.file
    known = golden.names(folder) if manifest.is_file() else []
    if made.name in known:
        if golden.manifest_entry(made.name, folder)["sha256"] == made.digest and path.is_file() and path.read_bytes() == made.data:
            return {}
        raise GoldenError(
            f"{manifest}: a set {made.name!r} stands there, with other items; nothing was changed. Add this one by another name, or "
            f"change what stands there: the file, its n and sha256"
        )
    if path.exists() and path.read_bytes() != made.data:
        raise GoldenError(f"{path}: stands there and is in no manifest; nothing was changed. Name another set, or take that file away")
    before = manifest.read_text("utf-8") if manifest.is_file() else _HEAD
    return {path: made.data, manifest: f"{before.rstrip(chr(10))}\n\n{entry(made)}".encode()}


# --- what an n can show -----------------------------------------------------------------------


def shows(n: int, bound: float = 0.80, psi: float = 0.10) -> Iterator[str]:
    """What n items can show, line by line: one model alone at ``bound``; two of them, where the share ``psi`` of answers changes."""
    least = plan.proportion_min_n(bound, 0.05)
    truth = plan.proportion_truth(n, bound, 0.05, 0.80, "at_least")
    if truth is None:
        yield f"at least {bound:g}: cannot be shown, not even with {n} of {n} right; that takes {least}"
    else:
        k = bisect_left(range(n + 1), True, key=lambda k: special.binom_sf(k, n, bound) <= 0.05)
        yield f"at least {bound:g}: shown with {k} of {n} right ({k / n:.1%}); 80% of the time if truly {truth:.1%}"
    how = "" if n <= _SLOW else " (normal formula)"
    shown = f"by {_points(margin(n, psi))} points{how}"
    yield f"not worse than another: {shown}, 80% of the time if nothing changed but {psi:.0%} of the answers"
    gain = plan.superiority_gain(n, psi, 0.025, 0.80) if n <= _SLOW_GAIN else None
    if gain is not None:
        yield f"better than another: by {_points(gain)} points or more, 80% of the time"


@cache
def margin(n: int, psi: float = 0.10) -> float:
    """The smallest margin that n items show with power .80 if nothing changed; 1 if there is none.

    Exact; by the normal formula, bisected, where the exact rule takes seconds.
    """
    if n <= _SLOW:
        return plan.ni_margin(n, psi, 0.05, 0.80) or 1.0
    low, high = 1e-4, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if plan.ni_n(middle, psi, 0.05, 0.80) <= n else (middle, high)
    return high


def _points(share: float) -> str:
    """A share as points, rounded up: what is promised is never less than what was computed."""
    return f"{math.ceil(share * 1000) / 10:g}"
