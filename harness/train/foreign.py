"""Runs of other tools, read from the folder they wrote: plain trl or transformers, Unsloth, LLaMA-Factory.

What each leaves behind:

    all three         adapter_config.json, adapter_model.safetensors; trainer_state.json there or in checkpoint-N/
    trl               README.md whose tags say trl and the objective (trl 1.16, ``trl.trainer.base_trainer.create_model_card``)
    Unsloth           the same, and names of its own: base_model_name_or_path "unsloth/...-bnb-4bit", revision "unsloth" (as in
                      huggingface.co/rafaeloc15/llama3-v11), later "unsloth_fixed" in auto_mapping; a tag in README.md
    LLaMA-Factory     trainer_log.jsonl (current_steps, total_steps, loss, lr, epoch, ..., ``LogCallback`` in
                      github.com/hiyouga/LlamaFactory, src/llamafactory/train/callbacks.py), train_results.json,
                      all_results.json, and from its web page training_args.yaml

training_args.bin and the optimizer's files are pickles: they are never opened.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from harness.engines.common import load_json, safetensors_file
from harness.errors import SubjectError
from harness.store import digest_file
from harness.train.recipe import OBJECTIVES, Recipe

__all__ = ["read_run"]

_TAGS = {"sft": "sft", "dpo": "dpo", "orpo": "orpo", "cpo": "simpo"}
_STAGES = {"sft": "sft", "dpo": "dpo"}
_SETTINGS = {  # of LLaMA-Factory's YAML -> of a recipe
    "learning_rate": "lr", "per_device_train_batch_size": "batch", "gradient_accumulation_steps": "accumulate", "cutoff_len": "max_length",
    "warmup_ratio": "warmup", "seed": "seed", "packing": "packing", "num_train_epochs": "epochs",
}  # fmt: skip


def read_run(folder: str | Path) -> dict[str, Any]:
    """What a run outside this harness did, in the shape of training.json; None for what it did not write down.

    Beside those keys: ``tool`` ("trl", "transformers", "unsloth", "llama-factory"), ``base`` (the name it was trained on),
    ``targets`` (names, or one regular expression) and ``at``: the steps that the points of the curves belong to, since
    few tools log each. ``outcome`` is "finished", "stopped" before the last step, or "failed" where a logged number is not
    finite: the curve ends before it.

    Raises SubjectError for a folder without an adapter, pickled weights (convert them), or a damaged file.
    """
    folder = Path(folder)
    if not (folder / "adapter_config.json").is_file():
        raise SubjectError(f"{folder}: no adapter_config.json; expected the output folder of an adapter's training")
    adapter = load_json(folder / "adapter_config.json")
    weights = _weights(folder)
    state, points = _log(folder)
    tags, settings = _tags(folder / "README.md"), _settings(folder)
    try:
        curves, cause = _curves(points)
        last, total = _last(state, points)
    except (KeyError, TypeError, ValueError) as error:
        raise SubjectError(f"{folder}: the log of the training holds what is no number ({error!r}); the file is damaged") from error
    results = {**_optional(folder / "all_results.json"), **_optional(folder / "train_results.json")}
    seconds = results.get("train_runtime", next((p["train_runtime"] for p in reversed(points) if "train_runtime" in p), None))
    return {
        "tool": _tool(folder, adapter, tags),
        "base": str(adapter.get("base_model_name_or_path") or "") or None,
        "targets": adapter.get("target_modules"),
        "outcome": "failed" if cause else "finished" if total is not None and last >= total else "stopped",
        "cause": cause,
        "recipe": _recipe(adapter, state, settings, tags),
        "rows": None,
        "steps": total,
        **curves,
        "resumed_at": None,
        "seconds": seconds,
        "peak_rss_bytes": None,
        "peak_cuda_bytes": None,
        "threads": None,
        "device": None,
        "versions": {"peft": adapter["peft_version"]} if adapter.get("peft_version") else {},
        "digests": {"adapter": digest_file(weights)},
    }


def _weights(folder: Path) -> Path:
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        if (folder / "adapter_model.bin").is_file():
            raise SubjectError(f"{folder / 'adapter_model.bin'}: pickled weights are never loaded; convert them to safetensors")
        raise SubjectError(f"{folder}: no adapter_model.safetensors; the run saved no adapter here")
    if not safetensors_file(weights):
        raise SubjectError(f"{weights}: holds no tensor; the run saved an empty adapter")
    return weights


def _log(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The trainer's state ({} where there is none), and the points it logged, in order."""
    checkpoints = [p for p in folder.glob("checkpoint-*") if p.name[11:].isdecimal()]
    for place in (folder, *sorted(checkpoints, key=lambda p: int(p.name[11:]), reverse=True)):
        if (place / "trainer_state.json").is_file():
            state = load_json(place / "trainer_state.json")
            history = state.get("log_history")
            if not isinstance(history, list) or not all(isinstance(point, dict) for point in history):
                raise SubjectError(f"{place / 'trainer_state.json'}: log_history is no list of points; the file is damaged")
            return state, history
    if (folder / "trainer_log.jsonl").is_file():
        return {}, _trainer_log(folder / "trainer_log.jsonl")
    raise SubjectError(f"{folder}: no trainer_state.json and no trainer_log.jsonl; expected one of them, there or in checkpoint-N/")


