"""One module a library that quantizes, each run as a process of its own.

    python -m harness.quant.producers.NAME SPEC.json

A process of its own because these libraries keep what they took (memory, threads, patched classes), and
because two of them cannot share an environment with the others. What is here they share: the
specification, the calibration blocks, the progress lines, and what lies beside the weights. Standard
library only at import, as everywhere, and no more than Python 3.11 and transformers 4.51 at use.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from harness.errors import EngineError, HarnessError, MissingNeed, SubjectError

__all__ = ["NO_CALIBRATION", "Job", "as_version_4", "blocks", "finish", "main", "written_config"]

# Beside the weights nothing changes: a producer that rewrites the template or the end of sequence
# would be measured for that, and not for its rounding.
_SIDECARS = (
    "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """What a producer is asked: the recipe's fields, folders, calibration rows, and how to say how far it is."""

    recipe: Mapping[str, Any]
    source: Path
    out: Path
    rows: Sequence[Mapping[str, Any]]
    blocks: int
    tokens: int
    seed: int
    threads: int
    stream: TextIO

    def progress(self, done: int, total: int) -> None:
        """Tells the parent: ``done`` of ``total`` layers."""
        print(json.dumps({"done": done, "total": total}), file=self.stream, flush=True)


def main(produce: Callable[[Job], None]) -> None:
    """The program of a producer. stdout carries one JSON object a line: progress, or the error it ends with."""
    spec = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    # the libraries print where they like: what they say goes to stderr, what was stdout is ours
    stream = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        _produce(produce, Job(stream=stream, **{**spec, "source": Path(spec["source"]), "out": Path(spec["out"])}))
    except MissingNeed as need:
        print(json.dumps({"error": "MissingNeed", "says": [need.need, need.why, need.how]}), file=stream, flush=True)
        sys.exit(1)
    except HarnessError as error:
        print(json.dumps({"error": type(error).__name__, "says": [str(error)]}), file=stream, flush=True)
        sys.exit(1)


def _produce(produce: Callable[[Job], None], job: Job) -> None:
    import random

    import numpy as np
    import torch

    torch.set_num_threads(job.threads)
    random.seed(job.seed)
    np.random.seed(job.seed % 2**32)
    torch.manual_seed(job.seed)
    produce(job)


def as_version_4(source: Path, folder: Path) -> Path:
    """The model in ``source`` as transformers 4 reads it: links in ``folder``, but for three names that version 5 changed.

    Version 4.51 would not complain: it takes 10,000 for a rotary base that it does not find under the old name,
    and calibrates on a model that no one has.
    """
    folder.mkdir()
    for path in source.resolve().iterdir():
        (folder / path.name).symlink_to(path)
    config = json.loads((source / "config.json").read_text("utf-8"))
    rope = dict(config.pop("rope_parameters", None) or {})
    if "rope_theta" in rope:
        config["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype", config.get("torch_dtype"))
    settings = json.loads((source / "tokenizer_config.json").read_text("utf-8"))
    if settings.get("tokenizer_class") == "TokenizersBackend":
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    for name, value in (("config.json", config), ("tokenizer_config.json", settings)):
        (folder / name).unlink()
        _write(folder / name, value)
    return folder


# --- calibration ---------------------------------------------------------------------------------

NO_CALIBRATION: Mapping[str, Any] = {"blocks": 0, "tokens": 0, "rows": []}


def blocks(job: Job, tokenizer: Any) -> tuple[list[list[int]], dict[str, Any]]:
    """The token blocks, and the account of them for ``calibration.json``.

    Raises SubjectError if the rows do not fill the blocks: a smaller calibration is another one.
    """
    wanted = job.blocks * job.tokens
    stream: list[int] = []
    used: list[dict[str, Any]] = []
    for row in job.rows:
        if len(stream) >= wanted:
            break
        text = _text(row, tokenizer)
        ids = list(map(int, tokenizer(text, add_special_tokens=False)["input_ids"]))
        used.append({"id": row["id"], "sha256": hashlib.sha256(text.encode()).hexdigest(), "tokens": len(ids)})
        stream += ids
    if len(stream) < wanted:
        raise SubjectError(
            f"calibration: {len(job.rows)} rows hold {len(stream)} tokens, expected {job.blocks} blocks of {job.tokens}; "
            "give more rows or ask for fewer blocks"
        )
    packed = [stream[i : i + job.tokens] for i in range(0, wanted, job.tokens)]
    digest = hashlib.sha256(",".join(map(str, stream[:wanted])).encode()).hexdigest()
    return packed, {"blocks": job.blocks, "tokens": job.tokens, "token_ids_sha256": digest, "rows": used}


def _text(row: Mapping[str, Any], tokenizer: Any) -> str:
    if not row["messages"]:
        return f"{row['content']}\n\n"  # texts lie packed one behind the other: an empty line parts them
    return str(tokenizer.apply_chat_template([dict(m) for m in row["messages"]], tokenize=False))


# --- the folder ----------------------------------------------------------------------------------


def finish(
    job: Job,
    quantization: Mapping[str, Any],
    calibration: Mapping[str, Any],
    packages: Sequence[str],
    fallbacks: Mapping[str, str] | None = None,
) -> None:
    """Completes the folder: the source's config with ``quantization``, its tokenizer files, ``calibration.json``.

    ``fallbacks`` are the layers that did not get what the recipe promises, and why. Whatever else the
    library wrote is removed; pickles and code included.
    """
    for path in job.out.iterdir():
        if not path.name.endswith(".safetensors") and path.name != "model.safetensors.index.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    config = json.loads((job.source / "config.json").read_text("utf-8"))
    _write(job.out / "config.json", {**config, "quantization_config": dict(quantization)})
    for name in _SIDECARS:
        if (job.source / name).is_file():
            shutil.copyfile(job.source / name, job.out / name)
    versions = {name: _version(name) for name in ("torch", "transformers", *packages)}
    account = {"recipe": dict(job.recipe), "seed": job.seed, "threads": job.threads, "device": _device(), "versions": versions}
    _write(job.out / "calibration.json", {**account, **calibration, "fallbacks": dict(sorted((fallbacks or {}).items()))})


def written_config(folder: Path) -> dict[str, Any]:
    """The ``quantization_config`` that the library wrote. Raises EngineError if it wrote none."""
    found = json.loads((folder / "config.json").read_text("utf-8")).get("quantization_config")
    if not isinstance(found, dict):
        raise EngineError(f"{folder}: the library wrote no quantization_config; the folder is not quantized")
    return found


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


def _device() -> str:
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else "cpu"


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
