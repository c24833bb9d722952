"""Configurations: what differs is found, any mixture is written, and what is written reads as it was meant."""

from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.dossier.settings import differences, dumped, mixed, read
from harness.errors import ConfigError

pytestmark = pytest.mark.selftest

TEXT = st.text(st.characters(blacklist_categories=("Cs",)), max_size=6)
VALUES = st.one_of(
    st.booleans(), st.integers(-(2**40), 2**40), st.floats(allow_nan=False), TEXT, st.dates(), st.lists(st.integers(), max_size=3)
)
TABLES = st.recursive(VALUES, lambda inner: st.dictionaries(TEXT, inner, min_size=1, max_size=3), max_leaves=8)
CONFIGS = st.dictionaries(TEXT, TABLES, max_size=4)


@given(CONFIGS)
@settings(max_examples=60, deadline=None)
def test_what_is_written_as_toml_reads_the_same(config):
    assert tomllib.loads(dumped(config, ".toml")) == config


@given(CONFIGS, CONFIGS)
@settings(max_examples=60, deadline=None)
def test_all_differences_make_the_bad_one_and_none_the_good_one(good, bad):
    changes = list(differences(good, bad))
    assert repr(mixed(good, [])) == repr(good)
    assert mixed(good, changes) == bad
    assert not list(differences(mixed(good, changes), bad))
    assert not list(differences(good, good))


def test_a_difference_is_told_by_its_path_and_a_table_on_one_side_by_its_values():
    good = {"serve": {"batch": 8, "old": 1}, "on": True}
    bad = {"serve": {"batch": 8.0, "cache": {"reuse": True, "kind": "paged"}}, "on": 1}
    assert [str(each) for each in differences(good, bad)] == [
        "serve.batch: 8 -> 8.0",
        "serve.old: 1 -> (absent)",
        "serve.cache.reuse: (absent) -> true",
        'serve.cache.kind: (absent) -> "paged"',
        "on: true -> 1",
    ]
    assert mixed(good, list(differences(good, bad))[2:3])["serve"] == {"batch": 8, "old": 1, "cache": {"reuse": True}}
    assert json.loads(dumped(bad, ".json")) == bad


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", "a = "), ("a.json", "[1]"), ("a.json", "{"), ("a.yaml", "a: 1"), ("a.json", "[" * 100_000)]
)
def test_what_is_no_configuration_is_refused_by_name(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        read(tmp_path / name)
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "absent.toml")
