"""How audited rows are spread: lengths, clusters of rows that are alike, and what leaked into which evaluation set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise
from typing import Any

from harness.report.bars import Histogram, histogram, sizes
from harness.report.data import percent
from harness.report.datasets import PROOFS, Dataset, count, mapping, mappings
from harness.report.markup import Html, link, said, scroll, table
from harness.report.text import DASH, number
from harness.report.view import finite
from harness.types import Sample

__all__ = ["clusters", "leaks", "lengths"]

_DATASETS, _ROWS, _LARGEST, _TOP = 20, 20, 5, 5


# --- lengths ----------------------------------------------------------------------------------

_UNITS = {"tokens": "tokens", "words": "words", "chars": "characters"}
_MARKS = ("p50", "p95", "p99", "max")
_BINS = 200


def lengths(datasets: Sequence[Dataset]) -> Html:
    """A histogram per dataset, in tokens where they are known, with the context; and every unit in numbers."""
    known = [(d, summary) for d in datasets if any(mapping((summary := d.summary("lengths")).get(unit)) for unit in _UNITS)]
    if not known:
        return Html("")
    drawn = [(d, summary, shown) for d, summary in known[:_DATASETS] if (shown := _histogram(summary)) is not None]
    panels = _panels([scroll(_drawn(*one), f"Lengths of {one[0].name}") for one in drawn])
    rows = [list(_lengths(d, summary)) for d, summary in known[:_DATASETS]]
    head = ("dataset", "in", "p50", "p95", "p99", "most", "context", "beyond it", "answers cut off", "of")
    note = (
        '<p class="small muted">Of distinct rows: at least that share is not longer. What is cut off at the context is counted over all '
        "rows, copies too. Bins grow by a factor; the last bar has no end.</p>"
    )
    kinds = ("", "", *["num"] * 7, "num small")
    others = [row for told in rows for row in told[1:]]
    more = table("Lengths in other units", head, others, kinds)
    rest = f"<details><summary>In other units</summary>{more}</details>" if others else ""
    return Html(
        note + panels + table("Lengths", head, [told[0] for told in rows], kinds) + rest + _bins([(d, shown) for d, _, shown in drawn])
    )


def _panels(drawn: Sequence[str]) -> str:
    """Three side by side: on paper a line of panels does not wrap."""
    lines = (drawn[i : i + 3] for i in range(0, len(drawn), 3))
    return "".join(f'<figure><div class="panels">{"".join(line)}</div></figure>' for line in lines)


def _unit(summary: Mapping[str, Any]) -> str:
    return next(unit for unit in _UNITS if mapping(summary.get(unit)))


def _drawn(dataset: Dataset, summary: Mapping[str, Any], shown: Histogram) -> str:
    unit = _unit(summary)
    told = mapping(summary.get(unit))
    marks = [("most" if name == "max" else name, n) for name in _MARKS if (n := count(told.get(name))) is not None]
    return histogram(shown, marks, count(told.get("context")), dataset.name, f"{_UNITS[unit]} in a row")


def _bins(drawn: Sequence[tuple[Dataset, Histogram]]) -> str:
    """The bars in numbers."""
    counts = [{edge: n for edge, n in zip(shown.edges, shown.counts, strict=True) if n} for _, shown in drawn]
    rows = [[Html(number(edge)), *(Html(number(of.get(edge))) for of in counts)] for edge in sorted({edge for of in counts for edge in of})]
    inner = table("Bars", ("from", *(d.name for d, _ in drawn)), rows, ("num", *["num"] * len(drawn)))
    return f"<details><summary>The bars in numbers</summary>{inner}</details>" if drawn else ""


def _histogram(summary: Mapping[str, Any]) -> Histogram | None:
    """Only what can be drawn: edges that rise, and a count for each."""
    edges, counts = summary.get("edges"), mapping(summary.get(_unit(summary))).get("histogram")
    if not (isinstance(edges, list) and isinstance(counts, list) and 0 < len(counts) == len(edges) <= _BINS):
        return None
    ends = [edge for x in edges if (edge := finite(x)) is not None and 0 <= edge < 1e12]
    numbers = [n for x in counts if (n := count(x)) is not None]
    if len(ends) < len(edges) or len(numbers) < len(counts) or not any(numbers) or any(a >= b for a, b in pairwise(ends)):
        return None
    return Histogram(tuple(ends), tuple(numbers))


def _lengths(dataset: Dataset, summary: Mapping[str, Any]) -> Iterable[list[Html]]:
    """One row for each unit."""
    for unit, name in _UNITS.items():
        told = mapping(summary.get(unit))
        if told:
            cells = [Html(number(count(told.get("max")))) if key == "max" else _quantile(told, key) for key in _MARKS]
            over = _over(told.get("over_context"), told.get("share_over_context"))
            cut = [Html(number(count(told.get("context")))), over, Html(number(count(told.get("answer_truncated"))))]
            yield [said(dataset.name, 80), said(name), *cells, *cut, _basis(told, dataset)]


def _quantile(told: Mapping[str, Any], key: str) -> Html:
    ends = told.get(f"{key}_interval")
    limits = [number(count(x)) for x in ends[:2]] if isinstance(ends, list) and len(ends) == 2 else []
    under = f'<span class="sub">[{", ".join(limits)}]</span>' if limits else ""
    return Html(f"{number(count(told.get(key)))}{under}")


def _over(n: Any, share: Any) -> Html:
    shown = finite(share)
    return Html(number(count(n)) + (f'<span class="sub">{escape(percent(shown))}</span>' if shown is not None else ""))


def _basis(told: Mapping[str, Any], dataset: Dataset) -> Html:
    if told.get("exact") is True:
        return Html("every distinct row")
    every = f" of {number(dataset.distinct)}" if dataset.distinct is not None else ""
    return Html(f'{number(count(told.get("drawn")))}{every}<span class="sub">a sample, 95% intervals</span>')


# --- duplicates and clusters ------------------------------------------------------------------


def clusters(datasets: Sequence[Dataset]) -> Html:
    """How large the groups of rows are that say the same, or nearly."""
    shown = [_clusters(d) for d in datasets[:_DATASETS]]
    none = [d for d, part in zip(datasets, shown, strict=False) if not part and (d.summary("duplicates") or d.summary("near"))]
    alone = f'<p class="muted small">No two rows alike: {", ".join(said(d.name, 80) for d in none)}.</p>' if none else ""
    note = (
        '<p class="small muted">A cluster: rows that are equal; equal but for case, punctuation and spacing; or joined by pairs that share '
        "most of their word triples. The longer a bar, the more clusters (log scale). A chain is a cluster whose two most unlike rows are "
        "below the threshold: rows are judged by the row that stays, never by the chain.</p>"
    )
    body = "".join(shown)
    return Html((note if body else "") + body + alone)


def _clusters(dataset: Dataset) -> str:
    duplicates, near = dataset.summary("duplicates"), dataset.summary("near")
    kinds = {"exact": mapping(duplicates.get("exact")), "canonical": mapping(duplicates.get("canonical")), "near": near}
    found = {kind: counts for kind, of in kinds.items() if (counts := _sizes(of.get("sizes")))}
    drawn = [sizes(counts, f"{kind}: clusters of so many rows") for kind, counts in found.items()]
    rows = [row for kind, of in kinds.items() for row in _largest(kind, of.get("largest"))]
    if not drawn and not rows:
        return ""
    panels = _panels([scroll(one, f"Clusters of {dataset.name}") for one in drawn])
    head = ("kind", "rows", "first row, from 0", "least similarity", "note")
    inner = table(f"Largest clusters of {dataset.name}", head, rows, ("", "num", "num", "num", "answer tight")) if rows else ""
    return f"<h3>{said(dataset.name, 80)}</h3>{panels}{inner}{_template(near)}{_counts(found)}"


def _counts(found: Mapping[str, Sequence[tuple[str, int]]]) -> str:
    """The bars in numbers."""
    rows = [[said(kind), Html(name), Html(number(n))] for kind, counts in found.items() for name, n in counts]
    inner = table("Sizes of clusters", ("kind", "rows in a cluster", "clusters"), rows, ("", "num", "num"))
    return f"<details><summary>The bars in numbers</summary>{inner}</details>" if rows else ""


def _sizes(told: Any) -> list[tuple[str, int]]:
    """("4–7", how many clusters) in order of size; what is no range of sizes is left out."""
    found = []
    for name, n in mapping(told).items():
        ends = re.fullmatch(r"(\d{1,15})(?:-(\d{1,15}))?", name, re.ASCII)
        if ends and (k := count(n)):
            found.append((int(ends[1]), name.replace("-", "–"), k))
    return [(name, k) for _, name, k in sorted(found)][:_ROWS]


def _largest(kind: str, told: Any) -> Iterable[list[Html]]:
    for one in mappings(told)[:_LARGEST]:
        row, size = (
            next((n for key in keys if (n := count(one.get(key))) is not None), None) for keys in (("row", "first"), ("size", "rows"))
        )
        if size is not None:
            yield [said(kind), Html(number(size)), Html(number(row)), _least(one.get("least")), _note(one)]


def _least(told: Any) -> Html:
    ends = re.fullmatch(r"(\d{1,15})/(\d{1,15})", told, re.ASCII) if isinstance(told, str) else None
    if not ends or not int(ends[2]):
        return Html(DASH)
    return Html(f'{number(int(ends[1]) / int(ends[2]))}<span class="sub">{ends.group()}</span>')


def _note(one: Mapping[str, Any]) -> Html:
    stay = count(one.get("stay"))
    parts = ["a chain" if one.get("chain") is True else "", f"{number(stay)} stay" if stay is not None and stay > 1 else ""]
    why = said(one["why"], 200) if one.get("why") is not None else ""
    return Html("; ".join(part for part in (*parts, why) if part))


def _template(near: Mapping[str, Any]) -> str:
    told = {key: count(value) for key, value in mapping(near.get("template")).items()}
    ignored, of = told.get("shingles"), told.get("of_shingles")
    if ignored is None or of is None:
        return ""
    common, nothing = told.get("common"), told.get("units_left_with_nothing")
    more = f" in more than {number(common)} conversations" if common is not None else ""
    left = f" {number(nothing)} conversations had nothing else, and are compared as equal or not." if nothing else ""
    counts = f"{number(ignored)} of {number(of)} different word triples stand{more} and were left out as template."
    return f'<p class="small muted">{counts}{left}</p>'


# --- leakage ----------------------------------------------------------------------------------


def leaks(datasets: Sequence[Dataset]) -> Html:
    """Which evaluation sets stand in which training files, the items with their proofs, and what was no proof."""
    known = [d for d in datasets if mapping(d.summary("leakage").get("sets"))][:_DATASETS]
    if not known:
        return Html("")
    note = (
        '<p class="small muted">Leaked items / items of the set; below, by which strongest proof: equal · nearly equal · thirteen words '
        "in a row · eight words in a row. The stronger the colour, the larger the share.</p>"
    )
    return Html(note + _map(known) + "".join(_leaked(d) + _discounted(d) for d in known))


def _map(datasets: Sequence[Dataset]) -> str:
    """Evaluation sets downwards; across the datasets, and their files where there are several."""
    columns = [(d, file) for d in datasets for file in ("", *_files(d))]
    names = sorted({str(name) for d in datasets for name in mapping(d.summary("leakage").get("sets"))})
    head = "".join(f'<th scope="col">{said(d.name, 60)}{_under(f)}</th>' for d, f in columns)
    rows = "".join(
        f'<tr><th scope="row">{said(name, 80)}</th>{"".join(_heat(d, file, name) for d, file in columns)}</tr>' for name in names[:_ROWS]
    )
    body = f'<table class="dense heat"><thead><tr><th scope="col">set</th>{head}</tr></thead><tbody>{rows}</tbody></table>'
    left = f'<p class="small muted">{_ROWS} of {len(names)} sets.</p>' if len(names) > _ROWS else ""
    return str(scroll(body, "Leakage map")) + left


def _under(file: str) -> str:
    return f'<span class="sub">{said(file, 60)}</span>' if file else ""


def _files(dataset: Dataset) -> list[str]:
    files = sorted({str(cell["file"]) for cell in mappings(dataset.summary("leakage").get("map")) if "file" in cell})
    return files[:_ROWS] if len(files) > 1 else []


def _heat(dataset: Dataset, file: str, name: str) -> str:
    told = mapping(mapping(dataset.summary("leakage").get("sets")).get(name))
    items = count(told.get("items"))
    leaked = count(told.get("leaked")) if not file else _of_file(dataset, file, name)
    if items is None or leaked is None:
        return f"<td>{DASH}</td>"
    share = leaked / items if items else 0.0
    level = sum(share > step for step in (0, 0.01, 0.1, 0.5))
    proof = next((kind for kind in PROOFS if count(told.get(kind))), "") if leaked and not file else ""
    claim = next((c for c in dataset.named("D2", "leakage") if c.params[1:2] == (name,)), None)
    shown = Html(f"{number(leaked)} / {number(items)}")
    under = f'<span class="sub">{proof}</span>' if proof else ""
    return f'<td class="num h{level}">{link(claim, shown) if claim else shown}{under}</td>'


def _of_file(dataset: Dataset, file: str, name: str) -> int:
    cells = mappings(dataset.summary("leakage").get("map"))
    return next((n for c in cells if (c.get("set"), c.get("file")) == (name, file) and (n := count(c.get("items"))) is not None), 0)


def _leaked(dataset: Dataset) -> str:
    """The first items, the strongest proofs first."""
    found = [(c, s) for c in dataset.named("D2", "leakage") for s in c.samples if s.value != 1]
    if not found:
        return ""
    order = sorted(found, key=lambda pair: (_strength(mapping(pair[1].detail).get("proof")), pair[1].item))
    rows = [[link(c, said(s.item, 120)), *(_shown(s, key) for key in _SHOWN)] for c, s in order[:_ROWS]]
    shown = table(f"Leaked items in {dataset.name}", ("item", *_SHOWN), rows, ("", "", "num", "num", "num"))
    more = f'<p class="small muted">{len(rows)} of {number(len(order))} leaked items.</p>' if len(rows) < len(order) else ""
    return f"<h3>Leaked items in {said(dataset.name, 80)}</h3>{shown}{more}"


_SHOWN = ("proof", "line", "score", "rows")


def _shown(sample: Sample, key: str) -> Html:
    value = mapping(sample.detail).get(key)
    return Html(DASH) if value is None else said(value, 60)


def _strength(proof: Any) -> int:
    return PROOFS.index(proof) if proof in PROOFS else len(PROOFS)


def _discounted(dataset: Dataset) -> str:
    """Boilerplate: what stands in so many rows or items that it proves nothing."""
    told = mapping(dataset.summary("leakage").get("boilerplate"))
    parts = {key: count(told.get(key)) for key in ("grams", "texts", "rows", "items")}
    if not (parts["grams"] or parts["texts"]):
        return ""
    words = [one for key in ("top_grams", "top_texts") for one in mappings(told.get(key))[:_TOP] if "words" in one]
    rows = [[said(one["words"], 160), *(Html(number(count(one.get(key)))) for key in ("rows", "items"))] for one in words]
    inner = table("Boilerplate", ("words", "rows", "items"), rows, ("answer mono", "num", "num")) if rows else ""
    counts = f"{number(parts['grams'])} runs of eight words and {number(parts['texts'])} texts"
    alone = f"{number(parts['rows'])} rows and {number(parts['items'])} items have nothing else in common"
    summary = f'Left out as boilerplate in {said(dataset.name, 80)} <span class="muted">({escape(f"{counts}; {alone}")})</span>'
    return f"<details><summary>{summary}</summary>{inner}</details>"
