"""What a stub does: its plan, checked before anything starts, and when each fault strikes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

from harness.errors import ConfigError, nearest

__all__ = ["EXAMPLE", "FAULTS", "Fault", "Plan", "Service", "explained", "normal", "uniform"]

_SERVICE: Mapping[str, Mapping[str, Any]] = {
    "fixed": {"ttft_s": 0.0},
    "tokens": {"ttft_s": 0.0, "gap_s": 0.0},
    "mgc": {"service_s": 0.02, "first": 1.0},
    "batch": {"step_s": 0.005, "sequence_s": 0.0, "slots": 8},
    "fast": {},
}
_COMMON: Mapping[str, Any] = {
    "tokens": 16,
    "servers": 0,
    "cv": 0.0,
    "queue": 0,
    "prefill_token_s": 0.0,
    "prefix_cache": False,
    "kv_tokens": 0,
}
_MGC: Mapping[str, Any] = {"servers": 1, "cv": 1.0}  # where mgc differs from the rest
_WHEN: Mapping[str, tuple[Any, str]] = {  # each trigger with an example, and whom it strikes
    "request": (7, "the one of this number, or those of a list"),
    "nth": (20, "every 20th"),
    "p": (0.05, "each with this probability"),
    "inflight_above": (40, "while more than this are open"),
    "between": ([1, 2], "seconds after the first request"),
    "prompt": ("hello", "whose prompt holds this"),
}

# every switch with its numbers; None: none is needed
FAULTS: Mapping[str, Mapping[str, Any]] = {
    "delay": {"seconds": 1.0},  # before the frame ``after_frame`` + 1
    "slow_headers": {"seconds": 1.0},
    "stall": {"seconds": None},  # None: for good
    "never_answer": {},
    "freeze": {"seconds": 1.0},  # the whole process: nothing is read, written or computed
    "frozen": {"seconds": None},  # the engine alone: /health stays 200
    "deaf_health": {},  # /health is never answered
    "wrong_tokens": {},
    "no_finish": {},
    "no_done": {},
    "fin": {},
    "rst": {},
    "error_frame": {"code": 500},  # an error frame, then [DONE]
    "status": {"code": 500, "retry_after": None},  # seconds, "date", "absurd", or absent
    "cut_json": {},
    "bad_utf8": {},
    "no_blank_line": {},
    "crlf": {},  # legal
    "comments": {},  # legal
    "byte_by_byte": {},
    "coalesced": {"frames": 2},  # this many frames in one write
    "zero_tokens": {},
    "duplicate_frames": {},
    "wrong_usage": {"by": 1},
    "no_usage": {},
    "early_eos": {"tokens": 1},
    "ignored_options": {"options": ()},
    "wrong_model": {"model": "another"},
    "other_id": {},  # the answer's id changes in the middle
    "after_done": {},  # one more frame behind the terminator
    "lying_metrics": {"how": "doubled"},  # doubled, shifted (by one bucket), no_abort, stuck
    "exit": {"code": 0},
}
_LYING = ("doubled", "shifted", "no_abort", "stuck")


def uniform(*key: object) -> float:
    """A number in (0, 1) that depends on ``key`` alone."""
    word = blake2b("\0".join(map(str, key)).encode(), digest_size=8).digest()
    return ((int.from_bytes(word, "little") >> 11) + 0.5) / (1 << 53)


def normal(*key: object) -> float:
    """A standard normal number that depends on ``key`` alone."""
    word = blake2b("\0".join(map(str, key)).encode(), digest_size=16).digest()
    radius, angle = ((int.from_bytes(part, "little") >> 11) + 0.5 for part in (word[:8], word[8:]))
    return math.sqrt(-2 * math.log(radius / (1 << 53))) * math.cos(2 * math.pi * angle / (1 << 53))


@dataclass(frozen=True, slots=True)
class Service:
    """How long the work takes; seconds. ``servers`` 0: as many as are asked for; ``queue`` 0: no bound."""

    kind: str = "fixed"
    ttft_s: float = 0.0
    gap_s: float = 0.0
    service_s: float = 0.02
    first: float = 1.0  # the share of the service that is over at the first token
    step_s: float = 0.005
    sequence_s: float = 0.0
    slots: int = 8
    tokens: int = 16
    servers: int = 0
    cv: float = 0.0
    queue: int = 0
    prefill_token_s: float = 0.0
    prefix_cache: bool = False
    kv_tokens: int = 0

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Service:
        """ConfigError for an unknown kind, an unknown number, a number out of range."""
        kind = said.get("kind", "fixed")
        if kind not in _SERVICE:
            raise ConfigError(f"stub plan, service.kind = {kind!r}: {nearest(str(kind), list(_SERVICE))}")
        known = {**_COMMON, **_SERVICE[kind]}
        if kind == "mgc":
            known |= _MGC
        values = {"kind": kind}
        for name, value in {**known, **said}.items():
            if name == "kind":
                continue
            if name not in known:
                raise ConfigError(f"stub plan, service.{name}: {nearest(name, list(known))} (of kind {kind!r})")
            if isinstance(value, bool) != isinstance(known[name], bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e9:
                raise ConfigError(f"stub plan, service.{name} = {value!r}: expected a number from 0, like {known[name]!r}")
            values[name] = type(known[name])(value)
        service = cls(**values)
        if service.tokens < 1 or (kind == "batch" and service.slots < 1) or not 0 < service.first <= 1:
            raise ConfigError("stub plan, service: expected tokens and slots of at least 1, and first in (0, 1]")
        return service


@dataclass(slots=True)
class Fault:
    """One switch: ``what`` happens to the requests for which every trigger of ``when`` holds, at most ``count`` times."""

    index: int
    what: str
    when: Mapping[str, Any]
    after_frame: int
    count: int | None
    numbers: Mapping[str, Any]
    applied: int = 0

    @classmethod
    def parse(cls, index: int, said: Mapping[str, Any]) -> Fault:
        """ConfigError names the fault that is wrong, and how."""
        where, what = f"stub plan, faults[{index}]", str(said.get("what"))
        if what not in FAULTS:
            raise ConfigError(f"{where}.what = {what!r}: {nearest(what, list(FAULTS))}")
        known, when = FAULTS[what], said.get("when") or {}
        extra = {name: value for name, value in said.items() if name not in ("what", "when", "after_frame", "count")}
        for name in extra:
            if name not in known:
                raise ConfigError(f"{where}.{name}: {what!r} has {sorted(known) or 'no numbers'}")
        for name in when:
            if name not in _WHEN:
                raise ConfigError(f"{where}.when.{name}: {nearest(name, list(_WHEN))}")
        numbers = {**known, **extra}
        if what == "lying_metrics" and numbers["how"] not in _LYING:
            raise ConfigError(f"{where}.how = {numbers['how']!r}: {nearest(str(numbers['how']), list(_LYING))}")
        _check_when(where, when)
        after, count = said.get("after_frame", 0), said.get("count")
        if not isinstance(after, int) or after < 0 or not (count is None or (isinstance(count, int) and count >= 0)):
            raise ConfigError(f"{where}: after_frame = {after!r}, count = {count!r}: expected whole numbers from 0")
        return cls(index, what, when, after, count, numbers)

    def strikes(self, seed: int, request: int, inflight: int, seconds: float, prompt: str = "") -> bool:
        """Whether it happens to this request, by its own number: the order of arrival does not matter to ``request``, ``nth`` and ``p``."""
        if self.count is not None and self.applied >= self.count:
            return False
        when = self.when
        hit = (
            ("request" not in when or request in _numbers(when["request"]))
            and ("nth" not in when or (request + 1) % when["nth"] == 0)
            and ("p" not in when or uniform(seed, "fault", self.index, request) < when["p"])
            and ("inflight_above" not in when or inflight > when["inflight_above"])
            and ("between" not in when or when["between"][0] <= seconds < when["between"][1])
            and ("prompt" not in when or when["prompt"] in prompt)
        )
        self.applied += hit
        return hit


def _numbers(value: Any) -> list[int]:
    return value if isinstance(value, list) else [value]


def _check_when(where: str, when: Mapping[str, Any]) -> None:
    number = (int, float)
    right: Mapping[str, Callable[[Any], bool]] = {
        "request": lambda v: all(type(each) is int and each >= 0 for each in _numbers(v)),
        "nth": lambda v: type(v) is int and v >= 1,
        "p": lambda v: isinstance(v, number) and 0 <= v <= 1,
        "inflight_above": lambda v: type(v) is int and v >= 0,
        "between": lambda v: isinstance(v, (list, tuple)) and len(v) == 2 and all(isinstance(t, number) for t in v) and v[0] <= v[1],
        "prompt": lambda v: isinstance(v, str),
    }
    for name, value in when.items():
        if not right[name](value):
            raise ConfigError(f"{where}.when.{name} = {value!r}: expected like {json.dumps(_WHEN[name][0])}, {_WHEN[name][1]}")


_PLAN: Mapping[str, tuple[type | tuple[type, ...], str, Callable[[Any], bool]]] = {
    "service": (Mapping, "a table", lambda v: True),
    "seed": (int, "a whole number", lambda v: True),
    "faults": ((list, tuple), "a list of tables, each with what", lambda v: all(isinstance(each, Mapping) for each in v)),
    "model": (str, "a name", bool),
    "names": ((list, tuple), "a list of names", lambda v: all(isinstance(each, str) for each in v)),
    "context": (int, "a number of tokens from 2", lambda v: v >= 2),
    "key": (bool, "true or false", lambda v: True),
    "strict": (bool, "true or false", lambda v: True),
    "start_s": ((int, float), "seconds from 0", lambda v: 0 <= v < 3600),
    "draw": (str, "request or arrival", lambda v: v in ("request", "arrival")),
}


EXAMPLE: Mapping[str, Any] = {
    "service": {"kind": "mgc", "servers": 4, "service_s": 0.05, "cv": 1.0, "tokens": 16},
    "seed": 0,
    "faults": [{"what": "error_frame", "after_frame": 3, "when": {"nth": 20}, "count": None}],
    "model": "stub",
}


def explained() -> str:
    """What a plan may say, from the tables that check it."""

    def shown(numbers: Mapping[str, Any]) -> str:
        return ", ".join(f"{name} {' | '.join(_LYING) if name == 'how' else json.dumps(value)}" for name, value in numbers.items()) or "-"

    kinds = [f"  {kind:<18}{shown({**own, **(_MGC if kind == 'mgc' else {})})}" for kind, own in _SERVICE.items()]
    faults = [f"  {what:<18}{shown(numbers)}" for what, numbers in FAULTS.items()]
    triggers = [f"  {name:<18}{json.dumps(example):<10}{whom}" for name, (example, whom) in _WHEN.items()]
    keys = [f"  {name:<18}{expected}" for name, (_, expected, _) in _PLAN.items()]
    return "\n".join([
        "plan, a JSON object:", *keys,
        "", "service, by kind, with numbers and what they are if not said:", *kinds, f"  {'of each kind':<18}{shown(_COMMON)}",
        "", "faults, each {what, when, after_frame, count (null: any number), ...numbers}:", *faults,
        "", "when, all that are given must hold; without any, every request:", *triggers,
    ])  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a stub does. ``context`` is its longest prompt and answer together, in tokens."""

    service: Service = field(default_factory=Service)
    seed: int = 0
    faults: tuple[Fault, ...] = ()
    model: str = "stub"
    names: tuple[str, ...] = ()
    context: int = 2048
    key: bool = False  # whether a key is asked for
    strict: bool = False  # whether an option that it does not know is refused, not ignored
    start_s: float = 0.0  # how long until it listens
    draw: str = "request"  # what is drawn for a request depends on its number in X-Request-Id; "arrival": on how many came before

    @classmethod
    def parse(cls, said: Mapping[str, Any]) -> Plan:
        """ConfigError says what is wrong, and what was expected."""
        for name, value in said.items():
            if name not in _PLAN:
                raise ConfigError(f"stub plan, {name!r}: {nearest(name, list(_PLAN))}")
            kinds, expected, right = _PLAN[name]
            if not isinstance(value, kinds) or (isinstance(value, bool) and name not in ("key", "strict")) or not right(value):
                raise ConfigError(f"stub plan, {name} = {str(value)[:60]!r}: expected {expected}")
        values = {name: value for name, value in said.items() if name not in ("service", "faults", "names")}
        faults = tuple(Fault.parse(i, each) for i, each in enumerate(said.get("faults", ())))
        return cls(service=Service.parse(said.get("service", {})), faults=faults, names=tuple(said.get("names", ())), **values)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """ConfigError if it is no JSON object, or no plan."""
        try:
            said = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"stub plan: {error}; expected a JSON object") from None
        if not isinstance(said, dict):
            raise ConfigError(f"stub plan: {type(said).__name__}, expected a JSON object")
        return cls.parse(said)

    def lies(self, how: str) -> bool:
        """Whether /metrics is to be wrong in this way."""
        return any(each.what == "lying_metrics" and each.numbers["how"] == how for each in self.faults)
