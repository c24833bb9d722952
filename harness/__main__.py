"""One verb per use: ``python -m harness VERB --help``.

    init     a project of your own: lifecycle file, golden set, first claim, CI
    doctor   what this machine has, what is missing, and the command that gets it
    golden   golden sets: make one from JSONL or CSV, check them, what their n can show
    make     artifacts of the lifecycle file into the store: base, tuned, gguf-q8_0 ...
    plan     what n a gate needs, and what an n can show, before time is spent
    lmeval   tasks of lm-eval on a subject, written as lm-eval writes them
    compare  two subjects, or two files of results, item by item: health, scores, flips, verdict
    recheck  derive every verdict of a run again, offline, with the standard library
    report   render a run's report.html and summary.md again
    export   a run for other tools (CTRF, JUnit, in-toto, SARIF), and its model card
    track    a run into MLflow, offline, and promotion of what passed
    data     audit, compare and lock datasets
    label    blind sheets for people to label, read back, and how far they agree
    history  claims over many runs, where they changed, and which are flaky
    baseline approve evidence on purpose, and hold runs against it
    load     whether a server keeps its latency limits at a rate
    defend   measure what a report claims again, in a clean clone, and set old beside new
    dossier  reproduce, bisect and prove a defect, and leave a test that stays

Exit status: 0 done and well · 1 something is wrong · 2 the command line was.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.errors import ConfigError, HarnessError, nearest

if TYPE_CHECKING:
    from harness.config import Settings
    from harness.lifecycle import Workbench
    from harness.lifecycle.compare import Comparison
    from harness.types import Claim

_IN_FILES = {"task": "task", "metric": "score", "filter": "filter of lm-eval", "column": "provider or prompt of promptfoo"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; prints errors as one message, without a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that knows no block or dash gets its number
            stream.reconfigure(errors="backslashreplace")
    try:
        given = list(sys.argv[1:] if argv is None else argv)
        args, strange = _parser(given[0] if given else "").parse_known_args(given)
        if strange:
            args.asked.error(f"unrecognized arguments: {' '.join(strange)}")
        return int(args.verb(args))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # whoever reads has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 130


# Verbs that live beside what they call: the module whose ``add_parser`` makes each, and its line of help. Only the one
# that is asked for is imported.
_ELSEWHERE = {
    "defend": ("harness.defence.command", "measure what a report claims again, old beside new"),
    "doctor": ("harness.doctor", "what this machine has and how to get the rest"),
    "init": ("harness.starter.command", "a project of your own: lifecycle file, golden set, first claim, CI"),
    "golden": ("harness.starter.golden_command", "golden sets: make one from JSONL or CSV, check them, what their n can show"),
    "baseline": ("harness.history.approval", "approve evidence on purpose, and hold runs against it"),
    "history": ("harness.history.command", "claims over many runs, where they changed, and which are flaky"),
    "data": ("harness.audit.command", "audit, compare and lock datasets"),
    "dossier": ("harness.dossier.command", "reproduce, bisect and prove a defect, and leave a test that stays"),
    "export": ("harness.report.exports.command", "a run for other tools (CTRF, JUnit, in-toto, SARIF), and its model card"),
    "track": ("harness.tracking.command", "a run into MLflow, offline, and promotion of what passed"),
    "label": ("harness.evals.judges.command", "blind sheets for people to label, read back, and how far they agree"),
    "load": ("harness.serve.command", "whether a server keeps its latency limits at a rate"),
}


def _parser(verb: str) -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m harness", description=__doc__, formatter_class=shape)
    parser.add_argument("--version", action="version", version=f"lifecycle-harness {__version__}")
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    make = verbs.add_parser("make", help="make artifacts of the lifecycle file", epilog="example: python -m harness make base tuned")
    make.add_argument("subject", nargs="+", help="names under [subjects], like base, tuned, gguf-q8_0")
    _lifecycle(make)
    make.set_defaults(verb=_make)

    plan = verbs.add_parser("plan", help="n for a gate, and the power of an n", formatter_class=shape, epilog=_PLAN_HELP)
    plan.add_argument("gate", nargs="?", metavar="GATE", help="see below; non-inferior with --margin, else all golden sets")
    plan.add_argument("--n", type=int, help="also say what this n can show (sequential: the most items)")
    plan.add_argument("--alpha", type=float, help="one-sided error rate (default .05, for better .025)")
    plan.add_argument("--margin", type=float, help="how much worse is too much, or the least gain, on the score scale (.05 is 5 points)")
    plan.add_argument(
        "--psi", type=_floats, default=(0.10,), help="expected share of items that change either way; several: .05,.10 (default .10)"
    )
    plan.add_argument("--bound", type=float, help="what is claimed: a share, a ratio, an agreement")
    plan.add_argument("--truth", type=float, help="what is expected to be true, where power is wanted")
    plan.add_argument("--sd", type=float, help="standard deviation of one unit, from a pilot (mean, ratio, agreement, corrected)")
    plan.add_argument("--noise", type=float, default=0.0, help="mean: sd of one run of one item, in either arm (default 0)")
    plan.add_argument("--reruns", type=int, default=1, help="mean: runs of each item (default 1)")
    plan.add_argument("--quantile", type=float, default=0.99, help="slo: .99 is p99 (default)")
    plan.add_argument("--tau", type=float, default=1.0, help="slo: how many requests count as one, from a pilot (default 1)")
    plan.add_argument("--base", type=float, default=0.5, help="agreement: share of units rated yes (default .5)")
    plan.add_argument("--judged", type=int, default=500, help="corrected: items scored by the judge alone (default 500)")
    plan.add_argument("--correlation", type=float, default=0.7, help="corrected: of judge and label, from a pilot (default .7)")
    plan.add_argument("--run", type=Path, help="a run's folder or plan.json: the power of its claims, and P(all pass | nothing changed)")
    plan.add_argument("--picture", type=Path, metavar="FILE.svg", help="also draw power against n")
    _lifecycle(plan)
    plan.set_defaults(verb=_plan)

    compare = verbs.add_parser(
        "compare", help="two subjects item by item, and what may be said", formatter_class=shape, epilog=_COMPARE_HELP
    )
    compare.add_argument("a", metavar="A", help="what B is compared with: a subject, name=scheme:location, or a file of results")
    compare.add_argument("b", metavar="B", help="what is claimed to be better, or not worse")
    compare.add_argument("--golden", metavar="SET", help="a golden set (default: the primary one of [compare]); not with files")
    compare.add_argument(
        "--margin", type=float, default=0.05, help="how much worse is too much, on the score scale (default .05: 5 points)"
    )
    compare.add_argument("--alpha", type=float, help="one-sided error rate (default .05 for not worse, .025 for better)")
    compare.add_argument("--better", action="store_true", help="exit status 0 only if B is shown to be better")
    compare.add_argument(
        "--shots-a", type=int, default=0, metavar="K", help="worked examples shown to A: the fair baseline for an untuned model"
    )
    compare.add_argument("--shots-b", type=int, default=0, metavar="K", help="worked examples shown to B")
    for name, held in _IN_FILES.items():
        compare.add_argument(f"--{name}", metavar="NAME", help=f"with files: which {held}, where they hold several")
    compare.add_argument("--tier", default="full", help="full, or smoke for a part of the set, which proves nothing (default full)")
    compare.add_argument("--html", type=Path, metavar="FILE", help="also write one page that stands alone")
    compare.add_argument("--csv", type=Path, metavar="FILE", help="also write a row per item with both answers")
    compare.add_argument("--json", action="store_true", help="print the whole record as JSON instead of the table")
    _lifecycle(compare)
    compare.set_defaults(verb=_compare)

    lmeval = verbs.add_parser(
        "lmeval", help="tasks of lm-eval on a subject", formatter_class=shape,
        epilog="example: python -m harness lmeval tuned --task arith --include ./tasks --out runs   then: compare runs/base runs/tuned",
    )  # fmt: skip
    lmeval.add_argument("subject", help="a name under [subjects], name=scheme:location, or scheme:location")
    lmeval.add_argument("--task", action="extend", nargs="+", required=True, metavar="TASK", help="names of tasks")
    lmeval.add_argument("--include", type=Path, metavar="DIR", help="a folder of task files, and then the only one; a task may hold code")
    lmeval.add_argument("--limit", type=int, metavar="N", help="the first N documents of each task")
    lmeval.add_argument("--chat", action="store_true", help="render the prompts by the subject's chat template")
    lmeval.add_argument("--out", type=Path, required=True, metavar="DIR", help="where DIR/SUBJECT/samples_TASK_DATE.jsonl is written")
    _lifecycle(lmeval)
    lmeval.set_defaults(verb=_lmeval)

    recheck = verbs.add_parser("recheck", help="derive every verdict again", formatter_class=shape, epilog=_RECHECK_HELP)
    recheck.add_argument("run", type=Path, nargs="?", help="folder of a run (default: the newest under reports/)")
    recheck.add_argument("--seal", help="the seal you were told; a bundle sealed anew is then refused")
    recheck.add_argument(
        "--copy", type=Path, metavar="FILE.py", help="write what derives the verdicts as one file to read and to run elsewhere, and stop"
    )
    recheck.set_defaults(verb=_recheck)

    report = verbs.add_parser(
        "report", help="render a run again and seal it; or resolve its numbers", formatter_class=shape, epilog=_REPORT_HELP
    )
    report.add_argument("run", type=Path, nargs="?", help="folder of a run (default: the newest under reports/)")
    report.add_argument(
        "--numbers", type=Path, metavar="FILE", help="write where every number of the pages comes from; the run stays as it is"
    )
    report.set_defaults(verb=_report)

    for name, (module, text) in _ELSEWHERE.items():
        if name == verb:
            importlib.import_module(module).add_parser(verbs)
        else:
            verbs.add_parser(name, help=text)
    for each in verbs.choices.values():  # whose usage stands above an error
        each.set_defaults(asked=each)
    return parser


_REPORT_HELP = """Without --numbers the pages are rendered again from the files of the run, which is then sealed anew; a run that was
changed since it was sealed is refused. With --numbers nothing is rendered: each number of the pages as they lie is looked up in the
evidence, the plan, the raw rows, or derived from them a second time, and FILE says what each resolved to.

