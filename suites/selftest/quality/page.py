"""Renders ``reports/statistics/README.md`` and its picture from the tables beside it: the proof on one page.

    python -m suites.selftest.quality.page

Numbers come from the tables alone; the same tables give the same bytes (``test_page.py``).
"""

from __future__ import annotations

import csv
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from harness.planner import Curve
from harness.report.curves import curves

TABLES = Path(__file__).parents[3] / "reports" / "statistics"
Row = Mapping[str, str]


def rows(name: str) -> list[dict[str, str]]:
    """A table as it was written."""
    with (TABLES / f"{name}.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def page() -> str:
    """The page as one string."""
    return "\n".join(line for section in _SECTIONS for line in [*section(), ""]).rstrip() + "\n"


def summary() -> list[str]:
    """The table in the README: what goes wrong at most here, and with the usual way on the same data."""
    sizes = [r for r in rows("ni_size") if int(r["n"]) >= 50]
    cells, sequential, reruns = [*rows("slo_cells"), *rows("slo_held_out")], rows("sequential_ni"), rows("clustered_reruns")
    tokens, judges = rows("clustered_coverage"), rows("corrected_coverage")
    mutants = rows("mutation")
    body = [
        (f"a build worse by the margin passes ({len(sizes)} plans, n >= 50, exact)", f"{_most(sizes, 'upper'):.3f}",
         f"percentile bootstrap {_most(sizes, 'bootstrap'):.2f}, point estimate {_most(sizes, 'tolerance'):.2f}"),
        (f"a service at its limit passes p99 ({len(cells)} queues)", f"{_most(cells, 'false_ours'):.3f}",
         f"raw p99 {_most(cells, 'false_raw_p99'):.2f}, independent requests {_most(cells, 'false_binomial'):.2f}"),
        (f"a false pass when one looks after every item ({len(sequential)} designs)", f"{_most(sequential, 'false_pass'):.3f}",
         f"fixed-n test {_most(sequential, 'tango_every_item_false_pass'):.2f}"),
        ("a false gain from items run again", f"{_most(reruns, 'averaged_sign_flip'):.3f}",
         f"pooled {_most(reruns, 'pooled_mcnemar'):.2f}"),
        ("95 % interval of a mean over documents misses", f"{1 - min(float(r['cluster_t']) for r in tokens):.3f}",
         f"by tokens {1 - min(float(r['token_iid']) for r in tokens):.2f}"),
        (f"95 % interval of a judged difference misses ({len(judges)} cells)", f"{1 - min(float(r['ours_two_sided']) for r in judges):.3f}",
         f"the judge as it is {1 - min(float(r['raw_judge_two_sided']) for r in judges):.2f}"),
        (f"a fault in the code that decides goes unseen ({sum(int(r['mutants']) for r in mutants)} mutants)",
         f"{sum(int(r['survivors']) for r in mutants)}, each with its reason", ""),
    ]  # fmt: skip
    return list(table(["what could go wrong", "here, at most", "the usual way"], body))


def size_picture() -> str:
    """False passes of the non-inferiority gate and its rivals, for every n up to 500, margin .03."""
    table = [r for r in rows("ni_size") if float(r["margin"]) == 0.03 and int(r["n"]) <= 500]
    named = {"exact rule (ours)": "upper", "Tango, asymptotic": "tango_upper", "Wald": "wald", "percentile bootstrap": "bootstrap"}
    drawn = [Curve(label, tuple((int(r["n"]), min(0.3, float(r[column]))) for r in table)) for label, column in named.items()]
    return curves(
        "How often a build that is worse by exactly the margin of .03 passes, at the worst nuisance",
        drawn, [(0.05, "alpha .05: what was promised")], "n (items)", "false passes (cut off at .30)",
        "Only the exact rule stays below .05 at every n.", top=0.30,
    )  # fmt: skip


def text(*parts: str) -> Iterator[str]:
    """A paragraph."""
    yield from textwrap.wrap(" ".join(parts), 128, break_long_words=False, break_on_hyphens=False)


def table(head: Sequence[str], body: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for cells in body:
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def _short(value: str) -> str:
    return f"{float(value):.3f}".replace("0.", ".", 1) if abs(float(value)) < 0.9995 else f"{float(value):.3f}"


def _most(table: Iterable[Row], *columns: str) -> float:
    return max(float(r[column]) for r in table for column in columns)


def _head() -> Iterator[str]:
    yield "# Proof of the statistics"
    yield ""
    yield from text(
        "Written by `python -m tox run -e statistics` from seeded simulations and enumerations; the tables lie beside this page as",
        "CSV. The ordinary tests derive rows of them again. alpha = .05, one-sided, where nothing else is said.",
    )


def _size() -> Iterator[str]:
    yield "## A build that is worse by the margin passes at most as often as promised"
    yield ""
    everything = rows("ni_size")
    worst = {c: max(float(r[c]) for r in everything) for c in ("upper", "fail_upper")}
    yield from text(
        f"`ni_size.csv`: every n from 1 to 500 (and 1000), margins .01, .02, .03, .05: {len(everything)} plans, enumerated with a rigorous",
        f"bracket over the nuisance parameter. Largest false pass {worst['upper']:.6f}, largest false fail {worst['fail_upper']:.6f}.",
        "The rivals on the same plans, as lower bounds of their true size:",
    )
    yield ""
    chosen = [r for r in everything if r["n"] in ("50", "100", "200", "300", "500") and r["margin"] in ("0.02", "0.03", "0.05")]
    columns = ("upper", "tango_lower", "bootstrap", "wald", "tolerance")
    yield from table(
        ["n", "margin", "exact rule", "Tango", "percentile bootstrap", "Wald", "point estimate"],
        [[r["n"], r["margin"], *(_short(r[c]) for c in columns)] for r in chosen],
    )
    yield ""
    yield "![false passes against n](ni_size.svg)"
    power = rows("ni_power")
    loss = max(power, key=lambda r: float(r["loss"]))
    yield ""
    where = f"n = {loss['n']}, margin {loss['margin']}, psi {loss['psi']}"
    yield from text(
        f"The price: at most {_short(loss['loss'])} of power against Tango over {len(power)} designs (`ni_power.csv`; at {where}).",
    )


def _leaks() -> Iterator[str]:
    yield "## Gates in use"
    yield ""
    yield from text(
        "`leaks_gates.csv`: how often the rule passes a model that lost so much, and how often ours does with a margin of .05.",
    )
    yield ""
    yield from table(
        ["gate", "n", "psi", "points lost", "passes", "exact rule, .05"],
        [[r["gate"], r["n"], r["psi"], r["points_lost"], _short(r["passes"]), _short(r["exact_rule_05"])] for r in rows("leaks_gates")],
    )


def _oracles() -> Iterator[str]:
    yield "## Published digits and second algorithms"
    yield ""
    published = rows("published")
    sources = sorted({r["source"].partition(",")[0].partition(" (")[0] for r in published})
    yield from text(
        f"`published.csv`: {len(published)} published results reproduced to every printed digit, from {', '.join(sources)}.",
    )
    yield ""
    yield from table(
        ["ours", "second algorithm", "random tables", "largest difference"],
        [[r["ours"], r["oracle"], r["tables"], r["largest_difference"]] for r in rows("ni_oracles")],
    )


def _slo() -> Iterator[str]:
    yield "## p99 under queueing"
    yield ""
    yield from text(
        "`slo_cells.csv`: queues with Poisson arrivals and c servers; the limit is the true p99, so that a pass is false. Beside it, how",
        "often .2 % truly over pass. `four series`: the rule of the specification; `ceiling`: one that knows the law of the count.",
    )
    yield ""
    cells = rows("slo_cells")
    replicates = int(cells[0]["replicates"])
    names = ("false_raw_p99", "false_binomial", "false_order_statistic", "false_four_series", "false_ours",
             "pass_four_series", "pass_ours", "ceiling_pass")  # fmt: skip
    yield from table(
        ["c", "load", "n", "false: raw p99", "iid binomial", "iid interval", "four series", "ours",
         "pass: four series", "ours", "ceiling", "n needed"],
        [[r["servers"], r["rho"], r["n"], *(_short(r[c]) for c in names), r["n_needed"]] for r in cells],
    )  # fmt: skip
    error = (0.05 * 0.95 / replicates) ** 0.5
    worst = max(float(r["false_ours"]) for r in [*cells, *rows("slo_held_out")])
    yield ""
    held_out = len(rows("slo_held_out"))
    yield from text(
        f"{replicates} replicates a cell (standard error {error:.4f} at .05). Largest false pass {worst:.4f},",
        f"{held_out} more cells included",
        "(`slo_held_out.csv`). Where dependence ate the sample the verdict is `inconclusive`, with the n needed.",
    )


def _sequential() -> Iterator[str]:
    yield "## A look after every item"
    yield ""
    ours = rows("sequential_ni")
    yield from text(
        f"`sequential_ni.csv`: {len(ours)} designs, {ours[0]['streams']} streams each, up to {ours[0]['items_at_most']}",
        "items: false pass at most",
        f"{max(float(r['false_pass']) for r in ours):.4f}, where the asymptotic test looked at as often passes falsely in up to",
        f"{max(float(r['tango_every_item_false_pass']) for r in ours):.2f}.",
    )
    yield ""
    columns = ("false_pass", "tango_every_item_false_pass", "power_no_difference")
    body = [[r["discordant"], r["margin"], *(_short(r[c]) for c in columns), r["mean_items"], r["fixed_n_power_80"]] for r in ours]
    yield from table(["psi", "margin", "false pass", "Tango, every item", "power", "mean items", "fixed n for .80"], body[:8])


def _families() -> Iterator[str]:
    yield "## Many claims"
    yield ""
    everything = rows("families_fwer")
    yield from text(
        "`families_fwer.csv`: the chance of any false statement, the worst of all 2^K patterns of true and false claims, K up to 6, under",
        "independence and under positive and negative dependence.",
    )
    yield ""
    rules = sorted({r["rule"] for r in everything})
    body = []
    for rule in rules:
        mine = [r for r in everything if r["rule"] == rule]
        body.append(
            [rule, len(mine), f"{max(float(r['worst_rate']) for r in mine):.4f}", f"{max(float(r['uncorrected']) for r in mine):.3f}"]
        )
    yield from table(["rule", "situations", "worst", "without it"], body)


def _clusters() -> Iterator[str]:
    yield "## Documents, reruns, runs"
    yield ""
    yield from text(
        "`clustered_coverage.csv`: 95 % intervals over documents of 255 correlated tokens (ICC .02).",
    )
    yield ""
    yield from table(
        ["documents", "C", "ours: cluster t", "token-iid"],
        [[r["documents_law"], r["documents"], _short(r["cluster_t"]), _short(r["token_iid"])] for r in rows("clustered_coverage")],
    )
    yield ""
    yield from text(
        "`clustered_reruns.csv`: false positives at .05 when 50 items are rerun.",
    )
    yield ""
    yield from table(
        ["item x arm sd", "reruns", "averaged first (ours)", "pooled McNemar", "pooled z"],
        [[r["item_by_arm_sd"], r["reruns"], *(_short(r[c]) for c in ("averaged_sign_flip", "pooled_mcnemar", "pooled_unpaired_z"))]
         for r in rows("clustered_reruns")],
    )  # fmt: skip
    yield ""
    guard = _most([r for r in rows("clustered_guard") if r["protected"] == "yes"], "upper_misses_and_open_0.05")
    bets = rows("clustered_bets")
    yield from text(
        f"The guard of the t interval: bound missed and guard open in at most {guard:.4f}",
        "(`clustered_guard.csv`; it does not protect against",
        f"rare spikes). Betting on few or spiky clusters: at most {_most(bets, 'bets_below', 'bets_above'):.3f}, where plain t reaches",
        f"{_most(bets, 't_below', 't_above'):.2f} (`clustered_bets.csv`).",
    )
    yield ""
    none = [r for r in rows("abba_alarms") if float(r["effect"]) == 0]
    yield from text(
        f"ABBA blocks (`abba_alarms.csv`, level .01): A/A alarms at most {_most(none, 'fails'):.4f}",
        "on steady, drifting and wandering machines;",
        f"under drift a tolerance of 10 % alarms in up to {_most(none, 'mean_10_percent'):.2f}, Mann-Whitney in up to",
        f"{_most(none, 'mann_whitney_1.1'):.2f}.",
    )


def _raters() -> Iterator[str]:
    yield "## Raters and judges"
    yield ""
    kappa, krippendorff, corrected = rows("agreement_kappa"), rows("agreement_krippendorff"), rows("corrected_coverage")

    def least(table: Sequence[Row], *columns: str) -> list[str]:
        return [f"{min(float(r[column]) for r in table):.3f}" for column in columns]

    yield from text(
        "Smallest coverage of the limits that decide (nominal .95):",
    )
    yield ""
    yield from table(
        ["", "cells", "plain lower", "ours, lower", "plain upper", "ours, upper"],
        [
            ["Cohen's kappa (exact)", len(kappa), *least(kappa, "low_plain", "low", "high_plain", "high")],
            ["Krippendorff's alpha", len(krippendorff), *least(krippendorff, "low_plain", "low", "high_plain", "high")],
            ["judge-corrected difference", len(corrected), *least(corrected, "plain_lower", "ours_lower", "plain_upper", "ours_upper")],
        ],
    )  # fmt: skip
    yield ""
    worst = max(corrected, key=lambda r: abs(float(r["raw_judge_bias"])))
    yield from text(
        f"Trusting the judge as it is: off by up to {_short(worst['raw_judge_bias'])}, coverage {_short(worst['raw_judge_two_sided'])}.",
    )


def _changes() -> Iterator[str]:
    yield "## Change points"
    yield ""
    yield from text(
        "`changes_alarms.csv`, 40 runs: alarms at .05, beside any pair of neighbours at .01 and a t test at the best split.",
    )
    yield ""
    wanted = [r for r in rows("changes_alarms") if r["runs"] == "40"]
    columns = ("alarm_at_.05", "any_pair_at_.01", "any_pair_at_.01_over_pairs", "best_split_t_at_.05")
    yield from table(
        ["", "history", "ours", "any pair, .01", "any pair, .01 / 39", "t at the best split"],
        [[r["kind"], r["history"], *(_short(r[c]) if r[c] else "" for c in columns)] for r in wanted],
    )


def _planner() -> Iterator[str]:
    yield "## The planner"
    yield ""
    yield from text(
        "`plan_power.csv`: planned power against what was found, by enumeration of every table where the gate is exact.",
    )
    yield ""
    plans = rows("plan_power")
    body = []
    for gate, by in dict.fromkeys((r["gate"], r["found_by"]) for r in plans):
        far = [abs(float(r["difference"])) for r in plans if (r["gate"], r["found_by"]) == (gate, by)]
        body.append([gate, by, len(far), f"{max(far):.4f}"])
    yield from table(["gate", "found by", "designs", "largest difference"], body)


def _mutation() -> Iterator[str]:
    yield "## Mutation testing"
    yield ""
    yield from text(
        "`mutation.csv`, by `python -m tox run -e mutation`: each mutant of the code that decides, and what the tests made of it. Every",
        "survivor stands in `survivors.csv` with the reason why it is no fault.",
    )
    yield ""
    everything = rows("mutation")
    yield from table(list(everything[0]), [list(r.values()) for r in everything])


def _bundles() -> Iterator[str]:
    yield "## Runs that were touched, and runs that were shot"
    yield ""
    changes, forged, shot = rows("tamper"), rows("forgeries"), rows("kills")
    derived, unnamed = sum(r["seen"] == "derivation" for r in forged), sum(r["named"] != "True" for r in forged)
    bad = sum(int(r[name]) for r in shot for name in ("lost", "unreadable", "orphans", "litter"))
    yield from text(
        f"`tamper.csv`: {_total(changes, 'made')} changes of one byte anywhere in `reports/example`,",
        f"{_total(changes, 'undetected')} undetected. `forgeries.csv`: {len(forged)} edits of a run that was then sealed anew,",
        f"{unnamed} not named: {derived} by derivation, each by its own line; {len(forged) - derived} runs that were judged,",
        "rendered and sealed all over contradict themselves nowhere, and only the seal that was quoted tells.",
        "By `suites.selftest.quality.tamper`.",
    )
    yield ""
    yield from text(
        f"`kills.csv`: {len(shot)} runs ended by SIGKILL at any moment, half of them with two workers.",
        f"{_total(shot, 'reported')} claims had been reported as finished; claims lost, files that cannot be read or are half-written,",
        f"processes left behind: {bad}. By `suites.selftest.quality.kills`.",
    )


def _total(table: Iterable[Row], column: str) -> int:
    return sum(int(r[column]) for r in table)


_SECTIONS = (
    _head, _size, _leaks, _oracles, _slo, _sequential, _families, _clusters, _raters, _changes, _planner, _mutation, _bundles,
)  # fmt: skip


if __name__ == "__main__":
    (TABLES / "README.md").write_text(page(), "utf-8")
    (TABLES / "ni_size.svg").write_text(size_picture(), "utf-8")
