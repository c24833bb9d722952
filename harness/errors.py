"""Every exception this package raises on purpose.

    HarnessError                 something is wrong, and the message says what to do next
    ├── ClaimError               a claim that cannot be decided by any data (bad margin, bad alpha)
    ├── ConfigError              the lifecycle file or ``--subject`` is wrong
    ├── GoldenError              a golden set differs from what a person approved
    ├── SubjectError             a model file is missing, truncated, not finite, or of another format
    ├── StoreError               an artifact could not be made or kept (full disk, killed maker)
    ├── EvidenceError            a bundle that was changed, or cannot be written
    ├── AuditError               a dataset that cannot be read as one: no file, a wrong format, no rows
    ├── ImportedError            results of another tool that cannot be read, or two runs that are not of the same items
    ├── EngineError              an engine was asked for something it does not do, or died
    │   └── TrainingError        a training run failed; its training.json says of what
    └── MissingNeed              an engine, device or dataset is absent; says how to get it

A message names what was found, where, what was expected, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AuditError",
    "ClaimError",
    "ConfigError",
    "EngineError",
    "EvidenceError",
    "GoldenError",
    "HarnessError",
    "ImportedError",
    "MissingNeed",
    "StoreError",
    "SubjectError",
    "TrainingError",
    "meant_by",
    "nearest",
]


class HarnessError(Exception):
    """The root: catch it to catch everything this package raises on purpose."""


class ClaimError(HarnessError, ValueError):
    """A claim that no data could decide."""


class ConfigError(HarnessError, ValueError):
    """The lifecycle file or a ``--subject`` is wrong."""


class GoldenError(HarnessError, ValueError):
    """A golden set differs from what a person approved."""


class SubjectError(HarnessError, ValueError):
    """A model file is missing, truncated, not finite, or of another format."""


class StoreError(HarnessError, OSError):
    """An artifact could not be made or kept."""


class EvidenceError(HarnessError, ValueError):
    """An evidence bundle was changed, or cannot be written."""


class AuditError(HarnessError, ValueError):
    """A dataset that cannot be audited as a whole. A bad row is a finding, never this."""


class ImportedError(HarnessError, ValueError):
    """Results of another tool that cannot be read, or two of its runs that do not pair."""


class EngineError(HarnessError, RuntimeError):
    """An engine was asked for something it does not do, or died."""


class TrainingError(EngineError):
    """A training run failed: a finding, kept with its cause in ``training.json``."""


class MissingNeed(HarnessError):
    """An engine, device or dataset is absent.

    ``need`` is the name that ``--allow-missing`` takes, ``how`` the way to get it.
    """

    def __init__(self, need: str, why: str, how: str) -> None:
        super().__init__(f"{need}: {why}. To get it: {how}")
        self.need = need
        self.why = why
        self.how = how

    def __reduce__(self) -> tuple[type, tuple[str, str, str]]:  # raised in a worker, it travels to the parent
        return type(self), (self.need, self.why, self.how)


def nearest(word: str, known: list[str]) -> str:
    """A clause for an error message: the nearest known word, and all of them."""
    meant = meant_by(word, known)
    return f"{meant} known: {', '.join(sorted(known)) or 'none'}".lstrip()


def meant_by(word: str, known: Iterable[str]) -> str:
    """A question for an error message: whether the nearest known word was meant; "" where none is near."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else ""
