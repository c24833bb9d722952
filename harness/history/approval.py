"""``python -m harness baseline``: approve the evidence of a run on purpose, and hold other runs against it."""

from __future__ import annotations

import argparse
import getpass
import os
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from harness import baselines, config, evidence
from harness.errors import HarnessError
from harness.recheck import measured, recheck

__all__ = ["add_parser", "approve", "held_against"]

_HELP = """A baseline is what a person approved of a claim: its verdict, interval and rows, bound to the run they come from. It lies in the
project's golden/baselines, one file a claim, and goes through review like any golden file. A run of tier full seals the baselines
into its plan and writes changes.json; recheck derives it again.

  approve  refuses a run that does not recheck, a smoke run, continuous integration and workers, an empty --why,
           and claims that do not hold, unless --even-failing. To retire one, delete its file.
  show     what is approved, by whom, when and why
  diff     what changed in a run, held against what is approved now
  check    the same as a gate

exit status:
  0  done; check: no claim got worse by more than chance, none is asked otherwise than approved, none is gone from a whole run
  1  one did, or the command was refused

examples:
  python -m harness baseline approve reports/20261121T120000Z-full-1a2b3c --claim Q1. --why "first build that may go out"
  python -m harness baseline check reports/20261122T120000Z-full-4d5e6f
  python -m harness baseline show --claim Q1.
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``baseline`` to the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("baseline", help="approve evidence, and hold runs against it", formatter_class=shape, epilog=_HELP)
    actions = parser.add_subparsers(title="actions", required=True, metavar="ACTION")
    for name, text, function in (
        ("approve", "keep a run's claims as approved", _approve),
        ("show", "what is approved", _show),
        ("diff", "what changed in a run", _diff),
        ("check", "whether a run got worse", _check),
    ):
        action = actions.add_parser(name, help=text, formatter_class=shape, epilog=_HELP)
        if name != "show":
            action.add_argument("run", type=Path, help="folder of a finished run")
        action.add_argument("--claim", action="append", default=[], metavar="ID", help="only claims whose id begins so; repeatable")
        action.add_argument(
            "--lifecycle", type=Path, help="the lifecycle file whose golden folder holds them (default: fixtures/lifecycle.toml)"
        )
        action.add_argument("--baselines", type=Path, metavar="DIR", help="another folder of baselines")
        action.set_defaults(verb=function)
        if name == "approve":
            action.add_argument("--why", default="", metavar="TEXT", help="why this is what is to be kept; required")
            action.add_argument("--by", default="", metavar="NAME", help="who approves (default: git's user.name)")
            action.add_argument(
                "--even-failing", action="store_true", help="approve claims that do not hold, too: known, and not to get worse"
            )


def _folder(args: argparse.Namespace) -> Path:
    if args.baselines is not None:
        return Path(args.baselines)
    path = args.lifecycle or Path("fixtures/lifecycle.toml")
    settings = config.load(path) if args.lifecycle or path.exists() else config.empty(Path.cwd())
    return settings.golden / "baselines"


# --- approve ------------------------------------------------------------------------------------


def _approve(args: argparse.Namespace) -> int:
    approved = approve(args.run, _folder(args), args.why, by=args.by, claims=args.claim, even_failing=args.even_failing)
    for path in approved:
        print(path)
    print(f"{len(approved)} claims of {args.run} approved; review and commit them")
    return 0


def approve(run: Path, folder: Path, why: str, *, by: str = "", claims: Sequence[str] = (), even_failing: bool = False) -> list[Path]:
    """Writes the baselines of a run's claims into ``folder`` and returns their files. HarnessError says why it refuses."""
    if not why.strip():
        raise HarnessError("baseline approve: --why is empty; say in a sentence why this is what is to be kept")
    for name in ("CI", "PYTEST_XDIST_WORKER"):
        if os.environ.get(name, "").lower() not in ("", "0", "false"):
            raise HarnessError(f"baseline approve: ${name} is set; a baseline is approved by a person at a desk, never by a machine")
    report, plan, records = _read(run)
    if plan["tier"] == "smoke":
        raise HarnessError(f"{run}: tier smoke measures a subset and proves nothing; approve a run of tier full")
    chosen = [r for r in records if _wanted(r["claim"]["id"], claims)]
    if not chosen:
        raise HarnessError(f"{run}: no claim begins with {', '.join(claims)}" if claims else f"{run}: no claim left evidence")
    empty = [r["claim"]["id"] for r in chosen if r["verdict"]["outcome"] in ("not_evaluated", "error")]
    failing = [r["claim"]["id"] for r in chosen if r["verdict"]["outcome"] != "holds" and r["claim"]["id"] not in empty]
    if failing and not even_failing:
        raise HarnessError(
            f"{run}: {len(failing)} of {len(chosen)} claims do not hold, first {failing[0]}; nothing was approved. "
            "Choose others with --claim, or approve them as known with --even-failing"
        )
    return _write(run, folder, plan, [r for r in chosen if r["claim"]["id"] not in empty], _approval(why, by, report.seal))


def _approval(why: str, by: str, seal: str) -> dict[str, Any]:
    return {"run": seal, "approved": {"by": by or _person(), "at": datetime.now(UTC).isoformat(timespec="seconds"), "why": why.strip()}}


