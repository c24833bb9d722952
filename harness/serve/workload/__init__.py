"""What each request says: bodies serialised before the first is sent, golden slots, and the digest of it all.

    golden_prompts    the items of a golden set as the whole load
    synthetic         prompts of declared lengths, no two alike
    shared_prefix     the same, in groups with a common beginning
    multi_turn        conversations, each turn after the end of the one before
    replay            a log with its instants
    tenants           several of these mixed request by request
    with_golden       golden prompts riding in any of them

Greedy, with the seed fixed and usage asked for. Every body is sent once, unless a golden set is shorter than the load:
``unique`` says how many were. The warm-up has prompts of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.serve import schedule
from harness.serve.schedule import draws
from harness.serve.workload.bodies import Form, Lengths, empty, fixed, listed, lognormal, serialised, spoken, uniform, words
from harness.types import Prompt

__all__ = [
    "Lengths",
    "Workload",
    "fixed",
    "golden_prompts",
    "listed",
    "lognormal",
    "multi_turn",
    "replay",
    "shared_prefix",
    "slots",
    "synthetic",
    "tenants",
    "uniform",
    "with_golden",
]


@dataclass(frozen=True, slots=True)
class Workload:
    """Request i of a schedule sends ``bodies[order[i]]``.

    By body: ``ids`` its name, ``limits`` its max_tokens (0: none said), ``groups`` its prefix group or tenant ("" none),
    ``expected`` the prompt tokens it was made to have, about. By request: ``golden`` those whose text is kept,
    ``follows`` the request that must have ended ``think_s`` seconds before it is sent (-1: none; empty: none of them does).
    """

    name: str
    bodies: tuple[bytes, ...]
    order: tuple[int, ...]
    ids: tuple[str, ...]
    limits: tuple[int, ...]
    chat: bool = True
    stream: bool = True
    ignore_eos: bool = False
    golden: frozenset[int] = frozenset()
    groups: tuple[str, ...] = ()
    expected: Mapping[int, int] = field(default_factory=dict)
    follows: tuple[int, ...] = ()
    think_s: float = 0.0

    def __len__(self) -> int:
        return len(self.order)

    @property
    def max_tokens(self) -> int:
        """The largest of the limits."""
        return max(self.limits, default=0)

    def body(self, request: int) -> bytes:
        """What request i sends."""
        return self.bodies[self.order[request]]

    def limit(self, request: int) -> int:
        """The max_tokens of request i; 0 where it says none."""
        return self.limits[self.order[request]]

    def id(self, request: int) -> str:
        """The name of the prompt of request i: a golden item's, where it is one."""
        return self.ids[self.order[request]]

    def group(self, request: int) -> str:
        """The prefix group or tenant of request i."""
        return self.groups[self.order[request]] if self.groups else ""

    @property
    def unique(self) -> float:
        """The share of the requests that say what no other does; 1 where a prefix cache has nothing to give but a common prefix."""
        said = [self.bodies[i] for i in self.order]
        return len(set(said)) / len(said)

    @property
    def digest(self) -> str:
        """SHA-256 of everything that shapes the requests."""
        head = [self.name, self.chat, self.stream, self.ignore_eos, sorted(self.golden), self.order, self.limits, self.groups,
                self.follows, self.think_s]  # fmt: skip
        sha = hashlib.sha256(json.dumps(head).encode())
        for body in self.bodies:
            sha.update(b"\n" + body)
        return sha.hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """For the header of a load. ``prompt_tokens``: the least and the most that prompts of declared lengths may turn out to have."""
        declared = self.expected.values() if len(self.expected) == len(self.bodies) else ()
        about = {"prompt_tokens": [math.floor(0.8 * min(declared)), math.ceil(1.6 * max(declared)) + 64]} if declared else {}
        return about | {
            "name": self.name, "sha256": self.digest, "requests": len(self), "chat": self.chat, "stream": self.stream,
            "ignore_eos": self.ignore_eos, "max_tokens": self.max_tokens, "golden": len(self.golden), "unique": round(self.unique, 6),
        }  # fmt: skip


# --- workloads --------------------------------------------------------------------------------------


