"""A repository of somebody's, small enough to be measured in seconds: a golden set, tables of answers, claims, a commit.

What stands between the table and the score is the project's own ``scoring.py``, so that a scorer can be changed and a fix be
reverted. Environment variables stand for what a machine does: SMALL_NOISE answers change at random, right to wrong and
wrong to right; SMALL_LOSS answers that were right are wrong. SMALL_WAIT seconds pass before a subject answers.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
N = 300

_FILES = {
    "pytest.ini": "[pytest]\naddopts = -p no:cacheprovider -p no:randomly\n",
    ".gitignore": "__pycache__/\n/reports/\n",
    "fixtures/lifecycle.toml": (
        '[lifecycle]\nname = "small"\ngolden = "golden"\n[subjects]\nmine = "fake:mine.json"\nold = "fake:old.json"\n'
        '[quant]\nreferences = ["old"]\nbuilds = []\nsets = []\ntexts = ""\n'
    ),
    "scoring.py": '''"""Right or wrong: the number must be there, as it is."""

import json


def right(text, target):
    try:
        return float(json.loads(text) == target)
    except ValueError:
        return 0.0
''',
    "test_claims.py": '''"""What is claimed of these tables of answers."""

import hashlib
import os
import time

import pytest
from harness import Claim, Control, Measurement, Sample, at_least, at_most, evals, identical, non_inferior
from harness.types import Sampling

import scoring


def answered(engine, golden, name):
    """A row per ticket, shaken as SMALL_NOISE and SMALL_LOSS say."""
    time.sleep(shaken("WAIT"))
    tickets = golden("tickets")
    said = engine(name).generate(evals.prompts(tickets), sampling=Sampling())
    scores = {i["id"]: scoring.right(a.text, i["target"]) for i, a in zip(tickets.items, said, strict=True)}
    rest = sorted(scores, key=lambda item: hashlib.sha256(f"{name}{item}".encode()).hexdigest())
    for wanted, count in ((1.0, shaken("NOISE") + shaken("LOSS")), (0.0, shaken("NOISE"))):
        for item in [item for item in rest if scores[item] == wanted][: count if name == "mine" else 0]:
            scores[item], rest = 1.0 - wanted, [other for other in rest if other != item]
    rows = tuple(Sample(item, value) for item, value in scores.items())
    return Measurement("tickets", rows, conditions={"golden": tickets.digest, "threads": os.environ.get("OMP_NUM_THREADS", "all")})


def shaken(how):
    return int(os.environ.get(f"SMALL_{how}", "0"))


@pytest.mark.claim(Claim("tickets.accuracy", "answers 60% of the tickets", at_least(0.60), min_n=150))
def test_tickets(claim, engine, golden):
    claim.check(answered(engine, golden, "mine"))


@pytest.mark.claim(Claim("tickets.not_worse", "loses fewer than 5 points", non_inferior(0.05), min_n=150))
def test_not_worse(claim, engine, golden):
    new, old = (answered(engine, golden, name) for name in ("mine", "old"))
    nothing = evals.pair(old.samples, old.samples)
    claim.check(
        Measurement("tickets", evals.pair(new.samples, old.samples), conditions=new.conditions),
        controls=[
            Control("the old one against itself", ("holds",), Measurement("tickets", nothing)),
            Control("a loss of 20 points", ("fails",), Measurement("tickets", evals.plant_loss(nothing, 0.20, "tickets"))),
        ],
    )


@pytest.mark.claim(Claim("tickets.strict", "loses fewer than 2 points", non_inferior(0.02), min_n=150))
def test_strictly_not_worse(claim, engine, golden):
    new, old = (answered(engine, golden, name) for name in ("mine", "old"))
    claim.check(Measurement("tickets", evals.pair(new.samples, old.samples), conditions=new.conditions))


@pytest.mark.claim(Claim("R3.noise[tickets]", "few tickets change when they are asked again", at_most(0.10), min_n=150))
def test_noise(claim, engine, golden):
    first, again = (answered(engine, golden, "mine") for _ in range(2))
    rows = (Sample(a.item, float(a.value != b.value)) for a, b in zip(first.samples, again.samples, strict=True))
    claim.check(Measurement("flips", tuple(rows), conditions=first.conditions))


@pytest.mark.claim(Claim("tickets.asked", "every ticket is asked once", identical()))
def test_asked(claim, golden):
    rows = tuple(Sample(item["id"], 1.0) for item in golden("tickets").items)
    claim.check(Measurement("asked", rows, conditions={"golden": golden("tickets").digest}))


@pytest.mark.claim(Claim("tickets.length", "an answer has at most 20 characters", at_most(20.0), estimand="exact"))
def test_length(claim, engine, golden):
    said = engine("mine").generate(evals.prompts(golden("tickets")), sampling=Sampling())
    claim.check(Measurement("characters", (Sample("mean", sum(len(a.text) for a in said) / len(said)),)))
''',
}


def make(folder: Path) -> Path:
    """The repository, with one commit."""
    for name, text in {**_FILES, **_tables()}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    git(folder, "init", "-q", "-b", "main")
    commit(folder, "first")
    return folder


def _tables() -> dict[str, str]:
    """The tickets and what two subjects say to them: both are right on the same three in four."""
    tickets = {f"t{i:03d}": {"n": str(i)} for i in range(N)}
    rows = "".join(json.dumps({"id": i, "input": f"case {i}", "target": target}) + "\n" for i, target in tickets.items())
    manifest = (
        f'[tickets]\nfile = "tickets.jsonl"\nkind = "json_extraction"\nn = {N}\nsha256 = "{hashlib.sha256(rows.encode()).hexdigest()}"\n'
        'unit = "item"\nfields = ["id", "input", "target"]\nsource = "us"\nlicence = "MIT"\napproved_by = "me"\nhow_made = "by hand"\n'
    )
    said = {
        name: {i: json.dumps(target if _drawn(i) < 0.75 else {"n": "none"}) for i, target in tickets.items()} for name in ("mine", "old")
    }
    return {
        "golden/tickets.jsonl": rows,
        "golden/manifest.toml": manifest,
        **{f"{name}.json": json.dumps(answers) for name, answers in said.items()},
    }


def _drawn(item: str) -> float:
    return int(hashlib.sha256(item.encode()).hexdigest()[:8], 16) / 0xFFFFFFFF


def git(folder: Path, *arguments: str) -> str:
    """What git says; nobody's own configuration has a part in it."""
    nobody = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    who = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, env={**os.environ, **nobody}, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def commit(folder: Path, message: str) -> str:
    """Commits everything; the id."""
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", message)
    return git(folder, "rev-parse", "HEAD")


