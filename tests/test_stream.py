"""The engine against its slow twins: a whole chunk under the mask, one row a call, and a stream kept in plain lists."""

import pytest
import torch
import torch.nn.functional as F

from helpers import random_latents, relative, toy_unet
from live2diff_nb.engine.masks import temporal_mask
from live2diff_nb.engine.stream import StreamDenoiser
from live2diff_nb.engine.kvcache import own_column
from live2diff_nb.engine.temporal import RingView, TemporalAttention, attend_ring, attend_ring_readable, position_codes
from live2diff_nb.engine.unet import chunk_views

STEPS = {1: [399], 2: [399, 159], 3: [499, 299, 99], 4: [499, 379, 259, 139]}
THREE = dict(
    block_out_channels=(32, 64, 96),
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
    motion_norm_groups=16,
)
WIDTHS = dict(block_out_channels=(64, 32), layers_per_block=2, motion_heads=2, depth_channels=(4, 8, 12))


def stream(engine, latents, depth, text, method="step"):
    "Everything the engine makes of a clip: warmup results and streamed ones, in order, `(frames, 4, h, w)`."
    w = engine.warmup
    out = [engine.warm_up(latents[:w], depth[:w], text)]
    out += [getattr(engine, method)(latents[n : n + 1], depth[n : n + 1]) for n in range(w, len(latents))]
    return torch.cat([x for x in (*out, *engine.drain()) if x is not None])


def poison(engine, value, first=0):
    "Overwrite the engine's cache from slot `first` on, in every row and layer."
    with torch.inference_mode():
        for layer in engine.cache.layers:
            layer[..., first:, :] = value


@torch.inference_mode()
def offline(engine, latents, depth, text):
    "The same clip denoised at once, all frames in one chunk under the mask; the noise is the engine's own."
    frames, mask = len(latents), temporal_mask(len(latents), engine.warmup)
    noise = torch.stack([engine.noise(n, engine.rows, latents[:1]) for n in range(frames)], 1)    # (T, frames, 4, h, w)
    engine.text, features = text, engine.unet.encode_depth(depth)
    for k in range(engine.rows):
        x = engine.scalings.alpha[k] * (latents if k == 0 else x0) + engine.scalings.sigma[k] * noise[k]
        x0 = engine.denoise(x, slice(k, k + 1), features, chunk_views(engine.unet, frames, mask))
    return x0


# ---- a chunk under the mask is the stream, as long as nothing has left the window ----------------------------------
@pytest.mark.parametrize(
    "window, warmup, steps, size, config",
    [
        (16, 8, 2, (8, 8), {}),
        (8, 4, 1, (8, 8), {}),
        (8, 0, 2, (8, 6), {}),
        (5, 1, 2, (4, 12), {}),
        (6, 5, 3, (7, 5), {}),
        (1, 0, 2, (8, 8), {}),
        (24, 3, 1, (4, 4), {}),
        (9, 2, 4, (5, 3), {}),
        (7, 3, 2, (8, 12), THREE),
        (7, 3, 2, (9, 7), THREE),
        (6, 2, 2, (6, 10), WIDTHS),
        (6, 2, 2, (8, 8), dict(motion_heads=1)),
        (6, 2, 2, (8, 8), dict(motion_heads=16)),
        (6, 2, 2, (8, 8), dict(motion_levels=(False, True))),
        (6, 2, 2, (6, 6), dict(motion_levels=(True, False))),
        (6, 2, 2, (7, 6), {**THREE, "motion_levels": (False, False, True)}),
    ],
    ids=str,
)
def test_chunk_under_the_mask_is_the_stream(window, warmup, steps, size, config):
    unet, clip = toy_unet(**config), random_latents(window, *size)
    result = stream(StreamDenoiser(unet, STEPS[steps], window, warmup), *clip)
    assert result.shape == clip[0].shape
    assert relative(result, offline(StreamDenoiser(unet, STEPS[steps], window, warmup), *clip)) <= 1e-5


def test_without_motion_modules_every_frame_is_alone():
    unet, clip = toy_unet(motion_levels=(False, False)), random_latents(6)
    engine = StreamDenoiser(unet, STEPS[2], 4, 2)
    assert relative(stream(engine, *clip), offline(engine, *clip)) <= 1e-5 and len(engine.cache) == 0


