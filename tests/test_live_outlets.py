"""The live widget and other programs: a virtual camera, OSC messages, films and settings on the disk. No browser."""
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
import pyvirtualcam
from pythonosc.udp_client import SimpleUDPClient

from live2diff_nb import Live2Diff
from live2diff_nb.cli import main
from live2diff_nb.live.feed import Feed, Recorder
from live2diff_nb.live.settings import read_settings
from live2diff_nb.live.wire import encode_frame
from live2diff_nb.video.sources import open_source
from live_hand import Browser, make, negative, wait_for  # noqa: F401


def grey(level, height=64, width=64): return np.full((height, width, 3), level, np.uint8)


class Driver:
    "A camera driver that remembers what it was given, and how long each took."
    opened, frames, pause = [], [], 0.0

    def __init__(self, width, height, fps, fourcc, device):
        self.shape = height, width, 3
        self.opened.append((height, width, fps))
    def send(self, frame):
        self.frames.append((time.monotonic(), frame.reshape(self.shape).copy()))
        time.sleep(self.pause)
    def close(self): self.opened.append("closed")
    def device(self): return "test camera"
    def native_fourcc(self): return None


@pytest.fixture
def driver(monkeypatch):
    class Fresh(Driver):
        opened, frames = [], []
    monkeypatch.setitem(pyvirtualcam.camera.BACKENDS, "test", Fresh)
    return Fresh


@pytest.fixture
def no_driver(monkeypatch):
    def nothing(**asked): raise RuntimeError("no device")
    monkeypatch.setattr(pyvirtualcam.camera, "BACKENDS", {"nothing": nothing})


# ---- the virtual camera --------------------------------------------------------------------------------------------
def test_the_camera_shows_what_the_widget_shows(make, driver):
    page = Browser(make())
    camera = page.live.virtual_camera(fps=40)
    assert driver.opened == [(64, 64, 40)] and page.live.status()["outlets"] == ["test camera"]
    wait_for(lambda: driver.frames)
    assert not driver.frames[0][1].any()                                     # black until there is a picture
    colours = np.stack([grey(200)[..., 0], grey(90)[..., 0], grey(20)[..., 0]], -1)
    page.frame(1, encode_frame(colours))
    page.after(1)
    wait_for(lambda: np.array_equal(driver.frames[-1][1], page.live.latest))
    red, green, blue = driver.frames[-1][1].mean((0, 1))
    assert (abs(red - 55), abs(green - 165), abs(blue - 235)) < (4, 4, 4), "not RGB"
    stalled = len(driver.frames)                                             # no frame comes any more
    wait_for(lambda: len(driver.frames) > stalled + 20)
    assert np.array_equal(driver.frames[-1][1], page.live.latest)
    apart = np.diff([at for at, _ in driver.frames[-20:]])
    assert 0.02 < np.median(apart) < 0.05, apart
    page.live.close()
    assert driver.opened[-1] == "closed" and not camera.thread.is_alive()


def test_a_slow_driver_does_not_slow_the_stream(make, driver):
    driver.pause = 0.5
    page = Browser(make())
    page.live.virtual_camera()
    for id in range(30):
        page.frame(id)
        page.after(id)
    assert page.live.worker.counts["answered"] == 30 and len(driver.frames) < 10


def test_another_size_opens_the_camera_anew(make, driver):
    live = make(source="synthetic")
    live.virtual_camera()
    live.start()
    wait_for(lambda: any(frame.any() for _, frame in driver.frames))
    live.ask("size", 128)
    wait_for(lambda: driver.frames[-1][1].shape == (128, 128, 3))
    assert driver.opened == [(64, 64, 25), "closed", (128, 128, 25)] and live.running and not live.status()["error"]
    live.virtual_camera(30)                                                  # another one takes its place
    assert driver.opened[3:] == ["closed", (128, 128, 30)]


def test_a_driver_that_fails_is_one_sentence(make, driver, monkeypatch):
    page = Browser(make())
    monkeypatch.setattr(driver, "send", lambda self, frame: 1 / 0)
    camera = page.live.virtual_camera()
    wait_for(camera.ended.is_set)
    page.frame(1)
    assert page.after(1)["kind"] == "result" and page.live.running
    assert "virtual camera has ended" in page.live.status()["error"] and page.live.status()["outlets"] == []


