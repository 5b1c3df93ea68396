"""Times, sound and files: the film that is written is as long as the one read, in step, and nothing is lost."""
import os
import shutil
import subprocess
import sys
import threading
import time
from fractions import Fraction
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from functools import partial

import av
import numpy as np
import pytest
from PIL import Image

from live2diff_nb.cli import main
from live2diff_nb.options import SIZES, parse_size
from live2diff_nb.video.container import probe_video, sane_rate
from live2diff_nb.video.sinks import Lines, open_sink, progress
from live2diff_nb.video.sources import demo_clip, open_source
from live2diff_nb.video.times import Timeline, at_rate

MS = np.cumsum([0, 38, 83, 5, 61, 47, 29, 72, 44, 33, 51, 38, 83, 5, 61, 47, 29, 72, 44, 33])


def shade(n): return np.full((48, 64, 3), n, np.uint8)


def film(path, stamps, codec="libx264", base=Fraction(1, 1000), rate=25, **options):
    "A film with these stamps, in units of `base`; frame n is grey, `9 * n`."
    with av.open(str(path), "w", options=options) as container:
        track = container.add_stream(codec, rate=rate)
        track.width, track.height, track.codec_context.time_base = 64, 48, base
        track.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        for n, stamp in enumerate(stamps):
            frame = av.VideoFrame.from_ndarray(shade(9 * n), format="rgb24")
            frame.pts, frame.time_base = int(stamp), base
            if codec == "gif": frame = frame.reformat(format="rgb8")
            container.mux(track.encode(frame))
        container.mux(track.encode())
    return path


def browser_film(path, default_duration):
    "A recording as browsers write it: no rate at all, or a duration of 1 ms a frame."
    film(path, MS, "libvpx", rate=1000, live="1")
    data = bytearray(path.read_bytes())
    at = data.find(b"\x23\xe3\x83")
    length = 4 + (data[at + 3] & 127)
    if not default_duration: data[at:at + length] = bytes([0xEC, 0x80 | (length - 2)]) + bytes(length - 2)
    path.write_bytes(data)
    return path


def copied(given, out, **options):
    "Read and written, frame by frame, at its times."
    with open_source(given, **options) as source, open_sink(out, source.fps, sound=source) as sink:
        for n, frame in enumerate(source): sink.write(frame, source.times[n])
    return source


def times_of(path):
    source = open_source(path)
    list(source)
    return source.times


# ---- times ---------------------------------------------------------------------------------------------------------
KINDS = {
    "browser.webm": lambda p: browser_film(p, False),
    "one_ms.webm": lambda p: browser_film(p, True),
    "screen.mkv": lambda p: film(p, MS),
    "late.mkv": lambda p: film(p, MS + 7000),
    "phone.mp4": lambda p: film(p, MS, movflags="faststart"),
    "90000.mkv": lambda p: film(p, MS, rate=90000),
    "slow.mkv": lambda p: film(p, MS, rate=Fraction(1, 1000)),
    "stream.ts": lambda p: film(p, MS + 500),
}


@pytest.mark.parametrize("kind", KINDS)
def test_times_of_the_input_are_those_of_the_output(tmp_path, kind):
    given = KINDS[kind](tmp_path / kind)
    source = copied(given, tmp_path / "out.mp4")
    assert np.allclose(source.times, MS / 1000, atol=1.5e-3) and 15 < source.fps < 30
    assert np.allclose(times_of(tmp_path / "out.mp4"), source.times, atol=1e-3)
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert abs(container.duration / av.time_base - MS[-1] / 1000) < 0.08


def test_a_gif_keeps_its_delays(tmp_path):
    stamps = np.array([0, 4, 12, 15, 40, 90])
    source = copied(film(tmp_path / "a.gif", stamps, "gif", Fraction(1, 100)), tmp_path / "out.mp4")
    assert np.allclose(source.times, stamps / 100)
    assert np.allclose(times_of(tmp_path / "out.mp4"), stamps / 100, atol=1e-3)


