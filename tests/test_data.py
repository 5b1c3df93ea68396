"Clips: exact flow and depth, films with cuts and damage, mixtures, shards, kept paintings, all by seed and number."
import multiprocessing
import pickle
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from live2diff_nb.data.films import VideoClips, caption_of, has_cut, read_clip
from live2diff_nb.data.pictures import pair_photographs
from live2diff_nb.data.shards import Mixture, PaintedClips, ShardClips, kept, write_shards
from live2diff_nb.data.teachers import STYLES, TEACHERS
from live2diff_nb.data.camera import PhotoClips, view_matrices
from live2diff_nb.judge.metrics import motion, warp, warp_error
from live2diff_nb.data.rays import Poses, Thing, make_mips, make_rays, take_view, trace
from live2diff_nb.data.worlds import RenderedClips, exact_motion
from live2diff_nb.video.sources import demo_clip
from live2diff_nb.video.sinks import open_sink


@pytest.fixture(scope="module")
def rendered(): return [RenderedClips(frames=4, size=96, seed=1)[i] for i in range(6)]


def missed(clip, back):
    "How far off the next frame is when each frame is moved along `back`, in steps of 255, where it was seen before."
    pairs = zip(clip["photo"], clip["photo"][1:], back, clip["seen"])
    return np.mean([np.abs(warp(a / 255, f) - b / 255)[seen].mean() * 255 for a, b, f, seen in pairs])


def test_exact_flow_brings_each_frame_onto_the_next(rendered):
    for clip in rendered:
        assert missed(clip, clip["back"]) < 2.5
    along, against, none = (np.mean([missed(clip, sign * clip["back"]) for clip in rendered]) for sign in (1, -1, 0))
    assert along < 1.5 and along < 0.35 * none and none < against


def test_flow_forth_and_back_undo_each_other(rendered):
    for clip in rendered:
        for forth, back, seen in zip(clip["flow"], clip["back"], clip["seen"]):
            gap = np.linalg.norm(back + warp(forth, back), axis=-1)[seen]
            assert gap.mean() < 0.05


def test_something_is_hidden_and_most_is_not(rendered):
    for name in ("seen", "stays"):
        shares = [clip[name].mean() for clip in rendered]
        assert all(0.4 < share < 1 for share in shares)


def wall(depths):
    "A textured wall before the camera, `depths` a frame, seen head-on."
    upright = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])                 # the plane's y axis looks at the camera
    poses = Poses(np.stack([upright] * len(depths)), np.array([[0, 0, z] for z in depths], float))
    return [Thing("plane", np.ones(3), poses, make_mips(np.full((64, 64, 3), 90, np.uint8)), 1.0)]


def test_depth_and_flow_of_an_approaching_wall_are_the_formulas():
    rays, things = make_rays(32, 40.0), wall([4, 2])
    views = [take_view(things, k, rays, 40.0) for k in range(2)]
    assert np.allclose(views[0].depth, 4) and np.allclose(views[1].depth, 2)
    flow, stays = trace(views[0], views[1], things, 1, rays, 40.0)
    assert np.allclose(flow, 40 * rays[..., :2], atol=1e-4)  # twice as near: twice as far from the centre
    assert stays[10:22, 10:22].all() and not stays[:7].any() and not stays[:, :7].any()


def test_depth_is_not_distance():
    rays = make_rays(33, 20.0)
    depth = take_view(wall([3]), 0, rays, 20.0).depth
    assert depth[0, 0] == pytest.approx(depth[16, 16])  # along the optical axis, not along the ray


def test_a_moving_thing_moves_before_a_still_camera():
    rays, ball = make_rays(48, 48.0), lambda x: np.array([[v, 0, 4.0] for v in x])
    poses = Poses(np.stack([np.eye(3)] * 2), ball([0, 0.25]))
    things = wall([8, 8]) + [Thing("ball", np.full(3, 0.5), poses, make_mips(np.full((64, 64, 3), 200, np.uint8)), 1.0)]
    a, b = (take_view(things, k, rays, 48.0) for k in range(2))
    flow, _ = trace(a, b, things, 1, rays, 48.0)
    assert np.allclose(flow[a.which == 0], 0, atol=1e-5) and (flow[a.which == 1][:, 0] > 2.9).all()
    assert np.abs(flow[a.which == 1][:, 1]).max() < 0.5
    seen = trace(b, a, things, 0, rays, 48.0)[1]
    assert not seen[(a.which == 1) & (b.which == 0)].any()                     # the wall that the ball has left


def test_warp_error_of_rendered_clips_is_small_with_exact_and_with_estimated_flow(rendered):
    for clip in rendered[:3]:
        assert warp_error(clip["photo"], exact_motion(clip)) < 2e-4
    errors = [warp_error(clip["photo"], motion(clip["photo"])) for clip in rendered[:3]]
    assert np.mean(errors) > np.mean([warp_error(clip["photo"], exact_motion(clip)) for clip in rendered[:3]])


