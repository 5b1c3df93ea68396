"""Pictures in, pictures out: counts, seeds, settings that change while it runs, bad input, and what is reported."""
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from helpers import moving_clip
from live2diff_nb.engine.kvcache import KVCache
from live2diff_nb.pipeline.live2diff import Live2Diff

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


@pytest.fixture(scope="module")
def plain(loaded):
    "Results of the whole clip under settings as new, and under the other prompt."
    loaded.style, loaded.steps, loaded.strength = None, 2, 0.5
    return {prompt: run(loaded, CLIP, prompt=prompt) for prompt in (A, B)}


def run(pipe, frames, **settings):
    return list(pipe.stream(frames, **settings))


def distance(a, b):
    "Mean difference of pixels, 0..255."
    return np.abs(np.float32(a) - np.float32(b)).mean()


def close(a, b):
    "Alike but for rounding: a row on its own is not bit-equal to the same row in a batch."
    return len(a) == len(b) and all(np.abs(np.int16(x) - y).max() <= 1 for x, y in zip(a, b))


def same(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b))


def changing(pipe, frames, changes):
    "The source, which sets `changes[n]`, names and values, just before it hands over frame n."
    for n, frame in enumerate(frames):
        for name, value in changes.get(n, {}).items():
            setattr(pipe, name, value)
        yield frame


# ---- frames out = frames in, in order ------------------------------------------------------------------------------
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
    "One frame is white among black ones: its result is the one unlike the others."
    clip = [np.full((64, 64, 3), 255 * (n == white), np.uint8) for n in range(16)]
    out = np.float32(run(pipe, clip, steps=steps, strength=0.1))
    assert np.argmax(np.abs(out - np.median(out, 0)).mean((1, 2, 3))) == white


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


# ---- seeds ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "settings", [dict(noise="fresh"), dict(fixed_noise=True), dict(noise="warped", steps=3, similar=0.99)], ids=str)
def test_seed_decides(pipe, settings):
    first, again, other = (run(pipe, CLIP[:11], seed=seed, **settings) for seed in (1, 1, 2))
    assert same(first, again) and not any(np.array_equal(a, b) for a, b in zip(first, other))


def test_fixed_noise_is_steadier_on_a_still_picture(pipe):
    change = []
    for fixed in (True, False):
        out = run(pipe, [CLIP[0]] * 24, fixed_noise=fixed)
        change.append(distance(out[17:], out[16:-1]))
    assert change[0] < change[1]


# ---- settings while it runs ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("change, name", [("cut", "prompt"), ("soft", "prompt"), ("cut", "style")])
def test_a_change_shows_within_the_warmup_and_can_be_undone(pipe, plain, change, name):
    """A, B from frame 16, A again from frame 32, compared with all A and all B; a style with an empty prompt is its
    name alone."""
    start = {"prompt": A} if name == "prompt" else {"prompt": "", "style": A}
    out = run(pipe, changing(pipe, CLIP, {16: {name: B}, 32: {name: A}}), change=change, **start)
    assert len(out) == len(CLIP) and close(out[:16], plain[A][:16])  # what was in flight is finished as it was
    first = 16 if change == "cut" else 16 + pipe.warmup                            # "cut" shows at once
    for span, here, there in ((slice(first, 32), B, A), (slice(first + 16, 50), A, B)):
        assert distance(out[span], plain[here][span]) < 0.5 * distance(out[span], plain[there][span])


@pytest.mark.parametrize("change", ["cut", "soft"])
@pytest.mark.parametrize(
    "changes",
    [
        {12: dict(strength=0.9)},
        {12: dict(steps=4)},
        {12: dict(steps=1)},
        {3: dict(steps=3, strength=0.2)},
        {8: dict(strength=0)},
        {0: dict(prompt=B)},
        {n: dict(strength=n / 20) for n in range(18)},
        {9: dict(steps=4), 10: dict(steps=1), 11: dict(prompt=B, steps=3), 17: dict(strength=1)},
    ],
    ids=str,
)
def test_changes_in_mid_stream_keep_the_count(pipe, plain, change, changes):
    out, first = run(pipe, changing(pipe, CLIP[:18], changes), change=change), min(changes)
    assert len(out) == 18 and not close(out, plain[A][:18])
    assert first < 8 or close(out[:first], plain[A][:first])


def test_setting_what_is_set_already_changes_nothing(pipe, plain):
    out = run(pipe, changing(pipe, CLIP[:14], {10: dict(prompt=A, steps=2, strength=0.5)}))
    assert same(out[:13], plain[A][:13]) and close(out, plain[A][:14])             # the last frame was drained


WRONG = [
    ("strength", 1.5),
    ("strength", -0.1),
    ("strength", float("nan")),
    ("strength", "0.5"),
    ("strength", None),
    ("steps", 0),
    ("steps", -1),
    ("steps", 1.5),
    ("steps", True),
    ("steps", 1000),
    ("style", "cubism"),
    ("prompt", 3),
    ("prompt", None),
]


