"""From raw rows to messages: each row is read by its own keys, so that what is found of it never depends on its neighbours.

A row that cannot be read, in whole or in part, comes out like any other, with its problems beside it. Their details name
places, types and keys, never values: they may be shown to anybody.

Forms: chat (``messages`` of OpenAI, ``conversations`` of ShareGPT), alpaca, completion (prompt and answer under many
names), preference (chosen and rejected), text, evals (input and ideal, as in OpenAI's evals), choice (question, choices
and the answer, a text or its place among them), request (a prompt alone).
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numba import njit

from harness.audit.model import FORMS, PARTS, ROLES, SCHEMA, digest_array
from harness.errors import AuditError, nearest

__all__ = ["Shape", "detect", "parse"]

_SYSTEM, _USER, _ASSISTANT, _TOOL, _OTHER = range(len(ROLES))
_PROMPT, _ANSWER, _REJECTED, _TOOLS, _META = range(len(PARTS))
_TO_BE_SAID = 255  # a message of a chat: which part it is depends on what comes after

_ROLE = {
    "system": _SYSTEM, "developer": _SYSTEM,
    "user": _USER, "human": _USER, "prompter": _USER,
    "assistant": _ASSISTANT, "gpt": _ASSISTANT, "chatgpt": _ASSISTANT, "model": _ASSISTANT, "bot": _ASSISTANT, "function_call": _ASSISTANT,
    "tool": _TOOL, "function": _TOOL, "observation": _TOOL, "ipython": _TOOL,
}  # fmt: skip

_KEYS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("preference", ("chosen", "rejected")),
    ("chat", ("messages",)), ("chat", ("conversations",)), ("chat", ("conversation",)),
    ("alpaca", ("instruction", "output")), ("alpaca", ("instruction", "response")),
    ("evals", ("input", "ideal")),
    ("choice", ("question", "choices", "answer")),
    ("completion", ("prompt", "completion")), ("completion", ("prompt", "response")), ("completion", ("question", "answer")),
    ("completion", ("question", "response")), ("completion", ("query", "response")), ("completion", ("input", "output")),
    ("completion", ("input", "target")), ("completion", ("source", "target")), ("completion", ("prompt", "canonical_solution")),
    ("completion", ("prompt", "answer")), ("text", ("text",)), ("request", ("prompt",)),
)  # fmt: skip
"""The keys a form is known by, the more telling first."""

_NOT_PLAIN = frozenset(
    {"chosen", "rejected", "tools", "functions", "system", "system_prompt"}
)  # keys that make a chat row more than its messages
_TYPES = {dict: "an object", list: "an array", str: "text", bool: "a truth value", int: "a number", float: "a number", type(None): "null"}

_DEEPEST = 200  # every library used here has its own limit, all of them higher; this one is the same on every machine
_UNREAD = object()
_BOM = b"\xef\xbb\xbf"

_MESSAGES = frozenset({"messages"})
_BESIDE = frozenset({"system", "system_prompt", "tools", "functions"})
_READ: Mapping[str, frozenset[str]] = {
    "chat": _BESIDE, "alpaca": _BESIDE | {"input", "context", "history"}, "completion": _BESIDE | {"context", "passage"},
    "preference": frozenset({"prompt", "system", "system_prompt"}), "text": frozenset(), "evals": frozenset(), "choice": frozenset(),
    "request": frozenset(),
}  # fmt: skip
"""Of each form the fields that are read besides those it is known by."""
_IN_A_MESSAGE = frozenset({"role", "content", "from", "value", "tool_calls", "function_call", "tool_call_id", "type", "text"})

Problem = tuple[str, str]  # kind, detail
Message = tuple[int, int, str]  # role, part, text


@dataclass(frozen=True, slots=True)
class Shape:
    """How rows are read: which form ("auto": each row by its keys), and which fields name a row, its group and its class.

    ``prompt`` and ``answer`` name the fields of rows that are in no known form. Fields inside others are written with a
    dot: "meta.user". Raises AuditError for a form that is none.
    """

    form: str = "auto"
    id: str = "id"
    group: str = ""
    label: str = ""
    prompt: str = ""
    answer: str = ""

    def __post_init__(self) -> None:
        if self.form not in ("auto", *FORMS[1:]):
            raise AuditError(f"form {self.form!r}; {nearest(self.form, ['auto', *FORMS[1:]])}")
        if (self.prompt or self.answer) and self.form not in ("auto", "completion"):
            raise AuditError(f"fields for prompt and answer were named, so the form is completion; found {self.form!r}")

    def options(self) -> Mapping[str, str]:
        """All of it, as JSON."""
        return asdict(self)


class _Unreadable(Exception):
    """A row that has no value."""


# --- a batch --------------------------------------------------------------------------------------


class _Columns:
    """A batch as it grows, row by row."""

    def __init__(self) -> None:
        self.form = bytearray()
        self.role = bytearray()
        self.part = bytearray()
        self.text: list[int] = []
        self.ends: list[int] = [0]
        self.number: dict[str, int] = {}
        self.problems: list[Problem] = []
        self.problem_ends: list[int] = [0]

    def beside(self, row: Mapping[str, Any], named: frozenset[str], read: frozenset[str]) -> None:
        """Adds what no form reads as a message of its own, kept beside the others: nobody learns from it, but it ships with them."""
        rest = {key: value for key, value in row.items() if key not in read and key not in named}
        for key in read & row.keys():
            if type(row[key]) is list:
                inner = [{k: v for k, v in one.items() if k not in _IN_A_MESSAGE} for one in row[key] if type(one) is dict]
                if any(inner):
                    rest[key] = inner
        if rest:
            self.role.append(_OTHER)
            self.part.append(_META)
            self.text.append(self.number.setdefault(_canonical(rest), len(self.number)))

    def add(
        self,
        form: str,
        messages: Sequence[Message],
        problems: Sequence[Problem],
        rest: tuple[Mapping[str, Any], frozenset[str], frozenset[str]] | None = None,
    ) -> None:
        number = self.number
        self.form.append(FORMS.index(form))
        for role, part, text in messages:
            self.role.append(role)
            self.part.append(part)
            self.text.append(number.setdefault(text, len(number)))
        if rest is not None:
            self.beside(*rest)
        self.ends.append(len(self.text))
        self.problems += problems
        self.problem_ends.append(len(self.problems))

    def record(self, digests: Any, names: Sequence[Sequence[str | None]]) -> pa.RecordBatch:
        role, part = np.frombuffer(self.role, np.int8), np.frombuffer(self.part, np.uint8).view(np.int8).copy()
        ends = np.array(self.ends, np.int32)
        _say_parts(role, part, ends)
        coded = pa.DictionaryArray.from_arrays(pa.array(np.array(self.text, np.int32)), _encoded(list(self.number)))
        messages = pa.StructArray.from_arrays(
            [pa.array(role), pa.array(part), coded], fields=list(SCHEMA.field("messages").type.value_type)
        )
        kinds, details = zip(*self.problems, strict=True) if self.problems else ((), ())
        told = pa.StructArray.from_arrays([pa.array(kinds, pa.string()), pa.array(details, pa.string())], names=["kind", "detail"])
        return pa.RecordBatch.from_arrays([
            digest_array(digests),
            pa.array(np.frombuffer(self.form, np.int8)),
            pa.ListArray.from_arrays(pa.array(self.problem_ends, pa.int32()), told, type=SCHEMA.field("problems").type),
            *(pa.array(column, pa.string()) for column in names),
            pa.ListArray.from_arrays(pa.array(ends), messages, type=SCHEMA.field("messages").type),
        ], schema=SCHEMA)  # fmt: skip


def _encoded(texts: list[str]) -> pa.Array:
    try:
        return pa.array([text.encode() for text in texts], pa.large_binary())
    except UnicodeEncodeError:
        return pa.array([text.encode("utf-8", "surrogatepass") for text in texts], pa.large_binary())


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _say_parts(role: Any, part: Any, ends: Any) -> None:  # pragma: no cover - machine code
    """In a chat the last assistant message, with those straight before it, is the answer; all else is the prompt."""
    for row in range(len(ends) - 1):
        at = ends[row + 1] - 1
        while at >= ends[row] and not (part[at] == -1 and role[at] == _ASSISTANT):
            at -= 1
        while at >= ends[row] and part[at] == -1 and role[at] == _ASSISTANT:
            part[at] = _ANSWER
            at -= 1
        for i in range(ends[row], ends[row + 1]):
            if part[i] == -1:
                part[i] = _PROMPT


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _structure(data: Any, ends: Any, keys: Any, depth: Any) -> None:  # pragma: no cover - machine code
    """Counts the colons outside of strings (the keys of each row, with those that are there twice), and how deep its brackets go."""
    i = 0
    for row in range(len(ends)):
        found = now = deepest = 0
        end = ends[row]
        while i < end:
            c = data[i]
            if c == 34:
                i += 1
                while i < end and data[i] != 34:
                    i += 2 if data[i] == 92 else 1
            elif c == 58:
                found += 1
            elif c == 91 or c == 123:
                now += 1
                deepest = max(deepest, now)
            elif c == 93 or c == 125:
                now -= 1
            i += 1
        i = end
        keys[row], depth[row] = found, deepest


def _measured(raw: Sequence[bytes]) -> tuple[list[int], list[int]]:
    keys: Any = np.empty(len(raw), np.int64)
    depth: Any = np.empty(len(raw), np.int64)
    _structure(np.frombuffer(b"".join(raw), np.uint8), np.cumsum(np.fromiter(map(len, raw), np.int64, len(raw))), keys, depth)
    return keys.tolist(), depth.tolist()


def parse(raw: Sequence[bytes], digests: Any, shape: Shape) -> pa.RecordBatch:
    """Rows as a record batch of SCHEMA, one line a row, in order. Never raises for what a row holds."""
    made = _Columns()
    names: tuple[list[str | None], ...] = ([], [], [])
    fields = [partial(_field, path=path.split(".")) if path else None for path in (shape.id, shape.group, shape.label)]
    named = frozenset(path.split(".")[0] for path in (shape.id, shape.group, shape.label) if path)
    quick = shape.form in ("auto", "chat") and not (shape.prompt or shape.answer)
    for line, keys, depth in zip(raw, *_measured(raw), strict=True):
        row = _UNREAD
        if depth <= _DEEPEST:
            with contextlib.suppress(orjson.JSONDecodeError):
                row = orjson.loads(line)
        if not (quick and depth <= _DEEPEST and _plain_chat(row, keys, made, named)):
            row = _any(line, row, keys, depth, shape, made, named)
        for column, field in zip(names, fields, strict=True):
            column.append(field(row) if field else None)
    return made.record(digests, names)


_STR = {str}
_CHAT = FORMS.index("chat")


def _plain_chat(row: Any, keys: int, made: _Columns, named: frozenset[str]) -> bool:
    """The quick way for the usual row: messages of a role and a text each, and nothing odd. False: nothing was added."""
    try:
        messages = row["messages"]
        roles = bytes([_ROLE[message["role"]] for message in messages])
        texts = [message["content"] for message in messages]
    except (KeyError, TypeError, IndexError):
        return False
    # as many keys as that and no more: none is there twice, none besides role and content
    if keys != len(row) + 2 * len(roles) or {*map(type, texts)} != _STR or not _NOT_PLAIN.isdisjoint(row):
        return False
    number = made.number
    made.form.append(_CHAT)
    made.role += roles
    made.part += b"\xff" * len(roles)
    made.text += [number.setdefault(text, len(number)) for text in texts]
    if len(row) > 1:
        made.beside(row, named, _MESSAGES)
    made.ends.append(len(made.text))
    made.problem_ends.append(len(made.problems))
    return True


def _any(line: bytes, row: Any, keys: int, depth: int, shape: Shape, made: _Columns, named: frozenset[str]) -> Any:
    """Any row at all. Returns its value, an empty object where it has none."""
    problems: list[Problem] = []
    try:
        if depth > _DEEPEST:
            raise _Unreadable(f"nested {depth} deep, expected at most {_DEEPEST}")
        if row is _UNREAD:
            row = _lenient(line, problems)
        if type(row) is not dict:
            raise _Unreadable(f"{_what(row)}{f' of {len(row)}' if type(row) is list else ''}, expected an object")
    except _Unreadable as error:
        made.add("unreadable", (), [("unreadable", str(error))])
        return {}
    if _key_count(row) != keys:
        problems.append(("duplicate_key", _twice(line)))
    if shape.prompt or shape.answer:
        said = frozenset(path.split(".")[0] for path in (shape.prompt, shape.answer) if path)
        made.add("completion", _named(row, shape, problems), problems, (row, named, said | _BESIDE))
    elif found := _form_of(row, shape.form):
        name, at = found
        made.add(name, _FORMS[name](row, at, problems), problems, (row, named, _READ[name] | {*at}))
    else:
        problems.append(("no_form", f"keys {', '.join(map(_shown, list(row)[:8])) or 'none'}: no known form of a row"))
        made.add("unreadable", (), problems)
    return row


def detect(raw: Sequence[bytes], shape: Shape | None = None) -> str:
    """What rows hold, in words: "chat 98, unreadable 2"."""
    record = parse(raw, np.zeros((len(raw), 2), np.uint64), shape or Shape())
    return ", ".join(f"{FORMS[form]} {n}" for form, n in Counter(record.column("form").to_pylist()).most_common())


# --- values ---------------------------------------------------------------------------------------


def _lenient(line: bytes, problems: list[Problem]) -> Any:
    """What Python's json makes of a row that strict readers refuse."""
    try:
        text = line.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        raise _Unreadable(f"no UTF-8 at byte {len(line) - len(error.object) + error.start} of the row") from None
    if line.startswith(_BOM):
        problems.append(("not_strict", "a byte order mark before the row"))
    odd: list[str] = []
    try:
        value = json.loads(text, parse_constant=odd.append, parse_int=partial(_number, int, odd), parse_float=partial(_number, float, odd))
    except json.JSONDecodeError as error:
        # the message names what was expected, and never what was found
        raise _Unreadable(f"no JSON at byte {len(line) - len(text[error.pos :].encode())} of the row: {error.msg.split(':')[0]}") from None
    problems += [("not_strict", f"{name}, which is no number of JSON") for name in dict.fromkeys(odd)]
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        problems.append(("not_strict", "a lone surrogate in a text or key"))
    return value


