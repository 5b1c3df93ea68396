"""Many viewers: two replicas of the embedded model under Ray Serve, eight places, one replica killed in mid-stream."""
import os
import shutil
import signal
import socket
import sys
import threading
import time

import numpy as np
import psutil
import pytest

from live2diff_nb.live.browser import FLAGS, NAMES, camera_film, find_chromium
from live2diff_nb.live.wire import LIMIT_BYTES, encode_frame, pack
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.serving import app
from live2diff_nb.video.sources import open_source
from live2diff_nb.viewer import Viewer

PLACES = 4                        # a replica
STYLES = "starry night", "etching", "cartoon"
pytestmark = pytest.mark.filterwarnings("ignore:Using extra keyword arguments on `Field`")     # in Ray's own code


def test_ray_waits_until_it_is_needed(monkeypatch):
    assert "ray" not in sys.modules
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"run `pip install live2diff-nb\[serve\]`"): app({})


@pytest.fixture(scope="module")
def clip(): return list(open_source("demo"))


@pytest.fixture(scope="module")
def server():
    "Address of two replicas; afterwards no process of theirs is left."
    ray = pytest.importorskip("ray", reason="no Ray: pip install -e .[serve]")
    from ray import serve
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    for check in ("READY", "HEALTH"): os.environ[f"RAY_SERVE_PROXY_{check}_CHECK_TIMEOUT_S"] = "60"     # cores are busy
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    family = psutil.Process().children(recursive=True)
    serve.start(http_options={"port": port})
    serve.run(app({"replicas": "2", "viewers": str(PLACES), "gpus": "0"}))        # as typed after `serve run`
    yield f"ws://127.0.0.1:{port}/stream"
    family += psutil.Process().children(recursive=True)
    serve.shutdown()
    ray.shutdown()
    _, alive = psutil.wait_procs([each for each in family if "ray" in name_of(each)], 20)
    assert not alive


def name_of(process):
    try: return " ".join(process.cmdline())
    except psutil.Error: return ""


@pytest.fixture
def viewers(server):
    "Make a viewer; all are closed in the end."
    made = []
    def make(**settings):
        made.append(Viewer(server, **settings))
        return made[-1]
    yield make
    for viewer in made: viewer.close()
    time.sleep(0.5)                                                # their places are free then


class Watcher(threading.Thread):
    "Someone who looks at a stream until told to stop, and notes when each picture came."

    def __init__(self, viewer, clip, fps=4):
        super().__init__(daemon=True)
        self.viewer, self.clip, self.fps, self.seen, self.ended = viewer, clip, fps, [], threading.Event()
        self.start()

    def frames(self):
        number = 0
        while not self.ended.is_set():
            yield self.clip[number % len(self.clip)]
            number += 1

    def run(self):
        for number, picture in self.viewer.stream(self.frames(), self.fps):
            self.seen.append((time.monotonic(), number, picture))

    def since(self, moment): return [number for at, number, _ in self.seen if at > moment]


def until(happened, seconds=40):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def style_of(picture, frames):
    "Which of `STYLES` a picture of the last of these frames has."
    pipe = Live2Diff.from_pretrained("tiny", graphs=False)
    painted = {style: list(pipe.stream(frames, style=style))[-1].astype(int) for style in STYLES}
    return min(STYLES, key=lambda style: abs(painted[style] - picture).mean())


def stop(*watchers):
    for each in watchers: each.ended.set()
    for each in watchers: each.join(20)
    assert not any(each.is_alive() for each in watchers)


def test_viewers_are_spread_and_the_last_is_refused(server, viewers):
    everybody = [viewers() for _ in range(2 * PLACES)]
    replicas = [viewer.line.server["replica"] for viewer in everybody]
    assert sorted(map(replicas.count, set(replicas))) == [PLACES, PLACES]
    with pytest.raises(ConnectionError, match=f"all {PLACES} places of this server are taken: try again later"):
        viewers()
    everybody[0].close()
    until(lambda: viewers().line.server["replica"] == replicas[0], 5)
    for replica in {viewer.line.server["replica"]: viewer.line.server for viewer in everybody}.values():
        print({name: replica[name] for name in ("rate", "memory")})
        assert replica["rate"] > 0 and 1e8 < replica["memory"] < 2e9


def test_every_viewer_has_its_own_style(viewers, clip):
    watchers = [Watcher(viewers(style=style), clip) for style in ("etching", "cartoon") * 2]
    until(lambda: all(len(each.seen) > 3 for each in watchers))
    stop(*watchers)
    colour = [np.ptp(each.seen[-1][2], axis=2).mean() for each in watchers]
    assert max(colour[0::2]) < 0.5 * min(colour[1::2])
    assert all(each.viewer.line.made == 1 for each in watchers)


