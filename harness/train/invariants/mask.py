"""What the loss covers: for each answer the tokens that write it and its end mark, and nothing else.

Two ways to the same labels. Found: what trl prepares and its collator hands to the model, read back batch by batch.
Expected: the conversation rendered as text, the answers found in it as text, and the tokens that lie there by the
tokenizer's own offsets. A row is known again by its token ids, so a row that vanished or was cut is seen.

Where trl builds the mask it takes with an answer what the template writes behind its end mark (a line end in ChatML);
``answers_masked`` does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import SubjectError
from harness.train.invariants.opening import known_fault, opened
from harness.train.recipe import Recipe
from harness.train.rows import Row, columns

__all__ = ["FAULTS", "answers_masked", "covered"]

_SHIFTED, _NO_END, _VANISHED = "off by one", "the end mark masked", "max_length below the prompts"
_OPEN_PROMPT, _NO_MASK = "the prompt unmasked", "completion_only_loss without a mask"

FAULTS: Mapping[str, tuple[str, ...]] = {
    "prompt_completion": (_OPEN_PROMPT, _NO_END, _SHIFTED, _VANISHED),
    "messages": (_NO_MASK, _NO_END, _SHIFTED, _VANISHED),
    "multi_turn": (_NO_MASK, "the first answer masked", _SHIFTED),
    "text": ("the prompt masked", _VANISHED),
    "packed": (_OPEN_PROMPT, _NO_END, _SHIFTED),
    "preference": (_OPEN_PROMPT, _NO_END, _SHIFTED, _VANISHED),
}
"""The formats of training rows, and the mutants of each: silent in trl, each with a loss that falls."""

Span = tuple[int, int]
Conversation = list[dict[str, str]]
Labelled = tuple[tuple[int, ...], tuple[int, ...]]
"""token ids of a sequence; its labels, -100 where the loss does not look"""


def answers_masked(tokenizer: Any, messages: Sequence[Mapping[str, str]]) -> dict[str, list[int]]:
    """A conversation as ``input_ids`` and ``assistant_masks`` (1: in the loss) for trl: every assistant turn with its end mark.

    For ``messages`` trl itself masks nothing unless the template has generation marks, which few have: with
    ``completion_only_loss`` the loss silently covers all tokens.

    Raises SubjectError where the template does not write an answer as it is.
    """
    ids, inside = _tokens(tokenizer, *_spans(tokenizer, messages))
    return {"input_ids": ids, "assistant_masks": inside}


def _spans(tokenizer: Any, messages: Sequence[Mapping[str, str]], *, tail: bool = False) -> tuple[str, list[Span]]:
    """A conversation as text, and from where to where in it each answer lies with its end mark (and the ``tail`` behind it)."""
    plain = [dict(m) for m in messages]
    text: str = tokenizer.apply_chat_template(plain, tokenize=False)
    spans = []
    for turn, message in enumerate(plain):
        if message["role"] != "assistant":
            continue
        before: str = tokenizer.apply_chat_template(plain[:turn], tokenize=False, add_generation_prompt=True)
        after: str = tokenizer.apply_chat_template(plain[: turn + 1], tokenize=False)
        answer = message["content"] + tokenizer.eos_token
        if not (text.startswith(after) and after.startswith(before + answer)):
            raise SubjectError(f"the chat template does not write turn {turn} as it is with {tokenizer.eos_token!r} behind it: no mask")
        spans.append((len(before), len(after) if tail else len(before) + len(answer)))
    return text, spans


def _tokens(tokenizer: Any, text: str, spans: Sequence[Span]) -> tuple[list[int], list[int]]:
    """Token ids, and for each whether it lies in a span."""
    coded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    inside = [int(any(begin < stop and end > start for start, stop in spans)) for begin, end in coded["offset_mapping"]]
    return list(coded["input_ids"]), inside


def covered(base: Path, rows: Sequence[Row], recipe: Recipe, form: str, fault: str = "") -> list[dict[str, Any]]:
    """A row for each training row (for ``preference`` for each answer): the text that the loss covers, behind the token it begins at.

    "preference" pairs each answer with that of the next row, "multi_turn" lays two rows into one conversation. A row that
    was cut or lost is found as None, a sequence that no row explains is expected as None.
    """
    known_fault(fault, FAULTS[form], f"a mask of format {form}")
    recipe = replace(recipe, objective="dpo" if form == "preference" else "sft", packing=form == "packed", lr=None, beta=None)
    changes: dict[str, Any] = {"completion_only_loss": False} if fault == _OPEN_PROMPT and form != "preference" else {}
    if fault == _VANISHED:
        changes = {"max_length": 12}
    with opened(base, lambda tokenizer: _columns(tokenizer, rows, recipe, form, fault), recipe, **changes) as trainer:
        tokenizer = trainer.processing_class
        expected = [each for row in _conversations(rows, form) for each in _expected(tokenizer, row, form)]
        found = [_faulty(each, fault, tokenizer.eos_token_id) for each in _read(trainer)]
    return _matched(tokenizer, found, expected)


def _conversations(rows: Sequence[Row], form: str) -> list[Conversation]:
    turns = [[*map(dict, prompt), {"role": "assistant", "content": answer}] for prompt, answer in rows]
    if form == "multi_turn":
        return [[*first, *second] for first, second in zip(turns[::2], turns[1::2], strict=False)]
    if form == "preference":  # chosen, then rejected
        others = [answer for _, answer in rows[1:]] + [rows[0][1]]
        twins = [[*turn[:-1], {"role": "assistant", "content": other}] for turn, other in zip(turns, others, strict=True)]
        return [turn for turn, twin in zip(turns, twins, strict=True) if turn != twin for turn in (turn, twin)]
    return turns


def _columns(tokenizer: Any, rows: Sequence[Row], recipe: Recipe, form: str, fault: str) -> list[dict[str, Any]]:
    talks = _conversations(rows, form)
    if form == "preference":
        pairs = [
            (chosen[:-1], chosen[-1]["content"], rejected[-1]["content"]) for chosen, rejected in zip(talks[::2], talks[1::2], strict=True)
        ]
        return columns(tokenizer, pairs, recipe)
    if form == "text" and fault != "the prompt masked":
        return [{"text": tokenizer.apply_chat_template(talk, tokenize=False)} for talk in talks]
    if form in ("messages", "multi_turn"):
        if fault == _NO_MASK:
            return [{"messages": talk} for talk in talks]
        masked = [answers_masked(tokenizer, talk) for talk in talks]
        return [_first_masked(each) for each in masked] if fault == "the first answer masked" else masked
    return columns(tokenizer, rows, recipe)


def _first_masked(row: dict[str, list[int]]) -> dict[str, list[int]]:
    mask = row["assistant_masks"]
    end = mask.index(0, mask.index(1))
    return {**row, "assistant_masks": [0] * end + mask[end:]}


def _expected(tokenizer: Any, talk: Conversation, form: str) -> Iterator[Labelled]:
    text, spans = _spans(tokenizer, talk, tail=form not in ("messages", "multi_turn"))
    if form == "text":
        spans = [(0, len(text))]
    ids, inside = _tokens(tokenizer, text, spans)
    if form == "text" and ids[-1] != tokenizer.eos_token_id:  # trl ends a plain text with the end mark
        ids, inside = [*ids, tokenizer.eos_token_id], [*inside, 1]
    yield tuple(ids), tuple(token if on else -100 for token, on in zip(ids, inside, strict=True))


def _read(trainer: Any) -> Iterator[Labelled]:
    """The sequences that reach the model and their labels, out of the collator's batches: padding off, packs taken apart."""
    rows, size = list(trainer.train_dataset), trainer.args.per_device_train_batch_size
    for start in range(0, len(rows), size):
        batch = {
            key: value.tolist() for key, value in trainer.data_collator(rows[start : start + size]).items() if hasattr(value, "tolist")
        }
        for line, ids in enumerate(batch["input_ids"]):
            labels = batch["labels"][line] if "labels" in batch else _where(ids, batch["completion_mask"][line])
            for begin, end in _sequences(batch, line, len(ids)):
                yield tuple(ids[begin:end]), tuple(labels[begin:end])


