"""Rounding one block, naming the worst, and the claims on it with a bench of made-up numbers."""

from __future__ import annotations

import hashlib
import math
import random
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import golden
from harness.engines.gguf_header import Header, read_header
from harness.errors import SubjectError
from harness.golden import GoldenSet
from harness.judge import judge
from harness.quant import sensitivity
from harness.quant.damage import damage
from harness.types import Sample, Subject
from suites.quant import test_sensitivity as suite

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[3]


# --- rounding one block -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def f16(tiny_folder, tmp_path_factory):
    pytest.importorskip("gguf")
    from harness.quant.convert import convert

    out = tmp_path_factory.mktemp("sensitivity") / "tiny.gguf"
    convert(tiny_folder, out, dtype="f16")
    return out


def tensors(path):
    import gguf

    return {t.name: t.data.copy() for t in gguf.GGUFReader(path).tensors}


@pytest.mark.parametrize(("kind", "levels"), [("Q4_0", 16), ("Q4_1", 16), ("Q5_0", 32), ("Q5_1", 32), ("Q8_0", 256)])
def test_only_the_matrices_of_one_block_move_and_onto_a_grid(f16, tmp_path, kind, levels):
    damage(f16, tmp_path / "r.gguf", f"round-layer:1:{kind}", 0)
    old, new = tensors(f16), tensors(tmp_path / "r.gguf")
    moved = {name for name in old if old[name].tobytes() != new[name].tobytes()}
    assert moved == {name for name in old if name.startswith("blk.1.") and old[name].ndim == 2} and len(moved) == 7
    for name in moved:
        assert new[name].dtype == old[name].dtype
        for before, after in zip(old[name].reshape(-1, 32), new[name].reshape(-1, 32), strict=True):
            assert len(set(after.tolist())) <= levels
            assert abs(before - after).max() <= 2 * (float(before.max()) - float(before.min()) + abs(before).max()) / levels
    assert read_header(tmp_path / "r.gguf").metadata == read_header(f16).metadata


def test_coarser_grids_cost_more_and_rounding_twice_costs_nothing(f16, tmp_path):
    def error(kind):
        damage(f16, tmp_path / kind, f"round-layer:0:{kind}", 0)
        old, new = tensors(f16), tensors(tmp_path / kind)
        return sum(float(((old[n].astype("f8") - new[n].astype("f8")) ** 2).sum()) for n in old)

    assert error("Q8_0") < error("Q5_0") < error("Q4_0")
    damage(tmp_path / "Q8_0", tmp_path / "twice", "round-layer:0:Q8_0", 0)
    again, once = tensors(tmp_path / "twice"), tensors(tmp_path / "Q8_0")
    assert all(abs(again[n].astype("f8") - once[n].astype("f8")).max() <= 2e-3 * abs(once[n].astype("f8")).max() for n in once)


@pytest.mark.parametrize(
    "how", ["round-layer:0", "round-layer:0:Q4_K", "round-layer:0:F16", "round-layer:2:Q4_0", "round-layer:x:Q4_0", "round-layer:-1:Q4_0"]
)
def test_what_cannot_be_rounded_is_refused(f16, tmp_path, how):
    with pytest.raises(SubjectError):
        damage(f16, tmp_path / "x", how, 0)
    assert not (tmp_path / "x").exists()


def test_a_quantized_file_is_not_rounded_again(f16, tmp_path):
    from harness.quant.gguf import quantize

    quantize(f16, tmp_path / "q.gguf", "q8_0", threads=1)
    with pytest.raises(SubjectError, match="F16"):
        damage(tmp_path / "q.gguf", tmp_path / "x", "round-layer:0:Q4_0", 0)


def test_blocks_are_counted(f16):
    assert sensitivity.block_count(read_header(f16)) == 2


@pytest.mark.parametrize("said", [{}, {"llama.block_count": "2"}, {"llama.block_count": 0}, {"other.block_count": 2}])
def test_a_header_that_does_not_say_is_refused(said):
    header = Header(Path("x.gguf"), 3, {"general.architecture": "llama", **said}, (), 0)
    with pytest.raises(SubjectError, match="block_count"):
        sensitivity.block_count(header)


# --- halves -----------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None)
@given(st.lists(st.text(max_size=8), max_size=40))
def test_halves_part_the_names_whatever_their_order(names):
    first, second = sensitivity.halves(names)
    assert sorted(first + second) == sorted(set(names)) and 0 <= len(first) - len(second) <= 1
    assert (first, second) == sensitivity.halves(reversed(names))


def test_halves_are_pinned():
    """Other halves would be another plan; and not the order in which a golden set gives its first items."""
    names = [f"exam-{k:04d}" for k in range(1, 9)]
    assert sensitivity.halves(names) == (
        ["exam-0007", "exam-0008", "exam-0006", "exam-0002"],
        ["exam-0005", "exam-0004", "exam-0001", "exam-0003"],
    )


def test_a_half_is_drawn_from_all_of_a_file():
    first, _ = sensitivity.halves(f"exam-{k:04d}" for k in range(200))
    in_order = sum(int(name[-4:]) < 100 for name in first)
    assert 35 <= in_order <= 65


