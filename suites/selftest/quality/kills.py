"""SIGKILL at any moment of a run: what was reported finished stays, what stands there can be read, and nothing is left running.

    python -m suites.selftest.quality.kills --kills 200        writes reports/statistics/kills.csv, goes on where it was

Each kill starts a real pytest run of CLAIMS claims in a folder of its own, half of them with ``-n 2``, and ends it in the middle: after
so many milliseconds, when a chosen claim has been reported, or when a chosen file of the end appears. With workers it is the controller or
one worker that is shot: the other processes must then end by themselves, or finish the run red.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from harness import evidence
from harness.recheck import recheck

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "reports" / "statistics" / "kills.csv"
CLAIMS = 12
MARK = "HARNESS_KILL_STUDY"  # in the environment of every process of one run, by which those that are left are found

SUITE = f"""
import os, time
import pytest
from harness import Claim, Control, Measurement, Sample, at_least

def rate(k, n):
    return Measurement("rate", tuple(Sample(f"i{{i}}", float(i < k), detail={{"text": "x" * 50}}) for i in range(n)))

@pytest.mark.parametrize("which", range({CLAIMS}))
@pytest.mark.claim(each=lambda which: Claim(f"c[{{which}}]", "four in five are right", at_least(0.8)))
def test_claim(claim, which):
    claim.check(rate(200, 200 + which), controls=[Control("planted", ("fails",), rate(90, 200 + which))])
    with open("reported", "a") as told:  # one write of a short line, whole or not at all
        told.write(f"c[{{which}}]\\n")
"""


@dataclass(frozen=True)
class Kill:
    """One kill and what was found behind it. ``lost``: reported as finished, and its evidence missing, unreadable or refused."""

    kill: int
    workers: int
    shot: str
    moment: str
    after_s: float
    reported: int
    lost: int
    unreadable: int
    orphans: int
    litter: int  # half-written files under a name that evidence has
    sealed: bool
    status: int

    @property
    def bad(self) -> int:
        """What must be 0."""
        return self.lost + self.unreadable + self.orphans + self.litter + (self.sealed and self.status == 0 and self.reported < CLAIMS)


def one(number: int, seed: int = 20261122) -> Kill:
    """Starts a run, kills it, looks at what is left. Seeded: a kill is found again by its number."""
    rng = random.Random(seed * 1000 + number)
    workers = number % 2 * 2
    shot = rng.choice(("controller", "worker")) if workers else "process"
    moment, due = _moment(rng, workers)
    token = f"{os.getpid()}-{number}-{rng.getrandbits(64):x}"
    with tempfile.TemporaryDirectory(prefix="kill-") as name:
        folder = Path(name)
        (folder / "test_claims.py").write_text(SUITE)
        (folder / "pytest.ini").write_text("[pytest]\n")
        started = time.monotonic()
        process = _started(folder, workers, token)
        after = _wait(process, folder, due, started)
        shot = _shoot(process, shot, token, rng)
        status = process.wait(120)
        orphans = _left(token)
        reported, lost, unreadable = _looked_at(folder)
        litter, sealed = _ends(folder)
    return Kill(number, workers, shot, moment, round(after, 3), reported, lost, unreadable, orphans, litter, sealed, status)


def _started(folder: Path, workers: int, token: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, MARK: token, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    plugins = ["-p", "harness.plugin", "-p", "no:cacheprovider", *(["-p", "xdist", "-n", str(workers)] if workers else [])]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--run-dir", "run"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# --- when -----------------------------------------------------------------------------------------


def _moment(rng: random.Random, workers: int) -> tuple[str, Callable[[Path, float], bool]]:
    """How the moment is called, and whether it has come."""
    kind = rng.choice(("time", "claim", "claim", "file"))
    if kind == "time":
        at = rng.uniform(0.1, 4.0 if workers else 2.0)
        return f"{at:.3f} s after the start", lambda folder, passed: passed >= at
    pause = rng.uniform(0, 0.05)
    seen: list[float] = []

    def soon(come: bool, passed: float) -> bool:
        if come and not seen:
            seen.append(passed)
        return bool(seen) and passed >= seen[0] + pause

    if kind == "claim":
        which = rng.randint(1, CLAIMS)
        return f"claim {which} of {CLAIMS} + {pause * 1000:.0f} ms", lambda folder, passed: soon(len(_reported(folder)) >= which, passed)
    name = rng.choice(("plan.json", "evidence", "samples", "run.json", "summary.md", "report.html", "bundle.json"))
    return f"{name} + {pause * 1000:.0f} ms", lambda folder, passed: soon((folder / "run" / name).exists(), passed)


def _wait(process: subprocess.Popen[bytes], folder: Path, due: Callable[[Path, float], bool], started: float) -> float:
    while process.poll() is None and not due(folder, time.monotonic() - started):
        time.sleep(0.001)
    return time.monotonic() - started


def _reported(folder: Path) -> list[str]:
    path = folder / "reported"
    return path.read_text().splitlines() if path.exists() else []


# --- who ------------------------------------------------------------------------------------------


def _shoot(process: subprocess.Popen[bytes], shot: str, token: str, rng: random.Random) -> str:
    """Who was shot: the controller where no worker is up yet."""
    others = [pid for pid in _alive(token) if pid != process.pid]
    chosen = rng.choice(others) if shot == "worker" and others else process.pid
    with contextlib.suppress(ProcessLookupError):  # it had just ended
        os.kill(chosen, signal.SIGKILL)
    return "controller" if shot == "worker" and chosen == process.pid else shot


def _alive(token: str) -> list[int]:
    """The processes of one run, by the token in their environment; those that are dead and not yet waited for have none."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"{MARK}={token}".encode() in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue  # it ended, or is another's
    return found


