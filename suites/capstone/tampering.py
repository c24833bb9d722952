"""One byte changed, anywhere in a run: is the file named?

Every change is made on disk. Many files get one each before the check is run, since each is named by a line of its own; the seal,
``bundle.json``, on which all lines rest, is changed alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness import evidence
from harness.recheck import seal_of

Check = Callable[[Path], Sequence[str]]
KINDS = ("bit flipped", "byte replaced", "byte put in", "byte taken out")


@dataclass(frozen=True)
class Change:
    """One byte of one file, and whether the check named the file."""

    file: str
    kind: str
    at: int
    named: bool


def by_seal(run: Path) -> Sequence[str]:
    """What recheck asks first: the digest of every file, and of the seal."""
    return seal_of(run)[1]


def tampered(run: Path, n: int, seed: int, *, check: Check = by_seal, at_once: int = 200, harmless: bool = False) -> Iterator[Change]:
    """``n`` changes of ``run``, which is left as it was: one in a hundred of the seal, of the others half of any file and half of any byte.

    ``harmless``: each byte is replaced by itself, so that whoever is named is named wrongly.
    """
    rng = random.Random(seed)
    sizes = {name: (run / name).stat().st_size for name in evidence.bundle_files(run)}
    sizes = {name: size for name, size in sizes.items() if size}
    done = 0
    while done < n:
        files = [evidence.BUNDLE] if rng.random() < 0.01 * at_once / (1 + 0.01 * at_once) else _some(rng, sizes, min(at_once, n - done))
        yield from _round(run, files, rng, check, harmless)
        done += len(files)


def _some(rng: random.Random, sizes: dict[str, int], n: int) -> list[str]:
    names = list(sizes)
    by_byte = rng.choices(names, list(sizes.values()), k=n // 2)
    return list(dict.fromkeys([*by_byte, *rng.sample(names, min(len(names), n))]))[:n]


def _round(run: Path, files: Sequence[str], rng: random.Random, check: Check, harmless: bool) -> Iterator[Change]:
    kept = {name: (run / name).read_bytes() for name in files}
    made: dict[str, tuple[str, int]] = {}
    try:
        for name, data in kept.items():
            kind, at = rng.choice(KINDS), rng.randrange(len(data))
            made[name] = (kind, at)
            (run / name).write_bytes(data if harmless else _changed(data, kind, at, rng))
        told = check(run)
        for name, (kind, at) in made.items():
            yield Change(name, kind, at, any(problem.startswith(f"{run / name}: ") for problem in told))
    finally:
        for name, data in kept.items():
            (run / name).write_bytes(data)


def _changed(data: bytes, kind: str, at: int, rng: random.Random) -> bytes:
    other = (data[at] + rng.randrange(1, 256)) % 256
    new = {
        "bit flipped": bytes([data[at] ^ 1 << rng.randrange(8)]),
        "byte replaced": bytes([other]),
        "byte put in": bytes([other, data[at]]),
        "byte taken out": b"",
    }[kind]
    return data[:at] + new + data[at + 1 :]
