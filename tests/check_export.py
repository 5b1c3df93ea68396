"""Are the modules, the clean notebooks, the packaged live notebook and README.md what the notebooks say? On a copy."""
import filecmp
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.executable).parent
MADE = ("live2diff_nb/**/*.py", "nbs/**/*.ipynb", "README.md", "nbs/nbdev.yml")


def copied(folder):
    "A copy of what the notebooks and the exports need."
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.safetensors")
    for name in ("nbs", "live2diff_nb"): shutil.copytree(ROOT / name, folder / name, ignore=skip, symlinks=True)
    for name in ("settings.ini", "setup.py", "_quarto.yml", "README.md"): shutil.copy(ROOT / name, folder / name)
    return folder


def changed(folder, pattern):
    "Files that differ from the copy, or are in one place only."
    names = {path.relative_to(base) for base in (ROOT, folder) for path in base.glob(pattern)
             if ".ipynb_checkpoints" not in path.parts}
    return sorted(str(name) for name in names if not ((ROOT / name).exists() and (folder / name).exists()
                                                       and filecmp.cmp(ROOT / name, folder / name, shallow=False)))


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = copied(Path(temporary))
        for path in (folder / "live2diff_nb").rglob("*.py"):
            if path.name != "__init__.py": path.unlink() # a module without a notebook would stay away
        for tool in ("nbdev_export", "nbdev_clean"): subprocess.run([TOOLS / tool], cwd=folder, check=True)
        subprocess.run([sys.executable, folder / "nbs/_site.py", "readme"], cwd=folder, check=True)
        wrong = [name for pattern in MADE for name in changed(folder, pattern)]
    if (ROOT / "nbs/tutorials/live.ipynb").read_bytes() != (ROOT / "live2diff_nb/assets/live.ipynb").read_bytes():
        wrong.append("live2diff_nb/assets/live.ipynb")
    if wrong: sys.exit("Not what the notebooks say: " + ", ".join(wrong) + ". Run `make prepare`.")
    print("clean")


if __name__ == "__main__":
    main()
