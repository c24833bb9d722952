"""Reading a page as a browser would, and text that a page must not trust."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness import evidence, report

HOSTILE = (
    "<script>alert(1)</script> \u202egnp.exe\u2066 \x00\x1b[31m\x9b2J \u200b "
    "@octocat #1 https://evil.example `x` [a](http://b) ![i](x) | $x$ \"'>&lt;"
)
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def both(run: Path) -> tuple[str, str]:
    """The page and the summary, rendered."""
    report.write(run)
    return (run / "report.html").read_text("utf-8"), (run / "summary.md").read_text("utf-8")


def records(run: Path) -> list[dict[str, Any]]:
    return [evidence.read_json(path) for path in sorted((run / "evidence").glob("*.json"))]


class Page(HTMLParser):
    """What a browser would make of the page: elements, ids, links; and whether tags are closed in order."""

    VOID = frozenset({"meta", "wbr", "br", "line", "rect", "circle", "polygon"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        known = dict(attrs)
        self.ids += [known["id"]] if known.get("id") else []
        self.links += [known["href"]] if known.get("href") else []
        self.images += [known] if tag == "svg" else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)
