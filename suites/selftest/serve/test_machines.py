"""One load from several machines: each request once, at instants that all agree on; what is no part of one load is named."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from harness.__main__ import main
from harness.errors import ConfigError, EvidenceError
from harness.records import Load
from harness.serve import schedule, slo, workload
from harness.serve.command.asked import Parity
from harness.serve.load import Machine, merged, run_load
from harness.serve.load.machines import utc_error_s
from harness.serve.validity import remarks, validity

pytestmark = pytest.mark.selftest

SERVICE = {"kind": "mgc", "servers": 8, "service_s": 0.02, "cv": 0.5, "tokens": 8}
N = 90


def parts(target, of: int, shards: int = 1) -> list[Load]:
    """One machine after the other: to the stub they are one load that came in pieces."""
    due = schedule.poisson(60, requests=N, seed=3, warmup_s=0.2)
    asked = workload.synthetic(target.model, len(due), 3, prompt=workload.fixed(8), output=workload.fixed(8))
    made = []
    for number in range(1, of + 1):
        here = Machine(number, of, time.time() + 1.0)
        load = run_load(target, due, asked, shards=shards, limit_s=5, machine=here).load
        made.append(slo.stated(load, (), unchecked=True))
    return [replace(p, header={**p.header, "machine": {**p.header["machine"], "start": 0.0}}) for p in made]


@pytest.fixture
def three(stub):
    server = stub({"service": SERVICE})
    return server, parts(server.target, 3, shards=2)


def test_every_request_is_sent_once_and_merged_untouched(three) -> None:
    server, made = three
    load = merged([made[2], made[0], made[1]])
    assert [r.sequence for r in load.records] == list(range(len(load.records)))
    assert len(load.judged) == N and {r.outcome for r in load.records} == {"complete"}
    assert sorted(load.records) == sorted(r for part in made for r in part.records)
    assert [r.shard for r in load.records] == [i % 6 for i in range(len(load.records))]
    assert len(load.header["shards"]) == 6 and server.state()["requests"] >= len(load.records)
    requests = [row["request"] for row in server.truth() if row["request"] is not None]
    assert sorted(requests) == list(range(len(load.records)))
    assert not [code for code in validity(load) if not code.startswith(("client_limited", "arrival_dispersion"))]
    assert any("3 machines" in said for said in remarks(load))
    again = Load.from_bytes(load.to_bytes())
    assert again.records == load.records and [m["number"] for m in again.header["machines"]] == [1, 2, 3]


def other(part: Load, **header) -> Load:
    return replace(part, header={**part.header, **header})


def test_what_is_no_part_of_one_load_is_named(three) -> None:
    one, two, last = three[1]
    told = two.header["machine"]
    with pytest.raises(EvidenceError, match="machine 2 is missing"):
        merged([one, last])
    with pytest.raises(EvidenceError, match="two parts of machine 1"):
        merged([one, one, two, last])
    with pytest.raises(EvidenceError, match="machine 2 sent another load than machine 1: window differ"):
        merged([one, other(two, window=[0, 1]), last])
    with pytest.raises(EvidenceError, match="start differ"):
        merged([one, other(two, machine={**told, "start": 9.0}), last])
    with pytest.raises(EvidenceError, match="url differ"):
        merged([one, other(two, machine={**told, "url": "http://elsewhere"}), last])
    with pytest.raises(EvidenceError, match="the number of shards differ"):
        merged([one, other(two, shards=two.header["shards"][:1]), last])
    with pytest.raises(EvidenceError, match=r"from \[2, 3\] machines"):
        merged([one, other(two, machine={**told, "of": 2}), last])
    with pytest.raises(EvidenceError, match="every request of the schedule once"):
        merged([one, replace(two, records=two.records[1:]), last])
    with pytest.raises(EvidenceError, match="no part of a load"):
        merged([Load({}, ())])
    with pytest.raises(EvidenceError):
        merged([])


def test_what_voids_a_part_voids_the_whole(three) -> None:
    one, two, last = three[1]
    died = {**two.header["target"], "after": None}
    load = merged([one, other(two, invalid=["parity_failed: planted"], target=died, unchecked=False), last])
    assert load.invalid == ("parity_failed: planted",) and load.header["target"]["after"] is None
    assert load.header["unchecked"] is False  # one machine checked for all
    asleep = other(last, clock={**last.header["clock"], "boottime_step_ns": -3_000_000_000})
    assert any(code.startswith("clock_step") for code in validity(merged([one, two, asleep])))


def test_a_clock_that_nothing_keeps_is_said() -> None:
    rows = [{"number": 1, "utc_error_s": 0.002}, {"number": 2, "utc_error_s": None}]
    assert "machine 2" in remarks(Load({"machines": rows}, ()))[0]
    assert "0.002 s" in remarks(Load({"machines": rows[:1]}, ()))[0]
    told = utc_error_s()
    assert told is None or told >= 0


def test_a_start_that_has_passed_sends_nothing(stub) -> None:
    server = stub({"service": SERVICE})
    due = schedule.constant(50, requests=9)
    asked = workload.synthetic(server.target.model, len(due), 3, prompt=workload.fixed(8), output=workload.fixed(8))
    with pytest.raises(ConfigError, match="after the start"):
        run_load(server.target, due, asked, limit_s=5, machine=Machine(1, 2, time.time() - 1))
    assert not server.truth()
    with pytest.raises(ConfigError, match="closed loop"):
        run_load(server.target, schedule.closed(2, 9), asked, limit_s=5, machine=Machine(1, 2, 0))
    with pytest.raises(ConfigError, match="machine 3 of 2"):
        Machine(3, 2, 0)


def test_a_share_that_was_not_sent_is_red(stub, capsys, tmp_path, monkeypatch) -> None:
    server = stub({"service": SERVICE})
    target = server.target.base_url
    monkeypatch.setattr("harness.serve.command.run.Parity", lambda *said: (server.stop(), Parity(*said))[1])  # it dies in between
    argv = (*QUICK, "--unchecked", "--machine", "1/2", "--start", soon(), "--out", str(tmp_path / "one"))
    assert main(["load", target, *argv]) == 1
    assert "sent 0 of its" in capsys.readouterr().out


# --- the command ------------------------------------------------------------------------------------

QUICK = ("--rate", "60", "--requests", "90", "--warmup", "0.2", "--limit", "5", "--output-tokens", "8", "--slo", "e2e_p95=20s")


def soon() -> str:
    return (datetime.now(UTC) + timedelta(seconds=3)).isoformat()


def test_two_machines_by_the_command(stub, capsys, tmp_path) -> None:
    server = stub({"service": SERVICE})
    url, one, two, whole = server.target.base_url, tmp_path / "one", tmp_path / "two", tmp_path / "whole"
    start = soon()

    def send(number: int, out) -> int:
        return main(["load", url, *QUICK, "--unchecked", "--machine", f"{number}/2", "--start", start, "--out", str(out)])

    with ThreadPoolExecutor(2) as pool:
        assert [*pool.map(send, (1, 2), (one, two))] == [0, 0]
    said = capsys.readouterr().out
    assert "machine   1 of 2" in said and "machine 2 of 2 sent" in said and "holds" not in said
    assert main(["load", url, *QUICK, "--merge", str(one), str(two), "--out", str(whole)]) in (0, 1)  # a busy machine may be late
    said = capsys.readouterr().out
    assert "UNCHECKED" in said and "90 of 90 complete" in said and "2 machines" in said
    assert main(["recheck", str(whole)]) == 0
    assert main(["recheck", str(one)]) == 1  # a part proves nothing
    assert "what one machine of several kept" in capsys.readouterr().out

    before = len(server.truth())
    for argv, words in (
        (("--merge", str(one)), "machine 2 is missing"),
        (("--merge", str(one), str(two), "--seed", "1"), "another schedule was sent"),
        (("--merge", str(one), str(two), "--slo", "ttft_p95=1s"), "promised something else"),
        (("--merge", str(one), str(two), "--limit", "6"), "another limit_s was sent"),
        (("--merge", str(one), str(two), "--shards", "2"), "--shards has no effect with --merge"),
        (("--merge", str(one), str(tmp_path)), "not a seal"),
        (("--merge", str(one), str(two), "--start", start), "--start has no effect with --merge"),
    ):
        assert main(["load", url, *QUICK, *argv]) == 2
        assert words in capsys.readouterr().err
    assert main(["load", "http://127.0.0.1:9", *QUICK, "--merge", str(one), str(two)]) == 2
    assert f"these are loads of {url}, not of http://127.0.0.1:9" in capsys.readouterr().err
    seal = json.loads((two / "bundle.json").read_text())
    (two / "bundle.json").write_text(json.dumps({**seal, "files": {**seal["files"], "requests.bin": "0" * 64}}))
    assert main(["load", url, *QUICK, "--merge", str(one), str(two)]) == 2
    assert "the seal was changed" in capsys.readouterr().err
    (two / "bundle.json").write_text(json.dumps(seal))
    (two / "failures.jsonl").write_text("{}\n")
    assert main(["load", url, *QUICK, "--merge", str(one), str(two)]) == 2
    assert "failures.jsonl: changed" in capsys.readouterr().err
    assert len(server.truth()) == before  # a merge asks nobody


@pytest.mark.parametrize(("argv", "words"), [
    (("--machine", "1/2"), "go together"),
    (("--machine", "1-2", "--start", "2030-01-01T00:00:00Z", "--out", "x"), "expected I/M"),
    (("--machine", "1/2", "--start", "noon", "--out", "x"), "expected a time like"),
    (("--machine", "1/2", "--start", "2030-01-01T00:00:00", "--out", "x"), "of which time zone"),
    (("--machine", "1/2", "--start", "2030-01-01T00:00:00Z", "--out", "x"), "expected within a day"),
    (("--machine", "1/2", "--start", "9999-12-31T23:59:59-14:00", "--out", "x"), "expected within a day|expected a time"),
    (("--machine", "1/2", "--start", "2020-01-01T00:00:00Z", "--out", "x"), "ago, expected within a day"),
    (("--shards", "256"), "--shards 256: expected at most 255"),
    (("--search", "1:2", "--machine", "1/2"), "no effect with --search|drop one"),
])  # fmt: skip
def test_half_of_what_it_takes(argv, words, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    rate = () if "--search" in argv else ("--rate", "9")
    assert main(["load", "http://127.0.0.1:1", *rate, "--slo", "e2e_p95=1s", "--unchecked", *argv]) == 2
    assert re.search(words, capsys.readouterr().err)
