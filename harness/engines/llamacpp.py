"""GGUF models through llama.cpp's low-level interface, in this process.

Sequences are decoded in static batches, so that what is computed together depends only on the
prompts and the settings. One unified key-value cache lets a token belong to several sequences: a
prefix that prompts or continuations share is computed once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.engines.common import (
    common_prefix,
    length_batches,
    llama_cpp_quiet,
    pick_token,
    rng_for,
    token_digest,
)
from harness.engines.gguf_header import Header, file_type, read_header
from harness.engines.scoring import Branch, Item, Slice, collect, item_of
from harness.errors import EngineError, SubjectError
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

__all__ = ["LlamaCpp"]


class LlamaCpp:
    """An Engine on one GGUF file.

    ``n_ctx`` is the number of tokens in the cache, shared by all sequences of a batch; ``n_seq``
    the most sequences decoded together; ``n_batch`` the most tokens in one call. All three decide
    what is computed together, hence the last digits: they are conditions of a measurement.
    ``cache`` "f16" is llama.cpp's default, with flash attention, which rounds keys and values to
    f16 whatever the cache holds; "f32" turns both off, to compare with another engine.

    Raises SubjectError if the file is unusable, MissingNeed without llama-cpp-python.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        n_ctx: int = 8192,
        n_seq: int = 16,
        n_batch: int = 512,
        threads: int = 2,
        seed: int = 0,
        cache: str = "f16",
    ) -> None:
        if cache not in ("f16", "f32"):
            raise EngineError(f"cache = {cache!r}, expected 'f16' or 'f32'")
        if min(n_ctx, n_seq, n_batch, threads) < 1 or n_batch > n_ctx:
            raise EngineError(
                f"n_ctx = {n_ctx}, n_seq = {n_seq}, n_batch = {n_batch}, threads = {threads}: "
                "expected at least 1 each, and n_batch <= n_ctx"
            )
        self.path, self.n_ctx, self.n_seq, self.n_batch = Path(path), n_ctx, n_seq, n_batch
        self.threads, self.seed, self.cache = threads, seed, cache
        self._model: Any = None
        self._context: Any = None
        self._header: Header = read_header(path)
        self._lib, self._errors = llama_cpp_quiet()
        self._load()
        self._vocab = self._lib.llama_model_get_vocab(self._model)
        self._size = int(self._lib.llama_vocab_n_tokens(self._vocab))
        self._batch: Any = self._lib.llama_batch_init(n_batch, 0, n_seq)
        self._pieces: dict[int, bytes] = {}
        self._template: Any = None

    def _load(self) -> None:
        lib = self._lib
        params = lib.llama_model_default_params()
        params.n_gpu_layers = -1 if lib.llama_supports_gpu_offload() else 0
        params.check_tensors = True  # refuses NaN in the weights
        self._errors.clear()
        self._model = lib.llama_model_load_from_file(os.fsencode(self.path), params)
        if not self._model:
            raise self._load_error("cannot be loaded")
        context = lib.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_ubatch = self.n_ctx, self.n_batch, self.n_batch
        context.n_seq_max, context.kv_unified = self.n_seq, True
        context.n_threads = context.n_threads_batch = self.threads
        if self.cache == "f32":
            context.type_k = context.type_v = 0  # GGML_TYPE_F32
            context.flash_attn_type = lib.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self._context = lib.llama_init_from_model(self._model, context)
        if not self._context:
            error = self._load_error(f"no context of n_ctx = {self.n_ctx}, n_seq = {self.n_seq} could be made")
            self.close()
            raise error

    def _load_error(self, what: str) -> SubjectError:
        said = "; ".join(self._errors) or "it says nothing"
        return SubjectError(f"{self.path}: {what}; llama.cpp: {said}. Expected a whole GGUF model of a known kind")

    # --- text and tokens -------------------------------------------------------------------------

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids. ``add_special`` adds a beginning-of-sequence token if the file asks for one;
        ``parse_special`` reads marks like ``<|im_start|>`` as single tokens, as transformers does.
        """
        self._open()
        data = text.encode("utf-8", errors="replace")
        room = len(data) + 8
        buffer = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(self._vocab, data, len(data), buffer, room, add_special, parse_special)
        if count < 0:
            raise EngineError(f"{self.path}: llama.cpp cannot tokenize a text of {len(data)} bytes (code {count})")
        return list(buffer[:count])

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the file's own chat template makes of ``messages``, the answer begun.

        Raises SubjectError if the file has no template or it cannot be rendered.
        """
        if self._template is None:
            source = self._header.metadata.get("tokenizer.chat_template")
            if not isinstance(source, str) or not source:
                raise SubjectError(f"{self.path}: no chat template, so no messages; give the prompt as text")
            self._template = _compile(source, str(self.path))
        import jinja2

        try:
            text: str = self._template.render(
                messages=[dict(message) for message in messages],
                add_generation_prompt=True,
                bos_token=self._special("bos"),
                eos_token=self._special("eos"),
            )
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            raise SubjectError(f"{self.path}: the chat template cannot render these messages: {error}") from error
        return text

    def _special(self, name: str) -> str:
        tokens = self._header.metadata.get("tokenizer.ggml.tokens", ())
        index = self._header.metadata.get(f"tokenizer.ggml.{name}_token_id")
        return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else ""

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        if prompt.text is not None:
            return self.tokenize(prompt.text)
        # a template writes its own beginning-of-sequence mark
        return self.tokenize(self.render(prompt.messages), add_special=False)

    def _piece(self, token: int) -> bytes:
        """The bytes of a token; special tokens are not part of a text."""
        if token not in self._pieces:
            import ctypes

            room = 64
            while True:
                buffer = ctypes.create_string_buffer(room)
                count = self._lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False)
                if count >= 0:
                    break
                room = -count
            self._pieces[token] = buffer.raw[:count]
        return self._pieces[token]

    # --- generation ------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        """Answers in the order given. Prompts are decoded in static batches of similar length: a
        batch is finished before the next one starts. Generation.tokens counts what was decoded,
        without the end token. A prompt that does not fit ``n_ctx`` gets finish "error".

        Raises SubjectError if the template cannot render, EngineError if decoding fails.
        """
        self._open()
        tokens = [self._prompt_tokens(prompt) for prompt in prompts]
        answers: list[Generation | None] = [None] * len(prompts)
        for index, ids in enumerate(tokens):
            why = self._refusal(len(ids), sampling)
            if why:
                digest = token_digest(ids)
                answers[index] = Generation(prompts[index].id, "", "error", len(ids), 0, digest, why)
        todo = [index for index, answer in enumerate(answers) if answer is None]
        needs = [len(tokens[index]) + sampling.max_tokens for index in todo]
        for batch in length_batches(needs, self.n_seq, self.n_ctx):
            chosen = [todo[place] for place in batch]
            sequences = [self._sequence(prompts[i], tokens[i], sampling, seq) for seq, i in enumerate(chosen)]
            self._run(sequences, sampling)
            for index, sequence in zip(chosen, sequences, strict=True):
                answers[index] = sequence.answer()
        return [answer for answer in answers if answer is not None]

    def _refusal(self, length: int, sampling: Sampling) -> str:
        if length == 0:
            return "the prompt has no tokens; give a text or messages"
        if length + sampling.max_tokens > self.n_ctx:
            return f"{length} prompt tokens and {sampling.max_tokens} new ones do not fit n_ctx = {self.n_ctx}"
        return ""

    def _sequence(self, prompt: Prompt, ids: list[int], sampling: Sampling, seq: int) -> _Sequence:
        rng = rng_for(self.seed, sampling.seed, prompt.id) if sampling.temperature > 0 else None
        return _Sequence(prompt.id, ids, seq, rng)

    def _run(self, sequences: list[_Sequence], sampling: Sampling) -> None:
        self._forget()
        first = self._prefill(sequences)
        for sequence in sequences:
            self._accept(sequence, first[sequence.seq], sampling)
        while active := [s for s in sequences if s.finish is None]:
            plan = [_Token(s.last, len(s.prompt) + s.count - 1, (s.seq,), True) for s in active]
            logits = self._decode(plan)
            for sequence, row in zip(active, logits, strict=True):
                self._accept(sequence, row, sampling)

    def _prefill(self, sequences: list[_Sequence]) -> dict[int, Any]:
        """Next-token logits after each prompt; what all prompts begin with is computed once."""
        shared = min(common_prefix([s.prompt for s in sequences]), min(len(s.prompt) for s in sequences) - 1)
        everyone = tuple(s.seq for s in sequences)
        plan = [_Token(sequences[0].prompt[i], i, everyone, False) for i in range(shared)]
        for s in sequences:
            last = len(s.prompt) - 1
            plan += [_Token(s.prompt[i], i, (s.seq,), i == last) for i in range(shared, last + 1)]
        wanted = [token.seqs[0] for token in plan if token.output]
        rows: list[Any] = []
        self._decode_all(plan, lambda _start, logits: rows.extend(row.copy() for row in logits))
        return dict(zip(wanted, rows, strict=True))

    def _accept(self, sequence: _Sequence, logits: Any, sampling: Sampling) -> None:
        """Appends the next token, or notes why there is none."""
        if sequence.count >= sampling.max_tokens:
            sequence.finish = "length"
            return
        token = pick_token(logits, sampling.temperature, sampling.top_p, sequence.rng)
        if self._lib.llama_vocab_is_eog(self._vocab, token):
            sequence.finish = "stop"
            return
        sequence.append(token, self._piece(token), sampling.stop)
        if sequence.finish is None and sequence.count >= sampling.max_tokens:
            sequence.finish = "length"  # known already: spare the step that would find out

    # --- scoring ---------------------------------------------------------------------------------

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        """Log-probabilities of continuations, in the order given.

        What is context and what is scored: harness.engines.scoring. What the continuations share
        is computed once. Texts are packed into calls in the order given.

        Raises EngineError for a text longer than ``n_ctx``.
        """
        self._open()
        bos = int(self._lib.llama_vocab_bos(self._vocab))
        items = [item_of(text, self.tokenize, bos if bos >= 0 else None, self.n_ctx) for text in texts]
        for group in self._groups(items):
            self._forget()
            self._score(group)
        return [item.result(self._size) for item in items]

    def _groups(self, items: Sequence[Item]) -> list[list[Slice]]:
        """Slices of items that fit one call together; a large one stands alone."""
        groups: list[list[Slice]] = []
        sequences = tokens = 0
        for item in items:
            for part in item.slices(self.n_seq, self.n_ctx):
                sequences, tokens = sequences + len(part.branches), tokens + part.cost
                if not groups or sequences > self.n_seq or tokens > self.n_batch:
                    groups.append([])
                    sequences, tokens = len(part.branches), part.cost
                groups[-1].append(part)
        return groups

    def _score(self, group: Sequence[Slice]) -> None:
        plan: list[_Token] = []
        predicts: list[list[tuple[Branch, int]]] = []
        first = 0
        for part in group:
            for step in part.steps():
                seqs = tuple(first + branch for branch in step.branches)
                plan.append(_Token(step.token, step.position, seqs, bool(step.predicts)))
            predicts += [step.predicts for step in part.steps() if step.predicts]
            first += len(part.branches)
        self._decode_all(plan, lambda start, logits: collect(logits, predicts[start : start + len(logits)]))

    # --- llama.cpp -------------------------------------------------------------------------------

    def _decode_all(self, plan: Sequence[_Token], keep: Callable[[int, Any], None]) -> None:
        """Decodes any number of tokens; ``keep`` gets the outputs so far and the new logits."""
        outputs = 0
        for start in range(0, len(plan), self.n_batch):
            logits = self._decode(plan[start : start + self.n_batch])
            if len(logits):
                keep(outputs, logits)
            outputs += len(logits)

    def _decode(self, plan: Sequence[_Token]) -> Any:
        """Logits (outputs, vocabulary) in llama.cpp's own memory: valid until the next call."""
        import numpy as np

        batch = self._batch
        batch.n_tokens = len(plan)
        for i, token in enumerate(plan):
            batch.token[i], batch.pos[i], batch.logits[i] = token.id, token.position, token.output
            batch.n_seq_id[i] = len(token.seqs)
            row = batch.seq_id[i]
            for k, seq in enumerate(token.seqs):
                row[k] = seq
        self._errors.clear()
        code = self._lib.llama_decode(self._context, batch)
        if code != 0:
            said = "; ".join(self._errors) or "it says nothing"
            raise EngineError(f"{self.path}: llama_decode of {len(plan)} tokens gave {code}; llama.cpp: {said}")
        outputs = sum(token.output for token in plan)
        if not outputs:
            return np.empty((0, self._size), dtype=np.float32)
        return np.ctypeslib.as_array(self._lib.llama_get_logits(self._context), shape=(outputs, self._size))

    def _forget(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), False)

    def _open(self) -> None:
        if not self._context:
            raise EngineError(f"{self.path}: the engine is closed; open it again")

    # --- the rest of Engine ------------------------------------------------------------------------

    def describe(self) -> Mapping[str, str]:
        """The conditions of a measurement; the digest of the file is the caller's."""
        return {
            "engine": "llamacpp",
            "version": str(self._lib.__version__),
            "device": "gpu" if self._lib.llama_supports_gpu_offload() else "cpu",
            "dtype": file_type(self._header),
            "threads": str(self.threads),
            "n_seq": str(self.n_seq),
            "n_ctx": str(self.n_ctx),
            "n_batch": str(self.n_batch),
            "cache": self.cache,
            "seed": str(self.seed),
            "policy": "static batches by length, longest first; shared prefixes computed once; unified cache",
        }

    def close(self) -> None:
        """Frees model and cache; safe to call twice."""
        if self._context:
            self._lib.llama_batch_free(self._batch)
            self._lib.llama_free(self._context)
            self._context = None
        if self._model:
            self._lib.llama_model_free(self._model)
            self._model = None


