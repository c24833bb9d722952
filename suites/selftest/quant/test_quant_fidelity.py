"""Recorded log-probabilities: the figures of both engines read in lockstep, after any kill, from any damaged file or not at all."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import Measurement
from harness.engines import open_engine
from harness.errors import EngineError, StoreError
from harness.judge import judge
from harness.quant import fidelity, logprob_file
from harness.quant.logprob_file import STEP, Reader, record
from harness.types import Scored, TokenLogprobs
from suites.quant import margins, test_quality

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[3]


def quiet(task, done, total):
    pass


def document(name, text="."):
    return Scored(name, "", (text,), full=True)


class Told:
    """An engine that says what it was told to: id -> (token ids, log-probabilities). Counts what it was asked."""

    def __init__(self, known, version="1"):
        self.known, self.version, self.asked = known, version, []

    def logprobs(self, texts):
        self.asked += [t.id for t in texts]
        return [self._one(t.id, *self.known[t.id]) for t in texts]

    def _one(self, name, tokens, whole):
        scored = tuple(float(row[token]) for row, token in zip(whole, tokens, strict=True))
        return TokenLogprobs(name, (tuple(tokens),), (scored,), (whole,))

    def describe(self):
        return {"engine": "told", "version": self.version}


def normalized(logits):
    whole = np.asarray(logits, dtype=np.float64)
    top = whole.max(axis=-1, keepdims=True)
    return (whole - top - np.log(np.exp(whole - top).sum(axis=-1, keepdims=True))).astype(np.float32)


def drawn(seed, lengths=(3, 40, 1, 70), vocabulary=50, spread=3.0):
    rng = np.random.default_rng(seed)
    return {
        f"d{i}": (rng.integers(0, vocabulary, n).tolist(), normalized(rng.normal(0, spread, (n, vocabulary))))
        for i, n in enumerate(lengths)
    }


def nudged(known, by, seed=1):
    rng = np.random.default_rng(seed)
    return {name: (tokens, normalized(whole + rng.normal(0, by, whole.shape))) for name, (tokens, whole) in known.items()}


def exact_klds(old, new):
    """By definition, in float64: shares nothing with the code under test."""
    old, new = np.asarray(old, dtype=np.float64), np.asarray(new, dtype=np.float64)
    return (np.exp(old) * (old - new)).sum(axis=-1)


def lockstep(new, old, texts):
    """What compare said when it read both engines at once."""
    rows = []
    for text in texts:
        (ours,), (theirs,) = new.logprobs([text]), old.logprobs([text])
        p, q = theirs.distributions[0], ours.distributions[0]
        kld = exact_klds(p, q)
        rows.append(
            {
                "id": text.id,
                "tokens": len(kld),
                "negative": int((kld < 0).sum()),
                "kld_mean": float(np.maximum(kld, 0).mean()),
                "kld_max": float(kld.max()),
                "kld_max_at": int(kld.argmax()),
                "flips": int((p.argmax(-1) != q.argmax(-1)).sum()),
                "nll_new": -float(np.sum(ours.logprobs[0])),
                "nll_old": -float(np.sum(theirs.logprobs[0])),
            }
        )
    return rows


def recorded(engine, texts, path):
    record(engine, texts, path, quiet)
    return path


def compared(new, path, texts):
    with Reader(path) as stored:
        return fidelity.compare(new, stored, texts, quiet)


# --- exact enough --------------------------------------------------------------------------------


def bound(old, new):
    """What the module promises, plus what float32 may lose."""
    p, d = np.exp(old.astype(np.float64)), np.abs(old.astype(np.float64) - new)
    return (STEP / 2 * (2 * np.sqrt(p) + STEP / 2) * d + 1e-5 * p * (1 + d)).sum(axis=-1) + 1e-9


ROWS = st.integers(2, 40).flatmap(
    lambda v: st.lists(st.lists(st.floats(-80, 80, width=32), min_size=v, max_size=v), min_size=2, max_size=5)
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(ROWS, st.floats(0, 30), st.integers(0, 5))
def test_the_error_is_within_its_bound_for_any_logits(tmp_path_factory, rows, far, seed):
    path = tmp_path_factory.mktemp("bound") / "p"
    old = normalized(rows)
    new = normalized(old + np.random.default_rng(seed).normal(0, far, old.shape))
    tokens = [0] * len(old)
    recorded(Told({"d": (tokens, old)}), [document("d")], path)
    with Reader(path) as stored:
        kept = stored.text("d")
    assert (abs(kept.klds(new) - exact_klds(old, new)) <= bound(old, new)).all()
    assert (kept.klds(old) == 0).all()  # against itself: not nearly nothing, nothing
    assert kept.likeliest.tolist() == old.argmax(-1).tolist()
    assert kept.scored.tolist() == [float(row[0]) for row in old]


def test_a_vocabulary_of_a_real_size_stays_within_a_ten_thousandth(tmp_path):
    """Draws as a small model's: a few likely tokens and a long tail; a build as far off as four bits take it."""
    rng = np.random.default_rng(0)
    old = normalized(rng.normal(0, 2.6, (40, 49152)) + 8 * (rng.random((40, 49152)) < 2e-4))
    new = normalized(old + rng.normal(0, 0.3, old.shape))
    texts = [document("d")]
    path = recorded(Told({"d": ([0] * 40, old)}), texts, tmp_path / "p")
    (row,) = compared(Told({"d": ([0] * 40, new)}), path, texts)
    assert row["kld_mean"] > 0.03
    assert abs(row["kld_mean"] - exact_klds(old, new).mean()) < 1e-4
    assert path.stat().st_size < 40 * 49152  # a byte for each probability is already too many


