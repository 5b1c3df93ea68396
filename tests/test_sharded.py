"""Several processes on the CPU over gloo: a batch split among them gives the weights of one process; weights shared out
over them (FSDP2) train, are killed, resumed and exported. Two launches serve all of it."""
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.training import checkpoints
from live2diff_nb.training.checkpoints import load_state
from live2diff_nb.training.chunks import train_recipe
from live2diff_nb.training.loop import Run
from live2diff_nb.training.recipe import NAMED, change

TOY = change(NAMED["toy"], dict(size=32, frames=4, warmup=2, steps=[2, 3], strips=0, batch=2, per_pass=1, every=0))

WORKER = """
import sys
import torch
from accelerate import Accelerator
from diffusers.models.resnet import ResnetBlock2D
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from live2diff_nb.engine.temporal import MotionModule
from live2diff_nb.training.chunks import train_recipe
from test_sharded import TOY, paint

torch.set_num_threads(1)
folder, kill_at = sys.argv[1], int(sys.argv[2])
assert Accelerator(cpu=True).num_processes == 2


def prepare(self, model, optimizer):
    "What accelerate does on GPUs: shards the layers and the rest, and gives the optimiser the shares."
    mesh = init_device_mesh("cpu", (self.num_processes,))
    for layer in model.modules():
        if isinstance(layer, (ResnetBlock2D, MotionModule)): fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    assert all(isinstance(p, DTensor) for p in model.parameters())
    settings = {name: optimizer.defaults[name] for name in ("lr", "betas", "weight_decay")}
    shares = type(optimizer)([p for p in model.parameters() if p.requires_grad], **settings)
    return model, self.prepare_optimizer(shares)


class Killed(Exception): pass


def watch(run, stage):
    def report(step, loss):
        if stage == 2 and step == kill_at: raise Killed
    return report


if kill_at >= 0:
    for passes in (1, 2): paint(f"{folder}/2x{passes}", 2 // passes)
Accelerator.prepare = prepare
try: print(train_recipe(TOY, f"{folder}/shares", report=watch))
except Killed: print("killed")
"""


def paint(folder, per_pass=4):
    "The toy recipe's second stage, three steps of four clips."
    return train_recipe(change(TOY, dict(batch=4, per_pass=per_pass, steps=[0, 3])), folder)


def launch(folder, kill_at):
    "Two processes; what the first one printed."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    script = folder / "worker.py"
    script.write_text(WORKER)
    start = [sys.executable, "-m", "accelerate.commands.launch", "--num_machines", "1", "--mixed_precision", "no",
             "--dynamo_backend", "no", "--multi_gpu", "--num_processes", "2", "--main_process_port", port]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run([*start, script, folder, str(kill_at)], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    "The folder of the first launch, and what it printed: the painter in two splits, then a recipe, killed."
    folder = tmp_path_factory.mktemp("two")
    return folder, launch(folder, 1)


def flat(state, key=None):
    "All tensors of a checkpoint in a row."
    return torch.cat([(value[key] if key else value).flatten() for value in state.values()])


def test_two_processes_give_the_weights_of_one(killed, tmp_path):
    "Data-parallel over gloo on the CPU, in one pass and in two, from the same global batch: equal but for rounding."
    threads = torch.get_num_threads()
    torch.set_num_threads(1)                      # as in the processes
    paint(tmp_path / "1x1")
    torch.set_num_threads(threads)
    one = load_state(tmp_path / "1x1/stage2.pt")
    for split in ("2x1", "2x2"):                  # sums in another order: the gradients differ by rounding
        state = load_state(killed[0] / split / "stage2.pt")
        a, b = (flat(s["optimizer"]["state"], "exp_avg") for s in (one, state))
        assert (a - b).norm() < 1e-5 * a.norm(), split
        a, b = (flat(s["models"]) for s in (one, state))     # Adam enlarges rounding where a gradient is all but zero
        assert (a - b).norm() < 1e-4 * a.norm(), split
        assert a.norm() > 0 and state["step"] == 3


def test_shared_out_weights_train_resume_and_export(killed, tmp_path):
    folder, printed = killed
    assert "killed" in printed
    kept = load_state(folder / "shares/stage2.pt")
    assert kept["step"] == 1 and not any("DTensor" in type(v).__name__ for v in kept["models"].values())
    launch(folder, -1)
    two = load_state(folder / "shares/stage2.pt")
    result = train_recipe(TOY, tmp_path / "one")
    one, before = (load_state(tmp_path / f"one/stage{stage}.pt") for stage in (2, 1))
    moved = (flat(one["models"]) - flat(before["models"])).norm()
    assert (flat(one["models"]) - flat(two["models"])).norm() < 1e-2 * moved
    a, b = (flat(state["optimizer"]["state"], "exp_avg") for state in (one, two))
    assert a.shape == b.shape and (a - b).norm() < 1e-3 * a.norm()
    frames = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    pipes = [Live2Diff.from_pretrained(place, device="cpu") for place in (result, folder / "shares/result")]
    shown = [np.stack(list(pipe.stream(frames, prompt="a photo"))).astype(int) for pipe in pipes]
    assert len(shown[0]) == 3 and np.abs(shown[0] - shown[1]).max() <= 2


def test_no_average_of_shares(tmp_path, monkeypatch):
    "An average of whole weights cannot follow shares of them: said before the first step."
    run = Run(torch.nn.Linear(2, 2), tmp_path, average=True)
    monkeypatch.setattr(checkpoints, "DTensor", torch.nn.Parameter)      # every weight looks shared out
    with pytest.raises(ValueError, match="write average=false"):
        run.fit("x", lambda step, mine: run.models(torch.ones(1, 2)).sum(), 1)
