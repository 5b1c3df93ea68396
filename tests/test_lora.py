"""LoRAs: every layout, the golden deltas, diffusers' own result, and swaps in a running stream that leave no trace."""
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file

from helpers import moving_clip, relative
from live2diff_nb.files.formats import old_names
from live2diff_nb.weights.lora import LoraStack, add_lora, layer_names, read_lora
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.weights.rehearse import SMALL, random_state, sd_config, split_unet, write_rehearsal
from live2diff_nb.engine.unet import StreamUNet, chunk_views
from live2diff_nb.weights.official import load_official
from live2diff_nb.weights.runners import Runner

GOLDEN = Path(__file__).parent / "golden"
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
LAYERS = [
    ATTENTION,
    ATTENTION.replace("to_q", "to_out.0"),
    ATTENTION.replace("attn1.to_q", "attn2.to_k"),
    ATTENTION.replace("attn1.to_q", "ff.net.0.proj"),
    "down_blocks.0.attentions.0.proj_in",
    "mid_block.resnets.0.conv1",
    "down_blocks.0.downsamplers.0.conv",
    "up_blocks.1.resnets.0.conv_shortcut",
]
CLIP = moving_clip(40)


def sd_unet(seed=0):
    with torch.device("meta"): unet = StreamUNet(**SMALL)
    unet.load_state_dict(random_state(unet, torch.float32, seed), assign=True)
    return unet.eval().requires_grad_(False)


def factors(model, names, seed, rank=4):
    g = torch.Generator().manual_seed(seed)

    def pair(w):
        down = torch.randn(rank, *w.shape[1:], generator=g) / w[0].numel() ** 0.5
        return down, torch.randn(len(w), rank, *[1] * (w.ndim - 2), generator=g) / 3

    return {name: pair(model.get_submodule(name).weight) for name in names}


