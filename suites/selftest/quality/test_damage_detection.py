"""What damage to one tensor each quantization claim sees: the committed study, derived again, and the check that sees all of it."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from suites.selftest.quality import damaged

pytestmark = pytest.mark.selftest

TABLE = damaged.KEPT.with_name("damage.csv")
LEGS = ("Q2.kld", "Q2.top1", "Q2.tail", "Q3.perplexity")


def committed() -> list[dict[str, str]]:
    with TABLE.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_the_table_is_derived_from_its_rows():
    """Every figure and verdict again, from the kept rows and the margins of today."""
    derived = damaged.table(damaged.kept())
    assert [{key: str(value) for key, value in row.items()} for row in derived] == committed()


def test_the_whole_ladder_of_noise_was_measured():
    """On all documents; what else is not measured yet, the page names."""
    middle = [r["size"] for r in committed() if r["where"] == "middle" and r["damage"] == "noise-tensor"]
    assert middle == [f"{scale:g}" for scale in damaged.SCALES]
    assert all(r["documents"] == "200" for r in committed())


def test_noise_as_large_as_the_weights_is_seen_by_the_8_bit_margins():
    worst = [r for r in committed() if r["damage"] == "noise-tensor" and r["size"] == "1"]
    assert worst
    assert any(r[f"{leg} 8bit"] == "fails" for r in worst for leg in LEGS)


def test_rounding_sees_what_no_distribution_shows():
    """Half a percent of noise: every statistical claim holds, at the 8-bit margins too; the exact one fails in each build."""
    least = next(r for r in committed() if r["damage"] == "noise-tensor" and r["size"] == "0.005")
    assert all(least[f"{leg} {standard}"] == "holds" for leg in LEGS for standard in damaged.STANDARDS)
    assert all(row[f"Q4.rounding {kind}"] == "fails" for row in committed() for kind in damaged.BUILDS)


# --- Q4.rounding on a model made on the spot ---------------------------------------------------------


@pytest.fixture(scope="module")
def files(tiny_folder, tmp_path_factory):
    """A source and its builds."""
    pytest.importorskip("llama_cpp")
    from harness.quant.convert import convert
    from harness.quant.gguf import quantize

    folder = tmp_path_factory.mktemp("rounding")
    convert(tiny_folder, folder / "f16.gguf", dtype="f16")
    for kind in damaged.BUILDS:
        quantize(folder / "f16.gguf", folder / f"{kind}.gguf", kind)
    return folder


def test_each_damage_is_what_it_says(files, tmp_path):
    """One tensor, changed by just that much."""
    import gguf
    import numpy as np

    from harness.quant.damage import damage

    def tensors(path):
        return {t.name: t.data.astype("f8") for t in gguf.GGUFReader(path).tensors}

    def other(how):
        damage(files / "f16.gguf", tmp_path / "damaged.gguf", how, seed=3)
        new = tensors(tmp_path / "damaged.gguf")
        assert [n for n in new if (new[n] != old[n]).any()] == [name]
        return new[name]

    old, name = tensors(files / "f16.gguf"), "blk.1.ffn_up.weight"
    was = old[name]
    assert (other(f"noise-tensor:{name}:0.25") - was).std() == pytest.approx(0.25 * was.std(), rel=0.05)
    turned = other(f"transpose-block:{name}:32")
    assert (turned[:32, :32] == was[:32, :32].T).all()
    turned[:32, :32] = was[:32, :32]
    assert (turned == was).all()
    for groups, expected in (("5", 5), ("all", was.size // 32)):
        moved = (other(f"zero-point:{name}:{groups}") - was).reshape(-1, 32)
        touched = (moved != 0).any(axis=1)
        assert touched.sum() == expected
        steps = np.abs(was.reshape(-1, 32)).max(axis=1, keepdims=True) / 8
        assert moved[touched] == pytest.approx((steps * np.ones(32))[touched], rel=0.01, abs=1e-4)


@pytest.mark.parametrize(
    "how",
    ["noise-tensor:blk.9.attn_q.weight:0.1", "noise-tensor:blk.1.attn_norm.weight:0.1", "noise-tensor:blk.1.attn_q.weight:0",
     "transpose-block:blk.1.attn_q.weight:1", "transpose-block:blk.1.attn_q.weight:99999", "zero-point:blk.1.attn_q.weight:0",
     "zero-point:blk.1.attn_q.weight:99999999", "zero-point:blk.1.attn_q.weight:some", "zero-point:blk.1.attn_q.weight"],
)  # fmt: skip
def test_impossible_damage_is_refused(files, tmp_path, how):
    from harness.errors import SubjectError
    from harness.quant.damage import damage

    with pytest.raises(SubjectError):
        damage(files / "f16.gguf", tmp_path / "x", how, 0)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("kind", damaged.BUILDS)
def test_an_honest_build_is_the_rounding_of_its_source(files, kind):
    from harness.quant.rounding import roundings

    found = roundings(files / f"{kind}.gguf", files / "f16.gguf")
    assert len(found) > 10
    assert all(tensor.sound and tensor.misplaced == 0 for tensor in found)
    quantized = [tensor for tensor in found if tensor.worst is not None]
    assert quantized
    assert all(0.4 < tensor.worst < 0.6 and 0.002 < tensor.rms < 0.12 for tensor in quantized)


@pytest.mark.parametrize("kind", damaged.BUILDS)
@pytest.mark.parametrize(
    "how", ["noise-tensor:{}:0.005", "noise-tensor:{}:0.03", "transpose-block:{}:32", "zero-point:{}:1", "zero-point:{}:all"]
)
def test_a_damaged_tensor_is_named(files, tmp_path, kind, how):
    """Quantized from a damaged file, held against the intact one: that tensor fails and no other."""
    from harness.quant.damage import damage
    from harness.quant.gguf import quantize
    from harness.quant.rounding import roundings

    name = "blk.1.ffn_up.weight"
    damage(files / "f16.gguf", tmp_path / "damaged.gguf", how.format(name), seed=1)
    quantize(tmp_path / "damaged.gguf", tmp_path / "build.gguf", kind)
    found = roundings(tmp_path / "build.gguf", files / "f16.gguf")
    assert [tensor.name for tensor in found if not tensor.sound] == [name]


@pytest.mark.parametrize("kind", ["q8_0", "q4_0"])
def test_one_code_of_a_build_changed(files, tmp_path, kind):
    """One step in one weight of the file itself."""
    from harness.engines.gguf_header import read_header
    from harness.quant.rounding import roundings

    path = Path(shutil.copy(files / f"{kind}.gguf", tmp_path / "build.gguf"))
    tensor = read_header(path).tensor("blk.0.attn_q.weight")
    data = bytearray(path.read_bytes())
    data[tensor.offset + 2 + 5] ^= 1  # behind the two bytes of the scale
    path.write_bytes(bytes(data))
    wrong = [t for t in roundings(path, files / "f16.gguf") if not t.sound]
    assert [(t.name, t.misplaced) for t in wrong] == [("blk.0.attn_q.weight", 1)]


def test_a_scale_of_a_build_halved(files, tmp_path):
    """Too small a grid: every point is the nearest one, and the source lies beyond its ends."""
    import numpy as np

    from harness.engines.gguf_header import read_header
    from harness.quant.rounding import roundings

    path = Path(shutil.copy(files / "q8_0.gguf", tmp_path / "build.gguf"))
    tensor = read_header(path).tensor("blk.0.attn_q.weight")
    data = np.fromfile(path, np.uint8)
    blocks = data[tensor.offset : tensor.offset + tensor.nbytes].reshape(-1, 34)
    scales = blocks[:, :2].copy().view("<f2").astype("f4") / 2
    codes = np.clip(2 * blocks[:, 2:].view("i1").astype(int), -127, 127)
    blocks[:, :2], blocks[:, 2:] = scales.astype("<f2").view(np.uint8), codes.astype("i1").view(np.uint8)
    data.tofile(path)
    wrong = [t for t in roundings(path, files / "f16.gguf") if not t.sound]
    assert [t.name for t in wrong] == ["blk.0.attn_q.weight"]
    assert wrong[0].outside > 0.1 * wrong[0].weights


def test_an_unquantized_copy_with_one_weight_changed(files, tmp_path):
    from harness.quant.damage import damage
    from harness.quant.rounding import roundings

    assert all(t.sound and t.worst is None for t in roundings(files / "f16.gguf", files / "f16.gguf"))
    damage(files / "f16.gguf", tmp_path / "other.gguf", "noise-tensor:blk.0.attn_v.weight:0.01", seed=0)
    assert [t.name for t in roundings(tmp_path / "other.gguf", files / "f16.gguf") if not t.sound] == ["blk.0.attn_v.weight"]


def test_a_build_of_another_file_and_a_quantized_source_are_refused(files, tmp_path):
    from harness.errors import SubjectError
    from harness.quant.rounding import roundings

    with pytest.raises(SubjectError, match="expected an unquantized source"):
        roundings(files / "q4_0.gguf", files / "q8_0.gguf")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((files / "f16.gguf").read_bytes()[:-100])
    with pytest.raises(SubjectError, match="truncated"):
        roundings(broken, files / "f16.gguf")
