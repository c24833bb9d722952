"""The nouns: Subject, Claim, Sample, Measurement, Control, Verdict; and what engines exchange.

All are frozen. Nothing here measures, decides or writes. A ``Claim`` checks itself at
construction, so that a claim which no data could decide never reaches a measurement.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from harness.errors import ClaimError

if TYPE_CHECKING:
    from harness.bounds import Bound

__all__ = [
    "Claim",
    "Control",
    "Engine",
    "Estimand",
    "Family",
    "Generation",
    "Measurement",
    "Outcome",
    "Prompt",
    "Sample",
    "Sampling",
    "Scored",
    "Subject",
    "TokenLogprobs",
    "Verdict",
    "items_digest",
]

# "error" is no verdict on the subject: the test raised, or ended without asking for one.
Outcome = Literal["holds", "fails", "inconclusive", "not_evaluated", "error"]

Estimand = Literal[
    "proportion",  # share of items whose value is 1; values in {0, 1}, one arm
    "paired_difference",  # mean of new - old over items; values in {0, 1}, arms "new" and "old"
    "paired_mean",  # mean of new - old over items, any scores; replicates are averaged per item first
    "relative_score",  # mean of new - r * old over items, for "at least r times as good"; scores in `support`
    "sequential_difference",  # mean of new - old, scores in `support`, judged after any number of items: stop when known
    "corrected_difference",  # mean of new - old as people would score it: a judge's scores, corrected by labels of both arms
    "mean",  # mean over independent units, no bounds known; one arm
    "bounded_mean",  # mean over independent units of a value in `support`; one arm
    "log_ratio",  # exp(sum of value / sum of weight) over documents: a perplexity ratio
    "over_limit",  # share of requests slower than `slo` or failed, one arm, a series in time
    "run_ratio",  # geometric mean of new / old over ABBA blocks; arms "new" and "old"
    "kappa",  # Cohen's kappa of two raters, arms "new" and "old"; values are category codes
    "alpha_nominal",  # Krippendorff's alpha of any number of raters (replicates); nominal, ordinal or interval codes
    "alpha_ordinal",
    "alpha_interval",
    "exact_share",  # share of all rows there are whose value is 1; values in {0, 1}, `weight` rows behind each; no sampling error
    "exact",  # a deterministic number or a count of mismatches; no sampling error
]


@dataclass(frozen=True, slots=True)
class Subject:
    """What a claim speaks about.

    ``scheme`` is one of hf, adapter, gguf, http, recipe, fake; ``digest`` is the SHA-256 of the
    content (for a folder: of its sorted file digests), or the server's identity for http.
    """

    name: str
    scheme: str
    location: str
    digest: str
    detail: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence, a bound and an error rate, fixed before anything is measured.

    ``alpha`` is one-sided; None takes the default of the bound. ``min_n`` is the number of units
    the plan asks for: with fewer the verdict is inconclusive, however clear the data look.
    ``support`` is the range of one score. ``slo`` is the latency (in the unit of the values) above which a
    request counts as over. ``looks`` is how often the data may be judged while they grow: each look is
    taken at alpha / looks. ``items``, if given, is the ``items_digest`` of the items the plan fixed.
    Two numbers serve planning only: ``psi``, the discordance that a paired plan expects, and
    ``expected``, the true value (rate, gain, mean) at which the plan wants power.
    """

    id: str
    text: str
    bound: Bound
    estimand: Estimand | None = None
    alpha: float | None = None
    min_n: int = 1
    support: tuple[float, float] | None = None
    psi: float = 0.10
    expected: float | None = None
    slo: float | None = None
    looks: int = 1
    items: str = ""
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id or any(ch.isspace() for ch in self.id):
            raise ClaimError(f"claim id {self.id!r}: expected a word without spaces, like 'quant.accuracy'")
        if any("\ud800" <= ch <= "\udfff" for ch in self.id):
            raise ClaimError(f"claim id {self.id!r}: holds half a character (a lone surrogate), which no file can be named after")
        if not self.text.strip():
            raise ClaimError(f"claim {self.id}: the text is empty; say in one sentence what is claimed")
        if self.min_n < 1:
            raise ClaimError(f"claim {self.id}: min_n = {self.min_n}, expected at least 1")
        if not 0 < self.psi <= 1:
            raise ClaimError(f"claim {self.id}: psi = {self.psi}, expected 0 < psi <= 1")
        if self.looks < 1:
            raise ClaimError(f"claim {self.id}: looks = {self.looks}, expected at least 1")
        object.__setattr__(self, "estimand", self.estimand or self.bound.default_estimand)
        alpha = self.bound.default_alpha if self.alpha is None else self.alpha
        if not (math.isfinite(alpha) and 0 < alpha < 0.5):
            raise ClaimError(f"claim {self.id}: alpha = {alpha}, expected 0 < alpha < 0.5")
        object.__setattr__(self, "alpha", alpha)
        self.bound.check(self)

    @property
    def level(self) -> float:
        """The one-sided error rate of one look, after the default of the bound was filled in."""
        assert self.alpha is not None  # filled in by __post_init__
        return self.alpha / self.looks


