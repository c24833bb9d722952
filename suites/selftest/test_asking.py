"""Asking: what was answered once is never asked again, and what would be another answer is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from harness.errors import StoreError
from harness.lifecycle.asking import Asking
from harness.store import Store
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

pytestmark = pytest.mark.selftest

GREEDY, DRAWN = Sampling(), Sampling(temperature=0.8)


class Model:
    """Answers with what it was asked and beside how many; remembers each call."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.calls: list[list[str]] = []
        self.dies_at = dies_at
        self.device = "cpu"

    def generate(self, prompts: list[Prompt], *, sampling: Sampling) -> list[Generation]:
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        self.calls.append([p.id for p in prompts])
        return [Generation(p.id, f"{p.messages[-1]['content']} beside {len(prompts)}", "stop", 1, 1) for p in prompts]

    def logprobs(self, texts: list[Scored]) -> list[TokenLogprobs]:
        self.calls.append([t.id for t in texts])
        return [TokenLogprobs(t.id, tuple((1,) for _ in t.continuations), tuple((-0.5,) for _ in t.continuations)) for t in texts]

    def describe(self) -> dict[str, str]:
        return {"device": self.device}


class Bench:
    """What asking needs of a workbench."""

    def __init__(self, store: Store, model: Model, digest: str = "a") -> None:
        self.store, self.model, self.digest = store, model, digest

    def inputs(self, name: str) -> dict[str, Any]:
        return {"subject": self.digest}

    def engine(self, name: str) -> Model:
        return self.model

    def progress(self, *_: Any) -> None:
        pass


def prompts(n: int = 150, prefix: str = "q") -> list[Prompt]:
    return [Prompt(f"{prefix}{i}", ({"role": "user", "content": "x" * (i % 7 + 1) + str(i)},)) for i in range(n)]


@pytest.fixture
def bench(tmp_path):
    return Bench(Store(tmp_path / "store"), Model())


def asked(bench, items, sampling=GREEDY, **how):
    bench.model.calls.clear()
    rows, conditions = Asking(bench).generate("m", "set", items, sampling, **how)
    assert [row.id for row in rows] == [item.id for item in items]
    return [row.text for row in rows], conditions, sum(map(len, bench.model.calls))


def test_nothing_is_asked_twice(bench):
    first, conditions, n = asked(bench, prompts())
    assert n == 150
    again, same, n = asked(bench, prompts())
    assert (again, same, n) == (first, conditions, 0)
    assert [text.partition(" beside ")[0] for text in first] == [p.messages[-1]["content"] for p in prompts()]


def test_names_do_not_count_where_nothing_is_drawn_and_seed_where_it_is(bench):
    first, _, _ = asked(bench, prompts())
    other = [replace(p, id=f"other-{p.id}") for p in prompts()]
    in_order = sorted(other, key=lambda p: (len(p.messages[-1]["content"]), p.id))
    assert [p.id for p in in_order] == [f"other-{p.id}" for p in sorted(prompts(), key=lambda p: (len(p.messages[-1]["content"]), p.id))]
    assert asked(bench, other)[::2] == (first, 0)
    assert asked(bench, prompts(), DRAWN)[2] == 150
    assert asked(bench, other, DRAWN)[2] == 150


@pytest.mark.parametrize(
    "how",
    [
        {"sampling": Sampling(max_tokens=7)},
        {"sampling": Sampling(stop=("\n",))},
        {"fresh": "control"},
        {"rerun": 1},
    ],
)
def test_what_would_be_another_answer_is_asked_for(bench, how):
    asked(bench, prompts())
    assert asked(bench, prompts(), **how)[2] == 150
    assert asked(bench, prompts(), **how)[2] == 0


def test_another_subject_and_another_company_are_asked(bench):
    asked(bench, prompts())
    bench.digest = "b"
    assert asked(bench, prompts())[2] == 150
    bench.digest = "a"
    longer = [*prompts(), Prompt("long", ({"role": "user", "content": "z" * 50},))]
    assert asked(bench, longer)[2] == 151 - 128  # two calls of 64 have the company they had; the last one has not


def test_a_rerun_is_in_another_order_and_says_so(bench):
    _, first, _ = asked(bench, prompts())
    order = [item for call in bench.model.calls for item in call]
    _, second, _ = asked(bench, prompts(), rerun=1)
    assert [item for call in bench.model.calls for item in call] != order
    assert first["order"] != second["order"]


def test_a_killed_run_goes_on_at_the_call_where_it_was(tmp_path):
    bench = Bench(Store(tmp_path / "store"), Model(dies_at=2))
    with pytest.raises(KeyboardInterrupt):
        asked(bench, prompts())
    bench.model = Model()
    assert asked(bench, prompts())[2] == 150 - 128


def test_calls_under_different_conditions_are_not_put_together(tmp_path):
    bench = Bench(Store(tmp_path / "store"), Model(dies_at=1))
    with pytest.raises(KeyboardInterrupt):
        asked(bench, prompts())
    bench.model = Model()
    bench.model.device = "cuda"
    with pytest.raises(StoreError, match="under different conditions"):
        asked(bench, prompts())


def test_scores_of_texts_are_kept_too(bench):
    texts = [Scored(f"t{i}", "c" * i, (" a", " b")) for i in range(70)]
    found, _ = Asking(bench).score("m", "set", texts)
    bench.model.calls.clear()
    again, _ = Asking(bench).score("m", "set", texts)
    assert again == found
    assert bench.model.calls == []
    Asking(bench).score("m", "set", [replace(texts[0], continuations=(" a", " c")), *texts[1:]])
    assert len(bench.model.calls) == 1


def test_no_prompt_no_call(bench):
    assert asked(bench, [])[2] == 0
