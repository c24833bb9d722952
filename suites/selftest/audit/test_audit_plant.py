"""Planting: each planted row is what it says, is found by the check that owes it, and nothing else changes."""

from __future__ import annotations

import json
import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.audit import model, plant, run, standard
from harness.audit.forms import Shape
from harness.audit.leakage import References
from harness.audit.splits import Splits
from harness.audit.text import canonical
from harness.errors import AuditError

pytestmark = pytest.mark.selftest


def words(i, n):
    return plant._sentences(random.Random(f"data {i}"), n)


def talk(i, *, key="messages", role="role", content="content", user="user", assistant="assistant"):
    return {key: [{role: user, content: words(i, 3)}, {role: assistant, content: words(f"{i}a", 2)}], "id": f"row-{i}", "user": f"u{i % 7}"}


FORMS = {
    "chat": talk,
    "sharegpt": lambda i: talk(i, key="conversations", role="from", content="value", user="human", assistant="gpt"),
    "alpaca": lambda i: {"instruction": words(i, 3), "input": "", "output": words(f"{i}a", 2), "user": f"u{i % 7}"},
    "completion": lambda i: {"prompt": words(i, 3), "completion": words(f"{i}a", 2), "id": i, "user": f"u{i % 7}"},
    "evals": lambda i: {"input": talk(i)["messages"][:1], "ideal": [words(f"{i}a", 2), words(f"{i}b", 2)], "user": f"u{i % 7}"},
    "evals_text": lambda i: {"input": words(i, 3), "ideal": words(f"{i}a", 2), "user": f"u{i % 7}"},
    "pairs": lambda i: {"prompt": words(i, 3), "chosen": words(f"{i}a", 2), "rejected": words(f"{i}b", 2), "user": f"u{i % 7}"},
    "dialogues": lambda i: {"chosen": talk(i)["messages"], "rejected": talk(i)["messages"][:1] + talk(i + 5000)["messages"][1:]},
    "hh": lambda i: {side: f"\n\nHuman: {words(i, 3)}\n\nAssistant: {words(f'{i}{side}', 2)}" for side in ("chosen", "rejected")},
    "text": lambda i: {"text": words(i, 6), "user": f"u{i % 7}"},
}
TALK = {"unknown_role", "system_not_first"}
DO_NOT_FIT = {  # besides those that need what is not given
    "chat": {"chosen_is_rejected"}, "sharegpt": {"chosen_is_rejected"}, "evals": {"chosen_is_rejected"},
    "alpaca": {*TALK, "chosen_is_rejected"}, "completion": {*TALK, "chosen_is_rejected"}, "evals_text": {*TALK, "chosen_is_rejected"},
    "pairs": TALK, "dialogues": {*TALK, "conflicting_answer", "canonical_duplicate", "missing_answer"},
    "hh": {*TALK, "conflicting_answer", "canonical_duplicate", "missing_answer"},
    "text": {*TALK, "chosen_is_rejected", "conflicting_answer", "empty_message", "missing_answer"},
}  # fmt: skip
GOLD = References.of_rows("gold", [{"id": f"g{i}", "question": words(f"gold {i}", 4), "answer": "yes"} for i in range(12)])


def data(folder, form, n=60, files=1):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"data{i}.jsonl" for i in range(files)]
    for f, path in enumerate(paths):
        rows = [FORMS[form](f * n + i) | ({"user": f"{f}-{i % 7}"} if files > 1 else {}) for i in range(n)]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def audited(files, group=""):
    asked = [*standard.checks(standard.Known(apart_from=(GOLD,))), Splits()]
    return run.audit(run.Dataset("data", tuple(files), Shape(group=group)), asked, engine="serial").findings


