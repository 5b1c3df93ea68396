"""The live widget in a real JupyterLab and Chromium, whose camera is a film. One server, one kernel and one page for most of it."""
import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from live2diff_nb.video import demo_clip, open_source

ROOT = Path(__file__).resolve().parents[1]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--use-fake-device-for-media-stream", "--host-resolver-rules=MAP lab.example 127.0.0.1"]
pytestmark = pytest.mark.browser


def wait_for(happened, seconds=60, explain=lambda: ""):
    "Wait until something is true, and give it."
    until = time.monotonic() + seconds
    while not (got := happened()):
        assert time.monotonic() < until, f"waited {seconds} s in vain. {explain()}"
        time.sleep(0.1)
    return got


def answers(url):
    try: return urllib.request.urlopen(url, timeout=5).status == 200
    except OSError: return False


@pytest.fixture(scope="module")
def driver():
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[dev]")
    with playwright.sync_playwright() as driver: yield driver


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    "The bundled clip as a camera's film."
    path = tmp_path_factory.mktemp("film") / "clip.y4m"
    subprocess.run(["ffmpeg", "-v", "error", "-i", demo_clip(), "-pix_fmt", "yuv420p", "-vf", "scale=320:240", path], check=True)
    return path


@pytest.fixture(scope="module")
def launch(driver, film):
    "Start a Chromium; with `allowed=False` it denies the camera."
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None: pytest.skip("no Chromium on this machine: install chromium")
    open_windows = []
    def start(allowed=True):
        more = [f"--use-file-for-fake-video-capture={film}"] + ["--use-fake-ui-for-media-stream"] * allowed
        open_windows.append(driver.chromium.launch(executable_path=chromium, args=FLAGS + more))
        return open_windows[-1]
    yield start
    for window in open_windows: window.close()


@pytest.fixture(scope="module")
def browser(launch): return launch()


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    "JupyterLab in an empty folder: (address, folder)."
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
               f"--ServerApp.root_dir={folder}", "--ServerApp.allow_remote_access=True", "--LabApp.expose_app_in_browser=True"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=clean, stdout=log, stderr=log)
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/api/status?token=tok"), 90, lambda: (folder / "server.log").read_text()[-2000:])
        yield f"http://127.0.0.1:{port}", folder
    finally:
        server.terminate()
        server.wait(20)


READY = """() => { const panel = window.jupyterapp?.shell.currentWidget, context = panel?.context;
    return context?.isReady && context.sessionContext?.session?.kernel?.connectionStatus === 'connected'
        && context.sessionContext.session.kernel.status === 'idle' }"""
RUN = """async code => { const commands = window.jupyterapp.commands, panel = window.jupyterapp.shell.currentWidget, notebook = panel.content;
    await commands.execute('notebook:move-cursor-down');
    await commands.execute('notebook:insert-cell-below');
    const cell = notebook.activeCell;
    cell.model.sharedModel.setSource(code);
    window.cells = (window.cells || 0) + 1;
    cell.node.dataset.number = window.cells;
    window.jobs = window.jobs || {}; const number = window.cells;
    window.jobs[number] = null;
    commands.execute('notebook:run-cell').then(() => { window.jobs[number] = cell.model.outputs.toJSON() });
    return number }"""
CANVAS = """n => { const views = [...document.querySelectorAll('.l2d')].filter(v => v.isConnected), view = views.at(n);
    if (!view) return null;
    const look = canvas => { const c = new OffscreenCanvas(32, 32), d = c.getContext('2d'); d.drawImage(canvas, 0, 0, 32, 32); return [...d.getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 < 3) };
    const [input, output] = view.querySelectorAll('canvas.picture');
    return {input: look(input), output: look(output), of: +(output.dataset.of ?? -1), painted: +(output.dataset.painted ?? 0), width: output.width,
        status: view.querySelector('.status').innerText, trouble: view.querySelector('.trouble').innerText, note: view.querySelector('.note').innerText,
        button: view.querySelector('.main').innerText} }"""
CAMERAS = """() => { const real = navigator.mediaDevices?.getUserMedia.bind(navigator.mediaDevices); window.tracks = [];
    if (real) navigator.mediaDevices.getUserMedia = async c => { const s = await real(c); window.tracks.push(...s.getTracks()); return s } }"""


class Desk:
    "A page with an empty notebook in the lab, and what one does with it."

    def __init__(self, window, lab, name, host="127.0.0.1", old=False):
        self.address, self.folder = lab
        self.page = window.new_page(viewport={"width": 1300, "height": 1250})
        self.complaints = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(f"({CAMERAS})()")
        empty = {"cells": [], "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
        if not old: (self.folder / f"{name}.ipynb").write_text(json.dumps(empty))
        self.url = f"{self.address.replace('127.0.0.1', host)}/lab/tree/{name}.ipynb?token=tok"
        self.page.goto(self.url)
        self.page.wait_for_function(READY, timeout=120_000)

    def begin(self, code): return self.page.evaluate(RUN, code)

    def run(self, code, seconds=120):
        "Run a cell to its end; what it printed."
        number = self.begin(code)
        self.page.wait_for_function("n => window.jobs[n] !== null", arg=number, timeout=1000 * seconds)
        outputs = self.page.evaluate("n => window.jobs[n]", number)
        errors = [out for out in outputs if out["output_type"] == "error"]
        assert not errors, errors[0]["evalue"]
        said = [out["text"] for out in outputs if out["output_type"] == "stream"]
        return "".join(text if isinstance(text, str) else "".join(text) for text in said)

    def look(self, n=-1): return self.page.evaluate(CANVAS, n)

    def paints(self, more=5, seconds=90, n=-1):
        "Wait until that many more pictures are painted; the last look."
        first = self.look(n)
        start = first["painted"] if first else 0
        def grown():
            seen = self.look(n)
            return seen and (seen["painted"] >= start + more or 0 < seen["painted"] < start) and seen
        return wait_for(grown, seconds, lambda: {k: v for k, v in (self.look(n) or {}).items() if k not in ("input", "output")})

    def click(self, name, n=-1): self.page.locator(".l2d").nth(n).locator(name).click()
    def show(self, code): self.run(code + "\nlive"); wait_for(lambda: self.look(), 60)
    def cameras(self): return self.page.evaluate("window.tracks.map(t => t.readyState)")

    def started(self, more=5):
        self.click(".main")
        return self.paints(more)


IMPORTS = """import time, threading, json, numpy as np
from live2diff_nb.live import LiveTranslator
def negative(frame): return 255 - frame"""


@pytest.fixture(scope="module")
def desk(browser, lab):
    "The page that most tests share."
    desk = Desk(browser, lab, "desk")
    desk.run(IMPORTS)
    yield desk
    desk.page.close()


def difference(a, b): return float(np.abs(np.subtract(a, b, dtype=float)).mean())


# ---- pictures ------------------------------------------------------------------------------------------------------------
def test_camera_frames_come_back_translated(desk):
    desk.show("live = LiveTranslator(negative)")
    looks = [desk.started()] + [desk.paints(3) for _ in range(4)]
    assert len({tuple(look["output"]) for look in looks}) >= 4, "the picture stands still"
    assert "local socket" in looks[-1]["status"] and "frames/s" in looks[-1]["status"]
    desk.click(".main")
    wait_for(lambda: desk.look()["button"] == "Start" and set(desk.cameras()) == {"ended"})
    still = desk.look()
    assert difference(255 - np.array(still["output"]), still["input"]) < 25      # the input may be a frame or two newer
