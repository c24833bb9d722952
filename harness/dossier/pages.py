"""A dossier for people: one page, one text, a script that reproduces the defect, a test that stays. Every word out of the record."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.evidence import digest, write_atomic
from harness.report.markup import Html, badge, definitions, said, table
from harness.report.style import CSS
from harness.report.text import clean, one_line, shorten

if TYPE_CHECKING:
    from harness.dossier.questions import Pieces

__all__ = ["TEST", "command_test", "lines", "markdown", "page", "regression", "script", "write"]

Record = Mapping[str, Any]

TEST = "test_regression.py"
FILE = "{file}"  # in an argv: where the file goes that the command reads
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
PROOFS = {
    "DO1": "the reproduction fails before the fix and passes after it",
    "DO2": "the bisect is right: the parent passes, the commit fails, without it all is well",
    "DO3": "the reproduction is minimal",
    "DO4": "a regression test fails on the broken side and passes on the other",
}
_TITLES = {
    "found": "found, and proven",
    "not_shown": "found, but not proven",
    "no_defect": "nothing to find",
    "fails_everywhere": "it fails on the good side too",
    "cannot_tell": "cannot be told",
}
_COLOURS = {"found": "good", "not_shown": "bad", "no_defect": "good", "fails_everywhere": "bad", "cannot_tell": "open"}


# --- the regression test ------------------------------------------------------------------------------

_TEST = '''"""Fails while the defect is there, passes once it is gone. Written by ``python -m harness dossier``.