def _left(token: str, patience_s: float = 60.0) -> int:
    """Processes that do not end by themselves once their run is dead."""
    end = time.monotonic() + patience_s
    while (left := _alive(token)) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return len(left)


# --- what is left -----------------------------------------------------------------------------------


def _looked_at(folder: Path) -> tuple[int, int, int]:
    """Claims that were reported, those of them that are lost, files that cannot be read."""
    run, reported = folder / "run", _reported(folder)
    found = recheck(run)
    refused = [name for name in reported if name not in found.verdicts or found.verdicts[name] != "holds"]
    unreadable = 0
    for path in run.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            unreadable += not _readable(path)
    return len(reported), len(refused), unreadable


def _readable(path: Path) -> bool:
    try:
        data = path.read_bytes()
        if path.suffix == ".json":
            json.loads(data)
        if path.suffix == ".gz":
            return evidence.digest(gzip.decompress(data)) == path.name.partition(".")[0]
        return bool(data)
    except (OSError, ValueError, EOFError):
        return False


def _ends(folder: Path) -> tuple[int, bool]:
    """Half-written files that could be taken for evidence, and whether a seal lies over all."""
    run = folder / "run"
    names = {"plan.json", "run.json", "release.json", "bundle.json", "summary.md", "report.html"}
    sealed = (run / "bundle.json").exists()
    below = [path for path in run.glob("*/*") if not path.name.startswith(".") and path.suffix not in (".json", ".gz")]
    beside = [path for path in run.glob("*") if path.is_file() and not path.name.startswith(".") and path.name not in names]
    staged = list(run.rglob(".*")) if sealed else []  # what is sealed holds nothing half-written
    return len(below) + len(beside) + len(staged), sealed


# --- the study ------------------------------------------------------------------------------------


def main() -> int:
    """Writes the table; exit status 1 if any kill left something bad."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--at-once", type=int, default=1, help="runs side by side (default 1)")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    names = [field.name for field in fields(Kill)]
    done = args.out.read_text().splitlines() if args.out.exists() else [",".join(names)]
    ahead = sorted(set(range(args.kills)) - {int(line.partition(",")[0]) for line in done[1:]})
    args.out.write_text("\n".join(done) + "\n")
    bad = 0
    with args.out.open("a", newline="") as stream, ThreadPoolExecutor(args.at_once) as pool:
        table = csv.DictWriter(stream, names, lineterminator="\n")
        for found in pool.map(one, ahead):
            table.writerow(asdict(found))
            stream.flush()
            bad += bool(found.bad)
            if found.bad:
                print(found, flush=True)
    print(f"{len(ahead)} kills, {bad} of them left something bad")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
