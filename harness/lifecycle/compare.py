"""Two arms on one golden set, put side by side: health first, then scores, then what may be said of the difference.

``compare`` measures through the workbench, or reads the results of another tool, and decides through ``harness.judge``
alone. What comes out is one record of plain data; ``harness.report.comparison`` shows it.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.bounds import better_than, non_inferior
from harness.config import SCHEMES, Settings
from harness.errors import ConfigError
from harness.evals import health, pair, scorers
from harness.evals.judges.sheets import inert
from harness.golden import GoldenSet
from harness.judge import judge
from harness.lifecycle import Workbench
from harness.stats import families, intervals, means
from harness.types import Claim, Estimand, Measurement, Sample, Verdict

__all__ = ["Asked", "Comparison", "arm", "as_csv", "compare", "compare_files", "judged", "named"]

_LEAST = 10  # items of a slice that is shown
_VALUES = 12  # values of a field that makes slices
_FLIPS = 20  # pairs of answers kept in the record, of each kind

Group = Callable[[str], Mapping[str, str]]
"""From an item's id to the slices it lies in: a name for each way of cutting."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is claimed of ``new`` against ``old``: not worse by ``margin``, on the score scale; ``alpha`` None: the bound's own."""

    old: str
    new: str
    margin: float = 0.05
    alpha: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """``record``: everything that is shown, as plain data. ``samples``: the answers of both arms behind it."""

    record: Mapping[str, Any]
    samples: tuple[Sample, ...]


def named(settings: Settings, a: str, b: str) -> tuple[Settings, tuple[str, str] | None]:
    """Both arms as names of subjects, with the settings that know them; None for two files of results.

    An arm is a name of the lifecycle file, ``name=scheme:location``, ``scheme:location`` or a file or folder of results.
    ConfigError where one is a file of results and the other is not, or two subjects bear one name.
    """
    files = [not _is_subject(settings, text) and Path(text).exists() for text in (a, b)]
    if any(files) and (gone := next((t for t, there in zip((a, b), files, strict=True) if not there and _looks_like_a_file(t)), None)):
        raise ConfigError(f"{gone}: no such file; the other arm is a file of results")
    if all(files):
        return settings, None
    if any(files):
        raise ConfigError(f"{a if files[0] else b} is a file of results and {b if files[0] else a} is not: answers pair with answers only")
    specs = [_spec(settings, text, letter) for text, letter in ((a, "A"), (b, "B"))]
    names = [spec.partition("=")[0] if spec else text for spec, text in zip(specs, (a, b), strict=True)]
    if names[0] == names[1] and any(specs):
        raise ConfigError(f"both arms are called {names[0]!r}; name one of them otherwise: other=hf:./folder")
    return settings.with_subjects([spec for spec in specs if spec]), (names[0], names[1])


def arm(settings: Settings, text: str) -> tuple[Settings, str]:
    """One subject by its name, with the settings that know it; ``text`` as in ``named``, files left out."""
    spec = _spec(settings, text, "mine")
    return (settings.with_subjects([spec]), spec.partition("=")[0]) if spec else (settings, text)


def _looks_like_a_file(text: str) -> bool:
    return "/" in text or Path(text).suffix in (".json", ".jsonl", ".eval")


def _is_subject(settings: Settings, text: str) -> bool:
    return text in settings.subjects or "=" in text or ":" in text


def _spec(settings: Settings, text: str, letter: str) -> str:
    """``name=scheme:location``, or "" for a name that is known or derived (``unmerged:NAME``)."""
    if text in settings.subjects:
        return ""
    head = text.partition("=")[0]
    if "=" in text and not {":", "/"} & set(head):
        return text
    scheme, _, location = text.partition(":")
    ready = scheme in ("http", "https") or (scheme in SCHEMES and location not in settings.subjects)
    return f"{letter}={text}" if ready else ""


# --- measuring ----------------------------------------------------------------------------------


def compare(bench: Workbench, asked: Asked, set_name: str, *, shots: tuple[int, int] = (0, 0)) -> Comparison:
    """Two subjects on a golden set; ``shots`` are the worked examples shown to old and new."""
    chosen = bench.golden(set_name)
    old, new = (bench.answers(name, set_name, shots=k) for name, k in zip((asked.old, asked.new), shots, strict=True))
    notes = []
    if old.subject.digest == new.subject.digest and shots[0] == shots[1]:
        notes.append("both arms are the same subject: what differs is noise")
    if bench.tier.name != "full":
        notes.append(f"tier {bench.tier.name}: {chosen.n} items of the set; this is no proof")
    measurement = Measurement(
        set_name, pair(new.samples, old.samples), (new.subject, old.subject),
        {"new": dict(new.conditions), "old": dict(old.conditions)}, notes=tuple(notes),
    )  # fmt: skip
    task = {"name": set_name, "kind": chosen.kind, "digest": chosen.digest, "source": chosen.source}
    if chosen.kind != "multiple_choice":
        task["scorer"] = scorers.of_set(chosen).name
    return judged(asked, measurement, task, _slices_of(chosen))


def compare_files(asked: Asked, old: Path, new: Path, *, which: Mapping[str, str] | None = None, other_prompts: bool = False) -> Comparison:
    """Two runs of another tool: lm-eval, Inspect, promptfoo or DeepEval.

    ``which`` names task, metric, filter or column where a file holds several.
    """
    from harness.evals import bridge

    if old.resolve() == new.resolve():
        raise ConfigError(f"{old} stands on both sides: a file compared with itself shows nothing")
    runs = bridge.read(old, **(which or {})), bridge.read(new, **(which or {}))
    measurement = bridge.compared(runs[1], runs[0], other_prompts=other_prompts)
    return judged(asked, measurement, {"name": runs[1].task, "kind": runs[1].source, "digest": "", "scorer": runs[1].metric})


# --- deciding -----------------------------------------------------------------------------------


def judged(asked: Asked, measurement: Measurement, task: Mapping[str, Any], groups: Group | None = None) -> Comparison:
    """A paired measurement with everything that is shown of it. The task needs ``name``, ``kind`` and ``digest``."""
    arms = {arm: [s for s in measurement.samples if s.arm == arm] for arm in ("old", "new")}
    binary = all(s.value in (0, 1, None) for s in measurement.samples) and not any(s.replicate for s in measurement.samples)
    estimand: Estimand = "paired_difference" if binary else "paired_mean"
    text = f"{asked.new} is not worse than {asked.old} on {task['name']} by {asked.margin:g}"
    claims = (
        Claim("compare.not_worse", text, non_inferior(asked.margin), estimand, asked.alpha),
        Claim(
            "compare.better", f"{asked.new} is better than {asked.old} on {task['name']}", better_than(), estimand, asked.alpha,
            expected=asked.margin,
        ),
    )  # fmt: skip
    not_worse, better = (judge(claim, measurement) for claim in claims)
    word, sentence = _word(asked, not_worse, better)
    conditions = measurement.conditions
    sides = zip(arms.items(), (asked.old, asked.new), strict=True)
    record = {
        "task": {**task, "n": len({s.item for s in measurement.samples}), "estimand": estimand},
        "margin": asked.margin,
        "arms": {arm: _arm(name, rows, conditions.get(arm), binary) for (arm, rows), name in sides},
        "subjects": [{"name": s.name, "scheme": s.scheme, "digest": s.digest} for s in measurement.subjects],
        "differing": _differing(conditions.get("old"), conditions.get("new")),
        "verdict": word,
        "sentence": sentence,
        "claims": [_claim(claim, verdict) for claim, verdict in zip(claims, (not_worse, better), strict=True)],
        "slices": _slices(asked, measurement, estimand, groups or _by_length(arms["old"])),
        "flips": _flips(arms),
        "notes": [*measurement.notes, *(f"void: {why}" for why in measurement.invalid)],
    }
    return Comparison(record, measurement.samples)


def _word(asked: Asked, not_worse: Verdict, better: Verdict) -> tuple[str, str]:
    if better.outcome == "holds":
        return "better", f"{asked.new} is better than {asked.old}"
    if not_worse.outcome == "holds":
        less = f"{asked.new} is worse than {asked.old}, by less than {asked.margin:g}" if better.outcome == "fails" else ""
        return "not worse", less or f"{asked.new} is not worse than {asked.old} by {asked.margin:g} or more"
    if not_worse.outcome == "fails":
        return "worse", f"{asked.new} is worse than {asked.old} by {asked.margin:g} or more"
    return "undecided", f"whether {asked.new} is worse than {asked.old} by {asked.margin:g} is not decided: {not_worse.sentence}"


def _claim(claim: Claim, verdict: Verdict) -> dict[str, Any]:
    names = (
        "outcome", "reason", "sentence", "estimate", "low", "high", "level", "p_hold", "p_fail", "alpha", "n", "n_unusable",
        "n_needed", "n_needed_90", "method",
    )  # fmt: skip
    said = {name: getattr(verdict, name) for name in names}
    return {"id": claim.id, "text": claim.text, "bound": str(claim.bound), **said, "statistics": dict(verdict.statistics)}


def _arm(name: str, rows: Sequence[Sample], conditions: Any, binary: bool) -> dict[str, Any]:
    return {"name": name, "health": health.rates(rows), "score": _score(rows, binary), "conditions": dict(conditions or {})}


def _score(rows: Sequence[Sample], binary: bool) -> dict[str, Any]:
    """The arm's own score with a 90% interval; what could not be scored is wrong where answers are right or wrong."""
    values = [s.value for s in rows if s.value is not None]
    if binary and rows:
        right = sum(int(value) for value in values)
        exact = intervals.clopper_pearson(right, len(rows), 0.05)
        return {"estimate": right / len(rows), "low": exact.low, "high": exact.high, "right": right, "n": len(rows)}
    if not values:
        return {"estimate": None, "low": None, "high": None, "n": len(rows)}
    mean = math.fsum(values) / len(values)
    units = [s.cluster or s.item for s in rows if s.value is not None]
    low, high = _limits(values, units)
    return {"estimate": mean, "low": low, "high": high, "n": len(rows)}


