"""The lifecycle file (TOML) and ``--subject``, as frozen settings. Unknown keys are errors.

[lifecycle]            name; golden = folder of the golden sets
[subjects]             name = "scheme:location"; location may be "recipe:NAME" behind an engine's name (vllm:recipe:tuned)
[quant]                builds, sets, texts: what suites/quant compares; references: the unquantized subject, one for each engine;
                       guarded: the builds whose refusals are asked for (default: none)
[compare]              base, tuned, iterated, preferred: the subjects that suites/train, evals and prefer speak of; primary: the golden set
                       on which a gain is claimed; guardrails: sets on which nothing may be lost; shots: examples shown to base
[judges.NAME]          a judge of answers that suites/judge calibrates
[data.NAME]            a dataset that suites/data audits: files = [...], or set = "fixtures/NAME" of a manifest; see DataSpec
[recipes.NAME]         numbers of a recipe of the built-in subject; of a training: start, rows and the keys of harness.train.recipe.Recipe
[tiers.smoke]          items, texts, requests (0: all), blocks, seeds: how much of each a tier uses; leave_out: claims that it does not
                       ask for, by id ("T10", "T10.kill") or by what they are about ("gguf-q4_0")
[claims."ID"]          bound, alpha, min_n, expected of one claim, or of a family (id before "[");
                       expect = "fails" with why = "..." for what is known to be broken;
                       risk = "...": what it means if it does not hold, in the words of the report's risk notes
[[release]]            name, rule = "all" | "any" | "exploratory", claims = families or claims by name ("Q1", "Q1.flips";
                       "Q8?" where a build has one): what each build must show before it may go out, in this order
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from harness import bounds
from harness.errors import ConfigError, nearest
from harness.records import Objective, objectives
from harness.types import Claim, Family

__all__ = [
    "SCHEMES",
    "Compare",
    "DataSpec",
    "Override",
    "Settings",
    "SubjectSpec",
    "Tier",
    "default_path",
    "empty",
    "load",
    "parse_data",
    "parse_subject",
]

SCHEMES = ("recipe", "hf", "vllm", "adapter", "gguf", "http", "https", "fake")
_ENGINES = {"gguf": "llamacpp", "http": "openai", "https": "openai", "fake": "fake", "vllm": "vllm"}


@dataclass(frozen=True, slots=True)
class SubjectSpec:
    """A subject before it is resolved: ``mine=gguf:./x.gguf``."""

    name: str
    scheme: str
    location: str

    @property
    def engine(self) -> str:
        """The engine that serves this subject."""
        made_as_gguf = self.scheme == "recipe" and self.location.startswith("gguf-")
        return "llamacpp" if made_as_gguf else _ENGINES.get(self.scheme, "hf")

    @property
    def recipe(self) -> str:
        """The name of the recipe that makes it: "" for what is ready-made."""
        inside = self.location.removeprefix("recipe:")
        return inside if self.scheme == "recipe" or inside != self.location else ""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """A dataset, and what is claimed to be true of it.

    ``files`` in order, or ``set`` ("fixtures/addresses_train": an entry of that folder's manifest.toml, which then also says
    source, licence, SHA-256 and prompt). ``form`` is how rows are read ("auto": told row by row). ``id``, ``group``, ``label`` name
    fields. ``splits`` puts files into splits, by name; the groups of one must not stand in another. ``apart_from`` are the
    golden sets that no row may leak into. ``tokenizer`` names the subject that reads the rows, in ``context`` tokens.
    ``raw`` is the dataset before it was cleaned, named like ``set``. ``used_by`` names a subject that was trained on it.
    ``allow`` lists findings that are meant ("schema.no_answer").
    ``sha256``, ``source``, ``licence``, ``version``, ``changes`` describe it. ``baseline`` and ``waivers`` are files of findings
    that are known.
    """

    name: str
    files: tuple[str, ...] = ()
    set: str = ""
    raw: str = ""
    form: str = "auto"
    id: str = "id"
    group: str = ""
    label: str = ""
    splits: Mapping[str, Sequence[str]] = field(default_factory=dict)
    apart_from: tuple[str, ...] = ()
    tokenizer: str = ""
    context: int = 2048
    used_by: str = ""
    languages: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()
    sha256: str = ""
    source: str = ""
    licence: str = ""
    version: str = ""
    changes: str = ""
    baseline: str = ""
    waivers: str = ""


@dataclass(frozen=True, slots=True)
class Tier:
    """How much a tier measures: items of each golden set, documents, requests to refuse (0: all), ABBA blocks, further calibration seeds,
    requests of a load (0: as many as its claim asks for).

    Controls get a fixed subset of their own: enough to decide what they must show, at less cost.
    """

    name: str
    items: int = 0
    texts: int = 0
    requests: int = 0
    blocks: int = 6
    seeds: int = 1
    load_requests: int = 0
    control_items: int = 300
    control_texts: int = 120
    control_requests: int = 0
    leave_out: tuple[str, ...] = ()

    def left_out_by(self, claim_id: str) -> str | None:
        """The name under ``leave_out`` that this claim goes by: its id, the beginning of it up to a dot or a bracket, or one of its
        parameters; None for a claim of this tier."""
        head, _, rest = claim_id.partition("[")
        names = {claim_id, head, head.partition(".")[0], *rest.rstrip("]").split(",")}
        return next((name for name in self.leave_out if name in names), None)

    def load(self, requests: int) -> int:
        """How many requests of a load are sent where ``requests`` are declared."""
        return min(requests, self.load_requests or requests)

    def limit(self, kind: str, *, control: bool = False) -> int | None:
        """How many units of a golden set of this kind are used; None for all."""
        if kind in ("refusal_labels", "answer_labels", "ratings"):  # people's work, not a model's: all of it, always
            return None
        full, part = {
            "documents": (self.texts, self.control_texts),
            "refusals": (self.requests, self.control_requests),
        }.get(kind, (self.items, self.control_items))
        return min((n for n in (full, part if control else 0) if n), default=None)


@dataclass(frozen=True, slots=True)
class Compare:
    """The middle of a lifecycle: what was trained from what, and on which golden sets it is compared.

    ``base`` before training, ``tuned`` after it, ``iterated`` after one failure-driven iteration, ``preferred`` after
    preference training of ``tuned`` ("" where there is none). A gain is claimed on ``primary``; nothing may be lost on
    ``guardrails``. ``base`` is shown ``shots`` worked examples: without them it does not know the form of the answer.
    """

    base: str
    tuned: str
    primary: str
    iterated: str = ""
    preferred: str = ""
    guardrails: tuple[str, ...] = ()
    shots: int = 3


@dataclass(frozen=True, slots=True)
class Served:
    """A server of ``[serve.NAME]``: what is served and how, and what it promises.

    ``engine`` "vllm" or "llamacpp" serves ``subject`` and is spawned with the flags ``options``; a ``url`` is of a server that
    runs already, which is measured and never touched. ``slo`` is promised at ``rate`` requests a second (Poisson), shown
    on ``requests`` of them, and ``goodput`` is the share that keeps all of it. ``set`` is the golden set that the prompts
    come from. ``against`` are the flags before the optimisation that L4 claims ({}: none is claimed).
    """

    name: str
    engine: str = ""
    subject: str = ""
    url: str = ""
    set: str = ""
    rate: float = 1.0
    requests: int = 600
    slo: tuple[Objective, ...] = ()
    goodput: float = 0.95
    options: Mapping[str, str] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    against: Mapping[str, str] = field(default_factory=dict)

    def objective(self, name: str) -> Objective:
        """The objective by name, like ttft_p99; ConfigError if this server promises none of that name."""
        for each in self.slo:
            if each.name == name:
                return each
        raise ConfigError(f"[serve.{self.name}] promises no {name!r}: {nearest(name, [each.name for each in self.slo])}")


@dataclass(frozen=True, slots=True)
class Override:
    """What the lifecycle file says of one claim or family of claims."""

    bound: bounds.Bound | None = None
    alpha: float | None = None
    min_n: int | None = None
    expected: float | None = None
    expect: str = "holds"
    why: str = ""
    risk: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything a run is told, frozen. ``path`` is the file it came from, ``root`` its project."""

    name: str
    path: Path
    root: Path
    golden: Path
    subjects: Mapping[str, SubjectSpec]
    references: tuple[str, ...]
    builds: tuple[str, ...]
    sets: tuple[str, ...]
    texts: str
    guarded: tuple[str, ...]
    recipes: Mapping[str, Mapping[str, Any]]
    tiers: Mapping[str, Tier]
    claims: Mapping[str, Override] = field(default_factory=dict)
    release: tuple[Family, ...] = ()
    data: Mapping[str, DataSpec] = field(default_factory=dict)
    audited: tuple[str, ...] = ()
    compare: Compare | None = None
    judges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    serve: Mapping[str, Served] = field(default_factory=dict)

    def releases(self, claim_ids: Sequence[str]) -> dict[str, tuple[Family, ...]]:
        """For each build the families of ``[[release]]`` with the claims that concern it.

        A claim concerns a build unless its brackets name another one, or a reference of another engine. A name
        that no claim bears stays as it is and will be missed: a release that was planned in part is no release.
        """
        found = {}
        for build in self.builds:
            others = {*self.builds, *self.references} - {build, self.reference_of(build)}
            mine = [c for c in claim_ids if not others & {part.strip() for part in c.partition("[")[2].rstrip("]").split(",")}]
            families = tuple(replace(f, claims=tuple(x for name in f.claims for x in _bearing(name, mine))) for f in self.release)
            if {c for f in families for c in f.claims} & set(mine):
                found[build] = families
        return found

    def reference_of(self, build: str) -> str | None:
        """The unquantized subject in the engine that serves ``build``: a difference between engines is no loss.

        None where the engine has none; ConfigError for a name that is no subject.
        """
        engine = self.subject(build).engine
        return next((name for name in self.references if self.subject(name).engine == engine), None)

    @property
    def references_in_use(self) -> tuple[str, ...]:
        """Those that a build is compared with."""
        used = {self.reference_of(build) for build in self.builds}
        return tuple(name for name in self.references if name in used)

    def subject(self, name: str) -> SubjectSpec:
        """The subject by name; ConfigError if there is none."""
        if name not in self.subjects:
            raise ConfigError(f"no subject {name!r}: {nearest(name, list(self.subjects))}; add --subject {name}=gguf:FILE")
        return self.subjects[name]

    def with_data(self, texts: Sequence[str]) -> Settings:
        """The settings after ``--data``: what is named there is audited, and nothing else."""
        given = {spec.name: spec for spec in map(parse_data, texts)}
        if len(given) < len(texts):
            raise ConfigError(f"--data: a name stands twice in {list(texts)}; each dataset is named once")
        apart = tuple(name for name in (*self.sets, self.texts) if name)  # what the models of this lifecycle are evaluated with
        known = {
            name: replace(self.data[name], files=spec.files, set="") if name in self.data else replace(spec, apart_from=apart)
            for name, spec in given.items()
        }
        return replace(self, data={**self.data, **known}, audited=tuple(known) or self.audited)

    def override(self, claim_id: str) -> Override | None:
        """What is said of this very claim, else of its family (the id before ``[``)."""
        return self.claims.get(claim_id) or self.claims.get(claim_id.partition("[")[0])

    def risk(self, claim_id: str) -> str:
        """What it means if this claim does not hold, as said of it or of its family; "" where nobody said."""
        named = (self.claims.get(name) for name in (claim_id, claim_id.partition("[")[0]))
        return next((said.risk for said in named if said and said.risk), "")

    def effective(self, claim: Claim) -> Claim:
        """``claim`` with what the lifecycle file overrides. Raises ClaimError if that is undecidable."""
        said = self.override(claim.id)
        if said is None:
            return claim
        names = ("bound", "alpha", "min_n", "expected")
        return replace(claim, **{n: getattr(said, n) for n in names if getattr(said, n) is not None})

    def tier(self, name: str) -> Tier:
        """The tier by name; ConfigError if there is none."""
        if name not in self.tiers:
            raise ConfigError(f"{self.path}: no tier {name!r}; {nearest(name, list(self.tiers))}")
        return self.tiers[name]

    def with_subjects(self, texts: Sequence[str]) -> Settings:
        """The settings after ``--subject``: a known name is replaced, new names become the builds.

        ``source`` is no build: it names the folder that a ready-made reference was converted from.
        """
        given = {spec.name: spec for spec in map(parse_subject, texts)}
        if len(given) < len(texts):
            raise ConfigError(f"--subject: a name stands twice in {list(texts)}; each subject is named once")
        new = tuple(name for name in given if name not in self.subjects and name != "source")
        builds = new or self.builds
        return replace(self, subjects={**self.subjects, **given}, builds=builds, guarded=new if new and self.guarded else self.guarded)


