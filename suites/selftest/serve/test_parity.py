"""The parity guard on servers whose every token is known: what must pass, and each way of being wrong that must not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import EngineError
from harness.records import Flag, Load, Record
from harness.serve import parity
from harness.serve.load import ask
from harness.serve.parity import floor, hearing
from harness.types import Generation, Sampling
from suites.selftest.serve.double import Double, chats

pytestmark = pytest.mark.selftest

TOKENS = 12
PROMPTS = chats(8)
quick = settings(derandomize=True, deadline=None)


@pytest.fixture(scope="module")
def reference():
    """The double in "float32", and how far "rounding" moves it: .002 nat a token, gaps of 1.5 to 1.4."""
    exact, rounded = Double(), Double(off=0.002, gap=1.4)
    answers = exact.generate(PROMPTS, sampling=Sampling(max_tokens=TOKENS))
    rows = parity.along(exact, PROMPTS, answers)
    return rows, parity.tolerance(rows, parity.along(rounded, PROMPTS, answers))


def heard(target, rows) -> list[parity.Said]:
    for row in rows:  # a stub knows the ids that it was shown
        hearing._tokens(target, Double().render(row.messages) + row.text, special=False)
    return parity.hear(target, rows, max_tokens=TOKENS)


def kinds(samples) -> dict[str, int]:
    found = [s.detail["kind"] for s in samples]
    return {kind: found.count(kind) for kind in sorted(set(found))}


# --- the guard on a server ----------------------------------------------------------------------------


def test_the_right_server_holds(stub, reference):
    rows, allowed = reference
    said = heard(stub({"service": {"tokens": TOKENS}}).target, rows)
    found = parity.guard(rows, said, allowed)
    assert found.holds and not found.code, found.sentence
    assert all(s.scored is not None and s.prompt == row.prompt for s, row in zip(said, rows, strict=True))
    assert [s.value for s in parity.distribution(rows, said, allowed)] == pytest.approx([0.0] * 8, abs=1e-4)


@pytest.mark.parametrize(("fault", "part"), [
    ({"what": "wrong_tokens"}, "8 of 8 greedy answers"),
    ({"what": "wrong_tokens", "when": {"nth": 8}}, "1 of 8 greedy answers"),
    ({"what": "status", "code": 503}, "8 of 8 prompts were not answered"),
    ({"what": "zero_tokens"}, "were not answered"),
])  # fmt: skip
def test_a_wrong_server_fails(stub, reference, fault, part):
    rows, allowed = reference
    found = parity.guard(rows, heard(stub({"service": {"tokens": TOKENS}, "faults": [fault]}).target, rows), allowed)
    assert (found.holds, found.code) == (False, "parity_failed")
    assert part in found.sentence, found.sentence


def test_a_foreign_system_prompt_is_read_as_other_tokens(stub, reference):
    rows, allowed = reference
    server = stub({"service": {"tokens": TOKENS}})
    foreign = [replace(e, messages=({"role": "system", "content": "You are Bob."}, *e.messages)) for e in rows]
    found = parity.guard(rows, heard(server.target, foreign), allowed)
    assert found.code == "parity_failed" and "8 of 8 prompts were read as other tokens" in found.sentence


def test_a_server_that_scores_other_tokens_than_it_was_given_has_nothing_in_common(stub, reference):
    """A stub that was never shown the ids reads them as other words: no crash, and no pass."""
    rows, allowed = reference
    said = parity.hear(stub({"service": {"tokens": TOKENS}}).target, rows, max_tokens=TOKENS)
    assert {s.status for s in parity.distribution(rows, said, allowed)} == {"nothing_in_common"}
    assert parity.guard(rows, said, allowed).code == "parity_failed"


def test_a_server_that_shows_nothing_is_missing_not_held(stub, reference):
    """One that hides ids and scores may be right: nobody can tell."""
    rows, allowed = reference
    bare = [parity.Said(e.id, e.text) for e in rows]
    assert parity.guard(rows, bare, allowed).code == "parity_missing"
    assert parity.guard([], [], allowed).code == "parity_missing"
    assert parity.guard(rows, [replace(s, text="other") for s in bare], allowed).code == "parity_failed"  # and wrong is wrong
    counted = [parity.Said(e.id, e.text, prompt_tokens=len(e.prompt) + 1) for e in rows]
    assert "read as other tokens" in parity.guard(rows, counted, allowed).sentence


def test_a_server_that_scores_no_prompt_is_judged_by_its_own_tokens(reference):
    """As llama.cpp's: the log-probabilities of its own greedy answer, as far as the reference says the same."""
    rows, allowed = reference
    own = [parity.Said(e.id, e.text, prompt=e.prompt, tokens=e.tokens, own=tuple(v + 0.001 for v in e.logprobs)) for e in rows]
    assert parity.guard(rows, own, allowed).holds
    far = [replace(s, own=tuple(v + 2 * allowed.mean for v in s.own or ())) for s in own]
    assert "times the tolerance away" in parity.guard(rows, far, allowed).sentence
    broken = replace(own[0], own=(math.nan, *(own[0].own or ())[1:]))
    assert parity.distribution(rows[:1], [broken], allowed)[0].status == "not_finite"
    elsewhere = replace(own[0], tokens=(7, *own[0].tokens[1:]))
    sample = parity.distribution(rows[:1], [elsewhere], allowed)[0]
    assert (sample.value, sample.status) == (None, "nothing_in_common")


