"""The first step of DPO on a tiny model: what trl computes is what the paper derives, and what is planted shows."""

from __future__ import annotations

import math

import pytest

from harness.engines import open_engine
from harness.errors import SubjectError
from harness.train.first_step import derived_step, first_step
from harness.train.preferences import Preference, log_probs, margin, texts
from harness.train.recipe import Recipe
from suites.selftest import tiny_model

pytestmark = pytest.mark.selftest

RECIPE = Recipe(objective="dpo", rank=4, alpha=8, beta=0.3)
GIVEN = [Preference(f"p{i}", ({"role": "user", "content": f"the {i}"},), "the fox jumps over", f"dog {i}", False) for i in range(3)]
TURNED = [pair.swapped() for pair in GIVEN]


def size(gradient) -> float:
    return float(gradient @ gradient) ** 0.5


@pytest.fixture(scope="module")
def usual(tiny_folder):
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)
    return first_step(tiny_folder, GIVEN, RECIPE)


def test_the_first_loss_and_gradient(tiny_folder, usual):
    assert usual.losses == pytest.approx([math.log(2)] * 3, abs=1e-6)
    swapped = first_step(tiny_folder, TURNED, RECIPE).gradient
    assert size(usual.gradient + swapped) < 1e-5 * size(swapped)
    derived = derived_step(tiny_folder, GIVEN, RECIPE)
    assert size(usual.gradient + RECIPE.beta / 2 * derived.gradient) < 1e-4 * size(usual.gradient)
    assert size(usual.gradient) > 1e-3


def test_the_values_derived_are_those_that_engines_read(tiny_folder, usual):
    engine = open_engine("hf", tiny_folder, device="cpu", dtype="float32")
    read = log_probs(engine.logprobs(texts(tiny_folder, GIVEN)))
    engine_tokens = [engine.tokenize(text + "<|im_end|>\n") for text in (GIVEN[0].chosen, GIVEN[0].rejected)]
    engine.close()
    gaps = [read[pair.id].chosen - read[pair.id].rejected for pair in GIVEN]
    assert derived_step(tiny_folder, GIVEN, RECIPE).losses == pytest.approx(gaps, abs=1e-3)
    assert [read["p0"].chosen_tokens, read["p0"].rejected_tokens] == [len(t) for t in engine_tokens]
    assert all(margin(row, row, RECIPE.beta) == 0 for row in read.values())


def test_what_is_planted_shows(tiny_folder, usual, tmp_path):
    other = tiny_model.build(tmp_path / "other", seed=1)
    astray = first_step(tiny_folder, GIVEN, RECIPE, reference=other)
    stale = first_step(tiny_folder, GIVEN, RECIPE, fresh=False)
    outside = first_step(tiny_folder, GIVEN, RECIPE, beta=1.0, loss_weights=[RECIPE.beta])
    for step in (astray, stale, outside):
        assert max(abs(loss - math.log(2)) for loss in step.losses) > 1e-4
    assert outside.losses == pytest.approx([0.3 * math.log(2)] * 3, abs=1e-6)
    # a second term beside the preference: what is lost by swapping is no longer what is won
    beside = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 1.0]}
    mixed, turned = (first_step(tiny_folder, pairs, RECIPE, **beside).gradient for pairs in (GIVEN, TURNED))
    assert float(mixed @ turned) / size(mixed) / size(turned) > -0.999


def test_a_step_against_the_gradient_raises_the_margin(tiny_folder, usual):
    """The direction, by trying it: what PF2 reads after training must come out of this gradient."""
    derived = derived_step(tiny_folder, GIVEN, RECIPE).gradient
    assert float(-usual.gradient @ derived) > 0.999 * size(usual.gradient) * size(derived)


def test_a_template_that_hides_the_answer_is_refused(tiny_folder, tmp_path):
    folder = tiny_model.build(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(tiny_model.TEMPLATE.replace("message['content']", "message['content'] | upper"))
    with pytest.raises(SubjectError, match="does not put the answer of 'p0' behind its prompt"):
        texts(folder, GIVEN)
    with pytest.raises(SubjectError, match=r"config\.json"):
        texts(tmp_path, GIVEN)
    with pytest.raises(SubjectError, match=r"config\.json"):
        first_step(tiny_folder, GIVEN, RECIPE, reference=tmp_path)
    assert [row.id for row in texts(tiny_folder, GIVEN)] == ["p0", "p1", "p2"]
    assert texts(tiny_folder, GIVEN)[0].continuations[0].startswith("the fox jumps over<|im_end|>")
