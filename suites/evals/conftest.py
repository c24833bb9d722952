"""Which subjects and sets the claims of this suite speak about: [compare] of the lifecycle file."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import golden
from harness.config import Settings
from harness.errors import GoldenError
from harness.evals import health, metamorphic
from harness.plugin import settings_of, tier_of
from suites.evals import baseline, margins


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``tuned`` against base on ``primary`` (``extracted`` where answers are objects); ``guardrail``; an arm against another
    in each ``kind`` of health; a set in each ``variant`` that fits it; what was ``approved``.
    """
    settings = settings_of(metafunc.config)
    said = settings.compare
    values: dict[str, tuple[str, ...]] = {
        "primary": (said.primary,) if said else (),
        "extracted": (said.primary,) if said and _kind(settings, said.primary) == "json_extraction" else (),
        "guardrail": said.guardrails if said else (),
        "tuned": (said.tuned,) if said else (),
        "base": (said.base,) if said else (),
        "iterated": (said.iterated,) if said and said.iterated else (),
        "kind": health.KINDS,
        "exact": (baseline.EXACT,) if baseline.exact(settings) else (),
    }
    for name, known in values.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, known)
    if "approved" in metafunc.fixturenames:
        metafunc.parametrize(
            ("approved", "rate"), [(name, round(one["k"] / one["n"], 4)) for name, one in baseline.rates(settings).items()]
        )
    if "new_arm" in metafunc.fixturenames:
        pairs = [(said.tuned, said.base), *([(said.iterated, said.tuned)] if said.iterated else [])] if said else []
        metafunc.parametrize(("new_arm", "old_arm"), pairs)
    if {"varied", "variant"} <= set(metafunc.fixturenames):
        metafunc.parametrize(("varied", "variant"), _variants(settings, tier_of(metafunc.config), metafunc.function.__name__))


def _kind(settings: Settings, set_name: str) -> str:
    try:
        return str(golden.manifest_entry(set_name, settings.golden)["kind"])
    except GoldenError as error:
        raise pytest.UsageError(f"{settings.path}, [compare]: {error}") from error


def _variants(settings: Settings, tier: str, test: str) -> list[tuple[str, str]]:
    """Each set with each variant that fits it: words and content against contamination, else all that leave the content alone."""
    if settings.compare is None:
        return []
    content = "contamination" in test
    sets = [settings.compare.primary, *([] if content or tier == "smoke" else settings.compare.guardrails)]
    found = []
    for name in sets:
        fitting = metamorphic.variants_of(_kind(settings, name))
        dress = margins.CONTENT if content else margins.DRESS
        found += [(name, variant) for variant in dress if variant in fitting]
    return found[:1] if tier == "smoke" else found


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where nothing is compared there is no claim either."""
    here = Path(__file__).parent
    items[:] = [item for item in items if not (item.path.is_relative_to(here) and "NOTSET" in item.name)]