def environment(store: Path, **more: str) -> dict[str, str]:
    """For processes in the small repository: this harness, a store of their own, no shaking unless it is asked for."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SMALL_", "PYTEST_"))}
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH", ""))))
    # what else is installed has no part in it, and takes seconds to load
    alone = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "harness.plugin"}
    return {**kept, **alone, "PYTHONPATH": path, "HARNESS_STORE": str(store), **more}


def run(repository: Path, name: str, **more: str) -> Path:
    """One pytest there; its evidence lies in ``reports/NAME`` of the repository."""
    made = repository / "reports" / name
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--run-dir", str(made)]
    done = subprocess.run(command, cwd=repository, env=environment(repository.parent / "store", **more), capture_output=True, text=True)
    assert (made / "bundle.json").is_file(), done.stdout[-3000:] + done.stderr[-1000:]
    return made


def defend(report: Path, *options: str, **more: str) -> tuple[int, Mapping[str, object], str]:
    """``python -m harness defend`` on a report of the small repository: its status, what ``defence.json`` says, what it printed."""
    out = report.parent.parent.parent / f"out-{hashlib.sha256(repr((str(report), options, more)).encode()).hexdigest()[:8]}"
    command = [sys.executable, "-m", "harness", "defend", str(report), "--out", str(out), *options]
    done = subprocess.run(command, cwd=report.parent, env=environment(out / "store", **more), capture_output=True, text=True)
    kept = out / "defence.json"
    return done.returncode, json.loads(kept.read_text("utf-8")) if kept.is_file() else {}, done.stdout + done.stderr
