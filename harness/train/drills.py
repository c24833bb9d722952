"""Drills: short real trainings under declared recipes, each in processes of its own, watched from outside.

What a training must be (the same twice, the same after a stop, within its memory) is shown by training. Each leg of a drill
is a fresh interpreter (harness.train.leg) with a hash seed of its own, so that nothing carries over.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.engines.common import install
from harness.errors import ConfigError, EngineError, MissingNeed, nearest
from harness.progress import Progress
from harness.store import digest_json
from harness.train.leg import FORGETS, findings
from harness.train.recipe import Recipe
from harness.train.rows import Row

__all__ = ["FORGETS", "Drill", "require", "run"]

_LONGEST = 900  # seconds that a leg may take: far above any, so that a hang ends


@dataclass(frozen=True, slots=True)
class Drill:
    """One training, stopped after each of ``stops`` (steps) and gone on with in a new process.

    ``held_out`` are rows whose loss is taken before and after. ``forgets``, one of ``FORGETS``, plants a fault in the
    last leg. ``name`` says in messages which drill it was.
    """

    name: str
    recipe: Recipe
    rows: Sequence[Row]
    held_out: Sequence[Row] = ()
    stops: tuple[int, ...] = ()
    forgets: str = ""

    def __post_init__(self) -> None:
        if self.forgets and self.forgets not in FORGETS:
            raise ConfigError(f"drill {self.name}: forgets = {self.forgets!r}; {nearest(self.forgets, list(FORGETS))}")
        if self.forgets and not self.stops:
            raise ConfigError(f"drill {self.name}: nothing can be forgotten without a stop to go on from; give stops")

    def to_dict(self) -> dict[str, Any]:
        """All that decides what comes out, besides the base and the machine."""
        return asdict(self)


def run(base: Path, drills: Sequence[Drill], progress: Progress, *, at_once: int = 1) -> list[dict[str, Any]]:
    """What came of each drill, in the order given; ``at_once`` of them side by side, each on one thread.

    A result: outcome ("finished", "failed", or "refused": a leftover that was not gone on with) and cause; loss (nats per
    completion token, step by step); adapter (SHA-256 of the file, None without one); optimizer (SHA-256 of its state);
    batches (for each forward pass in training one digest a row); peak_bytes (the largest of all legs) and weights_bytes
    (of the base as it lay in memory while it was trained); held_out {"before": [...], "after": [...]} (nats per completion
    token, row by row); resumed_at, device, threads, versions.

    Raises MissingNeed without the libraries, EngineError if a process dies or hangs, with the end of what it said.
    """
    require([drill.recipe for drill in drills])
    legs, done, lock, crew = sum(len(d.stops) + 1 for d in drills), [0], threading.Lock(), _Crew()

    def tick() -> None:
        with lock:
            done[0] += 1
            progress("drills", done[0], legs)

    progress("drills", 0, legs)
    with tempfile.TemporaryDirectory(prefix="drills-") as scratch, ThreadPoolExecutor(max(1, at_once)) as pool:
        try:
            begun = [pool.submit(_all_legs, base, drill, Path(scratch) / str(i), crew, tick) for i, drill in enumerate(drills)]
            return [each.result() for each in begun]
        finally:
            crew.end()


def require(recipes: Sequence[Recipe]) -> None:
    """Raises MissingNeed if a library that these trainings need is absent. Imports none of them."""
    needed = {"train": ["torch", "transformers", "datasets", "peft", "trl"]}
    if any(recipe.method == "qlora" for recipe in recipes):
        needed["compress"] = ["bitsandbytes"]
    for extra, names in needed.items():
        for name in names:
            if importlib.util.find_spec(name) is None:
                raise MissingNeed("train", f"{name} is not installed", install(extra))


class _Crew:
    """The processes under way, so that neither an error nor an interrupt leaves one behind."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._over = False

    def call(self, command: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
        """Exit status, and what was said on stderr."""
        with self._lock:
            if self._over:
                return -1, "ended with the others"
            process = subprocess.Popen(command, env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            self._running.add(process)
        try:
            said = process.communicate(timeout=_LONGEST)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            said = f"{process.communicate()[1]}\nno end after {_LONGEST} s"
        finally:
            with self._lock:
                self._running.discard(process)
        return process.returncode, said

    def end(self) -> None:
        """Kills what still runs, and lets nothing start."""
        with self._lock:
            self._over = True
            for process in self._running:
                process.kill()


def _all_legs(base: Path, drill: Drill, folder: Path, crew: _Crew, tick: Callable[[], None]) -> dict[str, Any]:
    found: list[dict[str, Any]] = []
    for leg, stop in enumerate((*drill.stops, None)):
        told = {**drill.to_dict(), "base": str(base), "folder": str(folder), "stop": stop}
        if stop is not None:
            told |= {"forgets": "", "held_out": []}
        folder.mkdir(exist_ok=True)
        place = folder / f"leg-{leg}.json"
        place.write_text(json.dumps(told), encoding="utf-8")
        status, said = crew.call([sys.executable, "-m", "harness.train.leg", str(place)], _environment(folder, leg))
        if status != 0:
            end = " / ".join(said.strip().splitlines()[-3:])
            raise EngineError(f"drill {drill.name}, leg {leg + 1}: its process ended with status {status}: {end or 'it said nothing'}")
        found.append(json.loads(findings(place).read_text("utf-8")))
        tick()
        if found[-1]["outcome"] != "stopped":
            break
    peak = max(leg["peak_bytes"] for leg in found)
    return {**found[-1], "batches": [batch for leg in found for batch in leg["batches"]], "peak_bytes": peak}


def _environment(folder: Path, leg: int) -> dict[str, str]:
    """One thread, nothing fetched, and another hash seed for each process: an order of sets must not decide anything."""
    seed = int(digest_json([folder.name, leg])[:6], 16)
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **fixed, "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": str(seed)}
