"""Golden sets: what a person approved, loaded only if it still is exactly that.

A folder holds ``manifest.toml``, one table per set, and the sets as JSON Lines. ``load`` checks
the SHA-256 of the file and every row. The rows are checked even when the digest agrees: a digest
says that the file is the approved one, not that the person who approved it saw every line.
"""

from __future__ import annotations

import codecs
import dataclasses
import hashlib
import json
import math
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from harness.errors import GoldenError, nearest

__all__ = ["KINDS", "GoldenSet", "check_row", "load", "manifest_entry", "names", "strict_json"]

_REPAIR = "Restore the file with git, or repair it and have a person review the change"


@dataclass(frozen=True, slots=True)
class GoldenSet:
    """The items of one set, or a fixed subset of them.

    ``n`` is the number of items held. ``digest`` is the SHA-256 of the whole file; a subset of
    N items has ``+limit=N`` behind it, so that a smoke run is never mistaken for the whole.
    ``prompt`` is how an item is asked: a text with ``{input}`` in it, where the item's own comes to stand.
    ``scorer`` is how an answer is scored: a name of ``harness.evals.scorers``, with options; {} for the kind's own.
    """

    name: str
    kind: str
    items: tuple[Mapping[str, Any], ...]
    digest: str
    n: int
    licence: str
    source: str
    path: Path
    prompt: str = "{input}"
    scorer: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def load(name: str, root: Path, *, limit: int | None = None) -> GoldenSet:
    """The set ``name`` of the folder ``root``, verified; else GoldenError.

    ``limit`` takes the first N items in an order drawn by the SHA-256 of their ids: always the
    same subset, and a part of every larger one. The whole file is verified all the same. The
    digest then is that of the whole file plus the limit. A limit of n or more is the whole set.
    """
    if limit is not None and limit < 1:
        raise GoldenError(f"golden set {name}: limit = {limit}, expected at least 1, or None for the whole set")
    entry = manifest_entry(name, root)
    path = root / entry["file"]
    data = _read(path)
    digest = hashlib.sha256(data).hexdigest()
    changed = _changed(path, root / "manifest.toml", digest, entry["sha256"])
    try:
        items = _items(data, path, entry)
    except GoldenError as error:
        if changed:
            raise GoldenError(f"{changed}\nIt is malformed too: {error}") from error
        raise
    if changed:
        raise GoldenError(changed)
    if limit is not None and limit < len(items):
        items = tuple(sorted(items, key=lambda item: hashlib.sha256(item["id"].encode()).digest())[:limit])
        digest = f"{digest}+limit={limit}"
    said = entry.get("scorer", {})
    return GoldenSet(
        name, entry["kind"], items, digest, len(items), entry["licence"], entry["source"], path, entry.get("prompt", "{input}"),
        {"name": said} if isinstance(said, str) else said,
    )  # fmt: skip


def names(root: Path) -> list[str]:
    """The sets that the manifest of ``root`` knows, sorted."""
    return sorted(_manifest(root))


def manifest_entry(name: str, root: Path) -> Mapping[str, Any]:
    """What the manifest says about one set, with every key that ``load`` relies on checked."""
    where = root / "manifest.toml"
    manifest = _manifest(root)
    if name not in manifest:
        known = nearest(name, list(manifest))
        raise GoldenError(f"{where}: found no golden set {name!r}; {known}. Name one of these, or add it there")
    entry = manifest[name]
    if not isinstance(entry, dict):
        _fail(f"{where}, {name}", _shown(entry), "a table", _REPAIR)
    for key, (expected, accepts) in _ENTRY.items():
        if key not in entry:
            _fail(f"{where}, [{name}]", f"no {key}", f"{key} = {expected}", "Add it; a person has to approve a set")
        if not accepts(entry[key]):
            _fail(f"{where}, [{name}]", f"{key} = {_shown(entry[key])}", expected, _REPAIR)
    prompt = entry.get("prompt", "{input}")
    if not (_is_text(prompt) and "{input}" in prompt):
        _fail(f"{where}, [{name}]", f"prompt = {_shown(prompt)}", "a text with {input} in it", _REPAIR)
    if not _is_scorer(entry.get("scorer", "exact")):
        _fail(f"{where}, [{name}]", f"scorer = {_shown(entry['scorer'])}", _SCORER, _REPAIR)
    unlisted = {"id", *KINDS[entry["kind"]]} - set(entry["fields"])
    if unlisted:
        _fail(f"{where}, [{name}]", f"fields without {sorted(unlisted)}", f"those of a {entry['kind']} set", _REPAIR)
    return entry


