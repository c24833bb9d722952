"""A judge: what labels an answer yes or no, frozen by a digest over everything that shapes its labels.

Two kinds. A *rule* is a program. A *model* is a subject of the lifecycle that is asked with a rubric: the label word with
the higher log-probability, or, where an engine shows none, the word its text begins with. Of two answers a judge says
which deserves the positive label more; it is always asked in both orders, and two answers that contradict each other are a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from harness.errors import ConfigError, nearest
from harness.evals import refusals
from harness.golden import GoldenSet
from harness.store import digest_file, digest_json

__all__ = ["MODEL_PROBES", "RULES", "RULE_PROBES", "Answer", "Example", "Judge", "Pair", "digest", "labelled", "parse", "variations"]

Reads = Literal["logprob", "text"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What is judged: an answer to a request."""

    id: str
    prompt: str
    text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers of which one may deserve the positive label more; ``prompt`` is "" where they answer different requests."""

    id: str
    prompt: str
    first: str
    second: str


@dataclass(frozen=True, slots=True)
class Example:
    """A worked example of a rubric."""

    prompt: str
    answer: str
    label: str


@dataclass(frozen=True, slots=True)
class Judge:
    """``task`` is what the positive label says of an answer; ``labels`` the golden set of people's labels for it.

    A rule gives 1, 0 or None (cannot say) for an answer; ``prefers``, of a pair, 1 (the first), 0 or .5 (neither), by
    default from the rule's labels. ``words`` are the label words, positive first. ``code`` is the digest of the
    program that reads: of the rule, or of what reads a model's labels.
    """

    name: str
    task: str
    labels: str
    code: str
    rule: Callable[[Answer], float | None] | None = None
    prefers: Callable[[Pair], float | None] | None = None
    subject: str = ""
    rubric: str = ""
    pairwise: str = ""
    examples: tuple[Example, ...] = ()
    words: tuple[str, str] = ("Yes", "No")
    reads: Reads = "logprob"
    max_tokens: int = 8
    probes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """ "rule" or "model"."""
        return "model" if self.rule is None else "rule"

    def preference(self, pair: Pair) -> float | None:
        """Of a rule: which of the two, asked in this order."""
        if self.prefers is not None:
            return self.prefers(pair)
        assert self.rule is not None  # a model is asked by its engine
        first, second = (self.rule(Answer(pair.id, pair.prompt, text)) for text in (pair.first, pair.second))
        return None if first is None or second is None else (1 + first - second) / 2


def _declines(answer: Answer) -> float:
    return float(refusals.refusal_in(answer.text) is not None)


def _complies(answer: Answer) -> float:
    return 1.0 - _declines(answer)


RULES: Mapping[str, Callable[[Answer], float | None]] = {"declines": _declines, "complies": _complies}

RULE_PROBES = ("retest", "length", "format", "position", "injection")
MODEL_PROBES = (*RULE_PROBES, "self")

# What decides beside the subject. The name does not, nor which labels it is measured on.
_SHAPES = ("task", "code", "rubric", "pairwise", "words", "reads", "max_tokens")


def digest(judge: Judge, model: str) -> str:
    """SHA-256 over model digest ("" for a rule), prompt, rubric with examples, label words, parser code and decoding."""
    shown = [[e.prompt, e.answer, e.label] for e in judge.examples]
    shape = {name: list(value) if isinstance(value := getattr(judge, name), tuple) else value for name in _SHAPES}
    return digest_json({"kind": judge.kind, "model": model, "examples": shown, **shape})


def variations(judge: Judge, model: str) -> dict[str, tuple[Judge, str]]:
    """The judge with one thing changed, by what it is: each must void its calibration."""
    changed: dict[str, tuple[Judge, str]] = {
        "the task": (replace(judge, task=judge.task + "-2"), model),
        "the code that reads": (replace(judge, code=_other_letter(judge.code)), model),
    }
    if judge.kind == "rule":
        return changed
    return {
        **changed,
        "the model's weights": (judge, _other_letter(model)),
        "one letter of the rubric": (replace(judge, rubric=_other_letter(judge.rubric)), model),
        "one letter of the pairwise rubric": (replace(judge, pairwise=_other_letter(judge.pairwise)), model),
        "one more example": (replace(judge, examples=(*judge.examples, Example("x", "y", judge.words[0]))), model),
        "the order of the label words": (replace(judge, words=(judge.words[1], judge.words[0])), model),
        "how labels are read": (replace(judge, reads="text" if judge.reads == "logprob" else "logprob"), model),
        "the length of what is decoded": (replace(judge, max_tokens=judge.max_tokens + 1), model),
    }


def _other_letter(text: str) -> str:
    return text[:-1] + ("y" if text.endswith("x") else "x")


def labelled(golden: GoldenSet) -> list[tuple[Answer, float]]:
    """The answers of a set of people's labels, each with its label. ConfigError for another kind of set."""
    field = {"refusal_labels": "refused", "answer_labels": "label"}.get(golden.kind)
    if field is None:
        raise ConfigError(f"golden set {golden.name}: kind {golden.kind!r} has no labels; a judge needs refusal_labels or answer_labels")
    return [(Answer(i["id"], i["prompt"], i["answer"]), float(i[field])) for i in golden.items]


