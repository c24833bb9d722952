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

from harness.dossier import pages, places
from harness.dossier.bisecting import Bisected, bisect
from harness.dossier.minimal import ddmin, most_tests
from harness.dossier.places import Commit, Worktrees
from harness.dossier.questions import Asked, Hunks, Pieces, Variants
from harness.dossier.runs import Book, Raw, execute, outcome_of, pytest_report
from harness.dossier.trials import MOST_LEARNT, Outcome, Rates, Trial, learnt, tried
from harness.errors import ClaimError, ConfigError
from harness.evidence import canonical, digest

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
            self.ends[name] = {**seen._asdict(), "said": self.ends.get(name, {}).get("said", "")}
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
        proofs = {
            "DO1": _first(before, after, "with the pieces", "without them"),
            "DO3": _third(found, [without[i] for i in kept]),
            "DO4": self._regression(
                pages.regression(variants, kept, self._runs(share)),
                pages.regression(variants, fixed, self._runs(share)),
                out,
                variants.cwd,
                variants.cwd,
            ),
        }
        reproduction = {
            "argv": variants.asked.shown(variants.argv(kept, variants.file)),
            "file": variants.file,
            "text": variants.text(kept) if variants.file else "",
        }
        return {"found": {"kind": variants.kind, "pieces": found, "of": len(everything)}, "reproduction": reproduction, "proofs": proofs}

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
        share = self.error / 4 / _PROOFS
        proofs, fixed = self._right(history, parent, first, suspects, share)
        cause: dict[str, Any] = {}
        if not whole:
            cause, third = self._cause(history, parent, first)
            proofs["DO3"] = third
        proofs["DO4"] = self._kept_test(history, first, parent, out, share)
        told = {
            "kind": "commits",
            "commit": _told(first),
            "or_else": [_told(each) for each in suspects[:-1]],
            "parent": _told(parent),
            "of": len(line) - 1,
        }
        reproduction = {
            "argv": history.asked.shown(history.asked.argv),
            "commit": first.id,
            "carried": sorted(history.carried),
            "fixed": fixed,
        }
        return {
            "found": {**told, "sure": found.sure, "runs": found.runs, **cause},
            "reproduction": reproduction,
            "proofs": dict(sorted(proofs.items())),
        }

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
        self, history: History, parent: Commit, first: Commit, suspects: Sequence[Commit], error: float
    ) -> tuple[dict[str, Any], str]:
        """DO1 and DO2, and by what it was mended."""
        before = self._proof("the parent", ["parent", history.identity(parent)], partial(history.run, parent), error)
        broken = self._proof("the commit", ["first", history.identity(first)], partial(history.run, first), error)
        bad = self._proof("the bad end", ["bad", history.identity(history.bad)], partial(history.run, history.bad), error)
        without, where = self._reverted(history, first, suspects, error)
        wrong = [
            f"{name} {_was(trial)}"
            for name, trial, wanted in (
                ("the parent", before, "pass"),
                ("the commit", broken, "fail"),
                (f"without it {where}", without, "pass"),
            )
            if trial.outcome != wanted
        ]
        sentence = "; ".join(wrong) or f"the parent {_was(before)}, the commit {_was(broken)}, without it {where} the test {_was(without)}"
        mended, fixed = (
            (without, f"without it {where}") if history.fix is None else (self._fix(history, history.fix, error), str(history.fix))
        )
        return {
            "DO1": _first(bad, mended, "at the bad end", f"at {fixed}" if history.fix else fixed),
            "DO2": _proof(not wrong, sentence),
        }, fixed

    def _proof(self, what: str, identity: object, make: Make, error: float) -> Trial:
        return self._tried("proof", what, ["proof", identity], make, error)

    def _fix(self, history: History, fix: Commit, error: float) -> Trial:
        return self._proof("the fix", ["fix", history.identity(fix)], partial(history.run, fix), error)

    def _reverted(self, history: History, first: Commit, suspects: Sequence[Commit], error: float) -> tuple[Trial, str]:
        """The bad end without the commit; where that does not apply, the commit taken back on the spot."""
        newest_first = list(reversed(suspects))
        for top, where in ((history.bad, "at the bad end"), (first, "on the spot (later commits build upon it)")):
            try:
                folder = history.trees.reverted(top, newest_first, history.carried)
            except ConfigError:
                continue
            identity = ["revert", history.identity(top), [each.id for each in suspects]]
            try:
                return self._proof(f"taken back {where}", identity, partial(history.inside, folder), error), where
            finally:
                history.trees.drop(folder)
        return Trial("unresolved", 0, 0), "(it cannot be taken back)"

    def _cause(self, history: History, parent: Commit, first: Commit) -> tuple[dict[str, Any], dict[str, Any]]:
        """Which hunks of the commit are needed."""
        variants = Hunks.of(history.asked, history.trees, parent, first, history.carried)
        try:
            kept, without = self._reduce(variants, self.error / 4)
        except ValueError:
            return {}, _proof(False, "the commit's own hunks, put on its parent, do not fail as it does: it cannot be made smaller")
        patch = variants.patch(kept).decode("utf-8", "replace")
        return {"hunks": [variants.pieces[i] for i in kept], "of_hunks": len(variants.pieces), "patch": patch[:20_000]}, _third(
            [variants.pieces[i] for i in kept], [without[i] for i in kept]
        )

    # --- the regression test ------------------------------------------------------------------------------

    def _kept_test(self, history: History, first: Commit, parent: Commit, out: Path, error: float) -> dict[str, Any]:
        """The user's own test where one was given; else one that runs the command. Run in both folders."""
        if history.asked.pytest and self.rates.certain:
            broken, other = (
                self._proof(f"the regression test at {commit}", ["kept", history.identity(commit)], partial(history.run, commit), error)
                for commit in (first, parent)
            )
            return {**_first(broken, other, "at the commit", "at its parent"), "test": " ".join(history.asked.argv)}
        text = pages.command_test(history.asked.shown(history.asked.argv), self._runs(error), history.asked.limit_s)
        return self._regression(text, text, out, *(history.trees.at(commit, history.carried) for commit in (first, parent)))

    def _regression(self, broken: str, fixed: str, out: Path, cwd: Path, other: Path) -> dict[str, Any]:
        """Writes the test, and runs it on the broken side and its twin on the other."""
        path, twin = out / pages.TEST, out / ".fixed" / pages.TEST
        for file, text in ((path, broken), (twin, fixed)):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        try:
            trials = self._pytest(path, cwd, "broken"), self._pytest(twin, other, "other")
        finally:
            twin.unlink()
            twin.parent.rmdir()
        return {**_first(*trials, "on the broken side", "on the other"), "test": pages.TEST}

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