# ---- and when the ring has wrapped: a stream that keeps its past in plain lists ------------------------------------
def naive_forward(layer, x, view, past, window, warmup):
    """Temporal attention of a stream of one row: `past` holds all keys and values; the warm ones and the newest are
    used."""
    q, k, v = (layer.split(w(x)) for w in (layer.to_q, layer.to_k, layer.to_v))      # (n, locations, heads, head)
    past.extend(zip(k, v))
    if not isinstance(view, RingView):
        return None
    seen = past[:warmup] + past[warmup:][-(window - warmup):]
    codes = position_codes(len(seen), x.shape[-1]).to(x.dtype)
    pq, pk, pv = (layer.split(w(codes)) for w in (layer.to_q, layer.to_k, layer.to_v))    # (seen, heads, head)
    keys = torch.stack([key + p for (key, _), p in zip(seen, pk)], -2)                # (locations, heads, seen, head)
    values = torch.stack([value + p for (_, value), p in zip(seen, pv)], -2)
    out = F.scaled_dot_product_attention((q[0] + pq[-1])[..., None, :], keys, values)[..., 0, :]
    return layer.to_out[0](out.flatten(-2))[None]


@pytest.mark.parametrize("window, warmup", [(6, 3), (5, 0), (5, 1), (4, 3), (1, 0), (16, 8)])
def test_wrapped_ring_is_a_list_of_the_newest_frames(window, warmup, monkeypatch):
    unet, clip = toy_unet(), random_latents(window + 2 * (window - warmup) + 1)
    ours = stream(StreamDenoiser(unet, STEPS[1], window, warmup), *clip)
    pasts, forward = {}, TemporalAttention.forward

    def by_lists(layer, x, view):
        result = naive_forward(layer, x, view, pasts.setdefault(layer, []), window, warmup)
        return forward(layer, x, view) if result is None else result
    monkeypatch.setattr(TemporalAttention, "forward", by_lists)
    assert relative(stream(StreamDenoiser(unet, STEPS[1], window, warmup), *clip), ours) <= 1e-5


# ---- pipelined = sequential ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    "window, warmup, size, config",
    [(6, 3, (8, 8), {}), (4, 0, (6, 4), {}), (3, 2, (5, 7), {}), (5, 1, (6, 6), THREE)],
    ids=str,
)
def test_pipelined_is_sequential(steps, window, warmup, size, config):
    unet, clip = toy_unet(**config), random_latents(window + 2 * (window - warmup) + steps + 1, *size)
    pipelined, sequential = (
        stream(StreamDenoiser(unet, STEPS[steps], window, warmup), *clip, method)
        for method in ("step", "step_sequential")
    )
    assert len(pipelined) == len(clip[0]) and relative(pipelined, sequential) <= 1e-5


@pytest.mark.parametrize("steps", STEPS)
def test_a_result_comes_out_steps_minus_one_later(steps):
    engine, (latents, depth, text) = StreamDenoiser(toy_unet(), STEPS[steps], 5, 2), random_latents(8)
    engine.warm_up(latents[:2], depth[:2], text)
    out = [engine.step(latents[n : n + 1], depth[n : n + 1]) for n in range(2, 8)]
    assert [x is None for x in out] == [n < steps - 1 for n in range(6)]
    assert len(list(engine.drain())) == steps - 1 and list(engine.drain()) == []
    again = [engine.step(latents[:1], depth[:1]) for _ in range(steps)]                 # a drained engine goes on
    assert [x is None for x in again] == [True] * (steps - 1) + [False]


@pytest.mark.parametrize("steps", [2, 4])
def test_draining_in_the_middle_changes_nothing(steps):
    unet, (latents, depth, text) = toy_unet(), random_latents(12)
    engine = StreamDenoiser(unet, STEPS[steps], 5, 2)
    out = [engine.warm_up(latents[:2], depth[:2], text)]
    for n in range(2, 12):
        out += [engine.step(latents[n : n + 1], depth[n : n + 1]), *(engine.drain() if n == 6 else [])]
    out = torch.cat([x for x in (*out, *engine.drain()) if x is not None])
    assert relative(out, stream(StreamDenoiser(unet, STEPS[steps], 5, 2), latents, depth, text)) <= 1e-5


# ---- what is made once ---------------------------------------------------------------------------------------------
def test_a_prompt_is_read_once_and_depth_once_a_frame():
    unet, (latents, depth, text) = toy_unet(), random_latents(12)
    seen = {"text": [], "depth": []}
    for layer in unet.text_layers: layer.to_k.register_forward_hook(lambda *_: seen["text"].append(1))
    unet.flow_conv_in.register_forward_hook(lambda *args: seen["depth"].extend(args[2]))
    engine = StreamDenoiser(unet, STEPS[3], 6, 2)
    stream(engine, latents, depth, text)
    assert len(seen["text"]) == len(unet.text_layers) and len(seen["depth"]) == len(latents)
    engine.text = -text
    for n in range(3): engine.step(latents[n:n + 1], depth[n:n + 1])
    assert len(seen["text"]) == 2 * len(unet.text_layers)


