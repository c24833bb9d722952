"""How much company changes a server's answers: the concurrency noise floor, and golden answers that rode in a load.

    flips     answers in company beside the same prompts' answers alone: the same, a numeric tie, or an error
    in_load   the same for the golden prompts of a load, request by request
    floor     one sentence with the counts, to be printed beside every number that was taken at a concurrency
    crowd     how many requests were in flight at once: a fault that needs company needs proof of it

In 16 bits an answer depends on what is computed beside it: an evaluation at another concurrency is another measurement.
Where two likely tokens are closer than the reference's own rounding, either is right (a tie); any other change is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from harness.records import Load
from harness.serve.parity import Expected, Reference, Tolerance, divergence, plain, told
from harness.types import Sample

__all__ = ["crowd", "flips", "floor", "in_load", "reader"]

Reader = Callable[[Expected, str], Sequence[int]]
"""The token ids of another answer to the prompt of an Expected."""


def reader(engine: Reference) -> Reader:
    """Reads answers with the reference's tokenizer, as they stand behind their prompt."""

    def read(alone: Expected, text: str) -> Sequence[int]:
        return engine.tokenize(engine.render(alone.messages) + text, False)[len(alone.prompt) :]

    return read


def flips(alone: Sequence[Expected], texts: Mapping[str, str | None], read: Reader, allowed: Tolerance) -> tuple[Sample, ...]:
    """1 where an answer in company leaves the one alone by more than a tie, 0 elsewhere; ``kind`` says which. None: no answer came.

    ``alone`` is the reference along the server's own answers at concurrency 1 (``parity.along``); ``texts`` by its ids.
    """
    return tuple(_flip(e, e.id, texts.get(e.id), read, allowed) for e in alone)


def in_load(
    load: Load, golden: Mapping[int, str], prompt_of: Callable[[int], str], alone: Mapping[str, Expected], read: Reader, allowed: Tolerance
) -> tuple[Sample, ...]:
    """One Sample for each golden request inside the window; ``golden`` are texts by sequence number, ``prompt_of`` names the prompt.

    A golden request that did not complete has no value and its cause as status: it counts against the claim.
    """
    rows = []
    for record in load.judged:
        if not record.golden:
            continue
        item, e = f"{record.sequence:06d}", alone[prompt_of(record.sequence)]
        if record.outcome == "complete":
            rows.append(_flip(e, item, golden.get(record.sequence), read, allowed))
        else:
            rows.append(Sample(item, None, status=record.why, detail={"prompt": e.id}))
    return tuple(rows)


def _flip(e: Expected, item: str, text: str | None, read: Reader, allowed: Tolerance) -> Sample:
    if text is None:
        return Sample(item, None, status="no_answer", detail={"prompt": e.id})
    tokens = plain(e) if text == e.text else tuple(read(e, text))
    found = told(e, divergence(plain(e), tokens), tokens, allowed, text)
    return Sample(item, found.value, detail={**found.detail, "prompt": e.id})


def floor(counted: Mapping[int, Sequence[Sample]]) -> str:
    """``counted`` by concurrency: "of 60 answers, c = 1 again: 0 ties, 0 errors; c = 4: 9 ties, 0 errors"."""
    parts = []
    for concurrency, samples in sorted(counted.items()):
        kinds = Counter(s.detail.get("kind", "silent") for s in samples)
        silent = f", {kinds['silent']} without an answer" if kinds["silent"] else ""
        parts.append(f"c = {concurrency}{' again' if concurrency == 1 else ''}: {kinds['tie']} ties, {kinds['error']} errors{silent}")
    return f"of {max(map(len, counted.values()), default=0)} answers, " + "; ".join(parts)


def crowd(load: Load) -> int:
    """The most requests that were in flight at one instant, by the client's record."""
    steps = []
    for r in load.records:
        if r.sent is not None and r.end is not None:
            steps += [(r.scheduled // 1000 + r.sent, 1), (r.scheduled // 1000 + r.end, -1)]
    most = now = 0
    for _, step in sorted(steps):  # an end comes before a start of the same instant
        now += step
        most = max(most, now)
    return most
