"""The quantization suite without a model: what is absent is loud, and the pure parts of it are right."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import Measurement, Sample, config, evals
from harness.errors import GoldenError, SubjectError
from harness.golden import load
from harness.lifecycle import Workbench
from harness.store import Store
from harness.types import Generation, TokenLogprobs
from suites import controls

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]
WITHOUT_ENGINES = """
import importlib.util
real = importlib.util.find_spec
def without(name, *rest):
    return None if name.split(".")[0] in ("llama_cpp", "torch") else real(name, *rest)
importlib.util.find_spec = without
"""


def run_suite(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The real suite in a process that finds no engine, with an empty store."""
    (tmp_path / "hide.py").write_text(WITHOUT_ENGINES)
    command = [sys.executable, "-m", "pytest", "-p", "hide", "-p", "no:cacheprovider", "-q", "-m", "quant", "--tier", "full"]
    command += ["--run-dir", str(tmp_path / "run"), "--store", str(tmp_path / "store"), *arguments]
    environment = {"PYTHONPATH": str(tmp_path), "PATH": "/usr/bin:/bin", "HARNESS_ENVIRONMENTS": str(tmp_path / "none")}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_without_an_engine_every_claim_that_needs_it_says_so(tmp_path):
    done = run_suite(tmp_path)
    assert done.returncode == 8, done.stdout[-3000:]
    assert "doctor --install llamacpp" in done.stdout
    assert "doctor --install vllm" in done.stdout
    records = [json.loads(p.read_text()) for p in (tmp_path / "run" / "evidence").glob("*.json")]
    outcomes = {r["claim"]["id"]: r["verdict"]["outcome"] for r in records}
    for build in ("gguf-q8_0", "gptq-w4g64"):
        assert outcomes[f"Q1.accuracy[addresses,{build}]"] == "not_evaluated"
    assert outcomes["G1.golden[addresses]"] == "holds"
    assert set(outcomes.values()) == {"holds", "not_evaluated"}
    assert not list((tmp_path / "store").glob("tuned/*/seal.json"))  # nothing was trained for nothing


def test_without_an_engine_but_allowed(tmp_path):
    allowed = [part for name in ("llamacpp", "vllm", "hf") for part in ("--allow-missing", name)]
    done = run_suite(tmp_path, *allowed)
    assert done.returncode == 0, done.stdout[-3000:]


BROKEN = {
    "cut.gguf": b"GGUF\x03\x00\x00\x00",
    "zip.gguf": b"PK\x03\x04" * 10,
    "empty.gguf": b"",
}


@pytest.mark.parametrize("name", [*BROKEN, "missing.gguf"])
def test_ready_made_files_that_are_broken_are_named(tmp_path, name):
    if name in BROKEN:
        (tmp_path / name).write_bytes(BROKEN[name])
    settings = config.empty(tmp_path).with_subjects([f"mine=gguf:{tmp_path / name}"])
    bench = Workbench(settings, Store(tmp_path / "store"), settings.tier("full"), lambda *_: None)
    with pytest.raises(SubjectError, match=name):
        bench.subject("mine")


def test_peak_memory_is_the_childs_own():
    """A child must not report what its parent once held (as ru_maxrss does after exec)."""
    code = (
        "import subprocess, sys; held = bytearray(400 << 20)\n"
        "child = 'from harness.quant.footprint import peak_bytes; print(peak_bytes())'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)"
    )
    peak = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert 1 << 20 < peak < 200 << 20


# --- scoring ----------------------------------------------------------------------------------


def address():
    return load("addresses", ROOT / "golden")


@pytest.mark.parametrize(
    ("change", "value", "status"),
    [
        (lambda t: json.dumps(t), 1.0, "ok"),
        (lambda t: json.dumps(dict(reversed(t.items())), indent=2), 1.0, "ok"),
        (lambda t: json.dumps({**t, "extra": "x"}), 0.0, "ok"),
        (lambda t: json.dumps([t]), 0.0, "ok"),
        (lambda t: json.dumps(t)[:-1], None, "parse_failure"),
        (lambda t: json.dumps(t) + " I hope this helps", None, "parse_failure"),
        (lambda t: "NaN", None, "parse_failure"),
        (lambda t: "[" * 100_000, None, "parse_failure"),
        (lambda t: "", None, "parse_failure"),
    ],
)
def test_exact_json(change, value, status):
    golden = address()
    item = golden.items[0]
    answer = Generation(item["id"], change(item["target"]), "stop", 1, 1)
    (row,) = evals.score_answers(golden, [answer])
    assert (row.value, row.status) == (value, status)


def test_truncated_and_failed_answers_keep_their_status():
    golden = address()
    right = json.dumps(golden.items[0]["target"])
    rows = evals.score_answers(
        golden,
        [Generation(golden.items[0]["id"], right, "length", 1, 96), Generation(golden.items[1]["id"], "", "error", 0, 0, error="dead")],
    )
    assert [(r.value, r.status) for r in rows] == [(None, "truncated"), (None, "error")]


def test_choices_are_scored_per_byte():
    golden = load("commonsense", ROOT / "golden")
    item = golden.items[0]
    sizes = [len(c.encode()) for c in item["choices"]]
    even = [(-1.0 * n,) for n in sizes]
    even[item["answer"]] = (-0.9 * sizes[item["answer"]],)
    score = TokenLogprobs(item["id"], ((1,),) * 5, tuple(even))
    assert evals.score_choices(golden, [score])[0].value == 1.0
    broken = TokenLogprobs(item["id"], ((1,),) * 5, ((float("nan"),),) * 5)
    assert evals.score_choices(golden, [broken])[0].status == "error"


def test_a_set_of_another_kind_is_refused():
    with pytest.raises(GoldenError, match="kind 'documents', expected 'json_extraction'"):
        evals.prompts(load("exam_text", ROOT / "golden"))


# --- controls ---------------------------------------------------------------------------------


def test_a_planted_loss_has_exactly_its_size():
    rows = evals.pair([Sample(f"i{i}", float(i % 2)) for i in range(200)], [Sample(f"i{i}", float(i % 2)) for i in range(200)])
    lost = evals.plant_loss(rows, 0.1, "seed")
    assert sum(r.value for r in rows if r.arm == "new") - sum(r.value for r in lost if r.arm == "new") == 20
    assert evals.plant_loss(rows, 0.1, "seed") == lost
    assert evals.plant_loss(rows, 0.1, "other") != lost


@pytest.mark.parametrize("right", [0, 7, 100, 200])
def test_a_loss_is_planted_in_a_weak_model_too(right):
    answers = [Sample(f"i{i}", float(i < right)) for i in range(200)]
    rows = evals.pair(answers, answers)

    def lead(samples):
        return sum(s.value if s.arm == "new" else -s.value for s in samples)

    assert lead(evals.plant_loss(rows, 0.6, "seed")) == -120
    with pytest.raises(ValueError, match="cannot plant a loss of 400 of 200 answers: only 200 can be lost"):
        evals.plant_loss(rows, 2.0, "seed")


def test_planted_shares_and_rates_have_their_size():
    rows = tuple(Sample(f"i{i}", 0.0, weight=100.0) for i in range(50))
    assert sum(s.value for s in controls.with_share(rows, 0.1, "s")) == 5
    assert {s.value for s in controls.shifted(rows, 0.3, 0.2)} == {0.2}
    moved = controls.per_token(rows, 0.1, 0.01, "s")
    assert sum(s.value for s in moved) / sum(s.weight for s in moved) == pytest.approx(0.1, abs=0.005)
    assert Measurement("m", moved).samples[0].weight == 100.0