def parse_data(text: str) -> DataSpec:
    """``name=file`` or ``name=file,file``, for instance ``mine=./train.jsonl``."""
    name, equals, rest = text.partition("=")
    if not (name and equals and rest):
        raise ConfigError(f"data {text!r}: expected name=file, like mine=./train.jsonl; several files with commas")
    return DataSpec(name, tuple(str(Path(part).absolute()) for part in rest.split(",")))


def parse_subject(text: str) -> SubjectSpec:
    """``name=scheme:location``, for instance ``mine=gguf:./x.gguf`` or ``mine=http://host/v1#model``."""
    name, equals, rest = text.partition("=")
    scheme, colon, location = rest.partition(":")
    if not (name and equals and colon and location):
        raise ConfigError(f"subject {text!r}: expected name=scheme:location, like mine=gguf:./model.gguf or mine=hf:./folder")
    if scheme not in SCHEMES:
        raise ConfigError(f"subject {text!r}: unknown scheme {scheme!r}; {nearest(scheme, list(SCHEMES))}")
    return SubjectSpec(name, scheme, rest if scheme in ("http", "https") else location)


def load(path: Path) -> Settings:
    """Reads a lifecycle file. ConfigError names the file, the key and the nearest known one."""
    try:
        data = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such lifecycle file; name one with --lifecycle FILE") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML file in UTF-8: {error}") from error
    reader = _Reader(path)
    reader.known(
        data, ["lifecycle", "subjects", "compare", "judges", "quant", "serve", "data", "recipes", "tiers", "claims", "release"], "the file"
    )
    head = reader.table(data, "lifecycle", {"name": str, "golden": str})
    quant = reader.table(data, "quant", {"references": list, "builds": list, "sets": list, "texts": str, "guarded": list})
    for key in ("references", "builds", "sets", "texts") if quant else ():
        if key not in quant:
            raise ConfigError(f"{path}: [quant] lacks {key!r}")
    subjects = reader.table(data, "subjects", None)
    specs = [parse_subject(f"{name}={where}") for name, where in subjects.items()]
    # A lifecycle file lies in the project, or in its folder "fixtures" as the built-in one does.
    folder = path.resolve().parent
    root = folder.parent if folder.name == "fixtures" else folder
    settings = Settings(
        name=head.get("name", path.stem),
        path=path,
        root=root,
        golden=root / head.get("golden", "golden"),
        subjects={spec.name: _anchored(spec, root) for spec in specs},
        references=tuple(quant.get("references", ())),
        builds=tuple(quant.get("builds", ())),
        sets=tuple(quant.get("sets", ())),
        texts=quant.get("texts", ""),
        guarded=tuple(quant.get("guarded", ())),
        recipes={name: reader.table(data["recipes"], name, None, "recipes") for name in reader.table(data, "recipes", None)},
        tiers=_tiers(reader, data),
        claims=_claims(reader, data),
        release=_release(reader, data),
        data=_data(reader, data, root),
        audited=tuple(data.get("data", {})),
        compare=_compare(reader, data),
        judges={name: reader.table(data["judges"], name, None, "judges") for name in reader.table(data, "judges", None)},
        serve={name: _served(reader, data["serve"], name) for name in reader.table(data, "serve", None)},
    )
    for name in (*settings.references, *settings.builds, *settings.guarded):
        if name not in settings.subjects:
            raise ConfigError(f"{path}: [quant] names the subject {name!r}; {nearest(str(name), list(settings.subjects))}")
    said = settings.compare
    for name in (n for n in (said.base, said.tuned, said.iterated, said.preferred) if n) if said else ():
        if name not in settings.subjects:
            raise ConfigError(f"{path}: [compare] names the subject {name!r}; {nearest(name, list(settings.subjects))}")
    for served in settings.serve.values():
        if served.subject and served.subject not in settings.subjects:
            where = f"{path}: [serve.{served.name}] names the subject {served.subject!r}"
            raise ConfigError(f"{where}; {nearest(served.subject, list(settings.subjects))}")
    engines = [settings.subjects[name].engine for name in settings.references]
    if len(set(engines)) < len(engines):
        raise ConfigError(f"{path}: [quant] references = {list(settings.references)}: one for each engine, found {engines}")
    return settings


