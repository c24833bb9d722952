"""Near duplicates, exactly: conversations that share so much of what they say that one of them is enough.

Definitions, all in integers:

* A *unit* is a distinct canonical conversation (``duplicates``): what is the same but for form is that check's.
* A *shingle* of a text is a window of k canonical words (``text.shingles``); a shorter text is its own.
* df(s) is the number of (unit, distinct canonical text of it) whose text holds s. Shingles with df(s) > ``common``, and
  texts that more than ``common`` units hold, are *template*: the prompt that 300,000 rows share says nothing of any two
  of them. Template is counted, and told of.
* W(u) is the union of the shingles of u's texts, but for texts that are template as a whole; S(u) is W(u) without
  template shingles: its own.
* The similarity of two units is the smaller of the Jaccard similarities of S and of W. They are near duplicates when it
  is at least the threshold num / den: |A and B| * den >= num * |A or B| for both. A unit whose S is empty is like none.

S alone would not do: of a form that thousands of rows fill in, one number may be all that is rare, and rows that share it would pass
for copies. W alone would make every row with the same form a copy of every other.

Every pair is found (``join``). Clusters are the connected components of the pairs. In a long enough chain of small
edits the ends have nothing in common: the least similarity of two members is told, and what is to go is found by a
rule that no chain can turn against the data: in order of the rows, a unit goes only if an earlier unit that stays is
its near duplicate. So each finding names a partner that stays, and the exact similarity with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numba import njit

from harness.audit import join, text, threads, vocabulary
from harness.audit.duplicates import canonical_facts, canonical_of, conversations, spoken
from harness.audit.join import Sets
from harness.audit.keys import dense
from harness.audit.model import Batch, Group, Report, Rows, Texts, finding_rows, in_turn
from harness.errors import AuditError

__all__ = ["Near", "among"]

_BUDGET = 2_000_000_000  # shingles compared to find the least similarity inside clusters: seconds
_LARGEST = 20  # clusters told of one by one


@dataclass(frozen=True)
class Near:
    """Near duplicates: every finding is a unit that can go, its partner one that stays, num / den their similarity.

    ``k``: words in a shingle. ``threshold``: a fraction or a decimal, as a string. ``common``: shingles in more texts of units
    than that are template. ``parts``: into how many pieces the join is shuffled; the result is the same for any number.
    Raises AuditError on options that cannot be.
    """

    k: int = 3
    threshold: str = "4/5"
    common: int = 1000
    parts: int = 1
    name: str = "near"
    key: Literal["row", "text"] = "text"

    def __post_init__(self) -> None:
        if self.k < 1 or self.common < 1 or self.parts < 1:
            raise AuditError(f"near duplicates with k={self.k}, common={self.common}, parts={self.parts}; expected at least 1 of each")
        join.checked(*self.fraction)

    @property
    def options(self) -> Mapping[str, Any]:
        return {"k": self.k}

    @property
    def fraction(self) -> tuple[int, int]:
        """The threshold as numerator and denominator."""
        try:
            return Fraction(self.threshold).as_integer_ratio()
        except (ValueError, ZeroDivisionError):
            raise AuditError(f"near duplicates at threshold {self.threshold!r}; expected a fraction or a decimal: 4/5, 0.8") from None

    def partial(self, batch: Batch) -> pa.Table:
        """Of each text its canonical digest and its distinct shingles, ascending."""
        flat, starts = text.shingles(batch.words, self.k)
        lists = pa.LargeListArray.from_arrays(pa.array(starts), pa.array(flat))
        return canonical_facts(batch).append_column("shingles", lists)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        num, den = self.fraction
        units = _units(facts, rows)
        sets, lost, template = _sets(units, self.common, group.kept)
        label = self._clusters(sets, group)
        sizes = np.bincount(label, minlength=len(label))
        members = np.flatnonzero(sizes[label] > 1)
        leader = _leaders(sets, num, den, label, members)
        gone = np.flatnonzero(leader >= 0)
        shared, union = join.similarities(sets, gone, leader[gone])
        partner = units.row[leader[gone]]
        findings = finding_rows(self.name, "near", units.row[gone], partner=partner, num=shared, den=union, score=shared / union)
        clusters = _described(sets, label, members, units.row, leader, Fraction(num, den))
        summary = {
            "rows": rows.n, "units": len(units), "without_messages": units.silent, "threshold": f"{num}/{den}", "k": self.k,
            "findings": len(gone), **clusters, "template": {"common": self.common, **template, **_lost(lost, sets.sizes)},
        }  # fmt: skip
        return Report(findings, summary)

    def _clusters(self, sets: Sets, group: Group) -> Any:
        num, den = self.fraction
        if self.parts == 1:
            return join.clusters(sets, num, den, threads=threads.count())
        which, part = join.shuffled(sets, num, den, self.parts)
        taken = sets.taken(which)
        lists = pa.LargeListArray.from_arrays(pa.array(taken.starts), pa.array(taken.tokens))
        table = pa.table({"unit": which, "size": taken.sizes, "set": lists, "part": part})
        edges = (
            group(partial(_edges, num=num, den=den, parts=self.parts, cut=sets.cut), table, "part") if len(table) else _edge_table([], [])
        )
        return join.components(len(sets), edges.column("left").to_numpy(), edges.column("right").to_numpy())


def among(documents: Sequence[str], *, k: int = 3, threshold: str = "4/5") -> Any:
    """In memory, of documents alone: int64[n], for each -1 if it stays, else the earlier one that stays and is its near duplicate.

    As the check, but nothing is template. Raises AuditError on options that cannot be.
    """
    check = Near(k, threshold, common=max(1, len(documents)))
    raw = [document.encode("utf-8", "surrogatepass") for document in documents]
    starts = np.concatenate(([0], np.cumsum([len(document) for document in raw]))).astype(np.int64)
    words = text.words(Texts(np.frombuffer(b"".join(raw), np.uint8), starts))
    flat, ends = text.shingles(words, k)
    n = len(raw)
    units = _Units(np.arange(n), np.arange(n + 1), np.arange(n, dtype=np.int32), text.digests(words), flat, ends[:-1], ends[1:], 0)
    sets, _, _ = _sets(units, check.common, None)
    label = check._clusters(sets, in_turn)
    members = np.flatnonzero(np.bincount(label, minlength=n)[label] > 1)
    return _leaders(sets, *check.fraction, label, members)


def _edges(table: pa.Table, num: int, den: int, parts: int, cut: int) -> pa.Table:
    """What one part of the join connects."""
    table = table.sort_by("unit").combine_chunks()  # an engine may bring the lines in any order
    unit = table.column("unit").to_numpy()
    lists = table.column("set").chunk(0)
    starts = lists.offsets.to_numpy()
    tokens = lists.values.to_numpy()[starts[0] : starts[-1]]
    sets = Sets(tokens, starts - starts[0], table.column("size").to_numpy(), cut)
    left, right = join.spanning(sets, num, den, part=table.column("part")[0].as_py(), parts=parts)
    return _edge_table(unit[left], unit[right])


def _edge_table(left: Any, right: Any) -> pa.Table:
    return pa.table({"left": pa.array(left, pa.int64()), "right": pa.array(right, pa.int64())})


# --- units ----------------------------------------------------------------------------------------


class _Units(NamedTuple):
    """Distinct canonical conversations in order of their first rows, the distinct canonical texts of each, and their shingles."""

    row: Any  # int64[n]: the first physical row of each
    starts: Any  # int64[n + 1]
    texts: Any  # int32: the texts of unit i are texts[starts[i]:starts[i + 1]]
    keys: Any  # (t, 2) uint64: the canonical digest of each text
    flat: Any  # uint64: the shingles of all facts, those of text i being flat[begin[i]:end[i]]
    begin: Any
    end: Any
    silent: int  # rows without a message

    def __len__(self) -> int:
        return len(self.row)


def _units(facts: pa.Table, rows: Rows) -> _Units:
    kept = spoken(rows)
    fact: Any = np.full(rows.t, -1, np.int64)
    fact[facts.column("text").to_numpy()] = np.arange(len(facts))
    if (fact[rows.text[kept]] < 0).any():
        raise AuditError(f"facts of {len(facts)} texts for a dataset of {rows.t}: some are missing; audit again without the cache")
    digests = canonical_of(facts, rows)
    says = np.bincount(rows.row_of[kept], minlength=rows.u) > 0
    held = np.flatnonzero(says)
    _, first = dense(conversations(rows, digests, kept)[held])
    of_first: Any = np.full(rows.u, -1, np.int64)
    of_first[held[first]] = np.arange(len(first))
    message = np.flatnonzero(kept & (of_first[rows.row_of] >= 0))
    canonical, example = dense(digests[rows.text[message]])
    pair = np.sort(of_first[rows.row_of[message]] * (len(example) + 1) + canonical)
    pair = pair[np.concatenate((np.ones(min(1, len(pair)), bool), pair[1:] != pair[:-1]))]
    unit, texts = np.divmod(pair, len(example) + 1)
    (lists,) = facts.column("shingles").chunks  # numbered facts are in one piece
    of_text = fact[rows.text[message[example]]]
    begin = lists.offsets.to_numpy()[of_text]
    return _Units(
        rows.first[held[first]],
        np.concatenate(([0], np.cumsum(np.bincount(unit, minlength=len(first))))).astype(np.int64),
        texts.astype(np.int32),
        digests[rows.text[message[example]]],
        lists.values.to_numpy(),
        begin,
        begin + lists.sizes.to_numpy()[of_text],
        int((~says[rows.unique]).sum()),
    )


# --- sets -----------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _by_rank(
    ids: Any, begin: Any, end: Any, whole: Any, rank: Any, cut: int, place: Any, ranks: Any, counts: Any
) -> None:  # pragma: no cover - machine code
    """The ranks of each text, ascending, from ``place[t]`` on. In ``counts``: how many, how many in no other text, how many template."""
    for t in range(len(begin)):
        alone, template, last, ordered = np.int64(0), np.int64(0), np.int64(-1), True
        at = place[t]
        for i in range(begin[t], end[t]):
            own = np.int64(rank[ids[i]])
            if own < 0:
                alone += 1
                continue
            template += own >= cut
            if not whole[t]:
                ranks[at] = own
                ordered &= own > last
                last = own
                at += 1
        if not ordered:
            ranks[place[t] : at].sort()
        counts[t, 0], counts[t, 1], counts[t, 2] = at - place[t], alone, template


class _Ranked(NamedTuple):
    """What each text holds but for what is template as a whole: shared shingles as ranks from rare to common, and a count of the others."""

    ranks: Any  # int32
    place: Any  # int64[t]: those of text i start here
    counts: Any  # int64[t, 3]: how many; how many shingles of one text of one unit; how many template ones
    cut: int  # from this rank on they are template
    shingles: int  # distinct ones
    template: int  # of these


def _ranked(units: _Units, weight: Any, common: int, kept: Path | None) -> _Ranked:
    made = vocabulary.numbered(vocabulary.Spoken(units.keys, weight, units.flat, units.begin, units.end), kept)
    own, template = (made.df > 1) & (made.df <= common), np.flatnonzero(made.df > common)
    new: Any = np.flatnonzero(own[made.known :]) + made.known
    order = np.concatenate((new, np.flatnonzero(own[: made.known]), template))  # what is new is rare, most often
    cut = len(order) - len(template)
    rank: Any = np.full(len(made.df), -1, np.int32)
    rank[order] = np.arange(len(order))
    lengths = made.end - made.begin
    place = np.concatenate(([0], np.cumsum(lengths)))
    ranks: Any = np.empty(int(place[-1]), np.int32)
    counts: Any = np.empty((len(lengths), 3), np.int64)
    jobs = threads.count()
    texts = threads.shares(place, jobs)

    def take(job: int) -> None:
        mine = texts[job]
        _by_rank(made.ids, made.begin[mine], made.end[mine], weight[mine] > common, rank, cut, place[:-1][mine], ranks, counts[mine])

    threads.each(take, jobs)
    return _Ranked(ranks, place[:-1], counts, cut, int((made.df > 0).sum()), len(template))


_LISTS = 8  # texts of a unit up to which their lists are merged one after the other


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _merged(out: Any, begin: int, at: int, ranks: Any, place: int, n: int) -> None:  # pragma: no cover - machine code
    """Two ascending lists as one, in ``out`` from ``begin`` on: from behind, so that nothing is overwritten that is yet to be read."""
    i, j, to = at - 1, place + n - 1, at + n - 1
    while j >= place:
        if i >= begin and out[i] > ranks[j]:
            out[to] = out[i]
            i -= 1
        else:
            out[to] = ranks[j]
            j -= 1
        to -= 1


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _united(
    starts: Any, texts: Any, ranks: Any, place: Any, counts: Any, cut: int, room: Any, out: Any, lengths: Any, sizes: Any
) -> None:  # pragma: no cover - machine code
    """The union of the texts of each unit, ascending, from ``room[u]`` on; how many, and how many of all are no template."""
    for u in range(len(starts) - 1):
        begin, alone, lists = room[u], 0, 0
        at = begin
        for i in range(starts[u], starts[u + 1]):
            t = texts[i]
            n = counts[t, 0]
            if 0 < lists < _LISTS:
                _merged(out, begin, at, ranks, place[t], n)
            else:
                out[at : at + n] = ranks[place[t] : place[t] + n]
            at += n
            lists += n > 0
            alone += counts[t, 1]
        if lists > _LISTS:
            out[begin:at].sort()
        if lists > 1:
            kept = begin
            for i in range(begin, at):
                if i == begin or out[i] != out[kept - 1]:
                    out[kept] = out[i]
                    kept += 1
            at = kept
        lengths[u] = at - begin
        sizes[u] = np.searchsorted(out[begin:at], cut) + alone


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _closed(out: Any, room: Any, starts: Any) -> None:  # pragma: no cover - machine code
    """Lists with room behind each, end to end."""
    for u in range(len(starts) - 1):
        if room[u] > starts[u]:
            for i in range(starts[u + 1] - starts[u]):
                out[starts[u] + i] = out[room[u] + i]


def _sets(units: _Units, common: int, kept: Path | None) -> tuple[Sets, Any, dict[str, int]]:
    """W(u) of each unit; how many shingles of its texts were template, and how many there were; and totals of that."""
    weight = np.bincount(units.texts, minlength=len(units.begin))
    ranked = _ranked(units, weight, common, kept)
    room = np.concatenate(([0], np.cumsum(ranked.counts[:, 0][units.texts])))[units.starts]
    n, jobs = len(units), threads.count()
    out: Any = np.empty(int(room[-1]), np.int32)
    listed: Any = np.empty(n, np.int64)
    sizes: Any = np.empty(n, np.int64)
    shares = threads.shares(room, jobs)

    def unite(job: int) -> None:
        mine = shares[job]
        inner = slice(mine.start, mine.stop + 1)
        _united(units.starts[inner], units.texts, *ranked[:4], room[inner], out, listed[mine], sizes[mine])

    threads.each(unite, jobs)
    starts = np.concatenate(([0], np.cumsum(listed)))
    _closed(out, room, starts)  # texts of one unit share shingles
    per_text = np.stack((ranked.counts[:, 2], units.end - units.begin), 1)[units.texts]
    lost = np.diff(np.concatenate((np.zeros((1, 2), np.int64), np.cumsum(per_text, axis=0)))[units.starts], axis=0)
    totals = {
        "texts": int((weight > common).sum()), "shingles": ranked.template, "of_shingles": ranked.shingles,
        "occurrences": int(lost[:, 0].sum()), "of_occurrences": int(lost[:, 1].sum()),
    }  # fmt: skip
    return Sets(out[: starts[-1]], starts, sizes, ranked.cut), lost, totals


def _lost(lost: Any, sizes: Any) -> dict[str, int]:
    """What template leaves of the units."""
    template, whole = lost.T
    return {
        "units_without_words": int((whole == 0).sum()),
        "units_left_with_nothing": int(((whole > 0) & (sizes == 0)).sum()),
        "units_that_lost_four_fifths": int(((whole > 0) & (5 * template >= 4 * whole)).sum()),
    }


# --- clusters -------------------------------------------------------------------------------------


def _leaders(sets: Sets, num: int, den: int, label: Any, members: Any) -> Any:
    """``join.leaders``, the clusters dealt out to threads."""
    jobs = threads.count()
    own = [members[label[members] % jobs == job] for job in range(jobs)]
    made = threads.each(lambda job: join.leaders(sets, num, den, label, own[job]), jobs)
    return np.maximum.reduce(made)  # where a set is another thread's it is -1


def _described(sets: Sets, label: Any, members: Any, row: Any, leader: Any, threshold: Fraction) -> dict[str, Any]:
    """Clusters, counted and told of: the largest with first rows, sizes, and the least similarity of two members."""
    members = members[np.argsort(label[members], kind="stable")]
    names, first, sizes = np.unique(label[members], return_index=True, return_counts=True)
    ends: Any = np.append(first, len(members))
    tokens = np.concatenate(([0], np.cumsum(np.diff(sets.starts)[members])))
    cost = (sizes - 1) * np.diff(tokens[ends])  # every member is read once with each other
    cheap = np.argsort(cost, kind="stable")
    cheap = np.sort(cheap[np.cumsum(cost[cheap]) <= _BUDGET])
    nums, dens = _least(sets, members, ends, cheap, cost)
    chain = nums * threshold.denominator < threshold.numerator * dens
    known = {int(c): (int(a), int(b), bool(d)) for c, a, b, d in zip(cheap, nums, dens, chain, strict=True)}
    stay = np.add.reduceat(leader[members] < 0, first) if len(first) else first
    told = []
    for c in np.argsort(-sizes, kind="stable")[:_LARGEST].tolist():
        a, b, is_chain = known.get(c, (None, None, None))
        why = (
            {} if a is not None else {"why": f"comparing all pairs would read {cost[c]} shingles; the limit for all clusters is {_BUDGET}"}
        )
        least = None if a is None else f"{a}/{b}"
        told.append({"row": int(row[names[c]]), "size": int(sizes[c]), "stay": int(stay[c]), "least": least, "chain": is_chain, **why})
    return {
        "clusters": len(names), "in_clusters": len(members), "sizes": _histogram(sizes), "largest": told,
        "chains": int(chain.sum()), "least_unknown": len(names) - len(cheap),
    }  # fmt: skip


def _least(sets: Sets, members: Any, ends: Any, which: Any, cost: Any) -> tuple[Any, Any]:
    """``join.least`` of some clusters, dealt out to threads in turn of their cost."""
    jobs, turn = threads.count(), np.argsort(cost[which], kind="stable")
    nums: Any = np.ones(len(which), np.int64)
    dens: Any = np.ones(len(which), np.int64)

    def work(job: int) -> None:
        mine = np.sort(turn[job::jobs])
        sizes = np.diff(ends)[which[mine]]
        inner = np.concatenate(([0], np.cumsum(sizes)))
        inside = np.arange(inner[-1]) + np.repeat(ends[which[mine]] - inner[:-1], sizes)
        nums[mine], dens[mine] = join.least(sets, members[inside], inner)

    threads.each(work, jobs)
    return nums, dens


def _histogram(sizes: Any) -> dict[str, int]:
    """How many clusters there are of each size, by powers of two: {"2-3": 5, "4-7": 1, ...}."""
    powers = np.bincount(np.log2(np.maximum(sizes, 1)).astype(np.int64))
    return {f"{1 << p}-{(2 << p) - 1}": int(count) for p, count in enumerate(powers) if count}
