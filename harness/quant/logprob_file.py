"""The reference's next-token distributions over a set of texts: computed once, kept in one file, read text by text.

Kept of each distribution p: every sqrt(p) rounded to a multiple of STEP = 2**-12, which gives the
weights w; tokens rounded to nothing share their mass evenly. The sum of w ln p is kept exactly, so
a reader's sum of w (ln p - ln q) has the error sum of (w - p) (ln p - ln q): nothing where q = p,
and never above STEP/2 times the sum of (sqrt w + sqrt p) |ln p - ln q|. Nothing is normalized: w
adds up to 1 within about STEP times the sum of sqrt p. The square root, since KL(w || p) is to second
order twice the squared distance of the roots: no token is kept finer than it counts. Exact are the
likeliest token and the log-probability of the scored one.

    <sha256> {"format": ..., "vocabulary": ..., "texts": ..., ...}    what the file is
    <sha256> {"id": ..., "tokens": ..., "bytes": ..., ...}            one line for each text ...
    <bytes>                                                           ... and its numbers

The SHA-256 of a line is over the line above it, by that one's own, and over the SHA-256 of the
numbers it announces: the last one seals the file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from harness.engines import token_digest
from harness.errors import EngineError, StoreError
from harness.progress import Progress
from harness.store import digest_json
from harness.types import Engine, Scored, TokenLogprobs

__all__ = ["STEP", "Kept", "Reader", "distributions", "record"]

STEP = 2.0**-12
_FORMAT = "harness-logprobs-1"
_BLOCK = 32  # positions packed and unpacked together: 6 MB as float32 for a vocabulary of 49152
_LONGEST = 1 << 20  # bytes of a line
_LARGE = 255  # a root of this many steps or more stands behind the others, in two bytes
_COLUMNS = ("<u4", "<f8", "<f8", "<f4")  # likeliest, scored, mean, rest
_REPAIR = "delete it; the next run makes it again"


def distributions(engine: Engine, text: Scored) -> tuple[TokenLogprobs, Any]:
    """``text`` scored by ``engine``, and its float32 log-probabilities (tokens, vocabulary).

    Raises EngineError unless they are there and finite.
    """
    import numpy as np

    found = engine.logprobs([text])[0]
    if found.distributions is None or len(found.distributions) != 1:
        raise EngineError(f"document {text.id}: expected one continuation with its whole distributions (full=True)")
    whole = np.asarray(found.distributions[0], dtype=np.float32)
    if not len(whole):
        raise EngineError(f"document {text.id}: it has no token to score; leave it out")
    if not np.isfinite(whole).all():
        raise EngineError(f"document {text.id}: a log-probability is not finite; the build is broken or the dtype overflowed")
    return found, whole


# --- writing -------------------------------------------------------------------------------------


def record(engine: Engine, texts: Sequence[Scored], path: Path, progress: Progress) -> None:
    """Keeps what ``engine`` says of ``texts`` (``full``, one continuation, ids unlike) in the file ``path``.

    Grows as ``path`` + ".part" by one text at a time and is renamed at the end. After a kill the
    same call finds the whole records of the same texts under the same conditions and goes on behind
    them; anything else in the part is begun anew. A finished file of the same is left as it is, and
    another run that is writing it is waited for.

    Raises StoreError if it cannot be written: what was finished stays in the part. Raises
    EngineError for a text without finite log-probabilities.
    """
    told = _told(engine, texts)
    if _finished(path, told):
        return
    with _Part(path, told) as part:
        if _finished(path, told):  # by another run, while we waited
            part.drop()
            return
        for done, text in enumerate(texts):
            progress("reference distributions", done, len(texts))
            if done >= part.texts:
                part.add(text.id, *distributions(engine, text))
        part.finish()
    progress("reference distributions", len(texts), len(texts))


def _told(engine: Engine, texts: Sequence[Scored]) -> dict[str, Any]:
    if not texts or len({text.id for text in texts}) < len(texts):
        raise EngineError(f"{len(texts)} documents to record; expected at least one, and every id once")
    content = digest_json([[text.id, text.context, list(text.continuations)] for text in texts])
    return {"format": _FORMAT, "step": STEP, "texts": len(texts), "sha256": content, "conditions": dict(engine.describe())}


def _finished(path: Path, told: Mapping[str, Any]) -> bool:
    try:
        with Reader(path) as found:
            return found.told == told
    except StoreError:
        return False


class _Part:
    """An unfinished file: its whole records, and the end to add more at. Ours alone (a POSIX lock)."""

    def __init__(self, path: Path, told: Mapping[str, Any]) -> None:
        self.path, self._part, self._told = path, path.with_name(path.name + ".part"), told
        self._file = self._locked()
        try:
            self._begin()
        except BaseException:
            os.close(self._file)
            raise

    def _locked(self) -> int:
        """The part, open and ours; what was moved to its place while we waited is not the part any more."""
        while True:
            try:
                file = os.open(self._part, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            except OSError as error:
                raise StoreError(f"{self._part}: cannot be opened ({error.strerror}); expected a folder to write in") from error
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"{self._part}: another run is writing it; waiting for it", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), self._part.stat()):
                    return file
            os.close(file)

    def _begin(self) -> None:
        with self._part.open("rb") as stream:
            header = _header(stream)
            places = list(_places(stream, header[1], check=True)) if header else []
        self.vocabulary: int | None = None
        self._digest, self.texts, end = "", 0, 0
        if header and {k: v for k, v in header[0].items() if k != "vocabulary"} == self._told and places:
            self.vocabulary, self._digest = header[0]["vocabulary"], places[-1].digest
            self.texts, end = len(places), places[-1].start + places[-1].size
        os.ftruncate(self._file, end)

    def add(self, name: str, found: TokenLogprobs, whole: Any) -> None:
        """Appends one text. Raises EngineError for numbers that are no log-probabilities of this vocabulary."""
        if self.vocabulary is None:
            self.vocabulary = whole.shape[1]
            self._append(self._line({**self._told, "vocabulary": self.vocabulary}))
        if whole.shape != (len(found.tokens[0]), self.vocabulary):
            raise EngineError(f"document {name}: distributions of shape {whole.shape}, expected {len(found.tokens[0])} x {self.vocabulary}")
        data, blocks = _pack(name, whole, found.logprobs[0])
        about = {
            "id": name, "tokens": len(whole), "token_digest": token_digest(found.tokens[0]),
            "bytes": len(data), "blocks": blocks, "sha256": hashlib.sha256(data).hexdigest(),
        }  # fmt: skip
        self._append(self._line(about) + data)
        self.texts += 1

    def _line(self, about: Mapping[str, Any]) -> bytes:
        text = json.dumps(about, sort_keys=True, allow_nan=False).encode()
        self._digest = _chained(self._digest, text)
        return self._digest.encode() + b" " + text + b"\n"

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise StoreError(
                f"{self._part}: cannot be written ({error.strerror}); the {self.texts} of {self._told['texts']} texts "
                "that are finished stay there. Free some space and run again: it goes on behind them"
            ) from error

    def finish(self) -> None:
        """Moves the file to its place, in one step and only when the disk has it."""
        try:
            os.fsync(self._file)
            self._part.replace(self.path)
        except OSError as error:
            raise StoreError(f"{self._part}: cannot be moved to {self.path} ({error.strerror}); run again") from error

    def drop(self) -> None:
        """Removes the part: nobody needs it."""
        self._part.unlink()

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        os.close(self._file)


def _chained(before: str, text: bytes) -> str:
    return hashlib.sha256(before.encode() + text).hexdigest()


# --- reading -------------------------------------------------------------------------------------


class Reader:
    """A finished file: ``told`` is what it was made from, ``vocabulary`` its width, ``ids`` its texts,
    ``digest`` the SHA-256 that seals it. Lines are checked here, numbers when they are read.

    Raises StoreError if the file is absent, damaged or unfinished.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._stream: IO[bytes] = path.open("rb")
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror}); expected recorded log-probabilities") from error
        try:
            self._index()
        except BaseException:
            self._stream.close()
            raise

    def _index(self) -> None:
        header = _header(self._stream)
        if header is None:
            raise StoreError(f"{self.path}: no {_FORMAT} file, or its first line is damaged; {_REPAIR}")
        self.told, self.digest = dict(header[0]), header[1]
        self.vocabulary = int(self.told.pop("vocabulary"))
        self._at = {place.id: place for place in _places(self._stream, self.digest, check=False)}
        if len(self._at) != self.told["texts"] or self._behind() != os.fstat(self._stream.fileno()).st_size:
            raise StoreError(f"{self.path}: {len(self._at)} whole texts of {self.told['texts']}; truncated or damaged, {_REPAIR}")
        self.digest = list(self._at.values())[-1].digest

    def _behind(self) -> int:
        return max((place.start + place.size for place in self._at.values()), default=0)

    @property
    def ids(self) -> tuple[str, ...]:
        """The texts, in the order recorded."""
        return tuple(self._at)

    def text(self, name: str) -> Kept:
        """What is kept of one text. Raises StoreError if it is damaged or was not recorded."""
        import numpy as np

        if name not in self._at:
            raise StoreError(f"{self.path}: document {name} was not recorded; {len(self._at)} others were")
        place = self._at[name]
        self._stream.seek(place.start)
        data = self._stream.read(place.size)
        if hashlib.sha256(data).hexdigest() != place.sha256:
            raise StoreError(f"{self.path}: the numbers of document {name} are damaged; {_REPAIR}")
        columns, at = [], 0
        for kind in _COLUMNS:
            columns.append(np.frombuffer(data, dtype=kind, count=place.tokens, offset=at))
            at += place.tokens * columns[-1].itemsize
        likeliest, scored, mean, rest = columns
        if not all(np.isfinite(column).all() for column in columns):
            raise StoreError(f"{self.path}: document {name} holds a number that is not finite; {_REPAIR}")
        return Kept(name, place.tokens, place.token_digest, self.vocabulary, likeliest, scored, mean, rest, data[at:], place.blocks)

    def close(self) -> None:
        """Closes the file; safe to call twice."""
        self._stream.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Place:
    """Where the numbers of one text lie, as its line says."""

    id: str
    tokens: int
    token_digest: str
    size: int
    blocks: tuple[int, ...]
    sha256: str
    start: int
    digest: str


