"""At full size: 1.28 billion random weights under the official names; about 3 GB on the disk and 6 GB of memory."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from diffusers import UNet2DConditionModel

from helpers import relative
from live2diff_nb.weights.rehearse import FULL, sd_config, split_unet, write_rehearsal
from live2diff_nb.engine.unet import StreamUNet, chunk_views

LOAD = """
import json, re, sys, torch
torch.set_num_threads(1)
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.files.files import fetch, open_weights
from live2diff_nb.weights.real import memory_before
import diffusers, transformers.models.clip.modeling_clip, onnxruntime, psutil
given, saved, wanted = json.loads(sys.argv[1]), sys.argv[2], sys.argv[3]
size = dict(height=64, width=64)
estimate = memory_before(given["name"], 64, 64, 2, torch.float16, motion=given["motion"], vae=given["vae"])
Live2Diff.from_pretrained("tiny", device="cpu")          # libraries that are loaded on first use
def peak():                      # of this process; what `resource` says can be the parent's, from before the start
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
start = psutil.Process().memory_info().rss
pipe = Live2Diff.from_pretrained(**given, **size, device="cpu", dtype=torch.float16)
model = sum(p.nbytes for part in (pipe.unet, pipe.vae, pipe.depth, pipe.text_encoder) for p in part.parameters())
weights = sum(v for k, v in estimate.items() if k not in ("cache", "work"))
report = dict(peak=peak() - start, settled=psutil.Process().memory_info().rss - start, model=model, estimate=weights)
state = pipe.unet.state_dict()
keys = json.load(open(wanted))
def without_tables(names): return {k.removeprefix("module."): v for k, v in names.items() if not k.endswith(".pe")}
wanted = {**keys["sd15_unet"], **without_tables(keys["motion_and_depth"])}
report["names"] = {k: list(v.shape) for k, v in state.items()} == wanted
files = {**open_weights(given["name"] + "/unet/diffusion_pytorch_model.safetensors"),
         **without_tables(open_weights(given["motion"]))}
fourth = fetch({k: s for n, (k, s) in enumerate(sorted(files.items())) if n % 4 == 0})
report["bits"] = state.keys() == files.keys() and all(torch.equal(v, state[k]) for k, v in fourth.items())
if saved != "no":
    pipe.unet.save_pretrained(saved)
    again = open_weights(saved + "/diffusion_pytorch_model.safetensors")
    report["saved"] = state.keys() == again.keys() and all(torch.equal(v, state[k]) for k, v in fetch(again).items())
print(json.dumps(report))
"""


@pytest.mark.skipif(psutil.virtual_memory().available < 9 * 2**30, reason="needs 9 GB of free memory")
def test_a_full_size_pair_loads_whole_and_lean(tmp_path):
    "No name left over, the bits of the files, a peak of at most 1.2 times the model, and the estimate within a tenth."
    try:
        given = write_rehearsal(tmp_path / "set", full=True)
        keys = Path(__file__).parent / "golden" / "keys_sd15_real.json"
        done = subprocess.run(
            [sys.executable, "-c", LOAD, json.dumps(given), str(tmp_path / "saved"), str(keys)],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        report = json.loads(done.stdout.splitlines()[-1])
    finally:
        for folder in ("set", "saved"): shutil.rmtree(tmp_path / folder, ignore_errors=True)
    print(
        {k: f"{v / 2**30:.2f} GiB" if v > 1 else v for k, v in report.items()},
        f"peak {report['peak'] / report['model']:.2f} times the model",
    )
    assert report["names"] and report["bits"] and report["saved"]
    assert report["peak"] <= 1.2 * report["model"]
    assert abs(report["estimate"] - report["settled"]) <= 0.1 * report["settled"]


@pytest.mark.skipif(psutil.virtual_memory().available < 8 * 2**30, reason="needs 8 GB of free memory")
def test_at_full_size_without_motion_it_is_diffusers_unet():
    "One frame of 16 x 16 latents; the tensors are shared, the motion modules' output is zero."
    with torch.device("meta"):
        ours, theirs = (
            StreamUNet(**FULL).eval(),
            UNet2DConditionModel(**{k: v for k, v in sd_config(FULL).items() if not k.startswith("_")}).eval(),
        )
    state = {
        k: torch.empty(v.shape).uniform_(-1.7, 1.7).mul_(v[0].numel() ** -0.5)
        if v.ndim > 1
        else torch.full(v.shape, float(k.endswith("weight")))
        for k, v in ours.state_dict().items()
    }
    for name, value in state.items():
        if "temporal_transformer.proj_out" in name: value.zero_()
    ours.load_state_dict(state, assign=True), theirs.load_state_dict(split_unet(state)[0], assign=True)
    g = torch.Generator().manual_seed(0)
    x, text, t = torch.randn(1, 4, 16, 16, generator=g), torch.randn(1, 77, 768, generator=g), torch.tensor([399])
    with torch.no_grad():
        error = relative(ours(x, t, text, torch.zeros(1, 320, 16, 16), chunk_views(ours, 1)), theirs(x, t, text).sample)
    print(f"relative difference {error:.1e}")
    assert error <= 1e-5
