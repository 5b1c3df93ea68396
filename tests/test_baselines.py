"The methods that ours is compared with: cases worked out by hand, identities, and that nothing is left behind."
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import moving_clip, random_latents, relative, toy_unet

from live2diff_nb import Live2Diff
from live2diff_nb.engine.lcm import RowScalings, make_scheduler
from live2diff_nb.engine.stream import StreamDenoiser, denoise_chunk
from live2diff_nb.engine.temporal import MotionModule
from live2diff_nb.engine.unet import chunk_views
from live2diff_nb.judge.baselines import METHODS, WAYS, lineup, make_method
from live2diff_nb.judge.carried import fuse, fusion_weights, match_colours, occlusion, soften, warp_latents
from live2diff_nb.judge.freenoise import FreeNoise, WindowView, noise_order, window_weights, windows_of
from live2diff_nb.judge.race import Clip, Ours, still_views
from live2diff_nb.judge.metrics import dis_flow
from live2diff_nb.judge.rerender import Rerender, cross_frame, fusing_steps
from live2diff_nb.judge.streamdiffusion import Row, StreamDiffusion, next_stock
from live2diff_nb.weights.rehearse import write_rehearsal

column = lambda *values: torch.tensor(values, dtype=torch.float32).view(-1, 1, 1, 1)
ASK = dict(prompt="", style="cartoon", strength=0.3)


@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny", height=64, width=64, graphs=False, steps=4)


@pytest.fixture(scope="module")
def frames(): return moving_clip(26)


def toy(kind, rows=4, **how):
    "A method and its engine on a random UNet that predicts noise, as Stable Diffusion's does; latents and depth."
    unet, scheduler = toy_unet(), make_scheduler()
    latents, depth, text = random_latents(26)
    models = SimpleNamespace(unet=unet, scheduler=scheduler)
    pipe = SimpleNamespace(models=models, embed=lambda prompt, style: -text)
    method = kind(pipe, steps=rows, **how)
    engine = StreamDenoiser(unet, [699, 499, 299, 99][-rows:], 16, 8, scheduler, 3, method.fixed_noise)
    engine.text = text
    return method, engine, Clip([None] * 26, latents, depth)


# ---- what all share ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", list(WAYS))
@pytest.mark.parametrize("count", [1, 3])
def test_every_method_takes_a_short_clip(pipe, frames, name, count):
    method = METHODS[name](pipe)
    out = method.translate(frames[:count], **ASK)
    assert [(frame.shape, frame.dtype) for frame in out] == [((64, 64, 3), np.uint8)] * count
    assert method.name == name and method.title == WAYS[name][1] and json.dumps(method.constants)


def test_names_and_titles_are_each_of_one_method():
    assert len({title for _, title, _ in WAYS.values()}) == len(WAYS) == 16
    assert not [name for name in lineup(2) if "rerender" in name] and len(lineup(3)) == 16
    with pytest.raises(ValueError, match="unknown method 'sd'"): make_method(None, "sd")


def test_steps_strength_prompt_and_depth_arrive(pipe, frames):
    clip = frames[:4]
    base = METHODS["streamdiffusion"](pipe).translate(clip, **ASK)
    for other in (METHODS["streamdiffusion"](pipe, steps=2).translate(clip, **ASK),
                  METHODS["streamdiffusion"](pipe).translate(clip, **{**ASK, "strength": 0.9}),
                  METHODS["streamdiffusion"](pipe).translate(clip, **{**ASK, "style": "etching"}),
                  METHODS["streamdiffusion"](pipe).translate(clip, **ASK, seed=1),
                  METHODS["streamdiffusion_flat"](pipe).translate(clip, **ASK)):
        assert not np.array_equal(base, other)
    as_the_pipeline_has_it = METHODS["streamdiffusion"](pipe).translate(clip, **{**ASK, "strength": None})
    assert pipe.strength == 0.3 and np.array_equal(base, as_the_pipeline_has_it)
    with pytest.raises(ValueError, match="at least one frame"): METHODS["ours"](pipe).translate([])


def test_ours_is_the_stream(pipe, frames):
    usual = list(pipe.stream(frames[:12], **ASK, steps=4, seed=5, fixed_noise=False))
    assert np.array_equal(METHODS["ours_fresh"](pipe).translate(frames[:12], **ASK, seed=5), usual)


def test_no_view_leaves_the_motion_module_out():
    module, x = MotionModule(32, heads=4), torch.randn(3, 32, 4, 4)
    torch.nn.init.normal_(module.temporal_transformer.proj_out.weight)
    assert module(x, iter([None, None])) is x and not torch.allclose(module(x, iter(chunk_views(toy_unet(), 3)[:2])), x)


def test_noise_predicting_weights_bypass_their_motion_modules(pipe):
    method, engine, clip = toy(StreamDiffusion)
    assert set(still_views(method.pipe.models)) == {None} and None not in still_views(pipe.models)
    calls = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in engine.unet.temporal_layers]
    with torch.inference_mode(): method.denoise(engine, Clip(clip.frames[:2], clip.latents[:2], clip.depth[:2]))
    for hook in hooks: hook.remove()
    assert not calls


