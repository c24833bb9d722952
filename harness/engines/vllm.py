"""Hugging Face folders through vLLM, which runs in a process and an environment of its own.

vLLM's pins exclude those of the main environment, and it serves what transformers cannot: GPTQ, AWQ,
INT8 and FP8 builds through the kernels that production would use. One worker process per model
(harness.engines.vllm_worker) computes; this side asks and waits.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.engines.common import load_json, safetensors_entries
from harness.engines.loaded import Held, Loaded
from harness.environments import python
from harness.errors import EngineError, SubjectError
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

__all__ = ["VLLM", "Worker"]

_POSITIONS = 4096  # at most, unless asked for: the cache is laid out for this many


class VLLM:
    """An Engine on a Hugging Face folder, quantized or not.

    ``dtype`` "auto" is bfloat16, or the folder's own where its weights are quantized. ``batch_items``
    sequences are computed together at most; which ones is vLLM's own affair (continuous batching).
    ``max_model_len`` counts tokens of a prompt and its answer; None is the model's own, at most 4096.
    ``cache_bytes`` is what keys and values get on a CPU, ``gpu_memory_utilization`` vLLM's share of the
    memory of a GPU. ``quantization`` ("gptq", "awq" ...) is for a folder that says how it was quantized
    in an older tool's file only; None reads its config.json. ``timeout`` is how many seconds the
    worker may show no sign of life: it gives one whenever a prompt is finished.

    Raises MissingNeed without the environment, SubjectError for a folder that vLLM cannot load or with
    tensors that are not finite, EngineError if the worker dies or keeps still.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        threads: int = 2,
        batch_items: int = 16,
        dtype: str = "auto",
        max_model_len: int | None = None,
        quantization: str | None = None,
        cache_bytes: int = 1 << 30,
        gpu_memory_utilization: float = 0.4,
        timeout: float = 600.0,
        seed: int = 0,
    ) -> None:
        if dtype not in ("auto", "bfloat16", "float32"):
            raise EngineError(f"dtype {dtype!r}, expected 'auto', 'bfloat16' or 'float32'")
        if min(threads, batch_items, cache_bytes) < 1:
            raise EngineError(f"threads = {threads}, batch_items = {batch_items}, cache_bytes = {cache_bytes}: expected at least 1 each")
        self.folder, self.seed = Path(folder).absolute(), seed
        config = load_json(self.folder / "config.json")
        safetensors_entries(self.folder)
        quantized = quantization is not None or "quantization_config" in config
        options = {
            "dtype": "bfloat16" if dtype == "auto" and not quantized else dtype,
            "quantization": quantization,
            "max_model_len": max_model_len or min(_positions(config), _POSITIONS),
            "batch_items": batch_items,
            "cache_bytes": cache_bytes,
            "gpu_memory_utilization": gpu_memory_utilization,
            "seed": seed,
        }
        command = [str(python("vllm")), "-m", "harness.engines.vllm_worker"]
        self._worker = Worker(command, _surroundings(threads), str(self.folder), timeout)
        self._hello: dict[str, str] = self._ask("open", folder=str(self.folder), options=options)

    def _ask(self, name: str, **arguments: Any) -> Any:
        """The worker's answer. Raises what it raised there; a worker that cannot open its model is of no more use."""
        try:
            return self._worker.call(name, **arguments)
        except SubjectError as error:
            if name != "open":
                raise
            said = self._worker.tail()
            self.close()
            raise SubjectError(f"{error}. The end of what vLLM said:\n{said}") from error

    # --- the work ----------------------------------------------------------------------------------

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids. ``add_special`` adds a beginning-of-sequence token if the tokenizer has the habit;
        ``parse_special`` reads marks like ``<|im_start|>`` as single tokens.
        """
        ids: list[int] = self._ask("tokenize", text=text, add_special=add_special, parse_special=parse_special)
        return ids

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt that the folder's chat template makes of ``messages``, the answer begun.

        Raises SubjectError if there is no template or it cannot be rendered.
        """
        text: str = self._ask("render", messages=[dict(message) for message in messages])
        return text

    def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> list[Generation]:
        """Answers in the order given. All prompts are handed over at once, in that order; ``batch_items``
        of them are decoded together, and the next one takes the place of one that is finished.

        Generation.tokens counts what was generated, without the end token. A prompt that does not fit
        ``max_model_len`` gets finish "error". Raises SubjectError if the template cannot render.
        """
        plain = [{"id": p.id, "messages": [dict(m) for m in p.messages], "text": p.text} for p in prompts]
        return [Generation(**answer) for answer in self._ask("generate", prompts=plain, sampling=asdict(sampling))]

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        """Log-probabilities of continuations, in the order given, normalized in float32.

        What is context and what is scored: harness.engines.scoring. Each continuation is a prompt of its
        own with its context, since vLLM computes a prompt whole when asked for its log-probabilities.
        Distributions are computed one text at a time.

        Raises EngineError for a text of ``max_model_len`` tokens or more.
        """
        plain = self._scored([text for text in texts if not text.full])
        found = iter(plain)
        return [self._scored([text])[0] if text.full else next(found) for text in texts]

    def _scored(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        if not texts:
            return []
        return [self._result(said) for said in self._ask("logprobs", texts=[asdict(text) for text in texts])]

    def _result(self, said: Mapping[str, Any]) -> TokenLogprobs:
        files = said["distributions"]
        return TokenLogprobs(
            said["id"],
            tuple(map(tuple, said["tokens"])),
            tuple(map(tuple, said["logprobs"])),
            None if files is None else tuple(self._worker.array(name) for name in files),
        )

    def loaded(self) -> Loaded:
        """What vLLM holds after it fused and repacked the weights: classes, kernels, dtypes, bytes."""
        return Loaded(
            tuple(Held(**{**held, "layers": tuple(held["layers"]), "dtypes": tuple(held["dtypes"])}) for held in self._ask("loaded"))
        )

    def describe(self) -> Mapping[str, str]:
        """The conditions of a measurement; the digest of the folder is the caller's."""
        return {
            "engine": "vllm",
            **self._hello,
            "seed": str(self.seed),
            "policy": "all prompts at once, in the order given; continuous batching, eager, no prefix cache; "
            "each continuation by itself with its context; 4-bit weights meet activations of 16 bits",
        }

    def close(self) -> None:
        """Ends the worker and removes its files; safe to call twice."""
        self._worker.close()


def _positions(config: Mapping[str, Any]) -> int:
    """The model's positions; multimodal configurations keep them one level down."""
    text = config.get("text_config")
    known = config.get("max_position_embeddings") or (text.get("max_position_embeddings") if isinstance(text, dict) else None)
    return known if isinstance(known, int) and known > 0 else _POSITIONS


def _surroundings(threads: int) -> dict[str, str]:
    """The worker's environment variables: the user's own, less what points at this Python, and what vLLM needs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VLLM_")) and name != "VIRTUAL_ENV"}
    return {
        **kept,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": kept.get("OMP_WAIT_POLICY", "PASSIVE"),
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine core in the worker itself
        "VLLM_USE_V2_MODEL_RUNNER": "0",  # the other one computes a prompt's log-probabilities elsewhere, on CUDA alone
        "VLLM_CPU_INT4_W4A8": "0",  # else 4-bit builds get 8-bit activations, on processors with AMX only
        "VLLM_PLUGINS": "",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",  # vLLM compiles one helper even in eager mode: 15 seconds, and a C++ compiler
    }


# --- the process ----------------------------------------------------------------------------------

_ERRORS = {"SubjectError": SubjectError, "EngineError": EngineError}


class Worker:
    """A process that answers calls over a socket, with a private folder for its files and its log.

    It leads a process group of its own, so that ending the group ends whatever it started. It is
    ended by ``close``, when this object is collected or this interpreter exits, and it ends itself
    when the socket closes: a killed parent leaves nothing.
    """

    def __init__(self, command: Sequence[str], surroundings: Mapping[str, str], subject: str, timeout: float) -> None:
        self.subject, self.timeout = subject, timeout
        self.folder = Path(tempfile.mkdtemp(prefix="harness-vllm-"))
        # the worker's path to this package and to nothing else that lies beside it
        (self.folder / "harness").symlink_to(Path(__file__).resolve().parents[1], target_is_directory=True)
        self._log = self.folder / "log.txt"
        self._channel, theirs = socket.socketpair()
        self._received = b""
        with theirs, self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    [*command, str(theirs.fileno()), str(self.folder)],
                    env={**surroundings, "PYTHONPATH": str(self.folder), "TMPDIR": str(self.folder)},
                    cwd=self.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                )
            except OSError as error:
                self._channel.close()
                shutil.rmtree(self.folder, ignore_errors=True)
                raise EngineError(f"{subject}: the worker cannot be started: {error}") from error
        self._end = weakref.finalize(self, _end, self._process, self._channel, self.folder)

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return bool(self._end.alive)

    @property
    def pid(self) -> int:
        """The process, for whoever measures its memory."""
        return self._process.pid

    def call(self, name: str, **arguments: Any) -> Any:
        """The answer. Raises what the worker raised, or EngineError if it failed, kept still or talked nonsense: then it is ended."""
        if not self.alive:
            raise EngineError(f"{self.subject}: the engine is closed; open it again")
        try:
            self._send({"call": name, **arguments})
            answer = self._answer(name)
            if answer.get("over"):
                raise self._failure(answer["error"][1])
        except BaseException:  # Ctrl-C too: an answer that comes later would be taken for that of the next call
            self.close()
            raise
        if "error" in answer:
            kind, said = answer["error"]
            raise _ERRORS.get(kind, EngineError)(said)
        return answer["result"]

    def _send(self, message: Mapping[str, Any]) -> None:
        self._channel.settimeout(self.timeout)
        try:
            self._channel.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise self._failure(f"the worker takes no call ({error or type(error).__name__})") from error

    def _answer(self, name: str) -> dict[str, Any]:
        """The next message that is more than a sign of life."""
        while True:
            line = self._line(name)
            try:
                message = json.loads(line)
            except ValueError:
                message = None
            if not isinstance(message, dict) or not message.keys() & {"result", "error", "alive"}:
                raise self._failure(f"the worker answered {name!r} with {line[:80]!r}, which is no message")
            if "alive" not in message:
                return message

    def _line(self, name: str) -> bytes:
        while b"\n" not in self._received:
            try:
                part = self._channel.recv(1 << 20)
            except TimeoutError:
                raise self._failure(f"no sign of life for {self.timeout:g} s during {name!r}; give the engine a longer timeout") from None
            except OSError:
                part = b""
            if not part:
                raise self._failure(f"the worker died during {name!r}{self._status()}")
            self._received += part
        line, _, self._received = self._received.partition(b"\n")
        return line

    def _status(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=5)
            return f" by signal {signal.Signals(-code).name}" if code < 0 else f" with status {code}"
        return ""

    def _failure(self, what: str) -> EngineError:
        return EngineError(f"{self.subject}: {what}. The end of what it said:\n{self.tail()}")

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        try:
            said = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return "(no log)"
        return "\n".join(line[:300] for line in said[-lines:]) or "(nothing)"

    def array(self, name: str) -> Any:
        """An array that the worker left in the folder; the file is removed."""
        import numpy as np

        path = self.folder / Path(name).name
        rows = np.load(path, allow_pickle=False)
        path.unlink()
        return rows

    def close(self) -> None:
        """Ends the process group and removes the folder; safe to call twice."""
        self._end()


def _end(process: subprocess.Popen[bytes], channel: socket.socket, folder: Path) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    channel.close()
    shutil.rmtree(folder, ignore_errors=True)
