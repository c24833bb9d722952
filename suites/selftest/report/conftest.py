"""Run folders for the tests of the report: small ones by hand, one as large as a real run.

Everything goes through the code that writes real runs: judge, evidence, plan.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness import evidence
from harness.bounds import at_least, at_most, identical, non_inferior
from harness.judge import judge, not_evaluated, release
from harness.types import Claim, Control, Family, Measurement, Sample, Subject, Verdict

PROVENANCE = {
    "code": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": None},
    "packages": {"lifecycle-harness": "0.1.0", "pytest": "9.0.0", "llama_cpp_python": "0.3.36"},
    "machine": {
        "cpu": "Example CPU @ 2.1 GHz",
        "cores": 2,
        "memory_bytes": 8 * 2**30,
        "system": "Linux x86_64",
        "python": "3.11.2",
        "gpu": None,
    },
}


@dataclass
class Folder:
    """A run being written: claims with what was measured, then ``close``."""

    path: Path
    tier: str = "full"
    planned: list[Claim] = field(default_factory=list)
    todo: list[tuple[Claim, Verdict, Measurement | None, Sequence[Control], dict[str, Any]]] = field(default_factory=list)

    def add(
        self,
        claim: Claim,
        measurement: Measurement | None = None,
        *,
        verdict: Verdict | None = None,
        controls: Sequence[Control] = (),
        **notes: Any,
    ) -> Verdict:
        """A claim and its evidence; without measurement and verdict it is planned and then lost."""
        self.planned.append(claim)
        if verdict is None and measurement is not None:
            verdict = judge(claim, measurement, controls=controls)
        if verdict is not None:
            self.todo.append((claim, verdict, measurement, controls, notes))
        return verdict or Verdict("error", "lost", "lost")

    def close(self, *, run_json: bool = True, **facts: Any) -> Path:
        """Writes it all; ``run_json=False`` is a run that was killed."""
        plan = evidence.seal_plan(
            self.path,
            {
                "harness": "0.1.0",
                "lifecycle": "smollm2-135m-addresses",
                "tier": self.tier,
                "golden": {"addresses": "2f" * 32, "commonsense": "af" * 32, "exam_text": "3c" * 32},
                "scorers": {"judge.py": "ab" * 32, "evals/__init__.py": "cd" * 32},
                "subjects": {"gguf-f16": "recipe", "gguf-q8_0": "recipe"},
                "claims": [
                    {
                        "claim": evidence.claim_to_json(c),
                        "test": f"suites/quant/test_it.py::{c.id}",
                        "source": "default",
                        "expect": "holds",
                        "why": "",
                    }
                    for c in sorted(self.planned, key=lambda c: c.id)
                ],
            },
        )
        for claim, verdict, measurement, controls, notes in self.todo:
            told = {"test": f"suites/quant/test_it.py::{claim.id}", "bound_from": "default", "expect": "holds", "why": ""}
            evidence.write_evidence(
                self.path,
                claim,
                verdict,
                plan_digest=plan,
                tier=self.tier,
                measurement=measurement,
                controls=controls,
                provenance=PROVENANCE,
                notes={**told, **notes},
            )
        if run_json:
            lost = sorted({c.id for c in self.planned} - {c.id for c, *_ in self.todo})
            told = {"exit_status": 0, "finished": "2026-02-03T04:05:06+00:00", "allowed_missing": [], "lost": lost, **facts}
            evidence.write_atomic(self.path / "run.json", evidence.canonical(told))
        return self.path


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Folder]:
    """``folder()``: an empty run folder to add claims to."""
    return lambda name="run", **kwargs: Folder(tmp_path / name, **kwargs)


@pytest.fixture(scope="session")
def make_folder() -> Callable[[Path], Folder]:
    """``make_folder(path)``: an empty run folder there, for fixtures of a module."""
    return Folder


def subject(name: str) -> Subject:
    return Subject(name, "recipe", f"recipe:{name}", hashlib.sha256(name.encode()).hexdigest(), {"file_type": name[5:]})


def paired(old: Iterable[float | None], new: Iterable[float | None], **detail: dict[str, Any]) -> tuple[Sample, ...]:
    """Two arms over items i-0001 ...; ``detail`` is put on rows of that arm (``new={...}``)."""
    arms = (("old", old), ("new", new))
    return tuple(
        Sample(
            f"i-{i:04d}",
            None if v is None else float(v),
            arm,
            status="ok" if v is not None else "parse_failure",
            detail=detail.get(arm, {}),
        )
        for arm, values in arms
        for i, v in enumerate(values, 1)
    )


# --- a run as large as a real one ----------------------------------------------------------------

BUILDS = {"gguf-q8_0": 8.51, "gguf-q4_k_m": 5.9, "gguf-q4_0": 4.64}
_FLIP = {"gguf-q8_0": (0.004, 0.004), "gguf-q4_k_m": (0.035, 0.02), "gguf-q4_0": (0.12, 0.02)}  # right->wrong, wrong->right
_KLD = {"gguf-q8_0": -7.4, "gguf-q4_k_m": -4.2, "gguf-q4_0": -3.0}  # mean of ln(KLD)
_SPEED = {"gguf-q8_0": 1.22, "gguf-q4_k_m": 1.41, "gguf-q4_0": 1.93}


def big_run(path: Path, *, items: tuple[int, int] = (560, 1183), documents: int = 200) -> Path:
    """3 builds on 2 sets, every claim of the quantization suite, with controls; seeded."""
    rng = random.Random(20260203)
    run = Folder(path)
    for set_name, n in zip(("addresses", "commonsense"), items, strict=True):
        base = _answers(rng, set_name, n)
        for build in BUILDS:
            _add_accuracy(run, rng, set_name, build, base)
    for build in BUILDS:
        _add_fidelity(run, rng, build, documents)
        _add_inventory(run, build)
        _add_footprint(run, rng, build)
    _add_the_rest(run)
    return run.close(exit_status=1)


def _answers(rng: random.Random, set_name: str, n: int) -> list[Sample]:
    make = _address if set_name == "addresses" else _choice
    share = 0.84 if set_name == "addresses" else 0.46
    return [make(rng, i, rng.random() < share) for i in range(1, n + 1)]


def _address(rng: random.Random, i: int, right: bool) -> Sample:
    street = f"{rng.choice(['us highway', 'Main St', 'WOODROW W WELCH LN', 'Élysée Ave'])} {i}"
    city = rng.choice(["palm harbor", "Charlotte", "CHEROKEE", "Zürich"])
    target = {"number": str(rng.randrange(1, 99999)), "street": street, "city": city, "zip": f"{rng.randrange(10000, 99999)}"}
    said = dict(target) if right else {**target, "city": target["city"] + rng.choice([" fl", "", ","]), "state": "fl"}
    text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
    detail = {"text": text, "target": json.dumps(target, ensure_ascii=False), "finish": "stop", "tokens": len(text) // 3}
    return Sample(f"addr-{i:04d}", float(right), detail=detail)


def _choice(rng: random.Random, i: int, right: bool) -> Sample:
    answer = rng.randrange(5)
    pick = answer if right else (answer + rng.randrange(1, 5)) % 5
    scores = [round(-1.5 - rng.random(), 6) for _ in range(5)]
    scores[pick] = round(max(scores) + rng.random() * 0.2, 6)
    return Sample(f"csqa-{i:04d}", float(right), detail={"pick": pick, "answer": answer, "per_byte": scores})


def _rebuilt(rng: random.Random, base: Sequence[Sample], rates: tuple[float, float]) -> list[Sample]:
    """The reference's answers as a worse build would give them."""
    rows = []
    for s in base:
        i = int(s.item.rpartition("-")[2])
        if rng.random() >= rates[0 if s.value else 1]:
            rows.append(s)
        elif "pick" in s.detail:
            rows.append(Sample(s.item, 1.0 - (s.value or 0), detail=_other_choice(rng, s)))
        elif s.value and rng.random() < 0.1:
            detail = {**s.detail, "text": s.detail["text"][:40] + " and" * 20, "finish": "length"}
            rows.append(Sample(s.item, None, status="truncated", detail=detail))
        else:
            said = json.loads(s.detail["target"])
            said.update({"city": said["city"][:-1], "unit": str(i)} if s.value else {})
            text = json.dumps(said, ensure_ascii=False, separators=(",", ":"))
            rows.append(Sample(s.item, 1.0 - (s.value or 0), detail={**s.detail, "text": text}))
    return rows


