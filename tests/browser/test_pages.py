"""Every page, wide and narrow, light and dark: it loads without an error, asks no other host, and fits its screen."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md") if page.parent.name != "includes")
PAGES += [f"notebooks/{notebook.stem}.md" for notebook in sorted(DOCS.glob("notebooks/*.ipynb"))]
NARROW = 390  # CSS pixels of a phone
DARK = 80  # of 255; the ground of a dark page is darker

OVERFLOW = "const e = document.documentElement; return e.scrollWidth - e.clientWidth"
GROUND = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
SEEN = "return [...document.images].filter((i) => i.offsetParent && !i.naturalWidth && i.complete).map((i) => i.src)"
WRONG_SCHEME = (
    "return [...document.querySelectorAll(arguments[0])].filter((e) => getComputedStyle(e).display !== 'none').length"
)
MISSING_ANCHORS = """
return [...document.querySelectorAll('.md-content a[href^="#"]')].map((a) => a.getAttribute("href").slice(1))
  .filter((id) => id && !/[=&]/.test(id) && !document.getElementById(decodeURIComponent(id)))
"""
FORMULAS = """
const all = document.querySelectorAll(".arithmatex").length;
const done = document.querySelectorAll(".arithmatex mjx-container").length;
const loaded = [...document.scripts].some((s) => s.src.includes("tex-mml-chtml"));
return all ? done === all && !document.querySelector("mjx-merror") : !loaded
"""


@pytest.mark.parametrize("page", [*PAGES, "404.html"])
def test_a_page(page, browser, host):
    browser.open(f"{host}/{page.removesuffix('.md').removesuffix('.html')}.html")
    heading = browser.run("return [...document.querySelectorAll('h1')].map((h) => h.innerText.replace('¶', '').trim())")
    assert len(heading) == 1
    if page not in ("index.md", "404.html"):
        assert browser.run("return document.title") == f"{heading[0]} - lds_iter"
    browser.wait_for(f"(() => {{{FORMULAS}}})()", "formulas are set, and MathJax is loaded where there are some")
    assert browser.run(OVERFLOW) <= 0, "wide"
    assert browser.run(MISSING_ANCHORS) == []
    assert browser.run(WRONG_SCHEME, ".md-content img.only-dark") == 0
    browser.width(NARROW)
    assert browser.run(OVERFLOW) <= 0, "narrow"
    browser.prefer(color_scheme="dark")
    browser.wait_for("document.body.getAttribute('data-md-color-scheme') === 'slate'", "the page is dark")
    browser.wait(lambda: max(browser.run(GROUND)) < DARK, "its ground is dark")
    assert browser.run(WRONG_SCHEME, ".md-content img.only-light") == 0
    assert browser.run(SEEN) == [], "pictures that do not load"
    assert browser.messages() == []
    assert [url for url in browser.requests() if not url.startswith((host, "data:", "blob:"))] == []


QUERIES = {
    "install": ("start/install",),
    "fixed_method": ("learn/networks", "reference/nn"),
    "TrustRegion": ("reference/methods", "background/trust-region", "howto/choose"),
    "DEER": ("about/", "background/papers", "lessons/cheaper"),
    "not converge": ("howto/faq",),
    "gradient": ("learn/gradients", "lessons/gradients", "background/gradients"),
    "diffusers": ("recipes/diffusion", "reference/diffusion"),
    "padding": ("howto/faq", "learn/networks"),
    "citation": ("about/cite",),
    "changelog": ("about/changelog", "about/cite"),
    "Mamba": ("howto/", "about/"),
    "lyapunov": ("lessons/memory", "start/worth", "learn/predictability", "reference/diagnostics", "about/glossary"),
}
"""Where the first of the pages found may lie."""


def found(browser, address, query):
    browser.open(f"{address}/index.html?q={query}")
    browser.wait_for("document.querySelector('.md-search-result__link')", f"something is found for {query}")
    return browser.run("return document.querySelector('.md-search-result__link').href")


@pytest.mark.parametrize("query", QUERIES)
def test_the_search_finds(query, browser, host):
    first = found(browser, host, query)
    assert any(place in first for place in QUERIES[query]), first


def test_the_guide_reads_from_disk(browser):
    site = (DOCS.parent / "site").as_uri()
    assert "start/install.html" in found(browser, site, "install")
    browser.open(f"{site}/play.html?s=network&g=0.6&i=2")
    assert browser.run("return document.getElementById('playground').dataset.iterations") == "2"
    assert browser.messages() == []
