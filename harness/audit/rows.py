"""Reading rows: what lies in a file, byte for byte, in constant memory, with nothing left out in silence.

A row is JSON text. JSONL rows are the lines as they lie; elements of a JSON array are cut out, not parsed; Parquet
and CSV rows are written as JSON. A row that is broken stays a row. A file that is broken (cut off, damaged, no rows)
is an AuditError that says how far it was read.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import xxhash
from numba import njit

from harness.errors import AuditError
from harness.progress import Progress

__all__ = ["Chunk", "read"]

_PIECE = 1 << 20
_SIP = 4096  # compressed bytes taken at a time: what they can grow to stays below 150 MB whoever packed them
_BLANK = b" \t\r\n"  # what JSON takes for space
_WRAPPERS = b"data|rows|examples|instances|samples|items|records|train|validation|test"
_SCALAR = rb'\s*"[^"\\]*"\s*:\s*(?:"[^"\\]*"|[-+.\w]+)\s*'
_WRAPPED = re.compile(rb"\s*\{(?:" + _SCALAR + rb",)*\s*\"(?:" + _WRAPPERS + rb")\"\s*:\s*\[")
_AFTER_WRAPPED = re.compile(rb"(?:\s*," + _SCALAR + rb")*\s*\}\s*")
_OPENS_A_DOCUMENT = (b"{", b"[", b",", b":")
_NO_ROWS = {b"PK\x03\x04": "a zip archive", b"ARROW1": "an Arrow file", b"7z\xbc\xaf": "a 7z archive", b"%PDF": "a PDF"}
_EXPECTED = "expected JSONL, JSON, Parquet, CSV or TSV, plain or packed with gzip, zstd, bzip2 or xz"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Consecutive rows as they lie in a file.

    ``line`` is from 1: the physical line in JSONL and CSV, the row in Parquet and JSON arrays. ``offset`` counts bytes
    from the start of the uncompressed file, -1 where that says nothing (Parquet, UTF-16).
    """

    file: int  # index into the files given
    line: Any  # int64[n]
    offset: Any  # int64[n], bytes
    size: Any  # int64[n], bytes
    raw: list[bytes]  # JSON text of each row, or the broken bytes as they are
    digests: Any  # (n, 2) uint64: XXH3-128 of raw


_Rows = tuple[Any, Any, list[bytes]]  # line, offset, raw


class _Broken(Exception):
    """The file ends or breaks where it should not; says how. Rows before it were handed on."""


def read(files: Sequence[Path], *, chunk_bytes: int = 8 << 20, progress: Progress = lambda task, done, total: None) -> Iterator[Chunk]:
    """The rows of the files, in order, about ``chunk_bytes`` at a time. Blank lines are no rows.

    Raises AuditError for a file that is missing, empty, cut off, damaged, or holds no rows.
    """
    for number, path in enumerate(map(Path, files)):
        count = 0
        try:
            with _opened(path) as stream:
                total = os.fstat(stream.fileno()).st_size
                for line, offset, raw in _rows(path, stream, chunk_bytes):
                    count += len(raw)
                    if raw:
                        size = np.fromiter(map(len, raw), np.int64, len(raw))
                        yield Chunk(number, line, offset, size, raw, _digests(raw))
                    progress(f"reading {path.name}", stream.tell() if stream.seekable() else 0, total)
        except _Broken as broken:
            raise AuditError(f"{path}: {broken}; {count} rows were read before. Make the file again, or get it again") from None
        except OSError as error:
            raise AuditError(f"{path}: {error.strerror or error}; {count} rows were read before") from error
        if not count:
            raise AuditError(f"{path}: no rows in it; {_EXPECTED}, with at least one row")


def _digests(raw: list[bytes]) -> Any:
    return np.frombuffer(b"".join(map(xxhash.xxh3_128_digest, raw)), dtype="<u8").reshape(-1, 2)


def _opened(path: Path) -> BinaryIO:
    if path.is_dir():
        raise AuditError(f"{path} is a folder; name the files in it, in order")
    try:
        return open(path, "rb")
    except OSError as error:
        raise AuditError(f"{path}: {error.strerror}; expected a file of rows") from error


