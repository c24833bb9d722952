"""Splits that share groups or rows, against sets of plain strings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import model
from harness.audit.splits import Splits
from harness.errors import AuditError

from .making import batch, found, rows_of

pytestmark = pytest.mark.selftest


def finish(check, texts, groups, files, names=("a.jsonl", "b.jsonl", "c.jsonl")):
    """Row i says texts[i], belongs to groups[i] and lies in files[i]."""
    keys = [repr(pair) for pair in zip(texts, groups, strict=True)]
    kept = {key: i for i, key in reversed(list(enumerate(keys)))}
    order = sorted(kept, key=kept.__getitem__)
    made = batch([[("user", "prompt", texts[kept[key]])] if texts[kept[key]] is not None else [] for key in order],
                 group=[groups[kept[key]] for key in order])  # fmt: skip
    rows = replace(rows_of(made, [order.index(key) for key in keys]), files=tuple(names), file=np.array(files, np.int32))
    facts = model.numbered(check.partial(made), "text", rows.text_digests)
    return check.finish(facts, rows, model.in_turn)


ROWS = st.lists(
    st.tuples(st.sampled_from(["a", "A!", "b", "c", "3.5", "35"]), st.sampled_from([None, "u1", "u2", "ü"]), st.integers(0, 2)),
    min_size=1, max_size=25,
)  # fmt: skip


@given(ROWS, st.sampled_from([(), (("x", (0, 1)), ("y", (2,))), (("y", (1,)), ("x", (0,)))]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_what_crosses_splits_is_what_sets_say(rows, splits):
    of_file = {file: name for name, files in splits for file in files} if splits else {0: "a.jsonl", 1: "b.jsonl", 2: "c.jsonl"}
    texts, groups, files = zip(*rows, strict=True)
    said = finish(Splits(splits), texts, groups, files)
    in_play = [i for i in range(len(rows)) if files[i] in of_file]
    told = {(row["kind"], row["row"], row["partner"]) for row in found(said)}
    if len({of_file[files[i]] for i in in_play}) < 2:
        assert told == set() and said.summary["not_evaluated"]
        return
    expected = set()
    for kind, keys in (("group_in_two_splits", groups), ("row_in_two_splits", [{"A!": "a"}.get(text, text) for text in texts])):
        home: dict[str, int] = {}
        for i in in_play:
            if keys[i] is not None and of_file[files[home.setdefault(keys[i], i)]] != of_file[files[i]]:
                expected.add((kind, i, home[keys[i]]))
    assert told == expected and said.findings.num_rows == len(expected)
    assert said.summary["rows_in_no_split"] == len(rows) - len(in_play)
    for kind in ("group_in_two_splits", "row_in_two_splits"):
        assert said.summary[kind]["rows"] == sum(found == kind for found, _, _ in expected)
        assert sum(part["rows"] for part in said.summary[kind]["by_split"]) == said.summary[kind]["rows"]


def test_a_group_is_named_by_a_hash():
    said = finish(Splits.of({"train": [0], "test": [1]}), ["a", "b"], ["jane.doe", "jane.doe"], [0, 1])
    (row,) = found(said)
    assert "jane" not in row["detail"] and row["detail"].endswith("in test, and in train")
    assert (
        row["detail"].split()[1] == finish(Splits(), ["c", "d"], ["jane.doe", "jane.doe"], [1, 2]).findings["detail"][0].as_py().split()[1]
    )
    assert said.summary["rows_in_no_split"] == 0 and said.summary["groups"] == 1


def test_rows_that_could_not_be_read_are_no_shared_row():
    assert found(finish(Splits(), [None, None], ["x", "y"], [0, 1])) == []


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ({"train": [0], "test": [3]}, "names file 3.*0 to 2"),
        ({"train": [0, 1], "test": [1]}, "b.jsonl.*'train' and 'test'"),
        ({"train": []}, "no files"),
    ],
)
def test_splits_that_no_dataset_has_are_refused(splits, says):
    with pytest.raises(AuditError, match=says):
        finish(Splits.of(splits), ["a", "b"], [None, None], [0, 1])


def test_which_file_is_in_which_split_shapes_no_fact():
    assert Splits.of({"train": [0], "test": [1]}).options == Splits().options
