"""F3, F4, F5: what a server leaves behind when it is killed, loses when it is told to end, and keeps of clients that left."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, identical
from harness.plugin import settings_of
from harness.serve.process import ServerSpec, guardian, registry_file
from suites import controls
from suites.serve import ends, margins

pytestmark = pytest.mark.serve

KILLED = {
    "leader": "SIGKILL to the server's own process",
    "heaviest": "SIGKILL to the process that holds most memory",
    "owner": "SIGKILL to the test session",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``drained``, ``how``: the first server of each engine as it is, and with the flags that ask it to drain, where there are such."""
    if "drained" in metafunc.fixturenames:
        first = {served.engine: name for name, served in reversed(settings_of(metafunc.config).serve.items()) if served.engine}
        ours = [(name, engine) for engine, name in reversed(first.items())]
        pairs = [
            (name, how) for name, engine in ours for how in ("as it is", "draining") if how == "as it is" or engine in margins.DRAINING
        ]
        metafunc.parametrize(("drained", "how"), pairs)


# --- F3 -----------------------------------------------------------------------------------------------


def _orphans_claim(spawned: str, way: str) -> Claim:
    text = f"{margins.GONE_S:g} s after {KILLED[way]} nothing of {spawned} is left by itself: no process, no port, no shared memory"
    return Claim(f"F3.orphans[{spawned},{way}]", text, identical())


@pytest.mark.parametrize("way", ["leader", "heaviest"])
@pytest.mark.claim(each=_orphans_claim)
def test_no_kill_leaves_an_orphan(claim, bench, spawned, way, tmp_path):
    """What the server does about it: nobody helps. vLLM leaves its engine and worker, which hold memory while the port is free."""
    found = _kill(bench, spawned, way)
    claim.check(
        _exact("left", found["bare"], (bench.serving.subject(spawned),)),
        controls=[
            Control("A/A: a tree that ends with its leader", controls.HOLDS, _exact("left", _fake_kill(tmp_path, "follows")["bare"])),
            Control("planted: a member in its own session", controls.FAILS, _exact("left", _fake_kill(tmp_path, "own_session")["bare"])),
        ],
    )


def _reaped_claim(spawned: str, way: str) -> Claim:
    text = f"after {KILLED[way]} the harness leaves nothing of {spawned}: no process, no port, no shared memory"
    return Claim(f"F3.reaped[{spawned},{way}]", text, identical())


@pytest.mark.parametrize("way", list(KILLED))
@pytest.mark.claim(each=_reaped_claim)
def test_nothing_is_left_of_what_we_started(claim, bench, spawned, way, tmp_path):
    found = _kill(bench, spawned, way)
    claim.check(
        _exact("left", found["reaped"], (bench.serving.subject(spawned),)),
        controls=[
            Control("A/A: a member in its own session", controls.HOLDS, _exact("left", _fake_kill(tmp_path, "own_session")["reaped"])),
            Control("planted: a guardian that adopts nobody", controls.FAILS, _exact("left", _careless(tmp_path)["reaped"])),
        ],
    )


def _kill(bench, name: str, way: str) -> dict:
    serving = bench.serving

    def look() -> dict:
        if way == "owner":
            serving.close()
            return ends.owner_killed(_spec(bench, name), bench.logs("servers"), registry_file(), margins.GONE_S)
        with serving.fresh(name) as server:
            return ends.killed(server, way, margins.GONE_S)

    return bench.cached("ends", {**serving.inputs(name), "step": ends.STEP, "killed": way, "patience": margins.GONE_S}, look)


def _spec(bench, name: str) -> ServerSpec:
    served = bench.serving.spec(name)
    return ServerSpec(
        engine=served.engine, model=bench.path(served.subject), name=served.subject, options=dict(served.options), env=dict(served.env)
    )


def _fake_kill(folder: Path, habit: str, **member) -> dict:
    with ends.fake(folder, {"members": [{habit: True, **member}]}) as server:
        return ends.killed(server, "leader", margins.FAKE_GONE_S)


def _careless(folder: Path) -> dict:
    """The guardian with the line taken out that makes it the parent of orphans."""
    folder = folder / "careless"
    folder.mkdir(exist_ok=True)
    source = Path(guardian.__file__).read_text(encoding="utf-8")
    broken = folder / "guardian.py"
    broken.write_text(source.replace("libc.prctl(_SUBREAPER, 1", "libc.prctl(_SUBREAPER, 0"), encoding="utf-8")
    plan = {"members": [{"own_session": True}]}
    with mock.patch.object(guardian, "__file__", str(broken)), ends.fake(folder, plan) as server:
        return ends.killed(server, "leader", margins.FAKE_GONE_S)


def _exact(metric: str, rows: list[dict], subjects=(), **conditions) -> Measurement:
    samples = tuple(Sample(row["item"], float(row["good"]), detail=row) for row in rows)
    return Measurement(metric, samples, subjects, conditions)


