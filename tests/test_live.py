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
from live2diff_nb.live.controls import SETTERS, Controls
from live2diff_nb.live.models import FunctionModel, PipelineModel
from live2diff_nb.live.desk import Desk, Pages, unbind_replies
from live2diff_nb.live.feed import Feed, Film, Recorder
from live2diff_nb.live.quality import AdaptiveQuality, ladder
from live2diff_nb.live.stage import Stage, stage_status
from live2diff_nb.live.view import Watch
from live2diff_nb.live.widget import LiveTranslator
from live2diff_nb.live.settings import SETTINGS
from live2diff_nb.live.wire import KINDS, Mailbox, encode_frame, pack, unpack
from live2diff_nb.live.worker import DROPS, FunctionTranslator, StreamTranslator, Ticket, Worker
from live2diff_nb.video.sources import open_source
from live_hand import FRAME, Browser, make, negative, wait_for  # noqa: F401

# ---- credits and order -----------------------------------------------------------------------------------------------
def test_every_frame_is_answered_once(make):
    def slow(frame):
        time.sleep(0.02)
        return frame
    page = Browser(make(slow))
    for id in range(40):
        page.frame(id)
        time.sleep(0.005)
    wait_for(lambda: len(page.answers()) == 40)
    assert sorted(a["id"] for a in page.answers()) == list(range(40)), "a credit was lost, or returned twice"
    kinds = [a["kind"] for a in page.answers()]
    assert kinds.count("drop") > 5 and kinds.count("result") > 5
    assert {a["why"] for a in page.answers() if a["kind"] == "drop"} == {"replaced"} < set(DROPS)
    shown = [a["of"] for a in page.answers() if a["kind"] == "result"]
    assert shown == sorted(shown)


def test_frames_of_another_page_or_run_are_sent_back(make):
    live = make()
    first, second = Browser(live, "p"), Browser(live, "q")                   # the second takes over
    first.frame(1)
    assert first.after(1) == {"kind": "drop", "run": "r", "id": 1, "why": "not streaming"}
    second.frame(2)
    assert second.after(2)["kind"] == "result"
    second.run = "older"
    second.frame(3)
    assert second.after(3)["why"] == "not streaming"


def test_epoch_grows_with_every_reset(make):
    page = Browser(make())
    page.frame(1)
    before = page.after(1)["epoch"]
    page.say("set", name="seed", value=5)
    page.frame(2)
    assert page.after(2)["epoch"] == before + 1
    page.say("stop")
    page.say("start", run="r")
    page.frame(3)
    assert page.after(3)["epoch"] > before + 1


def test_mailbox_from_many_threads():
    box, replaced, taken = Mailbox(), [], []
    def put(start):
        for n in range(start, start + 500):
            if (old := box.put(n + 1)) is not None: replaced.append(old)
    def take():
        while (item := box.take(0.3)) is not None: taken.append(item)
    taker = threading.Thread(target=take)
    taker.start()
    putters = [threading.Thread(target=put, args=(k * 500,)) for k in range(4)]
    for t in putters:
        t.start()
    for t in putters:
        t.join()
    taker.join()
    assert sorted(replaced + taken) == list(range(1, 2001)), "every item is either taken or handed back"


# ---- the pipeline ----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny")


@pytest.fixture(scope="module")
def clip(): return list(open_source("demo", limit=26))


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_pictures_belong_to_their_frames(pipe, clip, steps):
    pipe.steps = steps
    for order, late in (("pipelined", steps - 1), ("sequential", 0)):
        pipe.order = order
        translator = StreamTranslator(pipe)
        shown = [translator.feed(frame, n) for n, frame in enumerate(clip)]
        expected = list(pipe.stream(clip))
        pictures = [s for s in shown if s.picture is not None]
        assert len(pictures) >= 15 and all(np.array_equal(s.picture, expected[s.tag]) for s in pictures)
        assert [n - s.tag for n, s in enumerate(shown) if s.picture is not None][1:] == [late] * (len(pictures) - 1)
        assert shown[0].note == "warming up 1 of 8"
    pipe.steps, pipe.order = 2, None


def test_changes_in_mid_stream_keep_the_order(pipe, clip):
    translator, tags = StreamTranslator(pipe), []
    for n, frame in enumerate(clip):
        if n == 12: pipe.style = "etching"
        if n == 15: pipe.steps = 3
        if n == 20: pipe.strength = 0.6
        tags.append(translator.feed(frame, n).tag)
    pipe.steps, pipe.strength = 2, 0.3
    seen = [tag for tag in tags if tag is not None]
    assert seen == sorted(set(seen)) and seen[-1] >= 22
    assert all(tag <= n for n, tag in enumerate(tags) if tag is not None)


