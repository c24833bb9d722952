"""The page of the proof says what its tables say, and what the README says of them."""

import pytest

from suites.selftest.quality import page

pytestmark = pytest.mark.selftest


def test_the_page_is_rendered_from_its_tables():
    assert (page.TABLES / "README.md").read_text("utf-8") == page.page()
    assert (page.TABLES / "ni_size.svg").read_text("utf-8") == page.size_picture()


def test_the_readme_quotes_it():
    readme = (page.TABLES.parents[1] / "README.md").read_text("utf-8")
    assert "\n".join(page.summary()) in readme
