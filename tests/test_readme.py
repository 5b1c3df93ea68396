"""What the README says, works. Its ten lines run in `test_wheel`, where the package is installed."""
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf8")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:`|^)make (\w+)", README, re.MULTILINE))))
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^live2diff-nb (\w+)", README, re.MULTILINE))))
def test_commands_exist(command):
    done = subprocess.run([sys.executable, "-c", "from live2diff_nb.cli import main; main()", command, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage" in done.stdout, done.stderr


def test_pictures_and_links_exist():
    for link in re.findall(r"\]\((?!\w+:|#)([^)]+)\)", README): assert (ROOT / link).exists(), link


def test_no_numbers_are_missing(): assert "TO BE MEASURED" not in README


def test_the_table_is_that_of_chapter_15():
    def rows(text): return [row[:4] for row in (re.findall(r"\| (\d+\.\d+) ", line) for line in text.splitlines()) if len(row) >= 4]
    cells = json.loads((ROOT / "nbs/judge/evaluate.ipynb").read_text(encoding="utf8"))["cells"]
    chapter, = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown" and "--drift 1000` printed" in "".join(cell["source"])]
    assert rows(README.split("## How good")[1].split("\n## ")[0]) == rows(chapter) and len(rows(chapter)) == 8
