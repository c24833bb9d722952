"""vLLM in a process of its own: what ``harness.engines.vllm`` starts with the interpreter of the vllm environment.

    python -m harness.engines.vllm_worker FD FOLDER

One JSON object a line, over the socket FD: ``{"call": name, ...arguments}`` is answered by
``{"result": ...}`` or ``{"error": [class, message]}``, with any number of ``{"alive": 1}`` before it;
``"over": true`` beside an error says that this process can do no more.
Arrays are left in FOLDER as .npy files. The engine core runs inside this process
(VLLM_ENABLE_V1_MULTIPROCESSING=0), so that ending the process group ends everything; when the
other end of the socket is gone, this end follows by itself.

Imports the standard library, harness, and at use vllm, torch and numpy: nothing else is promised there.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import select
import shutil
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines.common import cut_at_stop, load_json, render_chat, safetensors_entries, token_digest
from harness.engines.loaded import loaded_from
from harness.engines.scoring import Branch, item_of
from harness.errors import EngineError, HarnessError, SubjectError
from harness.types import Generation, Prompt, Sampling, Scored

__all__ = ["Extension", "Served", "main"]

_AGREE = 1e-4  # nats: between a kept distribution and the value that vLLM itself gives


class Extension:
    """What vLLM's worker gains (``worker_extension_cls``); its methods are called by ``collective_rpc``."""

    model_runner: Any  # of the vLLM worker that this is mixed into

    def harness_keep(self, on: bool) -> None:
        """Starts or stops keeping the log-probabilities from which vLLM picks those of a prompt's tokens.

        vLLM returns the k largest of each distribution; with k the whole vocabulary it would build
        one Python object per number. The function that picks them is handed all of them, chunk by
        chunk in the order of the prompt.
        """
        sampler = self.model_runner.sampler
        sampler.__dict__.pop("gather_logprobs", None)
        self._harness_kept: list[Any] = []
        if not on:
            return
        pick = sampler.gather_logprobs

        def gather(scores: Any, *rest: Any, **named: Any) -> Any:
            self._harness_kept.append(scores.float().cpu().numpy().copy())
            return pick(scores, *rest, **named)

        sampler.gather_logprobs = gather

    def harness_kept(self) -> list[Any]:
        """What was kept since ``harness_keep(True)``: float32 arrays (tokens of the chunk, vocabulary)."""
        return self._harness_kept

    def harness_loaded(self) -> list[dict[str, Any]]:
        """The modules that the engine holds, as plain data."""
        model = self.model_runner.get_model()
        return [asdict(held) for held in loaded_from(model, getattr(model, "packed_modules_mapping", None)).modules]


