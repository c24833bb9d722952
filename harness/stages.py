"""The stages of a model's life, in order: what ``--only`` and ``--from`` name, what a run goes through, and how long each took.

A stage is the marker of a test. Tests without one come first, in the order they were given.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from harness.errors import ConfigError, nearest

__all__ = ["STAGES", "chosen", "left", "stage_of"]

STAGES = ("data", "train", "prefer", "evals", "judge", "quant", "serve", "card", "track", "dossier", "capstone")


def chosen(only: Sequence[str] = (), since: str = "") -> tuple[str, ...]:
    """The stages that ``only`` names (each may be several, with commas), from ``since`` on; all where neither is given.

    ConfigError for a name that is no stage, or where nothing is left.
    """
    named = [name.strip() for each in only for name in each.split(",")]
    for name in [*named, *([since] if since else [])]:
        if name not in STAGES:
            raise ConfigError(f"no stage {name!r}; {nearest(name, list(STAGES))}")
    rest = STAGES[STAGES.index(since) :] if since else STAGES
    kept = tuple(stage for stage in rest if not named or stage in named)
    if not kept:
        raise ConfigError(f"--only {','.join(named)} --from {since}: no stage is both; the stages are {', '.join(STAGES)}")
    return kept


def stage_of(marks: Collection[str]) -> str:
    """The stage of a test with these marks, "" for none."""
    return next((stage for stage in STAGES if stage in marks), "")


def left(stage: str, ahead: Sequence[str], took: Mapping[str, float]) -> float | None:
    """Seconds from the beginning of ``stage`` to the end of the last of ``ahead``, as long as they ``took`` the last time; None where
    one of them has never been seen."""
    wanted = (stage, *ahead)
    return sum(took[each] for each in wanted) if all(each in took for each in wanted) else None
