"""``reports/data/README.md``: what the audit costs and finds at scale, out of the files that were measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["render", "write"]

HEAD = """# The audit, at scale

Made by `python -m suites.selftest.audit.at_scale page` from the files beside it, which the other commands of that program
measured. Two shared cores; times are of one run and of whole processes, from the first import to the last byte; quote ratios.
The corpus is the chat rows of the package `evals` 3.0.1.post1 (MIT): 938,548 real conversations, 675 MB, with defects that
nobody here put in.
"""

# What the specification counted in the corpus by other means, and where ours stands.
NATURAL = (
    ("equal conversations", "142,150", "duplicates.exact"),
    ("prompts' rows with conflicting answers", "83,706", "conflicts.conflict"),
    ("rows without an assistant's answer", "1,212", "schema.no_answer"),
    ("system messages that are not first", "55,034", "schema.system_not_first"),
    ("messages with nothing in them", "32 rows", "schema.empty_message"),
)


def write(folder: Path) -> None:
    """Renders the page into the folder of the measurements."""
    (folder / "README.md").write_text(render(folder), "utf-8")


def render(folder: Path) -> str:
    """The page; a part whose file is not there is left out."""
    parts = {
        "full": _full, "rows": _rows, "again": _again, "engines": _engines, "planted": _planted, "hostile": _hostile,
    }  # fmt: skip
    text = [HEAD]
    for name, part in parts.items():
        file = folder / f"{name}.json"
        if file.is_file():
            text += ["", *part(json.loads(file.read_text("utf-8")))]
    for name, title in PRINTED.items():
        file = folder / f"{name}.txt"
        if file.is_file():
            text += ["", f"## {title}", "", "```text", file.read_text("utf-8").rstrip(), "```"]
    return "\n".join(text) + "\n"


PRINTED = {
    "near": "Near duplicates beside the approximate tools, in one run",
    "private": "Personal data beside other tools, on the same sentences",
    "killed": "Killed and resumed",
}


def _table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for line in lines:
        yield "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |"


def _cost(run: Mapping[str, Any]) -> tuple[Any, ...]:
    return run["rows"], run["seconds"], run["cpu_seconds"], run["peak_mb"]["together"]


COST = ("rows", "seconds", "processor-seconds", "peak, MB, all processes together")


def _full(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## The whole corpus"
    yield ""
    yield from _table(("", *COST), ((name, *_cost(run)) for name, run in runs.items()))
    first = next(iter(runs.values()))
    yield ""
    yield f"{first['distinct']:,} of {first['rows']:,} rows are different by their bytes; they hold {first['texts']:,} different texts."
    yield ""
    yield from _table(
        ("natural defects", "specification", "found"), ((what, said, first["kinds"].get(kind, 0)) for what, said, kind in NATURAL)
    )
    yield ""
    yield (
        "Conflicts: the specification took the last message of any role for the answer and compared bytes; here rows without an "
        "answer are left out, and answers that differ in form alone are a kind of their own. Empty: 51 messages in 37 rows, of "
        "which five hold nothing but control characters."
    )
    yield ""
    yield "Findings of every kind:"
    yield ""
    last = list(runs.values())[-1]
    yield from _table(("check.kind", "findings"), last["kinds"].items())


def _rows(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield "## Cost a row"
    yield ""
    lines = ((*_cost(run), f"{1e6 * run['cpu_seconds'] / run['rows']:.0f}") for run in runs)
    yield from _table((*COST, "processor-microseconds a row"), lines)
    yield ""
    yield "One process. Small files carry the start: imports, tables, patterns."


def _again(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## One per cent of the rows changed"
    yield ""
    kinds = ("full", "unchanged", "one per cent changed", "the same, from nothing")
    whole = runs["the same, from nothing"]["seconds"]
    lines = ((name, *_cost(runs[name]), f"{runs[name]['seconds'] / whole:.0%}", runs[name]["digest"][:12]) for name in kinds)
    yield from _table(("", *COST, "of a full audit", "digest of all findings"), lines)
    yield ""
    edits = ", ".join(f"{count:,} {what}" for what, count in runs["edits"].items())
    yield f"Rows: {edits}."


def _engines(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## One process, several, Ray"
    yield ""
    yield from _table(
        ("engine, workers", *COST, "digest of all findings"), ((name, *_cost(run), run["digest"][:12]) for name, run in runs.items())
    )
    yield ""
    yield "A tenth of the corpus. Ray on two cores is slow to start and shuffles through its object store; it is there for clusters."


def _planted(run: Mapping[str, Any]) -> Iterator[str]:
    yield "## Planted defects: .01 % of every kind"
    yield ""
    yield from _table(("kind", "planted", "found"), ((kind, n["planted"], n["found"]) for kind, n in run["kinds"].items()))
    yield ""
    planted, found = (sum(n[key] for n in run["kinds"].values()) for key in ("planted", "found"))
    alarms = run["false_alarms"]
    rate = 1e4 * alarms / run["rows"]
    yield f"{found:,} of {planted:,} found in {run['rows']:,} rows; {alarms} false alarms ({rate:.3f} in 10,000 rows)."
    yield ""
    yield "Not planted: " + "; ".join(f"{kind}: {why}" for kind, why in run["left_out"].items()) + "."


def _hostile(runs: Mapping[str, Any]) -> Iterator[str]:
    yield "## Inputs made to break it"
    yield ""
    yield from _table(("", *COST, "MB"), ((name, *_cost(run), run["bytes"] // 10**6) for name, run in runs.items()))
