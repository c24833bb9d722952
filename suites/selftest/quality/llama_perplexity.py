"""llama.cpp's own perplexity and KL tool beside ``harness.quant.fidelity``: same files, same tokens, same windows.

    python -m suites.selftest.quality.llama_perplexity REFERENCE.gguf BUILD.gguf ...

writes ``reports/quantization/llama_perplexity.csv``. The tool is ``llama-perplexity``, named by HARNESS_LLAMA_PERPLEXITY or
on PATH. To build it from the sources that llama-cpp-python brings (a few minutes on two cores):

    pip download --no-deps --no-binary :all: llama-cpp-python==0.3.36
    tar xzf llama_cpp_python-0.3.36.tar.gz
    cmake -S llama_cpp_python-0.3.36/vendor/llama.cpp -B build -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF
    cmake --build build --target llama-perplexity -j 2

What the tool does (tools/perplexity/perplexity.cpp): it cuts the tokens of a text into windows of ``--ctx-size``, scores the
second half of each and skips the rest; the reference's log-probabilities are kept in a file as 16-bit steps between the
largest logit and 16 below it, and what is less likely than exp(-16) does not count. So ours is computed twice: the way the
suite does it, with the reference in the project's own file, and with the reference as the tool's file holds it.

The other cause of a difference is the engine: which kernel llama.cpp takes, and so its rounding, depends on how many tokens are
fed at once. The tool feeds a window whole; the harness leaves out its last token, which predicts nothing. In windows of
fewer than 64 tokens this changes the attention on a 16-bit cache, and in any the last rows of a k-quant's product.
With one token more the two agree again (``test_llama_perplexity.py``).
"""

from __future__ import annotations

import csv
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness import golden
from harness.engines import open_engine
from harness.engines.gguf_header import file_type, read_header
from harness.quant import fidelity, logprob_file
from harness.types import Engine, Scored, TokenLogprobs

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "reports" / "quantization" / "llama_perplexity.csv"
HOW = f"build llama.cpp's llama-perplexity as {Path(__file__).name} says, and name it in HARNESS_LLAMA_PERPLEXITY"
WINDOW, WINDOWS = 512, 6
CACHES = {"f16": (), "f32": ("-fa", "off", "-ctk", "f32", "-ctv", "f32")}  # the cache of the harness -> the same said to the tool
QUANTILES = {"99.9%": 0.999, "99.0%": 0.99, "95.0%": 0.95, "90.0%": 0.9, "Median": 0.5, "10.0%": 0.1, "Maximum": 1.0}


def tool() -> str | None:
    """Where llama-perplexity lies, None if it is not there."""
    return os.environ.get("HARNESS_LLAMA_PERPLEXITY") or shutil.which("llama-perplexity")


def text() -> str:
    """The documents of the golden set as one."""
    return "\n\n".join(item["text"] for item in golden.load("exam_text", ROOT / "golden").items)


