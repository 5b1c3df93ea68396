"""A stream may run for hours: its memory must not grow. The measured process streams 2,020 frames, about 40 s on one idle core."""
import json
import os
import subprocess
import sys

MEASURE = """
import gc, itertools, json, warnings
import numpy as np, psutil, torch
from live2diff_nb.pipeline import Live2Diff

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
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    early, late = json.loads(done.stdout.splitlines()[-1])
    print(f"{early:.1f} MiB at frame 200, {late:.1f} MiB at frame 2,000")
    assert late - early < 10e6 / 2**20
