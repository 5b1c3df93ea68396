"""Small files of every real layout: what loads, and the error message of what does not."""

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from helpers import moving_clip, relative
from live2diff_nb.files.files import fetch, open_weights, to_safetensors
from live2diff_nb.files.formats import UNET, unet_of_single_file, vae_part
from live2diff_nb.pipeline.live2diff import Live2Diff
from live2diff_nb.weights.real import memory_before
from live2diff_nb.weights.tiny import style_lora
from live2diff_nb.weights.rehearse import FULL, split_unet, to_single_file, write_rehearsal
from live2diff_nb.engine.unet import StreamUNet, chunk_views

GOLDEN = Path(__file__).parent / "golden"
KEYS = json.loads((GOLDEN / "keys_sd15_real.json").read_text())
CLIP = moving_clip(11)
SMALL = dict(device="cpu", height=64, width=64)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_rehearsal(tmp_path_factory.mktemp("weights") / "set")


@pytest.fixture(scope="module")
def pipe(files):
    return Live2Diff.from_pretrained(**files, **SMALL)


@pytest.fixture(scope="module")
def sd(files):
    return fetch(open_weights(f"{files['name']}/unet/diffusion_pytorch_model.safetensors"))


@pytest.fixture(scope="module")
def single(files, sd, tmp_path_factory):
    "The folder's UNet and text encoder, and a random VAE, as one file in the first code's names."
    folder = Path(files["name"])
    text = {
        f"cond_stage_model.transformer.{k}": v for k, v in load_file(folder / "text_encoder/model.safetensors").items()
    }
    text["cond_stage_model.transformer.text_model.embeddings.position_ids"] = torch.arange(16)[None]
    state = {
        **to_single_file(sd),
        **text,
        **{f"first_stage_model.{k}": v for k, v in ldm_vae(folder / "vae").items()},
        "alphas_cumprod": torch.ones(1000),
    }
    path = tmp_path_factory.mktemp("single") / "style.safetensors"
    save_file(state, path)
    return path


def ldm_vae(folder):
    "A full VAE in the old names: blocks numbered from the other end, attention as 1 x 1 convolutions."
    levels, out = 4, {}
    for key, value in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        part, _, tail = key.partition(".")
        if part in ("encoder", "decoder"):
            for i in range(levels):
                tail = tail.replace(f"down_blocks.{i}.downsamplers.0.", f"down.{i}.downsample.").replace(
                    f"down_blocks.{i}.resnets.", f"down.{i}.block."
                )
                tail = tail.replace(f"up_blocks.{i}.upsamplers.0.", f"up.{levels - 1 - i}.upsample.").replace(
                    f"up_blocks.{i}.resnets.", f"up.{levels - 1 - i}.block."
                )
            for old, new in [
                ("mid_block.resnets.0.", "mid.block_1."),
                ("mid_block.resnets.1.", "mid.block_2."),
                ("mid_block.attentions.0.", "mid.attn_1."),
                ("conv_norm_out", "norm_out"),
                ("conv_shortcut", "nin_shortcut"),
                ("group_norm", "norm"),
                ("to_q", "q"),
                ("to_k", "k"),
                ("to_v", "v"),
                ("to_out.0", "proj_out"),
            ]:
                tail = tail.replace(old, new)
            if ".attn_1." in tail and value.ndim == 2: value = value[:, :, None, None]
            key = f"{part}.{tail}"
        out[key] = value.contiguous()
    return out


def same_state(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k, v in a.items())


# ---- what loads --------------------
def test_full_size_names_are_the_recorded_ones():
    with torch.device("meta"): state = StreamUNet(**FULL).state_dict()
    sd, motion = split_unet(state)
    assert {k: list(v.shape) for k, v in sd.items()} == KEYS["sd15_unet"]
    assert {k: list(v.shape) for k, v in motion.items()} == {
        k: v for k, v in KEYS["motion_and_depth"].items() if not k.endswith("pos_encoder.pe")
    }


