"""``python -m harness load``: exit status, what is printed, what is refused before anything is sent, and evidence that rechecks."""

from __future__ import annotations

import argparse
import json

import pytest

from harness.__main__ import main
from harness.errors import ConfigError, MissingNeed
from harness.serve import command, command_asked, command_table
from harness.serve.schedule import Schedule

pytestmark = pytest.mark.selftest

SERVICE = {"kind": "mgc", "servers": 8, "service_s": 0.02, "cv": 0.5, "tokens": 8}
QUICK = ("--rate", "80", "--requests", "120", "--warmup", "0.2", "--limit", "2", "--output-tokens", "8")
SLO = ("--slo", "ttft_p95=10s", "--slo", "e2e_p95=20s")  # a busy machine may be late by a hundredth of it


def load(target, *argv: str) -> int:
    return main(["load", target.base_url, *argv])


def asked(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_parser(parser.add_subparsers())
    return parser.parse_args(["load", "http://127.0.0.1:1", *argv])


def test_a_server_that_keeps_its_limits(stub, capsys, tmp_path) -> None:
    server = stub({"service": SERVICE})
    out = tmp_path / "run"
    assert load(server.target, *QUICK, *SLO, "--goodput", ".95", "--unchecked", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "120 requests in " in said and "plan      ttft_p95: n = 120; below 59 nothing can hold" in said
    for row in ("ttft_p95", "e2e_p95", "goodput"):
        assert any(line.split()[:1] == [row] and "holds" in line for line in said.splitlines()), said
    assert "120 of 120 complete" in said
    assert command_table.UNCHECKED in said
    assert main(["recheck", str(out)]) == 0
    assert "3 verdicts derived again (3 holds)" in capsys.readouterr().out
    assert load(server.target, *QUICK, *SLO, "--unchecked", "--out", str(out)) == 2  # evidence is never mixed


def test_a_server_nobody_checked_holds_nothing(stub, capsys) -> None:
    assert load(stub({"service": SERVICE}).target, *QUICK, *SLO, "--json") == 1
    record = json.loads(capsys.readouterr().out)
    assert {v["reason"] for v in record["verdicts"].values()} == {"parity_missing"}
    assert (record["exit_status"], record["unchecked"], [p["least"] for p in record["plan"]]) == (1, False, [59, 59])
    assert record["header"]["slo"] == {"ttft_p95": "10s", "e2e_p95": "20s"}


def test_a_server_that_fails_says_of_what(stub, capsys) -> None:
    server = stub({"service": SERVICE, "faults": [{"what": "error_frame", "after_frame": 2, "when": {"p": 0.3}}]})
    assert load(server.target, *QUICK, *SLO, "--unchecked") == 1
    said = capsys.readouterr().out
    assert "error_frame" in said and "fails" in said and "first failure: request" in said


def test_too_few_requests_are_refused_before_the_first(stub, capsys) -> None:
    server = stub({"service": SERVICE})
    assert load(server.target, "--rate", "80", "--slo", "ttft_p99=1s", "--requests", "298", "--unchecked", "--warmup", "0.1") == 1
    assert "inconclusive (min_n): n = 298 requests can show nothing, 299 are the least" in capsys.readouterr().out
    assert server.state()["requests"] == 0


def test_throughput_of_a_closed_loop(stub, capsys) -> None:
    argv = ("--arrivals", "closed:4", "--requests", "400", "--output-tokens", "8", "--tokens-per-second", "1", "--unchecked", "--json")
    status = load(stub({"service": SERVICE}).target, *argv)
    verdict = json.loads(capsys.readouterr().out)["verdicts"]["L2.tokens[server]"]
    assert (status, verdict["outcome"]) in ((0, "holds"), (1, "inconclusive"))
    assert verdict["outcome"] == "holds" or verdict["reason"] in ("too_short", "skewed"), verdict
    assert verdict["estimate"] is None or verdict["estimate"] > 100


def test_the_largest_rate(stub, capsys) -> None:
    argv = ("--search", "50:58", "--slo", "e2e_p90=10s", "--requests", "60", "--warmup", "0.1", "--limit", "2", "--unchecked", "--json")
    status = load(stub({"service": SERVICE}).target, *argv, "--output-tokens", "8")
    found = json.loads(capsys.readouterr().out)
    assert (status, found["outcome"]) in ((0, "holds"), (1, "inconclusive"))
    assert found["requests"] == sum(p["n"] for p in found["probes"])
    assert found["rate"] is None or 50 <= found["rate"] <= 62


@pytest.mark.parametrize(("argv", "words"), [
    (("--rate", "1"), "nothing is claimed"),
    (("--slo", "ttft_p95=1s"), "needs --rate"),
    (("--slo", "ttft_p95"), "expected NAME=LIMIT"),
    (("--slo", "ttft_p95=nan", "--rate", "1"), "bound_invalid"),
    (("--slo", "tfft_p95=1s", "--rate", "1"), "no metric|did you mean|ttft"),
    (("--slo", "ttft_p95=1s", "--slo", "ttft_p95=2s", "--rate", "1"), "given twice"),
    (("--goodput", ".9", "--rate", "1"), "beside at least one --slo"),
    (("--slo", "ttft_p95=1s", "--goodput", "1", "--rate", "1"), "expected a share"),
    (("--slo", "ttft_p95=1s", "--arrivals", "closed:4"), "no limit at a rate"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--tokens-per-second", "0"), "above 0"),
])  # fmt: skip
def test_a_command_line_that_asks_for_nothing_that_can_be_decided(stub, capsys, argv, words: str) -> None:
    import re

    assert load(stub({}).target, *argv) == 2
    assert re.search(words, capsys.readouterr().err)


@pytest.mark.parametrize("arrivals", ["gamma", "gamma:x", "closed:", "ramp:1:2", "weibull", "trace:nowhere", "gamma:1:2"])
def test_arrivals_that_cannot_be_read(arrivals: str) -> None:
    args = asked("--rate", "5", "--arrivals", arrivals)
    with pytest.raises(ConfigError):
        command_asked.schedule(args, 5.0, 100, 0)


def test_every_kind_of_arrivals(tmp_path) -> None:
    times = tmp_path / "times"
    times.write_text("10.0\n10.5\n12\n", encoding="utf-8")

    def made(*argv: str) -> Schedule:
        args = asked("--rate", "5", "--warmup", "1", *argv)
        return command_asked.schedule(args, args.rate, 100, 7)

    assert [len(made("--arrivals", kind).judged) for kind in ("poisson", "constant", "gamma:0.5")] == [100] * 3
    assert made("--arrivals", "closed:4").concurrency == 4
    assert made("--arrivals", f"trace:{times}").arrivals == (0, 500_000_000, 2_000_000_000)
    assert made("--arrivals", "ramp:5:20", "--seconds", "10").kind == "ramp"
    assert made("--seconds", "10").window == (10**9, 11 * 10**9)
    assert made() == made()
    assert command_asked.schedule(asked("--rate", "20"), 20.0, 100, 0).window[0] == 30 * 10**9
    assert command_asked.schedule(asked("--rate", "2"), 2.0, 100, 0).window[0] == 64 * 10**9


def test_prompts_of_a_file(tmp_path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "one"}\n\n{"messages": [{"role": "user", "content": "two"}]}\n', encoding="utf-8")
    args = asked("--rate", "5", "--warmup", "0", "--prompts", str(file), "--no-stream")
    due = command_asked.schedule(args, 5.0, 10, 0)
    work = command_asked.workload(args, due, "m", 0)
    assert {json.loads(body)["messages"][0]["content"] for body in work.bodies} == {"one", "two"}
    assert not work.stream
    for text, error in (('{"question": 1}\n', ConfigError), ("nonsense\n", ConfigError), ("\n", MissingNeed)):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(error):
            command_asked.workload(args, due, "m", 0)


def test_who_is_not_there_or_somebody_else(stub, capsys) -> None:
    argv = ("--rate", "1", "--slo", "ttft_p95=1s", "--unchecked")
    assert main(["load", "http://127.0.0.1:1", *argv]) == 8
    assert "not evaluated (server)" in capsys.readouterr().err
    assert load(stub({}).target, *argv, "--model", "other") == 8
    assert "not evaluated (wrong_server)" in capsys.readouterr().err
    assert load(stub({"names": ["a\x1b[2Jb"]}).target, *argv) == 2
    assert "\x1b" not in capsys.readouterr().err


def test_parity_and_unchecked_exclude_each_other(stub, capsys, tmp_path) -> None:
    argv = (*QUICK, *SLO, "--unchecked", "--parity", str(tmp_path))
    assert load(stub({"service": SERVICE}).target, *argv) == 2
    assert "one of them" in capsys.readouterr().err
