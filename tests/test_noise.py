"""Noise as a choice: where each cell of warped noise goes, that none is there twice, and what streams make of it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import live2diff_nb
from helpers import moving_clip, random_latents, toy_unet
from live2diff_nb.cli import make_parser
from live2diff_nb.engine.noise import NOISES, Cells, FrameNoise, carry
from live2diff_nb.engine.stream import StreamDenoiser
from live2diff_nb.judge.score import pick_methods
from live2diff_nb.live.settings import SETTINGS
from live2diff_nb.live.worker import StreamTranslator
from live2diff_nb.options import replayed
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.pipeline.session import Session
from live2diff_nb.video.sources import synthetic_scene

CLIP = moving_clip(24)
SCENE = list(synthetic_scene(12, 64, 64, 0))


@pytest.fixture(scope="module")
def pipe():
    return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False)


def run(pipe, frames, noise="warped", **settings):
    return np.float32(list(pipe.stream(frames, noise=noise, **settings)))


# ---- where cells go --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("seed", range(4))
def test_no_cell_is_taken_twice_and_the_nearer_gets_it(seed):
    random = np.random.default_rng(seed)
    rest = np.zeros((9, 7, 2))
    for _ in range(20):
        taken, rest = carry(random.normal(0, 2, (9, 7, 2)), rest)
        used = taken[taken >= 0]
        assert len(set(used)) == len(used) and used.max() < 63 and np.abs(rest).max() <= 0.5


@pytest.mark.parametrize("step", [(1, 0), (0, -2), (3, 3), (-1, 2)])
def test_a_whole_shift_moves_every_cell_that_stays_in_view(step):
    taken, rest = carry(np.full((8, 8, 2), step, float), np.zeros((8, 8, 2)))
    numbers = np.pad(np.arange(64).reshape(8, 8), 8, constant_values=-1)
    assert np.array_equal(taken, numbers[8 + step[1]:16 + step[1], 8 + step[0]:16 + step[0]]) and not rest.any()


def test_slow_motion_is_not_lost_by_rounding():
    place, rest = np.arange(16 * 16).reshape(16, 16), np.zeros((16, 16, 2))
    for _ in range(40):
        taken, rest = carry(np.full((16, 16, 2), (0.1, 0.0)), rest)
        place = np.where(taken < 0, -1, place.ravel()[taken])
    assert np.array_equal(place[:, :12], np.arange(256).reshape(16, 16)[:, 4:]) and (place[:, 12:] == -1).all()


def test_rows_channels_and_seeds_have_noises_of_their_own_that_move_alike():
    cells = Cells()
    generator = torch.Generator().manual_seed(0)
    wide = torch.nn.functional.interpolate(torch.randn(1, 3, 16, 40, generator=generator), (128, 320), mode="bicubic")
    for n in range(8): cells.see(wide[..., 8 * n:8 * n + 128].clamp(-1, 1), n, (16, 16))     # one cell a frame
    like = torch.zeros(1, 5, 16, 16)
    for noise in (FrameNoise(0, "warped", cells), FrameNoise(1, "warped", cells)):
        first, last = noise.frames([0, 7], 3, like).unbind(1)
        pair = torch.stack([last[..., 1:-1, :8].flatten(2), first[..., 1:-1, 7:15].flatten(2)], 2).flatten(0, 1)
        assert min(float(torch.corrcoef(both)[0, 1]) for both in pair) > 0.8
        assert torch.corrcoef(first.flatten(2).flatten(0, 1)).fill_diagonal_(0).abs().max() < 0.35
        assert torch.equal(noise(3, 2, like), noise(3, 3, like)[:2])
    assert not torch.equal(FrameNoise(0, "warped", cells)(0, 1, like), FrameNoise(1, "warped", cells)(0, 1, like))


# ---- streams ---------------------------------------------------------------------------------------------------------
def test_streams_of_warped_noise_repeat_and_do_not_mix(pipe):
    own = [dict(style="etching"), dict(style="cartoon", steps=3, seed={0: 1, 9: 2}, fade=4), dict(seed=3)]
    frames = [CLIP, CLIP[::-1], SCENE * 2]
    alone = [run(pipe, clip[:14], **how) for clip, how in zip(frames, own)]
    turns = zip(*(pipe.stream(clip[:14], noise="warped", **how) for clip, how in zip(frames, own)))
    assert all(np.array_equal(a, np.float32(b)) for a, b in zip(alone, zip(*turns)))
    assert pipe.noise == "off" and not np.array_equal(alone[0], run(pipe, CLIP[:14], "fixed", style="etching"))


def test_the_noise_of_a_still_clip_stays():
    "A new warmup, another number of steps and pictures that are shown again change nothing of it."
    cells, picture = Cells(), torch.rand(1, 3, 64, 64)
    for n in range(12): cells.see(picture, n, (8, 8))
    noise = FrameNoise(0, "warped", cells)
    drawn = noise.frames(range(14), 2, torch.zeros(1, 4, 8, 8))
    assert (drawn == drawn[:, :1]).all()


@pytest.mark.parametrize("steps, first", [(3, 5), (2, 9)])
def test_after_a_cut_warped_noise_is_as_in_a_fresh_start(pipe, steps, first):
    spliced, how = [*CLIP[:first], *SCENE], dict(style="etching", steps=steps)
    out, before, fresh = (run(pipe, frames, motion_strength=True, **how) for frames in (spliced, CLIP[:first], SCENE))
    assert np.array_equal(out[:first], before) and np.array_equal(out[first:], fresh)
    assert len(run(pipe, spliced, on_cut="repeat", **how)) == len(spliced)


def test_a_new_warmup_has_the_noise_of_its_frames(pipe):
    "A setting is changed and changed back: the cells of the latest frames are still known."
    seen = {}
    session = Session(pipe, 0, "warped", "cut")
    with torch.inference_mode():
        for number, frame in enumerate(CLIP):
            session.take(pipe.to_pictures([frame]))
            seen |= session.cells.told
            if number == 15: session.settings.style = "etching"
    session.close()
    assert sorted(seen) == list(range(24)) and len(session.cells.told) == pipe.warmup + 1
    assert all(np.array_equal(seen[n], born) for n, born in session.cells.told.items())


def test_the_kind_may_change_while_a_stream_runs(pipe):
    def source():
        for number, frame in enumerate(CLIP):
            if number == 12: pipe.noise = "warped"
            yield frame
    try: changed = np.float32(list(pipe.stream(source(), style="etching")))
    finally: pipe.noise = "off"
    usual = run(pipe, CLIP, "off", style="etching")
    assert len(changed) == 24 and np.array_equal(changed[:11], usual[:11]) and not np.array_equal(changed, usual)


@pytest.mark.parametrize("steps", [1, 3])
def test_pipelined_and_sequential_agree_on_warped_noise(steps):
    unet, (latents, depth, text), timesteps = toy_unet(), random_latents(12), [499, 299, 99][:steps]
    outs = []
    for method in ("step", "step_sequential"):
        engine = StreamDenoiser(unet, timesteps, 6, 3, noise="warped")
        for n, frame in enumerate(CLIP[:12]):
            engine.noise.cells.see(torch.from_numpy(frame).permute(2, 0, 1)[None] / 127.5 - 1, n, latents.shape[-2:])
        out = [engine.warm_up(latents[:3], depth[:3], text)]
        out += [getattr(engine, method)(x, d) for x, d in zip(latents[3:].split(1), depth[3:].split(1))]
        outs.append(torch.cat([x for x in [*out, *engine.drain()] if x is not None]))
    assert torch.allclose(*outs, atol=1e-4)


def test_latents_alone_cannot_have_warped_noise(pipe):
    unet, (latents, depth, text) = toy_unet(), random_latents(4)
    with pytest.raises(ValueError, match="none was shown: stream pictures"):
        StreamDenoiser(unet, [399], 6, 3, noise="warped").warm_up(latents[:3], depth[:3], text)
    session = Session(pipe, 0, "warped", "cut")
    encoded = pipe.encode(pipe.to_pictures([CLIP[0]]), session.scale)
    with pytest.raises(ValueError, match="choose noise='fixed'"), torch.inference_mode():
        for _ in range(8): session.push(encoded)


# ---- one setting, many places ----------------------------------------------------------------------------------------
def test_the_older_spelling_is_the_same_setting(pipe):
    for fixed, kind in ((True, "fixed"), (False, "fresh")):
        assert np.array_equal(run(pipe, CLIP[:9], kind), run(pipe, CLIP[:9], None, fixed_noise=fixed))
        loaded = Live2Diff.from_parts(dict(unet=pipe.unet, vae=pipe.vae, depth=pipe.depth, scheduler=pipe.scheduler,
                                           text_encoder=pipe.text_encoder, tokenizer=pipe.tokenizer, factor=pipe.factor,
                                           fixed_noise=fixed))
        assert loaded.noise == kind and loaded.fixed_noise is fixed
        assert StreamDenoiser(toy_unet(), [399], fixed_noise=fixed).noise.kind == kind
    with pytest.raises(ValueError, match="fresh, fixed, warped, off, got 'still'"): pipe.stream(CLIP, noise="still")


def test_a_settings_file_says_the_noise_and_the_command_line_wins(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(dict(noise="warped", motion_strength=True)))
    base = ["translate", "a.mp4", "b.mp4", "--settings", str(file)]
    by_file = make_parser(replayed(make_parser().parse_args(base)))
    told = by_file.parse_args(base), by_file.parse_args([*base, "--noise", "fresh"])
    assert [(args.noise, args.motion_strength) for args in told] == [("warped", True), ("fresh", True)]
    file.write_text(json.dumps(dict(noise="still")))
    with pytest.raises(ValueError, match="noise in .*mine.json cannot be 'still'"):
        replayed(make_parser().parse_args(base))


def test_a_live_stream_takes_over_the_noise(pipe):
    live, answered = StreamTranslator(pipe), []
    try:
        for number, frame in enumerate(CLIP):
            if number == 12: pipe.noise = "warped"
            answered.append(live.feed(frame, number).picture is not None)
    finally: pipe.noise = "fixed"
    assert live.session.settings.noise == "warped" and live.session.engine.noise.kind == "warped" and all(answered[14:])


def test_without_noise_every_seed_gives_the_same_pictures(pipe):
    how = dict(style="starry night", noise="off")
    first, second = (run(pipe, CLIP[:12], seed=seed, **how) for seed in (0, 7))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, run(pipe, CLIP[:12], "fixed", style="starry night"))
    travelling = run(pipe, CLIP[:12], seed={"0s": 1, "0.2s": 2}, fade="0.2s", **how)
    assert np.array_equal(first, travelling)
    ways = pick_methods(pipe, ["alone_off", "ours_off"])
    alone, stream = (way.translate(CLIP[:9], "", "cartoon", None, 0) for way in ways)
    assert np.array_equal(stream, run(pipe, CLIP[:9], "off", prompt="", style="cartoon")) and len(alone) == 9


def test_the_widget_and_the_command_line_know_every_kind():
    page = (Path(live2diff_nb.__file__).parent / "assets/live.js").read_text()
    for kind in NOISES:
        assert SETTINGS["noise"](kind) and f"<option>{kind}</option>" in page
        assert make_parser().parse_args(["translate", "a.mp4", "b.mp4", "--noise", kind]).noise == kind


def test_the_judge_knows_warped_noise(pipe):
    ways = pick_methods(pipe, ["ours_warped", "alone_warped", "ours_one"])
    assert [way.constants["noise"] for way in ways] == ["warped", "warped", "one"]
    still = [CLIP[0]] * 3
    out, alone, one = (way.translate(still if way.name != "ours_warped" else CLIP[:9], "", "cartoon", None, 0)
                       for way in ways)
    assert np.array_equal(out, run(pipe, CLIP[:9], prompt="", style="cartoon")) and np.array_equal(alone[0], alone[2])


# ---- strength by motion ----------------------------------------------------------------------------------------------
def test_less_strength_while_much_moves_and_all_of_it_at_rest(pipe):
    how = dict(style="starry night", strength=0.8, noise="fixed")
    assert np.array_equal(*(run(pipe, [CLIP[0]] * 14, motion_strength=on, **how) for on in (False, True)))
    levels = []
    session = Session(pipe, 0, "fixed", "cut", given=dict(strength=0.8, motion_strength=True))
    jumps = [frame if n < 12 else np.roll(frame, 20 * n, 1) for n, frame in enumerate([CLIP[0]] * 24)]
    with torch.inference_mode():
        for frame in jumps:
            session.take(pipe.to_pictures([frame]))
            if session.engine: levels.append(session.engine.levels.entries[0][0])
    session.close()
    assert levels[0] == levels[4] == pipe.settings.copy(dict(strength=0.8)).timesteps()[0] > levels[-1] > 0
    assert len(session.engine.levels.entries) == pipe.steps and session.engine.count == 24
