"""Masks and noise levels: properties at many sizes, bad input, and numbers recorded from the official
implementation."""
import subprocess
import sys

import pytest
import torch

from helpers import relative, toy_unet
from live2diff_nb.engine.lcm import (
    PREDICTION_TYPES,
    RowScalings,
    add_noise,
    boundary,
    consistency,
    lcm_timesteps,
    make_scheduler,
    pick_timesteps,
    predict_x0,
    row_scalings,
    scheduler_numbers,
)
from live2diff_nb.engine.masks import MODES, receptive_field, temporal_mask
from live2diff_nb.engine.stream import StreamDenoiser

SIZES = (1, 2, 3, 7, 8, 9, 16, 33)

# timesteps -> alpha, sigma, c_skip, c_out, recorded from the official implementation
RECORDED = {
    (399, 159): ([.5398597121238708, .8701266050338745], [.8417550325393677, .49282824993133545],
                 [1.570341900958283e-08, 9.88884849562055e-08], [1., .9999999403953552]),
    (599, 459, 319, 179): ([.28335919976234436, .4555555284023285, .656079888343811, .8465615510940552],
                           [.959013819694519, .8902073502540588, .754691481590271, .5322908163070679],
                           [6.967650456601859e-09, 1.18662812909065e-08, 2.4567368583916505e-08, 7.802502466347505e-08],
                           [1., 1., 1., .9999999403953552]),
    (999, 499): ([.03973616287112236, .40225884318351746], [.9992101788520813, .9155259728431702],
                 [2.505007534736592e-09, 1.0040120734799984e-08], [1., 1.]),
}


@pytest.fixture(scope="module")
def scheduler():
    return make_scheduler()


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("frames", SIZES)
@pytest.mark.parametrize("warmup", (0, 1, 4, 8, 40))
def test_live2diff_mask_is_its_definition_and_closed_under_layers(frames, warmup):
    mask = temporal_mask(frames, warmup)
    expected = [[j <= i or (i < warmup and j < warmup) for j in range(frames)] for i in range(frames)]
    assert mask.dtype == torch.bool and mask.tolist() == expected
    for layers in (1, 2, 5):
        assert torch.equal(receptive_field(mask, layers), mask)
    assert not mask[warmup:].triu(warmup + 1).any()


@pytest.mark.parametrize("frames", SIZES)
def test_other_modes(frames):
    near = torch.tensor([[abs(i - j) < 3 for j in range(frames)] for i in range(frames)])
    assert torch.equal(temporal_mask(frames, mode="windowed", window=3), near)
    assert temporal_mask(frames, mode="bidirectional").all()
    assert torch.equal(temporal_mask(frames, mode="causal"), torch.ones(frames, frames).tril().bool())
    for mode in MODES:
        assert temporal_mask(frames, 2, mode).diagonal().all()


def test_live2diff_lies_between_causal_and_bidirectional():
    for frames in SIZES:
        assert torch.equal(temporal_mask(frames, 0), temporal_mask(frames, mode="causal"))
        assert torch.equal(temporal_mask(frames, frames), temporal_mask(frames, mode="bidirectional"))


@pytest.mark.parametrize("window", (1, 2, 5, 8))
@pytest.mark.parametrize("layers", (0, 1, 2, 4, 7))
def test_a_window_leaks_the_future_layer_by_layer(window, layers):
    reach = receptive_field(temporal_mask(60, mode="windowed", window=window), layers)
    assert reach[8, 9:].sum() == min(51, layers * (window - 1))
    assert torch.equal(reach, temporal_mask(60, mode="windowed", window=layers * (window - 1) + 1))


def test_receptive_field_of_any_mask_counts_walks():
    mask = torch.rand(12, 12, generator=torch.Generator().manual_seed(0)) < .15 # not even the diagonal is given
    step = (mask | torch.eye(12, dtype=torch.bool)).double()
    for layers in (0, 1, 2, 3, 9):
        assert torch.equal(receptive_field(mask, layers), torch.linalg.matrix_power(step, layers) > 0)


def test_receptive_field_leaves_the_mask_alone():
    mask = temporal_mask(10, 3, "windowed", 2)
    before = mask.clone()
    receptive_field(mask, 4)
    assert torch.equal(mask, before)


@pytest.mark.parametrize("args, error, words", [
    ((0,), ValueError, "frames must be at least 1"),
    ((-3,), ValueError, "frames must be at least 1"),
    ((2.5,), TypeError, "frames must be a whole number"),
    ((True,), TypeError, "frames must be a whole number"),
    (("8",), TypeError, "frames must be a whole number"),
    ((8, -1), ValueError, "warmup must be at least 0"),
    ((8, None), TypeError, "warmup must be a whole number"),
    ((8, 2, "windowed", 0), ValueError, "window must be at least 1"),
    ((8, 2, "both"), ValueError, "choose one of live2diff, causal, bidirectional, windowed"),
    ((8, 2, None), ValueError, "choose one of"),
])
def test_bad_mask_arguments(args, error, words):
    with pytest.raises(error, match=words):
        temporal_mask(*args)


