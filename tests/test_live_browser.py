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
    subprocess.run(["ffmpeg", "-v", "error", "-i", demo_clip(), "-pix_fmt", "yuv420p", "-vf", "scale=320:240", "-r", "30", path], check=True)
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
        self.page = window.new_page()
        self.page.set_viewport_size({"width": 1300, "height": 1250})
        self.complaints = []
        self.page.on("console", lambda message: message.type == "error" and self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.add_init_script(f"({CAMERAS})()")
        empty = {"cells": [], "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}
        if not old: (self.folder / f"{name}.ipynb").write_text(json.dumps(empty))
        self.url = f"{self.address.replace('127.0.0.1', host)}/lab/workspaces/{name}/tree/{name}.ipynb?token=tok"
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


def test_restart_reload_and_two_views(desk):
    looks = desk.started()                                                     # again after a stop
    assert set(desk.cameras()) == {"ended", "live"}
    notebook = desk.page.evaluate("window.jupyterapp.shell.currentWidget.id")
    desk.page.evaluate("window.jupyterapp.shell.currentWidget.content.activeCellIndex = [...window.jupyterapp.shell.currentWidget.content.widgets].findLastIndex(c => c.model.sharedModel.getSource().endsWith('live'))")
    desk.page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    wait_for(lambda: desk.page.locator(".l2d").count() == 2)
    count = desk.page.locator(".l2d").count()
    both = [desk.look(n)["painted"] for n in range(count)]
    wait_for(lambda: all(desk.look(n)["painted"] > before + 4 for n, before in enumerate(both)), 60)
    assert desk.cameras().count("live") == 1, "one capture for two views"
    desk.page.evaluate("id => { const s = window.jupyterapp.shell; if (s.currentWidget.id !== id) s.currentWidget.close(); s.activateById(id) }", notebook)
    desk.page.evaluate("window.jupyterapp.shell.currentWidget.context.save()")
    desk.page.goto(desk.url)
    desk.page.wait_for_function(READY, timeout=120_000)
    wait_for(lambda: desk.page.locator(".l2d").count(), 60)
    desk.paints(5)                                                             # the page that came back takes the camera up again
    assert desk.run("print(live.running, sum(t.name == 'live-worker' for t in threading.enumerate()))") == "True 1\n"


def test_a_busy_cell_does_not_freeze_the_picture(desk):
    for way in ("True", "False"):
        desk.show(f"live = LiveTranslator(negative, socket={way})")
        desk.started()
        number = desk.begin("live.config = {**live.config}\ntime.sleep(6)")
        desk.paints(8, 5.5)
        assert desk.page.evaluate("n => window.jobs[n]", number) is None, "the cell was to be busy still"
        wait_for(lambda: desk.page.evaluate("n => window.jobs[n] !== null", number), 30)
    assert "notebook channel" in desk.look()["status"]


def test_cell_run_twice(desk):
    desk.show("old = live\nlive = LiveTranslator(negative)")
    assert desk.run("print(old.closed, old.worker)") == "True None\n"
    wait_for(lambda: "live" not in desk.cameras(), 30)
    desk.started()
    assert desk.cameras().count("live") == 1
    assert desk.run("print(sum(t.name == 'live-worker' for t in threading.enumerate()))") == "1\n"


def test_window_resized(desk):
    desk.page.set_viewport_size({"width": 700, "height": 900})
    seen = desk.paints(5)
    wide = desk.page.evaluate("(() => { const b = [...document.querySelectorAll('.l2d')].at(-1); return b.scrollWidth - b.clientWidth })()")
    assert wide <= 1 and seen["width"] == 256
    desk.page.set_viewport_size({"width": 1300, "height": 1250})
    desk.paints(5)


def test_hidden_tab(desk):
    desk.page.evaluate("""Object.defineProperty(document, 'hidden', {configurable: true, get: () => window.away ?? false}); window.away = true;
        document.dispatchEvent(new Event('visibilitychange'))""")
    wait_for(lambda: "hidden" in desk.look()["note"])
    time.sleep(8)                                                              # longer than any watchdog
    assert not desk.look()["trouble"] and desk.run("print(live.running)") == "True\n"
    desk.page.evaluate("window.away = false; document.dispatchEvent(new Event('visibilitychange'))")
    desk.paints(5)


def test_interrupt(desk):
    desk.begin("time.sleep(60)")
    time.sleep(1)
    desk.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")
    wait_for(lambda: desk.page.evaluate("window.jobs[window.cells]"), 20)
    desk.paints(5)


def test_camera_unplugged(desk):
    desk.page.evaluate("window.tracks.filter(t => t.readyState === 'live').forEach(t => { t.stop(); t.dispatchEvent(new Event('ended')) })")
    wait_for(lambda: "unplugged" in desk.look()["trouble"] and desk.look()["button"] == "Start")
    assert desk.run("print(live.running, dict(live.troubles))") == "False {'ended': 1}\n"
    desk.started()


def test_garbage_and_wild_messages(desk):
    "From the page itself, over the widget's channel: refused, counted, and the stream goes on."
    desk.run("before = live.refused, live.worker.counts['refused']")
    got = desk.page.evaluate("""async () => { const panel = window.jupyterapp.shell.currentWidget, widgets = panel.content.rendermime;
        const canvas = new OffscreenCanvas(10000, 10000); canvas.getContext('2d').fillRect(0, 0, 9, 9);
        return (await (await canvas.convertToBlob({type: 'image/jpeg', quality: .1})).arrayBuffer()).byteLength }""")
    assert got > 100_000
    desk.run("""import io
from PIL import Image
huge = io.BytesIO(); Image.new("L", (10_000, 10_000)).save(huge, "JPEG")
me = dict(page=live.owner, run=live.run, t=0.0)
for data in (b"garbage", huge.getvalue(), b""):
    live._receive({"kind": "frame", "id": 10**9, **me}, [data]); time.sleep(1)
for content in ({"kind": "explode"}, {"kind": "set", "page": "x", "name": "size", "value": 1e12}): live._receive(content)""")
    desk.paints(5)
    refused, frames = json.loads(desk.run("print(json.dumps([live.refused - before[0], live.worker.counts['refused'] - before[1]]))"))
    assert refused == 2 and 1 <= frames <= 3, "a frame of garbage may be replaced by a good one before it is looked at"


def test_model_that_fails(desk):
    desk.show("""calls = 0
def once(frame):
    global calls; calls += 1
    if calls == 20: raise RuntimeError("hiccup")
    return 255 - frame
live = LiveTranslator(once)""")
    desk.started(25)
    wait_for(lambda: "hiccup" in desk.look()["trouble"])
    desk.paints(10)
    desk.show("def never(frame): raise RuntimeError('out of order')\nlive = LiveTranslator(never)")
    desk.click(".main")
    wait_for(lambda: "out of order" in desk.look()["trouble"] and desk.look()["button"] == "Start" and "live" not in desk.cameras())


def test_slow_model_stays_fresh(desk):
    desk.show("def slow(frame): time.sleep(0.2); return 255 - frame\nlive = LiveTranslator(slow)")
    desk.started()
    early = json.loads(desk.run("time.sleep(4); print(json.dumps(live.stats()))"))
    late = json.loads(desk.run("time.sleep(12); print(json.dumps(live.stats()))"))
    assert late["painted"] > early["painted"] and late["p50"] < 2 * 200 + 400 and late["p50"] < early["p50"] + 200, (early, late)


def test_recording_plays(desk):
    desk.show("live = LiveTranslator(negative)")
    desk.started()
    desk.page.keyboard.press("Escape")
    desk.page.locator(".l2d").last.focus()
    desk.page.keyboard.press("r")                                              # by key
    wait_for(lambda: "Stop recording" in desk.page.locator(".l2d").last.locator(".record").inner_text())
    desk.paints(30)
    desk.page.locator(".l2d").last.focus()
    desk.page.keyboard.press("r")
    link = desk.page.locator(".l2d").last.locator(".film a")
    link.wait_for(timeout=30_000)
    with desk.page.expect_download() as download: link.click()
    film = Path(download.value.path())
    saved = desk.run("print(live.film.resolve())").strip()
    assert film.read_bytes() == Path(saved).read_bytes()
    frames = list(open_source(saved))
    assert len(frames) >= 10 and frames[0].shape == (256, 256, 3) and len({f.tobytes() for f in frames}) >= 8
    played = desk.page.evaluate("""async url => { const v = document.createElement('video'); v.muted = true; v.src = url; await new Promise((ok, no) => { v.onloadeddata = ok; v.onerror = () => no(new Error('cannot be played: ' + v.error.message)) }); return [v.videoWidth, v.duration] }""", link.get_attribute("href")) if "h264" in desk.page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"') ? 'h264' : ''") else None
    assert played is None or (played[0] == 256 and played[1] > 0.3)
    with desk.page.expect_download() as download: desk.click(".snapshot")
    assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"
    desk.page.locator(".l2d").last.focus()
    desk.page.keyboard.press(" ")
    wait_for(lambda: desk.look()["button"] == "Start")


# ---- the pipeline --------------------------------------------------------------------------------------------------------
def test_the_pixels_are_the_pipelines(desk):
    desk.run("from live2diff_nb import Live2Diff\npipe = Live2Diff.from_pretrained('tiny')")
    desk.show("live = LiveTranslator(pipe, tape=3000, adaptive=False)")
    looks = [desk.started(4)] + [desk.paints(2) for _ in range(3)]
    desk.click(".main")
    wait_for(lambda: desk.look()["button"] == "Start")
    looks.append(desk.look())
    wanted = [look["of"] for look in looks]
    again = json.loads(desk.run(f"""import cv2
live.worker.thread.join(20)
tape = list(live.tape)
again = list(pipe.stream([x.frame for x in tape]))
at = {{x.id: n for n, x in enumerate(tape)}}
small = lambda f: cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA).reshape(-1).tolist()
print(json.dumps([small(again[at[id]]) for id in {wanted}]))"""))
    errors = [difference(look["output"], expected) for look, expected in zip(looks, again)]
    apart = difference(looks[0]["output"], again[-1])
    assert max(errors) < 6 and len({tuple(look["output"]) for look in looks}) >= 3, (errors, apart)


def test_a_prompt_changes_the_picture(desk):
    desk.show("live = LiveTranslator(pipe, source=np.repeat(next(iter(__import__('live2diff_nb.video').video.open_source('demo')))[None], 2, 0), adaptive=False)")
    desk.started(12)                                                           # one still picture over and over
    before = desk.look()["output"]
    view = desk.page.locator(".l2d").last
    current = view.locator(".style").input_value()
    view.locator(".style").select_option("etching" if current != "etching" else "watercolour")
    wait_for(lambda: difference(desk.paints(2)["output"], before) > 8, 60)
    styled = desk.look()["output"]
    view.locator(".prompt").fill("starry night"); view.locator(".prompt").press("Enter")
    view.locator(".style").select_option("")
    wait_for(lambda: difference(desk.paints(2)["output"], styled) > 4, 60)
    assert desk.run("print(pipe.prompt, pipe.style, live.running)") == "starry night None True\n"


def test_inside_the_engine(desk):
    view = desk.page.locator(".l2d").last
    assert desk.run("print(live.engine)") == "False\n"
    view.locator("summary").click()
    wait_for(lambda: desk.run("print(live.engine)") == "True\n" and view.locator(".layer option").count() > 1, 60)
    drawn = desk.page.evaluate("(() => { const c = [...document.querySelectorAll('canvas.engine')].at(-1); return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.filter(x => x).length })()")
    assert drawn > 5000
    view.locator("summary").click()
    wait_for(lambda: desk.run("print(live.engine)") == "False\n", 20)
    assert desk.run("print(any(layer._forward_pre_hooks for layer in pipe.unet.temporal_layers))") == "False\n"


def test_short_soak(desk):
    desk.show("live = LiveTranslator(negative)")
    desk.started(30)
    memory = "import psutil, gc; gc.collect(); print(psutil.Process().memory_info().rss / 1e6)"
    before = float(desk.run(memory))
    first = desk.look()["painted"]
    seen, until = [first], time.monotonic() + 25
    while time.monotonic() < until:
        time.sleep(2.5)
        seen.append(desk.look()["painted"])
    assert all(b > a for a, b in zip(seen, seen[1:])), f"a window without pictures: {seen}"
    assert float(desk.run(memory)) - before < 60
    errors = [text for text in desk.complaints if "favicon" not in text and "@jupyter-widgets/base" not in text]
    assert errors == []


def test_widget_closed_and_kernel_restarted(desk):
    desk.run("live.close()")
    wait_for(lambda: "live" not in desk.cameras(), 20)
    assert wait_for(lambda: desk.run("print([t.name for t in threading.enumerate() if t.name.startswith('live-')])") == "[]\n", 20)
    desk.show("live = LiveTranslator(negative)")
    desk.started()
    desk.page.evaluate("void window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    wait_for(lambda: "live" not in desk.cameras(), 40)                         # the camera's light goes off
    if (seen := desk.look()): wait_for(lambda: "kernel" in (desk.look() or {"trouble": "kernel"})["trouble"], 30, lambda: desk.look())


# ---- no camera -----------------------------------------------------------------------------------------------------------
def test_camera_denied(launch, lab):
    desk = Desk(launch(allowed=False), lab, "denied")
    desk.run(IMPORTS)
    desk.show("live = LiveTranslator(negative)")
    desk.click(".main")
    wait_for(lambda: "denied" in desk.look()["trouble"] and "address bar" in desk.look()["trouble"], 60, lambda: desk.look())
    assert desk.look()["button"] == "Start"
    desk.page.evaluate("void (navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotFoundError') })")
    desk.click(".main")
    wait_for(lambda: "No camera was found" in desk.look()["trouble"])
    assert desk.run("print(sorted(live.troubles.items()))") == "[('NotAllowedError', 1), ('NotFoundError', 1)]\n"
    desk.page.close()


def test_page_that_is_not_secure(browser, lab):
    desk = Desk(browser, lab, "insecure", host="lab.example")
    desk.run(IMPORTS)
    desk.show("live = LiveTranslator(negative)")
    desk.click(".main")
    wait_for(lambda: "HTTPS" in desk.look()["trouble"] and "lab.example" in desk.look()["trouble"])
    desk.show("live = LiveTranslator(negative, source='demo')")                # but a source of the kernel's works, over the channel
    assert "notebook channel" in desk.started()["status"]
    desk.page.close()


# ---- the tutorial --------------------------------------------------------------------------------------------------------
def test_live_notebook_moves(browser, lab):
    desk = Desk(browser, lab, "live", old=True)
    desk.page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    wait_for(lambda: desk.look(), 180, lambda: desk.page.locator(".jp-RenderedText").all_inner_texts()[-3:])
    desk.click(".main", 0)
    inputs, results = set(), set()
    def collect():
        seen = desk.look(0)
        if seen["painted"]: inputs.add(tuple(seen["input"])), results.add(tuple(seen["output"]))
        return len(inputs) >= 8 and len(results) >= 8
    wait_for(collect, 90, lambda: desk.look(0))
    seen = desk.look(0)
    assert difference(seen["input"], seen["output"]) > 8, "the output looks like the input"
    box = desk.page.locator(".l2d").first.locator(".prompt")                   # settings can be changed while it runs
    box.fill("watercolour"); box.press("Enter")
    desk.paints(5, n=0)
    desk.click(".main", 0)
    wait_for(lambda: desk.look(0)["button"] == "Start")
    still = desk.look(0)["output"]
    time.sleep(1)
    assert desk.look(0)["output"] == still
    desk.page.close()