# --- what is expected ---------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
    """Not empty, and without lone surrogates: those could not be written into evidence later."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= ch <= "\udfff" for ch in value)


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0  # bool is an int to isinstance


def _is_target(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(_is_text(part) for pair in value.items() for part in pair)


def _is_choices(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and len(set(value)) == len(value) >= 2


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")


def _is_scores(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= 2 and all(one is None or type(one) in (int, float) for one in value)


def _is_answer(value: Any) -> bool:
    if isinstance(value, list):
        return bool(value) and all(map(_is_text, value))
    return _is_text(value) or type(value) in (int, float) or (isinstance(value, dict) and bool(value))


def _is_scorer(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, dict) and _is_text(value.get("name")))


def _is_fields(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_Check = tuple[str, Callable[[Any], bool]]  # what is expected, in words and as a test

_SCORER = 'the name of a scorer, or a table with one: { name = "numeric", tolerance = 0.01 }'
_TEXT: _Check = ("text that is not empty", _is_text)

KINDS: Mapping[str, Mapping[str, _Check]] = {
    "json_extraction": {
        "input": _TEXT,
        "target": ("an object of text values, not empty", _is_target),
    },
    "multiple_choice": {
        "question": _TEXT,
        "choices": ("a list of at least two different texts", _is_choices),
        "answer": ("the index of a choice, counted from 0", _is_count),
    },
    "answers": {"prompt": _TEXT, "target": ("a text, a number, a list of accepted texts or an object, not empty", _is_answer)},
    "code": {
        "prompt": _TEXT,
        "tests": _TEXT,
        "entry_point": ("the name of a function", lambda value: isinstance(value, str) and value.isidentifier()),
    },
    "documents": {"text": _TEXT},
    "refusals": {"prompt": _TEXT},
    "refusal_labels": {"prompt": _TEXT, "answer": _TEXT, "refused": ("0 or 1", lambda value: _is_count(value) and value < 2)},
    "answer_labels": {"prompt": _TEXT, "answer": _TEXT, "label": ("0 or 1", lambda value: _is_count(value) and value < 2)},
    "ratings": {"request": _TEXT, "scores": ("a list of at least two numbers or nulls, a place for each rater", _is_scores)},
}

_OWN: Mapping[str, _Check] = {"scorer": (_SCORER, _is_scorer)}  # of an item, in a set of any kind

_ENTRY: Mapping[str, _Check] = {
    "file": ("the path of the set below this folder", _is_text),
    "kind": (f"one of {', '.join(sorted(KINDS))}", lambda value: isinstance(value, str) and value in KINDS),
    "n": ("the number of items", _is_count),
    "sha256": ("64 digits of lower-case hexadecimal", _is_digest),
    "fields": ("the list of the fields of each row", _is_fields),
    "source": ("where the set comes from", _is_text),
    "licence": ("an SPDX expression", _is_text),
    "approved_by": ("who approved the set", _is_text),
}


# --- reading ------------------------------------------------------------------------------------


def _manifest(root: Path) -> dict[str, Any]:
    path = root / "manifest.toml"
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        _fail(str(path), error.strerror or "an error", "a manifest", "Restore it with git, or name the right folder")
    except ValueError as error:  # not TOML, or not UTF-8
        _fail(str(path), f"text that is not TOML ({error})", "TOML", "Restore it with git")


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        _fail(str(path), "no file", "a golden set", "Restore it with git, or correct file in manifest.toml")
    except OSError as error:
        _fail(str(path), f"a file that cannot be read ({error.strerror})", "a golden set", "Check its permissions")
    if not data:
        _fail(str(path), "an empty file", "a golden set", "Restore it with git")
    return data


def _changed(path: Path, manifest: Path, found: str, expected: str) -> str:
    """The complaint about a digest that differs; empty if it agrees."""
    if found == expected:
        return ""
    return (
        f"{path}: found sha256 {found}, expected {expected}: not the file that was approved. "
        f"Restore it with: git checkout -- {path}. If the change is meant, have a person review it "
        f'and set sha256 = "{found}" in {manifest}'
    )


def _items(data: bytes, path: Path, entry: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    if data.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        _fail(f"{path}, line 1", "a byte order mark", "UTF-8 without one", "Save the file as that")
    lines = data.split(b"\n")
    if lines.pop():
        _fail(f"{path}, line {len(lines) + 1}", "no newline at the end", "one: the file may be cut off", _REPAIR)
    items: dict[str, dict[str, Any]] = {}
    line_of: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        where = f"{path}, line {number}"
        row = _row(line, where)
        check_row(row, entry["kind"], entry["fields"], where)
        if row["id"] in items:
            _fail(where, f"the id {row['id']!r} of line {line_of[row['id']]} again", "unique ids", _REPAIR)
        items[row["id"]], line_of[row["id"]] = row, number
    if len(items) != entry["n"]:
        _fail(str(path), f"{len(items)} items", f"n = {entry['n']} as in manifest.toml", "Correct what is wrong")
    return tuple(items.values())


def _row(line: bytes, where: str) -> dict[str, Any]:
    if line.endswith(b"\r"):
        _fail(where, "a carriage return", "lines that end with a newline alone", "Check git's core.autocrlf")
    if not line.strip():
        _fail(where, "an empty line", "a JSON object", _REPAIR)
    try:
        row = strict_json(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        _fail(where, f"byte 0x{line[error.start]:02x} at {error.start + 1}", "UTF-8", "Save the file as UTF-8")
    except (ValueError, RecursionError) as error:
        _fail(where, f"no strict JSON ({error})", "a JSON object", _REPAIR)
    if not isinstance(row, dict):
        _fail(where, f"JSON that is not an object: {_shown(row)}", "a JSON object", _REPAIR)
    return row


def check_row(row: Mapping[str, Any], kind: str, fields: Sequence[str], where: str, todo: str = _REPAIR) -> None:
    """GoldenError unless ``row`` is one of a set of that kind with these fields; it says ``where`` and what is ``todo``."""
    checks = {"id": _TEXT, **KINDS[kind]}
    for field in fields:
        if field not in row:
            _fail(where, f"no field {field!r}", f"the fields {', '.join(fields)}", todo)
        expected, accepts = checks.get(field, _OWN.get(field, ("", lambda _: True)))
        if not accepts(row[field]):
            _fail(where, f"{field} = {_shown(row[field])}", expected, todo)
    extra = [field for field in row if field not in fields]
    if extra:
        listed = f"List {'it' if len(extra) == 1 else 'them'} under fields in manifest.toml if meant"
        _fail(where, f"the fields {', '.join(map(repr, extra))}", f"only {', '.join(fields)}", listed)
    if kind == "multiple_choice" and row["answer"] >= len(row["choices"]):
        _fail(where, f"answer = {row['answer']}", f"an index below {len(row['choices'])}", todo)


def strict_json(text: str) -> Any:
    """The value of a JSON text. ValueError for what JSON has not: a key twice in one object, NaN, Infinity, a number beyond them."""
    return json.loads(text, object_pairs_hook=_no_repeats, parse_constant=_no_constant, parse_float=_finite)


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python keeps the last of two equal keys; a reviewer may have read the first."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice in one object")
    return found


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits} overflows to Infinity")
    return number


def _shown(value: Any) -> str:
    """A value as an error message quotes it: never a screenful."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _fail(where: str, found: str, expected: str, todo: str) -> NoReturn:
    raise GoldenError(f"{where}: found {found}, expected {expected}. {todo}")