def _trainer_log(path: Path) -> list[dict[str, Any]]:
    """LLaMA-Factory's log as transformers would have named its points."""
    points = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            point = {"step": row["current_steps"], "total": row["total_steps"]}
        except (ValueError, KeyError, TypeError) as error:
            raise SubjectError(f"{path}, line {number}: no point of a training log ({error}); the file is damaged") from error
        names = {"loss": "loss", "lr": "learning_rate", "accuracy": "rewards/accuracies"}
        points.append({**point, **{name: row[key] for key, name in names.items() if key in row}})
    return points


def _curves(points: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], str | None]:
    at: list[int] = []
    curves: dict[str, list[float | None]] = {"loss": [], "lr": [], "grad_norm": []}
    rewards: dict[str, list[float | None]] = {}
    for point in points:
        if "loss" not in point:
            continue
        numbers = {"loss": point["loss"], "lr": point.get("learning_rate"), "grad_norm": point.get("grad_norm")}
        for name, value in numbers.items():
            if value is not None and not math.isfinite(float(value)):
                return {"at": at, **curves, "rewards": rewards}, f"non-finite {name} at step {point.get('step')}: {value}"
        at.append(int(point["step"]))
        for name, value in numbers.items():
            curves[name].append(None if value is None else float(value))
        for name in {key.removeprefix("rewards/") for key in point if key.startswith("rewards/")} | rewards.keys():
            earlier = rewards.setdefault(name, [None] * (len(at) - 1))
            earlier.append(point.get(f"rewards/{name}"))
    return {"at": at, **curves, "rewards": rewards}, None


def _last(state: Mapping[str, Any], points: Sequence[Mapping[str, Any]]) -> tuple[int, int | None]:
    """The last step taken, and how many there should have been."""
    if state:
        return int(state.get("global_step") or 0), int(state["max_steps"]) if state.get("max_steps") else None
    return (int(points[-1]["step"]), int(points[-1]["total"])) if points else (0, None)


def _recipe(adapter: Mapping[str, Any], state: Mapping[str, Any], settings: Mapping[str, Any], tags: Sequence[str]) -> dict[str, Any]:
    recipe: dict[str, Any] = dict.fromkeys(field.name for field in fields(Recipe))
    four_bit = str(adapter.get("base_model_name_or_path")).endswith("-4bit") or settings.get("quantization_bit") == 4
    recipe.update(
        objective=_STAGES.get(settings.get("stage", ""), next((_TAGS[tag] for tag in tags if tag in _TAGS), None)),
        method="dora" if adapter.get("use_dora") else "qlora" if four_bit else "lora",
        rank=adapter.get("r"),
        alpha=adapter.get("lora_alpha"),
        dropout=adapter.get("lora_dropout"),
        epochs=state.get("num_train_epochs"),
        batch=state.get("train_batch_size"),
        steps=state.get("max_steps"),
        save_every=state.get("save_steps"),
    )
    recipe.update({name: settings[key] for key, name in _SETTINGS.items() if key in settings})
    if settings.get("pref_loss") in OBJECTIVES:  # its stage "dpo" is all of them
        recipe["objective"] = settings["pref_loss"]
    return recipe


def _tool(folder: Path, adapter: Mapping[str, Any], tags: Sequence[str]) -> str:
    if "llama-factory" in tags or any((folder / name).is_file() for name in ("trainer_log.jsonl", "training_args.yaml")):
        return "llama-factory"  # which may itself have trained through Unsloth
    mapping = adapter.get("auto_mapping") or {}
    base = str(adapter.get("base_model_name_or_path"))
    if base.startswith("unsloth/") or adapter.get("revision") == "unsloth" or "unsloth_fixed" in mapping or "unsloth" in tags:
        return "unsloth"
    return "trl" if "trl" in tags else "transformers"


def _tags(card: Path) -> list[str]:
    """The tags in the front matter of a model card."""
    if not card.is_file():
        return []
    front = re.match(r"---\n(.*?)\n---", card.read_text("utf-8", "replace"), re.DOTALL)
    block = re.search(r"^tags:\n((?:[ ]*- .*\n?)+)", front.group(1), re.MULTILINE) if front else None
    return [line.strip("- \t'\"") for line in block.group(1).splitlines()] if block else []


def _settings(folder: Path) -> dict[str, Any]:
    """LLaMA-Factory's YAML, as its web page leaves it. Anything that is no plain mapping is an error."""
    path = folder / "training_args.yaml"
    if not path.is_file():
        return {}
    import yaml  # type: ignore[import-untyped]

    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except yaml.YAMLError as error:
        raise SubjectError(f"{path}: not YAML ({error}); the file is damaged") from error
    if not isinstance(found, dict):
        raise SubjectError(f"{path}: expected a mapping of settings, found {type(found).__name__}")
    return found


def _optional(path: Path) -> dict[str, Any]:
    return load_json(path) if path.is_file() else {}
