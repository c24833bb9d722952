"""T4 to T7 on a tiny model: adapters, parity, learning by heart; and each mutant is seen."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from harness.engines import open_engine
from harness.errors import ConfigError, EngineError, MissingNeed
from harness.train.invariants import adapters, learning, parity
from harness.train.merge import merge
from harness.train.recipe import Recipe
from harness.train.run import train
from harness.types import TokenLogprobs

pytestmark = pytest.mark.selftest

ROWS = [([{"role": "user", "content": f"the quick {i}"}], f"fox {i * 7}" if i % 2 else "dog") for i in range(12)]
RECIPE = Recipe(rank=4, alpha=8, lr=2e-2, batch=4, max_length=64, dtype="float32", warmup=0.0)
HELD = {f"row {i}": row for i, row in enumerate(ROWS[:3])}


@pytest.fixture(scope="module", autouse=True)
def _needs_trl():
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)


def wrong(rows):
    return [row["name"] for row in rows if row["found"] != row["expected"]]


# --- T4, T5, gradients ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["lora", "dora", "qlora"])
def facts(request, tiny_folder):
    if request.param == "qlora":
        pytest.importorskip("bitsandbytes")
    return request.param, adapters.drill(tiny_folder, ROWS[:2], Recipe(method=request.param, rank=4, alpha=8, lr=1e-2, max_length=64))


def test_an_adapter_is_as_it_should_be(facts):
    method, found = facts
    assert max(row["value"] for row in found["identity"]) < 1e-3
    assert wrong(found["count"]) == wrong(found["base"]) == wrong(found["gradients"]) == []
    # two blocks: q and o 64x64, k and v 64x32, gate and up 64x128, down 128x64
    numbers = 2 * 4 * (2 * 128 + 2 * 96 + 3 * 192) + (2 * (2 * 64 + 2 * 32 + 2 * 128 + 64) if method == "dora" else 0)
    assert found["count"][-1] == {"name": "all", "found": numbers, "expected": numbers}
    assert len(found["gradients"]) == 15 and len(found["base"]) >= 20


def test_each_mutant_of_an_adapter_is_seen(facts):
    method, found = facts
    planted = {key: rows for key, rows in found.items() if ": " in key and key != adapters.EVALUATED}
    assert len(planted) == sum(map(len, adapters.FAULTS.values())) - (method != "dora")
    for key, rows in planted.items():
        if key.startswith("identity"):
            assert max(row["value"] for row in rows) > 5e-3, key
        else:
            assert wrong(rows), key
    assert wrong(found["base: one bit of one weight"]) and len(wrong(found["base: one bit of one weight"])) == 1
    assert len(wrong(found["gradients: one target detached"])) == 1
    if adapters.EVALUATED in found:  # where the CPU has the kernel without a gradient
        assert method == "qlora" and len(wrong(found[adapters.EVALUATED])) == 14
    assert wrong(found["gradients: a norm trains too"]) == ["any other parameter"]


def test_another_architecture_is_not_guessed(tiny_folder):
    config = json.loads((tiny_folder / "config.json").read_text())
    assert adapters.declared(config)["k_proj"] == (64, 32)
    with pytest.raises(MissingNeed, match="mamba"):
        adapters.declared({**config, "model_type": "mamba"})


# --- T6 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    adapter, plain = tmp_path_factory.mktemp("adapter"), tmp_path_factory.mktemp("merged")
    train(tiny_folder, ROWS, adapter, RECIPE)
    merge(tiny_folder, adapter, plain)
    return adapter, plain, parity.unmerged(tiny_folder, adapter, HELD)


def test_merged_is_unmerged_and_wrong_merges_are_not(trained, tiny_folder):
    adapter, plain, expected = trained
    found = parity.merged(tiny_folder, adapter, plain, HELD, expected)
    apart = {fault: max(row["max"] for row in rows) for fault, rows in found.items()}
    assert apart[""] < 1e-3
    assert all(apart[fault] > 5e-3 for fault in parity.FAULTS), apart


def test_served_is_unmerged_and_the_bare_base_is_not(trained, tiny_folder):
    adapter, plain, expected = trained

    def distance(folder, **options):
        engine = open_engine("hf", folder, dtype="float32", **options)
        said = engine.logprobs(parity.texts(engine.render, HELD, "<|im_end|>"))
        engine.close()
        return max(row["kld"] for row in parity.distances({each.id: each for each in said}, expected))

    assert distance(tiny_folder, adapter=adapter) < 1e-6
    assert distance(plain) < 1e-2  # rounded to 16 bits
    assert distance(tiny_folder) > 10 * distance(plain)


def test_qlora_belongs_onto_the_dequantized_base(tiny_folder):
    pytest.importorskip("bitsandbytes")
    found = parity.qlora(tiny_folder, ROWS[:8], RECIPE, HELD)
    right, bad = (max(row["kld"] for row in found[which]) for which in ("", parity.UNDEQUANTIZED))
    assert len(found["loss"]) == 2 and bad > 3 * right


def _said(rows, tokens=(1, 0)):
    whole = np.log(np.asarray(rows, dtype=np.float32))
    return {"a": TokenLogprobs("a", (tokens,), (tuple(whole[i, t] for i, t in enumerate(tokens)),), (whole,))}


def test_distances_by_hand():
    old, new = _said([[0.5, 0.5], [0.9, 0.1]]), _said([[0.5, 0.5], [0.1, 0.9]])
    (row,) = parity.distances(new, old)
    assert row["tokens"] == 2 and row["flips"] == 1
    assert row["kld"] == pytest.approx(0.8 * np.log(9) / 2, rel=1e-5)
    assert row["max"] == pytest.approx(np.log(9), rel=1e-5)
    assert parity.distances(old, old)[0] == {"name": "a", "tokens": 2, "max": 0.0, "kld": 0.0, "flips": 0}
    with pytest.raises(EngineError, match="tokenize it differently"):
        parity.distances(_said([[0.5, 0.5], [0.9, 0.1]], tokens=(1, 1)), old)


# --- T7 -------------------------------------------------------------------------------------------


def test_one_batch_is_learned_by_heart_and_mutants_are_not(tiny_folder):
    recipe = replace(RECIPE, rank=16, alpha=32, lr=1e-2)
    curves = {fault: learning.by_heart(tiny_folder, ROWS[:4], recipe, 40, fault) for fault in ("", *learning.FAULTS)}
    assert {len(curve) for curve in curves.values()} == {40}
    assert curves[""][-1] < 0.2 * curves[""][0]
    for fault in learning.FAULTS:
        assert curves[fault][-1] > 1.5 * curves[""][-1], fault
    with pytest.raises(ConfigError, match="learning rate"):
        learning.by_heart(tiny_folder, ROWS[:4], RECIPE, 1, "a learning rate of 1")
