"""What engines share: batching plans, digests, stop strings, and llama.cpp's log. Standard library only."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from harness.errors import EngineError, MissingNeed, SubjectError
from harness.types import Generation

__all__ = [
    "DTYPE_BITS",
    "answered",
    "common_prefix",
    "cut_at_stop",
    "install",
    "length_batches",
    "llama_cpp_quiet",
    "load_json",
    "pick_token",
    "quiet_transformers",
    "render_chat",
    "rng_for",
    "safetensors_entries",
    "safetensors_file",
    "token_digest",
]


def install(extra: str) -> str:
    """The command that gets an extra: what every MissingNeed of an engine names."""
    return f"python -m harness doctor --install {extra}"


def answered(answers: Sequence[Generation], what: str) -> list[Generation]:
    """The answers as they are. EngineError where there is none among them: a dead server says nothing about a model."""
    failed = [a for a in answers if a.finish == "error"]
    if failed and len(failed) == len(answers):
        raise EngineError(f"{what}: none of {len(answers)} requests was answered, so nothing was measured; first: {failed[0].error}")
    return list(answers)


def length_batches(lengths: Sequence[int], max_items: int, max_tokens: int) -> list[list[int]]:
    """Indices of items in batches of similar length, longest first; every index exactly once.

    A batch holds at most ``max_items`` items and, padded to its longest, at most ``max_tokens``
    tokens; an item longer than that gets a batch of its own. Ties keep the order given, so the
    plan depends on nothing but the arguments: the batch is a condition of a measurement. Longest
    first, so that a lack of memory shows in the first batch and not in the last.
    Raises ValueError if a limit is below 1.
    """
    if max_items < 1 or max_tokens < 1:
        raise ValueError(f"max_items = {max_items} and max_tokens = {max_tokens}, expected at least 1")
    batches: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and len(batches[-1]) < max_items and widest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
            widest = lengths[index]
    return batches


def token_digest(ids: Iterable[int]) -> str:
    """SHA-256 of token ids as decimal text joined by commas: Generation.prompt_digest."""
    return hashlib.sha256(",".join(map(str, ids)).encode("ascii")).hexdigest()


def common_prefix(sequences: Sequence[Sequence[int]]) -> int:
    """Length of the longest prefix that all sequences share; 0 for none."""
    if not sequences:
        return 0
    length = 0
    for column in zip(*sequences, strict=False):  # ends with the shortest
        if len(set(column)) > 1:
            break
        length += 1
    return length


def cut_at_stop(text: str, stop: Sequence[str]) -> str | None:
    """``text`` up to the earliest stop string, None if it holds none. Empty stop strings are ignored."""
    places = [place for place in (text.find(s) for s in stop if s) if place >= 0]
    return text[: min(places)] if places else None


# ctypes callbacks must outlive every call from C, and llama.cpp has one log per process
_LLAMA_LOG: dict[str, Any] = {}


def llama_cpp_quiet() -> tuple[Any, deque[str]]:
    """The module ``llama_cpp`` with its log turned away from stderr, and the last error lines.

    Raises MissingNeed if the package is not installed or cannot load its library.
    """
    try:
        import llama_cpp
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingNeed("llamacpp", f"llama-cpp-python cannot be imported ({error})", install("llamacpp")) from error
    if "lines" not in _LLAMA_LOG:
        import ctypes

        lines: deque[str] = deque(maxlen=8)

        def keep(level: int, text: bytes, _: Any) -> None:
            if level in (2, 3) and text.strip():  # GGML_LOG_LEVEL_WARN and _ERROR
                lines.append(text.decode("utf-8", "replace").strip())

        _LLAMA_LOG["callback"] = llama_cpp.llama_log_callback(keep)
        _LLAMA_LOG["lines"] = lines
        llama_cpp.llama_log_set(_LLAMA_LOG["callback"], ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
    return llama_cpp, _LLAMA_LOG["lines"]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silences transformers' bars and warnings within a block; what goes wrong there is raised.

    stderr is turned away too: the bar of its GGUF reader heeds no setting.
    """
    import transformers

    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):
            yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def render_chat(tokenizer: Any, messages: Sequence[Mapping[str, str]], where: str) -> str:
    """The prompt that a transformers tokenizer's chat template makes of ``messages``, the answer begun.

    Raises SubjectError, naming the folder ``where``, if there is no template or it cannot be rendered.
    """
    if not tokenizer.chat_template:
        raise SubjectError(f"{where}: no chat template, so no messages; give the prompt as text")
    import jinja2

    try:
        text: str = tokenizer.apply_chat_template([dict(message) for message in messages], add_generation_prompt=True, tokenize=False)
    except (jinja2.TemplateError, TypeError, ValueError) as error:
        raise SubjectError(f"{where}: the chat template cannot render these messages: {error}") from error
    return text


