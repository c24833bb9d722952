"""A configuration that works and one that does not: what differs between them, and any mixture of the two as a file.

TOML and JSON. A difference is a path with its value on either side; where a table stands on one side alone, each of its values is one.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from pathlib import Path
from typing import Any

from harness.errors import ConfigError

__all__ = ["Difference", "differences", "dumped", "mixed", "read"]


class _Absent:
    def __repr__(self) -> str:
        return "(absent)"


ABSENT = _Absent()


@dataclass(frozen=True, slots=True)
class Difference:
    """One value that is not the same in both; ABSENT where it stands on one side alone."""

    path: tuple[str, ...]
    good: Any
    bad: Any

    def __str__(self) -> str:
        return f"{'.'.join(map(_key, self.path))}: {_shown(self.good)} -> {_shown(self.bad)}"


def read(path: Path) -> dict[str, Any]:
    """A configuration file. ConfigError if it is none, or of a form that is not known."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    if path.suffix not in (".toml", ".json"):
        raise ConfigError(f"{path}: expected a .toml or .json file")
    try:
        found = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no {path.suffix[1:].upper()}: {error}") from None
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: expected a table of settings, found {type(found).__name__}")
    return found


def differences(good: Any, bad: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """What must change for ``good`` to become ``bad``, in the order of the files."""
    sides = [{} if side is ABSENT else side for side in (good, bad)]
    if any(isinstance(side, dict) and side for side in (good, bad)) and all(isinstance(side, dict) for side in sides):
        for key in dict.fromkeys([*sides[0], *sides[1]]):
            yield from differences(sides[0].get(key, ABSENT), sides[1].get(key, ABSENT), (*path, key))
    elif repr(good) != repr(bad):  # 1 is not true, and not 1.0
        yield Difference(path, good, bad)


def mixed(good: Mapping[str, Any], chosen: Iterable[Difference]) -> dict[str, Any]:
    """``good`` with some of the differences put in."""
    made = copy.deepcopy(dict(good))
    for each in chosen:
        tables = [made]
        for key in each.path[:-1]:
            tables.append(tables[-1].setdefault(key, {}))
        if each.bad is ABSENT:
            del tables[-1][each.path[-1]]
            for table, key in zip(reversed(tables[:-1]), reversed(each.path[:-1]), strict=True):  # no table stays behind empty
                if not table[key]:
                    del table[key]
        else:
            tables[-1][each.path[-1]] = copy.deepcopy(each.bad)
    return made


def dumped(config: Mapping[str, Any], suffix: str) -> str:
    """The text of a file that reads as ``config``: ".json", or ".toml" with one line a value."""
    if suffix == ".json":
        return json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    return "".join(f"{line}\n" for line in _lines(config, ()))


def _lines(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for key, value in table.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            yield from _lines(value, here)
        else:
            yield f"{'.'.join(map(_key, here))} = {_toml(value)}"


def _key(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml(key)


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_toml(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return value.isoformat() if isinstance(value, (date, datetime, time)) else str(value)


def _shown(value: Any) -> str:
    return repr(value) if value is ABSENT else _toml(value)[:200]
