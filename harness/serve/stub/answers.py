"""What a stub says: a pure function of the prompt and a seed, in tokens of its own that are easily counted.

A token is a word with the blanks before it, or a line feed. Ids and log-probabilities are functions of the text alone,
so that a prompt's scores and a generation's agree, and a reader can check every number.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any
from zlib import crc32

__all__ = ["VOCABULARY", "answer", "logprob", "pieces", "render", "token_id", "tokenize", "top"]

_FIRST = ["ba", "de", "fi", "go", "ka", "le", "mi", "no", "pa", "re", "si", "to", "va", "we", "xi", "zo"]
_LAST = ["bal", "der", "fin", "gol", "kam", "len", "mir", "nor", "pas", "ret", "sil", "tor", "van", "wes", "xin", "zor"]
_WORDS = tuple(a + b for a in _FIRST for b in _LAST)  # 256: a byte chooses
_KNOWN = {word: 1000 + 2 * i for i, word in enumerate(_WORDS)} | {" " + word: 1001 + 2 * i for i, word in enumerate(_WORDS)}
VOCABULARY = 50_000
_TOKEN = re.compile(r"\n|[^\S\n]*[^\s]+|[^\S\n]+")


def tokenize(text: str) -> list[str]:
    """The pieces that make up ``text``."""
    return _TOKEN.findall(text)


def token_id(piece: str) -> int:
    """Of the 512 known words, or a hash from 2,000 up."""
    return _KNOWN.get(piece) or 2000 + crc32(piece.encode("utf-8", "surrogatepass")) % (VOCABULARY - 2000)


def logprob(before: str, piece: str) -> float:
    """Of ``piece`` after ``before``; between -0.6 and 0, hence always the likeliest."""
    return -(1 + crc32(f"{before}\0{piece}".encode("utf-8", "surrogatepass")) % 5999) / 1e4


def top(before: str, piece: str, count: int) -> list[tuple[str, float]]:
    """The ``count`` likeliest after ``before``, of which ``piece`` is the first."""
    start = crc32(before.encode("utf-8", "surrogatepass"))
    others = (" " + _WORDS[(start + 7 * i) % 256] for i in range(count + 1))
    rest = [word for word in others if word != piece][: max(0, count - 1)]
    return [(piece, logprob(before, piece)), *((word, -2.0 - i) for i, word in enumerate(rest))][: max(count, 0)]


def render(messages: Sequence[Mapping[str, Any]]) -> str:
    """The text that a conversation becomes: the stub's chat template."""
    return "".join(f"<|{each['role']}|>\n{_content(each.get('content'))}\n" for each in messages) + "<|assistant|>\n"


def _content(value: Any) -> str:
    if isinstance(value, list):
        return "".join(str(part.get("text", "")) for part in value if isinstance(part, Mapping))
    return "" if value is None else str(value)


def pieces(prompt: str, seed: int | str, tokens: int) -> list[str]:
    """The first ``tokens`` tokens of the endless answer to ``prompt``."""
    key = f"{seed}\0{prompt}".encode("utf-8", "surrogatepass")
    made: list[str] = []
    while len(made) < tokens:
        made.extend(" " + _WORDS[byte] for byte in blake2b(key, salt=len(made).to_bytes(8, "little")).digest())
    if made and (not prompt or prompt[-1].isspace()):
        made[0] = made[0][1:]
    return made[:tokens]


def answer(prompt: str | Sequence[Mapping[str, Any]], seed: int = 0, tokens: int = 16) -> str:
    """The text that the stub answers with ``tokens`` tokens: to a text, or to the messages of a conversation.

    ``seed`` is the request's where its temperature is above 0, else 0.
    """
    text = prompt if isinstance(prompt, str) else render(prompt)
    return "".join(pieces(text, seed, tokens))
