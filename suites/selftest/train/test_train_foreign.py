"""Runs made outside the harness, read into the shape of training.json: a real one by plain trl, and two other layouts."""

from __future__ import annotations

import json

import pytest

from harness.errors import SubjectError
from harness.store import digest_file
from harness.train.foreign import read_run
from suites.selftest.tiny_rows import PAIRS, ROWS

pytestmark = pytest.mark.selftest

TARGETS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


# --- plain trl: a run really made -----------------------------------------------------------------


@pytest.fixture(scope="module")
def by_trl(tiny_folder, tmp_path_factory):
    """What the examples of trl leave behind: save_model() after five steps of SFT, and of DPO; checkpoints on the way."""
    datasets, peft, transformers, trl = (pytest.importorskip(name) for name in ("datasets", "peft", "transformers", "trl"))
    folder = tmp_path_factory.mktemp("trl")
    sft = [{"prompt": m, "completion": [{"role": "assistant", "content": a}]} for m, a in ROWS]
    dpo = [
        {"prompt": m, "chosen": [{"role": "assistant", "content": a}], "rejected": [{"role": "assistant", "content": b}]}
        for m, a, b in PAIRS
    ]
    for name, rows, trainer, config in (("sft", sft, trl.SFTTrainer, trl.SFTConfig), ("dpo", dpo, trl.DPOTrainer, trl.DPOConfig)):
        made = trainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(tiny_folder, dtype="float32"),
            args=config(
                output_dir=str(folder / name), max_steps=5, logging_steps=2, save_steps=4, per_device_train_batch_size=2, bf16=False,
                learning_rate=1e-3, use_cpu=True, report_to=[], disable_tqdm=True,
            ),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=transformers.AutoTokenizer.from_pretrained(tiny_folder),
            peft_config=peft.LoraConfig(r=3, lora_alpha=6, target_modules="all-linear", use_dora=name == "dpo"),
        )  # fmt: skip
        made.train()
        made.save_model()
        made.create_model_card()
    return folder


def test_a_run_by_trl_is_read(by_trl):
    run = read_run(by_trl / "sft")
    state = json.loads((by_trl / "sft" / "checkpoint-5" / "trainer_state.json").read_text())
    assert (run["tool"], run["outcome"], run["cause"], run["steps"]) == ("trl", "finished", None, 5)
    assert run["at"] == [2, 4]
    assert run["loss"] == [point["loss"] for point in state["log_history"] if "loss" in point]
    assert len(run["lr"]) == len(run["grad_norm"]) == 2
    assert run["rewards"] == {}
    assert sorted({name.rpartition(".")[2] for name in run["targets"]}) == TARGETS
    recipe = run["recipe"]
    assert [recipe[name] for name in ("objective", "method", "rank", "alpha", "batch", "steps", "save_every")] == [
        "sft",
        "lora",
        3,
        6,
        2,
        5,
        4,
    ]
    assert recipe["seed"] is None  # nobody wrote it down
    assert run["digests"] == {"adapter": digest_file(by_trl / "sft" / "adapter_model.safetensors")}
    assert run["versions"].keys() == {"peft"}


def test_a_preference_run_by_trl_is_read(by_trl):
    run = read_run(by_trl / "dpo")
    assert (run["tool"], run["recipe"]["objective"], run["recipe"]["method"]) == ("trl", "dpo", "dora")
    assert len(run["rewards"]["margins"]) == len(run["rewards"]["accuracies"]) == len(run["at"]) == 2


def test_our_own_reports_keys_are_all_there(by_trl, tiny_folder, tmp_path):
    from dataclasses import replace

    from harness.train.run import train
    from suites.selftest.tiny_rows import RECIPE

    ours = train(tiny_folder, ROWS, tmp_path, replace(RECIPE, steps=1))
    theirs = read_run(by_trl / "sft")
    assert theirs.keys() - ours.keys() == {"tool", "base", "targets", "at"}
    assert ours.keys() <= theirs.keys()
    assert theirs["recipe"].keys() == ours["recipe"].keys()
    json.dumps(theirs, allow_nan=False)


