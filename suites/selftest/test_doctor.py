"""``doctor --lifecycle``: each thing that a lifecycle file names is here, or missing with the command that gets it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from harness import config
from harness.__main__ import main
from harness.doctor import examine

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project whose lifecycle file is written by the test."""
    monkeypatch.chdir(tmp_path)

    def written(text: str) -> dict[str, tuple[bool, str]]:
        (tmp_path / "lifecycle.toml").write_text(text)
        return {found.what: (found.missing, f"{found.state} {found.how}") for found in examine(config.load(tmp_path / "lifecycle.toml"))}

    return written


def test_what_is_here_is_here(project, tmp_path, capsys):
    assert main(["init"]) == 0
    capsys.readouterr()
    assert main(["doctor", "--lifecycle"]) == 0
    said = capsys.readouterr().out
    assert said.count("here     ") == 3 and "nothing is missing" in said
    (tmp_path / "claims" / "mine.json").unlink()
    (tmp_path / "golden" / "sets" / "tickets.jsonl").write_text("")
    assert main(["doctor", "--lifecycle", "lifecycle.toml"]) == 1
    said = capsys.readouterr().out
    assert "missing  subject mine" in said and "missing  golden set tickets" in said and "2 of 3 missing" in said


def test_each_kind_of_subject(project, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    found = project("""
[subjects]
folder = "hf:model"
gone = "hf:./gone"
file = "gguf:gone.gguf"
hub = "hf:nobody/never-fetched@abc def"
lora = "adapter:model+hf:model"
server = "http://127.0.0.1:9/v1#x"
made = "recipe:gguf-q9_9"
""")
    assert not found["subject folder"][0]
    assert "gone/config.json" in found["subject gone"][1]
    assert found["subject file"][0]
    assert "hf download nobody/never-fetched --revision 'abc def'" in found["subject hub"][1]
    assert "adapter_config.json" in found["subject lora"][1]
    assert "nothing answers at http://127.0.0.1:9/v1/models" in found["subject server"][1]
    assert found["subject made"][0]


def test_a_server_that_refuses_is_a_server(project):
    from http.server import BaseHTTPRequestHandler, HTTPServer
    from threading import Thread

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(401)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        found = project(
            f'[subjects]\nmine = "http://127.0.0.1:{server.server_port}/v1#x"\n[serve.mine]\nurl = "http://127.0.0.1:{server.server_port}"\n'
        )
        server.shutdown()
        thread.join()
    assert found["subject mine"] == (False, f"http://127.0.0.1:{server.server_port}/v1#x: it answers ")
    assert not found["server mine"][0]


def test_an_engine_that_is_not_installed_comes_with_its_command(project, tmp_path, monkeypatch):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name in ("torch", "peft") else real(name, *more))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    found = project('[subjects]\nmine = "hf:model"\nmade = "recipe:tuned"\n')
    assert "python -m harness doctor --install hf" in found["subject mine"][1]
    assert "python -m harness doctor --install train" in found["subject made"][1]


def test_golden_sets_data_and_judges(project, tmp_path):
    found = project("""
[subjects]
mine = "fake:lifecycle.toml"
[data.train]
files = ["gone.jsonl"]
apart_from = ["heldout"]
[judges.rule]
task = "refused"
labels = "people"
rule = "declines"
[judges.wrong]
task = "refused"
labels = "people"
rule = "declinez"
""")
    assert "golden add FILE.jsonl --name heldout" in found["golden set heldout"][1]
    assert found["golden set people"][0]
    assert "gone.jsonl" in found["dataset train"][1]
    assert not found["judge rule"][0] and "declines" in found["judge wrong"][1]


def test_the_built_in_lifecycle_file_is_understood(tmp_path):
    """Every table of it: nothing but a missing engine or package may be said of it."""
    shutil.copytree(ROOT / "golden", tmp_path / "golden")
    shutil.copytree(ROOT / "fixtures", tmp_path / "fixtures", ignore=shutil.ignore_patterns("imported"))
    found = list(examine(config.load(tmp_path / "fixtures" / "lifecycle.toml")))
    assert len(found) > 30
    wrong = [each for each in found if each.missing and "doctor --install" not in each.how]
    assert wrong == []


def test_no_lifecycle_file_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--lifecycle"]) == 1
    assert "no such lifecycle file" in capsys.readouterr().err


def test_it_looks_and_does_not_make(project, tmp_path, monkeypatch):
    """Nothing is written into the store or the project by looking."""
    monkeypatch.setenv("HARNESS_STORE", str(tmp_path / "store"))
    (tmp_path / "answers.json").write_text(json.dumps({}))
    project('[subjects]\nmine = "fake:answers.json"\nbase = "recipe:base"\n')
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.json", "lifecycle.toml"]


def test_a_wrong_flag_shows_the_usage_of_its_verb(capsys):
    for verb in ("recheck", "make", "history", "init"):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--no-such-flag", "x"])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith(f"usage: python -m harness {verb} ")
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"lifecycle-harness \d+\.\d+\.\d+\n", capsys.readouterr().out)