exit status:
  0  rendered; with --numbers: every number resolves, and the pages are what the files render
  1  a number resolves to nothing, a page is not what its files say, or a file cannot be read

examples:
  python -m harness report reports/example
  python -m harness report reports/example --numbers numbers.json
"""


_PLAN_HELP = """gates:
  non-inferior  not worse by --margin (.05), paired right/wrong       --psi
  better        truly better by --truth (.05), paired right/wrong     --psi, --margin as the least gain
  equivalent    neither worse nor better by --margin (.05)            --psi
  at-least      a share is at least --bound (.80), truly --truth (.90)
  at-most       a share is at most --bound (.10), truly --truth (.05)
  slo           p99 within its limit, truly --truth (.002) over       --quantile --tau
  mean          a mean lies --margin (.03) inside its bound           --sd --noise --reruns
  ratio         run against run, at most --bound (1.05)               --truth --sd
  agreement     kappa above --bound (.60), truly --truth (.80)        --base or --sd
  corrected     not worse by --margin (.05), judge corrected by labels  --judged --correlation
  sequential    not worse by --margin (.05), stop when known          --psi

examples:
  python -m harness plan --margin .05 --psi .10 --n 560
  python -m harness plan at-least --bound .80 --truth .90 --n 88
  python -m harness plan non-inferior --psi .05,.10,.20 --n 300 --picture power.svg
  python -m harness plan --run reports/example
