"""Training on a tiny model: it learns by each method and objective, keeps every row, says what it did, also when it fails."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from harness.errors import SubjectError, TrainingError
from harness.store import digest_file, digest_json
from harness.train import rows as rows_of
from harness.train import run as running
from harness.train import trainer as trainers
from harness.train.recipe import Recipe
from harness.train.run import train
from suites.selftest.tiny_rows import PAIRS, PREFERENCE, RECIPE, ROWS

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    for name in ("trl", "peft", "datasets", "bitsandbytes"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def trained(tiny_folder, tmp_path_factory):
    out, seen = tmp_path_factory.mktemp("trained"), []
    report = train(tiny_folder, ROWS, out, RECIPE, progress=lambda *step: seen.append(step))
    return out, report, seen


# --- what it writes down ---------------------------------------------------------------------------


def test_it_learns_and_reports(trained, tiny_folder):
    out, report, seen = trained
    assert (report["outcome"], report["cause"], report["resumed_at"]) == ("finished", None, None)
    assert report["steps"] == 9  # 10 rows in batches of 4: 3 steps, 3 epochs
    assert report["loss"][-1] < report["loss"][0] / 2
    assert seen == [(i + 1, 9, loss) for i, loss in enumerate(report["loss"])]
    assert len(report["lr"]) == len(report["grad_norm"]) == 9
    assert report["lr"] == pytest.approx([2e-2 * (9 - i) / 9 for i in range(9)])  # linear, no step of warmup
    assert all(norm > 0 for norm in report["grad_norm"])
    assert report["rewards"] == {}
    assert report["recipe"] == asdict(RECIPE)
    assert report["rows"] == len(ROWS)
    assert report["seconds"] > 0
    assert report["peak_rss_bytes"] > 1e8
    assert report["threads"] >= 1
    assert {"torch", "trl", "peft"} <= report["versions"].keys()
    assert json.loads((out / "training.json").read_text()) == report


def test_digests_are_of_what_went_in_and_came_out(trained, tiny_folder):
    out, report, _ = trained
    config, weights = tiny_folder / "config.json", tiny_folder / "model.safetensors"
    assert report["digests"] == {
        "base": digest_json({"config.json": digest_file(config), "model.safetensors": digest_file(weights)}),
        "rows": digest_json([[messages, answer] for messages, answer in ROWS]),
        "adapter": digest_file(out / "adapter_model.safetensors"),
    }


def test_the_folder_is_an_adapter_and_nothing_else(trained):
    import torch
    from safetensors.torch import load_file

    out, _, _ = trained
    assert {path.name for path in out.iterdir()} == {"adapter_model.safetensors", "adapter_config.json", "training.json"}
    tensors = load_file(out / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert {name.rpartition(".lora_")[0].rpartition(".")[2] for name in tensors} == {
        "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj",
    }  # fmt: skip
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(config["target_modules"])  # a set has an order of its own in each process
    assert "/" not in config["base_model_name_or_path"]


def test_same_seed_same_adapter_other_seed_another(trained, tiny_folder, tmp_path):
    again = train(tiny_folder, ROWS, tmp_path / "again", RECIPE)
    assert again["loss"] == trained[1]["loss"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (trained[0] / name).read_bytes()
    other = train(tiny_folder, ROWS, tmp_path / "other", replace(RECIPE, seed=1))
    assert other["digests"]["adapter"] != again["digests"]["adapter"]


# --- methods and objectives ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["lora", "qlora", "dora"])
def test_each_method_learns(tiny_folder, tmp_path, method):
    from safetensors.torch import load_file

    report = train(tiny_folder, ROWS, tmp_path, replace(RECIPE, method=method, epochs=2))
    assert report["loss"][-1] < report["loss"][0] / 2
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert any("lora_magnitude_vector" in name for name in tensors) == (method == "dora")
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float32"}


@pytest.mark.parametrize("objective", ["dpo", "orpo", "simpo"])
def test_each_preference_objective_widens_the_margin(tiny_folder, tmp_path, objective):
    report = train(tiny_folder, PAIRS, tmp_path, replace(PREFERENCE, objective=objective, beta=None, epochs=3))
    margins = report["rewards"]["margins"]
    assert len(margins) == len(report["rewards"]["accuracies"]) == len(report["loss"]) == 9
    assert sum(margins[-3:]) > sum(margins[:3])
    if objective == "dpo":  # the policy is its own reference before the first step
        assert report["loss"][0] == pytest.approx(math.log(2))
        assert margins[0] == 0


def test_the_first_loss_is_the_papers_formula(tiny_folder, tmp_path):
    """Before the first step the policy is the base: SimPO (arXiv 2405.14734, eq. 6) and ORPO (arXiv 2403.07691, eq. 6 and 7) by hand."""
    import torch
    from torch.nn.functional import logsigmoid

    tokenizer, model = trainers.load_base(tiny_folder, "float32")
    chosen, rejected, whole = [], [], []
    for messages, *answers in PAIRS:
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        for answer, means in zip(answers, (chosen, rejected), strict=True):
            start = len(tokenizer(prompt)["input_ids"])
            ids = torch.tensor([tokenizer(f"{prompt}{answer}<|im_end|>")["input_ids"]])
            with torch.inference_mode():
                logs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].double()
            means.append(float(logs[start - 1 :].mean()))
            if means is chosen:
                whole.append(logs)  # trl takes the likelihood of the prompt too, as the paper's code does
    a, b = torch.tensor(chosen, dtype=torch.float64), torch.tensor(rejected, dtype=torch.float64)
    likelihood = -float(torch.cat(whole).mean())
    odds = (a - b) - ((1 - a.exp()).log() - (1 - b.exp()).log())
    expected = {"simpo": -logsigmoid(2.0 * (a - b) - 1.0).mean(), "orpo": likelihood - 0.1 * logsigmoid(odds).mean()}
    for objective, value in expected.items():
        recipe = replace(PREFERENCE, objective=objective, beta=None, batch=10, steps=1, dtype="float32")
        assert train(tiny_folder, PAIRS, tmp_path / objective, recipe)["loss"] == [pytest.approx(float(value), rel=1e-5)]


def test_qlora_trains_on_four_bits_in_float32(tiny_folder, tmp_path):
    import torch

    tokenizer, model = trainers.load_base(tiny_folder, "bfloat16", quantized=True)
    trainer = trainers.build(tokenizer, model, rows_of.columns(tokenizer, ROWS, RECIPE), replace(RECIPE, method="qlora"), tmp_path)
    layer = trainer.model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.dtype == torch.uint8
    assert layer.base_layer.weight.quant_state.quant_type == "nf4"
    assert layer.base_layer.weight.quant_state.nested
    assert {p.dtype for p in trainer.model.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("change", "steps"),
    [({"steps": 5}, 5), ({"batch": 2, "accumulate": 2}, 9), ({"packing": True, "batch": 1, "max_length": 50}, 15), ({"epochs": 1}, 3)],
)
def test_steps_are_counted_as_the_trainer_takes_them(tiny_folder, tmp_path, change, steps):
    assert train(tiny_folder, ROWS, tmp_path, replace(RECIPE, **change))["steps"] == steps


@pytest.mark.parametrize("objective", ["sft", "dpo", "orpo", "simpo"])
def test_the_loss_covers_the_answer_and_its_end(tiny_folder, tmp_path, objective):
    """One end of sequence: given messages, trl's ORPO and CPO lay a second one behind the template's newline."""
    recipe = replace(PREFERENCE, objective=objective, beta=None)
    tokenizer, model = trainers.load_base(tiny_folder, "bfloat16")
    data = PAIRS if objective != "sft" else ROWS
    row = trainers.build(tokenizer, model, rows_of.columns(tokenizer, data, recipe), recipe, tmp_path).train_dataset[1]
    for name in ("labels", "chosen_labels", "chosen_ids"):
        if name in row:
            text = tokenizer.decode([token for token in row[name] if token != -100])
            assert text.rstrip("\n") == "fox<|im_end|>"


@pytest.mark.parametrize("objective", ["sft", "orpo"])
def test_dropout_is_not_quietly_switched_off(tiny_folder, tmp_path, objective):
    recipe, data = (RECIPE, ROWS) if objective == "sft" else (replace(PREFERENCE, objective="orpo"), PAIRS)
    curves = [train(tiny_folder, data, tmp_path, replace(recipe, dropout=share, steps=4))["loss"] for share in (0.0, 0.3)]
    assert curves[0] != curves[1]


# --- failed runs -----------------------------------------------------------------------------------


def failed(folder):
    report = json.loads((folder / "training.json").read_text())
    assert report["outcome"] == "failed"
    assert not (folder / "adapter_model.safetensors").exists()
    assert report["seconds"] >= 0
    return report


def test_a_row_that_does_not_fit_is_a_failed_run(tiny_folder, tmp_path):
    data = [*ROWS, ([{"role": "user", "content": "the quick brown fox " * 20}], "x")]
    with pytest.raises(TrainingError, match=r"training row 10 has \d+ tokens, more than max_length = 64"):
        train(tiny_folder, data, tmp_path, RECIPE)
    assert "training row 10" in failed(tmp_path)["cause"]


def test_a_loss_that_is_no_number_is_a_failed_run(tiny_folder, tmp_path, monkeypatch):
    calls = []

    def diverging(report, logs, step):
        calls.append(step)
        running_append(report, {**logs, "loss": math.nan} if step == 4 else logs, step)

    running_append = running._append
    monkeypatch.setattr(running, "_append", diverging)
    with pytest.raises(TrainingError, match="non-finite loss at step 4"):
        train(tiny_folder, ROWS, tmp_path, RECIPE)
    report = failed(tmp_path)
    assert calls == [1, 2, 3, 4]
    assert len(report["loss"]) == len(report["lr"]) == 3  # what came before is kept
    assert report["steps"] == 9


def test_a_learning_rate_too_high_diverges_for_real(tiny_folder, tmp_path):
    with pytest.raises(TrainingError, match=r"non-finite (loss|grad_norm) at step \d+|not finite after training"):
        train(tiny_folder, ROWS, tmp_path, replace(RECIPE, lr=1e38))
    assert failed(tmp_path)["cause"]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to")])
def test_no_memory_is_said_in_words(tiny_folder, tmp_path, monkeypatch, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(running, "build", full)
    with pytest.raises(TrainingError, match="out of memory after 0 steps"):
        train(tiny_folder, ROWS, tmp_path, RECIPE)
    assert "lower batch" in failed(tmp_path)["cause"]


def test_rows_that_vanish_are_a_failed_run(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(running, "columns", lambda *arguments: rows_of.columns(*arguments)[1:])
    with pytest.raises(TrainingError, match="trl kept 9 of 10 training rows"):
        train(tiny_folder, ROWS, tmp_path, RECIPE)
    failed(tmp_path)


def test_an_answer_masked_away_is_a_failed_run(tiny_folder, tmp_path, monkeypatch):
    from datasets import Dataset

    real = trainers.build

    def masked(*arguments, **named):
        trainer = real(*arguments, **named)
        data = [dict(row) for row in trainer.train_dataset]
        data[2]["labels"] = [-100] * len(data[2]["labels"])
        trainer.train_dataset = Dataset.from_list(data)
        return trainer

    monkeypatch.setattr(running, "build", masked)
    with pytest.raises(TrainingError, match="training row 2 has no token of its answer left"):
        train(tiny_folder, ROWS, tmp_path, RECIPE)


def test_while_it_runs_nothing_is_finished(trained, tiny_folder, tmp_path):
    """An earlier run's report does not vouch for what a killed run leaves."""
    train(tiny_folder, ROWS, tmp_path, replace(RECIPE, steps=1))
    seen = []
    train(tiny_folder, ROWS, tmp_path, replace(RECIPE, steps=1), progress=lambda *_: seen.append((tmp_path / "training.json").exists()))
    assert seen == [False]


