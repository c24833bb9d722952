"""AWQ by autoawq itself, unmodified: no longer maintained, slow without CUDA, and the source of the AWQ format."""

from __future__ import annotations

from typing import Any

from harness.quant import producers
from harness.quant.producers import Job


def produce(job: Job) -> None:
    """Writes the quantized folder, in the layout "gemm" that every AWQ kernel reads."""
    import torch
    import transformers
    from awq import AutoAWQForCausalLM

    source = producers.as_version_4(job.source, job.out.with_name("source"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), local_files_only=True)
    blocks, account = producers.blocks(job, tokenizer)
    # float32 on a processor, where half precision is emulated; autoawq itself packs every layer in half precision
    cuda = torch.cuda.is_available()
    model = AutoAWQForCausalLM.from_pretrained(
        str(source),
        torch_dtype=torch.float16 if cuda else torch.float32,
        device_map="auto" if cuda else "cpu",
        safetensors=True,
        local_files_only=True,
        trust_remote_code=False,
    )
    recipe = job.recipe
    config = {"zero_point": True, "q_group_size": recipe["group_size"], "w_bit": recipe["bits"], "version": "GEMM"}
    unscaled: dict[str, str] = {}
    model.quantize(
        tokenizer,
        quant_config=config,
        calib_data=blocks,
        max_calib_samples=job.blocks,
        max_calib_seq_len=job.tokens,
        quantizer_cls=_watching(job, unscaled),
    )
    model.model.to(torch.float16)
    model.save_quantized(str(job.out), safetensors=True)
    producers.finish(job, producers.written_config(job.out), account, ("autoawq",), unscaled)


def _watching(job: Job, unscaled: dict[str, str]) -> Any:
    """autoawq's own quantizer, which also tells how far it is and which layers got no scale."""
    from awq.quantize.quantizer import AwqQuantizer

    class Watching(AwqQuantizer):  # type: ignore[misc]
        def _search_best_scale(self, module: Any, prev_op: Any, layers: Any, *args: Any, **kwargs: Any) -> Any:
            self.scaled = {*getattr(self, "scaled", ()), *map(id, layers)}
            return super()._search_best_scale(module, prev_op, layers, *args, **kwargs)

        def _apply_quant(self, module: Any, named_linears: dict[str, Any]) -> None:
            index = next(i for i, each in enumerate(self.modules) if each is module)
            for name, layer in named_linears.items():
                if id(layer) not in self.scaled:
                    unscaled[f"model.layers.{index}.{name}"] = "not scaled by AWQ: the layer before it has another width"
            super()._apply_quant(module, named_linears)
            job.progress(index + 1, len(self.modules))

    return Watching


if __name__ == "__main__":
    producers.main(produce)