# --- out of the lifecycle file --------------------------------------------------------------------

_KEYS: Mapping[str, type] = {
    "task": str, "labels": str, "rule": str, "subject": str, "rubric": str, "pairwise": str,
    "examples": list, "words": list, "reads": str, "max_tokens": int, "probes": list,
}  # fmt: skip


def parse(name: str, table: Mapping[str, Any], *, reads: Reads = "logprob") -> Judge:
    """The judge of ``[judges.NAME]``; ``reads`` is what its engine can do. ConfigError names the key that is wrong."""
    where = f"[judges.{name}]"
    for key, value in table.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: unknown key {key!r}; {nearest(key, list(_KEYS))}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise ConfigError(f"{where}: {key} = {value!r}, expected {_KEYS[key].__name__}")
    if missing := [key for key in ("task", "labels") if not table.get(key)]:
        raise ConfigError(f"{where} lacks {' and '.join(missing)}")
    if bool(table.get("rule")) == bool(table.get("subject")):
        raise ConfigError(f'{where}: expected either rule = "{"|".join(RULES)}" or subject = a model that is asked')
    return _rule(name, where, table) if table.get("rule") else _model(name, where, table, reads)


def _rule(name: str, where: str, table: Mapping[str, Any]) -> Judge:
    if foreign := sorted(set(table) - {"task", "labels", "rule", "probes"}):
        raise ConfigError(f"{where}: {', '.join(foreign)} are keys of a model; a rule is not asked")
    if table["rule"] not in RULES:
        raise ConfigError(f"{where}: no rule {table['rule']!r}; {nearest(table['rule'], list(RULES))}")
    code = digest_json([table["rule"], *(digest_file(Path(file)) for file in (__file__, str(refusals.__file__)))])
    return Judge(name, table["task"], table["labels"], code, RULES[table["rule"]], probes=_probes(where, table, RULE_PROBES))


def _model(name: str, where: str, table: Mapping[str, Any], reads: Reads) -> Judge:
    from harness.evals.judges import reading

    words = tuple(table.get("words", ("Yes", "No")))
    if len(words) != 2 or not all(isinstance(word, str) and word.isalpha() for word in words) or words[0].casefold() == words[1].casefold():
        raise ConfigError(f"{where}: words = {list(words)!r}, expected two different words, the positive label first")
    if not str(table.get("rubric", "")).strip():
        raise ConfigError(f"{where} lacks rubric: what the model is told before it reads an answer")
    if table.get("reads", reads) not in ("logprob", "text"):
        raise ConfigError(f"{where}: reads = {table['reads']!r}; {nearest(table['reads'], ['logprob', 'text'])}")
    if table.get("max_tokens", 1) < 1:
        raise ConfigError(f"{where}: max_tokens = {table['max_tokens']}, expected at least 1")
    without = () if table.get("pairwise") else ("position", "self")
    known = tuple(probe for probe in MODEL_PROBES if probe not in without)
    said = {key: table[key] for key in ("rubric", "pairwise", "reads", "max_tokens") if key in table}
    return Judge(
        name, table["task"], table["labels"], digest_file(Path(str(reading.__file__))), subject=table["subject"],
        examples=tuple(_example(where, row, words) for row in table.get("examples", ())), words=(words[0], words[1]),
        probes=_probes(where, table, known), **{"reads": reads, **said},
    )  # fmt: skip


def _example(where: str, row: Any, words: tuple[str, ...]) -> Example:
    wanted = [field.name for field in fields(Example)]
    if not isinstance(row, Mapping) or sorted(row) != sorted(wanted) or not all(isinstance(v, str) for v in row.values()):
        raise ConfigError(f"{where}: example {row!r}, expected the texts {', '.join(wanted)}")
    if row["label"] not in words:
        raise ConfigError(f"{where}: an example is labelled {row['label']!r}, expected {' or '.join(words)}")
    return Example(**row)


def _probes(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> tuple[str, ...]:
    """The probes that are asked for, all that fit the judge by default."""
    for probe in table.get("probes", known):
        if probe not in known:
            raise ConfigError(f"{where}: no probe {probe!r} for this judge; {nearest(str(probe), list(known))}")
    return tuple(table.get("probes", known))
