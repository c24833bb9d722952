"""What every scorer of a generated answer does first."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from harness.types import Generation, Sample

__all__ = ["detail_of", "folded", "unscored"]


def detail_of(answer: Generation, asked: str, target: str) -> dict[str, Any]:
    """What a person wants to look at beside a score."""
    return {
        "input": asked, "text": answer.text, "target": target, "finish": answer.finish,
        "tokens": answer.tokens, "prompt": answer.prompt_digest,
    }  # fmt: skip


def unscored(answer: Generation, detail: Mapping[str, Any]) -> Sample | None:
    """The Sample of an answer that never came or was cut off; None for one to be read."""
    if answer.finish == "error":
        return Sample(answer.id, None, status="error", detail={**detail, "error": answer.error})
    if answer.finish == "length":
        return Sample(answer.id, None, status="truncated", detail=dict(detail))
    return None


_ARTICLES = {"a", "an", "the"}


def folded(text: str, steps: Sequence[str]) -> str:
    """``text`` after the named steps, in this order whatever theirs: nfkc, case, punctuation, articles, space."""
    if "nfkc" in steps:
        text = unicodedata.normalize("NFKC", text)
    if "case" in steps:
        text = text.casefold()
    if "punctuation" in steps:
        text = "".join(ch for ch in text if not unicodedata.category(ch).startswith("P"))
    words = text.split()
    if "articles" in steps:
        words = [word for word in words if word.casefold() not in _ARTICLES]
        text = " ".join(words)
    return " ".join(words) if "space" in steps else text.strip()
