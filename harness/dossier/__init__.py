"""A dossier of a defect: the smallest reproduction, the change that brought it, the proof of both, and a test that stays.

    trials     is the defect here: one run where a run always says the same, else as many as a stated error asks for
    minimal    the fewest pieces that still show it: flags, settings, items of a file (ddmin, Zeller and Hildebrandt 2002)
    bisecting  the first bad of many commits, though a run may lie and some commits cannot be run
    places     each commit in a folder of its own, away from the user's repository
    runs       one command, its outcome, and the book that a killed search goes on from
    questions  what is searched: commits, settings, flags, items
    search     a question -> the record ``dossier.json``: every step, what was found, and what of it was proven (DO1 to DO4)
    pages      the record for people, the script that reproduces it, the regression test

Nothing here decides whether a model is good: it asks a test of the user's, which does.
"""

from __future__ import annotations

from harness.dossier.bisecting import Bisected, bisect
from harness.dossier.minimal import ddmin, most_tests
from harness.dossier.trials import Outcome, Rates, Seen, Trial, calibrated, learnt, tried

__all__ = ["Bisected", "Outcome", "Rates", "Seen", "Trial", "bisect", "calibrated", "ddmin", "learnt", "most_tests", "tried"]
