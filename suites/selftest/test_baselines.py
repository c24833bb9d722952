"""Approved evidence: bound to its digest, approved on purpose only; what changed since is told as worse, better, chance or neither."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace

import pytest

from harness import Claim, Measurement, Sample, Subject, Verdict, at_least, at_most, baselines, evidence, identical, non_inferior
from harness.__main__ import main
from harness.errors import GoldenError, HarnessError
from harness.history.approval import approve, held_against
from harness.judge import judge, not_evaluated
from harness.recheck import measured, recheck

pytestmark = pytest.mark.selftest

RATE = Claim("c.rate", "t", at_least(0.5))
PAIRED = Claim("c.paired", "t", non_inferior(0.10))
MEAN = Claim("c.mean", "t", at_least(0.2), estimand="bounded_mean", support=(0.0, 1.0))
COUNT = Claim("c.count", "t", identical())
SLOW = Claim("c.slow", "t", at_most(0.10), slo=1.0, estimand="over_limit")


def rate(k: int, n: int = 300) -> Measurement:
    return Measurement("rate", tuple(Sample(f"i{i:03d}", float(i < k)) for i in range(n)))


def paired(worse: int, better: int = 0, n: int = 300) -> Measurement:
    new = [float(better <= i < n) if i < 150 else float(i < n - worse) for i in range(n)]
    old = [float(i >= better) if i < 150 else 1.0 for i in range(n)]
    new[:better] = [1.0] * better
    rows = [Sample(f"i{i:03d}", value, arm) for arm, values in (("new", new), ("old", old)) for i, value in enumerate(values)]
    return Measurement("paired", tuple(rows))


def mean(centre: float, seed: int = 1, n: int = 400) -> Measurement:
    rng = random.Random(seed)
    return Measurement("mean", tuple(Sample(f"d{seed}-{i}", min(1.0, max(0.0, rng.gauss(centre, 0.1)))) for i in range(n)))


def count(wrong: int) -> Measurement:
    return Measurement("count", tuple(Sample(f"r{i}", float(i >= wrong)) for i in range(5)))


def make(run, said, *, tier="full", lifecycle="l", whole=True, approved=None, machine="cpu-a", digest="d1"):
    """A sealed run of these claims: a measurement each, or the name of an absent need."""
    plan = {
        "tier": tier, "lifecycle": lifecycle, "golden": {}, "whole": whole,
        "claims": [{"claim": evidence.claim_to_json(c)} for c in sorted(said, key=lambda c: c.id)],
        **({"baselines": baselines.planned(approved)} if approved else {}),
    }  # fmt: skip
    plan_digest = evidence.seal_plan(run, plan)
    for claim, one in said.items():
        measurement = None if isinstance(one, str) else replace(one, subjects=(Subject("m", "fake", "x", digest),))
        verdict = not_evaluated(claim, one, "absent") if measurement is None else judge(claim, measurement)
        evidence.write_evidence(
            run, claim, verdict, plan_digest=plan_digest, tier=tier, measurement=measurement,
            provenance={"machine": {"cpu": machine}, "code": {}}, notes={},
        )  # fmt: skip
    evidence.write_atomic(
        run / "run.json", evidence.canonical({"exit_status": 1, "finished": "2026-01-01T00:00:00+00:00", "allowed_missing": []})
    )
    seal(run)
    return run


def seal(run):
    plan = evidence.read_json(run / evidence.PLAN)
    records = [evidence.read_json(path) for path in sorted((run / "evidence").glob("*.json"))]
    found = baselines.changes(plan, records, measured(run))
    if found is not None:
        evidence.write_atomic(run / baselines.CHANGES, evidence.canonical(found))
    evidence.seal_bundle(run)


ALL = {RATE: rate(270), PAIRED: paired(3), MEAN: mean(0.5), COUNT: count(0)}


@pytest.fixture(autouse=True, scope="module")
def at_a_desk():
    """Wherever these tests run, approving is what a person does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CI", raising=False)
        patch.delenv("PYTEST_XDIST_WORKER", raising=False)
        yield


@pytest.fixture(scope="module")
def approved_once(tmp_path_factory):
    """A run of all claims, and its baselines: made once, copied for each test."""
    folder = tmp_path_factory.mktemp("approved")
    approve(make(folder / "old", ALL), folder / "baselines", "it is good", by="Ann")
    return folder


