"""What engines share: batching plans, digests, stop strings, and llama.cpp's log. Standard library only."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

from harness.errors import EngineError, MissingNeed

__all__ = [
    "INSTALL_HF",
    "INSTALL_LLAMACPP",
    "common_prefix",
    "cut_at_stop",
    "length_batches",
    "llama_cpp_quiet",
    "pick_token",
    "rng_for",
    "token_digest",
]

INSTALL_HF = 'python -m pip install "lifecycle-harness[hf]"'
INSTALL_LLAMACPP = 'python -m pip install "lifecycle-harness[llamacpp]"'


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
        raise MissingNeed("llamacpp", f"llama-cpp-python cannot be imported ({error})", INSTALL_LLAMACPP) from error
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