# --- the tool -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """The file of the reference's log-probabilities: windows of tokens, and for each scored position scale, lowest and steps."""

    windows: Any  # (windows, tokens)
    stored: Any  # (windows, scored, 4 + vocabulary) 16-bit

    @classmethod
    def read(cls, path: Path) -> Base:
        size, vocabulary, count = (int(x) for x in np.fromfile(path, "<i4", 3, offset=8))
        windows = np.fromfile(path, "<i4", size * count, offset=20).reshape(count, size)
        shape = (count, size - 1 - size // 2, 2 * ((vocabulary + 1) // 2) + 4)
        return cls(windows, np.memmap(path, "<u2", "r", 20 + windows.nbytes, shape))

    def logprobs(self, window: int, vocabulary: int) -> Any:
        """(scored, vocabulary) float32, as the tool reads them."""
        rows = self.stored[window]
        scale, lowest = np.ascontiguousarray(rows[:, :4]).view("<f4").T
        return scale[:, None] * rows[:, 4 : 4 + vocabulary].astype(np.float32) + lowest[:, None]


def run(program: str, model: Path, base: Path, *more: str, window: int = WINDOW) -> str:
    """What the tool says."""
    size = ("-c", str(window), "-b", str(window), "--chunks", str(WINDOWS))
    command = [program, "-m", str(model), *size, "-t", "2", "--kl-divergence-base", str(base), *more]
    for _ in range(9):  # its logger is never flushed: now and then a run ends before its last lines are written
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        if "--kl-divergence" not in more or "Same top p:" in output:
            break
    return output


def said(output: str) -> dict[str, float]:
    """Its figures by name."""
    found = {f"KLD {name}": float(value) for name, value in re.findall(r"^\s*(\S+)\s+KLD:\s+(-?[\d.]+)", output, re.MULTILINE)}
    ratio = re.search(r"Mean PPL\(Q\)/PPL\(base\)\s+:\s+([\d.]+)", output)
    quantized = re.search(r"Mean PPL\(Q\)\s+:\s+([\d.]+)", output)
    same = re.search(r"Same top p:\s+([\d.]+)", output)
    assert ratio and quantized and same, output
    return {**found, "perplexity": float(quantized[1]), "perplexity ratio": float(ratio[1]), "same top, share": float(same[1]) / 100}


# --- ours -----------------------------------------------------------------------------------------


class Read:
    """An engine that computes a text once: the comparison and its single terms see the same numbers."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.known: dict[str, list[TokenLogprobs]] = {}

    def logprobs(self, texts: Sequence[Scored]) -> list[TokenLogprobs]:
        (text,) = texts
        if text.id not in self.known:
            self.known = {text.id: self.engine.logprobs(texts)}
        return self.known[text.id]


def ours(reference: Path, build: Path, base: Base, cache: str, folder: Path) -> tuple[dict[str, float], dict[str, float]]:
    """The same figures the way of the suite (reference recorded, build compared), and with the reference as the tool stored it."""
    texts = [Scored(str(index), f"{index}", ("+",), full=True) for index in range(len(base.windows))]
    with on_tokens(reference, base.windows, cache) as engine:
        logprob_file.record(engine, texts, folder / "reference", lambda *_: None)
    rows, own, coarse, tops, nll = [], [], [], [], []
    with logprob_file.Reader(folder / "reference") as read, on_tokens(build, base.windows, cache) as engine:
        for index, text in enumerate(texts):
            new: Any = Read(engine)
            rows += fidelity.compare(new, read, [text], lambda *_: None)
            q, scored = new.known[text.id][0].distributions[0], new.known[text.id][0].tokens[0]
            own.append(read.text(text.id).klds(q))
            p = base.logprobs(index, q.shape[1])
            coarse.append(_kld(p, q))
            tops.append(p.argmax(-1) == q.argmax(-1))
            nll.append(-p[np.arange(len(scored)), scored].astype(np.float64))
    n = sum(r["tokens"] for r in rows)
    new_nll, old_nll, flips = (sum(r[name] for r in rows) / n for name in ("nll_new", "nll_old", "flips"))
    mean = sum(r["kld_mean"] * r["tokens"] for r in rows) / n  # what a claim is given, not the terms beside it
    return (
        {**_figures(own, math.exp(new_nll), math.exp(new_nll - old_nll), 1 - flips), "KLD Mean": mean},
        _figures(coarse, math.exp(new_nll), math.exp(new_nll - float(np.mean(nll))), float(np.mean(tops))),
    )


@contextmanager
def on_tokens(path: Path, windows: Any, cache: str) -> Iterator[Any]:
    """The engine, made to take windows of tokens for texts: it is not to depend on how they would be spelled."""
    engine: Any = open_engine("llamacpp", path, n_ctx=2048, n_seq=1, cache=cache)
    header = read_header(path).metadata
    known = {}
    for index, window in enumerate(windows):
        first = header["tokenizer.ggml.bos_token_id"] if header.get("tokenizer.ggml.add_bos_token") else int(window[0])
        ids = [first, *window[1:].tolist()]
        known |= {f"{index}": ids[: len(ids) // 2 + 1], f"{index}+": ids}
    engine.tokenize = known.__getitem__
    yield engine
    engine.close()


def _kld(p: Any, q: Any) -> Any:
    """KL(p || q) of each row, as the tool adds it up: what is less likely than exp(-16) left out."""
    return np.sum(np.where(p > -16, np.exp(p, dtype=np.float64) * (p - q.astype(np.float64)), 0), axis=-1)


def _figures(klds: Sequence[Any], perplexity: float, ratio: float, same: float) -> dict[str, float]:
    kld = np.concatenate(klds)
    found = {"KLD Mean": float(kld.mean()), **{f"KLD {name}": float(np.quantile(kld, q)) for name, q in QUANTILES.items()}}
    return {**found, "perplexity": perplexity, "perplexity ratio": ratio, "same top, share": same}


# --- both -----------------------------------------------------------------------------------------


def compare(program: str, files: Sequence[Path], words: str, folder: Path, cache: str, window: int = WINDOW) -> Iterator[dict[str, object]]:
    """A row for each build (all files but the first, the reference) and figure: the tool's, ours, ours on what the tool stored."""
    text_file, base = folder / "text.txt", folder / "base.kld"
    text_file.write_text(words, "utf-8")
    reference, *builds = files
    run(program, reference, base, "-f", str(text_file), *CACHES[cache], window=window)
    for build in builds:
        theirs = said(run(program, build, base, "--kl-divergence", *CACHES[cache], window=window))
        mine, coarse = ours(reference, build, Base.read(base), cache, folder)
        for figure, value in mine.items():
            yield {
                "cache": cache, "build": file_type(read_header(build)), "figure": figure, "tool": f"{theirs[figure]:.6f}",
                "ours": f"{value:.6f}", "difference": f"{value - theirs[figure]:.6f}",
                "ours_on_its_file": f"{coarse[figure]:.6f}", "difference_on_its_file": f"{coarse[figure] - theirs[figure]:.6f}",
            }  # fmt: skip


def main(files: Sequence[Path]) -> None:
    """Writes the table."""
    program = tool()
    if program is None:
        sys.exit(HOW)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for cache in CACHES for row in compare(program, files, text(), Path(folder), cache)]
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    with TABLE.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