def trimmed(path, first, last):
    "The demo clip with an edit list that shows only part of it, as a phone trims."
    data = bytearray(demo_clip().read_bytes())
    at = data.find(b"elst") + 12
    scale = int.from_bytes(data[data.find(b"mvhd") + 16:][:4], "big")
    start = int.from_bytes(data[at + 4:at + 8], "big")
    data[at:at + 4] = round((last - first) / 25 * scale).to_bytes(4, "big")
    data[at + 4:at + 8] = (start + first * 512).to_bytes(4, "big")             # 12800 ticks a second, 25 frames
    path.write_bytes(data)
    return path


def test_what_an_edit_list_hides_is_not_shown(tmp_path, recwarn):
    source = open_source(trimmed(tmp_path / "cut.mp4", 30, 80))
    frames, whole = list(source), list(open_source("demo"))
    assert len(frames) == 50 == source.frames and np.allclose(source.times, np.arange(50) / 25, atol=1e-3)
    assert (frames[0] == whole[30]).all() and (frames[-1] == whole[79]).all() and not recwarn.list


def test_frames_of_an_avi_follow_each_other_evenly(tmp_path):
    source = open_source(film(tmp_path / "b.avi", range(20), base=Fraction(1, 25)))       # has B-frames, and no stamps
    assert len(list(source)) == 20 and np.allclose(source.times, np.arange(20) / 25)


def test_rates_that_cannot_be_are_recognised():
    assert [sane_rate(bad, None) for bad in (0, 1e-3, 1000, 90000)] == [25.0] * 4
    assert sane_rate(90000, 90000) == 25 and sane_rate(0, 29.5) == 29.5 and sane_rate(24000 / 1001, 24.1) < 24
    assert probe_video(demo_clip()) == (25, 120)


def test_stamps_that_are_missing_go_back_or_begin_again():
    line = Timeline(25)
    for when in (None, 0.04, 0.04, None, 5.0, 0.0, 0.04): line.add(when)
    assert np.allclose(line.times, [0, 0.04, 0.041, 0.081, 5, 5.04, 5.08])


def test_start_and_limit_count_frames(tmp_path):
    given = film(tmp_path / "a.mkv", MS)
    assert np.allclose(copied(given, tmp_path / "b.mp4", start=4, limit=5).times, (MS[4:9] - MS[4]) / 1000)
    assert np.allclose(times_of(tmp_path / "b.mp4"), (MS[4:9] - MS[4]) / 1000, atol=1e-3)


def test_the_last_frame_is_shown_as_long_as_before(tmp_path):
    with open_sink(tmp_path / "a.mp4") as sink:
        for n, time in enumerate((0, 0.1, 0.5)): sink.write(shade(n), time)
        sink.until = 1.5
    copied(tmp_path / "a.mp4", tmp_path / "b.mp4")
    with av.open(str(tmp_path / "b.mp4")) as container: assert container.duration == 1_500_000


@pytest.mark.parametrize("fps", [5, 11, 25, 48, 23.976])
def test_another_rate_keeps_the_length_and_what_is_shown_when(tmp_path, fps):
    source = open_source(film(tmp_path / "a.mkv", MS))
    film_at = at_rate(source, fps)
    shown = [(frame[0, 0, 0] / 9, *film_at.line.span(n)) for n, frame in enumerate(film_at)]
    assert abs(shown[-1][2] - MS[-1] / 1000) < 0.5 / fps + 0.05
    for number, begin, end in shown:
        for middle in np.arange(begin, end - 1e-6, 1 / fps) + 0.5 / fps:
            assert round(number) == np.searchsorted(MS / 1000, middle + 1e-6, "right") - 1
    assert len({round(n) for n, *_ in shown}) == len(shown) <= 20                 # none is styled twice


def test_a_camera_gives_times_by_the_clock(monkeypatch):
    import cv2

    class Camera:
        left, waits = 4, [0.0, 0.05, 0.2, 0.05]
        def __init__(self, index): assert index == 7
        def isOpened(self): return True
        def get(self, what): return 90000.0
        def read(self):
            self.left -= 1
            if self.left >= 0: time.sleep(self.waits[3 - self.left])
            return self.left >= 0, np.zeros((4, 6, 3), np.uint8)
        def release(self): pass

    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    source = open_source("/dev/video7")
    assert len(list(source)) == 4 and source.fps == 25
    assert 0.05 <= source.times[1] < 0.19 and source.times[2] - source.times[1] >= 0.2


