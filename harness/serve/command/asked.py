"""What a command line of ``python -m harness load`` asks for: claims, a target, a schedule, a workload, a reference."""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, MissingNeed
from harness.records import Load, Objective, objective
from harness.serve import slo
from harness.serve.command import table
from harness.serve.load import MOST_SHARDS, Machine, identity
from harness.serve.schedule import Schedule, closed, constant, gamma, poisson, ramp, trace
from harness.serve.target import Target
from harness.serve.workload import Workload, fixed, golden_prompts, synthetic
from harness.serve.workload.bodies import spoken
from harness.types import Claim, Measurement, Prompt, Sampling, Subject

__all__ = ["Asked", "Parity", "guarding", "machine", "numbers", "schedule", "target", "workload"]

_SLOTS = 100_000  # of a closed loop
_AHEAD_S = 86_400.0  # that a start may lie ahead: a later one is a slip
_GUARD = 8  # prompts that the server is held against its reference with
_WARM_S, _WARM_N = 30.0, 128  # a warm-up is at least so long, and so many requests
_QUESTIONS = (
    "What is the capital of France?", "Name the four seasons.", "What is 17 + 25?", "Spell 'necessary'.", "Count from one to ten.",
    "What colour is the sky?", "Translate 'good morning' into Spanish.", "Which planet is the largest?",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Asked:
    """The claims of one command, with the objectives they come from."""

    within: tuple[Objective, ...]
    claims: tuple[Claim, ...]
    limit_s: float
    shards: int

    @classmethod
    def of(cls, args: argparse.Namespace, who: str) -> Asked:
        """ConfigError if nothing is claimed, or nothing that could be decided."""
        within = tuple(_objective(text) for text in args.slo)
        twice = [each.name for i, each in enumerate(within) if each.name in {other.name for other in within[:i]}]
        if twice:
            raise ConfigError(f"--slo {twice[0]}: given twice")
        if args.goodput is not None and not (0.5 <= args.goodput < 1 and within):
            raise ConfigError(f"--goodput {args.goodput}: expected a share from .5 to below 1, beside at least one --slo")
        if args.tokens_per_second is not None and not (args.tokens_per_second > 0 and math.isfinite(args.tokens_per_second)):
            raise ConfigError(f"--tokens-per-second {args.tokens_per_second}: expected a number above 0")
        claims = [slo.limit_claim(each, who) for each in within]
        claims += [slo.goodput_claim(args.goodput, who)] if args.goodput is not None else []
        claims += [slo.throughput_claim("tokens", args.tokens_per_second, who)] if args.tokens_per_second else []
        if not claims:
            raise ConfigError("nothing is claimed: give --slo ttft_p99=300ms, --goodput or --tokens-per-second")
        if within and args.arrivals.startswith("closed"):
            raise ConfigError("--arrivals closed: such a load slows down with the server, so that no limit at a rate follows; drop --slo")
        _check_metrics(args, within)
        _check_sent(args)
        _check_parity(args)
        limit = max((each.limit for each in within), default=50.0) + 10.0 if args.limit is None else args.limit
        return cls(within, tuple(claims), limit, args.shards or 1)

    def measured(self, load: Load, subjects: Sequence[Subject]) -> list[tuple[Claim, Measurement]]:
        """A measurement for each claim."""
        made = [slo.measurement(load, each, subjects) for each in self.within]
        for claim in self.claims[len(self.within) :]:
            made.append(slo.throughput(load, "tokens", subjects) if claim.estimand == "mean" else slo.goodput(load, self.within, subjects))
        return list(zip(self.claims, made, strict=True))

    def plans(self, n: int) -> list[slo.Plan]:
        """What ``n`` requests can show of each claim on a share of them."""
        return [slo.plan(claim, n) for claim in self.claims]

    def requests(self, args: argparse.Namespace) -> int:
        """As many as were asked for, or as the plan needs."""
        return int(args.requests) if args.requests is not None else max(plan.likely for plan in self.plans(1))


# --- what a command line may not say ----------------------------------------------------------------


def _check_parity(args: argparse.Namespace) -> None:
    if args.merge:  # the parts say who was checked
        return
    if args.parity and args.unchecked:
        raise ConfigError("--parity and --unchecked: one of them")
    if not args.parity and not args.unchecked:
        raise ConfigError(
            "nobody would check what the server answers: give --parity FOLDER, the checkpoint that it serves, to hold its answers "
            "against transformers before and after; or --unchecked, to judge its speed alone, which is said beside each verdict"
        )


def _check_metrics(args: argparse.Namespace, within: Sequence[Objective]) -> None:
    """What would have no value, or another meaning, in the answers that are asked for."""
    for each in within:
        if args.no_stream and each.metric != "e2e":
            raise ConfigError(f"--slo {each.name}: with --no-stream an answer comes in one piece; only e2e can be claimed of it")
        if each.metric in ("tpot", "gap") and args.output_tokens == 1 and not args.replay:
            raise ConfigError(f"--slo {each.name}: with --output-tokens 1 there is no second token; ask for more, or drop it")


_UNUSED = {  # beside what, which options would do nothing
    "--replay": ("rate", "requests", "seconds", "warmup", "prompts", "ignore_eos", "completions"),
    "--arrivals trace": ("rate", "requests", "seconds", "warmup"),
    "--arrivals closed": ("rate", "seconds", "warmup"),
    "--arrivals ramp": ("rate", "requests"),
    "--search": ("rate", "machine", "merge"),
    "--merge": ("machine", "start", "parity", "unchecked", "shards"),
    "--seconds": ("requests",),
    "--prompts": ("ignore_eos",),
}


def _check_sent(args: argparse.Namespace) -> None:
    """An option that does nothing would be believed to do something."""
    kind = f"--arrivals {args.arrivals.partition(':')[0]}"
    given = {"--replay": args.replay, kind: True, "--search": args.search, "--seconds": args.seconds is not None, "--prompts": args.prompts}
    given["--merge"] = args.merge
    if args.replay and args.arrivals != "poisson":
        raise ConfigError(f"--replay has arrivals of its own: drop --arrivals {args.arrivals}")
    for what, options in _UNUSED.items():
        for name in options if given.get(what) else ():
            if getattr(args, name) not in (None, False):
                raise ConfigError(f"--{name.replace('_', '-')} has no effect with {what}: drop one of them")
    for name in ("requests", "output_tokens", "input_tokens", "shards"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    if (args.shards or 1) > MOST_SHARDS:
        raise ConfigError(f"--shards {args.shards}: expected at most {MOST_SHARDS}")
    for name in ("limit", "seconds"):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ConfigError(f"--{name} {value}: expected a finite number of seconds above 0")


def machine(args: argparse.Namespace) -> Machine | None:
    """Which of several machines this is, if it is one. ConfigError for half of what that takes."""
    if args.machine is None and args.start is None:
        return None
    if args.machine is None or args.start is None or args.out is None:
        raise ConfigError("--machine, --start and --out go together: which machine, from when on, and where its part is kept")
    number, slash, of = args.machine.partition("/")
    if not (slash and number.isdecimal() and of.isdecimal()):
        raise ConfigError(f"--machine {args.machine}: expected I/M, like 2/3")
    try:
        start = datetime.fromisoformat(args.start)
    except ValueError:
        raise ConfigError(f"--start {args.start}: expected a time like 2026-11-22T10:00:00Z") from None
    if start.tzinfo is None:
        raise ConfigError(f"--start {args.start}: of which time zone? Machines may differ in theirs: say Z for UTC, or +02:00")
    ahead = start.timestamp() - time.time()
    if not 0 < ahead <= _AHEAD_S:
        raise ConfigError(f"--start {args.start}: {abs(ahead):.3g} s {'ahead' if ahead > 0 else 'ago'}, expected within a day from now")
    return Machine(int(number), int(of), start.timestamp())


def _objective(text: str) -> Objective:
    name, equals, limit = text.partition("=")
    if not equals:
        raise ConfigError(f"--slo {text!r}: expected NAME=LIMIT, like ttft_p99=300ms")
    return objective(name.strip(), limit)


def target(args: argparse.Namespace) -> tuple[Target, Mapping[str, Any]]:
    """MissingNeed if nobody answers there, or offers another model."""
    target = Target.parse(args.url, model=args.model, key_env=args.key_env)
    found = identity(target)
    if found is None:
        raise MissingNeed("server", f"nobody answers at {target.base_url}", "start the server, and wait until it is ready")
    _answered(found["status"], args.key_env, target)
    models = found.get("models")
    if not models:
        raise MissingNeed("server", f"{target.base_url}/v1/models lists no model", "give the address of an OpenAI-compatible server")
    if not target.model and len(models) != 1:
        raise ConfigError(f"the server offers {table.names(models)}: say which with --model")
    if target.model and target.model not in models:
        raise MissingNeed("wrong_server", f"the server offers {table.names(models)}, not {target.model!r}", "check the port, or --model")
    return replace(target, model=target.model or models[0]), found


def _answered(status: int, name: str, target: Target) -> None:
    """MissingNeed if /v1/models was refused, or is not there."""
    where = f"{target.base_url}/v1/models"
    if status in (401, 403):
        why = f"{status}: the key in ${name} was refused" if target.key else f"{status}: the server asks for a key, and ${name} is empty"
        raise MissingNeed("key", why, f"put the server's key into ${name}, or name another variable with --key-env")
    if status == 503:
        raise MissingNeed("server", f"{where} answers 503: not ready", "wait until it has loaded its model")
    if status != 200:
        raise MissingNeed("server", f"{where} answers {status}", "give the address of an OpenAI-compatible server")


# --- what is sent -----------------------------------------------------------------------------------


def schedule(args: argparse.Namespace, rate: float | None, n: int, seed: int) -> Schedule:
    kind, _, rest = args.arrivals.partition(":")
    if kind == "closed":
        slots = numbers(rest, 1, "--arrivals closed:C")[0]
        if not (slots.is_integer() and 1 <= slots <= _SLOTS):
            raise ConfigError(f"--arrivals closed:{rest}: expected a whole number of requests at a time, 1 to {_SLOTS:,}")
        return closed(int(slots), n)
    if kind == "trace":
        return _trace(Path(rest))
    if kind == "ramp":
        if args.seconds is None:
            raise ConfigError("--arrivals ramp:R0:R1 needs --seconds")
        r0, r1 = numbers(rest, 2, "--arrivals ramp:R0:R1")
        return ramp(r0, r1, args.seconds, seed=seed, warmup_s=_warmup(args, r0), cooldown_s=5 / r1)
    if rate is None:
        raise ConfigError(f"--arrivals {args.arrivals} needs --rate, requests a second")
    if not (rate > 0 and math.isfinite(rate)):
        raise ConfigError(f"--rate {rate}: expected a number above 0")
    size: dict[str, Any] = {"warmup_s": _warmup(args, rate), "cooldown_s": 5 / rate}
    size |= {"seconds": args.seconds} if args.seconds is not None else {"requests": n}
    if kind == "constant":
        return constant(rate, **size)
    if kind == "gamma":
        return gamma(rate, numbers(rest, 1, "--arrivals gamma:SHAPE")[0], seed=seed, **size)
    if kind != "poisson":
        raise ConfigError(f"--arrivals {args.arrivals!r}: expected poisson, constant, gamma:SHAPE, ramp:R0:R1, trace:FILE or closed:C")
    return poisson(rate, seed=seed, **size)


def _trace(path: Path) -> Schedule:
    lines = [(number, line.strip()) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    stamps = []
    for number, line in lines:
        try:
            stamps.append(float(line))
        except ValueError:
            raise ConfigError(f"{path}: line {number}: {line[:80]!r}, expected a time in seconds") from None
        if not (math.isfinite(stamps[-1]) and stamps[-1] >= 0):
            raise ConfigError(f"{path}: line {number}: {line[:80]!r}, expected a finite number of seconds from 0")
    try:
        return trace(stamps)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _warmup(args: argparse.Namespace, rate: float) -> float:
    return max(_WARM_S, _WARM_N / rate) if args.warmup is None else float(args.warmup)


def numbers(text: str, count: int, shape: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(":")]
    except ValueError:
        found = []
    if len(found) != count or not all(map(math.isfinite, found)):
        raise ConfigError(f"{text!r}, expected {shape}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None


def workload(args: argparse.Namespace, due: Schedule, model: str, seed: int) -> Workload:
    stream, chat, room = not args.no_stream, not args.completions, args.output_tokens
    if args.prompts:
        items = _prompts(args.prompts)
        return golden_prompts(
            items,
            model,
            len(due),
            seed,
            max_tokens=room,
            judged=due.judged,
            golden_share=0.0,
            stream=stream,
            chat=chat,
            name=args.prompts.stem,
        )
    lengths = fixed(args.input_tokens), fixed(room)
    return synthetic(model, len(due), seed, prompt=lengths[0], output=lengths[1], ignore_eos=args.ignore_eos, stream=stream, chat=chat)


def _prompts(path: Path) -> list[Prompt]:
    found = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            messages = spoken(row["messages"] if "messages" in row else [{"role": "user", "content": row["prompt"]}])
            found.append(Prompt(f"line-{number}", tuple({"role": m["role"], "content": m["content"]} for m in messages)))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigError(
                f'{path}: line {number}: {type(error).__name__} {error}; expected {{"messages": [...]}} or {{"prompt": "..."}}'
            ) from None
    if not found:
        raise MissingNeed("empty_workload", f"{path} holds no prompt", "one JSON object a line")
    return found


# --- parity -----------------------------------------------------------------------------------------


def guarding(path: Path | None) -> list[Prompt]:
    """What a boot is held against its reference with: the first prompts of a file, or ours."""
    ours = [Prompt(f"p{i}", ({"role": "user", "content": question},)) for i, question in enumerate(_QUESTIONS)]
    return (_prompts(path) if path else ours)[:_GUARD]


class Parity:
    """What the reference says, asked once; ``check`` holds the server against it, and tells ``say`` by which numbers it held.
    Silent with --unchecked."""

    def __init__(self, args: argparse.Namespace, target: Target, say: Callable[[str], None]) -> None:
        self.target, self.folder, self.say = target, args.parity, say
        if self.folder:
            self._ask(args)

    def _ask(self, args: argparse.Namespace) -> None:
        from harness.serve.parity.expected import by_reference

        prompts, self.room = guarding(args.prompts), min(args.output_tokens, 64)
        self.expected, self.allowed = by_reference(self.folder, prompts, Sampling(max_tokens=self.room))

    def check(self) -> list[str]:
        """What voids a load: a code with a sentence, or nothing."""
        if not self.folder:
            return []
        from harness.serve import parity
        from harness.serve.parity import hearing

        found = parity.guard(self.expected, hearing.hear(self.target, self.expected, max_tokens=self.room), self.allowed)
        if found.holds:
            self.say(f"parity    {found}")
        return [] if found.holds else [str(found)]