def test_single_file_names_are_the_official_converters():
    recorded = json.loads((GOLDEN / "ldm_unet_key_map.json").read_text())["map"]
    assert unet_of_single_file({old: old for old in recorded}) == {new: old for old, new in recorded.items()}
    with torch.device("meta"): sd = split_unet(StreamUNet(**FULL).state_dict())[0]
    assert to_single_file(sd).keys() == recorded.keys()


def test_folder_and_checkpoint_fill_every_weight(files, sd, pipe):
    motion = {
        k.removeprefix("module."): v for k, v in fetch(open_weights(files["motion"])).items() if not k.endswith(".pe")
    }
    assert same_state(pipe.unet.state_dict(), {k: v.float() for k, v in {**sd, **motion}.items()})
    out = list(pipe.stream(CLIP, prompt="a cat"))
    assert len(out) == len(CLIP) and out[-1].std() > 0


@pytest.mark.parametrize("kind", ["safetensors", "ckpt", "old ckpt", "lightning"])
def test_single_file(files, single, pipe, tmp_path, kind):
    path = single
    if kind != "safetensors":
        path, state = tmp_path / "style.ckpt", load_file(single)
        torch.save(
            {"state_dict": state, "global_step": 3, "epoch": 1} if kind == "lightning" else state,
            path,
            _use_new_zipfile_serialization=kind != "old ckpt",
        )
    other = Live2Diff.from_pretrained(
        path,
        motion=files["motion"],
        tokenizer=f"{files['name']}/tokenizer",
        unet_config=dict(attention_head_dim=4, norm_num_groups=8),
        **SMALL,
    )
    assert same_state(other.unet.state_dict(), pipe.unet.state_dict()) and same_state(
        other.text_encoder.state_dict(), pipe.text_encoder.state_dict()
    )
    assert same_state(
        other.vae.state_dict(), AutoencoderKL.from_pretrained(f"{files['name']}/vae").state_dict()
    ) and isinstance(other.vae, AutoencoderKL)
    assert other.vae.config.scaling_factor == 0.18215 and other.factor == 8


def test_full_vae_is_the_default_and_also_a_file(files, tmp_path):
    kl = Live2Diff.from_pretrained(files["name"], motion=files["motion"], **SMALL)
    assert isinstance(kl.vae, AutoencoderKL) and len(list(kl.stream(CLIP[:9]))) == 9
    save_file(ldm_vae(Path(files["name"]) / "vae"), tmp_path / "vae.safetensors")
    other = Live2Diff.from_pretrained(files["name"], motion=files["motion"], vae=tmp_path / "vae.safetensors", **SMALL)
    assert same_state(other.vae.state_dict(), kl.vae.state_dict())


def test_dreambooth_replaces_unet_text_and_vae_but_not_motion(files, single, pipe, tmp_path):
    state = {
        k: v + 1 if v.is_floating_point() else v for k, v in load_file(single).items() if "input_blocks.1." not in k
    }
    save_file(state, tmp_path / "style.safetensors")
    styled = Live2Diff.from_pretrained(
        files["name"], motion=files["motion"], dreambooth=tmp_path / "style.safetensors", **SMALL
    )
    before, after = pipe.unet.state_dict(), styled.unet.state_dict()
    assert torch.equal(after["conv_in.weight"], (before["conv_in.weight"].half() + 1).float())
    for kept in (
        "down_blocks.0.resnets.0.conv1.weight",
        *(k for k in before if "motion_modules" in k or "flow_conv_in" in k),
    ):
        assert torch.equal(after[kept], before[kept])
    assert all(
        torch.equal(v, (pipe.text_encoder.state_dict()[k].half() + 1).float())
        for k, v in styled.text_encoder.state_dict().items()
    )


