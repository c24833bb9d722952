"""``python -m harness history``: claims over many runs, where they changed, and which are flaky by evidence."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import evidence
from harness.errors import HarnessError
from harness.history import flaky, index, page, trends
from harness.history.reading import Seen
from harness.progress import to_terminal
from harness.store import default_root

__all__ = ["add_parser"]

_HELP = """Evidence is the database: sealed runs of tier full and of the newest one's lifecycle; of a claim those that asked the same
golden sets. Runs that may not stand beside the rest (broken seal, smoke, unfinished, a clock that went backwards) are left out, by
name. An index in the cache folder spares reading a run whose files did not change; it is made again from the evidence at any time
(--rebuild), and never believed further.

  changes  a claim's estimates in order of time, split where no random order of them shows a split as strong
  flaky    the same claim, subjects, sets and scorers: another verdict, estimates too far apart, or another exact number

exit status:
  0  done; with --flaky: no claim is flaky
  1  nothing to show, or with --flaky: some are

examples:
  python -m harness history reports/*-full-* --claim Q1.accuracy
  python -m harness history --html history.html --csv history.csv
  python -m harness history --flaky
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``history`` to the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("history", help="claims over many runs, and where they changed", formatter_class=shape, epilog=_HELP)
    parser.add_argument("run", type=Path, nargs="*", help="folders of runs, in any order (default: all under reports/)")
    parser.add_argument("--claim", action="append", default=[], metavar="ID", help="only claims whose id begins so; repeatable")
    parser.add_argument("--alpha", type=float, default=0.05, help="chance of a false alarm among all the claims (default .05)")
    parser.add_argument("--flaky", action="store_true", help="which claims came out differently where nothing they depend on did")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write the trends as one page that stands alone")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write a row per claim and run")
    parser.add_argument("--index", type=Path, metavar="DIR", help="where the index lies (default: $HARNESS_STORE or the cache folder)")
    parser.add_argument("--no-index", action="store_true", help="read each run, and keep nothing")
    parser.add_argument("--rebuild", action="store_true", help="throw the index away first")
    parser.set_defaults(verb=_history)


def _history(args: argparse.Namespace) -> int:
    if not 0 < args.alpha < 0.5:
        raise HarnessError(f"--alpha {args.alpha}: expected 0 < alpha < 0.5")
    runs = args.run or sorted(path.parent for path in Path("reports").glob("*/plan.json"))
    read, notes = index.seen(runs, _index(args), args.claim, to_terminal())
    for note in notes:
        print(note, file=sys.stderr)
    kept, left_out = trends.usable(read)
    if not any(one.said for one in kept):
        why = [f"no claim begins with {', '.join(args.claim)}, in {len(kept)} runs"] if args.claim and kept else left_out or ["no run"]
        raise HarnessError(f"no history: {'; '.join(why)}")
    if args.csv is not None:
        evidence.write_atomic(args.csv, _as_csv(kept).encode("utf-8", "backslashreplace"))
    unsteady, asked = flaky.flaky(kept, args.alpha) if args.flaky or args.html is not None else ([], 0)
    found, otherwise = ([], []) if args.flaky and args.html is None else trends.histories_of(kept, args.claim, args.alpha)
    if args.html is not None:
        made = page.render(kept, found, unsteady, [*left_out, *otherwise], args.alpha)
        evidence.write_atomic(args.html, made.encode("utf-8", "backslashreplace"))
    if args.flaky:
        shown = [*flaky.lines(unsteady, asked, args.alpha), *(f"left out  {text}" for text in left_out)]
    else:
        shown = list(trends.lines(found, [*left_out, *otherwise], args.alpha))
    print("\n".join(shown))
    return 1 if args.flaky and unsteady else 0


def _index(args: argparse.Namespace) -> Path | None:
    where = Path(args.index or default_root()) / index.NAME
    if args.rebuild:
        try:
            index.forget(where)
        except OSError as error:
            raise HarnessError(f"{where}: cannot be thrown away ({error}); remove it, or use --no-index") from error
    return None if args.no_index else where


_COLUMNS = ("run", "finished", "claim", "outcome", "reason", "estimate", "low", "high", "n", "estimand", "metric", "bound", "subjects")


def _as_csv(runs: Sequence[Seen]) -> str:
    """A row per claim and run, oldest first. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for one in runs:
        for s in one.said:
            told = (s.claim, s.outcome, s.reason, s.estimate, s.low, s.high, s.n, s.kind, s.metric, s.bound, s.subjects)
            cells = (one.run.name, one.finished, *told)
            writer.writerow([f"'{cell}" if isinstance(cell, str) and cell[:1] in tuple("=+-@\t\r") else cell for cell in cells])
    return out.getvalue()