@pytest.mark.parametrize("mask, layers, error, words", [
    (torch.ones(3, 4).bool(), 1, ValueError, "square"),
    (torch.ones(3, 3), 1, ValueError, "booleans"),
    (torch.ones(3).bool(), 1, ValueError, "square"),
    (torch.ones(3, 3).bool(), -1, ValueError, "layers must be at least 0"),
    (torch.ones(3, 3).bool(), 1.5, TypeError, "layers must be a whole number"),
])
def test_bad_receptive_field_arguments(mask, layers, error, words):
    with pytest.raises(error, match=words):
        receptive_field(mask, layers)


def test_recorded_schedules():
    linear = {
        0: 0.9991499781608582,
        1: 0.9982895255088806,
        19: 0.981052041053772,
        99: 0.8690528273582458,
        259: 0.5501447319984436,
        499: 0.1618121713399887,
        759: 0.02070736698806286,
        999: 0.0015789627796038985,
    }
    scaled = {0: .9991499781608582, 259: .6589752435684204, 499: .27766942977905273, 999: .00466009508818388}
    for name, numbers in (("linear", linear), ("scaled_linear", scaled)):
        abar = make_scheduler(beta_schedule=name).alphas_cumprod
        for t, value in numbers.items():
            assert abs(abar[t].item() - value) < 1e-6


@pytest.mark.parametrize("timesteps", RECORDED)
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_recorded_row_scalings(scheduler, timesteps, dtype):
    scalings = row_scalings(scheduler, list(timesteps), dtype=dtype)
    for ours, official in zip(scalings, RECORDED[timesteps]):
        assert ours.shape == (len(timesteps), 1, 1, 1) and ours.dtype == dtype
        torch.testing.assert_close(ours.flatten(), torch.tensor(official, dtype=dtype), rtol=1e-6, atol=0)


def test_row_scalings_over_the_whole_schedule(scheduler):
    scalings = row_scalings(scheduler, range(1000), dtype=torch.float64)
    torch.testing.assert_close(scalings.alpha ** 2 + scalings.sigma ** 2, torch.ones_like(scalings.alpha))
    assert (scalings.alpha.flatten().diff() < 0).all() and (scalings.sigma.flatten().diff() > 0).all()
    assert scalings.c_skip[0] == 1 and scalings.c_out[0] == 0
    assert torch.isfinite(torch.stack([part.flatten() for part in scalings])).all()


@pytest.mark.parametrize("args, expected", [
    (dict(t_index_list=[30, 36, 42]), [399, 279, 159]),
    (dict(t_index_list=[25, 34, 43]), [499, 319, 139]),
    (dict(t_index_list=[25, 31, 37, 43], num_inference_steps=50), [499, 379, 259, 139]),
    (dict(t_index_list=[20, 27, 34, 41]), [599, 459, 319, 179]),
    (dict(t_index_list=(2, 3), num_inference_steps=4), [499, 259]),
    (dict(steps=None, num_inference_steps=4, strength=.6), [499, 259]),
    (dict(steps=None, num_inference_steps=2, strength=1.), [999, 499]),
    (dict(steps=None, num_inference_steps=5, strength=.7), [599, 399, 199]),
    (dict(steps=None, num_inference_steps=8, strength=.4), [379, 259, 139]),
])
def test_timesteps_recorded_from_the_official_configs(scheduler, args, expected):
    assert pick_timesteps(scheduler, **args) == expected


@pytest.mark.parametrize("max_timestep", (None, 999, 500, 250, 239, 199, 100))
def test_steps_and_strength_everywhere(scheduler, max_timestep):
    grid = [t for t in lcm_timesteps(scheduler) if max_timestep is None or t <= max_timestep]
    for steps in range(1, len(grid) + 1):
        entries = []
        for strength in (0, .01, .1, .25, 1 / 3, .5, .77, .999, 1):
            ts = pick_timesteps(scheduler, steps, strength, max_timestep=max_timestep)
            assert len(ts) == steps and all(a > b for a, b in zip(ts, ts[1:])) and set(ts) <= set(grid)
            gaps = [a - b for a, b in zip(ts, ts[1:] + [-1])]
            assert max(gaps) - min(gaps) <= 20 # evenly spread
            entries.append(ts[0])
        assert entries == sorted(entries) and entries[-1] == grid[0]
        assert pick_timesteps(scheduler, steps, 0, max_timestep=max_timestep) == grid[-steps:]