def test_animatediff_motion_starts_with_depth_at_zero(files, tmp_path):
    state = {
        k.removeprefix("module."): v for k, v in fetch(open_weights(files["motion"])).items() if "flow_conv_in" not in k
    }
    state["mid_block.motion_modules.0.temporal_transformer.norm.weight"] = torch.ones(64)
    torch.save({"state_dict": state}, tmp_path / "mm_sd_v15_v2.ckpt")
    with pytest.warns(UserWarning, match="no depth adapter"):
        pipe = Live2Diff.from_pretrained(files["name"], motion=tmp_path / "mm_sd_v15_v2.ckpt", **SMALL)
    assert not pipe.unet.encode_depth(torch.randn(1, 4, 8, 8)).any() and len(pipe.unet.temporal_layers) > 0


def test_hub_id_out_of_the_cache(files, tmp_path, monkeypatch):
    "A repository as the hub's library keeps it is found without a network."
    import huggingface_hub.constants as constants
    store = tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    (store / "refs").mkdir(parents=True), (store / "snapshots").mkdir()
    (store / "refs" / "main").write_text("a" * 40)
    os.symlink(files["name"], store / "snapshots" / ("a" * 40))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path))
    pipe = Live2Diff.from_pretrained("stable-diffusion-v1-5", motion=files["motion"], **SMALL)
    assert pipe.unet.config.cross_attention_dim == 64
    with pytest.raises(ValueError, match="cannot be downloaded"): Live2Diff.from_pretrained("nobody/nothing", **SMALL)


def test_an_official_yaml_as_a_pipeline(files, pipe, tmp_path, monkeypatch):
    "A config over its base, with its paths, template, steps and window; and settings that win over it."
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "base_config.yaml").write_text(f"""
pretrained_model_path: "{files['name']}"
motion_module_path: "{files['motion']}"
unet_additional_kwargs:
  motion_module_kwargs: {{num_attention_heads: 8, attention_kwargs: {{window_size: 12, sink_size: 4}}}}
noise_scheduler_kwargs: {{num_train_timesteps: 1000, beta_start: 0.00085, beta_end: 0.011, beta_schedule: "linear",
                          steps_offset: 1, clip_sample: False}}
""")
    (tmp_path / "configs" / "style.yaml").write_text("""
base: "./configs/base_config.yaml"
prompt_template: "masterpiece, {}"
third_party_dict: {clip_skip: 2}
num_inference_steps: 50
t_index_list: [30, 36, 42]
""")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = Live2Diff.from_config(tmp_path / "configs" / "style.yaml", vae=files["vae"], **SMALL)
        other = Live2Diff.from_config(tmp_path / "configs" / "style.yaml", vae=files["vae"], clip_skip=1, **SMALL)
        fixed = Live2Diff.from_config(tmp_path / "configs" / "style.yaml", vae=files["vae"], noise="fixed", **SMALL)
    assert (made.window, made.warmup, made.clip_skip, other.clip_skip) == (12, 4, 2, 1)
    assert made.schedule == {"t_index_list": [30, 36, 42], "num_inference_steps": 50} and made.styles == {
        "style": "masterpiece, {prompt}"
    }
    assert fixed.noise == "fixed" and made.scheduler.config.beta_end == fixed.scheduler.config.beta_end == 0.011
    assert made.scheduler.config.beta_schedule == "linear" and made.unet.config.motion_heads == 8
    assert same_state(made.unet.state_dict(), pipe.unet.state_dict())
    out = list(made.stream(CLIP, prompt="a cat"))
    assert len(out) == len(CLIP) and out[-1].std() > 0


