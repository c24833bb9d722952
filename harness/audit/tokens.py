"""The serving tokenizer and chat template of a model folder, and how to count tokens of rendered chats without rendering them.

A tokenizer splits a text at its special tokens before anything else, and a chat template puts special tokens between
messages. So a rendered chat falls into *units*, each from one special token of the template to the next, and has as many
tokens as they have together: a text that many chats share is tokenised once. ``Plan`` holds the units of one sequence of
roles. It is made by rendering marks in place of texts, and is refused, so that chats are tokenised whole, wherever the
template or the tokenizer does not work that way for a few texts chosen to break it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from harness.errors import AuditError

__all__ = ["Plan", "Refused", "Serving", "serving"]

_OPEN, _CLOSE = "\ue000", "\ue001"  # of private use: no template and no text has reason to hold them
_MARK = re.compile(f"{_OPEN}(\\d+){_CLOSE}")
_PROBES = ("a", "", " b ", "\n\nc\n", "it's 12 345.67", "日本語 ﬁ ŽLUŤ", "\t<b>&amp;", "x" * 50)

# By how much a normaliser can lengthen UTF-8: Unicode FAQ, "What are the maximum expansion factors for the different normalization forms?"
_GROWTH = {"NFC": 3, "NFD": 3, "NFKC": 11, "NFKD": 11, "Lowercase": 2}
_SPLITTERS = {
    "ByteLevel",
    "Digits",
    "Split",
    "Whitespace",
    "WhitespaceSplit",
    "Punctuation",
    "BertPreTokenizer",
    "Metaspace",
    "UnicodeScripts",
}

Message = Mapping[str, str]


class Refused(Exception):
    """The template refuses a chat; says why in the template's words."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How chats of one sequence of roles are counted: the tokens of the template's own text, and units in which texts stand.

    A unit is a sequence of the template's text (str) and places of messages (int). ``strip``: the template trims that
    message. ``bytes`` and ``units`` bound what the template adds.
    """

    fixed: int
    units: tuple[tuple[str | int, ...], ...]
    strip: tuple[bool, ...]
    bytes: int

    def fill(self, unit: int, texts: Callable[[int], str]) -> str:
        """The text of a unit; ``texts`` gives the text at a place."""
        return "".join(piece if isinstance(piece, str) else self._said(piece, texts) for piece in self.units[unit])

    def _said(self, place: int, texts: Callable[[int], str]) -> str:
        return texts(place).strip() if self.strip[place] else texts(place)


class Serving:
    """A folder's tokenizer and template. Raises AuditError if they are missing or broken."""

    def __init__(self, folder: str) -> None:
        from tokenizers import Tokenizer

        root = Path(folder)
        config = _json(root / "tokenizer_config.json")
        data = _read(root / "tokenizer.json")
        source = _template(root, config)
        try:
            self._tokenizer = Tokenizer.from_str(data)
        except Exception as error:  # the binding raises bare Exception
            raise AuditError(
                f"{root / 'tokenizer.json'}: found no tokenizer that can be read ({error}). Get the model's folder again"
            ) from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._names = {key: _token(value) for key, value in config.items() if key.endswith("_token")}
        self._compiled = _compile(source, folder)
        self.digest = hashlib.sha256(json.dumps([data, source, sorted(self._names.items())]).encode()).hexdigest()
        made = json.loads(data)
        self._cuts = _cuts(made.get("added_tokens") or ())
        self.growth = _growth(made)
        self._plans: dict[tuple[tuple[str, ...], bool], Plan | None] = {}

    def render(self, messages: Sequence[Message], *, generation: bool = False, tools: Any = None) -> str:
        """The chat as the server renders it; raises Refused if the template does."""
        try:
            return str(self._compiled.render(messages=messages, add_generation_prompt=generation, tools=tools, **self._names))
        except Exception as error:  # a template may do anything; its refusals are facts of the row
            said = str(error) if type(error).__name__ == "TemplateError" else type(error).__name__
            raise Refused(said[:100]) from None

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each rendered text. Lone surrogates count as U+FFFD, which is what a server gets for them."""
        found: list[int] = []
        for start in range(0, len(texts), 1024):
            found += map(
                len, self._tokenizer.encode_batch_fast([_whole(text) for text in texts[start : start + 1024]], add_special_tokens=False)
            )
        return found

    def plan(self, roles: tuple[str, ...], *, generation: bool = False) -> Plan | None:
        """The plan for chats of these roles; None: they are to be tokenised whole. Raises Refused."""
        if (roles, generation) not in self._plans:
            self._plans[roles, generation] = self._plan(roles, generation)
        return self._plans[roles, generation]

    def _plan(self, roles: tuple[str, ...], generation: bool) -> Plan | None:
        def chat(texts: Sequence[str]) -> str:
            return self.render([{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)], generation=generation)

        marks = [f"{_OPEN}{i}{_CLOSE}" for i in range(len(roles))]
        rendered, padded = chat(marks), chat([f" \n{mark}\n " for mark in marks])
        if sorted(map(int, _MARK.findall(rendered))) != list(range(len(roles))):
            return None
        plan = self._cut(rendered, tuple(f" \n{mark}\n " not in padded for mark in marks))
        probes = [[probe] * len(roles) for probe in (*_PROBES, *self._names.values())] + [
            [*_PROBES, *_PROBES][i % 8 :][: len(roles)] for i in range(8)
        ]
        for texts in (texts for texts in probes if len(texts) == len(roles)):
            try:
                whole = chat(texts)
            except Refused:  # of this text; rows with such texts are met on their own
                continue
            if self.counts([whole])[0] != plan.fixed + sum(
                self.counts([plan.fill(unit, texts.__getitem__) for unit in range(len(plan.units))])
            ):
                return None
        return plan

    def _cut(self, rendered: str, strip: tuple[bool, ...]) -> Plan:
        units: list[list[str | int]] = [[]]
        for place, piece in enumerate(_MARK.split(rendered)):
            if place % 2:
                units[-1].append(int(piece))
                continue
            first, *others = self._pieces(piece)
            units[-1].append(first)
            units += [[other] for other in others]
        own = ["".join(map(str, unit)) for unit in units if all(isinstance(part, str) for part in unit)]
        told = tuple(tuple(part for part in unit if part != "") for unit in units if not all(isinstance(part, str) for part in unit))
        size = len(_MARK.sub("", rendered).encode()) + 2 * len(units)  # some tokenizers put a space before each
        return Plan(sum(self.counts(own)), told, strip, size)

    def _pieces(self, piece: str) -> list[str]:
        """A piece of the template's text, cut before each special token."""
        places = [match.start() for match in self._cuts.finditer(piece)] if self._cuts else []
        return [piece[a:b] for a, b in zip([0, *places], [*places, len(piece)], strict=True)]


