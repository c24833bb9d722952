"""The results of other tools: one shape, nothing dropped, paired by content, damage said in words."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.bounds import better_than
from harness.errors import ImportedError
from harness.evals.bridge import compared, imported, read
from harness.judge import judge
from harness.types import Claim

pytestmark = pytest.mark.selftest

REAL = Path(__file__).resolve().parents[3] / "fixtures" / "imported"  # see the README there
GAIN = Claim("tuned.gain", "the tuned model answers more addresses exactly", better_than(0.0), min_n=50, expected=0.2)


def sha(value):
    return hashlib.sha256(str(value).encode()).hexdigest()


# --- lm-eval ---------------------------------------------------------------------------------------


def lm_rows(values, *, metric="acc", filters=("none",), prompt="Q{}", target="{}", items=None):
    rows = []
    for name in filters:
        for n, value in enumerate(values):
            item = items[n] if items else n
            asked, wanted = prompt.format(item), target.format(item)
            rows.append({
                "doc_id": n, "doc": {"q": item}, "target": wanted, "arguments": {"gen_args_0": {"arg_0": asked, "arg_1": " a"}},
                "resps": [["-1.5", "False"]], "filtered_resps": [["-1.5", "False"]], "filter": name, "metrics": [metric],
                "doc_hash": sha(item), "prompt_hash": sha(asked), "target_hash": sha(wanted), metric: value,
            })  # fmt: skip
    return rows


def lm_run(folder, rows, *, task="t", when="2026-11-21T18-00-00.123456", stderr=None, metric="acc", declared=None, version=1.0):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"samples_{task}_{when}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    if stderr is not None:
        hashes = sha("".join(r["doc_hash"] + r["prompt_hash"] + r["target_hash"] for r in rows)) if declared is None else declared
        results = {
            "results": {task: {f"{metric},none": 0.5, f"{metric}_stderr,none": stderr}}, "task_hashes": {task: hashes},
            "versions": {task: version}, "n-samples": {task: {"original": 99, "effective": len(rows)}}, "config": {"model": "hf"},
        }  # fmt: skip
        (folder / f"results_{when}.json").write_text(json.dumps(results))
    return file


def test_lm_eval_samples_are_read_with_what_stands_beside_them(tmp_path):
    file = lm_run(tmp_path / "m", lm_rows([1.0, 0, True, 0.25]), stderr=0.2)
    run = read(tmp_path)  # the folder above the model's
    assert run.samples == read(file).samples and (run.source, run.task) == ("lm-eval", "t")
    assert [s.value for s in run.samples] == [1.0, 0.0, 1.0, 0.25] and {s.arm for s in run.samples} == {"one"}
    assert [s.item for s in run.samples] == [sha(n) for n in range(4)]
    assert run.samples[0].detail["input"] == "Q0" and run.samples[0].detail["prompt"] == sha("Q0")
    assert run.conditions["reported_se"] == 0.2 and run.conditions["version"] == 1.0
    assert run.conditions["digest"] == hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_choice_that_must_be_made_is_asked_for_by_name(tmp_path):
    rows = lm_rows([1, 0], filters=("strict", "flexible"))
    lm_run(tmp_path, rows)
    with pytest.raises(ImportedError, match="2 of filter, one must be named: flexible, strict"):
        read(tmp_path)
    assert len(read(tmp_path, filter="strict").samples) == 2
    with pytest.raises(ImportedError, match="no filter 'lax'; there is: flexible, strict"):
        read(tmp_path, filter="lax")
    lm_run(tmp_path, lm_rows([1]), task="other")
    with pytest.raises(ImportedError, match="2 of task, one must be named: other, t"):
        read(tmp_path)
    lm_run(tmp_path, lm_rows([1]), task="other", when="2026-11-22T18-00-00")
    with pytest.raises(ImportedError, match="2 runs of other, name one file"):
        read(tmp_path, task="other")
    for row in rows:
        row["metrics"], row["acc_norm"] = ["acc", "acc_norm"], 1
    with pytest.raises(ImportedError, match="one must be named: acc, acc_norm"):
        read(lm_run(tmp_path, rows), filter="strict")
    with pytest.raises(ImportedError, match="column='x' means nothing for results of lm-eval"):
        read(lm_run(tmp_path, rows), filter="strict", metric="acc", column="x")


def test_a_score_that_is_no_number_is_an_error_of_its_item_never_dropped(tmp_path):
    rows = lm_rows([1.0, math.nan, math.inf, None, 10**400])
    del rows[0]["acc"]
    samples = read(lm_run(tmp_path, rows)).samples
    assert [s.status for s in samples] == ["error"] * 5 and all(s.value is None and s.detail["error"] for s in samples)
    with pytest.raises(ImportedError, match=f"{sha(1)}.*name a metric that is one number per item"):
        read(lm_run(tmp_path, lm_rows([1, [-3.5, 12]])))


def test_the_same_document_again_is_a_replicate(tmp_path):
    samples = read(lm_run(tmp_path, lm_rows([1, 0, 1], items=["a", "b", "a"]))).samples
    assert [(s.item == sha("a"), s.replicate) for s in samples] == [(True, 0), (False, 0), (True, 1)]


def test_rows_that_were_lost_or_changed_afterwards_are_seen(tmp_path):
    rows = lm_rows([1, 0, 1, 1])
    file = lm_run(tmp_path, rows, stderr=0.25)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    with pytest.raises(ImportedError, match=r"its 3 rows are not the ones that were scored \(4 items"):
        read(file)
    file.write_text("".join(lines)[:-20])
    with pytest.raises(ImportedError, match="line 4: no JSON"):
        read(file)
    for field, what in (("target", "target"), ("arguments", "prompt")):
        changed = [dict(row) for row in rows]
        changed[2][field] = "other" if field == "target" else {"gen_args_0": {"arg_0": "other"}}
        with pytest.raises(ImportedError, match=f"{sha(2)}.*its {what} is not the one that was hashed"):
            read(lm_run(tmp_path / field, changed, stderr=0.25))
    with pytest.raises(ImportedError, match="line 1: no doc_hash, target_hash; expected a row of lm-eval"):
        read(lm_run(tmp_path / "old", [{k: v for k, v in rows[0].items() if k not in ("doc_hash", "target_hash")}]))


# --- pairing ---------------------------------------------------------------------------------------


def test_two_runs_pair_by_content_whatever_their_order(tmp_path):
    new = read(lm_run(tmp_path / "new", lm_rows([1, 1, 0], items=["a", "b", "c"])))
    old = read(lm_run(tmp_path / "old", lm_rows([0, 0, 1], items=["c", "a", "b"])))
    pairs = {}
    for sample in compared(new, old).samples:
        pairs.setdefault(sample.item, {})[sample.arm] = sample.value
    assert pairs == {sha("a"): {"new": 1, "old": 0}, sha("b"): {"new": 1, "old": 1}, sha("c"): {"new": 0, "old": 0}}


def test_another_prompt_or_target_is_an_error_that_names_the_item(tmp_path):
    new = read(lm_run(tmp_path / "new", lm_rows([1, 1])))
    with pytest.raises(ImportedError, match=f"item '{sha(0)}' has another prompt"):
        compared(new, read(lm_run(tmp_path / "p", lm_rows([1, 0], prompt="Say Q{}"))))
    shots = compared(new, read(tmp_path / "p"), other_prompts=True)
    assert len(shots.samples) == 4
    with pytest.raises(ImportedError, match=f"item '{sha(0)}' has another target"):
        compared(new, read(lm_run(tmp_path / "t", lm_rows([1, 0], target="not {}"))), other_prompts=True)
    with pytest.raises(ImportedError, match="not the same measurement"):
        compared(new, read(lm_run(tmp_path / "m", lm_rows([1, 0], metric="acc_norm"), metric="acc_norm")))
    versions = [read(lm_run(tmp_path / f"v{v}", lm_rows([1, 0]), stderr=0.5, version=v)) for v in (1.0, 2.0)]
    with pytest.raises(ImportedError, match=r"versions 1\.0 and 2\.0"):
        compared(*versions)


def test_an_item_of_one_run_alone_is_refused_by_the_judge(tmp_path):
    new = read(lm_run(tmp_path / "new", lm_rows([1] * 60)))
    old = read(lm_run(tmp_path / "old", lm_rows([0] * 59)))
    verdict = judge(GAIN, compared(new, old))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "unpaired_items") and sha(59) in verdict.sentence


@pytest.mark.parametrize("wrong", ["new", "old"])
def test_a_standard_error_that_the_rows_contradict_voids_the_comparison(tmp_path, wrong):
    """lighteval's bootstrap divided by the root of B: 31.6 times too small."""
    values = {"new": [1, 1, 1, 0] * 20, "old": [1, 0, 0, 0] * 20}
    honest = {arm: (sum(v) / 80 * (1 - sum(v) / 80) / 79) ** 0.5 for arm, v in values.items()}
    runs = {arm: read(lm_run(tmp_path / arm, lm_rows(v), stderr=honest[arm])) for arm, v in values.items()}
    assert judge(GAIN, compared(runs["new"], runs["old"])).outcome == "holds"
    runs[wrong] = read(lm_run(tmp_path / "wrong", lm_rows(values[wrong]), stderr=honest[wrong] / 31.6))
    verdict = judge(GAIN, compared(runs["new"], runs["old"]))
    assert (verdict.outcome, verdict.reason) == ("inconclusive", "reported_se")


