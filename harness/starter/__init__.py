"""A project of one's own: ``python -m harness init`` and ``golden``.

    project.py          which files a project gets, and that none is overwritten
    sets.py             a golden set out of JSONL, JSON or CSV, and what its n can show
    templates/          the files themselves, as they are filled in
    command.py          the verb ``init``;  golden_command.py the verb ``golden``

The built-in suites are claims about the built-in subject and are not installed. What a project of one's own gets is the
plugin: the marker ``claim``, the fixtures ``claim``, ``engine``, ``golden`` and ``bench``, the options of pytest, and the
library behind them.
"""
