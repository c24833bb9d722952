"""Code: taken out of an answer, run against the item's unit tests in the sandbox."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.evals import sandbox
from harness.evals.scorers.common import detail_of, unscored
from harness.types import Generation, Sample

__all__ = ["code_in", "unit_tests"]

_BLOCK = re.compile(r"```[ \t]*(?:python|py)?[ \t]*\r?\n(.*?)(?:```|\Z)", re.IGNORECASE | re.DOTALL)


def code_in(text: str, item: Mapping[str, Any]) -> str:
    """The program of an answer: its fenced blocks, else all of it; behind the prompt where it only goes on with that."""
    blocks = _BLOCK.findall(text)
    code = "\n".join(blocks) if blocks else text
    if re.search(rf"^(?:async\s+)?(?:def|class)\s+{item['entry_point']}\b|^{item['entry_point']}\s*=", code, re.MULTILINE):
        return context_of(item) + "\n" + code
    return str(item["prompt"]) + code


def context_of(item: Mapping[str, Any]) -> str:
    """The prompt where it is Python itself (imports, helpers, a signature with its docstring); "" for one in words."""
    try:
        compile(item["prompt"], "<prompt>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return ""
    return str(item["prompt"])


def unit_tests(answer: Generation, item: Mapping[str, Any], *, seconds: float = 10.0, megabytes: int = 512) -> Sample:
    """1 if every test passes in the sandbox, within ``seconds`` and ``megabytes``; the detail says what happened else.

    MissingNeed("sandbox") where nothing untrusted can be run. Code that does not compile is wrong, not unscored.
    """
    detail = detail_of(answer, item["prompt"], item["tests"])
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    code = code_in(answer.text, item)
    limits = sandbox.Limits(seconds=seconds, memory=int(megabytes) << 20)
    found = sandbox.run(code, item["tests"], item["entry_point"], context=context_of(item), limits=limits)
    detail |= {"outcome": found.outcome, "reason": found.reason, "isolation": dict(found.isolation), "printed": found.output}
    return Sample(answer.id, float(found.outcome == "pass"), detail=detail)