def _anchored(spec: SubjectSpec, root: Path) -> SubjectSpec:
    """A path of the file is relative to its project, wherever a run is started. What is no path (a hub's name) stays."""
    if spec.recipe or spec.scheme not in ("gguf", "fake", "hf", "vllm", "adapter"):
        return spec
    first, plus, base = spec.location.partition("+hf:" if spec.scheme == "adapter" else "\0")
    hub = spec.scheme in ("hf", "vllm")
    return replace(spec, location=f"{_below(root, first, hub=hub)}{plus}{_below(root, base, hub=True)}")


def _below(root: Path, path: str, *, hub: bool) -> str:
    """``path`` below ``root``; as it is where it may be a hub's name and no such folder is here."""
    found = root / path
    return path if not path or path.startswith("~") or (hub and not found.exists()) else str(found)


def default_path(root: Path) -> Path:
    """The lifecycle file of a project where none is named: ``lifecycle.toml``, else ``fixtures/lifecycle.toml``."""
    plain = root / "lifecycle.toml"
    return plain if plain.is_file() else root / "fixtures" / "lifecycle.toml"


def empty(root: Path) -> Settings:
    """The settings of a project without a lifecycle file: its ``golden`` folder and ``--subject``."""
    tiers = {name: Tier(name, **numbers) for name, numbers in _TIERS.items()}
    return Settings(root.name, root, root, root / "golden", {}, (), (), (), "", (), {}, tiers)


