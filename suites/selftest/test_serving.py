"""Servers of a lifecycle file: what is kept of them, and what a start that fails is."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import load
from harness.errors import ConfigError, MissingNeed
from harness.lifecycle import Workbench
from harness.lifecycle.serving import Serving
from harness.serve.process import Server, ServerDied
from harness.store import Store

pytestmark = pytest.mark.selftest


@pytest.fixture
def serving(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    text = f"""
[subjects]
mine = "hf:{tmp_path}/model"
[serve.ours]
engine = "vllm"
subject = "mine"
options = {{ max-num-seqs = "4" }}
[serve.theirs]
url = "http://127.0.0.1:9/v1#m"
"""
    path = tmp_path / "lifecycle.toml"
    path.write_text(text, "utf-8")
    settings = load(path)
    bench = Workbench(settings, Store(tmp_path / "store"), settings.tier("smoke"), lambda *_: None, logs=tmp_path / "run")
    yield bench.serving
    bench.close()


def test_a_server_that_dies_at_its_start_is_not_evaluated(serving: Serving, monkeypatch):
    def dies(*_: object) -> Server:
        raise ServerDied("the server died before it was ready, exit 0. The end of its log:\nno such model")

    monkeypatch.setattr(Server, "start", dies)
    with pytest.raises(MissingNeed, match=r"(?s)server_died: .*no such model.*serve\.ours"):
        serving.server("ours")


def test_a_server_of_somebody_else_is_never_ours_to_kill(serving: Serving):
    with pytest.raises(MissingNeed, match="never touched"), serving.fresh("theirs"):
        pass
    with pytest.raises(MissingNeed, match="nobody knows what"):
        serving.reference("theirs")


def test_nothing_of_a_running_server_outlives_the_session(serving: Serving):
    assert "session" in serving.inputs("theirs")


def test_an_unknown_server_is_named_with_the_nearest(serving: Serving):
    with pytest.raises(ConfigError, match="ours"):
        serving.spec("our")


def test_parity_of_what_nobody_knows_is_missing(serving: Serving, monkeypatch):
    monkeypatch.setattr(serving, "server", lambda *_, **__: Path("a server"))
    monkeypatch.setattr(serving, "prompts", lambda *_: [])
    guard = serving.guard("theirs")
    assert (guard.holds, guard.code) == (False, "parity_missing")