def _where(ids: Sequence[int], mask: Sequence[int]) -> list[int]:
    return [token if on else -100 for token, on in zip(ids, mask, strict=True)]


def _sequences(batch: Mapping[str, Any], line: int, width: int) -> list[Span]:
    if "position_ids" not in batch:
        return [(0, sum(batch["attention_mask"][line]))]
    starts = [i for i, position in enumerate(batch["position_ids"][line]) if position == 0]
    return list(zip(starts, [*starts[1:], width], strict=True))


def _faulty(row: Labelled, fault: str, end: int) -> Labelled:
    """A fault that lies behind all settings: in the labels themselves."""
    ids, labels = row
    if fault == _NO_END:
        return ids, tuple(-100 if label == end else label for label in labels)
    if fault == _SHIFTED:
        return ids, tuple(token if after != -100 else -100 for token, after in zip(ids, (*labels[1:], -100), strict=True))
    if fault == _OPEN_PROMPT:
        return ids, ids
    return row


def _matched(tokenizer: Any, found: Sequence[Labelled], expected: Sequence[Labelled]) -> list[dict[str, Any]]:
    """Each expected sequence with one found that has its token ids; what is left over on either side, with None."""
    heap: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for ids, labels in found:
        heap.setdefault(ids, []).append(labels)
    rows: list[dict[str, Any]] = []
    for number, (ids, labels) in enumerate(expected):
        same = heap.get(ids)
        seen = _shown(tokenizer, same.pop(0)) if same else None
        rows.append({"name": f"row {number}", "found": seen, "expected": _shown(tokenizer, labels)})
    unknown = Counter({ids: len(left) for ids, left in heap.items() if left})
    rows += [
        {"name": f"unknown sequence {number}: {tokenizer.decode(ids)[-80:]!r}", "found": n, "expected": None}
        for number, (ids, n) in enumerate(unknown.items(), start=1)
    ]
    return rows


def _shown(tokenizer: Any, labels: Sequence[int]) -> list[str]:
    """Each stretch that the loss covers: where it begins, and its text."""
    stretches: list[tuple[int, list[int]]] = []
    for place, label in enumerate(labels):
        if label == -100:
            continue
        if stretches and stretches[-1][0] + len(stretches[-1][1]) == place:
            stretches[-1][1].append(label)
        else:
            stretches.append((place, [label]))
    return [f"{place}: {tokenizer.decode(ids)}" for place, ids in stretches]
