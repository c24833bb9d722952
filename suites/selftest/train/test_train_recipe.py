"""A recipe refuses what no training could use, and says where and what instead."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.train.recipe import OBJECTIVES, Recipe

pytestmark = pytest.mark.selftest


def test_defaults_follow_the_objective():
    assert Recipe().lr == 1e-3
    for objective, numbers in OBJECTIVES.items():
        recipe = Recipe(objective=objective)
        assert (recipe.lr, recipe.beta) == (numbers["lr"], numbers["beta"])
        assert Recipe(objective=objective, lr=3e-5).lr == 3e-5
    # trl's own for preferences, 1e-6, is meant for all weights
    assert all(numbers["lr"] >= 1e-4 for numbers in OBJECTIVES.values())


def test_a_recipe_is_frozen():
    with pytest.raises(FrozenInstanceError):
        Recipe().rank = 3


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "ppo"}, {"method": "qdora"}, {"dtype": "float16"}, {"rank": 0}, {"alpha": 0}, {"epochs": 0}, {"batch": 0},
        {"accumulate": 0}, {"max_length": 0}, {"seed": -1}, {"steps": -1}, {"save_every": -1}, {"lr": 0.0}, {"lr": float("nan")},
        {"lr": float("inf")}, {"dropout": 1.0}, {"warmup": -0.1}, {"beta": 0.1}, {"beta": -1.0, "objective": "dpo"},
        {"packing": True, "objective": "dpo"},
    ],
)  # fmt: skip
def test_what_no_training_could_use_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Recipe(**change)


def test_a_table_is_read():
    recipe = Recipe.of({"objective": "dpo", "lr": 1, "rank": 8, "packing": False}, "[recipes.x]")
    assert recipe == Recipe(objective="dpo", lr=1.0, rank=8)
    assert type(recipe.lr) is float


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"learning_rate": 1e-3}, "unknown key 'learning_rate'"),
        ({"ranks": 8}, "did you mean 'rank'"),
        ({"rank": "8"}, "rank = '8', expected int"),
        ({"rank": 8.0}, r"rank = 8\.0, expected int"),
        ({"rank": True}, "rank = True, expected int"),
        ({"lr": "1e-3"}, "expected float"),
        ({"lr": True}, "expected float"),
        ({"packing": 1}, "expected bool"),
        ({"method": 4}, "expected str"),
        ({"method": "qlra"}, "did you mean 'qlora'"),
        ({"objective": "kto"}, "known: dpo, orpo, sft, simpo"),
        ({"rank": 0}, "expected at least 1"),
    ],
)
def test_a_wrong_table_is_refused_by_name(table, said):
    with pytest.raises(ConfigError, match=said) as error:
        Recipe.of(table, "life.toml: [recipes.x]")
    assert str(error.value).startswith("life.toml: [recipes.x]: ")


RECIPES = st.builds(
    Recipe, objective=st.sampled_from(sorted(OBJECTIVES)), method=st.sampled_from(["lora", "qlora", "dora"]), rank=st.integers(1, 256),
    lr=st.floats(1e-6, 1.0), steps=st.integers(0, 100), save_every=st.integers(0, 9),
)  # fmt: skip


@given(RECIPES)
@settings(derandomize=True, deadline=None)
def test_what_was_written_down_is_the_recipe_again(recipe):
    assert Recipe.of(asdict(recipe), "here") == recipe
    assert Recipe(**asdict(recipe)) == recipe


@given(RECIPES)
@settings(derandomize=True, deadline=None)
def test_how_often_it_is_saved_changes_nothing_else(recipe):
    assert replace(recipe, save_every=recipe.save_every + 1).same() == recipe.same()
    assert replace(recipe, rank=recipe.rank + 1).same() != recipe.same()
    assert recipe.same().keys() == {field.name for field in fields(Recipe)} - {"save_every"}