def golden_prompts(
    items: Sequence[Prompt],
    model: str,
    n: int,
    seed: int,
    *,
    max_tokens: int,
    judged: range | None = None,
    golden_share: float = 0.05,
    stream: bool = True,
    chat: bool = True,
    name: str = "golden",
) -> Workload:
    """Every one of ``n`` requests carries an item of the set, all of them in random order before any comes again.

    ``judged`` are the requests inside the window (``schedule.judged``; None: all): those before it take items of their own,
    a quarter of the set at most, and no golden slots. The texts of ``golden_share`` of those inside are kept.
    """
    judged = _window(judged, n)
    if not items or n < 1:
        raise empty(f"{len(items)} golden prompts for {n} requests")
    form = Form(model, chat, stream, seed)
    rows = [_Row(form.body(item, max_tokens), item.id, max_tokens) for item in items]
    mixed = draws.shuffled(len(rows), draws.philox(draws.key(seed, "prompts")))
    warm = mixed[: min(judged.start, max(1, len(mixed) // 4))] if judged.start and len(mixed) > 1 else []
    rest = mixed[len(warm) :]
    order = [(warm or rest)[i % len(warm or rest)] for i in range(judged.start)] + [rest[i % len(rest)] for i in range(n - judged.start)]
    return _workload(name, rows, form, order=order, golden=slots(judged, golden_share, seed))


def synthetic(
    model: str,
    n: int,
    seed: int,
    *,
    prompt: Lengths,
    output: Lengths,
    ignore_eos: bool = False,
    tokens_per_word: float = 1.0,
    stream: bool = True,
    chat: bool = True,
    name: str = "synthetic",
) -> Workload:
    """``n`` prompts of random words, no two alike, of declared lengths; ``output`` is max_tokens of each.

    Words reach a length in tokens about: the server's usage says how near, and a template adds its own. ``ignore_eos``
    (with min_tokens, vLLM's) makes the outputs as long as declared.
    """
    return _made(name, Form(model, chat, stream, seed, ignore_eos), n, prompt, output, tokens_per_word, lambda i, u: ("", "", 0))


def shared_prefix(
    model: str,
    n: int,
    seed: int,
    *,
    groups: int,
    prefix: int,
    suffix: Lengths,
    output: Lengths,
    judged: range | None = None,
    ignore_eos: bool = False,
    tokens_per_word: float = 1.0,
    stream: bool = True,
    chat: bool = True,
    name: str = "prefix",
) -> Workload:
    """As ``synthetic``, each request beginning with the ``prefix`` tokens of one of ``groups`` groups, drawn at random.

    The warm-up (requests before ``judged``) has groups of its own: the window starts without its prefixes cached.
    """
    judged = _window(judged, n)
    if groups < 1 or prefix < 1:
        raise ConfigError(f"workload {name}: groups = {groups}, prefix = {prefix} tokens; expected at least 1")
    labels = [f"{phase}-{g}" for phase in ("warmup", "prefix") for g in range(groups)]
    texts = {label: words(max(1, round(prefix / tokens_per_word)), seed, "prefixes", label) for label in labels}

    def start(request: int, u: float) -> tuple[str, str, int]:
        label = f"{'warmup' if request < judged.start else 'prefix'}-{math.floor(u * groups)}"
        return label, texts[label] + " ", prefix

    return _made(name, Form(model, chat, stream, seed, ignore_eos), n, suffix, output, tokens_per_word, start)


def multi_turn(
    conversations: Sequence[Sequence[Mapping[str, str]]],
    model: str,
    *,
    concurrency: int,
    think_s: float,
    max_tokens: int,
    seed: int = 0,
    stream: bool = True,
    name: str = "turns",
) -> Workload:
    """Each user message asked with all that came before it; ``concurrency`` conversations at a time, for ``schedule.closed``.

    A request ``follows`` another by ``think_s`` seconds. What the assistant had said is the recorded answer, not the one just given:
    bodies are made before the run, so that two runs send the same bytes. No claim on latency at a rate follows from it.
    """
    if concurrency < 1 or not (math.isfinite(think_s) and think_s >= 0):
        raise ConfigError(f"workload {name}: concurrency = {concurrency}, think_s = {think_s}; expected at least 1 and 0 seconds or more")
    form = Form(model, True, stream, seed)
    lanes: list[list[_Row]] = [[] for _ in range(min(concurrency, max(1, len(conversations))))]
    for c, messages in enumerate(conversations):
        lane = min(lanes, key=len)
        asked = [i for i, message in enumerate(messages) if message.get("role") == "user"]
        if not asked or any(b - a < 2 for a, b in pairwise(asked)):
            raise ConfigError(
                f"workload {name}: conversation {c}: expected user messages with the assistant's recorded answer between them"
            )
        for turn, i in enumerate(asked):
            prompt = Prompt(f"conversation-{c}-turn-{turn}", messages=tuple(messages[: i + 1]))
            lane.append(_Row(form.body(prompt, max_tokens), prompt.id, max_tokens, f"conversation-{c}"))
    rows: list[_Row] = []
    follows, last = [], [-1] * len(lanes)
    for step in range(max(map(len, lanes), default=0)):
        for number, mine in enumerate(lanes):
            if step < len(mine):
                follows.append(last[number])
                last[number] = len(rows)
                rows.append(mine[step])
    if not rows:
        raise empty("no conversations")
    return _workload(name, rows, form, follows=tuple(follows), think_s=think_s)


def replay(
    log: Path | Iterable[str], model: str, *, scale: float = 1.0, stream: bool = True, name: str = "replay"
) -> tuple[schedule.Schedule, Workload]:
    """A log, one JSON object a line: ``{"timestamp": seconds or ISO 8601, "body": {...}, "tenant": "..."}``, oldest first.

    The recorded bodies are sent to ``model``, all streamed or none, with usage asked for; their sampling is left alone.
    ConfigError names the line that is wrong.
    """
    rows, stamps, kinds = [], [], set()
    for number, line in _lines(log):
        where = f"workload {name}: line {number}"
        try:
            entry = json.loads(line)
            stamp, body = entry["timestamp"], dict(entry["body"])
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ConfigError(f'{where}: {type(error).__name__} {error}; expected {{"timestamp": 12.5, "body": {{...}}}}') from None
        stamps.append(_seconds(stamp, where))
        if ("messages" in body) == ("prompt" in body):
            raise ConfigError(f"{where}: the body has keys {sorted(body)}, expected either messages or prompt")
        try:
            _asks(body)
        except ValueError as error:
            raise ConfigError(f"{where}: {error}") from None
        kinds.add("messages" in body)
        body |= {"model": model, "stream": stream}
        body.pop("stream_options", None)
        if stream:
            body["stream_options"] = {"include_usage": True}
        limit = body.get("max_completion_tokens", body.get("max_tokens", 0))
        tenant = entry.get("tenant", "")
        if isinstance(limit, bool) or not isinstance(limit, int) or not isinstance(tenant, str):
            raise ConfigError(f"{where}: max_tokens = {limit!r}, tenant = {tenant!r}; expected a whole number and a text")
        rows.append(_Row(serialised(body, where), f"line-{number}", limit, tenant))
    if not rows:
        raise empty("a log without lines")
    if len(kinds) > 1:
        raise ConfigError(f"workload {name}: the log holds both chat and completions; replay them one after the other")
    form = Form(model, kinds.pop(), stream, 0)
    return schedule.trace(stamps, scale=scale), _workload(name, rows, form)


def tenants(parts: Mapping[str, tuple[float, Workload]], n: int, seed: int, *, name: str = "tenants") -> Workload:
    """``n`` requests, each of a tenant drawn at random in proportion to its share, with that tenant's next request."""
    total = math.fsum(share for share, _ in parts.values())
    if len(parts) < 2 or not all(share > 0 for share, _ in parts.values()) or not math.isfinite(total):
        raise ConfigError(f"workload {name}: tenants {sorted(parts)}; expected at least two, each with a share above 0")
    first = next(iter(parts.values()))[1]
    if any((w.chat, w.stream, w.ignore_eos) != (first.chat, first.stream, first.ignore_eos) or w.follows for _, w in parts.values()):
        raise ConfigError(f"workload {name}: tenants {sorted(parts)} differ in chat, stream or ignore_eos, or one is of conversations")
    taken = dict.fromkeys(parts, 0)
    rows, golden, expected = [], set(), {}
    for request, u in zip(range(n), draws.uniform(draws.philox(draws.key(seed, "tenants"))), strict=False):
        label = _drawn(parts, u * total)
        mine, at = parts[label][1], taken[label]
        if at >= len(mine):
            raise ConfigError(f"workload {name}: tenant {label} has {len(mine)} requests, more were drawn; make it with n = {n}")
        taken[label] += 1
        body = mine.order[at]
        if at in mine.golden:
            golden.add(request)
        if body in mine.expected:
            expected[request] = mine.expected[body]
        rows.append(_Row(mine.bodies[body], mine.ids[body], mine.limits[body], label))
    if not rows:
        raise empty(f"tenants of {n} requests")
    form = Form("", first.chat, first.stream, seed, first.ignore_eos)
    return _workload(name, rows, form, golden=frozenset(golden), expected=expected)


def with_golden(
    load: Workload,
    items: Sequence[Prompt],
    model: str,
    seed: int,
    *,
    max_tokens: int,
    judged: range | None = None,
    share: float = 0.05,
) -> Workload:
    """The same load with golden prompts in a ``share`` of the requests inside the window, spread over it."""
    if load.follows:
        raise ConfigError(f"workload {load.name}: golden prompts cannot take turns of a conversation; send them as a load of their own")
    if not items:
        raise empty("no golden prompts")
    where = slots(_window(judged, len(load)), share, seed)
    form = Form(model, load.chat, load.stream, seed)
    mixed = draws.shuffled(len(items), draws.philox(draws.key(seed, "golden items")))
    order, used = list(load.order), [items[i] for i in mixed[: len(where)]]
    for turn, request in enumerate(sorted(where)):
        order[request] = len(load.bodies) + turn % len(used)
    return Workload(
        load.name, (*load.bodies, *(form.body(item, max_tokens) for item in used)), tuple(order), (*load.ids, *(item.id for item in used)),
        (*load.limits, *(max_tokens for _ in used)), load.chat, load.stream, load.ignore_eos, load.golden | where,
        (*load.groups, *("golden" for _ in used)) if load.groups else (), load.expected,
    )  # fmt: skip


def slots(judged: range, share: float, seed: int) -> frozenset[int]:
    """A ``share`` of the requests inside the window (rounded down), one drawn from each of as many equal stretches of it."""
    if not 0 <= share <= 1:
        raise ConfigError(f"golden share = {share}, expected 0 to 1")
    count = math.floor(share * len(judged) + 1e-9)
    edges = [judged.start + len(judged) * i // max(1, count) for i in range(count + 1)]
    drawn = draws.uniform(draws.philox(draws.key(seed, "golden")))
    return frozenset(low + math.floor(u * (high - low)) for (low, high), u in zip(pairwise(edges), drawn, strict=False))


# --- how a body is made -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Row:
    body: bytes
    id: str
    limit: int
    group: str = ""


def _workload(
    name: str,
    rows: Sequence[_Row],
    form: Form,
    *,
    order: Sequence[int] | None = None,
    golden: frozenset[int] = frozenset(),
    expected: Mapping[int, int] | None = None,
    follows: tuple[int, ...] = (),
    think_s: float = 0.0,
) -> Workload:
    groups = tuple(row.group for row in rows)
    return Workload(
        name, tuple(row.body for row in rows), tuple(range(len(rows)) if order is None else order), tuple(row.id for row in rows),
        tuple(row.limit for row in rows), form.chat, form.stream, form.ignore_eos, golden, groups if any(groups) else (),
        dict(expected or {}), follows, think_s,
    )  # fmt: skip


def _made(
    name: str,
    form: Form,
    n: int,
    prompt: Lengths,
    output: Lengths,
    tokens_per_word: float,
    start: Callable[[int, float], tuple[str, str, int]],
) -> Workload:
    """Prompts of random words, each after what ``start`` gives it: (group, text, tokens of that)."""
    if n < 1:
        raise empty(f"{n} requests")
    if not (math.isfinite(tokens_per_word) and tokens_per_word > 0):
        raise ConfigError(f"workload {name}: tokens_per_word = {tokens_per_word}, expected a finite number above 0")
    sizes, groups = (draws.uniform(draws.philox(draws.key(form.seed, purpose))) for purpose in ("lengths", "groups"))
    rows, made, seen = [], {}, set()
    for request in range(n):
        asked, limit = prompt.at(next(sizes)), output.at(next(sizes))
        group, begin, more = start(request, next(groups))
        count = max(1, round(asked / tokens_per_word))
        tries = (begin + words(count, form.seed, "prompts", request, again) for again in range(100))
        text = next((text for text in tries if text not in seen), None)
        if text is None:
            raise ConfigError(f"workload {name}: prompts of {asked} tokens are too short for {n} that all differ; expected longer ones")
        seen.add(text)
        made[request] = asked + more
        rows.append(_Row(form.body(Prompt(f"{name}-{request}", text=text), limit), f"{name}-{request}", limit, group))
    return _workload(name, rows, form, expected=made)


def _drawn(parts: Mapping[str, tuple[float, Workload]], at: float) -> str:
    for label, (share, _) in parts.items():
        at -= share
        if at < 0:
            return label
    return label


def _window(judged: range | None, n: int) -> range:
    found = range(n) if judged is None else judged
    if found.step != 1 or not 0 <= found.start <= found.stop <= n:
        raise ConfigError(f"workload: the window is {found} of {n} requests, expected schedule.judged of a schedule as long as the load")
    return found


def _lines(log: Path | Iterable[str]) -> Iterator[tuple[int, str]]:
    if isinstance(log, Path):
        try:
            lines: Iterable[str] = log.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"workload: {log} cannot be read ({error}); expected JSON lines in UTF-8") from None
    else:
        lines = log
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip())


def _asks(body: Mapping[str, Any]) -> None:
    """ValueError if a recorded request asks for nothing: no message, or a prompt that is neither a text nor token ids."""
    if "messages" in body:
        spoken(body["messages"], parts=True)
    elif not body["prompt"] or not isinstance(body["prompt"], (str, list)):
        raise ValueError("the prompt is empty or no text, expected one, or token ids")


def _seconds(stamp: object, where: str) -> float:
    if isinstance(stamp, str):
        try:
            return datetime.fromisoformat(stamp).timestamp()
        except ValueError:
            stamp = repr(stamp)
    if isinstance(stamp, bool) or not isinstance(stamp, (int, float)) or not abs(stamp) < 1e18:  # NaN neither
        raise ConfigError(f"{where}: timestamp {str(stamp)[:60]}, expected seconds or ISO 8601")
    return float(stamp)