@pytest.mark.parametrize("form", FORMS)
def test_every_planted_row_is_found_and_nothing_else_is(form, tmp_path):
    files = data(tmp_path / "data", form, files=2)
    shape = Shape(group="user")
    plan = plant.plant(files, tmp_path / "copy", each=3, shape=shape, references=[GOLD])
    assert set(plan.left_out) == {"over_long"} | DO_NOT_FIT[form]
    clean, found = audited(files, "user"), audited(plan.files, "user")
    assert clean.num_rows == 0
    for kind, told in plant.recall(plan, found).items():
        assert (told.found, told.planted) == (3, 3), (kind, told.missed)
    assert plant.false_alarms(plan, found, clean).to_pylist() == []
    assert {one.kind for one in plan.planted} | set(plan.left_out) == set(plant.KINDS)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    files = data(folder / "data", "chat", n=200, files=2)
    return files, plant.plant(
        files, folder / "copy", each=4, shape=Shape(group="user"), references=[GOLD], phrases=["the phrase"], context=2048, seed=7
    )


def lines(paths):
    return [line for path in paths for line in path.read_bytes().splitlines()]


def test_the_copy_without_what_was_put_in_is_the_data(planted):
    files, plan = planted
    copy = lines(plan.files)
    assert len(copy) == plan.rows
    assert [line for i, line in enumerate(copy) if i not in set(plan.inserted)] == lines(files)
    before = [sum(put < row for put in plan.inserted) for row in range(plan.rows)]
    expected = [-1 if row in plan.inserted else row - before[row] for row in range(plan.rows)]
    assert plan.original(np.arange(plan.rows)).tolist() == expected
    assert {one.row for one in plan.planted} <= set(plan.inserted) and json.loads(json.dumps(plan.to_json()))["rows"] == plan.rows


def test_lines_and_files_are_those_of_the_copy(planted):
    _, plan = planted
    copies = [path.read_bytes().splitlines() for path in plan.files]
    for one in plan.planted:
        assert copies[one.file][one.line - 1] == lines(plan.files)[one.row]
    assert [one.row for one in plan.planted] == sorted(one.row for one in plan.planted)
    assert len({one.file for one in plan.planted}) == 2


def said(row):
    return [message["content"] for message in row["messages"]]


def roles(row):
    return [message["role"] for message in row["messages"]]


def what_it_says(one, row, partner):
    """By kind, whether the planted row is one."""
    texts, others = said(row), said(partner) if partner else []
    text, forms, other_forms = " ".join(texts), list(map(canonical, texts)), list(map(canonical, others))
    words = " ".join(canonical(text))
    gold = {f"gold/{item.id}": " ".join(canonical(max(item.texts, key=len))) for item in GOLD.items}.get(one.item, "")
    return {
        "empty_message": lambda: any(not x.strip() for x in texts),
        "unknown_role": lambda: roles(row)[0] == "narrator",
        "missing_answer": lambda: roles(row) == ["user"],
        "system_not_first": lambda: "system" in roles(row)[1:],
        "control_character": lambda: any(x in text for x in plant._CONTROLS),
        "mojibake": lambda: any("Ã" in x for x in texts),
        "exact_duplicate": lambda: row["messages"] == partner["messages"] and one.partner < one.row,
        "canonical_duplicate": lambda: texts != others and forms == other_forms,
        "near_duplicate": lambda: Fraction(4, 5) <= Fraction(one.num, one.den) == jaccard(forms, other_forms) < 1,
        "conflicting_answer": lambda: texts[:-1] == others[:-1] and forms[-1] != other_forms[-1],
        "golden_item": lambda: " ".join(forms[0]) == gold,
        "golden_13_words": lambda: quoted(words, gold, 13) and not quoted(words, gold, 14),
        "golden_8_words": lambda: quoted(words, gold, 8) and not quoted(words, gold, 9),
        "email": lambda: "@example." in text,
        "phone": lambda: "-555-01" in text or "+44 20 7946 0" in text,
        "card": lambda: sum(char.isdigit() for char in text) >= 15 + 4,
        "iban": lambda: "IBAN" in text,
        "secret": lambda: len(text.split("ghp_")[1].split()[0]) == 36,
        "sensitive_phrase": lambda: "the phrase" in text,
        "over_long": lambda: len(canonical(text)) > 2048,
        "loop": lambda: len(set(forms[0])) <= 8 and len(forms[0]) == 96,
        "group_in_two_splits": lambda: row["user"] == partner["user"] and one.file == 1,
    }[one.kind]()


