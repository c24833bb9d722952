"""All pytest code: options, the ``claim`` marker and fixtures, the run's evidence, the summary.

A test under ``@pytest.mark.claim(Claim(...))`` measures, calls ``claim.check(measurement)``, and
leaves exactly one evidence file before anything is raised. Nothing here acts unless a test that
carries a claim was selected.

    holds .   fails F   inconclusive ?   not evaluated N   expected to fail and fails x   error E/F

Exit status: 0 all hold · 1 a claim fails, is inconclusive (tier full), was lost or never checked ·
8 something needed was absent and not allowed by ``--allow-missing NAME``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.errors import EvidenceError, HarnessError, MissingNeed
from harness.progress import clock
from harness.stages import STAGES, chosen, left, stage_of
from harness.types import Claim, Control, Engine, Measurement, Subject, Verdict

if TYPE_CHECKING:
    from harness.config import Settings
    from harness.golden import GoldenSet
    from harness.lifecycle import Workbench

EXIT_NOT_EVALUATED = 8
_PROPERTY = "harness"
_CLAIM = pytest.StashKey["ClaimHandle"]()
_RUN = pytest.StashKey["Run"]()
_LEFT_OUT = pytest.StashKey[list[pytest.Item]]()
_CLOCK_STEP = 2.0  # seconds: a machine that keeps its clock by NTP moves it by less in a day
_BY_TIER = pytest.StashKey[str]()


class NotEvaluated(pytest.skip.Exception):  # type: ignore[misc,name-defined] # pytest does not type it as a class
    """Raised where something needed is absent: counted and named, never green."""


@dataclass
class Run:
    """The state of one pytest session that holds claims. Lives on ``config.stash``."""

    settings: Settings
    tier: str
    folder: Path
    worker: bool
    allowed: frozenset[str]
    plan_digest: str = ""
    unplanned: str = ""  # why this worker has no plan, and may measure nothing
    provenance: dict[str, Any] = field(default_factory=dict)
    unused: tuple[str, ...] = ()  # claims that the lifecycle file names and no test makes
    left_out: tuple[str, ...] = ()  # claims that were collected and deselected
    whole: bool = False  # nothing was left out: a baseline without a claim has lost it


# --- options ----------------------------------------------------------------------------------

_OPTIONS = (
    ("lifecycle", "FILE", "the lifecycle file (default: lifecycle.toml, else fixtures/lifecycle.toml)"),
    ("tier", "NAME", "how much is measured: full (default, the proof) or smoke (a subset, never proof)"),
    ("from", "STAGE", f"from this stage on: {', '.join(STAGES)}"),
    ("run-dir", "DIR", "where this run's evidence goes (default: reports/<time>-<tier>)"),
    ("store", "DIR", "where artifacts and measurements are kept for reuse (default: $HARNESS_STORE or the cache folder)"),
)
_LISTS = (
    ("only", "STAGE", "this stage alone, or several: data,train; repeatable"),
    ("subject", "NAME=SCHEME:WHERE", "a model of yours, like mine=gguf:./x.gguf; a new name is what gets tested; repeatable"),
    ("data", "NAME=FILE", "a dataset of yours to audit, like mine=./train.jsonl (several files with commas); repeatable"),
    ("allow-missing", "NAME", "let NAME be absent without changing the exit status; repeatable"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin: --run-dir is harness_run_dir."""
    group = parser.getgroup("harness", "claims about language models")
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--{name}", metavar=metavar, default=None, help=text)
        parser.addini(_ini(name), text, default="")
    for name, metavar, text in _LISTS:
        group.addoption(f"--{name}", metavar=metavar, action="append", default=[], help=text)
        parser.addini(_ini(name), text, type="linelist", default=[])


def _ini(name: str) -> str:
    return "harness_" + name.replace("-", "_")


def _option(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"--{name}") or config.getini(_ini(name)) or "")


