"""M1, M2: a server takes the memory that its files and flags predict, and has room for what they promise."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, identical
from harness.plugin import settings_of
from harness.serve import memory
from harness.serve.load import ask
from harness.serve.process import Server
from harness.serve.telemetry.exposition import parse
from suites import controls
from suites.serve import ends, margins

pytestmark = pytest.mark.serve

_ANSWER = 32  # tokens of each answer that fills the promised context


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``paged``: each server of ours that tells of how many blocks its cache is made."""
    if "paged" in metafunc.fixturenames:
        metafunc.parametrize("paged", [name for name, served in settings_of(metafunc.config).serve.items() if served.engine == "vllm"])


# --- M1 -----------------------------------------------------------------------------------------------


def _cache_claim(paged: str) -> Claim:
    text = f"{paged} holds as many tokens as layers, heads and bytes of its cache predict, to the block"
    return Claim(f"M1.cache[{paged}]", text, identical())


@pytest.mark.claim(each=_cache_claim)
def test_the_cache_holds_what_it_should(claim, bench, paged):
    def look() -> dict[str, Any]:
        server = bench.serving.server(paged)
        _, page = server.get("/metrics")
        ((labels, _),) = parse(page, ["vllm:cache_config_info"])["vllm:cache_config_info"].items()
        said = dict(labels)
        return {"blocks": int(said["num_gpu_blocks"]), "block": int(said["block_size"]), "cache": server.command.cache}

    found = bench.cached("ends", {**bench.serving.inputs(paged), "step": ends.STEP, "asked": "blocks"}, look)
    shape = memory.shape(bench.path(bench.serving.spec(paged).subject))

    def measure(of: memory.Shape, subjects=()) -> Measurement:
        predicted, told = memory.tokens(found["cache"], of, found["block"]), found["blocks"] * found["block"]
        detail = {"predicted": predicted, "found": told, "bytes_per_token": of.kv_bytes(), **found}
        return Measurement("cache_tokens", (Sample(paged, float(predicted == told), detail=detail),), subjects)

    claim.check(
        measure(shape, (bench.serving.subject(paged),)),
        controls=[
            Control("A/A: the same prediction", controls.HOLDS, measure(shape)),
            Control("planted in the prediction: one layer more", controls.FAILS, measure(shape._replace(layers=shape.layers + 1))),
        ],
    )


def _memory_claim(spawned: str) -> Claim:
    text = (
        f"{spawned} takes what its weights, its cache, and the workspace of one with an eighth of that cache predict: "
        f"relative error at most {margins.MEMORY_ERROR:.0%}"
    )
    return Claim(f"M1.memory[{spawned}]", text, at_most(margins.MEMORY_ERROR), estimand="exact")


@pytest.mark.claim(each=_memory_claim)
def test_memory_is_as_predicted(claim, bench, spawned):
    """Proportional shares of all processes, after an answer. What the engine needs besides is measured where the cache is small."""
    served = bench.serving.spec(spawned)
    shape = memory.shape(bench.path(served.subject))
    full = _taken(bench, spawned, dict(served.options))
    small = _taken(bench, spawned, _eighth(served, full, shape))
    caches = {"full": _cache(full, shape), "small": _cache(small, shape)}
    workspace = small["pss"] - shape.weights - caches["small"]

    def measure(weights: int, cache: int, subjects=()) -> Measurement:
        predicted = workspace + weights + cache
        detail = {"predicted": predicted, "measured": full["pss"], "workspace": workspace, "weights": weights, "cache": cache}
        return Measurement("memory_error", (Sample(spawned, abs(full["pss"] / predicted - 1), detail=detail),), subjects)

    doubled = measure(2 * shape.weights, 2 * caches["full"])
    claim.check(
        measure(shape.weights, caches["full"], (bench.serving.subject(spawned),)),
        controls=[
            Control("A/A: the same prediction", controls.HOLDS, measure(shape.weights, caches["full"])),
            Control("planted in the prediction: float32", controls.FAILS, doubled),
            Control("planted in the prediction: the small cache", controls.FAILS, measure(shape.weights, caches["small"])),
        ],
    )