_TIERS: Mapping[str, Mapping[str, Any]] = {
    "full": {},
    "smoke": {"items": 100, "texts": 60, "requests": 60, "blocks": 4, "seeds": 0, "load_requests": 100},
}


def _compare(reader: _Reader, data: Mapping[str, Any]) -> Compare | None:
    shape = {"base": str, "tuned": str, "primary": str, "iterated": str, "preferred": str, "guardrails": list, "shots": int}
    table = reader.table(data, "compare", shape)
    if not table:
        return None
    for key in ("base", "tuned", "primary"):
        if not table.get(key):
            raise ConfigError(f"{reader.path}: [compare] lacks {key!r}")
    if not all(isinstance(name, str) for name in table.get("guardrails", ())):
        raise ConfigError(f"{reader.path}: compare.guardrails = {table['guardrails']!r}, expected names of golden sets")
    if table.get("shots", 0) < 0:
        raise ConfigError(f"{reader.path}: compare.shots = {table['shots']}, expected 0 or more")
    return Compare(**{**table, "guardrails": tuple(table.get("guardrails", ()))})


def _served(reader: _Reader, tables: Mapping[str, Any], name: str) -> Served:
    shape = {"engine": str, "subject": str, "url": str, "set": str, "rate": float, "requests": int, "goodput": float}
    maps = {"slo": dict, "options": dict, "env": dict, "against": dict}
    table = reader.table(tables, name, {**shape, **maps}, "serve")
    where = f"{reader.path}: [serve.{name}]"
    for key in maps:
        strange = [f"{k} = {v!r}" for k, v in table.get(key, {}).items() if not isinstance(v, str)]
        if strange:
            raise ConfigError(f"{where}: {key}.{strange[0]}, expected text in quotes")
    if bool(table.get("engine")) == bool(table.get("url")):
        raise ConfigError(f"{where}: expected engine = 'vllm' or 'llamacpp' with subject = '...', or url = 'http://...', and not both")
    if table.get("engine", "vllm") not in ("vllm", "llamacpp"):
        raise ConfigError(f"{where}: engine = {table['engine']!r}; {nearest(table['engine'], ['vllm', 'llamacpp'])}")
    if table.get("engine") and not table.get("subject"):
        raise ConfigError(f"{where}: lacks subject = '...', what is served")
    if not 0 < table.get("rate", 1) < math.inf or table.get("requests", 1) < 1 or not 0.5 <= table.get("goodput", 0.5) < 1:
        raise ConfigError(f"{where}: expected rate > 0 and requests >= 1, and .5 <= goodput < 1")
    try:
        return Served(name, **{**table, "slo": objectives(table.get("slo", {}))})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _data(reader: _Reader, data: Mapping[str, Any], root: Path) -> dict[str, DataSpec]:
    kinds = {"str": str, "int": int, "tuple[str, ...]": list, "Mapping[str, Sequence[str]]": dict}
    shape = {f.name: kinds[str(f.type)] for f in fields(DataSpec) if f.name != "name"}
    found = {}
    if not isinstance(data.get("data", {}), dict):
        raise ConfigError(f"{reader.path}: data = {data['data']!r}, expected tables [data.NAME]")
    for name in data.get("data", {}):
        table = reader.table(data["data"], name, shape, "data")
        where = f"{reader.path}: [data.{name}]"
        if bool(table.get("files")) == bool(table.get("set")):
            raise ConfigError(f"{where}: expected files = [...], or set = 'FOLDER/NAME', and not both")
        for key, value in table.items():
            if isinstance(value, list) and not all(isinstance(part, str) for part in value):
                raise ConfigError(f"{where}: {key} = {value!r}, expected a list of texts")
        lists = {key: tuple(value) for key, value in table.items() if isinstance(value, list)}
        paths = {key: str(root / table[key]) for key in ("set", "raw", "baseline", "waivers") if table.get(key)}
        spec = replace(DataSpec(name, **{**table, **lists, **paths}), files=tuple(str(root / path) for path in table.get("files", ())))
        splits = {split: tuple(str(root / path) for path in named) for split, named in spec.splits.items()}
        strange = sorted({path for named in splits.values() for path in named} - set(spec.files))
        if strange:
            raise ConfigError(f"{where}: splits name {strange[0]}, which is not among files")
        found[name] = replace(spec, splits=splits)
    return found