def test_pictures_older_than_a_change_are_not_sent(pipe, make):
    pipe.order = "pipelined"                                                 # so that frames are in flight
    live = make(pipe, "demo", adaptive=False, tape=400)
    live.start()
    wait_for(lambda: len(live.tape) > 12)                                    # past the warmup
    before, fed = live.worker.epoch, live.tape[-1].id
    pipe.prompt = "a fox"
    wait_for(lambda: live.worker.epoch == before + 1)
    wait_for(lambda: live.tape[-1].picture is not None and live.tape[-1].of > fed + 3)
    live.stop()
    tape = list(live.tape)
    silent = next(n for n, x in enumerate(tape) if x.id > fed and x.picture is None)    # warms up anew
    assert all(x.of >= tape[silent].id for x in tape[silent:] if x.picture is not None)
    pipe.prompt, pipe.order = "", None


def test_settings_from_the_page_and_from_a_cell(pipe, make):
    live = make(pipe, "synthetic", adaptive=False)
    live.start()
    wait_for(lambda: live.latest is not None)
    def say(name, value): live.desk.receive({"kind": "set", "page": "p", "name": name, "value": value})
    for name, value in (("steps", 3), ("strength", 0.5), ("style", "cartoon"), ("prompt", "a fox")):
        say(name, value)
    wait_for(lambda: live.controls.applied.steps == 3)
    assert (pipe.strength, pipe.style, pipe.prompt) == (0.5, "cartoon", "a fox")
    pipe.steps = 1
    wait_for(lambda: live.controls.applied.steps == 1 and live.status()["settings"]["steps"] == 1)
    refused = live.desk.refused
    wrong = [("steps", 40), ("style", "cubism"), ("size", 100), ("strength", "0.5"), ("seed", -1), ("pipe", 3)]
    for name, value in wrong:
        say(name, value)
    assert live.desk.refused == refused + 6 and live.running and live.worker.failures == 0
    say("size", 128)
    wait_for(lambda: live.latest.shape == (128, 128, 3))
    live.stop()
    pipe.height = pipe.width = 256
    pipe.steps, pipe.strength, pipe.prompt = 2, 0.3, ""


# ---- adaptive quality ------------------------------------------------------------------------------------------------
def drive(costs, seconds=900, noise=0.0, **options):
    control, now, levels, rng = AdaptiveQuality(range(len(costs(0))), **options), 0.0, [], np.random.default_rng(0)
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
    control = AdaptiveQuality(range(3))
    for n in range(200):
        assert control.update(n * 0.5, 0.03) == 0                            # two frames a second; the work is quick


def test_adaptive_steps_back_up():
    levels = drive(lambda t: np.array((0.06, 0.04, 0.03)) * (3 if 100 < t < 200 else 1))
    assert max(level for t, level in levels if 100 < t < 200) >= 1 and levels[-1][1] == 0


def test_ladder_keeps_to_sizes_the_model_takes():
    for rung in ladder(3, 512, 64):
        assert rung.size % 64 == 0
    assert [r.steps for r in ladder(3, 512, 64)][:3] == [3, 2, 1]


# ---- faults ----------------------------------------------------------------------------------------------------------
def test_a_failing_model_stops_with_its_error(make):
    def broken(frame): raise RuntimeError("out of order")
    page = Browser(make(broken))
    for id in range(3):
        page.frame(id)
        page.after(id)
    wait_for(lambda: not page.live.running)
    assert "out of order" in page.live.status()["error"] and not page.live.worker.thread.is_alive()
    assert page.live.worker.counts["failed"] == 3


def test_a_reset_stream_after_a_failure(make, pipe, clip):
    live = make(pipe, "demo", adaptive=False)
    live.start()
    wait_for(lambda: live.latest is not None)
    real, pipe.models.encode = pipe.models.encode, lambda *_: 1 / 0
    wait_for(lambda: live.worker.counts["failed"])
    pipe.models.encode = real
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


def test_every_kind_and_every_setting_has_a_function(make):
    live = make()
    assert set(live.desk.handlers) == set(KINDS) and all(map(callable, live.desk.handlers.values()))
    assert set(SETTERS) == set(SETTINGS) and all(map(callable, SETTERS.values()))


