"LoRAs that we train: files that diffusers reads, exact swaps, resumed runs; distillation with teacher and slow copy."
import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
from safetensors.torch import load_file

from helpers import moving_clip, relative
from live2diff_nb.training.few_steps import ConsistencyRun, distil, few_steps, many_steps
from live2diff_nb.weights.lora import LoraStack
from live2diff_nb.training.lora import add_adapters, as_adapter, lora_places, save_lora, train_style
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.weights.rehearse import SMALL, random_state, sd_config, split_unet
from live2diff_nb.engine.unet import StreamUNet, chunk_views
from live2diff_nb.weights.tiny import load_models, style_lora


def tiny(): return load_models("tiny", "cpu", torch.float32, graphs=False)


def randomised(unet, name, seed):
    "An adapter that does something."
    torch.manual_seed(seed)
    with torch.no_grad():
        for key, p in unet.named_parameters():
            if f"lora_B.{name}" in key: p.normal_(std=0.1)


def negative(frame): return 255 - frame


PICTURES = [np.random.default_rng(i).integers(0, 256, (70, 80, 3), np.uint8) for i in range(2)]


def test_diffusers_reads_our_file_and_paints_the_same(tmp_path):
    "Trained beside our UNet, written by us, loaded by diffusers into its own UNet: the same answer."
    with torch.device("meta"): unet = StreamUNet(**SMALL)
    unet.load_state_dict(random_state(unet, torch.float32), assign=True)
    for name, p in unet.named_parameters():
        if "temporal_transformer.proj_out" in name: p.data.zero_()
    reference = UNet2DConditionModel(**{k: v for k, v in sd_config(SMALL).items() if not k.startswith("_")}).eval()
    reference.load_state_dict(split_unet(unet.state_dict())[0])
    add_adapters(unet.eval(), ["ours"], rank=4)
    randomised(unet, "ours", 1)
    path = save_lora(unet, "ours", tmp_path / "ours.safetensors")
    state, alphas, metadata = Loader.lora_state_dict(str(path), return_lora_metadata=True)
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=reference, adapter_name="a", metadata=metadata)
    x, text, t = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 64), torch.tensor([399])
    depth = torch.zeros(1, 32, 16, 16)
    with torch.no_grad(): ours, theirs = unet(x, t, text, depth, chunk_views(unet, 1)), reference(x, t, text).sample
    with as_adapter(unet, None, "ours"): plain = unet(x, t, text, depth, chunk_views(unet, 1))
    assert relative(ours, theirs) < 1e-5 and relative(plain, theirs) > 1e-2


def test_adapters_leave_motion_and_depth_alone():
    unet = tiny()["unet"]
    places = lora_places(unet)
    assert len(places) == len(set(places))
    assert all(any(part in name for name in places) for part in (".conv1", ".attn2.to_k"))
    assert not any("motion" in name or "flow_conv_in" in name for name in places)
    adapters = add_adapters(unet, ["a"])
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    counts = [sum(p.numel() for p in part if p.requires_grad) for part in (adapters.parameters(), unet.parameters())]
    assert counts[0] == counts[1]


def test_swapped_a_b_a_is_bit_identical(tmp_path):
    paths = []
    for name in ("a", "b"):
        unet = tiny()["unet"]
        add_adapters(unet, [name], rank=4)
        randomised(unet, name, ord(name))
        paths.append(save_lora(unet, name, tmp_path / f"{name}.safetensors"))
    unet = tiny()["unet"]
    stack, seen = LoraStack({"unet": unet}), []
    for wanted in ({}, {paths[0]: 1.0}, {paths[1]: 1.0}, {paths[0]: 1.0}, {}):
        stack.apply(wanted)
        seen.append({name: p.clone() for name, p in unet.state_dict().items()})
    same = lambda x, y: all(torch.equal(p, y[name]) for name, p in x.items())
    assert same(seen[1], seen[3]) and same(seen[0], seen[4])
    assert not same(seen[1], seen[2]) and not same(seen[0], seen[1])


