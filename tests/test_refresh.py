"Warm slots that are exchanged in a long scene, and a cache that is rebuilt when a setting changes."
import numpy as np
import pytest
import torch

from helpers import moving_clip, random_latents, relative, toy_unet
from live2diff_nb.engine.kvcache import KVCache, LayerShape
from live2diff_nb.engine.refresh import Refresher
from live2diff_nb.engine.stream import StreamDenoiser
from live2diff_nb.judge.long import Road
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.pipeline.session import Session

STEPS = {1: [399], 2: [399, 159], 3: [499, 299, 99], 4: [499, 379, 259, 139]}


def drifting(frames, turn=0.1):
    "Latents, depth and text of a scene that slowly becomes another one, and another: a circle through two pictures."
    (a, b), (c, d), text = random_latents(2)
    angle = turn * torch.arange(frames)[:, None, None, None]
    return 3 * (angle.cos() * a + angle.sin() * b), angle.cos() * c + angle.sin() * d, text


def engine_of(steps, refresh="auto", window=8, warmup=4, **more):
    return StreamDenoiser(toy_unet(), STEPS[steps], window, warmup, fixed_noise=True, refresh=refresh, **more)


def stream(engine, latents, depth, text, method="step"):
    "All results, `(frames, 4, h, w)`."
    w = engine.warmup
    out = [engine.warm_up(latents[:w], depth[:w], text)]
    out += [getattr(engine, method)(latents[n : n + 1], depth[n : n + 1]) for n in range(w, len(latents))]
    return torch.cat([x for x in (*out, *engine.drain()) if x is not None])


# ---- the engine ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 3])
def test_pipelined_is_sequential_through_an_exchange(steps):
    "Each row moves the frames it holds itself: nothing depends on the order of the work."
    clip = drifting(42)
    engines = engine_of(steps), engine_of(steps)
    a, b = (stream(engine, *clip, method) for engine, method in zip(engines, ("step", "step_sequential")))
    told = [np.array(engine.refresher.log) for engine in engines]
    assert (told[0][:, 1] < 0.9 * told[0][:, 2]).sum() >= 2 and told[0] == pytest.approx(told[1], rel=1e-3)
    assert all(relative(x, y) < 1e-5 for x, y in zip(a, b))
    plain = stream(engine_of(steps, "off"), *clip)
    first = next(n for n in range(len(a)) if relative(a[n], plain[n]) > 1e-4)
    assert engines[0].warmup + engines[0].refresher.every <= first < 40


def test_after_an_exchange_the_window_holds_the_latest_frames_in_order():
    "Whatever the sizes of ring and warmup; seen by what a stream kept in a plain list has stored."
    for window, warmup in ((8, 4), (9, 3), (7, 5), (16, 8)):
        engine, (latents, depth, text) = engine_of(2, window=window, warmup=warmup), drifting(80)
        engine.warm_up(latents[:warmup], depth[:warmup], text)
        kept, ring, done = [{}, {}], window - warmup, False
        for n in range(warmup, 80):
            engine.step(latents[n : n + 1], depth[n : n + 1])
            for row in (0, 1):
                number = engine.streamed - 1 - row
                if number >= 0: kept[row][number] = engine.cache.layers[0][:, row, :, :, warmup + number % ring].clone()
            began = engine.refresher.began
            done = began is not None and engine.streamed - 1 == began + warmup
            if done: break
        assert done
        for row in (0, 1):
            for slot in range(warmup):
                held = engine.cache.layers[0][:, row, :, :, slot]
                assert torch.equal(held, kept[row][began + slot - ring])


@pytest.mark.parametrize("together", [1, 2, 3, 5])
def test_several_frames_a_call(together):
    "The bookkeeping alone: what is written are the frames' numbers, and nothing resembles the warm slots."
    refresher, cache, ring = Refresher(13, 5), KVCache(2, [LayerShape(1, 2, 1)], 13), 8
    layer = cache.layers[0]
    layer[..., :5, 1] = 1                                                  # across the numbers, which go into the other
    for number in range(0, 60, together):
        rows = [(row, number - row * together) for row in (0, 1) if number >= row * together]
        refresher(cache, rows, together)
        for row, first in rows:
            for one in range(first, first + together):
                layer[:, row, 0, 0, 5 + one % ring] = torch.tensor([one + 1.0, 0])
        began = refresher.began
        if began is not None and rows[1][1] >= began + 5: break
    assert refresher.held == [began - ring + slot for slot in range(5)] and began >= 16
    assert (layer[..., :5, 0] == torch.tensor(refresher.held) + 1).all()


def test_what_stays_the_same_is_not_exchanged():
    latents, depth, text = random_latents(1)
    still = latents.expand(60, -1, -1, -1), depth.expand(60, -1, -1, -1), text
    engines = [engine_of(2, kind) for kind in ("auto", "off")]
    a, b = (stream(engine, *still) for engine in engines)
    assert torch.equal(a, b) and engines[0].refresher.began is None and engines[1].refresher is None
    assert engine_of(2, slide=True).refresher is None and engine_of(2, warmup=0).refresher is None
    with pytest.raises(ValueError, match="refresh must be one of off, auto, got 'always'"): engine_of(2, "always")