def _whole(text: str) -> str:
    """The text without lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


@lru_cache(maxsize=4)
def serving(folder: str) -> Serving:
    """The folder's tokenizer and template, read once a process."""
    return Serving(folder)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise AuditError(f"{path}: {said}; expected the folder of a model with its tokenizer, as served") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_read(path))
    except ValueError as error:
        raise AuditError(f"{path}: found no JSON ({error}). Get the model's folder again") from None
    if not isinstance(found, dict):
        raise AuditError(f"{path}: found a JSON {type(found).__name__}, expected an object. Get the model's folder again")
    return found


def _template(root: Path, config: Mapping[str, Any]) -> str:
    """The default chat template: of chat_template.jinja, or of the configuration."""
    if (root / "chat_template.jinja").is_file():
        return _read(root / "chat_template.jinja")
    found = config.get("chat_template")
    if isinstance(found, list):
        found = next((one.get("template") for one in found if isinstance(one, dict) and one.get("name") == "default"), None)
    if not isinstance(found, str):
        raise AuditError(
            f"{root}: found no chat template, neither chat_template.jinja nor in tokenizer_config.json. Add the one that is served"
        )
    return found


def _token(value: Any) -> str:
    return str(value.get("content", "")) if isinstance(value, dict) else str(value or "")


def _compile(source: str, where: str) -> Any:
    """The template in the sandbox and with the settings that transformers uses; without a clock, so that counts stay."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: "01 Jan 2026"
    try:
        return environment.from_string(source)
    except jinja2.TemplateError as error:
        raise AuditError(f"{where}: the chat template is not valid Jinja: {error}. Repair it") from None


def _cuts(added: Sequence[Mapping[str, Any]]) -> re.Pattern[str] | None:
    """Added tokens that are split off whatever stands beside them."""
    flags = ("lstrip", "rstrip", "single_word", "normalized")
    plain = [token["content"] for token in added if token["content"] and not any(token.get(flag) for flag in flags)]
    return re.compile("|".join(map(re.escape, sorted(plain, key=len, reverse=True)))) if plain else None


def _growth(made: Mapping[str, Any]) -> int | None:
    """Tokens are at most this often the UTF-8 bytes (and the few that ``Plan.bytes`` allows for); None: nothing is known of it.

    A model's token stands for one byte or more of the text as normalised.
    """
    splitters = _kinds(made.get("pre_tokenizer"), "pretokenizers")
    growth = 1
    for kind in _kinds(made.get("normalizer"), "normalizers"):
        if kind not in _GROWTH:
            return None
        growth *= _GROWTH[kind]
    return growth if set(splitters) <= _SPLITTERS else None


def _kinds(stage: Any, inner: str) -> list[str]:
    if not stage:
        return []
    return [kind for one in stage[inner] for kind in _kinds(one, inner)] if stage["type"] == "Sequence" else [str(stage["type"])]
