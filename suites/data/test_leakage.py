"""D2: nothing that is trained on stands in what is evaluated with."""

from __future__ import annotations

import pytest

from harness import Claim, Control, Measurement, Sample, identical

pytestmark = pytest.mark.data


def _claim(apart: str, golden_set: str) -> Claim:
    text = f"no item of {golden_set} stands in {apart}: as a whole, nearly, or by eight words in a row"
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
    """A Sample for each item that leaked, with the row it stands in; one for all the others: the clean subset."""
    import pyarrow.compute as pc

    found = audit.reports["leakage"].findings
    found = found.filter(pc.starts_with(found.column("item"), f"{golden_set}/"))
    items: dict[str, list[dict[str, object]]] = {}
    for row in found.select(["item", "kind", "row", "num", "den", "detail"]).to_pylist():
        items.setdefault(row.pop("item"), []).append(row)
    samples = [Sample(item, 0.0, detail=_told(audit, rows)) for item, rows in sorted(items.items())]
    summary = audit.reports["leakage"].summary
    clean = summary["sets"][golden_set]["clean"]
    if clean:
        samples.append(Sample("items that no row touches", 1.0, weight=float(clean)))
    told = {"golden": bench.whole_set(golden_set).digest, "rows": audit.rows.n, "leakage": summary}
    return Measurement("leaked_items", tuple(samples), (bench.data.subject(apart),), told)


def _told(audit, rows) -> dict[str, object]:
    """Where an item leaked, by its first row, and how that was proven."""
    first = rows[0]
    line = int(audit.rows.line[first["row"]])
    return {"proof": first["kind"], "line": line, "score": f"{first['num']}/{first['den']}", "rows": len(rows)}
