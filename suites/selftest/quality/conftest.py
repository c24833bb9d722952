"""How much is simulated, and where the tables lie."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

TABLES = Path(__file__).parents[3] / "reports" / "statistics"


@dataclass(frozen=True)
class Effort:
    """All of a simulation, or a sample of it."""

    full: bool

    def replicates(self, full: int, sampled: int) -> int:
        """How many replicates this run makes."""
        return full if self.full else sampled

    def write(self, name: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Keeps the table as ``reports/statistics/NAME.csv``; only a full run may."""
        if not self.full:
            return
        TABLES.mkdir(parents=True, exist_ok=True)
        with (TABLES / f"{name}.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)

    def read(self, name: str) -> list[dict[str, str]]:
        """The committed table."""
        with (TABLES / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))


@pytest.fixture(scope="session")
def effort() -> Effort:
    """HARNESS_STATISTICS=full (set by ``tox run -e statistics``) asks for all of it."""
    return Effort(os.environ.get("HARNESS_STATISTICS") == "full")
