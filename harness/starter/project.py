"""Which files a project of one's own gets, filled in from templates. Nothing that stands there is overwritten."""

from __future__ import annotations

import configparser
import json
import math
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from string import Template

from harness import config, evals, golden
from harness.errors import ConfigError
from harness.starter import files, sets
from harness.store import digest_json

__all__ = ["CI", "Asked", "Written", "ci_files", "example", "planned", "verify", "write"]

_TEMPLATES = Path(__file__).parent / "templates"
_EXTRAS = {"hf": "hf", "adapter": "train", "gguf": "llamacpp", "http": "openai", "https": "openai"}  # scheme -> what its engine needs
_IGNORED = ("reports/", ".harness/")
_ANSWERED = ("answers", "json_extraction", "code", "multiple_choice")
_WRONG = {"mine": 3, "old": 6}  # of the example's made-up answers, so that its verdicts are no round numbers

CI: Mapping[str, str] = {"github": ".github/workflows/claims.yml", "gitlab": ".gitlab/claims.yml"}


@dataclass(frozen=True, slots=True)
class Asked:
    """What a project is to begin with. ``model``, ``against``, ``checkpoint``: "scheme:where"; "" makes up answers, or leaves it out.

    ``slo`` is promised of the served model at ``rate`` requests a second, like {"ttft_p95": "2s"}.
    """

    name: str
    made: sets.Made
    model: str = ""
    against: str = ""
    checkpoint: str = ""  # of a GGUF file or a server: what it was made of, or started with
    slo: Mapping[str, str] = field(default_factory=dict)
    rate: float = 1.0
    ci: tuple[str, ...] = ()
    is_example: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What was written, what stood there already as it should, and what a person may want to do by hand."""

    new: tuple[Path, ...]
    kept: tuple[Path, ...]
    by_hand: tuple[str, ...]


def example(approved_by: str) -> sets.Made:
    """The golden set of a project that brings none: sixty support tickets."""
    return sets.make(
        _TEMPLATES / "tickets.jsonl", "tickets", source="written for this example", licence="CC0-1.0", approved_by=approved_by,
        prompt="Which department is this for: billing, shipping, account or product? Answer with one word.\n{input}",
    )  # fmt: skip


# --- what is written --------------------------------------------------------------------------


def planned(root: Path, asked: Asked) -> tuple[dict[Path, bytes], list[str]]:
    """Every file with its content, and what remains to be done by hand. Nothing is written. Raises HarnessError for what cannot be."""
    made, other = asked.made, root / "fixtures" / "lifecycle.toml"
    if other.is_file():
        raise ConfigError(f"{other}: this project has its lifecycle file there; a second one would hide it. Take another folder")
    if made.kind not in _ANSWERED:
        raise ConfigError(
            f"golden set {made.name}: kind {made.kind!r} has no answers to claim anything of; expected {', '.join(_ANSWERED)}"
        )
    subjects = {"mine": asked.model or _FAKE.format("mine")}
    if asked.against or asked.is_example:
        subjects["old"] = asked.against or _FAKE.format("old")
    if asked.checkpoint:
        subjects["source"] = asked.checkpoint
    for name, where in subjects.items():
        config.parse_subject(f"{name}={where}")
    found = {root / "lifecycle.toml": _lifecycle(asked, subjects), **_claims(root, made, compared="old" in subjects)}
    for name, where in subjects.items():
        if where == _FAKE.format(name):
            found[root / "claims" / f"{name}.json"] = _made_up(made, _WRONG[name] if asked.is_example else 0)
    if asked.slo:
        found[root / "claims" / "test_slo.py"] = _fill("test_slo.py")
    found |= sets.add(made, root / "golden")
    found[root / "claims" / "requirements.txt"] = _requirements(subjects.values())
    ini, by_hand = _pytest_ini(root)
    found |= ini
    found |= _ignore(root)
    ci, more = ci_files(root, asked.ci)
    if asked.slo and asked.model.partition(":")[0] in ("gguf", "http", "https") and not asked.checkpoint:
        more.append(
            "the claim of claims/test_slo.py needs the checkpoint that is served, to hold the server against: --checkpoint hf:FOLDER"
        )
    return {**found, **ci}, [*by_hand, *more]


_FAKE = "fake:claims/{}.json"


def _fill(template: str, **values: object) -> bytes:
    text = Template((_TEMPLATES / f"{template}.template").read_text("utf-8"))
    return text.substitute({name: str(value) for name, value in values.items()}).encode()


def _lifecycle(asked: Asked, subjects: Mapping[str, str]) -> bytes:
    remark = {_FAKE.format("mine"): "  # a table of made-up answers, to try things out: NO MODEL. Put yours here"}
    lines = [f"{name} = {sets.toml(where)}{remark.get(where, '')}" for name, where in subjects.items()]
    return _fill("lifecycle.toml", name=sets.toml(asked.name), subjects="\n".join(lines), set=asked.made.name, served=_served(asked))


def _served(asked: Asked) -> str:
    """``[serve.mine]``: how the model is served, what is promised of it, and as many requests as show it."""
    if not asked.slo:
        return ""
    from harness.records import objectives
    from harness.serve import slo

    scheme, _, where = asked.model.partition(":")
    engine = {"gguf": "llamacpp", "hf": "vllm", "vllm": "vllm"}.get(scheme)
    if engine is None and scheme not in ("http", "https"):
        raise ConfigError(
            f"--slo: {asked.model or 'no model'!r} cannot be served; expected --model hf:FOLDER, gguf:FILE or http://HOST/v1#MODEL"
        )
    if asked.made.kind not in ("answers", "json_extraction", "code"):
        raise ConfigError(f"--slo: a set of kind {asked.made.kind!r} holds no prompts that are answered in words")
    if not 0 < asked.rate < math.inf:
        raise ConfigError(f"--rate {asked.rate}: expected requests a second, above 0")
    requests = max(slo.plan(slo.limit_claim(each, "mine"), 1).likely for each in objectives(asked.slo))
    how = (
        {"engine": engine, "subject": "mine"}
        if engine
        else {"url": f"{scheme}:{where}", **({"subject": "source"} if asked.checkpoint else {})}
    )
    said = {**how, "set": asked.made.name, "rate": asked.rate, "requests": requests, "slo": dict(asked.slo)}
    lines = [f"{key} = {sets.toml(value)}" for key, value in said.items()]
    return "\n".join(["[serve.mine]                     # what claims/test_slo.py claims of the server", *lines, "", ""])


def _claims(root: Path, made: sets.Made, *, compared: bool) -> dict[Path, bytes]:
    said = {"set": made.name, "n": len(made.rows)}
    found = {root / "claims" / "test_mine.py": _fill("test_mine.py", claim=json.dumps(f"{made.name}.accuracy"), **said)}
    if compared:
        margin = max(0.01, math.ceil(sets.margin(len(made.rows)) * 100) / 100)
        if margin >= 0.5:
            raise ConfigError(f"golden set {made.name}: {len(made.rows)} items are too few to compare two models by; leave --against out")
        claim = json.dumps(f"{made.name}.not_worse")
        found[root / "claims" / "test_not_worse.py"] = _fill("test_not_worse.py", claim=claim, margin=margin, **said)
    return found


def _made_up(made: sets.Made, wrong: int) -> bytes:
    """A table of answers by id, all of them right but ``wrong``: to see a run before a model is there."""
    if made.kind not in ("answers", "json_extraction"):
        raise ConfigError(f"golden set {made.name}: no answers can be made up for kind {made.kind!r}; name a model: --model hf:FOLDER")
    spoiled = sorted((str(row["id"]) for row in made.rows), key=lambda item: digest_json([wrong, item]))[:wrong]
    answers = {row["id"]: "?" if row["id"] in spoiled else _right(row["target"]) for row in made.rows}
    return (json.dumps(answers, ensure_ascii=False, indent=1) + "\n").encode()


def _right(target: object) -> str:
    if isinstance(target, list):
        return str(target[0])
    return evals.answer_text(target) if isinstance(target, dict) else str(target)


def _requirements(subjects: Iterable[str]) -> bytes:
    schemes = sorted({_EXTRAS[s] for s in (where.partition(":")[0] for where in subjects) if s in _EXTRAS})
    extras = f"[{','.join(schemes)}]" if schemes else ""
    return _fill("requirements.txt", extras=extras, requirement=f"lifecycle-harness{extras}{_origin()}")


def _origin() -> str:
    """Where this very installation came from, as pip wants it: a commit of a repository (PEP 610), else the version."""
    try:
        found = metadata.distribution("lifecycle-harness")
    except metadata.PackageNotFoundError:
        from harness import __version__

        return f"=={__version__}"
    said = json.loads(found.read_text("direct_url.json") or "{}")
    commit = said.get("vcs_info", {}).get("commit_id")
    return f" @ git+{said['url']}@{commit}" if commit else f"=={found.version}"


# --- beside what stands there -----------------------------------------------------------------


def _pytest_ini(root: Path) -> tuple[dict[Path, bytes], list[str]]:
    """``pytest.ini``, unless the project says elsewhere how pytest runs: a second file would silence the first."""
    own = _configured(root)
    if own is not None:
        return {}, [f"{own.name} configures pytest and was left alone; nothing has to be added. Run: python -m pytest claims"]
    others = any(any(root.glob(pattern)) for pattern in ("tests", "test", "test_*.py"))
    return {root / "pytest.ini": _fill("pytest.ini", testpaths="" if others else "testpaths = claims")}, []


def _configured(root: Path) -> Path | None:
    """The file that says how pytest runs here; the pytest.ini that would be written is none."""
    for name in ("pytest.toml", ".pytest.toml", ".pytest.ini"):
        if (root / name).is_file():
            return root / name
    if (root / "pytest.ini").is_file():
        mine = {_fill("pytest.ini", testpaths=said) for said in ("", "testpaths = claims")}
        return None if (root / "pytest.ini").read_bytes() in mine else root / "pytest.ini"
    project = root / "pyproject.toml"
    if project.is_file() and "pytest" in _toml(project).get("tool", {}):
        return project
    for name, section in (("tox.ini", "pytest"), ("setup.cfg", "tool:pytest")):
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(root / name, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError) as error:
            raise ConfigError(f"{root / name}: cannot be read ({error}); pytest would not read it either. Mend it first") from error
        if parser.has_section(section):
            return root / name
    return None


def _toml(path: Path) -> dict[str, dict[str, object]]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: no TOML ({error}); pytest would not read it either. Mend it first") from error


def _ignore(root: Path) -> dict[Path, bytes]:
    """``.gitignore`` with the lines that lack."""
    path = root / ".gitignore"
    before = path.read_bytes().decode("utf-8", "surrogateescape") if path.is_file() else ""
    lacking = [line for line in _IGNORED if line not in before.splitlines()]
    if not lacking:
        return {}
    gap = "" if not before or before.endswith("\n") else "\n"
    return {path: (before + gap + "".join(f"{line}\n" for line in lacking)).encode("utf-8", "surrogateescape")}


def ci_files(root: Path, systems: Sequence[str]) -> tuple[dict[Path, bytes], list[str]]:
    """The workflow of each CI system; where GitLab has a pipeline already, the two lines that include ours are told."""
    found: dict[Path, bytes] = {}
    by_hand = []
    for system in systems:
        found[root / CI[system]] = (_TEMPLATES / f"{system}.yml").read_bytes()
    if "gitlab" in systems:
        include, pipeline = f"include:\n  - local: {CI['gitlab']}\n", root / ".gitlab-ci.yml"
        if not pipeline.is_file():
            found[pipeline] = include.encode()
        elif CI["gitlab"] not in pipeline.read_text("utf-8", "replace"):
            by_hand.append(f"{pipeline.name} stands there and was left alone; add to it:\n{include.rstrip()}")
    above = next((folder for folder in root.parents if (folder / ".git").exists()), None)
    if systems and above is not None and not (root / ".git").exists():
        by_hand.append(f"{root} is no repository's top folder: CI reads {above}. Move the pipeline there and let it work in {root.name}/")
    return found, by_hand


# --- writing ----------------------------------------------------------------------------------


def write(root: Path, wanted: Mapping[Path, bytes], by_hand: Sequence[str] = ()) -> Written:
    """Writes what is not there. ConfigError, and nothing is written, if a file stands there with another content.

    The manifest of golden sets and .gitignore are the two that are added to: what stood in them stays.
    """
    grown = {root / "golden" / "manifest.toml", root / ".gitignore"}
    same = [path for path, data in wanted.items() if path.is_file() and path.read_bytes() == data]
    there = [path for path in wanted if path not in same and (path.exists() or path.is_symlink()) and path not in grown]
    if there:
        named = ", ".join(str(path.relative_to(root)) for path in there)
        raise ConfigError(
            f"{root}: {named} {'stands' if len(there) == 1 else 'stand'} there already, with another content; nothing was written. "
            f"Move {'it' if len(there) == 1 else 'them'} away, or take another folder (what init writes may be changed freely afterwards)"
        )
    new = [path for path in wanted if path not in same]
    for path in new:
        files.replace(path, wanted[path])
    return Written(tuple(new), tuple(same), tuple(by_hand))


def verify(root: Path) -> None:
    """Reads back what was written, as a run would: the lifecycle file and its golden sets. Raises HarnessError as they do."""
    settings = config.load(root / "lifecycle.toml")
    for name in golden.names(settings.golden):
        golden.load(name, settings.golden)