def test_rows_are_those_of_lockstep(tmp_path):
    old = Told(drawn(0))
    new = Told(nudged(old.known, 0.4))
    texts = [document(name) for name in old.known]
    rows = compared(new, recorded(old, texts, tmp_path / "p"), texts)
    for row, expected in zip(rows, lockstep(new, old, texts), strict=True):
        for key, value in expected.items():
            assert row[key] == (pytest.approx(value, abs=1e-4, rel=1e-3) if key in ("kld_mean", "kld_max") else value), key


def test_certainty(tmp_path):
    """Tokens of probability nil, and a certain one: nothing is divided by nothing."""
    old = np.full((3, 20), -1e4, dtype=np.float32)
    old[:, 7] = 0
    new = normalized(np.random.default_rng(0).normal(0, 1, old.shape))
    path = recorded(Told({"d": ([7] * 3, old)}), [document("d")], tmp_path / "p")
    (row,) = compared(Told({"d": ([7] * 3, new)}), path, [document("d")])
    assert row["kld_mean"] == pytest.approx(exact_klds(old, new).mean(), rel=1e-6)


def test_what_is_rounded_to_nothing_keeps_its_mass(tmp_path):
    """A tail of 49151 tokens, none of them worth half a step, that the build holds for e^5 times less likely."""
    tail = (STEP / 2) ** 2 * 0.9
    old = np.log(np.r_[1 - 49151 * tail, np.full(49151, tail)])[None].astype(np.float32)
    new = normalized(np.r_[0.0, np.full(49151, math.log(tail) - 5)][None])
    assert exact_klds(old, new) > 2e-3
    recorded(Told({"d": ([0], old)}), [document("d")], tmp_path / "p")
    with Reader(tmp_path / "p") as stored:
        assert stored.text("d").klds(new) == pytest.approx(exact_klds(old, new), abs=1e-6)


def test_by_position(tmp_path):
    """Divergence k at position k: the bins are 1, 2-3, 4-7, 8-15."""
    shift = np.arange(1, 11) / 100
    old = np.full((10, 2), math.log(0.5), dtype=np.float32)
    odds = np.sqrt(1 - np.exp(-2 * shift))  # KL of a fair coin against (1 +- odds) / 2 is -ln(1 - odds^2) / 2
    new = np.log(np.stack([(1 + odds) / 2, (1 - odds) / 2], axis=-1)).astype(np.float32)
    path = recorded(Told({"d": ([0] * 10, old)}), [document("d")], tmp_path / "p")
    (row,) = compared(Told({"d": ([0] * 10, new)}), path, [document("d")])
    assert row["by_position"]["n"] == [1, 2, 4, 3]
    assert row["by_position"]["sum"] == pytest.approx([0.01, 0.05, 0.22, 0.27], rel=1e-3)
    assert sum(row["by_position"]["sum"]) / 10 == pytest.approx(row["kld_mean"])


# --- verdicts ------------------------------------------------------------------------------------


