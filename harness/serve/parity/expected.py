"""What a reference engine says of a model, token for token, and what a server said to the same prompts.

    along      the reference: its token ids of each prompt, and its log-probabilities along an answer to it
    by_reference    both, of the checkpoint in a folder
    tolerance  how far rounding alone may move them: the reference in float32 beside itself in the dtype that is served

An answer is compared as its text is tokenized, not as it was generated: one answer in ten was seen to be generated in other
tokens than its text has, and nobody who reads the text can tell. Log-probabilities are natural logarithms.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.engines import open_engine
from harness.errors import EngineError
from harness.types import Engine, Generation, Prompt, Sampling, Scored

__all__ = ["END", "Expected", "Reference", "Said", "Tolerance", "along", "by_reference", "difference", "plain", "tolerance"]

FLOOR = 0.001  # nats: below this two implementations of one model are not told apart
TIMES = 3.0  # how many times the reference's own rounding a server may be away from it
TOP = 20  # tokens kept at each position: what is not among them is no tie
END = -1  # stands for the end of an answer where the model's own mark is not known
_PART = 4  # prompts scored at once: whole distributions take 200 kB a token at a vocabulary of 50,000


class Reference(Engine, Protocol):
    """An engine that shows its tokens and its template (harness.engines.hf)."""

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        ...

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the model's template makes of messages."""
        ...


@dataclass(frozen=True, slots=True)
class Expected:
    """What a reference says to a prompt, and at each token along an answer to it.

    ``prompt`` and ``tokens`` are ids; ``tokens`` ends with the end mark ``end`` where the answer ended by itself.
    ``logprobs`` are those of ``tokens``, ``top`` the likeliest tokens at each place with theirs, best first.
    """

    id: str
    messages: tuple[Mapping[str, str], ...]
    text: str
    prompt: tuple[int, ...]
    tokens: tuple[int, ...]
    logprobs: tuple[float, ...]
    top: tuple[tuple[tuple[int, float], ...], ...]
    end: int = END

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Expected:
        """From the JSON of ``dataclasses.asdict``."""
        top = tuple(tuple((int(token), float(value)) for token, value in place) for place in row["top"])
        plain = {key: tuple(row[key]) for key in ("messages", "prompt", "tokens", "logprobs")}
        return cls(row["id"], text=row["text"], top=top, end=row["end"], **plain)


@dataclass(frozen=True, slots=True)
class Said:
    """What a server said to a prompt; None for what it does not show.

    ``prompt`` the ids it read, ``prompt_tokens`` how many it counted; ``tokens`` it generated, without the end mark, and
    ``own``, their log-probabilities; ``read``, its answer's text as it is tokenized; ``scored``, the log-probabilities of the
    reference's answer, token for token. ``error``: why it said nothing.
    """

    id: str
    text: str = ""
    prompt: tuple[int, ...] | None = None
    prompt_tokens: int | None = None
    tokens: tuple[int, ...] | None = None
    own: tuple[float, ...] | None = None
    read: tuple[int, ...] | None = None
    scored: tuple[float, ...] | None = None
    error: str = ""

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Said:
        """From the JSON of ``dataclasses.asdict``."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()}
        return cls(**plain)


class Tolerance(NamedTuple):
    """``mean`` of the absolute differences a token; ``tie``, the gap below which two tokens are not told apart. Both in nats."""

    mean: float
    tie: float


def plain(e: Expected) -> tuple[int, ...]:
    """The tokens of the answer without its end mark."""
    return e.tokens[:-1] if e.tokens and e.tokens[-1] == e.end else e.tokens


def along(engine: Reference, prompts: Sequence[Prompt], answers: Sequence[Generation]) -> list[Expected]:
    """What ``engine`` says along ``answers``: its own greedy ones, or another's. Prompts are messages.

    Raises EngineError where it cannot read a prompt as its own template writes it.
    """
    rows: list[Expected] = []
    for start in range(0, len(prompts), _PART):
        if failed := [a for a in answers[start : start + _PART] if a.error]:
            raise EngineError(f"prompt {failed[0].id!r} has no answer to go along: {failed[0].error}")
        part = [_begun(engine, p, a) for p, a in zip(prompts[start : start + _PART], answers[start : start + _PART], strict=True)]
        texts = [Scored(row.id, context, (row.text + mark,), full=True) for row, context, mark in part]
        for (row, _, mark), found in zip(part, engine.logprobs(texts), strict=True):
            assert found.distributions is not None  # asked for
            count = len(found.tokens[0]) - (len(engine.tokenize(mark, False)) - 1 if mark else 0)  # of the mark the first token counts
            tops = tuple(_top(line) for line in found.distributions[0][:count])
            rows.append(replace(row, tokens=found.tokens[0][:count], logprobs=found.logprobs[0][:count], top=tops))
    return rows


def _begun(engine: Reference, prompt: Prompt, answer: Generation) -> tuple[Expected, str, str]:
    """The row without its numbers; the context that tokenizes to the prompt's ids; what the template writes behind the answer."""
    rendered = engine.render(prompt.messages)
    ids = tuple(engine.tokenize(rendered, False))
    after = engine.render([*prompt.messages, {"role": "assistant", "content": answer.text}])
    whole = rendered + answer.text
    mark = after[len(whole) :] if answer.finish == "stop" and after.startswith(whole) else ""
    end = engine.tokenize(mark, False)[0] if mark else END
    row = Expected(prompt.id, prompt.messages, answer.text, ids, (), (), (), end)
    return row, _context(engine, rendered, ids, prompt.id), mark


