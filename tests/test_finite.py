"""Numbers that are none: a stream shows its last good picture, warms up again, and is as good as new."""
import warnings

import numpy as np
import pytest
import torch

from helpers import moving_clip
from live2diff_nb.pipeline.live2diff import Live2Diff

CLIP = moving_clip(36)


@pytest.fixture(scope="module")
def pipe():
    return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False, style=None)


def stream(pipe, at=None, last=None, steps=2, **settings):
    "A stream in which a weight is not a number from frame `at` on, until frame `last`."
    bias = pipe.unet.conv_in.bias
    whole = bias.clone()
    def frames():
        for n, frame in enumerate(CLIP):
            if n == at: bias[0] = torch.nan
            if n == last: bias.copy_(whole)
            yield frame
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            return np.stack(list(pipe.stream(frames(), prompt="a photo", steps=steps, **settings))), caught
    finally: bias.copy_(whole)


@pytest.mark.parametrize("steps, change", [(1, "cut"), (2, "soft"), (4, "cut")])
def test_black_does_not_stay(pipe, steps, change):
    "One bad frame in the middle, then good weights again: the last frames are those of a stream that never failed."
    plain, _ = stream(pipe, steps=steps, change=change)
    out, caught = stream(pipe, 14, 15, steps, change=change)
    off = np.abs(out.astype(float) - plain).mean((1, 2, 3))
    print("grey levels from the plain stream:", off.round(1))
    assert len(out) == len(CLIP) and (out.reshape(len(out), -1).max(1) > 40).all()       # never black
    assert off[: 15 - steps].max() == 0 and off[26:].max() < 6                             # those in flight are lost
    assert len(caught) == 1 and "warms up again" in str(caught[0].message)


def test_a_frame_that_cannot_be_encoded_is_not_warmed_up_on(pipe, monkeypatch):
    "The latents themselves are no numbers, once: they stay out of the new warmup."
    encode, count, plain = pipe.models.encode, 0, stream(pipe)[0]
    def overflow(pictures, scale):
        nonlocal count
        count += 1
        latents, depth = encode(pictures, scale)
        return (latents * torch.nan if count == 15 else latents), depth
    monkeypatch.setattr(pipe.models, "encode", overflow)
    out, caught = stream(pipe)
    assert np.abs(out[26:].astype(float) - plain[26:]).mean() < 6 and len(caught) == 1


def test_every_result_is_nan(pipe):
    "Said twice in all, re-warmed ever more rarely, one output an input."
    out, caught = stream(pipe, 0, None, 1)
    assert len(out) == len(CLIP) and len(caught) == 2 and "in a row" in str(caught[1].message)


def test_depth_that_is_no_number_does_not_end_the_stream(pipe, monkeypatch):
    estimate, count = pipe.depth.estimate, 0
    def broken(frames):
        nonlocal count
        count += 1
        return estimate(frames) * (torch.nan if count == 15 else 1)
    monkeypatch.setattr(pipe.depth, "estimate", broken)
    out, caught = stream(pipe)
    assert len(out) == len(CLIP) and len(caught) == 1 and "depth" in str(caught[0].message)


def test_no_wait_for_a_gpu_beyond_the_copy(pipe):
    "The look at the result happens after its copy, in `decode`, and nowhere else in a frame."
    frames, finite = pipe.models.decode(torch.zeros(2, 4, 16, 16))
    assert finite is True and pipe.models.decode(torch.full((1, 4, 16, 16), torch.nan))[1] is False


# ---- the caller's own ------------------------
@pytest.mark.parametrize("settings", [{}, {"similar": 0.5}], ids=str)
def test_results_are_the_callers_own_and_inputs_are_left_alone(pipe, settings):
    clip = [frame.copy() for frame in CLIP[:20]]
    for frame in clip[::3]: frame.flags.writeable = False
    wanted = [frame.copy() for frame in pipe.stream(clip, prompt="a photo", **settings)]
    kept = []
    for frame in pipe.stream(clip, prompt="a photo", **settings):
        assert np.array_equal(frame, wanted[len(kept)]), "painting into a result changed a later one"
        frame[:] = 7
        assert frame.flags.owndata and not any(np.shares_memory(frame, other) for other in kept)
        kept.append(frame)
    assert all((frame == 7).all() for frame in kept) and all(np.array_equal(a, b) for a, b in zip(clip, CLIP))
