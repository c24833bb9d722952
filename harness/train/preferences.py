"""Preference pairs out of a model's own answers, and what preference training makes of them: log-ratios and margins.

On-policy pairs teach a model about mistakes that it really makes. The implied reward of an answer is
beta * (log pi(answer) - log reference(answer)); its margin over a pair is what DPO pushes up (Rafailov et al. 2023,
equations 5 to 7), from 0 on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.engines.common import install, quiet_transformers, render_chat
from harness.errors import ConfigError, EngineError, MissingNeed, SubjectError
from harness.store import digest_json
from harness.train.rows import Pair
from harness.types import Prompt, Scored, TokenLogprobs

__all__ = [
    "LogProbs", "Pairs", "Preference", "check_folder", "is_held", "length_controlled", "log_probs", "margin", "pairs", "texts", "whole",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Preference:
    """One pair of answers to one prompt. ``own``: the chosen one is the model's, else the gold answer."""

    id: str
    messages: tuple[Mapping[str, str], ...]
    chosen: str
    rejected: str
    own: bool

    @property
    def row(self) -> Pair:
        """What a trainer takes."""
        return self.messages, self.chosen, self.rejected

    def swapped(self) -> Preference:
        """The pair the wrong way round: what a control plants."""
        return replace(self, chosen=self.rejected, rejected=self.chosen)


@dataclass(frozen=True, slots=True)
class Pairs:
    """Pairs to train on and pairs held out, no prompt in both; ``facts`` says what was sampled and what became of it."""

    train: tuple[Preference, ...]
    held: tuple[Preference, ...]
    facts: Mapping[str, Any]

    @property
    def rows(self) -> list[Pair]:
        """The pairs to train on, as a trainer takes them."""
        return [pair.row for pair in self.train]

    @property
    def digest(self) -> str:
        """SHA-256 of all pairs and of how they are split."""
        return digest_json([[[pair.id, [dict(m) for m in pair.messages], pair.chosen, pair.rejected] for pair in part]
                            for part in (self.train, self.held)])  # fmt: skip


# --- pairs ----------------------------------------------------------------------------------------


def is_held(messages: Sequence[Mapping[str, str]], share: float, seed: int) -> bool:
    """Whether a prompt is held out: by its own SHA-256, so that one prompt never stands on both sides."""
    return int(digest_json([seed, [dict(m) for m in messages]])[:13], 16) / 16**13 < share


def pairs(
    prompts: Sequence[Prompt],
    answers: Mapping[str, Sequence[str]],
    gold: Mapping[str, str],
    is_right: Callable[[str, str], bool],
    *,
    held: float = 0.4,
    seed: int = 0,
) -> Pairs:
    """At most one pair a prompt: the first right of its ``answers`` (else the gold one) over the first wrong of them.

    ``answers`` and ``gold`` by prompt id; ``is_right(id, answer)`` is the exact check. Only answers that ended belong in
    ``answers``: one that was cut off is wrong, and would teach the model to end in the middle. A prompt without a wrong
    answer gives no pair. ``held`` is the share of prompts held out, by hash and ``seed``.
    Raises ConfigError for a share outside [0, 1), SubjectError for a prompt that stands twice, or whose gold answer is
    absent or fails the check.
    """
    if not 0 <= held < 1:
        raise ConfigError(f"preference pairs: held = {held}, expected a share with 0 <= held < 1")
    if len({prompt.id for prompt in prompts}) < len(prompts):
        raise SubjectError("preference pairs: a prompt id stands twice; expected one row a prompt")
    found: list[Preference] = []
    right = total = 0
    for prompt in prompts:
        if prompt.id not in gold or not is_right(prompt.id, gold[prompt.id]):
            raise SubjectError(f"prompt {prompt.id!r}: its gold answer is absent or fails the check; mend the row or the check")
        given = list(answers.get(prompt.id, ()))
        passed = [is_right(prompt.id, text) for text in given]
        total, right = total + len(given), right + sum(passed)
        if not all(passed):
            chosen = given[passed.index(True)] if any(passed) else gold[prompt.id]
            found.append(Preference(prompt.id, prompt.messages, chosen, given[passed.index(False)], any(passed)))
    sides = [is_held(pair.messages, held, seed) for pair in found]
    facts = {
        "prompts": len(prompts), "answers": total, "right": right, "pairs": len(found), "own": sum(pair.own for pair in found),
        "held": sum(sides), "held_share": held, "seed": seed,
    }  # fmt: skip
    train, kept = (tuple(pair for pair, side in zip(found, sides, strict=True) if side is wanted) for wanted in (False, True))
    return Pairs(train, kept, facts)


