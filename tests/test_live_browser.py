"""The live widget in a real JupyterLab and Chromium, whose camera is a film: one server and page for all."""
import json
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest

import live2diff_nb
from live2diff_nb.live.browser import READY, wait_for
from live2diff_nb.video.shown import resize_frame
from live2diff_nb.video.sources import demo_clip, open_source
from live_page import IMPORTS, Page, browser, difference, driver, film, lab, launch  # noqa: F401

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def desk(browser, lab):
    "The page that most tests share."
    desk = Page(browser, lab, "desk")
    desk.run(IMPORTS)
    yield desk
    desk.page.close()


def in_order(frames, shown, near=4):
    "Whether the frames are among those shown, in this order."
    place = 0
    for frame in frames:
        place = next((n for n in range(place, len(shown)) if difference(shown[n], frame) < near), None)
        if place is None: return False
    return True


def in_pairs(desk):
    "With the divider an output stands beside its own input, not beside a newer one: it is the negative."
    desk.click(".splitter")
    look = desk.paints(2)
    assert difference(255 - np.array(look["output"]), look["input"]) < 8, "what comes out is not the negative"
    desk.click(".splitter")
    return look


def picture(look, name): return np.array(look[name], dtype=float).reshape(32, 32, 3)
def flipped(pixels): return np.array(pixels).reshape(32, 32, 3)[:, ::-1].reshape(-1)


# ---- pictures ------------------------------------------------------------------------------------------------------
def test_camera_frames_come_back_translated(desk):
    desk.show("live = LiveTranslator(negative)")
    looks = [desk.started()] + [desk.paints(3) for _ in range(4)]
    assert len({tuple(look["output"]) for look in looks}) >= 4, "the picture stands still"
    assert "local socket" in looks[-1]["status"] and "frames/s" in looks[-1]["status"]
    in_pairs(desk)
    desk.click(".main")
    wait_for(lambda: desk.look()["button"] == "Start" and set(desk.cameras()) == {"ended"})


def test_restart_reload_and_two_views(desk):
    desk.started()                                                             # again after a stop
    assert desk.cameras().count("live") == 1 and "ended" in desk.cameras()
    notebook = desk.page.evaluate("window.jupyterapp.shell.currentWidget.id")
    desk.page.evaluate("""() => { const notebook = window.jupyterapp.shell.currentWidget.content;
        notebook.activeCellIndex = [...notebook.widgets].findLastIndex(
            cell => cell.model.sharedModel.getSource().endsWith('live')) }""")
    desk.page.evaluate("window.jupyterapp.commands.execute('notebook:create-output-view')")
    wait_for(lambda: desk.page.locator(".l2d").count() == 2)
    count = desk.page.locator(".l2d").count()
    both = [desk.look(n)["painted"] for n in range(count)]
    wait_for(lambda: all(desk.look(n)["painted"] > before + 4 for n, before in enumerate(both)), 60)
    assert desk.cameras().count("live") == 1, "one capture for two views"
    desk.page.evaluate("""id => { const s = window.jupyterapp.shell;
        if (s.currentWidget.id !== id) s.currentWidget.close(); s.activateById(id) }""", notebook)
    desk.page.evaluate("window.jupyterapp.shell.currentWidget.context.save()")
    desk.page.goto(desk.url)
    desk.page.wait_for_function(READY, timeout=120_000)
    wait_for(lambda: desk.page.locator(".l2d").count(), 60)
    # the page that came back takes the camera up again
    desk.paints(5)
    assert desk.run("print(live.running, sum(t.name == 'live-worker' for t in threading.enumerate()))") == "True 1\n"


def test_a_busy_cell_does_not_freeze_the_picture(desk):
    for way in ("True", "False"):
        desk.show(f"live = LiveTranslator(negative, socket={way})")
        desk.started()
        number = desk.begin("live.config = {**live.config}\nwhile not Path('enough').exists(): time.sleep(0.05)")
        desk.paints(8, 20)
        assert desk.page.evaluate("n => window.jobs[n]", number) is None, "the cell was to be busy still"
        (desk.folder / "enough").touch()
        wait_for(lambda: desk.page.evaluate("n => window.jobs[n] !== null", number), 30)
        (desk.folder / "enough").unlink()
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
    wide = desk.page.evaluate("""() => { const b = [...document.querySelectorAll('.l2d')].at(-1);
        return b.scrollWidth - b.clientWidth }""")
    assert wide <= 1 and seen["width"] == 256
    desk.page.set_viewport_size({"width": 1300, "height": 1250})
    desk.paints(5)


