"""Going on from a sealed checkpoint equals not having stopped, to the bit; anything else is refused or moved aside."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import TrainingError
from harness.train import checkpoints
from harness.train.run import train
from suites.selftest.tiny_rows import PAIRS, PREFERENCE, RECIPE, ROWS

pytestmark = pytest.mark.selftest

FILES = ["adapter_config.json", "adapter_model.safetensors", "seal.json", "state.json", "state.safetensors", "trainer_state.json"]
CURVES = ("loss", "lr", "grad_norm", "rewards", "steps", "digests", "outcome")


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    for name in ("trl", "peft", "datasets", "bitsandbytes"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def whole(tiny_folder, tmp_path_factory):
    """A run with a checkpoint every second step, and its work folder."""
    folder = tmp_path_factory.mktemp("whole")
    return train(tiny_folder, ROWS, folder / "out", replace(RECIPE, save_every=2), work=folder / "work"), folder / "work"


@pytest.fixture
def work(whole, tmp_path):
    """A copy of the checkpoints, to be harmed."""
    return shutil.copytree(whole[1], tmp_path / "work")


def go_on(tiny_folder, work, recipe=RECIPE, rows=ROWS, **named):
    return train(tiny_folder, rows, work.parent / "out", recipe, work=work, **named)


def told(report):
    return {name: report[name] for name in CURVES}


# --- resumed = not stopped -------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [1, 3, 4, 8])  # in the first epoch, at its end, after it, before the last step
def test_a_stopped_run_goes_on_to_the_bit(whole, tiny_folder, tmp_path, stop):
    first = go_on(tiny_folder, tmp_path / "work", stop_after=stop)
    assert (first["outcome"], len(first["loss"]), first["digests"].keys()) == ("stopped", stop, {"base", "rows"})
    assert not (tmp_path / "out" / "adapter_model.safetensors").exists()
    random.seed(stop)  # whatever this process did in between
    again = go_on(tiny_folder, tmp_path / "work")
    assert again["resumed_at"] == stop
    assert told(again) == told(whole[0])


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        ({"dropout": 0.2, "batch": 2, "accumulate": 2, "steps": 4}, ROWS),  # the generators count, and the place within an epoch
        ({"method": "dora", "steps": 4}, ROWS),
        ({"method": "qlora", "steps": 4}, ROWS),
        ({"packing": True, "batch": 1, "max_length": 50, "steps": 6}, ROWS),
        ({"objective": "dpo", "steps": 4}, PAIRS),
        ({"objective": "orpo", "dropout": 0.1, "steps": 4}, PAIRS),
    ],
    ids=["dropout", "dora", "qlora", "packing", "dpo", "orpo"],
)
def test_so_does_every_kind_of_run(tiny_folder, tmp_path, change, rows):
    recipe = replace(RECIPE if rows is ROWS else PREFERENCE, **change)
    reference = go_on(tiny_folder, tmp_path / "none", recipe, rows)
    go_on(tiny_folder, tmp_path / "work", recipe, rows, stop_after=2)
    assert told(go_on(tiny_folder, tmp_path / "work", recipe, rows)) == told(reference)


def test_a_finished_run_is_gone_on_from_its_last_checkpoint(whole, tiny_folder, work):
    again = go_on(tiny_folder, work)
    assert (again["resumed_at"], told(again)) == (8, told(whole[0]))


def test_a_run_stops_no_earlier_than_it_was_resumed(tiny_folder, work):
    report = go_on(tiny_folder, work, stop_after=3)
    assert (report["outcome"], len(report["loss"]), report["resumed_at"]) == ("stopped", 8, 8)


def test_without_a_work_folder_there_are_no_checkpoints(tiny_folder, tmp_path):
    train(tiny_folder, ROWS, tmp_path / "out", replace(RECIPE, save_every=1, steps=2))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# --- what is in them -------------------------------------------------------------------------------


def test_they_are_sealed_few_and_hold_no_pickle(whole):
    _, folder = whole
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint-000004", "checkpoint-000006", "checkpoint-000008"]
    newest = folder / "checkpoint-000008"
    assert sorted(path.name for path in newest.iterdir()) == FILES
    for path in newest.iterdir():
        if path.suffix == ".json":
            json.loads(path.read_text())
        else:
            assert checkpoints_tensors(path)
    seal = json.loads((newest / "seal.json").read_text())
    assert sorted(seal["files"]) == [name for name in FILES if name != "seal.json"]
    assert len(json.loads((newest / "trainer_state.json").read_text())["log_history"]) == 8  # the curve so far


def checkpoints_tensors(path):
    from harness.engines.common import safetensors_file

    return safetensors_file(path)


# --- damaged, unfinished, another run's ------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", ["flipped", "halved", "missing", "empty"])
def test_a_damaged_one_is_moved_aside_and_an_older_one_taken(whole, work, capsys, name, harm):
    identity = json.loads((work / "checkpoint-000008" / "seal.json").read_text())["identity"]
    spoil(work / "checkpoint-000008" / name, harm)
    assert checkpoints.latest(work, identity) == work / "checkpoint-000006"
    assert "checkpoint-000008 is not resumed from: " in capsys.readouterr().err
    assert not (work / "checkpoint-000008").exists()
    assert len(list(work.glob("damaged-checkpoint-000008-*"))) == 1


def spoil(path, harm):
    data = path.read_bytes()
    if harm == "missing":
        path.unlink()
    else:
        flipped = data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
        path.write_bytes({"flipped": flipped, "halved": data[: len(data) // 2], "empty": b""}[harm])


def test_with_all_of_them_damaged_the_run_starts_over(whole, tiny_folder, work, capsys):
    for folder in work.iterdir():
        spoil(folder / "state.safetensors", "flipped")
    again = go_on(tiny_folder, work)
    assert (again["resumed_at"], told(again)) == (None, told(whole[0]))
    assert capsys.readouterr().err.count("state.safetensors differ from the seal") == 3


def test_a_file_too_many_breaks_the_seal(work):
    (work / "checkpoint-000008" / "optimizer.pt").write_bytes(b"pickle")
    assert checkpoints.latest(work, {}) == work / "checkpoint-000006"


def test_what_a_killed_writer_left_is_swept(work):
    (work / ".checkpoint-000010.abc").mkdir()
    assert checkpoints.latest(work, {}) == work / "checkpoint-000008"
    assert not (work / ".checkpoint-000010.abc").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [({"lr": 1e-2}, "recipe.lr is 0.02 there, 0.01 here"), ({"seed": 1}, "recipe.seed"), ({"method": "dora"}, "recipe.method is 'lora'")],
)
def test_another_recipes_checkpoint_is_refused_by_name(tiny_folder, work, change, said):
    with pytest.raises(TrainingError, match=said) as error:
        go_on(tiny_folder, work, replace(RECIPE, **change))
    assert "a checkpoint of another run" in str(error.value)
    assert (work / "checkpoint-000008").exists()  # it is sound: not ours to move
    assert json.loads((work.parent / "out" / "training.json").read_text())["outcome"] == "failed"


def test_another_bases_and_other_rows_checkpoints_are_refused(tiny_folder, work, tmp_path):
    other = shutil.copytree(tiny_folder, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    with pytest.raises(TrainingError, match="base is '"):
        go_on(other, work)
    with pytest.raises(TrainingError, match="rows is '"):
        go_on(tiny_folder, work, rows=ROWS[::-1])


def test_other_versions_and_threads_are_another_run(work):
    identity = json.loads((work / "checkpoint-000008" / "seal.json").read_text())["identity"]
    versions = {**identity["versions"], "torch": "0"}
    for change, said in (({"versions": versions}, r"versions\.torch is"), ({"threads": 99}, "threads"), ({"device": "gpu"}, "device")):
        with pytest.raises(TrainingError, match=said):
            checkpoints.latest(work, {**identity, **change})


# --- the folder itself -----------------------------------------------------------------------------


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    def write(folder):
        (folder / "half").write_text("x")
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoints.seal(tmp_path, 1, {}, write)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_failed_run(tiny_folder, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write_state", full)
    with pytest.raises(TrainingError, match="No space left on device"):
        go_on(tiny_folder, tmp_path / "work", replace(RECIPE, save_every=2))
    report = json.loads((tmp_path / "out" / "training.json").read_text())
    assert (report["outcome"], len(report["loss"])) == ("failed", 2)


@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=8, unique=True))
@settings(derandomize=True, deadline=None, max_examples=30)
def test_the_newest_are_kept(tmp_path_factory, steps):
    work = tmp_path_factory.mktemp("kept")
    for number, step in enumerate(steps, 1):
        place = checkpoints.seal(work, step, {"a": 1}, lambda folder, step=step: (folder / "x").write_text(str(step)))
        kept = sorted(steps[:number])[-checkpoints.KEPT :]
        assert sorted(map(checkpoints.step_of, work.iterdir())) == kept
        assert checkpoints.step_of(checkpoints.latest(work, {"a": 1})) == max(steps[:number])
        assert place.exists() == (step in kept)


def test_json_is_finite_or_not_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        checkpoints.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert list(tmp_path.iterdir()) == []
