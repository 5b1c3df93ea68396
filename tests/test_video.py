"""Sources and sinks: what goes in comes out, and what is broken says so."""
import warnings
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from live2diff_nb.video.drawn import synthetic_scene
from live2diff_nb.video.shown import check_frame, resize_frame, rgb_frame, side_by_side
from live2diff_nb.video.sinks import VideoSink, open_sink, progress
from live2diff_nb.video.sources import demo_clip, open_source, probe_video


def scene(n=12, height=48, width=64): return np.stack(list(synthetic_scene(n, height, width)))


def write(path, frames, fps=25, **options):
    with open_sink(path, fps, **options) as sink:
        for frame in frames: sink.write(frame)
    return path


def off(a, b): return np.abs(a.astype(int) - b).mean()


def test_demo_clip():
    with open_source("demo") as source:
        frames = list(source)
    assert len(frames) == 120 == source.frames and source.fps == 25
    assert frames[0].shape == (256, 256, 3) and frames[0].dtype == np.uint8
    assert demo_clip().stat().st_size < 600_000
    assert "CC BY 3.0" in demo_clip().with_name("demo.LICENSE.txt").read_text()


@pytest.mark.parametrize("height, width", [(48, 64), (47, 63), (31, 64), (2, 2), (1, 1)])
def test_mp4_round_trip(tmp_path, height, width):
    frames = scene(9, height, width)
    again = list(open_source(write(tmp_path / "a.mp4", frames)))
    assert len(again) == 9
    assert again[0].shape == (height + height % 2, width + width % 2, 3)
    if height > 40: assert max(off(a[:height, :width], b) for a, b in zip(again, frames)) < 8


def test_mp4_is_what_browsers_play(tmp_path):
    path = write(tmp_path / "a.mp4", scene(30), 29.97)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt, stream.frames) == ("h264", "yuv420p", 30)
        assert abs(float(stream.average_rate) - 29.97) < 1e-3 and stream.codec_context.colorspace == 1
    data = path.read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize("colour", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)])
def test_colours_survive(tmp_path, colour):
    frame = np.full((32, 32, 3), colour, np.uint8)
    assert np.abs(next(iter(open_source(write(tmp_path / "a.mp4", [frame])))).astype(int) - frame).max() <= 3