def save_layout(path, parts, layout, alpha=2.0, prefix="lora_unet_"):
    "The same factors in one of the layouts."
    state, flat = {}, prefix + "{}"
    for name, (down, up) in parts.items():
        kohya = flat.format(name.replace(".", "_"))
        old = name.replace(".to_out.0", ".to_out")
        keys = {
            "kohya": (f"{kohya}.lora_down.weight", f"{kohya}.lora_up.weight"),
            "diffusers": (f"unet.{name}.lora_A.weight", f"unet.{name}.lora_B.weight"),
            "early diffusers": (f"unet.{name}.lora.down.weight", f"unet.{name}.lora.up.weight"),
            "peft": (f"base_model.model.{name}.lora_A.weight", f"base_model.model.{name}.lora_B.weight"),
        }
        if ".attn" in name:
            keys["processors"] = tuple(
                f"unet.{old.rpartition('.')[0]}.processor.{old.rpartition('.')[2]}_lora.{end}.weight"
                for end in ("down", "up")
            )
        a, b = keys.get(layout, keys["diffusers"])
        state |= {a: down, b: up}
        if layout == "kohya": state[f"{kohya}.alpha"] = torch.tensor(alpha)
    notes = {"unet.r": 4, "unet.lora_alpha": alpha, "unet.target_modules": list(parts)}
    save_file(
        state,
        path,
        metadata={"lora_adapter_metadata": json.dumps(notes)}
        if layout in ("diffusers", "early diffusers", "processors")
        else None,
    )
    if layout == "peft": (path.parent / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": alpha}))
    return str(path)


def bits(*models): return [{k: v.clone() for k, v in m.state_dict().items()} for m in models]


def same(a, b): return all(torch.equal(v, y[k]) for x, y in zip(a, b) for k, v in x.items())


# ---- exact --------------------
def test_the_official_rule_gives_the_recorded_deltas():
    base, motion = (load_file(GOLDEN / f"{n}.safetensors") for n in ("sd15_unet", "live2diff"))
    meta, note = (json.loads((GOLDEN / f"{n}.json").read_text()) for n in ("meta", "kohya_lora_tiny"))
    unet = load_official(
        {k: v.float() for k, v in base.items()},
        {k: v.float() for k, v in motion.items()},
        **meta["unet_config"],
        motion=meta["motion"],
    )
    recorded = load_file(GOLDEN / "kohya_lora_tiny_delta_upstream.safetensors")
    for rule, factor in (("official", 1.0), ("alpha", 0.5)):
        layers = read_lora(GOLDEN / "kohya_lora_tiny.safetensors", {"unet": unet}, rule)
        assert {f"{name}.weight" for _, name in layers} == recorded.keys()
        for (_, name), layer in layers.items():
            weight = unet.get_submodule(name).weight
            assert (
                relative(
                    note["lora_alpha"] * layer.delta(weight), factor * recorded[f"{name}.weight"].view(weight.shape)
                )
                < 1e-5
            )


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_the_same_lora_in_diffusers_unet(tmp_path, layout):
    "Loaded by diffusers and peft into `UNet2DConditionModel`: the same output."
    unet = sd_unet()
    path = save_layout(tmp_path / "lora.safetensors", factors(unet, LAYERS, 1), layout)
    config = {k: v for k, v in sd_config(SMALL).items() if not k.startswith("_")}
    reference = UNet2DConditionModel(**config).eval()
    reference.load_state_dict(split_unet(unet.state_dict())[0])
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    state, alphas, *rest = Loader.lora_state_dict(path, return_lora_metadata=True)
    Loader.load_lora_into_unet(
        state, network_alphas=alphas, unet=reference, adapter_name="a", metadata=rest[0] if rest else None
    )
    reference.set_adapters("a", 0.7)
    for name, p in unet.named_parameters():
        if "temporal_transformer.proj_out" in name: p.zero_()
    x, text, t, depth = (
        torch.randn(1, 4, 16, 16),
        torch.randn(1, 7, 64),
        torch.tensor([399]),
        torch.zeros(1, 32, 16, 16),
    )
    with torch.no_grad():
        plain = unet(x, t, text, depth, chunk_views(unet, 1))
        LoraStack({"unet": unet}).apply({path: 0.7})
        ours, theirs = unet(x, t, text, depth, chunk_views(unet, 1)), reference(x, t, text).sample
    assert relative(ours, theirs) < 1e-5 and relative(plain, theirs) > 1e-2


@pytest.mark.parametrize("layout", ["diffusers", "early diffusers", "processors", "peft"])
def test_every_layout_says_the_same(tmp_path, layout):
    unet = sd_unet()
    parts = factors(unet, LAYERS, 1)
    for folder in ("a", "b"): (tmp_path / folder).mkdir()
    kohya, other = (
        read_lora(save_layout(tmp_path / f / "l.safetensors", parts, kind), {"unet": unet})
        for f, kind in (("a", "kohya"), ("b", layout))
    )
    assert kohya.keys() == other.keys() and all(
        torch.equal(
            layer.delta(layer.up.new_empty(len(layer.up), *layer.down.shape[1:])),
            other[k].delta(layer.up.new_empty(len(layer.up), *layer.down.shape[1:])),
        )
        for k, layer in kohya.items()
    )


def test_lcm_lora_is_put_in_for_good(tmp_path):
    "`from_pretrained(lcm_lora=file)`: each weight is W + alpha / rank * up @ down; nothing else changes, and it stays."
    files = write_rehearsal(tmp_path / "set")
    plain = Live2Diff.from_pretrained(**files, device="cpu", height=64, width=64)
    parts = factors(plain.unet, LAYERS, 1)
    path = save_layout(tmp_path / "pytorch_lora_weights.safetensors", parts, "kohya")
    before = plain.unet.state_dict()
    for place in (path, tmp_path):                                        # the file, or the folder that holds it
        pipe = Live2Diff.from_pretrained(**files, lcm_lora=place, device="cpu", height=64, width=64)
        assert pipe.lora == {} and not pipe.loras.base
        for name, weight in pipe.unet.state_dict().items():
            down, up = (
                parts.get(name.removesuffix(".weight"), (None, None)) if name.endswith(".weight") else (None, None)
            )
            if down is None:
                assert torch.equal(weight, before[name]), name
            else:
                assert (
                    relative(weight - before[name], 2.0 / 4 * (up.flatten(1) @ down.flatten(1)).view(weight.shape))
                    < 1e-4
                ), name


def test_text_encoder_and_motion_modules(tmp_path):
    files = write_rehearsal(tmp_path / "set")
    pipe = Live2Diff.from_pretrained(**files, device="cpu", height=64, width=64)
    text = [n for n in layer_names(pipe.text_encoder).values() if n.endswith("q_proj")][:1]
    motion = [n for n in layer_names(pipe.unet).values() if n.endswith("attention_blocks.0.to_k")][:1]
    a = save_layout(
        tmp_path / "t.safetensors",
        factors(pipe.text_encoder, text, 1),
        "kohya",
        prefix="lora_te_text_model_" if not text[0].startswith("text_model") else "lora_te_",
    )
    b = save_layout(tmp_path / "m.safetensors", factors(pipe.unet, motion, 2), "kohya")
    before, embedded = bits(pipe.unet, pipe.text_encoder), pipe.embed("a cat", None)
    pipe.apply_lora({a: 1.0, b: 0.5})
    after = bits(pipe.unet, pipe.text_encoder)
    changed = [sum(not torch.equal(v, x[k]) for k, v in y.items()) for x, y in zip(before, after)]
    assert changed == [1, 1] and not torch.equal(pipe.embed("a cat", None), embedded)
    pipe.apply_lora({})
    assert same(before, bits(pipe.unet, pipe.text_encoder))


# ---- exact restore --------------------
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_b_a_is_bit_identical_to_a(tmp_path, dtype):
    unet = sd_unet().to(dtype).to(memory_format=torch.channels_last)
    a, b = (save_layout(tmp_path / f"{n}.safetensors", factors(unet, LAYERS[n:], n), "kohya") for n in (0, 3))
    stack, start = LoraStack({"unet": unet}), bits(unet)
    def now(wanted):
        stack.apply(wanted)
        return bits(unet)
    with_a = now({a: 0.8})
    assert (
        not same(with_a, now({b: 1.0}))
        and same(with_a, now({a: 0.8}))
        and same(now({a: 0.3, b: 0.4}), now({b: 0.4, a: 0.3}))
    )
    assert same(with_a, now({a: 0.8})) and same(start, now({})) and not stack.base
    pointers = [p.data_ptr() for p in unet.parameters()]
    now({a: 1.0})
    assert pointers == [p.data_ptr() for p in unet.parameters()]  # in place: compiled graphs stay valid


def test_fused_for_good_is_the_same_and_keeps_no_second_copy(tmp_path):
    unet, other = sd_unet(), sd_unet()
    path = save_layout(tmp_path / "a.safetensors", factors(unet, LAYERS, 1), "kohya")
    stack = LoraStack({"unet": unet})
    stack.apply({path: 0.6}), stack.fuse(), add_lora({"unet": other}, path, 0.6)
    assert same(bits(unet), bits(other)) and not stack.base and stack.changed


# ---- while streaming --------------------
@pytest.fixture(scope="module")
def pipe(): return Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64)


