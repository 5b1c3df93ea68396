"Depth: the official names and shapes, agreement with other implementations, bad input."
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from live2diff_nb.depth.estimator import RunningRange, depth_to_image, rescale
from live2diff_nb.depth.small import TinyDepth, load_tiny_depth
from live2diff_nb.depth.hub import load_depth
from live2diff_nb.depth.midas import DPTHybrid
from live2diff_nb.engine.levels import DepthAdapter
from live2diff_nb.files.files import Misfit

GOLDEN = Path(__file__).parent / "golden"


# the adapter ---------------------------------------------------------------------------------------------------------

def adapter_state():
    "The official adapter's tensors, float32."
    state = load_file(GOLDEN / "live2diff.safetensors")
    return {
        name.removeprefix("flow_conv_in."): value.float()
        for name, value in state.items()
        if name.startswith("flow_conv_in.")
    }


def test_adapter_has_the_official_names_and_shapes():
    state = adapter_state()
    ours = DepthAdapter(out_channels=state["conv_out.bias"].numel()).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}

def test_adapter_computes_the_chain():
    state = adapter_state()
    adapter = DepthAdapter(out_channels=state["conv_out.bias"].numel())
    adapter.load_state_dict(state)
    x = depth = torch.randn(2, 4, 8, 12)
    for name in ["conv_in", *(f"blocks.{i}" for i in range(6))]:
        x = F.silu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
    x = F.conv2d(x, state["conv_out.weight"], state["conv_out.bias"], padding=1)
    assert torch.allclose(adapter(depth), x, atol=1e-5) and x.std() > 0.1

@pytest.mark.parametrize("channels", [(16,), (8, 12), (16, 32, 96, 256)])
def test_adapter_adds_nothing_at_first(channels):
    adapter = DepthAdapter(latent_channels=3, out_channels=20, channels=channels)
    assert len(adapter.blocks) == 2 * (len(channels) - 1)
    assert torch.equal(adapter(torch.randn(1, 3, 6, 7)), torch.zeros(1, 20, 6, 7))


# the range -----------------------------------------------------------------------------------------------------------

def test_range_does_not_depend_on_the_grouping():
    depth = torch.rand(11, 6, 5) * torch.arange(1, 12)[:, None, None]
    whole, parts = RunningRange(0.2), RunningRange(0.2)
    assert torch.equal(whole(depth), torch.cat([parts(part) for part in depth.split([8, 1, 2])]))

def test_range_depends_on_the_order_and_can_be_reset():
    depth = torch.rand(5, 6, 5) * torch.arange(1, 6)[:, None, None]
    ranger = RunningRange()
    first, later = ranger(depth), ranger(depth)
    assert not torch.equal(first, later)
    ranger.reset()
    assert torch.equal(ranger(depth), first) and not torch.equal(RunningRange()(depth.flip(0)).flip(0), first)

def test_rate_one_is_the_official_range_of_a_single_frame():
    depth = torch.rand(3, 6, 5)
    each = torch.stack([2 * (d - d.min()) / (d.max() - d.min()) - 1 for d in depth])
    assert torch.allclose(RunningRange(1.0)(depth), each, atol=1e-6)

