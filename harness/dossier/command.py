"""``python -m harness dossier``: from a failing test to a reproduction, the change that brought it, and a test that stays."""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.dossier.search import Search

__all__ = ["add_parser", "investigate"]

OK, RED, USAGE = 0, 1, 2

_HELP = """what is searched (one of these):
  --good COMMIT --bad COMMIT           the first bad commit, then which hunks of it
  --good-config FILE --bad-config FILE  the settings that make the difference (TOML, JSON)
  --flags='FLAGS'                      the flags that are needed, of those behind {flags} in the command
  --items FILE                         the lines that are needed, of a file that the command reads at {items}

the test (one of these):
  --test 'tests/test_x.py::test_y'     pytest's failures count; errors in setup or collection, skips and inconclusive claims cannot tell
  --command 'python check.py {config}'  exit status 0 is well, 125 to 127 cannot tell, anything else is the defect. No shell reads it

how it goes:
  ends      both ends are run first: the bad one must fail, the good one must not. How the bad end fails (exit status, exception) is what is
            looked for: a run that fails in another way says nothing. Where the runs of an end differ, or with --flaky, both rates are
            learnt, and everything after is run as often as --error asks for
  bisect    commits are run in worktrees of a clone in a temporary folder; your repository is never written. The test file is
            put into each of them as it is now (--carry puts in more). What a merge brought is looked for on its branch
  minimal   delta debugging (ddmin): no flag, setting, line or hunk is left that could be left out
  proof     DO1 it fails before the fix and passes after; DO2 parent good, commit bad, without it good; DO3 minimal;
            DO4 a regression test, which fails on the broken side and passes on the other: each run once more, after the search

what is left in --out:
  dossier.md, dossier.html, repro.sh, test_regression.py, dossier.json (every step), runs.jsonl (every run: a search that was
  interrupted goes on with the same command line; a finished run is not made again)

exit status:
  0  found, and all of it proven
  1  not: the bad end passes, the good end fails too, something is unproven, a run could not tell; dossier.md says which
  2  the command line is wrong; nothing was run

examples:
  python -m harness dossier --test tests/test_price.py::test_total --good v1.4 --bad HEAD
  python -m harness dossier --command 'python check.py' --good v1.4 --bad HEAD --fix main --flaky
  python -m harness dossier --command 'python check.py {config}' --good-config prod.toml --bad-config canary.toml
  python -m harness dossier --command 'python check.py {items}' --items answers.jsonl
  python -m harness dossier --command 'python -m harness.serve.parity --engine llamacpp --model m.gguf --reference ./m -- {flags}' \\
      --flags='--ctx-size 4096 --rope-scaling linear --rope-freq-scale .8'
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``dossier`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("dossier", help="reproduce, bisect and prove a defect", formatter_class=shape, epilog=_HELP)
    asked = parser.add_argument_group("the test")
    asked.add_argument("--test", default="", metavar="NODE", help="a pytest node id, with more arguments for pytest if need be")
    asked.add_argument("--command", default="", metavar="ARGV", help="a command, split as a shell would")
    asked.add_argument("--message", default="", metavar="REGEX", help="only a failure with this in the end of its output counts")
    asked.add_argument("--limit", type=float, default=600.0, metavar="S", help="a run that takes longer cannot tell (default 600)")
    where = parser.add_argument_group("what is searched")
    where.add_argument("--good", default="", metavar="COMMIT", help="where the test passes")
    where.add_argument("--bad", default="", metavar="COMMIT", help="where it fails (default: HEAD)")
    where.add_argument("--fix", default="", metavar="COMMIT", help="where it is mended, if anywhere: else the commit is taken back")
    where.add_argument(
        "--carry", type=Path, action="append", default=[], metavar="FILE", help="put into each commit as it is now; repeatable"
    )
    where.add_argument("--whole-commit", action="store_true", help="do not look which hunks of the commit are needed")
    where.add_argument("--good-config", type=Path, metavar="FILE", help="a configuration that works")
    where.add_argument("--bad-config", type=Path, metavar="FILE", help="one that does not")
    where.add_argument("--flags", metavar="FLAGS", help="flags of a command that fails; without any of them it passes")
    where.add_argument("--items", type=Path, metavar="FILE", help="a file of lines; with none of them the command passes")
    how = parser.add_argument_group("how surely")
    how.add_argument("--flaky", action="store_true", help="the test fails now and then only")
    how.add_argument("--checks", type=int, default=2, metavar="N", help="runs of each end, to see whether they agree (default 2)")
    how.add_argument("--error", type=float, default=0.05, help="of a flaky test: probability that any answer is wrong (default .05)")
    parser.add_argument("--out", type=Path, default=Path("dossier"), metavar="DIR", help="where the dossier goes (default: ./dossier)")
    parser.set_defaults(verb=_dossier)


def _dossier(args: argparse.Namespace) -> int:
    from harness.dossier import pages

    try:
        with _terminable():
            record = investigate(args, lambda text: print(text, flush=True))
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"error: {error}\nwhat was run is kept where it could be written; free space, or name another --out", file=sys.stderr)
        return RED
    print()
    for line in pages.lines(record):
        print(line)
    print(f"  {args.out / 'dossier.md'}")
    return OK if record["outcome"] == "found" else RED


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: the command that runs is killed, the worktrees are taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def investigate(args: argparse.Namespace, say: Any = lambda text: None, cwd: Path | None = None) -> Mapping[str, Any]:
    """The record of the dossier that a command line asks for, written to ``args.out``.

    ConfigError where the command line is wrong: nothing was run then. EvidenceError where the folder cannot be written.
    """
    from harness import __version__, provenance
    from harness.dossier import pages
    from harness.dossier.questions import Asked
    from harness.dossier.runs import Book
    from harness.dossier.search import Ended, Search
    from harness.evidence import canonical, write_atomic

    where = (cwd or Path.cwd()).absolute()
    _check(args)
    test = Asked.of(args.command, args.test, args.limit)
    asked = _asked(args)
    out = _room(args.out, asked)
    book = Book(out / "runs.jsonl")
    search = Search(book, args.error, args.checks, args.flaky, args.message, say)
    began = time.monotonic()
    try:
        found: dict[str, Any] = _found(args, test, search, where, out)
        unproven = [name for name, proof in found["proofs"].items() if not proof["holds"]]
        outcome, sentence = "not_shown" if unproven else "found", _sentence(found["found"], search.failure)
        if unproven:
            hint = "; if a run may lie, say --flaky" if search.rates.certain else ""
            sentence += f". Not proven: {', '.join(unproven)}{hint}"
    except Ended as end:
        found, outcome, sentence = {}, end.outcome, end.sentence
    record = {
        "schema": 1, "harness": __version__, "machine": provenance.machine(), "asked": asked, "outcome": outcome, "sentence": sentence,
        "failure": search.failure, "ends": search.ends, "error": args.error, "rates": _rates(search), "steps": search.steps,
        "runs": book.made + book.reused, "reused": book.reused, "seconds": round(time.monotonic() - began, 1), **found,
    }  # fmt: skip
    write_atomic(out / "dossier.json", canonical(record))
    pages.write(record, out)
    return record


def _check(args: argparse.Namespace) -> None:
    modes = {
        "--good": bool(args.good or args.bad or args.fix),
        "--good-config": args.good_config is not None or args.bad_config is not None,
        "--flags": args.flags is not None,
        "--items": args.items is not None,
    }
    given = [name for name, there in modes.items() if there]
    if len(given) != 1:
        raise ConfigError(f"one of --good, --good-config, --flags and --items says what is searched; given: {', '.join(given) or 'none'}")
    if given == ["--good"] and not args.good:
        raise ConfigError("--good is missing: name a commit where the test passes")
    if given == ["--good-config"] and None in (args.good_config, args.bad_config):
        raise ConfigError("--good-config and --bad-config: both are needed")
    if given != ["--good"] and (args.carry or args.whole_commit):
        raise ConfigError("--carry and --whole-commit are about commits: give --good and --bad")
    if not 0 < args.error < 0.5:
        raise ConfigError(f"--error {args.error:g}: expected a probability above 0 and below .5")
    if args.checks < 1:
        raise ConfigError(f"--checks {args.checks}: expected at least 1")
    try:
        re.compile(args.message)
    except re.error as error:
        raise ConfigError(f"--message {args.message!r}: {error}") from None


def _asked(args: argparse.Namespace) -> dict[str, Any]:
    """What the command line asks, as it stands in the record."""
    names = (
        "test", "command", "message", "limit", "good", "bad", "fix", "whole_commit", "good_config", "bad_config", "flags", "items",
        "flaky", "checks", "error",
    )  # fmt: skip
    told = {name: getattr(args, name) for name in names}
    return {**{name: str(value) if isinstance(value, Path) else value for name, value in told.items()}, "carry": list(map(str, args.carry))}


def _room(out: Path, asked: dict[str, Any]) -> Path:
    """The folder, new or of the same question. ConfigError for any other."""
    path = out.absolute()
    told = path / "asked.json"
    text = json.dumps(asked, sort_keys=True, indent=1) + "\n"
    try:
        if told.is_file() and told.read_text(encoding="utf-8") == text:
            return path
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise ConfigError(f"--out {out}: holds something else than a dossier of this question; name a new folder")
        path.mkdir(parents=True, exist_ok=True)
        told.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from None
    return path


def _found(args: argparse.Namespace, test: Any, search: Search, where: Path, out: Path) -> dict[str, Any]:
    from harness.dossier import questions

    if args.flags is not None:
        return search.pieces(questions.flags(test, where, args.flags), out)
    if args.items is not None:
        return search.pieces(questions.items(test, where, where / args.items), out)
    if args.good_config is not None:
        return search.pieces(questions.options(test, where, where / args.good_config, where / args.bad_config), out)
    return _commits(args, test, search, where, out)


def _commits(args: argparse.Namespace, test: Any, search: Search, where: Path, out: Path) -> dict[str, Any]:
    from harness.dossier.places import Worktrees
    from harness.dossier.search import History
    from harness.evidence import write_atomic

    with Worktrees(where) as trees:
        carried = _carried(args, test, where, trees.repository)
        if trees.changed():
            search.say("note: files that were changed since HEAD are not looked at: commits are (--carry puts in a file as it is now)")
        for name, data in carried.items():
            write_atomic(out / "carried" / name, data)
        fix = trees.resolve(args.fix) if args.fix else None
        history = History(test, trees, trees.resolve(args.good), trees.resolve(args.bad or "HEAD"), fix, carried)
        return search.commits(history, out, args.whole_commit)


def _carried(args: argparse.Namespace, test: Any, where: Path, repository: Path) -> dict[str, bytes]:
    """The test's own file, and what --carry names, as they are now."""
    files = [(where / path).resolve() for path in args.carry]
    if test.pytest:
        own = (where / test.argv[0].partition("::")[0]).resolve()
        files += [own] if own.is_file() else []
    found = {}
    for path in dict.fromkeys(files):
        try:
            found[path.relative_to(repository.resolve()).as_posix()] = path.read_bytes()
        except ValueError:
            raise ConfigError(f"{path}: lies outside {repository}; what is put into a commit must have a place in it") from None
        except OSError as error:
            raise ConfigError(f"--carry {path}: cannot be read ({error.strerror})") from None
    return found


def _rates(search: Search) -> dict[str, Any] | None:
    if search.rates.good is None or search.rates.bad is None:
        return None
    return {"good": search.rates.good._asdict(), "bad": search.rates.bad._asdict()}


def _sentence(found: Mapping[str, Any], failure: str) -> str:
    """What was found, in words."""
    if found["kind"] != "commits":
        pieces = "; ".join(found["pieces"]) or "none of them"
        return f"{len(found['pieces'])} of {found['of']} {found['kind']} are needed for it to fail ({failure}): {pieces}"
    commit, others = found["commit"], found["or_else"]
    named = f"{commit['id'][:12]} {commit['subject']!r}"
    range_ = f" or one of {len(others)} just before it that cannot be run" if others else ""
    lines = f", by {', '.join(found['hunks'])}" if found.get("hunks") else ""
    sure = f" (probability {found['sure']:.3f})" if found["sure"] < 1 - 1e-6 else ""
    return f"first bad of {found['of']} commits{sure}: {named}{range_}{lines}; it fails as: {failure}"
