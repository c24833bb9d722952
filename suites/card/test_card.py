"""W1: a model's card says what its evidence says, all of it, and nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pytest

from harness import Claim, Control, Measurement, Sample, identical
from harness.errors import MissingNeed
from harness.report.exports.card import card
from harness.report.exports.card_reader import Checked, checked
from suites.controls import FAILS, HOLDS

pytestmark = pytest.mark.card


def _card(carded: str) -> Claim:
    text = f"every number on the card of {carded} equals its evidence; no section and no claim about it is left out"
    return Claim(f"W1.card[{carded}]", text, identical(), min_n=50)


@pytest.mark.claim(each=_card)
def test_the_card_says_what_the_evidence_says(claim, evidences, carded):
    there = evidences.of(carded)
    text = card(there.bundle, carded).decode()

    def measure(said: str) -> Measurement:
        found = [*checked(said, there.bundle.path, carded), *_as_hubs_read_it(said, carded)]
        return Measurement("mismatches", tuple(_rows(found)), (there.subject,), {"card": "rendered from evidence"})

    claim.check(
        measure(text),
        controls=[
            Control("A/A: the same card, read again", HOLDS, measure(text.encode().decode())),
            Control("planted: one digit of an estimate", FAILS, measure(_other_digit(text))),
            Control("planted: one digit in the front matter", FAILS, measure(_other_metric(text))),
            Control("planted: the numbers of one claim beside another", FAILS, measure(_swapped(text))),
            Control("planted: a claim left out", FAILS, measure(_without_claim(text))),
            Control("planted: no section on risks", FAILS, measure(_without_section(text, "Risks"))),
            Control("planted: a number typed by hand", FAILS, measure(text.replace("## Limits\n", "## Limits\n\nIt is 99.9% safe.\n"))),
        ],
    )


def _rows(found: Iterable[Checked]) -> Iterable[Sample]:
    """A row for each thing that the card says; two that are called alike are two."""
    seen: dict[str, int] = {}
    for one in found:
        nth = seen[one.item] = seen.get(one.item, 0) + 1
        detail = {} if one.equal else {"shown": one.shown[:200], "expected": one.expected[:200]}
        yield Sample(one.item if nth == 1 else f"{one.item} ({nth})", float(one.equal), detail=detail)


def _as_hubs_read_it(text: str, name: str) -> list[Checked]:
    """huggingface_hub finds the same model and metrics in the front matter: another reader than ours."""
    try:
        from huggingface_hub import ModelCard
    except ImportError:
        raise MissingNeed("hf", "huggingface_hub, which reads cards as hubs do, is not installed", "pip install huggingface_hub") from None
    try:
        data = ModelCard(text).data
        read = sorted((r.dataset_name, r.metric_name, r.metric_value) for r in data.eval_results or ())
    except (ValueError, KeyError, TypeError) as error:
        return [Checked("front matter as hubs read it", f"{type(error).__name__}: {error}", "a card", False)]
    written = next((line for line in text.split("\n") if line.startswith("model-index: ")), "model-index: []").partition(": ")[2]
    ours = sorted(
        (r["dataset"]["name"], m["name"], m["value"]) for one in json.loads(written) for r in one["results"] for m in r["metrics"]
    )
    called = getattr(data, "model_name", None)
    return [
        Checked("front matter as hubs read it: name", str(called), name, called == name),
        Checked("front matter as hubs read it: metrics", str(read), str(ours), read == ours),
    ]


# --- what is planted ------------------------------------------------------------------------------


def _rows_of(text: str) -> list[str]:
    """The rows of the last table of claims with an estimate that is a number."""
    return [line for line in text.split("\n") if re.match(r"\| [^|]+\| .*\| -?[0-9.e-]+ \| .*\.json` \|$", line) and line.count(" | ") == 8]


def _cells(row: str) -> list[str]:
    return row.split(" | ")


def _other_digit(text: str) -> str:
    row = _rows_of(text)[-1]
    cells = _cells(row)
    cells[4] = re.sub(r"[0-9](?=[^0-9]*$)", lambda digit: str((int(digit.group()) + 1) % 10), cells[4])
    return text.replace(row, " | ".join(cells))


def _other_metric(text: str) -> str:
    return re.sub(r'("value": -?[0-9.]*)([0-9])', lambda m: m[1] + str((int(m[2]) + 1) % 10), text, count=1)


def _swapped(text: str) -> str:
    one, *_, other = _rows_of(text)
    return text.replace(one, " | ".join([*_cells(one)[:3], *_cells(other)[3:]]))


def _without_claim(text: str) -> str:
    return text.replace(_rows_of(text)[-1] + "\n", "")


def _without_section(text: str, title: str) -> str:
    return re.sub(rf"## {title}\n.*?(?=\n## )", "", text, flags=re.DOTALL)
