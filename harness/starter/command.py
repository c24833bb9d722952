"""``python -m harness init``: the beginning of a project of one's own, in a repository of one's own."""

from __future__ import annotations

import argparse
import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, HarnessError

if TYPE_CHECKING:
    from harness.starter import project, sets

__all__ = ["add_parser"]

_HELP = """what it writes:
  lifecycle.toml            which model is spoken of
  golden/                   the items that a person approved, with their digest
  claims/test_mine.py       a claim of ten lines; claims/test_not_worse.py a second one, beside another model (--against)
  claims/test_slo.py        with --slo: a claim for each limit that is promised of the served model
  claims/requirements.txt   what CI installs
  pytest.ini, .gitignore    unless pytest is configured already; lines that lack
  with --ci                 .github/workflows/claims.yml, or .gitlab/claims.yml
  Nothing that stands there is overwritten, and nothing is asked. Without --model and --golden it is an example that runs at once:
  sixty support tickets, and made-up answers in place of a model.

what a project gets: the plugin with the marker `claim`, the fixtures claim, engine, golden and bench, the options of pytest, and
the library behind them. The suites about the built-in model are not installed.

exit status:
  0  written, or there already
  1  something stands there, or an item cannot be used; nothing was written

examples:
  python -m harness init
  python -m harness init --model hf:./my-model --golden faq.csv --ci github
  python -m harness init eval --model gguf:./new.gguf --against gguf:./old.gguf --golden tickets.jsonl --name tickets-bot
  python -m harness init --model http://127.0.0.1:8000/v1#my-model --golden tickets.jsonl
  python -m harness init --model hf:./my-model --golden tickets.jsonl --slo ttft_p95=2s --rate 2      served by vLLM, loaded
  python -m harness init --ci gitlab                      only the pipeline, where there is a lifecycle.toml
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``init`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    init = verbs.add_parser("init", help="a project of your own", formatter_class=shape, epilog=_HELP)
    init.add_argument("folder", nargs="?", type=Path, default=Path(), metavar="DIR", help="of the project (default: this one)")
    init.add_argument("--name", help="of the project (default: the folder's)")
    init.add_argument(
        "--model", default="", metavar="SCHEME:WHERE", help="hf:FOLDER, gguf:FILE, adapter:LORA+hf:BASE, http://HOST/v1#MODEL"
    )
    init.add_argument("--against", default="", metavar="SCHEME:WHERE", help="the model that it replaces: a claim that nothing is lost")
    init.add_argument("--golden", type=Path, metavar="FILE", help="items with their answers: JSONL, JSON, CSV or TSV")
    init.add_argument("--kind", default="", help="of the items (default: told from the columns; see python -m harness golden --help)")
    init.add_argument("--field", action="append", default=[], metavar="FIELD=COLUMN", help="the column a field is read from; repeatable")
    init.add_argument("--prompt", default="", metavar="TEXT", help="how an item is asked: a text with {input} in it")
    init.add_argument("--scorer", default="", help="how answers are scored (see python -m harness golden --help)")
    init.add_argument("--licence", default="", help="of the items, an SPDX expression (default LicenseRef-Proprietary)")
    init.add_argument(
        "--slo", action="append", default=[], metavar="NAME=LIMIT", help="promised of the served model: ttft_p95=2s; repeatable"
    )
    init.add_argument("--rate", type=float, help="with --slo: at so many requests a second (default 1)")
    init.add_argument("--checkpoint", default="", metavar="hf:FOLDER", help="what a GGUF file was made of, or a server started with")
    init.add_argument("--ci", action="append", default=[], choices=("github", "gitlab"), help="also write its workflow; repeatable")
    init.set_defaults(verb=_init)


def _init(args: argparse.Namespace) -> int:
    try:
        return _begun(args)
    except OSError as error:  # a file or a folder that may not be read
        if isinstance(error, HarnessError | BrokenPipeError):
            raise
        raise ConfigError(f"{error.filename}: {error.strerror}; init reads what stands in the folder before it writes") from error


def _begun(args: argparse.Namespace) -> int:
    from harness.starter import project

    root = Path(os.path.abspath(args.folder))
    if root.exists() and not root.is_dir():
        raise ConfigError(f"{root}: a file, expected a folder")
    if args.rate is not None and not args.slo:
        raise ConfigError(f"--rate {args.rate:g} is the rate at which a --slo is promised, and none is; add --slo ttft_p95=2s")
    given = args.model or args.against or args.golden or args.name
    if args.ci and not given and (root / "lifecycle.toml").is_file():
        wanted, by_hand = project.ci_files(root, args.ci)
        _told(root, project.write(root, wanted, by_hand))
        return 0
    made, is_example = _set(args)
    model, against, checkpoint = (_from(root, where) for where in (args.model, args.against, args.checkpoint))
    asked = project.Asked(
        args.name or root.name, made, model, against, checkpoint, _promised(args.slo),
        1.0 if args.rate is None else args.rate, tuple(dict.fromkeys(args.ci)), is_example,
    )  # fmt: skip
    written = project.write(root, *project.planned(root, asked))
    project.verify(root)
    _told(root, written)
    _next(root, asked)
    return 0


def _set(args: argparse.Namespace) -> tuple[sets.Made, bool]:
    """The golden set; and whether all of it is the example, model and items."""
    from harness.starter import files, golden_command, project, sets

    if args.golden is None:
        return project.example(golden_command.approver()), not args.model
    made = sets.make(
        args.golden, files.word(args.golden.stem), kind=args.kind, columns=golden_command.columns(args.field), prompt=args.prompt,
        scorer=args.scorer, licence=args.licence, approved_by=golden_command.approver(),
    )  # fmt: skip
    return made, False


def _promised(said: list[str]) -> dict[str, str]:
    """``--slo ttft_p95=2s`` as a mapping, each checked. ConfigError names the one that is wrong."""
    from harness.records import objective

    promised = dict(text.partition("=")[::2] for text in said)
    for name, limit in promised.items():
        objective(name, limit)
    return promised


def _from(root: Path, where: str) -> str:
    """``scheme:path`` as the project will read it: relative to its folder if it lies there, else absolute."""
    scheme, colon, path = where.partition(":")
    if not colon or scheme in ("http", "https", "recipe"):
        return where
    if scheme == "adapter":
        lora, plus, base = path.partition("+hf:")
        return f"adapter:{_seen(root, lora)}{plus}{_seen(root, base)}"
    return f"{scheme}:{_seen(root, path)}"


def _seen(root: Path, path: str) -> str:
    found = Path(os.path.abspath(Path(path).expanduser()))
    if not found.exists():  # of a hub, or not there yet
        return path
    return f"./{found.relative_to(root).as_posix()}" if found.is_relative_to(root) else str(found)


def _told(root: Path, written: project.Written) -> None:
    for path in written.new:
        print(f"wrote  {path.relative_to(root)}")
    for path in written.kept:
        print(f"kept   {path.relative_to(root)}")
    if not written.new:
        print(f"{root}: everything stands there already")
    for line in written.by_hand:
        print(line)


def _next(root: Path, asked: project.Asked) -> None:
    """What the set asks and can show, and the three commands that come next."""
    from harness import golden
    from harness.starter import golden_command, sets

    print("\n" + "\n".join(golden_command.described(golden.load(asked.made.name, root / "golden"))))
    for line in sets.shows(len(asked.made.rows)):
        print(f"  {line}", flush=True)
    if not asked.model:
        print("mine is a table of made-up answers, NO MODEL: name yours in lifecycle.toml when you have seen a run")
    print("\nnext:")
    if root != Path.cwd():
        print(f"  cd {shlex.quote(os.path.relpath(root))}")
    print("  python -m harness doctor --lifecycle      is everything here that lifecycle.toml names?")
    print("  python -m pytest claims --tier smoke      a quick look; it proves nothing")
    print("  python -m pytest claims                   the proof; report.html and the seal stand at its end")
