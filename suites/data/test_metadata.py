"""D9 and R5: it is said what the data are, and they are what it is said of."""

from __future__ import annotations

import hashlib

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from harness.store import digest_file

pytestmark = pytest.mark.data


COMPLETE = {"source": "https://example.org/data", "licence": "MIT", "version": "1.0.0", "changes": "the first version"}


def _described(dataset: str) -> Claim:
    text = f"source, licence, version and change notes of {dataset} are stated, and its digests agree"
    return Claim(f"D9.described[{dataset}]", text, identical())


@pytest.mark.claim(each=_described)
def test_metadata_are_complete(claim, bench, dataset):
    said = bench.data.described(dataset)
    facts = {name: getattr(said, name) for name in COMPLETE}
    claim.check(
        _stated(bench, dataset, facts),
        controls=[
            Control("A/A: a complete description of the same files", ("holds",), _stated(bench, dataset, COMPLETE)),
            *(Control(f"planted: no {name}", ("fails",), _stated(bench, dataset, {**COMPLETE, name: ""})) for name in COMPLETE),
        ],
    )


def _stated(bench, dataset: str, facts: dict[str, str]) -> Measurement:
    """A Sample for each fact that must be stated, one for each that the metadata lack or contradict."""
    from harness.audit import croissant, manifest

    audit = bench.data.audit(dataset)
    source = tuple(filter(None, [facts["source"]]))
    card = croissant.Card(dataset, dataset, facts["licence"], facts["version"], source, facts["changes"])
    lacking = croissant.missing(croissant.build(card, audit.rows, manifest.Manifest.of(audit.rows)))
    lacking = [what for what in lacking if what.partition(":")[0] not in (*COMPLETE, "change notes")]  # those are facts
    stated = [
        Sample(
            name if value else f"{name} is not stated; write it under [data.{dataset}]", float(bool(value)), detail={"stated": value[:200]}
        )
        for name, value in facts.items()
    ]
    samples = (*stated, *(Sample(f"metadata: {what}", 0.0) for what in lacking))
    return Measurement("metadata", samples, (bench.data.subject(dataset),), {"dataset": dataset})


def _same_bytes(dataset: str) -> Claim:
    return Claim(f"R5.bytes[{dataset}]", f"the {dataset} that is named, the one audited and the one used are the same bytes", identical())


@pytest.mark.claim(each=_same_bytes)
def test_named_used_and_audited_are_the_same_bytes(claim, bench, dataset):
    spec, said = bench.data.spec(dataset), bench.data.described(dataset)
    there = {path.name: digest_file(path) for path in said.files}
    told = {f"declared: {name}": (digest, there[name]) for name, digest in said.sha256.items()}
    if spec.used_by:
        name = said.files[0].name
        told[f"trained on: {name}"] = bench.subject(spec.used_by).detail.get("training_rows", ""), there[name]
    told |= {f"rows as audited: {name}": pair for name, pair in _rows_of(bench.data.audit(dataset)).items()}

    def measured(pairs: dict[str, tuple[str, str]]) -> Measurement:
        samples = [
            Sample(what, float(digest == found), detail={"sha256": digest, "found": found}) for what, (digest, found) in pairs.items()
        ]
        return Measurement("bytes", tuple(samples), (bench.data.subject(dataset),), {"dataset": dataset})

    same = {what: (found, found) for what, (_, found) in told.items()}
    other = {what: (hashlib.sha256(found.encode()).hexdigest(), found) for what, (_, found) in told.items()}
    claim.check(
        measured(told),
        controls=[
            Control("A/A: what is there against itself", ("holds",), measured(same)),
            Control("planted: digests of other bytes", ("fails",), measured(other)),
        ],
    )


def _rows_of(audit) -> dict[str, tuple[str, str]]:
    """By file the digest over the digests of its rows: when they were audited, and read again now."""
    from harness.audit import rows

    found = {}
    for number, path in enumerate(audit.dataset.files):
        audited = audit.rows.digests[audit.rows.unique[audit.rows.file == number]]
        now = hashlib.sha256()
        for chunk in rows.read([path]):
            now.update(chunk.digests.tobytes())
        found[path.name] = hashlib.sha256(audited.tobytes()).hexdigest(), now.hexdigest()
    return found
