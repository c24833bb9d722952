"""How small a damage each quantization claim sees: one tensor of the reference damaged, by more and more.

    python -m suites.selftest.quality.damaged REFERENCE.gguf [WORD ...]

measures the damages whose name holds one of the words (all, without words) that are not measured yet, through the path the
suite goes: the same files, engine, texts and samples. Rows are kept beside the table in ``reports/quantization``; the
table is derived from them by the judge, with the margins of the suite.
"""

from __future__ import annotations

import gzip
import json
import math
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import config, evals, golden
from harness.engines import open_engine
from harness.judge import judge
from harness.progress import to_terminal
from harness.quant import damage, fidelity, gguf, logprob_file, rounding
from harness.types import Claim, Engine, Measurement, Sample, Scored
from suites.quant import margins
from suites.quant import test_quality as quality

ROOT = Path(__file__).parents[3]
KEPT = ROOT / "reports" / "quantization" / "damage_rows.jsonl.gz"
BLOCKS = {"early": 1, "middle": 14, "late": 28}  # of 30
SCALES = (0.005, 0.01, 0.03, 0.1, 0.3, 1.0)
ITEMS = 200  # of the set with answers: the fewest the claim takes
BUILDS = ("q8_0", "q4_k_m", "q4_0")
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Damage:
    """What is done to which tensor; ``asked``: it is given the set with answers too, which takes longer."""

    where: str
    kind: str
    size: str
    tensor: str
    asked: bool = False

    @property
    def how(self) -> str:
        return f"{self.kind}:{self.tensor}:{self.size}"


def damages() -> Iterator[Damage]:
    """One projection with noise of a share of its own spread, a square transposed, groups one step too high."""
    for where, block in BLOCKS.items():
        down, query = f"blk.{block}.ffn_down.weight", f"blk.{block}.attn_q.weight"
        for scale in SCALES if where == "middle" else SCALES[4:]:
            yield Damage(where, "noise-tensor", f"{scale:g}", down, asked=where == "middle" and scale >= 0.3)
        yield Damage(where, "transpose-block", "64", query)
        yield Damage(where, "zero-point", "all", down, asked=where == "middle")
    yield Damage("middle", "zero-point", "1", "blk.14.ffn_down.weight")
    yield Damage("middle", "transpose-block", "576", "blk.14.attn_q.weight", asked=True)


# --- measuring ------------------------------------------------------------------------------------


