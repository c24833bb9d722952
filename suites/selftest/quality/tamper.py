"""Every change of one byte of the example is refused, and every forgery of a clip of it is named; written to reports/statistics.

    python -m suites.selftest.quality.tamper --changes 20000

``tamper.csv``: for each kind of file and of change, how many were made and how many were not detected. ``forgeries.csv``: what was edited
and sealed anew, whether derivation or only the quoted seal can tell, and the line that named it.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import repeat
from pathlib import Path

from harness.recheck import recheck, seal_of
from suites.capstone import clip, forgeries, tampering

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "reports" / "example"
OUT = ROOT / "reports" / "statistics"
PART = 1000  # changes that one process makes in a copy of its own
SEED = 20261122


def main() -> int:
    """Writes both tables; exit status 1 if anything was not detected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--at-once", type=int, default=1, help="processes side by side (default 1)")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with ProcessPoolExecutor(args.at_once) as pool:
        parts = range(args.changes // PART)
        made, missed = tallied(change for found in pool.map(changes, repeat(EXAMPLE), parts) for change in found)
        rows = [(file, kind, made[file, kind], missed[file, kind]) for file, kind in sorted(made)]
        _written(args.out / "tamper.csv", ("file", "change", "made", "undetected"), rows)
        named = list(pool.map(named_by, repeat(EXAMPLE), range(len(list(forgeries.everything())))))
    _written(args.out / "forgeries.csv", ("forgery", "seen", "named", "line"), named)
    undetected, unnamed = missed.total(), sum(not row[2] for row in named)
    print(f"{made.total()} changes of one byte, {undetected} undetected; {len(named)} forgeries, {unnamed} not named")
    return int(undetected + unnamed > 0)


def changes(example: Path, part: int, n: int = PART) -> list[tampering.Change]:
    """``n`` changes of a copy of the example, seeded by ``part``."""
    with tempfile.TemporaryDirectory(prefix="tamper-") as folder:
        run = Path(shutil.copytree(example, Path(folder) / "run"))
        return list(tampering.tampered(run, n, SEED + part))


def tallied(found: Iterable[tampering.Change]) -> tuple[Counter[tuple[str, str]], Counter[tuple[str, str]]]:
    """By kind of file and of change: how many were made, how many of them were not detected."""
    made: Counter[tuple[str, str]] = Counter()
    missed: Counter[tuple[str, str]] = Counter()
    for change in found:
        folder, _, _ = change.file.rpartition("/")
        key = (f"{folder}/*" if folder else change.file, change.kind)
        made[key] += 1
        missed[key] += not change.named
    return made, missed


def named_by(example: Path, number: int) -> tuple[str, str, bool, str]:
    """One forgery of a clip of the example: what it is, who can tell, whether it was told, and the line."""
    forgery = list(forgeries.everything())[number]
    with tempfile.TemporaryDirectory(prefix="forged-") as folder:
        run = clip.clip(example, Path(folder) / "clip", clip.varied(example))
        quoted, _ = seal_of(run)
        out = Path(folder) / "forged"
        found = forgeries.forged(run, out, forgery)
        if forgery.named:
            line = next((problem for problem in found if forgery.named in problem), "")
            return forgery.name, "derivation", bool(line), line
        told = [problem for problem in recheck(out, seal=quoted).problems if "expected" in problem and quoted in problem]
        line = told[0].replace(f"{out}/", "") if told else ""
        return forgery.name, "the quoted seal alone", bool(line) and not found, line


def _written(path: Path, names: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with path.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(names)
        table.writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