def test_a_style_is_trained_once(tmp_path):
    losses, again = [], []
    settings = dict(word="negative", steps=4, batch=2, size=32, rank=4)
    note = lambda step, loss: losses.append(loss)
    path = train_style(PICTURES, negative, tmp_path / "n.safetensors", **settings, report=note)
    first = load_file(path)
    train_style(PICTURES, negative, path, **settings, report=lambda step, loss: again.append(loss))
    assert len(losses) == 4 and not again
    assert all(torch.equal(value, load_file(path)[name]) for name, value in first.items())
    assert any(value.any() for name, value in first.items() if "lora_B" in name)


def distilled(folder, steps=4, stop=None, **settings):
    run, losses = ConsistencyRun(tiny(), folder, rank=4, max_timestep=300, **settings), []
    clips = {i: dict(photo=PICTURES[i % 2][None, :32, :32], caption="etching") for i in range(99)}

    def report(step, loss):
        losses.append(loss)
        if step == stop: raise KeyboardInterrupt
    try: distil(run, clips, folder / "lcm.safetensors", steps, batch=2, report=report, every=0)
    except KeyboardInterrupt: pass
    return run, losses


def test_distillation_resumes_with_its_slow_copy(tmp_path):
    whole, losses = distilled(tmp_path / "whole")
    distilled(tmp_path / "cut", stop=2)
    again, rest = distilled(tmp_path / "cut")
    assert losses[-len(rest):] == rest and len(rest) < 4
    assert all(torch.equal(a, b) for a, b in zip(whole.run.models.parameters(), again.run.models.parameters()))
    named = dict(whole.run.models.named_parameters())
    moved = {side: sum(p.norm().item() for name, p in named.items() if f"lora_B/{side}" in name)
             for side in ("student", "slow")}
    assert 0 < moved["slow"] < moved["student"]


def test_the_teacher_is_the_base_and_guidance_changes_it(tmp_path):
    run = ConsistencyRun(tiny(), tmp_path, rank=4, max_timestep=300)
    x, t, s = torch.randn(2, 4, 8, 8), torch.tensor([299, 299]), torch.tensor([279, 279])
    text = run.embed(["etching", "cartoon"])
    with as_adapter(run.unet, None, "student"): plain = run.teacher_step(x, t, s, text)
    randomised(run.unet, "student", 0)
    with as_adapter(run.unet, None, "student"):
        assert torch.allclose(run.teacher_step(x, t, s, text), plain, atol=1e-6)
        run.guidance = 5.0
        assert not torch.allclose(run.teacher_step(x, t, s, text), plain, atol=1e-2)
    with torch.no_grad(): assert not torch.allclose(run.teacher_step(x, t, s, text), plain, atol=1e-2)


@pytest.mark.parametrize("steps", (1, 3))
def test_one_jump_is_one_long_step(steps):
    "One jump is one DDIM step to the end; three steps of it end elsewhere."
    models = tiny()
    text, x = torch.zeros(1, 16, 64), torch.randn(2, 4, 8, 8)
    with torch.no_grad():
        one = few_steps(models["unet"], models["scheduler"], x, [299], text, torch.zeros(1, *x.shape))
        walk = many_steps(models["unet"], models["scheduler"], x, 299, text, steps)
    assert (torch.allclose(one, walk, atol=1e-2)) == (steps == 1)


def test_embedded_styles_as_loras_change_while_streaming():
    "The prompt stays; each LoRA paints in its own way, and without it the first picture is bit-identical again."
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=128, width=128, graphs=False)
    clip = moving_clip(10, 128, 128)
    def painted(lora):
        pipe.set_lora(lora)
        return np.stack(list(pipe.stream(clip, prompt="a photo"))).astype(int)
    plain = painted(None)
    shown = {style: painted(str(style_lora(style))) for style in pipe.styles}
    assert np.array_equal(painted(None), plain)
    everything = [plain, *shown.values()]
    assert min(np.abs(a - b).mean() for i, a in enumerate(everything) for b in everything[:i]) > 4

    def switching():
        for n, frame in enumerate(clip * 2):
            if n == 12: pipe.set_lora(str(style_lora("etching")))
            yield frame
    pipe.set_lora(str(style_lora("watercolour")))
    out = np.stack(list(pipe.stream(switching(), prompt="a photo"))).astype(int)
    assert len(out) == 20 and np.abs(out[19] - out[9]).mean() > 10
