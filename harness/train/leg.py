"""One leg of a drill: a training in this process, watched from outside, and what it did to held-out rows.

Torch's own hooks see which rows reach the model, what the optimizer holds and how the weights lie in memory, so that no
line of the code under test reports on itself.

    python -m harness.train.leg LEG.json      what was found goes beside the file
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from harness.errors import HarnessError
from harness.store import digest_file, digest_json
from harness.train.recipe import Recipe
from harness.train.rows import Row

__all__ = ["ADAPTER", "FORGETS", "findings", "held_out_losses", "leg"]

FORGETS = ("optimizer", "position", "rng")
"""What a resumed leg can be made to forget: the optimizer's state, the place in the data, the random numbers."""

ADAPTER = "adapter_model.safetensors"
_HELD_OUT_BATCH = 8


def findings(place: Path) -> Path:
    """Where a leg told by the file ``place`` leaves what it found."""
    return place.with_suffix(".found.json")


def main(argv: Sequence[str]) -> int:
    """One leg: train, watched; then the held-out rows."""
    place = Path(argv[0])
    told = json.loads(place.read_text("utf-8"))
    findings(place).write_text(json.dumps(leg(told)), encoding="utf-8")
    return 0


def leg(told: Mapping[str, Any]) -> dict[str, Any]:
    """Trains as told and returns what was seen: see ``harness.train.drills.run``."""
    from harness.train.run import train

    base, folder, out = Path(told["base"]), Path(told["folder"]), Path(told["folder"]) / "out"
    recipe = Recipe(**told["recipe"])
    watch = _Watch()
    report: dict[str, Any] = {"outcome": "refused", "cause": "", "loss": []}
    with watch.on(), _forgetting(told["forgets"]):
        try:
            report = train(base, [tuple(row) for row in told["rows"]], out, recipe, work=folder / "work", stop_after=told["stop"])
        except HarnessError as error:
            if (out / "training.json").is_file():
                report = json.loads((out / "training.json").read_text("utf-8"))
            report = {**report, "cause": report.get("cause") or str(error)}
    adapter = out / ADAPTER
    said = {key: report.get(key) for key in ("outcome", "cause", "loss", "resumed_at", "device", "threads", "versions", "steps")}
    found = {**said, **watch.seen(), "adapter": digest_file(adapter) if adapter.is_file() else None, **_peaks()}
    if told["held_out"] and report["outcome"] == "finished":
        held = _held_out(base, out, [tuple(row) for row in told["held_out"]])
        if not all(math.isfinite(loss) for losses in held.values() for loss in losses):
            return {**found, "outcome": "failed", "cause": "the loss on held-out rows is not finite"}
        found["held_out"] = held
    return found


class _Watch:
    """What torch's own hooks saw: rows that reached the embedding, the optimizer, the weights as they lay in memory."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.optimizer: Any = None
        self.weights = 0

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Watches every module and optimizer of this process."""
        from torch.nn.modules.module import register_module_forward_pre_hook
        from torch.optim.optimizer import register_optimizer_step_post_hook

        hooks = (register_module_forward_pre_hook(self._forward), register_optimizer_step_post_hook(self._stepped))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _forward(self, module: Any, inputs: Any) -> None:
        from torch import nn

        if not module.training:
            return
        if not self.weights and any(isinstance(m, nn.Embedding) for m in module.modules()):
            self.weights = _weights(module)  # the first to be called is the outermost
        if isinstance(module, nn.Embedding):
            self.batches.append([_row_digest(row, module.padding_idx) for row in inputs[0].tolist()])

    def _stepped(self, optimizer: Any, *_: Any) -> None:
        self.optimizer = optimizer

    def seen(self) -> dict[str, Any]:
        """As the result of a leg has it."""
        optimizer = None if self.optimizer is None else _optimizer_digest(self.optimizer)
        return {"batches": self.batches, "optimizer": optimizer, "weights_bytes": self.weights}


def _row_digest(tokens: list[int], padding: int | None) -> str:
    """A row by its tokens, without the padding that its neighbours brought it."""
    end = len(tokens)
    while padding is not None and end and tokens[end - 1] == padding:
        end -= 1
    return digest_json(tokens[:end])[:12]


