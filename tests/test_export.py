"""One streaming step as a graph: `torch.export` and ONNX agree with the network as it is written.

`torch.compile` of it: page engine/unet, and the step in place in test_gpu_ready.
"""
import onnxruntime
import pytest
import torch

from helpers import relative, toy_unet
from live2diff_nb.engine.unet import StreamStep, example_step

WINDOW, WARMUP = 5, 2
NAMES = ["latents", "timesteps", "text", "depth", "slot", "position", "bias"]


@pytest.fixture(scope="module")
def step():
    "The step at an odd size, inputs to export with, and others to compare on: a ring that is still filling."
    unet = toy_unet(block_out_channels=(32, 32), motion_levels=(False, True))
    examples = [example_step(unet, 2, 5, 6, WINDOW, WARMUP, tokens=5, n=n) for n in (100, 2)]
    return StreamStep(unet, WINDOW).eval(), *examples


def agrees(result, expected, bound):
    "Output and every cache."
    (out, caches), (right, right_caches) = result, expected
    assert len(caches) == len(right_caches) > 0
    for a, b in zip((out, *caches), (right, *right_caches)):
        assert a.shape == b.shape and relative(a, b) <= bound


@pytest.fixture(scope="module")
def program(step):
    "The step as `torch.export` sees it."
    with torch.no_grad(): return torch.export.export(step[0], step[1])


@torch.no_grad()
def test_export(step, program):
    module, *both = step
    for inputs in both:
        agrees(program.module()(*inputs), module(*inputs), 1e-5)


@torch.no_grad()
def test_onnx_with_the_caches_as_inputs_and_outputs(step, program, tmp_path):
    module, example, other = step
    caches = range(len(example[-1]))
    path = tmp_path / "step.onnx"
    torch.onnx.export(program, f=path, dynamo=True, verbose=False, input_names=NAMES + [f"cache_{i}" for i in caches],
                      output_names=["out"] + [f"new_cache_{i}" for i in caches])
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for inputs in (example, other):
        flat = [*inputs[:-1], *inputs[-1]]
        given = {spec.name: x.numpy() for spec, x in zip(session.get_inputs(), flat, strict=True)}
        out, *new = session.run(None, given)
        agrees((torch.from_numpy(out), [torch.from_numpy(c) for c in new]), module(*inputs), 1e-4)


@torch.no_grad()
def test_the_step_writes_new_caches_and_leaves_its_inputs(step):
    module, example, _ = step
    before = [cache.clone() for cache in example[-1]]
    _, after = module(*example)
    slots = example[NAMES.index("slot")]
    for old, kept, new in zip(example[-1], before, after):
        assert torch.equal(old, kept) and not torch.equal(new, old)
        changed = (new != old).flatten(2, 3).any(2).any(-1)                # (2, rows, L)
        for row, slot in enumerate(slots.tolist()): assert changed[:, row].nonzero()[:, 1].unique().tolist() == [slot]
