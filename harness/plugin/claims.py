"""What a test gets as ``claim``; and that every claim leaves evidence, whatever becomes of its test."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Generator, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness.errors import EvidenceError, MissingNeed
from harness.plugin.session import PROPERTY, Run, said_of
from harness.types import Claim, Control, Measurement, Subject, Verdict

CLAIM = pytest.StashKey["ClaimHandle"]()


class NotEvaluated(pytest.skip.Exception):  # type: ignore[misc,name-defined] # pytest does not type it as a class
    """Raised where something needed is absent: counted and named, never green."""


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
        self.item.user_properties.append((PROPERTY, json.dumps({**said, "expect": self.expect, "tier": self.run.tier})))
        self.item.user_properties += self._numbers(verdict)

    def _numbers(self, verdict: Verdict) -> list[tuple[str, str]]:
        """For --junitxml, which writes a property for each; the run is not sealed yet, its plan is."""
        shown = {"estimate": verdict.estimate, "low": verdict.low, "high": verdict.high, "n": verdict.n}
        told = {"claim": self.claim.id, "outcome": verdict.outcome, **shown, "plan": self.run.plan_digest}
        plain = {name: str(value).encode("utf-8", "backslashreplace").decode() for name, value in told.items() if value is not None}
        return [(f"{PROPERTY}.{name}", value) for name, value in plain.items()]

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
    handle = request.node.stash.get(CLAIM, None)
    if handle is None:
        raise pytest.UsageError(f"{request.node.nodeid}: uses the claim fixture without @pytest.mark.claim(Claim(...))")
    if handle.run.unplanned:
        raise EvidenceError(handle.run.unplanned)
    return handle  # type: ignore[no-any-return]


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
    handle = item.stash.get(CLAIM, None)
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
    handle = item.stash.get(CLAIM, None)
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


def pytest_report_teststatus(report: pytest.TestReport, config: pytest.Config) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
    """The letters: ? inconclusive, N not evaluated; the rest is pytest's own."""
    said = said_of(report)
    if said is None or report.when == "teardown" or (report.when == "setup" and report.passed):
        return None
    if said["outcome"] == "inconclusive":
        return "inconclusive", "?", ("INCONCLUSIVE", {"yellow": True})
    if said["outcome"] == "not_evaluated":
        return "not evaluated", "N", ("NOT EVALUATED", {"yellow": True})
    return None
