"""A scripted server that speaks vLLM's protocol and knows what it did: a test double, not a model.

    python -m harness.serve.stub --plan plan.json --truth truth.jsonl --port 0

prints one line, ``{"port": N, "pid": P}``, and serves on 127.0.0.1 until it is ended. It is made for tests and controls:
of this package's own claims, and of the clients, gateways and applications of whoever uses it. It says what it is in
/v1/models (``owned_by``). Standard library only, one process, one thread.

    plan      {"service": {"kind": "mgc", "servers": 4, "service_s": 0.02, "cv": 1.0, "tokens": 16}, "seed": 0, "model": "stub",
              "faults": [{"what": "error_frame", "after_frame": 3, "when": {"nth": 20}, "count": null}]}      see plan
    answers   ``answer(prompt, seed, tokens)``: a pure function, so that golden texts are known                see answers
    times     fixed, tokens, mgc, batch, fast; ``true_quantile`` is the oracle of the queue                     see engine
    faults    each with triggers and a count                                                                    see plan.FAULTS
    truth     a row for each request for text, as JSON: ``request`` (the number at the end of X-Request-Id, else that of its arrival),
              ``seen`` (its first byte), ``whole``, ``first`` and ``last`` (a frame with output is handed to the kernel), ``end`` (the last
              byte is), ``due`` (when the service model had the first token), all in nanoseconds of the monotonic clock;
              ``frames``, ``tokens``, ``prompt_tokens``, ``cached``, ``inflight`` (at arrival, itself included), ``status``, ``faults``,
              ``how`` it ended (complete, client_gone, fin, rst, exit, open) and ``late`` (the kernel did not take a frame at once: the
              client reads too slowly). A client cannot have read anything before the instant that is told here

A request for text carries its number in the header ``X-Request-Id``; what is drawn for it (service time, faults by ``p``,
``nth`` and ``request``) depends on the plan's seed and that number alone, in whatever order requests come; with ``"draw": "arrival"``
on how many came before, so that a second run over the same server draws anew. ``between`` counts seconds from the first such request.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, EngineError
from harness.serve.stub.answers import answer
from harness.serve.stub.engine import sojourns, true_quantile
from harness.serve.stub.plan import EXAMPLE, Plan, explained
from harness.serve.target import Target

__all__ = ["Stub", "answer", "main", "sojourns", "start", "true_quantile"]

_KEY = "HARNESS_STUB_KEY"  # the environment variable with the key that clients must send


class Stub:
    """A stub that runs. A context manager: leaving it ends the process."""

    def __init__(self, plan: Mapping[str, Any], process: subprocess.Popen[bytes], target: Target, truth: Path, folder: Path) -> None:
        self.plan, self.target, self.path = dict(plan), target, truth
        self._process, self._folder = process, folder
        self._rows: list[dict[str, Any]] | None = None

    @property
    def pid(self) -> int:
        """Of the server's only process."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; minus the signal's number if one ended it."""
        return self._process.poll()

    def truth(self) -> list[dict[str, Any]]:
        """The rows of all requests that are over, in the order of their ends."""
        if self._rows is None:
            self.state()
            return _rows(self.path)
        return self._rows

    def state(self) -> dict[str, Any]:
        """How many requests came, how many are open, how often each fault was applied; empty once it has ended."""
        if self.exit_code is not None:
            return {}
        import socket

        try:
            with socket.create_connection((self.target.host, self.target.port), timeout=10) as sock:
                sock.sendall(b"GET /truth HTTP/1.1\r\nhost: stub\r\nconnection: close\r\n\r\n")
                reply = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        except OSError:
            return {}
        found = json.loads(reply.partition(b"\r\n\r\n")[2] or b"{}")
        return dict(found)

    def stop(self) -> None:
        """Ends it, open requests and all; safe to call twice."""
        if self._rows is not None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._rows = _rows(self.path)
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Stub:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _rows(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]  # a killed writer leaves half a line


def start(plan: Mapping[str, Any], *, truth: Path | None = None) -> Stub:
    """A stub in a process of its own that ends with this one; returns when it listens.

    With ``"key": true`` in the plan it asks for the key that ``target`` carries. ConfigError for a wrong plan, EngineError
    if it does not come up.
    """
    parsed = Plan.parse(plan)
    folder = Path(tempfile.mkdtemp(prefix="stub-"))
    file = folder / "plan.json"
    file.write_text(json.dumps(dict(plan)), encoding="utf-8")
    truth = truth or folder / "truth.jsonl"
    key = secrets.token_hex(16) if parsed.key else ""
    argv = [
        sys.executable,
        "-m",
        "harness.serve.stub",
        "--plan",
        str(file),
        "--truth",
        str(truth),
        "--port",
        "0",
        "--owner",
        str(os.getpid()),
    ]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env={**os.environ, _KEY: key})
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        code = process.wait()
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)
        raise EngineError(f"the stub ended with code {code} before it listened; its message is on stderr")
    port = json.loads(line)["port"]
    return Stub(plan, process, Target(f"http://127.0.0.1:{port}", parsed.model, key), truth, folder)


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM, SIGINT or the end of ``--owner``. 2 for a wrong plan or a port that is taken."""
    from harness.serve.stub.server import Server
    from harness.serve.stub.wire import Loop, listen, watch_owner

    parser = argparse.ArgumentParser(
        prog="python -m harness.serve.stub",
        description="a scripted server with ground truth: a test double",
        epilog=f"{explained()}\n\nexample:\n  echo '{json.dumps(EXAMPLE)}' > plan.json\n"
        f"  python -m harness.serve.stub --plan plan.json --truth truth.jsonl\n\n"
        f'It prints its port and process as one line of JSON. With "key": true it asks clients for the key in ${_KEY}.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--plan", type=Path, required=True, help="JSON, as below")
    parser.add_argument("--truth", type=Path, help="where a row for each request goes, as JSON lines")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free (the default)")
    parser.add_argument("--owner", type=int, help="a process with whose end the stub ends")
    said = parser.parse_args(argv)
    loop = Loop()
    try:
        plan = Plan.from_json(said.plan.read_text(encoding="utf-8"))
        key = os.environ.get(_KEY, "")
        if plan.key and not key:
            raise ConfigError(f"the plan asks for a key: put it into ${_KEY}")
        server = Server(plan, loop, said.truth, key if plan.key else "")
        time.sleep(plan.start_s)
        listener = listen(loop, said.port, server.serve)
    except (ConfigError, OSError, OverflowError) as error:
        print(f"stub: {error}", file=sys.stderr)
        return 2

    def stop(*_: object) -> None:
        loop.stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker)  # so that select ends at once
    loop.watch(wake, lambda _: None)
    if said.owner:
        watch_owner(loop, said.owner)
    print(json.dumps({"port": listener.getsockname()[1], "pid": os.getpid()}), flush=True)
    loop.run()
    server.close()
    return 0