# --- margins --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LogProbs:
    """Natural-log probabilities of a pair's two answers after their prompt, and how many tokens each has."""

    chosen: float
    rejected: float
    chosen_tokens: int
    rejected_tokens: int


def margin(policy: LogProbs, reference: LogProbs, beta: float) -> float:
    """The implied reward of the chosen answer over the rejected one, in nats times ``beta``; 0 where nothing was learned."""
    return beta * ((policy.chosen - reference.chosen) - (policy.rejected - reference.rejected))


def texts(folder: Path, given: Sequence[Preference]) -> list[Scored]:
    """The pairs as texts to score, rendered by the folder's template: an answer ends as the template ends it.

    Raises SubjectError if the template does not render an answer behind its prompt.
    """
    tokenizer = _tokenizer(folder)
    rows = []
    for pair in given:
        context = render_chat(tokenizer, pair.messages, str(folder))
        rows.append(Scored(pair.id, context, tuple(_rendered(tokenizer, pair, context, a, folder) for a in (pair.chosen, pair.rejected))))
    return rows


def _rendered(tokenizer: Any, pair: Preference, context: str, answer: str, folder: Path) -> str:
    text: str = tokenizer.apply_chat_template(whole(pair, answer), tokenize=False)
    if not text.startswith(context + answer):
        raise SubjectError(f"{folder}: the chat template does not put the answer of {pair.id!r} behind its prompt; give another template")
    return text[len(context) :]


def whole(pair: Preference, answer: str) -> list[dict[str, str]]:
    """The conversation with this answer to the pair's prompt."""
    return [*map(dict, pair.messages), {"role": "assistant", "content": answer}]


def _tokenizer(folder: Path) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingNeed("hf", f"{error.name} cannot be imported", install("hf")) from error
    check_folder(folder)
    with quiet_transformers():
        return transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)


def check_folder(folder: Path) -> None:
    """Raises SubjectError where there is no model folder."""
    if not (folder / "config.json").is_file():
        raise SubjectError(f"{folder}: no config.json; expected a Hugging Face model folder")


def log_probs(rows: Sequence[TokenLogprobs]) -> dict[str, LogProbs]:
    """What an engine said of ``texts``, by pair id. Raises EngineError where an answer has no token or a number is not finite."""
    found = {}
    for row in rows:
        chosen, rejected = map(math.fsum, row.logprobs)
        of_chosen, of_rejected = map(len, row.tokens)
        if not (of_chosen and of_rejected and math.isfinite(chosen + rejected)):
            said = f"{of_chosen} and {of_rejected} tokens, log-probabilities {chosen} and {rejected}"
            raise EngineError(f"pair {row.id!r}: {said}; expected finite ones of some tokens")
        found[row.id] = LogProbs(chosen, rejected, of_chosen, of_rejected)
    return found


def length_controlled(wins: Sequence[bool], longer: Sequence[float]) -> float:
    """The win rate at equal length: the logistic regression of ``wins`` on ``longer`` (new - old length), read at 0.

    A small ridge on the slope (per standard deviation) keeps it finite where length separates wins from losses. A length
    that never differs leaves the plain rate. Raises ValueError without a win and a loss.
    Reference: Dubois et al. (2024), Length-Controlled AlpacaEval, in its simplest form.
    """
    if len(wins) != len(longer) or all(wins) or not any(wins):
        raise ValueError(f"{sum(wins)} wins of {len(wins)} with {len(longer)} lengths; expected both wins and losses, a length each")
    scale = math.sqrt(math.fsum(x * x for x in longer) / len(longer)) or 1.0
    xs, a, b = [x / scale for x in longer], 0.0, 0.0
    for _ in range(100):
        rates = [1 / (1 + math.exp(-max(-500.0, min(500.0, a + b * x)))) for x in xs]
        ga = math.fsum(w - p for w, p in zip(wins, rates, strict=True))
        gb = math.fsum((w - p) * x for w, p, x in zip(wins, rates, xs, strict=True)) - b
        weights = [p * (1 - p) for p in rates]
        haa, hab = math.fsum(weights) + 1e-12, math.fsum(w * x for w, x in zip(weights, xs, strict=True))
        hbb = math.fsum(w * x * x for w, x in zip(weights, xs, strict=True)) + 1
        size = haa * hbb - hab * hab
        da, db = (hbb * ga - hab * gb) / size, (haa * gb - hab * ga) / size
        most = max(abs(da), abs(db), 1.0)  # a step of Newton's, no longer than 1
        a, b = a + da / most, b + db / most
        if abs(da) + abs(db) < 1e-12:
            break
    return 1 / (1 + math.exp(-a))
