"""Sentences of which is known what in them is personal data: what the precision of the scan is measured on."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from harness import Subject, golden

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"


@cache
def sentences() -> tuple[dict, ...]:
    """Each with ``text`` and ``spans``: kind, first byte, byte behind the last."""
    return tuple({**item, "spans": json.loads(item["spans"])} for item in golden.load("private_sentences", FIXTURES).items)


def subject() -> Subject:
    """The labelled sentences, as evidence names them."""
    return Subject("private_sentences", "data", "private_sentences.jsonl", golden.load("private_sentences", FIXTURES).digest)
