"""Kills an audit at random moments and runs it again until it is done: ``python -m suites.selftest.audit.killed N FILE``.

Each of the N trials audits FILE into a new folder of facts, in a process group of its own that gets SIGKILL at a moment
drawn between the first row and the end; then it is run until it ends. Its digest must be that of an audit left alone.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]
BATCH = 1 << 18
CODE = """
import sys
from pathlib import Path
from harness.audit import run, standard
def main():
    run._BATCH_BYTES = int(sys.argv[4])
    file = Path(sys.argv[1])
    print("begun", flush=True)
    said = run.audit(run.Dataset(file.stem, (file,)), standard.checks(standard.Known()), engine=sys.argv[3], keep=Path(sys.argv[2]))
    print(said.digest)
if __name__ == "__main__":
    main()
"""


def start(file: Path, keep: Path, engine: str, batch: int = BATCH) -> subprocess.Popen[str]:
    """An audit in a process group of its own, as far as its imports."""
    script = keep.parent / "audit.py"  # a file: spawned workers import the main module again
    script.write_text(CODE)
    command = [sys.executable, str(script), str(file), str(keep), engine, str(batch)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def finished(process: subprocess.Popen[str]) -> str:
    """The digest that an audit ends with."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the audit ended with status {process.returncode}")
    return out.strip()


def killed(process: subprocess.Popen[str], after_s: float) -> bool:
    """Kills the whole group after a time; False if it was done before."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(after_s)
    done = process.poll() is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return not done


def trial(file: Path, folder: Path, engine: str, after_s: float, batch: int = BATCH) -> tuple[str, bool, int]:
    """One audit, killed after a time and run again: its digest, whether it was killed, and how many parts it found made."""
    keep = folder / "facts"
    hit = killed(start(file, keep, engine, batch), after_s)
    parts = len(list(keep.glob("*/part-*")))
    return finished(start(file, keep, engine, batch)), hit, parts


def main() -> int:
    """Prints how many of N were resumed with the same digest."""
    count, file = int(sys.argv[1]), Path(sys.argv[2]).absolute()
    rng, same, hits = random.Random(0), 0, 0
    with tempfile.TemporaryDirectory() as scratch:
        began = time.monotonic()
        (Path(scratch) / "alone").mkdir()
        alone = finished(start(file, Path(scratch) / "alone" / "facts", "serial"))
        took = time.monotonic() - began
        for number in range(count):
            folder = Path(scratch) / str(number)
            folder.mkdir()
            engine = ("serial", "processes")[number % 2]
            digest, hit, parts = trial(file, folder, engine, rng.uniform(0.0, 0.9 * took))
            same, hits = same + (digest == alone), hits + hit
            said = "same" if digest == alone else "OTHER"
            print(f"{engine:<9} {'killed' if hit else 'done before'}, {parts} parts were there, {said} digest", flush=True)
    print(f"{same} of {count} resumed with the same digest; {hits} were hit before they ended")
    return int(same < count)


if __name__ == "__main__":
    sys.exit(main())
