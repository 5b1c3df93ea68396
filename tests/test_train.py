"Training: resume, bad numbers, damaged checkpoints, the depth adapter at its start, export."
import copy
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from live2diff_nb import Live2Diff
from live2diff_nb.data.teachers import STYLES
from live2diff_nb.depth.small import TinyDepth
from live2diff_nb.engine.unet import StreamUNet
from live2diff_nb.engine.views import chunk_views
from live2diff_nb.tiny.batches import NAMES, Batches, DenoiserConfig
from live2diff_nb.tiny import build
from live2diff_nb.tiny.build import main
from live2diff_nb.tiny.chain import Chain, new_painter
from live2diff_nb.tiny.denoiser import DenoiserLoss, train_denoiser
from live2diff_nb.tiny.painter import TINY_UNET, Painter, begin_at
from live2diff_nb.tiny.texture import edge_loss
from live2diff_nb.training.checkpoints import load_state
from live2diff_nb.training.loop import Run
from live2diff_nb.weights.tiny import TINY
from live2diff_nb.weights.vae import TinyVAE

CHANNELS = json.loads((TINY / "vae/config.json").read_text())["latent_channels"]
SMALL = dict(TINY_UNET, in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=(8, 8, 16), depth_channels=(8,))
QUICK = DenoiserConfig(clips=2, singles=2, frames=4, warmup=2, size=48, alone=0)


@pytest.fixture(scope="module")
def stacks():
    noise = np.random.default_rng(0).integers(0, 256, (2, 1 + len(STYLES), 64, 72, 3), np.uint8)
    return list(noise)


@pytest.fixture(scope="module")
def frozen():
    parts = (TinyVAE, "vae"), (TinyDepth, "depth")
    return [kind.from_pretrained(TINY / part).eval().requires_grad_(False) for kind, part in parts]


def trained(folder, stacks, frozen, first, stop=None, steps=5):
    "A run with this share of single frames, and its losses; None if it is killed at step `stop`."
    painter, losses = Painter(folder, *copy.deepcopy(frozen), SMALL), []

    def report(step, loss, parts):
        losses.append(loss)
        if step == stop: raise KeyboardInterrupt

    try:
        config = replace(QUICK, steps=steps, first=first)
        return train_denoiser(painter, stacks, config=config, every=0, report=report), losses
    except KeyboardInterrupt:
        return None, losses


@pytest.mark.parametrize("first", (1, 0, 0.8))
def test_resume_equals_uninterrupted(tmp_path, stacks, frozen, first):
    whole, losses = trained(tmp_path / "whole", stacks, frozen, first)
    trained(tmp_path / "cut", stacks, frozen, first, stop=3)
    again, rest = trained(tmp_path / "cut", stacks, frozen, first)
    assert len(losses) == 5 and len(rest) == 2 and losses[-2:] == rest
    for ours, theirs in ((whole.models, again.models), (whole.average, again.average)):
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))


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
    cut_in_half(tmp_path / "cut/denoiser.pt")
    with pytest.warns(UserWarning, match="denoiser.pt is damaged or cut off"):
        again, rest = trained(tmp_path / "cut", stacks, frozen, 1)
    pairs = zip(whole.models.parameters(), again.models.parameters())
    assert len(rest) == 3 and all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.filterwarnings("ignore:.*damaged")
def test_two_cut_off_checkpoints_are_refused(tmp_path, stacks, frozen):
    trained(tmp_path, stacks, frozen, 1, steps=2)
    for path in tmp_path.glob("denoiser.pt*"): cut_in_half(path)
    with pytest.raises(ValueError, match="denoiser.pt is damaged or cut off, and so is the one before it"):
        trained(tmp_path, stacks, frozen, 1, steps=2)


def test_depth_changes_nothing_at_the_start(tmp_path, stacks, frozen):
    batch, outs = Batches(stacks, QUICK)(9, 10, slice(None)), []
    for depth in (frozen[1], type(frozen[1])().eval()):                   # another estimator sees other depth
        loss = DenoiserLoss(Painter(tmp_path, copy.deepcopy(frozen[0]), depth, SMALL), None, QUICK)
        torch.manual_seed(0)
        outs.append(loss.denoise(batch, [300, 100])[0])
    assert torch.equal(*outs)