def test_nothing_pickled_is_opened(by_trl, monkeypatch):
    """training_args.bin lies there, and so do the optimizer's files: reading them would run code."""
    import torch

    assert (by_trl / "sft" / "training_args.bin").is_file()

    def refuse(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    read_run(by_trl / "sft")


# --- the layouts of two other tools -----------------------------------------------------------------


@pytest.fixture
def adapter(tmp_path):
    """One small tensor, and the configuration as peft writes it (huggingface.co/rafaeloc15/llama3-v11, adapter_config.json)."""
    np = pytest.importorskip("numpy")
    from safetensors.numpy import save_file

    save_file({"base_model.model.lm_head.lora_A.weight": np.zeros((2, 4), dtype=np.float32)}, tmp_path / "adapter_model.safetensors")
    config = {
        "alpha_pattern": {}, "auto_mapping": None, "base_model_name_or_path": "meta-llama/Meta-Llama-3-8B", "bias": "none",
        "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "layer_replication": None, "loftq_config": {},
        "lora_alpha": 16, "lora_dropout": 0, "modules_to_save": None, "peft_type": "LORA", "r": 8, "rank_pattern": {},
        "revision": None, "target_modules": TARGETS, "task_type": "CAUSAL_LM", "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    return tmp_path


def put(folder, name, value):
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value))


def change(folder, **named):
    put(folder, "adapter_config.json", {**json.loads((folder / "adapter_config.json").read_text()), **named})


STATE = {  # transformers.TrainerState.save_to_json
    "best_metric": None, "epoch": 1.0, "global_step": 60, "is_hyper_param_search": False, "is_local_process_zero": True,
    "log_history": [
        {"epoch": 0.5, "grad_norm": 0.9, "learning_rate": 2e-4, "loss": 1.9, "step": 30},
        {"epoch": 1.0, "grad_norm": 0.4, "learning_rate": 4e-6, "loss": 0.8, "step": 60},
        {"epoch": 1.0, "step": 60, "total_flos": 1.0, "train_loss": 1.35, "train_runtime": 312.5},
    ],
    "logging_steps": 30, "max_steps": 60, "num_train_epochs": 1, "save_steps": 500, "train_batch_size": 2, "trial_params": None,
}  # fmt: skip

# LogCallback._write_log of LLaMA-Factory, src/llamafactory/train/callbacks.py; a row as in its users' logs
LOG = (
    '{"current_steps": 5, "total_steps": 10, "loss": 2.203, "lr": 2.6e-05, "epoch": 0.5, "percentage": 50.0, '
    '"elapsed_time": "0:00:27", "remaining_time": "0:00:27"}\n'
    '{"current_steps": 10, "total_steps": 10, "loss": 1.1, "accuracy": 0.75, "lr": 0.0, "epoch": 1.0, "percentage": 100.0, '
    '"elapsed_time": "0:01:09", "remaining_time": "0:00:00"}\n'
    '{"current_steps": 10, "total_steps": 10, "epoch": 1.0, "percentage": 100.0, "elapsed_time": "0:01:10", "remaining_time": "0:00:00"}\n'
)
RESULTS = {"epoch": 1.0, "total_flos": 36653597884416.0, "train_loss": 1.65, "train_runtime": 70.6535, "train_steps_per_second": 0.142}
YAML = """\
### as the web page of LLaMA-Factory writes it
cutoff_len: 2048
finetuning_type: lora
gradient_accumulation_steps: 8
learning_rate: 5.0e-05
lora_rank: 8
model_name_or_path: meta-llama/Meta-Llama-3-8B
num_train_epochs: 3.0
packing: false
per_device_train_batch_size: 2
quantization_bit: 4
stage: dpo
pref_loss: orpo
"""


@pytest.mark.parametrize(
    "named",
    [
        {"base_model_name_or_path": "unsloth/llama-3-8b-bnb-4bit", "revision": "unsloth"},
        {"base_model_name_or_path": "./llama-4bit", "auto_mapping": {"base_model_class": "LlamaForCausalLM", "unsloth_fixed": True}},
    ],
)
def test_a_run_by_unsloth_is_read(adapter, named):
    change(adapter, **named, target_modules=r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)")
    (adapter / "checkpoint-60").mkdir()
    put(adapter / "checkpoint-60", "trainer_state.json", STATE)
    run = read_run(adapter)
    assert (run["tool"], run["base"], run["outcome"]) == ("unsloth", named["base_model_name_or_path"], "finished")
    assert (run["at"], run["loss"], run["grad_norm"], run["seconds"]) == ([30, 60], [1.9, 0.8], [0.9, 0.4], 312.5)
    assert (run["recipe"]["method"], run["recipe"]["rank"], run["recipe"]["alpha"]) == ("qlora", 8, 16)
    assert run["targets"].startswith("(?:")


