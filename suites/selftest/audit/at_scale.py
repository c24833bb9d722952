"""The audit at scale, measured and written down: ``reports/data``.

    python -m suites.selftest.audit.at_scale corpus EVALS.whl CORPUS.jsonl     938,548 rows out of the package evals
    python -m suites.selftest.audit.at_scale full CORPUS.jsonl [REFERENCES]    all checks: seconds, memory, findings
    python -m suites.selftest.audit.at_scale rows CORPUS.jsonl                 cost a row, from 10,000 to a million
    python -m suites.selftest.audit.at_scale hostile                           inputs made to break it
    python -m suites.selftest.audit.at_scale planted CORPUS.jsonl              .01 % of every kind of defect in all rows
    python -m suites.selftest.audit.at_scale again CORPUS.jsonl                1 % of the rows changed
    python -m suites.selftest.audit.at_scale engines CORPUS.jsonl              one process, two, Ray: the same bytes
    python -m suites.selftest.audit.at_scale page                              writes the page out of what was measured

REFERENCES is a folder of evaluation sets (JSONL), each a set. Every measurement is a process of its own, so that its peak
memory is its own. Times are for people to read; no test asserts one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parents[3] / "reports" / "data"


# --- one audit, in a process of its own -----------------------------------------------------------


def _one(args: argparse.Namespace) -> None:
    """Audits a file and prints what it took and found, as JSON."""
    from harness.audit import forms, run, standard
    from harness.audit.leakage import References

    started, used = time.perf_counter(), _cpu()
    references = tuple(References.of_file(path.stem, path) for path in sorted(args.references.glob("*.jsonl"))) if args.references else ()
    known = standard.Known(references, args.tokenizer, args.context, many=args.many)
    checks = standard.checks(known)
    dataset = run.Dataset(args.name, (args.file,), forms.Shape())
    found = run.audit(dataset, checks, engine=args.engine, workers=args.workers, keep=args.keep)
    digest = found.digest
    wall = time.perf_counter() - started
    kinds = Counter(zip(found.findings.column("check").to_pylist(), found.findings.column("kind").to_pylist(), strict=True))
    said: dict[str, Any] = {
        "rows": found.rows.n, "distinct": found.rows.u, "texts": found.rows.t, "bytes": int(found.rows.size.sum()),
        "seconds": round(wall, 2), "cpu_seconds": round(_cpu() - used, 1), "peak_mb": _peak(), "digest": digest,
        "kinds": {f"{check}.{kind}": n for (check, kind), n in sorted(kinds.items())},
    }  # fmt: skip
    if args.summaries:
        args.summaries.write_text(json.dumps(found.summaries))
    print(json.dumps(said))


def _cpu() -> float:
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def _peak() -> dict[str, int]:
    """Of this process, and of the largest of its children; they ran beside each other."""
    whose = {"main": resource.RUSAGE_SELF, "worker": resource.RUSAGE_CHILDREN}
    return {name: resource.getrusage(who).ru_maxrss // 1024 for name, who in whose.items()}


def measure(file: Path, **options: Any) -> dict[str, Any]:
    """One audit in a process of its own."""
    command = [sys.executable, "-m", __spec__.name, "one", str(file)]
    for name, value in options.items():
        if value is not None and value is not False:
            command += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        peak = 0
        while done.poll() is None:
            peak = max(peak, _together(done.pid))
            time.sleep(0.2)
        if done.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)}\n{errors.read()[-2000:]}")
        said: dict[str, Any] = json.loads(done.stdout.read().splitlines()[-1]) if done.stdout else {}
    said["peak_mb"]["together"] = peak
    print({key: said[key] for key in ("rows", "seconds", "cpu_seconds", "peak_mb", "digest")}, flush=True)
    return said


def _together(process: int) -> int:
    """Megabytes of a process and all below it, what they share counted once (proportional set size)."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            group = os.getpgid(int(folder.name))
            if group == os.getpgid(process) and _below(int(folder.name), process):
                rolled = (folder / "smaps_rollup").read_text()
                total += int(rolled.split("Pss:")[1].split()[0])
    return total // 1024


def _below(process: int, ancestor: int) -> bool:
    while process > 1:
        if process == ancestor:
            return True
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return False


def _keep(name: str, measured: Any) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.json").write_text(json.dumps(measured, indent=1) + "\n")


# --- the corpus -----------------------------------------------------------------------------------


