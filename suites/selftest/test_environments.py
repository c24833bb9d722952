"""Environments of their own: made once, only finished ones are found, failures are quoted. Wheels are made here; no network."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from harness import environments
from harness.__main__ import main
from harness.environments import ENVIRONMENTS, Environment
from harness.errors import ConfigError, HarnessError, MissingNeed, StoreError

pytestmark = pytest.mark.selftest


def wheel(folder: Path, name: str, version: str = "1.0") -> str:
    """A wheel with one module of its name."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": "raise RuntimeError('this was imported')\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return str(path)


@pytest.fixture
def known(tmp_path, monkeypatch):
    """Puts environments of our own in place of the real ones; returns the function that adds one."""
    monkeypatch.setenv("HARNESS_ENVIRONMENTS", str(tmp_path / "envs"))
    monkeypatch.setattr(environments, "ENVIRONMENTS", {})

    def add(name="apart", requirements=None, modules=("alpha",), **more):
        wanted = requirements or ("--no-index", wheel(tmp_path, "alpha"))
        made = Environment(name, "for a test", wanted, modules, ("alpha", "beta", "absent"), **more)
        environments.ENVIRONMENTS[name] = made
        return made

    return add


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if not path.name.endswith(".lock")] if folder.exists() else []


def test_install_then_found_without_importing(known, tmp_path):
    known(requirements=("--no-index", wheel(tmp_path, "alpha"), wheel(tmp_path, "beta", "2.5")), unwanted=("beta",))
    said: list[str] = []
    interpreter = environments.install("apart", said.append)
    assert interpreter == environments.place("apart") / "bin" / "python"
    assert environments.python("apart") == interpreter
    assert environments.missing("apart") is None
    assert environments.versions("apart") == {"alpha": "1.0"}  # beta was installed, and removed again
    assert any("installing" in line for line in said)
    marker = interpreter.parent.parent / "ready.json"
    before = marker.stat().st_mtime_ns
    again: list[str] = []
    assert environments.install("apart", again.append) == interpreter
    assert (marker.stat().st_mtime_ns, len(again)) == (before, 1)  # nothing was done twice


def test_absent_environment_names_the_command(known):
    known()
    need = environments.missing("apart")
    assert need is not None and need.need == "apart"
    with pytest.raises(MissingNeed, match="python -m harness doctor --install apart"):
        environments.python("apart")
    with pytest.raises(MissingNeed):
        environments.versions("apart")


def test_failure_of_pip_is_quoted_and_nothing_stays(known, tmp_path):
    known(requirements=("--no-index", "no-such-distribution==1.0"))
    with pytest.raises(StoreError, match="No matching distribution found for no-such-distribution"):
        environments.install("apart", lambda _: None)
    assert left(tmp_path / "envs") == []
    assert environments.missing("apart") is not None


def test_what_pip_installs_must_hold_the_modules(known, tmp_path):
    known(modules=("alpha", "gamma"))
    with pytest.raises(StoreError, match="no module gamma"):
        environments.install("apart", lambda _: None)
    assert left(tmp_path / "envs") == []


def test_killed_install_is_not_found_and_made_anew(known, tmp_path):
    made = known()
    script = f"""
import os, signal
from harness import environments
from harness.environments import Environment
environments.ENVIRONMENTS = {{"apart": environments.{made!r}}}
def say(line):
    if "Installing collected" in line:
        os.kill(os.getpid(), signal.SIGKILL)
environments.install("apart", say)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = environments.place("apart")
    assert (folder / "bin" / "python").exists()  # half-made
    (folder / "litter").write_text("")
    assert environments.missing("apart") is not None
    environments.install("apart", lambda _: None)
    assert environments.missing("apart") is None
    assert not (folder / "litter").exists()


def test_what_a_killed_install_left_running_is_waited_for(tmp_path):
    ended = tmp_path / "ended"
    step = f"import time; print('Collecting x', flush=True); time.sleep(1.5); open({str(ended)!r}, 'w')"
    script = f"""
import os, signal, sys
from pathlib import Path
from harness import environments
with environments._lock(Path({str(tmp_path / "apart")!r}), print):
    environments._run("apart", [sys.executable, "-c", {step!r}], lambda line: os.kill(os.getpid(), signal.SIGKILL))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    said: list[str] = []
    with environments._lock(tmp_path / "apart", said.append):
        assert ended.exists()
    assert [line.partition(" ")[0] for line in said] == ["another"]


