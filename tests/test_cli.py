"""The command line with the real pipeline: what it writes, what it says, and how it stops."""
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from live2diff_nb.cli import Stop, main, make_parser
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.measured import percentile, summary
from live2diff_nb.options import parse_lora, parse_prompt, parse_size
from live2diff_nb.translate import film_jobs
from live2diff_nb.video.shown import resize_frame
from live2diff_nb.video.sources import demo_clip, open_source
from live2diff_nb.video.sinks import open_sink

COMMAND = [sys.executable, "-m", "live2diff_nb.cli"]
NOISE = ["--noise", "fixed"]                                                 # without noise, a seed changes nothing


def frames_of(path): return np.stack(list(open_source(path)))


@pytest.fixture(scope="module")
def translated(tmp_path_factory):
    "One run of ten frames that several tests look at: (exit code, folder of PNGs)."
    out = tmp_path_factory.mktemp("cli") / "out"
    return main(["translate", "demo", str(out), "--limit", "10", "--size", "128", "--seed", "3", *NOISE]), out


def test_one_frame_out_per_frame_in(translated):
    code, out = translated
    frames = frames_of(out)
    assert code == 0 and frames.shape == (10, 128, 128, 3)
    given = [resize_frame(frame, 128, 128) for frame in open_source("demo", limit=10)]
    assert np.abs(frames.astype(int) - given).mean() > 2                                   # it did something


def test_same_seed_same_frames(translated, tmp_path):
    for seed, same in ("3", True), ("4", False):
        asked = ["--limit", "10", "--size", "128", "--seed", seed, *NOISE]
        assert main(["translate", "demo", str(tmp_path / seed), *asked]) == 0
        assert (frames_of(tmp_path / seed) == frames_of(translated[1])).all() == same


def test_mp4_side_by_side_with_summary(tmp_path, capsys):
    out = tmp_path / "new" / "out.mp4"
    assert main(["translate", "demo", str(out), "--limit", "9", "--side-by-side", "--fps", "12", "--steps", "1"]) == 0
    source = open_source(out)
    frames = list(source)
    assert len(frames) == 4 and frames[0].shape == (256, 512, 3) and source.fps == 12       # 9 frames are 0.36 s
    assert np.abs(frames[0][:, :256].astype(int) - next(iter(open_source("demo")))).mean() < 6
    said = capsys.readouterr()
    for part in ("frames       4 in", "frames/s", "first frame", "p50", "p95", "MB", "decode", "depth", "vae", "unet",
                 "encode", "other", str(out)):
        assert part in said.out
    assert "4/4" in said.err and "Traceback" not in said.err


@pytest.mark.parametrize("extra", [["--size", "64"], ["--size", "128x96"]])
def test_size_and_folder_in(tmp_path, extra):
    with open_sink(tmp_path / "in") as sink:
        for frame in open_source("demo", limit=9): sink.write(frame[:200, :231])
    out = tmp_path / "out.mp4"
    assert main(["translate", str(tmp_path / "in"), str(out), *extra]) == 0
    height, width = parse_size(extra[1])
    assert frames_of(out).shape == (9, height, width, 3)


def test_truncated_input_is_warned_about_and_done(tmp_path, capsys):
    data = demo_clip().read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 4])
    words = ["translate", str(tmp_path / "cut.mp4"), str(tmp_path / "out.mp4"), "--steps", "1", "--size", "64"]
    assert main(words) == 0
    said = capsys.readouterr().err
    count = int(re.search(r"live2diff-nb: warning: .* is cut off or damaged: (\d+) of 120", said)[1])
    assert len(frames_of(tmp_path / "out.mp4")) == count > 0 and "Traceback" not in said


@pytest.mark.parametrize("words, says", [
    ("", "required"),
    ("fly", "invalid choice"),
    ("translate demo", "OUT"),
    ("translate none.mp4 {out}", "there is no file or folder none.mp4"),
    ("translate {text} {out}", "holds no video"),
    ("translate {bare} {out}", "holds no images"),
    ("translate 99 {out}", "camera 99 cannot be opened"),
    ("translate {clip} {clip}", "is the input"),
    ("translate demo {out}.avi", "cannot write .avi"),
    ("translate demo {text}/out.mp4", "cannot be written"),
    ("translate demo {out} --wings", "--wings"),
    ("translate demo {out} --steps 0", "steps"),
    ("translate demo {out} --steps two", "--steps"),
    ("translate demo {out} --strength 1.5", "strength"),
    ("translate demo {out} --strength -0.1", "strength"),
    ("translate demo {out} --style nosuchstyle", "style"),
    ("translate demo {out} --weights nosuchweights", "weights"),
    ("translate demo {out} --size 100x37", "37"),
    ("translate demo {out} --size 0", "size"),
    ("translate demo {out} --size big", "is not a size"),
    ("translate demo {out} --limit 0", "limit"),
    ("translate demo {out} --start 1000", "gave no frame"),
    ("translate demo {out} --fps 0", "fps"),
    ("translate demo {out} --fps -3", "fps"),
    ("translate demo {out} --device toaster", "toaster"),
    ("info --weights nosuchweights", "weights"),
])
def test_mistakes_get_one_sentence(tmp_path, capfd, words, says):
    (tmp_path / "text.txt").write_text("no film\n" * 500)
    (tmp_path / "bare").mkdir()
    (tmp_path / "clip.mp4").write_bytes(demo_clip().read_bytes())
    names = dict(out=tmp_path / "out.mp4", text=tmp_path / "text.txt", bare=tmp_path / "bare",
                 clip=tmp_path / "clip.mp4")
    assert main([word.format(**names) for word in words.split()]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if "live2diff-nb" in line]
    assert len(said) == 1 and said[0].startswith("live2diff-nb: error: ") and says.lower() in said[0].lower()
    assert not (tmp_path / "out.mp4").exists() and (tmp_path / "clip.mp4").stat().st_size > 100_000


