"""What claims are measured on: findings as samples; as controls the same audit of a clean twin and of a planted copy."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from harness import Control, Measurement

Kinds = Mapping[str, Collection[str] | None]
"""The checks a claim rests on, and of each the kinds (None: all of them)."""


def measured(bench, dataset: str, kinds: Kinds, *, share: bool = False) -> Measurement:
    """The rows of a dataset by whether one of these findings names them; those that a baseline or a waiver covers are told apart."""
    import pyarrow as pa

    from harness.audit.samples import per_row

    audit = bench.data.audit(dataset)
    settled = bench.data.settled(dataset, audit)
    fresh = _counted(bench, dataset, kinds, audit.findings.filter(pa.array(settled.new)))
    old = _counted(bench, dataset, kinds, audit.findings.filter(pa.array(~settled.new)))
    only_old = set(old.column("row").to_pylist()) - set(fresh.column("row").to_pylist())
    samples = per_row(audit, fresh, flagged=float(share), known=len(only_old))
    told = {"dataset": dataset, "rows": audit.rows.n, "read": audit.summaries["read"], "findings": by_kind(bench, dataset, audit, kinds)}
    told |= {name: audit.summaries[name] for name in kinds if name in audit.reports}
    if bench.data.spec(dataset).baseline or bench.data.spec(dataset).waivers:
        told["settled"] = settled.to_dict()
    return Measurement(_metric(kinds), samples, (bench.data.subject(dataset),), told)


def controls(bench, dataset: str, kinds: Kinds, *, share: bool = False) -> list[Control]:
    """The clean twin must pass, the copy with planted defects must not."""
    from harness.audit.samples import per_row

    proof = bench.data.proof(dataset)
    damaged = proof.flooded if share else proof.planted

    def seen(audit) -> Measurement:
        samples = per_row(audit, _counted(bench, dataset, kinds, audit.findings), flagged=float(share))
        return Measurement(_metric(kinds), samples, (), {"rows": audit.rows.n})

    return [
        Control("A/A: the clean twin, audited again", ("holds",), seen(proof.twin)),
        Control("planted: known defects in a copy of the twin", ("fails",), seen(damaged)),
    ]


def by_kind(bench, dataset: str, audit, kinds: Kinds) -> dict[str, dict[str, object]]:
    """Of each kind how many findings there are, in how many rows, and whether it keeps them out."""
    from harness.audit import outputs
    from harness.audit.samples import wanted

    found = wanted(audit.findings, kinds).group_by(["check", "kind"]).aggregate([("row", "count"), ("row", "count_distinct")])
    counted = {f"{said['check']}.{said['kind']}": said for said in found.to_pylist()}
    policy = bench.data.policy(dataset)
    return {
        name: {"findings": said["row_count"], "rows": said["row_count_distinct"], "action": outputs.action(policy, name)}
        for name, said in sorted(counted.items())
    }


def blocking(bench, dataset: str, findings):
    """The findings that keep a row out: a remark never fails a claim."""
    import pyarrow as pa

    from harness.audit import outputs

    return findings.filter(pa.array(outputs.blocking(findings, bench.data.policy(dataset))))


def _counted(bench, dataset: str, kinds: Kinds, findings):
    from harness.audit.samples import wanted

    return blocking(bench, dataset, wanted(findings, kinds))


def _metric(kinds: Kinds) -> str:
    return "findings of " + ", ".join(kinds)
