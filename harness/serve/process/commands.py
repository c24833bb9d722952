"""Which command starts a server: vLLM's, llama.cpp's own, or one that is given whole.

Every server listens on 127.0.0.1 only, on a port that the kernel chooses (``--port 0``), under two names: the model's, and one
that nobody else knows, by which it is told from a stale server. The key goes through the environment, never the command line.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness import environments
from harness.errors import ConfigError, nearest

__all__ = ["ENGINES", "Command", "command", "cores_for", "versions"]

CONTEXT, SEQUENCES = 2048, 8  # tokens of a prompt and its answer; sequences computed together: what a laptop can hold

# What this module says itself; ``options`` may not.
_RESERVED = ("host", "port", "uds", "model", "served-model-name", "alias", "api-key", "api-key-file", "ssl-keyfile", "ssl-certfile")

_VLLM_CPU = {"enforce-eager": "true", "dtype": "bfloat16", "max-model-len": str(CONTEXT), "max-num-seqs": str(SEQUENCES)}
_VLLM_ENV = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
# The first answer is as long as it was asked to be; a model that would rather end at once says so in tokens that can be seen.
_FIRST = {"ignore_eos": True, "skip_special_tokens": False}


@dataclass(frozen=True, slots=True)
class Command:
    """``argv`` and what is set in the environment beside ``key_env``, which the key goes into.

    ``named``: whether /v1/models will tell the second name. ``health``: what answers 200 when it can be asked. ``context``
    tokens of a prompt and its answer, and ``sequences`` of them at once, are what the flags promise, ``cache`` the bytes for their
    keys and values; 0 where they do not say.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    key_env: str
    named: bool = True
    health: str = "/health"
    context: int = 0
    sequences: int = 0
    cache: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    extra: Mapping[str, object] = field(default_factory=dict)  # what the first request has beside its prompt


def command(
    engine: str,
    model: Path,
    names: tuple[str, str],
    options: Mapping[str, str],
    argv: tuple[str, ...] = (),
    cores: tuple[int, ...] = (),
) -> Command:
    """The command of an engine: "vllm", "llamacpp", or "argv" with all of it in ``argv``.

    ``options`` are its flags without dashes: "true" is a flag without a value, "false" takes a default of ours away.
    In ``argv``, "{model}", "{name}" and "{nonce}" are filled in; the port is the server's to choose.

    Raises ConfigError for an option that is said here, MissingNeed where the engine is not installed.
    """
    if engine not in ENGINES:
        raise ConfigError(f"engine {engine!r} cannot be served; {nearest(engine, list(ENGINES))}")
    for name, value in options.items():
        if not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name):
            raise ConfigError(f"option {name!r}: expected a flag without its dashes, like max-num-seqs")
        if name in _RESERVED:
            raise ConfigError(
                f"option {name} = {value!r}: it is set by the harness (loopback, a free port, a key of its own); leave it out"
            )
    return ENGINES[engine](model, names, dict(options), argv, cores)


def _vllm(model: Path, names: tuple[str, str], options: dict[str, str], argv: tuple[str, ...], cores: tuple[int, ...]) -> Command:
    """The console script where the distribution is called vllm; it looks itself up under that name, and dies in any other."""
    python, found = environments.python("vllm"), environments.versions("vllm")
    start: tuple[str, ...]
    if "vllm" in found:
        start = (str(python.with_name("vllm")), "serve", str(model))
    else:
        start = (str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(model))
    env, cpu = dict(_VLLM_ENV), "vllm" not in found or shutil.which("nvidia-smi") is None
    if cpu:
        env |= {"TORCHDYNAMO_DISABLE": "1"}
        if "kv-cache-memory-bytes" not in options:
            env["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB; where both are said, this one counts
        if cores:
            env |= {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)), "OMP_NUM_THREADS": str(len(cores))}
        if options.get("enforce-eager") == "false":
            del env["TORCHDYNAMO_DISABLE"]  # eager mode still compiles one helper: 15 seconds, and a C++ compiler
    said = {**(_VLLM_CPU if cpu else {}), **options}
    fixed = ("--host=127.0.0.1", "--port=0", "--served-model-name", *names)
    cache = _number(said, "kv-cache-memory-bytes") or int(env.get("VLLM_CPU_KVCACHE_SPACE", 0)) << 30
    length, sequences = _number(said, "max-model-len"), _number(said, "max-num-seqs")
    return Command(
        (*start, *_flags(said), *fixed), env, "VLLM_API_KEY", context=length, sequences=sequences, cache=cache, versions=found, extra=_FIRST
    )