@pytest.mark.parametrize(("right", "factor", "outcome"), [(60, 1, "holds"), (79, 1, "holds"), (80, 1, "holds"), (79, 31.6, "inconclusive")])
def test_honest_errors_of_two_unlike_runs_void_nothing(tmp_path, right, factor, outcome):
    """A run that is nearly always right has a small standard error, one that never varies has none: both are true."""
    values = {"new": [1] * right + [0] * (80 - right), "old": [1] * 40 + [0] * 40}
    honest = {arm: (sum(v) / 80 * (1 - sum(v) / 80) / 79) ** 0.5 for arm, v in values.items()}
    new, old = (
        read(lm_run(tmp_path / arm, lm_rows(values[arm]), stderr=honest[arm] * (factor if arm == "new" else 1))) for arm in ("new", "old")
    )
    assert judge(GAIN, compared(new, old)).outcome == outcome


def test_an_unpaired_z_leaves_open_what_the_pairs_decide(tmp_path):
    """lm-eval's model_comparator: two standard errors as if the items were different ones."""
    both, lost, gained, neither = 60, 4, 20, 116
    new, old = ([1] * both + [a] * gained + [b] * lost + [0] * neither for a, b in ((1, 0), (0, 1)))
    runs = [read(lm_run(tmp_path / name, lm_rows(values), stderr=None)) for name, values in (("new", new), ("old", old))]
    n = len(new)
    shares = [sum(values) / n for values in (new, old)]
    z = (shares[0] - shares[1]) / sum(p * (1 - p) / (n - 1) for p in shares) ** 0.5
    verdict = judge(GAIN, compared(*runs))
    assert z < 1.96 and verdict.outcome == "holds" and verdict.p_hold < 0.002


