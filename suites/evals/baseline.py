"""G2's approved baseline: ``golden/baselines/G2.json``, made by ``python -m suites.evals.baseline`` and reviewed like any golden file.

``exact``: answers of the base in float32 to a few items whose every step chose its token by a clear lead, many times what
float32 and batching can move, so that another machine must give the same characters. ``rates``: what the trained subject
answered right, and of how many. ``weights`` is the SHA-256 of the base's weights: other weights need a new approval.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from harness import evals
from harness.config import Settings
from harness.engines import open_engine
from harness.errors import GoldenError
from harness.golden import GoldenSet
from harness.store import digest_file
from harness.types import Prompt, Sampling, Scored

EXACT = "float32"
ITEMS = 12  # approved
TRIED = 24  # the shortest of the set, by length and id
LEAD = 0.05  # nats between the likeliest token and the next, at every step of an approved answer
MARGIN = 50  # times the noise that the lead must be
SAMPLING = Sampling(max_tokens=24)


def exact(settings: Settings) -> Mapping[str, Any] | None:
    """What was approved to the character; None where nothing was."""
    found: Mapping[str, Any] | None = _read(settings).get("exact")
    return found


def rates(settings: Settings) -> Mapping[str, Mapping[str, Any]]:
    """Approved pass rates by golden set: subject, k right of n."""
    found: Mapping[str, Mapping[str, Any]] = _read(settings).get("rates", {})
    return found


def _read(settings: Settings) -> Mapping[str, Any]:
    path = settings.golden / "baselines" / "G2.json"
    if settings.compare is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise GoldenError(f"{path}: not JSON ({error}); restore it with git, or make it again: python -m suites.evals.baseline") from error
    if not isinstance(found, dict) or found.get("lifecycle") != settings.name:
        return {}  # approved for another lifecycle
    return found


def answer(bench: Any, name: str, questions: Sequence[Prompt]) -> dict[str, Any]:
    """The answers in float32, one question at a time, and the digest of the weights that gave them."""
    folder = bench.path(name)
    inputs = {**bench.inputs(name), "questions": [list(map(dict, q.messages)) for q in questions], "max_tokens": SAMPLING.max_tokens}

    def ask() -> dict[str, Any]:
        engine = open_engine("hf", folder, dtype="float32", batch_items=1)
        try:
            said = engine.generate(questions, sampling=SAMPLING)
            whole = [g.id for g in said if g.finish == "length"]  # where an answer ends is a choice too, which no text shows
            return {"answers": {g.id: g.text for g in said}, "whole": whole, "engine": dict(engine.describe())}
        finally:
            engine.close()

    kept: dict[str, Any] = bench.cached("exact", inputs, ask)
    return {**kept, "weights": digest_file(folder / "model.safetensors")}


def asked(golden: GoldenSet, ids: Sequence[str]) -> list[Prompt]:
    """The questions of these items, in their order."""
    by_id = {prompt.id: prompt for prompt in evals.prompts(golden)}
    missing = [item for item in ids if item not in by_id]
    if missing:
        raise GoldenError(f"golden set {golden.name}: the baseline names {missing[0]!r}, which it does not hold: approve a new baseline")
    return [by_id[item] for item in ids]


def approve(bench: Any, set_name: str, name: str) -> dict[str, Any]:
    """What may be approved: the items whose least lead is clear, with the lead and the noise that were measured."""
    chosen = bench.whole_set(set_name)
    shortest = sorted(chosen.items, key=lambda item: (len(item["input"]), item["id"]))[:TRIED]
    questions = asked(chosen, [item["id"] for item in shortest])
    said = answer(bench, name, questions)
    alone, together = (_leads(bench.path(name), questions, said["answers"], size) for size in (1, 16))
    noise = max(abs(a - b) for q in questions for a, b in zip(alone[q.id], together[q.id], strict=True))
    clear = [item for item in said["whole"] if len(alone[item]) == SAMPLING.max_tokens and min(alone[item]) >= max(LEAD, MARGIN * noise)]
    items = {item: {"answer": said["answers"][item], "lead": round(min(alone[item]), 4)} for item in clear[:ITEMS]}
    return {"set": set_name, "subject": name, "weights": said["weights"], "noise": float(f"{noise:.2g}"), "lead": LEAD, "items": items}


def _leads(folder: Any, questions: Sequence[Prompt], answers: Mapping[str, str], size: int) -> dict[str, list[float]]:
    """By how much each token of an answer led every other, in nats; negative where it is not the one that was chosen."""
    engine: Any = open_engine("hf", folder, dtype="float32", batch_items=size)
    try:
        scored = engine.logprobs([Scored(q.id, engine.render(q.messages), (answers[q.id],), True) for q in questions])
    finally:
        engine.close()
    leads = {}
    for one in scored:
        steps = zip(one.tokens[0], one.distributions[0], strict=True)
        leads[one.id] = [float(row[token] - max(row[:token].max(initial=-inf), row[token + 1 :].max(initial=-inf))) for token, row in steps]
    return leads


def main() -> None:
    """Prints a new baseline, to be read by a person and put in place of the approved one."""
    from pathlib import Path

    from harness import config
    from harness.lifecycle import Workbench
    from harness.progress import to_terminal
    from harness.store import Store, default_root

    settings = config.load(Path("fixtures/lifecycle.toml"))
    if settings.compare is None:
        raise GoldenError(f"{settings.path}: no [compare], so there is nothing to approve")
    bench = Workbench(settings, Store(default_root()), settings.tier("full"), to_terminal())
    said, primary = settings.compare, settings.compare.primary
    right = bench.answers(said.tuned, primary).samples
    rate = {"subject": said.tuned, "k": sum(s.value == 1 for s in right), "n": len(right)}
    made = {"lifecycle": settings.name, "exact": approve(bench, primary, said.base), "rates": {primary: rate}}
    bench.close()
    print(json.dumps(made, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
