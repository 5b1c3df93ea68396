"""Make the moving picture of the README: `python nbs/_film.py` streams the demo clip through the bundled model.

One of its frames is saved as a still, for readers who have asked their system for less motion.
"""
from itertools import islice

import numpy as np
from _api import NBS
from PIL import Image, ImageDraw

from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.video.shown import resize_frame
from live2diff_nb.video.sources import demo_clip, open_source

FILM, STILL = NBS / "images/film.webp", NBS / "images/film_still.webp"
STYLES = ("starry night", "watercolour", "cartoon")
FIRST, COUNT, SIDE, MOST = 8, 72, 184, 1_500_000         # frames of the clip, all streamed; pixels of a panel; bytes


def panels() -> dict:
    "The clip and its streams by name, frames of one panel each; of every two frames one, to keep the file small."
    pipe, clip = Live2Diff.from_pretrained("tiny"), list(islice(open_source(demo_clip()), FIRST, FIRST + COUNT))
    streams = {"input": clip} | {style: list(pipe.stream(clip, style=style)) for style in STYLES}
    return {name: [resize_frame(frame, SIDE, SIDE) for frame in stream[::2]] for name, stream in streams.items()}


def side_by_side(
    names,    # one a panel
    pictures, # (h, w, 3) uint8 each
) -> Image.Image:
    "Panels in a row, with what they show written below."
    image = Image.fromarray(np.pad(np.hstack(pictures), ((0, 18), (0, 0), (0, 0)), constant_values=255))
    draw = ImageDraw.Draw(image)
    for k, name in enumerate(names): draw.text((k * SIDE + 4, SIDE + 3), name, fill="black", font_size=12)
    return image


def main():
    streams = panels()
    first, *rest = [side_by_side(streams, pictures) for pictures in zip(*streams.values())]
    for quality in range(70, 20, -10):
        first.save(FILM, save_all=True, append_images=rest, duration=80, loop=0, quality=quality, method=4)
        if FILM.stat().st_size < MOST: break
    rest[len(rest) // 2].save(STILL, quality=80)
    print(f"{FILM.relative_to(NBS.parent)}: {1 + len(rest)} frames, {FILM.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
