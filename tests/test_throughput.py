"""Two new frames a call, and several streams in a call, against one frame and one stream a call."""
import warnings

import numpy as np
import pytest
import torch

from helpers import moving_clip, random_latents, relative, toy_unet
from live2diff_nb.cli import make_parser
from live2diff_nb.engine.stream import StreamDenoiser
from live2diff_nb.engine.throughput import StreamBatch
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.weights.captured import CudaGraphs
from live2diff_nb.weights.runners import Runner

STEPS = {1: [399], 2: [399, 159], 3: [499, 299, 99]}


def results(engine, latents, depth, text, method="step", change=None):
    "All results of a clip, frame by frame; `change(engine, n)` is called before frame `n`."
    w = engine.warmup
    out = [engine.warm_up(latents[:w], depth[:w], text)]
    for n in range(w, len(latents)):
        if change: out += change(engine, n) or []
        out.append(getattr(engine, method)(latents[n : n + 1], depth[n : n + 1]))
    return torch.cat([x for x in (*out, *engine.drain()) if x is not None])


def engines(unet, steps, window, warmup, frames=2, **settings):
    return [StreamDenoiser(unet, STEPS[steps], window, warmup, frames_per_step=f, **settings) for f in (1, frames)]


# ---- two frames a call = one after the other -----------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("window, warmup, frames, method", [(6, 3, 2, "step"), (5, 3, 2, "step_sequential"),
                                                            (6, 0, 3, "step")])
def test_several_frames_a_call_are_one_after_the_other(steps, window, warmup, frames, method):
    "While the ring fills and long after; the last call is not full."
    unet, ring = toy_unet(), window - warmup
    clip = random_latents(warmup + 3 * ring + frames + 1)
    one, two = (results(engine, *clip, method) for engine in engines(unet, steps, window, warmup, frames))
    assert len(two) == len(clip[0]) and max(relative(a, b) for a, b in zip(two, one)) <= 1e-5


@pytest.mark.parametrize("settings", [dict(slide=True), dict(fixed_noise=True), dict(use_depth=False)], ids=str)
def test_the_other_settings_hold(settings):
    unet, clip = toy_unet(), random_latents(21)
    one, two = (results(engine, *clip) for engine in engines(unet, 2, 6, 3, **settings))
    assert max(relative(a, b) for a, b in zip(two, one)) <= 1e-5


@pytest.mark.parametrize("steps, at", [(1, 8), (2, 7), (3, 8)])
def test_a_stream_that_is_drained_on_the_way_goes_on(steps, at):
    "After an odd number of frames too: what filled the call is seen by nobody."
    unet, clip = toy_unet(), random_latents(16)
    def drain(engine, n): return engine.drain() if n == at else []
    one, two = (results(engine, *clip, change=drain) for engine in engines(unet, steps, 6, 3))
    assert len(two) == 16 and max(relative(a, b) for a, b in zip(two, one)) <= 1e-5


@pytest.mark.parametrize("at", [8, 9])
def test_a_prompt_that_changes_between_calls(at):
    "What is in flight is finished first, as a pipeline does; then the cache is kept, or warmed up again."
    unet, clip, other = toy_unet(), random_latents(20), torch.randn(1, 5, 16)
    def soft(engine, n):
        if n != at: return []
        out = engine.drain()
        engine.text = other
        return out
    def cut(engine, n):
        if n != at: return []
        out = engine.drain()
        engine.warm_up(clip[0][n - 3 : n], clip[1][n - 3 : n], other)
        return out
    for change in (soft, cut):
        one, two = (results(engine, *clip, change=change) for engine in engines(unet, 2, 6, 3))
        assert len(two) == 20 and max(relative(a, b) for a, b in zip(two, one)) <= 1e-5
    assert relative(one[at:], results(engines(unet, 2, 6, 3)[0], *clip)[at:]) > 1e-3


def test_the_first_does_not_see_the_second():
    unet, clip = toy_unet(), random_latents(15)
    before = results(engines(unet, 2, 6, 3)[1], *clip)
    other = [x.index_fill(0, torch.tensor(10), 3.0) for x in clip[:2]]                     # the second of a call
    after = results(engines(unet, 2, 6, 3)[1], *other, clip[2])
    assert relative(after[:10], before[:10]) <= 1e-6 and relative(after[11], before[11]) > 1e-4


def test_recorded_noise_is_taken():
    "What leaves a row now is named by the call that moves it, for both of its frames."
    unet, (latents, depth, text) = toy_unet(), random_latents(11)
    g, got = torch.Generator().manual_seed(3), []
    own = torch.randn(8, 2, 1, 4, 8, 8, generator=g)                                       # frame, row
    for engine in engines(unet, 2, 6, 3):
        engine.warm_up(latents[:3], depth[:3], text)
        noise = [dict(encode=encode, inject=inject[None]) for encode, inject in own]
        got.append([engine.step(latents[n + 3 : n + 4], depth[n + 3 : n + 4], noise[n]) for n in range(8)])
    a, b = (torch.cat([x for x in out if x is not None]) for out in got)
    assert len(a) == 7 and len(b) == 6 and relative(a[:6], b) <= 1e-5


