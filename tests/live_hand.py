"""A widget whose page is played by hand: what the live tests without a browser share."""
import time

import numpy as np
import pytest

from live2diff_nb.live.widget import LiveTranslator
from live2diff_nb.live.wire import encode_frame

FRAME = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)


def negative(frame): return 255 - frame


def wait_for(happened, seconds=30):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def make():
    "Widgets that are closed at the end, and what they sent over the channel."
    made = []
    def widget(pipe=negative, source="webcam", **options):
        live = LiveTranslator(pipe, source, **{"socket": False, "size": 64 if pipe is negative else None, **options})
        live.said = []
        live.desk.pages.channel = lambda content, buffers: live.said.append((content, buffers))
        made.append(live)
        return live
    yield widget
    for live in made:
        live.close()


class Browser:
    "A page that sends frames by hand."

    def __init__(self, live, page="p", run="r"):
        self.live, self.me, self.run = live, {"page": page}, run
        self.say("hello")
        self.say("start", run=run)

    def say(self, kind, *buffers, **fields):
        self.live.desk.receive({"kind": kind, **self.me, **fields}, list(buffers))

    def frame(self, id, data=None):
        self.say("frame", encode_frame(FRAME) if data is None else data, run=self.run, id=id, t=float(id))

    def answers(self):
        return [content for content, _ in self.live.said if content["kind"] in ("result", "drop")]

    def after(self, id):
        wait_for(lambda: any(a["id"] == id for a in self.answers()))
        return next(a for a in self.answers() if a["id"] == id)
