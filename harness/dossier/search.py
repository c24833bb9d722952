"""A question -> the record of a dossier: every step, what was found, and what of it was proven.

    DO1   the reproduction fails before the fix and passes after it
    DO2   the bisect is right: the parent passes, the commit fails, without it the bad end passes
    DO3   the reproduction is minimal: without any one of its pieces it does not fail
    DO4   a regression test exists: it fails on the broken side and passes on the other

The proofs are runs of their own, made after the search. Where a test never lied one run decides; where it did, each answer has its error.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from harness.dossier import pages, places, proofs
from harness.dossier.bisecting import Bisected, bisect
from harness.dossier.minimal import ddmin, most_tests
from harness.dossier.places import Commit, Worktrees
from harness.dossier.questions import Asked, Hunks, Pieces, Variants
from harness.dossier.runs import Book, Raw, execute, outcome_of, pytest_report
from harness.dossier.trials import MOST_LEARNT, Outcome, Rates, Trial, learnt, tried
from harness.errors import ClaimError, ConfigError
from harness.evidence import canonical, digest, write_atomic

__all__ = ["Ended", "History", "Search"]

Make = Callable[[], Raw]
_A_DAY = 86_400.0  # the regression test has limits of its own
_PROOFS = 20  # more of them than a dossier has: what the error of each is a share of


class Ended(Exception):
    """There is nothing to search: ``outcome`` is no_defect, fails_everywhere or cannot_tell."""

    def __init__(self, outcome: str, sentence: str) -> None:
        super().__init__(sentence)
        self.outcome, self.sentence = outcome, sentence


@dataclass(frozen=True)
class History:
    """Commits from a good one to a bad one. ``carried`` files are put into each of them; ``fix`` is a commit where it is mended."""

    asked: Asked
    trees: Worktrees
    good: Commit
    bad: Commit
    fix: Commit | None = None
    carried: Mapping[str, bytes] = field(default_factory=dict)

    def identity(self, commit: Commit) -> object:
        """What is run there."""
        return [list(self.asked.argv), commit.id, {name: digest(data) for name, data in self.carried.items()}]

    def run(self, commit: Commit) -> Raw:
        """One run in the commit's folder."""
        return self.inside(self.trees.at(commit, self.carried))

    def inside(self, folder: Path) -> Raw:
        """One run in a folder of a commit."""
        return self.asked.run(self.asked.argv, folder, places.environment(folder))


