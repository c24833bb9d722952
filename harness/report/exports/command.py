"""``python -m harness export RUN``: a run for other tools. Only a run that is derived again first is exported."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import EvidenceError
from harness.report.text import one_line

if TYPE_CHECKING:
    from harness.report import exports

__all__ = ["add_parser"]

USAGE = 2

_HELP = """what is written, each on its own or all at once:
  --ctrf      Common Test Report Format: a test for each claim, for dashboards and bots of forges
  --junit     JUnit XML with each claim's estimate, interval, n and the run's seal as properties
              (pytest --junitxml writes the same while it runs, with the plan's digest where the seal is not made yet)
  --in-toto   in-toto Statement v1, predicate test-result/v0.1: subjects are the artifacts and datasets by their SHA-256; sign it
              with what your forge has, like cosign attest-blob
  --sarif     what the data claims found, for code scanning and editors
  --card      a model card of the build that the report recommends, or of --of NAME: Markdown with the front matter that hubs read.
              Each number stands beside its evidence; before it is written it is read again and held against it
  --check-card FILE.md   reads a card that somebody gave you, and names each number that its evidence does not say, each claim
              that was left out, each section that is missing; nothing is written

Before anything is written every verdict is derived again from its raw rows, as python -m harness recheck does: seconds to a
minute. A run in which a byte was changed is refused, and nothing is written. The same run gives the same bytes.

What holds is passed, what makes a run end with status 1 or 8 is failed. What stops nothing, like a known failure or a claim that
smoke left open, is never called passed: "other" in CTRF, "skipped" in JUnit, "warned" in in-toto.

exit status:
  0  written
  1  the run does not recheck, a file could not be written, or the card says what the evidence does not
  2  the command line is wrong

examples:
  python -m harness export reports/example --ctrf ctrf.json --junit junit.xml
  python -m harness export reports/20261121T120000Z-full-1a2b3c --in-toto statement.json --sarif data.sarif
  python -m harness export reports/example --card README.md --of gguf-q8_0
  python -m harness export reports/example --check-card README.md
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``export`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("export", help="a run for other tools, and its model card", formatter_class=shape, epilog=_HELP)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a finished run")
    parser.add_argument("--ctrf", type=Path, metavar="FILE.json", help="Common Test Report Format")
    parser.add_argument("--junit", type=Path, metavar="FILE.xml", help="JUnit XML with properties")
    parser.add_argument("--in-toto", type=Path, metavar="FILE.json", dest="in_toto", help="in-toto test-result statement, unsigned")
    parser.add_argument("--sarif", type=Path, metavar="FILE.sarif", help="findings in the data")
    parser.add_argument("--card", type=Path, metavar="FILE.md", help="a model card")
    parser.add_argument("--of", metavar="NAME", help="whose card (default: the build that the report recommends)")
    parser.add_argument("--check-card", type=Path, metavar="FILE.md", dest="check_card", help="hold a card against the evidence")
    parser.set_defaults(verb=_export)


def _export(args: argparse.Namespace) -> int:
    from harness.report import exports

    forms: Mapping[str, Callable[[exports.Bundle], bytes]] = {
        "ctrf": exports.ctrf, "junit": exports.junit, "in_toto": exports.in_toto, "sarif": exports.sarif,
        "card": lambda bundle: exports.card(bundle, exports.chosen(bundle, args.of)),
    }  # fmt: skip
    wanted: dict[str, Path] = {name: path for name in forms if (path := getattr(args, name)) is not None}
    if problem := _wrong(args, list(wanted.values())):
        print(f"error: export: {problem}", file=sys.stderr)
        return USAGE
    bundle = exports.opened(args.run)
    made = {path: forms[name](bundle) for name, path in wanted.items()}  # all of them before the first is written
    for path, data in made.items():
        _write(path, data)
        print(path)
    return _check_card(bundle, args.check_card) if args.check_card else 0


def _check_card(bundle: exports.Bundle, path: Path) -> int:
    """One line for each thing that the card says and the evidence does not."""
    from harness.report import exports

    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise EvidenceError(f"cannot read the card {path}: {error}; expected Markdown in UTF-8") from error
    found = exports.read(bundle, text)
    wrong = [one for one in found if not one.equal]
    for one in wrong:
        print(f"DIFFERS  {one_line(one.item)}: the card says {one_line(one.shown) or 'nothing'}, the evidence {one_line(one.expected)}")
    print(f"{path}: {len(found) - len(wrong)} of {len(found)} things in it are what the evidence says; {len(wrong)} differ")
    return 1 if wrong else 0


def _wrong(args: argparse.Namespace, files: list[Path]) -> str:
    """What is wrong with the command line, "" for nothing."""
    run: Path = args.run
    if not files and not args.check_card:
        return "nothing is asked for; name a file for at least one of --ctrf, --junit, --in-toto, --sarif, --card"
    if args.of and not args.card:
        return "--of says whose card is to be written; name its file with --card"
    if len({path.absolute() for path in files}) < len(files):
        return "two forms are to be written into one file; name one for each"
    inside = [path for path in files if run.resolve() in path.resolve().parents]
    return f"{inside[0]} lies in the run itself, whose seal it would break; name a place outside {run}" if inside else ""


def _write(path: Path, data: bytes) -> None:
    """Writes beside ``path`` and moves there: whoever reads gets the old file or the new one."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
        os.chmod(name, 0o644)  # mkstemp makes it private
        os.replace(name, path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise EvidenceError(f"cannot write {path}: {error}; make room or name another place") from error