def _tiers(reader: _Reader, data: Mapping[str, Any]) -> dict[str, Tier]:
    tiers = {name: Tier(name, **numbers) for name, numbers in _TIERS.items()}
    for name in reader.table(data, "tiers", None):
        shape = dict.fromkeys(
            ("items", "texts", "requests", "blocks", "seeds", "load_requests", "control_items", "control_texts", "control_requests"), int
        )
        table = reader.table(data["tiers"], name, {**shape, "leave_out": list}, "tiers")
        leave_out = table.pop("leave_out", ())
        if not all(isinstance(left, str) and left for left in leave_out):
            raise ConfigError(f"{reader.path}: [tiers.{name}] leave_out = {leave_out!r}, expected ids of claims and names of subjects")
        tiers[name] = replace(tiers.get(name, Tier(name)), **table, leave_out=tuple(leave_out))
    return tiers


def _claims(reader: _Reader, data: Mapping[str, Any]) -> dict[str, Override]:
    shape = {"bound": dict, "alpha": float, "min_n": int, "expected": float, "expect": str, "why": str, "risk": str}
    found = {}
    for name in reader.table(data, "claims", None):
        table = reader.table(data["claims"], name, shape, "claims")
        where = f"{reader.path}: [claims.{name!r}]"
        if "bound" in table:
            table["bound"] = bounds.from_dict(table["bound"], where)
        if table.get("expect", "holds") not in ("holds", "fails"):
            raise ConfigError(f"{where}: expect = {table['expect']!r}, expected 'holds' or 'fails'")
        if table.get("expect") == "fails" and not table.get("why"):
            raise ConfigError(f"{where}: expect = 'fails' needs why = '...', so that nobody has to guess")
        found[name] = Override(**table)
    return found


