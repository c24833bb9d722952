"""D3: rows fit the context of the model that reads them."""

from __future__ import annotations

import pytest

from harness import Claim, at_most
from suites.data import checks, margins

pytestmark = pytest.mark.data

KINDS = {"lengths": ("over_context", "answer_truncated")}


def _claim(read: str) -> Claim:
    text = f"of the rows of {read} at most {margins.TRUNCATED:.0%} are longer, in tokens and template, than the context of their reader"
    return Claim(f"D3.context[{read}]", text, at_most(margins.TRUNCATED), estimand="exact_share")


@pytest.mark.claim(each=_claim)
def test_rows_fit_the_context(claim, bench, read):
    bench.path(bench.data.spec(read).tokenizer)  # without it there are no tokens to count
    claim.check(checks.measured(bench, read, KINDS, share=True), controls=checks.controls(bench, read, KINDS, share=True))
