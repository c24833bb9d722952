"""``python -m harness data``: what a user types, reads and gets back as exit status."""

from __future__ import annotations

import importlib.util
import json

import pytest

from harness.__main__ import main
from suites.selftest.audit import mixed

pytestmark = pytest.mark.selftest

CLEAN = [
    json.dumps({"prompt": f"What is number {i} of the {a} {b}?", "completion": f"The {b} number {i} is {a}."}).encode()
    for i, (a, b) in enumerate((a, b) for a in mixed.WORDS[:6] for b in mixed.WORDS[40:50])
]
BAD = b'{"prompt": "Whom do I ask?", "completion": "Write to ann.smith@mail.com about it."}'


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HARNESS_STORE", str(tmp_path / "store"))
    mixed.write(tmp_path / "clean.jsonl", CLEAN)
    mixed.write(tmp_path / "dirty.jsonl", mixed.rows(60))
    return tmp_path


@pytest.fixture
def data(capsys):
    """Types a command; returns exit status, output and errors."""

    def typed(*words: str) -> tuple[int, str, str]:
        status = main(["data", *words, *(["--engine", "serial"] if words[0] in ("audit", "prove", "diff", "lock", "verify") else [])])
        out, err = capsys.readouterr()
        return status, out, err

    return typed


@pytest.mark.parametrize("verb", [(), ("audit",), ("prove",), ("diff",), ("lock",), ("verify",)])
def test_each_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["data", *verb, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "usage: python -m harness data" in said
    assert ("what to do:" if not verb else "--workers N") in said


# --- audit ----------------------------------------------------------------------------------------


def test_clean_rows_are_zero_and_others_one(data):
    status, out, _ = data("audit", "clean.jsonl")
    assert status == 0, out
    assert out.startswith(f"{len(CLEAN)} rows, {len(CLEAN)} distinct")
    assert "blocks" not in out
    status, out, _ = data("audit", "dirty.jsonl")
    assert status == 1
    assert "blocks" in out
    assert "duplicates.exact  dirty.jsonl:" in out


def test_the_place_that_is_told_is_the_place(data, here):
    mixed.write(here / "dirty.jsonl", [*CLEAN[:7], BAD, *CLEAN[7:], CLEAN[0]])
    _, out, _ = data("audit", "dirty.jsonl")
    assert "private.email  dirty.jsonl:8" in out
    assert f"duplicates.exact  dirty.jsonl:{len(CLEAN) + 2}" in out


def test_a_baseline_lets_the_known_pass_and_stops_the_new(data, here):
    assert data("audit", "dirty.jsonl", "--write-baseline", "known.json")[0] == 1
    status, out, _ = data("audit", "dirty.jsonl", "--baseline", "known.json")
    assert status == 0, out
    mixed.write(here / "dirty.jsonl", [*mixed.rows(60), BAD])
    status, out, _ = data("audit", "dirty.jsonl", "--baseline", "known.json")
    assert status == 1
    assert [line.split()[2] for line in out.splitlines() if "private.email" in line] == ["1"]
    mixed.write(here / "dirty.jsonl", CLEAN)
    status, out, _ = data("audit", "dirty.jsonl", "--baseline", "known.json")
    assert status == 0
    assert "no longer found" in out


def test_waivers_accept_with_a_reason_until_a_day(data, here):
    mixed.write(here / "clean.jsonl", [*CLEAN, BAD])
    entry = f'[[waiver]]\ncheck = "private"\nkind = "email"\nlines = [{len(CLEAN) + 1}, {len(CLEAN) + 1}]\nreason = "our own"\n'
    (here / "waivers.toml").write_text(entry + "expires = 2999-01-31\n")
    assert data("audit", "clean.jsonl")[0] == 1
    status, out, _ = data("audit", "clean.jsonl", "--waivers", "waivers.toml")
    assert status == 0, out
    mixed.write(here / "clean.jsonl", CLEAN)
    status, out, _ = data("audit", "clean.jsonl", "--waivers", "waivers.toml")
    assert status == 0
    assert "accepts nothing: remove it" in out
    (here / "waivers.toml").write_text(entry + "expires = 2020-01-31\n")
    status, _, err = data("audit", "clean.jsonl", "--waivers", "waivers.toml")
    assert status == 1
    assert "expired" in err


def test_what_is_meant_may_be_allowed(data, here):
    mixed.write(here / "clean.jsonl", [*CLEAN, BAD])
    status, out, _ = data("audit", "clean.jsonl", "--allow", "private.email")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines() if "private.email" in line] == ["remark"]


