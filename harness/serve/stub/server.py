"""The routes of a stub: requests checked, answered by script, and their truth written down."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.serve.stub.answers import token_id, tokenize
from harness.serve.stub.engine import Engine
from harness.serve.stub.metrics import Metrics
from harness.serve.stub.plan import Fault, Plan
from harness.serve.stub.request import Refused, parse, prompt_text, wanted
from harness.serve.stub.script import Fast, Step, plain, write
from harness.serve.stub.wire import Connection, Loop, Request, now

__all__ = ["Server"]

_AFTER = 10**15  # steps behind the last token need that many


class Job:
    """One request to an endpoint that makes text: its script, and how far it is."""

    def __init__(self, server: Server, connection: Connection, request: Request, number: int, ordinal: int) -> None:
        self.server, self.connection, self.request = server, connection, request
        self.ordinal = ordinal
        self.draw = number if server.plan.draw == "request" else ordinal
        self.prompt_ids: list[int] = []
        self.total = self.made = self.cached = self.place = 0
        self.steps: list[Step] = []
        self.sleeping = False
        self.finish = "error"
        self.wrote = request.whole
        self.truth: dict[str, Any] = {
            "request": number, "id": request.headers.get("x-request-id", ""), "ordinal": ordinal, "seen": request.seen,
            "whole": request.whole, "inflight": len(server.jobs) + 1, "first": None, "last": None, "end": None, "frames": 0,
            "tokens": 0, "prompt_tokens": 0, "due": None, "cached": 0, "status": 200, "how": "open", "late": False, "faults": [],
        }  # fmt: skip

    def on_tokens(self, made: int, at: int) -> None:
        """The engine has made this many."""
        if self.truth["due"] is None:
            self.truth["due"] = at  # when the model says that the first token is there
        self.made = made
        self.play()

    def play(self) -> None:
        """Plays the script as far as tokens are made and no step holds it up."""
        steps, write, truth = self.steps, self.connection.write, self.truth
        while self.place < len(steps) and not self.sleeping:
            needs, what, data, tokens, output = steps[self.place]
            if needs > self.made:
                return
            self.place += 1
            if what == "write":
                self.wrote = at = now()  # before the call: no client can have read it earlier
                write(data)
                truth["tokens"] += tokens
                if output:
                    truth["last"] = at
                    truth["frames"] += output
                    if truth["first"] is None:
                        truth["first"] = at
                    truth["late"] = truth["late"] or bool(self.connection.unsent)
            elif what == "sleep":
                self._sleep(data)
            else:
                return self._end(what, data)
        if self.place >= len(steps) and not self.sleeping:
            self._end("end", None)

    def _sleep(self, seconds: float | None) -> None:
        self.sleeping = True

        def wake() -> None:
            self.sleeping = False
            self.play()

        if seconds is not None:
            self.server.loop.at(now() + round(seconds * 1e9), wake)

    def _end(self, what: str, data: Any) -> None:
        self.place = len(self.steps)
        self.sleeping = True  # nothing more is played
        self.server.over(self, "complete" if what == "end" else what)
        if what == "exit":
            self.server.exit(int(data))
        elif what in ("fin", "rst"):
            self.connection.close(reset=what == "rst")
        elif what == "end":
            self.connection.done()

    def gone(self) -> None:
        """The client left."""
        self.sleeping = True
        self.server.engine.cancel(self)
        self.server.over(self, "client_gone")


class Server:
    """A stub's state. ``key`` empty: none is asked for."""

    def __init__(self, plan: Plan, loop: Loop, truth: Path | None, key: str = "") -> None:
        self.plan, self.loop, self.key = plan, loop, key
        self.engine = Engine(plan, loop)
        self.metrics = Metrics(plan, self.engine)
        self.names = (plan.model, *plan.names)
        self.jobs: set[Job] = set()
        self.ordinal = 0
        self.origin: int | None = None  # the first request's arrival
        self.created = int(time.time())
        self._rows: list[dict[str, Any]] = []
        self._out = truth.open("a", encoding="utf-8") if truth else None
        self._flush_set = False
        self.fast = Fast(plan) if plan.service.kind == "fast" else None
        self.routes: Mapping[str, tuple[str, Callable[[Connection, Request], None]]] = {
            "/health": ("GET", self.health), "/ping": ("GET", self.health), "/metrics": ("GET", self.show_metrics),
            "/version": ("GET", lambda c, _: c.reply(200, b'{"version":"stub"}')), "/truth": ("GET", self.show_truth),
            "/v1/models": ("GET", self.models), "/tokenize": ("POST", self.tokenize), "/detokenize": ("POST", self.detokenize),
            "/v1/completions": ("POST", self.generate), "/v1/chat/completions": ("POST", self.generate),
        }  # fmt: skip
        self.texts: dict[int, str] = {}  # pieces by id, as far as they were seen

    # --- plumbing -------------------------------------------------------------------------------

    def serve(self, connection: Connection, request: Request) -> None:
        """One request in, whatever it is."""
        path = request.path.partition("?")[0]
        if path not in self.routes:
            return self._refuse(connection, Refused(404, "Not Found", "NotFoundError"))
        method, call = self.routes[path]
        if request.method != method:
            return self._refuse(connection, Refused(405, "Method Not Allowed", "MethodNotAllowedError"))
        if self.key and path.startswith("/v1") and request.headers.get("authorization") != f"Bearer {self.key}":
            return self._refuse(connection, Refused(401, "Unauthorized", "AuthenticationError"))
        try:
            call(connection, request)
        except Refused as error:
            self._refuse(connection, error)

    def _refuse(self, connection: Connection, error: Refused, headers: str = "") -> None:
        connection.reply(error.status, error.body(), headers)

    def exit(self, code: int) -> None:
        """Ends the process as a crash would, but for the truth, which is written."""
        self.flush()
        sys.stdout.flush()
        os._exit(code)

    def flush(self, most: int = 1 << 62) -> None:
        """Writes rows of truth that are finished, not so many at once that answers come late for it."""
        rows, self._rows = self._rows[:most], self._rows[most:]
        if self._out is not None:
            self._out.write("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
            self._out.flush()
        self._flush_set = bool(self._rows)
        if self._flush_set:
            self._flush_later()

    def _flush_later(self) -> None:
        self._flush_set = True
        self.loop.at(now() + 50_000_000, lambda: self.flush(100))

    def close(self) -> None:
        """What is still open is written down as such."""
        for job in list(self.jobs):
            self.over(job, "open")
        self.flush()

    def over(self, job: Job, how: str) -> None:
        """The request is over: its row, its counters."""
        if job not in self.jobs:
            return
        self.jobs.discard(job)
        if how not in ("complete", "client_gone", "open"):
            self.engine.cancel(job)
        job.connection.on_gone = None
        row = job.truth
        row["end"], row["how"], row["cached"] = job.wrote if how == "complete" else now(), how, job.cached
        self.metrics.finished(row, job.finish)
        self._rows.append(row)
        if not self._flush_set:
            self._flush_later()

    # --- small endpoints ------------------------------------------------------------------------

    def _silent(self, what: str) -> bool:
        inflight, seconds = len(self.jobs), self._seconds()
        return any(each.what == what and each.strikes(self.plan.seed, self.ordinal, inflight, seconds) for each in self.plan.faults)

    def _seconds(self) -> float:
        return 0.0 if self.origin is None else (now() - self.origin) * 1e-9

    def health(self, connection: Connection, request: Request) -> None:
        if not self._silent("deaf_health"):
            connection.reply(200, b"", kind="text/plain")

    def show_metrics(self, connection: Connection, request: Request) -> None:
        connection.reply(200, self.metrics.text().encode(), kind="text/plain; version=0.0.4; charset=utf-8")

    def show_truth(self, connection: Connection, request: Request) -> None:
        """Flushes what is known; answers how often each fault was applied."""
        self.flush()
        applied = [{"what": each.what, "applied": each.applied} for each in self.plan.faults]
        connection.reply(200, json.dumps({"requests": self.ordinal, "open": len(self.jobs), "faults": applied}).encode())

    def models(self, connection: Connection, request: Request) -> None:
        data = [
            {"id": name, "object": "model", "created": self.created, "owned_by": "harness test double", "root": self.plan.model,
             "parent": None, "max_model_len": self.plan.context}
            for name in self.names
        ]  # fmt: skip
        connection.reply(200, json.dumps({"object": "list", "data": data}).encode())

    def tokenize(self, connection: Connection, request: Request) -> None:
        body = parse(request.body)
        text = prompt_text(body, "messages" in body, self.texts)
        found = tokenize(text)
        ids = [token_id(piece) for piece in found]
        self.texts.update(zip(ids, found, strict=True))
        strings = found if body.get("return_token_strs") else None
        reply = {"count": len(ids), "max_model_len": self.plan.context, "tokens": ids, "token_strs": strings}
        connection.reply(200, json.dumps(reply).encode())

    def detokenize(self, connection: Connection, request: Request) -> None:
        body = parse(request.body)
        text = prompt_text({"prompt": body.get("tokens")}, False, self.texts)
        connection.reply(200, json.dumps({"prompt": text}).encode())

    # --- text -----------------------------------------------------------------------------------

    def generate(self, connection: Connection, request: Request) -> None:
        number = request.headers.get("x-request-id", "").rpartition("-")[2]
        ordinal, self.ordinal = self.ordinal, self.ordinal + 1
        self.origin = request.seen if self.origin is None else self.origin
        job = Job(self, connection, request, int(number) if number.isdigit() and len(number) < 10 else ordinal, ordinal)
        self.jobs.add(job)
        connection.on_gone = job.gone
        if self.fast is not None:
            self.fast.script(job)
            job.made = _AFTER
            return job.play()
        try:
            faults = self._begin(job)
        except Refused as error:
            job.truth["status"] = error.status
            job.steps = [Step(0, "write", plain(error.status, error.body()))]
            return job.play()
        if any(each.what == "freeze" for each in faults):
            seconds = next(each.numbers["seconds"] for each in faults if each.what == "freeze")
            self.engine.freeze(0)
            time.sleep(seconds)
        for each in faults:
            if each.what == "frozen":
                self.engine.freeze(each.numbers["seconds"])
        job.play()
        if job in self.jobs and job.total:
            self.engine.submit(job)

    def _begin(self, job: Job) -> list[Fault]:
        """Reads the request, draws its faults, writes its script. Raises Refused."""
        body = parse(job.request.body)
        chat = job.request.path.startswith("/v1/chat")
        text = prompt_text(body, chat, self.texts)
        args = (self.plan.seed, job.draw, len(self.jobs), self._seconds(), text)
        faults = [each for each in self.plan.faults if each.what not in ("deaf_health", "lying_metrics") and each.strikes(*args)]
        job.truth["faults"] = [each.what for each in faults]
        asked = wanted(body, chat, text, self.plan, self.names, faults, job.ordinal)
        job.truth["prompt_tokens"] = len(asked.prompt_ids)
        if self.engine.full:
            self.metrics.rejections += 1
            raise Refused(503, "the queue is full", "ServiceUnavailableError")
        write(job, asked, faults)
        return faults
