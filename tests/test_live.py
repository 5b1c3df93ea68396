"""The parts of the live widget that need no browser."""
import asyncio
import gc
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import ipywidgets
import numpy as np
import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from live2diff_nb import Live2Diff, cli
from live2diff_nb.live.widget import LiveTranslator
from live2diff_nb.live.desk import unbind_replies
from live2diff_nb.live.wire import KINDS, Loopback, Mailbox, Refused, check_message, pack, unpack
from live2diff_nb.live.worker import AdaptiveQuality, StreamTranslator, Ticket, Worker, ladder
from live2diff_nb.live.wire import encode_frame
from live2diff_nb.video.sources import open_source

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
        live.pages.channel = lambda content, buffers: live.said.append((content, buffers))
        made.append(live)
        return live
    yield widget
    for live in made: live.close()


class Browser:
    "A page that sends frames by hand."
    def __init__(self, live, page="p", run="r"):
        self.live, self.me, self.run = live, {"page": page}, run
        self.say("hello"), self.say("start", run=run)

    def say(self, kind, *buffers, **fields): self.live._receive({"kind": kind, **self.me, **fields}, list(buffers))
    def frame(self, id, data=None): self.say("frame", encode_frame(FRAME) if data is None else data, run=self.run, id=id, t=float(id))
    def answers(self): return [content for content, _ in self.live.said if content["kind"] in ("result", "drop")]
    def after(self, id): wait_for(lambda: any(a["id"] == id for a in self.answers())); return next(a for a in self.answers() if a["id"] == id)


# ---- credits and order -------------------------------------------------------------------------------------------------------
def test_every_frame_is_answered_once(make):
    def slow(frame): time.sleep(0.02); return frame
    page = Browser(make(slow))
    for id in range(40): page.frame(id); time.sleep(0.005)
    wait_for(lambda: len(page.answers()) == 40)
    assert sorted(a["id"] for a in page.answers()) == list(range(40)), "a credit was lost, or returned twice"
    kinds = [a["kind"] for a in page.answers()]
    assert kinds.count("drop") > 5 and kinds.count("result") > 5
    shown = [a["of"] for a in page.answers() if a["kind"] == "result"]
    assert shown == sorted(shown)


def test_frames_of_another_page_or_run_are_sent_back(make):
    live = make()
    first, second = Browser(live, "p"), Browser(live, "q")                   # the second takes over
    first.frame(1)
    assert first.after(1) == {"kind": "drop", "run": "r", "id": 1, "why": "not streaming"}
    second.frame(2)
    assert second.after(2)["kind"] == "result"
    second.run = "older"; second.frame(3)
    assert second.after(3)["why"] == "not streaming"


def test_epoch_grows_with_every_reset(make):
    page = Browser(make())
    page.frame(1); before = page.after(1)["epoch"]
    page.say("set", name="seed", value=5); page.frame(2)
    assert page.after(2)["epoch"] == before + 1
    page.say("stop"); page.say("start", run="r"); page.frame(3)
    assert page.after(3)["epoch"] > before + 1


def test_mailbox_from_many_threads():
    box, replaced, taken = Mailbox(), [], []
    def put(start):
        for n in range(start, start + 500):
            if (old := box.put(n + 1)) is not None: replaced.append(old)
    def take():
        while (item := box.take(0.3)) is not None: taken.append(item)
    taker = threading.Thread(target=take); taker.start()
    putters = [threading.Thread(target=put, args=(k * 500,)) for k in range(4)]
    for t in putters: t.start()
    for t in putters: t.join()
    taker.join()
    assert sorted(replaced + taken) == list(range(1, 2001)), "every item is either taken or handed back"


# ---- the pipeline --------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny")


@pytest.fixture(scope="module")
def clip(): return list(open_source("demo", limit=26))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_pictures_belong_to_their_frames(pipe, clip, steps):
    pipe.steps = steps
    translator = StreamTranslator(pipe)
    shown = [translator.feed(frame, n) for n, frame in enumerate(clip)]
    expected = list(pipe.stream(clip))
    pipe.steps = 2
    pictures = [s for s in shown if s.picture is not None]
    assert len(pictures) >= 15 and all(np.array_equal(s.picture, expected[s.tag]) for s in pictures)
    assert [n - s.tag for n, s in enumerate(shown) if s.picture is not None][1:] == [steps - 1] * (len(pictures) - 1)
    assert shown[0].note == "warming up 1 of 8"


def test_changes_in_mid_stream_keep_the_order(pipe, clip):
    translator, tags = StreamTranslator(pipe), []
    for n, frame in enumerate(clip):
        if n == 12: pipe.style = "etching"
        if n == 15: pipe.steps = 3
        if n == 20: pipe.strength = 0.6
        tags.append(translator.feed(frame, n).tag)
    pipe.steps, pipe.strength = 2, 0.3
    seen = [tag for tag in tags if tag is not None]
    assert seen == sorted(set(seen)) and all(tag <= n for n, tag in enumerate(tags) if tag is not None) and seen[-1] >= 22