def verdicts(rows, build="gguf-q4_k_m"):
    legs = [
        (test_quality._kld_claim(build), fidelity.kld_samples(rows, margins.KLD_CAP)),
        (test_quality._top1_claim(build), fidelity.top1_samples(rows)),
        (test_quality._tail_claim(build), fidelity.tail_samples(rows, margins.KLD_TAIL[0])),
        (test_quality._perplexity_claim(build), fidelity.log_ratio_samples(rows)),
    ]
    return [judge(claim, Measurement("m", samples)) for claim, samples in legs]


@pytest.fixture(scope="module")
def engines(tiny_gguf, tmp_path_factory):
    """The tiny model, a build of it at 8 bits, and one that is really damaged."""
    pytest.importorskip("llama_cpp")
    from harness.quant.damage import damage
    from harness.quant.gguf import quantize

    folder = tmp_path_factory.mktemp("builds")
    quantize(tiny_gguf, folder / "q8.gguf", "q8_0")
    damage(tiny_gguf, folder / "bad.gguf", "noise-layer:1:1", seed=0)
    places = {"reference": tiny_gguf, "q8": folder / "q8.gguf", "bad": folder / "bad.gguf"}
    opened = {name: open_engine("llamacpp", place, threads=1) for name, place in places.items()}
    yield opened
    for engine in opened.values():
        engine.close()


def passages(count, words=12):
    rng = random.Random(0)
    known = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "Paris", "is", "capital", "of", "France", "2", "3")
    return [document(f"t{i}", " ".join(rng.choices(known, k=words))) for i in range(count)]


@pytest.mark.parametrize("build", ["reference", "q8", "bad"])
def test_verdicts_do_not_change(engines, tmp_path, build):
    texts = passages(120)
    exact = lockstep(engines[build], engines["reference"], texts)
    stored = compared(engines[build], recorded(engines["reference"], texts, tmp_path / "p"), texts)
    for ours, theirs in zip(verdicts(stored), verdicts(exact), strict=True):
        assert ours.outcome == theirs.outcome
        assert ours.estimate == (theirs.estimate and pytest.approx(theirs.estimate, abs=1e-4, rel=1e-3))
    if build == "reference":
        assert {row["kld_max"] for row in stored} == {0.0}


def test_some_of_the_texts_in_another_order(engines, tmp_path):
    """A control reads fewer texts than the file holds."""
    texts = passages(6)
    path = recorded(engines["reference"], texts, tmp_path / "p")
    every = compared(engines["q8"], path, texts)
    assert compared(engines["q8"], path, [texts[4], texts[1]]) == [every[4], every[1]]


# --- refusals ------------------------------------------------------------------------------------


def one(tokens=(1, 2), whole=None):
    return Told({"d": (list(tokens), normalized(np.zeros((len(tokens), 5))) if whole is None else whole)})


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad):
    whole = normalized(np.zeros((2, 5)))
    whole[1, 3] = bad
    with pytest.raises(EngineError, match="not finite"):
        recorded(one(whole=whole), [document("d")], tmp_path / "p")
    recorded(one(), [document("d")], tmp_path / "q")
    with pytest.raises(EngineError, match="not finite"):
        compared(one(whole=whole), tmp_path / "q", [document("d")])


