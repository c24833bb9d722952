"""Reads a model card again and holds every number in it against the evidence.

It shares no code with what renders cards: it opens the card as text and the evidence as JSON, follows each reference, and
counts right answers from the raw rows. What has a digit and is in no table, and in no sealed text, is a number out of nowhere.
"""

from __future__ import annotations

import gzip
import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

__all__ = ["REQUIRED", "Checked", "checked", "title"]

REQUIRED = (
    "Model details", "Intended use", "Limits", "Training data", "Evaluation", "Quantization", "Risks", "How to check this card",
)  # fmt: skip

_NUMBERS = {"estimate": "estimate", "low": "low", "high": "high", "n": "n"}
_RELATIVE = 1e-8  # an accuracy is rounded to nine places


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that a card says: where, what is shown, what the evidence says; equal or not."""

    item: str
    shown: str
    expected: str
    equal: bool


class _Run:
    """The files of a run, read once each. What cannot be read is None, and equals nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Any] = {}
        self.records = {str(r["claim"]["id"]): (name, r) for name, r in self._evidence()}
        self.plan = self.json("plan.json") or {}

    def _evidence(self) -> Iterator[tuple[str, Any]]:
        for path in sorted((self.folder / "evidence").glob("*.json")):
            name = f"evidence/{path.name}"
            yield name, self.json(name)

    def json(self, name: str) -> Any:
        if name not in self._read:
            path = self.folder / name
            inside = self.folder.resolve() in path.resolve().parents
            self._read[name] = json.loads(path.read_text("utf-8")) if inside and path.is_file() else None
        return self._read[name]

    def at(self, where: str) -> Any:
        """What a reference leads to: ``file#/json/pointer``."""
        name, _, pointer = where.partition("#")
        found = self.json(name)
        for token in pointer.split("/")[1:]:
            key = unquote(token).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list):
                found = found[int(key)] if key.isdigit() and int(key) < len(found) else None
            else:
                found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def sets(self, claim: str) -> list[str]:
        """The golden sets that a claim is on: named in its id, else by their digest, where its conditions say what was asked."""
        asked: set[str] = set()
        conditions = [((self.records[claim][1]["measurement"] or {}).get("conditions") or {})] if claim in self.records else []
        while conditions:
            for key, value in conditions.pop().items():
                if isinstance(value, dict):
                    conditions.append(value)
                elif key == "golden":
                    asked.add(str(value).split("+")[0])
        golden: Mapping[str, str] = self.plan.get("golden") or {}
        return [name for name in golden if name in _params(claim)] or [name for name, digest in golden.items() if digest in asked]

    def right(self, record: Mapping[str, Any], arm: str) -> tuple[int, int]:
        """Answers that are right, and all, of one arm: counted in the raw rows."""
        packed = (self.folder / record["measurement"]["samples"]["file"]).read_bytes()
        rows = [json.loads(line) for line in gzip.decompress(packed).decode("utf-8", "surrogatepass").split("\n") if line]
        mine = [row for row in rows if row.get("arm") == arm]
        return sum(row.get("value") == 1 for row in mine), len(mine)


def checked(text: str, folder: Path, name: str) -> list[Checked]:
    """Everything the card of the model ``name`` says, against the evidence in ``folder``.

    What must be there and is not counts too: a required section, a claim about the model, a metric of one.
    """
    run = _Run(folder)
    front, body = _split(text)
    found = [*_sections(body), *_body(run, body, name), *_front_matter(run, front, name)]
    called = title(text)
    return [Checked("title", called, name, _same_text(called, name)), *found, *_whole(run, body, name)]


def title(text: str) -> str:
    """The model that a card is about, by its first heading; "" where it has none."""
    first = next((line for line in _split(text)[1].split("\n") if line.startswith("# ")), "# ")
    return _plain(first.removeprefix("# "))


def _about(record: Mapping[str, Any], name: str) -> bool:
    subjects = (record["measurement"] or {}).get("subjects") or [{}]
    return name in _params(str(record["claim"]["id"])) or subjects[0].get("name") == name


