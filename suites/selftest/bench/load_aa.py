"""Run against run on the stub with the real client: A/A false alarms, and two planted changes found, of so many designs.

    python -m suites.selftest.bench.load_aa [DESIGNS] [BLOCKS] [REQUESTS] [AT_ONCE]

The stub is a queue whose quantiles are known; the slower one's service is stretched until its own oracle says +5 % of the
median, or +10 % of p99. A row of reports/serving/aa.csv for each design and effect; designs that are there are not run again.
"""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import cache
from pathlib import Path

from harness import Claim, at_most
from harness.judge import judge
from harness.records import Load
from harness.serve import blocks, schedule, stub, workload
from harness.serve.load import run_load

TABLE = Path(__file__).parents[3] / "reports" / "serving" / "aa.csv"
RATE = 100.0
SERVICE = {"kind": "mgc", "servers": 8, "service_s": 0.04, "cv": 0.5, "tokens": 1}  # half of them at work
EFFECTS = ((("ttft_p50", "ttft_p99"), 0.0), (("ttft_p50",), 0.05), (("ttft_p99",), 0.10))


@cache
def stretched(figure: str, effect: float) -> float:
    """Seconds of service at which the oracle's quantile is 1 + ``effect`` of what it was."""
    q = float(figure.partition("_p")[2]) / 100

    def quantile(seconds: float) -> float:
        return stub.true_quantile({"service": {**SERVICE, "service_s": seconds}}, q, rate=RATE, requests=40_000)

    low, high = SERVICE["service_s"], SERVICE["service_s"] * (1 + effect)
    wanted = quantile(low) * (1 + effect)
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if quantile(middle) < wanted else (low, middle)
    return (low + high) / 2


def design(number: int, figures: Sequence[str], effect: float, count: int, requests: int) -> list[dict[str, object]]:
    """One design on two stubs; the outcome of "new is no slower than old", for each figure."""
    begun = time.monotonic()
    slower = stretched(figures[0], effect) if effect else SERVICE["service_s"]
    plans = {
        arm: {"service": {**SERVICE, "service_s": seconds}, "seed": number}
        for arm, seconds in (("old", SERVICE["service_s"]), ("new", slower))
    }
    with stub.start(plans["old"]) as old, stub.start(plans["new"]) as new:
        target = {"old": old.target, "new": new.target}

        def run(arm: str, seed: int) -> Load:
            due = schedule.sound(lambda one: schedule.poisson(RATE, requests=requests, seed=one, warmup_s=1.0), seed)
            asked = workload.synthetic("stub", len(due), seed, prompt=workload.fixed(8), output=workload.fixed(1))
            load = run_load(target[arm], due, asked, limit_s=10.0).load
            return Load({**load.header, "slo": {"ttft_p99": "1s"}}, load.records)  # late by 10 ms at most, a tenth of what is measured

        rows = blocks.blocks(run, count, f"{number} {figures} {effect}", figures)
    claim = Claim("L4.x", "new is no slower than old", at_most(1.0), estimand="run_ratio", min_n=4)
    void, seconds = sum(bool(row["invalid"]) for row in rows), round(time.monotonic() - begun, 1)
    made = []
    for figure in figures:
        said = judge(claim, blocks.measurement(rows, figure))
        shown = {name: None if (x := getattr(said, name)) is None else round(x, 4) for name in ("estimate", "low", "high")}
        made.append({"design": number, "figure": figure, "effect": effect, "blocks": count, "requests": requests, **shown,
                     "outcome": said.outcome, "reason": said.reason, "void_runs": void, "seconds": seconds})  # fmt: skip
    return made


def main(designs: int = 50, count: int = 6, requests: int = 2000, at_once: int = 1) -> None:
    """Goes on where it was stopped; ``at_once`` designs side by side, each on stubs of its own."""
    kept = list(csv.DictReader(TABLE.open(encoding="utf-8"))) if TABLE.exists() else []
    done = {(row["design"], row["figure"], row["effect"], row["blocks"], row["requests"]) for row in kept}
    left = [(number, figures, effect) for number in range(designs) for figures, effect in EFFECTS
            if any((str(number), figure, str(effect), str(count), str(requests)) not in done for figure in figures)]  # fmt: skip
    TABLE.parent.mkdir(parents=True, exist_ok=True)
    for figures, effect in EFFECTS[1:]:
        stretched(figures[0], effect)  # once, before threads ask for it
    failed = 0
    with ThreadPoolExecutor(at_once) as pool:
        for future in as_completed([pool.submit(design, *each, count, requests) for each in left]):
            try:
                _keep(future.result())
            except Exception as error:  # one that could not be run is run the next time; the others are kept
                failed += 1
                print(f"not run: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    if failed:
        sys.exit(f"{failed} designs were not run: run this again")


def _keep(rows: list[dict[str, object]]) -> None:
    new = not TABLE.exists()
    with TABLE.open("a", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerows(rows)
    for row in rows:
        print(row, flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