def _other_choice(rng: random.Random, s: Sample) -> dict[str, Any]:
    answer = s.detail["answer"]
    pick = (answer + rng.randrange(1, 5)) % 5 if s.value else answer
    scores = list(s.detail["per_byte"])
    scores[pick] = round(max(scores) + rng.random() * 0.3, 6)
    return {"pick": pick, "answer": answer, "per_byte": scores}


def _two(new: Sequence[Sample], old: Sequence[Sample]) -> tuple[Sample, ...]:
    from harness.evals import pair

    return pair(new, old)


def _add_accuracy(run: Folder, rng: random.Random, set_name: str, build: str, base: list[Sample]) -> None:
    from harness.evals import plant_loss

    new = _rebuilt(rng, base, _FLIP[build])
    margin = 0.03
    conditions = {"new": {"engine": "llamacpp", "threads": "2"}, "old": {"engine": "llamacpp", "threads": "2"}, "golden": "2f" * 32}
    measured = Measurement(f"accuracy:{set_name}", _two(new, base), (subject(build), subject("gguf-f16")), conditions)
    same = Measurement(f"accuracy:{set_name}", _two(base, base), (subject("gguf-f16"),), conditions)
    worse = Measurement(f"accuracy:{set_name}", plant_loss(same.samples, 0.08, set_name), (subject("gguf-f16"),), conditions)
    claim = Claim(
        f"Q1.accuracy[{set_name},{build}]",
        f"{build} answers {set_name} less than 3 points worse than gguf-f16",
        non_inferior(margin),
        min_n=min(500, len(base)),
    )
    run.add(claim, measured, controls=(Control("A/A", ("holds",), same), Control("planted loss 8%", ("fails",), worse)))
    flips = tuple(Sample(a.item, float(a.value != b.value)) for a, b in zip(new, base, strict=True))
    run.add(
        Claim(f"Q1.flips[{set_name},{build}]", f"{build} changes the outcome of less than 5% of {set_name}", at_most(0.05)),
        Measurement("flips", flips, (subject(build), subject("gguf-f16"))),
    )


