"""``python -m harness load``, once its command line is read: one load and its verdicts, or the search of the largest rate."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import evidence, provenance, recheck
from harness.errors import ConfigError, EvidenceError, HarnessError
from harness.judge import judge
from harness.progress import to_terminal
from harness.records import Load
from harness.serve import slo
from harness.serve.command import table
from harness.serve.command.asked import Asked, Parity, machine, numbers, schedule, target, workload
from harness.serve.load import Machine, Ran, merged, run_load
from harness.serve.schedule import Schedule
from harness.serve.schedule.dispersion import check, sound
from harness.serve.search import max_rate, together
from harness.serve.target import Target
from harness.serve.validity import DELIVERED
from harness.serve.workload import Workload, replay
from harness.types import Claim, Subject, Verdict

__all__ = ["once", "search"]

OK, RED = 0, 1


def once(args: argparse.Namespace) -> int:
    asked = Asked.of(args, args.model or "server")
    with _room(args.out) as folder:
        return (_merge if args.merge else _once)(args, asked, folder)


def _once(args: argparse.Namespace, asked: Asked, folder: Path | None) -> int:
    here = machine(args)
    where, found = target(args)
    due, work = _sent(args, asked, where)
    plans = asked.plans(len(due.judged))
    say = _say(args)
    say(table.heading(where, due, work, asked.shards, here))
    say(table.plan(plans))
    parity = Parity(args, where, say)
    refused = [(plan.claim, plan.refusal) for plan in plans if plan.refusal]
    if refused:
        say(table.refused(refused))
        return _end(args, RED, plans, [(claim, verdict) for claim, verdict in refused if verdict], None, found)
    if folder is not None:
        evidence.seal_plan(folder, _plan(asked))  # before the first request
    ran = _run(args, asked, parity, where, due, work, folder, here)
    if here is not None:
        sent = sum(record.sent is not None for record in ran.load.records)
        say(table.part(here, ran, sent, Path(args.out)))
        return _end(args, RED if ran.load.invalid or sent < DELIVERED * len(ran.load.records) else OK, plans, [], ran.load, found)
    return _judge(args, asked, plans, ran, where, folder, found)


def _merge(args: argparse.Namespace, asked: Asked, folder: Path | None) -> int:
    """What several machines kept, as one load. EvidenceError if it is none; ConfigError if it is not the one that is asked for here."""
    try:
        parts = [_part(path, asked) for path in args.merge]
        load = merged([part.load for part in parts])
    except EvidenceError as error:
        raise ConfigError(f"--merge: {error}") from None
    where = Target.parse(args.url, model=load.header["target"]["model"], key_env=args.key_env)
    if where.base_url != load.header["machines"][0]["url"]:
        raise ConfigError(f"--merge: these are loads of {load.header['machines'][0]['url']}, not of {where.base_url}")
    due, work = _sent(args, asked, where)
    for name, made in (("schedule", due.to_dict()), ("workload", work.to_dict()), ("limit_s", asked.limit_s)):
        if json.loads(evidence.canonical(made)) != load.header[name]:
            raise ConfigError(f"--merge: another {name} was sent than this command line asks for: give the options that the machines had")
    say, plans = _say(args), asked.plans(len(due.judged))
    say(table.heading(where, due, work, len(load.header["shards"])))
    if folder is not None:
        evidence.seal_plan(folder, _plan(asked))
        evidence.write_atomic(folder / "requests.bin", load.to_bytes())
    failures = sorted((row for part in parts for row in part.failures), key=lambda row: int(row["sequence"]))
    return _judge(args, asked, plans, Ran(load, failures=tuple(failures)), where, folder, load.header["target"]["before"])


def _part(path: Path, asked: Asked) -> Ran:
    """What a machine kept, untouched, under the promises of this command line."""
    try:
        seal, problems = recheck.seal_of(path)
        if problems:
            raise EvidenceError(f"{path}: not as the machine has sealed it: {'; '.join(problems)}")
        plan = evidence.read_json(path / evidence.PLAN)
        if plan["claims"] != json.loads(evidence.canonical(_plan(asked)))["claims"]:
            raise ConfigError(f"{path}: that machine promised something else: give the same --slo, --goodput and --model")
        failures = tuple(json.loads(line) for line in (path / "failures.jsonl").read_text(encoding="utf-8").splitlines())
        load = Load.from_bytes((path / "requests.bin").read_bytes())
        told = {**load.header["machine"], "seal": seal}
        return Ran(Load({**load.header, "machine": told}, load.records), failures=failures)
    except HarnessError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EvidenceError(f"{path}: not what --machine leaves in --out ({type(error).__name__}: {error})") from None


def _say(args: argparse.Namespace) -> Callable[[str], None]:
    return (lambda text: None) if args.json else (lambda text: print(text, flush=True))


def _sent(args: argparse.Namespace, asked: Asked, where: Target) -> tuple[Schedule, Workload]:
    """The schedule and what is sent by it; the same on every machine."""
    if args.replay:
        due, work = replay(args.replay, where.model, stream=not args.no_stream)
        check(due)
    else:
        due = sound(lambda seed: schedule(args, args.rate, asked.requests(args), seed), args.seed)
        work = workload(args, due, where.model, args.seed)
    return due, work


def _judge(
    args: argparse.Namespace, asked: Asked, plans: Sequence[slo.Plan], ran: Ran, where: Target, folder: Path | None, found: Any
) -> int:
    judged = _judged(args, asked, ran.load, where, folder)
    say = _say(args)
    say(table.verdicts(asked.within, judged, ran))
    if ran.load.header["unchecked"]:
        say(table.UNCHECKED)
    return _end(args, OK if all(v.outcome == "holds" for _, v in judged) else RED, plans, judged, ran.load, found)


def _run(
    args: argparse.Namespace,
    asked: Asked,
    parity: Parity,
    where: Target,
    due: Schedule,
    work: Workload,
    folder: Path | None = None,
    here: Machine | None = None,
) -> Ran:
    void = parity.check()
    progress = None if args.json else to_terminal()
    ran = run_load(where, due, work, shards=asked.shards, limit_s=asked.limit_s, progress=progress, folder=folder, machine=here)
    void += parity.check() if not void else []
    load = slo.stated(ran.load, asked.within, invalid=[*ran.load.invalid, *void], unchecked=bool(args.unchecked))
    if folder is not None:
        evidence.write_atomic(folder / "requests.bin", load.to_bytes())  # with what was promised and what voids it
    return replace(ran, load=load)


def _judged(args: argparse.Namespace, asked: Asked, load: Load, where: Target, folder: Path | None) -> list[tuple[Claim, Verdict]]:
    digest = evidence.digest(evidence.canonical(load.header.get("target", {})))
    subject = Subject(where.model, "http", where.base_url, digest)
    rows = [(claim, found, judge(claim, found)) for claim, found in asked.measured(load, (subject,))]
    if folder is not None:
        plan_digest = evidence.digest((folder / evidence.PLAN).read_bytes())
        facts = provenance.collect(Path.cwd())
        for claim, found, verdict in rows:
            evidence.write_evidence(
                folder, claim, verdict, plan_digest=plan_digest, tier="load", measurement=found, provenance=facts, notes=dict(_NOTES)
            )
    return [(claim, verdict) for claim, _, verdict in rows]


_TAKEN = ".writing"  # in --out, while a command writes there
_NOTES = {"test": "python -m harness load", "bound_from": "command line", "expect": "holds", "why": ""}


@contextmanager
def _room(out: Path | None) -> Iterator[Path | None]:
    """The folder for evidence, tried before anything is asked of a server; without evidence it goes as it came.

    ConfigError if it holds something, or cannot be written.
    """
    if out is None:
        yield None
        return
    made = not out.exists()
    try:
        if not made and (not out.is_dir() or any(out.iterdir())):
            raise ConfigError(f"--out {out}: not an empty folder; evidence is never mixed or overwritten, name a new one")
        out.mkdir(parents=True, exist_ok=True)
        with (out / _TAKEN).open("xb") as taken:  # of two commands at once, on two machines even, one succeeds
            taken.write(b"0")
    except FileExistsError:
        raise ConfigError(f"--out {out}: another command is writing there; name a folder of its own for each") from None
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another folder") from None
    try:
        yield out
    finally:
        (out / _TAKEN).unlink(missing_ok=True)
        if {path.name for path in out.iterdir()} <= {evidence.PLAN}:  # nothing came of it
            (out / evidence.PLAN).unlink(missing_ok=True)
            if made:
                out.rmdir()


def _plan(asked: Asked) -> dict[str, Any]:
    entry = {"test": _NOTES["test"], "source": _NOTES["bound_from"], "expect": "holds", "why": ""}
    claims = sorted(asked.claims, key=lambda claim: claim.id)
    return {"lifecycle": "load", "tier": "load", "claims": [{"claim": evidence.claim_to_json(c), **entry} for c in claims], "releases": {}}


def _end(
    args: argparse.Namespace, status: int, plans: Sequence[slo.Plan], judged: Sequence[tuple[Claim, Verdict]], load: Load | None, found: Any
) -> int:
    if args.out is not None and load is not None:
        evidence.write_atomic(Path(args.out) / "run.json", evidence.canonical({"exit_status": status}))
        (Path(args.out) / _TAKEN).unlink(missing_ok=True)
        seal = evidence.seal_bundle(Path(args.out))
        if not args.json:
            check_it = f"; check it with: python -m harness recheck {args.out}" if judged else ""
            print(f"evidence  {args.out}, sealed as {seal}{check_it}")
    if args.json:
        record = {
            "exit_status": status, "unchecked": bool(load.header["unchecked"] if load else args.unchecked), "server": found,
            "header": dict(load.header) if load else None,
            "plan": [{"claim": p.claim.id, "n": p.n, "least": p.least, "likely": p.likely} for p in plans],
            "verdicts": {claim.id: evidence.verdict_to_json(verdict) for claim, verdict in judged},
        }  # fmt: skip
        print(json.dumps(record, indent=1, sort_keys=True))
    return status


# --- the largest rate -------------------------------------------------------------------------------


def search(args: argparse.Namespace) -> int:
    low, high = numbers(args.search, 2, "--search LOW:HIGH")
    if args.replay or args.out or args.seconds is not None or not args.arrivals.startswith(("poisson", "constant", "gamma")):
        raise ConfigError("--search takes --requests and arrivals at a rate; not --replay, --seconds or --out")
    asked = Asked.of(args, args.model or "server")
    where, found = target(args)
    n = asked.requests(args)
    short = [plan for plan in asked.plans(n) if plan.refusal]
    if short:
        raise ConfigError(f"--requests {n}: {short[0].refusal.sentence if short[0].refusal else ''}")
    parity = Parity(args, where, _say(args))

    def probe(rate: float, seed: int, size: int) -> Verdict:
        due = sound(lambda seed: schedule(args, rate, size, seed), seed)
        ran = _run(args, asked, parity, where, due, workload(args, due, where.model, seed))
        verdict = together([judge(claim, made) for claim, made in asked.measured(ran.load, ())])
        if not args.json:
            print(table.probe(rate, len(due.judged), verdict), flush=True)
        return verdict

    result = max_rate(probe, low, high, n=n, seed=args.seed)
    if args.json:
        rows = [p._asdict() for p in result.probes]
        print(json.dumps({"outcome": result.outcome, "reason": result.reason, "rate": result.rate, "failed": result.failed,
                          "undecided": list(result.undecided), "requests": result.requests, "probes": rows, "server": found,
                          "unchecked": bool(args.unchecked)}, indent=1, sort_keys=True))  # fmt: skip
    else:
        print(table.found(result))
        if args.unchecked:
            print(table.UNCHECKED)
    return OK if result.outcome == "holds" else RED