# --- F4 -----------------------------------------------------------------------------------------------


def _drains_claim(drained: str, how: str) -> Claim:
    text = f"SIGTERM loses none of {margins.STREAMS} answers that {drained}, {how}, has begun, and it then exits with status 0"
    return Claim(f"F4.drains[{drained},{how.replace(' ', '-')}]", text, identical())


@pytest.mark.claim(each=_drains_claim)
def test_what_was_begun_is_finished(claim, bench, drained, how, tmp_path):
    found = _drain(bench, drained, how)
    claim.check(
        _exact("lost", found["lost"], (bench.serving.subject(drained),), flags=_flags(bench, drained, how)),
        controls=[
            Control("A/A: a server that drains", controls.HOLDS, _exact("lost", _fake_drain(tmp_path, drains=True)["lost"])),
            Control("planted: one that ends at once", controls.FAILS, _exact("lost", _fake_drain(tmp_path)["lost"])),
        ],
    )


def _readiness_claim(drained: str, how: str) -> Claim:
    text = f"told to end, {drained}, {how}, says that it is not ready before the last answer it has begun is over"
    return Claim(f"F4.readiness[{drained},{how.replace(' ', '-')}]", text, identical())


@pytest.mark.claim(each=_readiness_claim)
def test_readiness_goes_first(claim, bench, drained, how, tmp_path):
    found = _drain(bench, drained, how)
    lying = _fake_drain(tmp_path, drains=True, healthy=True)
    claim.check(
        _exact("readiness", found["ready"], (bench.serving.subject(drained),), flags=_flags(bench, drained, how)),
        controls=[
            Control("A/A: one that says so", controls.HOLDS, _exact("readiness", _fake_drain(tmp_path, drains=True)["ready"])),
            Control("planted: one that drains and stays healthy", controls.FAILS, _exact("readiness", lying["ready"])),
        ],
    )


def _flags(bench, name: str, how: str) -> dict:
    served = bench.serving.spec(name)
    return {**served.options, **(margins.DRAINING[served.engine] if how == "draining" else {})}


def _drain(bench, name: str, how: str) -> dict:
    flags = _flags(bench, name, how)

    def look() -> dict:
        with bench.serving.fresh(name, flags) as server:
            return ends.drained(server, margins.STREAMS, margins.STREAM_TOKENS)

    inputs = {**bench.serving.inputs(name, flags), "step": ends.STEP, "streams": margins.STREAMS, "tokens": margins.STREAM_TOKENS}
    return bench.cached("ends", inputs, look)


def _fake_drain(folder: Path, **habits) -> dict:
    with ends.fake(folder, {"gap_s": 0.05, **habits}) as server:
        return ends.drained(server, margins.STREAMS, 30, limit_s=20)


# --- F5 -----------------------------------------------------------------------------------------------


def _slot_claim(spawned: str) -> Claim:
    text = (
        f"each of {margins.LEAVERS} clients that leave in the middle of an answer frees its place in {spawned} within {margins.FREE_S:g} s"
    )
    return Claim(f"F5.slot[{spawned}]", text, at_most(margins.FREE_S), estimand="exact", min_n=margins.LEAVERS)


@pytest.mark.claim(each=_slot_claim)
def test_a_client_that_leaves_frees_its_place(claim, bench, spawned, tmp_path):
    def look() -> list[dict]:
        return ends.left(bench.serving.server(spawned), margins.LEAVERS, margins.LEAVE_AFTER, 1000, 2 * margins.FREE_S)

    inputs = {**bench.serving.inputs(spawned), "step": ends.STEP, "leavers": margins.LEAVERS, "limit": margins.FREE_S}
    rows = bench.cached("ends", inputs, look)
    claim.check(
        _seconds(rows, (bench.serving.subject(spawned),)),
        controls=[
            Control("A/A: a server that looks", controls.HOLDS, _seconds(_fake_leavers(tmp_path))),
            Control("planted: a place that is never freed", controls.FAILS, _seconds(_fake_leavers(tmp_path, leaks_slots=True))),
        ],
    )


def _fake_leavers(folder: Path, **habits) -> list[dict]:
    with ends.fake(folder, {"gap_s": 0.05, **habits}) as server:
        return ends.left(server, margins.LEAVERS, 2, 200, 0.3)


def _seconds(rows: list[dict], subjects=()) -> Measurement:
    """A place that was not freed in time is None: over any limit. A count that hardly ever rises is none: it says nothing when it is 0."""
    samples = tuple(Sample(r["item"], r["free_s"], status="ok" if r["free_s"] is not None else "error", detail=r) for r in rows)
    unseen = sum(not r["seen"] for r in rows)
    void = (f"vacuous_clients: {unseen} of {len(rows)} clients were never counted as running",) if 2 * unseen > len(rows) else ()
    return Measurement("free_s", samples, subjects, {"worst_s": max((r["free_s"] or 0.0 for r in rows), default=0.0)}, void)