def test_saved_and_loaded_again_is_bit_identical(files, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    again = Live2Diff.from_pretrained(tmp_path / "saved", device="cpu")
    for part in ("unet", "vae", "text_encoder", "depth"):
        assert same_state(getattr(again, part).state_dict(), getattr(pipe, part).state_dict()), part
    a, b = (list(p.stream(CLIP, prompt="a dog", seed=3)) for p in (pipe, again))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_the_embedded_model_saves_and_loads_too(tmp_path):
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False)
    pipe.save_pretrained(tmp_path / "saved")
    again = Live2Diff.from_pretrained(tmp_path / "saved", device="cpu")
    a, b = (list(p.stream(CLIP, style="etching")) for p in (pipe, again))
    assert all(np.array_equal(x, y) for x, y in zip(a, b))


def test_settings_and_the_loras_of_styles_are_saved(tmp_path):
    lora = tmp_path / "ink.safetensors"
    lora.write_bytes(style_lora("etching").read_bytes())
    own = dict(styles={"ink": dict(prompt="{prompt}", lora={lora: 1.0}), "plain": "{prompt}"}, style="ink", fit="pad",
               change="soft", refresh="off", frames_per_step=2, order="sequential", strength=np.float32(0.5))
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False, **own)
    pipe.save_pretrained(tmp_path / "saved")
    before = list(pipe.stream(CLIP))
    lora.unlink()
    again = Live2Diff.from_pretrained(tmp_path / "saved", device="cpu")
    for name in ("style", "fit", "change", "refresh", "frames_per_step", "order", "strength"):
        assert getattr(again, name) == own[name], name
    assert all(np.array_equal(x, y) for x, y in zip(before, again.stream(CLIP)))
    pipe.style = None
    pipe.save_pretrained(tmp_path / "none")
    assert Live2Diff.from_pretrained(tmp_path / "none", device="cpu").style is None


def test_the_loras_of_a_style_are_merged_once():
    own = dict(styles={"ink": dict(prompt="{prompt}", lora={str(style_lora("etching")): 1.0})})
    pipe = Live2Diff.from_pretrained("tiny", device="cpu", height=64, width=64, graphs=False, **own)
    before = list(pipe.stream(CLIP))
    pipe.fuse_lora()
    assert all(np.array_equal(x, y) for x, y in zip(before, pipe.stream(CLIP))) and pipe.style == "ink"


def test_conversion_keeps_names_and_values(files, tmp_path):
    out = to_safetensors(files["motion"], tmp_path / "live2diff.safetensors")
    assert same_state(load_file(out), fetch(open_weights(files["motion"])))
    again = Live2Diff.from_pretrained(**{**files, "motion": out}, **SMALL)
    assert len(again.unet.temporal_layers) > 0


# ---- exact --------------------
def test_without_motion_it_is_diffusers_unet(files, sd):
    "One frame, no motion modules, depth at zero; and again with motion modules whose output is zero."
    reference = UNet2DConditionModel.from_pretrained(files["name"], subfolder="unet").float().eval()
    with pytest.warns(UserWarning): plain = Live2Diff.from_pretrained(files["name"], **SMALL).unet
    still = Live2Diff.from_pretrained(**files, **SMALL).unet
    for name, p in still.named_parameters():
        if "temporal_transformer.proj_out" in name: p.zero_()
    x, text, t = torch.randn(1, 4, 16, 16), torch.randn(1, 7, 64), torch.tensor([399])
    with torch.no_grad():
        wanted = reference(x, t, text).sample
        for unet in (plain, still):
            assert relative(unet(x, t, text, torch.zeros(1, 32, 16, 16), chunk_views(unet, 1)), wanted) <= 1e-5


@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.3), (torch.float16, 0.05)], ids=str)
def test_half_precision_runs_the_whole_way(files, pipe, dtype, bound):
    half = Live2Diff.from_pretrained(**files, **SMALL, dtype=dtype)
    assert all(
        p.dtype == dtype for part in (half.unet, half.vae, half.text_encoder, half.depth) for p in part.parameters()
    )
    single, out = (np.float32(list(p.stream(CLIP, prompt="a cat"))) for p in (pipe, half))
    error = np.linalg.norm(out - single) / np.linalg.norm(single)
    print(f"{dtype}: relative error of the pictures {error:.2e}, mean {np.abs(out - single).mean():.2f} grey levels")
    assert 0 <= error < bound


