"""Whole audits: engines agree, kept facts are used and mended, errors say what to do, a killed audit goes on where it was."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from harness.audit import forms, run, standard
from harness.audit.duplicates import Duplicates
from harness.audit.leakage import References
from harness.audit.model import DIGEST, Report, digest_array, in_turn, no_findings
from harness.audit.outliers import Outliers
from harness.audit.private import Private
from harness.audit.schema import Schema
from harness.errors import AuditError, HarnessError, MissingNeed, StoreError
from suites.selftest.audit import killed, mixed

pytestmark = pytest.mark.selftest

LIGHT = [Schema(), Outliers()]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two files, and everything that can be known of them."""
    folder = tmp_path_factory.mktemp("data")
    files = (mixed.write(folder / "train.jsonl", mixed.rows(900)), mixed.write(folder / "test.jsonl", mixed.rows(200, seed=1)))
    shape = forms.Shape(group="doc")
    held = References.of_rows("held", mixed.items())
    known = standard.Known(apart_from=(held,), splits={"train": [0], "test": [1]}, languages=("en",))
    return run.Dataset("mixed", files, shape), standard.checks(known)


@pytest.fixture(scope="module")
def alone(data):
    return run.audit(*data, engine="serial")


@pytest.fixture
def small(tmp_path):
    """A file of 300 rows, and small batches."""
    return run.Dataset("small", (mixed.write(tmp_path / "small.jsonl", mixed.rows(300)),))


@pytest.fixture
def batches(monkeypatch):
    monkeypatch.setattr(run, "_BATCH_BYTES", 20_000)


@pytest.fixture
def parsed(monkeypatch):
    """How many rows each call of forms.parse got."""
    calls: list[int] = []
    real = forms.parse

    def counted(raw, digests, shape):
        calls.append(len(raw))
        return real(raw, digests, shape)

    monkeypatch.setattr(forms, "parse", counted)
    return calls


def kept(folder: Path) -> list[Path]:
    """The parts of the one folder of facts."""
    (only,) = folder.iterdir()
    return sorted(only.glob("part-*"))


# --- engines --------------------------------------------------------------------------------------


def test_the_data_give_every_check_something_to_say(alone):
    quiet = {name for name, report in alone.reports.items() if not report.findings.num_rows}
    assert not quiet, quiet
    assert alone.rows.n > alone.rows.u > 0


@pytest.mark.parametrize("batch_bytes", [1, 3_000, 40_000])
def test_the_size_of_batches_changes_nothing(data, alone, monkeypatch, batch_bytes):
    dataset, checks = data
    if batch_bytes == 1:  # a part for each row: fewer checks, else it takes long
        checks = LIGHT
        dataset = replace(dataset, files=dataset.files[1:])
        alone = run.audit(dataset, checks, engine="serial")
    monkeypatch.setattr(run, "_BATCH_BYTES", batch_bytes)
    assert run.audit(dataset, checks, engine="serial").digest == alone.digest


def test_the_digest_tells_findings_and_summaries(alone):
    assert run.Audit(alone.dataset, alone.rows, dict(list(alone.reports.items())[:-1])).digest != alone.digest
    name, report = next(iter(alone.reports.items()))
    fewer = Report(report.findings.slice(1), report.summary)
    assert run.Audit(alone.dataset, alone.rows, {**alone.reports, name: fewer}).digest != alone.digest
    other = Report(report.findings, {**report.summary, "more": 1})
    assert run.Audit(alone.dataset, alone.rows, {**alone.reports, name: other}).digest != alone.digest


@pytest.mark.parametrize("workers", [2, 3])
def test_processes_say_what_one_process_says(data, alone, monkeypatch, workers):
    monkeypatch.setattr(run, "_BATCH_BYTES", 60_000)
    assert run.audit(*data, engine="processes", workers=workers).digest == alone.digest


