"""Quantization recipes: what a name promises, what cannot be made, and the making, in a process of its own.

A name is parsed, not looked up: ``gptq-w4g64`` is GPTQ with 4-bit weights in groups of 64 columns, and
``gptq-w4g64+gptqmodel`` the same by another library. Standard library only; the libraries are imported in
the producer's process. GGUF recipes are in ``harness.quant.gguf``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.engines.common import install, load_json, safetensors_entries
from harness.errors import EngineError, HarnessError, MissingNeed, StoreError, SubjectError, nearest
from harness.progress import Progress
from harness.quant.calibration import BLOCKS, TOKENS, Calibration

__all__ = ["EXAMPLES", "Fallback", "Recipe", "fallbacks", "make", "parse", "refuse", "require", "versions"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a recipe's name says. ``group_size`` None is one scale a row (a block of 64 values for NF4).

    ``activations`` is the number of bits of a layer's inputs, quantized as they come; None leaves them.
    ``environment`` names the environment that the producer runs in; None is this one. ``blocks`` of ``tokens``
    tokens is how much it calibrates with: the same for all but autoawq, which is too slow without CUDA.
    """

    name: str
    method: str
    producer: str
    bits: int
    type: str  # "int", "float", "nf4"
    group_size: int | None = None
    symmetric: bool = True
    activations: int | None = None
    needs_calibration: bool = False
    environment: str | None = None
    blocks: int = BLOCKS
    tokens: int = TOKENS


@dataclass(frozen=True, slots=True)
class Fallback:
    """A layer that the producer treated otherwise than the recipe says, and why."""

    layer: str
    why: str


# --- names ---------------------------------------------------------------------------------------

EXAMPLES = ("gptq-w4g64", "awq-w4g64", "int8-w8a8", "int8-w8a16", "fp8-dynamic", "nf4", "nvfp4", "mxfp4",
            "gptq-w4g64+gptqmodel", "gptq-w4g64+autogptq", "awq-w4g64+autoawq")  # fmt: skip
_FIXED: Mapping[str, Mapping[str, Any]] = {
    "int8-w8a8": {"method": "int8", "bits": 8, "type": "int", "activations": 8},
    "int8-w8a16": {"method": "int8", "bits": 8, "type": "int"},
    "fp8-dynamic": {"method": "fp8", "bits": 8, "type": "float", "activations": 8},
    "nf4": {"method": "nf4", "bits": 4, "type": "nf4", "group_size": 64},
    "nvfp4": {"method": "nvfp4", "bits": 4, "type": "float", "group_size": 16, "activations": 4, "needs_calibration": True},
    "mxfp4": {"method": "mxfp4", "bits": 4, "type": "float", "group_size": 32, "activations": 4},
}
_GROUPED = re.compile(r"(gptq|awq)-w([2348])g([1-9][0-9]{0,4})")
# method -> producers, the default first
_PRODUCERS: Mapping[str, tuple[str, ...]] = {
    "gptq": ("llmcompressor", "gptqmodel", "autogptq"),
    "awq": ("llmcompressor", "autoawq"),
    "nf4": ("bitsandbytes",),
}
_ENVIRONMENTS = {"gptqmodel": "gptqmodel", "autoawq": "legacy", "autogptq": "legacy"}
# Its search for clipping bounds costs time in proportion to the tokens, up to 512 of them.
_SIZES: Mapping[str, Mapping[str, Any]] = {"autoawq": {"blocks": 2, "tokens": 64}}


def parse(name: str) -> Recipe:
    """The recipe that ``name`` says. Raises SubjectError for one that says nothing, with the nearest that does."""
    scheme, plus, producer = name.partition("+")
    grouped = _GROUPED.fullmatch(scheme)
    if grouped:
        method, bits, group = grouped[1], int(grouped[2]), int(grouped[3])
        facts: Mapping[str, Any] = {
            "method": method, "bits": bits, "type": "int", "group_size": group, "symmetric": method == "gptq", "needs_calibration": True,
        }  # fmt: skip
    elif scheme in _FIXED:
        facts = _FIXED[scheme]
    else:
        raise SubjectError(f"unknown quantization recipe {name!r}; {nearest(name, list(EXAMPLES))} (any bits and group: gptq-w3g32)")
    if facts["method"] == "awq" and facts["bits"] != 4:
        raise SubjectError(
            f"recipe {name!r}: AWQ is defined for 4 bits here, as its checkpoint format is; use awq-w4g{facts['group_size']}"
        )
    makers = _PRODUCERS.get(facts["method"], ("llmcompressor",))
    producer = producer if plus else makers[0]
    if producer not in makers:
        raise SubjectError(f"recipe {name!r}: {producer!r} does not make {facts['method']}; {nearest(producer, list(makers))}")
    return Recipe(name=name, producer=producer, environment=_ENVIRONMENTS.get(producer), **facts, **_SIZES.get(producer, {}))


