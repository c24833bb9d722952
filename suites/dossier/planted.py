"""Small projects with a defect whose cause is known, and twins of them without it. Shell scripts, so that a run takes milliseconds.

``Case.argv`` is what ``python -m harness dossier`` is asked; ``truth`` what it must find: the subject of a commit, or pieces; ``cure``
what mends the project at its bad end.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CASES", "TWINS", "Case", "make"]

COMMITS = 12  # after the first
BROKEN = 7  # the one that brings the defect


@dataclass(frozen=True)
class Case:
    """A project in ``folder``; ``outcome`` is what its dossier must come to, ``hunks`` how many of the commit's are needed."""

    name: str
    folder: Path
    argv: tuple[str, ...]
    truth: tuple[str, ...] = ()
    hunks: int = 0
    outcome: str = "found"
    cure: tuple[str, str, str] = ("", "", "")  # in which file what must be replaced by what, and all is well

    @property
    def of_commits(self) -> bool:
        """Whether its history is searched."""
        return "--good" in self.argv


# --- histories ----------------------------------------------------------------------------------------


def git(folder: Path, *arguments: str) -> str:
    """What git prints, in a repository of nobody's configuration."""
    who = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    who |= {f"GIT_{role}_{what}": said for role in ("AUTHOR", "COMMITTER") for what, said in _SAID.items()}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-c", "init.defaultBranch=main", *arguments], cwd=folder, env={**kept, **who}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


_SAID = {"NAME": "nobody", "EMAIL": "nobody@example.invalid", "DATE": "2026-01-01T00:00:00Z"}

_TAX = ("app.sh", "tax=21", "tax=20")
_APP = "# a shop\nprice=100\n\ntax=20\n\nname=shop\n\nshipping=5\n\nunit=cent\n"
_CHECK = '. ./app.sh || exit 125\n[ "$((price + price * tax / 100 + shipping))" -eq 125 ] || exit 1\n'

Edit = Callable[[str], str]


def _swap(*pairs: tuple[str, str]) -> Edit:
    def edit(text: str) -> str:
        for old, new in pairs:
            assert old in text
            text = text.replace(old, new)
        return text

    return edit


