"""lm-eval's tasks on our engines, held against lm-eval's own Hugging Face backend on the same model."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from harness.engines import open_engine
from harness.errors import EngineError, ImportedError
from harness.evals import bridge
from harness.evals.bridge import lmeval
from harness.types import Scored

pytestmark = [
    pytest.mark.selftest,
    # lm-eval and what it needs warn of their own affairs
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

HEAD = "dataset_path: json\ndataset_kwargs: {{data_files: {{test: {data}}}}}\ntest_split: test\nmetadata: {{version: 2.0}}\n"
CHOICE = """task: choice
output_type: multiple_choice
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{answer}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}, {{metric: acc_norm}}, {{metric: exact_match}}]
"""
TEXT = """task: said
output_type: generate_until
doc_to_text: "Question: {{{{question}}}}\\nAnswer:"
doc_to_target: "{{{{choices[answer]}}}}"
generation_kwargs: {{until: ["o", "\\n"], max_gen_toks: {tokens}{more}}}
metric_list: [{{metric: exact_match}}]
repeats: {repeats}
"""
LAST = """task: last
output_type: loglikelihood
doc_to_text: "{{{{question}}}} "
doc_to_target: "{{{{choices[0]}}}}"
metric_list: [{{metric: acc}}, {{metric: perplexity}}]
"""
ROLL = """task: roll
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{question}}}}"
metric_list: [{{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """What datasets keeps stays in the test's own folder."""
    import datasets.config

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    questions = ["What is the capital of France?", "Which fox jumps?", "How many?\tTell", "Über was springt er"]
    rows = [
        {"question": q, "choices": ["Paris", "the quick brown fox", "9", "lazy dog 0123", "zz"][: 3 + n % 3], "answer": n % 3}
        for n, q in enumerate(questions * 3)
    ]
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps({**row, "question": f"{n}. {row['question']}"}) + "\n" for n, row in enumerate(rows)))
    texts = (CHOICE, TEXT.format(tokens=8, more="", repeats=1), LAST, ROLL)
    for n, text in enumerate(texts):
        made = text if text.startswith("task: said") else text.format()
        (folder / f"{n}.yaml").write_text(HEAD.format(data=data) + made)
    return folder


@pytest.fixture(scope="module")
def engine(tiny_folder):
    opened = open_engine("hf", tiny_folder, dtype="float32", device="cpu")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def theirs(tiny_folder, tasks):
    """The samples that lm-eval itself makes of the same tasks, by task."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    names = ["choice", "said", "last", "roll"]
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(names)
    for task in loaded["tasks"].values():
        task.set_config(key="num_fewshot", value=0)
    model = HFLM(str(tiny_folder), device="cpu", dtype="float32", batch_size=4)
    return evaluate(model, loaded, bootstrap_iters=0)["samples"]


@pytest.fixture(scope="module")
def ours(engine, tasks, tmp_path_factory):
    seen = []
    files = lmeval.run(
        engine,
        ["choice", "said", "last", "roll"],
        include=tasks,
        out=tmp_path_factory.mktemp("out"),
        name="tiny",
        progress=lambda *a: seen.append(a),
    )
    assert seen[-1][1] == seen[-1][2]
    return {file.name.split("_")[1]: file for file in files}


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_log_probabilities_and_greedy_are_those_of_the_reference(ours, theirs):
    compared = 0
    for task in ("choice", "last"):
        for mine, reference in zip(rows(ours[task]), theirs[task], strict=True):
            assert {k: mine[k] for k in ("doc_hash", "prompt_hash", "target_hash")} == {
                k: reference[k] for k in ("doc_hash", "prompt_hash", "target_hash")
            }
            for (said,), (expected,) in zip(mine["resps"], reference["resps"], strict=True):
                assert float(said[0]) == pytest.approx(expected[0], abs=1e-4)
                assert said[1] == str(expected[1])
                compared += 1
    assert compared > 50


def test_scores_are_those_of_the_reference(ours, theirs):
    for task, metrics in {"choice": ("acc", "acc_norm", "exact_match"), "said": ("exact_match",), "last": ("acc",)}.items():
        for metric in metrics:
            assert [row[metric] for row in rows(ours[task])] == [row[metric] for row in theirs[task]]
    assert [row["resps"] for row in rows(ours["said"])] == [row["resps"] for row in theirs["said"]]
    for mine, reference in zip(rows(ours["roll"]), theirs["roll"], strict=True):
        assert mine["bits_per_byte"][0] == pytest.approx(reference["bits_per_byte"][0], abs=1e-3)


def test_a_token_across_the_border_is_the_contexts_and_noted(engine):
    """lm-eval scores the tokens behind as many as the context alone has; here too, and the row says that there is such a case."""
    context, continuation = "the qui", "ck brown fox"
    whole, alone = engine.tokenize(context + continuation), engine.tokenize(context)
    assert whole[: len(alone)] != alone  # the case is there
    scored = engine.logprobs([Scored("t", context, (continuation,))])[0]
    behind = len(whole) - len(alone)
    assert len(scored.tokens[0]) > behind
    model = lmeval.adapter(engine)
    ((total, _),) = model.loglikelihood([plain_request(context, continuation)])
    assert total == pytest.approx(sum(scored.logprobs[0][-behind:]), abs=1e-6)
    assert model.kept["task", 0].merged == [continuation]


def test_without_such_a_token_nothing_is_noted(ours):
    assert not any("merged" in row["harness"] for row in rows(ours["choice"]))


@pytest.fixture
def leading(tiny_folder, tmp_path):
    """The tiny model with a tokenizer that puts a beginning-of-sequence token before every text."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(tiny_folder, tmp_path / "leading")
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    token = AutoTokenizer.from_pretrained(folder).bos_token
    single = [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [1], "tokens": [token]}},
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    opened = open_engine("hf", folder, dtype="float32", device="cpu")
    yield opened
    opened.close()