# --- the parts ----------------------------------------------------------------------------------------


def test_along_says_what_the_engine_says_and_survives_json(reference):
    rows, _ = reference
    first = rows[0]
    assert first.prompt == tuple(Double().tokenize(Double().render(PROMPTS[0].messages)))
    assert len(first.tokens) == len(first.logprobs) == len(first.top) == TOKENS and first.end == parity.END
    assert [place[0][0] for place in first.top] == list(first.tokens)
    assert parity.Expected.of(json.loads(json.dumps(asdict(first)))) == first
    said = parity.Said("x", "t", (1, 2), 2, (3,), (-0.5,), None, None)
    assert parity.Said.of(json.loads(json.dumps(asdict(said)))) == said


def test_an_answer_that_ended_by_itself_has_its_end_mark_scored():
    prompt = PROMPTS[0]
    row = parity.along(Double(), [prompt], [Generation(prompt.id, "bal der", "stop", 1, 2)])[0]
    assert row.tokens == (*Double().tokenize("bal der"), row.end) and row.end == Double().tokenize("\n")[0]
    assert parity.plain(row) == row.tokens[:-1]
    with pytest.raises(EngineError, match="no answer to go along"):
        parity.along(Double(), [prompt], [Generation(prompt.id, "", "error", 1, 0, error="too long")])


class Doubling(Double):
    """Puts a mark before every text, which its template writes too: as tokenizers of the Llama family do."""

    MARK = 1

    def tokenize(self, text: str, add_special: bool = True, parse_special: bool = True) -> list[int]:
        plain = [self.MARK if piece == "<s>" else piece for piece in super().tokenize(text.replace("<s>", ""))]
        return [self.MARK] * (text.startswith("<s>") + add_special) + plain

    def render(self, messages):
        return "<s>" + super().render(messages)

    def _scored(self, text):
        assert self.tokenize(text.context).count(self.MARK) == 1, "a doubled mark was scored"
        return super()._scored(text)


def test_a_mark_that_template_and_tokenizer_both_write_is_not_scored_twice():
    prompt = PROMPTS[0]
    row = parity.along(Doubling(), [prompt], [Generation(prompt.id, "bal der", "length", 1, 2)])[0]
    assert row.prompt.count(Doubling.MARK) == 1 and row.prompt[0] == Doubling.MARK


def test_tolerance_is_three_times_the_rounding_and_a_tie_what_a_gap_moved(reference):
    rows, allowed = reference
    assert allowed.mean == pytest.approx(0.006, abs=1e-5)
    assert allowed.tie == pytest.approx(0.1, abs=1e-4)
    same = parity.tolerance(rows, rows)
    assert same.mean == same.tie == 0.001  # a floor, never nothing


# A model of two tokens that are ``wide`` apart at each place, and of a third far below.
def place_of(wide: float) -> tuple[tuple[int, float], ...]:
    return ((10, -0.1), (11, -0.1 - wide), (12, -9.0))


def expected(tokens, wide: float = 0.05, end: int = 2) -> parity.Expected:
    return parity.Expected("p", (), "t", (1,), tuple(tokens), (-0.1,) * len(tokens), (place_of(wide),) * len(tokens), end)


@quick
@given(st.lists(st.integers(0, 3), max_size=8), st.lists(st.integers(0, 3), max_size=8))
def test_the_first_divergence_is_the_first_place_that_differs(ours, theirs):
    place = parity.divergence(ours, theirs)
    padded = [[*side, *(None for _ in range(9 - len(side)))] for side in (ours, theirs)]
    naive = next((i for i, (a, b) in enumerate(zip(*padded, strict=True)) if a != b), None)
    assert place == naive
    assert parity.divergence(theirs, ours) == place


@quick
@given(st.floats(0.0, 1.0), st.floats(0.001, 1.0), st.sampled_from([11, 12, 13]), st.integers(0, 3))
def test_a_tie_is_a_likely_token_within_the_tolerance_and_nothing_else(wide, tie, token, at):
    row = expected((10, 10, 10, 10), wide)
    said = parity.Said("p", "other", tokens=(*(10,) * at, token, 99))
    sample = parity.greedy([row], [said], parity.Tolerance(0.01, tie))[0]
    near = {11: wide, 12: 8.9, 13: math.inf}[token]
    assert sample.detail["at"] == at
    assert sample.value == float(not near <= tie + 1e-12) or abs(near - tie) < 1e-9
    assert (sample.detail["kind"] == "tie") == (sample.value == 0.0)


