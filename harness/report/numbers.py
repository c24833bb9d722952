"""Where every number of a report comes from: each number of ``report.html`` and ``summary.md`` with the file and field it resolves to.

The pages are read as a reader sees them (``visible``), the files of the run by themselves (``artifacts``), what follows from them is
made a second time (``derived``). A number is looked for where it stands: first in the claims that its row, item or heading leads to,
then in those that are named beside it, then in what the run says as a whole. How it resolves:

    text     the whole text stands, word for word, in a file
    field    a value of an evidence file, of the plan, of run.json or release.json, at one of the roundings in use
    row      a value of the raw rows
    derived  a declared derivation: a count, a share, a quantile ...
    words    the page's own words ("exact 95% limits") and limits ("40 of 212 rows"), the same in every report
    scale    a tick of a drawing that lies where a linear or logarithmic axis puts it
"""

from __future__ import annotations

import ast
import html
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, cached_property
from itertools import pairwise
from pathlib import Path

from harness.errors import EvidenceError
from harness.report import differing
from harness.report.artifacts import Claimed, Files, Pool, Source
from harness.report.derived import of_claim, of_claims, of_files
from harness.report.view import ClaimView
from harness.report.visible import GAP, NAME, NUMBER, Piece, pieces

__all__ = ["PAGES", "Entry", "NumberMap", "number_map", "resolved"]

