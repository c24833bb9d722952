"""K5: company changes answers no more than asking again does: the concurrency noise floor, and golden answers inside the load."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, at_most
from harness.errors import MissingNeed
from harness.serve.parity import floor
from harness.store import digest_json
from suites import controls
from suites.serve import company, margins

pytestmark = pytest.mark.serve


def _flips_claim(primary: str, concurrency: int) -> Claim:
    text = f"{primary}, {concurrency} requests at a time: share of answers that leave those alone by more than a numeric tie"
    return _claim(f"K5.flips[{primary},{concurrency}]", text)


def _claim(name: str, text: str) -> Claim:
    return Claim(name, text, at_most(margins.FLIPS), estimand="proportion", min_n=margins.FLIPS_LEAST, expected=0.0)


@pytest.mark.parametrize("concurrency", [2, 4, 8])
@pytest.mark.claim(each=_flips_claim)
def test_company_changes_no_answer(claim, bench, primary, concurrency):
    prompts = bench.serving.prompts(primary, margins.FLIPS_PROMPTS)
    alone = company.answers(bench, primary, prompts)
    again = company.answers(bench, primary, prompts, rerun=1)
    beside = company.answers(bench, primary, prompts, concurrency=concurrency)
    garbled = company.garbled(alone, 5)
    judge = company.Judge(bench, primary, prompts, alone, company.texts(again, beside, garbled))
    counted = {1: judge.flips(again), concurrency: judge.flips(beside)}

    def measured(samples, at) -> Measurement:
        conditions = {"server": primary, "concurrency": at, "against": 1, "tie_nats": judge.allowed.tie}
        return Measurement("error_flips", samples, (bench.serving.subject(primary),), conditions, notes=(floor.floor(counted),))

    claim.check(
        measured(counted[concurrency], concurrency),
        controls=[
            Control("A/A: alone, asked again", controls.HOLDS, measured(counted[1], 1)),
            Control("planted: one answer in five is written backwards", controls.FAILS, measured(judge.flips(garbled), concurrency)),
        ],
    )


def _load_claim(server: str) -> Claim:
    text = (
        f"golden answers that rode in the load of {server}: share that leaves the unloaded answer by more than a numeric tie, or never came"
    )
    return _claim(f"K5.in_load[{server}]", text)


@pytest.mark.claim(each=_load_claim)
def test_golden_answers_are_right_inside_the_load(claim, bench, server):
    kept = bench.serving.promised(server)
    known = bench.serving.prompts(server)
    ridden = [r for r in kept.load.judged if r.golden]
    if not ridden:
        raise MissingNeed("golden", f"no golden prompt rode in the load of {server}", "a load of more requests")
    ridden = sorted(ridden, key=lambda r: digest_json(r.sequence))[: margins.FLIPS_PROMPTS]  # over the whole window
    chosen = {r.sequence: known[r.prompt] for r in ridden}
    # the controls need as many prompts as the claim, however few rode
    prompts = list({p.id: p for p in (*chosen.values(), *known)}.values())[: margins.FLIPS_PROMPTS]
    alone = company.answers(bench, server, prompts)
    again = company.answers(bench, server, prompts, rerun=1)
    garbled = company.garbled(alone, 5)
    others = company.texts(again, garbled)
    for sequence, prompt in chosen.items():
        others[prompt.id] |= {kept.golden[sequence]} if sequence in kept.golden else set()
    judge = company.Judge(bench, server, prompts, alone, others)
    load = replace(kept.load, records=tuple(r for r in kept.load.records if r.sequence in chosen))
    samples = floor.in_load(load, kept.golden, lambda sequence: chosen[sequence].id, judge.alone, judge.read, judge.allowed)
    crowd = floor.crowd(kept.load)
    note = f"inside the load ({crowd} in flight at most): {floor.floor({crowd: samples})}; alone: {floor.floor({1: judge.flips(again)})}"

    def measured(rows, invalid=()) -> Measurement:
        conditions = {"server": server, "in_flight": crowd, "tie_nats": judge.allowed.tie}
        return Measurement("error_flips", rows, (bench.serving.subject(server),), conditions, tuple(invalid), (note,))

    claim.check(
        measured(samples, kept.load.invalid),
        controls=[
            Control("A/A: alone, asked again", controls.HOLDS, measured(judge.flips(again))),
            Control("planted: one answer in five is written backwards", controls.FAILS, measured(judge.flips(garbled))),
        ],
    )