def test_each_planted_row_is_what_it_says(planted):
    _, plan = planted
    copy = lines(plan.files)
    first = len(lines(plan.files[:1]))
    for one in plan.planted:
        if one.kind == "unreadable":
            with pytest.raises(json.JSONDecodeError):
                json.loads(copy[one.row])
            continue
        assert what_it_says(one, json.loads(copy[one.row]), None if one.partner is None else json.loads(copy[one.partner])), one
        if one.kind == "group_in_two_splits":
            assert one.partner < first <= one.row
    assert {one.kind for one in plan.planted} | {"chosen_is_rejected"} == set(plant.KINDS)
    assert set(plan.left_out) == {"chosen_is_rejected"}


def jaccard(one, other):
    """Of two rows, given the canonical words of their texts."""
    sets = [{tuple(words[i : i + 3]) for words in texts for i in range(len(words) - 2)} for texts in (one, other)]
    return Fraction(len(sets[0] & sets[1]), len(sets[0] | sets[1]))


def quoted(text, item, n):
    words = item.split()
    return any(" ".join(words[i : i + n]) in text for i in range(len(words) - n + 1))


def test_the_copy_follows_from_data_and_seed(planted, tmp_path):
    files, plan = planted
    given = {"each": 4, "shape": Shape(group="user"), "references": [GOLD], "phrases": ["the phrase"], "context": 2048}
    again = plant.plant(files, tmp_path / "again", seed=7, **given)
    other = plant.plant(files, tmp_path / "other", seed=8, **given)
    assert lines(again.files) == lines(plan.files) != lines(other.files) and again.planted == plan.planted


def findings(*rows):
    return model.pa.Table.from_pylist([{name: row.get(name) for name in model.FINDINGS.names} for row in rows], schema=model.FINDINGS)


def owed(one):
    return {"check": one.check, "kind": (one.kinds or ("any",))[0], "row": one.row, "partner": one.partner, "item": one.item}


def test_recall_misses_what_was_not_found(planted):
    _, plan = planted
    every = [owed(one) for one in plan.planted]
    assert all(told.found == told.planted == 4 and told.missed == () for told in plant.recall(plan, findings(*every)).values())
    assert all(told.found == 0 and len(told.missed) == 4 for told in plant.recall(plan, findings()).values())
    for one, wrong in zip(plan.planted, every, strict=True):
        for changed in ({"check": "other"}, {"row": max(plan.inserted) + 1}, *([{"kind": "other"}] if one.kinds else []),
                        *([{"item": "gold/other"}] if one.item else [])):  # fmt: skip
            (missed,) = [
                lost
                for told in plant.recall(plan, findings(*(x for x in every if x is not wrong), wrong | changed)).values()
                for lost in told.missed
            ]
            assert missed == one
    swapped = [told | {"row": told["partner"], "partner": told["row"]} if told["partner"] is not None else told for told in every]
    assert all(told.found == 4 for told in plant.recall(plan, findings(*swapped)).values())


def test_a_false_alarm_is_one_that_nothing_owes(planted):
    _, plan = planted
    by_kind = {one.kind: one for one in plan.planted}
    row = next(row for row in range(plan.rows) if row not in plan.inserted and row > plan.inserted[0])
    alarm = {"check": "private", "kind": "email", "row": row, "message": 0}
    donor = by_kind["exact_duplicate"]
    told = [
        alarm,  # on a row of the data
        {"check": "private", "kind": "email", "row": by_kind["loop"].row},  # on a planted row that has none
        owed(by_kind["email"]), {"check": "near", "kind": "near", "row": row, "partner": by_kind["conflicting_answer"].row},
        {"check": "language", "kind": "other", "row": by_kind["loop"].row},
        {"check": "outliers", "kind": "loop", "row": donor.row},  # as its donor has
    ]  # fmt: skip
    clean = findings({"check": "outliers", "kind": "loop", "row": int(plan.original([donor.partner])[0])})
    assert plant.false_alarms(plan, findings(*told), clean).to_pylist() == findings(*told[:2]).to_pylist()
    same = findings({"check": "private", "kind": "email", "row": int(plan.original([row])[0]), "message": 0})
    assert plant.false_alarms(plan, findings(alarm), same).num_rows == 0
    assert plant.false_alarms(plan, findings(alarm | {"message": 1}), same).num_rows == 1
    assert plant.false_alarms(plan, findings(), clean).num_rows == 0


