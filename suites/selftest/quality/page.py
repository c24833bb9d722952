"""Renders ``reports/statistics/README.md`` and its picture from the tables beside it: the proof on one page.

    python -m suites.selftest.quality.page

Numbers come from the tables alone; the same tables give the same bytes (``test_page.py``).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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


def size_picture() -> str:
    """False passes of the non-inferiority gate and its rivals, for every n up to 500, margin .03."""
    table = [r for r in rows("ni_size") if float(r["margin"]) == 0.03]
    named = {"exact rule (ours)": "upper", "Tango, asymptotic": "tango_upper", "Wald": "wald", "percentile bootstrap": "bootstrap"}
    drawn = [Curve(label, tuple((int(r["n"]), min(0.3, float(r[column]))) for r in table)) for label, column in named.items()]
    return curves(
        "How often a build that is worse by exactly the margin of .03 passes, at the worst nuisance",
        drawn, [(0.05, "alpha .05: what was promised")], "n (items)", "false passes (cut off at .30)",
        "Only the exact rule stays below .05 at every n.", top=0.30,
    )  # fmt: skip


def table(head: Sequence[str], body: Iterable[Sequence[object]]) -> Iterator[str]:
    """A Markdown table."""
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for cells in body:
        yield "| " + " | ".join(str(cell) for cell in cells) + " |"


def _short(value: str, digits: int = 3) -> str:
    number = float(value)
    return f"{number:.{digits}f}".replace("0.", ".", 1) if abs(number) < 1 else f"{number:.{digits}f}".rstrip("0").rstrip(".")


def _head() -> Iterator[str]:
    yield "# Proof of the statistics"
    yield ""
    yield "Written by `python -m tox run -e statistics` from seeded simulations and enumerations; the tables lie beside this page as"
    yield "CSV. The ordinary tests derive rows of them again. alpha = .05, one-sided, where nothing else is said."


def _size() -> Iterator[str]:
    yield "## A build that is worse by the margin passes at most as often as promised"
    yield ""
    everything = rows("ni_size")
    worst = {c: max(float(r[c]) for r in everything) for c in ("upper", "fail_upper")}
    yield f"`ni_size.csv`: every n from 1 to 500 and margins .01, .02, .03, .05, {len(everything)} plans, by enumeration with a rigorous"
    yield f"bracket over the nuisance parameter. Largest false pass {worst['upper']:.6f}, largest false fail {worst['fail_upper']:.6f}."
    yield "The rivals on the same plans (lower bounds of their true size):"
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
    yield f"The price: at most {_short(loss['loss'])} of power against Tango over {len(power)} designs (`ni_power.csv`; largest at n = {loss['n']},"
    yield f"margin {loss['margin']}, psi {loss['psi']})."


def _leaks() -> Iterator[str]:
    yield "## Gates in use"
    yield ""
    yield "`leaks_gates.csv`: how often the rule passes a model that lost so much, and how often ours does with a margin of .05."
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
    yield f"`published.csv`: {len(published)} published results reproduced to every printed digit, from {', '.join(sources)}."
    yield ""
    yield from table(
        ["ours", "second algorithm", "random tables", "largest difference"],
        [[r["ours"], r["oracle"], r["tables"], r["largest_difference"]] for r in rows("ni_oracles")],
    )


def _slo() -> Iterator[str]:
    yield "## p99 under queueing"
    yield ""
    yield "`slo_cells.csv`: queues with Poisson arrivals and c servers; the limit is the true p99, so that a pass is false. Beside it the pass"
    yield "rate where .2 % are truly over. `four series` is the rule of the specification, `ceiling` one that knows the true dependence."
    yield ""
    cells = rows("slo_cells")
    replicates = int(cells[0]["replicates"])
    names = ("false_raw_p99", "false_binomial", "false_order_statistic", "false_four_series", "false_ours",
             "pass_four_series", "pass_ours", "ceiling_pass")  # fmt: skip
    yield from table(
        ["c", "load", "n", "false: raw p99", "iid binomial", "iid interval", "four series", "ours", "pass: four series", "ours", "ceiling", "n needed"],
        [[r["servers"], r["rho"], r["n"], *(_short(r[c]) for c in names), r["n_needed"]] for r in cells],
    )  # fmt: skip
    error = (0.05 * 0.95 / replicates) ** 0.5
    worst = max(float(r["false_ours"]) for r in [*cells, *rows("slo_held_out")])
    yield ""
    yield f"{replicates} replicates a cell (standard error {error:.4f} at .05). Largest false pass {worst:.4f}, the {len(rows('slo_held_out'))} cells"
    yield "that no rule was tuned on (`slo_held_out.csv`) included. Where dependence ate the sample the verdict is `inconclusive` with the n needed."


def _sequential() -> Iterator[str]:
    yield "## A look after every item"
    yield ""
    ours = rows("sequential_ni")
    yield f"`sequential_ni.csv`: {len(ours)} designs, {ours[0]['streams']} streams each, up to {ours[0]['items_at_most']} items: false pass at most"
    yield f"{max(float(r['false_pass']) for r in ours):.4f}, where the asymptotic test looked at as often passes falsely in up to"
    yield f"{max(float(r['tango_every_item_false_pass']) for r in ours):.2f}."
    yield ""
    columns = ("false_pass", "tango_every_item_false_pass", "power_no_difference")
    body = [[r["discordant"], r["margin"], *(_short(r[c]) for c in columns), r["mean_items"], r["fixed_n_power_80"]] for r in ours]
    yield from table(["psi", "margin", "false pass", "Tango, every item", "power", "mean items", "fixed n for .80"], body[:8])


def _families() -> Iterator[str]:
    yield "## Many claims"
    yield ""
    everything = rows("families_fwer")
    yield "`families_fwer.csv`: the chance of any false statement, the worst of all 2^K patterns of true and false claims, K up to 6, under"
    yield "independence and under positive and negative dependence."
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
    yield "`clustered_coverage.csv`: 95 % intervals over documents of 255 correlated tokens (ICC .02)."
    yield ""
    yield from table(
        ["documents", "C", "ours: cluster t", "token-iid"],
        [[r["documents_law"], r["documents"], _short(r["cluster_t"]), _short(r["token_iid"])] for r in rows("clustered_coverage")],
    )
    yield ""
    yield "`clustered_reruns.csv`: false positives at .05 when 50 items are rerun."
    yield ""
    yield from table(
        ["item x arm sd", "reruns", "averaged first (ours)", "pooled McNemar", "pooled z"],
        [[r["item_by_arm_sd"], r["reruns"], *(_short(r[c]) for c in ("averaged_sign_flip", "pooled_mcnemar", "pooled_unpaired_z"))]
         for r in rows("clustered_reruns")],
    )  # fmt: skip
    yield ""
    guard = [r for r in rows("clustered_guard") if r["protected"] == "yes"]
    bets = rows("clustered_bets")
    yield f"The guard of the t interval: bound missed and guard open in at most {max(float(r['upper_misses_and_open_0.05']) for r in guard):.4f}"
    yield f"(`clustered_guard.csv`; rare spikes are not protected by it). Betting on few or spiky clusters: at most"
    yield f"{max(float(r[c]) for r in bets for c in ('bets_below', 'bets_above')):.3f}, where plain t reaches"
    yield f"{max(float(r[c]) for r in bets for c in ('t_below', 't_above')):.2f} (`clustered_bets.csv`)."
    yield ""
    alarms = rows("abba_alarms")
    none = [r for r in alarms if float(r["effect"]) == 0]
    yield f"ABBA blocks (`abba_alarms.csv`, level .01): A/A alarms at most {max(float(r['fails']) for r in none):.4f} under steady, drifting and wandering"
    yield f"machines; under drift a tolerance of 10 % alarms in up to {max(float(r['mean_10_percent']) for r in none):.2f}, Mann-Whitney in up to"
    yield f"{max(float(r['mann_whitney_1.1']) for r in none):.2f}."


def _raters() -> Iterator[str]:
    yield "## Raters and judges"
    yield ""
    kappa, krippendorff, corrected = rows("agreement_kappa"), rows("agreement_krippendorff"), rows("corrected_coverage")

    def least(table: Sequence[Row], column: str, keep: Callable[[Row], bool] = lambda r: True) -> str:
        return f"{min(float(r[column]) for r in table if keep(r)):.3f}"

    yield "Smallest coverage of the limits that decide (nominal .95):"
    yield ""
    yield from table(
        ["", "cells", "plain lower", "ours, lower", "plain upper", "ours, upper"],
        [
            ["Cohen's kappa (exact)", len(kappa), *(least(kappa, c) for c in ("low_plain", "low", "high_plain", "high"))],
            ["Krippendorff's alpha", len(krippendorff), *(least(krippendorff, c) for c in ("low_plain", "low", "high_plain", "high"))],
            ["judge-corrected difference", len(corrected), *(least(corrected, c) for c in ("plain_lower", "ours_lower", "plain_upper", "ours_upper"))],
        ],
    )  # fmt: skip
    yield ""
    worst = max(corrected, key=lambda r: abs(float(r["raw_judge_bias"])))
    yield f"Trusting the judge as it is: off by up to {_short(worst['raw_judge_bias'])}, coverage {_short(worst['raw_judge_two_sided'])}."


def _changes() -> Iterator[str]:
    yield "## Change points"
    yield ""
    yield "`changes_alarms.csv`, 40 runs: alarms at .05, beside any pair of neighbours at .01 and a t test at the best split."
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
    plans = rows("plan_power")
    enumerated = [abs(float(r["difference"])) for r in plans if float(r["tolerance"]) <= 0.001]
    simulated = [abs(float(r["difference"])) for r in plans if float(r["tolerance"]) > 0.001]
    yield f"`plan_power.csv`: planned power against enumeration of every table, {len(enumerated)} designs: at most {max(enumerated):.4f} apart; against"
    yield f"simulation of the gates that have no exact power, {len(simulated)} designs: at most {max(simulated):.3f}."


def _mutation() -> Iterator[str]:
    yield "## Mutation testing"
    yield ""
    yield "`mutation.csv`, by `python -m tox run -e mutation`: each mutant of the code that decides, and what the tests made of it. Every"
    yield "survivor stands in `survivors.csv` with the reason why it is no fault."
    yield ""
    everything = rows("mutation")
    yield from table(list(everything[0]), [list(r.values()) for r in everything])


_SECTIONS = (
    _head, _size, _leaks, _oracles, _slo, _sequential, _families, _clusters, _raters, _changes, _planner, _mutation,
)  # fmt: skip


if __name__ == "__main__":
    (TABLES / "README.md").write_text(page(), "utf-8")
    (TABLES / "ni_size.svg").write_text(size_picture(), "utf-8")
