"""Text and numbers as they are shown. What a model wrote is hostile until it went through here."""

from __future__ import annotations

import math
import re

__all__ = ["DASH", "SYMBOLS", "clean", "number", "one_line", "shorten", "signed", "span"]

DASH = "–"

# Colour is never the only carrier of an outcome.
SYMBOLS = {"holds": "✓", "fails": "✗", "inconclusive": "?", "not_evaluated": "–", "error": "!", "lost": "∅"}

# What a reader cannot see, or what changes how the rest is read: control characters, soft hyphen,
# zero-width and bidirectional marks, line and paragraph separators, byte-order mark, surrogates,
# noncharacters, tags. Listed rather than looked up: unicodedata differs between Python versions.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e0fff]"
)


def clean(text: str) -> str:
    """Unseen characters spelled out (``\\u202e``); line feeds and tabs stay."""
    return _UNSEEN.sub(lambda found: _spelled(found.group()), text)


def _spelled(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str, limit: int = 200) -> str:
    """One line for a terminal: unseen characters dropped, white space folded, at most ``limit`` characters."""
    # Cut first: a regular expression over a megabyte that is thrown away is time lost.
    folded = " ".join(_UNSEEN.sub("", re.sub(r"[\n\r\t\v\f]", " ", text[: 20 * limit])).split())
    return folded if len(folded) <= limit else folded[: limit - 1].rstrip() + "…"


def shorten(text: str, limit: int) -> str:
    """``clean`` text, its head only if it is longer than ``limit``, then with the length said."""
    if len(text) <= limit:
        return clean(text)
    return f"{clean(text[:limit])}… [{len(text):,} characters, the first {limit:,} shown]"


def number(value: object) -> str:
    """Four significant digits, like the sentences of the judge; a dash for what is absent."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return DASH if value is None else one_line(str(value), 60)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)
    return f"{value:.4g}" if math.isfinite(value) else DASH


def signed(value: float | None) -> str:
    """A difference, with its sign."""
    return DASH if value is None else f"{value:+.4g}" if value else "0"


def span(low: float | None, high: float | None) -> str:
    """``[low, high]``; empty where there is no interval, as for a deterministic number."""
    return "" if low is None or high is None else f"[{number(low)}, {number(high)}]"