def equal(a, b): return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_one_seed_one_stream_wherever_one_begins(rendered):
    again = RenderedClips(frames=4, size=96, seed=1, start=4)
    assert equal(next(iter(again)), rendered[4]) and equal(pickle.loads(pickle.dumps(again))[2], rendered[2])
    assert not np.array_equal(RenderedClips(frames=4, size=96, seed=2)[0]["photo"], rendered[0]["photo"])


def test_another_process_draws_the_same_clip(rendered):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert equal(pool.apply(RenderedClips.__getitem__, (RenderedClips(frames=4, size=96, seed=1), 3)), rendered[3])


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="at least 1 frame"): RenderedClips(frames=0)


# ---- films -----------------------------------------------------------------------------------------------------------

@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "a_rabbit"
    folder.mkdir()
    (folder / "good.mp4").write_bytes(demo_clip().read_bytes())
    return folder


def test_a_run_from_the_middle_is_what_reading_from_the_start_gives():
    whole = read_clip(demo_clip(), 0, 100)
    for start in (0.5, 1.7, 3.1):
        part = read_clip(demo_clip(), start, 5)
        at = [k for k in range(95) if np.array_equal(whole[k], part[0])][0]
        assert all(np.array_equal(whole[at + k], part[k]) for k in range(5))


def test_broken_films_are_named_counted_and_left_out(films):
    (films / "broken.mp4").write_bytes(b"nothing")
    (films / "empty.mp4").write_bytes(b"")
    with pytest.warns(UserWarning) as told: clips = VideoClips(films.parent, frames=4, size=48)
    assert {path.split("/")[-1] for path in clips.broken} == {"broken.mp4", "empty.mp4"}
    assert any("broken.mp4 (1 skipped so far)" in str(w.message) for w in told)
    assert any("empty.mp4 (2 skipped" in str(w.message) for w in told)
    assert clips[0]["photo"].shape == (4, 48, 48, 3)


