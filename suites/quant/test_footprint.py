"""What quantization gained, and whether it happened at all: bits, tensor types, kernels, speed, memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from harness import Claim, Control, Measurement, Sample, at_least, at_most, identical
from harness.quant import checkpoint, footprint, rounding
from harness.quant.gguf import recipe_of, tensor_fallbacks
from suites import controls
from suites.quant import margins
from suites.quant.damaged import ONE_MATRIX, ONE_MATRIX_DAMAGED

pytestmark = pytest.mark.quant


def _bits_claim(build: str) -> Claim:
    return Claim(
        f"Q4.bits[{build}]",
        f"{build} is as small as it says: bits a weight over all tensors, scales and zero points included",
        at_most(margins.BITS),
        estimand="exact",
    )


@pytest.mark.claim(each=_bits_claim)
def test_it_is_as_small_as_it_says(claim, bench, build):
    posing = Control("planted: the reference posing as the build", controls.FAILS, _bits(bench, bench.reference(build)))
    claim.check(_bits(bench, build), controls=[posing])


def _bits(bench, name) -> Measurement:
    facts, scheme = bench.inventory(name), bench.scheme(name)
    detail = {
        "size_bytes": sum(f.bytes for f in facts), "method": scheme.method, "format": scheme.weights, "group_size": scheme.group_size,
        "symmetric": scheme.symmetric,
        "activations": scheme.activations, "kv_cache": scheme.kv_cache, "declared_in": Path(scheme.declared_in).name,
        "tensors": dict(sorted(Counter(f.found for f in facts).items())),
    }  # fmt: skip
    return Measurement("bits_per_weight", (Sample(name, checkpoint.bits_per_weight(facts), detail=detail),), (bench.subject(name),))


def _types_claim(build: str) -> Claim:
    text = f"each matrix of {build} is stored as the build declares, or as its width forces the quantizer to"
    return Claim(f"Q4.types[{build}]", text, identical())


@pytest.mark.claim(each=_types_claim)
def test_every_tensor_is_what_it_is_declared_to_be(claim, bench, build):
    bench.reference(build)  # what poses as the build
    if bench.engine_of(build) == "llamacpp":
        recipe = recipe_of(bench.header(build), build)
        honest, forged = _gguf_types(bench, build, recipe), _gguf_types(bench, bench.reference(build), recipe)
    else:
        honest, forged = _folder_types(bench, build), _folder_types(bench, f"forged:{build}")
    claim.check(honest, controls=[Control("planted: the reference posing as the build", controls.FAILS, forged)])


def _gguf_types(bench, name, recipe) -> Measurement:
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


def _folder_types(bench, name) -> Measurement:
    rows = []
    for fact in bench.inventory(name):
        detail = {"found": fact.found, "declared": fact.declared, "kind": fact.kind, "bits": fact.bits, "bytes": fact.bytes}
        rows.append(Sample(fact.name, float(fact.ok), detail=detail if fact.ok else {**detail, "why": fact.why}))
    scheme = bench.scheme(name)
    return Measurement("tensor_types", tuple(rows), (bench.subject(name),), {"method": scheme.method, "weights": scheme.weights})


def _rounding_claim(gguf: str) -> Claim:
    text = f"each tensor of {gguf} is the rounding of the reference's: every weight on the point of its own grid next to the source's"
    return Claim(f"Q4.rounding[{gguf}]", text, identical())


@pytest.mark.claim(each=_rounding_claim)
def test_every_tensor_is_the_rounding_of_its_source(claim, bench, gguf):
    """What a distribution cannot see: 3% noise in one matrix moves it far less than any 4-bit rounding does."""
    reference = bench.reference(gguf)

    def planted(how: str) -> Control:
        rows = _roundings(bench, gguf, f"damaged:{reference}:{how}", frozenset({ONE_MATRIX}))
        return Control(f"planted in the model: {how}", controls.FAILS, rows)

    claim.check(_roundings(bench, gguf, reference), controls=[planted(how) for how in ONE_MATRIX_DAMAGED])


def _roundings(bench, build, source, names=None) -> Measurement:
    subjects = (bench.subject(build), bench.subject(source))
    inputs = {"build": subjects[0].digest, "source": subjects[1].digest, "names": sorted(names or ()), "outside": rounding.OUTSIDE}

    def look() -> list[dict]:
        return [{**asdict(r), "sound": r.sound} for r in rounding.roundings(bench.path(build), bench.path(source), names)]

    rows = bench.cached("rounding", inputs, look)
    return Measurement("rounding", tuple(Sample(r["name"], float(r["sound"]), detail=r) for r in rows), subjects)


def _kernel_claim(opened: str) -> Claim:
    text = f"the engine runs each matrix that {opened} quantized on a kernel for quantized weights, and holds it in few bits"
    return Claim(f"Q4.kernel[{opened}]", text, identical())


@pytest.mark.claim(each=_kernel_claim)
def test_the_engine_really_runs_it_quantized(claim, bench, opened):
    plain = _kernels(bench, bench.reference(opened), opened, bench.loaded(bench.reference(opened))["modules"])
    held = bench.loaded(opened)["modules"]
    emulated = _kernels(bench, opened, opened, [{**m, "kernel": "EmulationKernel"} for m in held])
    claim.check(
        _kernels(bench, opened, opened, held),
        controls=[
            Control("planted: the reference, which no quantized kernel runs", controls.FAILS, plain),
            Control("planted in the rows: the same weights, computed in floats", controls.FAILS, emulated),
        ],
    )


def _kernels(bench, name, build, modules) -> Measurement:
    """One row for each module of the engine that holds a matrix ``build`` declares quantized.

    A class that says it is quantized is not enough: weights that were dequantized while loading take the room of floats.
    Layers that cannot be found in the engine under their names make the whole void, not wrong.
    """
    quantized = {f.name: f.elements for f in bench.inventory(build) if f.expected_quantized}
    rows, found = [], set()
    for m in modules:
        mine = {layer for layer in quantized if layer in m["layers"] or layer.startswith(f"{m['name']}.")}  # experts, held as one
        if mine:
            found |= mine
            rows.append(_kernel_row(m, 8 * m["bytes"] / sum(quantized[layer] for layer in mine)))
    lost = sorted(set(quantized) - found)
    void = (f"{len(lost)} layers cannot be found in the engine, like {lost[0]}",) if lost else ()
    return Measurement("kernels", tuple(rows), (bench.subject(name),), {"engine": bench.engine_of(name)}, void)


def _kernel_row(m, bits: float) -> Sample:
    floats = "Unquantized" in m["method"] or m["kind"] == "Linear" or "Emulation" in m["kernel"]
    detail = {k: m[k] for k in ("kind", "method", "scheme", "kernel", "dtypes", "bytes")}
    detail |= {"bits": bits, "found": m["kernel"] or m["scheme"] or m["kind"]}
    return Sample(m["name"], float(bits <= margins.HELD_BITS and not floats), detail=detail)


def _speed_claim(build: str) -> Claim:
    text = f"{build} answers faster than the reference: ratio of tokens a second, one stream"
    return Claim(f"Q5.speed[{build}]", text, at_least(margins.SPEED), estimand="run_ratio", min_n=4, expected=margins.EXPECTED_SPEED)


@pytest.mark.claim(each=_speed_claim)
def test_it_is_faster_here(claim, bench, build):
    _gain(claim, bench, build, "tokens_per_s")


def _memory_claim(spawned: str) -> Claim:
    text = f"a process that answers with {spawned} takes less memory than one with the reference: ratio of peaks"
    return Claim(f"Q5.memory[{spawned}]", text, at_most(margins.MEMORY), estimand="run_ratio", min_n=4, expected=margins.EXPECTED_MEMORY)


@pytest.mark.claim(each=_memory_claim)
def test_it_takes_less_memory_here(claim, bench, spawned):
    _gain(claim, bench, spawned, "peak_bytes")


def _held_claim(opened: str) -> Claim:
    text = f"the engine holds the weights of {opened} in less memory than the reference's: ratio of bytes"
    return Claim(f"Q5.memory[{opened}]", text, at_most(margins.MEMORY), estimand="exact")


@pytest.mark.claim(each=_held_claim)
def test_the_engine_holds_it_in_less_memory(claim, bench, opened):
    reference = bench.reference(opened)

    def measure(name: str) -> Measurement:
        new, old = bench.loaded(name)["bytes"], bench.loaded(reference)["bytes"]
        row = Sample(name, new / old, detail={"bytes": new, "reference_bytes": old})
        return Measurement("held_bytes", (row,), (bench.subject(name), bench.subject(reference)))

    claim.check(measure(opened), controls=[Control("A/A: the reference against itself shows no gain", controls.FAILS, measure(reference))])


def _gain(claim, bench, build, figure) -> None:
    """A gain must be shown: nothing gained (A/A) must be stopped; in the same runs a planted loss refuted, a planted gain shown."""
    reference = bench.reference(build)
    rows, same = bench.runs(build, reference), bench.runs(reference, reference)
    worse, better = (0.8, 4.0) if claim.claim.bound.kind == "at_least" else (1.25, 0.25)

    def measure(runs, *names) -> Measurement:
        return Measurement(figure, footprint.run_samples(runs, figure), tuple(map(bench.subject, names)), {"blocks": len(runs) // 4})

    def changed(factor: float) -> Measurement:
        return measure([{**r, figure: r[figure] * factor} if r["arm"] == "new" else r for r in same], reference)

    claim.check(
        measure(rows, build, reference),
        controls=[
            Control("A/A: the reference against itself shows no gain", controls.NOT_HOLDS, measure(same, reference)),
            Control(f"planted in the runs: {worse:g} times the reference's", controls.FAILS, changed(worse)),
            Control(f"clean twin, planted in the runs: {better:g} times the reference's", controls.HOLDS, changed(better)),
        ],
    )
