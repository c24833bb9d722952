"""The approved baseline: only answers that no float noise can move are offered, and a changed one is noticed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import config
from harness.errors import GoldenError
from harness.golden import load
from harness.types import Sampling
from suites.evals import baseline
from suites.selftest import tiny_model

pytestmark = pytest.mark.selftest

GOLDEN = Path(__file__).parents[3] / "golden"


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A tiny model behind the few things of a workbench that a baseline asks for."""
    folder = tiny_model.build(tmp_path_factory.mktemp("tiny") / "model")
    chosen = load("addresses", GOLDEN)
    return SimpleNamespace(
        path=lambda name: folder, inputs=lambda name: {}, cached=lambda name, inputs, maker: maker(), whole_set=lambda name: chosen
    )


def test_only_clear_answers_are_approved_and_given_again(bench, monkeypatch):
    monkeypatch.setattr(baseline, "TRIED", 8)
    monkeypatch.setattr(baseline, "LEAD", 0.02)
    monkeypatch.setattr(baseline, "SAMPLING", Sampling(max_tokens=1))  # more of what a random model says is no text
    made = baseline.approve(bench, "addresses", "base")
    assert 0 <= made["noise"] < 1e-3
    assert 0 < len(made["items"]) < 8
    assert all(one["lead"] >= made["lead"] for one in made["items"].values())
    questions = baseline.asked(bench.whole_set("addresses"), list(made["items"]))
    again = baseline.answer(bench, "base", questions)
    assert {item: one["answer"] for item, one in made["items"].items()} == again["answers"]
    assert again["weights"] == made["weights"]
    monkeypatch.setattr(baseline, "LEAD", 100.0)
    assert baseline.approve(bench, "addresses", "base")["items"] == {}


def test_an_item_that_is_gone_asks_for_a_new_baseline(bench):
    with pytest.raises(GoldenError, match="approve a new baseline"):
        baseline.asked(bench.whole_set("addresses"), ["addr-9999"])


def test_a_baseline_of_another_lifecycle_is_none(tmp_path):
    settings = config.load(Path(__file__).parents[3] / "fixtures" / "lifecycle.toml")
    (tmp_path / "baselines").mkdir()
    path = tmp_path / "baselines" / "G2.json"
    moved = replace(settings, golden=tmp_path)
    assert baseline.exact(moved) is None
    path.write_text('{"lifecycle": "another", "exact": {"items": {}}, "rates": {"addresses": {"k": 1, "n": 2}}}')
    assert (baseline.exact(moved), dict(baseline.rates(moved))) == (None, {})
    path.write_text(f'{{"lifecycle": "{settings.name}", "rates": {{"addresses": {{"k": 1, "n": 2}}}}}}')
    assert baseline.rates(moved)["addresses"] == {"k": 1, "n": 2}
    path.write_text("{")
    with pytest.raises(GoldenError, match=r"G2\.json: not JSON"):
        baseline.rates(moved)
