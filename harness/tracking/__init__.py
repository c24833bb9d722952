"""Experiment tracking: a run into MLflow's own database in a folder, offline; read back, and held against the files.

The run's evidence stays what counts: what is logged is a copy for those who look in MLflow, and ``differences`` says whether it
is one. Promotion gives an alias to the build whose release verdict holds, and to no other.

The extra ``track`` brings MLflow (mlflow-skinny, SQLAlchemy, Alembic). Nothing is sent anywhere: no server, no telemetry.
"""

from __future__ import annotations

from harness.tracking.logged import Difference, Logged, differences, of_bundle
from harness.tracking.registry import Promoted, chosen_digest, content_digests, promotable
from harness.tracking.store import Tracker

__all__ = [
    "Difference", "Logged", "Promoted", "Tracker", "chosen_digest", "content_digests", "differences", "of_bundle", "promotable",
]  # fmt: skip