def _eighth(served, full: dict, shape: memory.Shape) -> dict[str, str]:
    """The flags with an eighth of the cache."""
    if served.engine == "vllm":
        return {**served.options, "kv-cache-memory-bytes": str(full["cache"] // 8), "max-model-len": "512"}
    return {**served.options, "ctx-size": str(full["context"] * full["sequences"] // 8)}


def _cache(taken: dict, shape: memory.Shape) -> int:
    return taken["cache"] or taken["context"] * taken["sequences"] * shape.kv_bytes()


def _taken(bench, name: str, options: dict[str, str]) -> dict[str, int]:
    def look() -> dict[str, int]:
        server = bench.serving.server(name, options)
        command = server.command
        return {
            "pss": server.memory_bytes(), "cache": command.cache, "context": command.context, "sequences": command.sequences,
        }  # fmt: skip

    return bench.cached("ends", {**bench.serving.inputs(name, options), "step": ends.STEP, "asked": "memory"}, look)


# --- M2 -----------------------------------------------------------------------------------------------


def _room_claim(spawned: str) -> Claim:
    text = (
        f"{spawned} completes as many answers at once as it promises, each as long as it promises; one token more is refused with 400, "
        "and it goes on, still right"
    )
    return Claim(f"M2.room[{spawned}]", text, identical())


@pytest.mark.claim(each=_room_claim)
def test_what_is_promised_fits(claim, bench, spawned, tmp_path):
    def look() -> list[dict]:
        server = bench.serving.server(spawned)
        return filled(server, server.command.context, server.command.sequences)

    rows = bench.cached("ends", {**bench.serving.inputs(spawned), "step": ends.STEP, "asked": "room"}, look)
    claim.check(
        _exact(rows, (bench.serving.subject(spawned),)),
        controls=[
            Control("A/A: a server that refuses what it has no room for", controls.HOLDS, _exact(_fake(tmp_path, context=64))),
            Control("planted: one that takes everything", controls.FAILS, _exact(_fake(tmp_path))),
            Control("planted: one that dies of it", controls.FAILS, _exact(_fake(tmp_path, crash=63))),
            Control("planted: one that cuts long answers", controls.FAILS, _exact(_fake(tmp_path, context=64, forgets=31))),
        ],
    )


def _fake(folder: Path, **habits) -> list[dict]:
    with ends.fake(folder, habits) as server:
        return filled(server, 64, 4)


def _exact(rows: list[dict], subjects=()) -> Measurement:
    return Measurement("room", tuple(Sample(row["item"], float(row["good"]), detail=row) for row in rows), subjects)


def filled(server: Server, context: int, sequences: int, seed: int = 0) -> list[dict[str, Any]]:
    """As many answers at once as are promised, each as long as is promised; one token more; and whether it is the same server after."""
    draw = random.Random(seed)

    def body(prompt: int, answer: int) -> dict[str, Any]:
        ids = [draw.randrange(1000, 20_000) for _ in range(prompt)]
        return {"prompt": ids, "max_tokens": answer, "temperature": 0, **server.command.extra}

    probe = ends.body(server, 16, 0)
    before = ask(server.target, [probe], chat=False)[0]
    full = [body(context - _ANSWER, _ANSWER) for _ in range(sequences)]
    answers = ask(server.target, full, concurrency=sequences, chat=False, limit_s=300)
    beyond = ask(server.target, [body(context, 1)], chat=False, limit_s=60)[0]
    after = ask(server.target, [probe], chat=False)[0]
    rows = [
        {
            "item": f"full {i}",
            "good": each.complete and (each.usage or {}).get("completion_tokens") == _ANSWER,
            "why": each.why,
            "usage": each.usage,
        }
        for i, each in enumerate(answers)
    ]
    return [
        *rows,
        {"item": "one token more", "good": beyond.status == 400, "status": beyond.status, "outcome": beyond.outcome},
        {"item": "still alive", "good": server.alive},
        {"item": "still right", "good": after.complete and after.text == before.text, "text": after.text, "before": before.text},
    ]
