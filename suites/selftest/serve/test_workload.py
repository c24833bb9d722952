"""What each request says: valid JSON of what was asked for, the same bytes for a seed, no two alike."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError, MissingNeed
from harness.serve import schedule
from harness.serve.workload import (
    Workload,
    fixed,
    golden_prompts,
    listed,
    lognormal,
    multi_turn,
    replay,
    shared_prefix,
    slots,
    synthetic,
    tenants,
    uniform,
    with_golden,
)
from harness.types import Prompt
from suites.selftest.quality.simulate import most

pytestmark = pytest.mark.selftest
ITEMS = [Prompt(f"item-{i}", messages=({"role": "user", "content": f"Question {i}?"},)) for i in range(40)]


def bodies(load: Workload) -> list[dict]:
    return [json.loads(load.body(i)) for i in range(len(load))]


def plain(n: int = 100, seed: int = 0, **more) -> Workload:
    return synthetic("m", n, seed, prompt=uniform(20, 60), output=fixed(16), **more)


# --- lengths --------------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.floats(1e-16, 1 - 1e-15), st.floats(1e-16, 1 - 1e-15))
def test_lengths_are_quantile_functions(a, b) -> None:
    low, high = sorted((a, b))
    for lengths, least, greatest in ((fixed(7), 7, 7), (uniform(3, 9), 3, 9), (lognormal(50, 1, low=10, high=400), 10, 400)):
        assert least <= lengths.at(low) <= lengths.at(high) <= greatest
    assert listed([5, 1, 9]).at(a) in (1, 5, 9)


def test_uniform_lengths_are_each_as_probable() -> None:
    assert [uniform(1, 4).at(u) for u in (0.01, 0.249, 0.251, 0.51, 0.76, 0.999)] == [1, 1, 2, 3, 4, 4]
    assert lognormal(100, 0.5, high=1000).at(0.5) == 100
    assert str(uniform(1, 4)) == "uniform(1, 4)"


# --- golden prompts -------------------------------------------------------------------------------


def test_golden_prompts_are_the_whole_load() -> None:
    load = golden_prompts(ITEMS, "served", 30, 3, max_tokens=24)
    said = bodies(load)
    assert {b["model"] for b in said} == {"served"} and load.unique == 1
    assert {b["max_tokens"] for b in said} == {24} and load.max_tokens == load.limit(5) == 24
    assert all(b["temperature"] == 0 and b["seed"] == 3 and b["stream_options"] == {"include_usage": True} for b in said)
    assert not any("ignore_eos" in b or "min_tokens" in b for b in said)
    assert all(b["messages"] == [dict(ITEMS[int(load.id(i)[5:])].messages[0])] for i, b in enumerate(said))
    assert len(load.golden) == 1


def test_a_short_golden_set_comes_again_and_says_so() -> None:
    load = golden_prompts(ITEMS[:8], "m", 80, 0, max_tokens=4, golden_share=1)
    assert load.unique == 0.1 and load.to_dict()["unique"] == 0.1
    assert load.golden == frozenset(range(80))
    assert sorted(load.id(i) for i in range(8)) == sorted(item.id for item in ITEMS[:8])


def test_the_warm_up_has_prompts_of_its_own() -> None:
    judged = range(20, 70)
    load = golden_prompts(ITEMS, "m", 80, 1, max_tokens=4, judged=judged, golden_share=0.2)
    assert not {load.id(i) for i in range(20)} & {load.id(i) for i in range(20, 80)}
    assert load.golden <= set(judged) and len(load.golden) == 10
    prefixed = shared_prefix("m", 80, 1, groups=3, prefix=30, suffix=fixed(10), output=fixed(4), judged=judged)
    assert {prefixed.group(i) for i in range(20)} == {"warmup-0", "warmup-1", "warmup-2"}
    assert {prefixed.group(i) for i in range(20, 80)} == {"prefix-0", "prefix-1", "prefix-2"}


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.integers(0, 400), st.integers(0, 400), st.floats(0, 1), st.integers(0, 5))
def test_golden_slots_are_spread_over_the_window(start, length, share, seed) -> None:
    judged = range(start, start + length)
    found = sorted(slots(judged, share, seed))
    assert len(found) == int(share * length + 1e-9) and set(found) <= set(judged)
    if found:
        assert all(b - a <= 2 * (length // len(found) + 1) for a, b in pairwise([start - 1, *found, start + length]))


def test_golden_prompts_ride_in_a_load() -> None:
    load = plain(200)
    riding = with_golden(load, ITEMS, "m", 5, max_tokens=32, judged=range(50, 200))
    assert len(riding.golden) == 7 and min(riding.golden) >= 50
    for i in range(200):
        assert riding.id(i).startswith("item-") if i in riding.golden else riding.body(i) == load.body(i)
    assert {riding.limit(i) for i in riding.golden} == {32}
    assert "prompt_tokens" not in riding.to_dict() and "prompt_tokens" in load.to_dict()  # golden prompts have no declared length
    assert riding.golden != with_golden(load, ITEMS, "m", 6, max_tokens=32, judged=range(50, 200)).golden


# --- synthetic ------------------------------------------------------------------------------------


def test_a_seed_fixes_every_byte() -> None:
    assert plain().digest == plain().digest != plain(seed=1).digest
    assert plain().digest != plain(stream=False).digest
    assert plain(50).bodies == plain(100).bodies[:50]


def test_synthetic_prompts_differ_and_are_as_long_as_declared() -> None:
    load = plain(500)
    assert load.unique == 1 and len(load.bodies) == 500
    for i, said in enumerate(bodies(load)):
        assert len(said["messages"][0]["content"].split()) == load.expected[i] and 20 <= load.expected[i] <= 60
    least, greatest = load.to_dict()["prompt_tokens"]
    assert least <= 20 and greatest >= 60
    starts = {tuple(said["messages"][0]["content"].split()[:8]) for said in bodies(load)}
    assert len(starts) == 500  # not even their beginnings are alike: nothing for a prefix cache


def test_short_prompts_that_cannot_all_differ_are_refused() -> None:
    with pytest.raises(ConfigError, match="too short"):
        synthetic("m", 300, 0, prompt=fixed(1), output=fixed(1))


def test_words_are_fewer_where_they_have_more_tokens() -> None:
    load = synthetic("m", 3, 0, prompt=fixed(40), output=fixed(8), tokens_per_word=2, chat=False, ignore_eos=True)
    said = bodies(load)[0]
    assert len(said["prompt"].split()) == 20 and "messages" not in said
    assert (said["ignore_eos"], said["min_tokens"], said["max_tokens"]) == (True, 8, 8) and load.ignore_eos


def test_groups_share_their_beginning_and_nothing_else() -> None:
    load = shared_prefix("m", 60, 2, groups=4, prefix=50, suffix=fixed(10), output=fixed(4))
    texts = [said["messages"][0]["content"].split() for said in bodies(load)]
    starts = {load.group(i): tuple(texts[i][:50]) for i in range(60)}
    assert len(starts) == len(set(starts.values())) == 4 and load.unique == 1
    assert all(tuple(texts[i][:50]) == starts[load.group(i)] for i in range(60))


# --- conversations, logs, tenants -----------------------------------------------------------------


def test_turns_follow_each_other() -> None:
    def talk(turns):
        return [{"role": ("user", "assistant")[i % 2], "content": str(i)} for i in range(2 * turns - 1)]

    load = multi_turn([talk(3), talk(1), talk(2)], "m", concurrency=2, think_s=0.5, max_tokens=8)
    assert [load.id(i) for i in range(6)] == [
        "conversation-0-turn-0", "conversation-1-turn-0", "conversation-0-turn-1", "conversation-2-turn-0", "conversation-0-turn-2",
        "conversation-2-turn-1",
    ]  # fmt: skip
    assert load.follows == (-1, -1, 0, 1, 2, 3) and load.think_s == 0.5
    assert [len(said["messages"]) for said in bodies(load)] == [1, 1, 3, 1, 5, 3]
    with pytest.raises(ConfigError, match="conversation 0"):
        multi_turn([[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]], "m", concurrency=1, think_s=0, max_tokens=8)
    with pytest.raises(ConfigError, match="turns of a conversation"):
        with_golden(load, ITEMS, "m", 0, max_tokens=1)


def test_a_log_is_replayed(tmp_path) -> None:
    lines = [
        {
            "timestamp": "2026-01-01T00:00:00+00:00",
            "body": {"model": "old", "messages": [{"role": "user", "content": "ä"}], "max_tokens": 5},
        },
        {
            "timestamp": 1767225601.5,
            "body": {"messages": [{"role": "user", "content": "a"}], "temperature": 0.7, "stream_options": {"x": 1}},
            "tenant": "b",
        },
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    due, load = replay(log, "new", scale=2)
    assert due.kind == "trace" and due.arrivals == (0, 3_000_000_000)
    first, second = bodies(load)
    assert first == {"model": "new", "messages": [{"role": "user", "content": "ä"}], "max_tokens": 5, "stream": True,
                     "stream_options": {"include_usage": True}}  # fmt: skip
    assert second["temperature"] == 0.7 and load.groups == ("", "b") and load.limits == (5, 0)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 1: JSONDecodeError"),
        ("[]", "line 1: TypeError"),
        ('{"timestamp": 1}', "line 1: KeyError"),
        ('{"timestamp": "noon", "body": {"prompt": "a"}}', "timestamp 'noon'"),
        ('{"timestamp": NaN, "body": {"prompt": "a"}}', "timestamp nan"),
        ('{"timestamp": true, "body": {"prompt": "a"}}', "timestamp True"),
        ('{"timestamp": 1, "body": {"text": ""}}', "either messages or prompt"),
        ('{"timestamp": 1, "body": {"prompt": "a", "max_tokens": "5"}}', "whole number"),
        ('{"timestamp": 1, "body": {"prompt": "a", "temperature": NaN}}', "no JSON"),
        ('{"timestamp": 1, "body": {"prompt": "\\ud800"}}', "surrogate"),
        ('{"timestamp": 2, "body": {"prompt": "a"}}\n{"timestamp": 1, "body": {"prompt": "a"}}', "sort the log"),
        (
            '{"timestamp": 1, "body": {"prompt": "a"}}\n{"timestamp": 1, "body": {"messages": [{"role": "user", "content": "a"}]}}',
            "both chat and completions",
        ),
    ],
)
def test_a_bad_log_is_refused(line, message) -> None:
    with pytest.raises(ConfigError, match=message):
        replay(line.split("\n"), "m")


def test_tenants_are_drawn_in_proportion() -> None:
    long, short = plain(400, name="long"), plain(400, seed=1, name="short")
    load = tenants({"long": (1, long), "short": (3, short)}, 400, 9)
    assert abs(load.groups.count("long") - 100) < most(400, 0.25) - 100
    for name, part in (("long", long), ("short", short)):
        assert [load.body(i) for i in range(400) if load.group(i) == name] == list(part.bodies[: load.groups.count(name)])
    assert len(load.expected) == 400
    again = tenants({"long": (1, plain(400, seed=7, name="long")), "short": (3, short)}, 400, 9)
    assert again.groups == load.groups and again.digest != load.digest  # other prompts leave the draw alone
    with pytest.raises(ConfigError, match="more were drawn"):
        tenants({"long": (1, plain(3)), "short": (1, short)}, 50, 0)
    with pytest.raises(ConfigError, match="differ in chat"):
        tenants({"long": (1, plain(3, chat=False)), "short": (1, short)}, 5, 0)


# --- what is refused, what survives ---------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: golden_prompts([], "m", 5, 0, max_tokens=1),
        lambda: golden_prompts(ITEMS, "m", 0, 0, max_tokens=1),
        lambda: plain(0),
        lambda: with_golden(plain(5), [], "m", 0, max_tokens=1),
        lambda: multi_turn([], "m", concurrency=1, think_s=0, max_tokens=1),
        lambda: replay(["", " "], "m"),
        lambda: tenants({"a": (1, plain(2)), "b": (1, plain(2))}, 0, 0),
        lambda: listed([]),
    ],
)
def test_nothing_to_send_is_a_missing_need(make) -> None:
    with pytest.raises(MissingNeed, match="empty_workload"):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: fixed(0), "1 <= shortest"),
        (lambda: uniform(9, 3), "1 <= shortest"),
        (lambda: lognormal(float("nan"), 1, high=9), "median"),
        (lambda: golden_prompts(ITEMS, "m", 5, 0, max_tokens=0), "max_tokens = 0"),
        (lambda: golden_prompts(ITEMS, "m", 5, 0, max_tokens=1, chat=False), "raw text"),
        (lambda: golden_prompts(ITEMS, "m", 5, 0, max_tokens=1, golden_share=1.5), "golden share"),
        (lambda: golden_prompts(ITEMS, "m", 5, 0, max_tokens=1, judged=range(0, 9)), "the window is"),
        (lambda: plain(5, tokens_per_word=0.0), "tokens_per_word"),
        (lambda: shared_prefix("m", 5, 0, groups=0, prefix=5, suffix=fixed(9), output=fixed(1)), "groups = 0"),
        (lambda: golden_prompts([Prompt("x", text="half \ud83d")], "m", 1, 0, max_tokens=1), "prompt x: .*surrogate"),
    ],
)
def test_what_is_no_workload_is_refused(make, message) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@settings(derandomize=True, deadline=None, max_examples=40)
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_hostile_text_arrives_as_it_is(text) -> None:
    load = golden_prompts([Prompt("x", text=text)], "m", 1, 0, max_tokens=1)
    assert b"\n" not in load.body(0) and b"\r" not in load.body(0)
    assert bodies(load)[0]["messages"] == [{"role": "user", "content": text}]


def test_a_workload_is_as_long_as_its_schedule() -> None:
    due = schedule.poisson(10, requests=50, seed=0, warmup_s=2, cooldown_s=1)
    load = golden_prompts(ITEMS, "m", len(due), 0, max_tokens=1, judged=due.judged)
    assert len(load) == len(due) and all(due.flag(i) == 0 for i in load.golden)
