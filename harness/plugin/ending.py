"""The end of a run: what was planned against what is there, the seal, the exit status, what the terminal says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EvidenceError, HarnessError
from harness.plugin.options import file_settings, option, options
from harness.plugin.order import BY_TIER, Clock
from harness.plugin.session import NODE_RUN, RUN
from harness.progress import clock

EXIT_NOT_EVALUATED = 8
_UNSEALED = pytest.StashKey[str]()  # why there is none


@dataclass(frozen=True)
class Closing:
    """What the summary says when all is over."""

    folder: Path
    seal: str
    records: tuple[dict[str, Any], ...]
    releases: dict[str, Any]  # by build
    changes: dict[str, Any] | None  # since the approved baselines
    lost: tuple[str, ...]  # planned, but without evidence
    orphans: tuple[str, ...]  # approved, and no test makes them any more
    unheeded: tuple[str, ...]  # not fulfilled, though pytest would have ended with 0
    absent: tuple[str, ...]  # needs that were missing and not allowed to be
    strangers: tuple[str, ...]  # of --subject or --data, and no evidence names any of them


_CLOSING = pytest.StashKey[Closing]()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Counts what was planned against what is there, renders, seals, and sets the exit status."""
    config = session.config
    run = config.stash.get(RUN, None)
    folder = run.folder if run else config.stash.get(NODE_RUN, None)
    told = config.pluginmanager.getplugin("harness-clock")
    if hasattr(config, "workerinput") or folder is None or not (run or told.claims or (folder / "plan.json").is_file()):
        return
    try:
        closing = _close(config, folder, int(exitstatus), told)
    except (HarnessError, OSError, KeyError, TypeError) as error:  # a full disk, a folder that was deleted: red, and one line says why
        config.stash[_UNSEALED] = f"{folder}: {error}"
        session.exitstatus = int(exitstatus) or 1
        return
    config.stash[_CLOSING] = closing
    wrong = closing.lost or closing.orphans or closing.unheeded or closing.strangers
    if int(exitstatus) == 0 and (wrong or closing.absent):
        session.exitstatus = 1 if wrong else EXIT_NOT_EVALUATED


def _close(config: pytest.Config, folder: Path, exitstatus: int, told: Clock) -> Closing:
    from harness import baselines, evidence, report
    from harness.recheck import ending, measured, releases

    allowed = frozenset(options(config, "allow-missing"))
    evidence.sweep(folder)
    plan = evidence.read_json(folder / evidence.PLAN)
    records = [evidence.read_json(path) for path in sorted((folder / "evidence").glob("*.json"))]
    planned = evidence.digest((folder / evidence.PLAN).read_bytes())
    if any(record["plan"] != planned for record in records):
        raise EvidenceError(f"{evidence.PLAN} was changed while the run went on")
    lost, orphans = ending.lost(plan, records), ending.orphans(plan)
    absent = ending.absent(records, allowed)
    strangers = _strangers(config, records)
    # The evidence decides, not what a test made of it: an exception may be caught, a failure marked as expected.
    unheeded = [] if exitstatus else ending.unheeded(records)
    status = exitstatus or (1 if lost or orphans or unheeded or strangers else EXIT_NOT_EVALUATED if absent else 0)
    step = told.step()
    facts = {
        "exit_status": status,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "allowed_missing": sorted(allowed),
        "lost": lost,
        "tier": plan["tier"],
        "seconds": {stage: round(took, 3) for stage, took in told.seconds.items()},
        **({"clock_step_s": step} if step else {}),
    }
    evidence.write_atomic(folder / "run.json", evidence.canonical(facts))
    released = releases(plan, {r["claim"]["id"]: evidence.verdict_from_json(r["verdict"]) for r in records})
    if released:
        evidence.write_atomic(folder / evidence.RELEASE, evidence.canonical(released))
    changes = baselines.changes(plan, records, measured(folder))
    if changes is not None:
        evidence.write_atomic(folder / baselines.CHANGES, evidence.canonical(changes))
    report.write(folder)
    return Closing(
        folder,
        evidence.seal_bundle(folder),
        tuple(records),
        released,
        changes,
        tuple(lost),
        tuple(orphans),
        tuple(unheeded),
        absent,
        tuple(strangers),
    )


