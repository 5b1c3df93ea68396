"""Pictures in, pictures out: counts, seeds, settings that change while it runs, bad input, and what is reported."""
import warnings

import numpy as np
import pytest
import torch

from helpers import moving_clip
from live2diff_nb.kvcache import KVCache
from live2diff_nb.pipeline import Live2Diff

A, B = "starry night", "etching"
CLIP = moving_clip(50)


@pytest.fixture(scope="module")
def loaded():
    return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64)


@pytest.fixture
def pipe(loaded):
    "The pipeline with its settings as new."
    loaded.prompt, loaded.style, loaded.steps, loaded.strength = A, None, 2, 0.5
    return loaded


def run(pipe, frames, **settings):
    return list(pipe.stream(frames, **settings))


def distance(a, b):
    "Mean difference of pixels, 0..255."
    return np.abs(np.float32(a) - np.float32(b)).mean()


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


def changing(pipe, frames, changes):
    "The source, which sets `changes[n]`, names and values, just before it hands over frame n."
    for n, frame in enumerate(frames):
        for name, value in changes.get(n, {}).items():
            setattr(pipe, name, value)
        yield frame


# ---- frames out = frames in, in order ------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 50])
def test_frames_out_are_frames_in(pipe, length, steps):
    out = run(pipe, CLIP[:length], steps=steps)
    assert len(out) == length and all(x.shape == (64, 64, 3) and x.dtype == np.uint8 for x in out)
    assert len(pipe.latencies) == length and all(seconds >= 0 for seconds in pipe.latencies)


@pytest.mark.parametrize("window, warmup", [(4, 0), (1, 0), (4, 1), (4, 3)])
@pytest.mark.parametrize("length", [0, 1, 2, 6])
def test_frames_out_are_frames_in_at_other_windows(pipe, monkeypatch, window, warmup, length):
    monkeypatch.setattr(pipe, "window", window), monkeypatch.setattr(pipe, "warmup", warmup)
    assert len(run(pipe, CLIP[:length])) == length
    assert len(run(pipe, changing(pipe, CLIP[:length], {1: dict(prompt=B), 3: dict(steps=3)}))) == length


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("white", [3, 12])
def test_in_order(pipe, steps, white):
    "One frame is white among black ones: so is its result."
    clip = [np.full((64, 64, 3), 255 * (n == white), np.uint8) for n in range(16)]
    assert np.argmax([x.mean() for x in run(pipe, clip, steps=steps, strength=0.1)]) == white


@pytest.mark.parametrize("steps", [1, 3])
def test_a_result_comes_as_soon_as_it_can(pipe, steps):
    "The warmup's results come with its last frame; from then on a frame comes `steps - 1` frames after its input."
    taken, arrived = [], []
    for _ in pipe.stream((taken.append(n) or CLIP[n] for n in range(20)), steps=steps):
        arrived.append(taken[-1])
    assert arrived == [7] * 8 + [min(19, n + steps - 1) for n in range(8, 20)]


@pytest.mark.parametrize("height, width", [(64, 64), (36, 52), (4, 8), (44, 32)])
def test_working_size(pipe, monkeypatch, height, width):
    monkeypatch.setattr(pipe, "height", height), monkeypatch.setattr(pipe, "width", width)
    out = run(pipe, moving_clip(10, 50, 70))
    assert len(out) == 10 and all(x.shape == (height, width, 3) for x in out)


# ---- seeds -----------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("settings", [dict(), dict(fixed_noise=True), dict(steps=3, similar=0.99)], ids=str)
def test_seed_decides(pipe, settings):
    first, again, other = (run(pipe, CLIP[:14], seed=seed, **settings) for seed in (1, 1, 2))
    assert same(first, again) and not any(np.array_equal(a, b) for a, b in zip(first, other))


def test_fixed_noise_is_steadier_on_a_still_picture(pipe):
    change = []
    for fixed in (True, False):
        out = run(pipe, [CLIP[0]] * 24, fixed_noise=fixed)
        change.append(distance(out[17:], out[16:-1]))
    assert change[0] < change[1]


# ---- settings while it runs ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("change", ["cut", "soft"])
@pytest.mark.parametrize("name, first, second", [("prompt", A, B), ("style", A, B)])
def test_a_change_shows_within_the_warmup_and_can_be_undone(pipe, change, name, first, second):
    "A, B from frame 16, A again from frame 32; compared with all A and all B."
    def settings(value): return {"prompt": value} if name == "prompt" else {"prompt": "", "style": value}
    all_a, all_b = (run(pipe, CLIP, **settings(value)) for value in (first, second))
    frames = changing(pipe, CLIP, {16: {name: second}, 32: {name: first}})
    out = run(pipe, frames, change=change, **settings(first))
    assert len(out) == len(CLIP) and same(out[:14], all_a[:14])
    soon = slice(16 + pipe.warmup, 30)
    assert distance(out[soon], all_b[soon]) < 0.5 * distance(out[soon], all_a[soon])
    late = slice(32 + pipe.warmup, 50)
    assert distance(out[late], all_a[late]) < 0.5 * distance(out[late], all_b[late])


