"""A reference engine that knows what a stub says: the same tokens, the same template, the same log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.serve.stub import answers as stub_answers
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

_SIZE = 50_000  # ids of a stub lie below


class Double:
    """``off`` nats are taken from every log-probability, as rounding would; ``gap`` is between the likeliest token and the next."""

    def __init__(self, off: float = 0.0, gap: float = 1.5) -> None:
        self.off, self.gap = off, gap

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        return [stub_answers.token_id(piece) for piece in stub_answers.tokenize(text)]

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        return stub_answers.render(messages)

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        made = []
        for prompt in prompts:
            text = stub_answers.answer(prompt.messages, 0, sampling.max_tokens)
            made.append(Generation(prompt.id, text, "length", len(self.tokenize(self.render(prompt.messages))), sampling.max_tokens))
        return made

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        return [self._scored(text) for text in texts]

    def _scored(self, text: Scored) -> TokenLogprobs:
        start = len(stub_answers.tokenize(text.context))
        chain = stub_answers.tokenize(text.context + text.continuations[0])
        values, lines = [], []
        for before, piece in zip(chain[start - 1 :], chain[start:], strict=False):
            value = stub_answers.logprob(before, piece) - self.off
            line = np.full(_SIZE, -20.0, dtype=np.float32)
            for rank, (word, _) in enumerate(stub_answers.top(before, piece, 8)):
                line[stub_answers.token_id(word)] = value - rank * self.gap
            values.append(value)
            lines.append(line)
        tokens = tuple(stub_answers.token_id(piece) for piece in chain[start:])
        return TokenLogprobs(text.id, (tokens,), (tuple(values),), (np.stack(lines),))

    def describe(self) -> Mapping[str, str]:
        return {"engine": "double"}

    def close(self) -> None: ...


def chats(n: int) -> list[Prompt]:
    """``n`` prompts of mixed lengths."""
    return [Prompt(f"p{i:03d}", ({"role": "user", "content": " ".join(f"word{i + k}" for k in range(1 + 7 * i % 23))},)) for i in range(n)]