def test_out_is_everything_a_release_needs(data, here):
    described = ("--licence", "MIT", "--source", "https://example.org", "--version", "1.0.0", "--changes", "the first version")
    status, out, _ = data("audit", "dirty.jsonl", "--out", "out/deep", *described)
    assert status == 1
    there = {path.name for path in (here / "out" / "deep").iterdir()}
    assert {"clean.jsonl", "blocked.jsonl", "croissant.json", "data.lock", "summary.json"} <= there
    assert {path.rpartition(".")[2] for path in there} >= {"csv", "sarif"}
    rows = len((here / "dirty.jsonl").read_bytes().splitlines())
    clean = len((here / "out/deep/clean.jsonl").read_bytes().splitlines())
    blocked = len((here / "out/deep/blocked.jsonl").read_bytes().splitlines())
    assert clean + blocked == rows
    assert f"out/deep: {clean} of {rows} rows in clean.jsonl, {blocked} in blocked.jsonl" in out
    assert json.loads((here / "out/deep/summary.json").read_text())["read"]["rows"] == rows
    assert "lacks" not in out
    assert data("audit", "out/deep/clean.jsonl")[0] == 0  # what is called clean is


def test_leaks_and_splits_of_the_command_line(data, here):
    held = mixed.items(3)
    (here / "held.jsonl").write_text("".join(json.dumps(item) + "\n" for item in held))
    leak = json.dumps({"prompt": "Say it.", "completion": held[1]["input"]}).encode()
    mixed.write(here / "train.jsonl", [*CLEAN[:30], leak])
    mixed.write(here / "test.jsonl", [*CLEAN[30:], CLEAN[0]])
    status, out, _ = data(
        "audit", "train.jsonl", "test.jsonl", "--apart-from", "held.jsonl", "--split", "a=train.jsonl", "--split", "b=test.jsonl"
    )
    assert status == 1
    assert "leakage.equal  train.jsonl:31" in out
    assert f"splits.row_in_two_splits  test.jsonl:{len(CLEAN) - 30 + 1}" in out


def test_facts_are_kept_in_the_store_or_where_it_is_said(data, here):
    data("audit", "clean.jsonl", "--no-keep")
    assert not (here / "store").exists()
    data("audit", "clean.jsonl")
    assert list((here / "store" / "audit").iterdir())
    data("audit", "clean.jsonl", "--keep", "mine")
    assert list((here / "mine").iterdir())


# --- prove, diff, lock, verify -------------------------------------------------------------------


def test_prove_says_what_each_check_finds(data):
    status, out, _ = data("prove", "clean.jsonl", "--each", "2")
    assert status == 0, out
    assert "      2     2  email" in out
    assert "chosen_is_rejected: " in out  # what does not fit, and why
    assert "false alarms: 0 in " in out


def test_diff_tells_what_changed(data, here):
    changed = CLEAN[5].replace(b"The", b"A")
    mixed.write(here / "new.jsonl", [*CLEAN[:5], changed, *CLEAN[6:], BAD])
    status, out, _ = data("diff", "clean.jsonl", "new.jsonl", "--json", "diff.json")
    assert status == 0
    told = json.loads((here / "diff.json").read_text())
    assert told
    assert "answer" in out


