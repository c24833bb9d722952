"""``python -m harness golden``: a golden set out of a file of one's own, whether all of them still are what was approved, one shown."""

from __future__ import annotations

import argparse
import getpass
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import GoldenError, HarnessError

__all__ = ["add_parser", "approver", "columns", "described"]

_ANSWERED = ("answers", "json_extraction", "code", "multiple_choice")

_HELP = """what a file may hold, told from its columns (or say it: --kind):
  answers           prompt, target            a question and its answer: a text, a number, or a list of accepted ones
  json_extraction   input, target             target is an object of texts; --prompt says how it is asked
  multiple_choice   question, choices, answer answer is the place of the right choice, counted from 0
  code              prompt, tests, entry_point
  documents         text                      (for perplexity)          refusals   prompt   (for requests to refuse)
  Other names of columns: --field prompt=Frage --field target=Antwort. In CSV the cells of choices and objects hold JSON.

exit status:
  0  added; all sets are what was approved
  1  a row cannot be used (the line is named, nothing is written); a set differs from its manifest

examples:
  python -m harness golden add tickets.jsonl
  python -m harness golden add faq.csv --name faq --field prompt=question --scorer exact --prompt "Answer in one word. {input}"
  python -m harness golden check
  python -m harness golden show tickets
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``golden`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    golden = verbs.add_parser("golden", help="golden sets: make one, check them, show one", formatter_class=shape, epilog=_HELP)
    inner = golden.add_subparsers(title="what to do", required=True, metavar="WHAT")
    add = inner.add_parser("add", help="make a golden set from JSONL, JSON, CSV or TSV", formatter_class=shape, epilog=_HELP)
    add.add_argument("file", type=Path)
    add.add_argument("--name", help="of the set (default: that of the file)")
    add.add_argument("--kind", default="", help="of the set (default: told from the columns)")
    add.add_argument("--field", action="append", default=[], metavar="FIELD=COLUMN", help="the column a field is read from; repeatable")
    add.add_argument("--prompt", default="", metavar="TEXT", help="how an item is asked: a text with {input} in it")
    add.add_argument("--scorer", default="", help="exact, numeric, regex, letter, fields, json, similarity (default: that of the kind)")
    add.add_argument("--source", default="", help="where the items come from (default: the file's name)")
    add.add_argument("--licence", default="", help="an SPDX expression (default LicenseRef-Proprietary: nobody else's to use)")
    add.add_argument("--approved-by", metavar="WHO", help="who read the items (default: git's user.name, or the login)")
    check = inner.add_parser("check", help="is every set, byte for byte, what was approved")
    check.add_argument("name", nargs="*", help="of sets (default: all)")
    show = inner.add_parser("show", help="one set: where it is from, how it is asked, what its n can show")
    show.add_argument("name")
    for parser, verb in ((add, _add), (check, _check), (show, _show)):
        parser.add_argument("--into" if parser is add else "--golden", type=Path, metavar="DIR", dest="folder", help="default: golden")
        parser.set_defaults(verb=verb)


def columns(said: list[str]) -> dict[str, str]:
    """``--field FIELD=COLUMN`` as a mapping; GoldenError for anything else."""
    found = {}
    for text in said:
        name, equals, column = text.partition("=")
        if not (name and equals and column):
            raise GoldenError(f"--field {text!r}: expected FIELD=COLUMN, like target=answer")
        found[name] = column
    return found


def approver() -> str:
    """Who stands behind a set if nobody is named: git's user, else the login, else nobody that is known."""
    git = shutil.which("git")
    done = subprocess.run([git, "config", "user.name"], capture_output=True, text=True) if git else None
    if done is not None and done.stdout.strip():
        return done.stdout.strip()
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without users
        return "not named"


