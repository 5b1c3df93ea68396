"Training: resume, bad numbers, damaged checkpoints, the depth adapter at its start, export."
import json
import shutil

import numpy as np
import pytest
import torch

from live2diff_nb import Live2Diff
from live2diff_nb.data.camera import PhotoClips
from live2diff_nb.data.teachers import STYLES
from live2diff_nb.depth.small import TinyDepth
from live2diff_nb.judge.witness import WITNESS
from live2diff_nb.tiny.autoencoder import edge_loss
from live2diff_nb.tiny.build import main
from live2diff_nb.tiny.denoiser import TINY_UNET, PairLoss, Painter, train_stage
from live2diff_nb.training.checkpoints import load_state
from live2diff_nb.training.loop import Run
from live2diff_nb.weights import tiny
from live2diff_nb.weights.tiny import TINY
from live2diff_nb.weights.vae import TinyVAE

SMALL = dict(TINY_UNET, block_out_channels=(8, 8, 16), depth_channels=(8,))


@pytest.fixture(scope="module")
def stacks():
    noise = np.random.default_rng(0).integers(0, 256, (2, 1 + len(STYLES), 48, 56, 3), np.uint8)
    return list(noise)


@pytest.fixture(scope="module")
def frozen():
    parts = (TinyVAE, "vae"), (TinyDepth, "depth")
    return [kind.from_pretrained(TINY / part).eval().requires_grad_(False) for kind, part in parts]


def trained(folder, stacks, frozen, stage, stop=None, steps=5):
    "A run after `steps` with its losses; None if it is killed at step `stop`."
    painter, losses = Painter(folder, *frozen, SMALL, warmup=2), []

    def report(step, loss):
        losses.append(loss)
        if step == stop: raise KeyboardInterrupt

    try:
        settings = dict(batch=2, frames=4, size=32, every=0, report=report)
        return train_stage(painter, stacks, steps, stage, **settings), losses
    except KeyboardInterrupt:
        return None, losses


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
    second = Run(Painter(tmp_path, *frozen, SMALL, seed=5).models, tmp_path, average=True)
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
    pairs = zip(late.average.parameters(), late.models.parameters())
    assert late.step == 2 and all(torch.equal(a, b) for a, b in pairs)
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
    pairs = zip(whole.models.parameters(), again.models.parameters())
    assert len(rest) == 3 and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_two_cut_off_checkpoints_are_refused(tmp_path, stacks, frozen):
    trained(tmp_path, stacks, frozen, 1, steps=2)
    for path in tmp_path.glob("stage1.pt*"): cut_in_half(path)
    with pytest.raises(ValueError, match="stage1.pt is damaged or cut off, and so is the one before it"):
        trained(tmp_path, stacks, frozen, 1)


def test_depth_changes_nothing_at_the_start_of_stage_two(tmp_path, stacks, frozen):
    clips = [PhotoClips(stacks, frames=4, size=32)[i] for i in range(2)]
    losses = []
    for depth in (frozen[1], None):
        loss = PairLoss(Painter(tmp_path, frozen[0], depth, SMALL, warmup=2))
        torch.manual_seed(0)
        losses.append(loss(clips, [np.random.default_rng(i) for i in range(2)], temporal=True).item())
    assert losses[0] == losses[1]


def test_what_is_exported_can_be_loaded_and_streams(tmp_path, stacks, frozen, monkeypatch):
    (tmp_path / "pairs").mkdir()
    for i, stack in enumerate(stacks): np.save(tmp_path / f"pairs/{i}.npy", stack)
    for part in ("vae", "depth"): shutil.copytree(TINY / part, tmp_path / part)
    shutil.copytree(WITNESS, tmp_path / "witness")
    (tmp_path / "crops").mkdir()
    np.save(tmp_path / "crops/000.npy", np.stack([np.tile(stack, (1, 2, 2, 1))[:, :64, :64] for stack in stacks]))
    for part in ("unet1", "unet2", "finish", "critic", "loras", "export"):
        size = "32" if part.startswith("unet") else "64"
        words = ["--folder", str(tmp_path), "--assets", str(tmp_path / "assets")]
        main([part, *words, "--steps", "1", "--batch", "1", "--size", size])
    monkeypatch.setattr(tiny, "TINY", tmp_path / "assets")
    pipe = Live2Diff.from_pretrained("tiny", height=64, width=64)
    assert pipe.styles.keys() == json.loads((TINY / "config.json").read_text())["styles"].keys()
    frames = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    assert len(list(pipe.stream(frames))) == 10


def test_edges_count_along_rows_and_columns_alike():
    stripes = (torch.arange(16) % 2).float().expand(1, 1, 16, 16)
    across, down = (edge_loss(x, torch.zeros_like(x)) for x in (stripes, stripes.mT))
    assert across == down > 0
