"""How long are the rows, in characters, words, and tokens as the model is served; which are cut off at the context?

What is cut off is exact for every row: a row whose UTF-8, with what the template adds, has no more bytes than the context
has tokens cannot have more tokens either; of every other row as much is tokenised as makes it sure. Quantiles of tokens are
exact with ``rate`` 1, else they are of rows drawn by their digests, with an interval that holds whatever the distribution.

Quantiles and histograms are of distinct rows (copies would be drawn together), counts of what is cut off of all rows.
"""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit.model import DIGEST, PARTS, ROLES, Batch, Group, Report, Rows, finding_rows
from harness.audit.tokens import Plan, Refused, serving
from harness.errors import AuditError
from harness.stats.series import quantile_ranks

__all__ = ["EDGES", "Lengths"]

EDGES = tuple(sorted({0, *(1 << k for k in range(25)), *(3 << k for k in range(23))}))
"""The lower edges of the histogram's bins: 0, 1, 2, 3, 4, 6, 8, 12 ...; the last bin has no upper edge."""

_PROMPT, _ANSWER, _REJECTED, _TOOLS = (PARTS.index(part) for part in ("prompt", "answer", "rejected", "tools"))
_USER, _OTHER = ROLES.index("user"), ROLES.index("other")
_QUANTILES = (0.5, 0.95, 0.99)
_ALPHA = 0.025
_FACTOR = 10.0  # an outlier is at least so many times as long as the median row, or as short, however alike the others are
_PROOF = 64  # one row in so many is tokenised whole beside its units

_NOT_COUNTED, _UNITS, _PROVEN, _WHOLE, _DIFFERS = range(5)

_FACTS = pa.schema([
    ("row", DIGEST),
    ("chars", pa.int64()),
    ("words", pa.int64()),
    ("tokens", pa.int64()),  # null: not drawn and within the context, or refused
    ("prompt", pa.int64()),  # tokens before the answer; only of rows that are cut off
    ("how", pa.int8()),  # how tokens were counted
    ("refused", pa.string()),  # why the template refuses the row
])  # fmt: skip


