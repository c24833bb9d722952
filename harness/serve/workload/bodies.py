"""One request of a load as bytes: declared lengths, random words, and the JSON that asks for them."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from harness.errors import ConfigError, MissingNeed
from harness.types import Prompt

__all__ = ["Form", "Lengths", "empty", "fixed", "listed", "lognormal", "serialised", "spoken", "uniform", "words"]


@dataclass(frozen=True, slots=True)
class Lengths:
    """A declared distribution of lengths in tokens, as its quantile function."""

    kind: str
    numbers: tuple[float, ...]

    def at(self, u: float) -> int:
        """The length below which a share ``u`` lies."""
        a = self.numbers
        if self.kind == "uniform":
            return int(a[0] + math.floor(u * (a[1] - a[0] + 1)))
        if self.kind == "lognormal":
            return round(min(max(a[0] * math.exp(a[1] * NormalDist().inv_cdf(u)), a[2]), a[3]))
        return int(a[math.floor(u * len(a))])

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(f'{x:g}' for x in self.numbers[:8])}{', ...' if len(self.numbers) > 8 else ''})"


def fixed(tokens: int) -> Lengths:
    """Always the same."""
    return _lengths("fixed", (tokens,), tokens, tokens)


def uniform(low: int, high: int) -> Lengths:
    """Every length from ``low`` to ``high``, both included."""
    return _lengths("uniform", (low, high), low, high)


def lognormal(median: float, sigma: float, *, low: int = 1, high: int) -> Lengths:
    """exp of a normal variable of standard deviation ``sigma``, what lies outside low to high put there."""
    if not (math.isfinite(median) and median > 0 and math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"lengths lognormal: median = {median}, sigma = {sigma}; expected finite numbers above 0")
    return _lengths("lognormal", (median, sigma, low, high), low, high)


def listed(tokens: Sequence[int]) -> Lengths:
    """Those of a list, each as probable: a log's own lengths."""
    if not tokens:
        raise empty("a list of no lengths")
    return _lengths("listed", tuple(tokens), min(tokens), max(tokens))


def _lengths(kind: str, numbers: tuple[float, ...], low: float, high: float) -> Lengths:
    if not all(math.isfinite(x) for x in numbers) or not 1 <= low <= high <= 10_000_000:
        raise ConfigError(f"lengths {kind}{numbers[:4]}: expected 1 <= shortest <= longest <= 10,000,000 tokens")
    return Lengths(kind, tuple(float(x) for x in numbers))


# --- the request ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Form:
    """What all bodies of a load have in common."""

    model: str
    chat: bool
    stream: bool
    seed: int
    ignore_eos: bool = False

    def body(self, prompt: Prompt, max_tokens: int) -> bytes:
        if max_tokens < 1:
            raise ConfigError(f"prompt {prompt.id}: max_tokens = {max_tokens}, expected at least 1")
        said: dict[str, Any] = {"model": self.model}
        if self.chat:
            said["messages"] = [dict(m) for m in prompt.messages] or [{"role": "user", "content": prompt.text}]
        elif prompt.text is None:
            raise ConfigError(f"prompt {prompt.id} has messages; completions take raw text: ask with chat = True")
        else:
            said["prompt"] = prompt.text
        said |= {"max_tokens": max_tokens, "temperature": 0, "seed": self.seed, "stream": self.stream}
        if self.stream:
            said["stream_options"] = {"include_usage": True}
        if self.ignore_eos:
            said |= {"ignore_eos": True, "min_tokens": max_tokens}
        return serialised(said, f"prompt {prompt.id}")


def serialised(body: Mapping[str, Any], where: str) -> bytes:
    try:
        return json.dumps(body, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}: character {error.object[error.start : error.start + 1]!r} is half of a surrogate pair, no text; mend the data set"
        ) from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{where}: the body is no JSON ({error})") from None


def spoken(messages: object, *, parts: bool = False) -> list[Mapping[str, Any]]:
    """The messages, each with a role and a text. ValueError says which one is not; ``parts``: a recorded one may have other content."""
    if not isinstance(messages, list) or not messages:
        raise ValueError("messages: expected a list of at least one")
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str) or not message["role"]:
            raise ValueError(f'message {number}: expected {{"role": "user", "content": "..."}}')
        content = message.get("content")
        calls = message.get("tool_calls") or message.get("function_call")
        other = parts and ((isinstance(content, list) and content) or (not content and calls))
        if not other and not (isinstance(content, str) and content):
            raise ValueError(f"message {number}: its content is {type(content).__name__ if content else 'empty'}, expected a text")
    return messages


def words(count: int, *seed: object) -> str:
    """As many random words of a list of 256, one per byte of SHAKE-256 of the seed."""
    return " ".join(_WORDS[byte] for byte in hashlib.shake_256("/".join(map(str, seed)).encode()).digest(count))


def empty(what: str) -> MissingNeed:
    return MissingNeed(
        "empty_workload", f"there is nothing to send: {what}", "name a data set that has rows, and a rate and window that hold requests"
    )


# Common short words, which most vocabularies hold as one token after a space.
_TEXT = (
    "the of and to in is was he for it with as his on be at by had not are but from or have an they which one you were all her she "
    "there would their we him been has when who will no more if out so up said what its about than into them can only other time new "
    "some could these two may first then do any like my now over such our man me even most made after also did many off before must "
    "well back through years much where your way down should because long each just state those people too mr how little good world "
    "make very year still see own work men day get here old life both between being under three never know same last another while "
    "us might great go come since against right came take used himself few house use place during high without again home around "
    "small however found part school thought went say general once upon war every left don got united number hand course water until "
    "away public always far fact less put think almost enough began done night city give told young four set end face things called "
    "side head eyes large days light line group given early second company human help best sound table form room near seen words story "
    "black white body book eye job door north south road river street music paper church window winter summer morning evening green blue "
    "red short family market letter father mother child friend"
)
_WORDS = tuple(_TEXT.split())
assert len(set(_WORDS)) == 256
