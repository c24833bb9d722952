"""Drills on a tiny model: what they see of a training is what happened, and a planted fault shows."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from harness import Claim, Measurement, at_most
from harness.errors import ConfigError, EngineError, MissingNeed
from harness.judge import judge
from harness.store import digest_file
from harness.train import drills
from harness.train import leg as inside
from harness.train.drills import Drill
from harness.train.recipe import Recipe
from suites.train import drilling, run_margins, test_curves, test_failed

pytestmark = pytest.mark.selftest

ROWS = [([{"role": "user", "content": f"the {i}"}], "fox" if i % 2 else "dog") for i in range(11)]
RECIPE = Recipe(rank=4, alpha=8, lr=2e-2, epochs=2, batch=4, max_length=64, dropout=0.1)


def quiet(task, done, total):
    """No progress."""


@pytest.fixture(scope="module")
def leg(tiny_folder, tmp_path_factory):
    """A leg in this process: leg(recipe) -> what was found, in a folder of its own unless one is given."""
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)

    def call(recipe=RECIPE, *, folder=None, stop=None, forgets="", rows=ROWS, held_out=()):
        folder = folder or tmp_path_factory.mktemp("drill")
        drill = Drill("one", recipe, rows, held_out, stops=(stop or 1,), forgets=forgets)
        told = {**drill.to_dict(), "base": str(tiny_folder), "folder": str(folder), "stop": stop}
        return inside.leg(json.loads(json.dumps(told)))

    return call


@pytest.fixture(scope="module")
def whole(leg):
    return leg(held_out=ROWS[:3])


def test_what_it_saw(whole):
    assert whole["outcome"] == "finished"
    assert len(whole["loss"]) == len(whole["batches"]) == 6
    assert [len(batch) for batch in whole["batches"]] == [4, 4, 3, 4, 4, 3]
    first, second = (sorted(row for batch in whole["batches"][i : i + 3] for row in batch) for i in (0, 3))
    assert first == second
    assert len(set(first)) == len(ROWS)  # each row once an epoch
    assert whole["peak_bytes"] > 1e8
    assert whole["held_out"]["before"] != whole["held_out"]["after"]
    assert sum(whole["held_out"]["after"]) < sum(whole["held_out"]["before"])


def test_weights_are_counted_as_they_lie(whole, tiny_folder):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.bfloat16)
    tied = {t.data_ptr(): t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers())}
    assert whole["weights_bytes"] == sum(tied.values())  # without the adapter


def test_the_same_twice(whole, leg, tmp_path):
    again = leg(folder=tmp_path)
    assert again["adapter"] == digest_file(tmp_path / "out" / inside.ADAPTER)
    for key in ("loss", "batches", "adapter", "optimizer"):
        assert again[key] == whole[key]


def test_another_seed_differs(whole, leg):
    other = leg(replace(RECIPE, seed=1))
    for key in ("loss", "batches", "adapter", "optimizer"):
        assert other[key] != whole[key]


def test_another_order_differs(whole, leg):
    other = leg(rows=ROWS[::-1])
    assert other["batches"] != whole["batches"]
    assert other["adapter"] != whole["adapter"]


@pytest.fixture(scope="module")
def begun(leg, tmp_path_factory):
    folder = tmp_path_factory.mktemp("begun")
    return folder, leg(folder=folder, stop=4)


@pytest.mark.parametrize("forgets", ["", *drills.FORGETS])
def test_a_resume_is_the_whole_unless_something_is_forgotten(whole, leg, begun, tmp_path, forgets):
    folder, begun = begun
    assert begun["outcome"] == "stopped"
    assert begun["adapter"] is None
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    resumed = leg(folder=tmp_path, forgets=forgets)
    assert resumed["resumed_at"] == 4
    assert (resumed["adapter"] == whole["adapter"]) == (not forgets)
    assert (resumed["optimizer"] == whole["optimizer"]) == (not forgets)
    assert (begun["batches"] + resumed["batches"] == whole["batches"]) == (forgets != "position")
    assert resumed["loss"][:4] == whole["loss"][:4]


def test_a_failed_training_is_a_finding(leg):
    found = leg(replace(RECIPE, lr=1e30))
    assert found["outcome"] == "failed"
    assert found["cause"]
    assert found["adapter"] is None


def test_a_held_out_loss_that_is_no_number_is_a_failure(leg, monkeypatch):
    monkeypatch.setattr(inside, "_held_out", lambda *rest: {"before": [1.0], "after": [float("nan")]})
    found = leg(replace(RECIPE, epochs=1), held_out=ROWS[:1])
    assert (found["outcome"], found["cause"]) == ("failed", "the loss on held-out rows is not finite")
    assert "held_out" not in found


def test_the_held_out_loss_is_that_of_the_model(tiny_folder):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    rows = [*ROWS[:2], ([{"role": "user", "content": "a longer one, so that the others are padded"}], "the lazy dog")]
    with torch.inference_mode():
        found = inside.held_out_losses(model, tokenizer, rows)
        for row, loss in zip(rows, found, strict=True):  # one at a time, by the model's own loss over masked labels
            ids, answer = inside._tokens(tokenizer, row)
            assert tokenizer.decode(ids[answer:]) == f"{row[1]}<|im_end|>\n"
            own = model(input_ids=torch.tensor([ids]), labels=torch.tensor([[-100] * answer + ids[answer:]])).loss
            assert loss == pytest.approx(float(own), abs=1e-4)


def test_padding_is_no_part_of_a_row():
    assert inside._row_digest([5, 6, 2, 7, 2, 2], 2) == inside._row_digest([5, 6, 2, 7], 2)
    assert inside._row_digest([5, 6, 2, 7], 2) != inside._row_digest([5, 6, 7], 2)
    assert inside._row_digest([2, 2], None) != inside._row_digest([2], None)


def test_in_a_process_of_its_own(whole, tiny_folder):
    seen = []
    (found,) = drills.run(tiny_folder, [Drill("one", RECIPE, ROWS)], lambda *step: seen.append(step))
    assert found["threads"] == 1
    assert found["batches"] == whole["batches"]
    assert [step[1:] for step in seen] == [(0, 1), (1, 1)]


def test_each_process_hashes_otherwise(tmp_path):
    seeds = {drills._environment(tmp_path / name, leg)["PYTHONHASHSEED"] for name in "ab" for leg in (0, 1)}
    assert len(seeds) == 4


def test_a_process_that_dies_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(drills, "require", lambda recipes: None)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(EngineError, match=r"drill one, leg 1: its process ended with status 1: it said nothing"):
        drills.run(tmp_path, [Drill("one", RECIPE, ROWS), Drill("two", RECIPE, ROWS)], quiet, at_once=2)


def test_an_interrupt_leaves_no_process():
    crew = drills._Crew()
    with subprocess.Popen(["sleep", "60"], text=True) as sleeper:
        crew._running.add(sleeper)
        crew.end()
    assert sleeper.returncode == -9
    assert crew.call(["true"], {})[0] != 0  # and lets none start


def test_what_is_forgotten_must_be_known():
    with pytest.raises(ConfigError, match=r"did you mean 'optimizer'"):
        Drill("one", RECIPE, ROWS, stops=(1,), forgets="optimiser")
    with pytest.raises(ConfigError, match="without a stop"):
        Drill("one", RECIPE, ROWS, forgets="rng")


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(drills.importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    drills.require([RECIPE])
    with pytest.raises(MissingNeed, match="bitsandbytes"):
        drills.require([RECIPE, replace(RECIPE, method="qlora")])


# --- how the claims compare runs ------------------------------------------------------------------

RUN = {"loss": [2.0, 1.0], "batches": [["a"], ["b"]], "adapter": "x", "optimizer": "y", "outcome": "finished", "cause": "", "steps": 2}


@pytest.mark.parametrize(
    ("changed", "outcome"),
    [
        ({}, "holds"),
        ({"loss": [2.0, 1.0000001]}, "fails"),
        ({"loss": [2.0]}, "fails"),
        ({"batches": [["b"], ["a"]]}, "fails"),
        ({"adapter": "z"}, "fails"),
        ({"adapter": None}, "fails"),
        ({"optimizer": "z"}, "fails"),
    ],
)
def test_two_runs_are_one_or_not(monkeypatch, changed, outcome):
    monkeypatch.setattr(drilling, "device", lambda: "cpu")
    claim = Claim("R2.x", "same", at_most(run_margins.LOSS_BAND["cpu"]), estimand="exact")
    assert judge(claim, Measurement("training", drilling.differences({**RUN, **changed}, RUN))).outcome == outcome


def test_two_runs_that_saw_nothing_are_not_one(monkeypatch):
    monkeypatch.setattr(drilling, "device", lambda: "cpu")
    nothing = {**RUN, "adapter": None, "optimizer": None, "batches": []}
    assert [s.value for s in drilling.differences(nothing, nothing)] == [0, 0, 1, 1, 1]


def test_on_cuda_digests_do_not_decide(monkeypatch):
    monkeypatch.setattr(drilling, "device", lambda: "cuda")
    found = drilling.differences({**RUN, "adapter": "z", "loss": [2.0, 1.01]}, RUN)
    assert [s.item for s in found] == ["loss of step 1", "loss of step 2", "batches"]
    claim = Claim("R2.x", "same", at_most(run_margins.LOSS_BAND["cuda"]), estimand="exact")
    assert judge(claim, Measurement("training", found)).outcome == "holds"


@pytest.mark.parametrize(("lost", "outcome"), [(0, "holds"), (1, "inconclusive"), (5, "fails")])
def test_all_seeds_must_gain(lost, outcome):
    claim = test_curves._generalises_claim("tuned")
    after = [2.0 if i < lost else 1.0 for i in range(len(run_margins.SEEDS))]
    samples = [test_curves._gained(i, {**RUN, "held_out": {"before": [2.0], "after": [x]}}, "before", "after") for i, x in enumerate(after)]
    assert judge(claim, Measurement("held_out_loss", tuple(samples))).outcome == outcome


def test_a_seed_that_failed_gained_nothing():
    assert test_curves._gained(1, {**RUN, "cause": "not finite"}, "before", "after").value is None


RECORD = {"cause": "the learning rate is a hundred times too high", "changed": "lr 0.1 -> 1e-3"}
HOT = {**RUN, "loss": [2.0, 30.0]}


@pytest.mark.parametrize(
    ("record", "run", "right"),
    [
        (RECORD, HOT, True),
        (RECORD, {**RUN, "outcome": "failed", "cause": "non-finite loss", "loss": []}, True),
        (RECORD, RUN, False),
        ({**RECORD, "cause": " "}, HOT, False),
        ({"cause": "x"}, HOT, False),
        (RECORD, {**HOT, "batches": []}, False),
        (RECORD, {**HOT, "steps": 3}, False),
    ],
)
def test_a_failed_experiment_has_to_have_failed(record, run, right):
    assert all(s.value == 1 for s in test_failed._facts(record, run, RUN)) == right