def test_a_prompt_that_begins_with_the_mark_gets_no_second_one(leading):
    from lm_eval.models.huggingface import HFLM

    context = leading.render([{"role": "user", "content": "Paris?"}])
    assert leading.tokenize(context)[:2] == [1, 1]  # what would happen
    requests = [plain_request(context, " Paris is"), plain_request("Paris", " is the capital"), plain_request("", "London")]
    reference = HFLM(str(leading.folder), device="cpu", dtype="float32", softmax_dtype="float32")
    expected = reference.loglikelihood(requests, disable_tqdm=True)
    for (total, greedy), (wanted, also) in zip(lmeval.adapter(leading).loglikelihood(requests), expected, strict=True):
        assert total == pytest.approx(wanted, abs=1e-4) and greedy == also


def test_prompts_by_the_models_own_template(engine, tasks, tmp_path):
    (file,) = lmeval.run(engine, ["said"], include=tasks, limit=2, out=tmp_path, chat=True)
    question = json.loads((tasks / "data.jsonl").read_text().splitlines()[0])["question"]
    rendered = engine.render([{"role": "user", "content": f"Question: {question}\nAnswer:"}])
    assert rows(file)[0]["arguments"]["gen_args_0"]["arg_0"] == rendered


class Spy:
    """What an engine is asked."""

    def __init__(self, engine):
        self.engine, self.asked = engine, []

    def __getattr__(self, name):
        return getattr(self.engine, name)

    def logprobs(self, texts):
        self.asked += texts
        return self.engine.logprobs(texts)


def test_continuations_of_a_document_go_together_and_whole_distributions_only_where_needed(engine, tasks, tmp_path):
    from lm_eval.tasks import TaskManager

    spy = Spy(engine)
    lmeval.run(spy, ["choice", "last"], include=tasks, limit=4, out=tmp_path)
    assert sorted(len(text.continuations) for text in spy.asked) == [1, 1, 1, 1, 3, 3, 4, 5]
    loaded = TaskManager(include_path=str(tasks), include_defaults=False).load(["choice", "last"])["tasks"]
    assert {name for name, task in loaded.items() if lmeval._reads_greedy(task)} == {"choice", "last"}
    plain = loaded["choice"]
    plain.config.metric_list = [{"metric": "acc"}]
    assert not lmeval._reads_greedy(plain)
    asked = Spy(engine)
    (answer,) = lmeval.adapter(asked, greedy=set()).loglikelihood([plain_request("Paris is", " the")])
    assert answer[1] is False and not asked.asked[0].full


def plain_request(context, continuation):
    from lm_eval.api.instance import Instance

    return Instance("loglikelihood", {}, (context, continuation), 0, metadata=("task", 0, 1))


def test_what_is_written_is_read_back_with_status(ours, tasks, engine, tmp_path):
    run = bridge.read(ours["said"])
    assert run.source == "lm-eval" and run.metric == "lm-eval:said:exact_match"
    assert run.conditions["harness"]["engine"] == "hf" and run.conditions["reported_se"] is None
    finishes = [row["harness"]["finish"] for row in rows(ours["said"])]
    assert ["length"] in finishes and ["stop"] in finishes
    assert [s.status for s in run.samples] == ["truncated" if f == ["length"] else "ok" for f in finishes]
    assert all(len(row["harness"]["prompt_tokens_digest"][0]) == 64 for row in rows(ours["choice"]))
    assert len(bridge.read(ours["choice"], metric="acc").samples) == 12


