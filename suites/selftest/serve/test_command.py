"""``python -m harness load``: exit status, what is printed, what is refused before anything is sent, and evidence that rechecks."""

from __future__ import annotations

import argparse
import json

import pytest

from harness.__main__ import main
from harness.errors import ConfigError, MissingNeed
from harness.serve import command, parity
from harness.serve.command import asked as command_asked
from harness.serve.command import table as command_table
from harness.serve.parity import hearing
from harness.serve.schedule import Schedule
from suites.selftest.serve.double import Double

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
    for attempt in range(5):  # on a busy machine a run may not be steady, or its neighbours too alike: nothing is shown
        out = tmp_path / f"run-{attempt}"
        status = load(server.target, *QUICK, *SLO, "--goodput", ".95", "--unchecked", "--out", str(out))
        said = capsys.readouterr().out
        if status == 0:
            break
        assert "inconclusive" in said and "fails" not in said, said
    assert status == 0
    assert "120 requests in " in said and "plan      ttft_p95: n = 120; below 59 nothing can hold" in said
    for row in ("ttft_p95", "e2e_p95", "goodput"):
        assert any(line.split()[:1] == [row] and "holds" in line for line in said.splitlines()), said
    assert "120 of 120 complete" in said
    assert command_table.UNCHECKED in said
    assert main(["recheck", str(out)]) == 0
    assert "3 verdicts derived again (3 holds)" in capsys.readouterr().out
    assert load(server.target, *QUICK, *SLO, "--unchecked", "--out", str(out)) == 2  # evidence is never mixed


def test_two_commands_do_not_write_into_one_folder(stub, capsys, tmp_path) -> None:
    out = tmp_path / "run"

    def another(*_, **__):
        assert load(server.target, *QUICK, *SLO, "--unchecked", "--out", str(out)) == 2
        return {"status": 200, "models": ["stub"]}

    server = stub({"service": SERVICE})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("harness.serve.command.asked.identity", another)
        assert load(server.target, *QUICK, *SLO, "--unchecked", "--out", str(out)) in (0, 1)
    assert "not an empty folder" in capsys.readouterr().err
    assert main(["recheck", str(out)]) == 0 and not (out / ".writing").exists()


def test_a_server_nobody_would_check_is_not_even_asked(stub, capsys) -> None:
    server = stub({"service": SERVICE})
    assert load(server.target, *QUICK, *SLO, "--json") == 2
    said = capsys.readouterr()
    assert "--parity FOLDER" in said.err and "--unchecked" in said.err and not said.out
    assert server.state()["requests"] == 0


