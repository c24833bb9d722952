"""``python -m harness data``: audit, compare and lock datasets from the command line. Heavy modules load when a verb runs."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.audit import require
from harness.errors import AuditError
from harness.progress import to_terminal

if TYPE_CHECKING:
    from harness.audit.run import Audit, Dataset

__all__ = ["add_parser"]

_SHOWN = 10

_HELP = """examples:
  python -m harness data audit train.jsonl                                   what is wrong with it, in a table
  python -m harness data audit train.jsonl --apart-from test.jsonl --out audited
                                                                             also leaks into test.jsonl; clean.jsonl, blocked.jsonl,
                                                                             findings as CSV, JSONL and SARIF, Croissant, data.lock
  python -m harness data audit train.jsonl --write-baseline known.json       accept what is there today ...
  python -m harness data audit train.jsonl --baseline known.json             ... and fail on what is new
  python -m harness data prove train.jsonl                                   plant known defects in a copy: what each check finds
  python -m harness data diff old.jsonl new.jsonl                            rows added, removed, changed; changed answers
  python -m harness data lock train.jsonl --write data.lock                  digests of files and rows ...
  python -m harness data verify data.lock train.jsonl                        ... and which rows differ first
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``data`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    data = verbs.add_parser("data", help="audit, compare and lock datasets", formatter_class=shape, epilog=_HELP)
    inner = data.add_subparsers(title="what to do", required=True, metavar="WHAT")

    audit = inner.add_parser("audit", help="every check on every row", formatter_class=shape, epilog=_HELP)
    _dataset(audit)
    audit.add_argument("--out", type=Path, metavar="DIR", help="write clean.jsonl, blocked.jsonl, findings, Croissant and data.lock here")
    audit.add_argument("--baseline", type=Path, metavar="FILE", help="findings that are known: new ones fail")
    audit.add_argument("--write-baseline", type=Path, metavar="FILE", help="write the findings of today as a baseline")
    audit.add_argument("--waivers", type=Path, metavar="FILE", help="TOML: findings accepted with a reason and an expiry date")
    audit.add_argument("--allow", action="append", default=[], metavar="CHECK.KIND", help="a kind that blocks nothing; repeatable")
    audit.add_argument("--licence", default="", help="for the Croissant file: an SPDX expression")
    audit.add_argument("--source", action="append", default=[], help="for the Croissant file: where the data come from; repeatable")
    audit.add_argument("--version", default="", help="for the Croissant file: like 1.2.0")
    audit.add_argument("--changes", default="", help="for the Croissant file: what is different from the version before")
    audit.set_defaults(verb=_audit)

    prove = inner.add_parser("prove", help="plant known defects in a copy and see that each is found")
    _dataset(prove)
    prove.add_argument("--each", type=int, default=20, metavar="N", help="how many of each kind (default 20)")
    prove.set_defaults(verb=_prove)

    diff = inner.add_parser("diff", help="what changed from one version to the next")
    diff.add_argument("before", type=Path)
    diff.add_argument("after", type=Path)
    diff.add_argument("--json", type=Path, metavar="FILE", help="write every line of the difference here")
    _reading(diff)
    diff.set_defaults(verb=_diff)

    lock = inner.add_parser("lock", help="digests of files, shards and rows")
    lock.add_argument("file", type=Path, nargs="+")
    lock.add_argument("--write", type=Path, default=Path("data.lock"), metavar="FILE", help="default: data.lock")
    _reading(lock)
    lock.set_defaults(verb=_lock)

    verify = inner.add_parser("verify", help="whether files are the ones that were locked")
    verify.add_argument("lock", type=Path)
    verify.add_argument("file", type=Path, nargs="+")
    _reading(verify)
    verify.set_defaults(verb=_verify)


def _reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--form", default="auto", help="auto (default), chat, alpaca, completion, preference, text, evals")
    parser.add_argument("--id", default="id", metavar="FIELD", help="the field that names a row (default id)")
    parser.add_argument("--group", default="", metavar="FIELD", help="the field that names what a row belongs to: a document, a user")
    parser.add_argument("--label", default="", metavar="FIELD", help="the field with a row's class")
    parser.add_argument("--engine", default="processes", help="serial, processes (default) or ray")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where facts of rows stay for the next audit (default: in the store)")
    parser.add_argument("--no-keep", action="store_true", help="keep nothing")


def _dataset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, nargs="+", help="JSONL, JSON, Parquet, CSV; plain or packed")
    parser.add_argument("--apart-from", type=Path, action="append", default=[], metavar="FILE", help="rows that must not leak; repeatable")
    parser.add_argument("--split", action="append", default=[], metavar="NAME=FILE", help="groups must not stand in two splits; repeatable")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR", help="the folder of the model that reads the rows: lengths in its tokens")
    parser.add_argument("--context", type=int, default=2048, metavar="N", help="tokens that it reads (default 2048)")
    parser.add_argument("--language", action="append", default=[], metavar="CODE", help="a language that is meant, like en; repeatable")
    parser.add_argument("--rules", type=Path, metavar="FILE", help="a gitleaks.toml: further rules for secrets")
    _reading(parser)


def _checked(args: argparse.Namespace) -> tuple[Dataset, Any]:
    """The dataset of the command line, and what is known of it."""
    from harness.audit import forms, run, standard
    from harness.audit.leakage import References

    files = tuple(args.file)
    splits: dict[str, list[int]] = {}
    for text in args.split:
        name, equals, path = text.partition("=")
        if not equals or Path(path) not in files:
            raise AuditError(f"--split {text}: expected NAME=FILE, FILE being one of {', '.join(map(str, files))}")
        splits.setdefault(name, []).append(files.index(Path(path)))
    apart = tuple(References.of_file(path.stem, path, args.id) for path in args.apart_from)
    size = sum(path.stat().st_size for path in files if path.is_file())
    known = standard.Known(
        apart, args.tokenizer, args.context, splits=splits or None, languages=tuple(args.language), rules=args.rules,
        many=size > standard.MANY * 500,
    )  # fmt: skip
    return run.Dataset(files[0].stem, files, forms.Shape(args.form, args.id, args.group, args.label)), known


def _run(args: argparse.Namespace, dataset: Dataset, checks: Sequence[Any]) -> Audit:
    from harness.audit import run
    from harness.store import default_root

    keep = None if args.no_keep else args.keep or default_root() / "audit"
    return run.audit(dataset, checks, engine=args.engine, workers=args.workers, keep=keep, progress=to_terminal())


def _audit(args: argparse.Namespace) -> int:
    require()
    from harness.audit import baseline, outputs, standard

    dataset, known = _checked(args)
    _spare(args)
    waivers = baseline.read_waivers(args.waivers, datetime.now(UTC).date()) if args.waivers else ()
    accepted = baseline.read_baseline(args.baseline) if args.baseline else None
    if args.out:
        _make(args.out)  # before there is work to lose
    checks = standard.checks(known)
    policy = outputs.policy_of(dict.fromkeys(args.allow, "remark"), {check.name for check in checks})
    found = _run(args, dataset, checks)
    settled = baseline.settle(found.findings, found.rows, accepted, waivers)
    blocking = outputs.blocking(found.findings, policy)
    _print(found, settled, blocking)
    if args.write_baseline:
        baseline.write_baseline(args.write_baseline, baseline.Baseline.of(found.findings, found.rows))
        print(f"baseline   {args.write_baseline}: {found.findings.num_rows} findings are known from now on")
    if args.out:
        _write(args, found, settled, policy)
    return int(bool((blocking & settled.new).any()))


def _spare(args: argparse.Namespace) -> None:
    """Raises AuditError where what is written would replace what is read."""
    names = (
        "clean.jsonl",
        "blocked.jsonl",
        "findings.csv",
        "findings.jsonl.gz",
        "findings.sarif",
        "croissant.json",
        "data.lock",
        "summary.json",
    )
    written = [args.out / name for name in names] if args.out else []
    written += [args.write_baseline] if args.write_baseline else []
    read = {path.resolve() for path in (*args.file, *args.apart_from, args.waivers, args.rules) if path}
    for path in written:
        if path.resolve() in read:
            raise AuditError(f"{path} would be overwritten, and it is what is read; nothing was written: name another --out")


def _print(found: Audit, settled: Any, blocking: Any) -> None:
    read = found.summaries["read"]
    print(f"{read['rows']} rows, {read['distinct_rows']} distinct, {read['distinct_texts']} texts in {', '.join(read['files'])}")
    names = found.findings.select(["check", "kind", "row", "detail"]).to_pydict()
    kinds = Counter(zip(names["check"], names["kind"], blocking.tolist(), strict=True))
    new = Counter((c, k) for c, k, fresh in zip(names["check"], names["kind"], settled.new.tolist(), strict=True) if fresh)
    first: dict[tuple[str, str], tuple[int, str]] = {}
    for check, kind, row, detail in zip(names["check"], names["kind"], names["row"], names["detail"], strict=True):
        first.setdefault((check, kind), (row, f": {detail}" if detail else ""))
    if not kinds:
        print("nothing found")
    else:
        print(f"{'':8}{'findings':>10}{'new':>10}  what, and where it stands first")
    for (check, kind, blocks), count in sorted(kinds.items(), key=lambda entry: (not entry[0][2], entry[0])):
        row, why = first[check, kind]
        where = f"{Path(found.rows.files[found.rows.file[row]]).name}:{found.rows.line[row]}"
        print(f"{'blocks' if blocks else 'remark':<8}{count:>10}{new[check, kind]:>10}  {check}.{kind}  {where}{why}")
    left_out = {"leakage": "leaks (--apart-from)", "splits": "splits (--split)"}
    asked = [what for check, what in left_out.items() if check not in found.reports]
    asked += ["lengths in tokens (--tokenizer)"] if found.reports["lengths"].summary.get("tokens") is None else []
    print(f"not asked: {', '.join(asked)}" if asked else "everything was asked")
    for name in settled.unused:
        print(f"waiver {name!r} accepts nothing: remove it")
    for gone in settled.gone[:_SHOWN]:
        print(f"baseline: no longer found, tighten it: {gone}")
    if len(settled.gone) > _SHOWN:
        print(f"baseline: {len(settled.gone)} entries are no longer found; write it anew")
    print(f"digest   {found.digest}")


def _write(args: argparse.Namespace, found: Audit, settled: Any, policy: Any) -> None:
    from harness import __version__
    from harness.audit import croissant, manifest, outputs, rows

    made = outputs.write_outputs(
        args.out, found.rows, found.findings, rows.read(found.dataset.files), settled=settled, policy=policy, version=__version__
    )
    locked = manifest.Manifest.of(found.rows)
    manifest.write_lock(args.out / "data.lock", locked)
    card = croissant.Card(found.dataset.name, licence=args.licence, version=args.version, source=tuple(args.source), changes=args.changes)
    described = croissant.build(card, found.rows, locked)
    croissant.write_croissant(args.out / "croissant.json", described)
    _write_json(args.out / "summary.json", found.summaries)
    for name in croissant.missing(described, Path(os.path.commonpath([path.absolute().parent for path in args.file]))):
        print(f"croissant  lacks {name}")
    print(f"written    {args.out}: {made['clean']} of {made['rows']} rows in clean.jsonl, {made['blocked']} in blocked.jsonl, with reasons")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AuditError(f"--out {folder}: {error.strerror}; expected a folder, or a name that nothing has yet") from error


def _write_json(path: Path, value: Any) -> None:
    from harness.audit.writing import whole

    with whole(path) as stream:
        stream.write(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace"))


def _prove(args: argparse.Namespace) -> int:
    require()
    from harness.audit import proof, standard

    if args.each < 1:
        raise AuditError(f"--each {args.each}: expected at least 1 defect of each kind")
    dataset, known = _checked(args)
    found = proof.prove(dataset, known, lambda d: _run(args, d, standard.checks(known)), each=args.each)
    print(found.text())
    return int(not found.proven)


def _rows_of(args: argparse.Namespace, files: Sequence[Path]) -> Any:
    from harness.audit import forms, run

    return _run(args, run.Dataset(files[0].stem, tuple(files), forms.Shape(args.form, args.id, args.group, args.label)), []).rows


def _diff(args: argparse.Namespace) -> int:
    require()
    from harness.audit import manifest

    found = manifest.diff(*(manifest.index(_rows_of(args, [path])) for path in (args.before, args.after)))
    print(found.text(), end="")
    if args.json:
        _write_json(args.json, found.to_dict())
    return 0


def _lock(args: argparse.Namespace) -> int:
    require()
    from harness.audit import manifest

    locked = manifest.Manifest.of(_rows_of(args, args.file))
    manifest.write_lock(args.write, locked)
    print(f"{args.write}: {sum(file.rows for file in locked.files.values())} rows, digest {locked.digest}")
    return 0


def _verify(args: argparse.Namespace) -> int:
    require()
    from harness.audit import manifest

    said = manifest.verify(manifest.read_lock(args.lock), manifest.Manifest.of(_rows_of(args, args.file)))
    print("\n".join(said) or "the same bytes")
    return int(bool(said))
