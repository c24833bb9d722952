"""What the guardian knows of processes, and the sweep: exact matches die, nothing else does."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.serve.process import guardian

pytestmark = pytest.mark.selftest


@pytest.fixture
def sleeper():
    """Starts processes that sleep, in sessions of their own, and leaves none."""
    started = []

    def start(*argv, **more):
        process = subprocess.Popen(argv or ("sleep", "60"), start_new_session=True, **more)
        started.append(process)
        while (found := guardian.process(process.pid)) is None or found.session != process.pid:
            time.sleep(0.005)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


def entry(members, **more):
    dead = {"server": secrets.token_hex(4), "here": guardian.here(), "guardian": [1, -1], "tmp": "/nonexistent/hs-x", "shm": []}
    return {**dead, "members": [list(each) for each in members], **more}


def written(tmp_path: Path, *lines) -> str:
    path = tmp_path / "servers.jsonl"
    for line in lines:
        guardian.note(str(path), line)
    return str(path)


def test_a_process_is_a_number_and_a_start_time(sleeper):
    process = sleeper()
    found = guardian.process(process.pid)
    assert (found.pid, found.parent, found.session, found.group) == (process.pid, os.getpid(), process.pid, process.pid)
    fields = Path(f"/proc/{process.pid}/stat").read_text().split()  # no space in this name
    assert found.ticks == int(fields[21])
    process.kill()
    time.sleep(0.05)
    assert guardian.process(process.pid) is None  # dead, though nobody has taken its exit status


def test_a_name_with_spaces_and_brackets_is_read_right(sleeper, tmp_path):
    program = tmp_path / "a) S 1 (b"
    os.link("/bin/sleep", program) if os.stat("/bin").st_dev == tmp_path.stat().st_dev else program.write_bytes(
        Path("/bin/sleep").read_bytes()
    )
    program.chmod(0o755)
    process = sleeper(str(program), "60")
    assert guardian.process(process.pid).parent == os.getpid()


def test_descendants_are_found_through_sessions(sleeper):
    inner = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = sleeper(sys.executable, "-c", outer, stdout=subprocess.PIPE)
    below = int(process.stdout.readline())
    assert {each.pid for each in guardian.descendants(process.pid)} == {below}
    assert {process.pid, below} <= {each.pid for each in guardian.descendants(os.getpid())}
    os.kill(below, signal.SIGKILL)
    process.stdout.close()


def test_a_signal_reaches_this_process_only(sleeper):
    process = sleeper()
    found = guardian.process(process.pid)
    assert guardian.send((found.pid, found.ticks + 1), signal.SIGKILL) is False  # the number is somebody else's now
    time.sleep(0.05)
    assert process.poll() is None
    assert guardian.send(found.id, signal.SIGKILL) is True
    assert process.wait(5) == -signal.SIGKILL
    assert guardian.send(found.id, signal.SIGKILL) is False


def test_sweep_kills_the_recorded_and_what_belongs_to_them(tmp_path, sleeper):
    recorded = sleeper("sh", "-c", "sleep 60 & sleep 60 & wait")
    while len(list(guardian.descendants(recorded.pid))) < 2:  # the shell has to come to it
        time.sleep(0.005)
    stranger = sleeper()
    mine = entry([guardian.process(recorded.pid).id])
    registry = written(tmp_path, mine)
    (done,) = guardian.sweep(registry)
    assert done["server"] == mine["server"] and done["left"] == [] and recorded.pid in done["killed"]
    assert len(done["killed"]) == 3  # its children, which nobody had written down
    assert recorded.wait(5) == -signal.SIGKILL
    assert stranger.poll() is None
    assert Path(registry).read_bytes() == b"" and guardian.sweep(registry) == []


def test_sweep_finds_newcomers_by_the_tag(tmp_path, sleeper):
    mine = entry([])
    newcomer = sleeper(env={**os.environ, guardian.TAG: mine["server"]})
    other = sleeper(env={**os.environ, guardian.TAG: "another"})
    (done,) = guardian.sweep(written(tmp_path, mine))
    assert done["killed"] == [newcomer.pid]
    assert other.poll() is None


@pytest.mark.parametrize("why", ["other start time", "other boot", "guardian alive", "ended"])
def test_sweep_leaves_everybody_else_alone(tmp_path, sleeper, why):
    process, keeper = sleeper(), sleeper()
    pid, ticks = guardian.process(process.pid).id
    lines = {
        "other start time": [entry([(pid, ticks + 1)])],
        "other boot": [entry([(pid, ticks)], here=["another boot", "pid:[1]"])],
        "guardian alive": [entry([(pid, ticks)], guardian=list(guardian.process(keeper.pid).id))],
        "ended": [entry([(pid, ticks)], server="x"), {"server": "x", "ended": True}],
    }[why]
    registry = written(tmp_path, *lines)
    killed = [pid for done in guardian.sweep(registry) for pid in done["killed"]]
    time.sleep(0.05)
    assert killed == [] and process.poll() is None
    assert (why == "guardian alive") == bool(Path(registry).read_bytes())  # a server that runs stays written down


def test_what_cannot_be_killed_stays_written_down(tmp_path, sleeper, monkeypatch):
    process = sleeper()
    registry = written(tmp_path, entry([guardian.process(process.pid).id]))
    monkeypatch.setattr(guardian, "send", lambda member, number: False)
    (done,) = guardian.sweep(registry, wait_s=0.05)
    assert [pid for pid, _ in done["left"]] == [process.pid]
    monkeypatch.undo()
    (done,) = guardian.sweep(registry)
    assert done["left"] == [] and process.wait(5) == -signal.SIGKILL


@settings(derandomize=True, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=8), st.binary(max_size=20), st.integers(0, 30))
def test_the_last_whole_line_of_a_server_counts(said, junk, cut):
    lines = [json.dumps({"server": name, "ended": True} if ended else {"server": name, "n": i}) for i, (name, ended) in enumerate(said)]
    expected = {}
    for i, (name, ended) in enumerate(said):
        expected.pop(name, None)
        if not ended:
            expected[name] = {"server": name, "n": i}
    torn = json.dumps({"server": "d", "members": []})[:cut].encode()
    junk = re.sub(rb"[{\r\n]", b"", junk)
    data = "".join(f"{line}\n" for line in lines).encode() + junk + b"\n" + torn
    assert guardian.entries(data) == expected


def test_shared_memory_that_is_mapped_stays(tmp_path):
    names = [f"harness-{secrets.token_hex(4)}" for _ in range(2)]
    code = (
        "import mmap, os, sys; fd = os.open('/dev/shm/' + sys.argv[1], os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096);"
        "m = mmap.mmap(fd, 4096); os.close(fd); print(1, flush=True); input()"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, names[0]], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    holder.stdout.readline()
    Path("/dev/shm", names[1]).write_bytes(b"")
    try:
        assert guardian.shared([holder.pid]) == {names[0]}
        assert guardian.tidy("", names) == [names[1]]
        assert Path("/dev/shm", names[0]).exists()
    finally:
        holder.communicate(b"\n")
    assert guardian.tidy("", names) == [names[0]]


def test_only_a_folder_of_ours_is_removed(tmp_path):
    foreign, ours, link = tmp_path / "home", tmp_path / f"{guardian.PREFIX}abc", tmp_path / f"{guardian.PREFIX}link"
    for folder in (foreign, ours):
        folder.mkdir()
        (folder / "file").write_text("x")
    link.symlink_to(foreign)
    for folder in (foreign, ours, link):
        guardian.tidy(str(folder), ())
    assert (foreign / "file").exists() and not ours.exists()


def test_it_needs_nothing_but_the_standard_library():
    done = subprocess.run([sys.executable, "-I", "-S", guardian.__file__], stdin=subprocess.DEVNULL, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
