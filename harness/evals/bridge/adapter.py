"""An engine of ours as lm-eval's language model: its three kinds of requests.

The tokens that are scored are those that lm-eval's own Hugging Face backend scores
(``TemplateLM._encode_pair``). The continuations of one document's context go to the engine together,
which then computes the context once. One difference is noted in the row, as "merged": where a token
spans the border between context and continuation, lm-eval puts the tokens of the context alone
before those of the continuation, a sequence that no text has; here the text's own tokens stand there.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.engines import length_batches, token_digest
from harness.errors import EngineError, ImportedError
from harness.types import Engine, Generation, Prompt, Sampling, Scored, TokenLogprobs

__all__ = ["Kept", "adapter"]

_CHUNK = 256  # texts a call: progress, and whole distributions of no more than these at a time
_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}  # what Sampling can say


@dataclass(slots=True)
class Kept:
    """What the harness knows of one document's answers beyond lm-eval's own record."""

    finish: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    prompts: list[str] = field(default_factory=list)
    merged: list[str] = field(default_factory=list)

    def record(self) -> dict[str, list[str]]:
        found = {"finish": self.finish, "errors": self.errors, "prompt_tokens_digest": self.prompts, "merged": self.merged}
        return {key: value for key, value in found.items() if value}


def adapter(engine: Engine, *, greedy: set[str] | None = None, progress: Callable[[str, int, int], None] | None = None) -> Any:
    """An ``lm_eval.api.model.LM`` over ``engine``, for lm-eval's own ``evaluate``.

    ``greedy`` names the tasks whose scores ask whether a continuation is the most likely one; for
    these (None: for all) it is read off whole distributions, for others None is reported.
    """
    from lm_eval.api.model import LM

    asked = _Requests(engine, greedy, progress or (lambda task, done, total: None))

    class Adapter(LM):  # type: ignore[misc]
        kept = asked.kept
        tokenizer_name = ""  # names lm-eval's cache of prompts, which is not used

        def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
            return asked.render(chat_history, add_generation_prompt)

        def loglikelihood(self, requests: list[Any]) -> list[tuple[float, bool]]:
            return asked.loglikelihood(requests)

        def loglikelihood_rolling(self, requests: list[Any]) -> list[float]:
            return asked.rolling(requests)

        def generate_until(self, requests: list[Any]) -> list[str]:
            return asked.generate(requests)

    return Adapter()


@dataclass(slots=True)
class _Requests:
    """lm-eval's three kinds of requests, answered by an engine in their order."""

    engine: Engine
    greedy: set[str] | None
    progress: Callable[[str, int, int], None]
    kept: dict[tuple[str, int], Kept] = field(default_factory=dict)

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(sum of log-probabilities, whether greedy decoding gives it) of each (context, continuation)."""
        grouped: dict[tuple[str, int, str], dict[str, list[int]]] = {}
        for index, request in enumerate(requests):
            context, continuation = _split(*request.args)
            context = self._led_once(context)
            of_one = grouped.setdefault((request.task_name, request.doc_id, context), {})
            of_one.setdefault(continuation, []).append(index)
        groups = list(grouped.items())
        texts = [
            Scored(f"{task}/{document}/{n}", context, tuple(of_one), self.greedy is None or task in self.greedy)
            for n, ((task, document, context), of_one) in enumerate(groups)
        ]
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for place, score in self._scored(texts):
            (task, document, context), of_one = groups[place]
            kept = self._note(task, document, context)
            for which, indices in enumerate(of_one.values()):
                total, greedy, skipped = self._answer(texts[place], score, which)
                if skipped:
                    kept.merged.append(texts[place].continuations[which])
                for index in indices:
                    answers[index] = (total, greedy)
        return answers

    def rolling(self, requests: Sequence[Any]) -> list[float]:
        """The log-probability of each whole text; one longer than the model's positions is refused by the engine."""
        texts = [Scored(f"{request.task_name}/{request.doc_id}/{n}", "", request.args) for n, request in enumerate(requests)]
        totals = [0.0] * len(texts)
        for place, score in self._scored(texts):
            totals[place] = self._answer(texts[place], score, 0)[0]
        return totals

    def generate(self, requests: Sequence[Any]) -> list[str]:
        """The text of each answer, up to its stop string; one that failed is empty, and noted."""
        batches: dict[Sampling, list[int]] = {}
        again: Counter[int] = Counter()
        prompts: list[Prompt] = []
        for index, request in enumerate(requests):
            context, settings = request.args
            repeat = again[id(request)]
            again[id(request)] += 1
            prompts.append(Prompt(f"{request.task_name}/{request.doc_id}/{request.idx}/{repeat}", text=self._led_once(context)))
            batches.setdefault(_sampling(settings, request.task_name), []).append(index)
        texts, done = [""] * len(prompts), 0
        for sampling, indices in batches.items():
            answers = self.engine.generate([prompts[index] for index in indices], sampling=sampling)
            for index, answer in zip(indices, answers, strict=True):
                texts[index] = answer.text
                self._keep(requests[index], answer)
            done += len(indices)
            self.progress("generating", done, len(prompts))
        return texts

    def render(self, messages: Sequence[Mapping[str, str]], begin_answer: bool) -> str:
        """A prompt by the engine's chat template, the answer begun."""
        render = getattr(self.engine, "render", None)
        if render is None or not begin_answer:
            raise EngineError("this engine renders no chat template, or not without beginning the answer; run the task without chat")
        text: str = render(messages)
        return text

    # --- how it is done ----------------------------------------------------------------------------

    def _led_once(self, context: str) -> str:
        """``context`` without the mark of its beginning where the tokenizer puts one there by itself: two would stand there."""
        tokenize = getattr(self.engine, "tokenize", None)
        added = tokenize("") if tokenize is not None else []
        if tokenize is None or not added or tokenize(context)[:2] != [added[0]] * 2:
            return context
        ids = tokenize(context)[1:]
        return next(context[cut:] for cut in range(1, len(context) + 1) if tokenize(context[cut:]) == ids)

    def _scored(self, texts: Sequence[Scored]) -> Iterator[tuple[int, TokenLogprobs]]:
        """Every text with its place, longest first, so that those that are scored together are alike."""
        lengths, done = [len(text.context) + sum(map(len, text.continuations)) for text in texts], 0
        for batch in length_batches(lengths, _CHUNK, sys.maxsize) if texts else []:
            yield from zip(batch, self.engine.logprobs([texts[place] for place in batch]), strict=True)
            done += len(batch)
            self.progress("scoring", done, len(texts))

    def _answer(self, text: Scored, score: TokenLogprobs, which: int) -> tuple[float, bool, int]:
        """The two numbers lm-eval wants, and how many scored tokens it counts to the context."""
        tokens, logprobs = score.tokens[which], score.logprobs[which]
        skip = self._skipped(text.context, text.continuations[which], len(tokens))
        if not 0 <= skip < len(tokens):
            raise EngineError(
                f"text {text.id!r}: {len(tokens)} tokens of {text.continuations[which]!r} were scored, and {skip} are the context's by "
                "lm-eval's split: it scores the first token after an end-of-sequence token, or its own fails on this text too"
            )
        greedy = False  # lm-eval counts it even where no score reads it
        if score.distributions is not None:
            best = score.distributions[which][skip:].argmax(axis=-1)
            greedy = tuple(int(token) for token in best) == tokens[skip:]
        return math.fsum(logprobs[skip:]), greedy, skip

    def _skipped(self, context: str, continuation: str, scored: int) -> int:
        """Scored tokens that lm-eval counts to the context, where the two share a token; below 0: it scores more."""
        tokenize = getattr(self.engine, "tokenize", None)
        if tokenize is None:  # a server: its own split stands
            return 0
        if not context:
            return min(0, scored - len(tokenize(continuation, add_special=False)))
        return len(tokenize(context)) - (len(tokenize(context + continuation)) - scored)

    def _note(self, task: str, document: int, context: str) -> Kept:
        kept = self.kept.setdefault((task, document), Kept())
        tokenize = getattr(self.engine, "tokenize", None)
        if tokenize is not None:
            kept.prompts.append(token_digest(tokenize(context)))
        return kept

    def _keep(self, request: Any, answer: Generation) -> None:
        kept = self.kept.setdefault((request.task_name, request.doc_id), Kept())
        kept.finish.append(answer.finish)
        kept.prompts.append(answer.prompt_digest)
        if answer.error:
            kept.errors.append(answer.error)


def _split(context: str, continuation: str) -> tuple[str, str]:
    """White space at the end of a context belongs to the continuation, as in ``TemplateLM._encode_pair``."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def _sampling(settings: Mapping[str, Any], task: str) -> Sampling:
    """lm-eval's generation settings. Raises ImportedError for one that would have to be ignored."""
    from lm_eval.models.utils import normalize_gen_kwargs

    found = normalize_gen_kwargs(dict(settings), 256)  # lm-eval's own default
    unknown = sorted(set(found) - _KNOWN)
    if unknown:
        raise ImportedError(f"task {task} asks for generation by {', '.join(unknown)}; an engine here takes {', '.join(sorted(_KNOWN))}")
    temperature = float(found.get("temperature", 0.0)) if found.get("do_sample") else 0.0
    return Sampling(int(found["max_gen_toks"]), temperature, float(found.get("top_p", 1.0)), stop=tuple(found.get("until") or ()))