# --- blocks -----------------------------------------------------------------------------------------


def uniform(*key: object) -> float:
    return int(hashlib.sha256(repr(key).encode()).hexdigest()[:8], 16) / 2**32


def table(worst: int | None = None, times: float = 1.0, documents: int = 80, blocks: int = 30) -> dict[int, dict[str, float]]:
    def kld(i: int, k: int) -> float:
        return 0.01 * math.exp(uniform("document", k) + 0.5 * uniform(i, k)) * (times if i == worst else 1.0)

    return {i: {f"d{k}": kld(i, k) for k in range(documents)} for i in range(blocks)}


def test_rows_become_a_table():
    rows = {i: [{"id": name, "kld_mean": kld, "tokens": 7} for name, kld in row.items()] for i, row in table().items()}
    assert sensitivity.layer_table(rows.__getitem__, 30) == table()


def test_rows_of_other_documents_are_refused():
    rows = {0: [{"id": "a", "kld_mean": 0.1}], 1: [{"id": "b", "kld_mean": 0.1}], 2: []}
    for blocks, rows_of in ((2, rows.__getitem__), (1, rows.__getitem__), (2, lambda i: rows[2])):
        with pytest.raises(SubjectError, match="same"):
            sensitivity.layer_table(rows_of, blocks)


def test_dominance_is_against_the_largest_of_the_others():
    read = {0: {"a": 0.2, "b": 0.1}, 1: {"a": 0.1, "b": 0.4}, 2: {"a": 0.4, "b": 0.1}}
    samples = sensitivity.dominance(read, 0, ["a", "b"])
    assert [s.value for s in samples] == [0.0, 0.0]
    assert [s.detail["rival"] for s in samples] == [2, 1]
    assert [s.value for s in sensitivity.dominance(read, 2, ["a", "b"])] == [1.0, 0.0]


def test_a_divergence_of_zero_has_a_logarithm():
    read = {0: {"a": 0.0}, 1: {"a": -1e-12}}
    assert sensitivity.worst_layer(read, ["a"]) == 0
    assert sensitivity.dominance({0: {"a": 0.1}, 1: {"a": 0.1}}, 0, ["a"])[0].value == 0.0  # as bad is not worse


def test_blocks_dealt_anew_keep_each_documents_numbers():
    dealt = sensitivity.exchanged(table(11, 5.0), "seed")
    assert all(sorted(row[f"d{k}"] for row in dealt.values()) == sorted(row[f"d{k}"] for row in table(11, 5.0).values()) for k in range(80))
    assert sum(dealt[i][f"d{k}"] == table(11, 5.0)[11][f"d{k}"] for i in (11,) for k in range(80)) < 15


# --- slices -----------------------------------------------------------------------------------------


def test_the_slices_of_the_addresses():
    chosen = golden.load("addresses", ROOT / "golden")
    parts = sensitivity.slices(chosen)
    assert {"with unit", "with zip", "up to 5 fields", "more than 5 fields", "length 1 of 4"} <= parts.keys()
    quarters = [parts[f"length {q} of 4"] for q in (1, 2, 3, 4)]
    assert [len(q) for q in quarters] == [140] * 4 and len(frozenset().union(*quarters)) == 560
    items = {i["id"]: i for i in chosen.items}
    assert all("unit" in items[i]["target"] for i in parts["with unit"])
    assert max(len(items[i]["input"]) for i in quarters[0]) <= min(len(items[i]["input"]) for i in quarters[1])


def test_the_slices_of_questions_are_their_lengths():
    assert sorted(sensitivity.slices(golden.load("commonsense", ROOT / "golden"))) == [f"length {q} of 4" for q in (1, 2, 3, 4)]


@settings(derandomize=True, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 2**32))
def test_the_excess_is_the_difference_of_means(inside, outside, seed):
    """Exactly where the hands are equal; every unit within its range, every item used once."""
    rng = random.Random(seed)
    items = [f"i{k}" for k in range(inside + outside)]
    lost = {i: rng.choice([-1.0, 0.0, 1.0]) for i in items}
    part = frozenset(items[:inside])
    rows = sensitivity.excess(lost, part, items)
    assert len(rows) == min(inside, outside) and all(-2 <= s.value <= 2 for s in rows)
    used = [i for s in rows for i in (*s.detail["slice"], *s.detail["rest"])]
    assert sorted(used) == sorted(items) and len({s.item for s in rows}) == len(rows)
    if max(inside, outside) % min(inside, outside) == 0:
        expected = sum(lost[i] for i in part) / inside - sum(lost[i] for i in items if i not in part) / outside
        assert sum(s.value for s in rows) / len(rows) == pytest.approx(expected)


@pytest.mark.parametrize("part", [frozenset(), frozenset({"a", "b"})])
def test_a_slice_of_nothing_or_of_all_is_refused(part):
    with pytest.raises(SubjectError, match="of 2 items"):
        sensitivity.excess({"a": 0.0, "b": 1.0}, part, ["a", "b"])


