"""How a model is asked for a label, and how its label is read. A change here voids every calibration of a model."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from harness.types import Generation, Prompt, Sample, Sampling, Scored, TokenLogprobs

if TYPE_CHECKING:
    from harness.evals.judges.model import Answer, Judge, Pair

__all__ = ["SIDES", "about_answer", "about_pair", "read_logprobs", "read_text", "sampling", "to_generate", "to_score"]

_READ = 1600  # characters of a text that is judged: hostile text may be of any length
SIDES = ("A", "B")  # of a pair


def about_answer(judge: Judge, answer: Answer) -> str:
    """The whole text before the label: rubric, worked examples, the answer."""
    shown = (f"{_case(example.prompt, example.answer)} {example.label}" for example in judge.examples)
    return "\n\n".join([judge.rubric.strip(), *shown, _case(answer.prompt, answer.text)])


def about_pair(judge: Judge, pair: Pair) -> str:
    """The whole text before the letter of an answer."""
    asked = f"Request: {_line(pair.prompt)}\n" if pair.prompt else ""
    return f"{judge.pairwise.strip()}\n\n{asked}Answer A: {_line(pair.first)}\nAnswer B: {_line(pair.second)}\nVerdict:"


def _case(prompt: str, answer: str) -> str:
    return f"Request: {_line(prompt)}\nAnswer: {_line(answer)}\nVerdict:"


def _line(text: str) -> str:
    """A text as one line: what is judged may not write lines of the form it is judged in."""
    return " ".join(text[:_READ].split())


def to_score(name: str, text: str, words: tuple[str, str]) -> Scored:
    """The two labels as continuations."""
    return Scored(name, text, (f" {words[0]}", f" {words[1]}"))


def to_generate(name: str, text: str, words: tuple[str, str]) -> Prompt:
    """The same as a message of a chat."""
    return Prompt(name, ({"role": "user", "content": f"{text}\nReply with {words[0]} or {words[1]} only."},))


def sampling(judge: Judge) -> Sampling:
    """Greedy: a judge that draws its labels is not asked twice for luck."""
    return Sampling(max_tokens=judge.max_tokens)


def read_logprobs(scores: TokenLogprobs) -> Sample:
    """1 for the first label, 0 for the second, whichever is likelier; no value where they are equally likely."""
    first, second = map(math.fsum, scores.logprobs)
    detail = {"logprobs": [round(first, 6), round(second, 6)]}
    if not (math.isfinite(first) and math.isfinite(second)):
        return Sample(scores.id, None, status="error", detail={"error": "a log-probability is not finite"})
    if first == second:
        return Sample(scores.id, None, status="parse_failure", detail=detail)
    return Sample(scores.id, float(first > second), detail=detail)


def read_text(answer: Generation, words: tuple[str, str]) -> Sample:
    """The label that a text begins with, white space, quotes and marks aside; no value where it begins otherwise."""
    detail = {"text": answer.text, "finish": answer.finish}
    if answer.finish == "error":
        return Sample(answer.id, None, status="error", detail={**detail, "error": answer.error})
    found = re.match(r"[\W_]*([^\W\d_]+)\b", answer.text)
    said = found[1].casefold() if found else ""
    if said not in (words[0].casefold(), words[1].casefold()):
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    return Sample(answer.id, float(said == words[0].casefold()), detail=detail)
