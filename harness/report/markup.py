"""Small pieces of HTML. Everything a run says passes ``said``; nothing else may put text into a page."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher
from html import escape
from typing import Any
from urllib.parse import quote

from harness.report.builds import Build
from harness.report.text import DASH, SYMBOLS, clean, shorten
from harness.report.view import ClaimView

__all__ = [
    "Html",
    "absent",
    "badge",
    "claim_id",
    "definitions",
    "differing",
    "file_link",
    "link",
    "outcome_class",
    "said",
    "said_json",
    "scroll",
    "table",
    "verdict",
]


class Html(str):
    """Text that is markup already. Plain ``str`` never is: that is what keeps a page safe."""


def said(text: object, limit: int = 2_000) -> Html:
    """Any text of a run, harmless: unseen characters spelled out, shortened, escaped, its direction kept to itself."""
    return Html(f"<bdi>{escape(shorten(str(text), limit))}</bdi>")


def said_json(value: Any, limit: int = 2_000) -> Html:
    """A structure with every digit it has in the evidence."""
    if isinstance(value, str):
        return said(value, limit)
    return Html(f"<code>{said(json.dumps(value, ensure_ascii=False, sort_keys=True), limit)}</code>")


def claim_id(claim: ClaimView) -> Html:
    """A claim's id that may break behind its commas."""
    text = escape(shorten(claim.id, 200))
    return Html(f"<bdi>{text.replace(',', ',<wbr>').replace('[', '<wbr>[')}</bdi>")


def link(claim: ClaimView, inner: Html) -> Html:
    """``inner``, leading to the claim's evidence."""
    return Html(f'<a href="#{claim.anchor}">{inner}</a>')


def file_link(path: str) -> Html:
    """A link to a file of the run folder; never to another place, whatever the record says."""
    return Html(f'<a href="./{escape(quote(clean(path)), quote=True)}"><code>{said(path)}</code></a>')


def outcome_class(outcome: str) -> str:
    """The part of a class name that stands for an outcome, whatever a record calls it."""
    return re.sub(r"[^a-z_]", "", outcome)


def badge(outcome: str, extra: str = "", empty: bool = False) -> Html:
    """An outcome: sign, word and colour say the same."""
    kind = outcome_class(outcome)
    name = escape(clean(outcome.replace("_", " ")))
    more = f" {escape(clean(extra))}" if extra else ""
    return Html(f'<span class="badge o-{kind}{" none" if empty else ""}">{SYMBOLS.get(outcome, "·")} {name}{more}</span>')


def verdict(claim: ClaimView, shown: str, *under: str) -> Html:
    """A claim's sign and a number of it, or its outcome where there is none, leading to its evidence; below it more, plain text."""
    name = escape(clean(claim.outcome.replace("_", " ")))
    sign = SYMBOLS.get(claim.outcome, "·")
    head = f'<span class="sign o-{outcome_class(claim.outcome)}" role="img" aria-label="{name}">{sign}</span> '
    body = Html(name) if shown == DASH else said(shown, 80)
    return Html(head + link(claim, body) + "".join(f'<span class="sub">{said(line, 200)}</span>' for line in under if line))


def absent(what: str, builds: Iterable[Build]) -> str:
    """What is missing of which builds, in a line; "" where nothing is."""
    names = ", ".join(said(b.name, 80) for b in builds)
    return f'<p class="muted small">{escape(what)}: {names}.</p>' if names else ""


def scroll(inner: str, name: str) -> Html:
    """A box that scrolls sideways by itself, with the keyboard too."""
    return Html(f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(clean(name), quote=True)}">{inner}</div>')


def table(name: str, head: Sequence[str], rows: Iterable[Sequence[Html]], classes: Sequence[str] = ()) -> Html:
    """A table whose first column names the row."""
    kinds = [*classes, *[""] * (len(head) - len(classes))]
    top = "".join(f'<th scope="col">{escape(shorten(cell, 80))}</th>' for cell in head)
    body = "".join(f"<tr>{_cells(row, kinds)}</tr>" for row in rows)
    return scroll(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>", name)


def _cells(row: Sequence[Html], kinds: Sequence[str]) -> str:
    parts = []
    for i, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
        shown = cell if isinstance(cell, Html) else said(cell)
        attribute = f' class="{kind}"' if kind else ""
        parts.append(f'<th scope="row"{attribute}>{shown}</th>' if i == 0 else f"<td{attribute}>{shown}</td>")
    return "".join(parts)


def definitions(pairs: Iterable[tuple[str, Html]]) -> Html:
    """Names and values; what is empty is left out."""
    rows = "".join(f"<dt>{escape(clean(name))}</dt><dd>{value}</dd>" for name, value in pairs if value and value != DASH)
    return Html(f"<dl>{rows}</dl>")


# --- two texts side by side -------------------------------------------------------------------

_SHOWN = 600  # characters of an answer that are shown
_BEFORE = 120  # of them ahead of the first difference, if that lies further back
_TOKEN = re.compile(r"\w+|\s+|[^\w\s]")


def differing(old: str, new: str) -> tuple[Html, Html]:
    """Both texts with what differs marked; long ones cut around the first difference, with their length said."""
    first = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), min(len(old), len(new)))
    start = max(0, first - _BEFORE) if max(len(old), len(new)) > _SHOWN else 0
    left, right = (_TOKEN.findall(text[start : start + _SHOWN]) for text in (old, new))
    ours, theirs = [], []
    # On at most 600 characters each: the matcher is quadratic, and model text may be a megabyte.
    for kind, a, b, c, d in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        ours.append(_marked("".join(left[a:b]), "was", kind != "equal"))
        theirs.append(_marked("".join(right[c:d]), "now", kind != "equal"))
    return _cut(ours, old, start), _cut(theirs, new, start)


def _marked(text: str, kind: str, differs: bool) -> str:
    shown = escape(clean(text))
    return f'<mark class="{kind}">{shown}</mark>' if differs and text else shown


def _cut(parts: Iterable[str], whole: str, start: int) -> Html:
    body = "".join(parts) or '<span class="muted">(empty)</span>'
    if start == 0 and len(whole) <= _SHOWN:
        return Html(f"<bdi>{body}</bdi>")
    end = min(len(whole), start + _SHOWN)
    note = f"characters {start:,} to {end:,} of {len(whole):,}" if end > start else f"{len(whole):,} characters, it ends earlier"
    return Html(f'<bdi>{"… " if start else ""}{body}{" …" if end < len(whole) else ""}</bdi> <span class="sub">[{note}]</span>')
