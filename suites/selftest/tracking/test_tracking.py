"""Tracking: what is logged is what was done, differences are named, and nothing that failed is promoted."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from harness import evidence, tracking
from harness.__main__ import main
from harness.bounds import at_least
from harness.errors import EvidenceError, MissingNeed
from harness.report import exports
from harness.store import digest_file
from harness.tracking.logged import Logged, name_of
from harness.types import Claim, Measurement, Sample, Subject
from suites.selftest.report.conftest import folder  # noqa: F401
from suites.selftest.report.reading import HOSTILE

pytestmark = pytest.mark.selftest


def run_of(folder, digest: str = "ab" * 32, text: str = "a share", curve: object = (0.5, 0.25)):  # noqa: F811
    run = folder()
    rows = tuple(Sample(f"i-{i}", float(i < 90)) for i in range(100))
    mine = Subject("mine", "gguf", "mine.gguf", digest)
    told = {"curve": list(curve) if isinstance(curve, tuple) else curve, "recipe": {"lr": 0.001, "text": text}}
    run.add(Claim("T8.fell[mine]", text, at_least(0.5)), Measurement("m", rows, (mine,), told))
    run.add(Claim("T1.lost", text, at_least(0.5)))
    return run


def bundle_of(run) -> exports.Bundle:
    path = run.close(exit_status=1)
    return exports.of_evidence(path, evidence.seal_bundle(path))


def released(bundle: exports.Bundle, **outcomes: str) -> exports.Bundle:
    said = {name: {"outcome": outcome, "sentence": f"why it {outcome}"} for name, outcome in outcomes.items()}
    return replace(bundle, run=replace(bundle.run, releases=said))


# --- what is logged -------------------------------------------------------------------------------


def test_parameters_metrics_and_files_are_those_of_the_run(folder):  # noqa: F811
    of = bundle_of(run_of(folder))
    told = tracking.of_bundle(of)
    (record,) = of.records.values()
    assert told.params["seal"] == of.seal
    assert told.params["subject.mine"] == "ab" * 32
    assert told.params["golden.addresses"] == "2f" * 32
    assert json.loads(told.params["recipe.T8.fell/mine"]) == {"lr": 0.001, "text": "a share"}
    assert (told.params["outcome.T8.fell/mine"], told.params["outcome.T1.lost"]) == ("holds", "lost")
    assert told.metrics["T8.fell/mine/curve"] == (0.5, 0.25)
    assert {key: told.metrics[f"T8.fell/mine/{key}"] for key in ("estimate", "low", "high", "n")} == {
        key: (float(record["verdict"][key]),) for key in ("estimate", "low", "high", "n")
    }
    assert set(told.files) == {p.relative_to(of.path).as_posix() for p in of.path.rglob("*") if p.is_file()}
    assert all(digest == digest_file(of.path / name) for name, digest in told.files.items())


def test_a_curve_of_something_else_is_no_curve(folder):  # noqa: F811
    assert "T8.fell/mine/curve" not in tracking.of_bundle(bundle_of(run_of(folder, curve={"1": 2.0}))).metrics


@given(st.lists(st.text(min_size=1, max_size=20), unique=True, min_size=2, max_size=8))
@example(["0", "0..0", "0._.0"])  # two dots lead out of a folder, and MLflow takes no such name
def test_no_two_names_are_one(texts):
    names = [name_of(text) for text in texts]
    assert len(set(names)) == len(names)
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./:") and ".." not in name for name in names
    )


def test_every_difference_is_named():
    done = Logged({"a": "1", "b": "2"}, {"m": (0.1,), "curve": (1.0, 2.0)}, {"f": "x", "g": "y"})
    logged = Logged({"a": "1", "c": "2"}, {"m": (math.nextafter(0.1, 1),), "curve": (1.0,)}, {"f": "z"})
    assert [one.item for one in tracking.differences(done, logged)] == [
        "parameter b", "parameter c", "metric curve", "metric m", "file f", "file g",
    ]  # fmt: skip
    assert str(tracking.differences(done, logged)[0]) == "parameter b: done '2', logged not at all"
    assert tracking.differences(done, done) == []


# --- promotion ------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", ["fails", "inconclusive", "not_evaluated"])
def test_only_what_holds_is_promoted(folder, outcome):  # noqa: F811
    of = bundle_of(run_of(folder))
    with pytest.raises(EvidenceError, match=f"mine: not promoted: its release verdict is {outcome}: why it {outcome}"):
        tracking.promotable(released(of, mine=outcome), "mine")
    passed = tracking.promotable(released(of, mine="holds"), "mine")
    assert passed.tags == {"build": "mine", "sha256": "ab" * 32, "release": "holds", "seal": of.seal}
    with pytest.raises(EvidenceError, match="no release verdict on 'mien'; did you mean 'mine'"):
        tracking.promotable(released(of, mine="holds"), "mien")


def test_smoke_promotes_nothing(folder):  # noqa: F811
    run = run_of(folder)
    run.tier = "smoke"
    with pytest.raises(EvidenceError, match="proves nothing"):
        tracking.promotable(released(bundle_of(run), mine="holds"), "mine")


def test_weights_must_be_what_was_measured(folder, tmp_path):  # noqa: F811
    weights = tmp_path / "mine.gguf"
    weights.write_bytes(b"weights")
    of = released(bundle_of(run_of(folder, digest_file(weights))), mine="holds")
    assert tracking.promotable(of, "mine", weights).digest == digest_file(weights)
    weights.write_bytes(b"Weights")
    with pytest.raises(EvidenceError, match="not the content that was measured as mine"):
        tracking.promotable(of, "mine", weights)
    with pytest.raises(EvidenceError, match="no such file or folder"):
        tracking.promotable(of, "mine", tmp_path / "none")


def test_a_folder_and_an_artifact_of_the_store_are_known_by_their_digest(tmp_path):
    from harness.store import Store, digest_json, digest_tree

    made = Store(tmp_path / "store").make("x", {"a": 1}, lambda place: (place / "x.gguf").write_bytes(b"weights"))
    assert made.digest in tracking.content_digests(made.path)
    assert made.digest in tracking.content_digests(made.path / "x.gguf")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "model.safetensors").write_bytes(b"w")
    assert digest_json(digest_tree(tmp_path / "plain")) in tracking.content_digests(tmp_path / "plain")


# --- MLflow itself --------------------------------------------------------------------------------


def test_without_mlflow_the_way_to_get_it_is_said(folder, tmp_path, monkeypatch, capsys):  # noqa: F811
    of = bundle_of(run_of(folder))
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(MissingNeed, match="doctor --install track"):
        tracking.Tracker(tmp_path / "t")
    assert main(["track", str(of.path), "--to", str(tmp_path / "t")]) == 8
    assert "not evaluated (mlflow)" in capsys.readouterr().err


def test_a_wrong_command_line_is_status_two(tmp_path, capsys):
    assert main(["track", "a", "b"]) == 2
    assert main(["track", "promote", "a"]) == 2
    assert "name the build" in capsys.readouterr().err


def test_mlflow_gives_back_what_was_logged_and_moves_the_alias(folder, tmp_path, capfd):  # noqa: F811
    pytest.importorskip("mlflow")
    of = bundle_of(run_of(folder, text=HOSTILE))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mlflow.db").write_bytes(b"no database" * 100)
    with pytest.raises(EvidenceError, match="cannot be used for MLflow's database"):
        tracking.Tracker(tmp_path / "other")
    done, tracker = tracking.of_bundle(of), tracking.Tracker(tmp_path / "t")
    run_id = tracker.log(of.path, done, experiment="x", name="run")
    assert tracking.differences(done, tracker.read(run_id)) == []
    assert tracker.status(run_id) == "FINISHED"
    tracker.overwrite(run_id, "T8.fell/mine/estimate", 0.91)
    assert [one.item for one in tracking.differences(done, tracker.read(run_id))] == ["metric T8.fell/mine/estimate"]
    (stored,) = (tmp_path / "t" / "artifacts").rglob("plan.json")
    stored.write_bytes(stored.read_bytes() + b" ")
    assert "file plan.json" in [one.item for one in tracking.differences(done, tracker.read(run_id))]
    assert tracker.aliased("a/model:x", "released") is None
    for version in ("1", "2"):
        tracker.alias("a/model:x", "released", tracker.register("a/model:x", run_id, {"sha256": version}))
        assert tracker.aliased("a/model:x", "released") == (version, {"sha256": version})
    lost = replace(done, files={"evidence/none.json": "0" * 64})
    with pytest.raises(EvidenceError, match="MLflow could not do it"):
        tracker.log(of.path, lost, experiment="x", name="broken")
    tracker.close()
    assert capfd.readouterr().err == ""
