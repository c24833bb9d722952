"""Scripted servers and proxies, each gone when its test ends."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from harness.serve.stub import start


@pytest.fixture
def stub():
    """``stub(plan)``: a server that does what the plan says, and knows what it did."""
    with ExitStack() as stack:
        yield lambda plan=None, **options: stack.enter_context(start(plan or {}, **options))