def _add_fidelity(run: Folder, rng: random.Random, build: str, documents: int) -> None:
    rows = []
    for i in range(1, documents + 1):
        mean, tokens = math.exp(rng.gauss(_KLD[build], 0.7)), rng.randrange(60, 160)
        old = tokens * rng.uniform(2.2, 3.8)
        rows.append(
            {
                "id": f"exam-{i:03d}",
                "tokens": tokens,
                "negative": 0,
                "kld_mean": mean,
                "kld_max": mean * 20,
                "flips": int(tokens * min(0.3, mean)),
                "nll_old": old,
                "nll_new": old + tokens * mean * rng.gauss(0.5, 1),
            }
        )
    who = (subject(build), subject("gguf-f16"))
    kld = tuple(Sample(r["id"], min(r["kld_mean"], 2.0), weight=float(r["tokens"]), detail=r) for r in rows)
    tail = tuple(Sample(r["id"], float(r["kld_mean"] > 0.1), detail={"kld_mean": r["kld_mean"]}) for r in rows)
    top1 = tuple(Sample(r["id"], r["flips"] / r["tokens"], weight=float(r["tokens"])) for r in rows)
    ppl = tuple(Sample(r["id"], r["nll_new"] - r["nll_old"], weight=float(r["tokens"])) for r in rows)
    run.add(
        Claim(
            f"Q2.kld[{build}]", f"the mean divergence of {build} stays below 0.06 nats", at_most(0.06), "bounded_mean", support=(0.0, 2.0)
        ),
        Measurement("kld", kld, who),
    )
    run.add(
        Claim(f"Q2.tail[{build}]", "less than 1 document in 10 moves by more than 0.1 nats", at_most(0.1)), Measurement("tail", tail, who)
    )
    run.add(
        Claim(
            f"Q2.top1[{build}]",
            "the most likely token changes at less than 5% of positions",
            at_most(0.05),
            "bounded_mean",
            support=(0.0, 1.0),
        ),
        Measurement("top1", top1, who),
    )
    run.add(Claim(f"Q3.perplexity[{build}]", "perplexity grows by less than 2%", at_most(1.02), "log_ratio"), Measurement("ppl", ppl, who))