def test_all_methods_run_on_files_of_the_real_layout(tmp_path, frames):
    files = write_rehearsal(tmp_path / "set")
    pipe = Live2Diff.from_pretrained(**files, height=64, width=96, dtype=torch.float32, steps=4)
    calls = []
    hooks = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in pipe.unet.temporal_layers]
    for name, over_time in (("ours", True), ("freenoise", True), ("rerender", False), ("streamdiffusion_full", False)):
        calls.clear()
        out = METHODS[name](pipe).translate(frames[:3], "a bird", strength=0.5)
        assert np.shape(out) == (3, 64, 96, 3) and bool(calls) == over_time, name
    for hook in hooks: hook.remove()


# ---- StreamDiffusion -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rows", [1, 4])
def test_without_guidance_it_is_frame_by_frame(rows):
    method, engine, clip = toy(StreamDiffusion, rows, cfg="none")
    with torch.inference_mode():
        mine, features = method.denoise(engine, clip), engine.features(clip.depth)
        noise = engine.noise(0, rows, clip.latents[:1])[:, None].expand(-1, 26, -1, -1, -1)
        alone = denoise_chunk(engine, clip.latents, features, noise, views=still_views(method.pipe.models))
    assert relative(mine, alone) < 1e-5 and engine.noise.kind == "fixed"


def test_rcfg_memory_by_hand():
    three = RowScalings(column(0.6, 0.8, 0.9), column(0.8, 0.6, 0.3), column(0, 0.5, 0), column(1, 0.5, 1))
    noise, stock, eps = column(1, 2, -1), column(1, 3, 0), column(0.5, 1, 7)
    # row 0: (0.8 * 1 - 0.8 * 0.5) / 0.6 = 2/3;            times 0.8 / 0.6, plus 2:  2.8889
    # row 1: 0.5 * (0.6 * 3 - 0.6) / 0.8 + 0.5 * 0.6 * 3 = 0.75 + 0.9;  times 0.9 / 0.3, plus -1:  3.95
    expected = column(2 + 2 / 3 * 0.8 / 0.6, 3.95)
    assert torch.allclose(next_stock(eps, stock, noise, three)[:2], expected)
    assert torch.allclose(next_stock(eps[1:2], stock[1:2], noise, three, slice(1, 2)), expected[1:])
    same = next_stock(column(1, 2, -1), column(1, 2, -1), noise, three._replace(c_skip=0 * three.c_skip))
    assert torch.allclose(same[:2], noise[1:])                          # believed what was remembered: the noise itself


def test_self_guidance_of_a_network_that_sees_the_noise_changes_nothing():
    method, engine, clip = toy(StreamDiffusion, 1, cfg="self")
    noise = engine.noise(0, 1, clip.latents[:1])
    engine.runner = lambda x, *_: noise.expand_as(x)
    with torch.inference_mode():
        out = method.denoise(engine, clip)
        plain = StreamDiffusion(method.pipe, steps=1, cfg="none").denoise(engine, clip)
    assert relative(out, plain) < 1e-5


def test_full_guidance_asks_twice_and_delta_scales_the_memory():
    method, engine, clip = toy(StreamDiffusion, 2, cfg="full", guidance=3.0)
    texts = []
    engine.runner = lambda x, t, text, *_: texts.append(text.mean().item()) or x * text.mean()
    row = Row(clip.latents[:2], clip.latents[2:4], engine.features(clip.depth[:2]))
    now, rows = engine.scalings, slice(0, 2)
    x0 = method.predict(engine, row, rows, engine.text * -1)
    mean = engine.text.mean()
    assert texts == pytest.approx([float(mean), -float(mean)])
    assert torch.allclose(x0, (row.x - now.sigma * row.x * 5 * mean) / now.alpha, atol=1e-4)    # -m + 3 (m - -m) = 5 m
    half = StreamDiffusion(method.pipe, steps=2, delta=0.5).predict(engine, row, rows, None)
    eps = 0.5 * row.stock + 1.2 * (row.x * mean - 0.5 * row.stock)
    assert torch.allclose(half, (row.x - now.sigma * eps) / now.alpha, atol=1e-4)


def test_a_misspelt_guidance_is_refused(pipe):
    with pytest.raises(ValueError, match="none, self or full"): StreamDiffusion(pipe, cfg="initialise")


# ---- FreeNoise -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("frames", [1, 16, 17, 26, 64])
def test_every_window_holds_the_same_noises(frames):
    order = noise_order(frames, seed=7)
    assert len(order) == frames and order[:16] == list(range(min(16, frames)))
    for a, b in windows_of(frames):
        if b <= frames // 4 * 4 and a % 4 == 0: assert sorted(order[a:b]) == list(range(b - a))
    assert {n for a, b in windows_of(frames) for n in range(a, b)} == set(range(frames))