def _whole(run: _Run, body: str, name: str) -> Iterable[Checked]:
    """Nothing is left out: each claim about the model stands in a table, each that does not hold among the risks, lost ones too."""
    told: dict[str, set[str]] = {"": set(), "Risks": set()}
    for section, head, rows in _tables(body):
        if head[:1] == ["claim"] and ("claimed" in head or section == "Risks"):
            told["" if "claimed" in head else "Risks"] |= {_folded(row[0]) for row in rows}
    listed = {section: {_folded(_plain(line[2:])) for line in lines if line.startswith("- ")} for section, lines in _lines(body)}
    mine = {claim: record["verdict"]["outcome"] for claim, (_, record) in run.records.items() if _about(record, name)}
    lost = {claim: "lost" for claim in _planned(run) if claim not in run.records and name in _params(claim)}
    for claim, outcome in sorted({**mine, **lost}.items()):
        there = _folded(claim) in (listed.get("Risks", set()) if outcome == "lost" else told[""])
        yield Checked(f"claim {claim}", "shown" if there else "left out", "shown", there)
        if outcome not in ("holds", "lost"):
            warned = _folded(claim) in told["Risks"]
            yield Checked(f"risk {claim}", "named" if warned else "left out", "named", warned)
    for golden in run.plan.get("golden") or {}:
        on = [outcome for claim, outcome in mine.items() if golden in run.sets(claim)]
        wanted = "Intended use" if on and set(on) == {"holds"} else "Limits" if on else "nowhere"
        named = [section for section in ("Intended use", "Limits") if _folded(golden) in listed.get(section, set())]
        yield Checked(f"use {golden}", " and ".join(named) or "nowhere", wanted, named == [wanted] or (wanted == "nowhere" and not named))


def _params(claim: str) -> list[str]:
    return [part.strip() for part in claim.partition("[")[2].removesuffix("]").split(",")]


# --- the card as text -------------------------------------------------------------------------


def _split(text: str) -> tuple[list[str], str]:
    """Lines of the front matter, and what follows."""
    lines = text.split("\n")
    if lines[0] != "---" or "---" not in lines[1:]:
        return [], text
    end = lines.index("---", 1)
    return lines[1:end], "\n".join(lines[end + 1 :]).lstrip("\n")


def _plain(cell: str) -> str:
    """What a reader sees of a line of Markdown that was escaped."""
    shown = re.sub(r"\\([\\`*_\[\]|~$])", r"\1", cell.replace("<!-- -->", ""))
    return html.unescape(shown).strip()


def _cells(line: str) -> list[str]:
    return [_plain(cell) for cell in re.findall(r"((?:\\.|[^|\\])*)\|", line[1:])]


def _lines(body: str) -> list[tuple[str, list[str]]]:
    """(heading, lines) of each section, a blank line at its end."""
    found: list[tuple[str, list[str]]] = [("", [])]
    for line in body.split("\n"):
        if line.startswith("## "):
            found.append((line.removeprefix("## "), []))
        else:
            found[-1][1].append(line)
    return [(section, [*lines, ""]) for section, lines in found]


def _tables(body: str) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """(section, head, rows) of each table; the section is its own heading with the one above, as ``Training data/mine``."""
    for section, lines in _lines(body):
        below, table = "", []  # type: str, list[list[str]]
        for line in lines:
            if line.startswith("|"):
                table.append(_cells(line))
            elif table:
                yield section + below, table[0], [row for row in table[1:] if set("".join(row)) - {"-"}]
                table = []
            if line.startswith("### "):
                below = "/" + _plain(line.removeprefix("### "))


def _sections(body: str) -> Iterable[Checked]:
    there = [line.removeprefix("## ") for line in body.split("\n") if line.startswith("## ")]
    for title in REQUIRED:
        yield Checked(f"section {title}", str(there.count(title)), "1", there.count(title) == 1)


# --- against the evidence ---------------------------------------------------------------------


def _body(run: _Run, body: str, name: str) -> Iterable[Checked]:
    for section, head, rows in _tables(body):
        for cells in rows:
            row = dict(zip(head, cells, strict=False))
            if len(cells) != len(head) or "evidence" not in row:
                yield Checked(f"{section}: {' '.join(cells)[:80]}", "a row of another form", str(head), False)
            elif "claim" in row:
                yield from _claim(run, section, row)
            else:
                yield _fact(run, section, row, name)
    yield from _prose(run, body)


