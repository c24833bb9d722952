"""Speed and memory of a build, by interleaved paired runs.

A block is ABBA, the next BAAB: a linear drift of the machine cancels exactly. Where an engine starts
in a second each run is a process of its own, because peak memory cannot be taken back, and because
nothing one run warmed may help the next. An engine that takes a minute to start (vLLM) is started
once for each arm, and the runs take turns.

    python -m harness.quant.footprint ENGINE MODEL PROMPTS.json      one run, JSON on stdout
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import EngineError
from harness.progress import Progress
from harness.types import Engine, Prompt, Sample, Sampling

__all__ = ["Run", "asker", "blocks", "peak_bytes", "run_samples", "spawner"]

Run = Callable[[], dict[str, Any]]
"""One run: tokens per second (prompt and answer, one stream), and peak resident bytes where it was a process."""

_ANSWER = Sampling(max_tokens=48)


def blocks(runs: Mapping[str, Run], count: int, progress: Progress) -> list[dict[str, Any]]:
    """``count`` blocks of four runs of the arms "new" and "old"; one row per run, in order of time."""
    rows: list[dict[str, Any]] = []
    for block in range(count):
        order = ("old", "new", "new", "old") if block % 2 == 0 else ("new", "old", "old", "new")
        for place, arm in enumerate(order):
            progress("speed", len(rows), 4 * count)
            rows.append({"block": f"block-{block:02d}", "arm": arm, "replicate": int(place > 1), **runs[arm]()})
    progress("speed", 4 * count, 4 * count)
    return rows


def spawner(engine: str, location: str | Path, prompts: Sequence[Prompt]) -> Run:
    """A run in a process of its own, on one thread. EngineError if it dies, with the end of what it said."""

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
            asked = Path(folder) / "prompts.json"
            asked.write_text(json.dumps([asdict(p) for p in prompts]), encoding="utf-8")
            command = [sys.executable, "-m", "harness.quant.footprint", engine, str(location), str(asked)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            said = done.stderr.strip().splitlines()[-3:]
            raise EngineError(f"speed run of {location} in {engine} ended with status {done.returncode}: {' / '.join(said)}")
        result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return result

    return run


def asker(engine: Engine, prompts: Sequence[Prompt]) -> Run:
    """A run in an engine that stays open, after one answer to warm it."""
    engine.generate(prompts[:1], sampling=_ANSWER)
    return lambda: _timed(engine, prompts)


def _timed(engine: Engine, prompts: Sequence[Prompt]) -> dict[str, Any]:
    begun = time.perf_counter()
    answers = [engine.generate([p], sampling=_ANSWER)[0] for p in prompts]
    seconds = time.perf_counter() - begun
    tokens = sum(a.tokens for a in answers)
    if not tokens:
        raise EngineError(f"a speed run gave no token; the engine says {answers[0].error or answers[0].finish!r}")
    return {"tokens_per_s": tokens / seconds, "tokens": tokens}


def run_samples(rows: Sequence[Mapping[str, Any]], figure: str) -> tuple[Sample, ...]:
    """The runs as samples of ``figure`` ("tokens_per_s" or "peak_bytes")."""
    return tuple(Sample(r["block"], float(r[figure]), r["arm"], replicate=r["replicate"]) for r in rows)


def peak_bytes() -> int:
    """The most resident memory this program has held, in bytes.

    Linux's ``ru_maxrss`` will not do: it survives exec, so a child of a process that once held 4 GB
    reports 4 GB, whatever it loads itself. VmHWM starts anew with the program.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")) * 1024


def main(argv: Sequence[str]) -> int:
    """One run: load, answer the prompts one at a time on one thread, print what it took."""
    from harness.engines import open_engine

    name, location, asked = argv
    options = {"n_seq": 1, "threads": 1} if name == "llamacpp" else {}
    engine = open_engine(name, location, **options)
    prompts = [Prompt(row["id"], tuple(row["messages"]), row["text"]) for row in json.loads(Path(asked).read_text("utf-8"))]
    engine.generate(prompts[:1], sampling=Sampling(max_tokens=4))  # first call pages the weights in
    print(json.dumps({**_timed(engine, prompts), "peak_bytes": peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