def test_when_results_come():
    engine, (latents, depth, text) = engines(toy_unet(), 3, 6, 3)[1], random_latents(13)
    engine.warm_up(latents[:3], depth[:3], text)
    out = [engine.step(latents[n : n + 1], depth[n : n + 1]) for n in range(3, 13)]
    assert [None if x is None else len(x) for x in out] == [None] * 5 + [2, None, 2, None, 2]
    assert [len(x) for x in engine.drain()] == [1] * 4 and engine.drain() == []


@pytest.mark.parametrize("frames", [0, 4, 1.5, "2"])
def test_more_frames_than_the_ring_holds(frames):
    with pytest.raises(ValueError, match="frames_per_step must be a whole number from 1 to 3"):
        StreamDenoiser(toy_unet(), [399], 6, 3, frames_per_step=frames)


# ---- several streams in a call = each alone ------------------------------------------------------------------------
TIMES = {0: range(0, 26), 1: range(4, 26), 2: range(0, 15), 3: range(9, 20)}              # which stream is there when
AGAIN = {(1, 13), (0, 20)}                                                                # warmed up anew, alone


def fleet(unet, waits, runner=None, **settings):
    "An engine for each stream: own steps, seed, frames a call."
    own = {0: {}, 1: dict(frames_per_step=2), 2: dict(fixed_noise=True), 3: dict(slide=True)}
    return [StreamDenoiser(unet, STEPS[stream % 3 + 1], 6, 3, seed=stream, waits=waits, runner=runner, **own[stream])
            for stream in TIMES]


def play(engines, step):
    "Streams that join, leave, drain and warm up at their times; the results of each."
    clips, out = [random_latents(40, seed=20 + stream) for stream in TIMES], {stream: [] for stream in TIMES}
    for now in range(26):
        here = [stream for stream, when in TIMES.items() if now in when]
        for stream in here:
            engine, (latents, depth, text) = engines[stream], clips[stream]
            if now == TIMES[stream][0] or (stream, now) in AGAIN:
                out[stream] += engine.drain()
                out[stream].append(engine.warm_up(latents[now : now + 3], depth[now : now + 3], text))
            if (stream, now) == (2, 7): engine.text = clips[0][2]                        # a new prompt, nothing else
            if (stream, now) == (0, 9): out[0] += engine.drain()
        for stream, x0 in zip(here, step([engines[s] for s in here], [[x[now + 3][None] for x in clips[s][:2]]
                                                                     for s in here])):
            out[stream].append(x0)
    for stream, engine in enumerate(engines): out[stream] += engine.drain()
    return [torch.cat([x for x in out[stream] if x is not None]) for stream in TIMES]


def one_by_one(engines, frames):
    return [engine.step(*frame) for engine, frame in zip(engines, frames)]


def in_batches():
    batch = StreamBatch()
    def step(engines, frames):
        assert one_by_one(engines, frames) == [None] * len(engines)
        return batch.step(engines)
    return step


@pytest.mark.parametrize("kind", [None, CudaGraphs], ids=str)
def test_streams_of_a_batch_are_as_alone(kind):
    unet = toy_unet()
    runner = kind and kind(unet)
    alone = play(fleet(unet, waits=False), one_by_one)
    together = play(fleet(unet, waits=True, runner=runner), in_batches())
    for a, b in zip(together, alone):
        assert len(a) == len(b) and max(relative(x, y) for x, y in zip(a, b)) <= 1e-5
    assert not isinstance(runner, CudaGraphs) or runner.step.recordings


def test_a_batch_that_stays_is_recorded_once():
    unet, batch = toy_unet(), StreamBatch()
    runner, (latents, depth, text) = CudaGraphs(unet), random_latents(24)
    engines = [StreamDenoiser(unet, STEPS[2], 6, 3, seed=s, waits=True, runner=runner) for s in range(3)]
    for engine in engines: engine.warm_up(latents[:3], depth[:3], text.clone())
    for n in range(3, 24):
        one_by_one(engines, [(latents[n][None], depth[n][None])] * 3)
        batch.step(engines)
        if n == 8: prompts = runner.step.recordings and list(runner.step.recordings.values())[-1].given[0]
    assert len(runner.step.recordings) == 1                                                # while it fills: none
    assert list(runner.step.recordings.values())[0].given[0] is prompts                    # copied once


