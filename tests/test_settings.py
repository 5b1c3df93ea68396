"""What belongs to one stream: its settings, its words, its scenes, its schedules, and what it was given to read."""
import threading
import warnings

import av
import numpy as np
import pytest
import torch
from PIL import Image

from helpers import moving_clip
from live2diff_nb.live.worker import StreamTranslator
from live2diff_nb.pipeline.cuts import CutJudge
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.pipeline.plan import Plan
from live2diff_nb.video.sinks import open_sink
from live2diff_nb.video.sources import demo_clip, open_source, synthetic_scene
from live2diff_nb.weights.tiny import style_lora

CLIP = moving_clip(24)
SEVEN = "two children playing football in the park"
LORA = {str(style_lora("watercolour")): 0.8}


@pytest.fixture(scope="module")
def pipe():
    return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False)


def run(pipe, frames, **settings):
    return np.float32(list(pipe.stream(frames, **settings)))


def off(a, b):
    "Mean difference, grey levels."
    return np.abs(a - b).mean()


# ---- prompt and style ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("style", ["starry night", "watercolour", "etching", "cartoon"])
def test_a_longer_prompt_keeps_the_look_of_the_style(pipe, style):
    alone, others = run(pipe, CLIP[:9], prompt="", style=style), [s for s in pipe.styles if s != style]
    apart = min(off(alone, run(pipe, CLIP[:9], prompt="", style=other)) for other in others)
    for prompt in ("a cat in the garden", SEVEN, f"{SEVEN} with a big dog", "sunflowers", "dancing robots", "🙂 {x} {}"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert off(alone, run(pipe, CLIP[:9], prompt=prompt, style=style)) < 0.1 * apart, prompt


def test_what_is_cut_is_named_once(pipe):
    with pytest.warns(UserWarning) as told:
        run(pipe, [*CLIP[:12], *synthetic(12)], prompt=SEVEN, style="etching")               # warms up twice
    said = [str(w.message) for w in told if "left out" in str(w.message)]
    assert len(said) == 1 and "football in the park" in said[0]


@pytest.mark.parametrize("prompt", ["", " ", "word " * 10_000, "x" * 3000, "🙂🚀 é", "a\nb\tc", "{", "}{prompt} {0}"])
def test_any_prompt_paints(pipe, prompt):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert len(run(pipe, CLIP[:2], prompt=prompt, style="etching")) == 2 == len(run(pipe, CLIP[:2], prompt=prompt))


def synthetic(count, seed=0):
    return list(synthetic_scene(count, 64, 64, seed))


# ---- two streams, one pipeline ---------------------------------------------------------------------------------------
OWN = [
    dict(prompt="starry night"),
    dict(style="etching", prompt="a cat", strength=0.9, lora=LORA),
    dict(prompt="etching", steps=3, seed=5, fixed_noise=False),
    dict(style="cartoon", steps=1, similar=0.999),
    dict(prompt={0: "watercolour", 10: "etching"}, seed={0: 1, 9: 2}, fade=4, noise="fixed"),
]


def test_streams_in_turn_are_as_if_alone(pipe):
    "Prompts, styles, strengths, steps, LoRAs, seeds, schedules: bit-identical, and the pipeline stays as it was."
    before = {name: getattr(pipe, name) for name in ("prompt", "style", "strength", "steps", "lora", "fit")}
    alone = [run(pipe, CLIP[:14], **own) for own in OWN]
    turns = zip(*(pipe.stream(CLIP[:14], **own) for own in OWN))
    assert all(np.array_equal(a, np.float32(b)) for a, b in zip(alone, zip(*turns)))
    assert {name: getattr(pipe, name) for name in before} == before and not pipe.loras.active


def test_streams_in_threads_are_as_if_alone(pipe):
    found, alone = {}, [run(pipe, CLIP[:12], **own) for own in OWN[:3]]
    threads = [threading.Thread(target=lambda n=n: found.update({n: run(pipe, CLIP[:12], **OWN[n])})) for n in range(3)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(120)
    assert all(np.array_equal(alone[n], found[n]) for n in range(3))


def test_what_is_set_in_the_pipeline_reaches_all_that_run_and_no_more(pipe):
    pipe.prompt, pipe.style = "", None
    streams = [pipe.stream(iter(CLIP), prompt=prompt, change="soft") for prompt in ("starry night", "watercolour")]
    first = [next(stream) for stream in streams]
    pipe.prompt = "etching"
    rest = [np.float32(list(stream)) for stream in streams]
    pipe.prompt = ""
    plain = run(pipe, CLIP, prompt="etching")
    assert off(*map(np.float32, first)) > 20 and off(rest[0][-1], rest[1][-1]) < 5 > off(rest[0][-1], plain[-1])
    stream = pipe.stream(iter(CLIP), prompt="etching")
    next(stream)
    pipe.prompt = ""                                                     # to what the pipeline has already
    assert off(np.float32(list(stream))[-1], plain[-1]) > 20


def test_a_stream_left_midway_leaves_the_pipeline_right(pipe):
    weights, plain = pipe.unet.state_dict(), run(pipe, CLIP[:10], prompt="etching")
    before = {name: value.clone() for name, value in weights.items()}
    stream = pipe.stream(iter(CLIP), prompt="a photo", lora=LORA, strength=1.0)
    next(stream)
    assert any(not torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())
    stream.close()
    assert all(torch.equal(before[name], value) for name, value in pipe.unet.state_dict().items())
    assert np.array_equal(plain, run(pipe, CLIP[:10], prompt="etching")) and pipe.lora == {}


def test_times_are_those_of_the_last_stream_that_was_begun(pipe):
    a, b = pipe.stream(iter(CLIP[:12])), pipe.stream(iter(CLIP[:3]))
    list(a), list(b)
    assert len(pipe.latencies) == 3 and 0 < pipe.timings["unet"]


# ---- what is given ---------------------------------------------------------------------------------------------------
def test_a_path_is_opened(pipe, tmp_path):
    with open_sink(tmp_path / "films", 25) as sink:
        for frame in CLIP[:9]: sink.write(frame)
    frames = list(open_source(tmp_path / "films"))
    for given in (tmp_path / "films", str(tmp_path / "films")):
        assert np.array_equal(run(pipe, given), run(pipe, frames))
    with pytest.raises(FileNotFoundError, match="none.mp4"): pipe.stream("none.mp4")


@pytest.mark.parametrize("given", [CLIP[0], CLIP[0][..., 0], Image.fromarray(CLIP[0]), torch.from_numpy(CLIP[0])],
                         ids=type)
def test_one_picture_is_refused_with_the_remedy(pipe, given):
    with pytest.raises(ValueError, match=r"\[picture\]"): pipe.stream(given)


@pytest.mark.parametrize("given", [None, 3, 0.5, {}, {"a": 1}, set(), b"abc", len, np.zeros(4), ["a.png"]], ids=repr)
def test_what_holds_no_frames_is_refused(pipe, given):
    with pytest.raises(TypeError, match="frames"): pipe.stream(given)


def test_sequences_of_all_kinds(pipe):
    clip = np.stack(CLIP[:9])
    plain = run(pipe, CLIP[:9])
    for given in (clip, torch.from_numpy(clip), tuple(CLIP[:9]), (frame for frame in CLIP[:9])):
        assert np.array_equal(run(pipe, given), plain)
    assert len(run(pipe, clip[..., 0])) == 9 and not len(run(pipe, [])) and not len(run(pipe, clip[:0]))
    for wrong in (clip / 255, torch.from_numpy(clip).permute(0, 3, 1, 2)):
        with pytest.raises(ValueError): pipe.stream(wrong)


@pytest.mark.parametrize("count", [0, 3, 7, 8, 11])
def test_what_a_failing_source_gave_is_handed_out_first(pipe, count):
    def failing():
        yield from CLIP[:count]
        raise OSError("the camera is gone")
    out = []
    with pytest.raises(OSError, match="the camera is gone"):
        for frame in pipe.stream(failing(), steps=3): out.append(frame)
    assert len(out) == count and np.array_equal(np.float32(out), run(pipe, CLIP[:count], steps=3))


def test_bad_frames_are_not_named_for_ever(pipe):
    with pytest.warns(UserWarning) as told: list(pipe.stream([CLIP[0], *[None] * 100]))
    assert len(told) == 20 and "no more" in str(told[-1].message)


# ---- shapes ----------------------------------------------------------------------------------------------------------
def test_a_crop_that_costs_much_is_said_once(pipe):
    tall = list(np.random.default_rng(0).integers(0, 255, (12, 160, 90, 3), np.uint8))
    with pytest.warns(UserWarning) as told: list(pipe.stream(tall))
    assert len(told) == 1 and all(word in str(told[0].message) for word in ('44%', 'fit="pad"', "48 x 80"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not np.array_equal(run(pipe, tall, fit="stretch"), run(pipe, CLIP[:12]))
        run(pipe, [frame[:120] for frame in tall], fit="crop")                             # a quarter, not more
    with pytest.raises(ValueError, match="fit must be"): pipe.stream(tall, fit="zoom")


@pytest.mark.filterwarnings("ignore:.*is cut away")
def test_a_turned_phone_is_a_cut(pipe):
    "The picture in the middle stays the same: only the shape tells."
    wide = [np.pad(frame, ((0, 0), (50, 50), (0, 0))) for frame in CLIP]
    tall = [np.pad(frame, ((50, 50), (0, 0), (0, 0))) for frame in CLIP]
    turned = [*wide[:12], *tall[12:]]
    out, fresh, keep = (run(pipe, frames, style="etching", **more) for frames, more in
                        ((turned, {}), (tall[12:], {}), (turned, dict(on_cut="keep"))))
    assert len(out) == 24 and np.array_equal(out[12:], fresh) and not np.array_equal(out, keep)
    grown = [np.pad(f, ((5, 5), (0, 0), (0, 0))) if n > 12 else f for n, f in enumerate(CLIP)]     # a little: no cut
    assert np.array_equal(run(pipe, grown)[:12], run(pipe, CLIP)[:12]) and len(run(pipe, grown)) == 24


# ---- scene cuts ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("steps, first", [(1, 12), (2, 12), (3, 5), (2, 8), (2, 9)])
def test_after_a_cut_all_is_as_in_a_fresh_start(pipe, steps, first):
    spliced, how = [*CLIP[:first], *synthetic(12)], dict(style="etching", steps=steps, fixed_noise=False)
    out, before, fresh = (run(pipe, frames, **how) for frames in (spliced, CLIP[:first], synthetic(12)))
    assert len(out) == first + 12 and np.array_equal(out[:first], before) and np.array_equal(out[first:], fresh)
    kept, quick = (run(pipe, spliced, on_cut=kind, **how) for kind in ("keep", "repeat"))
    assert len(kept) == len(quick) == len(spliced) and off(kept[first:], fresh) > 0 < off(quick[first:], fresh)


def test_at_once_means_no_pause(pipe):
    "A live picture waits for one frame at a cut, where the cut is in doubt, not for a warmup."
    taken, arrived = [], []
    source = (taken.append(n) or frame for n, frame in enumerate([*CLIP[:12], *synthetic(12)]))
    for _ in pipe.stream(source, on_cut="repeat", steps=1): arrived.append(taken[-1])
    assert arrived[8:] == [8, 9, 10, 11, 13, *range(13, 24)]


def test_a_flash_is_no_cut(pipe):
    flash = [np.full_like(f, 255) if n == 12 else f for n, f in enumerate(CLIP)]
    assert np.array_equal(run(pipe, flash), run(pipe, flash, on_cut="keep"))
    with pytest.raises(ValueError, match="on_cut"): pipe.stream(CLIP, on_cut="restart")


def cuts(frames):
    judge, passed = CutJudge(), []
    for frame in frames: passed += judge(torch.from_numpy(frame)[None].permute(0, 3, 1, 2) / 127.5 - 1)
    passed += judge.rest()
    assert len(passed) == len(frames)
    return [n for n, (_, cut) in enumerate(passed) if cut]


def test_no_false_alarm_in_films():
    demo = list(open_source("demo"))
    dark = [(frame * 0.5).astype(np.uint8) for frame in demo]
    assert cuts(demo) == cuts(demo[:30] + dark[30:60]) == cuts([np.roll(demo[0], 20 * n, 1) for n in range(12)]) == []
    assert cuts(demo[:20] + list(synthetic_scene(20)) + demo[20:40]) == [20, 40]


# ---- schedules -------------------------------------------------------------------------------------------------------
def test_a_schedule_by_frames_is_the_settings_by_hand(pipe):
    def by_hand():
        for n, frame in enumerate(CLIP):
            if n == 12: pipe.prompt = "etching"
            yield frame
    expected = run(pipe, by_hand(), prompt="starry night")
    pipe.prompt = ""
    for prompt in ({0: "starry night", 12: "etching"}, {"0s": "starry night", "480 ms": "etching"}):
        assert np.array_equal(run(pipe, CLIP, prompt=prompt), expected)
    assert np.array_equal(run(pipe, CLIP, prompt={"3s": "starry night"}), run(pipe, CLIP, prompt="starry night"))


def test_a_fade_flows(pipe):
    a, b = (run(pipe, CLIP, prompt=prompt) for prompt in ("starry night", "etching"))
    out = run(pipe, CLIP, prompt={0: "starry night", 10: "etching"}, fade=8)
    way = [off(x, a[n]) / (off(x, a[n]) + off(x, b[n])) for n, x in enumerate(out)]
    assert np.array_equal(out[:10], a[:10]) and way[-1] > 0.8 and max(np.diff(way)) < 0.6
    assert sum(0.05 < share < 0.8 for share in way) >= 2


def test_seeds_travel(pipe):
    how = dict(prompt="etching", fixed_noise=True)
    a, b = (run(pipe, CLIP, seed=seed, **how) for seed in (1, 2))
    slow, sudden = (run(pipe, CLIP, seed={0: 1, 12: 2}, fade=fade, **how) for fade in (6, 0))
    assert np.array_equal(slow[:12], a[:12]) and np.array_equal(sudden[:11], a[:11])
    assert off(slow[-1], b[-1]) < off(slow[-1], a[-1]) and off(sudden[-1], b[-1]) < off(sudden[-1], a[-1])


def test_a_prompt_set_by_hand_ends_the_schedule(pipe):
    stream = pipe.stream(iter(CLIP), prompt={0: "starry night", 16: "cartoon"}, fade=2)
    next(stream)
    pipe.prompt = "etching"
    out = np.float32(list(stream))
    pipe.prompt = ""
    assert off(out[-1], run(pipe, CLIP, prompt="etching")[-1]) < off(out[-1], run(pipe, CLIP, prompt="cartoon")[-1])


@pytest.mark.parametrize("prompt, fade, said", [
    ({"4s": "a", "1s": "b"}, 0, "must grow"), ({"4 weeks": "a"}, 0, "no time"), ({0: 1, 9: "b", "2s": "c"}, 0, "both"),
    ({0: 3}, 0, "prompt must be a text"), ({}, 0, "needs a value"), ({0: "a"}, "soon", "is no time"),
    ({-1: "a"}, 0, "no time")], ids=str)
def test_wrong_schedules(pipe, prompt, fade, said):
    with pytest.raises(ValueError, match=said): pipe.stream(CLIP, prompt=prompt, fade=fade)


def test_a_live_stream_takes_a_cut_at_once(pipe):
    "Frame 12 begins a scene: its picture comes with frame 13, and no frame of the old scene is shown after it."
    pipe.steps, translator = 2, StreamTranslator(pipe)
    shown = [translator.feed(frame, n) for n, frame in enumerate([*CLIP[:12], *synthetic(6)])]
    assert [(n, s.tag) for n, s in enumerate(shown) if s.picture is not None] == [
        (7, 7), (9, 8), (10, 9), (11, 10), (13, 12), (14, 13), (15, 14), (16, 15), (17, 16)]


# ---- what another thread, a source or a name may do -----------------------------------------------------------------
def test_a_setting_from_another_thread_is_not_lost(pipe):
    for n in range(200):
        plan = Plan(pipe, 0, None)
        thread = threading.Thread(target=setattr, args=(pipe.settings, "prompt", f"number {n}"))
        thread.start()
        while thread.is_alive(): plan.follow()
        plan.follow()
        assert plan.settings.prompt == f"number {n}"


def test_a_schedule_in_seconds_goes_by_the_films_own_times(pipe, tmp_path):
    with open_sink(tmp_path / "film.mp4") as film:
        for n, frame in enumerate(CLIP): film.write(frame, 0.04 * min(n, 5) + 0.5 * max(n - 5, 0))   # 5 is at 0.2 s
    def change(**more):
        a, b = (run(pipe, str(tmp_path / "film.mp4"), prompt=prompt, on_cut="keep", **more)
                for prompt in ("etching", {"0s": "etching", "3s": "watercolour"}))
        return next(n for n, (x, y) in enumerate(zip(a, b)) if off(x, y) > 3)
    assert change() == 11 and change(fps=6) == 18                              # 3.2 s; a rate that is given counts


def test_frames_of_pyav(pipe):
    with av.open(str(demo_clip())) as film: frames = [frame for _, frame in zip(range(9), film.decode(video=0))]
    arrays = [frame.to_ndarray(format="rgb24") for frame in frames]
    assert np.array_equal(run(pipe, frames, prompt="etching"), run(pipe, arrays, prompt="etching"))


@pytest.mark.parametrize("name, value", [("change", "sofft"), ("change", ["cut"]), ("refresh", "on"),
                                         ("noise", ["fresh"]), ("style", ["etching"])])
def test_a_wrong_value_is_refused_when_it_is_set(pipe, name, value):
    with pytest.raises(ValueError, match=f"{name} "): setattr(pipe, name, value)


def test_a_stream_of_several_has_the_pipelines_change_and_refresh(pipe):
    pipe.change, streams = "soft", pipe.streams()
    try: run_of = streams.open({}).session.run
    finally: pipe.change = "cut"
    assert (run_of.change, run_of.how["refresh"]) == ("soft", "auto")
    with pytest.raises(ValueError, match="no setting promt: choose from prompt"): streams.open({"promt": "x"})
