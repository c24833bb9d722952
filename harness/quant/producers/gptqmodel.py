"""GPTQ by gptqmodel, in the format "gptq" (version 1) that auto-gptq introduced."""

from __future__ import annotations

import os
from typing import Any

from harness.quant import producers
from harness.quant.producers import Job


def produce(job: Job) -> None:
    """Writes the quantized folder. A layer that cannot be calibrated is an error, never rounded instead."""
    # by default it wants as many workers as it guesses cores for, and dies with a ValueError on a small machine
    os.environ["GPTQMODEL_CPU_WORKERS"] = str(job.threads)
    import torch
    import transformers
    from gptqmodel import GPTQModel, QuantizeConfig

    tokenizer = transformers.AutoTokenizer.from_pretrained(str(job.source), local_files_only=True)
    blocks, account = producers.blocks(job, tokenizer)
    recipe = job.recipe
    config = QuantizeConfig(
        bits=recipe["bits"], group_size=recipe["group_size"], sym=recipe["symmetric"], desc_act=False, format="gptq",
        device="cuda" if torch.cuda.is_available() else "cpu", offload_to_disk=False, fallback=None,
    )  # fmt: skip
    model = GPTQModel.load(str(job.source), config, trust_remote_code=False)
    model.quantize([_row(ids) for ids in blocks], tokenizer=tokenizer, batch_size=1, calibration_sort=None)
    model.save(str(job.out))
    producers.finish(job, producers.written_config(job.out), account, ("gptqmodel",))


def _row(ids: list[int]) -> dict[str, Any]:
    return {"input_ids": ids, "attention_mask": [1] * len(ids)}


if __name__ == "__main__":
    producers.main(produce)