def _header(stream: IO[bytes]) -> tuple[dict[str, Any], str] | None:
    found = _read_line(stream, "")
    if found is None or found[0].get("format") != _FORMAT:
        return None
    counts = [found[0].get("vocabulary"), found[0].get("texts")]
    return found if all(isinstance(count, int) and count > 0 for count in counts) else None


def _read_line(stream: IO[bytes], before: str) -> tuple[dict[str, Any], str] | None:
    """The line that starts here and its SHA-256; None if it is not whole or not the next one."""
    line = stream.readline(_LONGEST)
    digest, _, text = line.partition(b" ")
    if not text.endswith(b"\n") or _chained(before, text[:-1]) != digest.decode("ascii", "replace"):
        return None
    try:
        about = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return (about, digest.decode()) if isinstance(about, dict) else None


def _places(stream: IO[bytes], before: str, *, check: bool) -> Iterator[_Place]:
    """The whole records from here on, up to the first that is not; ``check`` reads their numbers too."""
    end = os.fstat(stream.fileno()).st_size
    while (found := _read_line(stream, before)) is not None:
        place = _place(*found, stream.tell())
        if place is None or place.start + place.size > end:
            return
        if check and hashlib.sha256(stream.read(place.size)).hexdigest() != place.sha256:
            return
        stream.seek(place.start + place.size)
        before = place.digest
        yield place


