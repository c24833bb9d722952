"""The text format of Prometheus, as servers tell their metrics in it: read strictly, for a page may come from anybody."""

from __future__ import annotations

import re
from collections.abc import Iterable

from harness.errors import EngineError

__all__ = ["BYTES", "Labels", "parse"]

BYTES = 8 << 20  # of a page: a hundred times what vLLM says
_LINE = 64 << 10

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*+")
_SAMPLE = re.compile(
    r"""([a-zA-Z_:][a-zA-Z0-9_:]*+)(?:[ \t]*+\{((?:[^"{}]++|"(?:[^"\\]++|\\.)*+")*+)\}|(?=[ \t]))[ \t]*+"""
    r"""([+-]?(?:(?:\d++\.?+\d*+|\.\d++)(?:[eE][+-]?\d++)?|Inf|NaN))(?:[ \t]++-?\d++)?[ \t]*+""",
    re.IGNORECASE | re.ASCII,
)
_LABEL = re.compile(r"""[ \t]*+([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*+=[ \t]*+"((?:[^"\\]++|\\.)*+)"[ \t]*+(?:,[ \t]*+|$)""", re.ASCII)
_ESCAPED = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}

Labels = tuple[tuple[str, str], ...]


def parse(data: bytes, names: Iterable[str] | None = None) -> dict[str, dict[Labels, float]]:
    """The samples by name and sorted labels; of ``names`` only, the other lines are then not read. Timestamps are left out.

    Raises EngineError for what is not the text format 0.0.4, with the line: too long, unreadable, or a series told twice.
    Reference: Prometheus, Exposition formats; parity with prometheus-client 0.26.
    """
    if len(data) > BYTES:
        raise EngineError(f"/metrics: more than {BYTES >> 20} MiB; this is no page of metrics")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise EngineError(f"/metrics: not UTF-8 at byte {error.start}; expected the text format of Prometheus") from None
    wanted = None if names is None else frozenset(names)
    found: dict[str, dict[Labels, float]] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        line = line.strip(" \t\r")
        if not line or line[0] == "#":
            continue
        name = _NAME.match(line)
        if wanted is not None and name and name[0] not in wanted:
            continue
        sample = _SAMPLE.fullmatch(line) if len(line) <= _LINE else None
        if sample is None:
            raise EngineError(f'/metrics, line {number}: {line[:80]!r}, expected NAME{{LABEL="..."}} NUMBER')
        series, labels = found.setdefault(sample[1], {}), _labels(sample[2] or "", number)
        if labels in series:
            raise EngineError(f"/metrics, line {number}: {sample[1]} with the same labels stands there twice")
        series[labels] = float(sample[3])
    return found


def _labels(text: str, number: int) -> Labels:
    found: dict[str, str] = {}
    at = 0
    while at < len(text.rstrip(" \t")):
        label = _LABEL.match(text, at)
        if label is None or label[1] in found:
            raise EngineError(f'/metrics, line {number}: labels {text[:80]!r}, expected NAME="..." each once, with commas between')
        found[label[1]] = re.sub(r"\\[\\\"n]", lambda escaped: _ESCAPED[escaped[0]], label[2])
        at = label.end()
    return tuple(sorted(found.items()))
