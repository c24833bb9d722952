"""Variants keep what they promise: the same content in another dress, or other content of the same form."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError, GoldenError
from harness.evals import metamorphic
from harness.golden import GoldenSet, load

pytestmark = pytest.mark.selftest

GOLDEN = Path(__file__).parents[3] / "golden"
PROMPT = "Parse this US address into JSON with keys number, city (omit absent ones).\nAddress: {input}"


def a_set(items, kind="json_extraction", prompt=PROMPT):
    return GoldenSet("made", kind, tuple(items), "d1", len(items), "MIT", "made", Path("made.jsonl"), prompt)


ITEM = {"id": "a-1", "input": "12 Elm St, Rome NY 10301", "target": {"number": "12", "street": "Elm St", "city": "Rome", "zip": "10301"}}
QUESTION = {"id": "q-1", "question": "Why?", "choices": ["a", "b", "c", "d"], "answer": 1}


def test_a_golden_set_in_every_variant_that_fits():
    chosen = load("addresses", GOLDEN, limit=50)
    digests = set()
    for name in metamorphic.variants_of(chosen.kind):
        varied = metamorphic.vary(chosen, name)
        assert [i["id"] for i in varied.items] == [i["id"] for i in chosen.items]
        assert "{input}" in varied.prompt
        assert varied.digest.startswith(f"{chosen.digest}+variant={name}:")
        assert (varied.items, varied.prompt) != (chosen.items, chosen.prompt)
        assert metamorphic.vary(chosen, name) == varied
        digests.add(varied.digest)
    assert len(digests) == len(metamorphic.variants_of(chosen.kind))


def test_words_are_changed_in_the_instruction_only():
    item, prompt = metamorphic.VARIANTS["rephrased"](ITEM, PROMPT)
    assert item == ITEM
    assert prompt == "Convert the following US address into JSON under the keys number, city (leave out missing ones).\nAddress: {input}"
    _, turned = metamorphic.VARIANTS["input_first"](ITEM, PROMPT)
    assert turned.splitlines() == PROMPT.splitlines()[::-1]
    _, back = metamorphic.VARIANTS["input_first"](ITEM, turned)
    assert back == PROMPT


@pytest.mark.parametrize("name", ["rephrased", "input_first"])
def test_a_prompt_that_cannot_be_changed_is_refused(name):
    with pytest.raises(GoldenError, match="Leave this variant out"):
        metamorphic.vary(a_set([ITEM], prompt="{input}"), name)


def test_the_dress_changes_and_the_words_do_not():
    assert metamorphic.VARIANTS["blanks"](ITEM, PROMPT)[0]["input"].split() == ITEM["input"].split()
    assert metamorphic.VARIANTS["blanks"](ITEM, PROMPT)[0]["target"] == ITEM["target"]
    once = metamorphic.VARIANTS["full_stop"](ITEM, PROMPT)[0]
    assert once["input"] == f"{ITEM['input']}."
    assert metamorphic.VARIANTS["full_stop"](once, PROMPT)[0] == once
    assert metamorphic.VARIANTS["uppercase"](ITEM, PROMPT)[0]["target"]["street"] == "ELM ST"


TEXTS = st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=20)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(TEXTS, st.text("0123456789", min_size=1, max_size=12), st.text(min_size=1, max_size=8))
def test_renumbered_keeps_the_form_and_changes_every_digit_but_zero(before, digits, name):
    shown = f"{before} {digits}"
    item = {"id": name, "input": shown, "target": {"zip": digits, "street": before}}
    changed, _ = metamorphic.VARIANTS["renumbered"](item, PROMPT)
    assert changed["input"] == f"{changed['target']['street']} {changed['target']['zip']}"  # the answer follows the question
    for old, new in zip(shown, changed["input"], strict=True):
        assert new == old if old not in "123456789" else (new in "123456789" and new != old)
    pairs = set(zip(digits, changed["target"]["zip"], strict=True))
    assert len({new for _, new in pairs}) == len(pairs) == len(set(digits))  # a permutation: different digits stay different


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(TEXTS, min_size=2, max_size=6, unique=True), st.data())
def test_the_answer_moves_with_its_choice(choices, data):
    answer = data.draw(st.integers(0, len(choices) - 1))
    item = {**QUESTION, "choices": choices, "answer": answer}
    changed, _ = metamorphic.VARIANTS["option_order"](item, "{input}")
    assert changed["choices"][changed["answer"]] == choices[answer]
    assert sorted(changed["choices"]) == sorted(choices)
    assert metamorphic.VARIANTS["option_order"](changed, "{input}")[0] == item


def test_what_does_not_fit_says_what_does():
    with pytest.raises(GoldenError, match="option_order"):
        metamorphic.vary(a_set([QUESTION], "multiple_choice", "{input}"), "uppercase")
    with pytest.raises(ConfigError, match="uppercase"):
        metamorphic.vary(a_set([ITEM]), "upercase")
    assert metamorphic.variants_of("documents") == ()


def test_the_digest_follows_the_content():
    other = {**ITEM, "input": "13 Elm St, Rome NY 10301"}
    assert metamorphic.vary(a_set([ITEM]), "blanks").digest != metamorphic.vary(a_set([other]), "blanks").digest