def test_official_rule_says_which_strength_to_use(scheduler):
    for n in range(2, 51):
        with pytest.raises(ValueError, match="use a strength of at least") as caught:
            pick_timesteps(scheduler, None, .5 / n, num_inference_steps=n)
        least = float(str(caught.value).split()[-1])
        assert len(pick_timesteps(scheduler, None, least, num_inference_steps=n)) == 1


@pytest.mark.parametrize("args, error, words", [
    (dict(steps=0), ValueError, "steps must be a whole number of at least 1"),
    (dict(steps=-2), ValueError, "at least 1"),
    (dict(steps=1.5), ValueError, "whole number"),
    (dict(steps=True), ValueError, "whole number"),
    (dict(steps=51), ValueError, "51 steps, but only 50 timesteps"),
    (dict(steps=3, max_timestep=45), ValueError, "only 2 timesteps"),
    (dict(steps=1, max_timestep=5), ValueError, "only 0 timesteps"),
    (dict(strength=-.1), ValueError, "strength must be a number in 0..1"),
    (dict(strength=1.01), ValueError, "strength must be a number in 0..1"),
    (dict(strength=float("nan")), ValueError, "strength must be a number in 0..1"),
    (dict(strength="0.5"), TypeError, "strength must be a number in 0..1"),
    (dict(strength=None), TypeError, "strength must be a number in 0..1"),
    (dict(steps=None), ValueError, "give steps"),
    (dict(steps=2, num_inference_steps=4), ValueError, "set steps=None"),
    (dict(steps=None, num_inference_steps=0), ValueError, "1..50"),
    (dict(steps=None, num_inference_steps=51), ValueError, "1..50"),
    (dict(t_index_list=[]), ValueError, "at least one whole number"),
    (dict(t_index_list=[42, 30]), ValueError, "must increase"),
    (dict(t_index_list=[30, 30]), ValueError, "must increase"),
    (dict(t_index_list=[-1, 30]), ValueError, "0..49"),
    (dict(t_index_list=[30, 50]), ValueError, "0..49"),
    (dict(t_index_list=[3, 4], num_inference_steps=4), ValueError, "0..3"),
    (dict(t_index_list=[30.0, 42]), ValueError, "whole number"),
    (dict(t_index_list=5), TypeError, "t_index_list must be a list"),
])
def test_bad_timestep_requests(scheduler, args, error, words):
    with pytest.raises(error, match=words):
        pick_timesteps(scheduler, **args)


