"""Judges of answers: frozen by digest, calibrated on people's labels, probed for biases; and people's own labelling."""

from harness.evals.judges.calibration import Calibration, calibrate
from harness.evals.judges.model import Answer, Judge, Pair, digest, parse

__all__ = ["Answer", "Calibration", "Judge", "Pair", "calibrate", "digest", "parse"]
