"""Figures of the saved pages: the present drawing code, and pictures of 256 colours: `python nbs/_figures.py`."""
import base64
import io
import json
import re

from _api import NBS
from PIL import Image

from live2diff_nb.figures.figure import code_of

FIGURE = re.compile(r'(<div class="l2d-page" data-kind="(\w+)".*?</script></div>\n).*', re.DOTALL)


def fewer_colours(png: str) -> str:
    "A large picture with a palette of 256 colours, a third of its size and the same to the eye; others as they are."
    data, small = base64.b64decode(png), io.BytesIO()
    picture = Image.open(io.BytesIO(data))
    if len(data) < 30_000 or picture.mode == "P": return png
    picture.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT).save(small, "PNG", optimize=True)
    return base64.b64encode(small.getvalue()).decode() if len(small.getvalue()) < len(data) else png


def renewed(path) -> bool:
    "Bring one notebook up to date; was it out of date?"
    text = path.read_text(encoding="utf8")
    nb = json.loads(text)
    for output in (output for cell in nb["cells"] for output in cell.get("outputs", [])):
        html = "".join(output.get("data", {}).get("text/html", ""))
        if match := FIGURE.fullmatch(html):
            output["data"]["text/html"] = (match[1] + code_of(match[2])).splitlines(keepends=True)
        if png := "".join(output.get("data", {}).get("image/png", "")): output["data"]["image/png"] = fewer_colours(png)
    new = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if new != text: path.write_text(new, encoding="utf8")
    return new != text


if __name__ == "__main__":
    print("renewed:", *[str(path.relative_to(NBS)) for path in sorted(NBS.rglob("*.ipynb")) if renewed(path)])
