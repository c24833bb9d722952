"""Histories over run folders: a drift that no pair shows, and what must not stand beside the rest."""

from __future__ import annotations

import random
import shutil

import pytest

from harness import Claim, Measurement, Sample, at_least, evidence
from harness.__main__ import main
from harness.history import histories, lines
from harness.judge import judge

pytestmark = pytest.mark.selftest

CLAIMS = ("Q1.rate[a]", "Q1.rate[b]")


def make(
    folder, number: int, rates: dict[str, float], *, tier: str = "full", golden: str = "g1", finished: bool = True,
    lifecycle: str = "l", others=None, asked=None,
):  # fmt: skip
    """A sealed run on the golden set "set" and ``others``; ``asked`` is the digest of the set that its conditions name."""
    run, rng = folder / f"run-{number:03d}", random.Random(number)
    claims = {name: Claim(name, "t", at_least(0.5)) for name in rates}
    plan = {
        "tier": tier,
        "lifecycle": lifecycle,
        "golden": {"set": golden, **(others or {})},
        "claims": [{"claim": evidence.claim_to_json(c)} for c in claims.values()],
    }
    digest = evidence.seal_plan(run, plan)
    for name, claim in claims.items():
        rows = tuple(Sample(f"i{i:03d}", float(rng.random() < rates[name])) for i in range(200))
        measurement = Measurement("rate", rows, conditions={"golden": asked} if asked else {})
        verdict = judge(claim, measurement)
        evidence.write_evidence(
            run, claim, verdict, plan_digest=digest, tier=tier, measurement=measurement, provenance={}, notes={}
        )  # fmt: skip
    if finished:
        evidence.write_atomic(run / "run.json", evidence.canonical({"finished": f"2026-01-01T00:{number:02d}:00+00:00"}))
    evidence.seal_bundle(run)
    return run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Forty runs: one claim loses .004 a run, far inside what two runs can tell; the other stays."""
    folder = tmp_path_factory.mktemp("runs")
    return [make(folder, i, {CLAIMS[0]: 0.90 - 0.004 * i, CLAIMS[1]: 0.85}) for i in range(40)]


def test_a_drift_that_no_pair_shows(runs):
    found, left_out = histories(runs[::-1])  # in any order
    assert left_out == []
    drifting, steady = found
    assert [p.run for p in drifting.points] == [run.name for run in runs]
    assert drifting.changes
    assert drifting.changes[0].after < drifting.changes[0].before
    assert steady.changes == ()
    text = "\n".join(lines(found, left_out, 0.05))
    assert "1 of 2 claims changed" in text
    assert "changed with run-0" in text


def test_few_runs_tell_nothing_and_say_so(runs):
    found, _ = histories(runs[:9], ["Q1.rate[a]"])
    assert [h.changes for h in found] == [None]
    assert "10 runs are needed" in "\n".join(lines(found, [], 0.05))


def test_what_must_not_stand_beside_the_rest_is_named(runs, tmp_path):
    good = [make(tmp_path, i, {CLAIMS[0]: 0.9}) for i in (1, 2)]
    smoke = make(tmp_path, 3, {CLAIMS[0]: 0.9}, tier="smoke")
    torn = make(tmp_path, 4, {CLAIMS[0]: 0.9}, finished=False)
    changed = make(tmp_path, 5, {CLAIMS[0]: 0.9})
    (changed / "run.json").write_text("{}")
    other = make(tmp_path, 0, {CLAIMS[0]: 0.9}, golden="g0")
    twice = shutil.copytree(good[0], tmp_path / "copy")
    found, left_out = histories([*good, twice, good[1], smoke, torn, changed, other, tmp_path / "nowhere"])
    assert [len(h.points) for h in found] == [2]
    said = "\n".join(left_out)
    assert [word in said for word in ("smoke", "not a finished run", "seal is broken", "other golden sets", "nowhere")] == [True] * 5
    assert f"other golden sets than the newest run's: {CLAIMS[0]}" in said
    assert said.count("the same run as") == 2
    assert len(left_out) == 7


@pytest.mark.parametrize(
    ("asked", "before", "now", "joined"),
    [
        (("d", "d+limit=60"), {}, {"new": "n"}, 2),  # a set that was added is no matter
        (("d", "d"), {"old": "n"}, {}, 2),
        (("d", "d"), {"b": "1"}, {"b": "2"}, 2),  # nor one that changed and was not asked
        (("d", "e"), {}, {}, 1),
        ((None, "d"), {}, {}, 1),
        ((None, None), {}, {"new": "n"}, 2),
        ((None, None), {"b": "1"}, {"b": "2"}, 1),  # which sets count is not known: any may be the one
    ],
)
def test_a_claim_is_joined_on_the_golden_sets_that_it_asked(tmp_path, asked, before, now, joined):
    runs = [make(tmp_path, i, {CLAIMS[0]: 0.9}, others=(before, now)[i], asked=asked[i]) for i in range(2)]
    found, left_out = histories(runs)
    assert [p.run for p in found[0].points] == [run.name for run in runs[2 - joined :]]
    assert len(left_out) == 2 - joined


def test_what_is_measured_otherwise_is_not_joined(tmp_path):
    runs = [make(tmp_path, i, {CLAIMS[0]: 0.9}) for i in range(3)]
    path = evidence.evidence_path(runs[0], CLAIMS[0])
    record = evidence.read_json(path)
    record["measurement"]["metric"] = "another"
    path.write_bytes(evidence.canonical(record))
    evidence.seal_bundle(runs[0])
    found, left_out = histories(runs)
    assert [p.run for p in found[0].points] == [run.name for run in runs[1:]]
    assert "another" in left_out[0]


def test_the_verb(runs, capsys):
    assert main(["history", *map(str, runs[:12]), "--claim", "Q1.rate[b]", "--no-index"]) == 0
    assert "Q1.rate[b]  12 runs" in capsys.readouterr().out
    assert main(["history", str(runs[0].parent / "absent"), "--no-index"]) == 1
