"""Proof that the statistics are right: size, power and coverage, by enumeration and by seeded simulation.

Two efforts, one set of tests. ``tox run -e statistics`` runs all of it and writes the tables of
``reports/statistics/``; the ordinary selftests run a sample of it and derive rows of those tables again.
"""
