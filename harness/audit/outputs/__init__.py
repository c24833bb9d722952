"""What an audit leaves for others to read: rows that pass, rows that do not and why, findings for spreadsheets and for code hosts.

    clean.jsonl      rows that may be trained on, their bytes as they were
    blocked.jsonl    the others, each with its reasons; never with personal data or a secret
    findings.csv     every finding, safe to open in a spreadsheet
    findings.jsonl.gz  the same for programs
    findings.sarif   the same for code hosts and editors (SARIF 2.1.0), at most 25,000 and saying of how many

Each is a pure function of rows and findings: equal audits leave equal bytes. Each appears under its name whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from harness.audit.baseline import Settled
from harness.audit.model import Rows
from harness.audit.outputs.policy import POLICY, PRIVATE, RULES, action, blocking, help_of, policy_of
from harness.audit.outputs.sarif import LIMIT, sarif
from harness.audit.outputs.split import Chunk, Split, split
from harness.audit.outputs.tables import located, write_csv, write_jsonl
from harness.audit.writing import whole

__all__ = [
    "LIMIT", "POLICY", "PRIVATE", "RULES", "Split", "action", "blocking", "help_of", "located", "policy_of", "sarif", "split", "write_csv",
    "write_jsonl", "write_outputs",
]  # fmt: skip


def write_outputs(
    folder: Path,
    rows: Rows,
    findings: pa.Table,
    chunks: Iterable[Chunk],
    *,
    settled: Settled | None = None,
    policy: Mapping[str, str] = POLICY,
    private: Iterable[str] = PRIVATE,
    version: str = "0",
) -> dict[str, Any]:
    """Writes all five files into ``folder`` and returns what was written, as JSON.

    ``chunks`` reads the audited files again (``rows.read(files)``); AuditError if they changed since. A waived finding does
    not block its row; a finding that the baseline knows does. ``version`` is that of this package, for the SARIF file.
    """
    findings = findings.combine_chunks()
    table = located(rows, findings, settled)
    write_csv(folder / "findings.csv", table)
    write_jsonl(folder / "findings.jsonl.gz", table)
    with whole(folder / "findings.sarif") as stream:
        stream.write(sarif(rows, findings, settled=settled, policy=policy, version=version))
    made = split(rows, findings, chunks, folder / "clean.jsonl", folder / "blocked.jsonl", settled=settled, policy=policy, private=private)
    return {"findings": findings.num_rows, "sarif_shown": min(LIMIT, findings.num_rows), **made.to_dict()}