_ID = re.compile(r"[A-Z]{1,4}\d{0,2}\.\w+(?:\[[^\]\s]*\])?")
_NAMED = 150  # claims that are named beside a number, at most
_FEW = 12  # claims that are named beside a number whose rows are looked through too
_EDGES = ".:'·→✓✗`*|<>="
_JUDGED = ("verdict/estimate", "verdict/low", "verdict/high")
# Where the page says what a number is, nothing else will do: section and column, or drawing -> fields of the claim of this row.
_FIELDS: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("claims", "estimate"): _JUDGED, ("claims", "n"): ("verdict/n",), ("claims", "p"): ("verdict/p_hold", "verdict/p_fail"),
    ("claims", "interval and bound"): ("claim/bound",), ("claims", "drawing"): (*_JUDGED, "claim/bound"),
    ("evidence", "estimate"): (*_JUDGED, "verdict/level"), ("evidence", "p"): ("verdict/p_hold", "verdict/p_fail"),
    ("evidence", "n"): ("verdict/n",), ("evidence", "n needed"): ("verdict/n_needed",), ("evidence", "alpha"): ("verdict/alpha",),
    ("evidence", "bound"): ("claim/bound",), ("evidence", "least n planned"): ("claim/min_n",),
}  # fmt: skip
_MACHINE = re.compile(r"/provenance/|/threads$")
_NEAR = 60  # claims that stand close enough to a number to be what it speaks of; more are the run as a whole
_UNITS: Mapping[str, Sequence[float]] = {
    "%": (0.01,), "points": (0.01,), "MB": (1e6,), "GB": (1e9,), "kB": (1e3,), "ms": (1e-3,), "GiB": (2.0**30,), "MiB": (2.0**20,),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One number: as it is shown, where, and what it resolves to; ``source`` is "" where nothing was found."""

    shown: str
    page: str
    where: str
    how: str
    source: Source


@dataclass(frozen=True, slots=True)
class NumberMap:
    """Every number of the pages; ``stale`` names pages that are not what their files render."""

    entries: tuple[Entry, ...]
    stale: tuple[str, ...] = ()

    @property
    def unmatched(self) -> tuple[Entry, ...]:
        """Numbers that resolve to nothing."""
        return tuple(e for e in self.entries if not e.source)

    @property
    def counts(self) -> dict[str, int]:
        """How many resolve in which way."""
        return dict(sorted(Counter(e.how or "unmatched" for e in self.entries).items()))

    @property
    def problems(self) -> list[str]:
        """What is wrong, a line each."""
        return [*self.stale, *(f"{e.page}: {e.shown!r} resolves to nothing ({e.where or 'at the top'})" for e in self.unmatched)]

    @property
    def sentence(self) -> str:
        """How many there are, and how they resolve."""
        said = ", ".join(f"{how} {k:,}" for how, k in self.counts.items())
        return f"{len(self.entries):,} numbers, {len(self.unmatched)} resolve to nothing ({said or 'none at all'})"

    def to_json(self) -> dict[str, object]:
        """As ``--numbers`` writes it."""
        entries = [asdict(e) for e in self.entries]
        head = {"numbers": len(self.entries), "unmatched": len(self.unmatched), "stale": list(self.stale), "counts": self.counts}
        return {**head, "map": entries}


PAGES = ("report.html", "summary.md")


def number_map(run: Path) -> NumberMap:
    """The map of the pages in ``run`` as they lie. EvidenceError if a page or a file is missing or cannot be read."""
    lying = {name: _read(run / name) for name in PAGES}
    return NumberMap(resolved(run)(lying), tuple(differing(run)))


def resolved(run: Path) -> Callable[[Mapping[str, str]], tuple[Entry, ...]]:
    """What resolves pages, given by name, or parts of pages, in the files of ``run``, which are read once."""
    resolver = _Resolver(Files(run))
    readers = {PAGES[0]: pieces, PAGES[1]: _of_markdown}

    def entries(lying: Mapping[str, str]) -> tuple[Entry, ...]:
        return tuple(entry for name, text in lying.items() for entry in resolver.entries(name, readers[name](text)))

    return entries


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"{path}: cannot be read ({error}); python -m harness report {path.parent} renders it again") from error


# --- the summary as pieces --------------------------------------------------------------------


def _of_markdown(text: str) -> list[Piece]:
    """A piece for each line, and for each cell of a table; what is escaped is read as it is shown."""
    found: list[Piece] = []
    section = ""
    head: tuple[str, ...] = ()
    for line in text.splitlines():
        if line.startswith("## "):
            section, head = _plain(line[3:]), ()
        if not line.startswith("| "):
            found.append(Piece(_plain(line), "own", section, "", "", section, ()))
            head = ()
            continue
        cells = tuple(_plain(cell) for cell in re.split(r"(?<!\\)\|", line.strip("| ")))
        if not head:
            head = cells
        row = " ".join(cells[:2]) if head is not cells else ""
        found += [Piece(cell, "own", section, row, head[i] if i < len(head) else "", section, ()) for i, cell in enumerate(cells)]
    return found


def _plain(line: str) -> str:
    shown = re.sub(r"<!-- -->", "", line)
    shown = re.sub(r"\\([\\`*_\[\]|~$])", "\\1", shown.replace("**", ""))
    return " ".join(html.unescape(shown).split())


# --- resolving --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Hit:
    how: str
    source: Source


class _Known:
    """A claim and its pools, each made when it is first asked for."""

    def __init__(self, claim: Claimed) -> None:
        self.claim = claim
        self.fields: dict[tuple[str, ...], Pool] = {}

    @cached_property
    def derived(self) -> Pool:
        """What follows from it."""
        return Pool(of_claim(self.claim))

    @cached_property
    def said(self) -> Pool:
        """The numbers of its evidence, but those of the machine: small ones that any count is equal to, said in sections of their own."""
        every = self.claim.evidence.pool
        return Pool((value, source) for value, source in zip(every.values, every.sources, strict=True) if not _MACHINE.search(source))

    def only(self, fields: tuple[str, ...]) -> Pool:
        """The numbers of these fields of its evidence alone; a margin may be shown on either side."""
        if fields not in self.fields:
            every = zip(self.claim.evidence.pool.values, self.claim.evidence.pool.sources, strict=True)
            kept = [(value, source) for value, source in every if source.partition("#/")[2].startswith(fields)]
            turned = [(-value, source) for value, source in kept if "claim/bound" in source]
            self.fields[fields] = Pool([*kept, *turned])
        return self.fields[fields]

    def text(self, text: str, rows: bool) -> _Hit | None:
        """The whole of a text, in its evidence or rows."""
        for holding in (self.claim.evidence, *([self.claim.samples] if rows else [])):
            if source := holding.says(text) or holding.holds(text):
                return _Hit("text", source)
        return None

    def number(self, text: str, scales: Sequence[float], rows: bool) -> _Hit | None:
        """A number, in its evidence, in what follows from it, or in its rows."""
        pools: list[tuple[str, Callable[[], Pool]]] = [("field", lambda: self.said), ("derived", lambda: self.derived)]
        pools += [("row", lambda: self.claim.samples.pool)] if rows else []
        for how, pool in pools:
            for scale in scales:
                if source := pool().find(text, scale):
                    return _Hit(how, source)
        return None


_Near = Sequence[tuple[tuple[str, ...], bool]]  # claims, and whether their rows are looked through too


class _Resolver:
    """Finds each number of a piece among what stands near it."""

    def __init__(self, files: Files) -> None:
        self.files = files
        self.known = {name: _Known(claim) for name, claim in files.claims.items()}
        self.by_anchor = {ClaimView(id=name, outcome="").anchor: name for name in files.claims}
        self.by_word: dict[str, list[str]] = {}
        for name, claim in files.claims.items():
            for word in claim.words:
                self.by_word.setdefault(word, []).append(name)
        self.groups: dict[tuple[str, ...], Pool] = {}
        self.texts: dict[tuple[str, str, bool], _Hit | None] = {}
        self.named: dict[str, tuple[str, ...]] = {}

    def entries(self, page: str, found: Sequence[Piece]) -> list[Entry]:
        """Every number of a page. The ticks of a drawing are looked at together."""
        straight = _on_scale(p for p in found if p.kind == "tick")
        return [entry for piece in found for entry in self._of(page, piece, id(piece) in straight)]

    def _of(self, page: str, piece: Piece, straight: bool) -> Iterator[Entry]:
        spans = [m.span() for m in NUMBER.finditer(piece.text)]
        taken = {i for start, end in spans for i in range(start, end)}
        names = [m for m in NAME.finditer(piece.text) if not taken & set(range(*m.span()))]
        if not spans and not names:
            return
        where = " > ".join(part for part in (piece.section, piece.row, piece.column) if part)
        near = self._near(piece)
        if piece.section == "evidence" and piece.column and piece.row and near and (own := self._row(piece, near[0][0][0])):
            yield from (Entry(shown, page, where, *own) for shown in (*(piece.text[a:b] for a, b in spans), *(m.group() for m in names)))
            return
        whole = _Hit("scale", "its place on the axis") if straight or _doubling(piece.text) else self._whole(piece, near)
        within_ids = {i: m.group() for m in _ID.finditer(piece.text) if m.group() in self.files.claims for i in range(*m.span())}
        for start, end in spans:
            said = whole or (_Hit("text", self.files.claims[within_ids[start]].file) if start in within_ids else None)
            hit = said or self._number(piece, start, end, near) or _Hit("", "")
            yield Entry(piece.text[start:end], page, where, hit.how, hit.source)
        for name in names:
            hit = whole or self._name(name.group(), near) or _Hit("", "")
            yield Entry(name.group(), page, where, hit.how, hit.source)

    # --- what stands near ---------------------------------------------------------------------

    def _near(self, piece: Piece) -> _Near:
        """Claims that stand near, the nearest first: by their links, then by what is named beside."""
        linked = [tuple(self.by_anchor[a] for a in scope if a in self.by_anchor) for scope in piece.scopes if len(scope) <= _NEAR]
        named = [self._named(text) for text in (f"{piece.row} {piece.column} {piece.text}", piece.around)]
        return [*((names, True) for names in linked if names), *((names, len(names) <= _FEW) for names in named if names)]

    def _named(self, text: str) -> tuple[str, ...]:
        """Claims that a text names: by id, by test, by build, dataset or server; those that it names most words of first."""
        if text not in self.named:
            words = {w.strip(".,:;()") for w in re.split(r"[\s\[\],|]+", text)}
            times = Counter(name for word in words for name in self.by_word.get(word, ()))
            found = dict.fromkeys([*self._ids(text), *sorted(times, key=lambda name: (-times[name], name))])
            self.named[text] = tuple(found)[:_NAMED]
        return self.named[text]

    def _ids(self, text: str) -> tuple[str, ...]:
        return tuple(name for name in _ID.findall(text) if name in self.files.claims)

    # --- a whole text -------------------------------------------------------------------------

    def _whole(self, piece: Piece, near: _Near) -> _Hit | None:
        """A text of the run, or a structure, that stands in a file as it is."""
        if piece.kind != "said":
            return None
        wanted = _uncut(piece.text)
        for names, rows in near:
            for name in names:
                for text in wanted:
                    if hit := self._says(name, text, rows):
                        return hit
        found = (self.files.whole.says(text) or self.files.whole.holds(text) for text in wanted)
        return next((_Hit("text", source) for source in found if source), None)

    def _says(self, name: str, text: str, rows: bool) -> _Hit | None:
        key = (name, text, rows)
        if key not in self.texts:
            self.texts[key] = self.known[name].text(text, rows)
        return self.texts[key]

    def _row(self, piece: Piece, name: str) -> tuple[str, Source] | None:
        """A cell of a table of rows: what its own row says, and nothing else; None where the page's row is none of the samples."""
        claim = self.known[name].claim
        own = claim.row(piece.row)
        if not own.parts:
            return None
        for text in _uncut(piece.text):
            if source := own.says(text) or own.holds(text):
                return "text", source
        found = [own.pool.find(m.group()) for m in NUMBER.finditer(piece.text)]
        return ("row", found[0]) if found and found[0] and all(found) else ("", "")

    # --- one number ---------------------------------------------------------------------------

    def _number(self, piece: Piece, start: int, end: int, near: _Near) -> _Hit | None:
        text, scales = piece.text[start:end], _scales(piece, end)
        fields = _FIELDS.get((piece.section, piece.kind if piece.kind == "drawing" else piece.column))
        if fields and (piece.section == "claims" or not piece.row) and near and len(near[0][0]) == 1:
            source = self.known[near[0][0][0]].only(fields).find(text)
            return _Hit("field", source) if source else _words(piece.text, start, end)
        ids = self._ids(f"{piece.row} {piece.text}") if piece.kind != "drawing" else self._named(_segment(piece, start))
        for names, rows in [(ids, len(ids) <= _FEW), *near]:
            for name in names:
                if hit := self.known[name].number(text, scales, rows):
                    return hit
        return self._within(piece, start, end, near) or self._of_run(text, scales, near) or _words(piece.text, start, end)

    def _of_run(self, text: str, scales: Sequence[float], near: _Near) -> _Hit | None:
        """A count over claims that stand together, or over all; a number of the plan, the end of the run, a release verdict."""
        for group in [*(names for names, _ in near), tuple(self.files.claims)]:
            if source := self._group(group).find(text):
                return _Hit("derived", source)
        sources = (self.files.whole.pool.find(text, scale) for scale in scales)
        return next((_Hit("field", source) for source in sources if source), None)

    def _group(self, names: tuple[str, ...]) -> Pool:
        if names not in self.groups:
            whole = of_files(self.files) if len(names) == len(self.files.claims) else ()
            self.groups[names] = Pool([*of_claims([self.files.claims[name] for name in names]), *whole])
        return self.groups[names]

    def _within(self, piece: Piece, start: int, end: int, near: _Near) -> _Hit | None:
        """A number in a sentence of the run that the page put together with others: found with the words around it."""
        before, after = piece.text[max(0, start - 16) : start].rpartition(GAP)[2], piece.text[end : end + 12].partition(GAP)[0]
        windows = {(before[-i:] + piece.text[start:end] + after[:k]).strip() for i in (16, 9, 5, 2) for k in (12, 6, 2, 0)}
        for window in sorted(windows, key=lambda window: -len(window)):
            if len(window) - (end - start) >= 6 or (window == piece.text and len(window) > 4):
                found = (self.known[name].claim.evidence.says(window) for names, _ in near for name in names)
                if source := next(filter(None, found), None):
                    return _Hit("text", source)
        return None

    # --- a name with digits in it -------------------------------------------------------------

    def _name(self, name: str, near: _Near) -> _Hit | None:
        """It stands in the files, or is one of the page's own."""
        word = name.strip(_EDGES)
        if word in self.vocabulary:
            return _Hit("text", self.vocabulary[word])
        if word in _own_names():
            return _Hit("words", "the page's own words")
        found = (self._says(claim, word, rows) for rows in (False, True) for names, _ in near for claim in names)
        return next(filter(None, found), None)

    @cached_property
    def vocabulary(self) -> Mapping[str, Source]:
        """Every word with a digit that the evidence, the plan, the end of the run and the names of its files hold."""
        found: dict[str, Source] = {}
        for holding in (self.files.whole, *(claim.evidence for claim in self.files.claims.values())):
            for text, source in holding.texts:
                for m in NAME.finditer(text):
                    found.setdefault(m.group().strip(_EDGES), source)
        commits = {str((c.record.get("provenance") or {}).get("code", {}).get("commit")): c.file for c in self.files.claims.values()}
        short = {commit[:12]: f"{file}#/provenance/code/commit" for commit, file in commits.items()}
        return {**self.files.names, **short, **found}


def _uncut(text: str) -> list[str]:
    """A text of the run, and what was shown of it where it was cut: "so long … [2,318 characters, the first 300 shown]"."""
    head, cut, rest = text.partition("… [")
    return [text, head.strip()] if cut and rest.endswith("shown]") else [text]


def _segment(drawing: Piece, at: int) -> str:
    """The part of a drawing's name that a number stands in: "BUILD: holds, 0.02 [0.01, 0.03]"."""
    start = max(drawing.text.rfind(" · ", 0, at), drawing.text.rfind(". ", 0, at), 0)
    end = drawing.text.find(" · ", at)
    return drawing.text[start : end if end >= 0 else None]


def _doubling(text: str) -> bool:
    """A bin that is twice as wide as the one before: 128–255."""
    ends = re.fullmatch(r"(\d+)–(\d+)", text)
    return ends is not None and int(ends[2]) == 2 * int(ends[1]) - 1


def _scales(piece: Piece, end: int) -> tuple[float, ...]:
    """What a number is to be multiplied with, by the unit that follows it or heads its column."""
    after = re.match(r"\s*(%|[A-Za-z]+)", piece.text[end:])
    found = _UNITS.get(after.group(1), ()) if after else ()
    title = piece.text.partition(". ")[0] if piece.kind == "drawing" else ""
    for unit, scales in _UNITS.items():
        if not found and re.search(rf"(?<![A-Za-z]){re.escape(unit)}(?![A-Za-z])", f"{piece.column} {title}"):
            found = scales
    return (*found, 1.0)


# --- the page's own words ---------------------------------------------------------------------


@cache
def _own_texts() -> Sequence[str]:
    """Every text that the modules which render write themselves, a gap where something is filled in."""
    trees = (ast.parse(path.read_text("utf-8")) for path in sorted(Path(__file__).parent.glob("*.py")))
    return [" ".join(html.unescape(re.sub(r"<[^>]*>", "", text)).split()) for tree in trees for text in _strings(tree)]


def _strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else GAP for v in node.values)


