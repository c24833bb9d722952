"""TR1, TR2: the run that was logged is the run that was done, and what was promoted is what passed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from harness import Claim, Control, Measurement, Sample, Subject, identical, tracking
from harness.errors import EvidenceError
from harness.report.exports.bundle import subjects
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.track

ALIAS = "released"


@pytest.fixture(scope="module")
def logged(evidences, tmp_path_factory):
    """(the evidence, its subject, what is to be logged, MLflow in a folder, its id of the run that was logged there)."""
    bundle, here = evidences.released()
    done = tracking.of_bundle(bundle)
    tracker = tracking.Tracker(tmp_path_factory.mktemp("track") / "tracking")
    run_id = tracker.log(bundle.path, done, experiment=bundle.run.lifecycle or "harness", name="run")
    yield bundle, Subject("run", "evidence", "this run" if here else "reports/example", bundle.run.plan_digest), done, tracker, run_id
    tracker.close()


TEXT = "parameters, data hashes, metrics with their intervals and files of the run in MLflow are those of its evidence"


@pytest.mark.claim(Claim("TR1.logged", TEXT, identical(), min_n=10))
def test_the_run_that_was_logged_is_the_run_that_was_done(claim, logged):
    _, subject, done, tracker, run_id = logged
    read = tracker.read(run_id)

    def measure(there: tracking.Logged) -> Measurement:
        differ = {one.item: str(one) for one in tracking.differences(done, there)}
        kinds = (("parameter", done.params, there.params), ("metric", done.metrics, there.metrics), ("file", done.files, there.files))
        items = [f"{kind} {name}" for kind, ours, theirs in kinds for name in sorted({*ours, *theirs})]
        rows = tuple(Sample(item, float(item not in differ), detail={"differs": differ[item]} if item in differ else {}) for item in items)
        return Measurement("differences", rows, (subject,), {"store": "mlflow", "status": tracker.status(run_id)})

    metric, param, file = (sorted(of)[0] for of in (read.metrics, read.params, read.files))
    tracker.overwrite(run_id, metric, done.metrics[metric][0] + 1e-9)
    claim.check(
        measure(read),
        controls=[
            Control("A/A: read as it was written", HOLDS, measure(done)),
            Control("planted in MLflow: a metric logged again, off by 1e-9", FAILS, measure(tracker.read(run_id))),
            Control("planted: a parameter left out", FAILS, measure(replace(read, params=_without(read.params, param)))),
            Control("planted: a file of other bytes", FAILS, measure(replace(read, files={**read.files, file: "0" * 64}))),
            Control("planted: a file that nobody made", FAILS, measure(replace(read, files={**read.files, "more": "0" * 64}))),
        ],
    )


def _without(of, name: str) -> dict[str, str]:
    return {key: value for key, value in of.items() if key != name}


@pytest.mark.claim(
    Claim(
        "TR2.promoted",
        "a build is promoted if and only if its release holds, under the digest every claim on it was measured on",
        identical(),
    )
)
def test_what_was_promoted_is_what_passed(claim, logged):
    bundle, subject, _, tracker, run_id = logged
    builds = sorted(bundle.run.releases)
    for build in builds:
        _promote(bundle, tracker, run_id, build)

    def measure(versions: dict[str, tuple[str, dict[str, str]] | None]) -> Measurement:
        rows = [sample for build in builds for sample in _told(bundle, build, versions[build])]
        return Measurement("promotions", tuple(rows), (subject,), {"store": "mlflow", "alias": ALIAS})

    there = {build: tracker.aliased(build, ALIAS) for build in builds}
    ought = {build: ("1", _tags(bundle, build)) if _passed(bundle, build) else None for build in builds}
    controls = [Control("A/A: what ought to be promoted", HOLDS, measure(ought))]
    for build in builds:
        if _passed(bundle, build):
            other = ("1", {**_tags(bundle, build), "sha256": "0" * 64})
            controls.append(Control(f"planted: {build} registered with other bytes", FAILS, measure({**there, build: other})))
        else:
            version = tracker.register(build, run_id, {**_tags(bundle, build), "release": "holds"})
            tracker.alias(build, ALIAS, version)  # past the gate, by hand
            planted = {**there, build: tracker.aliased(build, ALIAS)}
            controls.append(Control(f"planted in MLflow: {build} promoted by hand", FAILS, measure(planted)))
    claim.check(measure(there), controls=controls)


def _promote(bundle, tracker, run_id: str, build: str) -> None:
    try:
        passed = tracking.promotable(bundle, build)
    except EvidenceError:
        return  # refused: the claim looks whether that was right
    tracker.alias(build, ALIAS, tracker.register(build, run_id, passed.tags))


def _passed(bundle, build: str) -> bool:
    return bundle.run.releases[build]["outcome"] == "holds" and not bundle.run.smoke


def _digests(bundle, build: str) -> Sequence[str]:
    """What engines and servers had before them whenever this build was measured."""
    return sorted({one["digest"] for one in subjects(bundle) if one["name"] == build})


def _tags(bundle, build: str) -> dict[str, str]:
    digests = _digests(bundle, build)
    return {"build": build, "sha256": digests[0] if digests else "", "release": "holds", "seal": bundle.seal}


def _told(bundle, build: str, version: tuple[str, dict[str, str]] | None) -> list[Sample]:
    passed = _passed(bundle, build)
    rows = [Sample(f"{build}: promoted", float((version is not None) == passed), detail={"passed": passed})]
    if version is not None:
        digests = list(_digests(bundle, build))
        rows.append(Sample(f"{build}: registered bytes are the measured ones", float(digests == [version[1].get("sha256")])))
        rows.append(Sample(f"{build}: its tags", float(version[1] == _tags(bundle, build))))
    return rows
