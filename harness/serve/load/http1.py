"""The response side of HTTP/1.1, as much of it as a server of models speaks: one time stamp per read, the rest later.

While a response comes in, each read is kept with its instant and nothing else is looked at but whether it is the last one;
chunks are taken apart when the end is in sight, frames when the response is over.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from itertools import accumulate

__all__ = ["Response"]

_HEX = re.compile(rb"[0-9A-Fa-f]{1,15}[ \t]*(?:;[^\r\n]*)?").fullmatch
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d)(?: [^\r\n]*)?").fullmatch
_MAX_HEAD = 1 << 16


class Response:
    """Reads of one response. ``add`` says whether it is over; ``ended`` then is "whole" or "malformed", "" before."""

    __slots__ = (
        "begin",
        "chunked",
        "close",
        "ended",
        "headers",
        "need",
        "parts",
        "pieces",
        "raw",
        "size",
        "starts",
        "status",
        "times",
        "walked",
    )

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.times: list[int] = []  # ns, one per part
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.ended = ""
        self.close = False  # the server closes after it
        self.chunked = False
        self.need = -1  # bytes up to the end, head included, once known
        self.size = 0
        self.raw, self.begin = b"", 0  # what came and is not yet taken apart; where that begins
        self.walked = 0  # parts that are in it
        self.pieces: list[bytes] = []  # content, and where each piece of it begins
        self.starts: list[int] = []

    def add(self, data: bytes, now: int) -> bool:
        """Takes in a read; whether the response is over."""
        self.parts.append(data)
        self.times.append(now)
        if self.chunked:
            # nothing ends but with an empty line; what ends with one is looked at closely
            if data[-4:] != b"\r\n\r\n" and len(data) > 3:
                return False
            return self._terminated(data) or self._walk()
        self.size += len(data)
        if self.need >= 0:
            return self._counted()
        return self._head() if not self.status else False

    def _terminated(self, data: bytes) -> bool:
        """Whether a read ends as the last one does; ``settle`` takes the chunks before it apart, when there is time."""
        if len(data) < 7:
            data = self.parts[-2][-7:] + data
        if data[-7:] != b"\r\n0\r\n\r\n":
            return False
        self.ended = "whole"
        return True

    def _counted(self) -> bool:
        if self.size < self.need:
            return False
        self.ended = "whole" if self.size == self.need else "malformed"
        return True

    def _join(self) -> bytes:
        self.raw += b"".join(self.parts[self.walked :])
        self.walked = len(self.parts)
        return self.raw

    def _done(self, count: int) -> None:
        self.raw, self.begin = self.raw[count:], self.begin + count

    def _head(self) -> bool:
        while True:
            raw = self._join()
            end = raw.find(b"\r\n\r\n")
            if end < 0:
                return len(raw) > _MAX_HEAD and self._malformed()
            lines = raw[:end].split(b"\r\n")
            self._done(end + 4)
            found = _STATUS(lines[0])
            if found is None:
                return self._malformed()
            if found[1][:1] != b"1":  # 100 Continue and the like precede the answer
                break
        self.status = int(found[1])
        pairs = [line.partition(b":") for line in lines[1:]]
        self.headers = [(k.decode("latin-1").strip().lower(), v.decode("latin-1").strip()) for k, _, v in pairs]
        return self._framing(lines[0])

    def _framing(self, first: bytes) -> bool:
        heads = dict(self.headers)
        tokens = heads.get("connection", "").lower()
        self.close = "close" in tokens or (first.startswith(b"HTTP/1.0") and "keep-alive" not in tokens)
        if self.status in (204, 304):
            self.need = self.begin
        elif "chunked" in heads.get("transfer-encoding", "").lower():
            self.chunked = True
            return self._walk()
        elif (length := heads.get("content-length")) is not None:
            if not (length.isascii() and length.isdigit() and len(length) < 16):
                return self._malformed()
            self.need = self.begin + int(length)
        else:  # up to the end of the connection, which proves nothing
            self.close = True
            return False
        return self._counted()

    def _malformed(self) -> bool:
        self.ended = "malformed"
        return True

    def _walk(self) -> bool:
        """Goes from chunk to chunk as far as they are whole."""
        raw, pos, find, begin = self._join(), 0, self.raw.find, self.begin
        while (line := find(b"\r\n", pos)) >= 0:
            size = _SIZES.get(raw[pos:line])
            if size is None and (size := _size(raw[pos:line])) < 0:
                return self._malformed()
            if not size:
                self._done(pos)
                return self._trailer(line - pos)
            stop = line + 2 + size
            if len(raw) < stop + 2:
                break
            if not raw.startswith(b"\r\n", stop):
                return self._malformed()
            self.pieces.append(raw[line + 2 : stop])
            self.starts.append(begin + line + 2)
            pos = stop + 2
        self._done(pos)
        return line < 0 and len(self.raw) > 4096 and self._malformed()

    def _trailer(self, line: int) -> bool:
        end = self.raw.find(b"\r\n\r\n", line)
        if end < 0:
            return False
        self.ended = "whole" if end + 4 == len(self.raw) else "malformed"
        return True

    # --- when it is over ------------------------------------------------------------------------------

    def settle(self) -> bytes:
        """The content without its framing, as far as it came. To be called once, when no read will follow."""
        if not self.status or self.ended == "malformed":
            return b""
        if not self.chunked:
            self._piece(self._join()[: max(0, self.need - self.begin) if self.need >= 0 else None], 0)
        elif not self._walk():
            # the chunk whose end never came; and what looked like the last chunk was none, if there is one
            self.ended = "malformed" if self.ended else ""
            line = self.raw.find(b"\r\n")
            if line >= 0 and (size := _size(self.raw[:line])) > 0:
                self._piece(self.raw[line + 2 : line + 2 + size], line + 2)
        return b"".join(self.pieces)

    def _piece(self, data: bytes, offset: int) -> None:
        if data:
            self.pieces.append(data)
            self.starts.append(self.begin + offset)

    def instants(self, ends: list[int]) -> list[int]:
        """When each offset of the content (ascending, exclusive) had been read, ns."""
        reads = list(accumulate(map(len, self.parts)))
        after = list(accumulate(map(len, self.pieces)))
        found, piece, read = [], 0, 0
        for end in ends:
            while after[piece] < end:
                piece += 1
            at = self.starts[piece] + len(self.pieces[piece]) - after[piece] + end
            if reads[read] < at:
                read += 1
                if reads[read] < at:
                    read = bisect_left(reads, at, read)
            found.append(self.times[read])
        return found


_SIZES: dict[bytes, int] = {}  # of the chunks seen so far, which are much alike


def _size(text: bytes) -> int:
    """The number that begins a chunk, -1 if it is none."""
    if not _HEX(text):
        return -1
    size = int(text.partition(b";")[0], 16)
    if len(text) < 5:
        _SIZES[text] = size
    return size