@pytest.mark.parametrize("name", ["frames", "film.mp4", "new/frames", "new/film.mp4"])
def test_a_name_without_a_folder_in_front_is_meant_from_here(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with open_sink(name) as sink: sink.write(np.zeros((16, 16, 3), np.uint8))
    assert len(list(open_source(name))) == 1 and not list(tmp_path.rglob("*.part"))


def test_png_folder_is_exact_and_in_order(tmp_path):
    frames = scene(12)
    assert (np.stack(list(open_source(write(tmp_path / "out", frames)))) == frames).all()
    for n, frame in enumerate(frames): Image.fromarray(frame).save(tmp_path / f"f{n}.png")
    assert (np.stack(list(open_source(tmp_path))) == frames).all()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_images_of_other_kinds_become_rgb(tmp_path, mode):
    Image.fromarray(scene(1)[0]).convert(mode).save(tmp_path / "a.png")
    assert check_frame(next(iter(open_source(tmp_path)))).shape == (48, 64, 3)


def test_sixteen_bit_images_keep_their_greys(tmp_path):
    Image.fromarray((np.arange(256 * 16).reshape(64, 64) * 16).astype(np.uint16)).save(tmp_path / "a.png")
    frame = next(iter(open_source(tmp_path)))
    assert frame[0, 0, 0] == 0 and frame[-1, -1, 0] == 255 and abs(frame.mean() - 127.5) < 1


def test_camera_gives_rgb_and_is_let_go(monkeypatch):
    import cv2

    class Camera:
        left, released = 3, False
        def __init__(self, index): assert index == 2
        def isOpened(self): return True
        def get(self, what): return 15.0
        def read(self):
            self.left -= 1
            return self.left >= 0, np.full((4, 6, 3), (10, 20, 30), np.uint8) # blue first
        def release(self): Camera.released = True

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    with open_source("2") as source: frames = list(source)
    assert len(frames) == 3 and (frames[0][0, 0] == (30, 20, 10)).all() and source.fps == 15
    assert Camera.released and source.frames is None


@pytest.mark.parametrize("start, limit, expect", [(0, None, 12), (0, 5, 5), (7, None, 5), (10, 5, 2), (11, 1, 1)])
def test_start_and_limit(tmp_path, start, limit, expect):
    frames = scene(12)
    for spec in (frames, list(frames), write(tmp_path / "a.mp4", frames), write(tmp_path / "out", frames)):
        source = open_source(spec, start, limit)
        got = list(source)
        assert len(got) == expect == source.frames and off(got[0], frames[start]) < 8


def test_generators_stream_lazily():
    source = open_source(synthetic_scene(None, 16, 16), limit=3)
    assert source.frames is None and len(list(source)) == 3


def test_a_source_can_be_read_twice():
    source = open_source("demo", limit=3)
    assert all((a == b).all() for a, b in zip(source, source, strict=True))


@pytest.mark.parametrize("angle", [0, 90, 180, -90])
def test_phone_videos_stand_upright(tmp_path, angle):
    frame, path = scene(1, 48, 64)[0], tmp_path / "phone.mp4"
    lying = np.rot90(frame, -angle // 90).copy()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "5"})
        stream.height, stream.width = lying.shape[:2]
        if angle: stream.set_display_rotation(angle)
        container.mux(stream.encode(av.VideoFrame.from_ndarray(lying, format="rgb24")))
        container.mux(stream.encode())
    got = next(iter(open_source(path)))
    assert got.shape == frame.shape and off(got, frame) < 6


def test_varying_rate_keeps_the_length(tmp_path):
    path = tmp_path / "vfr.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        for n, frame in enumerate(scene(20)):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts = n if n < 10 else 10 + 3 * (n - 10)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
        seconds = 38 / 25
    source = open_source(path)
    assert len(list(source)) == 20 and abs(20 / source.fps - seconds) < 0.2


@pytest.mark.parametrize("part", [0.3, 0.5, 0.9])
def test_truncated_video_gives_what_there_is(tmp_path, part):
    path, data = tmp_path / "cut.mp4", demo_clip().read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.warns(UserWarning, match=r"cut off or damaged: \d+ of 120 frames"):
        got = list(open_source(path))
    assert 0 < len(got) < 120 and off(got[0], next(iter(open_source("demo")))) == 0


def test_damage_in_the_middle_is_skipped(tmp_path):
    data, path = bytearray(demo_clip().read_bytes()), tmp_path / "noise.mp4"
    data[130_000:140_000] = np.random.default_rng(0).bytes(10_000)
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="cut off or damaged"):
        assert 60 < len(list(open_source(path))) < 120


def test_whole_videos_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        list(open_source("demo"))
        list(open_source("demo", limit=3))


def write_text(folder, name):
    (folder / name).write_text("no film\n" * 500)
    return folder / name


def cut_tail(folder):
    with VideoSink(folder / "open.mp4") as sink: # read before it is closed
        for frame in scene(80): sink.write(frame)
        (folder / "cut.mp4").write_bytes(sink.part.read_bytes())
    return folder / "cut.mp4"


def sound(folder):
    quiet = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
    quiet.sample_rate = 8000
    with av.open(str(folder / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        container.mux(stream.encode(quiet))
        container.mux(stream.encode())
    return folder / "a.wav"


def make(folder, name):
    (folder / name).mkdir()
    return folder / name


@pytest.mark.parametrize("spec, says", [
    (lambda d: d / "none.mp4", "there is no file or folder"),
    (lambda d: write_text(d, "a.txt"), "holds no video"),
    (lambda d: write_text(d, "a.mp4"), "not a video that can be read"),
    (lambda d: (d / "e.mp4").write_bytes(b"") or d / "e.mp4", "not a video that can be read"),
    (cut_tail, "cut off while being written"),
    (sound, "holds no video"),
    (lambda d: make(d, "bare"), "holds no images"),
    (lambda d: 99, "camera 99 cannot be opened"),
    (lambda d: np.zeros((3, 8, 8), np.uint8), r"must be \(n, H, W, 3\)"),
    (lambda d: np.zeros((3, 8, 8, 3)), "float64"),
    (lambda d: np.zeros((0, 8, 8, 3), np.uint8), "gave no frame"),
    (lambda d: [], "gave no frame"),
    (lambda d: None, "cannot be a source"),
    (lambda d: 2.5, "cannot be a source"),
])
def test_bad_sources_say_so(tmp_path, spec, says):
    with pytest.raises((ValueError, TypeError, OSError), match=says) as caught: list(open_source(spec(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_bad_image_is_left_out(tmp_path):
    write(tmp_path / "out", scene(3))
    (tmp_path / "out" / "000001.png").write_text("not a picture")
    with pytest.warns(UserWarning, match="000001.png is not an image"):
        assert len(list(open_source(tmp_path / "out"))) == 2


@pytest.mark.parametrize("options", [dict(start=-1), dict(limit=0), dict(limit=-3), dict(start=1.5), dict(start=500)])
def test_bad_ranges(options):
    with pytest.raises(ValueError): list(open_source("demo", **options))


@pytest.mark.parametrize("name, says", [("a.avi", "cannot write .avi"), ("file/a.mp4", "cannot be written"),
                                        ("file/a", "cannot be written"), ("full", "holds images already")])
def test_bad_sinks_say_so(tmp_path, name, says):
    (tmp_path / "file").write_text("in the way")
    write(tmp_path / "full", scene(1))
    with pytest.raises(ValueError, match=says): open_sink(tmp_path / name)


def test_sinks_refuse_bad_frames(tmp_path):
    with open_sink(tmp_path / "a.mp4") as sink:
        sink.write(scene(1)[0])
        for bad in (scene(1)[0][:-2], scene(1)[0][..., 0], scene(1)[0].astype(float), np.zeros((8, 8, 4), np.uint8)):
            with pytest.raises(ValueError): sink.write(bad)
    assert len(list(open_source(tmp_path / "a.mp4"))) == 1
    with pytest.raises(ValueError, match="closed"): sink.write(scene(1)[0])


def test_a_sink_without_frames_leaves_nothing(tmp_path):
    with open_sink(tmp_path / "a.mp4"): pass
    assert not (tmp_path / "a.mp4").exists()
    (tmp_path / "old.mp4").write_bytes(demo_clip().read_bytes())
    with open_sink(tmp_path / "old.mp4"): pass
    assert probe_video(tmp_path / "old.mp4") == (25, 120)


def test_a_stopped_sink_plays(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_sink(tmp_path / "a.mp4") as sink:
        for n, frame in enumerate(scene(12)):
            if n == 7: raise KeyboardInterrupt
            sink.write(frame)
    assert len(list(open_source(tmp_path / "a.mp4"))) == 7


def cubic(places: int, pixels: int, start: float, length: float) -> np.ndarray:
    "Weights (pixels, places) of Keys' cubic filter (a = -0.5) over `length` places from `start` on."
    step = length / pixels
    x = np.abs(np.arange(places) + 0.5 - (start + (np.arange(pixels)[:, None] + 0.5) * step)) / max(step, 1)
    weights = np.where(x < 1, (1.5 * x - 2.5) * x * x + 1, np.where(x < 2, ((-0.5 * x + 2.5) * x - 4) * x + 2, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("height, width, top, left, h, w", [(24, 32, 0, 0, 48, 64), (24, 24, 0, 8, 48, 48),
                                                            (100, 40, 0, 22.4, 48, 19.2), (7, 33, 17.21, 0, 13.58, 64)])
def test_resize_is_the_cubic_filter_over_the_centred_piece(height, width, top, left, h, w):
    frame = scene(1, 48, 64)[0]
    wanted = np.einsum("yi,ijc,xj->yxc", cubic(48, height, top, h), frame.astype(float),
                       cubic(64, width, left, w)).clip(0, 255)
    assert np.abs(resize_frame(frame, height, width) - wanted).max() <= 2       # rounded once each way


def test_resize():
    frame = scene(1, 48, 64)[0]
    assert resize_frame(frame, 48, 64) is frame
    for height, width in [(24, 24), (100, 40), (7, 33), (1, 1)]:
        for mode in ("crop", "stretch"): assert resize_frame(frame, height, width, mode).shape == (height, width, 3)
    assert (resize_frame(np.full((1080, 1920, 3), 77, np.uint8), 256, 256) == 77).all()
    assert resize_frame(np.zeros((799, 900, 3), np.uint8), 300, 300).shape == (300, 300, 3) # 300 * (799 / 300) > 799
    with pytest.raises(ValueError, match="squash"): resize_frame(frame, 8, 8, "squash")


def test_side_by_side_and_progress():
    a, b = scene(1, 48, 64)[0], scene(1, 32, 32)[0]
    both = side_by_side(a, b)
    assert both.shape == (32, 64, 3) and (both[:, 32:] == b).all() and (both[:, :32] == resize_frame(a, 32, 32)).all()
    assert progress(open_source("demo")).total == 120


def test_stopwatches_run():
    with open_source("demo", limit=5) as source: list(source)
    assert 0 < source.seconds < 5


@pytest.mark.parametrize("height, standard", [(718, 5), (720, 1), (1080, 1)])
def test_a_frame_without_a_tag_is_read_by_its_height(height, standard):
    "BT.601 (5, as FFmpeg numbers it) below 720 lines, BT.709 (1) from there on."
    planes = np.full((height * 3 // 2, 16), 90, np.uint8)
    planes[height:] = 200
    untagged, tagged = (av.VideoFrame.from_ndarray(planes, format="yuv420p") for _ in range(2))
    untagged.colorspace, tagged.colorspace = 2, standard
    assert np.array_equal(rgb_frame(untagged), tagged.to_ndarray(format="rgb24"))


def write_avi(path, stamps, rate=0):
    with av.open(str(path), "w") as film:
        track = film.add_stream("mjpeg", rate=25)
        track.width, track.height, track.pix_fmt = 64, 64, "yuvj420p"
        sound = film.add_stream("pcm_s16le", rate=rate, layout="mono") if rate else None
        for k in stamps:
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 4 * k, np.uint8), "rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 25)
            film.mux(track.encode(frame))
        if sound:
            samples = av.AudioFrame.from_ndarray(np.zeros((1, rate), np.int16), "s16", "mono")
            samples.rate = rate
            film.mux(sound.encode(samples))
            film.mux(sound.encode(None))
        film.mux(track.encode(None))
    return path


def test_an_avi_whose_clock_leaps_is_whole_and_a_cut_one_is_not(tmp_path):
    path = write_avi(tmp_path / "leaps.avi", (0, 1, 2, 5, 6, 9, 10, 11, 15, 16))
    with warnings.catch_warnings(action="error"): assert len(list(open_source(path))) == 10
    (tmp_path / "cut.avi").write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.warns(UserWarning, match="cut off or damaged"): list(open_source(tmp_path / "cut.avi"))


@pytest.mark.parametrize("rate", [11024, 12345, 37800])
def test_sound_of_an_odd_rate_is_resampled(tmp_path, rate):
    path = write_avi(tmp_path / "film.avi", range(25), rate)
    with open_source(path) as film, warnings.catch_warnings(action="error"):
        with open_sink(tmp_path / "out.mp4", film.fps, sound=film) as sink:
            for frame in film: sink.write(frame, film.times[-1])
    with av.open(str(tmp_path / "out.mp4")) as made: track = made.streams.audio[0]
    assert track.rate == 48000 and abs(float(track.duration * track.time_base) - 1) < 0.1
