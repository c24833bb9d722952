"""What judges and raters must show unless the lifecycle file says otherwise. Fixed before data."""

from __future__ import annotations

from harness.evals.judges.calibration import FLOORS

__all__ = ["FLOORS"]

LABELS = 50  # answers that people labelled one way, at least, before a rate is claimed on them
RETEST = 0.08  # labels that change when the same is asked again: 0 of 40 show it
FLIPS = 0.10  # labels that change with length, form or place, and that an answer can demand
OWN = 0.65  # of decisive pairs of equals, those that a judge decides for its own answer
PROBED = 40  # answers that a model is probed on in a smoke run; a rule is always probed on all
LEAST = 40

# The correction, where the truth is known: people labelled everything, and the correction is told of some.
TOLD = 100
CORRECTED = 0.15  # points of the share
DRAWS, COVERED = 200, 0.90  # draws of what it is told, and those whose 95 % interval holds the truth

RATERS = 0.667  # Krippendorff's alpha: below it no conclusion is drawn
GOLD = 0.85  # of clear cases, those that a rater puts on the same side as the two others
CLEAR = 40