def test_pictures_older_than_a_change_are_not_sent(pipe, make):
    live = make(pipe, "demo", adaptive=False, tape=400)
    live.start(); wait_for(lambda: len(live.tape) > 12)                      # past the warmup
    before, fed = live.epoch, live.tape[-1].id
    pipe.prompt = "a fox"
    wait_for(lambda: live.epoch == before + 1)
    wait_for(lambda: live.tape[-1].picture is not None and live.tape[-1].of > fed + 3)
    live.stop()
    tape = list(live.tape)
    silent = next(n for n, x in enumerate(tape) if x.id > fed and x.picture is None)    # the frame at which the engine warmed up anew
    assert all(x.of >= tape[silent].id for x in tape[silent:] if x.picture is not None)
    pipe.prompt = ""


def test_settings_from_the_page_and_from_a_cell(pipe, make):
    live = make(pipe, "synthetic", adaptive=False)
    live.start(); wait_for(lambda: live.latest is not None)
    def say(name, value): live._receive({"kind": "set", "page": "p", "name": name, "value": value})
    say("steps", 3); say("strength", 0.5); say("style", "cartoon"); say("prompt", "a fox")
    wait_for(lambda: live.applied.steps == 3)
    assert (pipe.strength, pipe.style, pipe.prompt) == (0.5, "cartoon", "a fox")
    pipe.steps = 1
    wait_for(lambda: live.applied.steps == 1 and live.status()["settings"]["steps"] == 1)
    refused = live.refused
    for name, value in (("steps", 40), ("style", "cubism"), ("size", 100), ("strength", "0.5"), ("seed", -1), ("pipe", 3)): say(name, value)
    assert live.refused == refused + 6 and live.running and live.worker.failures == 0
    say("size", 128)
    wait_for(lambda: live.latest.shape == (128, 128, 3))
    live.stop()
    pipe.height = pipe.width = 256
    pipe.steps, pipe.strength, pipe.prompt = 2, 0.3, ""


# ---- adaptive quality ----------------------------------------------------------------------------------------------------
def drive(costs, seconds=900, noise=0.0, **options):
    control, now, levels, rng = AdaptiveQuality(len(costs(0)), **options), 0.0, [], np.random.default_rng(0)
    while now < seconds:
        work = costs(now)[control.level] * (1 + noise * rng.standard_normal())
        now += max(work, 1 / 25)                                            # a camera of 25 frames/s
        levels.append((now, control.update(now, work)))
    return levels


def changes(levels, since=0): return sum(a[1] != b[1] for a, b in zip(levels, levels[1:]) if b[0] > since)


def test_adaptive_holds_still_when_fast_enough_or_hopeless():
    assert changes(drive(lambda t: (0.05, 0.03, 0.02))) == 0
    assert changes(drive(lambda t: (0.8, 0.6, 0.5))) == 2                    # down to the last rung, and there it stays


@pytest.mark.parametrize("noise", [0, 0.3])
def test_adaptive_never_oscillates(noise):
    for slow in (0.115, 0.13, 0.2):
        for fast in (0.04, 0.07, 0.09):
            levels = drive(lambda t: (slow, fast, fast / 2), noise=noise)
            assert changes(levels, since=450) <= 4, (slow, fast)


def test_adaptive_does_not_follow_a_slow_camera():
    control = AdaptiveQuality(3)
    for n in range(200): assert control.update(n * 0.5, 0.03) == 0          # two frames a second come in; the work is quick


def test_adaptive_steps_back_up():
    levels = drive(lambda t: np.array((0.06, 0.04, 0.03)) * (3 if 100 < t < 200 else 1))
    assert max(level for t, level in levels if 100 < t < 200) >= 1 and levels[-1][1] == 0


def test_ladder_keeps_to_sizes_the_model_takes():
    for rung in ladder(3, 512, 64): assert rung.size % 64 == 0
    assert [r.steps for r in ladder(3, 512, 64)][:3] == [3, 2, 1]


# ---- faults --------------------------------------------------------------------------------------------------------------
def test_a_failing_model_stops_with_its_error(make):
    def broken(frame): raise RuntimeError("out of order")
    page = Browser(make(broken))
    for id in range(3): page.frame(id); page.after(id)
    wait_for(lambda: not page.live.running)
    assert "out of order" in page.live.status()["error"] and not page.live.worker.thread.is_alive()
    assert page.live.worker.counts["failed"] == 3


def test_a_reset_stream_after_a_failure(make, pipe, clip):
    live = make(pipe, "demo", adaptive=False)
    live.start(); wait_for(lambda: live.latest is not None)
    real, pipe.encode = pipe.encode, lambda *_: 1 / 0
    wait_for(lambda: live.worker.counts["failed"])
    pipe.encode = real
    answered = live.worker.counts["answered"]
    wait_for(lambda: live.worker.counts["answered"] > answered + 12)
    assert live.running