@pytest.mark.parametrize("seed", range(3))
def test_random_messages_never_raise(make, seed):
    live, rng = make(), np.random.default_rng(seed)
    values = [None, True, -1, 0, 1e308, float("nan"), "x" * 5000, [], {}, "steps", "size", [[]], {"a": {}}]
    for _ in range(300):
        kind = rng.choice([*KINDS, "bad", ""])
        fields = KINDS.get(str(kind), {"page": 0})
        content = {"kind": str(kind), **{name: values[rng.integers(len(values))] for name in fields}}
        if kind in ("start", "record", "stop", "bye"): continue
        live.desk.receive(content, [b"x"] * int(rng.integers(0, 3)))
    assert live.desk.refused > 100 and not live.running


def test_closing_gives_everything_back(make):
    class Heavy:
        def __init__(self): self.block = np.zeros(1_000_000, np.uint8)
        def __call__(self, frame): return frame
    model = Heavy()
    gone = weakref.ref(model)
    live = make(model, "synthetic", size=64, socket=True, tape=5)
    live.start()
    wait_for(lambda: live.latest is not None)
    threads = [t for t in threading.enumerate() if t.name.startswith("live-")]
    assert len(threads) == 4                                                 # worker, feeder, reporter, socket
    live.close()
    wait_for(lambda: not any(t.is_alive() for t in threads))
    live.controls.model.function = model = None                              # all that holds it now
    gc.collect()
    assert gone() is None and live.latest is None


def test_a_page_that_vanishes_stops_the_stream(make):
    page = Browser(make())
    page.live.stage.asked_at -= 60
    wait_for(lambda: not page.live.running)
    assert "page" in page.live.error


WRONG = [dict(pipe="a model"), dict(pipe=negative, size=100), dict(pipe=negative, source=ipywidgets.Button())]


@pytest.mark.parametrize("wrong", WRONG)
def test_a_widget_that_cannot_be_built_ends_in_one_error(wrong, monkeypatch):
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises((TypeError, ValueError)):
        LiveTranslator(**wrong)
    gc.collect()
    assert ignored == []