def _options(config: pytest.Config, name: str) -> list[str]:
    return [*config.getini(_ini(name)), *config.getoption(f"--{name}")]


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker and the clock of the stages; everything else waits for a claim."""
    config.pluginmanager.register(Clock(config), "harness-clock")
    config.addinivalue_line("markers", "claim(claim): what this test claims, a Claim; each=function makes one from the test's parameters")


def settings_of(config: pytest.Config) -> Settings:
    """The lifecycle settings of this session. Raises pytest.UsageError with the reason if they are wrong."""
    from harness import config as configuration

    named = _option(config, "lifecycle")
    path = Path(named) if named else configuration.default_path(config.rootpath)
    try:
        known = configuration.load(path) if named or path.exists() else configuration.empty(config.rootpath)
        return known.with_subjects(_options(config, "subject")).with_data(_options(config, "data"))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def run_folder(config: pytest.Config) -> Path | None:
    """Where the evidence of this session lies; None in one without claims."""
    run = config.stash.get(_RUN, None)
    return run.folder if run is not None else None


def tier_of(config: pytest.Config) -> str:
    """The name of the tier of this session."""
    return _option(config, "tier") or "full"


def pytest_sessionstart(session: pytest.Session) -> None:
    """A wrong lifecycle file ends the session in one line, before any test is collected."""
    settings_of(session.config)


# --- stages -----------------------------------------------------------------------------------


def _stage(marks: Collection[str]) -> str:
    """The stage of a test with these marks; a test without a claim is none of ours."""
    return stage_of(marks) if "claim" in marks else ""


def _stage_of(item: pytest.Item) -> str:
    return _stage({mark.name for mark in item.iter_markers()})


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """In the order of the stages: what comes first fails first. Only the stages that were asked for."""
    only, since = _options(config, "only"), _option(config, "from")
    if only or since:
        try:
            wanted = chosen(only, since)
        except HarnessError as error:
            raise pytest.UsageError(str(error)) from error
        _keep(config, items, lambda item: _stage_of(item) in wanted)
    _leave_out(config, items)
    items.sort(key=lambda item: ("", *STAGES).index(_stage_of(item)))


def _keep(config: pytest.Config, items: list[pytest.Item], kept: Callable[[pytest.Item], bool]) -> None:
    if out := [item for item in items if not kept(item)]:
        items[:] = [item for item in items if kept(item)]
        config.hook.pytest_deselected(items=out)


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What the lifecycle file says that this tier does not ask for; a test that is named by its node id is asked for."""
    try:
        tier = settings_of(config).tier(tier_of(config))
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error
    if not tier.leave_out or any("::" in arg for arg in config.args):
        return
    before = {item: tier.left_out_by(claim.id) for item in items if (claim := _claim_of(item)) is not None}
    _keep(config, items, lambda item: before.get(item) is None)
    used = Counter(name for name in before.values() if name)
    config.stash[_BY_TIER] = f"tier {tier.name} leaves out {used.total()} claims: " + ", ".join(f"{k} ({n})" for k, n in used.items())


class Clock:
    """How long each stage takes; where somebody looks, a line when one begins: how many claims, and how long it may be."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.seconds: dict[str, float] = {}  # of the tests of each stage, setup and teardown with them
        self.ahead: dict[str, int] = {}  # stages that did not begin yet, and how many tests they have
        self.took: dict[str, float] = {}  # the last time
        self.claims = 0  # that were reported, by workers too
        self.started = time.time() - time.monotonic()

    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Before the first test."""
        run = self.config.stash.get(_RUN, None)
        if run is not None and not run.worker:
            self.ahead = Counter(filter(None, map(_stage_of, session.items)))
            self.took = _took(run)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Says that a stage begins, if one does; here output is not captured yet."""
        stage = _stage_of(item)
        out = self.config.pluginmanager.getplugin("terminalreporter")
        if (count := self.ahead.pop(stage, 0)) and out is not None and out.isatty:
            before, rest = self.took.get(stage), left(stage, list(self.ahead), self.took)
            out.ensure_newline()
            out.write_line(
                f"{stage}: {count} tests"
                + (f", {clock(before)} the last time" if before is not None else "")
                + (f", about {clock(rest)} to the end" if rest is not None and self.ahead else ""),
                bold=True,
            )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Adds up, in the controller too."""
        self.claims += _said(report) is not None
        if stage := _stage(report.keywords):
            self.seconds[stage] = self.seconds.get(stage, 0.0) + report.duration

    def step(self) -> float:
        """Seconds by which the machine's clock was set during this run; negative: back; 0 for less than any clock is set by."""
        step = time.time() - time.monotonic() - self.started
        return round(step, 1) if abs(step) >= _CLOCK_STEP else 0.0