@dataclass(frozen=True, slots=True)
class _Token:
    id: int
    position: int
    seqs: tuple[int, ...]
    output: bool


@dataclass(slots=True)
class _Sequence:
    """One answer in the making."""

    id: str
    prompt: list[int]
    seq: int
    rng: Any
    last: int = -1
    count: int = 0
    data: bytearray = field(default_factory=bytearray)
    finish: Literal["stop", "length"] | None = None

    def append(self, token: int, piece: bytes, stop: Sequence[str]) -> None:
        self.last, self.count = token, self.count + 1
        before = len(self.data)
        self.data += piece
        marks = [mark.encode("utf-8") for mark in stop if mark]
        # a stop string that was not there before ends within the new piece
        places = [self.data.find(mark, max(0, before - len(mark) + 1)) for mark in marks]
        places = [place for place in places if place >= 0]
        if places:
            del self.data[min(places) :]
            self.finish = "stop"

    def answer(self) -> Generation:
        text = self.data.decode("utf-8", errors="replace")
        return Generation(self.id, text, self.finish or "length", len(self.prompt), self.count, token_digest(self.prompt))


def _compile(source: str, where: str) -> Any:
    """The template in the sandbox and with the settings that transformers uses."""
    import datetime
    import json

    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise SubjectError(f"{where}: the chat template is not valid Jinja: {error}") from error