def test_cut_shows_at_once(pipe):
    all_a, all_b = (run(pipe, CLIP[:24], prompt=prompt) for prompt in (A, B))
    out = run(pipe, changing(pipe, CLIP[:24], {16: dict(prompt=B)}), prompt=A)
    assert same(out[:16], all_a[:16])                                           # what was in flight is finished as it was
    assert distance(out[16], all_b[16]) < 0.5 * distance(out[16], all_a[16])


@pytest.mark.parametrize("change", ["cut", "soft"])
@pytest.mark.parametrize("changes", [
    {12: dict(strength=0.9)}, {12: dict(steps=4)}, {12: dict(steps=1)}, {3: dict(steps=3, strength=0.2)}, {8: dict(strength=0)}, {0: dict(prompt=B)},
    {n: dict(strength=n / 20) for n in range(20)}, {9: dict(steps=4), 10: dict(steps=1), 11: dict(prompt=B, steps=3), 19: dict(strength=1)}], ids=str)
def test_changes_in_mid_stream_keep_the_count(pipe, change, changes):
    out, plain = run(pipe, changing(pipe, CLIP[:20], changes), change=change), None
    assert len(out) == 20
    pipe.prompt, pipe.steps, pipe.strength = A, 2, 0.5
    plain = run(pipe, CLIP[:20])
    first = min(changes)
    assert not same(out, plain) and (first < 8 or same(out[:first], plain[:first]))


def test_setting_what_is_set_already_changes_nothing(pipe):
    assert same(run(pipe, changing(pipe, CLIP[:14], {10: dict(prompt=A, steps=2, strength=0.5)})), run(pipe, CLIP[:14]))


WRONG = [("strength", 1.5), ("strength", -0.1), ("strength", float("nan")), ("strength", "0.5"), ("strength", None), ("steps", 0), ("steps", -1),
         ("steps", 1.5), ("steps", True), ("steps", 1000), ("style", "cubism"), ("prompt", 3), ("prompt", None)]


@pytest.mark.parametrize("name, value", WRONG, ids=str)
def test_a_wrong_setting_raises_and_leaves_the_old_one(pipe, name, value):
    def frames():
        for n, frame in enumerate(CLIP[:14]):
            if n == 10:
                with pytest.raises(ValueError, match=name):
                    setattr(pipe, name, value)
            yield frame
    before, expected = getattr(pipe, name), run(pipe, CLIP[:14])
    assert same(run(pipe, frames()), expected) and getattr(pipe, name) == before