@pytest.fixture
def loras(pipe, tmp_path):
    names = [n for n in layer_names(pipe.unet).values() if n.endswith(("conv1", "to_q", "proj_in"))]
    yield [
        save_layout(
            tmp_path / f"{s}.safetensors",
            {n: (d, 3 * u) for n, (d, u) in factors(pipe.unet, names, s).items()},
            "diffusers",
        )
        for s in (1, 2)
    ]
    pipe.lora = {}
    pipe.apply_lora({})


def stream(pipe, changes, clip=CLIP, **settings):
    def frames():
        for n, frame in enumerate(clip):
            if n in changes: changes[n]()
            yield frame
    return list(pipe.stream(frames(), style="etching", **settings))


def untouched(ended, out):
    "A change first finishes the frames in flight, as the end of a stream does: up to there the two are bit-identical."
    return len(ended) == 12 and all(np.array_equal(x, y) for x, y in zip(ended, out))


@pytest.mark.parametrize("change", ["cut", "soft"])
def test_swapped_reweighted_and_removed_while_streaming(pipe, loras, change):
    "The stream never stops, a change shows with the next frames, and after the removal nothing is left."
    before, (a, b) = bits(pipe.unet), loras
    plain = stream(pipe, {}, change=change)
    changes = {12: lambda: pipe.set_lora(a), 20: lambda: pipe.set_lora({a: 0.5, b: 1}), 28: lambda: pipe.set_lora(None)}
    out = stream(pipe, changes, change=change)
    off = [np.abs(x.astype(float) - y).mean() for x, y in zip(plain, out)]
    assert len(out) == len(CLIP) and min(off[13:27]) > 0.5 and same(before, bits(pipe.unet))
    assert untouched(stream(pipe, {}, CLIP[:12], change=change), out)
    if change == "cut": assert max(off[36:]) < min(off[13:27])


