"""NF4 with double quantization by bitsandbytes, saved by transformers as safetensors."""

from __future__ import annotations

from harness.quant import producers
from harness.quant.producers import Job


def produce(job: Job) -> None:
    """Writes the quantized folder; NF4 needs no calibration."""
    import torch
    import transformers

    config = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(job.source),
        quantization_config=config,
        dtype=torch.bfloat16,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
        local_files_only=True,
        use_safetensors=True,
    )
    model.save_pretrained(job.out)
    producers.finish(job, producers.written_config(job.out), producers.NO_CALIBRATION, ("bitsandbytes", "accelerate"))


if __name__ == "__main__":
    producers.main(produce)