@dataclass
class Search:
    """One search: ``error`` is the probability that any of its answers is wrong, where runs lie; ``checks`` how often each end is run
    to see whether they do; ``flaky`` takes it for granted; ``message`` is what the failure looked for has in its output."""

    book: Book
    error: float = 0.05
    checks: int = 2
    flaky: bool = False
    message: str = ""
    say: Callable[[str], None] = lambda text: None
    failure: str = ""
    rates: Rates = field(default_factory=Rates)
    steps: list[dict[str, Any]] = field(default_factory=list)
    ends: dict[str, Any] = field(default_factory=dict)
    _left: int = 0

    # --- runs -------------------------------------------------------------------------------------------

    def _outcome(self, identity: object, number: int, make: Make) -> Outcome:
        raw = self.book.run(digest(canonical([identity, number])), make)
        return outcome_of(raw, self.failure, self.message)

    def _tried(self, stage: str, what: str, identity: object, make: Make, error: float, **more: Any) -> Trial:
        """A trial, as a step of the record and a line for whoever waits."""
        began = time.monotonic()
        found = tried(lambda number: self._outcome(identity, number, make), self.rates, error)
        self._step(stage, what, found, time.monotonic() - began, **more)
        return found

    def _step(self, stage: str, what: str, found: Trial, seconds: float, **more: Any) -> None:
        self.steps.append({"stage": stage, "what": what, **found._asdict(), "seconds": round(seconds, 3), **more})
        runs = "" if self.rates.certain else f", {found.failed} of {found.runs} runs failed"
        left = f"   at most {self._left} left" if self._left else ""
        self.say(f"{len(self.steps):>4}  {found.outcome.upper():<11}{stage}: {what}{runs}{left}")

    def _note_left(self, left: int) -> None:
        self._left = max(0, left - 1)  # without the one that begins

    # --- the two ends -----------------------------------------------------------------------------------

    def _look(self, good: tuple[object, Make], bad: tuple[object, Make]) -> None:
        """Learns how the bad end fails, that the good one does not, and whether runs lie. Raises Ended where there is nothing to find."""
        began = time.monotonic()
        bads = [self._end(bad, number) for number in range(self.checks)]
        goods = [self._end(good, number) for number in range(self.checks)] if self.failure and "unresolved" not in bads else []
        if self.flaky or len(set(bads)) > 1 or len(set(goods)) > 1:
            seen_good, seen_bad = self._learn(good, bad)
        else:
            seen_good, seen_bad = (Trial(runs[0] if runs else "unresolved", len(runs), runs.count("fail")) for runs in (goods, bads))
        for name, seen in (("bad", seen_bad), ("good", seen_good)):
            self.ends[name] = seen._asdict()
            if not seen.runs:
                continue  # the bad end does not fail: nothing was asked of the good one
            self._step("ends", f"the {name} end", seen, time.monotonic() - began)
        self._must_differ(seen_good, seen_bad)

    def _end(self, end: tuple[object, Make], number: int) -> Outcome:
        identity, make = end
        raw = self.book.run(digest(canonical([identity, number])), make)
        found = outcome_of(raw, self.failure, self.message)
        if found == "fail" and not self.failure:
            self.failure = raw.said
            self.ends["tail"] = raw.tail[-2000:]
        if found == "unresolved":
            self.ends["unresolved"] = f"{raw.said}: {raw.tail.strip()[-300:]}"
        return found

    def _learn(self, good: tuple[object, Make], bad: tuple[object, Make]) -> tuple[Trial, Trial]:
        outcomes: list[Outcome] = []

        def run_bad(number: int) -> Outcome:
            outcomes.append(self._end(bad, number))
            self.say(f"      runs may lie: the bad end failed in {outcomes.count('fail')} of {len(outcomes)} runs")
            return outcomes[-1]

        try:
            self.rates, seen_good, seen_bad = learnt(lambda number: self._end(good, number), run_bad, self.error / 4)
        except ClaimError as error:
            if "unresolved" not in outcomes and "fail" not in outcomes:
                rate = f"so that it fails in fewer than {100 * (1 - 0.05 ** (1 / MOST_LEARNT)):.1f} % of its runs, at 95 %"
                raise Ended("no_defect", f"the bad end passed in all of {len(outcomes)} runs, {rate}") from None
            raise Ended("cannot_tell", str(error)) from None
        return seen_good, seen_bad

    def _must_differ(self, good: Trial, bad: Trial) -> None:
        why = self.ends.get("unresolved", "")
        if bad.outcome == "unresolved":
            raise Ended("cannot_tell", f"the bad end cannot be run, or fails in another way than asked for: {why}")
        if bad.outcome == "pass":
            more = "" if self.flaky else "; if it fails now and then only, say --flaky"
            raise Ended("no_defect", f"the bad end passes ({bad.runs} runs): there is nothing to find{more}")
        if good.outcome == "unresolved":
            raise Ended("cannot_tell", f"the good end neither passes nor fails as the bad one does ({self.failure}): {why}")
        if good.outcome == "fail" and self.rates.certain:
            raise Ended("fails_everywhere", f"the good end fails as well ({self.failure}): name one that is good")

    # --- pieces -----------------------------------------------------------------------------------------

    def _reduce(self, variants: Variants, error: float) -> tuple[tuple[int, ...], dict[int, Trial]]:
        """The pieces that are needed, and for each the trial without it."""
        share = error / (most_tests(len(variants.pieces)) + 2)
        known: dict[tuple[int, ...], Trial] = {}

        def test(chosen: tuple[int, ...]) -> Outcome:
            what = f"{len(chosen)} of {len(variants.pieces)} {variants.kind}"
            identity = [variants.kind, variants.identity(chosen)]
            known[chosen] = self._tried("minimal", what, identity, partial(variants.run, chosen), share, kept=list(chosen))
            return known[chosen].outcome

        kept = ddmin(range(len(variants.pieces)), test, self._note_left)
        self._left = 0
        return kept, {i: known[tuple(j for j in kept if j != i)] for i in kept}

    def pieces(self, variants: Pieces, out: Path) -> dict[str, Any]:
        """Flags, settings or items: what is needed of them, and the proof. Raises Ended."""
        none: tuple[int, ...] = ()
        everything = tuple(range(len(variants.pieces)))

        def proof(what: str, chosen: tuple[int, ...]) -> Trial:
            return self._proof(what, variants.identity(chosen), partial(variants.run, chosen), share)

        self._look(*(([variants.kind, variants.identity(some)], partial(variants.run, some)) for some in (none, everything)))
        kept, without = self._reduce(variants, self.error / 2)
        share = self.error / 4 / _PROOFS
        found = [variants.pieces[i] for i in kept]
        before, after = proof(f"the reproduction with {len(kept)} of {len(everything)} {variants.kind}", kept), proof("without them", none)
        fixed = kept[1:] if kept and without[kept[0]].outcome == "pass" else ()
        proven = {
            "DO1": proofs.mended(before, after, "with the pieces", "without them"),
            "DO3": proofs.minimal(found, [without[i] for i in kept]),
            "DO4": self._regression(
                pages.regression(variants, kept, self._runs(share)),
                pages.regression(variants, fixed, self._runs(share)),
                out,
                variants.cwd,
                variants.cwd,
            ),
        }
        reproduction = {
            "argv": variants.asked.shown(variants.argv(kept, pages.FILE)),
            "file": variants.file,
            "text": variants.text(kept) if variants.file else "",
        }
        told = {"kind": variants.kind, "pieces": found, "of": len(everything), "names": list(variants.pieces)}
        return {"found": told, "reproduction": reproduction, "proofs": proven}

    def _runs(self, error: float) -> int:
        """How often a regression test must run the command, to miss a defect that is there with probability ``error`` at most."""
        return self.rates.passes(error)

    # --- commits ----------------------------------------------------------------------------------------

    def commits(self, history: History, out: Path, whole: bool = False) -> dict[str, Any]:
        """The first bad commit, the hunks of it that are needed (not with ``whole``), and the proof. Raises Ended."""
        line = history.trees.between(history.good, history.bad)
        self._look(*((self._at(history, commit)) for commit in (history.good, history.bad)))
        line, found = self._bisected(history, line)
        first, suspects = line[found.first], [line[place] for place in (*found.or_else, found.first)]
        parent = line[(found.or_else or (found.first,))[0] - 1]
        cause, proven = ({}, {}) if whole else self._cause(history, parent, first)
        share = self.error / 4 / _PROOFS
        right, fixed = self._right(history, (parent, first), suspects, str(cause.get("patch", "")), share)
        proven |= {**right, "DO4": self._kept_test(history, first, parent, out, share)}
        told: dict[str, Any] = {"kind": "commits", "commit": _told(first), "parent": _told(parent), "of": len(line) - 1}
        told |= {"or_else": list(map(_told, suspects[:-1])), "sure": found.sure, "runs": found.runs, **cause}
        argv = history.asked.shown(history.asked.argv)
        reproduction = {"argv": argv, "commit": first.id, "carried": sorted(history.carried), "fixed": fixed}
        return {"found": told, "reproduction": reproduction, "proofs": dict(sorted(proven.items()))}

    def _at(self, history: History, commit: Commit) -> tuple[object, Make]:
        return ["commit", history.identity(commit)], partial(history.run, commit)

    def _bisected(self, history: History, line: list[Commit]) -> tuple[list[Commit], Bisected]:
        """Into the branch, where a merge brought it: what is on the branch is on no line of first parents."""

        def run(place: int, number: int) -> Outcome:
            began = time.monotonic()
            identity, make = self._at(history, line[place])
            found = self._outcome(identity, number, make)
            self._step("bisect", str(line[place]), Trial(found, 1, int(found == "fail")), time.monotonic() - began, commit=line[place].id)
            return found

        while True:
            found = bisect(len(line), run, self.rates, self.error / 2, self._note_left)
            self._left = 0
            parents = history.trees.parents(line[found.first])
            if len(parents) < 2 or found.or_else:
                return line, found
            base = history.trees.branched(*parents[:2])
            share = self.error / 4 / _PROOFS
            outcomes = [self._tried("branch", str(commit), *self._at(history, commit), share).outcome for commit in (base, parents[1])]
            if outcomes != ["pass", "fail"]:
                return line, found  # the merge itself: neither side has it
            line = history.trees.between(base, parents[1])

    def _right(
        self, history: History, ends: tuple[Commit, Commit], suspects: Sequence[Commit], patch: str, error: float
    ) -> tuple[dict[str, Any], str]:
        """DO1 and DO2, and by what it was mended."""

        def at(what: str, commit: Commit) -> Trial:
            return self._proof(what, [what, history.identity(commit)], partial(history.run, commit), error)

        parent, first = (at(name, commit) for name, commit in zip(("the parent", "the commit"), ends, strict=True))
        bad = at("the bad end", history.bad)
        without, where = self._reverted(history, ends[1], suspects, patch, error)
        after, fixed = (without, f"taken back {where}") if history.fix is None else (at("the fix", history.fix), f"at {history.fix}")
        return {
            "DO1": proofs.mended(bad, after, "at the bad end", fixed),
            "DO2": proofs.bisected(parent, first, without, where),
        }, fixed

    def _proof(self, what: str, identity: object, make: Make, error: float) -> Trial:
        """A run of its own: none of the search counts."""
        return self._tried("proof", what, ["proof", identity], make, error)

    def _reverted(self, history: History, first: Commit, suspects: Sequence[Commit], patch: str, error: float) -> tuple[Trial, str]:
        """The bad end without the commit, or without the hunks that are needed; where neither applies, taken back on the spot."""
        trees, newest_first = history.trees, list(reversed(suspects))
        ways: list[tuple[str, Callable[[], Path]]] = [
            ("at the bad end", partial(trees.reverted, history.bad, newest_first, history.carried)),
            ("on the spot (later commits build upon it)", partial(trees.reverted, first, newest_first, history.carried)),
        ]
        if patch:
            back = partial(trees.fresh, history.bad, history.carried, patch.encode("utf-8", "surrogateescape"), reverse=True)
            ways.insert(1, ("at the bad end, by its needed hunks alone (later commits build upon the rest),", back))
        for where, make in ways:
            try:
                folder = make()
            except ConfigError:
                continue
            identity = [where, history.identity(history.bad), [each.id for each in suspects]]
            try:
                return self._proof(f"taken back {where}", identity, partial(history.inside, folder), error), where
            finally:
                trees.drop(folder)
        return Trial("unresolved", 0, 0), "nowhere, since it does not apply,"

    def _cause(self, history: History, parent: Commit, first: Commit) -> tuple[dict[str, Any], dict[str, Any]]:
        """Which hunks of the commit are needed, and DO3."""
        variants = Hunks.of(history.asked, history.trees, parent, first, history.carried)
        try:
            kept, without = self._reduce(variants, self.error / 4)
        except ValueError:
            return {}, {"DO3": proofs.proof(False, "the commit's own hunks, put on its parent, do not fail as it does")}
        names = [variants.pieces[i] for i in kept]
        patch = variants.patch(kept).decode("utf-8", "surrogateescape")
        told = {"hunks": names, "of_hunks": len(variants.pieces), "patch": patch}
        return told, {"DO3": proofs.minimal(names, [without[i] for i in kept])}

    # --- the regression test ------------------------------------------------------------------------------

    def _kept_test(self, history: History, first: Commit, parent: Commit, out: Path, error: float) -> dict[str, Any]:
        """The user's own test where one was given; else one that runs the command. Run in both folders."""
        if history.asked.pytest and self.rates.certain:
            broken, other = (
                self._proof(f"the regression test at {commit}", ["kept", history.identity(commit)], partial(history.run, commit), error)
                for commit in (first, parent)
            )
            return {**proofs.mended(broken, other, "at the commit", "at its parent"), "test": " ".join(history.asked.argv)}
        text = pages.command_test(history.asked.shown(history.asked.argv), self._runs(error), history.asked.limit_s)
        return self._regression(text, text, out, *(history.trees.at(commit, history.carried) for commit in (first, parent)))

    def _regression(self, broken: str, fixed: str, out: Path, cwd: Path, other: Path) -> dict[str, Any]:
        """Writes the test, and runs it on the broken side and its twin on the other."""
        path, twin = out / pages.TEST, out / ".fixed" / pages.TEST
        for file, text in ((path, broken), (twin, fixed)):
            write_atomic(file, text.encode("utf-8", "backslashreplace"))
        try:
            trials = self._pytest(path, cwd, "broken"), self._pytest(twin, other, "other")
        finally:
            twin.unlink()
            twin.parent.rmdir()
        return {**proofs.mended(*trials, "on the broken side", "on the other"), "test": pages.TEST}

    def _pytest(self, path: Path, cwd: Path, side: str) -> Trial:
        report = path.with_suffix(".xml")
        argv = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--noconftest", "-c", os.devnull]
        argv += [f"--rootdir={path.parent}", f"--junitxml={report}", str(path)]
        alone = {**places.environment(cwd), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        raw = execute(argv, cwd, _A_DAY, alone, pytest_report(report))
        report.unlink(missing_ok=True)
        outcome = outcome_of(raw, "")
        found = Trial(outcome, 1, int(outcome == "fail"))
        self._step("proof", f"the regression test on the {side} side", found, raw.seconds)
        return found


def _told(commit: Commit) -> dict[str, str]:
    return {"id": commit.id, "subject": commit.subject}
