"""The lifecycle put together: subjects resolved, artifacts made, measurements kept for reuse.

``Workbench`` composes the domains for ``make``, for the fixtures and for the suites; it decides
nothing. What it measures is kept in the store under everything that shaped it (subject, golden
set, engine and version, sampling, threads), so that a second run with nothing changed measures
nothing, and a killed one goes on where it was.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import evals, golden, provenance
from harness.config import Settings, Tier
from harness.engines import open_engine, versions
from harness.engines.gguf_header import Header, read_header
from harness.engines.loaded import Loaded
from harness.errors import ConfigError, MissingNeed, StoreError
from harness.evals import metamorphic, refusals, scorers
from harness.golden import GoldenSet
from harness.lifecycle.asking import Asking
from harness.lifecycle.judging import Judging
from harness.lifecycle.preferences import Preferences
from harness.lifecycle.subjects import RECIPE, Subjects, Trained, Training, conversation, need, threads
from harness.progress import Progress
from harness.quant import checkpoint, damage, fidelity, footprint, logprob_file, sidecar
from harness.quant.calibration import Calibration
from harness.store import Store, digest_json
from harness.types import Engine, Prompt, Sample, Subject

if TYPE_CHECKING:
    from harness.lifecycle.serving import Serving

__all__ = ["Answers", "Trained", "Training", "Workbench"]

_LAYER_TEXTS = 60  # documents that each rounded block reads: half of them name the worst, half decide
_OPEN = 3  # engines kept open: a reference, a build, and the damaged copy that its gates must stop


@dataclass(frozen=True, slots=True)
class Answers:
    """One subject on one golden set: a Sample per item, and the conditions they were taken under."""

    subject: Subject
    samples: tuple[Sample, ...]
    conditions: Mapping[str, Any]


class Workbench:
    """Subjects, golden sets and measurements of one run. Close it to free the models."""

    def __init__(
        self, settings: Settings, store: Store, tier: Tier, progress: Progress, *, quiet_machine: bool = True, logs: Path | None = None
    ) -> None:
        self.settings = settings
        self.store = store
        self.tier = tier
        self.progress = progress
        self.quiet_machine = quiet_machine
        self._subjects = Subjects(settings, store, progress)
        self.data = self._subjects.data
        self.asking = Asking(self)
        self.preferences = Preferences(self)
        self.judging = Judging(self)
        self._serving: Serving | None = None
        self._subjects.pairs = lambda policy: self.preferences.pairs(policy).rows
        self._engines: dict[str, Engine] = {}
        self._headers: dict[str, Header] = {}
        self._inventories: dict[str, list[checkpoint.TensorFact]] = {}
        self.session = os.urandom(8).hex()
        self._logs = logs
        self._golden: dict[tuple[str, bool], GoldenSet] = {}  # verified once a session

    # --- subjects -----------------------------------------------------------------------------

    def subject(self, name: str) -> Subject:
        """The subject by name, made if it is a recipe, with the digest of its content."""
        return self._subjects.resolve(name)[0]

    def path(self, name: str) -> Path:
        """Where the subject's file or folder lies."""
        return self._subjects.resolve(name)[1]

    def trained(self, name: str) -> Trained:
        """What training made for a recipe: the adapter, and the report of its run. TrainingError if it failed."""
        return self._subjects.trained(name)

    def training(self, name: str) -> Training:
        """What a training recipe starts from, its numbers, and the set of its rows."""
        return self._subjects.training(name)

    def engine_of(self, name: str) -> str:
        """The engine that serves this subject."""
        return self._subjects.spec(name).engine

    def reference(self, build: str) -> str:
        """What a build is compared with: the unquantized subject in the same engine.

        MissingNeed where the engine has none: a difference between engines is not booked as a loss.
        """
        found = self.settings.reference_of(build)
        if found is None:
            engine = self.engine_of(build)
            scheme = {"llamacpp": "gguf", "openai": "http", "vllm": "vllm"}.get(engine, "hf")
            raise MissingNeed(
                "reference",
                f"no reference in the engine of {build} ({engine})",
                f"--subject NAME={scheme}:... and name it in [quant] references",
            )
        return found

    @property
    def serving(self) -> Serving:
        """The servers of the lifecycle file."""
        from harness.lifecycle.serving import Serving

        self._serving = self._serving or Serving(self)
        return self._serving

    # --- engines ------------------------------------------------------------------------------

    def engine(self, name: str) -> Engine:
        """The subject's engine, opened; the few used last are kept open."""
        kept = self._engines.pop(name, None)
        if kept is None:
            # each vLLM takes its share of a GPU's memory when it starts
            while len(self._engines) >= (2 if provenance.machine()["gpu"] else _OPEN):
                self._engines.pop(next(iter(self._engines))).close()
            need(self.engine_of(name))
            kept = self._open(name)
        self._engines[name] = kept
        return kept

    def _open(self, name: str) -> Engine:
        spec, kind = self._subjects.spec(name), self.engine_of(name)
        if spec.scheme in ("http", "https"):
            address, _, model = spec.location.partition("#")
            return open_engine(kind, address, model=model or None)
        if spec.scheme == "adapter":
            adapter, base = self._subjects.adapter_and_base(spec)
            return open_engine(kind, base, adapter=adapter)
        return open_engine(kind, self.path(name), **_options(kind), **self._told(name, kind))

    def _told(self, name: str, kind: str) -> dict[str, Any]:
        """What vLLM must be told of a folder that says only in a file of its producer how it was quantized (autoawq, auto-gptq)."""
        if kind != "vllm":
            return {}
        scheme = self.scheme(name)
        inside = scheme.method == "none" or Path(scheme.declared_in.partition(": ")[0]).name == "config.json"
        return {} if inside else {"quantization": scheme.method}

    def close(self) -> None:
        """Frees every model, and stops every server."""
        if self._serving is not None:
            self._serving.close()
        self.close_engines()

    def close_engines(self) -> None:
        """Frees every model in this process."""
        while self._engines:
            self._engines.popitem()[1].close()

    def logs(self, kind: str) -> Path:
        """The folder for what processes say: of the run where there is one, else of the store."""
        return (self._logs or self.store.root) / kind

    # --- measurements -------------------------------------------------------------------------

    def golden(self, name: str, *, control: bool = False) -> GoldenSet:
        """The golden set at this tier: all of it, or a fixed subset (of the smoke tier, of the controls)."""
        if (name, control) not in self._golden:
            kind = golden.manifest_entry(name, self.settings.golden)["kind"]
            limit = self.tier.limit(kind, control=control)
            self._golden[name, control] = golden.load(name, self.settings.golden, limit=limit)
        return self._golden[name, control]

    def answers(self, name: str, set_name: str, *, control: bool = False, shots: int = 0, variant: str = "", rerun: int = 0) -> Answers:
        """The subject's scored answers to a golden set.

        As a ``control`` to a subset, answered afresh. After ``shots`` worked examples. To a ``variant`` of the set
        (harness.evals.metamorphic). As ``rerun`` 1, 2 ... once more, in another order: what noise alone changes.
        """
        chosen = self.golden(set_name, control=control)
        if variant:
            chosen = metamorphic.vary(chosen, variant)
        fresh = "control" if control else ""
        if chosen.kind == "multiple_choice" and not shots:
            scores, conditions = self.asking.score(name, chosen.name, evals.choices(chosen), fresh=fresh, rerun=rerun)
            samples = evals.score_choices(chosen, scores)
        elif chosen.kind == "json_extraction" or (chosen.kind in ("answers", "code") and not shots):
            shown = self.worked_examples(shots)
            asked = [replace(p, messages=(*shown, *p.messages)) for p in evals.prompts(chosen)]
            said, conditions = self.asking.generate(name, chosen.name, asked, evals.sampling(chosen), fresh=fresh, rerun=rerun)
            samples = evals.score_answers(chosen, said)
        else:
            raise ConfigError(f"golden set {set_name}: kind {chosen.kind!r} has no answers" + (f" after {shots} examples" if shots else ""))
        conditions |= {"golden": chosen.digest, "task": evals.task_digest(chosen), "scorer": scorers.digest(chosen)}
        conditions |= {"shots": shots} if shots else {}
        return Answers(self.subject(name), samples, conditions)

    def worked_examples(self, shots: int) -> list[Mapping[str, str]]:
        """The first ``shots`` rows that the tuned subject was trained on, by digest of their ids, as turns of a conversation."""
        if not shots:
            return []
        rows = self.training(self.settings.compare.tuned if self.settings.compare else "tuned").rows
        first = sorted(rows.items, key=lambda item: digest_json(item["id"]))[:shots]
        return [turn for item in first for turn in conversation(rows, item)]

    def refusals(self, name: str, set_name: str, *, guard: Sequence[Mapping[str, str]] = refusals.GUARD, control: bool = False) -> Answers:
        """Which requests of a ``refusals`` set the subject declines behind ``guard``; as a ``control`` a subset, asked afresh."""
        chosen = self.golden(set_name, control=control)
        asked = refusals.prompts(chosen, guard)
        fresh = "control" if control else ""
        said, conditions = self.asking.generate(name, chosen.name, asked, refusals.SAMPLING, fresh=fresh)
        conditions |= {"golden": chosen.digest, "task": refusals.task_digest(guard)}
        return Answers(self.subject(name), refusals.score(chosen, said), conditions)

    def inputs(self, name: str) -> dict[str, Any]:
        """What of a subject shapes any measurement of it: its content, its engine with versions and options."""
        kind = self.engine_of(name)
        need(kind)
        # Weights alone decide what is measured, not the name they were given. Nobody can tell whether a
        # server still holds the same ones, so what it said is never reused in another session.
        session = {"session": self.session} if kind == "openai" else {}
        return {
            "recipe": RECIPE,
            "subject": self.subject(name).digest,
            "engine": kind,
            "versions": versions(kind),
            "options": _options(kind),
            **session,
        }

    def distributions(self, new: str, old: str, *, control: bool = False) -> list[dict[str, Any]]:
        """Next-token distributions of ``new`` against ``old`` over the documents, one row each."""
        self._files_only((new, old), "servers do not give whole next-token distributions")
        chosen = self.golden(self.settings.texts, control=control)
        inputs = {
            "new": self.inputs(new), "old": self.inputs(old), "golden": chosen.digest, "control": control, "step": logprob_file.STEP,
        }  # fmt: skip

        def measure() -> list[dict[str, Any]]:
            with logprob_file.Reader(self._recorded(old)) as reference:
                return fidelity.compare(self.engine(new), reference, evals.documents(chosen), self._showing(f"of {new}"))

        rows: list[dict[str, Any]] = self.store.make_json("distributions", inputs, measure)
        return rows

    def _recorded(self, name: str) -> Path:
        """What a reference says of every document, computed once. The file seals itself, and goes on where a killed run left it."""
        chosen = self.golden(self.settings.texts)
        key = self.store.key("logprobs", {**self.inputs(name), "golden": chosen.digest, "step": logprob_file.STEP})
        path = self.store.root / "logprobs" / f"{key}.logprobs"
        if not _is_whole(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            logprob_file.record(self.engine(name), evals.documents(chosen), path, self._showing(f"by {name}"))
        return path

    def layer_rows(self, reference: str, block: int, kind: str = "Q4_0") -> list[dict[str, Any]]:
        """Rows as of ``distributions``, of the reference with one block rounded to the grid of ``kind``. The file is not kept."""
        limit = min(_LAYER_TEXTS, self.tier.limit("documents") or _LAYER_TEXTS)
        chosen = golden.load(self.settings.texts, self.settings.golden, limit=limit)
        inputs = {**self.inputs(reference), "block": block, "kind": kind, "golden": chosen.digest, "step": logprob_file.STEP}

        def measure() -> list[dict[str, Any]]:
            recorded = self._recorded(reference)
            with tempfile.TemporaryDirectory(dir=self.store.root) as scratch, logprob_file.Reader(recorded) as kept:
                path = Path(scratch) / "model.gguf"
                damage.damage(self.path(reference), path, f"round-layer:{block}:{kind}", seed=0)
                engine = open_engine("llamacpp", path, **_options("llamacpp"))
                try:
                    return fidelity.compare(engine, kept, evals.documents(chosen), self._showing(f"of block {block}"))
                finally:
                    engine.close()

        rows: list[dict[str, Any]] = self.store.make_json("layers", inputs, measure)
        return rows

    def runs(self, new: str, old: str) -> list[dict[str, Any]]:
        """Interleaved paired runs on this machine: speed, and peak memory where a run is a process of its own.

        MissingNeed("quiet-machine") where several test workers share it: such a timing proves nothing.
        """
        self._files_only((new, old), "a server is not ours to start and to time alone")
        inputs = {
            "new": self.inputs(new), "old": self.inputs(old), "machine": provenance.machine(),
            "blocks": self.tier.blocks, "gauge": "VmHWM",
        }  # fmt: skip
        self.needs_quiet("runs", inputs)
        asked = self._speed_prompts()
        if self.engine_of(new) != "llamacpp":
            asked = asked[:2]  # what these engines take for four would be most of a run's time
        rows: list[dict[str, Any]] = self.store.make_json("runs", inputs, lambda: self._timed(new, old, asked, self._showing(f"of {new}")))
        return rows

    def _timed(self, new: str, old: str, asked: Sequence[Prompt], show: Progress) -> list[dict[str, Any]]:
        if self.engine_of(new) == "llamacpp":
            self.close()  # a model in this process, or a server, would take memory bandwidth from the runs
            spawn = {arm: footprint.spawner("llamacpp", self.path(name), asked) for arm, name in (("new", new), ("old", old))}
            return footprint.blocks(spawn, self.tier.blocks, show)
        if provenance.machine()["gpu"]:
            self.close()
        # An engine that takes a minute to start is started once; its twin, where a model is held against itself, too.
        pair = {"new": self._open(new) if new == old else self.engine(new), "old": self.engine(old)}
        try:
            return footprint.blocks({arm: footprint.asker(engine, asked) for arm, engine in pair.items()}, self.tier.blocks, show)
        finally:
            if new == old:
                pair["new"].close()

    def _speed_prompts(self) -> list[Prompt]:
        """A few real questions: a speed counts only on the work the model is for."""
        for name in self.settings.sets:
            chosen = golden.load(name, self.settings.golden, limit=4)
            if chosen.kind == "json_extraction":
                return evals.prompts(chosen)
        raise ConfigError(f"{self.settings.path}: [quant] sets holds no json_extraction set to time answers on")

    def _showing(self, what: str) -> Progress:
        """Progress of a task, with what it is about."""
        return lambda task, done, total: self.progress(f"{task} {what}", done, total)

    def _files_only(self, names: Sequence[str], why: str) -> None:
        for name in names:
            scheme = self._subjects.spec(name).scheme
            if scheme in ("http", "https"):
                raise MissingNeed("weights", f"{name} is a server: {why}", f"name its file: --subject {name}=gguf:FILE or hf:FOLDER")

    def _one_folder(self, name: str, why: str) -> None:
        self._files_only((name,), why)
        if self._subjects.spec(name).scheme in ("adapter", "fake"):
            raise MissingNeed("weights", f"{name} is no folder or file of its own: {why}", "merge the adapter and name the folder")

    def needs_quiet(self, name: str, inputs: Mapping[str, Any]) -> None:
        """MissingNeed("quiet-machine") where several test workers share the machine: a timing that is not kept yet would prove nothing."""
        if not self.quiet_machine and self.store.find(name, inputs) is None:
            raise MissingNeed(
                "quiet-machine", "timings under several test workers prove nothing", "run once without -n; the timing is then reused"
            )

    def timed(self, name: str, inputs: Mapping[str, Any], maker: Callable[[], Any]) -> Any:
        """As ``cached``, for what needs a quiet machine."""
        self.needs_quiet(name, {"recipe": RECIPE, **inputs})
        return self.cached(name, inputs, maker)

    def cached(self, name: str, inputs: Mapping[str, Any], maker: Callable[[], Any]) -> Any:
        """``maker()``, kept under ``inputs`` for the next run."""
        return self.store.make_json(name, {"recipe": RECIPE, **inputs}, maker)

    # --- files --------------------------------------------------------------------------------

    def header(self, name: str) -> Header:
        """The header of the subject's GGUF file, read once."""
        if name not in self._headers:
            self._headers[name] = read_header(self.path(name))
        return self._headers[name]

    def scheme(self, name: str) -> checkpoint.Scheme:
        """What the subject's files say of how its weights are stored."""
        self._one_folder(name, "its weights cannot be looked into")
        return checkpoint.read_scheme(self.path(name))

    def inventory(self, name: str) -> list[checkpoint.TensorFact]:
        """What each tensor of the subject really is, read once."""
        self._one_folder(name, "its weights cannot be looked into")
        if name not in self._inventories:
            self._inventories[name] = checkpoint.inventory(self.path(name))
        return self._inventories[name]

    def loaded(self, name: str) -> dict[str, Any]:
        """What the engine holds of the subject: module by module the kernel that runs it, dtypes, bytes."""
        self._files_only((name,), "its engine cannot be looked into")

        def look() -> dict[str, Any]:
            held: Loaded = self.engine(name).loaded()  # type: ignore[attr-defined]  # not every engine can be looked into
            return {"bytes": held.bytes, "modules": [asdict(module) for module in held.modules]}

        found: dict[str, Any] = self.store.make_json("loaded", self.inputs(name), look)
        return found

    def calibration(self, seed: int) -> Calibration:
        """The texts that the builds of this seed were calibrated on."""
        return self._subjects.calibration(seed)

    def whole_set(self, name: str) -> GoldenSet:
        """A golden set with all of its items, whatever the tier measures."""
        return golden.load(name, self.settings.golden)

    def rendered_prompts(self, set_name: str) -> list[Prompt]:
        """The chat prompts of a golden set; none where it is not asked as a chat."""
        chosen = self.golden(set_name)
        return evals.prompts(chosen) if chosen.kind == "json_extraction" else []

    def sidecar(self, name: str, prompts: Sequence[Prompt]) -> dict[str, str]:
        """Digests of tokenizer, template and of each prompt's token ids, as this subject has them."""
        self._one_folder(name, "its tokenizer cannot be looked into")
        inputs = {"subject": self.subject(name).digest, "prompts": [asdict(p) for p in prompts]}

        def measure() -> dict[str, str]:
            if self.engine_of(name) == "llamacpp":
                return sidecar.of_gguf(self.header(name), self.engine(name), prompts)
            return sidecar.of_folder(self.path(name), prompts)

        found: dict[str, str] = self.cached("sidecar", inputs, measure)
        return found

    def sidecar_source(self, name: str) -> str:
        """What a subject's sidecar must equal: for a build the reference, for the reference what it was made from."""
        return self.converted_from(name) if name in self.settings.references else self.reference(name)

    def converted_from(self, reference: str) -> str:
        """The subject in transformers that a reference was converted from, or is the same weights as.

        MissingNeed where a ready-made file was named.
        """
        spec = self._subjects.spec(reference)
        if spec.engine in ("vllm", "hf"):
            return f"hf:{reference}"
        if spec.recipe == "gguf-f16":
            return "tuned"
        if "source" in self.settings.subjects:
            return "source"
        raise MissingNeed("source", f"what {spec.name} was converted from is not known", "--subject source=hf:FOLDER")


def _is_whole(path: Path) -> bool:
    """Whether a record is there and finished; a damaged one is made again."""
    try:
        logprob_file.Reader(path).close()
    except StoreError:
        path.unlink(missing_ok=True)
        return False
    return True


def _options(engine: str) -> dict[str, Any]:
    return {"threads": threads()} if engine in ("llamacpp", "vllm") else {}
