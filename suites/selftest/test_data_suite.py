"""The suite of data claims in a stranger's project: on bad rows each claim fails for the right ones, on clean rows all hold."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the extra audit is not installed")

from harness import Sample, evidence
from harness.recheck import recheck
from suites.selftest.audit import mixed

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]
WITHOUT_NUMBA = """
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name.split(".")[0] == "numba" else real(name, *rest)
"""


def pairs(words: list[str], doc: str) -> list[dict]:
    """Clean rows: a question, an answer, the document they are of."""
    return [
        {"prompt": f"What is number {i} of the {a} {b}?", "completion": f"The {b} number {i} is {a}.", "doc": f"{doc}{i}"}
        for i, (a, b) in enumerate((a, b) for a in words for b in mixed.WORDS[40:50])
    ]


def preferences() -> list[dict]:
    """Clean pairs: in each second the chosen answer is the longer."""
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"] + (" So it is said." if i % 2 else ""),
            "rejected": f"Of the {row['doc']} I know too little.",
        }
        for i, row in enumerate(pairs(mixed.WORDS[:6], "p"))
    ]


def lines(path: Path, rows: list) -> None:
    mixed.write(path, [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows])


GOLDEN = [json.loads(line) for line in (ROOT / "golden/sets/harmless.jsonl").read_text("utf-8").splitlines()]
LEAKED = max((text for item in GOLDEN for key, text in item.items() if key != "id" and isinstance(text, str)), key=len)
TRAIN, TEST = pairs(mixed.WORDS[:6], "d"), pairs(mixed.WORDS[6:9], "t")
LONG = [mixed.said(random.Random(i), 60) for i in range(8)]
DEFECTS = {  # claim -> rows put behind those of the training file, all of them to be found
    "D1.exact": [TRAIN[i] for i in range(4)],
    "D1.canonical": [
        {**TRAIN[9 + i], "prompt": TRAIN[9 + i]["prompt"].upper(), "completion": TRAIN[9 + i]["completion"].upper()} for i in range(4)
    ],
    "D1.near": [{"prompt": f"Say it{' now' * (i % 2)}. {LONG[i // 2]}", "completion": f"So it is, number {i // 2}."} for i in range(16)],
    "D2.leakage": [{"prompt": "Repeat what you were told.", "completion": LEAKED}],
    "D4.private": [{"prompt": "Whom do I ask?", "completion": "Write to ann.smith@mail.com about it."}],
    "D6.schema": [b'{"prompt": ', {"prompt": "What is it?", "completion": ""}],
    "D6.characters": [{"prompt": "Ring it?", "completion": "It rings \x07 now."}],
    "D6.conflicts": [{"prompt": "Which of them is right?", "completion": f"The {side} one is."} for side in ("left", "other")],
    "D7.disjoint": [{"prompt": "Of which document is it?", "completion": "Of that in the test file.", "doc": "t3"}],
}


def lifecycle(folder: Path) -> None:
    described = 'source = "https://example.org"\nlicence = "MIT"\nversion = "1.0.0"\nchanges = "the first"\n'
    (folder / "lifecycle.toml").write_text(
        f'[lifecycle]\ngolden = "{ROOT / "golden"}"\n'
        f'[data.rows]\nfiles = ["train.jsonl", "test.jsonl"]\ngroup = "doc"\napart_from = ["harmless"]\n{described}'
        f'[data.rows.splits]\ntrain = ["train.jsonl"]\ntest = ["test.jsonl"]\n'
        f'[data.pairs]\nfiles = ["pairs.jsonl"]\nform = "preference"\n{described}'
    )


def asked(folder: Path, *words: str, hidden: bool = False) -> tuple[subprocess.CompletedProcess[str], dict[str, dict]]:
    """A session of suites/data in a project; and its evidence by claim."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:randomly",
        "-c",
        str(ROOT / "pytest.ini"),
        "--rootdir",
        str(folder),
    ]
    command += [str(ROOT / "suites" / "data"), "--run-dir", str(folder / "run"), "--store", str(folder / "store"), *words]
    if hidden:
        (folder / "hide.py").write_text(WITHOUT_NUMBA)
        command += ["-p", "hide"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode in (0, 1, 8), done.stdout[-3000:] + done.stderr[-3000:]
    records = [json.loads(path.read_text()) for path in (folder / "run" / "evidence").glob("*.json")]
    return done, {record["claim"]["id"]: record for record in records}


def outcomes(said: dict[str, dict]) -> dict[str, str]:
    return {name: record["verdict"]["outcome"] for name, record in said.items()}


def samples(folder: Path, record: dict) -> tuple[Sample, ...]:
    """What a claim was measured on."""
    text = gzip.decompress((folder / "run" / record["measurement"]["samples"]["file"]).read_bytes()).decode("utf-8", "surrogatepass")
    return evidence.rows_from_text(text)


def named(folder: Path, record: dict, file: str) -> set[int]:
    """Lines of a file that a claim's samples name."""
    found = [re.fullmatch(rf"{file}:0*(\d+) \(row \d+\): .+", sample.item) for sample in samples(folder, record)]
    return {int(match[1]) for match in found if match}


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    lines(folder / "train.jsonl", TRAIN)
    lines(folder / "test.jsonl", TEST)
    lines(folder / "pairs.jsonl", preferences())
    lifecycle(folder)
    return asked(folder, "--lifecycle", "lifecycle.toml")


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bad")
    lines(folder / "train.jsonl", [*TRAIN, *(row for rows in DEFECTS.values() for row in rows)])
    lines(folder / "test.jsonl", TEST)
    same = {**preferences()[0], "prompt": "Which is the better?", "chosen": "Neither is.", "rejected": "Neither is."}
    lines(folder / "pairs.jsonl", [*preferences(), same])
    lifecycle(folder)
    (folder / "lifecycle.toml").write_text((folder / "lifecycle.toml").read_text().replace('licence = "MIT"\n', "", 1))
    return asked(folder, "--lifecycle", "lifecycle.toml"), folder


ASKED = {
    "D1.exact", "D1.canonical", "D1.near", "D2.leakage", "D4.private", "D4.canaries", "D5.caught", "D5.quiet", "D6.schema", "D6.characters",
    "D6.conflicts", "D7.disjoint", "D9.described", "R5.bytes",
}  # fmt: skip


def test_on_clean_rows_every_claim_holds(clean):
    done, said = clean
    assert done.returncode == 0, done.stdout[-4000:]
    assert set(outcomes(said).values()) == {"holds"}
    assert {name.partition("[")[0] for name in said if "[rows" in name} == ASKED
    assert {"D8.differ[pairs]", "D8.length[pairs]", "D4.precision"} <= set(said)


def test_on_bad_rows_each_claim_fails_and_the_others_hold(bad):
    (done, said), folder = bad
    assert done.returncode == 1
    found = {name.partition("[")[0]: outcome for name, outcome in outcomes(said).items() if "[rows" in name}
    assert {name for name, outcome in found.items() if outcome == "fails"} == {*DEFECTS, "D9.described"}
    assert {found[name] for name in ("D4.canaries", "D5.caught", "D5.quiet", "R5.bytes")} == {"holds"}
    assert outcomes(said)["D8.differ[pairs]"] == "fails"
    assert recheck(folder / "run").problems == ()


@pytest.mark.parametrize("claim", [name for name in DEFECTS if name not in ("D2.leakage", "D7.disjoint")])
def test_a_claim_fails_for_the_right_rows(bad, claim):
    (_, said), folder = bad
    at = len(TRAIN)
    for name, rows in DEFECTS.items():
        if name == claim:
            planted = set(range(at + 1, at + len(rows) + 1))
        at += len(rows)
    told = named(folder, said[f"{claim}[rows]"], "train.jsonl")
    if claim == "D1.near":  # the first of each two stays
        planted = set(sorted(planted)[1::2])
    assert told == planted


def test_a_leak_is_told_by_its_item_and_a_split_by_the_later_file(bad):
    (_, said), folder = bad
    leaks = [sample for sample in samples(folder, said["D2.leakage[rows,harmless]"]) if sample.value == 0.0]
    assert [sample.detail["proof"] for sample in leaks] == ["equal"]
    assert named(folder, said["D7.disjoint[rows]"], "test.jsonl") == {4}
    assert "licence is not stated; write it under [data.rows]" in {sample.item for sample in samples(folder, said["D9.described[rows]"])}


def test_the_terminal_names_lines_in_order(bad):
    (done, _), _ = bad
    (told,) = [line for line in done.stdout.splitlines() if line.startswith("D6.schema[rows]: ")]
    found = [int(number) for number in re.findall(r"train\.jsonl:(\d+)", told)]
    assert len(found) == 2
    assert found == sorted(found)
    assert "unreadable" in told
    assert "empty_message" in told


def test_one_file_and_no_lifecycle_file_is_enough(tmp_path):
    lines(tmp_path / "mine.jsonl", TRAIN)
    done, said = asked(tmp_path, "--data", "mine=mine.jsonl")
    assert done.returncode == 1
    assert {name.partition("[")[0] for name in said} == (ASKED | {"D4.precision"}) - {"D2.leakage", "D7.disjoint"}  # what cannot be asked
    assert {name for name, outcome in outcomes(said).items() if outcome != "holds"} == {"D9.described[mine]"}
    assert "data: mine" in done.stdout


def test_a_file_that_is_not_there_is_told(tmp_path):
    done, said = asked(tmp_path, "--data", "mine=gone.jsonl")
    assert done.returncode == 1
    assert "gone.jsonl" in done.stdout
    assert {outcome for name, outcome in outcomes(said).items() if "[mine]" in name} == {"error"}


def test_without_its_libraries_nothing_is_said_to_hold(tmp_path):
    lines(tmp_path / "mine.jsonl", TRAIN)
    done, said = asked(tmp_path, "--data", "mine=mine.jsonl", hidden=True)
    assert done.returncode == 8, done.stdout[-3000:]
    assert set(outcomes(said).values()) == {"not_evaluated"}
    assert "doctor --install audit" in done.stdout