@cache
def _literals() -> Mapping[str, Sequence[tuple[str, str]]]:
    """By number: what stands before and after it in a text of the page's own."""
    found: dict[str, list[tuple[str, str]]] = {}
    for text in _own_texts():
        for m in NUMBER.finditer(text):
            before, after = text[: m.start()].rpartition(GAP)[2], text[m.end() :].partition(GAP)[0]
            if re.search(r"[A-Za-z]{2}", before + after):
                found.setdefault(m.group(), []).append((before[-12:], after[:12]))
    return found


@cache
def _own_names() -> frozenset[str]:
    """Words with a digit in them that are the page's own: SHA-256, p95, keys."""
    return frozenset(m.group().strip(_EDGES) for text in _own_texts() for m in NAME.finditer(text))


@cache
def _limits() -> frozenset[str]:
    """How much of a kind a page shows at most, and the steps of its legends: whole numbers that its modules name in capitals."""
    found: set[str] = set()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], (ast.Name, ast.Tuple)):
                found |= {str(n.value) for n in ast.walk(node.value) if isinstance(n, ast.Constant) and type(n.value) is int}
    return frozenset(found)


def _words(text: str, start: int, end: int) -> _Hit | None:
    if text[start:end] in _limits() and (text[end:].startswith(" of ") or text == text[start:end]):
        return _Hit("words", "how much a page shows at most")
    for before, after in _literals().get(text[start:end], ()):
        if text[:start].endswith(before) and text[end:].startswith(after):
            return _Hit("words", "the page's own words")
    return None


