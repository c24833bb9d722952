"""Which builds and sets the claims of this suite speak about: what the lifecycle file says."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import Settings
from harness.errors import HarnessError
from harness.plugin import settings_of, tier_of
from harness.quant import recipes
from suites.quant import margins


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``build``: each build, in groups by what can be asked of it; ``reference``: each that another engine reads;
    ``golden_set``: each set with answers, ``any_set``: the documents too; ``seed``: further calibration samples.
    """
    settings = settings_of(metafunc.config)
    # In transformers a folder is its own source; another engine's reading of it has to be shown.
    converted = [name for name in settings.references_in_use if settings.subject(name).engine not in ("hf", "openai", "fake")]
    values = {
        "golden_set": settings.sets,
        "any_set": (*settings.sets, settings.texts, *(margins.REQUESTS if settings.guarded else ())),
        "subject": (*converted, *settings.builds),
        "build": settings.builds,
        "guarded": settings.guarded,
        "reading": ("precision", "recall") if settings.guarded else (),
        "reference": converted,
        "calibrated": [name for name in settings.builds if _calibrated(settings, name)],
        # A process for each run where an engine starts in a second; one that stays open, and can be looked into, elsewhere.
        "spawned": [name for name in settings.builds if settings.subject(name).engine not in ("vllm", "hf")],
        "gguf": [name for name in settings.builds if settings.subject(name).engine == "llamacpp"],
        "gguf_reference": [name for name in converted if settings.subject(name).engine == "llamacpp"],
        "opened": [name for name in settings.builds if settings.subject(name).engine in ("vllm", "hf")],
        "seed": range(1, 1 + settings.tier(tier_of(metafunc.config)).seeds),
    }
    for name, known in values.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)


def _calibrated(settings: Settings, name: str) -> bool:
    """Whether we made the build by a method that needs calibration; of a ready-made one nobody knows."""
    recipe = settings.subject(name).recipe.partition(":")[0]
    if not recipe or settings.subject(name).engine == "llamacpp" or recipe in ("base", "tuned"):
        return False
    try:
        return recipes.parse(recipe).needs_calibration
    except HarnessError as error:
        raise pytest.UsageError(f"subject {name}: {error}") from error


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Build by build, so that each engine is opened once: starting one may take a minute."""
    settings = settings_of(config)
    order = [*settings.builds, *settings.references]
    # a reference comes with its first build
    first = {name: next((i for i, b in enumerate(settings.builds) if settings.reference_of(b) == name), 0) for name in settings.references}

    def place(item: pytest.Item) -> int:
        params = getattr(getattr(item, "callspec", None), "params", {})
        named = [v for v in params.values() if v in order]
        return first.get(named[0], order.index(named[0])) if named else -1

    here = Path(__file__).parent
    # where nothing can be asked (no further calibration sample, no guarded build) there is no claim either
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
    mine = [item for item in items if item.path.is_relative_to(here)]
    ordered = iter(sorted(mine, key=place))
    items[:] = [next(ordered) if item in mine else item for item in items]
