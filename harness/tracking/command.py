"""``python -m harness track RUN``: into MLflow, read back and compared; ``track promote``: an alias for what passed."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import MissingNeed

if TYPE_CHECKING:
    from harness.tracking import Tracker

__all__ = ["add_parser"]

NOT_EVALUATED = 8
_SHOWN = 20  # differences

_HELP = """what it does:
  track RUN           derives every verdict of the run again (a changed run is refused), logs it into MLflow's database in --to, reads
                      it back, and compares: parameters, digests of data and artifacts, each claim's estimate and interval, training
                      curves, every file. Look at it with: mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db
  track promote RUN   the same, then a version of the model with the digest that was measured, and the alias for it; a build whose
                      release verdict does not hold is refused by name, and the alias stays where it was

Nothing leaves this machine: no server, no telemetry. What counts stays the run; the database may be made again from it.

exit status:
  0  logged, and what was read back is what the files say; promoted
  1  something differs, the run does not recheck, or the build may not be promoted
  2  the command line is wrong
  8  MLflow is not installed; says how to get it

examples:
  python -m harness doctor --install track
  python -m harness track reports/example --to tracking
  python -m harness track promote reports/example --build gguf-q8_0 --to tracking --weights ./tuned-q8_0.gguf
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``track`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("track", help="a run into MLflow, and promotion of what passed", formatter_class=shape, epilog=_HELP)
    parser.usage = "python -m harness track [promote] RUN [--to FOLDER] [--build NAME] [--model NAME] [--alias NAME] [--weights PATH]"
    parser.add_argument("what", nargs="+", metavar="RUN", help="the folder of a finished run; before it the word promote")
    parser.add_argument("--to", type=Path, default=Path("tracking"), metavar="FOLDER", help="of MLflow's database (default: tracking)")
    parser.add_argument("--build", metavar="NAME", help="promote: which build")
    parser.add_argument("--model", metavar="NAME", help="promote: the registered model (default: the name of the lifecycle)")
    parser.add_argument("--alias", default="released", metavar="NAME", help="promote: the alias (default: released)")
    parser.add_argument(
        "--weights", type=Path, metavar="PATH", help="promote: what is to be served; refused unless it is what was measured"
    )
    parser.set_defaults(verb=_track)


def _track(args: argparse.Namespace) -> int:
    promote = len(args.what) == 2 and args.what[0] == "promote"
    if len(args.what) > 1 + promote or (promote and not args.build):
        problem = "name the build: --build NAME" if promote else f"one run at a time, not {' '.join(args.what)}"
        print(f"error: track: {problem}", file=sys.stderr)
        return 2
    try:
        return _promote(args, Path(args.what[1])) if promote else _log(args, Path(args.what[0]))
    except MissingNeed as missing:
        print(f"not evaluated ({missing.need}): {missing}", file=sys.stderr)
        return NOT_EVALUATED


def _log(args: argparse.Namespace, run: Path) -> int:
    from harness.report import exports

    with _tracker(args.to) as tracker:
        return _logged(tracker, exports.opened(run))[1]


def _logged(tracker: Tracker, bundle: Any) -> tuple[str, int]:
    """Logs, reads back, compares; MLflow's id, and the exit status."""
    from harness import tracking

    done = tracking.of_bundle(bundle)
    run_id = tracker.log(bundle.path, done, experiment=bundle.run.lifecycle or "harness", name=bundle.path.name)
    found = tracking.differences(done, tracker.read(run_id))
    for one in found[:_SHOWN]:
        print(f"DIFFERS  {one}")
    counts = f"{len(done.params)} parameters, {len(done.metrics)} metrics, {len(done.files)} files"
    print(f"{bundle.path}: logged as {run_id} in {tracker.folder}; {counts} read back, {len(found)} differ")
    return run_id, 1 if found else 0


def _promote(args: argparse.Namespace, run: Path) -> int:
    from harness import tracking
    from harness.report import exports

    bundle = exports.opened(run)
    passed = tracking.promotable(bundle, args.build, args.weights)  # before anything is written
    model = args.model or bundle.run.lifecycle or args.build
    with _tracker(args.to) as tracker:
        run_id, status = _logged(tracker, bundle)
        if status:
            print(f"{args.build}: not promoted: what was logged is not what was done", file=sys.stderr)
            return status
        version = tracker.register(model, run_id, passed.tags)
        tracker.alias(model, args.alias, version)
        there = tracker.aliased(model, args.alias)
    if there != (version, dict(passed.tags)):
        print(f"{args.build}: the registry says {there}, expected version {version} with {dict(passed.tags)}", file=sys.stderr)
        return 1
    print(f"{args.build}: version {version} of {model} is {args.alias}; SHA-256 {passed.digest}")
    return 0


@contextlib.contextmanager
def _tracker(folder: Path) -> Iterator[Tracker]:
    from harness import tracking

    tracker = tracking.Tracker(folder)
    try:
        yield tracker
    finally:
        tracker.close()
