"""``python -m harness defend REPORT``: what a report claims, measured again by whoever doubts it."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, HarnessError

if TYPE_CHECKING:
    from harness.defence.defending import Asked

__all__ = ["add_parser"]

_HELP = """what it does:
  derive    recheck first: a report that does not follow from its own rows is refused, and nothing is measured
  clone     this repository at the report's commit, into a folder of its own: the code that measures is the code it names. It is
            run, so defend only what you would run
  measure   pytest there, on the claims of the report. No answer, score or load that was kept before is used; models are, by their
            digests, unless --fresh makes them again too
  beside    each claim old beside new, with all flips of its rows

what it comes to, claim by claim:
  agrees                              the same verdict, and each estimate inside the other's interval; exact numbers the same
  differs within explainable variance flips of the very same subject within the limit that R3 declared for the set, going both ways
                                      (exact McNemar), and estimates no further apart than their intervals explain
  contradicts                         anything else: an opposite verdict, a claim bounded otherwise, rows left out, a loss that goes one
                                      way. All tests of all claims together err at most at --alpha (Holm)
  not rerun                           and why: no GPU, a load on another machine, cut short

what is written, into --out and never into the report: defence.html, defence.json.

exit status:
  0  something was measured again, nothing contradicts, nothing was cut short
  1  something contradicts, or the report does not derive again, or the defence was cut short
  2  the command line was wrong

examples:
  python -m harness defend reports/example --only data
  python -m harness defend reports/example --only R3.noise[addresses] --only E1 --keep ./defence     goes on where it was cut short
  python -m harness defend reports/example --keep ./defence --fresh --seal 3f2a...                   everything, models too
  python -m harness defend reports/20261122T030000Z-full-1a2b3c --here                               with the present tree
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``defend`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("defend", help="measure what a report claims again, old beside new", formatter_class=shape, epilog=_HELP)
    parser.add_argument("report", type=Path, metavar="REPORT", help="the folder of a finished run, like reports/example")
    parser.add_argument(
        "--only", action="append", default=[], metavar="STAGE or CLAIM", help="data, or claims that begin so: E1; repeatable"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where defence.html and defence.json go (default: KEEP/out, or ./defence-NAME)"
    )
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep clone and measurements here; the same command goes on with them")
    parser.add_argument("--seal", help="the seal you were told; a report sealed anew is then refused")
    parser.add_argument("--repo", type=Path, metavar="DIR", help="the repository (default: the one that the report lies in)")
    parser.add_argument("--commit", default="", metavar="NAME", help="measure with this commit, where the report names none")
    parser.add_argument("--here", action="store_true", help="measure with the present tree instead of a clone")
    parser.add_argument("--fresh", action="store_true", help="make models again too, which takes hours")
    parser.add_argument("--loads", action="store_true", help="measure speeds and loads again although this is another machine")
    parser.add_argument("--alpha", type=float, default=0.05, help="chance that variance is taken for a contradiction (default .05)")
    parser.add_argument("--store", type=Path, metavar="DIR", help="where models may be linked from (default: $HARNESS_STORE or the cache)")
    parser.add_argument("--lifecycle", default="", metavar="FILE", help="inside the tree (default: the one that the report names)")
    parser.add_argument(
        "--subject", action="append", default=[], metavar="NAME=SCHEME:WHERE", help="as the report was made with; repeatable"
    )
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FILE", help="as the report was made with; repeatable")
    parser.set_defaults(verb=_defend)


def _defend(args: argparse.Namespace) -> int:
    from harness import evidence
    from harness.defence import page
    from harness.defence.defending import Asked
    from harness.store import default_root

    if not 0 < args.alpha < 0.5:
        raise ConfigError(f"--alpha {args.alpha:g}: expected 0 < alpha < 0.5")
    out = _out(args)
    with _terminable(), _kept(args.keep) as keep:
        asked = Asked(
            args.report, keep, (args.store or default_root()).absolute(), tuple(args.only), args.repo, args.commit, args.here, args.fresh,
            args.loads, args.lifecycle, tuple(args.subject), tuple(args.data), args.seal, args.alpha,
        )  # fmt: skip
        record = _defended(asked)
    evidence.write_atomic(out / "defence.json", evidence.canonical(record))
    evidence.write_atomic(out / "defence.html", page.render(record).encode("utf-8", "backslashreplace"))
    for line in page.lines(record):
        print(line)
    print(f"defence  {out / 'defence.html'}")
    return 0 if record["stands"] else 1


def _defended(asked: Asked) -> dict[str, Any]:
    from harness.defence.defending import defend
    from harness.progress import to_terminal

    try:
        return defend(asked, _say, to_terminal())
    except OSError as error:
        if isinstance(error, HarnessError):
            raise
        raise HarnessError(f"the defence cannot go on: {error}. What was measured lies in {asked.keep}; with --keep it is kept") from error


def _say(line: str) -> None:
    if sys.stderr.isatty():  # over the line that shows how far it is
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    print(line, flush=True)


def _out(args: argparse.Namespace) -> Path:
    """Where the outcome goes: beside the measurements that are kept, or into the folder one stands in; never into the report."""
    found: Path = args.out or (args.keep / "out" if args.keep else Path(f"defence-{args.report.resolve().name}"))
    for option, folder in (("--out", found), ("--keep", args.keep or found)):
        if args.report.resolve() in (folder.resolve(), *folder.resolve().parents):
            raise ConfigError(f"{option} {folder}: lies in the report, which is evidence and stays as it is; name another folder")
    return found


@contextlib.contextmanager
def _kept(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="defence-", ignore_cleanup_errors=True) as made:
        yield Path(made)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: pytest is ended with its servers, and what it found stays."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