def _took(run: Run) -> dict[str, float]:
    """Seconds of each stage in the newest run of this tier, beside this one, that had it."""
    from harness import evidence

    took: dict[str, float] = {}
    beside = sorted(run.folder.parent.glob("*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in beside[:10]:
        with contextlib.suppress(HarnessError, AttributeError):  # another's damaged run is no reason to stop
            facts = evidence.read_json(path)
            took = {**facts.get("seconds", {}), **took} if facts.get("tier") == run.tier else took
    return took


# --- the plan, sealed after collection and before the first sample ------------------------------


def _claim_of(item: pytest.Item) -> Claim | None:
    mark = item.get_closest_marker("claim")
    if mark is None:
        return None
    if len(mark.args) == 1 and not mark.kwargs:
        made = mark.args[0]
    elif not mark.args and set(mark.kwargs) == {"each"}:
        made = mark.kwargs["each"](**getattr(getattr(item, "callspec", None), "params", {}))
    else:
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.claim takes one Claim, or each=a function of the test's parameters")
    if not isinstance(made, Claim):
        raise pytest.UsageError(f"{item.nodeid}: @pytest.mark.claim got {type(made).__name__}, expected a Claim")
    return made


def pytest_deselected(items: Sequence[pytest.Item]) -> None:
    """Remembers what was left out: a release without some of its claims is no release."""
    for item in items:
        if item.get_closest_marker("claim") is not None:
            item.config.stash.setdefault(_LEFT_OUT, []).append(item)


@pytest.hookimpl(tryfirst=True)  # before the terminal asks what to say of the collection
def pytest_collection_finish(session: pytest.Session) -> None:
    """Fixes what will be claimed, and seals it before anything is measured."""
    config = session.config
    try:
        claims = [(item, claim) for item in session.items if (claim := _claim_of(item)) is not None]
        if not claims or config.option.collectonly:
            return
        _plan(config, claims)
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def _plan(config: pytest.Config, claims: Sequence[tuple[pytest.Item, Claim]]) -> None:
    from harness import evidence, provenance

    settings = settings_of(config)
    tier = tier_of(config)
    run = Run(
        settings, settings.tier(tier).name, _run_folder(config, tier), hasattr(config, "workerinput"),
        frozenset(_options(config, "allow-missing")), provenance=provenance.collect(config.rootpath),
    )  # fmt: skip
    handles: dict[str, ClaimHandle] = {}
    for item, declared in claims:
        handle = ClaimHandle(run, _at_tier(settings.effective(declared), tier), declared, item)
        twin = handles.setdefault(handle.claim.id, handle)
        if twin is not handle:
            raise pytest.UsageError(f"claim id {handle.claim.id!r} stands twice: {twin.item.nodeid} and {item.nodeid}")
        item.stash[_CLAIM] = handle
    left_out = {claim.id for item in config.stash.get(_LEFT_OUT, []) if (claim := _claim_of(item)) is not None}
    run.left_out = tuple(sorted(left_out - set(handles)))
    known = {name for claim_id in (*handles, *left_out) for name in (claim_id, claim_id.partition("[")[0])}
    run.unused = tuple(sorted(set(settings.claims) - known))
    run.whole = _whole(config) and not run.left_out
    body = _plan_body(run, handles)
    try:
        run.plan_digest = evidence.seal_plan(run.folder, body)
    except EvidenceError as error:  # nobody's command line is wrong: the disk is
        if not run.worker:
            pytest.exit(str(error), returncode=1)
        run.unplanned = str(error)  # xdist wants its workers alive: each claim says so
    config.stash[_RUN] = run
    if not run.worker:
        _end_on_sigterm()


def _whole(config: pytest.Config) -> bool:
    """Whether every claim of the project was asked for, as far as the command line tells. Decided by the controller; workers are told."""
    told = getattr(config, "workerinput", {}).get("harness_whole")
    if told is not None:
        return bool(told)
    narrowed = [config.getoption(name, None) for name in ("keyword", "markexpr", "ignore", "ignore_glob", "deselect")]
    named = [*_options(config, "only"), _option(config, "from"), *_options(config, "subject"), *_options(config, "data")]
    return config.args_source != pytest.Config.ArgsSource.ARGS and not any([*narrowed, *named])


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

    here = Path(__file__).parent
    files = [path for folder in ("audit", "evals", "judge", "stats", "train") for path in sorted((here / folder).rglob("*.py"))]
    return {path.relative_to(here).as_posix(): digest_file(path) for path in files}


def _run_folder(config: pytest.Config, tier: str) -> Path:
    """Decided once, by the controller; workers are told."""
    told = getattr(config, "workerinput", {}).get("harness_run")
    if told:
        return Path(told)
    named = _option(config, "run-dir")
    if not named:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        return config.rootpath / "reports" / f"{stamp}-{tier}-{os.urandom(3).hex()}"
    folder = Path(named).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise pytest.UsageError(f"--run-dir {folder}: not an empty folder; evidence is never mixed or overwritten, name a new one")
    return folder


_NODE_RUN = pytest.StashKey[Path]()


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist: tells each worker where the evidence of this run goes."""
    config = node.config
    if _NODE_RUN not in config.stash:
        config.stash[_NODE_RUN] = _run_folder(config, tier_of(config))
    node.workerinput["harness_run"] = str(config.stash[_NODE_RUN])
    node.workerinput["harness_whole"] = _whole(config)


def _end_on_sigterm() -> None:
    """SIGTERM ends the run like Ctrl-C: what was finished stays valid, servers and litter go."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


# --- the claim fixture --------------------------------------------------------------------------


class ClaimHandle:
    """What a test gets as ``claim``: the effective claim, and ``check``."""

    def __init__(self, run: Run, claim: Claim, declared: Claim, item: pytest.Item) -> None:
        self.run = run
        self.claim = claim
        self.item = item
        self.source = "lifecycle" if run.settings.effective(declared) != declared else "default"
        said = run.settings.override(claim.id)
        self.expect = said.expect if said else "holds"
        self.why = said.why if said else ""
        self.risk = run.settings.risk(claim.id)
        self.verdict: Verdict | None = None
        self.opened: dict[str, Subject] = {}

    def check(self, measurement: Measurement, *, controls: Sequence[Control] = ()) -> Verdict:
        """Judges, writes the evidence, then fails the test if the verdict asks for it."""
        from harness.judge import judge

        if not measurement.subjects:  # a test that measured with the engine fixture: say with which
            measurement = replace(measurement, subjects=tuple(self.opened.values()))
        verdict = judge(self.claim, measurement, controls=controls)
        self.record(verdict, measurement, controls)
        self._raise(verdict)
        return verdict

    def needs(self, n: int) -> None:
        """Ends the test as inconclusive before time is spent, if ``n`` units cannot carry the claim."""
        from harness.stats import plan

        claim, margin = self.claim, self.claim.bound.limit
        if claim.bound.kind == "non_inferior" and n < (least := plan.ni_zero_flip_n(margin, claim.level)):
            text = f"n = {n}: not even zero flips prove a margin of {margin:g}; that takes {least}. Nothing was measured"
            self._refuse("unattainable", text, n, max(least, claim.min_n))
        if n < claim.min_n:
            self._refuse("min_n", f"n = {n}, the plan asks for {claim.min_n}. Nothing was measured", n, claim.min_n)

    def _refuse(self, reason: str, text: str, n: int, needed: int) -> None:
        verdict = Verdict("inconclusive", reason, text, n=n, n_needed=needed, alpha=self.claim.level)
        self.record(verdict, None)
        self._raise(verdict)
        pytest.skip(text)  # smoke: shown as inconclusive, and the test goes no further

    def record(self, verdict: Verdict, measurement: Measurement | None, controls: Sequence[Control] = ()) -> None:
        """Writes this claim's evidence file. A claim is checked once."""
        from harness import evidence

        if self.verdict is not None:
            raise EvidenceError(f"claim {self.claim.id}: checked twice; one claim leaves one evidence file")
        if self.run.unplanned:
            raise EvidenceError(self.run.unplanned)
        notes = {"test": self.item.nodeid, "bound_from": self.source, "expect": self.expect, "why": self.why, "risk": self.risk}
        evidence.write_evidence(
            self.run.folder, self.claim, verdict, plan_digest=self.run.plan_digest, tier=self.run.tier,
            measurement=measurement, controls=controls, provenance=self.run.provenance, notes=notes,
        )  # fmt: skip
        self.verdict = verdict
        said = {"claim": self.claim.id, "outcome": verdict.outcome, "reason": verdict.reason, "sentence": verdict.sentence}
        self.item.user_properties.append((_PROPERTY, json.dumps({**said, "expect": self.expect, "tier": self.run.tier})))
        self.item.user_properties += self._numbers(verdict)

    def _numbers(self, verdict: Verdict) -> list[tuple[str, str]]:
        """For --junitxml, which writes a property for each; the run is not sealed yet, its plan is."""
        shown = {"estimate": verdict.estimate, "low": verdict.low, "high": verdict.high, "n": verdict.n}
        told = {"claim": self.claim.id, "outcome": verdict.outcome, **shown, "plan": self.run.plan_digest}
        plain = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in told.items() if value is not None}
        return [(f"{_PROPERTY}.{name}", value) for name, value in plain.items()]

    def _raise(self, verdict: Verdict) -> None:
        shown = f"{self.claim.id}: {verdict.outcome}: {verdict.sentence}\n  claimed: {self.claim.text}"
        if verdict.outcome == "not_evaluated":
            raise NotEvaluated(shown)
        if self.expect == "fails" and verdict.outcome == "fails":
            pytest.xfail(f"known: {self.why} ({verdict.sentence})")
        if self.expect == "fails" and verdict.outcome == "holds":
            pytest.fail(f"{shown}\n  expected to fail ({self.why}); it holds now: remove the expectation", pytrace=False)
        # A gate that does not work fails in every tier: it is no matter of n.
        undecided = verdict.outcome == "inconclusive" and self.run.tier == "smoke" and verdict.reason != "control_failed"
        if verdict.outcome != "holds" and not undecided:
            pytest.fail(shown, pytrace=False)


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> ClaimHandle:
    """The claim of this test: ``claim.check(measurement)``."""
    handle = request.node.stash.get(_CLAIM, None)
    if handle is None:
        raise pytest.UsageError(f"{request.node.nodeid}: uses the claim fixture without @pytest.mark.claim(Claim(...))")
    if handle.run.unplanned:
        raise EvidenceError(handle.run.unplanned)
    return handle  # type: ignore[no-any-return]


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Iterator[Workbench]:
    """The workbench of this session: subjects, golden sets, measurements."""
    from harness.lifecycle import Workbench
    from harness.store import Store, default_root

    config = request.config
    run = config.stash.get(_RUN, None)
    settings = run.settings if run else settings_of(config)
    store = Store(Path(_option(config, "store")).absolute() if _option(config, "store") else default_root())
    alone = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) <= 1
    tier = settings.tier(_option(config, "tier") or "full")
    logs = run.folder if run else None
    made = Workbench(settings, store, tier, _progress(config), quiet_machine=alone, logs=logs)
    yield made
    made.close()