def test_without_driver_or_package(make, no_driver, monkeypatch):
    live = make()
    with pytest.raises(OSError, match=r"^no virtual camera can be opened: .+ \('nothing' backend: no device\)$"):
        live.virtual_camera()
    monkeypatch.setenv("LIVE2DIFF_VIRTUAL_CAMERA", "1")                      # as set by the command
    live = make(source="synthetic").start()
    assert live.running and "no virtual camera" in live.status()["error"]
    monkeypatch.setitem(sys.modules, "pyvirtualcam", None)
    with pytest.raises(ImportError, match=r"run `pip install live2diff-nb\[virtualcam\]`"):
        live.virtual_camera()


def test_the_command_tries_the_camera_and_tells_the_notebook(tmp_path, monkeypatch, capsys, driver, make):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "call", lambda words, env: calls.append((words[3:], env)) or 0)
    assert main(["live", "--virtual-camera", "--no-browser"]) == 0 and driver.opened == [(256, 256, 25), "closed"]
    assert calls[0][0] == ["live.ipynb", "--no-browser"] and "already" not in capsys.readouterr().out
    told = {name: value for name, value in calls[0][1].items() if "LIVE2DIFF" in name}
    for name, value in told.items(): monkeypatch.setenv(name, value)         # as the kernel has it
    assert make().status()["outlets"] == ["test camera"]
    (tmp_path / "live.ipynb").write_text("mine")
    monkeypatch.setattr(pyvirtualcam.camera, "BACKENDS", {})
    assert main(["live", "--virtual-camera"]) == 2 and len(calls) == 1
    assert "no virtual camera can be opened" in capsys.readouterr().err
    assert main(["live"]) == 0 and (tmp_path / "live.ipynb").read_text() == "mine"
    assert "stays as it is" in capsys.readouterr().out


# ---- OSC -----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny")


@pytest.fixture
def fader(make, pipe):
    "A stream with a pipeline, and what sends messages to it."
    live = make(pipe, "demo", adaptive=False).start()
    port = live.osc(0)
    assert port.line.getsockname()[0] == "127.0.0.1" and live.status()["outlets"] == [port.name]
    client = SimpleUDPClient("127.0.0.1", port.port)
    yield live, lambda name, *values: client.send_message(f"/live2diff/{name}", list(values))
    pipe.prompt, pipe.strength, pipe.style, pipe.steps = "", 0.3, "starry night", 2


def test_every_setting_by_osc(fader, pipe):
    live, send = fader
    wait_for(lambda: live.latest is not None)
    for name, value in (("strength", 0.6), ("style", "etching"), ("prompt", "a fox"), ("steps", 3.0), ("adaptive", 1.0),
                        ("target", 12), ("fit", "pad"), ("engine", True), ("layer", 1), ("location", 2), ("seed", 4)):
        send(name, value)
    wait_for(lambda: live.controls.seed == 4)
    settings = live.status()["settings"]
    assert {"strength": 0.6, "style": "etching", "prompt": "a fox", "steps": 3, "adaptive": True, "target": 12,
            "fit": "pad", "seed": 4}.items() <= settings.items() and live.controls.view.location == 2
    send("style", "")
    send("prompts", "starry night", "etching")
    for wanted in ("starry night", "etching", "starry night"):
        send("next")
        wait_for(lambda: pipe.prompt == wanted)
    send("next", 0.0)                                                        # a button let go
    send("previous")
    wait_for(lambda: pipe.prompt == "etching")
    assert pipe.style is None and live.running and not live.worker.failures and not live.desk.refused


WRONG = [("strength", 7.0), ("strength", "much"), ("steps", 0), ("style", "cubism"), ("size", 250), ("at", 9),
         ("prompts", ""), ("zoom", 1), ("prompt",), ("prompt", "x" * 2000), ("seed", -1), ("next",), ("lora", "/x")]


def test_wrong_values_by_osc_are_one_message_each(fader, pipe):
    live, send = fader
    wait_for(lambda: live.latest is not None)
    for count, (name, *values) in enumerate(WRONG, 1):
        send(name, *values)
        wait_for(lambda: live.desk.refused == count)
        said = live.status()["error"]
        assert said and said == live.desk.complaint and "\n" not in said and len(said) < 300, said
    send("strength", 0.4)                                                    # and it goes on listening
    wait_for(lambda: pipe.strength == 0.4)
    assert live.running and not live.status()["error"] and live.worker.failures == 0


