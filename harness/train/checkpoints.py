"""Sealed checkpoints: a run that was killed goes on as if it had not been.

    work/checkpoint-000012/adapter_model.safetensors, adapter_config.json    an adapter like any other
                           state.safetensors                                 the optimizer's moments, the generators of torch
                           state.json                                        its groups, the schedule, the generators of Python and numpy
                           trainer_state.json                                step, epoch and the curve so far
                           seal.json                                         SHA-256 of each file; recipe, base, rows, versions

Written under a temporary name, synced, sealed, renamed in one step: what has no seal was never finished. transformers
would pickle optimizer, schedule and generators with torch; here they are safetensors and JSON, so that reading a
checkpoint runs nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import TrainingError
from harness.store import digest_tree

__all__ = ["KEPT", "adapter_tensors", "latest", "seal", "sealing", "step_of", "sync", "write_adapter", "write_json"]

KEPT = 3  # the newest, and two to fall back on
_SEAL = "seal.json"


# --- folders ---------------------------------------------------------------------------------------


def write_json(path: Path, value: Any) -> None:
    """Writes JSON under a temporary name, synced, and moves it there in one step. Refuses what is not finite."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    sync(part)
    part.replace(path)
    sync(path.parent)


def seal(work: Path, step: int, identity: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
    """The sealed folder of ``step`` in ``work``, its files written by ``write(folder)``; the oldest beyond KEPT are removed."""
    work.mkdir(parents=True, exist_ok=True)
    place = work / f"checkpoint-{step:06d}"
    part = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=work))
    try:
        write(part)
        files = digest_tree(part)
        for name in files:
            sync(part / name)
        write_json(part / _SEAL, {"step": step, "files": files, "identity": dict(identity)})
        if place.exists():  # of this very step, and not taken: it did not hold
            _aside(place, "written again")
        part.rename(place)
        sync(work)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    for old in _sealed(work)[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
    return place


def latest(work: Path, identity: Mapping[str, Any]) -> Path | None:
    """The newest checkpoint in ``work`` that holds what it was sealed with; None if there is none.

    A damaged one is moved aside with a line on stderr, and the next older one is taken. Raises TrainingError for a sound
    one of another run (recipe, base, rows, versions, threads or device differ): to go on from it would be a third thing.
    """
    for left in work.glob(".checkpoint-*"):  # of a run killed while it wrote
        shutil.rmtree(left, ignore_errors=True)
    for folder in _sealed(work):
        found, why = _read(folder)
        if found is None:
            _aside(folder, why)
            continue
        differ = [key for key in identity if found["identity"].get(key) != identity[key]]
        if differ:
            raise TrainingError(f"{folder}: a checkpoint of another run: {_differences(found['identity'], identity, differ)}; "
                                "name another work folder, or remove this one to start over")  # fmt: skip
        return folder
    return None


def step_of(folder: Path) -> int:
    """The step after which a checkpoint was taken."""
    return int(folder.name.removeprefix("checkpoint-"))


def _sealed(work: Path) -> list[Path]:
    """Newest first. An unsealed folder of this name is listed too: it is damaged."""
    return sorted((p for p in work.glob("checkpoint-*") if p.is_dir() and p.name[11:].isdecimal()), key=step_of, reverse=True)


def _read(folder: Path) -> tuple[dict[str, Any] | None, str]:
    try:
        found = json.loads((folder / _SEAL).read_text("utf-8"))
        files, _ = found["files"], found["identity"].items()
        now = digest_tree(folder)
        if found["step"] != step_of(folder) or not files:
            return None, f"its seal is of step {found['step']}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return None, f"no seal can be read ({type(error).__name__})"
    changed = sorted(name for name in files.keys() | now.keys() if files.get(name) != now.get(name))
    return (None, f"{', '.join(changed)} differ from the seal") if changed else (found, "")


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], keys: list[str]) -> str:
    told = []
    for key in keys:
        a, b = theirs.get(key), ours[key]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            told += [f"{key}.{k} is {a.get(k)!r} there, {b.get(k)!r} here" for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
        else:
            told.append(f"{key} is {str(a)[:12]!r} there, {str(b)[:12]!r} here")
    return ", ".join(told)


def _aside(folder: Path, why: str) -> None:
    aside = folder.with_name(f"damaged-{folder.name}-{time.time_ns()}")
    folder.rename(aside)
    print(f"train: {folder} is not resumed from: {why}; moved to {aside.name}", file=sys.stderr)


def sync(path: Path) -> None:
    """The bytes of a file, or the names in a folder, are on the disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- what is in them -------------------------------------------------------------------------------


def write_adapter(model: Any, folder: Path, base: str) -> None:
    """The adapter of a peft model in float32, and its configuration in one order, whatever the hash seed."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in adapter_tensors(model).items()}
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {**model.peft_config["default"].to_dict(), "base_model_name_or_path": base, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in sorted(config.items())}
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=1) + "\n", encoding="utf-8")


