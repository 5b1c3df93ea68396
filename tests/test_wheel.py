"""The wheel carries what a user without the repository needs. The dependencies are borrowed, the package is not."""
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

from live2diff_nb.video.sources import open_source

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "live2diff_nb"
LEFT_OUT = ("__pycache__", ".ipynb_checkpoints")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    "Built from a copy, so that nothing left over in the repository gets in."
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    shutil.copytree(PACKAGE, source / "live2diff_nb", ignore=shutil.ignore_patterns(*LEFT_OUT))
    for name in ("settings.ini", "setup.py", "README.md", "LICENSE", "MANIFEST.in", "constraints.txt"):
        shutil.copy(ROOT / name, source / name)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source]
    subprocess.run(build, check=True, capture_output=True)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    "A new environment with the wheel in it, and a .pth file that lends it this one's dependencies."
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(install, check=True)
    paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
    (Path(paths["purelib"]) / "borrowed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return python


def run(command, folder):
    "What a command prints, far from the repository."
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_wheel_holds_every_asset_and_module(wheel):
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = [path for path in PACKAGE.rglob("*") if path.is_file() and not set(LEFT_OUT) & set(path.parts)]
    assert not [path for path in wanted if str(path.relative_to(ROOT).as_posix()) not in inside]
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in inside)
    assert wheel.stat().st_size < 60_000_000


def test_wheel_holds_nothing_else(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert len(tops) == 2 and "live2diff_nb" in tops


def test_ten_lines_of_the_readme_run_where_the_wheel_is_installed(environment, tmp_path):
    code, = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    where = run([environment, "-c", f"{code}\nimport live2diff_nb\nprint(live2diff_nb.__file__)"], tmp_path).split()[-1]
    assert Path(where).is_relative_to(environment.parents[1])
    assert len(list(open_source(tmp_path / "styled.mp4"))) == len(list(open_source("demo")))


def test_installed_command(environment, tmp_path):
    assert run([environment.parent / "live2diff-nb", "info"], tmp_path).strip()