def _fact(run: _Run, section: str, row: Mapping[str, str], name: str) -> Checked:
    """A value and what the reference beside it leads to, which must be about this model, or this dataset, and of this kind."""
    where = row["evidence"].strip("`")
    expected = run.at(where)
    about = section.partition("/")[2] or name
    fits = _called(run, row["what"], where) and _whose(run, where) in (None, about)
    return Checked(f"{section}: {row['what']}", row["value"], f"{_json(expected)} at {where}", fits and _same(row["value"], expected))


def _called(run: _Run, what: str, where: str) -> bool:
    """Whether the value is what it is called: one fact may not stand for another of the same file."""
    last = unquote(where.rpartition("/")[2]).replace("~1", "/").replace("~0", "~")
    if where.startswith("release.json#"):
        family = run.at(where.rpartition("/")[0] + "/name")
        return what == ("release verdict" if family is None else f"release: {family}") and last == "outcome"
    return _folded(what).endswith("SHA-256" if where.endswith("/subjects/0/digest") or last == "digest" else _folded(last))


def _whose(run: _Run, where: str) -> str | None:
    """The model or dataset that a reference speaks about; None where it is about the run."""
    if where.startswith("release.json#/"):
        return unquote(where.split("/")[1]).replace("~1", "/").replace("~0", "~")
    file, _, pointer = where.partition("#")
    subject = re.match(r"/measurement/subjects/[0-9]+", pointer)
    if subject:
        return str(run.at(f"{file}#{subject.group()}/name"))
    measured = pointer.startswith("/measurement/")
    return str(run.at(f"{file}#/measurement/subjects/0/name")) if measured else None


def _claim(run: _Run, section: str, row: Mapping[str, str]) -> Iterable[Checked]:
    """A row about a claim: its evidence is that of the claim it names, and each cell is what stands there."""
    file, record = run.records.get(row["claim"], ("", None)) if row["claim"] in run.records else _nearly(run, row["claim"])
    at = f"{section}: {row['claim']}"
    yield Checked(f"{at}: evidence", row["evidence"].strip("`"), file, bool(file) and row["evidence"].strip("`") == file)
    if record is None:
        return
    verdict, claim, notes = record["verdict"], record["claim"], record["notes"]
    ends = [json.dumps(claim["bound"][key]) for key in ("limit", "high") if key in claim["bound"] and claim["bound"]["kind"] != "identical"]
    expected: dict[str, Any] = {
        "outcome": verdict["outcome"], "claimed": claim["text"], "bound": f"{claim['bound']['kind']}({', '.join(ends)})",
        "why": notes.get("why") or verdict["sentence"], **{column: verdict[key] for column, key in _NUMBERS.items()},
    }  # fmt: skip
    if "right" in row:
        pairs = zip(
            ("right", "of", "right in the reference", "of these"), (*run.right(record, "new"), *run.right(record, "old")), strict=True
        )
        expected |= dict(pairs)
    for column in row:
        if column not in ("claim", "evidence"):
            shown, wanted = row[column], expected.get(column)
            yield Checked(f"{at}: {column}", shown, _json(wanted), column in expected and _same(shown, wanted))


def _nearly(run: _Run, shown: str) -> tuple[str, Any]:
    """The claim whose id, as it can be shown, is this: ids may hold what no page shows."""
    return next((found for claim, found in run.records.items() if _same_text(shown, claim)), ("", None))


def _prose(run: _Run, body: str) -> Iterable[Checked]:
    """Outside of tables digits stand in names that the plan knows, in its prompts, and in the command with the seal alone."""
    seal = (run.json("bundle.json") or {}).get("seal", "")
    planned = set(_planned(run))
    names = {*planned, *(run.plan.get("golden") or {}), *(claim.partition("[")[0] for claim in planned)}
    names |= {str(s.get("name")) for _, r in run.records.values() for s in (r["measurement"] or {}).get("subjects") or ()}
    sealed = [*names, *(run.plan.get("prompts") or {}).values(), f"python -m harness recheck RUN --seal {seal}"]
    known = {_folded(one) for one in sealed}
    for line in body.split("\n"):
        if line.startswith("|") or not re.search(r"\d", line):
            continue
        said = _plain(re.sub(r"^(#+|-|>) ", "", line)).strip("`")
        yield Checked(f"prose: {said[:80]}", said, "a name, a prompt of the plan, or the command with the seal", _in(said, known))