# ---- sound ---------------------------------------------------------------------------------------------------------
def beeps(path, sound="aac", picture="libx264", rate=44100, late=0.0, tail=0.0, tracks=1):
    "A film of 25 frames/s that beeps while a frame is white; all its stamps are `late` by so many seconds."
    white, frames = (10, 40, 70), 80
    loud = np.zeros(round((frames / 25 + tail) * rate), np.float32)
    for n in white: loud[n * rate // 25:(n + 1) * rate // 25] = np.sin(np.arange(rate // 25) / 8)
    with av.open(str(path), "w") as container:
        video = container.add_stream(picture, rate=25)
        audio = [container.add_stream(sound, rate=rate) for _ in range(tracks)]
        video.width, video.height, video.pix_fmt, base = 64, 48, "yuv420p", Fraction(1, 25)
        for n in range(frames):
            frame = av.VideoFrame.from_ndarray(shade(255 * (n in white)), format="rgb24")
            frame.pts, frame.time_base = n + round(late * 25), base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        for number, track in enumerate(audio):
            wave = av.AudioFrame.from_ndarray(loud[None] * (number == 0), format="fltp", layout="mono")
            wave.sample_rate, wave.pts, wave.time_base = rate, round(late * rate), Fraction(1, rate)
            context = track.codec_context
            made = av.AudioResampler(context.format, "mono", rate, context.frame_size or 1024)
            for part in [*made.resample(wave), *made.resample(None), None]: container.mux(track.encode(part))
    return path


def heard(path):
    "(when the beeps begin, when white frames do, seconds of sound, codec) of a film."
    with av.open(str(path)) as container:
        white = [f.time for f in container.decode(video=0) if f.to_ndarray(format="gray").mean() > 150]
    with av.open(str(path)) as container:
        frames, codec = list(container.decode(audio=0)), container.streams.audio[0].codec_context.codec.canonical_name
    when = np.concatenate([f.time + np.arange(f.samples) / f.sample_rate for f in frames])
    loud = np.concatenate([np.abs(f.to_ndarray().astype(float)).reshape(-1)[:f.samples] for f in frames])
    begins = when[loud > 0.4 * loud.max()]
    begins = begins[np.diff(begins, prepend=-1) > 0.5]
    return begins, np.array(white), when[-1], codec


SOUNDS = [("aac", "a.mp4", "libx264", {}), ("aac", "a.ts", "libx264", dict(late=2.0)),
          ("libopus", "a.mkv", "libx264", {}),
          ("pcm_s16le", "a.avi", "mpeg4", {}), ("flac", "a.mkv", "libx264", {}),
          ("libmp3lame", "a.mkv", "libx264", {}), ("pcm_s16le", "a.mkv", "libx264", dict(late=1.0))]


@pytest.mark.parametrize("start", [0, 25])
@pytest.mark.parametrize("sound, name, picture, options", SOUNDS, ids=lambda value: str(value))
def test_sound_stays_in_step(tmp_path, sound, name, picture, options, start):
    rate = 48000 if sound == "libopus" else 44100
    given = beeps(tmp_path / name, sound, picture, rate=rate, **options)
    source = copied(given, tmp_path / "out.mp4", start=start)
    begins, white, _, codec = heard(tmp_path / "out.mp4")
    assert len(white) == len(begins) == (3 if start < 10 else 2)
    before, pictures, *_ = heard(given)
    apart = (before - pictures)[-len(white):]                            # of the film itself
    assert np.abs(begins - white - apart).max() < 0.012 and np.abs(apart).max() < 0.04
    assert abs(white[-1] - (70 - start) / 25) < 0.01
    assert codec == ("aac" if "pcm" in sound else sound.removeprefix("lib").replace("mp3lame", "mp3"))
    assert source.ended


def test_films_that_were_glued_together_stay_in_step(tmp_path):
    once = beeps(tmp_path / "a.ts").read_bytes()
    (tmp_path / "twice.ts").write_bytes(once + once)
    source = copied(tmp_path / "twice.ts", tmp_path / "b.mp4")
    begins, white, *_ = heard(tmp_path / "b.mp4")
    assert np.allclose(source.times, np.arange(160) / 25, atol=1e-3) and len(white) == 6 == len(begins)
    assert np.abs(begins - white).max() < 0.05


def test_sound_is_cut_where_the_frames_are(tmp_path):
    given = beeps(tmp_path / "a.mp4")
    copied(given, tmp_path / "b.mp4", start=5, limit=20)
    assert abs(heard(tmp_path / "b.mp4")[2] - 0.8) < 0.04
    longer = beeps(tmp_path / "c.mp4", tail=1.5)
    copied(longer, tmp_path / "d.mp4")
    assert abs(heard(tmp_path / "d.mp4")[2] - 4.7) < 0.06                # what is heard after the last frame is kept


def test_packets_are_copied_where_they_can_be(tmp_path):
    given = beeps(tmp_path / "a.mp4")
    copied(given, tmp_path / "b.mp4")
    packets = [[bytes(p) for p in av.open(str(path)).demux(audio=0) if p.size] for path in (given, tmp_path / "b.mp4")]
    assert packets[0] == packets[1]


def test_what_cannot_go_along_is_named(tmp_path):
    two = beeps(tmp_path / "a.mkv", tracks=2)
    with pytest.warns(UserWarning, match=r"1 more sound track of .*a.mkv cannot be copied"):
        copied(two, tmp_path / "b.mp4")
    assert len(heard(tmp_path / "b.mp4")[0]) == 3                        # the first track, which is the default one
    with pytest.warns(UserWarning, match="takes pictures only: the sound of") as said:
        copied(beeps(tmp_path / "c.mp4"), tmp_path / "pictures", limit=3)
    assert len(said) == 1


def test_sound_of_what_has_none(tmp_path, recwarn):
    for given in ("synthetic", "demo", np.zeros((3, 48, 64, 3), np.uint8)): copied(given, tmp_path / "a.mp4", limit=3)
    with pytest.raises(TypeError, match="as open_source gives it"):
        open_sink(tmp_path / "a.mp4", sound="film.mp4")
    assert not recwarn.list


# ---- nothing is lost -----------------------------------------------------------------------------------------------
def ways(folder):
    "Other names of `folder / 'a.mp4'`."
    os.symlink(folder / "a.mp4", folder / "soft.mp4")
    os.link(folder / "a.mp4", folder / "hard.mp4")
    (folder / "sub").mkdir()
    os.symlink(folder, folder / "also")
    return [folder / name for name in ("a.mp4", "soft.mp4", "hard.mp4", "sub/../a.mp4", "also/a.mp4")]


def test_a_film_that_is_read_is_not_written_to(tmp_path):
    shutil.copy(demo_clip(), tmp_path / "a.mp4")
    source = open_source(tmp_path / "a.mp4", limit=20)
    for name in ways(tmp_path):
        with pytest.raises(ValueError, match="is the input, it is being read"): open_sink(name, source.fps)
    assert (tmp_path / "a.mp4").read_bytes() == demo_clip().read_bytes()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    list(source)
    with pytest.raises(ValueError, match="its sound is to be read"): open_sink(tmp_path / "a.mp4", sound=source)
    with open_sink(tmp_path / "a.mp4") as sink: sink.write(shade(1))            # it has been read: as any other file
    assert len(list(open_source(tmp_path / "a.mp4"))) == 1


def test_a_folder_that_is_read_is_not_written_to(tmp_path):
    with open_sink(tmp_path / "in") as sink: sink.write(shade(1))
    os.symlink(tmp_path / "in", tmp_path / "link")
    source = open_source(tmp_path / "in")
    for name in ("in", "link"):
        with pytest.raises(ValueError, match="is the input"): open_sink(tmp_path / name)
    assert [p.name for p in (tmp_path / "in").iterdir()] == ["000000.png"] and source.frames == 1


def test_the_old_film_stays_until_the_new_one_is_whole(tmp_path):
    out = tmp_path / "out.mp4"
    shutil.copy(demo_clip(), out)
    out.chmod(0o640)
    code = (f"import numpy as np, os\nfrom live2diff_nb.video import open_sink\nsink = open_sink({str(out)!r})\n"
            "for n in range(99): sink.write(np.full((48, 64, 3), n, np.uint8))\nos.kill(os.getpid(), 9)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert out.read_bytes() == demo_clip().read_bytes()
    os.symlink(out, tmp_path / "link.mp4")
    with open_sink(tmp_path / "link.mp4") as sink: sink.write(shade(1))
    assert (tmp_path / "link.mp4").is_symlink() and len(list(open_source(out))) == 1
    assert out.stat().st_mode & 0o777 == 0o640


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no full device")
def test_a_full_disk_is_one_sentence(tmp_path, monkeypatch):
    out = tmp_path / "out.mp4"
    shutil.copy(demo_clip(), out)
    with pytest.raises(ValueError, match="cannot be written .No space left") as caught:
        with open_sink(out) as sink:
            os.symlink("/dev/full", sink.part)                  # what is written there meets a full disk
            for n in range(200): sink.write(np.random.default_rng(n).integers(0, 256, (96, 96, 3), np.uint8))
    assert "\n" not in str(caught.value) and out.read_bytes() == demo_clip().read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]


@pytest.mark.parametrize("name", ["x" * 260 + ".mp4", "x" * 260, "", " ", "text/a.mp4", "made.mp4"])
def test_places_that_cannot_be_written(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("a file")
    (tmp_path / "made.mp4").mkdir()
    with pytest.raises(ValueError, match="cannot be written|is empty") as caught: open_sink(name)
    assert "\n" not in str(caught.value) and {p.name for p in tmp_path.iterdir()} == {"text", "made.mp4"}


# ---- names ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["2024-05-01T12:30:00.mp4", "100%d.mp4", "a*[b]?.mp4", "-x.mp4", "a b.mp4", "é漢.mp4",
                                  "x" * 251 + ".mp4", "http:.mp4", "file.mp4", "rtsp", "pipe:0.mp4"])
