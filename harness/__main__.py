"""One verb per use: ``python -m harness VERB --help``.

    doctor   what this machine has, what is missing, and the command that gets it
    make     artifacts of the lifecycle file into the store: base, tuned, gguf-q8_0 ...
    plan     what n a margin needs, before time is spent
    recheck  derive every verdict of a run again, offline, with the standard library
    report   render a run's report.html and summary.md again

Exit status: 0 done and well · 1 something is wrong · 2 the command line was.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from harness.errors import HarnessError

_LLAMA_CMAKE = "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF -DMTMD_BUILD=OFF"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb; prints errors as one message, without a traceback."""
    args = _parser().parse_args(argv)
    try:
        return int(args.verb(args))
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what was finished is kept", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m harness", description=__doc__, formatter_class=shape)
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")

    doctor = verbs.add_parser("doctor", help="what this machine has and how to get the rest")
    doctor.add_argument(
        "--install", action="append", default=[], metavar="EXTRA", help="install an extra here: hf, llamacpp, openai, train, test"
    )
    doctor.set_defaults(verb=_doctor)

    make = verbs.add_parser("make", help="make artifacts of the lifecycle file", epilog="example: python -m harness make base tuned")
    make.add_argument("subject", nargs="+", help="names under [subjects], like base, tuned, gguf-q8_0")
    _lifecycle(make)
    make.set_defaults(verb=_make)

    plan = verbs.add_parser(
        "plan", help="n for a margin, and the power of an n", formatter_class=shape,
        epilog="example: python -m harness plan --margin .05 --psi .10 --n 560",
    )  # fmt: skip
    plan.add_argument(
        "--margin", type=float, help="non-inferiority margin on the score scale (.05 is 5 points); all golden sets without it"
    )
    plan.add_argument("--psi", type=float, default=0.10, help="expected share of items that change either way (default .10)")
    plan.add_argument("--alpha", type=float, default=0.05, help="one-sided error rate (default .05)")
    plan.add_argument("--n", type=int, help="also print the exact power at this n")
    _lifecycle(plan)
    plan.set_defaults(verb=_plan)

    recheck = verbs.add_parser("recheck", help="derive every verdict again")
    recheck.add_argument("run", type=Path, nargs="?", help="folder of a run (default: the newest under reports/)")
    recheck.add_argument("--seal", help="the seal you were told; a bundle sealed anew is then refused")
    recheck.set_defaults(verb=_recheck)

    report = verbs.add_parser("report", help="render a run again and seal it")
    report.add_argument("run", type=Path, nargs="?", help="folder of a run (default: the newest under reports/)")
    report.set_defaults(verb=_report)
    return parser


def _lifecycle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lifecycle", type=Path, default=Path("fixtures/lifecycle.toml"), help="default: fixtures/lifecycle.toml")
    parser.add_argument("--store", type=Path, help="default: $HARNESS_STORE or the cache folder")


# --- doctor -----------------------------------------------------------------------------------


def _doctor(args: argparse.Namespace) -> int:
    from harness import provenance
    from harness.store import default_root

    for extra in args.install:
        _install(extra)
    importlib.invalidate_caches()
    machine = provenance.machine()
    print(f"python    {machine['python']}, {machine['system']}, {machine['cores']} cores, {(machine['memory_bytes'] or 0) / 2**30:.0f} GiB")
    print(f"processor {machine['cpu'] or 'unknown'}")
    print(f"gpu       {machine['gpu'] or 'none: everything runs on the CPU'}")
    root = default_root()
    there = next(p for p in (root, *root.parents) if p.exists())
    print(f"store     {root} ({shutil.disk_usage(there).free / 2**30:.0f} GiB free)")
    for name, modules in _extras().items():
        missing = [m for m in modules if importlib.util.find_spec(m) is None]
        state = "ready" if not missing else f"missing {', '.join(missing)}: python -m harness doctor --install {name}"
        print(f"{name:<9} {state}")
    return 0


def _extras() -> dict[str, tuple[str, ...]]:
    """The modules that make an extra usable; found without importing any."""
    return {
        "hf": ("torch", "transformers", "safetensors"),
        "llamacpp": ("llama_cpp", "gguf"),
        "openai": ("aiohttp",),
        "train": ("peft", "trl"),
        "test": ("hypothesis", "scipy", "statsmodels", "xdist"),
    }


