"""Mutation testing of the code that decides: mutmut, told three things that it does not know.

1. Functions under ``@property`` and ``@lru_cache`` are mutated too; wording is not.
2. One part at a time, with the tests written for it; a mutant gets those that reach its function, fast ones first.
3. A survivor needs a reason in reports/statistics/survivors.csv; one without it makes the exit status 1.

The sources are copied to a work folder, so that no mutant ever stands in the checkout:

    python -m suites.selftest.mutation --work FOLDER                   # everything; writes the tables
    python -m suites.selftest.mutation --work FOLDER means judge       # these parts, as far as they are not known there
    python -m suites.selftest.mutation --work FOLDER --again means     # the survivors known there once more
"""

from __future__ import annotations

import argparse
import csv
import functools
import itertools
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import libcst as cst
import mutmut.__main__ as mutmut
import mutmut.mutation.file_mutation as generation
import mutmut.mutation.trampoline as trampoline
import pytest
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import save_stats, status_by_exit_code
from mutmut.utils.file_utils import change_cwd
from mutmut.utils.format_utils import orig_function_and_class_names_from_key
from mutmut.workers.isolation import ForkRunner

ROOT = Path(__file__).resolve().parents[3]
TABLES = ROOT / "reports" / "statistics"
KILLED = ("killed", "timeout")


# --- what is mutated ------------------------------------------------------------------------------


def _carried(function: cst.CSTNode) -> bool:
    """Whether all decorators of a function can stand on a trampoline; mutmut would leave the function out."""
    if not isinstance(function, cst.FunctionDef) or not function.decorators:
        return False
    names = [d.decorator.func if isinstance(d.decorator, cst.Call) else d.decorator for d in function.decorators]
    return all(isinstance(name, cst.Name) and name.value in ("property", "lru_cache", "cache") for name in names)


def _wording(node: cst.CSTNode) -> bool:
    """What a verdict never rests on: sentences, and ``strict=True``, which guards lengths checked before."""
    if isinstance(node, cst.Arg):
        return _names_strict(node)
    return isinstance(node, cst.FormattedString) or (isinstance(node, cst.SimpleString) and " " in node.value)


def _names_strict(argument: cst.Arg) -> bool:
    return argument.keyword is not None and argument.keyword.value == "strict"


def _spares_strict(operator):
    def operate(call: cst.Call):
        before = [argument for argument in call.args if _names_strict(argument)]
        return (mutant for mutant in operator(call) if [argument for argument in mutant.args if _names_strict(argument)] == before)

    return operate


def _adapt_generation() -> None:
    skip, arrange = generation.MutationVisitor._skip_node_and_children, generation.function_trampoline_arrangement

    def skip_others(visitor, node):
        return _wording(node) or skip(visitor, node.with_changes(decorators=()) if _carried(node) else node)

    def arrange_all(function, mutants, class_name):
        declared, (trampoline, *copies), assigned, names = arrange(function, mutants, class_name)
        if _carried(function):
            copies = [copy.with_changes(decorators=()) for copy in copies]
        return declared, [trampoline, *copies], assigned, names

    generation.mutation_operators = [
        (kind, _spares_strict(operator) if kind is cst.Call else operator) for kind, operator in generation.mutation_operators
    ]
    generation.MutationVisitor._skip_node_and_children = skip_others
    generation.function_trampoline_arrangement = arrange_all


# --- which tests run ------------------------------------------------------------------------------


def _forget() -> None:
    for name, module in list(sys.modules.items()):
        for value in list(vars(module).values()) if name.startswith("harness.") else ():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


