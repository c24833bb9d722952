"""What a checkpoint, or one of its layers, is declared to be, and which layers a declaration speaks of.

The rules by which a name is matched are those of the producers and engines: compressed-tensors'
match_name, transformers' should_convert_module, gptqmodel's dynamic rules, vLLM's modelopt.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any

from harness.errors import SubjectError

__all__ = ["CLASSES", "Scheme", "check_patterns", "describe", "is_regex"]


@dataclass(frozen=True, slots=True)
class Scheme:
    """What a checkpoint, or one of its layers, is declared to be.

    ``method`` is gptq, awq, compressed-tensors, bitsandbytes, fp8, modelopt, mxfp4, gguf or none;
    ``weights`` int4, int8, fp8_e4m3, nf4, fp4, nvfp4, mxfp4, mxfp8, Q4_K_M, bf16, or mixed.
    ``group_size`` counts weights along a row: -1 is one per row, None one per tensor or not said.
    A field that no file speaks of is None. ``rules`` are layers or patterns with a scheme of their
    own: a layer's own name comes first, then the first match; None leaves the layer alone.
    """

    method: str
    weights: str
    bits: float | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    zero_points: bool | None = None
    act_order: bool | None = None
    activations: str | None = None
    ignored: tuple[str, ...] = ()
    kv_cache: str | None = None
    declared_in: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    rules: Mapping[str, Scheme | None] = field(default_factory=dict)

    def __str__(self) -> str:
        """The weights in a few words, as a report says them: "int4 g64 sym"."""
        return describe(self.weights, self.group_size, self.symmetric, self.detail.get("block_size"))

    def ignores(self, name: str) -> bool:
        """Whether the declaration names this layer among those left alone."""
        like = _LEFT_ALONE.get(self.method, _like_transformers)
        return self._rule(name, "") == (True, None) or any(like(pattern, name) for pattern in self.ignored)

    def for_layer(self, name: str, kind: str) -> Scheme | None:
        """What the declaration makes of a layer of a kind (see TensorFact); None: it leaves it alone."""
        if self.method == "none" or self.ignores(name):
            return None
        ruled, own = self._rule(name, kind)
        return own if ruled else self if _by_default(self, name, kind) else None

    def _rule(self, name: str, kind: str) -> tuple[bool, Scheme | None]:
        """Whether a rule names the layer, and what it says."""
        if name in self.rules:
            return True, self.rules[name]
        return next(((True, own) for pattern, own in self.rules.items() if _targets(pattern, name, kind)), (False, None))


def describe(weights: str, group: int | None, symmetric: bool | None, block: tuple[int, int] | None = None) -> str:
    """ "int4 g64 asym": how declared and found schemes are both written."""
    words = [weights]
    if block:
        words.append(f"blocks {block[0]}x{block[1]}")
    elif group is not None:
        words.append("per row" if group == -1 else f"g{group}")
    if symmetric is not None:
        words.append("sym" if symmetric else "asym")
    return " ".join(words)


# --- which layers a declaration speaks of --------------------------------------------------------

# module classes that can be told from a file: what is a matrix of the blocks is an nn.Linear
CLASSES = {"Linear": ("linear", "head"), "LinearBase": ("linear", "head"), "ParallelLMHead": ("head",), "Embedding": ("embedding",)}
# what GPTQ and AWQ leave alone without a word: their producers quantize the blocks of the language model only
_BESIDE = re.compile(r"(^|\.)(visual|vision\w*|audio\w*|image\w*|multi_modal\w*|mm_\w+)(\.|$)")
_IN_BLOCK = re.compile(r"\.\d+\.")


def _by_default(scheme: Scheme, name: str, kind: str) -> bool:
    """Whether a layer that no rule names is quantized under the scheme."""
    if scheme.method == "compressed-tensors" or scheme.detail.get("quant_algo") == "MIXED_PRECISION":
        return False  # every layer is named by a rule
    if kind == "head":
        return scheme.method == "modelopt" or scheme.detail.get("lm_head") is True
    if kind != "linear":
        return False
    if scheme.method in ("gptq", "awq"):
        only = scheme.detail.get("only")
        return bool(_IN_BLOCK.search(name)) and not _BESIDE.search(name) and (not only or name.endswith(only))
    return True


def _targets(pattern: str, name: str, kind: str) -> bool:
    """Whether a rule's pattern names the layer: by name, by "re:REGEX" from the name's start, or by class."""
    if pattern.startswith("re:"):
        return _regex(pattern[3:], pattern).match(name) is not None
    return pattern == name or kind in CLASSES.get(pattern, ())


def _exact(pattern: str, name: str) -> bool:
    return _targets(pattern, name, "")


def _within(pattern: str, name: str) -> bool:  # autoawq's modules_to_not_convert
    return pattern in name


def _like_modelopt(pattern: str, name: str) -> bool:
    return pattern in name or fnmatchcase(name, pattern)


def _like_transformers(pattern: str, name: str) -> bool:
    """transformers' should_convert_module: a prefix, a regex from the start, or a suffix."""
    if name.startswith(pattern) or name.endswith(pattern):
        return True
    return is_regex(pattern) and _regex(pattern, pattern).match(name) is not None


def is_regex(pattern: str) -> bool:
    """Whether an entry of transformers' lists is more than a name."""
    return bool(set(pattern) & set("*+?[(|^$\\"))


def _never(pattern: str, name: str) -> bool:  # gptqmodel's are rules
    return False


_LEFT_ALONE: dict[str, Callable[[str, str], bool]] = {
    "gptq": _never,
    "awq": _within,
    "compressed-tensors": _exact,
    "modelopt": _like_modelopt,
}


def check_patterns(patterns: Iterable[str], where: str) -> None:
    """Raises SubjectError for a "re:" pattern that is no regular expression or could take for ever to match."""
    for pattern in patterns:
        if pattern.startswith("re:"):
            _regex(pattern[3:], where)


@lru_cache(maxsize=4096)
def _regex(pattern: str, where: str) -> re.Pattern[str]:
    """A checkpoint's own regex. Raises SubjectError where it is none, or could take for ever to match."""
    if len(pattern) > 2000 or _explosive(pattern):
        raise SubjectError(f"{where}: pattern {pattern[:60]!r} repeats what repeats, and could take for ever to match; write it plainly")
    try:
        return re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise SubjectError(f"{where}: pattern {pattern[:60]!r} is no regular expression ({error})") from error


def _explosive(pattern: str) -> bool:
    """A repeated group that repeats or branches inside, or more than six open repeats: exponential or worse than n^6."""
    plain = re.sub(r"\\.|\[[^\]]*\]", "x", pattern)
    starts: list[int] = []
    for i, sign in enumerate(plain):
        if sign == "(":
            starts.append(i)
        elif sign == ")" and starts:
            inner = plain[starts.pop() + 1 : i]
            if plain[i + 1 : i + 2] in ("*", "+", "{") and set(inner) & set("*+{|"):
                return True
    return sum(plain.count(sign) for sign in "*+{") > 6