def measure(reference: Path, wanted: Sequence[Damage], rows: Rows) -> Iterator[Rows]:
    """The rows so far, after each damage."""
    texts = evals.documents(golden.load("exam_text", ROOT / "golden"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [*rows, *_intact(reference, folder, texts, asked=_asks(wanted) and not any(r["damage"] == "none" for r in rows))]
        with logprob_file.Reader(folder / "reference") as read:
            for this in wanted:
                rows = [*rows, *_damaged(this, reference, folder, texts, read)]
                yield rows


def _asks(wanted: Sequence[Damage]) -> bool:
    return any(d.asked for d in wanted)


def _intact(reference: Path, folder: Path, texts: Sequence[Scored], *, asked: bool) -> Rows:
    """Records the reference's distributions, and has it answer if its answers are not known yet."""
    engine = open_engine("llamacpp", reference)
    logprob_file.record(engine, texts, folder / "reference", to_terminal())
    rows = _answers("none", engine) if asked else []
    engine.close()
    return rows


def _damaged(this: Damage, reference: Path, folder: Path, texts: Sequence[Scored], read: logprob_file.Reader) -> Rows:
    path = folder / "damaged.gguf"
    damage.damage(reference, path, this.how, seed=0)
    engine = open_engine("llamacpp", path)
    rows: Rows = [{"damage": this.how, **_short(row)} for row in fidelity.compare(engine, read, texts, to_terminal())]
    if this.asked:
        rows += _answers(this.how, engine)
    engine.close()
    return rows + _roundings(this, path, reference, folder)


def _short(row: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("id", "tokens", "kld_mean", "flips", "nll_new", "nll_old")
    return {name: float(f"{row[name]:.7g}") if isinstance(row[name], float) else row[name] for name in kept}


def _answers(how: str, engine: Engine) -> Rows:
    asked = golden.load("addresses", ROOT / "golden", limit=ITEMS)
    samples = evals.score_answers(asked, engine.generate(evals.prompts(asked), sampling=evals.SAMPLING))
    return [{"damage": how, "id": s.item, "right": int(s.value == 1)} for s in samples]


def _roundings(this: Damage, damaged: Path, intact: Path, folder: Path) -> Rows:
    """The damaged tensor of each build of the damaged file beside the intact source."""
    rows = []
    for kind in BUILDS:
        build = folder / f"{kind}.gguf"
        gguf.quantize(damaged, build, kind)
        found = rounding.roundings(build, intact, frozenset({this.tensor}))[0]
        rows.append(
            {"damage": this.how, "build": kind, "misplaced": found.misplaced, "outside": found.outside, "weights": found.weights,
             "worst": found.worst and float(f"{found.worst:.7g}"), "rms": float(f"{found.rms:.7g}"), "sound": found.sound}
        )  # fmt: skip
    return rows


# --- deciding -------------------------------------------------------------------------------------

# claim -> what is asked of a 4-bit build and of an 8-bit one, the metric's samples
_LEGS = {
    "Q2.kld": (quality._kld_claim, lambda rows: fidelity.kld_samples(rows, margins.KLD_CAP)),
    "Q2.top1": (quality._top1_claim, fidelity.top1_samples),
    "Q2.tail": (quality._tail_claim, lambda rows: fidelity.tail_samples(rows, margins.KLD_TAIL[0])),
    "Q3.perplexity": (quality._perplexity_claim, fidelity.log_ratio_samples),
}
STANDARDS = {"4bit": "gguf-q4_0", "8bit": "gguf-q8_0"}


def claims(name: str) -> dict[str, Claim]:
    """The claim with the margins of a 4-bit build and of an 8-bit one."""
    settings = config.load(ROOT / "fixtures" / "lifecycle.toml")
    if name in _LEGS:
        made = {standard: _LEGS[name][0](build) for standard, build in STANDARDS.items()}
    else:
        made = {
            standard: {"Q1.accuracy": quality._accuracy_claim, "Q1.flips": quality._flips_claim}[name]("addresses", build)
            for standard, build in STANDARDS.items()
        }
    return {standard: settings.effective(claim) for standard, claim in made.items()}


def table(rows: Rows) -> list[dict[str, object]]:
    """A row for each damage that was measured: figures, and what each claim says of it."""
    by_damage = {name: [r for r in rows if r["damage"] == name] for name in {r["damage"] for r in rows}}
    return [_row(d, by_damage[d.how], by_damage.get("none", [])) for d in damages() if d.how in by_damage]


def _row(this: Damage, mine: Rows, intact: Rows) -> dict[str, object]:
    texts = [r for r in mine if "kld_mean" in r]
    tokens = sum(r["tokens"] for r in texts)
    row: dict[str, object] = {
        "where": this.where, "damage": this.kind, "size": this.size, "tensor": this.tensor, "documents": len(texts),
        "kld_mean": f"{sum(r['kld_mean'] for r in texts) / len(texts):.6f}",
        "top1_changed": f"{sum(r['flips'] / r['tokens'] for r in texts) / len(texts):.4f}",
        "perplexity_ratio": f"{math.exp(sum(r['nll_new'] - r['nll_old'] for r in texts) / tokens):.5f}",
    }  # fmt: skip
    for name, (_, samples) in _LEGS.items():
        row |= _outcomes(name, samples(texts))
    row |= _of_answers([r for r in mine if "right" in r], intact)
    for found in (r for r in mine if "build" in r):
        row[f"Q4.rounding {found['build']}"] = "holds" if found["sound"] else "fails"
        row[f"misplaced {found['build']}"] = f"{found['misplaced'] / found['weights']:.6f}"
    return row


def _outcomes(name: str, samples: Sequence[Sample]) -> dict[str, str]:
    found = Measurement(name, tuple(samples))
    return {f"{name} {standard}": judge(claim, found).outcome for standard, claim in claims(name).items()}


def _of_answers(new: Rows, old: Rows) -> dict[str, object]:
    """Accuracy and flips; empty where the damaged model was not asked."""
    names = [f"{name} {standard}" for name in ("Q1.accuracy", "Q1.flips") for standard in STANDARDS]
    if not new:
        return {"items": 0, "points_lost": "", "flips": "", **dict.fromkeys(names, "")}
    before, after = ({r["id"]: r["right"] for r in rows} for rows in (old, new))
    arms = tuple(Sample(i, float(rows[i]), arm) for arm, rows in (("new", after), ("old", before)) for i in before)
    flips = tuple(Sample(i, float(before[i] != after[i])) for i in before)
    lost = 100 * (sum(before.values()) - sum(after.values())) / len(before)
    row: dict[str, object] = {
        "items": len(before),
        "points_lost": f"{lost:.1f}",
        "flips": f"{sum(s.value or 0 for s in flips) / len(flips):.3f}",
    }
    return row | _outcomes("Q1.accuracy", arms) | _outcomes("Q1.flips", flips)


# --- keeping --------------------------------------------------------------------------------------


def kept() -> Rows:
    """The rows that were measured; none before the first run."""
    if not KEPT.exists():
        return []
    return [json.loads(line) for line in gzip.decompress(KEPT.read_bytes()).decode().splitlines()]


def keep(rows: Rows) -> None:
    """Writes the rows, the same bytes for the same rows."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row, sort_keys=True, separators=(",", ":")) + "\n" for row in rows)
    KEPT.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def main(reference: Path, words: Sequence[str]) -> None:
    """Measures what is missing and keeps it after each damage."""
    known = {r["damage"] for r in kept()}
    wanted = [d for d in damages() if d.how not in known and (not words or any(w in f"{d.where} {d.how}" for w in words))]
    for rows in measure(reference, wanted, kept()):
        keep(rows)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