def _number(kind: type[int] | type[float], odd: list[str], digits: str) -> int | float | None:
    """A number that a double can hold; others become null, like NaN."""
    if math.isinf(float(digits)):
        odd.append("a number over 1.8e308")
        return None
    return kind(digits)


def _key_count(value: Any) -> int:
    """Keys in a value, at any depth."""
    found, left = 0, [value]
    while left:
        one = left.pop()
        if type(one) is dict:
            found += len(one)
            left.extend(one.values())
        elif type(one) is list:
            left.extend(one)
    return found


def _twice(line: bytes) -> str:
    """Names the keys that are there twice."""
    twice: list[str] = []

    def pairs(given: list[tuple[str, Any]]) -> None:
        twice.extend(key for key, n in Counter(key for key, _ in given).items() if n > 1)

    json.loads(line.removeprefix(_BOM), object_pairs_hook=pairs)
    return f"keys there twice in one object: {', '.join(map(_shown, list(dict.fromkeys(twice))[:8]))}; readers keep the last"


def _shown(key: str) -> str:
    return ascii(key if len(key) <= 40 else key[:37] + "...")


def _what(value: Any) -> str:
    return _TYPES[type(value)]


def _canonical(value: Any) -> str:
    """JSON with keys in order: equal values, equal text."""
    try:
        return str(orjson.dumps(value, option=orjson.OPT_SORT_KEYS), "utf-8")
    except TypeError:  # lone surrogates, large integers
        return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _at(row: Any, path: Sequence[str]) -> Any:
    """The value of a field, None where it is not."""
    for key in path:
        row = row.get(key) if type(row) is dict else None
    return row


