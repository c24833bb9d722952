"""The tables of what ``bench_load`` measured: rivals.txt, fault_catalogue.csv and README.md, from rivals.jsonl."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from suites.selftest.bench.load_clients import SHOWN

Row = Mapping[str, Any]
GOALS = {
    "frames": "timestamped SSE frames per processor-second: at least 10 times vllm bench serve, 3 times AIPerf",
    "requests": "answers in one piece: at least 8,000 a processor-second, 4 times GuideLLM",
}
TELLING = ("completed", "failed", "ttft_p99", "e2e_p95", "e2e_p99", "good")


def page(rows: Sequence[Row], folder: Path) -> None:
    """Writes the three files."""
    parts = [
        ("What it costs", [*_rates(rows, "frames"), *_rates(rows, "requests"), *_limit(rows)]),
        ("What it measures: TTFT at 200 requests/s of 50 frames, 5 ms apart", _ttft(rows)),
        ("Frozen for once: p99 of the whole answer, 1,200 requests at 100/s", _freeze(rows)),
        ("Arrivals as the stub saw them, Poisson asked for", _dispersion(rows)),
        ("Run against run: no change, and two that were planted", _against(folder)),
        ("The fault catalogue", _faults(rows, folder)),
    ]
    parts = [(title, lines) for title, lines in parts if lines]
    text = "\n\n".join(f"{title}\n{'-' * len(title)}\n\n" + "\n".join(lines) for title, lines in parts)
    (folder / "rivals.txt").write_text(_head(rows) + "\n" + text + "\n", encoding="utf-8")
    blocks = [f"## {title}\n\n```text\n" + "\n".join(lines).rstrip() + "\n```" for title, lines in parts]
    said = [HOW.format(load=_load(rows)), *_lacking(rows), "## Versions and command lines", _commands(rows), *blocks, FAIR]
    (folder / "README.md").write_text("\n\n".join(part.strip("\n") for part in said) + "\n", encoding="utf-8")
    print(text)


HOW = """
# The load generator beside its rivals

Made by `python -m suites.selftest.bench.bench_load frames requests limit ttft freeze dispersion faults page`, with the interpreters
that have the rivals and a folder with a tokenizer for them; `rivals.jsonl` holds every run, `rivals.txt` the tables below,
`fault_catalogue.csv` what each tool said to each fault. A rival whose interpreter was not named is told as not evaluated.

- **One server for all**: `python -m harness.serve.stub`, one write and one packet (TCP_NODELAY) for each frame, over loopback.
- **Two shared cores** {load}: the client and all its processes on one of them, the stub on the other. Quote ratios, not seconds.
- **Turns**: each round every tool once, the first one moved on by one; ratios are of runs of the same round.
- **Processor-seconds** are of the whole tree between the first request that the stub saw and the end of the last answer, looked at
  ten times a second; what goes before and after (imports, tokenizers, tables) is told apart as start and end. Our own checks of
  the answers are made when the load is over, and are counted as if they were made within it; what a rival does after is not.
- **Real-time priority**: our shards ask the system for it, and as root they get it; the rivals do not ask. It costs no
  processor time, and on a machine that does other things too it makes sends and stamps more punctual.
"""

FAIR = """
## What a rival does that we do not

- vllm bench serve: multimodal and embedding requests, LoRA mixes, a dozen public data sets, plots of the timeline.
- GuideLLM: searches for goodput and for the knee by concurrency, HTML reports, audio and video, scenario files.
- AIPerf: telemetry of GPUs, many endpoint types, trace replays of agents, adaptive searches, confidence over repeated runs, a dashboard.
- inference-perf: runs in a cluster beside Prometheus, storage in clouds, validates its own reports.
- All four count tokens with a tokenizer of their own where the server does not say; we take the server's usage, and check it.

