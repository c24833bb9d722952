"""Who may pose as a server without being one: the reference in the served dtype (must pass), and what must not.

Each says what a server would say, through the same judgement; a model in this process, so that no server has to be started.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.engines import versions
from harness.engines.hf import HF
from harness.errors import MissingNeed
from harness.serve.parity.expected import Expected, Said, along, plain
from harness.types import Generation, Prompt, Sampling

SYSTEM = "You are a friendly guide. Answer every question in verse."


class Doubled(HF):
    """Begins each prompt with its first mark twice, as a template and a tokenizer do that both write it."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        text = super().render(messages)
        first = self.tokenize(text, False)[:1]
        mark = max(cut for cut in range(1, min(len(text), 64)) if self.tokenize(text[:cut], False) == first)
        return text[:mark] + text


class Foreign(HF):
    """Puts a system prompt of its own before each conversation, as servers with a default one do."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return super().render([{"role": "system", "content": SYSTEM}, *messages])


KINDS: Mapping[str, type[HF]] = {"plain": HF, "doubled": Doubled, "foreign": Foreign}


def posing(bench, server: str, expected: Sequence[Expected], *, kind: str = "plain", subject: str = "") -> list[Said]:
    """What ``subject`` (the served checkpoint, unless named) in the served dtype would say as ``server``. Kept."""
    sampling = bench.serving.sampling(server)
    said = [sampling.max_tokens, [[e.id, list(e.messages), e.text] for e in expected]]
    return _kept(
        bench, "posing", subject or bench.serving.checkpoint(server), kind, said, lambda engine: said_by(engine, expected, sampling)
    )


def reading(bench, server: str, expected: Sequence[Expected], *, kind: str) -> list[Said]:
    """How the served checkpoint would read the prompts: their ids alone, nothing is generated. Kept."""
    asked = [[e.id, list(e.messages)] for e in expected]
    return _kept(bench, "reading", bench.serving.checkpoint(server), kind, asked, lambda engine: read_by(engine, expected))


def _kept(bench, name: str, subject: str, kind: str, asked: list[Any], say: Callable[[HF], list[Said]]) -> list[Said]:
    inputs = {"subject": bench.subject(subject).digest, "versions": versions("hf"), "kind": kind, "system": SYSTEM, "asked": asked}

    def ask() -> list[dict[str, Any]]:
        with contextlib.closing(KINDS[kind](bench.path(subject), dtype="bfloat16")) as engine:
            return [asdict(said) for said in say(engine)]

    return [Said.of(row) for row in bench.cached(name, inputs, ask)]


def read_by(engine: HF, expected: Sequence[Expected]) -> list[Said]:
    """Its own reading of each prompt."""
    ids = (tuple(engine.tokenize(engine.render(e.messages), False)) for e in expected)
    return [Said(e.id, prompt=each, prompt_tokens=len(each)) for e, each in zip(expected, ids, strict=True)]


def said_by(engine: HF, expected: Sequence[Expected], sampling: Sampling) -> list[Said]:
    """Its own reading of each prompt, its greedy answers, its log-probabilities of the reference's answers."""
    prompts = [Prompt(e.id, e.messages) for e in expected]
    theirs = [Generation(e.id, e.text, "length" if plain(e) == e.tokens else "stop", 0, 0) for e in expected]
    rows = []
    for e, own, scored in zip(expected, engine.generate(prompts, sampling=sampling), along(engine, prompts, theirs), strict=True):
        ids = tuple(engine.tokenize(engine.render(e.messages), False))
        read = tuple(engine.tokenize(engine.render(e.messages) + own.text, False))[len(ids) :]
        rows.append(
            Said(e.id, own.text, ids, len(ids), read=read, scored=scored.logprobs if scored.tokens == e.tokens else None, error=own.error)
        )
    return rows


def another(bench, server: str) -> str:
    """A model of the same family that is not the one served: before training for after it, and the other way round."""
    compare = bench.settings.compare
    if compare is None:
        raise MissingNeed("compare", "no second model to pose as the first", "[compare] with base and tuned")
    return compare.base if bench.serving.checkpoint(server) != compare.base else compare.tuned