STILL = """import io
from PIL import Image
from ipywebrtc import CameraStream, ImageStream, VideoStream, WidgetStream
from ipywidgets import Image as Show, Video
from IPython.display import display
halves = np.zeros((200, 200, 3), np.uint8); halves[:, :100] = 220, 40, 40; halves[:, 100:] = 40, 40, 220
png = io.BytesIO(); Image.fromarray(halves).save(png, "PNG")
still = Show(value=png.getvalue(), format="png")
"""
SOURCES = {"film": "VideoStream.from_file('film.mp4')", "own camera": "CameraStream.facing_user()",
           "picture": "ImageStream(image=still)", "widget": "WidgetStream(widget=still)", "screen": "'screen'"}


@pytest.mark.parametrize("name", SOURCES)
def test_sources_of_the_page(desk, name):
    shutil.copy(demo_clip(), desk.folder / "film.mp4")
    desk.run(STILL)
    if name == "widget":
        number = desk.begin("display(still)")
        wait_for(lambda: desk.page.evaluate("n => window.jobs[n] !== null", number))
    desk.show(f"live = LiveTranslator(negative, {SOURCES[name]})")
    assert desk.view(".mirror").get_attribute("aria-pressed") == str(name == "own camera").lower()
    seen = [desk.started(12)] + [desk.paints(2) for _ in range(3)]
    look = picture(in_pairs(desk), "input")
    desk.click(".main")
    wait_for(lambda: desk.look()["button"] == "Start")
    if name in ("picture", "widget"):
        left, right = look[12:20, 2:12], look[12:20, 20:30]
        assert left[..., 0].mean() > 150 > 80 > left[..., 2].mean() and right[..., 2].mean() > 150
    else: assert len({tuple(each["input"]) for each in seen}) >= 2, "the picture stands still"
    if name == "film":
        clip = [resize_frame(frame, 256, 256) for frame in open_source("demo")]
        assert min(difference(resize_frame(frame, 32, 32), look) for frame in clip) < 12, "no frame of the film"
        assert desk.run("print(live.source.playing)") == "False\n"
    desk.started(5)                                                            # and once more
    assert desk.run("live.stop(); print(dict(live.troubles), live.closed)") == "{} False\n"


def test_streams_that_end_or_cannot_be_opened(desk):
    desk.show("""film = Video.from_file('film.mp4', autoplay=False, controls=False, loop=False)
live = LiveTranslator(negative, VideoStream(video=film))""")
    desk.started(3)
    wait_for(lambda: "come to its end" in desk.look()["trouble"] and desk.look()["button"] == "Start", 60, desk.look)
    desk.show("live = LiveTranslator(negative, WidgetStream(widget=Show(value=png.getvalue(), format='png')))")
    desk.click(".main")
    wait_for(lambda: "show the widget in a cell first" in desk.look()["trouble"])
    said = desk.run("try: LiveTranslator(negative, still)\nexcept TypeError as error: print('no picture', error)")
    assert "no picture" in said


def test_interrupt(desk):
    desk.show("live = LiveTranslator(negative)")
    desk.started()
    desk.begin("Path('asleep').touch(); time.sleep(60)")
    wait_for((desk.folder / "asleep").exists)
    desk.page.evaluate("window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.interrupt()")
    wait_for(lambda: desk.page.evaluate("window.jobs[window.cells]"), 20)
    desk.paints(5)


def test_camera_unplugged(desk):
    "The process that reads the camera dies, as when its driver fails."
    services = [p for p in psutil.Process().children(recursive=True) if "video_capture" in " ".join(p.cmdline())]
    assert services
    for service in services: service.kill()
    wait_for(lambda: "unplugged" in desk.look()["trouble"] and desk.look()["button"] == "Start")
    assert desk.run("print(live.running, dict(live.troubles))") == "False {'ended': 1}\n"
    assert "live" not in desk.cameras()
    desk.started()