# --- what is no run at all -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "recipe", "said"),
    [
        ([], RECIPE, "no rows"), ([([], "x")], RECIPE, "training row 0: an empty prompt"), ([(ROWS[0][0], "")], RECIPE, "empty"),
        (PAIRS, RECIPE, "sft takes"), (ROWS, PREFERENCE, "dpo takes"), ([(ROWS[0][0], "fox", "fox")], PREFERENCE, "the same text"),
    ],
)  # fmt: skip
def test_rows_that_are_none_write_nothing(tiny_folder, tmp_path, data, recipe, said):
    with pytest.raises(SubjectError, match=said):
        train(tiny_folder, data, tmp_path / "out", recipe)
    assert not (tmp_path / "out").exists()


def test_a_base_that_is_none_writes_nothing(tmp_path):
    with pytest.raises(SubjectError, match=r"no config\.json"):
        train(tmp_path, ROWS, tmp_path / "out", RECIPE)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(SubjectError, match="pickled"):
        train(tmp_path, ROWS, tmp_path / "out", RECIPE)
    assert not (tmp_path / "out").exists()


def test_recipe_of_a_report_trains_the_same(trained, tiny_folder, tmp_path):
    recipe = Recipe.of(trained[1]["recipe"], "training.json")
    assert train(tiny_folder, ROWS, tmp_path, recipe)["digests"] == trained[1]["digests"]


@pytest.mark.parametrize(
    ("losses", "end"),
    [
        ([0.84, 32.2, 10.8, 10.8], 10.8),
        ([1.4, 18.0, 134.0, 55.0, 55.0, 55.0, 55.0, 55.0], 55.0),
        ([1.4, 1.0, 0.5, 0.1], 0.0),
        ([0.1, 0.3, 0.15, 0.19], 0.0),  # noise of a model that knows it already
        ([1.0, 50.0, 60.0], 0.0),  # too few steps to say
        ([], 0.0),
    ],
)
def test_a_curve_that_ends_far_above_its_start_diverged(losses, end):
    from harness.train.run import _diverged

    assert _diverged(losses) == pytest.approx(end)
