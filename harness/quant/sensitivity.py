"""What suffers most from quantization: the block of the model, and the slice of the task. Named, then reproduced.

Whoever names the worst of thirty on the same data that show it names noise. So the units (documents, items) are
halved by the hash of their names: one half names, the other half decides one claim about what was named. The
naming has not seen what decides, so that no correction for the thirty is needed: P(a false name is confirmed)
<= alpha, whatever the dependence between blocks or slices.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from harness.engines.gguf_header import Header
from harness.errors import SubjectError
from harness.golden import GoldenSet
from harness.types import Sample

__all__ = [
    "block_count", "dominance", "excess", "exchanged", "halves", "layer_table", "losses", "slices", "worst_layer", "worst_slice",
]  # fmt: skip

Table = Mapping[int, Mapping[str, float]]  # block -> document -> mean KL in nats
_FLOOR = 1e-9  # nats: below it a divergence is rounding, and has no logarithm worth the name
_LEAST = 30  # items of a half inside and outside a slice: with fewer Student's t is not asked


def halves(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(discovery, confirmation): every second name in the order of the SHA-256 of "half:NAME"."""
    ordered = sorted(set(names), key=lambda name: hashlib.sha256(f"half:{name}".encode("utf-8", "surrogatepass")).digest())
    return ordered[::2], ordered[1::2]


# --- blocks -------------------------------------------------------------------------------------


def block_count(header: Header) -> int:
    """How many blocks the model has; SubjectError if the header does not say."""
    count = header.metadata.get(f"{header.metadata.get('general.architecture')}.block_count")
    if not isinstance(count, int) or count < 1:
        raise SubjectError(f"{header.path}: block_count = {count!r}, expected the number of blocks")
    return count


def layer_table(rows_of: Callable[[int], Sequence[Mapping[str, Any]]], blocks: int) -> dict[int, dict[str, float]]:
    """``rows_of(i)``: the rows of ``fidelity.compare`` with block i alone quantized. Kept: the mean KL of each document.

    Raises SubjectError unless there are two blocks, measured on the same documents.
    """
    table = {i: {row["id"]: float(row["kld_mean"]) for row in rows_of(i)} for i in range(blocks)}
    if blocks < 2 or not table[0] or any(kept.keys() != table[0].keys() for kept in table.values()):
        raise SubjectError(
            f"{blocks} blocks, read on {sorted({len(kept) for kept in table.values()})} documents; expected two, on the same"
        )
    return table


def worst_layer(table: Table, documents: Collection[str]) -> int:
    """The block with the highest mean logarithm of the KL over ``documents``: the highest geometric mean."""
    return max(sorted(table), key=lambda i: math.fsum(_log(table[i][name]) for name in documents))


def dominance(table: Table, layer: int, documents: Iterable[str]) -> tuple[Sample, ...]:
    """Per document 1 where the KL of ``layer`` exceeds the largest KL of all others: in more than half of them, no block is worse.

    A share, so that no shape of the divergences matters. Conservative: of two blocks that are alike neither wins half.
    """
    rest = [i for i in table if i != layer]

    def row(name: str) -> Sample:
        rival = max(rest, key=lambda i: table[i][name])
        ours, theirs = table[layer][name], table[rival][name]
        return Sample(name, float(ours > theirs), detail={"layer": layer, "kld": ours, "rival": rival, "rival_kld": theirs})

    return tuple(map(row, documents))


def exchanged(table: Table, seed: str) -> dict[int, dict[str, float]]:
    """The table with the blocks of each document dealt anew, by SHA-256: none is worse than another any more."""
    blocks = sorted(table)
    dealt: dict[int, dict[str, float]] = {i: {} for i in blocks}
    for name in table[blocks[0]]:
        order = sorted(blocks, key=lambda i: hashlib.sha256(f"{seed}:{name}:{i}".encode("utf-8", "surrogatepass")).digest())
        for i, source in zip(blocks, order, strict=True):
            dealt[i][name] = table[source][name]
    return dealt


def _log(kld: float) -> float:
    return math.log(max(kld, _FLOOR))