def adapter_tensors(model: Any) -> dict[str, Any]:
    """The tensors of a peft model's adapter, by the names they have in a file."""
    import peft

    # "auto" would ask a hub whether the vocabulary was resized
    tensors: dict[str, Any] = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    return tensors


def sealing(trainer: type, work: Path | None, identity: Mapping[str, Any], base: str) -> type:
    """``trainer`` (a class of trl) that keeps its checkpoints in ``work`` as described above, and reads no others."""

    class Sealing(trainer):  # type: ignore[misc]
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            def write(folder: Path) -> None:
                write_adapter(self.model, folder, base)
                _write_state(self, folder)
                self.state.save_to_json(str(folder / "trainer_state.json"))

            assert work is not None  # nobody asks for a checkpoint without a place for it
            seal(work, self.state.global_step, identity, write)

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            _read_adapter(self.model, Path(resume_from_checkpoint))

        def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
            if checkpoint is not None:
                _read_optimizer(self, Path(checkpoint))

        def _load_rng_state(self, checkpoint: str | None) -> None:
            if checkpoint is not None:
                _read_generators(Path(checkpoint))

    return Sealing


def _read_adapter(model: Any, folder: Path) -> None:
    import peft
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    if tensors.keys() != adapter_tensors(model).keys():
        raise TrainingError(f"{folder}: the adapter holds other tensors than this recipe trains")
    peft.set_peft_model_state_dict(model, tensors)


def _write_state(trainer: Any, folder: Path) -> None:
    import random

    import numpy as np
    import torch
    from safetensors.torch import save_file

    optimizer = trainer.optimizer.state_dict()
    tensors = {f"optimizer.{i}.{name}": tensor.cpu() for i, moments in optimizer["state"].items() for name, tensor in moments.items()}
    tensors["torch.cpu"] = torch.get_rng_state()
    if torch.cuda.is_available():
        tensors["torch.cuda"] = torch.cuda.get_rng_state()
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, folder / "state.safetensors")
    kind, keys, *rest = np.random.get_state(legacy=True)
    state = {
        "groups": optimizer["param_groups"],
        "schedule": trainer.lr_scheduler.state_dict(),
        "python": random.getstate(),
        "numpy": [kind, [int(word) for word in keys], *rest],
    }
    (folder / "state.json").write_text(json.dumps(state, allow_nan=False), encoding="utf-8")


def _read_optimizer(trainer: Any, folder: Path) -> None:
    from safetensors.torch import load_file

    state: dict[int, dict[str, Any]] = {}
    for name, tensor in load_file(folder / "state.safetensors").items():
        if name.startswith("optimizer."):
            _, index, moment = name.split(".")
            state.setdefault(int(index), {})[moment] = tensor
    kept = json.loads((folder / "state.json").read_text("utf-8"))
    groups = [{**group, "betas": tuple(group["betas"])} for group in kept["groups"]]
    trainer.optimizer.load_state_dict({"state": state, "param_groups": groups})
    trainer.lr_scheduler.load_state_dict(kept["schedule"])


def _read_generators(folder: Path) -> None:
    import random

    import numpy as np
    import torch
    from safetensors.torch import load_file

    kept, tensors = json.loads((folder / "state.json").read_text("utf-8")), load_file(folder / "state.safetensors")
    version, words, gauss = kept["python"]
    random.setstate((version, tuple(words), gauss))
    kind, keys, *rest = kept["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(tensors["torch.cpu"])
    if "torch.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["torch.cuda"])