@pytest.mark.parametrize("steps", STEPS)
def test_what_is_kept_of_a_prompt_is_what_it_gives_anew(steps):
    "Beside an engine that reads the text at every step; a new prompt, and weights that change before it is set again."
    unet, (latents, depth, text) = toy_unet(), random_latents(20)
    kept, anew = (StreamDenoiser(unet, STEPS[steps], 6, 2) for _ in range(2))
    anew.runner = lambda x, t, words, features, views: unet(x, t, anew.text, features, views)
    for engine in (kept, anew): engine.warm_up(latents[:2], depth[:2], text)
    def edit(): unet.text_layers[0].to_v.weight.mul_(2)
    for n, frame in enumerate(zip(latents[2:, None], depth[2:, None])):
        if n == 12: edit()
        if n in (6, 12): kept.text = anew.text = -text if n == 6 else text
        a, b = kept.step(*frame), anew.step(*frame)
        assert (a is None and b is None) or torch.equal(a, b)


def test_each_frame_may_have_its_own_prompt_and_neighbours_may_share_one():
    unet, (latents, depth, _) = toy_unet(), random_latents(6)
    texts, t, features = torch.randn(6, 5, 16), torch.tensor([400]), unet.encode_depth(depth)
    def run(rows, text): return unet(latents[rows], t, text, features[rows], chunk_views(unet, 1))
    each = torch.cat([run(slice(n, n + 1), texts[n:n + 1]) for n in range(6)])
    assert relative(run(slice(6), texts), each) <= 1e-5
    assert relative(run(slice(6), texts[::3]), run(slice(6), texts[::3].repeat_interleave(3, 0))) <= 1e-5


# ---- the fast form = the readable form -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "rows, locations, heads, head, window", [(1, 1, 1, 4, 1), (2, 9, 4, 8, 16), (3, 4, 2, 6, 5), (4, 25, 8, 2, 9)]
)
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_fast_form_is_the_readable_form(rows, locations, heads, head, window, dtype, bound):
    g = torch.Generator().manual_seed(window)
    def randn(*shape): return torch.randn(*shape, generator=g, dtype=dtype)
    position = torch.stack([torch.randperm(window, generator=g) for _ in range(rows)])
    slot = torch.randint(0, window, (rows,), generator=g)
    hidden = torch.rand(rows, window, generator=g) < 0.4
    hidden[torch.arange(rows), slot] = False                                           # a frame sees itself
    bias = torch.zeros(rows, window, dtype=dtype).masked_fill(hidden, -torch.inf)
    kv, table = randn(2, rows, locations, heads, window, head), randn(3, window, heads, head)
    q, k, v = randn(3, rows, locations, heads, head)
    views = [RingView(kv.clone(), slot, *own_column(slot, position, bias), table) for _ in range(2)]
    fast, readable = attend_ring(q, k, v, views[0]), attend_ring_readable(q, k, v, views[1])
    assert relative(fast, readable) <= bound and torch.equal(views[0].kv, views[1].kv)
    kept = F.one_hot(slot, window) == 0                                                # only its own slot was written
    assert torch.equal(views[0].kv.transpose(2, 4)[:, kept], kv.transpose(2, 4)[:, kept])


# ---- what must not be seen is not seen -----------------------------------------------------------------------------
@pytest.mark.parametrize("steps", STEPS)
def test_idle_rows_and_stale_cache_are_invisible(steps):
    """Large numbers in every slot that no frame has written yet, and a cache left over from another stream, change no
    bit."""
    unet, clip = toy_unet(), random_latents(14)
    expected = stream(StreamDenoiser(unet, STEPS[steps], 6, 3), *clip)
    engine = StreamDenoiser(unet, STEPS[steps], 6, 3)
    stream(engine, *random_latents(12, seed=9))
    poison(engine, torch.nan)                                                          # before warm_up: forgotten
    engine.count, warm_up = 0, engine.warm_up

    def warm_up_and_poison(*args):
        x0 = warm_up(*args)
        poison(engine, 1e6, first=3)  # after it: masked, then overwritten
        return x0
    engine.warm_up = warm_up_and_poison
    assert torch.equal(stream(engine, *clip), expected)


