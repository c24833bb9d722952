"""What other tools read of a run: CTRF, JUnit, an in-toto statement, SARIF of the data, a model card.

Standard library only. Each is a pure function of a run that was derived again first (``bundle``): the same bundle gives the
same bytes, whoever exports it and when. Nothing here decides; that a claim gates is the rule of the exit status.
"""

from __future__ import annotations

from harness.errors import EvidenceError
from harness.report.exports.bundle import Bundle, of_evidence, opened, seal, standing
from harness.report.exports.card import card as rendered
from harness.report.exports.card import chosen
from harness.report.exports.card_reader import Checked, checked, title
from harness.report.exports.ctrf import ctrf
from harness.report.exports.intoto import in_toto
from harness.report.exports.junit import junit
from harness.report.exports.sarif import sarif

__all__ = ["Bundle", "Checked", "card", "chosen", "ctrf", "in_toto", "junit", "of_evidence", "opened", "read", "sarif", "seal", "standing"]


def card(bundle: Bundle, name: str) -> bytes:
    """The card of a model of the run, read again and held against its evidence; EvidenceError where they differ."""
    made = rendered(bundle, name)
    wrong = [one for one in checked(made.decode(), bundle.path, name) if not one.equal]
    if wrong:
        raise EvidenceError(f"the card of {name} does not say what its evidence says ({wrong[0]}); it is not written. Please report this")
    return made


def read(bundle: Bundle, text: str) -> list[Checked]:
    """What a card says, against the evidence of the run; the model is the one in its title."""
    return checked(text, bundle.path, title(text))