@pytest.mark.filterwarnings("ignore:.* is deprecated:DeprecationWarning")  # Ray's own default, told by Ray
def test_ray_says_what_one_process_says(data, monkeypatch):
    """Of few checks, and few groups: Ray takes seconds for each."""
    pytest.importorskip("ray", reason="the extra ray is not installed")
    monkeypatch.setattr(run, "_BATCH_BYTES", 60_000)
    checks = [*LIGHT, Duplicates()]
    with run.ENGINES["ray"](2) as engine:  # the audit joins it
        assert run.audit(data[0], checks, engine="ray").digest == run.audit(data[0], checks, engine="serial").digest
        check_group(engine.group, (_none,))


def check_group(group, functions=None):
    """The Group of an engine is that of one process: also of no lines, and where groups have no results."""
    rng = np.random.default_rng(0)
    table = pa.table({"by": pa.array(rng.integers(-3, 4, 50)), "at": pa.array(range(50), pa.int64())})
    for function in functions or (_reversed, _but_odd, _none):
        for some in (table, table.slice(0, 0)):
            assert group(function, some, "by").equals(in_turn(function, some, "by")), (function, some.num_rows)


def _reversed(part):
    return part.take(pa.array(range(part.num_rows)[::-1], pa.int64()))


def _but_odd(part):
    return part.slice(0, part.num_rows if part.num_rows and part["by"][0].as_py() % 2 == 0 else 0)


def _none(part):
    return part.slice(0, 0)


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_groups_meet_as_in_one_process(engine):
    with run.ENGINES[engine](2) as running:
        check_group(running.group)


# --- kept facts -----------------------------------------------------------------------------------


def test_a_second_audit_parses_nothing(small, batches, parsed, tmp_path):
    first = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert sum(parsed) == first.rows.u
    parsed.clear()
    second = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert parsed == []
    assert second.digest == first.digest


def test_only_changed_rows_are_parsed(small, batches, parsed, tmp_path):
    run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    lines = mixed.rows(300)
    changed = [b'{"text": "changed %d"}' % i if i % 100 == 0 else line for i, line in enumerate(lines)]
    mixed.write(small.files[0], changed)
    parsed.clear()
    found = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert sum(parsed) == len(set(changed) - set(lines)) > 0
    assert found.digest == run.audit(small, LIGHT, engine="serial").digest


def test_rows_go_and_come_back(small, batches, tmp_path):
    """Parts of which no row is left go with them; what is there at the end is what an audit without kept facts says."""
    lines = mixed.rows(300)
    whole = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    before = kept(tmp_path / "keep")
    assert len(before) > 3
    mixed.write(small.files[0], lines[:40])
    part = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert set(kept(tmp_path / "keep")) < set(before)
    assert part.digest == run.audit(small, LIGHT, engine="serial").digest
    mixed.write(small.files[0], lines)
    assert run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep").digest == whole.digest


def test_rows_that_move_are_the_same_facts(small, parsed, tmp_path):
    run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    mixed.write(small.files[0], mixed.rows(300)[::-1])
    parsed.clear()
    turned = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert parsed == []
    assert turned.digest == run.audit(small, LIGHT, engine="serial").digest


def test_what_shapes_facts_names_them(small, parsed, tmp_path, monkeypatch):
    """Another option, another reading, other code or another release of a library: facts are made anew."""
    key = run.facts_key(small, LIGHT)
    others = [
        run.facts_key(small, [*LIGHT, Private()]),
        run.facts_key(small, [*LIGHT, Private(regions=("DE",))]),
        run.facts_key(replace(small, shape=forms.Shape(group="doc")), LIGHT),
    ]
    assert len({key, *others}) == 4
    assert run.facts_key(replace(small, name="other"), LIGHT) == key
    run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    parsed.clear()
    monkeypatch.setattr(run, "_code", lambda: "another release")
    run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert sum(parsed) > 0


