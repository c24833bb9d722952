"""The first step of DPO, before anything was learned: what trl computes, and the same derived without it.

Policy and reference agree: every loss is ln 2, and the gradient -beta/2 times that of log pi(chosen) - log pi(rejected)
(Rafailov et al. 2023, equation 7 and the gradient below it).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Any

from harness.errors import EngineError, SubjectError
from harness.train.preferences import Preference, check_folder, whole
from harness.train.recipe import Recipe
from harness.train.rows import columns
from harness.train.trainer import build, libraries, load_base

__all__ = ["FirstStep", "derived_step", "first_step"]


@dataclass(frozen=True, slots=True)
class FirstStep:
    """Before anything was learned: the loss of each pair in nats, and the gradient of their mean (numpy, parameters,)."""

    losses: tuple[float, ...]
    gradient: Any


def first_step(
    policy: Path, given: Sequence[Preference], recipe: Recipe, *, reference: Path | None = None, fresh: bool = True, **changes: Any
) -> FirstStep:
    """What the trainer of ``recipe`` computes of the pairs with ``policy`` in float32, before any step.

    The three last are for controls: another model as ``reference``, an adapter that is not ``fresh`` (random where it should
    be zero), and ``changes`` of trl's configuration. Raises MissingNeed without trl and peft, EngineError where trl drops a pair.
    """
    with tempfile.TemporaryDirectory(prefix="dpo-") as scratch:
        _, trainer = _built(policy, given, recipe, scratch, reference, changes)
        if not fresh:
            _spoil(trainer.model)
        kept = list(trainer.train_dataset)
        if len(kept) != len(given):
            raise EngineError(f"trl kept {len(kept)} of {len(given)} pairs; expected all of them")
        batches = [trainer._prepare_inputs(trainer.data_collator([row])) for row in kept]
        return _accumulated(trainer.model, [partial(trainer.compute_loss, trainer.model, batch) for batch in batches])


def derived_step(policy: Path, given: Sequence[Preference], recipe: Recipe) -> FirstStep:
    """The same without trl's loss, masks and batches: log pi(chosen) - log pi(rejected) in place of a loss, and its gradient."""
    torch = libraries(recipe)["torch"]
    with tempfile.TemporaryDirectory(prefix="dpo-") as scratch:
        tokenizer, trainer = _built(policy, given, recipe, scratch, None, {})

        def answered(pair: Preference, answer: str) -> Any:
            asked = _tokens(tokenizer, pair.messages, begun=True)
            ids = _tokens(tokenizer, whole(pair, answer), begun=False)
            if ids[: len(asked)] != asked:
                raise SubjectError(f"{policy}: the answer of {pair.id!r} changes the tokens of its prompt; give another template")
            given_ids = torch.tensor([ids], device=trainer.model.device)
            logits = trainer.model(given_ids, use_cache=False).logits[0, len(asked) - 1 : -1].float()
            return logits.log_softmax(-1).gather(1, given_ids[0, len(asked) :, None]).sum()

        def preferred(pair: Preference) -> Any:
            return answered(pair, pair.chosen) - answered(pair, pair.rejected)

        return _accumulated(trainer.model, [partial(preferred, pair) for pair in given])


def _built(
    policy: Path, given: Sequence[Preference], recipe: Recipe, scratch: str, reference: Path | None, changes: Mapping[str, Any]
) -> tuple[Any, Any]:
    """Tokenizer and trainer, the adapter always of the same numbers."""
    for folder in (policy, reference or policy):
        check_folder(folder)
    exact = replace(recipe, dtype="float32")
    set_seed = libraries(recipe)["transformers"].set_seed
    wrap = _referring(load_base(reference, "float32")[1]) if reference else None
    tokenizer, model = load_base(policy, "float32")
    rows = columns(tokenizer, [pair.row for pair in given], exact)
    set_seed(recipe.seed)
    return tokenizer, build(tokenizer, model, rows, exact, scratch, wrap=wrap, **changes)


def _referring(model: Any) -> Callable[[type], type]:
    """A trainer's class with another model as reference than its own without the adapter."""

    def wrap(kind: type) -> type:
        class Referring(kind):  # type: ignore[misc]
            def __init__(self, **given: Any) -> None:
                super().__init__(ref_model=model, **given)

        return Referring

    return wrap


def _spoil(model: Any) -> None:
    """A little noise where a fresh adapter is zero."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)


def _tokens(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, begun: bool) -> list[int]:
    """Token ids of a conversation; ``begun``: up to where the answer begins."""
    rendered = tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=True, return_dict=True, add_generation_prompt=begun)
    ids: list[int] = rendered["input_ids"]
    return ids


def _accumulated(model: Any, terms: Sequence[Callable[[], Any]]) -> FirstStep:
    """Each term's value, and the gradient of their mean by the adapter's parameters, in the order of their names."""
    import numpy as np

    model.train()
    model.zero_grad()
    values = []
    for term in terms:
        value = term()
        (value / len(terms)).backward()
        values.append(float(value.detach()))
    trained = [parameter for _, parameter in sorted(model.named_parameters(), key=itemgetter(0)) if parameter.requires_grad]
    grads = [(p.data * 0 if p.grad is None else p.grad).flatten().double().cpu().numpy() for p in trained]
    return FirstStep(tuple(values), np.concatenate(grads))
