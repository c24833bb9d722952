"""D2: nothing that is trained on stands in what is evaluated with."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from suites.data import checks

pytestmark = pytest.mark.data


def _claim(apart: str, golden_set: str) -> Claim:
    text = f"no item of {golden_set} stands in {apart}: as a whole, nearly, or by thirteen words in a row"
    return Claim(f"D2.leakage[{apart},{golden_set}]", text, identical())


@pytest.mark.claim(each=_claim)
def test_no_golden_item_is_trained_on(claim, bench, apart, golden_set):
    proof = bench.data.proof(apart)
    claim.check(
        _items(bench, bench.data.audit(apart), apart, golden_set),
        controls=[
            Control("A/A: the clean twin, audited again", ("holds",), _items(bench, proof.twin, apart, golden_set)),
            Control("planted: items of the set in a copy of the twin", ("fails",), _items(bench, proof.planted, apart, golden_set)),
        ],
    )


def _items(bench, audit, apart: str, golden_set: str) -> Measurement:
    """A Sample for each item that leaked, with the first row it stands in; one for all the others: the clean subset.

    Eight words in a row are listed in the summary and prove nothing: in real data they are phrases.
    """
    import pyarrow.compute as pc

    report = audit.reports["leakage"]
    found = checks.blocking(bench, apart, report.findings)
    found = found.filter(pc.starts_with(found.column("item"), f"{golden_set}/"))
    items: dict[str, list[dict[str, object]]] = {}
    for row in found.select(["item", "kind", "row", "num", "den"]).to_pylist():
        items.setdefault(row.pop("item"), []).append(row)
    samples = [Sample(item, 0.0, detail=_told(audit, rows)) for item, rows in sorted(items.items())]
    clean = report.summary["sets"][golden_set]["items"] - len(items)
    if clean:
        samples.append(Sample("items that no row holds", 1.0, weight=float(clean)))
    told = {
        "golden": bench.whole_set(golden_set).digest,
        "dataset": apart,
        "rows": audit.rows.n,
        "leakage": report.summary,
        "findings": checks.by_kind(bench, apart, audit, {"leakage": None}),
    }
    return Measurement("leaked_items", tuple(samples), (bench.data.subject(apart),), told)


def _told(audit, rows) -> dict[str, object]:
    """Where an item leaked, by its first row, and how that was proven."""
    first = rows[0]
    place = f"{Path(audit.rows.files[audit.rows.file[first['row']]]).name}:{audit.rows.line[first['row']]}"
    return {"proof": first["kind"], "line": place, "score": f"{first['num']}/{first['den']}", "rows": len(rows)}