def test_a_new_warmup_begins_the_watch_anew_and_memory_does_not_grow():
    engine, clip = engine_of(2), drifting(40)
    a = stream(engine, *clip)
    where, told = [layer.data_ptr() for layer in engine.cache.layers], list(engine.refresher.log)
    engine.count = 0
    assert torch.equal(stream(engine, *clip), a) and list(engine.refresher.log) == told
    assert where == [layer.data_ptr() for layer in engine.cache.layers]


# ---- the pipeline --------------------------------------------------------------------------------------------------
A, B, CLIP = "starry night", "etching", moving_clip(40)


@pytest.fixture(scope="module")
def pipe():
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64)
    pipe.prompt, pipe.style, pipe.fixed_noise = A, None, True
    return pipe


def run(pipe, frames, **settings):
    return np.float32(list(pipe.stream(frames, **settings)))


def turning(pipe, frames, changes):
    "The source, which sets `changes[n]`, name and value, just before frame n."
    for n, frame in enumerate(frames):
        for name, value in changes.get(n, {}).items(): setattr(pipe, name, value)
        yield frame


def changed(pipe, change, at, **new):
    "A stream in which a setting changes at a frame; the pipeline is left as it was."
    old = {name: getattr(pipe, name) for name in new}
    try: return run(pipe, turning(pipe, CLIP, {at: new}), change=change, refresh="off")
    finally:
        for name, value in old.items(): setattr(pipe, name, value)


def off(a, b):
    "Mean difference, grey levels."
    return np.abs(a - b).mean()


@pytest.fixture(scope="module")
def always(pipe):
    "Streams that had the setting from the start."
    settings = dict(prompt=B, strength=0.5).items()
    return {name: run(pipe, CLIP, refresh="off", **{name: value}) for name, value in settings}


@pytest.mark.parametrize("name, value", [("prompt", B), ("strength", 0.5)])
def test_a_rebuilt_stream_goes_on_as_one_that_had_the_setting_all_along(pipe, always, name, value):
    "From its first frame on: no step of a forgotten past as with a new warmup, and no old style as in a kept cache."
    out = {change: changed(pipe, change, 30, **{name: value}) for change in ("cut", "soft", "rebuild")}
    assert all(np.array_equal(frames[:29], out["cut"][:29]) for frames in out.values())
    for span in (slice(30, 31), slice(30, 38)):
        gap = {change: off(frames[span], always[name][span]) for change, frames in out.items()}
        assert gap["rebuild"] < 0.3 * gap["soft"] and gap["rebuild"] < 0.15 * gap["cut"], gap


@pytest.mark.parametrize("steps, at", [(1, 9), (3, 12), (2, 3)])
def test_rebuilding_keeps_the_count(pipe, steps, at):
    "Also where fewer frames than a window have come, and while the pipeline holds several."
    pipe.steps = steps
    out = changed(pipe, "rebuild", at, prompt=B, steps=steps % 3 + 1)
    pipe.steps = 2
    assert len(out) == len(CLIP) and np.isfinite(out).all()


def test_only_who_asks_keeps_inputs_and_no_more_than_a_window_of_them(pipe):
    frames = pipe.to_pictures(CLIP).split(1)
    for change in ("cut", "soft", "rebuild"):
        session = Session(pipe, 0, True, change, refresh="auto")
        with torch.inference_mode():
            for picture in frames: session.take(picture)
        assert len(session.recent) == pipe.warmup and (session.kept is not None) == (change == "rebuild")
        session.close()
    assert session.engine.refresher.began is not None                                # else the next line says little
    assert len(session.kept.frames(session.engine)) == pipe.window >= len(session.kept.inputs) - 8
    with pytest.raises(ValueError, match="change must be one of cut, soft, rebuild, got 'fade'"):
        pipe.stream(CLIP, change="fade")


def test_the_settings_of_the_pipeline_hold_for_its_streams(pipe):
    plain = changed(pipe, "rebuild", 30, prompt=B)
    pipe.change = "rebuild"
    assert np.array_equal(changed(pipe, None, 30, prompt=B), plain)
    pipe.change = "cut"
    with pytest.raises(ValueError, match="refresh must be one of off, auto"): pipe.refresh = "sometimes"


def test_on_a_long_way_the_stream_stays_near_a_fresh_one_without_a_jump(pipe):
    "A road without a cut: old warm slots cost something, new ones do not, and no frame changes more than before."
    road = [frame for frame in Road(190, 64, 5)]
    out = {kind: run(pipe, road, style="cartoon", prompt="", refresh=kind) for kind in ("off", "auto")}
    fresh = run(pipe, road[162:], style="cartoon", prompt="")[16:]
    gap = {kind: off(frames[178:], fresh) for kind, frames in out.items()}
    steps = {kind: np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)) for kind, frames in out.items()}
    assert gap["auto"] < 0.7 * gap["off"], gap
    begins = np.flatnonzero(np.abs(out["auto"] - out["off"]).mean((1, 2, 3)) > 0)[0]
    assert begins > 24 and steps["auto"].max() < 1.2 * steps["off"].max()
