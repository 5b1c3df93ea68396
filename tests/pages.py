"""The notebooks, read once a process."""
from functools import cache
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
PATHS = sorted(path for path in NBS.rglob("*.ipynb") if ".ipynb_checkpoints" not in path.parts)


@cache
def notebook(path: Path):
    "A notebook; do not change it, others get the same one."
    return nbformat.read(path, as_version=4)


@cache
def sidebar() -> list[str]:
    "The notebooks of the site in reading order: `index.ipynb`, `engine/masks.ipynb`, ..."
    entries = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf8"))["website"]["sidebar"]["contents"]
    listed = [href for entry in entries for href in ([entry] if isinstance(entry, str) else entry["contents"])]
    return [href for href in listed if href.endswith(".ipynb")]