def test_any_name_is_read_and_written(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    target = name if name.endswith(".mp4") else f"{name}.mp4"
    with open_sink(target) as sink:
        for n in range(3): sink.write(shade(n))
    os.rename(target, name)
    assert len(list(open_source(name))) == 3 and os.listdir() == [name]
    assert len(list(open_source((tmp_path / name).as_uri()))) == 3


@pytest.mark.parametrize("address", ["rtsp://127.0.0.1:9/1", "http://127.0.0.1:9/a.mp4", "rtmp://127.0.0.1:9/a",
                                     "nosuch://x"])
def test_an_address_that_does_not_answer(address):
    with pytest.raises(ValueError, match="check the address and the network") as caught: open_source(address)
    assert address in str(caught.value) and "\n" not in str(caught.value)


def test_a_film_on_a_server_has_its_times_and_sound(tmp_path):
    beeps(tmp_path / "a.mp4")
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    source = copied(f"http://127.0.0.1:{server.server_port}/a.mp4", tmp_path / "b.mp4", limit=50)
    server.shutdown()
    assert len(source.times) == 50 and len(heard(tmp_path / "b.mp4")[0]) == 2


def test_one_picture_is_one_frame(tmp_path):
    Image.fromarray(shade(7)).save(tmp_path / "a.png")
    assert [frame[0, 0, 0] for frame in open_source(tmp_path / "a.png")] == [7]


def test_a_picture_that_moves_is_a_film_and_of_pages_the_first_is_taken(tmp_path):
    pictures = [Image.fromarray(shade(40 * n)) for n in range(4)]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], lossless=True)
    assert len(list(open_source(tmp_path / "a.webp"))) == 4
    pictures[0].save(tmp_path / "a.tif", save_all=True, append_images=pictures[1:])
    with pytest.warns(UserWarning, match="a.tif holds 4 pictures, only the first"):
        assert len(list(open_source(tmp_path / "a.tif"))) == 1


