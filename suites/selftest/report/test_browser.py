"""The page in a real browser: what a model wrote runs and loads nothing; narrow, dark, by keyboard and on paper it can be read."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from harness import report
from harness.bounds import at_least, identical, non_inferior
from harness.types import Claim, Measurement, Sample
from suites.selftest.report.browser import Browser, browser, program

pytestmark = pytest.mark.selftest

LIVE = (
    "<script>document.title='ran'</script><img src=x onerror=\"document.title='ran'\"><svg onload=\"document.title='ran'\">"
    "<iframe src=\"javascript:parent.document.title='ran'\"></iframe><a href=\"javascript:document.title='ran'\">x</a>"
    "<link rel=stylesheet href=http://127.0.0.1:9/x.css><style>@import 'http://127.0.0.1:9/y.css';body{display:none}</style>"
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'>"
    "<form action=http://127.0.0.1:9/><input autofocus onfocus=alert(1)></form>"
    "]]></title></style></script>\" onmouseover=\"document.title='ran'\" x='\u202eevil\u2066\u200b\u0000"
)
LONG = "w" * 3_000


@pytest.fixture(scope="module")
def page(tmp_path_factory, make_folder) -> Path:
    """A run whose every text is hostile, huge or both."""
    made = make_folder(tmp_path_factory.mktemp("browser") / "run")
    rows = tuple(
        Sample(
            f"item {i}", float(i % 3 > 0) if arm == "new" else 1.0, arm, detail={"input": LIVE, "target": LONG, "text": LIVE + arm * 900}
        )
        for i in range(60)
        for arm in ("new", "old")
    )
    made.add(
        Claim("Q1.accuracy[<img/src=x/onerror=alert(1)>,b]", LIVE, non_inferior(0.05)),
        Measurement(LIVE, rows, notes=(LIVE, LONG)),
        why=LIVE,
    )
    made.add(
        Claim(f"V1.schema[{LONG[:180]}]", LIVE + LONG, identical()),
        Measurement("m", (Sample(LIVE, 0.0, detail={LIVE: LIVE, "long": LONG}),)),
    )
    made.add(Claim("D5.blocked[a]", "rows are blocked", at_least(5), "exact"), Measurement("m", (Sample("a", 9.0),)))
    made.add(Claim("L3.ceiling[s]", LIVE, identical()))
    run = made.close()
    report.write(run)
    return run / "report.html"


@pytest.fixture(scope="module")
def seen(tmp_path_factory) -> Iterator[Browser]:
    """One browser for all; where there is none, a warning that the page was not looked at, and the reason."""
    if program() is None:
        warnings.warn("no chromium on this machine: report.html was looked at in NO browser", stacklevel=1)
        pytest.skip("no chromium here; apt-get install chromium to have report.html looked at in a browser")
    with browser(tmp_path_factory.mktemp("profile")) as one:
        yield one


def test_what_a_model_wrote_neither_runs_nor_loads(seen, page):
    before = len(seen.requests())
    seen.open(page)
    assert "ran" not in seen.run("document.title")
    assert seen.run("document.querySelectorAll('script,iframe,img,object,embed,form,input,link,base').length") == 0
    assert seen.run("[...document.querySelectorAll('*')].filter(e => [...e.attributes].some(a => a.name.startsWith('on'))).length") == 0
    assert seen.run("[...document.links].filter(a => a.protocol != 'file:').length") == 0
    assert seen.run("getComputedStyle(document.body).display") == "block"
    assert [url for url in seen.requests()[before:] if not url.startswith(page.as_uri())] == []
    assert [told for method, told in seen.seen if method in ("Page.javascriptDialogOpening", "Runtime.exceptionThrown")] == []


@pytest.mark.parametrize("width", [390, 820, 1280])
def test_the_page_does_not_scroll_sideways(seen, page, width):
    seen.open(page, width)
    assert seen.run("document.documentElement.scrollWidth") <= width


# The contrast of each text with what is behind it, by WCAG's formula; large text needs less.
_CONTRAST = """
(() => {
  const rgb = c => { const m = c.match(/[\\d.]+/g).map(Number); return m.length > 3 ? m : [...m, 1] };
  const light = ([r, g, b]) => [r, g, b].map(x => x / 255).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4)
    .reduce((sum, x, i) => sum + x * [.2126, .7152, .0722][i], 0);
  const behind = e => { for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > .99) return c }
    return [255, 255, 255, 1] };
  const bad = [];
  for (const e of document.querySelectorAll('body *')) {
    if (e.closest('svg') || e.closest('.none') || !e.checkVisibility() || ![...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()))
      continue;
    const s = getComputedStyle(e), a = light(rgb(s.color)), b = light(behind(e));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05), size = parseFloat(s.fontSize);
    if (ratio < (size >= 24 || size >= 18.66 && s.fontWeight >= 700 ? 3 : 4.5))
      bad.push(`${e.tagName}.${e.className} ${ratio.toFixed(2)} ${s.color} ${e.textContent.slice(0, 30)}`);
  }
  return [...new Set(bad)].slice(0, 10);
})()
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_by_day_and_by_night(seen, page, scheme):
    seen.open(page, prefers_color_scheme=scheme)
    assert seen.run("matchMedia('(prefers-color-scheme: dark)').matches") is (scheme == "dark")
    assert seen.run(_CONTRAST) == []


def test_landmarks_and_headings_lead_through_the_page(seen, page):
    seen.open(page)
    counts = "['main', 'nav', 'header', 'h1'].map(tag => document.querySelectorAll(tag).length)"
    assert seen.run(counts) == [1, 1, 1, 1]
    assert seen.run("document.documentElement.lang") == "en"
    levels = seen.run("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(below - above <= 1 for above, below in pairwise(levels) if above > 1)
    assert seen.run("[...document.querySelectorAll('section')].every(s => document.getElementById(s.getAttribute('aria-labelledby')))")
    assert seen.run("[...document.querySelectorAll('th')].every(th => th.scope)")
    assert seen.run("[...document.querySelectorAll('svg')].every(s => s.getAttribute('aria-label'))")


def test_the_keyboard_reaches_the_claims_first_and_shows_where_it_is(seen, page):
    seen.open(page)
    seen.key("Tab", 9)
    assert seen.run("document.activeElement.className") == "skip"
    assert seen.run("document.activeElement.getBoundingClientRect().left") >= 0
    seen.run("document.activeElement.click()")
    assert seen.run("location.hash") == "#claims"
    seen.key("Tab", 9)
    assert seen.run("document.activeElement.closest('section').getAttribute('aria-labelledby')") == "claims"
    assert seen.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert seen.run("[...document.querySelectorAll('.scroll')].every(e => e.tabIndex == 0 && e.getAttribute('aria-label'))")


def test_it_prints(seen, page):
    seen.open(page)
    printed = seen.pdf()
    assert printed.startswith(b"%PDF-")
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", printed)) <= 60
