"""Servers of the lifecycle file: started when first asked, held against their reference, loaded; what came of it is kept.

A load is kept by what shaped it: what is served, by which engine with which flags, on which machine, the schedule and the
workload to the byte. A second run with nothing changed starts no server. Each load carries the parity of the boot it
was taken on, before its first request and after its last: a fast answer of a wrong server is no answer.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness import evals, provenance
from harness.config import Served
from harness.engines import open_engine, versions
from harness.errors import ConfigError, EngineError, MissingNeed, nearest
from harness.golden import GoldenSet
from harness.lifecycle.subjects import RECIPE
from harness.records import Load
from harness.serve import parity, schedule, telemetry, workload
from harness.serve.load import Ran, run_load
from harness.serve.parity import hearing
from harness.serve.parity.expected import Expected, Said, Tolerance, by_reference
from harness.serve.process import Attached, Server, ServerDied, ServerSpec, attach, commands
from harness.serve.target import Target
from harness.store import digest_json
from harness.types import Engine, Prompt, Sampling, Subject

if TYPE_CHECKING:
    from harness.lifecycle import Workbench

__all__ = ["Kept", "Serving", "voided"]

T = TypeVar("T")

_GUARD = 8  # prompts that a boot is held against its reference with; the claims V4 ask more
_WARMUP_S = 30.0  # of arrivals before the window
_KEPT = 64  # texts of a load that are kept and held against the answers alone: 0 wrong of 59 bound their share by 5%


@dataclass(frozen=True, slots=True)
class Kept:
    """A load as it is kept: a record of each request, the texts of golden ones by sequence number, those that failed, what the
    server said of itself meanwhile (rows of ``telemetry.timeline``), and how it was started."""

    load: Load
    golden: Mapping[int, str]
    failures: tuple[Mapping[str, Any], ...]
    timeline: tuple[Mapping[str, Any], ...]
    server: Mapping[str, Any]


class Serving:
    """The servers of one workbench. ``options`` are flags in place of those of the lifecycle file; None: as it says."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench
        self._running: dict[str, Server | Attached] = {}
        self._parity: dict[Server | Attached, parity.Guard] = {}

    # --- what is served -----------------------------------------------------------------------

    @property
    def names(self) -> tuple[str, ...]:
        """All of ``[serve]``, in the order of the file."""
        return tuple(self._bench.settings.serve)

    def spec(self, name: str) -> Served:
        """What the lifecycle file says of a server; ConfigError if it names none of that name."""
        known = self._bench.settings.serve
        if name not in known:
            raise ConfigError(f"no [serve.{name}] in {self._bench.settings.path}; {nearest(name, list(known))}")
        return known[name]

    def subject(self, name: str) -> Subject:
        """What is served; of a server that runs already its address, since nobody can tell what it holds."""
        served = self.spec(name)
        if served.engine:
            return self._bench.subject(served.subject)
        return Subject(name, "http", served.url, digest_json([served.url, self._bench.session]))

    def inputs(self, name: str, options: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Everything that shapes what is measured of it; of a server that runs already nothing outlives the session."""
        served = self.spec(name)
        shaped = {"recipe": RECIPE, "subject": self.subject(name).digest, "machine": provenance.machine()}
        if not served.engine:
            return {**shaped, "url": served.url, "session": self._bench.session}
        flags = {**served.options} if options is None else {**options}
        return {**shaped, "engine": served.engine, "versions": commands.versions(served.engine), "options": flags, "env": {**served.env}}

    # --- processes ----------------------------------------------------------------------------

    def server(self, name: str, options: Mapping[str, str] | None = None, *, beside: bool = False) -> Server | Attached:
        """The running server, started first if need be. Only one is kept, unless it is to run ``beside`` the others."""
        key = digest_json(self.inputs(name, options))
        found = self._running.get(key)
        if found is not None and found.alive:
            return found
        if not beside:
            self.close()
        self._running[key] = self._start(name, options)
        return self._running[key]

    @contextlib.contextmanager
    def fresh(self, name: str, options: Mapping[str, str] | None = None) -> Iterator[Server]:
        """A server of one's own, to be killed; the others are stopped first. MissingNeed for one that is not ours to kill."""
        if not self.spec(name).engine:
            raise MissingNeed(
                "own-server", f"[serve.{name}] is a server that runs already and is never touched", "engine = 'vllm' with subject"
            )
        self.close()
        started = self._start(name, options)
        assert isinstance(started, Server)  # has an engine
        try:
            yield started
        finally:
            started.stop()

    def _start(self, name: str, options: Mapping[str, str] | None) -> Server | Attached:
        served = self.spec(name)
        if not served.engine:
            try:
                return attach(served.url)
            except EngineError as error:
                raise MissingNeed("server", str(error), f"start it, or mend url in [serve.{name}]") from error
        self._bench.close_engines()  # a model in this process would take memory and cores from the server
        flags = served.options if options is None else options
        spec = ServerSpec(engine=served.engine, model=self._bench.path(served.subject), name=served.subject, options=flags, env=served.env)
        self._bench.progress(f"starting {name}", 0, 1)
        logs = self._bench.logs("servers")
        try:
            started = Server.start(spec, logs)
        except ServerDied as error:  # nothing was measured, so nothing is said of it
            raise MissingNeed(
                "server_died", str(error), f"its log in {logs.name}/, the flags and the environment of [serve.{name}]"
            ) from error
        self._bench.progress(f"starting {name}", 1, 1)
        return started

    def target(self, name: str, options: Mapping[str, str] | None = None) -> Target:
        """Where its requests go; started first if need be."""
        return self.server(name, options).target

    def close(self) -> None:
        """Stops every server that is ours."""
        while self._running:
            self._running.popitem()[1].stop()

    # --- parity -------------------------------------------------------------------------------

    def prompts(self, name: str, n: int = 0) -> list[Prompt]:
        """The first ``n`` questions of its golden set by digest of their ids; 0: all of this tier."""
        ordered = sorted(evals.prompts(self._golden(name)), key=lambda prompt: digest_json(prompt.id))
        return ordered[: n or None]

    def sampling(self, name: str) -> Sampling:
        """How they are answered: greedily, with the room that the kind of the set asks for."""
        return evals.sampling(self._golden(name))

    def _golden(self, name: str) -> GoldenSet:
        if not self.spec(name).set:
            raise MissingNeed("golden", f"[serve.{name}] names no prompts to ask", f"set = 'NAME OF A GOLDEN SET' in [serve.{name}]")
        return self._bench.golden(self.spec(name).set)

    def reference(self, name: str) -> Engine:
        """transformers on the checkpoint that is served, or that the served file was converted from; to be closed by the caller.

        MissingNeed where nobody knows it.
        """
        return open_engine("hf", self._bench.path(self.checkpoint(name)), dtype="float32")

    def checkpoint(self, name: str) -> str:
        """The subject in transformers that a server's weights are, or were converted from. MissingNeed where nobody knows it."""
        served = self.spec(name)
        if not served.subject:
            how = f"subject = '...' in [serve.{name}]: the files that the server was started with"
            raise MissingNeed("reference", f"nobody knows what {served.url} serves", how)
        return self._bench.converted_from(served.subject) if served.engine == "llamacpp" else served.subject

    def expected(self, name: str, prompts: Sequence[Prompt]) -> tuple[list[Expected], Tolerance]:
        """What the reference says to ``prompts``, token for token, and how much its own rounding moves it. Kept."""
        source, sampling = self.checkpoint(name), self.sampling(name)
        said = {**asdict(sampling), "stop": list(sampling.stop)}
        inputs = {
            "subject": self._bench.subject(source).digest, "versions": versions("hf"), "sampling": said, "dtypes": ["float32", "bfloat16"],
            "prompts": [asdict(prompt) for prompt in prompts],
        }  # fmt: skip

        def ask() -> dict[str, Any]:
            rows, allowed = by_reference(self._bench.path(source), prompts, sampling)
            return {"exact": [asdict(row) for row in rows], "allowed": allowed._asdict()}

        kept = self._bench.cached("expected", inputs, ask)
        return [Expected.of(row) for row in kept["exact"]], Tolerance(**kept["allowed"])

    def heard(self, name: str, prompts: Sequence[Prompt], options: Mapping[str, str] | None = None) -> list[Said]:
        """What the server says to ``prompts``, one after the other, and of the reference's answers to them. Kept."""
        said, _ = self.expected(name, prompts)
        inputs = {**self.inputs(name, options), "prompts": [asdict(p) for p in prompts], "sampling": self.sampling(name).max_tokens}

        def ask() -> list[dict[str, Any]]:
            rows = hearing.hear(self.target(name, options), said, max_tokens=self.sampling(name).max_tokens)
            return [asdict(row) for row in rows]

        return [Said.of(row) for row in self._bench.cached("heard", inputs, ask)]

    def guard(self, name: str, options: Mapping[str, str] | None = None, *, again: bool = False) -> parity.Guard:
        """Whether this very boot is the model: what it says to a few prompts, asked once a boot, or once more."""
        boot = self.server(name, options)
        if boot not in self._parity or again:
            try:
                wanted, allowed = self.expected(name, self.prompts(name, _GUARD))
            except MissingNeed as missing:
                self._parity[boot] = parity.Guard(False, "parity_missing", str(missing))
            else:
                said = hearing.hear(self.target(name, options), wanted, max_tokens=self.sampling(name).max_tokens)
                self._parity[boot] = parity.guard(wanted, said, allowed)
        return self._parity[boot]

    def guarded(self, name: str, run: Callable[[], T], options: Mapping[str, str] | None = None) -> tuple[T, tuple[parity.Guard, ...]]:
        """What ``run`` made, and the parity of this boot before it and after; of a server that died meanwhile only before."""
        server, before = self.server(name, options), self.guard(name, options)
        made = run()
        return made, (before, self.guard(name, options, again=True) if server.alive else before)

    # --- load ---------------------------------------------------------------------------------

    def promised(self, name: str, *, rerun: int = 0) -> Kept:
        """The load that the lifecycle file promises something of: golden prompts as a Poisson stream at its rate; ``rerun`` 1, 2
        ... the same schedule once more."""
        served = self.spec(name)
        self.checkpoint(name)  # who cannot say what is served need not load it
        n = self._bench.tier.load(served.requests)
        due = schedule.sound(
            lambda seed: schedule.poisson(served.rate, requests=n, seed=seed, warmup_s=_WARMUP_S, cooldown_s=5 / served.rate), 0
        )
        model, room = served.subject if served.engine else self.target(name).model, self.sampling(name).max_tokens
        share = min(1.0, _KEPT / n)
        asked = workload.golden_prompts(
            self.prompts(name), model, len(due.arrivals), 0, max_tokens=room, judged=due.judged, golden_share=share
        )
        return self.load(name, due, asked, rerun=rerun)

    def load(
        self, name: str, due: schedule.Schedule, asked: workload.Workload, *, options: Mapping[str, str] | None = None, shards: int = 1,
        limit_s: float | None = None, rerun: int = 0, beside: bool = False,
    ) -> Kept:  # fmt: skip
        """A load of the server, kept by all that shaped it. Void (``load.invalid``) where its boot failed parity before or after.

        MissingNeed("quiet-machine") where several test workers share the machine: such a timing proves nothing.
        """
        served = self.spec(name)
        wait = limit_s or max((each.limit for each in served.slo), default=50.0) + 10.0
        inputs = {
            **self.inputs(name, options),
            "schedule": due.digest,
            "workload": asked.digest,
            "shards": shards,
            "limit_s": wait,
            "rerun": rerun,
        }
        self._bench.needs_quiet("loads", inputs)
        slo = {each.name: f"{each.limit:.9g}s" for each in served.slo}

        def make(folder: Path) -> None:
            server = self.server(name, options, beside=beside)

            def run() -> tuple[Ran, telemetry.Watch]:
                with telemetry.Watch(server.target, pids=server.pids) as watch:
                    return run_load(server.target, due, asked, shards=shards, limit_s=wait, progress=self._showing(name)), watch

            (ran, watch), guards = self.guarded(name, run, options)
            void = list(dict.fromkeys([*ran.load.invalid, *voided(guards)]))
            load = Load({**ran.load.header, "slo": slo, "invalid": void}, ran.load.records)
            (folder / "requests.bin").write_bytes(load.to_bytes())
            rows = telemetry.timeline(watch.scrapes, int(load.header["origin_ns"]))
            facts = {**server.describe(), "parity": [guard.sentence for guard in guards]}
            _write(folder, golden=ran.golden, failures=ran.failures, timeline=rows, server=facts)

        return _read(self._bench.store.make("loads", inputs, make).path)

    def _showing(self, name: str) -> Callable[[str, int, int], None]:
        return lambda task, done, total: self._bench.progress(f"{task} on {name}", done, total)


def voided(guards: Sequence[parity.Guard]) -> list[str]:
    """Why a measurement between them says nothing."""
    return list(dict.fromkeys(str(guard) for guard in guards if not guard.holds))


def _write(folder: Path, **parts: Any) -> None:
    for part, value in parts.items():
        (folder / f"{part}.json").write_text(json.dumps(value, ensure_ascii=False, allow_nan=False), encoding="utf-8")


def _read(folder: Path) -> Kept:
    golden, failures, rows, server = (
        json.loads((folder / f"{part}.json").read_text("utf-8")) for part in ("golden", "failures", "timeline", "server")
    )
    load = Load.from_bytes((folder / "requests.bin").read_bytes())
    return Kept(load, {int(key): text for key, text in golden.items()}, tuple(failures), tuple(rows), server)