Run it from the folder in which the command works.
"""

import subprocess
import sys

ARGV = {argv}
{constants}RUNS = {runs}  # {why}


def test_the_defect_is_gone({fixture}):
{prepare}    argv = [sys.executable if ARGV[0] in ("python", "python3") else ARGV[0], *{words}]
    for number in range(RUNS):
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, timeout={limit})
        said = (done.stdout + done.stderr)[-2000:]
        assert done.returncode == 0, f"run {{number + 1}} of {{RUNS}} ended with {{done.returncode}}:\\n{{said}}"
'''


def regression(variants: Pieces, chosen: Sequence[int], runs: int) -> str:
    """A test that runs the command with these pieces, as often as a defect that shows now and then needs."""
    if not variants.file:
        return command_test(variants.asked.shown(variants.argv(chosen, "")), runs, variants.asked.limit_s)
    argv = variants.asked.shown(variants.argv(chosen, FILE))
    constants = f"NAME, TEXT = {variants.file!r}, {_literal(variants.text(chosen))}\n"
    prepare = '    path = tmp_path / NAME\n    path.write_text(TEXT, encoding="utf-8")\n'
    words = f'(word.replace("{FILE}", str(path)) for word in ARGV[1:])'
    return _filled(argv, runs, variants.asked.limit_s, constants, "tmp_path", prepare, words)


def command_test(argv: Sequence[str], runs: int, limit_s: float) -> str:
    """A test that runs the command."""
    return _filled(argv, runs, limit_s, "", "", "", "ARGV[1:]")


def _filled(argv: Sequence[str], runs: int, limit_s: float, constants: str, fixture: str, prepare: str, words: str) -> str:
    why = "a run never lied" if runs == 1 else "so many that one which fails now and then is caught"
    return _TEST.format(
        argv=repr(list(argv)), constants=constants, runs=runs, why=why, fixture=fixture, prepare=prepare, words=words, limit=f"{limit_s:g}"
    )


def _literal(text: str) -> str:
    """A Python string, a line of it a line of the file."""
    parts = text.splitlines(keepends=True) or [""]
    return repr(parts[0]) if len(parts) == 1 else "(\n" + "".join(f"    {part!r}\n" for part in parts) + ")"


# --- the script ---------------------------------------------------------------------------------------


def script(record: Record) -> str:
    """Shell that makes it fail: nothing but what is needed."""
    made = record["reproduction"]
    argv = [str(word) for word in made["argv"]]
    head = f"#!/bin/sh\n# {one_line(record['sentence'], 300)}\n"
    if "commit" in made:
        return head + _in_a_worktree(made, argv)
    if not made["file"]:
        return f"{head}{shlex.join(argv)}\n"
    mark = f"END_{digest(made['text'].encode())[:12]}"  # nothing in the text ends it
    place = f'"$room/{made["file"]}"'
    shown = " ".join(place.join(shlex.quote(part) if part else "" for part in word.split(FILE)) or "''" for word in argv)
    return f"{head}room=$(mktemp -d)\ncat > \"$room/{made['file']}\" <<'{mark}'\n{made['text']}{mark}\n{shown}\n"


def _in_a_worktree(made: Record, argv: Sequence[str]) -> str:
    """The commit in a folder of its own, with the files that were put into it."""
    put = "".join(
        f'mkdir -p "$room"/{shlex.quote(str(Path(name).parent))}\ncp "$here"/carried/{shlex.quote(name)} "$room"/{shlex.quote(name)}\n'
        for name in made["carried"]
    )
    return (
        f"# Run it in the repository: sh FOLDER/repro.sh. It leaves nothing behind.\n"
        f'set -u\nhere=$(cd "$(dirname "$0")" && pwd)\nroom=$(mktemp -d)/tree\ngit worktree add --quiet --detach "$room" {made["commit"]}'
        " || exit 125\n"
        f'trap \'git worktree remove --force "$room"\' EXIT\n{put}cd "$room"\nexport PYTHONPATH="$room:$room/src"\n{shlex.join(argv)}\n'
    )


# --- text ---------------------------------------------------------------------------------------------


def lines(record: Record) -> Iterable[str]:
    """For a terminal: what was found, what of it is proven, what it took."""
    yield f"{record['outcome'].upper()}: {one_line(record['sentence'], 600)}"
    for name, proof in record.get("proofs", {}).items():
        yield f"  {name}  {'holds' if proof['holds'] else 'FAILS'}  {one_line(proof['sentence'], 300)}"
    yield f"  {record['runs']} runs ({record['reused']} of them of an earlier search), {record['seconds']:.0f} s"


def markdown(record: Record) -> str:
    """For an issue."""
    parts = [f"# Dossier: {_TITLES[record['outcome']]}\n\n{_md(record['sentence'])}\n"]
    if record.get("reproduction"):
        parts.append(f"## Reproduce it\n\n```sh\n{_fenced(script(record))}```\n")
    found = record.get("found", {})
    if found.get("patch"):
        parts.append(f"## The lines that bring it\n\n```diff\n{_fenced(found['patch'])}```\n")
    if record.get("proofs"):
        rows = [
            f"| {name} | {PROOFS[name]} | {'holds' if p['holds'] else '**fails**'} | {_md(p['sentence'])} |"
            for name, p in record["proofs"].items()
        ]
        parts.append("## What is proven\n\n| | claim | | by |\n|---|---|---|---|\n" + "\n".join(rows) + "\n")
    if record.get("ends", {}).get("tail"):
        parts.append(f"## How it fails\n\n`{_md(record['failure'])}`\n\n```text\n{_fenced(record['ends']['tail'])}\n```\n")
    parts.append(f"## Steps\n\n```text\n{_fenced(chr(10).join(_steps(record)))}\n```\n")
    parts.append(f"{_certainty(record)}\n")
    return "\n".join(parts)


def _certainty(record: Record) -> str:
    took = f"{record['runs']} runs, {record['seconds']:.0f} s."
    if record.get("rates"):
        return (
            f"{took} A run may lie; the probability that any answer above is wrong is at most {record['error']:g}, "
            "over what both ends showed of the rates."
        )
    checks = record["asked"]["checks"]
    return f"{took} Taken as a test that always says the same: each end said so {checks} times."


def _steps(record: Record) -> Iterable[str]:
    for number, step in enumerate(record["steps"], 1):
        runs = f"  {step['failed']} of {step['runs']} runs failed" if step["runs"] > 1 else ""
        yield f"{number:>4}  {step['outcome']:<11}{step['stage']}: {one_line(step['what'], 160)}{runs}  {step['seconds']:.1f} s"


def _md(text: str) -> str:
    return one_line(text, 600).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")


def _fenced(text: str) -> str:
    return clean(text).replace("```", "'''")


# --- the page -----------------------------------------------------------------------------------------


def page(record: Record) -> str:
    """One page that stands alone: no script, no network; what a command printed is escaped."""
    title = f"Dossier: {_TITLES[record['outcome']]}"
    found = record.get("found", {})
    parts = [
        ("What is proven", _proofs(record)),
        ("Reproduce it", _pre(script(record)) if record.get("reproduction") else Html("")),
        ("The lines that bring it", _pre(found["patch"]) if found.get("patch") else Html("")),
        ("How it fails", _pre(record["ends"]["tail"]) if record.get("ends", {}).get("tail") else Html("")),
        ("Steps", _step_table(record)),
        (
            "What was asked",
            definitions([(name, said(str(value), 400)) for name, value in sorted(record["asked"].items()) if value not in ("", None, [])]),
        ),
    ]
    body = "".join(f"<section><h2>{escape(name)}</h2>{inner}</section>" for name, inner in parts if inner)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<header><h1>{escape(title)}</h1>"
        f'<p class="release {_COLOURS[record["outcome"]]}">{said(record["sentence"], 900)}</p>'
        f'<p class="small muted">{said(_certainty(record), 400)}</p></header>\n<main>\n{body}\n</main>\n</body>\n</html>\n'
    )


def _proofs(record: Record) -> Html:
    rows = [
        [said(name), said(PROOFS[name]), badge("holds" if proof["holds"] else "fails"), said(proof["sentence"], 400)]
        for name, proof in record.get("proofs", {}).items()
    ]
    return table("Proofs", ("", "claim", "outcome", "by"), rows, ("", "claim", "", "small")) if rows else Html("")


def _step_table(record: Record) -> Html:
    rows = [
        [
            said(n),
            said(s["stage"]),
            said(s["what"], 200),
            said(s["outcome"]),
            said(s["runs"]),
            said(s["failed"]),
            said(f"{s['seconds']:.1f}"),
        ]
        for n, s in enumerate(record["steps"], 1)
    ]
    return table("Steps", ("", "stage", "what was run", "outcome", "runs", "failed", "s"), rows, ("num", "", "", "", "num", "num", "num"))


def _pre(text: str) -> Html:
    return Html(f"<pre>{escape(shorten(text, 20_000))}</pre>")


# --- files --------------------------------------------------------------------------------------------


def write(record: Record, out: Path) -> list[Path]:
    """dossier.md, dossier.html, and repro.sh where there is a reproduction."""
    texts = {"dossier.md": markdown(record), "dossier.html": page(record)}
    if record.get("reproduction"):
        texts["repro.sh"] = script(record)
    for name, text in texts.items():
        write_atomic(out / name, text.encode("utf-8", "backslashreplace"))
    return [out / name for name in texts]