def rng_for(*parts: object) -> Any:
    """A numpy generator that depends on the parts' text only: the same draw in any batch or order."""
    import numpy as np

    digest = hashlib.sha256("\0".join(map(str, parts)).encode("utf-8")).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def pick_token(logits: Any, temperature: float, top_p: float, rng: Any) -> int:
    """The next token id from ``logits`` (vocabulary,): the largest, or drawn where temperature > 0.

    ``top_p`` keeps the smallest set of tokens whose probability reaches it. Raises EngineError if
    a logit is NaN, which numpy would take for the largest.
    """
    import numpy as np

    best = int(np.argmax(logits))
    if np.isnan(logits[best]):
        raise EngineError("the model's logits are NaN: its weights are damaged or its dtype overflowed; check the file")
    if temperature <= 0:
        return best
    scaled = (logits.astype(np.float64) - float(logits[best])) / temperature
    probabilities = np.exp(scaled)
    order = np.argsort(-probabilities, kind="stable")
    cumulative = np.cumsum(probabilities[order]) / probabilities.sum()
    kept = int(np.searchsorted(cumulative, min(top_p, 1.0))) + 1
    kept = min(kept, len(order))
    draw = rng.random() * cumulative[kept - 1]
    return int(order[min(int(np.searchsorted(cumulative[:kept], draw, side="right")), kept - 1)])


# --- model folders -------------------------------------------------------------------------------

# bits per element
DTYPE_BITS = {"F64": 64, "I64": 64, "U64": 64, "C64": 64, "F32": 32, "I32": 32, "U32": 32, "F16": 16, "BF16": 16, "I16": 16, "U16": 16,
              "BOOL": 8, "I8": 8, "U8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F8_E8M0": 8,
              "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4}  # fmt: skip
_MAX_SAFETENSORS_HEADER = 100_000_000  # the library's own limit, in bytes

TensorEntry = tuple[Path, str, tuple[int, ...], int]
"""File, type name, shape and absolute byte offset of a tensor."""


def load_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder. Raises SubjectError if there is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read ({error.strerror}); expected a model folder") from error
    except (ValueError, RecursionError) as error:
        raise SubjectError(f"{path}: not JSON ({error}); the folder is damaged, fetch or build it again") from error
    if not isinstance(value, dict):
        raise SubjectError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def safetensors_entries(folder: Path) -> dict[str, TensorEntry]:
    """Every tensor of a folder's safetensors files, checked against the sizes of the files.

    Reads headers only. Raises SubjectError for a missing or truncated file, a header that
    contradicts itself, a shard outside the folder, or weights that are only pickled.
    """
    index = folder / "model.safetensors.index.json"
    shards = ["model.safetensors"]
    if index.is_file():
        shards = sorted({str(shard) for shard in _weight_map(index).values()})
    elif not (folder / shards[0]).is_file() and any(folder.glob("*.bin")):
        raise SubjectError(f"{folder}: only pickled weights (*.bin), which are never loaded; save them as safetensors")
    entries: dict[str, TensorEntry] = {}
    for shard in shards:
        if Path(shard).name != shard:
            raise SubjectError(f"{index}: shard {shard!r} lies outside the folder")
        entries.update(safetensors_file(folder / shard))
    return entries


def _weight_map(index: Path) -> dict[str, Any]:
    """Tensor names and the shards that hold them. Raises SubjectError if the index holds none."""
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise SubjectError(f"{index}: weight_map is {type(weight_map).__name__}, expected tensor names and their shards")
    return weight_map


def safetensors_file(path: Path) -> dict[str, TensorEntry]:
    """Every tensor of one safetensors file; reads and raises as safetensors_entries does."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_SAFETENSORS_HEADER):
                raise SubjectError(f"{path}: header of {length} bytes in a file of {size}: truncated or damaged")
            header = json.loads(file.read(length))
    except OSError as error:
        raise SubjectError(f"{path}: cannot be read ({error.strerror}); expected safetensors weights") from error
    except (ValueError, RecursionError) as error:  # also a number of too many digits
        if isinstance(error, SubjectError):
            raise
        raise SubjectError(f"{path}: the safetensors header is not JSON; fetch or build it again") from error
    if not isinstance(header, dict):
        raise SubjectError(f"{path}: the safetensors header is no JSON object; fetch or build it again")
    return {n: _entry(path, n, e, 8 + length, size) for n, e in header.items() if n != "__metadata__"}


def _entry(path: Path, name: str, entry: Mapping[str, Any], start: int, size: int) -> TensorEntry:
    try:
        kind, shape = str(entry["dtype"]), tuple(map(int, entry["shape"]))
        begin, end = map(int, entry["data_offsets"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise SubjectError(f"{path}: the entry of tensor {name!r} is malformed; fetch or build it again") from error
    if start + end > size:
        raise SubjectError(
            f"{path}: truncated: expected at least {start + end} bytes (tensor {name!r} ends there), found {size}; "
            "fetch or build the file again"
        )
    expected = math.prod(shape) * DTYPE_BITS.get(kind, 0)
    if not 0 <= begin <= end or min(shape, default=0) < 0 or (kind in DTYPE_BITS and 8 * (end - begin) != expected):
        raise SubjectError(f"{path}: tensor {name!r} of shape {shape} does not fill its {end - begin} bytes")
    return path, kind, shape, start + begin
