"""An adapter says the same unmerged, merged, and served: next-token distributions over answers, place by place.

Compared at the tokens of each answer, its end mark included, after its prompt as the engine renders it: there the adapter
was trained to speak. The unit is the answer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.engines.common import quiet_transformers, render_chat
from harness.errors import EngineError
from harness.train.merge import attach, merge
from harness.train.recipe import Recipe
from harness.train.rows import Row
from harness.train.run import train
from harness.train.trainer import libraries, load_base
from harness.types import Scored, TokenLogprobs

__all__ = ["FAULTS", "UNDEQUANTIZED", "Said", "distances", "merged", "qlora", "texts", "unmerged"]

FAULTS = ("alpha doubled", "onto the tuned model", "one layer left out")
UNDEQUANTIZED = "onto the undequantized base"

Said = Mapping[str, TokenLogprobs]
"""id of an answer -> what was said of it, distributions included"""


def distances(new: Said, old: Said) -> list[dict[str, Any]]:
    """A row per answer: tokens, the largest absolute difference of an answer token's log-probability (nats), the mean of
    KL(old || new) over its places (nats), and the places where the likeliest token is another.

    Raises EngineError where the two tokenize an answer differently.
    """
    import numpy as np

    rows = []
    for name, was in old.items():
        now = new[name]
        if now.tokens != was.tokens or now.distributions is None or was.distributions is None:
            raise EngineError(f"answer {name}: the two subjects tokenize it differently; what they say of it cannot be compared")
        p, q = (np.asarray(each.distributions[0], dtype=np.float64) for each in (was, now))  # type: ignore[index]
        kld = (np.exp(p) * (p - q)).sum(axis=-1)
        apart = np.abs(np.subtract(now.logprobs[0], was.logprobs[0])).max()
        flips = int((p.argmax(axis=-1) != q.argmax(axis=-1)).sum())
        rows.append({"name": name, "tokens": len(kld), "max": float(apart), "kld": float(max(0.0, kld.mean())), "flips": flips})
    return rows


def unmerged(base: Path, adapter: Path, rows: Mapping[str, Row]) -> dict[str, TokenLogprobs]:
    """What the base and its unmerged adapter say in float32, the precision in which nothing is lost."""
    import torch

    tokenizer, model = attach(base, adapter)
    return _say(model.to(torch.float32), tokenizer, rows)


def merged(base: Path, adapter: Path, tuned: Path, rows: Mapping[str, Row], expected: Said) -> dict[str, list[dict[str, Any]]]:
    """For "" and each fault the distances of the merged model from the unmerged one, both in float32.

    ``tuned`` is the folder that the adapter was merged into before: to merge it there once more is a wrong base that fits.
    """
    found = {}
    for fault in ("", *FAULTS):
        with _attached(base, adapter, tuned, fault) as (tokenizer, model):
            found[fault] = distances(_say(model.merge_and_unload(), tokenizer, rows), expected)
    return found


@contextmanager
def _attached(base: Path, adapter: Path, tuned: Path, fault: str) -> Iterator[tuple[Any, Any]]:
    import torch

    if fault == "onto the tuned model":
        tokenizer, model = _put(tuned, adapter)
    else:
        tokenizer, model = attach(base, adapter)
    layers = [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]
    if fault == "alpha doubled":
        _scale(layers, 2.0)
    if fault == "one layer left out":
        _scale([layers[len(layers) // 2]], 0.0)
    yield tokenizer, model.to(torch.float32)


def _put(folder: Path, adapter: Path, *, quantized: bool = False, dtype: str = "float32") -> tuple[Any, Any]:
    """An adapter on any folder, whether it was trained on it or not."""
    import peft

    tokenizer, model = load_base(folder, dtype, quantized=quantized)
    with quiet_transformers():
        return tokenizer, peft.PeftModel.from_pretrained(model, str(adapter), local_files_only=True).eval()


def _scale(layers: Sequence[Any], factor: float) -> None:
    for layer in layers:
        layer.scaling = {name: factor * value for name, value in layer.scaling.items()}


def qlora(
    base: Path, train_rows: Sequence[Row], recipe: Recipe, rows: Mapping[str, Row], report: Callable[..., None] | None = None
) -> dict[str, Any]:
    """Trains a QLoRA adapter and merges it: {"": distances to the adapter unmerged on the NF4 base it was trained on,
    ``UNDEQUANTIZED``: the same of one merged onto the base as it was before quantization}; "loss" is the curve.

    Raises MissingNeed without bitsandbytes.
    """
    recipe = replace(recipe, method="qlora", objective="sft")
    libraries(recipe)
    with tempfile.TemporaryDirectory(prefix="qlora-") as scratch:
        adapter, plain = Path(scratch) / "adapter", Path(scratch) / "merged"
        curve = train(base, train_rows, adapter, recipe, progress=report)["loss"]
        expected = _say_of(_put(base, adapter, quantized=True), rows)
        merge(base, adapter, plain)
        good = _say_of(load_base(plain, "float32"), rows)
        tokenizer, wrong = _put(base, adapter)
        bad = _say(wrong.merge_and_unload(), tokenizer, rows)
        return {"": distances(good, expected), UNDEQUANTIZED: distances(bad, expected), "loss": curve}


def _say_of(loaded: tuple[Any, Any], rows: Mapping[str, Row]) -> dict[str, TokenLogprobs]:
    return _say(loaded[1], loaded[0], rows)


def _say(model: Any, tokenizer: Any, rows: Mapping[str, Row]) -> dict[str, TokenLogprobs]:
    """The answers scored one by one in the model's own dtype, as an engine scores them."""
    import torch

    model.eval()
    said = {}
    for name, (messages, answer) in rows.items():
        before = tokenizer(render_chat(tokenizer, messages, "the base"), add_special_tokens=False)["input_ids"]
        after = tokenizer(answer + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([before + after], device=model.device), use_cache=False).logits[0]
            whole = torch.log_softmax(logits[len(before) - 1 : -1].float(), dim=-1).cpu()
        picked = whole[torch.arange(len(after)), torch.tensor(after)].tolist()
        said[name] = TokenLogprobs(name, (tuple(after),), (tuple(picked),), (whole.numpy(),))
    return said


def texts(render: Callable[[Sequence[Mapping[str, str]]], str], rows: Mapping[str, Row], end: str) -> list[Scored]:
    """The answers for an engine to score, behind their prompts as it renders them itself."""
    return [Scored(name, render(messages), (answer + end,), True) for name, (messages, answer) in rows.items()]
