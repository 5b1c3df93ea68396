"""Every export works in a process that has seen no notebook."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import live2diff_nb

PACKAGE = Path(live2diff_nb.__file__).parent
MODULES = sorted(str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".") for path in PACKAGE.rglob("*.py") if path.stem[0] != "_")

CODE = """
import importlib, json, sys
module = importlib.import_module("live2diff_nb." + sys.argv[1])
values = {name: getattr(module, name) for name in module.__all__}
constant = (str, int, float, bool, tuple, list, dict, set, frozenset, type(None))
print(json.dumps({
    "names": sorted(values),
    "odd": [name for name, value in values.items() if not callable(value) and not isinstance(value, constant) and name.upper() != name],
    "tools": sorted({name.split(".")[0] for name in sys.modules} & {"nbdev", "fastcore", "execnb"})}))
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    "What each module said in a process of its own, two at a time."
    clean = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "IN_TEST", "MPLBACKEND", "PYTHONPATH")}
    start = lambda name: subprocess.Popen([sys.executable, "-c", CODE, name], env=clean, cwd=tmp_path_factory.mktemp(name),
                                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said = {}
    for pair in zip(MODULES[::2], MODULES[1::2] + [None] * (len(MODULES) % 2)):
        for name, process in [(name, start(name)) for name in pair if name]:
            out, error = process.communicate(timeout=120)
            said[name] = json.loads(out.splitlines()[-1]) if process.returncode == 0 else error
    return said


@pytest.mark.parametrize("name", MODULES)
def test_imports_alone(reports, name):
    report = reports[name]
    assert isinstance(report, dict), report
    assert report["odd"] == [], "neither callable nor a constant"
    assert report["tools"] == [], "the library must not need the notebook tools"


@pytest.mark.parametrize("name", MODULES)
def test_exports_something(reports, name):
    assert reports[name]["names"]


def test_package_gives_the_pipeline():
    assert callable(live2diff_nb.Live2Diff.from_pretrained)
