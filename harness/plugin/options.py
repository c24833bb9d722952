"""Options, each with an ini twin, and what they choose: the lifecycle file and the tier."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from harness.errors import ConfigError, HarnessError
from harness.stages import STAGES

if TYPE_CHECKING:
    from harness.config import Settings


_FILE = pytest.StashKey["Settings"]()
_OPTIONS = (
    ("lifecycle", "FILE", "the lifecycle file (default: lifecycle.toml, else fixtures/lifecycle.toml)"),
    ("tier", "NAME", "how much is measured: full (default, the proof) or smoke (a subset, never proof)"),
    ("from", "STAGE", f"from this stage on: {', '.join(STAGES)}"),
    ("run-dir", "DIR", "where this run's evidence goes (default: reports/<time>-<tier>)"),
    ("store", "DIR", "where artifacts and measurements are kept for reuse (default: $HARNESS_STORE or the cache folder)"),
)
_LISTS = (
    ("only", "STAGE", "this stage alone, or several: data,train; repeatable"),
    ("subject", "NAME=SCHEME:WHERE", "a model of yours, like mine=gguf:./x.gguf; a new name is what gets tested; repeatable"),
    ("data", "NAME=FILE", "a dataset of yours to audit, like mine=./train.jsonl (several files with commas); repeatable"),
    ("allow-missing", "NAME", "let NAME be absent without changing the exit status; repeatable"),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Every option has an ini twin: --run-dir is harness_run_dir."""
    group = parser.getgroup("harness", "claims about language models")
    for name, metavar, text in _OPTIONS:
        group.addoption(f"--{name}", metavar=metavar, default=None, help=text, type=_word)
        parser.addini(_ini(name), text, default="")
    for name, metavar, text in _LISTS:
        group.addoption(f"--{name}", metavar=metavar, action="append", default=[], help=text, type=_word)
        parser.addini(_ini(name), text, type="linelist", default=[])


def _word(text: str) -> str:
    """What stands behind an option. Nothing is most often a variable that was not set, and must not mean the default."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; name something, or leave the option out")
    return text


def _ini(name: str) -> str:
    return "harness_" + name.replace("-", "_")


def option(config: pytest.Config, name: str) -> str:
    return str(config.getoption(f"--{name}") or config.getini(_ini(name)) or "")


def options(config: pytest.Config, name: str) -> list[str]:
    return [*config.getini(_ini(name)), *config.getoption(f"--{name}")]


def settings_of(config: pytest.Config) -> Settings:
    """The lifecycle settings of this session. Raises pytest.UsageError with the reason if they are wrong."""
    try:
        known = file_settings(config).with_subjects(options(config, "subject")).with_data(options(config, "data"))
        if known.release and not known.builds:
            raise ConfigError(
                f"{known.path}: [[release]] is asked of each build, and there is none; [quant] names them: references, builds, sets, texts"
            )
        return known
    except HarnessError as error:
        raise pytest.UsageError(str(error)) from error


def file_settings(config: pytest.Config) -> Settings:
    """What the lifecycle file says, without the command line: read once, as it was when the session began. ConfigError if it is wrong."""
    from harness import config as configuration

    if _FILE not in config.stash:
        named = option(config, "lifecycle")
        path = Path(named) if named else configuration.default_path(config.rootpath)
        config.stash[_FILE] = configuration.load(path) if named or path.exists() else configuration.empty(config.rootpath)
    return config.stash[_FILE]


def tier_of(config: pytest.Config) -> str:
    """The name of the tier of this session."""
    return option(config, "tier") or "full"
