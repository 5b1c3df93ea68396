"""Two new frames a call, and several streams in a call, against one frame and one stream a call."""
import pytest
import torch

from helpers import random_latents, relative, toy_unet
from live2diff_nb.engine.stream import StreamDenoiser

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
@pytest.mark.parametrize("window, warmup, frames", [(6, 3, 2), (8, 2, 2), (5, 3, 2), (7, 0, 3), (6, 2, 4)])
@pytest.mark.parametrize("method", ["step", "step_sequential"])
def test_several_frames_a_call_are_one_after_the_other(steps, window, warmup, frames, method):
    "While the ring fills and long after; the last call is not full."
    unet, ring = toy_unet(), window - warmup
    clip = random_latents(warmup + 4 * ring + frames + 1)
    one, two = (results(engine, *clip, method) for engine in engines(unet, steps, window, warmup, frames))
    assert len(two) == len(clip[0]) and max(relative(a, b) for a, b in zip(two, one)) <= 1e-5


@pytest.mark.parametrize("settings", [dict(slide=True), dict(fixed_noise=True), dict(use_depth=False)], ids=str)
def test_the_other_settings_hold(settings):
    unet, clip = toy_unet(), random_latents(21)
    one, two = (results(engine, *clip) for engine in engines(unet, 2, 6, 3, **settings))
    assert max(relative(a, b) for a, b in zip(two, one)) <= 1e-5


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("at", [7, 8])
def test_a_stream_that_is_drained_on_the_way_goes_on(steps, at):
    "After an odd number of frames too: what filled the call is seen by nobody."
    unet, clip = toy_unet(), random_latents(22)
    def drain(engine, n): return engine.drain() if n == at else []
    one, two = (results(engine, *clip, change=drain) for engine in engines(unet, steps, 6, 3))
    assert len(two) == 22 and max(relative(a, b) for a, b in zip(two, one)) <= 1e-5


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