@dataclass(frozen=True, slots=True)
class Sample:
    """One unit of observation. A failed or truncated unit is a Sample too, never dropped.

    ``arm`` is "new" or "old" where arms are paired ("new:human", "old:human" for labels beside a judge's
    scores), "one" otherwise. ``value`` is None exactly when ``status`` is not "ok". ``weight`` is the number
    of tokens behind the value (log_ratio), or of units alike that the row stands for (exact, exact_share): a million
    rows without a finding are one Sample. ``cluster`` names the independent unit, the item itself when None.
    ``at`` is the scheduled arrival in seconds, where units form a series. ``detail`` keeps what a person wants
    to look at (the text, digests, the finish reason); ``contaminated: true`` in it says that the subject may
    have seen the item, fixed by hashes before any score was known.
    """

    item: str
    value: float | None
    arm: str = "one"
    status: str = "ok"
    weight: float = 1.0
    cluster: str | None = None
    replicate: int = 0
    at: float | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


def items_digest(items: Iterable[str]) -> str:
    """The digest by which a plan fixes a set of items: SHA-256 over their sorted names as a JSON list."""
    return hashlib.sha256(json.dumps(sorted(set(items))).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Measurement:
    """Samples of one metric under stated conditions. Holds no opinion.

    ``invalid`` names what makes the whole run void (client-limited, server restarted ...);
    ``notes`` are remarks that do not. Four conditions are read by the judge: ``look`` (1, 2 ...), which look at
    growing data this is; ``pool``, all items of a sequential claim that fixes them;
    ``judge``, the digest of a language model that gave the scores, which then must
    stand in ``calibration`` too; ``reported_se``, the standard error that a tool gave with the scores.
    ``raw`` are the bytes that the samples were derived from (``harness.records``), where there are any: they are kept
    beside the samples, and ``derived`` among the conditions says how to derive them again.
    """

    metric: str
    samples: tuple[Sample, ...]
    subjects: tuple[Subject, ...] = ()
    conditions: Mapping[str, Any] = field(default_factory=dict)
    invalid: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    raw: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Control:
    """A measurement through the same code path whose verdict is known beforehand.

    ``expect`` is the set of outcomes that prove the gate: an A/A control of a guardrail must be
    ("holds",), a planted regression ("fails",) or, at the margin itself, anything but holds.
    """

    name: str
    expect: tuple[Outcome, ...]
    measurement: Measurement


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was decided, and every number a stranger needs to decide it again."""

    outcome: Outcome
    reason: str
    sentence: str
    estimate: float | None = None
    low: float | None = None
    high: float | None = None
    level: float | None = None
    p_hold: float | None = None
    p_fail: float | None = None
    alpha: float | None = None
    n: int = 0
    n_eff: float | None = None
    n_unusable: int = 0
    n_needed: int | None = None
    n_needed_90: int | None = None
    method: str = ""
    exactness: str = ""
    statistics: Mapping[str, Any] = field(default_factory=dict)
    controls: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Family:
    """Claims that are decided together: "all" of them hold, "any" of them does, or they are "exploratory"."""

    name: str
    rule: Literal["all", "any", "exploratory"]
    claims: tuple[str, ...]


# --- what engines exchange ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question. Give ``messages`` (rendered by the model's own template) or raw ``text``."""

    id: str
    messages: tuple[Mapping[str, str], ...] = ()
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """Greedy unless ``temperature`` > 0; ``stop`` strings end a text and are not part of it."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """An answer, or the reason there is none.

    ``finish`` is "stop" (end of sequence or a stop string), "length" (max_tokens reached),
    or "error" (then ``error`` says why and ``text`` is what had arrived).
    ``prompt_digest`` is the SHA-256 of the prompt's token ids as decimal text joined by commas
    ("" where the engine does not show them).
    """

    id: str
    text: str
    finish: Literal["stop", "length", "error"]
    prompt_tokens: int
    tokens: int
    prompt_digest: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Scored:
    """Text to score: each continuation after the same ``context``, which is computed once.

    A document is one continuation after an empty context. With ``full`` the whole next-token
    distribution is returned too (float32 log-probabilities, tokens x vocabulary).
    """

    id: str
    context: str
    continuations: tuple[str, ...]
    full: bool = False


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Natural-log probabilities of each continuation's tokens.

    ``tokens[i]`` are the scored token ids of continuation i and ``logprobs[i]`` their natural-log
    probabilities, equally long. After an empty context a leading beginning-of-sequence token is
    used if the model has one, else the first token is context only and not scored.
    ``distributions[i]`` is a float32 array (len(tokens[i]), vocabulary), None unless asked for.
    """

    id: str
    tokens: tuple[tuple[int, ...], ...]
    logprobs: tuple[tuple[float, ...], ...]
    distributions: tuple[Any, ...] | None = None


class Engine(Protocol):
    """What answers and scores text. A Protocol: nobody subclasses."""

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        """One Generation per prompt, in the order given."""
        ...

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        """One TokenLogprobs per text, in the order given."""
        ...

    def describe(self) -> Mapping[str, str]:
        """Engine, version, device, dtype, threads, batch policy: the conditions of a measurement."""
        ...

    def close(self) -> None:
        """Frees the model; safe to call twice."""
        ...