def test_a_call_is_one_call_and_a_graph_of_one_frame_gets_one_after_the_other():
    unet, calls, clip = toy_unet(), [], random_latents(6)
    class Counted(Runner):
        def __call__(self, latents, *args):
            calls.append(len(latents))
            return super().__call__(latents, *args)
    class Single(Counted): together = False
    for kind, expected in ((Counted, [4]), (Single, [2, 2])):
        engines = [StreamDenoiser(unet, STEPS[1], 6, 3, waits=True, frames_per_step=2, runner=kind(unet)) for _ in "ab"]
        for engine in engines: engine.warm_up(clip[0][:3], clip[1][:3], clip[2])
        assert engines[0].frames_per_step == (2 if kind is Counted else 1)
        calls.clear()
        for n in (3, 4):
            one_by_one(engines, [(clip[0][n][None], clip[1][n][None])] * 2)
            StreamBatch().step(engines)
        assert calls == (expected if kind is Counted else [1] * 4)


def test_a_second_frame_before_the_batch_has_run():
    "The first then goes alone, and nothing is lost."
    unet, clip = toy_unet(), random_latents(9)
    expected = results(StreamDenoiser(unet, STEPS[2], 6, 3), *clip)
    assert torch.equal(results(StreamDenoiser(unet, STEPS[2], 6, 3, waits=True), *clip), expected)


def test_what_cannot_be_a_batch():
    engines = [StreamDenoiser(toy_unet(), [399], 6, 3, waits=True) for _ in range(2)]
    clip = random_latents(4)
    for engine in engines:
        engine.warm_up(clip[0][:3], clip[1][:3], clip[2])
        engine.step(clip[0][3:], clip[1][3:])
    with pytest.raises(ValueError, match="one UNet and one size"): StreamBatch().step(engines)
    assert StreamBatch().step([]) == [] and StreamBatch().step([StreamDenoiser(toy_unet(), [399], 6, 3)]) == [None]


# ---- through the pipeline ------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny", "cpu", graphs=False, height=64, width=64, style="etching")


def changing(pipe, clip):
    "The clip; the style changes on the way, after an odd number of frames."
    for n, frame in enumerate(clip):
        if n == 13: pipe.style = "cartoon"
        yield frame
    pipe.style = "etching"


@pytest.mark.parametrize("change", ["cut", "soft"])
def test_two_frames_a_call_through_the_pipeline(pipe, change):
    "A scene cut and a change of style, each after an odd number of frames, an odd end, and a frame that is bad."
    clip = [*moving_clip(10), None, *moving_clip(10)[4:], *(255 - frame for frame in moving_clip(10))]
    with warnings.catch_warnings(action="ignore"):
        one, two = (np.float32(list(pipe.stream(changing(pipe, clip), change=change, frames_per_step=f)))
                    for f in (1, 2))
    assert len(one) == len(two) == len(clip) and np.abs(one - two).max() <= 1
    assert np.abs(one[12] - one[15]).mean() > 1


def test_frames_per_step_of_a_pipeline(pipe):
    with pytest.raises(ValueError, match="frames_per_step must be a whole number from 1 to 8"):
        pipe.stream(moving_clip(1), frames_per_step=9)
    with pytest.raises(ValueError, match="from 1 to 8"): Live2Diff.from_pretrained("tiny", "cpu", frames_per_step=0)
    args = make_parser().parse_args(["translate", "a.mp4", "b.mp4", "--frames-per-step", "2"])
    assert args.frames_per_step == 2


@pytest.mark.parametrize("graphs", [False, True])
def test_streams_of_a_pipeline(graphs, pipe):
    "Fed together they are what `stream` gives each; the CPU graphs serve them one after the other, bit-identically."
    pipe = pipe if not graphs else Live2Diff.from_pretrained("tiny", "cpu", style="etching")
    clips = [moving_clip(12, pipe.height, pipe.width), moving_clip(15, pipe.height, pipe.width)[3:]]
    wishes = [dict(prompt="starry night"), dict(style="cartoon", strength=0.3)]
    streams = pipe.streams()
    both = [streams.open(wish, seed=k) for k, wish in enumerate(wishes)]
    out = [[], []]
    for pair in zip(*clips):
        found = streams.step(dict(zip(both, pair)))
        for kept, stream in zip(out, both): kept += found[stream]
    for k, wish in enumerate(wishes):
        together = np.float32(out[k] + streams.close(both[k]))
        alone = np.float32(list(pipe.stream(clips[k], seed=k, **wish)))
        assert together.shape == alone.shape and np.abs(together - alone).max() <= (0 if graphs else 1)


def test_frames_per_step_costs_nothing_in_sequential_order(pipe):
    rows, call = [], Runner.__call__
    def counted(runner, latents, *rest):
        rows.append(len(latents))
        return call(runner, latents, *rest)
    def run(frames):
        rows.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Runner, "__call__", counted)
            pipe.order = "sequential"
            try: return np.float32(list(pipe.stream(moving_clip(24), frames_per_step=frames))), sum(rows)
            finally: pipe.order = None
    (one, work), (four, more) = run(1), run(4)
    assert work == more and np.abs(one - four).max() <= 1
