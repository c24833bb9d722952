"""A defence: what a report claims is measured again, and old and new are set beside each other, claim by claim.

    kept      what a run left of each claim: its record and its rows
    clone     the repository at the commit of the report, in a folder of its own
    rerun     pytest there, on measurements of its own, restricted to what is asked for
    beside    old beside new: ``agrees``, ``differs within explainable variance``, ``contradicts``, ``not rerun``
    page      ``defence.html``: one page that stands alone
    command   ``python -m harness defend REPORT``

``recheck`` derives verdicts from a bundle's own rows; whoever seals a bundle anew can make those too. A defence asks whether
the rows come out again. What differs is explained only by what was declared before: the limit that R3 sets to flips between
two runs of the same subject, and the interval of the claim. Everything else contradicts.
"""

from __future__ import annotations

__all__: list[str] = []