def test_an_answer_that_ends_early_is_held_against_the_end_mark():
    ended = replace(expected((10, 10, 11), 0.05, end=11))  # the end is as good as a tie with the token
    allowed = parity.Tolerance(0.01, 0.1)
    assert parity.greedy([ended], [parity.Said("p", "o", tokens=(10,))], allowed)[0].detail["kind"] == "tie"
    assert parity.greedy([replace(ended, end=12)], [parity.Said("p", "o", tokens=(10,))], allowed)[0].detail["kind"] == "error"
    on = parity.greedy([expected((10, 10))], [parity.Said("p", "o", tokens=(10, 10, 10))], allowed)[0]
    assert (on.value, on.detail["gap"]) == (1.0, None)  # past all that the reference said: not excused


def test_the_same_text_in_other_tokens_is_the_same_answer():
    row = expected((10, 10))
    assert parity.greedy([row], [parity.Said("p", "t", tokens=(77, 78, 79))], parity.Tolerance(0.01, 0.1))[0].detail["kind"] == "same"
    read = parity.Said("p", "other", tokens=(77,), read=(10, 11))  # another text: as its text is tokenized
    assert parity.greedy([row], [read], parity.Tolerance(0.01, 0.1))[0].detail["kind"] == "tie"


@quick
@given(st.floats(0, 0.5), st.integers(1, 6))
def test_the_distance_is_in_multiples_of_the_tolerance_and_capped(off, n):
    row = expected((10,) * n)
    said = parity.Said("p", "t", scored=tuple(v - off for v in row.logprobs))
    sample = parity.distribution([row], [said], parity.Tolerance(0.01, 0.1))[0]
    assert sample.value == pytest.approx(min(parity.CAP, off / 0.01))
    assert sample.detail["nats"] == pytest.approx(off)


# --- the floor ----------------------------------------------------------------------------------------


def test_golden_answers_in_company_are_held_against_the_same_ones_alone(stub, reference):
    """The stub speaks wrongly only where more than four are in flight: alone it is right, at 8 it is not."""
    rows, allowed = reference
    server = stub({"service": {"tokens": TOKENS, "ttft_s": 0.05}, "faults": [{"what": "wrong_tokens", "when": {"inflight_above": 4}}]})
    read = floor.reader(Double())
    counted = {}
    for concurrency in (1, 4, 8):
        bodies = [hearing.greedy_body(server.target, e, TOKENS) for e in rows]
        said = ask(server.target, bodies, concurrency=concurrency, stream=False)
        texts = {e.id: answer.text for e, answer in zip(rows, said, strict=True)}
        counted[concurrency] = floor.flips(rows, texts, read, allowed)
    assert [sum(s.value == 1 for s in samples) for samples in counted.values()][:2] == [0, 0]
    assert any(row["faults"] for row in server.truth())
    assert sum(s.value == 1 for s in counted[8]) == sum(bool(row["faults"]) for row in server.truth())
    assert f"of 8 answers, c = 1 again: 0 ties, 0 errors; c = 4: 0 ties, 0 errors; c = 8: 0 ties, {kinds(counted[8])['error']} errors" == (
        floor.floor(counted)
    )


def record(sequence, outcome="complete", why="length", flags=Flag.GOLDEN, sent=0, end=1000, at=0) -> Record:
    return Record(at, sequence, 0, outcome, why, sent=sent, first=end, last=end, end=end, tokens=3, frames=3, crc=0, flags=flags)


def test_a_golden_request_that_did_not_complete_counts_and_only_the_window_counts(reference):
    rows, allowed = reference
    records = (
        record(0, flags=Flag.GOLDEN | Flag.WARMUP),
        record(1),
        record(2, "error", "http_error"),
        record(3, flags=0),
        record(4),
        record(5),
    )
    wrong = rows[0].text.replace(rows[0].text.split()[3], "nonsense")
    alone = {rows[0].id: rows[0]}
    texts = {1: rows[0].text, 4: wrong}  # and of 5 the text was lost
    found = floor.in_load(Load({}, records), texts, lambda _: rows[0].id, alone, floor.reader(Double()), allowed)
    assert [(s.item, s.value, s.status) for s in found] == [
        ("000001", 0.0, "ok"),
        ("000002", None, "http_error"),
        ("000004", 1.0, "ok"),
        ("000005", None, "no_answer"),
    ]
    assert found[2].detail["at"] == 3


@quick
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), max_size=12))
def test_the_crowd_is_the_most_that_overlap(spans):
    load = Load({}, tuple(record(i, sent=start, end=start + width) for i, (start, width) in enumerate(spans)))
    naive = max((sum(a <= t < a + w for a, w in spans) for t in range(71)), default=0)
    assert floor.crowd(load) == naive
