"Training: resume, bad numbers, damaged checkpoints, the depth adapter at its start, export."
import json
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch

from live2diff_nb import Live2Diff, weights
from live2diff_nb.data.teachers import STYLES
from live2diff_nb.data.camera import PhotoClips
from live2diff_nb.depth.estimator import TinyDepth
from live2diff_nb.training.loop import Run, load_state
from live2diff_nb.tiny.denoiser import TINY_UNET, Trainer
from live2diff_nb.tiny.build import main
from live2diff_nb.weights.tiny import TINY, TinyVAE

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


SMALL = dict(TINY_UNET, block_out_channels=(8, 8, 16), depth_channels=(8,))


@pytest.fixture(scope="module")
def stacks():
    noise = np.random.default_rng(0).integers(0, 256, (2, 1 + len(STYLES), 48, 56, 3), np.uint8)
    return list(noise)


@pytest.fixture(scope="module")
def frozen():
    return [kind.from_pretrained(TINY / part).eval().requires_grad_(False) for kind, part in ((TinyVAE, "vae"), (TinyDepth, "depth"))]


def trained(folder, stacks, frozen, stage, stop=None, steps=5):
    "A trainer after `steps`, or killed at step `stop`; returns it with its losses."
    trainer, losses = Trainer(folder, *frozen, SMALL, warmup=2), []

    def report(step, loss):
        losses.append(loss)
        if step == stop: raise KeyboardInterrupt

    try:
        trainer.train(stacks, steps, stage, batch=2, frames=4, size=32, every=0, report=report)
    except KeyboardInterrupt:
        pass
    return trainer, losses


@pytest.mark.parametrize("stage", (1, 2))
def test_resume_equals_uninterrupted(tmp_path, stacks, frozen, stage):
    whole, losses = trained(tmp_path / "whole", stacks, frozen, stage)
    trained(tmp_path / "cut", stacks, frozen, stage, stop=3)
    again, rest = trained(tmp_path / "cut", stacks, frozen, stage)
    assert len(losses) == 5 and len(rest) == 2 and losses[-2:] == rest
    for ours, theirs in ((whole.models, again.models), (whole.average, again.average)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))


def test_stage_two_starts_from_the_average_of_stage_one(tmp_path, stacks, frozen):
    first, _ = trained(tmp_path, stacks, frozen, 1, steps=3)
    second = Trainer(tmp_path, *frozen, SMALL, seed=5)
    second.load("stage2", "stage1")
    assert second.step == 0 and not second.optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(second.models.parameters(), first.average.parameters()))


def test_an_average_can_be_begun_late(tmp_path):
    "A checkpoint without an average: the average begins with its weights."
    def train(steps, average):
        run = Run(torch.nn.Linear(2, 2), tmp_path, average=average)
        run.fit("x", lambda step, mine: run.models.weight.square().sum(), steps, every=0)
        return run
    train(2, False)
    late = train(2, True)
    assert late.step == 2 and all(torch.equal(a, b) for a, b in zip(late.average.parameters(), late.models.parameters()))
    assert "average" in load_state((train(3, True).folder) / "x.pt")


def test_a_loss_that_is_not_a_number_stops_the_run(tmp_path):
    run = Run(torch.nn.Linear(2, 2), tmp_path, lr=0.5)
    with pytest.raises(FloatingPointError, match="became nan at step 2 in share 1 of 1: .*smaller lr than 0.5"):
        run.fit("x", lambda step, mine: run.models.weight.sum() * (float("nan") if step == 2 else 1), 5, every=0)
    assert load_state(tmp_path / "x.pt")["step"] == 2


def cut_in_half(path): path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_cut_off_checkpoint_falls_back_on_the_one_before(tmp_path, stacks, frozen):
    whole, _ = trained(tmp_path / "whole", stacks, frozen, 1)
    trained(tmp_path / "cut", stacks, frozen, 1, stop=3)
    cut_in_half(tmp_path / "cut/stage1.pt")
    with pytest.warns(UserWarning, match="stage1.pt is damaged or cut off"):
        again, rest = trained(tmp_path / "cut", stacks, frozen, 1)
    assert len(rest) == 3 and all(torch.equal(a, b) for a, b in zip(whole.models.parameters(), again.models.parameters()))


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_two_cut_off_checkpoints_are_refused(tmp_path, stacks, frozen):
    trained(tmp_path, stacks, frozen, 1, steps=2)
    for path in tmp_path.glob("stage1.pt*"): cut_in_half(path)
    with pytest.raises(ValueError, match="stage1.pt is damaged or cut off, and so is the one before it"):
        trained(tmp_path, stacks, frozen, 1)