def test_a_lora_that_vanished_is_one_message(fader, pipe):
    "A style whose file is gone: refused where it is asked for, from a page and by OSC; the stream has the old one."
    live, send = fader
    wait_for(lambda: live.latest is not None)
    pipe.styles["gone"] = dict(prompt="{prompt}", lora={"gone.safetensors": 1.0})
    try:
        live.desk.receive(dict(kind="set", page="p", name="style", value="gone"))
        assert live.desk.refused == 1 and "gone.safetensors" in live.status()["error"]
        send("style", "gone")
        wait_for(lambda: live.desk.refused == 2)
        answered = live.worker.counts["answered"]
        wait_for(lambda: live.worker.counts["answered"] > answered + 3)
        assert pipe.style == "starry night" and live.running and live.worker.failures == 0
    finally: pipe.styles.pop("gone")


def test_a_taken_port_says_so(make):
    live = make()
    port = live.osc(0)
    assert "port" in repr(port).lower()
    other = make()                                                           # closes the first, and its port
    assert not port.thread.is_alive() and other.osc(port.port).port == port.port


# ---- settings ------------------------------------------------------------------------------------------------------
def test_what_was_painted_is_saved_with_its_times(make, pipe, tmp_path):
    live = make(pipe, "demo", adaptive=False, folder=tmp_path)
    pipe.prompt = "a fox"
    live.start()
    wait_for(lambda: live.worker.counts["answered"] > 2)
    began = time.monotonic()
    live.desk.receive(dict(kind="set", page="p", name="prompts", value=["etching", "watercolour"]))
    live.desk.receive(dict(kind="set", page="p", name="step", value=1))
    wait_for(lambda: len(live.controls.prompts.changes) == 2)
    pipe.prompt = "typed in a cell"
    wait_for(lambda: len(live.controls.prompts.changes) == 3)
    live.stop()
    live.desk.receive(dict(kind="save", page="p"))
    told, buffers = next(said for said in live.said if said[0]["kind"] == "recorded")
    file = tmp_path / told["name"]
    saved = read_settings(file)
    assert buffers[0] == file.read_bytes() and f"translate IN OUT --settings {file}" in told["text"]
    assert list(saved["prompt"].values()) == ["a fox", "etching", "typed in a cell"] and saved["fade"] == "1.0s"
    times = [float(time.removesuffix("s")) for time in saved["prompt"]]
    assert times[0] == 0 < times[1] < times[2] < 60 + time.monotonic() - began and saved["prompts"][0] == "etching"
    assert {"seed": 0, "steps": 2, "size": [256, 256], "lora": {}}.items() <= saved.items()
    live.save_settings()
    assert len(list(tmp_path.iterdir())) == 2, "a second file of the same second took the first one's place"
    pipe.prompt = ""