# --- proofs -------------------------------------------------------------------------------------------


def _proof(holds: bool, sentence: str) -> dict[str, Any]:
    return {"holds": holds, "sentence": sentence}


def _was(trial: Trial) -> str:
    word = {"pass": "passes", "fail": "fails", "unresolved": "cannot be told"}[trial.outcome]
    return f"{word} ({trial.failed} of {trial.runs} runs failed)" if trial.runs > 1 else word


def _first(before: Trial, after: Trial, where: str, other: str) -> dict[str, Any]:
    return _proof(before.outcome == "fail" and after.outcome == "pass", f"{where} it {_was(before)}, {other} it {_was(after)}")


def _third(names: Sequence[str], without: Sequence[Trial]) -> dict[str, Any]:
    """Minimal if it passes without any one piece. Where it cannot be run without one, that is said: the piece is needed to run at all."""
    open_ends = [name for name, trial in zip(names, without, strict=True) if trial.outcome != "pass"]
    sentence = f"without any one of {len(names)} pieces it passes" if names else "nothing is needed"
    if open_ends:
        sentence = f"without {open_ends[0]!r} it cannot be told ({len(open_ends)} of {len(names)} pieces)"
    return _proof(bool(names) and not open_ends, sentence)


def _told(commit: Commit) -> dict[str, str]:
    return {"id": commit.id, "subject": commit.subject}