def test_info(capsys):
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    for part in ("PyTorch", "threads", "weights", "MB", "styles", "memory"): assert part in said


def test_help_is_quick_and_imports_no_torch():
    code = ("import sys, live2diff_nb.cli as c; c.main(['translate', '--help']); "
            "print('HEAVY' if {'torch', 'av', 'cv2', 'numpy'} & set(sys.modules) else 'LEAN')")
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "--side-by-side" in said.stdout and said.stdout.endswith("LEAN\n") and said.stderr == ""


def test_live_copies_the_notebook_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "call", lambda words, env: calls.append(words) or 0)
    assert main(["live", "--no-browser"]) == 0
    (tmp_path / "live.ipynb").write_text("mine")
    assert main(["live"]) == 0 and (tmp_path / "live.ipynb").read_text() == "mine"
    assert calls[0][1:] == ["-m", "jupyterlab", "live.ipynb", "--no-browser"]
    assert calls[1][1:] == ["-m", "jupyterlab", "live.ipynb"]
    monkeypatch.setattr("live2diff_nb.cli.find_spec", lambda name: None)
    assert main(["live"]) == 2


def test_numbers():
    assert percentile(list(range(100)), 0.95) == 95 and percentile([7], 0.5) == 7
    text = summary(10, 2.0, 1.5, [0.1] * 10, dict(decode=0.5, unet=1.0), "5 MB")
    assert "10 in 2.0 s: 5.0 frames/s" in text and "decode 50.0, unet 100.0, other 50.0" in text
    assert "p50 100 ms" in text
    assert make_parser().parse_args(["info"]).size == (256, 256)


def test_being_ended_counts_as_ctrl_c():
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt): signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.skipif(os.name == "nt", reason="signals as on Unix")
def test_ctrl_c_leaves_a_playable_file(tmp_path):
    out, began = tmp_path / "out.mp4", time.time()
    words = [*COMMAND, "translate", "demo", str(out), "--size", "128"]
    run = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    os.set_blocking(run.stderr.fileno(), False)
    said = ""
    while not re.search(r"[1-9]\d*/120", said):
        assert time.time() - began < 60 and run.poll() is None, said
        said += (run.stderr.read() or b"").decode()
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    printed = run.communicate(timeout=30)
    frames = int(re.search(r"frames +(\d+) in", printed[0].decode())[1])
    assert run.returncode == 130 and 0 < frames < 120 and len(frames_of(out)) == frames
    assert b"Traceback" not in printed[1]
    first = float(re.search(r"first frame +([\d.]+) s after the start", printed[0].decode())[1])
    assert first < 60 # how fast it should be is measured by `bench`, not here


@pytest.mark.parametrize("text, means", [
    ("0s: a; 4s: b;", {"0s": "a", "4s": "b"}), ("0: a; 1m: b", {"0": "a", "1m": "b"}), ("a; b", "a; b"),
    ("24: a film", "24: a film"), ("0s: a; b", "'b' has no time"), ("0s: a; 4 secs: b", "no time"),
    ("0s: a; 0s: b", "same time")])
def test_what_a_prompt_of_the_command_line_means(text, means, capsys):
    if isinstance(means, dict) or means == text: assert parse_prompt(text) == means
    else:
        assert main(["translate", "demo", "out.mp4", "--prompt", text]) == 2 and means in capsys.readouterr().err


def test_weights_of_loras():
    assert parse_lora(["a=1e-1", "b.safetensors"]) == {"a": 0.1, "b.safetensors": 1}
    with pytest.raises(ValueError, match="no name"): parse_lora([""])


def test_a_folder_with_one_film_becomes_one_film(tmp_path):
    with open_sink(tmp_path / "only.mp4") as film: film.write(np.zeros((64, 64, 3), np.uint8))
    assert film_jobs([str(tmp_path)], "out.mp4") == [(tmp_path / "only.mp4", "out.mp4")]


def test_a_film_of_several_that_was_stopped_is_done_again(tmp_path, capsys, monkeypatch):
    for name in "ab":
        with open_sink(tmp_path / f"{name}.mp4") as film:
            for k in range(12): film.write(np.full((64, 64, 3), 9 * k, np.uint8))
    stream, seen = Live2Diff.stream, []
    def stopped(pipe, *args, **more):
        for frame in stream(pipe, *args, **more):
            seen.append(frame)
            if len(seen) == 16: os.kill(os.getpid(), signal.SIGINT)              # in the second film
            yield frame
    words = ["translate", str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4"), str(tmp_path / "out"), "--size", "64"]
    with monkeypatch.context() as patch:
        patch.setattr(Live2Diff, "stream", stopped)
        assert main(words) == 130
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.mp4", "b-stopped.mp4"]
    assert main(words) == 2 and "a.mp4 is there already" in capsys.readouterr().err
    assert (tmp_path / "out/b.mp4").exists()