def _progress(config: pytest.Config) -> Callable[[str, int, int], None]:
    """Progress past pytest's capture, on a terminal only."""
    from harness.progress import to_terminal

    capture = config.pluginmanager.getplugin("capturemanager")
    if hasattr(config, "workerinput") or capture is None:
        return lambda task, done, total: None
    with capture.global_and_fixture_disabled():
        show = to_terminal()

    def past_capture(task: str, done: int, total: int) -> None:
        with capture.global_and_fixture_disabled():
            show(task, done, total)

    return past_capture


@pytest.fixture
def engine(request: pytest.FixtureRequest, bench: Workbench) -> Callable[[str], Engine]:
    """``engine("mine")``: the opened engine of a subject named by --subject or the lifecycle file."""
    handle = request.node.stash.get(_CLAIM, None)

    def opened(name: str) -> Engine:
        if handle is not None:
            handle.opened[name] = bench.subject(name)
        return bench.engine(name)

    return opened


@pytest.fixture
def golden(bench: Workbench) -> Callable[[str], GoldenSet]:
    """``golden("tickets")``: a golden set, verified against its manifest, at this run's tier."""
    return bench.golden


# --- every claim leaves evidence ----------------------------------------------------------------


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Turns an absent need into a verdict while the test can still carry it."""
    with _need_as_verdict(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    """The same for fixtures: an engine may be missing before the test begins."""
    with _need_as_verdict(item):
        return (yield)


@contextlib.contextmanager
def _need_as_verdict(item: pytest.Item) -> Iterator[None]:
    handle = item.stash.get(_CLAIM, None)
    try:
        yield
    except MissingNeed as missing:
        if handle is None or handle.verdict is not None:
            raise
        from harness.judge import not_evaluated

        handle.record(not_evaluated(handle.claim, missing.need, str(missing)), None)
        raise NotEvaluated(f"{handle.claim.id}: not evaluated: {missing}") from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A claim that raised, or ended without ``check``, leaves an error; silence is never green."""
    report = yield
    handle = item.stash.get(_CLAIM, None)
    if handle is None or handle.verdict is not None or call.when == "teardown":
        return report
    if report.failed or report.skipped:
        what = call.excinfo.exconly() if call.excinfo is not None else "no reason given"
        _error(handle, report, "exception" if report.failed else "skipped", what)
    elif call.when == "call":
        _error(handle, report, "never_checked", "claim never checked: the test ended without claim.check(measurement)")
    return report


