"""Preferences of a lifecycle with answers that are written here: what is sampled, what is read, and what the claims make of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness import Control, Measurement, Sample, evals, golden
from harness.errors import MissingNeed
from harness.judge import judge
from harness.lifecycle import preferences
from harness.lifecycle.preferences import Preferences
from harness.train.recipe import Recipe
from harness.types import Generation, Subject, TokenLogprobs
from suites.prefer import test_first_step, test_margins, test_wins
from suites.selftest import tiny_model

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[3]
ROWS = golden.load("addresses_train", ROOT / "fixtures", limit=40)
TARGETS = {i["id"]: evals.answer_text(i["target"]) for i in golden.load("addresses_train", ROOT / "fixtures").items}


class Asked:
    """Stands in for the workbench's Asking; remembers what was asked."""

    def __init__(self, gain: float = 0.0) -> None:
        self.gain = gain
        self.sampled: list = []
        self.read: list = []

    def generate(self, name, what, prompts, sampling):
        self.sampled.append((name, sampling))
        return [self._answer(k, prompt.id, sampling.seed) for k, prompt in enumerate(prompts)], {}

    def _answer(self, k: int, item: str, seed: int) -> Generation:
        """Of four prompts the first is always right, the second at the second draw, the third never, the fourth never ends."""
        right = (True, seed == 1, False, False)[k % 4]
        return Generation(item, TARGETS[item] if right else f'{{"wrong":"{seed}"}}', "length" if k % 4 == 3 else "stop", 9, 9)

    def score(self, name, what, texts, *, rerun=0):
        self.read.append((name, rerun))
        better = self.gain if name == "new" else 0.0
        return [
            TokenLogprobs(t.id, ((1, 2), (3,)), ((-1.0, -2.0 + better * (1 + k % 3)), (-4.0 - k * (name == "new") / 1e6,)))
            for k, t in enumerate(texts)
        ], {}


def bench_of(folder: Path, asking: Asked | None = None, **more) -> SimpleNamespace:
    return SimpleNamespace(
        asking=asking or Asked(), settings=SimpleNamespace(root=ROOT), engine_of=lambda name: "hf", path=lambda name: folder,
        inputs=lambda name: {}, subject=lambda name: Subject(name, "hf", name, name), progress=lambda *_: None,
        cached=lambda name, inputs, maker: json.loads(json.dumps({"inputs": inputs, "made": maker()}))["made"], **more,
    )  # fmt: skip


def test_what_is_sampled_becomes_pairs(tmp_path):
    asking = Asked()
    found = Preferences(bench_of(tmp_path, asking)).pairs("tuned", prompts=40, draws=2)
    assert [(name, s.seed, s.temperature) for name, s in asking.sampled] == [("tuned", 0, 0.8), ("tuned", 1, 0.8)]
    facts = found.facts
    assert (facts["prompts"], facts["answers"], facts["unended"], facts["right"]) == (40, 60, 20, 30)
    assert (facts["pairs"], facts["own"]) == (20, 10)  # wrong at least once: one in two; right at least once among them: half
    assert facts["held"] == len(found.held) > 0 and facts["rows"] == ROWS.digest
    assert {p.rejected for p in (*found.train, *found.held)} == {'{"wrong":"0"}'}  # the first wrong one, and none that did not end


def test_pairs_are_sampled_once(tmp_path):
    asking = Asked()
    mine = Preferences(bench_of(tmp_path, asking))
    assert mine.pairs("tuned", prompts=40) is mine.pairs("tuned", prompts=40)
    assert len(asking.sampled) == preferences.DRAWS


def test_a_server_has_no_weights_to_train(tmp_path):
    bench = bench_of(tmp_path)
    bench.engine_of = lambda name: "openai"
    with pytest.raises(MissingNeed, match="weights: tuned has no weights here"):
        Preferences(bench).pairs("tuned")
    with pytest.raises(MissingNeed, match="weights: tuned has no weights here"):
        Preferences(bench).first_steps("tuned", "base", Recipe(objective="dpo"), 2)


def test_margins_of_held_out_pairs(tiny_folder):
    asking = Asked(gain=0.5)
    mine = Preferences(bench_of(tiny_folder, asking))
    few = mine.pairs("old", prompts=40)
    mine.pairs = lambda name: few  # the whole sample is asked for otherwise
    rows = mine.margins("new", "old", rerun=1)
    assert asking.read == [("new", 1), ("old", 0)]
    assert [row["item"] for row in rows] == [p.id for p in few.held]
    assert rows[0]["new"] == {"chosen": -2.5, "rejected": -4.0, "chosen_tokens": 2, "rejected_tokens": 1}
    item, gap, ratios, _ = test_margins._read(rows[0], 0.1, swapped=False)
    assert item == few.held[0].id and gap == pytest.approx(0.05) == ratios["new"] - ratios["old"]
    assert test_margins._read(rows[0], 0.1, swapped=True)[1] == pytest.approx(-0.05)


def paired(gaps) -> Measurement:
    rows = [Sample(f"i{k}", gap * (arm == "new") + k % 7, arm) for k, gap in enumerate(gaps) for arm in ("new", "old")]
    return Measurement("reward_margin", tuple(rows))