def test_the_code_digest_follows_libraries(monkeypatch):
    before = run._code()
    run._code.cache_clear()
    monkeypatch.setattr(run, "_version", lambda library: "0.0")
    other = run._code()
    run._code.cache_clear()
    assert other != before


@pytest.mark.parametrize("damage", ["cut", "empty", "noise", "core gone", "check gone"])
def test_a_damaged_part_is_made_anew(small, batches, parsed, tmp_path, capsys, damage):
    first = run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    part = kept(tmp_path / "keep")[1]
    file = part / ("schema.arrow" if damage in ("cut", "check gone") else "core.arrow")
    if damage.endswith("gone"):
        file.unlink()
    else:
        data = file.read_bytes()
        file.write_bytes({"cut": data[: len(data) // 2], "empty": b"", "noise": b"x" * len(data)}[damage])
    parsed.clear()
    assert run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep").digest == first.digest
    assert 0 < sum(parsed) < first.rows.u
    assert f"{part} cannot be read" in capsys.readouterr().err


def test_what_a_killed_run_left_is_swept(small, tmp_path):
    run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    (only,) = (tmp_path / "keep").iterdir()
    (only / ".making-1").mkdir()
    (only / ".making-1" / "core.arrow").write_bytes(b"half")
    run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert [path.name for path in only.iterdir() if path.name.startswith(".")] == [".lock"]


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_a_full_disk_is_said_and_nothing_half_made_stays(small, tmp_path, engine):
    """A limit on file size stands for the full disk: the write stops short in the same way."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from harness.audit import run; from harness.audit.schema import Schema\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); run._BATCH_BYTES = 20_000\n"
        "if __name__ == '__main__':\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "    run.audit(run.Dataset('small', (Path(sys.argv[1]),)), [Schema()], engine=sys.argv[2], keep=Path(sys.argv[3]))\n"
    )
    script = tmp_path / "full.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(small.files[0]), engine, str(tmp_path / "keep")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(killed.ROOT), "NUMBA_CACHE_DIR": ""}
    )
    assert "StoreError" in done.stderr.splitlines()[-1], done.stderr
    assert "HARNESS_STORE" in done.stderr
    (only,) = (tmp_path / "keep").iterdir()
    assert [path.name for path in only.iterdir()] == [".lock"]
    assert (
        run.audit(small, [Schema()], engine="serial", keep=tmp_path / "keep").digest == run.audit(small, [Schema()], engine="serial").digest
    )


def test_no_space_while_writing_a_part(small, tmp_path, monkeypatch):
    def full(folder, made):
        (folder / "core.arrow").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(run, "_write", full)
    with pytest.raises(StoreError, match=r"No space left on device.*Free some space.*--keep DIR"):
        run.audit(small, LIGHT, engine="serial", keep=tmp_path / "keep")
    assert kept(tmp_path / "keep") == []


def test_a_folder_of_facts_that_cannot_be(small, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot keep facts"):
        run.audit(small, LIGHT, engine="serial", keep=tmp_path / "file" / "keep")


@pytest.mark.parametrize("name", ["../../escaped", "/etc/passwd", "..", ".", "", "a\nb", "\U0001d518" * 300, "x" * 300])
def test_a_name_of_a_dataset_stays_inside_the_folder(small, tmp_path, name):
    keep = tmp_path / "deep" / "er" / "keep"
    run.audit(replace(small, name=name), LIGHT, engine="serial", keep=keep)
    (made,) = keep.iterdir()
    assert made.is_dir()
    assert made.name.isascii()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "small.jsonl"]


def test_two_audits_at_once_wait_for_each_other(small, batches, tmp_path):
    """Else the one would sweep what the other is making."""
    keep, script = tmp_path / "keep", tmp_path / "hold.py"
    script.write_text(
        "import sys, time; from pathlib import Path; from harness.audit import run; from harness.audit.outliers import Outliers; "
        "from harness.audit.schema import Schema\n"
        "def held(task, done, total):\n"
        "    print('begun', flush=True); sys.stdin.readline()\n"
        "data = run.Dataset('small', (Path(sys.argv[1]),))\n"
        "print(run.audit(data, [Schema(), Outliers()], engine='serial', keep=Path(sys.argv[2]), progress=held).digest)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(killed.ROOT)}
    command = [sys.executable, str(script), str(small.files[0]), str(keep)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    with subprocess.Popen(command, **pipes) as first, subprocess.Popen(command, **pipes) as second:
        try:
            one, other = (first, second) if _tells(first.stdout, second.stdout) is first.stdout else (second, first)
            assert _tells(other.stderr, other.stdout) is other.stderr  # it says that it waits, and does not begin
            assert "another run is auditing small; waiting" in other.stderr.readline()
            out, _ = one.communicate("\n" * 20)
            theirs, _ = other.communicate("\n" * 20)
        finally:
            first.kill()
            second.kill()
    assert out.splitlines()[-1] == theirs.splitlines()[-1]


def _tells(*streams):
    """The first of the streams that has something to read."""
    ready, _, _ = select.select(streams, [], [], 60)
    assert ready
    return ready[0]


# --- killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_file(tmp_path_factory):
    return mixed.write(tmp_path_factory.mktemp("long") / "long.jsonl", mixed.rows(20_000))


def everything(file: Path, keep: Path | None = None) -> run.Audit:
    return run.audit(run.Dataset(file.stem, (file,)), standard.checks(standard.Known()), engine="serial", keep=keep)


@pytest.fixture(scope="module")
def undisturbed(long_file):
    return everything(long_file).digest


@pytest.mark.parametrize(("engine", "parts"), [("serial", 0), ("serial", 9), ("processes", 1), ("processes", 15)])
def test_a_killed_audit_goes_on_where_it_was(long_file, undisturbed, tmp_path, engine, parts):
    """Killed when so many parts are made, of about forty; ``killed.py`` kills at random moments."""
    keep = tmp_path / "facts"
    process = killed.start(long_file, keep, engine, 1 << 17)
    while len(list(keep.glob("*/part-*"))) < parts:
        assert process.poll() is None
        time.sleep(0.01)
    assert killed.killed(process, 0.0)
    assert everything(long_file, keep).digest == undisturbed


def test_workers_end_with_a_killed_parent(long_file, tmp_path):
    """Only the parent is killed: nobody tells its workers, and a pool's workers hold the pipe they wait at open."""
    process = killed.start(long_file, tmp_path / "facts", "processes", 1 << 16)
    try:
        while len(list((tmp_path / "facts").glob("*/part-*"))) < 2:
            assert process.poll() is None
            time.sleep(0.05)
        assert len(_of_group(process.pid)) > 2
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        patience = time.monotonic() + 60
        while (left := _of_group(process.pid)) and time.monotonic() < patience:
            time.sleep(0.1)
        assert left == []
    finally:
        if _of_group(process.pid):
            os.killpg(process.pid, signal.SIGKILL)


def _of_group(group: int) -> list[int]:
    """Processes of a group that are no zombies."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(of) == group and state != "Z":
            found.append(int(stat.parent.name))
    return found


# --- errors ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Silent:
    """A check that says nothing, or ends its process."""

    name: str = "silent"
    key: str = "row"
    dies: bool = False
    needs: bool = False

    @property
    def options(self):
        return {}

    def partial(self, batch):
        if self.dies:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.needs:
            raise AuditError("no magic here; get some")
        return pa.table({"row": digest_array(batch.rows)})

    def finish(self, facts, rows, group):
        return Report(no_findings(), {"rows": rows.u})


def test_a_killed_worker_is_said(small, batches):
    with pytest.raises(AuditError, match=r"worker process was killed.*fewer workers"):
        run.audit(small, [Silent(dies=True)], engine="processes")


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_an_error_in_a_worker_is_the_same_error_here(small, batches, engine):
    with pytest.raises(AuditError, match="no magic here; get some"):
        run.audit(small, [Silent(needs=True)], engine=engine)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"engine": "spark"}, "engine 'spark', expected one of serial, processes, ray"),
        ({"workers": 0}, "0 workers, expected at least 1"),
        ({"checks": [Schema(), Schema()]}, "two checks of one name: schema, schema"),
        ({"checks": [Silent("core")]}, "core"),
    ],
)
def test_what_cannot_be_asked_is_said(small, more, said):
    with pytest.raises(AuditError, match=said):
        run.audit(small, **{"checks": LIGHT, **more})


def test_an_engine_that_is_not_installed_is_a_missing_need(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingNeed, match=r"lifecycle-harness\[ray\]"):
        run.audit(small, LIGHT, engine="ray")


@pytest.mark.parametrize("engine", ["serial", "processes"])
def test_files_that_are_no_dataset(small, tmp_path, engine):
    (tmp_path / "empty.jsonl").write_bytes(b"")
    (tmp_path / "blank.jsonl").write_bytes(b"\n \n\n")
    for name, said in (("empty.jsonl", "no rows"), ("blank.jsonl", "no rows"), ("gone.jsonl", "No such file"), (".", "is a folder")):
        for files in ((tmp_path / name,), (small.files[0], tmp_path / name)):
            with pytest.raises(HarnessError, match=said):
                run.audit(replace(small, files=files), LIGHT, engine=engine)


def test_no_files_at_all():
    with pytest.raises(AuditError, match="no rows"):
        run.audit(run.Dataset("none", ()), LIGHT, engine="serial")


def test_a_dataset_of_unreadable_rows_is_all_findings(tmp_path, data):
    _, checks = data
    bad = [b"{", b"[1", b"null", b"\xff\xff", b'"text"', b"{}", b'{"messages": 7}', b"nan", b"[" * 5000]
    file = mixed.write(tmp_path / "bad.jsonl", bad)
    found = run.audit(run.Dataset("bad", (file, file)), checks, engine="serial")
    rows = found.reports["schema"].findings["row"].to_pylist()
    assert set(rows) == set(range(2 * len(bad)))
    assert found.rows.n == 2 * len(bad)


def test_no_checks_is_an_index_of_rows(small):
    found = run.audit(small, [], engine="serial")
    assert found.rows.n == len(mixed.rows(300))
    assert found.findings.num_rows == 0
    assert list(found.summaries) == ["read"]


def test_summaries_tell_what_was_read(alone):
    read = alone.summaries["read"]
    assert read["rows"] == alone.rows.n == len(mixed.rows(900)) + len(mixed.rows(200, seed=1))
    assert read["distinct_rows"] == len({*mixed.rows(900), *mixed.rows(200, seed=1)})
    assert read["files"] == ["train.jsonl", "test.jsonl"]
    assert list(alone.summaries) == ["read", *alone.reports]


def test_findings_are_ordered_by_check_then_row(alone):
    places = list(alone.reports)
    order = [(places.index(c), row) for c, row in zip(alone.findings["check"].to_pylist(), alone.findings["row"].to_pylist(), strict=True)]
    assert order == sorted(order)


def test_progress_is_told(small, batches):
    told: list[tuple[str, int, int]] = []
    run.audit(small, LIGHT, engine="serial", progress=lambda *step: told.append(step))
    tasks = Counter(task for task, _, _ in told)
    assert set(tasks) == {"auditing small: reading", "auditing small: schema", "auditing small: outliers", "auditing small"}
    assert all(0 <= done <= total and total > 0 for _, done, total in told)
    assert told[-1] == ("auditing small", 2, 2)


def test_without_a_folder_nothing_stays(small, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    run.audit(small, LIGHT, engine="serial")
    assert list(scratch.iterdir()) == []


def test_a_digest_is_sixteen_bytes(alone):
    assert digest_array(alone.rows.digests).type == DIGEST
