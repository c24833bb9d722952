"""T1 to T3 on a tiny model: renderings, masks and packs are as they should be, and each mutant is seen."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines import open_engine
from harness.errors import ConfigError, EngineError, SubjectError
from harness.train.invariants import mask, packing, render
from harness.train.recipe import Recipe

pytestmark = pytest.mark.selftest

ROWS = [([{"role": "user", "content": f"the quick {i}"}], f"fox {i * 7}" if i % 2 else "dog") for i in range(12)]
RECIPE = Recipe(rank=4, alpha=8, batch=4, max_length=64, dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def _needs_trl():
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)


def wrong(rows):
    return [row["name"] for row in rows if row["found"] != row["expected"]]


# --- T1 -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def seen(tiny_folder):
    return render.trained(tiny_folder, RECIPE)


@pytest.fixture(scope="module", params=["hf", "llamacpp"])
def engine(request, tiny_folder):
    place = tiny_folder if request.param == "hf" else request.getfixturevalue("tiny_gguf")
    found = open_engine(request.param, place)
    yield found
    found.close()


def test_training_and_engines_render_alike(seen, engine):
    end, expected = seen
    assert end == "<|im_end|>" and len(expected) == len(render.SHAPES) >= 12
    assert wrong(render.compare(render.served(engine, end), expected)) == []
    assert all(parts["whole"][: len(parts["prompt"])] == parts["prompt"] and parts["whole"][-1] == 2 for parts in expected.values())


@pytest.mark.parametrize("fault", render.FAULTS)
def test_each_fault_of_a_rendering_is_seen(seen, engine, fault):
    end, expected = seen
    shapes = set(wrong(render.compare(render.served(engine, end, fault=fault), expected)))
    assert len(shapes) >= len(expected) - sum(shape[0]["role"] == "system" for shape in render.SHAPES.values())
    with pytest.raises(ConfigError, match="no end mark"):
        render.served(engine, end, fault="no end mrak")


def test_a_rendering_is_compared_to_its_last_token():
    found, expected = ({"a": {"prompt": ids, "whole": [1, 2, 3]}} for ids in ([1, 2], [1, 2, 9]))
    row, same = render.compare(found, expected)
    assert row["found"] == {"tokens": 2, "from": 2, "ids": []} and row["expected"] == {"tokens": 3, "from": 2, "ids": [9]}
    assert same["found"] == same["expected"]


# --- T2 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", mask.FAULTS)
def test_the_mask_is_the_answer(tiny_folder, form):
    rows = mask.covered(tiny_folder, ROWS, RECIPE, form)
    assert wrong(rows) == []
    assert len(rows) == {"multi_turn": 6, "preference": 24}.get(form, 12)
    assert all(text.rstrip("\n").endswith("<|im_end|>") for row in rows for text in row["found"])


@pytest.mark.parametrize(("form", "fault"), [(form, fault) for form, faults in mask.FAULTS.items() for fault in faults])
def test_each_fault_of_a_mask_is_seen_in_every_row(tiny_folder, form, fault):
    rows = mask.covered(tiny_folder, ROWS, RECIPE, form, fault)
    assert len(wrong(rows)) == len(rows)


def test_one_row_that_vanished_is_seen_among_others(tiny_folder):
    long = [{"role": "user", "content": "the quick brown fox " * 20}]
    rows = mask.covered(tiny_folder, [*ROWS, (long, "dog")], RECIPE, "prompt_completion")
    assert wrong(rows) == ["row 12"] and rows[12]["found"] is None


def test_an_unknown_fault_names_the_nearest(tiny_folder):
    with pytest.raises(ConfigError, match="off by one"):
        mask.covered(tiny_folder, ROWS, RECIPE, "packed", "off by two")


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(tiny_folder))


words = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3))
def test_every_answer_and_its_end_mark_are_masked_in(tokenizer, turns):
    messages = [{"role": role, "content": text} for turn in turns for role, text in zip(("user", "assistant"), turn, strict=True)]
    found = mask.answers_masked(tokenizer, messages)
    inside = [token for token, on in zip(found["input_ids"], found["assistant_masks"], strict=True) if on]
    assert tokenizer.decode(inside) == "".join(answer + "<|im_end|>" for _, answer in turns)
    assert tokenizer.decode(found["input_ids"]) == tokenizer.apply_chat_template(messages, tokenize=False)


def test_a_template_that_rewrites_answers_is_refused(tokenizer):
    kept = tokenizer.chat_template
    try:
        tokenizer.chat_template = kept.replace("message['content']", "message['content'].strip()")
        with pytest.raises(SubjectError, match="turn 1"):
            mask.answers_masked(tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": " b "}])
    finally:
        tokenizer.chat_template = kept


# --- T3 -------------------------------------------------------------------------------------------


def test_packed_rows_stay_apart_and_leaks_are_seen(tiny_folder):
    found = packing.leaks(tiny_folder, ROWS[:6], RECIPE)
    apart = {fault: max(row["value"] for row in rows) for fault, rows in found.items()}
    assert len(found[""]) > 1 and apart[""] < 1e-3
    assert all(apart[fault] > 0.1 for fault in packing.FAULTS)


def test_where_nothing_is_packed_nothing_is_shown(tiny_folder):
    with pytest.raises(EngineError, match="nothing is packed"):
        packing.leaks(tiny_folder, ROWS[:1], RECIPE)
