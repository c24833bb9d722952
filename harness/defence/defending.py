"""The whole of a defence: derive again, clone, measure again, set beside, say what it comes to."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import evidence
from harness.defence import beside, clone, rerun
from harness.defence.beside import AGREES, CONTRADICTS, EXPLAINED, NOT_RERUN, Compared
from harness.defence.kept import Kept, read
from harness.errors import ConfigError, EvidenceError, HarnessError, nearest
from harness.progress import Progress
from harness.provenance import machine
from harness.recheck import recheck, releases
from harness.stages import STAGES

__all__ = ["Asked", "defend"]

SCHEMA = "defence/1"
_MACHINE = ("cpu", "cores", "gpu", "system")  # what a speed depends on
_CUT_SHORT = "cut short: it left no evidence; run the same command again to go on"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the command line asks for. ``keep`` is the folder of the rerun, ``store`` where models may be linked from."""

    report: Path
    keep: Path
    store: Path
    only: tuple[str, ...] = ()
    repository: Path | None = None
    commit: str = ""
    here: bool = False
    fresh: bool = False
    loads: bool = False
    lifecycle: str = ""
    subjects: tuple[str, ...] = ()
    data: tuple[str, ...] = ()
    seal: str | None = None
    alpha: float = 0.05


def defend(asked: Asked, say: Callable[[str], None], progress: Progress) -> dict[str, Any]:
    """The record of the defence, as ``defence.json`` keeps it; ``say`` gets a line for each step and each claim.

    HarnessError if the report cannot be derived again, or nothing be run.
    """
    seal = _derived_again(asked.report, asked.seal)
    plan, old = evidence.read_json(asked.report / evidence.PLAN), read(asked.report)
    wanted = _wanted(old, plan, asked.only)
    say(f"{asked.report}: derived again, {len(old)} claims, seal {seal[:16]}…; {len(wanted)} to be measured again")
    _mine(asked.keep, {"evidence": _evidence_digest(asked.report), "here": asked.here, "fresh": asked.fresh, "commit": asked.commit})
    tree, commit = _tree(asked, plan, old)
    say(f"measuring with {'the present tree' if asked.here else 'a clone at ' + commit[:12]}: {tree.root}")
    pages, problems = rerun.same_pages(asked.report, tree)
    new, absent, beyond = _measured(asked, tree, plan, {name: old[name] for name in wanted}, say, progress)
    plans = [evidence.read_json(run / evidence.PLAN) for run in rerun.runs_of(tree.keep)]
    notes: list[str] = []
    (notes if asked.here else problems).extend(_other_plans(plan, plans))
    if beyond:
        notes.append(f"{len(beyond)} tests of this code are in no claim of the report, like {beyond[0]}")
    surroundings = _surroundings(old, new)
    compared = beside.decide(_beside(asked, plan, {name: old[name] for name in wanted}, new, absent, surroundings), asked.alpha)
    return _record(asked, seal, commit, plan, compared, _released(plan, old, new), surroundings, problems, notes, pages)


# --- before ---------------------------------------------------------------------------------------


def _derived_again(report: Path, seal: str | None) -> str:
    found = recheck(report, seal=seal)
    if found.problems:
        shown = "\n".join(f"  {problem}" for problem in found.problems[:20])
        raise EvidenceError(f"{report}: is not what it was sealed as, or does not follow from its rows; nothing was measured\n{shown}")
    return found.seal


def _evidence_digest(report: Path) -> str:
    """Of plan and evidence: pages that were rendered anew make no other report of it."""
    files = evidence.read_json(report / evidence.BUNDLE)["files"]
    return evidence.digest(
        evidence.canonical({name: sha for name, sha in files.items() if name == evidence.PLAN or name.startswith("evidence/")})
    )


def _mine(keep: Path, said: Mapping[str, Any]) -> None:
    """Binds the folder to this defence: measurements of another report, or of other code, are never taken for its own."""
    path = keep / "of.json"
    if path.exists():
        if evidence.read_json(path) != dict(said):
            raise ConfigError(
                f"{keep}: keeps the defence of another report, or one begun with other options; name another folder with --keep"
            )
    elif keep.exists() and any(keep.iterdir()):
        raise ConfigError(f"{keep}: not an empty folder; name a new one, or that of a defence that was cut short")
    else:
        evidence.write_atomic(path, evidence.canonical(dict(said)))