def test_garbage_and_wild_messages(desk):
    "From the page itself, over the widget's channel: refused, counted, and the stream goes on."
    desk.show("live = LiveTranslator(negative, socket=False)")
    desk.started()
    desk.run("""reasons, dropped, before = [], live.worker.dropped, live.desk.refused
def note(ticket, why): reasons.append(live.worker.error); dropped(ticket, why)
live.worker.dropped = note""")
    me = json.loads(desk.run("print(json.dumps([live.model_id, live.stage.owner, live.stage.run]))"))
    size = desk.page.evaluate("""async ([id, page, run]) => {
        const comm = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel._comms.get(id);
        window.say = (content, buffers) => comm.send({method: 'custom', content}, undefined, buffers);
        window.sendFrame = data => window.say({kind: 'frame', page, run, id: 1e9, t: 0}, [data]);
        const canvas = new OffscreenCanvas(10000, 10000); canvas.getContext('2d').fillRect(0, 0, 9, 9);
        window.huge = await (await canvas.convertToBlob({type: 'image/jpeg', quality: .1})).arrayBuffer();
        return window.huge.byteLength }""", me)
    assert 100_000 < size < 4_000_000
    wrong = {"new TextEncoder().encode('garbage')": "no JPEG", "window.huge": "10000 x 10000",
             "new Uint8Array(0)": "no JPEG", "new Uint8Array(5e6)": "5000000 bytes"}
    for data, said in wrong.items():
        desk.run("reasons.clear()")
        def refused():
            # a good frame may replace it before it is looked at
            desk.page.evaluate(f"window.sendFrame({data})")
            return said in desk.run("time.sleep(0.2); print(reasons)")
        wait_for(refused, 30)
    desk.page.evaluate("""page => { const set = {kind: 'set', page, name: 'size'};
        const contents = [{kind: 'explode'}, {...set, value: 1e12}, set, 'words', null];
        for (const content of contents) window.say(content, []) }""", me[1])
    wait_for(lambda: int(desk.run("print(live.desk.refused - before)")) >= 3)
    desk.paints(5)


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
    wait_for(lambda: desk.stopped("out of order") and "live" not in desk.cameras())


def test_slow_model_stays_fresh(desk):
    desk.show("def slow(frame): time.sleep(0.2); return 255 - frame\nlive = LiveTranslator(slow)")
    desk.started()
    # reported twice a second
    stats = lambda: json.loads(desk.run("time.sleep(1); print(json.dumps(live.stats()))"))
    early = desk.paints(5) and stats()
    late = desk.paints(25) and stats()                                         # a queue would be seconds long by now
    assert late["painted"] > early["painted"], (early, late)
    assert late["p50"] < 2 * 200 + 400 and late["p50"] < early["p50"] + 200, (early, late)


def test_recording_plays(desk):
    desk.show("live = LiveTranslator(negative, tape=600)")
    desk.started()
    desk.page.keyboard.press("Escape")
    desk.key("r")
    wait_for(lambda: "Stop recording" in desk.view(".record").inner_text())
    desk.paints(30)
    desk.key("r")
    link = desk.view(".film a")
    link.wait_for(timeout=30_000)
    assert desk.page.evaluate("window.tracks.every(track => track.kind === 'video')"), "the microphone was asked for"
    with desk.page.expect_download() as download: link.click()
    film = Path(download.value.path())
    saved = desk.run("print(live.film.resolve())").strip()
    assert film.read_bytes() == Path(saved).read_bytes()
    frames = list(open_source(saved))
    assert len(frames) >= 10 and frames[0].shape == (256, 256, 3) and len({f.tobytes() for f in frames}) >= 8
    small = [resize_frame(frame, 32, 32).reshape(-1) for frame in frames]
    desk.click(".main")
    wait_for(lambda: desk.look()["button"] == "Start")
    shown = json.loads(desk.run("""import cv2
small = [cv2.resize(x.picture, (32, 32), interpolation=cv2.INTER_AREA) for x in live.tape]
print(json.dumps([picture.reshape(-1).tolist() for picture in small]))"""))
    assert in_order(small, shown), "a frame of the film was never shown, or not after the one before it"
    able = desk.page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=\"avc1.42E01E\"')")
    # Debian's Chromium can; a Chromium without H.264 has nothing to show
    if able:
        played = desk.page.evaluate("""async url => { const v = document.createElement('video');
            const when = name => new Promise((ok, no) => {
                v['on' + name] = ok; v.onerror = () => no(new Error('cannot be played: ' + v.error.message)) });
            v.muted = true; v.src = url; await when('loadeddata');
            const c = new OffscreenCanvas(32, 32), d = c.getContext('2d'), looks = [];
            for (const part of [0.1, 0.5, 0.9]) {
                const painted = new Promise(ok => v.requestVideoFrameCallback(ok));
                v.currentTime = part * v.duration; await when('seeked'); await painted; d.drawImage(v, 0, 0, 32, 32);
                looks.push([...d.getImageData(0, 0, 32, 32).data].filter((_, i) => i % 4 < 3)) }
            return [v.videoWidth, v.duration, looks] }""", link.get_attribute("href"))
        assert played[0] == 256 and abs(played[1] - len(frames) / 25) < 0.3
        for part, look in zip((0.1, 0.5, 0.9), played[2]):
            near = small[max(0, int(part * len(small)) - 3): int(part * len(small)) + 4]
            assert min(difference(frame, look) for frame in near) < 10, f"another picture at {part} of the film"


