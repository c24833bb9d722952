"""What a reader of ``report.html`` sees: each piece of text with its place, read out of the page itself and not out of what made it.

A piece is one text of the run (``<bdi>``), one name of a drawing (``aria-label``), or what a block says in the page's own words
with a gap where a text of the run stood. Beside it: its section, and the claims that stand nearest, innermost first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

__all__ = ["GAP", "NAME", "NUMBER", "Piece", "pieces"]

GAP = "\ue000"  # where another piece stands inside this one
_FREE = r"(?<![\w.#])(?<![\w.]-)(?<!\d[:+])"  # nothing that makes it part of a name stands before
NUMBER = re.compile(_FREE + r"[-+]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?(?![-.:]?\w)")
"""A number as it is shown: 12,345 · -0.0482 · 1.81e-50."""

NAME = re.compile(r"[^\s\ue000,;()\[\]{}\"…]*\d[^\s\ue000,;()\[\]{}\"…]*")
"""A word with a digit in it: ``q4_0``, ``p95``, 2026-11-22, a digest; what is a number is none."""

_VOID = frozenset({"meta", "wbr", "br", "line", "rect", "circle", "polygon", "polyline", "path", "link", "img", "input", "hr", "ellipse"})
_BLOCKS = frozenset({
    "td", "th", "li", "p", "dd", "dt", "summary", "figcaption", "text", "h1", "h2", "h3", "h4", "div", "title", "pre", "caption", "article",
    "section", "a", "ul", "dl", "body", "details", "header", "main", "figure", "span.sub", "span.why", "span.badge", "span.muted",
})  # fmt: skip
_SILENT = frozenset({"style", "script"})


@dataclass(slots=True)
class _Node:
    """An element, as far as it matters here; a text is a ``str`` among the children."""

    tag: str
    attributes: dict[str, str]
    parent: _Node | None
    children: list[_Node | str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)  # claims that it and what is in it lead to, in their order

    @property
    def kind(self) -> str:
        """Tag, and for a span its class: ``span.sub`` is a line of its own."""
        return f"span.{self.attributes.get('class', '').split(' ')[0]}" if self.tag == "span" else self.tag


@dataclass(frozen=True, slots=True)
class Piece:
    """``text`` with white space folded; ``kind`` is "said", "own", "drawing" or "tick"."""

    text: str
    kind: str
    section: str
    row: str  # the name of the table row, list item ... that it stands in
    column: str  # the head of its column, the term it explains
    around: str  # the names of the table or drawing, of the box and of the heading that it stands under
    scopes: tuple[tuple[str, ...], ...]  # anchors of claims, the nearest first
    drawing: int = 0  # of a tick: which drawing it is in, and where it stands there
    at: tuple[float, float] = (0.0, 0.0)


class _Reader(HTMLParser):
    """Builds the tree; never fails on what a browser would take."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = self.at = _Node("root", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = _Node(tag, {name: value or "" for name, value in attrs}, self.at)
        self.at.children.append(node)
        if tag not in _VOID:
            self.at = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.at.children.append(_Node(tag, {name: value or "" for name, value in attrs}, self.at))

    def handle_endtag(self, tag: str) -> None:
        node: _Node | None = self.at
        while node is not None and node.tag != tag:
            node = node.parent
        if node is not None and node.parent is not None:
            self.at = node.parent

    def handle_data(self, data: str) -> None:
        self.at.children.append(data)