def stage_of_test(test: str) -> str:
    """The stage whose folder a test lies in, "" for none."""
    return next((part for part in Path(test.partition("::")[0]).parts if part in STAGES), "")


def _wanted(old: Mapping[str, Kept], plan: Mapping[str, Any], only: Sequence[str]) -> list[str]:
    """Ids of the claims to measure again, in the order of the stages. ConfigError for a name that is neither stage nor claim."""
    if not any("::" in entry["test"] for entry in plan["claims"]):
        raise HarnessError(
            f"{plan['lifecycle']}: no claim of this report was made by a test, so pytest cannot make it again; run its command again"
        )
    stages = {entry["claim"]["id"]: stage_of_test(entry["test"]) for entry in plan["claims"]}
    chosen: set[str] = set()
    for name in (part.strip() for each in only for part in _parts(each)):
        found = {claim for claim in old if (stages.get(claim) == name if name in STAGES else claim.startswith(name))}
        if not found or not name:
            known = sorted({*filter(None, stages.values()), *(claim.partition("[")[0] for claim in old)})
            raise ConfigError(f"--only {name}: no stage and no claim of this report begins so; {nearest(name, known)}")
        chosen |= found
    return sorted(chosen or old, key=lambda claim: (("", *STAGES).index(stages.get(claim, "")), claim))


def _parts(text: str) -> list[str]:
    """What commas part, but those inside the brackets of a claim."""
    return re.split(r",(?![^\[]*\])", text)


def _tree(asked: Asked, plan: Mapping[str, Any], old: Mapping[str, Kept]) -> tuple[rerun.Tree, str]:
    repository = clone.toplevel(asked.repository or asked.report)
    code = {(kept.record["provenance"]["code"]["commit"], kept.record["provenance"]["code"]["dirty"]) for kept in old.values()}
    if asked.here:
        root, commit = repository, ""
    else:
        commit = clone.commit_of(repository, asked.commit or _one_commit(asked.report, code))
        root = clone.made(repository, commit, asked.keep / "clone")
    lifecycle = asked.lifecycle or _lifecycle(root, plan["lifecycle"])
    options = ["--tier", plan["tier"], *(["--lifecycle", lifecycle] if lifecycle else [])]
    options += [part for each in asked.subjects for part in ("--subject", each)]
    options += [part for each in asked.data for part in ("--data", each)]
    return rerun.Tree(root, asked.keep, tuple(options)), commit


def _one_commit(report: Path, code: set[tuple[str | None, str | None]]) -> str:
    if len(code) != 1:
        raise HarnessError(f"{report}: its evidence names {len(code)} states of the code, expected one: --commit NAME says which is meant")
    ((commit, dirty),) = code
    if commit is None or dirty is not None:
        why = "was made outside a repository" if commit is None else f"was made at {commit[:12]} with uncommitted changes"
        raise HarnessError(
            f"{report}: {why}, so that its code cannot be had again. Name a commit (--commit), or take the present tree (--here)"
        )
    return commit


def _lifecycle(root: Path, name: str) -> str:
    """The lifecycle file of that name: the usual one, else one beside it. "" where the usual one is meant or there is none."""
    import tomllib

    def named(path: Path) -> str:
        try:
            return str(tomllib.loads(path.read_text("utf-8")).get("lifecycle", {}).get("name", ""))
        except (OSError, ValueError, AttributeError):
            return ""

    usual = root / "fixtures" / "lifecycle.toml"
    others = [path for path in sorted((root / "fixtures").glob("*.toml")) if path != usual and named(path) == name]
    return str(others[0]) if others and named(usual) != name else ""


# --- measuring ------------------------------------------------------------------------------------


