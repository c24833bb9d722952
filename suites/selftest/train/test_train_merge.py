"""A merged folder is the base plus the adapter, rounded once; what does not belong together is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

from harness.errors import SubjectError
from harness.train.merge import attach, merge
from harness.train.run import train
from suites.selftest import tiny_model
from suites.selftest.tiny_rows import RECIPE, ROWS

pytestmark = pytest.mark.selftest


@pytest.fixture(scope="module", autouse=True)
def _libraries():
    for name in ("trl", "peft", "datasets", "bitsandbytes"):
        pytest.importorskip(name)


@pytest.fixture(scope="module", params=["lora", "qlora", "dora"])
def merged(request, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    train(tiny_folder, ROWS, folder / "adapter", replace(RECIPE, method=request.param))
    merge(tiny_folder, folder / "adapter", folder / "merged")
    return request.param, folder / "adapter", folder / "merged"


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("adapter") / "adapter"
    train(tiny_folder, ROWS, out, replace(RECIPE, steps=2))
    return out


def test_it_is_a_plain_bf16_folder(merged, tiny_folder):
    import torch
    from safetensors.torch import load_file

    _, _, out = merged
    old, new = load_file(tiny_folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert old.keys() == new.keys()
    assert {tensor.dtype for tensor in new.values()} == {torch.bfloat16}
    moved = {name for name in old if not torch.equal(old[name].bfloat16(), new[name])}
    assert moved
    assert all("proj" in name for name in moved)  # the linear layers, nothing else
    assert not list(out.glob("*.bin"))
    assert "quantization_config" not in json.loads((out / "config.json").read_text())


def test_every_weight_is_what_the_method_says(merged, tiny_folder):
    """By hand, in float64: W + scale B A; for DoRA that, each row scaled to its magnitude; for QLoRA from the dequantized W."""
    from safetensors.torch import load_file

    method, adapter, out = merged
    tensors, new = load_file(adapter / "adapter_model.safetensors"), load_file(out / "model.safetensors")
    base = _weights(tiny_folder, method)
    for name in (name.removesuffix(".lora_A.weight") for name in tensors if name.endswith(".lora_A.weight")):
        plain = name.removeprefix("base_model.model.") + ".weight"
        expected = base[plain].double() + 2.0 * tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double()
        if method == "dora":  # Liu et al. 2024, arXiv 2402.09353, equation 5
            expected *= (tensors[f"{name}.lora_magnitude_vector"].double() / expected.norm(dim=1))[:, None]
        # rounded once: to the nearest bfloat16 (8 bits of mantissa), give or take what float32 lost before
        assert bool(((new[plain].double() - expected).abs() <= expected.abs() * 2**-8 * 1.001 + 1e-6).all())


def _weights(folder, method):
    from safetensors.torch import load_file

    from harness.train.trainer import load_base

    if method == "qlora":
        return load_base(folder, "bfloat16", quantized=True)[1].dequantize().state_dict()
    return {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}


def test_a_qlora_adapter_is_not_merged_onto_the_plain_base(merged, tiny_folder, tmp_path):
    from safetensors.torch import load_file

    method, adapter, out = merged
    if method != "qlora":
        return
    bare = shutil.copytree(adapter, tmp_path / "bare")
    (bare / "training.json").unlink()  # nothing says how it was trained
    merge(tiny_folder, bare, tmp_path / "plain")
    right, wrong = load_file(out / "model.safetensors"), load_file(tmp_path / "plain" / "model.safetensors")
    assert max(float((right[name].float() - wrong[name].float()).abs().max()) for name in right) > 0.01


def test_merged_and_unmerged_agree(merged, tiny_folder):
    import torch
    import transformers

    _, adapter, out = merged
    tokenizer, unmerged = attach(tiny_folder, adapter)
    plain = transformers.AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    ids = tokenizer("the quick brown fox", return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        a, b = (model.float()(ids).logits.log_softmax(-1) for model in (unmerged, plain))
    assert float((a.exp() * (a - b)).sum(-1).max()) < 0.01  # one rounding of each weight to bfloat16


def test_merging_twice_gives_the_same_bytes(merged, tiny_folder, tmp_path):
    _, adapter, out = merged
    merge(tiny_folder, adapter, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {path.name: path.read_bytes() for path in out.iterdir()}


def test_engines_open_it(merged):
    from harness.engines import open_engine

    engine = open_engine("hf", merged[2], device="cpu")
    assert engine.describe()["dtype"] == "bfloat16"
    engine.close()


# --- what does not belong together -----------------------------------------------------------------


def test_another_base_of_the_same_shape_is_refused(adapter, tmp_path):
    other = tiny_model.build(tmp_path / "other", seed=1)
    with pytest.raises(SubjectError, match="not the base that the adapter"):
        merge(other, adapter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_weights_than_were_trained_are_refused(tiny_folder, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(adapter, tmp_path / "copy")
    tensors = load_file(copy / "adapter_model.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, copy / "adapter_model.safetensors")
    with pytest.raises(SubjectError, match="not those that its training"):
        merge(tiny_folder, copy, tmp_path / "out")


def test_an_adapter_from_elsewhere_needs_no_report_but_must_fit(tiny_folder, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(adapter, tmp_path / "copy")
    (copy / "training.json").unlink()
    merge(tiny_folder, copy, tmp_path / "out")
    tensors = load_file(copy / "adapter_model.safetensors")
    tensors.pop(next(name for name in tensors if "q_proj.lora_B" in name))
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(SubjectError, match="1 tensors do not fit"):
        merge(tiny_folder, copy, tmp_path / "out")


@pytest.mark.parametrize(
    ("files", "said"),
    [({}, "no adapter_model"), ({"adapter_model.bin": b"pickle"}, "convert it"), ({"adapter_model.safetensors": b""}, "adapter_config")],
)
def test_no_adapter_is_refused(tiny_folder, tmp_path, files, said):
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(SubjectError, match=said):
        merge(tiny_folder, tmp_path, tmp_path / "out")


def test_a_failed_trainings_adapter_is_refused(tiny_folder, adapter, tmp_path):
    copy = shutil.copytree(adapter, tmp_path / "copy")
    report = json.loads((copy / "training.json").read_text())
    (copy / "training.json").write_text(json.dumps({**report, "outcome": "failed", "cause": "out of memory"}))
    with pytest.raises(SubjectError, match="out of memory"):
        merge(tiny_folder, copy, tmp_path / "out")


def test_weights_that_are_no_numbers_are_refused(tiny_folder, adapter, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = shutil.copytree(adapter, tmp_path / "copy")
    (copy / "training.json").unlink()
    tensors = load_file(copy / "adapter_model.safetensors")
    name = next(name for name in tensors if "lora_A" in name)
    tensors[name][0, 0] = float("nan")
    save_file(tensors, copy / "adapter_model.safetensors")
    with pytest.raises(SubjectError, match="not finite once merged"):
        merge(tiny_folder, copy, tmp_path / "out")
