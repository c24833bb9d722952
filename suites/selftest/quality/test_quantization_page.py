"""The page about the quantization claims says what its tables say."""

import pytest

from suites.selftest.quality import quantization_page

pytestmark = pytest.mark.selftest


def test_the_page_is_rendered_from_its_tables():
    assert (quantization_page.TABLES / "README.md").read_text("utf-8") == quantization_page.page()