@pytest.mark.parametrize("frames, same", [(16, True), (9, True), (17, False)])
def test_one_window_is_one_bidirectional_chunk(frames, same):
    method, engine, clip = toy(FreeNoise)
    clip = Clip(clip.frames[:frames], clip.latents[:frames], clip.depth[:frames])
    with torch.inference_mode():
        noise = engine.noise.frames(noise_order(frames, seed=3), 4, clip.latents)
        chunk = denoise_chunk(engine, clip.latents, engine.features(clip.depth), noise)
        fused = method.denoise(engine, clip)
    assert (relative(fused, chunk) < 1e-5) == same


def test_windows_are_averaged_by_their_weights():
    layer = toy_unet().temporal_layers[0]
    q, k, v = torch.randn(3, 6, 5, layer.heads, layer.to_q.in_features // layer.heads)
    one, two = (WindowView([(a, a + 4)])(q, k, v, layer)[a:a + 4] for a in (0, 2))
    fused = WindowView(windows_of(6, 4, 2))(q, k, v, layer)
    weights = window_weights(4).view(-1, 1, 1, 1)                               # 1 2 2 1
    assert torch.equal(fused[:2], one[:2]) and torch.equal(fused[4:], two[2:])
    assert torch.allclose(fused[2:4], (weights[2:] * one[2:] + weights[:2] * two[:2]) / 3 * torch.ones(2, 1, 1, 1))


# ---- Rerender ------------------------------------------------------------------------------------------------------
def test_processors_are_put_back_when_something_fails(pipe, frames):
    layers = [module for name, module in pipe.unet.named_modules() if name.endswith("attn1")]
    before = [layer.processor for layer in layers]
    def broken(a, b): raise OSError("no flow")
    with pytest.raises(OSError): Rerender(pipe, flow=broken).translate(frames[:2], **ASK)
    assert [layer.processor for layer in layers] == before
    with cross_frame(pipe.unet): assert sum(layer.processor not in before for layer in layers) >= 2


def test_when_the_fusion_acts(pipe):
    assert {T: fusing_steps(T) for T in (1, 2, 3, 4, 20)} == {1: [], 2: [], 3: [2], 4: [3], 20: [11, 12, 13, 14, 15]}
    with pytest.raises(ValueError, match="use 3 or more"): Rerender(pipe, steps=2)


def test_fusion_weights_sum_to_one_and_keep_the_variance():
    mask = torch.zeros(1, 1, 9, 9)
    mask[..., :5, :] = 1
    warped, present, noise = fusion_weights(mask, 0.5, 0.9)
    assert torch.equal(warped + present, torch.ones_like(mask))
    assert torch.allclose(noise[0, 0, :, 4], torch.tensor([0.9 * 0.75 ** 0.5] * 4 + [0.5] + [1.0] * 4))
    x, injected, noised = torch.randn(3, 1, 4, 9, 9)
    far, near = fuse(x, injected, noised, (warped, present, noise)), slice(6, None)
    assert torch.allclose(far[..., near, :], x[..., near, :], atol=1e-6)        # nothing to fuse: nothing changes
    expected = 0.5 * noised + 0.5 * (x - injected) + 0.9 * 0.75 ** 0.5 * injected
    assert torch.allclose(far[..., :4, :], expected[..., :4, :], atol=1e-6)


def test_occlusion_and_warp_of_a_known_shift():
    back = np.zeros((32, 48, 2), np.float32)
    back[..., 0] = -8                                                            # everything came from 8 pixels left
    hidden = occlusion(back, -back)
    assert hidden[:, :8].all() and not hidden[:, 8:].any() and (soften(hidden)[:, :8] == 1).all()
    assert occlusion(back, 0 * back)[:, 8:].all()                                # there and back do not agree
    latents = torch.randn(1, 4, 8, 12)
    assert torch.equal(warp_latents(latents, back)[..., 2:], latents[..., :-2])


def test_colours_of_another():
    a, b = torch.randn(1, 4, 8, 8), 3 * torch.randn(1, 4, 8, 8) + 5
    got = match_colours(a, b)
    assert torch.allclose(got.mean((2, 3)), b.mean((2, 3)), atol=1e-4)
    assert relative(got.std((2, 3)), b.std((2, 3))) < 0.02


def test_colours_and_warped_estimates_in_their_periods(pipe, frames):
    ways = (dict(), dict(warp_until=-1.0), dict(colours_from=0.5), dict(mask_strength=0.0), dict(style_update=1))
    runs = [Rerender(pipe, flow=dis_flow, **how).translate(frames[:4], **ASK) for how in ways]
    assert not any(np.array_equal(runs[0], other) for other in runs[1:])
    assert all(np.array_equal(runs[0][0], other[0]) for other in runs[1:])       # the first frame is sampled as ever


def test_ours_never_looks_ahead_and_freenoise_does(pipe, frames):
    changed = [*frames[:9], 255 - frames[9]]
    for name, sees in (("ours", False), ("streamdiffusion", False), ("rerender", False), ("freenoise", True)):
        first, other = (METHODS[name](pipe).translate(clip, **ASK)[:9] for clip in (frames[:10], changed))
        assert np.array_equal(first, other) != sees, name


def test_constants_of_ours_name_the_window(pipe):
    assert Ours(pipe).constants == dict(steps=4, depth=True, fixed_noise=True, window=16, warmup=8)