def test_the_newest_frame_wins_and_every_frame_is_answered(viewers, clip):
    viewer = viewers()
    for frame in clip[:30]: viewer.send(frame)
    answers = []
    until(lambda: answers.append(viewer.receive(0.2)) or not viewer.waiting)
    answers = [answer for answer in answers if answer and answer.kind in ("result", "drop")]
    assert sorted(answer.number for answer in answers) == list(range(30))
    dropped = [answer.number for answer in answers if answer.kind == "drop"]
    assert len(dropped) > 15 and 29 not in dropped


def test_wrong_input_is_one_sentence_and_the_stream_survives(viewers, clip):
    viewer = viewers()
    frame = {"kind": "frame", "page": "", "run": "", "t": 0}
    bad = [b"nonsense", pack({**frame, "id": 1}, [b"no JPEG"]), bytes(LIMIT_BYTES + 1),
           pack({**frame, "id": 2}, [encode_frame(np.zeros((8, 3000, 3), np.uint8))]),
           pack({"kind": "set", "page": "", "name": "style", "value": "baroque"}),
           pack({"kind": "set", "page": "", "name": "steps", "value": 9})]
    texts = []
    for data in bad:
        viewer.line.socket.send_binary(data)
        until(lambda: (answer := viewer.receive()) and answer.kind == "refused" and not texts.append(answer.text), 10)
    wanted = ("no message", "no JPEG", "bytes; at most", "3000 x 8 pixels", "unknown style 'baroque'",
              "steps is set by the server")
    for text, said in zip(texts, wanted, strict=True):
        assert said in text and "\n" not in text
    viewer.line.socket.send("a text")                              # not bytes
    until(lambda: (answer := viewer.receive()) and answer.kind == "refused", 10)
    watcher = Watcher(viewer, clip)
    until(lambda: watcher.seen)
    stop(watcher)
    assert viewer.line.made == 1


@pytest.mark.browser
def test_the_page_shows_the_camera_painted(server, tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install -e .[dev]")
    if not any(map(shutil.which, NAMES)): pytest.skip("no Chromium on this machine: install chromium")
    film = camera_film(tmp_path / "clip.y4m")
    flags = [*FLAGS, f"--use-file-for-fake-video-capture={film}", "--use-fake-ui-for-media-stream"]
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=find_chromium(), args=flags)
        page, complaints = browser.new_page(), []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(server.replace("ws://", "http://").removesuffix("/stream"))
        page.wait_for_function("document.querySelectorAll('#style option').length > 3")
        page.select_option("#style", "etching")
        page.click("#start")
        page.wait_for_function("document.body.dataset.painted > 2", timeout=40_000)
        middle = "document.querySelector('canvas').getContext('2d').getImageData(128, 128, 1, 1).data[3]"
        assert page.evaluate(middle) == 255 and not complaints
        browser.close()


def test_viewers_of_a_killed_replica_go_on_at_another(viewers, clip):
    "Last of all: the replica in its place takes a while to load."
    watchers = [Watcher(viewers(style=style), clip) for style in ("etching", "cartoon", "etching", "cartoon")]
    until(lambda: all(len(each.seen) > 2 for each in watchers))
    dead = watchers[0].viewer.line.server["replica"]
    hit = [each for each in watchers if each.viewer.line.server["replica"] == dead]
    spared = [each for each in watchers if each not in hit]
    assert len(hit) == len(spared) == 2
    os.kill(dead, signal.SIGKILL)
    moment = time.monotonic()
    until(lambda: all(each.since(moment + 1) for each in watchers) and
          all(each.viewer.line.made > 1 and len(each.since(moment + 1)) > 2 for each in hit))
    print(f"pictures again {min(at for each in hit for at, *_ in each.seen if at > moment + 1) - moment:.1f} s later")
    stop(*watchers)                                                # and none has raised an error
    assert all(each.viewer.line.made == 1 for each in spared)
    for each in hit:
        assert each.viewer.line.server["replica"] != dead
        numbers = [number for _, number, _ in each.seen]
        assert numbers == sorted(set(numbers))                     # pictures of later frames only
        _, last, after = each.seen[-1]
        frames = [clip[number % len(clip)] for number in range(last - 11, last + 1)]
        assert style_of(after, frames) == each.viewer.settings["style"]                    # its style came with it
