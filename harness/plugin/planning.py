"""The plan: what will be claimed, sealed after collection and before the first sample."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from harness.errors import EvidenceError, HarnessError, meant_by
from harness.plugin.claims import CLAIM, ClaimHandle
from harness.plugin.options import option, options, settings_of, tier_of
from harness.plugin.session import LEFT_OUT, NODE_RUN, RUN, Run, claim_of
from harness.types import Claim


@pytest.hookimpl(tryfirst=True)  # before the terminal asks what to say of the collection
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fixes what will be claimed, and seals it before anything is measured."""
    config = session.config
    try:
        claims = [(item, claim) for item in session.items if (claim := claim_of(item)) is not None]
        if not claims or config.option.collectonly:
            return
        _plan(config, claims)
    except (HarnessError, pytest.UsageError) as error:
        if hasattr(config, "workerinput"):
            session.shouldfail = str(error)  # all that the controller hears of it
        raise pytest.UsageError(str(error)) from error


def _plan(config: pytest.Config, claims: Sequence[tuple[pytest.Item, Claim]]) -> None:
    from harness import evidence, provenance

    settings = settings_of(config)
    tier = tier_of(config)
    run = Run(
        settings, settings.tier(tier).name, _run_folder(config, tier), hasattr(config, "workerinput"),
        frozenset(options(config, "allow-missing")), provenance=provenance.collect(config.rootpath),
    )  # fmt: skip
    handles: dict[str, ClaimHandle] = {}
    for item, declared in claims:
        handle = ClaimHandle(run, _at_tier(settings.effective(declared), tier), declared, item)
        twin = handles.setdefault(handle.claim.id, handle)
        if twin is not handle:
            raise pytest.UsageError(f"claim id {handle.claim.id!r} stands twice: {twin.item.nodeid} and {item.nodeid}")
        item.stash[CLAIM] = handle
    left_out = {claim.id for item in config.stash.get(LEFT_OUT, []) if (claim := claim_of(item)) is not None}
    run.left_out = tuple(sorted(left_out - set(handles)))
    known = {name for claim_id in (*handles, *left_out) for name in (claim_id, claim_id.partition("[")[0])}
    run.unused = tuple(sorted(set(settings.claims) - known))
    run.whole = _whole(config) and not run.left_out
    if run.whole and run.unused:  # a bound that somebody fixed would bind nothing
        raise pytest.UsageError(_nobody(run.unused, settings.path, known))
    body = _plan_body(run, handles)
    try:
        run.plan_digest = evidence.seal_plan(run.folder, body)
    except EvidenceError as error:  # nobody's command line is wrong: the disk is
        if not run.worker:
            pytest.exit(str(error), returncode=1)
        run.unplanned = str(error)  # xdist wants its workers alive: each claim says so
    config.stash[RUN] = run
    if not run.worker:
        _end_on_sigterm()


def _whole(config: pytest.Config) -> bool:
    """Whether every claim of the project was asked for, as far as the command line tells. Decided by the controller; workers are told."""
    told = getattr(config, "workerinput", {}).get("harness_whole")
    if told is not None:
        return bool(told)
    narrowed = [config.getoption(name, None) for name in ("keyword", "markexpr", "ignore", "ignore_glob", "deselect")]
    named = [*options(config, "only"), option(config, "from"), *options(config, "subject"), *options(config, "data")]
    return _all_paths(config) and not any([*narrowed, *named])


def _all_paths(config: pytest.Config) -> bool:
    """Whether no part of the project was named: nothing at all, or all that pytest would collect unasked."""
    if config.args_source != pytest.Config.ArgsSource.ARGS:
        return True
    given = {(config.invocation_params.dir / path).resolve() for path in config.args}
    wanted = [(config.rootpath / path).resolve() for path in config.getini("testpaths")] or [config.rootpath.resolve()]
    return all({path, *path.parents} & given for path in wanted)


def _nobody(names: Sequence[str], path: Path, known: Collection[str]) -> str:
    """What to do about [claims] that no test makes."""
    near = (f"{name!r} ({meant})" if (meant := meant_by(name, known)) else repr(name) for name in names)
    return f"{path}: [claims]: no test makes {', '.join(near)}; mend the name, or delete the entry. All claims: pytest --collect-only -q"


def _at_tier(claim: Claim, tier: str) -> Claim:
    """Smoke takes the n it is given: its verdicts are stamped and are no proof."""
    return replace(claim, min_n=1) if tier == "smoke" else claim


def _plan_body(run: Run, handles: dict[str, ClaimHandle]) -> dict[str, Any]:
    from harness import __version__, baselines, evidence, golden

    root = run.settings.golden
    sets = golden.names(root) if (root / "manifest.toml").is_file() else []
    # Smoke measures a subset: it is held against nothing that was approved of the whole.
    approved = {} if run.tier == "smoke" else baselines.load(root / "baselines", run.settings.name)
    return {
        "whole": run.whole,
        **({"baselines": baselines.planned(approved)} if approved else {}),
        "harness": __version__,
        "lifecycle": run.settings.name,
        "tier": run.tier,
        "golden": {name: golden.manifest_entry(name, root)["sha256"] for name in sets},
        "prompts": {name: golden.manifest_entry(name, root).get("prompt", "") for name in sets},
        "scorers": _scorer_digests(),
        "subjects": {s.name: s.scheme for s in run.settings.subjects.values()},
        "claims": [
            {
                "claim": evidence.claim_to_json(h.claim),
                "test": h.item.nodeid,
                "source": h.source,
                "expect": h.expect,
                "why": h.why,
                "risk": h.risk,
            }
            for _, h in sorted(handles.items())
        ],
        "releases": _releases(run, sorted(handles)),
    }


def _releases(run: Run, claim_ids: list[str]) -> dict[str, Any]:
    """Which families of claims each build must show; none at tier smoke, which proves nothing."""
    if run.tier == "smoke":
        return {}
    families = run.settings.releases(sorted({*claim_ids, *run.left_out}))
    planned = {build: found for build, found in families.items() if {c for f in found for c in f.claims} & set(claim_ids)}
    return {build: [asdict(family) for family in found] for build, found in planned.items()}


def _scorer_digests() -> dict[str, str]:
    """Digest of the code that scores and decides: a changed scorer is a changed plan."""
    from harness.store import digest_file

    here = Path(__file__).parents[1]
    files = [path for folder in ("audit", "evals", "judge", "stats", "train") for path in sorted((here / folder).rglob("*.py"))]
    return {path.relative_to(here).as_posix(): digest_file(path) for path in files}


def _run_folder(config: pytest.Config, tier: str) -> Path:
    """Decided once, by the controller; workers are told."""
    told = getattr(config, "workerinput", {}).get("harness_run")
    if told:
        return Path(told)
    named = option(config, "run-dir")
    if not named:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return config.rootpath / "reports" / f"{stamp}-{tier}-{os.urandom(3).hex()}"
    folder = Path(named).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise pytest.UsageError(f"--run-dir {folder}: not an empty folder; evidence is never mixed or overwritten, name a new one")
    return folder


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: tells each worker where the evidence of this run goes."""
    config = node.config
    if NODE_RUN not in config.stash:
        config.stash[NODE_RUN] = _run_folder(config, tier_of(config))
    node.workerinput["harness_run"] = str(config.stash[NODE_RUN])
    node.workerinput["harness_whole"] = _whole(config)


def _end_on_sigterm() -> None:
    """SIGTERM ends the run like Ctrl-C: what was finished stays valid, servers and litter go."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
