"""What a GPU asks of the streaming step: caches that stay where they are, one graph. That the host never waits is in
test_no_wait.py, export and ONNX in test_export.py."""
import pytest
import torch

from helpers import relative, toy_unet
from live2diff_nb.weights.lora import LoraLayer, LoraStack
from live2diff_nb.engine.stream import StreamDenoiser
from live2diff_nb.engine.unet import example_step, ring_views


class Layers:
    "Caches, as `KVCache` holds them."
    def __init__(self, layers): self.layers = layers


class RingStep(torch.nn.Module):
    "The step as it streams: in place, on the caches themselves."
    def __init__(self, unet):
        super().__init__()
        self.unet = unet
    def forward(self, latents, timesteps, text, depth, slot, position, bias, caches, tables):
        return self.unet(latents, timesteps, text, depth, ring_views(Layers(caches), tables, (slot, position, bias)))


@pytest.fixture
def unet(): return toy_unet(block_out_channels=(32, 32), motion_levels=(False, True))


def inputs(unet, n=100):
    torch.manual_seed(n)
    return (
        *example_step(unet, 2, 6, 6, 5, 2, tokens=5, n=n),
        [layer.position_table(5) for layer in unet.temporal_layers],
    )


@torch.no_grad()
def test_the_step_changes_one_slot_a_row_and_no_python_state(unet):
    before = {k: v for k, v in vars(unet).items() if not k.startswith("_")}
    args = inputs(unet)
    old = [c.clone() for c in args[7]]
    RingStep(unet)(*args)
    for cache, was in zip(args[7], old):
        changed = (cache != was).flatten(2, 3).any(2).any(-1)  # (2, rows, L)
        assert changed.sum() == 4 and all(changed[:, row, slot].all() for row, slot in enumerate(args[4].tolist()))
    assert before == {k: v for k, v in vars(unet).items() if not k.startswith("_")}


@torch.no_grad()
def test_the_step_in_place_is_one_graph_also_after_a_lora(unet):
    "Compiled once for all frames; the same caches; a LoRA put in by copying needs no new graph."
    torch._dynamo.reset()
    step, compiles = RingStep(unet), []
    def backend(graph, example): return compiles.append(1) or graph.forward
    compiled = torch.compile(step, fullgraph=True, backend=backend)
    stack = LoraStack({"unet": unet})
    name = "mid_block.resnets.0.conv1"
    stack.known["x"] = {("unet", name): LoraLayer(torch.randn(2, 32, 3, 3), torch.randn(32, 2, 1, 1), 0.1)}
    for n, lora in ((2, {}), (3, {}), (100, {}), (101, {"x": 1.0}), (102, {})):
        stack.apply(lora)
        args, again = inputs(unet, n), inputs(unet, n)
        assert relative(compiled(*args), step(*again)) < 1e-5
        assert all(torch.equal(a, b) for a, b in zip(args[7], again[7]))
    assert len(compiles) == 1


def test_the_caches_of_a_stream_stay_where_they_are():
    unet = toy_unet()
    engine = StreamDenoiser(unet, [399, 159], window=5, warmup=2)
    frames, text = torch.randn(9, 4, 8, 8), torch.randn(1, 5, 16)
    engine.warm_up(frames[:2], frames[:2], text)
    places = [c.data_ptr() for c in engine.cache.layers]
    for frame in frames[2:]: engine.step(frame[None], frame[None])
    engine.warm_up(frames[:2], frames[:2], text)
    assert places == [c.data_ptr() for c in engine.cache.layers]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@torch.no_grad()
def test_the_step_in_half_precision_and_channels_last(unet, dtype):
    args = inputs(unet)
    half = lambda x: x.to(dtype) if x.is_floating_point() else x
    low = [half(x) if torch.is_tensor(x) else [half(c) for c in x] for x in inputs(unet)]
    single = RingStep(unet)(*args)
    out = RingStep(unet.to(dtype).to(memory_format=torch.channels_last))(*low)
    assert out.dtype == dtype and relative(out.float(), single) < 0.05


@torch.no_grad()
def test_the_step_runs_on_the_meta_device(unet):
    "No value of a tensor is looked at: shapes are enough."
    args = inputs(unet)
    meta = [x.to("meta") if torch.is_tensor(x) else [c.to("meta") for c in x] for x in args]
    assert RingStep(unet.to("meta"))(*meta).shape == args[0].shape