def _error(handle: ClaimHandle, report: Any, reason: str, what: str) -> None:
    text = what.splitlines()[0][:500] if what else "an exception without a message"
    try:
        handle.record(Verdict("error", reason, text, alpha=handle.claim.level), None)
    except EvidenceError as error:  # a full disk: the run must still end red
        text = f"{text} (and no evidence could be written: {error})"
    report.user_properties = list(handle.item.user_properties)
    if report.outcome != "failed":
        report.outcome = "failed"
        report.longrepr = f"{handle.claim.id}: {text}"


def _said(report: Any) -> dict[str, Any] | None:
    """What a report says of its claim, None for other tests."""
    for name, value in getattr(report, "user_properties", ()):
        if name == _PROPERTY:
            return json.loads(value)  # type: ignore[no-any-return]
    return None


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """The letters: ? inconclusive, N not evaluated; the rest is pytest's own."""
    said = _said(report)
    if said is None or report.when == "teardown" or (report.when == "setup" and report.passed):
        return None
    if said["outcome"] == "inconclusive":
        return "inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})
    if said["outcome"] == "not_evaluated":
        return "not evaluated", "N", ("NOT EVALUATED", {"yellow": True})
    return None


# --- the end of a run ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Closing:
    """What the summary says when all is over."""

    folder: Path
    seal: str
    records: tuple[dict[str, Any], ...]
    releases: dict[str, Any]  # by build
    changes: dict[str, Any] | None  # since the approved baselines
    lost: tuple[str, ...]  # planned, but without evidence
    unheeded: tuple[str, ...]  # not fulfilled, though pytest would have ended with 0
    absent: tuple[str, ...]  # needs that were missing and not allowed to be