def test_a_real_run_of_somebody_else_is_judged_by_its_pairs():
    """Base and tuned, 60 questions, by lm-eval's own command line with its own backend."""
    new, old = (read(REAL / "lm-eval" / name, metric="acc") for name in ("tuned", "base"))
    assert len(new.samples) == len(old.samples) == 60 and new.metric == "lm-eval:commonsense:acc"
    assert new.conditions["tool_version"] == "0.4.13" and new.conditions["model"] == "hf"
    for name, run in (("tuned", new), ("base", old)):
        (file,) = (REAL / "lm-eval" / name).glob("results_*.json")
        said = json.loads(file.read_text())["results"]["commonsense"]
        values = [s.value for s in run.samples]
        share = sum(values) / 60
        assert said["acc,none"] == pytest.approx(share) and said["acc_stderr,none"] == run.conditions["reported_se"]
        assert run.conditions["reported_se"] == pytest.approx((share * (1 - share) / 59) ** 0.5)  # of one run, as if alone
    right = {arm: {s.item for s in run.samples if s.value} for arm, run in (("new", new), ("old", old))}
    verdict = judge(GAIN, compared(new, old))
    assert verdict.statistics["b"] == len(right["new"] - right["old"]) and verdict.statistics["c"] == len(right["old"] - right["new"])
    assert verdict.outcome == "inconclusive" and verdict.method == "mcnemar-exact/1"
    swapped = judge(GAIN, compared(old, new))
    assert swapped.estimate == -verdict.estimate
    with pytest.raises(ImportedError, match="one must be named: acc, acc_norm"):
        read(REAL / "lm-eval" / "base")


