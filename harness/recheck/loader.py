#!/usr/bin/env python3
"""Derives every verdict of a sealed run again, on any machine with Python 3.11 or later and nothing else.

    python3 -I THIS_FILE RUN                 exit status 0: every verdict came out again, byte for byte; 1: it did not
    python3 -I THIS_FILE RUN --seal SHA256   also: it is the run whose seal you were told

RUN is the folder of a run. Nothing is fetched, written or executed from it: its files are digested, unpacked, parsed as JSON
and judged. What is wrong is printed, one line each, with the file it is in.

This file was written by ``python -m harness recheck --copy``. Below stand the parts of the harness that decide, in the order in which
they rest on each other: each section is a module of it, its text as it is in the repository, without what nothing here calls. The last
section, ``harness.recheck``, is what runs first, and the place to begin reading.

Not here: the renderer. The two pages, report.html and summary.md, are held to the seal; that they show what the evidence says
is checked by ``python -m harness recheck RUN`` of the installed package alone.
"""

from __future__ import annotations
import __future__

import argparse
import re
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

SECTION = re.compile(r"^# =+ (harness[\w.]*) =+$", re.MULTILINE)


class Sections(MetaPathFinder, Loader):
    """Makes a module of each section of this file, when another section first imports it."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.text = Path(file).read_text("utf-8")
        heads = list(SECTION.finditer(self.text))
        ends = [*(head.start() for head in heads[1:]), len(self.text)]
        self.places = {head[1]: (head.end(), end) for head, end in zip(heads, ends, strict=True)}
        for parent in {name.rpartition(".")[0] for name in self.places} - set(self.places):
            self.places[parent] = (0, 0)  # a package of which nothing is here but what lies below it

    def find_spec(self, fullname: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Every section may have others below it."""
        return spec_from_loader(fullname, self, is_package=True) if fullname in self.places else None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the section, so that an error names its line in this file."""
        start, end = self.places[module.__name__]
        text = "\n" * self.text.count("\n", 0, start) + self.text[start:end]
        flags = __future__.annotations.compiler_flag
        exec(compile(text, self.file, "exec", flags=flags, dont_inherit=True), module.__dict__)


def main() -> int:
    """Checks the run that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--seal", metavar="SHA256", help="the seal you were told; a bundle sealed anew is then refused")
    args = parser.parse_args()
    sys.meta_path.insert(0, Sections(__file__))
    from harness.recheck import recheck, told

    lines, status = told(args.run, recheck(args.run, seal=args.seal))
    print("\n".join(lines))
    print("pages: report.html and summary.md were held to the seal, not rendered again; python -m harness recheck does both")
    return status


if __name__ == "__main__":
    sys.exit(main())