"""


_COMPARE_HELP = """B is new, A is old. The table shows what came back before any score (cut off, empty, unreadable, errors: wrong
in their arm, never dropped), both scores, the paired difference, and two verdicts: B is not worse than A by the margin
(exact unconditional test), B is better than A (exact McNemar). Slices are for looking, not for claiming.

exit status:
  0  B is shown not to be worse by the margin (with --better: shown to be better)
  1  it is shown to be worse, or too few items decide; the table says how many would

examples:
  python -m harness compare base tuned --golden addresses --shots-a 3 --better
  python -m harness compare tuned gguf-q4_k_m --golden addresses --margin .03 --html compare.html
  python -m harness compare tuned mine=hf:./my-model --golden commonsense
  python -m harness compare tuned http://127.0.0.1:8000/v1#my-model --golden addresses --tier smoke
  python -m harness compare runs/old/samples_task.jsonl runs/new/samples_task.jsonl --csv items.csv
"""


_RECHECK_HELP = """What is checked: the seal of every file; the plan; one evidence file for each planned claim; raw rows by digest, rows of
a load by its requests; every verdict judged again from plan and rows, to the byte; the release verdicts; the pages rendered again.
Somebody may measure something else and seal that: only the seal you were told, given with --seal, can tell.

exit status:
  0  all was derived again
  1  it was not: each line says which file, and what is wrong with it

examples:
  python -m harness recheck reports/example
  python -m harness recheck reports/example --seal SHA256
  python -m harness recheck --copy recheck.py && python3 -I recheck.py reports/example    # nothing but Python from there on