# --- slices -------------------------------------------------------------------------------------


def slices(golden: GoldenSet) -> dict[str, frozenset[str]]:
    """The natural parts of a golden set: items with a field, with many or few fields, and a quarter of the lengths each."""
    found: dict[str, set[str]] = {}
    lengths = sorted(golden.items, key=lambda item: (len(_text(item)), item["id"]))
    for rank, item in enumerate(lengths):
        found.setdefault(f"length {4 * rank // len(lengths) + 1} of 4", set()).add(item["id"])
    if golden.kind == "json_extraction":
        sizes = sorted(len(item["target"]) for item in golden.items)
        middle = sizes[len(sizes) // 2]
        for item in golden.items:
            found.setdefault(f"{'more than' if len(item['target']) > middle else 'up to'} {middle} fields", set()).add(item["id"])
            for field in item["target"]:
                found.setdefault(f"with {field}", set()).add(item["id"])
    return {name: frozenset(items) for name, items in sorted(found.items())}


def _text(item: Mapping[str, Any]) -> str:
    return str(next((item[field] for field in ("input", "question", "prompt", "text") if field in item), ""))


def losses(pairs: Iterable[Sample]) -> dict[str, float]:
    """Old score minus new score of each item; an answer that could not be scored is worth nothing."""
    scores: dict[str, dict[str, float]] = {}
    for s in pairs:
        scores.setdefault(s.item, {})[s.arm] = s.value or 0.0
    return {item: arms["old"] - arms["new"] for item, arms in scores.items()}


def worst_slice(lost: Mapping[str, float], parts: Mapping[str, Collection[str]], items: Sequence[str], others: Sequence[str]) -> str:
    """The slice that loses most beyond the rest of ``items``, in standard errors: small slices swing.

    Asked are the slices with 30 items inside and outside, here and among ``others``, on whom it is to be
    reproduced; where there is none, the one that comes closest. SubjectError without any slice.
    """

    def units(name: str) -> int:
        inside = [sum(i in parts[name] for i in half) for half in (items, others)]
        return min(min(k, len(half) - k) for k, half in zip(inside, (items, others), strict=True))

    if not parts:
        raise SubjectError("the golden set has no slices: one of them cannot be the worst")
    known = [name for name in sorted(parts) if units(name) >= _LEAST] or [max(sorted(parts), key=units)]
    return max(known, key=lambda name: _excess_in_errors(lost, parts[name], items))


def _excess_in_errors(lost: Mapping[str, float], part: Collection[str], items: Sequence[str]) -> float:
    inside, outside = ([lost[i] for i in items if (i in part) == wanted] for wanted in (True, False))
    if min(len(inside), len(outside)) < 2:
        return 0.0
    (mean_in, var_in), (mean_out, var_out) = _moments(inside), _moments(outside)
    error = math.sqrt(var_in / len(inside) + var_out / len(outside))
    return (mean_in - mean_out) / error if error else 0.0


def _moments(values: Sequence[float]) -> tuple[float, float]:
    mean = _mean(values)
    return mean, math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)


def excess(lost: Mapping[str, float], part: Collection[str], items: Sequence[str]) -> tuple[Sample, ...]:
    """How much more the slice loses than the rest: one difference, from -2 to 2, for each item of the smaller of both.

    Slice and rest are each dealt into so many equal hands, in the order of the hashes; a unit is the mean
    loss of a hand from within minus that of one from without. All items count, the units are independent,
    and their range is known, so that an exact rule for bounded means can decide.
    """
    inside, outside = ([i for i in items if (i in part) == wanted] for wanted in (True, False))
    units = min(len(inside), len(outside))
    if not units:
        raise SubjectError(f"{len(inside)} of {len(items)} items are in the slice; expected some in it and some not")

    def row(k: int) -> Sample:
        within, without = inside[k::units], outside[k::units]
        value = _mean(lost[i] for i in within) - _mean(lost[i] for i in without)
        return Sample(f"{within[0]}|{without[0]}", value, detail={"slice": within, "rest": without})

    return tuple(map(row, range(units)))


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return math.fsum(known) / len(known)
