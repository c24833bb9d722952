"""Judges at work: models and rules are asked, calibrated on people's labels, and kept from speaking where they are not fit.

Answers of models are kept by content. A calibration is derived from them and from people's labels each time it is
asked for, so that there is none to go stale; a judge that was changed is another judge, which nobody has calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError, MissingNeed, nearest
from harness.evals.judges import calibration, model, reading
from harness.evals.judges.calibration import Calibration
from harness.evals.judges.model import Answer, Judge, Pair
from harness.golden import GoldenSet
from harness.types import Measurement, Prompt, Sample, Sampling, Subject

if TYPE_CHECKING:
    from harness.lifecycle import Workbench

__all__ = ["Judging"]


class Judging:
    """The judges of one run."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    # --- judges -----------------------------------------------------------------------------------

    @property
    def names(self) -> list[str]:
        """The judges of the lifecycle file."""
        return list(self._bench.settings.judges)

    def judge(self, name: str) -> Judge:
        """The judge of ``[judges.NAME]``; ConfigError if there is none, or its table is wrong."""
        known = self._bench.settings.judges
        if name not in known:
            raise ConfigError(f"no judge {name!r}; {nearest(name, list(known))}; add [judges.{name}] to the lifecycle file")
        asked = known[name].get("subject")
        by_text = isinstance(asked, str) and asked and self._bench.engine_of(asked) == "openai"
        return model.parse(name, known[name], reads="text" if by_text else "logprob")

    def digest(self, judge: Judge) -> str:
        """The digest that a calibration is bound to: everything that shapes the judge's labels."""
        return model.digest(judge, self.weights(judge))

    def weights(self, judge: Judge) -> str:
        """The digest of the model that a judge asks; "" for a rule."""
        return self._bench.subject(judge.subject).digest if judge.subject else ""

    # --- asking -----------------------------------------------------------------------------------

    def labels(self, judge: Judge, answers: Sequence[Answer], *, rerun: int = 0) -> tuple[Sample, ...]:
        """The judge's label of each answer: 1, 0, or no value; as ``rerun`` 1, 2 ... asked once more, in another order."""
        if judge.rule is not None:
            return tuple(_said(answer.id, judge.rule(answer)) for answer in answers)
        texts = [(answer.id, reading.about_answer(judge, answer)) for answer in answers]
        return self._ask(judge, texts, judge.words, "labels", rerun)

    def preferences(self, judge: Judge, pairs: Sequence[Pair]) -> tuple[Sample, ...]:
        """Which of two the judge prefers, asked in the order given: 1 the first, 0 the second, .5 neither.

        MissingNeed where a model has no pairwise rubric.
        """
        if judge.rule is not None:
            return tuple(_said(pair.id, judge.preference(pair)) for pair in pairs)
        if not judge.pairwise:
            raise MissingNeed("pairwise-rubric", f"judge {judge.name} is not told how to compare", f"add pairwise to [judges.{judge.name}]")
        texts = [(pair.id, reading.about_pair(judge, pair)) for pair in pairs]
        return self._ask(judge, texts, reading.SIDES, "preferences", 0)

    def both_orders(self, judge: Judge, pairs: Sequence[Pair]) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
        """The preferences in the order given, and with the two answers swapped."""
        swapped = [replace(pair, first=pair.second, second=pair.first) for pair in pairs]
        return self.preferences(judge, pairs), self.preferences(judge, swapped)

    def _ask(self, judge: Judge, texts: Sequence[tuple[str, str]], words: tuple[str, str], what: str, rerun: int) -> tuple[Sample, ...]:
        asking, fresh = self._bench.asking, f"judge {rerun}" if rerun else "judge"
        if judge.reads == "logprob":
            scored = [reading.to_score(name, text, words) for name, text in texts]
            scores, _ = asking.score(judge.subject, what, scored, fresh=fresh, rerun=rerun)
            return tuple(map(reading.read_logprobs, scores))
        asked = [reading.to_generate(name, text, words) for name, text in texts]
        answers, _ = asking.generate(judge.subject, what, asked, reading.sampling(judge), fresh=fresh, rerun=rerun)
        return tuple(reading.read_text(answer, words) for answer in answers)

    # --- calibration --------------------------------------------------------------------------------

    def labelled(self, judge: Judge) -> tuple[list[tuple[Answer, float]], int]:
        """The answers that people labelled for this judge's task, without those its examples show, and how many those are."""
        shown = [example.answer for example in judge.examples]
        return calibration.split(model.labelled(self._golden(judge)), shown, lambda row: row[0].text)

    def _golden(self, judge: Judge) -> GoldenSet:
        return self._bench.whole_set(judge.labels)  # a person's work, not a model's: all of it, always

    def calibration(self, judge: Judge) -> Calibration:
        """The judge beside people, fit or not."""
        rows, shown = self.labelled(judge)
        said = self.labels(judge, [answer for answer, _ in rows])
        people = {answer.id: label for answer, label in rows}
        return calibration.calibrate(judge.name, self.digest(judge), judge.task, self._golden(judge).digest, said, people, shown)

    def calibrated(self, name: str) -> Calibration | None:
        """The record of a judge that is fit; None for one that is not."""
        record = self.calibration(self.judge(name))
        return record if record.fit else None

    def calibrated_for(self, task: str) -> str | None:
        """The first judge of the lifecycle file that is fit for ``task``; None where there is none."""
        return next((name for name in self.names if self._bench.settings.judges[name].get("task") == task and self.calibrated(name)), None)

    def require(self, name: str) -> Calibration:
        """The record of a judge whose scores may stand; MissingNeed("calibrated-judge") for any other."""
        record = self.calibration(self.judge(name))
        if not record.fit:
            how = "write a better rubric, name a better subject, or label more answers: python -m harness label export"
            raise MissingNeed("calibrated-judge", f"judge {name} is not fit for {record.task!r}: {record.why}", how)
        return record

    def conditions(self, judge: Judge, record: Calibration | None, *, corrected: bool = False) -> dict[str, Any]:
        """What a measurement says of the judge that scored it: the rule ``uncalibrated_judge`` reads the first two.

        A record counts if it is bound to the judge as it is now, and the judge is fit. Scores that are ``corrected`` by
        people's labels need a record only: the correction is right whatever the judge's errors are.
        """
        mine = self.digest(judge)
        if record is None or not record.valid_for(mine):
            return {"judge": mine, "calibration": None}
        counts = record.fit or corrected
        return {"judge": mine, "calibration": record.digest if counts else None, "record": calibration.to_dict(record)}

    # --- what is measured with judges ---------------------------------------------------------------

    def corrected(
        self,
        judge: Judge,
        new: Sequence[Answer],
        old: Sequence[Answer],
        people: Mapping[str, tuple[float, float]],
        subjects: tuple[Subject, ...] = (),
    ) -> Measurement:
        """The judge's scores of two arms beside people's labels (new, old) of some items, for a ``corrected_difference``.

        PPI++ is right whatever the judge's errors are, so that the record must be there and need not be fit.
        """
        arms = {"new": self.labels(judge, new), "old": self.labels(judge, old)}
        rows = [replace(sample, arm=arm) for arm, scored in arms.items() for sample in scored]
        rows += [Sample(item, pair[i], arm=f"{arm}:human") for item, pair in people.items() for i, arm in enumerate(("new", "old"))]
        said = self.conditions(judge, self.calibration(judge), corrected=True)
        return Measurement(f"{judge.task}_by_people", tuple(rows), subjects, said)

    def own_pairs(self, judge: Judge, equals: Judge, limit: int) -> list[Pair]:
        """Pairs of the judge's own answer (first) and another model's to the same request that ``equals`` labels alike."""
        rows, _ = self.labelled(judge)
        asked = [Prompt(answer.id, ({"role": "user", "content": answer.prompt},)) for answer, _ in rows[:limit]]
        said, _ = self._bench.asking.generate(judge.subject, "own answers", asked, Sampling(max_tokens=48), fresh="judge")
        mine = [Answer(answer.id, answer.prompt, one.text) for (answer, _), one in zip(rows, said, strict=False) if one.text.strip()]
        theirs = {answer.id: answer for answer, _ in rows}
        alike = zip(self.labels(equals, mine), self.labels(equals, [theirs[a.id] for a in mine]), strict=True)
        return [Pair(a.id, a.prompt, a.text, theirs[a.id].text) for a, (x, y) in zip(mine, alike, strict=True) if x.value == y.value]


def _said(item: str, value: float | None) -> Sample:
    return Sample(item, value) if value is not None else Sample(item, None, status="parse_failure")