class Served:
    """One model in vLLM, and what can be asked of it. ``alive`` is called whenever a request is finished."""

    def __init__(self, folder: str, options: Mapping[str, Any], arrays: Path, alive: Callable[[], None]) -> None:
        self.folder, self.arrays, self.alive = Path(folder), arrays, alive
        self.seed = int(options["seed"])
        _check_finite(self.folder)
        self._llm = self._load(options)
        self._config = self._llm.llm_engine.vllm_config
        self._limit = int(self._config.model_config.max_model_len)
        self._size = int(self._config.model_config.get_vocab_size())
        self._tokenizer = self._llm.get_tokenizer()
        self._ends = self._end_tokens()

    def _load(self, options: Mapping[str, Any]) -> Any:
        import vllm
        from vllm.platforms import current_platform

        sizes = {"gpu_memory_utilization": options["gpu_memory_utilization"]}
        if current_platform.is_cpu():
            sizes = {"kv_cache_memory_bytes": options["cache_bytes"]}
        try:
            return vllm.LLM(
                model=str(self.folder),
                dtype=options["dtype"],
                quantization=options["quantization"],
                max_model_len=options["max_model_len"],
                max_num_seqs=options["batch_items"],
                seed=self.seed,
                load_format="safetensors",
                trust_remote_code=False,
                enforce_eager=True,  # no compiler, and half the time to boot
                enable_prefix_caching=False,  # what was asked before must not change what is computed
                disable_log_stats=True,
                tensor_parallel_size=1,
                worker_extension_cls="harness.engines.vllm_worker.Extension",
                **sizes,
            )
        except Exception as error:  # vLLM raises whatever its parts raise
            traceback.print_exc()  # into the log
            raise SubjectError(f"{self.folder}: vLLM cannot load it: {_said(error)}") from error

    def _end_tokens(self) -> frozenset[int]:
        ends = self._config.model_config.try_get_generation_config().get("eos_token_id")
        listed = ends if isinstance(ends, list) else [ends]
        return frozenset(end for end in (*listed, self._tokenizer.eos_token_id) if end is not None)

    def describe(self) -> dict[str, str]:
        """The conditions of a measurement that only this side knows."""
        import torch
        import vllm
        from vllm.platforms import current_platform

        model, scheduler = self._config.model_config, self._config.scheduler_config
        return {
            "version": str(vllm.__version__),
            "torch": str(torch.__version__),
            "device": str(current_platform.device_type),
            "dtype": str(model.dtype).removeprefix("torch."),
            "quantization": str(model.quantization or "none"),
            "threads": str(torch.get_num_threads()),
            "max_model_len": str(self._limit),
            "batch_items": str(scheduler.max_num_seqs),
            "batch_tokens": str(scheduler.max_num_batched_tokens),
        }

    # --- text and tokens -------------------------------------------------------------------------

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids, as every engine gives them."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=add_special, split_special_tokens=not parse_special)["input_ids"]
        return ids

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the folder's chat template makes of ``messages``, the answer begun."""
        return render_chat(self._tokenizer, messages, str(self.folder))

    def _prompt_tokens(self, prompt: Prompt) -> list[int]:
        if prompt.text is not None:
            return self.tokenize(prompt.text)
        # a template writes its own beginning-of-sequence mark
        return self.tokenize(self.render(prompt.messages), add_special=False)

    # --- generation ------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Mapping[str, Any]], sampling: Mapping[str, Any]) -> list[dict[str, Any]]:
        """One Generation per prompt, as plain data, in the order given."""
        asked = [Prompt(**prompt) for prompt in prompts]
        how = Sampling(**sampling)
        tokens = [self._prompt_tokens(prompt) for prompt in asked]
        refusals = [self._refusal(len(ids), how) for ids in tokens]
        todo = [i for i, why in enumerate(refusals) if not why]
        outputs = self._run([tokens[i] for i in todo], [self._params(asked[i], how) for i in todo])
        found = dict(zip(todo, outputs, strict=True))
        answers = [
            self._answer(prompt.id, ids, found[i], how)
            if i in found
            else Generation(prompt.id, "", "error", len(ids), 0, token_digest(ids), refusals[i])
            for i, (prompt, ids) in enumerate(zip(asked, tokens, strict=True))
        ]
        return [asdict(answer) for answer in answers]

    def _refusal(self, length: int, sampling: Sampling) -> str:
        if length == 0:
            return "the prompt has no tokens; give a text or messages"
        if length + sampling.max_tokens > self._limit:
            return f"{length} prompt tokens and {sampling.max_tokens} new ones exceed {self._limit} positions"
        return ""

    def _params(self, prompt: Prompt, sampling: Sampling) -> Any:
        from vllm import SamplingParams

        stop = [mark for mark in sampling.stop if mark]
        drawn: dict[str, Any] = {"temperature": 0.0}
        if sampling.temperature > 0:
            seed = _seed(self.seed, sampling.seed, prompt.id)
            drawn = {"temperature": sampling.temperature, "top_p": sampling.top_p, "seed": seed}
        return SamplingParams(
            max_tokens=sampling.max_tokens, stop=stop, stop_token_ids=sorted(self._ends), detokenize=bool(stop), **drawn
        )  # fmt: skip

    def _answer(self, name: str, prompt: list[int], output: Any, sampling: Sampling) -> Generation:
        """The text is decoded here, from the tokens, as the other engines do."""
        (said,) = output.outputs
        tokens = list(said.token_ids)
        if tokens and tokens[-1] in self._ends:
            tokens.pop()
        whole = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        digest = token_digest(prompt)
        if said.finish_reason not in ("stop", "length"):
            return Generation(name, whole, "error", len(prompt), len(tokens), digest, f"vLLM ended it with {said.finish_reason!r}")
        cut = cut_at_stop(whole, sampling.stop)
        return Generation(name, whole if cut is None else cut, said.finish_reason, len(prompt), len(tokens), digest)

    def _run(self, tokens: Sequence[list[int]], params: Any) -> list[Any]:
        """vLLM's outputs in the order given."""
        if not tokens:
            return []
        outputs: list[Any] = self._llm.generate([{"prompt_token_ids": ids} for ids in tokens], params, use_tqdm=self._bar)
        return outputs

    def _bar(self, *given: Any, **named: Any) -> Any:
        """The progress bar that vLLM moves whenever a request is finished: it shows nothing, and says that we live."""
        from tqdm import tqdm

        alive = self.alive

        class Bar(tqdm):  # type: ignore[type-arg, misc, unused-ignore]
            def update(self, n: float | None = 1) -> bool | None:
                alive()
                moved: bool | None = super().update(n)
                return moved

        return Bar(*given, **{**named, "file": _Nowhere()})

    # --- scoring ---------------------------------------------------------------------------------

    def logprobs(self, texts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """One TokenLogprobs per text as plain data; its distributions are names of files, so one text with them is asked at a time."""
        # vLLM wants room for the one token that it must generate after a scored text
        items = [item_of(Scored(**text), self.tokenize, self._tokenizer.bos_token_id, self._limit - 1) for text in texts]
        branches = [branch for item in items for branch in item.branches if len(branch.ids) > branch.start]
        self._score([branch for branch in branches if not branch.full])
        for branch in branches:
            if branch.full:
                self._score_full(branch)
        return [self._written(asdict(item.result(self._size))) for item in items]

    def _score(self, branches: Sequence[Branch]) -> None:
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
        outputs = self._run([branch.ids for branch in branches], params)
        for branch, output in zip(branches, outputs, strict=True):
            rows = output.prompt_logprobs[branch.start :]
            branch.logprobs += [float(row[token].logprob) for row, token in zip(rows, branch.ids[branch.start :], strict=True)]
            if not all(map(math.isfinite, branch.logprobs)):
                raise EngineError("the model's logits are not finite: its weights are damaged or its dtype overflowed")

    def _score_full(self, branch: Branch) -> None:
        import numpy as np

        self._llm.collective_rpc("harness_keep", args=(True,))
        try:
            self._score([branch])
            (kept,) = self._llm.collective_rpc("harness_kept")
        finally:
            self._llm.collective_rpc("harness_keep", args=(False,))
        rows = np.concatenate(kept) if kept else np.empty((0, 0), dtype=np.float32)
        if rows.shape != (len(branch.ids) - 1, self._size):
            raise EngineError(
                f"vLLM computed distributions of shape {rows.shape}, expected {(len(branch.ids) - 1, self._size)}: "
                "this version computes the log-probabilities of a prompt elsewhere; use the pinned one"
            )
        scored = rows[branch.start - 1 :]
        values = scored[np.arange(len(scored)), branch.ids[branch.start :]]
        if np.abs(values - np.asarray(branch.logprobs)).max() > _AGREE:
            raise EngineError("the distributions that vLLM computed are not those whose values it returned; use the pinned version")
        branch.rows += list(scored)

    def _written(self, result: dict[str, Any]) -> dict[str, Any]:
        import numpy as np

        if result["distributions"] is not None:
            names = [f"{i}.npy" for i in range(len(result["distributions"]))]
            for name, rows in zip(names, result["distributions"], strict=True):
                np.save(self.arrays / name, rows, allow_pickle=False)
            result["distributions"] = names
        return result

    def loaded(self) -> list[dict[str, Any]]:
        """The modules that the engine holds, as plain data."""
        (held,) = self._llm.collective_rpc("harness_loaded")
        return list(held)


class _Nowhere:
    def write(self, _text: str) -> None: ...
    def flush(self) -> None: ...


def _seed(*parts: object) -> int:
    """A seed that depends on the parts' text only: the same draw in any batch or order."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "little") >> 1  # 63 bits: torch takes signed ones


def _check_finite(folder: Path) -> None:
    """Refuses weights that are NaN or infinite, which vLLM would turn into text."""
    import torch
    from safetensors import safe_open

    load_json(folder / "config.json")
    for path in sorted({entry[0] for entry in safetensors_entries(folder).values()}):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor.float()).all()):
                    raise SubjectError(f"{folder}: tensor {name!r} holds NaN or infinite values; fetch or build it again")


def _said(error: BaseException) -> str:
    """The first lines of an error; vLLM's checks of a configuration need more than one."""
    lines = " ".join(str(error).split("\n")[:4]).strip()
    where = traceback.extract_tb(error.__traceback__)[-1]
    # an assertion of vLLM's says nothing but its place
    return f"{type(error).__name__}: {lines[:400] or f'at {Path(where.filename).name}:{where.lineno}: {where.line}'}"


# --- the process ----------------------------------------------------------------------------------


def main(descriptor: int, folder: Path) -> None:
    """Answers calls until the other end is gone, or vLLM failed: requests that it still holds would answer the next call."""
    os.set_inheritable(descriptor, False)  # else a child of ours would keep our end open
    channel = socket.socket(fileno=descriptor)
    follower = threading.Thread(target=_follow, args=(descriptor, folder), daemon=True)
    follower.start()

    def send(message: Mapping[str, Any]) -> None:
        channel.sendall(json.dumps(message, allow_nan=False).encode() + b"\n")

    served: Served | None = None
    for call in _lines(channel):
        name = call.pop("call")
        try:
            if served is None and name != "open":
                raise EngineError("no model is open")
            if name == "open":
                served = Served(call["folder"], call["options"], folder, lambda: send({"alive": 1}))
                name, call = "describe", {}
            send({"result": getattr(served, name)(**call)})
        except HarnessError as error:
            send({"error": [type(error).__name__, str(error)]})
        except Exception as error:
            traceback.print_exc()  # into the log
            send({"error": ["EngineError", f"vLLM: {_said(error)}"], "over": True})
            return
    follower.join()  # nobody is left: it sweeps the folder and ends us, and our leaving first would cut it short


def _lines(channel: socket.socket) -> Iterator[dict[str, Any]]:
    with channel.makefile("rb") as stream:
        for line in stream:
            yield json.loads(line)


def _follow(descriptor: int, folder: Path) -> None:
    """Ends this process group, and its folder, when the process that started it is gone."""
    poll = select.poll()
    poll.register(descriptor, select.POLLHUP)
    while not any(event & select.POLLHUP for _, event in poll.poll()):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