def test_a_lora_of_the_prompt_alone_shows_at_once(pipe, tmp_path):
    "A soft change keeps the cache, but the prompt's keys and values are made anew."
    names = [n for n in layer_names(pipe.unet).values() if n.endswith("attn2.to_v")]
    pairs = {n: (d, 9 * u) for n, (d, u) in factors(pipe.unet, names, 1).items()}
    lora, plain = save_layout(tmp_path / "words.safetensors", pairs, "diffusers"), stream(pipe, {}, change="soft")
    out = stream(pipe, {12: lambda: pipe.set_lora(lora), 24: lambda: pipe.set_lora(None)}, change="soft")
    off = [np.abs(x.astype(float) - y).mean() for x, y in zip(plain, out)]
    assert max(off[:11]) == 0 < min(off[13:23])


def test_the_wrong_lora_raises_and_the_stream_goes_on(pipe, loras, tmp_path):
    save_file({"lora_unet_x.lora_up.weight": torch.ones(1, 1)}, tmp_path / "wrong.safetensors")
    def wrong():
        for value in ({str(tmp_path / "wrong.safetensors"): 1.0}, {"none.safetensors": 1.0}, ["a"], {loras[0]: "much"}):
            with pytest.raises((ValueError, FileNotFoundError)): pipe.lora = value
    plain, out = stream(pipe, {}), stream(pipe, {15: wrong})
    assert all(np.array_equal(x, y) for x, y in zip(plain, out)) and pipe.lora == {}


def test_a_style_brings_its_lora(pipe, loras, monkeypatch):
    monkeypatch.setattr(pipe, "styles", {**pipe.styles, "ours": dict(prompt="{prompt}, etching", lora={loras[0]: 1.0})})
    before = bits(pipe.unet)
    out = stream(pipe, {12: lambda: setattr(pipe, "style", "ours"), 25: lambda: setattr(pipe, "style", "etching")})
    plain = stream(pipe, {})
    off = [np.abs(x.astype(float) - y).mean() for x, y in zip(plain, out)]
    assert min(off[13:24]) > 0.5 and same(before, bits(pipe.unet)) and untouched(stream(pipe, {}, CLIP[:12]), out)


def test_a_runner_sees_every_lora(loras):
    "A runner is never told; it has to compute with the weights of now, and is asked for every step."
    class Watching(Runner):
        calls, seen = 0, None
        def __call__(self, *args):
            self.calls, self.seen = self.calls + 1, bits(self.unet)
            return super().__call__(*args)
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64)
    before = bits(pipe.unet)
    pipe.runner = runner = Watching(pipe.unet)
    for lora, plain in (({loras[0]: 1.0}, False), ({}, True)):
        pipe.lora, runner.calls = lora, 0
        list(pipe.stream(CLIP[:10]))
        assert runner.calls > 0 and same(runner.seen, before) == plain


