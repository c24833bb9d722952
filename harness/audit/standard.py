"""The checks of an audit, put together from what is known of a dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.audit.characters import Characters
from harness.audit.duplicates import Conflicts, Duplicates
from harness.audit.language import Language
from harness.audit.leakage import Leakage, References
from harness.audit.lengths import Lengths
from harness.audit.model import Check
from harness.audit.near import Near
from harness.audit.outliers import Outliers
from harness.audit.preferences import Preferences
from harness.audit.private import Private
from harness.audit.schema import Schema
from harness.audit.sensitive import Sensitive
from harness.audit.splits import Splits

__all__ = ["MANY", "Known", "checks"]

MANY = 200_000  # rows from which token counts and languages are taken of a sample


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a dataset beside its rows; what is not known is not asked.

    ``apart_from``: sets that no row may leak into. ``tokenizer``: the folder of the tokenizer that reads the rows, in
    ``context`` tokens, each prompt put into ``prompt``. ``splits``: indices of files by split. ``rules``: a gitleaks.toml.
    ``many``: whether there are so many rows that tokens and languages are taken of a sample.
    """

    apart_from: tuple[References, ...] = ()
    tokenizer: Path | None = None
    context: int = 2048
    prompt: str = "{input}"
    splits: Mapping[str, Sequence[int]] | None = None
    languages: tuple[str, ...] = ()
    rules: Path | None = None
    many: bool = False


def checks(known: Known) -> list[Check]:
    """Every check that can be asked."""
    rate = 1 / 64 if known.many else 1.0
    asked: list[Check] = [
        Schema(), Characters(), Duplicates(), Conflicts(), Near(), Private(rules=known.rules), Sensitive(), Outliers(), Preferences(),
        Language(languages=known.languages, rate=rate),
        Lengths(tokenizer=known.tokenizer, context=known.context, prompt=known.prompt, rate=rate),
    ]  # fmt: skip
    if known.splits:
        asked.append(Splits.of(known.splits))
    if known.apart_from:
        asked.append(Leakage(known.apart_from))
    return asked