def test_a_small_slice_is_not_named():
    """However bad: 29 items of a half are too few, 30 are enough."""
    items, others = [f"a{k}" for k in range(100)], [f"b{k}" for k in range(100)]
    for size, name in ((29, "large"), (30, "bad")):
        bad = frozenset(items[:size] + others[:30])
        large = frozenset(items[50:] + others[50:])
        lost = {i: float(i in bad) for i in items + others}
        assert sensitivity.worst_slice(lost, {"bad": bad, "large": large}, items, others) == name


def test_without_a_large_slice_the_largest_is_named_and_without_any_none():
    items = [f"a{k}" for k in range(20)]
    lost = dict.fromkeys(items, 1.0)
    parts = {"two": frozenset(items[:2]), "five": frozenset(items[:5])}
    assert sensitivity.worst_slice(lost, parts, items, items) == "five"
    with pytest.raises(SubjectError, match="no slices"):
        sensitivity.worst_slice(lost, {}, items, items)


def test_losses_are_old_minus_new_and_a_failure_is_worth_nothing():
    pairs = [Sample("a", 1.0, "old"), Sample("a", 0.0, "new"), Sample("b", 1.0, "old"), Sample("b", None, "new", "error")]
    pairs += [Sample("c", 0.0, "old"), Sample("c", 1.0, "new")]
    assert sensitivity.losses(pairs) == {"a": 1.0, "b": 1.0, "c": -1.0}


# --- the suite, with a bench of made-up numbers -----------------------------------------------------


class Asked:
    """A claim that keeps its verdict."""

    def __init__(self, claim):
        self.claim = claim

    def needs(self, n):
        assert n >= self.claim.min_n

    def check(self, measurement, controls):
        self.measurement = measurement
        self.verdict = judge(self.claim, measurement, controls=controls)


class Bench:
    settings = SimpleNamespace(golden=ROOT / "golden")

    def __init__(self, worst=None, times=1.0, lost=lambda item: 0.02):
        self.table, self.lost = table(worst, times), lost

    def reference(self, build):
        return "reference"

    def subject(self, name):
        return Subject(name, "fake", name, "0" * 64)

    def header(self, name):
        return Header(Path("x.gguf"), 3, {"general.architecture": "llama", "llama.block_count": 30}, (), 0)

    def layer_rows(self, reference, block):
        return [{"id": name, "kld_mean": kld} for name, kld in self.table[block].items()]

    def distributions(self, new, old, *, control=False):
        assert new.startswith("damaged") and control
        return [{"id": name, "kld_mean": 3.0 + kld} for name, kld in self.table[0].items()] + [{"id": "more", "kld_mean": 3.0}]

    def golden(self, name, *, control=False) -> GoldenSet:
        return golden.load(name, ROOT / "golden")

    def answers(self, name, set_name):
        chosen = self.golden(set_name)
        right = {i["id"]: uniform("right", i["id"]) < 0.7 for i in chosen.items}
        kept = {i["id"]: name == "reference" or uniform("kept", i["id"]) >= self.lost(i) for i in chosen.items}
        samples = tuple(Sample(i, float(right[i] and kept[i])) for i in right)
        return SimpleNamespace(samples=samples, subject=self.subject(name), conditions={})


@pytest.mark.parametrize(("worst", "times", "outcome"), [(11, 4.0, "holds"), (0, 2.0, "holds"), (None, 1.0, "fails"), (7, 1.05, "fails")])
def test_the_claim_on_blocks(worst, times, outcome):
    asked = Asked(suite._layer_claim("reference"))
    suite.test_the_most_sensitive_block_is_named_and_reproduced(asked, Bench(worst, times), "reference")
    assert asked.verdict.outcome == outcome, asked.verdict.sentence
    assert [control["met"] for control in asked.verdict.controls] == [True] * 3
    if outcome == "holds":
        assert asked.measurement.conditions["layer"] == worst == asked.measurement.conditions["order"][0]


def test_a_gate_that_names_another_block_than_the_planted_does_not_speak():
    bench = Bench(11, 4.0)
    bench.distributions = lambda *_, control: [{"id": name, "kld_mean": 0.001} for name in bench.table[0]]  # the damage did nothing
    asked = Asked(suite._layer_claim("reference"))
    suite.test_the_most_sensitive_block_is_named_and_reproduced(asked, bench, "reference")
    assert asked.verdict.reason == "control_failed"


def in_units(item):
    return 0.7 if "unit" in item.get("target", ()) else 0.02


@pytest.mark.parametrize(
    ("golden_set", "lost", "outcome"),
    [("addresses", lambda item: 0.02, "holds"), ("commonsense", lambda item: 0.05, "holds"), ("addresses", in_units, "fails")],
)
def test_the_claim_on_slices(golden_set, lost, outcome):
    asked = Asked(suite._slice_claim(golden_set, "build"))
    suite.test_no_slice_carries_the_loss_alone(asked, Bench(lost=lost), golden_set, "build")
    assert asked.verdict.outcome == outcome, asked.verdict.sentence
    assert all(control["met"] for control in asked.verdict.controls)
    if lost is in_units:
        assert asked.measurement.conditions["slice"] == "with unit"