def test_saved_with_its_loras_and_still_removable(loras, tmp_path):
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False, lora={loras[0]: 0.7})
    out, with_lora = stream(pipe, {}), bits(pipe.unet)
    pipe.save_pretrained(tmp_path / "saved")
    assert same(with_lora, bits(pipe.unet))
    again = Live2Diff.from_pretrained(tmp_path / "saved", device="cpu")
    assert all(np.array_equal(x, y) for x, y in zip(out, stream(again, {})))
    again.apply_lora({}), pipe.apply_lora({})
    assert same(bits(pipe.unet), bits(again.unet))


# ---- files that change, and interruptions --------------------
def test_a_file_written_anew_is_read_anew(tmp_path, monkeypatch):
    "While it is in, after it was taken out, set again in a running stream, deleted, damaged."
    unet = sd_unet()
    a, b = (save_layout(tmp_path / f"{n}.safetensors", factors(unet, LAYERS, n), "kohya") for n in (1, 2))
    mine, stack = str(tmp_path / "mine.safetensors"), LoraStack({"unet": unet})
    def content(path):
        shutil.copy(path, mine)
        stack.apply({mine: 1.0})
        return bits(unet)
    first, second = content(a), content(b)
    stack.apply({})
    stack.apply({a: 1.0})
    assert same(first, bits(unet))
    stack.apply({b: 1.0})
    assert same(second, bits(unet)) and not same(first, second)
    assert same(content(a), first) and not stack.apply({mine: 1.0})
    Path(mine).write_bytes(Path(a).read_bytes()[:500])
    with pytest.warns(UserWarning, match="stays in use"): stack.apply({mine: 0.5})
    with pytest.raises(ValueError, match="cut off"): stack.check({mine: 1.0})
    Path(mine).unlink()
    assert stack.apply({mine: 1.0}) and same(bits(unet), first)


def test_set_again_after_training_while_it_streams(pipe, loras, tmp_path):
    mine, (a, b) = str(tmp_path / "mine.safetensors"), loras
    shutil.copy(a, mine)
    def trained():
        shutil.copy(b, mine)
        pipe.set_lora(mine)
    pipe.set_lora(mine)
    out = stream(pipe, {16: trained})
    pipe.set_lora(b)
    wanted = stream(pipe, {})
    pipe.set_lora(a)
    old = stream(pipe, {})
    off, kept = ([np.abs(x.astype(float) - y[-1]).mean() for x in out[-1:]] for y in (wanted, old))
    assert off[0] < kept[0] / 3


class Stopped(LoraStack):
    "Raises at its n-th layer, and at every one after the first if it is stubborn."
    left, stubborn, error = 10**9, False, KeyboardInterrupt
    def set_layer(self, *args):
        super().set_layer(*args)
        self.left -= 1
        if self.left == 0 or self.left < 0 and self.stubborn: raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_stopped_while_one_goes_in_or_out(tmp_path, at, stubborn, error):
    unet = sd_unet()
    a, b = (save_layout(tmp_path / f"{n}.safetensors", factors(unet, LAYERS[:-1] if n else LAYERS[1:], n), "kohya")
            for n in (0, 1))
    stack, plain = Stopped({"unet": unet}), bits(unet)
    for before in ({}, {a: 0.7}):
        for wanted in ({b: 1.0}, {a: 0.2, b: 1.0}, {}):
            if wanted == before: continue
            stack.left = 10**9
            stack.apply(before)
            was = bits(unet)
            stack.left, stack.stubborn, stack.error = at, stubborn, error
            with pytest.raises(error): stack.apply(wanted)
            assert stack.active == (before if not stubborn else {}) and same(bits(unet), was if not stubborn else plain)
            stack.left = 10**9
            stack.apply(wanted)
            assert stack.active == wanted
            stack.apply({})
            assert same(bits(unet), plain) and not stack.base