@dataclass(frozen=True)
class Lengths:
    """Lengths of rows; with ``tokenizer`` (a folder with tokenizer.json and chat template) in tokens too, beside ``context``.

    ``prompt`` is how the server asks: each message of the user is put in place of {input} there.
    ``rate`` is the share of distinct rows that are tokenised for the quantiles. ``whole`` tokenises each rendered row as one:
    slower by far, for templates that look into texts. ``spread``: an outlier's log length in characters is further from
    the median than so many median absolute deviations.

    Of a preference row the longer of its two chats counts. Rows of plain text are counted without a template. Tool
    definitions are given to the template.
    """

    tokenizer: Path | None = None
    context: int = 2048
    prompt: str = "{input}"
    rate: float = 1.0
    whole: bool = False
    spread: float = 8.0

    name = "lengths"
    key: Literal["row", "text"] = "row"

    def __post_init__(self) -> None:
        if self.context < 1 or "{input}" not in self.prompt:
            raise AuditError(
                f"context = {self.context}, prompt = {self.prompt!r}; expected at least one token, and {{input}} in the prompt"
            )
        if not 0 < self.rate <= 1 or not self.spread > 0:
            raise AuditError(f"rate = {self.rate}, spread = {self.spread}; expected 0 < rate <= 1 and spread > 0")

    @property
    def options(self) -> Mapping[str, Any]:
        return {"tokenizer": self._digest, "context": self.context, "prompt": self.prompt, "rate": self.rate, "whole": self.whole}

    @cached_property
    def _digest(self) -> str | None:
        return serving(str(self.tokenizer)).digest if self.tokenizer is not None else None

    def partial(self, batch: Batch) -> pa.Table:
        sizes: Any = np.empty(len(batch.texts), np.int64)
        _chars(batch.texts.data, batch.texts.starts, sizes)
        columns = [
            batch.record.column("row"), pa.array(_summed(batch, sizes)), pa.array(_summed(batch, np.diff(batch.words.starts))),
        ]  # fmt: skip
        columns += (
            [pa.nulls(batch.n, field.type) for field in list(_FACTS)[3:]] if self.tokenizer is None else _Counting(self, batch).columns()
        )
        return pa.Table.from_arrays(columns, schema=_FACTS)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        at = facts.column("row").to_numpy()
        kept = {name: facts.column(name).combine_chunks() for name in ("chars", "words", "tokens", "prompt", "how", "refused")}
        chars, words = kept["chars"].to_numpy(), kept["words"].to_numpy()
        outliers, findings = self._outliers(at, chars, rows)
        summary: dict[str, Any] = {
            "rows": rows.n, "distinct_rows": rows.u, "edges": list(EDGES), "outliers": outliers,
            "chars": _said(chars, exact=True), "words": _said(words, exact=True),
        }  # fmt: skip
        if self.tokenizer is None:
            summary["tokens"], summary["why_no_tokens"] = None, "no tokenizer was given: name the folder of the model as it is served"
            return Report(findings, summary)
        tokens = kept["tokens"].fill_null(-1).to_numpy()
        drawn = _drawn(rows.digests[at], self.rate) & (tokens >= 0)
        cut, found = self._cut(at, tokens, kept, rows)
        told = _said(tokens[drawn], exact=self.rate == 1)
        told["max"] = int(tokens.max()) if self.rate == 1 or (tokens > self.context).any() else None  # else it was not met
        summary["tokens"] = {**told, "drawn": int(drawn.sum()), "rate": self.rate, **cut, **_counted(kept["how"].to_numpy())}
        return Report(pa.concat_tables([findings, *found]), summary)

    def _outliers(self, at: Any, chars: Any, rows: Rows) -> tuple[dict[str, Any], pa.Table]:
        """Rows far longer or shorter than most: a remark."""
        middle = max(1, int(np.sort(chars)[(len(chars) - 1) // 2]))
        off = np.abs(np.log(np.maximum(chars, 1) / middle))
        mad = float(np.sort(off)[(len(off) - 1) // 2])
        far = np.flatnonzero(off > max(self.spread * mad, math.log(_FACTOR)))
        which, row = rows.copies(at[far])
        size = chars[far][which]
        detail = [f"{n} characters; the median row has {middle}" for n in size.tolist()]
        told = {"rows": len(row), "median_chars": middle, "factor": round(max(math.exp(self.spread * mad), _FACTOR), 6)}
        return told, finding_rows(self.name, "outlier", row, score=size / middle, num=size, den=middle, detail=detail)

    def _cut(self, at: Any, tokens: Any, kept: Mapping[str, Any], rows: Rows) -> tuple[dict[str, Any], list[pa.Table]]:
        """What is cut off at the context, exact for all rows; and rows that the template refuses."""
        prompt = kept["prompt"].fill_null(-1).to_numpy()
        refused = kept["refused"]
        over = self._over("over_context", at, tokens, tokens > self.context, rows, "tokens")
        lost = self._over(
            "answer_truncated", at, prompt, prompt >= self.context, rows, "tokens before the answer: nothing of it is learned"
        )
        bad = np.flatnonzero(refused.is_valid().to_numpy(zero_copy_only=False))
        which, row = rows.copies(at[bad])
        reasons = refused.take(pa.array(bad)).to_pylist()
        rest = finding_rows(
            self.name, "template_refuses", row, detail=[f"the chat template refuses it: {reasons[i]}" for i in which.tolist()]
        )
        counts = {"over_context": over.num_rows, "answer_truncated": lost.num_rows, "template_refuses": rest.num_rows}
        return {"context": self.context, **counts, "share_over_context": over.num_rows / rows.n}, [over, lost, rest]

    def _over(self, kind: str, at: Any, tokens: Any, mask: Any, rows: Rows, what: str) -> pa.Table:
        lines = np.flatnonzero(mask)
        which, row = rows.copies(at[lines])
        num = tokens[lines][which]
        detail = [f"{n} {what}; the context has {self.context}" for n in num.tolist()]
        return finding_rows(self.name, kind, row, score=num / self.context, num=num, den=self.context, detail=detail)


# --- sums and quantiles ---------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _chars(data: Any, starts: Any, out: Any) -> None:  # pragma: no cover - machine code
    for t in range(len(starts) - 1):
        found = 0
        for i in range(starts[t], starts[t + 1]):
            found += (data[i] & 0xC0) != 0x80
        out[t] = found


def _summed(batch: Batch, sizes: Any) -> Any:
    """The sum over the messages of each row, without what is kept beside them."""
    sums = np.concatenate(([0], np.cumsum(np.where(batch.part == PARTS.index("meta"), 0, sizes[batch.text]), dtype=np.int64)))
    return sums[batch.starts[1:]] - sums[batch.starts[:-1]]


def _drawn(digests: Any, rate: float) -> Any:
    """Rows drawn by their digests: a row is drawn at every higher rate too."""
    return np.ones(len(digests), bool) if rate >= 1 else digests[:, 1] < np.uint64(int(rate * 2.0**64))


def _said(values: Any, *, exact: bool) -> dict[str, Any]:
    """Quantiles (the smallest value that at least this share of rows does not exceed) and the histogram.

    Of a sample with the order statistics that bound each quantile at 95 %; null where the sample is too small for one.
    """
    ordered, n = np.sort(values), len(values)
    told: dict[str, Any] = {"exact": exact}
    for q in _QUANTILES:
        name = f"p{round(100 * q)}"
        told[name] = int(ordered[math.ceil(q * n) - 1]) if n else None
        if not exact and n:
            told[f"{name}_interval"] = [None if rank is None else int(ordered[rank - 1]) for rank in quantile_ranks(n, q, _ALPHA)]
    told["max"] = int(ordered[-1]) if n else None
    told["histogram"] = np.bincount(np.searchsorted(EDGES, ordered, side="right") - 1, minlength=len(EDGES)).tolist()
    return told


def _counted(how: Any) -> dict[str, int]:
    """How distinct rows were counted. ``within``: not in full, they fit. ``differ`` should be 0: then units are exact for this data too."""
    counts = np.bincount(how, minlength=_DIFFERS + 1).tolist()
    return {
        "within": counts[_NOT_COUNTED], "by_units": counts[_UNITS] + counts[_PROVEN] + counts[_DIFFERS],
        "proven": counts[_PROVEN], "differ": counts[_DIFFERS], "whole": counts[_WHOLE],
    }  # fmt: skip


# --- tokens ---------------------------------------------------------------------------------------


_Chat = tuple[tuple[int, ...], Plan | None]  # places of messages in the row; without a plan they are tokenised whole
_Sum = tuple[int, list[int]]  # tokens, and units by their numbers
_Row = tuple[int, list[_Sum]]  # a row, and what the tokens of each of its chats are the sum of


@dataclass(frozen=True, slots=True)
class _Shape:
    """Rows of one sequence of roles and parts: their chats, what comes before the answer, and why the template refuses them.

    ``bytes``: what the template adds to the longest chat; None: no bound is known.
    """

    chats: tuple[_Chat, ...] = ()
    prompt: _Chat | None = None
    bytes: int | None = None
    refused: str | None = None


class _Counting:
    """Tokens of the rows of a batch. Units are collected over all rows and tokenised once each."""

    def __init__(self, check: Lengths, batch: Batch) -> None:
        self.check, self.batch, self.serving = check, batch, serving(str(check.tokenizer))
        self.starts = batch.starts.tolist()
        packed = (batch.role * 8 + batch.part).astype(np.uint8).tobytes()
        self.packed = [packed[a:b] for a, b in pairwise(self.starts)]
        made = {one: self._shape(one) for one in dict.fromkeys(self.packed)}
        self.shapes = [made[one] for one in self.packed]
        self.texts: dict[int, str] = {}
        self.numbers: dict[Any, int] = {}
        self.units: list[str] = []
        self.counts: list[int | None] = []  # of each unit
        self._limits: list[int] = []  # which its count cannot exceed
        self.tokens: list[int | None] = [None] * batch.n
        self.prompt: list[int | None] = [None] * batch.n
        self.how = np.zeros(batch.n, np.int8)
        self.refused = [shape.refused for shape in self.shapes]

    def columns(self) -> Sequence[pa.Array]:
        """Tokens, prompt, how, refused."""
        drawn = _drawn(self.batch.rows, self.check.rate)
        asked = [row for row in np.flatnonzero(drawn | self._maybe_over()).tolist() if self.refused[row] is None]
        self._count(asked, drawn)
        counted = [row for row in asked if self.tokens[row] is not None]
        self._prove([row for row in counted if self.how[row] == _UNITS and self.batch.rows[row, 0] % _PROOF == 0])
        self._count_prompts([row for row in counted if (self.tokens[row] or 0) > self.check.context])
        columns = (self.tokens, pa.int64()), (self.prompt, pa.int64()), (self.how, pa.int8()), (self.refused, pa.string())
        return [pa.array(column, kind) for column, kind in columns]

    def _maybe_over(self) -> Any:
        """Rows that might not fit the context."""
        growth = self.serving.growth
        if growth is None:
            return np.ones(self.batch.n, bool)
        added = np.array([self.check.context + 1 if shape.bytes is None else shape.bytes for shape in self.shapes], np.int64)
        return growth * (_summed(self.batch, np.diff(self.batch.texts.starts)) + added) > self.check.context

    def _shape(self, packed: bytes) -> _Shape:
        chats, before = _chats(packed), _before(packed)
        try:
            plans = [self._plan(packed, places) for places in chats]
        except Refused as error:
            return _Shape(refused=str(error))
        wrapped = sum(map(_asked, packed)) * len(self.check.prompt.encode())
        sizes = [plan.bytes + wrapped for plan in plans if plan is not None]
        prompt = None
        with contextlib.suppress(Refused):
            prompt = (before, self._plan(packed, before, generation=True)) if before else None
        return _Shape(tuple(zip(chats, plans, strict=True)), prompt, max(sizes) if len(sizes) == len(plans) else None)

    def _plan(self, packed: bytes, places: tuple[int, ...], generation: bool = False) -> Plan | None:
        roles = [packed[place] >> 3 for place in places]
        if _plain(roles) and len(roles) < 2:
            return Plan(0, tuple((i,) for i in range(len(roles))), (False,) * len(roles), 0)
        if self.check.whole or _plain(roles) or _tools(packed) is not None:
            return None
        return self.serving.plan(tuple(ROLES[role] for role in roles), generation=generation)

    def _text(self, row: int, place: int) -> str:
        """A message as the server puts it."""
        number = int(self.batch.text[self.starts[row] + place])
        found = self.texts.get(number)
        if found is None:
            found = self.texts[number] = self.batch.texts.str(number)
        return self.check.prompt.replace("{input}", found) if _asked(self.packed[row][place]) else found

    def _count(self, asked: Sequence[int], drawn: Any) -> None:
        """Collects the units of all rows, tokenises each at most once, and adds them up. A row has tokens if it was drawn or is cut off."""
        listed = []
        for row in asked:
            try:
                listed.append((row, [self._sum(row, chat) for chat in self.shapes[row].chats]))
            except Refused as error:
                self.refused[row] = str(error)
        if self.serving.growth is not None:
            listed = self._undecided(listed, drawn)
        self._tokenise(unit for _, sums in listed for _, units in sums for unit in units)
        for row, sums in listed:
            tokens = max(self._total(one) for one in sums)
            if drawn[row] or tokens > self.check.context:
                self.tokens[row] = tokens
                self.how[row] = _WHOLE if any(plan is None for _, plan in self.shapes[row].chats) else _UNITS

    def _undecided(self, listed: list[_Row], drawn: Any) -> list[_Row]:
        """Rows that were drawn, or might be cut off even when some units are known: first those of the most rows are tokenised,
        as many as would settle it if they had one token in two bytes."""
        wanted, maybe = [one for one in listed if drawn[one[0]]], [one for one in listed if not drawn[one[0]]]
        self._tokenise(unit for _, sums in wanted for _, units in sums for unit in units)
        uses = Counter(unit for _, sums in maybe for _, units in sums for unit in units)
        some = set()
        for _, sums in maybe:
            for one in sums:
                most = self._most(one)
                for unit in sorted(one[1], key=lambda unit: (-uses[unit], unit)):
                    if most <= self.check.context:
                        break
                    if self.counts[unit] is None:
                        some.add(unit)
                        most -= self._limits[unit] - self._limits[unit] // 2
        self._tokenise(some)
        return wanted + [(row, sums) for row, sums in maybe if max(map(self._most, sums)) > self.check.context]

    def _count_prompts(self, asked: Sequence[int]) -> None:
        """Tokens of all that comes before the answer."""
        listed = []
        for row in asked:
            chat = self.shapes[row].prompt
            with contextlib.suppress(Refused):
                listed += [(row, self._sum(row, chat, generation=True))] if chat else []
        self._tokenise(unit for _, (_, units) in listed for unit in units)
        for row, one in listed:
            self.prompt[row] = self._total(one)

    def _tokenise(self, units: Iterable[int]) -> None:
        """Tokenises units that were not."""
        new = [unit for unit in dict.fromkeys(units) if self.counts[unit] is None]
        for unit, count in zip(new, self.serving.counts([self.units[unit] for unit in new]), strict=True):
            self.counts[unit] = count

    def _total(self, one: _Sum) -> int:
        return one[0] + sum(count for unit in one[1] if (count := self.counts[unit]) is not None)

    def _most(self, one: _Sum) -> int:
        """At most so many tokens, from what is known."""
        return one[0] + sum(self._limits[unit] if (count := self.counts[unit]) is None else count for unit in one[1])

    def _sum(self, row: int, chat: _Chat, generation: bool = False) -> _Sum:
        """What a chat's tokens are the sum of. Raises Refused."""
        places, plan = chat
        if plan is None:
            return 0, [self._new(self._whole(row, places, generation))]
        text, start = self.batch.text, self.starts[row]
        found = []
        for place, unit in enumerate(plan.units):
            key = (id(plan), place, *(int(text[start + places[piece]]) for piece in unit if isinstance(piece, int)))
            number = self.numbers.get(key)
            if number is None:
                number = self.numbers[key] = self._new(plan.fill(place, lambda piece: self._text(row, places[piece])))
            found.append(number)
        return plan.fixed, found

    def _new(self, unit: str) -> int:
        self.units.append(unit)
        self.counts.append(None)
        self._limits.append((self.serving.growth or 1) * len(unit if unit.isascii() else unit.encode("utf-8", "surrogatepass")) + 2)
        return len(self.units) - 1

    def _whole(self, row: int, places: Sequence[int], generation: bool = False) -> str:
        """A chat of a row, rendered."""
        packed = self.packed[row]
        if _plain([packed[place] >> 3 for place in places]):
            return "\n".join(self._text(row, place) for place in places)
        messages = [{"role": ROLES[packed[place] >> 3], "content": self._text(row, place)} for place in places]
        tools = _tools(packed)
        return self.serving.render(messages, generation=generation, tools=None if tools is None else _definitions(self._text(row, tools)))

    def _prove(self, asked: Sequence[int]) -> None:
        """Tokenises rows whole that were counted by units; where that differs, the whole is what counts."""
        for row in asked:
            try:
                whole = max(self.serving.counts([self._whole(row, places) for places in _chats(self.packed[row])]))
            except Refused as error:
                self.tokens[row], self.how[row], self.refused[row] = None, _NOT_COUNTED, str(error)
                continue
            self.how[row] = _PROVEN if whole == self.tokens[row] else _DIFFERS
            self.tokens[row] = whole


def _chats(packed: bytes) -> list[tuple[int, ...]]:
    """The places of the messages of each chat of a row: what is learned, and what is learned as the worse."""
    parts = [code & 7 for code in packed]
    wanted = [answer for answer in (_ANSWER, _REJECTED) if answer in parts] or [_ANSWER]
    return [tuple(place for place, part in enumerate(parts) if part in (_PROMPT, answer)) for answer in wanted]


def _asked(code: int) -> bool:
    return code == (_USER << 3 | _PROMPT)


def _before(packed: bytes) -> tuple[int, ...]:
    """The places of what is read before the answer."""
    parts = [code & 7 for code in packed]
    return tuple(place for place in range(parts.index(_ANSWER)) if parts[place] == _PROMPT) if _ANSWER in parts else ()


def _plain(roles: Sequence[int]) -> bool:
    """Whether it is text, no chat."""
    return all(role == _OTHER for role in roles)


def _tools(packed: bytes) -> int | None:
    return next((place for place, code in enumerate(packed) if code & 7 == _TOOLS), None)


def _definitions(text: str) -> Any:
    """Tool definitions as the template wants them: parsed, if they can be."""
    import orjson

    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
