"""Which finding keeps its row out of training, and what each kind means: one table."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from harness.audit import characters, schema
from harness.errors import AuditError, nearest

__all__ = ["POLICY", "PRIVATE", "RULES", "action", "blocking", "help_of", "policy_of"]

ACTIONS = ("block", "remark")

RULES: Mapping[str, tuple[str, str]] = {
    "*": ("block", "A finding of a check that has no entry of its own. It blocks, so that nothing passes in silence."),
    "schema": ("block", "The row breaks a rule that readers and templates rely on. Mend the row; the detail says what was expected."),
    "characters": ("block", "A text holds characters that are damage, or act, or hide. Write it again from its source."),
    "duplicates": ("block", "The conversation was there before. The first row stays; this one weighs it twice in training."),
    "near": ("block", "Nearly an earlier row: score is the exact Jaccard index of their word shingles. The earlier row stays."),
    "conflicts": ("block", "One prompt has different answers, so that no model can learn it. Decide for one, or make the prompts differ."),
    "conflicts.conflict_form": ("remark", "One prompt has answers that differ in case, punctuation or spacing alone. Settle on one."),
    "leakage": ("block", "The row holds an item of a set that it must stay apart from; what is measured on that item is memory."),
    "leakage.8-gram": ("remark", "Eight words of an item in a row are in the row: often a phrase, now and then a leak. Read both."),
    "splits": ("block", "A row, or the document or user it belongs to, is in two splits. Move the whole group to one of them."),
    "private": (
        "block",
        "A personal identifier or a secret, confirmed by checksum or context. Remove it; revoke a secret, it is known now.",
    ),
    "private.possible": ("remark", "It has the shape of a personal identifier or a secret, and nothing around confirms it. Look at it."),
    "sensitive": ("remark", "A word of a list, or a score of a classifier, that calls for a look. The row may well be meant."),
    "outliers": ("remark", "The text is far from the others by a robust measure. Read it: it may be a dump, a table or a fault."),
    "language": ("remark", "The text is in another language than most, or than was declared. Decide whether it belongs."),
    "lengths": ("remark", "The row is longer or shorter than others, or than was declared. Decide whether it belongs."),
    "lengths.over_context": ("block", "The row does not fit the context of the model and would be cut. Shorten or split it."),
    "lengths.answer_truncated": ("block", "The answer would be cut, and a model learn to stop in the middle. Shorten or split the row."),
    "preferences": ("block", "The pair says nothing about which answer is better, or says it of another prompt. Mend or drop it."),
    "preferences.flipped": ("remark", "The same two answers are ranked the other way elsewhere. Have a person settle it."),
}
"""check.kind, or a check, or "*": (block or remark, what it means and what to do)."""

_ACTION = {"violation": "block", "remark": "remark"}

POLICY: Mapping[str, str] = {name: rule[0] for name, rule in RULES.items()} | {
    f"{check}.{kind}": _ACTION[grave]
    for check, kinds in (("schema", schema.KINDS), ("characters", characters.KINDS))
    for kind, grave in kinds.items()
}
"""What is done if a project says nothing else. Kinds that their check calls a remark are one."""

PRIVATE: tuple[str, ...] = ("private",)
"""Checks whose findings say that the row itself must not be shown."""


def policy_of(own: Mapping[str, str], checks: Collection[str]) -> dict[str, str]:
    """POLICY with a project's own entries over it. ``checks`` are the names of those that run; AuditError for any other name."""
    known = sorted({name.partition(".")[0] for name in RULES} | set(checks))
    for name, what in own.items():
        if name.partition(".")[0] not in known:
            raise AuditError(f"policy {name!r}: no such check; {nearest(name.partition('.')[0], known)}. Write check.kind, a check, or *")
        if what not in ACTIONS:
            raise AuditError(f"policy {name!r} = {what!r}: expected one of {', '.join(ACTIONS)}")
    return {**POLICY, **own}


def _entry(table: Mapping[str, Any], name: str) -> Any:
    """The entry of check.kind, else of check.(first word of kind), else of the check, else of "*"."""
    for key in (name, name.partition(" ")[0], name.partition(".")[0], "*"):
        if key in table:
            return table[key]
    return None


def action(policy: Mapping[str, str], name: str) -> str:
    """block or remark, for check.kind. What no entry covers blocks."""
    return _entry(policy, name) or "block"


def help_of(name: str) -> str:
    """What a finding of check.kind means and what to do."""
    return str(_entry(RULES, name)[1])


def names(findings: pa.Table) -> Any:
    """check.kind of each finding, dictionary-encoded."""
    if not findings.num_rows:
        return pa.array([], pa.string()).dictionary_encode()
    joined = pc.binary_join_element_wise(
        findings.column("check"), findings.column("kind"), ".", null_handling="replace", null_replacement=""
    )
    return joined.combine_chunks().dictionary_encode() if isinstance(joined, pa.ChunkedArray) else joined.dictionary_encode()


def blocking(findings: pa.Table, policy: Mapping[str, str]) -> Any:
    """bool[n]: which findings keep their row out."""
    coded = names(findings)
    blocks = np.array([action(policy, name) == "block" for name in coded.dictionary.to_pylist()], bool)
    return blocks[coded.indices.to_numpy()] if len(blocks) else np.zeros(0, bool)
