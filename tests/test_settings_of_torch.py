"""What surrounds a pipeline does not change it: PyTorch's defaults, inference mode, autocast, a fork. And seeds."""
import contextlib
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from helpers import moving_clip
from live2diff_nb.engine.noise import FrameNoise
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.weights.rehearse import write_rehearsal
from live2diff_nb.weights.tiny import style_lora

CLIP = moving_clip(9)


@contextlib.contextmanager
def dtype(kind):
    torch.set_default_dtype(kind)
    try: yield
    finally: torch.set_default_dtype(torch.float32)


@contextlib.contextmanager
def meta():
    torch.set_default_device("meta")
    try: yield
    finally: torch.set_default_device(None)


AROUND = dict(float64=lambda: dtype(torch.float64), bfloat16=lambda: dtype(torch.bfloat16), device=meta,
              inference_mode=torch.inference_mode, no_grad=torch.no_grad,
              autocast=lambda: torch.autocast("cpu", torch.bfloat16))


@pytest.fixture(scope="module")
def files(tmp_path_factory): return write_rehearsal(tmp_path_factory.mktemp("around") / "set")


def tiny(files): return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False)
def real(files): return Live2Diff.from_pretrained(**files, device="cpu", height=64, width=64, steps=1)


def run(make, files, loading=contextlib.nullcontext, streaming=contextlib.nullcontext):
    "Loaded in one surrounding, streamed in another; the small model with a LoRA."
    with loading(): pipe = make(files)
    with streaming():
        if make is tiny: pipe.set_lora(str(style_lora("etching")))
        return np.stack(list(pipe.stream(CLIP, prompt="a photo")))


@pytest.fixture(scope="module")
def plain(files): return {make: run(make, files) for make in (tiny, real)}


@pytest.mark.parametrize("around", AROUND)
def test_around_loading_and_streaming(files, plain, around):
    assert np.array_equal(run(tiny, files, AROUND[around], AROUND[around]), plain[tiny])


@pytest.mark.parametrize("around", ["device", "inference_mode"])
def test_around_loading_or_streaming_alone(files, plain, around):
    assert np.array_equal(run(tiny, files, loading=AROUND[around]), plain[tiny])
    assert np.array_equal(run(real, files, AROUND[around], AROUND[around]), plain[real])


def test_trained_after_it_was_loaded_in_inference_mode(files):
    "Weights of a pipeline loaded there can be changed, and have gradients."
    with torch.inference_mode(): pipe = tiny(files)
    pipe.unet.requires_grad_(True)
    sum(p.square().sum() for p in pipe.unet.parameters()).backward()
    assert not any(p.is_inference() for p in pipe.unet.parameters()) and pipe.unet.conv_in.weight.grad is not None


def test_parts_made_in_inference_mode_take_a_lora(files):
    "Tensors that may be changed in inference mode only: they are, and return."
    from live2diff_nb.weights.lora import LoraStack
    with torch.inference_mode(): pipe, other = tiny(files), tiny(files).unet
    with torch.inference_mode():
        for name, p in list(other.named_parameters()):
            place = other.get_submodule(name.rpartition(".")[0])
            setattr(place, name.rpartition(".")[2], torch.nn.Parameter(p.clone(), requires_grad=False))
    before = {name: p.clone() for name, p in other.named_parameters()}
    assert other.conv_in.weight.is_inference()
    stack = LoraStack({"unet": other, "text_encoder": pipe.text_encoder})
    stack.apply({style_lora("etching"): 1.0})
    assert any(not torch.equal(p, before[name]) for name, p in other.named_parameters())
    stack.apply({})
    assert all(torch.equal(p, before[name]) for name, p in other.named_parameters())


# ---- noise ------------------------
@pytest.mark.parametrize("around", AROUND)
def test_noise_is_the_same_in_any_surroundings(around):
    like = torch.zeros(1, 4, 8, 8)
    plain = FrameNoise(7)(3, 2, like)
    with AROUND[around](): assert torch.equal(FrameNoise(7)(3, 2, like), plain)


@pytest.mark.parametrize("seed", [0, 1, 42, -1, 2**31 - 1, 9_000_000_000_000])
def test_small_seeds_give_the_noise_they_always_gave(seed):
    like, g = torch.zeros(1, 4, 8, 8), torch.Generator()
    for frame in (0, 1, 100):
        old = torch.randn(2, 4, 8, 8, generator=g.manual_seed(seed * 1_000_003 + frame))
        assert torch.equal(FrameNoise(seed)(frame, 2, like), old)


SEEDS = [156680208700286, 12345678901234, 2**63 - 1, 2**64 - 1, -2**63, -(2**70), 10**100, np.int32(-5)]


def test_seeds_of_any_size():
    "No two frames of them are alike."
    like = torch.zeros(1, 4, 4, 4)
    first = {FrameNoise(seed)(frame, 1, like).flatten()[0].item() for seed in SEEDS for frame in range(50)}
    assert len(first) == 50 * len(SEEDS)
    assert torch.equal(FrameNoise(np.uint64(2**64 - 1))(3, 1, like), FrameNoise(2**64 - 1)(3, 1, like))


def test_seeds_of_a_stream(files):
    pipe = real(files)
    run = lambda seed: np.stack(list(pipe.stream(CLIP, seed=seed)))
    random = run(None)
    assert np.array_equal(run(pipe.seed), random) and np.array_equal(run(torch.tensor(pipe.seed)), random)
    assert not np.array_equal(run(None), random)
    for wrong in (0.5, "1", float("nan"), [1]):
        with pytest.raises(ValueError, match="whole number, or None"): pipe.stream(CLIP, seed=wrong)


# ---- forks ------------------------
FORK = """
import multiprocessing, sys, warnings
import numpy as np
import torch
from live2diff_nb import Live2Diff
from live2diff_nb.video import open_source
warnings.simplefilter("ignore")
clip = list(open_source("demo", limit=9))
class Frames(torch.utils.data.Dataset):
    def __len__(self): return 1
    def __getitem__(self, i): return np.stack(list(pipe.stream(clip, prompt="starry night")))
for graphs in (True, False):
    pipe = Live2Diff.from_pretrained("tiny", graphs=graphs, device="cpu")
    here = Frames()[0]
    running = pipe.stream(iter([*clip, clip[0]]), prompt="starry night")
    first = next(running)
    def work(queue): queue.put((Frames()[0], len(list(running))))
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=work, args=(queue,))
    child.start()
    there, left = queue.get(timeout=100)
    child.join()
    loader = torch.utils.data.DataLoader(Frames(), num_workers=1, multiprocessing_context="fork", timeout=100)
    loaded = next(iter(loader))
    assert left == 9 and np.abs(here.astype(float) - there).max() <= 1 and np.array_equal(there, loaded[0])
    assert np.array_equal(Frames()[0], here)
print("both ran")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_runs_a_pipeline_that_has_run_before():
    "As a process of multiprocessing, and as a worker of a data loader; with the threads that the machine has."
    around = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=300, env=around)
    assert done.stdout == "both ran\n", done.stderr[-2000:]