# --- what cannot be made -------------------------------------------------------------------------


def refuse(recipe: Recipe, folder: Path) -> None:
    """Raises what stands in the way of ``recipe`` on the model in ``folder``, before any work; reads headers only.

    SubjectError for an already quantized source, a model without linear layers, or widths that the recipe or
    the kernel that will serve it cannot take; MissingNeed for a library or device that is not here.
    """
    widths = _linear_widths(folder)
    for layer, (rows, columns) in widths.items():
        _refuse_widths(recipe, folder, layer, rows, columns, widths)
    require(recipe)


def _linear_widths(folder: Path) -> dict[str, tuple[int, int]]:
    """Rows and columns of every linear layer of the blocks, by layer name."""
    config = load_json(folder / "config.json")
    if config.get("quantization_config"):
        method = config["quantization_config"]
        method = method.get("quant_method", "unnamed") if isinstance(method, dict) else "unnamed"
        raise SubjectError(f"{folder}: already quantized ({method}); quantizing twice adds both losses: give the unquantized folder")
    entries = safetensors_entries(folder)
    for name, (_, kind, _, _) in entries.items():
        if kind not in ("F32", "F16", "BF16"):
            raise SubjectError(f"{folder}: already quantized (tensor {name!r} is {kind}); expected F32, F16 or BF16")
    found = {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, (_, _, shape, _) in sorted(entries.items())
        if name.endswith(".weight") and len(shape) == 2 and _in_a_block(name)
    }
    if not found or config.get("model_type") in _CONV1D:
        raise SubjectError(f"{folder}: no linear layer in any block ({config.get('model_type')!r}); there is nothing to quantize")
    return found


_CONV1D = ("gpt2", "openai-gpt", "imagegpt")  # their matrices stand the other way round, and are no linear layers to any producer


def _in_a_block(name: str) -> bool:
    """Matrices of the repeated blocks: ``model.layers.3.mlp.up_proj.weight``; embeddings and the output matrix are none."""
    return re.search(r"\.\d+\.", name) is not None and "embed" not in name


_KERNEL = 32  # vLLM's kernels for 4-bit weights take rows and columns in 32s (W4A16, vLLM 0.32)
_CLIP = 64  # autoawq searches clipping bounds for so many rows at a time, of all layers but q and k


def _refuse_widths(recipe: Recipe, folder: Path, layer: str, rows: int, columns: int, widths: Mapping[str, tuple[int, int]]) -> None:
    group, where = recipe.group_size, f"{folder}: recipe {recipe.name}"
    if recipe.method == "nf4" or group is None:
        return  # a scale a row, or blocks that run over the ends of rows: any width will do
    if columns % group:
        fit = [g for g in (16, 32, 64, 128, 256) if all(c % g == 0 for _, c in widths.values())]
        better = ", ".join(map(str, fit)) or "none of 16 to 256"
        raise SubjectError(f"{where}: groups of {group} do not divide the {columns} columns of {layer}; fits every layer: {better}")
    if recipe.method in ("gptq", "awq") and (rows % _KERNEL or columns % _KERNEL):
        raise SubjectError(f"{where}: {layer} is {rows} x {columns}; the kernels that serve it take multiples of {_KERNEL} only")
    if recipe.producer == "autoawq" and rows % _CLIP and not layer.endswith(("q_proj", "k_proj")):
        raise SubjectError(f"{where}: {layer} has {rows} rows; autoawq takes multiples of {_CLIP} only")


# producer -> distributions whose versions shape what it writes
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "llmcompressor": ("llmcompressor", "compressed-tensors", "torch", "transformers"),
    "bitsandbytes": ("bitsandbytes", "torch", "transformers", "accelerate"),
}


def require(recipe: Recipe) -> None:
    """Raises MissingNeed if the library or the environment that makes ``recipe`` is not here; imports neither."""
    if recipe.environment is not None:
        _python(recipe)
    elif find_spec(recipe.producer) is None:
        raise MissingNeed(recipe.producer, f"{recipe.name} is made by {recipe.producer}, which is not installed", install("compress"))


def versions(recipe: Recipe) -> dict[str, str]:
    """Versions of the packages that shape what ``recipe`` makes. Raises MissingNeed as ``require`` does."""
    require(recipe)
    if recipe.environment is not None:
        from harness import environments

        return environments.versions(recipe.environment)
    return {name: metadata.version(name) for name in _PACKAGES[recipe.producer]}


def _python(recipe: Recipe) -> str:
    if recipe.environment is None:
        return sys.executable
    from harness import environments

    return str(environments.python(recipe.environment))


# --- making --------------------------------------------------------------------------------------