What is not compared: prompts are as long but not byte for byte the same (each tool writes its own JSON; inference-perf has mock prompts of
its own); vllm bench serve has no answers in one piece, its requests there are streams of one frame. SGLang's client and k6 were not there.
"""


def _lacking(rows: Sequence[Row]) -> list[str]:
    """What was not made, and what is to be known of what was."""
    tools = [r["tool"] for r in rows if r["piece"] == "versions" and r["version"]]
    lines = [f"- {r['text']}" for r in rows if r["piece"] == "note"]
    for piece in ("frames", "requests", "ttft", "freeze", "dispersion", "faults"):
        made = {r["tool"] for r in rows if r["piece"] == piece}
        if lacking := [SHOWN[tool] for tool in SHOWN if tool in {"ours", *tools} and tool not in made]:
            lines.append(f"- `{piece}` is not measured yet of {', '.join(lacking)}.")
    return ["## What is not here yet, and how the machine was", "\n".join(lines)] if lines else []


def _load(rows: Sequence[Row]) -> str:
    loads = [r["load_average"] for r in rows if r["piece"] in ("frames", "requests", "ttft", "freeze", "limit")]
    return f"with others at work (load average {min(loads):.1f} to {max(loads):.1f} meanwhile)" if loads else "with others at work"


def _commands(rows: Sequence[Row]) -> str:
    versions = {r["tool"]: r["version"] for r in rows if r["piece"] == "versions" and r["version"]}
    lines = []
    for tool in SHOWN:
        said = "this tree" if tool == "ours" else versions.get(tool) or "not evaluated: no interpreter with it was named"
        lines.append(f"- **{SHOWN[tool]}**: {said}")
        run = next((r for r in rows if r.get("argv") and r["tool"] == tool and r["piece"] in ("frames", "ttft")), None)
        lines += [f"  `{' '.join(run['argv'])}`"] if run else []
    return "\n".join(lines)


def _head(rows: Sequence[Row]) -> str:
    versions = {r["tool"]: r["version"] for r in rows if r["piece"] == "versions" and r["version"]}
    lines = ["Made by python -m suites.selftest.bench.bench_load; see README.md beside it.", ""]
    lines += [f"{SHOWN[tool]:18} {versions.get(tool, 'not evaluated')}" for tool in list(SHOWN)[1:]]
    return "\n".join([*lines, "", f"Two shared cores {_load(rows)}: quote ratios."]) + "\n"


def table(head: Sequence[str], body: Iterable[Sequence[Any]]) -> list[str]:
    """Columns as wide as they need to be."""
    cells = [list(map(str, line)) for line in (head, *body)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    return [
        "  ".join(cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))).rstrip()
        for line in cells
    ]


def _of(rows: Sequence[Row], **wanted: Any) -> Iterator[Row]:
    return (r for r in rows if all(r.get(key) == value for key, value in wanted.items()))


def _tools(rows: Iterable[Row]) -> list[str]:
    present = {r["tool"] for r in rows}
    return [tool for tool in SHOWN if tool in present]


def _number(x: float | None, unit: float = 1.0, digits: int = 3) -> str:
    if x is None:
        return "-"
    x *= unit
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.{digits}g}"


def per_second(r: Row, piece: str) -> float:
    """Frames, or requests, per processor-second of the whole tree while it was under load."""
    return float((r["frames"] if piece == "frames" else r["served"]) / r["cpu_s"])


def _rates(rows: Sequence[Row], piece: str) -> list[str]:
    found = [r for r in _of(rows, piece=piece) if r.get("cpu_s")]
    if not found:
        return []
    ours = {r["round"]: per_second(r, piece) for r in found if r["tool"] == "ours"}
    body = []
    for tool in _tools(found):
        mine = list(_of(found, tool=tool))
        rates = [per_second(r, piece) for r in mine]
        ratios = [ours[r["round"]] / rate for r, rate in zip(mine, rates, strict=True) if r["round"] in ours]
        walls = [(r["frames"] if piece == "frames" else r["served"]) / r["wall_s"] for r in mine]
        idle = [r["tree_cpu_s"] - r["cpu_s"] for r in mine]
        spread = f"{_number(min(rates))} to {_number(max(rates))}"
        middles = (_number(statistics.median(each)) for each in (walls, idle))
        body.append((SHOWN[tool], len(mine), mine[0]["served"], _number(statistics.median(rates)), spread, *middles, *_ratio(ratios)))
    stamps = [r["stamps"] / r["frames"] for r in found if r.get("stamps") and r["frames"]]
    said = [GOALS[piece]]
    if piece == "frames" and stamps:
        said += [
            f"The stub writes ahead of a slow client, which then reads many frames at once, for one wake-up and one true instant: of ours "
            f"{min(stamps):.0%} to {max(stamps):.0%}",
            "had an instant of their own. Frames that come one by one, 5 ms apart, are in the table of TTFT.",
        ]
    head = ("", "rounds", "requests", "/cpu-s", "least to most", "/s", "start, end cpu-s", "ours / it", "least to most")
    return [*said, "", *table(head, body), ""]


def _ratio(ratios: Sequence[float]) -> tuple[str, str]:
    if not ratios:
        return "-", "-"
    return f"{statistics.median(ratios):.1f}x", f"{min(ratios):.1f} to {max(ratios):.1f}"


def _limit(rows: Sequence[Row]) -> list[str]:
    """What the stub itself bears; where a client comes near it, its wall-clock rate is the stub's."""
    body = []
    for name in ("frames", "requests"):
        found = list(_of(rows, piece="limit", of=name))
        if found:
            body.append((f"cheapest client, {name}", _number(statistics.median(r["n"] / r["wall_s"] for r in found)),
                         _number(statistics.median(r["n"] / r["cpu_s"] for r in found))))  # fmt: skip
    return ["what the stub bears: sockets and epoll, bytes counted, nothing parsed", "", *table(("", "/s", "/cpu-s"), body)] if body else []


