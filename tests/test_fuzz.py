"""Damaged, odd and random files: each ends in a result or in one sentence, never in a hang, a loss or code run."""
import hashlib
import os
import pickle
import random
import struct
import warnings
import zlib
from itertools import islice
from pathlib import Path
from threading import Thread

import av
import numpy as np
import pytest
from PIL import Image

from live2diff_nb.video.drawn import synthetic_scene
from live2diff_nb.video.shown import check_frame
from live2diff_nb.video.sources import open_source

SECONDS = 10 # a file at most; all of them together take about three


# ---- the harness: (path, reader) -> what is wrong, or None -----------------------------------------------------------
def state(folder: Path) -> dict:
    "Everything in a folder, with the content of its files."
    read = lambda p: hashlib.sha256(p.read_bytes()).digest() if p.is_file() and os.access(p, os.R_OK) else None
    return {p: read(p) for p in sorted(folder.rglob("*"))}


def fault(path: Path, reader) -> str | None:
    "What is wrong with how `reader(path)` ended; None: a result, or one sentence with the file's name and a remedy."
    ended, before = [], state(path.parent)

    def run():
        try: ended.append(reader(path))
        except BaseException as error: ended.append(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        thread = Thread(target=run, daemon=True)
        thread.start()
        thread.join(SECONDS)
    if not ended: return f"{path.name}: no end after {SECONDS} s"
    if state(path.parent) != before: return f"{path.name}: files were changed"
    error, text = ended[0], str(ended[0])
    if not isinstance(error, BaseException): return None
    if not isinstance(error, (ValueError, OSError)): return f"{path.name}: {type(error).__name__}: {text[:200]}"
    if "\n" in text or path.name not in text or ": " not in text or text.startswith("[Errno"):
        return f"{path.name}: not a sentence with a name and a remedy: {text[:200]!r}"
    return None


def faults(folder: Path, files: dict, reader) -> list[str]:
    "The faults of all files `{name: bytes}`."
    for name, data in files.items(): (folder / name).write_bytes(data)
    return [found for name in files if (found := fault(folder / name, reader))]


def damaged(name: str, data: bytes, count: int, seed: int) -> dict:
    "`{name: bytes}`: bits flipped, cut, blanked, doubled, shuffled."
    rng, files, (stem, end) = random.Random(f"{name}{seed}"), {}, name.rsplit(".", 1)
    for n in range(count):
        bad, at = bytearray(data), rng.randrange(len(data))
        span = slice(at, at + rng.randrange(1, 1 + len(data) // 4))
        if n % 5 == 0:
            for _ in range(rng.choice([1, 8, 100])): bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
        if n % 5 == 1: del bad[at:]
        if n % 5 == 2: bad[span] = bytes(len(bad[span]))
        if n % 5 == 3: bad[at:at] = bad[span]
        if n % 5 == 4: bad[:64] = bytes(rng.randrange(256) if rng.random() < .1 else byte for byte in bad[:64])
        files[f"{stem}_{n}.{end}"] = bytes(bad)
    return files


# ---- pictures and films ----------------------------------------------------------------------------------------------
def frames(path: Path) -> int:
    "Reads a few frames."
    return len([check_frame(frame) for frame in islice(open_source(path), 6)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict:
    "`{name: bytes}` of sound files."
    folder, scene = tmp_path_factory.mktemp("whole"), list(synthetic_scene(6, 48, 64))
    for name, codec in {"a.mp4": "libx264", "a.mkv": "ffv1", "a.avi": "mjpeg", "a.mpg": "mpeg2video"}.items():
        with av.open(str(folder / name), "w") as container:
            stream = container.add_stream(codec, rate=25)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in scene: container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    images = [Image.fromarray(frame) for frame in scene]
    for name in ("m.gif", "m.webp", "m.png"): images[0].save(folder / name, save_all=True, append_images=images[1:])
    for name in ("s.png", "s.jpg", "s.tif", "s.bmp", "s.avif", "s.jp2"): images[0].save(folder / name)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


FILMS, PICTURES = ("a.mp4", "a.mkv", "a.avi", "a.mpg"), ("s.png", "s.jpg", "s.tif", "s.bmp", "s.avif", "s.jp2")


def test_whole_files_are_read(whole, tmp_path):
    for name, data in whole.items():
        (tmp_path / name).write_bytes(data)
        assert frames(tmp_path / name) == (1 if name in PICTURES else 6), name


@pytest.mark.parametrize("name", [*FILMS, *PICTURES, "m.gif", "m.webp", "m.png"])
def test_damaged_files(whole, tmp_path, name):
    assert not faults(tmp_path, damaged(name, whole[name], 8, 0), frames)


def test_wrong_endings(whole, tmp_path):
    files = {f"{Path(a).stem}{n}{Path(b).suffix}": whole[a]
             for n, (a, b) in enumerate(zip(whole, reversed(list(whole)))) if Path(a).suffix != Path(b).suffix}
    assert not faults(tmp_path, files, frames)


def test_random_bytes(tmp_path):
    rng = random.Random(0)
    ends = ("mp4", "mkv", "gif", "png", "jpg", "webp", "tif", "avi", "ts", "heic")
    assert not faults(tmp_path, {f"r{n}.{end}": rng.randbytes(rng.choice([0, 1, 100, 5000]))
                                 for n, end in enumerate(ends * 2)}, frames)


def png(width: int, height: int) -> bytes:
    "A PNG that claims a size, with hardly any data."
    chunk = lambda kind, data: struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(bytes(99999))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body


def test_sizes_that_would_fill_the_memory(whole, tmp_path):
    jpeg, at = bytearray(whole["s.jpg"]), whole["s.jpg"].index(b"\xff\xc0")
    jpeg[at + 5:at + 9] = struct.pack(">HH", 65000, 65000)
    gif = bytearray(whole["m.gif"])
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    bmp = bytearray(whole["s.bmp"])
    bmp[18:26] = struct.pack("<ii", 1 << 20, 1 << 20)
    assert not faults(tmp_path, {"big.png": png(60000, 60000), "flat.png": png(2 ** 31 - 1, 1), "none.png": png(0, 0),
                                 "big.jpg": bytes(jpeg), "big.gif": bytes(gif), "big.bmp": bytes(bmp),
                                 "png.mp4": png(60000, 60000)}, frames)


def lists_of(film: str) -> dict:
    "Files that would make a reader open another file."
    return {"a.m3u8": f"#EXTM3U\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n", "a.mp4": f"#EXTM3U\n#EXTINF:1,\n{film}\n",
            "a.ffconcat": f"ffconcat version 1.0\nfile {film}\n", "b.mkv": f"ffconcat version 1.0\nfile '{film}'\n",
            "a.mpd": f'<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period><AdaptationSet>'
                     f'<Representation id="0" mimeType="video/mp4"><BaseURL>{film}</BaseURL></Representation>'
                     '</AdaptationSet></Period></MPD>',
            "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\n"
                     "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
            "a.svg": f'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><image href="{film}"/></svg>',
            "c.gif": f"[playlist]\nFile1={film}\n", "a.sub": f"{{1}}{{9}}{film}\n", "a.lavfi": f"movie={film}"}


def test_a_list_opens_no_other_file(whole, tmp_path):
    (tmp_path / "secret.mp4").write_bytes(whole["a.mp4"])
    for film in ("secret.mp4", f"file:{tmp_path / 'secret.mp4'}"):
        files = {name: text.encode() for name, text in lists_of(film).items()}
        assert not faults(tmp_path, files, frames)
        for name in files:
            with pytest.raises((ValueError, OSError)): frames(tmp_path / name)


class Hostile:
    "Pickled, it would make a folder when it is read."
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)


def test_no_code_runs(tmp_path):
    mark = tmp_path / "code_ran"
    pack, script = pickle.dumps(Hostile(mark)), f"#!/bin/sh\nmkdir {mark}\n".encode()
    eps = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%mkdir {mark}) (w) file\n".encode()
    files = {f"{name}.{end}": data for end in ("png", "mp4", "jpg", "eps")
             for name, data in (("pack", pack), ("script", script), ("page", eps))}
    assert not faults(tmp_path, files, frames) and not mark.exists()


def test_odd_names(whole, tmp_path):
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.mp4")
    os.mkfifo(tmp_path / "pipe.png")
    odd = [tmp_path / name for name in ("folder.mp4", "loop.mp4", "gone.png", "pipe.mp4", "pipe.png", "none.mp4")]
    assert not [found for path in odd if (found := fault(path, frames))]
    for name in ("concat:a.mp4", "%03d.png", "a|b.mp4", "-i.mp4", "ä ö'.mp4", "#.png", "data:x.mp4"):
        (tmp_path / name).write_bytes(whole["s.png" if name.endswith("png") else "a.mp4"])
        assert frames(tmp_path / name) in (1, 6), name


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_files_that_may_not_be_read(whole, tmp_path):
    for name in ("a.mp4", "s.png"):
        (tmp_path / name).write_bytes(whole[name])
        (tmp_path / name).chmod(0)
        assert not fault(tmp_path / name, frames)


@pytest.mark.filterwarnings("ignore")
def test_a_folder_of_odd_files(whole, tmp_path):
    for name, data in {**damaged("s.png", whole["s.png"], 5, 1), "z.png": whole["s.png"]}.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe.png")
    assert not fault(tmp_path, frames) and frames(tmp_path) >= 1
