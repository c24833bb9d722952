"""What quantization gained, and whether it happened at all: bits, tensor types, speed, memory."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, identical
from harness.engines.gguf_header import bits_per_weight, file_type
from harness.quant import footprint
from harness.quant.gguf import recipe_of, tensor_fallbacks
from suites.quant import controls, margins

pytestmark = pytest.mark.quant


def _bits_claim(build: str) -> Claim:
    return Claim(
        f"Q4.bits[{build}]",
        f"{build} is as small as it says: bits a weight over the whole file",
        at_most(margins.BITS),
        estimand="exact",
    )


@pytest.mark.claim(each=_bits_claim)
def test_it_is_as_small_as_it_says(claim, bench, build):
    reference = bench.settings.reference
    posing = Control("planted: the reference posing as the build", controls.FAILS, _bits(bench, reference))
    claim.check(_bits(bench, build), controls=[posing])


def _bits(bench, name) -> Measurement:
    header = bench.header(name)
    counts: dict[str, int] = {}
    for tensor in header.tensors:
        counts[tensor.type] = counts.get(tensor.type, 0) + 1
    detail = {"size_bytes": bench.gguf_path(name).stat().st_size, "file_type": file_type(header), "tensors": dict(sorted(counts.items()))}
    return Measurement("bits_per_weight", (Sample(name, bits_per_weight(header), detail=detail),), (bench.subject(name),))


def _types_claim(build: str) -> Claim:
    return Claim(f"Q4.types[{build}]", f"each matrix of {build} has its recipe's type or the fallback its row length forces", identical())


@pytest.mark.claim(each=_types_claim)
def test_every_tensor_is_quantized(claim, bench, build):
    recipe = recipe_of(bench.header(build), build)
    posing = Control("planted: the reference posing as the build", controls.FAILS, _types(bench, bench.settings.reference, recipe))
    claim.check(_types(bench, build, recipe), controls=[posing])


def _types(bench, name, recipe) -> Measurement:
    header = bench.header(name)
    fallbacks = {f.name: f for f in tensor_fallbacks(header, recipe)}
    rows = []
    for tensor in header.tensors:
        other = fallbacks.get(tensor.name)
        detail = {"found": tensor.type, "shape": list(tensor.shape)}
        if other is not None:
            detail |= {"expected": other.wanted, "fallback": other.why}
        rows.append(Sample(tensor.name, float(other is None or other.excused), detail=detail))
    forced = sum(f.excused for f in fallbacks.values())
    note = f"{forced} of {len(rows)} tensors are fallbacks that their row length forces"
    return Measurement("tensor_types", tuple(rows), (bench.subject(name),), {"recipe": recipe}, notes=(note,))


def _speed_claim(build: str) -> Claim:
    text = f"{build} answers faster than the reference: ratio of tokens a second, one stream on one thread"
    return Claim(f"Q5.speed[{build}]", text, at_least(margins.SPEED), estimand="run_ratio", min_n=4, expected=margins.EXPECTED_SPEED)


@pytest.mark.claim(each=_speed_claim)
def test_it_is_faster_here(claim, bench, build):
    _gain(claim, bench, build, "tokens_per_s")


def _memory_claim(build: str) -> Claim:
    text = f"a process that answers with {build} takes less memory than one with the reference: ratio of peaks"
    return Claim(f"Q5.memory[{build}]", text, at_most(margins.MEMORY), estimand="run_ratio", min_n=4, expected=margins.EXPECTED_MEMORY)


@pytest.mark.claim(each=_memory_claim)
def test_it_takes_less_memory_here(claim, bench, build):
    _gain(claim, bench, build, "peak_bytes")


def _gain(claim, bench, build, figure) -> None:
    """A gain must be shown: nothing gained (A/A) and the arms swapped must both be stopped."""
    reference = bench.settings.reference
    rows, same = bench.runs(build, reference), bench.runs(reference, reference)
    swapped = [{**r, "arm": "old" if r["arm"] == "new" else "new"} for r in rows]

    def measure(runs, *names) -> Measurement:
        return Measurement(figure, footprint.run_samples(runs, figure), tuple(map(bench.subject, names)), {"blocks": len(runs) // 4})

    claim.check(
        measure(rows, build, reference),
        controls=[
            Control("A/A: the reference against itself shows no gain", controls.NOT_HOLDS, measure(same, reference)),
            Control("planted: arms swapped", controls.NOT_HOLDS, measure(swapped, reference, build)),
        ],
    )