@given(st.lists(st.integers(0, 30), unique=True, max_size=12))
@settings(derandomize=True, deadline=None)
def test_rows_of_the_copy_are_counted_without_what_was_put_in(put):
    plan = plant.Plan((), 31, (), tuple(sorted(put)), {})
    left = iter(range(31))
    assert plan.original(np.arange(31)).tolist() == [-1 if row in put else next(left) for row in range(31)]


def test_the_rate_is_of_the_rows_and_at_least_one(tmp_path):
    files = data(tmp_path / "data", "completion", n=200)
    for rate, n in ((1e-4, 1), (0.02, 4)):
        plan = plant.plant(files, tmp_path / f"{rate}", rate=rate, kinds=["loop", "email"])
        assert sorted(one.kind for one in plan.planted) == ["email"] * n + ["loop"] * n


def test_rows_that_fit_may_be_few_and_broken_rows_are_no_donors(tmp_path):
    path = tmp_path / "data.jsonl"
    rows = ["{broken", "[]", json.dumps(FORMS["chat"](1)), "", *(json.dumps(FORMS["completion"](i)) for i in range(30)), '{"odd": 1}']
    path.write_text("\n".join(rows))
    plan = plant.plant([path], tmp_path / "copy", each=2, kinds=["unknown_role", "conflicting_answer"], seed=3)
    assert sum(one.kind == "conflicting_answer" for one in plan.planted) == 2
    assert plan.rows == 34 + 2 + sum(one.kind == "unknown_role" for one in plan.planted)
    assert all(one.row > 2 for one in plan.planted)


def test_what_cannot_be_planted_is_said(tmp_path):
    files = data(tmp_path / "data", "completion", n=20)
    plan = plant.plant(
        files, tmp_path / "copy", each=2, kinds=["unknown_role", "golden_item", "group_in_two_splits"], shape=Shape(group="user")
    )
    assert plan.planted == () and plan.rows == 20
    assert plan.left_out["unknown_role"] == "0 of 2 planted: rows have no roles"
    assert "one file" in plan.left_out["group_in_two_splits"] and "no reference set" in plan.left_out["golden_item"]


def test_items_are_planted_whole_once_each(tmp_path):
    files = data(tmp_path / "data", "chat", n=50)
    plan = plant.plant(files, tmp_path / "copy", each=20, kinds=["golden_item"], references=[GOLD])
    assert sorted(one.item for one in plan.planted) == sorted(f"gold/g{i}" for i in range(12)) and plan.left_out["golden_item"].startswith(
        "12 of 20"
    )


def test_a_copy_never_overwrites_its_original(tmp_path):
    files = data(tmp_path, "chat", n=5)
    with pytest.raises(AuditError, match=r"data0\.jsonl is the data itself"):
        plant.plant(files, tmp_path)


def test_an_unknown_kind_is_refused(tmp_path):
    with pytest.raises(AuditError, match=r"'near_duplicates'.*did you mean 'near_duplicate'"):
        plant.plant(data(tmp_path / "data", "chat", n=5), tmp_path / "copy", kinds=["near_duplicates"])


def test_files_of_one_name_get_copies_of_their_own(tmp_path):
    files = [*data(tmp_path / "a", "chat", n=5), *data(tmp_path / "b", "chat", n=5)]
    plan = plant.plant(files, tmp_path / "copy", each=1, kinds=["loop"])
    assert [path.name for path in plan.files] == ["data0-0.jsonl", "data0-1.jsonl"] and plan.rows == 11
