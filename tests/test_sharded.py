"Weights shared out over processes (FSDP2): training, a kill, going on, the result. On the CPU over gloo, where accelerate itself would not shard."
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from live2diff_nb.training.chunks import train_recipe
from live2diff_nb.training.loop import load_state
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.training.recipe import NAMED, change
from test_train import free_port

TOY = change(NAMED["toy"], dict(size=32, frames=4, warmup=2, steps=[2, 3], strips=0, batch=2, per_pass=1, every=0))

WORKER = """
import sys
import torch
from accelerate import Accelerator
from diffusers.models.resnet import ResnetBlock2D
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from live2diff_nb.training.chunks import train_recipe
from live2diff_nb.training.recipe import change
from live2diff_nb.engine.temporal import MotionModule
from test_sharded import TOY

torch.set_num_threads(1)


def prepare(self, model, optimizer):
    "What accelerate does on cards: shards the layers and the rest, and gives the optimiser the shares."
    mesh = init_device_mesh("cpu", (self.num_processes,))
    for layer in model.modules():
        if isinstance(layer, (ResnetBlock2D, MotionModule)): fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    shares = type(optimizer)([p for p in model.parameters() if p.requires_grad], **{name: optimizer.defaults[name] for name in ("lr", "betas", "weight_decay")})
    return model, self.prepare_optimizer(shares)


class Killed(Exception): pass


def watch(run, stage):
    def report(step, loss):
        if stage == 2 and step == int(sys.argv[2]): raise Killed
    return report


Accelerator.prepare = prepare
try: print(train_recipe(TOY, sys.argv[1], report=watch))
except Killed: print("killed")
"""


def sharded(folder, kill_at):
    "Two processes; what the first one printed."
    script = folder / "worker.py"
    script.write_text(WORKER)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--multi_gpu", "--num_processes", "2", "--main_process_port", str(free_port())]
    done = subprocess.run([*launch, script, folder / "two", str(kill_at)], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_shared_out_weights_train_resume_and_export(tmp_path):
    assert "killed" in sharded(tmp_path, 1)
    kept = load_state(tmp_path / "two/stage2.pt")
    assert kept["step"] == 1 and not any("DTensor" in type(v).__name__ for v in kept["models"].values())
    sharded(tmp_path, -1)
    two = load_state(tmp_path / "two/stage2.pt")
    result = train_recipe(TOY, tmp_path / "one")
    one = load_state(tmp_path / "one/stage2.pt")
    def flat(state): return torch.cat([value.flatten() for value in state.values()])
    moved = (flat(one["models"]) - flat(load_state(tmp_path / "one/stage1.pt")["models"])).norm()
    assert (flat(one["models"]) - flat(two["models"])).norm() < 1e-2 * moved
    a, b = (torch.cat([kept["exp_avg"].flatten() for kept in state["optimizer"]["state"].values()]) for state in (one, two))
    assert a.shape == b.shape and (a - b).norm() < 1e-3 * a.norm()
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    shown = [list(Live2Diff.from_pretrained(folder, device="cpu").stream(frames, prompt="a photo")) for folder in (result, tmp_path / "two/result")]
    assert len(shown[0]) == 3 and np.abs(np.subtract(*[np.stack(x).astype(int) for x in shown])).max() <= 2


def test_no_average_of_shares(tmp_path, monkeypatch):
    "An average of whole weights cannot follow shares of them: said before the first step."
    from live2diff_nb.training import loop
    run = loop.Run(torch.nn.Linear(2, 2), tmp_path, average=True)
    monkeypatch.setattr(loop, "DTensor", torch.nn.Parameter)      # every weight looks shared out
    with pytest.raises(ValueError, match="write average=false"):
        run.fit("x", lambda step, mine: run.models(torch.ones(1, 2)).sum(), 1)