# --- Inspect ---------------------------------------------------------------------------------------


def inspect_log():
    return json.loads((REAL / "inspect.json").read_text())


def as_archive(root, path, **more):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": root["eval"], "plan": {}}))
        for sample in root["samples"]:
            archive.writestr(f"samples/{sample['id']}_epoch_{sample['epoch']}.json", json.dumps(sample))
        archive.writestr("header.json", json.dumps({k: v for k, v in root.items() if k != "samples"}))
        for name, data in more.items():
            archive.writestr(name, data)
    return path


def test_inspect_logs_in_both_forms_are_the_same_samples(tmp_path):
    run, packed = read(REAL / "inspect.json"), read(as_archive(inspect_log(), tmp_path / "log.eval"))
    assert packed.samples == run.samples and run.source == "inspect" and run.task == "addresses"
    assert [(s.item, s.replicate, s.value, s.status) for s in run.samples] == [
        ("a1", 0, 1.0, "ok"), ("a2", 0, 0.0, "ok"), ("a3", 0, None, "error"), ("a4", 0, None, "truncated"), ("a5", 0, 0.5, "ok"),
        ("a1", 1, 1.0, "ok"), ("a2", 1, 1.0, "ok"), ("a3", 1, None, "error"), ("a4", 1, None, "truncated"), ("a5", 1, 0.0, "ok"),
    ]  # fmt: skip
    assert "rate limit" in run.samples[2].detail["error"] and "nan" in run.samples[7].detail["error"].lower()
    assert "message" in run.samples[3].detail["error"] and "max_tokens" in run.samples[8].detail["error"]
    assert run.conditions["reported_se"] == pytest.approx(0.16) and run.conditions["model"] == "openai/gpt-x"
    assert not run.invalid and not any("attempt" in json.dumps(s.detail) for s in run.samples)


def test_the_epochs_of_inspect_are_replicates_in_their_order(tmp_path):
    root = inspect_log()
    root["samples"].reverse()
    (tmp_path / "log.json").write_text(json.dumps(root))
    assert set(map(repr, read(tmp_path / "log.json").samples)) == set(map(repr, read(REAL / "inspect.json").samples))


def test_inspect_scores_are_named_where_there_are_several(tmp_path):
    root = inspect_log()
    for sample in root["samples"]:
        if sample.get("scores"):
            sample["scores"]["fields"] = {"value": {"city": 1, "zip": 0}}
    path = tmp_path / "log.json"
    path.write_text(json.dumps(root))
    with pytest.raises(ImportedError, match="3 of score, one must be named: fields/city, fields/zip, match"):
        read(path)
    assert read(path, metric="fields/city").samples[0].value == 1.0
    root["samples"][0]["scores"]["match"]["value"] = "maybe"
    path.write_text(json.dumps(root))
    with pytest.raises(ImportedError, match="item 'a1': the score is \"maybe\""):
        read(path, metric="match")


def test_a_changed_question_of_inspect_is_seen(tmp_path):
    root = inspect_log()
    root["samples"][1]["input"] = "another question"
    path = tmp_path / "log.json"
    path.write_text(json.dumps(root))
    with pytest.raises(ImportedError, match="item 'a2' has another prompt"):
        compared(read(REAL / "inspect.json"), read(path))
    again = inspect_log()
    again["samples"][0]["input"][0]["id"] = "another id of the same message"
    path.write_text(json.dumps(again))
    assert len(compared(read(REAL / "inspect.json"), read(path)).samples) == 20


