"""What the files of a run hold, to be found again: every number with its file and pointer, every text, every structure.

Reads the files by itself, as ``recheck`` does: nothing that renders is asked. A number is found by how it is shown: ``0.4463`` is
any value that one of the ways to write numbers here turns into these very characters.
"""

from __future__ import annotations

import bisect
import contextlib
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import EvidenceError
from harness.records import Load
from harness.report.text import clean

__all__ = ["Files", "Pool", "Source", "numbers_in", "shows"]

Source = str
"""``FILE#/pointer``; of a row of samples ``FILE#LINE/pointer``."""

_FORMS = ("{:.4g}", "{:+.4g}", "{:g}", "{!r}", "{:.6g}", "{:.1f}", "{:.2f}", "{:.0f}", "{:.3f}", "{:.2g}", "{:.3g}", "{:.5g}")


def shows(value: float, text: str) -> bool:
    """Whether ``value`` is written as ``text`` by one of the ways numbers are written."""
    plain = text.replace(",", "")
    if float(value).is_integer() and abs(value) < 1e15 and f"{int(value):d}" in (plain, plain.removeprefix("+")):
        return True
    return any(form.format(value) == plain for form in _FORMS)


def _slack(text: str) -> float:
    """How far a value may lie from what is shown: one unit of the last digit that is shown."""
    digits, _, power = text.lower().partition("e")
    after = len(digits.partition(".")[2])
    if after == 0 and not power:
        return max(1.0, abs(float(text)) * 1e-3)  # 1.235e+04 and the like are shown to four digits at least
    return float(f"1e{int(power or 0) - after}")


class Pool:
    """Numbers with where they come from, found by how they are shown."""

    def __init__(self, entries: Iterable[tuple[float, Source]]) -> None:
        kept = sorted((entry for entry in entries if math.isfinite(entry[0])), key=lambda entry: entry[0])
        self.values = [value for value, _ in kept]
        self.sources = [source for _, source in kept]

    def find(self, text: str, scale: float = 1.0) -> Source | None:
        """Where a number comes from that is shown as ``text``, divided by ``scale`` first (1e6 where MB are shown)."""
        plain = text.replace(",", "")
        wanted, slack = float(plain), _slack(plain)
        if not math.isfinite(wanted) or not math.isfinite(slack):
            return None
        first = bisect.bisect_left(self.values, (wanted - slack) * scale)
        seen = None
        for i in range(first, len(self.values)):
            value = self.values[i]
            if value > (wanted + slack) * scale:
                break
            if value != seen and shows(value / scale, text):
                return self.sources[i]
            seen = value
        return None


