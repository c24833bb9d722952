"""``python -m harness load URL``: what the suite claims of a server, for people without pytest. Same code, same verdicts."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, EvidenceError, MissingNeed

__all__ = ["add_parser"]

RED, USAGE, NOT_EVALUATED, INTERRUPTED = 1, 2, 8, 130

_HELP = """what it does:
  plan      how many requests the objectives need; with fewer nothing is sent
  parity    the server's greedy answers, token ids and log-probabilities against transformers on --parity FOLDER, before and
            after: a fast answer of a wrong server is no answer. Without it --unchecked must say that speed alone is judged
  load      each request when it is due, whatever became of the others; its latency counts from when it was due
  verdict   an objective holds if the 95 % limit of the share over it is below what it allows; a failed request is over it

  machines  for more than one machine can send, each sends its share at the same instants: the same command line on all of them,
            with --machine and --start; then once more with --merge in their place, which sends nothing and judges the whole. One
            of them with --parity checks for all; the others take --unchecked

exit status:
  0  everything that was asked holds; of one machine of several: its share was sent
  1  something fails, or is not decided; the table says why, and how many requests would do
  2  the command line is wrong; nothing was sent
  8  not evaluated: no server, the key was refused, another model on the port, nothing to send
130  it was interrupted, by Ctrl-C or SIGTERM

examples:
  python -m harness load http://127.0.0.1:8000 --rate 20 --slo ttft_p99=300ms --parity ./my-model
  python -m harness load http://127.0.0.1:8000/v1#my-model --rate 5 --slo ttft_p95=1s --slo tpot_p95=50ms --goodput .95 --unchecked
  python -m harness load http://127.0.0.1:8000 --rate 20 --slo e2e_p95=4s --arrivals gamma:0.25 --prompts questions.jsonl --unchecked
  python -m harness load http://127.0.0.1:8000 --rate 8 --requests 3000 --tokens-per-second 400 --unchecked
  python -m harness load http://127.0.0.1:8000 --search 1:40 --slo ttft_p95=300ms --unchecked     the largest rate that holds

  python -m harness load http://10.0.0.9:8000 --rate 9000 --requests 90000 --slo ttft_p99=300ms --unchecked \\
      --machine 1/3 --start 2026-11-22T10:00:00Z --out part-1          (and so on)
  python -m harness load http://10.0.0.9:8000 --rate 9000 --requests 90000 --slo ttft_p99=300ms \\
      --merge part-1 part-2 part-3 --out run

The key, if the server asks for one, comes out of the environment variable OPENAI_API_KEY (--key-env names another).
"""


def add_parser(verbs: Any) -> None:
    """Adds the verb ``load`` to those of the command line."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = verbs.add_parser("load", help="whether a server keeps its latency limits at a rate", formatter_class=shape, epilog=_HELP)
    parser.add_argument("url", metavar="URL", help="http://HOST:PORT, or http://HOST:PORT/v1#MODEL; it is measured and never touched")
    said = parser.add_argument_group("what is claimed")
    said.add_argument(
        "--slo", action="append", default=[], metavar="NAME=LIMIT", help="METRIC_pQUANTILE=TIME of ttft, tpot, e2e, gap; repeatable"
    )
    said.add_argument("--goodput", type=float, metavar="SHARE", help="share of all requests inside every --slo, like .95")
    said.add_argument("--tokens-per-second", type=float, metavar="N", help="at least so many, over the whole window")
    said.add_argument(
        "--parity", type=Path, metavar="FOLDER", help="the checkpoint that is served: its answers in transformers are the reference"
    )
    said.add_argument(
        "--unchecked",
        action="store_true",
        help="judge speed although nobody checked what the server answers; it is said beside each verdict",
    )
    sent = parser.add_argument_group("what is sent")
    sent.add_argument("--rate", type=float, help="requests a second (at a rate: poisson, constant, gamma)")
    sent.add_argument("--requests", type=int, metavar="N", help="in the window (default: what the plan needs)")
    sent.add_argument("--seconds", type=float, metavar="S", help="length of the window, instead")
    sent.add_argument(
        "--arrivals", default="poisson", metavar="HOW", help="poisson, constant, gamma:SHAPE, ramp:R0:R1, trace:FILE, closed:C"
    )
    sent.add_argument("--warmup", type=float, metavar="S", help="before the window (default: 30, or until 128 requests)")
    sent.add_argument("--prompts", type=Path, metavar="FILE.jsonl", help='one a line: {"messages": [...]} or {"prompt": "..."}')
    sent.add_argument(
        "--replay", type=Path, metavar="LOG", help='recorded requests at their recorded times: {"timestamp": 1.5, "body": {...}}'
    )
    sent.add_argument("--input-tokens", type=int, default=128, metavar="N", help="of random prompts, where none are given (default 128)")
    sent.add_argument("--output-tokens", type=int, default=64, metavar="N", help="max_tokens (default 64)")
    sent.add_argument("--ignore-eos", action="store_true", help="ask for exactly that many (vLLM)")
    sent.add_argument("--model", default="", help="the served name (default: after # in the URL, or the only one there is)")
    sent.add_argument("--completions", action="store_true", help="/v1/completions instead of chat")
    sent.add_argument("--no-stream", action="store_true", help="whole answers: then only e2e is measured")
    sent.add_argument("--shards", type=int, metavar="W", help="processes that send (default 1; same instants for any number)")
    sent.add_argument("--machine", metavar="I/M", help="this is machine I of M: only its share is sent, and kept in --out for --merge")
    sent.add_argument("--start", metavar="TIME", help="when all machines begin, like 2026-11-22T10:00:00Z, by clocks that are kept to UTC")
    sent.add_argument("--seed", type=int, default=0)
    sent.add_argument("--limit", type=float, metavar="S", help="how long a request is waited for (default: the largest limit + 10)")
    sent.add_argument("--key-env", default="OPENAI_API_KEY", metavar="NAME")
    done = parser.add_argument_group("what comes of it")
    done.add_argument("--search", metavar="LOW:HIGH", help="the largest rate between these that keeps every --slo and --goodput")
    done.add_argument("--merge", type=Path, nargs="+", metavar="DIR", help="judge what the machines kept in their --out; nothing is sent")
    done.add_argument("--out", type=Path, metavar="DIR", help="write evidence here, for python -m harness recheck DIR")
    done.add_argument("--json", action="store_true", help="print everything as JSON instead of the table")
    parser.set_defaults(verb=_load)


def _load(args: argparse.Namespace) -> int:
    from harness.serve.command import run as command_run  # the machinery of a load is not for every verb

    try:
        with _terminable():
            return command_run.search(args) if args.search else command_run.once(args)
    except ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return USAGE
    except (EvidenceError, OSError) as error:
        print(f"error: {error}\nwhat was measured could not be kept: nothing is shown by it", file=sys.stderr)
        return RED
    except MissingNeed as missing:
        print(f"not evaluated ({missing.need}): {missing}", file=sys.stderr)
        return NOT_EVALUATED
    except KeyboardInterrupt:
        print("\ninterrupted: a load that did not end says nothing, and nothing of it was kept", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does: the processes that send are ended, and what they wrote is taken away."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: nothing is to disturb the end
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