def _place(about: Mapping[str, Any], digest: str, start: int) -> _Place | None:
    try:
        tokens, size, blocks = int(about["tokens"]), int(about["bytes"]), tuple(map(int, about["blocks"]))
        place = _Place(str(about["id"]), tokens, str(about["token_digest"]), size, blocks, str(about["sha256"]), start, digest)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    fixed = sum(int(kind[2:]) for kind in _COLUMNS) * tokens
    fits = tokens > 0 and min(blocks, default=0) > 0 and fixed + sum(blocks) == size and len(blocks) == -(-tokens // _BLOCK)
    return place if fits else None


# --- the numbers of one text ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of one text: by position the ``likeliest`` token and ``scored``, the log-probability
    of the token that came; ``token_digest`` is that of the scored tokens.
    """

    id: str
    tokens: int
    token_digest: str
    vocabulary: int
    likeliest: Any
    scored: Any
    mean: Any
    rest: Any
    data: bytes
    blocks: tuple[int, ...]

    def klds(self, new: Any) -> Any:
        """KL(kept || ``new``) in nats at each position; ``new`` are log-probabilities (tokens, vocabulary).

        Raises EngineError for another shape, StoreError if what is kept cannot be unpacked.
        """
        import numpy as np

        if new.shape != (self.tokens, self.vocabulary):
            raise EngineError(
                f"document {self.id}: distributions of shape {new.shape}, the reference's are {self.tokens} x {self.vocabulary}"
            )
        means = []
        ends = [0, *np.cumsum(self.blocks).tolist()]
        for number, (begin, end) in enumerate(pairwise(ends)):
            part = slice(number * _BLOCK, (number + 1) * _BLOCK)
            roots = _unpack(self.id, self.data[begin:end], new[part].shape)
            means.append(_mean(roots, self.rest[part], new[part]))
        return self.mean - np.concatenate(means)


def _pack(name: str, logprobs: Any, scored: Sequence[float]) -> tuple[bytes, list[int]]:
    """The bytes that Reader.text takes apart: four columns, then blocks of the lengths returned."""
    import numpy as np

    packed, means, rests = [], [], []
    for start in range(0, len(logprobs), _BLOCK):
        part = logprobs[start : start + _BLOCK]
        exact = np.exp(part * np.float32(0.5))
        total = np.einsum("tv,tv->t", exact, exact, dtype=np.float64)
        if abs(total - 1).max() > 1e-3:
            raise EngineError(f"document {name}: probabilities add up to {total[abs(total - 1).argmax()]:.4g}, expected log-probabilities")
        roots = np.rint(exact / np.float32(STEP)).astype(np.uint16)
        rests.append(_rest(exact, roots == 0))
        means.append(_mean(roots, rests[-1], part))
        large = roots[roots >= _LARGE].astype("<u2")
        packed.append(_deflate(np.minimum(roots, _LARGE).astype(np.uint8).tobytes() + large.tobytes()))
    columns = (np.argmax(logprobs, axis=-1), scored, np.concatenate(means), np.concatenate(rests))
    fixed = b"".join(np.asarray(column, dtype=kind).tobytes() for column, kind in zip(columns, _COLUMNS, strict=True))
    return fixed + b"".join(packed), [len(block) for block in packed]


def _rest(exact: Any, nothing: Any) -> Any:
    """The mean probability of the tokens that are rounded to nothing, at each position."""
    import numpy as np

    small = np.where(nothing, exact, np.float32(0))
    mass = np.einsum("tv,tv->t", small, small, dtype=np.float64)
    return (mass / np.maximum(nothing.sum(axis=-1), 1)).astype(np.float32)


def _mean(roots: Any, rest: Any, logprobs: Any) -> Any:
    """Sum of w times ``logprobs`` at each position. Writer and reader call this: equal input, equal bits."""
    import numpy as np

    weights = roots.astype(np.float32)
    weights *= np.float32(STEP)
    weights *= weights  # at most 24 bits: exact
    np.copyto(weights, rest[:, None], where=roots == 0)
    return np.einsum("tv,tv->t", weights, logprobs, dtype=np.float64)


def _deflate(data: bytes) -> bytes:
    """Huffman coding of runs: searching for repeats, zlib's default, is 6 times slower here and finds none."""
    pack = zlib.compressobj(1, strategy=zlib.Z_RLE)
    return pack.compress(data) + pack.flush()


def _unpack(name: str, data: bytes, shape: tuple[int, int]) -> Any:
    import numpy as np

    count = shape[0] * shape[1]
    try:
        raw = zlib.decompressobj().decompress(data, 3 * count)
        roots = np.frombuffer(raw, dtype=np.uint8, count=count).astype(np.uint16)
        roots[roots == _LARGE] = np.frombuffer(raw, dtype="<u2", offset=count)
    except (zlib.error, ValueError) as error:
        raise StoreError(f"document {name}: the recorded numbers cannot be unpacked ({error}); delete the file") from error
    return roots.reshape(shape)
