"""Renders ``reports/quantization/README.md`` from the tables beside it: why to believe a verdict about a build, on one page.

    python -m suites.selftest.quality.quantization_page

writes ``damage.csv`` too, from its rows. Numbers come from the tables alone (``test_quantization_page.py``).
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.evidence import read_json
from suites.selftest.quality import damaged
from suites.selftest.quality.page import table, text

TABLES = Path(__file__).parents[3] / "reports" / "quantization"
Row = Mapping[str, str]
LEGS = ("Q2.kld", "Q2.top1", "Q2.tail", "Q3.perplexity")
RULES = ("llm-compressor", "vLLM, 5 %", "vLLM, 8 %", "lm-eval z", "bootstrap", "point estimate", "ours")


def rows(name: str) -> list[dict[str, str]]:
    """A table as it was written."""
    with (TABLES / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def page() -> str:
    """The page as one string."""
    sections = (_head, _tool, _gates, _damage, _rounding)
    return "\n".join(line for section in sections for line in [*section(), ""]).rstrip() + "\n"


def _head() -> Iterator[str]:
    yield "# Proof of the quantization claims"
    yield ""
    yield from text(
        "Three questions about the gates on a quantized build: are the divergences those of llama.cpp's own tool, do other rules pass",
        "what these stop, and how small a damage do they see? The tables lie beside this page as CSV.",
    )


# --- llama.cpp's tool -----------------------------------------------------------------------------


def _tool() -> Iterator[str]:
    found = rows("llama_perplexity")
    exact = [r for r in found if r["cache"] == "f32"]
    other = [r for r in found if r["cache"] == "f16"]
    kld = [r for r in exact if r["figure"].startswith("KLD")]
    means = [r for r in kld if r["figure"] == "KLD Mean"]
    yield "## The same figures as llama-perplexity"
    yield ""
    yield from text(
        "`llama_perplexity.csv`: the exam texts as one, in windows of 512 tokens, the second half of each scored, by the tool",
        "`llama-perplexity --kl-divergence` and by this project on the same tokens.",
        f"With attention in 32 bits and the reference as the tool's file holds it, KL figures differ by at most"
        f" {_largest(kld, 'difference_on_its_file'):.6f}, their means by {_largest(means, 'difference_on_its_file'):.6f};"
        f" with the project's own file of the reference the means by {_largest(means, 'difference'):.6f}.",
    )
    yield ""
    yield from table(
        ["build", "figure", "tool", "ours", "ours on the tool's file", "16-bit cache: tool", "ours"],
        [
            [r["build"], r["figure"], r["tool"], r["ours"], r["ours_on_its_file"], *_beside(other, r)]
            for r in exact
            if r["figure"] in ("KLD Mean", "KLD Median", "KLD 99.0%", "perplexity ratio", "same top, share")
        ],
    )
    yield ""
    ratio = _largest([r for r in exact if r["figure"] == "perplexity ratio"], "difference")
    yield from text(
        "Causes of what differs. The tool keeps log-probabilities in 16 bits, none below the largest logit less 16, and leaves tokens",
        "less likely than exp(-16) out of its sum: that lowers the perplexity of the reference and raises the divergence of a coarse",
        f"build; it moves the ratio of perplexities by up to {ratio:.5f}.",
        "The tool feeds 512 tokens, the harness 511, since the last predicts nothing: llama.cpp multiplies k-quants by several rows at",
        "a time and what is left over by another kernel, so the last scored position of each window differs in Q4_K_M and in no other.",
        "Windows below 64 tokens change the kernel of the attention too; fed as many, both agree again (`test_llama_perplexity.py`).",
    )


def _beside(other: Sequence[Row], row: Row) -> list[str]:
    same = next(r for r in other if (r["build"], r["figure"]) == (row["build"], row["figure"]))
    return [same["tool"], same["ours"]]


def _largest(found: Sequence[Row], column: str) -> float:
    return max(abs(float(r[column])) for r in found)


# --- gates ----------------------------------------------------------------------------------------


def _gates() -> Iterator[str]:
    found = rows("rival_gates")
    yield "## Rules in use, on the same answers"
    yield ""
    yield from text(
        "`rival_gates.csv`: every build of the committed run on every set. llm-compressor: round(new / old, 2) >= .95; vLLM: within 5 %",
        "either way, or at most 8 % below; lm-eval: unpaired z, p > .05; bootstrap: 95 % percentile interval above minus the margin.",
    )
    yield ""
    yield from table(
        ["set", "build", "n", "margin", "gained", "lost", *RULES],
        [[r["set"], r["build"], r["n"], r["margin"], r["gained"], r["lost"], *(r[rule] for rule in RULES)] for r in found],
    )
    yield ""
    yield from text(
        f"Samples drawn like these builds ({found[0]['replicates']} each): as many flips, and a true loss of exactly the margin.",
        "How often each rule passes what lost that much; the first three look at a loss relative to the score, whatever the margin.",
    )
    yield ""
    yield from table(
        ["set", "build", *RULES], [[r["set"], r["build"], *(_three(r[f"false pass: {rule}"]) for rule in RULES)] for r in found]
    )
    yield ""
    yield from text("And with nothing lost: how often each rule stops the build. Ours: `fails`; in brackets the share it passes.")
    yield ""
    yield from table(["set", "build", *RULES], [[r["set"], r["build"], *(_alarm(r, rule) for rule in RULES)] for r in found])


def _alarm(row: Row, rule: str) -> str:
    passes = f" ({_three(row['passes at 0: ours'])})" if rule == "ours" else ""
    return _three(row[f"false alarm: {rule}"]) + passes


def _three(value: str) -> str:
    return f"{float(value):.3f}"


# --- damage ---------------------------------------------------------------------------------------


def _damage() -> Iterator[str]:
    found = rows("damage")
    yield "## How small a damage is seen"
    yield ""
    yield from text(
        "`damage.csv`: one tensor of the unquantized reference damaged, and measured the way the suite measures a build: noise of a",
        "share of the tensor's own spread, a square transposed, groups of 32 weights one step of their 4-bit grid too high. Beside the",
        "figures what the claims say with the margins of a 4-bit build and of an 8-bit one (h holds, i inconclusive, f fails).",
    )
    yield ""
    legs = [f"{leg}, 4 / 8 bit" for leg in LEGS]
    yield from table(
        ["tensor", "damage", "KL, nats", "top-1 changed", "perplexity", *legs, "points lost", "Q1, 4 / 8 bit"],
        [
            [r["tensor"].removesuffix(".weight"), f"{r['damage']} {r['size']}", r["kld_mean"], r["top1_changed"], r["perplexity_ratio"],
             *(_letters(r, leg) for leg in LEGS), r["points_lost"], _answers(r)]
            for r in found
        ],
    )  # fmt: skip
    yield ""
    yield from text(*_unmeasured(found), "The least noise that is refuted (`fails`), and in brackets the least that no longer holds:")
    yield ""
    blocks = [where for where in damaged.BLOCKS if any(r["where"] == where and r["damage"] == "noise-tensor" for r in found)]
    yield from table(
        ["claim", "margins", *(f"{where} block" for where in blocks)],
        [
            [leg, standard, *(_least(found, where, f"{leg} {standard}") for where in blocks)]
            for leg in LEGS
            for standard in damaged.STANDARDS
        ],
    )


def _unmeasured(found: Sequence[Row]) -> Iterator[str]:
    known = {f"{r['damage']}:{r['tensor']}:{r['size']}" for r in found}
    missing = [d.how for d in damaged.damages() if d.how not in known]
    if missing:
        yield f"Not measured yet: {len(missing)} more ({', '.join(f'`{how}`' for how in missing)})."


def _letters(row: Row, name: str) -> str:
    return " / ".join(row[f"{name} {standard}"][:1] for standard in damaged.STANDARDS)


def _answers(row: Row) -> str:
    return "" if row["items"] == "0" else f"accuracy {_letters(row, 'Q1.accuracy')}, flips {_letters(row, 'Q1.flips')}"


def _least(found: Sequence[Row], where: str, column: str) -> str:
    noise = [r for r in found if r["where"] == where and r["damage"] == "noise-tensor"]
    refuted = [r["size"] for r in noise if r[column] == "fails"]
    doubted = [r["size"] for r in noise if r[column] != "holds"]
    return f"{min(refuted, key=float, default='none')} ({min(doubted, key=float, default='none')})"


def _rounding() -> Iterator[str]:
    found = rows("damage")
    three = next(r for r in found if r["damage"] == "noise-tensor" and r["size"] == "0.03")
    least = next(r for r in found if r["damage"] == "noise-tensor" and r["size"] == "0.005")
    seen = sum(r[f"Q4.rounding {kind}"] == "fails" for r in found for kind in damaged.BUILDS)
    yield "## What no distribution shows, and what does"
    yield ""
    yield from text(
        f"Noise of 3 % in one projection moves the mean divergence by {three['kld_mean']} nats. The builds of the committed run moved it by"
        f" {', '.join(_times(float(three['kld_mean'])))}: no margin that a build can meet sees such damage.",
        "`harness.quant.rounding` asks each weight instead: is it the point of its block's grid next to the source's? An honest build",
        "has no weight elsewhere, whoever made it and with whatever scales.",
        f"It names the damaged tensor in {seen} of {len(found) * len(damaged.BUILDS)} builds made of the damaged files.",
        f"At half a percent of noise, the least, {', '.join(_share(least, kind) for kind in damaged.BUILDS)} lie elsewhere.",
    )


def _times(kld: float) -> Iterator[str]:
    """Each build's divergence, and how many times the given one it is."""
    for path in sorted((TABLES.parent / "example" / "evidence").glob("Q2.kld*.json")):
        record = read_json(path)
        build, found = record["claim"]["id"].partition("[")[2].rstrip("]"), record["verdict"]["estimate"]
        if found is not None:
            yield f"{found:.4f} ({build}, {found / kld:.0f} times as much)"


def _share(row: Row, kind: str) -> str:
    share = float(row[f"misplaced {kind}"])
    return f"{100 * share:.1f} % of its weights in {kind}"


def main() -> None:
    """Writes the table of damages and the page."""
    found = damaged.table(damaged.kept())
    with (TABLES / "damage.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(found[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(found)
    (TABLES / "README.md").write_text(page(), "utf-8")


if __name__ == "__main__":
    main()