@pytest.mark.parametrize("wrong", [dict(steps=0), dict(strength=1.5), dict(strength=-1), dict(style="cubism"), dict(prompt=3), dict(change="fade"), dict(steps=1000)], ids=str)
def test_wrong_arguments_of_stream(pipe, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        run(pipe, CLIP[:9], **wrong)
    assert len(run(pipe, CLIP[:9])) == 9


def test_a_wrong_argument_leaves_all_settings(pipe):
    with pytest.raises(ValueError):
        run(pipe, CLIP[:9], prompt=B, steps=3, strength=2)
    assert (pipe.prompt, pipe.steps, pipe.strength) == (A, 2, 0.5)


@pytest.mark.parametrize("make, named", [(dict(name="huge"), "tiny"), (dict(height=66), "multiples of 4"), (dict(width=0), "multiples of 4"),
                                         (dict(strength=2), "strength")], ids=str)
def test_wrong_arguments_of_from_pretrained(make, named):
    with pytest.raises(ValueError, match=named):
        Live2Diff.from_pretrained(**make, device="cpu")


# ---- bad frames ------------------------------------------------------------------------------------------------------------
OF_ANOTHER_KIND = {"larger": moving_clip(1, 130, 130)[0], "smaller": moving_clip(1, 20, 20)[0], "wide": moving_clip(1, 64, 200)[0], "one pixel": CLIP[0][:1, :1],
                   "grey": CLIP[0][..., 0], "grey with a channel": CLIP[0][..., :1], "RGBA": np.dstack([CLIP[0], CLIP[0][..., 0]]),
                   "a view": CLIP[0][::-1, ::-1], "torch": torch.from_numpy(CLIP[0]), "list": CLIP[0].tolist()}
BAD = {"float": CLIP[0] / 255, "NaN": np.full((64, 64, 3), np.nan, np.float32), "int64": CLIP[0].astype(np.int64), "bool": CLIP[0] > 9,
       "channels first": CLIP[0].transpose(2, 0, 1), "a batch": CLIP[0][None], "two channels": CLIP[0][..., :2], "one dimension": CLIP[0].ravel(),
       "empty": CLIP[0][:0], "None": None, "text": "frame.png", "a number": 3}


@pytest.mark.parametrize("at", [2, 11])
@pytest.mark.parametrize("kind", [k for k in OF_ANOTHER_KIND if k != "list"])
def test_a_frame_of_another_kind_is_fitted(pipe, kind, at):
    clip = [*CLIP[:at], OF_ANOTHER_KIND[kind], *CLIP[at + 1 : 13]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = run(pipe, clip)
    assert len(out) == 13 and all(x.shape == (64, 64, 3) for x in out)


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_frame_is_named_and_the_stream_goes_on(pipe, kind):
    "It shows the last result again; all others come out as if it had never come."
    with pytest.warns(UserWarning, match="frame 10 is left out.*") as caught:
        out = run(pipe, [*CLIP[:10], BAD[kind], *CLIP[10:14]])
    assert len([w for w in caught if "left out" in str(w.message)]) == 1
    assert np.array_equal(out[10], out[9]) and same(out[:10] + out[11:], run(pipe, CLIP[:14]))


@pytest.mark.filterwarnings("ignore:frame .* is left out")
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("bad", [(0,), (0, 1, 2), (3, 4), (7,), (8, 9), (12, 13, 14, 15), tuple(range(16)), (0, 5, 9, 15)], ids=str)
def test_bad_frames_anywhere(pipe, bad, steps):
    "Before the first good frame its result is shown. If no good frame ever came there is nothing to show."
    clip = [None if n in bad else CLIP[n] for n in range(16)]
    good = [frame for frame in clip if frame is not None]
    out, expected = run(pipe, clip, steps=steps), run(pipe, good, steps=steps)
    if not good:
        assert out == []
        return
    shown = [max(0, sum(f is not None for f in clip[: n + 1]) - 1) for n in range(16)]
    assert same(out, [expected[k] for k in shown])


# ---- the similar-frame filter ------------------------------------------------------------------------------------------------
def test_similar_filter_is_off_by_default_and_deterministic(pipe):
    still = [CLIP[0]] * 20 + CLIP[20:30]
    plain, filtered, again = run(pipe, still), run(pipe, still, similar=0.98), run(pipe, still, similar=0.98)
    assert len(plain) == len(filtered) == 30 and same(filtered, again)
    repeats = [sum(np.array_equal(a, b) for a, b in zip(out, out[1:])) for out in (plain, filtered)]
    assert repeats[0] == 0 and repeats[1] >= 15


def test_similar_filter_that_skips_nothing_changes_nothing(pipe):
    assert same(run(pipe, CLIP[:14], similar=1.5), run(pipe, CLIP[:14]))


# ---- sources and several streams ---------------------------------------------------------------------------------------------
def test_an_error_of_the_source_is_not_swallowed(pipe):
    def source():
        yield from CLIP[:10]
        raise OSError("the camera is gone")
    out = []
    with pytest.raises(OSError, match="the camera is gone"):
        out.extend(pipe.stream(source(), steps=1)) if False else [out.append(frame) for frame in pipe.stream(source(), steps=1)]
    assert len(out) == 10 and len(run(pipe, CLIP[:9])) == 9


def test_a_stream_may_be_left_early(pipe):
    stream, closed = pipe.stream(iter(CLIP)), run(pipe, CLIP[:20])
    assert same([next(stream) for _ in range(12)], closed[:12])
    stream.close()
    assert same(run(pipe, CLIP[:20]), closed) and not torch.is_inference_mode_enabled()


def test_two_streams_from_one_pipeline(pipe):
    "Interleaved, with settings alike (they belong to the pipeline), each gives what it gives alone."
    clips, seeds = (CLIP[:16], CLIP[20:36]), (1, 2)
    alone = [run(pipe, clip, seed=seed) for clip, seed in zip(clips, seeds)]
    together = zip(*(pipe.stream(clip, seed=seed) for clip, seed in zip(clips, seeds)))
    assert all(same(list(out), expected) for out, expected in zip(zip(*together), alone))
    assert not torch.is_inference_mode_enabled()


# ---- what is reported ----------------------------------------------------------------------------------------------------------
def test_timings_and_latencies(pipe):
    run(pipe, CLIP[:12])
    assert set(pipe.timings) >= {"depth", "vae", "unet"} and all(pipe.timings[part] > 0 for part in ("depth", "vae", "unet"))
    assert len(pipe.latencies) == 12 and pipe.latencies[0] >= pipe.latencies[7]        # the first frame waits for the whole warmup
    run(pipe, [])
    assert len(pipe.latencies) == 0


@pytest.mark.parametrize("size, steps", [((64, 64), 2), ((36, 52), 1), ((44, 100), 4)])
def test_memory_estimate_is_what_is_allocated(pipe, monkeypatch, size, steps):
    caches = []
    monkeypatch.setattr("live2diff_nb.stream.KVCache", lambda *args: caches.append(KVCache(*args)) or caches[-1])
    monkeypatch.setattr(pipe, "height", size[0]), monkeypatch.setattr(pipe, "width", size[1])
    run(pipe, CLIP[:9], steps=steps)
    estimate = pipe.memory_estimate()
    assert [cache.nbytes for cache in caches] == [estimate["cache"]] and estimate["cache"] > 0
    assert estimate["unet"] == sum(p.numel() for p in pipe.unet.parameters()) * 4
    assert pipe.memory_estimate(128, 128, 3)["cache"] == pipe.memory_estimate(64, 64, 3)["cache"] * 4
