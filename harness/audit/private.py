"""Personal data and secrets: every finding verified, none of them shown.

E-mail addresses, telephone numbers, payment cards, bank accounts, national identity numbers, network addresses, wallets
(``identifier``); keys, tokens, passwords (``secret``). A finding names the kind, the message and the bytes; its detail tells the shape
alone. The search is made on distinct texts: fixed words by hyperscan (``literals``), runs of digits in machine code, and Python sees
only what they found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from harness.audit.identifier import REGIONS, Hit, identifiers
from harness.audit.model import DIGEST, Batch, Group, Report, Rows, digest_array, finding_rows
from harness.audit.secret import SECRETS, Rule, read_rules, search
from harness.errors import AuditError

__all__ = ["Private", "spans"]

FACTS = pa.schema([
    ("text", DIGEST),
    ("hits", pa.list_(pa.struct([
        ("kind", pa.string()), ("start", pa.int64()), ("end", pa.int64()), ("confirmed", pa.bool_()), ("masked", pa.string()),
    ]))),
])  # fmt: skip

NOT_A_DOMAIN = re.compile(rb"(?i)\.(?:png|jpe?g|gif|svg|webp|css|js|ts|py|json|html?|pdf|txt|zip|local|localhost|internal)$")
RESERVED = re.compile(rb"(?i)(?:@|\.)(?:example\.(?:com|net|org|edu)|example|test|invalid)$")  # RFC 2606: nobody's


def _email(match: re.Match[bytes]) -> bool | None:
    if NOT_A_DOMAIN.search(match[0]) or b".." in match[0]:
        return None
    return not RESERVED.search(match[0])


def _possible(match: re.Match[bytes]) -> bool:
    return False


def _insured(match: re.Match[bytes]) -> bool:
    """The prefixes HM Revenue & Customs gives out; NINOs have no check digit."""
    return match[1].upper() not in (b"BG", b"GB", b"KN", b"NK", b"NT", b"TN", b"ZZ")


WORDED = (
    Rule(
        "email",
        re.compile(
            rb"(?<![\w.+%-])[A-Za-z0-9_][\w.+%'-]{0,63}@(?:[A-Za-z0-9\x80-\xff](?:[A-Za-z0-9\x80-\xff-]{0,61}[A-Za-z0-9\x80-\xff])?\.){1,8}"
            rb"[A-Za-z]{2,24}(?![\w-])"
        ),
        ("@",),
        _email,
    ),
    Rule(
        "gb-nino",
        re.compile(rb"(?<!\w)([A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z]) ?\d\d ?\d\d ?\d\d ?[A-D](?!\w)"),
        ("national insurance", "nino", "ni number", "insurance number", "social security"),
        _insured,
    ),
    Rule(
        "passport",
        re.compile(rb"(?i)\b(?:passport|passeport|reisepass|pasaporte|passaporto)[^\n\d]{0,24}?(?<!\w)((?-i:[A-Z]{0,2}\d{6,9}))(?!\w)"),
        ("passport", "passeport", "reisepass", "pasaporte", "passaporto"),
        _possible,
        1,
    ),
)


@cache
def _rules(path: Path | None, digest: str | None) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
    return read_rules(path) if path else ((), ())


@dataclass(frozen=True)
class Private:
    """Personal identifiers and secrets in every message.

    ``regions``: whose national telephone formats count (ISO 3166), most likely first. ``rules``: a gitleaks.toml, its rules beside
    the built-in ones. Raises AuditError for a region or a file that is none.
    """

    regions: tuple[str, ...] = REGIONS
    rules: Path | None = None

    name: ClassVar[str] = "private"
    key: ClassVar[Literal["row", "text"]] = "text"

    @property
    def options(self) -> Mapping[str, Any]:
        return {"regions": list(self.regions), "rules": self._digest()}

    def _digest(self) -> str | None:
        if self.rules is None:
            return None
        try:
            return hashlib.sha256(self.rules.read_bytes()).hexdigest()
        except OSError as e:
            raise AuditError(f"{self.rules}: cannot be read ({e.strerror}); give the rule file of gitleaks, or leave the option out") from e

    def _read(self) -> tuple[tuple[Rule, ...], tuple[str, ...]]:
        return _rules(self.rules, self._digest())

    def partial(self, batch: Batch) -> pa.Table:
        import phonenumbers

        unknown = set(self.regions) - set(phonenumbers.SUPPORTED_REGIONS)
        if unknown:
            raise AuditError(f"regions: {', '.join(sorted(unknown))} unknown; give ISO 3166 codes such as US, DE, BR")
        rules, _ = self._read()
        hits = [*search((*WORDED, *SECRETS, *rules), batch.texts), *identifiers(batch.texts, self.regions)]
        return _facts(spans(hits), batch)

    def finish(self, facts: pa.Table, rows: Rows, group: Group) -> Report:
        """One finding for each identifier and physical row; ``possible`` kinds are named so."""
        lists = facts.column("hits").combine_chunks()
        hits = lists.flatten()
        of: Any = np.repeat(np.arange(len(facts)), np.diff(lists.offsets.to_numpy()))  # the line of facts of each hit
        kind = np.array(hits.field("kind").to_pylist(), dtype=object)
        confirmed = hits.field("confirmed").to_numpy(zero_copy_only=False)
        which, message = rows.holders(facts.column("text").to_numpy()[of])
        entry, physical = rows.copies(rows.row_of[message])
        hit, message = which[entry], message[entry]
        place = message - rows.starts[rows.row_of[message]]
        order = np.lexsort((hits.field("start").to_numpy()[hit], place, physical))
        hit, physical, place = hit[order], physical[order], place[order]
        named = pa.array([k if sure else f"possible {k}" for k, sure in zip(kind, confirmed, strict=True)], pa.string())
        take = pa.array(hit)
        columns = {name: hits.field(field).take(take) for name, field in (("start", "start"), ("end", "end"), ("detail", "masked"))}
        message = np.minimum(place, 2**15 - 1).astype(np.int16)
        findings = finding_rows(self.name, named.take(take), physical, message=message, **columns)
        return Report(findings, {**_counted(kind, confirmed, hit, physical), "texts": len(facts), "rules_left_out": list(self._read()[1])})


def _counted(kind: Any, confirmed: Any, hit: Any, physical: Any) -> dict[str, Any]:
    """Findings and rows by kind, confirmed and possible apart."""
    said: dict[str, Any] = {}
    for name, asked in (("confirmed", True), ("possible", False)):
        chosen = confirmed[hit] == asked if len(hit) else np.zeros(0, bool)
        kinds = sorted(set(kind[hit[chosen]].tolist()))
        said[name] = {
            k: {"findings": int((here := chosen & (kind[hit] == k)).sum()), "rows": len(np.unique(physical[here]))} for k in kinds
        }
        said[f"{name}_rows"] = len(np.unique(physical[chosen]))
    return said


def spans(hits: Sequence[Hit]) -> list[Hit]:
    """Of hits that overlap in a text the longest, then the confirmed, then the first by kind; ordered by place."""
    kept: list[Hit] = []
    by_text: dict[int, list[Hit]] = {}
    for hit in set(hits):
        by_text.setdefault(hit.text, []).append(hit)
    for text in sorted(by_text):
        inside: list[Hit] = []
        reach = -1
        for hit in sorted(by_text[text], key=lambda h: (h.start, h.start - h.end, not h.confirmed, h.kind)):
            if hit.start >= reach:
                inside.append(hit)
                reach = hit.end
            elif hit.end - hit.start > inside[-1].end - inside[-1].start:
                inside[-1] = hit
                reach = hit.end
        kept += inside
    return kept


def _facts(hits: Sequence[Hit], batch: Batch) -> pa.Table:
    numbers, counts = np.unique(np.array([hit.text for hit in hits], dtype=np.int64), return_counts=True)
    offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int32)
    fields = list(FACTS.field("hits").type.value_type)
    values = pa.StructArray.from_arrays([pa.array([getattr(hit, f.name) for hit in hits], f.type) for f in fields], fields=fields)
    lists = pa.ListArray.from_arrays(pa.array(offsets), values, type=FACTS.field("hits").type)
    return pa.Table.from_arrays([digest_array(batch.text_digests[numbers]), lists], schema=FACTS)
