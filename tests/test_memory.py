"""A stream takes what was estimated, and its memory does not grow: 2,020 frames, about 40 s on one idle core."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import gc, itertools, json, warnings
import numpy as np, psutil, torch
from live2diff_nb.pipeline.live2diff import Live2Diff

torch.set_num_threads(1)
marks, process = {200: [], 2000: []}, psutil.Process()
noise = np.random.default_rng(0).integers(0, 256, (37, 64, 64, 3), dtype=np.uint8)
pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=32, width=32)
stream = pipe.stream((noise[n % 37] for n in itertools.count()), prompt="starry night", steps=2)
for n, frame in zip(range(2021), stream):
    for mark, readings in marks.items():
        if abs(n - mark) <= 20 and n % 4 == 0:
            gc.collect()
            readings.append(process.memory_info().rss)
print(json.dumps([sorted(readings)[len(readings) // 2] / 2**20 for readings in marks.values()]))
"""


def test_rss_grows_less_than_10_mb_from_frame_200_to_frame_2000():
    "The median of eleven readings about either mark, in a process of its own."
    done = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    early, late = json.loads(done.stdout.splitlines()[-1])
    print(f"{early:.1f} MiB at frame 200, {late:.1f} MiB at frame 2,000")
    assert late - early < 10e6 / 2**20


ESTIMATE = """
import json, psutil, torch
from live2diff_nb.weights.memory import stream_bytes
from live2diff_nb.weights.rehearse import SMALL, random_state
from live2diff_nb.engine.stream import StreamDenoiser
from live2diff_nb.engine.unet import StreamUNet
torch.set_num_threads(1)
def stream(side, **config):
    with torch.device("meta"): unet = StreamUNet(**{**SMALL, **config})
    unet.load_state_dict(random_state(unet, torch.float32), assign=True)
    unet = unet.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    stream = stream_bytes(unet, None, torch.float32, 8 * side, 8 * side, 2)
    estimate = {"unet": sum(p.nbytes for p in unet.parameters()), **stream}
    engine = StreamDenoiser(unet, [399, 159])
    g = torch.Generator().manual_seed(0)
    x = torch.randn(8, 4, side, side, generator=g)
    engine.warm_up(x, x, torch.randn(1, 77, unet.config.cross_attention_dim, generator=g))
    for n in range(4): engine.step(x[n:n + 1], x[:1])
    return estimate
stream(16)
start = psutil.Process().memory_info().rss
# the high-water mark of this process; ru_maxrss would begin at that of the process that started it
high = lambda: next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
before = high()
estimate = stream(32, block_out_channels=(128, 256), norm_num_groups=32, attention_head_dim=8)
peak = high()
print(json.dumps(dict(peak=peak - start, before=before - start, estimate=estimate)))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory as Linux tells it")
def test_the_estimate_is_what_a_stream_takes():
    "A random UNet of 19 million weights at 256 x 256, against the peak of a process of its own: within a tenth."
    done = subprocess.run(
        [sys.executable, "-c", ESTIMATE],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"},  # returns freed memory at once
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout.splitlines()[-1])
    estimate, peak = report["estimate"], report["peak"]
    print(
        {part: f"{size / 1e6:.0f} MB" for part, size in estimate.items()},
        f"measured {peak / 1e6:.0f} MB, {peak / sum(estimate.values()):.3f} of the estimate",
    )
    assert report["before"] < 0.1 * peak  # the peak is the stream's, not that of loading libraries
    assert abs(peak - sum(estimate.values())) <= 0.1 * peak