"""


def _floats(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}, expected a number, or several: .05,.10") from None


def _lifecycle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lifecycle", type=Path, help="default: lifecycle.toml, else fixtures/lifecycle.toml")
    parser.add_argument("--store", type=Path, help="default: $HARNESS_STORE or the cache folder")


# --- make and plan ----------------------------------------------------------------------------


def _settings(args: argparse.Namespace) -> Settings:
    """Of the lifecycle file that was named, else of the one that pytest would find from here."""
    from harness import config

    return config.load(args.lifecycle or config.default_path(Path.cwd()))


def _make(args: argparse.Namespace) -> int:
    with _bench(args, _settings(args)) as bench:
        for name in args.subject:
            subject = bench.subject(name)
            print(f"{name}  {subject.digest[:16]}  {bench.path(name)}")
    return 0


@contextlib.contextmanager
def _bench(args: argparse.Namespace, settings: Settings, tier: str = "full") -> Iterator[Workbench]:
    """The workbench that a verb of these arguments works on; its models are freed behind it."""
    from harness.lifecycle import Workbench
    from harness.progress import to_terminal
    from harness.store import Store, default_root

    bench = Workbench(settings, Store((args.store or default_root()).absolute()), settings.tier(tier), to_terminal())
    try:
        yield bench
    finally:
        bench.close()


def _plan(args: argparse.Namespace) -> int:
    try:
        if args.run is not None:
            return _plan_run(args.run, args.n)
        gate = args.gate or ("non-inferior" if args.margin is not None else None)
        if gate is None and (args.n is not None or args.picture is not None):
            raise HarnessError("plan: --n and --picture are about one gate; name it, like: python -m harness plan non-inferior --n 300")
        return _plan_sets(args) if gate is None else _plan_gate(gate, args)
    except ValueError as error:
        raise HarnessError(f"plan: {error}") from error


def _plan_gate(gate: str, args: argparse.Namespace) -> int:
    from dataclasses import fields

    from harness import planner

    given = {field.name: getattr(args, field.name) for field in fields(planner.Design)}
    found = planner.gate(planner.Design(**{**given, "gate": gate}))
    for line in planner.gate_lines(found, args.n):  # some lines take seconds: each is shown when it is known
        print(line, flush=True)
    if args.picture is not None:
        from harness.report import curves

        drawn = curves.power_curves(found.claim.rstrip(":"), planner.curves(found, args.n), found.alpha, found.unit, args.n)
        try:
            args.picture.write_text(drawn, encoding="utf-8")
        except OSError as error:
            raise HarnessError(f"plan: cannot draw {args.picture}: {error}") from error
        print(args.picture)
    return 0


def _plan_sets(args: argparse.Namespace) -> int:
    from harness import golden, planner

    settings = _settings(args)
    sets = [(name, golden.load(name, settings.golden).n) for name in settings.sets]
    for line in planner.set_lines(sets, args.psi[0], 0.05 if args.alpha is None else args.alpha):
        print(line, flush=True)
    return 0


def _plan_run(run: Path, n: int | None) -> int:
    from harness import evidence, planner

    folder = run.parent if run.name == evidence.PLAN else run
    entries = evidence.read_json(folder / evidence.PLAN)["claims"]
    claims = [evidence.claim_from_json(e["claim"]) for e in entries if e.get("expect", "holds") == "holds"]
    for line in planner.release_lines([(claim, n or _planned_n(folder, claim)) for claim in claims]):
        print(line, flush=True)
    if len(claims) < len(entries):
        print(f"{len(entries) - len(claims)} claims are expected not to hold and are left out")
    return 0


def _planned_n(run: Path, claim: Claim) -> int:
    """The n that was measured, before that the least the plan asks for."""
    from harness import evidence

    path = evidence.evidence_path(run, claim.id)
    measured = evidence.read_json(path)["verdict"]["n"] if path.is_file() else 0
    return max(int(measured), claim.min_n)


# --- compare ----------------------------------------------------------------------------------


def _compare(args: argparse.Namespace) -> int:
    import json

    from harness.evidence import write_atomic
    from harness.lifecycle.compare import as_csv
    from harness.report import comparison

    found = _compared(args)
    if args.json:
        print(json.dumps(found.record, ensure_ascii=True, allow_nan=False, indent=1, sort_keys=True))
    else:
        for line in comparison.lines(found.record):
            print(line)
    if args.html is not None:
        write_atomic(args.html, comparison.page(found.record).encode("utf-8", "backslashreplace"))
    if args.csv is not None:
        write_atomic(args.csv, as_csv(found.samples).encode("utf-8", "backslashreplace"))
    shown = {"better"} if args.better else {"better", "not worse"}
    return 0 if found.record["verdict"] in shown else 1


def _lmeval(args: argparse.Namespace) -> int:
    from harness.evals.bridge import lmeval
    from harness.lifecycle.compare import arm

    settings, name = arm(_settings(args), args.subject)
    with _bench(args, settings) as bench:
        made = lmeval.run(
            bench.engine(name), args.task, include=args.include, limit=args.limit, out=args.out, name=name, chat=args.chat,
            progress=bench.progress,
        )  # fmt: skip
    print("\n".join(map(str, made)))
    return 0


def _compared(args: argparse.Namespace) -> Comparison:
    from harness import config, golden
    from harness.lifecycle.compare import Asked, compare, compare_files, named

    for name, shots in (("--shots-a", args.shots_a), ("--shots-b", args.shots_b)):
        if shots < 0:
            raise HarnessError(f"compare: {name} {shots}: expected 0 or more worked examples")
    try:
        settings = _settings(args)
    except ConfigError:
        if not (Path(args.a).exists() and Path(args.b).exists()):
            raise
        settings = config.empty(Path.cwd())  # two files need no lifecycle
    settings, names = named(settings, args.a, args.b)
    if names is None:
        if args.golden or args.shots_a or args.shots_b:
            raise HarnessError("compare: --golden and --shots are about asking subjects; two files of results hold their answers already")
        which = {name: getattr(args, name) for name in _IN_FILES if getattr(args, name)}
        return compare_files(Asked(args.a, args.b, args.margin, args.alpha), Path(args.a), Path(args.b), which=which)
    set_name = args.golden or (settings.compare.primary if settings.compare else "")
    if not set_name:
        raise HarnessError(f"compare: name a golden set with --golden; {nearest('', golden.names(settings.golden))}")
    with _bench(args, settings, args.tier) as bench:
        return compare(bench, Asked(*names, args.margin, args.alpha), set_name, shots=(args.shots_a, args.shots_b))


# --- recheck and report -----------------------------------------------------------------------


def _newest(run: Path | None) -> Path:
    if run is not None:
        if not run.is_dir():
            raise HarnessError(f"{run}: not a folder; expected the folder of a run, like reports/20261121T120000Z-full-1a2b3c")
        return run
    plans = sorted(Path("reports").glob("*/plan.json"), key=lambda p: p.stat().st_mtime)
    runs = [p.parent for p in plans if p.parent.name != "example"]
    if not runs:
        raise HarnessError("no run under reports/; name its folder, or make one: python -m pytest")
    return runs[-1]


def _recheck(args: argparse.Namespace) -> int:
    from harness import report
    from harness.recheck import recheck, told

    if args.copy is not None:
        return _recheck_copy(args)
    run = _newest(args.run)
    found = recheck(run, seal=args.seal)
    lines, status = told(run, replace(found, problems=(*found.problems, *report.differing(run))))
    print("\n".join(lines))
    return status


def _recheck_copy(args: argparse.Namespace) -> int:
    from harness.recheck import copy

    if args.run is not None or args.seal is not None:
        raise HarnessError("recheck --copy writes the file and checks nothing: leave out RUN and --seal, and run the file on it")
    made = copy.write(args.copy)
    print(f"{args.copy}  {made.text.count(chr(10))} lines, {len(made.modules)} modules; run it: python3 -I {args.copy} RUN")
    return 0


def _report(args: argparse.Namespace) -> int:
    from harness import evidence, report
    from harness.recheck import recheck

    run = _newest(args.run)
    if args.numbers:
        return _numbers(run, args.numbers)
    if (run / evidence.BUNDLE).is_file():
        # Sealing anew must not wash a changed bundle clean.
        problems = [p for p in recheck(run).problems if "no evidence for the planned claim" not in p]
        if problems:
            raise HarnessError(f"{run}: changed since it was sealed, so it is not rendered again: {problems[0]}")
    report.write(run)
    print(f"{run / 'report.html'}\nseal {evidence.seal_bundle(run)}")
    return 0


def _numbers(run: Path, to: Path) -> int:
    from harness import evidence
    from harness.report import numbers

    found = numbers.number_map(run)
    evidence.write_atomic(to.absolute(), evidence.canonical(found.to_json()))
    for line in found.problems:
        print(line, file=sys.stderr)
    print(f"{found.sentence}; the map is in {to}")
    return 1 if found.problems else 0


if __name__ == "__main__":
    sys.exit(main())
