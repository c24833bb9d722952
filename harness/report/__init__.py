"""What a run shows: a line per claim on the terminal, ``summary.md`` and ``report.html``.

Standard library only. Renders, never decides: every number comes out of the run folder, and the
same folder gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["line", "release_line", "write"]


def line(record: Mapping[str, Any]) -> str:
    """One terminal line for an evidence record: outcome, claim, estimate [low, high], n; why, if it does not hold."""
    from harness.report import text, view

    claim = view.of_record(record)
    parts = [f"{text.one_line(claim.outcome, 15):<15}{text.one_line(claim.id)}"]
    if claim.estimate is not None:
        parts.append(f"{text.number(claim.estimate)} {text.span(claim.low, claim.high)}".rstrip())
    if claim.n:
        parts.append(f"n = {claim.n}")
    if claim.outcome != "holds" and claim.why:
        parts.append(text.one_line(claim.why))  # the numbers stand before it already
    return "  ".join(parts)


def release_line(build: str, said: Mapping[str, Any]) -> str:
    """One terminal line for the release verdict of a build: outcome, and what each family of claims came to."""
    from harness.report import text

    return f"{text.one_line(said['outcome'], 15):<15}release {text.one_line(build)}  {text.one_line(said['sentence'], 300)}"


def write(run: Path) -> None:
    """Writes ``summary.md`` and ``report.html`` into the run folder. Raises EvidenceError if it cannot."""
    from harness import evidence
    from harness.report import html, markdown, view

    seen = view.load(run)
    evidence.write_atomic(run / "summary.md", markdown.render(seen).encode("utf-8", "backslashreplace"))
    evidence.write_atomic(run / "report.html", html.render(seen).encode("utf-8", "backslashreplace"))
