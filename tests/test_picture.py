"""What a file says about how its pixels are to be shown is obeyed, or named."""
import io
import struct
import warnings
import zlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, TiffImagePlugin

from live2diff_nb.pipeline.frames import prepare_frame
from live2diff_nb.video.decoded import rgb_frame
from live2diff_nb.video.drawn import synthetic_scene
from live2diff_nb.video.images import image_frames, read_image
from live2diff_nb.video.shown import check_frame, resize_frame, rgb_picture, side_by_side
from live2diff_nb.video.sinks import open_sink
from live2diff_nb.video.sources import open_source
from live2diff_nb.video.tones import BT2020, HLG, PQ, SCREEN, WIDE, tone_table, to_screen, to_xyz

SCENE = list(synthetic_scene(8, 48, 64))
COLOURS = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 200], [235, 235, 235], [128, 128, 128], [20, 20, 20]])


def off(a, b): return np.abs(np.asarray(a, int) - np.asarray(b, int)).mean()


def write(path, frames, codec="libx264", pix_fmt="yuv420p", source="rgb24", set_up=lambda stream: None, tag=None,
          **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        set_up(stream)
        for n, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=source)
            picture = picture.reformat(format=pix_fmt, **(tag or {}))
            picture.pts = n
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def first(path): return next(iter(open_source(path)))