def _add_inventory(run: Folder, build: str) -> None:
    bits = BUILDS[build]
    detail = {"size_bytes": int(134_515_008 * bits / 8), "types": {"Q8_0" if bits > 8 else "Q4_0": 211, "F32": 61}}
    run.add(
        Claim(f"Q4.bits[{build}]", f"{build} takes at most 9 bits per weight", at_most(9.0), "exact"),
        Measurement("bits", (Sample(build, bits, detail=detail),), (subject(build),)),
    )
    rows = [
        Sample(
            f"blk.{i // 7}.{('attn_q', 'attn_k', 'attn_v', 'attn_output', 'ffn_gate', 'ffn_up', 'ffn_down')[i % 7]}.weight",
            1.0,
            detail={
                "found": "Q5_0" if i % 7 == 6 and bits < 8 else "Q4_0",
                "expected": "Q4_0",
                "reason": "rows of 576 do not fit blocks of 256" if i % 7 == 6 and bits < 8 else "",
            },
        )
        for i in range(210)
    ]
    if build == "gguf-q4_0":
        rows[3] = Sample(rows[3].item, 0.0, detail={"found": "F16", "expected": "Q4_0", "reason": ""})
    run.add(
        Claim(f"Q4.types[{build}]", "each tensor has the type that its recipe says", identical()),
        Measurement("types", tuple(rows), (subject(build),)),
    )
    run.add(
        Claim(f"Q6.sidecar[{build}]", "tokenizer, template and end-of-sequence equal the source's", identical()),
        Measurement("sidecar", tuple(Sample(k, 1.0) for k in ("tokenizer", "template", "eos")), (subject(build),)),
    )


def _add_footprint(run: Folder, rng: random.Random, build: str) -> None:
    speed, memory = [], []
    for block in range(6):
        for arm, replicate in (("old", 0), ("new", 0), ("new", 1), ("old", 1)):
            factor, share = (_SPEED[build], BUILDS[build] / 16) if arm == "new" else (1.0, 1.0)
            speed.append(Sample(f"block-{block:02d}", 31.0 * factor * math.exp(rng.gauss(0, 0.04)), arm, replicate=replicate))
            memory.append(Sample(f"block-{block:02d}", (9e7 + 2.7e8 * share) * math.exp(rng.gauss(0, 0.002)), arm, replicate=replicate))
    who = (subject(build), subject("gguf-f16"))
    run.add(
        Claim(f"Q5.speed[{build}]", f"{build} is at least 1.2 times as fast", at_least(1.2), "run_ratio"),
        Measurement("speed", tuple(speed), who),
    )
    run.add(
        Claim(f"Q5.memory[{build}]", f"{build} needs at most 0.8 of the memory", at_most(0.8), "run_ratio"),
        Measurement("memory", tuple(memory), who),
    )


def _add_the_rest(run: Folder) -> None:
    for set_name in ("addresses", "commonsense"):
        run.add(
            Claim(f"E3.conditions[{set_name}]", "both arms ran under the same conditions", identical()),
            Measurement("conditions", tuple(Sample(k, 1.0) for k in ("template", "sampling", "threads", "engine"))),
        )
        run.add(
            Claim(f"E7.sample[{set_name}]", "the set is large enough for its margin", at_least(500), "exact"),
            Measurement("sample", (Sample(set_name, 560.0 if set_name == "addresses" else 1183.0),)),
        )
        run.add(
            Claim(f"G1.golden[{set_name}]", "the golden set is the approved one", identical()),
            Measurement("golden", (Sample(set_name, 1.0),)),
        )
        size = Claim(f"E6.size[{set_name}]", "the gate raises a false alarm in at most 5% of A/A runs", at_most(0.075))
        run.add(size, Measurement("size", tuple(Sample(f"s-{i}", float(i % 29 == 0)) for i in range(800))))
    absent = Claim("Q8.calibration[gguf-q4_0]", "calibration data is disjoint from evaluation data", identical())
    run.add(absent, verdict=not_evaluated(absent, "calibration", "no calibration data here; name it under [quant] calibration"))


# --- builds of several formats in several engines ------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A build and how good it is; ``kld`` is the mean in nats."""

    name: str
    reference: str
    engine: str
    format: str
    bits: float
    loss: float = 0.0
    kld: float = 0.005
    speed: float = 1.5
    memory: float = 0.6
    group: int | None = None


