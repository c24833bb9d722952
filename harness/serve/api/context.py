"""Whether the context that a server advertises is there: filled to the last token, read at every depth, and refused one token later.

The edge needs no model, only lengths. Depth does: a short sentence is buried in a long text and its end asked for. A small
model may not find it, and says so beforehand: the reference is asked the same, and the server has to say what the
reference says, or something the reference finds as likely. What a model cannot do is thus no fault of its server, and what a
server does to long prompts (positions, windows, truncation) is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from harness.errors import MissingNeed
from harness.serve.exchange import MODELS, TEXT, Reply, Request, Send, exchange, post
from harness.serve.target import Target
from harness.types import Sample

__all__ = ["DEPTHS", "RECIPE", "Needle", "advertised", "depth_samples", "edge", "edge_samples", "needles", "say"]

RECIPE = 1  # counted up when a request is another: what is kept is then asked again
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_MADE = 8  # tokens of an answer at depth
_IDS = range(200, 260)  # of any vocabulary
_SHORT = 12  # tokens of the request that is repeated afterwards
_PLACES = ("harbour", "garden", "library", "station", "kitchen", "theatre", "museum", "market")
_FILLER = (
    "The road along the river was quiet in the morning.",
    "Two old friends talked about the weather and the price of bread.",
    "A dog slept in the shade while the children played.",
    "Nobody remembered who had painted the long wooden fence.",
    "In the evening the windows of the houses were lit again.",
    "Rain had been promised, but the sky stayed clear.",
)


def advertised(target: Target, *, limit_s: float = 10.0, send: Send = exchange) -> int:
    """The longest sequence in tokens, as /v1/models says (vLLM), or /props (llama.cpp). MissingNeed if neither does."""
    listed = send(target, Request("GET", MODELS), limit_s=limit_s).json
    entries = listed.get("data") if isinstance(listed, dict) else None
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and entry.get("id") == target.model and isinstance(entry.get("max_model_len"), int):
            return int(entry["max_model_len"])
    props = send(target, Request("GET", "/props"), limit_s=limit_s).json
    found = (props.get("default_generation_settings") or {}).get("n_ctx") if isinstance(props, dict) else None
    if isinstance(found, int) and found > 0:
        return found
    said = f"{target.base_url} says nowhere how long a sequence may be: neither max_model_len in {MODELS} nor n_ctx in /props"
    raise MissingNeed("advertised-context", said, "a server that says it")


# --- the edge -----------------------------------------------------------------------------------------


def edge(target: Target, context: int, *, limit_s: float = 120.0, send: Send = exchange) -> list[dict[str, Any]]:
    """JSON rows of what came of requests at and over the edge. Prompts are ids, so that no tokenizer adds or merges any."""
    made, ids = 0, list(_IDS)

    def ask(name: str, length: int, room: int) -> dict[str, Any]:
        nonlocal made
        made += 1
        start = 7 * made  # another text each time: nothing comes out of a cache
        prompt = ([*ids[start:], *ids[:start]] * (length // len(ids) + 1))[:length]
        return {"item": name, "length": length, "room": room, **_said(send(target, _text(target, prompt, room), limit_s=limit_s))}

    short = _text(target, ids[:_SHORT], 4)
    before = _said(send(target, short, limit_s=limit_s))
    found = [
        ask("full", context - 1, 1),
        ask("full with room", context - 16, 16),
        ask("one token more", context, 1),
        ask("one token of room more", context - 16, 17),
        ask("four times", 4 * context, 1),
    ]
    after = _said(send(target, short, limit_s=limit_s))
    return [*found, {"item": "afterwards", "before": before, **after}]


def _text(target: Target, prompt: Sequence[int], room: int) -> Request:
    return post(TEXT, {"model": target.model, "prompt": list(prompt), "max_tokens": room, "temperature": 0})


def _said(reply: Reply) -> dict[str, Any]:
    try:
        value = reply.json
        choice, usage = value["choices"][0], value["usage"]
        return {"status": reply.status, "text": choice["text"], "asked": usage["prompt_tokens"], "made": usage["completion_tokens"]}
    except (TypeError, KeyError, IndexError):
        return {"status": reply.status, "error": reply.shown()}


def edge_samples(rows: Iterable[Mapping[str, Any]], context: int) -> tuple[Sample, ...]:
    """1 for each row that is as it must be: all tokens counted inside, 400 outside, the same answer afterwards."""
    return tuple(Sample(row["item"], float(_right(row, context)), detail={k: v for k, v in row.items() if k != "item"}) for row in rows)


def _right(row: Mapping[str, Any], context: int) -> bool:
    if "before" in row:
        return row["status"] == 200 and all(row.get(name) == value for name, value in row["before"].items())
    length, room = int(row["length"]), int(row["room"])
    whole, made = row["status"] == 200 and row.get("asked") == length, int(row.get("made", 0))
    if length + room <= context:
        return whole and 1 <= made <= room
    # too much room may be cut to what is there; a prompt never
    return row["status"] == 400 or (length < context and whole and length + made <= context)


# --- depth --------------------------------------------------------------------------------------------


class Needle(NamedTuple):
    """A long text with a sentence at ``depth`` (0: its beginning, 1: its end) whose end, ``secret``, comes next."""

    item: str
    depth: float
    text: str
    secret: str


def needles(length: int, count: Callable[[str], int], *, depths: Sequence[float] = DEPTHS, each: int = 2) -> list[Needle]:
    """``each`` texts at every depth, of at most ``length`` tokens by ``count`` and nearly that. Deterministic."""
    found = []
    for d, depth in enumerate(depths):
        for k in range(each):
            number = (d * each + k) % len(_PLACES)
            sentence, secret = f"The code of the {_PLACES[number]} gate is", str(1000 + (7919 * (d * each + k + 1)) % 9000)
            least = count(" ".join(_FILLER)) / len(_FILLER)
            lines = [_FILLER[(i + d + k) % len(_FILLER)] for i in range(int(length / least) + 2)]
            text = _buried(lines, depth, sentence, secret)
            while count(text) > length:
                excess = (count(text) - length) / least
                lines = lines[: -max(1, int(excess))]
                text = _buried(lines, depth, sentence, secret)
            found.append(Needle(f"depth {depth:g}, {k + 1}", depth, text, secret))
    return found


def _buried(lines: Sequence[str], depth: float, sentence: str, secret: str) -> str:
    place = round(depth * len(lines))
    return " ".join([*lines[:place], f"{sentence} {secret}.", *lines[place:], sentence])


def say(
    target: Target, asked: Iterable[Needle], tokenize: Callable[[str], list[int]], *, limit_s: float = 120.0, send: Send = exchange
) -> list[dict[str, Any]]:
    """What the server says next to each text: JSON rows with ``text``, ``asked`` (tokens by usage) and ``length`` (by the tokenizer)."""
    found = []
    for needle in asked:
        ids = tokenize(needle.text)
        found.append({"item": needle.item, "length": len(ids), **_said(send(target, _text(target, ids, _MADE), limit_s=limit_s))})
    return found


def depth_samples(
    asked: Sequence[Needle], said: Sequence[Mapping[str, Any]], reference: Sequence[str], less_likely: Mapping[str, float], tie: float
) -> tuple[Sample, ...]:
    """1 where the server says what the reference says, or what it finds as likely within ``tie`` nats of its own choice.

    ``less_likely``: for texts that differ, by how much the reference finds the server's less likely than its own.
    """
    rows = []
    for needle, row, expected in zip(asked, said, reference, strict=True):
        nats = less_likely.get(needle.item)
        same = row.get("text") == expected
        right = row["status"] == 200 and row.get("asked") == row["length"] and (same or (nats is not None and nats <= tie))
        detail = {"found": row.get("text", row.get("error")), "expected": expected, "depth": needle.depth, "tokens": row["length"],
                  "asked": row.get("asked"), "secret": needle.secret, "retrieved": needle.secret in str(row.get("text")),
                  "reference_retrieves": needle.secret in expected, "nats": nats}  # fmt: skip
        rows.append(Sample(needle.item, float(right), detail=detail))
    return tuple(rows)