PARALLEL = """
import sys
import numpy as np
import torch
from live2diff_nb.data.teachers import STYLES
from live2diff_nb.depth.estimator import TinyDepth
from live2diff_nb.tiny.denoiser import TINY_UNET, Trainer
from live2diff_nb.weights.tiny import TINY, TinyVAE
torch.set_num_threads(1)
stacks = list(np.random.default_rng(0).integers(0, 256, (2, 1 + len(STYLES), 48, 56, 3), np.uint8))
frozen = [kind.from_pretrained(TINY / part).eval().requires_grad_(False) for kind, part in ((TinyVAE, "vae"), (TinyDepth, "depth"))]
trainer = Trainer(sys.argv[1], *frozen, dict(TINY_UNET, block_out_channels=(8, 8, 16), depth_channels=(8,)), warmup=2)
assert trainer.accelerator.num_processes == int(sys.argv[2])
trainer.train(stacks, 3, stage=2, batch=4, frames=4, size=32, passes=int(sys.argv[3]))
"""


def test_two_processes_give_the_weights_of_one(tmp_path):
    "Data-parallel over gloo on the CPU, in one pass and in two, from the same global batch: equal but for rounding."
    (tmp_path / "run.py").write_text(PARALLEL)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    states = {}
    for processes, passes in ((1, 1), (2, 1), (2, 2)):
        folder = tmp_path / f"{processes}x{passes}"
        many = ["--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port())] if processes > 1 else ["--num_processes", "1"]
        done = subprocess.run([*launch, *many, tmp_path / "run.py", folder, str(processes), str(passes)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        states[processes, passes] = load_state(folder / "stage2.pt")
    def flat(state, key): return torch.cat([v[key].flatten() if key else v.flatten() for v in state.values()])
    one = states.pop((1, 1))
    for split, state in states.items():           # sums in another order: the gradients differ by rounding
        a, b = (flat(s["optimizer"]["state"], "exp_avg") for s in (one, state))
        assert (a - b).norm() < 1e-5 * a.norm(), split
        a, b = (flat(s["models"], None) for s in (one, state))       # Adam blows rounding up where a gradient is zero but for it
        assert (a - b).norm() < 1e-4 * a.norm(), split
    start = flat(Trainer(tmp_path / "untrained", None, None, SMALL, warmup=2).models.state_dict(), None)
    assert (flat(one["models"], None) - start).norm() > 1e-2 * start.norm()      # and they did learn


def test_depth_changes_nothing_at_the_start_of_stage_two(tmp_path, stacks, frozen):
    clips = [PhotoClips(stacks, frames=4, size=32)[i] for i in range(2)]
    losses = []
    for depth in (frozen[1], None):
        trainer = Trainer(tmp_path, frozen[0], depth, SMALL, warmup=2)
        torch.manual_seed(0)
        losses.append(trainer.loss(clips, [np.random.default_rng(i) for i in range(2)], temporal=True).item())
    assert losses[0] == losses[1]


def test_what_is_exported_can_be_loaded_and_streams(tmp_path, stacks, frozen, monkeypatch):
    (tmp_path / "pairs").mkdir()
    for i, stack in enumerate(stacks): np.save(tmp_path / f"pairs/{i}.npy", stack)
    for part in ("vae", "depth"): shutil.copytree(TINY / part, tmp_path / part)
    (tmp_path / "crops").mkdir()
    np.save(tmp_path / "crops/000.npy", np.stack([np.tile(stack, (1, 2, 2, 1))[:, :64, :64] for stack in stacks]))
    for part in ("unet1", "unet2", "finish", "critic", "loras", "export"):
        size = "32" if part.startswith("unet") else "64"
        main([part, "--folder", str(tmp_path), "--assets", str(tmp_path / "assets"), "--steps", "1", "--batch", "1", "--size", size])
    monkeypatch.setattr(weights, "TINY", tmp_path / "assets")
    pipe = Live2Diff.from_pretrained("tiny", height=64, width=64)
    assert pipe.styles.keys() == json.loads((TINY / "config.json").read_text())["styles"].keys()
    frames = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    assert len(list(pipe.stream(frames))) == 10