@pytest.mark.parametrize("value", [0.0, 1e-12, 7.0, -3.0, 1e6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_constant_depth_gives_zeros(value, dtype):
    depth = torch.full((3, 4, 4), value).clamp(max=torch.finfo(dtype).max).to(dtype)
    assert torch.equal(RunningRange()(depth), torch.zeros(3, 4, 4, dtype=dtype))

def test_constant_frames_amid_others_stay_finite():
    depth = torch.cat([torch.full((2, 4, 4), 5.0), torch.rand(2, 4, 4), torch.zeros(3, 4, 4)])
    out = RunningRange()(depth)
    assert torch.isfinite(out).all() and out.abs().max() <= 1

@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_frame_is_refused_and_the_stream_goes_on(bad):
    ranger, depth = RunningRange(), torch.rand(1, 4, 4)
    ranger(depth)
    low, high = ranger.low, ranger.high
    broken = depth.clone()
    broken[0, 1, 2] = bad
    with pytest.raises(ValueError, match="NaN or infinite"): ranger(broken)
    assert (ranger.low, ranger.high) == (low, high) and torch.isfinite(ranger(depth)).all()

def test_the_official_normalisation():
    "Inverse depth at 384 x 384, one range for the call, back to the frame's size."
    golden = load_file(GOLDEN / "depth_norm.safetensors")
    for name in ("warmup", "single"):
        frames = F.interpolate(golden[f"{name}_image"].float(), (384, 384), mode="bilinear")
        depth = 3 + 0.9 * frames[:, 0] - 0.4 * frames[:, 1] + 0.1 * frames[:, 2]  # the recorded run's stand-in detector
        image = rescale(depth, depth.min(), depth.max())[:, None]
        expected = golden[f"{name}_depth_image"]
        ours = F.interpolate(image, expected.shape[-2:], mode="bilinear")
        assert torch.allclose(ours, expected, atol=1e-5)

def test_depth_to_image_refuses_what_is_no_depth():
    with pytest.raises(ValueError, match=r"\(n, h, w\)"): depth_to_image(torch.zeros(1, 1, 4, 4))
    assert depth_to_image(torch.zeros(2, 4, 6)).shape == (2, 3, 4, 6)


# the small estimator -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("size", [(256, 256), (64, 64), (240, 320), (1, 1), (7, 300), (512, 384)])
def test_tiny_depth_takes_any_size(size):
    with torch.no_grad(): depth = load_tiny_depth()(torch.rand(2, 3, *size))
    assert depth.shape == (2, *size) and torch.isfinite(depth).all() and (depth >= 0).all()

def test_tiny_depth_answers_for_each_frame_alone():
    model, frames = load_tiny_depth(), torch.rand(3, 3, 64, 64)
    with torch.no_grad(): assert torch.allclose(model(frames)[1:2], model(frames[1:2]), atol=1e-5)

def test_tiny_depth_saves_and_loads(tmp_path):
    model = TinyDepth(channels=(8, 16), blocks=(1, 0), size=64).eval()
    model.save_pretrained(tmp_path)
    again, frames = TinyDepth.from_pretrained(tmp_path), torch.rand(1, 3, 50, 70)
    with torch.no_grad(): assert torch.equal(again(frames), model(frames))

@pytest.mark.parametrize("frames, error, words", [
    (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), TypeError, "divide uint8"),
    (torch.zeros(3, 8, 8), ValueError, "shape"),
    (torch.zeros(1, 1, 8, 8), ValueError, "shape"),
    (torch.zeros(0, 3, 8, 8), ValueError, "shape"),
    (torch.full((1, 3, 8, 8), 2.0), ValueError, "scale"),
    (torch.full((1, 3, 8, 8), -1.0), ValueError, "scale"),
    (torch.full((1, 3, 8, 8), float("nan")), ValueError, "scale"),
    ("frame.png", TypeError, "float tensor")])
def test_bad_frames_are_refused(frames, error, words):
    with pytest.raises(error, match=words): TinyDepth()(frames)


# DPT-Hybrid ----------------------------------------------------------------------------------------------------------

def official_dpt_shapes():
    "Names and shapes of dpt_hybrid_384.pt, written down from the public MiDaS and timm sources."
    shapes = {}
    def layer(name, *weight, bias=True):
        shapes[f"{name}.weight"] = weight
        if bias: shapes[f"{name}.bias"] = weight[:1]
    vit, root = "pretrained.model", "pretrained.model.patch_embed.backbone"
    shapes |= {f"{vit}.cls_token": (1, 1, 768), f"{vit}.pos_embed": (1, 577, 768)}
    layer(f"{root}.stem.conv", 64, 3, 7, 7, bias=False)
    layer(f"{root}.stem.norm", 64)
    wide = 64
    for stage, (blocks, out) in enumerate([(3, 256), (4, 512), (9, 1024)]):
        for block in range(blocks):
            name = f"{root}.stages.{stage}.blocks.{block}"
            if block == 0:
                layer(f"{name}.downsample.conv", out, wide, 1, 1, bias=False)
                layer(f"{name}.downsample.norm", out)
            for i, weight in enumerate(
                [(out // 4, wide, 1, 1), (out // 4, out // 4, 3, 3), (out, out // 4, 1, 1)], start=1
            ):
                layer(f"{name}.conv{i}", *weight, bias=False)
                layer(f"{name}.norm{i}", weight[0])
            wide = out
    layer(f"{vit}.patch_embed.proj", 768, 1024, 1, 1)
    for block in range(12):
        name = f"{vit}.blocks.{block}"
        for part, weight in [("norm1", (768,)), ("attn.qkv", (2304, 768)), ("attn.proj", (768, 768)), ("norm2", (768,)),
                             ("mlp.fc1", (3072, 768)), ("mlp.fc2", (768, 3072))]: layer(f"{name}.{part}", *weight)
    layer(f"{vit}.norm", 768)
    layer(f"{vit}.head", 1000, 768)
    for i in (3, 4):
        layer(f"pretrained.act_postprocess{i}.0.project.0", 768, 1536)
        layer(f"pretrained.act_postprocess{i}.3", 768, 768, 1, 1)
    layer("pretrained.act_postprocess4.4", 768, 768, 3, 3)
    for i, width in enumerate((256, 512, 768, 768), start=1):
        layer(f"scratch.layer{i}_rn", 256, width, 3, 3, bias=False)
        layer(f"scratch.refinenet{i}.out_conv", 256, 256, 1, 1)
        for unit in (1, 2):
            for conv in (1, 2): layer(f"scratch.refinenet{i}.resConfUnit{unit}.conv{conv}", 256, 256, 3, 3)
    for i, weight in [(0, (128, 256, 3, 3)), (2, (32, 128, 3, 3)), (4, (1, 32, 1, 1))]:
        layer(f"scratch.output_conv.{i}", *weight)
    return shapes

def test_dpt_has_the_official_names_and_shapes():
    with torch.device("meta"): state = DPTHybrid().state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == official_dpt_shapes()
    assert sum(value.numel() for value in state.values()) == 123_146_985

def transformers_name(name):
    "The name in transformers' DPTForDepthEstimation of one of our tensors; qkv is split by the caller."
    for old, new in [
        ("pretrained.model.patch_embed.backbone.stem.conv", "dpt.embeddings.backbone.bit.embedder.convolution"),
        ("pretrained.model.patch_embed.backbone.stem.norm", "dpt.embeddings.backbone.bit.embedder.norm"),
        ("pretrained.model.patch_embed.backbone.stages", "dpt.embeddings.backbone.bit.encoder.stages"),
        ("pretrained.model.patch_embed.proj", "dpt.embeddings.projection"),
        ("pretrained.model.blocks", "dpt.encoder.layer"),
        ("pretrained.model.norm", "dpt.layernorm"),
        ("pretrained.model.cls_token", "dpt.embeddings.cls_token"),
        ("pretrained.model.pos_embed", "dpt.embeddings.position_embeddings"),
        ("pretrained.act_postprocess3.0.project", "neck.reassemble_stage.readout_projects.2"),
        ("pretrained.act_postprocess4.0.project", "neck.reassemble_stage.readout_projects.3"),
        ("pretrained.act_postprocess3.3", "neck.reassemble_stage.layers.2.projection"),
        ("pretrained.act_postprocess4.3", "neck.reassemble_stage.layers.3.projection"),
        ("pretrained.act_postprocess4.4", "neck.reassemble_stage.layers.3.resize"),
        ("scratch.output_conv", "head.head"),
        *((f"scratch.layer{i}_rn", f"neck.convs.{i - 1}") for i in (1, 2, 3, 4)),
        *((f"scratch.refinenet{i}", f"neck.fusion_stage.layers.{4 - i}") for i in (1, 2, 3, 4)),
    ]:
        if name.startswith(old): name = new + name[len(old):]
    if name.startswith("dpt.embeddings.backbone"): return name.replace(".blocks.", ".layers.")
    for old, new in [
        ("attn.proj", "attention.output.dense"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
        ("norm1", "layernorm_before"),
        ("norm2", "layernorm_after"),
        ("out_conv", "projection"),
        ("resConfUnit", "residual_layer"),
        (".conv1.", ".convolution1."),
        (".conv2.", ".convolution2."),
    ]:
        name = name.replace(old, new)
    return name

def test_dpt_agrees_with_transformers():
    "The same random weights in an independent implementation give the same inverse depth."
    from transformers import DPTConfig, DPTForDepthEstimation
    torch.manual_seed(0)
    with torch.device("meta"):  # no time for 250 M parameters that are overwritten anyway
        ours = DPTHybrid(96).eval()
        theirs = DPTForDepthEstimation(
            DPTConfig(
                is_hybrid=True,
                readout_type="project",
                neck_hidden_sizes=[256, 512, 768, 768],
                reassemble_factors=[1, 1, 1, 0.5],
                backbone_featmap_shape=[1, 1024, 6, 6],
                neck_ignore_stages=[0, 1],
                image_size=96,
            )
        ).eval()
    ours.to_empty(device="cpu")
    for p in ours.parameters():
        p.data.normal_(0, p[0].numel() ** -0.5) if p.ndim > 1 else p.data.uniform_(0.1, 1)
    state = {}
    for name, value in ours.state_dict().items():
        if name.startswith("pretrained.model.head"): continue
        if ".attn.qkv." not in name: state[transformers_name(name)] = value
        else:
            for part, chunk in zip(("query", "key", "value"), value.chunk(3)):
                state[transformers_name(name).replace("attn.qkv", f"attention.attention.{part}")] = chunk
    positions = "dpt.embeddings.position_embeddings"  # resized to 6 x 6 patches
    grid = F.interpolate(state[positions][:, 1:].transpose(1, 2).unflatten(2, (24, 24)), (6, 6), mode="bilinear")
    state[positions] = torch.cat([state[positions][:, :1], grid.flatten(2).transpose(1, 2)], 1)
    theirs.load_state_dict(state, assign=True)
    frames = torch.rand(1, 3, 96, 96)
    with torch.no_grad(): mine, reference = ours(frames), theirs(2 * frames - 1).predicted_depth
    assert mine.shape == reference.shape and mine.std() > 1e-4
    error = (mine - reference).norm() / (
        reference - reference.mean()
    ).norm()  # of what varies in it, stricter than of the whole
    print(f"relative difference {error:.1e}, of the whole {(mine - reference).norm() / reference.norm():.1e}")
    assert error <= 1e-4

def test_dpt_takes_other_sizes():
    with torch.no_grad(): depth = DPTHybrid(64).eval()(torch.rand(1, 3, 40, 56))
    assert depth.shape == (1, 40, 56) and torch.isfinite(depth).all() and (depth >= 0).all()
    with pytest.raises(ValueError, match="multiple of 32"): DPTHybrid(100)

def save_zeros(path, shapes, wrap=True):
    "A small file of expanded zeros."
    state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
    torch.save({"optimizer": {}, "model": state} if wrap else state, path)
    return path

@pytest.mark.parametrize("wrap", [True, False])
def test_dpt_loads_the_official_layout(tmp_path, wrap):
    model = load_depth(save_zeros(tmp_path / "dpt.pt", official_dpt_shapes(), wrap))
    assert isinstance(model, DPTHybrid) and not model.training
    assert all(p.device.type == "cpu" and p.dtype == torch.float32 and not p.any() for p in model.parameters())

def test_dpt_lists_every_wrong_name(tmp_path):
    shapes = official_dpt_shapes()
    shapes["extra.weight"] = shapes.pop("scratch.layer1_rn.weight")
    shapes["pretrained.model.pos_embed"] = (1, 197, 768)
    with pytest.raises(Misfit) as error: load_depth(save_zeros(tmp_path / "dpt.pt", shapes))
    for words in (
        "1 missing (scratch.layer1_rn.weight)",
        "1 unexpected (extra.weight)",
        "(1, 197, 768)",
        "(1, 577, 768)",
        "1 of another shape (pretrained.model.pos_embed)",
        "dpt.pt",
    ):
        assert words in str(error.value)
    with pytest.raises(Misfit) as error: load_depth(save_zeros(tmp_path / "empty.pt", {"x": (1,)}))
    assert error.value.wrong == {"missing": sorted(official_dpt_shapes()), "unexpected": ["x"]}

def test_dpt_refuses_code_in_the_file(tmp_path):
    torch.save({"model": Path("/")}, tmp_path / "dpt.pt")
    with pytest.raises(ValueError, match="nothing in it was run"): load_depth(tmp_path / "dpt.pt")
    with pytest.raises(FileNotFoundError, match="MiDaS v3 release"): load_depth(tmp_path / "none.pt")
