"""The site in a real browser (Chromium without a window): one visit a page, and each test looks at what was found."""
import shutil
import urllib.parse
import urllib.request
from pathlib import Path

import pytest

from pages import NBS, PATHS

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--allow-file-access-from-files"]
pytestmark = pytest.mark.browser

# How far the page scrolls sideways, what sticks out of the text's column without a box of its own that cuts or scrolls
# it, and the longest line of each piece of code that has to be scrolled.
OUTSIDE = r"""() => {
    const width = document.documentElement.clientWidth, main = document.querySelector('main');
    const edge = main.getBoundingClientRect().right + 1;
    const boxed = element => {
        for (let above = element.parentElement; above !== main; above = above.parentElement)
            if (getComputedStyle(above).overflowX !== 'visible') return above.getBoundingClientRect().right <= edge;
        return false };
    const outside = [...main.querySelectorAll('*')].filter(e => e.getBoundingClientRect().right > edge && !boxed(e));
    const long = [...main.querySelectorAll('.input pre, .rendered_html pre')]
        .filter(box => box.scrollWidth > box.clientWidth + 1)
        .map(box => box.textContent.split('\n').sort((a, b) => b.length - a.length)[0]);
    return [document.documentElement.scrollWidth - width, outside.map(e => e.outerHTML.slice(0, 90)), long] }"""
FOUND = r"""() => {
    const all = (what, of) => [...document.querySelectorAll(what)].map(of), main = document.querySelector('main');
    return {
        heads: document.querySelectorAll('h1').length, text: main.innerText.length,
        title: document.querySelector('h1')?.innerText || '',
        broken: [...document.images].filter(i => !i.complete || !i.naturalWidth).map(i => i.src.slice(0, 99)),
        silent: [...document.images].filter(i => !i.hasAttribute('alt')).map(i => i.src.slice(0, 99)),
        formulas: all('math', formula => formula.getBoundingClientRect().width),
        tex: /\\(frac|sqrt|mathrm|bar|sum)\b|\$\$/.test(main.innerText),
        links: all('a[href]', link => new URL(link.getAttribute('href'), location).href)      // in an SVG, too
            .filter(href => href.startsWith('file:')),
        sidebar: all('nav.sidebar a', link => link.href.split('#')[0]),
        names: all('[id]', element => element.id) } }"""


@pytest.fixture(scope="module")
def browser():
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None: pytest.skip("no Chromium on this machine: install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[dev]")
    with playwright.sync_playwright() as driver:
        window = driver.chromium.launch(executable_path=chromium, args=FLAGS)
        yield window
        window.close()


@pytest.fixture(scope="module")
def visits(browser, site):
    "What the browser found on every page, by its path: 1400 pixels wide, and what sticks out at 420 too."
    page, found = browser.new_page(), {}
    now = {}
    page.on("console", lambda message: message.type == "error" and now["complaints"].append(message.text))
    page.on("pageerror", lambda error: now["complaints"].append(str(error)))
    page.on("request", lambda request: now["requested"].append(request.url))
    for path in sorted(site.rglob("*.html")):
        now.update(complaints=[], requested=[])
        page.set_viewport_size({"width": 1400, "height": 1000})
        page.goto(path.as_uri())
        found[path] = now | page.evaluate(FOUND) | {"wide": page.evaluate(OUTSIDE)}
        page.set_viewport_size({"width": 420, "height": 900})
        found[path]["narrow"] = page.evaluate(OUTSIDE)
    page.close()
    return found


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


def each(visits, name):
    "What was found under a name, where there was something."
    return {path.name: found[name] for path, found in visits.items() if found[name]}


def file_of(link):
    "The file that a link leads to, without the place in it."
    return Path(urllib.request.url2pathname(link.removeprefix("file://").partition("#")[0]))


def test_site_has_a_page_for_every_notebook(site):
    built = {page.relative_to(site).with_suffix(".ipynb") for page in site.rglob("*.html")}
    assert {path.relative_to(NBS) for path in PATHS} <= built


# ---- every page ----------------------------------------------------------------------------------------------------
def test_every_page_opens_offline(visits):
    for path, found in visits.items(): assert found["heads"] >= 1 and found["text"] > 200, path
    assert each(visits, "broken") == {} and each(visits, "complaints") == {}
    asked = [url for found in visits.values() for url in found["requested"]]
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def test_every_picture_has_a_text(visits): assert each(visits, "silent") == {}


@pytest.mark.parametrize("screen", ["wide", "narrow"])
def test_nothing_sticks_out(visits, screen):
    for path, found in visits.items():
        sideways, outside, long = found[screen]
        assert sideways <= 0 and not outside, f"{path}, {screen}: {sideways} pixels too wide, {outside[:3]}"
        assert screen == "narrow" or all(len(line) > 120 for line in long), f"{path}, code that does not fit: {long[0]}"


def test_formulas_are_drawn(visits):
    for path, found in visits.items():
        assert all(width > 2 for width in found["formulas"]), path
        assert not found["tex"], path
    assert any(found["formulas"] for found in visits.values())


def test_links_within_the_site_lead_somewhere(visits):
    for path, found in visits.items():
        for link in found["links"]:
            target, place = file_of(link), urllib.parse.unquote(link.partition("#")[2])
            assert target.exists(), f"{path.name}: {link}"
            if place and target in visits: assert place in visits[target]["names"], f"{path.name}: {link}"


def test_sidebar_lists_every_page(visits):
    every = sorted(path.as_uri() for path in visits)
    for path, found in visits.items(): assert sorted(set(found["sidebar"])) == every, path


def test_next_leads_along_the_road(page, visits, site):
    "From the start, chapter after chapter, by clicks."
    page.goto((site / "index.html").as_uri())
    seen = [page.url]
    while page.locator("footer a.next").count() and len(seen) <= len(visits):
        assert page.url not in seen[:-1], "in a circle"
        page.locator("footer a.next").first.click()
        page.wait_for_url(lambda url: url != seen[-1])
        seen.append(page.url)
    titles = [visits[file_of(url)]["title"] for url in seen[1:]]
    assert [title.partition(". ")[0] for title in titles] == [str(number) for number in range(1, 15)], titles


# ---- the page's own buttons ----------------------------------------------------------------------------------------
def test_ways_back_and_across(page, visits, site):
    page.goto((site / "engine/masks.html").as_uri())
    page.locator("header a.brand").click()
    page.wait_for_url("**/index.html")
    page.locator("nav.sidebar a").nth(1).click()
    page.wait_for_url(lambda url: not url.endswith("index.html"))
    assert page.locator("nav.sidebar a.here").count() == 1


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
