"""Every export works in a process that has seen no notebook and no other module of ours."""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import live2diff_nb

PACKAGE = Path(live2diff_nb.__file__).parent
MODULES = sorted(str(path.relative_to(PACKAGE).with_suffix("")).replace("/", ".")
                 for path in PACKAGE.rglob("*.py") if path.stem[0] != "_")

# The libraries that take seconds are imported once; then every module gets a copy of that process, a fork, which has
# not seen the package. What the package imports for itself is imported in the fork.
CODE = """
import importlib, json, os, sys, traceback
import torch, torchvision
import diffusers.models.resnet, diffusers.models.transformers.transformer_2d, diffusers.schedulers.scheduling_lcm

def report(name):
    module = importlib.import_module("live2diff_nb." + name)
    values = {name: getattr(module, name) for name in module.__all__}
    constant = (str, int, float, bool, tuple, list, dict, set, frozenset, type(None))
    return {
        "names": sorted(values),
        "odd": [name for name, value in values.items()
                if not callable(value) and not isinstance(value, constant) and name.upper() != name],
        "tools": sorted({name.split(".")[0] for name in sys.modules} & {"nbdev", "fastcore", "execnb"})}

for name in sys.argv[1:]:
    assert not [seen for seen in sys.modules if seen.startswith("live2diff_nb")]
    if (child := os.fork()) == 0:
        try: said = report(name)
        except BaseException: said = traceback.format_exc()
        print(json.dumps([name, said]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    "What each module said in a process of its own."
    hidden = ("DISPLAY", "WAYLAND_DISPLAY", "IN_TEST", "MPLBACKEND", "PYTHONPATH")
    clean = {key: value for key, value in os.environ.items() if key not in hidden} | {"OMP_NUM_THREADS": "1"}
    folder = tmp_path_factory.mktemp("elsewhere")
    done = subprocess.run([sys.executable, "-c", CODE, *MODULES], env=clean, cwd=folder, capture_output=True, text=True,
                          timeout=600)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))


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


# ---- the first frame -----------------------------------------------------------------------------------------------
SLOW = {"diffusers", "transformers", "peft", "timm", "torchvision", "scipy", "matplotlib"}
FIRST = """
import sys
import numpy as np
from live2diff_nb import Live2Diff
pipe = Live2Diff.from_pretrained("tiny", device="cpu")
wide = np.random.default_rng(0).integers(0, 255, (9, 90, 160, 3), np.uint8)         # a crop says what would fit better
frame = next(pipe.stream(wide, prompt="starry night"))
print(frame.shape, sorted(set(sys.argv[1:]) & {name.split(".")[0] for name in sys.modules}))
print(type(pipe.unet).__name__, type(pipe.tokenizer).__name__, type(pipe.scheduler).__name__)
"""


def test_the_first_frame_needs_no_slow_library():
    "The graphs run all of it; the networks are built when they are asked for."
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST, *SLOW], capture_output=True, text=True,
                          timeout=300)
    assert done.stdout.splitlines() == ["(256, 256, 3) []", "StreamUNet CLIPTokenizer LCMScheduler"], done.stderr