def _rows(path: Path, stream: BinaryIO, chunk_bytes: int) -> Iterator[_Rows]:
    """Finds out what the file is, by its first bytes and then by its name."""
    if stream.peek(4)[:4] == b"PAR1":  # type: ignore[attr-defined]
        return _parquet(stream)
    head, pieces, places = _text(_pieces(stream))
    for magic, what in {**_NO_ROWS, b"PAR1": "a packed Parquet file"}.items():
        if head.startswith(magic):
            raise AuditError(f"{path} is {what}; unpack or convert it: {_EXPECTED}")
    suffixes = [suffix.lower() for suffix in path.suffixes[-2:]]
    if ".csv" in suffixes or ".tsv" in suffixes:
        return _csv(path, pieces, places, chunk_bytes)
    if ".jsonl" in suffixes or ".ndjson" in suffixes:
        return _lines(pieces, places, chunk_bytes)
    if wrapped := _WRAPPED.match(head):
        return _array(pieces, places, wrapped.end(), _AFTER_WRAPPED, chunk_bytes)
    start = head.lstrip(_BLANK)
    if start.startswith(b"["):
        return _array(pieces, places, head.index(b"[") + 1, re.compile(rb"\s*"), chunk_bytes)
    first, ends, _ = start.partition(b"\n")
    if ".json" in suffixes and ends and first.rstrip(_BLANK).endswith(_OPENS_A_DOCUMENT):
        raise AuditError(f"{path} is one JSON object; expected an array of rows, or an object with one under 'data' or 'rows'")
    return _lines(pieces, places, chunk_bytes)


# --- bytes ----------------------------------------------------------------------------------------


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    """The uncompressed bytes, whatever the name says of them."""
    start = stream.peek(6)[:6]  # type: ignore[attr-defined]
    for magic, make in _UNPACKERS.items():
        if start.startswith(magic):
            yield from _unpacked(stream, make)
            return
    done = 0
    while piece := stream.read(_PIECE):
        done += len(piece)
        yield piece
    facts = os.fstat(stream.fileno())
    if stat.S_ISREG(facts.st_mode) and facts.st_size != done:
        raise _Broken(f"{done} bytes could be read, the file has {facts.st_size}: it changes while it is read")


def _gzip() -> Any:
    import zlib

    return zlib.decompressobj(wbits=31)


def _zstd() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor()


_UNPACKERS: dict[bytes, Callable[[], Any]] = {
    b"\x1f\x8b": _gzip, b"\x28\xb5\x2f\xfd": _zstd, b"BZh": _bzip2, b"\xfd7zXZ\x00": _xz,
}  # fmt: skip


def _unpacked(stream: BinaryIO, make: Callable[[], Any]) -> Iterator[bytes]:
    """What was packed, of one member or several. The usual file objects end in silence where a zstd file is cut off."""
    unpack, begun = make(), False
    while data := stream.read(_SIP):
        while data := data if begun else data.lstrip(b"\0"):  # gzip members may be padded
            try:
                piece = unpack.decompress(data)
            except Exception as error:  # each library has its own
                raise _Broken(f"the packed bytes are damaged ({error})") from None
            if piece:
                yield piece
            data, begun = (unpack.unused_data, False) if unpack.eof else (b"", True)
            unpack = unpack if begun else make()
    if begun:
        raise _Broken("the packed bytes end too early: the file was cut off")


def _text(pieces: Iterator[bytes]) -> tuple[bytes, Iterator[bytes], int]:
    """UTF-8 pieces without a byte order mark: (the first, all of them, offset of the first byte or -1)."""
    head = b""
    try:
        while len(head) < _PIECE and (piece := next(pieces, b"")):
            head += piece
    except _Broken as broken:
        pieces = _breaking(broken)  # after the rows before it
    if head.startswith((b"\xff\xfe\0\0", b"\0\0\xfe\xff")):
        raise _Broken("it is UTF-32; expected UTF-8 (or UTF-16 with a byte order mark)")
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        decoded = _utf16(chain([head], pieces))
        head = next(decoded, b"")
        return head, chain([head], decoded), -1
    skipped = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    head = head[skipped:]
    return head, chain([head], pieces), skipped


def _breaking(broken: _Broken) -> Iterator[bytes]:
    yield from ()
    raise broken


def _utf16(pieces: Iterator[bytes]) -> Iterator[bytes]:
    import codecs

    decoder = codecs.getincrementaldecoder("utf-16")("surrogatepass")
    try:
        for piece in pieces:
            yield decoder.decode(piece).encode("utf-8", "surrogatepass")
        decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _Broken(f"UTF-16 that cannot be decoded ({error.reason})") from None


