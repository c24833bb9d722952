"""Other people's evaluations: their tasks through our engines, their results through our judge.

``read`` takes what lm-eval, Inspect, promptfoo and DeepEval write and gives Samples of one shape;
``compared`` pairs two such runs by content, ready for an exact paired claim.
``harness.evals.bridge.lmeval.run`` runs lm-eval tasks on any engine of ours.
"""

from __future__ import annotations

from harness.evals.bridge.imported import Imported, compared
from harness.evals.bridge.read import read

__all__ = ["Imported", "compared", "read"]