def _history(folder: Path, edits: Mapping[int, Edit], check: str = _CHECK, app: str = _APP) -> None:
    """Twelve commits, each of which also does something harmless; ``edits`` are made to app.sh in some of them."""
    git(folder, "init", "-q")
    for number in range(COMMITS + 1):
        app = edits.get(number, str)(app)
        (folder / "app.sh").write_text(app)
        (folder / "check.sh").write_text(check)
        (folder / f"note-{number}.txt").write_text(f"note {number}\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"change {number}")


def _asked(name: str, folder: Path, *more: str, truth: str = f"change {BROKEN}", hunks: int = 1, **said: Any) -> Case:
    argv = ("--command", "sh check.sh", "--good", "HEAD~12", "--bad", "HEAD", *more)
    told = {"cure": _TAX, **said}
    return Case(name, folder, argv, (truth,) if said.get("outcome", "found") == "found" else (), hunks, **told)


def slip(folder: Path) -> Case:
    """One of four changes of a commit is wrong; a later commit mends it."""
    harmless = (("name=shop", "name=store"), ("unit=cent", "unit=euro-cent"))
    _history(folder, {BROKEN: _swap(("tax=20", "tax=21"), *harmless), COMMITS: _swap(("tax=21", "tax=20"))})
    return Case(
        "slip", folder, ("--command", "sh check.sh", "--good", "HEAD~12", "--bad", "HEAD~1", "--fix", "HEAD"), ("change 7",), 1, cure=_TAX
    )


def pair(folder: Path) -> Case:
    """Two changes of a commit are wrong together only."""
    check = '. ./app.sh || exit 125\n[ "$tax$shipping" != 214 ] || exit 1\n'
    _history(folder, {BROKEN: _swap(("tax=20", "tax=21"), ("shipping=5", "shipping=4"), ("name=shop", "name=store"))}, check)
    return _asked("pair", folder, hunks=2)


def unbuildable(folder: Path) -> Case:
    """A commit behind it cannot be run, one before it fails in another way."""
    edits = {
        3: _swap(("name=shop", "name=shop; exit 3")),
        4: _swap(("name=shop; exit 3", "name=shop")),
        BROKEN: _swap(("tax=20", "tax=21")),
        BROKEN + 2: _swap(("unit=cent", "unit=cent; exit 125")),
        BROKEN + 3: _swap(("unit=cent; exit 125", "unit=cent")),
    }
    _history(folder, edits)
    return _asked("unbuildable", folder)


def crash(folder: Path) -> Case:
    """It ends by a signal; before it another defect, mended since, ended with a status."""
    edits = {
        2: _swap(("price=100", "price=99")),
        5: _swap(("price=99", "price=100")),
        BROKEN: _swap(("name=shop", "kill -SEGV $$")),
    }
    _history(folder, edits)
    return _asked("crash", folder, cure=("app.sh", "kill -SEGV $$", "name=shop"))


def merged(folder: Path) -> Case:
    """It came by a branch of three commits."""
    _history(folder, {})
    git(folder, "checkout", "-q", "-b", "branch", "HEAD~6")
    for number, edit in enumerate([str, _swap(("tax=20", "tax=21")), str]):
        path = folder / "app.sh"
        path.write_text(edit(path.read_text()))
        (folder / f"branch-{number}.txt").write_text("branch\n")
        git(folder, "add", "-A")
        git(folder, "commit", "-q", "-m", f"branch {number}")
    git(folder, "checkout", "-q", "main")
    git(folder, "merge", "-q", "--no-ff", "-m", "merge of branch", "branch")
    (folder / "after.txt").write_text("after\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "after")
    return Case("merged", folder, ("--command", "sh check.sh", "--good", "HEAD~5", "--bad", "HEAD"), ("branch 1",), 1, cure=_TAX)


# Two in five runs, by a counter: a history of chances that is the same each time.
_SOMETIMES = """. ./app.sh || exit 125
n=$(cat "$COUNTER" 2>/dev/null || echo 0)
echo $((n + 1)) > "$COUNTER"
chance=$(echo "run $n" | cksum | cut -d' ' -f1)
[ "$tax" -eq 20 ] || [ $((chance % 100)) -ge RATE ] || exit 1
"""


def _sometimes(folder: Path, rate: int) -> str:
    return _SOMETIMES.replace('"$COUNTER"', f"'{folder.parent / (folder.name + '.counter')}'").replace("RATE", str(rate))


def flaky(folder: Path) -> Case:
    """Two runs in five fail."""
    _history(folder, {BROKEN: _swap(("tax=20", "tax=21"), ("name=shop", "name=store"))}, _sometimes(folder, 40))
    return _asked("flaky", folder, "--flaky")


# --- flags, settings, items ---------------------------------------------------------------------------

_FLAGS = (
    "--ctx-size 4096", "--threads 2", "--batch-size 512", "--metrics", "--rope-scaling linear", "--parallel 4", "--no-warmup",
    "--cache-reuse 0", "--seed 7", "--rope-freq-scale .8", "--keep 0", "--verbosity 1", "--timeout 60", "-ub 256", "--prio=0",
)  # fmt: skip
_BY_FLAGS = """seen=
for word in "$@"; do case "$word" in linear|.8) seen="$seen$word" ;; esac; done
[ "$seen" != linear.8 ]
"""


def of_flags(folder: Path) -> Case:
    """A pair of fifteen flags."""
    (folder / "serve.sh").write_text(_BY_FLAGS)
    argv = ("--command", "sh serve.sh {flags}", f"--flags={' '.join(_FLAGS)}")
    return Case("flags", folder, argv, ("--rope-scaling linear", "--rope-freq-scale .8"), cure=("serve.sh", "seen=", "exit 0"))


def of_settings(folder: Path) -> Case:
    """Two of fourteen settings, one of which stands on the bad side alone."""
    good = {"serve": {"batch": 8, "cache": {"kind": "paged"}, **{f"option-{i}": i for i in range(12)}}}
    bad = {"serve": {"batch": 16, "cache": {"kind": "paged", "reuse": True}, **{f"option-{i}": i + 1 for i in range(12)}}}
    for name, config in (("good.json", good), ("bad.json", bad)):
        (folder / name).write_text(json.dumps(config))
    (folder / "read.sh").write_text('if grep -q \'"batch": 16\' "$1" && grep -q \'"reuse": true\' "$1"; then exit 1; fi\n')
    argv = ("--command", "sh read.sh {config}", "--good-config", "good.json", "--bad-config", "bad.json")
    return Case(
        "settings", folder, argv, ("serve.batch: 8 -> 16", "serve.cache.reuse: (absent) -> true"), cure=("read.sh", "exit 1", "exit 0")
    )


def of_items(folder: Path) -> Case:
    """Two of sixty lines, the second of which is wrong only behind the first."""
    rows = [json.dumps({"id": i, "text": f"row {i}"}) for i in range(60)]
    (folder / "rows.jsonl").write_text("".join(f"{row}\n" for row in rows))
    (folder / "read.sh").write_text("""! awk '/"id": 11,/ {seen = 1} /"id": 48,/ && seen {wrong = 1} END {exit !wrong}' "$1"\n""")
    return Case(
        "items",
        folder,
        ("--command", "sh read.sh {items}", "--items", "rows.jsonl"),
        (rows[11], rows[48]),
        cure=("read.sh", "wrong = 1", "wrong = 0"),
    )


# --- twins --------------------------------------------------------------------------------------------


def no_history(folder: Path) -> Case:
    """The same commits without a wrong one."""
    _history(folder, {BROKEN: _swap(("name=shop", "name=store"))})
    return _asked("no defect in a history", folder, outcome="no_defect", hunks=0)


def no_flaky(folder: Path) -> Case:
    """Runs that all pass, looked at as runs that may lie."""
    _history(folder, {}, "exit 0\n")
    return _asked("no defect that shows now and then", folder, "--flaky", outcome="no_defect", hunks=0)


def no_flags(folder: Path) -> Case:
    """Fifteen flags, none of which does harm."""
    (folder / "serve.sh").write_text("exit 0\n")
    argv = ("--command", "sh serve.sh {flags}", f"--flags={' '.join(_FLAGS)}")
    return Case("no defect in flags", folder, argv, outcome="no_defect")


def always(folder: Path) -> Case:
    """The good end fails too."""
    _history(folder, {0: _swap(("tax=20", "tax=21"))})
    return _asked("an old defect", folder, outcome="fails_everywhere", hunks=0)


def otherwise(folder: Path) -> Case:
    """The good end fails in another way."""
    _history(folder, {0: _swap(("name=shop", "name=shop; exit 3")), BROKEN: _swap(("name=shop; exit 3", "exit 1"))})
    return _asked("another defect at the good end", folder, outcome="cannot_tell", hunks=0)


CASES = (slip, pair, unbuildable, crash, merged, flaky, of_flags, of_settings, of_items)
TWINS = (no_history, no_flaky, no_flags, always, otherwise)


def make(build: Callable[[Path], Case], room: Path) -> Case:
    """The project of a case, in a folder of its own."""
    folder = room / build.__name__
    folder.mkdir()
    return build(folder)
