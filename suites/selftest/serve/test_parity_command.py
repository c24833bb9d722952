"""``python -m harness.serve.parity``: flags are read as servers read them, and what cannot be told is no verdict."""

from __future__ import annotations

import pytest

from harness.errors import ConfigError, EngineError, MissingNeed
from harness.serve import parity
from harness.serve.parity import Guard
from harness.serve.parity import __main__ as command

pytestmark = pytest.mark.selftest


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        ([], {}),
        (["--metrics", "--ctx-size", "4096"], {"metrics": "true", "ctx-size": "4096"}),
        (["--a=1", "--b=", "--a", "2"], {"b": "", "a": "2"}),
        (["--freq", "-0.5", "--eager=false"], {"freq": "-0.5", "eager": "false"}),
    ],
)
def test_flags_become_options(flags, found):
    assert command.options(flags) == found


def test_the_environment_is_told_beside_the_flags():
    flags = ["--a", "1", "--env", "X=1", "--b", "--env=Y_2=p=q", "--env", "X="]
    assert command.environment(flags) == (["--a", "1", "--b"], {"X": "", "Y_2": "p=q"})
    assert command.environment(["--envy", "1"]) == (["--envy", "1"], {})


@pytest.mark.parametrize("flags", [["--env"], ["--env", "X"], ["--env", "--a"], ["--env==1"], ["--env", "1X=1"]])
def test_an_environment_without_name_or_value_is_refused(flags):
    with pytest.raises(ConfigError, match="expected NAME=VALUE"):
        command.environment(flags)


@pytest.mark.parametrize("flags", [["-c", "1"], ["stray"], ["--a", "1", "2"], ["--a", "-b"]])
def test_what_is_no_flag_is_refused(flags):
    with pytest.raises(ConfigError, match="expected long flags"):
        command.options(flags)


@pytest.mark.parametrize(
    ("came", "status"),
    [
        (Guard(True, "", "8 prompts"), 0),
        (Guard(False, "parity_failed", "other tokens"), 1),
        (Guard(False, "parity_missing", "shows nothing"), 125),
        (EngineError("died"), 125),
        (MissingNeed("vllm", "absent", "install it"), 125),
        (ConfigError("option port"), 2),
    ],
)
def test_its_exit_status_is_what_was_found(tmp_path, monkeypatch, capsys, came, status):
    class Started:
        target = None

        def __enter__(self):
            if isinstance(came, Exception):
                raise came
            return self

        def __exit__(self, *_):
            pass

    asked = []
    monkeypatch.setattr("harness.serve.process.Server.start", lambda spec, folder: asked.append(spec) or Started())
    monkeypatch.setattr(command, "_expected", lambda args, reference: ([], None))
    monkeypatch.setattr(parity, "hear", lambda *a, **k: [])
    monkeypatch.setattr(parity, "guard", lambda *a: came)
    assert command.main(["--engine", "vllm", "--model", str(tmp_path), "--", "--dtype", "float32"]) == status
    assert asked[0].options == {"dtype": "float32"} and asked[0].model == tmp_path
    said = capsys.readouterr()
    assert (said.out + said.err).strip()


def test_a_wrong_command_line_is_told_before_anything_starts(tmp_path, capsys):
    (tmp_path / "m.gguf").touch()
    for argv, message in (
        (["--model", str(tmp_path / "absent")], "not there"),
        (["--model", str(tmp_path / "m.gguf")], "no reference"),
        (["--model", str(tmp_path), "--max-tokens", "0"], "at least 1"),
        (["--model", str(tmp_path), "--", "-c"], "long flags"),
    ):
        assert command.main(["--engine", "llamacpp", *argv]) == 2
        assert message in capsys.readouterr().err