# ---- films: light ----------------------------------------------------------------------------------------------------
def to_wide(transfer, primaries=BT2020):
    "The codes (n, 3) of HDR that an SDR screen should show as COLOURS."
    light = (COLOURS / 255) ** 2.4 @ np.linalg.solve(to_xyz(WIDE[primaries]), to_xyz(SCREEN)).T
    if transfer == HLG:
        light = light * .203
        light = light * (light @ to_xyz(WIDE[primaries])[1])[:, None] ** (-1 / 6)
        return np.where(light <= 1 / 12, np.sqrt(3 * light),
                        .17883277 * np.log(np.maximum(12 * light - .28466892, 1e-9)) + .55991073)
    power = (light * .0203) ** (1305 / 8192)
    return ((.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** (2523 / 32)


def wide_frame(codes, primaries, transfer, matrix, depth, full=False):
    "A YUV frame of stripes, `depth` bits a number."
    red, blue = (.2627, .0593) if matrix in (BT2020, 2) else (.2126, .0722)
    luma = codes @ [red, 1 - red - blue, blue]
    planes = [luma, (codes[:, 2] - luma) / (2 - 2 * blue), (codes[:, 0] - luma) / (2 - 2 * red)]
    scale = 2 ** depth - 1 if full else 2 ** (depth - 8)
    low, luma_range, chroma_range = (0, 1, 1) if full else (16, 219, 224)
    frame = av.VideoFrame(len(codes) * 16, 32, {10: "yuv444p10le", 12: "yuv444p12le"}[depth])
    for n, (plane, values) in enumerate(zip(frame.planes, planes)):
        numbers = (values * luma_range + low) * scale if n == 0 else values * chroma_range * scale + 2 ** (depth - 1)
        row = np.zeros(plane.line_size // 2, np.uint16)
        row[:frame.width] = np.round(numbers).clip(0, 2 ** depth - 1).repeat(16)
        plane.update(np.tile(row, (32, 1)).tobytes())
    frame.color_primaries, frame.color_trc, frame.colorspace = primaries, transfer, matrix
    frame.color_range = 2 if full else 1
    return frame


@pytest.mark.parametrize("primaries, transfer, matrix, depth, full", [
    (9, HLG, 9, 10, False), (9, PQ, 9, 10, False), (9, PQ, 9, 12, False), (9, HLG, 9, 10, True), (2, HLG, 2, 10, False),
    (2, PQ, 9, 12, False), (9, HLG, 2, 10, False)])
def test_high_dynamic_range_is_what_an_ordinary_screen_shows(primaries, transfer, matrix, depth, full):
    frame = rgb_frame(wide_frame(to_wide(transfer), primaries, transfer, matrix, depth, full))
    assert np.abs(frame[16, 8::16].astype(int) - COLOURS).max() <= 4


@pytest.mark.parametrize("primaries", [9, 11, 12])
def test_wide_primaries_are_not_dull(primaries):
    light = (COLOURS / 255) ** 2.4 @ np.linalg.solve(to_xyz(WIDE[primaries]), to_xyz(SCREEN)).T
    frame = rgb_frame(wide_frame(light ** (1 / 2.4), primaries, 1, 9 if primaries == 9 else 1, 10))
    assert np.abs(frame[16, 8::16].astype(int) - COLOURS).max() <= 4


def test_a_phone_film_of_high_dynamic_range(tmp_path):
    with av.open(str(tmp_path / "phone.mp4"), "w") as container:
        options = {"x265-params": "log-level=none:bframes=0", "crf": "4"}
        stream = container.add_stream("libx265", rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 32, "yuv444p10le"
        context = stream.codec_context
        context.color_primaries, context.color_trc, context.colorspace, context.color_range = 9, HLG, 9, 1
        for n in range(3):
            frame = wide_frame(to_wide(HLG), 9, HLG, 9, 10)
            frame.pts = n
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    for frame in open_source(tmp_path / "phone.mp4"):
        assert np.abs(frame[16, 8::16].astype(int) - COLOURS).max() <= 5


def test_highlights_are_rolled_off_and_keep_their_hue():
    grey = to_screen(np.linspace(0, 1, 200)[:, None].repeat(3, 1), PQ, BT2020)[:, 0]
    assert (np.diff(grey) >= 0).all() and grey[-1] <= 1 and (np.diff(grey)[100:150] > 0).all()
    lamp = to_screen(np.array([[.75, .6, .3]]), PQ, 1)[0]
    assert lamp[0] > .95 and lamp[0] - lamp[1] > .2 and tone_table(PQ, 9).startswith("LUT_3D_SIZE")


def test_light_itself_is_turned_into_a_screens_numbers():
    frame = av.VideoFrame.from_ndarray(np.full((4, 4, 3), 65535 // 4, np.uint16), format="rgb48le")
    frame.color_trc = 8
    assert abs(int(rgb_frame(frame)[0, 0, 0]) - 255 * .25 ** (1 / 2.4)) < 1


@pytest.mark.parametrize("tags", [dict(color_trc=9), dict(color_trc=17), dict(colorspace=14), dict(colorspace=15),
                                  dict(color_primaries=10)])
def test_what_cannot_be_shown_right_is_refused(tags):
    frame = av.VideoFrame(32, 32, "yuv420p10le")
    for name, value in tags.items(): setattr(frame, name, value)
    with pytest.raises(ValueError, match="cannot be shown right") as caught: rgb_frame(frame)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["xyz12le", "bayer_rggb8", "yaf32le", "rgb96le"])
def test_numbers_of_a_sensor_and_of_cinema_are_refused(name):
    with pytest.raises(ValueError, match=f"cannot be shown right.*{name}"): rgb_frame(av.VideoFrame(32, 32, name))


def test_the_refusal_names_the_file(tmp_path):
    def logarithmic(stream): stream.codec_context.color_trc = 9
    path = write(tmp_path / "log.mkv", SCENE[:2], set_up=logarithmic)
    with pytest.raises(ValueError, match="log.mkv cannot be shown right"): first(path)


def test_dolby_vision_with_nothing_to_fall_back_on_is_refused(tmp_path):
    "Profile 5 has a tag of its own in the container."
    path = write(tmp_path / "a.mp4", SCENE[:2], "libx265", **{"x265-params": "log-level=none:bframes=0"})
    path.write_bytes(path.read_bytes().replace(b"hev1", b"dvh1").replace(b"hvc1", b"dvh1"))
    with pytest.raises(ValueError, match="a.mp4 cannot be shown right: it is Dolby Vision"): first(path)


# ---- films: range, depth, transparency, shape ------------------------------------------------------------------------
@pytest.mark.parametrize("codec, pix_fmt, end", [
    ("libx264", "yuvj420p", "mp4"), ("libx264", "yuv420p10le", "mp4"), ("libx264", "yuv444p", "mp4"),
    ("libx264rgb", "rgb24", "mp4"), ("ffv1", "gbrp10le", "mkv"), ("ffv1", "gbrp16le", "mkv"),
    ("ffv1", "yuv420p12le", "mkv"), ("prores_ks", "yuv422p10le", "mov"), ("mjpeg", "yuvj444p", "mov")])
def test_every_kind_of_pixel_keeps_its_colours(tmp_path, codec, pix_fmt, end):
    path = write(tmp_path / f"a.{end}", SCENE[:2], codec, pix_fmt, **({"crf": "4"} if "264" in codec else {}))
    assert off(first(path), SCENE[0]) < 6


def test_full_range_is_obeyed(tmp_path):
    grey = np.linspace(0, 255, 64).astype(np.uint8)[None, :, None].repeat(48, 0).repeat(3, 2)
    assert off(first(write(tmp_path / "a.mp4", [grey], pix_fmt="yuvj420p", crf="1")), grey) < 2


@pytest.mark.parametrize("codec, pix_fmt, end", [
    ("libvpx-vp9", "yuva420p", "webm"), ("prores_ks", "yuva444p10le", "mov"), ("ffv1", "bgra", "mkv"),
    ("png", "rgba", "mov"), ("qtrle", "argb", "mov")])
def test_what_is_transparent_is_black(tmp_path, codec, pix_fmt, end):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    noise[..., 3] = 0
    noise[16:48, 16:48] = 200, 60, 40, 255
    path = write(tmp_path / f"a.{end}", [noise] * 3, codec, pix_fmt, "rgba")
    for frame in open_source(path):
        assert frame[:12].max() <= 2 and np.abs(frame[24:40, 24:40].astype(int) - (200, 60, 40)).max() <= 4


def test_the_background_is_yours():
    frame = av.VideoFrame.from_ndarray(np.zeros((8, 8, 4), np.uint8), format="rgba")
    assert (rgb_frame(frame, (9, 99, 9)) == (9, 99, 9)).all()


@pytest.mark.parametrize("end", ["mp4", "mkv", "mov", "avi"])
@pytest.mark.parametrize("aspect, height, width", [(Fraction(4, 3), 48, 85), (Fraction(1, 2), 96, 64)])
def test_pixels_that_are_not_square(tmp_path, end, aspect, height, width):
    def set_up(stream): stream.codec_context.sample_aspect_ratio = aspect
    frame = first(write(tmp_path / f"a.{end}", SCENE[:2], set_up=set_up, crf="4"))
    assert frame.shape == (height, width, 3) and off(resize_frame(SCENE[0], height, width, "stretch"), frame) < 8


@pytest.mark.parametrize("end", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize("matrix, turn", [
    ((-1, 0, 0, 1), lambda f: f[:, ::-1]), ((1, 0, 0, -1), lambda f: f[::-1]),
    ((-1, 0, 0, -1), lambda f: f[::-1, ::-1]),
    ((0, 1, 1, 0), lambda f: f.swapaxes(0, 1)), ((0, 1, -1, 0), lambda f: np.rot90(f, -1)),
    ((0, -1, 1, 0), np.rot90), ((0, -1, -1, 0), lambda f: f[::-1, ::-1].swapaxes(0, 1))])
def test_turned_and_mirrored_films_stand_as_meant(tmp_path, end, matrix, turn):
    a, b, c, d = (65536 * part for part in matrix)
    def set_up(stream): stream.set_display_matrix([a, b, 0, c, d, 0, 0, 0, 1 << 30])
    got, wanted = first(write(tmp_path / f"a.{end}", SCENE[:2], set_up=set_up, crf="4")), turn(SCENE[0])
    assert got.shape == wanted.shape and off(got, wanted) < 6


@pytest.mark.parametrize("codec, pix_fmt, end, options", [
    ("libx264", "yuv420p", "mp4", {"x264-params": "tff=1", "crf": "4"}),
    ("libx264", "yuv420p", "mp4", {"x264-params": "bff=1", "crf": "4"}),
    ("mpeg2video", "yuv420p", "mpg", {"flags": "+ildct+ilme", "qmin": "1", "qmax": "2"}),
    ("prores_ks", "yuv422p10le", "mov", {"flags": "+ildct"}), ("v210", "yuv422p10le", "mov", {"order": 2}),
    ("v210", "yuv422p10le", "mov", {"order": 3}), ("ffv1", "yuv420p", "mkv", {"order": 2}),
    ("rawvideo", "uyvy422", "mov", {"order": 2})])
def test_interlaced_films_show_no_combs(tmp_path, codec, pix_fmt, end, options):
    moving = list(synthetic_scene(24, 48, 64))
    lines, late = np.arange(48)[:, None, None] % 2, int("bff=1" in str(options) or options.get("order") == 3)
    order = options.get("order")             # told by the container alone
    def set_up(stream):
        if order: stream.codec_context.field_order = order
    combed = [np.where(lines == late, moving[2 * n], moving[2 * n + 1]) for n in range(12)]
    comb = lambda frames: np.mean([np.abs(2 * f[1:-1].astype(int) - f[:-2] - f[2:]).mean() for f in frames])
    options = {name: value for name, value in options.items() if name != "order"}
    got = list(open_source(write(tmp_path / f"a.{end}", combed, codec, pix_fmt, set_up=set_up, **options)))
    assert len(got) == 12 and comb(got) < comb(moving) * 1.25 < comb(combed)


def test_progressive_films_are_left_alone(tmp_path):
    path = write(tmp_path / "a.mkv", SCENE, "ffv1", "bgr0")
    assert all((a == b).all() for a, b in zip(open_source(path), SCENE, strict=True))


def test_the_size_may_change_within_a_film(tmp_path):
    data = b"".join(write(tmp_path / f"{n}.h264", [f[:side, :side] for f in SCENE], crf="4").read_bytes()
                    for n, side in enumerate((48, 32)))
    (tmp_path / "both.h264").write_bytes(data)
    got = list(open_source(tmp_path / "both.h264"))
    assert [f.shape[0] for f in got] == [48] * 8 + [32] * 8
    assert off(got[3], SCENE[3][:48, :48]) < 6 and off(got[12], SCENE[4][:32, :32]) < 6
    for n, frame in enumerate(got): Image.fromarray(frame).save(tmp_path / f"{n}.png")
    assert [f.shape for f in open_source(tmp_path)] == [f.shape for f in got]


# ---- pictures --------------------------------------------------------------------------------------------------------
PHOTO = Image.fromarray(SCENE[0])
GREY = np.asarray(PHOTO.convert("L"))


def stored(image, kind, **options):
    "The picture as it comes out of a file."
    image.save(file := io.BytesIO(), kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("make", [
    lambda: stored(PHOTO, "PNG"), lambda: stored(PHOTO.convert("CMYK"), "JPEG", quality=98),
    lambda: stored(PHOTO, "BMP"),
    lambda: stored(PHOTO.convert("CMYK"), "TIFF"), lambda: stored(PHOTO.convert("YCbCr"), "TIFF"),
    lambda: stored(PHOTO.convert("P", palette=1), "GIF"), lambda: PHOTO.convert("RGBa"), lambda: PHOTO.convert("HSV"),
    lambda: stored(ImageCms.profileToProfile(PHOTO, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"),
                                             outputMode="LAB"), "TIFF")])
def test_pictures_of_colour(make):
    assert off(rgb_picture(make()), SCENE[0]) < 5


@pytest.mark.parametrize("make", [
    lambda: stored(Image.fromarray(GREY * np.uint16(257)), "PNG"), lambda: Image.fromarray(GREY.astype(">u2") * 257),
    lambda: stored(Image.fromarray(GREY * np.uint16(257)), "TIFF"), lambda: stored(PHOTO.convert("LA"), "PNG"),
    lambda: stored(Image.fromarray(GREY / np.float32(255)), "TIFF"), lambda: PHOTO.convert("F"),
    lambda: PHOTO.convert("I"),
    lambda: stored(Image.fromarray(GREY * np.int32(257)), "TIFF"), lambda: PHOTO.convert("L")])
def test_pictures_of_grey_by_their_depth(make):
    assert np.abs(rgb_picture(make()).astype(int) - GREY[..., None]).max() <= 1


def test_white_may_be_zero():
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0
    got = rgb_picture(stored(Image.fromarray(65535 - GREY * np.uint16(257)), "TIFF", tiffinfo=tags))
    assert np.abs(got.astype(int) - GREY[..., None]).max() <= 1


@pytest.mark.parametrize("values", [
    GREY.astype(np.int32) << 16, GREY.astype(np.float32) * 1e6, -GREY.astype(np.float32),
    np.full((4, 4), np.nan, np.float32), np.full((4, 4), np.inf, np.float32)])
def test_a_depth_that_nothing_explains_is_refused(tmp_path, values):
    Image.fromarray(values).save(tmp_path / "deep.tif")
    with pytest.warns(UserWarning, match="deep.tif cannot be shown right"):
        assert read_image(tmp_path / "deep.tif") is None


def test_a_phones_wide_colours(tmp_path):
    "Display P3: 200, 60, 40 of sRGB has other numbers there."
    linear = lambda v: np.where(v <= .04045, v / 12.92, ((v + .055) / 1.055) ** 2.4)
    signal = lambda v: np.where(v <= .0031308, v * 12.92, 1.055 * v ** (1 / 2.4) - .055)
    wide = signal(np.linalg.solve(to_xyz(WIDE[12]), to_xyz(SCREEN)) @ linear(np.array([200, 60, 40]) / 255)) * 255
    image = Image.fromarray(np.full((8, 8, 3), wide.round(), np.uint8))
    for options in (dict(icc_profile=p3_profile()), dict(icc_profile=b"broken")):
        image.save(tmp_path / "a.png", **options)
        gap = np.abs(read_image(tmp_path / "a.png")[0, 0].astype(int) - (200, 60, 40)).max()
        assert gap <= 2 if len(options["icc_profile"]) > 6 else gap > 8


def p3_profile() -> bytes:
    "sRGB's profile with the primaries of Display P3, seen under D50 as profiles are."
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    bradford = np.array([[.8951, .2664, -.1614], [-.7502, 1.7135, .0367], [.0389, -.0685, 1.0296]])
    cones = bradford @ np.array([.9642, 1, .8249]) / (bradford @ to_xyz(SCREEN).sum(1))
    primaries = np.linalg.inv(bradford) @ np.diag(cones) @ bradford @ to_xyz(WIDE[12])
    for n in range(int.from_bytes(data[128:132], "big")):
        name, offset = data[132 + 12 * n:136 + 12 * n], int.from_bytes(data[136 + 12 * n:140 + 12 * n], "big")
        if name in (b"rXYZ", b"gXYZ", b"bXYZ"):
            numbers = (primaries[:, b"rgb".index(name[0])] * 65536).round().astype(">i4")
            data[offset + 8:offset + 20] = numbers.tobytes()
    return bytes(data)


@pytest.mark.parametrize("save", [
    lambda image, path: image.save(path / "a.png"), lambda image, path: image.save(path / "a.webp", lossless=True),
    lambda image, path: image.quantize(32).save(path / "a.png"), lambda image, path: image.save(path / "a.tif")])
def test_what_lies_under_transparency_stays_there(tmp_path, save):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 4), np.uint8)
    noise[..., 3] = 0
    noise[20:40, 20:40] = 200, 60, 40, 255
    save(Image.fromarray(noise), tmp_path)
    got = first(tmp_path)
    assert got[:16].std() == 0 and np.abs(got[30, 30].astype(int) - (200, 60, 40)).max() <= 8


def test_grey_with_one_shade_transparent():
    image = Image.fromarray(np.array([[10, 20]], np.uint8))
    assert rgb_picture(stored(image, "PNG", transparency=20), (1, 2, 3)).tolist() == [[[10] * 3, [1, 2, 3]]]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_stand_upright_with_the_shape_of_their_pixels(orientation):
    exif = Image.Exif()
    exif[274] = orientation
    got = rgb_picture(stored(PHOTO, "JPEG", exif=exif, dpi=(100, 50)))
    assert got.shape == ((96, 64, 3) if orientation < 5 else (64, 96, 3))


@pytest.mark.parametrize("kind, dpi, shape", [("PNG", (100, 50), (96, 64)), ("TIFF", (50, 100), (48, 128)),
                                              ("PNG", (72, 72), (48, 64)), ("TIFF", (1, 4000), (48, 64))])
def test_pixels_of_pictures_that_are_not_square(kind, dpi, shape):
    assert rgb_picture(stored(PHOTO, kind, dpi=dpi)).shape[:2] == shape


def test_a_pictures_gamma():
    image = Image.fromarray(np.full((2, 2, 3), 55, np.uint8))
    image.info["gamma"] = 1.0
    assert abs(int(rgb_picture(image)[0, 0, 0]) - 255 * (55 / 255) ** (1 / 2.2)) <= 1
    image.info["gamma"] = .45455
    assert rgb_picture(image)[0, 0, 0] == 55


def test_a_picture_of_high_dynamic_range(tmp_path):
    "A PNG says so in a chunk `cICP`, which Pillow does not read."
    codes = (to_wide(PQ) * 65535).round().astype(np.uint16)[None].repeat(16, 0).repeat(16, 1)
    data, chunk = bytearray(cv2.imencode(".png", codes[..., ::-1])[1].tobytes()), b"cICP" + bytes([9, PQ, 0, 1])
    data[33:33] = struct.pack(">I", 4) + chunk + struct.pack(">I", zlib.crc32(chunk))      # after the head
    (tmp_path / "a.png").write_bytes(data)
    assert np.abs(read_image(tmp_path / "a.png")[8, 8::16].astype(int) - COLOURS).max() <= 4


@pytest.mark.parametrize("name, options", [("a.webp", dict(lossless=True)), ("a.png", {}), ("a.gif", dict(disposal=2))])
def test_pictures_that_move(tmp_path, name, options):
    cut_outs = [np.dstack([np.roll(SCENE[0], 5 * n, 1), np.roll(np.eye(48, 64, dtype=np.uint8) * 255, 5 * n, 1)])
                for n in range(4)]
    images = [Image.fromarray(frame) for frame in cut_outs]
    images[0].save(tmp_path / name, save_all=True, append_images=images[1:], duration=[40, 80, 200, 40], **options)
    source = open_source(tmp_path / name)
    for n, frame in enumerate(source): assert off(frame, cut_outs[n][..., :3] * (cut_outs[n][..., 3:] > 0)) < 1
    assert np.allclose(source.times, [0, .04, .12, .32], atol=.011)


def test_a_folder_names_what_it_cannot_read(tmp_path):
    for name in ("a.heic", "b.jxl", "c.png"): PHOTO.save(tmp_path / name, "PNG")
    (tmp_path / "d.cr2").write_bytes(b"raw")
    with pytest.warns(UserWarning) as said: got = list(open_source(tmp_path))
    text = " ".join(str(w.message) for w in said)
    assert ".cr2" in text and (len(got) == 3 or "pip install pillow-heif" in text and "pip install pillow-jxl" in text)


def test_moving_pictures_that_are_cut_off(tmp_path):
    images = [Image.fromarray(np.roll(SCENE[0], 9 * n, 1)) for n in range(6)]
    images[0].save(tmp_path / "a.gif", save_all=True, append_images=images[1:])
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "a.png").write_bytes(data[:len(data) * 2 // 3])     # a GIF whatever it is called
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert 1 <= len(list(image_frames(tmp_path / "a.png"))) <= 5 and "cut off or damaged" in str(said[-1].message)


# ---- frames of any kind ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [
    lambda f: f.copy(), lambda f: np.asfortranarray(f), lambda f: f[::-1][::-1], lambda f: Image.fromarray(f),
    lambda f: Image.fromarray(f).convert("CMYK"), lambda f: torch.from_numpy(f.copy()),
    lambda f: f.tolist(),
    lambda f: np.frombuffer(f.tobytes(), np.uint8).reshape(f.shape), lambda f: np.flip(np.flip(f, 1).copy(), 1),
    lambda f: av.VideoFrame.from_ndarray(f, format="rgb24")])
def test_frames_that_are_taken(make):
    frame = make(SCENE[0])
    if isinstance(frame, list):
        with pytest.raises(ValueError, match="int64"): prepare_frame(frame, 48, 64)
    else: assert (prepare_frame(frame, 48, 64) == SCENE[0]).all()


@pytest.mark.parametrize("frame, says", [
    (SCENE[0] / 255, "float64"), (SCENE[0].astype(">u2"), ">u2|uint16"), (torch.zeros(8, 8, 3), "float32"),
    (torch.zeros(8, 8, 3, dtype=torch.bfloat16), "Tensor of torch.bfloat16"), ("film.mp4", "uint8"), (None, "uint8"),
    (torch.zeros(8, 8, 3, dtype=torch.uint8, device="meta"), "numpy cannot read"),
    (np.zeros((3, 48, 64), np.uint8), "channels last"),
    (np.zeros((0, 8, 3), np.uint8), "shape"), ([[1, 2], [3]], "numpy cannot read"),
    (np.zeros((8, 8, 3), bool), "bool")])
def test_frames_that_are_refused_in_one_sentence(frame, says):
    for check in (check_frame, lambda f: prepare_frame(f, 16, 16)):
        wanted = "frame must be" if check is check_frame else says
        with pytest.raises(ValueError, match=wanted) as caught: check(frame)
        assert "\n" not in str(caught.value)


def test_a_sink_takes_pictures_and_tensors(tmp_path):
    with open_sink(tmp_path / "out") as sink:
        for frame in (PHOTO, PHOTO.convert("CMYK"), torch.from_numpy(SCENE[0].copy())): sink.write(frame)
        with pytest.raises(ValueError, match="numpy cannot read"): sink.write(torch.zeros(2, 2, 3, device="meta"))
    assert all((frame == SCENE[0]).all() for frame in open_source(tmp_path / "out"))


def test_rgba_arrays_are_blended_over_black():
    frame = np.dstack([SCENE[0], np.zeros((48, 64), np.uint8)])
    assert not prepare_frame(frame, 48, 64).any()


@pytest.mark.parametrize("height, width, rows, columns", [(64, 64, slice(8, 56), slice(0, 64)), (48, 128, slice(0, 48),
                                                                                               slice(32, 96))])
def test_pad_keeps_everything_between_black_bars(height, width, rows, columns):
    got = resize_frame(SCENE[0], height, width, "pad")
    assert got.shape == (height, width, 3) and (got[rows, columns] == SCENE[0]).all()
    got[rows, columns] = 0
    assert not got.any() and (prepare_frame(SCENE[0], height, width, "pad")[rows, columns] == SCENE[0]).all()


def test_side_by_side_takes_pictures():
    assert side_by_side(PHOTO, SCENE[1]).shape == (48, 128, 3)