@pytest.mark.parametrize("name, value", WRONG, ids=str)
def test_a_wrong_setting_raises_and_leaves_the_old_one(pipe, name, value):
    before, version = getattr(pipe, name), pipe.version
    with pytest.raises(ValueError, match=name):
        setattr(pipe, name, value)
    assert getattr(pipe, name) == before and pipe.version == version                # a running stream notices nothing


@pytest.mark.parametrize(
    "wrong",
    [
        dict(steps=0),
        dict(strength=1.5),
        dict(strength=-1),
        dict(style="cubism"),
        dict(prompt=3),
        dict(change="fade"),
        dict(steps=1000),
    ],
    ids=str,
)
def test_wrong_arguments_of_stream(pipe, wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        run(pipe, CLIP[:9], **wrong)
    assert len(run(pipe, CLIP[:3])) == 3


def test_a_wrong_argument_leaves_all_settings(pipe):
    with pytest.raises(ValueError):
        run(pipe, CLIP[:9], prompt=B, steps=3, strength=2)
    assert (pipe.prompt, pipe.steps, pipe.strength) == (A, 2, 0.5)


@pytest.mark.parametrize(
    "make, named",
    [
        (dict(name="huge"), "tiny"),
        (dict(height=66), "multiples of 4"),
        (dict(width=0), "multiples of 4"),
        (dict(strength=2), "strength"),
    ],
    ids=str,
)
def test_wrong_arguments_of_from_pretrained(make, named):
    with pytest.raises(ValueError, match=named):
        Live2Diff.from_pretrained(**make, device="cpu")


# ---- bad frames ----------------------------------------------------------------------------------------------------
OF_ANOTHER_KIND = {
    "larger": moving_clip(1, 130, 130)[0],
    "smaller": moving_clip(1, 20, 20)[0],
    "wide": moving_clip(1, 64, 200)[0],
    "one pixel": CLIP[0][:1, :1],
    "grey": CLIP[0][..., 0],
    "grey with a channel": CLIP[0][..., :1],
    "RGBA": np.dstack([CLIP[0], CLIP[0][..., 0]]),
    "a view": CLIP[0][::-1, ::-1],
    "torch": torch.from_numpy(CLIP[0]),
}
BAD = {
    "float": CLIP[0] / 255,
    "NaN": np.full((64, 64, 3), np.nan, np.float32),
    "int64": CLIP[0].astype(np.int64),
    "bool": CLIP[0] > 9,
    "channels first": CLIP[0].transpose(2, 0, 1),
    "a batch": CLIP[0][None],
    "two channels": CLIP[0][..., :2],
    "one dimension": CLIP[0].ravel(),
    "empty": CLIP[0][:0],
    "None": None,
    "text": "frame.png",
    "a number": 3,
}


def test_frames_of_other_kinds_are_fitted(pipe):
    "All of them after one another, in the warmup and later."
    clip = [*CLIP[:5], *OF_ANOTHER_KIND.values()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", r"\d+% of each frame \(200 x 64\) is cut away")
        out = run(pipe, clip)
    assert len(out) == len(clip) and all(x.shape == (64, 64, 3) for x in out)


def test_grey_and_rgba_are_what_they_look_like(pipe):
    grey = [frame[..., 0] for frame in CLIP[:9]]
    seen = [np.dstack([g, g, g, np.full_like(g, 255)]) for g in grey]
    assert same(run(pipe, grey), run(pipe, seen))
    half = [np.dstack([g, g, g, np.full_like(g, 128)]) for g in grey]                      # over black
    assert same(run(pipe, [(g * np.float32(128 / 255)).round().astype(np.uint8) for g in grey]), run(pipe, half))


def test_a_bad_frame_is_named_and_the_stream_goes_on(pipe, plain):
    "It shows the last result again; all others come out as if it had never come."
    mixed = [frame for pair in zip(CLIP[9:], BAD.values()) for frame in pair]       # good and bad in turn
    with pytest.warns(UserWarning) as caught:
        out = run(pipe, [*CLIP[:9], *mixed])
    named = [str(w.message).split(" is left out")[0] for w in caught if "left out" in str(w.message)]
    assert named == [f"frame {n}" for n in range(10, 9 + len(mixed), 2)]
    assert len(out) == 9 + len(mixed) and same(out[9::2], out[10::2])
    assert close(out[:9] + out[9::2], plain[A][: 9 + len(BAD)])


@pytest.mark.filterwarnings("ignore:frame .* is left out")
@pytest.mark.parametrize(
    "bad", [(0,), (0, 1, 2), (3, 4), (7,), (8, 9), (10, 11, 12), tuple(range(13)), (0, 5, 9, 12)], ids=str
)
def test_bad_frames_anywhere(pipe, plain, bad):
    "Before the first good frame its result is shown. If no good frame ever came there is nothing to show."
    clip, good = [CLIP[n] for n in range(13)], [n for n in range(13) if n not in bad]
    for n in bad:
        clip[n] = None
    out, expected = run(pipe, clip, steps=3), run(pipe, [CLIP[n] for n in good], steps=3)
    shown = [max(0, sum(g <= n for g in good) - 1) for n in range(13)] if good else []
    assert same(out, [expected[k] for k in shown])


# ---- the similar-frame filter --------------------------------------------------------------------------------------
def test_similar_filter_is_off_by_default_and_deterministic(pipe):
    still = [CLIP[0]] * 20 + CLIP[20:24]
    plain, filtered, again = (
        run(pipe, still, fixed_noise=False, **more) for more in ({}, dict(similar=0.98), dict(similar=0.98))
    )
    assert len(plain) == len(filtered) == 24 and same(filtered, again)
    repeats = [sum(np.array_equal(a, b) for a, b in zip(out, out[1:])) for out in (plain, filtered)]
    assert repeats[0] == 0 and repeats[1] >= 15


def test_similar_filter_that_skips_nothing_changes_nothing(pipe, plain):
    assert close(run(pipe, CLIP[:14], similar=1.5), plain[A][:14])


# ---- sources and several streams -----------------------------------------------------------------------------------
def test_an_error_of_the_source_is_not_swallowed(pipe):
    def source():
        yield from CLIP[:10]
        raise OSError("the camera is gone")
    out = []
    with pytest.raises(OSError, match="the camera is gone"):
        for frame in pipe.stream(source(), steps=1):
            out.append(frame)
    assert len(out) == 10 and len(run(pipe, CLIP[:3])) == 3


def test_a_stream_may_be_left_early(pipe, plain):
    stream = pipe.stream(iter(CLIP))
    assert same([next(stream) for _ in range(12)], plain[A][:12])
    stream.close()
    assert close(run(pipe, CLIP[:12]), plain[A][:12]) and not torch.is_inference_mode_enabled()


def test_two_streams_from_one_pipeline(pipe):
    "Interleaved, each gives what it gives alone."
    clips, seeds = (CLIP[:12], CLIP[20:32]), (1, 2)
    alone = [run(pipe, clip, seed=seed, noise="fixed") for clip, seed in zip(clips, seeds)]
    together = zip(*(pipe.stream(clip, seed=seed, noise="fixed") for clip, seed in zip(clips, seeds)))
    assert all(same(list(out), expected) for out, expected in zip(zip(*together), alone))
    assert not torch.is_inference_mode_enabled()


# ---- what is reported ----------------------------------------------------------------------------------------------
def test_timings_and_latencies(pipe):
    run(pipe, CLIP[:12])
    assert set(pipe.timings) >= {"depth", "vae", "unet"} and all(
        pipe.timings[part] > 0 for part in ("depth", "vae", "unet")
    )
    # the first frame waits for the whole warmup
    assert len(pipe.latencies) == 12 and pipe.latencies[0] >= pipe.latencies[7]
    run(pipe, [])
    assert len(pipe.latencies) == 0


@pytest.mark.parametrize("size, steps", [((64, 64), 2), ((36, 52), 1), ((44, 100), 4)])
def test_memory_estimate_is_what_is_allocated(pipe, monkeypatch, size, steps):
    caches = []
    monkeypatch.setattr("live2diff_nb.engine.stream.KVCache", lambda *args: caches.append(KVCache(*args)) or caches[-1])
    monkeypatch.setattr(pipe, "height", size[0]), monkeypatch.setattr(pipe, "width", size[1])
    run(pipe, CLIP[:9], steps=steps)
    estimate = pipe.memory_estimate(steps=steps)
    assert [cache.nbytes for cache in caches] == [estimate["cache"]] and estimate["cache"] > 0
    assert estimate["unet"] == sum(p.numel() for p in pipe.unet.parameters()) * 4
    assert pipe.memory_estimate(128, 128, 3)["cache"] == pipe.memory_estimate(64, 64, 3)["cache"] * 4


# ---- what drives the embedded model on a CPU -----------------------------------------------------------------------
def test_the_graph_gives_the_torch_models_pictures():
    """At 256 x 256 an ONNX graph may run the streaming steps: the same pictures but for rounding, also past the ring's
    end."""
    clip = moving_clip(18, 256, 256)
    by_graph, by_torch = (
        run(Live2Diff.from_pretrained("tiny", device="cpu", **driver), clip, prompt=A)
        for driver in ({}, {"graphs": False})
    )
    assert close(by_graph, by_torch)


def test_one_thread_is_enough():
    "Halves and rows run in pools: with one thread none of them may wait for another."
    code = """
import numpy as np, torch
torch.set_num_threads(1)
from live2diff_nb import Live2Diff
print(len(list(Live2Diff.from_pretrained("tiny").stream([np.zeros((256, 256, 3), np.uint8)] * 10))))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "10", done.stderr
