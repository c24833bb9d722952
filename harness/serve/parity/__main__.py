"""``python -m harness.serve.parity``: starts a server with these flags, and says by its exit status whether it is the model.

What ``python -m harness dossier`` asks when flags of a server are searched; a gate of its own, too.
"""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, HarnessError
from harness.serve.parity.expected import Expected, Tolerance, by_reference
from harness.types import Sampling

OK, WRONG, USAGE, CANNOT_TELL = 0, 1, 2, 125

_HELP = """exit status:
  0    it is the model: its token ids, log-probabilities and greedy answers are those of transformers on --reference
  1    it is not: the sentence says by which numbers
  2    the command line is wrong
  125  it cannot be told: no such engine here, the server did not start, or shows no log-probabilities

examples:
  python -m harness.serve.parity --engine vllm --model ./my-model -- --dtype bfloat16 --max-num-seqs 8
  python -m harness.serve.parity --engine vllm --model ./my-model -- --enforce-eager=false --env OMP_NUM_THREADS=1
  python -m harness.serve.parity --engine llamacpp --model m.gguf --reference ./my-model -- --ctx-size 4096 --parallel 4

Flags are long ones; of a flag that stands twice the last one counts. --flag=false takes away one that is set here by default
(--enforce-eager of vLLM on a CPU); --env NAME=VALUE is no flag, but the server's environment. The server listens on a free port of
127.0.0.1 and is gone when this ends.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status as --help says."""
    given = list(sys.argv[1:] if argv is None else argv)
    ours, flags = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    args = _parser().parse_args(ours)
    try:
        if args.max_tokens < 1:
            raise ConfigError(f"--max-tokens {args.max_tokens}: expected at least 1")
        if not args.model.exists():
            raise ConfigError(f"--model {args.model}: not there")
        reference = args.reference or args.model
        if not reference.is_dir():
            raise ConfigError(f"--reference {reference}: expected the folder of the checkpoint; a GGUF file is no reference")
        flags, env = environment(flags)
        return _held(args, reference, options(flags), env)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except HarnessError as error:
        print(f"cannot tell: {error}", file=sys.stderr)
        return CANNOT_TELL


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m harness.serve.parity", description=__doc__, epilog=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="%(prog)s --engine ENGINE --model WHERE [--reference FOLDER] [--prompts FILE.jsonl] [-- FLAGS]",
    )  # fmt: skip
    parser.add_argument("--engine", required=True, choices=("vllm", "llamacpp"), help="whose server")
    parser.add_argument("--model", type=Path, required=True, metavar="WHERE", help="a folder (vllm) or a GGUF file (llamacpp)")
    parser.add_argument("--reference", type=Path, metavar="FOLDER", help="the checkpoint it was made of (default: --model)")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE.jsonl", help='the first eight count: {"messages": [...]} or {"prompt": "..."}'
    )
    parser.add_argument("--max-tokens", type=int, default=32, metavar="N", help="of an answer (default 32)")
    parser.add_argument("--start-limit", type=float, default=300.0, metavar="S", help="how long it may take to start (default 300)")
    return parser


def environment(flags: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The flags without ``--env NAME=VALUE``, and what those set. ConfigError where a name or its value is missing."""
    rest: list[str] = []
    found: dict[str, str] = {}
    words = iter(flags)
    for word in words:
        if word != "--env" and not word.startswith("--env="):
            rest.append(word)
            continue
        said = next(words, "") if word == "--env" else word.removeprefix("--env=")
        name, given, value = said.partition("=")
        if not given or not name.isidentifier():
            raise ConfigError(f"--env {said!r}: expected NAME=VALUE, like OMP_NUM_THREADS=1")
        found[name] = value
    return rest, found


def options(flags: Sequence[str]) -> dict[str, str]:
    """Flags as a server's options: without dashes, "true" where no value follows. ConfigError for a short one, or a stray word."""
    found: dict[str, str] = {}
    name = ""
    for word in flags:
        if word.startswith("--") and len(word) > 2:
            name, given, value = word[2:].partition("=")
            found.pop(name, None)
            found[name] = value if given else "true"
        elif name and found[name] == "true" and not (word.startswith("-") and word[1:2].isalpha()):
            found[name] = word
        else:
            raise ConfigError(f"flag {word!r}: expected long flags, each with one value at most, like --ctx-size 4096")
    return found


def _held(args: argparse.Namespace, reference: Path, said: dict[str, str], env: dict[str, str]) -> int:
    from harness.serve import parity
    from harness.serve.process import Server, ServerSpec

    expected, allowed = _expected(args, reference)
    spec = ServerSpec(args.engine, args.model.absolute(), said, env=env, start_timeout_s=args.start_limit)
    with tempfile.TemporaryDirectory(prefix="harness-parity-") as logs, Server.start(spec, Path(logs)) as server:
        found = parity.guard(expected, parity.hear(server.target, expected, max_tokens=args.max_tokens), allowed)
    print(found)
    return OK if found.holds else CANNOT_TELL if found.code == "parity_missing" else WRONG


def _expected(args: argparse.Namespace, reference: Path) -> tuple[list[Expected], Tolerance]:
    """What transformers say on the reference, asked once: a search of flags asks it of many boots."""
    from harness.engines import versions
    from harness.serve.command.asked import guarding
    from harness.store import Store, default_root, digest_tree

    prompts = guarding(args.prompts)
    inputs = {
        "files": digest_tree(reference),
        "versions": versions("hf"),
        "max_tokens": args.max_tokens,
        "prompts": list(map(asdict, prompts)),
    }

    def ask() -> dict[str, Any]:
        rows, allowed = by_reference(reference, prompts, Sampling(max_tokens=args.max_tokens))
        return {"exact": [asdict(row) for row in rows], "allowed": allowed._asdict()}

    kept = Store(default_root().absolute()).make_json("expected", inputs, ask)
    return [Expected.of(row) for row in kept["exact"]], Tolerance(**kept["allowed"])


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the server is stopped on the way out
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