def test_everything_as_json(stub, capsys) -> None:
    status = load(stub({"service": SERVICE}).target, *QUICK, *SLO, "--unchecked", "--json")
    record = json.loads(capsys.readouterr().out)
    outcomes = {v["outcome"] for v in record["verdicts"].values()}  # on a busy machine neighbours may be too alike
    assert outcomes == {"holds"} if status == 0 else "inconclusive" in outcomes <= {"holds", "inconclusive"}
    assert (record["exit_status"], record["unchecked"], [p["least"] for p in record["plan"]]) == (status, True, [59, 59])
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
    (("--slo", "ttft_p99.99999999999=1s", "--rate", "1"), "to p99.9999"),
    (("--slo", "ttft_p95=３00ms", "--rate", "1"), "bound_invalid"),
    (("--slo", "tfft_p95=1s", "--rate", "1"), "no metric|did you mean|ttft"),
    (("--slo", "ttft_p95=1s", "--slo", "ttft_p95=2s", "--rate", "1"), "given twice"),
    (("--goodput", ".9", "--rate", "1"), "beside at least one --slo"),
    (("--slo", "ttft_p95=1s", "--goodput", "1", "--rate", "1"), "expected a share"),
    (("--slo", "ttft_p95=1s", "--arrivals", "closed:4"), "no limit at a rate"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--tokens-per-second", "0"), "above 0"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--no-stream"), "comes in one piece"),
    (("--slo", "tpot_p95=1s", "--rate", "1", "--no-stream"), "comes in one piece"),
    (("--slo", "gap_p95=1s", "--rate", "1", "--output-tokens", "1"), "no second token"),
    (("--slo", "tpot_p95=1s", "--rate", "1", "--output-tokens", "1"), "no second token"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--requests", "0"), "--requests 0: expected at least 1"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--shards", "0"), "--shards 0"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--output-tokens", "0"), "--output-tokens 0"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--limit", "inf"), "--limit inf"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--seconds", "nan"), "--seconds nan"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--seconds", "9", "--requests", "9"), "--requests has no effect with --seconds"),
    (("--slo", "ttft_p95=1s", "--rate", "1", "--replay", "log"), "--rate has no effect with --replay"),
    (("--slo", "ttft_p95=1s", "--warmup", "1", "--replay", "log"), "--warmup has no effect with --replay"),
    (("--slo", "ttft_p95=1s", "--arrivals", "constant", "--replay", "log"), "arrivals of its own"),
    (("--slo", "ttft_p95=1s", "--requests", "9", "--arrivals", "trace:t"), "--requests has no effect with --arrivals trace"),
    (("--tokens-per-second", "1", "--rate", "9", "--arrivals", "closed:4"), "--rate has no effect with --arrivals closed"),
    (("--tokens-per-second", "1", "--warmup", "9", "--arrivals", "closed:4"), "--warmup has no effect with --arrivals closed"),
    (("--tokens-per-second", "1", "--arrivals", "closed:2.5"), "a whole number"),
    (("--tokens-per-second", "1", "--arrivals", "closed:1e300"), "a whole number"),
    (("--slo", "ttft_p95=1s", "--rate", "1e-9", "--requests", "99"), "a week"),
    (("--slo", "ttft_p95=1s", "--rate", "9", "--search", "1:2"), "--rate has no effect with --search"),
])  # fmt: skip
def test_a_command_line_that_asks_for_nothing_that_can_be_decided(stub, capsys, argv, words: str) -> None:
    import re

    server = stub({})
    assert load(server.target, *argv, "--unchecked") == 2
    assert re.search(words, capsys.readouterr().err)
    assert server.state()["requests"] == 0


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
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(MissingNeed):
        command_asked.workload(args, due, "m", 0)


DEEP = "[" * 200_000
NOT_TEXT = (
    '{"prompt": null}', '{"prompt": ""}', '{"prompt": 3}', '{"prompt": ["a"]}', '{"messages": []}', '{"messages": {}}',
    '{"messages": ["a"]}',
    '{"messages": [{"role": "user"}]}', '{"messages": [{"role": "user", "content": ""}]}', '{"messages": [{"content": "a"}]}',
    '{"messages": [{"role": "user", "content": null}]}', f'{{"prompt": {DEEP}',
)  # fmt: skip


@pytest.mark.parametrize(
    "line", ['{"question": 1}', "nonsense", "[]", "3", '{"messages": [{"role": "user", "content": ["a"]}]}', *NOT_TEXT]
)
def test_a_prompt_that_is_no_text(tmp_path, line: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"prompt": "one"}\n' + line + "\n", encoding="utf-8")
    args = asked("--rate", "5", "--warmup", "0", "--prompts", str(file))
    with pytest.raises(ConfigError, match=r"p\.jsonl: line 2: "):
        command_asked.workload(args, command_asked.schedule(args, 5.0, 10, 0), "m", 0)


@pytest.mark.parametrize("body", [line for line in NOT_TEXT if '["a"]}' not in line or "messages" in line])
def test_a_recorded_request_that_asks_for_nothing(body: str) -> None:
    from harness.serve.workload import replay

    with pytest.raises(ConfigError, match="workload replay: line 1: "):
        replay([f'{{"timestamp": 1, "body": {body}}}'], "m")


