"""The site and the live notebook in a real browser (Chromium without a window)."""
import os
import shutil
import socket
import subprocess
import sys
import time
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


def test_navigation_visits_every_page(page, site):
    page.goto((site / "index.html").as_uri())
    seen = [page.url]
    while page.locator("footer a.next").count():
        page.locator("footer a.next").click()
        page.wait_for_load_state()
        seen.append(page.url)
    assert sorted(seen) == sorted(path.as_uri() for path in site.rglob("*.html"))
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


# ---- the live notebook in JupyterLab ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    "JupyterLab on a copy of the live notebook; gives the address."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "nbs/tutorials/live.ipynb", folder / "live.ipynb")
    (folder / "CONFIG/labconfig").mkdir(parents=True)         # no pop-up that asks about news
    (folder / "CONFIG/labconfig/page_config.json").write_text('{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if key != "IN_TEST"}
    clean.update({f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "RUNTIME")}, PYTHONPATH=os.environ.get("PYTHONPATH") or str(ROOT))
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}", "--IdentityProvider.token=tok",
               f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=clean, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token=tok"), 90, lambda: (folder / "server.log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}/lab/tree/live.ipynb?token=tok"
    finally:
        server.terminate()
        server.wait(20)


def answers(url):
    try: return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError: return False


def wait_for(happened, seconds, explain=lambda: ""):
    "Wait until something is true."
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"waited {seconds} s in vain. {explain()}"
        time.sleep(0.2)


def run_all(page):
    "Run every cell once the kernel listens."
    page.wait_for_function("""() => { const panel = window.jupyterapp?.shell.currentWidget, context = panel?.context;
        return context?.isReady && context.sessionContext?.session?.kernel?.connectionStatus === 'connected'
            && context.sessionContext.session.kernel.status === 'idle' }""", timeout=90_000)
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")


PICTURES = "[...document.querySelectorAll('.jp-OutputArea-output img.widget-image')]"
HASHES = PICTURES + """.map(image => { const canvas = new OffscreenCanvas(32, 32), draw = canvas.getContext('2d');
    draw.drawImage(image, 0, 0, 32, 32); return [...draw.getImageData(0, 0, 32, 32).data] })"""
STATUS = "[...document.querySelectorAll('.jp-OutputArea-output .widget-html code')].map(text => text.textContent).join(' ')"


def different(a, b): return sum(abs(x - y) for x, y in zip(a, b)) / len(a)


def read_pictures(page): # -> [input pixels, output pixels], or [] while there are none
    pictures = page.evaluate(HASHES) if page.evaluate(PICTURES + ".every(image => image.complete && image.naturalWidth)") else []
    return pictures if len(pictures) == 2 else []


def test_live_notebook_moves(page, lab):
    page.goto(lab)
    run_all(page)
    explain = lambda: page.evaluate(STATUS) + page.evaluate("[...document.querySelectorAll('.jp-RenderedText[data-mime-type*=error]')].map(e => e.innerText).join()")[-1500:]
    wait_for(lambda: page.evaluate(PICTURES + ".length") == 2 and "frames/s" in page.evaluate(STATUS), 180, explain)
    page.locator("img.widget-image").first.scroll_into_view_if_needed()

    inputs, results = [], []                         # frames keep coming, on both sides
    def collect():
        pictures = read_pictures(page)
        if pictures:
            inputs.append(tuple(pictures[0])); results.append(tuple(pictures[1]))
        return len(set(inputs)) >= 8 and len(set(results)) >= 8
    wait_for(collect, 60, explain)
    assert different(inputs[-1], results[-1]) > 8, "the output looks like the input"

    prompt = page.locator(".widget-text input").nth(1)  # settings can be changed while it runs
    prompt.fill("watercolour")
    prompt.press("Enter")
    more = len(set(results)) + 4
    wait_for(lambda: collect() and len(set(results)) >= more, 60, explain)

    page.locator(".widget-button", has_text="Stop").click()
    wait_for(lambda: "Stopped" in page.evaluate(STATUS), 30, explain)
    still = read_pictures(page)
    page.wait_for_timeout(1000)
    assert read_pictures(page) == still

    page.locator(".widget-text input").first.fill("no_such_film.mp4")  # an error is said, not thrown away
    page.locator(".widget-text input").first.press("Tab")
    page.locator(".widget-button", has_text="Start").click()
    wait_for(lambda: "Error" in page.evaluate(STATUS), 30, explain)