def test_cover_pictures_are_no_films(tmp_path):
    Image.fromarray(shade(7)).save(tmp_path / "cover.jpg")
    with av.open(str(tmp_path / "a.mp3"), "w") as song, av.open(str(tmp_path / "cover.jpg")) as cover:
        track, art = song.add_stream("libmp3lame", rate=44100), song.add_stream_from_template(cover.streams.video[0])
        art.disposition = av.stream.Disposition.attached_pic
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        wave.sample_rate = 44100
        for part in [*av.AudioResampler("fltp", "mono", 44100, 1152).resample(wave), None]: song.mux(track.encode(part))
        for packet in cover.demux(video=0):
            if packet.size:
                packet.stream = art
                song.mux(packet)
    with pytest.raises(ValueError, match="holds no video"): open_source(tmp_path / "a.mp3")


# ---- the command ---------------------------------------------------------------------------------------------------
QUICK = ["--steps", "1", "--size", "64"]


def test_many_films_with_one_model(tmp_path, capsys):
    inside = tmp_path / "in"
    inside.mkdir()
    for name in ("a.webm", "b.webm"): browser_film(inside / name, name == "a.webm")
    (inside / "broken.mp4").write_text("no film\n" * 500)
    (tmp_path / "b.mkv").write_bytes(film(tmp_path / "c.mkv", MS).read_bytes())
    out = tmp_path / "out"
    assert main(["translate", str(inside), str(tmp_path / "b.mkv"), str(out), *QUICK, "--limit", "9"]) == 2
    said = capsys.readouterr()
    assert sorted(p.name for p in out.iterdir()) == ["a.mp4", "b.mkv.mp4", "b.mp4"]
    for path in out.iterdir(): assert np.allclose(times_of(path), MS[:9] / 1000, atol=2e-3)
    assert said.err.count("error: ") == 1 and "broken.mp4" in said.err and "3 of 4 films" in said.out
    before = {p: p.read_bytes() for p in out.iterdir()}
    assert main(["translate", str(inside), str(out), *QUICK]) == 2 and "is there already" in capsys.readouterr().err
    assert before == {p: p.read_bytes() for p in out.iterdir()}
    assert main(["translate", str(inside), str(inside), *QUICK, "--limit", "2"]) == 2
    assert sorted(p.name for p in inside.iterdir()) == ["a.mp4", "a.webm", "b.mp4", "b.webm", "broken.mp4"]


