"""What other tools read of a run: CTRF, JUnit, an in-toto statement, SARIF of the data, a model card.

Standard library only. Each is a pure function of a run that was derived again first (``bundle``): the same bundle gives the
same bytes, whoever exports it and when. Nothing here decides; that a claim gates is the rule of the exit status.
"""

from __future__ import annotations

from harness.report.exports.bundle import Bundle, of_evidence, opened, standing
from harness.report.exports.ctrf import ctrf
from harness.report.exports.intoto import in_toto
from harness.report.exports.junit import junit
from harness.report.exports.sarif import sarif

__all__ = ["Bundle", "ctrf", "in_toto", "junit", "of_evidence", "opened", "sarif", "standing"]