@pytest.mark.parametrize("steps, method", [(1, "step"), (3, "step"), (3, "step_sequential")])
@pytest.mark.parametrize("changed", [4, 7, 13])
def test_a_future_frame_changes_no_earlier_result(steps, method, changed):
    unet, (latents, depth, text) = toy_unet(), random_latents(16)
    before = stream(StreamDenoiser(unet, STEPS[steps], 6, 3), latents, depth, text, method)
    other = [x.index_fill(0, torch.tensor(changed), 3.0) for x in (latents, depth)]
    after = stream(StreamDenoiser(unet, STEPS[steps], 6, 3), *other, text, method)
    assert relative(after[:changed], before[:changed]) <= 1e-6
    assert (
        relative(after[changed:], before[changed:]) > 1e-2 and relative(after[changed + 1], before[changed + 1]) > 1e-5
    )


def test_every_warmup_frame_sees_the_others():
    unet, (latents, depth, text) = toy_unet(), random_latents(3)
    engines = [StreamDenoiser(unet, STEPS[2], 6, 3) for _ in range(2)]
    before = engines[0].warm_up(latents, depth, text)
    after = engines[1].warm_up(latents.index_fill(0, torch.tensor(2), 3.0), depth, text)
    assert relative(after[0], before[0]) > 1e-5


def test_a_frame_that_left_the_ring_still_counts_only_through_the_past():
    "The warm frames are never forgotten: after many frames they still change the result."
    unet, (latents, depth, text) = toy_unet(), random_latents(30)
    before = stream(StreamDenoiser(unet, STEPS[2], 5, 2), latents, depth, text)
    after = stream(StreamDenoiser(unet, STEPS[2], 5, 2), latents.index_fill(0, torch.tensor(0), 3.0), depth, text)
    assert relative(after[-1], before[-1]) > 1e-5


# ---- starting anew, seeds, types -----------------------------------------------------------------------------------
@pytest.mark.parametrize("steps", [1, 3])
def test_second_warmup_is_a_fresh_engine(steps):
    unet, clip, g = toy_unet(), random_latents(3), torch.Generator().manual_seed(5)
    used, fresh = (StreamDenoiser(unet, STEPS[steps], 6, 3) for _ in range(2))
    stream(used, *random_latents(11, seed=8))
    used.step(*(x[:1] for x in random_latents(1)[:2]))  # frames still in flight are forgotten
    noise = dict(encode=torch.randn(3, 4, 8, 8, generator=g), inject=torch.randn(steps - 1, 3, 4, 8, 8, generator=g))
    results = [[engine.warm_up(*clip, noise=noise)] for engine in (used, fresh)]
    for latent, depth in zip(*(x.split(1) for x in random_latents(9, seed=6)[:2])):
        noise = dict(
            encode=torch.randn(1, 4, 8, 8, generator=g), inject=torch.randn(steps - 1, 1, 4, 8, 8, generator=g)
        )
        for engine, result in zip((used, fresh), results):
            result.append(engine.step(latent, depth, noise=noise))
    assert all((a is None and b is None) or torch.equal(a, b) for a, b in zip(*results)) and results[0][-1] is not None


def test_warmup_at_another_size():
    unet, engine = toy_unet(), StreamDenoiser(toy_unet(), STEPS[2], 6, 3)
    stream(engine, *random_latents(8))
    engine.count = 0
    clip = random_latents(8, 4, 10)
    assert torch.equal(stream(engine, *clip), stream(StreamDenoiser(unet, STEPS[2], 6, 3), *clip))


@pytest.mark.parametrize("fixed", [False, True])
def test_seed_decides(fixed):
    unet, clip = toy_unet(), random_latents(9)
    results = [stream(StreamDenoiser(unet, STEPS[2], 5, 2, seed=seed, fixed_noise=fixed), *clip) for seed in (0, 0, 1)]
    assert torch.equal(results[0], results[1]) and relative(results[2], results[0]) > 0.01


def test_fixed_noise_is_one_noise():
    "A still clip with one noise: after the ring is full nothing but the past changes."
    unet, (latents, depth, text) = toy_unet(), random_latents(1)
    still = latents.expand(24, -1, -1, -1), depth.expand(24, -1, -1, -1), text
    change = [
        relative(*stream(StreamDenoiser(unet, STEPS[2], 5, 2, fixed_noise=fixed), *still)[-2:])
        for fixed in (True, False)
    ]
    assert change[0] < 0.1 * change[1]