def _ttft(rows: Sequence[Row]) -> list[str]:
    found = [r for r in _of(rows, piece="ttft") if r.get("p50") is not None]
    body = []
    for tool in _tools(found):
        mine = list(_of(found, tool=tool))
        picked: Sequence[Callable[[Row], float | None]] = (
            lambda r: r["joined"],
            lambda r: r["rate"],
            lambda r: r["mean_us"],
            lambda r: r["p50"],
            lambda r: r["p90"],
            lambda r: r["p99"],
            lambda r: None if r["told_p99"] is None else r["told_p99"] * 1e3,
            lambda r: r["true_p99"] * 1e3,
            lambda r: r["frames"] / r["cpu_s"] if r["cpu_s"] else None,
        )
        body.append((SHOWN[tool], len(mine), *(_middle(map(pick, mine)) for pick in picked)))
    head = (
        "",
        "rounds",
        "joined",
        "sent/s",
        "mean us",
        "|error| p50 us",
        "p90 us",
        "p99 us",
        "p99 told ms",
        "true ms",
        "frames/cpu-s",
    )
    said = [
        "reported TTFT less the stub's: ours from when each request was due, the others from their own send (its lateness left out).",
        "Joined by the name that was sent, or by that of the answer. Goal: p50 at most 100 us, p99 1 ms.",
    ]
    return [*said, "", *table(head, body)] if body else []


def _middle(values: Iterable[float | None]) -> str:
    known = [x for x in values if x is not None]
    return _number(statistics.median(known)) if known else "-"


def _freeze(rows: Sequence[Row]) -> list[str]:
    found = list(_of(rows, piece="freeze"))
    body = []
    for who in ("client", "server"):
        for tool in _tools(found):
            for r in _of(found, tool=tool, who=who):
                true = r["exact"] or r["expected"]
                off = f"{r['e2e_p99'] / true - 1:+.1%}" if r["e2e_p99"] is not None else "-"
                beside = f"{r['arrival_p99'] / true - 1:+.1%}" if r["arrival_p99"] is not None else "-"
                void = ", ".join(sorted({text.partition(":")[0] for text in r["invalid"] or ()})) or "-"
                body.append((f"{who}, {SHOWN[tool]}", r["round"], _number(true, 1e3), "exact" if r["exact"] else
                             f"{_number(r['expected_low'], 1e3)} to {_number(r['expected_high'], 1e3)}", _number(r["ttft_p99"], 1e3),
                             _number(r["e2e_p99"], 1e3), off, _number(r["arrival_p99"], 1e3), beside, r["code"], void))  # fmt: skip
    said = [
        "Stopped: the client and all its processes for 500 ms, or the server for 1 s. Truth: the p99 of the schedule. Of ours it is",
        "exact (the stub's last byte, or the end of the client's sleep, after each was due); the rivals keep no schedule to compare",
        "with, so it is the middle of 400 simulated Poisson schedules, with their 5 and 95 %. Told: the tool's headline; beside:",
        "what it says from an arrival of its own reckoning.",
    ]
    head = ("frozen", "round", "true ms", "5 to 95 %", "told TTFT", "told e2e", "off", "beside", "off", "exit", "void")
    return [*said, "", *table(head, body)] if body else []


def _dispersion(rows: Sequence[Row]) -> list[str]:
    found = list(_of(rows, piece="dispersion"))
    body = []
    for tool in _tools(found):
        for r in _of(found, tool=tool):
            m = r["windows"]
            band = 4 * (2 / (m - 1)) ** 0.5 if m > 1 else 0.0
            inside = f"{max(0, 1 - band):.2f} to {1 + band:.2f}"
            cells = (SHOWN[tool], r["workers"], r["arrivals"], _number(r["rate"]), m, _number(r["idc_1s"]), inside, _number(r["idc_100ms"]))
            body.append((*cells, (r["schedule"] or "-")[:12]))
    head = ("", "workers", "arrivals", "rate", "windows of 1 s", "IDC 1 s", "band", "IDC 0.1 s", "schedule")
    said = [
        "Variance over mean of the counts: 1 of a Poisson process, 0 of equal gaps; band of the specification, section 6. One run each,",
        "the tools side by side. A schedule's digest is that of its instants: the same for any number of workers.",
    ]
    return [*said, "", *table(head, body)] if body else []


# --- the fault catalogue ---------------------------------------------------------------------------------


