"""K1, K2: a warm prefix cache changes no answer, was really used, and saves the time it is there for."""

from __future__ import annotations

import json
import secrets
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import pytest

from harness import Claim, Control, Measurement, Sample, at_most, identical
from harness.lifecycle.serving import voided
from harness.serve import telemetry
from harness.serve.load import Answer, ask
from harness.types import Generation, Prompt
from suites import controls
from suites.serve import company, margins

pytestmark = pytest.mark.serve


def with_preface(prompts: Sequence[Prompt], among: Sequence[Prompt], n: int, names: Sequence[str]) -> list[Prompt]:
    """Each prompt behind ``n`` questions of other prompts. Cached is a beginning: ``names`` come first and make it one's own."""
    read = [p.messages[-1]["content"] for p in among[:n]]
    preface = "These questions were asked before; answer the last one only.\n" + "\n".join(read)
    return [
        replace(p, messages=({"role": "user", "content": f"{name}. {preface}\n{p.messages[-1]['content']}"},))
        for p, name in zip(prompts, names, strict=True)
    ]


# --- K1 -----------------------------------------------------------------------------------------------


def _answers_claim(primary: str) -> Claim:
    text = f"{primary} answers from a warm prefix cache as from a cold one, up to numeric ties, and the cache was really hit"
    return Claim(f"K1.prefix[{primary}]", text, identical(), min_n=margins.PREFIX_PROMPTS)


@pytest.mark.claim(each=_answers_claim)
def test_a_warm_prefix_cache_changes_no_answer(claim, bench, primary):
    prompts = bench.serving.prompts(primary, margins.PREFIX_PROMPTS + 12)
    inputs = {
        **bench.serving.inputs(primary),
        "prompts": [asdict(p) for p in prompts],
        "max_tokens": bench.serving.sampling(primary).max_tokens,
    }
    kept = bench.cached("prefix", inputs, lambda: _cold_and_warm(bench, primary, prompts))
    mine = [Prompt(row["id"], tuple(row["messages"])) for row in kept]
    cold, warm, again = ({row["id"]: Generation(**row[arm]) for row in kept} for arm in ("cold", "warm", "again"))
    garbled = company.garbled(warm, 5)
    judge = company.Judge(bench, primary, mine, cold, company.texts(warm, again, garbled))
    hits = {arm: sum(row["hits"][arm] for row in kept) for arm in ("cold", "warm", "again")}

    def measured(said, found) -> Measurement:
        note = f"tokens out of the cache: {hits['cold']:g} when cold, {hits['warm']:g} when warm"
        conditions = {"server": primary, "hits": hits, "tie_nats": judge.allowed.tie}
        rows = company.kept_same(judge.flips(said))
        return Measurement("same_answer", rows, (bench.serving.subject(primary),), conditions, _vacuous(found), (note,))

    claim.check(
        measured(warm, hits["warm"]),
        controls=[
            Control("A/A: warm, asked again", controls.HOLDS, measured(again, hits["again"])),
            Control("planted: one answer in five is written backwards", controls.FAILS, measured(garbled, hits["warm"])),
            Control("planted: the counts of a cache that is off", ("inconclusive",), measured(warm, 0.0)),
        ],
    )


def _vacuous(hits: float) -> tuple[str, ...]:
    return () if hits > 0 else ("vacuous_cache: no token came out of the prefix cache; it is off, or nobody counts",)


def _cold_and_warm(bench, server: str, prompts: Sequence[Prompt]) -> list[dict[str, Any]]:
    """Each prompt thrice in a row, and what the cache gave: new to the server, known, known."""
    target, tokens = bench.serving.target(server), bench.serving.sampling(server).max_tokens
    nonce, n = secrets.token_hex(4), margins.PREFIX_PROMPTS
    rows = []
    for prompt in with_preface(prompts[:n], prompts[n:], 12, [f"Sheet {nonce} {i}" for i in range(n)]):
        row: dict[str, Any] = {"id": prompt.id, "messages": list(prompt.messages), "hits": {}}
        for arm in ("cold", "warm", "again"):
            before = telemetry.scrape(target).hits
            row[arm] = asdict(company.asked(target, [prompt], tokens)[prompt.id])
            after = telemetry.scrape(target).hits
            row["hits"][arm] = 0.0 if before is None or after is None else after - before
        rows.append(row)
    return rows


# --- K2 -----------------------------------------------------------------------------------------------


def _saving_claim(primary: str) -> Claim:
    text = f"the prefix cache of {primary} saves time to the first token on shared prefixes: ratio of medians, warm against cold"
    return Claim(
        f"K2.ttft[{primary}]",
        text,
        at_most(margins.PREFIX_TTFT),
        estimand="run_ratio",
        min_n=4,
        expected=margins.EXPECTED_PREFIX_TTFT,
    )