def test_an_unfinished_inspect_run_is_void(tmp_path):
    root = inspect_log() | {"status": "cancelled"}
    root["samples"] = root["samples"][:3]
    run = read(as_archive(root, tmp_path / "log.eval"))
    assert "cancelled" in run.invalid[0] and run.measurement().invalid
    assert judge(GAIN, compared(read(REAL / "inspect.json"), run)).reason == "invalid_run"
    root["status"] = "success"
    with pytest.raises(ImportedError, match="3 of 10 samples are there"):
        read(as_archive(root, tmp_path / "log2.eval"))
    with pytest.raises(ImportedError, match="samples stand twice"):
        read(as_archive(inspect_log(), tmp_path / "log3.eval", **{"samples/again.json": json.dumps(inspect_log()["samples"][0])}))


def test_damaged_archives_are_refused_before_they_are_unpacked(tmp_path, monkeypatch):
    path = as_archive(inspect_log(), tmp_path / "log.eval")
    data = path.read_bytes()
    for name, broken in (
        ("half", data[: len(data) // 2]),
        ("bits", data[: len(data) // 2] + b"\0" * 40 + data[len(data) // 2 + 40 :]),
        ("text", b"not an archive"),
        ("none", b""),
    ):
        (tmp_path / f"{name}.eval").write_bytes(broken)
        with pytest.raises(ImportedError, match="damaged"):
            read(tmp_path / f"{name}.eval")
    bomb = as_archive(inspect_log(), tmp_path / "bomb.eval", **{"samples/bomb.json": b" " * 30_000_000})
    assert bomb.stat().st_size < 100_000
    monkeypatch.setattr(imported, "LIMIT", 20_000_000)
    with pytest.raises(ImportedError, match=r"unpacks to 3\d+ bytes, more than the 20000000"):
        read(bomb)
    (tmp_path / "big.json").write_bytes(b" " * 20_000_001)
    with pytest.raises(ImportedError, match="20000001 bytes"):
        read(tmp_path / "big.json")
    with zipfile.ZipFile(tmp_path / "other.eval", "w") as archive:
        archive.writestr("readme", "hello")
    with pytest.raises(ImportedError, match=r"without header\.json"):
        read(tmp_path / "other.eval")


# --- promptfoo -------------------------------------------------------------------------------------


def test_promptfoo_columns_and_scores():
    path = REAL / "promptfoo.json"
    with pytest.raises(ImportedError, match=r"2 of column, one must be named: base \| parse, tuned \| parse"):
        read(path)
    run = read(path, column="local:tuned")
    assert [(s.value, s.status, s.replicate) for s in run.samples] == [
        (1.0, "ok", 0), (0.0, "ok", 0), (None, "error", 0), (None, "truncated", 0), (None, "error", 0), (1.0, "ok", 1),
    ]  # fmt: skip
    assert "ECONNREFUSED" in run.samples[2].detail["error"] and run.samples[4].detail["error"] == "the judge did not answer"
    assert run.conditions["tool_version"] == "0.120.0" and run.conditions["column"] == "tuned | parse"
    named = read(path, column="tuned", metric="fields")
    assert [s.value for s in named.samples[:2]] == [1.0, 0.5] and read(path, column="tuned", metric="score").samples[1].value == 0.5
    with pytest.raises(ImportedError, match="no metric 'f1'; there is: success, score, fields"):
        read(path, column="tuned", metric="f1")
    with pytest.raises(ImportedError, match="no column 'x'"):
        read(path, column="x")
    pairs = compared(run, read(path, column="base"))
    assert len(pairs.samples) == 12 and len({s.item for s in pairs.samples}) == 5


def test_a_changed_assertion_of_promptfoo_is_seen(tmp_path):
    root = json.loads((REAL / "promptfoo.json").read_text())
    row = next(r for r in root["results"]["results"] if r["provider"]["id"] == "local:base")
    row["testCase"]["assert"][0]["value"] = "easier"
    (tmp_path / "results.json").write_text(json.dumps(root))
    with pytest.raises(ImportedError, match="has another target"):
        compared(read(REAL / "promptfoo.json", column="tuned"), read(tmp_path / "results.json", column="base"))


# --- DeepEval --------------------------------------------------------------------------------------


def test_deepeval_test_runs(tmp_path):
    path = REAL / "deepeval.json"
    with pytest.raises(ImportedError, match=r"2 of metric, one must be named: Correctness \[GEval\], Exact Match"):
        read(path)
    run = read(path, metric="Correctness [GEval]")
    assert [(s.value, s.status) for s in run.samples] == [(0.9, "ok"), (None, "error"), (None, "error"), (0.4, "ok")]
    assert run.samples[1].detail["error"] == "timed out" and "no Correctness" in run.samples[2].detail["error"]
    assert run.conditions["judged_by"] == ["gpt-x"] and run.task == "test_addresses.py"
    passed = read(path, metric="success")
    assert [s.value for s in passed.samples] == [1.0, None, 0.0, 0.0]
    (tmp_path / "latest.json").write_text(json.dumps({"testRunData": json.loads(path.read_text()), "testRunLink": None}))
    assert read(tmp_path / "latest.json", metric="success").samples == passed.samples


# --- whatever else ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{"results": {"t": {"acc,none": 1}}, "configs": {}}', "run it with --log_samples"),
        ("a.json", "[1, 2]", "a JSON list; expected samples_"),
        ("a.json", "{}", "with the keys none"),
        ("a.json", '{"a": ', "no JSON"),
        ("a.json", "[" * 100_000, "no JSON"),
        ("a.json", '{"status": "success", "eval": {}, "samples": [{"id": 1}]}', "without id, input and target"),
        ("a.json", '{"status": "success", "eval": {}}', "a log without samples"),
        ("a.json", '{"status": "success", "eval": {}, "samples": []}', "0 of score"),
        ("a.json", '{"results": {"results": [{"success": true}]}}', "has no vars, provider, prompt"),
        ("a.json", '{"results": {"results": []}}', "0 of column"),
        ("a.json", '{"testCases": [{"name": "x"}]}', "test case 0 has no input"),
        ("a.json", '{"testCases": [{"input": "x", "metricsData": 3}]}', "not what the tool writes"),
        ("a.jsonl", "", "0 of filter"),
        ("a.jsonl", '[1]\n', "no doc_hash, prompt_hash, target_hash, metrics, filter"),
        ("a.txt", "hello", "no JSON"),
    ],
)  # fmt: skip
def test_what_is_none_of_it_is_said_in_words(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ImportedError, match=message):
        read(tmp_path / name)


def test_a_path_that_is_not_there(tmp_path):
    with pytest.raises(ImportedError, match="no such file"):
        read(tmp_path / "gone.json")
    with pytest.raises(ImportedError, match="no samples_TASK_DATE"):
        read(tmp_path)


FILES = ("inspect.json", "promptfoo.json", "deepeval.json")


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    name=st.sampled_from(FILES),
    seed=st.randoms(use_true_random=False),
    junk=st.one_of(st.none(), st.integers(), st.text(max_size=3), st.just([]), st.just({}), st.just([[1]])),
)
def test_a_field_of_any_other_kind_gives_samples_or_a_clear_error(tmp_path_factory, name, seed, junk):
    root = json.loads((REAL / name).read_text())
    place, key = root, None
    while True:  # down a random way, and something else there
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = seed.choice(list(keys))
        if not isinstance(place[key], (dict, list)) or not place[key] or seed.random() < 0.2:
            break
        place = place[key]
    place[key] = junk
    path = tmp_path_factory.mktemp("junk") / name
    path.write_text(json.dumps(root))
    choice = {"inspect.json": {}, "promptfoo.json": {"column": "tuned | parse"}, "deepeval.json": {"metric": "Exact Match"}}[name]
    with suppress(ImportedError):  # anything else is no clear error
        run = read(path, **choice)
        assert run.samples and all((s.value is None) == (s.status != "ok") for s in run.samples)
    shutil.rmtree(path.parent)


def test_a_score_that_is_better_when_lower_is_refused(tmp_path):
    path = lm_run(tmp_path, lm_rows([3.0, 4.0], metric="word_perplexity"), metric="word_perplexity")
    with pytest.raises(ImportedError, match="word_perplexity is better the lower it is"):
        read(path)
