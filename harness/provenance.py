"""Where a number comes from: commit, packages, machine, threads. Standard library only.

No host name, user name, path or environment variable: evidence is meant to be shown to strangers.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

__all__ = ["collect", "installed", "machine", "packages"]

_PACKAGES = (
    "lifecycle-harness", "pytest", "numpy", "scipy", "torch", "transformers", "tokenizers", "peft", "trl",
    "llama_cpp_python", "gguf", "safetensors", "aiohttp", "jinja2",
)  # fmt: skip


def collect(root: Path) -> dict[str, Any]:
    """Commit, packages and machine of this run; what cannot be known is None."""
    return {"code": _code(root), "packages": packages(), "machine": machine()}


@functools.cache
def packages() -> dict[str, str]:
    """Installed versions of the packages that shape numbers."""
    return installed(_PACKAGES)


def installed(distributions: Iterable[str]) -> dict[str, str]:
    """Versions of those that are installed, without importing them."""
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def machine() -> dict[str, Any]:
    """CPU, cores, memory, operating system, GPU: what a speed depends on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": _memory(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": _gpu(),
    }


def _cpu() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or None


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _gpu() -> str | None:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    out = _run(query, Path.cwd())
    return out.strip() or None if out else None


def _code(root: Path) -> dict[str, str | None]:
    """The commit, and a digest of whatever was changed since (untracked files by name)."""
    commit = _run(["git", "rev-parse", "HEAD"], root)
    if not commit:
        return {"commit": None, "dirty": None}
    changes = (_run(["git", "diff", "HEAD", "--binary"], root) or "") + (
        _run(["git", "ls-files", "--others", "--exclude-standard"], root) or ""
    )
    dirty = hashlib.sha256(changes.encode("utf-8", "replace")).hexdigest() if changes else None
    return {"commit": commit.strip(), "dirty": dirty}


def _run(command: list[str], folder: Path) -> str | None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace")