def test_replayed_noise_is_taken():
    "Give an engine of another seed the noise of the first: the same result."
    unet, (latents, depth, text) = toy_unet(), random_latents(7)
    expected = stream(StreamDenoiser(unet, STEPS[2], 5, 2, seed=3), latents, depth, text, "step_sequential")
    engine, source = StreamDenoiser(unet, STEPS[2], 5, 2, seed=4), StreamDenoiser(unet, STEPS[2], 5, 2, seed=3).noise
    warm = torch.stack([source(n, 2, latents[:1]) for n in range(2)], 1)
    out = [engine.warm_up(latents[:2], depth[:2], text, noise=dict(encode=warm[0], inject=warm[1:]))]
    for n in range(2, 7):
        own = source(n, 2, latents[:1])[:, None]
        out.append(
            engine.step_sequential(latents[n : n + 1], depth[n : n + 1], noise=dict(encode=own[0], inject=own[1:]))
        )
    assert torch.equal(torch.cat(out), expected)


def test_float64_and_agreement_with_float32():
    clip = random_latents(14)
    single = stream(StreamDenoiser(toy_unet(), STEPS[2], 6, 3), *clip)
    double = stream(StreamDenoiser(toy_unet().double(), STEPS[2], 6, 3), *(x.double() for x in clip))
    assert double.dtype == torch.float64 and relative(single.double(), double) <= 1e-5


def test_the_cache_does_not_grow_or_move():
    engine, clip = StreamDenoiser(toy_unet(), STEPS[2], 5, 2), random_latents(6)
    stream(engine, *clip)
    places = [layer.data_ptr() for layer in engine.cache.layers]
    stream(engine, *random_latents(20))
    assert places == [layer.data_ptr() for layer in engine.cache.layers]


# ---- errors --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("timesteps", [[], [159, 399], [399, 399], [1200, 5], [-1]])
def test_timesteps_must_fall_and_exist(timesteps):
    with pytest.raises(ValueError, match="timesteps must"):
        StreamDenoiser(toy_unet(), timesteps)


@pytest.mark.parametrize("window, warmup", [(8, 8), (4, 8), (0, 0), (8, -1)])
def test_warmup_must_leave_a_slot(window, warmup):
    with pytest.raises(ValueError, match="warmup"):
        StreamDenoiser(toy_unet(), [399], window, warmup)


def test_step_before_warm_up():
    engine, (latents, depth, _) = StreamDenoiser(toy_unet(), [399], 4, 2), random_latents(1)
    for step in (engine.step, engine.step_sequential):
        with pytest.raises(ValueError, match="warm_up"):
            step(latents, depth)


WRONG = {
    "one frame short": ((2, 4, 8, 8), (3, 4, 8, 8)),
    "no batch": ((4, 8, 8), (3, 4, 8, 8)),
    "channels": ((3, 3, 8, 8), (3, 4, 8, 8)),
    "depth short": ((3, 4, 8, 8), (1, 4, 8, 8)),
    "depth of another size": ((3, 4, 8, 8), (3, 4, 8, 6)),
}


@pytest.mark.parametrize("latents, depth", WRONG.values(), ids=WRONG)
def test_wrong_shapes_into_warm_up(latents, depth):
    engine = StreamDenoiser(toy_unet(), [399], 6, 3)
    with pytest.raises(ValueError, match=r"must be \(3, 4"):
        engine.warm_up(torch.zeros(latents), torch.zeros(depth), torch.zeros(1, 5, 16))


@pytest.mark.parametrize(
    "latent, depth", [((2, 4, 8, 8), (1, 4, 8, 8)), ((1, 4, 8, 8), (4, 8, 8)), ((1, 4, 8, 6), (1, 4, 8, 6))]
)
def test_wrong_shapes_into_step_leave_the_stream_as_it_was(latent, depth):
    unet, (latents, depths, text) = toy_unet(), random_latents(6)
    results = []
    for disturbed in (False, True):
        engine = StreamDenoiser(unet, STEPS[2], 4, 2)
        engine.warm_up(latents[:2], depths[:2], text)
        for n in range(2, 6):
            if disturbed:
                with pytest.raises(ValueError, match=r"must be \(1, 4, 8, 8\)"):
                    engine.step(torch.zeros(latent), torch.zeros(depth))
            x0 = engine.step(latents[n : n + 1], depths[n : n + 1])
        results.append(x0)
    assert torch.equal(*results)
