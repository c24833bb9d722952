"""What a run shows: a line per claim on the terminal, ``summary.md`` and ``report.html``.

Standard library only. Renders, never decides: every number comes out of the run folder, and the
same folder gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["differing", "line", "pages", "release_line", "write"]


def line(record: Mapping[str, Any]) -> str:
    """One terminal line for an evidence record: outcome, claim, estimate [low, high], n; why, if it does not hold."""
    from harness.report import text, view

    claim = view.of_record(record)
    parts = [f"{text.one_line(claim.outcome, 15):<15}{text.one_line(claim.id)}"]
    if claim.estimate is not None:
        parts.append(f"{text.number(claim.estimate)} {text.span(claim.low, claim.high)}".rstrip())
    if claim.n:
        failed = record["verdict"].get("n_unusable")  # failed, cut off, or could not be read: counted, never dropped
        parts.append(f"n = {claim.n}" + (f" ({text.number(failed)} unusable)" if failed else ""))
    if claim.outcome != "holds" and claim.why:
        parts.append(text.one_line(claim.why))  # the numbers stand before it already
    return "  ".join(parts)


def release_line(build: str, said: Mapping[str, Any]) -> str:
    """One terminal line for the release verdict of a build: outcome, and what each family of claims came to."""
    from harness.report import text

    return f"{text.one_line(said['outcome'], 15):<15}release {text.one_line(build)}  {text.one_line(said['sentence'], 300)}"


def pages(run: Path) -> dict[str, bytes]:
    """``summary.md`` and ``report.html`` as the files of the run give them. Raises EvidenceError for files that cannot be read."""
    from harness.report import html, markdown, view

    seen = view.load(run)
    made = {"summary.md": markdown.render(seen), "report.html": html.render(seen)}
    return {name: text.encode("utf-8", "backslashreplace") for name, text in made.items()}


def write(run: Path) -> None:
    """Writes the pages into the run folder. Raises EvidenceError if it cannot."""
    from harness import evidence

    for name, data in pages(run).items():
        evidence.write_atomic(run / name, data)


def differing(run: Path) -> list[str]:
    """The pages in the run folder that are not what its other files give, each with the place where it begins to differ."""
    from harness.errors import HarnessError

    there = [name for name in ("summary.md", "report.html") if (run / name).exists()]
    if not there:
        return []  # a load leaves none
    try:
        again = pages(run)
        kept = {name: (run / name).read_bytes() for name in there}
    except (HarnessError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return [f"{run / there[0]}: cannot be rendered again ({type(error).__name__}: {error})"]
    said = "it was edited (take the original), or rendered by another version of harness (python -m harness report renders anew)"
    return [
        f"{run / name}: not what the evidence shows; byte {_first(kept[name], again[name])}; {said}"
        for name in there
        if kept[name] != again[name]
    ]


def _first(kept: bytes, again: bytes) -> str:
    """Where two texts part, and what stands there in each."""
    at = next((i for i, (a, b) in enumerate(zip(kept, again, strict=False)) if a != b), min(len(kept), len(again)))
    shown = (ascii(text[at : at + 24].decode("utf-8", "replace")) for text in (kept, again))
    return f"{at} on it says {next(shown)}, rendered again {next(shown)}"