_CLOSING = pytest.StashKey[Closing]()
_UNSEALED = pytest.StashKey[str]()  # why there is none


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int | pytest.ExitCode) -> None:
    """Counts what was planned against what is there, renders, seals, and sets the exit status."""
    config = session.config
    run = config.stash.get(_RUN, None)
    folder = run.folder if run else config.stash.get(_NODE_RUN, None)
    told = config.pluginmanager.getplugin("harness-clock")
    if hasattr(config, "workerinput") or folder is None or not (run or told.claims or (folder / "plan.json").is_file()):
        return
    try:
        closing = _close(folder, frozenset(_options(config, "allow-missing")), int(exitstatus), told)
    except (HarnessError, OSError, KeyError, TypeError) as error:  # a full disk, a folder that was deleted: red, and one line says why
        config.stash[_UNSEALED] = f"{folder}: {error}"
        session.exitstatus = int(exitstatus) or 1
        return
    config.stash[_CLOSING] = closing
    if int(exitstatus) == 0 and (closing.lost or closing.unheeded or closing.absent):
        session.exitstatus = 1 if closing.lost or closing.unheeded else EXIT_NOT_EVALUATED


def _close(folder: Path, allowed: frozenset[str], exitstatus: int, told: Clock) -> Closing:
    from harness import baselines, evidence, report
    from harness.recheck import ending, measured, releases

    evidence.sweep(folder)
    plan = evidence.read_json(folder / evidence.PLAN)
    records = [evidence.read_json(path) for path in sorted((folder / "evidence").glob("*.json"))]
    planned = evidence.digest((folder / evidence.PLAN).read_bytes())
    if any(record["plan"] != planned for record in records):
        raise EvidenceError(f"{evidence.PLAN} was changed while the run went on")
    lost = ending.lost(plan, records)
    absent = ending.absent(records, allowed)
    # The evidence decides, not what a test made of it: an exception may be caught, a failure marked as expected.
    unheeded = [] if exitstatus else ending.unheeded(records)
    status = exitstatus or (1 if lost or unheeded else EXIT_NOT_EVALUATED if absent else 0)
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
    return Closing(folder, evidence.seal_bundle(folder), tuple(records), released, changes, tuple(lost), tuple(unheeded), absent)


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
    for name in closing.unheeded:
        out.write_line(f"unheeded       {name}: its evidence does not say what its test reported; the exit status is 1", red=True)
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
    out.write_line(f"recheck  python -m harness recheck {closing.folder}")
    out.write_line(f"seal     {closing.seal}")


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Before time is spent: what shaped this run, and what its sets can decide."""
    run = config.stash.get(_RUN, None)
    if run is None:
        return []
    settings = run.settings
    wanted = [f"{name}: {_option(config, name)}" for name in ("store",) if _option(config, name)]
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
        *([config.stash[_BY_TIER]] if _BY_TIER in config.stash else []),
        *(f"allowed to be missing: {name}" for name in sorted(run.allowed)),
        *_unused(run.unused),
    ]


def _unused(names: Sequence[str]) -> Iterator[str]:
    """A name that no claim has is a slip of the pen; where only a part was collected, most of them are not."""
    if names:
        some = ", ".join(repr(name) for name in names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        yield f"no claim of this run is called {some}, as [claims] in the lifecycle file does"
