"""Training an adapter with trl and peft: supervised or by preference, on a CPU or one GPU, by the same recipe.

On a shared machine start Python with ``OMP_WAIT_POLICY=PASSIVE``: with the default, OpenMP's threads spin while they
wait, and another busy process took a step from 2.3 s to 48 s. The same seed on the same number of threads gave
bit-identical adapters.
"""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, SubjectError, TrainingError
from harness.store import digest_file, digest_json
from harness.train import checkpoints, memory
from harness.train.recipe import Recipe
from harness.train.rows import Pair, Row, check_rows, columns, digest_rows
from harness.train.trainer import build, libraries, load_base, versions

__all__ = ["Pair", "Row", "digest_base", "train"]

_CURVES = {"loss": "loss", "learning_rate": "lr", "grad_norm": "grad_norm"}


def train(
    base: str | Path,
    rows: Sequence[Row | Pair],
    out: str | Path,
    recipe: Recipe,
    *,
    work: str | Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    stop_after: int | None = None,
) -> dict[str, Any]:
    """Trains an adapter for the model in ``base`` on ``rows`` and writes it to ``out``; returns what training.json says.

    ``rows`` are (messages, answer) for sft, (messages, chosen, rejected) else; the loss covers the answers only (but for the
    likelihood in ORPO's, which covers the prompt too, in trl as in the paper's code). ``out``
    gets adapter_model.safetensors (float32), adapter_config.json and, last, training.json: outcome ("finished", "failed"
    with its ``cause``, "stopped"), recipe, rows, steps, curves with one number a step (loss in nats per token of the
    answer for sft; lr; grad_norm before clipping; rewards for preferences), seconds, peak_rss_bytes, peak_cuda_bytes (None
    without CUDA), threads, device, versions, SHA-256 digests, and resumed_at (None, or the step it went on from).
    ``progress`` is called after every step with the step, the number of steps and the loss. ``work`` holds sealed
    checkpoints of one run at a time: a run that finds one goes on from it. ``stop_after`` ends the run with a checkpoint after that step.

    Raises TrainingError for a run that failed, after it was written down; SubjectError, and nothing written, for a base
    or rows that are none; MissingNeed without trl, peft or bitsandbytes.
    """
    torch = libraries(recipe)["torch"]
    base, out = Path(base), Path(out)
    if stop_after is not None and work is None:
        raise SubjectError("stop_after needs a work folder: the checkpoint it ends with is kept there")
    digests = {"base": digest_base(base), "rows": digest_rows(rows, recipe)}
    out.mkdir(parents=True, exist_ok=True)
    (out / "training.json").unlink(missing_ok=True)  # while we run, nothing here is finished
    report = _opening(torch, recipe, len(rows), digests)
    run = _Run(base, rows, recipe, Path(work) if work is not None else None, report, progress, stop_after)
    meter = memory.Meter(torch)
    started, failure = time.monotonic(), None
    try:
        trained = run.train()
        if trained is not None:
            digests["adapter"] = _save(trained, out, base.name)
    except Exception as error:  # whatever it was: a run that failed is evidence too
        failure = error
        report.update(outcome="failed", cause=_cause(error, len(report["loss"])))
    report.update(seconds=round(time.monotonic() - started, 1), **meter.peaks())
    checkpoints.write_json(out / "training.json", report)
    if failure is not None:
        raise TrainingError(f"training failed: {report['cause']}") from failure
    return report


