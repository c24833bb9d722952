"""``harness compare``: the verdict is the judge's, nothing is dropped, everything a model wrote is harmless on the page."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import __main__ as command
from harness import config, evals
from harness.bounds import non_inferior
from harness.errors import ConfigError
from harness.judge import judge
from harness.lifecycle import compare as comparing
from harness.report import comparison
from harness.types import Claim, Measurement, Sample

pytestmark = pytest.mark.selftest

N = 80
TASK = {"name": "mine", "kind": "made up", "digest": ""}


@pytest.fixture
def project(tmp_path):
    """A lifecycle with a golden set of N addresses and subjects that know a part of the answers."""
    rows = [
        {"id": f"a-{i:02d}", "input": f"{i} {'Long ' * (i % 7)}St", "target": {"number": str(i), **({"unit": "2"} if i % 2 else {})}}
        for i in range(N)
    ]  # fmt: skip
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    (tmp_path / "golden").mkdir()
    (tmp_path / "golden" / "mine.jsonl").write_bytes(data)
    entry = {
        "file": "mine.jsonl", "kind": "json_extraction", "n": N, "sha256": hashlib.sha256(data).hexdigest(),
        "fields": ["id", "input", "target"], "source": "made up", "licence": "MIT", "approved_by": "a test",
    }  # fmt: skip
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items())
    (tmp_path / "golden" / "manifest.toml").write_text("[mine]\n" + lines)
    right = {row["id"]: evals.answer_text(row["target"]) for row in rows}
    wrong = dict.fromkeys(right, "{}")

    def known(count):
        return {key: (right if i < count else wrong)[key] for i, key in enumerate(right)}

    subjects = {
        "half": known(40), "most": known(70), "twin": known(40),
        "broken": {**known(40), "a-00": "no JSON", "a-01": "x" * 500, "a-02": " "},
        "hostile": {**known(40), "a-05": "<script>alert(1)</script>\u202e", "a-06": '=HYPERLINK("http://evil")'},
    }  # fmt: skip
    for name, answers in subjects.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(answers))
    listed = "".join(f'{name} = "fake:{tmp_path / name}.json"\n' for name in subjects if name != "twin")
    (tmp_path / "lifecycle.toml").write_text(f'[lifecycle]\nname = "test"\n[subjects]\n{listed}')
    return tmp_path


def run(project, *words, capsys=None):
    status = command.main(
        ["compare", *words, "--golden", "mine", "--lifecycle", str(project / "lifecycle.toml"), "--store", str(project / "store")]
    )
    return status, (capsys.readouterr() if capsys else None)


def record(project, *words, capsys):
    status, said = run(project, *words, "--json", capsys=capsys)
    assert said.err == ""
    return status, json.loads(said.out)


# --- verdict and exit status --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "verdict", "status"),
    [
        (("half", "most"), "better", 0),
        (("half", "most", "--better"), "better", 0),
        (("most", "half"), "worse", 1),
        (("half", "twin=fake:{}/twin.json"), "not worse", 0),
        (("half", "twin=fake:{}/twin.json", "--better"), "not worse", 1),
        (("half", "broken"), "undecided", 1),
        (("half", "broken", "--margin", ".2"), "not worse", 0),
        (("half", "fake:{}/most.json"), "better", 0),
    ],
)
def test_the_verdict_and_the_exit_status(project, capsys, words, verdict, status):
    got, found = record(project, *(word.format(project) for word in words), capsys=capsys)
    assert (found["verdict"], got) == (verdict, status)


def test_the_numbers_are_the_judges_own(project, capsys):
    _, found = record(project, "half", "most", "--margin", ".1", capsys=capsys)
    samples = [Sample(f"a-{i:02d}", float(i < k), arm) for arm, k in (("old", 40), ("new", 70)) for i in range(N)]
    verdict = judge(Claim("c", "t", non_inferior(0.1)), Measurement("m", tuple(samples)))
    not_worse, better = found["claims"]
    assert [not_worse[k] for k in ("estimate", "low", "high", "p_hold", "n")] == [
        verdict.estimate, verdict.low, verdict.high, verdict.p_hold, verdict.n,
    ]  # fmt: skip
    assert better["statistics"]["b"] == 30 == found["flips"]["gained"]["count"] and found["flips"]["lost"]["count"] == 0
    assert better["p_hold"] == pytest.approx(2.0**-30)
    assert found["arms"]["new"]["score"]["right"] == 70 and found["arms"]["old"]["score"]["estimate"] == 0.5


def test_what_could_not_be_read_is_counted_and_wrong(project, capsys):
    _, found = record(project, "half", "broken", capsys=capsys)
    assert found["arms"]["new"]["health"] == {"truncated": 1, "empty": 1, "parse_failure": 1, "error": 0, "n": N}
    assert found["arms"]["new"]["score"]["right"] == 37 and found["flips"]["lost"]["count"] == 3
    needed = found["claims"][0]["n_needed"]
    assert needed and needed > N


def test_the_table_has_health_before_score_and_the_verdict_last(project, capsys):
    status, said = run(project, "half", "broken", capsys=capsys)
    text, shown = said.out, said.out.splitlines()
    assert status == 1 and text.index("unreadable") < text.index("score") < text.index("difference B - A")
    assert "3 lost (c)" in text and "would settle it" in text and shown[-1].startswith("UNDECIDED")
    assert "a-01" in text and "[truncated]" in text


def test_different_conditions_and_a_twin_are_said(project, capsys):
    _, found = record(project, "half", "half", capsys=capsys)
    assert "both arms are the same subject: what differs is noise" in found["notes"] and found["differing"] == []
    _, found = record(project, "half", "most", "--tier", "smoke", capsys=capsys)
    assert any("tier smoke" in note for note in found["notes"])


def test_slices_are_cut_by_length_and_field_and_adjusted(project, capsys):
    _, found = record(project, "half", "most", capsys=capsys)
    slices = {row["name"]: row for row in found["slices"]}
    assert {"short input", "long input", "with unit", "without unit"} <= set(slices)
    assert slices["with unit"]["n"] == slices["without unit"]["n"] == 40
    assert all(row["p_adjusted"] >= row["p"] for row in slices.values())


# --- what is written ----------------------------------------------------------------------------


def test_page_and_csv_hold_model_text_harmless(project, capsys):
    status, _ = run(project, "half", "hostile", "--html", str(project / "c.html"), "--csv", str(project / "c.csv"), capsys=capsys)
    page = (project / "c.html").read_text()
    assert status == 1 and "<script" not in page and "\u202e" not in page and "script" in page and "default-src 'none'" in page
    rows = {row["item"]: row for row in csv.DictReader(io.StringIO((project / "c.csv").read_text()))}
    assert len(rows) == N and rows["a-06"]["new_text"].startswith("'=HYPER") and rows["a-06"]["flip"] == "lost"
    assert rows["a-05"]["old_value"] == "1.0" and rows["a-05"]["new_status"] == "parse_failure"


def test_the_page_of_one_record_is_always_the_same_bytes(project, capsys):
    _, found = record(project, "half", "most", capsys=capsys)
    assert comparison.page(found) == comparison.page(json.loads(json.dumps(found)))
    assert "better" in comparison.page(found) and found["subjects"][0]["digest"] in comparison.page(found)


# --- arms ---------------------------------------------------------------------------------------


def test_arms_are_names_specs_or_files(tmp_path):
    settings = config.empty(tmp_path).with_subjects(["known=fake:k.json"])
    file = tmp_path / "samples_t.jsonl"
    file.write_text("{}")
    assert comparing.named(settings, "known", "mine=hf:./x")[1] == ("known", "mine")
    found, names = comparing.named(settings, "http://h:1/v1#m", "hf:./x")
    assert names == ("A", "B") and found.subject("A").location == "http://h:1/v1#m" and found.subject("B").scheme == "hf"
    assert comparing.named(settings, "unmerged:known", "hf:known")[1] == ("unmerged:known", "hf:known")
    assert comparing.named(settings, str(file), str(file))[1] is None
    with pytest.raises(ConfigError, match="is a file of results and known is not"):
        comparing.named(settings, str(file), "known")
    with pytest.raises(ConfigError, match="both arms are called 'm'"):
        comparing.named(settings, "m=hf:./x", "m=hf:./y")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("half", "mots"), "no subject 'mots': did you mean 'most'"),
        (("half", "most", "--tier", "big"), "no tier 'big'"),
        (("half", "most", "--margin", "0"), "margin"),
        (("half", "most", "--margin", "nan"), "margin|finite"),
        (("half", "most", "--shots-a", "-1"), "shots-a -1: expected 0 or more"),
    ],
)
def test_a_wrong_word_is_one_error_line(project, capsys, words, complaint):
    status, said = run(project, *words, capsys=capsys)
    assert status == 1 and said.err.startswith("error: ") and re.search(complaint, said.err)


def test_help_teaches_with_examples(capsys):
    with pytest.raises(SystemExit):
        command.main(["compare", "--help"])
    said = capsys.readouterr().out
    assert "exit status" in said and "python -m harness compare base tuned --golden addresses --shots-a 3" in said


# --- any two arms -------------------------------------------------------------------------------

values = st.sampled_from([0.0, 1.0, None])


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(values, values), min_size=1, max_size=40))
def test_any_answers_make_a_record_that_can_be_shown(pairs):
    samples = [
        Sample(f"i{i}", value, arm, "ok" if value is not None else "parse_failure", detail={"text": "t", "input": "?" * i})
        for i, two in enumerate(pairs)
        for arm, value in zip(("old", "new"), two, strict=True)
    ]
    found = comparing.judged(comparing.Asked("a", "b"), Measurement("m", tuple(samples)), TASK).record
    json.dumps(found, allow_nan=False)
    b, c = (sum((new or 0) * s > (old or 0) * s for old, new in pairs) for s in (1, -1))
    assert (found["flips"]["gained"]["count"], found["flips"]["lost"]["count"]) == (b, c)
    assert any(line.startswith(found["verdict"].upper()) for line in comparison.lines(found))
    assert comparison.page(found).endswith("</html>\n")


def test_graded_scores_are_compared_as_means():
    samples = [
        Sample(f"i{i}", 0.5 + ((0.15 + i % 7 / 70) if arm == "new" else 0) + (i % 3) / 100, arm)
        for i in range(40)
        for arm in ("old", "new")
    ]
    found = comparing.judged(comparing.Asked("a", "b"), Measurement("m", tuple(samples)), TASK).record
    assert found["task"]["estimand"] == "paired_mean" and found["verdict"] == "better"
    assert found["arms"]["new"]["score"]["estimate"] == pytest.approx(0.70, abs=0.01)


# --- two files of results -----------------------------------------------------------------------


def lm_eval_rows(right):
    for i in range(60):
        prompt, text = f"question {i}", "yes" if i < right else "no"
        yield {
            "doc_id": i, "doc": {"q": prompt}, "target": "yes", "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {}}},
            "resps": [[text]], "filtered_resps": [text], "filter": "none", "metrics": ["exact_match"], "exact_match": float(text == "yes"),
            "doc_hash": f"d{i}", "prompt_hash": digest(prompt), "target_hash": digest("yes"),
        }  # fmt: skip


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def test_two_runs_of_another_tool_need_no_lifecycle(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = []
    for name, right in (("old", 20), ("new", 50)):
        path = Path(name, "samples_task_2026-11-21T00-00-00.000000.jsonl")
        path.parent.mkdir()
        path.write_text("".join(json.dumps(row) + "\n" for row in lm_eval_rows(right)))
        paths.append(str(path))
    assert command.main(["compare", *paths, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verdict"] == "better" and found["flips"]["gained"]["count"] == 30
    assert command.main(["compare", *reversed(paths)]) == 1
    assert command.main(["compare", *paths, "--golden", "mine"]) == 1
    assert "hold their answers already" in capsys.readouterr().err


def test_a_file_is_not_compared_with_itself_nor_with_one_that_is_not_there():
    root = Path(__file__).resolve().parents[3]
    run = root / "fixtures" / "imported" / "lm-eval" / "base"
    with pytest.raises(ConfigError, match="stands on both sides"):
        comparing.compare_files(comparing.Asked("a", "b"), run, run, which={"metric": "acc"})
    with pytest.raises(ConfigError, match=r"gone\.jsonl: no such file"):
        comparing.named(config.empty(root), str(run), "gone.jsonl")
