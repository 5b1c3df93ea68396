"""The site in a real browser (Chromium without a window)."""
import shutil
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--allow-file-access-from-files"]
pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None: pytest.skip("no Chromium on this machine: install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[dev]")
    with playwright.sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield window
        window.close()


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.complaints, page.requested = [], []
    page.on("console", lambda message: message.type == "error" and page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requested.append(request.url))
    yield page
    page.close()


# ---- the site ---------------------------------------------------------------------------------------------------------
def test_every_page_opens_offline(page, site):
    for path in site.rglob("*.html"):
        page.goto(path.as_uri())
        assert page.locator("h1").count() >= 1 and len(page.locator("main").inner_text()) > 200, path
        broken = page.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).map(image => image.src.slice(0, 99))")
        assert broken == [], path
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"
    assert page.complaints == []
    assert [url for url in page.requested if not url.startswith(("file:", "data:", "blob:"))] == []


def test_formulas_are_drawn(page, site):
    drawn = 0
    for path in site.rglob("*.html"):
        page.goto(path.as_uri())
        sizes = page.evaluate("[...document.querySelectorAll('math')].map(formula => formula.getBoundingClientRect().width)")
        assert all(width > 2 for width in sizes), path
        assert not page.evaluate(r"/\\(frac|sqrt|mathrm|bar|sum)\b|\$\$/.test(document.querySelector('main').innerText)"), path
        drawn += len(sizes)
    assert drawn > 0


def test_navigation_walks_the_road_and_the_sidebar_reaches_every_page(page, site):
    page.goto((site / "index.html").as_uri())
    reached = page.eval_on_selector_all("nav.sidebar a", "links => links.map(link => link.href)")
    assert sorted(reached) == sorted(path.as_uri() for path in site.rglob("*.html"))
    for number in range(1, 15):
        page.locator("footer a.next").click()
        page.wait_for_load_state()
        assert page.locator("h1").first.inner_text().startswith(f"{number}. ")
    assert not page.locator("footer a.next").count()
    page.locator("header a.brand").click()
    page.wait_for_url("**/index.html")
    page.locator("nav.sidebar a").nth(1).click()
    page.wait_for_load_state()
    assert page.locator("nav.sidebar a.here").count() == 1 and not page.url.endswith("index.html")


def test_links_within_the_site_lead_somewhere(page, site):
    for path in site.rglob("*.html"):
        page.goto(path.as_uri())
        for link in page.evaluate("[...document.querySelectorAll('a[href]')].map(link => link.href).filter(href => href.startsWith('file:'))"):
            target, _, place = link.removeprefix("file://").partition("#")
            assert Path(urllib.request.url2pathname(target)).exists(), f"{path.name}: {link}"
            if place and target == str(path): assert page.evaluate("id => !!document.getElementById(decodeURIComponent(id))", place), link


def test_dark_and_light(page, site):
    page.goto((site / "index.html").as_uri())
    ground = lambda: page.evaluate("getComputedStyle(document.body).backgroundColor")
    before = ground()
    page.get_by_label("Light or dark").click()
    assert ground() != before
    page.reload()
    assert ground() != before


def test_narrow_screen(page, site):
    page.set_viewport_size({"width": 390, "height": 800})
    page.goto((site / "index.html").as_uri())
    assert not page.locator("nav.sidebar").is_visible()
    page.get_by_label("Chapters").first.click()
    assert page.locator("nav.sidebar").is_visible()
