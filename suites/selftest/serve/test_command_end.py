"""``python -m harness load`` where things go wrong: keys, another model's answers, folders, signals, and what is left behind."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from harness.__main__ import main
from harness.serve.load import run_load, scratch
from harness.serve.schedule import poisson
from harness.serve.validity import per_frame, remarks
from harness.serve.workload import fixed, synthetic

pytestmark = pytest.mark.selftest

SERVICE = {"kind": "mgc", "servers": 8, "service_s": 0.02, "cv": 0.5, "tokens": 8}
FEW = ("--rate", "60", "--requests", "60", "--warmup", "0.2", "--limit", "2", "--output-tokens", "8", "--slo", "e2e_p95=20s", "--unchecked")


def ran(server, n: int = 60):
    due = poisson(60.0, requests=n, seed=1)
    return run_load(server.target, due, synthetic("stub", len(due), 0, prompt=fixed(8), output=fixed(8)), limit_s=20)


# --- who answers ------------------------------------------------------------------------------------


def test_a_key_that_is_refused(stub, capsys, monkeypatch) -> None:
    server = stub({"key": True})
    for key, words in (("sesame", "401: the key in $OPENAI_API_KEY was refused"), ("", "$OPENAI_API_KEY is empty")):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        assert main(["load", server.target.base_url, *FEW]) == 8
        said = capsys.readouterr().err
        assert words in said and "sesame" not in said
    assert server.state()["requests"] == 0


def test_an_address_where_something_else_listens(capsys) -> None:
    page = (
        "import http.server\n"
        "class Page(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        status, body = (404, b'no') if self.server.n else (200, b'<html>')\n"
        "        self.send_response(status); self.end_headers(); self.wfile.write(body); self.server.n += 1\n"
        "    def log_message(self, *_): pass\n"
        "server = http.server.HTTPServer(('127.0.0.1', 0), Page); server.n = 0\n"
        "print(server.server_port, flush=True); server.serve_forever()\n"
    )
    child = subprocess.Popen([sys.executable, "-c", page], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        url = f"http://127.0.0.1:{int(child.stdout.readline())}"
        for words in ("lists no model", "answers 404"):
            assert main(["load", url, *FEW, "--model", "m"]) == 8
            assert words in capsys.readouterr().err
    finally:
        child.kill()
        child.communicate()


def test_answers_of_another_model_are_failures_once_the_right_one_has_answered(stub) -> None:
    server = stub({"service": SERVICE, "faults": [{"what": "wrong_model", "when": {"nth": 10}}]})
    load = ran(server).load
    assert [r.sequence for r in load.records if r.why == "wrong_model"] == [9, 19, 29, 39, 49, 59]
    assert remarks(load) == ("answers name another model: another in 6 of 60, asked for was 'stub'",)


def test_a_gateway_with_names_of_its_own_is_remarked_and_not_judged(stub) -> None:
    load = ran(stub({"service": SERVICE, "faults": [{"what": "wrong_model"}]})).load
    assert all(r.outcome == "complete" for r in load.records)
    assert remarks(load) == ("answers name another model: another in 60 of 60, asked for was 'stub'",)
    assert remarks(ran(stub({"service": SERVICE})).load) == ()


def test_tokens_that_nobody_saw_arrive_are_remarked(stub, capsys) -> None:
    server = stub({"service": SERVICE, "faults": [{"what": "coalesced", "frames": 2}, {"what": "wrong_usage", "by": 40}]})
    argv = ("--rate", "60", "--requests", "60", "--warmup", "0.2", "--limit", "2", "--output-tokens", "64", "--unchecked")
    assert main(["load", server.target.base_url, *argv, "--slo", "tpot_p95=10s"]) in (0, 1)  # as alike as neighbours happen to be
    assert "frames    6.00 tokens in each, by the server's count; a time per token rests on" in capsys.readouterr().out
    assert per_frame(ran(stub({"service": SERVICE})).load) == 1.0


# --- a folder for evidence --------------------------------------------------------------------------


def test_a_folder_that_cannot_be_written_is_found_before_anything_is_sent(stub, capsys, tmp_path) -> None:
    server = stub({"service": SERVICE})
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    for name in ("file", "file/below", "full"):
        assert main(["load", server.target.base_url, *FEW, "--out", str(tmp_path / name)]) == 2
        assert "--out" in capsys.readouterr().err
    assert main(["load", "http://127.0.0.1:1", *FEW, "--out", str(tmp_path / "new")]) == 8
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "full"]
    assert server.state()["requests"] == 0


# --- an end by a signal -----------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "there"), [(signal.SIGINT, False), (signal.SIGTERM, True)])
def test_a_signal_ends_a_load_without_a_trace_of_it(stub, tmp_path, number: int, there: bool) -> None:
    server, out, temporary = stub({"service": SERVICE}), tmp_path / "out", tmp_path / "tmp"
    temporary.mkdir()
    if there:
        out.mkdir()
    argv = ["--rate", "40", "--seconds", "60", "--warmup", "0", "--slo", "e2e_p95=20s", "--unchecked", "--out", str(out)]
    child = subprocess.Popen(
        [sys.executable, "-m", "harness", "load", server.target.base_url, *argv],
        env={**os.environ, "TMPDIR": str(temporary)}, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell ignores it for what it runs in the background
    )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not server.state()["requests"] and time.monotonic() < until:
            time.sleep(0.1)
        assert (out / "plan.json").exists() and len(list(temporary.iterdir())) == 1
        child.send_signal(number)
        said = child.communicate(timeout=60)[1]
    finally:
        child.kill()
    assert child.returncode == 130
    assert "nothing of it was kept" in said and "Traceback" not in said
    assert list(temporary.iterdir()) == []
    assert out.exists() == there and not list(out.glob("*"))


def test_a_start_takes_away_what_dead_runs_left_and_nothing_else(tmp_path, monkeypatch) -> None:
    names = ("harness-load-dead", "harness-load-living", "harness-load-just-made", "another")
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / ("locked" if name != "harness-load-just-made" else "page")).write_bytes(b"x")
    (tmp_path / "harness-load-file").write_text("x")
    (tmp_path / "harness-load-link").symlink_to(tmp_path / "another")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    held = os.open(tmp_path / "harness-load-living", os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        with scratch.temporary() as mine:
            scratch.sweep(tmp_path)  # another start while this one runs
            assert mine.exists()
            left = {each.name for each in tmp_path.iterdir()}
    finally:
        os.close(held)
    assert left == {*names[1:], "harness-load-file", "harness-load-link", mine.name}
    assert not mine.exists() and (tmp_path / "another" / "locked").exists()


# --- a throughput -----------------------------------------------------------------------------------


def test_how_many_requests_a_throughput_needs_is_said_before(stub, capsys) -> None:
    server = stub({"service": SERVICE})
    argv = ("--arrivals", "closed:4", "--tokens-per-second", "1", "--unchecked", "--output-tokens", "8")
    assert main(["load", server.target.base_url, *argv, "--requests", "299"]) == 1
    said = capsys.readouterr().out
    assert "tokens: n = 299; below 300, 30 batches of 10, nothing can hold" in said and "Nothing was sent" in said
    assert server.state()["requests"] == 0
    assert main(["load", server.target.base_url, *argv, "--requests", "300", "--json"]) == 1
    verdict = json.loads(capsys.readouterr().out)["verdicts"]["L2.tokens[server]"]
    assert verdict["reason"] == "too_short" and " would do, not 300" in verdict["sentence"]
