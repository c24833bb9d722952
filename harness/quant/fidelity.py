"""How far a build's next-token distributions moved: KL divergence, top-1 flips, perplexity ratio.

The unit is the document, never the token. The reference is read from a file that was recorded once
(harness.quant.logprob_file); the full distributions (tokens x vocabulary) of one document at a time
are in memory, the build's only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.engines import token_digest
from harness.errors import EngineError
from harness.progress import Progress
from harness.quant.logprob_file import Kept, Reader, distributions
from harness.types import Engine, Sample, Scored

__all__ = ["compare", "kld_samples", "log_ratio_samples", "tail_samples", "top1_samples"]


def compare(new: Engine, reference: Reader, texts: Sequence[Scored], progress: Progress) -> list[dict[str, Any]]:
    """One row per document: tokens, mean and maximum KL(reference || new) in nats, top-1 flips, both NLLs.

    ``by_position`` holds the sums of KL and the positions added up, over the positions 1, 2-3, 4-7
    and so on by powers of two. Texts may be some of those recorded, in any order.

    Raises EngineError where ``new`` tokenizes a text differently or its numbers are not finite,
    StoreError where the file is damaged or lacks a text.
    """
    rows = []
    for done, text in enumerate(texts):
        progress("distributions", done, len(texts))
        kept = reference.text(text.id)
        ours, whole = distributions(new, text)
        if token_digest(ours.tokens[0]) != kept.token_digest:
            raise EngineError(f"document {text.id}: the two subjects tokenize it differently; their distributions cannot be compared")
        rows.append(_row(kept, whole, ours.logprobs[0]))
    progress("distributions", len(texts), len(texts))
    return rows


def _row(old: Kept, new: Any, new_scored: Sequence[float]) -> dict[str, Any]:
    import numpy as np

    kld = old.klds(new)
    flips = np.argmax(new, axis=-1) != old.likeliest
    # Rounding alone can push a divergence below zero: counted, and clipped where it is used.
    above = np.maximum(kld, 0)
    return {
        "id": old.id,
        "tokens": len(kld),
        "negative": int((kld < 0).sum()),
        "kld_mean": float(above.mean()),
        "kld_max": float(kld.max()),
        "kld_max_at": int(kld.argmax()),
        "flips": int(flips.sum()),
        "nll_new": -float(np.sum(new_scored, dtype=np.float64)),
        "nll_old": -float(np.sum(old.scored, dtype=np.float64)),
        "by_position": _by_position(above),
    }


def _by_position(kld: Any) -> dict[str, list[float]]:
    import numpy as np

    octave = np.frexp(np.arange(1, len(kld) + 1))[1] - 1  # floor of log2, exactly
    return {"sum": np.bincount(octave, weights=kld).tolist(), "n": np.bincount(octave).tolist()}


def kld_samples(rows: Sequence[Mapping[str, Any]], cap: float) -> tuple[Sample, ...]:
    """Document means of the divergence, clipped at ``cap`` (what lies above is the tail leg's matter)."""
    return tuple(Sample(r["id"], min(r["kld_mean"], cap), weight=float(r["tokens"]), detail=dict(r)) for r in rows)


def tail_samples(rows: Sequence[Mapping[str, Any]], above: float) -> tuple[Sample, ...]:
    """1 for each document whose mean divergence exceeds ``above``."""
    return tuple(Sample(r["id"], float(r["kld_mean"] > above), detail={"kld_mean": r["kld_mean"]}) for r in rows)


def top1_samples(rows: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    """Per document, the share of positions where the most likely token changed."""
    return tuple(Sample(r["id"], r["flips"] / r["tokens"], weight=float(r["tokens"])) for r in rows)


def log_ratio_samples(rows: Sequence[Mapping[str, Any]]) -> tuple[Sample, ...]:
    """Per document, the difference of summed NLL (value) and its tokens (weight): ln of a perplexity ratio."""
    return tuple(Sample(r["id"], r["nll_new"] - r["nll_old"], weight=float(r["tokens"])) for r in rows)