def test_garbage_frames_are_refused_and_the_stream_goes_on(make):
    page = Browser(make())
    for id, data in enumerate((b"garbage", b"\xff\xd8\xff", encode_frame(FRAME)[:200])):
        page.frame(id, data)
        assert page.after(id)["why"] == "refused"
    page.frame(9)
    assert page.after(9)["kind"] == "result" and page.live.worker.counts["refused"] == 3


def test_every_kind_has_a_method(make):
    live = make()
    assert all(callable(getattr(live, f"_on_{kind}")) for kind in KINDS)


@pytest.mark.parametrize("seed", range(3))
def test_random_messages_never_raise(make, seed):
    live, rng = make(), np.random.default_rng(seed)
    values = [None, True, -1, 0, 1e308, float("nan"), "x" * 5000, [], {}, "steps", "size", [[]], {"a": {}}]
    for _ in range(300):
        kind = rng.choice([*KINDS, "bad", ""])
        content = {"kind": str(kind), **{name: values[rng.integers(len(values))] for name in KINDS.get(str(kind), {"page": 0})}}
        if kind in ("start", "record", "stop", "bye"): continue
        live._receive(content, [b"x"] * int(rng.integers(0, 3)))
    assert live.refused > 100 and not live.running


def test_closing_gives_everything_back(make):
    class Heavy:
        def __init__(self): self.block = np.zeros(1_000_000, np.uint8)
        def __call__(self, frame): return frame
    model = Heavy(); gone = weakref.ref(model)
    live = make(model, "synthetic", size=64, socket=True, tape=5)
    live.start(); wait_for(lambda: live.latest is not None)
    threads = [t for t in threading.enumerate() if t.name.startswith("live-")]
    assert len(threads) == 4                                                 # worker, feeder, reporter, socket
    live.close()
    wait_for(lambda: not any(t.is_alive() for t in threads))
    del live.pipe, model
    gc.collect()
    assert gone() is None and live.latest is None


def test_a_page_that_vanishes_stops_the_stream(make):
    page = Browser(make())
    page.live.asked_at -= 60
    wait_for(lambda: not page.live.running)
    assert "page" in page.live.error


@pytest.mark.parametrize("wrong", [dict(pipe="a model"), dict(pipe=negative, size=100), dict(pipe=negative, source=ipywidgets.Button())])
def test_a_widget_that_cannot_be_built_ends_in_one_error(wrong, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises((TypeError, ValueError)): LiveTranslator(**wrong)
    gc.collect()
    assert ignored == []


@pytest.mark.parametrize("lacking, remedy", [("PATH", "install Chromium"), ("playwright", "pip install playwright")])
def test_bench_without_a_browser_says_so_in_one_sentence(monkeypatch, capsys, lacking, remedy):
    if lacking == "PATH": monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setattr("live2diff_nb.live.bench.find_chromium", lambda: "chromium")
        monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    assert cli.main(["bench", "live", "trivial"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("live2diff-nb: error: the live bench") and remedy in said[-1] and len(said) == 2


def test_source_that_cannot_be_opened(make):
    live = make(negative, "no_such_film.mp4")
    with pytest.raises(FileNotFoundError, match="no_such_film"): live.start()
    assert not live.running
    Browser(live)                                                            # pressing Start in the page says it there
    assert "no_such_film" in live.status()["error"]


def test_the_private_method_of_ipykernel_is_still_there():
    import ipykernel
    from ipykernel.comm.comm import Comm
    if int(ipykernel.__version__.split(".")[0]) < 7: pytest.skip("no subshells in this ipykernel")
    comm = Comm(target_name="test", primary=False)
    assert unbind_replies(comm) and comm._reply_subshell_for({}, "default") == "default"


# ---- the socket ----------------------------------------------------------------------------------------------------------
def visit(url, data, origin="http://localhost:8888", answers=1):
    async def talk():
        try: line = await websocket_connect(HTTPRequest(url, headers={"Origin": origin}))
        except HTTPClientError as error: return error.code
        await line.write_message(data, binary=isinstance(data, bytes))
        got = []
        while len(got) < answers and (message := await asyncio.wait_for(line.read_message(), 10)) is not None: got.append(unpack(message))
        line.close()
        return got
    return ThreadPoolExecutor(1).submit(asyncio.run, talk()).result(30)


def test_socket_lets_in_only_the_own_page(make):
    live = make(socket=True)
    assert ("127.0.0.1", live.socket.port) in [s.getsockname() for s in live.socket.http._sockets.values()]
    hello = pack({"kind": "hello", "page": "p"})
    assert visit(live.socket.url, hello)[0][0]["kind"] == "status"
    assert visit(live.socket.url.split("?")[0], hello) == 403
    assert visit(live.socket.url, hello, origin="http://evil.example") == 403


def test_socket_survives_garbage(make):
    live = make(socket=True)
    for data in (b"", b"\xff" * 99, "text", pack({"kind": "explode"})):
        visit(live.socket.url, data, answers=0)
    wait_for(lambda: live.refused == 4)
    assert visit(live.socket.url, pack({"kind": "hello", "page": "p"}))[0][0]["kind"] == "status"