def test_translate_replays_the_file(make, pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    live = make(pipe, "demo", adaptive=False, folder=tmp_path)
    pipe.prompt, pipe.style, pipe.strength = "a fox", "etching", 0.5
    live.ask("seed", 11)
    file = live.save_settings()
    saved = read_settings(file)
    assert saved["prompt"] == "a fox" and "fade" not in saved
    pipe.prompt, pipe.style, pipe.strength = "", "starry night", 0.3
    base, frames = ["translate", "demo", "out.mp4", "--limit", "9", "--seed", "12", "--noise", "fixed"], []
    for words in (["--settings", str(file)], "--prompt,a fox,--style,etching,--strength,0.5".split(",")):
        assert main([*base, *words]) == 0, capsys.readouterr().err           # the seed is typed: it wins
        frames.append(np.stack(list(open_source("out.mp4"))))
        Path("out.mp4").unlink()
    assert np.array_equal(*frames)
    for text, said in (('{"colour": 1}', "colour"), ("{", "no JSON"), ('{"steps": "two"}', "steps in")):
        Path("wrong.json").write_text(text)
        capsys.readouterr()
        assert main([*base, "--settings", "wrong.json"]) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and "wrong.json" in lines[0] and said in lines[0]
    assert main([*base, "--settings", "none.json"]) == 2
    assert "none.json cannot be read" in capsys.readouterr().err and not Path("out.mp4").exists()


def test_a_wrong_setting_is_said_while_nothing_runs(make):
    live = make()
    live.desk.receive(dict(kind="hello", page="p"))
    for value in (100, 2.5, "x"):
        live.said.clear()
        live.desk.receive(dict(kind="set", page="p", name="size", value=value))
        said, = (content["error"] for content, _ in live.said)
        assert str(value) in said and "\n" not in said
    live.desk.receive(dict(kind="set", page="p", name="size", value=128))
    assert not live.status()["error"]


# ---- films ---------------------------------------------------------------------------------------------------------
def test_no_film_takes_the_place_of_another_file(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda form: "live_20260101_000000")          # all in one second
    (tmp_path / "live_20260101_000000.mp4").write_text("mine")
    (tmp_path / "live_20260101_000000.part.mp4").write_text("mine too")
    recorder, films = Recorder(tmp_path), []
    for level in (50, 150):
        recorder.start()
        recorder.add(grey(level))
        films.append(recorder.stop())
    assert (tmp_path / "live_20260101_000000.mp4").read_text() == "mine"
    assert (tmp_path / "live_20260101_000000.part.mp4").read_text() == "mine too" and len(set(films)) == 2
    assert [round(next(iter(open_source(film))).mean()) for film in films] == pytest.approx([50, 150], abs=3)
    assert len(list(tmp_path.iterdir())) == 4


CUT = """import sys, os, signal, time
import numpy as np
from live2diff_nb.live.feed import Recorder
recorder = Recorder(sys.argv[1])
recorder.start()
rng = np.random.default_rng(0)
for n in range(300):
    recorder.running.add(rng.integers(0, 255, (64, 64, 3), np.uint8), now=n / 25)
os.kill(os.getpid(), signal.SIGKILL)"""


def test_a_killed_kernel_leaves_the_film(tmp_path):
    done = subprocess.run([sys.executable, "-c", CUT, str(tmp_path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    part, = tmp_path.iterdir()
    frames = list(open_source(part))
    assert part.name.endswith(".part.mp4") and len(frames) > 200, f"{len(frames)} of 300 frames are left"


def test_a_full_disk_ends_the_film_not_the_stream(make, tmp_path):
    page = Browser(make(folder=tmp_path))
    page.say("record", on=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        rng = np.random.default_rng(0)
        for id in range(200):
            page.frame(id, encode_frame(rng.integers(0, 255, (64, 64, 3), np.uint8)))
            page.after(id)
            if page.live.recorder.error: break
            page.live.recorder.running.began -= 0.2                          # as if each picture stood for five frames
        wait_for(lambda: page.live.recorder.error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert "the recording has stopped" in page.live.status()["error"] and not page.live.status()["recording"]
    page.frame(999)
    assert page.after(999)["kind"] == "result" and page.live.running


def test_films_and_cameras_have_no_sound(make, tmp_path):
    page = Browser(make(folder=tmp_path))
    page.say("record", on=True)
    page.frame(1)
    page.after(1)
    page.say("record", on=False)
    with av.open(str(page.live.film)) as film: assert [stream.type for stream in film.streams] == ["video"]
    for source in ("webcam", page.live.stage.feed.media):
        feed = Feed(source)
        feed.start(None)
        assert feed.media.constraints["audio"] is False
        feed.close()


# ---- sizes ---------------------------------------------------------------------------------------------------------
def roundness(picture):
    "Width and height of the bright disc."
    ys, xs = np.nonzero(picture[..., 1] > 128)
    return np.ptp(xs) + 1, np.ptp(ys) + 1


def disc(height, width):
    return cv2.circle(grey(30, height, width), (width // 2, height // 2), min(height, width) // 4, (255,) * 3, -1)


def test_frames_that_change_their_size_in_mid_stream(make, tmp_path):
    page = Browser(make(lambda frame: frame, size=128, folder=tmp_path))
    page.say("record", on=True)
    shapes = [(240, 320), (320, 240), (64, 640), (1, 1), (320, 240), (1080, 1920), (33, 57)]
    for id, shape in enumerate(shapes):
        page.frame(id, encode_frame(disc(*shape)))
        assert page.after(id)["kind"] == "result", page.live.worker.error
        if min(shape) > 1:
            wide, high = roundness(page.live.latest)
            assert abs(wide - high) <= 0.06 * wide + 2, f"a frame of {shape} is distorted: {wide} x {high}"
        if id == 3:
            page.say("set", name="size", value=192)                          # the working size too
    wait_for(lambda: page.live.status()["size"] == [192, 192])
    assert page.live.latest.shape == (192, 192, 3)
    page.say("record", on=False)
    assert {frame.shape for frame in open_source(page.live.film)} == {(128, 128, 3)} and page.live.running