# --- ticks ------------------------------------------------------------------------------------


def _on_scale(ticks: Iterable[Piece]) -> set[int]:
    """Ticks that lie where their axis puts them: values linear, or their logarithms, in the pixels between them."""
    axes: dict[tuple[int, str, float], list[Piece]] = {}
    for piece in ticks:
        if NUMBER.fullmatch(piece.text):
            for name, place in (("y", piece.at[1]), ("x", piece.at[0])):
                axes.setdefault((piece.drawing, name, place), []).append(piece)
    return {id(p) for (_, name, _), found in axes.items() if len(found) > 1 and _straight(found, name) for p in found}


def _straight(found: Sequence[Piece], axis: str) -> bool:
    """On one axis, or on several that lie one below the other."""
    points = sorted((p.at[axis == "x"], float(p.text.replace(",", ""))) for p in found)
    if len({x for x, _ in points}) < len(points):
        return False
    falls = [i for i, ((_, a), (_, b)) in enumerate(pairwise(points), start=1) if b > a] if axis == "x" else []
    cuts = [0, *falls, len(points)]
    return all(_evenly(points[a:b]) for a, b in pairwise(cuts) if b - a > 1)


def _evenly(points: Sequence[tuple[float, float]]) -> bool:
    for flat in (lambda v: v, lambda v: math.log(v) if v > 0 else math.nan):
        steps = [(flat(b) - flat(a)) / (y - x) for (x, a), (y, b) in pairwise(points)]
        if steps[0] and all(abs(step - steps[0]) <= 0.03 * abs(steps[0]) for step in steps):
            return True
    return False
