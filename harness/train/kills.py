"""Kills: a training is shot by SIGKILL at every file boundary, its files are torn one by one, and it is gone on with.

A boundary is the moment before the process opens a file for writing, renames, removes or makes one below its folders,
as Python's own audit events tell. Libraries that write by themselves (safetensors in Rust, torch in C++) raise no such
event; for them the file that is newest at a boundary is also cut in half, as a kill in mid-write leaves it. All runs are forked
from one parent that is warm: it has trained once, on one thread, since a pool of threads would not survive a fork.

    python -m harness.train.kills MATRIX.json      all shots; what came of them goes beside the file
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from harness.errors import EngineError, HarnessError
from harness.progress import Progress
from harness.store import digest_file
from harness.train.drills import require
from harness.train.leg import ADAPTER
from harness.train.recipe import Recipe
from harness.train.rows import Row

__all__ = ["TEARS", "Shot", "matrix"]

TEARS = ("missing", "empty", "halved", "flipped")
"""What is done to one file: gone, of no bytes, its second half gone, one bit of its middle byte turned over."""

_SHOTS, _SHOT = "kills:shots", "kills:shot"  # words by which the parent tells how far it is


@dataclass(frozen=True, slots=True)
class Shot:
    """One run that was harmed, and what going on with it came to.

    ``outcome``: "identical" (the same adapter to the byte as without harm), "refused" (an error that this package raised on
    purpose, and that names what it refuses), "other" (another adapter, silently), "crashed" (anything else). ``at`` is the
    boundary or the file; ``harm`` what was done ("killed", "killed and cut", one of ``TEARS``, or "nothing", once, beside
    them). ``killed`` says whether the process really ended by SIGKILL.
    """

    at: str
    harm: str
    outcome: str
    said: str = ""
    killed: bool = False


def matrix(
    base: Path, rows: Sequence[Row], recipe: Recipe, progress: Progress, *, stop: int, at_once: int = 1, careless: bool = False
) -> dict[str, Any]:
    """Every shot on one training: {"reference": SHA-256 of the adapter, "boundaries": [...], "shots": [...]}.

    ``stop`` is the step after which the run whose files are torn was stopped. ``careless`` plants a fault: checkpoints are
    written in place and the last folder named like one is gone on with, whatever is in it, as transformers does; a part of
    the shots is enough then. ``at_once`` of them run side by side.

    Raises MissingNeed without the libraries, EngineError if the parent of all runs dies.
    """
    require([recipe])
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        place, said = Path(scratch) / "matrix.json", Path(scratch) / "stderr"
        told = {"base": str(base), "rows": rows, "recipe": asdict(recipe), "stop": stop, "at_once": at_once, "careless": careless}
        place.write_text(json.dumps(told), encoding="utf-8")
        with said.open("w", encoding="utf-8") as errors:
            status = _command([sys.executable, "-m", "harness.train.kills", str(place)], errors, progress)
        if status != 0:
            end = " / ".join(said.read_text("utf-8", "replace").strip().splitlines()[-3:])
            raise EngineError(f"kills: the parent of all runs ended with status {status}: {end or 'it said nothing'}")
        found: dict[str, Any] = json.loads(_findings(place).read_text("utf-8"))
        return found


def _command(command: Sequence[str], errors: Any, progress: Progress) -> int:
    """Its status. It runs in a session of its own, so that an interrupt ends it with all it forked."""
    fixed = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1",
             "HF_HUB_DISABLE_TELEMETRY": "1"}  # fmt: skip
    environment = {**os.environ, **fixed, "CUDA_VISIBLE_DEVICES": ""}  # forked processes cannot use a GPU
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
    try:
        assert process.stdout is not None  # asked for above
        total, done = 0, 0
        for line in process.stdout:  # libraries may say something too
            word, _, rest = line.strip().partition(" ")
            total = int(rest) if word == _SHOTS else total
            done += word == _SHOT
            progress("kills", done, total)
        return process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _findings(place: Path) -> Path:
    return place.with_suffix(".found.json")


# --- the parent of all runs ---------------------------------------------------------------------


def main(argv: Sequence[str]) -> int:
    """All shots. Prints how many there are, then a line for each."""
    place = Path(argv[0])
    told = json.loads(place.read_text("utf-8"))
    _warm(told, place.parent / "warm")
    calm = _forked(lambda: _calm(told, place.parent / "calm"), place.parent / "calm.json")[1]
    if "adapter" not in calm:
        raise EngineError(f"the run that nobody harms does not end: {calm}")
    _forked(lambda: _train(told, place.parent / "stopped", stop=told["stop"]), place.parent / "stopped.json")
    aims = [*_kills(calm["boundaries"]), *_torn(place.parent / "stopped", "*/**/*"), *_torn(place.parent / "calm", "out/*")]
    if told["careless"]:
        aims = [aim for aim in aims if aim["harm"] in ("killed", "missing", "flipped")]
    aims.append({"at": "stopped", "from": str(place.parent / "stopped"), "harm": "nothing"})
    print(_SHOTS, len(aims), flush=True)
    shots = _in_lanes(told, place.parent, aims, calm["adapter"])
    found = {"reference": calm["adapter"], "boundaries": [b["name"] for b in calm["boundaries"]], "shots": shots}
    _findings(place).write_text(json.dumps(found), encoding="utf-8")
    return 0


def _warm(told: Mapping[str, Any], folder: Path) -> None:
    """Imports whatever a run imports, which is most of a short one's time; what is alive then no child has to look through."""
    _train(told, folder)
    gc.collect()
    gc.freeze()


