"""How far a build's next-token distributions moved: KL divergence, top-1 flips, perplexity ratio.

The unit is the document, never the token. Two engines read each document in lockstep, so the
full distributions (tokens x vocabulary) of one document at a time are in memory, not of a corpus.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.errors import EngineError
from harness.progress import Progress
from harness.types import Engine, Sample, Scored

__all__ = ["compare", "kld_samples", "log_ratio_samples", "tail_samples", "top1_samples"]


def compare(new: Engine, old: Engine, texts: Sequence[Scored], progress: Progress) -> list[dict[str, Any]]:
    """One row per document: tokens, mean and maximum KL(old || new) in nats, top-1 flips, both NLLs."""
    rows = []
    for done, text in enumerate(texts):
        progress("distributions", done, len(texts))
        ours, theirs = new.logprobs([text])[0], old.logprobs([text])[0]
        if ours.tokens != theirs.tokens:
            raise EngineError(f"document {text.id}: the two subjects tokenize it differently; their distributions cannot be compared")
        assert ours.distributions is not None and theirs.distributions is not None  # asked for by Scored.full
        rows.append(_row(text.id, ours.distributions[0], theirs.distributions[0], ours.logprobs[0], theirs.logprobs[0]))
    progress("distributions", len(texts), len(texts))
    return rows


def _row(name: str, new: Any, old: Any, new_scored: Sequence[float], old_scored: Sequence[float]) -> dict[str, Any]:
    import numpy as np

    if not (np.isfinite(new).all() and np.isfinite(old).all()):
        raise EngineError(f"document {name}: a log-probability is not finite; the build is broken or the dtype overflowed")
    kld = np.sum(np.exp(old, dtype=np.float64) * (old.astype(np.float64) - new), axis=-1)
    flips = np.argmax(new, axis=-1) != np.argmax(old, axis=-1)
    return {
        "id": name,
        "tokens": len(kld),
        # Rounding alone can push a divergence below zero: counted, and clipped where it is used.
        "negative": int((kld < 0).sum()),
        "kld_mean": float(np.maximum(kld, 0).mean()),
        "kld_max": float(kld.max()),
        "kld_max_at": int(kld.argmax()),
        "flips": int(flips.sum()),
        "nll_new": -float(np.sum(new_scored, dtype=np.float64)),
        "nll_old": -float(np.sum(old_scored, dtype=np.float64)),
    }


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
