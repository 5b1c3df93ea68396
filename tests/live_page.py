"""A page with the live widget in a real JupyterLab and Chromium, whose camera is a film: what the live tests share."""
import shutil
from pathlib import Path

import numpy as np
import pytest

from live2diff_nb.live.browser import FLAGS, NAMES, Lab, NotebookPage, camera_film, find_chromium, wait_for

ROOT = Path(__file__).resolve().parents[1]
CAMERAS = """() => { const real = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices); window.tracks = [];
    if (real) navigator.mediaDevices.getUserMedia = async c => {
        const s = await real(c); window.tracks.push(...s.getTracks()); return s } }"""


@pytest.fixture(scope="module")
def driver():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[dev]")
    with playwright.sync_playwright() as driver: yield driver


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "The bundled clip as a camera's film."
    return camera_film(tmp_path_factory.mktemp("film") / "clip.y4m")


@pytest.fixture(scope="module")
def launch(driver, film):
    "Start a Chromium with more flags; without `camera` there is none, with `allowed=False` it denies it."
    if not any(map(shutil.which, NAMES)): pytest.skip("no Chromium on this machine: install chromium")
    open_windows = []
    def start(*more, camera=True, allowed=True):
        flags = [flag for flag in FLAGS if camera or "fake-device" not in flag]
        flags += ["--host-resolver-rules=MAP lab.example 127.0.0.1", *more]
        flags += [f"--use-file-for-fake-video-capture={film}"] * camera + ["--use-fake-ui-for-media-stream"] * allowed
        open_windows.append(driver.chromium.launch(executable_path=find_chromium(), args=flags))
        return open_windows[-1]
    yield start
    for window in open_windows: window.close()


@pytest.fixture(scope="module")
def browser(launch): return launch()


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "JupyterLab in a folder that holds the live notebook."
    folder = tmp_path_factory.mktemp("lab")
    shutil.copy(ROOT / "nbs/tutorials/live.ipynb", folder / "live.ipynb")
    with Lab(folder) as lab: yield lab


EXECUTE = """async ([code, limit]) => { let said = '', error = '';
    const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
    const future = kernel.requestExecute({code, store_history: false});
    future.onIOPub = message => {
        if (message.header.msg_type === 'stream') said += message.content.text;
        if (message.header.msg_type === 'error') error = message.content.evalue };
    const late = new Promise((_, no) => setTimeout(() => no(new Error('no answer from the kernel')), limit));
    await Promise.race([future.done, late]);
    return [said, error] }"""


class Page(NotebookPage):
    "A new page with a notebook, whose complaints and cameras are noted."

    def __init__(self, window, lab, name, address=""):
        super().__init__(window.new_page(), lab, name, address)
        self.page.set_viewport_size({"width": 1300, "height": 1250})
        self.complaints = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(f"({CAMERAS})()")
        self.open()

    def run(self, code, seconds=120):
        "Run code in the kernel, without a cell: a page of hundreds of cells is slow. What it printed."
        said, error = self.page.evaluate(EXECUTE, [code, 1000 * seconds])
        if error: raise RuntimeError(error)
        return said

    def show(self, code):
        "Run a cell that makes `live`, and show it."
        super().run(code + "\nlive")
        wait_for(self.look, 60)

    def cameras(self): return self.page.evaluate("window.tracks.map(t => t.readyState)")
    def view(self, name="", n=-1):
        view = self.page.locator(".l2d").nth(n)
        return view.locator(name) if name else view

    def stopped(self, *words):
        "Does the page say these words, and stand still?"
        seen = self.look()
        return seen["button"] == "Start" and all(word in seen["trouble"] for word in words)

    def key(self, key):
        self.view().focus()
        self.page.keyboard.press(key)


IMPORTS = """import time, threading, json, numpy as np
from pathlib import Path
from live2diff_nb.live.widget import LiveTranslator
def negative(frame): return 255 - frame"""


def difference(a, b): return float(np.abs(np.subtract(a, b, dtype=float)).mean())