def _in(said: str, known: set[str]) -> bool:
    return _folded(said) in known or any(_same_text(said, one) for one in known if said.endswith("…"))


def _planned(run: _Run) -> Iterable[str]:
    return (str(entry["claim"]["id"]) for entry in run.plan.get("claims") or ())


def _front_matter(run: _Run, lines: Sequence[str], name: str) -> list[Checked]:
    try:
        return list(_front(run, lines, name))
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        return [Checked("front matter", f"{type(error).__name__}: {error}", "a model-index as hubs read it", False)]


def _front(run: _Run, lines: Sequence[str], name: str) -> Iterable[Checked]:
    """Each metric of ``model-index`` is an estimate, or an accuracy counted again; none is left out."""
    keys = {}
    for line in lines:
        key, _, value = line.partition(": ")
        try:
            keys[key] = json.loads(value)
        except ValueError:
            yield Checked(f"front matter: {key}", value, "a value in JSON's form", False)
    named = keys["model-index"][0].get("name") if keys.get("model-index") else keys.get("model_name")
    yield Checked("front matter: name", str(named), name, _same_text(str(named), name))
    told = set()
    for result in keys["model-index"][0]["results"] if keys.get("model-index") else ():
        dataset = result["dataset"]
        expected = (run.plan.get("golden") or {}).get(dataset["name"])
        yield Checked(f"front matter: {dataset['name']}", str(dataset.get("revision")), str(expected), dataset.get("revision") == expected)
        for metric in result["metrics"]:
            told.add((dataset["name"], metric["args"]["claim"], metric["type"] == "accuracy"))
            yield from _metric(run, dataset["name"], metric)
    for missing in sorted(set(_metrics_of(run, name)) - told):
        yield Checked(f"front matter: {missing[1]}", "left out", "shown", False)


def _metrics_of(run: _Run, name: str) -> Iterable[tuple[str, str, bool]]:
    for claim, (_, record) in run.records.items():
        if _about(record, name):
            sets = run.sets(claim)
            yield from ((part, claim, False) for part in sets if record["verdict"]["estimate"] is not None)
            yield from ((part, claim, True) for part in sets if "both_right" in (record["verdict"]["statistics"] or {}))


def _metric(run: _Run, dataset: str, metric: Mapping[str, Any]) -> Iterable[Checked]:
    args, at = metric["args"], f"front matter: {metric['args']['claim']}"
    file, record = run.records.get(args["claim"], ("", None))
    if record is None or args.get("evidence") != file or dataset not in run.sets(args["claim"]):
        yield Checked(f"{at}: evidence", str(args.get("evidence")), file, False)
        return
    if metric["type"] == "accuracy":
        k, n = run.right(record, "new")
        same = (args.get("right"), args.get("n")) == (k, n) and abs(metric["value"] - k / max(n, 1)) < _RELATIVE
        yield Checked(f"{at}: accuracy", f"{metric['value']} = {args.get('right')}/{args.get('n')}", f"{k}/{n}", same)
        return
    verdict = record["verdict"]
    shown = {"estimate": metric["value"], **{key: args.get(key) for key in ("outcome", "low", "high", "n")}}
    for key, value in shown.items():
        yield Checked(f"{at}: {key}", _json(value), _json(verdict[key]), value == verdict[key])
    yield Checked(f"{at}: name", str(metric["name"]), args["claim"], metric["name"] == args["claim"])


# --- equal ------------------------------------------------------------------------------------


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _same(shown: str, expected: Any) -> bool:
    """A number digit for digit, a text as far as a page can show it, a dash for what is absent."""
    if expected is None:
        return shown == "–"
    if isinstance(expected, str):
        return _same_text(shown, expected)
    return shown == json.dumps(expected)


def _same_text(shown: str, expected: str) -> bool:
    wanted, said = _folded(expected), _folded(shown)
    cut = said.endswith("…") and len(said) > 60
    return wanted.startswith(said[:-1].rstrip()) if cut else said == wanted


def _folded(text: str) -> str:
    """Letters, digits and signs that can be seen, with single blanks: what no page shows is left out."""
    return " ".join("".join(ch if ch.isprintable() or ch.isspace() else "" for ch in text).split())
