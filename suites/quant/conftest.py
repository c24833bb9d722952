"""Which builds and sets the claims of this suite speak about: what the lifecycle file says."""

from __future__ import annotations

import pytest

from harness.plugin import settings_of


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``build``: each build; ``golden_set``: each set with answers; ``any_set``: the documents too."""
    settings = settings_of(metafunc.config)
    values = {
        "golden_set": settings.sets,
        "any_set": (*settings.sets, settings.texts),
        "subject": (settings.reference, *settings.builds),
        "build": settings.builds,
    }
    for name, known in values.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)
