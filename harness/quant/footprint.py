"""Speed and memory of a build, by interleaved paired runs, each in a process of its own.

A process of its own because peak memory cannot be taken back, and because nothing one run warmed
may help the next. A block is ABBA, the next BAAB: a linear drift of the machine cancels exactly.

    python -m harness.quant.footprint ENGINE MODEL PROMPTS.json      one run, JSON on stdout
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import EngineError
from harness.progress import Progress
from harness.types import Prompt, Sample, Sampling

__all__ = ["blocks", "peak_bytes", "run_samples"]


def blocks(new: tuple[str, str], old: tuple[str, str], prompts: Sequence[Prompt], count: int, progress: Progress) -> list[dict[str, Any]]:
    """``count`` blocks of four runs, new and old as (engine, location); one row per run, in order of time.

    A row: block, arm, replicate, tokens per second (prompt and answer, one stream, one thread), peak
    resident bytes. EngineError if a run dies, with the end of what it said.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
        asked = Path(folder) / "prompts.json"
        asked.write_text(json.dumps([list(p.messages) for p in prompts]), encoding="utf-8")
        for block in range(count):
            order = ("old", "new", "new", "old") if block % 2 == 0 else ("new", "old", "old", "new")
            seen = {"new": 0, "old": 0}
            for arm in order:
                progress("speed", len(rows), 4 * count)
                engine, location = new if arm == "new" else old
                run = _spawn(engine, location, asked)
                rows.append({"block": f"block-{block:02d}", "arm": arm, "replicate": seen[arm], **run})
                seen[arm] += 1
    progress("speed", 4 * count, 4 * count)
    return rows


def _spawn(engine: str, location: str, asked: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "harness.quant.footprint", engine, location, str(asked)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()[-3:]
        raise EngineError(f"speed run of {location} in {engine} ended with status {done.returncode}: {' / '.join(said)}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


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
    messages = json.loads(Path(asked).read_text("utf-8"))
    options = {"n_seq": 1, "threads": 1} if name == "llamacpp" else {}
    engine = open_engine(name, location, **options)
    prompts = [Prompt(f"p{i}", tuple(m)) for i, m in enumerate(messages)]
    engine.generate(prompts[:1], sampling=Sampling(max_tokens=4))  # first call pages the weights in
    begun = time.perf_counter()
    answers = [engine.generate([p], sampling=Sampling(max_tokens=48))[0] for p in prompts]
    seconds = time.perf_counter() - begun
    tokens = sum(a.tokens for a in answers)
    print(json.dumps({"tokens_per_s": tokens / seconds, "tokens": tokens, "peak_bytes": peak_bytes()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