def numbers_in(value: Any, source: Source) -> Iterator[tuple[float, Source]]:
    """Every number of a structure, with its pointer."""
    if isinstance(value, bool) or value is None:
        return
    if isinstance(value, str):
        yield from _in_text(value, source)
    if isinstance(value, (int, float)):
        if abs(value) < 1e300:
            yield float(value), source
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers_in(inner, f"{source}/{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from numbers_in(inner, f"{source}/{i}")


def _in_text(text: str, source: Source) -> Iterator[tuple[float, Source]]:
    """A text that is a number ("8192"), or a structure written as JSON (the arguments of a server)."""
    if re.fullmatch(r"[-+]?\d{1,15}(\.\d{1,15})?", text):
        yield float(text), source
    elif text[:1] in ("[", "{"):
        with contextlib.suppress(ValueError, RecursionError):
            yield from numbers_in(json.loads(text), source)


def _texts_in(value: Any, source: Source) -> Iterator[tuple[str, Source]]:
    """Every text of a structure, keys too."""
    if isinstance(value, str):
        yield value, source
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield str(key), source
            yield from _texts_in(inner, f"{source}/{key}")
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _texts_in(inner, f"{source}/{i}")


def _structures_in(value: Any) -> Iterator[Any]:
    """Every list and mapping inside, and single values."""
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _structures_in(inner)


class Holding:
    """What one file or several hold."""

    def __init__(self, parts: Sequence[tuple[Source, Any]]) -> None:
        self.parts = parts

    @cached_property
    def pool(self) -> Pool:
        """Every number."""
        return Pool(entry for source, value in self.parts for entry in numbers_in(value, source))

    @cached_property
    def texts(self) -> list[tuple[str, Source]]:
        """Every text, white space folded."""
        return [(" ".join(clean(text).split()), source) for part, value in self.parts for text, source in _texts_in(value, part)]

    @cached_property
    def _joined(self) -> tuple[str, list[int]]:
        ends, length = [], 0
        for text, _ in self.texts:
            length += len(text) + 1
            ends.append(length)
        return "\n".join(text for text, _ in self.texts), ends

    def says(self, text: str) -> Source | None:
        """Where ``text`` stands, whole, in a text of these files."""
        joined, ends = self._joined
        at = joined.find(text)
        return self.texts[bisect.bisect_right(ends, at)][1] if at >= 0 and self.texts else None

    @cached_property
    def _dumps(self) -> dict[str, Source]:
        return {
            " ".join(dump.split()): source for source, value in self.parts for inner in _structures_in(value) for dump in _dumped(inner)
        }

    @cached_property
    def _beginnings(self) -> list[str]:
        return sorted(self._dumps)

    def holds(self, text: str) -> Source | None:
        """Where a structure stands that is written as ``text``; if that ends in an ellipsis, begins so."""
        if text[:1] not in ("[", "{"):
            return None
        if text in self._dumps:
            return self._dumps[text]
        head, cut, _ = text.partition("… [")
        if not cut:
            return None
        at = bisect.bisect_left(self._beginnings, head)
        found = at < len(self._beginnings) and self._beginnings[at].startswith(head)
        return self._dumps[self._beginnings[at]] if found else None


def _dumped(value: Any) -> list[str]:
    return [clean(json.dumps(value, ensure_ascii=False, sort_keys=True))] if isinstance(value, (dict, list)) else []


class Claimed:
    """One claim: its evidence, and the rows it rests on."""

    def __init__(self, run: Path, file: str, record: Mapping[str, Any]) -> None:
        self.run, self.file, self.record = run, file, record
        self._by_item: dict[str, list[tuple[Source, Any]]] | None = None
        self.timeline: Mapping[str, list[float | None]] = {}  # what the server of this claim said of itself under load

    @property
    def id(self) -> str:
        """As its record has it."""
        return str(self.record["claim"]["id"])

    @property
    def words(self) -> set[str]:
        """What it may be called by: its test, its family, what stands in its brackets, its subjects."""
        test, _, inside = self.id.partition("[")
        subjects = (self.record.get("measurement") or {}).get("subjects") or []
        names = {str(s.get("name")) for s in subjects if isinstance(s, dict)}
        return {test, test.partition(".")[0], *inside.rstrip("]").split(","), *names} - {""}

    @cached_property
    def evidence(self) -> Holding:
        """The evidence file."""
        return Holding([(f"{self.file}#", self.record)])

    @cached_property
    def rows(self) -> list[Mapping[str, Any]]:
        """The raw rows; none where they cannot be read."""
        named = (self.record.get("measurement") or {}).get("samples") or {}
        try:
            text = gzip.decompress((self.run / str(named["file"])).read_bytes()).decode("utf-8", "surrogatepass")
            return [json.loads(line) for line in text.split("\n") if line]
        except (OSError, EOFError, zlib.error, KeyError, ValueError):
            return []

    def row(self, item: str) -> Holding:
        """The rows of one item, as the page calls it."""
        if self._by_item is None:
            self._by_item = {}
            named = str(((self.record.get("measurement") or {}).get("samples") or {}).get("file"))
            for i, row in enumerate(self.rows, start=1):
                shown = " ".join(clean(str(row.get("item"))).split())
                self._by_item.setdefault(shown, []).append((f"{named}#{i}", row))
        return Holding(self._by_item.get(item, []))

    @cached_property
    def samples(self) -> Holding:
        """The rows as parts, by line."""
        named = str(((self.record.get("measurement") or {}).get("samples") or {}).get("file"))
        return Holding([(f"{named}#{i}", row) for i, row in enumerate(self.rows, start=1)])

    @cached_property
    def load(self) -> Load | None:
        """The records of the load that the rows were derived from; None where there are none."""
        named = (self.record.get("measurement") or {}).get("raw") or {}
        try:
            return Load.from_bytes(gzip.decompress((self.run / str(named["file"])).read_bytes()))
        except (OSError, EOFError, zlib.error, KeyError, EvidenceError):
            return None


def _timeline(record: Mapping[str, Any]) -> Mapping[str, list[float | None]]:
    """Columns, each as long as the times."""
    kept = ((record.get("measurement") or {}).get("conditions") or {}).get("timeline")
    if isinstance(kept, list):
        kept = {name: [row.get(name) for row in kept] for name in (kept[0] if kept else {})}
    return kept if isinstance(kept, dict) and isinstance(kept.get("t"), list) else {}


def _server(claim: Claimed) -> str:
    return claim.id.partition("[")[2].rstrip("]").split(",")[0]


class Files:
    """The files of a run, each read once."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.claims: dict[str, Claimed] = {}
        for path in sorted((run / "evidence").glob("*.json")):
            record = evidence.read_json(path)
            if not (isinstance(record, dict) and isinstance(record.get("claim"), dict) and "id" in record["claim"]):
                raise EvidenceError(f"{path}: no evidence of a claim; recheck names what is wrong with this run")
            claim = Claimed(run, f"evidence/{path.name}", record)
            self.claims[claim.id] = claim
        told = {_server(c): kept for c in self.claims.values() if (kept := _timeline(c.record))}
        for claim in self.claims.values():
            claim.timeline = told.get(_server(claim), {})

    @cached_property
    def names(self) -> Mapping[str, Source]:
        """The names of the files, and the digest by which the plan is quoted."""
        found = {path.relative_to(self.run).as_posix(): "the name of a file" for path in self.run.rglob("*") if path.is_file()}
        plan = self.run / evidence.PLAN
        digest = evidence.digest(plan.read_bytes()) if plan.is_file() else ""
        return {**found, **({digest: f"{evidence.PLAN}: its digest", digest[:12]: f"{evidence.PLAN}: its digest"} if digest else {})}

    @cached_property
    def whole(self) -> Holding:
        """What was planned, how it ended, what may go out; where the first claim was measured."""
        names = [name for name in (evidence.PLAN, "run.json", evidence.RELEASE, "changes.json") if (self.run / name).is_file()]
        first = [(f"{c.file}#/provenance", c.record["provenance"]) for c in self.claims.values() if c.record.get("provenance")][:1]
        return Holding([*((f"{name}#", evidence.read_json(self.run / name)) for name in names), *first])