@pytest.mark.parametrize(
    ("engine", "match"),
    [
        (one(whole=np.zeros((2, 5), dtype=np.float32)), "add up to 5"),
        (one(tokens=(), whole=np.zeros((0, 5), dtype=np.float32)), "no token to score"),
        (Told({"d": ([1], normalized(np.zeros((1, 5)))), "e": ([1], normalized(np.zeros((1, 6))))}), "1 x 6|\\(1, 6\\)"),
    ],
)
def test_what_is_no_distribution_is_refused(tmp_path, engine, match):
    with pytest.raises(EngineError, match=match):
        recorded(engine, [document(name) for name in engine.known], tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_texts_named_alike_or_none_are_refused(tmp_path):
    for texts in ([], [document("d"), document("d", "other")]):
        with pytest.raises(EngineError, match="every id once"):
            record(one(), texts, tmp_path / "p", quiet)


def test_a_text_without_whole_distributions_is_refused(tiny_gguf, tmp_path):
    pytest.importorskip("llama_cpp")
    engine = open_engine("llamacpp", tiny_gguf, threads=1)
    with pytest.raises(EngineError, match="full=True"):
        record(engine, [Scored("d", "", ("Paris is",))], tmp_path / "p", quiet)
    engine.close()


def test_a_build_of_another_tokenizer_is_refused(tmp_path):
    path = recorded(one(), [document("d")], tmp_path / "p")
    with pytest.raises(EngineError, match="tokenize it differently"):
        compared(one(tokens=(1, 3)), path, [document("d")])
    with pytest.raises(EngineError, match="shape"):
        compared(one(whole=normalized(np.zeros((2, 6)))), path, [document("d")])


def test_a_text_that_was_not_recorded_is_refused(tmp_path):
    path = recorded(one(), [document("d")], tmp_path / "p")
    with pytest.raises(StoreError, match="e was not recorded"):
        compared(one(), path, [document("e")])


def test_no_file(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        Reader(tmp_path / "absent")
    with pytest.raises(StoreError, match="cannot be opened"):
        record(one(), [document("d")], tmp_path / "absent" / "p", quiet)


# --- killed, cut, damaged ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Engine, texts and the bytes of their whole file."""
    old = Told(drawn(3, lengths=(2, 3, 1), vocabulary=7))
    texts = [document(name) for name in old.known]
    return old, texts, recorded(old, texts, tmp_path_factory.mktemp("small") / "p").read_bytes()


def finished_of(whole):
    """Offsets behind which one, two, ... texts are finished."""
    ends, at = [], whole.index(b"\n") + 1
    while at < len(whole):
        line_end = whole.index(b"\n", at) + 1
        size = int(whole[at:line_end].split(b'"bytes": ')[1].split(b",")[0])
        at = line_end + size
        ends.append(at)
    return ends


def test_cut_at_every_byte_it_goes_on_and_computes_no_text_twice(small, tmp_path):
    old, texts, whole = small
    ends, path = finished_of(whole), tmp_path / "p"
    assert ends[-1] == len(whole) and len(ends) == 3
    for cut in range(len(whole) + 1):
        (tmp_path / "p.part").write_bytes(whole[:cut])
        path.unlink(missing_ok=True)
        old.asked.clear()
        record(old, texts, path, quiet)
        assert path.read_bytes() == whole, cut
        assert len(old.asked) == sum(end > cut for end in ends), cut
        assert not (tmp_path / "p.part").exists()


def test_a_part_with_any_byte_changed_ends_in_the_same_file(small, tmp_path):
    old, texts, whole = small
    for at in range(len(whole)):
        (tmp_path / "p.part").write_bytes(whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :])
        (tmp_path / "p").unlink(missing_ok=True)
        record(old, texts, tmp_path / "p", quiet)
        assert (tmp_path / "p").read_bytes() == whole, at


def test_a_finished_file_cut_or_changed_anywhere_is_refused(small, tmp_path):
    old, texts, whole = small
    path = tmp_path / "p"
    for at in range(len(whole)):
        for data in (whole[:at], whole[:at] + bytes([whole[at] ^ 0x41]) + whole[at + 1 :], whole[:at] + b"x" + whole[at:]):
            path.write_bytes(data)
            with pytest.raises(StoreError):
                compared(old, path, texts)
    path.write_bytes(whole + b"x")
    with pytest.raises(StoreError, match="truncated or damaged"):
        compared(old, path, texts)
    record(old, texts, path, quiet)  # a damaged file is made again
    assert path.read_bytes() == whole


def test_a_finished_file_is_not_made_twice(small, tmp_path):
    old, texts, _ = small
    recorded(old, texts, tmp_path / "p")
    old.asked.clear()
    record(old, texts, tmp_path / "p", quiet)
    assert old.asked == []


def test_recorded_numbers_that_are_not_finite_are_refused(tmp_path, monkeypatch):
    """A file whose digests all agree, made by somebody else."""
    rest = logprob_file._rest
    monkeypatch.setattr(logprob_file, "_rest", lambda *given: rest(*given) * np.float32("nan"))
    path = recorded(one(), [document("d")], tmp_path / "p")
    with pytest.raises(StoreError, match="not finite"):
        compared(one(), path, [document("d")])


@pytest.mark.parametrize("change", ["engine", "texts"])
def test_a_part_of_something_else_is_begun_anew(small, tmp_path, change):
    """Another version of the engine, or another text under the same id: nothing of it may slip in."""
    old, texts, whole = small
    known = {name: (tokens, whole[:, ::-1]) for name, (tokens, whole) in old.known.items()}
    other = Told(known, version="2" if change == "engine" else "1")
    others = texts if change == "engine" else [document(t.id, "changed") for t in texts]
    expected = recorded(other, others, tmp_path / "expected").read_bytes()
    (tmp_path / "p.part").write_bytes(whole[:-1])
    assert recorded(other, others, tmp_path / "p").read_bytes() == expected


def test_lines_that_agree_with_their_own_digest_but_say_nonsense(small, tmp_path):
    """A file made to deceive: refused, and nothing is unpacked beyond what the build's own text has."""
    old, texts, whole = small
    header = whole[: whole.index(b"\n") + 1]
    before = header[:64].decode()

    def line(text):
        return logprob_file._chained(before, text).encode() + b" " + text + b"\n"

    for text in (b"[]", b"{}", b'{"id": 1', b"[" * 9999, b'{"id": "d0", "tokens": 1e999, "bytes": 1, "blocks": [1]}'):
        (tmp_path / "p").write_bytes(header + line(text))
        with pytest.raises(StoreError):
            compared(old, tmp_path / "p", texts)
    for packed in (zlib.compress(bytes(50_000_000)), zlib.compress(b"\xff" * 14), zlib.compress(b""), b"no zlib"):
        with pytest.raises(StoreError, match="cannot be unpacked"):
            logprob_file._unpack("d", packed, (2, 7))


def test_a_full_disk_keeps_what_was_finished(small, tmp_path):
    """A limit on the size of files stands in for the disk; in a process of its own, for it cannot be raised again."""
    _, texts, whole = small
    ends = finished_of(whole)
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from harness.errors import StoreError\n"
        "from harness.quant.logprob_file import record\n"
        "from suites.selftest.quant import test_quant_fidelity as t\n"
        "old = t.Told(t.drawn(3, lengths=(2, 3, 1), vocabulary=7))\n"
        "limit = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\n"
        "try:\n"
        "    record(old, [t.document(name) for name in old.known], Path(sys.argv[1]), t.quiet)\n"
        "except StoreError as error:\n"
        "    print('refused', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "p"), str(ends[1] + 20)], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert "refused" in done.stdout and "2 of 3 texts" in done.stdout, done.stdout + done.stderr
    again = Told(drawn(3, lengths=(2, 3, 1), vocabulary=7))
    assert recorded(again, texts, tmp_path / "p").read_bytes() == whole
    assert again.asked == ["d2"]


def test_of_two_runs_at_once_one_computes_and_the_other_waits(small, tmp_path):
    _, texts, whole = small
    old = Told(drawn(3, lengths=(2, 3, 1), vocabulary=7))
    begun = threading.Event()

    def slowly(task, done, total):
        begun.set()
        time.sleep(0.1)

    first = threading.Thread(target=record, args=(old, texts, tmp_path / "p", slowly))
    first.start()
    begun.wait()
    assert recorded(old, texts, tmp_path / "p").read_bytes() == whole
    first.join()
    assert old.asked == ["d0", "d1", "d2"]
    assert [p.name for p in tmp_path.iterdir()] == ["p"]


def test_killed_in_the_middle_it_goes_on(tmp_path):
    """A real SIGKILL, at any moment; the file is that of a run nobody disturbed."""
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from harness.quant.logprob_file import record\n"
        "from suites.selftest.quant import test_quant_fidelity as t\n"
        "old = t.Told(t.drawn(5, lengths=(20,) * 60, vocabulary=500))\n"
        "record(old, [t.document(name) for name in old.known], Path(sys.argv[1]), lambda *_: time.sleep(0.02))\n"
    )
    path, part = tmp_path / "p", tmp_path / "p.part"
    running = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=ROOT)
    while running.poll() is None and not (part.exists() and part.stat().st_size > 30_000):
        time.sleep(0.005)
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL and not path.exists()
    old = Told(drawn(5, lengths=(20,) * 60, vocabulary=500))
    texts = [document(name) for name in old.known]
    resumed = recorded(old, texts, path).read_bytes()
    assert 0 < len(old.asked) < 60
    assert recorded(old, texts, tmp_path / "undisturbed").read_bytes() == resumed