def _add(args: argparse.Namespace) -> int:
    from harness.starter import files, sets

    name = args.name or files.word(args.file.stem)
    made = sets.make(
        args.file, name, kind=args.kind, columns=columns(args.field), prompt=args.prompt, scorer=args.scorer, source=args.source,
        licence=args.licence, approved_by=args.approved_by or approver(),
    )  # fmt: skip
    folder = args.folder or _folder()
    written = sets.add(made, folder)
    if not written:
        print(f"{folder / made.file}: stands there already, to the byte")
    for path, data in written.items():
        files.replace(path, data)
        print(path)
    if made.left_out:
        print(f"left out: {', '.join(made.left_out)} (no field of kind {made.kind})")
    return _show_set(name, folder)


def _check(args: argparse.Namespace) -> int:
    from harness import golden

    folder = args.folder or _folder()
    names = args.name or golden.names(folder)
    if not names:
        raise GoldenError(f"{folder / 'manifest.toml'}: names no golden set; make one with: python -m harness golden add FILE.jsonl")
    wrong = 0
    for name in names:
        try:
            found = golden.load(name, folder)
            _scorer(found)
            print(f"ok       {name}: {found.n} items, {found.kind}, sha256 {found.digest[:16]}")
        except HarnessError as error:
            wrong += 1
            print(f"refused  {name}: {error}")
    known = {str(golden.manifest_entry(name, folder)["file"]) for name in golden.names(folder) if name not in _broken(folder)}
    for path in sorted((folder / "sets").glob("*.jsonl")) if not args.name else ():
        if path.relative_to(folder).as_posix() not in known:
            wrong += 1
            print(f"refused  {path}: in no manifest, so nothing reads it; add it with: python -m harness golden add, or take it away")
    return 1 if wrong else 0


def _broken(folder: Path) -> set[str]:
    """Sets whose entry cannot be read; each was refused by name before."""
    from harness import golden

    found = set()
    for name in golden.names(folder):
        try:
            golden.manifest_entry(name, folder)
        except GoldenError:
            found.add(name)
    return found


def _show(args: argparse.Namespace) -> int:
    return _show_set(args.name, args.folder or _folder())


def _show_set(name: str, folder: Path) -> int:
    from harness import golden
    from harness.starter import sets

    found = golden.load(name, folder)
    said = golden.manifest_entry(name, folder)
    print("\n".join(described(found)))
    print(f"  licence {found.licence}; source {found.source}; approved by {said['approved_by']}")
    for line in sets.shows(found.n) if found.kind in (*_ANSWERED, "refusals") else ():  # some take seconds
        print(f"  {line}", flush=True)
    return 0


def described(found: Any) -> list[str]:
    """How many items a golden set holds, how they are scored, and the first of them as a model meets it."""
    scorer = _scorer(found)
    head = f"{found.name}: {found.n} items, {found.kind}{f', scored by {scorer}' if scorer else ''}; sha256 {found.digest[:16]}"
    return [head, *(f"  {line}" for line in _asked(found))]


def _asked(found: Any) -> list[str]:
    """The first item as a model meets it, and what is expected; none for kinds that are not asked."""
    from harness import evals

    item: Mapping[str, Any] = found.items[0]
    if found.kind in ("answers", "json_extraction", "code"):
        asked, right = evals.question(found, item), item.get("target", item.get("entry_point"))
    elif found.kind == "multiple_choice":
        asked, right = item["question"], item["choices"][item["answer"]]
    else:
        return []
    return [f"asked   {_short(asked)}", f"right   {_short(right)}"]


def _short(value: Any) -> str:
    """One line without control characters: an item may hold anything."""
    shown = repr(value)
    return shown if len(shown) <= 120 else f"{shown[:117]}..."


def _scorer(found: Any) -> str:
    """The name of a set's scorer, with every item's own checked; "" for kinds that have none."""
    from harness.evals import scorers

    if found.kind not in _ANSWERED:
        return ""
    scorers.digest(found)
    return scorers.of_set(found).name


def _folder() -> Path:
    """The golden sets of the project in the current folder: where its lifecycle file says, else ``golden``."""
    from harness import config

    path = config.default_path(Path.cwd())
    return config.load(path).golden if path.is_file() else Path("golden")
