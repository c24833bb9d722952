"""trl's trainers as a recipe asks for them: the one place that knows what they are called and what they do unasked."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import provenance
from harness.engines.common import install, quiet_transformers
from harness.errors import MissingNeed
from harness.train.recipe import Recipe

__all__ = ["build", "libraries", "load_base", "versions"]

_PACKAGES = ("torch", "transformers", "peft", "trl", "tokenizers", "safetensors", "accelerate", "bitsandbytes")


def libraries(recipe: Recipe) -> dict[str, Any]:
    """The modules that a training needs, by name. Raises MissingNeed for one that is not installed."""
    # as it is imported it says that a kernel of the hub is not there: nothing is fetched from one
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        import datasets
        import peft
        import torch
        import transformers
        import trl

        if recipe.method == "qlora":
            import bitsandbytes  # noqa: F401  only to be missed here, and not by transformers
    except ImportError as error:
        extra = "compress" if error.name == "bitsandbytes" else "train"
        raise MissingNeed("train", f"{error.name} is needed for training by {recipe.method}", install(extra)) from error
    return {"datasets": datasets, "peft": peft, "torch": torch, "transformers": transformers, "trl": trl}


def versions() -> dict[str, str]:
    """Installed versions of what shapes a training."""
    return provenance.installed(_PACKAGES)


def load_base(base: Path, dtype: str, *, quantized: bool = False) -> tuple[Any, Any]:
    """Tokenizer and model of a folder, in ``dtype`` ("auto": as stored), or in NF4 with double quantization.

    Weights come from safetensors only and no code out of the folder is run.
    """
    import torch
    import transformers

    transformers.set_seed(0)
    options: dict[str, Any] = {"dtype": dtype if dtype == "auto" else getattr(torch, dtype)}
    if quantized:
        options["device_map"] = {"": 0 if torch.cuda.is_available() else "cpu"}
        options["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32 if dtype == "float32" else torch.bfloat16,
        )
    with quiet_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(base), local_files_only=True)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(base), local_files_only=True, use_safetensors=True, **options)
    return tokenizer, model


def build(
    tokenizer: Any,
    model: Any,
    columns: Sequence[Mapping[str, Any]],
    recipe: Recipe,
    scratch: str | Path,
    *,
    wrap: Callable[[type], type] | None = None,
    adapter: bool = True,
    **changes: Any,
) -> Any:
    """The trainer of ``recipe``, its rows prepared, its adapter on ``model``, ready to train.

    ``columns`` are rows as trl takes them (``rows.columns``). ``wrap`` makes another class of trl's trainer.
    ``adapter=False`` leaves the model bare, ``changes`` are settings of trl's configuration: for looking into what trl does.
    """
    modules = libraries(recipe)
    trainer_class, config = _objective(recipe, modules, {**_config(recipe, modules["torch"], scratch), **changes})
    config._n_gpu = min(config.n_gpu, 1)  # with several, DataParallel would multiply the batch
    lora = modules["peft"].LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        use_dora=recipe.method == "dora",
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with quiet_transformers():
        trainer = (wrap or (lambda kind: kind))(trainer_class)(
            model=model,
            args=config,
            train_dataset=modules["datasets"].Dataset.from_list([dict(row) for row in columns]),
            processing_class=tokenizer,
            peft_config=lora if adapter else None,
        )
    for parameter in trainer.model.parameters():
        if adapter and parameter.requires_grad:  # trl rounds a QLoRA adapter to bfloat16, where a small update is none
            parameter.data = parameter.data.float()
    trainer.remove_callback(modules["transformers"].PrinterCallback)
    return trainer


def _objective(recipe: Recipe, modules: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[type, Any]:
    trl = modules["trl"]
    if recipe.objective == "sft":
        return trl.SFTTrainer, trl.SFTConfig(**{"packing": recipe.packing, "completion_only_loss": True, **config})
    if recipe.objective == "dpo":
        return trl.DPOTrainer, trl.DPOConfig(**{"beta": recipe.beta, "disable_dropout": recipe.dropout == 0, **config})
    shared = {"beta": recipe.beta, "disable_dropout": recipe.dropout == 0, "remove_unused_columns": False, **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they are experimental
        if recipe.objective == "orpo":
            from trl.experimental.orpo import ORPOConfig, ORPOTrainer

            return ORPOTrainer, ORPOConfig(**shared)
        from trl.experimental.cpo import CPOConfig, CPOTrainer

    # SimPO is CPO's loss of that name without CPO's own term; gamma / beta = 0.5 as in the paper
    assert recipe.beta is not None  # filled in by the recipe
    return CPOTrainer, CPOConfig(**{"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": recipe.beta / 2, **shared})


def _config(recipe: Recipe, torch: Any, scratch: str | Path) -> dict[str, Any]:
    return {
        "output_dir": str(scratch),
        "per_device_train_batch_size": recipe.batch,
        "gradient_accumulation_steps": recipe.accumulate,
        "num_train_epochs": recipe.epochs,
        "max_steps": recipe.steps or -1,
        "learning_rate": recipe.lr,
        "lr_scheduler_type": "linear",
        "max_length": recipe.max_length,
        "bf16": recipe.dtype == "bfloat16",
        "gradient_checkpointing": False,  # the default is on: slower, and the model fits
        "use_cpu": not torch.cuda.is_available(),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",  # checkpoints are sealed: the run says when
        "report_to": [],
        "push_to_hub": False,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "dataloader_drop_last": False,
    }