def test_stopped_while_it_is_added_for_good_or_saved(tmp_path, monkeypatch, pipe, loras):
    unet = sd_unet()
    path, plain = save_layout(tmp_path / "a.safetensors", factors(unet, LAYERS, 1), "kohya"), bits(unet)
    set_layer, count = LoraStack.set_layer, 0
    def stopped(self, *args):
        nonlocal count
        set_layer(self, *args)
        count += 1
        if count == 4: raise KeyboardInterrupt
    with monkeypatch.context() as patch:
        patch.setattr(LoraStack, "set_layer", stopped)
        with pytest.raises(KeyboardInterrupt): add_lora({"unet": unet}, path)
    assert same(bits(unet), plain)
    pipe.apply_lora({loras[0]: 1.0})
    with_lora = bits(pipe.unet)
    def full(*args, **kwargs): raise OSError("no space left")
    with monkeypatch.context() as patch, pytest.raises(OSError):
        patch.setattr(pipe.models.vae, "save_pretrained", full)
        pipe.save_pretrained(tmp_path / "saved")
    assert same(bits(pipe.unet), with_lora) and pipe.loras.active == {loras[0]: 1.0}


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), np.float32("nan")])
def test_a_weight_that_is_no_number(pipe, loras, weight):
    before = bits(pipe.unet)
    with pytest.raises(ValueError, match="give a number"): pipe.set_lora(loras[0], weight)
    with pytest.raises(ValueError, match="give a number"): pipe.apply_lora({loras[0]: weight})
    assert same(before, bits(pipe.unet)) and pipe.lora == {}


# ---- scales and spellings of others --------------------
def peft_scales(path, unet):
    "What diffusers and peft make of a file."
    from diffusers.loaders import StableDiffusionLoraLoaderMixin as Loader
    reference = UNet2DConditionModel(**{k: v for k, v in sd_config(SMALL).items() if not k.startswith("_")})
    state, alphas, notes = Loader.lora_state_dict(path, return_lora_metadata=True)
    Loader.load_lora_into_unet(state, network_alphas=alphas, unet=reference, adapter_name="a", metadata=notes)
    layers = {name: getattr(layer, "scaling", {}) for name, layer in reference.named_modules()}
    return {name: scaling["a"] for name, scaling in layers.items() if "a" in scaling}


Q = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize("notes", [
    {"rank_pattern": {"to_k": 2}}, {"alpha_pattern": {"to_k": 16}}, {"alpha_pattern": {Q: 1, "to_q": 32}},
    {"alpha_pattern": {r"down_blocks\..*\.to_(q|v)": 3}, "rank_pattern": {"attn2.to_k": 8}}, {"use_rslora": True},
    {"use_rslora": True, "alpha_pattern": {"to_v": 2}}], ids=str)
def test_scales_are_those_of_peft(tmp_path, notes):
    "By the end of a name or a regular expression, the first that fits."
    import re
    unet = sd_unet()
    names = [n for n in dict.fromkeys(layer_names(unet).values()) if ".attn" in n and ".to_out" not in n and "down" in n
             and "motion" not in n]
    def rank(name):
        return next((r for k, r in notes.get("rank_pattern", {}).items() if re.match(rf"(.*\.)?({k})$", name)), 4)
    state = {f"unet.{n}.lora_{s}.weight": torch.randn(*shape) for n in names for w in [unet.get_submodule(n).weight]
             for s, shape in (("A", (rank(n), w.shape[1])), ("B", (len(w), rank(n))))}
    said = {f"unet.{k}": v for k, v in dict(r=4, lora_alpha=6, target_modules=names, **notes).items()}
    save_file(state, tmp_path / "pytorch_lora_weights.safetensors", {"lora_adapter_metadata": json.dumps(said)})
    path = tmp_path / "pytorch_lora_weights.safetensors"
    ours = {name: layer.scale for (_, name), layer in read_lora(path, {"unet": unet}).items()}
    assert ours == pytest.approx(peft_scales(path, unet)) and len(ours) == len(names)


