"""Datasets of the lifecycle file: what is said of them, what is known, and the gate before training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("numba", reason="the extra audit is not installed")

from harness import config
from harness.errors import AuditError, ConfigError, GoldenError, SubjectError
from harness.lifecycle import Workbench
from harness.lifecycle.subjects import Subjects
from harness.store import Store, digest_file
from harness.types import Subject
from suites.selftest.audit import mixed

pytestmark = pytest.mark.selftest

ROOT = Path(__file__).parents[2]
GOOD = [
    {"prompt": f"What is number {i} of the {a} {b}?", "completion": f"The {b} number {i} is {a}."}
    for i, (a, b) in enumerate((a, b) for a in mixed.WORDS[:5] for b in mixed.WORDS[40:48])
]
LEAK = {"prompt": "Whom do I ask?", "completion": "Write to ann.smith@mail.com about it."}


def bench_of(tmp_path: Path, text: str, *data: str) -> Workbench:
    """A workbench of a project whose lifecycle file is ``text``."""
    (tmp_path / "lifecycle.toml").write_text(text)
    settings = config.load(tmp_path / "lifecycle.toml").with_data(list(data))
    return Workbench(settings, Store(tmp_path / "store"), settings.tier("full"), lambda *_: None)


@pytest.fixture
def project(tmp_path):
    write(tmp_path / "train.jsonl", GOOD)
    write(tmp_path / "test.jsonl", [{"prompt": f"Which {w} is it?", "completion": f"It is the {w} there."} for w in mixed.WORDS[20:30]])
    return tmp_path


def write(path: Path, rows: list[dict]) -> Path:
    return mixed.write(path, [json.dumps(row).encode() for row in rows])


# --- the file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[data.t]\n", r"lifecycle.toml: \[data.t\]: expected files = "),
        ('[data.t]\nfiles = ["a"]\nset = "b/c"\n', r"\[data.t\]: expected files = .*not both"),
        ('[data.t]\nfiles = "a"\n', "data.t.files = 'a', expected list"),
        ("[data.t]\nfiles = [1]\n", r"\[data.t\]: files = \[1\], expected a list of texts"),
        ('[data.t]\nfiles = ["a"]\ncontext = "long"\n', "data.t.context = 'long', expected int"),
        ('[data.t]\nfiles = ["a"]\nlicense = "MIT"\n', "unknown key 'license'.*did you mean 'licence'"),
        ('[data.t]\nfiles = ["a"]\n[data.t.splits]\nx = ["b"]\n', r"\[data.t\]: splits name .*b, which is not among files"),
    ],
)
def test_what_is_wrong_in_the_file_is_named(tmp_path, text, said):
    (tmp_path / "lifecycle.toml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        config.load(tmp_path / "lifecycle.toml")


@pytest.mark.parametrize(("text", "said"), [("mine", "expected name=file"), ("=x", "expected name=file"), ("mine=", "expected name=file")])
def test_what_is_wrong_on_the_command_line_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError, match=said):
        config.empty(tmp_path).with_data([text])
    with pytest.raises(ConfigError, match="stands twice"):
        config.empty(tmp_path).with_data(["a=x", "a=y"])


def test_data_of_the_command_line_are_all_that_is_audited(project):
    text = '[data.train]\nfiles = ["train.jsonl"]\nlicence = "MIT"\n[data.other]\nfiles = ["test.jsonl"]\n'
    bench = bench_of(project, text, f"train={project / 'test.jsonl'}", "mine=a.jsonl,b.jsonl")
    assert bench.settings.audited == ("train", "mine")
    assert bench.data.described("train").files == (project / "test.jsonl",)
    assert bench.data.described("train").licence == "MIT"
    assert [path.name for path in bench.data.described("mine").files] == ["a.jsonl", "b.jsonl"]


# --- what is said, and what is known --------------------------------------------------------------


def test_an_unknown_dataset_names_the_nearest(project):
    bench = bench_of(project, '[data.train]\nfiles = ["train.jsonl"]\n')
    with pytest.raises(ConfigError, match="dataset 'trian': did you mean 'train'"):
        bench.data.spec("trian")


def test_a_missing_file_is_told_by_the_name_of_its_dataset(project):
    bench = bench_of(project, '[data.gone]\nfiles = ["gone.jsonl"]\n[data.set]\nset = "fixtures/none"\n')
    with pytest.raises(AuditError, match=r"dataset gone: no file .*gone.jsonl; correct \[data.gone\] or --data"):
        bench.data.subject("gone")
    with pytest.raises(AuditError, match=r"gone.jsonl"):
        bench.data.audit("gone")
    with pytest.raises((GoldenError, AuditError), match="manifest"):
        bench.data.described("set")


def test_the_subject_is_the_bytes_of_the_files(project):
    bench = bench_of(project, '[data.both]\nfiles = ["train.jsonl", "test.jsonl"]\n[data.turned]\nfiles = ["test.jsonl", "train.jsonl"]\n')
    both, turned = bench.data.subject("both"), bench.data.subject("turned")
    assert (both.scheme, both.location) == ("data", "train.jsonl, test.jsonl")
    assert both.digest != turned.digest
    write(project / "test.jsonl", GOOD[:3])
    assert bench.data.subject("both").digest != both.digest


def test_a_declared_digest_belongs_to_one_file(project):
    digest = digest_file(project / "train.jsonl")
    bench = bench_of(project, f'[data.one]\nfiles = ["train.jsonl"]\nsha256 = "{digest}"\n')
    assert bench.data.described("one").sha256 == {"train.jsonl": digest}


def test_a_set_is_described_by_its_manifest():
    settings = config.load(ROOT / "fixtures" / "lifecycle.toml")
    said = Workbench(settings, Store(ROOT / "none"), settings.tier("full"), lambda *_: None).data.described("addresses_train")
    assert all((said.source, said.licence, said.version, said.changes, said.sha256))
    assert "{input}" in said.prompt


def test_what_is_known_decides_what_is_asked(project):
    both = 'files = ["train.jsonl", "test.jsonl"]\n[data.t.splits]\na = ["train.jsonl"]\nb = ["test.jsonl"]\n'
    text = f'[data.t]\n{both}[data.u]\nfiles = ["train.jsonl"]\n'
    bench = bench_of(project, text)
    assert bench.data.known("t").splits == {"a": [0], "b": [1]}
    assert "splits" in bench.data.audit("t").reports
    assert {"splits", "leakage"}.isdisjoint(bench.data.audit("u").reports)
    assert bench.data.audit("u") is bench.data.audit("u")  # once a run
    assert list((project / "store" / "audit").iterdir())


def test_other_files_than_the_splits_name_are_an_error(project):
    text = '[data.t]\nfiles = ["train.jsonl"]\n[data.t.splits]\na = ["train.jsonl"]\n'
    bench = bench_of(project, text, f"t={project / 'test.jsonl'}")
    with pytest.raises(ConfigError, match=r"dataset t: \[data.t\] puts .*train.jsonl into a split"):
        bench.data.known("t")


def test_no_golden_set_of_that_name(project):
    bench = bench_of(project, '[data.t]\nfiles = ["train.jsonl"]\napart_from = ["none"]\n')
    with pytest.raises(GoldenError, match=r"none|manifest"):
        bench.data.known("t")


def test_baseline_waivers_and_what_is_allowed(project):
    write(project / "train.jsonl", [*GOOD, LEAK])
    waiver = f'[[waiver]]\ncheck = "private"\nlines = [{len(GOOD) + 1}, {len(GOOD) + 1}]\nreason = "our own"\nexpires = 2999-01-01\n'
    (project / "w.toml").write_text(waiver)
    files = 'files = ["train.jsonl"]\n'
    bench = bench_of(
        project, f'[data.plain]\n{files}[data.waived]\n{files}waivers = "w.toml"\n[data.meant]\n{files}allow = ["private.email"]\n'
    )
    data = bench.data
    assert data.settled("plain", data.audit("plain")).new.all()
    assert not data.settled("waived", data.audit("waived")).new.any()
    assert data.policy("plain").get("private.email") is None
    assert data.policy("meant")["private.email"] == "remark"
    with pytest.raises(AuditError, match="no such check"):
        bench_of(project, f'[data.t]\n{files}allow = ["privat.email"]\n').data.policy("t")
    other = bench_of(project, f'[data.t]\n{files}baseline = "gone.json"\n').data
    with pytest.raises(AuditError, match=r"gone.json"):
        other.settled("t", other.audit("t"))


# --- the gate -------------------------------------------------------------------------------------

USED = '[data.rows]\nfiles = ["train.jsonl"]\nused_by = "tuned"\n'


def test_the_gate_lets_clean_rows_pass(project):
    bench_of(project, USED).data.gate("tuned")


def test_the_gate_stops_a_row_and_says_which(project):
    write(project / "train.jsonl", [*GOOD, LEAK])
    bench = bench_of(project, USED)
    with pytest.raises(
        SubjectError, match=rf"dataset rows: 1 findings .*line {len(GOOD) + 1}, private.email.*harness data audit .*train.jsonl"
    ):
        bench.data.gate("tuned")
    bench.data.gate("another")  # trained on nothing that is known here


@pytest.mark.parametrize("how", ["allow", "waivers"])
def test_the_gate_passes_what_is_accepted(project, how):
    write(project / "train.jsonl", [*GOOD, LEAK])
    waiver = f'[[waiver]]\ncheck = "private"\nlines = [{len(GOOD) + 1}, {len(GOOD) + 1}]\nreason = "our own"\nexpires = 2999-01-01\n'
    (project / "w.toml").write_text(waiver)
    bench_of(project, USED + {"allow": 'allow = ["private.email"]\n', "waivers": 'waivers = "w.toml"\n'}[how]).data.gate("tuned")


@pytest.mark.parametrize("bad", [True, False])
def test_nothing_is_trained_on_rows_that_are_blocked(project, monkeypatch, bad):
    trained = []

    def train(base, pairs, folder, recipe, *, work, progress):
        trained.append(len(pairs))
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        (folder / "training.json").write_text("{}")

    monkeypatch.setattr("harness.train.run.train", train)
    monkeypatch.setattr("harness.train.merge.merge", lambda base, adapter, out: (out / "model.safetensors").write_bytes(b"merged"))
    monkeypatch.setattr("harness.lifecycle.subjects.need", lambda engine: None)
    real = Subjects.resolve
    base = (Subject("base", "hf", "base", "0" * 64), project)
    monkeypatch.setattr(Subjects, "resolve", lambda self, name: base if name == "base" else real(self, name))
    write(project / "train.jsonl", [*GOOD, *([LEAK] if bad else [])])
    settings = config.load(ROOT / "fixtures" / "lifecycle.toml")
    mine = config.DataSpec("rows", (str(project / "train.jsonl"),), used_by="tuned")
    settings = replace(settings, data={"rows": mine})
    bench = Workbench(settings, Store(project / "store"), settings.tier("full"), lambda *_: None)
    if bad:
        with pytest.raises(SubjectError, match="dataset rows: 1 findings keep rows out of training"):
            bench.subject("tuned")
        assert trained == []
        assert not list((project / "store" / "tuned").glob("*/seal.json"))
    else:
        assert bench.subject("tuned").name == "tuned"
        assert len(trained) == 1
