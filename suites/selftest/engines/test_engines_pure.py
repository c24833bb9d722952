"""The registry, the fake, and the helpers that engines share: no model."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import engines
from harness.engines import available, length_batches, open_engine, token_digest, versions
from harness.engines.common import common_prefix, cut_at_stop, pick_token, rng_for, safetensors_entries
from harness.engines.scoring import Slice, item_of
from harness.errors import EngineError, MissingNeed, SubjectError
from harness.types import Prompt, Sampling, Scored

pytestmark = pytest.mark.selftest


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 8), st.integers(1, 120))
def test_batches_hold_everything_once_and_keep_their_limits(lengths, items, tokens):
    plan = length_batches(lengths, items, tokens)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        assert len(batch) <= items
        assert len(batch) == 1 or max(lengths[i] for i in batch) * len(batch) <= tokens
    order = [lengths[i] for batch in plan for i in batch]
    assert order == sorted(lengths, reverse=True)


@pytest.mark.parametrize("limits", [(0, 5), (5, 0)])
def test_batches_refuse_empty_limits(limits):
    with pytest.raises(ValueError, match="at least 1"):
        length_batches([1], *limits)


def test_token_digest_is_the_documented_one():
    assert token_digest([1, 22, 333]) == hashlib.sha256(b"1,22,333").hexdigest()
    assert token_digest([]) == hashlib.sha256(b"").hexdigest()


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), max_size=4))
def test_common_prefix(sequences):
    length = common_prefix(sequences)
    assert all(s[:length] == sequences[0][:length] for s in sequences)
    if sequences and length < min(map(len, sequences)):
        assert len({s[length] for s in sequences}) > 1


def test_cut_at_the_earliest_stop():
    assert cut_at_stop("ab;c\nd", ("\n", ";", "")) == "ab"
    assert cut_at_stop("abc", ("x",)) is None


def test_greedy_and_nucleus():
    np = pytest.importorskip("numpy")
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], dtype=np.float32))
    assert pick_token(logits, 0.0, 1.0, None) == 0
    rng = rng_for("seed", "id")
    drawn = [pick_token(logits, 1.0, 0.75, rng) for _ in range(4000)]
    assert set(drawn) == {0, 1}  # .5 + .3 reaches .75, the rest is cut
    assert drawn.count(0) / 4000 == pytest.approx(0.5 / 0.8, abs=0.03)
    assert {pick_token(logits, 1.0, 1.0, rng) for _ in range(2000)} == {0, 1, 2, 3}
    assert rng_for(1, "a").random() == rng_for(1, "a").random() != rng_for(1, "b").random()


def test_nan_logits_are_an_error_not_a_token():
    np = pytest.importorskip("numpy")
    with pytest.raises(EngineError, match="NaN"):
        pick_token(np.array([1.0, float("nan")], dtype=np.float32), 0.0, 1.0, None)


def letters(text):
    return list(text.encode())


def test_item_scores_what_follows_the_context():
    item = item_of(Scored("x", "ab", ("cd", "ce", "")), letters, None, 99)
    assert [branch.ids[branch.start :] for branch in item.branches] == [letters("cd"), letters("ce"), []]
    (part,) = item.slices(8, 99)
    assert part.shared == 3  # "abc": what it predicts differs
    assert part.cost == 3
    predicted = {step.position: [token for _, token in step.predicts] for step in part.steps() if step.predicts}
    assert predicted == {1: letters("c") * 2, 2: letters("de")}


@pytest.mark.parametrize(("bos", "scored"), [(None, "oc"), (7, "doc")])
def test_document_begins_after_a_bos_token_if_there_is_one(bos, scored):
    item = item_of(Scored("x", "", ("doc",)), letters, bos, 99)
    assert item.branches[0].ids[item.branches[0].start :] == letters(scored)


def test_bos_that_the_tokenizer_adds_is_not_doubled():
    item = item_of(Scored("x", "", ("doc",)), lambda text: [7, *letters(text)], 7, 99)
    assert item.branches[0].ids == [7, *letters("doc")]
    assert item.branches[0].start == 1


def test_merge_across_the_border_moves_it():
    """Where context and continuation share a token, that token is scored."""

    def merging(text):
        return letters(text.replace("bc", "\x01"))

    item = item_of(Scored("x", "ab", ("cd",)), merging, None, 99)
    assert item.branches[0].ids[item.branches[0].start :] == letters("\x01d")


@given(st.lists(st.text("ab", max_size=5), max_size=6), st.integers(1, 3), st.integers(4, 12))
def test_slices_compute_every_scored_token_once(continuations, branches, tokens):
    item = item_of(Scored("x", "ab", tuple(continuations)), letters, None, 99)
    slices = item.slices(branches, tokens)
    assert all(len(part.branches) <= branches for part in slices)
    for part in slices:
        assert part.cost == len(part.steps())
        assert part.cost <= tokens or len(part.branches) == 1
    predicted = [(id(b), t) for part in slices for step in part.steps() for b, t in step.predicts]
    assert sorted(predicted) == sorted((id(b), t) for b in item.branches for t in b.ids[b.start :])


def test_one_branch_shares_everything():
    item = item_of(Scored("x", "a", ("bc",)), letters, None, 99)
    assert Slice(item.branches).shared == 2


# --- the registry ----------------------------------------------------------------------------------


def test_unknown_engine_and_option():
    with pytest.raises(EngineError, match="llamacpp"):
        open_engine("llamacp", "x")
    with pytest.raises(EngineError, match="unknown engine"):
        available("x")
    with pytest.raises(EngineError, match="salt"):
        open_engine("fake", {}, slat="x")


def test_absent_packages_are_named_with_the_command(monkeypatch):
    monkeypatch.setattr(engines.importlib.util, "find_spec", lambda name: None)
    missing = available("llamacpp")
    assert isinstance(missing, MissingNeed)
    assert missing.how == "python -m harness doctor --install llamacpp"
    with pytest.raises(MissingNeed, match="llama_cpp"):
        open_engine("llamacpp", "x.gguf")
    assert available("fake") is None


def test_versions_come_from_metadata():
    assert versions("fake") == {}
    assert all(isinstance(v, str) for v in versions("hf").values())


# --- the fake --------------------------------------------------------------------------------------


@pytest.fixture
def fake():
    return open_engine("fake", {"a": "yes; no", "b": "ü" * 9})


def test_fake_answers_from_its_table(fake):
    prompts = [Prompt("a", text="x"), Prompt("b", text="x"), Prompt("c", text="x")]
    answers = fake.generate(prompts, sampling=Sampling(max_tokens=9, stop=(";",)))
    assert [(a.text, a.finish) for a in answers] == [("yes", "stop"), ("ü" * 4, "length"), ("", "error")]
    assert "no answer for 'c'" in answers[2].error


def test_fake_scores_are_probabilities(fake):
    np = pytest.importorskip("numpy")
    scored = fake.logprobs([Scored("s", "a", ("bc", ""), full=True)])[0]
    assert scored == fake.logprobs([Scored("s", "a", ("bc", ""))])[0].__class__("s", scored.tokens, scored.logprobs, scored.distributions)
    assert np.exp(scored.distributions[0].astype("f8")).sum(axis=-1) == pytest.approx(1.0, abs=1e-5)
    assert scored.distributions[1].shape == (0, 256)
    assert math.exp(scored.logprobs[0][0]) < 1
    other = open_engine("fake", {}, salt="other").logprobs([Scored("s", "a", ("bc",))])[0]
    assert other.logprobs[0] != scored.logprobs[0]


def test_fake_says_so(fake):
    assert "FAKE" in fake.describe()["policy"]
    fake.close()
    fake.close()
    with pytest.raises(EngineError, match="closed"):
        fake.logprobs([])


def test_fake_reads_a_file(tmp_path):
    path = tmp_path / "answers.json"
    path.write_text(json.dumps({"a": "x"}))
    answers = open_engine("fake", path).generate([Prompt("a", text="")], sampling=Sampling())
    assert answers[0].text == "x"
    for bad in ("[]", "{", '{"a": 1}'):
        path.write_text(bad)
        with pytest.raises(SubjectError):
            open_engine("fake", path)


# --- safetensors headers ---------------------------------------------------------------------------


def safetensors_bytes(header, data=bytes(16)):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(raw).to_bytes(8, "little") + raw + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated"),
        (b"\xff" * 20, "truncated"),
        (safetensors_bytes(b"no json"), "not JSON"),
        (safetensors_bytes(b"\xff\xfe"), "not JSON"),
        (safetensors_bytes([1]), "no JSON object"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}), "truncated: expected"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}), "does not fill"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [-1, -4], "data_offsets": [0, 16]}}), "does not fill"),
        (safetensors_bytes({"w": {"dtype": "F32", "shape": [4]}}), "malformed"),
        (safetensors_bytes({"w": 3}), "malformed"),
    ],
)
def test_hostile_safetensors(tmp_path, data, message):
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(SubjectError, match=message):
        safetensors_entries(tmp_path)


@given(st.binary(max_size=60))
def test_any_safetensors_header(tmp_path_factory, raw):
    folder = tmp_path_factory.mktemp("st")
    (folder / "model.safetensors").write_bytes(safetensors_bytes(raw))
    with contextlib.suppress(SubjectError):
        safetensors_entries(folder)


def test_shard_outside_the_folder(tmp_path):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "../x.safetensors"}}))
    with pytest.raises(SubjectError, match="outside the folder"):
        safetensors_entries(tmp_path)