@pytest.mark.parametrize(("by", "outcome"), [(1.0, "holds"), (-1.0, "fails")])
def test_planted_margins_have_the_size_they_say(by, outcome):
    claim = test_margins._margin_claim("mine")
    assert judge(claim, test_margins._moved(paired([0.0] * 80), by, claim.id)).outcome == outcome
    assert judge(claim, paired([by * (1 + k % 3) for k in range(80)])).outcome == outcome
    assert judge(claim, paired([0.0] * 80)).outcome == "inconclusive"


# --- the claims themselves, on models whose gain is known -------------------------------------------


class Checked:
    """Stands in for the claim fixture: judges, and keeps the verdict."""

    def __init__(self, claim) -> None:
        self.claim = claim
        self.verdict = None

    def needs(self, n: int) -> None:
        assert n >= self.claim.min_n

    def check(self, measurement, controls):
        self.verdict = judge(self.claim, measurement, controls=controls)


def suite_bench(folder: Path, gain: float) -> SimpleNamespace:
    compare = SimpleNamespace(tuned="old", base="base", primary="addresses")
    bench = bench_of(folder, Asked(gain))
    elsewhere = SimpleNamespace(recipe="", scheme="hf")  # nothing was trained here
    bench.settings = SimpleNamespace(root=ROOT, compare=compare, recipes={"new": {"beta": 0.5}}, subject=lambda name: elsewhere)
    bench.preferences = Preferences(bench)
    return bench


@pytest.mark.parametrize(("gain", "outcome"), [(0.5, "holds"), (-0.5, "fails")])
def test_the_claims_on_margins(tiny_folder, gain, outcome):
    bench = suite_bench(tiny_folder, gain)
    for claim, test in (
        (test_margins._accuracy_claim, test_margins.test_margins_are_positive_on_held_out_pairs),
        (test_margins._margin_claim, test_margins.test_the_mean_margin_rose),
    ):
        checked = Checked(claim("new"))
        test(checked, bench, "new")
        assert checked.verdict.outcome == outcome, checked.verdict.sentence
        assert all(c["met"] for c in checked.verdict.controls)
        assert [c["outcome"] for c in checked.verdict.controls if c["name"] == "planted: swapped"] == ["fails"] * (gain > 0)


def answered(share: float, rows=560) -> SimpleNamespace:
    """Answers of which a share is right, by position; the rest has one field of two."""
    target = '{"number":"1","city":"Rome"}'
    texts = [target if k % 10 < 10 * share else '{"number":"1","city":"?"}' for k in range(rows)]
    samples = tuple(Sample(f"i{k}", float(t == target), detail={"text": t, "target": target, "input": "?"}) for k, t in enumerate(texts))
    return SimpleNamespace(samples=samples, subject=Subject("m", "hf", "m", "m"), conditions={})


@pytest.mark.parametrize(("new", "outcome"), [(0.6, "holds"), (0.4, "inconclusive"), (0.2, "fails")])
def test_the_claim_on_wins(tmp_path, new, outcome):
    bench = suite_bench(tmp_path, 0.0)
    bench.golden = lambda name: SimpleNamespace(n=560)
    bench.answers = lambda name, golden_set, control=False: answered(new if name == "new" else 0.4)
    checked = Checked(test_wins._wins_claim("new"))
    test_wins.test_it_wins_by_the_exact_checker(checked, bench, "new")
    assert checked.verdict.outcome == outcome, checked.verdict.sentence
    assert all(c["met"] for c in checked.verdict.controls)


def test_without_a_calibrated_judge_nothing_is_judged(tmp_path):
    bench = suite_bench(tmp_path, 0.0)
    bench.judging = SimpleNamespace(calibrated_for=lambda task: None)
    with pytest.raises(MissingNeed, match="calibrated-judge"):
        test_wins.test_it_wins_before_a_calibrated_judge(Checked(test_wins._judged_claim("new")), bench, "new")


def test_first_steps_hold_and_what_is_planted_fails(tiny_folder, tmp_path):
    for name in ("trl", "peft", "datasets"):
        pytest.importorskip(name)
    other = tiny_model.build(tmp_path / "other", seed=1)
    bench = bench_of(tiny_folder)
    bench.path = {"tuned": tiny_folder, "base": other}.get
    found = Preferences(bench).first_steps("tuned", "base", Recipe(objective="dpo", rank=4, alpha=8, max_length=4096), 2)

    def measured(metric: str, name: str) -> Measurement:
        value = found[metric][name]
        return Measurement(metric, tuple(Sample(f"{k}", v) for k, v in enumerate(value if isinstance(value, list) else [value])))

    for metric, claim in (("losses", test_first_step._loss), ("flip", test_first_step._swap), ("error", test_first_step._direction)):
        names = [name for name in found[metric] if name not in ("usual", "again")]
        controls = test_first_step._controls(measured, metric, names)
        assert len(names) >= 2 and all(isinstance(c, Control) for c in controls)
        verdict = judge(claim("mine"), measured(metric, "usual"), controls=controls)
        assert verdict.outcome == "holds", (metric, verdict.sentence, found[metric])