class _Witness:
    """Empties the caches before each test; notes the seconds it took, and how to call it without pytest."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, Callable[[], object]] = {}

    def pytest_collection(self) -> None:
        """A failure is enough; hypothesis takes long to find the smallest one. (Imported once pytest has rewritten it.)"""
        from hypothesis import Phase, settings

        settings.register_profile("mutation", phases=[Phase.explicit, Phase.generate], database=None)
        settings.load_profile("mutation")

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_modifyitems(self, items) -> None:
        """Leaves out tests with fixtures: they run files and processes, not the functions mutated here."""
        parameters = {item: item.callspec.params if hasattr(item, "callspec") else {} for item in items}
        items[:] = [item for item in items if set(item._fixtureinfo.argnames) <= set(parameters[item])]
        self.calls = {item.nodeid: functools.partial(item.obj, **parameters[item]) for item in items}

    def pytest_runtest_setup(self, item) -> None:
        _forget()

    def pytest_runtest_logreport(self, report) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration


class _Runner(PytestRunner):
    calls: dict[str, Callable[[], object]]

    def execute_pytest(self, params, plugins=(), **kwargs) -> int:
        return super().execute_pytest(params, plugins=[*plugins, _Witness()], **kwargs)

    def time_tests(self) -> int:
        """All tests once, without mutants and without mutmut's accounting."""
        witness = _Witness()
        with change_cwd("mutants"):
            status = super().execute_pytest(self._pytest_args_regular_run(()), plugins=[witness])
        self.calls = witness.calls
        state().duration_by_test.update(witness.seconds)
        save_stats()
        return status

    def run_tests(self, *, mutant_name, tests) -> int:
        """In the fork of one mutant: 1 at the first test that fails, without the cost of starting pytest."""
        if mutant_name is None:
            return super().run_tests(mutant_name=None, tests=tests)
        chosen = _selection(tests)
        limit = int(time.process_time() + 2 + 3 * sum(map(_seconds, chosen)))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 1))
        for test in chosen:
            _forget()
            try:
                self.calls[test]()
            except pytest.skip.Exception:
                pass
            except BaseException:
                return 1
        return 0


class _Fork(ForkRunner):
    def run_clean_tests(self, tests) -> int:
        return self.test_runner.time_tests()


def _seconds(test: str) -> float:
    return state().duration_by_test[test]


def _selection(tests) -> list[str]:
    """Fast ones first, three seconds of them."""
    ordered = sorted(tests, key=_seconds)
    spent = list(itertools.accumulate(map(_seconds, ordered)))
    return [test for test, seconds in zip(ordered, spent, strict=True) if seconds <= max(3.0, spent[0])]


# --- one part -------------------------------------------------------------------------------------


def _parts() -> dict[str, list[str]]:
    """The files of each part: every module of the statistics by itself, the judge and the bounds together."""
    files = sorted(str(path.relative_to(ROOT)) for pattern in config().only_mutate for path in ROOT.glob(pattern))
    modules = [file for file in files if file.startswith("harness/stats/") and not file.endswith("__init__.py")]
    return {Path(file).stem: [file] for file in modules} | {"judge": [file for file in files if not file.startswith("harness/stats/")]}


def _tests(name: str) -> list[str]:
    """The files of tests for one part."""
    if name == "judge":
        files = [*ROOT.glob("suites/selftest/test_judge*.py"), ROOT / "suites/selftest/test_release.py"]
        return sorted(str(path.relative_to(ROOT)) for path in files)
    names = [name, "exact"] if name == "paired" else ["means"] if name == "ratio" else [name]
    folder = "suites/selftest/stats"
    return [f"{folder}/test_stats_{name}.py" for name in (*names, "properties", "mutants")]


def _copy(folder: Path) -> None:
    for name in ("harness", "suites", "fixtures", "golden", "conftest.py", "pytest.ini", "pyproject.toml", "README.md"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, folder / name)