def corpus(wheel: Path, out: Path) -> None:
    """The chat rows of the package evals (MIT) as messages: ``input``, then the first ``ideal``."""
    import orjson

    with zipfile.ZipFile(wheel) as package, out.open("wb") as stream:
        for name in sorted(n for n in package.namelist() if n.startswith("evals/registry/data/") and n.endswith(".jsonl")):
            for line in package.read(name).split(b"\n"):
                row = _messages(line)
                if row is not None:
                    stream.write(orjson.dumps({"messages": row, "source": name.removeprefix("evals/registry/data/")}) + b"\n")


def _messages(line: bytes) -> list[Any] | None:
    import orjson

    try:
        row = orjson.loads(line)
    except ValueError:
        return None  # one line of the package holds two values
    asked = row.get("input") if isinstance(row, dict) else None
    asked = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    if not (isinstance(asked, list) and all(isinstance(m, dict) and "role" in m for m in asked)):
        return None
    ideal = row.get("ideal")
    ideal = ideal[0] if isinstance(ideal, list) and ideal else ideal
    said = (
        []
        if ideal is None or isinstance(ideal, list)
        else [{"role": "assistant", "content": ideal if isinstance(ideal, str) else str(ideal)}]
    )
    return [*asked, *said]


# --- what is measured -----------------------------------------------------------------------------


def full(file: Path, references: Path | None, tokenizer: Path | None) -> None:
    runs = {"all checks": measure(file, many=True)}
    if references:
        runs["and leakage into the reference sets"] = measure(file, many=True, references=references)
    if tokenizer:
        runs["and tokens, context 8192"] = measure(file, many=True, references=references, tokenizer=tokenizer, context=8192)
    _keep("full", runs)


def rows(file: Path) -> None:
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for n in (10_000, 31_623, 100_000, 316_228, 938_548):
            part = Path(scratch, "part.jsonl")
            _drawn(file, part, n / 938_548)
            found.append({"asked": n, **measure(part, many=True, engine="serial")})
    _keep("rows", found)


def _drawn(file: Path, out: Path, share: float) -> None:
    """That share of the lines, by a seeded draw: of the same kind as the whole."""
    draw = random.Random(0)
    with file.open("rb") as source, out.open("wb") as stream:
        stream.writelines(line for line in source if share >= 1 or draw.random() < share)


def _hostile() -> dict[str, Callable[[], Iterable[bytes]]]:
    def chat(asked: str, answered: str) -> bytes:
        return json.dumps({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]}).encode()

    words = [f"w{i}" for i in range(5000)]
    draw = random.Random(1)
    prompt = " ".join(draw.choices(words, k=400))
    tricky = [
        "\u202e",
        "\u200b",
        "e\u0301" * 40,
        "\ufdfa" * 30,
        "\u0e33" * 20,
        "\U0001f468\u200d\U0001f469" * 20,
        "\x00",
        "\ud800",
        "A\u030a" * 50,
    ]
    return {
        "300,000 rows that share one prompt of 400 words": lambda: (chat(prompt, f"{i} {i * 7} {i * 13}") for i in range(300_000)),
        "one row of 50 MB among 1,000": lambda: (
            chat(" ".join(draw.choices(words, k=9_000_000)) if i == 500 else f"q {i}", f"a {i}") for i in range(1000)
        ),
        "300,000 equal rows": lambda: (chat("the same question, again and again", "the same answer") for _ in range(300_000)),
        "a million distinct tiny rows": lambda: (chat(f"q{i}", f"a{i}") for i in range(1_000_000)),
        "200 families of 1,000 near copies": lambda: (
            chat(" ".join([*(f"f{f}x{j}" for j in range(40)), f"n{i}"]), f"a{f}") for f in range(200) for i in range(1000)
        ),
        "100,000 rows of hostile Unicode": lambda: (chat("".join(draw.choices(tricky, k=12)), f"answer {i}") for i in range(100_000)),
        "100,000 broken rows": lambda: (b'{"messages": [{"role": "user", ' + b"[" * (i % 300) for i in range(100_000)),
    }  # fmt: skip


def hostile() -> None:
    found = {}
    for name, lines in _hostile().items():
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch, "hostile.jsonl")
            with file.open("wb") as stream:
                stream.writelines(line + b"\n" for line in lines())
            print(name, flush=True)
            found[name] = measure(file, many=True)
    _keep("hostile", found)


