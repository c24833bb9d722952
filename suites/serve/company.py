"""Answers in company beside the same answers alone: what the claims on batching, caching and preemption share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from harness.engines import versions
from harness.serve.load import Answer, ask
from harness.serve.parity import floor, hearing
from harness.serve.parity.expected import Expected, along
from harness.serve.target import Target
from harness.store import digest_json
from harness.types import Generation, Prompt, Sample
from suites.serve import margins

Said = Mapping[str, Generation]


def shell(prompt: Prompt, text: str = "") -> Expected:
    """A prompt with an answer that nothing is yet said along."""
    return Expected(prompt.id, prompt.messages, text, (), (), (), ())


def generations(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, Generation]:
    """By prompt, as an engine would give them; an answer that is not whole has its cause as error."""
    rows = {}
    for prompt, answer in zip(prompts, answers, strict=True):
        usage = answer.usage or {}
        finish = ("length" if answer.finish == "length" else "stop") if answer.complete else "error"
        counts = (int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0)))
        rows[prompt.id] = Generation(prompt.id, answer.text, finish, *counts, error="" if answer.complete else answer.why)
    return rows


def asked(target: Target, prompts: Sequence[Prompt], max_tokens: int, concurrency: int = 1) -> dict[str, Generation]:
    """The server's greedy answers, ``concurrency`` requests at a time."""
    bodies = [hearing.greedy_body(target, shell(prompt), max_tokens) for prompt in prompts]
    return generations(prompts, ask(target, bodies, concurrency=concurrency, stream=False, limit_s=120.0))


def answers(bench, server: str, prompts: Sequence[Prompt], *, concurrency: int = 1, rerun: int = 0, options=None) -> Said:
    """The same, kept by what shaped it; ``rerun`` asks once more."""
    tokens = bench.serving.sampling(server).max_tokens
    inputs = {
        **bench.serving.inputs(server, options), "prompts": [asdict(prompt) for prompt in prompts], "concurrency": concurrency,
        "rerun": rerun, "max_tokens": tokens,
    }  # fmt: skip

    def run() -> list[dict[str, Any]]:
        return [asdict(row) for row in asked(bench.serving.target(server, options), prompts, tokens, concurrency).values()]

    return {row["id"]: Generation(**row) for row in bench.cached("company", inputs, run)}


class Judge:
    """Holds other answers to the same prompts against the ones ``alone``, by the reference along the latter. Asks it once, for all.

    ``others``: every text that will be judged, by prompt. Where all say the same there is nothing to ask.
    """

    def __init__(self, bench, server: str, prompts: Sequence[Prompt], alone: Said, others: Mapping[str, Iterable[str]]) -> None:
        self.allowed = bench.serving.expected(server, bench.serving.prompts(server, margins.PARITY_PROMPTS))[1]
        differing = {p.id: sorted({*others.get(p.id, ())} - {alone[p.id].text}) for p in prompts if not alone[p.id].error}
        wanted = [p for p in prompts if differing.get(p.id)]
        inputs = {
            "subject": bench.subject(bench.serving.checkpoint(server)).digest, "versions": versions("hf"),
            "asked": digest_json([[asdict(p), alone[p.id].text, alone[p.id].finish, differing[p.id]] for p in wanted]),
        }  # fmt: skip

        def look() -> dict[str, Any]:
            with contextlib.closing(bench.serving.reference(server)) as engine:
                rows = along(engine, wanted, [alone[p.id] for p in wanted])
                read = floor.reader(engine)
                return {"along": [asdict(e) for e in rows], "read": {e.id: [list(read(e, t)) for t in differing[e.id]] for e in rows}}

        found = bench.cached("alongside", inputs, look) if wanted else {"along": [], "read": {}}
        rows = {row["id"]: Expected.of(row) for row in found["along"]}
        self._silent = {p.id for p in prompts if alone[p.id].error}
        self.alone = {p.id: rows.get(p.id, shell(p, alone[p.id].text)) for p in prompts}
        self._read = {(name, t): ids for name, lists in found["read"].items() for t, ids in zip(differing[name], lists, strict=True)}

    def read(self, e: Expected, text: str) -> Sequence[int]:
        """The token ids of one of the texts that were named before."""
        return self._read[e.id, text]

    def flips(self, said: Said) -> tuple[Sample, ...]:
        """A Sample a prompt: 1 for an answer that leaves the one alone by more than a tie, None where either did not come."""
        texts = {name: None if answer.error or name in self._silent else answer.text for name, answer in said.items()}
        return floor.flips([e for e in self.alone.values() if e.id in said], texts, self.read, self.allowed)


def kept_same(samples: Sequence[Sample]) -> tuple[Sample, ...]:
    """For an exact claim: 1 where the answer is the same or a tie."""
    return tuple(s if s.value is None else replace(s, value=1.0 - s.value) for s in samples)


def garbled(said: Said, one_in: int) -> Said:
    """Every ``one_in``-th answer written backwards: wrong for any model. Its neighbour's would do for one that has a word for each
    prompt; a model that is not sure says the same to many of them (measured: of 12 planted so, 8 were the same and 4 ties).
    """
    return {name: replace(row, text=row.text[::-1]) if i % one_in == 0 else row for i, (name, row) in enumerate(said.items())}


def texts(*many: Said) -> dict[str, set[str]]:
    """Every text by prompt, of several sets of answers."""
    found: dict[str, set[str]] = {}
    for said in many:
        for name, answer in said.items():
            found.setdefault(name, set()).add(answer.text)
    return found
