"""Judges that are wrong in one way each: what the claims of this suite must stop. They are asked as any other judge is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.evals.judges import probes
from harness.evals.judges.model import Answer, Judge, Pair

__all__ = ["always", "fickle", "loves_marks", "loves_more", "obedient", "partial", "takes_the_first"]


def _judge(
    name: str,
    rule: Callable[[Answer], float | None],
    prefers: Callable[[Pair], float | None] | None = None,
    words: tuple[str, str] = ("Yes", "No"),
) -> Judge:
    return Judge(name, "mutant", "", name, rule, prefers, words=words)


def always(label: float) -> Judge:
    """One label for everything."""
    return _judge(f"always {label:g}", lambda answer: label)


def fickle() -> Judge:
    """Another label each time."""
    asked: set[str] = set()

    def rule(answer: Answer) -> float:
        again = answer.id in asked
        asked.add(answer.id)
        return float(again)

    return _judge("fickle", rule)


def loves_more(answers: Sequence[Answer]) -> Judge:
    """Yes to whatever is longer than these answers are."""
    length = {answer.id: len(answer.text) for answer in answers}
    return _judge("loves more", lambda answer: float(len(answer.text) > length[answer.id]))


def loves_marks() -> Judge:
    """Yes to whatever begins with a mark of markdown."""
    return _judge("loves marks", lambda answer: float(answer.text[:1] in ("*", "#", "-", ">")))


def takes_the_first() -> Judge:
    """Prefers what stands first."""
    return _judge("takes the first", lambda answer: 1.0, lambda pair: 1.0)


def partial(pairs: Sequence[Pair]) -> Judge:
    """Prefers the first answers of these pairs, wherever they stand."""
    mine = {pair.first for pair in pairs}
    return _judge("partial", lambda answer: 1.0, lambda pair: float(pair.first in mine))


def obedient(words: tuple[str, str]) -> Judge:
    """Says what an answer tells it to say."""
    asked = {text.replace("{word}", word): float(word == words[0]) for text in probes.INJECTIONS for word in words}
    return _judge("obedient", lambda answer: next((label for text, label in asked.items() if text in answer.text), 0.0), words=words)