def test_two_at_once_install_once(known):
    known()
    said: list[str] = []
    threads = [threading.Thread(target=environments.install, args=("apart", said.append)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum("installing --no-index" in line for line in said) == 1
    assert sum("ready in" in line for line in said) == 2


def test_place_that_cannot_be_written(known, tmp_path, monkeypatch):
    known()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HARNESS_ENVIRONMENTS", str(tmp_path / "file" / "envs"))  # holds for root too
    with pytest.raises(StoreError, match="HARNESS_ENVIRONMENTS"):
        environments.install("apart", lambda _: None)


def test_other_pins_are_another_place(known, monkeypatch):
    known()
    first = environments.place("apart")
    known(requirements=("alpha==2",))
    assert environments.place("apart") != first
    known(cuda=("alpha-cuda",), unwanted=("beta",))
    plain = environments.place("apart")
    monkeypatch.setattr(environments.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    assert environments.place("apart") != plain
    assert environments.ENVIRONMENTS["apart"].pip() == (("alpha-cuda",), ())


def test_interpreter_of_the_user(known, monkeypatch):
    known(modules=("json",))
    monkeypatch.setenv("HARNESS_PYTHON_APART", sys.executable)
    assert environments.python("apart") == Path(sys.executable)
    assert environments.install("apart", lambda _: None) == Path(sys.executable)
    known(modules=("json", "no_such_module"))
    with pytest.raises(MissingNeed, match="cannot import no_such_module"):
        environments.install("apart", lambda _: None)  # is never changed
    monkeypatch.setenv("HARNESS_PYTHON_APART", "/no/such/python")
    with pytest.raises(MissingNeed, match="no Python that can be started"):
        environments.python("apart")


def test_unknown_name_says_the_nearest():
    with pytest.raises(ConfigError, match="'vllm'"):
        environments.python("vlm")


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_real_environments_pin_what_they_name(name):
    environment = ENVIRONMENTS[name]
    assert environment.name == name
    assert all("=" in wanted or "<" in wanted for wanted in (*environment.requirements, *environment.cuda))
    assert (environment.modules or environment.cmake) and environment.distributions


def test_doctor_lists_and_installs(known, capsys):
    known()
    assert main(["doctor"]) == 0
    assert "apart     missing" in capsys.readouterr().out
    assert main(["doctor", "--install", "apart"]) == 0
    assert f"apart     ready: {environments.place('apart')}" in capsys.readouterr().out
    assert main(["doctor", "--install", "apart", "no-such-extra"]) == 1
    assert "Nothing was installed" in capsys.readouterr().err


def test_import_of_the_environment_is_not_ours(known, tmp_path, monkeypatch):
    """What PYTHONPATH offers does not make an environment ready."""
    known(requirements=("--no-index", wheel(tmp_path, "delta")), modules=("alpha",))
    (tmp_path / "alpha.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", os.fspath(tmp_path))
    with pytest.raises(HarnessError, match="no module alpha"):
        environments.install("apart", lambda _: None)


def source(folder: Path, program: str = "int main() { return 7; }") -> None:
    """A source distribution that holds a CMake project, and builds without anything from outside."""
    backend = """import pathlib
def prepare_metadata_for_build_wheel(folder, settings=None):
    info = pathlib.Path(folder, "gamma-1.0.dist-info")
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\\nName: gamma\\nVersion: 1.0\\n")
    return info.name
"""
    files = {
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": backend,
        "PKG-INFO": "Metadata-Version: 2.1\nName: gamma\nVersion: 1.0\n",
        "vendor/CMakeLists.txt": (
            "cmake_minimum_required(VERSION 3.10)\nproject(x C)\nset(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
            "add_executable(apart main.c)\n"
        ),
        "vendor/main.c": program,
    }
    with tarfile.open(folder / "gamma-1.0.tar.gz", "w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"gamma-1.0/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))


@pytest.fixture
def compiled(known, tmp_path, monkeypatch):
    """An environment that is a program, out of a source distribution on disk."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.delenv("HARNESS_APART", raising=False)
    made = Environment("apart", "for a test", ("gamma==1.0",), (), ("gamma",), source="vendor", cmake=("-DCMAKE_BUILD_TYPE=Release",))
    environments.ENVIRONMENTS["apart"] = made
    if shutil.which("cmake") is None or shutil.which("c++") is None:
        pytest.skip("no compiler here")
    return made


def test_a_program_is_compiled_and_found(compiled, tmp_path):
    source(tmp_path)
    assert environments.missing("apart").need == "apart"
    program = environments.install("apart", lambda line: None)
    assert program == environments.program("apart") == environments.ready("apart") == environments.place("apart") / "bin" / "apart"
    assert subprocess.run([program]).returncode == 7
    assert environments.versions("apart") == {"gamma": "1.0"}
    assert sorted(left(environments.place("apart"))) == ["bin", "ready.json"]  # neither sources nor objects
    said: list[str] = []
    environments.install("apart", said.append)
    assert len(said) == 1


def test_a_program_that_does_not_compile_leaves_nothing(compiled, tmp_path):
    source(tmp_path, "int main() { return nothing; }")
    with pytest.raises(StoreError, match="nothing"):
        environments.install("apart", lambda line: None)
    assert left(tmp_path / "envs") == []


def test_without_a_compiler_it_says_so(compiled, tmp_path, monkeypatch):
    monkeypatch.setattr(environments.shutil, "which", lambda tool: None)
    with pytest.raises(MissingNeed, match="no cmake and no c"):
        environments.install("apart", lambda line: None)