TURN = """() => { const canvas = document.createElement('canvas'), draw = canvas.getContext('2d');
    const devices = navigator.mediaDevices, real = devices.getUserMedia;
    window.turn = (w, h) => { canvas.width = w; canvas.height = h };
    window.turn(320, 240);
    const ticks = setInterval(() => {
        const {width: w, height: h} = canvas;
        draw.fillStyle = '#222'; draw.fillRect(0, 0, w, h);
        draw.fillStyle = '#fff'; draw.beginPath(); draw.arc(w / 2, h / 2, 60, 0, 7); draw.fill() }, 50);
    devices.getUserMedia = async () => canvas.captureStream(20);
    window.straight = () => { clearInterval(ticks); devices.getUserMedia = real } }"""
SHAPES = [("(320, 240)", "crop", 16, 16), ("(240, 320)", "crop", 16, 16), ("(240, 320)", "pad", 12, 12),
          ("(320, 240)", "pad", 12, 12), ("(320, 240)", "stretch", 12, 16)]     # of the disc, in 32nds of the picture


def test_a_phone_that_is_turned(desk):
    "The camera's frames change their shape in mid-stream: a disc stays round, however it is fitted."
    desk.page.evaluate(TURN)
    desk.show("live = LiveTranslator(lambda frame: frame)")
    desk.started()
    def disc():
        rows, columns = np.nonzero(picture(desk.look(), "output")[..., 0] > 128)
        return len(set(columns)), len(set(rows))
    for shape, fit, wide, high in SHAPES:
        desk.page.evaluate(f"window.turn{shape}")
        desk.view(".fit").select_option(fit)
        near = lambda: all(abs(a - b) <= 1 for a, b in zip(disc(), (wide, high)))
        wait_for(near, 20, lambda: f"{fit} of {shape}: {disc()}")
    assert desk.run("print(live.running, live.worker.failures)") == "True 0\n"
    desk.page.evaluate("window.straight()")


# ---- controls ------------------------------------------------------------------------------------------------------
def test_keys_and_buttons(desk):
    desk.run(STILL)
    desk.show("live = LiveTranslator(negative, np.stack([halves] * 2), side=200)")
    desk.key(" ")
    desk.paints(5)
    left = lambda name: picture(desk.look(), name)[12:20, 2:12].mean((0, 1))
    assert left("input")[0] > 150 > left("input")[2] and left("output")[2] > 150 > left("output")[0]
    desk.key("m")                                                              # mirrored: input and output
    wait_for(lambda: left("input")[2] > 150 > left("output")[2])
    desk.key("m")
    wait_for(lambda: left("input")[0] > 150)
    with desk.page.expect_download() as download: desk.key("s")
    assert Path(download.value.path()).read_bytes()[:4] == b"\x89PNG"
    box = desk.view(".side")                                                   # letters typed into a field are no keys
    box.focus()
    for key in ("m", "v"): desk.page.keyboard.press(key)
    for name in (".mirror", ".splitter"): assert desk.view(name).get_attribute("aria-pressed") == "false"
    before = desk.page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length")
    # keys of the notebook do not reach it from here
    for key in ("a", "b", "d", "d", "x"): desk.key(key)
    assert desk.page.evaluate("window.jupyterapp.shell.currentWidget.content.widgets.length") == before
    desk.view(".side").select_option("420")
    wait_for(lambda: abs(desk.view(".pane.in").bounding_box()["width"] - 420) < 2)