def _run(part: str, folder: Path, again: bool, workers: int) -> None:
    """In a process of its own: leaves (function, outcome, difference) of every mutant, by file, in results.json."""
    files, tests = _parts()[part], _tests(part)
    _copy(folder)
    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]
    for name in [name for name in sys.modules if name.partition(".")[0] == "suites"]:
        del sys.modules[name]
    _adapt_generation()
    trampoline.get_mutant_under_test = lambda: trampoline._mutant_under_test or ""  # the environment is slow to ask
    mutmut.get_mutant_runner = lambda workers=1: _Fork(workers, _Runner())
    config().only_mutate = files
    config().pytest_add_cli_args_test_selection = tests
    for file in files if again else ():
        data = _data(file)
        data.exit_code_by_key = {m: code if status_by_exit_code[code] in KILLED else None for m, code in data.exit_code_by_key.items()}
        data.save()
    mutmut._run([], workers)
    results = {file: [(_function(mutant), outcome, _difference(file, mutant)) for mutant, outcome in _outcomes(file)] for file in files}
    Path("results.json").write_text(json.dumps(results), encoding="utf-8")


def _data(file: str) -> SourceFileMutationData:
    data = SourceFileMutationData(path=Path(file))
    data.load()
    return data


def _outcomes(file: str) -> list[tuple[str, str]]:
    return [(mutant, status_by_exit_code[code]) for mutant, code in _data(file).exit_code_by_key.items()]


def _function(mutant: str) -> str:
    function, owner = orig_function_and_class_names_from_key(mutant)
    return f"{owner}.{function}" if owner else function


def _difference(module: str, mutant: str) -> str:
    lines = get_diff_for_mutant(mutant, path=module).split("\n")
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines if line[:1] in ("+", "-") and line[:3] not in ("+++", "---"))


# --- all parts ------------------------------------------------------------------------------------


def _report(results: dict[str, list[list[str]]], write: bool) -> int:
    """The tables, and how many survivors have no reason."""
    counts, survivors = [], []
    reasons = {(row["file"], row["function"], row["diff"]): row["reason"] for row in _read("survivors")}
    for module, rows in results.items():
        alive = [row for row in rows if row[1] not in KILLED]
        timeouts = sum(row[1] == "timeout" for row in rows)
        killed = len(rows) - len(alive)
        counts.append({"module": module, "mutants": len(rows), "killed": killed, "of these by time": timeouts, "survivors": len(alive)})
        for function, outcome, difference in alive:
            reason = reasons.get((module, function, difference), "")
            survivors.append({"file": module, "function": function, "diff": difference, "reason": reason})
            if not reason:
                print(f"{outcome}: {module} {function}\n{difference}")
    if write:
        _write("mutation", ("module", "mutants", "killed", "of these by time", "survivors"), counts)
        _write("survivors", ("file", "function", "diff", "reason"), survivors)
    return sum(not row["reason"] for row in survivors)


def _read(name: str) -> list[dict[str, str]]:
    path = TABLES / f"{name}.csv"
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines(keepends=True))) if path.exists() else []


def _write(name: str, columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    with (TABLES / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, columns, lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m suites.selftest.mutation")
    parser.add_argument("--work", type=Path, required=True, help="folder for copies and mutants; kept between calls")
    parser.add_argument("--again", action="store_true", help="test the survivors once more")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # the process of one part
    parser.add_argument("parts", nargs="*")
    given = parser.parse_args()
    folders = {part: given.work.resolve() / part for part in given.parts or _parts()}
    if given.alone:
        (part, folder), *_ = folders.items()
        _run(part, folder, given.again, given.workers)
        return 0
    results, broken = {}, []
    for part, folder in folders.items():
        print(f"{part} ...", flush=True)
        command = [
            sys.executable,
            "-m",
            "suites.selftest.mutation",
            "--alone",
            "--work",
            str(given.work),
            "--workers",
            str(given.workers),
            part,
        ]
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "log").open("wb") as log:
            status = subprocess.run([*command, *["--again"] * given.again], cwd=ROOT, stdout=log, stderr=log, check=False).returncode
        if status:
            broken.append(part)
            print(f"{part}: mutmut ended with status {status}, see {folder / 'log'}")
        else:
            results |= json.loads((folder / "results.json").read_text(encoding="utf-8"))
    unexplained = _report(results, write=not broken and list(folders) == list(_parts()))
    return 1 if broken or unexplained else 0


if __name__ == "__main__":
    sys.exit(main())