@dataclass(frozen=True, slots=True)
class _Run:
    """One run: what its parts share."""

    base: Path
    rows: Sequence[Row | Pair]
    recipe: Recipe
    work: Path | None
    report: dict[str, Any]
    progress: Callable[[int, int, float], None] | None
    stop_after: int | None

    def train(self) -> Any:
        """The trained model; None for a run that was told to stop before its end."""
        identity = {
            "recipe": self.recipe.same(),
            **{key: self.report["digests"][key] for key in ("base", "rows")},
            **{key: self.report[key] for key in ("versions", "threads", "device")},
        }
        found = checkpoints.latest(self.work, identity) if self.work is not None else None
        tokenizer, model = load_base(self.base, self.recipe.dtype, quantized=self.recipe.method == "qlora")
        check_rows(tokenizer, self.rows, self.recipe)
        with tempfile.TemporaryDirectory(prefix="train-") as scratch:
            sealing = partial(checkpoints.sealing, work=self.work, identity=identity, base=self.base.name)
            trainer = build(tokenizer, model, columns(tokenizer, self.rows, self.recipe), self.recipe, scratch, wrap=sealing)
            self._check_kept(trainer.train_dataset)
            steps = self._plan(trainer)
            done = checkpoints.step_of(found) if found is not None else 0
            if found is not None:
                self._recall(found, done)
            if self.stop_after is None or done < min(self.stop_after, steps):
                trainer.train(resume_from_checkpoint=str(found) if found is not None else None)
        return self._finish(trainer, steps)

    def _plan(self, trainer: Any) -> int:
        """Steps of the whole run, known only now: packing decides how many sequences there are."""
        recipe = self.recipe
        batches = math.ceil(len(trainer.train_dataset) / recipe.batch)
        steps = recipe.steps or recipe.epochs * math.ceil(batches / recipe.accumulate)
        trainer.args.warmup_steps = round(recipe.warmup * steps)
        trainer.add_callback(self._callback(steps))
        self.report["steps"] = steps
        return steps

    def _check_kept(self, dataset: Any) -> None:
        kept = sum(map(len, dataset["seq_lengths"])) if self.recipe.packing else len(dataset)
        if kept != len(self.rows):
            raise TrainingError(f"trl kept {kept} of {len(self.rows)} training rows; expected all of them: raise max_length")
        # a row whose answer is masked away contributes nothing and raises nothing
        for index, row in enumerate(dataset):
            for name in ("labels", "chosen_labels", "rejected_labels"):
                if name in row and all(label == -100 for label in row[name]):
                    raise TrainingError(f"training row {index} has no token of its answer left in {name} after tokenization")

    def _callback(self, steps: int) -> Any:
        from transformers import TrainerCallback

        report, every, progress = self.report, self.recipe.save_every if self.work is not None else 0, self.progress
        last = min(self.stop_after or steps, steps)

        class Curve(TrainerCallback):  # type: ignore[misc]
            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
                if logs and "loss" in logs:
                    _append(report, logs, state.global_step)
                    if progress is not None:
                        progress(state.global_step, steps, report["loss"][-1])

            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                if state.global_step == last < steps:
                    control.should_save = control.should_training_stop = True
                elif every and state.global_step % every == 0:
                    control.should_save = True

        return Curve()

    def _recall(self, checkpoint: Path, done: int) -> None:
        """The curve so far, out of a checkpoint."""
        from transformers import TrainerState

        self.report["resumed_at"] = done
        state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
        for logs in state.log_history:
            if "loss" in logs:
                _append(self.report, logs, logs["step"])

    def _finish(self, trainer: Any, steps: int) -> Any:
        done = len(self.report["loss"])
        if self.stop_after is not None and self.stop_after <= done < steps:
            self.report["outcome"] = "stopped"
            return None
        if done != steps:
            raise TrainingError(f"training took {done} steps, expected {steps}: rows were dropped or cut")
        for name, parameter in trainer.model.named_parameters():
            if parameter.requires_grad and not bool(parameter.isfinite().all()):
                raise TrainingError(f"tensor {name!r} is not finite after training; lower the learning rate")
        if end := _diverged(self.report["loss"]):
            raise TrainingError(f"the loss ended at {end:.3g}, from {self.report['loss'][0]:.3g}: it diverged; lower the learning rate")
        self.report["outcome"] = "finished"
        return trainer.model


def digest_base(base: Path) -> str:
    """SHA-256 over a model folder's config and weights. Raises SubjectError if there are none."""
    if not (base / "config.json").is_file():
        raise SubjectError(f"{base}: no config.json; expected a Hugging Face model folder to tune")
    weights = sorted(base.glob("*.safetensors"))
    if not weights:
        raise SubjectError(f"{base}: no safetensors weights; pickled ones are never loaded, save them as safetensors")
    return digest_json({path.name: digest_file(path) for path in (base / "config.json", *weights)})


def _opening(torch: Any, recipe: Recipe, n_rows: int, digests: dict[str, str]) -> dict[str, Any]:
    return {
        "outcome": None, "cause": None, "recipe": asdict(recipe), "rows": n_rows, "steps": None,
        "loss": [], "lr": [], "grad_norm": [], "rewards": {}, "resumed_at": None,
        "threads": torch.get_num_threads(), "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "versions": versions(), "digests": digests,
    }  # fmt: skip


def _append(report: dict[str, Any], logs: Mapping[str, Any], step: int) -> None:
    """One step's numbers. Raises TrainingError for one that is not finite, before it is kept."""
    numbers = {name: float(logs[key]) for key, name in _CURVES.items() if key in logs}
    rewards = {key.removeprefix("rewards/"): float(value) for key, value in logs.items() if key.startswith("rewards/")}
    for name, value in {**numbers, **rewards}.items():
        if not math.isfinite(value):
            raise TrainingError(f"non-finite {name} at step {step}: {value}; lower the learning rate")
    for name, value in numbers.items():
        report[name].append(value)
    for name, value in rewards.items():
        report["rewards"].setdefault(name, []).append(value)


def _diverged(losses: Sequence[float]) -> float:
    """Where the last quarter of a curve lies if that is more than twice where it began, else 0: nothing was learned, much was lost."""
    part = max(1, len(losses) // 4)
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    return last if len(losses) >= 4 and last > 2 * max(first, losses[0]) else 0.0


def _cause(error: Exception, done: int) -> str:
    """What went wrong, in words."""
    said = (str(error).strip().splitlines() or [""])[0]
    if isinstance(error, HarnessError):
        return str(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said:
        return f"out of memory after {done} steps: lower batch (and raise accumulate) or max_length"
    return f"{type(error).__name__} after {done} steps: {said}"


def _save(model: Any, out: Path, base: str) -> str:
    """Moves the adapter to ``out``, each file in one step; the digest of its weights."""
    part = Path(tempfile.mkdtemp(prefix=".adapter.", dir=out))
    try:
        checkpoints.write_adapter(model, part, base)
        for path in sorted(part.iterdir()):
            checkpoints.sync(path)
            path.replace(out / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return digest_file(out / "adapter_model.safetensors")
