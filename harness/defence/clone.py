"""The repository at the commit of a report, in a folder of its own: what measures is the code that the report names."""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness.errors import ConfigError, HarnessError

__all__ = ["commit_of", "made", "toplevel"]


def toplevel(near: Path) -> Path:
    """The working tree that ``near`` lies in. ConfigError if it lies in none."""
    done = _git(near if near.is_dir() else near.parent, "rev-parse", "--show-toplevel")
    if done.returncode:
        raise ConfigError(f"{near}: in no git repository; name the one that made this report: --repo DIR")
    return Path(done.stdout.strip())


def commit_of(repository: Path, name: str) -> str:
    """The full id of a commit. ConfigError if ``repository`` does not hold it."""
    done = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode:
        raise ConfigError(
            f"{repository}: has no commit {name}. Get it (git fetch --unshallow, git fetch origin {name}), "
            "name another repository (--repo DIR), or measure with the present tree (--here)"
        )
    return done.stdout.strip()


def made(repository: Path, commit: str, folder: Path) -> Path:
    """A clean clone at ``commit`` in ``folder``; one that is there is used again if it is just that. HarnessError otherwise."""
    if folder.exists():
        at, changed = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "--untracked-files=no")
        if at.returncode or at.stdout.strip() != commit or changed.stdout.strip():
            raise HarnessError(f"{folder}: not a clean clone at {commit[:12]}; remove it, or name another folder with --keep")
        return folder
    # No hook of anybody's template runs, and no link into the repository is left: the clone stands alone.
    quiet = ("-c", "core.hooksPath=/dev/null", "-c", "advice.detachedHead=false")
    for command in (
        [*quiet, "clone", "--quiet", "--no-checkout", "--no-hardlinks", "--", str(repository), str(folder)],
        ["-C", str(folder), *quiet, "checkout", "--quiet", "--detach", commit],
    ):
        done = _git(repository, *command)
        if done.returncode:
            raise HarnessError(f"cannot clone {repository} at {commit[:12]} into {folder}: {done.stderr.strip() or 'git said nothing'}")
    return folder


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, errors="replace")
    except OSError as error:
        raise HarnessError(f"git cannot be run in {folder}: {error}; install git, or measure with the present tree (--here)") from error