def test_a_recorded_request_may_hold_what_the_protocol_allows() -> None:
    from harness.serve.workload import replay

    parts = {"role": "user", "content": [{"type": "text", "text": "a"}]}
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    assert len(replay([json.dumps({"timestamp": 1, "body": {"messages": [parts, called]}})], "m")[1]) == 1
    assert len(replay([json.dumps({"timestamp": 1, "body": {"prompt": [1, 2, 3]}})], "m")[1]) == 1


@pytest.mark.parametrize(("lines", "words"), [
    ("1\n-3\n", "line 2: '-3', expected a finite number"), ("0\n1e400\n", "line 2: '1e400'"), ("nan\n", "line 1: 'nan'"),
    ("0\n\nx\n", "line 3: 'x'"), ("0\n1e300\n", "a week"), ("0\n1700000000000\n", "a week"), ("", "no timestamps"),
    ("2\n1\n", "sort the log"),
])  # fmt: skip
def test_times_that_no_run_can_follow(tmp_path, lines: str, words: str) -> None:
    file = tmp_path / "times"
    file.write_text(lines, encoding="utf-8")
    with pytest.raises(ConfigError, match=words) as found:
        command_asked.schedule(asked("--arrivals", f"trace:{file}"), None, 1, 0)
    assert str(file) in str(found.value)


def test_who_is_not_there_or_somebody_else(stub, capsys) -> None:
    argv = ("--rate", "1", "--slo", "ttft_p95=1s", "--unchecked")
    assert main(["load", "http://127.0.0.1:1", *argv]) == 8
    assert "not evaluated (server)" in capsys.readouterr().err
    assert load(stub({}).target, *argv, "--model", "other") == 8
    assert "not evaluated (wrong_server)" in capsys.readouterr().err
    assert load(stub({"names": ["a\x1b[2Jb"]}).target, *argv) == 2  # two models, and nobody says which
    assert "\x1b" not in capsys.readouterr().err


def test_parity_and_unchecked_exclude_each_other(stub, capsys, tmp_path) -> None:
    argv = (*QUICK, *SLO, "--unchecked", "--parity", str(tmp_path))
    assert load(stub({"service": SERVICE}).target, *argv) == 2
    assert "one of them" in capsys.readouterr().err


@pytest.fixture
def reference(monkeypatch):
    """A double in place of transformers: it knows what the stub says; the stub knows the ids that it was shown."""

    def before(target) -> None:
        def along(_folder, prompts, sampling):
            exact, rounded = Double(), Double(off=0.002, gap=1.4)
            answers = exact.generate(prompts, sampling=sampling)
            rows = parity.along(exact, prompts, answers)
            for row in rows:
                hearing._tokens(target, exact.render(row.messages) + row.text, special=False)
            return rows, parity.tolerance(rows, parity.along(rounded, prompts, answers))

        monkeypatch.setattr("harness.serve.parity.expected.by_reference", along)

    return before


def test_parity_says_by_which_numbers_it_holds_before_and_after(stub, reference, capsys, tmp_path) -> None:
    target = stub({"service": SERVICE}).target
    reference(target)
    assert load(target, *QUICK, *SLO, "--parity", str(tmp_path)) in (0, 1)  # a busy machine may be late
    said = capsys.readouterr().out
    assert said.count("parity    8 prompts: ids equal, 0.00 of the tolerance") == 2 and "UNCHECKED" not in said


def test_a_server_that_says_something_else_is_no_fast_server(stub, reference, capsys, tmp_path) -> None:
    target = stub({"service": SERVICE, "faults": [{"what": "wrong_tokens"}]}).target
    reference(target)
    assert load(target, *QUICK, *SLO, "--parity", str(tmp_path)) == 1
    said = capsys.readouterr().out
    assert "parity_failed" in said and "8 of 8 greedy answers" in said
    assert "parity    " not in said and "holds" not in said.partition("verdict")[2]