def make(
    recipe: Recipe, source: Path, calibration: Calibration | None, out: Path, *, threads: int, seed: int = 0, progress: Progress
) -> list[Fallback]:
    """Writes the quantized folder ``out`` in a process of its own, and returns the layers that fell back.

    It holds safetensors, the source's configuration with a ``quantization_config``, its tokenizer files
    unchanged, and ``calibration.json``: recipe, seed, threads, device, versions, every text used by SHA-256
    and number of tokens, and the layers that fell back. ``calibration`` may be None for a recipe that needs
    none. ``progress`` hears of layers, where the library lets us count them.

    Raises what ``refuse`` raises, MissingNeed for what the producer does not find, and EngineError with the
    end of its output if it dies; ``out`` is then as it was.
    """
    refuse(recipe, source)
    if recipe.needs_calibration and calibration is None:
        raise SubjectError(f"recipe {recipe.name} needs calibration texts; give the sample that harness.quant.calibration.choose draws")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as scratch:  # beside its place: no copy, and swept with it if we are killed
        made = Path(scratch) / "model"
        made.mkdir()
        spec = Path(scratch) / "spec.json"
        spec.write_text(json.dumps(_spec(recipe, source, calibration, made, threads, seed)), "utf-8")
        _run(recipe, spec, Path(scratch) / "log", threads, progress)
        _check(recipe, made)
        for path in sorted(made.iterdir()):
            path.replace(out / path.name)
    return fallbacks(out)


def fallbacks(folder: Path) -> list[Fallback]:
    """The layers of a folder that ``make`` wrote which its producer treated otherwise than the recipe says."""
    found = load_json(folder / "calibration.json").get("fallbacks", {})
    return [Fallback(str(layer), str(why)) for layer, why in found.items()]


def _spec(recipe: Recipe, source: Path, calibration: Calibration | None, made: Path, threads: int, seed: int) -> dict[str, Any]:
    needed = calibration if recipe.needs_calibration else None
    return {
        "recipe": asdict(recipe), "source": str(source.resolve()), "out": str(made.resolve()), "seed": seed, "threads": threads,
        "rows": [asdict(row) for row in needed.rows] if needed else [],
        "blocks": needed.blocks if needed else 0, "tokens": needed.tokens if needed else 0,
    }  # fmt: skip


def _command(recipe: Recipe, spec: Path) -> list[str]:
    return [_python(recipe), "-m", f"harness.quant.producers.{recipe.producer}", str(spec)]


def _run(recipe: Recipe, spec: Path, log: Path, threads: int, progress: Progress) -> None:
    refused: Exception | None = None
    with log.open("wb") as said, _process(_command(recipe, spec), spec.parent, said, threads) as process:
        assert process.stdout is not None  # a pipe, as asked for
        for line in process.stdout:
            event = json.loads(line)
            if "error" in event:
                refused = _ERRORS[event["error"]](*event["says"])
            else:
                progress(recipe.name, event["done"], event["total"])
    if refused is not None:
        raise refused
    if process.returncode != 0:
        end = "\n  ".join(log.read_text("utf-8", errors="replace").rstrip().splitlines()[-8:]) or "it says nothing"
        how = f"status {process.returncode}; nothing was kept. Its last words:\n  {end}"
        raise EngineError(f"making {recipe.name} with {recipe.producer} ended with {how}")


_ERRORS: Mapping[str, type[HarnessError]] = {each.__name__: each for each in (SubjectError, EngineError, StoreError, MissingNeed)}


@contextmanager
def _process(command: list[str], folder: Path, said: Any, threads: int) -> Iterator[subprocess.Popen[str]]:
    """The producer, dead when the block ends, however it ends. What it drops into its working folder is swept with it."""
    # this package alone, not the packages beside it: another environment has its own
    (folder / "import").mkdir(exist_ok=True)
    (folder / "import" / "harness").symlink_to(Path(__file__).resolve().parents[1], target_is_directory=True)
    # waiting OpenMP threads must not spin on a shared machine; no hub is asked for anything
    quiet = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(folder / "import")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=said, text=True, encoding="utf-8", env=environment, cwd=folder
    ) as process:
        try:
            yield process
        except BaseException:
            process.kill()  # before the block's end, which waits for it
            raise


def _check(recipe: Recipe, made: Path) -> None:
    """A producer that ends well and writes no quantized model is not believed."""
    names = {path.name for path in made.iterdir()}
    pickled = sorted(n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl", ".py")))
    if pickled or not {"config.json", "calibration.json"} <= names:
        raise EngineError(f"{recipe.producer} made {sorted(names)}; expected safetensors, config.json and calibration.json, and no pickles")
    types = {kind for _, kind, shape, _ in safetensors_entries(made).values() if len(shape) >= 2}
    if types <= {"F32", "F16", "BF16"}:
        raise EngineError(f"{recipe.producer} made {recipe.name} without a quantized tensor: all matrices are {', '.join(sorted(types))}")