def _weights(model: Any) -> int:
    from harness.engines.loaded import loaded_from

    return sum(held.bytes for held in loaded_from(model).modules if ".lora_" not in f".{held.name}")


def _optimizer_digest(optimizer: Any) -> str:
    """SHA-256 over every tensor of the state, in the order of the parameters, and each group's numbers."""
    import torch

    digest = hashlib.sha256()
    for group in optimizer.param_groups:
        numbers = {
            key: value for key, value in group.items() if isinstance(value, (int, float, str, bool, list, tuple)) and key != "params"
        }
        digest.update(digest_json(numbers).encode())
        for parameter in group["params"]:
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                tensor = torch.as_tensor(value).detach().cpu().contiguous()
                digest.update(f"{key}{tuple(tensor.shape)}{tensor.dtype}".encode())
                digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _forgetting(what: str) -> Iterator[None]:
    """Resumes without one part of the state: what an unchecked resume would do."""
    from transformers import Trainer

    from harness.train import checkpoints

    def skipped(trainer: Any, *rest: Any, **named: Any) -> Any:
        trainer.args.ignore_data_skip = True
        return train(trainer, *rest, **named)

    train = Trainer.train
    faults: dict[str, tuple[Any, str, Any]] = {
        "optimizer": (checkpoints, "_read_optimizer", lambda *_: None),
        "position": (Trainer, "train", skipped),
        "rng": (checkpoints, "_read_generators", lambda *_: None),
    }
    with mock.patch.object(*faults[what]) if what else contextlib.nullcontext():
        yield


def _peaks() -> dict[str, int]:
    """The most memory this program has held, on the GPU if that is where it trains.

    Not ``ru_maxrss``: it survives exec, so a child of a process that once held 4 GB reports 4 GB.
    """
    import torch

    if torch.cuda.is_available():
        return {"peak_bytes": int(torch.cuda.max_memory_allocated())}
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:  # no Linux: fresh from a small parent, this is near enough
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return {"peak_bytes": peak if sys.platform == "darwin" else peak * 1024}
    return {"peak_bytes": next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024}


# --- held-out rows ------------------------------------------------------------------------------


def _held_out(base: Path, adapter: Path, rows: Sequence[Row]) -> dict[str, list[float]]:
    """The loss on each row's answer, by the base and by the base with the adapter: own code, none of the trainer's."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(str(base), local_files_only=True)
    plain = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.bfloat16, local_files_only=True, use_safetensors=True)
    model = PeftModel.from_pretrained(plain, str(adapter), local_files_only=True).to(device).eval()
    with torch.inference_mode():
        with model.disable_adapter():
            before = held_out_losses(model, tokenizer, rows)
        return {"before": before, "after": held_out_losses(model, tokenizer, rows)}


def held_out_losses(model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[float]:
    """Nats per completion token of each row."""
    import torch

    found: list[float] = []
    for start in range(0, len(rows), _HELD_OUT_BATCH):
        texts = [_tokens(tokenizer, row) for row in rows[start : start + _HELD_OUT_BATCH]]
        width = max(len(ids) for ids, _ in texts)
        padded = torch.tensor([ids + [0] * (width - len(ids)) for ids, _ in texts], device=model.device)
        seen = torch.tensor([[1] * len(ids) + [0] * (width - len(ids)) for ids, _ in texts], device=model.device)
        logits = model(input_ids=padded, attention_mask=seen).logits
        for row, (ids, answer) in enumerate(texts):
            own = torch.log_softmax(logits[row, answer - 1 : len(ids) - 1].float(), dim=-1)
            wanted = padded[row, answer : len(ids)].unsqueeze(1)
            found.append(float(-own.gather(1, wanted).mean()))
    return found


def _tokens(tokenizer: Any, row: Row) -> tuple[list[int], int]:
    """The whole conversation's tokens, and where the answer begins."""
    messages = [dict(message) for message in row[0]]
    said = [*messages, {"role": "assistant", "content": row[1]}]
    asked = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"]
    whole = tokenizer.apply_chat_template(said, tokenize=True, return_dict=True)["input_ids"]
    return list(whole), len(asked)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
