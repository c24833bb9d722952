"""minimal"""
from __future__ import annotations
from html import escape
from harness.report.view import RunView, release
from harness.report.text import clean
__all__ = ["render"]


def render(run: RunView) -> str:
    """The page."""
    rows = "".join(
        f"<tr><td>{escape(c.outcome)}</td><td>{escape(clean(c.id))}</td><td>{escape(clean(c.sentence))}</td></tr>" for c in run.claims
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>report</title><h1>{escape(clean(release(run)))}</h1><table>{rows}</table>"
    )