def _release(reader: _Reader, data: Mapping[str, Any]) -> tuple[Family, ...]:
    families = []
    if not isinstance(data.get("release", []), list):
        raise ConfigError(f"{reader.path}: release = {data['release']!r}, expected tables [[release]]")
    for i, entry in enumerate(data.get("release", [])):
        where = f"[[release]] number {i + 1}"
        table = reader.table({where: entry}, where, {"name": str, "rule": str, "claims": list})
        rule = table.get("rule", "all")
        if rule not in ("all", "any", "exploratory"):
            raise ConfigError(f"{reader.path}: {where}: rule = {rule!r}; {nearest(str(rule), ['all', 'any', 'exploratory'])}")
        if not table.get("name") or not table.get("claims") or not all(isinstance(c, str) for c in table["claims"]):
            raise ConfigError(f"{reader.path}: {where}: expected name = '...' and claims = ['Q1', ...]")
        families.append(Family(table["name"], rule, tuple(table["claims"])))
    if any(f.rule == "any" for f in [f for f in families if f.rule != "exploratory"][:-1]):
        raise ConfigError(f"{reader.path}: [[release]]: a family with rule = 'any' must be the last that gates: behind it alpha is spent")
    return tuple(families)


def _bearing(name: str, claim_ids: Sequence[str]) -> list[str]:
    """The claims whose id, test (``Q1.flips``) or family (``Q1``) is ``name``; the name itself if there is none, unless it ends in "?"."""
    wanted = name.removesuffix("?")
    tests = {claim_id: claim_id.partition("[")[0] for claim_id in claim_ids}
    found = [c for c, test in tests.items() if wanted in (c, test) or test.startswith(wanted + ".")]
    return found if found or wanted != name else [name]


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads tables of one file, refusing unknown keys and wrong types by name."""

    path: Path

    def known(self, table: Mapping[str, Any], keys: list[str], where: str) -> None:
        for key in table:
            if key not in keys:
                raise ConfigError(f"{self.path}: unknown key {key!r} in {where}; {nearest(key, keys)}")

    def table(self, data: Mapping[str, Any], name: str, shape: Mapping[str, type] | None, inside: str = "") -> dict[str, Any]:
        """``shape`` None: whoever uses the table knows its keys."""
        table = data.get(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"{self.path}: {name} = {table!r}, expected a table")
        where = f"{inside}.{name}" if inside else name
        if shape is None:
            return dict(table)
        self.known(table, list(shape), f"[{where}]")
        for key, value in table.items():
            wanted = (int, float) if shape[key] is float else shape[key]
            if isinstance(value, bool) or not isinstance(value, wanted):
                raise ConfigError(f"{self.path}: {where}.{key} = {value!r}, expected {shape[key].__name__}")
        return dict(table)