def _measured(
    asked: Asked,
    tree: rerun.Tree,
    plan: Mapping[str, Any],
    old: Mapping[str, Kept],
    say: Callable[[str], None],
    progress: Progress,
) -> tuple[dict[str, Kept], dict[str, str], list[str]]:
    """New evidence by claim; why there is none of some; tests of this code of which the report knows nothing."""
    tests = {entry["claim"]["id"]: entry["test"] for entry in plan["claims"]}
    there = rerun.collected(tree)
    missing = sorted({tests[name].partition("::")[0] for name in old if tests[name] not in there})
    there |= rerun.collected(tree, missing) if missing else set()
    beyond = sorted(there - set(tests.values()))
    absent = {name: "no test of this code makes it" for name in old if tests[name] not in there}
    if not asked.loads and (other := _other_machine(old)):
        why = f"a speed or a load, and this is another machine ({other}); --loads measures it all the same"
        absent |= {name: why for name, kept in old.items() if name not in absent and beside.of_a_machine(kept)}
    if not asked.fresh:
        count = rerun.link_models(asked.store, tree.keep / "store")
        say(f"{count} models of {asked.store} may be used again, by their digests; nothing that was measured on them")
    new = {name: kept for name, kept in rerun.done_before(tree.keep).items() if name in old}
    todo = [name for name in old if name not in new and name not in absent]
    if new:
        say(f"{len(new)} were measured before the defence was cut short; {len(todo)} are left")
    done, total = len(new), len(old) - len(absent)

    def shown(name: str, kept: Kept) -> None:
        nonlocal done
        done += name in old
        was = old[name].verdict["outcome"] if name in old else "not in the report"
        say(f"[{done}/{total}] {name}  {was} -> {kept.verdict['outcome']}")

    if todo:
        rerun.measure(tree, [tests[name] for name in todo], shown, lambda: progress("claims measured again", min(done, total - 1), total))
        progress("claims measured again", total, total)
    return {name: kept for name, kept in rerun.done_before(tree.keep).items() if name in old}, absent, beyond


def _other_machine(old: Mapping[str, Kept]) -> str:
    """How this machine differs in what speeds depend on, "" if it does not."""
    here, then = machine(), next(iter(old.values())).record["provenance"]["machine"]
    return ", ".join(f"{key} {here.get(key)}, then {then.get(key)}" for key in _MACHINE if here.get(key) != then.get(key))


# --- beside ---------------------------------------------------------------------------------------


def _beside(
    asked: Asked,
    plan: Mapping[str, Any],
    old: Mapping[str, Kept],
    new: Mapping[str, Kept],
    absent: Mapping[str, str],
    around: Sequence[str],
) -> list[Compared]:
    entries = {entry["claim"]["id"]: entry for entry in plan["claims"]}
    limits = beside.limits_of(plan)
    made = []
    for name, kept in old.items():
        stage = stage_of_test(entries[name]["test"])
        if name in new:
            made.append(beside.compare(kept, new[name], stage, limits, around, same_code=not asked.here))
        else:
            why = absent.get(name, _CUT_SHORT)
            gone = why.startswith("no test") and not asked.here
            made.append(beside.settled(kept, stage, CONTRADICTS if gone else NOT_RERUN, why))
    return made


def _other_plans(old: Mapping[str, Any], plans: Sequence[Mapping[str, Any]]) -> list[str]:
    """What was sealed otherwise, though the code is said to be the same: scorers, golden sets, prompts."""
    found = []
    for key, what in (("scorers", "the code that scores and decides"), ("golden", "golden sets"), ("prompts", "prompts")):
        names = {
            name
            for new in plans
            for name in {*old.get(key, {}), *new.get(key, {})}
            if old.get(key, {}).get(name) != new.get(key, {}).get(name)
        }
        if names:
            found.append(f"{what} is not what the report's plan names: {', '.join(sorted(names)[:5])}{' …' if len(names) > 5 else ''}")
    return found