def _context(engine: Reference, rendered: str, ids: tuple[int, ...], name: str) -> str:
    """A scored context is tokenized with the tokenizer's habits: where it adds a mark that the template wrote too, ours is left out."""
    if tuple(engine.tokenize(rendered)) == ids:
        return rendered
    for cut in range(1, len(rendered)):
        if tuple(engine.tokenize(rendered[:cut], False)) == ids[:1] and tuple(engine.tokenize(rendered[cut:])) == ids:
            return rendered[cut:]
    raise EngineError(f"prompt {name!r}: the reference's tokenizer does not read its own template's text as its template writes it")


def _top(line: Any) -> tuple[tuple[int, float], ...]:
    best = line.argpartition(-TOP)[-TOP:] if len(line) > TOP else range(len(line))
    return tuple(sorted(((int(token), round(float(line[token]), 6)) for token in best), key=lambda pair: (-pair[1], pair[0])))


def tolerance(exact: Sequence[Expected], served: Sequence[Expected]) -> Tolerance:
    """From the reference in float32 and in the served dtype along the same answers, before anything is served.

    The mean is over prompts of the mean over tokens. A tie is as wide as the gap between two likely tokens was ever seen to move.
    """
    moved = [difference(a.logprobs, b.logprobs) for a, b in zip(exact, served, strict=True)]
    gaps = [abs(x - y) for a, b in zip(exact, served, strict=True) for x, y in _gaps(a, b)]
    mean = max(FLOOR, TIMES * math.fsum(moved) / len(moved))
    return Tolerance(round(mean, 6), round(max(mean, *gaps), 6))


def by_reference(folder: Path, prompts: Sequence[Prompt], sampling: Sampling) -> tuple[list[Expected], Tolerance]:
    """What transformers say in float32 on the checkpoint in ``folder``, greedily, and how far bfloat16 moves them along it."""
    with contextlib.closing(open_engine("hf", folder, dtype="float32")) as exact:
        answers = exact.generate(prompts, sampling=sampling)
        rows = along(exact, prompts, answers)  # type: ignore[arg-type]  # an hf engine shows its tokens
    with contextlib.closing(open_engine("hf", folder, dtype="bfloat16")) as rounded:
        return rows, tolerance(rows, along(rounded, prompts, answers))  # type: ignore[arg-type]


def _gaps(exact: Expected, served: Expected) -> list[tuple[float, float]]:
    """The gap between the two likeliest tokens of each place, in either dtype, where both know both."""
    pairs = []
    for here, there in zip(exact.top, served.top, strict=True):
        (first, p), (second, q) = here[:2]
        other = dict(there)
        if first in other and second in other:
            pairs.append((p - q, other[first] - other[second]))
    return pairs


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The mean absolute difference a token, in nats."""
    return math.fsum(abs(x - y) for x, y in zip(ours, theirs, strict=True)) / len(ours)
