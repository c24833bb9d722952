"""The divergences and perplexities of the harness are those of llama.cpp's own tool."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from harness.types import Scored
from suites.selftest.quality import llama_perplexity as rival

pytestmark = pytest.mark.selftest

PRINTED = 1e-5  # the tool prints six places, and the share of tops in thousandths of a percent
INTERPOLATED = 5e-5  # its outermost quantiles: the place between two values is computed in single precision
KERNELS = 1e-3  # what another kernel moves: attention on a 16-bit cache, the last rows of a k-quant's product
FLOOR = 2e-3  # what the tool loses by not keeping what is less likely than exp(-16)


@pytest.fixture(scope="module")
def program():
    pytest.importorskip("llama_cpp")
    found = rival.tool()
    if found is None:
        pytest.skip(rival.HOW)
    return found


def check(rows) -> None:
    """On the tool's own reference, with a 32-bit cache: what is printed. Else what the causes named above amount to."""
    for row in rows:
        tool, off, off_on_its_file = (abs(float(row[name])) for name in ("tool", "difference", "difference_on_its_file"))
        if row["cache"] == "f32":
            printed = INTERPOLATED if row["figure"] == "KLD 99.9%" else PRINTED
            allowed = KERNELS if "_K" in row["build"] else printed
            assert off_on_its_file <= allowed * max(1, tool / (1 if "_K" in row["build"] else 100)), row
        if row["figure"] in ("KLD Mean", "perplexity ratio"):
            assert off <= FLOOR, row
            assert off_on_its_file <= KERNELS, row


def test_the_tool_and_the_harness_agree_on_a_tiny_model(program, tiny_gguf, tmp_path):
    """The tool run here, on a model made here: a reference against itself, and against a 4-bit build.

    A 16-bit cache is the next test's matter: in windows as short as these the two go through different kernels.
    """
    from harness.quant.gguf import quantize

    build = tmp_path / "q4_0.gguf"
    quantize(tiny_gguf, build, "q4_0")
    rows = list(rival.compare(program, [tiny_gguf, tiny_gguf, build], rival.text()[:6000], tmp_path, "f32", window=64))
    assert len(rows) == 2 * 11
    check(rows)


def test_why_a_16_bit_cache_differs(program, tiny_gguf, tmp_path):
    """Fed as many tokens as the tool feeds, the harness gets the tool's log-probabilities to half a step of its storage."""
    text, base = tmp_path / "text.txt", tmp_path / "base.kld"
    text.write_text(rival.text()[:6000], "utf-8")
    rival.run(program, tiny_gguf, base, "-f", str(text), window=64)
    file = rival.Base.read(base)
    whole = np.concatenate([file.windows, file.windows[:, :1]], axis=1)  # the last token of these is left out
    with rival.on_tokens(tiny_gguf, whole, "f16") as engine:
        for index in range(len(whole)):
            text = Scored(str(index), str(index), ("+",), full=True)
            found = engine.logprobs([text])[0].distributions[0][: file.stored.shape[1]]
            step = (found.max(-1) - found.min(-1)).max() / 65535
            assert np.abs(found - file.logprobs(index, found.shape[1])).max() <= 0.6 * step


def test_the_committed_table():
    """The built-in model's builds."""
    with rival.TABLE.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert {(r["cache"], r["build"]) for r in rows} >= {(cache, build) for cache in rival.CACHES for build in ("Q8_0", "Q4_K_M", "Q4_0")}
    check(rows)


def test_the_stored_reference_is_read_as_it_is_written(tmp_path):
    """A file in the tool's format, made here: 2 windows of 8 tokens, 5 words."""
    windows = np.arange(16, dtype="<i4").reshape(2, 8) % 5
    logits = np.random.default_rng(5).normal(0, 3, (2, 3, 5)).astype("f4")
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    scale = (logprobs.max(-1) - logprobs.min(-1)) / 65535
    stored = np.zeros((2, 3, 10), "<u2")
    stored[..., :4] = np.stack([scale, logprobs.min(-1)], -1).astype("<f4").view("<u2")
    stored[..., 4:9] = np.rint((logprobs - logprobs.min(-1, keepdims=True)) / scale[..., None])
    data = b"_logits_" + np.array([8, 5, 2], "<i4").tobytes() + windows.tobytes() + stored.tobytes()
    (tmp_path / "base").write_bytes(data)
    base = rival.Base.read(tmp_path / "base")
    assert (base.windows == windows).all()
    for index in range(2):
        assert base.logprobs(index, 5) == pytest.approx(logprobs[index], abs=2 * float(scale.max()))


def test_figures_of_its_output():
    text = "Mean PPL(Q)                   :  20.542808 ±   0.659450\nMean PPL(Q)/PPL(base)         :   1.009153 ±   0.001077\n"
    text += "Mean    KLD:   0.004393 ±   0.000045\n99.9%   KLD:   0.034172\n 0.1%   KLD:  -0.000002\nSame top p: 96.101 ± 0.208 %\n"
    assert rival.said(text) == {
        "KLD Mean": 0.004393, "KLD 99.9%": 0.034172, "KLD 0.1%": -0.000002,
        "perplexity": 20.542808, "perplexity ratio": 1.009153, "same top, share": 0.96101,
    }  # fmt: skip
