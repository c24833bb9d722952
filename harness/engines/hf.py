"""Hugging Face folders through transformers, in this process: safetensors only, no remote code, no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.engines.common import (
    cut_at_stop,
    install,
    length_batches,
    load_json,
    pick_token,
    quiet_transformers,
    render_chat,
    rng_for,
    safetensors_entries,
    token_digest,
)
from harness.engines.loaded import Loaded, loaded_from
from harness.engines.scoring import Item, Slice, collect, item_of
from harness.errors import EngineError, MissingNeed, SubjectError
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

__all__ = ["HF"]


class HF:
    """An Engine on a Hugging Face folder, with an optional unmerged LoRA ``adapter`` folder.

    ``device`` "auto" is CUDA where there is one. ``dtype`` "auto" is bfloat16, or the folder's own
    where its weights are quantized. ``batch_items`` sequences, or ``batch_tokens`` padded tokens,
    are computed together at most; both decide the last digits. ``share_prefix`` computes what
    continuations of one context have in common once; without it each is a sequence of its own.

    Raises SubjectError for a folder that is missing, truncated, pickled, of unknown architecture or
    with tensors that are not finite, MissingNeed without torch, transformers (or peft).
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        batch_items: int = 16,
        batch_tokens: int = 4096,
        adapter: str | Path | None = None,
        share_prefix: bool = True,
        seed: int = 0,
    ) -> None:
        if dtype not in ("auto", "bfloat16", "float32"):
            raise EngineError(f"dtype {dtype!r}, expected 'auto', 'bfloat16' or 'float32'")
        self.folder, self.seed = Path(folder), seed
        self.adapter = None if adapter is None else Path(adapter)
        self.batch_items, self.batch_tokens = batch_items, batch_tokens
        self._config = load_json(self.folder / "config.json")
        safetensors_entries(self.folder)
        self._torch, self._transformers = _libraries()
        self._device = self._pick_device(device)
        self._model, self._tokenizer = self._load(dtype)
        self._forward = self._base().forward
        self._ends = self._end_tokens()
        self._limit = int(getattr(self._base().config, "max_position_embeddings", 0) or 1 << 30)
        self._share = share_prefix and not _slides(self._base().config)

    def _pick_device(self, device: str) -> str:
        if device == "auto":
            return "cuda" if self._torch.cuda.is_available() else "cpu"
        if device.startswith("cuda") and not self._torch.cuda.is_available():
            raise MissingNeed("cuda", "torch finds no CUDA device", "run on a machine with one, or use device='cpu'")
        return device

    def _load(self, dtype: str) -> tuple[Any, Any]:
        quantized = "quantization_config" in self._config
        kind = "auto" if dtype == "auto" and quantized else "bfloat16" if dtype == "auto" else dtype
        common = {"local_files_only": True, "trust_remote_code": False}
        try:
            with quiet_transformers():
                tokenizer = self._transformers.AutoTokenizer.from_pretrained(str(self.folder), **common)
                model, info = self._transformers.AutoModelForCausalLM.from_pretrained(
                    str(self.folder), dtype=kind, use_safetensors=True, output_loading_info=True, **common
                )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError) as error:
            raise SubjectError(f"{self.folder}: transformers cannot load it: {_first_line(error)}") from error
        except Exception as error:  # safetensors and tokenizers raise their own classes
            raise SubjectError(f"{self.folder}: cannot be loaded: {_first_line(error)}") from error
        missing = sorted(info["missing_keys"])
        if missing:  # transformers would go on with random numbers
            raise SubjectError(f"{self.folder}: {len(missing)} tensors are missing, like {missing[0]!r}")
        self._check_finite(model, str(self.folder))
        return self._adapt(model).to(self._device).eval(), tokenizer

    def _adapt(self, model: Any) -> Any:
        if self.adapter is None:
            return model
        if not (self.adapter / "adapter_model.safetensors").is_file():
            raise SubjectError(f"{self.adapter}: no adapter_model.safetensors; expected a LoRA adapter folder")
        load_json(self.adapter / "adapter_config.json")
        try:
            import peft
        except ImportError as error:
            raise MissingNeed("peft", "needed for an unmerged adapter", install("train")) from error
        try:
            adapted = peft.PeftModel.from_pretrained(model, str(self.adapter), use_safetensors=True)
        except Exception as error:
            raise SubjectError(f"{self.adapter}: peft cannot load the adapter: {_first_line(error)}") from error
        self._check_finite(adapted, str(self.adapter))
        return adapted

    def _check_finite(self, model: Any, where: str) -> None:
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point() and not bool(self._torch.isfinite(tensor.float()).all()):
                raise SubjectError(f"{where}: tensor {name!r} holds NaN or infinite values; fetch or build it again")

    def _base(self) -> Any:
        return self._model if self.adapter is None else self._model.get_base_model()

    def _end_tokens(self) -> frozenset[int]:
        ends = self._base().generation_config.eos_token_id
        listed = ends if isinstance(ends, list) else [ends]
        return frozenset(end for end in (*listed, self._tokenizer.eos_token_id) if end is not None)

    # --- generation ------------------------------------------------------------------------------

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids. ``add_special`` adds a beginning-of-sequence token if the tokenizer has the habit;
        ``parse_special`` reads marks like ``<|im_start|>`` as single tokens.
        """
        tokenizer = self._tokenizer
        ids: list[int] = tokenizer(text, add_special_tokens=add_special, split_special_tokens=not parse_special)["input_ids"]
        return ids

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the folder's chat template makes of ``messages``, the answer begun.

        Raises SubjectError if there is no template or it cannot be rendered.
        """
        return render_chat(self._tokenizer, messages, str(self.folder))

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        if prompt.text is not None:
            return self.tokenize(prompt.text)
        # a template writes its own beginning-of-sequence mark
        return self.tokenize(self.render(prompt.messages), add_special=False)

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        """Answers in the order given, from left-padded batches of similar prompt length.

        Generation.tokens counts what was generated, without the end token. A prompt longer than the
        model's positions gets finish "error". Raises SubjectError if the template cannot render.
        """
        self._open()
        answers = [self._answer(prompt, sampling) for prompt in prompts]
        todo = [answer for answer in answers if not answer.error]
        needs = [len(answer.prompt) + sampling.max_tokens for answer in todo]
        for batch in length_batches(needs, self.batch_items, self.batch_tokens):
            with self._torch.inference_mode():
                self._run([todo[index] for index in batch], sampling)
        return [answer.generation() for answer in answers]

    def _answer(self, prompt: Prompt, sampling: Sampling) -> _Answer:
        ids = self._prompt_tokens(prompt)
        rng = rng_for(self.seed, sampling.seed, prompt.id) if sampling.temperature > 0 else None
        answer = _Answer(prompt.id, ids, rng)
        if not ids:
            answer.error = "the prompt has no tokens; give a text or messages"
        elif len(ids) + sampling.max_tokens > self._limit:
            answer.error = f"{len(ids)} prompt tokens and {sampling.max_tokens} new ones exceed {self._limit} positions"
        return answer

    def _run(self, answers: list[_Answer], sampling: Sampling) -> None:
        torch = self._torch
        width = max(len(answer.prompt) for answer in answers)
        pads = [width - len(answer.prompt) for answer in answers]
        # token 0 as padding: it is masked, so any id does
        ids = torch.tensor([[0] * pad + a.prompt for pad, a in zip(pads, answers, strict=True)], device=self._device)
        mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in pads], device=self._device)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        cache = None
        while True:
            result = self._call(ids, mask, positions, cache)
            cache = result.past_key_values
            logits = result.logits[:, -1].float().cpu().numpy()
            for answer, row in zip(answers, logits, strict=True):
                self._accept(answer, row, sampling)
            if all(answer.finish for answer in answers):
                return
            # a finished answer stays in the batch, so that its neighbours' arithmetic stays the same
            ids = torch.tensor([[answer.last] for answer in answers], device=self._device)
            mask = torch.cat([mask, mask.new_ones((len(answers), 1))], dim=-1)
            positions = positions[:, -1:] + 1

    def _call(self, ids: Any, mask: Any, positions: Any, cache: Any) -> Any:
        extra = {"logits_to_keep": 1} if self._keeps_logits() else {}
        return self._model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **extra,
        )

    def _keeps_logits(self) -> bool:
        import inspect

        return "logits_to_keep" in inspect.signature(self._forward).parameters

    def _accept(self, answer: _Answer, logits: Any, sampling: Sampling) -> None:
        """Appends the next token, or notes why there is none."""
        if answer.finish:
            return
        if len(answer.tokens) >= sampling.max_tokens:
            answer.finish = "length"
            return
        token = pick_token(logits, sampling.temperature, sampling.top_p, answer.rng)
        answer.last = token
        if token in self._ends:
            answer.finish = "stop"
            answer.text = self._decode(answer.tokens)
            return
        answer.tokens.append(token)
        full = len(answer.tokens) >= sampling.max_tokens
        if sampling.stop or full:
            answer.text = self._decode(answer.tokens)
            cut = cut_at_stop(answer.text, sampling.stop)
            if cut is not None:
                answer.text, answer.finish = cut, "stop"
            elif full:
                answer.finish = "length"

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    # --- scoring ---------------------------------------------------------------------------------

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        """Log-probabilities of continuations, in the order given, normalized in float32.

        What is context and what is scored: harness.engines.scoring. The continuations of a context
        become branches of one sequence: a mask lets each see the context and itself only, and
        positions run on from the context, so one forward pass scores them all.

        Raises EngineError for a text longer than the model's positions.
        """
        self._open()
        items = [item_of(text, self.tokenize, self._tokenizer.bos_token_id, self._limit) for text in texts]
        slices = [part for item in items for part in item.slices(*self._slice_limits(item))]
        for batch in length_batches([part.cost for part in slices], self.batch_items, self.batch_tokens):
            with self._torch.inference_mode():
                self._score([slices[index] for index in batch])
        size = int(self._base().config.get_text_config().vocab_size)
        return [item.result(size) for item in items]

    def _slice_limits(self, item: Item) -> tuple[int, int]:
        return (len(item.branches), self.batch_tokens) if self._share else (1, self.batch_tokens)

    def _score(self, slices: Sequence[Slice]) -> None:
        torch = self._torch
        steps = [part.steps() for part in slices]
        width = max(map(len, steps))
        ids = torch.zeros((len(steps), width), dtype=torch.long)
        positions = torch.zeros((len(steps), width), dtype=torch.long)
        for row, plan in enumerate(steps):
            ids[row, : len(plan)] = torch.tensor([step.token for step in plan])
            positions[row, : len(plan)] = torch.tensor([step.position for step in plan])
        wanted = sorted({i for plan in steps for i, step in enumerate(plan) if step.predicts})
        logits = self._logits(ids, positions, self._mask(slices, width), wanted)
        place = {column: index for index, column in enumerate(wanted)}
        for row, plan in enumerate(steps):
            columns = [(place[i], step.predicts) for i, step in enumerate(plan) if step.predicts]
            rows = logits[row, [column for column, _ in columns]].float().cpu().numpy()
            collect(rows, [predicts for _, predicts in columns])

    def _mask(self, slices: Sequence[Slice], width: int) -> Any:
        """None where all slices are plain texts: causal attention, and padding stands behind."""
        torch = self._torch
        if all(len(part.branches) == 1 for part in slices):
            return None
        owner = torch.full((len(slices), width), -1)  # -1: context or padding
        shared = torch.zeros((len(slices), 1), dtype=torch.long)
        for row, part in enumerate(slices):
            place = shared[row, 0] = part.shared
            for which, branch in enumerate(part.branches):
                length = len(branch.ids) - 1 - part.shared
                owner[row, int(place) : int(place) + length] = which
                place = place + length
        return self._additive(owner, shared, width)

    def _additive(self, owner: Any, shared: Any, width: int) -> Any:
        """0 where a token (row) may see another (column): before it, and shared or of its branch."""
        torch = self._torch
        index = torch.arange(width)
        before = index[:, None] >= index[None, :]
        context = (index[None, :] < shared)[:, None, :]
        same = owner[:, :, None] == owner[:, None, :]
        seen = before & (context | same)
        dtype = self._base().dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return mask[:, None].to(self._device)

    def _logits(self, ids: Any, positions: Any, mask: Any, wanted: Sequence[int]) -> Any:
        columns = self._torch.tensor(wanted, device=self._device)
        extra = {"logits_to_keep": columns} if self._keeps_logits() else {}
        result = self._model(
            input_ids=ids.to(self._device),
            position_ids=positions.to(self._device),
            attention_mask=mask,
            use_cache=False,
            **extra,
        )
        return result.logits if extra else result.logits[:, columns]

    # --- the rest of Engine ------------------------------------------------------------------------

    def loaded(self) -> Loaded:
        """What transformers holds: class, dtypes and bytes of each module with weights."""
        self._open()
        return loaded_from(self._model)

    def describe(self) -> Mapping[str, str]:
        """The conditions of a measurement; the digest of the folder is the caller's."""
        self._open()
        return {
            "engine": "hf",
            "version": str(self._transformers.__version__),
            "torch": str(self._torch.__version__),
            "device": self._device,
            "dtype": str(self._base().dtype).removeprefix("torch."),
            "threads": str(self._torch.get_num_threads()),
            "batch_items": str(self.batch_items),
            "batch_tokens": str(self.batch_tokens),
            "attention": str(getattr(self._base().config, "_attn_implementation", "")),
            "adapter": "unmerged" if self.adapter else "none",
            "seed": str(self.seed),
            "policy": "left-padded batches by length, longest first; "
            + ("continuations share one forward pass" if self._share else "each continuation by itself"),
        }

    def close(self) -> None:
        """Frees the model; safe to call twice."""
        if self._model is not None:
            self._model = None
            self._forward = None
            if self._device.startswith("cuda"):
                self._torch.cuda.empty_cache()

    def _open(self) -> None:
        if self._model is None:
            raise EngineError(f"{self.folder}: the engine is closed; open it again")


@dataclass(slots=True)
class _Answer:
    """One answer in the making."""

    id: str
    prompt: list[int]
    rng: Any
    tokens: list[int] = field(default_factory=list)
    last: int = 0
    text: str = ""
    finish: Literal["", "stop", "length"] = ""
    error: str = ""

    def generation(self) -> Generation:
        digest = token_digest(self.prompt)
        if self.error:
            return Generation(self.id, "", "error", len(self.prompt), 0, digest, self.error)
        return Generation(self.id, self.text, self.finish or "length", len(self.prompt), len(self.tokens), digest)


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError as error:
        raise MissingNeed("hf", f"{error.name} cannot be imported", install("hf")) from error
    return torch, transformers


def _slides(config: Any) -> bool:
    """Whether a layer sees a window only: a mask of our own would show it more."""
    layers = getattr(config, "layer_types", None) or []
    return any(kind != "full_attention" for kind in layers) or bool(getattr(config, "sliding_window", None))


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