def _install(extra: str) -> None:
    """Installs what an extra lists, with the build flags its packages need on this machine."""
    wanted = [
        line.split(";")[0].strip()
        for line in metadata.requires("lifecycle-harness") or []
        if f'extra == "{extra}"' in line.replace("'", '"') and not line.startswith("lifecycle-harness")
    ]
    if not wanted:
        raise HarnessError(f"no extra {extra!r}; known: {', '.join(_extras())}")
    environment = {**os.environ, "CMAKE_ARGS": os.environ.get("CMAKE_ARGS", _cmake_args())}
    environment.setdefault("CMAKE_BUILD_PARALLEL_LEVEL", str(os.cpu_count() or 1))
    print(f"installing {', '.join(wanted)}" + ("; compiling llama.cpp takes some minutes, once" if extra == "llamacpp" else ""), flush=True)
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], env=environment)
    if done.returncode:
        raise HarnessError(f"pip could not install {extra}; what it said stands above. For llamacpp a C++ compiler and cmake are needed")


def _cmake_args() -> str:
    """llama.cpp without what is not used here, with CUDA where there is a GPU and its compiler."""
    cuda = shutil.which("nvidia-smi") and shutil.which("nvcc")
    return f"{_LLAMA_CMAKE} -DGGML_CUDA=on" if cuda else _LLAMA_CMAKE


# --- make and plan ----------------------------------------------------------------------------


def _make(args: argparse.Namespace) -> int:
    from harness import config
    from harness.lifecycle import Workbench
    from harness.progress import to_terminal
    from harness.store import Store, default_root

    settings = config.load(args.lifecycle)
    bench = Workbench(settings, Store((args.store or default_root()).absolute()), settings.tier("full"), to_terminal())
    for name in args.subject:
        subject = bench.subject(name)
        print(f"{name}  {subject.digest[:16]}  {bench.path(name)}")
    return 0


def _plan(args: argparse.Namespace) -> int:
    try:
        return _print_plan(args.margin, args.psi, args.alpha, args.n) if args.margin is not None else _print_sets(args)
    except ValueError as error:
        raise HarnessError(f"plan: {error}") from error


def _print_sets(args: argparse.Namespace) -> int:
    from harness import config, golden
    from harness.stats import plan

    settings = config.load(args.lifecycle)
    print(f"exact power to show 'not worse by the margin' when nothing changed, alpha {args.alpha:g}, psi {args.psi:g}")
    print(f"{'set':<14}{'n':>6}  " + "".join(f"margin {m:<7g}" for m in (0.01, 0.02, 0.03, 0.05)))
    for name in settings.sets:
        n = golden.load(name, settings.golden).n
        powers = "".join(f"{plan.ni_power(n, m, args.psi, args.alpha):<14.3f}" for m in (0.01, 0.02, 0.03, 0.05))
        print(f"{name:<14}{n:>6}  {powers}")
    return 0


def _print_plan(margin: float, psi: float, alpha: float, n: int | None) -> int:
    from harness.stats import plan

    print(f"not worse by {margin:g}, one-sided alpha {alpha:g}, {psi:.0%} of items change either way, no true loss:")
    for power in (0.80, 0.90):
        print(f"  n = {plan.ni_n(margin, psi, alpha, power)} for power {power:g}")
    print(f"  below n = {plan.ni_zero_flip_n(margin, alpha)} not even zero flips can prove it")
    if n is not None:
        print(f"  at n = {n} the exact power is {plan.ni_power(n, margin, psi, alpha):.3f}")
    return 0


# --- recheck and report -----------------------------------------------------------------------


def _newest(run: Path | None) -> Path:
    if run is not None:
        if not run.is_dir():
            raise HarnessError(f"{run}: not a folder; expected the folder of a run, like reports/20261121T120000Z-full-1a2b3c")
        return run
    plans = sorted(Path("reports").glob("*/plan.json"), key=lambda p: p.stat().st_mtime)
    runs = [p.parent for p in plans if p.parent.name != "example"]
    if not runs:
        raise HarnessError("no run under reports/; name its folder, or run pytest -m quant first")
    return runs[-1]


def _recheck(args: argparse.Namespace) -> int:
    from harness.recheck import recheck

    run = _newest(args.run)
    report = recheck(run, seal=args.seal)
    for problem in report.problems:
        print(f"REFUSED  {problem}")
    counts = ", ".join(f"{list(report.verdicts.values()).count(o)} {o}" for o in sorted(set(report.verdicts.values())))
    if report.problems:
        print(f"{run}: {len(report.problems)} problems; {len(report.verdicts)} verdicts were derived again ({counts or 'none'})")
        return 1
    print(f"{run}: identical; {len(report.verdicts)} verdicts derived again ({counts}); seal {report.seal}")
    return 0


def _report(args: argparse.Namespace) -> int:
    from harness import evidence, report
    from harness.recheck import recheck

    run = _newest(args.run)
    if (run / evidence.BUNDLE).is_file():
        # Sealing anew must not wash a changed bundle clean.
        problems = [p for p in recheck(run).problems if "no evidence for the planned claim" not in p]
        if problems:
            raise HarnessError(f"{run}: changed since it was sealed, so it is not rendered again: {problems[0]}")
    report.write(run)
    print(f"{run / 'report.html'}\nseal {evidence.seal_bundle(run)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
