"""``python -m harness label``: blind sheets for people, their labels back, and how far they agree."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import EvidenceError
from harness.evals.judges import sheets

__all__ = ["add_parser"]

_HELP = """examples:
  python -m harness label export answers.jsonl --out sheets --labels yes,no --raters 3 --gold gold.jsonl --repeats 10
                                        blind sheets: shuffled, without arms, gold questions and repeats mixed in
  python -m harness label agree sheets/key.json sheets/sheet-*.csv      how far the raters agree, gold questions, repeats
  python -m harness label import sheets/key.json sheets/sheet-*.csv --out labels.jsonl
                                        what most raters said of each answer

Rows of answers.jsonl: {"id", "prompt", "answer"} and, if there are several, "arm"; of gold.jsonl also "label".
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``label`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    label = verbs.add_parser("label", help="blind sheets for people, their labels, their agreement", formatter_class=shape, epilog=_HELP)
    inner = label.add_subparsers(title="what to do", required=True, metavar="WHAT")
    export = inner.add_parser("export", help="blind sheets, one for each rater", formatter_class=shape, epilog=_HELP)
    export.add_argument("answers", type=Path)
    export.add_argument("--out", type=Path, required=True, metavar="DIR")
    export.add_argument("--labels", default="yes,no", metavar="WORDS", help="the words that may be given (default yes,no)")
    export.add_argument("--raters", type=int, default=2, metavar="N")
    export.add_argument("--gold", type=Path, metavar="FILE", help="answers whose label is known, mixed in")
    export.add_argument("--repeats", type=int, default=0, metavar="N", help="answers that come twice")
    export.add_argument("--seed", default="0", help="of orders and names")
    export.add_argument("--jsonl", action="store_true", help="sheets as JSON Lines instead of CSV")
    export.set_defaults(verb=_export)
    for name, verb, what in (("import", _import, "what most raters said of each answer"), ("agree", _agree, "how far the raters agree")):
        parser = inner.add_parser(name, help=what)
        parser.add_argument("key", type=Path, help="the key.json that stood beside the sheets")
        parser.add_argument("sheet", type=Path, nargs="+")
        if name == "import":
            parser.add_argument("--out", type=Path, required=True, metavar="FILE")
        parser.set_defaults(verb=verb)


def _export(options: argparse.Namespace) -> int:
    gold = _rows(options.gold) if options.gold else []
    words = [word.strip() for word in options.labels.split(",")]
    form = "jsonl" if options.jsonl else "csv"
    paths = sheets.export(
        _rows(options.answers), words, options.out,
        raters=options.raters, gold=gold, repeats=options.repeats, seed=options.seed, form=form,
    )  # fmt: skip
    print("\n".join(map(str, paths)))
    print(f"{options.out / 'key.json'}: keep it from the raters")
    return 0


def _rows(path: Path) -> list[sheets.Row]:
    try:
        said = [json.loads(line) for line in path.read_text("utf-8").split("\n") if line.strip()]
    except (OSError, ValueError) as error:
        raise EvidenceError(f"{path}: cannot be read ({error}); expected JSON Lines with id, prompt, answer") from error
    return [_row(row, f"{path}, line {number}") for number, row in enumerate(said, start=1)]


def _row(row: Any, where: str) -> sheets.Row:
    known = {"id": "item", "prompt": "prompt", "answer": "answer", "arm": "arm", "label": "label"}
    if (
        not isinstance(row, Mapping)
        or not {"id", "prompt", "answer"} <= set(row)
        or not all(isinstance(row.get(k, ""), str) for k in known)
    ):
        raise EvidenceError(f"{where}: expected an object of texts id, prompt, answer (and arm, label)")
    return sheets.Row(**{field: row[key] for key, field in known.items() if key in row})


def _import(options: argparse.Namespace) -> int:
    key = sheets.read_key(options.key)
    read = sheets.read_sheets(options.sheet, key)
    found = sheets.majority(read)
    lines = [json.dumps({"id": item, "arm": arm, "label": label}, ensure_ascii=False) for (item, arm), label in sorted(found.items())]
    options.out.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    total = len(read[0].labels)
    print(f"{options.out}: {len(found)} of {total} answers labelled; {total - len(found)} without a majority")
    return 0


def _agree(options: argparse.Namespace) -> int:
    from harness.stats.agreement import krippendorff

    key = sheets.read_key(options.key)
    read = sheets.read_sheets(options.sheet, key)
    for one in read:
        given = sum(label is not None for label in one.labels.values())
        (right, gold), (alike, twice) = one.gold, one.repeats
        print(f"{one.rater}: {given} of {len(one.labels)} labelled, gold {right} of {gold}, repeats alike {alike} of {twice}")
    samples = sheets.agreement_samples(read, key.labels)
    units: dict[str, list[float | None]] = {}
    for sample in samples:
        units.setdefault(sample.item, [None] * len(read))[sample.replicate] = sample.value
    try:
        found = krippendorff(list(units.values()), "nominal", 0.05)
    except ValueError as error:
        print(f"agreement: not defined ({error})")
        return 1
    print(f"Krippendorff's alpha {found.estimate:.3f}, above {found.low:.3f} (95 %, one-sided), {found.n} answers labelled twice or more")
    return 0