def _person() -> str:
    try:
        said = subprocess.run(["git", "config", "user.name"], capture_output=True, timeout=10, check=True, text=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        said = ""
    return said or getpass.getuser()


def _write(
    run: Path, folder: Path, plan: Mapping[str, Any], records: Sequence[Mapping[str, Any]], approval: Mapping[str, Any]
) -> list[Path]:
    there = baselines.load(folder)
    foreign = [r["claim"]["id"] for r in records if there.get(r["claim"]["id"], plan)["lifecycle"] != plan["lifecycle"]]
    if foreign:
        raise HarnessError(
            f"{baselines.file_of(folder, foreign[0])}: approved for lifecycle {there[foreign[0]]['lifecycle']!r}, this run is of "
            f"{plan['lifecycle']!r}; nothing was approved. Name another folder with --baselines, or give one of them its own golden folder"
        )
    taken = [path for r in records if r["claim"]["id"] not in there and (path := baselines.file_of(folder, r["claim"]["id"])).exists()]
    if taken:
        raise HarnessError(f"{taken[0]}: a file of another maker stands in its place; rename the claim. Nothing was approved")
    made = {}
    for record in records:  # all of them before the first is written
        bound_to = {"lifecycle": plan["lifecycle"], "evidence": evidence.digest(evidence.canonical(record)), **approval}
        body = baselines.sealed(baselines.entry(record, measured(run), **bound_to))
        made[baselines.file_of(folder, record["claim"]["id"])] = evidence.canonical(body)
    for path, data in made.items():
        evidence.write_atomic(path, data)
    return list(made)


def _read(run: Path) -> tuple[Any, Any, list[Any]]:
    """A run that rechecks: its report, plan and records."""
    report = recheck(run)
    if report.problems:
        raise HarnessError(f"{run}: it does not recheck, so it is held against nothing: {report.problems[0]}")
    records = [evidence.read_json(path) for path in sorted((run / "evidence").glob("*.json"))]
    return report, evidence.read_json(run / evidence.PLAN), records


def _wanted(claim: str, claims: Sequence[str]) -> bool:
    return not claims or claim.startswith(tuple(claims))


# --- show, diff, check --------------------------------------------------------------------------


def _show(args: argparse.Namespace) -> int:
    folder = _folder(args)
    found = {name: body for name, body in baselines.load(folder).items() if _wanted(name, args.claim)}
    for name, body in sorted(found.items()):
        verdict, said = body["verdict"], body["approved"]
        number = "" if verdict["estimate"] is None else f"  {verdict['estimate']:.4g}"
        print(f"{verdict['outcome']:<15}{name}{number}  {said['at']} by {said['by']}: {said['why']}")
    print(
        f"{len(found)} claims approved in {folder}"
        if found
        else f"nothing is approved in {folder}: python -m harness baseline approve RUN --why TEXT"
    )
    return 0


def _diff(args: argparse.Namespace) -> int:
    found = held_against(args.run, baselines.load(_folder(args)), args.claim)
    for one in found["changed"]:
        print(f"{one['what']:<15}{one['claim']}  {one['old']['outcome']} -> {one['new']['outcome']}  {one['sentence']}")
        if one["differs"]:
            print(f"{'':<15}also another: {', '.join(one['differs'])}")
    for one in found["gone"]:
        print(f"{'gone':<15}{one['claim']}  {one['why']}")
    print(f"{baselines.line(found)}; wrong about chance with probability at most {found['error']:g}")
    return 0


def _check(args: argparse.Namespace) -> int:
    found = held_against(args.run, baselines.load(_folder(args)), args.claim)
    allowed = {f"missing:{name}" for name in evidence.read_json(args.run / "run.json").get("allowed_missing", [])}
    absent = {one["claim"] for one in found["changed"] if _reason(args.run, one["claim"]) in allowed}
    bad = baselines.worse({**found, "changed": [one for one in found["changed"] if one["claim"] not in absent]})
    for text in bad:
        print(text)
    for name in sorted(absent):
        print(f"allowed to be missing: {name}")
    print(baselines.line(found))
    if bad:
        print("to accept it on purpose: python -m harness baseline approve RUN --claim ID --why TEXT; to retire a claim, delete its file")
    return 1 if bad else 0


def _reason(run: Path, claim: str) -> str:
    return str(evidence.read_json(evidence.evidence_path(run, claim))["verdict"]["reason"])


def held_against(run: Path, approved: Mapping[str, Mapping[str, Any]], claims: Sequence[str] = ()) -> dict[str, Any]:
    """A run held against baselines that are approved now, whatever was approved when it was planned: as ``changes.json`` tells it."""
    _, plan, records = _read(run)
    if plan["tier"] == "smoke":
        raise HarnessError(f"{run}: tier smoke measures a subset; it is held against nothing that was approved of the whole")
    known = {name: body for name, body in approved.items() if body["lifecycle"] == plan["lifecycle"] and _wanted(name, claims)}
    if not known:
        raise HarnessError(f"no approved claim of lifecycle {plan['lifecycle']!r}: python -m harness baseline approve RUN --why TEXT")
    asked = [entry for entry in plan["claims"] if _wanted(entry["claim"]["id"], claims)]
    found = baselines.changes(
        {**plan, "claims": asked, "baselines": baselines.planned(known)},
        [r for r in records if _wanted(r["claim"]["id"], claims)],
        measured(run),
    )
    assert found is not None  # there are baselines
    return found
