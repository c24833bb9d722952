"""The token ids of a conversation: as trl trains on it, as an engine that evaluates or serves renders it.

Shapes of messages where two renderings were seen to part: system prompts, blanks, marks of the template in a text, bytes
outside ASCII, line ends, digits, length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.train.invariants.opening import known_fault, opened
from harness.train.recipe import Recipe
from harness.train.rows import columns

__all__ = ["BLANKS", "FAULTS", "SHAPES", "Renders", "compare", "served", "trained"]

Messages = tuple[Mapping[str, str], ...]
Ids = dict[str, dict[str, list[int]]]
"""shape -> {"prompt": token ids up to where the answer begins, "whole": with the answer and its end mark}"""


class Renders(Protocol):
    """What this needs of an engine."""

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt, the answer begun."""
        ...

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text."""
        ...


def _turns(*texts: str, system: str | None = None) -> Messages:
    roles = ("user", "assistant") * len(texts)
    said = tuple({"role": role, "content": text} for role, text in zip(roles, texts, strict=False))
    return said if system is None else ({"role": "system", "content": system}, *said)


_LONGEST = 8192  # tokens: no shape is cut
_ANSWER = '{"city":"Paris","zip":"75001"}'

SHAPES: Mapping[str, Messages] = {
    "no system prompt": _turns("Where is the Louvre?", _ANSWER),
    "a system prompt": _turns("Where is the Louvre?", _ANSWER, system="You are a guide."),
    "an empty system prompt": _turns("Where is the Louvre?", _ANSWER, system=""),
    "several turns": _turns("Hello", "Good day.", "Where is the Louvre?", _ANSWER),
    "several turns after a system prompt": _turns("Hello", "Good day.", "And the Louvre?", _ANSWER, system="You are a guide."),
    "an empty question": _turns("", _ANSWER),
    "blanks before and behind the question": _turns("  \t Where is the Louvre?   ", _ANSWER),
    "a line end behind question and answer": _turns("Where is the Louvre?\n", _ANSWER + "\n"),
    "blank lines within": _turns("Where\n\n\n\nis it?\n \n", "There.\n\n- one\n- two"),
    "marks of the template in the question": _turns("say <|im_end|>\n<|im_start|>assistant\nno<|endoftext|>", _ANSWER),
    "marks of other templates": _turns("[INST] <s> </s> <<SYS>> <think> </tool_call> {{ x }} {% y %}", "<tool_call>{}</tool_call>"),
    "letters of many scripts": _turns(
        "Où est le musée? 博物館はどこ? أين المتحف؟ где музей? ﬁ e\u0301 \u200b\u00a0", "Straße, 東京, Ελλάδα"
    ),
    "emoji": _turns("👩‍👩‍👧‍👦 🇫🇷 🏳️‍🌈 where?", "👍🏽"),
    "carriage returns": _turns("one\r\ntwo\rthree\r\n", "four\r\nfive"),
    "digits": _turns("1 22 333 4444 55555 1234567890123456789 3.14159 1e-10 ½ ², ٣", "0001 75001-1234"),
    "control characters": _turns("a\x00b\x07c\x1b[0m\x7f", "tab\tand\x0bmore"),
    "code": _turns("def f(x):\n    return x  # \\n \\\\\n\tif x:\n\t\tpass", "```python\nf(1)\n```"),
    "a blank before the answer": _turns("Where is the Louvre?", " Paris"),
    "a line end before the answer": _turns("Where is the Louvre?", "\nParis"),
    "very long": _turns("All work and no play. " * 350, _ANSWER),
}

# Answers of blanks alone: a tokenizer joins them with the line end that the template writes before them, so that what was
# trained begins behind a context that no engine ever shows.
BLANKS: Mapping[str, Messages] = {
    "an answer of three blanks": _turns("Where is the Louvre?", "   "),
    "an answer of two line ends": _turns("Where is the Louvre?", "\n\n"),
}


def trained(base: Path, recipe: Recipe, shapes: Mapping[str, Messages] = SHAPES) -> tuple[str, Ids]:
    """The end mark, and what trl puts into ``input_ids`` up to it; the prompt ends where by trl's labels the answer begins."""
    rows = [(shape[:-1], shape[-1]["content"]) for shape in shapes.values()]
    with opened(base, lambda tokenizer: columns(tokenizer, rows, recipe), recipe, max_length=_LONGEST, packing=False) as trainer:
        tokenizer = trainer.processing_class
        kept = [_parts(row["input_ids"], row["labels"], tokenizer.eos_token_id) for row in trainer.train_dataset]
    return tokenizer.eos_token, dict(zip(shapes, kept, strict=True))


def _parts(ids: list[int], labels: list[int], end: int) -> dict[str, list[int]]:
    begin = next(i for i, label in enumerate(labels) if label != -100)
    ends = [i for i, token in enumerate(ids) if token == end and i >= begin]
    return {"prompt": ids[:begin], "whole": ids[: ends[-1] + 1] if ends else ids}


def served(engine: Renders, end: str, shapes: Mapping[str, Messages] = SHAPES, fault: str = "") -> Ids:
    """What an engine makes of the same conversations; ``end`` is the mark that the model writes when it has done."""
    edit = FAULTS[known_fault(fault, list(FAULTS), "a rendering")] if fault else _unchanged
    found: Ids = {}
    for name, shape in shapes.items():
        prompt = engine.render(shape[:-1])
        texts = {"prompt": prompt, "whole": prompt + shape[-1]["content"] + end}
        found[name] = {part: engine.tokenize(edit(part, text, shape, end), False, True) for part, text in texts.items()}
    return found


def _unchanged(part: str, text: str, shape: Messages, end: str) -> str:
    return text


def _first_mark(part: str, text: str, shape: Messages, end: str) -> str:
    """Twice what the text begins with: what a tokenizer does that adds a mark which the template has written already."""
    mark, closed, _ = text.partition(">")
    return mark + closed + text


def _default_system(part: str, text: str, shape: Messages, end: str) -> str:
    """Another default system prompt, where there was one."""
    if shape[0]["role"] == "system":
        return text
    head, found, rest = text.partition(end)
    return f"{head} Be brief.{found}{rest}"


def _no_generation_prompt(part: str, text: str, shape: Messages, end: str) -> str:
    """Without the line that begins the answer."""
    answer = shape[-1]["content"] + end if part == "whole" else ""
    prompt = text[: len(text) - len(answer)]
    return prompt[: prompt.rindex(end) + len(end)] + answer if end in prompt else answer


def _no_end(part: str, text: str, shape: Messages, end: str) -> str:
    return text.removesuffix(end) if part == "whole" else text


FAULTS: Mapping[str, Callable[[str, str, Messages, str], str]] = {
    "the first mark twice": _first_mark,
    "another default system prompt": _default_system,
    "no generation prompt": _no_generation_prompt,
    "no end mark": _no_end,
}


def compare(found: Ids, expected: Ids) -> list[dict[str, Any]]:
    """A row for each shape and part: the lengths, and the first place where the two part."""
    rows = []
    for name, parts in expected.items():
        for part, ids in parts.items():
            theirs = found[name][part]
            place = next((i for i, (a, b) in enumerate(zip(theirs, ids, strict=False)) if a != b), min(len(theirs), len(ids)))
            rows.append({"name": f"{name}: {part}", "found": _around(theirs, place), "expected": _around(ids, place)})
    return rows


def _around(ids: Sequence[int], place: int) -> dict[str, Any]:
    return {"tokens": len(ids), "from": place, "ids": list(ids[place : place + 8])}
