"""Artifacts are made once, verified on reuse, and nothing half-made is ever found."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.errors import StoreError
from harness.store import Store, digest_tree

pytestmark = pytest.mark.selftest


def writer(text: str, calls: list[str]):
    def make(folder: Path) -> None:
        calls.append(text)
        (folder / "model.bin").write_text(text)

    return make


def test_made_once_and_found_again(tmp_path):
    store, calls = Store(tmp_path), []
    first = store.make("m", {"a": 1}, writer("x", calls))
    again = store.make("m", {"a": 1}, writer("y", calls))
    assert (first.path, first.digest, calls) == (again.path, again.digest, ["x"])
    assert store.make("m", {"a": 2}, writer("z", calls)).path != first.path


@pytest.mark.parametrize("harm", ["change", "remove", "add", "seal", "cut"])
def test_a_changed_artifact_is_made_again_and_never_reused(tmp_path, harm, capsys):
    store, calls = Store(tmp_path), []
    path = store.make("m", {"a": 1}, writer("x", calls)).path
    if harm == "change":
        (path / "model.bin").write_text("X")
    elif harm == "remove":
        (path / "model.bin").unlink()
    elif harm == "add":
        (path / "other.bin").write_text("x")
    elif harm == "seal":
        seal = json.loads((path / "seal.json").read_text())
        seal["files"]["model.bin"] = "0" * 64
        (path / "seal.json").write_text(json.dumps(seal))
    else:
        (path / "seal.json").write_text("{")
    assert store.find("m", {"a": 1}) is None
    assert "no longer has the bytes" in capsys.readouterr().err
    assert store.make("m", {"a": 1}, writer("x", calls)).path == path
    assert calls == ["x", "x"]
    assert [p.name for p in path.parent.glob("*.damaged-*")]  # kept for a person to look at


def test_a_maker_that_raises_leaves_nothing(tmp_path):
    def broken(folder: Path) -> None:
        (folder / "half.bin").write_text("half")
        raise RuntimeError("out of ideas")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="out of ideas"):
        store.make("m", {}, broken)
    assert store.find("m", {}) is None
    assert not [p for p in (tmp_path / "m").iterdir() if p.is_dir()]


def test_a_recipe_that_makes_nothing_is_an_error(tmp_path):
    with pytest.raises(StoreError, match="made no file"):
        Store(tmp_path).make("m", {}, lambda folder: None)


SLOW = """
import sys, time
from pathlib import Path
from harness.store import Store
def make(folder):
    (folder / "half.bin").write_text("half")
    Path(sys.argv[2]).touch()
    time.sleep(float(sys.argv[3]))
    (folder / "done.bin").write_text(sys.argv[4])
print(Store(Path(sys.argv[1])).make("m", {}, make).path)
"""


def start(tmp_path: Path, flag: str, seconds: float, text: str) -> subprocess.Popen:
    command = [sys.executable, "-c", SLOW, str(tmp_path / "store"), str(tmp_path / flag), str(seconds), text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, process: subprocess.Popen) -> None:
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_a_killed_maker_leaves_nothing_that_is_found(tmp_path):
    process = start(tmp_path, "a", 60, "never")
    wait_for(tmp_path / "a", process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    store = Store(tmp_path / "store")
    assert store.find("m", {}) is None
    artifact = store.make("m", {}, lambda folder: (folder / "done.bin").write_text("mine") and None)
    assert list(digest_tree(artifact.path)) == ["done.bin"]
    assert not list((tmp_path / "store" / "m").glob(".*.*/half.bin"))  # the litter is swept


def test_two_runs_at_once_make_it_once(tmp_path):
    first = start(tmp_path, "a", 1.0, "first")
    wait_for(tmp_path / "a", first)
    second = start(tmp_path, "b", 0.0, "second")
    out, err = second.communicate()
    assert "another run is making m; waiting" in err
    assert first.communicate()[0] == out
    assert not (tmp_path / "b").exists()  # the second never made anything
    assert (Path(out.strip()) / "done.bin").read_text() == "first"


def test_a_full_disk_is_said_and_nothing_half_made_stays(tmp_path):
    """A limit on file size stands for the full disk: the write stops short in the same way."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from harness.store import Store\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "Store(Path(sys.argv[1])).make('m', {}, lambda folder: (folder / 'model.bin').write_bytes(b'x' * 5000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert "StoreError: store: cannot make m" in done.stderr
    assert "HARNESS_STORE" in done.stderr
    assert Store(tmp_path).find("m", {}) is None
    assert not list(tmp_path.rglob("model.bin"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_said(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="cannot make"):
        Store(tmp_path).make("m", {}, writer("x", []))


def test_a_folder_below_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot make m in .*file/store.*HARNESS_STORE"):
        Store(tmp_path / "file" / "store").make("m", {}, lambda folder: None)
