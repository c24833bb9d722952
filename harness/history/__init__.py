"""Runs beside runs: what changed over many of them, and what a person approved of one.

    reading    a run's folder as one record
    index      SQLite, made from the folders at any time, so that they are not read each time
    trends     one claim over many runs: its estimates in order of time, and where they changed
    flaky      claims that came out differently where nothing they depend on did
    page       the trends as one HTML file
    command    the verb ``history``
    approval   the verb ``baseline``: approve a run's evidence, and hold another run against it

Evidence is the database: all here is read from the folders of runs.
"""

from __future__ import annotations

from harness.history.trends import History, Point, histories, lines

__all__ = ["History", "Point", "histories", "lines"]