def pieces(page: str) -> list[Piece]:
    """Every piece of ``page``, in the order of reading."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    _gather(reader.root)
    return list(_walk(reader.root, _Place("", (), "", "", ())))


def _gather(node: _Node) -> list[str]:
    own = node.attributes.get("href", "")[1:] if node.tag == "a" else node.attributes.get("id", "")
    found = [own] if own.startswith("c-") else []
    for child in node.children:
        if isinstance(child, _Node):
            found += _gather(child)
    node.links = list(dict.fromkeys(found))
    return node.links


@dataclass(frozen=True, slots=True)
class _Place:
    section: str
    scopes: tuple[tuple[str, ...], ...]
    row: str
    column: str
    heads: tuple[str, ...]
    around: str = ""
    drawing: int = 0


def _walk(node: _Node, at: _Place) -> Iterator[Piece]:
    """Depth first; what a heading leads to also stands nearest to all that follows it."""
    if node.tag in _SILENT:
        return
    at = _entered(node, at)
    if node.tag == "bdi":
        yield Piece(_folded(_all(node)), "said", at.section, at.row, at.column, at.around, at.scopes)
        return
    if label := node.attributes.get("aria-label", "") if node.tag == "svg" else "":
        yield Piece(_folded(label), "drawing", at.section, at.row, at.column, at.around, at.scopes)
    if node.kind in _BLOCKS and (text := _folded(_own(node))).strip(GAP + " "):
        tick = node.tag == "text" and node.attributes.get("class", "") == "tick"
        place = (float(node.attributes.get("x", "0")), float(node.attributes.get("y", "0"))) if tick else (0.0, 0.0)
        yield Piece(text, "tick" if tick else "own", at.section, at.row, at.column, at.around, at.scopes, at.drawing, place)
    headed, columns = at, iter(at.heads) if node.tag == "tr" else None
    for child in node.children:
        if isinstance(child, str):
            continue
        inside = headed
        if columns is not None and child.tag in ("td", "th"):
            inside = replace(headed, row=_row_name(node), column=next(columns, ""))
        elif node.tag == "dl" and child.tag == "dt":
            headed = replace(at, column=_folded(_all(child)))
        yield from _walk(child, inside)
        if child.tag in ("h2", "h3", "summary", "p") and child.links:
            headed = replace(headed, scopes=(tuple(child.links), *at.scopes))
        if child.tag in ("h3", "summary") or child.attributes.get("class") == "name":
            headed = replace(headed, around=_folded(_all(child)))
        elif node.tag == "svg" and child.tag == "text" and child.attributes.get("class") == "label":
            headed = replace(headed, row=_folded(_all(child)))


def _entered(node: _Node, at: _Place) -> _Place:
    """The place inside ``node``."""
    section = at.section
    if node.tag == "section":
        section = node.attributes.get("aria-labelledby", "")
    elif node.tag in ("header", "nav", "head"):
        section = node.tag
    scopes = at.scopes
    if node.links and node.tag in ("tr", "li", "p", "article", "div", "details", "table", "section", "dd", "td", "h3", "body", "summary"):
        mine = tuple(node.links)
        scopes = scopes if scopes and scopes[0] == mine else (mine, *scopes)
    heads = _heads(node) if node.tag == "table" else at.heads
    row = _folded(_all(node))[:60] if node.tag in ("li", "summary") else at.row
    label = node.attributes.get("aria-label", "") if node.tag in ("svg", "div") else " ".join(heads) if node.tag == "table" else ""
    around = f"{at.around} {_folded(label)}".strip() if label else at.around
    return replace(
        at, section=section, scopes=scopes, row=row, heads=heads, around=around, drawing=id(node) if node.tag == "svg" else at.drawing
    )


def _heads(table: _Node) -> tuple[str, ...]:
    """The names of the columns, two rows of them joined."""
    rows = [
        tr for part in table.children if isinstance(part, _Node) and part.tag == "thead" for tr in part.children if isinstance(tr, _Node)
    ]
    if not rows:
        return ()
    if len(rows) == 1:
        return tuple(_folded(_all(cell)) for cell in rows[0].children if isinstance(cell, _Node))
    under = iter([_folded(_all(cell)) for cell in rows[1].children if isinstance(cell, _Node)])
    names: list[str] = []
    for cell in (cell for cell in rows[0].children if isinstance(cell, _Node)):
        wide = int(cell.attributes.get("colspan", "1"))
        names += [_folded(_all(cell))] if wide == 1 else [f"{_folded(_all(cell))}: {next(under, '')}" for _ in range(wide)]
    return tuple(names)


def _row_name(row: _Node) -> str:
    first = next((cell for cell in row.children if isinstance(cell, _Node) and cell.tag == "th"), None)
    return _folded(_all(first))[:80] if first is not None else ""


def _all(node: _Node) -> str:
    return "".join(child if isinstance(child, str) else _all(child) for child in node.children)


def _own(node: _Node) -> str:
    """What a block says itself: other blocks and texts of the run are gaps."""
    parts: Sequence[str] = [
        child if isinstance(child, str) else GAP if child.tag == "bdi" or child.kind in _BLOCKS or child.tag in _SILENT else _own(child)
        for child in node.children
    ]
    return "".join(parts)


def _folded(text: str) -> str:
    return " ".join(text.split())
