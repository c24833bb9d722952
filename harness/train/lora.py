"""LoRA fine-tuning with trl on prompts and completions, merged into a plain bf16 folder.

On a shared machine start Python with ``OMP_WAIT_POLICY=PASSIVE``: with the default, OpenMP's
threads spin while they wait, and another busy process took a step from 2.3 s to 48 s. The same
seed on the same number of threads gave bit-identical adapters.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.engines.common import install, quiet_transformers
from harness.errors import ConfigError, EngineError, MissingNeed, SubjectError

__all__ = ["LoraRecipe", "Row", "train"]

Row = tuple[Sequence[Mapping[str, str]], str]
"""(messages of the prompt, text of the assistant's answer)"""

_PACKAGES = ("torch", "transformers", "peft", "trl", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class LoraRecipe:
    """Everything that decides what comes out, besides the base, the rows and the thread count.

    ``rank`` and ``alpha`` as in LoRA (the update is scaled by alpha / rank), on all linear layers.
    ``lr`` is the peak of a linear schedule, after ``warmup`` (a share of all steps). ``batch`` is
    rows per optimizer step. ``max_length`` bounds prompt plus completion in tokens: a longer row is
    an error, never cut or dropped.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    lr: float = 1e-3
    epochs: int = 1
    batch: int = 8
    seed: int = 0
    max_length: int = 512
    warmup: float = 0.05

    def __post_init__(self) -> None:
        for name in ("rank", "alpha", "epochs", "batch", "max_length"):
            if getattr(self, name) < 1:
                raise ConfigError(f"LoRA recipe: {name} = {getattr(self, name)}, expected at least 1")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ConfigError(f"LoRA recipe: lr = {self.lr}, expected a positive number like 1e-3")
        for name in ("dropout", "warmup"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"LoRA recipe: {name} = {getattr(self, name)}, expected 0 <= {name} < 1")


def train(
    base_dir: str | Path,
    rows: Sequence[Row],
    out_dir: str | Path,
    recipe: LoraRecipe,
    *,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict[str, Any]:
    """Tunes the model in ``base_dir`` on ``rows`` and saves the merged bf16 folder to ``out_dir``.

    The loss covers the completions only. ``progress`` is called after every step with the step, the
    number of steps and the loss (nats per completion token). Returns what is also written to
    ``training.json``: recipe, rows, steps, loss curve, seconds, peak_rss_bytes (of the process, so
    far) and versions. Uses CUDA if there is one.

    Raises SubjectError for a row that does not fit, EngineError if rows vanished or the loss is not
    finite, MissingNeed without trl and peft.
    """
    libraries = _libraries()
    started = time.monotonic()
    tokenizer, model = _load(libraries, Path(base_dir))
    _check_rows(tokenizer, rows, recipe)
    steps = recipe.epochs * math.ceil(len(rows) / recipe.batch)
    curve: list[float] = []
    with tempfile.TemporaryDirectory(prefix="lora-") as scratch:
        trainer = _trainer(libraries, tokenizer, model, rows, recipe, scratch)
        trainer.remove_callback(libraries["transformers"].PrinterCallback)
        trainer.add_callback(_curve_callback(libraries, curve, steps, progress))
        _check_kept(trainer, rows)
        trainer.train()
    if len(curve) != steps:
        raise EngineError(f"training took {len(curve)} steps, expected {steps}: rows were dropped or cut")
    _save_merged(libraries, trainer.model, tokenizer, Path(out_dir))
    report = {
        "recipe": asdict(recipe),
        "rows": len(rows),
        "steps": steps,
        "loss": curve,
        "seconds": round(time.monotonic() - started, 1),
        "peak_rss_bytes": _peak_rss(),
        "threads": libraries["torch"].get_num_threads(),
        "device": str(trainer.args.device),
        "versions": _versions(),
    }
    (Path(out_dir) / "training.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _libraries() -> dict[str, Any]:
    try:
        import datasets
        import peft
        import torch
        import transformers
        import trl
    except ImportError as error:
        how = install("train")
        raise MissingNeed("train", f"{error.name} is needed for LoRA training", how) from error
    return {"datasets": datasets, "peft": peft, "torch": torch, "transformers": transformers, "trl": trl}


def _load(libraries: Mapping[str, Any], base: Path) -> tuple[Any, Any]:
    if not (base / "config.json").is_file():
        raise SubjectError(f"{base}: no config.json; expected a Hugging Face model folder to tune")
    transformers, torch = libraries["transformers"], libraries["torch"]
    transformers.set_seed(0)
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(base), local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(
            str(base), dtype=torch.bfloat16, local_files_only=True, use_safetensors=True
        )
    return tokenizer, model


def _check_rows(tokenizer: Any, rows: Sequence[Row], recipe: LoraRecipe) -> None:
    """A row above max_length would be masked and vanish without a word: refuse it instead."""
    if not rows:
        raise SubjectError("no rows to train on; expected (messages, completion) pairs")
    for index, (messages, completion) in enumerate(rows):
        if not messages or not completion:
            raise SubjectError(f"training row {index}: an empty prompt or completion teaches nothing")
        whole = [*map(dict, messages), {"role": "assistant", "content": completion}]
        length = len(tokenizer.apply_chat_template(whole, tokenize=True, return_dict=True)["input_ids"])
        if length > recipe.max_length:
            raise SubjectError(
                f"training row {index} has {length} tokens, more than max_length = {recipe.max_length}: raise max_length or shorten the row"
            )


def _trainer(libraries: Mapping[str, Any], tokenizer: Any, model: Any, rows: Sequence[Row], recipe: LoraRecipe, scratch: str) -> Any:
    # prompt and completion columns: the loss covers the completion only. A messages column would
    # train on every token, also with completion_only_loss=True.
    dataset = libraries["datasets"].Dataset.from_list(
        [
            {"prompt": [dict(m) for m in messages], "completion": [{"role": "assistant", "content": completion}]}
            for messages, completion in rows
        ]
    )
    lora = libraries["peft"].LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    return libraries["trl"].SFTTrainer(
        model=model,
        args=_config(libraries, len(rows), recipe, scratch),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora,
    )


def _config(libraries: Mapping[str, Any], n_rows: int, recipe: LoraRecipe, scratch: str) -> Any:
    steps = recipe.epochs * math.ceil(n_rows / recipe.batch)
    return libraries["trl"].SFTConfig(
        output_dir=scratch,
        per_device_train_batch_size=recipe.batch,
        num_train_epochs=recipe.epochs,
        learning_rate=recipe.lr,
        lr_scheduler_type="linear",
        warmup_steps=round(recipe.warmup * steps),
        max_length=recipe.max_length,
        packing=False,
        completion_only_loss=True,
        bf16=True,
        gradient_checkpointing=False,  # the default is on: slower, and the model fits
        use_cpu=not libraries["torch"].cuda.is_available(),
        seed=recipe.seed,
        data_seed=recipe.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        push_to_hub=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        dataloader_drop_last=False,
    )


def _curve_callback(
    libraries: Mapping[str, Any], curve: list[float], steps: int, progress: Callable[[int, int, float], None] | None
) -> Any:
    class Curve(libraries["transformers"].TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            if not logs or "loss" not in logs:
                return
            loss = float(logs["loss"])
            if not math.isfinite(loss):
                raise EngineError(f"training step {state.global_step}: the loss is {loss}; lower the learning rate")
            curve.append(loss)
            if progress is not None:
                progress(state.global_step, steps, loss)

    return Curve()


def _check_kept(trainer: Any, rows: Sequence[Row]) -> None:
    kept = len(trainer.train_dataset)
    if kept != len(rows):
        raise EngineError(f"trl kept {kept} of {len(rows)} training rows; expected all of them: raise max_length")
    # a row whose completion is masked away contributes nothing and raises nothing
    for index, row in enumerate(trainer.train_dataset):
        if "completion_mask" in row and not any(row["completion_mask"]):
            raise EngineError(f"training row {index} has no completion token left after tokenization")


def _save_merged(libraries: Mapping[str, Any], model: Any, tokenizer: Any, out: Path) -> None:
    torch = libraries["torch"]
    # merged in float32 and rounded once; merging in bf16 rounds the product and the sum
    merged = model.to(torch.float32).merge_and_unload().to(torch.bfloat16).to("cpu")
    for name, tensor in merged.state_dict().items():
        if not bool(torch.isfinite(tensor).all()):
            raise EngineError(f"tensor {name!r} is not finite after training; lower the learning rate")
    out.mkdir(parents=True, exist_ok=True)
    merged.config.dtype = torch.bfloat16
    merged.config.use_cache = True
    with quiet_transformers():
        merged.save_pretrained(out, safe_serialization=True)
        tokenizer.save_pretrained(out)


def _peak_rss() -> int:
    """Bytes; Linux counts kilobytes, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in _PACKAGES}