def test_what_is_exported_can_be_loaded_and_streams(tmp_path, stacks, frozen, monkeypatch):
    flat = dict(SMALL, in_channels=16, out_channels=16, block_out_channels=(8, 16),  # two levels: graphs made sooner
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"))
    monkeypatch.setattr(build, "Chain", partial(Chain, unet=flat))
    shutil.copytree(TINY / "depth", tmp_path / "depth/depth")
    (tmp_path / "crops").mkdir()
    np.save(tmp_path / "crops/000.npy", np.stack([stack[:, :64, :64] for stack in stacks]))
    for part in ("vae", "decoder", "denoiser", "finish", "loras", "export"):
        words = ["--folder", str(tmp_path), "--assets", str(tmp_path / "assets")]
        main([part, *words, "--steps", "1", "--batch", "1", "--size", "64"])
    assert not [path for path in (tmp_path / "assets").rglob("*.json") if str(tmp_path) in path.read_text()]
    pipe = Live2Diff.from_pretrained(tmp_path / "assets", height=64, width=64)
    assert list(pipe.styles) == [name for name in NAMES if name != "photo"]
    frames = np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)
    assert len(list(pipe.stream(frames))) == 10
    for graph in (tmp_path / "assets").glob("*.onnx"): graph.unlink()     # what is written without onnxscript
    bare = Live2Diff.from_pretrained(tmp_path / "assets", height=64, width=64)
    assert len(list(bare.stream(frames))) == 10
    with pytest.raises(ValueError, match="cannot be given with the weights"):
        Live2Diff.from_pretrained(tmp_path / "assets", vae="taesd")


def test_a_trained_model_goes_on_with_motion_modules_at_every_level(tmp_path):
    start = tmp_path / "start"
    shutil.copytree(TINY, start)
    before = StreamUNet(**SMALL | dict(motion_levels=(False, False, True)))
    before.save_pretrained(start / "unet")
    begun = new_painter(replace(build.going_on(start), folder=tmp_path), tmp_path / "denoiser").unet
    assert len(begun.temporal_layers) > len(before.temporal_layers)
    latents, text, t = torch.randn(4, CHANNELS, 8, 8), torch.ones(1, 16, 64), torch.tensor([9])
    with torch.no_grad():
        near = before.encode_depth(torch.zeros(4, CHANNELS, 8, 8))
        outs = [unet.eval()(latents, t, text, near, chunk_views(unet, 4)) for unet in (begun, before)]
    assert torch.allclose(*outs, atol=1e-5)                               # the new ones add nothing yet
    with pytest.raises(ValueError, match="other levels or widths"): begin_at(TINY, StreamUNet(**SMALL), None)
    assert build.going_on("tiny").start == TINY
    with pytest.raises(ValueError, match="no small model in"): build.going_on(tmp_path / "nowhere")


def test_edges_count_along_rows_and_columns_alike():
    stripes = (torch.arange(16) % 2).float().expand(1, 1, 16, 16)
    across, down = (edge_loss(x, torch.zeros_like(x)) for x in (stripes, stripes.mT))
    assert across == down > 0


def test_a_gradient_that_is_no_number_is_never_saved(tmp_path):
    "The loss is finite, as the square root of zero is."
    net = torch.nn.ModuleDict(dict(a=torch.nn.Linear(2, 1)))
    def loss(step, mine):
        out = net["a"](torch.ones(4, 2))
        return (out - out.detach()).abs().sqrt().sum() if step == 4 else out.square().mean()
    with pytest.raises(FloatingPointError, match="gradient is not finite at step 4: resume"):
        Run(net, tmp_path).fit("x", loss, 5, every=0)
    assert all(p.isfinite().all() for p in load_state(tmp_path / "x.pt")["models"].values())
