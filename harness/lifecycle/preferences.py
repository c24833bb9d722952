"""Preference pairs of a lifecycle: sampled from the tuned model, checked exactly, kept call by call; and what training made of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from harness import evals, golden
from harness.errors import MissingNeed
from harness.golden import GoldenSet
from harness.train import preferences
from harness.train.first_step import FirstStep, derived_step, first_step
from harness.train.preferences import LogProbs, Pairs, Preference
from harness.train.recipe import Recipe
from harness.types import Generation, Sampling

if TYPE_CHECKING:
    from harness.lifecycle import Workbench

__all__ = ["DRAWS", "HELD", "PROMPTS", "SAMPLING", "Preferences"]

SAMPLING = Sampling(max_tokens=96, temperature=0.8)
PROMPTS, DRAWS = 631, 2  # what is sampled: prompts of the training rows, and answers to each
HELD = 0.4  # of the prompts: as many as a margin can be shown on

# What is planted in a first step.
ASTRAY, STALE = "another model as reference", "an adapter that is not fresh"
OUTSIDE, BESIDE = "beta outside of the logarithm", "the chosen answer taught beside"
SWAPPED, UNREAD = "the pairs swapped on their way", "an order that nobody reads"
_STEPS = 8


class Preferences:
    """The preference pairs of one run, and the measurements on those held out."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._found: dict[tuple[Any, ...], Pairs] = {}

    def pairs(self, policy: str, *, prompts: int = PROMPTS, draws: int = DRAWS, held: float = HELD) -> Pairs:
        """On-policy pairs: ``draws`` answers of ``policy`` to each of ``prompts`` training prompts, drawn at temperature .8.

        MissingNeed where the policy is a server: it has no weights here that could be trained.
        """
        key = (policy, prompts, draws, held)
        if key not in self._found:
            self._found[key] = self._paired(policy, self._rows(prompts), draws, held)
        return self._found[key]

    def _rows(self, limit: int) -> GoldenSet:
        return golden.load("addresses_train", self._bench.settings.root / "fixtures", limit=limit)

    def _paired(self, policy: str, rows: GoldenSet, draws: int, held: float) -> Pairs:
        self._check_weights(policy)
        asked = evals.prompts(rows)
        drawn = [self._bench.asking.generate(policy, "preference answers", asked, replace(SAMPLING, seed=n)) for n in range(draws)]
        answers = [answer for said, _ in drawn for answer in said]
        ended: dict[str, list[str]] = {}
        for answer in answers:
            if answer.finish == "stop":
                ended.setdefault(answer.id, []).append(answer.text)
        gold = {item["id"]: evals.answer_text(item["target"]) for item in rows.items}
        found = preferences.pairs(asked, ended, gold, _exactly(rows), held=held)
        said = {"draws": draws, "unended": sum(a.finish != "stop" for a in answers), "rows": rows.digest, "sampling": asdict(SAMPLING)}
        return replace(found, facts={**found.facts, **said})

    def margins(self, new: str, reference: str, *, rerun: int = 0) -> list[Mapping[str, Any]]:
        """One row a held-out pair of ``reference``: item, own, and under "new" and "old" what both arms give its answers.

        That is a mapping of chosen, rejected (nats), chosen_tokens and rejected_tokens. ``rerun`` reads the new arm in
        another order, in other batches: what rounding alone changes.
        """
        held = self.pairs(reference).held
        texts = preferences.texts(self._bench.path(reference), held)

        def read(name: str, rerun: int) -> dict[str, LogProbs]:
            return preferences.log_probs(self._bench.asking.score(name, "held-out pairs", texts, rerun=rerun)[0])

        arms = {"new": read(new, rerun), "old": read(reference, 0)}
        return [{"item": p.id, "own": p.own, **{arm: asdict(rows[p.id]) for arm, rows in arms.items()}} for p in held]

    def first_steps(self, policy: str, other: str, recipe: Recipe, count: int) -> Mapping[str, Any]:
        """The first step of DPO on ``count`` pairs, and what is planted in it, as numbers.

        By "usual", "again" and what is planted: ``losses`` of each pair in nats; ``flip``, the cosine of the gradients of
        pairs and swapped pairs; ``error``, how far the gradient is from the one derived by hand, beside the size of that.
        """
        for name in (policy, other):
            self._check_weights(name)
        model, foreign = self._bench.path(policy), self._bench.path(other)
        given = self._crossed(count)
        turned = [pair.swapped() for pair in given]
        inputs = {
            "policy": self._bench.inputs(policy), "other": self._bench.subject(other).digest,
            "training": recipe.same(), "pairs": [list(pair.row) for pair in given],
        }  # fmt: skip

        def measure() -> dict[str, Any]:
            done: list[FirstStep] = []

            def step(pairs: Sequence[Preference], **planted: Any) -> FirstStep:
                self._bench.progress(f"first steps of {policy}", len(done), _STEPS)
                done.append(first_step(model, pairs, recipe, **planted))
                return done[-1]

            beside = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
            usual, again, swapped = step(given), step(given), step(turned)
            astray, stale = step(given, reference=foreign), step(given, fresh=False)
            outside = step(given, beta=1.0, loss_weights=[recipe.beta])
            mixed, mixed_swapped = step(given, **beside), step(turned, **beside)
            derived = -(recipe.beta or 0.0) / 2 * derived_step(model, given, recipe).gradient
            self._bench.progress(f"first steps of {policy}", _STEPS, _STEPS)
            losses = {"usual": usual, "again": again, ASTRAY: astray, STALE: stale, OUTSIDE: outside}
            flips = {"usual": (usual, swapped), "again": (again, swapped), BESIDE: (mixed, mixed_swapped), UNREAD: (usual, again)}
            errors = {"usual": usual, "again": again, SWAPPED: swapped, ASTRAY: astray, BESIDE: mixed}
            return {
                "losses": {name: one.losses for name, one in losses.items()},
                "flip": {name: _cosine(one.gradient, other.gradient) for name, (one, other) in flips.items()},
                "error": {name: _off(one.gradient, derived) for name, one in errors.items()},
            }

        found: Mapping[str, Any] = self._bench.cached("first-steps", inputs, measure)
        return found

    def _check_weights(self, name: str) -> None:
        if self._bench.engine_of(name) in ("openai", "fake"):
            raise MissingNeed("weights", f"{name} has no weights here to be trained by preferences", "name its folder: hf:FOLDER")

    def _crossed(self, count: int) -> list[Preference]:
        """Pairs that nobody need sample: the gold answer of a row over that of the next."""
        rows = self._rows(count + 1)
        answers = [evals.answer_text(item["target"]) for item in rows.items]
        asked = evals.prompts(rows)[:count]
        return [Preference(p.id, p.messages, answers[i], answers[i + 1], False) for i, p in enumerate(asked)]


def _exactly(rows: GoldenSet) -> Callable[[str, str], bool]:
    """(id, answer) -> whether the answer is exactly the target."""
    alone = {item["id"]: replace(rows, items=(item,), n=1) for item in rows.items}

    def is_right(item: str, answer: str) -> bool:
        (sample,) = evals.score_answers(alone[item], [Generation(item, answer, "stop", 0, 0)])
        return sample.value == 1

    return is_right


def _cosine(a: Any, b: Any) -> float:
    return float(a @ b / ((a @ a) ** 0.5 * (b @ b) ** 0.5))


def _off(found: Any, derived: Any) -> float:
    """The size of the difference beside that of what was derived."""
    gap = found - derived
    return float((gap @ gap) ** 0.5 / (derived @ derived) ** 0.5)
