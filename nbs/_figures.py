"""Give the figures in the saved pages the present drawing code, without running the pages: `python nbs/_figures.py`."""
import json
import re

from _api import NBS

from live2diff_nb.figures.figure import code_of

FIGURE = re.compile(r'(<div class="l2d-page" data-kind="(\w+)".*?</script></div>\n).*', re.DOTALL)


def renewed(path) -> bool:
    "Bring one notebook up to date; was it out of date?"
    text = path.read_text(encoding="utf8")
    nb = json.loads(text)
    for output in (output for cell in nb["cells"] for output in cell.get("outputs", [])):
        html = "".join(output.get("data", {}).get("text/html", ""))
        if match := FIGURE.fullmatch(html):
            output["data"]["text/html"] = (match[1] + code_of(match[2])).splitlines(keepends=True)
    new = json.dumps(nb, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    if new != text: path.write_text(new, encoding="utf8")
    return new != text


if __name__ == "__main__":
    print("renewed:", *[str(path.relative_to(NBS)) for path in sorted(NBS.rglob("*.ipynb")) if renewed(path)])
