"""LoRA on a tiny model: it learns, it keeps every row, it says what it did."""

from __future__ import annotations

import json

import pytest

from harness.errors import ConfigError, SubjectError
from harness.train.lora import LoraRecipe, train

pytestmark = pytest.mark.selftest

ROWS = [([{"role": "user", "content": f"the {i}"}], "fox" if i % 2 else "dog") for i in range(10)]
RECIPE = LoraRecipe(rank=4, alpha=8, lr=2e-2, epochs=3, batch=4, max_length=64)


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)
    out, seen = tmp_path_factory.mktemp("tuned"), []
    report = train(tiny_folder, ROWS, out, RECIPE, progress=lambda *step: seen.append(step))
    return out, report, seen


def test_it_learns_and_reports(trained):
    out, report, seen = trained
    assert report["steps"] == 9  # 10 rows in batches of 4: 3 steps, 3 epochs
    assert len(report["loss"]) == 9
    assert report["loss"][-1] < report["loss"][0]
    assert [step[:2] for step in seen] == [(i, 9) for i in range(1, 10)]
    assert report["rows"] == len(ROWS)
    assert report["seconds"] > 0
    assert report["peak_rss_bytes"] > 1e8
    assert {"torch", "trl", "peft"} <= report["versions"].keys()
    assert json.loads((out / "training.json").read_text()) == report


def test_the_folder_is_merged_bf16(trained, tiny_folder):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    out, _, _ = trained
    old, new = load_file(tiny_folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert old.keys() == new.keys()
    assert {t.dtype for t in new.values()} == {torch.bfloat16}
    moved = {name for name in old if not torch.equal(old[name].bfloat16(), new[name])}
    assert moved
    assert all("proj" in name for name in moved)  # the linear layers, nothing else
    assert not list(out.glob("*.bin"))


def test_engines_open_it(trained, tmp_path):
    from harness.engines import open_engine

    engine = open_engine("hf", trained[0], device="cpu")
    assert engine.describe()["dtype"] == "bfloat16"
    engine.close()


def test_same_seed_same_weights(trained, tiny_folder, tmp_path):
    train(tiny_folder, ROWS, tmp_path, RECIPE)
    assert (tmp_path / "model.safetensors").read_bytes() == (trained[0] / "model.safetensors").read_bytes()


def test_a_row_that_does_not_fit_is_refused(tiny_folder, tmp_path):
    pytest.importorskip("trl")
    rows = [*ROWS, ([{"role": "user", "content": "the quick brown fox " * 20}], "x")]
    with pytest.raises(SubjectError, match=r"training row 10 has \d+ tokens"):
        train(tiny_folder, rows, tmp_path / "out", RECIPE)
    for bad in ([], [([], "x")], [(ROWS[0][0], "")]):
        with pytest.raises(SubjectError):
            train(tiny_folder, bad, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out").exists()


def test_missing_base(tmp_path):
    pytest.importorskip("trl")
    with pytest.raises(SubjectError, match=r"config\.json"):
        train(tmp_path, ROWS, tmp_path / "out", RECIPE)


@pytest.mark.parametrize("change", [{"rank": 0}, {"lr": 0.0}, {"lr": float("nan")}, {"dropout": 1.0}, {"warmup": -0.1}])
def test_recipes_are_checked(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        LoraRecipe(**change)
