"""A fake engine for unit tests: answers from a table, scores from a hash. It measures nothing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.engines.common import cut_at_stop, load_json, token_digest
from harness.errors import EngineError, SubjectError
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

__all__ = ["Fake"]

_VOCABULARY = 256  # bytes are tokens


class Fake:
    """Answers prompt ids from ``answers`` (a mapping or the path of a JSON object of texts).

    An id that is not in the table gets ``default``, or finish "error" where that is None. Tokens
    are UTF-8 bytes; log-probabilities come from a hash of ``salt`` and the bytes before, so that
    they are the same on every machine. ``full`` distributions sum to one.
    Raises SubjectError if the path holds no such object.
    """

    def __init__(self, answers: Mapping[str, str] | str | Path, *, default: str | None = None, salt: str = "fake") -> None:
        self._answers: Mapping[str, str] = answers if isinstance(answers, Mapping) else _read(Path(answers))
        self.default, self.salt = default, salt
        self._closed = False

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        """The table's answers, cut at stop strings and after ``max_tokens`` bytes."""
        self._open()
        return [self._answer(prompt, sampling) for prompt in prompts]

    def _answer(self, prompt: Prompt, sampling: Sampling) -> Generation:
        source = prompt.text if prompt.text is not None else "\n".join(m.get("content", "") for m in prompt.messages)
        ids = source.encode("utf-8", errors="replace")
        text = self._answers.get(prompt.id, self.default)
        if text is None:
            why = f"the fake has no answer for {prompt.id!r}"
            return Generation(prompt.id, "", "error", len(ids), 0, token_digest(ids), why)
        cut = cut_at_stop(text, sampling.stop)
        data = (text if cut is None else cut).encode("utf-8")
        finish: Any = "length" if len(data) > sampling.max_tokens else "stop"
        kept = data[: sampling.max_tokens]
        return Generation(prompt.id, kept.decode("utf-8", errors="ignore"), finish, len(ids), len(kept), token_digest(ids))

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        """Made-up log-probabilities, the same for the same text, context and salt."""
        self._open()
        return [self._score(text) for text in texts]

    def _score(self, text: Scored) -> TokenLogprobs:
        tokens, logprobs, rows = [], [], []
        for continuation in text.continuations:
            before, data = text.context.encode("utf-8"), continuation.encode("utf-8")
            dists = [self._distribution(before + data[:i]) for i in range(len(data))]
            tokens.append(tuple(data))
            logprobs.append(tuple(dist[token] for dist, token in zip(dists, data, strict=True)))
            rows.append(_array(dists) if text.full else None)
        return TokenLogprobs(text.id, tuple(tokens), tuple(logprobs), tuple(rows) if text.full else None)

    def _distribution(self, before: bytes) -> list[float]:
        scores = hashlib.shake_256(self.salt.encode("utf-8") + b"\0" + before).digest(_VOCABULARY)
        weights = [1 + score for score in scores]
        total = sum(weights)
        return [math.log(weight / total) for weight in weights]

    def describe(self) -> Mapping[str, str]:
        """Says that this is a fake."""
        return {"engine": "fake", "version": "1", "device": "none", "policy": "a table of answers: no model, a FAKE"}

    def close(self) -> None:
        """Nothing to free; safe to call twice."""
        self._closed = True

    def _open(self) -> None:
        if self._closed:
            raise EngineError("the fake engine is closed; open it again")


def _array(rows: list[list[float]]) -> Any:
    import numpy as np

    return np.asarray(rows, dtype=np.float32).reshape(len(rows), _VOCABULARY)


def _read(path: Path) -> dict[str, str]:
    answers = load_json(path)
    for key, value in answers.items():
        if not isinstance(value, str):
            raise SubjectError(f"{path}: answer {key!r} is {type(value).__name__}, expected a text")
    return answers