def _limits(values: Sequence[float], units: Sequence[str]) -> tuple[float | None, float | None]:
    if len(set(units)) < 2:
        return None, None
    found = means.cluster_mean(values, units, 0.05)
    return found.low, found.high


def _differing(old: Any, new: Any) -> list[dict[str, Any]]:
    """Conditions that are not the same in both arms, key by key: a difference in score may be theirs."""
    flat = [dict(_flat("", side if isinstance(side, Mapping) else {})) for side in (old, new)]
    keys = sorted({*flat[0], *flat[1]})
    return [{"key": key, "old": flat[0].get(key), "new": flat[1].get(key)} for key in keys if flat[0].get(key) != flat[1].get(key)]


def _flat(prefix: str, table: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in table.items():
        found += _flat(f"{prefix}{key}.", value) if isinstance(value, Mapping) else [(prefix + str(key), value)]
    return found


# --- slices -------------------------------------------------------------------------------------


def _slices(asked: Asked, measurement: Measurement, estimand: Estimand, groups: Group) -> list[dict[str, Any]]:
    """Each slice judged alone and then all together (Benjamini-Hochberg): exploratory, never a gate."""
    members: dict[str, list[Sample]] = {}
    for sample in measurement.samples:
        for name in groups(sample.item).values():
            members.setdefault(name, []).append(sample)
    claim = Claim("compare.slice", "the arms differ in this slice", better_than(), estimand, asked.alpha)
    found: list[dict[str, Any]] = []
    ps: list[float] = []
    for name, rows in sorted(members.items()):
        n = len({s.item for s in rows})
        verdict = judge(claim, replace(measurement, samples=tuple(rows)))
        if n < _LEAST or verdict.p_hold is None or verdict.p_fail is None:
            continue
        ps.append(min(1.0, 2 * min(verdict.p_hold, verdict.p_fail)))
        found.append({"name": name, "n": n, "estimate": verdict.estimate, "low": verdict.low, "high": verdict.high})
    adjusted = families.benjamini_hochberg(ps) if ps else []
    return [{**row, "p": p, "p_adjusted": float(f"{q:.9g}")} for row, p, q in zip(found, ps, adjusted, strict=True)]


def _slices_of(golden: GoldenSet) -> Group:
    """By length of the question, by the fields of a target, and by each declared field of few values."""
    of_length = _thirds({i["id"]: len(str(i.get("input") or i.get("prompt") or i.get("question") or "")) for i in golden.items})
    items = {item["id"]: item for item in golden.items}
    targets = [item.get("target") for item in golden.items]
    keys = sorted({key for target in targets if isinstance(target, dict) for key in target})
    known = {"id", "input", "prompt", "question", "target", "choices", "answer", "tests", "entry_point", "text", "scorer"}
    own = [key for key in (golden.items[0] if golden.items else {}) if key not in known and _few([i.get(key) for i in golden.items])]

    def groups(item: str) -> Mapping[str, str]:
        row = items.get(item, {})
        target = row.get("target")
        return {
            "length": of_length.get(item, "no input"),
            **({f"field {key}": f"{'with' if key in target else 'without'} {key}" for key in keys} if isinstance(target, dict) else {}),
            **({"position": f"right choice {row['answer'] + 1}"} if "choices" in row else {}),
            **{key: f"{key} {row.get(key)}" for key in own},
        }

    return groups


def _few(values: Sequence[Any]) -> bool:
    return all(isinstance(value, (str, int, float, bool)) for value in values) and 2 <= len(set(values)) <= _VALUES


def _by_length(rows: Sequence[Sample]) -> Group:
    found = _thirds({s.item: len(str(s.detail.get("input") or "")) for s in rows})
    return lambda item: {"length": found[item]} if item in found else {}


def _thirds(lengths: Mapping[str, int]) -> dict[str, str]:
    """Short, middle and long, cut at the thirds; nothing where all are alike."""
    ordered = sorted(lengths.values())
    if len(set(ordered)) < 3:
        return {}
    low, high = ordered[len(ordered) // 3], ordered[2 * len(ordered) // 3]
    return {item: "short input" if n < low else "long input" if n >= high else "middle input" for item, n in lengths.items()}


# --- flips --------------------------------------------------------------------------------------


def _pairs(arms: Mapping[str, Sequence[Sample]]) -> list[tuple[Sample, Sample, str]]:
    """Old and new answer to each item of both arms, and "lost", "gained" or ""."""
    theirs = {(s.item, s.replicate): s for s in arms["old"]}
    found = []
    for new in sorted(arms["new"], key=lambda s: (s.item, s.replicate)):
        old = theirs.get((new.item, new.replicate))
        if old is not None:
            gain = (new.value or 0.0) - (old.value or 0.0)
            found.append((old, new, "gained" if gain > 0 else "lost" if gain < 0 else ""))
    return found


def _flips(arms: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    pairs = _pairs(arms)
    found: dict[str, Any] = {}
    for kind in ("lost", "gained"):
        rows = [(old, new) for old, new, flip in pairs if flip == kind]
        found[kind] = {"count": len(rows), "shown": [_shown(old, new) for old, new in rows[:_FLIPS]]}
    return found


def _shown(old: Sample, new: Sample) -> dict[str, Any]:
    return {
        "item": new.item,
        "input": str(new.detail.get("input") or old.detail.get("input") or ""),
        "target": str(new.detail.get("target") or old.detail.get("target") or ""),
        "old": {"text": str(old.detail.get("text", "")), "status": old.status, "value": old.value},
        "new": {"text": str(new.detail.get("text", "")), "status": new.status, "value": new.value},
    }


def as_csv(samples: Sequence[Sample]) -> str:
    """A row per item with both answers. Text that a spreadsheet would run as a formula gets an apostrophe before it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["item", "flip", "old_value", "old_status", "new_value", "new_status", "input", "target", "old_text", "new_text"])
    arms = {arm: [s for s in samples if s.arm == arm] for arm in ("old", "new")}
    for old, new, flip in _pairs(arms):
        row = _shown(old, new)
        cells = [row["item"], flip, old.value, old.status, new.value, new.status, row["input"], row["target"]]
        cells += [row["old"]["text"], row["new"]["text"]]
        writer.writerow([inert(cell) if isinstance(cell, str) else cell for cell in cells])
    return out.getvalue()