MADE = (
    Made("gguf-q8_0", "gguf-f16", "llamacpp", "Q8_0", 8.5, 0.002, 0.004, 1.2, 0.77),
    Made("gguf-q4_k_m", "gguf-f16", "llamacpp", "Q4_K - Medium", 6.2, 0.01, 0.04, 1.14, 0.71),
    Made("gguf-q4_0", "gguf-f16", "llamacpp", "Q4_0", 5.3, 0.15, 0.35, 1.86, 0.78),
    Made("gptq-w4g64", "bf16-vllm", "vllm", "gptq int4 g64 sym", 6.9, 0.02, 0.06, 1.4, 0.42, 64),
    Made("awq-w4g64", "bf16-vllm", "vllm", "awq int4 g64 asym", 7.1, 0.06, 0.09, 1.3, 0.45, 64),
    Made("int8-w8a8", "bf16-vllm", "vllm", "compressed-tensors int8 sym", 9.4, 0.003, 0.02, 1.1, 0.61),
    Made("fp8-dynamic", "bf16-vllm", "vllm", "compressed-tensors fp8 e4m3", 9.4, 0.004, 0.021, 0.8, 0.62),
    Made("nf4", "tuned", "transformers", "bitsandbytes nf4", 6.6, 0.04, 0.08, 0.6, 0.41, 64),
)


def engines_run(
    path: Path, made: Sequence[Made] = MADE, *, tier: str = "full", items: int = 500, layers: int = 30, releases: bool = True
) -> Path:
    """One page of builds in several engines, each compared with the reference of its own engine; seeded."""
    rng = random.Random(20261121)
    run = Folder(path, tier)
    base = {name: _answers(rng, "addresses", items) for name in sorted({m.reference for m in made})}
    families = {m.name: _engine_build(run, rng, m, base[m.reference], layers) for m in made}
    if releases:
        verdicts = {claim.id: verdict for claim, verdict, *_ in run.todo}
        told = {name: asdict(release(found, verdicts)) for name, found in families.items()}
        path.mkdir(parents=True, exist_ok=True)
        evidence.write_atomic(path / evidence.RELEASE, evidence.canonical(told))
    return run.close()


def _engine_build(run: Folder, rng: random.Random, m: Made, base: list[Sample], layers: int) -> list[Family]:
    who = (subject(m.name), subject(m.reference))
    new = _rebuilt(rng, base, (m.loss + 0.01, 0.01))
    arm = {"engine": {"engine": m.engine, "threads": "2"}, "order": "by length"}
    answers = Measurement("accuracy", _two(new, base), who, {"new": arm, "old": arm})
    flips = tuple(Sample(a.item, float(a.value != b.value)) for a, b in zip(new, base, strict=True))
    guard = [
        (Claim(f"Q1.accuracy[addresses,{m.name}]", f"{m.name} answers addresses not worse by 5 points", non_inferior(0.05)), answers),
        (Claim(f"Q1.flips[addresses,{m.name}]", f"{m.name} flips few items", at_most(0.25)), Measurement("flips", flips, who)),
        (Claim(f"Q2.kld[{m.name}]", f"{m.name} lies close", at_most(0.15), "bounded_mean", support=(0.0, 1.0)), _positioned(rng, m, who)),
    ]
    gain = [
        (Claim(f"Q5.speed[{m.name}]", f"{m.name} is faster", at_least(1.05), "run_ratio"), _runs(rng, m.speed, who)),
        (Claim(f"Q5.memory[{m.name}]", f"{m.name} takes less memory", at_most(0.9), "exact" if m.engine != "llamacpp" else "run_ratio"),
         _runs(rng, m.memory, who) if m.engine == "llamacpp" else Measurement("weights", (Sample(m.name, m.memory),), who)),
    ]  # fmt: skip
    there = [
        (Claim(f"Q4.bits[{m.name}]", f"{m.name} is as small as it says", at_most(10), "exact"), _bits(m, who)),
        (
            Claim(f"Q4.types[{m.name}]", f"each matrix of {m.name} has its type", identical()),
            Measurement("types", _tensors(m, layers), who[:1]),
        ),
    ]
    if m.engine == "vllm":
        rows = tuple(Sample(f"model.layers.{i}.mlp.down_proj", 1.0, detail={"found": f"Kernel{m.bits:.0f}"}) for i in range(layers))
        there.append(
            (Claim(f"Q4.kernel[{m.name}]", f"{m.name} runs on a quantized kernel", identical()), Measurement("kernel", rows, who[:1]))
        )
        there.append(
            (Claim(f"Q8.disjoint[{m.name}]", "calibration data is disjoint", identical()), Measurement("c", (Sample("leak", 1.0),)))
        )
    for claim, measured in (*there, *guard, *gain):
        run.add(claim, measured)
    names = [tuple(claim.id for claim, _ in part) for part in (there, guard, gain)]
    return [Family("integrity", "all", names[0]), Family("guardrails", "all", names[1]), Family("gains", "any", names[2])]