def planted(file: Path) -> None:
    from harness.audit import outputs, plant, run, standard

    with tempfile.TemporaryDirectory() as scratch:
        started = time.perf_counter()
        plan = plant.plant([file], Path(scratch), rate=1e-4, kinds=[k for k in plant.KINDS if not k.startswith("golden")])
        seconds = time.perf_counter() - started
        checks = standard.checks(standard.Known(many=True))
        clean = run.audit(run.Dataset("corpus", (file,)), checks)
        found = run.audit(run.Dataset("corpus", plan.files), checks)
        blocking = found.findings.filter(outputs.blocking(found.findings, outputs.POLICY))
        alarms = plant.false_alarms(plan, blocking, clean.findings)
        recall = plant.recall(plan, found.findings)
    _keep("planted", {
        "rows": plan.rows, "seconds_to_plant": round(seconds, 1), "left_out": dict(plan.left_out), "false_alarms": alarms.num_rows,
        "alarm_kinds": dict(Counter(alarms.column("kind").to_pylist())),
        "kinds": {kind: {"planted": seen.planted, "found": seen.found} for kind, seen in recall.items()},
    })  # fmt: skip


def changed(file: Path, out: Path, share: float = 0.01) -> dict[str, int]:
    """A copy with that share of the rows changed, at drawn places: answers edited, rows removed, put in, moved."""
    draw, counted, held = random.Random(2), Counter[str](), b""
    with file.open("rb") as source, out.open("wb") as stream:
        for number, line in enumerate(source):
            what = draw.choice(("edited", "removed", "added", "moved")) if draw.random() < share else ""
            counted[what or "kept"] += 1
            if what == "edited":
                row = json.loads(line)
                row["messages"][-1]["content"] = f"{row['messages'][-1].get('content')} Revised, {number}."
                line = json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
            elif what == "added":
                turns = [("user", f"New question {number}?"), ("assistant", f"New answer {number}.")]
                stream.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}).encode() + b"\n")
            elif what == "moved":
                line, held = held, line
            stream.write(b"" if what == "removed" else line)
        stream.write(held)
    return dict(counted)


def again(file: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        later, keep = Path(scratch, "later.jsonl"), Path(scratch, "keep")
        edits = changed(file, later)
        measured = {
            "edits": edits, "full": measure(file, many=True, keep=keep), "unchanged": measure(file, many=True, keep=keep),
            "one per cent changed": measure(later, many=True, keep=keep), "the same, from nothing": measure(later, many=True),
        }  # fmt: skip
    _keep("again", measured)


def engines(file: Path) -> None:
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch, "part.jsonl")
        _drawn(file, part, 0.1)
        for engine, workers in (("serial", 1), ("processes", 2), ("processes", 3), ("ray", 2)):
            found[f"{engine}, {workers}"] = measure(part, many=True, engine=engine, workers=workers)
    _keep("engines", found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    one = what.add_parser("one")
    one.add_argument("file", type=Path)
    options = {
        "engine": (str, "processes"), "workers": (int, 2), "keep": (Path, None), "references": (Path, None), "tokenizer": (Path, None),
        "context": (int, 2048), "name": (str, "corpus"), "summaries": (Path, None),
    }  # fmt: skip
    for name, (kind, usual) in options.items():
        one.add_argument(f"--{name}", type=kind, default=usual)
    one.add_argument("--many", action="store_true")
    make = what.add_parser("corpus")
    make.add_argument("wheel", type=Path)
    make.add_argument("out", type=Path)
    whole = what.add_parser("full")
    whole.add_argument("file", type=Path)
    whole.add_argument("references", type=Path, nargs="?")
    whole.add_argument("--tokenizer", type=Path)
    for name in ("rows", "planted", "again", "engines"):
        what.add_parser(name).add_argument("file", type=Path)
    what.add_parser("hostile")
    what.add_parser("page")
    args = parser.parse_args()
    if args.what == "one":
        _one(args)
    elif args.what == "corpus":
        corpus(args.wheel, args.out)
    elif args.what == "full":
        full(args.file, args.references, args.tokenizer)
    elif args.what == "hostile":
        hostile()
    elif args.what == "page":
        from suites.selftest.audit.page import write

        write(OUT)
    else:
        {"rows": rows, "planted": planted, "again": again, "engines": engines}[args.what](args.file)


if __name__ == "__main__":
    main()