def test_a_run_by_llama_factory_is_read(adapter):
    put(adapter, "trainer_log.jsonl", LOG)
    put(adapter, "train_results.json", RESULTS)
    put(adapter, "all_results.json", RESULTS)
    put(adapter, "training_args.yaml", YAML)
    run = read_run(adapter)
    assert (run["tool"], run["base"], run["outcome"], run["steps"]) == ("llama-factory", "meta-llama/Meta-Llama-3-8B", "finished", 10)
    assert (run["at"], run["loss"], run["lr"], run["grad_norm"]) == ([5, 10], [2.203, 1.1], [2.6e-05, 0.0], [None, None])
    assert run["rewards"] == {"accuracies": [None, 0.75]}
    assert run["seconds"] == 70.6535
    recipe = run["recipe"]
    assert [recipe[name] for name in ("objective", "method", "lr", "epochs", "batch", "accumulate", "max_length", "packing")] == [
        "orpo", "qlora", 5e-05, 3.0, 2, 8, 2048, False,
    ]  # fmt: skip


def test_llama_factory_through_unsloth_is_llama_factory(adapter):
    change(adapter, base_model_name_or_path="unsloth/llama-3-8b-Instruct-bnb-4bit")
    put(adapter, "trainer_state.json", STATE)
    put(adapter, "README.md", "---\nlicense: other\nlibrary_name: peft\ntags:\n- llama-factory\n- lora\n- unsloth\n---\n# x\n")
    assert read_run(adapter)["tool"] == "llama-factory"


def test_the_newest_checkpoint_speaks(adapter):
    for step in (9, 60, 100):
        (adapter / f"checkpoint-{step}").mkdir()
        put(adapter / f"checkpoint-{step}", "trainer_state.json", {**STATE, "global_step": step, "max_steps": 200})
    run = read_run(adapter)
    assert (run["tool"], run["outcome"], run["steps"]) == ("transformers", "stopped", 200)
    put(adapter / "checkpoint-100", "trainer_state.json", {**STATE, "global_step": 200, "max_steps": 200})
    assert read_run(adapter)["outcome"] == "finished"


@pytest.mark.parametrize(("name", "value"), [("loss", float("nan")), ("grad_norm", float("inf"))])
def test_a_run_that_diverged_has_failed(adapter, name, value):
    points = [STATE["log_history"][0], {**STATE["log_history"][1], name: value}]
    put(adapter, "trainer_state.json", {**STATE, "log_history": points})
    run = read_run(adapter)
    assert (run["outcome"], run["loss"]) == ("failed", [1.9])
    assert f"non-finite {name} at step 60" in run["cause"]


# --- refused ----------------------------------------------------------------------------------------


def test_pickled_weights_are_refused_by_name(adapter):
    put(adapter, "trainer_state.json", STATE)
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(SubjectError, match=r"adapter_model\.bin: pickled weights are never loaded; convert"):
        read_run(adapter)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("trainer_state.json", "{", "not JSON"),
        ("trainer_state.json", '{"log_history": 3}', "log_history is no list"),
        ("trainer_state.json", '{"log_history": [{"loss": "x", "step": 1}]}', "no number"),
        ("trainer_state.json", '{"log_history": [{"loss": 1.0}]}', "no number"),
        ("trainer_log.jsonl", '{"loss": 1}\n', "line 1"),
        ("trainer_log.jsonl", LOG + "{\n", "line 4"),
        ("training_args.yaml", "a: [", "not YAML"),
        ("training_args.yaml", "!!python/object/apply:os.system ['true']", "not YAML"),
        ("training_args.yaml", "- 1", "expected a mapping"),
        ("all_results.json", "[]", "expected a JSON object"),
        ("adapter_config.json", "[]", "expected a JSON object"),
        ("adapter_model.safetensors", "", "truncated or damaged"),
    ],
)
def test_damaged_files_are_refused_by_name(adapter, name, text, said):
    if name != "trainer_log.jsonl":
        put(adapter, "trainer_state.json", STATE)
    put(adapter, name, text)
    with pytest.raises(SubjectError, match=said):
        read_run(adapter)


def test_folders_of_no_run_are_refused(adapter, tmp_path):
    with pytest.raises(SubjectError, match=r"no trainer_state\.json"):
        read_run(adapter)
    (adapter / "adapter_model.safetensors").unlink()
    with pytest.raises(SubjectError, match=r"no adapter_model\.safetensors"):
        read_run(adapter)
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(SubjectError, match=r"no adapter_config\.json"):
        read_run(adapter)
