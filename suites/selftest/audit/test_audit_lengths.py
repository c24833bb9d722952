"""Lengths, held against rendering and tokenising every row whole."""

from __future__ import annotations

import json
import pickle
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import lengths, model, tokens
from harness.audit.lengths import EDGES, Lengths
from harness.errors import AuditError
from suites.selftest.audit.making import batch, found, report

pytestmark = pytest.mark.selftest

CHATML = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TRIMS = CHATML.replace("m['content']", "m['content'] | trim")
UNMARKED = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"  # as [INST] of Llama 2: no special tokens
LOOKS = CHATML.replace("m['content']", "(m['content'] if 'secret' not in m['content'] else 'a a a a a a a a')")
TWICE = "{{ messages[0]['content'] }}" + CHATML
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
TOOLS = "{% if tools %}{{ '<|im_start|>tools\n' }}{% for t in tools %}{{ t.name }}{% endfor %}{% endif %}" + CHATML


def folder(root, template=CHATML, normalizer=None, where="jinja", **added):
    """A byte-level tokenizer of 300 tokens with a chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    special = [AddedToken(name, special=True, normalized=False, **added) for name in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator(["the quick brown fox jumps over the lazy dog\n\n", "user assistant system answer the question"] * 4, trainer)
    if normalizer is not None:
        made.normalizer = normalizer
    root.mkdir(exist_ok=True)
    made.save(str(root / "tokenizer.json"))
    config = {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>"}}
    if where == "jinja":
        (root / "chat_template.jinja").write_text(template)
    elif where == "config":
        config["chat_template"] = template
    elif where == "list":
        config["chat_template"] = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": template}]
    (root / "tokenizer_config.json").write_text(json.dumps(config))
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return folder(tmp_path_factory.mktemp("tokenizer"))


WORDS = [
    "the",
    "quick",
    " fox",
    "\n",
    "\n\n",
    " ",
    "12",
    "žluť",
    "日本",
    "<|im_end|>",
    "<|im_start|>user\n",
    "it's",
    "\t",
    "dog.",
    "<|im",
    "𝄞",
]


def said(rng, n=12):
    return "".join(rng.choices(WORDS, k=rng.randrange(n)))


def chats(rng, n):
    shared = [said(rng) for _ in range(4)]
    rows = []
    for _ in range(n):
        row = [("system", "prompt", rng.choice(shared))] if rng.random() < 0.5 else []
        for _ in range(rng.randrange(1, 3)):
            row += [("user", "prompt", said(rng)), ("assistant", "answer", said(rng))]
        rows.append(tuple(row) if rng.random() < 0.9 else (("other", "answer", said(rng)),))
    return list(dict.fromkeys(rows))


def oracle(root, row, generation=False):
    """Tokens of a row: rendered with jinja alone, encoded with tokenizers alone."""
    import jinja2
    from tokenizers import Tokenizer

    if all(role == "other" for role, _, _ in row):
        rendered = "".join(text for _, _, text in row)
    else:
        template = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string((root / "chat_template.jinja").read_text())
        messages = [{"role": role, "content": text} for role, _, text in row]
        rendered = template.render(messages=messages, add_generation_prompt=generation, tools=None)
    return len(Tokenizer.from_file(str(root / "tokenizer.json")).encode(rendered, add_special_tokens=False).ids)


def facts(check, rows):
    made = batch(rows)
    return check.partial(made).to_pylist()


# --- tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, TRIMS, UNMARKED, LOOKS, TWICE], ids=["chatml", "trims", "unmarked", "looks", "twice"])
@pytest.mark.parametrize("normalizer", [None, "NFKC", "Prepend"])
def test_units_give_the_tokens_of_the_whole(tmp_path, template, normalizer):
    from tokenizers import normalizers

    root = folder(tmp_path / "t", template, normalizer and getattr(normalizers, normalizer)(*["▁"] * (normalizer == "Prepend")))
    rows = chats(random.Random(7), 120)
    expected = [oracle(root, row) for row in rows]
    assert [line["tokens"] for line in facts(Lengths(root, 10), rows)] == expected
    assert [line["tokens"] for line in facts(Lengths(root, 10, whole=True), rows)] == expected


def test_units_are_used_where_they_hold_and_refused_where_they_do_not(tmp_path):
    roles = ("system", "user", "assistant")
    plan = tokens.serving(str(folder(tmp_path / "a"))).plan(roles)
    assert [len(unit) for unit in plan.units] == [2, 2, 2]
    assert plan.strip == (False,) * 3
    assert tokens.serving(str(folder(tmp_path / "b", TRIMS))).plan(roles).strip == (True,) * 3
    assert len(tokens.serving(str(folder(tmp_path / "c", UNMARKED))).plan(roles).units) == 1
    assert tokens.serving(str(folder(tmp_path / "d", TWICE))).plan(roles) is None
    swallows = folder(tmp_path / "e", rstrip=True)  # takes the spaces behind it: no place to cut
    assert len(tokens.serving(str(swallows)).plan(roles).units) == 1


def test_a_template_that_looks_into_texts_is_found_out(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths, "_PROOF", 1)
    root = folder(tmp_path / "t", LOOKS)
    rows = [(("user", "prompt", text), ("assistant", "answer", "yes")) for text in ("a secret", "no", "another secret here")]
    made = report(Lengths(root, 5), batch(rows)).summary["tokens"]
    assert (made["by_units"], made["proven"], made["differ"]) == (3, 1, 2)
    assert made["max"] == max(oracle(root, row) for row in rows)


def test_no_row_is_missed_by_the_bound_of_bytes(tmp_path):
    from tokenizers import normalizers

    rng = random.Random(3)
    for name in (None, "NFC", "NFKD"):
        root = folder(tmp_path / str(name), CHATML, name and getattr(normalizers, name)())
        rows = [*chats(rng, 150), (("user", "prompt", "\ufdfa" * 40), ("assistant", "answer", "ok"))]
        for context in (40, 60, 100, 400):
            told = report(Lengths(root, context, rate=1e-9), batch(rows))
            exact = [oracle(root, row) for row in rows]
            over = {row["row"]: row["num"] for row in found(told) if row["kind"] == "over_context"}
            assert over == {i: n for i, n in enumerate(exact) if n > context}
            assert told.summary["tokens"]["over_context"] == len(over)
            assert told.summary["tokens"]["max"] == (max(exact) if over else None)
        assert report(Lengths(root, 100_000, rate=1e-9), batch(rows)).summary["tokens"]["within"] == len(rows)


def test_an_unknown_normaliser_leaves_no_bound(tmp_path):
    from tokenizers import normalizers

    root = folder(tmp_path / "t", CHATML, normalizers.Replace("a", "bdfhjlnprtvxz"))
    rows = [*chats(random.Random(1), 30), (("user", "prompt", "a" * 50), ("assistant", "answer", "a"))]
    exact = [oracle(root, row) for row in rows]
    assert sum(len(text) for _, _, text in rows[-1]) + 120 < 300 < exact[-1]
    told = found(report(Lengths(root, 300, rate=1e-9), batch(rows)))
    assert {row["row"]: row["num"] for row in told if row["kind"] == "over_context"} == {i: n for i, n in enumerate(exact) if n > 300}


def test_what_is_before_the_answer_fills_the_context(plain):
    long = "quick brown fox " * 20
    rows = [[("user", "prompt", long), ("assistant", "answer", "yes")], [("user", "prompt", "why"), ("assistant", "answer", long)]]
    kinds = [(row["row"], row["kind"], row["num"], row["den"]) for row in found(report(Lengths(plain, 64), batch(rows), [0, 1, 0]))]
    whole = [oracle(plain, row) for row in rows]
    before = oracle(plain, rows[0][:1], generation=True)
    assert kinds == [
        (0, "over_context", whole[0], 64), (2, "over_context", whole[0], 64), (1, "over_context", whole[1], 64),
        (0, "answer_truncated", before, 64), (2, "answer_truncated", before, 64),
    ]  # fmt: skip


def test_the_longer_chat_of_a_pair_counts(plain):
    asked, good, bad = ("user", "prompt", "which"), ("assistant", "answer", "this"), ("assistant", "rejected", "that " * 9)
    (line,) = facts(Lengths(plain, 5), [[asked, good, bad, ("other", "meta", "not read " * 50)]])
    assert line["tokens"] == oracle(plain, [asked, bad])


def test_the_prompt_of_the_server_is_counted(plain):
    rows = [[("user", "prompt", "which"), ("assistant", "answer", "this")]]
    (line,) = facts(Lengths(plain, 5, "Say {input} now"), rows)
    assert line["tokens"] == oracle(plain, [("user", "prompt", "Say which now"), rows[0][1]])
    made = report(Lengths(plain, 300, "quick fox " * 200 + "{input}", rate=1e-9), batch(rows))
    assert made.summary["tokens"]["over_context"] == 1


def test_tools_are_given_to_the_template(tmp_path):
    root = folder(tmp_path / "t", TOOLS)
    asked = [("user", "prompt", "sum"), ("assistant", "answer", "3")]
    with_tools, without = facts(Lengths(root, 5), [[*asked, ("other", "tools", '[{"name": "add"}]')], asked])
    assert with_tools["how"] == 3
    assert with_tools["tokens"] > without["tokens"]


def test_rows_that_the_template_refuses_are_findings(tmp_path):
    root = folder(tmp_path / "t", REFUSES)
    rows = [[("system", "prompt", "x"), ("user", "prompt", "y")], [("user", "prompt", "y"), ("assistant", "answer", "z")]]
    (row,) = found(report(Lengths(root, 100), batch(rows)))
    assert (row["row"], row["kind"]) == (0, "template_refuses")
    assert row["detail"] == "the chat template refuses it: System role not supported"


def test_facts_do_not_depend_on_the_batch_and_travel(plain):
    rows = chats(random.Random(9), 60)
    check = pickle.loads(pickle.dumps(Lengths(plain, 200, rate=0.5)))
    halves = model.merge([check.partial(batch(rows[i::2])) for i in range(2)], "row")
    assert halves.equals(model.merge([check.partial(batch(rows))], "row"))
    tokens = [line["tokens"] for line in check.partial(batch(rows)).to_pylist()]
    assert None in tokens
    full = [line["tokens"] for line in facts(Lengths(plain, 200), rows)]
    assert all(some in (None, every) for some, every in zip(tokens, full, strict=True))


# --- characters, words, quantiles -----------------------------------------------------------------


def test_without_a_tokenizer_there_are_characters_and_words_and_a_reason():
    rows = [[("user", "prompt", "žluť 日本 it's"), ("assistant", "answer", "\ud800 b")], [("user", "prompt", "")]]
    told = report(Lengths(), batch(rows)).summary
    assert [(line["chars"], line["words"]) for line in facts(Lengths(), rows)] == [(15, 5), (0, 0)]
    assert told["tokens"] is None
    assert "no tokenizer was given" in told["why_no_tokens"]


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=60))
def test_quantiles_and_histogram(values):
    told = lengths._said(np.array(values), exact=True)
    for q in (0.5, 0.95, 0.99):
        at = told[f"p{round(100 * q)}"]
        assert at in values
        assert sum(value <= at for value in values) >= q * len(values) > sum(value < at for value in values)
    counts = [sum(low <= value < high for value in values) for low, high in zip(EDGES, [*EDGES[1:], float("inf")], strict=True)]
    assert told["histogram"] == counts
    assert told["max"] == max(values)


def test_intervals_of_a_sample_hold_the_truth_as_often_as_they_say(plain):
    rng = np.random.default_rng(4)
    population = np.sort(np.exp(rng.normal(4, 1, 20_000)).astype(int))
    truth = {f"p{round(100 * q)}": population[int(np.ceil(q * len(population))) - 1] for q in (0.5, 0.95, 0.99)}
    missed = dict.fromkeys(truth, 0)
    for _ in range(300):
        told = lengths._said(rng.choice(population, 600), exact=False)
        for name, value in truth.items():
            low, high = told[f"{name}_interval"]
            missed[name] += not (low is None or low <= value) or not (high is None or value <= high)
    assert max(missed.values()) <= 30  # 5 % of 300 is 15; more than 30 has a chance below 1e-3
    small = lengths._said(np.array([3, 4]), exact=False)
    assert small["p99_interval"][1] is None


def test_rows_are_drawn_by_their_digests():
    digests = np.random.default_rng(0).integers(0, 2**64, (20_000, 2), np.uint64)
    drawn = [lengths._drawn(digests, rate) for rate in (0.01, 0.1, 1.0)]
    assert [round(d.mean(), 2) for d in drawn] == [0.01, 0.1, 1.0]
    assert not (drawn[0] & ~drawn[1]).any()


def test_outliers_on_both_sides_are_remarked():
    rng = random.Random(0)
    texts = ["word " * rng.randrange(80, 120) for _ in range(60)] + ["x" * 60_000, "hi"]
    rows = [[("user", "prompt", f"{i} {text}")] for i, text in enumerate(texts)]
    outliers = [row for row in found(report(Lengths(), batch(rows))) if row["kind"] == "outlier"]
    assert [row["row"] for row in outliers] == [60, 61]
    assert outliers[0]["num"] == 60_003
    assert not found(report(Lengths(), batch([[("user", "prompt", f"{i:04}" + "y" * (i % 7 == 0))] for i in range(50)])))


# --- folders --------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["config", "list"])
def test_the_template_may_stand_in_the_configuration(tmp_path, plain, where):
    other = folder(tmp_path / "t", where=where)
    rows = chats(random.Random(2), 10)
    assert facts(Lengths(other, 5), rows) == facts(Lengths(plain, 5), rows)
    assert Lengths(other, 5).options == Lengths(plain, 5).options


def test_what_shapes_facts_is_in_the_options(tmp_path, plain):
    other = folder(tmp_path / "t", TRIMS)
    told = [
        Lengths(plain),
        Lengths(other),
        Lengths(plain, 9),
        Lengths(plain, rate=0.5),
        Lengths(plain, whole=True),
        Lengths(plain, prompt="{input}."),
    ]
    assert len({json.dumps(check.options) for check in told}) == len(told)
    assert Lengths(plain, spread=2.0).options == Lengths(plain).options


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("tokenizer.json", None, "expected the folder of a model"),
        ("tokenizer.json", "{}", "no tokenizer that can be read"),
        ("tokenizer_config.json", "[", "found no JSON"),
        ("tokenizer_config.json", "[]", "expected an object"),
        ("chat_template.jinja", None, "no chat template"),
        ("chat_template.jinja", "{% for %}", "not valid Jinja"),
    ],
)
def test_a_broken_folder_is_an_error_that_says_what_to_do(tmp_path, name, content, said):
    root = folder(tmp_path / "t")
    (root / name).unlink()
    if content is not None:
        (root / name).write_text(content)
    with pytest.raises(AuditError, match=said):
        _ = Lengths(root, 5).options


@pytest.mark.parametrize("given", [{"context": 0}, {"prompt": "no place"}, {"rate": 0.0}, {"rate": 1.5}, {"spread": 0.0}])
def test_bad_options_are_refused(given):
    with pytest.raises(AuditError, match="expected"):
        Lengths(**given)


@pytest.mark.parametrize("text", ["", "\ud800", "\x00", "{{ 1 / 0 }}", "{% raw %}", "\ue0000\ue001", "<|im_start|>" * 50, "x" * 200_000])
def test_hostile_texts_pass(plain, text):
    (line,) = facts(Lengths(plain, 8), [[("user", "prompt", text), ("assistant", "answer", text)]])
    assert line["tokens"] > 0
    assert line["refused"] is None