def _surroundings(old: Mapping[str, Kept], new: Mapping[str, Kept]) -> list[str]:
    """What of machine, packages and threads is another than it was."""
    pairs = [(old[name].record, kept.record) for name, kept in new.items()]
    if not pairs:
        return []
    was, now = ({**side["provenance"]["machine"], **side["provenance"]["packages"]} for side in pairs[0])
    keys = [key for key in sorted({*was, *now}) if key not in ("memory_bytes", "lifecycle-harness")]
    found = [f"{key} {now.get(key)}, then {was.get(key)}" for key in keys if was.get(key) != now.get(key)]
    threads: Counter[tuple[str, str]] = Counter()
    for one, other in pairs:
        then, here = (sorted(set(_threads((side["measurement"] or {}).get("conditions", {})))) for side in (one, other))
        threads[", ".join(here), ", ".join(then)] += here != then
    return found + [
        f"threads {here or 'not said'}, then {then or 'not said'} (claims: {k})" for (here, then), k in sorted(threads.items()) if k
    ]


def _threads(value: Any) -> Iterable[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key == "threads":
                yield str(inner)
            else:
                yield from _threads(inner)


def _released(plan: Mapping[str, Any], old: Mapping[str, Kept], new: Mapping[str, Kept]) -> dict[str, dict[str, str]]:
    """The release verdict of each build of which every claim was measured again."""
    said = {name: evidence.verdict_from_json(kept.verdict) for name, kept in new.items()}
    whole = {
        build: families
        for build, families in plan.get("releases", {}).items()
        if {claim for family in families for claim in family["claims"]} & set(old) <= set(new)
    }
    was = releases({"releases": whole}, {name: evidence.verdict_from_json(kept.verdict) for name, kept in old.items()})
    now = releases({"releases": whole}, said)
    return {build: {"old": was[build]["outcome"], "new": now[build]["outcome"]} for build in whole}


# --- what it comes to -----------------------------------------------------------------------------


def _record(
    asked: Asked, seal: str, commit: str, plan: Mapping[str, Any], compared: Sequence[Compared], released: Mapping[str, Any],
    around: Sequence[str], problems: Sequence[str], notes: Sequence[str], pages: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    counts = {outcome: sum(each.outcome == outcome for each in compared) for outcome in (AGREES, EXPLAINED, CONTRADICTS, NOT_RERUN)}
    cut = sum(each.why == _CUT_SHORT for each in compared)
    rerun_of = len(compared) - counts[NOT_RERUN]
    stands = bool(rerun_of) and not counts[CONTRADICTS] and not problems and not cut
    return {
        "schema": SCHEMA,
        "report": {"lifecycle": plan["lifecycle"], "tier": plan["tier"], "seal": seal, "claims": len(plan["claims"])},
        "measured_with": {"commit": commit or None, "here": asked.here, "fresh_models": asked.fresh, "only": list(asked.only)},
        "stands": stands,
        "sentence": _sentence(counts, len(compared), len(problems), cut),
        "alpha": asked.alpha,
        "counts": counts,
        "problems": list(problems),
        "notes": list(notes),
        "pages": dict(pages),
        "surroundings": list(around),
        "releases": dict(released),
        "claims": [_claim(each) for each in compared],
    }


def _sentence(counts: Mapping[str, int], n: int, problems: int, cut: int) -> str:
    said = f"of {n} claims {counts[AGREES]} agree, {counts[EXPLAINED]} differ within explainable variance, {counts[CONTRADICTS]} contradict"
    said += f", {counts[NOT_RERUN]} were not rerun"
    said += f" ({cut} of them cut short)" if cut else ""
    return said + (f"; {problems} more {'things are' if problems > 1 else 'thing is'} not as the report says" if problems else "")


def _claim(each: Compared) -> dict[str, Any]:
    shown = ("outcome", "estimate", "low", "high", "n", "sentence")
    return {
        "claim": each.claim, "stage": each.stage, "text": each.text, "outcome": each.outcome, "why": each.why,
        "report": {key: each.old[key] for key in shown} if each.old else None,
        "rerun": {key: each.new[key] for key in shown} if each.new else None,
        "inside": list(each.inside) if each.inside else None,
        "rows": asdict(each.rows) | {"changed": each.rows.changed}, "limit": each.limit, "tests": dict(each.tests),
        "significant": list(each.significant), "changed": list(each.changed),
    }  # fmt: skip