def _positioned(rng: random.Random, m: Made, who: tuple[Subject, Subject]) -> Measurement:
    rows = []
    for i in range(200):
        mean = m.kld * math.exp(rng.gauss(-0.1, 0.4))
        counts = [1, 2, 4, 8, 16, 32, 40]
        sums = [n * mean * (1.4 - 0.1 * j) for j, n in enumerate(counts)]
        rows.append(Sample(f"exam-{i:03d}", min(1.0, mean), weight=103.0, detail={"by_position": {"sum": sums, "n": counts}}))
    return Measurement("kld", tuple(rows), who, {"texts": "exam_text"})


def _runs(rng: random.Random, ratio: float, who: tuple[Subject, Subject]) -> Measurement:
    order = (("old", 0), ("new", 0), ("new", 1), ("old", 1))
    rows = (Sample(f"block-{b:02d}", 30.0 * (ratio if arm == "new" else 1) * math.exp(rng.gauss(0, 0.03)), arm, replicate=k)
            for b in range(6) for arm, k in order)  # fmt: skip
    return Measurement("runs", tuple(rows), who)


def _bits(m: Made, who: tuple[Subject, Subject]) -> Measurement:
    detail = {"size_bytes": int(134_515_008 * m.bits / 8), "format": m.format, "method": m.format.split()[0], "tensors": {"int4": 210}}
    detail |= {"group_size": m.group} if m.group else {}
    return Measurement("bits", (Sample(m.name, m.bits, detail=detail),), who[:1])


def _tensors(m: Made, layers: int) -> tuple[Sample, ...]:
    if m.engine == "llamacpp":
        short = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
        wanted = m.format.split()[0]
        rows = [Sample(f"blk.{i}.{name}.weight", 1.0, detail=_gguf_type(wanted, name, i)) for i in range(layers) for name in short]
        rows += [Sample(f"blk.{i}.attn_norm.weight", 1.0, detail={"found": "F32", "shape": [576]}) for i in range(layers)]
        shape = {"shape": [49152, 576], "found": "Q8_0", "expected": "Q6_K", "fallback": "row length 576 is not a multiple of 256"}
        return (*rows, Sample("token_embd.weight", 1.0, detail=shape))
    kind = " ".join(m.format.split()[1:3])
    parts = (
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    )
    detail = {"found": kind, "declared": kind, "kind": "linear", "bits": 8 if "8" in kind else 4}
    rows = [Sample(f"model.layers.{i}.{name}", 1.0, detail=detail) for i in range(layers) for name in parts]
    if m.name.startswith("awq"):
        rows[-2] = Sample(rows[-2].item, 0.0, detail={"found": "bf16", "declared": kind, "kind": "linear", "bits": 16})
    return (*rows, Sample("model.norm", 1.0, detail={"found": "bf16", "kind": "norm", "bits": 16}),
            Sample("lm_head", 1.0, detail={"found": "bf16", "declared": "bf16", "kind": "head", "bits": 16}))  # fmt: skip


def _gguf_type(wanted: str, name: str, layer: int) -> dict[str, Any]:
    if wanted == "Q4_K":
        other = ("Q8_0", "Q6_K") if name in ("attn_v", "ffn_down") and layer % 3 == 0 else ("Q5_0", "Q4_K")
        return {"found": other[0], "expected": other[1], "fallback": "row length", "shape": [576, 576]}
    return {"found": wanted, "shape": [576, 576]}


@pytest.fixture(scope="session")
def make_engines() -> Callable[..., Path]:
    """``make_engines(path, made, ...)``: builds of several formats in several engines."""
    return engines_run


@pytest.fixture(scope="session")
def make_big() -> Callable[[Path], Path]:
    """``make_big(path)``: a run as large as a real one."""
    return big_run