def test_picking_leaves_the_scheduler_alone(scheduler):
    scheduler.set_timesteps(7)
    before = scheduler.timesteps.clone()
    for args in (dict(), dict(t_index_list=[30, 42]), dict(steps=None, num_inference_steps=4)):
        pick_timesteps(scheduler, **args)
    assert torch.equal(scheduler.timesteps, before)


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
def test_our_own_numbers_are_those_of_diffusers(kind):
    "Noise levels, weights of every timestep, and every schedule, bit by bit."
    theirs, ours, every = make_scheduler(kind), scheduler_numbers(kind), torch.arange(1000.0, dtype=torch.float64)
    assert torch.equal(theirs.alphas_cumprod, ours.alphas_cumprod)
    assert all(getattr(theirs.config, name) == value for name, value in vars(ours.config).items())
    expected = theirs.get_scalings_for_boundary_condition_discrete(every)
    assert all(map(torch.equal, boundary(every * ours.config.timestep_scaling), expected))
    for steps in range(1, 51):
        theirs.set_timesteps(steps)
        assert lcm_timesteps(ours, steps) == theirs.timesteps.tolist()


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("shape", ((4, 1, 1), (4, 16, 16), (3, 5, 9)))
@pytest.mark.parametrize("timesteps", ([499], [399, 159], [999, 499, 19], [799, 599, 399, 199]))
def test_consistency_step_agrees_with_diffusers(kind, shape, timesteps):
    scheduler = make_scheduler(kind)
    scheduler.set_timesteps(50)
    scalings = row_scalings(scheduler, timesteps)
    x_t, said = randn(len(timesteps), *shape, seed=1), randn(len(timesteps), *shape, seed=2)
    ours = consistency(x_t, predict_x0(said, x_t, scalings, kind), scalings)
    for k, t in enumerate(timesteps):
        torch.testing.assert_close(ours[k], scheduler.step(said[k], t, x_t[k]).denoised, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("steps", (2, 4))
@pytest.mark.parametrize("kind", ("epsilon", "sample"))
@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_whole_runs_are_diffusers_scheduler_step_by_step(kind, steps, dtype):
    """A nonlinear network, the scheduler's own timesteps, and the noise that its generator gives: after each step the
    same latents, and in the engine the same picture."""
    theirs, x0, said = (
        make_scheduler(kind),
        randn(1, 4, 16, 16, seed=8).to(dtype),
        lambda x, t: torch.sin(3 * x.flip(-1)) + x.roll(1, -2) * (t / 1000),
    )
    theirs.set_timesteps(steps)
    timesteps = theirs.timesteps.tolist()
    assert timesteps == lcm_timesteps(make_scheduler(kind), steps)
    scalings, encode = row_scalings(make_scheduler(kind), timesteps, dtype=dtype), randn(1, 4, 16, 16, seed=9).to(dtype)
    replay, generator = torch.Generator().manual_seed(10), torch.Generator().manual_seed(10)
    inject = [torch.randn(x0.shape, generator=replay, dtype=dtype) for _ in timesteps[1:]]
    start = x = add_noise(scalings, 0, x0, encode)
    assert relative(x, theirs.add_noise(x0, encode, torch.tensor(timesteps[:1]))) <= 1e-6
    other, errors = start, []
    for k, t in enumerate(timesteps):
        row = scalings.rows(k)
        ours = consistency(x, predict_x0(said(x, t), x, row, kind), row)
        out = theirs.step(said(other, t), t, other, generator=generator)
        x, other = ours if k + 1 == steps else add_noise(scalings, k + 1, ours, inject[k]), out.prev_sample
        errors += [relative(ours, out.denoised), relative(x, other)]
    print(f"{kind}, {steps} steps, {dtype}: largest relative difference {max(errors):.1e}")
    assert max(errors) <= 1e-6
    engine = StreamDenoiser(
        toy_unet().to(dtype),
        timesteps,
        window=4,
        warmup=0,
        scheduler=make_scheduler(kind),
        runner=lambda x, t, *rest: said(x, t.view(-1, 1, 1, 1)),
    )
    engine.warm_up(x0[:0], x0[:0], torch.zeros(1, 5, 16, dtype=dtype))
    assert relative(engine.step_sequential(x0, x0, dict(encode=encode, inject=torch.stack(inject))), other) <= 1e-6


def test_one_row_at_a_time_is_the_same_as_all_rows(scheduler):
    scalings = row_scalings(scheduler, [799, 599, 399, 199])
    x, z = randn(4, 4, 6, 8, seed=3), randn(4, 4, 6, 8, seed=4)
    x_t = add_noise(scalings, slice(None), x, z)
    for k in range(4):
        row = scalings.rows(k)
        one = add_noise(scalings, k, x[k:k + 1], z[k:k + 1])
        assert torch.equal(one[0], x_t[k]) and isinstance(row, RowScalings)
        together = consistency(x_t, predict_x0(z, x_t, scalings), scalings)
        assert torch.equal(consistency(one, predict_x0(z[k:k + 1], one, row), row)[0], together[k])
    assert torch.equal(scalings.rows(-1).alpha, scalings.alpha[3:]) and scalings.rows(slice(1, 3)).sigma.shape == (
        2,
        1,
        1,
        1,
    )


def test_the_right_answer_gives_the_picture_back(scheduler):
    scalings = row_scalings(scheduler, lcm_timesteps(scheduler), dtype=torch.float64)
    x, z = randn(50, 4, 3, 5, seed=5).double(), randn(50, 4, 3, 5, seed=6).double()
    x_t = add_noise(scalings, slice(None), x, z)
    for kind, said in dict(epsilon=z, sample=x, v_prediction=scalings.alpha * z - scalings.sigma * x).items():
        torch.testing.assert_close(predict_x0(said, x_t, scalings, kind), x, rtol=0, atol=1e-10)


def test_other_bad_input(scheduler):
    scalings = row_scalings(scheduler, [399, 159])
    with pytest.raises(ValueError, match="epsilon, sample, v_prediction"):
        make_scheduler("x0")
    with pytest.raises(ValueError, match="linear, scaled_linear"):
        make_scheduler(beta_schedule="cosine")
    with pytest.raises(ValueError, match="epsilon, sample, v_prediction"):
        predict_x0(randn(2, 4, 2, 2), randn(2, 4, 2, 2), scalings, "noise")
    with pytest.raises(ValueError, match="does not fit"):
        add_noise(scalings, 0, randn(1, 4, 2, 2), randn(1, 4, 2, 3))
    for bad in ([], [1000], [-1, 5], 399):
        with pytest.raises(ValueError, match="timesteps must"):
            row_scalings(scheduler, bad)


def test_imports_in_a_fresh_process_with_every_export_there():
    code = """from live2diff_nb.engine import lcm, masks
assert all(hasattr(m, name) for m in (lcm, masks) for name in m.__all__)"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