def _field(row: Any, path: Sequence[str]) -> str | None:
    """A field that names something, as text."""
    value = _at(row, path)
    if value is None:
        return None
    text = value if type(value) is str else _canonical(value)
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def _form_of(row: Mapping[str, Any], form: str) -> tuple[str, tuple[str, ...]] | None:
    """The first form all of whose keys are there, and not all null (a column of Parquet is there in every row)."""
    there = [(name, keys) for name, keys in _KEYS if form in ("auto", name) and all(key in row for key in keys)]
    return next((found for found in there if any(row[key] is not None for key in found[1])), there[0] if there else None)


# --- forms ----------------------------------------------------------------------------------------


def _chat(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    (key,) = keys
    value = row[key]
    tools = _tools(row, problems)
    messages = [(role, _TO_BE_SAID, text) for role, text in _conversation(value, key, problems)]
    if type(value) is list:
        _check_calls(value, key, tools, problems)
    return [*_system(row, messages, problems), *messages, *_tools_message(row)]


def _alpaca(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    messages = []
    history = row.get("history")
    for i, turn in enumerate(history if type(history) is list else []):
        if type(turn) is not list or len(turn) != 2:
            problems.append(("wrong_type", f"history[{i}]: {_what(turn)}, expected an array of instruction and output"))
            continue
        messages += _side(turn[0], f"history[{i}][0]", _USER, _PROMPT, problems)
        messages += _side(turn[1], f"history[{i}][1]", _ASSISTANT, _PROMPT, problems)
    asked = _side(row[keys[0]], keys[0], _USER, _PROMPT, problems)
    beside = row.get("context") if row.get("input") in (None, "") else row["input"]
    if asked and beside not in (None, ""):
        given = beside if type(beside) is str else _canonical(beside)
        asked[-1] = (_USER, _PROMPT, f"{asked[-1][2]}\n\n{given}")
    messages += asked + _side(row[keys[1]], keys[1], _ASSISTANT, _ANSWER, problems)
    return [*_system(row, messages, problems), *messages]


def _completion(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    asked = _side(row[keys[0]], keys[0], _USER, _PROMPT, problems)
    beside = row.get("context") or row.get("passage")  # a question about a text
    if asked and beside and asked[-1][2] is not beside:
        given = beside if type(beside) is str else _canonical(beside)
        asked[-1] = (asked[-1][0], _PROMPT, f"{given}\n\n{asked[-1][2]}")
    messages = asked + _side(row[keys[1]], keys[1], _ASSISTANT, _ANSWER, problems)
    return [*_system(row, messages, problems), *messages, *_tools_message(row)]


def _named(row: Mapping[str, Any], shape: Shape, problems: list[Problem]) -> list[Message]:
    messages = []
    for name, role, part in ((shape.prompt, _USER, _PROMPT), (shape.answer, _ASSISTANT, _ANSWER)):
        if name:
            messages += _side(_at(row, name.split(".")), name, role, part, problems)
    return [*_system(row, messages, problems), *messages, *_tools_message(row)]


def _evals(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    ideal = row["ideal"]
    answers = ideal if type(ideal) is list else [ideal]
    messages = _side(row["input"], "input", _USER, _PROMPT, problems)
    if not answers:
        problems.append(("wrong_type", "ideal: an empty array, expected at least one answer"))
    for i, answer in enumerate(answers):  # any of them is right; the first is the one learned
        messages += _side(answer, "ideal" if answers is not ideal else f"ideal[{i}]", _ASSISTANT, _META if i else _ANSWER, problems)
    return messages


def _choice(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    choices, answer = row["choices"], row["answer"]
    if type(choices) is not list or not all(type(choice) is str for choice in choices):
        problems.append(("wrong_type", f"choices: {_TYPES.get(type(choices), 'a value')}, expected an array of texts"))
        choices = []
    if type(answer) is int:  # from 0
        if not 0 <= answer < len(choices):
            problems.append(("wrong_type", f"answer: a number, expected one of 0 to {len(choices) - 1}"))
        answer = choices[answer] if 0 <= answer < len(choices) else ""
    question = _side(row["question"], "question", _USER, _PROMPT, problems)
    if len(question) == 1:
        question = [(_USER, _PROMPT, "\n".join([question[0][2], *choices]))]
    return question + _side(answer, "answer", _ASSISTANT, _ANSWER, problems)


def _request(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    return _side(row["prompt"], "prompt", _USER, _PROMPT, problems)


def _text(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    return _side(row["text"], "text", _OTHER, _ANSWER, problems)


_HUMAN, _REPLY = "\n\nHuman:", "\n\nAssistant:"


def _preference(row: Mapping[str, Any], keys: tuple[str, ...], problems: list[Problem]) -> list[Message]:
    chosen = _side(row["chosen"], "chosen", _ASSISTANT, _ANSWER, problems)
    rejected = _side(row["rejected"], "rejected", _ASSISTANT, _REJECTED, problems)
    prompt = _side(row["prompt"], "prompt", _USER, _PROMPT, problems) if row.get("prompt") is not None else []
    if not prompt and type(row["chosen"]) is type(row["rejected"]) is str:
        prompt, chosen, rejected = _split_replies(row["chosen"], row["rejected"])
    n = len(prompt)
    if n and n < min(len(chosen), len(rejected)) and all(_same(prompt[i], chosen[i]) and _same(prompt[i], rejected[i]) for i in range(n)):
        prompt = []  # it is told once more at the head of both
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and _same(chosen[shared], rejected[shared]):
        shared += 1
    prompt += [(role, _PROMPT, text) for role, _, text in chosen[:shared]]
    # what the user says between is read, not learned from
    left = [(role, part if role == _ASSISTANT else _PROMPT, text) for role, part, text in chosen[shared:]]
    right = [(role, part if role == _ASSISTANT else _META, text) for role, part, text in rejected[shared:]]
    messages = [*prompt, *left, *right]
    return [*_system(row, messages, problems), *messages, *_tools_message(row)]


def _same(a: Message, b: Message) -> bool:
    return a[0] == b[0] and a[2] == b[2]


def _split_replies(chosen: str, rejected: str) -> tuple[list[Message], list[Message], list[Message]]:
    """Two dialogues in one text each (as in Anthropic's hh-rlhf): what they share up to the last reply, and the replies."""
    cut = chosen.rfind(_REPLY) + len(_REPLY)
    if cut < len(_REPLY) or chosen[:cut] != rejected[:cut]:
        return [], [(_ASSISTANT, _ANSWER, chosen)], [(_ASSISTANT, _REJECTED, rejected)]
    prompt = chosen[: cut - len(_REPLY)].removeprefix(_HUMAN).strip()
    return [(_USER, _PROMPT, prompt)], [(_ASSISTANT, _ANSWER, chosen[cut:].strip())], [(_ASSISTANT, _REJECTED, rejected[cut:].strip())]


_FORMS: Mapping[str, Callable[[Mapping[str, Any], tuple[str, ...], list[Problem]], list[Message]]] = {
    "chat": _chat, "alpaca": _alpaca, "completion": _completion, "preference": _preference, "text": _text, "evals": _evals,
    "choice": _choice, "request": _request,
}  # fmt: skip


# --- messages -------------------------------------------------------------------------------------


def _side(value: Any, at: str, role: int, part: int, problems: list[Problem]) -> list[Message]:
    """One side of a row: a text, a list of messages, or a value that stands for its JSON."""
    if type(value) is str:
        return [(role, part, value)]
    if value is None:
        problems.append(("wrong_type", f"{at}: null, expected text"))
        return []
    if type(value) is list and value and all(type(one) is dict and ("role" in one or "from" in one) for one in value):
        return [(said, part, text) for said, text in _conversation(value, at, problems)]
    return [(role, part, _canonical(value))]


def _conversation(value: Any, at: str, problems: list[Problem]) -> Iterator[tuple[int, str]]:
    if type(value) is not list:
        problems.append(("wrong_type", f"{at}: {_what(value)}, expected an array of messages"))
        return
    for i, message in enumerate(value):
        here = f"{at}[{i}]"
        if type(message) is not dict:
            problems.append(("wrong_type", f"{here}: {_what(message)}, expected an object"))
            yield _OTHER, message if type(message) is str else _canonical(message)
            continue
        yield _role(message, here, problems), _content(message, here, problems)


def _role(message: Mapping[str, Any], at: str, problems: list[Problem]) -> int:
    key = "role" if "role" in message or "from" not in message else "from"
    role = message.get(key)
    if type(role) is not str:
        problems.append(("wrong_type", f"{at}.{key}: {_what(role)}, expected text"))
    elif role not in _ROLE:
        problems.append(
            (
                "unknown_role",
                f"{at}.{key}: a text of {len(role)} characters, expected system, user, assistant, tool or another name for them",
            )
        )
    return _ROLE.get(role, _OTHER) if type(role) is str else _OTHER


def _content(message: Mapping[str, Any], at: str, problems: list[Problem]) -> str:
    key = "content" if "content" in message or "value" not in message else "value"
    value = message.get(key)
    called = message.get("tool_calls") or message.get("function_call")
    calls = [_canonical(called)] if called else []
    if type(value) is str:
        return "\n".join(([value] if value or not calls else []) + calls)
    if type(value) is list:
        return "\n".join(["".join(_pieces(value, f"{at}.{key}", problems)), *calls])
    if value is not None or not calls:
        problems.append(("wrong_type", f"{at}.{key}: {_what(value)}, expected text"))
    return "\n".join(([] if value is None else [_canonical(value)]) + calls)


def _pieces(value: list[Any], at: str, problems: list[Problem]) -> Iterator[str]:
    """The texts of content that comes in parts; images and the like are named and left out."""
    for i, piece in enumerate(value):
        text = piece.get("text") if type(piece) is dict else piece
        if type(text) is str:
            yield text
        else:
            problems.append(("not_text", f"{at}[{i}]: {_what(piece)} without text; it is not audited"))


def _system(row: Mapping[str, Any], messages: Sequence[Message], problems: list[Problem]) -> list[Message]:
    """A system text that stands beside the messages."""
    key = "system" if row.get("system") is not None else "system_prompt"
    if row.get(key) in (None, "") or (messages and messages[0][0] == _SYSTEM):
        return []
    return _side(row[key], key, _SYSTEM, _PROMPT, problems)


# --- tools ----------------------------------------------------------------------------------------


def _tools_message(row: Mapping[str, Any]) -> list[Message]:
    tools = row.get("tools") or row.get("functions")
    return [(_OTHER, _TOOLS, tools if type(tools) is str else _canonical(tools))] if tools else []


def _tools(row: Mapping[str, Any], problems: list[Problem]) -> Mapping[str, Any] | None:
    """The parameters of each function that may be called, by name; None if the row does not say."""
    key = "tools" if row.get("tools") else "functions"
    given = row.get(key)
    if not given:
        return None
    try:
        listed = orjson.loads(given) if type(given) is str else given
        functions = [tool.get("function", tool) for tool in listed]
        return {function["name"]: function.get("parameters") for function in functions}
    except (ValueError, TypeError, KeyError, AttributeError):
        problems.append(("wrong_type", f"{key}: {_what(given)}, expected an array of functions with a name each"))
        return None


def _check_calls(messages: list[Any], at: str, tools: Mapping[str, Any] | None, problems: list[Problem]) -> None:
    """Every call names a function that is there, with the arguments it requires; every result follows its call, every call has one."""
    waiting: dict[str, str] = {}  # calls without a result: id, place
    for i, message in enumerate(messages):
        if type(message) is not dict:
            continue
        role = message.get("role", message.get("from"))
        if role == "tool" and "tool_call_id" in message:
            if waiting.pop(_canonical(message["tool_call_id"]), None) is None:
                problems.append(("tool_result_without_call", f"{at}[{i}].tool_call_id: no call of this id before it"))
            continue
        problems += [("tool_call_without_result", f"{place}: no result before {at}[{i}]") for place in waiting.values()]
        waiting = {}
        calls = message.get("tool_calls")
        for j, call in enumerate(calls if type(calls) is list else []):
            here = f"{at}[{i}].tool_calls[{j}]"
            if type(call) is dict and "id" in call:
                waiting[_canonical(call["id"])] = here
            if wrong := _wrong_call(call.get("function", call) if type(call) is dict else call, tools):
                problems.append(("tool_call_invalid", f"{here}: {wrong}"))
        old = message.get("function_call")
        if old and (wrong := _wrong_call(old, tools)):
            problems.append(("tool_call_invalid", f"{at}[{i}].function_call: {wrong}"))


def _wrong_call(call: Any, tools: Mapping[str, Any] | None) -> str | None:
    """What is wrong with a call, in words."""
    if type(call) is not dict or type(call.get("name")) is not str:
        return f"{_what(call)} without a name, expected a function"
    given = call.get("arguments")
    try:
        arguments = orjson.loads(given) if type(given) is str else given
    except ValueError:
        return "arguments are no JSON"
    if type(arguments) is not dict:
        return f"arguments are {_what(arguments)}, expected an object"
    if tools is None:
        return None
    if call["name"] not in tools:
        return "the function is not among the tools of the row"
    parameters = tools[call["name"]]
    required = parameters.get("required") if type(parameters) is dict else None
    missing = [name for name in required if type(name) is str and name not in arguments] if type(required) is list else []
    return f"arguments without {', '.join(map(_shown, missing[:8]))}, which the function requires" if missing else None