def test_lock_and_verify(data, here):
    assert data("lock", "clean.jsonl", "--write", "my.lock")[0] == 0
    status, out, _ = data("verify", "my.lock", "clean.jsonl")
    assert (status, out.strip()) == (0, "the same bytes")
    mixed.write(here / "clean.jsonl", [*CLEAN[:9], BAD, *CLEAN[10:]])
    status, out, _ = data("verify", "my.lock", "clean.jsonl")
    assert status == 1
    assert f"first difference in rows 1 to {len(CLEAN)}" in out


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("audit gone.jsonl", "gone.jsonl: No such file"),
        ("audit .", "is a folder"),
        ("audit empty.jsonl", "no rows"),
        ("audit clean.jsonl --workers 0", "expected at least 1"),
        ("audit clean.jsonl --form chatty", "form 'chatty'"),
        ("audit clean.jsonl --split a", "expected NAME=FILE"),
        ("audit clean.jsonl --split a=other.jsonl", "expected NAME=FILE"),
        ("audit clean.jsonl --apart-from gone.jsonl", "gone.jsonl"),
        ("audit clean.jsonl --baseline gone.json", "gone.json"),
        ("audit clean.jsonl --waivers gone.toml", "gone.toml"),
        ("audit clean.jsonl --rules gone.toml", "gone.toml"),
        ("audit clean.jsonl --tokenizer gone", "gone"),
        ("audit clean.jsonl --context 0", "context = 0"),
        ("audit clean.jsonl --language nope", "nope"),
        ("audit clean.jsonl --allow nope.kind", "no such check"),
        ("audit clean.jsonl --out clean.jsonl", "--out clean.jsonl"),
        ("audit clean.jsonl --keep clean.jsonl", "cannot keep facts"),
        ("audit clean.jsonl --write-baseline clean.jsonl/known.json", "could not be written"),
        ("prove clean.jsonl --each 0", "--each 0: expected at least 1"),
        ("prove empty.jsonl", "no rows"),
        ("diff clean.jsonl gone.jsonl", "gone.jsonl"),
        ("diff clean.jsonl clean.jsonl --json clean.jsonl/x", "could not be written"),
        ("lock gone.jsonl", "gone.jsonl"),
        ("lock clean.jsonl --write clean.jsonl/x", "could not be written"),
        ("verify gone.lock clean.jsonl", "gone.lock"),
        ("verify clean.jsonl clean.jsonl", "clean.jsonl"),
    ],
)
def test_what_is_wrong_is_one_line(data, here, words, said):
    (here / "empty.jsonl").write_bytes(b"")
    status, _, err = data(*words.split())
    assert status == 1
    assert err.startswith("error: ")
    assert len(err.splitlines()) == 1
    assert said in err


def test_an_engine_that_is_none_is_one_line(capsys):
    assert main(["data", "audit", "clean.jsonl", "--engine", "spark"]) == 1
    assert "expected one of serial, processes, ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", ["audit clean.jsonl", "prove clean.jsonl", "diff clean.jsonl clean.jsonl", "lock clean.jsonl", "verify x clean.jsonl"]
)
def test_a_missing_library_is_told_with_the_way_to_get_it(data, monkeypatch, verb):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "numba" else real(name, *more))
    status, _, err = data(*verb.split())
    assert status == 1
    assert err == "error: audit: not installed: numba. To get it: python -m harness doctor --install audit\n"


def test_doctor_knows_the_extra():
    from harness.doctor import _extras

    assert "audit" in _extras()


def test_what_is_read_is_never_overwritten(tmp_path, monkeypatch, capsys):
    file = tmp_path / "clean.jsonl"
    file.write_text('{"prompt": "q", "completion": "write to jane.doe@acme-corp.co.uk"}\n')
    before = file.read_bytes()
    assert main(["data", "audit", str(file), "--out", str(tmp_path), "--no-keep"]) == 1
    assert "would be overwritten" in capsys.readouterr().err
    assert main(["data", "audit", str(file), "--write-baseline", str(file), "--no-keep"]) == 1
    assert file.read_bytes() == before and not (tmp_path / "blocked.jsonl").exists()


def test_what_hides_in_a_field_that_no_form_reads_is_found(tmp_path, capsys):
    file = tmp_path / "train.jsonl"
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "call jane.doe@acme-corp.co.uk"}]
    file.write_text(
        json.dumps({"messages": said})
        + "\n"
        + json.dumps({"prompt": "r", "completion": "s", "customer": {"iban": "GB82WEST12345698765432"}})
        + "\n"
    )
    assert main(["data", "audit", str(file), "--no-keep"]) == 1
    out = capsys.readouterr().out
    assert "private.email  train.jsonl:1" in out and "private.iban  train.jsonl:2" in out and "jane" not in out


def test_a_group_that_no_row_has_is_an_error(tmp_path, capsys):
    file = tmp_path / "train.jsonl"
    file.write_text('{"prompt": "q", "completion": "a", "user": "me"}\n')
    assert main(["data", "audit", str(file), "--group", "uesr", "--no-keep"]) == 1
    assert "no row has the field 'uesr'" in capsys.readouterr().err