def _against(folder: Path) -> list[str]:
    """Of aa.csv, which ``load_aa`` writes."""
    if not (folder / "aa.csv").exists():
        return []
    with (folder / "aa.csv").open(encoding="utf-8") as stream:
        kept = list(csv.DictReader(stream))
    body = []
    for figure, effect in dict.fromkeys((r["figure"], r["effect"]) for r in sorted(kept, key=lambda r: (r["figure"], float(r["effect"])))):
        cell = list(_of(kept, figure=figure, effect=effect))
        told = [sum(r["outcome"] == outcome for r in cell) for outcome in ("fails", "inconclusive", "holds")]
        estimates = sorted(float(r["estimate"]) for r in cell if r["estimate"])
        void = sum(int(r["void_runs"]) for r in cell)
        body.append((f"{figure}, {float(effect):+.0%}", len(cell), *told, f"{estimates[0]:.3f} to {estimates[-1]:.3f}", void))
    size = f"{kept[0]['blocks']} blocks of four runs of {kept[0]['requests']} requests at 100/s"
    said = [
        f"Two stubs, queues whose quantiles are known, by the real client: {size},",
        "ten designs side by side; claimed is that the new one is no slower. The slower stub's service is stretched until its own oracle",
        "says +5 % of the median, or +10 % of p99.",
    ]
    return [*said, "", *table(("planted", "designs", "slower", "open", "no slower", "estimates", "void runs"), body)]


def verdict(r: Row) -> str:
    """Who said so: "red" by the exit status, "shown" by a figure beside exit 0, "let through" where neither says anything."""
    if str(r.get("said", "")).startswith("not_evaluated"):
        return "not evaluated"
    if r["code"] is None:
        return "hangs"
    if not r["number"] and not r["code"]:
        return "passes"
    if r["code"]:
        return "red"
    figures = (r["failed"] or 0) > 0, (r["e2e_p95"] or 0) > 1.0, r["good"] is not None and r["good"] < 0.95, (r["completed"] or 0) < 300
    return "shown" if any(figures) else "let through"


def headline(r: Row) -> str:
    """What it printed: completed and failed requests, p99 of TTFT, the share inside the limit."""
    said = (r.get("more") or {}).get("said")
    if r["tool"] == "ours":
        return reasons(said)
    if r.get("said"):
        return str(r["said"])
    good = "" if r["good"] is None else f", good {r['good']:.0%}"
    return f"{r['completed']} completed, {r['failed']} failed, p99 TTFT {_number(r['ttft_p99'], 1e3)} ms{good}"


def reasons(said: Any) -> str:
    """The outcomes and their codes of our own verdicts."""
    found = []

    def look(value: Any) -> None:
        if isinstance(value, Mapping):
            if "outcome" in value and "reason" in value:
                found.append(f"{value['outcome']}: {value['reason']}")
            for each in value.values():
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(said)
    return "; ".join(dict.fromkeys(found)) or "-"


def _faults(rows: Sequence[Row], folder: Path) -> list[str]:
    found = list({(r["number"], r["fault"], r["tool"]): r for r in _of(rows, piece="faults")}.values())
    if not found:
        return []
    found.sort(key=lambda r: (r["number"], r["fault"], list(SHOWN).index(r["tool"])))
    with (folder / "fault_catalogue.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["row", "fault", "tool", "verdict", "exit", *TELLING, "requests_struck", "headline"])
        for r in found:
            figures = [r.get(key) if not isinstance(r.get(key), float) else f"{r[key]:.6g}" for key in TELLING]
            writer.writerow([r["number"], r["fault"], SHOWN[r["tool"]], verdict(r), r["code"], *figures, r.get("struck"), headline(r)])
    tools = _tools(found)
    by = {(r["number"], r["fault"], r["tool"]): r for r in found}
    body = []
    for number, fault in dict.fromkeys((r["number"], r["fault"]) for r in found):
        cells = [_cell(by.get((number, fault, tool))) for tool in tools]
        body.append((f"{number:2d} {fault}", *cells))
    kinds = ("red", "shown", "let through", "hangs", "not evaluated")
    counts = [(SHOWN[tool], *(sum(verdict(r) == kind for r in _of(found, tool=tool) if r["number"]) for kind in kinds)) for tool in tools]
    said = [
        "300 requests, Poisson at 75/s, 8 frames each; a quarter of them struck, unless the fault is total. Limit: 95 % of the answers",
        "inside 1 s, by each tool's own option where it has one. red: the exit status says so. shown: exit 0, but failures are counted,",
        "or fewer than 95 % are good, or p95 is over the limit. let through: exit 0, and every figure is clean. hangs: killed after 150 s.",
    ]
    return [*said, "", *table(("", *(SHOWN[tool] for tool in tools)), body), "", *table(("faults", *kinds), counts)]


def _cell(r: Row | None) -> str:
    if r is None:
        return "-"
    if r["tool"] == "ours":
        return f"{verdict(r)}: {headline(r).rpartition(': ')[2]}"
    return verdict(r)