@pytest.mark.claim(each=_saving_claim)
def test_the_prefix_cache_saves_time(claim, bench, primary):
    inputs = {**bench.serving.inputs(primary), "blocks": bench.tier.blocks, "runs": margins.PREFIX_RUN}
    kept = bench.timed("prefix-runs", inputs, lambda: _timed(bench, primary))
    hits = kept["hits"]
    void = (*kept["invalid"], *_vacuous(hits["new"]))

    def measured(rows, invalid=void) -> Measurement:
        conditions = {"server": primary, "hits": hits, "requests": margins.PREFIX_RUN, "statistic": "median ttft_s of a run"}
        samples = tuple(
            Sample(r["item"], r["ttft_s"], r["arm"], status="ok" if r["ttft_s"] else "error", replicate=r["replicate"]) for r in rows
        )
        return Measurement("ttft", samples, (bench.serving.subject(primary),), conditions, invalid)

    lost = [{**r, "ttft_s": r["ttft_s"] and 1.25 * r["ttft_s"]} if r["arm"] == "new" else r for r in kept["same"]]
    claim.check(
        measured(kept["runs"]),
        controls=[
            Control("A/A: cold against cold shows no gain", controls.FAILS, measured(kept["same"], ())),
            Control("planted in the runs: 1.25 times as slow", controls.FAILS, measured(lost, ())),
        ],
    )


def _timed(bench, server: str) -> dict[str, Any]:
    """ABBA blocks of runs, "old" with prefixes that are new to the server, "new" with one that it knows; and the same cold against cold."""
    asking = _Prefixed(bench, server)

    def run():
        return asking.blocks(bench.tier.blocks, warm=True), asking.blocks(4, warm=False)[0]

    ((runs, hits), same), guards = bench.serving.guarded(server, run)
    return {"runs": runs, "same": same, "hits": hits, "invalid": voided(guards)}


class _Prefixed:
    def __init__(self, bench, server: str) -> None:
        self.target = bench.serving.target(server)
        self.prompts = bench.serving.prompts(server, margins.PREFIX_RUN + margins.PREFIX_LONG)
        self.progress = bench.progress
        self.count = 0

    def blocks(self, n: int, *, warm: bool) -> tuple[list[dict[str, Any]], dict[str, float]]:
        """A row for each run, and the hits by arm."""
        rows, hits = [], {"old": 0.0, "new": 0.0}
        for block in range(n):
            order = ("old", "new", "new", "old") if block % 2 == 0 else ("new", "old", "old", "new")
            seen = {"old": 0, "new": 0}
            for arm in order:
                self.progress("prefix runs", 4 * block + sum(seen.values()), 4 * n)
                seconds, found = self._run(warm=warm and arm == "new")
                hits[arm] += found
                rows.append({"item": f"b{block}", "arm": arm, "replicate": seen[arm], "ttft_s": seconds})
                seen[arm] += 1
        return rows, hits

    def _run(self, *, warm: bool) -> tuple[float | None, float]:
        """The median time to the first token, and the tokens out of the cache. A warm run has its prefix primed by a request of its own."""
        n, nonce = margins.PREFIX_RUN, secrets.token_hex(4)
        names = [f"Sheet {nonce}" if warm else f"Sheet {nonce} {i}" for i in range(n)]
        prompts = with_preface(self.prompts[:n], self.prompts[n:], margins.PREFIX_LONG, names)
        if warm:
            self._ask(with_preface(self.prompts[n : n + 1], self.prompts[n:], margins.PREFIX_LONG, names[:1]))
        before = telemetry.scrape(self.target).hits or 0.0
        times = [_first(answer) for answer in self._ask(prompts)]
        found = (telemetry.scrape(self.target).hits or 0.0) - before
        return (None if None in times else statistics.median(t for t in times if t is not None)), found

    def _ask(self, prompts: Sequence[Prompt]) -> list[Answer]:
        bodies: list[Mapping[str, Any]] = [
            {"messages": [dict(m) for m in p.messages], "max_tokens": 2, "temperature": 0, "ignore_eos": True} for p in prompts
        ]
        return ask(self.target, bodies, limit_s=120.0)


def _first(answer: Answer) -> float | None:
    """Seconds from the send to the first frame with output."""
    if not answer.complete:
        return None
    for frame, at in zip(answer.frames, answer.times, strict=True):
        try:
            choices = json.loads(frame).get("choices")
        except ValueError:
            continue
        if choices and choices[0].get("delta", {}).get("content"):
            return at
    return None