@pytest.fixture
def folder(tmp_path, approved_once):
    """Baselines of all claims."""
    shutil.copytree(approved_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "baselines"


def changed(tmp_path, folder, said, **more):
    found = held_against(make(tmp_path / "new", said, **more), baselines.load(folder))
    return found, {one["claim"]: (one["what"], one["how"]) for one in found["changed"]}


def test_the_same_rows_are_the_same(tmp_path, folder):
    found, told = changed(tmp_path, folder, ALL)
    assert told == {}
    assert (found["same"], found["identical"], found["new"], found["gone"], found["not_run"]) == (4, 4, [], [], 0)
    assert baselines.worse(found) == []


@pytest.mark.parametrize(
    ("claim", "measurement", "expected"),
    [
        (RATE, rate(230), ("worse", "paired")),  # forty items fell: it still holds
        (RATE, rate(300), ("better", "paired")),
        (RATE, rate(268), None),  # two items fell
        (PAIRED, paired(18), ("worse", "paired")),
        (PAIRED, paired(5), None),
        (MEAN, mean(0.35, seed=2), ("worse", "intervals")),
        (MEAN, mean(0.65, seed=3), ("better", "intervals")),
        (MEAN, mean(0.505, seed=4), None),
        (COUNT, count(1), ("worse", "exact")),
        (COUNT, "vllm", ("worse", "outcome")),
        (MEAN, "vllm", ("worse", "outcome")),
        (RATE, Measurement("rate", rate(270).samples, invalid=("too_short: no",)), ("worse", "rows")),
    ],
)
def test_what_changed_and_how_it_is_known(tmp_path, folder, claim, measurement, expected):
    found, told = changed(tmp_path, folder, {**ALL, claim: measurement})
    assert told == ({} if expected is None else {claim.id: expected})
    assert found["same"] == len(ALL) - len(told)
    assert bool(baselines.worse(found)) == (expected is not None and expected[0] == "worse")


def test_another_verdict_within_chance_is_told_and_does_not_stop(tmp_path):
    near = {RATE: rate(166)}  # holds, barely
    approve(make(tmp_path / "old", near), tmp_path / "b", "w")
    found, told = changed(tmp_path, tmp_path / "b", {RATE: rate(163)})
    assert told == {RATE.id: ("chance", "paired")}
    assert found["changed"][0]["old"]["outcome"] == "holds"
    assert baselines.worse(found) == []


def test_other_items_are_held_apart_by_intervals(tmp_path, folder):
    others = Measurement("rate", tuple(Sample(f"j{s.item}", s.value) for s in rate(200).samples))
    assert changed(tmp_path, folder, {**ALL, RATE: others})[1] == {RATE.id: ("worse", "intervals")}


def test_a_claim_that_is_asked_otherwise_is_no_longer_the_approved_one(tmp_path, folder):
    wider = Claim(PAIRED.id, "t", non_inferior(0.20))
    found, told = changed(tmp_path, folder, {RATE: rate(270), wider: paired(18), MEAN: mean(0.5), COUNT: count(0)})
    assert told == {PAIRED.id: ("asked otherwise", "paired")}
    assert "bound not as approved" in found["changed"][0]["sentence"]
    assert baselines.worse(found)


def test_times_of_another_machine_are_no_arm(tmp_path):
    def load(seed, centre):
        rng = random.Random(seed)
        return Measurement("ttft", tuple(Sample(f"{i}", rng.uniform(0.5, 1) * centre, at=i / 2) for i in range(600)))

    approve(make(tmp_path / "old", {SLOW: load(1, 0.5)}), tmp_path / "b", "w")
    here = held_against(make(tmp_path / "here", {SLOW: load(2, 1.5)}), baselines.load(tmp_path / "b"))
    there = held_against(make(tmp_path / "there", {SLOW: load(2, 1.5)}, machine="cpu-b"), baselines.load(tmp_path / "b"))
    assert [(one["what"], one["how"]) for one in here["changed"]] == [("worse", "intervals")]
    assert [(one["what"], one["how"]) for one in there["changed"]] == [("not comparable", "outcome")]
    assert baselines.worse(there) == []


def test_what_is_new_gone_and_not_run(tmp_path, folder):
    fewer = {RATE: rate(270), Claim("c.more", "t", identical()): count(0)}
    found, _ = changed(tmp_path, folder, fewer)
    assert found["new"] == ["c.more"]
    assert [one["claim"] for one in found["gone"]] == ["c.count", "c.mean", "c.paired"]
    assert len(baselines.worse(found)) == 3
    part = held_against(make(tmp_path / "part", fewer, whole=False), baselines.load(folder))
    assert (part["gone"], part["not_run"], baselines.worse(part)) == ([], 3, [])


def test_what_else_was_another(tmp_path, folder):
    found, _ = changed(tmp_path, folder, {**ALL, COUNT: count(2)}, digest="d2", machine="cpu-b")
    assert found["changed"][0]["differs"] == ["subjects", "machine"]


def test_the_false_alarms_of_a_family_stay_below_what_is_stated(tmp_path):
    """Forty claims whose items flip at random, as often up as down: a run is told as changed in few of many runs."""
    claims = [Claim(f"c{i:02d}", "t", at_least(0.3)) for i in range(40)]
    rng, rows = random.Random(8), {}

    def record(claim):
        rows[claim.id] = Measurement("rate", tuple(Sample(f"i{i}", float(rng.random() < 0.7)) for i in range(60)))
        verdict = Verdict("holds", "proven", "", estimate=sum(s.value for s in rows[claim.id].samples) / 60, low=0.0, high=1.0)
        kept = evidence.measurement_to_json(rows[claim.id], {"sha256": str(rng.random())})
        return {"claim": evidence.claim_to_json(claim), "verdict": evidence.verdict_to_json(verdict), "measurement": kept}

    def measure(record):
        return rows[record["claim"]["id"]]

    said = {"approved": {"at": "", "by": "", "why": ""}, "lifecycle": "l"}
    approved = {c.id: baselines.sealed(baselines.entry(record(c), measure, **said)) for c in claims}
    plan = {"claims": [{"claim": evidence.claim_to_json(c)} for c in claims], "whole": True, "baselines": baselines.planned(approved)}
    alarms = 0
    for _ in range(40):
        found = baselines.changes(plan, [record(c) for c in claims], measure)
        assert found["error"] == baselines.ALPHA
        alarms += any(one["what"] in ("worse", "better") for one in found["changed"])
    assert alarms <= 4  # at .025 a run, more than 4 of 40 have probability .004


# --- approving ----------------------------------------------------------------------------------


def test_who_when_and_why_are_kept_and_no_person_is_sealed_into_a_plan(tmp_path, folder):
    body = baselines.load(folder)[RATE.id]
    assert (body["approved"]["by"], body["approved"]["why"]) == ("Ann", "it is good")
    assert body["run"] == recheck(tmp_path / "old").seal
    assert "Ann" not in json.dumps(baselines.planned(baselines.load(folder)))


@pytest.mark.parametrize("spoil", ["CI", "PYTEST_XDIST_WORKER", "why", "smoke", "failing", "changed", "prefix"])
def test_what_is_not_approved(tmp_path, monkeypatch, spoil):
    said = {RATE: rate(100)} if spoil == "failing" else {RATE: rate(270)}
    run = make(tmp_path / "run", said, tier="smoke" if spoil == "smoke" else "full")
    if spoil in ("CI", "PYTEST_XDIST_WORKER"):
        monkeypatch.setenv(spoil, "true")
    if spoil == "changed":
        (run / "run.json").write_text("{}")
    with pytest.raises(HarnessError) as told:
        approve(run, tmp_path / "b", " " if spoil == "why" else "w", claims=["d."] if spoil == "prefix" else [])
    words = {
        "CI": "$CI", "PYTEST_XDIST_WORKER": "$PYTEST", "why": "--why", "smoke": "smoke", "failing": "--even-failing",
        "changed": "run.json: changed", "prefix": "no claim begins with d.",
    }  # fmt: skip
    assert words[spoil] in str(told.value)
    assert not (tmp_path / "b").exists()


def test_a_failing_claim_may_be_approved_as_known_and_an_absent_one_never(tmp_path):
    run = make(tmp_path / "run", {RATE: rate(100), COUNT: "vllm"})
    assert [path.name for path in approve(run, tmp_path / "b", "known", even_failing=True)] == ["c.rate.json"]
    assert held_against(run, baselines.load(tmp_path / "b"))["same"] == 1


def test_files_of_other_makers_and_of_other_lifecycles_are_safe(tmp_path, folder):
    (folder / "G2.json").write_text('{"lifecycle": "l", "rates": {}}')
    assert set(baselines.load(folder)) == {c.id for c in ALL}
    with pytest.raises(HarnessError, match="another maker"):
        approve(make(tmp_path / "g2", {Claim("G2", "t", identical()): count(0)}), folder, "w")
    with pytest.raises(HarnessError, match="approved for lifecycle 'l'"):
        approve(make(tmp_path / "other", ALL, lifecycle="other"), folder, "w")
    assert baselines.load(folder, "other") == {}


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not a baseline"),
        ("[]", "schema 'list'"),
        ('{"claim": {}}', "schema None"),
        ('{"schema": "baseline/9"}', "baseline/9"),
        ('{"schema": "baseline/1", "x": NaN}', "NaN is no number"),
        ("\udcff", "not a baseline"),
    ],
)
def test_a_file_that_is_none_is_named(folder, text, word):
    (folder / "x.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(GoldenError, match=word):
        baselines.load(folder)


def test_an_edit_by_hand_or_under_another_name_is_refused(folder):
    path = baselines.file_of(folder, RATE.id)
    whole = path.read_text()
    path.write_text(whole.replace('"estimate": 0.9', '"estimate": 0.6'))
    with pytest.raises(GoldenError, match="edited after it was approved"):
        baselines.load(folder)
    path.write_text(whole)
    path.rename(folder / "c.else.json")
    with pytest.raises(GoldenError, match=r"belongs into c\.rate\.json"):
        baselines.load(folder)


@pytest.mark.parametrize("key", ["lifecycle", "metric", "verdict", "sharp", "rows", "subjects", "machine", "code", "approved", "claim"])
@pytest.mark.parametrize("value", ["gone", 3, [1], {}])
def test_what_no_approval_wrote_is_refused_before_a_run(folder, key, value):
    path = baselines.file_of(folder, RATE.id)
    body = {k: v for k, v in json.loads(path.read_text()).items() if k != "digest"}
    body = {k: v for k, v in body.items() if k != key} | ({} if value == "gone" else {key: value})
    path.write_bytes(evidence.canonical(baselines.sealed(body)))
    if (key, value) in [("subjects", {}), ("machine", {}), ("code", {})]:
        assert RATE.id in baselines.load(folder)
    else:
        with pytest.raises(GoldenError, match="not what an approval holds"):
            baselines.load(folder)


# --- in a run -----------------------------------------------------------------------------------


def test_recheck_derives_the_changes_again(tmp_path, folder):
    run = make(tmp_path / "new", {**ALL, COUNT: count(1)}, approved=baselines.load(folder))
    assert recheck(run).problems == ()
    path = run / baselines.CHANGES
    said = evidence.read_json(path)
    for forged in ({**said, "changed": []}, {**said, "same": 4}, {**said, "more": 1}, [], {"changed": 3}):
        path.write_bytes(evidence.canonical(forged))
        evidence.seal_bundle(run)
        (problem,) = recheck(run).problems
        assert "changes.json: it cannot be derived again" in problem
    path.write_bytes(evidence.canonical(said).replace(b"{\n", b'{\n "same": 99,\n', 1))  # a key that stands twice
    evidence.seal_bundle(run)
    assert "its form or its keys differ" in recheck(run).problems[0]
    path.unlink()
    evidence.seal_bundle(run)
    assert "missing from the bundle" in recheck(run).problems[0]
    bare = make(tmp_path / "bare", ALL)
    shutil.copy(tmp_path / "bare" / "run.json", bare / baselines.CHANGES)
    evidence.seal_bundle(bare)
    assert "the plan seals no baseline" in recheck(bare).problems[0]


def test_a_hostile_plan_is_a_problem_and_no_crash(tmp_path, folder):
    for hostile in ([1], {"c.rate": 3}, {"c.rate": {"at": None}}, "x"):
        run = make(tmp_path / f"run{len(str(hostile))}", ALL)
        for path in (run / "evidence").glob("*"):
            path.unlink()
        (run / evidence.PLAN).unlink()
        plan = {"tier": "full", "lifecycle": "l", "claims": [], "baselines": hostile}
        evidence.seal_plan(run, plan)
        evidence.write_atomic(run / baselines.CHANGES, b"{}\n")
        evidence.seal_bundle(run)
        assert recheck(run).problems


def test_the_verb(tmp_path, folder, capsys):
    there = ["--baselines", str(folder)]
    good, bad = make(tmp_path / "good", ALL), make(tmp_path / "bad", {**ALL, COUNT: count(1)})
    assert main(["baseline", "check", str(good), *there]) == 0
    assert "4 the same (4 to the row)" in capsys.readouterr().out
    assert main(["baseline", "check", str(bad), *there]) == 1
    assert "worse: c.count" in capsys.readouterr().out
    assert main(["baseline", "check", str(bad), *there, "--claim", "c.rate"]) == 0
    assert main(["baseline", "diff", str(bad), *there]) == 0
    assert "holds -> fails" in capsys.readouterr().out
    assert main(["baseline", "show", *there, "--claim", "c.r"]) == 0
    assert "by Ann: it is good" in capsys.readouterr().out
    assert main(["baseline", "approve", str(bad), *there, "--why", "w"]) == 1
    assert main(["baseline", "approve", str(bad), *there, "--why", "w", "--even-failing", "--by", "Bob"]) == 0
    assert main(["baseline", "check", str(bad), *there]) == 0
    assert main(["baseline", "check", str(tmp_path / "none"), *there]) == 1
    assert main(["baseline", "check", str(good), "--baselines", str(tmp_path / "empty")]) == 1


def test_an_absence_that_was_allowed_by_name_is_no_step_back(tmp_path, folder, capsys):
    run = make(tmp_path / "run", {**ALL, COUNT: "vllm"})
    assert main(["baseline", "check", str(run), "--baselines", str(folder)]) == 1
    evidence.write_atomic(
        run / "run.json", evidence.canonical({"exit_status": 1, "finished": "2026-01-01T00:00:00+00:00", "allowed_missing": ["vllm"]})
    )
    evidence.seal_bundle(run)
    assert main(["baseline", "check", str(run), "--baselines", str(folder)]) == 0
    assert "allowed to be missing: c.count" in capsys.readouterr().out


PROJECT = """
import pytest
from harness import Claim, Measurement, Sample, at_least

@pytest.mark.parametrize("name", ["a", "b"])
@pytest.mark.claim(each=lambda name: Claim(f"c[{name}]", "t", at_least(0.5)))
def test_rate(claim, name):
    claim.check(Measurement("rate", tuple(Sample(f"i{i}", float(i < RIGHT)) for i in range(100))))
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["n0", "n2"])
def test_a_run_of_pytest_seals_baselines_and_tells_what_changed(pytester, workers):
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:benchmark -p no:randomly")
    pytester.makepyfile(test_claims=PROJECT.replace("RIGHT", "95"))
    assert pytester.runpytest_subprocess(*workers, "--run-dir", "old").ret == 0
    approve(pytester.path / "old", pytester.path / "golden" / "baselines", "w", by="Ann")
    pytester.makepyfile(test_claims=PROJECT.replace("RIGHT", "70"))
    result = pytester.runpytest_subprocess(*workers, "--run-dir", "new")
    assert result.ret == 0  # the claims hold; the gate on what was approved is a verb of its own
    result.stdout.fnmatch_lines(["worse: c?a?: *25 fell*", "baseline of 2 claims: 0 the same (0 to the row), 2 worse"])
    assert recheck(pytester.path / "new").problems == ()
    pytester.makepyfile(test_claims=PROJECT.replace("RIGHT", "95").replace('["a", "b"]', '["a"]'))
    result = pytester.runpytest_subprocess(*workers, "--run-dir", "gone")
    assert result.ret == 1  # what was approved is never lost in silence
    result.stdout.fnmatch_lines(["gone: c?b?: no test makes it any more", "orphan * c?b?: a baseline that no test answers to*"])
    run = pytester.path / "gone" / "run.json"
    facts = evidence.read_json(run)
    assert facts["exit_status"] == 1 and recheck(pytester.path / "gone").problems == ()
    run.write_bytes(evidence.canonical({**facts, "exit_status": 0}))
    evidence.seal_bundle(pytester.path / "gone")
    assert any("exit_status" in problem and "c[b]" in problem for problem in recheck(pytester.path / "gone").problems)


def test_part_of_a_run_loses_no_claim_and_smoke_is_held_against_nothing(pytester):
    pytester.makeini("[pytest]\naddopts = -p no:cacheprovider -p no:benchmark -p no:randomly")
    pytester.makepyfile(test_claims=PROJECT.replace("RIGHT", "95"))
    (pytester.path / "golden").mkdir()
    run = make(pytester.path / "old", {Claim("c[b]", "t", at_least(0.5)): rate(95, 100)}, lifecycle=pytester.path.name)
    approve(run, pytester.path / "golden" / "baselines", "w", by="Ann")
    assert pytester.runpytest_inprocess("--run-dir", "part", "-k", "a]").ret == 0
    said = evidence.read_json(pytester.path / "part" / baselines.CHANGES)
    assert (said["whole"], said["gone"], said["not_run"], said["new"]) == (False, [], 1, ["c[a]"])
    assert pytester.runpytest_inprocess("--run-dir", "named", "test_claims.py").ret == 0
    assert evidence.read_json(pytester.path / "named" / evidence.PLAN)["whole"] is False
    assert pytester.runpytest_inprocess("--run-dir", "smoke", "--tier", "smoke").ret == 0
    assert not (pytester.path / "smoke" / baselines.CHANGES).exists()
    (pytester.path / "golden" / "baselines" / "x.json").write_text("{")
    torn = pytester.runpytest_inprocess("--run-dir", "torn")
    assert torn.ret == 4
    torn.stderr.fnmatch_lines(["*x.json: not a baseline*"])
