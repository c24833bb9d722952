"""The trainings of a run, as the evidence of its claims keeps them: read with care, whatever a stranger's evidence holds.

A claim that carries ``training`` in its conditions (the training.json of a run, or several by name) tells all of it. The
others tell a curve: T8 of the training itself and of one per seed, R2 and R6 of drills, T11 of failed experiments and
the control beside each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from harness.report.datasets import count, mapping, mappings, told
from harness.report.view import ClaimView, RunView, finite

__all__ = ["Training", "held_out", "trainings_of"]

_MOST_STEPS = 100_000


@dataclass(frozen=True, slots=True)
class Training:
    """One training. ``kind`` is "training", "failed", "control" or "drill"; ``report`` what is told of it."""

    name: str
    kind: str
    claim: ClaimView
    report: Mapping[str, Any]

    @property
    def recipe(self) -> Mapping[str, Any]:
        """How it was trained; empty where the evidence does not say."""
        return mapping(self.report.get("recipe"))

    @property
    def loss(self) -> tuple[float, ...]:
        """Nats a token, one number a step."""
        return _curve(self.report.get("loss"))

    @property
    def margins(self) -> tuple[float, ...]:
        """Reward of the chosen answer above the rejected one, one number a step; empty but for preferences."""
        return _curve(mapping(self.report.get("rewards")).get("margins"))

    @property
    def preferences(self) -> bool:
        """Whether it is known to be trained by preference: its loss is on another scale then."""
        return bool(self.margins) or str(self.recipe.get("objective", "sft")) != "sft"

    @property
    def steps(self) -> int | None:
        """Steps of the whole run."""
        return count(self.report.get("steps"))

    @property
    def failed(self) -> bool:
        """Whether it ended by an error."""
        return self.report.get("outcome") == "failed"

    @property
    def ended(self) -> str:
        """Where and why it is no more, or why it is kept as a failure; "" for a run that was fine."""
        if not self.failed:
            cause = mapping(self.report.get("record")).get("cause")
            return f"ran to its end, and is no good: {cause or 'no cause is kept'}" if self.kind == "failed" else ""
        of = f" of {self.steps}" if self.steps else ""
        return f"failed after step {len(self.loss)}{of}: {self.report.get('cause') or 'no cause is kept'}"

    @property
    def peak(self) -> tuple[float | None, str]:
        """Peak memory in bytes, and of what."""
        cuda = finite(self.report.get("peak_cuda_bytes"))
        if cuda:
            return cuda, "GPU"
        return finite(self.report.get("peak_rss_bytes", self.report.get("peak_bytes"))), str(self.report.get("device") or "")

    @property
    def start(self) -> str:
        """The subject that it started from; "" where the evidence does not say."""
        known = self.report.get("start") or self.recipe.get("start") or mapping(self.report.get("record")).get("start")
        # What a drill is measured on is what it starts from; a training's claim is about what it made.
        return str(known or (_subject(self.claim) if self.kind != "training" else ""))


def _curve(value: Any) -> tuple[float, ...]:
    """The numbers up to the first that is none."""
    numbers = []
    for one in value[:_MOST_STEPS] if isinstance(value, list) else []:
        if finite(one) is None:
            break
        numbers.append(float(one))
    return tuple(numbers)


def _subject(claim: ClaimView) -> str:
    return str(next(iter(mappings(claim.measurement.get("subjects"))), {}).get("name") or "")


def trainings_of(run: RunView) -> list[Training]:
    """Every training that the evidence tells of, each once: as the claim tells it that says most."""
    found: dict[tuple[str, str], Training] = {}
    for training in (t for claim in run.claims for t in _of_claim(claim)):
        key = training.kind, training.name
        if key not in found or len(training.report) > len(found[key].report):
            found[key] = training
    order = ("training", "failed", "control", "drill")
    return sorted(found.values(), key=lambda t: order.index(t.kind))


def _of_claim(claim: ClaimView) -> Iterable[Training]:
    conditions = told(claim)
    whole = list(_whole(claim, mapping(conditions.get("training"))))
    yield from whole
    if claim.family in ("R2", "R6") and "curve" in conditions:
        method = {"method": _param(claim)} if claim.family == "R2" else {}
        yield Training(_drilled(claim), "drill", claim, {"recipe": method, **conditions, "loss": conditions["curve"]})
    elif (claim.family, claim.name) == ("T8", "fell") and "curve" in conditions and not whole:
        yield Training(_param(claim), "training", claim, {"loss": conditions["curve"], "steps": conditions.get("steps")})
    elif claim.family == "T8":
        yield from (
            Training(
                s.item, "drill", claim, {"loss": s.detail["curve"], "recipe": {**mapping(conditions.get("recipe")), "seed": _seed(s.item)}}
            )
            for s in claim.samples
            if isinstance(s.detail.get("curve"), list)
        )
    elif claim.family == "T11" and mapping(conditions.get("run")):
        recipe, record = conditions.get("recipe"), conditions.get("record")
        yield Training(_param(claim), "failed", claim, {**mapping(conditions["run"]), "recipe": recipe, "record": record})
        yield Training(f"{_param(claim)}, control", "control", claim, {**mapping(conditions.get("control"))})


def _whole(claim: ClaimView, kept: Mapping[str, Any]) -> Iterable[Training]:
    """What ``training`` in the conditions tells: one report, or several by name."""
    if "loss" in kept:
        yield Training(str(kept.get("name") or _param(claim)), "training", claim, kept)
        return
    for name, report in kept.items():
        if "loss" in mapping(report):
            yield Training(str(name), "training", claim, mapping(report))


def _param(claim: ClaimView) -> str:
    return claim.params[-1] if claim.params else _subject(claim) or claim.name


def _drilled(claim: ClaimView) -> str:
    return f"stopped after step {_param(claim)}" if claim.family == "R6" else f"same seed, {_param(claim)}"


def _seed(item: str) -> int | None:
    number = item.rpartition(" ")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 10 else None


def held_out(run: RunView) -> list[tuple[ClaimView, str, float | None, float | None, float | None]]:
    """(claim, seed, loss on held-out rows before and after, gap to the rows trained on) of each seed of T8."""
    samples = ((c, s) for c in run.claims if c.family == "T8" for s in c.samples if "before" in s.detail or s.value is None)
    return [(c, s.item, *(finite(s.detail.get(key)) for key in ("before", "after", "gap"))) for c, s in samples]  # type: ignore[misc]