# ---- what is said about other files --------------------
class Evil:
    def __init__(self, mark): self.mark = mark
    def __reduce__(self): return os.system, (f"touch {self.mark}",)


def wrong_files(folder, files, single):
    "Name -> (argument, path, words that must be said)."
    good, half = Path(files["motion"]), single.read_bytes()
    state = fetch(open_weights(good))
    unet = load_file(f"{files['name']}/unet/diffusion_pytorch_model.safetensors")
    def put(name, write):
        write(folder / name)
        return folder / name
    def torch_file(name, content): return put(name, lambda path: torch.save(content, path))
    def safe_file(name, content): return put(name, lambda path: save_file(content, path))
    def raw(name, content): return put(name, lambda path: path.write_bytes(content))
    first = next(k for k in state if k.endswith("proj_in.weight"))
    return {
        "malicious": (
            "motion",
            torch_file("evil.ckpt", {"state_dict": Evil(folder / "it-ran")}),
            "nothing in it was run",
        ),
        "cut checkpoint": (
            "motion",
            raw("cut.ckpt", good.read_bytes()[: good.stat().st_size // 2]),
            "cut off or damaged",
        ),
        "cut single file": ("name", raw("cut.safetensors", half[: len(half) // 2]), "cut off or damaged"),
        "cut in the header": ("name", raw("head.safetensors", half[:100]), "cut off or damaged"),
        "empty": ("motion", raw("empty.ckpt", b""), "empty"),
        "web page": ("motion", raw("page.ckpt", b"<!DOCTYPE html><html><body>Sign in</body></html>"), "web page"),
        "pointer": (
            "name",
            raw("pointer.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "git lfs pull",
        ),
        "half downloaded": ("motion", raw("live2diff.ckpt.part", good.read_bytes()[:1000]), "half downloaded"),
        "missing file": ("motion", folder / "none.ckpt", "a file that exists"),
        "wrong shape": ("motion", torch_file("shape.ckpt", {**state, first: torch.ones(3, 3)}), "another architecture"),
        "too few": ("motion", torch_file("few.ckpt", {k: v for k, v in state.items() if k != first}), "1 missing"),
        "too many": (
            "motion",
            torch_file("many.ckpt", {**state, "extra.weight": torch.ones(1)}),
            "1 unexpected (extra.weight)",
        ),
        "learned positions": (
            "motion",
            torch_file("pe.ckpt", {**state, next(k for k in state if k.endswith(".pe")): torch.randn(1, 24, 32)}),
            "sinusoid",
        ),
        "no motion": ("motion", single, "no motion modules"),
        "motion as model": ("name", good, "no Stable Diffusion model"),
        "not named": ("motion", torch_file("list.pt", [torch.ones(1)]), "no named tensors"),
        "Stable Diffusion XL": (
            "name",
            safe_file("xl.safetensors", {"conditioner.embedders.0.x": torch.ones(1)}),
            "Stable Diffusion XL",
        ),
        "inpainting": (
            "name",
            safe_file("in.safetensors", {UNET + "input_blocks.0.0.weight": torch.ones(8, 9, 3, 3)}),
            "inpainting",
        ),
        "LoRA as model": (
            "name",
            safe_file("lora.safetensors", {"lora_unet_x.lora_up.weight": torch.ones(1, 1)}),
            "is a LoRA",
        ),
        "another prefix": (
            "motion",
            torch_file(
                "prefix.ckpt",
                {f"net.{k.removeprefix('module.')}": v for k, v in state.items() if not k.endswith(".pe")},
            ),
            "begin with 'net.'",
        ),
        "prefix module.": (
            "unet",
            safe_file("prefixed.safetensors", {f"module.{k}": v for k, v in unet.items()}),
            "module.",
        ),
        "a LoRA of another model": (
            "lora",
            safe_file(
                "other.safetensors",
                {"lora_unet_x.lora_up.weight": torch.ones(1, 1), "lora_unet_x.lora_down.weight": torch.ones(1, 1)},
            ),
            "for another model",
        ),
        "LoHa": ("lora", safe_file("loha.safetensors", {"lora_unet_x.hada_w1_a": torch.ones(1, 1)}), "LoHa"),
        "no VAE": ("vae", good, "no VAE"),
        "depth": ("depth", good, "do not fit"),
        "dreambooth": ("dreambooth", good, "no Stable Diffusion model"),
    }


def test_each_wrong_file_gets_one_sentence(files, single, tmp_path):
    for kind, (place, path, words) in wrong_files(tmp_path, files, single).items():
        if place == "unet":
            folder = tmp_path / "folder"
            os.makedirs(folder / "unet")
            (folder / "unet" / "config.json").write_bytes((Path(files["name"]) / "unet/config.json").read_bytes())
            (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(path.read_bytes())
            given = {"name": folder}
        else: given = {place: {str(path): 1.0} if place == "lora" else path}
        with warnings.catch_warnings(), pytest.raises((ValueError, FileNotFoundError)) as said:
            warnings.simplefilter("ignore")
            Live2Diff.from_pretrained(**{**files, **given}, **SMALL)
        text = str(said.value)
        assert words in text and len(text) < 700 and "\n" not in text and "Traceback" not in text, f"{kind}: {text}"
    assert not (tmp_path / "it-ran").exists()


def test_real_files_cannot_be_mixed_with_the_embedded_model(files):
    with pytest.raises(ValueError, match="cannot be given with the weights 'tiny'"):
        Live2Diff.from_pretrained("tiny", motion=files["motion"])


# ---- memory --------------------
def test_the_estimate_before_loading_is_that_of_the_loaded_pipeline(files, pipe):
    before = memory_before(files["name"], 64, 64, dtype=torch.float32, motion=files["motion"], vae=files["vae"])
    after = pipe.memory_estimate(64, 64, 2)
    assert {k: after[k] for k in ("unet", "vae", "text_encoder", "cache", "work")} == {
        k: before[k] for k in ("unet", "vae", "text_encoder", "cache", "work")
    }
    assert abs(before["depth"] - after["depth"]) < 0.02 * after["depth"]  # batch norms are folded


def test_what_cannot_fit_is_refused_with_what_would(files):
    with pytest.raises(
        ValueError, match="these would fit: height=(\\d+), width=(\\d+), steps=(\\d+), dtype=torch.(\\w+)"
    ) as said:
        Live2Diff.from_pretrained(**files, device="cpu", height=512, width=512, steps=4, memory_limit=200_000_000)
    import re

    height, width, steps, dtype = re.search(
        "height=(\\d+), width=(\\d+), steps=(\\d+), dtype=torch.(\\w+)", str(said.value)
    ).groups()
    fits = Live2Diff.from_pretrained(
        **files,
        device="cpu",
        height=int(height),
        width=int(width),
        steps=int(steps),
        dtype=getattr(torch, dtype),
        memory_limit=200_000_000,
    )
    assert sum(fits.memory_estimate().values()) <= 200_000_000
    with pytest.raises(ValueError, match="no setting"): Live2Diff.from_pretrained(**files, **SMALL, memory_limit=1000)


def test_a_vaes_file_may_hold_its_loss_and_an_average():
    alone = {"encoder.conv_in.weight": 0, "loss.logvar": 0, "model_ema.decay": 0}
    assert set(vae_part(alone)) == {"encoder.conv_in.weight"}
    whole = {"first_stage_model.encoder.conv_in.weight": 0, "model.diffusion_model.out.0.bias": 0}
    assert set(vae_part(whole)) == {"encoder.conv_in.weight"}