def _kills(boundaries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One shot at each boundary and one when all is over; where something was written since the last one, cut in half too."""
    ends = [*boundaries, {"name": "the end", "written": False}]
    aims = [{"at": f"{i}: {b['name']}", "kill": i, "harm": "killed"} for i, b in enumerate(ends)]
    return aims + [{"at": f"{i}: {b['name']}", "kill": i, "harm": "killed and cut"} for i, b in enumerate(ends) if b["written"]]


def _torn(run: Path, which: str) -> list[dict[str, Any]]:
    """Each file of a run that ``which`` names, torn in each way."""
    files = [str(path.relative_to(run)) for path in sorted(run.glob(which)) if path.is_file()]
    return [{"at": f"{run.name}: {file}", "from": str(run), "file": file, "harm": tear} for file in files for tear in TEARS]


def _in_lanes(told: Mapping[str, Any], scratch: Path, aims: Sequence[Mapping[str, Any]], reference: str) -> list[dict[str, Any]]:
    """``at_once`` forked lanes, each with its share of the aims, one after another."""
    lanes = max(1, min(told["at_once"], len(aims)))
    pids = []
    for lane in range(lanes):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                mine = [(i, asdict(_shoot(told, scratch / f"aim-{i}", aim, reference))) for i, aim in enumerate(aims) if i % lanes == lane]
                (scratch / f"lane-{lane}.json").write_text(json.dumps(mine), encoding="utf-8")
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        pids.append(pid)
    if any(os.waitpid(pid, 0)[1] for pid in pids):
        raise EngineError("a lane of shots ended before its time")
    rows = [row for lane in range(lanes) for row in json.loads((scratch / f"lane-{lane}.json").read_text("utf-8"))]
    return [shot for _, shot in sorted(rows, key=lambda row: row[0])]


def _shoot(told: Mapping[str, Any], folder: Path, aim: Mapping[str, Any], reference: str) -> Shot:
    """One shot: harm, then go on with what it left."""
    if "kill" in aim:
        status, _ = _forked(lambda: _calm(told, folder, fatal=aim["kill"]), folder.with_suffix(".victim"))
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if aim["harm"] == "killed and cut":
            _tear(max(_files(folder), key=lambda path: path.stat().st_mtime_ns), "halved")
    else:
        killed = False
        shutil.copytree(aim["from"], folder)
        if "file" in aim:
            _tear(folder / aim["file"], aim["harm"])
    left = {part for path in _files(folder) for part in path.relative_to(folder).parts[1:]} | {Path(aim.get("file", "-")).name}
    _, found = _forked(lambda: _train(told, folder), folder.with_suffix(".heir"))
    shutil.rmtree(folder, ignore_errors=True)
    print(_SHOT, flush=True)
    return Shot(aim["at"], aim["harm"], *_outcome(found, reference, left), killed)


def _outcome(found: Mapping[str, Any], reference: str, left: set[str]) -> tuple[str, str]:
    if "adapter" in found:
        said = f"went on after step {found['resumed_at']}" if found["resumed_at"] else "started over"
        return ("identical" if found["adapter"] == reference else "other"), said
    if found.get("ours") and any(name in found["error"] for name in left):
        return "refused", found["error"][:300]
    return "crashed", found.get("error", "it ended without a word")[:300]


def _tear(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if how == "flipped" and data:
        data[len(data) // 2] ^= 1
    path.write_bytes({"empty": b"", "halved": bytes(data[: len(data) // 2]), "flipped": bytes(data)}[how])


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- one run, forked ----------------------------------------------------------------------------


def _forked(run: Callable[[], dict[str, Any]], place: Path) -> tuple[int, dict[str, Any]]:
    """The status of a forked process that ran ``run``, and what it returned or raised ({} where it was shot)."""
    pid = os.fork()
    if pid == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            found = run()
        except BaseException as error:  # whatever it was, it is the finding
            found = {"error": f"{type(error).__name__}: {error}", "ours": _on_purpose(error)}
        place.write_text(json.dumps(found), encoding="utf-8")
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return status, json.loads(place.read_text("utf-8")) if place.is_file() else {}


def _on_purpose(error: BaseException) -> bool:
    """Whether this package refused, and did not only pass on what it stumbled over."""
    while error.__cause__ is not None:
        error = error.__cause__
    return isinstance(error, HarnessError)


def _train(told: Mapping[str, Any], folder: Path, *, stop: int | None = None) -> dict[str, Any]:
    from harness.train.run import train

    rows, out = [tuple(row) for row in told["rows"]], folder / "out"
    with _careless() if told["careless"] else contextlib.nullcontext():
        report = train(Path(told["base"]), rows, out, Recipe(**told["recipe"]), work=folder / "work", stop_after=stop)
    adapter = out / ADAPTER
    return {"adapter": digest_file(adapter) if adapter.is_file() else None, "resumed_at": report.get("resumed_at")}


def _calm(told: Mapping[str, Any], folder: Path, fatal: int | None = None) -> dict[str, Any]:
    """A run that notes its boundaries, and is shot at the one numbered ``fatal``."""
    boundaries: list[dict[str, Any]] = []
    _at_boundaries(folder, boundaries, fatal)
    found = _train(told, folder)
    if fatal is not None and fatal == len(boundaries):
        os.kill(os.getpid(), signal.SIGKILL)
    return {**found, "boundaries": boundaries}


def _at_boundaries(folder: Path, boundaries: list[dict[str, Any]], fatal: int | None) -> None:
    """Notes each boundary below ``folder`` from now on. An audit hook cannot be taken back: for a process of its own."""
    sizes: dict[str, int] = {}
    busy: list[bool] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if busy or event not in _EVENTS:
            return
        busy.append(True)  # looking around raises events of its own
        try:
            named = _touched(event, arguments, folder)
            if named is None:
                return
            if len(boundaries) == fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            now = {str(path): path.stat().st_size for path in _files(folder)}
            boundaries.append({"name": f"{event} {named}", "written": any(sizes.get(path) != size for path, size in now.items() if size)})
            sizes.clear()
            sizes.update(now)
        finally:
            busy.clear()

    sys.addaudithook(hook)


# event -> where its paths stand, and (after them) the descriptors of the folders that they are relative to
_EVENTS: Mapping[str, tuple[tuple[int, int | None], ...]] = {
    "open": ((0, None),),
    "os.rename": ((1, 3), (0, 2)),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.truncate": ((0, None),),
}
_MADE_UP = re.compile(r"((?:^|/)\.[\w-]+)\.\w{8}(?=/|$)")  # the end of a temporary folder's name, another in each run
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _touched(event: str, arguments: tuple[Any, ...], folder: Path) -> str | None:
    """What the event would change below ``folder``, None if nothing."""
    if event == "open" and not (arguments[2] or 0) & _WRITES:
        return None
    for place, inside in _EVENTS[event]:
        path = arguments[place]
        if not isinstance(path, (str, bytes, os.PathLike)):
            continue  # a descriptor: opened before, and seen then
        where = os.path.abspath(os.path.join(_folder_of(arguments, inside), os.fsdecode(path)))
        if where.startswith(f"{folder}{os.sep}"):
            return _MADE_UP.sub(r"\1.*", os.path.relpath(where, folder))
    return None


def _folder_of(arguments: tuple[Any, ...], place: int | None) -> str:
    descriptor = -1 if place is None or place >= len(arguments) else arguments[place]
    return os.readlink(f"/proc/self/fd/{descriptor}") if isinstance(descriptor, int) and descriptor >= 0 else os.getcwd()


@contextlib.contextmanager
def _careless() -> Iterator[None]:
    """Writes a checkpoint in place, and takes the last folder named like one, as transformers does; nothing is asked."""
    from harness.train import checkpoints

    def in_place(work: Path, step: int, identity: Mapping[str, Any], write: Callable[[Path], None]) -> Path:
        place = work / f"checkpoint-{step:06d}"
        place.mkdir(parents=True, exist_ok=True)
        write(place)
        return place

    def last(work: Path, identity: Mapping[str, Any]) -> Path | None:
        return max((path for path in work.glob("checkpoint-*") if path.is_dir()), key=lambda path: path.name, default=None)

    with mock.patch.object(checkpoints, "seal", in_place), mock.patch.object(checkpoints, "latest", last):
        yield


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