def test_full_screen(desk):
    wide = desk.view(".pane.out").bounding_box()["width"]
    desk.view(".side").select_option("200")
    desk.key("f")
    wait_for(lambda: desk.page.evaluate("document.fullscreenElement?.className") == "l2d")
    desk.paints(3)
    box = desk.view(".pane.out").bounding_box()
    assert box["width"] > wide and box["x"] + box["width"] <= 1301, "the pictures fill the screen"
    assert desk.view(".main").bounding_box()["y"] < 1250, "the buttons are within reach"
    desk.click(".full")
    wait_for(lambda: desk.page.evaluate("document.fullscreenElement") is None)
    desk.paints(3)


def test_divider(desk):
    desk.key("v")
    handle = desk.view(".cut")
    handle.wait_for()
    stage = desk.view(".stage").bounding_box()
    at = lambda: float(handle.get_attribute("aria-valuenow"))
    assert abs(handle.bounding_box()["x"] + 9 - stage["x"] - stage["width"] / 2) < 3
    box, high = handle.bounding_box(), stage["y"] + stage["height"] / 2
    desk.page.mouse.move(box["x"] + 9, high)
    desk.page.mouse.down()
    desk.page.mouse.move(stage["x"] + 0.25 * stage["width"], high, steps=5)
    desk.page.mouse.up()
    desk.page.mouse.move(stage["x"] + 0.9 * stage["width"], high)              # let go: it stays
    assert abs(at() - 25) <= 1 and abs(handle.bounding_box()["x"] + 9 - stage["x"] - 0.25 * stage["width"]) < 4
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft"): handle.press(key)
    assert abs(at() - 30) <= 1
    desk.page.mouse.move(stage["x"] + 0.3 * stage["width"], high)
    desk.page.mouse.down()
    desk.page.mouse.move(stage["x"] - 300, high, steps=3)
    desk.page.mouse.up()
    assert at() == 0
    desk.paints(3)
    desk.key("v")
    assert not handle.is_visible()


CONTRAST = """() => { const view = [...document.querySelectorAll('.l2d')].at(-1);
    const rgb = text => text.match(/[\\d.]+/g).map(Number);
    const linear = x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
    const light = ([r, g, b]) => .2126 * linear(r / 255) + .7152 * linear(g / 255) + .0722 * linear(b / 255);
    const ground = e => { for (; e; e = e.parentElement) {
            const c = rgb(getComputedStyle(e).backgroundColor); if (c.length < 4 || c[3] > .9) return c }
        return [255, 255, 255] };
    const one = e => { const [a, b] = [light(rgb(getComputedStyle(e).color)), light(ground(e))];
        return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) };
    const names = ['.main', '.snapshot', '.side', '.status', '.status b', 'label', 'summary', '.size'];
    return [light(ground(view)), Object.fromEntries(names.map(name => [name, one(view.querySelector(name))]))] }"""


def test_dark_and_light_theme(desk):
    grounds = []
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        desk.page.evaluate("theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})", theme)
        desk.page.wait_for_function("theme => document.body.dataset.jpThemeName === theme", arg=theme)
        changed = lambda ground: ground < 0.1 if "Dark" in theme else ground > 0.8
        wait_for(lambda: changed(desk.page.evaluate(CONTRAST)[0]), 10)
        ground, contrasts = desk.page.evaluate(CONTRAST)
        grounds.append(ground)
        assert min(contrasts.values()) > 4.5, f"hard to read in {theme}: {contrasts}"
    assert grounds[0] < 0.1 < 0.8 < grounds[1]
    desk.click(".main")


def test_mirror_of_the_camera(desk):
    "Which way round a picture is shows beside the whole film of the camera, whatever frame of it was caught."
    clip = [resize_frame(resize_frame(frame, 240, 320), 32, 32).reshape(-1) for frame in open_source("demo")]
    nearest = lambda look: min(difference(frame, look) for frame in clip)
    desk.show("live = LiveTranslator(negative)")
    desk.started()
    for mirrored in ("true", "false", "true"):
        assert desk.view(".mirror").get_attribute("aria-pressed") == mirrored
        for _ in range(2):
            look = desk.paints(2)
            for shown in (look["input"], 255 - np.array(look["output"])):
                ways = {"false": nearest(shown), "true": nearest(flipped(shown))}
                assert ways[mirrored] < 12 and max(ways.values()) > 30, (mirrored, ways)
        desk.click(".mirror")
        desk.paints(5)                                                         # those on their way are gone by then