def _strangers(config: pytest.Config, records: Sequence[dict[str, Any]]) -> list[str]:
    """What the command line names and no evidence does: a slip of the pen, and the model or file that was meant went untested.

    Of subjects each that the lifecycle file does not know must be heard of; of those it knows one, for a part of the claims may be run.
    What an ini file names is there for every run.
    """
    from harness.config import parse_data

    if any(record["measurement"] is None for record in records):
        return []  # who knows what they would have measured
    measured = {subject["name"] for record in records for subject in record["measurement"].get("subjects", ())}
    said = {part.strip() for record in records for part in record["claim"]["id"].partition("[")[2].removesuffix("]").split(",")}
    heard = measured | said
    subjects = {text.partition("=")[0] for text in config.getoption("--subject")}
    new = subjects - {*file_settings(config).subjects, "source"}  # what a reference was converted from
    silent = (new - heard) or (set() if subjects & heard else subjects)
    vain = [f"{name}: named by --subject, and no evidence of this run names it" for name in sorted(silent)]
    for data in map(parse_data, config.getoption("--data")):
        gone = [path for path in data.files if not Path(path).exists()]
        why = f"there is no {gone[0]}" if gone else "" if data.name in heard else "no evidence of this run names it"
        vain += [f"{data.name}: named by --data, and {why}"] if why else []
    return vain


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """The verdicts, one line each, and where the evidence lies."""
    if unsealed := config.stash.get(_UNSEALED, ""):
        terminalreporter.write_line(f"unsealed       {unsealed}", red=True)
        terminalreporter.write_line("this run is no evidence: it has no seal. See that its folder can be written, and rerun", red=True)
    closing = config.stash.get(_CLOSING, None)
    if closing is None:
        return
    from harness import report

    out = terminalreporter
    out.section("claims")
    colours = {"holds": {"green": True}, "fails": {"red": True}, "error": {"red": True}}
    for record in closing.records:
        out.write_line(report.line(record), **colours.get(record["verdict"]["outcome"], {"yellow": True}))
    for build, said in closing.releases.items():
        colour = colours.get(said["outcome"], {"yellow": True})
        out.write_line(report.release_line(build, said), bold=True, **colour)
    if closing.changes is not None:
        from harness import baselines

        for text in baselines.worse(closing.changes):
            out.write_line(text, red=True)
        out.write_line(baselines.line(closing.changes))
    for name in closing.lost:
        out.write_line(f"lost           {name}: planned, but it left no evidence (crashed, or cut short before it ran)", red=True)
    for name in closing.orphans:
        way = "delete it on purpose from baselines/ beside the golden sets, or bring the test back"
        out.write_line(f"orphan         {name}: a baseline that no test answers to; {way}", red=True)
    for name in closing.unheeded:
        out.write_line(f"unheeded       {name}: its evidence does not say what its test reported; the exit status is 1", red=True)
    for name in closing.strangers:
        out.write_line(f"stranger       {name}; the exit status is 1", red=True)
    for need in closing.absent:
        out.write_line(f"absent: {need}; the exit status says so. Allow it by name: --allow-missing {need}", yellow=True)
    if any(record["tier"] == "smoke" for record in closing.records):
        out.write_line("tier smoke: a subset was measured; nothing here is proof", yellow=True)
    clocks = config.pluginmanager.getplugin("harness-clock")
    if step := clocks.step():
        went = f"{'back' if step < 0 else 'forward'} by {abs(step):g} s"
        out.write_line(f"this machine's clock was set {went} during the run: no verdict rests on it, but the times shown do", yellow=True)
    if seconds := clocks.seconds:
        out.write_line("stages   " + " · ".join(f"{stage} {clock(took)}" for stage, took in seconds.items()))
    out.write_line(f"report   {closing.folder / 'report.html'}")
    out.write_line(f"recheck  python -m harness recheck {shlex.quote(str(closing.folder))}")
    out.write_line(f"seal     {closing.seal}")


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Before time is spent: what shaped this run, and what its sets can decide."""
    run = config.stash.get(RUN, None)
    if run is None:
        return []
    settings = run.settings
    wanted = [f"{name}: {option(config, name)}" for name in ("store",) if option(config, name)]
    return [
        f"lifecycle: {settings.path} · tier: {run.tier} · evidence: {run.folder}",
        *(
            [
                f"references: {', '.join(settings.references)} · builds: {', '.join(settings.builds)}",
                f"sets: {', '.join(settings.sets)}, {settings.texts}",
            ]
            if settings.references
            else []
        ),
        *([f"data: {', '.join(settings.audited)}"] if settings.audited else []),
        *wanted,
        *([config.stash[BY_TIER]] if BY_TIER in config.stash else []),
        *(f"allowed to be missing: {name}" for name in sorted(run.allowed)),
        *_unused(run.unused),
    ]


def _unused(names: Sequence[str]) -> Iterator[str]:
    """A name that no claim of a part has may be one of another part; a whole run is refused for it."""
    if names:
        some = ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"no claim of this run is called {some}, as [claims] in the lifecycle file does"
