"""What a claim keeps of a training that it rests on, so that the report can show its curve and its cost."""

from __future__ import annotations

from typing import Any


def told(bench: Any, name: str) -> dict[str, Any]:
    """Conditions with the training.json of the subject ``name``; empty where nothing was trained here."""
    spec = bench.settings.subject(name)
    if not (spec.recipe or spec.scheme == "adapter"):
        return {}
    start = str(bench.settings.recipes.get(name, {}).get("start", "base"))
    return {"training": {"name": name, "start": start, **bench.trained(name).report}}