@pytest.mark.parametrize("lacking, remedy", [("PATH", "install Chromium"), ("playwright", "pip install playwright")])
def test_bench_without_a_browser_says_so_in_one_sentence(monkeypatch, capsys, lacking, remedy):
    if lacking == "PATH":
        monkeypatch.setenv("PATH", "")
    else:
        monkeypatch.setattr("live2diff_nb.live.bench.find_chromium", lambda: "chromium")
        monkeypatch.setitem(sys.modules, "playwright.sync_api", None)
    assert cli.main(["bench", "live", "trivial"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith("live2diff-nb: error: the live bench") and remedy in said[-1] and len(said) == 2


def test_source_that_cannot_be_opened(make):
    live = make(negative, "no_such_film.mp4")
    with pytest.raises(FileNotFoundError, match="no_such_film"):
        live.start()
    assert not live.running
    Browser(live)                                                            # pressing Start in the page says it there
    assert "no_such_film" in live.status()["error"]


def test_the_private_method_of_ipykernel_is_still_there():
    import ipykernel
    from ipykernel.comm.comm import Comm
    if int(ipykernel.__version__.split(".")[0]) < 7: pytest.skip("no subshells in this ipykernel")
    comm = Comm(target_name="test", primary=False)
    assert unbind_replies(comm) and comm._reply_subshell_for({}, "default") == "default"


# ---- each part alone, without a widget -----------------------------------------------------------------------------
def test_a_desk_alone():
    asked, said = [], []
    desk = Desk({"bye": lambda page: asked.append(page), "set": lambda page, name, value: asked.append((name, value))},
                lambda content, buffers: said.append(content))
    desk.receive({"kind": "bye", "page": "p"})
    desk.receive({"kind": "set", "page": "p", "name": "steps", "value": 2})
    desk.receive({"kind": "stop", "page": "p"})                              # nobody answers it
    desk.receive({"kind": "set", "page": "p", "name": "steps", "value": 0})
    assert asked == ["p", ("steps", 2)] and desk.refused == 2 and "steps" in desk.complaint
    desk.pages.tell_all({"kind": "status"})
    assert said == [{"kind": "status"}] and desk.socket is None and desk.url == ""


def test_a_desk_remembers_the_way_to_a_page():
    sent = []
    class Socket:
        def send(self, line, data): sent.append(line)
    pages = Pages(lambda content, buffers: sent.append("channel"), Socket())
    pages.saw("p", "line 1")
    pages.saw("q", "line 2")
    pages.saw("r")
    pages.tell("p", {})
    pages.tell_all({}, [b"x"], ["q", "r"])
    assert sent == ["line 1", "line 2", "channel"]
    pages.forget("r")
    sent.clear()
    pages.tell_all({})
    assert sent == ["line 1", "line 2"]


def test_a_feed_alone():
    frames, over, enough = [], [], threading.Event()
    def give(number, frame):
        frames.append((number, int(frame[0, 0, 0])))
        if number == 3: enough.set()
    feed = Feed(np.stack([FRAME * 0, FRAME * 0 + 1]))
    feed.start(give)
    assert enough.wait(20) and feed.takes == "" and feed.media is None
    feed.end().stop()
    assert frames[:4] == [(0, 0), (1, 1), (2, 0), (3, 1)] and feed.feeder is None
    feed = Feed(FRAME for _ in range(2))
    feed.start(give, over.append)
    wait_for(lambda: over)
    assert over == [None]


def test_a_recorder_alone(tmp_path):
    recorder = Recorder(tmp_path)
    recorder.add(FRAME)
    recorder.start()
    recorder.add(FRAME)
    film = recorder.running
    recorder.start()                                                         # pressed twice: one film
    assert recorder.running is film and film.pictures == 1
    assert recorder.stop() == recorder.film and len(list(open_source(recorder.film))) == 1
    assert recorder.stop() is None and list(tmp_path.iterdir()) == [recorder.film]


def test_controls_alone(pipe):
    controls = Controls(PipelineModel(pipe), seed=3, adaptive=False)
    worker = Worker(lambda: controls.model.translator(controls.seed), controls.frame_size, None)
    assert controls.apply(worker) is None and worker.epoch == 0
    controls.set("size", 128)
    controls.set("seed", 4)
    assert pipe.height == 256 and controls.frame_size() == (256, 256)        # nothing changes within a frame
    controls.apply(worker)
    assert controls.frame_size() == (128, 128) and worker.epoch == 1 and controls.seed == 4
    assert controls.status()["size"] == [128, 128] and controls.words() == "pinned: 2 steps, 128 px"
    controls.set("size", 256)
    controls.quality.level = 2                                               # the machine is too slow: the third rung
    controls.apply(worker)
    assert (pipe.height, pipe.steps) == (256, 1) and controls.wanted.steps == 2 and controls.applied.similar == 0.98
    controls.quality.reset()
    controls.apply(worker)
    assert pipe.steps == 2


def test_a_watched_frame_is_the_same_frame(pipe, clip):
    plain, watched = StreamTranslator(pipe), StreamTranslator(pipe)
    for n, frame in enumerate(clip[:11]):
        expected, shown = plain.feed(frame, n), watched.feed(frame, n, Watch(1, 5))
    assert np.abs(shown.picture.astype(int) - expected.picture).mean() < 1.5 and expected.seen is None
    assert shown.seen["layer"] == 1 and shown.seen["location"] == 5 and shown.seen["rows"][0]["frame"] == 2
    assert watched.session.engine.runner is plain.session.engine.runner
    assert not any(layer._forward_pre_hooks for layer in pipe.unet.temporal_layers)


def test_a_stage_alone(tmp_path):
    said = []
    pages = Pages(lambda content, buffers: said.append(content))
    stage = Stage(Controls(FunctionModel(negative, 64)), Feed("webcam"), pages, Recorder(tmp_path), tape=3)
    stage.take(Ticket("p", "r", 0, 0.0, encode_frame(FRAME)))
    stage.start("p", "r")
    stage.take(Ticket("q", "r", 1, 0.0, encode_frame(FRAME)))
    stage.take(Ticket("p", "r", 2, 0.0, encode_frame(FRAME)))
    wait_for(lambda: len(said) == 3)
    assert [content.get("why") for content in said] == ["not streaming", "not streaming", None] and said[2]["of"] == 2
    assert np.array_equal(stage.latest, 255 - stage.tape[-1].frame) and stage_status(stage)["counts"] == {"answered": 1}
    stage.close()
    assert stage.worker is None and stage.feed.media is None and not stage.running


def test_a_worker_drops_what_it_cannot_take():
    lost, held, busy = [], threading.Event(), threading.Event()
    def slow(frame):
        busy.set()
        held.wait(20)
        return frame
    worker = Worker(lambda: FunctionTranslator(slow), lambda: (64, 64), lambda ticket, shown, jpeg: None,
                    lambda ticket, why: lost.append((ticket.id, why)))
    worker.thread.start()
    worker.put(Ticket("p", "r", 0, 0.0, FRAME))
    assert busy.wait(20)
    for n in range(1, 5):
        worker.put(Ticket("p", "r", n, 0.0, FRAME))
    assert lost == [(1, "replaced"), (2, "replaced"), (3, "replaced")]       # of four that came the newest waits
    held.set()
    wait_for(lambda: worker.counts["answered"] == 2)
    worker.stop()
    assert worker.counts["replaced"] == 3 and not worker.thread.is_alive()


# ---- the socket ------------------------------------------------------------------------------------------------------
def visit(url, data, origin="http://localhost:8888", answers=1):
    async def talk():
        try:
            line = await websocket_connect(HTTPRequest(url, headers={"Origin": origin}))
        except HTTPClientError as error:
            return error.code
        await line.write_message(data, binary=isinstance(data, bytes))
        got = []
        while len(got) < answers and (message := await asyncio.wait_for(line.read_message(), 10)) is not None:
            got.append(unpack(message))
        line.close()
        return got
    return ThreadPoolExecutor(1).submit(asyncio.run, talk()).result(30)


def test_socket_lets_in_only_the_own_page(make):
    live = make(socket=True)
    assert ("127.0.0.1", live.desk.socket.port) in [s.getsockname() for s in live.desk.socket.http._sockets.values()]
    hello = pack({"kind": "hello", "page": "p"})
    assert visit(live.desk.socket.url, hello)[0][0]["kind"] == "status"
    assert visit(live.desk.socket.url.split("?")[0], hello) == 403
    assert visit(live.desk.socket.url, hello, origin="http://evil.example") == 403


def test_socket_survives_garbage(make):
    live = make(socket=True)
    for data in (b"", b"\xff" * 99, "text", pack({"kind": "explode"})):
        visit(live.desk.socket.url, data, answers=0)
    wait_for(lambda: live.desk.refused == 4)
    assert visit(live.desk.socket.url, pack({"kind": "hello", "page": "p"}))[0][0]["kind"] == "status"


def test_the_pipeline_has_its_quality_back_after_a_stream(pipe, tmp_path):
    stage = Stage(Controls(PipelineModel(pipe, 128)), Feed("webcam"), Pages(lambda *_: None), Recorder(tmp_path))
    stage.start("p", "r")
    stage.controls.quality.level = 2                                          # the machine is too slow
    stage.take(Ticket("p", "r", 0, 0.0, encode_frame(FRAME)))
    wait_for(lambda: stage.controls.applied.similar)
    assert (pipe.steps, stage.controls.saved()["size"]) == (1, [128, 128])
    stage.stop()
    assert (pipe.steps, pipe.height, pipe.width) == (2, 128, 128)
    pipe.height = pipe.width = 256


def test_settings_of_a_file_are_set_all_or_none(pipe):
    controls, before = Controls(PipelineModel(pipe)), pipe.strength
    with pytest.raises(ValueError, match="no such"): controls.load(dict(strength=0.9, seed=5, style="no such"))
    with pytest.raises(ValueError, match="multiples"): controls.load(dict(strength=0.9, size=[100, 101]))
    assert pipe.strength == before and controls.seed == 0


def test_a_pause_is_shortened_once_in_a_recording(tmp_path):
    film = Film(tmp_path / "film.mp4")
    for k, now in enumerate((0, 60, 60.5, 61, 61.5)): film.add(np.full((64, 64, 3), 40 * k, np.uint8), now)
    shown = [round(frame.mean() / 40) for frame in open_source(film.close(62))]
    assert [shown.count(k) for k in range(5)] == [250, 12, 13, 12, 13]


def test_a_soft_change_is_soft_for_one_frame(pipe, clip):
    pipe.style = "etching"
    stream = StreamTranslator(pipe, on_cut="keep")
    for n, frame in enumerate(clip[:9]): stream.feed(frame, n)
    stream.soften()
    pipe.strength = pipe.strength                                             # nothing changes
    stream.feed(clip[9], 9)
    engine, pipe.style = stream.session.engine, "cartoon"
    stream.feed(clip[10], 10)
    assert stream.session.engine.past is not engine.past
    pipe.style = next(iter(pipe.styles))
