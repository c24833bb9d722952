"""What was approved of the servers: ``golden/baselines/serve.json``, made by ``python -m suites.serve.baseline`` and reviewed.

By server the verdict of each objective, and percentiles for the reader's eye. A time that was measured on another machine, or
on another day, is no arm of a comparison: asked for again is the verdict alone, judged on the load of this run. Where two
numbers are to be compared, both servers are run here and now, in blocks (``test_optimised``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any

from harness import provenance
from harness.config import Served, Settings
from harness.errors import GoldenError
from harness.judge import judge
from harness.records import Load
from harness.serve import slo
from harness.types import Verdict


def approved(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """By server: objectives with their verdicts. {} where nothing was approved, or for another lifecycle."""
    path = settings.golden / "baselines" / "serve.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise GoldenError(f"{path}: not JSON ({error}); restore it with git, or make it again: python -m suites.serve.baseline") from error
    if not isinstance(found, dict) or found.get("lifecycle") != settings.name:
        return {}
    servers: Mapping[str, Mapping[str, Any]] = found.get("servers", {})
    return {name: {**one, "machine": found.get("machine"), "day": found.get("day")} for name, one in servers.items()}


def verdicts(load: Load, served: Served) -> dict[str, Verdict]:
    """What this load says of each objective."""
    return {each.name: judge(slo.limit_claim(each, served.name), slo.measurement(load, each)) for each in served.slo}


def approve(load: Load, served: Served) -> dict[str, Any]:
    """What may be approved: objectives that are decided, and percentiles for the eye."""
    decided = {name: one.outcome for name, one in verdicts(load, served).items() if one.outcome in ("holds", "fails")}
    seen = {metric: slo.described(load, metric, (0.5, 0.95)).quantiles for metric in ("ttft", "tpot", "e2e")}
    shown = {f"{metric}_p{q * 100:g}": row[0] for metric, rows in seen.items() for q, row in rows.items()}
    return {"verdicts": decided, "seen_s": {name: None if x is None else round(x, 4) for name, x in shown.items()}}


def main() -> None:
    """Prints a new baseline, to be read by a person and put in place of the approved one."""
    from pathlib import Path

    from harness import config
    from harness.lifecycle import Workbench
    from harness.progress import to_terminal
    from harness.store import Store, default_root

    settings = config.load(Path("fixtures/lifecycle.toml"))
    bench = Workbench(settings, Store(default_root()), settings.tier("full"), to_terminal())
    try:
        servers = {name: approve(bench.serving.promised(name).load, served) for name, served in settings.serve.items() if served.engine}
    finally:
        bench.close()
    made = {"lifecycle": settings.name, "day": date.today().isoformat(), "machine": provenance.machine(), "servers": servers}
    print(json.dumps(made, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
