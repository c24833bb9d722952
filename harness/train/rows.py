"""Training rows: what they must be, and how trl is given them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import SubjectError, TrainingError
from harness.store import digest_json
from harness.train.recipe import Recipe

__all__ = ["Pair", "Row", "check_rows", "columns", "digest_rows"]

Row = tuple[Sequence[Mapping[str, str]], str]
"""(messages of the prompt, text of the assistant's answer)"""

Pair = tuple[Sequence[Mapping[str, str]], str, str]
"""(messages of the prompt, the answer preferred, the answer rejected)"""


def digest_rows(rows: Sequence[Row | Pair], recipe: Recipe) -> str:
    """SHA-256 of the rows, in their order. Raises SubjectError for rows that are none of the recipe's objective."""
    wanted, what = (2, "(messages, answer)") if recipe.objective == "sft" else (3, "(messages, chosen, rejected)")
    if not rows:
        raise SubjectError(f"no rows to train on; expected {what}")
    plain = []
    for index, (messages, *answers) in enumerate(rows):
        if len(answers) + 1 != wanted:
            raise SubjectError(f"training row {index} has {len(answers) + 1} parts; {recipe.objective} takes {what}")
        if not messages or not all(answers):
            raise SubjectError(f"training row {index}: an empty prompt or answer teaches nothing")
        if len(set(answers)) != len(answers):
            raise SubjectError(f"training row {index}: chosen and rejected are the same text")
        plain.append([[dict(message) for message in messages], *answers])
    return digest_json(plain)


def check_rows(tokenizer: Any, rows: Sequence[Row | Pair], recipe: Recipe) -> None:
    """A row above max_length would be cut, or masked and vanish without a word: TrainingError instead."""
    for index, (messages, *answers) in enumerate(rows):
        for answer in answers:
            length = len(tokenizer.apply_chat_template(_whole(messages, answer), tokenize=True, return_dict=True)["input_ids"])
            if length > recipe.max_length:
                raise TrainingError(
                    f"training row {index} has {length} tokens, more than max_length = {recipe.max_length}: "
                    "raise max_length or shorten the row"
                )


def columns(tokenizer: Any, rows: Sequence[Row | Pair], recipe: Recipe) -> list[dict[str, Any]]:
    """The rows as trl's objective wants them.

    Prompt and completion apart: the loss covers the completion only. A messages column would train on every token, also
    with completion_only_loss=True. ORPO and CPO get text that ends with the end of sequence: given messages they lay a
    second one behind the newline with which most templates end.
    """
    if recipe.objective == "sft":
        return [{"prompt": _plain(messages), "completion": _assistant(answers[0])} for messages, *answers in rows]
    if recipe.objective == "dpo":
        return [
            {"prompt": _plain(messages), "chosen": _assistant(answers[0]), "rejected": _assistant(answers[1])}
            for messages, *answers in rows
        ]
    texts = []
    for messages, *answers in rows:
        prompt = tokenizer.apply_chat_template(_plain(messages), add_generation_prompt=True, tokenize=False)
        chosen, rejected = (_completion(tokenizer, messages, answer, prompt) for answer in answers)
        texts.append({"prompt": prompt, "chosen": chosen, "rejected": rejected})
    return texts


def _completion(tokenizer: Any, messages: Sequence[Mapping[str, str]], answer: str, prompt: str) -> str:
    whole = tokenizer.apply_chat_template(_whole(messages, answer), tokenize=False)
    if not whole.startswith(prompt):
        raise TrainingError("the chat template renders a prompt otherwise once its answer follows; use another template")
    text: str = whole[len(prompt) :]
    before, end, _ = text.rpartition(tokenizer.eos_token) if tokenizer.eos_token else ("", "", "")
    return before + end if end else text


def _plain(messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    return [dict(message) for message in messages]


def _assistant(answer: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": answer}]


def _whole(messages: Sequence[Mapping[str, str]], answer: str) -> list[dict[str, str]]:
    return [*_plain(messages), *_assistant(answer)]