def test_sound_rate_and_a_name_that_begins_with_a_dash(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    beeps("-a.mp4")
    assert main(["translate", "-a.mp4", "-b.mp4", *QUICK, "--fps", "10", "--start", "5", "--limit", "40"]) == 0
    with av.open("file:-b.mp4") as container:
        assert container.streams.video[0].average_rate == 10 and container.streams.video[0].frames == 16
        assert abs(container.duration / av.time_base - 1.6) < 0.03 and len(container.streams.audio) == 1
    said = capfd.readouterr().err
    assert "\r" not in said and 1 <= len(said.splitlines()) <= 4                 # no terminal: no bar
    assert main(["translate", "-a.mp4", "mute.mp4", *QUICK, "--no-sound", "--limit", "2", "--size", "portrait"]) == 0
    with av.open("mute.mp4") as container:
        picture = container.streams.video[0]
        assert not container.streams.audio and (picture.width, picture.height) == (256, 448)
    assert main(["translate", "-a.mp4", "-b.mp4", "c.mp4"]) == 2 and "name a folder" in capfd.readouterr().err
    assert main(["translate", "-a.mp4", "c.mp4", "--prompt", "starry", "night"]) == 2
    assert "in quotes" in capfd.readouterr().err and not os.path.exists("c.mp4")


def test_a_bar_in_a_log_is_a_line_now_and_then(capsys):
    for _ in progress(range(500), label="work"): time.sleep(1e-5)
    lines = capsys.readouterr().err.splitlines()
    assert 1 <= len(lines) <= 3 and "500/500" in lines[-1] and all(line.startswith("work") for line in lines)
    Lines().write("\r  \n")
    assert capsys.readouterr().err == ""


def test_shapes_of_pictures():
    assert parse_size("portrait") == SIZES["portrait"]
    assert all(side % 16 == 0 for size in SIZES.values() for side in size)