@pytest.mark.parametrize("spelling", ["lora_unet_{flat}.lora_{kohya}.weight",
                                      "diffusion_model.{old}.lora_{peft}.weight",
                                      "model.diffusion_model.{old}.lora_{peft}.weight"])
def test_the_first_names_of_the_blocks(tmp_path, spelling):
    unet = sd_unet()
    parts, plain = factors(unet, LAYERS, 1), [n for n in unet.state_dict() if "motion" not in n and "flow" not in n]
    old = {name: old_names(plain)[f"{name}.weight"].removesuffix(".weight") for name in LAYERS}
    assert old[ATTENTION].startswith("input_blocks.1.1.")
    assert old["mid_block.resnets.0.conv1"].startswith("middle_block.0.")
    state = {}
    for name, pair in parts.items():
        for value, kohya, peft in zip(pair, ("down", "up"), "AB"):
            state[spelling.format(flat=old[name].replace(".", "_"), old=old[name], kohya=kohya, peft=peft)] = value
    save_file(state, tmp_path / "old.safetensors")
    layers = read_lora(tmp_path / "old.safetensors", {"unet": unet})
    assert {name for _, name in layers} == set(LAYERS)
    assert all(torch.equal(layer.down, parts[name][0]) and layer.scale == 1 for (_, name), layer in layers.items())


@pytest.mark.parametrize("name, said", [
    ("lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight", "for Stable Diffusion XL"),
    ("lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight", "for Stable Diffusion XL"),
    ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", "diffusion transformer"),
    ("lora_unet_joint_blocks_0_x_block_attn_qkv.lora_down.weight", "for Stable Diffusion 3"),
    ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", "for Flux"),
    ("lora_unet_mid_block_attentions_0_proj_in.hada_w1_a", "LoHa"), ("lora_unet_x.lokr_w1", "LoKr"),
    ("lora_unet_x.dora_scale", "DoRA"), ("lora_unet_x.diff_b", "difference"), ("lora_unet_x.w_norm", "norms"),
    ("unet.mid_block.attentions.0.proj_in.lora_B.bias", "biases"), ("base_model.model.x.ia3_l", "IA3"),
    ("model.diffusion_model.input_blocks.0.0.weight", "whole model"), ("emb_params", "textual inversion"),
    ("conv_in.weight", "not part of a LoRA"), ("lora_unet_nowhere.lora_down.weight", "another model")])
def test_other_models_and_kinds_by_name(tmp_path, name, said):
    pair = {name, name.replace("lora_down", "lora_up").replace("lora_A", "lora_B")}
    save_file({name: torch.ones(2, 2) for name in pair}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors") as caught:
        read_lora(tmp_path / "other.safetensors", {"unet": sd_unet()})
    assert said in str(caught.value) and "\n" not in str(caught.value)


def test_what_is_beside_a_lora(tmp_path):
    "An alpha for all counts; the rest is named and left out; a file for other parts says so."
    unet = sd_unet()
    path = save_layout(tmp_path / "a.safetensors", factors(unet, LAYERS, 1), "early diffusers")
    state = {**load_file(path), "network_dim": torch.tensor(4), "network_alpha": torch.tensor(2.0),
             "bundle_emb.word.string_to_param.*": torch.ones(2, 64)}
    save_file(state, tmp_path / "b.safetensors")
    with pytest.warns(UserWarning, match="bundle_emb, network_dim left out"):
        layers = read_lora(tmp_path / "b.safetensors", {"unet": unet})
    assert {layer.scale for layer in layers.values()} == {0.5}
    layer, path = "lora_te_text_model_encoder_layers_0_mlp_fc1", tmp_path / "text.safetensors"
    save_file({f"{layer}.lora_{end}.weight": torch.ones(2, 2) for end in ("down", "up")}, path)
    with pytest.raises(ValueError, match="changes nothing in unet"): read_lora(path, {"unet": unet})