# ---- the pipeline --------------------------------------------------------------------------------------------------
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
again = list(pipe.stream([x.frame for x in tape], on_cut="keep"))
at = {{x.id: n for n, x in enumerate(tape)}}
small = lambda f: cv2.resize(f, (32, 32), interpolation=cv2.INTER_AREA).reshape(-1).tolist()
print(json.dumps([small(again[at[id]]) for id in {wanted}]))"""))
    errors = [difference(look["output"], expected) for look, expected in zip(looks, again)]
    apart = difference(looks[0]["output"], again[-1])
    assert max(errors) < 6 and len({tuple(look["output"]) for look in looks}) >= 3, (errors, apart)


def test_a_prompt_changes_the_picture(desk):
    desk.show("""from live2diff_nb.video.sources import open_source
first = next(iter(open_source('demo')))
live = LiveTranslator(pipe, source=np.stack([first] * 2), adaptive=False)""")
    desk.started(12)                                                           # one still picture over and over
    before = desk.look()["output"]
    view = desk.page.locator(".l2d").last
    current = view.locator(".style").input_value()
    view.locator(".style").select_option("etching" if current != "etching" else "watercolour")
    wait_for(lambda: difference(desk.paints(2)["output"], before) > 8, 60)
    styled = desk.look()["output"]
    view.locator(".prompt").fill("starry night")
    view.locator(".prompt").press("Enter")
    view.locator(".style").select_option("")
    wait_for(lambda: difference(desk.paints(2)["output"], styled) > 4, 60)
    assert desk.run("print(pipe.prompt, pipe.style, live.running)") == "starry night None True\n"


def test_a_row_of_prompts(desk):
    desk.show("live = LiveTranslator(pipe, source=np.stack([first] * 2), adaptive=False)")
    desk.started(3)
    for prompt in ("a fox", "starry night", "starry night"):                   # the second time it is there already
        desk.view(".prompt").fill(prompt)
        desk.view(".prompt").press("Enter")
        desk.click(".keep")
    chips = desk.view(".chip .paint")
    wait_for(lambda: chips.all_inner_texts() == ["a fox", "starry night"])
    pressed = lambda: [chip.get_attribute("aria-pressed") for chip in chips.all()]
    wait_for(lambda: pressed() == ["false", "true"])
    prompt = lambda: desk.view(".prompt").input_value()
    desk.key("n")                                                              # around the end
    wait_for(lambda: prompt() == "a fox" and pressed() == ["true", "false"])
    desk.paints(2)                                                             # what is never painted is not saved
    for act, wanted in ((lambda: desk.key("p"), "starry night"), (chips.first.click, "a fox"),
                        (lambda: desk.click(".next"), "starry night")):
        act()
        wait_for(lambda: prompt() == wanted)
        desk.paints(2)
    desk.click(".save")
    link = desk.view(".film a")
    wait_for(lambda: link.count() and link.inner_text().endswith(".json"))
    with desk.page.expect_download() as download: link.click()
    saved = json.loads(Path(download.value.path()).read_text())
    assert saved["prompts"] == ["a fox", "starry night"]
    assert list(saved["prompt"].values())[-4:] == ["a fox", "starry night", "a fox", "starry night"]
    chips.first.press("Delete")
    wait_for(lambda: chips.all_inner_texts() == ["starry night"])
    desk.view(".chip .away").click()
    wait_for(lambda: chips.count() == 0 and desk.view(".next").is_disabled())
    desk.run("live.stop(); pipe.prompt = ''")


def test_nothing_older_than_a_change_is_painted(desk):
    "The prompt changes while an answer is on its way: that answer is not shown any more."
    desk.run("""received, answers, changes = [], [], []
def watched(live):
    handlers, result = live.desk.handlers, live.stage.post.result
    frame, change = handlers["frame"], handlers["set"]
    def on_frame(page, data, run, id, t): received.append(id); frame(page, data, run, id, t)
    def on_set(page, name, value): changes.append((max(received), time.monotonic())); change(page, name, value)
    def answer(ticket, shown, jpeg, *where):
        if jpeg: answers.append((shown.tag.id, time.monotonic()))
        result(ticket, shown, jpeg, *where)
    handlers["frame"], handlers["set"], live.stage.post.result = on_frame, on_set, answer
    return live
