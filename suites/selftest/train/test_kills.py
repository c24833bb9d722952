"""Kills: a boundary is found where a file changes, a shot process is really dead, and a careless resume is caught."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from harness.errors import EngineError
from harness.train import kills
from harness.train.recipe import Recipe

pytestmark = pytest.mark.selftest

ROWS = [([{"role": "user", "content": f"the {i}"}], "fox" if i % 2 else "dog") for i in range(8)]
RECIPE = Recipe(rank=4, alpha=8, lr=2e-2, epochs=2, batch=4, max_length=64, dropout=0.1, save_every=2)


def boundaries(folder: Path, body: str) -> list[str]:
    """What the hook notes while ``body`` runs, in a process of its own: a hook cannot be taken back."""
    code = f"""
import json, os, shutil, sys, tempfile
from pathlib import Path
from harness.train import kills
folder, noted = Path({str(folder)!r}), []
kills._at_boundaries(folder, noted, None)
{body}
print(json.dumps([b["name"] for b in noted]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_every_change_below_the_folder_is_a_boundary(tmp_path):
    found = boundaries(
        tmp_path,
        """
(folder / "a").mkdir()
(folder / "a/x").write_text("one")
(folder / "a/x").read_text()
os.close(os.open(folder / "a/y", os.O_RDWR | os.O_CREAT))
os.replace(folder / "a/x", folder / "b")
os.link(folder / "b", folder / "c")
os.symlink("b", folder / "d")
os.truncate(folder / "b", 1)
os.unlink(folder / "c")
os.rmdir(os.mkdir(folder / "e") or folder / "e")
shutil.rmtree(folder / "a")
""",
    )
    assert found == [
        "os.mkdir a", "open a/x", "open a/y", "os.rename b", "os.link c", "os.symlink d", "os.truncate b", "os.remove c",
        "os.mkdir e", "os.rmdir e", "os.remove a/y", "os.rmdir a",
    ]  # fmt: skip


def test_what_lies_elsewhere_is_none(tmp_path):
    (tmp_path / "in").mkdir()
    found = boundaries(
        tmp_path / "in",
        """
os.chdir(folder)
Path("../out").write_text("x")
Path("../in-too").write_text("x")
Path("here").write_text("x")
os.replace("here", "../gone")
tempfile.mkdtemp(prefix=".part.", dir=folder)
""",
    )
    assert found == ["open here", "os.rename here", "os.mkdir .part.*"]


@pytest.mark.parametrize("how", kills.TEARS)
def test_tears(tmp_path, how):
    path = tmp_path / "file"
    path.write_bytes(b"abcdefgh")
    kills._tear(path, how)
    expected = {"missing": None, "empty": b"", "halved": b"abcd", "flipped": b"abcddfgh"}[how]
    assert (path.read_bytes() if path.exists() else None) == expected


@pytest.mark.parametrize(
    ("found", "outcome"),
    [
        ({"adapter": "a", "resumed_at": 2}, "identical"),
        ({"adapter": "b", "resumed_at": 2}, "other"),
        ({"adapter": None, "resumed_at": None}, "other"),
        ({"error": "TrainingError: checkpoint-000002 is damaged", "ours": True}, "refused"),
        ({"error": "TrainingError: something is damaged", "ours": True}, "crashed"),
        ({"error": "ValueError: checkpoint-000002", "ours": False}, "crashed"),
        ({}, "crashed"),
    ],
)
def test_outcomes(found, outcome):
    assert kills._outcome(found, "a", {"checkpoint-000002"})[0] == outcome


def test_there_is_a_shot_at_each_boundary_and_a_cut_where_something_was_written():
    aims = kills._kills([{"name": "open x", "written": False}, {"name": "os.rename x", "written": True}])
    assert [(aim["kill"], aim["harm"]) for aim in aims] == [(0, "killed"), (1, "killed"), (2, "killed"), (1, "killed and cut")]


def test_a_fork_says_what_became_of_it(tmp_path):
    """In a process without threads."""
    code = """
import os, signal, sys
from pathlib import Path
from harness.errors import StoreError
from harness.train import kills
place = Path(sys.argv[1])
def refuse(): raise StoreError("no")
def stumble():
    try: open(place / "none")
    except OSError as error: raise StoreError("stumbled") from error
def die(): os.kill(os.getpid(), signal.SIGKILL)
print(kills._forked(lambda: {"a": 1}, place / "1"))
print(kills._forked(refuse, place / "2"))
print(kills._forked(stumble, place / "4"))
status, found = kills._forked(die, place / "3")
print(os.WTERMSIG(status), found)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "(0, {'a': 1})",
        "(0, {'error': 'StoreError: no', 'ours': True})",
        "(0, {'error': 'StoreError: stumbled', 'ours': False})",
        f"{int(signal.SIGKILL)} {{}}",
    ]


SHOTS = """
import json, sys
from pathlib import Path
from harness.train import kills
told, place = json.loads(sys.argv[1]), Path(sys.argv[2])
kills._warm(told, place / "warm")
calm = kills._forked(lambda: kills._calm(told, place / "calm"), place / "calm.json")[1]
kills._forked(lambda: kills._train(told, place / "stopped", stop=3), place / "stopped.json")
first = next(i for i, b in enumerate(calm["boundaries"]) if b["name"].endswith("seal.json"))
aims = [{"at": "seal", "kill": first, "harm": "killed and cut"}, {"at": "nothing", "from": str(place / "stopped"), "harm": "nothing"}]
state = {"from": str(place / "stopped"), "file": "work/checkpoint-000003/state.safetensors"}
aims += [{**state, "at": how, "harm": how} for how in ("missing", "flipped")]
for careless in (False, True):
    for aim in aims:
        shot = kills._shoot({**told, "careless": careless}, place / "aim", aim, calm["adapter"])
        print(json.dumps([careless, shot.at, shot.outcome, shot.said, shot.killed]), file=sys.stderr)
"""


def test_shots(tiny_folder, tmp_path):
    """The whole matrix is claim T10; here some of it, with the sealed checkpoints and with careless ones."""
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)
    told = {"base": str(tiny_folder), "rows": ROWS, "recipe": asdict(RECIPE), "careless": False}
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", SHOTS, json.dumps(told), str(tmp_path)], capture_output=True, text=True, check=True, env=environment
    )
    rows = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("[")]
    found = {(careless, at): (outcome, said, killed) for careless, at, outcome, said, killed in rows}
    assert found[False, "seal"] == ("identical", "started over", True)
    assert found[False, "nothing"] == ("identical", "went on after step 3", False)
    assert found[False, "missing"] == found[False, "flipped"] == ("identical", "went on after step 2", False)  # the one before
    assert found[True, "nothing"] == ("identical", "went on after step 3", False)
    assert found[True, "flipped"][0] == "other"
    assert found[True, "missing"][0] != "identical"


def test_a_parent_that_dies_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "require", lambda recipes: None)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(EngineError, match="ended with status 1: it said nothing"):
        kills.matrix(tmp_path, ROWS, RECIPE, lambda *step: None, stop=3)