def test_a_prompt_too_long_is_an_error_of_its_item(engine, tasks, tmp_path):
    folder = tmp_path / "long"
    folder.mkdir()
    (folder / "data.jsonl").write_text(
        "".join(json.dumps({"question": q, "choices": ["x"], "answer": 0}) + "\n" for q in ("short", "long " * 600))
    )
    (folder / "said.yaml").write_text(HEAD.format(data=folder / "data.jsonl") + TEXT.format(tokens=8, more="", repeats=1))
    (file,) = lmeval.run(engine, ["said"], include=folder, out=tmp_path / "out")
    last = bridge.read(file).samples[1]
    assert last.status == "error" and last.value is None and "positions" in last.detail["error"]


def test_repeated_sampling_draws_again(engine, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "Which?", "choices": ["x"], "answer": 0}) + "\n")
    (tmp_path / "said.yaml").write_text(
        HEAD.format(data=tmp_path / "data.jsonl") + TEXT.format(tokens=6, more=", do_sample: true, temperature: 1.0", repeats=4)
    )
    (file,) = lmeval.run(engine, ["said"], include=tmp_path, out=tmp_path / "out")
    (drawn,) = rows(file)[0]["resps"]
    assert len(drawn) == 4 and len(set(drawn)) > 1


def test_settings_that_would_be_ignored_are_refused(engine, tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "Which?", "choices": ["x"], "answer": 0}) + "\n")
    (tmp_path / "said.yaml").write_text(HEAD.format(data=tmp_path / "data.jsonl") + TEXT.format(tokens=6, more=", num_beams: 4", repeats=1))
    with pytest.raises(ImportedError, match="num_beams"):
        lmeval.run(engine, ["said"], include=tmp_path, out=tmp_path / "out")
    with pytest.raises(ImportedError, match=r"sayd.*said"):
        lmeval.run(engine, ["sayd"], include=tmp_path, out=tmp_path / "out")


class NoStart(Spy):
    """A model without a beginning-of-sequence token: its first token is context only."""

    def logprobs(self, texts):
        from dataclasses import replace

        return [replace(s, tokens=(s.tokens[0][1:],), logprobs=(s.logprobs[0][1:],)) for s in self.engine.logprobs(texts)]


def test_a_first_token_that_the_engine_does_not_score_is_no_silent_difference(engine):
    from lm_eval.api.instance import Instance

    request = Instance("loglikelihood_rolling", {}, ("Paris is the capital",), 0, metadata=("task", 0, 1))
    assert lmeval.adapter(engine).loglikelihood_rolling([request])[0] < 0
    with pytest.raises(EngineError, match="end-of-sequence"):
        lmeval.adapter(NoStart(engine)).loglikelihood_rolling([request])


def test_nothing_is_fetched_and_the_settings_are_put_back():
    import huggingface_hub.constants

    before = (os.environ.get("HF_HUB_OFFLINE"), huggingface_hub.constants.HF_HUB_OFFLINE)
    with lmeval._offline():
        assert os.environ["HF_DATASETS_OFFLINE"] == "1" and huggingface_hub.constants.HF_HUB_OFFLINE is True
    assert (os.environ.get("HF_HUB_OFFLINE"), huggingface_hub.constants.HF_HUB_OFFLINE) == before


def test_the_verb_writes_what_compare_reads(tmp_path, monkeypatch, capsys):
    """On an engine that says the same of everything: the files are there, and hold what was asked."""
    from harness import __main__ as shell
    from harness.evals.bridge import read

    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text('{"q": "1 + 1 =", "a": 0}\n{"q": "2 + 2 =", "a": 1}\n')
    (tmp_path / "tasks" / "sums.yaml").write_text(
        f"task: sums\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: {tmp_path / 'rows.jsonl'}}}}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "{{q}}"\ndoc_to_choice: ["2", "4"]\ndoc_to_target: a\nmetric_list: [{metric: acc}]\n'
    )
    (tmp_path / "answers.json").write_text("{}")
    (tmp_path / "lifecycle.toml").write_text('[lifecycle]\nname = "mine"\n')
    asked = ["lmeval", f"mine=fake:{tmp_path / 'answers.json'}", "--task", "sums", "--include", str(tmp_path / "tasks")]
    asked += ["--out", str(tmp_path / "out"), "--lifecycle", str(tmp_path / "lifecycle.toml"), "--store", str(tmp_path / "store")]
    assert shell.main(asked) == 0
    assert "samples_sums" in capsys.readouterr().out
    assert len(read(tmp_path / "out" / "mine").samples) == 2
    assert shell.main([*asked[:3], "smus", *asked[4:]]) == 1
    assert "smus" in capsys.readouterr().err
