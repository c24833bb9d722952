"""Peak memory of one run."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import Any

__all__ = ["Meter"]


class Meter:
    """Peak memory since it was made.

    Linux lets a process reset its own high-water mark (proc(5), clear_refs = 5); elsewhere the peak is that of the
    process so far. On CUDA it is what torch's allocator gave out, on the first device.
    """

    def __init__(self, torch: Any) -> None:
        self._cuda = torch.cuda if torch.cuda.is_available() else None
        if self._cuda is not None:
            self._cuda.init()  # there is no allocator to ask before
            self._cuda.reset_peak_memory_stats()
        try:
            Path("/proc/self/clear_refs").write_text("5")
            self._reset = True
        except OSError:
            self._reset = False

    def peaks(self) -> dict[str, int | None]:
        """Bytes: peak_rss_bytes, and peak_cuda_bytes or None."""
        return {
            "peak_rss_bytes": (_high_water() if self._reset else None) or _process_peak(),
            "peak_cuda_bytes": None if self._cuda is None else int(self._cuda.max_memory_allocated()),
        }


def _high_water() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _process_peak() -> int:
    """Linux counts kilobytes, macOS bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