quick = pipe.to_frames
def slow(latents): time.sleep(0.3); return quick(latents)
pipe.to_frames = slow""")
    desk.show("live = watched(LiveTranslator(pipe, adaptive=False))")
    desk.started(3)
    desk.page.evaluate("""() => { const view = [...document.querySelectorAll('.l2d')].at(-1);
        const out = view.querySelectorAll('canvas.picture')[1];
        window.paintings = []; window.changed = [];
        const note = () => window.paintings.push([performance.now(), +out.dataset.of]);
        new MutationObserver(note).observe(out, {attributeFilter: ['data-painted']});
        document.addEventListener('change', () => window.changed.push(performance.now()), true) }""")
    for n in range(3):
        view = desk.view(".prompt")
        view.fill(f"watercolour {n}")
        view.press("Enter")
        wait_for(lambda: len(json.loads(desk.run("print(json.dumps(changes))"))) > n, 20)
        desk.paints(3)
    changes, answers = json.loads(desk.run("print(json.dumps([changes, answers]))"))
    paintings, changed = desk.page.evaluate("[window.paintings, window.changed]")
    late = [of for newest, at in changes for of, answered in answers if of <= newest and at < answered]
    assert late, "no answer was on its way: the test has shown nothing"
    for (newest, _), at in zip(changes, changed):
        old = [of for when, of in paintings if when > at and of <= newest]
        assert not old, f"frames {old} were painted after a change that frame {newest} had come before"
    desk.run("live.stop(); pipe.to_frames = quick; pipe.prompt = ''")


def test_inside_the_engine(desk):
    desk.show("live = LiveTranslator(pipe, source='demo', adaptive=False)")
    desk.started(12)
    view = desk.page.locator(".l2d").last
    assert desk.run("print(live.controls.view.open)") == "False\n"
    view.locator("summary").click()
    opened = lambda: desk.run("print(live.controls.view.open)") == "True\n"
    wait_for(lambda: opened() and view.locator(".layer option").count() > 1, 60)
    slots = view.locator(".engine circle.slot")                                # drawn as in the figure of the ring
    wait_for(lambda: slots.count() == 16 * view.locator(".engine svg").count() > 0, 20)
    assert view.locator('.engine circle.slot[fill="var(--blue)"]').count() > 0
    view.locator("summary").click()
    wait_for(lambda: not opened(), 20)
    # a watched step may be under way
    watched = "print(any(layer._forward_pre_hooks for layer in pipe.unet.temporal_layers))"
    wait_for(lambda: desk.run(watched) == "False\n", 20)


# complaints of JupyterLab and of ipywebrtc's extension; our script calls neither `pause` nor `removeChild`
NOT_OURS = ("favicon", "@jupyter-widgets/base", "interrupted by a call to pause()", "removeChild")


def test_the_script_makes_no_call_that_the_soak_forgives():
    scripts = [path.read_text() for path in (Path(live2diff_nb.__file__).parent / "assets").rglob("*.js")
               if "uPlot" not in path.name]
    assert scripts and not any(call in text for text in scripts for call in (".pause(", "removeChild"))


def test_short_soak(desk):
    desk.show("live = LiveTranslator(negative)")
    desk.started(30)
    memory = "import psutil, gc; gc.collect(); print(psutil.Process().memory_info().rss / 1e6)"
    before = float(desk.run(memory))
    seen = [desk.look()["painted"]]
    while seen[-1] < seen[0] + 250:
        desk.paints(3, 2.5)                                                    # or a window without pictures
        seen.append(desk.look()["painted"])
    grown = float(desk.run(memory)) - before
    assert grown < 0.1 * (seen[-1] - seen[0]), f"{grown:.1f} MB for {seen[-1] - seen[0]} pictures"
    errors = [text for text in desk.complaints if not any(word in text for word in NOT_OURS)]
    assert errors == [], "\n".join(errors)


def test_widget_closed_and_kernel_restarted(desk):
    desk.run("live.close()")
    wait_for(lambda: "live" not in desk.cameras(), 20)
    threads = "print([t.name for t in threading.enumerate() if t.name.startswith('live-')])"
    assert wait_for(lambda: desk.run(threads) == "[]\n", 20)
    desk.show("live = LiveTranslator(negative)")
    desk.started()
    desk.page.evaluate("void window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()")
    wait_for(lambda: "live" not in desk.cameras(), 40)                         # the camera's light goes off
    if desk.look(): wait_for(lambda: "kernel" in (desk.look() or {"trouble": "kernel"})["trouble"], 30, desk.look)