def _llamacpp(model: Path, names: tuple[str, str], options: dict[str, str], argv: tuple[str, ...], cores: tuple[int, ...]) -> Command:
    """llama.cpp's own server: ``ctx-size`` is shared out among its ``parallel`` slots, so each gets 2048 tokens unless told otherwise."""
    slots = options.get("parallel", str(SEQUENCES))
    ours = {"parallel": slots, "metrics": "true", "no-ui": "true", "offline": "true", "threads": str(len(cores) or os.cpu_count() or 1)}
    if slots.isdigit():
        ours["ctx-size"] = str(CONTEXT * int(slots))
    program = environments.program("llama-server")
    fixed = ("--model", str(model), "--host", "127.0.0.1", "--port", "0", "--alias", ",".join(names))
    said = {**ours, **options}
    found, sequences = environments.versions("llama-server"), _number(said, "parallel")
    argv = (str(program), *_flags(said, joined=False), *fixed)
    each = _number(said, "ctx-size") // max(1, sequences)
    return Command(argv, {}, "LLAMA_API_KEY", context=each, sequences=sequences, versions=found, extra=_FIRST)


def _argv(model: Path, names: tuple[str, str], options: dict[str, str], argv: tuple[str, ...], cores: tuple[int, ...]) -> Command:
    """Somebody else's server: its key stands in $HARNESS_SERVER_KEY."""
    if not argv:
        raise ConfigError(
            "engine 'argv' without a command: give all of it, like argv = ['my-gateway', '--port', '0', '--model', '{model}']"
        )
    fill = {"{model}": str(model), "{name}": names[0], "{nonce}": names[1]}
    filled = tuple(re.sub(r"\{(?:model|name|nonce)\}", lambda found: fill[found[0]], each) for each in argv)
    return Command((*filled, *_flags(options)), {}, "HARNESS_SERVER_KEY", named=any("{nonce}" in each for each in argv))


ENGINES = {"vllm": _vllm, "llamacpp": _llamacpp, "argv": _argv}


def _flags(options: Mapping[str, str], joined: bool = True) -> tuple[str, ...]:
    found: list[str] = []
    for name, value in options.items():
        if value == "true":
            found.append(f"--{name}")
        elif value != "false":
            found += [f"--{name}={value}"] if joined else [f"--{name}", value]
    return tuple(found)


def _number(options: Mapping[str, str], name: str) -> int:
    return int(options[name]) if options.get(name, "").isdigit() else 0


def versions(engine: str) -> dict[str, str]:
    """What shapes an answer of this engine: versions of its distributions. Raises MissingNeed where it is not installed."""
    name = {"vllm": "vllm", "llamacpp": "llama-server"}.get(engine)
    return environments.versions(name) if name else {}


def cores_for(cores: tuple[int, ...] | None) -> tuple[int, ...]:
    """The cores a server may use: those given, else all of ours but the last one, which is left to the client."""
    ours = sorted(os.sched_getaffinity(0))
    if cores is None:
        return tuple(ours[:-1] or ours)
    if wrong := sorted(set(cores) - set(ours)):
        raise ConfigError(f"cores {wrong}: this process may use {ours}")
    return tuple(cores)
