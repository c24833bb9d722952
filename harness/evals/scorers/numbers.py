"""Numbers: taken out of a text, compared exactly as fractions within a tolerance."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from harness.evals.scorers.common import detail_of, unscored
from harness.types import Generation, Sample

__all__ = ["check", "number_in", "numeric"]

_TAKE = ("whole", "last", "first", "boxed")
# A sign, digits with thousands in threes or plain, a decimal part, an exponent of up to three digits; or a fraction.
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,60})(?:\.\d{0,60})?|\.\d{1,60}"
_NUMBER = re.compile(
    r"\\d?frac\{(?P<top>-?\d{1,60})\}\{(?P<bottom>\d{1,60})\}"
    rf"|(?<![\w.])(?P<sign>[-+−]?)\s?[$€£¥]?(?P<digits>{_DIGITS})(?P<power>[eE][-+]?\d{{1,3}}(?!\d))?(?!\d|[eE][-+]?\d)"
    r"(?P<over>\s?/\s?\d{1,60}(?![\d/]))?(?:\s?\\?%)?"
)
_READ = 20_000  # characters, from the end where the last number counts


def check(name: str, key: str, value: Any) -> str:
    """What is wrong with an option of ``numeric``; "" if nothing is."""
    if name != "numeric":
        return ""
    if key == "take" and value not in _TAKE:
        return f"expected one of {', '.join(_TAKE)}"
    if key in ("tolerance", "relative") and not (math.isfinite(value) and value >= 0):
        return "expected a finite number, 0 or more"
    return ""


def _value(found: re.Match[str]) -> Fraction | None:
    if found["top"]:
        return Fraction(int(found["top"]), int(found["bottom"])) if int(found["bottom"]) else None
    value = Fraction(found["digits"].replace(",", "").rstrip(".") + (found["power"] or ""))
    if found["over"]:
        bottom = int(found["over"].strip(" /"))
        if not bottom:
            return None
        value /= bottom
    return -value if found["sign"] in ("-", "−") else value


def number_in(text: str, take: str = "whole") -> Fraction | None:
    r"""The number of a text; None where there is none.

    whole: the text is one number, with a unit or currency around it at most. first, last: of all that stand in it.
    boxed: in the last ``\boxed{...}``. Thousands separated by commas, exponents, fractions (3/4, ``\frac{3}{4}``).
    A percent sign is a unit: 12% is 12.
    """
    if take == "boxed":
        boxes = re.findall(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\}){0,400})\}", text[-_READ:])
        return number_in(boxes[-1]) if boxes else None
    found = list(_NUMBER.finditer(text[-_READ:] if take == "last" else text[:_READ]))
    if not found:
        return None
    if take == "whole":
        (first, *more), rest = found, _NUMBER.sub(" ", text[:_READ])
        unit = len(re.findall(r"[^\W\d_]+", rest)) <= 2 and len(rest) <= 40
        return _value(first) if unit and not more and not re.search(r"\d", rest) else None
    return _value(found[-1 if take == "last" else 0])


def numeric(answer: Generation, item: Mapping[str, Any], *, tolerance: float = 0.0, relative: float = 1e-9, take: str = "whole") -> Sample:
    """1 if the number of the answer is within ``tolerance``, or ``relative`` times the target, of the target's.

    ``take`` says which number: whole, first, last or boxed (``number_in``). No number is a ``parse_failure``.
    """
    detail = detail_of(answer, item.get("prompt", item.get("input", "")), str(item["target"]))
    refused = unscored(answer, detail)
    if refused is not None:
        return refused
    got, target = number_in(answer.text, take), number_in(str(item["target"]))
    if target is None:
        return Sample(answer.id, None, status="error", detail={**detail, "error": f"the target {item['target']!r} is no number"})
    if got is None:
        return Sample(answer.id, None, status="parse_failure", detail=detail)
    allowed = max(Fraction(tolerance), Fraction(relative) * abs(target))
    return Sample(answer.id, float(abs(got - target) <= allowed), detail={**detail, "extracted": str(got)})
