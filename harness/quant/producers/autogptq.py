"""GPTQ by auto-gptq 0.7.1, which is no longer maintained and quantizes with CUDA only."""

from __future__ import annotations

from typing import Any

from harness.errors import MissingNeed
from harness.quant import producers
from harness.quant.producers import Job

# auto_gptq/modeling/_base.py, from_pretrained
_SAYS = "Load pretrained model to do quantization requires CUDA available."


def produce(job: Job) -> None:
    """Writes the quantized folder. Raises MissingNeed without CUDA, in auto-gptq's own words, or without auto-gptq."""
    import torch
    import transformers

    if not torch.cuda.is_available():
        raise MissingNeed("cuda", f'auto-gptq 0.7.1 does not quantize here: "{_SAYS}"', "run on a machine with an NVIDIA GPU")
    try:
        from auto_gptq import AutoGPTQForCausalLM, BaseQuantizeConfig
    except ImportError as error:
        how = "python -m pip install auto-gptq==0.7.1, into the environment legacy"
        raise MissingNeed("autogptq", f"auto-gptq is not installed ({error})", how) from error
    source = producers.as_version_4(job.source, job.out.with_name("source"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), local_files_only=True)
    blocks, account = producers.blocks(job, tokenizer)
    recipe = job.recipe
    config = BaseQuantizeConfig(bits=recipe["bits"], group_size=recipe["group_size"], sym=recipe["symmetric"], desc_act=False)
    model = AutoGPTQForCausalLM.from_pretrained(str(source), config, trust_remote_code=False)
    model.quantize([_row(ids) for ids in blocks], batch_size=1)
    model.save_quantized(str(job.out), use_safetensors=True)
    weights = next(job.out.glob("*.safetensors"))
    weights.rename(job.out / "model.safetensors")  # it names the file after bits and group
    producers.finish(job, producers.written_config(job.out), account, ("auto-gptq",))


def _row(ids: list[int]) -> dict[str, Any]:
    import torch

    return {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}


if __name__ == "__main__":
    producers.main(produce)