def _blocks(pieces: Iterator[bytes], chunk_bytes: int) -> Iterator[bytes]:
    """Whole lines, about ``chunk_bytes`` at a time. Where the pieces break, the whole lines before come first."""
    held: list[bytes] = []
    size = 0
    try:
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size >= chunk_bytes and (cut := piece.rfind(b"\n") + 1):
                held[-1] = piece[:cut]
                yield b"".join(held)
                held, size = [piece[cut:]], len(piece) - cut
    except _Broken:
        whole = b"".join(held)
        yield whole[: whole.rfind(b"\n") + 1]
        raise
    yield b"".join(held)


class _Newlines:
    """Counts line ends as pieces go by: what the rows handed on are checked against."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self.lines = 0

    def __iter__(self) -> Iterator[bytes]:
        last = b"\n"
        for piece in self._pieces:
            self.lines += piece.count(b"\n")
            last = piece[-1:] or last
            yield piece
        self.lines += last != b"\n"

    def check(self, lines: int) -> None:
        if lines != self.lines:
            raise _Broken(f"{lines} lines were told apart, {self.lines} counted: a fault of the reader, please report it")


# --- formats --------------------------------------------------------------------------------------


def _lines(pieces: Iterator[bytes], first: int, chunk_bytes: int) -> Iterator[_Rows]:
    counted = _Newlines(pieces)
    done, place = 0, first
    for block in _blocks(iter(counted), chunk_bytes):
        if not block:
            continue
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()  # the end of the last line begins no other
        starts: Any = np.zeros(len(lines), np.int64)
        np.cumsum(np.fromiter(map(len, lines[:-1]), np.int64, len(lines) - 1) + 1, out=starts[1:])
        numbers = np.arange(done + 1, done + 1 + len(lines))
        raw = [line.strip(_BLANK) for line in lines]
        for i in np.flatnonzero(np.isin(np.frombuffer(block, np.uint8)[starts], (9, 13, 32))).tolist():  # indented
            starts[i] += len(lines[i]) - len(lines[i].lstrip(_BLANK))
        if not all(raw):
            kept = np.array(raw, object) != b""
            raw, numbers, starts = [line for line in raw if line], numbers[kept], starts[kept]
        yield numbers, starts + place if first >= 0 else np.full(len(raw), -1), raw
        done += len(lines)
        place += len(block)
    counted.check(done)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _ends(data: Any, state: Any, out: Any) -> int:  # pragma: no cover - machine code
    """Where elements of an array end: at commas, and at the bracket that closes it. ``state``: depth, in a string, escaped, closed."""
    depth, quoted, escaped = state[0], state[1], state[2]
    found = 0
    for i in range(len(data)):
        c = data[i]
        if quoted:
            if escaped:
                escaped = 0
            elif c == 92:
                escaped = 1
            elif c == 34:
                quoted = 0
        elif c == 34:
            quoted = 1
        elif c == 91 or c == 123:
            depth += 1
        elif (c == 93 or c == 125) and depth > 0:
            depth -= 1
        elif depth == 0 and (c == 44 or c == 93 or c == 125):
            out[found] = i
            found += 1
            if c != 44:
                state[3] = 1
                break
    state[0], state[1], state[2] = depth, quoted, escaped
    return found


def _array(pieces: Iterator[bytes], first: int, begin: int, after: re.Pattern[bytes], chunk_bytes: int) -> Iterator[_Rows]:
    """The elements of a JSON array that begins at byte ``begin`` of the first piece."""
    state: Any = np.zeros(4, np.int64)
    offsets: list[int] = []
    raw: list[bytes] = []
    held: list[bytes] = []
    done = size = 0
    place = first + begin  # of the element that is being read

    def rows() -> _Rows:
        where = np.array(offsets, np.int64) if first >= 0 else np.full(len(raw), -1)
        return np.arange(done + 1, done + 1 + len(raw)), where, raw

    for piece in pieces:
        piece, begin = piece[begin:], 0
        ends: Any = np.empty(len(piece), np.int32)
        last = 0
        for end in ends[: _ends(np.frombuffer(piece, np.uint8), state, ends)].tolist():
            held.append(piece[last:end])
            element = b"".join(held)
            text = element.strip(_BLANK)
            if text or piece[end : end + 1] == b"," or raw or done:  # [] has no element, [1,] an empty one
                raw.append(text)
                offsets.append(place + len(element) - len(element.lstrip(_BLANK)))
            size += len(element)
            place += len(element) + 1
            held, last = [], end + 1
        if state[3]:
            yield rows()
            rest = piece[last:]
            while len(rest) < 4 * _PIECE and (more := next(pieces, b"")):
                rest += more
            if not after.fullmatch(rest) or next(pieces, b""):
                raise _Broken(f"there is more after the array of rows, at byte {place}; expected one array of rows")
            return
        held.append(piece[last:])
        if size >= chunk_bytes:
            yield rows()
            done += len(raw)
            raw, offsets, size = [], [], 0
    yield rows()
    raise _Broken("the array of rows is not closed: the file was cut off, or a bracket or quote is missing in it")


class _Decoded:
    """Lines as text for the csv module; remembers which bytes were taken. Bytes that are no UTF-8 become lone surrogates."""

    def __init__(self, blocks: Iterator[bytes], first: int) -> None:
        self._lines = chain.from_iterable(block.splitlines(True) if b"\r" not in block else _split(block) for block in blocks)
        self.count = 0
        self.place = first
        self.taken: list[str] = []

    def __iter__(self) -> _Decoded:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.count += 1
        self.place += len(line)
        text = line.decode("utf-8", "surrogateescape")
        self.taken.append(text)
        return text


def _split(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    return [line + b"\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])


@contextlib.contextmanager
def _long_fields() -> Iterator[None]:
    """The csv module refuses fields over 128 KiB; its limit is one for the whole process."""
    before = csv.field_size_limit(sys.maxsize)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv(path: Path, pieces: Iterator[bytes], first: int, chunk_bytes: int) -> Iterator[_Rows]:
    """Rows as JSON objects of texts. A row that does not fit the header comes as a JSON array, which no form takes for a row."""
    counted = _Newlines(pieces)
    lines = _Decoded(_blocks(iter(counted), chunk_bytes), first)
    head = next((line for line in lines if line.strip()), "")
    delimiter = "\t" if ".tsv" in path.name.lower() else max(",;\t|", key=head.count)
    reader = csv.reader(chain([head], lines), delimiter=delimiter, strict=True)
    try:
        with _long_fields():
            header = next(reader, [])
    except csv.Error as error:
        raise AuditError(f"{path}: the header cannot be read ({error}); expected the names of the columns") from None
    if twice := sorted({name for name in header if header.count(name) > 1}):
        raise AuditError(f"{path}: column names {twice} are there more than once in the header; name each column once")
    more = True
    while more:
        lines.taken.clear()
        found: list[tuple[int, int, bytes]] = []
        with _long_fields():
            more = _records(reader, lines, header, found, chunk_bytes)
        offset = np.array([where for _, where, _ in found] if first >= 0 else [-1] * len(found), np.int64)
        yield np.array([line for line, _, _ in found], np.int64), offset, [row for _, _, row in found]
    counted.check(lines.count)


def _records(reader: Iterator[list[str]], lines: _Decoded, header: list[str], found: list[tuple[int, int, bytes]], most: int) -> bool:
    """Reads on until ``most`` bytes are found; False at the end of the file."""
    size = 0
    while size < most:
        lines.taken.clear()
        line, place = lines.count + 1, lines.place
        try:
            record = next(reader, None)
            row: Any = dict(zip(header, record, strict=True)) if record and len(record) == len(header) else record
        except csv.Error:
            record = row = ["".join(lines.taken)]  # quotes against the rules, up to the end of the line
        if record is None:
            return False
        if record:
            found.append((line, place, _json(row)))
            size += len(found[-1][2])
    return True


def _json(value: Any) -> bytes:
    try:
        return bytes(orjson.dumps(value, default=_plain))
    except TypeError:  # lone surrogates
        return json.dumps(value, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _parquet(stream: BinaryIO) -> Iterator[_Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    done = 0
    try:
        file = pq.ParquetFile(stream)
        for batch in file.iter_batches(batch_size=4096):
            try:
                raw = [_json(row) for row in batch.to_pylist()]
            except UnicodeDecodeError:
                raw = [_parquet_row(batch, i, done) for i in range(batch.num_rows)]
            yield np.arange(done + 1, done + 1 + len(raw)), np.full(len(raw), -1), raw
            done += len(raw)
    except pa.ArrowException as error:
        raise _Broken(f"Parquet that cannot be read ({str(error).splitlines()[0]})") from None
    if done != file.metadata.num_rows:
        raise _Broken(f"Parquet of {file.metadata.num_rows} rows by its footer, {done} in it")


def _parquet_row(batch: Any, i: int, before: int) -> bytes:
    try:
        return _json(batch.slice(i, 1).to_pylist()[0])
    except UnicodeDecodeError:
        return _json([f"row {before + i + 1} holds text that is no UTF-8"])