def test_a_film_cut_off_in_the_middle_does_not_stop_the_stream(films):
    whole = (films / "good.mp4").read_bytes()
    (films / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clips = VideoClips(films, frames=4, size=32)
        assert len([clips[i] for i in range(10)]) == 10


def test_films_are_a_function_of_seed_and_number(films):
    one, two = VideoClips(films, frames=4, size=48, seed=3), VideoClips(films, frames=4, size=48, seed=3)
    assert equal(one[5], two[5]) and equal(pickle.loads(pickle.dumps(one))[5], two[5])
    assert not np.array_equal(one[5]["photo"], one[6]["photo"])


def test_no_clip_holds_a_scene_cut(tmp_path):
    frames = read_clip(demo_clip(), 0, 20)
    with open_sink(tmp_path / "two.mp4") as sink:
        for frame in (*frames, *(255 - f for f in frames)): sink.write(frame)
    whole = read_clip(tmp_path / "two.mp4", 0, 40)
    assert has_cut(whole) and not has_cut(whole[:20]) and not has_cut(whole[20:])
    clips = VideoClips(tmp_path, frames=8, size=64, tries=50)
    assert not any(has_cut(clips[i]["photo"]) for i in range(20))


def test_nowhere_and_no_film(tmp_path):
    with pytest.raises(ValueError, match="is not there"): VideoClips(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="no readable film"): VideoClips(tmp_path)
    (tmp_path / "x.mp4").write_bytes(demo_clip().read_bytes())
    with pytest.raises(ValueError, match="without a cut"): VideoClips(tmp_path, frames=1000)[0]


def test_captions(films):
    film = films / "good.mp4"
    assert caption_of(film) == "a rabbit"
    film.with_suffix(".json").write_text('{"caption": "it yawns"}')
    assert caption_of(film) == "it yawns"
    film.with_suffix(".txt").write_text("it wakes up")
    assert VideoClips(films, frames=2, size=32)[0]["caption"] == "it wakes up"


# ---- mixtures, paintings, shards --------------------------------------------------------------------------------

def stacks(): return list(np.random.default_rng(0).integers(0, 256, (2, 1 + len(STYLES), 48, 56, 3), np.uint8))


def test_a_mixture_keeps_its_shares_and_its_place(films):
    parts = [PhotoClips(stacks(), frames=2, size=32), RenderedClips(frames=2, size=32),
             VideoClips(films, frames=2, size=32)]
    mixed = Mixture(parts, [1, 2, 1], seed=4)
    kinds = ["depth" if "depth" in mixed[i] else "styled" if "styled" in mixed[i] else "film" for i in range(60)]
    assert 20 <= kinds.count("depth") <= 40 and 6 <= kinds.count("styled") <= 25 and 6 <= kinds.count("film") <= 25
    assert equal(mixed[17], pickle.loads(pickle.dumps(mixed))[17])
    for wrong in ([1, 2], [1, 2, 0], [1, 2, -1]):
        with pytest.raises(ValueError, match="one positive weight"): Mixture(parts, wrong)


def test_a_teacher_paints_each_frame_once(tmp_path):
    calls, frame = [], np.random.default_rng(0).integers(0, 256, (20, 24, 3), np.uint8)
    def teacher(x):
        calls.append(1)
        return x[:, ::-1]
    for _ in range(2): assert np.array_equal(kept(teacher, tmp_path)(frame), frame[:, ::-1])
    assert len(calls) == 1
    kept(teacher, tmp_path)(frame.reshape(24, 20, 3))  # the same bytes in another shape are another frame
    kept(teacher, tmp_path, "other")(frame)
    assert len(calls) == 3 and not list(tmp_path.rglob("*.part"))


def test_painted_clips_keep_the_photo_and_add_the_painting(tmp_path):
    clips = RenderedClips(frames=2, size=32, flow=False)
    painted = PaintedClips(clips, {"cartoon": TEACHERS["cartoon"]}, tmp_path)[1]
    assert np.array_equal(painted["photo"], clips[1]["photo"])
    assert np.array_equal(painted["styled"], np.stack([TEACHERS["cartoon"](frame) for frame in clips[1]["photo"]]))


def test_shards_give_back_every_clip_once_a_round_in_another_order(tmp_path):
    pytest.importorskip("webdataset")
    clips = RenderedClips(frames=2, size=32)
    write_shards(clips, tmp_path, 11, each=4)
    read = ShardClips(tmp_path, seed=2)
    rounds = [[read[r * 11 + i]["source"] for i in range(11)] for r in range(2)]
    assert sorted(rounds[0]) == sorted(rounds[1]) == sorted(clips[i]["source"] for i in range(11))
    assert rounds[0] != rounds[1]
    assert ShardClips(tmp_path, seed=2)[15]["source"] == rounds[1][4]
    one = read[3]
    assert equal(one, clips[int(one["source"].split("/")[-1])])


def test_a_damaged_shard_is_named_and_counted(tmp_path):
    pytest.importorskip("webdataset")
    shards = write_shards(RenderedClips(frames=2, size=32), tmp_path, 8, each=4)
    shards[1].write_bytes(shards[1].read_bytes()[: shards[1].stat().st_size // 2])
    read = ShardClips(tmp_path)
    with pytest.warns(UserWarning, match=shards[1].name): assert len([read[i] for i in range(8)]) == 8
    assert list(read.broken) == [shards[1].name]
    with pytest.raises(ValueError, match="write_shards"): ShardClips(tmp_path / "nowhere")


def test_the_middle_of_the_frame_looks_at_the_centre_however_the_camera_turns():
    centre, angle = np.array([[40.0, 25.0]] * 3), np.array([0.0, 0.3, -1.2])
    middle = np.array([31.5, 31.5, 1])
    for matrix in view_matrices(centre, np.array([1.0, 1.3, 0.8]), angle, 64):
        assert np.allclose(matrix @ middle, [40, 25])


# ---- captions, and films that lie ------------------------------------------------------------------------------------

@pytest.mark.parametrize("encoding", ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"))
def test_captions_of_any_encoding(films, encoding):
    film = films / "good.mp4"
    with warnings.catch_warnings(record=True, action="always") as told:
        film.with_suffix(".txt").write_bytes("ein Häschen\r\nim Café\r\n".encode(encoding))
        assert caption_of(film) == "ein Häschen\nim Café"
        film.with_suffix(".txt").unlink()
        film.with_suffix(".json").write_bytes('{\r\n"caption": "ein Häschen"}'.encode(encoding))
        assert caption_of(film) == "ein Häschen"
        film.with_suffix(".json").unlink()
        (films / "captions.csv").write_bytes("file;caption\r\ngood.mp4;ein Häschen\r\n".encode(encoding))
        assert VideoClips(films, frames=2, size=32)[0]["caption"] == "ein Häschen"
    assert [str(w.message).split(":")[0].split("/")[-1] for w in told] == (
        ["good.txt, line 1 is not UTF-8", "good.json, line 2 is not UTF-8", "captions.csv, line 2 is not UTF-8"]
        if encoding == "cp1252" else [])


def test_a_broken_caption_file_falls_back_on_the_list(films):
    (films / "good.json").write_text('{"caption": ')
    (films / "metadata.jsonl").write_text('{"file_name": "good.mp4", "text": "it yawns"}\n')
    with pytest.warns(UserWarning, match="good.json is left out, it is no JSON") as told:
        clips = VideoClips(films, frames=2, size=32)
        assert [clips[i]["caption"] for i in range(3)] == ["it yawns"] * 3 and len(told) == 1


LISTS = {
    "a.csv": ('file,caption\ngood.mp4,one\nnowhere.mp4,two\n\ngood.mp4,again\nother.mp4\n"x.mp4,three\n'
              'other.mp4,four\n',
              ["line 3: nowhere.mp4 is not there", "line 4 is empty", "line 5: good.mp4 has a caption already",
               "line 6 has 1 columns, not 2", "line 7 is broken"]),
    "a.jsonl": ('{"video": "good.mp4", "caption": "one"}\n{"video": "x.mp4"\n{"video": "x.mp4"}\n[1]\n\n'
                '{"path": "other", "prompt": "four"}\n',
                ["line 2 is broken JSON", "line 3 has no caption", "line 4 is no object", "line 5 is empty"]),
    "a.txt": ("good.mp4 one\nno name of a film\nother.mp4 | four\n", ["line 2 is not `clip.mp4 what it shows`"])}


@pytest.mark.parametrize("name", LISTS)
def test_a_bad_line_is_named_and_the_rest_goes_on(films, name):
    (films / "other.mp4").write_bytes((films / "good.mp4").read_bytes())
    text, says = LISTS[name]
    (films / name).write_text(text)
    with pytest.warns(UserWarning, match=f"{name}: {len(says)} of {len(says) + 2} lines left out") as told:
        clips = VideoClips(films / name, frames=2, size=32)                    # a list in place of a folder
    assert all(said in str(told[0].message) for said in says) and len(told) == 1
    assert {path.name: text for path, text in clips.captions.items()} == {"good.mp4": "one", "other.mp4": "four"}
    (films / name).write_text("absent, bad\n" * 3)
    with pytest.raises(ValueError, match=f"{name} gives no caption of a file that is there"): VideoClips(films / name)


class Pipe:
    "A file that cannot be rewound, as a browser's recorder writes: no length gets into it."
    def __init__(self, path): self.file = path.open("wb")
    def write(self, data): return self.file.write(data)


def recording(path, times, rate=1000):
    "A film with a nominal rate, its frames at `times` milliseconds, each a shade lighter, and no length told."
    pipe = Pipe(path)
    with av.open(pipe, "w", format="matroska") as film:
        stream = film.add_stream("libx264", rate=rate, options={"g": "10", "bf": "0"})
        stream.width = stream.height = 64
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for k, t in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 + k, np.uint8), format="rgb24")
            frame.pts, frame.time_base = t, Fraction(1, 1000)
            film.mux(stream.encode(frame))
        film.mux(stream.encode())
    pipe.file.close()


def test_recordings_without_length_and_with_a_nonsense_rate_give_clips_from_everywhere(tmp_path):
    for n, step in enumerate((200, 33)): recording(tmp_path / f"{n}.mkv", [step * k for k in range(80)])
    clips = VideoClips(tmp_path, frames=16, size=32)
    assert [round(seconds, 1) for _, seconds in clips.films] == [15.8, 2.6]
    starts = {(clip["source"][-5], int(clip["photo"][0].mean())) for clip in (clips[i] for i in range(30))}
    for n in "01": assert len({level // 12 for source, level in starts if source == n}) >= 4
    assert all(len(clips[i]["photo"]) == 16 for i in range(10))


def test_a_few_frames_a_second_are_enough(tmp_path):
    recording(tmp_path / "slow.mkv", [500 * k for k in range(20)], rate=2)
    clips = VideoClips(tmp_path, frames=16, size=32, tries=1)
    assert [len(clips[i]["photo"]) for i in range(8)] == [16] * 8


def test_a_picture_of_the_same_name_is_painted_anew(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    for folder, level in (("a", 10), ("b", 200)):
        Image.fromarray(np.full((64, 64, 3), level, np.uint8)).save(tmp_path / folder / "same.png")
    teachers = {"negative": lambda frame: 255 - frame}
    paths = [pair_photographs(tmp_path / folder, teachers, tmp_path / "pairs", sides=(64,)) for folder in "aba"]
    levels = [int(np.load(found).mean((1, 2, 3))[0]) for (found,) in paths]
    assert levels == [10, 200, 10] and len(list((tmp_path / "pairs").glob("*.npy"))) == 2


def test_damaged_stacks_and_indices_are_named(tmp_path):
    np.save(tmp_path / "good.npy", stacks()[0])
    (tmp_path / "bad.npy").write_bytes(b"no array")
    with pytest.warns(UserWarning, match="left out .*bad.npy"): assert len(PhotoClips(tmp_path, frames=1).stacks) == 1
    for text in ("[1]", "{", "{}", '{"a.tar": "x"}'):
        (tmp_path / "index.json").write_text(text)
        with pytest.raises(ValueError, match="index.json lists no shards"): ShardClips(tmp_path)
