"""Asking a subject, and never asking twice: answers and log-probabilities are kept by what shaped them.

A call to the engine is the unit that is kept. Its key holds the subject's content, the engine with its versions and
options, the sampling, and the texts of the call in their order: in 16 bits an answer depends on what is computed beside
it, so the company it had is a condition of it. Targets and scorers are not in the key: a set whose targets were mended,
or a scorer that was, asks nobody again. A killed run goes on at the call where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness import provenance
from harness.engines.common import answered
from harness.errors import StoreError
from harness.store import digest_json
from harness.types import Generation, Prompt, Sampling, Scored, TokenLogprobs

if TYPE_CHECKING:
    from harness.lifecycle import Workbench

__all__ = ["Asking"]

_CALL = 64  # texts a call: enough for the engine to batch, small enough to show progress


class Asking:
    """What a workbench's subjects answered. ``fresh`` asks apart from all other answers; ``rerun`` > 0 in another order."""

    def __init__(self, bench: Workbench) -> None:
        self._bench = bench

    def generate(
        self, name: str, what: str, prompts: Sequence[Prompt], sampling: Sampling, *, fresh: str = "", rerun: int = 0
    ) -> tuple[list[Generation], dict[str, Any]]:
        """An answer for each prompt, in the order given, and the conditions they were taken under."""
        said = {**asdict(sampling), "stop": list(sampling.stop)}
        calls = self._calls(name, what, prompts, rerun, {"sampling": said, "fresh": fresh, "drawn": sampling.temperature > 0},
                            lambda engine, part: engine.generate(part, sampling=sampling))  # fmt: skip
        rows, conditions = self._gathered(name, prompts, calls)
        answers = answered([Generation(**row) for row in rows], f"{name}, asked {what}")
        return answers, {**conditions, "order": _order(rerun), "sampling": said}

    def score(
        self, name: str, what: str, texts: Sequence[Scored], *, fresh: str = "", rerun: int = 0
    ) -> tuple[list[TokenLogprobs], dict[str, Any]]:
        """Log-probabilities of each text's continuations, in the order given, and the conditions they were taken under."""
        calls = self._calls(name, what, texts, rerun, {"fresh": fresh, "drawn": False}, lambda engine, part: engine.logprobs(part))
        rows, conditions = self._gathered(name, texts, calls)
        found = [TokenLogprobs(row["id"], tuple(map(tuple, row["tokens"])), tuple(map(tuple, row["logprobs"]))) for row in rows]
        return found, {**conditions, "order": _order(rerun)}

    def _calls(
        self, name: str, what: str, items: Sequence[Any], rerun: int, said: Mapping[str, Any], ask: Callable[[Any, list[Any]], list[Any]]
    ) -> list[tuple[list[Any], dict[str, Any]]]:
        """Each call with what came of it, made unless it was made before."""
        ordered = sorted(items, key=_by_length if not rerun else lambda item: _shuffled(rerun, item.id))
        common = {**self._bench.inputs(name), "gpu": provenance.machine()["gpu"], **said}
        done = []
        for start in range(0, len(ordered), _CALL):
            part = ordered[start : start + _CALL]
            asked = digest_json([_text(item, named=bool(said["drawn"])) for item in part])

            def make(part: list[Any] = part, start: int = start) -> dict[str, Any]:
                self._bench.progress(f"{what} by {name}", start, len(ordered))
                engine = self._bench.engine(name)
                rows = [{k: v for k, v in asdict(row).items() if k != "id"} for row in ask(engine, part)]
                self._bench.progress(f"{what} by {name}", start + len(part), len(ordered))
                return {"rows": rows, "engine": dict(engine.describe())}

            done.append((part, self._bench.store.make_json("asked", {**common, "asked": asked}, make)))
        return done

    def _gathered(
        self, name: str, items: Sequence[Any], calls: Sequence[tuple[list[Any], dict[str, Any]]]
    ) -> tuple[list[Any], dict[str, Any]]:
        engines = [kept["engine"] for _, kept in calls]
        if any(engine != engines[0] for engine in engines):
            raise StoreError(f"store: answers of {name} were taken under different conditions: remove {self._bench.store.root / 'asked'}")
        rows = {item.id: row for part, kept in calls for item, row in zip(part, kept["rows"], strict=True)}
        return [{"id": item.id, **rows[item.id]} for item in items], {"engine": engines[0]} if engines else {}


def _order(rerun: int) -> str:
    return f"shuffled by seed {rerun}, {_CALL} a call" if rerun else f"by length, {_CALL} a call"


def _by_length(item: Any) -> tuple[int, str]:
    text = item.context if isinstance(item, Scored) else item.text or "".join(m["content"] for m in item.messages)
    return len(text), item.id


def _shuffled(rerun: int, item: str) -> str:
    return hashlib.sha256(f"{rerun}\0{item}".encode()).hexdigest()


def _text(item: Any, *, named: bool) -> list[Any]:
    """What of an item reaches the model. Its name does only where it seeds the sampling."""
    if isinstance(item, Scored):
        return [item.context, list(item.continuations), item.full]
    return [[dict(m) for m in item.messages], item.text, item.id if named else ""]
